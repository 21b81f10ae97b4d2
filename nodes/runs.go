package nodes

import (
	"bytes"
	"context"
	"encoding/json"

	"github.com/hanzoai/hanzod/identity"
)

const (
	// killCommand ends a command that runs on a node. A node that declares it also streams the output of
	// commands. It is the daemon's own: no caller can invoke it.
	killCommand = "system.run.kill"
	// streamKey asks a node to stream the output of a command; nodes of the original ignore it.
	streamKey = "streamOutput"
	// outputEvent is what a node sends then.
	outputEvent = "exec.output"
	// maxOutputPiece bounds the output in one event; node hosts send 16 KiB.
	maxOutputPiece = 64 << 10
)

// unobserved is an Observer that looks away.
type unobserved struct{}

func (unobserved) Leaving(Leaving) error               { return nil }
func (unobserved) Wrote(string, string, int64, []byte) {}
func (unobserved) Left(string, InvokeOut, error, bool) {}

// leave tells the observer of a system.run that is about to go to its node, and returns the parameters
// to send.
func (s *Service) leave(c identity.Caller, e *entry, id string, in InvokeIn) ([]byte, error) {
	streams := false
	if e.runs {
		in.Params, streams = asked(in.Params)
	}
	err := s.watch.Leaving(Leaving{InvokeID: id, NodeID: in.NodeID, Caller: c, Run: in.Run, Params: in.Params, Streams: streams})
	return in.Params, err
}

// asked adds to the parameters that the output is wanted. The guard has left no such key in them.
func asked(params []byte) ([]byte, bool) {
	body, isObject := bytes.CutSuffix(bytes.TrimSpace(params), []byte{'}'})
	if !isObject || len(body) < 2 || body[0] != '{' || !json.Valid(params) {
		return params, false
	}
	return append(bytes.Clone(body), []byte(`,"`+streamKey+`":true}`)...), true
}

// wrote hands on output of a command that runs on the node. What no call of the node waits for is left out.
func (s *Service) wrote(nodeID string, payload []byte) {
	var p struct {
		InvokeID string
		Stream   string
		Offset   int64
		Data     []byte // base64
	}
	if json.Unmarshal(payload, &p) != nil || p.Offset < 0 || len(p.Data) > maxOutputPiece {
		return
	}
	if s.pending.watched(p.InvokeID, nodeID) {
		s.watch.Wrote(p.InvokeID, p.Stream, p.Offset, p.Data)
	}
}

// watched reports whether a call of the node waits whose output the observer takes.
func (p *pendingSet) watched(id, nodeID string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.m[id]
	return w != nil && w.nodeID == nodeID && w.watched
}

// EndRun ends a command that runs on a node, by its invoke. By is who wants it, for the one who asked for
// the command.
func (s *Service) EndRun(ctx context.Context, nodeID, invokeID, runID, by string) error {
	e, ok := s.reg.get(nodeID)
	switch {
	case !ok:
		return ErrNotConnected.With("node", nodeID)
	case !e.runs:
		return ErrCannotKill.With("node", nodeID)
	}
	params, err := json.Marshal(map[string]string{"invokeId": invokeID, "runId": runID, "by": by})
	if err != nil {
		return err
	}
	_, err = s.InvokeInternal(ctx, nodeID, killCommand, params)
	return err
}
