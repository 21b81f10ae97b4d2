package compat

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/channels"
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/gate"
	"github.com/hanzoai/hanzod/heartbeat"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/secrets"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/store/storetest"
	"github.com/hanzoai/hanzod/system"
	"github.com/hanzoai/hanzod/wizard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secretText = "shared-secret"

type secret string

func (s secret) Equal(c string) bool { return string(s) == c }

// pipes is a listener whose connections are in memory, so that they work under a fake clock.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "tcp" }
func (pipeAddr) String() string  { return "127.0.0.1:4711" }

func (p *pipes) Addr() net.Addr { return pipeAddr{} }

// loop is a pipe end that looks like a loopback connection.
type loop struct{ net.Conn }

func (loop) RemoteAddr() net.Addr { return pipeAddr{} }
func (loop) LocalAddr() net.Addr  { return pipeAddr{} }

// world is a whole legacy door with real domains and a real store behind it.
type world struct {
	tb    testing.TB
	store *store.Store
	bus   *events.Bus
	nodes *nodes.Service
	door  *Door
	lis   *pipes
	addr  string // of a world with real sockets
	tls   bool
}

type worldOptions struct {
	mode     identity.AuthMode
	nameless bool // the names of nodes cannot be read
	budget   int64
	tcp      bool     // over real sockets
	tls      bool     // and TLS
	allow    []string // commands of nodes beside the usual ones
	now      func() time.Time
}

func newWorld(tb testing.TB, opts ...worldOptions) *world {
	tb.Helper()
	o := worldOptions{mode: identity.AuthToken}
	if len(opts) > 0 {
		o = opts[0]
	}
	w := &world{tb: tb, store: storetest.Open(tb), bus: events.NewBounded(time.Now, cmp.Or(o.budget, events.MaxHeld))}
	now := o.now
	if now == nil {
		now = time.Now
	}
	log := slog.New(slog.DiscardHandler)
	catalogue, err := ops.Load()
	if err != nil {
		tb.Fatal(err)
	}
	id, err := identity.New(w.store, identity.Auth{Mode: o.mode, Secret: secret(secretText)}, w.bus, time.Now)
	if err != nil {
		tb.Fatal(err)
	}
	app, err := approvals.New(approvals.Config{
		Store: w.store, Bus: w.bus, Now: time.Now, Log: log,
		File: policy.Open(filepath.Join(tb.TempDir(), "exec-approvals.json"), policy.Options{HomeDir: tb.TempDir()}),
	})
	if err != nil {
		tb.Fatal(err)
	}
	names := w.store
	if o.nameless {
		names = storetest.Open(tb)
		if err := names.Close(); err != nil {
			tb.Fatal(err)
		}
	}
	w.nodes = nodes.New(nodes.Config{
		Policy: nodes.NewPolicy(o.allow, nil), Guard: app, Paired: nobody{}, Store: names, Bus: w.bus, Now: time.Now,
	})
	app.SetNodes(w.nodes)
	presence := system.NewPresence(system.Presence{Host: "gw", Mode: "gateway", Reason: "self"}, time.Now)
	sys := system.New(system.Config{
		Version: "1", Bus: w.bus, Presence: presence, Now: time.Now, Queue: w.store, LogFile: filepath.Join(tb.TempDir(), "log"),
		Facts: system.Facts{
			Connections: func() int { return 0 }, NodesConnected: func() int { return 0 }, NodesKnown: func() int { return 0 },
			ApprovalsPending: func() int { return 0 }, Listen: func() []string { return nil },
			Agents: func() ([]system.Agent, string) { return nil, "main" },
		},
	})
	w.door = New(Config{
		Catalogue: catalogue, Gate: gate.New(), Identity: id, Nodes: w.nodes, Approvals: app, System: sys, Channels: channels.New(time.Now), Heartbeat: heartbeat.New(heartbeat.Config{Agents: func() []heartbeat.Agent { return nil }, Bus: w.bus, Now: time.Now}),
		Presence: presence, Bus: w.bus, Log: log, Version: "1", Defaults: func() SessionDefaults { return SessionDefaults{DefaultAgent: "main", MainKey: "main"} }, Now: now,
		Secrets: secrets.New(secrets.Config{Current: func() *config.Config { return nil }}), Wizard: wizard.New(wizard.Config{Now: time.Now}),
	})
	w.lis = &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	var lis net.Listener = w.lis
	if o.tcp {
		if lis, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			tb.Fatal(err)
		}
		w.addr = lis.Addr().String()
	}
	if o.tls {
		cert := httptest.NewTLSServer(nil)
		lis = tls.NewListener(lis, &tls.Config{Certificates: cert.TLS.Certificates})
		cert.Close()
		w.tls = true
	}
	srv := &http.Server{Handler: w.door, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(lis) })
	wg.Go(func() { app.Run(ctx) })
	wg.Go(func() { sys.Run(ctx) })
	wg.Go(func() { w.door.Run(ctx) })
	tb.Cleanup(func() {
		stop, done := context.WithTimeout(context.Background(), 3*time.Second)
		defer done()
		w.door.Close(stop)
		_ = srv.Close()
		cancel()
		wg.Wait()
	})
	return w
}

