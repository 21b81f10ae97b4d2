// Package rpc is the gRPC door: it turns calls into domain calls and answers back, and holds the
// interceptors that every modern call passes, REST included.
//
// It imports leaves, domains, ops, gate, gen and runtime/listen. Handlers translate and nothing
// else: rules live in the domains, admission in the gate. The package owns no goroutine of its own;
// gRPC and the in-process channel run the handlers.
package rpc

import (
	"context"
	"io"
	"log/slog"
	"math"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/client/carrier"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/gate"
	agentsv1 "github.com/hanzoai/hanzod/gen/hanzo/agents/v1"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	auditv1 "github.com/hanzoai/hanzod/gen/hanzo/audit/v1"
	channelsv1 "github.com/hanzoai/hanzod/gen/hanzo/channels/v1"
	configv1 "github.com/hanzoai/hanzod/gen/hanzo/config/v1"
	cronv1 "github.com/hanzoai/hanzod/gen/hanzo/cron/v1"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	runsv1 "github.com/hanzoai/hanzod/gen/hanzo/runs/v1"
	secretsv1 "github.com/hanzoai/hanzod/gen/hanzo/secrets/v1"
	sessionsv1 "github.com/hanzoai/hanzod/gen/hanzo/sessions/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	talkv1 "github.com/hanzoai/hanzod/gen/hanzo/talk/v1"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	updatev1 "github.com/hanzoai/hanzod/gen/hanzo/update/v1"
	wizardv1 "github.com/hanzoai/hanzod/gen/hanzo/wizard/v1"
	"github.com/hanzoai/hanzod/heartbeat"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/system"
)

// Limits of the gRPC door.
const (
	// MaxMessage is the largest message in bytes, in and out: the frame limit of the legacy door, so
	// that a node's answer fits through both (protocol.md §0). A larger one fails with
	// ResourceExhausted.
	MaxMessage = 26214400
	// MaxStreams is how many watches and waits for approvals may be open at once over all callers.
	// Each watch holds a queue of events.QueueSize. One more is refused with ResourceExhausted.
	MaxStreams = 1024
	// maxStreamsEach is how many streams, links included, one device may have of all those: the others
	// are to be able to watch too.
	maxStreamsEach = 128
	// maxCallsPerConn is how many calls one connection may have in flight; gRPC makes further ones
	// wait in the client.
	maxCallsPerConn = 512
	// maxHeaderBytes bounds the metadata of a call.
	maxHeaderBytes = 16 << 10
	// maxClientName cuts what a client calls itself.
	maxClientName = 64
	// handshakeTimeout ends connections that do not speak HTTP/2.
	handshakeTimeout = 10 * time.Second
	// window is the flow control window of streams and connections. A fixed one spares the pings
	// that measure the round trip, which a local socket does not need.
	window = 1 << 20
	// ioBuffer is the read buffer of a connection; calls are small.
	ioBuffer = 16 << 10
)

// gRPC would write to standard error, past the log of the daemon and what it leaves out of it. What
// matters comes back as errors.
func init() { grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard)) }

// Nodes is what the door needs of nodes.Service.
type Nodes interface {
	List(context.Context, identity.Caller, nodes.ListIn) (nodes.ListOut, error)
	Describe(context.Context, identity.Caller, nodes.DescribeIn) (nodes.DescribeOut, error)
	Rename(context.Context, identity.Caller, nodes.RenameIn) (nodes.RenameOut, error)
	Invoke(context.Context, identity.Caller, nodes.InvokeIn) (nodes.InvokeOut, error)
	Result(context.Context, identity.Caller, nodes.ResultIn) (nodes.ResultOut, error)
	Event(context.Context, identity.Caller, nodes.EventIn) (nodes.EventOut, error)
	Watch(context.Context, identity.Caller) (nodes.Watch, error)
	RequestPairing(context.Context, identity.Caller, nodes.RequestPairingIn) (nodes.RequestPairingOut, error)
	ListPairings(context.Context, identity.Caller, nodes.ListPairingsIn) (nodes.ListPairingsOut, error)
	ApprovePairing(context.Context, identity.Caller, nodes.DecidePairingIn) (nodes.ApprovePairingOut, error)
	RejectPairing(context.Context, identity.Caller, nodes.DecidePairingIn) (nodes.RejectPairingOut, error)
	TestPush(context.Context, identity.Caller, nodes.TestPushIn) (nodes.TestPushOut, error)
	VoiceWake(context.Context, identity.Caller, nodes.VoiceWakeIn) (nodes.VoiceWakeOut, error)
	SetVoiceWake(context.Context, identity.Caller, nodes.SetVoiceWakeIn) (nodes.VoiceWakeOut, error)
	SkillBins(context.Context, identity.Caller, nodes.SkillBinsIn) (nodes.SkillBinsOut, error)
	VerifyPairing(context.Context, identity.Caller, nodes.VerifyPairingIn) (nodes.VerifyPairingOut, error)
	Attach(n nodes.Node, declared, caps []string, link nodes.Link) (*nodes.Attachment, nodes.Node, error)
	Saw(id string)
	Subscribed(nodeID, sessionKey string) bool
	Ask(ctx context.Context, c identity.Caller, in nodes.AskIn, asked func(nodes.Question) error) (nodes.InvokeOut, error)
	Instance(context.Context, identity.Caller, nodes.DescribeIn) (nodes.DescribeOut, error)
	Info(context.Context, identity.Caller, nodes.InfoIn) (nodes.InfoOut, error)
	WatchEvents(ctx context.Context, c identity.Caller, nodeID string) (*events.Subscription, error)
}

