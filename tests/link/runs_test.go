//go:build unix

package link

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/dial"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	runsv1 "github.com/hanzoai/hanzod/gen/hanzo/runs/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/identity"
)

// collector gathers what a command writes.
type collector struct {
	mu      sync.Mutex
	out     [2]strings.Builder
	missing [2]int64
	first   func()
}

func (c *collector) take(o client.Output) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := 0
	if o.Stderr {
		i = 1
	}
	c.missing[i] += o.Missing
	c.out[i].Write(o.Data)
	if c.first != nil && len(o.Data) > 0 {
		c.first()
		c.first = nil
	}
}

// TestRunStreams: what a command writes reaches its requester while it runs, whatever the link, and
// nothing of it reaches those who follow the events of nodes.
func TestRunStreams(t *testing.T) {
	overEach(t, func(t *testing.T, w *world) {
		events, err := w.op.System.WatchEvents(t.Context(), &systemv1.WatchEventsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := events.Header(); err != nil {
			t.Fatal(err)
		}
		gate := filepath.Join(t.TempDir(), "go")
		c := &collector{first: func() {
			if err := os.WriteFile(gate, nil, 0o600); err != nil {
				t.Error(err)
			}
		}}
		script := "echo one; echo err >&2; until [ -e " + gate + " ]; do sleep 0.02; done; printf 'tw\\377o'; exit 3"
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		out, err := w.op.RunCommand(ctx, client.RunIn{Node: w.node.id(), Argv: []string{"/bin/sh", "-c", script}, Output: c.take}, nil)
		if err != nil || out.ExitCode == nil || *out.ExitCode != 3 || out.Stdout != "one\ntw\uFFFDo" {
			t.Errorf("%+v, %v", out, err)
		}
		if got := c.out[0].String(); got != "one\ntw\377o" || c.out[1].String() != "err\n" || c.missing != [2]int64{} {
			t.Errorf("streamed %q and %q, missing %v", got, c.out[1].String(), c.missing)
		}
		for {
			e, err := events.Recv()
			if err != nil {
				t.Fatal(err)
			}
			text := fmt.Sprint(e)
			if strings.Contains(text, "exec.output") {
				t.Fatalf("an event of output: %s", text)
			}
			if strings.Contains(text, "exec.finished") {
				break
			}
		}
	})
}

// TestRunFlood: a command that writes faster than it can be sent is not slowed; its result is as ever, and
// who watches is told exactly what is missing. One who does not read at all harms nobody.
func TestRunFlood(t *testing.T) {
	overEach(t, func(t *testing.T, w *world) {
		const bytes = 40 << 20
		c := &collector{}
		start := time.Now()
		run, err := w.op.StartRun(t.Context(), client.RunIn{Node: w.node.id(), Argv: []string{"/bin/sh", "-c", "head -c " + strconv.Itoa(bytes) + " /dev/zero; echo end >&2"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		stuck, err := w.op.Runs.WatchRun(t.Context(), &runsv1.WatchRunRequest{Id: run.GetId()}) // never read
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stuck.Header(); err != nil {
			t.Fatal(err)
		}
		out, err := w.op.FollowRun(t.Context(), run.GetId(), nil, c.take)
		if err != nil || len(out.Stdout)+len(out.Stderr) < 200_000 || len(out.Stdout) > 200_100 {
			t.Errorf("%d bytes, %v", len(out.Stdout), err)
		}
		if got := int64(c.out[0].Len()) + c.missing[0]; got != bytes || c.missing[0] == 0 || c.out[0].Len() < 200_000 {
			t.Errorf("%d bytes seen, %d missing, of %d", c.out[0].Len(), c.missing[0], bytes)
		}
		if took := time.Since(start); took > patience {
			t.Errorf("it took %v", took)
		}
	})
}

// TestRunKilled: a run is ended with the processes that it started, and its requester learns by whom.
func TestRunKilled(t *testing.T) {
	overEach(t, func(t *testing.T, w *world) {
		pids := filepath.Join(t.TempDir(), "pid")
		started := make(chan struct{})
		c := &collector{first: func() { close(started) }}
		type end struct {
			out client.RunOut
			err error
		}
		ended := make(chan end, 1)
		go func() {
			out, err := w.op.RunCommand(context.Background(), client.RunIn{
				Node: w.node.id(), Argv: []string{"/bin/sh", "-c", "sleep 600 & echo $! >" + pids + "; echo started; wait"}, Output: c.take,
			}, nil)
			ended <- end{out, err}
		}()
		<-started
		list, err := w.op.Runs.ListRuns(t.Context(), &runsv1.ListRunsRequest{Live: true})
		if err != nil || len(list.GetRuns()) != 1 || list.GetRuns()[0].GetState() != runsv1.State_STATE_RUNNING || !list.GetRuns()[0].GetStreams() {
			t.Fatalf("%v, %v", list, err)
		}
		if _, err := w.op.Runs.KillRun(t.Context(), &runsv1.KillRunRequest{Id: list.GetRuns()[0].GetId()}); err != nil {
			t.Fatal(err)
		}
		e := <-ended
		if e.err != nil || e.out.KilledBy == "" || e.out.ExitCode != nil || !strings.HasPrefix(e.out.Failure, "killed by ") || e.out.Stdout != "started\n" {
			t.Errorf("%+v", e)
		}
		text, err := os.ReadFile(pids)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		until(t, patience, "its child is gone", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || zombie(pid) })
		for _, params := range []string{`{"invokeId":"x","by":"y"}`, `{}`} {
			if _, err := w.invoke("system.run.kill", params, 0); codeOf(err) != "nodes.not_allowed" {
				t.Errorf("a client may end commands by itself: %v", err)
			}
		}
	})
}

// zombie reports whether a process has ended and is only not waited for by its parent.
func zombie(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(text), ") Z ")
}

// TestRunOfLegacyClient: a run that a client of the original protocol started with an approval is
// watched and ended by the id of that; its caller learns by whom.
func TestRunOfLegacyClient(t *testing.T) {
	w := newWorld(t, overTLS, options{policy: asking})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	me, err := dial.LoadOrCreateIdentity(filepath.Join(t.TempDir(), "id.json"))
	if err != nil {
		t.Fatal(err)
	}
	legacy, err := dial.Dial(ctx, dial.Options{
		URL: "ws://" + w.d.Addr(), Client: dial.Client{ID: "test", Mode: "test", DisplayName: "operator"},
		Role: identity.RoleOperator, Scopes: identity.AllOperatorScopes, Auth: dial.Auth{Token: w.d.Token}, Device: me,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer legacy.Close()
	argv := []string{"/bin/sh", "-c", "echo first; sleep 600"}
	plan := map[string]any{"argv": argv, "cwd": nil, "rawCommand": nil, "agentId": nil, "sessionKey": nil}
	asked := make(chan error, 1)
	go func() {
		_, err := legacy.CallTwoPhase(ctx, "exec.approval.request", map[string]any{
			"id": "q1", "command": "x", "commandArgv": argv, "systemRunPlan": plan, "nodeId": w.node.id(), "host": "node", "timeoutMs": 60_000, "twoPhase": true,
		}, func(json.RawMessage) {})
		asked <- err
	}()
	until(t, patience, "the question is answered", func() bool {
		_, err := w.op.Approvals.ResolveApproval(ctx, &approvalsv1.ResolveApprovalRequest{Id: "q1", Decision: approvalsv1.Decision_DECISION_ALLOW_ONCE})
		return err == nil
	})
	if err := <-asked; err != nil {
		t.Fatal(err)
	}
	answered := make(chan string, 1)
	go func() {
		out, err := legacy.Call(ctx, "node.invoke", map[string]any{
			"nodeId": w.node.id(), "command": "system.run", "idempotencyKey": "k", "timeoutMs": 60_000,
			"params": map[string]any{"command": argv, "runId": "q1", "approved": true, "approvalDecision": "allow-once"},
		})
		answered <- fmt.Sprintf("%s %v", out, err)
	}()
	until(t, patience, "it runs", func() bool {
		_, err := w.op.Runs.GetRun(ctx, &runsv1.GetRunRequest{Id: "q1"})
		return err == nil
	})
	seen := make(chan struct{})
	c := &collector{first: func() { close(seen) }}
	followed := make(chan error, 1)
	go func() {
		out, err := w.op.FollowRun(ctx, "q1", nil, c.take)
		if err == nil && out.Stdout != "first\n" {
			err = fmt.Errorf("%+v", out)
		}
		followed <- err
	}()
	<-seen
	if _, err := w.op.Runs.KillRun(ctx, &runsv1.KillRunRequest{Id: "q1"}); err != nil {
		t.Fatal(err)
	}
	if text := <-answered; !strings.Contains(text, `"error":"killed by `) || !strings.Contains(text, `"stdout":"first\n"`) {
		t.Errorf("the caller is told %s", text)
	}
	if err := <-followed; err != nil {
		t.Error(err)
	}
}
