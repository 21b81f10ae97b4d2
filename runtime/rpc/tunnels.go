package rpc

import (
	"context"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/errs"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel"
	"github.com/hanzoai/hanzod/tunnel/bindings"
	"github.com/hanzoai/hanzod/tunnel/tunnels"
)

var errBindingKind = errs.Define(errs.Invalid, "rpc.binding_kind", "the kind of a binding is HTTP, TCP or WEB_SOCKET, and its access PUBLIC, TOKEN or OPERATOR")

// Tunnels is what the door needs of tunnels.Service.
type Tunnels interface {
	Serve(ctx context.Context, c identity.Caller, in tunnels.CarrierIn) error
	List(context.Context, identity.Caller, tunnels.ListIn) (tunnels.ListOut, error)
	Get(context.Context, identity.Caller, tunnels.GetIn) (tunnels.Tunnel, error)
	Kill(context.Context, identity.Caller, tunnels.KillIn) (tunnels.KillOut, error)
	Watch(ctx context.Context, c identity.Caller, in tunnels.WatchIn, send func(tunnels.Snapshot) error) error
}

// Bindings is what the door needs of bindings.Service.
type Bindings interface {
	Create(context.Context, identity.Caller, bindings.CreateIn) (bindings.CreateOut, error)
	Delete(context.Context, identity.Caller, bindings.DeleteIn) (bindings.DeleteOut, error)
}

// Overview is what the door needs of tunnel.Overview.
type Overview interface {
	ListBindings(context.Context, identity.Caller, tunnel.ListBindingsIn) (tunnel.ListBindingsOut, error)
	Health(context.Context, identity.Caller) (tunnel.HealthOut, error)
}

type tunnelsServer struct {
	tunnelv1.UnimplementedTunnelServiceServer
	s *Server
}

func (t *tunnelsServer) List(ctx context.Context, req *tunnelv1.TunnelServiceListRequest) (*tunnelv1.TunnelServiceListResponse, error) {
	return call(ctx, req, func(r *tunnelv1.TunnelServiceListRequest) (tunnels.ListIn, error) {
		return tunnels.ListIn{NodeID: r.GetNodeId()}, nil
	}, t.s.d.Tunnels.List, listTunnelsToProto)
}

func (t *tunnelsServer) Get(ctx context.Context, req *tunnelv1.TunnelServiceGetRequest) (*tunnelv1.TunnelServiceGetResponse, error) {
	return call(ctx, req, func(r *tunnelv1.TunnelServiceGetRequest) (tunnels.GetIn, error) {
		return tunnels.GetIn{ID: r.GetTunnelId()}, nil
	}, t.s.d.Tunnels.Get, func(out tunnels.Tunnel) (*tunnelv1.TunnelServiceGetResponse, error) {
		return &tunnelv1.TunnelServiceGetResponse{Tunnel: tunnelToProto(&out)}, nil
	})
}

func (t *tunnelsServer) Kill(ctx context.Context, req *tunnelv1.TunnelServiceKillRequest) (*tunnelv1.TunnelServiceKillResponse, error) {
	return call(ctx, req, killTunnelFromProto, t.s.d.Tunnels.Kill, func(tunnels.KillOut) (*tunnelv1.TunnelServiceKillResponse, error) {
		return &tunnelv1.TunnelServiceKillResponse{}, nil
	})
}

// Watch sends snapshots; HTTP/2 makes them wait for a reader that is slow.
func (t *tunnelsServer) Watch(req *tunnelv1.TunnelServiceWatchRequest, stream tunnelv1.TunnelService_WatchServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	in, err := watchTunnelsFromProto(req)
	if err != nil {
		return err
	}
	begin := opensOnce(stream)
	return t.s.d.Tunnels.Watch(ctx, c, in, func(s tunnels.Snapshot) error {
		if err := begin(); err != nil {
			return err
		}
		return stream.Send(snapshotToProto(s))
	})
}

func (t *tunnelsServer) CreateBinding(ctx context.Context, req *tunnelv1.CreateBindingRequest) (*tunnelv1.CreateBindingResponse, error) {
	return call(ctx, req, createBindingFromProto, lasting(t.s, t.s.d.Bindings.Create), createBindingToProto)
}

