package door

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/client"
	auditv1 "github.com/hanzoai/hanzod/gen/hanzo/audit/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
)

const screenGreeting = "RFB 003.008\n"

// fakeVNC greets as a VNC server does and says again what it is told; "bye" ends it.
func fakeVNC(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.WriteString(c, screenGreeting)
				buf := make([]byte, 32<<10)
				for {
					n, err := c.Read(buf)
					if err != nil || bytes.Equal(buf[:n], []byte("bye")) {
						return
					}
					_, _ = c.Write(buf[:n])
				}
			}()
		}
	}()
	return l.Addr().String()
}

// screenWorld is a daemon whose machine has a screen, and a node with another one.
type screenWorld struct {
	terminalWorld
}

func newScreenWorld(t *testing.T) *screenWorld {
	t.Helper()
	host, port, err := net.SplitHostPort(fakeVNC(t))
	if err != nil {
		t.Fatal(err)
	}
	d := hanzodtest.Start(t, hanzodtest.Options{
		Node: true, Config: map[string]any{"nodeHost": map[string]any{"screen": fakeVNC(t)}}, Env: map[string]string{"BOT_VNC_HOST": host, "BOT_VNC_PORT": port},
	})
	w := &screenWorld{terminalWorld{t: t, d: d}}
	if w.c, err = client.Dial(t.Context(), client.Options{Socket: d.Socket()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.c.Close() })
	for deadline := time.Now().Add(20 * time.Second); w.node == "" && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		l, err := w.c.Nodes.ListNodes(t.Context(), &nodesv1.ListNodesRequest{ConnectedOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if len(l.GetNodes()) > 0 {
			w.node = l.GetNodes()[0].GetNodeId()
		}
	}
	return w
}

func (w *screenWorld) open(path string, protocols []string, header http.Header) (*websocket.Conn, *http.Response, error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	return websocket.Dial(ctx, "ws://"+w.d.Addr()+path, &websocket.DialOptions{Subprotocols: protocols, HTTPHeader: header})
}

func (w *screenWorld) bearer() http.Header {
	return http.Header{"Authorization": {"Bearer " + w.d.Token}}
}

func (w *screenWorld) token(node string) string {
	w.t.Helper()
	var out struct{ Token string }
	path := "/v1/screen/tokens"
	if node != "" {
		path = "/v1/nodes/" + node + "/screen/tokens"
	}
	w.rest("POST", path, "{}", 200, &out)
	if len(out.Token) != 43 {
		w.t.Fatalf("token %q", out.Token)
	}
	return out.Token
}

// talks checks that bytes go both ways, and how the WebSocket closes when the server ends.
func talks(t *testing.T, ws *websocket.Conn, reason string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn := websocket.NetConn(ctx, ws, websocket.MessageBinary)
	got := make([]byte, len(screenGreeting))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != screenGreeting {
		t.Fatalf("%q, %v", got, err)
	}
	// More than fits between the two, in both directions at once.
	sent := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
	go func() { _, _ = conn.Write(sent) }()
	back := make([]byte, len(sent))
	if _, err := io.ReadFull(conn, back); err != nil || !bytes.Equal(back, sent) {
		t.Fatalf("what came back is not what was sent: %v", err)
	}
	if err := ws.Write(ctx, websocket.MessageBinary, []byte("bye")); err != nil {
		t.Fatal(err)
	}
	_, _, err := ws.Read(ctx)
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != websocket.StatusNormalClosure || closed.Reason != reason {
		t.Errorf("%v", err)
	}
}

func TestScreensByEveryDoor(t *testing.T) {
	t.Parallel()
	w := newScreenWorld(t)
	for _, of := range []struct{ node, query, reason string }{{"", "", "VNC server closed"}, {w.node, "?nodeId=" + w.node, "tunnel closed"}} {
		path := "/v1/screen"
		if of.node != "" {
			path = "/v1/nodes/" + of.node + "/screen"
		}
		var shown struct {
			Screen struct {
				NodeID       string `json:"nodeId"`
				Available    bool
				ViewerPath   string
				SocketPath   string
				Port         int
				Instructions []string
			}
		}
		w.rest("GET", path, "", 200, &shown)
		if s := shown.Screen; !s.Available || s.NodeID != of.node || s.ViewerPath != "/vnc-viewer" || s.SocketPath != "/vnc" || (s.Port == 0) != (of.node != "") {
			t.Errorf("%+v", s)
		}
		// The gateway's token, as clients of the original show it.
		ws, _, err := w.open("/vnc"+of.query, nil, w.bearer())
		if err != nil {
			t.Fatal(err)
		}
		talks(t, ws, of.reason)
		// A token that counts once.
		token := w.token(of.node)
		ws, _, err = w.open("/vnc"+of.query, []string{"binary", "hanzo-screen." + token}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if ws.Subprotocol() != "binary" {
			t.Errorf("subprotocol %q", ws.Subprotocol())
		}
		talks(t, ws, of.reason)
		if _, res, err := w.open("/vnc"+of.query, []string{"binary", "hanzo-screen." + token}, nil); err == nil || res.StatusCode != 401 {
			t.Errorf("a token was used twice: %v", err)
		}
		// gRPC.
		stream, err := w.c.Screens.Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&tunnelv1.ScreenServiceConnectRequest{Message: &tunnelv1.ScreenServiceConnectRequest_Connect{Connect: &tunnelv1.ScreenConnect{NodeId: of.node}}}); err != nil {
			t.Fatal(err)
		}
		if m, err := stream.Recv(); err != nil || m.GetConnected() == nil || m.GetConnected().GetNodeId() != of.node {
			t.Fatalf("%v, %v", m, err)
		}
		if m, err := stream.Recv(); err != nil || string(m.GetData()) != screenGreeting {
			t.Fatalf("%v, %v", m, err)
		}
		if err := stream.Send(&tunnelv1.ScreenServiceConnectRequest{Message: &tunnelv1.ScreenServiceConnectRequest_Data{Data: []byte("bye")}}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	}
	// A token is for one screen, and counts no more after a try with another one.
	token := w.token("")
	if _, res, err := w.open("/vnc?nodeId="+w.node, []string{"binary", "hanzo-screen." + token}, nil); err == nil || res.StatusCode != 403 {
		t.Errorf("%v", err)
	}
	if _, res, err := w.open("/vnc", []string{"binary", "hanzo-screen." + token}, nil); err == nil || res.StatusCode != 401 {
		t.Errorf("%v", err)
	}
	// Each look left two rows.
	opened, closed := 0, 0
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline) && (opened < 6 || closed < 6); time.Sleep(20 * time.Millisecond) {
		out, err := w.c.Audit.ListAudit(t.Context(), &auditv1.ListAuditRequest{})
		if err != nil {
			t.Fatal(err)
		}
		opened, closed = 0, 0
		for _, r := range out.GetRows() {
			switch r.GetKind() {
			case "screen.opened":
				opened++
			case "screen.closed":
				closed++
			}
		}
	}
	if opened != 6 || closed != 6 {
		t.Errorf("%d were opened and %d closed", opened, closed)
	}
	if strings.Contains(w.d.LogText(), token) {
		t.Error("a token is in the log")
	}
}

func TestScreenRefusals(t *testing.T) {
	t.Parallel()
	w := newScreenWorld(t)
	for name, c := range map[string]struct {
		path      string
		protocols []string
		header    http.Header
		status    int
	}{
		"nobody":           {"/vnc", nil, nil, 401},
		"nobody to a node": {"/vnc?nodeId=" + w.node, nil, nil, 401},
		"wrong token":      {"/vnc", nil, http.Header{"Authorization": {"Bearer nonsense"}}, 401},
		"wrong look":       {"/vnc", []string{"binary", "hanzo-screen.nonsense"}, nil, 401},
		"token in the URL": {"/vnc?token=" + w.d.Token, nil, w.bearer(), 400},
		"password in it":   {"/vnc?vncpw=x", nil, w.bearer(), 400},
		"foreign page":     {"/vnc", nil, http.Header{"Authorization": {"Bearer " + w.d.Token}, "Origin": {"https://evil.example"}}, 403},
		"cookie alone":     {"/vnc", nil, http.Header{"Cookie": {"hanzo_screen_x=y"}}, 401},
		"no call":          {"/vnc-tunnel", nil, nil, 404},
		"forged call":      {"/vnc-tunnel?tunnelId=a.b", nil, nil, 403},
	} {
		ws, res, err := w.open(c.path, c.protocols, c.header)
		if err == nil {
			_ = ws.CloseNow()
			t.Errorf("%s: let in", name)
			continue
		}
		if res == nil || res.StatusCode != c.status {
			t.Errorf("%s: %v, %v", name, res, err)
		}
	}
	ends := func(path string, code websocket.StatusCode, reason string) {
		t.Helper()
		ws, _, err := w.open(path, []string{"binary"}, w.bearer())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, _, err = ws.Read(ctx)
		var closed websocket.CloseError
		if !errors.As(err, &closed) || closed.Code != code || closed.Reason != reason {
			t.Errorf("%s: %v, want %d %q", path, err, code, reason)
		}
	}
	ends("/vnc?nodeId=nope", 4404, "node nope not in registry")
}

// A screen that nobody serves.
func TestNoScreen(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_ = l.Close()
	w := &screenWorld{terminalWorld{t: t, d: hanzodtest.Start(t, hanzodtest.Options{Env: map[string]string{"HANZOD_VNC_PORT": port}})}}
	var shown struct {
		Screen struct{ Available bool }
	}
	w.rest("GET", "/v1/screen", "", 200, &shown)
	if shown.Screen.Available {
		t.Error("a screen is there")
	}
	ws, _, err := w.open("/vnc", nil, w.bearer())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, _, err = ws.Read(ctx)
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != websocket.StatusInternalError || closed.Reason != "Cannot connect to VNC server at 127.0.0.1:"+port {
		t.Error(err)
	}
}

// A browser: nothing without a credential, then a session from a token that counts once, and tokens from it.
func TestScreenViewer(t *testing.T) {
	t.Parallel()
	w := newScreenWorld(t)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(c *http.Client, method, path, body string, header http.Header) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+w.d.Addr()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header.Clone()
		if req.Header == nil {
			req.Header = http.Header{}
		}
		if body != "" && req.Header.Get("Content-Type") == "" {
			req.Header.Set("Content-Type", "application/json")
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		return res, string(text)
	}
	stranger, browser := &http.Client{}, &http.Client{Jar: jar}
	page := "/vnc-viewer?nodeId=" + url.QueryEscape(w.node)
	for _, path := range []string{page, "/vnc-viewer", "/vnc-viewer/viewer.js", "/vnc-viewer/novnc/core/rfb.js", "/vnc-viewer/novnc/LICENSE.txt", "/vnc", "/v1/screen"} {
		res, text := ask(stranger, "GET", path, "", nil)
		if res.StatusCode != 401 || strings.Contains(text, w.node) || strings.Contains(text, "RFB") {
			t.Errorf("%s: %d %.80q", path, res.StatusCode, text)
		}
	}
	for _, body := range []string{`{}`, `{"token":"nope"}`, `{"nodeId":"` + w.node + `","token":"nope"}`} {
		if res, text := ask(stranger, "POST", "/vnc-viewer/session", body, nil); res.StatusCode != 401 || res.Header.Get("Set-Cookie") != "" {
			t.Errorf("%s: %d %s", body, res.StatusCode, text)
		}
	}
	if res, _ := ask(stranger, "POST", "/vnc-viewer/token", `{}`, nil); res.StatusCode != 401 {
		t.Error(res.Status)
	}
	token := w.token(w.node)
	body := `{"nodeId":"` + w.node + `","token":"` + token + `"}`
	if res, _ := ask(stranger, "POST", "/vnc-viewer/session", body, http.Header{"Content-Type": {"text/plain"}}); res.StatusCode != 400 {
		t.Error(res.Status)
	}
	if res, _ := ask(stranger, "POST", "/vnc-viewer/session", body, http.Header{"Origin": {"https://evil.example"}}); res.StatusCode != 403 {
		t.Error(res.Status)
	}
	res, text := ask(browser, "POST", "/vnc-viewer/session", body, http.Header{"Origin": {"http://" + w.d.Addr()}})
	cookie := res.Header.Get("Set-Cookie")
	if res.StatusCode != 204 || !strings.Contains(cookie, "Path=/vnc-viewer;") || !strings.Contains(cookie, "HttpOnly") || !strings.Contains(cookie, "SameSite=Strict") || strings.Contains(cookie, token) {
		t.Fatalf("%d %q %s", res.StatusCode, cookie, text)
	}
	if res, _ := ask(stranger, "POST", "/vnc-viewer/session", body, nil); res.StatusCode != 401 {
		t.Error("a token was used twice:", res.Status)
	}
	res, text = ask(browser, "GET", page, "", nil)
	if res.StatusCode != 200 || !strings.Contains(text, "viewer.js") || res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("Referrer-Policy") != "no-referrer" ||
		res.Header.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(res.Header.Get("Content-Security-Policy"), "frame-ancestors 'self'") ||
		!strings.Contains(res.Header.Get("Content-Security-Policy"), "script-src 'self'") || res.Header.Get("X-Frame-Options") != "" {
		t.Errorf("%d %v %.100q", res.StatusCode, res.Header, text)
	}
	if res, _ := ask(browser, "GET", "/vnc-viewer/novnc/core/rfb.js", "", nil); res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/javascript") {
		t.Error(res.Status, res.Header)
	}
	// The session is for that screen.
	if res, _ := ask(browser, "GET", "/vnc-viewer", "", nil); res.StatusCode != 401 {
		t.Error(res.Status)
	}
	if res, _ := ask(browser, "POST", "/vnc-viewer/token", `{}`, nil); res.StatusCode != 401 {
		t.Error(res.Status)
	}
	if res, _ := ask(browser, "POST", "/vnc-viewer/token", `{"nodeId":"`+w.node+`"}`, http.Header{"Origin": {"https://evil.example"}}); res.StatusCode != 403 {
		t.Error(res.Status)
	}
	res, text = ask(browser, "POST", "/vnc-viewer/token", `{"nodeId":"`+w.node+`"}`, nil)
	var got struct{ Token string }
	if err := json.Unmarshal([]byte(text), &got); err != nil || res.StatusCode != 200 || got.Token == "" {
		t.Fatalf("%d %s", res.StatusCode, text)
	}
	ws, _, err := w.open("/vnc?nodeId="+w.node, []string{"binary", "hanzo-screen." + got.Token}, nil)
	if err != nil {
		t.Fatal(err)
	}
	talks(t, ws, "tunnel closed")
	// The gateway's token in the place of one of hanzoctl screen.
	if res, _ := ask(stranger, "POST", "/vnc-viewer/session", `{}`, w.bearer()); res.StatusCode != 204 {
		t.Error(res.Status)
	}
}

