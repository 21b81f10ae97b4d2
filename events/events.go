// Package events is the bus between domains and doors. A domain publishes after its commit; doors
// receive in order.
//
// There are two ways to receive. A sink is called in the publisher's goroutine, in the order of
// publishing, and must not block: doors that keep queues of their own use it, so that an event
// stands before the answer of the call that caused it. A Subscription is a bounded queue for
// streams; when it is full, events are dropped and counted, and the reader is told. What waits in
// the queues of all doors together is bounded by one Budget.
//
// The package imports identity only and owns no goroutine.
package events

import (
	"context"
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
	// Lost is how many events the reader of a Subscription lost right before this one.
	Lost uint64

	kept *Shared // the payload, while a subscription has it
}

// rule is who receives an event and whether it may be left out for a reader that is slow
// (protocol.md §6.1, §6.2).
type rule struct {
	scope     identity.Scope // needed by operators; empty: every operator
	nodes     bool           // nodes receive it too
	droppable bool
}

// rules names every event. An event that is not here reaches nobody: deny by default. A node sees
// what it acts on: the tick that shows that the link lives, the end of the daemon, and how voice is
// to behave; and health, which any role may ask for. It sees nothing of chats, presence or approvals.
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
	"cron.changed":            {scope: identity.ScopeRead, droppable: true},
	"node.pair.requested":     {scope: identity.ScopePairing, droppable: true},
	"node.pair.resolved":      {scope: identity.ScopePairing, droppable: true},
	"device.pair.requested":   {scope: identity.ScopePairing, droppable: true},
	"device.pair.resolved":    {scope: identity.ScopePairing, droppable: true},
	"voicewake.changed":       {nodes: true, droppable: true},
	"exec.approval.requested": {scope: identity.ScopeApprovals, droppable: true},
	"exec.approval.resolved":  {scope: identity.ScopeApprovals, droppable: true},
	"exec.approval.changed":   {scope: identity.ScopeApprovals, droppable: true},
	"grant.changed":           {scope: identity.ScopeApprovals, droppable: true},
	"update.available":        {droppable: true},
	"node.connected":          {scope: identity.ScopeRead, droppable: true},
	"node.disconnected":       {scope: identity.ScopeRead, droppable: true},
	"node.renamed":            {scope: identity.ScopeRead, droppable: true},
	"node.mode":               {scope: identity.ScopeRead, droppable: true},
	"node.event":              {scope: identity.ScopeRead, droppable: true},
	"run.changed":             {scope: identity.ScopeApprovals, droppable: true},
	"config.changed":          {scope: identity.ScopeAdmin, droppable: true},
}

// Audience is who may receive an event. The zero value is nobody.
type Audience struct {
	rule  rule
	known bool
}

// AudienceOf returns who may receive the event.
func AudienceOf(name string) Audience {
	r, ok := rules[name]
	return Audience{r, ok}
}

// Sees reports whether the caller is in the audience.
func (a Audience) Sees(c identity.Caller) bool {
	switch {
	case !a.known:
		return false
	case c.Role == identity.RoleNode:
		return a.rule.nodes
	case c.Role == identity.RoleOperator:
		return a.rule.scope == "" || c.Has(a.rule.scope)
	default:
		return false
	}
}

// Concerning is a payload about one node.
type Concerning interface {
	// Concerns is the id of the node, empty for none.
	Concerns() (nodeID string)
}

// Belonging is a payload about what one tenant has to itself.
type Belonging interface {
	// BelongsTo is the tenant, empty for the gateway's owner.
	BelongsTo() (tenant string)
}

// Tailored is a payload of which who has a tenant is shown a part.
type Tailored interface {
	// For is the payload for the caller.
	For(c identity.Caller) any
}

// For is the event as a caller is shown it.
func (e Event) For(c identity.Caller) Event {
	if t, ok := e.Payload.(Tailored); ok && c.Tenant != "" {
		e.Payload = t.For(c)
	}
	return e
}

// Concerns reports whether the payload of an event is for the caller: what is about a node of another
// tenant is not, nor what another tenant or the owner has to itself.
func Concerns(c identity.Caller, payload any) bool {
	if b, ok := payload.(Belonging); ok && !c.Decides(b.BelongsTo()) {
		return false
	}
	p, ok := payload.(Concerning)
	return !ok || c.Tenant == "" || c.SeesNode(p.Concerns())
}

// Visible reports whether the caller may receive the event.
func Visible(c identity.Caller, name string) bool { return AudienceOf(name).Sees(c) }

