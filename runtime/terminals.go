package runtime

import (
	"context"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/tunnel"
)

// makeTerminals makes the service of terminals. The nodes are there, and nobody is connected yet.
func (d *Daemon) makeTerminals() error {
	d.terminals = tunnel.New(tunnel.Config{Nodes: terminalNodes{d}, Store: d.store, Now: d.now, Log: d.subsystem("terminals")})
	d.bus.Sink(func(e events.Event) {
		changed, ok := e.Payload.(nodes.Changed)
		if !ok {
			return
		}
		switch e.Name {
		case "node.connected":
			d.terminals.Came(changed.Node.ID)
		case "node.disconnected":
			d.terminals.Left(changed.Node.ID)
		}
	})
	return d.terminals.Start()
}

// reported hands what nodes report to who waits for it. It does not block.
func (d *Daemon) reported(nodeID, event string, payload []byte) {
	d.terminals.Reported(nodeID, event, payload)
}

// terminalNodes are the nodes as terminals see them.
type terminalNodes struct{ d *Daemon }

// Node implements tunnel.Nodes.
func (t terminalNodes) Node(c identity.Caller, id string) (tunnel.Node, error) {
	out, err := t.d.nodes.Describe(context.Background(), c, nodes.DescribeIn{NodeID: id})
	if err != nil {
		return tunnel.Node{}, err
	}
	return tunnel.Node{ID: out.Node.ID, Connected: out.Node.Connected, Commands: out.Node.Commands}, nil
}

// Open implements tunnel.Nodes.
func (t terminalNodes) Open(ctx context.Context, c identity.Caller, nodeID, command string, params []byte) (tunnel.Pipe, func(context.Context) ([]byte, error), error) {
	return channelOf(t.d.nodes.OpenChannel(ctx, c, nodes.InvokeIn{NodeID: nodeID, Command: command, Params: params}))
}

// OpenInternal implements tunnel.Nodes.
func (t terminalNodes) OpenInternal(ctx context.Context, nodeID, command string, params []byte) (tunnel.Pipe, func(context.Context) ([]byte, error), error) {
	return channelOf(t.d.nodes.OpenChannelInternal(ctx, nodeID, command, params))
}

func channelOf(ch nodes.Channel, answer func(context.Context) (nodes.InvokeOut, error), err error) (tunnel.Pipe, func(context.Context) ([]byte, error), error) {
	if e, ok := errs.As(err); ok && e.Code == nodes.ErrNoChannel.Code {
		err = tunnel.ErrNoChannel
	}
	if err != nil {
		return nil, nil, err
	}
	return ch, func(ctx context.Context) ([]byte, error) {
		out, err := answer(ctx)
		return out.Payload, err
	}, nil
}

// Invoke implements tunnel.Nodes.
func (t terminalNodes) Invoke(ctx context.Context, c identity.Caller, nodeID, command string, params []byte) ([]byte, error) {
	out, err := t.d.nodes.Invoke(ctx, c, nodes.InvokeIn{NodeID: nodeID, Command: command, Params: params})
	return out.Payload, err
}

// InvokeInternal implements tunnel.Nodes.
func (t terminalNodes) InvokeInternal(ctx context.Context, nodeID, command string, params []byte) ([]byte, error) {
	return t.d.nodes.InvokeInternal(ctx, nodeID, command, params)
}
