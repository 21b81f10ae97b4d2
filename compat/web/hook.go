package web

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/hooks"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/identity/peer"
	"github.com/hanzoai/hanzod/system"
)

// Hooks is the ingress of webhooks (protocol.md §1.7). It is there when hooks are enabled.
func (w *Web) Hooks() (Stage, bool) {
	return Stage{
		Match: func(path string) bool { return below(path, w.hookPath) },
		Serve: w.hook,
	}, w.cfg.Hooks.Enabled
}

const hookTokenInQuery = "Hook token must be provided via Authorization: Bearer <token> or X-OpenClaw-Token header (query parameters are not allowed)."

// hook checks in the order of protocol.md §1.7: nothing of a request is read before its token.
func (w *Web) hook(rw http.ResponseWriter, r *http.Request) {
	if hasParameter(r.URL.RawQuery, "token") {
		text(rw, http.StatusBadRequest, hookTokenInQuery)
		return
	}
	// A web page that has no business here must not even use up the attempts of this machine.
	if !w.mayWrite(r) {
		text(rw, http.StatusForbidden, foreignPage)
		return
	}
	if !w.hookToken(rw, r) {
		return
	}
	if r.Method != http.MethodPost {
		notAllowed(rw, http.MethodPost)
		return
	}
	path := strings.TrimLeft(r.URL.EscapedPath()[len(w.hookPath):], "/")
	if path == "" {
		text(rw, http.StatusNotFound, "Not Found")
		return
	}
	payload, done, err := w.readJSON(rw, r, w.cfg.Hooks.MaxBodyBytes)
	defer done()
	if err != nil {
		w.hookBodyError(rw, err)
		return
	}
	c := identity.Caller{Door: identity.DoorLegacy, Principal: "hook", RemoteIP: w.cfg.Peers.Peer(r).IP()}
	switch path {
	case "wake":
		w.wake(rw, r, c, system.WakeIn{Text: trim(str(payload, "text")), Mode: wakeMode(payload, "mode"), Source: "hook"})
	case "agent":
		w.agent(rw, r, c, agentFrom(payload))
	default:
		w.mapped(rw, r, c, path, payload)
	}
}

const foreignPage = "Requests from web pages of another origin are refused; allow the origin in gateway.controlUi.allowedOrigins."

// hookToken checks the token, or answers.
func (w *Web) hookToken(rw http.ResponseWriter, r *http.Request) bool {
	token := bearerToken(r.Header)
	if token == "" {
		token = strings.TrimSpace(r.Header.Get("X-Openclaw-Token"))
	}
	// The other end of the connection, whatever headers say.
	from, limiter := peer.Addr(r.RemoteAddr), w.cfg.HookLimiter
	// A right token passes even while others guess.
	if token != "" && w.cfg.Hooks.Token.Equal(token) {
		limiter.Succeed(identity.LimitHook, from)
		peer.Proved(r.Context())
		return true
	}
	if wait, ok := limiter.Allow(identity.LimitHook, from); !ok {
		retryAfter(rw, wait)
		text(rw, http.StatusTooManyRequests, "Too Many Requests")
		return false
	}
	limiter.Fail(identity.LimitHook, from)
	text(rw, http.StatusUnauthorized, "Unauthorized")
	return false
}

// hookError is the body of a hook that failed.
type hookError struct {
	OK    bool   `json:"ok"`
	Error string `json:"error"`
}

func (w *Web) hookBodyError(rw http.ResponseWriter, err error) {
	status, message := http.StatusBadRequest, err.Error()
	if e, ok := errors.AsType[*wire.SyntaxError](err); ok {
		message = e.JavaScript()
	}
	switch {
	case errors.Is(err, errTooLarge):
		status = http.StatusRequestEntityTooLarge
	case errors.Is(err, errSlow):
		status = http.StatusRequestTimeout
	case errors.Is(err, errFull):
		status = http.StatusServiceUnavailable
		rw.Header().Set("Retry-After", "1")
	}
	answer(rw, status, hookError{Error: message})
}

