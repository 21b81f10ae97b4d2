package rpc

import (
	"context"
	"encoding/json"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/events"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	"github.com/hanzoai/hanzod/identity"
)

type approvalsServer struct {
	approvalsv1.UnimplementedApprovalServiceServer
	s *Server
}

func (a *approvalsServer) RequestApproval(ctx context.Context, req *approvalsv1.RequestApprovalRequest) (*approvalsv1.RequestApprovalResponse, error) {
	return call(ctx, req, requestFromProto, a.s.d.Approvals.Request, func(out approvals.Approval) (*approvalsv1.RequestApprovalResponse, error) {
		return &approvalsv1.RequestApprovalResponse{Approval: a.s.approvalToProto(out)}, nil
	})
}

func (a *approvalsServer) WaitApproval(ctx context.Context, req *approvalsv1.WaitApprovalRequest) (*approvalsv1.WaitApprovalResponse, error) {
	return call(ctx, req, idFromProto, a.wait, func(out approvals.Approval) (*approvalsv1.WaitApprovalResponse, error) {
		return &approvalsv1.WaitApprovalResponse{Approval: a.s.approvalToProto(out)}, nil
	})
}

// wait stands among the streams while it lasts, so that Stop and EndStreams reach it: an approval
// may stay open for days.
func (a *approvalsServer) wait(ctx context.Context, c identity.Caller, id string) (approvals.Approval, error) {
	live, err := a.s.live(ctx, c, aWatch)
	if err != nil {
		return approvals.Approval{}, err
	}
	defer a.s.streams.remove(live)
	out, err := a.s.d.Approvals.Wait(live.ctx, c, id)
	if err != nil && live.ctx.Err() != nil {
		err = context.Cause(live.ctx)
	}
	return out, err
}

func (a *approvalsServer) ResolveApproval(ctx context.Context, req *approvalsv1.ResolveApprovalRequest) (*approvalsv1.ResolveApprovalResponse, error) {
	return call(ctx, req, resolveFromProto, a.s.d.Approvals.Resolve, func(out approvals.Approval) (*approvalsv1.ResolveApprovalResponse, error) {
		return &approvalsv1.ResolveApprovalResponse{Approval: a.s.approvalToProto(out)}, nil
	})
}

func (a *approvalsServer) GetApproval(ctx context.Context, req *approvalsv1.GetApprovalRequest) (*approvalsv1.GetApprovalResponse, error) {
	return call(ctx, req, idFromProto, a.s.d.Approvals.Get, func(out approvals.Approval) (*approvalsv1.GetApprovalResponse, error) {
		return &approvalsv1.GetApprovalResponse{Approval: a.s.approvalToProto(out)}, nil
	})
}

func (a *approvalsServer) ListApprovals(ctx context.Context, req *approvalsv1.ListApprovalsRequest) (*approvalsv1.ListApprovalsResponse, error) {
	return call(ctx, req, listApprovalsFromProto, a.s.d.Approvals.List, func(out []approvals.Approval) (*approvalsv1.ListApprovalsResponse, error) {
		r := &approvalsv1.ListApprovalsResponse{Approvals: make([]*approvalsv1.Approval, len(out))}
		for i, x := range out {
			brief, cut := x.Brief()
			r.Approvals[i] = a.s.approvalToProto(brief)
			r.Approvals[i].Cut = cut
		}
		return r, nil
	})
}

// WatchApprovals sends the pending approvals, then each that is asked or decided. One that was
// asked while the list was read may be sent twice.
func (a *approvalsServer) WatchApprovals(_ *approvalsv1.WatchApprovalsRequest, stream approvalsv1.ApprovalService_WatchApprovalsServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	w, err := a.s.d.Approvals.Watch(ctx, c)
	if err != nil {
		return err
	}
	defer w.Events.Close()
	if err := open(stream); err != nil {
		return err
	}
	send := func(x approvals.Approval) error {
		return stream.Send(&approvalsv1.WatchApprovalsResponse{Approval: a.s.approvalToProto(x)})
	}
	for _, x := range w.Pending {
		if err := send(x); err != nil {
			return err
		}
	}
	return forward(ctx, w.Events, a.s.stateLost(c), func(e events.Event) error {
		switch p := e.Payload.(type) {
		case approvals.Requested:
			return send(p.Approval)
		case approvals.Changed:
			return send(p.Approval)
		case approvals.Resolved:
			return send(p.Approval)
		}
		return nil
	})
}

