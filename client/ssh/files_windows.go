package ssh

import (
	"context"
	"net"

	"github.com/Microsoft/go-winio"
)

const (
	systemConfig = `C:\ProgramData\ssh\ssh_config`
	// defaultAgent is the agent of OpenSSH for Windows.
	defaultAgent = `\\.\pipe\openssh-ssh-agent`
)

var systemKnown = []string{`C:\ProgramData\ssh\ssh_known_hosts`}

// dialAgent opens the pipe of the agent.
func dialAgent(ctx context.Context, path string) (net.Conn, error) {
	return winio.DialPipeContext(ctx, path)
}
