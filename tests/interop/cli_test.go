//go:build unix

package interop

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// TestCLIGateway drives hanzod with the client's commands that look at a gateway, with its address
// and secret given in each way that the client has.
func TestCLIGateway(t *testing.T) {
	t.Parallel()
	theClient(t)
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	port := strconv.Itoa(d.Port)
	u := userOf(t, d.Port, token, nil)
	run := func(name string, f func(*testing.T)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t)
		})
	}

	run("call", func(t *testing.T) {
		v := u.json(t, "gateway", "call", "health", "--json")
		want(t, v, true, "ok")
		want(t, v, "main", "defaultAgentId")
		want(t, v, true, "agents", 0, "isDefault")
		u.ok(t, []string{"Gateway call: status", `"channelSummary"`}, "gateway", "call", "status")
		v = u.json(t, "gateway", "call", "node.list", "--json", "--params", `{"connectedOnly":true}`)
		if get(v, "nodes") == nil || get(v, "ts") == nil {
			t.Fatalf("node.list answers %v", v)
		}
	})
	run("probe", func(t *testing.T) {
		v := u.json(t, "gateway", "probe", "--json")
		want(t, v, true, "ok")
		u.ok(t, []string{"Reachable: yes"}, "gateway", "probe")
	})
	run("call refused", func(t *testing.T) {
		u.refused(t, []string{"unknown method: no.such.method"}, "gateway", "call", "no.such.method")
		u.refused(t, []string{"invalid node.invoke params: must have required property 'nodeId'", "unexpected property 'x'"},
			"gateway", "call", "node.invoke", "--params", `{"x":1}`)
		u.refused(t, []string{"node not connected"},
			"gateway", "call", "node.invoke", "--params", `{"nodeId":"nobody","command":"system.which","idempotencyKey":"k"}`)
	})
	run("health", func(t *testing.T) {
		u.ok(t, []string{"Gateway Health", "OK ("}, "gateway", "health")
		want(t, u.json(t, "gateway", "health", "--json"), true, "ok")
		u.ok(t, []string{"Agents: main (default)", "0 entries"}, "health")
		u.ok(t, []string{"Agents: main (default)"}, "health", "--verbose")
		v := u.json(t, "health", "--json")
		want(t, v, true, "ok")
		want(t, v, "main", "agents", 0, "agentId")
	})
	run("gateway status", func(t *testing.T) {
		u.ok(t, []string{"RPC probe: ok", "port=" + port}, "gateway", "status")
		want(t, u.json(t, "gateway", "status", "--json"), true, "rpc", "ok")
		want(t, u.json(t, "gateway", "status", "--json", "--deep"), true, "rpc", "ok")
	})
	run("presence", func(t *testing.T) {
		a := u.ok(t, []string{`"mode": "gateway"`, `"reason": "self"`}, "system", "presence", "--json")
		if strings.Contains(a.stdout, token) {
			t.Fatalf("presence shows the token\n%s", a)
		}
	})
	run("logs", func(t *testing.T) {
		u.ok(t, []string{"hanzod.log", " info gateway ", "a client connected"}, "logs", "--limit", "20", "--plain")
		a := u.ok(t, []string{`"type":"meta"`, `"type":"log"`, `"subsystem":"gateway"`}, "logs", "--limit", "5", "--json")
		if strings.Contains(a.stdout, token) {
			t.Fatalf("the log holds the token\n%s", a)
		}
	})
	run("logs follow", func(t *testing.T) {
		p := u.start(t, "", "logs", "--follow", "--plain", "--interval", "200")
		proc.UntilFor(t, patience, "the log to be followed", func() bool { return strings.Contains(p.Stdout.String(), "client") })
		seen := strings.Count(p.Stdout.String(), "client=test")
		_ = proc.Connect(t, d.Operator(nil)).Close()
		proc.UntilFor(t, patience, "the new line", func() bool { return strings.Count(p.Stdout.String(), "client=test") > seen })
	})
	run("token", func(t *testing.T) {
		// Each from a user without environment, and with a device of its own.
		url := "ws://" + net.JoinHostPort("127.0.0.1", port)
		newClient(t, nil).ok(t, []string{"OK ("}, "gateway", "health", "--url", url, "--token", token)
		newClient(t, map[string]any{"gateway": map[string]any{
			"mode": "local", "port": d.Port, "auth": map[string]any{"mode": "token", "token": token},
		}}).ok(t, []string{"OK ("}, "gateway", "health")
		newClient(t, map[string]any{"gateway": map[string]any{
			"mode": "remote", "remote": map[string]any{"url": url, "token": token},
		}}).ok(t, []string{"Agents: main"}, "health")
	})
	run("wrong token", func(t *testing.T) {
		bad := userOf(t, d.Port, "wrong-token-0123456789abcdef", nil)
		why := []string{"unauthorized: gateway token mismatch (set gateway.remote.token to match gateway.auth.token)"}
		bad.refused(t, why, "gateway", "call", "health")
		bad.refused(t, why, "nodes", "status")
		v := bad.json(t, "gateway", "status", "--json")
		want(t, v, false, "rpc", "ok")
		if text, _ := get(v, "rpc", "error").(string); !strings.Contains(text, why[0]) {
			t.Fatalf("gateway status says %q", text)
		}
	})
	run("no token", func(t *testing.T) {
		userOf(t, d.Port, "", nil).refused(t, []string{"unauthorized: gateway token missing"}, "gateway", "call", "health")
	})
	run("nobody there", func(t *testing.T) {
		userOf(t, proc.FreePort(t), token, nil).refused(t, []string{"Gateway call failed"}, "gateway", "call", "health")
	})
}

