package compat

import (
	"sync"
	"time"
)

// A client is stalled while somebody waits to write to it and it takes nothing: neither does the
// kernel take what is written, nor does the other side acknowledge what it was sent.
//
// How long that may last depends on how many there are. A reader of a kilobyte a second is alive, and
// yet its kernel may acknowledge nothing for a minute: its window opens in steps of half a buffer. One
// of them costs little, so it may take its time. Many at once are no accident: then clients that take
// nothing go soon.
const (
	// stallLook is how often a write that waits is looked at.
	stallLook = time.Second
	// stallMark is when a client that takes nothing begins to count as stalled.
	stallMark = 2 * time.Second
	// stallCrowd is how many stalled clients are many, and crowdFor how long that is remembered.
	stallCrowd = 8
	crowdFor   = time.Minute
	// stallAlone and stallInCrowd are how long a client may be stalled among few and among many.
	stallAlone   = 2 * time.Minute
	stallInCrowd = 10 * time.Second
)

// stalls counts the stalled clients of a door.
type stalls struct {
	mu      sync.Mutex
	n       int
	crowded time.Time // until when many count as there
}

func (s *stalls) add(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n += n; s.n >= stallCrowd {
		s.crowded = time.Now().Add(crowdFor)
	}
}

// patience is how long a client may be stalled at the moment.
func (s *stalls) patience() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.crowded) {
		return stallInCrowd
	}
	return stallAlone
}

// watch looks after a write that waits, until it is stopped.
type watch struct {
	c     *conn
	timer *time.Timer

	mu      sync.Mutex
	seen    int64     // what the client had taken
	since   time.Time // when that changed
	stalled bool
	stopped bool
}

func (c *conn) watch() *watch {
	w := &watch{c: c, seen: c.progress(), since: time.Now()}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(stallLook, w.look)
	return w
}

// progress grows when the client takes something.
func (c *conn) progress() int64 { return c.sent.Load() + acknowledged(c.tcp) }

func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	now := time.Now()
	if p := w.c.progress(); p != w.seen {
		w.seen, w.since = p, now
		w.mark(false)
	}
	idle := now.Sub(w.since)
	if idle >= stallMark {
		w.mark(true)
	}
	if idle >= w.c.door.stalls.patience() {
		w.c.giveUp(idle)
		return
	}
	w.timer.Reset(stallLook)
}

// mark counts the client as stalled or not. The caller holds mu.
func (w *watch) mark(stalled bool) {
	if w.stalled == stalled {
		return
	}
	w.stalled = stalled
	if stalled {
		w.c.door.stalls.add(1)
	} else {
		w.c.door.stalls.add(-1)
	}
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.timer.Stop()
	w.mark(false)
}

// giveUp ends a connection whose client takes nothing: not even the frame that would say so.
func (c *conn) giveUp(idle time.Duration) {
	c.out.mu.Lock()
	waiting := c.out.bytes
	c.out.mu.Unlock()
	c.door.cfg.Log.Warn("a client does not read and is cut off", "conn", c.id, "client", c.caller.ClientID,
		"stalled", idle.String(), "waiting", waiting)
	c.abort()
}
