package approvals_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is the service on a real store. Under synctest its clock is the fake one.
type world struct {
	tb    testing.TB
	dir   string
	store *store.Store
	bus   *events.Bus
	svc   *approvals.Service
	now   func() time.Time
	nodes approvals.NodeFiles
	stop  func()
	// rules and standing are asked when they are there.
	rules    func(policy.Query) policy.Ruling
	standing func(identity.Caller) error
}

// ruleFunc makes rules of a function.
type ruleFunc func(policy.Query) policy.Ruling

func (f ruleFunc) Decide(q policy.Query) policy.Ruling { return f(q) }

func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{tb: tb, dir: tb.TempDir(), now: time.Now}
	w.open()
	return w
}

// open starts the service on the directory, as a start of the daemon does.
func (w *world) open() {
	w.tb.Helper()
	w.store = storetest.OpenDir(w.tb, w.dir)
	w.bus = events.New(w.now)
	cfg := approvals.Config{
		Store: w.store, Bus: w.bus, Now: w.now, Log: slog.New(slog.DiscardHandler), Nodes: w.nodes, Standing: w.standing,
		File: policy.Open(filepath.Join(w.dir, "exec-approvals.json"), policy.Options{HomeDir: w.dir}),
	}
	if w.rules != nil {
		cfg.Rules = ruleFunc(w.rules)
	}
	svc, err := approvals.New(cfg)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.svc = svc
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		svc.Run(ctx)
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	w.tb.Cleanup(w.stop)
}

// restart closes everything and opens it again.
func (w *world) restart() {
	w.tb.Helper()
	w.stop()
	if err := w.store.Close(); err != nil {
		w.tb.Fatal(err)
	}
	w.open()
}

func ptr(s string) *string { return &s }

func caller(device, principal string) identity.Caller {
	return identity.Caller{
		Role: identity.RoleOperator, Scopes: identity.AllOperatorScopes, DeviceID: device, Principal: principal, ClientID: "test",
	}
}

var ann = caller("", "conn:ann")

// run is a question for a node.
func run(id string, argv ...string) approvals.RequestIn {
	return approvals.RequestIn{
		ID: id, Command: "x", CommandArgv: argv, Host: ptr("node"), NodeID: ptr("n1"),
		Plan: &approvals.Plan{Argv: argv, Cwd: ptr("/srv")},
	}
}

func (w *world) ask(in approvals.RequestIn) approvals.Approval {
	w.tb.Helper()
	a, err := w.svc.Request(context.Background(), ann, in)
	if err != nil {
		w.tb.Fatal(err)
	}
	return a
}

func (w *world) decide(id string, d approvals.Decision) {
	w.tb.Helper()
	if _, err := w.svc.Resolve(context.Background(), caller("boss", "conn:b"), approvals.ResolveIn{ID: id, Decision: d}); err != nil {
		w.tb.Fatal(err)
	}
}

// use runs with an approval and returns the refusal in short.
func (w *world) use(c identity.Caller, node, params string) (string, string) {
	out, _, err := w.svc.GuardRun(context.Background(), c, node, []byte(params))
	return string(out), code(err)
}