type nobody struct{}

func (nobody) PairedNodes() []nodes.Node { return nil }

// link is a client's end of a connection, with the faults of networks.
type link struct {
	net.Conn
	dead  atomic.Bool  // what arrives is swallowed
	stuck atomic.Bool  // nothing is read any more
	every atomic.Int64 // a little is read each time that has passed; nanoseconds
	// paused is held while nothing is read.
	paused sync.Mutex
	done   chan struct{} // closed at the end
	once   sync.Once
}

// littleBytes is what a slow link reads at a time.
const littleBytes = 1 << 10

func (l *link) Read(b []byte) (int, error) {
	for {
		if l.stuck.Load() {
			<-l.done
			return 0, net.ErrClosed
		}
		l.paused.Lock()
		l.paused.Unlock() //nolint:staticcheck // only waited for
		if d := l.every.Load(); d > 0 {
			time.Sleep(time.Duration(d))
			b = b[:min(len(b), littleBytes)]
		}
		n, err := l.Conn.Read(b)
		if err != nil || !l.dead.Load() {
			return n, err
		}
	}
}

func (l *link) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Conn.Close()
}

// client is one raw connection. It reads all the time, as clients do.
type client struct {
	tb     testing.TB
	ws     *websocket.Conn
	nc     *link
	nonce  string
	next   int
	frames chan wire.Frame // closed at the end
	err    error           // why it ended; read after frames is closed
}

// open dials and reads the challenge.
func (w *world) open(header ...string) *client {
	w.tb.Helper()
	h := http.Header{}
	for i := 0; i+1 < len(header); i += 2 {
		h.Add(header[i], header[i+1])
	}
	c := &client{tb: w.tb, frames: make(chan wire.Frame, 1<<14)}
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		if w.addr != "" {
			nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", w.addr)
			if err == nil && w.tls {
				nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true})
			}
			c.nc = &link{Conn: nc, done: make(chan struct{})}
			return c.nc, err
		}
		mine, theirs := net.Pipe()
		c.nc = &link{Conn: mine, done: make(chan struct{})}
		select {
		case w.lis.conns <- loop{theirs}:
			return c.nc, nil
		case <-w.lis.done:
			return nil, net.ErrClosed
		}
	}}
	ws, _, err := websocket.Dial(context.Background(), "ws://127.0.0.1:4711/", &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: tr}, HTTPHeader: h, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		w.tb.Fatal(err)
	}
	ws.SetReadLimit(-1)
	c.ws = ws
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.receive()
	}()
	w.tb.Cleanup(func() {
		_ = ws.CloseNow()
		<-ended
	})
	f := c.read()
	if f.Event != "connect.challenge" {
		w.tb.Fatalf("the first frame is %+v", f)
	}
	v, _ := f.Payload.Get("nonce")
	c.nonce = v.Str()
	return c
}

// read returns the next frame.
func (c *client) read() wire.Frame {
	c.tb.Helper()
	f, err := c.tryRead()
	if err != nil {
		c.tb.Fatal(err)
	}
	return f
}

// receive queues what arrives.
func (c *client) receive() {
	defer close(c.frames)
	for {
		_, data, err := c.ws.Read(context.Background())
		if err != nil {
			c.err = err
			return
		}
		f, err := wire.ParseFrame(data)
		if err != nil { // the answer to a frame whose id is no text
			f = wire.Frame{Type: "odd", Payload: wire.MustParse(string(data))}
		}
		c.frames <- f
	}
}

func (c *client) tryRead() (wire.Frame, error) {
	timer := time.NewTimer(2 * time.Minute)
	defer timer.Stop()
	select {
	case f, ok := <-c.frames:
		if !ok {
			return f, c.err
		}
		return f, nil
	case <-timer.C:
		return wire.Frame{}, context.DeadlineExceeded
	}
}

func (c *client) write(text string) {
	c.tb.Helper()
	if err := c.ws.Write(context.Background(), websocket.MessageText, []byte(text)); err != nil {
		c.tb.Fatal(err)
	}
}

// res reads to the answer with the id and returns the events that came before it.
func (c *client) res(id string) (wire.Frame, []wire.Frame) {
	c.tb.Helper()
	var before []wire.Frame
	for {
		f := c.read()
		if f.Type == "res" && f.ID == id {
			return f, before
		}
		before = append(before, f)
	}
}

// call asks and waits.
func (c *client) call(method, params string) wire.Frame {
	c.tb.Helper()
	id := c.ask(method, params)
	f, _ := c.res(id)
	return f
}

