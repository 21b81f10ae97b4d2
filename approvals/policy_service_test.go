package approvals_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/store/storetest"
)

// brokenLog is a log that cannot be written while broken is set.
type brokenLog struct {
	*store.Store
	broken error
}

func (b *brokenLog) AppendAudit(ctx context.Context, rows ...approvals.Audit) error {
	if b.broken != nil {
		return b.broken
	}
	return b.Store.AppendAudit(ctx, rows...)
}

// oldNode answers as a node of the original does: with its file, and with where it finds programs.
type oldNode struct {
	file string
	err  error
	seen []string
}

func (o *oldNode) InvokeInternal(_ context.Context, nodeID, command string, params []byte) ([]byte, error) {
	o.seen = append(o.seen, nodeID+" "+command+" "+string(params))
	switch {
	case o.err != nil:
		return nil, o.err
	case command == "system.which":
		return []byte(`{"bins":{"rg":"/usr/bin/rg"}}`), nil
	}
	return []byte(`{"path":"/home/n/.openclaw/exec-approvals.json","exists":true,"hash":"abc","file":` + o.file + `}`), nil
}

// Binds says that it does not name the files that a run opens.
func (o *oldNode) Binds(string) (connected, binds bool) { return o.err == nil, false }

func newPolicyService(t *testing.T) (*approvals.PolicyService, *brokenLog, string) {
	t.Helper()
	log := &brokenLog{Store: storetest.Open(t)}
	path := filepath.Join(t.TempDir(), "policy.json")
	return approvals.NewPolicy(approvals.PolicyConfig{Path: path, Audit: log, Now: time.Now}), log, path
}

var admin = identity.Caller{Principal: "local:uid:1000", Role: identity.RoleOperator, Scopes: identity.AllOperatorScopes, Local: true}

const twoRules = `{version: 1, rules: [
  {name: "no rm", effect: "deny", argv: ["rm", "**"]},
  {name: "rg", effect: "allow", argv: ["rg", "**"]},
]}`