func (t *tunnelsServer) DeleteBinding(ctx context.Context, req *tunnelv1.DeleteBindingRequest) (*tunnelv1.DeleteBindingResponse, error) {
	return call(ctx, req, func(r *tunnelv1.DeleteBindingRequest) (bindings.DeleteIn, error) {
		return bindings.DeleteIn{ID: r.GetBindingId()}, nil
	}, t.s.d.Bindings.Delete, func(bindings.DeleteOut) (*tunnelv1.DeleteBindingResponse, error) {
		return &tunnelv1.DeleteBindingResponse{}, nil
	})
}

func (t *tunnelsServer) ListBindings(ctx context.Context, req *tunnelv1.ListBindingsRequest) (*tunnelv1.ListBindingsResponse, error) {
	return call(ctx, req, func(r *tunnelv1.ListBindingsRequest) (tunnel.ListBindingsIn, error) {
		return tunnel.ListBindingsIn{NodeID: r.GetNodeId(), TunnelID: r.GetTunnelId()}, nil
	}, t.s.d.Overview.ListBindings, listBindingsToProto)
}

func (t *tunnelsServer) Health(ctx context.Context, req *tunnelv1.TunnelServiceHealthRequest) (*tunnelv1.TunnelServiceHealthResponse, error) {
	return call(ctx, req, nothing, without(t.s.d.Overview.Health), tunnelHealthToProto)
}

func listTunnelsToProto(out tunnels.ListOut) (*tunnelv1.TunnelServiceListResponse, error) {
	return &tunnelv1.TunnelServiceListResponse{Tunnels: tunnelsToProto(out.Tunnels), Totals: tunnelTotalsToProto(tunnel.TotalsOf(out.Tunnels, out.Permits))}, nil
}

func snapshotToProto(s tunnels.Snapshot) *tunnelv1.TunnelServiceWatchResponse {
	return &tunnelv1.TunnelServiceWatchResponse{
		At: timeToProto(s.At), Tunnels: tunnelsToProto(s.Tunnels), Totals: tunnelTotalsToProto(tunnel.TotalsOf(s.Tunnels, s.Permits)),
	}
}

func tunnelsToProto(all []tunnels.Tunnel) []*tunnelv1.Tunnel {
	out := make([]*tunnelv1.Tunnel, len(all))
	for i := range all {
		out[i] = tunnelToProto(&all[i])
	}
	return out
}

// tunnelToProto cleans what the other end said.
func tunnelToProto(t *tunnels.Tunnel) *tunnelv1.Tunnel {
	out := &tunnelv1.Tunnel{
		TunnelId: t.ID, NodeId: cleanText(t.NodeID), Tenant: cleanText(t.Tenant), Owner: cleanText(t.Subject), Protocol: t.Version, Carrier: t.Transport,
		PeerAddress: cleanText(t.PeerAddr), Connections: nonNegative(t.Carriers), ConnectionsGranted: nonNegative(t.Granted), CreatedAt: timeToProto(t.CreatedAt),
		Parked: t.Parked, ParkedUntil: timeToProto(t.ParkedUntil), Closing: t.Closing,
		ActiveStreams: nonNegative(t.Streams), MaxStreams: nonNegative(t.MaxStreams), TotalStreams: t.StreamsTotal,
		PermitsUsed: nonNegative(t.Permits), PermitsLimit: nonNegative(t.PermitLimit),
		BytesIn: t.BytesIn, BytesOut: t.BytesOut, RateIn: t.RateIn, RateOut: t.RateOut,
	}
	if t.Stalled > 0 {
		out.Stalled = durationpb.New(t.Stalled)
	}
	for _, b := range t.Bindings {
		bound := tunnel.BoundOf(t, b)
		out.Bindings = append(out.Bindings, bindingToProto(&bound))
	}
	return out
}

func nonNegative(n int) uint32 { return uint32(max(0, min(n, math.MaxInt32))) }

var bindingKinds = map[string]tunnelv1.BindingKind{
	bindings.KindHTTP: tunnelv1.BindingKind_BINDING_KIND_HTTP, bindings.KindTCP: tunnelv1.BindingKind_BINDING_KIND_TCP,
	string(bindings.WebSocket): tunnelv1.BindingKind_BINDING_KIND_WEB_SOCKET,
}

