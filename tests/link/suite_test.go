//go:build unix

package link

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

// TestRegister: the node is listed as it describes itself, with the commands that its platform may
// offer, and is gone when it stops.
func TestRegister(t *testing.T) {
	overEach(t, func(t *testing.T, w *world) {
		n := w.seen(w.node.id())
		if !n.GetConnected() || n.GetPaired() || n.GetDisplayName() != "box" || n.GetPlatform() != "linux" || n.GetPathEnv() == "" {
			t.Errorf("%v", n)
		}
		for _, name := range []string{"system.run", "system.run.prepare", "system.which"} {
			if !slices.Contains(n.GetCommands(), name) {
				t.Errorf("%s is not among the commands %q", name, n.GetCommands())
			}
		}
		if !w.node.log.has(`"via":"` + w.via + `"`) {
			t.Error("the log does not say which way the gateway was reached")
		}
		p, err := w.op.System.ListPresence(context.Background(), &systemv1.ListPresenceRequest{})
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, e := range p.GetEntries() {
			found = found || e.GetDeviceId() == w.node.id() && e.GetReason() == "connect" && e.GetMode() == "node"
		}
		if !found {
			t.Errorf("presence %v", p.GetEntries())
		}
		w.node.stop()
		until(t, patience, "the node is gone", func() bool { return w.seen(w.node.id()) == nil })
	})
}