func code(err error) string {
	if e, ok := errs.As(err); ok {
		return strings.TrimPrefix(e.Code, "approvals.")
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func (w *world) audit() (out []string) {
	w.tb.Helper()
	rows, err := w.store.Audit(0, 10_000)
	if err != nil {
		w.tb.Fatal(err)
	}
	for _, r := range rows {
		out = append(out, strings.TrimSpace(strings.Join([]string{r.Kind, r.Subject, r.ApprovalID, string(r.Decision), r.Reason}, " ")))
	}
	return out
}

// Whatever the caller sends besides, the node gets what was approved and nothing else.
func TestGuardRewrites(t *testing.T) {
	w := newWorld(t)
	in := run("r", "/bin/echo", "a b")
	in.Plan.RawCommand = ptr(`/bin/echo "a b"`)
	w.ask(in)
	w.decide("r", approvals.AllowAlways)
	want := `{"command":["/bin/echo","a b"],"rawCommand":"/bin/echo \"a b\"","cwd":"/srv","timeoutMs":5,"runId":" r ","approved":true,"approvalDecision":"allow-always"}`
	got, refusal := w.use(ann, "n1", `{"zzz":1,"command":["rm","-rf","/"],"rawCommand":"rm","cwd":"/","agentId":"evil","sessionKey":"evil","timeoutMs":5,"runId":" r ","approved":true}`)
	if got != want || refusal != "" {
		t.Errorf("got %s (%s)", got, refusal)
	}
	for _, c := range []struct{ params, want, refusal string }{
		{`{"command":["ls"],"approved":1,"x":2}`, `{"command":["ls"]}`, ""},
		{`{"command":["ls"],"approvalDecision":"deny"}`, `{"command":["ls"]}`, ""},
		{`{"command":["ls"],"approvalDecision":" allow-once "}`, "", "missing_run_id"},
		{`{"command":["ls"],"approved":true,"runId":7}`, "", "missing_run_id"},
		{`{"Approved":true,"command":["ls"]}`, `{"command":["ls"]}`, ""},
		{`{"approved":false,"approved":true}`, "", "missing_run_id"},
		{`[1]`, `[1]`, ""}, {`null`, `null`, ""}, {`"x"`, `"x"`, ""}, {``, ``, ""},
	} {
		if got, refusal := w.use(ann, "n1", c.params); got != c.want || refusal != c.refusal {
			t.Errorf("%s: %s (%s)", c.params, got, refusal)
		}
	}
}

// A question goes through its states; each step leaves its row; the right people hear of it.
func TestRequestResolveUse(t *testing.T) {
	w := newWorld(t)
	sub := w.bus.Subscribe(nil)
	defer sub.Close()
	a := w.ask(run("r1", "/bin/true"))
	if a.State != approvals.Pending || a.Command != "/bin/true" || a.ExpiresAt.Sub(a.CreatedAt) != approvals.DefaultTimeout || w.svc.PendingCount() != 1 {
		t.Errorf("%+v", a)
	}
	if _, err := w.svc.Request(context.Background(), ann, run("r1", "/bin/false")); code(err) != "taken" {
		t.Error(err)
	}
	const claim = `{"command":["/bin/true"],"runId":"r1","approved":true}`
	if _, refusal := w.use(ann, "n1", claim); refusal != "run_required" {
		t.Errorf("before the answer: %s", refusal)
	}
	w.decide("r1", approvals.AllowOnce)
	for _, d := range []approvals.Decision{approvals.Deny, approvals.AllowAlways} {
		if _, err := w.svc.Resolve(context.Background(), ann, approvals.ResolveIn{ID: "r1", Decision: d}); code(err) != "unknown" {
			t.Errorf("a second answer: %v", err)
		}
	}
	for _, c := range []struct {
		who  identity.Caller
		node string
		env  string
		want string
	}{
		{caller("", "conn:bob"), "n1", "", "run_client"}, {caller("dev", "conn:ann"), "n2", "", "run_node"},
		{ann, "n1", `,"env":{"A":"1"}`, "run_env_missing"}, {ann, "n1", "", ""}, {ann, "n1", "", "run_required"},
	} {
		if _, refusal := w.use(c.who, c.node, strings.Replace(claim, `,"runId"`, c.env+`,"runId"`, 1)); refusal != c.want {
			t.Errorf("%s on %s%s: %q, want %q", c.who.Principal, c.node, c.env, refusal, c.want)
		}
	}
	got, err := w.svc.Get(context.Background(), ann, "r1")
	if err != nil || got.State != approvals.Consumed || got.Uses != 1 || got.ResolvedBySubject != "device:boss" || got.ResolvedBy != "test" {
		t.Errorf("%+v %v", got, err)
	}
	want := []string{
		"request conn:ann r1", "refusal conn:ann r1  approvals.run_required", "decision device:boss r1 allow-once",
		"refusal conn:bob r1  approvals.run_client", "refusal device:dev r1  approvals.run_node",
		"refusal conn:ann r1  approvals.run_env_missing", "use conn:ann r1 allow-once", "refusal conn:ann r1  approvals.run_required",
	}
	if d := cmp.Diff(want, w.audit()); d != "" {
		t.Error(d)
	}
	var names []string
	for e, ok := sub.TryNext(); ok; e, ok = sub.TryNext() {
		names = append(names, e.Name)
	}
	if d := cmp.Diff([]string{"exec.approval.requested", "exec.approval.resolved"}, names); d != "" {
		t.Error(d)
	}
}

// What cannot be asked.
func TestRequestRefusals(t *testing.T) {
	w := newWorld(t)
	edit := func(f func(*approvals.RequestIn)) approvals.RequestIn {
		in := run("", "/bin/true")
		f(&in)
		return in
	}
	for _, c := range []struct {
		in   approvals.RequestIn
		want string
	}{
		{approvals.RequestIn{}, "command_required"},
		{approvals.RequestIn{Command: " \n"}, "command_required"},
		{approvals.RequestIn{Command: strings.Repeat("x", 256<<10+1)}, "too_large"},
		{approvals.RequestIn{Command: "x", Env: map[string]string{"A": strings.Repeat("x", 256<<10)}}, "too_large"},
		{approvals.RequestIn{Command: "x", ID: strings.Repeat("x", 201)}, "id_too_long"},
		{approvals.RequestIn{Command: "x", Timeout: -1}, "timeout_range"},
		{approvals.RequestIn{Command: "x", Timeout: approvals.MaxTimeout + 1}, "timeout_range"},
		{edit(func(in *approvals.RequestIn) { in.NodeID = nil }), "node_required"},
		{edit(func(in *approvals.RequestIn) { in.NodeID = ptr(" ") }), "node_required"},
		{edit(func(in *approvals.RequestIn) { in.Plan = nil }), "plan_required"},
		{edit(func(in *approvals.RequestIn) { in.Plan.Argv = nil }), "plan_required"},
		{edit(func(in *approvals.RequestIn) { in.CommandArgv = nil }), "argv_required"},
		{edit(func(in *approvals.RequestIn) { in.Timeout = approvals.MaxTimeout }), ""},
		{approvals.RequestIn{Command: "x", Host: ptr("gateway")}, ""},
	} {
		if _, err := w.svc.Request(context.Background(), ann, c.in); code(err) != c.want {
			t.Errorf("%.60v: %v", c.in, err)
		}
	}
	for _, d := range []approvals.Decision{"", "allow", "ALLOW-ONCE", "allow-once "} {
		if _, err := w.svc.Resolve(context.Background(), ann, approvals.ResolveIn{ID: "x", Decision: d}); code(err) != "decision" {
			t.Errorf("%q: %v", d, err)
		}
	}
	if _, err := w.svc.Resolve(context.Background(), ann, approvals.ResolveIn{ID: "nope", Decision: approvals.Deny}); code(err) != "unknown" {
		t.Error(err)
	}
	if _, err := w.svc.Wait(context.Background(), ann, " "); code(err) != "id_required" {
		t.Error(err)
	}
	if _, err := w.svc.Get(context.Background(), ann, "nope"); code(err) != "gone" {
		t.Error(err)
	}
}

// Waiters end with the answer, or with the time of the question; an allowed one that was not used
// ends with it too.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		began := time.Now()
		short := run("short", "/bin/true")
		short.Timeout = time.Second
		w.ask(short)
		w.ask(run("long", "/bin/true"))
		w.ask(run("answered", "/bin/true"))
		type end struct {
			a    approvals.Approval
			err  error
			took time.Duration
		}
		ends := map[string]chan end{}
		for _, id := range []string{"short", "long", "answered"} {
			ends[id] = make(chan end, 1)
			go func() {
				a, err := w.svc.Wait(context.Background(), ann, " "+id+" ")
				ends[id] <- end{a, err, time.Since(began)}
			}()
		}
		synctest.Wait()
		time.Sleep(500 * time.Millisecond)
		w.decide("answered", approvals.AllowOnce)
		for id, want := range map[string]struct {
			state approvals.State
			took  time.Duration
		}{
			"answered": {approvals.Allowed, 500 * time.Millisecond}, "short": {approvals.Expired, time.Second},
			"long": {approvals.Expired, approvals.DefaultTimeout},
		} {
			e := <-ends[id]
			if e.err != nil || e.a.State != want.state || e.took < want.took || e.took > want.took+10*time.Millisecond {
				t.Errorf("%s: %s after %s, %v", id, e.a.State, e.took, e.err)
			}
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		// The time counts from the request: what was allowed in it is of no use after it.
		if _, refusal := w.use(ann, "n1", `{"runId":"answered","approved":true}`); refusal != "run_expired" {
			t.Errorf("got %s", refusal)
		}
		if a, _ := w.svc.Get(context.Background(), ann, "answered"); a.State != approvals.Expired {
			t.Errorf("state %s", a.State)
		}
		if _, err := w.svc.Resolve(context.Background(), ann, approvals.ResolveIn{ID: "long", Decision: approvals.AllowOnce}); code(err) != "unknown" {
			t.Error(err)
		}
		if a, err := w.svc.Wait(context.Background(), ann, "long"); err != nil || a.State != approvals.Expired {
			t.Errorf("who asks a little later: %+v %v", a, err)
		}
		time.Sleep(16 * time.Second)
		synctest.Wait()
		if _, err := w.svc.Wait(context.Background(), ann, "long"); code(err) != "gone" {
			t.Errorf("who asks much later: %v", err)
		}
		if _, refusal := w.use(ann, "n1", `{"runId":"answered","approved":true}`); refusal != "run_unknown" {
			t.Errorf("got %s", refusal)
		}
		if n := w.svc.PendingCount(); n != 0 {
			t.Errorf("%d are pending", n)
		}
		n := 0
		for _, r := range w.audit() {
			if strings.HasPrefix(r, "expiry hanzod ") {
				n++
			}
		}
		if n != 3 {
			t.Errorf("%d expiries in %v", n, w.audit())
		}
		w.stop()
	})
}

