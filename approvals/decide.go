package approvals

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// authority is what answers in the place of a person: a grant or a rule.
type authority struct {
	grantID string
	ruling  policy.Ruling
}

// name is how it is shown, subject how it is recorded.
func (a authority) name() string {
	if a.grantID != "" {
		return "grant " + a.grantID
	}
	return "rule " + a.ruling.Rule
}

func (a authority) subject() string {
	if a.grantID != "" {
		return "grant:" + a.grantID
	}
	return "rule:" + a.ruling.Rule
}

// mark puts the authority in a row.
func (a authority) mark(row Audit) Audit {
	if a.grantID != "" {
		row.Rule = a.name()
	} else {
		row.Rule, row.Where = a.ruling.Rule, a.ruling.Where
	}
	row.Policy = a.ruling.Rules
	return row
}

// allow decides an approval.
func (a authority) allow(x *Approval, now time.Time) {
	x.State, x.Decision, x.ResolvedAt = Allowed, AllowOnce, now
	x.ResolvedBy, x.ResolvedBySubject = a.name(), a.subject()
	x.GrantID = a.grantID
	if a.grantID == "" {
		x.Rule, x.Where = a.ruling.Rule, a.ruling.Where
	}
}

// nodeFacts is what the rules are told about a node, where the nodes know it.
type nodeFacts interface {
	Look(id string) (name, platform string)
}

// resolver is what knows the ids of nodes, where the nodes do: callers with a tenant leave that out.
type resolver interface {
	Resolve(c identity.Caller, id string) string
}

// query is what the rules are asked about a run.
func (s *Service) query(t attempt) policy.Query {
	q := policy.Query{
		Argv: t.argv, Text: t.text, Cwd: text(t.cwd), AgentID: text(t.agent), SessionKey: text(t.session),
		NodeID: t.nodeID, Host: "node", At: s.now(),
	}
	if t.nodeID == "" {
		q.Host = "gateway"
		return q
	}
	if n, ok := s.nodes.(nodeFacts); ok {
		q.NodeName, q.Platform = n.Look(t.nodeID)
	}
	return q
}

// attemptOf is the run that an approval is about.
func attemptOf(a Approval, by Party) attempt {
	t := attempt{argv: argvOf(a), text: a.Command, nodeID: text(a.NodeID), agent: a.AgentID, session: a.SessionKey, cwd: a.Cwd, by: by, tenant: a.Requester.Tenant}
	if a.Binding != nil {
		t.envHash = a.Binding.EnvHash
	}
	return t
}

// rule asks the rules about a run.
func (s *Service) rule(t attempt) policy.Ruling {
	if !s.ruled() {
		return policy.Ruling{}
	}
	return s.rules.Decide(s.query(t))
}

// ruled reports whether there are rules at all.
func (s *Service) ruled() bool {
	_, none := s.rules.(noRules)
	return !none
}

// granted reports whether there is any grant for a node, "" for the gateway host.
func (s *Service) granted(nodeID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.grants.byNode[nodeID]) > 0
}

func deniedBy(r policy.Ruling) *errs.Error { return byRule(ErrRuleDenies, r) }

// byRule names the rule in a refusal.
func byRule(e *errs.Error, r policy.Ruling) *errs.Error {
	where := r.Rule
	if r.Where != "" {
		where += " at " + r.Where
	}
	if r.Reason != "" {
		where += ": " + r.Reason
	}
	return e.With("rule", r.Rule, "where", r.Where).WithText(e.Text + " (rule " + where + ")")
}

// terms writes what a rule that asks demands into the question.
func terms(a *Approval, r policy.Ruling) {
	a.Rule, a.Where = r.Rule, r.Where
	if r.Timeout > 0 {
		a.ExpiresAt = a.CreatedAt.Add(min(r.Timeout, MaxTimeout))
	}
	if r.Quorum > 1 {
		a.Quorum = min(r.Quorum, maxVotes)
	}
	a.Approvers = slices.Clone(r.Approvers)
	a.ExcludeRequester = r.ExcludeRequester
	switch r.OnTimeout {
	case policy.EffectDeny:
		a.OnTimeout = Deny
	case policy.EffectAllow:
		// What looks obfuscated does not run because nobody looked.
		if a.OnTimeout = AllowOnce; len(a.Signs) > 0 {
			a.OnTimeout = Deny
		}
	}
	if r.EscalateAfter > 0 && r.EscalateAfter < a.ExpiresAt.Sub(a.CreatedAt) {
		a.EscalateAt = a.CreatedAt.Add(r.EscalateAfter)
		a.EscalateTo = slices.Clone(r.EscalateTo)
	}
}

