package listen

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/hanzoai/hanzod/identity"
)

// Limits of the doors on a tailnet.
const (
	// Recheck is how often the tailnet is asked anew who is at the other ends of connections. One whose
	// answer changes ends.
	Recheck = 5 * time.Second
	// whoTime bounds one question; it is answered from memory.
	whoTime = 2 * time.Second
)

// Who says who is at an address of the tailnet at the moment, and what it may. An error says that
// nobody whom the tailnet knows is there.
type Who func(ctx context.Context, from netip.AddrPort) (*identity.Member, error)

// Tailnet knows the connections that came over a tailnet and who is at their other ends. Its methods
// may be called concurrently.
type Tailnet struct {
	who Who
	log *slog.Logger

	mu    sync.Mutex
	conns map[*TailnetConn]struct{} // the doors bound how many
}

// NewTailnet returns a Tailnet without connections.
func NewTailnet(who Who, log *slog.Logger) *Tailnet {
	return &Tailnet{who: who, log: log, conns: map[*TailnetConn]struct{}{}}
}

// Listener returns a listener whose connections are TailnetConn.
func (t *Tailnet) Listener(l net.Listener) net.Listener { return &tailnetListener{l, t} }

type tailnetListener struct {
	net.Listener
	t *Tailnet
}

func (l *tailnetListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		a, ok := c.RemoteAddr().(*net.TCPAddr)
		if !ok || a == nil || !a.AddrPort().IsValid() {
			_ = c.Close() // nobody can say who that is
			continue
		}
		out := &TailnetConn{Conn: c, t: l.t, from: netip.AddrPortFrom(a.AddrPort().Addr().Unmap().WithZone(""), a.AddrPort().Port())}
		l.t.mu.Lock()
		l.t.conns[out] = struct{}{}
		l.t.mu.Unlock()
		return out, nil
	}
}

// TailnetConn is a connection over a tailnet.
type TailnetConn struct {
	net.Conn
	t    *Tailnet
	from netip.AddrPort

	once   sync.Once
	mu     sync.Mutex
	member *identity.Member // nil until somebody asked
}

// Member returns who is at the other end, never nil. The tailnet is asked at the first call; when its
// answer changes later, the connection ends.
func (c *TailnetConn) Member() *identity.Member {
	c.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), whoTime)
		defer cancel()
		m := c.t.ask(ctx, c.from)
		c.mu.Lock()
		c.member = m
		c.mu.Unlock()
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.member
}

// Close implements net.Conn.
func (c *TailnetConn) Close() error {
	c.t.mu.Lock()
	delete(c.t.conns, c)
	c.t.mu.Unlock()
	return c.Conn.Close()
}

func (t *Tailnet) ask(ctx context.Context, from netip.AddrPort) *identity.Member {
	m, err := t.who(ctx, from)
	if err != nil {
		t.log.LogAttrs(ctx, slog.LevelInfo, "the tailnet does not know who is calling", slog.String("ip", from.Addr().String()), slog.String("error", err.Error()))
		return &identity.Member{Addr: from.Addr().String()}
	}
	return m
}

// Run asks the tailnet anew about everybody who is connected, every Recheck, until ctx ends.
func (t *Tailnet) Run(ctx context.Context) {
	tick := time.NewTicker(Recheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.look(ctx)
		}
	}
}

func (t *Tailnet) look(ctx context.Context) {
	byAddr := map[netip.AddrPort][]*TailnetConn{}
	t.mu.Lock()
	for c := range t.conns {
		at := netip.AddrPortFrom(c.from.Addr(), 0) // one machine is one question
		byAddr[at] = append(byAddr[at], c)
	}
	t.mu.Unlock()
	for _, conns := range byAddr {
		one, cancel := context.WithTimeout(ctx, whoTime)
		now := t.ask(one, conns[0].from)
		cancel()
		if ctx.Err() != nil {
			return
		}
		for _, c := range conns {
			c.mu.Lock()
			was := c.member
			c.mu.Unlock()
			if was != nil && !was.Equal(now) {
				t.log.LogAttrs(ctx, slog.LevelInfo, "a connection over the tailnet ends: who is calling, or what it may, has changed",
					slog.String("was", was.Who()), slog.String("ip", c.from.Addr().String()))
				_ = c.Close() // whoever it is connects again, and is told
			}
		}
	}
}

// TailnetOf returns the connection over a tailnet that is beneath c.
func TailnetOf(c net.Conn) (*TailnetConn, bool) {
	for range maxLayers {
		switch w := c.(type) {
		case *TailnetConn:
			return w, true
		case *GuardedConn:
			c = w.Conn
		case *guarded:
			c = w.Conn
		default:
			return nil, false
		}
	}
	return nil, false
}

// maxLayers is more than there are around a connection.
const maxLayers = 4

// MemberInfo is what is known of the other end of a connection over a tailnet. gRPC hands it to
// interceptors as the AuthInfo of the peer.
type MemberInfo struct {
	credentials.CommonAuthInfo
	// Member is who it is.
	Member *identity.Member
	// Addr is where it is on the tailnet.
	Addr netip.Addr

	stranger
}

// AuthType names the kind of authentication.
func (MemberInfo) AuthType() string { return "tailnet" }

// TailnetCredentials returns transport credentials for connections from a Tailnet, beneath Limit. There
// is no TLS: WireGuard has encrypted what comes, and says whose machine sent it.
func TailnetCredentials() credentials.TransportCredentials { return tailnetCredentials{} }

type tailnetCredentials struct{}

// ServerHandshake asks who is calling.
func (tailnetCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	t, ok := TailnetOf(c)
	if !ok {
		return nil, nil, errors.New("the connection did not come over the tailnet")
	}
	out := MemberInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, Member: t.Member(), Addr: t.from.Addr(),
	}
	if g, ok := c.(*guarded); ok {
		out.conn = g
	}
	return c, out, nil
}

func (tailnetCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are for the server side")
}

func (tailnetCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tailnet"}
}

func (c tailnetCredentials) Clone() credentials.TransportCredentials { return c }

func (tailnetCredentials) OverrideServerName(string) error { return nil }
