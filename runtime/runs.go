package runtime

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/runs"
)

// prepareTimeout bounds system.run.prepare (nodes-approvals.md §3.17).
const prepareTimeout = 15 * time.Second

// RunNodes shows nodes to runs. The service is made later than what shows it.
type RunNodes struct{ Of func() *nodes.Service }

// Run implements runs.Nodes.
func (n RunNodes) Run(ctx context.Context, c identity.Caller, in runs.Command) ([]byte, error) {
	call := nodes.InvokeIn{
		NodeID: in.NodeID, Command: "system.run", Params: in.Params, Timeout: &in.Timeout, WaitForNode: waitOf(in.Wait), Run: in.RunID,
	}
	command, lines := n.Of().RunsLines(c, in.NodeID)
	if lines {
		var err error
		if call.Command, call.Params, err = lineCall(command, in.Params); err != nil {
			return nil, err
		}
		if in.Timeout == 0 {
			call.Timeout = nil // what the node takes for itself
		}
	}
	out, err := n.Of().Invoke(ctx, c, call)
	if lines && err == nil {
		out.Payload = lineResult(out.Payload)
	}
	return out.Payload, forRuns(err)
}

// Prepare implements runs.Nodes. A node that runs lines knows no such question: it runs what it is given.
func (n RunNodes) Prepare(ctx context.Context, c identity.Caller, nodeID string, params []byte, wait time.Duration) ([]byte, error) {
	if _, lines := n.Of().RunsLines(c, nodeID); lines {
		return linePlan(params)
	}
	timeout := prepareTimeout
	out, err := n.Of().Invoke(ctx, c, nodes.InvokeIn{
		NodeID: nodeID, Command: "system.run.prepare", Params: params, Timeout: &timeout, WaitForNode: waitOf(wait),
	})
	return out.Payload, forRuns(err)
}

// Resolve implements runs.Nodes.
func (n RunNodes) Resolve(c identity.Caller, nodeID string) string { return n.Of().Resolve(c, nodeID) }

// Kill implements runs.Nodes.
func (n RunNodes) Kill(ctx context.Context, nodeID, invokeID, runID, by string) error {
	return n.Of().EndRun(ctx, nodeID, invokeID, runID, by)
}

func waitOf(d time.Duration) *time.Duration {
	if d <= 0 {
		return nil
	}
	d = min(d, nodes.MaxNodeWait)
	return &d
}

// forRuns gives the errors of a run the meaning that runs act on.
func forRuns(err error) error {
	e, ok := errs.As(err)
	if !ok {
		return err
	}
	switch e.Code {
	case nodes.ErrConnectionClosed.Code:
		return runs.ErrStopping
	case approvals.ErrRunRequired.Code, approvals.ErrRuleAsks.Code, approvals.ErrCallRequired.Code:
		return runs.ErrNeedsApproval
	case nodes.ErrNodeFailed.Code:
		// nodes-approvals.md §4.3
		if strings.Contains(e.Text, "SYSTEM_RUN_DENIED: approval required") || strings.Contains(e.Text, "SYSTEM_RUN_DENIED: allowlist miss") {
			return runs.ErrNeedsApproval
		}
		return &runs.NodeError{Code: e.Field("nodeCode"), Text: e.Text}
	}
	return err
}

// RunObserver shows what runs on nodes to runs.
type RunObserver struct{ Of func() *runs.Service }

// Leaving implements nodes.Observer.
func (o RunObserver) Leaving(in nodes.Leaving) error {
	return o.Of().Leaving(runs.Sent{
		InvokeID: in.InvokeID, NodeID: in.NodeID, Caller: in.Caller, Own: in.Run, Params: in.Params, Streams: in.Streams,
	})
}

// Wrote implements nodes.Observer.
func (o RunObserver) Wrote(invokeID, stream string, offset int64, data []byte) {
	o.Of().Wrote(invokeID, runs.Chunk{Stream: runs.Stream(stream), Offset: offset, Data: data})
}

