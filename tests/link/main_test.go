//go:build unix

// The suite runs over the legacy WebSocket, gRPC at the local socket, and gRPC over TLS. Daemons, node
// hosts and connections are real; a proxy between them can be cut and can fall silent.

package link

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/client"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/runtime"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is for what takes milliseconds on an idle machine.
const patience = 20 * time.Second

// The links.
const (
	webSocket = "websocket"
	local     = "local"
	overTLS   = "grpc"
)

// overEach runs a test over every link.
func overEach(t *testing.T, f func(t *testing.T, w *world)) {
	for _, via := range []string{webSocket, local, overTLS} {
		t.Run(via, func(t *testing.T) {
			t.Parallel()
			f(t, newWorld(t, via, options{}))
		})
	}
}

// options change a world.
type options struct {
	// policy is the node's exec approvals file; free runs everything.
	policy string
	// daemonNow and nodeNow are clocks.
	daemonNow, nodeNow func() time.Time
	// config is merged over the daemon's.
	config map[string]any
}

const (
	free   = `{"version":1,"defaults":{"security":"full","ask":"off"}}`
	asking = `{"version":1,"defaults":{"security":"allowlist","ask":"on-miss"}}`
)

// world is a daemon, a proxy before it, and a node host that comes through the proxy.
type world struct {
	t     *testing.T
	via   string
	o     options
	d     *hanzodtest.Daemon
	op    *client.Client
	proxy *proxy
	node  *nodeHost
}

func newWorld(t *testing.T, via string, o options) *world {
	t.Helper()
	if o.policy == "" {
		o.policy = free
	}
	w := &world{t: t, via: via, o: o}
	w.start("")
	w.proxy = newProxy(t, via == local)
	w.proxy.to(w.target())
	w.node = w.join("box", t.TempDir())
	return w
}

// start runs a daemon, on the state of the one before it.
func (w *world) start(stateDir string) {
	w.t.Helper()
	w.d = hanzodtest.Start(w.t, hanzodtest.Options{StateDir: stateDir, GRPC: true, Now: w.o.daemonNow, Config: w.o.config})
	op, err := client.Dial(context.Background(), client.Options{Socket: w.d.Socket()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = op.Close() })
	w.op = op
}

// target is where the proxy leads: network and address.
func (w *world) target() (string, string) {
	switch w.via {
	case webSocket:
		return "tcp", w.d.Addr()
	case overTLS:
		return "tcp", w.d.GRPCAddress()
	}
	return "unix", w.d.Socket()
}

// nodeHost is a node host of this process.
type nodeHost struct {
	t      *testing.T
	dir    string
	cancel context.CancelFunc
	done   chan struct{}
	log    *syncBuffer
	err    error // once done

	mu    sync.Mutex
	state host.State
	times int // it was connected
}

// join runs a node host through the proxy and returns when it is connected.
func (w *world) join(name, dir string) *nodeHost {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "exec-approvals.json"), []byte(w.o.policy), 0o600); err != nil {
		w.t.Fatal(err)
	}
	o := runtime.NodeOptions{StateDir: dir, DisplayName: name, Token: w.d.Token, Now: w.o.nodeNow}
	switch w.via {
	case webSocket:
		o.Host, o.Link = "127.0.0.1", "websocket"
		o.Port = w.proxy.port()
	case overTLS:
		o.Host, o.Fingerprint = "hanzod://"+w.proxy.address(), w.d.TLSFingerprint()
	case local:
		_, port, err := net.SplitHostPort(w.d.Addr())
		if err != nil {
			w.t.Fatal(err)
		}
		o.Host, o.Socket, o.Link = "127.0.0.1", w.proxy.address(), "grpc"
		if o.Port, err = strconv.Atoi(port); err != nil {
			w.t.Fatal(err)
		}
	}
	n := runNode(w.t, o)
	n.until("it is connected", func() bool { return n.connects() == 1 })
	return n
}

