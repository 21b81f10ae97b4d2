package compat

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/compat/methods"
	"github.com/hanzoai/hanzod/compat/schema"
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/identity/peer"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/system"
)

type clientParams struct {
	ID              string           `json:"id"`
	DisplayName     wire.Opt[string] `json:"displayName"`
	Version         string           `json:"version"`
	Platform        string           `json:"platform"`
	DeviceFamily    wire.Opt[string] `json:"deviceFamily"`
	ModelIdentifier wire.Opt[string] `json:"modelIdentifier"`
	Mode            string           `json:"mode"`
	InstanceID      wire.Opt[string] `json:"instanceId"`
}

type deviceParams struct {
	ID        string   `json:"id"`
	PublicKey string   `json:"publicKey"`
	Signature string   `json:"signature"`
	SignedAt  wire.Int `json:"signedAt"`
	Nonce     string   `json:"nonce"`
}

type authParams struct {
	Token       wire.Opt[string] `json:"token"`
	DeviceToken wire.Opt[string] `json:"deviceToken"`
	Password    wire.Opt[string] `json:"password"`
}

type connectParams struct {
	MinProtocol wire.Int               `json:"minProtocol"`
	MaxProtocol wire.Int               `json:"maxProtocol"`
	Client      clientParams           `json:"client"`
	Caps        []string               `json:"caps"`
	Commands    []string               `json:"commands"`
	Permissions map[string]bool        `json:"permissions"`
	PathEnv     wire.Opt[string]       `json:"pathEnv"`
	Role        wire.Opt[string]       `json:"role"`
	Scopes      []string               `json:"scopes"`
	Device      wire.Opt[deviceParams] `json:"device"`
	Auth        wire.Opt[authParams]   `json:"auth"`
}

func (p connectParams) controlUI() bool {
	return p.Client.ID == "openclaw-control-ui" || p.Client.ID == "bot-control-ui"
}

func (p connectParams) webchat() bool {
	return p.Client.Mode == "webchat" || p.Client.ID == "webchat-ui"
}

// challenge is the first frame of every connection (protocol.md §3.1).
func challenge(nonce string, now time.Time) []byte {
	payload := wire.AppendString([]byte(`{"nonce":`), nonce)
	payload = strconv.AppendInt(append(payload, `,"ts":`...), now.UnixMilli(), 10)
	return wire.AppendEvent(nil, "connect.challenge", append(payload, '}'), wire.Opt[uint64]{}, wire.Opt[wire.StateVersion]{})
}

// refusal is a handshake that ends: what the client is told, and how the connection closes.
type refusal struct {
	shape wire.ErrorShape
	code  websocket.StatusCode
}

func refuse(message string) *refusal {
	return &refusal{wire.ErrorShape{Code: codeInvalid, Message: message}, websocket.StatusPolicyViolation}
}

// handshake reads the first frame and lets the client in or ends the connection (protocol.md §2.4,
// §3).
func (c *conn) handshake() bool {
	data, err := c.read(maxFirst)
	if err != nil {
		if errors.Is(err, errTooLarge) {
			c.end(websocket.StatusMessageTooBig, "")
		}
		return false
	}
	req, ferr := schema.ParseRequest(data)
	switch {
	case ferr != nil && ferr.NotJSON:
		c.end(websocket.StatusNormalClosure, "")
		return false
	case ferr != nil:
		c.end(websocket.StatusPolicyViolation, "invalid request frame")
		return false
	}
	if r := c.connect(req); r != nil {
		c.door.refusals.Say(c.door.cfg.Log, "clients", "a client was not let in", "reason", wire.TruncateUTF8(r.shape.Message, maxReasonLogged), "ip", c.peer.reported)
		c.door.remove(c) // no event comes before the refusal
		c.drop()
		c.send(wire.AppendError(nil, req.ID, r.shape))
		c.end(r.code, r.shape.Message)
		return false
	}
	return true
}

