package config

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// credentials adds what the environment holds where the file has nothing (config.md §1).
func (l *loader) credentials() {
	a := &l.config.Gateway.Auth
	l.config.bothSecrets = a.Mode == "" && a.Token.IsSet() && a.Password.IsSet()
	for _, s := range []struct {
		name, key string
		into      *Secret
	}{{"HANZOD_TOKEN", "gateway.auth.token", &a.Token}, {"HANZOD_PASSWORD", "gateway.auth.password", &a.Password}} {
		from, v, err := Environ(l.env).Secret(s.name)
		switch {
		case err != nil:
			l.fail("", nil, err.Error())
		case !s.into.IsSet():
			*s.into = v
		case v.IsSet() && !s.into.Equal(v.Reveal()):
			l.config.Warnings = append(l.config.Warnings,
				fmt.Sprintf("%s is set, but %s in %s is another one, and counts; remove it there to use the variable", from, s.key, l.config.Path))
		}
	}
}

// AuthMode is how clients prove themselves: none, token, password, trusted-proxy or iam. Without a
// configured mode it is password when there is one, else token (config.md §2).
func (c *Config) AuthMode() string {
	switch a := &c.Gateway.Auth; {
	case a.Mode != "":
		return a.Mode
	case a.Password.IsSet():
		return "password"
	}
	return "token"
}

// AllowTailscale reports whether an identity that Tailscale vouches for is accepted.
func (c *Config) AllowTailscale() bool {
	if v := c.Gateway.Auth.AllowTailscale; v != nil {
		return *v
	}
	mode := c.AuthMode()
	return c.Gateway.Tailscale.Mode == "serve" && mode != "password" && mode != "trusted-proxy"
}

// AllowedOrigins are the origins browser clients may come from. A daemon that is told to listen
// beyond this machine and names none gets those of its own port (config.md §2).
func (c *Config) AllowedOrigins() []string {
	g := &c.Gateway
	u := &g.ControlUI
	if len(u.AllowedOrigins) > 0 || g.Bind == "loopback" || g.Bind == "auto" || u.DangerouslyAllowHostHeaderOriginFallback {
		return slices.Clone(u.AllowedOrigins)
	}
	hosts := []string{"localhost", "127.0.0.1"}
	if g.Bind == "custom" && g.CustomBindHost != "" {
		hosts = append(hosts, strings.TrimSpace(g.CustomBindHost))
	}
	scheme := "http://"
	if g.TLS.Enabled {
		scheme = "https://"
	}
	out := make([]string, len(hosts))
	for i, h := range hosts {
		out[i] = scheme + net.JoinHostPort(h, strconv.Itoa(g.Port))
	}
	return out
}

// machine is what the choice of an address to listen on depends on.
type machine struct {
	addrs []net.Addr
	// bindable reports whether one can listen on an address at all, whatever the port.
	bindable func(host string) bool
}

func thisMachine() (machine, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return machine{}, fmt.Errorf("cannot list the addresses of this machine: %w", err)
	}
	return machine{addrs, func(host string) bool {
		var lc net.ListenConfig
		l, err := lc.Listen(context.Background(), "tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return false
		}
		_ = l.Close()
		return true
	}}, nil
}

// ListenHosts are the addresses to listen on, the first one required, a second one where the
// machine has it (config.md §2 "Bind modes"). It asks the machine for its interfaces. Addresses that
// others reach are returned only where clients have to prove who they are; else the error is a
// *Refused.
func (c *Config) ListenHosts() ([]string, error) {
	m, err := thisMachine()
	if err != nil {
		return nil, err
	}
	hosts, err := c.listenHosts(m)
	if err == nil {
		err = c.checkExposure(hosts)
	}
	if err != nil {
		return nil, err
	}
	return hosts, nil
}

var tailnet = netip.MustParsePrefix("100.64.0.0/10")

// everywhere is what the modes auto and tailnet fall back to.
const everywhere = "0.0.0.0"

