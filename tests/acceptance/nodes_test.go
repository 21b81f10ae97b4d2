//go:build unix

package acceptance

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/compat/dial"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// legacyOperator is a client of the gateway protocol that keeps the events it gets.
func legacyOperator(t *testing.T, d *proc.Daemon, heard func(event string, payload json.RawMessage)) *dial.Conn {
	t.Helper()
	o := d.Operator(nil)
	o.OnEvent = func(_ *dial.Conn, e dial.Event) { heard(e.Name, e.Payload) }
	op, err := dial.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = op.Close() })
	return op
}

// An agent answers what it does not know, and no operator makes hanzod send it params that are no object.
func TestH4UnknownAndParams(t *testing.T) {
	accept(t, "H4")
	d := linkDaemon(t, nil)
	a := agent(t, "H4", "agent-a", withToken(d, "/v1/tunnel", proc.Token))
	joined(t, d, "agent-a")
	// The agent says that it has six commands; another one is refused before it, with the words of the original.
	op := legacyOperator(t, d, func(string, json.RawMessage) {})
	_, err := op.Call(t.Context(), "node.invoke", object{"nodeId": "agent-a", "command": "x", "idempotencyKey": "1"})
	if err == nil || !strings.Contains(err.Error(), `does not support "x"`) {
		t.Errorf("an undeclared command: %v", err)
	}
	l := dialLink(t, d, "/v1/tunnel", bearer(proc.Token))
	l.send(register("odd", object{"commands": append(slices.Clone(bridgeCommands), "x")}))
	l.want("registered")
	var sent []any
	go l.serve(func(c object) object {
		sent = append(sent, c["params"])
		if c["method"] == "x" {
			return object{"ok": false, "error": "unknown command: x", "data": object{"error": "unknown command: x"}}
		}
		return object{"ok": true, "data": object{}}
	})
	code, out := rest(t, d, "POST", "/v1/nodes/odd/invoke", object{"command": "x", "params": object{}})
	if code != http.StatusServiceUnavailable || !strings.Contains(fmt.Sprint(out["detail"]), "unknown command: x") {
		t.Errorf("%d %v", code, out)
	}
	for i, params := range []any{nil, []any{}, []any{1}, "x", 1, true, false, 0.5, object{}, object{"a": nil}} {
		_, lerr := op.Call(t.Context(), "node.invoke", object{"nodeId": "odd", "command": "status.get", "params": params, "idempotencyKey": fmt.Sprint("p", i)})
		code, _ := rest(t, d, "POST", "/v1/nodes/odd/invoke", object{"command": "status.get", "params": params})
		_, isObject := params.(object)
		if ok := params == nil || isObject; (lerr == nil) != ok || (code == 200) != ok {
			t.Errorf("%#v: %v, %d", params, lerr, code)
		}
	}
	for _, p := range sent {
		if _, ok := p.(object); !ok {
			t.Errorf("params %#v were sent", p)
		}
	}
	if len(sent) != 7 {
		t.Errorf("%d commands were sent", len(sent))
	}
	if a.Ended() {
		t.Error("the agent ended")
	}
}

