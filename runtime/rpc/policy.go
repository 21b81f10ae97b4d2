package rpc

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	"github.com/hanzoai/hanzod/identity"
)

// Policy is what the door needs of approvals.PolicyService.
type Policy interface {
	GetRules(context.Context, identity.Caller) (approvals.RulesOut, error)
	SetRules(context.Context, identity.Caller, approvals.SetRulesIn) (approvals.RulesOut, error)
	ExplainPolicy(context.Context, identity.Caller, approvals.PolicyRun) (approvals.Explanation, error)
	TestPolicy(context.Context, identity.Caller, approvals.TestPolicyIn) (approvals.TestPolicyOut, error)
	SimulatePolicy(context.Context, identity.Caller, approvals.SimulateIn) (approvals.SimulateOut, error)
}

type policyServer struct {
	approvalsv1.UnimplementedPolicyServiceServer
	s *Server
}

func (p *policyServer) GetRules(ctx context.Context, req *approvalsv1.GetRulesRequest) (*approvalsv1.GetRulesResponse, error) {
	return call(ctx, req, nothing, without(p.s.d.Policy.GetRules), func(out approvals.RulesOut) (*approvalsv1.GetRulesResponse, error) {
		return &approvalsv1.GetRulesResponse{Rules: rulesToProto(out)}, nil
	})
}

func (p *policyServer) SetRules(ctx context.Context, req *approvalsv1.SetRulesRequest) (*approvalsv1.SetRulesResponse, error) {
	return call(ctx, req, setRulesFromProto, p.s.d.Policy.SetRules, func(out approvals.RulesOut) (*approvalsv1.SetRulesResponse, error) {
		return &approvalsv1.SetRulesResponse{Rules: rulesToProto(out)}, nil
	})
}

func (p *policyServer) ExplainPolicy(ctx context.Context, req *approvalsv1.ExplainPolicyRequest) (*approvalsv1.ExplainPolicyResponse, error) {
	return call(ctx, req, explainFromProto, p.s.d.Policy.ExplainPolicy, explanationToProto)
}

func (p *policyServer) TestPolicy(ctx context.Context, req *approvalsv1.TestPolicyRequest) (*approvalsv1.TestPolicyResponse, error) {
	return call(ctx, req, testFromProto, p.s.d.Policy.TestPolicy, testToProto)
}

func (p *policyServer) SimulatePolicy(ctx context.Context, req *approvalsv1.SimulatePolicyRequest) (*approvalsv1.SimulatePolicyResponse, error) {
	return call(ctx, req, simulateFromProto, p.s.d.Policy.SimulatePolicy, simulationToProto)
}

var effectsToProto = map[policy.Effect]approvalsv1.Effect{
	policy.Abstain:     approvalsv1.Effect_EFFECT_UNSPECIFIED,
	policy.EffectAllow: approvalsv1.Effect_EFFECT_ALLOW,
	policy.EffectAsk:   approvalsv1.Effect_EFFECT_ASK,
	policy.EffectDeny:  approvalsv1.Effect_EFFECT_DENY,
}

var verdictsToProto = map[approvals.Verdict]approvalsv1.Verdict{
	approvals.VerdictUnknown: approvalsv1.Verdict_VERDICT_UNSPECIFIED,
	approvals.VerdictRun:     approvalsv1.Verdict_VERDICT_RUN,
	approvals.VerdictAsk:     approvalsv1.Verdict_VERDICT_ASK,
	approvals.VerdictDeny:    approvalsv1.Verdict_VERDICT_DENY,
}

func rulesToProto(r approvals.RulesOut) *approvalsv1.Rules {
	return &approvalsv1.Rules{
		Path: cleanText(r.State.Path), Exists: r.Exists, Text: cleanText(string(r.Text)), Hash: r.Hash,
		ActiveHash: r.State.Hash, ActiveRules: clampInt32(r.State.Count), ActiveSince: timeToProto(r.State.Since),
		Fault: cleanText(r.State.Fault), Closed: r.State.Closed,
	}
}

func setRulesFromProto(r *approvalsv1.SetRulesRequest) (approvals.SetRulesIn, error) {
	return approvals.SetRulesIn{Text: []byte(r.GetText()), BaseHash: r.GetBaseHash()}, nil
}

func explainFromProto(r *approvalsv1.ExplainPolicyRequest) (approvals.PolicyRun, error) {
	return runFromProto(r.GetRun())
}

func runFromProto(r *approvalsv1.Run) (approvals.PolicyRun, error) {
	out := approvals.PolicyRun{
		Argv: r.GetArgv(), Line: r.GetLine(), AgentID: r.GetAgentId(), SessionKey: r.GetSessionKey(),
		NodeID: r.GetNodeId(), Cwd: r.GetCwd(), EnvKeys: r.GetEnvKeys(),
	}
	if at := r.GetAt(); at != nil {
		if err := at.CheckValid(); err != nil {
			return approvals.PolicyRun{}, errTime.Wrap(err)
		}
		out.At = at.AsTime()
	}
	return out, nil
}