// runNode runs a node host until the test ends.
func runNode(t *testing.T, o runtime.NodeOptions) *nodeHost {
	n := &nodeHost{t: t, dir: o.StateDir, done: make(chan struct{}), log: &syncBuffer{}}
	o.Console, o.LogLevel = n.log, "debug"
	o.OnState = func(s host.State) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.state = s; s.Phase == host.Connected {
			n.times++
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	go func() {
		defer close(n.done)
		n.err = runtime.RunNode(ctx, o)
	}()
	t.Cleanup(func() {
		n.stop()
		if t.Failed() {
			t.Logf("log of node host %s:\n%s", o.DisplayName, n.log.String())
		}
	})
	return n
}

func (n *nodeHost) stop() {
	n.cancel()
	select {
	case <-n.done:
		if n.err != nil {
			n.t.Errorf("the node host ended: %v", n.err)
		}
	case <-time.After(patience):
		n.t.Error("the node host does not end")
	}
}

// refused waits for the node host to end by itself and returns why.
func (n *nodeHost) refused() error {
	n.t.Helper()
	select {
	case <-n.done:
	case <-time.After(patience):
		n.t.Fatal("the node host goes on")
	}
	err := n.err
	n.err = nil
	return err
}

// via is the way in which the node host reached its gateway last.
func (n *nodeHost) via() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state.Link.Via
}

func (n *nodeHost) connects() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.times
}

func (n *nodeHost) until(what string, ok func() bool) {
	n.t.Helper()
	until(n.t, patience, what, ok)
}

// id is what the daemon calls the node.
func (n *nodeHost) id() string {
	n.t.Helper()
	text, err := os.ReadFile(filepath.Join(n.dir, "identity", "device.json"))
	if err != nil {
		n.t.Fatal(err)
	}
	var f struct {
		DeviceID string `json:"deviceId"`
	}
	if err := json.Unmarshal(text, &f); err != nil {
		n.t.Fatal(err)
	}
	return f.DeviceID
}

func until(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// seen is the node as the daemon lists it, nil when it does not.
func (w *world) seen(id string) *nodesv1.Node {
	w.t.Helper()
	out, err := w.op.Nodes.GetNode(context.Background(), &nodesv1.GetNodeRequest{NodeId: id})
	if err != nil {
		return nil
	}
	return out.GetNode()
}

func (w *world) online() bool { return w.seen(w.node.id()).GetConnected() }

// invoke runs a command on the node and returns its answer as JSON text.
func (w *world) invoke(command, params string, limit time.Duration) (string, error) {
	in := &nodesv1.InvokeRequest{NodeId: w.node.id(), Command: command}
	if params != "" {
		in.Params = &structpb.Value{}
		if err := protojson.Unmarshal([]byte(params), in.Params); err != nil {
			w.t.Fatal(err)
		}
	}
	if limit != 0 {
		in.Timeout = durationpb.New(limit)
	}
	out, err := w.op.Nodes.Invoke(context.Background(), in)
	return out.GetPayloadJson(), err
}

// sh runs a shell command on the node.
func (w *world) sh(script string) (string, error) {
	params, err := json.Marshal(map[string]any{"command": []string{"/bin/sh", "-c", script}})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.invoke("system.run", string(params), patience)
}

func codeOf(err error) string {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e.Code
	}
	return fmt.Sprintf("%T", err)
}

// proxy passes bytes on between a node host and its daemon.
type proxy struct {
	l  net.Listener
	wg sync.WaitGroup

	mu            sync.Mutex
	network, addr string
	silent        bool
	conns         []net.Conn
}

func newProxy(t *testing.T, unix bool) *proxy {
	t.Helper()
	p := &proxy{}
	var err error
	if unix {
		dir, derr := os.MkdirTemp("", "hl") // short: the directory of a test can be too long for a socket
		if derr != nil {
			t.Fatal(derr)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		p.l, err = net.Listen("unix", filepath.Join(dir, "s"))
	} else {
		p.l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		t.Fatal(err)
	}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = p.l.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) address() string { return p.l.Addr().String() }

func (p *proxy) port() int { return p.l.Addr().(*net.TCPAddr).Port }

// to says where new connections lead.
func (p *proxy) to(network, addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.network, p.addr = network, addr
}

func (p *proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		network, addr := p.network, p.addr
		p.mu.Unlock()
		s, err := net.Dial(network, addr)
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
}

// pump passes on until an end closes. What comes while the proxy is silent is lost.
func (p *proxy) pump(from, to net.Conn) {
	buf := make([]byte, 64<<10)
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

// hush makes the proxy swallow everything on its connections; new ones too, until it speaks again.
func (p *proxy) hush(silent bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = silent
}

// cut closes all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

// syncBuffer is a buffer that several goroutines write to.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *syncBuffer) has(text string) bool { return strings.Contains(s.String(), text) }
