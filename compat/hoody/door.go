// Package hoody is the dialect of hoody-tunnel at this daemon (tunnel.md §4): the upgrade at Path, which hands a
// carrier to the tunnels, and its dialler for nodes and tests.
//
// A Door owns one goroutine for each carrier, which ends with it; Close waits for them.
package hoody

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/compat/socket"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/identity/peer"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/tunnels"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// Path is where carriers are opened (tunnel.md §4.2).
const Path = "/api/v1/tunnel/connect"

const (
	// admitTime is how long a credential may take to be judged, maxAdmitting how many are judged at once: together
	// with those that have not said HELLO no more than tunnel.md §4.6 has.
	admitTime    = 5 * time.Second
	maxAdmitting = 32
)

// Versions are the subprotocols, the newest first.
var Versions = []string{wire.V2, wire.V1}

// Unauthorized is what is said of a credential that is not accepted, or of none (tunnel.md §4.6).
const Unauthorized = "unauthorized"

// DoorConfig is what NewDoor needs. Fields are required unless they say otherwise.
type DoorConfig struct {
	// Tunnels runs carriers. A caller without a role has proved nothing yet: the carrier has to begin with a HELLO
	// that does.
	Tunnels interface {
		Serve(ctx context.Context, c identity.Caller, in tunnels.CarrierIn) error
	}
	// Authenticate finds whose token it is. An empty one is of who shows nothing: a caller without a role, and no
	// error, where nothing else lets that one in.
	Authenticate func(ctx context.Context, token string, from identity.Peer) (identity.Caller, error)
	// RequireAuth says whether an upgrade without a credential that counts is answered 401; nil for no.
	RequireAuth func() bool
	// Peers decides where clients really come from and which web pages may open carriers; nil trusts and allows
	// nobody.
	Peers *peer.Rules
	Log   *slog.Logger
}

// Door takes the upgrades. It is an http.Handler for them.
type Door struct {
	cfg      DoorConfig
	refusals peer.Refusals
	places   chan struct{} // of those whose credential is judged

	ctx    context.Context // ends when the door closes
	cancel context.CancelFunc

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

// NewDoor returns the door.
func NewDoor(cfg DoorConfig) *Door {
	if cfg.Peers == nil {
		cfg.Peers = &peer.Rules{}
	}
	d := &Door{cfg: cfg, places: make(chan struct{}, maxAdmitting)}
	//nolint:contextcheck // the door's own lifetime, ended by Close
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// ServeHTTP upgrades the request. It returns as soon as the carrier has its own goroutine, so that the server's
// buffers are given back.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, presented := peer.TakeToken(r)
	from := d.cfg.Peers.Peer(r)
	if page := d.cfg.Peers.Page(r, from); page.Present && !page.MayConnect() {
		d.refuse(w, from, http.StatusForbidden, "web pages of another origin open no carriers")
		return
	}
	if !offers(r) {
		refusal(w, http.StatusBadRequest, "offer the subprotocol "+wire.V2+" or "+wire.V1)
		return
	}
	if !d.enter() {
		w.Header().Set("Retry-After", "1")
		refusal(w, http.StatusServiceUnavailable, "the daemon stops; come again")
		return
	}
	var caller identity.Caller
	if d.strict() {
		var err error
		if caller, err = d.judge(r.Context(), attempt{from: from, token: token, presented: presented}); err != nil || caller.Role == "" {
			d.wg.Done()
			w.Header().Set("WWW-Authenticate", "Bearer")
			d.refuse(w, from, http.StatusUnauthorized, Unauthorized)
			return
		}
	}
	proved := peer.Prover(r.Context())
	if proved == nil {
		proved = func() {}
	}
	o := socket.Options{Subprotocols: Versions}
	if from.Forwarded {
		o.RemoteAddr = from.IP()
	}
	c, err := socket.Accept(w, r, o)
	if err != nil {
		d.wg.Done()
		d.cfg.Log.Debug("an upgrade failed", "error", err)
		return
	}
	go d.serve(c, attempt{from, token, presented, proved}, caller)
}

// strict says that the upgrade has to prove who opens the carrier.
func (d *Door) strict() bool { return d.cfg.RequireAuth != nil && d.cfg.RequireAuth() }

// enter counts a carrier, unless the door is closed.
func (d *Door) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.wg.Add(1)
	return true
}

