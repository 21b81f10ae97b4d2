//go:build unix

package robustness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/dial"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/store/storetest"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	quickGrantKills = 5
	grantWorkers    = 4
	// maxGrantAcks is how many acknowledgements a round may see before the kill.
	maxGrantAcks = 120
	// grantsFresh makes a new directory from time to time: the grants of one maker are bounded.
	grantsFresh = 50
)

// held is what a client knows of one grant.
type held struct {
	argv    string // of the one command that it covers
	id      string // empty as long as its creation was not acknowledged
	max     int
	ran     int  // how often the node was told to run it as approved
	done    int  // how many approved runs were acknowledged
	revoke  bool // was sent
	revoked bool // was acknowledged
}

// shelf is what the clients know of all grants. It outlives the kills.
type shelf struct {
	mu   sync.Mutex
	all  map[string]*held // by argv
	acks atomic.Int64
	at   int64
	hit  chan struct{}
}

func (s *shelf) ack() {
	if s.acks.Add(1) == s.at {
		close(s.hit)
	}
}

func (s *shelf) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// TestR6KillGrants kills the real daemon with SIGKILL at random moments while grants are made, used and
// revoked. Afterwards every grant that was acknowledged is there, with at least the uses that a node saw
// and never more than it allows, every revocation that was acknowledged holds, and the audit log has a row
// for each use.
func TestR6KillGrants(t *testing.T) {
	n := rounds(t, quickGrantKills)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	var (
		d    *proc.Daemon
		s    *shelf
		node *dial.Identity
		acks int64
		ran  int
	)
	for round := range n {
		if round%grantsFresh == 0 {
			d, s, node = proc.New(t, proc.Options{}), &shelf{all: map[string]*held{}}, proc.Device(t)
		}
		d.Start()
		s.at, s.hit = 1+int64(r.IntN(maxGrantAcks)), make(chan struct{})
		s.acks.Store(0)
		useGrants(t, d, s, node, round, time.Duration(r.IntN(5000))*time.Microsecond)
		acks += s.acks.Load()
		ran = grantsAfterKill(t, d, s)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
	t.Logf("%d kills, %d acknowledged acts", n, acks)
	if ran == 0 {
		t.Error("no grant let anything run: the suite shows nothing")
	}
}

// useGrants runs the clients and kills the daemon under them.
func useGrants(t *testing.T, d *proc.Daemon, s *shelf, me *dial.Identity, round int, later time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), proc.Patience)
	defer cancel()
	node, err := dial.Dial(ctx, d.Node(me, func(i proc.Invocation) any {
		p := i.Params()
		words, _ := p["command"].([]any)
		if i.Command != "system.run" || len(words) != 2 {
			return nil
		}
		if p["approved"] != true {
			return map[string]any{"exitCode": 1, "timedOut": false, "success": false, "stdout": "", "stderr": "", "error": nil}
		}
		s.change(func() {
			h := s.all[fmt.Sprint(words[1])]
			if h == nil || h.revoked {
				t.Errorf("a run without a grant reached the node as approved: %s", i.ParamsJSON)
				return
			}
			h.ran++
		})
		return proc.Ran()
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	var wg sync.WaitGroup
	for w := range grantWorkers {
		wg.Go(func() { grantWorker(ctx, t, d, s, me.ID, fmt.Sprintf("r%d-%d", round, w)) })
	}
	select {
	case <-s.hit:
	case <-ctx.Done():
		t.Errorf("only %d acknowledgements came", s.acks.Load())
	}
	timer := time.AfterFunc(later, d.Kill)
	<-d.Done
	timer.Stop()
	cancel()
	wg.Wait()
}

// grantWorker makes grants, uses each up or revokes it, and tries once more.
func grantWorker(ctx context.Context, t *testing.T, d *proc.Daemon, s *shelf, node, prefix string) {
	c, err := client.Dial(ctx, client.Options{Socket: d.Socket(), ClientName: "test"})
	if err != nil {
		return
	}
	defer c.Close()
	op, err := dial.Dial(ctx, d.Operator(nil))
	if err != nil {
		return
	}
	defer op.Close()
	// run reports whether the node was told that it is approved; ok is false after the kill.
	run := func(h *held, key string) (approved, ok bool) {
		out, err := op.Call(ctx, "node.invoke", map[string]any{
			"nodeId": node, "command": "system.run", "idempotencyKey": key, "params": map[string]any{"command": []string{"/bin/echo", h.argv}},
		})
		if gone(t, "a run", err) {
			return false, false
		}
		return strings.Contains(string(out), `"exitCode":0`), true
	}
	for i := 0; ctx.Err() == nil; i++ {
		h := &held{argv: fmt.Sprintf("%s-%d", prefix, i), max: 1 + i%2}
		s.change(func() { s.all[h.argv] = h })
		out, err := c.Grants.CreateGrant(ctx, &approvalsv1.CreateGrantRequest{
			Argv: []string{"/bin/echo", h.argv}, NodeId: node, Uses: int32(h.max), AnyRequester: true,
		})
		if err != nil {
			if e, ok := errors.AsType[*client.Error](err); ok && strings.HasPrefix(e.Code, "approvals.") {
				t.Errorf("a grant was refused: %v", err)
			}
			return
		}
		s.change(func() { h.id = out.GetGrant().GetId() })
		s.ack()
		for n := range h.max + 1 {
			if i%3 == 2 && n == 1 {
				s.change(func() { h.revoke = true })
				if _, err := c.Grants.RevokeGrant(ctx, &approvalsv1.RevokeGrantRequest{Id: h.id}); err != nil {
					return
				}
				s.change(func() { h.revoked = true })
				s.ack()
			}
			approved, ok := run(h, fmt.Sprint(h.argv, "-", n))
			if !ok {
				return
			}
			if want := n < h.max && !h.revoked; approved != want {
				t.Errorf("run %d of %d, revoked %v: approved %v", n+1, h.max, h.revoked, approved)
			}
			if approved {
				s.change(func() { h.done++ })
				s.ack()
			}
		}
	}
}

// grantsAfterKill compares the store with what the clients know, and returns how many runs a grant let out.
func grantsAfterKill(t *testing.T, d *proc.Daemon, s *shelf) (ran int) {
	t.Helper()
	st, err := store.Open(t.Context(), d.State, store.Options{})
	if err != nil {
		t.Fatalf("opening after the kill: %v", err)
	}
	defer func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}()
	storetest.VerifyAudit(t, st)
	if err := st.Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
	stored, err := st.Grants()
	if err != nil {
		t.Fatal(err)
	}
	byID := map[string]approvals.Grant{}
	for _, g := range stored {
		byID[g.ID] = g
	}
	rows, err := st.Audit(0, 1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	uses := map[string]int{}
	for _, row := range rows {
		if row.Kind == approvals.AuditUse {
			uses[strings.TrimPrefix(row.Rule, "grant ")]++
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.all {
		ran += h.ran
		if h.id == "" {
			if h.ran > 0 {
				t.Errorf("%s ran under a grant that nobody was told of", h.argv)
			}
			continue
		}
		g, ok := byID[h.id]
		switch {
		case !ok:
			t.Errorf("the grant for %s is lost", h.argv)
		case g.Uses > g.MaxUses || g.MaxUses != h.max:
			t.Errorf("%s: %d uses of %d, made for %d", h.argv, g.Uses, g.MaxUses, h.max)
		case h.ran > g.Uses || h.done > h.ran:
			t.Errorf("%s ran %d times, %d acknowledged, with %d uses on disk", h.argv, h.ran, h.done, g.Uses)
		case h.revoked && g.RevokedAt.IsZero(), !h.revoke && !g.RevokedAt.IsZero():
			t.Errorf("%s: revocation sent %v, acknowledged %v, on disk %v", h.argv, h.revoke, h.revoked, g.RevokedAt)
		case uses[h.id] != g.Uses:
			t.Errorf("%s: %d rows for %d uses", h.argv, uses[h.id], g.Uses)
		}
	}
	return ran
}
