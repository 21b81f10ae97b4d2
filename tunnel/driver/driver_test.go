package driver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hanzoai/hanzod/tunnel/driver"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server answers carriers by a script: each gets HELLO and is answered by hello, then BINDs are granted or refused.
type server struct {
	t *testing.T
	// hello answers the nth HELLO, from 0; nil ends the carrier with close.
	hello func(n int, h wire.HelloBody) (ok *wire.HelloOKBody, away *wire.GoAwayBody, close int)
	// bind answers a BIND; nil grants it with a new id and its port.
	bind func(b wire.BindBody) *wire.BindErrBody

	mu     sync.Mutex
	dials  int
	ends   []mux.Carrier
	hellos []wire.HelloBody
	binds  []wire.BindBody
	lastID int
	wg     sync.WaitGroup
}

func (s *server) dial(context.Context, int) (mux.Carrier, error) {
	near, far := mux.Pipe()
	s.mu.Lock()
	n := s.dials
	s.dials++
	s.ends = append(s.ends, far)
	s.mu.Unlock()
	s.wg.Go(func() { s.serve(n, far) })
	return near, nil
}

func send(c mux.Carrier, t wire.Type, body any) {
	raw, err := wire.AppendBody(nil, t, 0, body)
	if err == nil {
		_ = c.Write(net.Buffers{raw}) // the driver's end may be gone
	}
}

func (s *server) serve(n int, c mux.Carrier) {
	for {
		m, err := c.Read(context.Background())
		if err != nil {
			return
		}
		for len(m) > 0 {
			var f wire.Frame
			if f, m, err = wire.Next(m); err != nil {
				s.t.Error(err)
				return
			}
			switch f.Type {
			case wire.Hello:
				var h wire.HelloBody
				if err := wire.Decode(f.Payload, &h); err != nil {
					s.t.Error(err)
				}
				s.mu.Lock()
				s.hellos = append(s.hellos, h)
				s.mu.Unlock()
				ok, away, code := s.hello(n, h)
				if ok != nil {
					send(c, wire.HelloOK, *ok)
					continue
				}
				if away != nil {
					send(c, wire.GoAway, *away)
				}
				_ = c.Close(code, "")
				return
			case wire.Bind:
				var b wire.BindBody
				if err := wire.Decode(f.Payload, &b); err != nil {
					s.t.Error(err)
				}
				s.mu.Lock()
				s.binds = append(s.binds, b)
				s.lastID++
				id := s.lastID
				s.mu.Unlock()
				if s.bind != nil {
					if e := s.bind(b); e != nil {
						e.ClientBindRef = b.ClientBindRef
						send(c, wire.BindErr, *e)
						continue
					}
				}
				port := b.ContainerPort
				if port == 0 {
					port = 20_000 + id
				}
				send(c, wire.BindOK, wire.BindOKBody{ClientBindRef: b.ClientBindRef, BindID: id, ContainerPort: port})
			case wire.Unbind:
				var u wire.UnbindBody
				if err := wire.Decode(f.Payload, &u); err != nil {
					s.t.Error(err)
				}
				send(c, wire.UnbindOK, u)
			}
		}
	}
}

// last is the server's end of the newest carrier.
func (s *server) last() mux.Carrier {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ends[len(s.ends)-1]
}

func okay(id string, resumed bool, binds ...wire.ResumedBind) *wire.HelloOKBody {
	return &wire.HelloOKBody{SessionID: id, Resumed: resumed, ResumedBinds: binds, StreamWindow: 1 << 20, SessionWindow: 4 << 20, Capabilities: []string{wire.Hanzod1}}
}

type events struct{ ch chan driver.Event }

func newEvents() *events               { return &events{make(chan driver.Event, 64)} }
func (e *events) tell(ev driver.Event) { e.ch <- ev }
func (e *events) until(t *testing.T, kind driver.EventKind) driver.Event {
	t.Helper()
	late := time.After(wait)
	for {
		select {
		case ev := <-e.ch:
			if ev.Kind == kind {
				return ev
			}
		case <-late:
			t.Fatalf("no event %s", kind)
		}
	}
}