var bindingModes = map[string]tunnelv1.BindingMode{
	bindings.ModeExpose: tunnelv1.BindingMode_BINDING_MODE_EXPOSE, bindings.ModePull: tunnelv1.BindingMode_BINDING_MODE_PULL,
	tunnel.ModeDial: tunnelv1.BindingMode_BINDING_MODE_DIAL,
}

var bindingAccesses = map[bindings.Access]tunnelv1.BindingAccess{
	bindings.Public: tunnelv1.BindingAccess_BINDING_ACCESS_PUBLIC, bindings.Token: tunnelv1.BindingAccess_BINDING_ACCESS_TOKEN,
	bindings.Operator: tunnelv1.BindingAccess_BINDING_ACCESS_OPERATOR,
}

// bindingToProto cleans what nodes and clients said. What a node exposes has a protocol where bindings of tunnels
// have a kind and a mode.
func bindingToProto(b *tunnel.Bound) *tunnelv1.Binding {
	kind, mode, name, target := b.Kind, b.Mode, b.Name, b.Target
	if kind == "" || b.Protocol == bindings.WebSocket {
		kind = string(b.Protocol)
	}
	if mode == "" {
		mode = bindings.ModeExpose
	}
	if name == "" {
		name = b.Label
	}
	if target == "" {
		target = b.LocalAddr
	}
	return &tunnelv1.Binding{
		BindingId: b.ID, TunnelId: b.TunnelID, BindId: nonNegative(b.BindID), NodeId: cleanText(b.NodeID), Tenant: cleanText(b.Tenant), Name: cleanText(name),
		Kind: bindingKinds[kind], Mode: bindingModes[mode], Host: cleanText(b.Host), Port: nonNegative(b.Port), Target: cleanText(target), Subdomain: cleanText(b.Subdomain), Owner: cleanText(b.Owner),
		PublicUrl: cleanText(b.URL), Access: bindingAccesses[b.Access], Parked: b.Parked, CreatedAt: timeToProto(b.CreatedAt), ActiveStreams: nonNegative(b.Streams),
		TotalStreams: b.StreamsTotal, BytesIn: b.BytesIn, BytesOut: b.BytesOut, RateIn: b.RateIn, RateOut: b.RateOut,
	}
}

func tunnelTotalsToProto(t tunnel.Totals) *tunnelv1.TunnelTotals {
	return &tunnelv1.TunnelTotals{
		Tunnels: nonNegative(t.Tunnels), Parked: nonNegative(t.Parked), Bindings: nonNegative(t.Bindings), ActiveStreams: nonNegative(t.Streams),
		PermitsUsed: nonNegative(t.Permits.Used), PermitsAvailable: nonNegative(t.Permits.Limit - t.Permits.Used),
	}
}

func killTunnelFromProto(r *tunnelv1.TunnelServiceKillRequest) (tunnels.KillIn, error) {
	in := tunnels.KillIn{ID: r.GetTunnelId()}
	if r.GraceMs != nil {
		if ms := r.GetGraceMs(); ms < 0 || ms > tunnels.MaxGrace.Milliseconds() {
			return in, tunnels.ErrGrace
		}
		grace := time.Duration(r.GetGraceMs()) * time.Millisecond
		in.Grace = &grace
	}
	return in, nil
}

func watchTunnelsFromProto(r *tunnelv1.TunnelServiceWatchRequest) (tunnels.WatchIn, error) {
	in := tunnels.WatchIn{NodeID: r.GetNodeId()}
	every, err := durationFromProto(r.GetInterval())
	if err == nil && every != nil {
		in.Every = *every
	}
	return in, err
}

