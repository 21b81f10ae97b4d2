// Package clienttest is a small daemon for tests of the client and of hanzoctl: the three services
// over a Unix socket, with their state in memory. The scripts of hanzoctl run against it and
// against the real daemon alike, so they use nothing of it but the world that New describes.
//
// It imports gen and gRPC. A Daemon owns its server's goroutines and ends them in Stop.
package clienttest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	auditv1 "github.com/hanzoai/hanzod/gen/hanzo/audit/v1"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	runsv1 "github.com/hanzoai/hanzod/gen/hanzo/runs/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

// The world of a new Daemon: a connected node that answers as Node does, and a paired phone that
// is not connected.
const (
	NodeID    = "b0b1b2b3b4b5b6b7b8b9babbbcbdbebfc0c1c2c3c4c5c6c7c8c9cacbcccdcecf"
	NodeName  = "build box"
	PhoneID   = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff000102030405060708090a0b0c0d0e0f"
	PhoneName = "phone"
	// Secret is the shared secret.
	Secret = "not-a-real-secret"
)

// maxQueued bounds what a slow watcher may lag behind; tests never come near it.
const maxQueued = 256

// pings is how often clients may ask whether the daemon is there, as the real one allows it.
var pings = keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}

// Daemon is a daemon of this test process.
type Daemon struct {
	systemv1.UnimplementedSystemServiceServer
	nodesv1.UnimplementedNodeServiceServer
	approvalsv1.UnimplementedApprovalServiceServer

	Socket string
	// BeforeRun, when set, is called when a system.run arrives, before the node sees it.
	BeforeRun func()

	mu        sync.Mutex
	srv       *grpc.Server
	stopping  chan struct{}
	served    chan struct{}
	nodes     []*nodesv1.Node
	approvals []*approvalsv1.Approval
	waiters   map[string]chan struct{}
	files     map[string]*approvalsv1.PolicyFile // "" is the gateway's own
	answers   map[string]*nodesv1.InvokeResponse // by idempotency key; lost at a restart
	watchers  map[chan any]bool
	logLines  []string
	runs      [][]string
	runsByID  map[string]*aRun
	audit     auditLog
	devices   []*devicesv1.Device
	requests  []*devicesv1.PairingRequest
	linkKeys  []*devicesv1.LinkKey
	invites   map[string]*devicesv1.CreateInviteRequest // by secret
	tokens    map[string]bool                           // of enrolled devices
	pairings  []*nodesv1.NodePairing                    // open ones
	knocks    int
	minted    int
	remote    *Remote
	findings  []*systemv1.Finding
}

// New starts a Daemon on a socket in a temporary directory. It stops with the test.
func New(t testing.TB) *Daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "hd") // short: t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{
		Socket:   filepath.Join(dir, "hanzod.sock"),
		waiters:  map[string]chan struct{}{},
		files:    map[string]*approvalsv1.PolicyFile{},
		watchers: map[chan any]bool{},
		nodes: []*nodesv1.Node{
			{NodeId: NodeID, DisplayName: NodeName, Platform: "linux", Version: "2026.3.17", RemoteIp: "10.0.0.9",
				Caps: []string{"system"}, Commands: Commands, Paired: true, Connected: true,
				ConnectedAt: timestamppb.New(time.Now())},
			{NodeId: PhoneID, DisplayName: PhoneName, Platform: "ios", Paired: true},
		},
		logLines: []string{`{"level":"INFO","msg":"hanzod started"}`, `{"level":"INFO","msg":"node connected"}`},
	}
	d.pairDevices()
	d.fillAudit()
	d.setFile("", map[string]any{"version": 1.0, "defaults": map[string]any{}, "agents": map[string]any{}})
	d.setFile(NodeID, map[string]any{"version": 1.0, "defaults": map[string]any{"security": "allowlist"}, "agents": map[string]any{}})
	d.Start(t)
	t.Cleanup(func() {
		d.Stop()
		os.RemoveAll(dir)
	})
	return d
}

