package web_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/hanzodtest"
)

// far makes a request come from another machine.
const far = "X-Forwarded-For: 203.0.113.7"

func get(t testing.TB, d *hanzodtest.Daemon, path string, header ...string) answer {
	t.Helper()
	return raw(t, d.Addr(), "GET", path, "", header...)
}

func TestCanvasFiles(t *testing.T) {
	d, canvas := start(t, nil)
	a := get(t, d, "/__openclaw__/canvas/")
	if a.status != 200 || a.header.Get("Content-Type") != "text/html; charset=utf-8" || !strings.Contains(a.body, "Nothing is here yet") {
		t.Errorf("without a directory: %d %v", a.status, a.header)
	}
	if _, err := os.Stat(canvas); err == nil {
		t.Error("the directory was made")
	}
	write(t, filepath.Join(canvas, "index.html"), "<html><body>Hi</BODY></html>")
	write(t, filepath.Join(canvas, "sub", "index.html"), "sub")
	write(t, filepath.Join(canvas, "empty", "x.bin"), "x")
	for name, kind := range map[string]string{
		"a.js": "text/javascript; charset=utf-8", "a.mjs": "text/javascript; charset=utf-8", "a.CSS": "text/css; charset=utf-8",
		"a.json": "application/json; charset=utf-8", "a.svg": "image/svg+xml", "a.png": "image/png", "a.wasm": "application/wasm",
		"a": "application/octet-stream", "a.unknown7": "application/octet-stream", "a b+é.txt": "text/plain; charset=utf-8",
	} {
		write(t, filepath.Join(canvas, name), "0123456789")
		a := get(t, d, "/__openclaw__/canvas/"+(strings.NewReplacer(" ", "%20", "é", "%C3%A9")).Replace(name))
		if a.status != 200 || a.body != "0123456789" || a.header.Get("Content-Type") != kind {
			t.Errorf("%s: %d %q %q", name, a.status, a.body, a.header.Get("Content-Type"))
		}
	}
	for _, path := range []string{"/__openclaw__/canvas", "/__openclaw__/canvas/", "/__bot__/canvas/index.html", "/__openclaw__/canvas/?x=1"} {
		a := get(t, d, path)
		if a.status != 200 || !strings.HasPrefix(a.body, "<html><body>Hi<script>") || !strings.HasSuffix(a.body, "</script>\n</BODY></html>") {
			t.Errorf("%s: %d %q", path, a.status, a.body)
		}
		for name, want := range map[string]string{
			"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin", "Last-Modified": "", "Etag": "",
		} {
			if a.header.Get(name) != want {
				t.Errorf("%s: %q", name, a.header.Get(name))
			}
		}
		if csp := a.header.Get("Content-Security-Policy"); !strings.Contains(csp, "frame-ancestors 'self'") || !strings.Contains(csp, "form-action https:;") {
			t.Errorf("policy %q", csp)
		}
	}
	if a := get(t, d, "/__openclaw__/canvas/sub/"); a.status != 200 || !strings.HasPrefix(a.body, "sub<script>") {
		t.Errorf("%d %q", a.status, a.body)
	}
	// No listing.
	if a := get(t, d, "/__openclaw__/canvas/empty/"); a.status != 404 || a.body != "not found" || a.header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%d %q", a.status, a.body)
	}
	// A part, and a head.
	if a := get(t, d, "/__openclaw__/canvas/a", "Range: bytes=2-4"); a.status != 206 || a.body != "234" {
		t.Errorf("%d %q", a.status, a.body)
	}
	a = raw(t, d.Addr(), "HEAD", "/__openclaw__/canvas/a", "")
	if a.status != 200 || a.body != "" || a.header.Get("Content-Length") != "10" {
		t.Errorf("%d %v", a.status, a.header)
	}
	if a := get(t, d, "/__openclaw__/ws"); a.status != 426 || a.body != "upgrade required" {
		t.Errorf("%d %q", a.status, a.body)
	}
	// Large files are sent whole.
	big := strings.Repeat("0123456789abcdef", 1<<17)
	write(t, filepath.Join(canvas, "big.bin"), big)
	if a := get(t, d, "/__openclaw__/canvas/big.bin"); a.body != big {
		t.Errorf("%d bytes of %d", len(a.body), len(big))
	}
	// Neither a pipe nor a directory is a page, and nobody waits for them.
	if runtime.GOOS != "windows" {
		mkfifo(t, filepath.Join(canvas, "pipe"))
		if a := get(t, d, "/__openclaw__/canvas/pipe"); a.status != 404 {
			t.Errorf("%d", a.status)
		}
	}
}

