package rpc_test

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/gate"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/runtime/listen"
	"github.com/hanzoai/hanzod/runtime/rpc"
	"github.com/hanzoai/hanzod/system"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// domain answers for all three domains. A test sets what it needs; the rest would panic, which the
// interceptor turns into an error that fails the test.
type domain struct {
	rpc.Nodes
	rpc.Approvals

	bus     *events.Bus
	invoke  func(context.Context, identity.Caller, nodes.InvokeIn) (nodes.InvokeOut, error)
	list    nodes.ListOut
	listed  func() // called between subscribing and listing
	asked   []approvals.Approval
	health  system.Health
	err     error
	file    policy.Snapshot
	set     approvals.SetFileIn
	caller  identity.Caller
	waiting chan struct{} // closed when Wait begins

	standing error // what became of the caller's credential
	follow   func(ctx context.Context, send func(string) error) error
}

type nodesOf struct{ *domain }

func (d nodesOf) List(context.Context, identity.Caller, nodes.ListIn) (nodes.ListOut, error) {
	return d.list, d.err
}

func (d nodesOf) Invoke(ctx context.Context, c identity.Caller, in nodes.InvokeIn) (nodes.InvokeOut, error) {
	return d.invoke(ctx, c, in)
}

func (d nodesOf) Describe(ctx context.Context, c identity.Caller, in nodes.DescribeIn) (nodes.DescribeOut, error) {
	return d.domain.Nodes.Describe(ctx, c, in)
}

func (d nodesOf) Rename(ctx context.Context, c identity.Caller, in nodes.RenameIn) (nodes.RenameOut, error) {
	return d.domain.Nodes.Rename(ctx, c, in)
}

func (d nodesOf) Result(ctx context.Context, c identity.Caller, in nodes.ResultIn) (nodes.ResultOut, error) {
	return d.domain.Nodes.Result(ctx, c, in)
}

func (d nodesOf) Event(ctx context.Context, c identity.Caller, in nodes.EventIn) (nodes.EventOut, error) {
	return d.domain.Nodes.Event(ctx, c, in)
}

func (d nodesOf) Watch(context.Context, identity.Caller) (nodes.Watch, error) {
	if d.err != nil {
		return nodes.Watch{}, d.err
	}
	sub := d.bus.Subscribe(nil)
	if d.listed != nil {
		d.listed()
	}
	return nodes.Watch{Present: d.list.Nodes, Events: sub}, nil
}

type approvalsOf struct {
	rpc.Approvals
	*domain
}

func (d approvalsOf) Watch(context.Context, identity.Caller) (approvals.Watch, error) {
	return approvals.Watch{Pending: d.asked, Events: d.bus.Subscribe(nil)}, d.err
}

func (d approvalsOf) Wait(ctx context.Context, _ identity.Caller, _ string) (approvals.Approval, error) {
	close(d.waiting)
	<-ctx.Done()
	return approvals.Approval{}, ctx.Err()
}

func (d approvalsOf) GetFile(context.Context, identity.Caller) (policy.Snapshot, error) {
	return d.file, d.err
}

func (d approvalsOf) SetFile(_ context.Context, _ identity.Caller, in approvals.SetFileIn) (policy.Snapshot, error) {
	d.set = in
	d.domain.set = in
	return d.file, d.err
}

func (d approvalsOf) GetNodeFile(context.Context, identity.Caller, string) ([]byte, error) {
	return d.file.File, d.err
}

type systemOf struct {
	rpc.System
	*domain
}

func (d systemOf) Health(_ context.Context, c identity.Caller, _ bool) (system.Health, error) {
	d.domain.caller = c
	return d.health, d.err
}

func (d systemOf) Status(context.Context, identity.Caller) (system.Status, error) {
	return system.Status{}, d.err
}

func (d systemOf) Diagnose(context.Context, identity.Caller) (system.Diagnosis, error) {
	return system.Diagnosis{}, d.err
}

func (d systemOf) Presence(context.Context, identity.Caller) ([]system.Presence, error) {
	return nil, d.err
}

func (d systemOf) TailLogs(context.Context, identity.Caller, system.TailIn) (system.TailOut, error) {
	return system.TailOut{}, d.err
}

func (d systemOf) FollowLogs(ctx context.Context, _ identity.Caller, _ int, send func(string) error) error {
	return d.follow(ctx, send)
}

func (systemOf) RefreshHealth()    {}
func (systemOf) AnnouncePresence() {}

type devicesOf struct {
	rpc.Devices
	*domain
}

func (d devicesOf) Standing(identity.Caller) error { return d.standing }

func (d devicesOf) List(context.Context, identity.Caller) (identity.ListOut, error) {
	return identity.ListOut{Devices: []identity.Device{{ID: "d1"}, {ID: "d2"}}}, d.err
}

func (d devicesOf) CreateInvite(context.Context, identity.Caller, identity.InviteIn) (identity.InviteOut, error) {
	return identity.InviteOut{Secret: "hzi_x", ExpiresAt: time.Unix(1, 0)}, d.err
}

// observed remembers what the door reports.
type observed struct {
	mu      sync.Mutex
	calls   []string // door, method and class of each call
	dropped uint64
}

func (o *observed) Observe(door, op, class string, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls = append(o.calls, door+" "+op+" "+class)
}

func (o *observed) EventsDropped(_ string, n uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dropped += n
}

func (o *observed) last() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.calls) == 0 {
		return ""
	}
	return o.calls[len(o.calls)-1]
}

func (o *observed) lost() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dropped
}

func newDomain() *domain { return &domain{bus: events.New(time.Now)} }

func newServer(tb testing.TB, d *domain, m rpc.Metrics) *rpc.Server {
	tb.Helper()
	catalogue, err := ops.Load()
	if err != nil {
		tb.Fatal(err)
	}
	return rpc.New(rpc.Deps{
		Catalogue: catalogue,
		Gate:      gate.New(),
		Nodes:     nodesOf{d},
		Approvals: approvalsOf{domain: d},
		System:    systemOf{domain: d},
		Devices:   devicesOf{domain: d},
		Remote:    func() rpc.Remote { return rpc.Remote{Addresses: []string{"box.lan:18790"}, Fingerprint: "f1"} },
		Bus:       d.bus,

		DeviceConnections: func() map[string]int { return map[string]int{"d1": 1} },
		Render:            func(e events.Event) ([]byte, bool) { b, ok := e.Payload.([]byte); return b, ok },
		SharedSecret:      func(identity.Caller) (string, string, error) { return "token", "s3cret", nil },
		NodeName:          func(id string) string { return "name of " + id },
		Log:               slog.New(slog.DiscardHandler),
		Metrics:           m,
	})
}

// dial serves the server on a real local socket and returns a connection to it.
func dial(tb testing.TB, s *rpc.Server) *grpc.ClientConn {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "s")
	l, err := listen.Unix(tb.Context(), path)
	if err != nil {
		tb.Fatal(err)
	}
	g := s.GRPC(listen.PeerCredentials())
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///local",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := conn.Close(); err != nil {
			tb.Error(err)
		}
		s.Stop()
		g.Stop()
		if err := <-served; err != nil {
			tb.Error(err)
		}
	})
	return conn
}
