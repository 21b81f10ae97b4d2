package tunnels_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/bindings"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/tunnels"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

func own() wire.HelloBody {
	return wire.HelloBody{Version: wire.V2, Capabilities: []string{"hanzod.1"}}
}

func TestDialHere(t *testing.T) {
	w := newWorld(t)
	port := echo(t)
	for _, c := range []identity.Caller{writer, node} {
		p := w.peer(c, wire.V2)
		p.open(own())
		p.send(wire.Bind, 0, wire.BindBody{ClientBindRef: 1, Kind: "tcp", Mode: "dial", Host: "127.0.0.1", ContainerPort: port})
		var e wire.BindErrBody
		if p.want(wire.BindErr, &e); e.Code != wire.InvalidHost {
			t.Errorf("%s: %+v", c.Principal, e)
		}
	}
	p := w.peer(admin, wire.V2)
	p.open(own())
	p.send(wire.StreamOpen, 1, wire.StreamOpenBody{Kind: "dial", Host: "127.0.0.1", Port: port})
	if code, _ := wire.ParseReset(p.want(wire.Reset, nil).Payload); code != wire.CodeRefused {
		t.Errorf("a stream without a binding: RESET %d", code)
	}
	b := p.bind(wire.BindBody{ClientBindRef: 4, Kind: "tcp", Mode: "dial", Host: "127.0.0.1", ContainerPort: port})
	if b.ClientBindRef != 4 || b.ContainerPort != port || b.PublicURL != nil {
		t.Errorf("%+v", b)
	}
	p.send(wire.StreamOpen, 3, wire.StreamOpenBody{Kind: "dial", BindID: b.BindID, Host: "127.0.0.1", Port: port + 1})
	if code, reason := wire.ParseReset(p.want(wire.Reset, nil).Payload); code != wire.CodeRefused || !strings.Contains(reason, "another host") {
		t.Errorf("RESET %d %s", code, reason)
	}
	p.send(wire.StreamOpen, 5, wire.StreamOpenBody{Kind: "dial", BindID: b.BindID})
	var a wire.StreamAcceptBody
	if p.want(wire.StreamAccept, &a); a.PeerAddr != net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) {
		t.Errorf("%+v", a)
	}
	p.raw(wire.Append(wire.Append(nil, wire.Data, 5, []byte("hello")), wire.EOF, 5, nil))
	if f := p.want(wire.Data, nil); string(f.Payload) != "hello" {
		t.Errorf("%q", f.Payload)
	}
	p.want(wire.EOF, nil) // half-close: the answer comes after the end
	eventually(t, "the stream stays", func() bool { st := w.s.Stats(); return st.Streams["dial"] == 0 && st.Permits.Used == 0 })

	// Where nobody listens.
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	deaf := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	any := p.bind(wire.BindBody{ClientBindRef: 5, Kind: "tcp", Mode: "dial"})
	p.send(wire.StreamOpen, 7, wire.StreamOpenBody{Kind: "dial", BindID: any.BindID, Host: "127.0.0.1", Port: deaf})
	if code, reason := wire.ParseReset(p.want(wire.Reset, nil).Payload); code != wire.CodeRefused || reason != "connection refused" {
		t.Errorf("RESET %d %s", code, reason)
	}
	p.send(wire.StreamOpen, 9, wire.StreamOpenBody{Kind: "dial", BindID: any.BindID, Host: "127.0.0.1", Port: 70_000})
	p.want(wire.Reset, nil)
	if w.recorded("dial") != 2 || w.recorded("binding-refused") != 2 {
		t.Errorf("%+v", w.audit)
	}
	st := w.s.Stats()
	if st.Bindings[tunnels.BindKind{Kind: "tcp", Mode: "dial"}] != 2 || st.StreamsTotal[tunnels.StreamResult{Kind: "dial", Result: "ok"}] != 1 {
		t.Errorf("%+v", st)
	}
}

// machine is a node of ours: its link, and the carrier that it opens when it is asked to.
type machine struct {
	w      *world
	id     string
	sess   *mux.Session
	opened int
	refuse bool
}

