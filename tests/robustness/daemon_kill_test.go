//go:build unix

package robustness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/store/storetest"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	quickKills   = 15
	killAskers   = 4
	killRenamers = 2
	killPairers  = 2
	// maxKillAcks is how many acknowledgements a round may see before the kill.
	maxKillAcks = 150
	// killFresh makes a new directory from time to time. With killAskers questions left open by
	// each kill the number of open ones stays below the limit of the daemon.
	killFresh = 50
	// killRemembered is how many approvals of past rounds are tried again in each round.
	killRemembered = 10
	// readyAfterKill is promise 3.
	readyAfterKill = time.Second
)

// asked is what a client knows of one approval.
type asked struct {
	id       string
	by       *dial.Identity
	tried    int // steps that were sent: 1 create, 2 decide, 3 use
	acked    int // steps that were acknowledged
	decision approvals.Decision
}

// book is what the clients know. It outlives the kills.
type book struct {
	mu      sync.Mutex
	asked   map[string]*asked
	names   map[string][2]int         // of a node: highest number tried and acknowledged
	paired  map[string]string         // device id to token
	ran     map[string]int            // how often each approval reached the node
	old     []*asked                  // of past rounds, to be tried again
	devices map[string]*dial.Identity // by worker
	acks    atomic.Int64              // of this round
	hit     chan struct{}             // closed at the acknowledgement to kill after
	at      int64
}

func newBook() *book {
	return &book{
		asked: map[string]*asked{}, names: map[string][2]int{}, paired: map[string]string{},
		ran: map[string]int{}, devices: map[string]*dial.Identity{},
	}
}

func (b *book) ack() {
	if b.acks.Add(1) == b.at {
		close(b.hit)
	}
}

// device is the same in every round, so that an approval can be used after a restart.
func (b *book) device(t *testing.T, worker string) *dial.Identity {
	b.mu.Lock()
	defer b.mu.Unlock()
	d, ok := b.devices[worker]
	if !ok {
		d = proc.Device(t)
		b.devices[worker] = d
	}
	return d
}

// TestR6KillDaemon kills the real daemon with SIGKILL at random moments while clients ask, decide,
// use, rename and pair. Afterwards the store opens and is in order, everything acknowledged is
// there, no approval was used twice, and the daemon is ready within a second.
func TestR6KillDaemon(t *testing.T) {
	n := rounds(t, quickKills)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var (
		d       *proc.Daemon
		b       *book
		slowest time.Duration
		acks    int64
	)
	for round := range n {
		if round%killFresh == 0 {
			b, d = newBook(), proc.New(t, proc.Options{})
		}
		d.Start()
		slowest = max(slowest, d.Ready)
		b.at, b.hit = 1+int64(r.IntN(maxKillAcks)), make(chan struct{})
		b.acks.Store(0)
		later := time.Duration(r.IntN(5000)) * time.Microsecond
		load(t, d, b, round, later)
		acks += b.acks.Load()
		lookAfterKill(t, d, b)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
	t.Logf("%d kills, %d acknowledged writes, slowest start %v", n, acks, slowest)
	if slowest > readyAfterKill {
		t.Errorf("after a kill the daemon took %v until it was ready; %v are promised", slowest, readyAfterKill)
	}
}

// load runs the clients and kills the daemon under them.
func load(t *testing.T, d *proc.Daemon, b *book, round int, later time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), proc.Patience)
	defer cancel()
	serve := func(i proc.Invocation) any {
		if i.Command != "system.run" {
			return nil
		}
		p := i.Params()
		id, _ := p["runId"].(string)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.ran[id]++
		if p["approved"] != true {
			t.Errorf("a run without an approval reached the node: %s", i.ParamsJSON)
		}
		return proc.Ran()
	}
	for w := range killRenamers {
		node, err := dial.Dial(ctx, d.Node(b.device(t, fmt.Sprint("node", w)), serve))
		if err != nil {
			t.Fatal(err)
		}
		defer node.Close()
	}
	nodeID := b.device(t, "node0").ID
	var wg sync.WaitGroup
	for w := range killAskers {
		wg.Go(func() {
			ask(ctx, t, d, b, nodeID, fmt.Sprintf("r%d-%d", round, w), b.device(t, fmt.Sprint("asker", w)))
		})
	}
	for w := range killRenamers {
		wg.Go(func() { rename(ctx, t, d, b, b.device(t, fmt.Sprint("node", w)).ID) })
	}
	for range killPairers {
		wg.Go(func() { pair(ctx, t, d, b) })
	}
	select {
	case <-b.hit:
	case <-ctx.Done():
		t.Errorf("only %d acknowledgements came", b.acks.Load())
	}
	timer := time.AfterFunc(later, d.Kill)
	<-d.Done
	timer.Stop()
	cancel()
	wg.Wait()
}