func (c *Config) listenHosts(m machine) ([]string, error) {
	loopback := []string{"127.0.0.1"}
	tail := ""
	for _, a := range m.addrs {
		p, err := netip.ParsePrefix(a.String())
		switch {
		case err != nil:
		case p.Addr() == netip.IPv6Loopback():
			loopback = []string{"127.0.0.1", "::1"}
		case tail == "" && tailnet.Contains(p.Addr().Unmap()):
			tail = p.Addr().Unmap().String()
		}
	}
	g := &c.Gateway
	switch g.Bind {
	case "lan":
		return []string{everywhere}, nil
	case "tailnet":
		if tail != "" && m.bindable(tail) {
			return []string{tail}, nil
		}
	case "custom":
		host := strings.TrimSpace(g.CustomBindHost)
		if host == "" {
			return nil, refuse("gateway.bind=custom requires gateway.customBindHost")
		}
		addr, err := netip.ParseAddr(host)
		if err != nil || !addr.Is4() {
			return nil, refuse("gateway.bind=custom requires a valid IPv4 customBindHost (got %s)", quote(host))
		}
		if !m.bindable(addr.String()) {
			return nil, refuse("gateway bind=custom requested %s but resolved %s; refusing fallback", addr, everywhere)
		}
		return []string{addr.String()}, nil
	}
	if !m.bindable(loopback[0]) {
		if g.Bind == "loopback" {
			return nil, refuse("gateway bind=loopback resolved to non-loopback host %s; refusing fallback to a network bind", everywhere)
		}
		return []string{everywhere}, nil
	}
	return loopback, nil
}

// RemoteGRPC says whether the gRPC door for other machines is open and on which port, 0 for a free
// one. It is open when the daemon listens beyond this machine, unless gateway.grpc.enabled says
// otherwise. hosts are those of ListenHosts.
func (c *Config) RemoteGRPC(hosts []string) (port int, open bool) {
	g := &c.Gateway
	if g.GRPC.Enabled != nil {
		open = *g.GRPC.Enabled
	} else {
		open = !isLoopback(hosts[0])
	}
	switch {
	case g.GRPC.Port != nil:
		return *g.GRPC.Port, open
	case g.Port == 0:
		return 0, open
	}
	return g.Port + 1, open
}

// Refused is the error of a configuration that is well formed and must not be started with.
type Refused struct{ Text string }

func (e *Refused) Error() string { return e.Text }

func refuse(format string, args ...any) error { return &Refused{fmt.Sprintf(format, args...)} }

// CheckStart tells why the daemon may not start with this configuration, or nil; the error is
// a *Refused. Call it after EnsureToken. The order and texts are those of config.md §2, with this program's variable names.
func (c *Config) CheckStart() error {
	m, err := thisMachine()
	if err != nil {
		return err
	}
	return c.checkStart(m)
}

