//go:build unix

package acceptance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/compat/dial"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

type object = map[string]any

// bridgeCommands are what the bridge registers.
var bridgeCommands = []string{"chat.send", "exec.run", "status.get", "session.checkpoint", "session.restore", "session.list"}

// linkDaemon runs a daemon on which the commands of the bridge need no approval.
func linkDaemon(t *testing.T, more object) *proc.Daemon {
	t.Helper()
	config := object{"gateway": object{
		"auth": object{"mode": "token", "token": proc.Token}, "nodes": object{"allowCommands": append([]string{"my.command"}, bridgeCommands...)},
	}}
	maps.Copy(config, more)
	return proc.Start(t, proc.Options{Config: config})
}

// register is the first frame of an instance that is like the bridge.
func register(id string, more object) object {
	f := object{
		"type": "register", "instance_id": id, "app_kind": "dev", "display_name": "agent@host", "capabilities": []string{"chat", "exec", "tools", "terminal"},
		"commands": bridgeCommands, "version": "0.2.0", "platform": "linux-x86_64", "cwd": "/workspace",
	}
	maps.Copy(f, more)
	return f
}

// link is an instance of the test's own.
type link struct {
	t  *testing.T
	ws *websocket.Conn
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// dialLink opens a link; path begins with a slash.
func dialLink(t *testing.T, d *proc.Daemon, path string, header http.Header) *link {
	t.Helper()
	l, err := tryLink(t, d.WS()+path, header, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func tryLink(t *testing.T, url string, header http.Header, client *http.Client) (*link, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPHeader: header, HTTPClient: client})
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(1 << 20)
	t.Cleanup(func() { _ = ws.CloseNow() })
	return &link{t, ws}, nil
}

func (l *link) send(frame any) {
	l.t.Helper()
	text, err := json.Marshal(frame)
	if err == nil {
		err = l.ws.Write(context.Background(), websocket.MessageText, text)
	}
	if err != nil {
		l.t.Error(err)
	}
}

// receive is the next frame, or the error with which the link ended.
func (l *link) receive(limit time.Duration) (object, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	typ, text, err := l.ws.Read(ctx)
	if err != nil {
		return nil, err
	}
	var f object
	if err := json.Unmarshal(text, &f); err != nil || typ != websocket.MessageText {
		return nil, fmt.Errorf("%v %s: %w", typ, text, err)
	}
	return f, nil
}

// want receives a frame of a type.
func (l *link) want(typ string) object {
	l.t.Helper()
	f, err := l.receive(15 * time.Second)
	if err != nil || f["type"] != typ {
		l.t.Fatalf("got %v, %v; want a frame of type %s", f, err, typ)
	}
	return f
}

// closed demands that the link ends with a code and a reason.
func (l *link) closed(code websocket.StatusCode, reason string, limit time.Duration) {
	l.t.Helper()
	f, err := l.receive(limit)
	var end websocket.CloseError
	if !errors.As(err, &end) || end.Code != code || !strings.Contains(end.Reason, reason) {
		l.t.Fatalf("got %v, %v; want the end with %d %q", f, err, code, reason)
	}
}

// serve answers commands until the link ends.
func (l *link) serve(answer func(command object) object) {
	for {
		f, err := l.receive(time.Hour)
		if err != nil {
			return
		}
		if f["type"] != "command" {
			continue
		}
		out := answer(f)
		if out == nil {
			continue
		}
		out["type"], out["id"] = "response", f["id"]
		text, _ := json.Marshal(out) // of JSON
		if l.ws.Write(context.Background(), websocket.MessageText, text) != nil {
			return
		}
	}
}

// rest calls the REST door as the owner.
func rest(t *testing.T, d *proc.Daemon, verb, path string, body any) (int, object) {
	t.Helper()
	return restAs(t, d, proc.Token, verb, path, body)
}

func restAs(t *testing.T, d *proc.Daemon, token, verb, path string, body any) (int, object) {
	t.Helper()
	var in io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		in = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(context.Background(), verb, d.URL()+path, in)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var out object
	_ = json.Unmarshal(text, &out) // not every answer is one
	return res.StatusCode, out
}

// listed are the connected nodes, by id.
func listed(t *testing.T, d *proc.Daemon) map[string]object {
	t.Helper()
	code, out := rest(t, d, "GET", "/v1/nodes", nil)
	if code != http.StatusOK {
		t.Fatal(code, out)
	}
	nodes := map[string]object{}
	all, _ := out["nodes"].([]any)
	for _, n := range all {
		if n := n.(object); n["connected"] == true {
			nodes[n["nodeId"].(string)] = n
		}
	}
	return nodes
}

// joined waits until a node is connected.
func joined(t *testing.T, d *proc.Daemon, id string) object {
	t.Helper()
	var n object
	proc.Until(t, id+" is linked", func() bool { n = listed(t, d)[id]; return n != nil })
	return n
}

// python is an interpreter with the library that the bridge stands on.
func python(t *testing.T, row string) string {
	t.Helper()
	const path = "/usr/bin/python3"
	if err := exec.Command(path, "-c", "import websockets").Run(); err != nil {
		notHere(t, row, "python3-websockets is not installed")
	}
	return path
}

// agent starts testdata/agent.py.
func agent(t *testing.T, row, id, url string, env ...string) *proc.Command {
	t.Helper()
	script, err := filepath.Abs("testdata/agent.py")
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	env = append([]string{"TUNNEL_URL=" + url, "INSTANCE_ID=" + id, "WORKSPACE_DIR=" + work, "USER=agent", "FRAMES=1"}, env...)
	return proc.RunGroup(t, work, python(t, row), env, nil, script)
}

// withToken is an address with a token as its password.
func withToken(d *proc.Daemon, path, token string) string {
	return "ws://x:" + token + "@" + d.Addr() + path
}

func TestH1Registration(t *testing.T) {
	accept(t, "H1")
	d := linkDaemon(t, nil)
	a := agent(t, "H1", "agent-a", withToken(d, "/v1/tunnel", proc.Token))
	n := joined(t, d, "agent-a")
	proc.Until(t, "the agent says so", func() bool {
		return strings.Contains(a.Stdout.String(), "Connected! View at: https://app.hanzo.bot/nodes/agent-a\n")
	})
	if got := n["commands"].([]any); len(got) != 6 {
		t.Errorf("commands %v", got)
	}
	code, one := rest(t, d, "GET", "/v1/nodes/agent-a/instance", nil)
	text, _ := json.Marshal(one)
	for _, want := range []string{`"dev"`, `"cwd"`, "linux-", "exec.run", "https://app.hanzo.bot/nodes/agent-a"} {
		if code != 200 || !strings.Contains(string(text), want) {
			t.Errorf("%d %s lacks %s", code, text, want)
		}
	}
	code, out := rest(t, d, "POST", "/v1/nodes/agent-a/invoke", object{"command": "exec.run", "params": object{"command": "echo hello; exit 3"}})
	if p, _ := out["payload"].(object); code != 200 || p["stdout"] != "hello\n" || p["exitCode"] != 3.0 {
		t.Errorf("%d %v", code, out)
	}
}

func TestH2EarlyFrames(t *testing.T) {
	accept(t, "H2")
	d := linkDaemon(t, nil)
	l := dialLink(t, d, "/v1/tunnel", bearer(proc.Token))
	l.send(object{"type": "response", "id": "x", "ok": true}) // left out
	l.send(object{"type": "ping"})
	l.want("pong")
	l.send(register("early", nil))
	if f := l.want("registered"); f["instance_id"] != "early" || f["session_url"] != "https://app.hanzo.bot/nodes/early" {
		t.Error(f)
	}
	l.send(register("second", nil)) // left out
	l.send(object{"type": "ping"})
	l.want("pong")
	if n := listed(t, d); n["early"] == nil || n["second"] != nil {
		t.Error(n)
	}
	// The agent sees nothing before its answer.
	a := agent(t, "H2", "agent-a", withToken(d, "/v1/tunnel", proc.Token))
	joined(t, d, "agent-a")
	proc.Until(t, "the agent has an answer", func() bool { return strings.Contains(a.Stdout.String(), "Connected!") })
	first := ""
	for line := range strings.Lines(a.Stdout.String()) {
		if strings.HasPrefix(line, "IN ") {
			first = line
			break
		}
	}
	if !strings.HasPrefix(first, `IN {"type":"registered","instance_id":"agent-a"`) {
		t.Errorf("the first frame is %q", first)
	}
	// What is no frame ends nothing; what is no text does.
	for _, text := range []string{"nonsense", "[]", `{"type":"x"}`, `{"type":"event"}`} {
		if err := l.ws.Write(context.Background(), websocket.MessageText, []byte(text)); err != nil {
			t.Error(err)
		}
	}
	l.send(object{"type": "ping"})
	l.want("pong")
	_ = l.ws.Write(context.Background(), websocket.MessageBinary, []byte{1}) // refused next
	l.closed(websocket.StatusUnsupportedData, "text", 5*time.Second)
	// Nobody registers, and of two links that were dropped nobody knows which one it is: sent away after ten
	// seconds.
	two := dialLink(t, d, "/v1/tunnel", bearer(proc.Token))
	two.send(register("two", nil))
	two.want("registered")
	_ = two.ws.Close(websocket.StatusNormalClosure, "")
	silent := dialLink(t, d, "/v1/tunnel", bearer(proc.Token))
	began := time.Now()
	silent.closed(4001, "handshake timeout", 12*time.Second)
	if took := time.Since(began); took < 9*time.Second {
		t.Errorf("after %v", took)
	}
}

// exchange is a recorded command with its answer.
type exchange struct {
	note     string
	register object
	method   string
	params   json.RawMessage
	response object
}

// exchanges are those of a recording that an instance sees.
func exchanges(t *testing.T, file string) (out []exchange) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	reg := register("agent-x", nil)
	open := map[string]exchange{}
	for lines.Scan() {
		var line struct {
			Dir, Note string
			Frame     json.RawMessage
		}
		var frame struct {
			Type, ID, Method string
			Params           json.RawMessage
		}
		if json.Unmarshal(lines.Bytes(), &line) != nil || json.Unmarshal(line.Frame, &frame) != nil {
			t.Fatalf("%s: %s", file, lines.Text())
		}
		var whole object
		_ = json.Unmarshal(line.Frame, &whole) // as above
		switch {
		case line.Dir == "out" && frame.Type == "register":
			reg = whole
		case line.Dir == "in" && frame.Type == "command":
			open[frame.ID] = exchange{line.Note, reg, frame.Method, frame.Params, nil}
		case line.Dir == "out" && frame.Type == "response":
			if e, ok := open[frame.ID]; ok {
				e.response = whole
				out = append(out, e)
				delete(open, frame.ID)
			}
		}
	}
	return out
}

