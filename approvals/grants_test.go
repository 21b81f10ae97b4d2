package approvals_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

var (
	boss = caller("boss", "conn:b")
	echo = []string{"/bin/echo", "hi"}
)

// held is a caller with some scopes only.
func held(c identity.Caller, scopes ...identity.Scope) identity.Caller {
	c.Scopes = scopes
	return c
}

// question is a question for a node, as one client asks it.
func question(id string, change func(*approvals.RequestIn)) approvals.RequestIn {
	in := run(id, echo...)
	if change != nil {
		change(&in)
	}
	return in
}

func (w *world) request(c identity.Caller, in approvals.RequestIn) approvals.Approval {
	w.tb.Helper()
	a, err := w.svc.Request(context.Background(), c, in)
	if err != nil {
		w.tb.Fatal(err)
	}
	return a
}

func (w *world) answer(c identity.Caller, in approvals.ResolveIn) (approvals.Approval, error) {
	return w.svc.Resolve(context.Background(), c, in)
}

// allow answers with a grant and returns the grant.
func (w *world) allow(c identity.Caller, in approvals.RequestIn, g approvals.GrantIn) approvals.Grant {
	w.tb.Helper()
	w.request(ann, in)
	a, err := w.answer(c, approvals.ResolveIn{ID: in.ID, Decision: approvals.AllowOnce, Grant: &g})
	if err != nil {
		w.tb.Fatal(err)
	}
	out, err := w.svc.GetGrant(context.Background(), c, a.GrantID)
	if err != nil {
		w.tb.Fatal(err)
	}
	return out.Grant
}

const plainRun = `{"command":["/bin/echo","hi"],"cwd":"/srv"}`

// An allow-always answer lets the same command run again, in a new session, over a new connection and
// after a restart, and nothing else.
func TestAlwaysIsAlways(t *testing.T) {
	w := newWorld(t)
	w.request(ann, question("a1", nil))
	w.decide("a1", approvals.AllowAlways)
	for _, when := range []string{"before", "after a restart"} {
		if when != "before" {
			w.restart()
		}
		var seen []string
		sub := w.bus.Subscribe(func(e events.Event) bool { return strings.HasPrefix(e.Name, "exec.") })
		elsewhere := caller("", "conn:another of ann's")
		a := w.request(elsewhere, question("", func(in *approvals.RequestIn) { in.Plan.SessionKey = ptr("new") }))
		if a.State != approvals.Allowed || a.Decision != approvals.AllowOnce || !strings.HasPrefix(a.ResolvedBy, "grant ") || a.GrantID == "" {
			t.Fatalf("%s: %+v", when, a)
		}
		for range 2 {
			e, err := sub.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			seen = append(seen, e.Name)
		}
		sub.Close()
		if got := strings.Join(seen, " "); got != "exec.approval.requested exec.approval.resolved" {
			t.Errorf("%s: events %s", when, got)
		}
		if out, err := w.svc.Wait(t.Context(), elsewhere, a.ID); err != nil || out.Decision != approvals.AllowOnce {
			t.Errorf("%s: %v %v", when, out.Decision, err)
		}
		claim := fmt.Sprintf(`{"command":["x"],"runId":%q,"approved":true}`, a.ID)
		if _, refusal := w.use(elsewhere, "n1", claim); refusal != "" {
			t.Errorf("%s: refused: %s", when, refusal)
		}
		if _, refusal := w.use(elsewhere, "n1", claim); refusal != "run_required" {
			t.Errorf("%s: a second use: %q", when, refusal)
		}
		if got, refusal := w.use(elsewhere, "n1", `{"command":["/bin/echo","hi"],"cwd":"/srv","runId":"mine","approved":false,"extra":1}`); refusal != "" ||
			got != `{"command":["/bin/echo","hi"],"cwd":"/srv","runId":"mine","approved":true,"approvalDecision":"allow-once"}` {
			t.Errorf("%s: %s %s", when, got, refusal)
		}
	}
	for name, x := range map[string]struct {
		c      identity.Caller
		node   string
		params string
	}{
		"node":      {ann, "n2", plainRun},
		"words":     {ann, "n1", `{"command":["/bin/echo","ho"],"cwd":"/srv"}`},
		"more":      {ann, "n1", `{"command":["/bin/echo","hi","hi"],"cwd":"/srv"}`},
		"program":   {ann, "n1", `{"command":["echo","hi"],"cwd":"/srv"}`},
		"directory": {ann, "n1", `{"command":["/bin/echo","hi"],"cwd":"/"}`},
		"nowhere":   {ann, "n1", `{"command":["/bin/echo","hi"]}`},
		"agent":     {ann, "n1", `{"command":["/bin/echo","hi"],"cwd":"/srv","agentId":"main"}`},
		"no agent":  {ann, "n1", `{"command":["/bin/echo","hi"],"cwd":"/srv","agentId":""}`},
		"env":       {ann, "n1", `{"command":["/bin/echo","hi"],"cwd":"/srv","env":{"A":"1"}}`},
		"device":    {caller("mallory", "conn:m"), "n1", plainRun},
		"local":     {caller("", "local:1000"), "n1", plainRun},
	} {
		if got, refusal := w.use(x.c, x.node, x.params); refusal != "" || strings.Contains(got, "approved") {
			t.Errorf("another %s ran as approved: %s %s", name, got, refusal)
		}
	}
	// Text for people that is not what would run is refused as ever.
	if _, refusal := w.use(ann, "n1", `{"command":["/bin/echo","hi"],"cwd":"/srv","rawCommand":"ls"}`); refusal == "" {
		t.Error("a wrong text passed")
	}
}

