package methods

import (
	"strings"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/compat/wire"
)

type planParams struct {
	Argv       []string         `json:"argv"`
	Cwd        wire.Opt[string] `json:"cwd"`
	RawCommand wire.Opt[string] `json:"rawCommand"`
	AgentID    wire.Opt[string] `json:"agentId"`
	SessionKey wire.Opt[string] `json:"sessionKey"`
}

type approvalRequestParams struct {
	ID                  wire.Opt[string]     `json:"id"`
	Command             string               `json:"command"`
	CommandArgv         []string             `json:"commandArgv"`
	SystemRunPlan       wire.Opt[planParams] `json:"systemRunPlan"`
	Env                 wire.Value           `json:"env"`
	Cwd                 wire.Opt[string]     `json:"cwd"`
	NodeID              wire.Opt[string]     `json:"nodeId"`
	Host                wire.Opt[string]     `json:"host"`
	Security            wire.Opt[string]     `json:"security"`
	Ask                 wire.Opt[string]     `json:"ask"`
	AgentID             wire.Opt[string]     `json:"agentId"`
	ResolvedPath        wire.Opt[string]     `json:"resolvedPath"`
	SessionKey          wire.Opt[string]     `json:"sessionKey"`
	TurnSourceChannel   wire.Opt[string]     `json:"turnSourceChannel"`
	TurnSourceTo        wire.Opt[string]     `json:"turnSourceTo"`
	TurnSourceAccountID wire.Opt[string]     `json:"turnSourceAccountId"`
	TurnSourceThreadID  wire.Value           `json:"turnSourceThreadId"`
	TimeoutMs           wire.Opt[wire.Int]   `json:"timeoutMs"`
	TwoPhase            wire.Opt[bool]       `json:"twoPhase"`
}

// ApprovalRequestFromLegacy reads exec.approval.request, and whether it wants two answers.
func ApprovalRequestFromLegacy(p wire.Value) (in approvals.RequestIn, twoPhase bool, err error) {
	var r approvalRequestParams
	if err := wire.Decode(p, &r); err != nil {
		return approvals.RequestIn{}, false, err
	}
	in = approvals.RequestIn{
		ID: r.ID.Or(""), Command: r.Command, CommandArgv: r.CommandArgv,
		Cwd: ptr(r.Cwd), NodeID: ptr(r.NodeID), Host: ptr(r.Host), Security: ptr(r.Security),
		Ask: ptr(r.Ask), AgentID: ptr(r.AgentID), ResolvedPath: ptr(r.ResolvedPath),
		SessionKey: ptr(r.SessionKey),
		TurnSource: approvals.TurnSource{
			Channel: ptr(r.TurnSourceChannel), To: ptr(r.TurnSourceTo), AccountID: ptr(r.TurnSourceAccountID),
		},
	}
	if plan, ok := r.SystemRunPlan.Get(); ok {
		in.Plan = &approvals.Plan{
			Argv: plan.Argv, Cwd: ptr(plan.Cwd), RawCommand: ptr(plan.RawCommand),
			AgentID: ptr(plan.AgentID), SessionKey: ptr(plan.SessionKey),
		}
	}
	if r.Env.Kind() == wire.Object {
		in.Env = map[string]string{}
		for k, v := range r.Env.Members() {
			if v.Kind() == wire.String {
				in.Env[k] = v.Str()
			}
		}
	}
	switch v := r.TurnSourceThreadID; v.Kind() {
	case wire.String:
		in.TurnSource.ThreadID = v.Str()
	case wire.Number:
		in.TurnSource.ThreadID = v.Num()
	}
	if t, ok := r.TimeoutMs.Get(); ok {
		in.Timeout = min(millis(int64(t)), approvals.MaxTimeout)
	}
	return in, r.TwoPhase.Or(false), nil
}

type approvalAccepted struct {
	Status      string `json:"status"`
	ID          string `json:"id"`
	CreatedAtMs int64  `json:"createdAtMs"`
	ExpiresAtMs int64  `json:"expiresAtMs"`
}

// ApprovalAcceptedToLegacy writes the first answer of a two-phase request.
func ApprovalAcceptedToLegacy(a approvals.Approval) any {
	return approvalAccepted{Status: "accepted", ID: a.ID, CreatedAtMs: ms(a.CreatedAt), ExpiresAtMs: ms(a.ExpiresAt)}
}

type approvalDecided struct {
	ID          string           `json:"id"`
	Decision    wire.Opt[string] `json:"decision"`
	CreatedAtMs int64            `json:"createdAtMs"`
	ExpiresAtMs int64            `json:"expiresAtMs"`
}

// ApprovalDecidedToLegacy writes the final answer: no decision is null.
func ApprovalDecidedToLegacy(a approvals.Approval) any {
	out := approvalDecided{
		ID: a.ID, Decision: wire.NullOf[string](), CreatedAtMs: ms(a.CreatedAt), ExpiresAtMs: ms(a.ExpiresAt),
	}
	if a.Decision != approvals.None {
		out.Decision = wire.Some(string(a.Decision))
	}
	return out
}