func (a *approvalsServer) GetPolicyFile(ctx context.Context, req *approvalsv1.GetPolicyFileRequest) (*approvalsv1.GetPolicyFileResponse, error) {
	return call(ctx, req, nothing, without(a.s.d.Approvals.GetFile), func(out policy.Snapshot) (*approvalsv1.GetPolicyFileResponse, error) {
		f, err := policyToProto(out)
		return &approvalsv1.GetPolicyFileResponse{Policy: f}, err
	})
}

func (a *approvalsServer) SetPolicyFile(ctx context.Context, req *approvalsv1.SetPolicyFileRequest) (*approvalsv1.SetPolicyFileResponse, error) {
	return call(ctx, req, setFileFromProto, a.s.d.Approvals.SetFile, func(out policy.Snapshot) (*approvalsv1.SetPolicyFileResponse, error) {
		f, err := policyToProto(out)
		return &approvalsv1.SetPolicyFileResponse{Policy: f}, err
	})
}

func (a *approvalsServer) GetNodePolicyFile(ctx context.Context, req *approvalsv1.GetNodePolicyFileRequest) (*approvalsv1.GetNodePolicyFileResponse, error) {
	return call(ctx, req, nodeIDFromProto, a.s.d.Approvals.GetNodeFile, func(out []byte) (*approvalsv1.GetNodePolicyFileResponse, error) {
		f, err := nodePolicyToProto(out)
		return &approvalsv1.GetNodePolicyFileResponse{Policy: f}, err
	})
}

func (a *approvalsServer) SetNodePolicyFile(ctx context.Context, req *approvalsv1.SetNodePolicyFileRequest) (*approvalsv1.SetNodePolicyFileResponse, error) {
	return call(ctx, req, setNodeFileFromProto, a.s.d.Approvals.SetNodeFile, func(out []byte) (*approvalsv1.SetNodePolicyFileResponse, error) {
		f, err := nodePolicyToProto(out)
		return &approvalsv1.SetNodePolicyFileResponse{Policy: f}, err
	})
}

// decisions and states pair the domain's words with the contract's. A number that is not here comes
// in as no decision, which the domain refuses.
var (
	decisionsToProto = map[approvals.Decision]approvalsv1.Decision{
		approvals.None:        approvalsv1.Decision_DECISION_UNSPECIFIED,
		approvals.AllowOnce:   approvalsv1.Decision_DECISION_ALLOW_ONCE,
		approvals.AllowAlways: approvalsv1.Decision_DECISION_ALLOW_ALWAYS,
		approvals.Deny:        approvalsv1.Decision_DECISION_DENY,
	}
	decisionsFromProto = map[approvalsv1.Decision]approvals.Decision{
		approvalsv1.Decision_DECISION_ALLOW_ONCE:   approvals.AllowOnce,
		approvalsv1.Decision_DECISION_ALLOW_ALWAYS: approvals.AllowAlways,
		approvalsv1.Decision_DECISION_DENY:         approvals.Deny,
	}
	statesToProto = map[approvals.State]approvalsv1.State{
		approvals.Pending:  approvalsv1.State_STATE_PENDING,
		approvals.Allowed:  approvalsv1.State_STATE_ALLOWED,
		approvals.Denied:   approvalsv1.State_STATE_DENIED,
		approvals.Consumed: approvalsv1.State_STATE_CONSUMED,
		approvals.Expired:  approvalsv1.State_STATE_EXPIRED,
	}
)

