//go:build unix

package proc

import (
	"net"
	"sync"
	"testing"
)

// Link is a TCP proxy that can fall silent: both ends stay open and nothing passes, as when a cable
// is pulled or a laptop sleeps.
type Link struct {
	l  net.Listener
	wg sync.WaitGroup

	mu     sync.Mutex
	silent bool
	conns  []net.Conn
}

// NewLink leads to an address. It closes with the test.
func NewLink(tb testing.TB, to string) *Link {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Link{l: l}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", to)
			if err != nil {
				_ = c.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, c, s)
			p.mu.Unlock()
			p.wg.Go(func() { p.pump(c, s) })
			p.wg.Go(func() { p.pump(s, c) })
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// pump forwards until an end closes. What comes while the link is silent is lost.
func (p *Link) pump(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		silent := p.silent
		p.mu.Unlock()
		if n > 0 && !silent {
			_, _ = to.Write(buf[:n])
		}
		if err != nil {
			if !silent {
				_ = to.Close()
			}
			return
		}
	}
}

// Hush makes the link silent.
func (p *Link) Hush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = true
}

// Speak lets pass what comes from now on.
func (p *Link) Speak() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = false
}

// Cut closes all connections.
func (p *Link) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
}

// Addr is where the link listens, URL the same for the legacy door.
func (p *Link) Addr() string { return p.l.Addr().String() }
func (p *Link) URL() string  { return "ws://" + p.Addr() }