// requestAllowed creates an approval that a grant or a rule has answered already. It fails with
// errGrantGone when the grant ended meanwhile.
func (s *Service) requestAllowed(ctx context.Context, c identity.Caller, asked Approval, by authority) (Approval, error) {
	now := s.now()
	a := asked
	by.allow(&a, now)
	request := s.row(AuditRequest, c, asked)
	decision := by.mark(s.row(AuditDecision, c, a))
	decision.Subject = by.subject()
	var g Grant
	err := s.store.Transact(ctx, func(tx Tx) (err error) {
		if by.grantID != "" {
			if g, err = s.take(tx, by.grantID, now); err != nil {
				return err
			}
		}
		if err := tx.CreateApproval(a); err != nil {
			return err
		}
		if err := tx.Audit(request); err != nil {
			return err
		}
		return tx.Audit(decision)
	})
	if err != nil {
		return Approval{}, err
	}
	s.update(a)
	s.bus.Publish("exec.approval.requested", Requested{Approval: asked})
	s.bus.Publish("exec.approval.resolved", Resolved{Approval: a})
	if by.grantID != "" {
		s.tellGrant(g)
	}
	return a, nil
}

// guardUnclaimed is GuardRun of a run that does not claim to be approved. ok is false when neither
// rules nor grants say anything about it: the node's own file decides then.
func (s *Service) guardUnclaimed(ctx context.Context, c identity.Caller, nodeID string, p runParams, cmd policy.Command) (_ []byte, _ func(bool, []byte, error), ok bool, _ error) {
	if len(cmd.Argv) == 0 || !s.ruled() && !s.granted(nodeID) {
		return nil, nil, false, nil
	}
	t := attempt{argv: cmd.Argv, text: cmd.Text, nodeID: nodeID, by: partyOf(c), tenant: c.Tenant}
	for key, to := range map[string]**string{"cwd": &t.cwd, "agentId": &t.agent, "sessionKey": &t.session} {
		if v, ok := p.text(key); ok {
			*to = &v
		}
	}
	env, envErr := p.exactEnv()
	t.envHash, _ = policy.EnvHash(env)
	r := s.rule(t)
	if r.Effect == policy.EffectDeny {
		return nil, nil, true, s.refusedByRule(ctx, c, p, nodeID, deniedBy(r), r)
	}
	var grants []Grant
	if envErr == nil { // what is not one environment is covered by nothing
		grants = s.covering(&t, r)
	}
	var bound Approval // the run with its files, once the node was asked for them
	for _, g := range grants {
		a := s.approvalOf(c, cmd, t, env)
		if g.Files != nil {
			if bound.Binding == nil {
				bound = a
				if err := s.bind(ctx, &bound); err != nil {
					if ctx.Err() != nil {
						return nil, nil, true, err
					}
					bound.Binding.Identity = nil // whoever asks for an approval hears why
				}
			}
			if a = bound; !g.sameFiles(a.Binding.Identity) {
				continue // what was allowed is not what would run
			}
		}
		params, done, err := s.runUnder(ctx, c, p, a, env, authority{g.ID, r})
		if !errors.Is(err, errGrantGone) {
			return params, done, true, err
		}
	}
	switch {
	case r.Effect == policy.EffectAllow && envErr != nil:
		return nil, nil, true, s.refusedUnread(ctx, c, nodeID, p, envErr)
	case r.Effect == policy.EffectAllow && len(t.suspicious()) == 0:
		params, done, err := s.runUnder(ctx, c, p, s.approvalOf(c, cmd, t, env), env, authority{ruling: r})
		return params, done, true, err
	case r.Effect == policy.EffectAllow, r.Effect == policy.EffectAsk:
		return nil, nil, true, s.refusedByRule(ctx, c, p, nodeID, byRule(ErrRuleAsks, r), r)
	}
	return nil, nil, false, nil
}

