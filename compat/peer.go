package compat

import (
	"bufio"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"

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
	// script says that it comes with the Origin of Hanzo's web app and a credential in a header, which no web page
	// can send: a program that names itself after that app.
	script bool
}

func upgradeOf(rules *peer.Rules, r *http.Request) upgrade {
	u := upgrade{Peer: rules.Peer(r), host: r.Host}
	u.page, u.reported = rules.Page(r, u.Peer), u.ReportedIP()
	u.script = r.Header.Get("Authorization") != "" && r.Header.Get("Origin") == hanzoApp
	u.https = strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") || r.TLS != nil
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		u.localAddr = a.String()
	}
	return u
}

// hanzoApp is the Origin that the script which moves sessions sends (tunnel.md §1.11).
const hanzoApp = "https://app.hanzo.bot"

// originAllowed is protocol.md §1.4. A page that comes through a proxy passes for other clients than
// the browser ones when it is of the host that it asks: apps that show web pages send such an Origin.
// The original does not look at the origin there, which lets any page connect through the proxy with
// what the proxy knows of its user.
//
// ownOrigin is a client that sends the address it connects to as its Origin. It may where that is the
// address of a machine: a web page can get there by a name of its own that leads here, but not by a
// number unless it came from here.
func (u *upgrade) originAllowed(browser, ownOrigin bool) bool {
	switch {
	case !u.page.Present:
		return !browser
	case u.page.MayConnect():
		return true
	case u.page.SameHost && ownOrigin && numbered(u.host):
		return true
	default:
		return u.page.SameHost && u.Forwarded && !browser
	}
}

// numbered reports whether a Host header names a machine by its address.
func numbered(host string) bool {
	name, ok := peer.Hostname(host)
	if !ok {
		return false
	}
	_, err := netip.ParseAddr(name)
	return err == nil || peer.LoopbackName(name)
}

func firstProtocol(header string) []string {
	p, _, _ := strings.Cut(header, ",")
	if p = strings.TrimSpace(p); p == "" {
		return nil
	}
	return []string{p}
}

// hijackWriter gives the library a connection that the door stands behind.
type hijackWriter struct {
	http.ResponseWriter
	c *conn
}

const (
	// readAhead is how much is read from a client at once: most requests are smaller. The server's own
	// buffer, which a connection would keep for ever, is four times that.
	readAhead = 1 << 10
	// controlRoom holds the largest frame that the library writes, a control frame.
	controlRoom = 256
)

// Hijack implements http.Hijacker.
func (h *hijackWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		return nil, nil, err
	}
	h.c.attach(nc)
	lc := &libraryConn{nc, h.c, slices.Clone(early)}
	return lc, bufio.NewReadWriter(bufio.NewReaderSize(lc, readAhead), bufio.NewWriterSize(lc, controlRoom)), nil
}

// attach remembers the network connection.
func (c *conn) attach(nc net.Conn) {
	c.nc = nc
	below := nc
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok { // TLS
		below = t.NetConn()
	}
	sc, ok := below.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return // it was closed meanwhile, and fails at its first use
	}
	if below.LocalAddr().Network() == "tcp" {
		c.tcp = raw
		tune(raw)
	}
	if below == nc && writesRaw {
		c.raw = raw
	}
}

// libraryConn is the connection as the library has it. The library reads; it writes control frames
// only, and those go through the outbox.
type libraryConn struct {
	net.Conn
	c     *conn
	early []byte // what came with the request
}

// Read tells of every byte that arrives: a peer that takes long to send one message is not silent.
func (l *libraryConn) Read(b []byte) (n int, err error) {
	if len(l.early) > 0 {
		n = copy(b, l.early)
		if l.early = l.early[n:]; len(l.early) == 0 {
			l.early = nil
		}
	} else {
		n, err = l.Conn.Read(b)
	}
	if n > 0 {
		l.c.heard()
	}
	return n, err
}

// Write takes one control frame.
func (l *libraryConn) Write(b []byte) (int, error) {
	if err := l.c.writeControl(b); err != nil {
		return 0, err
	}
	return len(b), nil
}