// Approvals is what the door needs of approvals.Service.
type Approvals interface {
	Request(context.Context, identity.Caller, approvals.RequestIn) (approvals.Approval, error)
	Wait(ctx context.Context, c identity.Caller, id string) (approvals.Approval, error)
	Resolve(context.Context, identity.Caller, approvals.ResolveIn) (approvals.Approval, error)
	Get(ctx context.Context, c identity.Caller, id string) (approvals.Approval, error)
	List(context.Context, identity.Caller, approvals.ListIn) ([]approvals.Approval, error)
	Watch(context.Context, identity.Caller) (approvals.Watch, error)
	GetFile(context.Context, identity.Caller) (policy.Snapshot, error)
	SetFile(context.Context, identity.Caller, approvals.SetFileIn) (policy.Snapshot, error)
	GetNodeFile(ctx context.Context, c identity.Caller, nodeID string) ([]byte, error)
	SetNodeFile(context.Context, identity.Caller, approvals.SetNodeFileIn) ([]byte, error)
	CreateGrant(context.Context, identity.Caller, approvals.CreateGrantIn) (approvals.GrantOut, error)
	RevokeGrant(ctx context.Context, c identity.Caller, id string) (approvals.GrantOut, error)
	GetGrant(ctx context.Context, c identity.Caller, id string) (approvals.GrantOut, error)
	ListGrants(context.Context, identity.Caller, approvals.ListGrantsIn) (approvals.ListGrantsOut, error)
	WatchGrants(context.Context, identity.Caller) ([]approvals.GrantOut, *events.Subscription, error)
	Audit
}

// System is what the door needs of system.Service.
type System interface {
	Health(ctx context.Context, c identity.Caller, probe bool) (system.Health, error)
	Status(context.Context, identity.Caller) (system.Status, error)
	Diagnose(context.Context, identity.Caller) (system.Diagnosis, error)
	Presence(context.Context, identity.Caller) ([]system.Presence, error)
	TailLogs(context.Context, identity.Caller, system.TailIn) (system.TailOut, error)
	FollowLogs(ctx context.Context, c identity.Caller, lines int, send func(line string) error) error
	SendEvent(context.Context, identity.Caller, system.EventIn) (system.EventOut, error)
	Wake(context.Context, identity.Caller, system.WakeIn) (system.WakeOut, error)
	Memory(context.Context, identity.Caller) (system.Memory, error)
	RefreshHealth()
	AnnouncePresence()
}

// Heartbeat is what the door needs of heartbeat.Service.
type Heartbeat interface {
	Last(context.Context, identity.Caller) (*heartbeat.Report, error)
	SetEnabled(context.Context, identity.Caller, heartbeat.SetIn) (heartbeat.SetOut, error)
	RunNow(context.Context, identity.Caller, heartbeat.RunIn) (heartbeat.Outcome, error)
}

// Presence is what the door needs of system.PresenceTable.
type Presence interface {
	Join(system.Party) (key string)
	Leave(key string)
}

// Metrics counts calls and lost events.
type Metrics interface {
	// Observe counts one call. class is "ok" or the name of an error class.
	Observe(door, op, class string, d time.Duration)
	// EventsDropped counts events left out for a slow reader.
	EventsDropped(door string, n uint64)
}

