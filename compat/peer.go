package compat

import (
	"bufio"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Proxies says which peers may speak for others (protocol.md §1.3).
type Proxies struct {
	// Trusted are the networks of proxies whose headers count.
	Trusted []netip.Prefix
	// RealIPFallback reads X-Real-IP when there is no X-Forwarded-For.
	RealIPFallback bool
}

func (p Proxies) trusts(a netip.Addr) bool {
	return slices.ContainsFunc(p.Trusted, func(n netip.Prefix) bool { return n.Contains(a) })
}

// peer is where a connection comes from.
type peer struct {
	// ip is the client's address as far as it is known.
	ip netip.Addr
	// local is a client on this machine that came directly.
	local bool
	// reported is what others are told of the address, empty for local clients.
	reported string
	// headers of the upgrade that the handshake needs.
	host, origin string
	hasOrigin    bool
	forwarded    bool // X-Forwarded-For or X-Real-IP is there
	https        bool
	localAddr    string
}

func peerOf(p Proxies, r *http.Request) peer {
	out := peer{host: r.Host, origin: r.Header.Get("Origin")}
	_, out.hasOrigin = r.Header["Origin"]
	xff, real := r.Header.Get("X-Forwarded-For"), r.Header.Get("X-Real-Ip")
	out.forwarded = xff != "" || real != ""
	out.https = strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") || r.TLS != nil
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		out.localAddr = a.String()
	}
	from := parseAddr(r.RemoteAddr)
	trusted := p.trusts(from)
	out.ip = from
	if trusted {
		out.ip = p.client(from, xff, real)
	}
	headers := out.forwarded || r.Header.Get("X-Forwarded-Host") != ""
	loopback := out.ip.IsValid() && out.ip.IsLoopback()
	out.local = loopback && localHost(r.Host) && (!headers || trusted)
	if !out.local && (!headers || trusted) && out.ip.IsValid() && !loopback {
		out.reported = out.ip.String()
	}
	return out
}

// client walks the forwarded addresses from the right to the first that is no trusted proxy.
func (p Proxies) client(from netip.Addr, xff, real string) netip.Addr {
	if xff != "" {
		hops := strings.Split(xff, ",")
		for _, h := range slices.Backward(hops) {
			a := parseAddr(strings.TrimSpace(h))
			if a.IsValid() && !p.trusts(a) {
				return a
			}
		}
		return netip.Addr{}
	}
	if real != "" && p.RealIPFallback {
		return parseAddr(strings.TrimSpace(real))
	}
	if real == "" {
		return from
	}
	return netip.Addr{}
}

func parseAddr(s string) netip.Addr {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap()
	}
	a, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		return netip.Addr{}
	}
	return a.Unmap()
}

// localHost reports whether a Host header names this machine.
func localHost(host string) bool {
	h := hostname(host)
	if h == "localhost" || strings.HasSuffix(h, ".ts.net") {
		return true
	}
	a := parseAddr(h)
	return a.IsValid() && a.IsLoopback()
}

// hostname is the name in a Host header, in lower case, without its port.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.ToLower(strings.Trim(host, "[]"))
}

// Origins says which web pages may connect (protocol.md §1.4).
type Origins struct {
	// Allowed are exact origins in lower case; "*" allows all.
	Allowed []string
	// HostHeader lets a page in whose origin is the Host header.
	HostHeader bool
}

// allows is the origin check. It is asked only where the rule applies.
func (o Origins) allows(p peer) bool {
	u, err := url.Parse(p.origin)
	if err != nil || p.origin == "null" || u.Scheme == "" || u.Host == "" {
		return false
	}
	origin := strings.ToLower(u.Scheme + "://" + withoutDefaultPort(u))
	if slices.Contains(o.Allowed, "*") || slices.Contains(o.Allowed, origin) {
		return true
	}
	if o.HostHeader && strings.EqualFold(u.Host, p.host) {
		return true
	}
	return p.local && loopbackName(u.Hostname())
}

func loopbackName(h string) bool {
	if strings.EqualFold(h, "localhost") {
		return true
	}
	a := parseAddr(h)
	return a.IsValid() && a.IsLoopback()
}

func withoutDefaultPort(u *url.URL) string {
	if (u.Scheme == "http" && u.Port() == "80") || (u.Scheme == "https" && u.Port() == "443") {
		return u.Hostname()
	}
	return u.Host
}

func firstProtocol(header string) []string {
	p, _, _ := strings.Cut(header, ",")
	if p = strings.TrimSpace(p); p == "" {
		return nil
	}
	return []string{p}
}

// hijackWriter remembers the connection that a hijack hands out: the door sets write deadlines on
// it.
type hijackWriter struct {
	http.ResponseWriter
	heard func()
	nc    net.Conn
}

// Hijack implements http.Hijacker.
func (h *hijackWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.nc = nc
	return heardConn{nc, h.heard}, rw, err
}

// heardConn tells of every byte that arrives: a peer that takes long to send one message is not
// silent.
type heardConn struct {
	net.Conn
	heard func()
}

func (h heardConn) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if n > 0 {
		h.heard()
	}
	return n, err
}

// ClientIP returns the address of a client as far as it is known, "" when it is not.
func (p Proxies) ClientIP(r *http.Request) string {
	if ip := peerOf(p, r).ip; ip.IsValid() {
		return ip.String()
	}
	return ""
}