// ApprovalWaitFromLegacy reads exec.approval.waitDecision, which has no schema.
func ApprovalWaitFromLegacy(p wire.Value) (string, error) {
	id, _ := p.Get("id")
	if id.Kind() != wire.String {
		return "", nil
	}
	return strings.TrimSpace(id.Str()), nil
}

type approvalResolveParams struct {
	ID       string `json:"id"`
	Decision string `json:"decision"`
}

// ApprovalResolveFromLegacy reads exec.approval.resolve.
func ApprovalResolveFromLegacy(p wire.Value) (approvals.ResolveIn, error) {
	var in approvalResolveParams
	err := wire.Decode(p, &in)
	return approvals.ResolveIn{ID: in.ID, Decision: approvals.Decision(in.Decision), GrantOptional: true}, err
}

// ApprovalResolveToLegacy writes the result of exec.approval.resolve.
func ApprovalResolveToLegacy(approvals.Approval) any { return OK{true} }

type bindingShape struct {
	Argv       wire.List[string] `json:"argv"`
	Cwd        wire.Opt[string]  `json:"cwd"`
	AgentID    wire.Opt[string]  `json:"agentId"`
	SessionKey wire.Opt[string]  `json:"sessionKey"`
	EnvHash    wire.Opt[string]  `json:"envHash"`
}

type planShape struct {
	Argv       wire.List[string] `json:"argv"`
	Cwd        wire.Opt[string]  `json:"cwd"`
	RawCommand wire.Opt[string]  `json:"rawCommand"`
	AgentID    wire.Opt[string]  `json:"agentId"`
	SessionKey wire.Opt[string]  `json:"sessionKey"`
}

// requestShape is the request as events carry it: nearly everything is spelled out, if only as
// null (nodes-approvals.md §3.16).
type requestShape struct {
	Command             string                 `json:"command"`
	CommandArgv         []string               `json:"commandArgv,omitempty"`
	EnvKeys             []string               `json:"envKeys,omitempty"`
	SystemRunBinding    wire.Opt[bindingShape] `json:"systemRunBinding"`
	SystemRunPlan       wire.Opt[planShape]    `json:"systemRunPlan"`
	Cwd                 wire.Opt[string]       `json:"cwd"`
	NodeID              wire.Opt[string]       `json:"nodeId"`
	Host                wire.Opt[string]       `json:"host"`
	Security            wire.Opt[string]       `json:"security"`
	Ask                 wire.Opt[string]       `json:"ask"`
	AgentID             wire.Opt[string]       `json:"agentId"`
	ResolvedPath        wire.Opt[string]       `json:"resolvedPath"`
	SessionKey          wire.Opt[string]       `json:"sessionKey"`
	TurnSourceChannel   wire.Opt[string]       `json:"turnSourceChannel"`
	TurnSourceTo        wire.Opt[string]       `json:"turnSourceTo"`
	TurnSourceAccountID wire.Opt[string]       `json:"turnSourceAccountId"`
	TurnSourceThreadID  any                    `json:"turnSourceThreadId"`
}

func requestToLegacy(a approvals.Approval) requestShape {
	out := requestShape{
		Command: a.Command, CommandArgv: a.CommandArgv, EnvKeys: a.EnvKeys,
		SystemRunBinding: wire.NullOf[bindingShape](), SystemRunPlan: wire.NullOf[planShape](),
		Cwd: null(a.Cwd), NodeID: null(a.NodeID), Host: null(a.Host), Security: null(a.Security),
		Ask: null(a.Ask), AgentID: null(a.AgentID), ResolvedPath: null(a.ResolvedPath),
		SessionKey: null(a.SessionKey), TurnSourceChannel: null(a.TurnSource.Channel),
		TurnSourceTo: null(a.TurnSource.To), TurnSourceAccountID: null(a.TurnSource.AccountID),
		TurnSourceThreadID: a.TurnSource.ThreadID,
	}
	if f, ok := a.TurnSource.ThreadID.(float64); ok {
		out.TurnSourceThreadID = wire.Raw(wire.AppendNumber(nil, f))
	}
	if b := a.Binding; b != nil {
		out.SystemRunBinding = wire.Some(bindingShape{
			Argv: b.Argv, Cwd: null(b.Cwd), AgentID: null(b.AgentID), SessionKey: null(b.SessionKey), EnvHash: null(b.EnvHash),
		})
	}
	if p := a.Plan; p != nil {
		out.SystemRunPlan = wire.Some(planShape{
			Argv: p.Argv, Cwd: null(p.Cwd), RawCommand: null(p.RawCommand), AgentID: null(p.AgentID), SessionKey: null(p.SessionKey),
		})
	}
	return out
}

