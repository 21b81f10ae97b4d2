package screens

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// world is the nodes, the clock and the audit log of a service.
type world struct {
	mu     sync.Mutex
	now    time.Time
	rows   []Row
	nodes  map[string]Node
	ended  error // of every credential
	full   error // of the audit log
	dialed int
	asked  func(token string) (string, error)
	far    []net.Conn
}

func (w *world) Node(_ identity.Caller, id string) (Node, error) {
	n, ok := w.nodes[id]
	if !ok {
		return Node{}, errs.New(errs.NotFound, "no such node")
	}
	return n, nil
}

func (w *world) Open(context.Context, identity.Caller, string) (Pipe, error) {
	near, far := net.Pipe()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.far = append(w.far, far)
	w.dialed++
	return ConnPipe{near}, nil
}

func (w *world) Call(ctx context.Context, _, token string) (string, error) {
	if w.asked == nil {
		<-ctx.Done()
		return "", ctx.Err()
	}
	return w.asked(token)
}

func (w *world) acts() (out []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.rows {
		out = append(out, r.Act+" "+r.NodeID+" "+r.Subject)
	}
	return out
}

func newWorld(t *testing.T, more func(*Config)) (*Service, *world) {
	t.Helper()
	w := &world{now: time.Unix(1_700_000_000, 0), nodes: map[string]Node{
		"ours":   {ID: "ours", Connected: true, Commands: []string{CommandOpen}},
		"alias":  {ID: "ours", Connected: true, Commands: []string{CommandOpen}},
		"older":  {ID: "older", Connected: true, Caps: []string{"system", CapVNC}},
		"denied": {ID: "denied", Connected: true, Caps: []string{CapVNC}, Denied: true},
		"away":   {ID: "away", Commands: []string{CommandOpen}},
		"blind":  {ID: "blind", Connected: true},
	}}
	c := Config{
		Settings: func() Settings { return Settings{Enabled: true, Host: "127.0.0.1", Port: 1} },
		Nodes:    w,
		Audit: func(_ context.Context, r Row) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.full != nil {
				return w.full
			}
			w.rows = append(w.rows, r)
			return nil
		},
		Standing: func(identity.Caller) error { w.mu.Lock(); defer w.mu.Unlock(); return w.ended },
		Now:      func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now },
		Wait:     300 * time.Millisecond,
	}
	if more != nil {
		more(&c)
	}
	s := New(c)
	t.Cleanup(func() {
		s.Stop()
		for _, f := range w.far {
			_ = f.Close()
		}
	})
	return s, w
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func operator(name string, scopes ...identity.Scope) identity.Caller {
	return identity.Caller{Role: identity.RoleOperator, Principal: name, Scopes: scopes}
}

var (
	admin  = operator("admin", identity.AllOperatorScopes...)
	writer = operator("writer", identity.ScopeRead, identity.ScopeWrite)
)

func TestWhoMayLook(t *testing.T) {
	s, w := newWorld(t, nil)
	for _, c := range []struct {
		by   identity.Caller
		node string
		want error
	}{
		{writer, "", ErrLocalAdmin}, {admin, "", ErrNoServer}, {admin, "nope", ErrNodeUnknown}, {admin, strings.Repeat("x", 600), ErrNodeUnknown},
		{admin, "away", ErrNodeUnknown}, {admin, "blind", ErrNoScreen}, {writer, "older", ErrCallAdmin}, {admin, "denied", ErrDenied},
		{admin, "older", ErrCallLate},
	} {
		if v, err := s.Connect(t.Context(), c.by, ConnectIn{NodeID: c.node}); !errors.Is(err, c.want) {
			if v != nil {
				v.Close(nil)
			}
			t.Errorf("%s to %q: %v, want %v", c.by.Principal, c.node, err, c.want)
		}
	}
	// What was tried is on record, and what was refused before leaves nothing.
	if got := strings.Join(w.acts(), ", "); got != "opened  admin, closed  admin, opened older admin, closed older admin" {
		t.Error(got)
	}
	v, err := s.Connect(t.Context(), writer, ConnectIn{NodeID: "alias"}) // the node decides
	if err != nil || v.NodeID() != "ours" {
		t.Fatal(err)
	}
	v.Close(nil)
	w.full = errors.New("the disk is full")
	before := w.dialed
	if _, err := s.Connect(t.Context(), admin, ConnectIn{NodeID: "ours"}); err == nil || w.dialed != before {
		t.Error("what could not be recorded was done:", err)
	}
	off, _ := newWorld(t, func(c *Config) { c.Settings = func() Settings { return Settings{} } })
	if _, err := off.Connect(t.Context(), admin, ConnectIn{NodeID: "ours"}); !errors.Is(err, ErrOff) {
		t.Error(err)
	}
	if _, err := off.CreateToken(t.Context(), admin, CreateTokenIn{}); !errors.Is(err, ErrOff) {
		t.Error(err)
	}
}

