//go:build unix

package promises

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// answerRounds is how often all doors answer at once; answerCommands how many rounds go by between those in
// which a command line is among them, which takes a process each.
const (
	answerRounds   = 200
	answerCommands = 8
)

// reply is what one door said of its answer.
type reply struct {
	door     string
	decision string
	won      bool
	said     string
}

// TestOneAnswerWins: of answers to one question that come by every door at once, exactly one is taken. All
// others are told that they are too late, the record and everybody who watches says who was first, and the
// waiting requester gets that one's decision.
func TestOneAnswerWins(t *testing.T) {
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	c := d.Client(t)
	legacy := proc.Connect(t, d.Operator(proc.Device(t)))
	watching := proc.Connect(t, d.Operator(nil))
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()

	var mu sync.Mutex
	heard := map[string][]string{} // decision and name by id, as a legacy watcher and a stream hear it
	hear := func(id, decision, by string) {
		mu.Lock()
		defer mu.Unlock()
		heard[id] = append(heard[id], decision+" "+by)
	}
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer cancel()
	began := make(chan struct{})
	watchers.Go(func() {
		_ = c.WatchApprovals(ctx, func(ch client.ApprovalsChange) error {
			switch {
			case ch.Began:
				close(began)
			case ch.Approval != nil && ch.Approval.GetState() != approvalsv1.State_STATE_PENDING:
				decision := "allow-once"
				if ch.Approval.GetDecision() == approvalsv1.Decision_DECISION_DENY {
					decision = "deny"
				}
				hear(ch.Approval.GetId(), decision, ch.Approval.GetResolvedBy())
			}
			return nil
		})
	})
	watchers.Go(func() {
		for {
			select {
			case e, ok := <-watching.Events():
				if !ok {
					return
				}
				var p struct{ ID, Decision, ResolvedBy string }
				if e.Name == "exec.approval.resolved" && json.Unmarshal(e.Payload, &p) == nil {
					hear(p.ID, p.Decision, p.ResolvedBy)
				}
			case <-ctx.Done():
				return
			}
		}
	})
	<-began

	wins := map[string]int{}
	for round := range answerRounds {
		id := fmt.Sprintf("race-%03d", round)
		if _, err := c.Approvals.RequestApproval(ctx, &approvalsv1.RequestApprovalRequest{Id: id, Command: "true", Host: new("gateway"), Timeout: durationpb.New(time.Minute)}); err != nil {
			t.Fatal(err)
		}
		waited := make(chan approvalsv1.Decision, 1)
		go func() {
			out, err := c.Approvals.WaitApproval(ctx, &approvalsv1.WaitApprovalRequest{Id: id})
			if err != nil {
				t.Errorf("%s: wait: %v", id, err)
			}
			waited <- out.GetApproval().GetDecision()
		}()
		doors := []func() reply{
			func() reply {
				_, err := legacy.Call(ctx, "exec.approval.resolve", map[string]any{"id": id, "decision": "allow-once"})
				return reply{"legacy", "allow-once", err == nil, fmt.Sprint(err)}
			},
			func() reply {
				_, err := c.Approvals.ResolveApproval(ctx, &approvalsv1.ResolveApprovalRequest{Id: id, Decision: approvalsv1.Decision_DECISION_DENY})
				return reply{"gRPC", "deny", err == nil, fmt.Sprint(err)}
			},
			func() reply { return restAnswer(ctx, t, d, id) },
		}
		if round%answerCommands == 0 {
			doors = append(doors, func() reply {
				a := d.Ctl("approve", id, "deny").Wait(t, proc.Patience)
				return reply{"command line", "deny", a.Code == 0, fmt.Sprintf("exit %d: %s", a.Code, a.Stderr)}
			})
		}
		replies := make([]reply, len(doors))
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i, answer := range doors {
			wg.Go(func() {
				<-start
				replies[i] = answer()
			})
		}
		close(start)
		wg.Wait()
		var winner *reply
		for i, r := range replies {
			if r.won && winner != nil {
				t.Fatalf("%s: %s and %s both won", id, winner.door, r.door)
			}
			if r.won {
				winner = &replies[i]
			}
		}
		if winner == nil {
			t.Fatalf("%s: nobody won: %+v", id, replies)
		}
		wins[winner.door]++
		got, err := c.Approvals.GetApproval(ctx, &approvalsv1.GetApprovalRequest{Id: id})
		if err != nil {
			t.Fatal(err)
		}
		want := approvalsv1.Decision_DECISION_ALLOW_ONCE
		if winner.decision == "deny" {
			want = approvalsv1.Decision_DECISION_DENY
		}
		if a := got.GetApproval(); a.GetDecision() != want || a.GetResolvedBy() == "" {
			t.Errorf("%s: %s won with %s, the record says %v by %q", id, winner.door, winner.decision, a.GetDecision(), a.GetResolvedBy())
		}
		for _, r := range replies {
			told := got.GetApproval().GetResolvedBy() // who was first; the legacy dialect has one text for all that is over
			if r.door == "legacy" {
				told = "unknown approval id"
			}
			if !r.won && !strings.Contains(r.said, told) {
				t.Errorf("%s: %s lost and was told %q", id, r.door, r.said)
			}
		}
		if w := <-waited; w != want {
			t.Errorf("%s: the requester got %v, want %v", id, w, want)
		}
		told := winner.decision + " " + got.GetApproval().GetResolvedBy()
		proc.Until(t, "the watchers hear of "+id, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(heard[id]) >= 2
		})
		mu.Lock()
		if h := heard[id]; len(h) != 2 || h[0] != told || h[1] != told {
			t.Errorf("%s: watchers heard %q, want %q twice", id, h, told)
		}
		mu.Unlock()
	}
	t.Logf("of %d rounds: %v", answerRounds, wins)
	if len(wins) < 2 {
		t.Errorf("only one door ever won: %v", wins)
	}
}

