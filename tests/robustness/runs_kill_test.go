//go:build unix

package robustness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	runsv1 "github.com/hanzoai/hanzod/gen/hanzo/runs/v1"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/store/storetest"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	quickRunKills = 6
	// runWorkers ask, answer and look at the same time.
	runWorkers = 4
	// maxRunAcks is how many acknowledgements a round may see before the kill.
	maxRunAcks = 40
	// runsFresh makes a new directory from time to time: the runs of one caller are bounded.
	runsFresh = 20
	// settleTime is how long the last daemon of a directory may take until every decided run has ended:
	// a node that was away comes back in that time.
	runsSettle = 45 * time.Second
)

// parked is what a client knows of one run.
type parked struct {
	id      string
	started bool // acknowledged
	// decision was sent, answered says that it was acknowledged.
	decision approvalsv1.Decision
	answered bool
}

// ledger is what the clients know of all runs. It outlives the kills.
type ledger struct {
	mu   sync.Mutex
	runs map[string]*parked
	open []*parked // acknowledged and not decided
	acks atomic.Int64
	at   int64
	hit  chan struct{}
}

func (l *ledger) ack() {
	if l.acks.Add(1) == l.at {
		close(l.hit)
	}
}

func (l *ledger) takeOpen() *parked {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) == 0 {
		return nil
	}
	p := l.open[0]
	l.open = l.open[1:]
	return p
}

