package web

import (
	"errors"
	"net/http"

	"github.com/hanzoai/hanzod/compat/wire"
)

// Tools is POST /tools/invoke (protocol.md §1.7).
func (w *Web) Tools() Stage { return Stage{exactly("/tools/invoke"), w.invokeTool} }

func (w *Web) invokeTool(rw http.ResponseWriter, r *http.Request) {
	if !w.mayPost(rw, r) {
		return
	}
	if _, ok := w.admin(rw, r); !ok {
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
	// No tool is here yet, so none is available, whatever gateway.tools allows.
	answer(rw, http.StatusNotFound, struct {
		OK    bool     `json:"ok"`
		Error toolText `json:"error"`
	}{false, toolText{"not_found", "Tool not available: " + tool}})
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