// A node of the older kind is asked to come back, at an address that the request has no say in, with a token that counts
// once; and is told when nobody looks any more.
func TestScreenOfAnOlderNode(t *testing.T) {
	t.Parallel()
	d := hanzodtest.Start(t, hanzodtest.Options{})
	w := &screenWorld{terminalWorld{t: t, d: d}}
	asked := make(chan object, 8)
	refuse := false
	var mu sync.Mutex
	var c *legacy
	ready := make(chan struct{})
	c, hello := connect(t, d.WS(), params("node", d.Token, nil, object{
		"commands": []string{"system.run", "vnc.tunnel.open"}, "caps": []string{"system", "vnc"},
		"client": object{"id": "node-host", "version": "1", "platform": "linux", "mode": "node", "instanceId": "older"},
	}), func(name string, p object) {
		if name != "node.invoke.request" {
			return
		}
		<-ready
		mu.Lock()
		no := refuse
		mu.Unlock()
		if no {
			c.send("node.invoke.result", object{"id": p["id"], "nodeId": "older", "ok": false, "error": object{"code": "INVALID_REQUEST", "message": "no"}})
			return
		}
		c.send("node.invoke.result", object{"id": p["id"], "nodeId": "older", "ok": true, "payload": object{"ok": true}})
		var in object
		if p["command"] != "vnc.tunnel.open" || json.Unmarshal([]byte(fmt.Sprint(p["paramsJSON"])), &in) != nil {
			t.Errorf("%v", p)
		}
		asked <- in
	})
	close(ready)
	if hello["ok"] != true {
		t.Fatalf("%v", hello)
	}
	header := w.bearer()
	header.Set("X-Forwarded-Host", "evil.example")
	viewer, _, err := w.open("/vnc?nodeId=older", []string{"binary"}, header)
	if err != nil {
		t.Fatal(err)
	}
	defer viewer.CloseNow()
	var in object
	select {
	case in = <-asked:
	case <-time.After(20 * time.Second):
		t.Fatal("the node was not asked")
	}
	token, address := fmt.Sprint(in["tunnelId"]), fmt.Sprint(in["tunnelUrl"])
	if want := "ws://127.0.0.1:" + strconv.Itoa(d.Port()) + "/vnc-tunnel?tunnelId=" + token; address != want {
		t.Fatalf("the node is to come to %s, want %s", address, want)
	}
	if _, res, err := w.open("/vnc-tunnel?tunnelId="+token[:len(token)-2]+"00", nil, nil); err == nil || res.StatusCode != 403 {
		t.Errorf("%v", err)
	}
	back, _, err := websocket.Dial(t.Context(), address, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer back.CloseNow()
	if _, res, err := websocket.Dial(t.Context(), address, nil); err == nil || res == nil || res.StatusCode != 403 {
		t.Errorf("a node came twice: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	here, there := websocket.NetConn(ctx, viewer, websocket.MessageBinary), websocket.NetConn(ctx, back, websocket.MessageBinary)
	for _, way := range []struct{ from, to net.Conn }{{there, here}, {here, there}} {
		sent := bytes.Repeat([]byte("RFB 003."), 100_000)
		go func() { _, _ = way.from.Write(sent) }()
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(way.to, got); err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("what came is not what was sent: %v", err)
		}
	}
	_ = viewer.Close(websocket.StatusNormalClosure, "")
	_, _, err = back.Read(ctx)
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != websocket.StatusNormalClosure || closed.Reason != "tunnel closed" {
		t.Errorf("%v", err)
	}
	if strings.Contains(d.LogText(), token) {
		t.Error("the token is in the log")
	}
	mu.Lock()
	refuse = true
	mu.Unlock()
	if viewer, _, err = w.open("/vnc?nodeId=older", []string{"binary"}, w.bearer()); err != nil {
		t.Fatal(err)
	}
	if _, _, err = viewer.Read(ctx); !errors.As(err, &closed) || closed.Code != websocket.StatusInternalError || closed.Reason != "tunnel invoke failed: INVALID_REQUEST" {
		t.Errorf("%v", err)
	}
}

// screen.vnc of the legacy door says what the others do.
func TestScreenByTheLegacyDoor(t *testing.T) {
	t.Parallel()
	w := newScreenWorld(t)
	c, hello := connect(t, w.d.WS(), params("operator", w.d.Token, []string{"operator.admin"}, nil), nil)
	if hello["ok"] != true {
		t.Fatalf("%v", hello)
	}
	defer c.close()
	f := c.call("screen.vnc", object{})
	got, _ := f["payload"].(object)
	instructions, _ := got["instructions"].([]any)
	var shown struct {
		Screen struct{ Port int }
	}
	w.rest("GET", "/v1/screen", "", 200, &shown)
	if len(got) != 5 || got["available"] != true || got["viewerPath"] != "/vnc-viewer" || got["wsPath"] != "/vnc" || got["vncPort"] != float64(shown.Screen.Port) || len(instructions) != 4 {
		t.Errorf("%v", f)
	}
	r, hello := connect(t, w.d.WS(), params("operator", w.d.Token, []string{"operator.read"}, nil), nil)
	defer r.close()
	if f := r.call("screen.vnc", object{}); f["ok"] != false {
		t.Errorf("%v %v", hello, f)
	}
}
