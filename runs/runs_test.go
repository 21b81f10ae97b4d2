package runs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/runs"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/store/storetest"
)

const patience = 10 * time.Second

var (
	asker   = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeWrite}, DeviceID: strings.Repeat("a", 64), Paired: true, DisplayName: "asker"}
	other   = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeWrite}, Principal: "local:2"}
	watcher = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeApprovals}, Principal: "local:3", DisplayName: "boss"}
)

// world is the nodes and the approvals around a service. Its node runs what begins with "free"; anything
// else needs an approval.
type world struct {
	t   *testing.T
	st  *store.Store
	svc *runs.Service
	bus *events.Bus

	mu        sync.Mutex
	now       time.Time
	sent      []string // params of what left
	killed    []string
	answer    func(ctx context.Context, in runs.Command) ([]byte, error)
	standing  error
	prepared  error
	approvals map[string]runs.Approval
	decided   map[string]chan struct{}
	withdrawn []string
	end       context.CancelFunc
	ended     chan struct{}
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, st: storetest.Open(t), now: time.Now(), approvals: map[string]runs.Approval{}, decided: map[string]chan struct{}{}}
	w.answer = func(context.Context, runs.Command) ([]byte, error) {
		return []byte(`{"exitCode":3,"timedOut":false,"success":false,"stdout":"out","stderr":"err","error":null}`), nil
	}
	w.start()
	t.Cleanup(w.stop)
	return w
}

func (w *world) start() {
	w.bus = events.New(time.Now)
	svc, err := runs.New(runs.Config{
		Log: slog.New(slog.NewTextHandler(w.t.Output(), nil)), Store: w.st, Nodes: w, Approvals: w, Bus: w.bus, Standing: func(identity.Caller) error { w.mu.Lock(); defer w.mu.Unlock(); return w.standing },
		Now: func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.svc = svc
	ctx, cancel := context.WithCancel(context.Background())
	w.end, w.ended = cancel, make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		svc.Run(ctx)
	}(w.ended)
}

func (w *world) stop() {
	w.end()
	<-w.ended
}

// restart gives the store to a new service.
func (w *world) restart() {
	w.stop()
	w.start()
}

func (w *world) Run(ctx context.Context, c identity.Caller, in runs.Command) ([]byte, error) {
	var p struct {
		Command  []string
		Approved bool
		RunID    string
	}
	if err := json.Unmarshal(in.Params, &p); err != nil {
		return nil, err
	}
	w.mu.Lock()
	answer := w.answer
	if !p.Approved && !strings.HasPrefix(p.Command[0], "free") {
		w.mu.Unlock()
		return nil, runs.ErrNeedsApproval
	}
	if p.Approved {
		a := w.approvals[p.RunID]
		if a.Used > 0 || a.Verdict != runs.Allowed || a.DeviceID != c.DeviceID {
			w.mu.Unlock()
			return nil, runs.ErrNeedsApproval
		}
		a.Used++
		w.approvals[p.RunID] = a
	}
	w.mu.Unlock()
	invoke := "i-" + in.RunID
	if err := w.svc.Leaving(runs.Sent{InvokeID: invoke, NodeID: in.NodeID, Caller: c, Own: in.RunID, Params: in.Params, Streams: true}); err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.sent = append(w.sent, string(in.Params))
	w.mu.Unlock()
	out, err := answer(ctx, in)
	w.svc.Left(invoke, out, err, true)
	return out, err
}

func (w *world) Prepare(_ context.Context, _ identity.Caller, _ string, params []byte, _ time.Duration) ([]byte, error) {
	if strings.Contains(string(params), "env") {
		w.t.Errorf("the node was told of the environment: %s", params)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return []byte(`{"cmdText":"x","plan":{"argv":["/bin/x"],"cwd":null,"rawCommand":"/bin/x","agentId":null,"sessionKey":null},"binding":{}}`), w.prepared
}

func (w *world) Resolve(_ identity.Caller, id string) string { return id }

func (w *world) Kill(_ context.Context, node, invoke, _, by string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if node == "old" {
		return runs.ErrCannotKill
	}
	w.killed = append(w.killed, invoke+" "+by)
	return nil
}

func (w *world) Request(_ context.Context, c identity.Caller, q runs.Question) (runs.Approval, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a, ok := w.approvals[q.ID]; ok {
		return a, errs.New(errs.Exists, "taken")
	}
	timeout := q.Timeout
	if timeout == 0 {
		timeout = 2 * time.Minute
	}
	a := runs.Approval{ID: q.ID, CreatedAt: w.now, ExpiresAt: w.now.Add(timeout), DeviceID: c.DeviceID, Principal: c.Principal, Argv: q.Plan.Argv}
	w.approvals[q.ID], w.decided[q.ID] = a, make(chan struct{})
	return a, nil
}

func (w *world) Wait(ctx context.Context, _ identity.Caller, id string) (runs.Approval, error) {
	w.mu.Lock()
	a, decided := w.approvals[id], w.decided[id]
	w.mu.Unlock()
	if a.Verdict != runs.Open {
		return a, nil
	}
	select {
	case <-decided:
		return w.Get(ctx, identity.Caller{}, id)
	case <-ctx.Done():
		return a, ctx.Err()
	}
}

func (w *world) Get(_ context.Context, _ identity.Caller, id string) (runs.Approval, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, ok := w.approvals[id]
	if !ok {
		return a, errs.New(errs.NotFound, "gone")
	}
	return a, nil
}

func (w *world) Withdraw(_ context.Context, _ identity.Caller, id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.withdrawn = append(w.withdrawn, id)
	return nil
}

func (w *world) decide(id string, v runs.Verdict) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.approvals[id]
	a.Verdict, a.ResolvedBy = v, "boss"
	w.approvals[id] = a
	close(w.decided[id])
}

func (w *world) begin(in runs.StartIn) string {
	w.t.Helper()
	r, err := w.svc.Start(w.t.Context(), asker, in)
	if err != nil {
		w.t.Fatal(err)
	}
	return r.ID
}

func (w *world) until(id string, state runs.State) runs.Run {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		r, err := w.svc.Get(w.t.Context(), asker, id)
		if err != nil {
			w.t.Fatal(err)
		}
		if r.State == state {
			return r
		}
		if r.State.Ended() || time.Now().After(deadline) {
			w.t.Fatalf("the run is %s, want %s (%+v)", r.State, state, r.Failure)
		}
		time.Sleep(time.Millisecond)
	}
}

