package tailnet

import (
	"context"
	"net"

	"github.com/Microsoft/go-winio"
)

var socketPath = `\\.\pipe\ProtectedPrefix\Administrators\Tailscale\tailscaled`

func dial(ctx context.Context, path string) (net.Conn, error) {
	return winio.DialPipeContext(ctx, path)
}
