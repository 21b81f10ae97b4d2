package companion

import (
	"context"
	"net"
)

// Windows tells nobody who is at the other end of such a socket, so there is none.

func checkSocket(string) error { return ErrUnsupported }

func checkPeer(*net.UnixConn) error { return ErrUnsupported }

// Listen fails with ErrUnsupported on this system.
func Listen(context.Context, string) (net.Listener, error) { return nil, ErrUnsupported }