// Every change of the rules is a row with the hashes before and after, and one that cannot be recorded does
// not happen.
func TestRulesAreRecorded(t *testing.T) {
	ctx := context.Background()
	s, log, path := newPolicyService(t)
	log.broken = errors.New("disk full")
	if _, err := s.SetRules(ctx, admin, approvals.SetRulesIn{Text: []byte(twoRules)}); err == nil {
		t.Error("a change was made that could not be recorded")
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Error("the file was made")
	}
	log.broken = nil
	first, err := s.SetRules(ctx, admin, approvals.SetRulesIn{Text: []byte(twoRules)})
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.SetRules(ctx, admin, approvals.SetRulesIn{Text: []byte(twoRules + "\n"), BaseHash: first.Hash})
	if err != nil {
		t.Fatal(err)
	}
	if second.State.Count != 2 || second.State.Hash != second.Hash || second.State.Fault != "" {
		t.Errorf("%+v", second.State)
	}
	if _, err := s.SetRules(ctx, admin, approvals.SetRulesIn{Text: []byte("{"), BaseHash: second.Hash}); errs.ClassOf(err) != errs.Invalid {
		t.Errorf("%v", err)
	}
	rows, err := log.Audit(0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rows {
		if r.Kind == approvals.AuditPolicy {
			got = append(got, fmt.Sprintf("%s %s %s", r.Subject, r.Policy, r.Detail))
		}
	}
	want := []string{
		fmt.Sprintf("local:uid:1000 %s the policy rules changed from none to %s", first.Hash, first.Hash),
		fmt.Sprintf("local:uid:1000 %s the policy rules changed from %s to %s", second.Hash, first.Hash, second.Hash),
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("recorded\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A file that changes by itself is recorded and in force in time.
func TestRulesFollowTheFile(t *testing.T) {
	s, log, path := newPolicyService(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	if err := os.WriteFile(path, []byte(twoRules), 0o600); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); s.Decide(policy.Query{Argv: []string{"rm"}}).Effect != policy.EffectDeny; time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatal("the file is not in force")
		}
	}
	rows, err := log.Audit(0, 100)
	if err != nil || len(rows) == 0 || rows[len(rows)-1].Kind != approvals.AuditPolicy || rows[len(rows)-1].Subject != "hanzod" {
		t.Errorf("%v %+v", err, rows)
	}
}

// A node of the original cannot explain itself: its file is read, as far as it shows.
func TestExplainOldNode(t *testing.T) {
	ctx := context.Background()
	s, _, path := newPolicyService(t)
	_ = path
	node := &oldNode{}
	s.SetNodes(node)
	run := func(argv ...string) approvals.PolicyRun { return approvals.PolicyRun{Argv: argv, NodeID: "n1"} }
	for _, c := range []struct {
		file    string
		argv    []string
		verdict approvals.Verdict
		rule    string
	}{
		{`{"version":1}`, []string{"rg", "x"}, approvals.VerdictAsk, "ask on-miss, the default of the machine"},
		{`{"version":1,"agents":{"*":{"allowlist":[{"pattern":"/usr/bin/*"}]}}}`, []string{"rg", "x"}, approvals.VerdictRun, `allow-list entry "/usr/bin/*" of agent *`},
		{`{"version":1,"agents":{"*":{"allowlist":[{"pattern":"/usr/bin/*"}]}}}`, []string{"unknown"}, approvals.VerdictAsk, "ask on-miss, the default of the machine"},
		{`{"version":1,"agents":{"*":{"allowlist":[{"pattern":"*"}]}}}`, []string{"sh", "-c", "rg"}, approvals.VerdictAsk, "ask on-miss, the default of the machine"},
		{`{"version":1,"defaults":{"security":"deny"}}`, []string{"rg"}, approvals.VerdictDeny, "defaults.security deny"},
		{`{"version":1,"defaults":{"security":"full"},"agents":{"main":{"ask":"always"}}}`, []string{"rg"}, approvals.VerdictAsk, "agents.main.ask always"},
		{`{"version":2}`, []string{"rg"}, approvals.VerdictDeny, "the file cannot be used"},
	} {
		node.file = c.file
		e, err := s.ExplainPolicy(ctx, admin, run(c.argv...))
		if err != nil {
			t.Fatal(err)
		}
		if e.Verdict != c.verdict || e.Rule != c.rule || e.Machine == nil || e.Machine.Exact || !e.Machine.Asked {
			t.Errorf("%s %v: %q by %q (%s) %+v", c.file, c.argv, e.Verdict, e.Rule, e.Text, e.Machine)
		}
	}
	node.err = errors.New("node not connected")
	e, err := s.ExplainPolicy(ctx, admin, run("rg"))
	if err != nil || e.Verdict != approvals.VerdictUnknown || !strings.Contains(e.Text, "node not connected") || e.Machine.Asked {
		t.Errorf("%v %+v", err, e)
	}
	// What the rules forbid is not asked about at all.
	if _, err := s.SetRules(ctx, admin, approvals.SetRulesIn{Text: []byte(twoRules)}); err != nil {
		t.Fatal(err)
	}
	node.seen = nil
	e, err = s.ExplainPolicy(ctx, admin, run("sudo", "rm", "x"))
	if err != nil || e.Verdict != approvals.VerdictDeny || e.Rule != "no rm" || e.Where != "policy.json:2" || len(node.seen) != 0 {
		t.Errorf("%v %+v %v", err, e, node.seen)
	}
	for _, in := range []approvals.PolicyRun{{}, {Argv: []string{"a"}, Line: "b"}, {Line: "  "}, {Line: strings.Repeat("x", 1<<20)}} {
		if _, err := s.ExplainPolicy(ctx, admin, in); errs.ClassOf(err) != errs.Invalid {
			t.Errorf("%.40v: %v", in, err)
		}
	}
}

// The past under other rules: each way in which a run can have ended.
func TestSimulate(t *testing.T) {
	ctx := context.Background()
	s, log, _ := newPolicyService(t)
	at := time.Now().Add(-time.Hour)
	use := func(argv []string, more func(*approvals.Audit)) approvals.Audit {
		row := approvals.Audit{At: at, Kind: approvals.AuditUse, Subject: "device:d", NodeID: "n", Argv: argv, Command: strings.Join(argv, " ")}
		if more != nil {
			more(&row)
		}
		return row
	}
	refused := func(reason string) func(*approvals.Audit) {
		return func(a *approvals.Audit) { a.Kind, a.Reason = approvals.AuditRefusal, reason }
	}
	rows := []approvals.Audit{
		use([]string{"old"}, func(a *approvals.Audit) { a.At = at.Add(-48 * time.Hour) }),
		use([]string{"rm", "1"}, nil), // 2: ran by the file, now denied
		use([]string{"rg", "2"}, nil), // 3: ran, runs
		use([]string{"rg", "3"}, func(a *approvals.Audit) { a.Rule, a.Where = "rg", "policy.json:3" }), // 4: ran by a rule, runs
		use([]string{"id"}, func(a *approvals.Audit) { a.Rule, a.Where = "id", "policy.json:9" }),      // 5: a rule that is gone
		use([]string{"id"}, func(a *approvals.Audit) { a.ApprovalID = "a" }),                           // 6: approved, no rule
		use([]string{"rg", "6"}, func(a *approvals.Audit) { a.ApprovalID = "a" }),                      // 7: approved, now without asking
		use([]string{"rm", "7"}, func(a *approvals.Audit) { a.Rule = "grant g" }),                      // 8: granted, now denied
		use([]string{"rm", "8"}, refused("approvals.rule_denies")),                                     // 9: denied, denied
		use([]string{"rg", "9"}, refused("approvals.rule_denies")),                                     // 10: denied, now allowed
		use([]string{"id"}, refused("approvals.rule_asks")),                                            // 11: asked, now the file
		use([]string{"rm"}, refused("approvals.run_unknown")),                                          // 12: refused, denied
		use(nil, nil), // 13: not known
		use([]string{"rg", "x"}, func(a *approvals.Audit) { a.RunID = "r" }),
		use([]string{"rg", "x"}, func(a *approvals.Audit) { refused("node")(a); a.RunID = "r" }), // one run that its node refused, now allowed
		{At: at, Kind: approvals.AuditRequest, Argv: []string{"rm"}},
	}
	if err := log.Store.AppendAudit(ctx, rows...); err != nil {
		t.Fatal(err)
	}
	out, err := s.SimulatePolicy(ctx, admin, approvals.SimulateIn{Rules: []byte(twoRules), Since: 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range out.Changes {
		got = append(got, fmt.Sprintf("%s: %s by %s, now %q", c.Command, c.Was, c.WasBy, c.Now))
	}
	want := []string{
		`rm 1: ran by the file of the machine, now "deny"`,
		`id: ran by id at policy.json:9, now ""`,
		`rg 6: ran by approval a, now "allow"`,
		`rm 7: ran by grant g, now "deny"`,
		`rg 9: refused by , now "allow"`,
		`id: asked by , now ""`,
		`rg x: refused by the file of the machine, now "allow"`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("changes\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if out.Runs != 12 || out.Same != 5 || out.Unknown != 1 || out.Allow+out.Ask+out.Deny+out.None != out.Runs || out.Deny != 4 {
		t.Errorf("%+v", out)
	}
	all, err := s.SimulatePolicy(ctx, admin, approvals.SimulateIn{Rules: []byte(twoRules)})
	if err != nil || all.Runs != 13 {
		t.Errorf("%v %+v", err, all)
	}
	last, err := s.SimulatePolicy(ctx, admin, approvals.SimulateIn{Rules: []byte(twoRules), Limit: 1})
	if err != nil || last.Runs+last.Unknown != 1 {
		t.Errorf("%v %+v", err, last)
	}
	if _, err := s.SimulatePolicy(ctx, admin, approvals.SimulateIn{Rules: []byte("{}"), Name: "new.json"}); err == nil || !strings.Contains(err.Error(), "new.json:1: ") {
		t.Errorf("%v", err)
	}
}

// P17 of the performance page: a decision under a hundred rules, with the parse of a shell line, takes at
// most 200 µs at the 99th percentile.
func TestDecisionTakesNoTime(t *testing.T) {
	if testing.Short() {
		t.Skip("it measures")
	}
	var b strings.Builder
	b.WriteString("{version: 1, rules: [\n")
	for i := range 50 {
		fmt.Fprintf(&b, "{name: \"d%d\", effect: \"deny\", argv: [[\"tool-%d\", \"**\"], [\"/opt/%d/bin/x\", \"--force\", \"**\"]]},\n", i, i, i)
		fmt.Fprintf(&b, "{name: \"a%d\", effect: \"allow\", argv: [[\"cmd-%d\", \"sub\", \"*\", \"**\"]], cwd: \"/srv/**\", agent: \"m*\"},\n", i, i)
	}
	b.WriteString(`{name: "git", effect: "allow", argv: [["git", "**"], ["grep", "**"], ["head", "**"]]}]}`)
	r, err := policy.ParseRules("p", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	q := policy.Query{Argv: []string{"/bin/sh", "-lc", `git log --oneline -n 20 | grep "fix: " | head -n 3 && git status`}, Cwd: "/srv/app", At: time.Now()}
	best := time.Hour
	for range 5 { // the machine may be busy with other things
		times := make([]time.Duration, 2000)
		for i := range times {
			start := time.Now()
			if got := r.Decide(q); got.Effect != policy.EffectAllow {
				t.Fatalf("%+v", got)
			}
			times[i] = time.Since(start)
		}
		slices.Sort(times)
		best = min(best, times[len(times)*99/100])
	}
	t.Logf("p99 %v", best)
	if !raceBuilt && best > 200*time.Microsecond {
		t.Errorf("the 99th percentile is %v", best)
	}
}