// TestR6KillRuns kills the real daemon with SIGKILL at random moments while commands are parked, answered
// and started; the real node host appends to a file. Afterwards every run that was acknowledged is known,
// every decision that was acknowledged has come true or is told as lost, nothing ran that was not allowed,
// and nothing ran twice. In some directories the node host is the daemon's own, in others a process that
// outlives the kills.
func TestR6KillRuns(t *testing.T) {
	n := rounds(t, quickRunKills)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	fresh := min(runsFresh, (n+1)/2)
	var s *runsStory
	var total tally
	for round := range n {
		if round%fresh == 0 {
			if s != nil {
				total.add(s.settle(t))
			}
			s = newRunsStory(t, (round/fresh)%2 == 1)
		}
		s.round(t, r, round)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
	total.add(s.settle(t))
	t.Logf("%d kills: %d runs acknowledged, %d ran, %d denied, %d were told as lost, of which %d had run", n, total.started, total.ran, total.denied, total.lost, total.lostRan)
	if total.ran == 0 || total.denied == 0 {
		t.Error("nothing ran, or nothing was denied: the suite shows nothing")
	}
}

type tally struct{ started, ran, denied, lost, lostRan int }

func (a *tally) add(b tally) {
	a.started += b.started
	a.ran += b.ran
	a.denied += b.denied
	a.lost += b.lost
	a.lostRan += b.lostRan
}

// runsStory is one directory.
type runsStory struct {
	d      *proc.Daemon
	l      *ledger
	script string
	marks  string
	// nodeOutside says that the node host is a process of its own.
	nodeOutside bool
	home        string
	host        *proc.Command
	node        string
}

func newRunsStory(t *testing.T, outside bool) *runsStory {
	dir := proc.Dir(t)
	s := &runsStory{l: &ledger{runs: map[string]*parked{}}, script: filepath.Join(dir, "mark"), marks: filepath.Join(dir, "marks"), nodeOutside: outside}
	if err := os.WriteFile(s.script, []byte("#!/bin/sh\necho \"$1\" >> '"+s.marks+"'\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	o := proc.Options{Args: []string{"--node"}}
	if outside {
		o.Args = nil
	}
	s.d = proc.New(t, o)
	return s
}

// start starts the daemon and waits for its node the first time. A node host of its own has outlived the
// kill; after so many in a row it would wait for a minute before it tries again, so it is started anew.
func (s *runsStory) start(t *testing.T) {
	s.d.Start()
	if s.nodeOutside {
		if s.home == "" {
			s.home = proc.Dir(t)
		}
		if s.host != nil {
			s.host.End(syscall.SIGTERM)
		}
		s.host = proc.Run(t, s.home, proc.Build(t, "hanzod", proc.Shipped), []string{"HANZOD_TOKEN=" + proc.Token}, "node", "--state-dir", s.home, "--port", fmt.Sprint(s.d.Port))
	}
	if s.node != "" {
		return // runs wait for it
	}
	c := s.d.Client(t)
	proc.Until(t, "the node is there", func() bool {
		out, err := c.ResolveNode(t.Context(), hostname(t))
		if err != nil || !out.GetConnected() {
			return false
		}
		s.node = out.GetNodeId()
		return true
	})
}

func hostname(t *testing.T) string {
	t.Helper()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// round runs the clients and kills the daemon under them.
func (s *runsStory) round(t *testing.T, r *rand.Rand, round int) {
	t.Helper()
	s.start(t)
	ctx, cancel := context.WithTimeout(t.Context(), proc.Patience)
	defer cancel()
	s.l.at, s.l.hit = 1+int64(r.IntN(maxRunAcks)), make(chan struct{})
	s.l.acks.Store(0)
	later := time.Duration(r.IntN(20_000)) * time.Microsecond
	var wg sync.WaitGroup
	for w := range runWorkers {
		seed := r.Uint64()
		wg.Go(func() { s.work(ctx, t, fmt.Sprintf("r%d-w%d", round, w), rand.New(rand.NewPCG(seed, 2))) })
	}
	select {
	case <-s.l.hit:
	case <-ctx.Done():
		t.Errorf("only %d acknowledgements came", s.l.acks.Load())
	}
	timer := time.AfterFunc(later, s.d.Kill)
	<-s.d.Done
	timer.Stop()
	cancel()
	wg.Wait()
	var st *store.Store
	proc.Until(t, "the store can be opened after the kill", func() (ok bool) {
		var err error
		st, err = store.Open(t.Context(), s.d.State, store.Options{})
		// A child that was being started has what the daemon had open until it becomes its program.
		if err != nil && !errors.Is(err, store.ErrLocked) {
			t.Fatalf("opening after the kill: %v", err)
		}
		return err == nil
	})
	storetest.VerifyAudit(t, st)
	if err := st.Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
	for _, p := range s.l.runs {
		if _, err := st.Run(p.id); err != nil && p.started {
			t.Errorf("%s was acknowledged: %v", p.id, err)
		}
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
}

// work starts runs and answers them, those of past rounds among them.
func (s *runsStory) work(ctx context.Context, t *testing.T, prefix string, r *rand.Rand) {
	c, err := client.Dial(ctx, client.Options{Socket: s.d.Socket(), ClientName: "test"})
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	for i := 0; ctx.Err() == nil; i++ {
		if p := s.l.takeOpen(); p != nil && r.IntN(2) == 0 {
			if !s.answer(ctx, t, c, p, r) {
				return
			}
		} else if p != nil {
			s.l.mu.Lock()
			s.l.open = append(s.l.open, p)
			s.l.mu.Unlock()
		}
		p := &parked{id: fmt.Sprintf("%s-%d", prefix, i)}
		s.l.mu.Lock()
		s.l.runs[p.id] = p
		s.l.mu.Unlock()
		_, err := c.Runs.StartRun(ctx, &runsv1.StartRunRequest{
			Id: p.id, NodeId: s.node, Argv: []string{s.script, p.id}, ApprovalTimeout: durationpb.New(time.Hour), WaitForNode: durationpb.New(time.Minute),
		})
		if died(t, "a start", err) {
			return
		}
		s.l.mu.Lock()
		p.started = true
		s.l.mu.Unlock()
		s.l.ack()
		if r.IntN(4) == 0 || !s.answer(ctx, t, c, p, r) {
			s.l.mu.Lock()
			s.l.open = append(s.l.open, p)
			s.l.mu.Unlock()
			if ctx.Err() != nil {
				return
			}
		}
	}
}

// answer decides a run once its question stands; false when the daemon is gone, or the question does not
// stand yet.
func (s *runsStory) answer(ctx context.Context, t *testing.T, c *client.Client, p *parked, r *rand.Rand) bool {
	for {
		out, err := c.Runs.GetRun(ctx, &runsv1.GetRunRequest{Id: p.id})
		if died(t, "a look at a run", err) {
			return false
		}
		state := out.GetRun().GetState()
		if state == runsv1.State_STATE_WAITING {
			break
		}
		if out.GetRun().GetEndedAt() != nil {
			return true // lost before anybody was asked
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(2 * time.Millisecond):
		}
	}
	decision := approvalsv1.Decision_DECISION_ALLOW_ONCE
	if r.IntN(4) == 0 {
		decision = approvalsv1.Decision_DECISION_DENY
	}
	s.l.mu.Lock()
	if p.decision != 0 {
		decision = p.decision // the answer to it was lost: the same again
	}
	p.decision = decision
	s.l.mu.Unlock()
	_, err := c.Approvals.ResolveApproval(ctx, &approvalsv1.ResolveApprovalRequest{Id: p.id, Decision: decision})
	var e *client.Error
	if errors.As(err, &e) && e.Code == "approvals.unknown" {
		return true // it was decided by the answer that was lost
	}
	if died(t, "an answer", err) {
		return false
	}
	s.l.mu.Lock()
	p.answered = true
	s.l.mu.Unlock()
	s.l.ack()
	return true
}

// died reports whether a call failed because the daemon was killed, and fails the test for any other reason.
func died(t *testing.T, what string, err error) bool {
	if err == nil {
		return false
	}
	var down *client.NotRunning
	var e *client.Error
	if !errors.As(err, &down) && (!errors.As(err, &e) || (e.Code != client.CodeLost && e.Code != client.CodeCanceled)) {
		t.Errorf("%s was refused: %v", what, err)
	}
	return true
}

// settle starts the daemon a last time, waits until what was decided has ended, and counts.
func (s *runsStory) settle(t *testing.T) (sum tally) {
	t.Helper()
	s.start(t)
	c := s.d.Client(t)
	states := map[string]*runsv1.Run{}
	proc.UntilFor(t, runsSettle, "every decided run has ended", func() bool {
		done := true
		for id, p := range s.l.runs {
			out, err := c.Runs.GetRun(t.Context(), &runsv1.GetRunRequest{Id: id})
			if err != nil {
				if p.started {
					t.Fatalf("%s was acknowledged: %v", id, err)
				}
				continue
			}
			states[id] = out.GetRun()
			done = done && (p.decision == 0 || out.GetRun().GetEndedAt() != nil || out.GetRun().GetState() == runsv1.State_STATE_WAITING && !p.answered)
		}
		return done
	})
	text, err := os.ReadFile(s.marks)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	ran := map[string]int{}
	for id := range strings.FieldsSeq(string(text)) {
		ran[id]++
	}
	for id, run := range states {
		p, n := s.l.runs[id], ran[id]
		if p.started {
			sum.started++
		}
		allowed := p.decision == approvalsv1.Decision_DECISION_ALLOW_ONCE
		switch state := run.GetState(); {
		case n > 1:
			t.Errorf("%s ran %d times", id, n)
		case n > 0 && !allowed:
			t.Errorf("%s ran, and its decision is %v (%v)", id, p.decision, state)
		case state == runsv1.State_STATE_DONE && n == 1:
			sum.ran++
		case state == runsv1.State_STATE_LOST:
			sum.lost++
			sum.lostRan += n
		case state == runsv1.State_STATE_DENIED && p.decision == approvalsv1.Decision_DECISION_DENY && n == 0:
			sum.denied++
		case state == runsv1.State_STATE_WAITING && !p.answered && n == 0:
		case p.decision == 0 && run.GetEndedAt() == nil && n == 0:
		default:
			t.Errorf("%s is %v after the decision %v (acknowledged: %v), ran %d times: %v", id, state, p.decision, p.answered, n, run.GetFailure())
		}
	}
	for id := range ran {
		if s.l.runs[id] == nil {
			t.Errorf("%q ran, and nobody asked for it", id)
		}
	}
	s.d.Stop()
	return sum
}
