package rpc

import (
	"context"
	"errors"
	"io"
	"math"
	"sync"

	"github.com/hanzoai/hanzod/errs"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel"
	"github.com/hanzoai/hanzod/tunnel/terminal"
)

// terminalPiece is how many bytes of output travel in one message.
const terminalPiece = 64 << 10

var (
	errAttach       = errs.Define(errs.Invalid, "rpc.terminal_attach", "the first message names the terminal, and only the first")
	errTerminalData = errs.Define(errs.Invalid, "rpc.terminal_data", "give data or text, not both")
)

// Terminals is what the door needs of tunnel.Service.
type Terminals interface {
	Open(context.Context, identity.Caller, tunnel.OpenIn) (tunnel.OpenOut, error)
	Write(context.Context, identity.Caller, tunnel.WriteIn) (tunnel.WriteOut, error)
	Resize(context.Context, identity.Caller, tunnel.ResizeIn) (tunnel.ResizeOut, error)
	Close(context.Context, identity.Caller, tunnel.CloseIn) (tunnel.CloseOut, error)
	List(context.Context, identity.Caller, tunnel.ListIn) (tunnel.ListOut, error)
	Attach(context.Context, identity.Caller, tunnel.AttachIn) (*tunnel.Viewer, error)
}

type terminalsServer struct {
	tunnelv1.UnimplementedTerminalServiceServer
	s *Server
}

func (t *terminalsServer) Open(ctx context.Context, req *tunnelv1.TerminalServiceOpenRequest) (*tunnelv1.TerminalServiceOpenResponse, error) {
	return call(ctx, req, openTerminalFromProto, lasting(t.s, t.s.d.Terminals.Open), openTerminalToProto)
}

func (t *terminalsServer) Write(ctx context.Context, req *tunnelv1.TerminalServiceWriteRequest) (*tunnelv1.TerminalServiceWriteResponse, error) {
	return call(ctx, req, writeTerminalFromProto, lasting(t.s, t.s.d.Terminals.Write), writeTerminalToProto)
}

func (t *terminalsServer) Resize(ctx context.Context, req *tunnelv1.TerminalServiceResizeRequest) (*tunnelv1.TerminalServiceResizeResponse, error) {
	return call(ctx, req, resizeTerminalFromProto, t.s.d.Terminals.Resize, resizeTerminalToProto)
}

func (t *terminalsServer) Close(ctx context.Context, req *tunnelv1.TerminalServiceCloseRequest) (*tunnelv1.TerminalServiceCloseResponse, error) {
	return call(ctx, req, closeTerminalFromProto, t.s.d.Terminals.Close, closeTerminalToProto)
}

func (t *terminalsServer) List(ctx context.Context, req *tunnelv1.TerminalServiceListRequest) (*tunnelv1.TerminalServiceListResponse, error) {
	return call(ctx, req, listTerminalsFromProto, t.s.d.Terminals.List, listTerminalsToProto)
}

// Attach joins a terminal. One goroutine reads what the viewer types, one tells it of the link, and the handler
// sends the output; HTTP/2 stops it when the viewer does not read.
func (t *terminalsServer) Attach(stream tunnelv1.TerminalService_AttachServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	first, err := stream.Recv()
	if err != nil {
		return recvEnd(err)
	}
	a := first.GetAttach()
	if a == nil {
		return errAttach
	}
	v, err := t.s.d.Terminals.Attach(ctx, c, attachTerminalFromProto(a))
	if err != nil {
		return err
	}
	defer v.Close()
	var turn sync.Mutex // one message at a time
	send := func(m *tunnelv1.TerminalServiceAttachResponse) error {
		turn.Lock()
		defer turn.Unlock()
		return stream.Send(m)
	}
	connected, changed := v.Connected()
	seq := v.Seq()
	if err := send(&tunnelv1.TerminalServiceAttachResponse{Message: &tunnelv1.TerminalServiceAttachResponse_Attached{
		Attached: &tunnelv1.TerminalAttached{Terminal: terminalToProto(v.Terminal()), Seq: seq},
	}}); err != nil {
		return err
	}
	t.s.links.wg.Go(func() { // ends with the stream
		if err := typed(ctx, stream, v); err != nil {
			cancel(err)
		}
	})
	var told sync.WaitGroup
	defer told.Wait()
	defer cancel(nil)
	told.Go(func() {
		for {
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			var now bool
			if now, changed = v.Connected(); now == connected || v.Terminal().Exit != nil {
				continue
			}
			connected = now
			if send(&tunnelv1.TerminalServiceAttachResponse{Message: &tunnelv1.TerminalServiceAttachResponse_Link{Link: &tunnelv1.TerminalLink{Connected: now}}}) != nil {
				return // the handler learns of it
			}
		}
	})
	buf := make([]byte, terminalPiece)
	for {
		p, err := v.Next(ctx, buf)
		if p.Missed > 0 {
			if err := send(&tunnelv1.TerminalServiceAttachResponse{Message: &tunnelv1.TerminalServiceAttachResponse_Missed{Missed: &tunnelv1.TerminalMissed{Bytes: p.Missed}}}); err != nil {
				return err
			}
		}
		if len(p.Data) > 0 {
			if err := send(&tunnelv1.TerminalServiceAttachResponse{Message: &tunnelv1.TerminalServiceAttachResponse_Output{
				Output: &tunnelv1.TerminalOutput{Seq: p.Seq, Data: p.Data},
			}}); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return send(&tunnelv1.TerminalServiceAttachResponse{Message: &tunnelv1.TerminalServiceAttachResponse_Exit{Exit: exitToProto(v.Terminal().Exit)}})
		case err != nil && ctx.Err() != nil:
			if err = context.Cause(ctx); errors.Is(err, errGoodbye) {
				return nil
			}
			return err
		case err != nil:
			return err
		}
	}
}

