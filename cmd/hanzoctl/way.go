package main

import (
	"context"
	"net"

	"github.com/hanzoai/hanzod/client"
)

// hostWay is a way to a daemon on another machine, over SSH or the tailnet.
type hostWay interface {
	client.Way
	// DialPort connects to a TCP port on the loopback address there.
	DialPort(ctx context.Context, port int) (net.Conn, error)
	// Route says for people how it is reached.
	Route() string
}
