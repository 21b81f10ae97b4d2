//go:build unix

package promises

import (
	"context"
	"strings"
	"syscall"
	"testing"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// TestR9AlwaysIsAlways: a line for a shell is allowed always, once. It runs again by itself over a new
// connection, in a new session and after a restart, however it is spaced; another line is asked about.
func TestR9AlwaysIsAlways(t *testing.T) {
	for _, tc := range restarts {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			script, file := marker(t)
			d := proc.Start(t, proc.Options{Form: proc.Tested, Args: []string{"--node"}})
			node := onlyNode(t, d)
			line := func(spaced string) []string {
				return []string{"/bin/sh", "-c", strings.ReplaceAll(strings.ReplaceAll(spaced, "MARK", script), "'", `"`)}
			}
			ran := 0
			run := func(when string, argv []string, always bool) {
				t.Helper()
				c := d.Ctl(append([]string{"nodes", "run", node, "--approval-timeout", "60s", "--"}, argv...)...)
				if always {
					var id string
					proc.Until(t, "the question is asked", func() bool {
						if m := waitingFor.FindStringSubmatch(c.Stderr.String()); m != nil {
							id = m[1]
						}
						return id != "" || c.Ended()
					})
					if a := d.Ctl("approve", id, "always").Wait(t, proc.Patience); a.Code != 0 {
						t.Fatalf("%s: the answer was not taken (%d): %s", when, a.Code, a.Stderr)
					}
				}
				if c.Wait(t, proc.Patience); c.Code != 0 {
					t.Fatalf("%s: ended with %d: %s", when, c.Code, c.Stderr)
				}
				ran += 2
				if m := marks(t, file); len(m) != ran {
					t.Fatalf("%s: the command ran as %v; want %d marks", when, m, ran)
				}
			}
			run("the first time", line("MARK a && MARK 'b c'"), true)
			run("again", line("MARK a && MARK 'b c'"), false)
			run("spaced otherwise", line("MARK   a   &&   MARK  'b c'"), false)
			restart(t, d, tc.sig)
			if onlyNode(t, d) != node {
				t.Fatal("the node came back as another one")
			}
			run("after a restart", line("MARK a&&MARK 'b c'"), false)

			// A legacy client with a device is somebody else: the grant is for who asked.
			if tc.sig == syscall.SIGKILL {
				me := proc.Connect(t, d.Operator(proc.Device(t)))
				_, err := me.Call(context.Background(), "node.invoke", map[string]any{
					"nodeId": node, "command": "system.run", "idempotencyKey": "other",
					"params": map[string]any{"command": line("MARK a && MARK 'b c'")},
				})
				if err == nil || !strings.Contains(err.Error(), "SYSTEM_RUN_DENIED") {
					t.Errorf("somebody else ran it: %v", err)
				}
			}
			for _, other := range []string{"MARK a && MARK 'b d'", "MARK a ; MARK 'b c'", "MARK a && MARK b c"} {
				c := d.Ctl(append([]string{"nodes", "run", node, "--approval-timeout", "1s", "--"}, line(other)...)...)
				if c.Wait(t, proc.Patience); c.Code == 0 {
					t.Errorf("%s ran without an approval", other)
				}
			}
			if m := marks(t, file); len(m) != ran {
				t.Errorf("it ran as %v; want %d marks", m, ran)
			}
		})
	}
}
