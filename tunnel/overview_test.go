package tunnel

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/bindings"
	"github.com/hanzoai/hanzod/tunnel/tunnels"
)

type someTunnels []tunnels.Tunnel

func (s someTunnels) List(context.Context, identity.Caller, tunnels.ListIn) (tunnels.ListOut, error) {
	return tunnels.ListOut{Tunnels: s}, nil
}

type someBindings []bindings.Binding

func (s someBindings) List(context.Context, identity.Caller, bindings.ListIn) (bindings.ListOut, error) {
	return bindings.ListOut{Bindings: s}, nil
}

// What visitors reach and what tunnels carry is one list: each binding once, the oldest first, with what its tunnel
// counted, and none of a tunnel that the caller does not see.
func TestListBindings(t *testing.T) {
	at := func(n int64) time.Time { return time.Unix(n, 0) }
	o := &Overview{
		Tunnels: someTunnels{{ID: "S-1", NodeID: "box", Bindings: []tunnels.Binding{
			{ID: 1, Mode: "expose", CreatedAt: at(3), BytesIn: 7, StreamsTotal: 9},
			{ID: 2, Mode: "dial", Host: "::1", Port: 22, NodeID: "far", CreatedAt: at(1)}, {ID: 3, Mode: "dial", CreatedAt: at(4)},
		}}},
		Bindings: someBindings{
			{ID: "b", TunnelID: "S-1", BindID: 1, Mode: "expose", Port: 80, CreatedAt: at(3)}, {ID: "a", NodeID: "other", LocalAddr: "db:1", CreatedAt: at(2)},
			{ID: "c", TunnelID: "S-2", BindID: 1, CreatedAt: at(0)},
		},
	}
	for _, c := range []struct {
		in   ListBindingsIn
		want string
	}{
		{ListBindingsIn{}, "[{ 2 far [::1]:22 0 0} {a 0 other db:1 0 0} {b 1 box  7 9} { 3   0 0}]"},
		{ListBindingsIn{NodeID: "box"}, "[{b 1 box  7 9}]"}, {ListBindingsIn{TunnelID: "S-1", NodeID: "far"}, "[{ 2 far [::1]:22 0 0}]"},
		{ListBindingsIn{TunnelID: "S-2"}, "[]"},
	} {
		out, err := o.ListBindings(t.Context(), identity.Internal(), c.in)
		if err != nil {
			t.Fatal(err)
		}
		type row struct {
			id        string
			bind      int
			node, to  string
			in, total uint64
		}
		rows := []row{}
		for _, b := range out.Bindings {
			rows = append(rows, row{b.ID, b.BindID, b.NodeID, b.Target, b.BytesIn, b.StreamsTotal})
		}
		if got := fmt.Sprint(rows); got != c.want {
			t.Errorf("%+v: %s, want %s", c.in, got, c.want)
		}
	}
}

// Who looks for peers waits for a bounded time, and few do at once.
func TestPeersAreBounded(t *testing.T) {
	hold := make(chan struct{})
	asked := make(chan struct{}, maxBrowses)
	n := NewNeighborhood(func(ctx context.Context) (PeersOut, error) {
		asked <- struct{}{}
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return PeersOut{Networks: []string{"lo"}}, nil
	})
	wait := func(d time.Duration) PeersIn { return PeersIn{Wait: &d} }
	tenant := identity.Internal()
	tenant.Tenant = "acme"
	for _, c := range []struct {
		who  identity.Caller
		in   PeersIn
		want error
	}{
		{tenant, PeersIn{}, ErrPeersTenant}, {identity.Internal(), wait(0), ErrPeersWait}, {identity.Internal(), wait(-1), ErrPeersWait},
		{identity.Internal(), wait(MaxPeersWait + 1), ErrPeersWait},
	} {
		if _, err := n.Peers(t.Context(), c.who, c.in); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.in, err, c.want)
		}
	}
	done := make(chan error, maxBrowses)
	for range maxBrowses {
		go func() {
			_, err := n.Peers(context.Background(), identity.Internal(), wait(MaxPeersWait))
			done <- err
		}()
	}
	for range maxBrowses {
		<-asked
	}
	if _, err := n.Peers(t.Context(), identity.Internal(), PeersIn{}); !errors.Is(err, ErrPeersBusy) {
		t.Errorf("one more: %v", err)
	}
	close(hold)
	for range maxBrowses {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Peers(gone, identity.Internal(), PeersIn{}); !errors.Is(err, context.Canceled) {
		t.Errorf("who left is answered: %v", err)
	}
	if out, err := n.Peers(t.Context(), identity.Internal(), wait(time.Millisecond)); err != nil || len(out.Networks) != 1 {
		t.Errorf("%+v %v", out, err)
	}
}