// connect is protocol.md §3.1 from the frame to hello.
func (c *conn) connect(req wire.Request) *refusal {
	if req.Method != "connect" {
		return refuse("invalid handshake: first request must be connect")
	}
	c.dialect = wire.Negotiate(req.Params)
	params := c.dialect.Frozen("connect", req.Params)
	if problem := schema.Check("connect", params); problem != "" {
		return refuse(problem)
	}
	var p connectParams
	if err := wire.Decode(params, &p); err != nil {
		return refuse("invalid connect params: " + err.Error())
	}
	p.Client.Version = c.dialect.ClientVersion(req.Params)
	if c.dialect.Version == Protocol && (p.MinProtocol > Protocol || p.MaxProtocol < Protocol) {
		return &refusal{
			wire.ErrorShape{Code: codeInvalid, Message: "protocol mismatch", Details: wire.Raw(`{"expectedProtocol":` + strconv.Itoa(Protocol) + `}`)},
			websocket.StatusProtocolError,
		}
	}
	role := identity.Role(p.Role.Or(string(identity.RoleOperator)))
	if role != identity.RoleOperator && role != identity.RoleNode {
		return refuse("invalid role")
	}
	browser := p.controlUI() || p.webchat()
	if !c.peer.originAllowed(browser, c.dialect.OwnOrigin()) && (!c.peer.script || !c.dialect.Script()) {
		return refuse("origin not allowed (open the Control UI from the gateway host or allow it in gateway.controlUi.allowedOrigins)")
	}
	ctx, cancel := context.WithTimeout(c.ctx, handshakeTimeout)
	defer cancel()
	attempt := c.attempt(p, role)
	adm, err := c.door.cfg.Identity.Admit(ctx, attempt)
	if err != nil {
		return c.notAdmitted(err, attempt)
	}
	return c.admitted(req.ID, p, role, adm)
}

func (c *conn) attempt(p connectParams, role identity.Role) identity.Attempt {
	auth := p.Auth.Or(authParams{})
	a := identity.Attempt{
		Role: role, ClientID: c.dialect.ClientID, ClientMode: p.Client.Mode,
		DisplayName: p.Client.DisplayName.Or(""), Platform: p.Client.Platform,
		DeviceFamily: p.Client.DeviceFamily.Or(""),
		Token:        auth.Token.Or(""), DeviceToken: auth.DeviceToken.Or(""), Password: auth.Password.Or(""),
		Nonce: c.nonce, Unchallenged: c.dialect.Unchallenged(), Peer: c.peer.Peer,
		ControlUI: p.controlUI(), Webchat: p.webchat(),
	}
	for _, s := range p.Scopes {
		a.Scopes = append(a.Scopes, identity.Scope(s))
	}
	if d, ok := p.Device.Get(); ok {
		a.Device = &identity.Proof{
			ID: d.ID, PublicKey: d.PublicKey, Signature: d.Signature, SignedAt: int64(d.SignedAt), Nonce: c.dialect.Nonce(d.Nonce),
		}
	}
	return a
}

// notAdmitted words a refusal of identity.
func (c *conn) notAdmitted(err error, a identity.Attempt) *refusal {
	if e, ok := errs.As(err); ok && errors.Is(e, identity.ErrAuth) {
		return &refusal{authShape(e.Field("reason"), a, c.door.cfg.Identity.Mode()), websocket.StatusPolicyViolation}
	}
	if errs.ClassOf(err) == errs.Internal || errs.ClassOf(err) == errs.Unknown {
		c.door.cfg.Log.Error("a connect failed", "error", err)
	}
	return &refusal{shapeOf(err), websocket.StatusPolicyViolation}
}

