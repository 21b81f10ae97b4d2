package tunnel

import (
	"cmp"
	"context"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/bindings"
	"github.com/hanzoai/hanzod/tunnel/tunnels"
)

// TunnelLister is what Overview needs of tunnels.Service.
type TunnelLister interface {
	List(context.Context, identity.Caller, tunnels.ListIn) (tunnels.ListOut, error)
}

// BindingLister is what Overview needs of bindings.Service.
type BindingLister interface {
	List(context.Context, identity.Caller, bindings.ListIn) (bindings.ListOut, error)
}

// Overview is what all doors tell of tunnels and bindings together (tunnel.md §5.3 rows 36, 38 and 40). It is
// immutable and safe for concurrent use.
type Overview struct {
	Tunnels  TunnelLister
	Bindings BindingLister
	// Process is what is known of the process.
	Process func() Process
	// Container is the id of this daemon.
	Container string
}

// Process is what is told of the process that serves tunnels (tunnel.md §4.2).
type Process struct {
	// Ready is false while the daemon starts and stops.
	Ready   bool
	Version string
	Built   time.Time // zero when nobody knows
	Started time.Time
	// RSS, HeapTotal and HeapUsed are in bytes; RSS is 0 where the system does not say.
	RSS, HeapTotal, HeapUsed uint64
	// Descriptors are those open; 0 where the system does not say.
	Descriptors int
	PID         int
	// Address is that at which the daemon listens, without a port.
	Address string
}

// Totals are sums over the tunnels that a caller sees, and the permits of the daemon.
type Totals struct {
	Tunnels, Parked, Bindings, Streams int
	Permits                            tunnels.Permits
}

// TotalsOf sums up.
func TotalsOf(all []tunnels.Tunnel, p tunnels.Permits) Totals {
	t := Totals{Tunnels: len(all), Permits: p}
	for i := range all {
		if all[i].Parked {
			t.Parked++
		}
		t.Bindings += len(all[i].Bindings)
		t.Streams += all[i].Streams
	}
	return t
}

// HealthOut is the result of Health.
type HealthOut struct {
	Process Process
	Totals  Totals
}

// Health says how the process and the tunnels that the caller sees do.
func (o *Overview) Health(ctx context.Context, c identity.Caller) (HealthOut, error) {
	out, err := o.Tunnels.List(ctx, c, tunnels.ListIn{})
	if err != nil {
		return HealthOut{}, err
	}
	return HealthOut{Process: o.Process(), Totals: TotalsOf(out.Tunnels, out.Permits)}, nil
}

// Bound is a binding as visitors reach it, with what its tunnel counted.
type Bound struct {
	bindings.Binding
	// Target is what it reaches, as host:port, where the daemon knows.
	Target            string
	StreamsTotal      uint64
	BytesIn, BytesOut uint64
	RateIn, RateOut   float64
}

// ModeDial is the mode of bindings whose streams the client opens (tunnel.md §4.3).
const ModeDial = "dial"

// BoundOf is a binding of a tunnel.
func BoundOf(t *tunnels.Tunnel, b tunnels.Binding) Bound {
	out := Bound{
		Binding: bindings.Binding{
			NodeID: t.NodeID, Tenant: t.Tenant, Name: b.Label, URL: b.PublicURL, CreatedAt: b.CreatedAt, Owner: t.Subject, Access: bindings.Access(b.Access),
			TunnelID: t.ID, BindID: b.ID, Kind: b.Kind, Mode: b.Mode, Host: b.Host, Port: b.Port, Label: b.Label, Parked: t.Parked, Streams: b.Streams,
		},
		StreamsTotal: b.StreamsTotal, BytesIn: b.BytesIn, BytesOut: b.BytesOut, RateIn: b.RateIn, RateOut: b.RateOut,
	}
	if b.Mode == ModeDial {
		out.NodeID, out.Host, out.Port = b.NodeID, "", 0
		if b.Port != 0 { // else each stream names its own
			out.Target = net.JoinHostPort(b.Host, strconv.Itoa(b.Port))
		}
	}
	return out
}

// ListBindingsIn and ListBindingsOut are the arguments and the result of ListBindings.
type (
	ListBindingsIn struct {
		// NodeID and TunnelID confine it to a node and to a tunnel when they are not empty.
		NodeID, TunnelID string
	}
	ListBindingsOut struct{ Bindings []Bound }
)

// ListBindings lists what visitors can reach and what clients dial, the oldest first.
func (o *Overview) ListBindings(ctx context.Context, c identity.Caller, in ListBindingsIn) (ListBindingsOut, error) {
	carried, err := o.Tunnels.List(ctx, c, tunnels.ListIn{})
	if err != nil {
		return ListBindingsOut{}, err
	}
	visited, err := o.Bindings.List(ctx, c, bindings.ListIn{})
	if err != nil {
		return ListBindingsOut{}, err
	}
	type place struct {
		tunnel string
		bind   int
	}
	counted := map[place]Bound{}
	for i := range carried.Tunnels {
		t := &carried.Tunnels[i]
		for _, b := range t.Bindings {
			counted[place{t.ID, b.ID}] = BoundOf(t, b)
		}
	}
	out := ListBindingsOut{Bindings: []Bound{}}
	for _, b := range visited.Bindings {
		bound := Bound{Binding: b, Target: b.LocalAddr}
		if b.TunnelID != "" {
			at := place{b.TunnelID, b.BindID}
			t, ok := counted[at]
			if !ok {
				continue // the caller does not see that tunnel, or it has just ended
			}
			bound.StreamsTotal, bound.BytesIn, bound.BytesOut, bound.RateIn, bound.RateOut = t.StreamsTotal, t.BytesIn, t.BytesOut, t.RateIn, t.RateOut
			bound.NodeID = cmp.Or(b.NodeID, t.NodeID)
			delete(counted, at)
		}
		out.Bindings = append(out.Bindings, bound)
	}
	for _, b := range counted { // what is dialled has no visitors
		out.Bindings = append(out.Bindings, b)
	}
	out.Bindings = slices.DeleteFunc(out.Bindings, func(b Bound) bool {
		return in.NodeID != "" && b.NodeID != in.NodeID || in.TunnelID != "" && b.TunnelID != in.TunnelID
	})
	slices.SortFunc(out.Bindings, func(a, b Bound) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.TunnelID, b.TunnelID), cmp.Compare(a.BindID, b.BindID), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}