type approvalRequested struct {
	ID          string       `json:"id"`
	Request     requestShape `json:"request"`
	CreatedAtMs int64        `json:"createdAtMs"`
	ExpiresAtMs int64        `json:"expiresAtMs"`
}

// ApprovalRequestedToLegacy writes the payload of the event exec.approval.requested.
func ApprovalRequestedToLegacy(e approvals.Requested) any {
	a := e.Approval
	return approvalRequested{ID: a.ID, Request: requestToLegacy(a), CreatedAtMs: ms(a.CreatedAt), ExpiresAtMs: ms(a.ExpiresAt)}
}

type approvalResolved struct {
	ID         string           `json:"id"`
	Decision   string           `json:"decision"`
	ResolvedBy wire.Opt[string] `json:"resolvedBy"`
	TS         int64            `json:"ts"`
	Request    requestShape     `json:"request"`
}

// ApprovalResolvedToLegacy writes the payload of the event exec.approval.resolved.
func ApprovalResolvedToLegacy(e approvals.Resolved) any {
	a := e.Approval
	return approvalResolved{
		ID: a.ID, Decision: string(a.Decision), ResolvedBy: wire.SomeOrNull(&a.ResolvedBy),
		TS: ms(a.ResolvedAt), Request: requestToLegacy(a),
	}
}

type voteShape struct {
	Subject  string `json:"subject"`
	Name     string `json:"name"`
	Decision string `json:"decision"`
	TS       int64  `json:"ts"`
}

type approvalChanged struct {
	ID          string               `json:"id"`
	Request     requestShape         `json:"request"`
	CreatedAtMs int64                `json:"createdAtMs"`
	ExpiresAtMs int64                `json:"expiresAtMs"`
	Quorum      int                  `json:"quorum,omitempty"`
	Votes       wire.List[voteShape] `json:"votes"`
	Escalated   bool                 `json:"escalated"`
}

// ApprovalChangedToLegacy writes the payload of the event exec.approval.changed, which only the other
// doors deliver.
func ApprovalChangedToLegacy(e approvals.Changed) any {
	a := e.Approval
	out := approvalChanged{
		ID: a.ID, Request: requestToLegacy(a), CreatedAtMs: ms(a.CreatedAt), ExpiresAtMs: ms(a.ExpiresAt),
		Quorum: a.Quorum, Escalated: a.Escalated,
	}
	for _, v := range a.Votes {
		out.Votes = append(out.Votes, voteShape{v.Subject, v.Name, string(v.Decision), ms(v.At)})
	}
	return out
}

type grantChanged struct {
	ID      string `json:"id"`
	State   string `json:"state"`
	Command string `json:"command"`
	NodeID  string `json:"nodeId,omitempty"`
	Uses    int    `json:"uses"`
	MaxUses int    `json:"maxUses,omitempty"`
}

// GrantChangedToLegacy writes the payload of the event grant.changed, which only the other doors
// deliver.
func GrantChangedToLegacy(e approvals.GrantChanged) any {
	g := e.Grant.Grant
	return grantChanged{ID: g.ID, State: string(e.Grant.State), Command: g.Command, NodeID: g.NodeID, Uses: g.Uses, MaxUses: g.MaxUses}
}

type policyFile struct {
	Path   string   `json:"path"`
	Exists bool     `json:"exists"`
	Hash   string   `json:"hash"`
	File   wire.Raw `json:"file"`
}

// PolicyFileToLegacy writes the result of exec.approvals.get and set.
func PolicyFileToLegacy(s policy.Snapshot) any {
	return policyFile{Path: s.Path, Exists: s.Exists, Hash: s.Hash, File: s.File}
}

type policySetParams struct {
	NodeID   wire.Opt[string] `json:"nodeId"`
	File     wire.Value       `json:"file"`
	BaseHash wire.Opt[string] `json:"baseHash"`
}

// PolicySetFromLegacy reads exec.approvals.set.
func PolicySetFromLegacy(p wire.Value) (approvals.SetFileIn, error) {
	var in policySetParams
	err := wire.Decode(p, &in)
	return approvals.SetFileIn{File: wire.Stringify(in.File), BaseHash: in.BaseHash.Or("")}, err
}

// NodePolicySetFromLegacy reads exec.approvals.node.set.
func NodePolicySetFromLegacy(p wire.Value) (approvals.SetNodeFileIn, error) {
	var in policySetParams
	err := wire.Decode(p, &in)
	return approvals.SetNodeFileIn{NodeID: in.NodeID.Or(""), File: wire.Stringify(in.File), BaseHash: in.BaseHash.Or("")}, err
}

// NodePolicyGetFromLegacy reads exec.approvals.node.get.
func NodePolicyGetFromLegacy(p wire.Value) (string, error) {
	var in nodeIDParams
	err := wire.Decode(p, &in)
	return in.NodeID, err
}

// NodePolicyToLegacy passes a node's answer on as it is.
func NodePolicyToLegacy(out []byte) any {
	if len(out) == 0 {
		return nil
	}
	return wire.Raw(out)
}