// typed takes what a viewer types, in order, until it leaves. A program that does not read makes it wait.
func typed(ctx context.Context, stream tunnelv1.TerminalService_AttachServer, v *tunnel.Viewer) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return recvEnd(err)
		}
		switch m := m.GetMessage().(type) {
		case *tunnelv1.TerminalServiceAttachRequest_Input:
			err = v.Input(ctx, m.Input)
		case *tunnelv1.TerminalServiceAttachRequest_Resize:
			err = v.Resize(int(m.Resize.GetCols()), int(m.Resize.GetRows()))
		default:
			err = errAttach
		}
		// What an ended or lost program was not told, the exit and the link tell the viewer.
		if err != nil && !errors.Is(err, tunnel.ErrEnded) && !errors.Is(err, tunnel.ErrAway) {
			return err
		}
	}
}

func openTerminalFromProto(r *tunnelv1.TerminalServiceOpenRequest) (tunnel.OpenIn, error) {
	return tunnel.OpenIn{
		NodeID: r.GetNodeId(), Shell: r.GetShell(), Argv: r.GetArgv(), Cwd: r.GetCwd(), Env: r.GetEnv(), Cols: side(r.GetCols()), Rows: side(r.GetRows()),
	}, nil
}

func side(n uint32) int { return int(min(n, math.MaxInt32)) }

func openTerminalToProto(out tunnel.OpenOut) (*tunnelv1.TerminalServiceOpenResponse, error) {
	return &tunnelv1.TerminalServiceOpenResponse{Terminal: terminalToProto(out.Terminal)}, nil
}

func writeTerminalFromProto(r *tunnelv1.TerminalServiceWriteRequest) (tunnel.WriteIn, error) {
	in := tunnel.WriteIn{ID: r.GetTerminalId(), Data: r.GetData()}
	if r.GetText() != "" {
		if len(in.Data) > 0 {
			return in, errTerminalData
		}
		in.Data = []byte(r.GetText())
	}
	return in, nil
}

func writeTerminalToProto(tunnel.WriteOut) (*tunnelv1.TerminalServiceWriteResponse, error) {
	return &tunnelv1.TerminalServiceWriteResponse{}, nil
}

func resizeTerminalFromProto(r *tunnelv1.TerminalServiceResizeRequest) (tunnel.ResizeIn, error) {
	return tunnel.ResizeIn{ID: r.GetTerminalId(), Cols: side(r.GetCols()), Rows: side(r.GetRows())}, nil
}

func resizeTerminalToProto(tunnel.ResizeOut) (*tunnelv1.TerminalServiceResizeResponse, error) {
	return &tunnelv1.TerminalServiceResizeResponse{}, nil
}

func closeTerminalFromProto(r *tunnelv1.TerminalServiceCloseRequest) (tunnel.CloseIn, error) {
	return tunnel.CloseIn{ID: r.GetTerminalId()}, nil
}

func closeTerminalToProto(tunnel.CloseOut) (*tunnelv1.TerminalServiceCloseResponse, error) {
	return &tunnelv1.TerminalServiceCloseResponse{}, nil
}

func listTerminalsFromProto(r *tunnelv1.TerminalServiceListRequest) (tunnel.ListIn, error) {
	return tunnel.ListIn{NodeID: r.GetNodeId()}, nil
}

func listTerminalsToProto(out tunnel.ListOut) (*tunnelv1.TerminalServiceListResponse, error) {
	r := &tunnelv1.TerminalServiceListResponse{Terminals: make([]*tunnelv1.Terminal, len(out.Terminals))}
	for i, t := range out.Terminals {
		r.Terminals[i] = terminalToProto(t)
	}
	return r, nil
}

func attachTerminalFromProto(a *tunnelv1.TerminalAttach) tunnel.AttachIn {
	return tunnel.AttachIn{ID: a.GetTerminalId(), From: a.From, FromEnd: a.GetFromEnd(), ReadOnly: a.GetReadOnly(), Record: a.GetRecord()}
}

// terminalToProto cleans what the node said.
func terminalToProto(t tunnel.Terminal) *tunnelv1.Terminal {
	return &tunnelv1.Terminal{
		TerminalId: t.ID, NodeId: cleanText(t.NodeID), SessionId: cleanText(t.Session), Shell: cleanText(t.Shell), Argv: cleanTexts(t.Argv),
		Cwd: cleanText(t.Cwd), Pid: t.PID, Cols: uint32(max(t.Cols, 0)), Rows: uint32(max(t.Rows, 0)), OpenedAt: timeToProto(t.Opened),
		Owner: cleanText(t.Owner), Viewers: uint32(max(t.Viewers, 0)), StartSeq: t.Start, EndSeq: t.End, Connected: t.Connected, Exit: exitToProto(t.Exit),
	}
}

func exitToProto(e *terminal.Exit) *tunnelv1.TerminalExit {
	if e == nil {
		return nil
	}
	out := &tunnelv1.TerminalExit{Signal: cleanText(e.Signal), Reason: cleanText(e.Reason)}
	if e.Code != nil {
		code := clampInt32(*e.Code)
		out.Code = &code
	}
	return out
}
