package listen

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

// directory says who is at an address, as a test has it.
type directory struct {
	mu    sync.Mutex
	login string // "" for nobody
	asked atomic.Int64
}

func (d *directory) set(login string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.login = login
}

func (d *directory) who(_ context.Context, from netip.AddrPort) (*identity.Member, error) {
	d.asked.Add(1)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.login == "" {
		return nil, errors.New("nobody")
	}
	return identity.Map([]identity.MemberGrant{{Users: []string{"ann", "bob"}, Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeRead}}},
		identity.Member{Login: d.login, Addr: from.Addr().String()}), nil
}

// A connection lives as long as the tailnet gives the same answer about its other end.
func TestTailnetRecheck(t *testing.T) {
	d := &directory{login: "ann"}
	tn := NewTailnet(d.who, slog.New(slog.DiscardHandler))
	guard := NewGuard(func(netip.Addr) bool { return false })
	l := guard.Listener(tn.Listener(tcp(t)))
	defer l.Close()
	accept := func() (client, server net.Conn, tc *TailnetConn) {
		t.Helper()
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		if server, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		tc, ok := TailnetOf(server)
		if !ok {
			t.Fatal("it did not come over the tailnet")
		}
		return client, server, tc
	}
	client, _, tc := accept()
	if d.asked.Load() != 0 {
		t.Error("the tailnet is asked before anybody wants to know")
	}
	for range 3 {
		if m := tc.Member(); m.Login != "ann" || !m.May(identity.RoleOperator) {
			t.Errorf("%+v", m)
		}
	}
	if n := d.asked.Load(); n != 1 {
		t.Errorf("the tailnet was asked %d times", n)
	}
	other, _, second := accept()
	second.Member()
	before := d.asked.Load()
	tn.look(t.Context())
	if n := d.asked.Load() - before; n != 1 {
		t.Errorf("the tailnet was asked %d times about one machine", n)
	}
	stands(t, client)
	d.set("bob") // the machine changed hands, with the same rights
	tn.look(t.Context())
	gone(t, client)
	gone(t, other)
	tn.mu.Lock()
	if len(tn.conns) != 0 {
		t.Errorf("%d connections are left", len(tn.conns))
	}
	tn.mu.Unlock()

	d.set("")
	client, server, tc := accept()
	if m := tc.Member(); m.Known() || m.May(identity.RoleOperator) || m.May(identity.RoleNode) {
		t.Errorf("nobody is %+v", m)
	}
	d.set("ann") // who was nobody comes again to be somebody
	tn.look(t.Context())
	gone(t, client)
	_ = server.Close()
}

func stands(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the connection ended: %v", err)
	}
	_ = c.SetReadDeadline(time.Time{})
}

func gone(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the connection stands: %v", err)
	} else if late, ok := errors.AsType[net.Error](err); ok && late.Timeout() {
		t.Error("the connection stands")
	}
}

// What came another way is nobody's on the tailnet.
func TestTailnetCredentialsElsewhere(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, _, err := TailnetCredentials().ServerHandshake(a); err == nil {
		t.Error("a pipe came over the tailnet")
	}
	if _, ok := TailnetOf(a); ok {
		t.Error("a pipe came over the tailnet")
	}
}

// A connection that is no socket of the system can be guarded and written to like one.
func TestGuardedPipe(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	g := NewGuard(func(netip.Addr) bool { return false })
	gc := g.admit(a)
	if gc == nil {
		t.Fatal("it is not let in")
	}
	if _, err := gc.SyscallConn(); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	go func() {
		_, _ = gc.ReadFrom(io.LimitReader(zeros{}, 1000))
		_ = gc.Close()
	}()
	if n, err := io.Copy(io.Discard, b); n != 1000 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if now, _ := g.Strangers(); now != 0 {
		t.Errorf("%d strangers are left", now)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