// Start serves, after New or Stop. Nodes, approvals and files outlast a restart; remembered
// answers and watchers do not.
func (d *Daemon) Start(t testing.TB) {
	t.Helper()
	l, err := net.Listen("unix", d.Socket)
	if err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.srv = grpc.NewServer(grpc.KeepaliveEnforcementPolicy(pings))
	d.answers = map[string]*nodesv1.InvokeResponse{}
	d.stopping, d.served = make(chan struct{}), make(chan struct{})
	systemv1.RegisterSystemServiceServer(d.srv, d)
	nodesv1.RegisterNodeServiceServer(d.srv, nodeService{d})
	approvalsv1.RegisterApprovalServiceServer(d.srv, d)
	devicesv1.RegisterDeviceServiceServer(d.srv, deviceService{d: d})
	runsv1.RegisterRunServiceServer(d.srv, runService{d: d})
	auditv1.RegisterAuditServiceServer(d.srv, auditService{d: d})
	go func(srv *grpc.Server, done chan struct{}) {
		defer close(done)
		_ = srv.Serve(l) // it ends with Stop
	}(d.srv, d.served)
}

// Stop cuts every connection, as a killed daemon would. Stopping twice does nothing more.
func (d *Daemon) Stop() {
	d.mu.Lock()
	srv, served := d.srv, d.served
	if srv != nil {
		close(d.stopping)
	}
	d.srv = nil
	d.mu.Unlock()
	if srv != nil {
		srv.Stop()
		<-served
	}
}

// Runs is what has run on the node: the argv of each system.run that was not refused.
func (d *Daemon) Runs() [][]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.runs)
}

// Pending is the ids of the pending approvals.
func (d *Daemon) Pending() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []string
	for _, a := range d.approvals {
		if a.GetState() == approvalsv1.State_STATE_PENDING {
			ids = append(ids, a.GetId())
		}
	}
	return ids
}

// SetConnected connects or disconnects a node.
func (d *Daemon) SetConnected(id string, connected bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.node(id)
	n.Connected = connected
	change := nodesv1.WatchNodesResponse_CHANGE_DISCONNECTED
	if connected {
		change = nodesv1.WatchNodesResponse_CHANGE_CONNECTED
	}
	d.publish(&nodesv1.WatchNodesResponse{Change: change, Node: clone(n)})
}

// fail is an error as the daemon sends it.
func fail(c codes.Code, code, text string, fields map[string]string) error {
	st, err := status.New(c, text).WithDetails(&errdetails.ErrorInfo{Reason: code, Domain: "hanzod", Metadata: fields})
	if err != nil {
		return err
	}
	return st.Err()
}

func clone[M proto.Message](m M) M { return proto.Clone(m).(M) }

// node and the other helpers below are called with mu held.
func (d *Daemon) node(id string) *nodesv1.Node {
	for _, n := range d.nodes {
		if n.GetNodeId() == id {
			return n
		}
	}
	return nil
}

func (d *Daemon) approval(id string) *approvalsv1.Approval {
	for _, a := range d.approvals {
		if a.GetId() == id {
			return a
		}
	}
	return nil
}

func (d *Daemon) publish(m any) {
	for w := range d.watchers {
		select {
		case w <- m:
		default:
		}
	}
}

func (d *Daemon) setFile(owner string, file map[string]any) *approvalsv1.PolicyFile {
	s, err := structpb.NewStruct(file)
	if err != nil {
		panic(err) // made from a Struct or in this file
	}
	sum := sha256.Sum256(encode(file))
	d.files[owner] = &approvalsv1.PolicyFile{Path: "/state/exec-approvals.json", Exists: true, Hash: hex.EncodeToString(sum[:]), File: s}
	return d.files[owner]
}

