//go:build unix

package interop

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// token is the shared token of both gateways in these tests. The client calls a short one weak.
const token = proc.Token

// ourNode starts hanzod's node host for a gateway on this machine and returns its state directory.
func ourNode(tb testing.TB, port int, name string, args ...string) (w *worker, state string) {
	tb.Helper()
	state = proc.Dir(tb)
	args = append([]string{"node", "--state-dir", state, "--port", strconv.Itoa(port), "--display-name", name}, args...)
	return show(tb, "hanzod node", proc.RunGroup(tb, state, proc.Build(tb, "hanzod", proc.Tested), []string{"HANZOD_TOKEN=" + token}, nil, args...)), state
}

// policy writes an exec approvals file and returns its path.
func policy(tb testing.TB, dir, security, ask string, patterns ...string) string {
	tb.Helper()
	allow := make([]map[string]any, len(patterns))
	for i, p := range patterns {
		allow[i] = map[string]any{"pattern": p}
	}
	path := filepath.Join(dir, "policy-"+security+"-"+ask+strconv.Itoa(len(patterns))+".json")
	writeJSON(tb, path, map[string]any{
		"version": 1, "defaults": map[string]any{"security": security, "ask": ask},
		"agents": map[string]any{"main": map[string]any{"allowlist": allow}},
	})
	return path
}

// ctl runs hanzoctl and demands exit code 0.
func ctl(tb testing.TB, d *proc.Daemon, args ...string) string {
	tb.Helper()
	c := d.Ctl(args...).Wait(tb, proc.Patience)
	if c.Code != 0 {
		tb.Fatalf("hanzoctl %s: exit code %d\n%s%s", strings.Join(args, " "), c.Code, c.Stdout, c.Stderr)
	}
	return c.Stdout.String()
}

// ctlJSON runs hanzoctl and returns what it printed as JSON.
func ctlJSON(tb testing.TB, d *proc.Daemon, args ...string) map[string]any {
	tb.Helper()
	out := ctl(tb, d, append(args, "-o", "json")...)
	var v map[string]any
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		tb.Fatalf("hanzoctl %s printed no JSON object: %v\n%s", strings.Join(args, " "), err, out)
	}
	return v
}

// pollEvery is how often a process is asked whether something has happened yet.
const pollEvery = 100 * time.Millisecond

// until asks every pollEvery, for patience at the most, until there is something.
func until[T any](tb testing.TB, what string, ask func() (T, bool)) T {
	tb.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(pollEvery) {
		if v, ok := ask(); ok {
			return v
		}
		if time.Now().After(deadline) {
			tb.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// decide waits for the question about a command that holds a text, and answers it with hanzoctl.
func decide(tb testing.TB, d *proc.Daemon, text, decision string) {
	tb.Helper()
	ctl(tb, d, "approve", waitingFor(tb, d, text), decision)
}

// listed waits until hanzod lists a node as connected, and returns it.
func listed(tb testing.TB, d *proc.Daemon, name string) map[string]any {
	tb.Helper()
	return until(tb, "the node "+name, func() (map[string]any, bool) {
		list, _ := get(ctlJSON(tb, d, "nodes", "list"), "nodes").([]any)
		for _, n := range list {
			if get(n, "displayName") == name && get(n, "connected") == true {
				return n.(map[string]any), true
			}
		}
		return nil, false
	})
}

// which is the path that a node must find a program at.
func which(tb testing.TB, name string) string {
	tb.Helper()
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		p := filepath.Join(dir, name)
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	tb.Fatalf("%s is not in PATH", name)
	return ""
}