// Left implements nodes.Observer.
func (o RunObserver) Left(invokeID string, out nodes.InvokeOut, err error, sent bool) {
	o.Of().Left(invokeID, out.Payload, forRuns(err), sent)
}

// RunApprovals shows approvals to runs.
type RunApprovals struct {
	Of    func() *approvals.Service
	Nodes func() *nodes.Service
}

// Request implements runs.Approvals.
func (a RunApprovals) Request(ctx context.Context, c identity.Caller, q runs.Question) (runs.Approval, error) {
	host := "node"
	in := approvals.RequestIn{
		ID: q.ID, Command: q.Plan.Text, CommandArgv: q.Plan.Argv, NodeID: &q.NodeID, Host: &host, Env: q.Env, Timeout: q.Timeout,
		Cwd: q.Plan.Cwd, AgentID: q.Plan.AgentID, SessionKey: q.Plan.SessionKey,
		Plan: &approvals.Plan{
			Argv: q.Plan.Argv, Cwd: q.Plan.Cwd, RawCommand: q.Plan.RawCommand, AgentID: q.Plan.AgentID, SessionKey: q.Plan.SessionKey,
		},
	}
	if command, lines := a.Nodes().RunsLines(c, q.NodeID); lines {
		_, params, err := lineCall(command, q.Prepared)
		if err != nil {
			return runs.Approval{}, err
		}
		in = approvals.RequestIn{
			ID: q.ID, NodeID: &q.NodeID, Timeout: q.Timeout, AgentID: q.Plan.AgentID, SessionKey: q.Plan.SessionKey,
			Call: &approvals.CallIn{Command: command, Params: params},
		}
	} else if absolute(q.Plan.Argv[0]) {
		in.ResolvedPath = &q.Plan.Argv[0]
	}
	out, err := a.Of().Request(ctx, c, in)
	return approvalForRuns(out), err
}

// absolute reports whether a path is absolute on any system: the node's need not be ours.
func absolute(p string) bool {
	return strings.HasPrefix(p, "/") || strings.HasPrefix(p, `\\`) || (len(p) > 2 && p[1] == ':' && (p[2] == '\\' || p[2] == '/'))
}

// Wait implements runs.Approvals.
func (a RunApprovals) Wait(ctx context.Context, c identity.Caller, id string) (runs.Approval, error) {
	out, err := a.Of().Wait(ctx, c, id)
	return approvalForRuns(out), err
}

// Get implements runs.Approvals.
func (a RunApprovals) Get(ctx context.Context, c identity.Caller, id string) (runs.Approval, error) {
	out, err := a.Of().Get(ctx, c, id)
	return approvalForRuns(out), err
}

// Withdraw implements runs.Approvals.
func (a RunApprovals) Withdraw(ctx context.Context, c identity.Caller, id string) error {
	_, err := a.Of().Resolve(ctx, c, approvals.ResolveIn{ID: id, Decision: approvals.Deny})
	if errors.Is(err, approvals.ErrUnknown) {
		return nil // it was answered
	}
	return err
}

func approvalForRuns(a approvals.Approval) runs.Approval {
	out := runs.Approval{
		ID: a.ID, Always: a.Decision == approvals.AllowAlways, Used: a.Uses, ResolvedBy: a.ResolvedBy, CreatedAt: a.CreatedAt,
		ExpiresAt: a.ExpiresAt, DeviceID: a.Requester.DeviceID, Principal: a.Requester.Principal,
	}
	switch {
	case a.Plan != nil:
		out.Argv = a.Plan.Argv
	case a.Binding != nil && a.Binding.Call != nil && len(a.Binding.Argv) > 3:
		out.Argv = a.Binding.Argv[1:4] // the shell and its line; the first word is the command of the node
	}
	switch a.State {
	case approvals.Pending:
		out.Verdict = runs.Open
	case approvals.Allowed, approvals.Consumed:
		out.Verdict = runs.Allowed
	case approvals.Denied:
		out.Verdict = runs.NotAllowed
	default:
		out.Verdict = runs.Over
	}
	return out
}