// A waiter that goes away leaves the question as it is.
func TestWaiterGoesAway(t *testing.T) {
	w := newWorld(t)
	w.ask(run("r", "/bin/true"))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := w.svc.Wait(ctx, ann, "r"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	w.decide("r", approvals.AllowOnce)
	if _, refusal := w.use(ann, "n1", `{"runId":"r","approved":true}`); refusal != "" {
		t.Error(refusal)
	}
}

// However many use one allow-once at the same time, exactly one passes.
func TestAllowOnceOnce(t *testing.T) {
	w := newWorld(t)
	w.ask(run("r", "/bin/true"))
	w.decide("r", approvals.AllowOnce)
	var passed, refused atomic.Int32
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			switch _, refusal := w.use(ann, "n1", `{"runId":"r","approved":true}`); refusal {
			case "":
				passed.Add(1)
			case "run_required":
				refused.Add(1)
			default:
				t.Errorf("got %s", refusal)
			}
		})
	}
	wg.Wait()
	if passed.Load() != 1 || refused.Load() != 999 {
		t.Errorf("%d passed, %d were refused", passed.Load(), refused.Load())
	}
	uses := 0
	for _, r := range w.audit() {
		if strings.HasPrefix(r, "use ") {
			uses++
		}
	}
	if uses != 1 {
		t.Errorf("%d uses are recorded", uses)
	}
}