// run is what tunnel.open does at the node.
func (m *machine) run(command string, params []byte) error {
	if command != tunnels.CommandOpen {
		return nil
	}
	m.opened++
	if m.refuse {
		return errs.New(errs.Denied, "the node does not reach that")
	}
	var p struct {
		ID      int    `json:"id"`
		Host    string `json:"host"`
		Port    int    `json:"port"`
		Carrier string `json:"carrier"`
	}
	if err := json.Unmarshal(params, &p); err != nil || p.ID == 0 {
		return fmt.Errorf("%s: %w", params, err)
	}
	if m.sess != nil && m.sess.Err() == nil {
		return nil
	}
	near, _ := m.w.carrier(identity.Caller{Role: identity.RoleNode, Principal: "key"}, wire.V2)
	h := own()
	h.Auth = &wire.HelloAuth{Kind: tunnels.ProofKind, Token: p.Carrier}
	_ = near.Write(net.Buffers{wire.Append(nil, wire.Hello, 0, wire.Encode(h))})
	first, err := near.Read(context.Background())
	if err != nil {
		return err
	}
	f, rest, err := wire.Next(first)
	if err != nil || f.Type != wire.HelloOK {
		return fmt.Errorf("0x%02x, %w", uint8(f.Type), err)
	}
	m.sess = mux.New(mux.Config{
		Client: true, Hanzod1: true, StreamWindow: mux.OwnStreamWindow, SessionWindow: mux.OwnSessionWindow, Control: func(int, wire.Frame) error { return nil },
		Open: func(st *mux.Stream, body wire.StreamOpenBody) error {
			if body.Kind != "dial" || body.BindID != p.ID {
				return errors.New("not admitted")
			}
			go func() {
				c, err := net.Dial("tcp", net.JoinHostPort(body.Host, strconv.Itoa(body.Port)))
				if err != nil {
					_ = st.Reset(wire.CodeRefused, "local connect failed")
					return
				}
				_ = st.Accept(c.RemoteAddr().String())
				go func() { _, _ = io.Copy(c, st); _ = c.(*net.TCPConn).CloseWrite() }()
				_, _ = io.Copy(st, c)
				_ = st.CloseWrite()
			}()
			return nil
		},
	})
	return m.sess.Add(0, near, rest)
}

func (w *world) machine(id string) *machine {
	m := &machine{w: w, id: id}
	w.nodes.mu.Lock()
	w.nodes.invoke[id] = m.run
	w.nodes.mu.Unlock()
	return m
}

// exchange sends a line and reads it back.
func exchange(t *testing.T, c io.ReadWriter) {
	t.Helper()
	if _, err := io.WriteString(c, "over there\n"); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || line != "over there\n" {
		t.Fatalf("%q, %v", line, err)
	}
}

func TestGrant(t *testing.T) {
	w := newWorld(t)
	w.s.Hurry(0, 0, 0, 0, 5*time.Second)
	port := echo(t)
	m := w.machine("box")
	ctx := context.Background()
	in := tunnels.GrantIn{NodeID: "box", Host: "127.0.0.1", Port: port}
	for _, c := range []identity.Caller{reader, node, {}} {
		if _, err := w.s.Grant(ctx, c, in); !errors.Is(err, tunnels.ErrScope) {
			t.Errorf("%s: %v", c.Principal, err)
		}
	}
	if _, err := w.s.Grant(ctx, writer, tunnels.GrantIn{NodeID: "box", Host: "a b", Port: port}); !errors.Is(err, tunnels.ErrTarget) {
		t.Error(err)
	}
	if _, err := w.s.Grant(ctx, ofB, tunnels.GrantIn{NodeID: "a/box", Host: "127.0.0.1", Port: port}); errs.ClassOf(err) != errs.NotFound {
		t.Error(err)
	}
	m.refuse = true
	if _, err := w.s.Grant(ctx, writer, in); errs.ClassOf(err) != errs.Denied {
		t.Error(err)
	}
	m.refuse = false
	if w.s.Left() != 0 {
		t.Error("a refused way is kept")
	}
	g, err := w.s.Grant(ctx, writer, in)
	if err != nil {
		t.Fatal(err)
	}
	st, err := g.Open(ctx, bindings.OpenIn{RemoteAddr: "192.0.2.7:1"})
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, st)
	_ = st.Close()
	out, err := w.s.List(ctx, admin, tunnels.ListIn{NodeID: "box"})
	if err != nil || len(out.Tunnels) != 1 || out.Tunnels[0].NodeID != "box" {
		t.Errorf("%+v, %v", out, err)
	}

	// Its carrier is gone: the node opens another one when it is asked for the next stream.
	opened := m.opened
	_ = m.sess.Close(1000, "")
	eventually(t, "the carrier stays", func() bool { out, _ := w.s.List(ctx, admin, tunnels.ListIn{}); return len(out.Tunnels) == 0 })
	if st, err = g.Open(ctx, bindings.OpenIn{}); err != nil {
		t.Fatal(err)
	}
	exchange(t, st)
	_ = st.Close()
	if m.opened != opened+1 {
		t.Errorf("it was asked %d times", m.opened-opened)
	}
	w.s.NodeCame("box")
	eventually(t, "a node that comes back is not asked again", func() bool {
		return w.nodes.count("hanzod tunnel.open", `"approved":true`) == 2
	})
	_ = g.Close()
	if _, err := g.Open(ctx, bindings.OpenIn{}); err == nil {
		t.Error("a way that was given up leads somewhere")
	}
	eventually(t, "the node is not told", func() bool {
		return w.nodes.count("hanzod tunnel.close", "") > 0
	})
	// A guessed proof is none.
	p := w.peer(identity.Caller{}, wire.V2)
	h := own()
	h.Auth = &wire.HelloAuth{Kind: tunnels.ProofKind, Token: strings.Repeat("0", 48)}
	p.send(wire.Hello, 0, h)
	p.want(wire.GoAway, nil)
}