// restAnswer denies by REST.
func restAnswer(ctx context.Context, t *testing.T, d *proc.Daemon, id string) reply {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.URL()+"/v1/approvals/"+id+":resolve", bytes.NewBufferString(`{"decision":"DECISION_DENY"}`))
	if err != nil {
		t.Error(err)
		return reply{}
	}
	req.Header.Set("Authorization", "Bearer "+proc.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply{"REST", "deny", false, err.Error()}
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	return reply{"REST", "deny", res.StatusCode == http.StatusOK, fmt.Sprintf("%d: %s", res.StatusCode, text)}
}

// TestR7AnswersOutliveRestart: a watch of a client, such as a desktop app, goes on over restarts and kills of the
// daemon, and misses nothing of what was decided and what expired meanwhile.
func TestR7AnswersOutliveRestart(t *testing.T) {
	for _, tc := range restarts {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d := proc.Start(t, proc.Options{Form: proc.Tested})
			c := d.Client(t)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			ask := func(id string, timeout time.Duration) {
				t.Helper()
				if _, err := d.Client(t).Approvals.RequestApproval(ctx, &approvalsv1.RequestApprovalRequest{Id: id, Command: "true", Host: new("gateway"), Timeout: durationpb.New(timeout)}); err != nil {
					t.Fatal(err)
				}
			}
			ask("stays", time.Hour)
			ask("answered", time.Hour)
			ask("expires", 1500*time.Millisecond)
			var mu sync.Mutex
			began, away := 0, 0
			var pending []string
			last := map[string]*approvalsv1.Approval{}
			done := make(chan error, 1)
			go func() {
				done <- c.WatchApprovals(ctx, func(ch client.ApprovalsChange) error {
					mu.Lock()
					defer mu.Unlock()
					switch {
					case ch.Began:
						began++
						pending = nil
						for _, a := range ch.Pending {
							pending = append(pending, a.GetId())
						}
					case ch.Away != nil:
						away++
					default:
						last[ch.Approval.GetId()] = ch.Approval
					}
					return nil
				})
			}()
			seen := func(what string, ok func() bool) {
				t.Helper()
				proc.Until(t, what, func() bool {
					mu.Lock()
					defer mu.Unlock()
					return ok()
				})
			}
			seen("the watch", func() bool { return began == 1 && len(pending) == 3 })
			// While the watch is cut, somebody answers.
			restart(t, d, tc.sig)
			seen("the watch again", func() bool { return began == 2 && away == 1 })
			if _, err := d.Client(t).Approvals.ResolveApproval(ctx, &approvalsv1.ResolveApprovalRequest{Id: "answered", Decision: approvalsv1.Decision_DECISION_DENY}); err != nil {
				t.Fatal(err)
			}
			seen("the answer, and by whom", func() bool {
				a := last["answered"]
				return a.GetState() == approvalsv1.State_STATE_DENIED && strings.HasPrefix(a.GetResolvedBy(), "local:")
			})
			seen("the expiry", func() bool { return last["expires"].GetState() == approvalsv1.State_STATE_EXPIRED })
			restart(t, d, tc.sig)
			seen("the watch once more", func() bool { return began == 3 })
			mu.Lock()
			if len(pending) != 1 || pending[0] != "stays" {
				t.Errorf("what waits is %v", pending)
			}
			mu.Unlock()
			cancel()
			if err := <-done; err == nil {
				t.Error("the watch ended without an error")
			}
		})
	}
}

