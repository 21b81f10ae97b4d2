package rest

import (
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/identity/peer"
	"github.com/hanzoai/hanzod/identity/tailnet"
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
	from := s.d.Peers.Peer(r)
	if err := s.site(r, from); err != nil {
		return identity.Caller{}, err
	}
	if carriesToken(r.URL.RawQuery) {
		return identity.Caller{}, errQueryToken
	}
	token, ok := bearer(r.Header)
	if !ok {
		return identity.Caller{}, errNoBearer
	}
	c, err := s.d.Bearer(r.Context(), token, from)
	if errors.Is(err, identity.ErrBearerRequired) {
		return identity.Caller{}, errNoBearer
	}
	if err != nil {
		return identity.Caller{}, err
	}
	peer.Proved(r.Context())
	c.Door, c.RemoteIP, c.Local = identity.DoorREST, from.IP(), false
	return c, nil
}

// site refuses what a browser may have been tricked into: by a name of another site that leads here, or by a page of
// one.
func (s *server) site(r *http.Request, from identity.Peer) error {
	if from.Member != nil && !s.knownHost(r.Host) && !s.tailnetHost(r.Host) {
		return errHost
	}
	if s.d.Loopback && from.Member == nil && !s.knownHost(r.Host) && (!s.d.ProxyNames || !from.Trusted || !from.Forwarded) {
		return errHost
	}
	if !s.d.Peers.MayWrite(r, from) {
		return errOrigin
	}
	return nil
}

// knownHost reports whether the Host header names this machine: a loopback address, localhost, a name
// of the tailnet, or a configured name.
func (s *server) knownHost(host string) bool {
	name, ok := peer.Hostname(host)
	return ok && (peer.LocalHost(host) || s.hosts[name])
}

// tailnetHost reports whether the Host header names this machine on the tailnet: by an address there, or
// by its name, short or full.
func (s *server) tailnetHost(host string) bool {
	name, ok := peer.Hostname(host)
	if !ok || s.d.TailnetName == nil {
		return false
	}
	if a, err := netip.ParseAddr(name); err == nil {
		return tailnet.Contains(a)
	}
	full := s.d.TailnetName()
	short, _, _ := strings.Cut(full, ".")
	return full != "" && (name == full || name == short)
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

// bearer takes the token out of the header, so that it goes no further; "" when there is no header.
// It fails for a header that is none of ours.
func bearer(h http.Header) (string, bool) {
	values := h["Authorization"]
	h.Del("Authorization")
	switch len(values) {
	case 0:
		return "", true
	case 1:
		scheme, token, ok := strings.Cut(values[0], " ")
		token = strings.TrimSpace(token)
		return token, ok && token != "" && strings.EqualFold(scheme, "bearer")
	}
	return "", false
}