// A line for a shell is found again whatever its spacing and quoting; what cannot be found again is said
// before the click.
func TestAlwaysForShellLines(t *testing.T) {
	w := newWorld(t)
	line := func(id, text string) approvals.RequestIn {
		return question(id, func(in *approvals.RequestIn) { in.Plan.Argv = []string{"/bin/sh", "-c", text} })
	}
	w.request(ann, line("a", "ls -l 'a b' && cat out | wc -l"))
	w.decide("a", approvals.AllowAlways)
	if a := w.request(ann, line("b", `ls  -l  "a b"  &&  cat out|wc -l`)); a.State != approvals.Allowed {
		t.Errorf("the same line is asked about again: %+v", a)
	}
	for i, other := range []string{
		"ls -l 'a b' && cat out | wc -c", "ls -l 'a b' || cat out | wc -l", "ls -l a b && cat out | wc -l",
		"ls -l 'a b' && cat out | wc -l; id", "ls -l 'a b' && cat $out | wc -l", "ls -l 'a b' && cat out | wc -l > x",
	} {
		if a := w.request(ann, line(fmt.Sprint("o", i), other)); a.State != approvals.Pending {
			t.Errorf("%s runs without being asked about", other)
		}
	}
	// One that writes to a file, or expands something, is found again by its very text.
	w.request(ann, line("c", "make > log 2>&1; echo $?"))
	w.decide("c", approvals.AllowAlways)
	if a := w.request(ann, line("d", "make > log 2>&1; echo $?")); a.State != approvals.Allowed {
		t.Errorf("the same text is asked about again: %+v", a)
	}
	for i, argv := range [][]string{{"/bin/sh", "x.sh"}, {"/bin/sh", "-c", ". ./x"}, {"/bin/sh", "-c", "$X"}, {"/usr/bin/python3", "x.py"}} {
		id := fmt.Sprint("r", i)
		a := w.request(ann, question(id, func(in *approvals.RequestIn) { in.Plan.Argv = argv }))
		if a.Key != "" || a.KeyRefused == "" {
			t.Errorf("%q: %q %q", argv, a.Key, a.KeyRefused)
		}
		if _, err := w.answer(boss, approvals.ResolveIn{ID: id, Decision: approvals.AllowAlways}); !errors.Is(err, approvals.ErrGrantKey) || !strings.Contains(err.Error(), a.KeyRefused) {
			t.Errorf("%q: %v", argv, err)
		}
	}
	// On the gateway host a line has no words of its own.
	host := func(id, text string) approvals.RequestIn {
		return approvals.RequestIn{ID: id, Command: text, Host: ptr("gateway"), Cwd: ptr("/srv")}
	}
	w.request(ann, host("h", "git  status"))
	w.decide("h", approvals.AllowAlways)
	if a := w.request(ann, host("h2", "git status")); a.State != approvals.Allowed {
		t.Errorf("%+v", a)
	}
	if a := w.request(ann, host("h3", "git status; id")); a.State != approvals.Pending {
		t.Errorf("%+v", a)
	}
}

// A grant holds for the programs that were allowed: when one of them changes, it is asked about again.
func TestGrantBindsFiles(t *testing.T) {
	w, b := bindingWorld(t)
	defer w.stop()
	deploy := func(id string) approvals.RequestIn { return run(id, "/usr/bin/deploy", "x") }
	params := `{"command":["/usr/bin/deploy","x"],"cwd":"/srv"}`
	files := func(of string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.answer = prepared(of)
	}
	w.request(ann, deploy("a"))
	w.decide("a", approvals.AllowAlways)
	w.restart()
	list, err := w.svc.ListGrants(t.Context(), boss, approvals.ListGrantsIn{})
	if err != nil || len(list.Grants) != 1 || len(list.Grants[0].Files) != 2 || list.Grants[0].Files[1].Path != "/usr/bin/deploy" {
		t.Fatalf("%+v %v", list, err)
	}
	same := func(when string, want bool) {
		t.Helper()
		a := w.request(ann, deploy(when))
		if (a.State == approvals.Allowed) != want {
			t.Errorf("%s: %s", when, a.State)
		}
		got, refusal := w.use(ann, "n1", params)
		if strings.Contains(got, `"approved":true`) != want || strings.Contains(got, `"binding":{`) != want || refusal != "" {
			t.Errorf("%s: %s %s", when, got, refusal)
		}
	}
	same("as it was", true)
	files(strings.Replace(boundFiles, `"inode":"12"`, `"inode":"99"`, 1))
	same("a copy of the same", true)
	other := strings.Repeat("f", 64)
	files(strings.Replace(boundFiles, hexSum, other, 1))
	same("another program", false)
	files(strings.Replace(boundFiles, `"path":"/usr/bin/dash","role":"interpreter","sha256":"`+hexSum, `"path":"/usr/bin/dash","role":"interpreter","sha256":"`+other, 1))
	same("another shell", false)
	files(strings.Replace(boundFiles, `"path":"/usr/bin/dash"`, `"path":"/usr/bin/bash"`, 1))
	same("a shell elsewhere", false)
	files(`{}`)
	same("no files", false)
	b.mu.Lock()
	b.old, b.answer = true, prepared(boundFiles)
	b.mu.Unlock()
	same("a node that does not say", false)
	b.mu.Lock()
	b.old = false
	b.mu.Unlock()
	same("as it was again", true)

	// A grant that says so does not look at the files, and one for a node that was away has to say so.
	b.mu.Lock()
	b.away = true
	b.mu.Unlock()
	w.request(caller("zed", "conn:z"), deploy("away"))
	if _, err := w.answer(boss, approvals.ResolveIn{ID: "away", Decision: approvals.AllowAlways}); !errors.Is(err, approvals.ErrGrantFiles) {
		t.Errorf("a grant for any files: %v", err)
	}
	if _, err := w.answer(boss, approvals.ResolveIn{ID: "away", Decision: approvals.AllowOnce, Grant: &approvals.GrantIn{Always: true, AnyFiles: true}}); err != nil {
		t.Error(err)
	}
	b.mu.Lock()
	b.away = false
	b.mu.Unlock()
	files(strings.ReplaceAll(boundFiles, hexSum, other))
	if a := w.request(caller("zed", "conn:z"), deploy("any")); a.State != approvals.Allowed {
		t.Errorf("%+v", a)
	}
}

func TestGrantLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		approved := func(c identity.Caller, params string) bool {
			got, refusal := w.use(c, "n1", params)
			return refusal == "" && strings.Contains(got, `"approved":true`)
		}
		g := w.allow(boss, question("u", nil), approvals.GrantIn{MaxUses: 2})
		for i, want := range []bool{true, true, false} {
			if approved(ann, plainRun) != want {
				t.Errorf("use %d of 2: %v", i+1, !want)
			}
		}
		if out, err := w.svc.GetGrant(t.Context(), ann, g.ID); err != nil || out.State != approvals.GrantUsed || out.Grant.Uses != 2 || out.Grant.LastUsedAt.IsZero() {
			t.Errorf("%+v %v", out, err)
		}

		w.allow(boss, question("t", nil), approvals.GrantIn{Until: time.Now().Add(time.Hour)})
		if !approved(ann, plainRun) {
			t.Error("within its time")
		}
		time.Sleep(time.Hour + time.Millisecond)
		if approved(ann, plainRun) {
			t.Error("after its time")
		}

		session := `{"command":["/bin/echo","hi"],"cwd":"/srv","sessionKey":"s1"}`
		w.allow(boss, question("s", func(in *approvals.RequestIn) { in.Plan.SessionKey = ptr("s1") }), approvals.GrantIn{Session: true})
		if approved(ann, plainRun) || approved(ann, strings.Replace(session, "s1", "s2", 1)) || !approved(ann, session) {
			t.Error("the session does not bind")
		}
		time.Sleep(approvals.MaxTimeout + time.Millisecond)
		if approved(ann, session) {
			t.Error("a session holds for ever")
		}

		g = w.allow(boss, question("p", nil), approvals.GrantIn{Always: true, Pattern: []string{"/bin/echo", "h*"}, AnyCwd: true, AnyRequester: true, AnyAgent: true})
		zed := caller("zed", "conn:z")
		if !approved(zed, `{"command":["/bin/echo","hu"],"agentId":"x"}`) || approved(zed, `{"command":["/bin/echo","xu"]}`) || approved(zed, `{"command":["/bin/echo","hu","hu"]}`) {
			t.Error("the pattern does not decide")
		}
		waiting := w.request(zed, question("w", nil))
		if waiting.State != approvals.Allowed {
			t.Fatalf("%+v", waiting)
		}
		if _, err := w.svc.RevokeGrant(t.Context(), boss, g.ID); err != nil {
			t.Fatal(err)
		}
		if approved(zed, `{"command":["/bin/echo","hu"]}`) {
			t.Error("used after it was revoked")
		}
		if _, refusal := w.use(zed, "n1", `{"command":["x"],"runId":"w","approved":true}`); refusal != "run_revoked" {
			t.Errorf("a run that waited: %q", refusal)
		}
		if _, err := w.svc.RevokeGrant(t.Context(), boss, g.ID); !errors.Is(err, approvals.ErrGrantEnded) {
			t.Errorf("revoked twice: %v", err)
		}
		if _, err := w.svc.RevokeGrant(t.Context(), boss, "nope"); !errors.Is(err, approvals.ErrUnknownGrant) {
			t.Errorf("unknown: %v", err)
		}
		// The allow-always approval that made a grant ends with it, too.
		w.request(ann, question("x", nil))
		a, err := w.answer(boss, approvals.ResolveIn{ID: "x", Decision: approvals.AllowAlways})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.svc.RevokeGrant(t.Context(), boss, a.GrantID); err != nil {
			t.Fatal(err)
		}
		if _, refusal := w.use(ann, "n1", `{"command":["x"],"runId":"x","approved":true}`); refusal != "run_revoked" {
			t.Errorf("the approval of a revoked grant: %q", refusal)
		}
	})
}