// admitted makes the caller, registers it everywhere and greets it.
func (c *conn) admitted(id string, p connectParams, role identity.Role, adm identity.Admission) *refusal {
	d := c.door
	instance := c.dialect.InstanceID(strings.TrimSpace(p.Client.InstanceID.Or("")))
	c.caller = identity.Caller{
		Door: identity.DoorLegacy, Role: role, DeviceID: adm.DeviceID, Paired: adm.Paired, TokenID: adm.TokenID, ConnID: c.id, Tenant: adm.Tenant, Expires: adm.Expires,
		Principal: cmp.Or(adm.Principal, "conn:"+c.id), ClientID: c.dialect.ClientID, ClientMode: p.Client.Mode,
		DisplayName: p.Client.DisplayName.Or(""), Local: c.peer.Local, RemoteIP: c.peer.reported,
	}
	if m := c.peer.Member; m != nil {
		c.caller.DisplayName = m.Shown(c.caller.DisplayName)
	}
	if role == identity.RoleOperator {
		c.caller.Scopes = adm.Scopes
	} else {
		id, err := nodes.ID(adm.DeviceID, instance, c.dialect.ClientID)
		if err != nil {
			return &refusal{shapeOf(err), websocket.StatusPolicyViolation}
		}
		c.caller.NodeID = nodes.QualifiedID(adm.Tenant, id)
	}
	c.hold()
	if !d.add(c) {
		return &refusal{wire.ErrorShape{Code: codeUnavailable, Message: "the gateway is stopping"}, websocket.StatusServiceRestart}
	}
	// From here on an end of the device reaches this connection; this is for one that came before.
	if err := d.cfg.Identity.Confirm(c.caller, adm); err != nil {
		return &refusal{shapeOf(err), websocket.StatusPolicyViolation}
	}
	if role == identity.RoleNode {
		n := nodes.Node{
			ID: c.caller.NodeID, DisplayName: c.caller.DisplayName, Platform: adm.Platform,
			Version: p.Client.Version, DeviceFamily: adm.DeviceFamily,
			ModelIdentifier: p.Client.ModelIdentifier.Or(""), RemoteIP: c.peer.reported,
			Permissions: p.Permissions, PathEnv: p.PathEnv.Or(""), Paired: adm.Paired, Link: nodes.LinkWebSocket, Tenant: adm.Tenant,
		}
		att, _, err := d.cfg.Nodes.Attach(n, p.Commands, p.Caps, c)
		if err != nil {
			return &refusal{shapeOf(err), websocket.StatusPolicyViolation}
		}
		c.node = att
		d.cfg.Nodes.Saw(pairedAs(adm.Tenant, instance))
	}
	c.presenceKey = d.cfg.Presence.Join(system.Party{
		ConnID: c.id, DeviceID: adm.DeviceID, InstanceID: instance, ClientID: c.dialect.ClientID, Mode: p.Client.Mode,
		DisplayName: c.caller.DisplayName, Version: p.Client.Version, Platform: adm.Platform,
		DeviceFamily: adm.DeviceFamily, ModelIdentifier: p.Client.ModelIdentifier.Or(""), IP: c.peer.reported,
		Role: role, Scopes: c.caller.Scopes, Tenant: adm.Tenant,
	})
	hello, err := c.hello(id, adm)
	if err != nil {
		return &refusal{shapeOf(err), websocket.StatusPolicyViolation}
	}
	c.release(hello...)
	if role == identity.RoleNode {
		c.greet()
	}
	d.cfg.System.RefreshHealth()
	d.cfg.Log.Info("a client connected", "role", string(role), "client", c.dialect.ClientID, "mode", p.Client.Mode,
		"conn", c.id, "device", adm.DeviceID, "ip", c.peer.reported)
	if p.controlUI() && adm.DeviceID == "" {
		d.cfg.Log.Warn("the Control UI was let in without a device, as gateway.controlUi or the trusted proxy allow: whoever has its secret or its session has the gateway",
			"conn", c.id, "ip", c.peer.reported)
	}
	return nil
}

// pairedAs is the id under which an instance is paired in the older store, "" without an instance.
func pairedAs(tenant, instance string) string {
	if instance == "" {
		return ""
	}
	return nodes.QualifiedID(tenant, instance)
}

// greet tells a node which words wake it (nodes-approvals.md §1.1).
func (c *conn) greet() {
	words, err := c.door.cfg.Nodes.VoiceWake(c.ctx, c.caller, nodes.VoiceWakeIn{})
	if err != nil {
		c.door.cfg.Log.Error("a node was not told which words wake it", "error", err)
		return
	}
	greeting := wire.MustMarshal(methods.VoiceWakeToLegacy(words))
	c.push(wire.AppendEvent(nil, "voicewake.changed", greeting, wire.Opt[uint64]{}, wire.Opt[wire.StateVersion]{}))
}

// canvasURL is where the client reaches the canvas host (protocol.md §3.3), "" when it is off.
func (c *conn) canvasURL() (string, error) {
	base := c.canvasBase()
	if base == "" || c.caller.Role != identity.RoleNode {
		return base, nil
	}
	url, _, _, err := c.scopedCanvas(base)
	return url, err
}