func TestCanvasOff(t *testing.T) {
	d, _ := start(t, func(_ *hanzodtest.Options, cfg object) { cfg["canvasHost"] = object{"enabled": false} })
	for _, path := range []string{"/__openclaw__/canvas/", "/__openclaw__/a2ui/", "/__openclaw__/ws"} {
		if a := get(t, d, path); a.status != 404 || a.body != "Not Found" {
			t.Errorf("%s: %d %q", path, a.status, a.body)
		}
	}
	n := connect(t, d, "node-host")
	if n.canvasURL != "" {
		t.Errorf("URL %q", n.canvasURL)
	}
	if _, err := n.refresh(t); err != "UNAVAILABLE canvas host unavailable for this node session" {
		t.Error(err)
	}
}

func TestNoLiveReload(t *testing.T) {
	d, canvas := start(t, func(_ *hanzodtest.Options, cfg object) { cfg["canvasHost"].(object)["liveReload"] = false })
	write(t, filepath.Join(canvas, "index.html"), "Hi")
	if a := get(t, d, "/__openclaw__/ws"); a.status != 404 || a.body != "not found" {
		t.Errorf("%d %q", a.status, a.body)
	}
	if a := get(t, d, "/__openclaw__/ws", upgrade()...); a.status != 404 {
		t.Errorf("%d %q", a.status, a.body)
	}
	if a := get(t, d, "/__openclaw__/canvas/"); strings.Contains(a.body, "<script>") {
		t.Errorf("%q", a.body)
	}
}

func TestA2UI(t *testing.T) {
	d, _ := start(t, nil)
	if a := get(t, d, "/__openclaw__/a2ui/"); a.status != 503 || a.body != "A2UI assets not found" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %q", a.status, a.body)
	}
	write(t, filepath.Join(d.StateDir, "a2ui", "index.html"), "<body>app</body>")
	write(t, filepath.Join(d.StateDir, "a2ui", "a2ui.bundle.js"), "js")
	for path, want := range map[string]string{
		"/__openclaw__/a2ui/": "<body>app<script>", "/__bot__/a2ui": "<body>app<script>", "/__openclaw__/a2ui/a2ui.bundle.js?v=1": "js",
	} {
		if a := get(t, d, path); a.status != 200 || !strings.HasPrefix(a.body, want) {
			t.Errorf("%s: %d %q", path, a.status, a.body)
		}
	}
	for _, path := range []string{"/__openclaw__/a2ui/nope", "/__openclaw__/a2ui/..%2fconfig.json", "/__openclaw__/a2ui/../config.json"} {
		if a := get(t, d, path); a.status != 404 || a.body != "not found" {
			t.Errorf("%s: %d %q", path, a.status, a.body)
		}
	}
}

