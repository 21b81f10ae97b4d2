package door

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/hanzoai/hanzod/client"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
)

const noSession = "00000000-0000-4000-8000-000000000000"

// newTechWorld is a daemon with a node that runs everything.
func newTechWorld(t *testing.T, config map[string]any) *terminalWorld {
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
	w := &terminalWorld{t: t, d: hanzodtest.Start(t, hanzodtest.Options{StateDir: dir, Node: true, GRPC: true, Config: config})}
	if w.c, err = client.Dial(t.Context(), client.Options{Socket: w.d.Socket()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.c.Close() })
	await(t, "the node is linked", func() bool {
		l, err := w.c.Nodes.ListNodes(t.Context(), &nodesv1.ListNodesRequest{ConnectedOnly: true})
		if err == nil && len(l.GetNodes()) > 0 {
			w.node = l.GetNodes()[0].GetNodeId()
		}
		return w.node != ""
	})
	return w
}

// send asks by HTTP with a token, empty for none, and returns what came.
func (w *terminalWorld) send(token, method, path, body string, header ...string) (*http.Response, string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+w.d.Addr()+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res, string(text)
}

// operator pairs a device with some scopes and returns its token.
func (w *terminalWorld) operator(name string, scopes ...string) string {
	w.t.Helper()
	inv, err := w.c.Devices.CreateInvite(w.t.Context(), &devicesv1.CreateInviteRequest{Role: "operator", Scopes: scopes})
	if err != nil {
		w.t.Fatal(err)
	}
	code, err := client.ParseInvite(inv.GetCode())
	if err != nil {
		w.t.Fatal(err)
	}
	e, err := client.Enroll(w.t.Context(), code, newDeviceKey(name), client.Machine{Name: name, Platform: "linux"}, "test")
	if err != nil {
		w.t.Fatal(err)
	}
	return e.Token
}

// technician holds a node by one door. Refusals are told by their class.
type technician interface {
	open(node string) (id, refusal string)
	run(id, command string) (stdout, stderr string, code int, refusal string)
	status(id string) (status, refusal string)
	close(id string) (refusal string)
}

type techByGRPC struct{ w *terminalWorld }

// class is that of a status, in the words of the compatibility paths.
func class(err error) string {
	if err == nil {
		return ""
	}
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		return err.Error()
	}
	return map[string]string{
		"tech.session_id": "invalid", "tech.node_offline": "not_found", "tech.unknown": "not_found", "tech.foreign": "denied", "tech.held": "conflict",
		"tech.ended": "conflict", "tech.rate": "exhausted", "tech.node_required": "invalid", "tech.message": "invalid",
	}[e.Code]
}

func (g techByGRPC) open(node string) (string, string) {
	out, err := g.w.c.Technicians.Open(g.w.t.Context(), &tunnelv1.TechSessionServiceOpenRequest{NodeId: node})
	return out.GetSession().GetSessionId(), class(err)
}

