// Package web serves the HTTP routes of the original gateway: webhooks, tools, the canvas host, and
// the rules that upgrades to a WebSocket follow (protocol.md §1.2, §1.6, §1.7). The handler of the
// TCP port asks its stages in order.
//
// Paths are matched as they came, percent-encoding included: what is compared is what was sent, so
// no other spelling of a path reaches a route without the check in front of it.
//
// It translates and checks who is asking; what a webhook may cause is decided in hooks and system.
// Its handlers run in the goroutines of net/http. A canvas page that waits for changes keeps its
// own; Close ends those and waits for them.
package web

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/hooks"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/identity/peer"
	"github.com/hanzoai/hanzod/system"
)

const (
	// bodyTimeout is how long a body may take to arrive (protocol.md §1.7).
	bodyTimeout = 30 * time.Second
	// maxToolBody is the largest body of POST /tools/invoke (protocol.md §1.7).
	maxToolBody = 2 << 20
	// maxBodies bounds the bytes of all bodies that are held at one time; a single one that may be
	// larger raises it. A body counts what has arrived of it, so that many small ones fit and a few
	// large ones do too.
	maxBodies = 16 << 20
)

// Config is what the routes need.
type Config struct {
	Hooks config.Hooks
	// HookLimiter slows who guesses the hook token; nil slows nobody.
	HookLimiter *identity.Limiter
	Wake        func(context.Context, identity.Caller, system.WakeIn) (system.WakeOut, error)
	Agent       func(context.Context, identity.Caller, hooks.AgentIn) (hooks.AgentOut, error)

	HTTP   config.HTTP
	Canvas Canvas
	UI     ControlUI
	// Tools runs what POST /tools/invoke names; nil has none.
	Tools Tools

	// Bearer finds the caller that a token stands for. Mode none lets everybody in without one.
	Bearer func(ctx context.Context, token string, from identity.Peer) (identity.Caller, error)
	Mode   identity.AuthMode
	// Peers says where requests come from and which web pages may cause something.
	Peers *peer.Rules

	Log *slog.Logger
	Now func() time.Time
}

// Web is the routes. Its methods are safe for concurrent use.
type Web struct {
	cfg      Config
	mappings []mapping
	hookPath string
	bodies   budget
	patience time.Duration // bodyTimeout, but for tests
	canvas   *canvas
}

// New returns the routes.
func New(cfg Config) *Web {
	w := &Web{cfg: cfg, patience: bodyTimeout, bodies: budget{free: max(maxBodies, int(cfg.Hooks.MaxBodyBytes)+1)}}
	w.hookPath = escaped(cfg.Hooks.Path)
	for _, m := range cfg.Hooks.Mappings {
		w.mappings = append(w.mappings, compile(m))
	}
	if cfg.Canvas.Enabled {
		w.canvas = newCanvas(w)
	}
	return w
}

// Close ends the pages that wait for changes and returns when they are gone, at the latest with ctx.
func (w *Web) Close(ctx context.Context) {
	if w.canvas != nil {
		w.canvas.close(ctx)
	}
}

// Stage is one route of protocol.md §1.6. Match gets the path as it was sent.
type Stage struct {
	Match func(path string) bool
	Serve func(http.ResponseWriter, *http.Request)
}

// below reports whether a path is base or beneath it.
func below(path, base string) bool {
	return strings.HasPrefix(path, base) && (len(path) == len(base) || path[len(base)] == '/')
}

func exactly(want string) func(string) bool {
	return func(path string) bool { return path == want }
}

// The shared values of headers; they are never changed.
var (
	jsonType = []string{"application/json; charset=utf-8"}
	textType = []string{"text/plain; charset=utf-8"}
	noStore  = []string{"no-store"}
)

