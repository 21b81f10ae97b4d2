package approvals

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/approvals/shell"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

const (
	// maxPolicyCases bounds the cases of one test, maxPolicyChanges the changes that a simulation lists.
	maxPolicyCases   = 10_000
	maxPolicyChanges = 1000
	// MaxSimulated bounds the runs that one simulation decides on again.
	MaxSimulated = 10_000
	// simulatePage is how many rows of the log are read at once.
	simulatePage = 1000
	// explainWait is how long a node may take to say what its file says.
	explainWait = 5 * time.Second
)

// PolicyAudit reads and writes the log of what happened. It is satisfied by the store.
type PolicyAudit interface {
	AppendAudit(ctx context.Context, rows ...Audit) error
	// Audit returns at most n rows with a sequence number above after, in order.
	Audit(after uint64, n int) ([]Audit, error)
}

// Covering finds what lets a run happen beside rules. It is satisfied by Service.
type Covering interface {
	// Covering returns the grants that cover a run of the caller, the one that is used first, and the
	// signs of obfuscation that keep rules from allowing it. env is the hash of its environment overrides.
	Covering(c identity.Caller, q policy.Query, r policy.Ruling, env *string) (grants []Covered, signs []string)
}

// Covered is a grant that covers a run.
type Covered struct{ ID, Text string }

// PolicyConfig is what the policy service needs.
type PolicyConfig struct {
	// Path is the rules file.
	Path string
	Log  *slog.Logger
	// Audit is required.
	Audit PolicyAudit
	// File is the exec approvals file of the gateway host.
	File *policy.File
	Now  func() time.Time
}

// PolicyService keeps the policy rules and answers questions about them. Its methods are safe for
// concurrent use; Run follows the changes of the file.
type PolicyService struct {
	rules    *policy.RulesFile
	audit    PolicyAudit
	file     *policy.File
	nodes    NodeFiles
	covering Covering
	now      func() time.Time
}

// NewPolicy reads the rules.
func NewPolicy(cfg PolicyConfig) *PolicyService {
	s := &PolicyService{audit: cfg.Audit, file: cfg.File, now: cfg.Now}
	s.rules = policy.OpenRules(cfg.Path, policy.RulesOptions{Log: cfg.Log, Record: s.record})
	return s
}

// SetNodes and SetCovering wire what is made after the policy.
func (s *PolicyService) SetNodes(n NodeFiles)   { s.nodes = n }
func (s *PolicyService) SetCovering(c Covering) { s.covering = c }

// Run follows the rules file until ctx ends.
func (s *PolicyService) Run(ctx context.Context) { s.rules.Run(ctx) }

// Decide says what the rules in force say about a run.
func (s *PolicyService) Decide(q policy.Query) policy.Ruling { return s.rules.Decide(q) }

// State says how the rules stand.
func (s *PolicyService) State() policy.RulesState { return s.rules.State() }

// record leaves a row before rules change. A change that cannot be recorded does not happen.
func (s *PolicyService) record(ctx context.Context, by, before, after string) error {
	name := func(hash string) string {
		if hash == "" {
			return "none"
		}
		return hash
	}
	if by == "" {
		by = identity.Internal().Subject()
	}
	return s.audit.AppendAudit(ctx, Audit{
		At: s.now(), Kind: AuditPolicy, Subject: by, Policy: after, Reason: "rules",
		Detail: "the policy rules changed from " + name(before) + " to " + name(after),
	})
}

// RulesOut is the rules file as it stands.
type RulesOut struct {
	State policy.RulesState
	// Text is what stands in the file, Hash its hash; both are empty without one.
	Text   []byte
	Hash   string
	Exists bool
}

// SetRulesIn is the argument of SetRules.
type SetRulesIn struct {
	Text     []byte
	BaseHash string
}

// GetRules returns the rules file and what of it is in force.
func (s *PolicyService) GetRules(context.Context, identity.Caller) (RulesOut, error) { return s.get() }

