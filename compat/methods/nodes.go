package methods

import (
	"strconv"
	"time"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/nodes"
)

// Node is an entry of node.list (nodes-approvals.md §1.4).
type Node struct {
	NodeID          string            `json:"nodeId"`
	DisplayName     wire.Opt[string]  `json:"displayName,omitzero"`
	Platform        wire.Opt[string]  `json:"platform,omitzero"`
	Version         wire.Opt[string]  `json:"version,omitzero"`
	CoreVersion     wire.Opt[string]  `json:"coreVersion,omitzero"`
	UIVersion       wire.Opt[string]  `json:"uiVersion,omitzero"`
	DeviceFamily    wire.Opt[string]  `json:"deviceFamily,omitzero"`
	ModelIdentifier wire.Opt[string]  `json:"modelIdentifier,omitzero"`
	RemoteIP        wire.Opt[string]  `json:"remoteIp,omitzero"`
	Caps            wire.List[string] `json:"caps"`
	Commands        wire.List[string] `json:"commands"`
	PathEnv         wire.Opt[string]  `json:"pathEnv,omitzero"`
	Permissions     map[string]bool   `json:"permissions,omitempty"`
	ConnectedAtMs   wire.Opt[int64]   `json:"connectedAtMs,omitzero"`
	Paired          bool              `json:"paired"`
	Connected       bool              `json:"connected"`
}

func nodeToLegacy(n nodes.Node) Node {
	out := Node{
		NodeID:      n.ID,
		DisplayName: wire.NonZero(n.DisplayName), Platform: wire.NonZero(n.Platform),
		Version: wire.NonZero(n.Version), CoreVersion: wire.NonZero(n.CoreVersion),
		UIVersion: wire.NonZero(n.UIVersion), DeviceFamily: wire.NonZero(n.DeviceFamily),
		ModelIdentifier: wire.NonZero(n.ModelIdentifier), RemoteIP: wire.NonZero(n.RemoteIP),
		Caps: n.Caps, Commands: n.Commands, PathEnv: wire.NonZero(n.PathEnv),
		Permissions: n.Permissions, Paired: n.Paired, Connected: n.Connected,
	}
	if !n.ConnectedAt.IsZero() {
		out.ConnectedAtMs = wire.Some(ms(n.ConnectedAt))
	}
	return out
}

type nodeListParams struct {
	ConnectedOnly wire.Opt[bool] `json:"connectedOnly"`
}

type nodeListResult struct {
	TS    int64           `json:"ts"`
	Nodes wire.List[Node] `json:"nodes"`
}

// NodeListFromLegacy reads node.list.
func NodeListFromLegacy(p wire.Value) (nodes.ListIn, error) {
	var in nodeListParams
	err := wire.Decode(p, &in)
	return nodes.ListIn{ConnectedOnly: in.ConnectedOnly.Or(false)}, err
}

// NodeListToLegacy writes the result of node.list.
func NodeListToLegacy(out nodes.ListOut) any {
	r := nodeListResult{TS: ms(out.At), Nodes: make([]Node, len(out.Nodes))}
	for i, n := range out.Nodes {
		r.Nodes[i] = nodeToLegacy(n)
	}
	return r
}

type nodeIDParams struct {
	NodeID string `json:"nodeId"`
}

type nodeDescribeResult struct {
	TS int64 `json:"ts"`
	Node
}

// NodeDescribeFromLegacy reads node.describe.
func NodeDescribeFromLegacy(p wire.Value) (nodes.DescribeIn, error) {
	var in nodeIDParams
	err := wire.Decode(p, &in)
	return nodes.DescribeIn(in), err
}

// NodeDescribeToLegacy writes the result of node.describe.
func NodeDescribeToLegacy(out nodes.DescribeOut) any {
	return nodeDescribeResult{TS: ms(out.At), Node: nodeToLegacy(out.Node)}
}

type nodeRename struct {
	NodeID      string `json:"nodeId"`
	DisplayName string `json:"displayName"`
}

// NodeRenameFromLegacy reads node.rename.
func NodeRenameFromLegacy(p wire.Value) (nodes.RenameIn, error) {
	var in nodeRename
	err := wire.Decode(p, &in)
	return nodes.RenameIn(in), err
}