// Droppable reports whether the event may be left out for a slow reader.
func Droppable(name string) bool { return rules[name].droppable }

// Bus hands events from publishers to receivers. The zero value is not usable; see New. Its
// methods may be called concurrently.
type Bus struct {
	now    func() time.Time
	budget *Budget

	mu    sync.Mutex // held while delivering, so that every receiver sees one order
	sinks []func(Event)
	subs  []*Subscription
}

// New returns an empty bus with a budget of MaxHeld. now is the clock that stamps events.
func New(now func() time.Time) *Bus { return NewBounded(now, MaxHeld) }

// NewBounded is New with a budget of so many bytes.
func NewBounded(now func() time.Time, limit int64) *Bus {
	b := &Bus{now: now, budget: NewBudget(limit)}
	b.budget.Source(b.holders)
	return b
}

// Budget is what bounds the queues of all receivers together. Doors with queues of their own count
// them there.
func (b *Bus) Budget() *Budget { return b.budget }

func (b *Bus) holders() []Holder {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]Holder, len(b.subs))
	for i, s := range b.subs {
		out[i] = s
	}
	return out
}

// Sink adds a receiver that is called for every event. It must not block and must not publish.
// Sinks are added before the first Publish and live as long as the bus.
func (b *Bus) Sink(f func(Event)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sinks = append(b.sinks, f)
}

// Publish hands the event to every receiver and returns.
func (b *Bus) Publish(name string, payload any) {
	b.deliver(name, payload)
	b.budget.Relieve()
}

func (b *Bus) deliver(name string, payload any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := Event{Name: name, At: b.now(), Payload: payload}
	for _, f := range b.sinks {
		f(e)
	}
	for _, s := range b.subs {
		if s.want != nil && !s.want(e) {
			continue
		}
		if e.kept == nil {
			e.kept = NewShared(sizeOf(payload))
		}
		s.offer(e)
	}
}

// QueueSize is how many events a subscription holds: enough for a burst of a second, little enough
// that 1,000 stuck readers cost some megabytes. A reader that is further behind loses what is queued.
const QueueSize = 256

// Subscription is one reader's bounded queue. One goroutine reads it.
type Subscription struct {
	bus  *Bus
	want func(Event) bool
	wake chan struct{} // has room for one: somebody queued something

	mu     sync.Mutex
	queue  []Event
	lost   uint64 // events that the reader lost before what is queued
	closed bool
}

// Subscribe returns a queue of the events that want says yes to; nil wants all. The reader must
// call Close.
func (b *Bus) Subscribe(want func(Event) bool) *Subscription {
	s := &Subscription{bus: b, want: want, wake: make(chan struct{}, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs = append(b.subs, s)
	return s
}

// offer queues an event.
func (s *Subscription) offer(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if len(s.queue) == QueueSize {
		s.empty()
	}
	s.bus.budget.Keep(e.kept)
	s.queue = append(s.queue, e)
	s.rouse()
}

func (s *Subscription) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// empty gives up what is queued; the reader will be told. The caller holds mu.
func (s *Subscription) empty() {
	for _, e := range s.queue {
		s.bus.budget.Drop(e.kept)
	}
	s.lost += uint64(len(s.queue))
	s.queue = nil
}

// Next waits for an event, at most until ctx ends. An event without a name only tells of a loss.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		if e, ok := s.TryNext(); ok {
			return e, nil
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return Event{}, context.Cause(ctx)
		}
	}
}

// TryNext is Next for who does not wait; false says that nothing is queued.
func (s *Subscription) TryNext() (Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var e Event
	switch {
	case len(s.queue) > 0:
		e = s.queue[0]
		s.bus.budget.Drop(e.kept)
		s.queue[0] = Event{}
		if s.queue = s.queue[1:]; len(s.queue) == 0 {
			s.queue = nil
		}
	case s.lost > 0:
		e.At = s.bus.now()
	default:
		return e, false
	}
	e.Lost, s.lost = s.lost, 0
	return e, true
}

// Backlog implements Holder.
func (s *Subscription) Backlog() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.queue {
		n += e.kept.size
	}
	return n
}

// Evict implements Holder: the reader loses what is queued, and is told.
func (s *Subscription) Evict() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.empty()
	s.rouse()
}

// Close ends the subscription. What is queued is gone, and nothing is queued after it.
func (s *Subscription) Close() {
	s.bus.mu.Lock()
	s.bus.subs = slices.DeleteFunc(s.bus.subs, func(x *Subscription) bool { return x == s })
	s.bus.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.empty()
	s.closed = true
}
