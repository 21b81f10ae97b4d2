package tunnels_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/tunnels"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

func TestFirstFrame(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name    string
		message []byte
		code    int
	}{
		{"another frame", wire.Append(nil, wire.Ping, 0, make([]byte, 8)), 1002},
		{"a frame of a stream", wire.Append(nil, wire.Hello, 2, []byte(`{"version":"hoody-tunnel.v1"}`)), 1002},
		{"half a frame", []byte{1, 0, 0, 0, 0, 0, 0, 0, 9, 'x'}, 1002},
		{"no JSON", wire.Append(nil, wire.Hello, 0, []byte("{")), 1002},
		{"another version", wire.Append(nil, wire.Hello, 0, []byte(`{"version":"hoody-tunnel.v2"}`)), 1002},
		{"JOIN of v1", wire.Append(nil, wire.Join, 0, []byte(`{}`)), 1002},
	} {
		p := w.peer(writer, wire.V1)
		p.raw(c.message)
		if code := p.ended(); code != c.code {
			t.Errorf("%s: closed with %d", c.name, code)
		}
		if p.gone() == nil {
			t.Errorf("%s: served", c.name)
		}
	}
	if w.s.Left() != 0 {
		t.Error("something is left of carriers that were turned away")
	}
}

func TestSilence(t *testing.T) {
	w := newWorld(t)
	w.s.Hurry(time.Second, 0, 0, 0, 0)
	all := make([]*peer, tunnels.MaxSilent)
	for i := range all {
		all[i] = w.peer(writer, wire.V1)
	}
	// They enter by themselves: the one too many is the one that is turned away at once.
	var late *peer
	eventually(t, "more are let in than may be silent", func() bool {
		late = w.peer(writer, wire.V1)
		select {
		case err := <-late.served:
			return errors.Is(err, tunnels.ErrSilent)
		case <-time.After(20 * time.Millisecond):
			return false
		}
	})
	if code := late.ended(); code != 1005 {
		t.Errorf("the 33rd is closed with %d", code)
	}
	if code := all[0].ended(); code != 1005 || all[0].gone() == nil {
		t.Errorf("a silent one is closed with %d", code)
	}
	eventually(t, "places are not given back", func() bool {
		p := w.peer(writer, wire.V1)
		p.send(wire.Hello, 0, hello(wire.V1))
		f, err := p.frame()
		return err == nil && f.Type == wire.HelloOK
	})
}

func TestWhoMayCarry(t *testing.T) {
	w := newWorld(t)
	none := identity.Caller{}
	for _, c := range []struct {
		name   string
		caller identity.Caller
		auth   *wire.HelloAuth
		ok     bool
	}{
		{"nobody", none, nil, false},
		{"a wrong token", none, &wire.HelloAuth{Kind: "bearer", Token: "guess"}, false},
		{"another kind", none, &wire.HelloAuth{Kind: "basic", Token: "secret"}, false},
		{"a token in HELLO", none, &wire.HelloAuth{Kind: "bearer", Token: "secret"}, true},
		{"an operator who reads", reader, nil, false},
		{"an operator who writes", writer, nil, true},
		{"a node", node, nil, true},
		{"somebody with an invite", identity.Caller{Role: identity.RoleInvited, Principal: "invite"}, nil, false},
		{"a caller without a name", identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}}, nil, false},
	} {
		p := w.peer(c.caller, wire.V1)
		h := hello(wire.V1)
		h.Auth = c.auth
		p.send(wire.Hello, 0, h)
		if c.ok {
			p.want(wire.HelloOK, nil)
			continue
		}
		var g wire.GoAwayBody
		p.want(wire.GoAway, &g)
		if code := p.ended(); g.Code != wire.CodeAuth || g.Message != "unauthorized" || code != 1008 || p.gone() == nil {
			t.Errorf("%s: %+v, %d", c.name, g, code)
		}
	}
	w.mu.Lock()
	w.standing = identity.ErrEnded
	w.mu.Unlock()
	p := w.peer(writer, wire.V1)
	p.send(wire.Hello, 0, hello(wire.V1))
	p.want(wire.GoAway, nil)
	if p.gone() == nil {
		t.Error("a credential that ended meanwhile opens a tunnel")
	}
}