func TestTokens(t *testing.T) {
	s, w := newWorld(t, nil)
	make := func(c identity.Caller, node string) string {
		t.Helper()
		out, err := s.CreateToken(t.Context(), c, CreateTokenIn{NodeID: node})
		if err != nil || len(out.Token) < 43 || !out.Expires.Equal(w.now.Add(TokenTime)) || strings.Contains(out.ViewerPath, out.Token) {
			t.Fatalf("%+v, %v", out, err)
		}
		return out.Token
	}
	if _, err := s.CreateToken(t.Context(), writer, CreateTokenIn{}); !errors.Is(err, ErrLocalAdmin) {
		t.Error(err)
	}
	if _, err := s.CreateToken(t.Context(), writer, CreateTokenIn{NodeID: "nope"}); !errors.Is(err, ErrNodeUnknown) {
		t.Error(err)
	}
	token := make(writer, "ours")
	if c, err := s.Redeem(token, "alias"); err != nil || c.Principal != "writer" {
		t.Error(c, err)
	}
	if _, err := s.Redeem(token, "ours"); !errors.Is(err, ErrToken) {
		t.Error("twice:", err)
	}
	for _, other := range []string{"", "older", "nope"} {
		token = make(writer, "ours")
		if _, err := s.Redeem(token, other); !errors.Is(err, ErrTokenNode) {
			t.Errorf("for %q: %v", other, err)
		}
		if _, err := s.Redeem(token, "ours"); !errors.Is(err, ErrToken) {
			t.Errorf("a token that was tried for %q counts: %v", other, err)
		}
	}
	token = make(admin, "")
	w.pass(TokenTime)
	if _, err := s.Redeem(token, ""); !errors.Is(err, ErrToken) {
		t.Error("late:", err)
	}
	token = make(admin, "")
	w.ended = identity.ErrEnded
	if _, err := s.Redeem(token, ""); !errors.Is(err, identity.ErrEnded) {
		t.Error("of a credential that has ended:", err)
	}
	w.ended = nil
	for _, bad := range []string{"", "nope"} {
		if _, err := s.Redeem(bad, ""); !errors.Is(err, ErrToken) {
			t.Error(err)
		}
	}
	// Of too many, one's own oldest goes, and nobody else's.
	others, first := make(writer, "ours"), make(admin, "")
	for range MaxOwnTokens {
		make(admin, "")
	}
	if _, err := s.Redeem(first, ""); !errors.Is(err, ErrToken) {
		t.Error(err)
	}
	if _, err := s.Redeem(others, "ours"); err != nil {
		t.Error(err)
	}
	var err error
	for i := 0; err == nil && i <= MaxTokens; i++ {
		_, err = s.CreateToken(t.Context(), operator("o"+string(rune('a'+i/MaxOwnTokens)), identity.ScopeWrite), CreateTokenIn{NodeID: "ours"})
	}
	if !errors.Is(err, ErrTooMany) {
		t.Error(err)
	}
}

func TestSessions(t *testing.T) {
	s, w := newWorld(t, nil)
	session, err := s.Enter(writer, "alias")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // each use lets it go on
		w.pass(SessionTime - time.Second)
		if c, err := s.Entered(session, "ours", false); err != nil || c.Principal != "writer" {
			t.Fatal(err)
		}
	}
	if _, err := s.Entered(session, "older", false); !errors.Is(err, ErrSession) {
		t.Error(err)
	}
	if _, err := s.Entered(session, "", true); err != nil {
		t.Error(err)
	}
	w.pass(SessionTime)
	if _, err := s.Entered(session, "ours", false); !errors.Is(err, ErrSession) {
		t.Error(err)
	}
	if session, err = s.Enter(writer, "ours"); err != nil {
		t.Fatal(err)
	}
	w.ended = identity.ErrEnded
	if _, err := s.Entered(session, "ours", true); !errors.Is(err, identity.ErrEnded) {
		t.Error(err)
	}
	w.ended = nil
	if _, err := s.Entered(session, "ours", true); !errors.Is(err, ErrSession) {
		t.Error("it came back:", err)
	}
}

func TestLimits(t *testing.T) {
	s, _ := newWorld(t, nil)
	var open []*Screen
	for range MaxNodeScreens {
		v, err := s.Connect(t.Context(), admin, ConnectIn{NodeID: "ours"})
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, v)
	}
	if _, err := s.Connect(t.Context(), writer, ConnectIn{NodeID: "ours"}); !errors.Is(err, ErrTooMany) {
		t.Error(err)
	}
	open[0].Close(nil)
	open[0].Close(nil)
	v, err := s.Connect(t.Context(), writer, ConnectIn{NodeID: "ours"})
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.Get(t.Context(), admin, GetIn{NodeID: "ours"})
	if err != nil || !out.Available || out.Viewers != MaxNodeScreens {
		t.Errorf("%+v, %v", out, err)
	}
	s.Stop()
	if _, err := v.Read(make([]byte, 1)); !errors.Is(err, ErrStopping) {
		t.Error(err)
	}
	if _, err := s.Connect(t.Context(), admin, ConnectIn{NodeID: "ours"}); !errors.Is(err, ErrStopping) {
		t.Error(err)
	}
}

