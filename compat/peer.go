package compat

import (
	"bufio"
	"net"
	"net/http"
	"strings"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/identity/peer"
)

// upgrade is what the handshake needs of the request that opened the connection. It keeps little: a
// stranger has it for as long as the handshake takes.
type upgrade struct {
	identity.Peer
	// reported is what others are told of the address, empty for local clients.
	reported  string
	page      peer.Page
	host      string
	localAddr string
	https     bool
}

func upgradeOf(rules *peer.Rules, r *http.Request) upgrade {
	u := upgrade{Peer: rules.Peer(r), host: r.Host}
	u.page, u.reported = rules.Page(r, u.Peer), u.ReportedIP()
	u.https = strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") || r.TLS != nil
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		u.localAddr = a.String()
	}
	return u
}

// originAllowed is protocol.md §1.4. A page that comes through a proxy passes for other clients than
// the browser ones when it is of the host that it asks: apps that show web pages send such an Origin.
// The original does not look at the origin there, which lets any page connect through the proxy with
// what the proxy knows of its user.
func (u *upgrade) originAllowed(browser bool) bool {
	switch {
	case !u.page.Present:
		return !browser
	case u.page.MayConnect():
		return true
	default:
		return u.page.SameHost && u.Forwarded && !browser
	}
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