// A run that names an approval that never was is refused and recorded; what it names is cut to what
// an id may hold.
func TestUnknownRunIsRecorded(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("é", 5000)
	for _, id := range []string{"never", "x" + long} {
		if _, refusal := w.use(ann, "n1", `{"runId":"`+id+`","approved":true}`); refusal != "run_unknown" {
			t.Errorf("got %s", refusal)
		}
	}
	want := []string{
		"refusal conn:ann never  approvals.run_unknown",
		"refusal conn:ann x" + long[:198] + "  approvals.run_unknown",
	}
	if d := cmp.Diff(want, w.audit()); d != "" {
		t.Error(d)
	}
}

// Many answers at once: one wins, and everybody hears the same.
func TestResolveRace(t *testing.T) {
	w := newWorld(t)
	w.ask(run("r", "/bin/true"))
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			d := []approvals.Decision{approvals.AllowOnce, approvals.Deny}[i%2]
			if _, err := w.svc.Resolve(context.Background(), ann, approvals.ResolveIn{ID: "r", Decision: d}); err == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	a, err := w.svc.Wait(context.Background(), ann, "r")
	stored, _ := w.svc.Get(context.Background(), ann, "r")
	if won.Load() != 1 || err != nil || a.Decision != stored.Decision || a.Decision == "" {
		t.Errorf("%d won: %+v %v", won.Load(), a, err)
	}
}

