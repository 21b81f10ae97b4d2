package methods

import (
	"time"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/nodes"
)

// nodeInfo is what a node says of itself, in requests and in paired entries (nodes-approvals.md §1.2).
// Lists that were not given are left out; empty ones are not.
type nodeInfo struct {
	NodeID          string                      `json:"nodeId"`
	DisplayName     wire.Opt[string]            `json:"displayName,omitzero"`
	Platform        wire.Opt[string]            `json:"platform,omitzero"`
	Version         wire.Opt[string]            `json:"version,omitzero"`
	CoreVersion     wire.Opt[string]            `json:"coreVersion,omitzero"`
	UIVersion       wire.Opt[string]            `json:"uiVersion,omitzero"`
	DeviceFamily    wire.Opt[string]            `json:"deviceFamily,omitzero"`
	ModelIdentifier wire.Opt[string]            `json:"modelIdentifier,omitzero"`
	Caps            wire.Opt[wire.List[string]] `json:"caps,omitzero"`
	Commands        wire.Opt[wire.List[string]] `json:"commands,omitzero"`
	RemoteIP        wire.Opt[string]            `json:"remoteIp,omitzero"`
}

func nodeInfoToLegacy(p nodes.PairingInfo) nodeInfo {
	return nodeInfo{
		NodeID: p.NodeID, DisplayName: wire.NonZero(p.DisplayName), Platform: wire.NonZero(p.Platform),
		Version: wire.NonZero(p.Version), CoreVersion: wire.NonZero(p.CoreVersion), UIVersion: wire.NonZero(p.UIVersion),
		DeviceFamily: wire.NonZero(p.DeviceFamily), ModelIdentifier: wire.NonZero(p.ModelIdentifier),
		Caps: optList(p.Caps), Commands: optList(p.Commands), RemoteIP: wire.NonZero(p.RemoteIP),
	}
}

func optList(in []string) wire.Opt[wire.List[string]] {
	if in == nil {
		return wire.Opt[wire.List[string]]{}
	}
	return wire.Some(wire.List[string](in))
}

// listOf keeps a list that is empty apart from one that is absent.
func listOf(o wire.Opt[wire.List[string]]) []string {
	l, ok := o.Get()
	if ok && l == nil {
		return []string{}
	}
	return l
}

type nodeRequest struct {
	RequestID string `json:"requestId"`
	nodeInfo
	Silent   wire.Opt[bool] `json:"silent,omitzero"`
	IsRepair bool           `json:"isRepair"`
	TS       int64          `json:"ts"`
}

func nodeRequestToLegacy(r nodes.PairingRequest) nodeRequest {
	out := nodeRequest{RequestID: r.RequestID, nodeInfo: nodeInfoToLegacy(r.Info), IsRepair: r.Repair, TS: ms(r.At)}
	if r.Silent != nil {
		out.Silent = wire.Some(*r.Silent)
	}
	return out
}

type pairedNode struct {
	nodeInfo
	Token             wire.Opt[string] `json:"token,omitzero"`
	CreatedAtMs       int64            `json:"createdAtMs"`
	ApprovedAtMs      int64            `json:"approvedAtMs"`
	LastConnectedAtMs wire.Opt[int64]  `json:"lastConnectedAtMs,omitzero"`
}

func pairedNodeToLegacy(p nodes.Pairing) pairedNode {
	return pairedNode{
		nodeInfo: nodeInfoToLegacy(p.Info), Token: wire.NonZero(p.Token), CreatedAtMs: ms(p.CreatedAt),
		ApprovedAtMs: ms(p.ApprovedAt), LastConnectedAtMs: optMs(p.LastConnectedAt),
	}
}

func optMs(t time.Time) wire.Opt[int64] {
	if t.IsZero() {
		return wire.Opt[int64]{}
	}
	return wire.Some(ms(t))
}

type nodePairRequestParams struct {
	nodeInfo
	Silent wire.Opt[bool] `json:"silent"`
}