// Deps is what the door stands on. Every field is required.
type Deps struct {
	Catalogue *ops.Catalogue
	Gate      *gate.Gate
	Nodes     Nodes
	Approvals Approvals
	Policy    Policy
	Runs      Runs
	Cron      Cron
	System    System
	Sessions  Sessions
	Usage     Usage
	Heartbeat Heartbeat
	Channels  Channels
	Talk      Talk
	Secrets   Secrets
	Wizard    Wizard
	Terminals Terminals
	Screens   Screens
	Uplinks   Uplinks
	Agents    Agents
	Skills    Skills
	Models    Models
	Config    Live
	Devices   Devices
	Files     Files
	Presence  Presence
	Bus       *events.Bus
	// Checkpoints are of sessions of nodes.
	Checkpoints Checkpoints
	// Tunnels, Bindings and Overview are of carriers and what they carry.
	Tunnels      Tunnels
	Bindings     Bindings
	Overview     Overview
	Neighborhood Neighborhood
	// Tech is the technician sessions; nil for none.
	Tech Tech
	// DeviceConnections counts the connections of each device at the other doors.
	DeviceConnections func() map[string]int
	// Remote says where other machines reach this door.
	Remote func() Remote
	// Render returns the payload of an event as JSON text in the shape of the legacy door, false
	// for events that have none.
	Render func(events.Event) ([]byte, bool)
	// SharedSecret returns what remote clients present. It refuses callers that may not know it.
	SharedSecret func(identity.Caller) (mode, secret string, err error)
	// Backup writes a backup. It refuses callers that may not have one.
	Backup func(ctx context.Context, c identity.Caller, w io.Writer, progress func(done, all int64)) error
	// Bearer finds the caller that a token stands for. The door fills in where it came from.
	Bearer func(ctx context.Context, token string, from identity.Peer) (identity.Caller, error)
	// NodeName returns the name to show for a node, "" when it is unknown.
	NodeName func(id string) string
	// Version is the release that nodes are told.
	Version string
	Now     func() time.Time
	Log     *slog.Logger
	Metrics Metrics
}

// Server is the gRPC door. Its methods may be called concurrently.
type Server struct {
	d       Deps
	streams streams
	links   links
	health  *health.Server
}

// New returns a door that serves nobody yet.
func New(d Deps) *Server {
	s := &Server{d: d, health: health.NewServer()}
	s.streams.live, s.streams.each = map[*liveStream]struct{}{}, map[string]int{}
	s.links.all = map[*link]struct{}{}
	d.Bus.Budget().Source(s.holders)
	d.Bus.Sink(s.endDevices)
	d.Bus.Sink(s.notify)
	return s
}

// Register adds the services of hanzod to a gRPC server or an in-process channel. Whoever calls
// them must pass UnaryInterceptor and StreamInterceptor: without them, every call fails.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	systemv1.RegisterSystemServiceServer(r, &systemServer{s: s})
	nodesv1.RegisterNodeServiceServer(r, &nodesServer{s: s})
	approvalsv1.RegisterApprovalServiceServer(r, &approvalsServer{s: s})
	approvalsv1.RegisterPolicyServiceServer(r, &policyServer{s: s})
	approvalsv1.RegisterGrantServiceServer(r, &grantsServer{s: s})
	devicesv1.RegisterDeviceServiceServer(r, &devicesServer{s: s})
	agentsv1.RegisterAgentServiceServer(r, &agentsServer{s: s})
	agentsv1.RegisterSkillServiceServer(r, &skillsServer{s: s})
	agentsv1.RegisterCatalogServiceServer(r, &catalogServer{s: s})
	runsv1.RegisterRunServiceServer(r, &runsServer{s: s})
	sessionsv1.RegisterSessionServiceServer(r, &sessionsServer{s: s})
	sessionsv1.RegisterUsageServiceServer(r, &usageServer{s: s})
	configv1.RegisterConfigServiceServer(r, &configServer{s: s})
	tunnelv1.RegisterTerminalServiceServer(r, &terminalsServer{s: s})
	tunnelv1.RegisterScreenServiceServer(r, &screensServer{s: s})
	updatev1.RegisterUpdateServiceServer(r, &updateServer{s: s})
	auditv1.RegisterAuditServiceServer(r, &auditServer{s: s})
	channelsv1.RegisterChannelServiceServer(r, &channelsServer{s: s})
	talkv1.RegisterTalkServiceServer(r, &talkServer{s: s})
	secretsv1.RegisterSecretServiceServer(r, &secretsServer{s: s})
	wizardv1.RegisterWizardServiceServer(r, &wizardServer{s: s})
	cronv1.RegisterCronServiceServer(r, &cronServer{s: s})
	tunnelv1.RegisterFileServiceServer(r, &filesServer{s: s})
	tunnelv1.RegisterCheckpointServiceServer(r, &checkpointsServer{s: s})
	tunnelv1.RegisterUplinkServiceServer(r, &uplinksServer{s: s})
	tunnelv1.RegisterTunnelServiceServer(r, &tunnelsServer{s: s})
	tunnelv1.RegisterDiscoveryServiceServer(r, &discoveryServer{s: s})
	tunnelv1.RegisterTechSessionServiceServer(r, &techServer{s: s})
}