// Pages of other sites must not have a browser on this machine fetch what is here.
func TestCanvasAndOtherSites(t *testing.T) {
	d, canvas := start(t, nil)
	write(t, filepath.Join(canvas, "a.txt"), "A")
	port := d.Addr()[strings.LastIndex(d.Addr(), ":"):]
	for _, c := range []struct {
		name   string
		header []string
		status int
	}{
		{"this machine", nil, 200},
		{"by name", []string{"Host: localhost" + port}, 200},
		{"tailnet name", []string{"Host: gw.tail.ts.net"}, 200},
		{"own page", []string{"Sec-Fetch-Site: same-origin"}, 200},
		{"own page, origin", []string{"Origin: http://" + d.Addr(), "Sec-Fetch-Site: same-origin"}, 200},
		{"typed in", []string{"Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}, 200},
		{"link", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}, 200},
		{"image", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"}, 401},
		{"frame", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"}, 401},
		{"same site", []string{"Sec-Fetch-Site: same-site"}, 401},
		{"foreign origin", []string{"Origin: https://evil.example"}, 401},
		{"no origin to tell", []string{"Origin: null"}, 401},
		{"rebinding", []string{"Host: evil.example" + port}, 401},
		{"rebinding, origin", []string{"Host: evil.example" + port, "Origin: http://evil.example" + port}, 401},
		{"proxy", []string{far}, 401},
		{"proxy, bearer", []string{far, bearer(hanzodtest.Token)}, 200},
		{"proxy, wrong bearer", []string{far, bearer("x")}, 401},
		{"foreign page, bearer", []string{"Origin: https://evil.example", bearer(hanzodtest.Token)}, 200},
	} {
		a := get(t, d, "/__openclaw__/canvas/a.txt", c.header...)
		if a.status != c.status {
			t.Errorf("%s: %d %q", c.name, a.status, a.body)
		}
		if a.status == 401 && a.body != `{"error":{"message":"Unauthorized","type":"unauthorized"}}` {
			t.Errorf("%s: %q", c.name, a.body)
		}
	}
}

// node is a node that is connected by the legacy door.
type node struct {
	ws        *websocket.Conn
	canvasURL string
}

func connect(t testing.TB, d *hanzodtest.Daemon, client string) *node {
	t.Helper()
	ws, _, err := websocket.Dial(t.Context(), d.WS(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.CloseNow() })
	ws.SetReadLimit(1 << 20)
	n := &node{ws: ws}
	hello := n.call(t, "c", "connect", object{
		"minProtocol": 3, "maxProtocol": 3, "role": "node", "commands": []string{}, "caps": []string{"canvas"},
		"client": object{"id": client, "version": "1", "platform": "ios", "mode": "node"}, "auth": object{"token": hanzodtest.Token},
	})
	if hello.Error != nil {
		t.Fatalf("%s: %+v", client, hello.Error)
	}
	n.canvasURL, _ = hello.Payload["canvasHostUrl"].(string)
	return n
}

type response struct {
	ID      string
	Payload object
	Error   *struct{ Code, Message string }
}

func (n *node) call(t testing.TB, id, method string, params object) response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	frame, err := json.Marshal(object{"type": "req", "id": id, "method": method, "params": params})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.ws.Write(ctx, websocket.MessageText, frame); err != nil {
		t.Fatal(err)
	}
	for {
		_, data, err := n.ws.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var r response
		if err := json.Unmarshal(data, &r); err != nil {
			t.Fatal(err)
		}
		if r.ID == id {
			return r
		}
	}
}

func (n *node) refresh(t testing.TB) (payload object, failure string) {
	t.Helper()
	r := n.call(t, fmt.Sprint(time.Now().UnixNano()), "node.canvas.capability.refresh", object{})
	if r.Error != nil {
		return nil, r.Error.Code + " " + r.Error.Message
	}
	n.canvasURL, _ = r.Payload["canvasHostUrl"].(string)
	return r.Payload, ""
}

// path is the part of the canvas URL behind the host.
func (n *node) path(t testing.TB, d *hanzodtest.Daemon) string {
	t.Helper()
	p, ok := strings.CutPrefix(n.canvasURL, d.URL())
	if !ok {
		t.Fatalf("canvas URL %q", n.canvasURL)
	}
	return p
}

// A capability opens the canvas host, slides with use, is replaced by the next and ends with its
// connection.
func TestCapabilities(t *testing.T) {
	now := time.Now()
	var mu sync.Mutex
	pass := func(d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(d)
	}
	d, canvas := start(t, func(o *hanzodtest.Options, _ object) {
		o.Now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return now
		}
	})
	write(t, filepath.Join(canvas, "a.txt"), "A")
	n := connect(t, d, "openclaw-ios")
	first := n.path(t, d)
	token, ok := strings.CutPrefix(first, "/__openclaw__/cap/")
	if !ok || len(token) != 24 {
		t.Fatalf("path %q", first)
	}
	want := func(status int, path string, header ...string) {
		t.Helper()
		if a := get(t, d, path, append(header, far)...); a.status != status {
			t.Errorf("%s: %d %q, want %d", path, a.status, a.body, status)
		}
	}
	want(200, first+"/__openclaw__/canvas/a.txt")
	want(200, first+"/__bot__/canvas/a.txt")
	want(200, "/__bot__/cap/"+token+"/__openclaw__/canvas/a.txt")
	want(200, "/__openclaw__/canvas/a.txt?x=1&oc_cap="+token)
	want(200, first+"/__openclaw__/canvas/a.txt", "Origin: null") // of a web view
	want(200, first+"/__openclaw__/canvas/a.txt", bearer("wrong"))
	want(404, first+"/__openclaw__/canvas/nope")
	want(401, "/__openclaw__/canvas/a.txt")
	want(401, "/__openclaw__/canvas/a.txt?oc_cap=")
	want(401, "/__openclaw__/cap/"+token[:23]+"/__openclaw__/canvas/a.txt")
	want(401, "/__openclaw__/cap/"+strings.ToLower(token)+"x/__openclaw__/canvas/a.txt")
	want(401, "/__openclaw__/cap/"+strings.Repeat("A", 8000)+"/__openclaw__/canvas/a.txt")
	// It is for the canvas host only.
	for _, path := range []string{"/tools/invoke", "/hooks/wake", "/v1/nodes", "/metrics", "/api/channels/x"} {
		a := raw(t, d.Addr(), "POST", first+path, "{}", far)
		if path == "/v1/nodes" || path == "/metrics" {
			a = get(t, d, first+path, far)
		}
		if a.status != 401 {
			t.Errorf("%s: %d %q", path, a.status, a.body)
		}
	}
	for range 3 { // each use counts anew
		pass(9 * time.Minute)
		want(200, first+"/__openclaw__/canvas/a.txt")
	}
	pass(10 * time.Minute)
	want(401, first+"/__openclaw__/canvas/a.txt")

	payload, failure := n.refresh(t)
	if failure != "" || payload["canvasCapability"] == token || n.path(t, d) != "/__openclaw__/cap/"+payload["canvasCapability"].(string) {
		t.Fatalf("%v %s", payload, failure)
	}
	mu.Lock()
	expires := now.Add(10 * time.Minute).UnixMilli()
	mu.Unlock()
	if got := int64(payload["canvasCapabilityExpiresAtMs"].(float64)); got != expires {
		t.Errorf("expires at %d, want %d", got, expires)
	}
	second := n.path(t, d)
	want(200, second+"/__openclaw__/canvas/a.txt")
	n.refresh(t)
	want(401, second+"/__openclaw__/canvas/a.txt")
	want(200, n.path(t, d)+"/__openclaw__/canvas/a.txt")

	// Another node's is its own.
	other := connect(t, d, "openclaw-android")
	want(200, other.path(t, d)+"/__openclaw__/canvas/a.txt")
	n.ws.CloseNow()
	until(t, func() bool { return get(t, d, n.path(t, d)+"/__openclaw__/canvas/a.txt", far).status == 401 })
	want(200, other.path(t, d)+"/__openclaw__/canvas/a.txt")
	if strings.Contains(d.LogText(), token) {
		t.Error("a capability is in the log")
	}
}

func until(t testing.TB, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen")
		}
		select {
		case <-t.Context().Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// page is a page that waits for changes.
func page(t testing.TB, d *hanzodtest.Daemon, path string, header http.Header) (*websocket.Conn, int) {
	t.Helper()
	ws, res, err := websocket.Dial(t.Context(), d.WS()+path, &websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		if res == nil {
			t.Fatal(err)
		}
		return nil, res.StatusCode
	}
	t.Cleanup(func() { ws.CloseNow() })
	return ws, 101
}

func TestLiveReload(t *testing.T) {
	d, canvas := start(t, nil)
	n := connect(t, d, "openclaw-macos")
	away := http.Header{"X-Forwarded-For": {"203.0.113.7"}}
	local, _ := page(t, d, "/__openclaw__/ws", nil)
	hanzo, _ := page(t, d, "/__bot__/ws", nil)
	remote, status := page(t, d, n.path(t, d)+"/__openclaw__/ws", away)
	if local == nil || hanzo == nil || remote == nil {
		t.Fatalf("status %d", status)
	}
	reload := func(ws *websocket.Conn, change func()) {
		t.Helper()
		change()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, data, err := ws.Read(ctx); err != nil || string(data) != "reload" {
			t.Fatalf("%q, %v", data, err)
		}
	}
	// The directory is found when somebody makes it, and what is below it.
	reload(local, func() { write(t, filepath.Join(canvas, "index.html"), "1") })
	reload(hanzo, func() {})
	reload(remote, func() {})
	reload(local, func() { write(t, filepath.Join(canvas, "index.html"), "2") })
	reload(remote, func() {})
	reload(local, func() { write(t, filepath.Join(canvas, "deep", "er", "a.css"), "1") })
	reload(local, func() { write(t, filepath.Join(canvas, "deep", "er", "a.css"), "2") })
	reload(local, func() {
		if err := os.Remove(filepath.Join(canvas, "index.html")); err != nil {
			t.Fatal(err)
		}
	})
	// The right of a page ends with that of its node.
	n.ws.CloseNow()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		if _, _, err := remote.Read(ctx); err != nil {
			if websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
				t.Errorf("ended with %v", err)
			}
			break
		}
	}
	// Foreign pages, and those without a right.
	for name, header := range map[string]http.Header{
		"foreign":    {"Origin": {"https://evil.example"}},
		"cross-site": {"Sec-Fetch-Site": {"cross-site"}},
		"far":        away,
		"rebinding":  {"Origin": {"http://evil.example"}, "X-Forwarded-For": {"10.0.0.1"}},
	} {
		if _, status := page(t, d, "/__openclaw__/ws", header); status != 401 {
			t.Errorf("%s: %d", name, status)
		}
	}
	if _, status := page(t, d, "/__openclaw__/ws", http.Header{
		"Origin": {"https://evil.example"}, "Authorization": {"Bearer " + hanzodtest.Token},
	}); status != 403 {
		t.Errorf("foreign page with a bearer: %d", status)
	}
}

