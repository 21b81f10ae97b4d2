package runtime

import (
	"context"
	"net"
	"strconv"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/tunnel/links"
	"github.com/hanzoai/hanzod/tunnel/tunnels"
)

// makeTunnels makes the server's end of carriers. Bindings and links are there, and nobody is connected yet.
func (d *Daemon) makeTunnels(memory *links.Memory) {
	d.tunnels = tunnels.New(tunnels.Config{
		Settings: func() tunnels.Settings {
			t := d.current().Tunnel
			return tunnels.Settings{
				MaxTunnels: t.MaxTunnels, MaxPerTenant: t.MaxTunnelsPerTenant, MaxStreams: t.MaxStreams, Connections: t.Connections,
				Grace: time.Duration(t.GraceSeconds) * time.Second, Idle: time.Duration(t.IdleSeconds) * time.Second,
			}
		},
		Standing: d.identity.Standing, Bindings: d.bindings, Nodes: TunnelNodes{d.nodes}, Unmarked: d.nodes.Configured,
		Credential: memory.Credential, Reach: reach,
		Audit: func(ctx context.Context, c identity.Caller, row tunnels.AuditRow) error {
			return d.store.AppendAudit(ctx, approvals.Audit{
				At: d.now(), Kind: "tunnel", Subject: c.Subject(), NodeID: row.NodeID, Command: row.Action, RequestID: row.TunnelID, Detail: row.Detail, Reason: row.Reason,
			})
		},
		Now: d.now, Log: d.subsystem("tunnels"),
	})
	d.bus.Sink(func(e events.Event) {
		switch p := e.Payload.(type) {
		case identity.Ended:
			d.bindings.Revoke(p.Covers)
			d.tunnels.Revoke(p.Covers)
		case nodes.Changed:
			switch e.Name {
			case "node.connected":
				d.tunnels.NodeCame(p.Node.ID)
			case "node.disconnected":
				d.tunnels.NodeLeft(p.Node.ID)
			}
		}
	})
}

// reach connects from this machine.
func reach(ctx context.Context, host string, port int) (tunnels.Conn, string, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return nil, "", err
	}
	return c.(*net.TCPConn), c.RemoteAddr().String(), nil
}

// TunnelNodes are the nodes as tunnels see them.
type TunnelNodes struct{ Service *nodes.Service }

// Linked implements tunnels.Nodes.
func (t TunnelNodes) Linked(ctx context.Context, c identity.Caller, id string) (string, bool, error) {
	out, err := t.Service.Describe(ctx, c, nodes.DescribeIn{NodeID: id})
	return out.Node.ID, out.Node.Connected, err
}

// Offers implements tunnels.Nodes.
func (t TunnelNodes) Offers(id, command string) bool {
	return t.Service.Offers(id, command)
}

// Invoke implements tunnels.Nodes.
func (t TunnelNodes) Invoke(ctx context.Context, c identity.Caller, id, command string, params []byte) ([]byte, error) {
	out, err := t.Service.Invoke(ctx, c, nodes.InvokeIn{NodeID: id, Command: command, Params: params})
	return out.Payload, err
}

// InvokeInternal implements tunnels.Nodes.
func (t TunnelNodes) InvokeInternal(ctx context.Context, id, command string, params []byte) ([]byte, error) {
	return t.Service.InvokeInternal(ctx, id, command, params)
}
