package runtime

import (
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/identity/iam"
	"github.com/hanzoai/hanzod/identity/peer"
	"github.com/hanzoai/hanzod/identity/tailnet"
)

// makeAuth turns the configuration into how clients prove who they are, and into where requests may
// come from. It warns of what the configuration opens.
func (d *Daemon) makeAuth() (identity.Auth, error) {
	g := &d.cfg.Gateway
	log := d.subsystem("auth")
	auth := identity.Auth{
		Mode:       identity.AuthMode(d.cfg.AuthMode()),
		InsecureUI: g.ControlUI.AllowInsecureAuth, DeviceFreeUI: g.ControlUI.DangerouslyDisableDeviceAuth,
	}
	secret := g.Auth.Token
	switch auth.Mode {
	case identity.AuthPassword:
		secret = g.Auth.Password
	case identity.AuthTrustedProxy:
		if p := g.Auth.TrustedProxy; p != nil { // config.CheckStart asks for it
			auth.Proxy = &identity.ProxyAuth{UserHeader: p.UserHeader, RequiredHeaders: p.RequiredHeaders, AllowUsers: p.AllowUsers}
		}
	case identity.AuthIAM:
		i := g.Auth.IAM
		issuer, err := iam.New(iam.Config{
			ServerURL: i.ServerURL, ClientID: i.ClientID, OrgName: i.OrgName, JWKSURL: i.JWKSURL, SuperAdmins: i.SuperAdmins,
			Now: d.now, Log: log,
		})
		if err != nil {
			return identity.Auth{}, errs.Wrap(errs.Invalid, "the configuration does not allow a start", err)
		}
		auth.Issuer = issuer
	}
	if secret.IsSet() && auth.Mode != identity.AuthNone && auth.Mode != identity.AuthTrustedProxy {
		auth.Secret = secret
	}
	if d.tailnet != nil {
		auth.Members = d.tailnet
	}
	if d.cfg.AllowTailscale() {
		auth.Tailnet = tailnet.New(d.tailscale, d.now)
	}
	if l := g.Auth.RateLimit; l != nil {
		auth.Limit = &identity.AuthLimit{
			Rate: identity.Rate{
				Attempts: l.MaxAttempts, Window: millis(l.WindowMs), Lockout: millis(l.LockoutMs),
			},
			ExemptLoopback: l.ExemptLoopback,
		}
	}
	d.peers = &peer.Rules{
		Trusted: g.TrustedProxies, RealIPFallback: g.AllowRealIPFallback,
		Headers: auth.AuthHeaders(), Tailscale: auth.Tailnet != nil,
		Origins: d.cfg.AllowedOrigins(), HostHeader: g.ControlUI.DangerouslyAllowHostHeaderOriginFallback,
	}
	for text, open := range map[string]bool{
		"gateway.controlUi.dangerouslyDisableDeviceAuth is on: whoever has the gateway's secret has everything, from any machine and with no device that could be revoked": auth.DeviceFreeUI,
		"gateway.controlUi.allowInsecureAuth is on: any web page of this machine that has the gateway's secret has everything, with no device that could be revoked":       auth.InsecureUI,
		"gateway.controlUi.dangerouslyAllowHostHeaderOriginFallback is on: a web page may choose a name that leads here and then counts as the gateway's own":              d.peers.HostHeader,
	} {
		if open {
			log.Warn("DANGEROUS: " + text)
		}
	}
	return auth, nil
}

// millis is a duration of the configuration, which no overflow makes short.
func millis(ms int64) time.Duration {
	return time.Duration(min(ms, int64(10*365*24*time.Hour/time.Millisecond))) * time.Millisecond
}
