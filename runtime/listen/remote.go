package listen

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// Limits of a door that strangers can reach.
const (
	// MaxConns is how many connections a remote door holds: as many as there may be nodes.
	MaxConns = 10_000
	// MaxConnsPerAddr is how many of them one address may hold; an IPv6 network of 64 bits counts as
	// one. A whole office may stand behind one address.
	MaxConnsPerAddr = 1024
	// MaxStrangers and MaxStrangersPerAddr bound those that have not proved yet who they are. For a further
	// one the oldest makes way, if it had firstChance; else the new one is closed at once.
	MaxStrangers        = 512
	MaxStrangersPerAddr = 32
	// firstChance is enough for a client that knows what it wants, TLS included: strangers that do not
	// cannot keep it out by being there first.
	firstChance = 500 * time.Millisecond
	// StrangerTime is how long a connection may take to prove who it is, TLS included.
	StrangerTime = 10 * time.Second
	// maxRefusals is how many calls in a row a connection may make with credentials that are not
	// accepted; then it is closed. gRPC keeps a little memory for each until then.
	maxRefusals = 8
)

// Limit wraps a listener so that strangers cannot use it up: connections beyond the limits, and
// connections that do not prove themselves in time, are closed. What it accepts goes through
// RemoteCredentials, whose RemoteInfo tells when a connection has proved itself.
func Limit(l net.Listener) *Limited {
	return &Limited{Listener: l, from: map[netip.Addr]*tally{}, queue: list.New(), patience: StrangerTime, chance: firstChance}
}

// Watch wraps the listener of the local socket. It limits nothing: its use is that Close ends the
// connections that have not made a call, for whose handshakes gRPC would wait at a stop.
func Watch(l net.Listener) *Limited {
	w := Limit(l)
	w.open = true
	return w
}

// Limited is a listener that knows its connections, with limits unless it is open. Close ends the
// strangers with it.
type Limited struct {
	net.Listener
	open             bool
	patience, chance time.Duration

	mu        sync.Mutex
	conns     int
	strangers int
	queue     *list.List            // of *guarded, the strangers, the oldest first
	from      map[netip.Addr]*tally // at most MaxConns
}

type tally struct{ conns, strangers int }

// Close implements net.Listener.
func (l *Limited) Close() error {
	err := l.Listener.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := l.queue.Front(); e != nil; e = l.queue.Front() {
		g := e.Value.(*guarded)
		g.forget()
		_ = g.Conn.Close() // there is nobody to tell
	}
	return err
}

// Accept waits for a connection within the limits.
func (l *Limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if g := l.admit(c); g != nil {
			return g, nil
		}
		_ = c.Close() // there is nothing to tell a stranger
	}
}

