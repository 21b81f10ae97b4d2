package tunnel

import (
	"context"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

const (
	// PeersWait is how long Peers listens where nobody says, MaxPeersWait the longest.
	PeersWait    = 2 * time.Second
	MaxPeersWait = 10 * time.Second
	// maxBrowses bounds the questions to the network at once: each has sockets of its own.
	maxBrowses = 4
)

// The refusals of Peers.
var (
	ErrPeersWait   = errs.Define(errs.Invalid, "tunnel.peers_wait", "peers are waited for up to 10 s")
	ErrPeersBusy   = errs.Define(errs.Exhausted, "tunnel.peers_busy", "others are looking for peers; try again later")
	ErrPeersTenant = errs.Define(errs.Denied, "tunnel.peers_tenant", "the network belongs to who administers the gateway, not to a tenant")
	ErrPeersAsk    = errs.Define(errs.Unavailable, "tunnel.peers_ask", "the network could not be asked; the log of the daemon says why")
)

// Peer is a daemon as the network describes it: nothing of it is proved.
type Peer struct {
	// Name and Host are of the daemon and its machine.
	Name, Host string
	// Legacy says that it answered as an older gateway only.
	Legacy    bool
	Addresses []PeerAddress
	// The ports are 0 for none.
	GatewayPort, GRPCPort, SSHPort int
	// TLS says that GatewayPort speaks TLS, with a certificate of that SHA-256 in hex.
	TLS         bool
	Fingerprint string
	Version     string
}

// PeerAddress is an address and the interface behind which it was heard.
type PeerAddress struct{ Address, Interface string }

// PeersIn and PeersOut are the arguments and the result of Peers.
type (
	// PeersIn says how long to listen, PeersWait when it is nil.
	PeersIn  struct{ Wait *time.Duration }
	PeersOut struct {
		// Peers are in the order of their names.
		Peers []Peer
		// Dropped says that there were more than are kept.
		Dropped bool
		// Networks are the interfaces on which was asked.
		Networks []string
	}
)

// Neighborhood finds other daemons on the networks of this machine (tunnel.md §1.13). It is safe for concurrent use.
type Neighborhood struct {
	browse func(ctx context.Context) (PeersOut, error)
	places chan struct{}
}

// NewNeighborhood returns one that asks with browse, which listens until its context ends.
func NewNeighborhood(browse func(ctx context.Context) (PeersOut, error)) *Neighborhood {
	return &Neighborhood{browse, make(chan struct{}, maxBrowses)}
}

// Peers asks who is there and listens for a while.
func (n *Neighborhood) Peers(ctx context.Context, c identity.Caller, in PeersIn) (PeersOut, error) {
	wait := PeersWait
	if in.Wait != nil {
		wait = *in.Wait
	}
	switch {
	case c.Tenant != "":
		return PeersOut{}, ErrPeersTenant
	case wait <= 0 || wait > MaxPeersWait:
		return PeersOut{}, ErrPeersWait
	}
	select {
	case n.places <- struct{}{}:
		defer func() { <-n.places }()
	default:
		return PeersOut{}, ErrPeersBusy
	}
	listening, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	out, err := n.browse(listening)
	if err == nil {
		err = ctx.Err()
	}
	return out, err
}