// TestCLIPassword is the password mode with the client.
func TestCLIPassword(t *testing.T) {
	t.Parallel()
	theClient(t)
	const password = "proc-password-83b1c07d"
	d := proc.Start(t, proc.Options{Form: proc.Tested, Config: map[string]any{
		"gateway": map[string]any{"auth": map[string]any{"mode": "password", "password": password}},
	}})
	url := "ws://" + d.Addr()
	newClient(t, nil).ok(t, []string{"OK ("}, "gateway", "health", "--url", url, "--password", password)
	newClient(t, nil, "OPENCLAW_GATEWAY_PORT="+strconv.Itoa(d.Port), "OPENCLAW_GATEWAY_PASSWORD="+password).
		ok(t, []string{"OK ("}, "gateway", "health")
	newClient(t, nil).refused(t, []string{"unauthorized: gateway password mismatch"},
		"gateway", "call", "health", "--url", url, "--password", "wrong")
}

// TestCLINodes drives hanzod, and hanzod's node host behind it, with the client's commands for nodes.
func TestCLINodes(t *testing.T) {
	t.Parallel()
	theClient(t)
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	ourNode(t, d.Port, "box")
	id, _ := listed(t, d, "box")["nodeId"].(string)
	u := userOf(t, d.Port, token, nil)
	// full lets a run through without asking, where the node's policy does too.
	full := userOf(t, d.Port, token, map[string]any{"tools": map[string]any{"exec": map[string]any{"security": "full", "ask": "off"}}})
	ls := which(t, "ls")

	t.Run("status", func(t *testing.T) {
		v := u.json(t, "nodes", "status", "--json")
		want(t, v, id, "nodes", 0, "nodeId")
		want(t, v, "box", "nodes", 0, "displayName")
		want(t, v, true, "nodes", 0, "connected")
		if caps, _ := get(v, "nodes", 0, "caps").([]any); !slices.Contains(caps, any("system")) {
			t.Errorf("the capabilities are %v", caps)
		}
		u.ok(t, []string{"Known: 1", "Connected: 1", "box"}, "nodes", "status")
		u.ok(t, []string{"Connected: 1"}, "nodes", "status", "--connected", "--last-connected", "1h")
	})
	t.Run("describe", func(t *testing.T) {
		for _, by := range []string{"box", id, id[:8]} {
			u.ok(t, []string{"connected", "- system.run", "- system.run.prepare", "- system.which"}, "nodes", "describe", "--node", by)
		}
		want(t, u.json(t, "nodes", "describe", "--node", "box", "--json"), id, "nodeId")
		u.refused(t, []string{"unknown node: nowhere (known: box)"}, "nodes", "describe", "--node", "nowhere")
	})
	t.Run("invoke", func(t *testing.T) {
		v := u.json(t, "nodes", "invoke", "--node", "box", "--command", "system.which", "--params", `{"bins":["ls","no-such-program"]}`, "--json")
		want(t, v, true, "ok")
		want(t, v, id, "nodeId")
		want(t, v, ls, "payload", "bins", "ls")
		want(t, v, nil, "payload", "bins", "no-such-program")
		u.ok(t, []string{ls}, "nodes", "invoke", "--node", "box", "--command", "system.which", "--params", `{"bins":["ls"]}`,
			"--idempotency-key", "interop-1", "--invoke-timeout", "5000")
		u.refused(t, []string{`node command not allowed: "no.such" is not in the allowlist for platform "linux"`},
			"nodes", "invoke", "--node", "box", "--command", "no.such")
		u.refused(t, []string{"bins required"}, "nodes", "invoke", "--node", "box", "--command", "system.which")
		// The client itself keeps runs to its own command.
		u.refused(t, nil, "nodes", "invoke", "--node", "box", "--command", "system.execApprovals.get")
	})
	t.Run("run asks", func(t *testing.T) {
		args := []string{"nodes", "run", "--node", "box", "--", "uname", "-s"}
		p := u.start(t, "", args...)
		decide(t, d, "uname -s", "once")
		finish(t, p, args...).demand(t, 0, "Linux")
	})
	t.Run("run raw", func(t *testing.T) {
		args := []string{"nodes", "run", "--node", "box", "--raw", "echo to-stdout; echo to-stderr >&2; exit 3"}
		p := u.start(t, "", args...)
		decide(t, d, "to-stderr", "once")
		finish(t, p, args...).demand(t, 1, "to-stdout", "to-stderr", "run exit 3")
	})
	t.Run("run denied", func(t *testing.T) {
		args := []string{"nodes", "run", "--node", "box", "--", "touch", u.path("ran")}
		p := u.start(t, "", args...)
		decide(t, d, "touch", "deny")
		finish(t, p, args...).demand(t, 1, "exec denied")
		if _, err := os.Stat(u.path("ran")); err == nil {
			t.Fatal("what was denied has run")
		}
	})
	t.Run("approvals", func(t *testing.T) {
		v := u.json(t, "approvals", "get", "--node", "box", "--json")
		want(t, v, true, "exists")
		want(t, v, float64(1), "file", "version")
		if get(v, "file", "socket", "token") != nil {
			t.Fatalf("approvals get shows the token of the socket: %v", v)
		}
		u.ok(t, []string{"node:" + id, "No allowlist entries."}, "approvals", "get", "--node", "box")
		u.ok(t, []string{ls, "main"}, "approvals", "allowlist", "add", "--node", "box", "--agent", "main", ls)
		want(t, u.json(t, "approvals", "get", "--node", "box", "--json"), ls, "file", "agents", "main", "allowlist", 0, "pattern")
		// What is listed runs without a question.
		want(t, u.json(t, "nodes", "invoke", "--node", "box", "--command", "system.run", "--params", `{"command":["`+ls+`","/"]}`),
			float64(0), "payload", "exitCode")
		u.ok(t, []string{"No allowlist entries."}, "approvals", "allowlist", "remove", "--node", "box", "--agent", "main", ls)
		u.refused(t, []string{"SYSTEM_RUN_DENIED: approval required"},
			"nodes", "invoke", "--node", "box", "--command", "system.run", "--params", `{"command":["`+ls+`","/"]}`)
	})
	t.Run("run by policy", func(t *testing.T) {
		v := u.json(t, "approvals", "set", "--node", "box", "--file", policy(t, u.home, "full", "off"), "--json")
		want(t, v, "full", "file", "defaults", "security")
		v = full.json(t, "nodes", "run", "--node", "box", "--cwd", "/", "--env", "INTEROP=yes", "--json", "--", "sh", "-c", "pwd; echo to-stderr >&2; exit 3")
		want(t, v, "/\n", "payload", "stdout")
		want(t, v, "to-stderr\n", "payload", "stderr")
		want(t, v, float64(3), "payload", "exitCode")
		full.ok(t, []string{"yes"}, "nodes", "run", "--node", "box", "--env", "INTEROP=yes", "printenv", "INTEROP")
		full.refused(t, []string{"run timed out"}, "nodes", "run", "--node", "box", "--command-timeout", "300", "--", "sleep", "20")
		full.refused(t, []string{"TIMEOUT: node invoke timed out"}, "nodes", "run", "--node", "box", "--invoke-timeout", "300", "--", "sleep", "2")
		full.refused(t, []string{"SYSTEM_RUN_DENIED: approval requires a stable executable path"}, "nodes", "run", "--node", "box", "--", "no-such-program")
	})
	t.Run("run under deny", func(t *testing.T) {
		u.ok(t, nil, "approvals", "set", "--node", "box", "--file", policy(t, u.home, "deny", "off"))
		full.refused(t, []string{"exec denied"}, "nodes", "run", "--node", "box", "--", "uname")
		u.refused(t, []string{"SYSTEM_RUN_DISABLED: security=deny"},
			"nodes", "invoke", "--node", "box", "--command", "system.run", "--params", `{"command":["uname"]}`)
	})
	t.Run("stale policy", func(t *testing.T) {
		// The client reads the file, and sends its hash with the change. A hash that is old is refused.
		text, err := os.ReadFile(policy(t, u.home, "allowlist", "on-miss"))
		if err != nil {
			t.Fatal(err)
		}
		u.refused(t, []string{"exec approvals changed; reload and retry"}, "gateway", "call", "exec.approvals.node.set",
			"--params", `{"nodeId":"`+id+`","baseHash":"0000","file":`+string(text)+`}`)
	})
	t.Run("rename", func(t *testing.T) {
		u.ok(t, []string{"renamed-box"}, "nodes", "rename", "--node", "box", "--name", "renamed-box")
		want(t, u.json(t, "nodes", "status", "--json"), "renamed-box", "nodes", 0, "displayName")
	})
}