// NodePairRequestFromLegacy reads node.pair.request.
func NodePairRequestFromLegacy(p wire.Value) (nodes.RequestPairingIn, error) {
	var in nodePairRequestParams
	if err := wire.Decode(p, &in); err != nil {
		return nodes.RequestPairingIn{}, err
	}
	out := nodes.RequestPairingIn{Info: nodes.PairingInfo{
		NodeID: in.NodeID, DisplayName: in.DisplayName.Or(""), Platform: in.Platform.Or(""), Version: in.Version.Or(""),
		CoreVersion: in.CoreVersion.Or(""), UIVersion: in.UIVersion.Or(""), DeviceFamily: in.DeviceFamily.Or(""),
		ModelIdentifier: in.ModelIdentifier.Or(""), Caps: listOf(in.Caps), Commands: listOf(in.Commands), RemoteIP: in.RemoteIP.Or(""),
	}}
	if silent, ok := in.Silent.Get(); ok {
		out.Silent = &silent
	}
	return out, nil
}

type nodePairRequestResult struct {
	Status  string      `json:"status"`
	Request nodeRequest `json:"request"`
	Created bool        `json:"created"`
}

// NodePairRequestToLegacy writes the result of node.pair.request.
func NodePairRequestToLegacy(out nodes.RequestPairingOut) any {
	return nodePairRequestResult{"pending", nodeRequestToLegacy(out.Request), out.Created}
}

// NodePairListFromLegacy reads node.pair.list.
func NodePairListFromLegacy(wire.Value) (nodes.ListPairingsIn, error) {
	return nodes.ListPairingsIn{}, nil
}

type nodePairListResult struct {
	Pending wire.List[nodeRequest] `json:"pending"`
	Paired  wire.List[pairedNode]  `json:"paired"`
}

// NodePairListToLegacy writes the result of node.pair.list.
func NodePairListToLegacy(out nodes.ListPairingsOut) any {
	var r nodePairListResult
	for _, p := range out.Pending {
		r.Pending = append(r.Pending, nodeRequestToLegacy(p))
	}
	for _, p := range out.Paired {
		r.Paired = append(r.Paired, pairedNodeToLegacy(p))
	}
	return r
}

type requestIDParams struct {
	RequestID string `json:"requestId"`
}

// NodePairDecideFromLegacy reads node.pair.approve and node.pair.reject.
func NodePairDecideFromLegacy(p wire.Value) (nodes.DecidePairingIn, error) {
	var in requestIDParams
	err := wire.Decode(p, &in)
	return nodes.DecidePairingIn(in), err
}

type nodePairApproveResult struct {
	RequestID string     `json:"requestId"`
	Node      pairedNode `json:"node"`
}

// NodePairApproveToLegacy writes the result of node.pair.approve.
func NodePairApproveToLegacy(out nodes.ApprovePairingOut) any {
	return nodePairApproveResult{out.RequestID, pairedNodeToLegacy(out.Node)}
}

type nodePairRejectResult struct {
	RequestID string `json:"requestId"`
	NodeID    string `json:"nodeId"`
}

// NodePairRejectToLegacy writes the result of node.pair.reject.
func NodePairRejectToLegacy(out nodes.RejectPairingOut) any { return nodePairRejectResult(out) }

type nodePairVerifyParams struct {
	NodeID string `json:"nodeId"`
	Token  string `json:"token"`
}

// NodePairVerifyFromLegacy reads node.pair.verify.
func NodePairVerifyFromLegacy(p wire.Value) (nodes.VerifyPairingIn, error) {
	var in nodePairVerifyParams
	err := wire.Decode(p, &in)
	return nodes.VerifyPairingIn(in), err
}

type nodePairVerifyResult struct {
	OK   bool                 `json:"ok"`
	Node wire.Opt[pairedNode] `json:"node,omitzero"`
}

// NodePairVerifyToLegacy writes the result of node.pair.verify.
func NodePairVerifyToLegacy(out nodes.VerifyPairingOut) any {
	r := nodePairVerifyResult{OK: out.OK}
	if out.OK {
		r.Node = wire.Some(pairedNodeToLegacy(out.Node))
	}
	return r
}

// NodePairRequestedToLegacy writes the payload of the event node.pair.requested.
func NodePairRequestedToLegacy(e nodes.PairingRequested) any { return nodeRequestToLegacy(e.Request) }

type nodePairResolved struct {
	RequestID string `json:"requestId"`
	NodeID    string `json:"nodeId"`
	Decision  string `json:"decision"`
	TS        int64  `json:"ts"`
}

// NodePairResolvedToLegacy writes the payload of the event node.pair.resolved.
func NodePairResolvedToLegacy(e nodes.PairingResolved) any {
	return nodePairResolved{RequestID: e.RequestID, NodeID: e.NodeID, Decision: e.Decision, TS: ms(e.At)}
}
