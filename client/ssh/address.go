package ssh

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/client"
)

// scheme begins an address.
const scheme = "ssh://"

// Address is a machine that is reached by SSH. What is empty or 0 is up to ssh_config.
type Address struct {
	User string
	Host string
	Port int
}

// String is the address as ParseAddress takes it.
func (a Address) String() string {
	s := scheme
	if a.User != "" {
		s += a.User + "@"
	}
	host := a.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	s += host
	if a.Port != 0 {
		s += ":" + strconv.Itoa(a.Port)
	}
	return s
}

// ParseAddress reads ssh://[user@]host[:port]. The host may be an alias of ssh_config; an address of IPv6
// stands in brackets. Names have letters, digits and a few marks only, and do not begin with a dash, so that
// none can be taken for an option or for a piece of a command line. A password does not belong in an
// address: one is refused and not repeated.
func ParseAddress(s string) (Address, error) {
	bad := func(text string) (Address, error) {
		return Address{}, fail(StepConfig, CodeBadAddress, client.Invalid, text+"; it must look like ssh://user@host or ssh://user@host:port")
	}
	rest, ok := cutScheme(strings.TrimSpace(s))
	if !ok {
		return bad("the address does not begin with " + scheme)
	}
	var a Address
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		if a.User, rest = rest[:i], rest[i+1:]; strings.ContainsRune(a.User, ':') {
			return bad("a password does not belong in the address: keys and the agent are used, and a password is asked for")
		}
		if !validUser(a.User) {
			return bad("the user in the address is not the name of a user")
		}
	}
	rest = strings.TrimSuffix(rest, "/")
	if strings.ContainsAny(rest, "/?#") {
		return bad("the address goes on after the host")
	}
	host, port := rest, ""
	switch {
	case strings.HasPrefix(rest, "["):
		end := strings.IndexByte(rest, ']')
		if end < 0 {
			return bad("the brackets of the address are not closed")
		}
		host = rest[1:end]
		if ip, err := netip.ParseAddr(host); err != nil || !ip.Is6() {
			return bad("only an address of IPv6 stands in brackets")
		}
		if rest = rest[end+1:]; rest != "" {
			if port, ok = strings.CutPrefix(rest, ":"); !ok || port == "" {
				return bad("what follows the brackets is no port")
			}
		}
	case strings.Count(rest, ":") == 1:
		if host, port, _ = strings.Cut(rest, ":"); port == "" {
			return bad("the port is missing")
		}
	case strings.Contains(rest, ":"):
		return bad("an address of IPv6 stands in brackets")
	}
	if !validHost(host) {
		return bad("the host in the address is not the name of a host")
	}
	a.Host = host
	if port != "" {
		n, ok := parsePort(port)
		if !ok {
			return bad("the port in the address is no number from 1 to 65535")
		}
		a.Port = n
	}
	return a, nil
}

func cutScheme(s string) (string, bool) {
	if len(s) < len(scheme) || !strings.EqualFold(s[:len(scheme)], scheme) {
		return "", false
	}
	return s[len(scheme):], true
}

func parsePort(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 1 && n <= 65535 && s[0] != '+'
}

// validHost takes names, aliases and addresses, with the zone of IPv6.
func validHost(s string) bool {
	if s == "" || len(s) > 255 || s[0] == '-' {
		return false
	}
	if strings.ContainsAny(s, ":%") {
		ip, err := netip.ParseAddr(s)
		return err == nil && strings.IndexFunc(ip.Zone(), func(r rune) bool { return !nameRune(r) }) < 0
	}
	return strings.IndexFunc(s, func(r rune) bool { return !nameRune(r) }) < 0
}

// validUser takes names of users, also those of a domain.
func validUser(s string) bool {
	if s == "" || len(s) > 255 || s[0] == '-' || strings.HasSuffix(s, `\`) {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return !nameRune(r) && !strings.ContainsRune(`+@\`, r) }) < 0
}

func nameRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._-", r)
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
