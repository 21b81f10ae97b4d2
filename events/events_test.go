package events

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

// next waits for an event, a while.
func next(t *testing.T, s *Subscription) Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	e, err := s.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Every receiver sees one order, and a sink has an event before Publish returns.
func TestOneOrder(t *testing.T) {
	b := New(time.Now)
	var sunk []int
	b.Sink(func(e Event) { sunk = append(sunk, e.Payload.(int)) })
	subs := []*Subscription{b.Subscribe(nil), b.Subscribe(func(e Event) bool { return e.Payload.(int)%2 == 0 })}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range QueueSize / 4 {
				b.Publish("tick", g*1000+i)
			}
		})
	}
	wg.Wait()
	if len(sunk) != QueueSize {
		t.Fatalf("the sink has %d", len(sunk))
	}
	for n, s := range subs {
		i := 0
		for _, want := range sunk {
			if n == 1 && want%2 != 0 {
				continue
			}
			if got := next(t, s).Payload.(int); got != want {
				t.Fatalf("subscription %d has %d where the sink has %d", n, got, want)
			}
			i++
		}
		if e, ok := s.TryNext(); ok {
			t.Errorf("subscription %d: %+v is left", n, e)
		}
		s.Close()
	}
}

// A reader that is behind loses what is queued, is told how many that were in the place where they
// were, and nobody waits for it.
func TestBounded(t *testing.T) {
	now := time.UnixMilli(5)
	b := New(func() time.Time { return now })
	slow, quick := b.Subscribe(nil), b.Subscribe(nil)
	const all = 3*QueueSize + 10
	for i := range all {
		b.Publish("tick", i)
		if e := next(t, quick); e.Payload.(int) != i || !e.At.Equal(now) || e.Name != "tick" || e.Lost != 0 {
			t.Fatalf("%+v", e)
		}
	}
	n := 0
	for e, ok := slow.TryNext(); ok; e, ok = slow.TryNext() {
		if n += int(e.Lost); e.Payload.(int) != n {
			t.Fatalf("event %v comes after %d others, those %d lost ones included", e.Payload, n, e.Lost)
		}
		n++
	}
	if n != all {
		t.Errorf("%d of %d events came or were reported as lost", n, all)
	}
	slow.Close()
	slow.Close()
	b.Publish("tick", 1)
	if _, ok := slow.TryNext(); ok {
		t.Error("an event after Close")
	}
	if len(b.subs) != 1 {
		t.Errorf("%d subscriptions", len(b.subs))
	}
}

// However fast a slow reader and the publishers run, each event comes or is reported as lost.
func TestEveryEventIsAccountedFor(t *testing.T) {
	b := New(time.Now)
	s := b.Subscribe(nil)
	const all = 100_000
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range all {
			b.Publish("tick", i)
			if i%5000 == 0 {
				s.Evict()
			}
		}
	})
	for n := 0; n < all; {
		e := next(t, s)
		n += int(e.Lost)
		if e.Name == "" {
			continue
		}
		if e.Payload.(int) != n {
			t.Fatalf("%v came where %d was due", e.Payload, n)
		}
		n++
	}
	wg.Wait()
	s.Close()
	if n := b.Budget().Held(); n != 0 {
		t.Errorf("%d bytes are held by nobody", n)
	}
}

type record struct {
	Text string
	Rows []struct{ Name string }
	At   time.Time
	Next *record
}

// What subscriptions hold is counted once for all of them, as long as one holds it.
func TestSubscriptionsAreCounted(t *testing.T) {
	b := New(time.Now)
	one, two := b.Subscribe(nil), b.Subscribe(nil)
	payload := record{Text: strings.Repeat("x", 1000), Rows: make([]struct{ Name string }, 10), Next: &record{Text: "next"}}
	payload.Rows[3].Name = strings.Repeat("y", 500)
	size := b.Budget().Held()
	if size != 0 {
		t.Fatalf("%d bytes are held at first", size)
	}
	b.Publish("tick", payload)
	if size = b.Budget().Held(); size < 1504 || size > 2500 {
		t.Errorf("a record of about 1,900 bytes counts %d", size)
	}
	next(t, one)
	if one.Backlog() != 0 || b.Budget().Held() != size {
		t.Errorf("one reader has it, the other does not: %d are held", b.Budget().Held())
	}
	next(t, two)
	if n := two.Backlog(); n != 0 || b.Budget().Held() != 0 {
		t.Errorf("%d are held after both have it", b.Budget().Held())
	}
	b.Publish("tick", payload)
	one.Close()
	two.Close()
	if b.Budget().Held() != 0 {
		t.Errorf("%d are held after both are closed", b.Budget().Held())
	}
}

