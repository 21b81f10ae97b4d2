package runtime

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/errs"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes/host"
)

// The ways in which a node host reaches its gateway, as node.json names them.
const (
	viaLocal     = "local"     // gRPC at the local socket of the same user
	viaGRPC      = "grpc"      // gRPC over TLS
	viaWebSocket = "websocket" // the legacy protocol
)

const (
	// askTime bounds the question which ports the daemon of this machine listens on.
	askTime = 2 * time.Second
	// absentFor is how long a way that was not there, while another was, is not tried again.
	absentFor = time.Hour
)

// way is a host.Connector that can tell whether it leads anywhere.
type way interface {
	host.Connector
	// Absent reports whether an error of Connect says that there is no such way to this gateway. A
	// gateway that refuses, or is not the one that it should be, is not absent.
	Absent(err error) bool
}

// choice tries the ways to one gateway, the best first. It goes on to the next one only when the one
// before is absent: never because a gateway refuses or cannot be trusted.
type choice struct {
	names []string
	ways  []way
	// worked is told of the way that has led to the gateway.
	worked func(name string)
	now    func() time.Time

	absent []time.Time // since when, by way
	last   way         // whose error is to be explained
}

// Connect implements host.Connector.
func (c *choice) Connect(ctx context.Context, offer host.Offer, invoke func(host.Link, host.Request)) (host.Link, error) {
	if c.absent == nil {
		c.absent = make([]time.Time, len(c.ways))
	}
	var tried []int
	var err error
	for i, w := range c.ways {
		if i < len(c.ways)-1 && !c.absent[i].IsZero() && c.now().Sub(c.absent[i]) < absentFor {
			continue
		}
		var l host.Link
		c.last = w
		if l, err = w.Connect(ctx, offer, invoke); err == nil {
			for _, t := range tried {
				c.absent[t] = c.now()
			}
			c.absent[i] = time.Time{}
			if c.names[i] == viaLocal {
				// Whoever takes the daemon's port while it is away gets no secret of this machine.
				c.ways, c.absent = c.ways[:i+1], c.absent[:i+1]
			}
			c.worked(c.names[i])
			return l, nil
		}
		if !w.Absent(err) || ctx.Err() != nil {
			return nil, err
		}
		tried = append(tried, i)
	}
	clear(c.absent) // nobody is there: nothing is known of the ways
	return nil, err
}

// Absent says that none of the ways leads anywhere: a host.Connector may.
func (c *choice) Absent(err error) bool { return c.last != nil && c.last.Absent(err) }

// Explain implements host.Connector.
func (c *choice) Explain(log *slog.Logger, err error) {
	if c.last != nil {
		c.last.Explain(log, err)
	}
}

// rpcNode connects a node host by gRPC: to the local socket, or over TLS.
type rpcNode struct {
	via string
	// target is the daemon, without a token.
	target client.Options
	// port is one that the daemon at the socket has to listen on, to be the one that is meant; 0 takes
	// any.
	port int
	// shared is the gateway's token or password; empty for a paired device and at the socket.
	shared string
	self   dial.Client
	device *dial.Identity // nil without one
	tokens *dial.Tokens   // nil keeps none
	now    func() time.Time
	log    *slog.Logger
}

// errOtherDaemon says that the daemon of this machine is not the gateway that is meant.
var errOtherDaemon = errors.New("the daemon of this user listens on another port than that of the gateway")

// Connect implements host.Connector.
func (n *rpcNode) Connect(ctx context.Context, offer host.Offer, invoke func(host.Link, host.Request)) (host.Link, error) {
	if n.port != 0 {
		if err := n.listens(ctx); err != nil {
			return nil, err
		}
	}
	stored := ""
	if n.tokens != nil {
		var err error
		if stored, err = n.tokens.Get(identity.RoleNode); err != nil {
			n.log.Error("the stored device token cannot be read; connecting without it", "path", n.tokens.Path, "err", err)
		}
	}
	token := n.shared
	if token == "" && n.via != viaLocal {
		token = stored
	}
	l, err := n.attach(ctx, token, offer, invoke)
	if refusedToken(err) && n.shared != "" && stored != "" {
		// The secret was changed; the device may still be known.
		if l, err = n.attach(ctx, stored, offer, invoke); refusedToken(err) {
			n.forget()
		}
	}
	if err != nil {
		return nil, err
	}
	n.port = 0 // it is this daemon, wherever it listens later
	if fresh := l.Welcome().GetDeviceToken(); n.tokens != nil && fresh != "" && fresh != stored {
		if err := n.tokens.Put(identity.RoleNode, fresh, nil, n.now()); err != nil {
			n.log.Error("the device token could not be stored; the next connection needs the gateway's token or password again", "path", n.tokens.Path, "err", err)
		}
	}
	return l, nil
}