func (w *world) left() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.sent)
}

func (w *world) gone() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.withdrawn)
}

var slow = runs.StartIn{NodeID: "box", Argv: []string{"x", "y"}, Env: map[string]string{"TOKEN": "s3cret"}, Timeout: time.Minute}

func TestAtOnce(t *testing.T) {
	w := newWorld(t)
	id := w.begin(runs.StartIn{NodeID: "box", Argv: []string{"free"}, Env: map[string]string{"A": "1"}, Cwd: "/srv"})
	r := w.until(id, runs.Done)
	if r.ApprovalID != "" || r.Result.ExitCode == nil || *r.Result.ExitCode != 3 || r.Result.Stdout != "out" || r.Result.Stderr != "err" {
		t.Errorf("%+v", r)
	}
	if want := `{"command":["free"],"cwd":"/srv","env":{"A":"1"},"runId":"` + id + `"}`; !slices.Equal(w.left(), []string{want}) {
		t.Errorf("sent %v, want %s", w.left(), want)
	}
}

// The values of the environment are on disk as long as the run is parked, and nowhere else.
func TestApproved(t *testing.T) {
	w := newWorld(t)
	sub := w.bus.Subscribe(nil)
	defer sub.Close()
	id := w.begin(slow)
	r := w.until(id, runs.Waiting)
	if r.Env != nil || !slices.Equal(r.EnvKeys, []string{"TOKEN"}) || r.ApprovalID != id || r.Command != "/bin/x" || r.ExpiresAt.IsZero() {
		t.Errorf("%+v", r)
	}
	if stored, err := w.st.Run(id); err != nil || stored.Env["TOKEN"] != "s3cret" {
		t.Errorf("%+v, %v", stored, err)
	}
	hold := make(chan struct{})
	w.mu.Lock()
	inner := w.answer
	w.answer = func(ctx context.Context, in runs.Command) ([]byte, error) {
		if in.Timeout <= time.Minute {
			t.Errorf("the answer is waited for %v", in.Timeout)
		}
		<-hold
		return inner(ctx, in)
	}
	w.mu.Unlock()
	w.decide(id, runs.Allowed)
	w.until(id, runs.Running)
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		stored, err := w.st.Run(id)
		if err == nil && stored.State == runs.Running && stored.Env == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("while it runs, there is on disk: %+v, %v", stored, err)
		}
	}
	close(hold)
	r = w.until(id, runs.Done)
	if r.ResolvedBy != "boss" || r.StartedAt.IsZero() || r.EndedAt.IsZero() {
		t.Errorf("%+v", r)
	}
	want := `{"command":["/bin/x"],"env":{"TOKEN":"s3cret"},"timeoutMs":60000,"runId":"` + id + `","approved":true,"approvalDecision":"allow-once"}`
	if !slices.Equal(w.left(), []string{want}) {
		t.Errorf("sent %v, want %s", w.left(), want)
	}
	for {
		e, ok := sub.TryNext()
		if !ok {
			break
		}
		if x := e.Payload.(runs.Changed).Run.Result; x != nil && x.Stdout != "" {
			t.Errorf("the event holds %q", x.Stdout)
		}
		if text := fmt.Sprintf("%+v", e.Payload); strings.Contains(text, "s3cret") {
			t.Errorf("the event holds %s", text)
		}
	}
}