func (s *PolicyService) get() (RulesOut, error) {
	text, hash, err := s.rules.FileText()
	if err != nil {
		return RulesOut{}, err
	}
	out := RulesOut{State: s.rules.State(), Text: text, Hash: hash, Exists: hash != ""}
	if out.State.Fault == "" && hash != out.State.Hash && out.Exists {
		// It has changed this moment and is looked at within a second.
		if faults := policy.CheckRules(text); len(faults) > 0 {
			out.State.Fault = policy.FaultText(s.rules.Path(), faults)
		}
	}
	return out, nil
}

// SetRules replaces the text of the rules file and puts it into force.
func (s *PolicyService) SetRules(ctx context.Context, c identity.Caller, in SetRulesIn) (RulesOut, error) {
	if err := s.rules.Set(ctx, c.Subject(), in.Text, in.BaseHash); err != nil {
		return RulesOut{}, err
	}
	return s.get()
}

// PolicyRun is a run that rules are asked about: Argv, or Line for a shell.
type PolicyRun struct {
	Argv       []string
	Line       string
	AgentID    string
	SessionKey string
	// NodeID is empty for the gateway host.
	NodeID string
	Cwd    string
	// At is now when zero.
	At time.Time
	// EnvKeys are the names of environment overrides.
	EnvKeys []string
}

// The errors of the questions.
var (
	ErrRunEmpty  = errs.Define(errs.Invalid, "approvals.policy_run", "name the command: argv, or a line for a shell")
	ErrRunBoth   = errs.Define(errs.Invalid, "approvals.policy_run_both", "give argv or a line, not both")
	ErrManyCases = errs.Define(errs.Invalid, "approvals.policy_cases", "a test may have 10,000 cases at the most")
	ErrExpect    = errs.Define(errs.Invalid, "approvals.policy_expect", "what is expected must be allow, ask, deny or none")
)

// query reads a run. A line runs as agents run one: by the shell of the system.
func (s *PolicyService) query(r PolicyRun) (policy.Query, error) {
	size := len(r.Line)
	for _, w := range r.Argv {
		size += len(w)
	}
	switch {
	case len(r.Argv) > 0 && r.Line != "":
		return policy.Query{}, ErrRunBoth
	case len(r.Argv) == 0 && strings.TrimSpace(r.Line) == "":
		return policy.Query{}, ErrRunEmpty
	case size > maxCommandBytes:
		return policy.Query{}, ErrTooLarge
	}
	q := policy.Query{
		Argv: r.Argv, Cwd: r.Cwd, AgentID: r.AgentID, SessionKey: r.SessionKey, NodeID: r.NodeID, NodeName: r.NodeID,
		Host: "gateway", At: r.At,
	}
	if r.Line != "" {
		q.Argv = []string{"/bin/sh", "-lc", r.Line}
	}
	q.Text = shell.FormatArgv(q.Argv)
	if r.NodeID != "" {
		q.Host = "node"
		if n, ok := s.nodes.(interface{ Name(string) string }); ok && n.Name(r.NodeID) != "" {
			q.NodeName = n.Name(r.NodeID)
		}
	}
	if q.At.IsZero() {
		q.At = s.now()
	}
	return q, nil
}

// Verdict is what would happen to a run.
type Verdict string

// The verdicts; the empty one cannot be said.
const (
	VerdictUnknown Verdict = ""
	VerdictRun     Verdict = "run"
	VerdictAsk     Verdict = "ask"
	VerdictDeny    Verdict = "deny"
)

// Explanation is the whole way to a verdict.
type Explanation struct {
	Verdict Verdict
	Text    string
	// Rule is what decides, Where the place it is written at.
	Rule, Where string
	Ruling      policy.Ruling
	Steps       []policy.Step
	Rules       policy.RulesState
	Grants      []Covered
	// Machine is nil when the rules decided alone.
	Machine    *MachineRuling
	EnvDropped []string
}

