package runtime

import (
	"context"
	"crypto/tls"
	"net/url"

	"github.com/hanzoai/hanzod/compat/hoody"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/nodes/host"
	hosttunnels "github.com/hanzoai/hanzod/nodes/host/tunnels"
)

// tunnels are what a gateway may reach through this machine.
func (n *nodeHost) tunnels() (*hosttunnels.Module, error) {
	c := hosttunnels.Config{Policy: n.file, Env: runEnv, Allow: n.o.TunnelAllow, Log: n.log}
	for _, text := range n.o.Expose {
		x, err := hosttunnels.ParseExposure(text)
		if err != nil {
			return nil, errs.New(errs.Invalid, "--expose: "+err.Error())
		}
		c.Exposed = append(c.Exposed, x)
	}
	m, err := hosttunnels.New(c)
	if err != nil {
		return nil, errs.New(errs.Invalid, "--tunnel-allow: "+err.Error())
	}
	return m, nil
}

// carryTo opens carriers beside a WebSocket link. server is the address of the link, of which host and scheme count;
// where it holds a credential, that is shown to the carrier too.
func carryTo(ctx context.Context, server, credential, version string, o hoody.DialOptions) (host.Carrier, error) {
	u, err := url.Parse(server)
	if err != nil {
		return nil, errs.New(errs.Invalid, "the address of the gateway cannot be read")
	}
	if credential == "" {
		credential = credentialIn(u)
	}
	at := url.URL{Scheme: u.Scheme, Host: u.Host, Path: hoody.Path}
	o.UserAgent = "hanzod-node/" + Version
	c, err := hoody.Dial(ctx, at.String(), credential, version, o)
	if err != nil {
		return nil, err // not a nil carrier in an interface
	}
	return c, nil
}

// credentialIn is the token in the address of a link: a password, a user name without one, or token of the query.
func credentialIn(u *url.URL) string {
	if u.User != nil {
		if p, ok := u.User.Password(); ok {
			return p
		}
		return u.User.Username()
	}
	return u.Query().Get("token")
}

// carry opens carriers beside a legacy link, whose gateway is known by base or by its fingerprint.
func (n *nodeHost) carry(base *tls.Config) func(ctx context.Context, deviceToken, version string) (host.Carrier, error) {
	return func(ctx context.Context, deviceToken, version string) (host.Carrier, error) {
		credential := deviceToken
		if credential == "" {
			credential = n.o.Token
		}
		if credential == "" {
			credential = n.o.Password
		}
		return carryTo(ctx, n.gateway(), credential, version, hoody.DialOptions{AllowInsecure: n.o.AllowInsecure, Fingerprint: n.cfg.Gateway.TLSFingerprint, TLS: base})
	}
}