// approvalOf is the approval that a run without one would have.
func (s *Service) approvalOf(c identity.Caller, cmd policy.Command, t attempt, env map[string]string) Approval {
	now := s.now()
	host := "node"
	a := Approval{
		ID: uuid.NewString(), Command: cmd.Text, CommandArgv: cmd.Argv, Cwd: t.cwd, NodeID: &t.nodeID, Host: &host,
		AgentID: t.agent, SessionKey: t.session, CreatedAt: now, ExpiresAt: now.Add(DefaultTimeout), Requester: requesterOf(c),
		Plan:    &Plan{Argv: cmd.Argv, Cwd: t.cwd, RawCommand: cmd.Raw, AgentID: t.agent, SessionKey: t.session},
		Binding: &Binding{Argv: cmd.Argv, Cwd: t.cwd, AgentID: t.agent, SessionKey: t.session, EnvHash: t.envHash},
	}
	_, a.EnvKeys = policy.EnvHash(env)
	return a
}

// runUnder lets a run go out that a grant or a rule allows: as an approval that is used at once. What is
// sent is what was looked at.
func (s *Service) runUnder(ctx context.Context, c identity.Caller, p runParams, a Approval, env map[string]string, by authority) ([]byte, func(bool, []byte, error), error) {
	now := s.now()
	by.allow(&a, now)
	a.State, a.Uses, a.LastUsedAt = Consumed, 1, now
	use := by.mark(s.useRow(c, *a.NodeID, p))
	use.RunID, use.ApprovalID, use.Decision, use.BindingHash = newRun(), a.ID, a.Decision, bindingHash(a.Binding)
	var g Grant
	err := s.store.Transact(ctx, func(tx Tx) (err error) {
		if by.grantID != "" {
			if g, err = s.take(tx, by.grantID, now); err != nil {
				return err
			}
		}
		if err := tx.CreateApproval(a); err != nil {
			return err
		}
		return tx.Audit(use)
	})
	if err != nil {
		return nil, nil, err
	}
	if by.grantID != "" {
		s.tellGrant(g)
	}
	if files := a.Binding.Identity; files != nil {
		if err := p.set("binding", encodeIdentity(*files)); err != nil {
			return nil, nil, err
		}
	}
	params, err := p.approve(*a.Plan, env, a)
	return params, s.begun(use), err
}

// approve rewrites the parameters of a run to what is approved.
func (p *runParams) approve(plan Plan, env map[string]string, a Approval) ([]byte, error) {
	if err := p.set("command", plan.Argv); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		key string
		v   *string
	}{
		{"rawCommand", plan.RawCommand}, {"cwd", plan.Cwd}, {"agentId", plan.AgentID}, {"sessionKey", plan.SessionKey},
	} {
		if err := p.setOr(f.key, f.v); err != nil {
			return nil, err
		}
	}
	if len(env) == 0 {
		p.keys = slices.DeleteFunc(p.keys, func(k string) bool { return k == "env" })
	} else if err := p.set("env", env); err != nil {
		return nil, err
	}
	if id, _ := p.text("runId"); strings.TrimSpace(id) == "" {
		if err := p.set("runId", a.ID); err != nil {
			return nil, err
		}
	}
	if err := p.set("approved", true); err != nil {
		return nil, err
	}
	if err := p.set("approvalDecision", string(a.Decision)); err != nil {
		return nil, err
	}
	return p.encode(), nil
}

// refusedByRule leaves a row for a run that a rule stopped.
func (s *Service) refusedByRule(ctx context.Context, c identity.Caller, p runParams, nodeID string, e *errs.Error, r policy.Ruling) error {
	row := s.useRow(c, nodeID, p)
	row.Kind, row.Reason, row.Detail = AuditRefusal, e.Code, e.Text
	if err := s.store.AppendAudit(ctx, authority{ruling: r}.mark(row)); err != nil {
		return err
	}
	return e
}