// MachineRuling is what the exec approvals file of one machine says.
type MachineRuling struct {
	policy.FileRuling
	// Asked says that the file was read; Why says why not. Exact says that the machine itself answered.
	Asked, Exact bool
	Why          string
	Verdict      Verdict
}

// ExplainPolicy says what would happen to a run of the caller. Nothing runs, no grant is used and nobody is
// asked.
func (s *PolicyService) ExplainPolicy(ctx context.Context, c identity.Caller, in PolicyRun) (Explanation, error) {
	q, err := s.query(in)
	if err != nil {
		return Explanation{}, err
	}
	out := Explanation{Rules: s.rules.State()}
	out.Ruling, out.Steps = s.rules.Rules().Explain(q)
	overrides := map[string]string{}
	for _, k := range in.EnvKeys {
		overrides[k] = ""
	}
	_, inline := shell.FindInline(q.Argv)
	_, out.EnvDropped = policy.SanitizeEnv(nil, overrides, inline)

	r := out.Ruling
	out.Rule, out.Where = r.Rule, r.Where
	if r.Effect == policy.EffectDeny {
		out.Verdict, out.Text = VerdictDeny, "It is refused: "+r.Reason+"."
		return out, nil
	}
	var signs []string
	if s.covering != nil {
		var env *string
		if len(in.EnvKeys) > 0 { // without the values no grant is known to cover it
			env = new(string)
		}
		out.Grants, signs = s.covering.Covering(c, q, r, env)
	}
	approved := ""
	switch {
	case len(out.Grants) > 0:
		approved, out.Rule, out.Where = "grant "+out.Grants[0].ID, "grant "+out.Grants[0].ID, ""
	case r.Effect == policy.EffectAllow && len(signs) > 0:
		out.Verdict, out.Text = VerdictAsk, "A rule allows it, but it is asked because it looks obfuscated ("+strings.Join(signs, ", ")+")."
	case r.Effect == policy.EffectAllow:
		approved = "rule " + r.Rule
	case r.Effect == policy.EffectAsk:
		out.Verdict, out.Text = VerdictAsk, "It runs when somebody approves it: "+r.Reason+"."
	}
	m := s.machine(ctx, q, approved != "" || out.Verdict == VerdictAsk)
	out.Machine = &m
	s.conclude(&out, m, approved)
	return out, nil
}

// conclude combines what the gateway says with what the machine says: both must permit.
func (s *PolicyService) conclude(out *Explanation, m MachineRuling, approved string) {
	file := "the file of the machine"
	switch {
	case !m.Asked && out.Verdict != VerdictAsk:
		out.Verdict, out.Text = VerdictUnknown, "The gateway permits it; whether "+file+" does is not known: "+m.Why+"."
		if approved == "" {
			out.Text = "No rule is about it, so " + file + " decides, and it is not known: " + m.Why + "."
			out.Rule, out.Where = "", ""
		}
	case m.Asked && m.Verdict == VerdictDeny && out.Verdict == VerdictAsk:
		out.Text += " Even then " + file + " refuses it, by " + m.Rule + " at " + m.Where + ": " + m.Message + "."
	case m.Asked && m.Verdict == VerdictDeny:
		out.Verdict, out.Rule, out.Where = VerdictDeny, m.Rule, m.Where
		out.Text = "It is refused by " + file + ": " + m.Message + "."
	case out.Verdict == VerdictAsk:
	case approved != "":
		out.Verdict, out.Text = VerdictRun, "It runs without being asked about: "+approved+" allows it."
	default:
		out.Verdict, out.Rule, out.Where = m.Verdict, m.Rule, m.Where
		if m.Verdict == VerdictRun {
			out.Text = "It runs: no rule is about it, and " + file + " lets it."
		} else {
			out.Text = "It runs when somebody approves it: no rule is about it, and " + file + " asks."
		}
	}
}