// offers reports whether a request names a subprotocol of ours.
func offers(r *http.Request) bool {
	for _, line := range r.Header["Sec-Websocket-Protocol"] {
		for name := range strings.SplitSeq(line, ",") {
			if slices.Contains(Versions, strings.TrimSpace(name)) {
				return true
			}
		}
	}
	return false
}

var errBusy = errs.Define(errs.Exhausted, "hoody.busy", "too many credentials are being judged; come again")

// attempt is what an upgrade shows.
type attempt struct {
	from      identity.Peer
	token     string
	presented bool   // something was, also where it is no token
	proved    func() // the connection is no stranger's any more
}

// judge finds the caller. What was presented and is no token counts as a wrong one.
func (d *Door) judge(ctx context.Context, a attempt) (identity.Caller, error) {
	if a.presented && a.token == "" {
		return identity.Caller{}, identity.ErrBearerNotAccepted
	}
	select {
	case d.places <- struct{}{}:
		defer func() { <-d.places }()
	default:
		return identity.Caller{}, errBusy
	}
	ctx, cancel := context.WithTimeout(ctx, admitTime)
	defer cancel()
	return d.cfg.Authenticate(ctx, a.token, a.from)
}

// serve runs a carrier. A credential that is wrong is told by a GOAWAY and a close (tunnel.md §4.6).
func (d *Door) serve(c *socket.Conn, a attempt, caller identity.Caller) {
	defer d.wg.Done()
	defer c.Close(socket.CodeGoingAway, "") // it was closed, unless somebody forgot to
	if caller.Role == "" {
		var err error
		caller, err = d.judge(d.ctx, a)
		switch {
		case errors.Is(err, errBusy):
			_ = c.Close(socket.CodeNone, "") // as above
			return
		case err != nil:
			d.note(a.from, err)
			turnAway(c)
			return
		}
	}
	if caller.Role != "" {
		a.proved()
	}
	in := tunnels.CarrierIn{Version: c.Subprotocol(), PeerAddr: c.RemoteAddr(), Transport: "websocket", Carrier: c}
	if !d.strict() {
		in.Authenticate = func(ctx context.Context, token string) (identity.Caller, error) {
			caller, err := d.judge(ctx, attempt{from: a.from, token: token, presented: true})
			if err == nil {
				a.proved()
			}
			return caller, err
		}
	}
	if err := d.cfg.Tunnels.Serve(d.ctx, caller, in); err != nil {
		d.note(a.from, err)
	}
}

// note says why a carrier was turned away.
func (d *Door) note(from identity.Peer, err error) {
	text := err.Error()
	if e, ok := errs.As(err); ok {
		text = e.Text
	}
	d.refusals.Say(d.cfg.Log, "carriers", "a carrier was turned away", "reason", text, "ip", from.IP())
}

// turnAway says GOAWAY with code 11 and closes.
func turnAway(c mux.Carrier) {
	body, err := json.Marshal(wire.GoAwayBody{Code: wire.CodeAuth, Message: Unauthorized})
	if err == nil {
		_ = c.Write(net.Buffers{wire.Append(nil, wire.GoAway, 0, body)}) // who is gone is not told
	}
	_ = c.Close(socket.CodePolicy, Unauthorized)
}

// refuse answers an upgrade and notes it.
func (d *Door) refuse(w http.ResponseWriter, from identity.Peer, status int, text string) {
	d.refusals.Say(d.cfg.Log, "carriers", "a carrier was turned away", "reason", text, "ip", from.IP())
	refusal(w, status, text)
}

// refusal answers an upgrade that is none, in the form that the other endpoints have.
func refusal(w http.ResponseWriter, status int, text string) {
	body, err := json.Marshal(struct {
		Error string `json:"error"`
	}{text})
	if err != nil {
		body = []byte("{}")
	}
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Connection", "close")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// Close takes no more carriers and waits until those that run have ended, at most until ctx ends; then it cuts
// them. Who runs them tells their clients.
func (d *Door) Close(ctx context.Context) {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	done := make(chan struct{})
	go func() {
		d.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	d.cancel()
	<-done
}
