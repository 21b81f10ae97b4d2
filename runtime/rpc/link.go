package rpc

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/hanzoai/hanzod/events"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/system"
)

// Limits of the links of nodes.
const (
	// maxLinks is how many nodes may be linked at once, those that were not let in yet included: as
	// many as the registry takes.
	maxLinks = 10_000
	// maxRegistration bounds what a node says of itself, like the first frame of the legacy door.
	maxRegistration = 64 << 10
	// registerTime is how long a node may take to register (protocol.md §0).
	registerTime = 10 * time.Second
	// maxLinkQueue and maxLinkBytes bound what waits for one node: as many invokes as may wait over
	// all nodes would be of no use to one, and as many bytes as for a legacy client. A further invoke
	// fails at once.
	maxLinkQueue = 1024
	maxLinkBytes = 50 << 20
	// linkBeat is how often at least a node hears from the daemon.
	linkBeat = system.TickEvery
	// linkAfter is how long a node may be silent before it is asked whether it is there, linkWait how
	// long its answer may take. With the rhythm of looking they stay below two heartbeats (R13).
	linkAfter = 20 * time.Second
	linkWait  = 20 * time.Second
	// lookEvery is how often links are looked at.
	lookEvery = time.Second
	// clockJump is how far the clock may run between two looks before it counts as a jump, as after a
	// sleep of the machine; every node is asked at once then, and has wakeWait for its answer (R14).
	clockJump = 15 * time.Second
	wakeWait  = 3 * time.Second
	// linkStall is how long one message may take to be handed to a node before the node counts as gone.
	linkStall = 15 * time.Second
)

// link is one node's stream. Three goroutines serve it: its handler, which waits for the end, a reader
// and a writer. It implements nodes.Link and events.Holder.
type link struct {
	s      *Server
	stream nodesv1.NodeService_AttachServer
	live   *liveStream
	id     string
	nonce  string
	first  chan *nodesv1.AttachRequest // the registration
	// admitted is closed when caller is set and the node may speak.
	admitted chan struct{}
	caller   identity.Caller
	// conn tells the connection from others. att is nil until the node is in the registry, which is before
	// admitted is closed; the mutex of links guards it until then.
	conn any
	att  *nodes.Attachment

	mu    sync.Mutex
	queue []queued
	bytes int
	held  bool // nothing is sent before the welcome
	shutt bool
	wake  chan struct{} // has room for one: there may be something to send

	heard   stamp // of the last message
	due     stamp // until when the answer to a ping must be there, zero without one
	sending stamp // since when the writer hands over one message, zero while it does not
}

type queued struct {
	m    *nodesv1.AttachResponse
	size int
}

// stamp is a moment of the monotonic clock, or none.
type stamp struct{ v atomic.Int64 }

var began = time.Now()

func (s *stamp) set(t time.Time) { s.v.Store(int64(t.Sub(began)) | 1) }
func (s *stamp) clear()          { s.v.Store(0) }
func (s *stamp) get() (time.Time, bool) {
	v := s.v.Load()
	return began.Add(time.Duration(v)), v != 0
}

func newLink(s *Server, stream nodesv1.NodeService_AttachServer, live *liveStream) *link {
	l := &link{
		s: s, stream: stream, live: live, id: newConnID(), nonce: newConnID(),
		first: make(chan *nodesv1.AttachRequest, 1), admitted: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	l.heard.set(time.Now())
	return l
}

// end ends the link; the first reason counts. It does not wait.
func (l *link) end(why error) { l.live.cancel(why) }

// read takes what the node sends, in order.
func (l *link) read() {
	for n := 0; ; n++ {
		m, err := l.stream.Recv()
		if err != nil {
			l.end(recvEnd(err))
			return
		}
		l.heard.set(time.Now())
		l.due.clear()
		if n == 0 {
			l.first <- m
			continue
		}
		select {
		case <-l.admitted:
		case <-l.live.ctx.Done():
			return
		}
		l.att.Heard()
		if err := l.take(l.live.ctx, m); err != nil {
			l.end(err)
			return
		}
	}
}

// write hands over what waits, in order.
func (l *link) write() {
	for {
		q, ok := l.next()
		if !ok {
			return
		}
		l.sending.set(time.Now())
		err := l.stream.Send(q.m)
		l.sending.clear()
		l.s.budget().Add(-q.size)
		if err != nil {
			l.end(errLinkGone.Wrap(err))
			return
		}
	}
}

// next waits for a message to send, false when the link has ended.
func (l *link) next() (queued, bool) {
	for {
		l.mu.Lock()
		if !l.held && len(l.queue) > 0 && !l.shutt {
			q := l.queue[0]
			l.queue[0] = queued{}
			if l.queue = l.queue[1:]; len(l.queue) == 0 {
				l.queue = nil
			}
			l.bytes -= q.size
			l.mu.Unlock()
			return q, true
		}
		l.mu.Unlock()
		select {
		case <-l.wake:
		case <-l.live.ctx.Done():
			return queued{}, false
		}
	}
}

// put queues a message, at the front for the welcome. It fails when the link has ended or too much
// waits; it never waits itself.
func (l *link) put(m *nodesv1.AttachResponse, front bool) error {
	q := queued{m, proto.Size(m)}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.shutt || l.live.ctx.Err() != nil:
		return errLinkGone
	case len(l.queue) >= maxLinkQueue || l.bytes+q.size > maxLinkBytes:
		return errNodeBehind
	case front:
		l.queue = slices.Insert(l.queue, 0, q)
	default:
		l.queue = append(l.queue, q)
	}
	l.bytes += q.size
	l.s.budget().Add(q.size)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// enqueue queues what may be left out for a node that is behind.
func (l *link) enqueue(m *nodesv1.AttachResponse) {
	if l.put(m, false) != nil {
		l.s.d.Metrics.EventsDropped(identity.DoorGRPC.String(), 1)
	}
}

// hold keeps messages back until release, so that the welcome comes before any invoke.
func (l *link) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = true
}

