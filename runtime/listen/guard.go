package listen

import (
	"container/list"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/hanzoai/hanzod/compat/gather"
	"github.com/hanzoai/hanzod/tunnel/eager"
)

// Limits of the port that speaks HTTP and the frozen protocol, for connections whose clients have not
// proved yet who they are (R6).
const (
	// maxOpenStrangers is how many of them there are at a time. A connection costs 64 KiB until then.
	// When all machines of a large house reconnect at once, they are strangers for a moment.
	maxOpenStrangers = 4096
	// maxOpenPerAddr is how many of them come from one address that does not speak for many clients; an
	// IPv6 network of 64 bits counts as one.
	maxOpenPerAddr = 512
	// strangerLife is how long a client may take to prove who it is, or to be served as one that needs
	// not. It leaves the handshake, which has ten seconds, the time to say goodbye.
	strangerLife = 11 * time.Second
	// minLife is how long a connection has at the least before it makes way for a newer one: enough for a
	// client that knows what it wants.
	minLife = 250 * time.Millisecond
)

// Guard keeps strangers from using a listener up. When there are too many, the one that has been a
// stranger for the longest time makes way: a flood pushes itself out, while a client that says who it
// is at once gets in. Nobody makes way in the first quarter of a second; until then newer ones wait in
// the queue of the kernel, or are closed where one address has too many.
type Guard struct {
	// Many says that an address speaks for many clients.
	many func(netip.Addr) bool

	total, perAddr int
	life, minLife  time.Duration

	mu        sync.Mutex
	strangers *list.List // of *GuardedConn, the one that is a stranger for the longest time first
	from      map[netip.Addr]int
	evicted   uint64
	// left is closed, and made anew, when somebody waits and a stranger leaves.
	left    chan struct{}
	waiting int
}

// NewGuard returns a guard. many says which addresses speak for many clients: this machine and trusted
// proxies.
func NewGuard(many func(netip.Addr) bool) *Guard {
	return &Guard{
		many: many, total: maxOpenStrangers, perAddr: maxOpenPerAddr, life: strangerLife, minLife: minLife,
		strangers: list.New(), from: map[netip.Addr]int{}, left: make(chan struct{}),
	}
}

// Listener returns a listener whose connections are guarded. Several may share a guard.
func (g *Guard) Listener(l net.Listener) net.Listener {
	ctx, cancel := context.WithCancel(context.Background())
	return &guardedListener{Listener: l, guard: g, ctx: ctx, cancel: cancel}
}

// Strangers returns how many connections are strangers', and how many made way for others so far.
func (g *Guard) Strangers() (now int, evicted uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.strangers.Len(), g.evicted
}

type guardedListener struct {
	net.Listener
	guard  *Guard
	ctx    context.Context // ends with the listener
	cancel context.CancelFunc
}

// Accept waits for a connection.
func (l *guardedListener) Accept() (net.Conn, error) {
	for {
		if err := l.guard.room(l.ctx); err != nil {
			return nil, err
		}
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if gc := l.guard.admit(c); gc != nil {
			return gc, nil
		}
		_ = c.Close() // there is nothing to tell a stranger
	}
}

// Close implements net.Listener.
func (l *guardedListener) Close() error {
	l.cancel()
	return l.Listener.Close()
}

// room waits while there are too many strangers, all of them new.
func (g *Guard) room(ctx context.Context) error {
	for {
		g.mu.Lock()
		oldest := g.strangers.Front()
		if g.strangers.Len() < g.total || time.Since(oldest.Value.(*GuardedConn).since) >= g.minLife {
			g.mu.Unlock()
			return nil
		}
		wait := time.NewTimer(g.minLife - time.Since(oldest.Value.(*GuardedConn).since))
		left := g.left
		g.waiting++
		g.mu.Unlock()
		select {
		case <-wait.C:
		case <-left:
		case <-ctx.Done():
		}
		wait.Stop()
		g.mu.Lock()
		g.waiting--
		g.mu.Unlock()
		if ctx.Err() != nil {
			return net.ErrClosed
		}
	}
}

// admit counts a connection, and closes another one where it is one too many. It returns nil when
// that is the new one.
func (g *Guard) admit(c net.Conn) *GuardedConn {
	gc := &GuardedConn{Conn: c, guard: g, eager: eager.New(c), since: time.Now()}
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		gc.addr = a.AddrPort().Addr().Unmap().WithZone("")
	}
	gc.alone = !g.many(gc.addr)
	if gc.addr.Is6() {
		if p, err := gc.addr.Prefix(64); err == nil {
			gc.addr = p.Addr()
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case gc.alone && g.from[gc.addr] >= g.perAddr:
		if !g.evict(func(o *GuardedConn) bool { return o.addr == gc.addr }) {
			return nil
		}
	case g.strangers.Len() >= g.total:
		// Another listener may have taken the place that was free.
		if !g.evict(func(*GuardedConn) bool { return true }) {
			return nil
		}
	}
	gc.place = g.strangers.PushBack(gc)
	g.from[gc.addr]++
	gc.timer = time.AfterFunc(g.life, gc.tired)
	return gc
}

