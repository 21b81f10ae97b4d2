package web

import (
	"context"
	"net/http"
	"net/url"
	"strings"
)

// The two names of the canvas host's paths: that of the original, and that of the companion apps
// which carry Hanzo's name (protocol.md §9).
const (
	openPrefix  = "/__openclaw__"
	hanzoPrefix = "/__bot__"
)

// capabilityKey marks the capability of a request in its context: it is in no URL from there on.
type capabilityKey struct{}

// capabilityParameter names the capability in a query (protocol.md §1.2).
const capabilityParameter = "oc_cap"

// Scoped takes a canvas capability out of the URL of a request: /__openclaw__/cap/<capability>/rest
// becomes /rest. ok is false when the path begins so and names none. Other requests come back as
// they are.
func Scoped(r *http.Request) (scoped *http.Request, ok bool) {
	path := r.URL.EscapedPath()
	rest, found := strings.CutPrefix(path, openPrefix+"/cap/")
	if !found {
		rest, found = strings.CutPrefix(path, hanzoPrefix+"/cap/")
	}
	if !found {
		return r, true
	}
	name, below, slash := strings.Cut(rest, "/")
	token, err := url.PathUnescape(name)
	if token = strings.TrimSpace(token); !slash || err != nil || token == "" {
		return r, false
	}
	decoded, err := url.PathUnescape("/" + below)
	if err != nil { // the server has read it already
		return r, false
	}
	scoped = r.WithContext(context.WithValue(r.Context(), capabilityKey{}, token))
	scoped.URL = &url.URL{Path: decoded, RawPath: "/" + below, RawQuery: r.URL.RawQuery}
	scoped.RequestURI = ""
	return scoped, true
}

// Unauthorized answers a request whose capability path is malformed.
func Unauthorized(rw http.ResponseWriter) {
	fail(rw, http.StatusUnauthorized, "unauthorized", "Unauthorized")
}

// inQuery is the capability in a query, "" without one.
func inQuery(query string) string {
	if !hasParameter(query, capabilityParameter) {
		return ""
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(values.Get(capabilityParameter))
}

// capabilityOf is the capability that a request presents, in its path or in its query.
func capabilityOf(r *http.Request) string {
	if token, ok := r.Context().Value(capabilityKey{}).(string); ok {
		return token
	}
	return inQuery(r.URL.RawQuery)
}

// canvasPath is the part of a path below the canvas host's prefix, of either name, with its slash:
// "/canvas/index.html".
func canvasPath(path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, openPrefix)
	if !ok {
		rest, ok = strings.CutPrefix(path, hanzoPrefix)
	}
	if ok && (below(rest, "/canvas") || below(rest, "/a2ui") || rest == "/ws") {
		return rest, true
	}
	return "", false
}
