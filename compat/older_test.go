package compat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/nodes"
)

// older is a node that speaks version 1, as strict as the one in the field: what it cannot read as it
// expects it, is a fault (protocol.md §8).
type older struct {
	t      *testing.T
	ws     *websocket.Conn
	id     string
	connID string
	hello  json.RawMessage
}

// olderFrame is what such a node reads of a message. Other keys do not matter to it.
type olderFrame struct {
	Type    string          `json:"type"`
	ID      string          `json:"id"`
	OK      bool            `json:"ok"`
	Event   string          `json:"event"`
	Seq     *uint64         `json:"seq"`
	Payload json.RawMessage `json:"payload"`
	Error   *struct {
		Code    *string `json:"code"`
		Message *string `json:"message"`
	} `json:"error"`
	Server *struct {
		ConnID string `json:"connId"`
	} `json:"server"`
}

type olderInvoke struct {
	ID         string  `json:"id"`
	NodeID     string  `json:"nodeId"`
	Command    string  `json:"command"`
	ParamsJSON *string `json:"paramsJSON"`
	TimeoutMs  *uint64 `json:"timeoutMs"`
}

// errOlder is why such a node was not let in.
type errOlder struct{ code, message string }

func (e errOlder) Error() string { return e.code + ": " + e.message }

func (o *older) read(limit time.Duration) (olderFrame, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		kind, data, err := o.ws.Read(ctx)
		if err != nil {
			return olderFrame{}, err
		}
		if kind != websocket.MessageText {
			continue
		}
		var f olderFrame
		if err := json.Unmarshal(data, &f); err != nil {
			o.t.Errorf("a node of version 1 cannot read %s: %v", data, err)
		}
		if f.Type == "hello-ok" {
			o.hello = data
		}
		return f, nil
	}
}

func (o *older) send(text string) {
	o.t.Helper()
	if err := o.ws.Write(context.Background(), websocket.MessageText, []byte(text)); err != nil {
		o.t.Fatal(err)
	}
}

