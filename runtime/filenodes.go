package runtime

import (
	"context"
	"errors"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/tunnel"
)

// FileNodes sends the commands of tunnel.Files to nodes.
type FileNodes struct{ Nodes *nodes.Service }

// Call implements tunnel.FileNodes.
func (f FileNodes) Call(ctx context.Context, c identity.Caller, nodeID, command string, params []byte, limit time.Duration) ([]byte, error) {
	out, err := f.Nodes.Invoke(ctx, c, nodes.InvokeIn{NodeID: nodeID, Command: command, Params: params, Timeout: &limit})
	return payloadOf(out, err)
}

// Open implements tunnel.FileNodes.
func (f FileNodes) Open(ctx context.Context, c identity.Caller, nodeID, command string, params []byte) (tunnel.FileChannel, func(context.Context) ([]byte, error), error) {
	var none time.Duration // it takes as long as its bytes
	ch, answer, err := f.Nodes.OpenChannel(ctx, c, nodes.InvokeIn{NodeID: nodeID, Command: command, Params: params, Timeout: &none})
	if errors.Is(err, nodes.ErrNoChannel) {
		return nil, nil, tunnel.ErrNoFileChannel
	}
	if err != nil {
		return nil, nil, nodeFault(err)
	}
	return ch, func(ctx context.Context) ([]byte, error) { return payloadOf(answer(ctx)) }, nil
}

func payloadOf(out nodes.InvokeOut, err error) ([]byte, error) {
	if err != nil {
		return nil, nodeFault(err)
	}
	if out.PayloadJSON != nil {
		return []byte(*out.PayloadJSON), nil
	}
	return out.Payload, nil
}

// nodeFault words what a node says of a file.
func nodeFault(err error) error {
	e, ok := errs.As(err)
	if !ok {
		return err
	}
	said, _ := e.Fields["nodeError"].(nodes.NodeError)
	var code, message string
	if said.Code != nil {
		code = *said.Code
	}
	if said.Message != nil {
		message = *said.Message
	}
	if own := tunnel.NodeFault(code, message); own != nil {
		return own
	}
	return err
}