func TestEnds(t *testing.T) {
	for name, tc := range map[string]struct {
		do    func(*world, string)
		argv  string
		state runs.State
		code  string
	}{
		"denied":  {do: func(w *world, id string) { w.until(id, runs.Waiting); w.decide(id, runs.NotAllowed) }, argv: "x", state: runs.Denied, code: "runs.denied"},
		"expired": {do: func(w *world, id string) { w.until(id, runs.Waiting); w.decide(id, runs.Over) }, argv: "x", state: runs.Expired, code: "runs.expired"},
		"used": {do: func(w *world, id string) {
			w.until(id, runs.Waiting)
			w.mu.Lock()
			a := w.approvals[id]
			a.Used = 1
			w.approvals[id] = a
			w.mu.Unlock()
			w.decide(id, runs.Allowed)
		}, argv: "x", state: runs.Lost, code: "runs.lost"},
	} {
		w := newWorld(t)
		id := w.begin(runs.StartIn{NodeID: "box", Argv: []string{tc.argv}})
		tc.do(w, id)
		if r := w.until(id, tc.state); r.Failure == nil || r.Failure.Code != tc.code {
			t.Errorf("%s: %+v", name, r.Failure)
		}
		if len(w.left()) != 0 {
			t.Errorf("%s: sent %v", name, w.left())
		}
	}
	for name, tc := range map[string]struct {
		err   error
		out   string
		state runs.State
		class errs.Class
	}{
		"the node refuses":      {err: &runs.NodeError{Text: "SYSTEM_RUN_DISABLED: security=deny"}, state: runs.Refused, class: errs.Unavailable},
		"the node cannot":       {err: &runs.NodeError{Text: "UNAVAILABLE: too many"}, state: runs.Failed, class: errs.Unavailable},
		"the node went away":    {err: errs.New(errs.Unavailable, "disconnected"), state: runs.Lost, class: errs.Unknown},
		"the answer is no JSON": {out: "nonsense", state: runs.Lost, class: errs.Unknown},
	} {
		w := newWorld(t)
		w.answer = func(context.Context, runs.Command) ([]byte, error) { return []byte(tc.out), tc.err }
		id := w.begin(runs.StartIn{NodeID: "box", Argv: []string{"free"}})
		if r := w.until(id, tc.state); r.Failure == nil || r.Failure.Class != tc.class {
			t.Errorf("%s: %+v", name, r.Failure)
		}
	}
}

