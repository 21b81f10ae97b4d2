package approvals

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/approvals/shell"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// passed lists the parameters of system.run that reach a node, in the order they are written.
// approved and approvalDecision are the gateway's to say (nodes-approvals.md §2.3).
var passed = []string{
	"command", "rawCommand", "cwd", "env", "timeoutMs", "needsScreenRecording", "agentId",
	"sessionKey", "runId",
}

// runParams is the parameters of system.run. Values stay as they were sent; order is kept, with
// new keys at the end.
type runParams struct {
	keys []string
	raw  map[string]json.RawMessage
}

func parseRun(params []byte) (runParams, bool) {
	var all map[string]json.RawMessage
	if json.Unmarshal(params, &all) != nil || all == nil {
		return runParams{}, false
	}
	p := runParams{raw: all}
	for _, k := range passed {
		if _, ok := all[k]; ok {
			p.keys = append(p.keys, k)
		}
	}
	return p, true
}

func (p *runParams) text(key string) (string, bool) {
	var s string
	if raw, ok := p.raw[key]; !ok || json.Unmarshal(raw, &s) != nil || raw[0] != '"' {
		return "", false
	}
	return s, true
}

func (p *runParams) set(key string, v any) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	p.raw[key] = bytes.TrimRight(buf.Bytes(), "\n")
	if !slices.Contains(p.keys, key) {
		p.keys = append(p.keys, key)
	}
	return nil
}

// setOr writes the text, or takes the key out when there is none.
func (p *runParams) setOr(key string, v *string) error {
	if v == nil {
		p.keys = slices.DeleteFunc(p.keys, func(k string) bool { return k == key })
		return nil
	}
	return p.set(key, *v)
}

func (p *runParams) encode() []byte {
	out := []byte{'{'}
	for i, k := range p.keys {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(append(out, '"'), k...), '"', ':')
		out = append(out, p.raw[k]...)
	}
	return append(out, '}')
}

// env is the environment overrides; entries that are no strings do not count.
func (p *runParams) env() map[string]string {
	var all map[string]json.RawMessage
	if json.Unmarshal(p.raw["env"], &all) != nil {
		return nil
	}
	out := map[string]string{}
	for k, raw := range all {
		var v string
		if json.Unmarshal(raw, &v) == nil && raw[0] == '"' {
			out[k] = v
		}
	}
	return out
}

// exactEnv is env with the names as EnvHash takes them, and nothing that it does not cover. Two names
// that are one to it are refused: a hash of both does not say which value counts.
func (p *runParams) exactEnv() (map[string]string, error) {
	out := map[string]string{}
	for raw, v := range p.env() {
		k := shell.Trim(raw)
		if _, twice := out[k]; twice {
			return nil, ErrRunEnvTwice.With("name", k)
		}
		if shell.EnvName(k) {
			out[k] = v
		}
	}
	return out, nil
}

// claims reports whether the caller says that the run is approved.
func (p *runParams) claims() bool {
	if string(p.raw["approved"]) == "true" {
		return true
	}
	d, _ := p.text("approvalDecision")
	switch Decision(strings.TrimSpace(d)) {
	case AllowOnce, AllowAlways:
		return true
	default:
		return false
	}
}

// GuardRun checks the parameters of system.run and rewrites them: a run that claims to be approved
// gets exactly what was approved, or nothing (nodes-approvals.md §2.3). A use is on disk before it
// returns, whoever lets it run; how it ends is told to what comes with the parameters.
func (s *Service) GuardRun(ctx context.Context, c identity.Caller, nodeID string, params []byte) ([]byte, func(sent bool, answer []byte, err error), error) {
	if len(params) > 0 && !json.Valid(params) {
		return nil, nil, ErrRunParams // a more lenient reader could find a claim in it
	}
	p, ok := parseRun(params)
	if ok && p.claims() {
		return s.guardApproved(ctx, c, nodeID, p)
	}
	if ok {
		// The text for people must be what would run (nodes-approvals.md §3.4).
		cmd, err := policy.ParseCommand(p.raw["command"], p.raw["rawCommand"])
		if err != nil {
			return nil, nil, s.refusedUnread(ctx, c, nodeID, p, err)
		}
		if params, done, ok, err := s.guardUnclaimed(ctx, c, nodeID, p, cmd); ok {
			return params, done, err
		}
		params = p.encode()
	}
	// The node's own file decides: no approval and no rule is named.
	use := s.useRow(c, nodeID, p)
	use.RunID, use.Policy = newRun(), s.policyHash()
	if err := s.store.AppendAudit(ctx, use); err != nil {
		return nil, nil, err
	}
	return params, s.begun(use), nil
}