// connectOlder goes through the handshake as such a node does. auth is the JSON of its secret.
func (w *world) connectOlder(t *testing.T, id, auth string, commands ...string) (*older, error) {
	t.Helper()
	ws, _, err := websocket.Dial(t.Context(), "ws://"+w.addr+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	ws.SetReadLimit(1 << 20)
	o := &older{t: t, ws: ws, id: id}
	if f, err := o.read(5 * time.Second); err != nil || f.Event != "connect.challenge" {
		t.Fatalf("instead of the challenge came %+v, %v", f, err)
	}
	list, err := json.Marshal(append([]string{}, commands...))
	if err != nil {
		t.Fatal(err)
	}
	name, err := json.Marshal(id)
	if err != nil {
		t.Fatal(err)
	}
	o.send(fmt.Sprintf(`{"type":"req","id":"c-1","method":"connect","params":{"minProtocol":1,"maxProtocol":1,`+
		`"client":{"id":%s,"displayName":"","version":"","platform":"linux-x86_64","mode":"node"},"role":"node","commands":%s,"auth":%s}}`,
		name, list, auth))
	for {
		f, err := o.read(10 * time.Second)
		switch {
		case err != nil:
			return nil, err
		case f.Type == "hello-ok":
			if f.Server == nil || f.Server.ConnID == "" {
				t.Fatalf("the hello is %s", o.hello)
			}
			o.connID = f.Server.ConnID
			return o, nil
		case f.Type == "res" && f.ID == "c-1" && !f.OK:
			if f.Error == nil || f.Error.Code == nil || f.Error.Message == nil {
				t.Fatalf("a refusal without words: %+v", f)
			}
			return nil, errOlder{*f.Error.Code, *f.Error.Message}
		}
	}
}

// invoked waits for a request; all other messages are nothing to such a node.
func (o *older) invoked() olderInvoke {
	o.t.Helper()
	for {
		f, err := o.read(10 * time.Second)
		if err != nil {
			o.t.Fatal(err)
		}
		if f.Event != "node.invoke.request" {
			continue
		}
		var i olderInvoke
		if err := json.Unmarshal(f.Payload, &i); err != nil || i.ParamsJSON == nil || i.NodeID != o.id {
			o.t.Fatalf("%s: %v", f.Payload, err)
		}
		return i
	}
}

func (o *older) result(i olderInvoke, rest string) {
	o.t.Helper()
	o.send(fmt.Sprintf(`{"type":"req","id":"r-%s","method":"node.invoke.result","params":{"id":"%s","nodeId":"%s",%s}}`, i.ID, i.ID, o.id, rest))
}

const (
	olderID   = "5f0c1c62-7d6d-4f2b-9c2e-6a1f8a3f0b11"
	olderAuth = `{"token":"` + secretText + `"}`
)

// A node of the Rust crate connects, is invoked, answers and reports, in its own dialect.
func TestOlderNode(t *testing.T) {
	w := newWorld(t, worldOptions{mode: "token", tcp: true, allow: []string{"terminal.open", "terminal.input", "dev.status"}})
	sub := w.bus.Subscribe(func(e events.Event) bool { return e.Name == "node.event" })
	defer sub.Close()
	op := w.operator("operator.admin")
	o, err := w.connectOlder(t, olderID, olderAuth, "terminal.open", "terminal.resize", "system.run", "dev.status")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(o.hello), `"protocol":1`) || !strings.HasPrefix(string(o.hello), `{"type":"hello-ok"`) {
		t.Errorf("the hello is %.200s", o.hello)
	}
	row := op.call("node.list", "{}").Payload.Raw()
	for _, want := range []string{`"nodeId":"` + olderID + `"`, `"commands":["dev.status","system.run","terminal.open"]`, `"platform":"linux-x86_64"`} {
		if !strings.Contains(row, want) {
			t.Errorf("%s is not in %s", want, row)
		}
	}
	if strings.Contains(row, `"displayName"`) || strings.Contains(row, `"version"`) {
		t.Errorf("empty texts are shown: %s", row)
	}

	invoke := func(command, params string) (id string, i olderInvoke) {
		id = op.ask("node.invoke", `{"nodeId":"`+olderID+`","command":"`+command+`"`+params+`,"idempotencyKey":"`+command+params2key(params)+`"}`)
		return id, o.invoked()
	}
	id, i := invoke("terminal.open", `,"params":{"cols":80},"timeoutMs":5000`)
	if *i.ParamsJSON != `{"cols":80}` || i.TimeoutMs == nil || *i.TimeoutMs != 5000 || i.Command != "terminal.open" {
		t.Errorf("%+v", i)
	}
	o.result(i, `"ok":true,"payloadJSON":"{\"session\":7}","error":null`)
	if f, _ := op.res(id); !f.OK || text(f.Payload, "payload.session") != "7" {
		t.Errorf("%+v", f)
	}
	id, i = invoke("dev.status", "")
	if !json.Valid([]byte(*i.ParamsJSON)) {
		t.Errorf("params are %q", *i.ParamsJSON)
	}
	o.result(i, `"ok":true,"payloadJSON":null,"error":null`)
	if f, _ := op.res(id); !f.OK {
		t.Errorf("%+v", f)
	}
	// The error of a node comes with its details.
	id, i = invoke("terminal.open", `,"params":{"cols":1}`)
	o.result(i, `"ok":false,"payloadJSON":null,"error":{"code":"PTY","message":"no terminal","details":{"errno":[1,"x"]}}`)
	f, _ := op.res(id)
	if f.OK || f.Error.Message != "PTY: no terminal" || string(f.Error.Details) != `{"nodeError":{"code":"PTY","message":"no terminal","details":{"errno":[1,"x"]}}}` {
		t.Errorf("%+v", f.Error)
	}
	// Events without a payload.
	for _, payload := range []string{`null`, `"{\"a\":1}"`} {
		o.send(`{"type":"req","id":"e","method":"node.event","params":{"event":"terminal.output","payloadJSON":` + payload + `}}`)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		e, err := sub.Next(ctx)
		cancel()
		if err != nil {
			t.Fatalf("an event with %s did not arrive: %v", payload, err)
		}
		if r := e.Payload.(nodes.Reported); r.NodeID != olderID || r.Event != "terminal.output" || (payload == "null") != (r.Payload == nil) {
			t.Errorf("%+v", r)
		}
	}
	// Its answers go unread for a long time, its events come, it answers pings.
	w.tick()
	for f, err := o.read(10 * time.Second); f.Event != "tick"; f, err = o.read(10 * time.Second) {
		if err != nil {
			t.Fatal(err)
		}
	}
	// Another one with its id takes its place.
	if _, err := w.connectOlder(t, olderID, olderAuth); err != nil {
		t.Fatal(err)
	}
	for err = nil; err == nil; {
		_, err = o.read(10 * time.Second)
	}
	if e, ok := errors.AsType[websocket.CloseError](err); !ok || e.Code != websocket.StatusPolicyViolation {
		t.Errorf("the first one ended with %v", err)
	}
}

func params2key(s string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(`{}":,`, r) {
			return '-'
		}
		return r
	}, s)
}

