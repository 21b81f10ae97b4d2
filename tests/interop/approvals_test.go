//go:build unix

package interop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// TestCLIApprovals runs commands with the client's command line on hanzod's node host, and answers with
// hanzoctl in another process: every answer, every way of asking, and what the client is known to get wrong.
func TestCLIApprovals(t *testing.T) {
	t.Parallel()
	theClient(t)
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	ourNode(t, d.Port, "box")
	listed(t, d, "box")
	asking := func(ask, security string) *client {
		return userOf(t, d.Port, token, map[string]any{"tools": map[string]any{"exec": map[string]any{"security": security, "ask": ask}}})
	}
	u := asking("on-miss", "allowlist")
	run := func(t *testing.T, u *client, decision, text string, code int, says []string, argv ...string) {
		t.Helper()
		args := append([]string{"nodes", "run", "--node", "box"}, argv...)
		p := u.start(t, "", args...)
		if decision != "" {
			decide(t, d, text, decision)
		}
		finish(t, p, args...).demand(t, code, says...)
	}

	t.Run("once", func(t *testing.T) {
		run(t, u, "once", "uname -r", 0, nil, "--", "uname", "-r")
		// Once is once: it asks again.
		run(t, u, "deny", "uname -r", 1, []string{"exec denied: user denied"}, "--", "uname", "-r")
	})
	t.Run("always", func(t *testing.T) {
		run(t, u, "always", "uname -s", 0, []string{"Linux"}, "--", "uname", "-s")
		// The client asks each time; here the grant answers, in a new connection and after a restart.
		run(t, u, "", "", 0, []string{"Linux"}, "--", "uname", "-s")
		d.Kill()
		d.Start()
		listed(t, d, "box")
		run(t, u, "", "", 0, []string{"Linux"}, "--", "uname", "-s")
		if text := ctl(t, d, "grants", "list"); !strings.Contains(text, "uname -s") {
			t.Fatalf("the grant is not listed:\n%s", text)
		}
		// Other words are another command.
		run(t, u, "deny", "uname -s -m", 1, []string{"exec denied"}, "--", "uname", "-s", "-m")
		// And it is asked about again when it is revoked.
		ctl(t, d, append([]string{"grants", "revoke"}, strings.Fields(ctl(t, d, "grants", "list", "-q"))...)...)
		run(t, u, "deny", "uname -s", 1, []string{"exec denied"}, "--", "uname", "-s")
	})
	t.Run("always, as its own operators answer", func(t *testing.T) {
		run(t, u, "allow-always", "uname -n", 0, nil, "--", "uname", "-n")
		v := u.json(t, "approvals", "get", "--node", "box", "--json")
		want(t, v, which(t, "uname"), "file", "agents", "main", "allowlist", 0, "pattern")
		u.ok(t, []string{"No allowlist entries."}, "approvals", "allowlist", "remove", "--node", "box", "--agent", "main", which(t, "uname"))
	})
	t.Run("with a limit", func(t *testing.T) {
		args := []string{"nodes", "run", "--node", "box", "--", "uname", "-m"}
		p := u.start(t, "", args...)
		id := waitingFor(t, d, "uname -m")
		ctl(t, d, "approve", id, "once", "--uses", "1")
		finish(t, p, args...).demand(t, 0)
		run(t, u, "", "", 0, nil, "--", "uname", "-m")
		run(t, u, "deny", "uname -m", 1, []string{"exec denied"}, "--", "uname", "-m")
	})
	t.Run("nobody answers", func(t *testing.T) {
		// The client's own limit is two minutes; a rule of hanzod has another one.
		rules := filepath.Join(u.home, "rules.json")
		text := `{"version":1,"rules":[{"name":"soon","effect":"ask","argv":["uname","-i"],"timeout":"1s"}]}`
		if err := os.WriteFile(rules, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		ctl(t, d, "policy", "set", "--file", rules)
		run(t, u, "", "", 1, []string{"exec denied: approval required (approval UI not available)"}, "--", "uname", "-i")
	})
	t.Run("ask always", func(t *testing.T) {
		run(t, asking("always", "full"), "once", "uname -p", 0, nil, "--", "uname", "-p")
	})
	t.Run("ask off", func(t *testing.T) {
		off := asking("off", "allowlist")
		run(t, off, "", "", 1, []string{"SYSTEM_RUN_DENIED: approval required"}, "--", "uname", "-o")
	})
	t.Run("security deny", func(t *testing.T) {
		run(t, asking("on-miss", "deny"), "", "", 1, []string{"exec denied: host=node security=deny"}, "--", "uname", "-o")
	})
	t.Run("environment", func(t *testing.T) {
		// The client asks without its overrides and runs with them (nodes-approvals.md §3.17).
		run(t, u, "once", "printenv", 1, []string{"approval id missing env binding for requested env overrides"}, "--env", "INTEROP=yes", "--", "printenv", "INTEROP")
	})
	t.Run("inline shell", func(t *testing.T) {
		run(t, u, "once", "echo inline", 0, []string{"inline 3"}, "--raw", "echo inline $((1+2))")
		// A grant finds the same line again, however it is asked for.
		run(t, u, "always", "echo kept", 0, []string{"kept"}, "--raw", "echo kept && true")
		run(t, u, "", "", 0, []string{"kept"}, "--raw", "echo kept && true")
	})
	t.Run("directory", func(t *testing.T) {
		run(t, u, "once", "pwd", 0, []string{"/\n"}, "--cwd", "/", "--", "pwd")
		run(t, u, "", "", 1, []string{"SYSTEM_RUN_DENIED: approval requires an existing canonical cwd"}, "--cwd", "/no/such/place", "--", "pwd")
	})
}

// waitingFor waits for the question about a command that holds a text.
func waitingFor(tb testing.TB, d *proc.Daemon, text string) string {
	tb.Helper()
	return until(tb, "the approval of "+text, func() (string, bool) {
		list, _ := get(ctlJSON(tb, d, "approve"), "approvals").([]any)
		for _, a := range list {
			command, _ := get(a, "command").(string)
			if id, _ := get(a, "id").(string); strings.Contains(command, text) {
				return id, true
			}
		}
		return "", false
	})
}