// guardApproved is GuardRun of a run that claims to be approved.
func (s *Service) guardApproved(ctx context.Context, c identity.Caller, nodeID string, p runParams) ([]byte, func(sent bool, answer []byte, err error), error) {
	runID, _ := p.text("runId")
	if runID = strings.TrimSpace(runID); runID == "" {
		return nil, nil, s.refusedUnread(ctx, c, nodeID, p, ErrMissingRunID)
	}
	env, err := p.exactEnv()
	if err != nil {
		return nil, nil, s.refused(ctx, c, nodeID, runID, err)
	}
	var plan Plan
	var files *Identity
	run, use := newRun(), Audit{}
	var a Approval
	err = s.forbidden(c, nodeID, runID)
	if err == nil {
		err = s.store.Transact(ctx, func(tx Tx) (err error) {
			if a, err = tx.Approval(runID); err != nil {
				return err
			}
			if err := s.usable(a, c, nodeID, env); err != nil {
				return err
			}
			if err := revoked(tx, a); err != nil {
				return err
			}
			plan, files = *a.Plan, a.Binding.Identity
			a.Uses++
			a.LastUsedAt = s.now()
			if a.Decision == AllowOnce {
				a.State = Consumed
			}
			if err := tx.UpdateApproval(a); err != nil {
				return err
			}
			use = s.row(AuditUse, c, a)
			use.RunID, use.Policy, use.Argv, use.Cwd = run, s.policyHash(), plan.Argv, text(plan.Cwd)
			use.AgentID, use.SessionKey = text(plan.AgentID), text(plan.SessionKey)
			if use.Rule, use.Where = a.Rule, a.Where; strings.HasPrefix(a.ResolvedBySubject, "grant:") {
				use.Rule, use.Where = "grant "+a.GrantID, ""
			}
			return tx.Audit(use)
		})
	}
	if err != nil {
		return nil, nil, s.refused(ctx, c, nodeID, runID, err)
	}
	s.update(a)
	if files != nil {
		if err := p.set("binding", encodeIdentity(*files)); err != nil {
			return nil, nil, err
		}
	}
	// Whatever the caller sent is replaced by what the record says.
	out, err := p.approve(plan, env, a)
	return out, s.begun(use), err
}

// forbidden refuses a run that a rule forbids now, whatever was approved before.
func (s *Service) forbidden(c identity.Caller, nodeID, runID string) error {
	if !s.ruled() {
		return nil
	}
	a, err := s.store.Approval(runID)
	if err != nil || a.Plan == nil || text(a.NodeID) != nodeID {
		return nil // it is not usable, and what comes says why
	}
	if r := s.rule(attemptOf(a, partyOf(c))); r.Effect == policy.EffectDeny {
		return deniedBy(r)
	}
	return nil
}

// revoked refuses a run whose approval a grant gave, or that made one, when the grant was revoked.
func revoked(tx Tx, a Approval) error {
	if a.GrantID == "" {
		return nil
	}
	switch g, err := tx.Grant(a.GrantID); {
	case err != nil && errs.ClassOf(err) == errs.NotFound, err == nil && !g.RevokedAt.IsZero():
		return ErrRunRevoked.With("grant", a.GrantID)
	default:
		return err
	}
}