// gone reports whether a call failed because the daemon was killed, and fails the test for any
// other reason.
func gone(t *testing.T, what string, err error) bool {
	if err == nil {
		return false
	}
	if c := proc.Refusal(err); c != nil {
		t.Errorf("%s was refused: %v", what, c)
	}
	return true
}

// ask asks, decides and uses, one approval after the other, and then tries approvals of past rounds.
func ask(ctx context.Context, t *testing.T, d *proc.Daemon, b *book, node, prefix string, me *dial.Identity) {
	c, err := dial.Dial(ctx, d.Operator(me))
	if err != nil {
		return
	}
	defer c.Close()
	again(ctx, t, c, b, node, me)
	for i := 0; ; i++ {
		a := &asked{id: fmt.Sprintf("%s-%d", prefix, i), by: me, decision: approvals.AllowOnce}
		if i%3 == 2 {
			a.decision = approvals.Deny
		}
		b.mu.Lock()
		b.asked[a.id] = a
		b.mu.Unlock()
		step := func(n int, acked bool) {
			b.mu.Lock()
			if acked {
				a.acked = n
			} else {
				a.tried = n
			}
			b.mu.Unlock()
			if acked {
				b.ack()
			}
		}
		argv := []string{"/bin/echo", a.id}
		q := proc.Question(a.id, node, argv, "", nil, int(time.Hour/time.Millisecond))
		step(1, false)
		accepted := make(chan struct{})
		ended := make(chan error, 1)
		go func() {
			_, err := c.CallTwoPhase(ctx, "exec.approval.request", q, func(json.RawMessage) { close(accepted) })
			ended <- err
		}()
		select {
		case <-accepted:
			step(1, true)
		case err := <-ended:
			gone(t, "a question", err)
			return
		}
		step(2, false)
		_, err := c.Call(ctx, "exec.approval.resolve", map[string]any{"id": a.id, "decision": string(a.decision)})
		if err == nil {
			step(2, true)
		}
		if gone(t, "an answer", err) || gone(t, "a question that was answered", <-ended) {
			if err != nil {
				<-ended
			}
			return
		}
		if a.decision == approvals.Deny {
			continue
		}
		step(3, false)
		_, err = c.Call(ctx, "node.invoke", proc.ApprovedRun(a.id, node, "k-"+a.id, argv, "", nil))
		if gone(t, "an approved run", err) {
			return
		}
		step(3, true)
	}
}

// again uses approvals of past rounds: one that was used is refused, another one runs for the first
// time.
func again(ctx context.Context, t *testing.T, c *dial.Conn, b *book, node string, me *dial.Identity) {
	b.mu.Lock()
	var mine []asked
	for _, a := range b.old {
		if a.by == me && len(mine) < killRemembered {
			mine = append(mine, *a)
		}
	}
	b.mu.Unlock()
	for _, a := range mine {
		if a.decision != approvals.Deny {
			b.mu.Lock()
			b.asked[a.id].tried = 3
			b.mu.Unlock()
		}
		_, err := c.Call(ctx, "node.invoke", proc.ApprovedRun(a.id, node, "again-"+a.id, []string{"/bin/echo", a.id}, "", nil))
		refused := proc.Refusal(err) != nil
		if err != nil && !refused {
			return // the daemon was killed
		}
		b.mu.Lock()
		if !refused {
			b.asked[a.id].acked = 3
		}
		n := b.ran[a.id]
		b.mu.Unlock()
		if n > 1 || (!refused && a.decision == approvals.Deny) || (!refused && a.acked == 3) {
			t.Errorf("%s (%s, %d steps acknowledged) was used again: it reached the node %d times", a.id, a.decision, a.acked, n)
		}
	}
}

