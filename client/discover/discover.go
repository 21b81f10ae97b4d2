// Package discover finds the daemons of the local network and lets a daemon be found there, by
// multicast DNS (RFC 6762) and DNS-based service discovery (RFC 6763).
//
// Nothing in an answer is proved: whoever is on the network can answer, in anybody's name. So an answer
// says where to ask, never whom to trust. The fingerprint in it is a hint for a person who compares it
// with what the machine itself shows; nothing here pins it, and no caller may.
//
// It is a responder and a browser of its own, because a daemon that listens to strangers needs three things at
// once: it answers only neighbours, only on the networks where it can be reached, and following the
// network costs nothing that stays. Messages are read and written by golang.org/x/net/dns/dnsmessage.
// Nothing runs before Advertise or Browse is called, and nothing after they return.
package discover

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The service types. Older apps look for Legacy (protocol.md §1.5).
const (
	Service = "_hanzo._tcp"
	Legacy  = "_openclaw-gw._tcp"

	// tunnelPath is where instances link at Port (tunnel.md §1.13).
	tunnelPath = "/v1/tunnel"

	domain    = "local."
	typesName = "_services._dns-sd._udp." + domain
)

// Announcement is what a daemon says of itself to everybody on the network. It must hold no secret and
// no name of a person. Zero values are left out of the records.
type Announcement struct {
	// Name is what people call the machine; what is no plain text in it is left out. Another machine of
	// that name makes it "NAME (2)".
	Name string
	// Port is where older clients, browsers and scripts ask.
	Port int
	// GRPCPort is the door for hanzoctl and nodes, which speaks TLS.
	GRPCPort int
	// TLS says that Port speaks TLS.
	TLS bool
	// Fingerprint is the SHA-256 of the certificate, in hex: a hint, see the package.
	Fingerprint string
	// CanvasPort is where the canvas is served.
	CanvasPort int
	// SSHPort is where the SSH server of the machine listens: the daemon may be reached by it.
	SSHPort int
	Version string
}

// texts are the TXT records of both types. host is the name of the machine in the records.
func (a Announcement) texts(name, host string) (own, legacy []string) {
	num := func(n int) string {
		if n == 0 {
			return ""
		}
		return strconv.Itoa(n)
	}
	flag := func(on bool) string {
		if on {
			return "1"
		}
		return "0"
	}
	own = pairs("v", "1", "kind", "hanzod", "path", tunnelPath, "gatewayPort", num(a.Port), "grpcPort", num(a.GRPCPort), "tls", flag(a.TLS),
		"tlsSha256", a.Fingerprint, "sshPort", num(a.SSHPort), "version", a.Version)
	gatewayTLS, pin := "", ""
	if a.TLS {
		gatewayTLS, pin = "1", a.Fingerprint
	}
	legacy = pairs("role", "gateway", "gatewayPort", num(a.Port), "lanHost", strings.TrimSuffix(host, "."), "displayName", name,
		"transport", "gateway", "gatewayTls", gatewayTLS, "gatewayTlsSha256", pin, "canvasPort", num(a.CanvasPort),
		"sshPort", num(a.SSHPort))
	return own, legacy
}

// pairs makes key=value texts, without those of no value and those that do not fit into one.
func pairs(kv ...string) []string {
	var out []string
	for p := range slices.Chunk(kv, 2) {
		if text := strings.Join(p, "="); !strings.HasSuffix(text, "=") && len(text) <= maxText {
			out = append(out, text)
		}
	}
	return out
}

// The bounds of names. A label of DNS has 63 bytes at the most.
const (
	maxLabel = 63
	// maxText is the length of one text of a TXT record, which has one byte for it.
	maxText = 255
	// suffixRoom is kept free for " (99)" and "-99".
	suffixRoom = 5
	hostSuffix = "-hanzod"
	fallback   = "hanzod"
)

