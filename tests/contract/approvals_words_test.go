package contract

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	wsdial "github.com/hanzoai/hanzod/compat/dial"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/identity"
)

// operatorOf connects an operator, with a device of its own or with none.
func operatorOf(t *testing.T, d *hanzodtest.Daemon, device bool) *wsdial.Conn {
	t.Helper()
	o := wsdial.Options{
		URL: d.WS(), Client: wsdial.Client{ID: "gateway-client", Mode: "backend"}, Role: identity.RoleOperator,
		Scopes: identity.AllOperatorScopes, Auth: wsdial.Auth{Token: d.Token},
	}
	if device {
		id, err := wsdial.LoadOrCreateIdentity(t.TempDir() + "/device.json")
		if err != nil {
			t.Fatal(err)
		}
		o.Device = id
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := wsdial.Dial(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestApprovalWords walks the sentences of nodes-approvals.md §2.3, §3.15 and §3.16 that no recording shows:
// code, message and the code in the details of every refusal, against a daemon with its node host.
func TestApprovalWords(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{Node: true})
	op, other, bare := operatorOf(t, d, true), operatorOf(t, d, true), operatorOf(t, d, false)
	call := func(c *wsdial.Conn, method string, params any) (map[string]any, string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		text, err := c.Call(ctx, method, params)
		var v map[string]any
		if err == nil {
			if err := json.Unmarshal(text, &v); err != nil {
				t.Fatal(err)
			}
			return v, ""
		}
		refused, ok := err.(*wsdial.CallError)
		if !ok {
			t.Fatalf("%s: %v", method, err)
		}
		var details struct{ Code string }
		_ = json.Unmarshal(refused.Details, &details)
		return nil, strings.TrimSuffix(refused.Code+"|"+refused.Message+"|"+details.Code, "|")
	}
	node := ""
	for deadline := time.Now().Add(20 * time.Second); node == ""; {
		v, _ := call(op, "node.list", map[string]any{"connectedOnly": true})
		if list, _ := v["nodes"].([]any); len(list) == 1 {
			node = list[0].(map[string]any)["nodeId"].(string)
		} else if time.Now().After(deadline) {
			t.Fatal("no node")
		} else {
			<-time.After(20 * time.Millisecond)
		}
	}
	type m = map[string]any
	v, _ := call(op, "node.invoke", m{"nodeId": node, "command": "system.run.prepare", "idempotencyKey": "p", "params": m{"command": []string{"true"}, "cwd": "/"}})
	plan := v["payload"].(map[string]any)["plan"]
	argv := plan.(map[string]any)["argv"]
	ask := func(c *wsdial.Conn, id string, more m) string {
		t.Helper()
		p := m{"id": id, "command": "true", "commandArgv": argv, "systemRunPlan": plan, "nodeId": node, "host": "node", "twoPhase": true, "timeoutMs": 60_000}
		for k, x := range more {
			if p[k] = x; x == nil {
				delete(p, k)
			}
		}
		_, refused := call(c, "exec.approval.request", p)
		return refused
	}
	allow := func(id, decision string) string {
		t.Helper()
		_, refused := call(other, "exec.approval.resolve", m{"id": id, "decision": decision})
		return refused
	}
	runs := 0
	run := func(c *wsdial.Conn, params m) string {
		t.Helper()
		p := m{"command": argv, "cwd": "/", "approved": true}
		for k, x := range params {
			if p[k] = x; x == nil {
				delete(p, k)
			}
		}
		runs++
		_, refused := call(c, "node.invoke", m{"nodeId": node, "command": "system.run", "idempotencyKey": "r" + string(rune('a'+runs)), "params": p})
		return refused
	}
	want := func(what, got, text string) {
		t.Helper()
		if got != text {
			t.Errorf("%s: %q, want %q", what, got, text)
		}
	}
	// The requests are two-phase: the first answer comes at once, and says accepted.
	accepted := func(c *wsdial.Conn, id string, more m) {
		t.Helper()
		ready := make(chan string, 1)
		go func() { ready <- ask(c, id, more) }()
		for deadline := time.Now().Add(20 * time.Second); ; {
			if time.Now().After(deadline) {
				t.Fatalf("%s was not asked", id)
			}
			if _, refused := call(other, "exec.approval.resolve", m{"id": id, "decision": "maybe"}); refused == "INVALID_REQUEST|invalid decision" {
				if v, _ := call(other, "exec.approvals.get", m{}); v != nil && pendingNow(d, id) {
					return
				}
			}
			select {
			case refused := <-ready:
				if refused != "" {
					t.Fatalf("%s: %s", id, refused)
				}
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}

	// §3.16, request.
	want("no node", ask(op, "x", m{"nodeId": nil}), "INVALID_REQUEST|nodeId is required for host=node")
	want("a blank node", ask(op, "x", m{"nodeId": "  "}), "INVALID_REQUEST|nodeId is required for host=node")
	want("no plan", ask(op, "x", m{"systemRunPlan": nil}), "INVALID_REQUEST|systemRunPlan is required for host=node")
	want("no argv", ask(op, "x", m{"commandArgv": nil}), "INVALID_REQUEST|commandArgv is required for host=node")
	accepted(op, "once", nil)
	want("the same id", ask(op, "once", nil), "INVALID_REQUEST|approval id already pending")
	// §3.16, resolve and waitDecision.
	want("no such decision", allow("once", "maybe"), "INVALID_REQUEST|invalid decision")
	want("no such id", allow("nothing", "deny"), "INVALID_REQUEST|unknown approval id")
	want("a trimmed id", allow(" once ", "deny"), "INVALID_REQUEST|unknown approval id")
	want("a short id", allow("onc", "deny"), "INVALID_REQUEST|unknown approval id")
	_, refused := call(op, "exec.approval.waitDecision", m{"id": "  "})
	want("wait for nothing", refused, "INVALID_REQUEST|id is required")
	_, refused = call(op, "exec.approval.waitDecision", m{"id": "nothing", "other": 1})
	want("wait for no such id", refused, "INVALID_REQUEST|approval expired or not found")

	// §2.3, in its order.
	want("no run id", run(op, nil), "INVALID_REQUEST|approval override requires params.runId|MISSING_RUN_ID")
	want("a run id that is no text", run(op, m{"runId": 5}), "INVALID_REQUEST|approval override requires params.runId|MISSING_RUN_ID")
	want("an unknown one", run(op, m{"runId": "nothing"}), "INVALID_REQUEST|unknown or expired approval id|UNKNOWN_APPROVAL_ID")
	want("before the answer", run(op, m{"runId": "once"}), "INVALID_REQUEST|approval required|APPROVAL_REQUIRED")
	want("allow", allow("once", "allow-once"), "")
	want("allow again", allow("once", "allow-once"), "INVALID_REQUEST|unknown approval id")
	want("another device", run(other, m{"runId": "once"}), "INVALID_REQUEST|approval id not valid for this device|APPROVAL_DEVICE_MISMATCH")
	want("no device", run(bare, m{"runId": "once"}), "INVALID_REQUEST|approval id not valid for this device|APPROVAL_DEVICE_MISMATCH")
	want("with an environment", run(op, m{"runId": "once", "env": m{"A": "1"}}),
		"INVALID_REQUEST|approval id missing env binding for requested env overrides|APPROVAL_ENV_BINDING_MISSING")
	// Other words are no matter: those of the plan run; the decision that the caller claims neither.
	want("use", run(op, m{"runId": " once ", "command": []string{"false"}, "rawCommand": "whatever", "approved": nil, "approvalDecision": " allow-always "}), "")
	want("use again", run(op, m{"runId": "once"}), "INVALID_REQUEST|approval required|APPROVAL_REQUIRED")
	accepted(op, "env", m{"env": m{"B": "2", "A": "1"}})
	allow("env", "allow-always")
	want("another environment", run(op, m{"runId": "env", "env": m{"A": "1"}}), "INVALID_REQUEST|approval id env binding mismatch|APPROVAL_ENV_MISMATCH")
	want("no environment", run(op, m{"runId": "env"}), "INVALID_REQUEST|approval id env binding mismatch|APPROVAL_ENV_MISMATCH")
	for range 2 { // always is more than once
		want("that environment", run(op, m{"runId": "env", "env": m{"A": "1", "B": "2"}}), "")
	}
	accepted(op, "denied", nil)
	allow("denied", "deny")
	want("denied", run(op, m{"runId": "denied"}), "INVALID_REQUEST|approval required|APPROVAL_REQUIRED")
	accepted(op, "host", m{"host": "gateway"})
	allow("host", "allow-once")
	want("for the gateway", run(op, m{"runId": "host"}), "INVALID_REQUEST|approval id missing node binding|APPROVAL_NODE_BINDING_MISSING")
	accepted(op, "elsewhere", m{"nodeId": "somewhere-else"})
	allow("elsewhere", "allow-once")
	want("for another node", run(op, m{"runId": "elsewhere"}), "INVALID_REQUEST|approval id not valid for this node|APPROVAL_NODE_MISMATCH")
	accepted(op, "short", m{"timeoutMs": 400})
	allow("short", "allow-once")
	<-time.After(600 * time.Millisecond)
	want("expired", run(op, m{"runId": "short"}), "INVALID_REQUEST|approval expired|APPROVAL_EXPIRED")
	// Without a device an approval is of the connection that asked.
	accepted(bare, "bare", nil)
	allow("bare", "allow-once")
	want("another client", run(op, m{"runId": "bare"}), "INVALID_REQUEST|approval id not valid for this client|APPROVAL_CLIENT_MISMATCH")
	want("another connection", run(operatorOf(t, d, false), m{"runId": "bare"}), "INVALID_REQUEST|approval id not valid for this client|APPROVAL_CLIENT_MISMATCH")
	want("the same client", run(bare, m{"runId": "bare"}), "")
	// Without a claim the words have to agree (§3.4).
	want("other words", run(op, m{"approved": nil, "command": []string{"true"}, "rawCommand": "false"}), "INVALID_REQUEST|INVALID_REQUEST: rawCommand does not match command|RAW_COMMAND_MISMATCH")
	want("words alone", run(op, m{"approved": "yes", "command": nil, "rawCommand": "true"}), "INVALID_REQUEST|rawCommand requires params.command|MISSING_COMMAND")
	want("no claim", run(op, m{"approved": 1, "approvalDecision": "deny", "command": []string{"id", "-un"}}), "UNAVAILABLE|UNAVAILABLE: SYSTEM_RUN_DENIED: approval required")

	// §3.15.
	file := m{"version": 1, "defaults": m{}, "agents": m{}}
	for _, c := range []struct {
		what   string
		method string
		params m
		want   string
	}{
		{"no hash", "exec.approvals.set", m{"file": file}, "INVALID_REQUEST|exec approvals base hash required; re-run exec.approvals.get and retry"},
		{"a blank hash", "exec.approvals.set", m{"file": file, "baseHash": "  "}, "INVALID_REQUEST|exec approvals base hash required; re-run exec.approvals.get and retry"},
		{"an old hash", "exec.approvals.set", m{"file": file, "baseHash": "00"}, "INVALID_REQUEST|exec approvals changed since last load; re-run exec.approvals.get and retry"},
		{"no hash for a node", "exec.approvals.node.set", m{"nodeId": node, "file": file},
			"UNAVAILABLE|INVALID_REQUEST: Error: INVALID_REQUEST: exec approvals base hash required; reload and retry"},
		{"an old hash for a node", "exec.approvals.node.set", m{"nodeId": node, "file": file, "baseHash": "00"},
			"UNAVAILABLE|INVALID_REQUEST: Error: INVALID_REQUEST: exec approvals changed; reload and retry"},
		{"a blank node", "exec.approvals.node.get", m{"nodeId": "  "}, "INVALID_REQUEST|nodeId required"},
		{"a node that is not there", "exec.approvals.node.get", m{"nodeId": "nobody"}, "UNAVAILABLE|NOT_CONNECTED: node not connected"},
	} {
		_, refused := call(op, c.method, c.params)
		want(c.what, refused, c.want)
	}
}

// pendingNow reports whether the daemon has a question open.
func pendingNow(d *hanzodtest.Daemon, id string) bool {
	out, err := pendingIDs(d)
	return err == nil && strings.Contains(out, " "+id+" ")
}

func pendingIDs(d *hanzodtest.Daemon) (string, error) {
	c, err := client.Dial(context.Background(), client.Options{Socket: d.Socket()})
	if err != nil {
		return "", err
	}
	defer c.Close()
	out, err := c.Approvals.ListApprovals(context.Background(), &approvalsv1.ListApprovalsRequest{})
	ids := " "
	for _, a := range out.GetApprovals() {
		ids += a.GetId() + " "
	}
	return ids, err
}
