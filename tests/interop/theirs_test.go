//go:build unix

package interop

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// theirOperator is how our client connects to the client's gateway.
func theirOperator(port int, device *dial.Identity) dial.Options {
	return dial.Options{
		URL: "ws://127.0.0.1:" + strconv.Itoa(port), Client: dial.Client{ID: "gateway-client", Mode: "backend"},
		Role: identity.RoleOperator, Scopes: identity.AllOperatorScopes, Auth: dial.Auth{Token: token}, Device: device,
	}
}

// theirNode waits until the client's command line lists a node as connected.
func theirNode(tb testing.TB, u *client, name string) map[string]any {
	tb.Helper()
	return until(tb, "the node "+name, func() (map[string]any, bool) {
		list, _ := u.json(tb, "nodes", "status", "--connected", "--json")["nodes"].([]any)
		for _, n := range list {
			if get(n, "displayName") == name && get(n, "connected") == true {
				return n.(map[string]any), true
			}
		}
		return nil, false
	})
}

// TestTheirGateway runs hanzod's node host against the client's gateway: it is listed and invoked
// by the client's command line, asks, and comes back when the gateway is started again.
func TestTheirGateway(t *testing.T) {
	t.Parallel()
	theClient(t)
	u, port, gateway := theirGateway(t, token)
	node, state := ourNode(t, port, "our-node")
	n := theirNode(t, u, "our-node")
	id, _ := n["nodeId"].(string)
	ls := which(t, "ls")

	t.Run("listed", func(t *testing.T) {
		u.ok(t, []string{"our-node", "- system.run", "- system.run.prepare", "- system.which"}, "nodes", "describe", "--node", "our-node")
	})
	t.Run("which", func(t *testing.T) {
		v := u.json(t, "nodes", "invoke", "--node", "our-node", "--command", "system.which", "--params", `{"bins":["ls"]}`)
		want(t, v, ls, "payload", "bins", "ls")
	})
	t.Run("policy", func(t *testing.T) {
		v := u.json(t, "approvals", "get", "--node", "our-node", "--json")
		want(t, v, state+"/exec-approvals.json", "path")
		u.ok(t, []string{ls}, "approvals", "set", "--node", "our-node", "--file", policy(t, u.home, "allowlist", "on-miss", ls))
		v = u.json(t, "nodes", "invoke", "--node", "our-node", "--command", "system.run", "--params", `{"command":["`+ls+`","/"]}`)
		want(t, v, float64(0), "payload", "exitCode")
		u.refused(t, []string{"SYSTEM_RUN_DENIED: approval required"},
			"nodes", "invoke", "--node", "our-node", "--command", "system.run", "--params", `{"command":["uname"]}`)
	})
	t.Run("asks", func(t *testing.T) {
		op := proc.Connect(t, theirOperator(port, nil))
		args := []string{"nodes", "run", "--node", "our-node", "--", "uname", "-s"}
		p := u.start(t, "", args...)
		var q struct {
			ID      string
			Request struct{ Command string }
		}
		for e := range op.Events() {
			if e.Name != "exec.approval.requested" {
				continue
			}
			if err := json.Unmarshal(e.Payload, &q); err != nil {
				t.Fatal(err)
			}
			break
		}
		if q.ID == "" || !strings.Contains(q.Request.Command, "uname -s") {
			t.Fatalf("the question is %+v", q)
		}
		proc.Call(t, op, "exec.approval.resolve", map[string]any{"id": q.ID, "decision": "allow-once"})
		finish(t, p, args...).demand(t, 0, "Linux")
	})
	t.Run("approved run", func(t *testing.T) {
		approvedRun(t, proc.Connect(t, theirOperator(port, proc.Device(t))), id)
	})
	t.Run("restart", func(t *testing.T) {
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			gateway.End(signal)
			gateway = startGateway(t, u, port)
			if n := theirNode(t, u, "our-node"); n["nodeId"] != id {
				t.Fatalf("after %v the node came back as %v, was %v", signal, n["nodeId"], id)
			}
			v := u.json(t, "nodes", "invoke", "--node", "our-node", "--command", "system.which", "--params", `{"bins":["ls"]}`)
			want(t, v, ls, "payload", "bins", "ls")
		}
		if node.Ended() {
			t.Fatalf("hanzod node ended with exit code %d", node.Code)
		}
	})
}

// TestTheirGatewayDial calls the client's gateway with our Go client.
func TestTheirGatewayDial(t *testing.T) {
	t.Parallel()
	theClient(t)
	_, port, _ := theirGateway(t, token)
	for name, device := range map[string]*dial.Identity{"with a device": proc.Device(t), "without": nil} {
		t.Run(name, func(t *testing.T) {
			o := theirOperator(port, device)
			c := proc.Connect(t, o)
			if v := c.Hello().ServerVersion; v != clientVersion {
				t.Errorf("the gateway says that it is version %q, want %q", v, clientVersion)
			}
			var v map[string]any
			if err := json.Unmarshal(proc.Call(t, c, "health", nil), &v); err != nil {
				t.Fatal(err)
			}
			want(t, v, true, "ok")
			v = nil
			if err := json.Unmarshal(proc.Call(t, c, "node.list", map[string]any{}), &v); err != nil {
				t.Fatal(err)
			}
			if l, ok := v["nodes"].([]any); !ok || len(l) != 0 {
				t.Errorf("node.list answers %v", v)
			}
			proc.Call(t, c, "status", nil)
			proc.Call(t, c, "system-presence", nil)
			ctx, cancel := context.WithTimeout(context.Background(), proc.Patience)
			defer cancel()
			if _, err := c.Call(ctx, "no.such.method", nil); proc.Refusal(err) == nil || !strings.Contains(err.Error(), "unknown method") {
				t.Errorf("an unknown method: %v", err)
			}
		})
	}
	t.Run("password", func(t *testing.T) {
		const password = "proc-password-83b1c07d"
		u, port := theirUser(t, map[string]any{"mode": "password", "password": password}, nil)
		startGateway(t, u, port)
		o := theirOperator(port, proc.Device(t))
		o.Auth = dial.Auth{Password: password}
		proc.Call(t, proc.Connect(t, o), "health", nil)
		o.Auth.Password = "wrong"
		ctx, cancel := context.WithTimeout(context.Background(), proc.Patience)
		defer cancel()
		if _, err := dial.Dial(ctx, o); err == nil || !strings.Contains(err.Error(), "unauthorized") {
			t.Errorf("the wrong password: %v", err)
		}
	})
	t.Run("wrong token", func(t *testing.T) {
		o := theirOperator(port, nil)
		o.Auth.Token = "wrong"
		ctx, cancel := context.WithTimeout(context.Background(), proc.Patience)
		defer cancel()
		_, err := dial.Dial(ctx, o)
		if err == nil || !strings.Contains(err.Error(), "unauthorized") {
			t.Errorf("the wrong token: %v", err)
		}
	})
}