// TestInvoke: answers, errors and events come back.
func TestInvoke(t *testing.T) {
	overEach(t, func(t *testing.T, w *world) {
		events, err := w.op.System.WatchEvents(t.Context(), &systemv1.WatchEventsRequest{Names: []string{"node.event"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := events.Header(); err != nil {
			t.Fatal(err)
		}
		out, err := w.invoke("system.which", `{"bins":["sh","no-such-program"]}`, 0)
		if err != nil || !strings.HasPrefix(out, `{"bins":{"sh":"/`) || strings.Contains(out, "no-such") {
			t.Errorf("%q, %v", out, err)
		}
		if out, err = w.sh("echo out; echo err >&2; exit 3"); err != nil || !strings.Contains(out, `"exitCode":3`) || !strings.Contains(out, `"stdout":"out\n","stderr":"err\n"`) {
			t.Errorf("%q, %v", out, err)
		}
		e, err := events.Recv()
		text := fmt.Sprint(e.GetPayload())
		if err != nil || !strings.Contains(text, "exec.finished") || !strings.Contains(text, w.node.id()) {
			t.Errorf("%s, %v", text, err)
		}
		for name, tc := range map[string][3]string{
			"what the node refuses": {"system.which", `{}`, "nodes.failed"},
			"no parameters":         {"system.which", ``, "nodes.failed"},
			"what it did not offer": {"system.notify", `{}`, "nodes.not_declared"},
			"what it may not offer": {"sms.send", `{}`, "nodes.not_allowed"},
		} {
			_, err := w.invoke(tc[0], tc[1], 0)
			// Links of ours offer what they declare, so there what may not be offered is what was not.
			if got := codeOf(err); got != tc[2] && (tc[2] != "nodes.not_allowed" || got != "nodes.not_declared") {
				t.Errorf("%s: %v", name, err)
			}
		}
		began := time.Now()
		params := `{"command":["/bin/sh","-c","sleep 30"]}`
		if _, err := w.invoke("system.run", params, 100*time.Millisecond); codeOf(err) != "nodes.timeout" || time.Since(began) > 5*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// TestConcurrent: many invokes at once, each with its own answer; beyond what a node serves at once
// they are refused, and nothing is lost.
func TestConcurrent(t *testing.T) {
	overEach(t, func(t *testing.T, w *world) {
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				for j := range 10 {
					want := fmt.Sprintf("%d-%d", i, j)
					if out, err := w.sh("echo " + want); err != nil || !strings.Contains(out, `"stdout":"`+want+`\n"`) {
						t.Errorf("%s: %q, %v", want, out, err)
					}
				}
			})
		}
		wg.Wait()
		const many = 100 // more than a node serves at once
		gate := filepath.Join(t.TempDir(), "go")
		ran, refused := 0, 0
		var mu sync.Mutex
		for range many {
			wg.Go(func() {
				out, err := w.sh("until [ -e " + gate + " ]; do sleep 0.05; done; echo ran")
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil && strings.Contains(out, "ran"):
					ran++
				case codeOf(err) == "nodes.failed" && strings.Contains(err.Error(), "try again"):
					refused++
				default:
					t.Errorf("%q, %v", out, err)
				}
			})
		}
		until(t, patience, "the others are refused", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return refused == many-32
		})
		if err := os.WriteFile(gate, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if ran != 32 {
			t.Errorf("%d ran", ran)
		}
	})
}

// TestBigAnswers: what a node may answer comes through whole.
func TestBigAnswers(t *testing.T) {
	overEach(t, func(t *testing.T, w *world) {
		out, err := w.sh("head -c 190000 /dev/zero | tr '\\0' x")
		if err != nil || !strings.Contains(out, strings.Repeat("x", 190_000)) {
			t.Errorf("%d bytes, %v", len(out), err)
		}
		// And what is asked of it.
		word := strings.Repeat("y", 100_000)
		if out, err := w.sh("echo " + word + " | wc -c"); err != nil || !strings.Contains(out, `"stdout":"100001\n"`) {
			t.Errorf("%.100q, %v", out, err)
		}
		bins := strings.Repeat(`"no-such-program-of-a-long-name",`, 900)
		if out, err := w.invoke("system.which", `{"bins":[`+bins+`"sh"]}`, 0); err != nil || !strings.Contains(out, `"sh":"/`) {
			t.Errorf("%.100q, %v", out, err)
		}
	})
}

// TestDisconnect: the end of the link fails the calls that wait and ends their commands; the node
// comes back by itself and is served again.
func TestDisconnect(t *testing.T) {
	overEach(t, func(t *testing.T, w *world) {
		pidFile := filepath.Join(t.TempDir(), "pid")
		ended := make(chan error, 1)
		go func() {
			_, err := w.sh(fmt.Sprintf("echo $$ >%s.tmp; mv %s.tmp %s; exec sleep 300", pidFile, pidFile, pidFile))
			ended <- err
		}()
		pid := 0
		until(t, patience, "the command runs", func() bool {
			text, _ := os.ReadFile(pidFile)
			pid, _ = strconv.Atoi(strings.TrimSpace(string(text)))
			return pid > 0
		})
		w.proxy.cut()
		if err := <-ended; codeOf(err) != "nodes.disconnected" {
			t.Errorf("the call ended with %v", err)
		}
		until(t, patience, "the command is gone", func() bool { return syscall.Kill(pid, 0) != nil })
		until(t, patience, "the node is back", func() bool { return w.node.connects() == 2 && w.online() })
		if out, err := w.sh("echo back"); err != nil || !strings.Contains(out, "back") {
			t.Errorf("%q, %v", out, err)
		}
		if !w.node.log.has(`"retryIn":`) {
			t.Error("the log does not say when it is tried again")
		}
	})
}

// TestReplaced: a second host with the same identity takes the place of the first.
func TestReplaced(t *testing.T) {
	overEach(t, func(t *testing.T, w *world) {
		first := w.node
		// The same device from another directory.
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(first.dir)); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, "exec-approvals.json")); err != nil {
			t.Fatal(err)
		}
		second := w.join("second", dir)
		if second.id() != first.id() {
			t.Fatal("they are two devices")
		}
		until(t, patience, "the first knows", func() bool { return first.log.has("replaced by a newer connection") })
		first.stop()
		if n := w.seen(second.id()); !n.GetConnected() {
			t.Errorf("%v", n)
		}
		if out, err := w.sh("echo second"); err != nil || !strings.Contains(out, "second") {
			t.Errorf("%q, %v", out, err)
		}
	})
}

