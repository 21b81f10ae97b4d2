package listen

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// gateway is a guarded listener on loopback with small limits, in which 127.0.0.1 speaks for many.
type gateway struct {
	t     *testing.T
	g     *Guard
	l     net.Listener
	conns chan *GuardedConn
	wg    sync.WaitGroup
}

func newGateway(t *testing.T, total, perAddr int, least time.Duration, life ...time.Duration) *gateway {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gw := &gateway{t: t, conns: make(chan *GuardedConn, 1000)}
	gw.g = NewGuard(func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.1") })
	gw.g.total, gw.g.perAddr, gw.g.minLife, gw.g.life = total, perAddr, least, time.Minute
	if len(life) > 0 {
		gw.g.life = life[0]
	}
	gw.l = gw.g.Listener(l)
	gw.wg.Go(func() {
		for {
			c, err := gw.l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
				close(gw.conns)
				return
			}
			gw.conns <- c.(*GuardedConn)
		}
	})
	t.Cleanup(func() {
		closeAll(t, gw.l)
		gw.wg.Wait()
		for c := range gw.conns {
			_ = c.Close()
		}
		for e := gw.g.strangers.Front(); e != nil; e = gw.g.strangers.Front() {
			_ = e.Value.(*GuardedConn).Close()
		}
		if n, _ := gw.g.Strangers(); n != 0 || len(gw.g.from) != 0 {
			t.Errorf("%d strangers are left, %v", n, gw.g.from)
		}
	})
	return gw
}

// dial connects from an address of loopback.
func (gw *gateway) dial(from string) net.Conn {
	gw.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
	c, err := d.DialContext(gw.t.Context(), "tcp", gw.l.Addr().String())
	if err != nil {
		gw.t.Skip("no further addresses of loopback here:", err)
	}
	gw.t.Cleanup(func() { _ = c.Close() })
	return c
}

// open connects and returns both ends.
func (gw *gateway) open(from string) (client net.Conn, server *GuardedConn) {
	gw.t.Helper()
	client = gw.dial(from)
	select {
	case server = <-gw.conns:
		return client, server
	case <-time.After(5 * time.Second):
		gw.t.Fatal("the connection was not accepted")
	}
	return nil, nil
}

