// Package peer reads from an HTTP request where it comes from: through which proxies, from which
// web page (protocol.md §1.3, §1.4). Every door that speaks HTTP asks it, so that they agree.
//
// It imports identity and the standard library and owns no goroutine. Rules are not changed once
// they are in use; their methods are safe for concurrent use.
package peer

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/identity"
)

// maxHeader is the largest header value that is kept for the auth mode; a user name or an address is
// much shorter, and a stranger must not make the daemon keep more.
const maxHeader = 1 << 10

// Rules say who may speak for others and which web pages may connect.
type Rules struct {
	// Trusted are the networks of proxies whose headers count.
	Trusted []netip.Prefix
	// RealIPFallback reads X-Real-IP when there is no X-Forwarded-For.
	RealIPFallback bool
	// Headers are the names of the headers that the auth mode reads.
	Headers []string
	// Tailscale says that the tailnet's own proxy on this machine may name the client, to be checked.
	Tailscale bool

	// Origins are the origins that may connect; "*" allows all.
	Origins []string
	// HostHeader lets in pages whose origin is the Host header.
	HostHeader bool
}

// Trusts reports whether an address is a trusted proxy.
func (r *Rules) Trusts(a netip.Addr) bool {
	a = plain(a)
	return a.IsValid() && slices.ContainsFunc(r.Trusted, func(n netip.Prefix) bool { return n.Contains(a) })
}

// Peer returns where a request comes from.
//
// A request that a proxy speaks for is never local, whatever address the proxy names: what runs on
// the proxy's machine is not this daemon's owner.
func (r *Rules) Peer(req *http.Request) identity.Peer {
	p := identity.Peer{Direct: Addr(req.RemoteAddr), Forwarded: forwarded(req.Header)}
	_, p.HasOrigin = req.Header["Origin"]
	p.Member = MemberOf(req.Context())
	// What comes over the tailnet is who the tailnet says, and speaks for nobody else.
	p.Trusted = r.Trusts(p.Direct) && p.Member == nil
	p.MemberCounts = p.Member != nil && !p.HasOrigin && (single(req.Header, MemberHeader) == "tailnet" || req.Header.Get("Upgrade") != "")
	p.Client = p.Direct
	if p.Trusted {
		p.Client = r.client(req.Header)
	}
	if r.Tailscale && p.Direct.IsLoopback() {
		p.Claimed = walk(req.Header["X-Forwarded-For"], netip.Addr.IsLoopback)
	}
	p.Local = p.Client.IsLoopback() && !p.Forwarded && LocalHost(req.Host)
	for _, name := range r.Headers {
		if v := single(req.Header, name); v != "" {
			if p.Headers == nil {
				p.Headers = make(map[string]string, len(r.Headers))
			}
			p.Headers[strings.ToLower(name)] = v
		}
	}
	return p
}

// MemberHeader, with the value tailnet, says that a request is made in the name of who the tailnet says
// is calling. No web page can set a header whose name begins like this, not even one that this daemon
// serves or that leads a name of its own here: what a browser sends without asking its user does not count. WebSocket
// upgrades do without it, because pages cannot hide their origin there.
const MemberHeader = "Sec-Hanzo-Identity"

type memberKey struct{}

// WithMember returns a context for the requests of a connection over the tailnet. who is asked at the
// first request.
func WithMember(ctx context.Context, who func() *identity.Member) context.Context {
	return context.WithValue(ctx, memberKey{}, who)
}

// MemberOf returns who the tailnet says made a request with this context, nil where it did not come over
// the tailnet.
func MemberOf(ctx context.Context) *identity.Member {
	if who, ok := ctx.Value(memberKey{}).(func() *identity.Member); ok {
		return who()
	}
	return nil
}

// single is the value of a header that came once.
func single(h http.Header, name string) string {
	values := h.Values(name)
	if len(values) != 1 || len(values[0]) > maxHeader {
		return ""
	}
	return strings.TrimSpace(values[0])
}

// client is whom a trusted proxy speaks for.
func (r *Rules) client(h http.Header) netip.Addr {
	if hops := h["X-Forwarded-For"]; len(hops) > 0 {
		return walk(hops, r.Trusts)
	}
	if r.RealIPFallback {
		return Addr(single(h, "X-Real-Ip"))
	}
	return netip.Addr{}
}

// walk goes through forwarded addresses from the right to the first that is no proxy. Further lines
// of the header continue the first one: some proxies add theirs so. It ends at what is no address:
// whatever stands to the left of it was written by nobody we know.
func walk(lines []string, proxy func(netip.Addr) bool) netip.Addr {
	for _, line := range slices.Backward(lines) {
		for {
			cut := strings.LastIndexByte(line, ',')
			a := Addr(line[cut+1:])
			if !a.IsValid() || !proxy(a) {
				return a
			}
			if cut < 0 {
				break
			}
			line = line[:cut]
		}
	}
	return netip.Addr{}
}

// forwarded reports whether a proxy has had a request in its hands. Some tell by headers that the
// frozen protocol does not name; whoever tells is no direct client.
func forwarded(h http.Header) bool {
	for name := range h {
		switch name {
		case "X-Real-Ip", "Forwarded", "Via", "True-Client-Ip", "Cf-Connecting-Ip", "X-Client-Ip", "X-Cluster-Client-Ip":
			return true
		}
		if strings.HasPrefix(name, "X-Forwarded-") {
			return true
		}
	}
	return false
}

// Addr reads an address, with or without a port, in brackets or not. IPv4 in IPv6 is IPv4. What is no
// address gives one that is not valid.
func Addr(s string) netip.Addr {
	s = strings.TrimSpace(s)
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return plain(ap.Addr())
	}
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		s = s[1 : len(s)-1]
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return plain(a)
}

// plain takes off what would keep equal addresses from being equal.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// LocalHost reports whether a Host header names this machine: localhost, a loopback address, or a
// name of the tailnet (protocol.md §1.3).
func LocalHost(host string) bool {
	name, ok := Hostname(host)
	return ok && (strings.HasSuffix(name, ".ts.net") || LoopbackName(name))
}

// LoopbackName reports whether a host name, without port, is localhost or a loopback address.
func LoopbackName(name string) bool {
	return strings.EqualFold(name, "localhost") || Addr(name).IsLoopback() && !strings.Contains(name, "%")
}

// Hostname is the name in a Host header in lower case, without port and brackets. It fails for what
// is no host.
func Hostname(host string) (string, bool) {
	name, port := host, ""
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		if strings.Count(host, ":") > 1 && !strings.HasPrefix(host, "[") {
			return "", false // IPv6 without brackets
		}
		if name, port = host[:i], host[i+1:]; !isPort(port) {
			return "", false
		}
	}
	if strings.HasPrefix(name, "[") {
		inner, closed := strings.CutSuffix(name[1:], "]")
		if a, err := netip.ParseAddr(inner); !closed || err != nil || !a.Is6() {
			return "", false
		}
		name = inner
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("/\\@?#[]%<>^|\"", c) >= 0 {
			return "", false
		}
	}
	return strings.ToLower(name), name != ""
}

func isPort(s string) bool {
	if s == "" || len(s) > 5 {
		return false
	}
	n := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n < 1<<16
}