// machine asks the machine that would run it.
func (s *PolicyService) machine(ctx context.Context, q policy.Query, approved bool) MachineRuling {
	var agent *string
	if q.AgentID != "" {
		agent = &q.AgentID
	}
	if q.NodeID == "" {
		if s.file == nil {
			return MachineRuling{Why: "the gateway host runs nothing"}
		}
		r, err := s.file.Explain(agent, q.Argv, q.Cwd, os.Getenv("PATH"), approved)
		m := MachineRuling{FileRuling: r, Asked: true, Exact: err == nil}
		m.judge()
		return m
	}
	if s.nodes == nil {
		return MachineRuling{Why: "nodes cannot be reached yet"}
	}
	ctx, cancel := context.WithTimeout(ctx, explainWait)
	defer cancel()
	ask := map[string]any{"command": q.Argv, "approved": approved}
	if q.Cwd != "" {
		ask["cwd"] = q.Cwd
	}
	if agent != nil {
		ask["agentId"] = *agent
	}
	params, err := json.Marshal(map[string]any{"explain": ask})
	if err != nil {
		return MachineRuling{Why: err.Error()}
	}
	answer, err := s.nodes.InvokeInternal(ctx, q.NodeID, "system.execApprovals.get", params)
	if err != nil {
		return MachineRuling{Why: err.Error()}
	}
	return s.readMachine(ctx, q, answer, agent, approved)
}

// readMachine reads the answer of a node. One of the original says what its file is and nothing more.
func (s *PolicyService) readMachine(ctx context.Context, q policy.Query, answer []byte, agent *string, approved bool) MachineRuling {
	var got map[string]json.RawMessage
	if err := json.Unmarshal(answer, &got); err != nil || got["file"] == nil && got["explain"] == nil {
		return MachineRuling{Why: "its answer is no exec approvals file"}
	}
	word := func(m map[string]json.RawMessage, key string) string {
		var v string
		_ = json.Unmarshal(m[key], &v) // absent and wrong ones are empty
		return v
	}
	m := MachineRuling{Asked: true}
	m.Path, m.Hash = word(got, "path"), word(got, "hash")
	var said map[string]json.RawMessage
	if json.Unmarshal(got["explain"], &said) == nil && said != nil {
		m.Exact = true
		m.Security, m.Ask = policy.Security(word(said, "security")), policy.Ask(word(said, "ask"))
		m.Run = string(said["run"]) == "true"
		m.Reason, m.Message, m.Rule, m.Where = word(said, "reason"), word(said, "message"), word(said, "rule"), word(said, "where")
		m.judge()
		return m
	}
	r, err := policy.ExplainText(got["file"], m.Path, policy.Overrides{Security: policy.SecurityAllowlist, Ask: policy.AskOnMiss}, "", q.Platform, agent, q.Argv, s.locate(ctx, q), approved)
	r.Hash = m.Hash
	m.FileRuling = r
	if err != nil {
		m.Message = err.Error()
	}
	m.judge()
	return m
}