func TestGrantRefusals(t *testing.T) {
	w := newWorld(t)
	approver := held(caller("a", "conn:a"), identity.ScopeApprovals)
	now := time.Now()
	for i, x := range []struct {
		c    identity.Caller
		in   approvals.GrantIn
		want error
	}{
		{approver, approvals.GrantIn{}, approvals.ErrGrantLimit},
		{approver, approvals.GrantIn{Always: true, MaxUses: 1}, approvals.ErrGrantLimit},
		{approver, approvals.GrantIn{MaxUses: -1}, approvals.ErrGrantUses},
		{approver, approvals.GrantIn{MaxUses: 1_000_001}, approvals.ErrGrantUses},
		{approver, approvals.GrantIn{Until: now.Add(-time.Second)}, approvals.ErrGrantUntil},
		{approver, approvals.GrantIn{Session: true}, approvals.ErrGrantSession},
		{approver, approvals.GrantIn{MaxUses: 1, Note: strings.Repeat("x", 501)}, approvals.ErrGrantNote},
		{approver, approvals.GrantIn{MaxUses: 1, Pattern: []string{"/bin/rm", "**"}}, approvals.ErrGrantPattern},
		{approver, approvals.GrantIn{MaxUses: 1, Pattern: []string{"*", "**"}}, approvals.ErrGrantPattern},
		{approver, approvals.GrantIn{MaxUses: 1, Pattern: []string{"**"}}, approvals.ErrGrantPattern},
		{approver, approvals.GrantIn{MaxUses: 1, Pattern: []string{"/bin/echo", ""}}, approvals.ErrGrantPattern},
		{approver, approvals.GrantIn{Always: true, Pattern: []string{"/bin/echo", "**"}}, approvals.ErrGrantPowers},
		{approver, approvals.GrantIn{MaxUses: 1001, Pattern: []string{"/bin/echo", "**"}}, approvals.ErrGrantPowers},
		{approver, approvals.GrantIn{Until: now.Add(8 * 24 * time.Hour), Pattern: []string{"/bin/echo", "**"}}, approvals.ErrGrantPowers},
		{approver, approvals.GrantIn{MaxUses: 1, Until: now.Add(8 * 24 * time.Hour), Pattern: []string{"/bin/echo", "**"}}, approvals.ErrGrantPowers},
		{approver, approvals.GrantIn{MaxUses: 1000, Until: now.Add(time.Hour), Pattern: []string{"/bin/echo", "**"}}, nil},
		{approver, approvals.GrantIn{Always: true}, nil},
		{boss, approvals.GrantIn{Always: true, Pattern: []string{"/bin/echo", "**"}}, nil},
	} {
		id := fmt.Sprintf("q%d", i)
		// Each asks something of its own, so that no grant before it answers.
		in := question(id, nil)
		in.Plan.Argv = []string{"/bin/echo", id}
		w.request(caller("asker"+id, "conn:x"), in)
		_, err := w.answer(x.c, approvals.ResolveIn{ID: id, Decision: approvals.AllowOnce, Grant: &x.in})
		if !errors.Is(err, x.want) || (x.want == nil) != (err == nil) {
			t.Errorf("%d %+v: %v, want %v", i, x.in, err, x.want)
		}
		a, err := w.svc.Get(t.Context(), ann, id)
		if err != nil {
			t.Fatal(err)
		}
		if x.want != nil && a.State != approvals.Pending {
			t.Errorf("%d: refused, and %s", i, a.State)
		}
	}
	// No grant goes with a denial, and none is made for what is not known.
	w.request(ann, question("d", func(in *approvals.RequestIn) { in.Plan.Argv = []string{"/bin/d"} }))
	if _, err := w.answer(boss, approvals.ResolveIn{ID: "d", Decision: approvals.Deny, Grant: &approvals.GrantIn{MaxUses: 1}}); !errors.Is(err, approvals.ErrGrantDecision) {
		t.Error(err)
	}
	long := question("l", func(in *approvals.RequestIn) { in.Plan.Argv = []string{"/bin/echo", strings.Repeat("x", 5000)} })
	if a := w.request(ann, long); a.KeyRefused == "" || a.Key != "" {
		t.Errorf("%+v", a)
	}
	if _, err := w.answer(boss, approvals.ResolveIn{ID: "l", Decision: approvals.AllowAlways}); !errors.Is(err, approvals.ErrGrantKey) || !strings.Contains(err.Error(), "4 KiB") {
		t.Error(err)
	}
	// A legacy client is not refused: the node stores what it can.
	if a, err := w.answer(boss, approvals.ResolveIn{ID: "l", Decision: approvals.AllowAlways, GrantOptional: true}); err != nil || a.Decision != approvals.AllowAlways || a.GrantID != "" {
		t.Errorf("%+v %v", a, err)
	}
	sandbox := approvals.RequestIn{ID: "sb", Command: "ls", Host: ptr("sandbox")}
	if a := w.request(ann, sandbox); a.KeyRefused == "" {
		t.Error("a command of nowhere has a key")
	}
}

// Grants by themselves: the same rules, and nobody gives more than it has.
func TestCreateGrant(t *testing.T) {
	w := newWorld(t)
	approver := held(caller("a", "conn:a"), identity.ScopeApprovals)
	for i, x := range []struct {
		c    identity.Caller
		in   approvals.CreateGrantIn
		want error
	}{
		{approver, approvals.CreateGrantIn{NodeID: "n1", MaxUses: 1}, approvals.ErrGrantCommand},
		{approver, approvals.CreateGrantIn{NodeID: "n1", MaxUses: 1, Argv: echo, Pattern: echo}, approvals.ErrGrantCommand},
		{approver, approvals.CreateGrantIn{NodeID: "n1", Argv: echo}, approvals.ErrGrantLimit},
		{approver, approvals.CreateGrantIn{NodeID: "n1", Pattern: echo, Always: true}, approvals.ErrGrantPowers},
		{approver, approvals.CreateGrantIn{NodeID: strings.Repeat("n", 5000), Argv: echo, Always: true}, approvals.ErrTooLarge},
		{held(approver, identity.ScopeWrite), approvals.CreateGrantIn{NodeID: "n1", Argv: echo, Always: true}, approvals.ErrGrantPowers},
		{held(approver), approvals.CreateGrantIn{NodeID: "n1", Argv: echo, Always: true}, approvals.ErrGrantPowers},
	} {
		if _, err := w.svc.CreateGrant(t.Context(), x.c, x.in); !errors.Is(err, x.want) {
			t.Errorf("%d: %v, want %v", i, err, x.want)
		}
	}
	out, err := w.svc.CreateGrant(t.Context(), approver, approvals.CreateGrantIn{
		NodeID: "n1", Argv: echo, Cwd: ptr("/srv"), Env: map[string]string{"A": "1"}, MaxUses: 1, Requester: "shared-secret", Note: "for the night",
	})
	if err != nil || out.State != approvals.GrantLive || out.Grant.CreatedBy != "device:a" {
		t.Fatalf("%+v %v", out, err)
	}
	with := `{"command":["/bin/echo","hi"],"cwd":"/srv","env":{"A":"1"}}`
	if got, _ := w.use(ann, "n1", plainRun); strings.Contains(got, "approved") {
		t.Error("without the environment that it is for")
	}
	if got, _ := w.use(approver, "n1", with); strings.Contains(got, "approved") {
		t.Error("by its maker, whom it does not name")
	}
	if got, _ := w.use(ann, "n1", with); !strings.Contains(got, `"approved":true`) || !strings.Contains(got, `"env":{"A":"1"}`) {
		t.Error(got)
	}
	if got, _ := w.use(ann, "n1", with); strings.Contains(got, "approved") {
		t.Error("twice")
	}
	live, err := w.svc.ListGrants(t.Context(), boss, approvals.ListGrantsIn{})
	if err != nil || len(live.Grants) != 0 {
		t.Errorf("%+v %v", live, err)
	}
	for range 5 {
		if _, err := w.svc.CreateGrant(t.Context(), approver, approvals.CreateGrantIn{NodeID: "n1", Argv: echo, MaxUses: 1}); err != nil {
			t.Fatal(err)
		}
	}
	var ids []string
	for before := ""; ; {
		page, err := w.svc.ListGrants(t.Context(), boss, approvals.ListGrantsIn{All: true, Max: 2, Before: before})
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range page.Grants {
			ids = append(ids, g.ID)
		}
		if before = page.Next; before == "" {
			break
		}
	}
	if len(ids) != 6 || !slices.IsSortedFunc(ids, func(a, b string) int { return strings.Compare(b, a) }) {
		t.Errorf("%v", ids)
	}
}

