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
	d.terminals = tunnel.New(tunnel.Config{Nodes: TerminalNodes{func() *nodes.Service { return d.nodes }}, Store: d.store, Now: d.now, Log: d.subsystem("terminals")})
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

// TerminalNodes are the nodes as terminals see them.
type TerminalNodes struct{ Nodes func() *nodes.Service }

// Node implements tunnel.Nodes.
func (t TerminalNodes) Node(c identity.Caller, id string) (tunnel.Node, error) {
	out, err := t.Nodes().Describe(context.Background(), c, nodes.DescribeIn{NodeID: id})
	if err != nil {
		return tunnel.Node{}, err
	}
	return tunnel.Node{ID: out.Node.ID, Connected: out.Node.Connected, Commands: out.Node.Commands}, nil
}

// Open implements tunnel.Nodes.
func (t TerminalNodes) Open(ctx context.Context, c identity.Caller, nodeID, command string, params []byte) (tunnel.Pipe, func(context.Context) ([]byte, error), error) {
	return channelOf(t.Nodes().OpenChannel(ctx, c, nodes.InvokeIn{NodeID: nodeID, Command: command, Params: params}))
}

// OpenInternal implements tunnel.Nodes.
func (t TerminalNodes) OpenInternal(ctx context.Context, nodeID, command string, params []byte) (tunnel.Pipe, func(context.Context) ([]byte, error), error) {
	return channelOf(t.Nodes().OpenChannelInternal(ctx, nodeID, command, params))
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
func (t TerminalNodes) Invoke(ctx context.Context, c identity.Caller, nodeID, command string, params []byte) ([]byte, error) {
	out, err := t.Nodes().Invoke(ctx, c, nodes.InvokeIn{NodeID: nodeID, Command: command, Params: params})
	return out.Payload, err
}

// InvokeInternal implements tunnel.Nodes.
func (t TerminalNodes) InvokeInternal(ctx context.Context, nodeID, command string, params []byte) ([]byte, error) {
	return t.Nodes().InvokeInternal(ctx, nodeID, command, params)
}
