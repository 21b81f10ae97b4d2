package tunnels_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/bindings"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/tunnels"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// bound is the most that a test waits for anything.
const bound = 20 * time.Second

var (
	admin  = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}, Principal: "admin"}
	writer = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeWrite}, Principal: "writer"}
	reader = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeRead}, Principal: "reader"}
	node   = identity.Caller{Role: identity.RoleNode, NodeID: "box", Principal: "device:box"}
	ofA    = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}, Principal: "iam:a", Tenant: "a"}
	ofB    = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}, Principal: "iam:b", Tenant: "b"}
)

// machines are the nodes of a test: what they do when they are invoked.
type machines struct {
	mu     sync.Mutex
	invoke map[string]func(command string, params []byte) error
	calls  []string
}

func (m *machines) Linked(_ context.Context, c identity.Caller, id string) (string, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.invoke[id]; !ok || !c.SeesNode(id) {
		return "", false, errs.New(errs.NotFound, "unknown node")
	}
	return id, true, nil
}

func (m *machines) Offers(id, _ string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.invoke[id] != nil
}

func (m *machines) Invoke(ctx context.Context, c identity.Caller, id, command string, params []byte) ([]byte, error) {
	m.mu.Lock()
	m.calls = append(m.calls, c.Subject()+" "+command+" "+string(params))
	m.mu.Unlock()
	return m.run(id, command, params)
}

func (m *machines) InvokeInternal(_ context.Context, id, command string, params []byte) ([]byte, error) {
	m.mu.Lock()
	m.calls = append(m.calls, "hanzod "+command+" "+string(params))
	m.mu.Unlock()
	return m.run(id, command, params)
}

// count is how many calls begin and go on like this.
func (m *machines) count(begin, has string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, c := range m.calls {
		if strings.HasPrefix(c, begin) && strings.Contains(c, has) {
			n++
		}
	}
	return n
}

func (m *machines) run(id, command string, params []byte) ([]byte, error) {
	m.mu.Lock()
	do := m.invoke[id]
	m.mu.Unlock()
	if do == nil {
		return nil, errs.New(errs.Unavailable, "not linked")
	}
	return []byte(`{"ok":true}`), do(command, params)
}

// world is a service with all that it needs.
type world struct {
	t        *testing.T
	s        *tunnels.Service
	binds    *bindings.Service
	nodes    *machines
	mu       sync.Mutex
	set      tunnels.Settings
	audit    []tunnels.AuditRow
	standing error
	link     map[string]string
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, nodes: &machines{invoke: map[string]func(string, []byte) error{}}, link: map[string]string{},
		set: tunnels.Settings{MaxTunnels: 256, MaxPerTenant: 32, MaxStreams: 256, Connections: 4, Grace: time.Minute, Idle: time.Minute},
	}
	w.binds = bindings.New(bindings.Config{
		Pattern: func() string { return "" }, Base: func() string { return "http://box:1" }, Host: func() string { return "127.0.0.1" },
		Listen: func() (net.Listener, error) {
			return (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		},
		Reserved: func(string) bool { return false }, Changed: func(string, []bindings.Binding) {}, Now: time.Now,
		Upstreams: func(id string) bindings.Upstream { return w.s.Upstream(id) }, Log: slog.New(slog.DiscardHandler),
	})
	w.s = tunnels.New(tunnels.Config{
		Settings: func() tunnels.Settings {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.set
		},
		Standing: func(identity.Caller) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.standing
		},
		Bindings: w.binds, Nodes: w.nodes,
		Credential: func(id string) string {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.link[id]
		},
		Reach: func(ctx context.Context, host string, port int) (tunnels.Conn, string, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
			if err != nil {
				return nil, "", err
			}
			return c.(*net.TCPConn), c.RemoteAddr().String(), nil
		},
		Audit: func(_ context.Context, _ identity.Caller, row tunnels.AuditRow) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.audit = append(w.audit, row)
			return nil
		},
		Now: time.Now, Log: slog.New(slog.DiscardHandler),
	})
	t.Cleanup(func() {
		done := make(chan struct{})
		go func() {
			w.s.Close()
			w.binds.Close()
			close(done)
		}()
		select {
		case <-done:
		case <-time.After(bound):
			t.Error("the service does not end")
		}
	})
	return w
}

func (w *world) change(do func(*tunnels.Settings)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	do(&w.set)
}

func (w *world) recorded(action string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, row := range w.audit {
		if row.Action == action {
			n++
		}
	}
	return n
}

// peer is the other end of a carrier, by hand.
type peer struct {
	t      *testing.T
	c      mux.Carrier
	got    []wire.Frame
	served chan error
}

func (w *world) carrier(c identity.Caller, version string) (mux.Carrier, chan error) {
	near, far := mux.Pipe()
	served := make(chan error, 1)
	go func() {
		served <- w.s.Serve(context.Background(), c, tunnels.CarrierIn{
			Version: version, PeerAddr: "192.0.2.1:1", Transport: "pipe", Carrier: far,
			Authenticate: func(_ context.Context, token string) (identity.Caller, error) {
				if token != "secret" {
					return identity.Caller{}, identity.ErrBearerNotAccepted
				}
				return writer, nil
			},
		})
	}()
	w.t.Cleanup(func() { _ = near.Close(0, "") })
	return near, served
}