// Of a thousand who use a grant for one run at the same time, one runs.
func TestGrantOnceOnce(t *testing.T) {
	for name, use := range map[string]func(w *world, i int) bool{
		"run": func(w *world, _ int) bool {
			got, refusal := w.use(ann, "n1", plainRun)
			return refusal == "" && strings.Contains(got, `"approved":true`)
		},
		"request": func(w *world, i int) bool {
			a, err := w.svc.Request(context.Background(), ann, question(fmt.Sprint("r", i), nil))
			return err == nil && a.State == approvals.Allowed
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			g := w.allow(boss, question("q", nil), approvals.GrantIn{MaxUses: 1})
			var ran atomic.Int64
			var wg sync.WaitGroup
			for i := range 1000 {
				wg.Go(func() {
					if use(w, i) {
						ran.Add(1)
					}
				})
			}
			wg.Wait()
			out, err := w.svc.GetGrant(t.Context(), ann, g.ID)
			if n := ran.Load(); n != 1 || err != nil || out.Grant.Uses != 1 {
				t.Errorf("%d ran, %d uses, %v", n, out.Grant.Uses, err)
			}
		})
	}
}

// The number of grants is bounded, for all and for each maker; ended ones do not count.
func TestGrantBounds(t *testing.T) {
	w := newWorld(t)
	in := approvals.CreateGrantIn{NodeID: "n1", Argv: echo, MaxUses: 1, Requester: "device:x"}
	var refused int
	var first string
	for i := range 501 {
		out, err := w.svc.CreateGrant(t.Context(), boss, in)
		if i == 0 {
			first = out.Grant.ID
		}
		if errors.Is(err, approvals.ErrTooManyGrants) {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if refused != 1 {
		t.Errorf("%d refused of 501", refused)
	}
	if _, err := w.svc.CreateGrant(t.Context(), caller("other", "conn:o"), in); err != nil {
		t.Errorf("another maker: %v", err)
	}
	if _, err := w.svc.RevokeGrant(t.Context(), boss, first); err != nil {
		t.Fatal(err)
	}
	if _, err := w.svc.CreateGrant(t.Context(), boss, in); err != nil {
		t.Errorf("after one ended: %v", err)
	}
}

// What a device agreed to ends with its pairing.
func TestGrantEndsWithItsMaker(t *testing.T) {
	w := newWorld(t)
	w.stop()
	gone := false
	w.standing = func(c identity.Caller) error {
		if gone && c.DeviceID == "boss" && c.Paired {
			return identity.ErrEnded
		}
		return nil
	}
	w.restart()
	paired := boss
	paired.Paired = true
	w.allow(paired, question("q", nil), approvals.GrantIn{Always: true})
	if got, _ := w.use(ann, "n1", plainRun); !strings.Contains(got, `"approved":true`) {
		t.Fatal(got)
	}
	gone = true
	if got, _ := w.use(ann, "n1", plainRun); strings.Contains(got, "approved") {
		t.Error("its maker is not paired any more")
	}
}

func ask(change func(*policy.Ruling)) func(policy.Query) policy.Ruling {
	return func(policy.Query) policy.Ruling {
		r := policy.Ruling{Effect: policy.EffectAsk, Rule: "careful", Where: "policy.json:3"}
		if change != nil {
			change(&r)
		}
		return r
	}
}

func TestRules(t *testing.T) {
	effect := policy.EffectDeny
	w := newWorld(t)
	w.stop()
	w.rules = func(q policy.Query) policy.Ruling {
		if q.NodeID != "n1" || q.Host != "node" || !slices.Equal(q.Argv, echo) || q.Cwd != "/srv" {
			return policy.Ruling{}
		}
		return policy.Ruling{Effect: effect, Rule: "echoes", Where: "policy.json:7", Reason: "because"}
	}
	w.restart()

	// Deny counts always.
	if _, err := w.svc.Request(t.Context(), ann, question("d", nil)); !errors.Is(err, approvals.ErrRuleDenies) || !strings.Contains(err.Error(), "policy.json:7") {
		t.Error(err)
	}
	if _, refusal := w.use(ann, "n1", plainRun); refusal != "rule_denies" {
		t.Error(refusal)
	}
	effect = policy.Abstain
	w.request(ann, question("a", nil))
	if _, err := w.answer(boss, approvals.ResolveIn{ID: "a", Decision: approvals.AllowAlways}); err != nil {
		t.Fatal(err)
	}
	effect = policy.EffectDeny
	if _, refusal := w.use(ann, "n1", `{"command":["x"],"runId":"a","approved":true}`); refusal != "rule_denies" {
		t.Errorf("an approval got past a rule: %s", refusal)
	}
	if _, refusal := w.use(ann, "n1", plainRun); refusal != "rule_denies" {
		t.Errorf("a grant got past a rule: %s", refusal)
	}
	if _, err := w.svc.CreateGrant(t.Context(), boss, approvals.CreateGrantIn{NodeID: "n1", Argv: echo, Cwd: ptr("/srv"), Always: true}); !errors.Is(err, approvals.ErrRuleDenies) {
		t.Errorf("a grant for what a rule forbids: %v", err)
	}

	// Allow lets it run, with a record.
	effect = policy.EffectAllow
	zed := caller("zed", "conn:z")
	if a := w.request(zed, question("l", nil)); a.State != approvals.Allowed || a.ResolvedBy != "rule echoes" || a.Rule != "echoes" || a.Where != "policy.json:7" {
		t.Errorf("%+v", a)
	}
	if _, refusal := w.use(zed, "n1", `{"command":["x"],"runId":"l","approved":true}`); refusal != "" {
		t.Error(refusal)
	}
	if got, refusal := w.use(zed, "n1", plainRun); refusal != "" || !strings.Contains(got, `"approved":true,"approvalDecision":"allow-once"`) {
		t.Error(got, refusal)
	}
	all, err := w.svc.List(t.Context(), boss, approvals.ListIn{All: true})
	if err != nil || all[0].State != approvals.Consumed || all[0].ResolvedBySubject != "rule:echoes" || all[0].Uses != 1 {
		t.Errorf("%+v %v", all[0], err)
	}

	// Ask refuses until there is an approval, in the words that clients look for.
	effect = policy.EffectAsk
	if _, _, err := w.svc.GuardRun(t.Context(), zed, "n1", []byte(plainRun)); !errors.Is(err, approvals.ErrRuleAsks) || !strings.Contains(err.Error(), "SYSTEM_RUN_DENIED: approval required") {
		t.Error(err)
	}
	w.request(zed, question("k", nil))
	if _, err := w.answer(boss, approvals.ResolveIn{ID: "k", Decision: approvals.AllowOnce}); err != nil {
		t.Fatal(err)
	}
	if _, refusal := w.use(zed, "n1", `{"command":["x"],"runId":"k","approved":true}`); refusal != "" {
		t.Error(refusal)
	}
	// Where rules say nothing, the node decides as ever.
	if got, refusal := w.use(zed, "n2", plainRun); refusal != "" || strings.Contains(got, "approved") {
		t.Error(got, refusal)
	}
	var refusals int
	for _, row := range w.audit() {
		if strings.HasPrefix(row, "refusal") {
			refusals++
		}
	}
	if refusals != 5 {
		t.Errorf("%d refusals in the log: %v", refusals, w.audit())
	}
}

func TestQuorum(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.rules = ask(func(r *policy.Ruling) { r.Quorum, r.ExcludeRequester = 2, true })
	w.restart()
	sub := w.bus.Subscribe(func(e events.Event) bool { return strings.HasPrefix(e.Name, "exec.approval") })
	defer sub.Close()

	asker := held(caller("", "iam:ann"), identity.ScopeApprovals)
	w.request(asker, question("q", nil))
	yes := approvals.ResolveIn{ID: "q", Decision: approvals.AllowAlways}
	again := asker
	again.DeviceID, again.ConnID, again.Paired, again.DisplayName = "phone", "c2", true, "Somebody Else"
	for _, c := range []identity.Caller{asker, again} {
		if _, err := w.answer(c, yes); !errors.Is(err, approvals.ErrOwnRequest) {
			t.Errorf("the requester, as %+v: %v", c, err)
		}
	}
	bob := caller("laptop", "iam:bob")
	bob.Paired = true
	if a, err := w.answer(bob, yes); err != nil || a.State != approvals.Pending || len(a.Votes) != 1 {
		t.Fatalf("%+v %v", a, err)
	}
	w.restart()
	bob.DeviceID, bob.DisplayName = "bob's phone", "Carol"
	if _, err := w.answer(bob, yes); !errors.Is(err, approvals.ErrVoted) {
		t.Errorf("one person on two devices: %v", err)
	}
	if _, err := w.answer(bob, approvals.ResolveIn{ID: "q", Decision: approvals.AllowOnce, Grant: &approvals.GrantIn{Always: true}}); !errors.Is(err, approvals.ErrGrantQuorum) {
		t.Errorf("one of two makes a grant: %v", err)
	}
	if _, refusal := w.use(asker, "n1", `{"command":["x"],"runId":"q","approved":true}`); refusal != "run_required" {
		t.Errorf("with one of two votes: %s", refusal)
	}
	carol := caller("", "iam:carol")
	a, err := w.answer(carol, yes)
	if err != nil || a.State != approvals.Allowed || a.Decision != approvals.AllowAlways || len(a.Votes) != 2 || a.GrantID == "" {
		t.Fatalf("%+v %v", a, err)
	}
	if _, err := w.answer(caller("", "iam:dan"), yes); !errors.Is(err, approvals.ErrUnknown) || !strings.Contains(err.Error(), "iam:carol") && !strings.Contains(err.Error(), "test") {
		t.Errorf("too late: %v", err)
	}
	// The grant of both counts under the rule; one that a single approver makes does not.
	if got, _ := w.use(asker, "n1", plainRun); !strings.Contains(got, `"approved":true`) {
		t.Error("the grant of both does not count")
	}
	if _, err := w.svc.CreateGrant(t.Context(), carol, approvals.CreateGrantIn{NodeID: "n1", Argv: echo, Cwd: ptr("/tmp"), Always: true, AnyRequester: true}); !errors.Is(err, approvals.ErrGrantRule) {
		t.Errorf("one makes a grant where two have to: %v", err)
	}
	if _, err := w.svc.CreateGrant(t.Context(), boss, approvals.CreateGrantIn{NodeID: "n1", Pattern: []string{"/bin/echo", "**"}, AnyCwd: true, Always: true, AnyRequester: true}); err != nil {
		t.Fatal(err)
	}
	if _, refusal := w.use(asker, "n1", `{"command":["/bin/echo","pattern"]}`); refusal != "rule_asks" {
		t.Errorf("a pattern of one got past a rule that wants two: %q", refusal)
	}
	// A denial ends it at once, also by who allowed it before. What is always for one and once for the
	// other is once.
	w.request(asker, question("no", func(in *approvals.RequestIn) { in.Plan.Argv = []string{"/bin/no"} }))
	if _, err := w.answer(bob, approvals.ResolveIn{ID: "no", Decision: approvals.AllowOnce}); err != nil {
		t.Fatal(err)
	}
	if a, err := w.answer(bob, approvals.ResolveIn{ID: "no", Decision: approvals.Deny}); err != nil || a.State != approvals.Denied {
		t.Errorf("%+v %v", a, err)
	}
	w.request(asker, question("mixed", func(in *approvals.RequestIn) { in.Plan.Argv = []string{"/bin/mixed"} }))
	for c, d := range map[string]approvals.Decision{"iam:bob": approvals.AllowAlways, "iam:carol": approvals.AllowOnce} {
		if a, err = w.answer(caller("", c), approvals.ResolveIn{ID: "mixed", Decision: d}); err != nil {
			t.Fatal(err)
		}
	}
	if a.Decision != approvals.AllowOnce || a.GrantID != "" {
		t.Errorf("%+v", a)
	}
	// Who asked may take it back.
	w.request(asker, question("back", func(in *approvals.RequestIn) { in.Plan.Argv = []string{"/bin/back"} }))
	if a, err := w.answer(asker, approvals.ResolveIn{ID: "back", Decision: approvals.Deny}); err != nil || a.State != approvals.Denied {
		t.Errorf("%+v %v", a, err)
	}
	// Devices that nobody paired, and connections with the shared secret, are one voter.
	w.request(asker, question("secret", func(in *approvals.RequestIn) { in.Plan.Argv = []string{"/bin/secret"} }))
	for i, c := range []identity.Caller{caller("", "conn:1"), caller("", "conn:2"), caller("made up", "conn:3"), caller("made up too", "conn:4")} {
		_, err := w.answer(c, approvals.ResolveIn{ID: "secret", Decision: approvals.AllowOnce})
		if (err == nil) != (i == 0) {
			t.Errorf("vote %d with the shared secret: %v", i, err)
		}
	}
}

func TestApproversAndEscalation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.stop()
		w.rules = ask(func(r *policy.Ruling) {
			r.Approvers, r.EscalateAfter, r.EscalateTo = []string{"device:chief"}, time.Minute, []string{"iam:deputy"}
		})
		w.restart()
		defer func() { w.stop() }()
		escalations := func() (n int) {
			for _, row := range w.audit() {
				if strings.HasPrefix(row, "escalation") {
					n++
				}
			}
			return n
		}
		w.request(ann, question("q", nil))
		yes := approvals.ResolveIn{ID: "q", Decision: approvals.AllowOnce}
		chief, deputy := caller("chief", "conn:c"), caller("", "iam:deputy")
		named := caller("x", "conn:x")
		named.DisplayName, named.ClientID = "device:chief", "device:chief"
		for _, c := range []identity.Caller{deputy, named, boss, caller("", "device:chief")} {
			if _, err := w.answer(c, yes); !errors.Is(err, approvals.ErrNotApprover) {
				t.Errorf("%+v: %v", c, err)
			}
		}
		watch, err := w.svc.Watch(t.Context(), chief)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		e, err := watch.Events.Next(t.Context())
		if c, is := e.Payload.(approvals.Changed); err != nil || !is || !c.Approval.Escalated {
			t.Errorf("%+v", e)
		}
		watch.Events.Close()
		w.restart()
		synctest.Wait()
		if n := escalations(); n != 1 {
			t.Errorf("escalated %d times", n)
		}
		if a, err := w.answer(deputy, yes); err != nil || a.State != approvals.Allowed {
			t.Errorf("%+v %v", a, err)
		}
		// While the daemon is down the time comes: it escalates when it is back.
		w.request(ann, question("r", nil))
		w.stop()
		time.Sleep(time.Minute + time.Second)
		w.restart()
		synctest.Wait()
		if n := escalations(); n != 2 {
			t.Errorf("escalated %d times", n)
		}
		if a, err := w.answer(chief, approvals.ResolveIn{ID: "r", Decision: approvals.AllowOnce}); err != nil || a.State != approvals.Allowed {
			t.Errorf("%+v %v", a, err)
		}
	})
}

