package door

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/client"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
)

// terminalWorld is a daemon with a node of its own that runs everything.
type terminalWorld struct {
	t    *testing.T
	d    *hanzodtest.Daemon
	c    *client.Client
	node string
}

func newTerminalWorld(t *testing.T) *terminalWorld {
	t.Helper()
	return terminalWorldOf(t, hanzodtest.Options{})
}

func terminalWorldOf(t *testing.T, o hanzodtest.Options) *terminalWorld {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the programs of this test are those of Unix")
	}
	dir, err := os.MkdirTemp("", "hz")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.WriteFile(filepath.Join(dir, "exec-approvals.json"), []byte(`{"version":1,"defaults":{"security":"full","ask":"off"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	o.StateDir, o.Node = dir, true
	w := &terminalWorld{t: t, d: hanzodtest.Start(t, o)}
	if w.c, err = client.Dial(t.Context(), client.Options{Socket: w.d.Socket()}); err != nil {
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

// rest asks by REST and reads the answer into out.
func (w *terminalWorld) rest(method, path, body string, status int, out any) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, "http://"+w.d.Addr()+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.d.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	if res.StatusCode != status {
		w.t.Fatalf("%s %s: %d %s", method, path, res.StatusCode, text)
	}
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *terminalWorld) socket(id, query string, o *websocket.DialOptions) (*websocket.Conn, *http.Response, error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	return websocket.Dial(ctx, "ws://"+w.d.Addr()+"/v1/terminals/"+id+"/attach"+query, o)
}

// One terminal, opened by one door and used by all of them.
func TestTerminalsByEveryDoor(t *testing.T) {
	t.Parallel()
	w := newTerminalWorld(t)
	var opened struct {
		Terminal struct {
			TerminalID string `json:"terminalId"`
			SessionID  string `json:"sessionId"`
			Connected  bool
			Pid        string
		}
	}
	w.rest("POST", "/v1/terminals", `{"nodeId":"`+w.node+`","shell":"/bin/sh","cols":100,"rows":30}`, 200, &opened)
	id := opened.Terminal.TerminalID
	if id == "" || !opened.Terminal.Connected || opened.Terminal.Pid == "0" {
		t.Fatalf("%+v", opened)
	}
	stream, err := w.c.Terminals.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send := func(m *tunnelv1.TerminalServiceAttachRequest) {
		t.Helper()
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	zero := int64(0)
	send(&tunnelv1.TerminalServiceAttachRequest{Message: &tunnelv1.TerminalServiceAttachRequest_Attach{Attach: &tunnelv1.TerminalAttach{TerminalId: id, From: &zero, Record: true}}})
	if m, err := stream.Recv(); err != nil || m.GetAttached().GetTerminal().GetTerminalId() != id {
		t.Fatalf("%v, %v", m, err)
	}
	ws, _, err := w.socket(id, "?from=0", &websocket.DialOptions{Subprotocols: []string{
		"hanzo.terminal.v1", "hanzo.bearer." + base64.RawURLEncoding.EncodeToString([]byte(w.d.Token)),
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	if ws.Subprotocol() != "hanzo.terminal.v1" {
		t.Errorf("subprotocol %q", ws.Subprotocol())
	}
	ws.SetReadLimit(1 << 20)
	send(&tunnelv1.TerminalServiceAttachRequest{Message: &tunnelv1.TerminalServiceAttachRequest_Input{Input: []byte("stty -echo; PS1=; stty size\n")}})
	send(&tunnelv1.TerminalServiceAttachRequest{Message: &tunnelv1.TerminalServiceAttachRequest_Resize{Resize: &tunnelv1.TerminalSize{Cols: 120, Rows: 40}}})
	// What has been typed must have been run before the next line is, or the echo is still on.
	var byGRPC bytes.Buffer
	recv := func() bool {
		t.Helper()
		m, err := stream.Recv()
		if err != nil {
			t.Fatalf("%v after %q", err, byGRPC.String())
		}
		if e := m.GetExit(); e != nil {
			if e.Code == nil || e.GetCode() != 5 {
				t.Errorf("%v", e)
			}
			return false
		}
		if o := m.GetOutput(); o.GetSeq() != int64(byGRPC.Len()) {
			t.Fatalf("piece at %d after %d bytes", o.GetSeq(), byGRPC.Len())
		}
		byGRPC.Write(m.GetOutput().GetData())
		return true
	}
	for !strings.Contains(byGRPC.String(), "30 100") && !strings.Contains(byGRPC.String(), "40 120") {
		recv()
	}
	if err := ws.Write(t.Context(), websocket.MessageText, []byte(`{"resize":{"cols":90,"rows":20}}`)); err != nil {
		t.Fatal(err)
	}
	if err := ws.Write(t.Context(), websocket.MessageBinary, []byte("stty size\n")); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(byGRPC.String(), "20 90") {
		recv()
	}
	w.rest("POST", "/v1/terminals/"+id+"/size", `{"cols":77,"rows":22}`, 200, nil)
	w.rest("POST", "/v1/terminals/"+id+"/input", `{"text":"stty size; exit 5\n"}`, 200, nil)
	var listed struct {
		Terminals []struct {
			TerminalID string `json:"terminalId"`
			Viewers    int
		}
	}
	w.rest("GET", "/v1/terminals?node_id="+w.node, "", 200, &listed)
	if len(listed.Terminals) != 1 || listed.Terminals[0].TerminalID != id || listed.Terminals[0].Viewers != 2 {
		t.Errorf("%+v", listed)
	}
	for recv() { //nolint:revive // until the exit
	}
	if !strings.Contains(byGRPC.String(), "22 77") {
		t.Errorf("%q", byGRPC.String())
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	// The other viewer saw the same.
	var bySocket, texts bytes.Buffer
	for {
		kind, data, err := ws.Read(t.Context())
		if err != nil {
			if websocket.CloseStatus(err) != websocket.StatusNormalClosure {
				t.Error(err)
			}
			break
		}
		if kind == websocket.MessageBinary {
			bySocket.Write(data)
		} else {
			texts.Write(data)
		}
	}
	if !bytes.Equal(bySocket.Bytes(), byGRPC.Bytes()) {
		t.Errorf("%q\n%q", bySocket.Bytes(), byGRPC.Bytes())
	}
	for _, want := range []string{`"attached"`, `"exit"`, `"code":5`} {
		if !strings.Contains(strings.ReplaceAll(texts.String(), " ", ""), want) {
			t.Errorf("%s is not in %s", want, texts.String())
		}
	}
	// What ended is closed by hand, and is known no more.
	w.rest("DELETE", "/v1/terminals/"+id, "", 200, nil)
	w.rest("DELETE", "/v1/terminals/"+id, "", 404, nil)
}

func TestTerminalSocketRefusals(t *testing.T) {
	t.Parallel()
	w := newTerminalWorld(t)
	header := func(kv ...string) *websocket.DialOptions {
		h := http.Header{}
		for i := 0; i < len(kv); i += 2 {
			h.Set(kv[i], kv[i+1])
		}
		return &websocket.DialOptions{HTTPHeader: h}
	}
	bearer := "Bearer " + w.d.Token
	for name, c := range map[string]struct {
		query  string
		o      *websocket.DialOptions
		status int
	}{
		"no token":         {"", header(), 401},
		"wrong token":      {"", header("Authorization", "Bearer nonsense"), 401},
		"token in the URL": {"?token=" + w.d.Token, header(), 400},
		"foreign page":     {"", header("Authorization", bearer, "Origin", "https://evil.example"), 403},
		"bad query":        {"?from=x", header("Authorization", bearer), 400},
		"unknown query":    {"?shell=x", header("Authorization", bearer), 400},
		"unknown terminal": {"", header("Authorization", bearer), 404},
		"both tokens": {"", &websocket.DialOptions{
			HTTPHeader: http.Header{"Authorization": {bearer}}, Subprotocols: []string{"hanzo.bearer." + base64.RawURLEncoding.EncodeToString([]byte(w.d.Token))},
		}, 401},
	} {
		ws, res, err := w.socket("nope", c.query, c.o)
		if err == nil {
			_ = ws.CloseNow()
			t.Errorf("%s: it was let in", name)
			continue
		}
		if res == nil || res.StatusCode != c.status {
			t.Errorf("%s: %v, %v", name, res, err)
		}
	}
	w.rest("GET", "/v1/terminals/nope/attach", "", 426, nil)
}