// No more pages wait than the bound says, and a place is free when one leaves.
func TestManyPages(t *testing.T) {
	d, _ := start(t, nil)
	var all []*websocket.Conn
	for {
		ws, status := page(t, d, "/__openclaw__/ws", nil)
		if ws == nil {
			if status != 503 {
				t.Errorf("status %d", status)
			}
			break
		}
		if all = append(all, ws); len(all) > 64 {
			t.Fatal("no bound")
		}
	}
	if len(all) != 64 {
		t.Errorf("%d pages", len(all))
	}
	all[0].CloseNow()
	until(t, func() bool {
		_, status := page(t, d, "/__openclaw__/ws", nil)
		return status == 101
	})
}

// A reader that takes nothing of a large file does not keep others from theirs.
func TestSlowReader(t *testing.T) {
	d, canvas := start(t, nil)
	write(t, filepath.Join(canvas, "big.bin"), strings.Repeat("x", 8<<20))
	write(t, filepath.Join(canvas, "a.txt"), "A")
	for range 20 {
		c := dial(t, d.Addr())
		defer c.Close()
		if _, err := io.WriteString(c, "GET /__openclaw__/canvas/big.bin HTTP/1.1\r\nHost: "+d.Addr()+"\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	if a := get(t, d, "/__openclaw__/canvas/a.txt"); a.body != "A" || time.Since(began) > 2*time.Second {
		t.Errorf("%q after %v", a.body, time.Since(began))
	}
}
