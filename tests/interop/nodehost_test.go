//go:build unix

package interop

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// run runs a command on a node with hanzoctl, as TestNodeHost's user would, and returns how it ended.
func run(tb testing.TB, d *proc.Daemon, node string, argv ...string) *proc.Command {
	tb.Helper()
	return d.Ctl(append([]string{"nodes", "run", node, "--"}, argv...)...)
}

// ended waits for a run and demands its exit code and a text of its output.
func ended(tb testing.TB, c *proc.Command, code int, text string) {
	tb.Helper()
	c.Wait(tb, patience)
	if out := c.Stdout.String() + c.Stderr.String(); c.Code != code || !strings.Contains(out, text) {
		tb.Fatalf("exit code %d, want %d; output, which should hold %q:\n%s", c.Code, code, text, out)
	}
}

// TestNodeHost runs the client's node host against hanzod: hanzoctl lists and invokes it, and its
// policy decides what runs, what is asked and what is refused.
func TestNodeHost(t *testing.T) {
	t.Parallel()
	theClient(t)
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	u := userOf(t, d.Port, token, nil)
	u.nodeHost(t, d.Port, "box", false)
	n := listed(t, d, "box")
	id, _ := n["nodeId"].(string)
	ls, uname := which(t, "ls"), which(t, "uname")

	t.Run("listed", func(t *testing.T) {
		n := ctlJSON(t, d, "nodes", "describe", "box")
		want(t, n, clientVersion, "version")
		var commands []string
		for _, c := range n["commands"].([]any) {
			commands = append(commands, c.(string))
		}
		for _, c := range []string{"system.run", "system.run.prepare", "system.which"} {
			if !strings.Contains(strings.Join(commands, " ")+" ", c+" ") {
				t.Errorf("%s is not among the commands %v", c, commands)
			}
		}
		// Its own commands for the policy file are no commands for operators.
		if strings.Contains(strings.Join(commands, " "), "execApprovals") {
			t.Errorf("operators may invoke %v", commands)
		}
		// And the client's other half sees its node through hanzod.
		want(t, u.json(t, "nodes", "describe", "--node", "box", "--json"), id, "nodeId")
	})
	t.Run("which", func(t *testing.T) {
		v := ctlJSON(t, d, "nodes", "invoke", "box", "system.which", "--params", `{"bins":["ls","no-such-program"]}`)
		if text, _ := json.Marshal(v); !strings.Contains(string(text), `"ls":"`+ls+`"`) || strings.Contains(string(text), "no-such-program") {
			t.Fatalf("system.which answers %s", text)
		}
	})
	t.Run("once", func(t *testing.T) {
		c := run(t, d, "box", "uname", "-s")
		decide(t, d, "uname -s", "once")
		ended(t, c, 0, "Linux")
		// It is asked again.
		c = run(t, d, "box", "uname", "-s")
		decide(t, d, "uname -s", "deny")
		ended(t, c, 77, "denied")
	})
	t.Run("exit code and output", func(t *testing.T) {
		c := run(t, d, "box", "sh", "-c", "echo to-stdout; echo to-stderr >&2; exit 7")
		decide(t, d, "to-stderr", "once")
		ended(t, c, 7, "to-stdout")
		if !strings.Contains(c.Stderr.String(), "to-stderr") {
			t.Errorf("stderr is %q", c.Stderr)
		}
	})
	t.Run("its own run command", func(t *testing.T) {
		args := []string{"nodes", "run", "--node", "box", "--cwd", u.home, "--", "touch", "made"}
		p := u.start(t, "", args...)
		decide(t, d, "touch made", "once")
		finish(t, p, args...).demand(t, 0)
		if _, err := os.Stat(u.path("made")); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("always", func(t *testing.T) {
		ctl(t, d, "approvals", "set", "--node", "box", "--file", policy(t, u.home, "allowlist", "on-miss"))
		c := run(t, d, "box", "ls", "/")
		decide(t, d, "ls /", "allow-always") // as the client's own operators answer
		ended(t, c, 0, "etc")
		if text := ctl(t, d, "approvals", "get", "--node", "box", "-o", "json"); !strings.Contains(text, ls) {
			t.Fatalf("the node has not stored %s:\n%s", ls, text)
		}
		ended(t, run(t, d, "box", "ls", "/"), 0, "etc") // nobody is asked
	})
	t.Run("allow-list", func(t *testing.T) {
		ctl(t, d, "approvals", "set", "--node", "box", "--file", policy(t, u.home, "allowlist", "off", uname))
		ended(t, run(t, d, "box", uname, "-s"), 0, "Linux")
		u.refused(t, []string{"SYSTEM_RUN_DENIED: allowlist miss"},
			"nodes", "invoke", "--node", "box", "--command", "system.run", "--params", `{"command":["`+ls+`","/"]}`)
		// hanzoctl asks all the same: an approval allows what the list does not.
		c := run(t, d, "box", "ls", "/etc")
		decide(t, d, "ls /etc", "once")
		ended(t, c, 0, "passwd")
		// What is allowed always is kept here, and the node need not know.
		c = run(t, d, "box", "ls", "/etc")
		decide(t, d, "ls /etc", "always")
		ended(t, c, 0, "passwd")
		ended(t, run(t, d, "box", "ls", "/etc"), 0, "passwd")
		if text := ctl(t, d, "approvals", "get", "--node", "box", "-o", "json"); strings.Contains(text, ls) {
			t.Fatalf("the node has stored %s:\n%s", ls, text)
		}
	})
	t.Run("full", func(t *testing.T) {
		ctl(t, d, "approvals", "set", "--node", "box", "--file", policy(t, u.home, "full", "off"))
		ended(t, run(t, d, "box", "sh", "-c", "exit 5"), 5, "")
	})
	t.Run("deny", func(t *testing.T) {
		ctl(t, d, "approvals", "set", "--node", "box", "--file", policy(t, u.home, "deny", "off"))
		ended(t, run(t, d, "box", "ls", "/"), 77, "SYSTEM_RUN_DISABLED: security=deny")
	})
}

// TestNodeHostApproved uses an approval over the legacy door as an agent would: what runs on the
// client's node is what was approved, and it runs once.
func TestNodeHostApproved(t *testing.T) {
	t.Parallel()
	theClient(t)
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	u := userOf(t, d.Port, token, nil)
	u.nodeHost(t, d.Port, "box", false)
	id, _ := listed(t, d, "box")["nodeId"].(string)
	approvedRun(t, proc.Connect(t, d.Operator(proc.Device(t))), id)
}

// approvedRun asks for an approval of a run on a node, decides, and uses it: once.
func approvedRun(t *testing.T, op *dial.Conn, node string) {
	t.Helper()
	echo := which(t, "echo")
	argv := []string{echo, "approved"}
	call := func(method string, params any) (map[string]any, error) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		text, err := op.Call(ctx, method, params)
		var v map[string]any
		_ = json.Unmarshal(text, &v)
		return v, err
	}
	must := func(method string, params any) map[string]any {
		t.Helper()
		v, err := call(method, params)
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		return v
	}
	must("exec.approval.request", proc.Question("interop-approval", node, argv, "", nil, 60_000))
	must("exec.approval.resolve", map[string]any{"id": "interop-approval", "decision": "allow-once"})
	v := must("node.invoke", proc.ApprovedRun("interop-approval", node, "interop-run-1", []string{echo, "something else"}, "", nil))
	want(t, v, "approved\n", "payload", "stdout")
	_, err := call("node.invoke", proc.ApprovedRun("interop-approval", node, "interop-run-2", argv, "", nil))
	if refused, ok := errors.AsType[*dial.CallError](err); !ok || !strings.Contains(string(refused.Details), "APPROVAL_REQUIRED") {
		t.Fatalf("the second use of an approval for once: %v", err)
	}
}

// TestNodeHostRestart kills and stops hanzod and starts it again on its port: the client's node comes
// back by itself and is invoked again, under the same id.
func TestNodeHostRestart(t *testing.T) {
	t.Parallel()
	theClient(t)
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	u := userOf(t, d.Port, token, nil)
	w := u.nodeHost(t, d.Port, "box", true)
	id := listed(t, d, "box")["nodeId"]
	for _, end := range []struct {
		how string
		do  func()
	}{{"killed", d.Kill}, {"stopped", func() { d.Stop() }}} {
		end.do()
		d.Start()
		if n := listed(t, d, "box"); n["nodeId"] != id {
			t.Fatalf("%s: the node came back as %v, was %v", end.how, n["nodeId"], id)
		}
		ctl(t, d, "nodes", "invoke", "box", "system.which", "--params", `{"bins":["ls"]}`)
		c := run(t, d, "box", "uname", "-s")
		decide(t, d, "uname -s", "once")
		ended(t, c, 0, "Linux")
		if w.Ended() {
			t.Fatalf("%s: the node host ended with exit code %d", end.how, w.Code)
		}
	}
	// It was told why the second time.
	if !strings.Contains(w.output(), "(1012): service restart") {
		t.Errorf("the node host says nothing of a restart:\n%s", w.output())
	}
}