// forget drops a device token that the gateway no longer takes.
func (n *rpcNode) forget() {
	if err := n.tokens.Drop(identity.RoleNode); err != nil {
		n.log.Error("the refused device token could not be dropped", "path", n.tokens.Path, "err", err)
	}
}

// listens asks the daemon at the socket whether it is the gateway that is meant.
func (n *rpcNode) listens(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	ports, err := portsOf(ctx, n.target.Socket)
	if err != nil {
		return err
	}
	if !slices.Contains(ports, n.port) {
		return errOtherDaemon
	}
	return nil
}

// portsOf returns the TCP ports of the daemon at a socket.
func portsOf(ctx context.Context, socket string) ([]int, error) {
	c, err := client.Dial(ctx, client.Options{Socket: socket, ClientName: "hanzod-node/" + Version})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	st, err := c.System.GetStatus(ctx, &systemv1.GetStatusRequest{})
	if err != nil {
		return nil, err
	}
	var out []int
	for _, addr := range st.GetListen() {
		if _, text, err := net.SplitHostPort(addr); err == nil {
			if p, err := strconv.Atoi(text); err == nil {
				out = append(out, p)
			}
		}
	}
	return out, nil
}

func (n *rpcNode) attach(ctx context.Context, token string, offer host.Offer, invoke func(host.Link, host.Request)) (*rpcLink, error) {
	o := n.target
	o.Token, o.AsNode, o.ClientName = token, true, "hanzod-node/"+Version
	c, err := client.Dial(ctx, o)
	if err != nil {
		return nil, permanent(err)
	}
	reg := &nodesv1.NodeRegistration{
		InstanceId: n.self.InstanceID, ClientId: n.self.ID, ClientMode: n.self.Mode, DisplayName: n.self.DisplayName,
		Version: n.self.Version, Platform: dial.Platform(), DeviceFamily: n.self.DeviceFamily, ModelIdentifier: n.self.ModelIdentifier,
		Caps: offer.Caps, Commands: offer.Commands, PathEnv: offer.PathEnv,
	}
	l := &rpcLink{c: c, via: n.via}
	opts := client.NodeOptions{
		Registration: reg, Now: n.now,
		OnInvoke: func(nl *client.NodeLink, i *nodesv1.NodeInvoke) {
			r := host.Request{
				ID: i.GetInvokeId(), NodeID: nl.Welcome().GetNodeId(), Command: strings.TrimSpace(i.GetCommand()), ParamsJSON: i.ParamsJson,
				Timeout: i.GetTimeout().AsDuration(),
			}
			if r.ID != "" && r.Command != "" {
				invoke(&rpcLink{nl, c, n.via}, r)
			}
		},
		OnRefused: func(r *nodesv1.NodeReportRefused) {
			n.log.Warn("the gateway did not take an event", "event", r.GetEvent(), "answer", r.GetMessage())
		},
	}
	if n.device != nil {
		opts.Prove = func(nonce string) (*nodesv1.DeviceProof, error) { return n.prove(reg, token, nonce), nil }
	}
	if l.NodeLink, err = c.AttachNode(ctx, opts); err != nil {
		_ = c.Close() // nothing goes over it
		return nil, err
	}
	return l, nil
}

// prove signs the connection as the legacy protocol does (protocol.md §4.5).
func (n *rpcNode) prove(reg *nodesv1.NodeRegistration, token, nonce string) *nodesv1.DeviceProof {
	at := n.now().Truncate(time.Millisecond)
	f := identity.Signed{
		DeviceID: n.device.ID, ClientID: reg.GetClientId(), ClientMode: reg.GetClientMode(), Role: identity.RoleNode,
		SignedAt: at.UnixMilli(), Token: token, Nonce: nonce, Platform: reg.GetPlatform(), DeviceFamily: reg.GetDeviceFamily(),
	}
	return &nodesv1.DeviceProof{
		DeviceId: n.device.ID, PublicKey: n.device.PublicKey(), Signature: n.device.Sign(f.Payload("v3")),
		SignedAt: timestamppb.New(at), Nonce: nonce,
	}
}

// permanent marks the errors that no retry mends.
func permanent(err error) error {
	if e, ok := errors.AsType[*client.Error](err); ok && e.Class == client.Invalid {
		return errs.New(errs.Invalid, e.Message)
	}
	return err
}

func clientCode(err error) string {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e.Code
	}
	return ""
}

