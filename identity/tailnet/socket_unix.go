//go:build !windows

package tailnet

import (
	"context"
	"net"
	"runtime"
)

var socketPath = map[bool]string{
	true: "/var/run/tailscaled.socket", false: "/var/run/tailscale/tailscaled.sock",
}[runtime.GOOS == "darwin"]

func dial(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}
