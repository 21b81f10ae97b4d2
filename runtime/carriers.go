package runtime

import (
	"context"
	"errors"
	"strings"

	"github.com/hanzoai/hanzod/compat/hoody"
	"github.com/hanzoai/hanzod/identity"
)

// makeCarriers makes the door for carriers over WebSockets. The tunnels are there.
func (d *Daemon) makeCarriers() {
	d.carriers = hoody.NewDoor(hoody.DoorConfig{
		Tunnels: d.tunnels, Authenticate: d.carrierOf, Peers: d.peers, Log: d.subsystem("carriers"),
		RequireAuth: func() bool { return !d.current().Tunnel.HelloCredentials },
	})
}

// carrierOf finds who opens a carrier: an operator, or a node, by the credentials that let them in elsewhere. Who
// shows nothing is a caller without a role, unless this machine or a proxy vouches for it.
func (d *Daemon) carrierOf(ctx context.Context, token string, from identity.Peer) (identity.Caller, error) {
	link := strings.HasPrefix(token, "hk-") || token == "" && d.identity.Mode() == identity.AuthNone && from.Member == nil
	var c identity.Caller
	var err error
	if link {
		var adm identity.LinkAdmission
		if adm, err = d.identity.AdmitLink(ctx, identity.LinkAttempt{Token: token, Peer: from}); err == nil {
			c = adm.Caller()
		}
	} else {
		c, err = d.identity.Bearer(ctx, token, from)
	}
	if token == "" && (errors.Is(err, identity.ErrBearerRequired) || errors.Is(err, identity.ErrLinkToken)) {
		return identity.Caller{}, nil
	}
	c.Door, c.RemoteIP, c.Local = identity.DoorTunnel, from.IP(), from.Local
	return c, err
}