// usable says why an approval does not cover a run, nil when it does. The order of the checks is
// that of nodes-approvals.md §2.3.
func (s *Service) usable(a Approval, c identity.Caller, nodeID string, env map[string]string) error {
	now := s.now()
	switch {
	case s.forgotten(a):
		return ErrUnknownRun
	case a.over(now):
		return ErrRunExpired
	case a.NodeID == nil:
		return ErrRunNoNode
	case *a.NodeID != nodeID:
		return ErrRunNode
	case a.Requester.DeviceID != "" && a.Requester.DeviceID != c.DeviceID:
		return ErrRunDevice
	case a.Requester.DeviceID == "" && a.Requester.Principal != c.Principal:
		return ErrRunClient
	case a.Host == nil || strings.TrimSpace(*a.Host) != "node" || a.Plan == nil || a.Binding == nil,
		!slices.Equal(a.Plan.Argv, a.Binding.Argv),
		!same(a.Plan.Cwd, a.Binding.Cwd),
		!same(a.Plan.AgentID, a.Binding.AgentID),
		!same(a.Plan.SessionKey, a.Binding.SessionKey):
		return ErrRunMismatch
	}
	hash, keys := policy.EnvHash(env)
	switch {
	case hash != nil && a.Binding.EnvHash == nil:
		return ErrRunEnvMissing.With("envKeys", keys)
	case !same(hash, a.Binding.EnvHash):
		return ErrRunEnv.With("envKeys", keys, "expectedEnvHash", a.Binding.EnvHash, "actualEnvHash", hash)
	}
	if a.State != Allowed || (a.Decision != AllowOnce && a.Decision != AllowAlways) {
		return ErrRunRequired
	}
	if a.Binding.Identity == nil && s.nodes != nil {
		if _, binds := s.nodes.Binds(nodeID); binds {
			return ErrRunUnbound
		}
	}
	return nil
}

// forgotten reports whether an ended approval is past the time in which it is still known.
func (s *Service) forgotten(a Approval) bool {
	if a.State != Expired && a.State != Denied {
		return false
	}
	end := a.ExpiresAt
	if a.State == Denied {
		end = a.ResolvedAt
	}
	return s.now().Sub(end) > endedFor
}

// text is the text, empty when there is none.
func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func same(a, b *string) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// refusedUnread leaves a row for a run whose parameters say two things, or too little to look at them.
func (s *Service) refusedUnread(ctx context.Context, c identity.Caller, nodeID string, p runParams, err error) error {
	e, ok := errs.As(err)
	if !ok {
		return err
	}
	row := s.useRow(c, nodeID, p)
	row.Kind, row.Reason, row.Detail = AuditRefusal, e.Code, e.Text
	if len(row.Argv) == 0 {
		row.Argv = policy.Argv(p.raw["command"])
	}
	if failed := s.store.AppendAudit(ctx, row); failed != nil {
		return failed
	}
	return err
}

// refused names the run in a refusal and leaves an audit row for it.
func (s *Service) refused(ctx context.Context, c identity.Caller, nodeID, runID string, err error) error {
	e, ok := errs.As(err)
	if !ok || e.Class == errs.Unknown || e.Class == errs.Unavailable || e.Class == errs.Exhausted {
		return err
	}
	if e.Class == errs.NotFound {
		e = ErrUnknownRun
	}
	// An approval has no longer id than this; a claim may name anything, and the log keeps it.
	id := runID
	if len(id) > maxIDBytes {
		id = strings.ToValidUTF8(id[:maxIDBytes], "")
	}
	row := Audit{
		At: s.now(), Kind: AuditRefusal, Subject: c.Subject(), ApprovalID: id, NodeID: nodeID, Reason: e.Code, Detail: e.Text,
		Rule: e.Field("rule"), Where: e.Field("where"), Policy: s.policyHash(),
	}
	if err := s.store.AppendAudit(ctx, row); err != nil {
		return err
	}
	return e.With("runId", runID)
}
