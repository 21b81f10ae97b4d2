package dial

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes/host"
)

// MaxInvokes is how many invokes are served at once; more are answered UNAVAILABLE.
const MaxInvokes = host.MaxInvokes

// maxInvokeTimeout bounds what a gateway says of its patience; longer is as good as nothing said.
const maxInvokeTimeout = 24 * time.Hour

// Phase and State are what RunNode reports.
type (
	Phase = host.Phase
	State = host.State
)

// The phases.
const (
	Connecting = host.Connecting
	Connected  = host.Connected
	Waiting    = host.Waiting
)

// NodeOptions of RunNode and NewNode. Dial and, for RunNode, Host are required.
type NodeOptions struct {
	// Dial is how to connect. Role, Caps, Commands, PathEnv and OnEvent are set here; Auth holds the shared
	// secrets.
	Dial Options
	Host *host.Host
	// Tokens keeps the device token; nil keeps none. It is used with Dial.Device only.
	Tokens *Tokens
	// OnState, Wait and Rand are those of host.Serve.
	OnState func(State)
	// Carry opens a carrier for tunnels to the gateway of a link, with the device token that it has, "" without one. Nil
	// opens none.
	Carry func(ctx context.Context, deviceToken, version string) (host.Carrier, error)
	// OnConn is told of each connection that is up; nil tells nobody.
	OnConn func(*Conn)
	Wait   func(ctx context.Context, d time.Duration)
	Rand   func() float64
	Log    *slog.Logger
}

// RunNode is host.Serve over this dialect.
func RunNode(ctx context.Context, o NodeOptions) error {
	n := NewNode(o)
	return host.Serve(ctx, host.ServeOptions{
		Host: o.Host, Connector: n, OnState: o.OnState, Wait: o.Wait, Rand: o.Rand, Now: n.o.Dial.Now, Log: o.Log,
	})
}

// Node connects node hosts to a gateway in this dialect. It implements host.Connector.
type Node struct{ o NodeOptions }

// NewNode returns a connector. Of the options it uses Dial, Tokens, OnConn and Log.
func NewNode(o NodeOptions) *Node {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dial.Now == nil {
		o.Dial.Now = time.Now
	}
	if o.Dial.Log == nil {
		o.Dial.Log = o.Log
	}
	if o.Dial.Device == nil {
		o.Tokens = nil
	}
	return &Node{o}
}

// Connect implements host.Connector.
func (n *Node) Connect(ctx context.Context, offer host.Offer, invoke func(host.Link, host.Request)) (host.Link, error) {
	d := n.o.Dial
	shared := d.Auth.Token != "" || d.Auth.Password != ""
	if n.o.Tokens != nil {
		token, err := n.o.Tokens.Get(identity.RoleNode)
		if err != nil {
			n.o.Log.Error("the stored device token cannot be read; connecting without it", "path", n.o.Tokens.Path, "err", err)
		}
		d.Auth.DeviceToken = token
		if !shared {
			d.Auth.Token = token // older gateways look there only
		}
	}
	d.Role, d.Scopes = identity.RoleNode, nil
	d.Caps, d.Commands, d.PathEnv = offer.Caps, offer.Commands, offer.PathEnv
	gateway := redact(d.URL)
	d.OnEvent = func(c *Conn, e Event) {
		if e.Name != "node.invoke.request" {
			return
		}
		r, ok := parseInvoke(e)
		if !ok {
			n.o.Log.Debug("an invoke without id, node or command was ignored")
			return
		}
		invoke(n.link(c, gateway), r)
	}
	c, err := Dial(ctx, d)
	if err != nil {
		n.forget(err, shared)
		return nil, err
	}
	n.remember(c.Hello(), d.Auth.DeviceToken)
	if n.o.OnConn != nil {
		n.o.OnConn(c)
	}
	return n.link(c, gateway), nil
}

// link is a Conn as a node host sees it.
func (n *Node) link(c *Conn, gateway string) host.Link {
	l := &nodeLink{c, gateway}
	if n.o.Carry == nil {
		return l
	}
	return &carryingLink{l, n}
}

// carryingLink is a nodeLink whose gateway takes carriers.
type carryingLink struct {
	*nodeLink
	n *Node
}

// Carry implements host.Carrying.
func (l *carryingLink) Carry(ctx context.Context, version string) (host.Carrier, error) {
	token := ""
	if t := l.n.o.Tokens; t != nil {
		token, _ = t.Get(identity.RoleNode) // the gateway decides about one without
	}
	return l.n.o.Carry(ctx, token, version)
}

// Absent reports whether an error of Connect says that no gateway speaks this dialect there, and not
// that one refuses, or is another than the pinned one.
func (n *Node) Absent(err error) bool {
	_, refused := errors.AsType[*RefusedError](err)
	return !refused && !errors.Is(err, ErrFingerprint) && errs.ClassOf(err) != errs.Invalid
}

// nodeLink is a Conn as a node host sees it.
type nodeLink struct {
	*Conn
	gateway string
}

