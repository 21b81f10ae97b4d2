package web

import (
	"context"
	"errors"
	"net/http"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// Tools is POST /tools/invoke (protocol.md §1.7).
func (w *Web) Tools() Stage { return Stage{exactly("/tools/invoke"), w.invokeTool} }

func (w *Web) invokeTool(rw http.ResponseWriter, r *http.Request) {
	if !w.mayPost(rw, r) {
		return
	}
	c, ok := w.bearer(rw, r, identity.ScopeRead)
	if !ok {
		return
	}
	body, done, err := w.readJSON(rw, r, maxToolBody)
	defer done()
	if err != nil {
		bodyError(rw, err)
		return
	}
	tool := trim(str(body, "tool"))
	if tool == "" {
		fail(rw, http.StatusBadRequest, invalidRequest, "tools.invoke requires body.tool")
		return
	}
	call := ToolCall{Name: tool, SessionKey: trim(str(body, "sessionKey")), Args: wire.EmptyObject()}
	if args, _ := body.Get("args"); args.Kind() == wire.Object {
		call.Args = args
	}
	var result any
	err = ErrNoTool
	if w.cfg.Tools != nil {
		result, err = w.cfg.Tools.Invoke(r.Context(), c, call)
	}
	if err != nil {
		w.toolError(rw, r, tool, err)
		return
	}
	answer(rw, http.StatusOK, struct {
		OK     bool `json:"ok"`
		Result any  `json:"result"`
	}{true, result})
}

// ToolCall is one call of a tool.
type ToolCall struct {
	Name string
	// SessionKey is the session that the call is made for; "" is the main session.
	SessionKey string
	// Args is an object.
	Args wire.Value
}

// Tools runs tools. What it returns is written as JSON. Errors of the classes Invalid, NotFound, Conflict, Exists,
// Exhausted and Denied are told the caller; all others only the log.
type Tools interface {
	Invoke(ctx context.Context, c identity.Caller, call ToolCall) (any, error)
}

// ErrNoTool is the error of a tool that is not there, or that the configuration does not let be run this way.
var ErrNoTool = errors.New("tool not available")

// toolError words what became of a tool (protocol.md §1.7).
func (w *Web) toolError(rw http.ResponseWriter, r *http.Request, tool string, err error) {
	status, e := http.StatusInternalServerError, toolText{"tool_error", "tool execution failed"}
	switch errs.ClassOf(err) {
	case errs.Invalid, errs.NotFound, errs.Conflict, errs.Exists, errs.Exhausted:
		status, e.Message = http.StatusBadRequest, err.Error()
	case errs.Denied:
		status, e.Message = http.StatusForbidden, err.Error()
	}
	if errors.Is(err, ErrNoTool) {
		status, e = http.StatusNotFound, toolText{"not_found", "Tool not available: " + tool}
	}
	if status == http.StatusInternalServerError {
		w.cfg.Log.ErrorContext(r.Context(), "a tool failed", "tool", tool, "error", err)
	}
	answer(rw, status, struct {
		OK    bool     `json:"ok"`
		Error toolText `json:"error"`
	}{false, e})
}

type toolText struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}

const invalidRequest = "invalid_request_error"

// mayPost checks the method, which comes before the credentials, and refuses foreign web pages.
func (w *Web) mayPost(rw http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodPost {
		notAllowed(rw, http.MethodPost)
		return false
	}
	if !w.mayWrite(r) {
		fail(rw, http.StatusForbidden, "forbidden", foreignPage)
		return false
	}
	return true
}

// bodyError words what is wrong with a body (protocol.md §1.6).
func bodyError(rw http.ResponseWriter, err error) {
	status, message := http.StatusBadRequest, err.Error()
	if e, ok := errors.AsType[*wire.SyntaxError](err); ok {
		message = e.JavaScript()
	}
	switch {
	case errors.Is(err, errTooLarge):
		status, message = http.StatusRequestEntityTooLarge, "Payload too large"
	case errors.Is(err, errSlow):
		status, message = http.StatusRequestTimeout, "Request body timeout"
	case errors.Is(err, errFull):
		status = http.StatusServiceUnavailable
		rw.Header().Set("Retry-After", "1")
	}
	fail(rw, status, invalidRequest, message)
}

// ChatCompletions and Responses are the routes of the OpenAI dialect, there when the configuration
// enables them.
func (w *Web) ChatCompletions() (Stage, bool) {
	return Stage{exactly("/v1/chat/completions"), w.notServedYet}, w.cfg.HTTP.ChatCompletions
}

// Responses is POST /v1/responses.
func (w *Web) Responses() (Stage, bool) {
	return Stage{exactly("/v1/responses"), w.notServedYet}, w.cfg.HTTP.Responses
}

// notServedYet answers for the routes that need agents.
func (w *Web) notServedYet(rw http.ResponseWriter, r *http.Request) {
	if !w.mayPost(rw, r) {
		return
	}
	if _, ok := w.admin(rw, r); !ok {
		return
	}
	fail(rw, http.StatusNotImplemented, "api_error", "this version of hanzod runs no agents yet")
}
