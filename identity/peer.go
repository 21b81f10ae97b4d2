package identity

import "net/netip"

// Peer is where an attempt comes from, as far as its door can tell (protocol.md §1.3). The zero
// value is a stranger of whom nothing is known.
type Peer struct {
	// Direct is the other end of the connection.
	Direct netip.Addr
	// Client is the client's address: another than Direct behind a trusted proxy, not valid when the
	// proxy does not tell it.
	Client netip.Addr
	// Trusted says that Direct is a proxy that may speak for others.
	Trusted bool
	// Forwarded says that the request carries headers of a proxy, trusted or not.
	Forwarded bool
	// Local is a client on this machine that came directly.
	Local bool
	// HasOrigin is a request of a web page, as far as it can be known.
	HasOrigin bool
	// Claimed is whom a proxy on this machine speaks for by its own word. It counts only where it is
	// checked otherwise (Tailnet).
	Claimed netip.Addr
	// Member is who the tailnet says is at the other end of the connection, nil where it did not come over
	// the tailnet.
	Member *Member
	// MemberCounts says that the tailnet's word is enough for this request: no web page made it.
	MemberCounts bool
	// Headers are the headers that the auth mode reads, by lower-case name. One that came more than once
	// is left out: nobody can say which of its values the proxy has set.
	Headers map[string]string
}

// ReportedIP is what others are told of the address: nothing for local clients, for loopback
// addresses, and where headers of a proxy that is not trusted claim another (protocol.md §1.3).
func (p Peer) ReportedIP() string {
	if p.Local || !p.Client.IsValid() || p.Client.IsLoopback() || (p.Forwarded && !p.Trusted) {
		return ""
	}
	return p.Client.String()
}

// IP is the client's address, "" when it is not known. It is for the daemon's own records.
func (p Peer) IP() string {
	if !p.Client.IsValid() {
		return ""
	}
	return p.Client.String()
}
