package config

import (
	"net"
	"net/url"
	"strconv"
)

// The VNC server of this machine where nothing else is said (tunnel.md §2.7).
const (
	DefaultVNCHost = "127.0.0.1"
	DefaultVNCPort = 5900
)

// Screen is tunnel.screen: screens over VNC.
type Screen struct {
	Enabled bool
	// Host and Port are the VNC server of this machine.
	Host string
	Port int // 1..65535
	// URL is where nodes of the older kind come back, ws:// or wss:// with a host; empty for where this gateway
	// listens.
	URL string
}

func (l *loader) screen(o object, s *Screen) {
	*s = Screen{Enabled: true, Host: DefaultVNCHost, Port: DefaultVNCPort}
	o.bool("enabled", &s.Enabled)
	o.str("host", &s.Host)
	o.int("port", 1, 65535, &s.Port)
	o.str("url", &s.URL)
	if s.URL != "" {
		u, err := url.Parse(s.URL)
		if err != nil || u.Scheme != "ws" && u.Scheme != "wss" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/" {
			l.doubt("tunnel.screen.url", "Expected ws:// or wss:// with a host and a port; it does not count")
			s.URL = ""
		} else {
			s.URL = u.Scheme + "://" + u.Host
		}
	}
	o.strict()
	if s.Host == "" {
		s.Host = DefaultVNCHost
	}
}

// VNCAddress reads a VNC server, host:port, a port alone, or a host alone.
func VNCAddress(text string) (host string, port int, ok bool) {
	if n, err := strconv.Atoi(text); err == nil {
		return DefaultVNCHost, n, n >= 1 && n <= 65535
	}
	host, p, err := net.SplitHostPort(text)
	if err != nil {
		return text, DefaultVNCPort, text != "" && net.ParseIP(text) != nil
	}
	if host == "" {
		host = DefaultVNCHost
	}
	port, err = strconv.Atoi(p)
	return host, port, err == nil && port >= 1 && port <= 65535
}