func (g techByGRPC) run(id, command string) (stdout, stderr string, code int, refusal string) {
	ctx, cancel := context.WithTimeout(g.w.t.Context(), patience)
	defer cancel()
	stream, err := g.w.c.Technicians.Run(ctx, &tunnelv1.TechSessionServiceRunRequest{SessionId: id, Command: command})
	for err == nil {
		var m *tunnelv1.TechSessionServiceRunResponse
		if m, err = stream.Recv(); err == nil {
			stdout, stderr = stdout+string(m.GetStdout()), stderr+string(m.GetStderr())
			if m.ExitCode != nil {
				code = int(m.GetExitCode())
			}
			if m.GetDone() != (m.ExitCode != nil) {
				g.w.t.Errorf("%v", m)
			}
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return stdout, stderr, code, class(err)
}

func (g techByGRPC) status(id string) (string, string) {
	out, err := g.w.c.Technicians.Get(g.w.t.Context(), &tunnelv1.TechSessionServiceGetRequest{SessionId: id})
	if err != nil {
		return "", class(err)
	}
	if (out.GetSession().GetStatus() == tunnelv1.TechStatus_TECH_STATUS_CLOSED) != (out.GetSession().GetClosedAt() != nil) {
		g.w.t.Errorf("%v", out)
	}
	return strings.ToLower(strings.TrimPrefix(out.GetSession().GetStatus().String(), "TECH_STATUS_")), ""
}

func (g techByGRPC) close(id string) string {
	_, err := g.w.c.Technicians.Close(g.w.t.Context(), &tunnelv1.TechSessionServiceCloseRequest{SessionId: id})
	return class(err)
}

type techByREST struct{ w *terminalWorld }

// ask reads an answer into out, or the class of the refusal.
func (r techByREST) ask(method, path, body string, out proto.Message) string {
	r.w.t.Helper()
	res, text := r.w.send(r.w.d.Token, method, path, body)
	if res.StatusCode != http.StatusOK {
		return map[int]string{400: "invalid", 401: "unauthenticated", 403: "denied", 404: "not_found", 409: "conflict", 429: "exhausted"}[res.StatusCode]
	}
	if err := protojson.Unmarshal([]byte(text), out); err != nil {
		r.w.t.Fatal(err)
	}
	return ""
}

func (r techByREST) open(node string) (string, string) {
	var out tunnelv1.TechSessionServiceOpenResponse
	refusal := r.ask("POST", "/v1/tech-sessions", `{"nodeId":"`+node+`"}`, &out)
	return out.GetSession().GetSessionId(), refusal
}

func (r techByREST) run(id, command string) (stdout, stderr string, code int, refusal string) {
	body, err := json.Marshal(object{"command": command})
	if err != nil {
		r.w.t.Fatal(err)
	}
	res, text := r.w.send(r.w.d.Token, "POST", "/v1/tech-sessions/"+id+"/command", string(body))
	if res.StatusCode != http.StatusOK {
		return "", "", 0, map[int]string{400: "invalid", 403: "denied", 404: "not_found", 409: "conflict", 429: "exhausted"}[res.StatusCode]
	}
	for line := range strings.Lines(text) {
		var m struct {
			Stdout, Stderr []byte
			ExitCode       *int
		}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			r.w.t.Fatalf("%s: %v", line, err)
		}
		stdout, stderr = stdout+string(m.Stdout), stderr+string(m.Stderr)
		if m.ExitCode != nil {
			code = *m.ExitCode
		}
	}
	return stdout, stderr, code, ""
}

func (r techByREST) status(id string) (string, string) {
	var out tunnelv1.TechSessionServiceGetResponse
	refusal := r.ask("GET", "/v1/tech-sessions/"+id, "", &out)
	if refusal != "" {
		return "", refusal
	}
	return strings.ToLower(strings.TrimPrefix(out.GetSession().GetStatus().String(), "TECH_STATUS_")), ""
}

func (r techByREST) close(id string) string {
	return r.ask("DELETE", "/v1/tech-sessions/"+id, "", &tunnelv1.TechSessionServiceCloseResponse{})
}

// techByPaths is the paths of the original.
type techByPaths struct{ w *terminalWorld }

func (p techByPaths) ask(method, path, body string) (object, string) {
	p.w.t.Helper()
	res, text := p.w.send(p.w.d.Token, method, "/api/v1/tunnel/"+path, body)
	var out object
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		p.w.t.Fatalf("%s %s", res.Status, text)
	}
	if res.StatusCode == http.StatusOK {
		return out, ""
	}
	return out, out["code"].(string)
}

func (p techByPaths) open(node string) (string, string) {
	out, refusal := p.ask("POST", "open", `{"agent_id":"`+node+`"}`)
	if refusal != "" {
		return "", refusal
	}
	if out["status"] != "active" || len(out) != 2 {
		p.w.t.Errorf("%v", out)
	}
	return out["session_id"].(string), ""
}

func (p techByPaths) run(id, command string) (stdout, stderr string, code int, refusal string) {
	body, err := json.Marshal(object{"command": command})
	if err != nil {
		p.w.t.Fatal(err)
	}
	out, refusal := p.ask("POST", id+"/command", string(body))
	if refusal != "" {
		return "", "", 0, refusal
	}
	return out["stdout"].(string), out["stderr"].(string), int(out["exit_code"].(float64)), ""
}

