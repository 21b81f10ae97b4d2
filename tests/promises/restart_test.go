//go:build unix

package promises

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// marker makes a script that appends its arguments as a line to a file.
func marker(t *testing.T) (script, file string) {
	t.Helper()
	dir := proc.Dir(t)
	script, file = filepath.Join(dir, "mark"), filepath.Join(dir, "marks")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$*\" >> '"+file+"'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return script, file
}

func marks(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Fields(strings.ReplaceAll(string(text), " ", "_"))
}

var waitingFor = regexp.MustCompile(`waiting for approval (\S+) `)

// pendingIDs are the ids of the approvals that wait, as the daemon lists them.
func pendingIDs(t *testing.T, d *proc.Daemon) string {
	t.Helper()
	return d.Ctl("approve", "-o", "json").Wait(t, proc.Patience).Stdout.String()
}

// restart ends the daemon with a signal and starts it again.
func restart(t *testing.T, d *proc.Daemon, s syscall.Signal) {
	t.Helper()
	if s == syscall.SIGTERM {
		d.Stop()
	} else {
		d.End(s)
	}
	d.Start()
	t.Logf("ready %v after the start", d.Ready)
}

var restarts = []struct {
	name string
	sig  syscall.Signal
}{{"SIGTERM", syscall.SIGTERM}, {"SIGKILL", syscall.SIGKILL}}

// TestR7CommandLineOutlivesRestart: the daemon restarts between question and answer. The question
// is still there under its id, the answer is taken, and the waiting command line then runs exactly
// that, once.
func TestR7CommandLineOutlivesRestart(t *testing.T) {
	for _, tc := range restarts {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			script, file := marker(t)
			d := proc.Start(t, proc.Options{Form: proc.Tested, Args: []string{"--node"}})
			node := onlyNode(t, d)
			run := d.Ctl("nodes", "run", node, "--approval-timeout", "60s", "--", script, "once", "a b")
			var id string
			proc.Until(t, "the question is asked", func() bool {
				if m := waitingFor.FindStringSubmatch(run.Stderr.String()); m != nil {
					id = m[1]
				}
				return id != "" || run.Ended()
			})
			if run.Ended() {
				t.Fatalf("the run ended with %d: %s", run.Code, run.Stderr)
			}
			restart(t, d, tc.sig)
			if list := pendingIDs(t, d); !strings.Contains(list, id) {
				t.Fatalf("after the restart the approval %s does not wait: %s", id, list)
			}
			if m := marks(t, file); len(m) > 0 {
				t.Fatalf("it ran before it was allowed: %v", m)
			}
			if a := d.Ctl("approve", id, "once").Wait(t, proc.Patience); a.Code != 0 {
				t.Fatalf("the answer was not taken (%d): %s", a.Code, a.Stderr)
			}
			if run.Wait(t, proc.Patience); run.Code != 0 {
				t.Errorf("the run ended with %d: %s", run.Code, run.Stderr)
			}
			if m := marks(t, file); len(m) != 1 || m[0] != "once_a_b" {
				t.Errorf("the command ran as %v; want once", m)
			}
			if a := d.Ctl("approve", id, "once").Wait(t, proc.Patience); a.Code == 0 {
				t.Error("the answer was taken twice")
			}
		})
	}
}

// onlyNode waits for the node of the daemon and returns its id.
func onlyNode(t *testing.T, d *proc.Daemon) string {
	t.Helper()
	var id string
	c := proc.Connect(t, d.Operator(nil))
	proc.Until(t, "the node is connected", func() bool {
		var list struct {
			Nodes []struct {
				NodeID    string `json:"nodeId"`
				Connected bool   `json:"connected"`
			} `json:"nodes"`
		}
		if err := json.Unmarshal(proc.Call(t, c, "node.list", map[string]any{"connectedOnly": true}), &list); err != nil {
			t.Fatal(err)
		}
		if len(list.Nodes) != 1 {
			return false
		}
		id = list.Nodes[0].NodeID
		return true
	})
	_ = c.Close()
	return id
}

// TestR7LegacyOperatorOutlivesRestart: the same for a legacy operator with a device, whose
// connection breaks, and a node host that is a process of its own.
func TestR7LegacyOperatorOutlivesRestart(t *testing.T) {
	for _, tc := range restarts {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			script, file := marker(t)
			d := proc.Start(t, proc.Options{Form: proc.Tested})
			home := proc.Dir(t)
			proc.Run(t, home, proc.Build(t, "hanzod", proc.Tested), []string{"HANZOD_TOKEN=" + proc.Token},
				"node", "--state-dir", home, "--port", fmt.Sprint(d.Port))
			node := onlyNode(t, d)
			me := proc.Device(t)
			asker := proc.Connect(t, d.Operator(me))
			argv := []string{script, "legacy"}
			id := "restart-" + tc.name
			accepted := make(chan struct{})
			waiting := make(chan error, 1)
			go func() {
				_, err := asker.CallTwoPhase(context.Background(), "exec.approval.request",
					proc.Question(id, node, argv, "", nil, 60_000), func(json.RawMessage) { close(accepted) })
				waiting <- err
			}()
			select {
			case <-accepted:
			case err := <-waiting:
				t.Fatalf("the question was not taken: %v", err)
			}
			restart(t, d, tc.sig)
			if err := <-waiting; err == nil {
				t.Error("the question was answered by a restart")
			}
			if list := pendingIDs(t, d); !strings.Contains(list, id) {
				t.Fatalf("after the restart the approval %s does not wait: %s", id, list)
			}
			asker = proc.Connect(t, d.Operator(me))
			early := runApproved(asker, id, node, "early", argv)
			if r := proc.Refusal(early); r == nil {
				t.Errorf("a run before the answer: %v", early)
			}
			decided := make(chan json.RawMessage, 1)
			go func() {
				out, err := asker.Call(context.Background(), "exec.approval.waitDecision", map[string]any{"id": id})
				if err != nil {
					out = json.RawMessage(err.Error())
				}
				decided <- out
			}()
			proc.Call(t, proc.Connect(t, d.Operator(proc.Device(t))), "exec.approval.resolve", map[string]any{"id": id, "decision": "allow-once"})
			if out := <-decided; !strings.Contains(string(out), `"allow-once"`) {
				t.Errorf("who waits is told %s", out)
			}
			if onlyNode(t, d) != node {
				t.Fatal("the node came back as another one")
			}
			if err := runApproved(asker, id, node, "first", argv); err != nil {
				t.Errorf("the approved run: %v", err)
			}
			if err := runApproved(asker, id, node, "second", argv); proc.Refusal(err) == nil {
				t.Errorf("a second run: %v", err)
			}
			if m := marks(t, file); len(m) != 1 || m[0] != "legacy" {
				t.Errorf("the command ran as %v; want once", m)
			}
		})
	}
}

func runApproved(c *dial.Conn, id, node, key string, argv []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), proc.Patience)
	defer cancel()
	_, err := c.Call(ctx, "node.invoke", proc.ApprovedRun(id, node, key, argv, "", nil))
	return err
}