// GRPC returns a server with everything registered: hanzod's services, the standard health service
// and reflection. The owner serves it and, to stop, calls Stop, then GracefulStop, and after a
// deadline of its own grpc.Server.Stop.
func (s *Server) GRPC(creds credentials.TransportCredentials) *grpc.Server {
	g := grpc.NewServer(append(s.options(creds),
		grpc.MaxConcurrentStreams(maxCallsPerConn),
	)...)
	s.Register(g)
	healthpb.RegisterHealthServer(g, s.health)
	reflection.Register(g)
	return g
}

// options are those of every server.
func (s *Server) options(creds credentials.TransportCredentials) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(creds),
		grpc.ForceServerCodecV2(carrier.Codec),
		grpc.UnaryInterceptor(s.UnaryInterceptor()),
		grpc.StreamInterceptor(s.StreamInterceptor()),
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxSendMsgSize(MaxMessage),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(window),
		grpc.ReadBufferSize(ioBuffer),
		grpc.WriteBufferSize(ioBuffer),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
}

// Stop ends every open stream and every wait for an approval with Unavailable, refuses new ones, and
// reports NOT_SERVING to the standard health service. Other calls go on: the owner of the listener
// drains them.
func (s *Server) Stop() {
	s.health.Shutdown()
	s.streams.stop(errStopping)
}

// EndStreams ends the open streams and waits of the callers that match says yes to, with Unauthenticated. It
// is for credentials that were revoked.
func (s *Server) EndStreams(match func(identity.Caller) bool) {
	s.streams.end(match, errRevoked)
}

// endDevices ends what a device had open that was removed or revoked. It is a sink on the bus.
func (s *Server) endDevices(e events.Event) {
	if ended, ok := e.Payload.(identity.Ended); ok {
		s.EndStreams(ended.Covers)
	}
}

// The errors of this package.
var (
	errNoCaller = errs.Define(errs.Unauthenticated, "rpc.no_caller", "who is calling is not known on this connection")
	errRole     = errs.Define(errs.Denied, "rpc.role", "these credentials are for another role than the one asked for in x-hanzo-role")
	errForeign  = errs.Define(errs.Unauthenticated, "rpc.foreign_user", "this socket serves the user that runs the daemon only")
	errMethod   = errs.Define(errs.Denied, "rpc.method", "there is no such operation")
	errStopping = errs.Define(errs.Unavailable, "rpc.stopping", "the daemon is stopping")
	errRevoked  = errs.Define(errs.Unauthenticated, "rpc.revoked", "the credentials of this stream were revoked")
	errExpired  = errs.Define(errs.Unauthenticated, "rpc.expired", "the token of this stream has expired; sign in again")
	errStreams  = errs.Define(errs.Exhausted, "rpc.too_many_streams", "too many watches are open; try again later")
	errSlow     = errs.Define(errs.Exhausted, "rpc.slow_reader", "the reader was too slow and changes were lost; watch again")
	errTime     = errs.Define(errs.Invalid, "rpc.time", "a time is out of range")
	errDuration = errs.Define(errs.Invalid, "rpc.duration", "a duration is out of range")
	errValue    = errs.Define(errs.Invalid, "rpc.value", "a value cannot be written as JSON")
	errAnswer   = errs.Define(errs.Conflict, "rpc.answer", "the call ran, but its answer cannot be carried as a JSON value")
	errRender   = errs.Define(errs.Internal, "rpc.render", "an event could not be rendered")
	errFile     = errs.Define(errs.Unavailable, "rpc.policy_file", "the exec approvals file cannot be carried as a JSON object")
	errNodeFile = errs.Define(errs.Unavailable, "rpc.node_policy_file", "the answer of the node is no exec approvals file")
	errPanic    = errs.Define(errs.Internal, "rpc.panic", "a handler panicked")
)

// call is the shape of every unary handler: translate, call the domain as the caller, translate
// back. Errors are mapped by the interceptor, so that refusals and answers share one mapping.
func call[Req, In, Out, Resp any](
	ctx context.Context, req Req,
	from func(Req) (In, error),
	do func(context.Context, identity.Caller, In) (Out, error),
	to func(Out) (Resp, error),
) (Resp, error) {
	var none Resp
	c, ok := callerFrom(ctx)
	if !ok {
		return none, errNoCaller
	}
	in, err := from(req)
	if err != nil {
		return none, err
	}
	out, err := do(ctx, c, in)
	if err != nil {
		return none, err
	}
	return to(out)
}

// clampInt32 carries a count into a 32-bit field.
func clampInt32(n int) int32 {
	return int32(max(math.MinInt32, min(math.MaxInt32, n)))
}
