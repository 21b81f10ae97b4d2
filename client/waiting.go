package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/errs"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
)

// WaitingNode is a node that waits to be let in: a device that asks for the role node, or a request
// to pair a node by its id. One of the two is set.
type WaitingNode struct {
	Device  *devicesv1.PairingRequest
	Pairing *nodesv1.NodePairing
}

// RequestID is what an answer names.
func (w WaitingNode) RequestID() string {
	return cmp.Or(w.Device.GetRequestId(), w.Pairing.GetRequestId())
}

// NodeID is the id that the node has or will have.
func (w WaitingNode) NodeID() string { return cmp.Or(w.Device.GetDeviceId(), w.Pairing.GetNodeId()) }

// Name is what the node calls itself, its program when it does not.
func (w WaitingNode) Name() string {
	return cmp.Or(w.Device.GetDisplayName(), w.Pairing.GetDisplayName(), w.Device.GetClientId())
}

// Platform, Address and Repair are as the node says, and as the daemon saw it.
func (w WaitingNode) Platform() string {
	return cmp.Or(w.Device.GetPlatform(), w.Pairing.GetPlatform())
}

// Address is where the node comes from, "" for this machine.
func (w WaitingNode) Address() string {
	return cmp.Or(w.Device.GetRemoteIp(), w.Pairing.GetRemoteIp())
}

// Repair says that the node was let in before.
func (w WaitingNode) Repair() bool { return w.Device.GetRepair() || w.Pairing.GetRepair() }

// At is when it asked.
func (w WaitingNode) At() time.Time {
	if w.Device != nil {
		return w.Device.GetRequestedAt().AsTime()
	}
	return w.Pairing.GetRequestedAt().AsTime()
}

// WaitingNodes lists the nodes that wait to be let in, of either kind, newest first.
func (c *Client) WaitingNodes(ctx context.Context) ([]WaitingNode, error) {
	devices, err := c.Devices.ListDevices(ctx, &devicesv1.ListDevicesRequest{})
	if err != nil {
		return nil, err
	}
	pairings, err := c.Nodes.ListPairings(ctx, &nodesv1.ListPairingsRequest{})
	if err != nil {
		return nil, err
	}
	var out []WaitingNode
	for _, d := range devices.GetPending() {
		if slices.Contains(d.GetRoles(), "node") {
			out = append(out, WaitingNode{Device: d})
		}
	}
	for _, p := range pairings.GetPending() {
		out = append(out, WaitingNode{Pairing: p})
	}
	slices.SortStableFunc(out, func(a, b WaitingNode) int { return b.At().Compare(a.At()) })
	return out, nil
}

// ResolveWaitingNode finds the waiting node that a person means: by the id of the request or of the
// node, by 6 or more of the first characters of either, or by its name when it is the only one of that
// name. A node gives itself its name: one that a known node has already does not count.
func (c *Client) ResolveWaitingNode(ctx context.Context, query string) (WaitingNode, error) {
	all, err := c.WaitingNodes(ctx)
	if err != nil {
		return WaitingNode{}, err
	}
	w, byName, err := matchWaiting(all, query)
	if err != nil || !byName {
		return w, err
	}
	known, err := c.Nodes.ListNodes(ctx, &nodesv1.ListNodesRequest{})
	if err != nil {
		return WaitingNode{}, err
	}
	for _, n := range known.GetNodes() {
		if n.GetNodeId() != w.NodeID() && sameName(n.GetDisplayName(), w.Name()) {
			return WaitingNode{}, &Error{Code: CodeWaitingUnknown, Class: errs.Invalid,
				Message: fmt.Sprintf("another node is called %s already: name the request by its id", query)}
		}
	}
	return w, nil
}

func matchWaiting(all []WaitingNode, query string) (w WaitingNode, byName bool, err error) {
	query = strings.TrimSpace(query)
	if query == "" {
		return w, false, &Error{Code: CodeNodeRequired, Class: errs.Invalid, Message: "node required"}
	}
	var ids, names []WaitingNode
	for _, x := range all {
		switch {
		case x.RequestID() == query || x.NodeID() == query:
			return x, false, nil
		case len(query) >= minPrefix && (strings.HasPrefix(x.RequestID(), query) || strings.HasPrefix(x.NodeID(), query)):
			ids = append(ids, x)
		case sameName(x.Name(), query):
			names = append(names, x)
		}
	}
	switch {
	case len(ids) == 1:
		return ids[0], false, nil
	case len(ids) == 0 && len(names) == 1:
		return names[0], true, nil
	case len(ids)+len(names) == 0:
		return w, false, &Error{Code: CodeWaitingUnknown, Class: errs.NotFound, Message: "no node waits to be let in under " + query}
	}
	return w, false, &Error{Code: CodeWaitingUnknown, Class: errs.Invalid,
		Message: fmt.Sprintf("%d nodes that wait fit %s: name the request by its id", max(len(ids), len(names)), query)}
}

func sameName(a, b string) bool {
	return a != "" && (a == b || (Slug(a) != "" && Slug(a) == Slug(b)))
}

// AwaitNode is ResolveNode for a caller that waits until a node is known that fits the query. absent is
// called, once, when there is none yet; it may be nil.
func (c *Client) AwaitNode(ctx context.Context, query string, wait time.Duration, absent func()) (*nodesv1.Node, error) {
	n, err := c.ResolveNode(ctx, query)
	if e, ok := errors.AsType[*Error](err); wait <= 0 || !ok || e.Code != CodeNodeUnknown {
		return n, err
	}
	if absent != nil {
		absent()
	}
	limited, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	// The end of the wait may show in the stream before it shows in its context.
	over := func(failed error) bool {
		return ctx.Err() == nil && (limited.Err() != nil || (failed != nil && classOf(failed) == errs.Deadline))
	}
	s, failed := c.Nodes.WatchNodes(limited, &nodesv1.WatchNodesRequest{})
	for {
		var m *nodesv1.WatchNodesResponse
		if failed == nil {
			m, failed = s.Recv()
		}
		switch {
		case over(failed):
			return nil, err // as nobody came
		case failed != nil:
			return nil, failed
		case m.GetChange() == nodesv1.WatchNodesResponse_CHANGE_DISCONNECTED:
			continue
		}
		if n, err := MatchNode([]*nodesv1.Node{m.GetNode()}, query); err == nil {
			return n, nil
		}
	}
}
