package events

import (
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

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
			if got := (<-s.C()).Payload.(int); got != want {
				t.Fatalf("subscription %d has %d where the sink has %d", n, got, want)
			}
			i++
		}
		if s.Dropped() != 0 || len(s.C()) != 0 {
			t.Errorf("subscription %d: %d left", n, len(s.C()))
		}
		s.Close()
	}
}

// A reader that is behind loses the newest and is told how many; nobody waits for it.
func TestBounded(t *testing.T) {
	now := time.UnixMilli(5)
	b := New(func() time.Time { return now })
	slow, quick := b.Subscribe(nil), b.Subscribe(nil)
	got := 0
	for i := range QueueSize + 10 {
		b.Publish("tick", i)
		if e := <-quick.C(); e.Payload.(int) != i || !e.At.Equal(now) || e.Name != "tick" {
			t.Fatalf("%+v", e)
		}
		got++
	}
	if len(slow.C()) != QueueSize || slow.Dropped() != 10 || slow.Dropped() != 0 || quick.Dropped() != 0 {
		t.Errorf("%d are queued", len(slow.C()))
	}
	if e := <-slow.C(); e.Payload.(int) != 0 {
		t.Errorf("the oldest is %v", e.Payload)
	}
	slow.Close()
	slow.Close()
	n := len(slow.C())
	b.Publish("tick", 1)
	if len(slow.C()) != n {
		t.Error("an event after Close")
	}
	if len(b.subs) != 1 {
		t.Errorf("%d subscriptions", len(b.subs))
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
		<-s.C()
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
	for _, secret := range []string{"exec.approval.requested", "exec.approval.resolved", "chat", "agent", "presence", "device.pair.requested", "node.pair.requested", "node.event"} {
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
