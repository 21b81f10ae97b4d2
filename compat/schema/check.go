package schema

import (
	"strings"

	"github.com/hanzoai/hanzod/compat/wire"
)

// Validate judges the parameters of a method by its frozen schema. It returns "" when they fit, otherwise the
// problems joined by "; " (protocol.md §2.3). Methods that are unknown or have no schema get "".
func Validate(method string, params wire.Value) (problem string) {
	t := frozenTable()
	i, ok := t.index[method]
	if !ok || !t.methods[i].ParamsValidated {
		return ""
	}
	return t.rules[i].get().problem(params)
}

// problem is the whole text, "" when v fits. The good path allocates nothing.
func (r *rule) problem(v wire.Value) string {
	if r.check(v, nil, nil) {
		return ""
	}
	var c collector
	r.check(v, nil, &c)
	return string(c.text)
}

// Check judges the parameters of a method and returns the whole message of the refusal ("invalid node.invoke params:
// …"), or "" when they fit. Beyond Validate it knows the methods with texts of their own that depend on the
// parameters alone. After the handshake pass Request.ParamsOrEmpty; for the first connect pass Request.Params, where
// missing parameters are a fault (protocol.md §2.4). A connect after hello-ok is refused without any check.
func Check(method string, params wire.Value) (message string) {
	switch method {
	case "set-heartbeats":
		if v, _ := params.Get("enabled"); v.Kind() != wire.Bool {
			return refuse(method, "enabled (boolean) required")
		}
		return ""
	case "secrets.resolve":
		if v, _ := params.Get("commandName"); params.Kind() == wire.Object && blank(v) {
			return refuse(method, "commandName")
		}
		if Validate(method, params) != "" {
			return refuse(method, "targetIds")
		}
		return ""
	case "cron.add":
		params = NormalizeCronAdd(params)
	case "cron.update":
		params = NormalizeCronUpdate(params)
	}
	if p := Validate(method, params); p != "" {
		return refuse(method, p)
	}
	switch method {
	case "send":
		if !hasMessageOrMedia(params) {
			return refuse(method, "text or media is required")
		}
	case "cron.runs":
		if scope, _ := params.Get("scope"); scope.Str() == "job" && !hasRunID(params) {
			return refuse(method, "missing id")
		}
	}
	return ""
}

func refuse(method, problem string) string { return "invalid " + method + " params: " + problem }

// blank reports whether v is no string or one of white space only.
func blank(v wire.Value) bool { return strings.TrimSpace(v.Str()) == "" }

func hasMessageOrMedia(params wire.Value) bool {
	message, _ := params.Get("message")
	media, _ := params.Get("mediaUrl")
	if !blank(message) || !blank(media) {
		return true
	}
	list, _ := params.Get("mediaUrls")
	for v := range list.Items() {
		if !blank(v) {
			return true
		}
	}
	return false
}

func hasRunID(params wire.Value) bool {
	id, _ := params.Get("id")
	job, _ := params.Get("jobId")
	return !blank(id) || !blank(job)
}
