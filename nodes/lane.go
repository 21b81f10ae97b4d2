package nodes

import (
	"slices"
	"sync"
	"time"
)

// A lane is the queue of a serial node: one that handles one command after another (tunnel.md §5.2). One
// command is with the node at a time, and its time begins when it is sent. The place is free again when
// the answer comes, also one that nobody waits for any more; when none comes, as soon as the usual time of
// the command is over. A node that never answers so holds up nobody but those who ask it.
type lane struct {
	mu     sync.Mutex
	closed bool
	busy   string // the invoke that is with the node, empty for none
	free   *time.Timer
	queue  []queuedCall
}

type queuedCall struct {
	id   string
	hold time.Duration
	send func()
}

// full reports whether one more call would be refused.
func (l *lane) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.busy != "" && len(l.queue) >= maxSerialQueue
}

// enter sends a call when the node is free, and queues it else. Hold is how long the node may keep the
// place. The error is ErrBusy when too many wait.
func (l *lane) enter(id string, hold time.Duration, send func()) error {
	l.mu.Lock()
	switch {
	case l.closed:
		l.mu.Unlock()
		return ErrDisconnected
	case l.busy == "":
		l.take(queuedCall{id, hold, send})
		l.mu.Unlock()
		send()
		return nil
	case len(l.queue) >= maxSerialQueue:
		l.mu.Unlock()
		return ErrBusy
	}
	l.queue = append(l.queue, queuedCall{id, hold, send})
	l.mu.Unlock()
	return nil
}

// take gives the place to a call. The caller holds mu.
func (l *lane) take(q queuedCall) {
	l.busy = q.id
	l.free = time.AfterFunc(q.hold, func() { l.done(q.id) })
}

// done frees the place of a call, and sends the next one. Others change nothing.
func (l *lane) done(id string) {
	l.mu.Lock()
	if l.busy != id || id == "" {
		l.mu.Unlock()
		return
	}
	l.free.Stop()
	l.busy = ""
	if l.closed || len(l.queue) == 0 {
		l.mu.Unlock()
		return
	}
	next := l.queue[0]
	l.queue = slices.Delete(l.queue, 0, 1)
	l.take(next)
	l.mu.Unlock()
	next.send()
}

// leave takes a call out of the queue, whose caller is gone.
func (l *lane) leave(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.IndexFunc(l.queue, func(q queuedCall) bool { return q.id == id }); i >= 0 {
		l.queue = slices.Delete(l.queue, i, i+1)
	}
}

// close forgets what waits; its calls are ended by the attachment.
func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed, l.queue = true, nil
	if l.free != nil {
		l.free.Stop()
	}
}

// bridgeVersion is that of the only program that is known to be serial by what it says of itself.
const bridgeVersion = "0.2.0"

// serialByNature recognises the agent bridge (tunnel.md §5.2).
func serialByNature(n Node, declared []string) bool {
	return n.Link == LinkTunnel && n.Version == bridgeVersion && slices.ContainsFunc(declared, func(c string) bool { return trim(c) == "exec.run" })
}
