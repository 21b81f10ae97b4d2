package hoody

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/gate"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/tunnel"
	"github.com/hanzoai/hanzod/tunnel/tunnels"
)

// The paths of the endpoints beside Path (tunnel.md §4.2).
const (
	base          = "/api/v1/tunnel/"
	healthPath    = base + "health"
	tunnelsPath   = base + "tunnels"
	sessionsPath  = base + "sessions"
	bindingsPath  = base + "bindings"
	metricsPath   = base + "metrics"
	sessionPrefix = sessionsPath + "/"
)

// The operations that the endpoints are, by their names at the gate.
const (
	listTunnels  = "/hanzo.tunnel.v1.TunnelService/List"
	listBindings = "/hanzo.tunnel.v1.TunnelService/ListBindings"
	killTunnel   = "/hanzo.tunnel.v1.TunnelService/Kill"
)

var (
	errSessionID = errs.Define(errs.Invalid, "hoody.session_id", "session_id in the query has to be that of the path, or not to be there")
	errGraceMS   = errs.Define(errs.Invalid, "hoody.grace_ms", "grace_ms is a whole number from 0 to 5000, once")
	errShape     = errs.Define(errs.Invalid, "hoody.shape", "shape is seed or kit")
)

// Tunnels is what the endpoints need of tunnels.Service.
type Tunnels interface {
	List(context.Context, identity.Caller, tunnels.ListIn) (tunnels.ListOut, error)
	Kill(context.Context, identity.Caller, tunnels.KillIn) (tunnels.KillOut, error)
}

// EndpointsConfig is what NewEndpoints needs. Fields are required unless they say otherwise.
type EndpointsConfig struct {
	Tunnels   Tunnels
	Catalogue *ops.Catalogue
	Gate      *gate.Gate
	// Process is what is told of the process, Container the id of the daemon, for tunnels that are of no node.
	Process   func() tunnel.Process
	Container string
	// Metrics serves the page; MetricsPublic says whether to everybody, nil to nobody without a credential.
	Metrics       http.Handler
	MetricsPublic func() bool
	// DetailedMetrics serves the page with single tunnels of all tenants, to callers of none; nil for Metrics.
	DetailedMetrics http.Handler
}

// Endpoints are the seven of hoody-tunnel but for the upgrade, in the shape of the seed and in that of the kit
// (tunnel.md §4.2). It is safe for concurrent use and owns no goroutine.
type Endpoints struct{ cfg EndpointsConfig }

// NewEndpoints returns them.
func NewEndpoints(cfg EndpointsConfig) *Endpoints { return &Endpoints{cfg} }

// ServesEndpoint reports whether a path, as it was sent, is one of Endpoints.
func ServesEndpoint(path string) bool {
	switch path {
	case healthPath, tunnelsPath, sessionsPath, bindingsPath, metricsPath:
		return true
	}
	_, ok := sessionOf(path)
	return ok
}

// sessionOf is the session that a path names.
func sessionOf(path string) (string, bool) {
	id, ok := strings.CutPrefix(path, sessionPrefix)
	if !ok || id == "" || strings.Contains(id, "/") {
		return "", false
	}
	plain, err := url.PathUnescape(id)
	return plain, err == nil
}

// Serve answers a request for one of the endpoints. who says whose it is, and is not asked about what is for
// everybody.
func (e *Endpoints) Serve(w http.ResponseWriter, r *http.Request, who func(*http.Request) (identity.Caller, error)) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept, "+clientID+", "+clientName)
	path := r.URL.EscapedPath()
	session, named := sessionOf(path)
	switch {
	case named && r.Method != http.MethodDelete:
		notAllowed(w, http.MethodDelete)
		return
	case !named && r.Method != http.MethodGet && r.Method != http.MethodHead:
		notAllowed(w, http.MethodGet+", "+http.MethodHead)
		return
	}
	if path == healthPath {
		e.health(w, r)
		return
	}
	if path == metricsPath {
		e.metrics(w, r, who)
		return
	}
	c, err := who(r)
	if err != nil {
		fail(w, err)
		return
	}
	op := listTunnels
	switch {
	case named:
		op = killTunnel
	case path == bindingsPath:
		op = listBindings
	}
	if err := e.admit(c, op); err != nil {
		fail(w, err)
		return
	}
	if named {
		e.kill(w, r, c, session)
		return
	}
	e.list(w, r, c, path)
}

// admit asks the gate. An operation that nobody declared is denied.
func (e *Endpoints) admit(c identity.Caller, method string) error {
	op, _ := e.cfg.Catalogue.ByMethod(method)
	return e.cfg.Gate.Admit(c, op)
}

func (e *Endpoints) health(w http.ResponseWriter, r *http.Request) {
	s, err := shapeOf(r)
	if err != nil {
		fail(w, err)
		return
	}
	p := e.cfg.Process()
	status := http.StatusOK
	if !p.Ready {
		status = http.StatusServiceUnavailable
	}
	answer(w, r, status, healthOf(s, p))
}