// Over the limit the readers with the largest backlogs lose theirs and are told; the others keep
// what they have.
func TestBudget(t *testing.T) {
	const limit, event = 100_000, 1000
	b := NewBounded(time.Now, limit)
	big, small, idle := b.Subscribe(nil), b.Subscribe(func(e Event) bool { return e.Name == "tick" }), b.Subscribe(nil)
	text := func() record { return record{Text: strings.Repeat("x", event)} }
	b.Publish("tick", text())
	for range 2 * limit / event {
		b.Publish("cron", text())
		for e, ok := idle.TryNext(); ok; e, ok = idle.TryNext() {
			if e.Lost != 0 {
				t.Fatalf("a reader that keeps up lost %d", e.Lost)
			}
		}
		if n := b.Budget().Held(); n > limit {
			t.Fatalf("%d bytes are held; the limit is %d", n, limit)
		}
	}
	if e := next(t, small); e.Lost != 0 || e.Name != "tick" {
		t.Errorf("the small backlog: %+v", e)
	}
	lost, got := uint64(0), uint64(0)
	for e, ok := big.TryNext(); ok; e, ok = big.TryNext() {
		lost += e.Lost
		if e.Name != "" {
			got++
		}
	}
	if lost == 0 || lost+got != 2*limit/event+1 {
		t.Errorf("%d events came and %d were reported as lost", got, lost)
	}
}

func TestSubscribeWhilePublishing(t *testing.T) {
	b := New(time.Now)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				b.Publish("tick", 1)
			}
		}
	})
	for range 200 {
		s := b.Subscribe(nil)
		next(t, s)
		s.Close()
	}
	close(done)
	wg.Wait()
}

// Who may see what: nothing that is not listed, nodes nothing that is not theirs
// (protocol.md §6.1).
func TestVisible(t *testing.T) {
	op := func(s ...identity.Scope) identity.Caller {
		return identity.Caller{Role: identity.RoleOperator, Scopes: s}
	}
	node := identity.Caller{Role: identity.RoleNode, Scopes: identity.AllOperatorScopes}
	for name, r := range rules {
		if !Visible(op(identity.ScopeAdmin), name) {
			t.Errorf("an admin does not see %s", name)
		}
		if got := Visible(op(), name); got != (r.scope == "") {
			t.Errorf("without scopes %s: %v", name, got)
		}
		for _, s := range identity.AllOperatorScopes {
			want := r.scope == "" || s == r.scope || s == identity.ScopeAdmin || (s == identity.ScopeWrite && r.scope == identity.ScopeRead)
			if got := Visible(op(s), name); got != want {
				t.Errorf("%s with %s: %v", name, s, got)
			}
		}
		if Visible(node, name) != r.nodes {
			t.Errorf("a node sees %s: %v", name, !r.nodes)
		}
		if Visible(identity.Caller{}, name) {
			t.Errorf("nobody sees %s", name)
		}
	}
	for _, secret := range []string{"exec.approval.requested", "exec.approval.resolved", "chat", "agent", "presence", "device.pair.requested", "node.pair.requested", "node.event", "update.available"} {
		if Visible(node, secret) {
			t.Errorf("a node sees %s", secret)
		}
	}
	if Visible(op(identity.ScopeAdmin), "made.up") || Droppable("made.up") {
		t.Error("an event that nobody listed is seen")
	}
	for _, kept := range []string{"health", "shutdown", "agent", "chat"} {
		if Droppable(kept) {
			t.Errorf("%s is left out for slow clients", kept)
		}
	}
}
