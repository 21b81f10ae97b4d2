package driver

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// TargetError is a target that cannot be read. Text is shortened and shows no user info.
type TargetError struct{ Target, Why string }

func (e *TargetError) Error() string {
	if e.Target == "" {
		return "target: " + e.Why
	}
	return fmt.Sprintf("target %q: %s", e.Target, e.Why)
}

// maxTarget bounds a target's text in bytes: the longest host name with a port.
const maxTarget = 255 + len("[]:65535")

// Target reads where bytes are to end, in the forms of tunnel.md §4.12: "8080", ":8080", "host:port" and
// "[::1]:8080". The first two mean 127.0.0.1. The answer is fit for net.Dial. Errors are *TargetError.
func Target(text string) (address string, err error) {
	host, port, err := SplitTarget(text)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), nil
}

// SplitTarget is Target in two parts; an IPv6 address comes without brackets.
func SplitTarget(text string) (host string, port int, err error) {
	switch {
	case text == "":
		return "", 0, &TargetError{"", "is empty: name a port, or a host and a port such as 127.0.0.1:8080"}
	case len(text) > maxTarget:
		return "", 0, &TargetError{text[:16] + "…", "is too long"}
	case strings.Contains(text, "@"):
		return "", 0, &TargetError{"", "has user info, which a target cannot have"}
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("/\\?#\"'<>%", r) }):
		return "", 0, &TargetError{text, "has a character that no host or port has: give host:port without a scheme or a path"}
	}
	number := text
	switch i := strings.LastIndexByte(text, ':'); {
	case text[0] == '[':
		end := strings.IndexByte(text, ']')
		if end < 0 || !strings.HasPrefix(text[end+1:], ":") {
			return "", 0, &TargetError{text, "has no port behind its brackets, as [::1]:8080 has"}
		}
		host, number = text[1:end], text[end+2:]
		if ip := net.ParseIP(host); ip == nil || !strings.Contains(host, ":") {
			return "", 0, &TargetError{text, "has no IPv6 address in its brackets"}
		}
	case i < 0:
		host = "127.0.0.1"
		if strings.Trim(text, "0123456789") != "" {
			return "", 0, &TargetError{text, "has no port: give host:port"}
		}
	case i == 0:
		host, number = "127.0.0.1", text[1:]
	default:
		host, number = text[:i], text[i+1:]
		if strings.Contains(host, ":") {
			return "", 0, &TargetError{text, "has an IPv6 address without brackets: write [address]:port"}
		}
		if strings.ContainsAny(host, "[]") || !isHost(host) {
			return "", 0, &TargetError{text, "has a host that is no name and no address"}
		}
	}
	if number == "" || len(number) > len("65535") || strings.Trim(number, "0123456789") != "" {
		return "", 0, &TargetError{text, "has no port: it must be a number from 1 to 65535"}
	}
	port, err = strconv.Atoi(number)
	if err != nil || port < 1 || port > 65535 {
		return "", 0, &TargetError{text, "has no port: it must be a number from 1 to 65535"}
	}
	return host, port, nil
}

// isHost reports whether text may be a host name: labels of letters, digits, hyphens and underscores.
func isHost(text string) bool {
	for label := range strings.SplitSeq(strings.TrimSuffix(text, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(r rune) bool {
				return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
			}) {
			return false
		}
	}
	return true
}

// Port reads the port of the server of a command line: a number, or "", "random" or "auto" for 0, which leaves it to
// the server (tunnel.md §4.12).
func Port(text string) (int, error) {
	switch text {
	case "", "random", "auto":
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > 65535 {
		return 0, fmt.Errorf("port %q is no number from 0 to 65535, and not random or auto", text)
	}
	return n, nil
}

// Loopback reports whether host is this machine by its loopback interface: localhost, 127.0.0.0/8 or ::1.
func Loopback(host string) bool {
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