// TestR11WaitersEnd: whoever waits for an answer that never comes is told at the deadline, by every door, and
// nothing waits longer than its question.
func TestR11WaitersEnd(t *testing.T) {
	t.Parallel()
	d := proc.Start(t, proc.Options{Form: proc.Tested, Args: []string{"--node"}})
	node := onlyNode(t, d)
	c := d.Client(t)
	legacy := proc.Connect(t, d.Operator(proc.Device(t)))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const stands = 1200 * time.Millisecond
	const late = 3 * time.Second // on a busy machine
	began := time.Now()
	var wg sync.WaitGroup
	ended := func(who string, err error) {
		if took := time.Since(began); took < stands || took > stands+late {
			t.Errorf("%s ended after %v: %v", who, took, err)
		}
	}
	if _, err := c.Approvals.RequestApproval(ctx, &approvalsv1.RequestApprovalRequest{Id: "silent", Command: "true", Host: new("gateway"), Timeout: durationpb.New(stands)}); err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		out, err := c.Approvals.WaitApproval(ctx, &approvalsv1.WaitApprovalRequest{Id: "silent"})
		ended("gRPC", err)
		if out.GetApproval().GetState() != approvalsv1.State_STATE_EXPIRED {
			t.Errorf("gRPC: %v, %v", out.GetApproval().GetState(), err)
		}
	})
	wg.Go(func() {
		answer, err := legacy.Call(ctx, "exec.approval.waitDecision", map[string]any{"id": "silent"})
		ended("legacy wait", err)
		if !strings.Contains(string(answer), `"decision":null`) {
			t.Errorf("legacy wait: %s, %v", answer, err)
		}
	})
	wg.Go(func() {
		answer, err := legacy.Call(ctx, "exec.approval.request", map[string]any{"id": "asked", "command": "true", "timeoutMs": stands.Milliseconds()})
		ended("legacy request", err)
		if !strings.Contains(string(answer), `"decision":null`) {
			t.Errorf("legacy request: %s, %v", answer, err)
		}
	})
	wg.Go(func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.URL()+"/v1/approvals/silent:wait", nil)
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Authorization", "Bearer "+proc.Token)
		res, err := http.DefaultClient.Do(req)
		ended("REST", err)
		if err != nil {
			return
		}
		defer res.Body.Close()
		if text, _ := io.ReadAll(res.Body); !strings.Contains(string(text), "STATE_EXPIRED") {
			t.Errorf("REST: %s", text)
		}
	})
	wg.Go(func() {
		run := d.Ctl("nodes", "run", node, "--approval-timeout", stands.String(), "--", "true").Wait(t, proc.Patience)
		ended("command line", nil)
		if run.Code != 75 {
			t.Errorf("command line: exit %d, %s", run.Code, run.Stderr)
		}
	})
	wg.Wait()
	if out, err := c.Approvals.ListApprovals(ctx, &approvalsv1.ListApprovalsRequest{}); err != nil || len(out.GetApprovals()) > 0 {
		t.Errorf("still waiting: %v, %v", out.GetApprovals(), err)
	}
}
