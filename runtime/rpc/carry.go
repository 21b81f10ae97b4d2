package rpc

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/hanzoai/hanzod/client/carrier"
	"github.com/hanzoai/hanzod/errs"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/tunnel/tunnels"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

const (
	// versionHeader is the metadata that names the version of a carrier.
	versionHeader = "x-hanzo-tunnel"
	// carrierWait is how long a carrier whose stream is to end may take to say so.
	carrierWait = 2 * time.Second
)

var errCarrierVersion = errs.Define(errs.Invalid, "rpc.carrier_version", "the metadata x-hanzo-tunnel names hoody-tunnel.v1 or hoody-tunnel.v2")

// Carry is one carrier. The handler waits for its end.
func (t *tunnelsServer) Carry(stream tunnelv1.TunnelService_CarryServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	in := tunnels.CarrierIn{Version: wire.V2, PeerAddr: c.RemoteIP, Transport: "grpc"}
	if named := metadata.ValueFromIncomingContext(ctx, versionHeader); len(named) > 0 {
		in.Version = named[0]
	}
	if in.Version != wire.V1 && in.Version != wire.V2 {
		return errCarrierVersion
	}
	switch p, ok := peer.FromContext(ctx); {
	case c.RemoteIP == "":
		in.PeerAddr = "local"
	case ok && p.Addr != nil:
		in.PeerAddr = p.Addr.String()
	}
	if err := stream.SendHeader(metadata.MD{}); err != nil { // the client waits for it
		return err
	}
	over := make(chan struct{})
	car := carrier.New(stream, in.PeerAddr, sync.OnceFunc(func() { close(over) }), nil)
	in.Carrier = car
	life, cancel := context.WithCancel(context.WithoutCancel(ctx)) // a daemon that stops says so on the carrier first
	defer cancel()
	served := make(chan error, 1)
	go func() { // ends when the carrier does
		var err error
		defer func() {
			if p := recover(); p != nil {
				err = panicked(p)
			}
			served <- err
		}()
		err = t.s.d.Tunnels.Serve(life, c, in)
	}()
	select {
	case err := <-served:
		return err
	case <-over: // the carrier has ended, and how counts: nobody else's end comes in between
	case <-ctx.Done():
	}
	late := time.NewTimer(carrierWait)
	defer late.Stop()
	select {
	case err := <-served:
		t.s.d.Log.Debug("a carrier ended with its stream", "error", err)
	case <-late.C:
	}
	_ = car.Close(0, "") // never fails
	return context.Cause(ctx)
}