// A credential that was revoked lets nothing out, and neither does a node that cannot be asked.
func TestNothingLeaves(t *testing.T) {
	w := newWorld(t)
	id := w.begin(slow)
	w.until(id, runs.Waiting)
	w.mu.Lock()
	w.standing = identity.ErrEnded
	w.mu.Unlock()
	w.decide(id, runs.Allowed)
	if r := w.until(id, runs.Refused); r.Failure.Code != identity.ErrEnded.Code {
		t.Errorf("%+v", r.Failure)
	}
	w = newWorld(t)
	w.prepared = errs.New(errs.Unavailable, "away")
	id = w.begin(slow)
	w.until(id, runs.Failed)
	if len(w.left()) != 0 {
		t.Errorf("sent %v", w.left())
	}
}

// A new daemon takes parked runs up, whatever happened in between, and repeats none.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	waiting, decided := w.begin(slow), w.begin(slow)
	w.until(waiting, runs.Waiting)
	w.until(decided, runs.Waiting)
	hold := make(chan struct{})
	w.mu.Lock()
	inner := w.answer
	w.answer = func(ctx context.Context, _ runs.Command) ([]byte, error) {
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return nil, ctx.Err()
	}
	w.mu.Unlock()
	running := w.begin(runs.StartIn{NodeID: "box", Argv: []string{"free"}})
	w.until(running, runs.Running)
	approvedRunning := w.begin(slow)
	w.until(approvedRunning, runs.Waiting)
	w.decide(approvedRunning, runs.Allowed)
	w.until(approvedRunning, runs.Running)
	w.stop()
	w.mu.Lock()
	w.answer = inner
	w.mu.Unlock()
	w.decide(decided, runs.Allowed)
	w.start()
	if r := w.until(running, runs.Lost); r.Failure.Class != errs.Unknown {
		t.Errorf("%+v", r.Failure)
	}
	w.until(approvedRunning, runs.Lost)
	w.until(decided, runs.Done)
	w.until(waiting, runs.Waiting)
	w.restart()
	w.decide(waiting, runs.Allowed)
	w.until(waiting, runs.Done)
	if n := len(w.left()); n != 4 {
		t.Errorf("%d commands left", n)
	}
	if err := w.st.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// A daemon that ended between the question and its note of it finds the question again; one that is not
// its own it does not take.
func TestQuestionAlreadyAsked(t *testing.T) {
	for foreign, want := range map[bool]runs.State{false: runs.Waiting, true: runs.Refused} {
		w := newWorld(t)
		id := w.begin(slow)
		w.until(id, runs.Waiting)
		w.stop()
		if _, err := w.st.UpdateRun(t.Context(), id, func(r *runs.Run) (*runs.Audit, error) {
			r.State, r.ApprovalID, r.ExpiresAt = runs.Preparing, "", time.Time{}
			return nil, nil
		}); err != nil {
			t.Fatal(err)
		}
		if foreign {
			a := w.approvals[id]
			a.Argv = []string{"/bin/other"}
			w.approvals[id] = a
		}
		w.start()
		w.until(id, want)
	}
}

func TestWhoMay(t *testing.T) {
	w := newWorld(t)
	id := w.begin(slow)
	w.until(id, runs.Waiting)
	ctx := t.Context()
	for name, do := range map[string]func(identity.Caller) error{
		"get":   func(c identity.Caller) error { _, err := w.svc.Get(ctx, c, id); return err },
		"watch": func(c identity.Caller) error { x, err := w.svc.Watch(ctx, c, id); closeIt(x); return err },
		"list": func(c identity.Caller) error {
			all, err := w.svc.List(ctx, c, runs.ListIn{})
			if err == nil && len(all) == 0 {
				err = runs.ErrUnknown
			}
			return err
		},
		"kill": func(c identity.Caller) error {
			if c.DeviceID == asker.DeviceID || c.Has(identity.ScopeApprovals) {
				return nil // below
			}
			_, err := w.svc.Kill(ctx, c, id)
			return err
		},
	} {
		if err := do(asker); err != nil {
			t.Errorf("%s by the requester: %v", name, err)
		}
		if err := do(watcher); err != nil {
			t.Errorf("%s by an approver: %v", name, err)
		}
		if err := do(other); !errors.Is(err, runs.ErrUnknown) {
			t.Errorf("%s by somebody else: %v", name, err)
		}
		reader := identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeRead}, DeviceID: asker.DeviceID}
		if err := do(reader); name != "kill" && !errors.Is(err, runs.ErrScope) {
			t.Errorf("%s by the requester with less: %v", name, err)
		}
	}
	if _, err := w.svc.Start(ctx, other, runs.StartIn{ID: id, NodeID: slow.NodeID, Argv: slow.Argv, Env: slow.Env}); !errors.Is(err, runs.ErrTaken) {
		t.Errorf("the id of another: %v", err)
	}
}