func explanationToProto(e approvals.Explanation) (*approvalsv1.ExplainPolicyResponse, error) {
	out := &approvalsv1.ExplainPolicyResponse{
		Verdict: verdictsToProto[e.Verdict], Text: cleanText(e.Text), Rule: cleanText(e.Rule), Where: cleanText(e.Where),
		Effect: effectsToProto[e.Ruling.Effect], RulesPath: cleanText(e.Rules.Path), RulesHash: e.Rules.Hash, RulesFault: cleanText(e.Rules.Fault),
		RulesClosed: e.Rules.Closed, EnvDropped: cleanTexts(e.EnvDropped),
	}
	if r := e.Ruling; r.Effect == policy.EffectAsk {
		out.Terms = &approvalsv1.AskTerms{
			OnTimeout: effectsToProto[r.OnTimeout], Quorum: clampInt32(r.Quorum), Approvers: cleanTexts(r.Approvers),
			ExcludeRequester: r.ExcludeRequester, EscalateTo: cleanTexts(r.EscalateTo),
		}
		if r.Timeout > 0 {
			out.Terms.Timeout = durationpb.New(r.Timeout)
		}
		if r.EscalateAfter > 0 {
			out.Terms.EscalateAfter = durationpb.New(r.EscalateAfter)
		}
	}
	for _, s := range e.Steps {
		out.Steps = append(out.Steps, &approvalsv1.Step{
			Rule: cleanText(s.Rule), Where: cleanText(s.Where), Effect: effectsToProto[s.Effect], Fits: s.Fits, Why: cleanText(s.Why),
		})
	}
	for _, g := range e.Grants {
		out.Grants = append(out.Grants, &approvalsv1.CoveringGrant{Id: cleanText(g.ID), Text: cleanText(g.Text)})
	}
	if m := e.Machine; m != nil {
		out.File = &approvalsv1.MachineFile{
			Asked: m.Asked, Why: cleanText(m.Why), Path: cleanText(m.Path), Hash: cleanText(m.Hash), Security: cleanText(string(m.Security)),
			Ask: cleanText(string(m.Ask)), Rule: cleanText(m.Rule), Where: cleanText(m.Where), Verdict: verdictsToProto[m.Verdict],
			Text: cleanText(m.Message), Exact: m.Exact,
		}
	}
	return out, nil
}

func testFromProto(r *approvalsv1.TestPolicyRequest) (approvals.TestPolicyIn, error) {
	in := approvals.TestPolicyIn{Name: r.GetName()}
	if r.Rules != nil {
		in.Rules = []byte(r.GetRules())
	}
	for _, c := range r.GetCases() {
		run, err := runFromProto(c.GetRun())
		if err != nil {
			return approvals.TestPolicyIn{}, err
		}
		in.Cases = append(in.Cases, approvals.PolicyCase{Run: run, Expect: c.GetExpect(), Rule: c.GetRule()})
	}
	return in, nil
}

func testToProto(t approvals.TestPolicyOut) (*approvalsv1.TestPolicyResponse, error) {
	out := &approvalsv1.TestPolicyResponse{Failed: clampInt32(t.Failed), Rules: clampInt32(t.Rules), Hash: t.Hash}
	for _, r := range t.Results {
		out.Results = append(out.Results, &approvalsv1.PolicyCaseResult{
			Ok: r.OK, Effect: effectsToProto[r.Effect], Rule: cleanText(r.Rule), Where: cleanText(r.Where), Why: cleanText(r.Why),
		})
	}
	return out, nil
}

func simulateFromProto(r *approvalsv1.SimulatePolicyRequest) (approvals.SimulateIn, error) {
	in := approvals.SimulateIn{Rules: []byte(r.GetRules()), Name: r.GetName(), Limit: int(r.GetLimit())}
	since, err := durationFromProto(r.GetSince())
	if since != nil {
		in.Since = *since
	}
	return in, err
}

func simulationToProto(s approvals.SimulateOut) (*approvalsv1.SimulatePolicyResponse, error) {
	out := &approvalsv1.SimulatePolicyResponse{
		Runs: clampInt32(s.Runs), Same: clampInt32(s.Same), Allow: clampInt32(s.Allow), Ask: clampInt32(s.Ask), Deny: clampInt32(s.Deny),
		None: clampInt32(s.None), More: s.More, Unknown: clampInt32(s.Unknown),
	}
	for _, c := range s.Changes {
		out.Changes = append(out.Changes, &approvalsv1.PolicyChange{
			Seq: c.Seq, At: timeToProto(c.At), Subject: cleanText(c.Subject), NodeId: cleanText(c.NodeID),
			AgentId: cleanText(c.AgentID), Command: cleanText(c.Command), Was: c.Was, WasBy: cleanText(c.WasBy),
			Now: effectsToProto[c.Now], Rule: cleanText(c.Rule), Where: cleanText(c.Where),
		})
	}
	return out, nil
}