func TestHelloOK(t *testing.T) {
	w := newWorld(t)
	p := w.peer(writer, wire.V1)
	p.send(wire.Hello, 0, hello(wire.V1))
	f := p.want(wire.HelloOK, nil)
	var members map[string]any
	if err := json.Unmarshal(f.Payload, &members); err != nil {
		t.Fatal(err)
	}
	id, _ := members["sessionId"].(string)
	if !strings.HasPrefix(id, "S-") || len(id) != 38 || members["resumed"] != false || members["streamWindow"].(float64) < 131_072 ||
		members["sessionWindow"].(float64) < 4*131_072 || members["maxStreams"] != 256.0 || members["limits"] == nil {
		t.Errorf("HELLO_OK %s", f.Payload)
	}
	if list, ok := members["resumedBinds"].([]any); !ok || len(list) != 0 {
		t.Error("resumedBinds is no empty list")
	}
	for _, no := range []string{"connectionsGranted", "joinTickets", "capabilities"} {
		if members[no] != nil {
			t.Errorf("v1 has %s", no)
		}
	}
	q := w.peer(writer, wire.V2)
	ok := q.open(wire.HelloBody{Version: wire.V2, Capabilities: []string{"multi-ws", "hanzod.1", "other"}, MaxConnections: 99})
	if ok.SessionID == id || ok.ConnectionsGranted != 4 || len(ok.JoinTickets) != 3 || !slices.Equal(ok.Capabilities, []string{"multi-ws", "hanzod.1"}) {
		t.Errorf("%+v", ok)
	}
	for i, k := range ok.JoinTickets {
		if k.Index != i+1 || len(k.Nonce) < 40 || k.ExpiresMS != 30_000 {
			t.Errorf("ticket %+v", k)
		}
	}
	for _, h := range []wire.HelloBody{{Version: wire.V2, Capabilities: []string{}, MaxConnections: 8}, {Version: wire.V2, Capabilities: []string{"multi-ws"}}} {
		one := w.peer(writer, wire.V2)
		if ok := one.open(h); ok.ConnectionsGranted != 1 || len(ok.JoinTickets) != 0 {
			t.Errorf("%+v", ok)
		}
	}
}

func TestExpose(t *testing.T) {
	w := newWorld(t)
	p := w.peer(writer, wire.V1)
	ok := p.open(hello(wire.V1))
	b := p.expose()
	if b.ClientBindRef != 1 || b.BindID != 1 || b.ContainerPort < 20_000 || b.PublicURL != nil {
		t.Errorf("BIND_OK %+v", b)
	}
	go p.answer("hello")
	if status, _, body := visit(t, b.ContainerPort, "/x"); status != 200 || body != "hello" {
		t.Errorf("%d %q", status, body)
	}
	eventually(t, "the stream does not count", func() bool {
		got, err := w.tunnel(writer, ok.SessionID)
		return err == nil && len(got.Bindings) == 1 && got.BytesIn == 5 && got.StreamsTotal == 1 && got.Streams == 0 && got.Bindings[0].BytesIn == 5 &&
			got.Bindings[0].Port == b.ContainerPort && got.Permits > 0 && got.Carriers == 1 && got.Transport == "pipe"
	})
	for _, bad := range []struct {
		body wire.BindBody
		code string
	}{
		{wire.BindBody{Kind: "http", Mode: "pull"}, wire.InvalidKind},
		{wire.BindBody{Kind: "udp", Mode: "expose"}, wire.InvalidKind},
		{wire.BindBody{Kind: "tcp", Mode: "pull", ContainerPort: 22}, wire.ReservedPort},
		{wire.BindBody{Kind: "tcp", Mode: "pull", ContainerPort: 443}, wire.PrivilegedPort},
		{wire.BindBody{Kind: "tcp", Mode: "pull", Host: "0.0.0.0"}, wire.InvalidHost},
		{wire.BindBody{Kind: "tcp", Mode: "pull", ContainerPort: b.ContainerPort}, wire.PortInUse},
		{wire.BindBody{Kind: "http", Mode: "expose", ContainerPort: b.ContainerPort}, wire.AlreadyBound},
	} {
		bad.body.ClientBindRef = 7
		p.send(wire.Bind, 0, bad.body)
		var e wire.BindErrBody
		p.want(wire.BindErr, &e)
		if e.ClientBindRef != 7 || e.Code != bad.code || e.Message == "" {
			t.Errorf("%+v: %+v", bad.body, e)
		}
	}
	p.send(wire.Unbind, 0, wire.UnbindBody{BindID: 99})
	var u wire.UnbindBody
	if p.want(wire.UnbindErr, &u); u.BindID != 99 || u.Code == "" {
		t.Errorf("UNBIND_ERR %+v", u)
	}
	p.send(wire.Unbind, 0, wire.UnbindBody{BindID: b.BindID})
	if p.want(wire.UnbindOK, &u); u.BindID != b.BindID {
		t.Errorf("UNBIND_OK %+v", u)
	}
	st := w.s.Stats()
	if st.Rejected[wire.InvalidKind] != 2 || st.Bindings[tunnels.BindKind{Kind: "http", Mode: "expose"}] != 0 || st.Sessions != 1 ||
		st.StreamsTotal[tunnels.StreamResult{Kind: "http", Result: "ok"}] != 1 {
		t.Errorf("%+v", st)
	}
	if w.recorded("opened") != 1 || w.recorded("binding-created") != 1 || w.recorded("binding-deleted") != 1 || w.recorded("binding-refused") != 7 {
		t.Errorf("%+v", w.audit)
	}
}