// A restart keeps what is pending under its id and its time, what is allowed and what was used.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	pending := w.ask(run("pending", "/bin/true"))
	for _, id := range []string{"allowed", "used", "always", "denied"} {
		w.ask(run(id, "/bin/true"))
	}
	w.decide("allowed", approvals.AllowOnce)
	w.decide("used", approvals.AllowOnce)
	w.decide("always", approvals.AllowAlways)
	w.decide("denied", approvals.Deny)
	claim := func(id string) string { return `{"runId":"` + id + `","approved":true}` }
	if _, refusal := w.use(ann, "n1", claim("used")); refusal != "" {
		t.Fatal(refusal)
	}
	w.restart()
	list, err := w.svc.List(context.Background(), ann, approvals.ListIn{})
	if err != nil || len(list) != 1 || list[0].ID != "pending" || !list[0].ExpiresAt.Equal(pending.ExpiresAt) {
		t.Errorf("%+v %v", list, err)
	}
	waited := make(chan approvals.Approval, 1)
	go func() {
		a, err := w.svc.Wait(context.Background(), ann, "pending")
		if err != nil {
			t.Error(err)
		}
		waited <- a
	}()
	w.decide("pending", approvals.AllowOnce)
	if a := <-waited; a.Decision != approvals.AllowOnce {
		t.Errorf("%+v", a)
	}
	for _, c := range []struct{ id, want string }{
		{"pending", ""}, {"pending", "run_required"}, {"allowed", ""}, {"allowed", "run_required"}, {"used", "run_required"},
		{"always", ""}, {"always", ""}, {"denied", "run_required"},
	} {
		if _, refusal := w.use(ann, "n1", claim(c.id)); refusal != c.want {
			t.Errorf("%s: %q, want %q", c.id, refusal, c.want)
		}
	}
	if _, err := w.svc.Request(context.Background(), ann, run("used", "/bin/evil")); code(err) != "taken" {
		t.Errorf("an old id again: %v", err)
	}
}

// What is past its time when the daemon starts is not pending.
func TestRestartAfterExpiry(t *testing.T) {
	w := newWorld(t)
	in := run("r", "/bin/true")
	in.Timeout = time.Minute
	w.ask(in)
	w.now = func() time.Time { return time.Now().Add(time.Hour) }
	w.restart()
	if n := w.svc.PendingCount(); n != 0 {
		t.Errorf("%d are pending", n)
	}
	if _, err := w.svc.Resolve(context.Background(), ann, approvals.ResolveIn{ID: "r", Decision: approvals.AllowOnce}); code(err) != "unknown" {
		t.Error(err)
	}
}