func (l *link) release(welcome *nodesv1.AttachResponse) {
	if err := l.put(welcome, true); err != nil {
		l.end(err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = false
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// shut ends the link for the reason, if it has not ended, and forgets what waits. Nothing is queued
// after it.
func (l *link) shut(why error) {
	if why == nil {
		why = errGoodbye
	}
	l.end(why)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shutt = true
	l.s.budget().Add(-l.bytes)
	l.queue, l.bytes = nil, 0
}

// Invoke implements nodes.Link.
func (l *link) Invoke(r nodes.Request) error {
	invoke, err := linkInvokeToProto(r)
	if err != nil {
		return err
	}
	m := &nodesv1.AttachResponse{Message: &nodesv1.AttachResponse_Invoke{Invoke: invoke}}
	if len(r.Params) > MaxMessage/2 && proto.Size(m) > MaxMessage {
		return errTooLarge
	}
	err = l.put(m, false)
	if b := l.s.budget(); b.Over() {
		b.Relieve()
	}
	return err
}

// Channels implements nodes.Channeled.
func (l *link) Channels() bool { return l.conn != nil }

// Close implements nodes.Link.
func (l *link) Close(reason string) { l.end(errLinkEnded.WithText(reason)) }

// Backlog implements events.Holder.
func (l *link) Backlog() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes
}

// Evict implements events.Holder. Requests that are lost must fail, so the link ends.
func (l *link) Evict() { l.end(errSlowNode) }

// look asks a silent node whether it is there, and ends a link whose node is not. woke says that the
// clock has jumped.
func (l *link) look(now time.Time, woke bool) {
	if since, busy := l.sending.get(); busy && now.Sub(since) > linkStall {
		l.end(errSlowNode)
		return
	}
	due, asked := l.due.get()
	heard, _ := l.heard.get()
	switch {
	case asked && now.After(due):
		l.end(errSilentNode)
	case asked && woke && due.Sub(now) > wakeWait:
		l.due.set(now.Add(wakeWait))
	case asked:
	case woke, now.Sub(heard) >= linkAfter:
		wait := linkWait
		if woke {
			wait = wakeWait
		}
		l.due.set(now.Add(wait))
		l.enqueue(&nodesv1.AttachResponse{Message: &nodesv1.AttachResponse_Ping{Ping: &nodesv1.NodePing{}}})
	}
}

// links are the links of all nodes.
type links struct {
	mu  sync.Mutex
	all map[*link]struct{} // at most maxLinks
	wg  sync.WaitGroup     // of their readers and writers
}

func (s *links) add(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[l] = struct{}{}
}

func (s *links) remove(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, l)
}

func (s *links) list() []*link {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.all))
}

func (s *Server) budget() *events.Budget { return s.d.Bus.Budget() }

func (s *Server) holders() []events.Holder {
	list := s.links.list()
	out := make([]events.Holder, len(list))
	for i, l := range list {
		out[i] = l
	}
	return out
}

// Links is how many nodes are linked by this door.
func (s *Server) Links() int {
	s.links.mu.Lock()
	defer s.links.mu.Unlock()
	return len(s.links.all)
}

// Run looks after the links of nodes until ctx ends.
func (s *Server) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	wall := s.d.Now().Round(0) // without the monotonic clock, which stands still while a machine sleeps
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := s.d.Now().Round(0)
		woke := now.Sub(wall) > clockJump
		wall = now
		for _, l := range s.links.list() {
			l.look(time.Now(), woke)
		}
	}
}

// Wait waits for the goroutines of all links. It is for the owner of the servers, once they are
// stopped.
func (s *Server) Wait() { s.links.wg.Wait() }

// aNode is any node, as events see it.
var aNode = identity.Caller{Role: identity.RoleNode}

// notify hands nodes the events that they may see. It is a sink on the bus: it queues and never
// waits. That the link lives is shown in other ways, so ticks and health are for nodes that subscribed
// to a session (nodes-approvals.md §2.6).
func (s *Server) notify(e events.Event) {
	if !events.Visible(aNode, e.Name) {
		return
	}
	var m *nodesv1.AttachResponse
	for _, l := range s.links.list() {
		select {
		case <-l.admitted:
		default:
			continue
		}
		if nodes.Copied(e.Name) && !s.d.Nodes.Subscribed(l.caller.NodeID, "") {
			continue
		}
		if m == nil {
			payload, ok := s.d.Render(e)
			if !ok {
				return
			}
			m = notice(e.Name, string(payload))
		}
		l.enqueue(m)
	}
}