// instanceLabel is the n-th name to try for an instance: what shows of the name, without dots, which
// parsers take for ends of labels.
func instanceLabel(name string, n int) string {
	var b strings.Builder
	for _, r := range name {
		if r == '.' || r == '\\' {
			r = ' '
		}
		if r < ' ' || r == 0x7f || r == utf8.RuneError || b.Len()+utf8.RuneLen(r) > maxLabel-suffixRoom {
			continue
		}
		b.WriteRune(r)
	}
	label := strings.TrimSpace(b.String())
	if label == "" {
		label = fallback
	}
	if n > 1 {
		label += " (" + strconv.Itoa(n) + ")"
	}
	return label
}

// hostLabel is the n-th host name to try. It is not the machine's own, which belongs to the responder of
// the system: two that answer for one name take it from each other.
func hostLabel(name string, n int) string {
	var b strings.Builder
	for _, r := range strings.ToLower(name) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
		if b.Len() >= maxLabel-len(hostSuffix)-suffixRoom {
			break
		}
	}
	label := strings.Trim(b.String(), "-")
	if label == "" {
		label = fallback
	} else if label != fallback {
		label += hostSuffix
	}
	if n > 1 {
		label += "-" + strconv.Itoa(n)
	}
	return label
}

// Daemon is one that answered. Every text of it comes from the network: make it safe before a terminal
// sees it.
type Daemon struct {
	// Name is the name of the instance, and Host that of its machine, which ends in ".local".
	Name, Host string
	// Legacy says that it answered as an older gateway only.
	Legacy bool
	// Addresses are where it says to be, as seen on each network, those of the local network and of
	// version 4 first.
	Addresses []Address
	// Ports, 0 for none.
	GatewayPort, GRPCPort, SSHPort int
	// TLS says that GatewayPort speaks TLS.
	TLS bool
	// Fingerprint is 64 hex digits or empty. It is not proved: see the package.
	Fingerprint string
	Version     string
}

// Address is an address and the network interface of this machine behind which it was heard.
type Address struct {
	netip.Addr
	Interface string
}

// order compares addresses by their use: version 4, then global ones, then those of one link.
func order(a, b Address) int {
	rank := func(a Address) int {
		switch {
		case a.Is4() && !a.IsLinkLocalUnicast():
			return 0
		case !a.IsLinkLocalUnicast():
			return 1
		}
		return 2
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), a.Compare(b.Addr), cmp.Compare(a.Interface, b.Interface))
}

// describe reads the texts of a TXT record into a daemon. Keys are compared without case and the first
// of a key counts (RFC 6763 §6.4); what is malformed is left out.
func describe(d *Daemon, texts []string) {
	keys := map[string]string{}
	for _, t := range texts {
		key, value, ok := strings.Cut(t, "=")
		if key = strings.ToLower(key); !ok || key == "" || len(keys) == maxKeys {
			continue
		}
		if _, ok := keys[key]; !ok {
			keys[key] = value
		}
	}
	port := func(key string, into *int) {
		if n, err := strconv.Atoi(keys[key]); err == nil && n > 0 && n < 1<<16 {
			*into = n
		}
	}
	port("gatewayport", &d.GatewayPort)
	port("grpcport", &d.GRPCPort)
	port("sshport", &d.SSHPort)
	d.TLS = keys["tls"] == "1" || keys["gatewaytls"] == "1"
	pin := strings.ToLower(cmp.Or(keys["tlssha256"], keys["gatewaytlssha256"]))
	if len(pin) == 64 && strings.Trim(pin, "0123456789abcdef") == "" {
		d.Fingerprint = pin
	}
	d.Version = keys["version"]
}

// merge puts the two answers of one daemon together, its own over the older one. They are one's when
// they name the same machine and port.
func merge(all []Daemon) []Daemon {
	type place struct {
		host string
		port int
	}
	own := map[place]bool{}
	for _, d := range all {
		if !d.Legacy {
			own[place{d.Host, d.GatewayPort}] = true
		}
	}
	return slices.DeleteFunc(all, func(d Daemon) bool { return d.Legacy && own[place{d.Host, d.GatewayPort}] })
}

// sorted are the values of a map in the order of its keys.
func sorted[V any](m map[string]V) []V {
	var out []V
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}