// TestCLINodePairing takes requests of nodes through the older store of pairings (protocol.md §4.9).
func TestCLINodePairing(t *testing.T) {
	t.Parallel()
	theClient(t)
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	u := userOf(t, d.Port, token, nil)
	request := func(node string) string {
		v := u.json(t, "gateway", "call", "node.pair.request", "--json", "--params",
			`{"nodeId":"`+node+`","displayName":"name of `+node+`","platform":"ios"}`)
		want(t, v, "pending", "status")
		id, _ := get(v, "request", "requestId").(string)
		return id
	}
	u.ok(t, []string{"Pending: 0", "Paired: 0"}, "nodes", "list")
	u.ok(t, []string{"No pending pairing requests."}, "nodes", "pending")
	first, second := request("node-1"), request("node-2")
	u.ok(t, []string{first, second, "name of node-1"}, "nodes", "pending")
	u.ok(t, []string{"Pending: 2"}, "nodes", "list")
	if text := ctl(t, d, "nodes", "pending"); !strings.Contains(text, "name of node-1") || !strings.Contains(text, "name of node-2") {
		t.Errorf("hanzoctl lists other requests:\n%s", text)
	}
	want(t, u.json(t, "nodes", "approve", first), "node-1", "node", "nodeId")
	want(t, u.json(t, "nodes", "reject", second), "node-2", "nodeId")
	u.refused(t, []string{"unknown requestId"}, "nodes", "approve", first)
	u.ok(t, []string{"Pending: 0", "Paired: 1", "name of node-1"}, "nodes", "list")
}