// A question ends at its time although others were asked a moment before.
func TestEscalationDelaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.stop()
		w.rules = ask(func(r *policy.Ruling) {
			r.Timeout, r.EscalateAfter, r.EscalateTo, r.OnTimeout = time.Minute, 59*time.Second, []string{"iam:deputy"}, policy.EffectDeny
		})
		w.restart()
		defer func() { w.stop() }()
		w.request(ann, question("q", nil))
		began := time.Now()
		out, err := w.svc.Wait(t.Context(), ann, "q")
		if took := time.Since(began); err != nil || out.Decision != approvals.Deny || !out.Escalated || took > time.Minute+time.Second {
			t.Errorf("%+v after %s: %v", out, took, err)
		}
	})
}

func TestTimeouts(t *testing.T) {
	for name, x := range map[string]struct {
		effect   policy.Effect
		away     time.Duration // how long the daemon is down at the end
		state    approvals.State
		decision approvals.Decision
		uses     string
	}{
		"allow":           {policy.EffectAllow, 0, approvals.Allowed, approvals.AllowOnce, ""},
		"allow, away":     {policy.EffectAllow, time.Minute, approvals.Allowed, approvals.AllowOnce, ""},
		"allow, too late": {policy.EffectAllow, time.Hour, approvals.Expired, approvals.None, "run_unknown"},
		"deny":            {policy.EffectDeny, 0, approvals.Denied, approvals.Deny, "run_expired"},
		"nothing":         {policy.Abstain, 0, approvals.Expired, approvals.None, "run_expired"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.stop()
				w.rules = ask(func(r *policy.Ruling) { r.Timeout, r.OnTimeout = 10*time.Minute, x.effect })
				w.restart()
				defer func() { w.stop() }()
				a := w.request(ann, question("q", nil))
				if got := a.ExpiresAt.Sub(a.CreatedAt); got != 10*time.Minute {
					t.Errorf("stands for %s", got)
				}
				done := make(chan approvals.Approval, 1)
				if x.away == 0 {
					go func() {
						out, _ := w.svc.Wait(context.Background(), ann, "q")
						done <- out
					}()
				} else {
					w.stop()
				}
				time.Sleep(10*time.Minute + time.Second + x.away)
				if x.away > 0 {
					w.restart()
				} else {
					select {
					case out := <-done:
						if out.Decision != x.decision {
							t.Errorf("the waiter got %q", out.Decision)
						}
					default:
						t.Error("a waiter outlives the question")
					}
				}
				synctest.Wait()
				got, err := w.svc.Get(t.Context(), ann, "q")
				if err != nil || got.State != x.state || got.Decision != x.decision {
					t.Errorf("%+v %v", got, err)
				}
				if x.decision != approvals.None && got.ResolvedBySubject != "rule:careful" {
					t.Errorf("decided by %q", got.ResolvedBySubject)
				}
				if _, refusal := w.use(ann, "n1", `{"command":["x"],"runId":"q","approved":true}`); refusal != x.uses {
					t.Errorf("use: %q, want %q", refusal, x.uses)
				}
			})
		})
	}
}