// Who is not let in with version 1, and in which words.
func TestOlderRefused(t *testing.T) {
	w := newWorld(t, worldOptions{mode: "token", tcp: true})
	const ids = "invalid connect params: at /client/id: must be equal to constant; at /client/id: must match a schema in anyOf"
	paired := strings.Repeat("ab", 32)
	for _, c := range []struct{ id, auth, want string }{
		{olderID, `{"token":"wrong"}`, "unauthorized: gateway token mismatch (provide gateway auth token)"},
		{olderID, `{"token":""}`, "device identity required"},
		{olderID, `{}`, "device identity required"},
		{"", olderAuth, ids},
		{"   ", olderAuth, ids},
		{" x", olderAuth, ids},
		{strings.Repeat("x", 129), olderAuth, ids},
		{paired, olderAuth, errorWords(t, nodes.ErrDeviceClaimed)},
		{strings.ToUpper(paired), olderAuth, errorWords(t, nodes.ErrDeviceClaimed)},
	} {
		if _, err := w.connectOlder(t, c.id, c.auth); err == nil || !strings.HasSuffix(err.Error(), ": "+c.want) {
			t.Errorf("%.40q with %s: %v, want %q", c.id, c.auth, err, c.want)
		}
	}
	if _, err := w.connectOlder(t, strings.Repeat("x", 128), olderAuth); err != nil {
		t.Error(err)
	}
}

func errorWords(t *testing.T, err error) string {
	t.Helper()
	return shapeOf(err).Message
}

// Version 1 is for nodes, and what it allows stays with it: the frozen words of version 3 are the same
// for everybody else.
func TestVersions(t *testing.T) {
	for _, c := range []struct {
		name, role, id string
		low, high      int
		want           string // the refusal, "" for none
	}{
		{"an operator of version 1", "operator", "test", 1, 1, "protocol mismatch"},
		{"an operator of versions 1 and 2", "operator", "test", 1, 2, "protocol mismatch"},
		{"a node of version 2", "node", "node-host", 2, 2, "protocol mismatch"},
		{"a node of version 4", "node", "node-host", 4, 5, "protocol mismatch"},
		{"a node of versions 1 to 3", "node", "node-host", 1, 3, ""},
		{"a node of versions 1 to 3 with a name of its own", "node", "my-node", 1, 3, "invalid connect params: at /client/id: must be equal to constant; at /client/id: must match a schema in anyOf"},
		{"an operator of version 1 with a name of its own", "operator", "my-tool", 1, 1, "invalid connect params: at /client/id: must be equal to constant; at /client/id: must match a schema in anyOf"},
		{"a node of versions 1 and 2", "node", "my-node", 1, 2, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, worldOptions{mode: "token", tcp: true})
			cl := w.open()
			p := hello{role: c.role, id: c.id, mode: "node"}.params("")
			p = strings.NewReplacer(`"minProtocol":3`, fmt.Sprintf(`"minProtocol":%d`, c.low), `"maxProtocol":3`, fmt.Sprintf(`"maxProtocol":%d`, c.high)).Replace(p)
			cl.write(`{"type":"req","id":"1","method":"connect","params":` + p + `}`)
			f := cl.read()
			if older := c.role == "node" && c.high < 3 && c.low == 1; older != (f.Type == "odd") {
				t.Fatalf("the first message is %+v", f)
			}
			if f.Type == "odd" { // the hello outside of an answer; the answer follows
				if text(f.Payload, "type") != "hello-ok" || text(f.Payload, "protocol") != "1" {
					t.Errorf("%s", f.Payload.Raw())
				}
				inside := cl.read()
				if inside.ID != "1" || inside.Payload.Raw() != f.Payload.Raw() {
					t.Errorf("%s and then %s", f.Payload.Raw(), inside.Payload.Raw())
				}
				return
			}
			if f.OK != (c.want == "") || f.Error.Message != c.want {
				t.Errorf("%v %+v", f.OK, f.Error)
			}
			if f.OK && text(f.Payload, "protocol") != "3" {
				t.Errorf("%s", f.Payload.Raw())
			}
		})
	}
}

// What a node of version 3 may not send, it may not send still.
func TestFrozenNode(t *testing.T) {
	w := newWorld(t, worldOptions{mode: "token", tcp: true})
	n := w.node("n", "system.which")
	for _, c := range []struct{ method, params, want string }{
		{"node.event", `{"event":"x","payloadJSON":null}`, "invalid node.event params: at /payloadJSON: must be string"},
		{"node.invoke.result", `{"id":"i","nodeId":"n","ok":false,"error":{"code":"C","details":{}}}`, "invalid node.invoke.result params: at /error: unexpected property 'details'"},
	} {
		if f := n.call(c.method, c.params); f.OK || f.Error.Message != c.want {
			t.Errorf("%s %s: %+v", c.method, c.params, f.Error)
		}
	}
}