func (w *world) peer(c identity.Caller, version string) *peer {
	near, served := w.carrier(c, version)
	return &peer{t: w.t, c: near, served: served}
}

func (p *peer) send(typ wire.Type, stream uint32, body any) {
	p.t.Helper()
	payload, raw := body.([]byte)
	if !raw {
		var err error
		if payload, err = json.Marshal(body); err != nil {
			p.t.Fatal(err)
		}
	}
	p.raw(wire.Append(nil, typ, stream, payload))
}

func (p *peer) raw(message []byte) {
	p.t.Helper()
	if err := p.c.Write(net.Buffers{message}); err != nil {
		p.t.Fatalf("the carrier takes nothing: %v", err)
	}
}

// frame returns the next frame that is no PING and no WINDOW, or how the carrier ended.
func (p *peer) frame() (wire.Frame, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	for {
		for len(p.got) == 0 {
			m, err := p.c.Read(ctx)
			if err != nil {
				return wire.Frame{}, err
			}
			m = bytes.Clone(m)
			for len(m) > 0 {
				var f wire.Frame
				if f, m, err = wire.Next(m); err != nil {
					return wire.Frame{}, err
				}
				p.got = append(p.got, f)
			}
		}
		f := p.got[0]
		p.got = p.got[1:]
		switch f.Type {
		case wire.Ping:
			_ = p.c.Write(net.Buffers{wire.Append(nil, wire.Pong, 0, f.Payload)})
		case wire.Window:
		default:
			return f, nil
		}
	}
}

// want returns the next frame, which is of a type, read into body.
func (p *peer) want(typ wire.Type, body any) wire.Frame {
	p.t.Helper()
	f, err := p.frame()
	if err != nil || f.Type != typ {
		p.t.Fatalf("not 0x%02x but 0x%02x %s, %v", uint8(typ), uint8(f.Type), f.Payload, err)
	}
	if body != nil {
		if err := json.Unmarshal(f.Payload, body); err != nil {
			p.t.Fatalf("%s: %v", f.Payload, err)
		}
	}
	return f
}

// ended returns the close code of the carrier, after frames that nobody wants.
func (p *peer) ended() int {
	p.t.Helper()
	for {
		_, err := p.frame()
		var closed *mux.CloseError
		switch {
		case err == nil:
			continue
		case errors.As(err, &closed):
			return closed.Code
		case errors.Is(err, context.DeadlineExceeded):
			p.t.Fatal("the carrier does not end")
		}
		return 0
	}
}

func hello(version string) wire.HelloBody {
	return wire.HelloBody{Version: version, Capabilities: []string{}}
}

// open says HELLO.
func (p *peer) open(h wire.HelloBody) wire.HelloOKBody {
	p.t.Helper()
	p.send(wire.Hello, 0, h)
	var ok wire.HelloOKBody
	p.want(wire.HelloOK, &ok)
	return ok
}

func (p *peer) bind(b wire.BindBody) wire.BindOKBody {
	p.t.Helper()
	p.send(wire.Bind, 0, b)
	var ok wire.BindOKBody
	p.want(wire.BindOK, &ok)
	return ok
}

// expose binds http on a free port.
func (p *peer) expose() wire.BindOKBody {
	p.t.Helper()
	return p.bind(wire.BindBody{ClientBindRef: 1, Kind: "http", Mode: "expose"})
}

// answer serves one http stream.
func (p *peer) answer(text string) {
	p.t.Helper()
	var o wire.StreamOpenBody
	f := p.want(wire.StreamOpen, &o)
	p.want(wire.EOF, nil)
	p.send(wire.ResponseHead, f.Stream, wire.ResponseHeadBody{Status: 200, Headers: [][2]string{{"Content-Type", "text/plain"}}, Final: true})
	p.raw(wire.Append(wire.Append(nil, wire.Data, f.Stream, []byte(text)), wire.EOF, f.Stream, nil))
}

// served waits for Serve.
func (p *peer) gone() error {
	p.t.Helper()
	select {
	case err := <-p.served:
		return err
	case <-time.After(bound):
		p.t.Fatal("the carrier is still served")
		return nil
	}
}

func visit(t *testing.T, port int, path string) (int, http.Header, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+strconv.Itoa(port)+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Errorf("a visitor: %v", err)
		return 0, nil, ""
	}
	defer func() { _ = a.Body.Close() }()
	body, _ := io.ReadAll(a.Body)
	return a.StatusCode, a.Header, string(body)
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(bound); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if so() {
			return
		}
	}
	t.Fatal(what)
}

func (w *world) tunnel(c identity.Caller, id string) (tunnels.Tunnel, error) {
	return w.s.Get(context.Background(), c, tunnels.GetIn{ID: id})
}

// echo is a tcp server that sends back what it gets; it returns its port.
func echo(t *testing.T) int {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.(*net.TCPConn).CloseWrite()
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}
