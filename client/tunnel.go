package client

import (
	"context"

	"github.com/hanzoai/hanzod/tunnel/driver"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// Tunnel opens a tunnel to the daemon over gRPC: bindings that end on this machine, and streams to what the daemon
// and its nodes reach. ctx bounds the opening alone. Dial of the options is set here. It returns an error of
// package driver, an *Error or a *NotRunning.
func (c *Client) Tunnel(ctx context.Context, o driver.Options) (*driver.Session, error) {
	if o.Version == "" {
		o.Version = wire.V1
	}
	o.Dial = func(ctx context.Context, _ int) (mux.Carrier, error) { return c.Carry(ctx, o.Version) }
	return driver.Connect(ctx, o)
}