func TestDialThere(t *testing.T) {
	w := newWorld(t)
	port := echo(t)
	w.machine("box")
	w.machine("a/box")
	p := w.peer(writer, wire.V2)
	p.open(own())
	b := p.bind(wire.BindBody{ClientBindRef: 1, Kind: "tcp", Mode: "dial", Node: "box", ContainerPort: port})
	p.send(wire.StreamOpen, 1, wire.StreamOpenBody{Kind: "dial", BindID: b.BindID})
	var a wire.StreamAcceptBody
	if p.want(wire.StreamAccept, &a); a.PeerAddr == "" {
		t.Errorf("%+v", a)
	}
	p.raw(wire.Append(wire.Append(nil, wire.Data, 1, []byte("hi")), wire.EOF, 1, nil))
	if f := p.want(wire.Data, nil); string(f.Payload) != "hi" {
		t.Errorf("%q", f.Payload)
	}
	p.want(wire.EOF, nil)
	for _, c := range []identity.Caller{ofB, node} {
		q := w.peer(c, wire.V2)
		q.open(own())
		q.send(wire.Bind, 0, wire.BindBody{ClientBindRef: 1, Kind: "tcp", Mode: "dial", Node: "a/box", ContainerPort: port})
		q.want(wire.BindErr, nil)
	}
	// With the tunnel its ways go.
	_ = p.c.Close(1000, "")
	_ = p.gone()
	eventually(t, "the way stays", func() bool {
		return w.nodes.count("hanzod tunnel.close", "") > 0
	})
}

// What a node asked to expose is served by a driver's tunnel with its credential.
func TestUpstreamOfCredential(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	w.mu.Lock()
	w.link["bridge"], w.link["other"], w.link["a/bridge"] = writer.Principal, "somebody else", writer.Principal
	w.mu.Unlock()
	up := w.s.Upstream("bridge")
	if _, err := up.Open(ctx, bindings.OpenIn{Kind: "http", Name: "web", Port: 3000}); !errors.Is(err, bindings.ErrNoCarrier) {
		t.Error(err)
	}
	p := w.peer(writer, wire.V1)
	p.open(hello(wire.V1))
	p.bind(wire.BindBody{ClientBindRef: 1, Kind: "http", Mode: "expose", Label: "web"})
	second := p.bind(wire.BindBody{ClientBindRef: 2, Kind: "http", Mode: "expose", Label: "admin"})
	if up.Raw() {
		t.Error("a published driver takes bytes for http")
	}
	for _, c := range []struct {
		node string
		in   bindings.OpenIn
		ok   bool
		bind int
	}{
		{"bridge", bindings.OpenIn{Kind: "http", Name: "web"}, true, 1},
		{"bridge", bindings.OpenIn{Kind: "http", Name: "admin"}, true, 2},
		{"bridge", bindings.OpenIn{Kind: "http", Name: "none", Port: second.ContainerPort}, true, 2},
		{"bridge", bindings.OpenIn{Kind: "http", Name: "none"}, false, 0}, // nobody can say which
		{"other", bindings.OpenIn{Kind: "http", Name: "web"}, false, 0},
		{"a/bridge", bindings.OpenIn{Kind: "http", Name: "web"}, false, 0}, // another tenant
	} {
		st, err := w.s.Upstream(c.node).Open(ctx, c.in)
		if c.ok != (err == nil) {
			t.Errorf("%+v: %v", c, err)
		}
		if err != nil {
			continue
		}
		var o struct {
			BindID int `json:"bindId"`
		}
		if p.want(wire.StreamOpen, &o); o.BindID != c.bind {
			t.Errorf("%+v went to %d", c, o.BindID)
		}
		_ = st.Reset(wire.CodeCancel, "")
		p.want(wire.Reset, nil)
	}
	_ = p.c.Close(0, "")
	_ = p.gone()
	if _, err := up.Open(ctx, bindings.OpenIn{Kind: "http", Name: "web"}); !errors.Is(err, bindings.ErrParked) {
		t.Error(err)
	}
}