// watch sends what first returns and then every later message that keep accepts.
func (d *Daemon) watch(ctx context.Context, first func() []any, send func(any) error) error {
	ch := make(chan any, maxQueued)
	d.mu.Lock()
	d.watchers[ch] = true
	stopping := d.stopping
	present := first()
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.watchers, ch)
		d.mu.Unlock()
	}()
	for _, m := range present {
		if err := send(m); err != nil {
			return err
		}
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-stopping:
			return status.Error(codes.Unavailable, "the daemon is stopping")
		case m := <-ch:
			if err := send(m); err != nil {
				return err
			}
		}
	}
}

// event publishes an event of WatchEvents.
func (d *Daemon) event(name string, payload map[string]any) {
	v, err := structpb.NewValue(payload)
	if err != nil {
		panic(err) // values of this package only
	}
	d.publish(&systemv1.WatchEventsResponse{Name: name, At: timestamppb.Now(), Payload: v})
}

// ListNodes, and the methods below, are the services.
func (d *Daemon) ListNodes(_ context.Context, in *nodesv1.ListNodesRequest) (*nodesv1.ListNodesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := &nodesv1.ListNodesResponse{}
	for _, n := range d.nodes {
		if n.GetConnected() || !in.GetConnectedOnly() {
			out.Nodes = append(out.Nodes, clone(n))
		}
	}
	slices.SortStableFunc(out.Nodes, func(a, b *nodesv1.Node) int {
		if a.GetConnected() != b.GetConnected() {
			if a.GetConnected() {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.GetDisplayName(), b.GetDisplayName())
	})
	return out, nil
}

func (d *Daemon) GetNode(_ context.Context, in *nodesv1.GetNodeRequest) (*nodesv1.GetNodeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.node(in.GetNodeId())
	if n == nil {
		return nil, fail(codes.NotFound, "nodes.unknown", "no such node is connected or paired", nil)
	}
	return &nodesv1.GetNodeResponse{Node: clone(n)}, nil
}

func (d *Daemon) RenameNode(_ context.Context, in *nodesv1.RenameNodeRequest) (*nodesv1.RenameNodeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.node(in.GetNodeId())
	if n == nil {
		return nil, fail(codes.NotFound, "nodes.unknown", "no such node is connected or paired", nil)
	}
	n.DisplayName = in.GetDisplayName()
	d.publish(&nodesv1.WatchNodesResponse{Change: nodesv1.WatchNodesResponse_CHANGE_RENAMED, Node: clone(n)})
	return &nodesv1.RenameNodeResponse{NodeId: n.GetNodeId(), DisplayName: n.GetDisplayName()}, nil
}

func (d *Daemon) WatchNodes(_ *nodesv1.WatchNodesRequest, s grpc.ServerStreamingServer[nodesv1.WatchNodesResponse]) error {
	first := func() []any {
		var out []any
		for _, n := range d.nodes {
			out = append(out, &nodesv1.WatchNodesResponse{Change: nodesv1.WatchNodesResponse_CHANGE_PRESENT, Node: clone(n)})
		}
		return out
	}
	return d.watch(s.Context(), first, func(m any) error {
		if m, ok := m.(*nodesv1.WatchNodesResponse); ok {
			return s.Send(m)
		}
		return nil
	})
}

func (d *Daemon) Invoke(ctx context.Context, in *nodesv1.InvokeRequest) (*nodesv1.InvokeResponse, error) {
	return d.invoke(ctx, in, func() {})
}

// invoke is Invoke; left is called when the command has left for the node.
func (d *Daemon) invoke(ctx context.Context, in *nodesv1.InvokeRequest, left func()) (*nodesv1.InvokeResponse, error) {
	d.awaitNode(ctx, in)
	d.mu.Lock()
	hook := d.BeforeRun
	d.mu.Unlock()
	if hook != nil && in.GetCommand() == "system.run" {
		hook()
	}
	d.mu.Lock()
	there := d.node(in.GetNodeId()).GetConnected()
	d.mu.Unlock()
	if there && ctx.Err() == nil {
		left()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.answers[in.GetIdempotencyKey()]; old != nil && in.GetIdempotencyKey() != "" {
		return old, nil
	}
	n := d.node(in.GetNodeId())
	if n == nil || !n.GetConnected() {
		return nil, fail(codes.Unavailable, "nodes.not_connected", "the node is not connected", nil)
	}
	if !slices.Contains(Commands, in.GetCommand()) {
		return nil, fail(codes.PermissionDenied, "nodes.not_declared", "the node does not offer the command", map[string]string{"command": in.GetCommand()})
	}
	params, err := protojson.Marshal(in.GetParams())
	if err != nil {
		return nil, err
	}
	if in.GetCommand() == "system.run" {
		if params, err = d.guard(in); err != nil {
			return nil, err
		}
	}
	payload, code, message := Node(in.GetCommand(), params)
	if code != "" {
		return nil, fail(codes.Unavailable, "nodes.failed", "the node could not do it: "+code+": "+message,
			map[string]string{"code": code, "message": message})
	}
	if in.GetCommand() == "system.run" {
		d.runs = append(d.runs, texts(in.GetParams().GetStructValue().GetFields()["command"]))
	}
	out := &nodesv1.InvokeResponse{NodeId: in.GetNodeId(), Command: in.GetCommand(), PayloadJson: new(string(payload)), Payload: &structpb.Value{}}
	if err := protojson.Unmarshal(payload, out.Payload); err != nil {
		return nil, err
	}
	if in.GetIdempotencyKey() != "" {
		d.answers[in.GetIdempotencyKey()] = out
	}
	return out, nil
}

// guard lets an approved run pass once (nodes-approvals.md §2.3).
func (d *Daemon) guard(in *nodesv1.InvokeRequest) ([]byte, error) {
	fields := maps.Clone(in.GetParams().GetStructValue().GetFields())
	delete(fields, "approvalDecision")
	if fields["approved"].GetBoolValue() {
		a := d.approval(fields["runId"].GetStringValue())
		switch {
		case a == nil:
			return nil, fail(codes.PermissionDenied, "approvals.run_unknown", "the approval is unknown or expired", nil)
		case a.GetState() != approvalsv1.State_STATE_ALLOWED:
			return nil, fail(codes.PermissionDenied, "approvals.run_required", "the run is not approved", nil)
		case !slices.Equal(a.GetBinding().GetArgv(), texts(fields["command"])):
			return nil, fail(codes.PermissionDenied, "approvals.run_mismatch", "the approval is for something else", nil)
		case a.GetBinding().GetEnvHash() != envHash(fields["env"].GetStructValue().AsMap()):
			return nil, fail(codes.PermissionDenied, "approvals.run_env", "the environment overrides are not the approved ones", nil)
		}
		if a.GetDecision() == approvalsv1.Decision_DECISION_ALLOW_ONCE {
			a.State = approvalsv1.State_STATE_CONSUMED
		}
	}
	return protojson.Marshal(&structpb.Struct{Fields: fields})
}

func texts(v *structpb.Value) []string {
	var out []string
	for _, e := range v.GetListValue().GetValues() {
		out = append(out, e.GetStringValue())
	}
	return out
}

func envHash[V any](env map[string]V) string {
	if len(env) == 0 {
		return ""
	}
	var b []byte
	for _, k := range slices.Sorted(maps.Keys(env)) {
		b = fmt.Appendf(b, "%q=%q\n", k, fmt.Sprint(env[k]))
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// nodeService is the daemon as nodes see it: its WatchEvents is that of nodes, which no test needs.
type nodeService struct{ *Daemon }

// WatchEvents implements nodesv1.NodeServiceServer.
func (nodeService) WatchEvents(*nodesv1.WatchEventsRequest, nodesv1.NodeService_WatchEventsServer) error {
	return status.Error(codes.Unimplemented, "not in this daemon")
}