func (s *Server) approvalToProto(a approvals.Approval) *approvalsv1.Approval {
	p := &approvalsv1.Approval{
		Id:           cleanText(a.ID),
		State:        statesToProto[a.State],
		Command:      cleanText(a.Command),
		CommandArgv:  cleanTexts(a.CommandArgv),
		EnvKeys:      cleanTexts(a.EnvKeys),
		Cwd:          cleanOpt(a.Cwd),
		NodeId:       cleanOpt(a.NodeID),
		Host:         cleanOpt(a.Host),
		Security:     cleanOpt(a.Security),
		Ask:          cleanOpt(a.Ask),
		AgentId:      cleanOpt(a.AgentID),
		ResolvedPath: cleanOpt(a.ResolvedPath),
		SessionKey:   cleanOpt(a.SessionKey),
		CreatedAt:    timeToProto(a.CreatedAt),
		ExpiresAt:    timeToProto(a.ExpiresAt),
		Decision:     decisionsToProto[a.Decision],
		ResolvedAt:   timeToProto(a.ResolvedAt),
		ResolvedBy:   cleanText(a.ResolvedBy),
		RequestedBy:  cleanText(requesterText(a.Requester)),

		Rule: cleanText(a.Rule), Where: cleanText(a.Where), GrantId: cleanText(a.GrantID),
		Key: cleanText(a.Key), KeyRefused: cleanText(a.KeyRefused), Signs: cleanTexts(a.Signs),
		Quorum: count(a.Quorum), Approvers: cleanTexts(a.Approvers), ExcludeRequester: a.ExcludeRequester,
		OnTimeout: decisionsToProto[a.OnTimeout], EscalateAt: timeToProto(a.EscalateAt),
		EscalateTo: cleanTexts(a.EscalateTo), Escalated: a.Escalated,
	}
	for _, v := range a.Votes {
		p.Votes = append(p.Votes, &approvalsv1.Vote{
			Subject: cleanText(v.Subject), Name: cleanText(v.Name), Decision: decisionsToProto[v.Decision], At: timeToProto(v.At),
		})
	}
	if a.Binding != nil {
		p.Binding = &approvalsv1.Binding{
			Argv:       cleanTexts(a.Binding.Argv),
			Cwd:        cleanOpt(a.Binding.Cwd),
			AgentId:    cleanOpt(a.Binding.AgentID),
			SessionKey: cleanOpt(a.Binding.SessionKey),
			EnvHash:    cleanOpt(a.Binding.EnvHash),
			Unbound:    cleanText(a.Binding.Unbound),
		}
		if call := a.Binding.Call; call != nil {
			p.Binding.Call, p.Binding.CallDigest = cleanText(call.Command), cleanText(call.Digest)
		}
		if i := a.Binding.Identity; i != nil {
			p.Binding.Identity = &approvalsv1.Identity{
				Executable: fileIdentityToProto(i.Executable), Script: fileIdentityToProto(i.Script), Directory: fileIdentityToProto(i.Directory),
				Unbound: cleanTexts(i.Unbound),
			}
			for _, f := range i.Inner {
				p.Binding.Identity.Inner = append(p.Binding.Identity.Inner, &approvalsv1.InnerFile{
					Role: cleanText(f.Role), File: fileIdentityToProto(&f.FileIdentity),
				})
			}
		}
	}
	if a.NodeID != nil {
		p.NodeName = cleanText(s.d.NodeName(*a.NodeID))
	}
	return p
}

func fileIdentityToProto(f *approvals.FileIdentity) *approvalsv1.FileIdentity {
	if f == nil {
		return nil
	}
	return &approvalsv1.FileIdentity{Path: cleanText(f.Path), Device: f.Device, Inode: f.Inode, Sha256: cleanText(f.SHA256)}
}

// requesterText names who asked by what the daemon has verified: device, else local user, else
// connection.
func requesterText(r approvals.Requester) string {
	switch {
	case r.DeviceID != "":
		return "device:" + r.DeviceID
	case r.Principal != "":
		return r.Principal
	case r.ConnID != "":
		return "conn:" + r.ConnID
	}
	return ""
}

