// Package events is the bus between domains and doors. A domain publishes after its commit; doors
// receive in order.
//
// There are two ways to receive. A sink is called in the publisher's goroutine, in the order of
// publishing, and must not block: doors that keep queues of their own use it, so that an event
// stands before the answer of the call that caused it. A Subscription is a bounded queue for
// streams; when it is full, events are dropped and counted, and the reader is told.
//
// The package imports identity only and owns no goroutine.
package events

import (
	"slices"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

// Event is one thing that happened. Payload is a domain type; each door renders it.
type Event struct {
	Name    string
	At      time.Time
	Payload any
}

// rule is who receives an event and whether it may be left out for a reader that is slow
// (protocol.md §6.1, §6.2).
type rule struct {
	scope     identity.Scope // needed by operators; empty: every operator
	nodes     bool           // nodes receive it too
	droppable bool
}

// rules names every event. An event that is not here reaches nobody: deny by default. Nodes see
// what concerns a node and nothing of chats, presence or approvals.
var rules = map[string]rule{
	"agent":                   {},
	"chat":                    {},
	"presence":                {droppable: true},
	"tick":                    {nodes: true, droppable: true},
	"talk.mode":               {nodes: true, droppable: true},
	"shutdown":                {nodes: true},
	"health":                  {nodes: true},
	"heartbeat":               {droppable: true},
	"cron":                    {droppable: true},
	"node.pair.requested":     {scope: identity.ScopePairing, droppable: true},
	"node.pair.resolved":      {scope: identity.ScopePairing, droppable: true},
	"device.pair.requested":   {scope: identity.ScopePairing, droppable: true},
	"device.pair.resolved":    {scope: identity.ScopePairing, droppable: true},
	"voicewake.changed":       {nodes: true, droppable: true},
	"exec.approval.requested": {scope: identity.ScopeApprovals, droppable: true},
	"exec.approval.resolved":  {scope: identity.ScopeApprovals, droppable: true},
	"update.available":        {nodes: true, droppable: true},
	"node.connected":          {scope: identity.ScopeRead, droppable: true},
	"node.disconnected":       {scope: identity.ScopeRead, droppable: true},
	"node.renamed":            {scope: identity.ScopeRead, droppable: true},
	"node.event":              {scope: identity.ScopeRead, droppable: true},
}

// Visible reports whether the caller may receive the event.
func Visible(c identity.Caller, name string) bool {
	r, ok := rules[name]
	switch {
	case !ok:
		return false
	case c.Role == identity.RoleNode:
		return r.nodes
	case c.Role == identity.RoleOperator:
		return r.scope == "" || c.Has(r.scope)
	default:
		return false
	}
}

// Droppable reports whether the event may be left out for a slow reader.
func Droppable(name string) bool { return rules[name].droppable }

// Bus hands events from publishers to receivers. The zero value is not usable; see New. Its
// methods may be called concurrently.
type Bus struct {
	now func() time.Time

	mu    sync.Mutex // held while delivering, so that every receiver sees one order
	sinks []func(Event)
	subs  []*Subscription
}

// New returns an empty bus. now is the clock that stamps events.
func New(now func() time.Time) *Bus { return &Bus{now: now} }

// Sink adds a receiver that is called for every event. It must not block and must not publish.
// Sinks are added before the first Publish and live as long as the bus.
func (b *Bus) Sink(f func(Event)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sinks = append(b.sinks, f)
}

// Publish hands the event to every receiver and returns.
func (b *Bus) Publish(name string, payload any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := Event{Name: name, At: b.now(), Payload: payload}
	for _, f := range b.sinks {
		f(e)
	}
	for _, s := range b.subs {
		s.offer(e)
	}
}

// Subscription is one reader's bounded queue.
type Subscription struct {
	bus     *Bus
	want    func(Event) bool
	c       chan Event
	mu      sync.Mutex
	dropped uint64
}

// QueueSize is how many events a subscription holds before it drops: enough for a burst of a
// second, little enough that 1,000 stuck readers cost some megabytes.
const QueueSize = 256

// Subscribe returns a queue of the events that want says yes to; nil wants all. The reader must
// call Close.
func (b *Bus) Subscribe(want func(Event) bool) *Subscription {
	s := &Subscription{bus: b, want: want, c: make(chan Event, QueueSize)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs = append(b.subs, s)
	return s
}

func (s *Subscription) offer(e Event) {
	if s.want != nil && !s.want(e) {
		return
	}
	select {
	case s.c <- e:
	default:
		s.mu.Lock()
		s.dropped++
		s.mu.Unlock()
	}
}

// C is the queue.
func (s *Subscription) C() <-chan Event { return s.c }

// Dropped returns how many events were dropped since the last call.
func (s *Subscription) Dropped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.dropped
	s.dropped = 0
	return n
}

// Close ends the subscription. No event is queued after it returns.
func (s *Subscription) Close() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	s.bus.subs = slices.DeleteFunc(s.bus.subs, func(x *Subscription) bool { return x == s })
}