// The questions that wait are bounded.
func TestTooMany(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	var made, refused atomic.Int32
	for range 8 {
		wg.Go(func() {
			for range 150 {
				switch _, err := w.svc.Request(context.Background(), ann, approvals.RequestIn{Command: "x"}); code(err) {
				case "":
					made.Add(1)
				case "too_many":
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if made.Load() < 1000 || made.Load() > 1008 || refused.Load() == 0 {
		t.Errorf("%d made, %d refused", made.Load(), refused.Load())
	}
}

func TestListAndWatch(t *testing.T) {
	w := newWorld(t)
	for i := range 3 {
		w.ask(run(fmt.Sprint("r", i), "/bin/true"))
	}
	watch, err := w.svc.Watch(context.Background(), ann)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Events.Close()
	blind, err := w.svc.Watch(context.Background(), identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeRead}})
	if err != nil {
		t.Fatal(err)
	}
	defer blind.Events.Close()
	var ids []string
	for _, a := range watch.Pending {
		ids = append(ids, a.ID)
	}
	if d := cmp.Diff([]string{"r0", "r1", "r2"}, ids); d != "" {
		t.Error(d)
	}
	w.decide("r1", approvals.Deny)
	if e, _ := watch.Events.TryNext(); e.Payload.(approvals.Resolved).Approval.ID != "r1" {
		t.Errorf("%+v", e)
	}
	if _, ok := blind.Events.TryNext(); ok {
		t.Error("a reader without the scope is told")
	}
	all, err := w.svc.List(context.Background(), ann, approvals.ListIn{All: true})
	if err != nil || len(all) != 3 || all[0].ID != "r2" {
		t.Errorf("%v %v", all, err)
	}
}

// files is a node that keeps what it was asked.
type files struct{ got []string }

func (f *files) Binds(string) (connected, binds bool) { return true, false }

func (f *files) InvokeInternal(_ context.Context, node, command string, params []byte) ([]byte, error) {
	f.got = append(f.got, node+" "+command+" "+string(params))
	return []byte(`{}`), nil
}

// The files: read, changed from the right version only, each change recorded before it is made.
func TestFiles(t *testing.T) {
	w := newWorld(t)
	n := &files{}
	w.svc.SetNodes(n)
	ctx := context.Background()
	snap, err := w.svc.GetFile(ctx, ann)
	if err != nil {
		t.Fatal(err)
	}
	file := []byte(`{"version":1,"defaults":{"security":"deny"}}`)
	if _, err := w.svc.SetFile(ctx, ann, approvals.SetFileIn{File: file, BaseHash: "wrong"}); code(err) != "policy.changed" {
		t.Error(err)
	}
	if _, err := w.svc.SetFile(ctx, ann, approvals.SetFileIn{File: file}); code(err) != "policy.hash_required" {
		t.Error(err)
	}
	if _, err := w.svc.SetFile(ctx, ann, approvals.SetFileIn{File: file, BaseHash: snap.Hash}); err != nil {
		t.Error(err)
	}
	if _, err := w.svc.GetNodeFile(ctx, ann, " "); code(err) != "node_required" {
		t.Error(err)
	}
	if _, err := w.svc.GetNodeFile(ctx, ann, "n"); err != nil {
		t.Error(err)
	}
	if _, err := w.svc.SetNodeFile(ctx, ann, approvals.SetNodeFileIn{NodeID: "n", File: []byte(`{"version":1}`), BaseHash: `a"b`}); err != nil {
		t.Error(err)
	}
	want := []string{"n system.execApprovals.get {}", `n system.execApprovals.set {"file":{"version":1},"baseHash":"a\"b"}`}
	if d := cmp.Diff(want, n.got); d != "" {
		t.Error(d)
	}
	// Each is recorded before, and what came of it after.
	var details []string
	for _, r := range w.rows(0) {
		if r.Kind == approvals.AuditPolicy && r.Subject == ann.Subject() {
			details = append(details, r.Reason+" "+strings.TrimSpace(r.Detail[:min(len(r.Detail), 12)]))
		}
	}
	about := "gateway file is about to"
	if d := cmp.Diff([]string{
		about, "gateway file was not repl", about, "gateway file was not repl", about, "gateway file was replaced",
		"node file is about to", "node file was replaced",
	}, details); d != "" {
		t.Error(d)
	}
}

// No run passes with a claim without an earlier recorded allow whose binding is the run's, and an
// allow-once passes once.
func TestNoRunWithoutApproval(t *testing.T) {
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(outer)
		var now atomic.Int64
		now.Store(1700000000000)
		w.stop()
		w.now = func() time.Time { return time.UnixMilli(now.Load()) }
		if err := w.store.Close(); err != nil {
			t.Fatal(err)
		}
		w.open()
		defer func() {
			w.stop()
			_ = w.store.Close()
		}()
		pick := func(name string, of ...string) string { return rapid.SampledFrom(of).Draw(t, name) }
		who := func() identity.Caller {
			return map[string]identity.Caller{"conn": ann, "other": caller("", "conn:bob"), "device": caller("d", "conn:1"), "device again": caller("d", "conn:2")}[pick("who", "conn", "other", "device", "device again")]
		}
		env := func() map[string]string {
			return map[string]map[string]string{"": nil, "a": {"A": "1"}, "b": {"A": "2"}}[pick("env", "", "a", "b")]
		}
		type allow struct {
			in      approvals.RequestIn
			by      identity.Caller
			d       approvals.Decision
			expires time.Time
			uses    int
		}
		asked := map[string]*allow{}
		var always []allow // what was allowed for good, which answers the next question for the same
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			id := pick("id", "1", "2")
			switch pick("step", "ask", "decide", "use", "use", "wait", "restart") {
			case "ask":
				in := run(id, "/bin/"+pick("argv", "a", "b"))
				in.NodeID, in.Env, in.Timeout = ptr(pick("node", "n1", "n2")), env(), time.Minute
				c := who()
				if out, err := w.svc.Request(context.Background(), c, in); err == nil {
					asked[id] = &allow{in: in, by: c, d: out.Decision, expires: w.now().Add(time.Minute)}
					if out.Decision != "" && !slices.ContainsFunc(always, func(a allow) bool {
						// Callers without a device share one secret, and a grant cannot tell them apart.
						return *a.in.NodeID == *in.NodeID && cmp.Equal(a.in.Env, in.Env) && slices.Equal(a.in.Plan.Argv, in.Plan.Argv) &&
							a.by.DeviceID == c.DeviceID
					}) {
						t.Fatalf("%s was answered %s though nobody allowed it for good", id, out.Decision)
					}
				}
			case "decide":
				d := approvals.Decision(pick("decision", "allow-once", "allow-always", "deny"))
				if _, err := w.svc.Resolve(context.Background(), ann, approvals.ResolveIn{ID: id, Decision: d}); err == nil {
					asked[id].d = d
					if d == approvals.AllowAlways {
						always = append(always, *asked[id])
					}
				}
			case "wait":
				now.Add(int64(rapid.IntRange(1, 40).Draw(t, "seconds")) * 1000)
			case "restart":
				if rapid.IntRange(0, 4).Draw(t, "really") == 0 {
					w.restart()
				}
			case "use":
				c, node, vars := who(), pick("node", "n1", "n2"), env()
				params, err := json.Marshal(map[string]any{
					"command": []string{"/bin/" + pick("argv", "a", "b")}, "env": vars, "runId": id,
					"approvalDecision": pick("claim", "allow-once", "allow-always"),
				})
				if err != nil {
					t.Fatal(err)
				}
				out, _, err := w.svc.GuardRun(context.Background(), c, node, params)
				if err != nil {
					continue
				}
				a := asked[id]
				switch {
				case a == nil || (a.d != approvals.AllowOnce && a.d != approvals.AllowAlways):
					t.Fatalf("%s passed without an allow", id)
				case a.d == approvals.AllowOnce && a.uses > 0:
					t.Fatalf("%s passed twice", id)
				case w.now().After(a.expires):
					t.Fatalf("%s passed %s late", id, w.now().Sub(a.expires))
				case node != *a.in.NodeID:
					t.Fatalf("%s passed on %s", id, node)
				case a.by.DeviceID != c.DeviceID, a.by.DeviceID == "" && a.by.Principal != c.Principal:
					t.Fatalf("%s of %+v passed for %+v", id, a.by, c)
				case !cmp.Equal(a.in.Env, vars):
					t.Fatalf("%s passed with %v, approved was %v", id, vars, a.in.Env)
				}
				var sent struct {
					Command          []string
					Env              map[string]string
					Cwd              string
					ApprovalDecision string
				}
				if err := json.Unmarshal(out, &sent); err != nil || !slices.Equal(sent.Command, a.in.Plan.Argv) || sent.Cwd != "/srv" || sent.ApprovalDecision != string(a.d) {
					t.Fatalf("sent %s for %+v", out, a.in.Plan)
				}
				a.uses++
				stored, err := w.store.Approval(id)
				if err != nil || stored.Uses != a.uses {
					t.Fatalf("a use is not on disk: %+v %v", stored, err)
				}
			}
		}
	})
}