func closeIt(x *runs.Watcher) {
	if x != nil {
		x.Close()
	}
}

func TestSameStartIsSameRun(t *testing.T) {
	w := newWorld(t)
	in := slow
	in.ID = "mine-1"
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if r, err := w.svc.Start(t.Context(), asker, in); err != nil || r.ID != in.ID || r.Env != nil {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
	wg.Wait()
	w.until(in.ID, runs.Waiting)
	if all, err := w.svc.List(t.Context(), asker, runs.ListIn{}); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}
	for _, change := range []func(*runs.StartIn){
		func(in *runs.StartIn) { in.Argv = []string{"z"} },
		func(in *runs.StartIn) { in.Env = map[string]string{"TOKEN": "x"} },
		func(in *runs.StartIn) { in.NodeID = "other" },
	} {
		in := in
		change(&in)
		if _, err := w.svc.Start(t.Context(), asker, in); !errors.Is(err, runs.ErrTaken) {
			t.Errorf("%+v: %v", in, err)
		}
	}
}

func TestRefusedInput(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		change func(*runs.StartIn)
		want   *errs.Error
	}{
		{func(in *runs.StartIn) { in.NodeID = " " }, runs.ErrNode},
		{func(in *runs.StartIn) { in.Argv = nil }, runs.ErrArgv},
		{func(in *runs.StartIn) { in.Argv = []string{"a\xff"} }, runs.ErrText},
		{func(in *runs.StartIn) { in.Env = map[string]string{"A": "\xff"} }, runs.ErrText},
		{func(in *runs.StartIn) { in.Argv = []string{strings.Repeat("a", 256<<10)} }, runs.ErrTooLarge},
		{func(in *runs.StartIn) { in.ID = "a b" }, runs.ErrID},
		{func(in *runs.StartIn) { in.ID = strings.Repeat("a", 129) }, runs.ErrID},
		{func(in *runs.StartIn) { in.Timeout = -1 }, runs.ErrTimes},
		{func(in *runs.StartIn) { in.WaitForNode = 2 * time.Hour }, runs.ErrTimes},
	} {
		in := slow
		tc.change(&in)
		if _, err := w.svc.Start(t.Context(), asker, in); !errors.Is(err, tc.want) {
			t.Errorf("%v: %v", tc.want, err)
		}
	}
}

// One caller cannot take the room of the others.
func TestBounds(t *testing.T) {
	w := newWorld(t)
	w.answer = func(ctx context.Context, _ runs.Command) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		_, err = w.svc.Start(t.Context(), asker, runs.StartIn{NodeID: "box", Argv: []string{"free"}})
	}
	if !errors.Is(err, runs.ErrTooManyMine) || n != 201 {
		t.Errorf("after %d: %v", n, err)
	}
	if _, err := w.svc.Start(t.Context(), other, slow); err != nil {
		t.Errorf("another caller: %v", err)
	}
}