// locate asks a node where it finds an executable.
func (s *PolicyService) locate(ctx context.Context, q policy.Query) string {
	word := q.Argv[0]
	if strings.ContainsAny(word, `/\`) {
		return word
	}
	params, err := json.Marshal(map[string]any{"bins": []string{word}})
	if err != nil {
		return ""
	}
	answer, err := s.nodes.InvokeInternal(ctx, q.NodeID, "system.which", params)
	if err != nil {
		return ""
	}
	// Two shapes are in use (nodes-approvals.md §4.2).
	var got map[string]json.RawMessage
	if json.Unmarshal(answer, &got) != nil {
		return ""
	}
	for _, key := range []string{"paths", "bins"} {
		var paths map[string]string
		if json.Unmarshal(got[key], &paths) == nil && paths[word] != "" {
			return paths[word]
		}
	}
	return ""
}

func (m *MachineRuling) judge() {
	switch {
	case m.Run:
		m.Verdict = VerdictRun
	case m.Reason == "approval-required" && strings.HasPrefix(m.Message, "SYSTEM_RUN_DENIED: approval required"):
		m.Verdict = VerdictAsk
	default:
		m.Verdict = VerdictDeny
	}
}

// PolicyCase is a run with what is expected of it: allow, ask, deny, or none when the rules are to say
// nothing. Rule is the one that is to decide, any when empty.
type PolicyCase struct {
	Run    PolicyRun
	Expect string
	Rule   string
}

// CaseResult is how a case ended.
type CaseResult struct {
	OK          bool
	Effect      policy.Effect
	Rule, Where string
	Why         string
}

// TestPolicyIn is the argument of TestPolicy. Rules is a text, nil for the rules in force; Name is what its
// errors call it.
type TestPolicyIn struct {
	Rules []byte
	Name  string
	Cases []PolicyCase
}

// TestPolicyOut has one result for each case.
type TestPolicyOut struct {
	Results []CaseResult
	Failed  int
	Rules   int
	Hash    string
}

func (s *PolicyService) given(text []byte, name string) (*policy.Rules, error) {
	if text == nil {
		return s.rules.Rules(), nil
	}
	if name == "" {
		name = "rules"
	}
	return policy.ParseRules(name, text)
}

// TestPolicy compares what rules say about runs with what is expected.
func (s *PolicyService) TestPolicy(ctx context.Context, _ identity.Caller, in TestPolicyIn) (TestPolicyOut, error) {
	if len(in.Cases) > maxPolicyCases {
		return TestPolicyOut{}, ErrManyCases
	}
	rules, err := s.given(in.Rules, in.Name)
	if err != nil {
		return TestPolicyOut{}, err
	}
	out := TestPolicyOut{Rules: rules.Count(), Hash: rules.Hash()}
	for i, c := range in.Cases {
		if ctx.Err() != nil {
			return TestPolicyOut{}, ctx.Err()
		}
		want := policy.Effect(c.Expect)
		switch c.Expect {
		case "none":
			want = policy.Abstain
		case "allow", "ask", "deny":
		default:
			return TestPolicyOut{}, ErrExpect.WithText(fmt.Sprintf("case %d: what is expected must be allow, ask, deny or none, not %q", i+1, c.Expect))
		}
		q, err := s.query(c.Run)
		if err != nil {
			return TestPolicyOut{}, fmt.Errorf("case %d: %w", i+1, err)
		}
		d := rules.Decide(q)
		r := CaseResult{Effect: d.Effect, Rule: d.Rule, Where: d.Where, Why: d.Reason}
		r.OK = d.Effect == want && (c.Rule == "" || c.Rule == d.Rule)
		if !r.OK {
			out.Failed++
		}
		out.Results = append(out.Results, r)
	}
	return out, nil
}

// SimulateIn is the argument of SimulatePolicy. Since is how far back, zero for all that is kept; Limit how
// many runs at most, MaxSimulated when zero.
type SimulateIn struct {
	Rules []byte
	Name  string
	Since time.Duration
	Limit int
}

// SimulateOut counts what the rules would have said, and lists what would have ended otherwise, oldest
// first.
type SimulateOut struct {
	Runs, Same, Unknown    int
	Allow, Ask, Deny, None int
	Changes                []PolicyChange
	More                   bool
}

// PolicyChange is a run that would have ended otherwise. Was is "ran", "asked" or "refused", WasBy what
// decided.
type PolicyChange struct {
	Seq             uint64
	At              time.Time
	Subject         string
	NodeID, AgentID string
	Command         string
	Was, WasBy      string
	Now             policy.Effect
	Rule, Where     string
}

// SimulatePolicy decides on the audited past again.
func (s *PolicyService) SimulatePolicy(ctx context.Context, _ identity.Caller, in SimulateIn) (SimulateOut, error) {
	if in.Limit <= 0 || in.Limit > MaxSimulated {
		in.Limit = MaxSimulated
	}
	if in.Rules == nil {
		in.Rules = []byte{}
	}
	rules, err := s.given(in.Rules, in.Name)
	if err != nil {
		return SimulateOut{}, err
	}
	var from time.Time
	if in.Since > 0 {
		from = s.now().Add(-in.Since)
	}
	rows, err := s.pastRuns(ctx, from, in.Limit)
	if err != nil {
		return SimulateOut{}, err
	}
	// A run that went out and that its node refused has two rows.
	sent, turned := map[string]bool{}, map[string]Audit{}
	for _, row := range rows {
		if row.RunID != "" && row.Kind == AuditUse {
			sent[row.RunID] = true
		} else if row.RunID != "" {
			turned[row.RunID] = row
		}
	}
	var out SimulateOut
	for _, row := range rows {
		if ctx.Err() != nil {
			return SimulateOut{}, ctx.Err()
		}
		if row.Kind == AuditRefusal && sent[row.RunID] {
			continue
		}
		if refusal, ok := turned[row.RunID]; ok && row.Kind == AuditUse {
			row.Kind, row.Reason = AuditRefusal, refusal.Reason
			if row.Rule == "" {
				row.Rule = "the file of the machine"
			}
		}
		if len(row.Argv) == 0 {
			out.Unknown++
			continue
		}
		q, err := s.query(PolicyRun{Argv: row.Argv, AgentID: row.AgentID, SessionKey: row.SessionKey, NodeID: row.NodeID, Cwd: row.Cwd, At: row.At})
		if err != nil {
			out.Unknown++
			continue
		}
		now := rules.Decide(q)
		out.Runs++
		switch now.Effect {
		case policy.EffectAllow:
			out.Allow++
		case policy.EffectAsk:
			out.Ask++
		case policy.EffectDeny:
			out.Deny++
		default:
			out.None++
		}
		was, by, same := before(row, now.Effect)
		switch {
		case same:
			out.Same++
		case len(out.Changes) >= maxPolicyChanges:
			out.More = true
		default:
			out.Changes = append(out.Changes, PolicyChange{
				Seq: row.Seq, At: row.At, Subject: row.Subject, NodeID: row.NodeID, AgentID: row.AgentID, Command: row.Command,
				Was: was, WasBy: by, Now: now.Effect, Rule: now.Rule, Where: now.Where,
			})
		}
	}
	return out, nil
}

// pastRuns returns the last runs of the log, oldest first.
func (s *PolicyService) pastRuns(ctx context.Context, from time.Time, limit int) ([]Audit, error) {
	var out []Audit
	for after := uint64(0); ; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		page, err := s.audit.Audit(after, simulatePage)
		if err != nil {
			return nil, err
		}
		for _, row := range page {
			if after = row.Seq; (row.Kind == AuditUse || row.Kind == AuditRefusal) && !row.At.Before(from) {
				out = append(out, row)
			}
		}
		if len(out) > 2*limit { // not for each page: that would copy them all over
			out = slices.Clone(out[len(out)-limit:])
		}
		if len(page) < simulatePage {
			return out[max(0, len(out)-limit):], nil
		}
	}
}

// before says how a run of the past ended and what decided, and whether it would end so again.
func before(row Audit, now policy.Effect) (was, by string, same bool) {
	by = row.Rule
	if row.Rule != "" && row.Where != "" {
		by += " at " + row.Where
	}
	grant := strings.HasPrefix(row.Rule, "grant ")
	switch {
	case row.Kind == AuditUse && row.Rule != "" && !grant:
		return "ran", by, now == policy.EffectAllow
	case row.Kind == AuditUse && (grant || row.ApprovalID != ""):
		if by == "" {
			by = "approval " + row.ApprovalID
		}
		return "ran", by, now == policy.EffectAsk || now == policy.Abstain
	case row.Kind == AuditUse:
		return "ran", "the file of the machine", now == policy.Abstain || now == policy.EffectAllow
	case row.Reason == ErrRuleAsks.Code:
		return "asked", by, now == policy.EffectAsk
	case row.Reason == ErrRuleDenies.Code:
		return "refused", by, now == policy.EffectDeny
	}
	if by == "" {
		by = row.Reason
	}
	return "refused", by, now != policy.EffectAllow
}