func (c *client) ask(method, params string) string {
	c.tb.Helper()
	c.next++
	id := fmt.Sprintf("q%d", c.next)
	c.write(fmt.Sprintf(`{"type":"req","id":%q,"method":%q,"params":%s}`, id, method, params))
	return id
}

// event reads to the next event of a name.
func (c *client) event(name string) wire.Frame {
	c.tb.Helper()
	for {
		if f := c.read(); f.Event == name {
			return f
		}
	}
}

// end reads to the end and returns the code and the reason of the close, and the last frame.
func (c *client) end() (websocket.StatusCode, string, wire.Frame) {
	c.tb.Helper()
	var last wire.Frame
	for {
		f, err := c.tryRead()
		if err == nil {
			last = f
			continue
		}
		if ce, ok := errors.AsType[websocket.CloseError](err); ok {
			return ce.Code, ce.Reason, last
		}
		return -1, err.Error(), last
	}
}

type hello struct {
	id, mode, role, instance, token, version, platform, name string
	scopes, commands                                         []string
	device                                                   ed25519.PrivateKey
	deviceToken                                              string
}

// device is a key made from a name.
func device(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func (h hello) params(nonce string) string {
	or := func(s, d string) string {
		if s == "" {
			return d
		}
		return s
	}
	role := or(h.role, "operator")
	c := map[string]any{"id": or(h.id, "test"), "version": or(h.version, "1"), "platform": or(h.platform, "linux"), "mode": or(h.mode, "test")}
	if h.instance != "" {
		c["instanceId"] = h.instance
	}
	if h.name != "" {
		c["displayName"] = h.name
	}
	p := map[string]any{
		"minProtocol": 3, "maxProtocol": 3, "client": c, "role": role, "scopes": h.scopes, "commands": h.commands,
	}
	if h.scopes == nil {
		p["scopes"] = []string{}
	}
	if h.commands == nil {
		delete(p, "commands")
	}
	auth := map[string]any{}
	signed := ""
	switch h.token {
	case "":
		auth["token"], signed = secretText, secretText
	case "-":
	default:
		auth["token"], signed = h.token, h.token
	}
	if h.deviceToken != "" {
		auth["deviceToken"] = h.deviceToken
		if signed == "" {
			signed = h.deviceToken
		}
	}
	p["auth"] = auth
	if h.device != nil {
		pub := h.device.Public().(ed25519.PublicKey)
		f := identity.Signed{
			DeviceID: identity.DeviceID(pub), ClientID: c["id"].(string), ClientMode: c["mode"].(string), Role: identity.Role(role),
			SignedAt: time.Now().UnixMilli(), Token: signed, Nonce: nonce, Platform: c["platform"].(string),
		}
		for _, s := range h.scopes {
			f.Scopes = append(f.Scopes, identity.Scope(s))
		}
		p["device"] = map[string]any{
			"id": f.DeviceID, "publicKey": identity.EncodeKey(pub), "signedAt": f.SignedAt, "nonce": nonce,
			"signature": base64.RawURLEncoding.EncodeToString(ed25519.Sign(h.device, []byte(f.Payload("v3")))),
		}
	}
	text, err := json.Marshal(p)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// connect lets a client in.
func (w *world) connect(h hello, header ...string) (*client, wire.Frame) {
	w.tb.Helper()
	c := w.open(header...)
	c.write(`{"type":"req","id":"hello","method":"connect","params":` + h.params(c.nonce) + `}`)
	f := c.read()
	if f.Type != "res" || f.ID != "hello" {
		w.tb.Fatalf("the frame after connect is %+v", f)
	}
	if !f.OK {
		w.tb.Fatalf("not let in: %+v", f.Error)
	}
	return c, f
}

func (w *world) operator(scopes ...string) *client {
	w.tb.Helper()
	c, _ := w.connect(hello{scopes: scopes})
	return c
}

func (w *world) node(instance string, commands ...string) *client {
	w.tb.Helper()
	c, _ := w.connect(hello{role: "node", id: "node-host", mode: "node", instance: instance, commands: commands})
	return c
}

// conns returns the live connections.
func (w *world) conns() []*conn {
	w.door.mu.Lock()
	defer w.door.mu.Unlock()
	var out []*conn
	for c := range w.door.conns {
		out = append(out, c)
	}
	return out
}

func text(v wire.Value, path string) string {
	for k := range strings.SplitSeq(path, ".") {
		v, _ = v.Get(k)
	}
	if v.Kind() == wire.String {
		return v.Str()
	}
	return v.Raw()
}

// clientOver is an HTTP client whose only connection is given.
func clientOver(nc net.Conn) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nc, nil }}}
}

// acceptKey answers a Sec-WebSocket-Key (RFC 6455 §4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

var _ io.Closer = (*pipes)(nil)
