package rpc

import (
	"context"

	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/nodes"
)

func (n *nodesServer) RequestPairing(ctx context.Context, req *nodesv1.RequestPairingRequest) (*nodesv1.RequestPairingResponse, error) {
	return call(ctx, req, pairRequestFromProto, n.s.d.Nodes.RequestPairing, pairRequestToProto)
}

func (n *nodesServer) ListPairings(ctx context.Context, req *nodesv1.ListPairingsRequest) (*nodesv1.ListPairingsResponse, error) {
	return call(ctx, req, pairListFromProto, n.s.d.Nodes.ListPairings, pairListToProto)
}

func (n *nodesServer) ApprovePairing(ctx context.Context, req *nodesv1.ApprovePairingRequest) (*nodesv1.ApprovePairingResponse, error) {
	return call(ctx, req, pairDecideFromProto[*nodesv1.ApprovePairingRequest], n.s.d.Nodes.ApprovePairing, pairApproveToProto)
}

func (n *nodesServer) RejectPairing(ctx context.Context, req *nodesv1.RejectPairingRequest) (*nodesv1.RejectPairingResponse, error) {
	return call(ctx, req, pairDecideFromProto[*nodesv1.RejectPairingRequest], n.s.d.Nodes.RejectPairing, pairRejectToProto)
}

func (n *nodesServer) VerifyPairing(ctx context.Context, req *nodesv1.VerifyPairingRequest) (*nodesv1.VerifyPairingResponse, error) {
	return call(ctx, req, pairVerifyFromProto, n.s.d.Nodes.VerifyPairing, pairVerifyToProto)
}

func pairRequestFromProto(r *nodesv1.RequestPairingRequest) (nodes.RequestPairingIn, error) {
	in := nodes.RequestPairingIn{Info: nodes.PairingInfo{
		NodeID: r.GetNodeId(), DisplayName: r.GetDisplayName(), Platform: r.GetPlatform(), Version: r.GetVersion(),
		CoreVersion: r.GetCoreVersion(), UIVersion: r.GetUiVersion(), DeviceFamily: r.GetDeviceFamily(),
		ModelIdentifier: r.GetModelIdentifier(), Caps: r.GetCaps(), Commands: r.GetCommands(), RemoteIP: r.GetRemoteIp(),
	}}
	if silent := r.GetSilent(); silent {
		in.Silent = &silent
	}
	return in, nil
}

func pairInfoToProto(p nodes.PairingInfo) *nodesv1.NodePairing {
	return &nodesv1.NodePairing{
		NodeId: cleanText(p.NodeID), DisplayName: cleanText(p.DisplayName), Platform: cleanText(p.Platform),
		Version: cleanText(p.Version), CoreVersion: cleanText(p.CoreVersion), UiVersion: cleanText(p.UIVersion),
		DeviceFamily: cleanText(p.DeviceFamily), ModelIdentifier: cleanText(p.ModelIdentifier),
		Caps: cleanTexts(p.Caps), Commands: cleanTexts(p.Commands), RemoteIp: cleanText(p.RemoteIP),
	}
}

func pairOpenToProto(r nodes.PairingRequest) *nodesv1.NodePairing {
	out := pairInfoToProto(r.Info)
	out.RequestId, out.Repair, out.RequestedAt = r.RequestID, r.Repair, timeToProto(r.At)
	out.Silent = r.Silent != nil && *r.Silent
	return out
}

// pairedToProto leaves the token out: it is shown when it is made and not again.
func pairedToProto(p nodes.Pairing) *nodesv1.NodePairing {
	out := pairInfoToProto(p.Info)
	out.CreatedAt, out.ApprovedAt = timeToProto(p.CreatedAt), timeToProto(p.ApprovedAt)
	out.LastConnectedAt = timeToProto(p.LastConnectedAt)
	return out
}

func pairRequestToProto(out nodes.RequestPairingOut) (*nodesv1.RequestPairingResponse, error) {
	return &nodesv1.RequestPairingResponse{Request: pairOpenToProto(out.Request), Created: out.Created}, nil
}

func pairListFromProto(*nodesv1.ListPairingsRequest) (nodes.ListPairingsIn, error) {
	return nodes.ListPairingsIn{}, nil
}

func pairListToProto(out nodes.ListPairingsOut) (*nodesv1.ListPairingsResponse, error) {
	r := &nodesv1.ListPairingsResponse{}
	for _, p := range out.Pending {
		r.Pending = append(r.Pending, pairOpenToProto(p))
	}
	for _, p := range out.Paired {
		r.Paired = append(r.Paired, pairedToProto(p))
	}
	return r, nil
}

func pairDecideFromProto[R interface{ GetRequestId() string }](r R) (nodes.DecidePairingIn, error) {
	return nodes.DecidePairingIn{RequestID: r.GetRequestId()}, nil
}

func pairApproveToProto(out nodes.ApprovePairingOut) (*nodesv1.ApprovePairingResponse, error) {
	return &nodesv1.ApprovePairingResponse{Node: pairedToProto(out.Node), Token: out.Node.Token}, nil
}

func pairRejectToProto(out nodes.RejectPairingOut) (*nodesv1.RejectPairingResponse, error) {
	return &nodesv1.RejectPairingResponse{NodeId: cleanText(out.NodeID)}, nil
}

func pairVerifyFromProto(r *nodesv1.VerifyPairingRequest) (nodes.VerifyPairingIn, error) {
	return nodes.VerifyPairingIn{NodeID: r.GetNodeId(), Token: r.GetToken()}, nil
}

func pairVerifyToProto(out nodes.VerifyPairingOut) (*nodesv1.VerifyPairingResponse, error) {
	r := &nodesv1.VerifyPairingResponse{Ok: out.OK}
	if out.OK {
		r.Node = pairedToProto(out.Node)
	}
	return r, nil
}
