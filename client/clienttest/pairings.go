package clienttest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
)

// Knock makes a device ask to be let in as a node. Its id is one that tests can write: "0a0a0a…" for the
// first, "0b0b0b…" for the second.
func (d *Daemon) Knock(name, platform string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.knocks++
	digit := fmt.Sprintf("0%x", 9+d.knocks)
	id := strings.Repeat(digit, 32)
	d.requests = append(d.requests, &devicesv1.PairingRequest{
		RequestId: fmt.Sprintf("%s%s%s%s-0000-4000-8000-00000000000f", digit, digit, digit, "ff"), DeviceId: id, DisplayName: name,
		Platform: platform, ClientId: "node-host", Roles: []string{"node"}, RemoteIp: "192.0.2.9", RequestedAt: timestamppb.Now(),
		ExpiresAt: timestamppb.New(time.Now().Add(5 * time.Minute)),
	})
}

// RequestPairing implements the service.
func (d *Daemon) RequestPairing(_ context.Context, in *nodesv1.RequestPairingRequest) (*nodesv1.RequestPairingResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.pairings {
		if p.GetNodeId() == in.GetNodeId() {
			return &nodesv1.RequestPairingResponse{Request: clone(p)}, nil
		}
	}
	d.minted++
	p := &nodesv1.NodePairing{
		RequestId: fmt.Sprintf("ed000000-0000-4000-8000-%012d", d.minted), NodeId: in.GetNodeId(), DisplayName: in.GetDisplayName(),
		Platform: in.GetPlatform(), RemoteIp: in.GetRemoteIp(), RequestedAt: timestamppb.Now(),
	}
	d.pairings = append(d.pairings, p)
	return &nodesv1.RequestPairingResponse{Request: clone(p), Created: true}, nil
}

// ListPairings implements the service.
func (d *Daemon) ListPairings(context.Context, *nodesv1.ListPairingsRequest) (*nodesv1.ListPairingsResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := &nodesv1.ListPairingsResponse{}
	for _, p := range d.pairings {
		out.Pending = append(out.Pending, clone(p))
	}
	return out, nil
}

func (d *Daemon) takePairing(id string) (*nodesv1.NodePairing, error) {
	i := slices.IndexFunc(d.pairings, func(p *nodesv1.NodePairing) bool { return p.GetRequestId() == id })
	if i < 0 {
		return nil, fail(codes.NotFound, "nodes.request_unknown", "no such pairing request is open", nil)
	}
	p := d.pairings[i]
	d.pairings = slices.Delete(d.pairings, i, i+1)
	return p, nil
}

// ApprovePairing implements the service.
func (d *Daemon) ApprovePairing(_ context.Context, in *nodesv1.ApprovePairingRequest) (*nodesv1.ApprovePairingResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, err := d.takePairing(in.GetRequestId())
	if err != nil {
		return nil, err
	}
	p.RequestId, p.ApprovedAt = "", timestamppb.Now()
	return &nodesv1.ApprovePairingResponse{Node: p, Token: d.token()}, nil
}

// RejectPairing implements the service.
func (d *Daemon) RejectPairing(_ context.Context, in *nodesv1.RejectPairingRequest) (*nodesv1.RejectPairingResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, err := d.takePairing(in.GetRequestId())
	return &nodesv1.RejectPairingResponse{NodeId: p.GetNodeId()}, err
}

// awaitNode holds a call for a node that is not connected, as long as it may wait.
func (d *Daemon) awaitNode(ctx context.Context, in *nodesv1.InvokeRequest) {
	for end := time.Now().Add(in.GetWaitForNode().AsDuration()); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
		d.mu.Lock()
		connected := d.node(in.GetNodeId()).GetConnected()
		d.mu.Unlock()
		if connected {
			return
		}
	}
}

// Arrive connects a node that nobody knew.
func (d *Daemon) Arrive(id, name string) {
	d.mu.Lock()
	d.nodes = append(d.nodes, &nodesv1.Node{NodeId: id, DisplayName: name, Platform: "linux", Commands: Commands})
	d.mu.Unlock()
	d.SetConnected(id, true)
}

// TestPush implements the service: the phone registered, and its environment production is out of use.
func (d *Daemon) TestPush(_ context.Context, in *nodesv1.TestPushRequest) (*nodesv1.TestPushResponse, error) {
	switch {
	case in.GetNodeId() != PhoneID:
		return nil, fail(codes.NotFound, "nodes.no_registration", "the node did not register for pushes; open its app while it is connected", nil)
	case in.GetEnvironment() == "production":
		return &nodesv1.TestPushResponse{Status: 410, Reason: "Unregistered", TokenSuffix: "89abcdef", Topic: "ai.hanzo.app", Environment: "production"}, nil
	}
	return &nodesv1.TestPushResponse{Ok: true, Status: 200, TokenSuffix: "89abcdef", Topic: "ai.hanzo.app", Environment: "sandbox"}, nil
}