func TestKill(t *testing.T) {
	w := newWorld(t)
	id := w.begin(slow)
	w.until(id, runs.Waiting)
	if _, err := w.svc.Kill(t.Context(), watcher, id); err != nil {
		t.Fatal(err)
	}
	if r := w.until(id, runs.Failed); r.Failure.Code != runs.ErrKilled.Code || r.KilledBy != "boss (local:3)" {
		t.Errorf("%+v %q", r.Failure, r.KilledBy)
	}
	for deadline := time.Now().Add(patience); !slices.Equal(w.gone(), []string{id}) || len(w.left()) != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("withdrawn %v, sent %v", w.gone(), w.left())
		}
	}
	if _, err := w.svc.Kill(t.Context(), watcher, id); !errors.Is(err, runs.ErrEnded) {
		t.Errorf("a second time: %v", err)
	}
	end := make(chan struct{})
	w.mu.Lock()
	w.answer = func(context.Context, runs.Command) ([]byte, error) {
		<-end
		return []byte(`{"timedOut":false,"success":false,"stdout":"","stderr":"","error":"killed by boss"}`), nil
	}
	w.mu.Unlock()
	old, new := w.begin(runs.StartIn{NodeID: "old", Argv: []string{"free"}}), w.begin(runs.StartIn{NodeID: "box", Argv: []string{"free"}})
	for id, want := range map[string]error{old: runs.ErrCannotKill, new: nil} {
		w.until(id, runs.Running)
		if _, err := w.svc.Kill(t.Context(), asker, id); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	close(end)
	if r := w.until(new, runs.Done); r.KilledBy != "asker (device:"+asker.DeviceID+")" || r.Result.ExitCode != nil || r.Result.Error == "" {
		t.Errorf("%+v", r)
	}
	if r := w.until(old, runs.Done); r.KilledBy != "" {
		t.Errorf("it was killed by %q, and its node cannot kill", r.KilledBy)
	}
	rows, err := w.st.Audit(0, 100)
	if err != nil || len(rows) < 2 || rows[0].Kind != "kill" || rows[0].Subject != "local:3" || rows[0].RunID == "" {
		t.Errorf("audit %+v, %v", rows, err)
	}
}