func ctxOf(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	t.Cleanup(cancel)
	return ctx
}

// TestResume: after a lost carrier the session goes on with its bindings, and what the server lost is bound again with
// the port that it had.
func TestResume(t *testing.T) {
	for name, tc := range map[string]struct {
		second *wire.HelloOKBody
		away   *wire.GoAwayBody
		kind   driver.EventKind
		binds  int
		id     int
	}{
		"resumed":  {okay("S-1", true, wire.ResumedBind{BindID: 1, Kind: "http", Mode: "expose", ContainerPort: 20_001}), nil, driver.Resumed, 1, 1},
		"half":     {okay("S-1", true), nil, driver.Resumed, 2, 2},
		"replaced": {okay("S-2", false), nil, driver.Replaced, 2, 2},
		"expired":  {nil, &wire.GoAwayBody{Message: "resume grace expired"}, driver.Replaced, 2, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &server{t: t}
			s.hello = func(n int, h wire.HelloBody) (*wire.HelloOKBody, *wire.GoAwayBody, int) {
				switch n {
				case 0:
					return okay("S-1", false), nil, 0
				case 1:
					if h.Resume == nil || h.Resume.SessionID != "S-1" {
						t.Errorf("HELLO does not resume: %+v", h)
					}
					return tc.second, tc.away, 1008
				}
				if h.Resume != nil {
					t.Errorf("HELLO resumes what has expired: %+v", h)
				}
				return okay("S-3", false), nil, 0
			}
			seen := newEvents()
			d, err := driver.Connect(ctxOf(t), driver.Options{Dial: s.dial, OnEvent: seen.tell})
			if err != nil {
				t.Fatal(err)
			}
			b, err := d.Expose(ctxOf(t), driver.ExposeIn{Target: "8080"})
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			_ = s.last().Close(0, "")
			if e := seen.until(t, driver.Reconnecting); e.In != 500*time.Millisecond {
				t.Errorf("the first pause is %s", e.In)
			}
			seen.until(t, tc.kind)
			if time.Since(began) < 500*time.Millisecond {
				t.Error("it came back too early")
			}
			if i := b.Info(); i.ID != tc.id || i.Port != 20_001 || i.Revoked {
				t.Errorf("%+v", i)
			}
			s.mu.Lock()
			if len(s.binds) != tc.binds || s.binds[len(s.binds)-1].ContainerPort != map[bool]int{true: 0, false: 20_001}[tc.binds == 1] {
				t.Errorf("%+v", s.binds)
			}
			s.mu.Unlock()
			if err := d.Close(); err != nil || d.Err() != nil {
				t.Error(err, d.Err())
			}
			s.wg.Wait()
		})
	}
}

// TestLostBinding: what cannot be had again is told, and the rest goes on.
func TestLostBinding(t *testing.T) {
	s := &server{t: t}
	s.hello = func(n int, _ wire.HelloBody) (*wire.HelloOKBody, *wire.GoAwayBody, int) {
		return okay(fmt.Sprint("S-", n), false), nil, 0
	}
	s.bind = func(b wire.BindBody) *wire.BindErrBody {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.dials > 1 && b.ContainerPort == 3000 {
			return &wire.BindErrBody{Code: wire.AlreadyBound, Message: "somebody has it"}
		}
		return nil
	}
	seen := newEvents()
	d, err := driver.Connect(ctxOf(t), driver.Options{Dial: s.dial, OnEvent: seen.tell})
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []int{3000, 3001} {
		if _, err := d.Expose(ctxOf(t), driver.ExposeIn{Target: "8080", Port: port}); err != nil {
			t.Fatal(err)
		}
	}
	_ = s.last().Close(0, "")
	if e := seen.until(t, driver.Revoked); e.Binding.Info().Target != "127.0.0.1:8080" || !e.Binding.Info().Revoked || e.Text != "somebody has it" {
		t.Errorf("%+v", e)
	}
	seen.until(t, driver.Replaced)
	if all := d.Bindings(); len(all) != 1 || all[0].Info().Port != 3001 {
		t.Errorf("%d bindings", len(all))
	}
	_ = d.Close()
	s.wg.Wait()
}

