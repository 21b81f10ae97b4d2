package rpc

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"

	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/uplinks"
)

// Uplinks is what the door needs of uplinks.Service.
type Uplinks interface {
	List(context.Context, identity.Caller) (uplinks.ListOut, error)
	Status(context.Context, identity.Caller, uplinks.NameIn) (uplinks.State, error)
	Start(context.Context, identity.Caller, uplinks.NameIn) (uplinks.State, error)
	Stop(context.Context, identity.Caller, uplinks.NameIn) (uplinks.State, error)
}

type uplinksServer struct {
	tunnelv1.UnimplementedUplinkServiceServer
	s *Server
}

func (u *uplinksServer) ListUplinks(ctx context.Context, req *tunnelv1.ListUplinksRequest) (*tunnelv1.ListUplinksResponse, error) {
	return call(ctx, req, nothing, without(u.s.d.Uplinks.List), listUplinksToProto)
}

func (u *uplinksServer) GetUplink(ctx context.Context, req *tunnelv1.GetUplinkRequest) (*tunnelv1.GetUplinkResponse, error) {
	return call(ctx, req, getUplinkFromProto, u.s.d.Uplinks.Status, getUplinkToProto)
}

func (u *uplinksServer) StartUplink(ctx context.Context, req *tunnelv1.StartUplinkRequest) (*tunnelv1.StartUplinkResponse, error) {
	return call(ctx, req, startUplinkFromProto, u.s.d.Uplinks.Start, startUplinkToProto)
}

func (u *uplinksServer) StopUplink(ctx context.Context, req *tunnelv1.StopUplinkRequest) (*tunnelv1.StopUplinkResponse, error) {
	return call(ctx, req, stopUplinkFromProto, u.s.d.Uplinks.Stop, stopUplinkToProto)
}

var uplinkPhases = map[uplinks.Phase]tunnelv1.UplinkPhase{
	uplinks.Stopped: tunnelv1.UplinkPhase_UPLINK_PHASE_STOPPED, uplinks.Connecting: tunnelv1.UplinkPhase_UPLINK_PHASE_CONNECTING,
	uplinks.Connected: tunnelv1.UplinkPhase_UPLINK_PHASE_CONNECTED, uplinks.Waiting: tunnelv1.UplinkPhase_UPLINK_PHASE_WAITING,
	uplinks.Failed: tunnelv1.UplinkPhase_UPLINK_PHASE_FAILED,
}

func uplinkToProto(s uplinks.State) *tunnelv1.Uplink {
	u := &tunnelv1.Uplink{
		Name: s.Name, Url: cleanText(s.URL), InstanceId: cleanText(s.InstanceID), AppKind: cleanText(s.AppKind), DisplayName: cleanText(s.DisplayName),
		Enabled: s.Enabled, Reconnect: s.Reconnect, Phase: uplinkPhases[s.Phase], Since: timeToProto(s.Since), Error: cleanText(s.Error),
		SessionUrl: cleanText(s.SessionURL),
	}
	if s.RetryIn > 0 {
		u.RetryIn = durationpb.New(s.RetryIn)
	}
	return u
}

func listUplinksToProto(out uplinks.ListOut) (*tunnelv1.ListUplinksResponse, error) {
	res := &tunnelv1.ListUplinksResponse{}
	for _, s := range out.Uplinks {
		res.Uplinks = append(res.Uplinks, uplinkToProto(s))
	}
	return res, nil
}

func getUplinkFromProto(r *tunnelv1.GetUplinkRequest) (uplinks.NameIn, error) {
	return uplinks.NameIn{Name: r.GetName()}, nil
}

func getUplinkToProto(s uplinks.State) (*tunnelv1.GetUplinkResponse, error) {
	return &tunnelv1.GetUplinkResponse{Uplink: uplinkToProto(s)}, nil
}

func startUplinkFromProto(r *tunnelv1.StartUplinkRequest) (uplinks.NameIn, error) {
	return uplinks.NameIn{Name: r.GetName()}, nil
}

func startUplinkToProto(s uplinks.State) (*tunnelv1.StartUplinkResponse, error) {
	return &tunnelv1.StartUplinkResponse{Uplink: uplinkToProto(s)}, nil
}

func stopUplinkFromProto(r *tunnelv1.StopUplinkRequest) (uplinks.NameIn, error) {
	return uplinks.NameIn{Name: r.GetName()}, nil
}

func stopUplinkToProto(s uplinks.State) (*tunnelv1.StopUplinkResponse, error) {
	return &tunnelv1.StopUplinkResponse{Uplink: uplinkToProto(s)}, nil
}