func TestParkAndResume(t *testing.T) {
	w := newWorld(t)
	p := w.peer(writer, wire.V1)
	ok := p.open(hello(wire.V1))
	b := p.expose()
	_ = p.c.Close(0, "")
	if err := p.gone(); err != nil {
		t.Error(err)
	}
	got, err := w.tunnel(writer, ok.SessionID)
	if err != nil || !got.Parked || got.ParkedUntil.IsZero() || len(got.Bindings) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if st := w.s.Stats(); st.Parked != 1 || st.Sessions != 0 {
		t.Errorf("%+v", st)
	}
	status, header, _ := visit(t, b.ContainerPort, "/")
	if status != 503 || header.Get("Retry-After") != "5" {
		t.Errorf("a visitor of a parked tunnel gets %d, %v", status, header)
	}
	// Another one's port, also by a takeover of another tenant, stays his.
	other := w.peer(ofB, wire.V1)
	other.open(hello(wire.V1))
	take := true
	other.send(wire.Bind, 0, wire.BindBody{Kind: "http", Mode: "expose", ContainerPort: b.ContainerPort, Takeover: &take})
	var e wire.BindErrBody
	if other.want(wire.BindErr, &e); e.Code != wire.AlreadyBound {
		t.Errorf("%+v", e)
	}
	for _, c := range []struct {
		name    string
		caller  identity.Caller
		version string
	}{{"another tenant", ofB, wire.V1}, {"another credential", admin, wire.V1}, {"a node", node, wire.V1}, {"another version", writer, wire.V2}} {
		q := w.peer(c.caller, c.version)
		h := hello(c.version)
		h.Resume = &wire.Resume{SessionID: ok.SessionID}
		if got := q.open(h); got.Resumed || got.SessionID == ok.SessionID {
			t.Errorf("%s resumes: %+v", c.name, got)
		}
	}
	q := w.peer(writer, wire.V1)
	h := hello(wire.V1)
	h.Resume = &wire.Resume{SessionID: ok.SessionID}
	again := q.open(h)
	want := []wire.ResumedBind{{BindID: b.BindID, Kind: "http", Mode: "expose", ContainerPort: b.ContainerPort}}
	if !again.Resumed || again.SessionID != ok.SessionID || !slices.Equal(again.ResumedBinds, want) {
		t.Errorf("%+v", again)
	}
	go q.answer("back")
	if status, _, body := visit(t, b.ContainerPort, "/"); status != 200 || body != "back" {
		t.Errorf("%d %q", status, body)
	}
	// The client may know first that its carrier is gone.
	r := w.peer(writer, wire.V1)
	if again := r.open(h); !again.Resumed {
		t.Errorf("%+v", again)
	}
	q.ended()
	go r.answer("again")
	if status, _, body := visit(t, b.ContainerPort, "/"); status != 200 || body != "again" {
		t.Errorf("%d %q", status, body)
	}
	if st := w.s.Stats(); st.Resumes["resumed"] != 2 || st.Resumes["unknown"] != 4 {
		t.Errorf("%+v", st.Resumes)
	}
}