// NodeRenameToLegacy writes the result of node.rename.
func NodeRenameToLegacy(out nodes.RenameOut) any { return nodeRename(out) }

type nodeInvokeParams struct {
	NodeID         string             `json:"nodeId"`
	Command        string             `json:"command"`
	Params         wire.Value         `json:"params"`
	TimeoutMs      wire.Opt[wire.Int] `json:"timeoutMs"`
	IdempotencyKey string             `json:"idempotencyKey"`
}

type nodeInvokeResult struct {
	OK          bool             `json:"ok"`
	NodeID      string           `json:"nodeId"`
	Command     string           `json:"command"`
	Payload     wire.Raw         `json:"payload,omitzero"`
	PayloadJSON wire.Opt[string] `json:"payloadJSON"`
}

// NodeInvokeFromLegacy reads node.invoke. Its params travel on as the text that a JavaScript peer
// would write.
func NodeInvokeFromLegacy(p wire.Value) (nodes.InvokeIn, error) {
	var in nodeInvokeParams
	if err := wire.Decode(p, &in); err != nil {
		return nodes.InvokeIn{}, err
	}
	out := nodes.InvokeIn{NodeID: in.NodeID, Command: in.Command, IdempotencyKey: in.IdempotencyKey}
	if in.Params.Exists() {
		out.Params = wire.Stringify(in.Params)
	}
	if t, ok := in.TimeoutMs.Get(); ok {
		d := millis(int64(t))
		out.Timeout = &d
	}
	return out, nil
}

// millis turns milliseconds into a duration and keeps within its range.
func millis(n int64) time.Duration {
	const most = int64(1<<63-1) / int64(time.Millisecond)
	return time.Duration(min(n, most)) * time.Millisecond
}

// NodeInvokeToLegacy writes the result of node.invoke.
func NodeInvokeToLegacy(out nodes.InvokeOut) any {
	r := nodeInvokeResult{
		OK: true, NodeID: out.NodeID, Command: out.Command, Payload: out.Payload,
		PayloadJSON: null(out.PayloadJSON),
	}
	if out.PayloadJSON != nil {
		// The original parses the node's text and writes it anew.
		if v, err := wire.Parse(out.Payload); err == nil {
			r.Payload = wire.Stringify(v)
		}
	}
	return r
}

type nodeErrorParams struct {
	Code    wire.Opt[string] `json:"code"`
	Message wire.Opt[string] `json:"message"`
	Details wire.Value       `json:"details"` // of nodes that speak version 1
}

type nodeResultParams struct {
	ID          string                    `json:"id"`
	NodeID      string                    `json:"nodeId"`
	OK          bool                      `json:"ok"`
	Payload     wire.Value                `json:"payload"`
	PayloadJSON wire.Opt[string]          `json:"payloadJSON"`
	Error       wire.Opt[nodeErrorParams] `json:"error"`
}

type nodeResultResult struct {
	OK      bool           `json:"ok"`
	Ignored wire.Opt[bool] `json:"ignored,omitzero"`
}

// NormalizeNodeResult is what the original forgives before it validates node.invoke.result: a
// payloadJSON that is null or no text, and an error that is null (nodes-approvals.md §2.4).
func NormalizeNodeResult(p wire.Value) wire.Value {
	text, hasText := p.Get("payloadJSON")
	fault, hasFault := p.Get("error")
	badText := hasText && text.Kind() != wire.String
	if !badText && (!hasFault || !fault.IsNull()) && p.Kind() != wire.Array {
		return p
	}
	_, hasPayload := p.Get("payload")
	out := []byte{'{'}
	add := func(k string, v wire.Value) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(wire.AppendString(out, k), ':')
		out = wire.AppendStringify(out, v)
	}
	i := 0
	for v := range p.Items() { // an array is taken for the object of its items
		add(strconv.Itoa(i), v)
		i++
	}
	for k, v := range p.Members() {
		switch {
		case k == "error" && v.IsNull():
		case k == "payloadJSON" && badText:
			if !v.IsNull() && !hasPayload {
				add("payload", v)
			}
		default:
			add(k, v)
		}
	}
	n, err := wire.Parse(append(out, '}'))
	if err != nil {
		return p
	}
	return n
}

