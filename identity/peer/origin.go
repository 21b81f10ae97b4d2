package peer

import (
	"net/http"
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/identity"
)

// Page is what is known of the web page that made a request. The zero Page is a request without an
// Origin header: no web page, as far as can be known.
type Page struct {
	// Present says that there is an Origin header. Without the other marks the page is foreign.
	Present bool
	// Allowed pages are of an origin that the configuration names.
	Allowed bool
	// Loopback pages come from this machine, as the client does.
	Loopback bool
	// SameHost pages come from the very host that the request names, or that a trusted proxy says it
	// named. A web page can arrange that by a name of its own that leads here, so this is enough only
	// for what is safe anyway, or where the Host header is checked.
	SameHost bool
}

// Names are the host names of the origins that may connect. Where they lead here, the daemon is known
// by them.
func (r *Rules) Names() []string {
	var out []string
	for _, entry := range r.Origins {
		if o, ok := parseOrigin(strings.TrimSuffix(strings.TrimSpace(entry), "/")); ok {
			out = append(out, o.name)
		}
	}
	return out
}

// MayConnect reports whether the page may open a connection (protocol.md §1.4).
func (p Page) MayConnect() bool { return p.Allowed || p.Loopback }

// Page judges the origin of a request. from is where it comes from, by Peer.
func (r *Rules) Page(req *http.Request, from identity.Peer) Page {
	values, has := req.Header["Origin"]
	page := Page{Present: has}
	if len(values) != 1 {
		return page
	}
	o, ok := parseOrigin(values[0])
	if !ok {
		return page
	}
	own := o.sameHost(req.Host)
	page.Allowed = slices.ContainsFunc(r.Origins, o.is) || r.HostHeader && own
	page.Loopback = from.Local && LoopbackName(o.name)
	page.SameHost = own || from.Trusted && o.sameHost(single(req.Header, "X-Forwarded-Host"))
	return page
}

// MayWrite reports whether a request that is no upgrade may be served: no web page made it, or one of
// an allowed origin or of the daemon's own address. The Host header must have been checked where a
// web page could choose it.
func (r *Rules) MayWrite(req *http.Request, from identity.Peer) bool {
	page := r.Page(req, from)
	switch req.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return !page.Present || page.Allowed || page.SameHost
	default: // cross-site, same-site, and what is not known yet
		return page.Allowed
	}
}

// origin is a parsed Origin header: scheme, host name in lower case, and port, empty when it is the
// scheme's own.
type origin struct{ scheme, name, port string }

// parseOrigin reads scheme://host[:port] and nothing else: no user, path, query or fragment, no
// letters beyond ASCII. Browsers send host names in their ASCII form.
func parseOrigin(s string) (origin, bool) {
	scheme, host, ok := strings.Cut(s, "://")
	scheme = strings.ToLower(scheme)
	if !ok || scheme == "" || strings.Trim(scheme, "abcdefghijklmnopqrstuvwxyz0123456789+-.") != "" {
		return origin{}, false
	}
	name, ok := Hostname(host)
	if !ok {
		return origin{}, false
	}
	return origin{scheme, name, portOf(scheme, host)}, true
}

// portOf is the port of a host that Hostname accepts, empty for the scheme's own.
func portOf(scheme, host string) string {
	i := strings.LastIndexByte(host, ':')
	if i <= strings.LastIndexByte(host, ']') {
		return ""
	}
	port := host[i+1:]
	if scheme == "http" && port == "80" || scheme == "https" && port == "443" {
		return ""
	}
	return port
}

// is reports whether an entry of the configuration means this origin.
func (o origin) is(entry string) bool {
	entry = strings.TrimSpace(entry)
	if entry == "*" {
		return true
	}
	other, ok := parseOrigin(strings.TrimSuffix(entry, "/"))
	return ok && o == other
}

// sameHost reports whether a Host header names the host of this origin.
func (o origin) sameHost(host string) bool {
	name, ok := Hostname(host)
	return ok && name == o.name && portOf(o.scheme, host) == o.port
}