func TestGraceExpires(t *testing.T) {
	w := newWorld(t)
	w.change(func(s *tunnels.Settings) { s.Grace = 50 * time.Millisecond })
	p := w.peer(writer, wire.V1)
	ok := p.open(hello(wire.V1))
	b := p.expose()
	_ = p.c.Close(0, "")
	eventually(t, "the tunnel stays", func() bool { _, err := w.tunnel(writer, ok.SessionID); return errors.Is(err, tunnels.ErrUnknown) })
	eventually(t, "its port stays", func() bool {
		c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(b.ContainerPort)), time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	h := hello(wire.V1)
	h.Resume = &wire.Resume{SessionID: ok.SessionID}
	q := w.peer(writer, wire.V1)
	q.send(wire.Hello, 0, h)
	var g wire.GoAwayBody
	q.want(wire.GoAway, &g)
	if code := q.ended(); g.Message != "resume grace expired" || code != 1008 {
		t.Errorf("%+v, %d", g, code)
	}
	// Others do not learn that there was one.
	if got := w.peer(ofB, wire.V1).open(h); got.Resumed || got.SessionID == ok.SessionID {
		t.Errorf("%+v", got)
	}
	w.change(func(s *tunnels.Settings) { s.Grace = 0 })
	r := w.peer(writer, wire.V1)
	ok = r.open(hello(wire.V1))
	_ = r.c.Close(0, "")
	_ = r.gone()
	if _, err := w.tunnel(writer, ok.SessionID); !errors.Is(err, tunnels.ErrUnknown) {
		t.Error("a tunnel parks with a grace of 0")
	}
}

func TestEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(p *peer)
		park bool
	}{
		{"1000", func(p *peer) { _ = p.c.Close(1000, "") }, false},
		{"no code", func(p *peer) { _ = p.c.Close(1005, "") }, false},
		{"GOAWAY", func(p *peer) { p.send(wire.GoAway, 0, wire.GoAwayBody{}) }, false},
		{"1001", func(p *peer) { _ = p.c.Close(1001, "") }, true},
		{"1006", func(p *peer) { _ = p.c.Close(0, "") }, true},
		{"a frame of the server's", func(p *peer) { p.send(wire.BindOK, 0, wire.BindOKBody{}) }, false},
		{"a second HELLO", func(p *peer) { p.send(wire.Hello, 0, hello(wire.V1)) }, false},
		{"WINDOW of nothing", func(p *peer) { p.send(wire.Window, 0, make([]byte, 4)) }, false},
	} {
		w := newWorld(t)
		p := w.peer(writer, wire.V1)
		ok := p.open(hello(wire.V1))
		p.expose()
		c.end(p)
		if err := p.gone(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		got, err := w.tunnel(writer, ok.SessionID)
		if c.park != (err == nil && got.Parked) {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
}

func TestSessionLimit(t *testing.T) {
	w := newWorld(t)
	w.change(func(s *tunnels.Settings) { s.MaxTunnels, s.MaxPerTenant = 3, 2 })
	first := w.peer(ofA, wire.V1)
	first.open(hello(wire.V1))
	second := w.peer(ofA, wire.V1)
	parked := second.open(hello(wire.V1))
	full := func(c identity.Caller) {
		t.Helper()
		p := w.peer(c, wire.V1)
		p.send(wire.Hello, 0, hello(wire.V1))
		var g wire.GoAwayBody
		p.want(wire.GoAway, &g)
		if code := p.ended(); g.Code != wire.CodeExhausted || !strings.Contains(g.Message, "session limit") || code != 1013 || !errors.Is(p.gone(), tunnels.ErrSessions) {
			t.Errorf("%+v, %d", g, code)
		}
	}
	full(ofA)
	w.peer(ofB, wire.V1).open(hello(wire.V1))
	full(ofB) // three are there
	_ = second.c.Close(0, "")
	_ = second.gone()
	full(ofB) // somebody else's parked one does not make way
	w.peer(ofA, wire.V1).open(hello(wire.V1))
	if _, err := w.tunnel(ofA, parked.SessionID); !errors.Is(err, tunnels.ErrUnknown) {
		t.Error("the parked one has not made way")
	}
}

func TestTenants(t *testing.T) {
	w := newWorld(t)
	p := w.peer(ofA, wire.V1)
	ok := p.open(hello(wire.V1))
	p.expose()
	ctx := context.Background()
	for _, c := range []identity.Caller{ofB, {}, node} {
		if out, err := w.s.List(ctx, c, tunnels.ListIn{}); len(out.Tunnels) != 0 || (c.Role != identity.RoleOperator) != (err != nil) {
			t.Errorf("%s: %+v, %v", c.Principal, out, err)
		}
		if _, err := w.tunnel(c, ok.SessionID); err == nil {
			t.Errorf("%s reads it", c.Principal)
		}
		if _, err := w.s.Kill(ctx, c, tunnels.KillIn{ID: ok.SessionID}); err == nil {
			t.Errorf("%s kills it", c.Principal)
		}
	}
	for _, c := range []identity.Caller{ofA, admin, reader} {
		if out, err := w.s.List(ctx, c, tunnels.ListIn{}); err != nil || len(out.Tunnels) != 1 {
			t.Errorf("%s: %+v, %v", c.Principal, out, err)
		}
	}
	for _, c := range []identity.Caller{reader, writer} { // it is somebody else's
		if _, err := w.s.Kill(ctx, c, tunnels.KillIn{ID: ok.SessionID}); !errors.Is(err, tunnels.ErrDenied) {
			t.Errorf("%s: %v", c.Principal, err)
		}
	}
}

func TestKill(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	for _, bad := range []time.Duration{-1, tunnels.MaxGrace + 1} {
		if _, err := w.s.Kill(ctx, admin, tunnels.KillIn{ID: "S-", Grace: &bad}); !errors.Is(err, tunnels.ErrGrace) {
			t.Error(err)
		}
	}
	if _, err := w.s.Kill(ctx, admin, tunnels.KillIn{ID: "S-"}); !errors.Is(err, tunnels.ErrUnknown) {
		t.Error(err)
	}
	p := w.peer(writer, wire.V1)
	ok := p.open(hello(wire.V1))
	b := p.expose()
	got := make(chan string, 1)
	go func() {
		_, _, body := visit(t, b.ContainerPort, "/slow")
		got <- body
	}()
	f := p.want(wire.StreamOpen, nil)
	p.want(wire.EOF, nil)
	grace := tunnels.MaxGrace
	if _, err := w.s.Kill(ctx, admin, tunnels.KillIn{ID: ok.SessionID, Grace: &grace}); err != nil {
		t.Fatal(err)
	}
	// What runs may finish; nothing new begins; it cannot be killed twice.
	if _, err := w.s.Kill(ctx, admin, tunnels.KillIn{ID: ok.SessionID}); !errors.Is(err, tunnels.ErrUnknown) {
		t.Error(err)
	}
	if status, _, _ := visit(t, b.ContainerPort, "/late"); status != 502 && status != 503 {
		t.Errorf("a visitor of a tunnel that ends gets %d", status)
	}
	p.send(wire.ResponseHead, f.Stream, wire.ResponseHeadBody{Status: 200, Headers: [][2]string{}, Final: true})
	p.raw(wire.Append(wire.Append(nil, wire.Data, f.Stream, []byte("whole")), wire.EOF, f.Stream, nil))
	if body := <-got; body != "whole" {
		t.Errorf("a visitor gets %q", body)
	}
	// A published driver hears it at the end: it would end its streams.
	var g wire.GoAwayBody
	if p.want(wire.GoAway, &g); g.Code != 0 || g.Message != "admin kill" {
		t.Errorf("%+v", g)
	}
	if code := p.ended(); code != 1000 {
		t.Errorf("closed with %d", code)
	}
	eventually(t, "it stays", func() bool { return w.s.Left() == 0 })
	if w.recorded("killed") != 1 || w.s.Stats().Kills != 1 {
		t.Errorf("%+v", w.audit)
	}
	// A stream that does not finish is cut.
	p = w.peer(writer, wire.V1)
	ok = p.open(hello(wire.V1))
	b = p.expose()
	status := make(chan int, 1)
	go func() {
		code, _, _ := visit(t, b.ContainerPort, "/")
		status <- code
	}()
	p.want(wire.StreamOpen, nil)
	grace = 20 * time.Millisecond
	if _, err := w.s.Kill(ctx, writer, tunnels.KillIn{ID: ok.SessionID, Grace: &grace}); err != nil {
		t.Fatal(err) // his own
	}
	p.ended()
	if code := <-status; code != 502 && code != 503 {
		t.Errorf("a visitor gets %d", code)
	}
	// A parked one is dropped at once.
	p = w.peer(writer, wire.V1)
	ok = p.open(hello(wire.V1))
	_ = p.c.Close(0, "")
	_ = p.gone()
	if _, err := w.s.Kill(ctx, admin, tunnels.KillIn{ID: ok.SessionID}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.tunnel(admin, ok.SessionID); !errors.Is(err, tunnels.ErrUnknown) {
		t.Error("a parked tunnel outlives its kill")
	}
}

func TestTakeover(t *testing.T) {
	w := newWorld(t)
	p := w.peer(ofA, wire.V1)
	p.open(hello(wire.V1))
	b := p.expose()
	status := make(chan int, 1)
	go func() {
		code, _, _ := visit(t, b.ContainerPort, "/")
		status <- code
	}()
	f := p.want(wire.StreamOpen, nil)
	p.want(wire.EOF, nil)
	q := w.peer(ofA, wire.V1)
	q.open(hello(wire.V1))
	take := true
	again := q.bind(wire.BindBody{ClientBindRef: 3, Kind: "http", Mode: "expose", ContainerPort: b.ContainerPort, Takeover: &take})
	if again.ContainerPort != b.ContainerPort {
		t.Errorf("%+v", again)
	}
	reset := p.want(wire.Reset, nil)
	if code, _ := wire.ParseReset(reset.Payload); reset.Stream != f.Stream || code != wire.CodeTakeover {
		t.Errorf("RESET %d", code)
	}
	var r wire.BindRevokedBody
	if p.want(wire.BindRevoked, &r); r.BindID != b.BindID || r.Reason == "" {
		t.Errorf("BIND_REVOKED %+v", r)
	}
	q.answer("new") // the visitor who waited is led there
	if code := <-status; code != 200 {
		t.Errorf("a visitor across the takeover gets %d", code)
	}
	go q.answer("new")
	if status, _, body := visit(t, b.ContainerPort, "/"); status != 200 || body != "new" {
		t.Errorf("%d %q", status, body)
	}
	if st := w.s.Stats(); st.Takeovers != 1 {
		t.Errorf("%+v", st)
	}
	p.send(wire.Unbind, 0, wire.UnbindBody{BindID: b.BindID})
	p.want(wire.UnbindErr, nil)
}

func TestShards(t *testing.T) {
	w := newWorld(t)
	w.s.Hurry(0, 0, 0, 400*time.Millisecond, 0)
	p := w.peer(writer, wire.V2)
	ok := p.open(wire.HelloBody{Version: wire.V2, Capabilities: []string{"multi-ws"}, MaxConnections: 3})
	if len(ok.JoinTickets) != 2 {
		t.Fatalf("%+v", ok)
	}
	refused := func(c identity.Caller, j wire.JoinBody, code string) {
		t.Helper()
		q := w.peer(c, wire.V2)
		q.send(wire.Join, 0, j)
		var e wire.JoinErrBody
		if q.want(wire.JoinErr, &e); e.Code != code || e.Message == "" || q.ended() != 1008 {
			t.Errorf("%+v", e)
		}
	}
	one := ok.JoinTickets[0]
	j := wire.JoinBody{SessionID: ok.SessionID, Index: 1, Nonce: one.Nonce}
	refused(writer, wire.JoinBody{SessionID: "S-none", Index: 1, Nonce: one.Nonce}, "UNKNOWN_SESSION")
	refused(ofB, j, "UNKNOWN_SESSION")
	refused(writer, wire.JoinBody{SessionID: ok.SessionID, Index: 2, Nonce: one.Nonce}, "INVALID_TICKET")
	refused(writer, wire.JoinBody{SessionID: ok.SessionID, Index: 0}, "INVALID_TICKET")
	refused(writer, wire.JoinBody{SessionID: ok.SessionID, Index: -1}, "INVALID_TICKET")
	q := w.peer(identity.Caller{}, wire.V2) // an older driver shows its credential in HELLO alone
	q.send(wire.Join, 0, j)
	var joined wire.JoinOKBody
	if q.want(wire.JoinOK, &joined); joined.Index != 1 {
		t.Errorf("%+v", joined)
	}
	refused(writer, j, "INVALID_TICKET") // once
	eventually(t, "the carrier does not count", func() bool { got, _ := w.tunnel(writer, ok.SessionID); return got.Carriers == 2 && got.Granted == 3 })
	time.Sleep(450 * time.Millisecond)
	refused(writer, wire.JoinBody{SessionID: ok.SessionID, Index: 2, Nonce: ok.JoinTickets[1].Nonce}, "TICKET_EXPIRED")

	// Losing a further carrier ends its streams alone.
	b := p.expose()
	codes := make(chan int, 2)
	for range 2 {
		go func() {
			code, _, _ := visit(t, b.ContainerPort, "/")
			codes <- code
		}()
	}
	f := p.want(wire.StreamOpen, nil) // one on each
	q.want(wire.StreamOpen, nil)
	_ = q.c.Close(0, "")
	if code := <-codes; code != 502 {
		t.Errorf("a visitor gets %d", code)
	}
	p.want(wire.EOF, nil)
	p.send(wire.ResponseHead, f.Stream, wire.ResponseHeadBody{Status: 200, Headers: [][2]string{}, Final: true})
	p.raw(wire.Append(nil, wire.EOF, f.Stream, nil))
	if code := <-codes; code != 200 {
		t.Errorf("a visitor of the other carrier gets %d", code)
	}
	if got, err := w.tunnel(writer, ok.SessionID); err != nil || got.Parked {
		t.Errorf("%+v, %v", got, err)
	}
	_ = p.c.Close(0, "")
	_ = p.gone()
	if got, err := w.tunnel(writer, ok.SessionID); err != nil || !got.Parked {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestIdle(t *testing.T) {
	w := newWorld(t)
	w.change(func(s *tunnels.Settings) { s.Idle = 150 * time.Millisecond })
	p := w.peer(writer, wire.V1)
	p.open(hello(wire.V1))
	b := p.expose()
	time.Sleep(400 * time.Millisecond)
	p.send(wire.Unbind, 0, wire.UnbindBody{BindID: b.BindID})
	p.want(wire.UnbindOK, nil) // a binding has kept it
	var g wire.GoAwayBody
	p.want(wire.GoAway, &g)
	if g.Code != wire.CodeIdle || g.Message != "session idle timeout" || p.gone() != nil {
		t.Errorf("%+v", g)
	}
	eventually(t, "it stays", func() bool { return w.s.Left() == 0 })
}

func TestPongTimeout(t *testing.T) {
	w := newWorld(t)
	w.s.Hurry(0, 30*time.Millisecond, 150*time.Millisecond, 0, 0)
	p := w.peer(writer, wire.V1)
	ok := p.open(hello(wire.V1))
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	pings := 0
	for {
		m, err := p.c.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		f, _, err := wire.Next(m)
		if err != nil {
			t.Fatal(err)
		}
		if f.Type == wire.GoAway {
			var g wire.GoAwayBody
			if json.Unmarshal(f.Payload, &g) != nil || g.Code != wire.CodeIdle || g.Message != "pong timeout" || pings == 0 {
				t.Errorf("%s after %d PINGs", f.Payload, pings)
			}
			break
		}
		pings++
	}
	_ = p.gone()
	if got, err := w.tunnel(writer, ok.SessionID); err != nil || !got.Parked {
		t.Errorf("a silent client may have lost its network: %+v, %v", got, err)
	}
}

func TestRevoke(t *testing.T) {
	w := newWorld(t)
	p := w.peer(ofA, wire.V1)
	p.open(hello(wire.V1))
	q := w.peer(ofB, wire.V1)
	ok := q.open(hello(wire.V1))
	w.s.Revoke(func(c identity.Caller) bool { return c.Tenant == "a" })
	var g wire.GoAwayBody
	p.want(wire.GoAway, &g)
	if code := p.ended(); g.Code != wire.CodeAuth || code != 1008 {
		t.Errorf("%+v, %d", g, code)
	}
	if _, err := w.tunnel(ofB, ok.SessionID); err != nil {
		t.Error(err)
	}
}

func TestClose(t *testing.T) {
	w := newWorld(t)
	p := w.peer(writer, wire.V1)
	p.open(hello(wire.V1))
	silent := w.peer(writer, wire.V1)
	parked := w.peer(writer, wire.V1)
	parked.open(hello(wire.V1))
	_ = parked.c.Close(0, "")
	_ = parked.gone()
	done := make(chan struct{})
	go func() { w.s.Close(); close(done) }()
	p.want(wire.GoAway, nil)
	if code := p.ended(); code != 1001 {
		t.Errorf("closed with %d", code)
	}
	silent.ended()
	select {
	case <-done:
	case <-time.After(bound):
		t.Fatal("it does not end")
	}
	if err := w.peer(writer, wire.V1).gone(); !errors.Is(err, tunnels.ErrStopping) {
		t.Error(err)
	}
}

func TestWatch(t *testing.T) {
	w := newWorld(t)
	p := w.peer(writer, wire.V1)
	ok := p.open(hello(wire.V1))
	b := p.expose()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	seen := errors.New("seen")
	begun := make(chan struct{})
	var once sync.Once
	go func() {
		<-begun
		p.answer(strings.Repeat("x", 1000))
	}()
	go func() {
		<-begun
		visit(t, b.ContainerPort, "/")
	}()
	err := w.s.Watch(ctx, reader, tunnels.WatchIn{Every: time.Millisecond}, func(s tunnels.Snapshot) error {
		once.Do(func() { close(begun) })
		if len(s.Tunnels) == 1 && s.Tunnels[0].ID == ok.SessionID && s.Tunnels[0].RateIn > 0 && s.Tunnels[0].Bindings[0].RateIn > 0 {
			return seen
		}
		return nil
	})
	if !errors.Is(err, seen) {
		t.Error(err)
	}
	if err := w.s.Watch(ctx, node, tunnels.WatchIn{}, nil); !errors.Is(err, tunnels.ErrRead) {
		t.Error(err)
	}
	err = w.s.Watch(ctx, ofB, tunnels.WatchIn{}, func(s tunnels.Snapshot) error {
		if len(s.Tunnels) != 0 {
			t.Error("another tenant's tunnels are watched")
		}
		return seen
	})
	if !errors.Is(err, seen) {
		t.Error(err)
	}
}

// Many resume, take over and kill at once: afterwards nothing is left, and a session has one carrier at a time.
func TestRaces(t *testing.T) {
	w := newWorld(t)
	w.change(func(s *tunnels.Settings) { s.MaxPerTenant, s.MaxTunnels = 200, 200 })
	const clients, rounds = 4, 12
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			session := ""
			for i := range rounds {
				near, served := w.carrier(writer, wire.V1)
				h := hello(wire.V1)
				if session != "" {
					h.Resume = &wire.Resume{SessionID: session}
				}
				ctx, cancel := context.WithTimeout(context.Background(), bound)
				_ = near.Write(net.Buffers{wire.Append(wire.Append(nil, wire.Hello, 0, wire.Encode(h)), wire.Bind, 0, wire.Encode(wire.BindBody{Kind: "http", Mode: "expose"}))})
				m, err := near.Read(ctx)
				if err != nil {
					t.Errorf("round %d: %v", i, err)
					cancel()
					return
				}
				f, _, _ := wire.Next(m)
				var ok wire.HelloOKBody
				if f.Type == wire.HelloOK && json.Unmarshal(f.Payload, &ok) == nil {
					session = ok.SessionID
				} else {
					session = "" // it was killed
				}
				// The old one may still be there: resume beside it.
				if id := session; i%3 == 1 && id != "" {
					go func() { _, _ = w.s.Kill(context.Background(), admin, tunnels.KillIn{ID: id}) }()
				}
				if i%2 == 0 {
					_ = near.Close(0, "")
					<-served
				}
				cancel()
			}
			if session != "" {
				_, _ = w.s.Kill(context.Background(), admin, tunnels.KillIn{ID: session})
			}
		})
	}
	all.Wait()
	out, err := w.s.List(context.Background(), admin, tunnels.ListIn{})
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range out.Tunnels {
		_, _ = w.s.Kill(context.Background(), admin, tunnels.KillIn{ID: one.ID})
	}
	eventually(t, "something is left", func() bool { return w.s.Left() == 0 })
	eventually(t, "permits are left", func() bool { return w.s.Stats().Permits.Used == 0 })
	if st := w.s.Stats(); len(st.Bindings) != 0 || st.Sessions != 0 || st.Parked != 0 {
		t.Errorf("%+v", st)
	}
}

func TestEndsAreBounded(t *testing.T) {
	if n := tunnels.Forgets(2*tunnels.MaxEnds + 7); n > tunnels.MaxEnds {
		t.Errorf("%d ids are remembered", n)
	}
}