// A command that looks obfuscated is asked about, whatever rule or pattern covers it; a grant for exactly
// this command counts.
func TestSignsAreAsked(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.rules = func(policy.Query) policy.Ruling {
		return policy.Ruling{Effect: policy.EffectAllow, Rule: "all", OnTimeout: policy.EffectAllow}
	}
	w.restart()
	odd := []string{"/bin/sh", "-c", `echo $'\x41\x42'`}
	in := question("q", func(in *approvals.RequestIn) { in.Plan.Argv = odd })
	a := w.request(ann, in)
	if a.State != approvals.Pending || len(a.Signs) == 0 || a.OnTimeout != approvals.Deny {
		t.Errorf("%+v", a)
	}
	params := `{"command":["/bin/sh","-c","echo $'\\x41\\x42'"],"cwd":"/srv"}`
	if _, refusal := w.use(ann, "n1", params); refusal != "rule_asks" {
		t.Error(refusal)
	}
	if _, err := w.answer(boss, approvals.ResolveIn{ID: "q", Decision: approvals.AllowOnce, Grant: &approvals.GrantIn{MaxUses: 1, Pattern: []string{"/bin/sh", "**"}}}); !errors.Is(err, approvals.ErrGrantSigns) {
		t.Error(err)
	}
	if _, err := w.answer(boss, approvals.ResolveIn{ID: "q", Decision: approvals.AllowOnce, Grant: &approvals.GrantIn{MaxUses: 1}}); err != nil {
		t.Fatal(err)
	}
	if got, refusal := w.use(ann, "n1", params); refusal != "" || !strings.Contains(got, `"approved":true`) {
		t.Error(got, refusal)
	}
}