func requestFromProto(r *approvalsv1.RequestApprovalRequest) (approvals.RequestIn, error) {
	in := approvals.RequestIn{
		ID:           r.GetId(),
		Command:      r.GetCommand(),
		CommandArgv:  r.GetCommandArgv(),
		Env:          r.GetEnv(),
		Cwd:          r.Cwd,
		NodeID:       r.NodeId,
		Host:         r.Host,
		Security:     r.Security,
		Ask:          r.Ask,
		AgentID:      r.AgentId,
		ResolvedPath: r.ResolvedPath,
		SessionKey:   r.SessionKey,
	}
	if p := r.GetPlan(); p != nil {
		in.Plan = &approvals.Plan{
			Argv: p.GetArgv(), Cwd: p.Cwd, RawCommand: p.RawCommand, AgentID: p.AgentId, SessionKey: p.SessionKey,
		}
	}
	if call := r.GetCall(); call != nil {
		params, err := jsonFromValue(call.GetParams())
		if err != nil {
			return approvals.RequestIn{}, err
		}
		in.Call = &approvals.CallIn{Command: call.GetCommand(), Params: params}
	}
	timeout, err := durationFromProto(r.GetTimeout())
	if err != nil {
		return approvals.RequestIn{}, err
	}
	if timeout != nil {
		if *timeout == 0 { // zero stands for absent in the domain; here it was said
			return approvals.RequestIn{}, approvals.ErrTimeoutRange
		}
		in.Timeout = *timeout
	}
	return in, nil
}

// idFromProto takes the id of the requests that name an approval and nothing else.
func idFromProto[R interface{ GetId() string }](r R) (string, error) { return r.GetId(), nil }

func nodeIDFromProto(r *approvalsv1.GetNodePolicyFileRequest) (string, error) {
	return r.GetNodeId(), nil
}

func resolveFromProto(r *approvalsv1.ResolveApprovalRequest) (approvals.ResolveIn, error) {
	grant, err := grantFromProto(r.GetGrant())
	return approvals.ResolveIn{ID: r.GetId(), Decision: decisionsFromProto[r.GetDecision()], Grant: grant}, err
}

func listApprovalsFromProto(r *approvalsv1.ListApprovalsRequest) (approvals.ListIn, error) {
	return approvals.ListIn{All: r.GetAll(), Like: r.GetLike()}, nil
}

func setFileFromProto(r *approvalsv1.SetPolicyFileRequest) (approvals.SetFileIn, error) {
	file, err := jsonFromStruct(r.GetFile())
	return approvals.SetFileIn{File: file, BaseHash: r.GetBaseHash()}, err
}

func setNodeFileFromProto(r *approvalsv1.SetNodePolicyFileRequest) (approvals.SetNodeFileIn, error) {
	file, err := jsonFromStruct(r.GetFile())
	return approvals.SetNodeFileIn{NodeID: r.GetNodeId(), File: file, BaseHash: r.GetBaseHash()}, err
}

func policyToProto(f policy.Snapshot) (*approvalsv1.PolicyFile, error) {
	file, err := structFromJSON(f.File)
	if err != nil {
		return nil, errFile.Wrap(err)
	}
	return &approvalsv1.PolicyFile{Path: f.Path, Exists: f.Exists, Hash: f.Hash, File: file}, nil
}

// nodePolicyToProto reads a node's answer, which is JSON text in the frozen shape
// {path, exists, hash, file}.
func nodePolicyToProto(answer []byte) (*approvalsv1.PolicyFile, error) {
	var in struct {
		Path   string          `json:"path"`
		Exists bool            `json:"exists"`
		Hash   string          `json:"hash"`
		File   json.RawMessage `json:"file"`
	}
	if err := json.Unmarshal(answer, &in); err != nil {
		return nil, errNodeFile.Wrap(err)
	}
	if string(in.File) == "null" {
		in.File = nil
	}
	file, err := structFromJSON(in.File)
	if err != nil {
		return nil, errNodeFile.Wrap(err)
	}
	return &approvalsv1.PolicyFile{Path: in.Path, Exists: in.Exists, Hash: in.Hash, File: file}, nil
}
