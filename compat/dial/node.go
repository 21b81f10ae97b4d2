package dial

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes/host"
)

// Limits of a node.
const (
	// MaxInvokes is how many invokes are served at once; more are answered UNAVAILABLE. It is above host.MaxRuns, so
	// that short questions are answered while every place for commands is taken.
	MaxInvokes = 2 * host.MaxRuns
	// firstWait and maxWait bound the pause between attempts, which doubles; every pause is shortened by up to a half at
	// random, so that nodes of a restarted gateway do not come back at once.
	firstWait = time.Second
	maxWait   = 60 * time.Second
	// healthyAfter is how long a connection must have stood to make the next pause the first again.
	healthyAfter = time.Minute
)

// Phase is where a node stands.
type Phase string

// The phases.
const (
	Connecting Phase = "connecting"
	Connected  Phase = "connected"
	Waiting    Phase = "waiting"
)

// State is what RunNode reports.
type State struct {
	Phase Phase
	// Hello is set when connected.
	Hello *Hello
	// Err is why there is no connection, and RetryIn when the next attempt is, when waiting.
	Err     error
	RetryIn time.Duration
}

// NodeOptions of RunNode. Dial and Host are required.
type NodeOptions struct {
	// Dial is how to connect. Role, Caps, Commands, PathEnv and OnEvent are set by RunNode; Auth holds the shared
	// secrets.
	Dial Options
	Host *host.Host
	// Tokens keeps the device token; nil keeps none. It is used with Dial.Device only.
	Tokens *Tokens
	// OnState is called, one call at a time, when the state changes. It must not block.
	OnState func(State)
	// Wait pauses, and returns early when ctx ends; Rand returns a number in [0,1). Both are for tests.
	Wait func(ctx context.Context, d time.Duration)
	Rand func() float64
	Log  *slog.Logger
}