func TestLikeAndBrief(t *testing.T) {
	w := newWorld(t)
	for i := range 25 {
		w.request(ann, question(fmt.Sprint("old", i), func(in *approvals.RequestIn) { in.Plan.Argv = []string{"/bin/echo", fmt.Sprint(i)} }))
	}
	w.request(ann, question("other", func(in *approvals.RequestIn) { in.Plan.Argv = []string{"/bin/ls"} }))
	w.request(ann, question("elsewhere", func(in *approvals.RequestIn) { in.NodeID = ptr("n2") }))
	w.request(ann, question("new", nil))
	w.request(ann, question("later", nil))
	out, err := w.svc.List(t.Context(), boss, approvals.ListIn{Like: "new"})
	if err != nil || len(out) != 20 || out[0].ID != "old24" || out[19].ID != "old5" {
		t.Errorf("%d %v", len(out), err)
	}
	if _, err := w.svc.List(t.Context(), boss, approvals.ListIn{Like: "nope"}); !errors.Is(err, approvals.ErrGone) {
		t.Error(err)
	}
	big := strings.Repeat("é", 60<<10)
	a := w.request(ann, question("big", func(in *approvals.RequestIn) {
		in.Plan.Argv = []string{"/bin/echo", big}
		in.Plan.Cwd = &big
	}))
	brief, cut := a.Brief()
	size := len(brief.Command) + len(*brief.Cwd) + len(*brief.Binding.Cwd)
	for _, x := range append(brief.CommandArgv, brief.Binding.Argv...) {
		size += len(x)
	}
	if !cut || size > 8<<10 || a.Command == brief.Command || *a.Binding.Cwd != big {
		t.Errorf("%v %d", cut, size)
	}
	if _, cut := w.request(ann, question("small", nil)).Brief(); cut {
		t.Error("a small one was cut")
	}
	huge := strings.Repeat("x", 300<<10)
	if _, err := w.svc.Request(t.Context(), ann, question("huge", func(in *approvals.RequestIn) { in.SessionKey = &huge })); !errors.Is(err, approvals.ErrTooLarge) {
		t.Error(err)
	}
}
