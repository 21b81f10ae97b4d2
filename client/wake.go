package client

import (
	"context"
	"net"
	"sync"
	"time"

	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

// waker finds out after a sleep of the machine whether the daemon is still there (R14). The connection's own
// pings come by the monotonic clock, which stands still during a sleep, and take half a minute: so while
// calls are under way, the wall clock is looked at, and when it has run ahead the daemon is asked at once.
// Without an answer the connections are closed: the calls fail, and the next ones dial again.
//
// It costs a timer while calls are under way, and nothing else.
type waker struct {
	now func() time.Time
	ask func(context.Context) error

	mu     sync.Mutex
	calls  int // under way
	asking bool
	closed bool
	timer  *time.Timer
	wall   time.Time // without the monotonic clock
	mono   time.Time
	conns  map[net.Conn]struct{}
	wg     sync.WaitGroup
}

func newWaker(now func() time.Time, ask func(context.Context) error) *waker {
	if now == nil {
		now = time.Now
	}
	w := &waker{now: now, ask: ask, conns: map[net.Conn]struct{}{}}
	w.wall, w.mono = now().Round(0), time.Now()
	return w
}

// begin notes a call; end has to follow once.
func (w *waker) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	if w.calls > 1 || w.closed {
		return
	}
	w.look() // the machine may have slept while nobody called
	if w.timer == nil {
		w.timer = time.AfterFunc(linkLook, w.tick)
	} else {
		w.timer.Reset(linkLook)
	}
}

func (w *waker) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls--
	if w.calls == 0 && w.timer != nil {
		w.timer.Stop()
	}
}

func (w *waker) tick() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calls > 0 && !w.closed {
		w.look()
		w.timer.Reset(linkLook)
	}
}

// look compares the clocks and begins to ask when the wall clock has run ahead. The lock is held.
func (w *waker) look() {
	wall, mono := w.now().Round(0), time.Now()
	ahead := wall.Sub(w.wall) - mono.Sub(w.mono)
	w.wall, w.mono = wall, mono
	if ahead <= clockJump || w.asking || len(w.conns) == 0 {
		return
	}
	w.asking = true
	old := make([]net.Conn, 0, len(w.conns)) // a connection that is made from now on is well
	for c := range w.conns {
		old = append(old, c)
	}
	w.wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), wakeWait)
		err := w.ask(ctx)
		cancel()
		w.mu.Lock()
		w.asking = false
		w.mu.Unlock()
		if err != nil {
			for _, c := range old {
				_ = c.Close() // it is given up
			}
		}
	})
}

// track takes note of a connection until it is closed.
func (w *waker) track(c net.Conn) net.Conn {
	t := &trackedConn{Conn: c, w: w}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[t] = struct{}{}
	return t
}

// close ends it; no call may begin any more.
func (w *waker) close() {
	w.mu.Lock()
	w.closed = true
	if w.timer != nil {
		w.timer.Stop()
	}
	w.mu.Unlock()
	w.wg.Wait()
}

type trackedConn struct {
	net.Conn
	w *waker
}

func (c *trackedConn) Close() error {
	c.w.mu.Lock()
	delete(c.w.conns, c)
	c.w.mu.Unlock()
	return c.Conn.Close()
}

// awake asks the daemon whether it is there. Any answer will do, also a refusal.
func (c *Client) awake(ctx context.Context) error {
	_, err := c.System.GetHealth(context.WithValue(ctx, awakeKey{}, true), &systemv1.GetHealthRequest{})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	_ = err // it came from the daemon, or the connection is closed already
	return nil
}

// awakeKey marks the waker's own question.
type awakeKey struct{}
