package runtime

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/compat/hanzotunnel"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/identity/peer"
	"github.com/hanzoai/hanzod/tunnel/bindings"
	"github.com/hanzoai/hanzod/tunnel/links"
	"github.com/hanzoai/hanzod/tunnel/tunnels"
)

// makeLinks makes the door for instances that link to this daemon, and what they expose.
func (d *Daemon) makeLinks() error {
	log := d.subsystem("links")
	memory, err := links.Open(d.store, d.now, log)
	if err != nil {
		return err
	}
	d.bindings = bindings.New(bindings.Config{
		Pattern: func() string { return d.current().Tunnel.PublicURLPattern },
		Base:    d.base, Host: d.reachedAt,
		Listen: func() (net.Listener, error) {
			host, _, err := net.SplitHostPort(d.tcp[0].Addr().String())
			if err != nil {
				return nil, err
			}
			return (&net.ListenConfig{}).Listen(context.Background(), "tcp", net.JoinHostPort(host, "0"))
		},
		Reserved: func(host string) bool {
			own := append(d.peers.Names(), d.reachedAt(), strings.ToLower(machineName()), strings.ToLower(d.TailnetName()))
			return peer.LocalHost(host) || slices.Contains(own, host)
		},
		Changed: func(id string, all []bindings.Binding) { d.nodes.SetExposed(id, hanzotunnel.Exposed(all)) },
		Now:     d.now,
		Settings: func() bindings.Settings {
			t := d.current().Tunnel
			return bindings.Settings{
				ExposeBind: t.ExposeBind, PrivilegedExpose: t.PrivilegedExpose, PrivilegedPull: t.PrivilegedPull,
				Permits: t.Permits, PermitsPerTunnel: t.PermitsPerTunnel,
			}
		},
		Upstreams: func(id string) bindings.Upstream { return d.tunnels.Upstream(id) },
		Admit: func(ctx context.Context, c identity.Caller, b bindings.Binding) (bindings.Upstream, error) {
			host, port, err := net.SplitHostPort(b.LocalAddr)
			if err != nil {
				return nil, bindings.ErrLocalAddr
			}
			n, err := strconv.Atoi(port)
			if err != nil {
				return nil, bindings.ErrLocalAddr
			}
			return d.tunnels.Grant(ctx, c, tunnels.GrantIn{NodeID: b.NodeID, Host: host, Port: n})
		},
		Standing: d.identity.Standing,
		Own:      d.ownPort, Authenticate: d.visitor, Proved: peer.Proved, Trusted: d.peers.Trusts, Log: d.subsystem("bindings"),
	})
	d.makeTunnels(memory)
	d.makeCarriers()
	d.links = hanzotunnel.New(hanzotunnel.Config{
		Identity: d.identity, Nodes: d.nodes, Memory: memory, Bindings: d.bindings, Bus: d.bus, Peers: d.peers, Log: log,
		Settings: func() hanzotunnel.Settings {
			t := d.current().Tunnel
			return hanzotunnel.Settings{SessionURL: t.SessionURL, PerTenant: t.MaxPerTenant}
		},
	})
	return nil
}

// visitor proves who visits something that is for operators, by a bearer token.
func (d *Daemon) visitor(r *http.Request) (identity.Caller, error) {
	from := d.peers.Peer(r)
	kind, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(kind, "Bearer") || !d.peers.MayWrite(r, from) {
		return identity.Caller{}, identity.ErrBearerRequired
	}
	return d.identity.Bearer(r.Context(), strings.TrimSpace(token), from)
}

// ownPort reports whether a port is the daemon's.
func (d *Daemon) ownPort(port int) bool {
	own := func(l net.Listener) bool {
		a, ok := l.Addr().(*net.TCPAddr)
		return ok && a.Port == port
	}
	return port == d.Port() || slices.ContainsFunc(d.tcp, own) || d.far != nil && own(d.far)
}

// reachedAt is the name or the address under which others reach this machine.
func (d *Daemon) reachedAt() string {
	host, _, err := net.SplitHostPort(d.tcp[0].Addr().String())
	if a, bad := netip.ParseAddr(host); err != nil || bad != nil || a.IsUnspecified() {
		return strings.ToLower(machineName())
	}
	return host
}

// base is the address of the port, without a slash at its end.
func (d *Daemon) base() string {
	scheme := "http"
	if d.cfg.Gateway.TLS.Enabled {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(d.reachedAt(), strconv.Itoa(d.Port()))
}