func (l *Limited) admit(c net.Conn) *guarded {
	key := netip.Addr{}
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		key = a.AddrPort().Addr().Unmap().WithZone("")
	}
	addr := key
	if key.Is6() {
		if p, err := key.Prefix(64); err == nil {
			key = p.Addr()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.from[key]
	if t == nil {
		t = &tally{}
	}
	switch {
	case l.open:
	case l.conns >= MaxConns, t.conns >= MaxConnsPerAddr:
		return nil
	case t.strangers >= MaxStrangersPerAddr && !l.evict(func(g *guarded) bool { return g.key == key }),
		l.strangers >= MaxStrangers && !l.evict(func(*guarded) bool { return true }):
		return nil
	}
	l.from[key] = t
	l.conns++
	l.strangers++
	t.conns++
	t.strangers++
	g := &guarded{Conn: c, l: l, key: key, addr: addr, stranger: true, since: time.Now()}
	g.place = l.queue.PushBack(g)
	if !l.open {
		g.timer = time.AfterFunc(l.patience, g.tired)
	}
	return g
}

// evict closes the oldest stranger of some kind, unless it is too new. The caller holds the lock.
func (l *Limited) evict(kind func(*guarded) bool) bool {
	for e := l.queue.Front(); e != nil; e = e.Next() {
		g := e.Value.(*guarded)
		if time.Since(g.since) < l.chance {
			return false // and so are those behind it
		}
		if kind(g) {
			g.forget()
			_ = g.Conn.Close() // there is nothing to tell a stranger
			return true
		}
	}
	return false
}

// Conns returns how many connections there are, and how many of them are strangers.
func (l *Limited) Conns() (all, strangers int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conns, l.strangers
}

// guarded is a connection that counts.
type guarded struct {
	net.Conn
	l     *Limited
	key   netip.Addr
	addr  netip.Addr
	timer *time.Timer // nil when the listener is open

	since time.Time
	// The rest is under the lock of the listener.
	place    *list.Element
	stranger bool
	closed   bool
	refusals int
}

// known takes the connection out of the strangers. The caller holds the lock.
func (g *guarded) known() {
	if g.stranger {
		g.stranger = false
		g.l.queue.Remove(g.place)
		g.l.strangers--
		g.l.from[g.key].strangers--
		if g.timer != nil {
			g.timer.Stop()
		}
	}
}

// proved says that a call on the connection came from somebody who is known.
func (g *guarded) proved() {
	if g == nil {
		return
	}
	g.l.mu.Lock()
	defer g.l.mu.Unlock()
	g.known()
	g.refusals = 0
}

func (g *guarded) tired() {
	g.l.mu.Lock()
	stranger := g.stranger
	g.l.mu.Unlock()
	if stranger {
		_ = g.Close()
	}
}

// Close implements net.Conn.
func (g *guarded) Close() error {
	g.l.mu.Lock()
	g.forget()
	g.l.mu.Unlock()
	return g.Conn.Close()
}

// forget takes the connection out of the counts. The caller holds the lock.
func (g *guarded) forget() {
	if g.closed {
		return
	}
	g.known()
	g.closed = true
	g.l.conns--
	t := g.l.from[g.key]
	if t.conns--; t.conns == 0 {
		delete(g.l.from, g.key)
	}
}

// RemoteInfo is what is known of the other end of a connection over TLS: nothing but its address,
// before a call on it has proved more. gRPC hands it to interceptors as the AuthInfo of the peer.
type RemoteInfo struct {
	credentials.TLSInfo
	// Addr is the address of the peer, invalid when it is not known.
	Addr netip.Addr

	stranger
}

// stranger is a connection that has not proved who it is.
type stranger struct {
	conn *guarded // nil outside Limit
}

// Proved says that a call on the connection had credentials that are accepted: it is no stranger any
// more.
func (r stranger) Proved() { r.conn.proved() }

// Conn tells the connection from all others; nil outside Limit.
func (r stranger) Conn() any { return r.conn.same() }

// same is what stands for the connection, nothing when it is not known.
func (g *guarded) same() any {
	if g == nil {
		return nil
	}
	return g
}

// Refused says that a call on the connection had credentials that are not accepted. It reports whether
// that is the first in a row; too many end the connection.
func (r stranger) Refused() (first bool) {
	if r.conn == nil {
		return true
	}
	r.conn.l.mu.Lock()
	defer r.conn.l.mu.Unlock()
	r.conn.refusals++
	if r.conn.refusals == maxRefusals {
		// The last answer is still on its way out.
		time.AfterFunc(lastWord, func() { _ = r.conn.Close() })
	}
	return r.conn.refusals == 1
}

// lastWord is how long a connection stands that had its last refusal.
const lastWord = 100 * time.Millisecond

// RemoteCredentials returns transport credentials for connections from Limit: TLS with the
// certificate, and an AuthInfo that is a RemoteInfo. They tell nothing of who is calling.
func RemoteCredentials(c *Certificate) credentials.TransportCredentials {
	return remoteCredentials{c.Config("h2")}
}

type remoteCredentials struct{ config *tls.Config }

// ServerHandshake speaks TLS. gRPC bounds its time and closes the connection after an error.
func (r remoteCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn := tls.Server(c, r.config)
	if err := conn.HandshakeContext(context.Background()); err != nil {
		if record, ok := errors.AsType[tls.RecordHeaderError](err); ok && looksLikeHTTP(record.RecordHeader) {
			_, _ = c.Write([]byte(plainHTTP)) // the connection ends all the same
		}
		return nil, nil, err
	}
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != "h2" { // the client offered no protocol at all
		return nil, nil, errors.New("the client does not offer HTTP/2")
	}
	out := RemoteInfo{TLSInfo: credentials.TLSInfo{
		State: state, CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}}
	if g, ok := c.(*guarded); ok {
		out.conn, out.Addr = g, g.addr
	}
	return conn, out, nil
}

func (remoteCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are for the server side")
}

func (remoteCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (r remoteCredentials) Clone() credentials.TransportCredentials { return r }

func (remoteCredentials) OverrideServerName(string) error { return nil }

// plainHTTP answers who speaks HTTP without TLS to a door with TLS.
const plainHTTP = "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\nThis port speaks gRPC over TLS; use hanzoctl --host.\n"

// looksLikeHTTP judges by what stands where the header of a TLS record should be, as net/http does.
func looksLikeHTTP(head [5]byte) bool {
	switch string(head[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PRI *":
		return true
	}
	return false
}