// TestRefusals: the ways of not being let in are told apart.
func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		away  *wire.GoAwayBody
		close int
		want  error
	}{
		"limit by code":  {&wire.GoAwayBody{Code: wire.CodeExhausted, Message: "session limit reached"}, 1013, driver.ErrSessionLimit},
		"limit by close": {nil, 1013, driver.ErrSessionLimit},
		"expired":        {&wire.GoAwayBody{Message: "resume grace expired"}, 1008, driver.ErrExpired},
		"expired, bare":  {nil, 1008, driver.ErrExpired},
		"refused":        {&wire.GoAwayBody{Code: wire.CodeAuth, Message: "unauthorized"}, 1008, driver.ErrRefused},
		"nothing":        {nil, 1005, driver.ErrBeforeHello},
		"lost":           {nil, 0, driver.ErrBeforeHello},
	} {
		t.Run(name, func(t *testing.T) {
			s := &server{t: t}
			s.hello = func(int, wire.HelloBody) (*wire.HelloOKBody, *wire.GoAwayBody, int) { return nil, tc.away, tc.close }
			if _, err := driver.Connect(ctxOf(t), driver.Options{Dial: s.dial, Resume: "S-0", Token: "very-secret"}); !errors.Is(err, tc.want) || strings.Contains(err.Error(), "very-secret") {
				t.Errorf("%v", err)
			}
			s.wg.Wait()
		})
	}
}

// TestWindows: HELLO_OK with windows that are no positive numbers is refused; without any the defaults hold.
func TestWindows(t *testing.T) {
	for text, fine := range map[string]bool{
		`{"sessionId":"S","resumed":false,"resumedBinds":[]}`:                                            true,
		`{"sessionId":"S","resumed":false,"streamWindow":131072,"sessionWindow":524288}`:                 true,
		`{"sessionId":"S","resumed":false,"streamWindow":131072.0,"sessionWindow":1e6}`:                  true,
		`{"sessionId":"S","resumed":false,"streamWindow":0,"sessionWindow":524288}`:                      false,
		`{"sessionId":"S","resumed":false,"streamWindow":131072,"sessionWindow":-1}`:                     false,
		`{"sessionId":"S","resumed":false,"streamWindow":"131072","sessionWindow":524288}`:               false,
		`{"sessionId":"S","resumed":false,"streamWindow":null,"sessionWindow":524288}`:                   false,
		`{"sessionId":"","resumed":false,"streamWindow":131072,"sessionWindow":524288}`:                  false,
		`{"sessionId":"S","streamWindow":131072,"sessionWindow":524288,"joinTickets":"none"}`:            false,
		`{"sessionId":"S","streamWindow":131072,"sessionWindow":524288,"of":"a later version","x":[{}]}`: true,
	} {
		near, far := mux.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			if _, err := far.Read(context.Background()); err != nil {
				t.Error(err)
			}
			_ = far.Write(net.Buffers{wire.Append(nil, wire.HelloOK, 0, []byte(text))})
			_, _ = far.Read(context.Background()) // the end
			_ = far.Close(1000, "")
		}()
		d, err := driver.Connect(ctxOf(t), driver.Options{Dial: func(context.Context, int) (mux.Carrier, error) { return near, nil }, Grace: -1})
		if fine != (err == nil) || !fine && !errors.Is(err, driver.ErrProtocol) {
			t.Errorf("%s: %v", text, err)
		}
		if err == nil {
			_ = d.Close()
		}
		<-done
	}
}