// linkFixtures are the recordings: those of the repository, and those that LINK_FIXTURES names.
func linkFixtures() []string {
	out := []string{"../../fixtures/tunnel/agent-bridge.jsonl"}
	if more := os.Getenv("LINK_FIXTURES"); more != "" {
		out = append(out, filepath.SplitList(more)...)
	}
	return out
}

// outcome is the end of an invoke by any door: the payload, or the text of the failure.
type outcome struct {
	payload any
	text    *string
	failure string
}

func TestH3Recordings(t *testing.T) {
	accept(t, "H3")
	d := linkDaemon(t, nil)
	op, err := dial.Dial(t.Context(), d.Operator(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer op.Close()
	g := d.Client(t)
	// Each is asked by every door.
	doors := map[string]func(id, method string, params any) outcome{
		"legacy": func(id, method string, params any) outcome {
			in := object{"nodeId": id, "command": method, "idempotencyKey": fmt.Sprint(time.Now().UnixNano())}
			if params != nil {
				in["params"] = params
			}
			text, err := op.Call(context.Background(), "node.invoke", in)
			if err != nil {
				return outcome{failure: err.Error()}
			}
			var out struct {
				Payload     any
				PayloadJSON *string `json:"payloadJSON"`
			}
			if err := json.Unmarshal(text, &out); err != nil {
				t.Error(err)
			}
			return outcome{payload: out.Payload, text: out.PayloadJSON}
		},
		"grpc": func(id, method string, params any) outcome {
			in := &nodesv1.InvokeRequest{NodeId: id, Command: method}
			if params != nil {
				in.Params, _ = structpb.NewValue(params) // of JSON
			}
			out, err := g.Nodes.Invoke(context.Background(), in)
			if err != nil {
				return outcome{failure: status.Convert(err).Message()}
			}
			return outcome{payload: out.GetPayload().AsInterface(), text: out.PayloadJson}
		},
		"rest": func(id, method string, params any) outcome {
			in := object{"command": method}
			if params != nil {
				in["params"] = params
			}
			code, out := rest(t, d, "POST", "/v1/nodes/"+id+"/invoke", in)
			if code != 200 {
				return outcome{failure: fmt.Sprint(out["detail"])}
			}
			o := outcome{payload: out["payload"]}
			if s, ok := out["payloadJson"].(string); ok {
				o.text = &s
			}
			return o
		},
	}
	for _, file := range linkFixtures() {
		all := exchanges(t, file)
		if len(all) < 3 {
			t.Fatalf("%s holds %d exchanges", file, len(all))
		}
		for i, e := range all {
			if e.method == "unknown.method" || !declared(e.register, e.method) {
				e.register = maps.Clone(e.register)
				e.register["commands"] = append(slicesOf(e.register["commands"]), e.method)
			}
			id := fmt.Sprintf("agent-%d", i)
			e.register["instance_id"] = id
			l := dialLink(t, d, "/v1/tunnel", bearer(proc.Token))
			l.send(e.register)
			l.want("registered")
			var got json.RawMessage
			go l.serve(func(c object) object {
				got, _ = json.Marshal(c["params"])
				if c["method"] != e.method {
					t.Errorf("%s: the method is %v", e.note, c["method"])
				}
				return maps.Clone(e.response)
			})
			for door, invoke := range doors {
				var params any
				_ = json.Unmarshal(e.params, &params) // absent is null
				out := invoke(id, e.method, params)
				if strings.Contains(out.failure, "not allow") {
					t.Logf("%s: not allowed by the policy: %s", e.note, e.method)
					break
				}
				var sent any
				if err := json.Unmarshal(got, &sent); err != nil {
					t.Errorf("%s by %s: nothing was sent: %+v", e.note, door, out)
					continue
				}
				if params == nil {
					params = object{}
				}
				if !reflect.DeepEqual(sent, params) {
					t.Errorf("%s by %s: params %s, want %s", e.note, door, got, e.params)
				}
				got = nil
				if e.response["ok"] == true {
					data, _ := json.Marshal(e.response["data"])
					var text any
					if out.text != nil {
						_ = json.Unmarshal([]byte(*out.text), &text) // compared
					}
					if out.failure != "" || !reflect.DeepEqual(out.payload, e.response["data"]) || !reflect.DeepEqual(text, e.response["data"]) {
						t.Errorf("%s by %s:\n got %+v\nwant %s", e.note, door, out, data)
					}
					continue
				}
				if want := fmt.Sprint(e.response["error"]); !strings.Contains(out.failure, want) {
					t.Errorf("%s by %s: got %+v, want the failure %q", e.note, door, out, want)
				}
			}
			_ = l.ws.Close(websocket.StatusNormalClosure, "")
		}
	}
}

func slicesOf(v any) (out []any) {
	out, _ = v.([]any)
	return out
}

func declared(reg object, method string) bool {
	for _, c := range slicesOf(reg["commands"]) {
		if c == method {
			return true
		}
	}
	return false
}

func TestH6Heartbeat(t *testing.T) {
	accept(t, "H6")
	d := linkDaemon(t, nil)
	a := agent(t, "H6", "agent-a", withToken(d, "/v1/tunnel", proc.Token))
	joined(t, d, "agent-a")
	began := time.Now()
	code, out := rest(t, d, "POST", "/v1/nodes/agent-a/invoke", object{"command": "exec.run", "params": object{"command": "sleep 25"}})
	if p, _ := out["payload"].(object); code != 200 || p["exitCode"] != 0.0 || time.Since(began) < 25*time.Second {
		t.Fatalf("%d %v after %v", code, out, time.Since(began))
	}
	if n := strings.Count(a.Stdout.String(), "Connected!"); n != 1 {
		t.Errorf("it was linked %d times", n)
	}
	a.Signal(syscall.SIGSTOP)
	stopped := time.Now()
	proc.UntilFor(t, 85*time.Second, "the stopped agent is gone", func() bool { return listed(t, d)["agent-a"] == nil })
	if took := time.Since(stopped); took < 58*time.Second || took > 80*time.Second {
		t.Errorf("gone after %v", took)
	}
	a.Signal(syscall.SIGCONT)
	joined(t, d, "agent-a")
}

func TestH7AppKinds(t *testing.T) {
	accept(t, "H7")
	d := linkDaemon(t, nil)
	for _, kind := range []string{"dev", "node", "desktop", "bot", "extension", "cloud", "Zähler X"} {
		l := dialLink(t, d, "/v1/tunnel", bearer(proc.Token))
		l.send(object{"type": "register", "instance_id": "kind-" + kind[:1] + fmt.Sprint(len(kind)), "app_kind": kind})
		id := l.want("registered")["instance_id"].(string)
		if n := listed(t, d)[id]; n == nil || n["appKind"] != kind {
			t.Errorf("%s: %v", kind, n)
		}
	}
	// No id: one is assigned.
	l := dialLink(t, d, "/v1/tunnel", bearer(proc.Token))
	l.send(object{"type": "register"})
	id := l.want("registered")["instance_id"].(string)
	if n := listed(t, d)[id]; len(id) != 36 || n == nil || n["displayName"] != "tunnel-node" || n["platform"] != "unknown" || n["version"] != "0.0.0" {
		t.Errorf("%q %v", id, n)
	}
}

func basic(token string) http.Header {
	return http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("anyone:"+token))}}
}