// Who watches sees what is written as it comes; who comes late the end of it; who is slow loses the
// middle and harms nobody.
func TestWatch(t *testing.T) {
	w := newWorld(t)
	left, end := make(chan string, 1), make(chan struct{})
	w.answer = func(_ context.Context, in runs.Command) ([]byte, error) {
		left <- "i-" + in.RunID
		<-end
		return []byte(`{"exitCode":0,"success":true,"stdout":"head","stderr":""}`), nil
	}
	id := w.begin(runs.StartIn{NodeID: "box", Argv: []string{"free"}})
	invoke := <-left
	early, err := w.svc.Watch(t.Context(), asker, id)
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	next := func(x *runs.Watcher) runs.Update {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		u, err := x.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	if u := next(early); u.Run == nil || u.Run.State != runs.Starting || !u.Run.Streams {
		t.Fatalf("%+v", u)
	}
	w.svc.Wrote(invoke, runs.Chunk{Stream: runs.Stdout, Data: []byte("first")})
	if u := next(early); u.Run == nil || u.Run.State != runs.Running {
		t.Fatalf("what writes runs: %+v", u)
	}
	if u := next(early); u.Output == nil || string(u.Output.Data) != "first" {
		t.Fatalf("%+v", u)
	}
	// What a node makes up is left out: unknown runs and streams, and what was said before.
	w.svc.Wrote("i-other", runs.Chunk{Stream: runs.Stdout, Offset: 5, Data: []byte("x")})
	w.svc.Wrote(invoke, runs.Chunk{Stream: "stdin", Offset: 5, Data: []byte("x")})
	w.svc.Wrote(invoke, runs.Chunk{Stream: runs.Stdout, Offset: 0, Data: []byte("again")})
	at := int64(5)
	for range 100 {
		w.svc.Wrote(invoke, runs.Chunk{Stream: runs.Stdout, Offset: at, Data: make([]byte, 16<<10)})
		at += 16 << 10
	}
	late, err := w.svc.Watch(t.Context(), watcher, id)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	next(late)
	for name, x := range map[string]*runs.Watcher{"the late one": late, "the slow one": early} {
		u := next(x)
		if u.Output == nil || u.Output.Offset < at-256<<10 || u.Output.Offset > at-200<<10 {
			t.Errorf("%s is told of offset %d of %d", name, u.Output.Offset, at)
		}
		seen := u.Output.Offset
		for range 100 {
			seen += int64(len(u.Output.Data))
			if seen == at {
				break
			}
			if u = next(x); u.Output.Offset != seen {
				t.Fatalf("%s: a hole at %d", name, seen)
			}
		}
	}
	close(end)
	for _, x := range []*runs.Watcher{late, early} {
		if u := next(x); u.Run == nil || u.Run.State != runs.Done || u.Run.Result.Stdout != "head" {
			t.Errorf("%+v", u)
		}
		if _, err := x.Next(t.Context()); !runs.IsOver(err) {
			t.Errorf("after the end: %v", err)
		}
	}
	if r, err := w.svc.Wait(t.Context(), asker, id); err != nil || r.Result.Stdout != "head" {
		t.Errorf("%+v, %v", r, err)
	}
}

// An approved run of another door is followed while it runs and for a while after.
func TestForeign(t *testing.T) {
	w := newWorld(t)
	for i, params := range []string{`{"command":["a"],"runId":"q"}`, `{"command":["a"],"approved":true}`, `[]`} {
		if err := w.svc.Leaving(runs.Sent{InvokeID: fmt.Sprint(i), NodeID: "box", Caller: other, Params: []byte(params)}); err != nil {
			t.Errorf("%s: %v", params, err)
		}
		w.svc.Left(fmt.Sprint(i), nil, nil, true)
	}
	if all, err := w.svc.List(t.Context(), watcher, runs.ListIn{}); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
	if err := w.svc.Leaving(runs.Sent{InvokeID: "i", NodeID: "box", Caller: other, Streams: true,
		Params: []byte(`{"command":["a","b"],"rawCommand":"a b","env":{"K":"v"},"runId":"q","approved":true}`)}); err != nil {
		t.Fatal(err)
	}
	x, err := w.svc.Watch(t.Context(), watcher, "q")
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if _, err := w.svc.Get(t.Context(), asker, "q"); !errors.Is(err, runs.ErrUnknown) {
		t.Errorf("somebody else sees it: %v", err)
	}
	w.svc.Wrote("i", runs.Chunk{Stream: runs.Stderr, Data: []byte("e")})
	if _, err := w.svc.Kill(t.Context(), watcher, "q"); err != nil || len(w.killed) != 1 {
		t.Errorf("killed %v, %v", w.killed, err)
	}
	w.svc.Left("i", []byte(`{"exitCode":0,"success":true,"stdout":"","stderr":"e"}`), nil, true)
	var got []string
	for {
		u, err := x.Next(t.Context())
		if err != nil {
			break
		}
		if u.Run != nil {
			got = append(got, string(u.Run.State)+" "+strings.Join(u.Run.Argv, " ")+" "+strings.Join(u.Run.EnvKeys, ""))
		} else {
			got = append(got, string(u.Output.Data))
		}
	}
	if want := []string{"e", "done a b K"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// What is kept of runs that have ended is bounded while more of them end.
func TestKeptIsBounded(t *testing.T) {
	w := newWorld(t)
	const many = 1500
	var wg sync.WaitGroup
	for g := range 50 {
		c := identity.Caller{Role: identity.RoleOperator, Scopes: identity.AllOperatorScopes, Principal: fmt.Sprint("local:", g)}
		wg.Go(func() {
			for range many / 50 {
				r, err := w.svc.Start(t.Context(), c, runs.StartIn{NodeID: "box", Argv: []string{"free"}})
				if err == nil {
					_, err = w.svc.Wait(t.Context(), c, r.ID)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	deadline := time.Now().Add(patience)
	for {
		all, err := w.st.Runs()
		if err != nil {
			t.Fatal(err)
		}
		if len(all) <= 1000+100 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d are kept", len(all))
		}
		time.Sleep(10 * time.Millisecond)
	}
	if n := w.svc.Count(); n != 0 {
		t.Errorf("%d are said to be under way", n)
	}
}
