package compat

import (
	"net"
	"net/http"
	"net/netip"
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

// owner is the connection as the library's end of it knows it.
type owner conn

func (o *owner) Hijacked(nc net.Conn)       { (*conn)(o).attach(nc) }
func (o *owner) Heard()                     { (*conn)(o).heard() }
func (o *owner) Control(frame []byte) error { return (*conn)(o).writeControl(frame) }