// evict closes the oldest stranger of some kind, if it is not too new. The caller holds the lock.
func (g *Guard) evict(kind func(*GuardedConn) bool) bool {
	for e := g.strangers.Front(); e != nil; e = e.Next() {
		gc := e.Value.(*GuardedConn)
		if time.Since(gc.since) < g.minLife {
			return false // those behind it are newer
		}
		if kind(gc) {
			g.forget(gc)
			g.evicted++
			_ = gc.Conn.Close() // there is nothing to tell a stranger
			return true
		}
	}
	return false
}

// forget takes a connection out of the strangers. The caller holds the lock.
func (g *Guard) forget(gc *GuardedConn) {
	if gc.place == nil {
		return
	}
	g.strangers.Remove(gc.place)
	gc.place = nil
	gc.timer.Stop()
	if g.from[gc.addr]--; g.from[gc.addr] <= 0 {
		delete(g.from, gc.addr)
	}
	if g.waiting > 0 {
		close(g.left)
		g.left = make(chan struct{})
	}
}

// GuardedConn is a connection of a guarded listener.
type GuardedConn struct {
	net.Conn
	guard *Guard
	addr  netip.Addr
	alone bool      // one address is one client
	eager io.Reader // of the connection
	// together is of TLS above.
	together gather.Buffer

	// The rest is under the lock of the guard.
	since time.Time // when it began to be a stranger
	timer *time.Timer
	place *list.Element // nil when it is no stranger
}

// Known says that the client has proved who it is. The connection does not count any more.
func (gc *GuardedConn) Known() {
	gc.guard.mu.Lock()
	defer gc.guard.mu.Unlock()
	gc.guard.forget(gc)
}

// Served says that a stranger was answered a whole request: it has its time anew for the next one.
func (gc *GuardedConn) Served() {
	g := gc.guard
	g.mu.Lock()
	defer g.mu.Unlock()
	if gc.place != nil {
		gc.since = time.Now()
		g.strangers.MoveToBack(gc.place)
		gc.timer.Reset(g.life)
	}
}

func (gc *GuardedConn) tired() {
	gc.guard.mu.Lock()
	stranger := gc.place != nil && time.Since(gc.since) >= gc.guard.life
	gc.guard.mu.Unlock()
	if stranger {
		_ = gc.Close()
	}
}

// Close implements net.Conn.
func (gc *GuardedConn) Close() error {
	gc.Known()
	return gc.Conn.Close()
}

// SyscallConn implements syscall.Conn, with an error where the connection is none of this machine's system.
func (gc *GuardedConn) SyscallConn() (syscall.RawConn, error) {
	if t, ok := gc.Conn.(*net.TCPConn); ok {
		return t.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// Read implements net.Conn.
func (gc *GuardedConn) Read(b []byte) (int, error) { return gc.eager.Read(b) }

// Write implements net.Conn.
func (gc *GuardedConn) Write(b []byte) (int, error) { return gc.together.Write(gc.Conn, b) }

// Gather has what TLS writes kept until Flush, so that several records go out at once.
func (gc *GuardedConn) Gather() { gc.together.Gather() }

// Flush writes what was kept.
func (gc *GuardedConn) Flush() error { return gc.together.Flush(gc.Conn) }

// CloseWrite ends what is sent, for servers that let the other side read to the end.
func (gc *GuardedConn) CloseWrite() error {
	if c, ok := gc.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// ReadFrom implements io.ReaderFrom: the system sends files by itself where it can.
func (gc *GuardedConn) ReadFrom(r io.Reader) (int64, error) {
	if t, ok := gc.Conn.(*net.TCPConn); ok {
		return t.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{gc.Conn}, r)
}

// WriteBuffers writes what lies in several places with one call of the system where it can. It takes what is written
// out of b.
func (gc *GuardedConn) WriteBuffers(b *net.Buffers) (int64, error) { return b.WriteTo(gc.Conn) }

// Guarded returns the guarded connection beneath c, which may be TLS over one.
func Guarded(c net.Conn) (*GuardedConn, bool) {
	if over, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = over.NetConn()
	}
	gc, ok := c.(*GuardedConn)
	return gc, ok
}