// What a node reports reaches a watcher of each door, once and in order.
func TestH5Events(t *testing.T) {
	accept(t, "H5")
	const n = 200
	d := linkDaemon(t, nil)
	l := dialLink(t, d, "/v1/tunnel", bearer(proc.Token))
	l.send(register("talker", nil))
	l.want("registered")
	quiet := dialLink(t, d, "/v1/tunnel", bearer(proc.Token))
	quiet.send(register("quiet", nil))
	quiet.want("registered")

	type told struct {
		Door string
		I    int
	}
	got := make(chan told, 10*n)
	note := func(door, node, event string, payload any) {
		if node != "talker" || event != "chat.delta" {
			t.Errorf("%s was told of %s of %s", door, event, node)
			return
		}
		i, _ := payload.(object)["i"].(float64)
		got <- told{door, int(i)}
	}
	legacyOperator(t, d, func(event string, payload json.RawMessage) {
		if event != "node.event" {
			return
		}
		var p struct {
			NodeID, Event string
			Payload       any
		}
		if err := json.Unmarshal(payload, &p); err != nil {
			t.Error(err)
		}
		if p.NodeID == "talker" {
			note("legacy", p.NodeID, p.Event, p.Payload)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := d.Client(t).Nodes.WatchEvents(ctx, &nodesv1.WatchEventsRequest{NodeId: "talker"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			note("grpc", m.GetNodeId(), m.GetEvent(), m.GetPayload().AsInterface())
		}
	}()
	req, err := http.NewRequestWithContext(ctx, "GET", d.URL()+"/v1/nodes/talker/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = bearer(proc.Token)
	req.Header.Set("Accept", "text/event-stream")
	res, err := http.DefaultClient.Do(req)
	if err != nil || res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		t.Fatal(res, err)
	}
	defer res.Body.Close()
	go func() {
		lines := bufio.NewScanner(res.Body)
		for lines.Scan() {
			text, isData := strings.CutPrefix(lines.Text(), "data: ")
			if !isData {
				continue
			}
			var m struct {
				Result struct {
					NodeID, Event string
					Payload       any
				}
				NodeID, Event string
				Payload       any
			}
			if err := json.Unmarshal([]byte(text), &m); err != nil {
				t.Error(err)
			}
			if m.Result.NodeID != "" {
				m.NodeID, m.Event, m.Payload = m.Result.NodeID, m.Result.Event, m.Result.Payload
			}
			note("sse", m.NodeID, m.Event, m.Payload)
		}
	}()
	for i := range n {
		l.send(object{"type": "event", "event": "chat.delta", "data": object{"i": i, "text": "…"}})
		if i%10 == 0 {
			quiet.send(object{"type": "event", "event": "other", "data": object{}})
		}
	}
	next := map[string]int{}
	for range 3 * n {
		select {
		case e := <-got:
			if e.I != next[e.Door] {
				t.Fatalf("%s: event %d came, not %d", e.Door, e.I, next[e.Door])
			}
			next[e.Door]++
		case <-time.After(20 * time.Second):
			t.Fatalf("only %v came", next)
		}
	}
}

// A command of an instance's own is called by every door once the configuration allows it, and by an approval
// of exactly the call where it does not.
func TestH16CustomCommands(t *testing.T) {
	accept(t, "H16")
	d := linkDaemon(t, nil)
	l := dialLink(t, d, "/v1/tunnel", bearer(proc.Token))
	l.send(register("maker", object{"commands": []string{"my.command", "my.other"}, "version": "1.0"}))
	l.want("registered")
	var last object
	go l.serve(func(c object) object {
		last = c
		return object{"ok": true, "data": object{"method": c["method"], "got": c["params"]}}
	})
	params := object{"x": []any{1.0, nil, "y"}}
	writer, err := dial.Dial(t.Context(), func() dial.Options {
		o := d.Operator(nil)
		o.Scopes = []identity.Scope{identity.ScopeRead, identity.ScopeWrite}
		return o
	}())
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	text, err := writer.Call(t.Context(), "node.invoke", object{"nodeId": "maker", "command": "my.command", "params": params, "idempotencyKey": "a"})
	if err != nil || !strings.Contains(string(text), `"got":{"x":[1,null,"y"]}`) {
		t.Errorf("%s %v", text, err)
	}
	code, out := rest(t, d, "POST", "/v1/nodes/maker/invoke", object{"command": "my.command", "params": params})
	if code != 200 || fmt.Sprint(out["payload"].(object)["got"]) != fmt.Sprint(params) {
		t.Errorf("%d %v", code, out)
	}
	// The other one is not in the configuration: who has no admin scope is told how to ask; what a caller says
	// about approvals counts for nothing.
	last = nil
	_, err = writer.Call(t.Context(), "node.invoke", object{"nodeId": "maker", "command": "my.other", "params": object{"approved": true}, "idempotencyKey": "b"})
	if err == nil || !strings.Contains(err.Error(), "--ask") || last != nil {
		t.Errorf("%v, and the node got %v", err, last)
	}
	if _, err = writer.Call(t.Context(), "node.invoke", object{"nodeId": "maker", "command": "my.nothing", "idempotencyKey": "c"}); err == nil {
		t.Error("a command that is not there was called")
	}
	admin := d.Ctl("nodes", "invoke", "maker", "my.other", "--params", `{"y":2}`)
	admin.Wait(t, 20*time.Second)
	if !strings.Contains(admin.Stdout.String(), `"method": "my.other"`) || last["params"].(object)["approved"] != nil {
		t.Errorf("the owner: %s %s, sent %v", admin.Stdout.String(), admin.Stderr.String(), last)
	}
	log := d.Ctl("audit", "list", "-o", "json")
	log.Wait(t, 20*time.Second)
	for _, want := range []string{`"my.other"`, `"my.command"`, `"refusal"`, `"use"`} {
		if !strings.Contains(log.Stdout.String(), want) {
			t.Errorf("the audit log lacks %s", want)
		}
	}
}

// The Instance of the older tunnel, with what is absent and what is null (tunnel.md §1.14).
func TestH24Instance(t *testing.T) {
	accept(t, "H24")
	d := linkDaemon(t, nil)
	link := func(frame object) {
		l := dialLink(t, d, "/v1/tunnel", bearer(proc.Token))
		l.send(frame)
		l.want("registered")
	}
	link(object{"type": "register", "instance_id": "bare", "app_kind": "bot", "display_name": "", "capabilities": []string{}})
	link(register("full", object{"metadata": object{"a": []any{nil, 1}}, "capabilities": []string{"exec", "chat"}}))
	link(register("nulls", object{"metadata": nil, "cwd": nil}))
	always := []string{
		"instance_id", "app_kind", "display_name", "capabilities", "commands", "version", "platform", "connected", "connected_at_ms", "exposed",
		"metadata", "session_url",
	}
	for id, want := range map[string]struct {
		members []string
		values  object
	}{
		"bare":  {always, object{"metadata": nil, "commands": []any{}, "capabilities": []any{}, "exposed": []any{}, "connected": true, "app_kind": "bot"}},
		"full":  {append(slices.Clone(always), "cwd"), object{"metadata": object{"a": []any{nil, 1.0}}, "cwd": "/workspace", "instance_id": "full"}},
		"nulls": {always, object{"metadata": nil}},
	} {
		code, one := rest(t, d, "GET", "/v1/nodes/"+id+"/instance", nil)
		if code != 200 || len(one) != len(want.members) {
			t.Errorf("%s: %d %v", id, code, one)
		}
		for _, m := range want.members {
			if _, ok := one[m]; !ok {
				t.Errorf("%s: %s is absent", id, m)
			}
		}
		for k, v := range want.values {
			if fmt.Sprintf("%#v", one[k]) != fmt.Sprintf("%#v", v) {
				t.Errorf("%s: %s is %#v, not %#v", id, k, one[k], v)
			}
		}
		if at, _ := one["connected_at_ms"].(float64); time.Since(time.UnixMilli(int64(at))) > time.Minute {
			t.Errorf("%s: connected at %v", id, one["connected_at_ms"])
		}
		_, got := rest(t, d, "GET", "/v1/nodes/"+id, nil)
		node := got["node"].(object)
		if fmt.Sprint(node["instance"]) != fmt.Sprint(one) || node["link"] != "tunnel" || node["lastSeen"] == nil {
			t.Errorf("%s: the node is %v", id, node)
		}
	}
	if code, _ := rest(t, d, "GET", "/v1/nodes/nobody/instance", nil); code != http.StatusNotFound {
		t.Errorf("nobody: %d", code)
	}
	code, out := rest(t, d, "GET", "/v1/nodes?app_kind=bot", nil)
	if list, _ := out["nodes"].([]any); code != 200 || len(list) != 1 {
		t.Errorf("the bots: %d %v", code, out)
	}
}

// Each class of error of the crate (tunnel.md §1.14) by every door.
func TestH25Errors(t *testing.T) {
	accept(t, "H25")
	d := linkDaemon(t, nil)
	l := dialLink(t, d, "/v1/tunnel", bearer(proc.Token))
	l.send(register("n", object{"version": "1.0"}))
	l.want("registered")
	go l.serve(func(c object) object {
		if c["params"].(object)["silent"] == true {
			return nil
		}
		return object{"ok": false, "error": "spawn failed: x"}
	})
	gone := dialLink(t, d, "/v1/tunnel", bearer(proc.Token))
	gone.send(register("gone", object{"version": "1.0"}))
	gone.want("registered")
	g := d.Client(t)
	op := legacyOperator(t, d, func(string, json.RawMessage) {})
	invoke := func(node string, params object, ms int) (codes.Code, int, string) {
		c := make(chan codes.Code, 1)
		h := make(chan int, 1)
		go func() {
			in := &nodesv1.InvokeRequest{NodeId: node, Command: "status.get"}
			in.Params, _ = toValue(params)
			in.Timeout = millis(ms)
			_, err := g.Nodes.Invoke(context.Background(), in)
			c <- status.Code(err)
		}()
		go func() {
			code, _ := rest(t, d, "POST", "/v1/nodes/"+node+"/invoke", object{"command": "status.get", "params": params, "timeout": fmt.Sprintf("%d.%03ds", ms/1000, ms%1000)})
			h <- code
		}()
		_, err := op.Call(context.Background(), "node.invoke", object{"nodeId": node, "command": "status.get", "params": params, "timeoutMs": ms, "idempotencyKey": fmt.Sprint(time.Now().UnixNano())})
		text := ""
		if r := proc.Refusal(err); r != nil {
			text = r.Code + " " + r.Message
		}
		return <-c, <-h, text
	}
	for _, c := range []struct {
		class, node string
		params      object
		ms          int
		code        codes.Code
		http        int
		text        string
	}{
		{"timeout", "n", object{"silent": true}, 500, codes.DeadlineExceeded, 504, "UNAVAILABLE TIMEOUT: node invoke timed out"},
		{"the node failed", "n", object{}, 5000, codes.Unavailable, 503, "UNAVAILABLE TUNNEL_ERROR: spawn failed: x"},
		{"discovery", "nobody", object{}, 500, codes.Unavailable, 503, "UNAVAILABLE node not connected"},
	} {
		if code, http, text := invoke(c.node, c.params, c.ms); code != c.code || http != c.http || text != c.text {
			t.Errorf("%s: %v %d %q", c.class, code, http, text)
		}
	}
	// The link goes while it is asked.
	go func() {
		for range 3 {
			if f, err := gone.receive(10 * time.Second); err != nil || f["type"] != "command" {
				t.Error(f, err)
			}
		}
		_ = gone.ws.CloseNow()
	}()
	if code, http, text := invoke("gone", object{}, 20000); code != codes.Unavailable || http != 503 || text != "UNAVAILABLE Error: node disconnected (status.get)" {
		t.Errorf("a lost link: %v %d %q", code, http, text)
	}
	for name, c := range map[string]struct {
		token, path string
		body        object
		want        int
	}{
		"unauthenticated": {"wrong", "/v1/nodes/n/invoke", object{"command": "status.get"}, 401},
		"invalid":         {proc.Token, "/v1/nodes/n/invoke", object{"command": ""}, 400},
		"not an object":   {proc.Token, "/v1/nodes/n/invoke", object{"command": "status.get", "params": []int{1}}, 400},
		"not offered":     {proc.Token, "/v1/nodes/n/invoke", object{"command": "no.such"}, 403},
	} {
		if code, out := restAs(t, d, c.token, "POST", c.path, c.body); code != c.want {
			t.Errorf("%s: %d %v", name, code, out)
		}
	}
	if code, _ := rest(t, d, "GET", "/v1/nodes/nobody", nil); code != 404 {
		t.Errorf("not found: %d", code)
	}
}

// A page of the Control UI calls a command of an agent through the gateway protocol.
func TestH32ControlUI(t *testing.T) {
	accept(t, "H32")
	d := linkDaemon(t, nil)
	agent(t, "H32", "agent-a", withToken(d, "/v1/tunnel", proc.Token))
	joined(t, d, "agent-a")
	o := d.Operator(proc.Device(t))
	o.Client.ID, o.Client.Mode = "openclaw-control-ui", "webchat"
	o.Header = http.Header{"Origin": {d.URL()}}
	op, err := dial.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer op.Close()
	text, err := op.Call(t.Context(), "node.list", object{})
	if err != nil || !strings.Contains(string(text), `"nodeId":"agent-a"`) || !strings.Contains(string(text), `"status.get"`) {
		t.Fatalf("%s %v", text, err)
	}
	if text, err = op.Call(t.Context(), "node.describe", object{"nodeId": "agent-a"}); err != nil || !strings.Contains(string(text), `"connected":true`) {
		t.Errorf("%s %v", text, err)
	}
	for command, want := range map[string]string{"status.get": `"status":"running"`, "exec.run": `"stdout":"hello\n"`} {
		text, err := op.Call(t.Context(), "node.invoke", object{
			"nodeId": "agent-a", "command": command, "params": object{"command": "echo hello"}, "timeoutMs": 20000, "idempotencyKey": command,
		})
		if err != nil || !strings.Contains(string(text), want) || !strings.Contains(string(text), `"payloadJSON":"`) {
			t.Errorf("%s: %s %v", command, text, err)
		}
	}
	// A run of our own, on a node that knows exec.run alone.
	run := d.Ctl("nodes", "run", "agent-a", "--", "echo", "it's", "me")
	run.Wait(t, 30*time.Second)
	if run.Stdout.String() != "it's me\n" {
		t.Errorf("%q %s", run.Stdout.String(), run.Stderr.String())
	}
	info := d.Ctl("nodes", "info", "agent-a")
	info.Wait(t, 20*time.Second)
	if !strings.Contains(info.Stdout.String(), `"status": "running"`) {
		t.Errorf("%s %s", info.Stdout.String(), info.Stderr.String())
	}
	res, err := http.DefaultClient.Do(func() *http.Request {
		r, _ := http.NewRequestWithContext(t.Context(), "POST", d.URL()+"/v1/nodes/agent-a/run", strings.NewReader(`{"command":"echo one; exit 3"}`))
		r.Header = bearer(proc.Token)
		r.Header.Set("Content-Type", "application/json")
		return r
	}())
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || !strings.Contains(string(body), `"stdout":"one\n"`) || !strings.Contains(string(body), `"exitCode":3`) {
		t.Errorf("%s %v", body, err)
	}
}

func toValue(v any) (*structpb.Value, error) { return structpb.NewValue(v) }

func millis(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Millisecond) }