func (w *Web) hookFailed(rw http.ResponseWriter, r *http.Request, err error) {
	message := "internal error"
	if e, ok := errs.As(err); ok && e.Class != errs.Internal {
		message = e.Text
	}
	status := http.StatusServiceUnavailable
	switch errs.ClassOf(err) {
	case errs.Invalid:
		status = http.StatusBadRequest
	case errs.Exhausted:
		status = http.StatusTooManyRequests
		rw.Header().Set("Retry-After", "1")
	case errs.Internal, errs.Unknown:
		status = http.StatusInternalServerError
		if r.Context().Err() == nil {
			w.cfg.Log.ErrorContext(r.Context(), "a hook failed", "error", err)
		}
	}
	answer(rw, status, hookError{Error: message})
}

func (w *Web) wake(rw http.ResponseWriter, r *http.Request, c identity.Caller, in system.WakeIn) {
	out, err := w.cfg.Wake(r.Context(), c, in)
	if err != nil {
		w.hookFailed(rw, r, err)
		return
	}
	w.cfg.Log.InfoContext(r.Context(), "a hook woke the main session", "mode", string(out.Mode), "bytes", len(in.Text), "ip", c.RemoteIP)
	answer(rw, http.StatusOK, struct {
		OK   bool   `json:"ok"`
		Mode string `json:"mode"`
	}{true, string(out.Mode)})
}

func (w *Web) agent(rw http.ResponseWriter, r *http.Request, c identity.Caller, in hooks.AgentIn) {
	// The run goes on when the sender is gone, and so does its start.
	out, err := w.cfg.Agent(context.WithoutCancel(r.Context()), c, in)
	if err != nil {
		w.hookFailed(rw, r, err)
		return
	}
	answer(rw, http.StatusOK, struct {
		OK    bool   `json:"ok"`
		RunID string `json:"runId"`
	}{true, out.RunID})
}

// mapped does what the first mapping that fits says.
func (w *Web) mapped(rw http.ResponseWriter, r *http.Request, c identity.Caller, path string, payload wire.Value) {
	for _, m := range w.mappings {
		if !m.fits(path, payload) {
			continue
		}
		act, err := m.act(input{path: path, payload: payload, r: r, now: w.cfg.Now})
		switch {
		case err != nil:
			answer(rw, http.StatusBadRequest, hookError{Error: err.Error()})
		case act.wake != nil:
			w.wake(rw, r, c, *act.wake)
		default:
			w.agent(rw, r, c, *act.agent)
		}
		return
	}
	text(rw, http.StatusNotFound, "Not Found")
}

// str is a member that is a text, "" for any other.
func str(v wire.Value, key string) string {
	m, _ := v.Get(key)
	return m.Str()
}

func wakeMode(v wire.Value, key string) system.WakeMode {
	if str(v, key) == string(system.WakeNextHeartbeat) {
		return system.WakeNextHeartbeat
	}
	return system.WakeNow
}

// agentFrom reads the body of POST …/agent: members of the wrong type count as absent, except those
// that are refused when they are there and say nothing.
func agentFrom(v wire.Value) hooks.AgentIn {
	in := hooks.AgentIn{
		Message: trim(str(v, "message")), Name: trim(str(v, "name")), AgentID: trim(str(v, "agentId")),
		SessionKey: trim(str(v, "sessionKey")), KeySource: hooks.KeyFromRequest,
		WakeNow: wakeMode(v, "wakeMode") == system.WakeNow, Deliver: true,
		Channel: given(v, "channel"), To: trim(str(v, "to")), Model: given(v, "model"),
		Thinking: trim(str(v, "thinking")),
	}
	if d, ok := v.Get("deliver"); ok && d.Kind() == wire.Bool && !d.Bool() {
		in.Deliver = false
	}
	if t, ok := v.Get("timeoutSeconds"); ok {
		in.Timeout = seconds(t.Num())
	}
	return in
}

// given is a member that is there, as text: "" when it is anything else.
func given(v wire.Value, key string) *string {
	m, ok := v.Get(key)
	if !ok {
		return nil
	}
	s := trim(m.Str())
	return &s
}

// hasParameter reports whether the query names a parameter. Its value is not looked at.
func hasParameter(query, name string) bool {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		key, _, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(key); err == nil {
			key = plain
		}
		if key == name {
			return true
		}
	}
	return false
}

// escaped is a configured path as it comes in a request.
func escaped(path string) string { return (&url.URL{Path: path}).EscapedPath() }