// RunNode keeps this machine connected to a gateway as a node until ctx ends, and returns ctx's error then. An error of
// the class errs.Invalid, which no retry mends, is returned at once. Losing the
// connection ends the commands that were running for it; their results are dropped, because a gateway fails an invoke
// when its link goes (protocol.md §6.7).
func RunNode(ctx context.Context, o NodeOptions) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.OnState == nil {
		o.OnState = func(State) {}
	}
	if o.Wait == nil {
		o.Wait = pause
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Dial.Now == nil {
		o.Dial.Now = time.Now
	}
	if o.Dial.Device == nil {
		o.Tokens = nil
	}
	n := node{o: o}
	wait := firstWait
	for ctx.Err() == nil {
		o.OnState(State{Phase: Connecting})
		stood, err := n.connectOnce(ctx)
		if ctx.Err() != nil {
			break
		}
		if errs.ClassOf(err) == errs.Invalid {
			return err
		}
		if stood >= healthyAfter {
			wait = firstWait
		}
		d := wait - time.Duration(o.Rand()*float64(wait)/2)
		wait = min(2*wait, maxWait)
		n.explain(err, d)
		o.OnState(State{Phase: Waiting, Err: err, RetryIn: d})
		o.Wait(ctx, d)
	}
	return ctx.Err()
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

type node struct{ o NodeOptions }

// connectOnce connects, serves until the link is gone, and returns how long it stood.
func (n node) connectOnce(ctx context.Context) (stood time.Duration, err error) {
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
	ctx, cancel := context.WithCancel(ctx) // ends the commands when the link goes
	s := &server{ctx: ctx, host: n.o.Host, log: n.o.Log, slots: make(chan struct{}, MaxInvokes)}
	defer s.wg.Wait()
	defer cancel()
	d.Role, d.Scopes = identity.RoleNode, nil
	d.Caps, d.Commands, d.PathEnv = n.o.Host.Caps(), n.o.Host.Commands(), n.o.Host.PathEnv()
	d.OnEvent = s.event
	if d.Log == nil {
		d.Log = n.o.Log
	}
	c, err := Dial(ctx, d)
	if err != nil {
		n.forget(err, shared)
		return 0, err
	}
	defer c.Close()
	began := d.Now()
	h := c.Hello()
	n.remember(h, d.Auth.DeviceToken)
	n.o.Log.Info("connected to the gateway", "gateway", redact(d.URL), "version", h.ServerVersion, "conn", h.ConnID)
	n.o.OnState(State{Phase: Connected, Hello: &h})
	select {
	case <-c.Done():
		return d.Now().Sub(began), c.Err()
	case <-ctx.Done():
		return d.Now().Sub(began), ctx.Err()
	}
}

func (n node) remember(h Hello, known string) {
	if n.o.Tokens == nil || h.DeviceToken == "" || h.DeviceToken == known {
		return
	}
	if err := n.o.Tokens.Put(identity.RoleNode, h.DeviceToken, h.Scopes, n.o.Dial.Now()); err != nil {
		n.o.Log.Error("the device token could not be stored; the next connection needs the gateway's token or password again", "path", n.o.Tokens.Path, "err", err)
	}
}

// forget drops a device token that the gateway no longer takes, when there is another secret to go on with.
func (n node) forget(err error, shared bool) {
	r := (*RefusedError)(nil)
	if n.o.Tokens == nil || !shared || !errors.As(err, &r) || r.Detail("code") != "AUTH_DEVICE_TOKEN_MISMATCH" {
		return
	}
	if err := n.o.Tokens.Drop(identity.RoleNode); err != nil {
		n.o.Log.Error("the refused device token could not be dropped", "path", n.o.Tokens.Path, "err", err)
	}
}

// explain logs what is wrong and what to do.
func (n node) explain(err error, retry time.Duration) {
	r := (*RefusedError)(nil)
	log := n.o.Log.With("retryIn", retry.Round(time.Millisecond).String())
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

func (n node) deviceID() string {
	if n.o.Dial.Device == nil {
		return ""
	}
	return n.o.Dial.Device.ID
}

// server serves the invokes of one connection.
type server struct {
	ctx   context.Context
	host  *host.Host
	log   *slog.Logger
	slots chan struct{}
	wg    sync.WaitGroup
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

type eventFrame struct {
	Event       string `json:"event"`
	PayloadJSON string `json:"payloadJSON"`
}

// event runs in the reader: it starts the invoke and returns.
func (s *server) event(c *Conn, e Event) {
	if e.Name != "node.invoke.request" {
		return
	}
	r, nodeID, ok := parseInvoke(e)
	if !ok {
		s.log.Debug("an invoke without id, node or command was ignored")
		return
	}
	select {
	case s.slots <- struct{}{}:
	default:
		s.answer(c, nodeID, r, host.Result{Error: &host.Error{Code: "UNAVAILABLE", Message: fmt.Sprintf("UNAVAILABLE: this node is already serving %d requests; try again later", MaxInvokes)}})
		return
	}
	r.Emit = func(event, payload string) {
		if err := c.Send("node.event", eventFrame{event, payload}); err != nil {
			s.log.Warn("an event could not be delivered to the gateway and is dropped", "event", event, "err", err)
		}
	}
	s.wg.Go(func() {
		defer func() { <-s.slots }()
		s.answer(c, nodeID, r, s.host.Handle(s.ctx, r))
	})
}

func (s *server) answer(c *Conn, nodeID string, r host.Request, result host.Result) {
	f := resultFrame{ID: r.ID, NodeID: nodeID, OK: result.OK, PayloadJSON: result.PayloadJSON}
	if result.Error != nil {
		f.Error = &resultError{result.Error.Code, result.Error.Message}
	}
	if err := c.Send("node.invoke.result", f); err != nil {
		s.log.Warn("the result of a command could not be delivered to the gateway and is dropped", "command", r.Command, "invoke", r.ID, "err", err)
	}
}

// parseInvoke reads a node.invoke.request (nodes-approvals.md §2.4, §4.1). params in place of paramsJSON is tolerated.
func parseInvoke(e Event) (r host.Request, nodeID string, ok bool) {
	v, err := wire.Parse(e.Payload)
	if err != nil {
		return r, "", false
	}
	text := func(key string) string {
		m, _ := v.Get(key)
		return strings.TrimSpace(m.Str())
	}
	r.ID, nodeID, r.Command = text("id"), text("nodeId"), text("command")
	if p, has := v.Get("paramsJSON"); has && p.Kind() == wire.String {
		s := p.Str()
		r.ParamsJSON = &s
	} else if p, has := v.Get("params"); has && !p.IsNull() {
		s := string(wire.Stringify(p))
		r.ParamsJSON = &s
	}
	return r, nodeID, r.ID != "" && nodeID != "" && r.Command != ""
}