// pair is a session and the server's end of it, as a mux session.
func pair(t *testing.T, o driver.Options, open func(*mux.Stream, wire.StreamOpenBody) error) (*driver.Session, *mux.Session) {
	t.Helper()
	near, far := mux.Pipe()
	var srv *mux.Session
	ready := make(chan struct{})
	go func() {
		defer close(ready)
		if _, err := far.Read(context.Background()); err != nil {
			t.Error(err)
			return
		}
		send(far, wire.HelloOK, *okay("S-1", false))
		srv = mux.New(mux.Config{StreamWindow: 1 << 20, SessionWindow: 4 << 20, Hanzod1: true, Open: open, Control: func(_ int, f wire.Frame) error {
			switch f.Type {
			case wire.Bind:
				var b wire.BindBody
				_ = wire.Decode(f.Payload, &b)
				return srv.Send(wire.BindOK, wire.Encode(wire.BindOKBody{ClientBindRef: b.ClientBindRef, BindID: b.ClientBindRef, ContainerPort: 20_000}))
			case wire.Unbind:
				return srv.Send(wire.UnbindOK, f.Payload)
			}
			return nil
		}})
		if err := srv.Add(0, far, nil); err != nil {
			t.Error(err)
		}
	}()
	o.Dial = func(context.Context, int) (mux.Carrier, error) { return near, nil }
	o.Grace = -1
	d, err := driver.Connect(ctxOf(t), o)
	if err != nil {
		t.Fatal(err)
	}
	<-ready
	t.Cleanup(func() {
		_ = d.Close()
		_ = srv.Close(1000, "")
		srv.Wait()
	})
	return d, srv
}

// TestServe: streams of kind dial end where they were admitted, and nowhere else; dead targets refuse.
func TestServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(c, c)
		_ = c.Close()
	}()
	port := l.Addr().(*net.TCPAddr).Port
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = dead.Close()
	_, srv := pair(t, driver.Options{Serve: func(id int, _ string, _ int) error {
		if id != 7 {
			return errors.New("not this one")
		}
		return nil
	}}, nil)
	for _, tc := range []struct {
		body wire.StreamOpenBody
		want string
	}{
		{wire.StreamOpenBody{Kind: "dial", BindID: 8, Host: "127.0.0.1", Port: port}, "not this one"},
		{wire.StreamOpenBody{Kind: "dial", BindID: 7, Host: "127.0.0.1", Port: 0}, "not admitted"},
		{wire.StreamOpenBody{Kind: "dial", BindID: 7, Host: "127.0.0.1", Port: dead.Addr().(*net.TCPAddr).Port}, "local connect failed"},
		{wire.StreamOpenBody{Kind: "tcp", BindID: 9}, "no such binding"},
		{wire.StreamOpenBody{Kind: "pty"}, "streams of this kind are not served"},
	} {
		st, err := srv.Open(ctxOf(t), tc.body)
		if err != nil {
			t.Fatal(err)
		}
		_, err = st.Accepted(ctxOf(t))
		var reset *mux.ResetError
		if !errors.As(err, &reset) || reset.Code != wire.CodeRefused || reset.Reason != tc.want {
			t.Errorf("%+v: %v", tc.body, err)
		}
	}
	st, err := srv.Open(ctxOf(t), wire.StreamOpenBody{Kind: "dial", BindID: 7, Host: "127.0.0.1", Port: port})
	if err != nil {
		t.Fatal(err)
	}
	if peer, err := st.Accepted(ctxOf(t)); err != nil || peer != l.Addr().String() {
		t.Fatal(peer, err)
	}
	if _, err := io.WriteString(st, "there and back"); err != nil {
		t.Fatal(err)
	}
	_ = st.CloseWrite()
	if got, err := io.ReadAll(st); err != nil || string(got) != "there and back" {
		t.Errorf("%q, %v", got, err)
	}
	_ = st.Close()
}