// canvasBase is the address of the canvas host as the client sees it, "" when it is off.
func (c *conn) canvasBase() string {
	if !c.door.cfg.Canvas {
		return ""
	}
	scheme, fallback := "http", "80"
	if c.peer.https {
		scheme, fallback = "https", "443"
	}
	host, _ := peer.Hostname(c.peer.host)
	if host == "" {
		host, _, _ = net.SplitHostPort(c.peer.localAddr)
	}
	port := strconv.Itoa(c.door.cfg.Port)
	if c.door.cfg.Port == DefaultPort {
		port = fallback
		if _, p, err := net.SplitHostPort(c.peer.host); err == nil && p != "" {
			port = p
		}
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

type helloServer struct {
	Version string `json:"version"`
	ConnID  string `json:"connId"`
}

type helloSessions struct {
	DefaultAgentID string `json:"defaultAgentId"`
	MainKey        string `json:"mainKey"`
	MainSessionKey string `json:"mainSessionKey"`
	Scope          string `json:"scope"`
}

type helloVersions struct {
	Presence uint64 `json:"presence"`
	Health   uint64 `json:"health"`
}

type helloSnapshot struct {
	Presence        any           `json:"presence"`
	Health          any           `json:"health"`
	StateVersion    helloVersions `json:"stateVersion"`
	UptimeMs        int64         `json:"uptimeMs"`
	ConfigPath      string        `json:"configPath"`
	StateDir        string        `json:"stateDir"`
	SessionDefaults helloSessions `json:"sessionDefaults"`
	AuthMode        string        `json:"authMode"`
}

type helloAuth struct {
	DeviceToken string            `json:"deviceToken"`
	Role        string            `json:"role"`
	Scopes      wire.List[string] `json:"scopes"`
	IssuedAtMs  int64             `json:"issuedAtMs"`
}

type helloPolicy struct {
	MaxPayload       int   `json:"maxPayload"`
	MaxBufferedBytes int   `json:"maxBufferedBytes"`
	TickIntervalMs   int64 `json:"tickIntervalMs"`
}

type helloOK struct {
	Type          string              `json:"type"`
	Protocol      int                 `json:"protocol"`
	Server        helloServer         `json:"server"`
	Features      wire.Raw            `json:"features"`
	Snapshot      helloSnapshot       `json:"snapshot"`
	CanvasHostURL wire.Opt[string]    `json:"canvasHostUrl,omitzero"`
	Auth          wire.Opt[helloAuth] `json:"auth,omitzero"`
	Policy        helloPolicy         `json:"policy"`
}

// seen is what a client is told of who is there: a node only of the gateway and itself, since nothing
// else is a node's business.
func (c *conn) seen(all []system.Presence) []system.Presence {
	if c.caller.Role != identity.RoleNode {
		return system.Shown(c.caller, all)
	}
	var out []system.Presence
	for _, p := range all {
		if p.Mode == "gateway" || (p.Key != "" && p.Key == c.presenceKey) {
			out = append(out, p)
		}
	}
	return out
}

// helloRoom is the size of a hello-ok less its presence table.
const helloRoom = 8 << 10

// noPresence is where the presence table goes. No text of a client can hold it: its quotes are escaped.
const noPresence = `"presence":[]`

// hello writes the answer to connect: hello-ok (protocol.md §3.3). The presence table, by far the
// largest part of it, is made of rows that all clients share: thousands may connect at once.
func (c *conn) hello(id string, adm identity.Admission) ([]frame, error) {
	d := c.door
	canvas, err := c.canvasURL()
	if err != nil {
		return nil, errs.Wrap(errs.Internal, "make a canvas capability", err)
	}
	versions := d.cfg.System.Versions() // before the table: it shows these changes at least
	rows := d.rows.table(c.seen(d.cfg.Presence.List()))
	sessions := d.cfg.Defaults()
	out := helloOK{
		Type: "hello-ok", Protocol: c.dialect.Version,
		Server:   helloServer{Version: d.cfg.Version, ConnID: c.id},
		Features: features(),
		Snapshot: helloSnapshot{
			Presence: wire.Raw("[]"), Health: d.healthRow(),
			StateVersion: helloVersions(versions), UptimeMs: d.cfg.System.Uptime().Milliseconds(),
			ConfigPath: d.cfg.ConfigPath, StateDir: d.cfg.StateDir,
			SessionDefaults: helloSessions{
				DefaultAgentID: sessions.DefaultAgent, MainKey: sessions.MainKey,
				MainSessionKey: "agent:" + sessions.DefaultAgent + ":" + sessions.MainKey, Scope: sessions.Scope,
			},
			AuthMode: string(d.cfg.Identity.Mode()),
		},
		CanvasHostURL: wire.NonZero(canvas),
		Policy:        helloPolicy{maxPayload, maxBuffered, system.TickEvery.Milliseconds()},
	}
	if adm.Issued != nil {
		auth := helloAuth{
			DeviceToken: adm.Issued.Token, Role: string(adm.Issued.Role), IssuedAtMs: adm.Issued.At.UnixMilli(),
		}
		for _, s := range adm.Issued.Scopes {
			auth.Scopes = append(auth.Scopes, string(s))
		}
		slices.Sort(auth.Scopes)
		out.Auth = wire.Some(auth)
	}
	payload, err := wire.AppendValue(make([]byte, 0, helloRoom), &out)
	if err != nil {
		return nil, err
	}
	at := bytes.Index(payload, []byte(noPresence)) + len(noPresence) - len("]")
	before := wire.AppendResult(make([]byte, 0, helloRoom), id, payload[:at])
	before = before[:len(before)-len("}")]
	frames := []frame{withRows(before, rows, append(payload[at:], '}'))}
	if c.dialect.BareHello() {
		frames = append([]frame{withRows(payload[:at:at], rows, payload[at:])}, frames...)
	}
	return frames, nil
}

// withRows is a message with the rows in its middle.
func withRows(before []byte, rows [][]byte, end []byte) frame {
	f := frame{own: before, more: &more{shared: rows, end: end, size: len(end)}}
	for _, r := range rows {
		f.more.size += len(r)
	}
	return f
}