// TestApproval: a command that its node asks about runs once somebody allows it, and not without.
func TestApproval(t *testing.T) {
	for _, via := range []string{webSocket, local, overTLS} {
		t.Run(via, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, via, options{policy: asking})
			mark := filepath.Join(t.TempDir(), "mark")
			for _, decision := range []approvalsv1.Decision{approvalsv1.Decision_DECISION_DENY, approvalsv1.Decision_DECISION_ALLOW_ONCE} {
				asked := make(chan string, 1)
				type end struct {
					out client.RunOut
					err error
				}
				ended := make(chan end, 1)
				go func() {
					out, err := w.op.RunCommand(context.Background(), client.RunIn{Node: w.node.id(), Argv: []string{"/bin/sh", "-c", "echo ran; echo x >>" + mark}}, func(s client.Step) {
						if s.Kind == client.StepWaiting {
							asked <- s.Run.GetApprovalId()
						}
					})
					ended <- end{out, err}
				}()
				id := <-asked
				if _, err := os.Stat(mark); err == nil {
					t.Fatal("it ran before it was allowed")
				}
				if _, err := w.op.Approvals.ResolveApproval(context.Background(), &approvalsv1.ResolveApprovalRequest{Id: id, Decision: decision}); err != nil {
					t.Fatal(err)
				}
				e := <-ended
				if decision == approvalsv1.Decision_DECISION_DENY {
					if codeOf(e.err) != client.CodeApprovalDenied {
						t.Errorf("denied: %+v", e)
					}
					continue
				}
				if e.err != nil || e.out.Stdout != "ran\n" {
					t.Errorf("%+v", e)
				}
			}
			if text, err := os.ReadFile(mark); err != nil || string(text) != "x\n" {
				t.Errorf("it ran %q, %v", text, err)
			}
		})
	}
}

// TestDaemonRestart: the node comes back to a daemon that was restarted; a question that was asked
// before stands, and its command runs after.
func TestDaemonRestart(t *testing.T) {
	for _, via := range []string{webSocket, local, overTLS} {
		t.Run(via, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, via, options{policy: asking})
			argv := []string{"/bin/echo", "after"}
			plan, err := json.Marshal(map[string]any{"command": argv})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.invoke("system.run.prepare", string(plan), 0); err != nil {
				t.Fatal(err)
			}
			node, hostName := w.node.id(), "node"
			_, err = w.op.Approvals.RequestApproval(context.Background(), &approvalsv1.RequestApprovalRequest{
				Id: "q1", Command: "/bin/echo after", CommandArgv: argv, NodeId: &node, Host: &hostName,
				Plan: &approvalsv1.Plan{Argv: argv}, Timeout: durationpb.New(time.Minute),
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := w.d.Stop(); err != nil {
				t.Fatal(err)
			}
			until(t, patience, "the node knows", func() bool { return w.node.log.has("the gateway stops or restarts") })
			w.start(w.d.StateDir)
			w.proxy.to(w.target())
			until(t, patience, "the node is back", func() bool { return w.node.connects() >= 2 && w.online() })
			if _, err := w.op.Approvals.ResolveApproval(context.Background(), &approvalsv1.ResolveApprovalRequest{Id: "q1", Decision: approvalsv1.Decision_DECISION_ALLOW_ONCE}); err != nil {
				t.Fatal(err)
			}
			out, err := w.invoke("system.run", `{"command":["/bin/echo","after"],"runId":"q1","approved":true,"approvalDecision":"allow-once"}`, patience)
			if err != nil || !strings.Contains(out, `"stdout":"after\n"`) {
				t.Errorf("%q, %v", out, err)
			}
			// Once means once.
			if _, err := w.invoke("system.run", `{"command":["/bin/echo","after"],"runId":"q1","approved":true,"approvalDecision":"allow-once"}`, patience); err == nil {
				t.Error("it ran twice")
			}
		})
	}
}
