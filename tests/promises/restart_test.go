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
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/compat/dial"
	runsv1 "github.com/hanzoai/hanzod/gen/hanzo/runs/v1"
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

// TestR7RequesterGone: who asked goes away, the daemon restarts, and then the answer comes: the parked
// command runs exactly once, and who asked gets what it wrote and its exit code on return.
func TestR7RequesterGone(t *testing.T) {
	for _, tc := range restarts {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			script, file := marker(t)
			if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$TOKEN $*\" >> '"+file+"'\necho done\nexit 7\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			d := proc.Start(t, proc.Options{Form: proc.Tested, Args: []string{"--node"}})
			node := onlyNode(t, d)
			// One goes away by itself, one is interrupted.
			argv := []string{"nodes", "run", node, "--approval-timeout", "60s", "--env", "TOKEN=s3cret-value", "--", script}
			gone := d.Ctl(append(slices.Clip(argv), "first")...)
			var ids []string
			proc.Until(t, "the question is asked", func() bool {
				if m := waitingFor.FindStringSubmatch(gone.Stderr.String()); m != nil {
					ids = []string{m[1]}
				}
				return ids != nil || gone.Ended()
			})
			gone.Signal(syscall.SIGINT)
			if gone.Wait(t, proc.Patience); gone.Code != 130 || len(ids) == 0 || !strings.Contains(gone.Stderr.String(), "nodes run --resume "+ids[0]) {
				t.Fatalf("interrupted, it ended with %d: %s", gone.Code, gone.Stderr)
			}
			detached := append([]string{argv[0], argv[1], "--detach"}, argv[2:]...)
			away := d.Ctl(append(detached, "second")...).Wait(t, proc.Patience)
			if away.Code != 0 {
				t.Fatalf("detached, it ended with %d: %s", away.Code, away.Stderr)
			}
			ids = append(ids, strings.TrimSpace(away.Stdout.String()))
			proc.Until(t, "both questions stand", func() bool {
				list := pendingIDs(t, d)
				return strings.Contains(list, ids[0]) && strings.Contains(list, ids[1])
			})
			restart(t, d, tc.sig)
			for i, id := range ids {
				if a := d.Ctl("approve", id, "once").Wait(t, proc.Patience); a.Code != 0 {
					t.Fatalf("the answer was not taken (%d): %s", a.Code, a.Stderr)
				}
				for range 2 { // the result is kept
					if r := d.Ctl("nodes", "run", "--resume", id).Wait(t, proc.Patience); r.Code != 7 || r.Stdout.String() != "done\n" {
						t.Errorf("resumed, run %d ended with %d: %q %s", i, r.Code, r.Stdout, r.Stderr)
					}
				}
			}
			if m := marks(t, file); len(m) != 2 || m[0] != "s3cret-value_first" || m[1] != "s3cret-value_second" {
				t.Errorf("the commands ran as %v; want each once", m)
			}
			restart(t, d, tc.sig)
			if r := d.Ctl("nodes", "run", "--resume", ids[0]).Wait(t, proc.Patience); r.Code != 7 || r.Stdout.String() != "done\n" {
				t.Errorf("after another restart, it ended with %d: %q %s", r.Code, r.Stdout, r.Stderr)
			}
			if m := marks(t, file); len(m) != 2 {
				t.Errorf("the commands ran as %v; want each once", m)
			}
			list := d.Ctl("nodes", "runs", "-o", "json").Wait(t, proc.Patience)
			for where, text := range map[string]string{"listing": list.Stdout.String(), "log": strings.Join(d.Outputs(), "")} {
				if strings.Contains(text, "s3cret-value") {
					t.Errorf("the %s holds a value of the environment", where)
				}
			}
			if !strings.Contains(list.Stdout.String(), "TOKEN") {
				t.Errorf("the listing does not name the variable: %s", list.Stdout)
			}
		})
	}
}

// TestR11RunsEnd: every parked run ends when its question does, whoever waits for it, and across a restart;
// nobody waits for longer. One that was allowed and whose node is away ends as well, and clearly.
func TestR11RunsEnd(t *testing.T) {
	t.Parallel()
	const timeout = 8 * time.Second
	d := proc.Start(t, proc.Options{Form: proc.Tested, Args: []string{"--node"}})
	node := onlyNode(t, d)
	c := d.Client(t)
	begin := time.Now()
	var ids []string
	for range 20 {
		out, err := c.Runs.StartRun(t.Context(), &runsv1.StartRunRequest{NodeId: node, Argv: []string{"/bin/echo"}, ApprovalTimeout: durationpb.New(timeout)})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, out.GetRun().GetId())
	}
	line := d.Ctl("nodes", "run", node, "--approval-timeout", timeout.String(), "--", "/bin/echo")
	proc.Until(t, "all questions stand", func() bool {
		list, err := c.Runs.ListRuns(t.Context(), &runsv1.ListRunsRequest{States: []runsv1.State{runsv1.State_STATE_WAITING}})
		return err == nil && len(list.GetRuns()) == len(ids)+1
	})
	restart(t, d, syscall.SIGKILL)
	c = d.Client(t)
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			out, err := c.Runs.WaitRun(t.Context(), &runsv1.WaitRunRequest{Id: id})
			if err != nil || out.GetRun().GetState() != runsv1.State_STATE_EXPIRED {
				t.Errorf("%v, %v", out.GetRun().GetState(), err)
			}
		})
	}
	wg.Wait()
	if line.Wait(t, proc.Patience); line.Code != 75 || !strings.Contains(line.Stderr.String(), "nobody answered in time") {
		t.Errorf("the command line ended with %d: %s", line.Code, line.Stderr)
	}
	if took := time.Since(begin); took > timeout+10*time.Second {
		t.Errorf("the last waited for %v; %v were asked for", took, timeout)
	}
	if list := d.Ctl("nodes", "runs", "--live", "-q").Wait(t, proc.Patience); list.Stdout.String() != "" {
		t.Errorf("still there: %s", list.Stdout)
	}

	// A node of its own that goes away while its question stands.
	home := proc.Dir(t)
	host := proc.Run(t, home, proc.Build(t, "hanzod", proc.Tested), []string{"HANZOD_TOKEN=" + proc.Token}, "node", "--state-dir", home, "--port", fmt.Sprint(d.Port), "--display-name", "leaver")
	run := func() string {
		r := d.Ctl("nodes", "run", "leaver", "--detach", "--wait", "20s", "--approval-timeout", "4s", "--", "/bin/echo").Wait(t, proc.Patience)
		if r.Code != 0 {
			t.Fatal(r.Stderr)
		}
		return strings.TrimSpace(r.Stdout.String())
	}
	id := run()
	proc.Until(t, "the question stands", func() bool { return strings.Contains(pendingIDs(t, d), id) })
	host.End(syscall.SIGKILL)
	if a := d.Ctl("approve", id, "once").Wait(t, proc.Patience); a.Code != 0 {
		t.Fatal(a.Stderr)
	}
	began := time.Now()
	r := d.Ctl("nodes", "run", "--resume", id).Wait(t, proc.Patience)
	if r.Code != 75 && r.Code != 77 || time.Since(began) > 15*time.Second {
		t.Errorf("after %v it ended with %d: %s", time.Since(began), r.Code, r.Stderr)
	}
	t.Logf("the node was away: %s", strings.TrimSpace(r.Stderr.String()))
}