// rename gives a node of its own one name after the other.
func rename(ctx context.Context, t *testing.T, d *proc.Daemon, b *book, node string) {
	c, err := dial.Dial(ctx, d.Operator(nil))
	if err != nil {
		return
	}
	defer c.Close()
	for {
		b.mu.Lock()
		n := b.names[node]
		n[0]++
		b.names[node] = n
		b.mu.Unlock()
		_, err := c.Call(ctx, "node.rename", map[string]any{"nodeId": node, "displayName": fmt.Sprintf("name-%d", n[0])})
		if gone(t, "a new name", err) {
			return
		}
		b.mu.Lock()
		b.names[node] = [2]int{n[0], n[0]}
		b.mu.Unlock()
		b.ack()
	}
}

// pair connects as a new device after the other; each is paired and gets a token.
func pair(ctx context.Context, t *testing.T, d *proc.Daemon, b *book) {
	for ctx.Err() == nil {
		me := proc.Device(t)
		c, err := dial.Dial(ctx, d.Operator(me))
		if err != nil {
			if _, ok := errors.AsType[*dial.RefusedError](err); ok {
				t.Errorf("a new device was not let in: %v", err)
			}
			return
		}
		b.mu.Lock()
		b.paired[me.ID] = c.Hello().DeviceToken
		b.mu.Unlock()
		b.ack()
		_ = c.Close()
	}
}

// lookAfterKill compares the store with what the clients know.
func lookAfterKill(t *testing.T, d *proc.Daemon, b *book) {
	t.Helper()
	s, err := store.Open(t.Context(), d.State, store.Options{})
	if err != nil {
		t.Fatalf("opening after the kill: %v", err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	storetest.VerifyAudit(t, s)
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.old = b.old[:0]
	for id, a := range b.asked {
		rec, err := s.Approval(id)
		if errors.Is(err, approvals.ErrUnknown) {
			if a.acked > 0 {
				t.Errorf("%s is lost: %d steps were acknowledged", id, a.acked)
			}
			delete(b.asked, id)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", id, err)
			continue
		}
		got := stepOf(rec)
		if got < a.acked || got > a.tried {
			t.Errorf("%s is %s after %d steps acknowledged and %d tried", id, rec.State, a.acked, a.tried)
		}
		if got > 1 && rec.Decision != a.decision {
			t.Errorf("%s was decided %s, and is %s", id, a.decision, rec.Decision)
		}
		if n := b.ran[id]; n > 1 || rec.Uses > 1 || n > rec.Uses {
			t.Errorf("%s reached the node %d times with %d uses on disk", id, n, rec.Uses)
		}
		// What is on disk is what happened: its client is gone.
		a.tried, a.acked = got, got
		if got > 1 && len(b.old) < 8*killRemembered {
			b.old = append(b.old, a)
		}
	}
	for id, n := range b.names {
		name, err := s.NodeName(id)
		if err != nil {
			t.Error(err)
		}
		var got int
		if name != "" {
			if _, err := fmt.Sscanf(name, "name-%d", &got); err != nil {
				t.Errorf("the node is called %q", name)
			}
		}
		if got < n[1] || got > n[0] {
			t.Errorf("the node is called %q after name-%d was acknowledged and name-%d tried", name, n[1], n[0])
		}
		b.names[id] = [2]int{n[0], got}
	}
	for id, token := range b.paired {
		dev, ok, err := s.Device(id)
		if err != nil || !ok || token == "" || dev.Tokens[identity.RoleOperator].Token != token {
			t.Errorf("device %s was paired and its token is not there (%v, %v)", id, ok, err)
		}
	}
}

func stepOf(a approvals.Approval) int {
	switch a.State {
	case approvals.Pending:
		return 1
	case approvals.Consumed:
		return 3
	default:
		return 2
	}
}