func (p techByPaths) status(id string) (string, string) {
	out, refusal := p.ask("GET", "status/"+id, "")
	if refusal != "" {
		return "", refusal
	}
	if (out["status"] == "closed") != (out["closed_at"] != nil) || out["agent_id"] != p.w.node || out["session_id"] != id || out["tech_id"] == "" {
		p.w.t.Errorf("%v", out)
	}
	for _, name := range []string{"opened_at", "last_activity"} {
		if _, err := time.Parse(time.RFC3339, fmt.Sprint(out[name])); err != nil {
			p.w.t.Errorf("%s: %v", name, err)
		}
	}
	return out["status"].(string), ""
}

func (p techByPaths) close(id string) string {
	out, refusal := p.ask("POST", "close", `{"session_id":"`+id+`"}`)
	if refusal == "" && (out["status"] != "closed" || len(out) != 1) {
		p.w.t.Errorf("%v", out)
	}
	return refusal
}

// What can be done with a session is the same by every door, and so is what is left of it.
func TestTechSessionsByEveryDoor(t *testing.T) {
	t.Parallel()
	w := newTechWorld(t, nil)
	mode := func() (string, string) {
		out, err := w.c.Nodes.GetNode(t.Context(), &nodesv1.GetNodeRequest{NodeId: w.node})
		if err != nil {
			t.Fatal(err)
		}
		return out.GetNode().GetMode(), out.GetNode().GetTechSessionId()
	}
	doors := []technician{techByGRPC{w}, techByREST{w}, techByPaths{w}}
	var first []string
	for i, door := range doors {
		var trace []string
		note := func(what ...any) { trace = append(trace, fmt.Sprint(what...)) }
		if m, id := mode(); m != "heartbeat" || id != "" {
			t.Fatalf("mode %q, session %q", m, id)
		}
		_, refusal := door.open(noSession)
		note("open of nobody: ", refusal)
		id, refusal := door.open(w.node)
		if refusal != "" {
			t.Fatalf("%T: %s", door, refusal)
		}
		if m, held := mode(); m != "tunnel" || held != id {
			t.Errorf("%T: mode %q, session %q, want that of %s", door, m, held, id)
		}
		for _, other := range doors {
			_, refusal := other.open(w.node)
			note("open again: ", refusal)
		}
		stdout, stderr, code, refusal := door.run(id, `printf 'a "b"\n\001\n'; printf c >&2; exit 3`)
		note(fmt.Sprintf("%q %q %d %s", stdout, stderr, code, refusal))
		for _, wrong := range []string{noSession, "x"} {
			_, _, _, refusal = door.run(wrong, "true")
			note("run in ", wrong, ": ", refusal)
			_, refusal = door.status(wrong)
			note("status of ", wrong, ": ", refusal)
			note("close of ", wrong, ": ", door.close(wrong))
		}
		_, _, _, refusal = door.run(id, "")
		note("nothing to run: ", refusal)
		for _, other := range doors {
			status, refusal := other.status(id)
			note("status: ", status, refusal)
		}
		note("close: ", door.close(id))
		for _, other := range doors {
			status, refusal := other.status(id)
			note("status: ", status, refusal)
		}
		_, _, _, refusal = door.run(id, "true")
		note("run after: ", refusal)
		rows, err := w.c.Technicians.ListAudit(t.Context(), &tunnelv1.TechSessionServiceListAuditRequest{SessionId: id})
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows.GetRows() {
			note(row.GetOperation(), " ", row.GetOutcome(), " ", row.GetDetail().GetFields()["command"].GetStringValue(), row.GetNodeId() == w.node, row.GetSubject() != "")
		}
		if first == nil {
			first = trace
			if !slices.Contains(trace, `"a \"b\"\n\x01\n" "c" 3 `) {
				t.Errorf("%q", trace)
			}
		}
		if d := cmp.Diff(first, trace); d != "" {
			t.Errorf("door %d: %s", i, d)
		}
	}
	// What gRPC lists REST lists, and the export has all of it.
	byGRPC, err := w.c.Technicians.List(t.Context(), &tunnelv1.TechSessionServiceListRequest{NodeId: w.node, Status: tunnelv1.TechStatus_TECH_STATUS_CLOSED, Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	var byREST tunnelv1.TechSessionServiceListResponse
	if refusal := (techByREST{w}).ask("GET", "/v1/tech-sessions?node_id="+w.node+"&status=TECH_STATUS_CLOSED&limit=2", "", &byREST); refusal != "" {
		t.Fatal(refusal)
	}
	if !proto.Equal(byGRPC, &byREST) || len(byREST.GetSessions()) != 2 || byREST.GetNext() == "" {
		t.Errorf("%v\n%v", byGRPC, &byREST)
	}
	more, err := w.c.Technicians.List(t.Context(), &tunnelv1.TechSessionServiceListRequest{After: byREST.GetNext(), Limit: 2})
	if err != nil || len(more.GetSessions()) != 1 || more.GetNext() != "" {
		t.Errorf("%v %v", more, err)
	}
	_, text := w.send(w.d.Token, "GET", "/v1/tech-sessions:export", "")
	if n := strings.Count(text, `"session":`); n != 3 {
		t.Errorf("%d sessions in %s", n, text)
	}
	if _, page := w.send(w.d.Token, "GET", "/metrics", ""); !strings.Contains(page, "hanzod_tech_sessions_active 0\n") || !strings.Contains(page, `hanzod_tech_refused_total{reason="held"} 9`+"\n") {
		t.Error("the page of metrics has no technician sessions")
	}
}

// The statuses and texts of the original (tunnel.md §3.2), to the byte.
func TestTechPathsAnswerAsTheOriginal(t *testing.T) {
	t.Parallel()
	w := newTechWorld(t, map[string]any{"tunnel": map[string]any{"tech": map[string]any{"commandsPerMinute": 2}}})
	writer := w.operator("writer", "operator.read", "operator.write")
	reader := w.operator("reader", "operator.read")
	const base = "/api/v1/tunnel/"
	id, refusal := techByPaths{w}.open(w.node)
	if refusal != "" {
		t.Fatal(refusal)
	}
	open := func(agent string) string {
		b, err := json.Marshal(object{"agent_id": agent})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	const (
		agentID   = `{"error":"Invalid agent_id format","code":"invalid"}`
		sessionID = `{"error":"Invalid session_id format","code":"invalid"}`
		foreign   = `{"error":"Session not found or not owned by user","code":"denied"}`
		unknown   = `{"error":"Session not found","code":"not_found"}`
	)
	for _, c := range []struct {
		token, method, path, body string
		status                    int
		want                      string // the body; "" for any
	}{
		{w.d.Token, "POST", "open", open("invalid-uuid"), 400, agentID},
		{w.d.Token, "POST", "open", open(""), 400, agentID},
		{w.d.Token, "POST", "open", open(noSession + "\x00"), 400, agentID},
		{w.d.Token, "POST", "open", open("'; DROP TABLE tech_sessions; --"), 400, agentID},
		{w.d.Token, "POST", "open", open(strings.Replace(noSession, "4", "４", 1)), 400, agentID}, // a full-width digit
		{w.d.Token, "POST", "open", open("urn:uuid:" + noSession), 400, agentID},
		{w.d.Token, "POST", "open", open("{" + noSession + "}"), 400, agentID},
		{w.d.Token, "POST", "open", `{"agent_id":7}`, 400, agentID},
		{w.d.Token, "POST", "open", `{"agent_id":null}`, 400, agentID},
		{w.d.Token, "POST", "open", `{}`, 400, agentID},
		{w.d.Token, "POST", "open", `[]`, 400, ""},
		{w.d.Token, "POST", "open", ``, 400, ""},
		{w.d.Token, "POST", "open", `{"agent_id":"` + noSession + `"} x`, 400, ""},
		{w.d.Token, "POST", "open", open(strings.Repeat("x", 65<<10)), 400, `{"error":"the body is larger than 65536 bytes","code":"invalid"}`},
		{w.d.Token, "POST", "open", open(noSession), 404, `{"error":"Agent not connected","code":"not_found"}`},
		{w.d.Token, "POST", "open", open(strings.Repeat("ab", 32)), 404, `{"error":"Agent not connected","code":"not_found"}`},
		{w.d.Token, "POST", "open", open(w.node), 409, `{"error":"Active session already exists for this agent","code":"conflict"}`},
		{writer, "POST", "open", open(w.node), 409, `{"error":"Active session already exists for this agent","code":"conflict"}`},
		{reader, "POST", "open", open(w.node), 403, ""},
		{w.d.Token, "POST", "close", `{"session_id":"x"}`, 400, sessionID},
		{w.d.Token, "POST", "close", `{}`, 400, sessionID},
		{w.d.Token, "POST", "close", `{"session_id":"` + noSession + `"}`, 404, unknown},
		{writer, "POST", "close", `{"session_id":"` + id + `"}`, 403, foreign},
		{w.d.Token, "GET", "status/x", "", 400, sessionID},
		{w.d.Token, "GET", "status/%27%3B--", "", 400, sessionID},
		{w.d.Token, "GET", "status/" + noSession, "", 404, unknown},
		{writer, "GET", "status/" + id, "", 403, foreign},
		{reader, "GET", "status/" + id, "", 403, foreign},
		{w.d.Token, "POST", "x/command", `{"command":"true"}`, 400, sessionID},
		{w.d.Token, "POST", noSession + "/command", `{"command":"true"}`, 404, unknown},
		{writer, "POST", id + "/command", `{"command":"true"}`, 403, foreign},
		{w.d.Token, "POST", id + "/command", `{"command":" "}`, 400, ""},
		{w.d.Token, "POST", id + "/command", `{}`, 400, ""},
		{w.d.Token, "POST", id + "/command", `{"command":"true"}`, 200, ""},
		{w.d.Token, "POST", id + "/command", `{"command":"printf '\\377'"}`, 200, ""},
		{w.d.Token, "POST", id + "/command", `{"command":"true"}`, 429, ""},
		{w.d.Token, "GET", "open", "", 405, ""},
		{w.d.Token, "POST", "status/" + id, "", 405, ""},
		// The names that carriers have are theirs.
		{w.d.Token, "POST", "sessions/command", `{"command":"true"}`, 405, ""},
		{w.d.Token, "GET", "status/command", "", 400, sessionID},
	} {
		res, text := w.send(c.token, c.method, base+c.path, c.body, "Content-Type", "application/json")
		if res.StatusCode != c.status || c.want != "" && text != c.want {
			t.Errorf("%s %s %.80s: %s %s, want %d %s", c.method, c.path, c.body, res.Status, text, c.status, c.want)
		}
		if res.StatusCode == 400 || res.StatusCode == 403 {
			var f struct{ Error, Code string }
			if err := json.Unmarshal([]byte(text), &f); err != nil || f.Error == "" || f.Code == "" {
				t.Errorf("%s %s: %s", c.method, c.path, text)
			}
		}
		if strings.Contains(c.body, `\377`) && !strings.Contains(text, `"stdout":"�","stderr":"","stdout_b64":"/w=="`) {
			t.Error(text)
		}
	}
	for _, token := range []string{"", "wrong"} {
		for _, path := range []string{"POST open", "POST close", "GET status/" + id, "POST " + id + "/command"} {
			method, path, _ := strings.Cut(path, " ")
			res, text := w.send(token, method, base+path, `{}`)
			if res.StatusCode != 401 || !strings.Contains(text, `"code":"unauthenticated"`) || res.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s with %q: %s %s", path, token, res.Status, text)
			}
		}
	}
	// Closing twice does no harm, and frees the node once.
	for range 2 {
		if _, text := w.send(w.d.Token, "POST", base+"close", `{"session_id":"`+strings.ToUpper(id)+`"}`); text != `{"status":"closed"}` {
			t.Error(text)
		}
	}
	if _, text := w.send(w.d.Token, "POST", base+id+"/command", `{"command":"true"}`); text != `{"error":"Session is closed","code":"conflict"}` {
		t.Error(text)
	}
}

// channelSocket opens a channel over a WebSocket.
func (w *terminalWorld) channelSocket(path, token string) (*websocket.Conn, *http.Response, error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	return websocket.Dial(ctx, "ws://"+w.d.Addr()+path, &websocket.DialOptions{
		Subprotocols: []string{"hanzo.tech.v1"}, HTTPHeader: http.Header{"Authorization": {"Bearer " + token}},
	})
}

func TestTechChannelOverWebSocket(t *testing.T) {
	t.Parallel()
	w := newTechWorld(t, nil)
	id, refusal := techByREST{w}.open(w.node)
	if refusal != "" {
		t.Fatal(refusal)
	}
	at := "/v1/tech-sessions/" + id + "/channels/"
	reader := w.operator("reader", "operator.read")
	for _, c := range []struct {
		path, token string
		status      int
	}{
		{at + "one", w.d.Token, 400},
		{at + "one?kind=screen", w.d.Token, 400},
		{at + "one?kind=file&kind=file", w.d.Token, 400},
		{at + "one?kind=file&x=1", w.d.Token, 400},
		{at + "one?kind=file&token=x", w.d.Token, 400},
		{at + "a%2Fb?kind=file", w.d.Token, 400},
		{at + "one?kind=terminal", "wrong", 401},
		{at + "one?kind=terminal", reader, 403},
		{"/v1/tech-sessions/" + noSession + "/channels/one?kind=file", w.d.Token, 404},
		{"/v1/tech-sessions/x/channels/one?kind=file", w.d.Token, 400},
	} {
		_, res, err := w.channelSocket(c.path, c.token)
		if err == nil || res == nil || res.StatusCode != c.status {
			t.Errorf("%s: %v %v, want %d", c.path, res, err, c.status)
		}
	}
	if res, _ := w.send(w.d.Token, "GET", at+"one?kind=file", ""); res.StatusCode != http.StatusUpgradeRequired {
		t.Error(res.Status)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ws, _, err := w.channelSocket(at+"one?kind=terminal", w.d.Token)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	if ws.Subprotocol() != "hanzo.tech.v1" {
		t.Error(ws.Subprotocol())
	}
	if _, res, err := w.channelSocket(at+"one?kind=terminal", w.d.Token); err == nil || res.StatusCode != http.StatusConflict {
		t.Errorf("a second channel of that name: %v %v", res, err)
	}
	next := func() (typ string, payload object) {
		t.Helper()
		kind, data, err := ws.Read(ctx)
		if err != nil || kind != websocket.MessageText {
			t.Fatal(kind, err)
		}
		var m struct {
			Type    string
			Payload object
		}
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		return m.Type, m.Payload
	}
	say := func(text string) {
		t.Helper()
		if err := ws.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	// What is no message, or does not belong here, is told; the channel goes on.
	for _, text := range []string{
		`no JSON`, `{}`, `{"type":"terminal","payload":[]}`, `{"type":"terminal_input","payload":{"data_b64":"%%"}}`, `{"type":"file_list","payload":{"path":"/"}}`,
		`{"type":"terminal","payload":{"command":""}}`,
	} {
		say(text)
		if typ, payload := next(); typ != "error" || payload["code"] != "invalid" || payload["error"] == "" {
			t.Errorf("%s: %s %v", text, typ, payload)
		}
	}
	say(`{"type":"terminal","payload":{"command":"printf 'one two'"}}`)
	var out string
	for {
		typ, payload := next()
		if typ != "terminal_output" {
			t.Fatal(typ, payload)
		}
		out += payload["stdout"].(string)
		if payload["exit_code"] != nil {
			break
		}
	}
	if out != "one two" {
		t.Errorf("%q", out)
	}
	// The session says what there is, and its end is told with the reason.
	got, err := w.c.Technicians.Get(t.Context(), &tunnelv1.TechSessionServiceGetRequest{SessionId: id})
	if ch := got.GetSession().GetChannels(); err != nil || len(ch) != 1 || ch[0].GetChannelId() != "one" || ch[0].GetKind() != tunnelv1.TechKind_TECH_KIND_TERMINAL {
		t.Errorf("%v %v", got, err)
	}
	if refusal := (techByGRPC{w}).close(id); refusal != "" { // whoever is on the machine is admin
		t.Fatal(refusal)
	}
	_, _, err = ws.Read(ctx)
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Reason == "" {
		t.Errorf("%v", err)
	}
}

// Bytes go through a channel as they are, in both directions, and binary messages are none.
func TestTechTerminalOverWebSocket(t *testing.T) {
	t.Parallel()
	w := newTechWorld(t, nil)
	id, refusal := techByREST{w}.open(w.node)
	if refusal != "" {
		t.Fatal(refusal)
	}
	ws, _, err := w.channelSocket("/v1/tech-sessions/"+id+"/channels/tty?kind=terminal", w.d.Token)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	ws.SetReadLimit(1 << 20)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, text := range []string{
		`{"type":"terminal_open","payload":{"argv":["/bin/cat"],"cols":80,"rows":24}}`,
		`{"type":"terminal_input","payload":{"data_b64":"aGVsbG8K"}}`,
	} {
		if err := ws.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	var shown []byte
	for strings.Count(string(shown), "hello") < 2 { // the echo of the terminal, and that of cat
		_, data, err := ws.Read(ctx)
		if err != nil {
			t.Fatalf("%q %v", shown, err)
		}
		var m struct {
			Type    string
			Payload struct {
				DataB64 []byte `json:"data_b64"`
			}
		}
		if err := json.Unmarshal(data, &m); err != nil || m.Type != "terminal_ready" && m.Type != "terminal_chunk" {
			t.Fatalf("%s %v", data, err)
		}
		shown = append(shown, m.Payload.DataB64...)
	}
	if err := ws.Write(ctx, websocket.MessageBinary, []byte("x")); err != nil {
		t.Fatal(err)
	}
	for err = nil; err == nil; _, _, err = ws.Read(ctx) {
	}
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != websocket.StatusPolicyViolation || !strings.Contains(closed.Reason, "data_b64") {
		t.Errorf("%v", err)
	}
	// Its end is the end of the channel.
	await(t, "the channel is gone", func() bool {
		got, err := w.c.Technicians.Get(t.Context(), &tunnelv1.TechSessionServiceGetRequest{SessionId: id})
		return err == nil && len(got.GetSession().GetChannels()) == 0
	})
}

// Two look on, by SSE and by gRPC, and see the same.
func TestTechWatchByEveryDoor(t *testing.T) {
	t.Parallel()
	w := newTechWorld(t, nil)
	id, refusal := techByREST{w}.open(w.node)
	if refusal != "" {
		t.Fatal(refusal)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+w.d.Addr()+"/v1/tech-sessions/"+id+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.d.Token)
	req.Header.Set("Accept", "text/event-stream")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatal(res.Status, res.Header)
	}
	stream, err := w.c.Technicians.Watch(ctx, &tunnelv1.TechSessionServiceWatchRequest{SessionId: id})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	if out, _, code, refusal := (techByREST{w}).run(id, "echo seen; exit 5"); out != "seen\n" || code != 5 || refusal != "" {
		t.Fatalf("%q %d %s", out, code, refusal)
	}
	if refusal := (techByREST{w}).close(id); refusal != "" {
		t.Fatal(refusal)
	}
	told := func(m *tunnelv1.TechSessionServiceWatchResponse) string {
		code := ""
		if m.ExitCode != nil {
			code = fmt.Sprint(m.GetExitCode())
		}
		return fmt.Sprintf("%d %s %s %s %q %s", m.GetSeq(), m.GetType(), m.GetText(), m.GetStream(), m.GetData(), code)
	}
	var bySSE, byGRPC []string
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		text, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var e tunnelv1.TechSessionServiceWatchResponse
		if err := protojson.Unmarshal([]byte(text), &e); err != nil {
			t.Fatalf("%s %v", text, err)
		}
		bySSE = append(bySSE, told(&e))
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		byGRPC = append(byGRPC, told(m))
	}
	// The first saw the second join.
	if len(bySSE) == 0 || len(byGRPC) == 0 || len(bySSE) < len(byGRPC) {
		t.Fatalf("%q\n%q", bySSE, byGRPC)
	}
	if d := cmp.Diff(byGRPC, bySSE[len(bySSE)-len(byGRPC):]); d != "" {
		t.Error(d)
	}
	all := strings.Join(byGRPC, "\n")
	for _, want := range []string{"command echo seen; exit 5", `output  stdout "seen\n"`, "closed closed"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in\n%s", want, all)
		}
	}
	if !strings.Contains(strings.Join(bySSE, "\n"), "watcher_joined") {
		t.Errorf("%q", bySSE)
	}
}