// refusedToken reports whether the gateway does not know the token.
func refusedToken(err error) bool {
	switch clientCode(err) {
	case identity.ErrBearerNotAccepted.Code, identity.ErrAuth.Code, identity.ErrEnded.Code:
		return true
	}
	return false
}

// Absent implements way.
func (n *rpcNode) Absent(err error) bool {
	if _, ok := errors.AsType[*client.NotRunning](err); ok || errors.Is(err, errOtherDaemon) {
		return true
	}
	switch clientCode(err) {
	case client.CodeNotTLS, client.CodeNotDaemon:
		return true // what would be tried next is no weaker: it is known by the same pin
	}
	e, ok := errors.AsType[*client.Error](err)
	return ok && status.Code(e.Err) == codes.Unimplemented // an older daemon
}

// Explain implements host.Connector.
func (n *rpcNode) Explain(log *slog.Logger, err error) {
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		log.Warn("no connection to the gateway", "err", err)
		return
	}
	switch e.Code {
	case client.CodeLost:
		log.Info("the gateway stops or restarts", "err", err)
	case client.CodeWrongPin, client.CodeUnknownDaemon:
		log.Error("it is not known who answers for the gateway, so this machine is not offered to it; give its fingerprint with --tls-fingerprint", "err", err)
	case identity.ErrPairingRequired.Code:
		log.Warn("this machine is not paired with the gateway yet; approve the request there", "request", e.Fields["requestId"], "reason", e.Fields["reason"], "device", n.deviceID())
	case identity.ErrAuth.Code, identity.ErrBearerNotAccepted.Code, identity.ErrEnded.Code:
		if n.shared == "" {
			log.Warn("the gateway no longer takes this machine's device token; give the gateway's token or password, or pair this machine again", "device", n.deviceID())
		} else {
			log.Warn("the gateway refused the secret; give it the gateway's current token or password", "answer", e.Message)
		}
	case identity.ErrBearerRequired.Code:
		log.Warn("the gateway wants a secret; give its token or password, or enrol this machine with hanzod node --enroll", "device", n.deviceID())
	case identity.ErrRateLimited.Code:
		log.Warn("the gateway has locked out this address after failed attempts; check the token, then wait")
	case identity.ErrSignatureStale.Code:
		log.Warn("the gateway finds the signature too old or too new; set the clock of this machine", "answer", e.Message)
	default:
		log.Warn("no connection to the gateway", "err", err, "code", e.Code)
	}
}

func (n *rpcNode) deviceID() string {
	if n.device == nil {
		return ""
	}
	return n.device.ID
}

// rpcLink is a node's link by gRPC. It implements host.Link.
type rpcLink struct {
	*client.NodeLink
	c   *client.Client
	via string
}

// Info implements host.Link.
func (l *rpcLink) Info() host.Info {
	w := l.Welcome()
	return host.Info{Via: l.via, Gateway: l.c.Target(), Version: w.GetVersion(), ConnID: w.GetConnId()}
}

// Answer implements host.Link. An answer that is too large is told as a failure: somebody waits for it.
func (l *rpcLink) Answer(r host.Request, result host.Result) error {
	m := &nodesv1.NodeResult{InvokeId: r.ID, Ok: result.OK, PayloadJson: result.PayloadJSON}
	if result.Error != nil {
		m.Error = &nodesv1.NodeError{Code: result.Error.Code, Message: result.Error.Message}
	}
	err := l.NodeLink.Answer(m)
	if clientCode(err) != client.CodeTooLarge {
		return err
	}
	return l.NodeLink.Answer(&nodesv1.NodeResult{InvokeId: r.ID, Error: &nodesv1.NodeError{Code: "UNAVAILABLE", Message: "UNAVAILABLE: " + err.Error()}})
}

// Emit implements host.Link.
func (l *rpcLink) Emit(event, payloadJSON string) error { return l.Report(event, payloadJSON) }

// Channel implements host.Channeler.
func (l *rpcLink) Channel(ctx context.Context, name string) (host.Channel, error) {
	ch, err := l.NodeLink.Channel(ctx, name)
	if err != nil {
		return nil, err
	}
	return ch, nil
}

// Carry implements host.Carrying.
func (l *rpcLink) Carry(ctx context.Context, version string) (host.Carrier, error) {
	c, err := l.c.Carry(ctx, version)
	if err != nil {
		return nil, err // not a nil carrier in an interface
	}
	return c, nil
}

// Close implements host.Link.
func (l *rpcLink) Close() error {
	err := l.NodeLink.Close()
	return errors.Join(err, l.c.Close())
}
