package approvals_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/identity"
)

// modelRun is what a run is about, as the model compares it: by value, field by field.
type modelRun struct {
	node, agent, session, cwd, env string
	argv                           string
}

// modelGrant is a grant as the model keeps it: what it was asked for, and nothing that the service says.
type modelGrant struct {
	run       modelRun
	anyCwd    bool
	session   bool
	requester string // "" is anybody
	left      int    // -1 is any number
	until     time.Time
	revoked   bool
}

func (g *modelGrant) covers(r modelRun, who string, now time.Time) bool {
	want := g.run
	if g.anyCwd {
		want.cwd = r.cwd
	}
	if !g.session {
		want.session = r.session
	}
	return want == r && (g.requester == "" || g.requester == who) && g.left != 0 && !g.revoked && (g.until.IsZero() || !now.After(g.until))
}

// modelApproval is a question and what became of it.
type modelApproval struct {
	run     modelRun
	by      identity.Caller
	d       approvals.Decision
	expires time.Time
	uses    int
	grant   string // that answered it, or that it made
}

// No run goes out as approved without an earlier recorded allow that is about exactly this run: whatever
// is asked, answered, granted, revoked and run in whatever order, across restarts, by whomever, and
// whatever the rules say meanwhile. A small model keeps what was asked for; the store is the real one.
func TestEveryRunHasItsAllow(t *testing.T) {
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(outer)
		var now atomic.Int64
		now.Store(1_700_000_000_000)
		effect := policy.Abstain
		w.stop()
		w.now = func() time.Time { return time.UnixMilli(now.Load()) }
		w.rules = func(q policy.Query) policy.Ruling {
			if q.Argv[0] != "/bin/a" {
				return policy.Ruling{}
			}
			return policy.Ruling{Effect: effect, Rule: "r", Where: "f:1"}
		}
		if err := w.store.Close(); err != nil {
			t.Fatal(err)
		}
		w.open()
		defer func() {
			w.stop()
			_ = w.store.Close()
		}()
		var (
			pick    = func(name string, of ...string) string { return rapid.SampledFrom(of).Draw(t, name) }
			callers = map[string]identity.Caller{
				"ann": ann, "ann again": caller("", "conn:2"), "iam": caller("", "iam:x"), "device": caller("d", "conn:3"), "device again": caller("d", "conn:4"),
			}
			subject = map[string]string{"ann": "shared-secret", "ann again": "shared-secret", "iam": "iam:x", "device": "device:d", "device again": "device:d"}
			who     = func() string { return pick("who", "ann", "ann again", "iam", "device", "device again") }
			asked   = map[string]*modelApproval{}
			grants  = map[string]*modelGrant{}
			order   []string
			ctx     = context.Background()
			drawRun = func() modelRun {
				return modelRun{
					node: pick("node", "n1", "n1", "n2"), agent: pick("agent", "", "main"), session: pick("session", "", "s"),
					cwd: pick("cwd", "/srv", "/tmp"), env: pick("env", "", "", "1"), argv: pick("argv", "/bin/a", "/bin/b"),
				}
			}
			orNil = func(s string) *string {
				if s == "" {
					return nil
				}
				return &s
			}
			env = func(r modelRun) map[string]string {
				if r.env == "" {
					return nil
				}
				return map[string]string{"A": r.env}
			}
			// covering are the grants that cover a run, in the model.
			covering = func(r modelRun, who string) (ids []string) {
				for _, id := range order {
					if grants[id].covers(r, who, w.now()) {
						ids = append(ids, id)
					}
				}
				return ids
			}
			// used takes a use from the grant that the service named.
			used = func(id string, r modelRun, who string) {
				g := grants[id]
				if g == nil || !g.covers(r, who, w.now()) {
					t.Fatalf("grant %s let %+v of %s run: %+v", id, r, who, g)
				}
				if g.left > 0 {
					g.left--
				}
			}
			limit = func() (approvals.GrantIn, modelGrant) {
				in, g := approvals.GrantIn{}, modelGrant{left: -1}
				switch pick("limit", "uses", "until", "always", "session") {
				case "uses":
					in.MaxUses = rapid.IntRange(1, 2).Draw(t, "uses")
					g.left = in.MaxUses
				case "until":
					in.Until = w.now().Add(time.Minute)
					g.until = in.Until
				case "session":
					in.Session, g.session = true, true
					g.until = w.now().Add(approvals.MaxTimeout)
				default:
					in.Always = true
				}
				in.AnyCwd = pick("any cwd", "no", "no", "yes") == "yes"
				in.AnyRequester = pick("anybody", "no", "no", "yes") == "yes"
				g.anyCwd = in.AnyCwd
				return in, g
			}
			sent = func(out []byte) (modelRun, bool) {
				var p struct {
					Command                  []string
					Cwd, AgentID, SessionKey string
					Env                      map[string]string
					Approved                 bool
				}
				if err := json.Unmarshal(out, &p); err != nil {
					t.Fatal(err)
				}
				return modelRun{agent: p.AgentID, session: p.SessionKey, cwd: p.Cwd, env: p.Env["A"], argv: strings.Join(p.Command, " ")}, p.Approved
			}
			lastRow = func() approvals.Audit {
				rows, err := w.store.Audit(0, 100_000)
				if err != nil {
					t.Fatal(err)
				}
				// What expires, and what an earlier daemon did not see the end of, is written when it comes up.
				rows = slices.DeleteFunc(rows, func(r approvals.Audit) bool { return r.Kind != approvals.AuditUse })
				if len(rows) == 0 {
					t.Fatal("nothing is recorded")
				}
				return rows[len(rows)-1]
			}
		)
		for step := range rapid.IntRange(1, 40).Draw(t, "steps") {
			id := pick("id", "1", "2", "3")
			switch pick("step", "ask", "ask", "answer", "answer", "create", "revoke", "claim", "claim", "run", "run", "wait", "restart", "rules") {
			case "rules":
				effect = policy.Effect(pick("effect", "", "allow", "ask", "deny"))
			case "ask":
				r, name := drawRun(), who()
				in := approvals.RequestIn{
					ID: id, Command: "x", CommandArgv: []string{r.argv}, Host: ptr("node"), NodeID: ptr(r.node), Env: env(r), Timeout: time.Minute,
					Plan: &approvals.Plan{Argv: []string{r.argv}, Cwd: ptr(r.cwd), AgentID: orNil(r.agent), SessionKey: orNil(r.session)},
				}
				ids := covering(r, subject[name])
				a, err := w.svc.Request(ctx, callers[name], in)
				ruled := r.argv == "/bin/a"
				switch {
				case err != nil:
					if asked[id] == nil && (!ruled || effect != policy.EffectDeny) {
						t.Fatalf("step %d: %v", step, err)
					}
					continue
				case ruled && effect == policy.EffectDeny:
					t.Fatalf("step %d: asked what a rule forbids", step)
				}
				m := &modelApproval{run: r, by: callers[name], expires: w.now().Add(time.Minute)}
				asked[id] = m
				switch {
				case strings.HasPrefix(a.ResolvedBySubject, "grant:"):
					m.d, m.grant = approvals.AllowOnce, a.GrantID
					used(a.GrantID, r, subject[name])
				case a.ResolvedBySubject == "rule:r":
					if !ruled || effect != policy.EffectAllow {
						t.Fatalf("step %d: no rule allows %+v", step, r)
					}
					m.d = approvals.AllowOnce
				case len(ids) > 0 || ruled && effect == policy.EffectAllow:
					t.Fatalf("step %d: asked although %v cover it and rules say %q", step, ids, effect)
				case a.State != approvals.Pending:
					t.Fatalf("step %d: %+v", step, a)
				}
			case "answer":
				in := approvals.ResolveIn{ID: id, Decision: approvals.Decision(pick("decision", "allow-once", "allow-always", "deny"))}
				g := modelGrant{left: -1}
				makes := in.Decision == approvals.AllowAlways
				anybody := false
				if in.Decision == approvals.AllowOnce && pick("with", "none", "grant") == "grant" {
					var ask approvals.GrantIn
					ask, g = limit()
					in.Grant, makes, anybody = &ask, true, ask.AnyRequester
				}
				a, err := w.svc.Resolve(ctx, boss, in)
				if err != nil {
					continue
				}
				m := asked[id]
				m.d = a.Decision
				if !makes {
					continue
				}
				g.run = m.run
				if !anybody {
					for name, c := range callers {
						if c.DeviceID == m.by.DeviceID && c.Principal == m.by.Principal {
							g.requester = subject[name]
						}
					}
				}
				m.grant = a.GrantID
				grants[a.GrantID] = &g
				order = append(order, a.GrantID)
			case "create":
				r, name := drawRun(), who()
				ask, g := limit()
				in := approvals.CreateGrantIn{
					Argv: []string{r.argv}, NodeID: r.node, AgentID: orNil(r.agent), Cwd: ptr(r.cwd), AnyCwd: ask.AnyCwd, Env: env(r),
					AnyRequester: ask.AnyRequester, MaxUses: ask.MaxUses, Until: ask.Until, Always: ask.Always,
				}
				g.until = ask.Until
				if ask.Session {
					in.SessionKey = ptr("s")
					r.session = "s"
				}
				out, err := w.svc.CreateGrant(ctx, callers[name], in)
				if err != nil {
					if r.argv == "/bin/a" && effect == policy.EffectDeny {
						continue
					}
					t.Fatalf("step %d: %v", step, err)
				}
				g.run, g.requester = r, subject[name]
				if ask.AnyRequester {
					g.requester = ""
				}
				grants[out.Grant.ID] = &g
				order = append(order, out.Grant.ID)
			case "revoke":
				if len(order) == 0 {
					continue
				}
				one := order[rapid.IntRange(0, len(order)-1).Draw(t, "which")]
				if _, err := w.svc.RevokeGrant(ctx, boss, one); (err == nil) == grants[one].revoked {
					t.Fatalf("step %d: %v", step, err)
				}
				grants[one].revoked = true
			case "wait":
				now.Add(int64(rapid.IntRange(1, 40).Draw(t, "seconds")) * 1000)
			case "restart":
				if rapid.IntRange(0, 3).Draw(t, "really") == 0 {
					w.restart()
				}
			case "claim":
				name, r := who(), drawRun()
				params := fmt.Sprintf(`{"command":["/bin/evil"],"runId":%q,"approved":true,"cwd":"/evil"%s}`, id, map[bool]string{true: `,"env":{"A":"1"}`}[r.env != ""])
				out, _, err := w.svc.GuardRun(ctx, callers[name], r.node, []byte(params))
				if err != nil {
					continue
				}
				m := asked[id]
				c := callers[name]
				switch {
				case m == nil || m.d != approvals.AllowOnce && m.d != approvals.AllowAlways:
					t.Fatalf("step %d: %s passed without an allow", step, id)
				case m.d == approvals.AllowOnce && m.uses > 0:
					t.Fatalf("step %d: %s passed twice", step, id)
				case w.now().After(m.expires), r.node != m.run.node, r.env != m.run.env,
					m.by.DeviceID != c.DeviceID, m.by.DeviceID == "" && m.by.Principal != c.Principal:
					t.Fatalf("step %d: %+v passed as %+v for %s", step, r, m, name)
				case m.grant != "" && grants[m.grant].revoked:
					t.Fatalf("step %d: %s passed although its grant was revoked", step, id)
				case m.run.argv == "/bin/a" && effect == policy.EffectDeny:
					t.Fatalf("step %d: %s passed a rule", step, id)
				}
				got, approved := sent(out)
				got.node, got.env = r.node, r.env
				if !approved || got != m.run {
					t.Fatalf("step %d: sent %s for %+v", step, out, m.run)
				}
				m.uses++
				if row := lastRow(); row.ApprovalID != id {
					t.Fatalf("step %d: the use is not recorded: %+v", step, row)
				}
			case "run":
				name, r := who(), drawRun()
				params := map[string]any{"command": []string{r.argv}, "cwd": r.cwd}
				if r.agent != "" {
					params["agentId"] = r.agent
				}
				if r.session != "" {
					params["sessionKey"] = r.session
				}
				if r.env != "" {
					params["env"] = env(r)
				}
				text, err := json.Marshal(params)
				if err != nil {
					t.Fatal(err)
				}
				ids, ruled := covering(r, subject[name]), r.argv == "/bin/a"
				out, _, err := w.svc.GuardRun(ctx, callers[name], r.node, text)
				denied := ruled && effect == policy.EffectDeny
				asks := ruled && effect == policy.EffectAsk && len(ids) == 0
				if err != nil {
					if !denied && !asks {
						t.Fatalf("step %d: %v", step, err)
					}
					continue
				}
				got, approved := sent(out)
				got.node = r.node
				if denied || asks || got != r {
					t.Fatalf("step %d: sent %s for %+v, rules say %s", step, out, r, effect)
				}
				if want := len(ids) > 0 || ruled && effect == policy.EffectAllow; approved != want {
					t.Fatalf("step %d: approved %v; %v cover it, rules say %q", step, approved, ids, effect)
				}
				row := lastRow()
				if !slices.Equal(row.Argv, []string{r.argv}) || row.Cwd != r.cwd {
					t.Fatalf("step %d: the use is not recorded: %+v", step, row)
				}
				if !approved {
					continue
				}
				a, err := w.store.Approval(row.ApprovalID)
				if err != nil || a.State != approvals.Consumed || a.Uses != 1 || !slices.Equal(a.Binding.Argv, []string{r.argv}) {
					t.Fatalf("step %d: %+v %v", step, a, err)
				}
				if a.GrantID != "" {
					used(a.GrantID, r, subject[name])
				} else if !ruled || effect != policy.EffectAllow {
					t.Fatalf("step %d: nothing allows it: %+v", step, a)
				}
			}
		}
		// What the store says about the grants is what the model says.
		for id, g := range grants {
			out, err := w.svc.GetGrant(ctx, boss, id)
			if err != nil {
				t.Fatal(err)
			}
			if live := g.left != 0 && !g.revoked && (g.until.IsZero() || !w.now().After(g.until)); live != (out.State == approvals.GrantLive) {
				t.Fatalf("%s is %s; the model says %+v", id, out.State, g)
			}
		}
	})
}
