// Package nodes knows the machines and phones that offer commands: the registry of live links,
// the policy of which commands a platform may offer, and invoke.
//
// It imports leaves, and push for pushes to phones. Approvals reach it through Guard, paired devices
// through Paired. Readers of the registry take an immutable snapshot; writers make the next one. An
// invoke waits in its caller's goroutine. The package owns those of calls that are held for a node
// that is not connected; Stop ends them.
package nodes

import (
	"context"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// Node is one machine or app that offers commands.
type Node struct {
	ID              string
	DisplayName     string
	Platform        string
	Version         string
	CoreVersion     string
	UIVersion       string
	DeviceFamily    string
	ModelIdentifier string
	// RemoteIP is empty for local nodes.
	RemoteIP string
	// Caps and Commands are sorted and without repeats; Commands holds what the node declared and
	// its platform allows.
	Caps     []string
	Commands []string
	// Permissions is nil when the node sent none.
	Permissions map[string]bool
	PathEnv     string
	// ConnectedAt is zero for nodes that are not connected.
	ConnectedAt time.Time
	Paired      bool
	Connected   bool

	// Link says how the node is connected, empty when it is not.
	Link LinkKind
	// Tenant is the organisation whose credential let the node in, empty for the gateway's own. Nodes of a
	// tenant have it in front of their id (QualifiedID).
	Tenant string
	// InstanceID and what follows are what linked instances say of themselves (tunnel.md §1.14); empty for
	// others. Metadata is JSON text, nil for none.
	InstanceID string
	AppKind    string
	Cwd        string
	SessionURL string
	Metadata   []byte
	Exposed    []Exposed
	// Session is the technician session that the node is in tunnel mode for, empty in heartbeat mode (tunnel.md §3.1).
	Session string
	// LastSeen is when something came from the node last, zero where nobody knows.
	LastSeen time.Time
}

// LinkKind is a kind of connection of a node.
type LinkKind string

// The kinds of connections.
const (
	LinkGRPC      LinkKind = "grpc"      // NodeService.Attach
	LinkWebSocket LinkKind = "websocket" // the gateway protocol
	LinkTunnel    LinkKind = "tunnel"    // /v1/tunnel and /v1/relay (tunnel.md §1)
)

// Exposed is an address under which something of a node can be reached (tunnel.md §1.12).
type Exposed struct {
	Name string
	URL  string
	// TTL is zero for as long as the node is connected.
	TTL time.Duration
}

// QualifiedID is the registry's id of an instance of a tenant: ids of two tenants never meet.
func QualifiedID(tenant, instanceID string) string {
	return identity.QualifiedNode(tenant, instanceID)
}

// Channel is a stream of bytes to and from a node, beside its link and with a flow control of its own: a
// side that does not read stops the other side from writing. One goroutine may read while another writes.
type Channel interface {
	// Read returns io.EOF when the node has ended its direction, and another error when the channel broke.
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	// CloseWrite ends this direction; what was written arrives before that.
	CloseWrite() error
	// Close gives both directions up. An error tells the node why.
	Close(err error) error
}

// ID is the id of a node in the registry: its device, else the instance that it says it is, else its
// kind of client (nodes-approvals.md §1.3). Ids of devices are theirs alone: a node without a device
// that claims one is refused.
func ID(deviceID, instanceID, clientID string) (string, error) {
	instanceID = trim(instanceID)
	switch {
	case deviceID != "":
		return deviceID, nil
	case identity.LooksLikeDevice(instanceID):
		return "", ErrDeviceClaimed
	case instanceID != "":
		return instanceID, nil
	case identity.LooksLikeDevice(trim(clientID)): // some doors take any text for it
		return "", ErrDeviceClaimed
	}
	return clientID, nil
}

// Link is one live connection of a node, made by a door. Its methods may be called concurrently.
type Link interface {
	// Invoke hands the node a request. It returns when the request is queued or written; an error
	// means that the node will not see it.
	Invoke(Request) error
	// Close ends the connection. It does not wait.
	Close(reason string)
}

// Request is an invoke on its way to a node.
type Request struct {
	ID      string
	NodeID  string
	Command string
	// Params is JSON text, nil for none.
	Params []byte
	// Timeout is what the caller asked for, nil when it asked for nothing.
	Timeout        *time.Duration
	IdempotencyKey string
}

// NodeError is a node's own account of a failure.
type NodeError struct {
	// Code and Message are nil when the node left them out.
	Code    *string
	Message *string
	// Details is JSON text, nil for none.
	Details []byte
}

// Guard decides on privileged commands and may rewrite their parameters. It is satisfied by
// approvals.
type Guard interface {
	// GuardRun is asked before system.run goes to a node. It returns the parameters to send, as
	// JSON text, and what hears once how the run ended: whether the node may have seen it, and the
	// node's answer as JSON text or the error. That does not block.
	GuardRun(ctx context.Context, c identity.Caller, nodeID string, params []byte) ([]byte, func(sent bool, answer []byte, err error), error)
	// GuardCall is GuardRun for the other privileged commands of linked machines. Allowed says that the
	// configuration lets the command go, so that it is only recorded; knows, that the node knows the mark of an
	// approved call.
	GuardCall(ctx context.Context, c identity.Caller, nodeID, command string, params []byte, allowed, knows bool) ([]byte, func(sent bool, answer []byte, err error), error)
	// AskCall records a question about a call that GuardCall refused, and calls asked with it. It returns when
	// the call was allowed, with an error when it was not. A timeout of zero is the usual one.
	AskCall(ctx context.Context, c identity.Caller, nodeID, command string, params []byte, timeout time.Duration, asked func(approvalID string, argv []string, cwd string, envKeys []string, expires time.Time) error) error
}

// Question is what is asked about a call that takes an approval.
type Question struct {
	ApprovalID string
	// Argv is the call in words, Cwd where it runs, EnvKeys the names of environment overrides.
	Argv      []string
	Cwd       string
	EnvKeys   []string
	ExpiresAt time.Time
}

// FieldAsk is set in a guard's refusal of a call that can be asked for.
const FieldAsk = "ask"

// Decision is what a person at a node answered there, about a run that came without an approval.
type Decision struct {
	NodeID string
	// RunID and the texts below are as the node says.
	RunID      string
	SessionKey string
	Command    string
	// Decision is allow-once, allow-always or deny; By says what they answered with.
	Decision string
	By       string
}

// Decisions keeps them.
type Decisions interface {
	NodeDecided(ctx context.Context, c identity.Caller, d Decision) error
}

// Observer follows the commands that run on nodes. It is satisfied by runs, in the form that runtime
// gives them. Its methods do not block.
type Observer interface {
	// Leaving is called right before a system.run goes to its node; an error keeps it here.
	Leaving(Leaving) error
	// Wrote takes what the command writes, in the order in which the node sends it. Offset is how many
	// bytes of the stream (stdout or stderr) stand before it.
	Wrote(invokeID, stream string, offset int64, data []byte)
	// Left is called once for each Leaving without an error: the node answered, or its answer will not
	// be seen. Sent says that the node may have seen the command.
	Left(invokeID string, out InvokeOut, err error, sent bool)
}

// Leaving is a system.run on its way to a node.
type Leaving struct {
	InvokeID string
	NodeID   string
	Caller   identity.Caller
	// Run is the daemon's own name for it, empty for a call of a client.
	Run string
	// Params is what the node is sent, JSON text.
	Params []byte
	// Streams says that the node sends what the command writes while it runs.
	Streams bool
}

// Paired lists the paired devices with the role node. It is satisfied by identity.
type Paired interface {
	PairedNodes() []Node
}

// Store keeps what outlasts a connection. Writes are durable when they return nil.
type Store interface {
	// NodeName returns the name that people gave a node, "" when there is none.
	NodeName(id string) (string, error)
	SetNodeName(ctx context.Context, id, name string) error
	// Pairings returns all open requests, expired ones among them, and all paired nodes, in no order.
	Pairings() ([]PairingRequest, []Pairing, error)
	// Pairing reports whether the node is paired.
	Pairing(nodeID string) (Pairing, bool, error)
	// UpdatePairings runs change in a transaction. Nothing is written when it fails; its error is
	// returned as it is. It may run more than once.
	UpdatePairings(ctx context.Context, change func(PairingTx) error) error
	// Registration reports where pushes for a node go.
	Registration(nodeID string) (Registration, bool, error)
	// PutRegistration fails with ErrTooManyPushes when it would be one more than max.
	PutRegistration(ctx context.Context, r Registration, max int) error
	// DropRegistration removes a registration that still has the token.
	DropRegistration(ctx context.Context, nodeID, token string) error
	// VoiceWake returns the words that SetVoiceWake stored, nil for none.
	VoiceWake() ([]string, error)
	SetVoiceWake(ctx context.Context, words []string) error
}

// ListIn and ListOut are the arguments and the result of List.
type (
	ListIn struct {
		ConnectedOnly bool
		// AppKind leaves out all but the instances of a kind; empty for all nodes.
		AppKind string
	}
	ListOut struct {
		At time.Time
		// Nodes is in display order: connected first, then by name.
		Nodes []Node
	}
)

// DescribeIn and DescribeOut are the arguments and the result of Describe.
type (
	DescribeIn struct {
		NodeID string
	}
	DescribeOut struct {
		At   time.Time
		Node Node
	}
)

// RenameIn and RenameOut are the arguments and the result of Rename.
type (
	RenameIn struct {
		NodeID      string
		DisplayName string
	}
	RenameOut struct {
		NodeID      string
		DisplayName string
	}
)

// InvokeIn and InvokeOut are the arguments and the result of Invoke.
type (
	InvokeIn struct {
		NodeID  string
		Command string
		// Params is JSON text, nil for none.
		Params []byte
		// Timeout is DefaultTimeout when nil. Zero means no limit of its own: the wait ends with the
		// answer, the link or the caller, at the latest after MaxTimeout.
		Timeout *time.Duration
		// IdempotencyKey names the call: a repetition gets the first answer, never a second run.
		IdempotencyKey string
		// WaitForNode is how long the call may be held for a node that is not connected, nil for not at
		// all, at most MaxNodeWait.
		WaitForNode *time.Duration
		// Run is the daemon's own name for a system.run. Doors leave it empty.
		Run string
	}
	InvokeOut struct {
		NodeID  string
		Command string
		// Payload is the node's answer as JSON text, nil when it sent none.
		Payload []byte
		// PayloadJSON is the text that the node sent, nil when it sent a value.
		PayloadJSON *string
	}
)

// AskIn is the argument of Ask. ApprovalTimeout is how long the question stands, zero for the usual time.
type AskIn struct {
	Invoke          InvokeIn
	ApprovalTimeout time.Duration
}

// ResultIn and ResultOut are the arguments and the result of Result.
type (
	ResultIn struct {
		NodeID   string
		InvokeID string
		OK       bool
		// Payload is JSON text, nil for none.
		Payload     []byte
		PayloadJSON *string
		Error       *NodeError
	}
	ResultOut struct {
		// Ignored says that nobody waits for this answer: late, unknown or another node's.
		Ignored bool
	}
)

// Changed is the payload of the events node.connected, node.disconnected, node.renamed and node.mode.
type Changed struct {
	Node Node
}

// Concerns implements events.Concerning.
func (c Changed) Concerns() string { return c.Node.ID }

// The errors of this package. Fields name the occurrence.
var (
	ErrTargetRequired   = errs.Define(errs.Invalid, "nodes.target_required", "name a node and a command")
	ErrNodeIDRequired   = errs.Define(errs.Invalid, "nodes.id_required", "name a node")
	ErrNameRequired     = errs.Define(errs.Invalid, "nodes.name_required", "give a display name")
	ErrNameTooLong      = errs.Define(errs.Invalid, "nodes.name_too_long", "the display name is longer than 200 characters")
	ErrUnknown          = errs.Define(errs.NotFound, "nodes.unknown", "no such node is connected or paired")
	ErrNotConnected     = errs.Define(errs.Unavailable, "nodes.not_connected", "the node is not connected")
	ErrDisconnected     = errs.Define(errs.Unavailable, "nodes.disconnected", "the node disconnected before it answered")
	ErrNoInstance       = errs.Define(errs.NotFound, "nodes.no_instance", "the node is no linked instance")
	ErrNoInfo           = errs.Define(errs.Denied, "nodes.no_info", "the node offers neither system.info nor status.get")
	ErrTenantID         = errs.Define(errs.Internal, "nodes.tenant_id", "the id of the node is not one of its tenant")
	ErrBusy             = errs.Define(errs.Unavailable, "nodes.busy", "node busy")
	ErrParams           = errs.Define(errs.Invalid, "nodes.params", "the params of a command are a JSON object")
	ErrTooLarge         = errs.Define(errs.Invalid, "nodes.too_large", "the request is larger than the node takes at once")
	ErrSend             = errs.Define(errs.Unavailable, "nodes.send", "the request could not be sent to the node")
	ErrTimeout          = errs.Define(errs.Deadline, "nodes.timeout", "the node did not answer in time")
	ErrNodeFailed       = errs.Define(errs.Unavailable, "nodes.failed", "the node could not do it")
	ErrPolicyCommand    = errs.Define(errs.Invalid, "nodes.policy_command", "exec approvals of a node have operations of their own")
	ErrNotAllowed       = errs.Define(errs.Denied, "nodes.not_allowed", "the command is not allowed on the node's platform (see gateway.nodes.allowCommands)")
	ErrNotDeclared      = errs.Define(errs.Denied, "nodes.not_declared", "the node does not offer the command")
	ErrCannotKill       = errs.Define(errs.Conflict, "nodes.cannot_kill", "the node cannot end a command for the gateway: its program is another or an older one; end it on the node")
	ErrNoCommands       = errs.Define(errs.Denied, "nodes.no_commands", "the node offers no commands")
	ErrDeviceClaimed    = errs.Define(errs.Denied, "nodes.device_claimed", "the instance id is that of a device; connect with the key of the device")
	ErrForeignNode      = errs.Define(errs.Denied, "nodes.foreign", "a node may speak for itself only")
	ErrKeyReused        = errs.Define(errs.Conflict, "nodes.key_reused", "the idempotency key was used for a different call")
	ErrAnswerGone       = errs.Define(errs.Conflict, "nodes.answer_gone", "the call ran, but its answer was too large to be kept for a repetition")
	ErrFirstGone        = errs.Define(errs.Unknown, "nodes.first_gone", "the first call with this key went away before the answer came; the command may have run")
	errFirstLeft        = errs.New(errs.Unavailable, "the first call with this key went away before the node could see it")
	ErrTooManyInvokes   = errs.Define(errs.Exhausted, "nodes.too_many_invokes", "too many calls are waiting for nodes; try again later")
	ErrTooManyNodes     = errs.Define(errs.Exhausted, "nodes.too_many_nodes", "too many nodes are connected")
	ErrEventPayload     = errs.Define(errs.Invalid, "nodes.event_payload", "the event is larger than 256 KiB, or than 8 MiB for agent.request")
	ErrTooManySessions  = errs.Define(errs.Exhausted, "nodes.too_many_sessions", "a node may subscribe to 64 sessions with keys of 512 bytes at the most")
	ErrWaitRange        = errs.Define(errs.Invalid, "nodes.wait_range", "a call can wait for a node for an hour at the most")
	ErrTooManyHeld      = errs.Define(errs.Exhausted, "nodes.too_many_held", "too many calls wait for nodes that are not connected; try again later")
	ErrNoRegistration   = errs.Define(errs.NotFound, "nodes.no_registration", "the node did not register for pushes; open its app while it is connected")
	ErrPushText         = errs.Define(errs.Invalid, "nodes.push_text", "title and body of a push may have 1,000 characters together")
	ErrTooManyPushes    = errs.Define(errs.Exhausted, "nodes.too_many_registrations", "too many nodes registered for pushes")
	ErrTriggers         = errs.Define(errs.Invalid, "nodes.triggers", "give the triggers as a list of texts")
	ErrTimeoutNegative  = errs.Define(errs.Invalid, "nodes.timeout_range", "the timeout is negative")
	ErrRequestUnknown   = errs.Define(errs.NotFound, "nodes.request_unknown", "no such pairing request is open")
	ErrTooManyRequests  = errs.Define(errs.Exhausted, "nodes.too_many_requests", "too many nodes wait to be paired; decide on some first")
	ErrTooManyPairings  = errs.Define(errs.Exhausted, "nodes.too_many_pairings", "too many nodes are paired")
	ErrPairingTooLarge  = errs.Define(errs.Invalid, "nodes.pairing_too_large", "a pairing request may have texts of 256 bytes and lists of 256 entries at the most")
	ErrConnectionClosed = errs.Define(errs.Unavailable, "nodes.closing", "the gateway is stopping")
)