// isOpen reports whether the daemon has left a connection open.
func isOpen(c net.Conn) bool {
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

func TestGuardOldestStrangerMakesWay(t *testing.T) {
	gw := newGateway(t, 4, 100, 0)
	var clients []net.Conn
	var known *GuardedConn
	for i := range 10 {
		c, s := gw.open("127.0.0.1")
		clients = append(clients, c)
		if i == 0 {
			known = s
			s.Known()
			s.Known() // twice is once
		}
	}
	for i, c := range clients {
		if got, want := isOpen(c), i == 0 || i >= 6; got != want {
			t.Errorf("connection %d is open: %t", i, got)
		}
	}
	if n, evicted := gw.g.Strangers(); n != 4 || evicted != 5 {
		t.Errorf("%d strangers, %d made way", n, evicted)
	}
	known.Served()
	if n, _ := gw.g.Strangers(); n != 4 {
		t.Errorf("a known one counts again: %d", n)
	}
}

// One address pushes itself out, not others; this machine and proxies may be many.
func TestGuardPerAddress(t *testing.T) {
	gw := newGateway(t, 100, 3, 0)
	other, _ := gw.open("127.0.0.3")
	var many, flood []net.Conn
	for range 6 {
		c, _ := gw.open("127.0.0.1")
		many = append(many, c)
	}
	for range 9 {
		c, _ := gw.open("127.0.0.2")
		flood = append(flood, c)
	}
	if !isOpen(other) {
		t.Error("another address made way")
	}
	for i, c := range many {
		if !isOpen(c) {
			t.Errorf("connection %d of many is closed", i)
		}
	}
	for i, c := range flood {
		if got, want := isOpen(c), i >= 6; got != want {
			t.Errorf("connection %d of the flood is open: %t", i, got)
		}
	}
}

// Who has just come does not make way: newer ones wait, or are closed where their address has too
// many.
func TestGuardLeastLife(t *testing.T) {
	const least = 300 * time.Millisecond
	gw := newGateway(t, 2, 2, least)
	began := time.Now()
	first, _ := gw.open("127.0.0.1")
	second, _ := gw.open("127.0.0.1")
	third := gw.dial("127.0.0.1") // waits in the kernel
	select {
	case <-gw.conns:
		if time.Since(began) < least {
			t.Error("accepted at once")
		}
	case <-time.After(5 * time.Second):
		t.Fatal("never accepted")
	}
	if isOpen(first) || !isOpen(second) || !isOpen(third) {
		t.Error("the wrong one made way")
	}
	// One that leaves makes room before that.
	gw = newGateway(t, 2, 2, 10*time.Second)
	stays, _ := gw.open("127.0.0.1")
	_, s := gw.open("127.0.0.1")
	last := gw.dial("127.0.0.1")
	time.Sleep(50 * time.Millisecond)
	s.Known()
	select {
	case <-gw.conns:
	case <-time.After(5 * time.Second):
		t.Fatal("never accepted")
	}
	if !isOpen(last) || !isOpen(stays) {
		t.Error("closed")
	}
	_ = s.Close()

	gw = newGateway(t, 100, 2, time.Minute)
	a, _ := gw.open("127.0.0.2")
	b, _ := gw.open("127.0.0.2")
	c := gw.dial("127.0.0.2")
	if isOpen(c) || !isOpen(a) || !isOpen(b) {
		t.Error("not the newest of a new flood is closed")
	}
}

// A listener that closes does not wait for room.
func TestGuardCloseWhileFull(t *testing.T) {
	gw := newGateway(t, 1, 1, time.Hour)
	_, s := gw.open("127.0.0.1")
	gw.dial("127.0.0.1")
	time.Sleep(50 * time.Millisecond)
	closeAll(t, gw.l)
	done := make(chan struct{})
	go func() { gw.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("Accept goes on")
	}
	_ = s.Close()
	gw.l = discard{gw.l}
}

// discard is a listener that was closed already.
type discard struct{ net.Listener }

func (discard) Close() error { return nil }

// A stranger has its time, and once more after each whole request.
func TestGuardTime(t *testing.T) {
	gw := newGateway(t, 100, 100, 0, 400*time.Millisecond)
	silent, _ := gw.open("127.0.0.1")
	served, s := gw.open("127.0.0.1")
	known, k := gw.open("127.0.0.1")
	k.Known()
	for range 4 {
		time.Sleep(200 * time.Millisecond)
		s.Served()
	}
	if isOpen(silent) || !isOpen(served) || !isOpen(known) {
		t.Error("the wrong ones are closed")
	}
	time.Sleep(600 * time.Millisecond)
	if isOpen(served) || !isOpen(known) {
		t.Error("the wrong ones are closed in the end")
	}
	_ = k.Close()
}

// Many connections at once, from all sides, end with nothing counted.
func TestGuardConcurrently(t *testing.T) {
	gw := newGateway(t, 20, 10, time.Millisecond)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case s := <-gw.conns:
				switch i % 3 {
				case 0:
					s.Known()
					_ = s.Close()
				case 1:
					s.Served()
				default:
					_ = s.Close()
				}
			case <-stop:
				return
			}
		}
	})
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			for range 100 {
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+i%3))}, Timeout: 5 * time.Second}
				c, err := d.DialContext(t.Context(), "tcp", gw.l.Addr().String())
				if err == nil {
					_ = c.Close()
				}
			}
		})
	}
	clients.Wait()
	close(stop)
	wg.Wait()
	if n, _ := gw.g.Strangers(); n > 20 {
		t.Errorf("%d strangers", n)
	}
}