// TestCLIGatewayApprovals reads and writes the exec approvals file of the gateway's own machine.
func TestCLIGatewayApprovals(t *testing.T) {
	t.Parallel()
	theClient(t)
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	u := userOf(t, d.Port, token, nil)
	v := u.json(t, "approvals", "get", "--gateway", "--json")
	want(t, v, filepath.Join(d.State, "exec-approvals.json"), "path")
	u.ok(t, []string{"Target", "gateway", "No allowlist entries."}, "approvals", "get", "--gateway")

	text, err := os.ReadFile(policy(t, u.home, "allowlist", "always", "/usr/bin/uptime"))
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"approvals", "set", "--gateway", "--stdin", "--json"}
	v = finish(t, u.start(t, string(text), args...), args...).object(t)
	want(t, v, "always", "file", "defaults", "ask")
	u.ok(t, []string{"security=allowlist, ask=always", "/usr/bin/uptime"}, "approvals", "get", "--gateway")
	u.ok(t, []string{"/usr/bin/uname", "/usr/bin/uptime"}, "approvals", "allowlist", "add", "--gateway", "--agent", "main", "/usr/bin/uname")
	if text := ctl(t, d, "approvals", "get", "-o", "json"); !strings.Contains(text, "/usr/bin/uname") {
		t.Fatalf("hanzoctl shows another file: %s", text)
	}
	// The client itself makes a file of version 1 of whatever it is given, so this goes past it.
	u.refused(t, []string{"invalid exec.approvals.set params: at /file/version: must be equal to constant"},
		"gateway", "call", "exec.approvals.set", "--params", `{"file":{"version":2}}`)
	args = []string{"approvals", "set", "--gateway", "--stdin"}
	finish(t, u.start(t, `{"version":1,`, args...), args...).demand(t, 1)
	u.ok(t, []string{"security=allowlist, ask=always"}, "approvals", "get", "--gateway")
}

// TestCLIFirst runs commands that a user tries first and that tell of the gateway what hanzod's own
// pages say elsewhere.
func TestCLIFirst(t *testing.T) {
	t.Parallel()
	theClient(t)
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	u := userOf(t, d.Port, token, nil)
	u.ok(t, []string{"http://127.0.0.1:" + strconv.Itoa(d.Port) + "/"}, "dashboard", "--no-open")
	u.ok(t, nil, "node", "status")
	a := u.call(t, "gateway", "call", "health", "--timeout", "1")
	if a.code != 0 && !strings.Contains(a.stderr, "gateway timeout after 1ms") || a.took > 30*time.Second {
		t.Fatalf("a call that may take 1 ms\n%s", a)
	}
}
