//go:build unix

package proc

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"testing"

	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/identity"
)

// Device makes a new device identity.
func Device(tb testing.TB) *dial.Identity {
	tb.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return dial.NewIdentity(key)
}

// Operator is how an operator connects; device may be nil.
func (d *Daemon) Operator(device *dial.Identity) dial.Options {
	return dial.Options{
		URL: d.WS(), Client: dial.Client{ID: "test", Mode: "test", DisplayName: "operator"},
		Role: identity.RoleOperator, Scopes: identity.AllOperatorScopes, Auth: dial.Auth{Token: Token}, Device: device,
	}
}

// Invocation is one invoke that reached a fake node.
type Invocation struct {
	ID             string `json:"id"`
	NodeID         string `json:"nodeId"`
	Command        string `json:"command"`
	ParamsJSON     string `json:"paramsJSON"`
	TimeoutMs      *int64 `json:"timeoutMs"`
	IdempotencyKey string `json:"idempotencyKey"`
}

// Params are the parameters of the invocation as they were sent.
func (i Invocation) Params() map[string]any {
	var m map[string]any
	_ = json.Unmarshal([]byte(i.ParamsJSON), &m) // nil is what a bad text is worth
	return m
}

// Node is how a fake node connects: serve is called for each invoke, in the reader, and returns the
// payload of the answer; nil answers nothing.
func (d *Daemon) Node(device *dial.Identity, serve func(Invocation) any) dial.Options {
	o := dial.Options{
		URL: d.WS(), Client: dial.Client{ID: "node-host", Mode: "node", DisplayName: "fake node"},
		Role: identity.RoleNode, Commands: []string{"system.run", "system.run.prepare", "system.which"}, Caps: []string{"system"},
		Auth: dial.Auth{Token: Token}, Device: device,
	}
	o.OnEvent = func(c *dial.Conn, e dial.Event) {
		if e.Name != "node.invoke.request" {
			return
		}
		var i Invocation
		if json.Unmarshal(e.Payload, &i) != nil {
			return
		}
		if out := serve(i); out != nil {
			Answer(c, i, out)
		}
	}
	return o
}

// Answer answers an invoke. A connection that has gone takes no answer.
func Answer(c *dial.Conn, i Invocation, out any) {
	text, err := json.Marshal(out)
	if err != nil {
		panic(err) // the test's own value
	}
	_ = c.Send("node.invoke.result", map[string]any{"id": i.ID, "nodeId": i.NodeID, "ok": true, "payloadJSON": string(text)})
}

// Ran is the answer of a node to a run that went well.
func Ran() map[string]any {
	return map[string]any{"exitCode": 0, "timedOut": false, "success": true, "stdout": "", "stderr": "", "error": nil}
}

// Connect connects and closes with the test.
func Connect(tb testing.TB, o dial.Options) *dial.Conn {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	c, err := dial.Dial(ctx, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// Call calls a method and fails the test when that fails.
func Call(tb testing.TB, c *dial.Conn, method string, params any) json.RawMessage {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	out, err := c.Call(ctx, method, params)
	if err != nil {
		tb.Fatalf("%s: %v", method, err)
	}
	return out
}

// Refusal is the gateway's refusal in an error, nil when it is something else.
func Refusal(err error) *dial.CallError {
	if e, ok := errors.AsType[*dial.CallError](err); ok {
		return e
	}
	return nil
}

// Question is the parameters of exec.approval.request for a run on a node.
func Question(id, node string, argv []string, cwd string, env map[string]string, timeoutMs int) map[string]any {
	plan := map[string]any{"argv": argv, "cwd": nil, "rawCommand": nil, "agentId": nil, "sessionKey": nil}
	q := map[string]any{
		"id": id, "command": argv[0], "commandArgv": argv, "systemRunPlan": plan, "nodeId": node, "host": "node",
		"timeoutMs": timeoutMs, "twoPhase": true,
	}
	if cwd != "" {
		plan["cwd"], q["cwd"] = cwd, cwd
	}
	if env != nil {
		q["env"] = env
	}
	return q
}

// ApprovedRun is the parameters of node.invoke for a run under an approval.
func ApprovedRun(id, node, key string, argv []string, cwd string, env map[string]string) map[string]any {
	p := map[string]any{"command": argv, "runId": id, "approved": true, "approvalDecision": "allow-once"}
	if cwd != "" {
		p["cwd"] = cwd
	}
	if env != nil {
		p["env"] = env
	}
	return map[string]any{"nodeId": node, "command": "system.run", "params": p, "idempotencyKey": key, "timeoutMs": 20_000}
}