func createBindingFromProto(r *tunnelv1.CreateBindingRequest) (bindings.CreateIn, error) {
	in := bindings.CreateIn{
		NodeID: r.GetNodeId(), LocalAddr: r.GetTarget(), Name: r.GetName(), Port: int(min(r.GetPort(), math.MaxInt32)), Listens: r.GetListens(),
		Subdomain: r.GetSubdomain(), Secret: r.GetToken(), Protocol: bindings.HTTP,
	}
	if in.Name == "" {
		in.Name = in.LocalAddr
	}
	switch r.GetKind() {
	case tunnelv1.BindingKind_BINDING_KIND_UNSPECIFIED, tunnelv1.BindingKind_BINDING_KIND_HTTP:
	case tunnelv1.BindingKind_BINDING_KIND_TCP:
		in.Protocol = bindings.TCP
	case tunnelv1.BindingKind_BINDING_KIND_WEB_SOCKET:
		in.Protocol = bindings.WebSocket
	default:
		return in, errBindingKind
	}
	if a := r.GetAccess(); a != tunnelv1.BindingAccess_BINDING_ACCESS_UNSPECIFIED {
		for is, p := range bindingAccesses {
			if p == a {
				in.Access = is
			}
		}
		if in.Access == "" {
			return in, errBindingKind
		}
	}
	return in, nil
}

func createBindingToProto(out bindings.CreateOut) (*tunnelv1.CreateBindingResponse, error) {
	return &tunnelv1.CreateBindingResponse{Binding: bindingToProto(&tunnel.Bound{Binding: out.Binding}), Token: out.Secret}, nil
}

func listBindingsToProto(out tunnel.ListBindingsOut) (*tunnelv1.ListBindingsResponse, error) {
	res := &tunnelv1.ListBindingsResponse{}
	for i := range out.Bindings {
		res.Bindings = append(res.Bindings, bindingToProto(&out.Bindings[i]))
	}
	return res, nil
}

// The words of tunnel.md §4.2.
const (
	tunnelServiceName = "hoody-tunnel"
	tunnelReady       = "ready"
	tunnelClosing     = "closing"
)

func tunnelHealthToProto(out tunnel.HealthOut) (*tunnelv1.TunnelServiceHealthResponse, error) {
	p := out.Process
	status := tunnelReady
	if !p.Ready {
		status = tunnelClosing
	}
	return &tunnelv1.TunnelServiceHealthResponse{
		Status: status, Service: tunnelServiceName, BuiltAt: timeToProto(p.Built), StartedAt: timeToProto(p.Started),
		MemoryRss: int64(p.RSS), MemoryHeapTotal: int64(p.HeapTotal), MemoryHeapUsed: int64(p.HeapUsed),
		Fds: nonNegative(p.Descriptors), Pid: nonNegative(p.PID), Ip: p.Address, UserAgent: tunnelServiceName + "/" + p.Version, Totals: tunnelTotalsToProto(out.Totals),
	}, nil
}

// Neighborhood is what the door needs of tunnel.Neighborhood.
type Neighborhood interface {
	Peers(context.Context, identity.Caller, tunnel.PeersIn) (tunnel.PeersOut, error)
}

type discoveryServer struct {
	tunnelv1.UnimplementedDiscoveryServiceServer
	s *Server
}

func (d *discoveryServer) ListPeers(ctx context.Context, req *tunnelv1.ListPeersRequest) (*tunnelv1.ListPeersResponse, error) {
	return call(ctx, req, listPeersFromProto, lasting(d.s, d.s.d.Neighborhood.Peers), listPeersToProto)
}

func listPeersFromProto(r *tunnelv1.ListPeersRequest) (tunnel.PeersIn, error) {
	wait, err := durationFromProto(r.GetWait())
	return tunnel.PeersIn{Wait: wait}, err
}

func listPeersToProto(out tunnel.PeersOut) (*tunnelv1.ListPeersResponse, error) {
	res := &tunnelv1.ListPeersResponse{Dropped: out.Dropped, Networks: cleanTexts(out.Networks)}
	for _, p := range out.Peers {
		peer := &tunnelv1.Peer{
			Name: cleanText(p.Name), Host: cleanText(p.Host), Legacy: p.Legacy, GatewayPort: nonNegative(p.GatewayPort), GrpcPort: nonNegative(p.GRPCPort),
			SshPort: nonNegative(p.SSHPort), Tls: p.TLS, Fingerprint: cleanText(p.Fingerprint), Version: cleanText(p.Version),
		}
		for _, a := range p.Addresses {
			peer.Addresses = append(peer.Addresses, &tunnelv1.PeerAddress{Address: cleanText(a.Address), Interface: cleanText(a.Interface)})
		}
		res.Peers = append(res.Peers, peer)
	}
	return res, nil
}
