package approvals_test

import (
	"context"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

// writer is an operator who may invoke and is no admin.
func writer(device string) identity.Caller {
	c := caller(device, "")
	c.Scopes = []identity.Scope{identity.ScopeRead, identity.ScopeWrite}
	return c
}

func (w *world) call(c identity.Caller, node, command, params string, allowed bool) (string, string) {
	w.tb.Helper()
	out, ended, err := w.svc.GuardCall(context.Background(), c, node, command, []byte(params), allowed, true)
	if ended != nil {
		ended(true, []byte(`{}`), nil)
	}
	return string(out), code(err)
}

func (w *world) askCall(c identity.Caller, node, command, params string) approvals.Approval {
	w.tb.Helper()
	a, err := w.svc.Request(context.Background(), c, approvals.RequestIn{NodeID: &node, Call: &approvals.CallIn{Command: command, Params: []byte(params)}})
	if err != nil {
		w.tb.Fatal(err)
	}
	return a
}

// A call goes by the scope admin, by the configuration or by an approval of exactly it, and by nothing that the
// caller says.
func TestGuardCall(t *testing.T) {
	w := newWorld(t)
	dev := writer("dev")
	if out, err := w.call(ann, "n1", "exec.run", `{"command":"ls"}`, false); err != "" || out != `{"command":"ls","approved":true}` {
		t.Errorf("admin: %s %s", out, err)
	}
	for _, claim := range []string{`"approved":true`, `"Approved":true`, `"APPROVED":1,"approvalDecision":"allow-once"`} {
		if out, err := w.call(dev, "n1", "exec.run", `{"command":"ls",`+claim+`}`, false); err != "call_required" || out != "" {
			t.Errorf("%s: %s %s", claim, out, err)
		}
		if out, _ := w.call(dev, "n1", "my.command", `{"x":1.0,`+claim+`}`, true); out != `{"x":1.0}` {
			t.Errorf("allowed by the configuration, %s: %s", claim, out)
		}
	}
	for _, bad := range []string{`[]`, `1`, `"x"`, `{"a":1,"a":2}`, `{"command":"ls","Command":"rm"}`, `{}{}`, `{`} {
		if out, err := w.call(ann, "n1", "exec.run", bad, true); err != "call_params" {
			t.Errorf("%s: %s %s", bad, out, err)
		}
	}
	if _, err := w.call(ann, "n1", "system.run", `{"cmd":"ls","command":"rm"}`, false); err != "call_params" {
		t.Error("two commands were taken for one")
	}

	const params = `{"command":"git push","cwd":"/srv","env":{"TOKEN":"s3cret"}}`
	a := w.askCall(dev, "n1", "exec.run", params)
	if a.Command != `exec.run /bin/sh -c "git push"` || strings.Contains(a.Command, "s3cret") || *a.Cwd != "/srv" || len(a.EnvKeys) != 1 {
		t.Errorf("the question is %q in %v with %v", a.Command, *a.Cwd, a.EnvKeys)
	}
	if _, err := w.call(dev, "n1", "exec.run", params, false); err != "call_required" {
		t.Errorf("before the answer: %s", err)
	}
	w.decide(a.ID, approvals.AllowOnce)
	for _, other := range []struct {
		who                   identity.Caller
		node, command, params string
	}{
		{dev, "n2", "exec.run", params}, {dev, "n1", "chat.send", params}, {writer("other"), "n1", "exec.run", params},
		{dev, "n1", "exec.run", `{"command":"git push","cwd":"/srv"}`}, {dev, "n1", "exec.run", `{"command":"git push","cwd":"/srv","env":{"TOKEN":"other"}}`},
		{dev, "n1", "exec.run", `{"command":"git push -f","cwd":"/srv","env":{"TOKEN":"s3cret"}}`},
		{dev, "n1", "exec.run", `{"command":"git push","cwd":"/","env":{"TOKEN":"s3cret"}}`},
	} {
		if _, err := w.call(other.who, other.node, other.command, other.params, false); err != "call_required" {
			t.Errorf("%s %s %s of %s: %s", other.node, other.command, other.params, other.who.DeviceID, err)
		}
	}
	// The claim of a run by the same id is for something else.
	if _, err := w.use(dev, "n1", `{"command":["/bin/sh","-c","git push"],"approved":true,"runId":"`+a.ID+`"}`); err == "" {
		t.Error("a run used the approval of a call")
	}
	// Across a restart, in another order of the members, once.
	w.restart()
	again := `{"env":{"TOKEN":"s3cret"},"cwd":"/srv","command":"git push"}`
	if out, err := w.call(dev, "n1", "exec.run", again, false); err != "" || !strings.HasSuffix(out, `,"approved":true}`) {
		t.Errorf("approved: %s %s", out, err)
	}
	if _, err := w.call(dev, "n1", "exec.run", again, false); err != "call_required" {
		t.Errorf("a second time: %s", err)
	}
	w.stop()
	rows, err := w.svc.ListAudit(context.Background(), ann, approvals.ListAuditIn{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	uses, results, refusals := 0, 0, 0
	for _, e := range rows.Entries {
		text := e.Audit.Command + strings.Join(e.Audit.Argv, " ") + e.Audit.Detail
		if strings.Contains(text, "s3cret") {
			t.Errorf("a row shows a secret: %s", text)
		}
		switch e.Audit.Kind {
		case approvals.AuditUse:
			uses++
			if len(e.Audit.BindingHash) != 64 || e.Audit.Subject == "" || e.Audit.NodeID == "" {
				t.Errorf("a use says too little: %+v", e.Audit)
			}
		case approvals.AuditResult:
			results++
		case approvals.AuditRefusal:
			refusals++
		}
	}
	if uses != 5 || results != 5 || refusals < 20 {
		t.Errorf("%d uses, %d results, %d refusals", uses, results, refusals)
	}
}

// Rules judge what a call would run, and grants are of the call.
func TestGuardCallRules(t *testing.T) {
	w := newWorld(t)
	w.stop()
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	w.rules = func(q policy.Query) policy.Ruling {
		line := strings.Join(q.Argv, " ")
		switch {
		case strings.Contains(line, "rm -rf"):
			return policy.Ruling{Effect: policy.EffectDeny, Rule: "no-rm"}
		case strings.Contains(line, "uptime"):
			return policy.Ruling{Effect: policy.EffectAllow, Rule: "harmless"}
		case strings.HasPrefix(line, "chat.send"):
			return policy.Ruling{Effect: policy.EffectAsk, Rule: "chats"}
		}
		return policy.Ruling{}
	}
	w.open()
	dev := writer("dev")
	for _, c := range []struct {
		who             identity.Caller
		command, params string
		allowed         bool
		want            string
	}{
		{ann, "exec.run", `{"command":"rm -rf /"}`, true, "rule_denies"},
		{ann, "terminal.open", `{"cmd":["rm","-rf","/"]}`, false, "rule_denies"},
		{ann, "terminal.open", `{"argv":["rm","-rf","/"],"command":["ls"]}`, false, "rule_denies"},
		{ann, "terminal.open", `{"argv":["ls"],"cmd":["rm","-rf","/"]}`, false, "call_params"},
		{ann, "system.run", `{"cmd":"rm -rf /"}`, false, "rule_denies"},
		{dev, "exec.run", `{"command":"uptime"}`, false, ""},
		{ann, "chat.send", `{"message":"x"}`, true, "call_required"},
		{dev, "exec.run", `{"command":"date"}`, false, "call_required"},
		{dev, "exec.run", `{"command":"date"}`, true, ""},
	} {
		if _, err := w.call(c.who, "n1", c.command, c.params, c.allowed); err != c.want {
			t.Errorf("%s %s: %q, want %q", c.command, c.params, err, c.want)
		}
	}
	a := w.askCall(dev, "n1", "exec.run", `{"command":"date"}`)
	if _, err := w.svc.Resolve(context.Background(), ann, approvals.ResolveIn{ID: a.ID, Decision: approvals.AllowAlways}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := w.call(dev, "n1", "exec.run", `{"command":"date"}`, false); err != "" {
			t.Errorf("under the answer and its grant: %s", err)
		}
	}
	// The grant is of the call: a run of the same words needs its own.
	if out, _, err := w.svc.GuardRun(context.Background(), dev, "n1", []byte(`{"command":["/bin/sh","-c","date"]}`)); err != nil || strings.Contains(string(out), "approved") {
		t.Errorf("a run under the grant of a call: %s %v", out, err)
	}
}

// A tenant is told of nothing that is about the nodes of another.
func TestApprovalsOfTenants(t *testing.T) {
	w := newWorld(t)
	mine, other, all := writer("a"), writer("b"), ann
	mine.Tenant, other.Tenant = "acme", "beta"
	mine.Scopes, other.Scopes = identity.AllOperatorScopes, identity.AllOperatorScopes
	a := w.askCall(mine, "acme/n1", "exec.run", `{"command":"ls"}`)
	ctx := context.Background()
	for name, err := range map[string]error{
		"get":     second(w.svc.Get(ctx, other, a.ID)),
		"wait":    second(w.svc.Wait(ctx, other, a.ID)),
		"resolve": second(w.svc.Resolve(ctx, other, approvals.ResolveIn{ID: a.ID, Decision: approvals.AllowOnce})),
		"like":    second(w.svc.List(ctx, other, approvals.ListIn{Like: a.ID})),
	} {
		if errs.ClassOf(err) != errs.NotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, in := range []approvals.ListIn{{}, {All: true}} {
		for c, want := range map[*identity.Caller]int{&mine: 1, &other: 0, &all: 1} {
			if got, err := w.svc.List(ctx, *c, in); err != nil || len(got) != want {
				t.Errorf("%+v: %s sees %d (%v)", in, c.Tenant, len(got), err)
			}
		}
	}
	for c, want := range map[*identity.Caller]int{&mine: 1, &other: 0, &all: 1} {
		if got, err := w.svc.ListAudit(ctx, *c, approvals.ListAuditIn{}); err != nil || len(got.Entries) != want {
			t.Errorf("%s sees %d rows (%v)", c.Tenant, len(got.Entries), err)
		}
	}
	node := "acme/n1"
	if _, err := w.svc.Request(ctx, other, approvals.RequestIn{NodeID: &node, Call: &approvals.CallIn{Command: "exec.run"}}); errs.ClassOf(err) != errs.NotFound {
		t.Errorf("a question about it: %v", err)
	}
	if _, err := w.svc.CreateGrant(ctx, other, approvals.CreateGrantIn{NodeID: node, Argv: []string{"ls"}, MaxUses: 1}); errs.ClassOf(err) != errs.NotFound {
		t.Errorf("a grant for it: %v", err)
	}
}

// On a node that all have, questions and grants are of who asked and made them.
func TestTenantsShareNodes(t *testing.T) {
	w := newWorld(t)
	mine, other, all := writer("a"), writer("b"), ann
	mine.Tenant, other.Tenant = "acme", "beta"
	mine.Scopes, other.Scopes = identity.AllOperatorScopes, identity.AllOperatorScopes
	ctx := context.Background()
	a := w.askCall(mine, "n1", "exec.run", `{"command":"ls"}`)
	own := w.askCall(all, "n1", "exec.run", `{"command":"pwd"}`)
	for c, want := range map[*identity.Caller]int{&mine: 1, &other: 0, &all: 2} {
		if got, err := w.svc.List(ctx, *c, approvals.ListIn{}); err != nil || len(got) != want {
			t.Errorf("%q sees %d questions (%v)", c.Tenant, len(got), err)
		}
	}
	for _, id := range []string{a.ID, own.ID} {
		if _, err := w.svc.Resolve(ctx, other, approvals.ResolveIn{ID: id, Decision: approvals.AllowOnce}); errs.ClassOf(err) != errs.NotFound {
			t.Errorf("answered for others: %v", err)
		}
	}
	if events.Concerns(other, approvals.Requested{Approval: a}) || !events.Concerns(mine, approvals.Requested{Approval: a}) || !events.Concerns(all, approvals.Requested{Approval: a}) {
		t.Error("told who is not asked, or not told who is")
	}
	g, err := w.svc.CreateGrant(ctx, mine, approvals.CreateGrantIn{NodeID: "n1", Argv: []string{"ls"}, MaxUses: 1, AnyRequester: true, AnyAgent: true, AnyCwd: true})
	if err != nil || g.Grant.Tenant != "acme" {
		t.Fatalf("%+v, %v", g, err)
	}
	for c, want := range map[*identity.Caller]int{&mine: 1, &other: 0, &all: 1} {
		if got, err := w.svc.ListGrants(ctx, *c, approvals.ListGrantsIn{}); err != nil || len(got.Grants) != want {
			t.Errorf("%q sees %d grants (%v)", c.Tenant, len(got.Grants), err)
		}
	}
	if _, err := w.svc.RevokeGrant(ctx, other, g.Grant.ID); errs.ClassOf(err) != errs.NotFound {
		t.Errorf("revoked by another: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// An approval of a terminal covers what it runs; how the gateway takes its output is none of that.
func TestGuardCallTerminal(t *testing.T) {
	w := newWorld(t)
	dev := writer("dev")
	term := w.askCall(dev, "n1", "terminal.open", `{"cols":80,"rows":24,"argv":["git","push"]}`)
	w.decide(term.ID, approvals.AllowOnce)
	if out, err := w.call(dev, "n1", "terminal.open", `{"rows":24,"cols":80,"argv":["git","push"],"window":65536}`, false); err != "" || !strings.Contains(out, `"window":65536`) {
		t.Errorf("a terminal with an approval: %s %s", out, err)
	}
}