func TestH8Tokens(t *testing.T) {
	accept(t, "H8")
	d := linkDaemon(t, nil)
	g := d.Client(t)
	key, err := g.Devices.CreateLinkKey(t.Context(), &devicesv1.CreateLinkKeyRequest{Name: "cloud", Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	secret := key.GetSecret()
	forms := map[string]struct {
		path   string
		header http.Header
	}{
		"bearer": {"/v1/tunnel", bearer(secret)}, "basic": {"/v1/tunnel", basic(secret)}, "query": {"/v1/tunnel?token=" + secret, nil},
	}
	for name, f := range forms {
		l := dialLink(t, d, f.path, f.header)
		l.send(register("key-"+name, nil))
		l.want("registered")
		if n := joined(t, d, "acme/key-"+name); n["tenant"] != "acme" {
			t.Errorf("%s: %v", name, n)
		}
		defer l.closed(websocket.StatusPolicyViolation, "the link key was revoked", 2*time.Second)
	}
	for name, h := range map[string]http.Header{"nothing": nil, "a wrong one": bearer("hk-wrong"), "a wrong password": basic("x"), "another scheme": {"Authorization": {"Digest x"}}} {
		l := dialLink(t, d, "/v1/tunnel", h)
		l.send(register("refused", nil))
		l.closed(websocket.StatusPolicyViolation, "token", 5*time.Second)
		if listed(t, d)["refused"] != nil {
			t.Errorf("%s is let in", name)
		}
	}
	// An id that is held by another credential of the same tenant is not to be had; the same one takes it over.
	mine := dialLink(t, d, "/v1/tunnel", bearer(proc.Token))
	mine.send(register("held", nil))
	mine.want("registered")
	own, err := g.Devices.CreateLinkKey(t.Context(), &devicesv1.CreateLinkKeyRequest{Name: "own"})
	if err != nil {
		t.Fatal(err)
	}
	other := dialLink(t, d, "/v1/tunnel", bearer(own.GetSecret()))
	other.send(register("held", nil))
	other.closed(4409, "instance_id in use", 5*time.Second)
	tenant := dialLink(t, d, "/v1/tunnel", bearer(secret))
	tenant.send(register("held", nil))
	tenant.want("registered") // another tenant's is another one
	again := dialLink(t, d, "/v1/tunnel", bearer(proc.Token))
	again.send(register("held", nil))
	again.want("registered")
	mine.closed(websocket.StatusPolicyViolation, "", 5*time.Second)
	if listed(t, d)["held"] == nil {
		t.Error("the end of the older link removed the newer one")
	}
	// The agent comes back after 1, 2 and 4 seconds, and gets in once its token counts.
	a := agent(t, "H8", "agent-late", withToken(d, "/v1/tunnel", "tok-later"))
	proc.Until(t, "the third refusal", func() bool { return strings.Contains(a.Stdout.String(), "retrying in 4s") })
	for _, want := range []string{"1008", "retrying in 1s", "retrying in 2s"} {
		if !strings.Contains(a.Stdout.String(), want) {
			t.Errorf("%s is missing in\n%s", want, a.Stdout.String())
		}
	}
	q := agent(t, "H8", "agent-query", "ws://"+d.Addr()+"/v1/tunnel?token="+secret)
	joined(t, d, "acme/agent-query")
	if strings.Contains(strings.Join(d.Outputs(), ""), secret) {
		t.Error("the log holds the token")
	}
	if _, err := g.Devices.RevokeLinkKey(t.Context(), &devicesv1.RevokeLinkKeyRequest{KeyId: key.GetKey().GetKeyId()}); err != nil {
		t.Fatal(err)
	}
	tenant.closed(websocket.StatusPolicyViolation, "the link key was revoked", 2*time.Second)
	proc.Until(t, "the agent is refused", func() bool { return strings.Contains(q.Stdout.String(), "the token is not accepted here") })
	d.Stop()
	change(t, d, func(c object) { c["gateway"].(object)["auth"].(object)["token"] = "tok-later" })
	d.Start()
	proc.UntilFor(t, 40*time.Second, "the agent is let in", func() bool { return strings.Contains(a.Stdout.String(), "Connected!") })
}

// change changes the configuration of a daemon that does not run.
func change(t *testing.T, d *proc.Daemon, how func(object)) {
	t.Helper()
	file := filepath.Join(d.State, "config.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var c object
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	how(c)
	if text, err = json.Marshal(c); err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestH28Paths(t *testing.T) {
	accept(t, "H28")
	d := linkDaemon(t, nil)
	for _, path := range []string{"/v1/tunnel", "/v1/relay"} {
		res, err := http.Get(d.URL() + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusUpgradeRequired || res.Header.Get("Upgrade") != "websocket" {
			t.Errorf("GET %s: %d %v", path, res.StatusCode, res.Header)
		}
		l := dialLink(t, d, path, bearer(proc.Token))
		l.send(object{"type": "ping"})
		l.want("pong")
		l.send(register("agent-a", nil))
		l.want("registered")
		go l.serve(func(c object) object { return object{"ok": true, "data": object{"method": c["method"]}, "error": nil} })
		code, out := rest(t, d, "POST", "/v1/nodes/agent-a/invoke", object{"command": "status.get"})
		if p, _ := out["payload"].(object); code != 200 || p["method"] != "status.get" {
			t.Errorf("%s: %d %v", path, code, out)
		}
		bad := dialLink(t, d, path, nil)
		bad.closed(websocket.StatusPolicyViolation, "token", 5*time.Second)
	}
	// Another spelling is another path: the gateway protocol answers there.
	l := dialLink(t, d, "/v1/tunnel/", bearer(proc.Token))
	if f := l.want("event"); f["event"] != "connect.challenge" {
		t.Error(f)
	}
}

func TestH30CloudAgents(t *testing.T) {
	accept(t, "H30")
	d := linkDaemon(t, nil)
	ids := []string{"cloud-agent-7d9f8b6c5-abcde", "cloud-agent-7d9f8b6c5-fghij"}
	for _, id := range ids {
		agent(t, "H30", id, withToken(d, "/v1/tunnel", proc.Token), "APP_KIND=cloud")
		joined(t, d, id)
	}
	other := dialLink(t, d, "/v1/tunnel", bearer(proc.Token))
	other.send(register("not-cloud", nil))
	other.want("registered")
	cloud := func() (names []string) {
		_, out := rest(t, d, "GET", "/v1/nodes?app_kind=cloud", nil)
		for _, n := range slicesOf(out["nodes"]) {
			names = append(names, n.(object)["nodeId"].(string))
		}
		return names
	}
	if got := cloud(); len(got) != 2 {
		t.Fatalf("%v", got)
	}
	// A rolling restart: pods with new names come before old ones go.
	next := []string{"cloud-agent-66c4d-klmno", "cloud-agent-66c4d-pqrst"}
	for _, id := range next {
		agent(t, "H30", id, withToken(d, "/v1/relay", proc.Token), "APP_KIND=cloud")
		joined(t, d, id)
	}
	d.Stop()
	d.Start()
	for _, id := range append(ids, next...) {
		joined(t, d, id)
	}
	if got := cloud(); len(got) != 4 {
		t.Errorf("%v", got)
	}
}