func text(w http.ResponseWriter, status int, body string) {
	w.Header()["Content-Type"] = textType
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func answer(w http.ResponseWriter, status int, body any) {
	data, err := wire.Marshal(body)
	if err != nil { // plain structs only: cannot happen
		status, data = http.StatusInternalServerError, []byte(`{}`)
	}
	w.Header()["Content-Type"] = jsonType
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

// notAllowed answers 405.
func notAllowed(w http.ResponseWriter, allow string) {
	w.Header().Set("Allow", allow)
	text(w, http.StatusMethodNotAllowed, "Method Not Allowed")
}

// failure is the body of the errors of the routes that take the gateway's credentials.
type failure struct {
	Error failureText `json:"error"`
}

type failureText struct {
	Message string `json:"message"`
	Type    string `json:"type"`
}

func fail(w http.ResponseWriter, status int, kind, message string) {
	answer(w, status, failure{failureText{message, kind}})
}

// retryAfter sets the header of an answer 429, in whole seconds.
func retryAfter(w http.ResponseWriter, wait time.Duration) {
	w.Header().Set("Retry-After", strconv.FormatInt(max(1, int64((wait+time.Second-1)/time.Second)), 10))
}

// admin is the gateway bearer check: it returns the caller, or answers (protocol.md §1.6). What
// these routes can do is the owner's to do.
func (w *Web) admin(rw http.ResponseWriter, r *http.Request) (identity.Caller, bool) {
	return w.bearer(rw, r, identity.ScopeAdmin)
}

func (w *Web) bearer(rw http.ResponseWriter, r *http.Request, scope identity.Scope) (identity.Caller, bool) {
	c, err := w.caller(r)
	if err == nil && c.Role == identity.RoleOperator && c.Has(scope) {
		return c, true
	}
	if err == nil {
		fail(rw, http.StatusForbidden, "forbidden", "missing scope: "+string(scope))
		return identity.Caller{}, false
	}
	w.refuse(rw, r, err)
	return identity.Caller{}, false
}

// refuse words a failed bearer check.
func (w *Web) refuse(rw http.ResponseWriter, r *http.Request, err error) {
	switch errs.ClassOf(err) {
	case errs.Exhausted:
		e, _ := errs.As(err)
		retryAfter(rw, waitOf(e))
		fail(rw, http.StatusTooManyRequests, "rate_limited", "Too many failed authentication attempts. Please try again later.")
	case errs.Unauthenticated, errs.Denied, errs.Invalid, errs.NotFound:
		fail(rw, http.StatusUnauthorized, "unauthorized", "Unauthorized")
	default:
		w.cfg.Log.ErrorContext(r.Context(), "a caller could not be checked", "error", err)
		fail(rw, http.StatusInternalServerError, "api_error", "internal error")
	}
}

// waitOf is how long an error says to wait.
func waitOf(e *errs.Error) time.Duration {
	switch ms := e.Fields["retryAfterMs"].(type) {
	case int64:
		return time.Duration(ms) * time.Millisecond
	case int:
		return time.Duration(ms) * time.Millisecond
	case string:
		n, _ := strconv.ParseInt(ms, 10, 64) // 0 is at least a second
		return time.Duration(n) * time.Millisecond
	}
	return 0
}

// caller finds who presents Authorization: Bearer. The token goes no further.
func (w *Web) caller(r *http.Request) (identity.Caller, error) {
	token := bearerToken(r.Header)
	r.Header.Del("Authorization")
	from := w.cfg.Peers.Peer(r)
	var c identity.Caller
	if w.cfg.Mode == identity.AuthNone {
		c = identity.Caller{Role: identity.RoleOperator, Scopes: identity.AllOperatorScopes, Principal: "anyone"}
	} else {
		var err error
		if c, err = w.cfg.Bearer(r.Context(), token, from); err != nil {
			return identity.Caller{}, err
		}
		peer.Proved(r.Context())
	}
	c.Door, c.RemoteIP, c.Local = identity.DoorLegacy, from.IP(), false
	return c, nil
}

// bearerToken is the token of the one Authorization header, "" without one.
func bearerToken(h http.Header) string {
	values := h["Authorization"]
	if len(values) != 1 {
		return ""
	}
	scheme, token, _ := strings.Cut(strings.TrimSpace(values[0]), " ")
	if !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// mayWrite reports whether a request may cause something: no web page made it, or one that may also
// connect (protocol.md §1.4). That its origin is the host it asks is not enough: a web page can have a
// name of its own lead here.
func (w *Web) mayWrite(r *http.Request) bool {
	page := w.cfg.Peers.Page(r, w.cfg.Peers.Peer(r))
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return !page.Present || page.MayConnect()
	default:
		return page.Allowed
	}
}