// TestBadRequests: what is no request never reaches the local service.
func TestBadRequests(t *testing.T) {
	d, srv := pair(t, driver.Options{Local: func(context.Context, string, string) (net.Conn, error) {
		t.Error("the local service was called")
		return nil, errNobody
	}}, nil)
	if _, err := d.Expose(ctxOf(t), driver.ExposeIn{Target: "8080"}); err != nil {
		t.Fatal(err)
	}
	for _, body := range []wire.StreamOpenBody{
		{Method: "", Target: "/"}, {Method: "GET /", Target: "/"}, {Method: "GET", Target: ""}, {Method: "GET", Target: "http://elsewhere/"},
		{Method: "GET", Target: "/a b"}, {Method: "GET", Target: "/\r\nX: y"}, {Method: "GET", Target: "*"},
		{Method: "GET", Target: "/", Headers: [][2]string{{"a b", "c"}}}, {Method: "GET", Target: "/", Headers: [][2]string{{"a", "c\r\nd: e"}}},
	} {
		body.Kind = "http"
		st, err := srv.Open(ctxOf(t), body)
		if err != nil {
			t.Fatal(err)
		}
		_, err = st.Head(ctxOf(t))
		var reset *mux.ResetError
		if !errors.As(err, &reset) || reset.Code != wire.CodeRefused || reset.Reason != "invalid-method-or-target" {
			t.Errorf("%+v: %v", body, err)
		}
	}
}

// TestPlaces: no more local sockets than allowed, and the next one gets a place as soon as one is free.
func TestPlaces(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, srv := pair(t, driver.Options{MaxLocal: 8, MaxTarget: 2}, nil)
	if _, err := d.Pull(ctxOf(t), driver.PullIn{Target: l.Addr().String()}); err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 8)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	var streams []*mux.Stream
	open := func() {
		st, err := srv.Open(ctxOf(t), wire.StreamOpenBody{Kind: "tcp"})
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, st)
	}
	next := func() net.Conn {
		select {
		case c := <-accepted:
			return c
		case <-time.After(wait):
			t.Fatal("a stream got no socket")
			return nil
		}
	}
	open()
	first := next()
	open()
	second := next()
	open() // the other two have the places
	select {
	case <-accepted:
		t.Fatal("a third socket was opened")
	case <-time.After(50 * time.Millisecond):
	}
	for _, st := range streams[:2] {
		_ = st.Reset(wire.CodeCancel, "")
	}
	defer first.Close()
	defer second.Close()
	select {
	case c := <-accepted:
		_ = c.Close()
	case <-time.After(wait):
		t.Fatal("the third stream got no socket")
	}
	for _, st := range streams {
		_ = st.Reset(wire.CodeCancel, "")
	}
}

// TestDialStreams: the client's own streams need an acceptance, and say why there is none.
func TestDialStreams(t *testing.T) {
	d, _ := pair(t, driver.Options{}, func(st *mux.Stream, body wire.StreamOpenBody) error {
		if body.Kind != "dial" || body.Host != "db" || body.Port != 5432 {
			return errors.New("unreachable")
		}
		go func() {
			_ = st.Accept("192.0.2.7:5432")
			_, _ = io.Copy(st, st)
			_ = st.Close()
		}()
		return nil
	})
	dialer, err := d.DialBinding(ctxOf(t), driver.DialIn{Host: "db", Port: 5432})
	if err != nil {
		t.Fatal(err)
	}
	c, err := dialer.DialContext(ctxOf(t), "tcp", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	_ = c.(interface{ CloseWrite() error }).CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	_ = c.Close()
	if _, err := dialer.DialContext(ctxOf(t), "tcp", "other:1"); err == nil || !strings.Contains(err.Error(), "unreachable") {
		t.Errorf("%v", err)
	}
	// A local listener of it.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- dialer.Serve(ctx, l) }()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(near, "by socket")
	_ = near.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(near); err != nil || string(got) != "by socket" {
		t.Errorf("%q, %v", got, err)
	}
	_ = near.Close()
	cancel()
	if err := <-served; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