func (e *Endpoints) metrics(w http.ResponseWriter, r *http.Request, who func(*http.Request) (identity.Caller, error)) {
	public := e.cfg.MetricsPublic != nil && e.cfg.MetricsPublic()
	if public && r.Header.Get("Authorization") == "" {
		e.cfg.Metrics.ServeHTTP(w, r)
		return
	}
	c, err := who(r)
	if err == nil {
		err = e.admit(c, listTunnels)
	}
	switch {
	case err != nil && !public:
		fail(w, err)
	case err == nil && c.Tenant == "" && e.cfg.DetailedMetrics != nil:
		e.cfg.DetailedMetrics.ServeHTTP(w, r)
	default:
		e.cfg.Metrics.ServeHTTP(w, r)
	}
}

// list answers the three lists. A tunnel that was killed is not in them, although its streams may still run.
func (e *Endpoints) list(w http.ResponseWriter, r *http.Request, c identity.Caller, path string) {
	s, err := shapeOf(r)
	if err != nil {
		fail(w, err)
		return
	}
	out, err := e.cfg.Tunnels.List(r.Context(), c, tunnels.ListIn{})
	if err != nil {
		fail(w, err)
		return
	}
	out.Tunnels = slices.DeleteFunc(out.Tunnels, func(t tunnels.Tunnel) bool { return t.Closing })
	switch path {
	case tunnelsPath:
		answer(w, r, http.StatusOK, tunnelsOf(s, out, e.cfg.Container))
	case sessionsPath:
		answer(w, r, http.StatusOK, sessionsOf(s, out, e.cfg.Container))
	default:
		answer(w, r, http.StatusOK, bindingsOf(s, out))
	}
}

// kill ends a tunnel (tunnel.md §4.8).
func (e *Endpoints) kill(w http.ResponseWriter, r *http.Request, c identity.Caller, id string) {
	in := tunnels.KillIn{ID: id}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		fail(w, errs.New(errs.Invalid, "the query cannot be read"))
		return
	}
	for _, same := range query["session_id"] {
		if same != id {
			fail(w, errSessionID)
			return
		}
	}
	if values, ok := query["grace_ms"]; ok {
		grace, good := graceOf(values)
		if !good {
			fail(w, errGraceMS)
			return
		}
		in.Grace = &grace
	}
	if _, err := e.cfg.Tunnels.Kill(r.Context(), c, in); err != nil {
		fail(w, err)
		return
	}
	answer(w, r, http.StatusAccepted, object{{"session_id", id}, {"sessionId", id}, {"status", "closing"}})
}

// graceOf reads a grace: digits alone, as many as MaxGrace has.
func graceOf(values []string) (time.Duration, bool) {
	if len(values) != 1 || values[0] == "" || strings.Trim(values[0], "0123456789") != "" {
		return 0, false
	}
	ms, err := strconv.ParseInt(values[0], 10, 32)
	grace := time.Duration(ms) * time.Millisecond
	return grace, err == nil && grace <= tunnels.MaxGrace
}

func notAllowed(w http.ResponseWriter, methods string) {
	w.Header().Set("Allow", methods)
	reply(w, http.StatusMethodNotAllowed, wire.MustMarshal(failure{"method not allowed; this path takes " + methods}))
}

// failure is the body of every answer that is none.
type failure struct {
	Error string `json:"error"`
}

// statuses are those of the classes of errors; others are faults of the daemon, which say nothing of the inside.
var statuses = map[errs.Class]int{
	errs.Invalid: http.StatusBadRequest, errs.Unauthenticated: http.StatusUnauthorized, errs.Denied: http.StatusForbidden,
	errs.NotFound: http.StatusNotFound, errs.Conflict: http.StatusConflict, errs.Exists: http.StatusConflict,
	errs.Exhausted: http.StatusTooManyRequests, errs.Unavailable: http.StatusServiceUnavailable,
}

func fail(w http.ResponseWriter, err error) {
	status, text := http.StatusInternalServerError, "internal error; the log of the daemon says more"
	if e, ok := errs.As(err); ok {
		if s, ok := statuses[e.Class]; ok {
			status, text = s, e.Text
		}
		if ms, ok := e.Fields["retryAfterMs"].(int64); ok && ms > 0 {
			w.Header().Set("Retry-After", strconv.FormatInt((ms+999)/1000, 10))
		}
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="hanzod"`)
	}
	reply(w, status, wire.MustMarshal(failure{text}))
}

// answer writes a value.
func answer(w http.ResponseWriter, r *http.Request, status int, v any) {
	body, err := wire.Marshal(v)
	if err != nil {
		fail(w, err)
		return
	}
	if r.Method == http.MethodHead {
		body = nil
	}
	reply(w, status, body)
}

func reply(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}
