package clienttest

import (
	"context"
	"maps"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

// defaultTimeout is how long a question stands (nodes-approvals.md §3.16).
const defaultTimeout = 120 * time.Second

func (d *Daemon) RequestApproval(_ context.Context, in *approvalsv1.RequestApprovalRequest) (*approvalsv1.RequestApprovalResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if in.GetHost() == "node" && len(in.GetPlan().GetArgv()) == 0 {
		return nil, fail(codes.InvalidArgument, "approvals.plan_required", "an approval for a node needs the plan from system.run.prepare", nil)
	}
	if d.approval(in.GetId()) != nil {
		return nil, fail(codes.AlreadyExists, "approvals.taken", "an approval with this id is already there", nil)
	}
	timeout := defaultTimeout
	if in.GetTimeout() != nil {
		timeout = in.GetTimeout().AsDuration()
	}
	now := time.Now()
	a := &approvalsv1.Approval{
		Id: in.GetId(), State: approvalsv1.State_STATE_PENDING, Command: in.GetCommand(), CommandArgv: in.GetCommandArgv(),
		EnvKeys: slices.Sorted(maps.Keys(in.GetEnv())), Cwd: in.Cwd, NodeId: in.NodeId, Host: in.Host, AgentId: in.AgentId,
		Security: in.Security, Ask: in.Ask, ResolvedPath: in.ResolvedPath, SessionKey: in.SessionKey,
		CreatedAt: timestamppb.New(now), ExpiresAt: timestamppb.New(now.Add(timeout)), RequestedBy: "local:1000",
	}
	if in.GetHost() == "node" {
		a.Binding = &approvalsv1.Binding{Argv: in.GetPlan().GetArgv(), Cwd: in.GetPlan().Cwd, AgentId: in.GetPlan().AgentId, SessionKey: in.GetPlan().SessionKey}
		if h := envHash(in.GetEnv()); h != "" {
			a.Binding.EnvHash = &h
		}
		a.NodeName = d.node(in.GetNodeId()).GetDisplayName()
	}
	d.approvals = append(d.approvals, a)
	d.waiters[a.GetId()] = make(chan struct{})
	d.publish(&approvalsv1.WatchApprovalsResponse{Approval: clone(a)})
	d.event("exec.approval.requested", map[string]any{"id": a.GetId()})
	return &approvalsv1.RequestApprovalResponse{Approval: clone(a)}, nil
}

func (d *Daemon) WaitApproval(ctx context.Context, in *approvalsv1.WaitApprovalRequest) (*approvalsv1.WaitApprovalResponse, error) {
	d.mu.Lock()
	a, done, stopping := d.approval(in.GetId()), d.waiters[in.GetId()], d.stopping
	d.mu.Unlock()
	if a == nil {
		return nil, fail(codes.NotFound, "approvals.gone", "the approval expired or does not exist", nil)
	}
	timer := time.NewTimer(time.Until(a.GetExpiresAt().AsTime()))
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		d.mu.Lock()
		if a.GetState() == approvalsv1.State_STATE_PENDING {
			a.State = approvalsv1.State_STATE_EXPIRED
			d.publish(&approvalsv1.WatchApprovalsResponse{Approval: clone(a)})
		}
		d.mu.Unlock()
	case <-stopping:
		return nil, status.Error(codes.Unavailable, "the daemon is stopping")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return &approvalsv1.WaitApprovalResponse{Approval: clone(a)}, nil
}

func (d *Daemon) ResolveApproval(_ context.Context, in *approvalsv1.ResolveApprovalRequest) (*approvalsv1.ResolveApprovalResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.approval(in.GetId())
	if a == nil || a.GetState() != approvalsv1.State_STATE_PENDING {
		return nil, fail(codes.NotFound, "approvals.unknown", "no such approval is pending", nil)
	}
	a.State, a.Decision = approvalsv1.State_STATE_ALLOWED, in.GetDecision()
	if in.GetDecision() == approvalsv1.Decision_DECISION_DENY {
		a.State = approvalsv1.State_STATE_DENIED
	}
	a.ResolvedAt, a.ResolvedBy = timestamppb.Now(), "local user"
	close(d.waiters[a.GetId()])
	d.publish(&approvalsv1.WatchApprovalsResponse{Approval: clone(a)})
	d.event("exec.approval.resolved", map[string]any{"id": a.GetId()})
	return &approvalsv1.ResolveApprovalResponse{Approval: clone(a)}, nil
}

func (d *Daemon) GetApproval(_ context.Context, in *approvalsv1.GetApprovalRequest) (*approvalsv1.GetApprovalResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.approval(in.GetId())
	if a == nil {
		return nil, fail(codes.NotFound, "approvals.gone", "the approval expired or does not exist", nil)
	}
	return &approvalsv1.GetApprovalResponse{Approval: clone(a)}, nil
}

func (d *Daemon) ListApprovals(_ context.Context, in *approvalsv1.ListApprovalsRequest) (*approvalsv1.ListApprovalsResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := &approvalsv1.ListApprovalsResponse{}
	for _, a := range d.approvals {
		if in.Like != nil {
			if like := d.approval(in.GetLike()); like == nil || a == like || a.GetNodeId() != like.GetNodeId() || program(a) != program(like) {
				continue
			}
			out.Approvals = append(out.Approvals, clone(a))
			continue
		}
		if in.GetAll() || a.GetState() == approvalsv1.State_STATE_PENDING {
			out.Approvals = append(out.Approvals, clone(a))
		}
	}
	if in.GetAll() || in.Like != nil {
		slices.Reverse(out.Approvals)
	}
	return out, nil
}

func program(a *approvalsv1.Approval) string {
	if argv := a.GetBinding().GetArgv(); len(argv) > 0 {
		return argv[0]
	}
	return a.GetCommand()
}

func (d *Daemon) WatchApprovals(_ *approvalsv1.WatchApprovalsRequest, s grpc.ServerStreamingServer[approvalsv1.WatchApprovalsResponse]) error {
	first := func() []any {
		_ = s.SendHeader(nil) // the stream stands; who is gone finds out
		var out []any
		for _, a := range d.approvals {
			if a.GetState() == approvalsv1.State_STATE_PENDING {
				out = append(out, &approvalsv1.WatchApprovalsResponse{Approval: clone(a)})
			}
		}
		return out
	}
	return d.watch(s.Context(), first, func(m any) error {
		if m, ok := m.(*approvalsv1.WatchApprovalsResponse); ok {
			return s.Send(m)
		}
		return nil
	})
}

func (d *Daemon) GetPolicyFile(context.Context, *approvalsv1.GetPolicyFileRequest) (*approvalsv1.GetPolicyFileResponse, error) {
	p, err := d.file("")
	return &approvalsv1.GetPolicyFileResponse{Policy: p}, err
}

func (d *Daemon) GetNodePolicyFile(_ context.Context, in *approvalsv1.GetNodePolicyFileRequest) (*approvalsv1.GetNodePolicyFileResponse, error) {
	p, err := d.file(in.GetNodeId())
	return &approvalsv1.GetNodePolicyFileResponse{Policy: p}, err
}

func (d *Daemon) SetPolicyFile(_ context.Context, in *approvalsv1.SetPolicyFileRequest) (*approvalsv1.SetPolicyFileResponse, error) {
	p, err := d.replace("", in.GetBaseHash(), in.GetFile().AsMap())
	return &approvalsv1.SetPolicyFileResponse{Policy: p}, err
}

func (d *Daemon) SetNodePolicyFile(_ context.Context, in *approvalsv1.SetNodePolicyFileRequest) (*approvalsv1.SetNodePolicyFileResponse, error) {
	p, err := d.replace(in.GetNodeId(), in.GetBaseHash(), in.GetFile().AsMap())
	return &approvalsv1.SetNodePolicyFileResponse{Policy: p}, err
}

func (d *Daemon) file(owner string) (*approvalsv1.PolicyFile, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.files[owner]; p != nil {
		return clone(p), nil
	}
	return nil, fail(codes.Unavailable, "nodes.not_connected", "the node is not connected", nil)
}

func (d *Daemon) replace(owner, base string, file map[string]any) (*approvalsv1.PolicyFile, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.files[owner]
	switch {
	case old == nil:
		return nil, fail(codes.Unavailable, "nodes.not_connected", "the node is not connected", nil)
	case base != old.GetHash():
		return nil, fail(codes.FailedPrecondition, "approvals.file_changed", "the exec approvals file changed since it was read", nil)
	case file["version"] != 1.0:
		return nil, fail(codes.InvalidArgument, "approvals.file_invalid", "this is no exec approvals file", nil)
	}
	return clone(d.setFile(owner, file)), nil
}

func (d *Daemon) GetHealth(context.Context, *systemv1.GetHealthRequest) (*systemv1.GetHealthResponse, error) {
	return &systemv1.GetHealthResponse{Ok: true, At: timestamppb.Now(), Took: durationpb.New(time.Millisecond), DefaultAgentId: "main",
		Agents: []*systemv1.AgentHealth{{AgentId: "main", IsDefault: true, Heartbeat: &systemv1.Heartbeat{Enabled: true, Every: "30m", Interval: durationpb.New(30 * time.Minute)}}}}, nil
}

func (d *Daemon) GetStatus(context.Context, *systemv1.GetStatusRequest) (*systemv1.GetStatusResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := &systemv1.GetStatusResponse{Version: "0.0.0-test", Pid: int64(os.Getpid()), Uptime: durationpb.New(time.Minute), Socket: d.Socket,
		Listen: []string{"127.0.0.1:18789"}, AuthMode: "token", Connections: 1, NodesKnown: int32(len(d.nodes)),
		Agents: []*systemv1.AgentStatus{{AgentId: "main"}}, HeartbeatsEnabled: true}
	for _, n := range d.nodes {
		if n.GetConnected() {
			out.NodesConnected++
		}
	}
	for _, a := range d.approvals {
		if a.GetState() == approvalsv1.State_STATE_PENDING {
			out.ApprovalsPending++
		}
	}
	return out, nil
}

func (d *Daemon) WatchEvents(in *systemv1.WatchEventsRequest, s grpc.ServerStreamingServer[systemv1.WatchEventsResponse]) error {
	seq := uint64(0)
	// Headers first, so that a caller knows that it is listening.
	if err := s.SendHeader(nil); err != nil {
		return err
	}
	return d.watch(s.Context(), func() []any { return nil }, func(m any) error {
		e, ok := m.(*systemv1.WatchEventsResponse)
		if !ok || (len(in.GetNames()) > 0 && !slices.Contains(in.GetNames(), e.GetName())) {
			return nil
		}
		seq++
		e = clone(e)
		e.Seq = seq
		return s.Send(e)
	})
}

func (d *Daemon) TailLogs(_ context.Context, in *systemv1.TailLogsRequest) (*systemv1.TailLogsResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	lines := d.logLines
	if n := int(in.GetLimit()); in.Limit != nil && n < len(lines) {
		lines = lines[len(lines)-n:]
	}
	return &systemv1.TailLogsResponse{File: "/state/hanzod.log", Lines: lines}, nil
}

func (d *Daemon) FollowLogs(in *systemv1.FollowLogsRequest, s grpc.ServerStreamingServer[systemv1.FollowLogsResponse]) error {
	lines := d.logLines
	for _, l := range lines[len(lines)-min(int(in.GetLines()), len(lines)):] {
		if err := s.Send(&systemv1.FollowLogsResponse{Line: l}); err != nil {
			return err
		}
	}
	<-s.Context().Done()
	return s.Context().Err()
}

func (d *Daemon) GetSharedSecret(context.Context, *systemv1.GetSharedSecretRequest) (*systemv1.GetSharedSecretResponse, error) {
	return &systemv1.GetSharedSecretResponse{AuthMode: "token", Secret: Secret}, nil
}

// Diagnose answers with what Findings was given.
func (d *Daemon) Diagnose(context.Context, *systemv1.DiagnoseRequest) (*systemv1.DiagnoseResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &systemv1.DiagnoseResponse{Findings: d.findings, At: timestamppb.Now(), Version: "0.0.0-test", Pid: int64(os.Getpid())}, nil
}

// Findings sets what the daemon finds when it is diagnosed.
func (d *Daemon) Findings(all ...*systemv1.Finding) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.findings = all
}
