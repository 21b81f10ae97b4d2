//go:build unix

package ssh

import (
	"context"
	"net"
)

const (
	systemConfig = "/etc/ssh/ssh_config"
	defaultAgent = ""
)

var systemKnown = []string{"/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"}

// dialAgent opens the socket of the agent.
func dialAgent(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}
