package tech

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

const (
	// maxQueue and maxQueued bound what waits for one watcher: events, and bytes of output. What comes on top is left out,
	// and the watcher is told how much that was.
	maxQueue  = 4096
	maxQueued = 1 << 20
)

// hub tells the watchers of one session what happens. Telling never waits.
type hub struct {
	session string
	now     func() time.Time

	mu       sync.Mutex
	seq      uint64
	watchers map[*Watcher]struct{}
	ended    bool
}

// Watcher is somebody who looks on. Next may be called from one goroutine at a time.
type Watcher struct {
	hub    *hub
	caller identity.Caller
	wake   chan struct{} // holds a token while there is something, closed at the end

	// Guarded by hub.mu.
	queue   []Event
	bytes   int
	skipped int64
	closed  bool
	why     error       // what it was closed with; io.EOF with the session
	timer   *time.Timer // closes it with the caller's token; nil without one
}

func newHub(session string, now func() time.Time) *hub {
	return &hub{session: session, now: now, watchers: map[*Watcher]struct{}{}}
}

// tell gives an event to all watchers. Its data is not changed afterwards.
func (h *hub) tell(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told(e)
}

// told is tell with the lock held.
func (h *hub) told(e Event) {
	h.seq++
	e.Seq, e.At, e.SessionID, e.Watchers = h.seq, h.now(), h.session, len(h.watchers)
	for w := range h.watchers {
		w.add(e)
	}
}

// add queues an event, with the lock held.
func (w *Watcher) add(e Event) {
	switch {
	case w.closed:
		return
	case len(e.Data) > 0 && (w.skipped > 0 || w.bytes+len(e.Data) > maxQueued || len(w.queue) >= maxQueue):
		w.skipped += int64(len(e.Data))
	case len(w.queue) >= maxQueue+MaxChannels && e.Type != "closed":
		w.skipped++ // what is no output counts as one byte
	default:
		w.queue = append(w.queue, e)
		w.bytes += len(e.Data)
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// join adds a watcher.
func (h *hub) join(c identity.Caller) (*Watcher, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.ended:
		return nil, ErrEnded
	case len(h.watchers) >= MaxWatchers:
		return nil, ErrTooMany
	}
	w := &Watcher{hub: h, caller: c, wake: make(chan struct{}, 1), why: io.EOF}
	if !c.Expires.IsZero() {
		w.timer = time.AfterFunc(c.Expires.Sub(h.now()), func() { w.close(errExpired) }) // stopped by close
	}
	h.watchers[w] = struct{}{}
	h.told(Event{Type: "watcher_joined", Subject: c.Subject(), Text: c.Name()})
	return w, nil
}

// end tells the last event and lets every watcher go.
func (h *hub) end(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return
	}
	h.told(e)
	h.ended = true
	for w := range h.watchers {
		w.shut(io.EOF)
	}
	clear(h.watchers)
}

func (h *hub) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.watchers)
}

// leave lets the watchers go whose credential has ended.
func (h *hub) leave(covers func(identity.Caller) bool) {
	h.mu.Lock()
	var gone []*Watcher
	for w := range h.watchers {
		if covers(w.caller) {
			gone = append(gone, w)
		}
	}
	h.mu.Unlock()
	for _, w := range gone {
		w.close(identity.ErrEnded)
	}
}

// Next waits for what happens next. It returns io.EOF when the session has ended and everything was read, or the watcher
// was closed.
func (w *Watcher) Next(ctx context.Context) (Event, error) {
	for {
		w.hub.mu.Lock()
		switch {
		case len(w.queue) > 0:
			e := w.queue[0]
			w.queue[0] = Event{}
			if w.queue = w.queue[1:]; len(w.queue) == 0 {
				w.queue = nil
			}
			w.bytes -= len(e.Data)
			w.hub.mu.Unlock()
			return e, nil
		case w.skipped > 0:
			e := Event{Seq: w.hub.seq, At: w.hub.now(), Type: "skipped", SessionID: w.hub.session, Skipped: w.skipped}
			w.skipped = 0
			w.hub.mu.Unlock()
			return e, nil
		case w.closed:
			w.hub.mu.Unlock()
			return Event{}, w.why
		}
		w.hub.mu.Unlock()
		select {
		case <-w.wake:
		case <-ctx.Done():
			return Event{}, context.Cause(ctx)
		}
	}
}

// Close lets the watcher go; the others are told. It may be called more than once.
func (w *Watcher) Close() { w.close(io.EOF) }

func (w *Watcher) close(why error) {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	if w.closed {
		return
	}
	w.shut(why)
	delete(w.hub.watchers, w)
	w.hub.told(Event{Type: "watcher_left", Subject: w.caller.Subject(), Text: w.caller.Name()})
}

// shut ends the watcher, with the lock held.
func (w *Watcher) shut(why error) {
	w.closed, w.why = true, why
	if w.timer != nil {
		w.timer.Stop()
	}
	close(w.wake)
}

// Watch lets the caller look on what happens in a session: its own, or with the scope operator.admin anybody's. The
// watcher is told as others are; it changes nothing, and never slows the session.
// Errors: ErrScope, ErrSession, ErrUnknown, ErrForeign, ErrEnded, ErrTooMany.
func (s *Service) Watch(ctx context.Context, c identity.Caller, id string) (*Watcher, error) {
	if !c.Has(identity.ScopeRead) {
		return nil, ErrScope
	}
	h, err := s.find(c, id, false)
	if err != nil {
		return nil, err
	}
	if err := h.record(ctx, "", "watch", "ok", c.Subject(), nil); err != nil {
		return nil, err
	}
	return h.hub.join(c)
}
