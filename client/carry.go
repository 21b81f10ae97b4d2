package client

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/hanzoai/hanzod/client/carrier"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/tunnel/mux"
)

// VersionHeader is the metadata that names the version of a carrier, wire.V1 or wire.V2.
const VersionHeader = "x-hanzo-tunnel"

// carryTime is how long the daemon may take to take a carrier.
const carryTime = 10 * time.Second

// Carry opens a carrier of a tunnel to the daemon: one more stream on the connection of the client. It returns when
// the daemon has taken it. ctx covers the opening alone: the carrier ends with its Close, or with the client.
func (c *Client) Carry(ctx context.Context, version string) (mux.Carrier, error) {
	life, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.WithoutCancel(ctx), VersionHeader, version))
	stop := context.AfterFunc(ctx, cancel)
	late := time.AfterFunc(carryTime, cancel)
	stream, err := c.Tunnels.Carry(life, grpc.ForceCodecV2(carrier.Codec))
	if err == nil {
		var md metadata.MD
		if md, err = stream.Header(); err == nil && md == nil {
			_, err = stream.Recv() // why there are none
			err = ended(err)
		}
	}
	inTime, asked := late.Stop(), stop()
	switch {
	case !asked:
		err = ctx.Err()
	case !inTime:
		err = &Error{Code: CodeTimeout, Class: errs.Deadline, Message: "the daemon did not take the carrier in time", Err: context.DeadlineExceeded}
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return carrier.New(stream, c.Target(), cancel, stream.CloseSend), nil
}