func (c *Config) checkStart(m machine) error {
	g, mode := &c.Gateway, c.AuthMode()
	if g.Mode == "remote" {
		return refuse("Gateway start blocked: set gateway.mode=local (current: remote).")
	}
	if c.bothSecrets {
		return refuse("Invalid config: gateway.auth.token and gateway.auth.password are both configured, but gateway.auth.mode is unset. Set gateway.auth.mode to token or password.")
	}
	hosts, err := c.listenHosts(m)
	if err != nil {
		return err
	}
	loopback := isLoopback(hosts[0])
	if port, open := c.RemoteGRPC(hosts); open && (port > 65535 || port == g.Port && port != 0) {
		return refuse("the gRPC door for other machines needs a port of its own: set gateway.grpc.port, or gateway.grpc.enabled=false")
	}

	switch mode {
	case "token":
		if !g.Auth.Token.IsSet() && !c.AllowTailscale() {
			return refuse("gateway auth mode is token, but no token was configured (set gateway.auth.token or HANZOD_TOKEN)")
		}
	case "password":
		if !g.Auth.Password.IsSet() {
			return refuse("gateway auth mode is password, but no password was configured (set gateway.auth.password or HANZOD_PASSWORD)")
		}
	case "trusted-proxy":
		if g.Auth.TrustedProxy == nil {
			return refuse("gateway auth mode is trusted-proxy, but gateway.auth.trustedProxy is missing (set gateway.auth.trustedProxy.userHeader)")
		}
	case "iam":
		if g.Auth.IAM == nil {
			return refuse("gateway auth mode is iam, but gateway.auth.iam is missing (set gateway.auth.iam.serverUrl and gateway.auth.iam.clientId)")
		}
	}
	if g.Tailscale.Mode == "funnel" && mode != "password" {
		return refuse("tailscale funnel requires gateway auth mode=password (set gateway.auth.password or HANZOD_PASSWORD)")
	}
	if g.Tailscale.Mode != "off" && !loopback {
		return refuse("tailscale serve/funnel requires gateway bind=loopback (127.0.0.1)")
	}
	if err := c.checkExposure(hosts); err != nil {
		return err
	}
	if mode == "trusted-proxy" {
		if len(g.TrustedProxies) == 0 {
			return refuse("gateway auth mode=trusted-proxy requires gateway.trustedProxies to be configured with at least one proxy IP")
		}
		if loopback && !slices.ContainsFunc(g.TrustedProxies, func(p netip.Prefix) bool { return p.Addr().IsLoopback() }) {
			return refuse("gateway auth mode=trusted-proxy with bind=loopback requires gateway.trustedProxies to include 127.0.0.1, ::1, or a loopback CIDR")
		}
	}
	return c.checkHooks(mode)
}

// checkExposure refuses addresses that others reach where clients need not prove who they are.
func (c *Config) checkExposure(hosts []string) error {
	if isLoopback(hosts[0]) {
		return nil
	}
	g, proved := &c.Gateway, false
	switch c.AuthMode() {
	case "token":
		proved = g.Auth.Token.IsSet()
	case "password":
		proved = g.Auth.Password.IsSet()
	case "trusted-proxy", "iam":
		proved = true
	}
	if !proved {
		return refuse("refusing to bind gateway to %s without auth (set gateway.auth.token/password, or set HANZOD_TOKEN/HANZOD_PASSWORD)",
			net.JoinHostPort(hosts[0], strconv.Itoa(g.Port)))
	}
	if u := &g.ControlUI; u.Enabled && len(c.AllowedOrigins()) == 0 && !u.DangerouslyAllowHostHeaderOriginFallback {
		return refuse("non-loopback Control UI requires gateway.controlUi.allowedOrigins (set explicit origins), or set gateway.controlUi.dangerouslyAllowHostHeaderOriginFallback=true to use Host-header origin fallback mode")
	}
	return nil
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

func (c *Config) checkHooks(mode string) error {
	h := &c.Hooks
	if !h.Enabled {
		return nil
	}
	text, key := "hooks.defaultSessionKey must match hooks.allowedSessionKeyPrefixes", h.DefaultSessionKey
	if key == "" {
		text, key = "hooks.allowedSessionKeyPrefixes must include 'hook:' when hooks.defaultSessionKey is unset", "hook:"
	}
	switch {
	case h.Path == "/":
		return refuse("hooks.path may not be '/'")
	case h.Path == "/v1" || strings.HasPrefix(h.Path, "/v1/"):
		return refuse("hooks.path may not be below '/v1', where the REST API is")
	case !h.Token.IsSet():
		return refuse("hooks.enabled requires hooks.token")
	case len(h.AllowedSessionKeyPrefixes) > 0 &&
		!slices.ContainsFunc(h.AllowedSessionKeyPrefixes, func(p string) bool { return strings.HasPrefix(key, p) }):
		return refuse("%s", text)
	case mode == "token" && c.Gateway.Auth.Token.Equal(h.Token.Reveal()):
		return refuse("Invalid config: hooks.token must not match gateway auth token. Set a distinct hooks.token for hook ingress.")
	}
	return nil
}