// NodeResultFromLegacy reads node.invoke.result.
func NodeResultFromLegacy(p wire.Value) (nodes.ResultIn, error) {
	var in nodeResultParams
	if err := wire.Decode(p, &in); err != nil {
		return nodes.ResultIn{}, err
	}
	out := nodes.ResultIn{
		NodeID: in.NodeID, InvokeID: in.ID, OK: in.OK, PayloadJSON: ptr(in.PayloadJSON),
	}
	if in.Payload.Exists() {
		out.Payload = wire.Stringify(in.Payload)
	}
	if e, ok := in.Error.Get(); ok {
		out.Error = &nodes.NodeError{Code: ptr(e.Code), Message: ptr(e.Message)}
		if e.Details.Exists() && !e.Details.IsNull() {
			out.Error.Details = wire.Stringify(e.Details)
		}
	}
	return out, nil
}

// NodeResultToLegacy writes the result of node.invoke.result.
func NodeResultToLegacy(out nodes.ResultOut) any {
	r := nodeResultResult{OK: true}
	if out.Ignored {
		r.Ignored = wire.Some(true)
	}
	return r
}

type nodeEventParams struct {
	Event       string           `json:"event"`
	Payload     wire.Value       `json:"payload"`
	PayloadJSON wire.Opt[string] `json:"payloadJSON"`
}

// NodeEventFromLegacy reads node.event.
func NodeEventFromLegacy(p wire.Value) (nodes.EventIn, error) {
	var in nodeEventParams
	if err := wire.Decode(p, &in); err != nil {
		return nodes.EventIn{}, err
	}
	out := nodes.EventIn{Event: in.Event, PayloadJSON: ptr(in.PayloadJSON)}
	if in.Payload.Exists() {
		out.Payload = wire.Stringify(in.Payload)
	}
	return out, nil
}

// NodeEventToLegacy writes the result of node.event.
func NodeEventToLegacy(nodes.EventOut) any { return OK{true} }

type nodeInvokeRequest struct {
	ID             string           `json:"id"`
	NodeID         string           `json:"nodeId"`
	Command        string           `json:"command"`
	ParamsJSON     wire.Opt[string] `json:"paramsJSON"`
	TimeoutMs      wire.Opt[int64]  `json:"timeoutMs,omitzero"`
	IdempotencyKey wire.Opt[string] `json:"idempotencyKey,omitzero"`
}

// InvokeRequestToLegacy writes the payload of the event node.invoke.request. Params that are not
// there are null, against the published schema, as the original sends them.
func InvokeRequestToLegacy(r nodes.Request) any {
	out := nodeInvokeRequest{
		ID: r.ID, NodeID: r.NodeID, Command: r.Command, ParamsJSON: wire.NullOf[string](),
		IdempotencyKey: wire.NonZero(r.IdempotencyKey),
	}
	if r.Params != nil {
		out.ParamsJSON = wire.Some(string(r.Params))
	}
	if r.Timeout != nil {
		out.TimeoutMs = wire.Some(r.Timeout.Milliseconds())
	}
	return out
}

// NodeChanged is the payload of hanzod's own events about nodes.
type NodeChanged struct {
	Node Node `json:"node"`
}

// NodeChangedToLegacy writes a change of a node in the shape of node.list.
func NodeChangedToLegacy(c nodes.Changed) any { return NodeChanged{nodeToLegacy(c.Node)} }

type nodeReported struct {
	NodeID  string   `json:"nodeId"`
	Event   string   `json:"event"`
	Payload wire.Raw `json:"payload,omitzero"`
}

// NodeReportedToLegacy writes what a node reported.
func NodeReportedToLegacy(r nodes.Reported) any {
	out := nodeReported{NodeID: r.NodeID, Event: r.Event}
	if v, err := wire.Parse(r.Payload); err == nil {
		out.Payload = wire.Stringify(v)
	}
	return out
}
