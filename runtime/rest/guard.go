package rest

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// The refusals of this door.
var (
	errHost       = errs.Define(errs.Denied, "rest.host", "the Host header names no address of this daemon")
	errOrigin     = errs.Define(errs.Denied, "rest.origin", "requests from web pages of another origin are refused")
	errQueryToken = errs.Define(errs.Invalid, "rest.query_token", "tokens do not belong in a URL, where logs keep them; send Authorization: Bearer <token>")
	errNoBearer   = errs.Define(errs.Unauthenticated, "rest.no_bearer", "send Authorization: Bearer <token>")
)

// guard says who is calling. It refuses first what a browser may have been tricked into.
func (s *server) guard(r *http.Request) (identity.Caller, error) {
	if s.d.Loopback && !s.knownHost(r.Host) {
		return identity.Caller{}, errHost
	}
	if !sameOrigin(r) {
		return identity.Caller{}, errOrigin
	}
	if carriesToken(r.URL.RawQuery) {
		return identity.Caller{}, errQueryToken
	}
	token, ok := bearer(r.Header)
	if !ok {
		return identity.Caller{}, errNoBearer
	}
	ip := s.remoteIP(r)
	c, err := s.d.Bearer(r.Context(), token, ip)
	if err != nil {
		return identity.Caller{}, err
	}
	c.Door, c.RemoteIP, c.Local = identity.DoorREST, ip, false
	return c, nil
}

// knownHost reports whether the Host header names this machine: a loopback address, localhost, or
// a configured name.
func (s *server) knownHost(host string) bool {
	name := strings.ToLower(hostname(host))
	return isLoopback(name) || s.hosts[name]
}

// hostname cuts the port off a host.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.Trim(host, "[]")
}

func isLoopback(name string) bool {
	if name == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && ip.Unmap().IsLoopback()
}

// sameOrigin reports whether a request came from no web page, or from one of this very address.
func sameOrigin(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site":
		return false
	}
	origins := r.Header["Origin"]
	if len(origins) == 0 {
		return true
	}
	u, err := url.Parse(origins[0])
	return err == nil && len(origins) == 1 && (u.Scheme == "http" || u.Scheme == "https") &&
		strings.EqualFold(u.Host, r.Host)
}

// carriesToken reports whether the query names a token. Its value is not looked at.
func carriesToken(query string) bool {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, _, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(name); err == nil {
			name = plain
		}
		switch strings.ToLower(name) {
		case "token", "access_token":
			return true
		}
	}
	return false
}

// bearer takes the token out of the header, so that it goes no further.
func bearer(h http.Header) (string, bool) {
	values := h["Authorization"]
	h.Del("Authorization")
	if len(values) != 1 {
		return "", false
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	token = strings.TrimSpace(token)
	return token, ok && token != "" && strings.EqualFold(scheme, "bearer")
}
