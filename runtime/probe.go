package runtime

import (
	"context"
	"fmt"
	"strings"

	"github.com/hanzoai/hanzod/client"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

// Ask returns the version and the process of the daemon that serves a state directory, asked over its
// socket as any local client would.
func Ask(ctx context.Context, stateDir string) (version string, pid int, err error) {
	c, err := client.Dial(ctx, client.Options{Socket: client.SocketPath(stateDir), ClientName: "hanzod"})
	if err != nil {
		return "", 0, err
	}
	defer c.Close()
	out, err := c.System.GetStatus(ctx, &systemv1.GetStatusRequest{})
	return out.GetVersion(), int(out.GetPid()), err
}

// Probe asks this daemon a question over its own socket: whether it answers is what a service manager
// wants to know.
func (d *Daemon) Probe(ctx context.Context) error {
	_, _, err := Ask(ctx, d.cfg.StateDir)
	return err
}

// Summary is one line of how the daemon stands, for service managers.
func (d *Daemon) Summary() string {
	connected, _ := d.nodes.Counts()
	return fmt.Sprintf("%s: %d clients, %d nodes, %d approvals pending", strings.Join(d.Addresses(), ", "),
		d.door.Connections()+d.rpc.Links(), connected, d.approvals.PendingCount())
}
