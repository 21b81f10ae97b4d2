package rest_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/gate"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/identity/peer"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/runtime/rest"
	"github.com/hanzoai/hanzod/runtime/rpc"
	"github.com/hanzoai/hanzod/system"
)

// A connection that the server closes lingers for half a second, so that its client sees the answer.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// The tokens of the tests and what they stand for.
const (
	owner  = "owner-token"
	reader = "reader-token"
	node   = "node-token"
	tenant = "tenant-token" // of somebody who is known by an issuer, in the tenant acme
)

func bearer(_ context.Context, token string, from identity.Peer) (identity.Caller, error) {
	c := identity.Caller{Role: identity.RoleOperator, Principal: "shared-secret", Local: true}
	switch token {
	case "":
		return c, identity.ErrBearerRequired
	case owner:
		c.Scopes = identity.AllOperatorScopes
	case reader:
		c.Scopes = []identity.Scope{identity.ScopeRead}
	case tenant:
		c.Principal, c.Tenant, c.Scopes = "iam:somebody", "acme", []identity.Scope{identity.ScopeRead}
	case node:
		c = identity.Caller{Role: identity.RoleNode, NodeID: "n1", DeviceID: "n1"}
	case "locked":
		return c, errs.Define(errs.Exhausted, "test.locked."+from.IP(), "too many attempts").With("retryAfterMs", 1500)
	default:
		return c, identity.ErrBearerNotAccepted
	}
	return c, nil
}

// domain answers what the tests ask; a method that is not here panics.
type domain struct {
	rpc.Nodes
	bus    *events.Bus
	err    error
	caller identity.Caller
	invoke nodes.InvokeIn
	id     string
	panics bool
}

func (d *domain) List(_ context.Context, c identity.Caller, _ nodes.ListIn) (nodes.ListOut, error) {
	d.caller = c
	if d.panics {
		panic("s3cret")
	}
	return nodes.ListOut{}, d.err
}

func (d *domain) Describe(_ context.Context, _ identity.Caller, in nodes.DescribeIn) (nodes.DescribeOut, error) {
	d.id = in.NodeID
	return nodes.DescribeOut{Node: nodes.Node{ID: in.NodeID}}, d.err
}

func (d *domain) Invoke(_ context.Context, _ identity.Caller, in nodes.InvokeIn) (nodes.InvokeOut, error) {
	d.invoke = in
	return nodes.InvokeOut{NodeID: in.NodeID, Command: in.Command, Payload: in.Params}, d.err
}

func (d *domain) Watch(context.Context, identity.Caller) (nodes.Watch, error) {
	if d.err != nil {
		return nodes.Watch{}, d.err
	}
	return nodes.Watch{Present: []nodes.Node{{ID: "a"}}, Events: d.bus.Subscribe(nil)}, nil
}

type questions struct {
	rpc.Approvals
	d *domain
}

func (q questions) Get(_ context.Context, _ identity.Caller, id string) (approvals.Approval, error) {
	return approvals.Approval{ID: "got " + id}, q.d.err
}

func (q questions) Wait(_ context.Context, _ identity.Caller, id string) (approvals.Approval, error) {
	return approvals.Approval{ID: "waited for " + id}, q.d.err
}

func (q questions) Resolve(_ context.Context, _ identity.Caller, in approvals.ResolveIn) (approvals.Approval, error) {
	return approvals.Approval{ID: in.ID, Decision: in.Decision}, q.d.err
}

type daemon struct{ rpc.System }

func (daemon) Health(context.Context, identity.Caller, bool) (system.Health, error) {
	return system.Health{At: time.Unix(1, 0).UTC(), Took: time.Millisecond, Agents: []system.Agent{{ID: "main"}}}, nil
}

type uncounted struct{}

func (uncounted) Observe(string, string, string, time.Duration) {}
func (uncounted) EventsDropped(string, uint64)                  {}

// standing lets every caller stand.
type standing struct{ rpc.Devices }

func (standing) Standing(identity.Caller) error { return nil }

// counted is the gRPC door with its interceptors counted.
type counted struct {
	*rpc.Server
	passes atomic.Int64
}

func (c *counted) UnaryInterceptor() grpc.UnaryServerInterceptor {
	next := c.Server.UnaryInterceptor()
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		c.passes.Add(1)
		return next(ctx, req, info, h)
	}
}

func (c *counted) StreamInterceptor() grpc.StreamServerInterceptor {
	next := c.Server.StreamInterceptor()
	return func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		c.passes.Add(1)
		return next(srv, s, info, h)
	}
}

type harness struct {
	domain *domain
	door   *counted
	ready  atomic.Value
	addr   string
	deps   rest.Deps
	client *http.Client
}

// start serves the handler on a real port.
func start(tb testing.TB, change func(*rest.Deps)) *harness {
	tb.Helper()
	catalogue, err := ops.Load()
	if err != nil {
		tb.Fatal(err)
	}
	h := &harness{domain: &domain{bus: events.New(time.Now)}}
	h.ready.Store("ready")
	log := slog.New(slog.DiscardHandler)
	h.door = &counted{Server: rpc.New(rpc.Deps{
		Catalogue: catalogue, Gate: gate.New(), Nodes: h.domain, Approvals: questions{d: h.domain}, System: daemon{},
		Devices:      standing{},
		Bus:          h.domain.bus,
		Render:       func(e events.Event) ([]byte, bool) { b, ok := e.Payload.([]byte); return b, ok },
		SharedSecret: func(identity.Caller) (string, string, error) { return "token", "s3cret", nil },
		NodeName:     func(string) string { return "" },
		Log:          log, Metrics: uncounted{},
	})}
	h.deps = rest.Deps{
		RPC:      h.door,
		Legacy:   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }),
		Metrics:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a_metric 1\n") }),
		Bearer:   bearer,
		Gate:     gate.New(),
		Ready:    func() string { return h.ready.Load().(string) },
		Loopback: true,
		Hosts:    []string{"Daemon.example"},
		Peers:    &peer.Rules{Origins: []string{"https://ui.example"}},
		Log:      log,
	}
	if change != nil {
		change(&h.deps)
	}
	handler, err := rest.New(h.deps)
	if err != nil {
		tb.Fatal(err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	h.addr = l.Addr().String()
	srv := rest.NewServer(handler, log)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	transport := &http.Transport{}
	h.client = &http.Client{Transport: transport}
	tb.Cleanup(func() {
		transport.CloseIdleConnections()
		h.door.Stop()
		if err := srv.Close(); err != nil {
			tb.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			tb.Error(err)
		}
	})
	return h
}

type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request; header lines are "Name: value".
func (h *harness) ask(tb testing.TB, method, path, body string, header ...string) answer {
	tb.Helper()
	r := h.request(tb, method, path, body, header...)
	resp, err := h.client.Do(r)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

func (h *harness) request(tb testing.TB, method, path, body string, header ...string) *http.Request {
	tb.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(tb.Context(), method, "http://"+h.addr+path, in)
	if err != nil {
		tb.Fatal(err)
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Set(name, value)
	}
	return r
}

func as(token string) string { return "Authorization: Bearer " + token }