// Bytes go both ways and are counted; an end is an end, and is on record once.
func TestBytes(t *testing.T) {
	s, w := newWorld(t, nil)
	v, err := s.Connect(t.Context(), admin, ConnectIn{NodeID: "ours"})
	if err != nil {
		t.Fatal(err)
	}
	far := w.far[0]
	go func() {
		buf := make([]byte, 5)
		_, _ = io.ReadFull(far, buf)
		_, _ = far.Write(append([]byte("RFB "), buf...))
		_ = far.Close()
	}()
	if _, err := v.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(v)
	if err != nil || string(got) != "RFB hello" {
		t.Errorf("%q, %v", got, err)
	}
	v.Close(nil)
	<-v.Done()
	if _, err := v.Read(make([]byte, 1)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if r := w.rows[len(w.rows)-1]; r.Act != "closed" || !strings.HasPrefix(r.Detail, "9 bytes to the viewer, 5 from it, ") || r.ScreenID != v.ID() {
		t.Errorf("%+v", r)
	}
}

func TestStandingStill(t *testing.T) {
	for name, c := range map[string]struct {
		more func(*Config)
		do   func(*Screen)
		want error
	}{
		"nothing happens":          {func(c *Config) { c.Idle = 100 * time.Millisecond }, func(v *Screen) { _, _ = v.Read(make([]byte, 1)) }, ErrIdle},
		"the viewer takes nothing": {func(c *Config) { c.Stall = 100 * time.Millisecond }, func(*Screen) {}, ErrStalled},
		"the server takes nothing": {func(c *Config) { c.Stall = 100 * time.Millisecond }, func(v *Screen) {
			go func() { _, _ = v.Read(make([]byte, 1)) }()
			_, _ = v.Write([]byte("x"))
		}, ErrStalled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := newWorld(t, c.more)
			v, err := s.Connect(t.Context(), admin, ConnectIn{NodeID: "ours"})
			if err != nil {
				t.Fatal(err)
			}
			c.do(v)
			select {
			case <-v.Done():
			case <-time.After(20 * time.Second):
				t.Fatal("it goes on")
			}
			if err := v.Why(); !errors.Is(err, c.want) {
				t.Error(err)
			}
		})
	}
}

// A node of the older kind: its token counts once, and no other one does.
func TestCalls(t *testing.T) {
	s, w := newWorld(t, func(c *Config) { c.Wait = 20 * time.Second })
	near, far := net.Pipe()
	defer far.Close()
	w.asked = func(token string) (string, error) {
		for _, bad := range []string{token[:len(token)-1] + "x", strings.Split(token, ".")[0], "x." + strings.Split(token, ".")[1], strings.Repeat("x", 1000)} {
			if _, err := s.Called(bad); !errors.Is(err, ErrCallUnknown) {
				t.Errorf("%q: %v", bad, err)
			}
		}
		deliver, err := s.Called(token)
		if err != nil {
			t.Error(err)
			return "", nil
		}
		if _, err := s.Called(token); !errors.Is(err, ErrCallUnknown) {
			t.Error("twice:", err)
		}
		deliver(ConnPipe{near})
		return "", nil
	}
	v, err := s.Connect(t.Context(), admin, ConnectIn{NodeID: "older"})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = far.Write([]byte("RFB ")) }()
	buf := make([]byte, 4)
	if _, err := io.ReadFull(v, buf); err != nil || !bytes.Equal(buf, []byte("RFB ")) {
		t.Errorf("%q, %v", buf, err)
	}
	v.Close(nil)
	if _, err := s.Called(""); !errors.Is(err, ErrCallRequired) {
		t.Error(err)
	}
	w.asked = func(string) (string, error) { return "NODE_BACKGROUND_UNAVAILABLE", errs.New(errs.Unavailable, "no") }
	_, err = s.Connect(t.Context(), admin, ConnectIn{NodeID: "older"})
	if e, ok := errs.As(err); !ok || e.Code != ErrCallFailed.Code || e.Field("code") != "NODE_BACKGROUND_UNAVAILABLE" {
		t.Error(err)
	}
	if len(s.call.pending) != 0 {
		t.Errorf("%d are waited for", len(s.call.pending))
	}
}

// Whether a VNC server answers is looked up, and not for every question.
func TestAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var mu sync.Mutex
	came, says := 0, "RFB 003.008\n"
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			came++
			_, _ = io.WriteString(c, says)
			mu.Unlock()
			_ = c.Close()
		}
	}()
	s, w := newWorld(t, func(c *Config) {
		c.Settings = func() Settings {
			return Settings{Enabled: true, Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port}
		}
	})
	look := func() bool {
		t.Helper()
		out, err := s.Get(t.Context(), admin, GetIn{})
		if err != nil || out.Port == 0 || len(out.Instructions) != 4 {
			t.Fatalf("%+v, %v", out, err)
		}
		return out.Available
	}
	for range 3 {
		if !look() {
			t.Error("there is no screen")
		}
	}
	mu.Lock()
	if came != 1 {
		t.Errorf("it was looked up %d times", came)
	}
	says = "SSH-2.0-x\r\n"
	mu.Unlock()
	w.pass(probeKeep)
	if look() {
		t.Error("what is no VNC server is a screen")
	}
}