// Info implements host.Link.
func (l *nodeLink) Info() host.Info {
	h := l.Hello()
	return host.Info{Via: "websocket", Gateway: l.gateway, Version: h.ServerVersion, ConnID: h.ConnID}
}

// resultFrame is the parameters of node.invoke.result.
type resultFrame struct {
	ID          string       `json:"id"`
	NodeID      string       `json:"nodeId"`
	OK          bool         `json:"ok"`
	PayloadJSON *string      `json:"payloadJSON,omitempty"`
	Error       *resultError `json:"error,omitempty"`
}

type resultError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Answer implements host.Link.
func (l *nodeLink) Answer(r host.Request, result host.Result) error {
	f := resultFrame{ID: r.ID, NodeID: r.NodeID, OK: result.OK, PayloadJSON: result.PayloadJSON}
	if result.Error != nil {
		f.Error = &resultError{result.Error.Code, result.Error.Message}
	}
	return l.Send("node.invoke.result", f)
}

type eventFrame struct {
	Event       string `json:"event"`
	PayloadJSON string `json:"payloadJSON"`
}

// Emit implements host.Link.
func (l *nodeLink) Emit(event, payloadJSON string) error {
	return l.Send("node.event", eventFrame{event, payloadJSON})
}

func (n *Node) remember(h Hello, known string) {
	if n.o.Tokens == nil || h.DeviceToken == "" || h.DeviceToken == known {
		return
	}
	if err := n.o.Tokens.Put(identity.RoleNode, h.DeviceToken, h.Scopes, n.o.Dial.Now()); err != nil {
		n.o.Log.Error("the device token could not be stored; the next connection needs the gateway's token or password again", "path", n.o.Tokens.Path, "err", err)
	}
}

// forget drops a device token that the gateway no longer takes, when there is another secret to go on with.
func (n *Node) forget(err error, shared bool) {
	r := (*RefusedError)(nil)
	if n.o.Tokens == nil || !shared || !errors.As(err, &r) || r.Detail("code") != "AUTH_DEVICE_TOKEN_MISMATCH" {
		return
	}
	if err := n.o.Tokens.Drop(identity.RoleNode); err != nil {
		n.o.Log.Error("the refused device token could not be dropped", "path", n.o.Tokens.Path, "err", err)
	}
}

// Explain implements host.Connector: it logs what is wrong and what to do.
func (n *Node) Explain(log *slog.Logger, err error) {
	r := (*RefusedError)(nil)
	if closed, ok := errors.AsType[*ClosedError](err); ok && closed.Code == int(websocket.StatusServiceRestart) {
		log.Info("the gateway stops or restarts")
		return
	}
	if !errors.As(err, &r) {
		log.Warn("no connection to the gateway", "err", err)
		return
	}
	switch code := r.Detail("code"); {
	case code == "PAIRING_REQUIRED":
		log.Warn("this machine is not paired with the gateway yet; approve the request there", "request", r.Detail("requestId"), "reason", r.Detail("reason"), "device", n.deviceID())
	case code == "AUTH_DEVICE_TOKEN_MISMATCH":
		log.Warn("the gateway no longer takes this machine's device token; give the gateway's token or password, or pair this machine again", "device", n.deviceID())
	case code == "AUTH_RATE_LIMITED":
		log.Warn("the gateway has locked out this address after failed attempts; check the token, then wait")
	case strings.HasPrefix(code, "AUTH_"):
		log.Warn("the gateway refused the secret; give it the gateway's current token or password", "answer", r.Message)
	case strings.HasPrefix(code, "DEVICE_AUTH_SIGNATURE_EXPIRED"):
		log.Warn("the gateway finds the signature too old or too new; set the clock of this machine", "answer", r.Message)
	default:
		log.Warn("the gateway refused the connection", "answer", r.Message, "code", r.Code, "detail", code)
	}
}

func (n *Node) deviceID() string {
	if n.o.Dial.Device == nil {
		return ""
	}
	return n.o.Dial.Device.ID
}

// parseInvoke reads a node.invoke.request (nodes-approvals.md §2.4, §4.1). params in place of paramsJSON is tolerated.
func parseInvoke(e Event) (r host.Request, ok bool) {
	v, err := wire.Parse(e.Payload)
	if err != nil {
		return r, false
	}
	text := func(key string) string {
		m, _ := v.Get(key)
		return strings.TrimSpace(m.Str())
	}
	r.ID, r.NodeID, r.Command = text("id"), text("nodeId"), text("command")
	if p, has := v.Get("paramsJSON"); has && p.Kind() == wire.String {
		s := p.Str()
		r.ParamsJSON = &s
	} else if p, has := v.Get("params"); has && !p.IsNull() {
		s := string(wire.Stringify(p))
		r.ParamsJSON = &s
	}
	if ms, has := v.Get("timeoutMs"); has {
		if n, ok := ms.Int(); ok && n > 0 && n < int64(maxInvokeTimeout/time.Millisecond) {
			r.Timeout = time.Duration(n) * time.Millisecond
		}
	}
	return r, r.ID != "" && r.NodeID != "" && r.Command != ""
}
