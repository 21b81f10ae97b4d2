package nodes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// link is a node that keeps what it is sent, or answers at once.
type link struct {
	svc    *Service
	id     string
	answer func(Request) *ResultIn // nil answers nothing
	fail   error

	mu     sync.Mutex
	got    []Request
	closed string
}

func (l *link) Invoke(r Request) error {
	if l.fail != nil {
		return l.fail
	}
	l.mu.Lock()
	l.got = append(l.got, r)
	l.mu.Unlock()
	if l.answer == nil {
		return nil
	}
	if in := l.answer(r); in != nil {
		in.NodeID, in.InvokeID = l.id, r.ID
		if _, err := l.svc.Result(context.Background(), identity.Caller{Role: identity.RoleNode, NodeID: l.id}, *in); err != nil {
			return err
		}
	}
	return nil
}

func (l *link) Close(reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = reason
}

func (l *link) requests() []Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.got
}

// names is a store in memory: what is on disk is the store's to test.
type names struct {
	mu       sync.Mutex
	m        map[string]string
	requests map[string]PairingRequest
	paired   map[string]Pairing
	audit    []Audit
	phones   map[string]Registration
	words    []string
	full     error // what every write fails with
}

func (n *names) NodeName(id string) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.m[id], nil
}

func (n *names) SetNodeName(_ context.Context, id, name string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.m[id] = name
	return nil
}

func (n *names) Pairings() ([]PairingRequest, []Pairing, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Values(n.requests)), slices.Collect(maps.Values(n.paired)), nil
}

func (n *names) Pairing(id string) (Pairing, bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, ok := n.paired[id]
	return p, ok, nil
}

// UpdatePairings runs every change twice, the first time in vain, as the real one may.
func (n *names) UpdatePairings(_ context.Context, change func(PairingTx) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var tx namesTx
	for range 2 {
		tx = namesTx{names{requests: maps.Clone(n.requests), paired: maps.Clone(n.paired), audit: slices.Clone(n.audit)}}
		if tx.requests == nil {
			tx.requests, tx.paired = map[string]PairingRequest{}, map[string]Pairing{}
		}
		if err := change(&tx); err != nil {
			return err
		}
	}
	if n.full != nil {
		return n.full
	}
	n.requests, n.paired, n.audit = tx.requests, tx.paired, tx.audit
	return nil
}

func (n *names) Registration(id string) (Registration, bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r, ok := n.phones[id]
	return r, ok, nil
}

func (n *names) PutRegistration(_ context.Context, r Registration, max int) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.full != nil {
		return n.full
	}
	if _, known := n.phones[r.NodeID]; !known && len(n.phones) >= max {
		return ErrTooManyPushes
	}
	if n.phones == nil {
		n.phones = map[string]Registration{}
	}
	n.phones[r.NodeID] = r
	return nil
}

func (n *names) DropRegistration(_ context.Context, id, token string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.phones[id].Token == token {
		delete(n.phones, id)
	}
	return nil
}

func (n *names) VoiceWake() ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.words, nil
}

func (n *names) SetVoiceWake(_ context.Context, words []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.full == nil {
		n.words = words
	}
	return n.full
}

type namesTx struct{ names }

func (n *namesTx) Requests() ([]PairingRequest, error) {
	return slices.Collect(maps.Values(n.requests)), nil
}

func (n *namesTx) PutRequest(r PairingRequest) error {
	n.requests[r.RequestID] = r
	return nil
}

func (n *namesTx) DeleteRequest(id string) error {
	delete(n.requests, id)
	return nil
}

func (n *namesTx) Pairing(id string) (Pairing, bool, error) {
	p, ok := n.paired[id]
	return p, ok, nil
}

func (n *namesTx) PutPairing(p Pairing) error {
	n.paired[p.Info.NodeID] = p
	return nil
}

func (n *namesTx) CountPairings() int { return len(n.paired) }

func (n *namesTx) AppendAudit(a Audit) error {
	n.audit = append(n.audit, a)
	return nil
}

type pairedList []Node

func (p pairedList) PairedNodes() []Node { return p }

// guardFunc stands for approvals.
type guardFunc func(params []byte) ([]byte, error)

func (g guardFunc) GuardRun(_ context.Context, _ identity.Caller, _ string, params []byte) ([]byte, func(bool, []byte, error), error) {
	out, err := g(params)
	return out, func(bool, []byte, error) {}, err
}

func (guardFunc) AskCall(context.Context, identity.Caller, string, string, []byte, time.Duration, func(string, []string, string, []string, time.Time) error) error {
	return nil
}

func (g guardFunc) GuardCall(_ context.Context, _ identity.Caller, _, _ string, params []byte, _, _ bool) ([]byte, func(bool, []byte, error), error) {
	return params, func(bool, []byte, error) {}, nil
}

func pass(params []byte) ([]byte, error) { return params, nil }

func newService(paired ...Node) *Service {
	return New(Config{
		Policy: NewPolicy(nil, nil), Guard: guardFunc(pass), Paired: pairedList(paired), Store: &names{m: map[string]string{}},
		Bus: events.New(time.Now), Now: time.Now,
	})
}

var operator = identity.Caller{Role: identity.RoleOperator, Scopes: identity.AllOperatorScopes, Principal: "local:1"}

func (s *Service) attach(tb testing.TB, id string, l *link, commands ...string) *Attachment {
	tb.Helper()
	l.svc, l.id = s, id
	a, _, err := s.Attach(Node{ID: id, Platform: "linux"}, commands, nil, l)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func says(text string) func(Request) *ResultIn {
	return func(Request) *ResultIn { return &ResultIn{OK: true, Payload: []byte(text)} }
}

func code(err error) string {
	if e, ok := errs.As(err); ok {
		return strings.TrimPrefix(e.Code, "nodes.")
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		platform, family string
		want             class
	}{
		{"iPadOS 18", "", classUnknown}, {"iPadOS 18", "iPad", classIOS}, {"", "Mac mini", classMacOS}, {"", "My Windows box", classWindows},
		{"darwin", "iPhone", classMacOS}, {"xlinux", "", classUnknown}, {"", "linux-ish", classLinux}, {"\u217bOS", "", classUnknown},
		{"ｍacOS", "", classMacOS}, {"l\u0131nux", "", classUnknown}, {"lіnux", "", classUnknown}, {" \tAndroid", "", classAndroid}, {"ma\u0301c", "", classMacOS},
	} {
		if got := classify(c.platform, c.family); got != c.want {
			t.Errorf("%q %q: %d, want %d", c.platform, c.family, got, c.want)
		}
	}
}

// What is refused before anything is sent.
func TestInvokeRefusals(t *testing.T) {
	neg := -time.Second
	for _, c := range []struct {
		in   InvokeIn
		want string
	}{
		{InvokeIn{NodeID: " ", Command: "system.run"}, "target_required"},
		{InvokeIn{NodeID: "n", Command: ""}, "target_required"},
		{InvokeIn{NodeID: "n", Command: "system.execApprovals.get"}, "policy_command"},
		{InvokeIn{NodeID: "n", Command: " system.execApprovals.set "}, "policy_command"},
		{InvokeIn{NodeID: "n", Command: "system.run", Timeout: &neg}, "timeout_range"},
		{InvokeIn{NodeID: "gone", Command: "sms.send"}, "not_connected"},
		{InvokeIn{NodeID: "N", Command: "system.run"}, "not_connected"},
		{InvokeIn{NodeID: "n", Command: "sms.send"}, "not_allowed"},
		{InvokeIn{NodeID: "n", Command: "SYSTEM.RUN"}, "not_allowed"},
		{InvokeIn{NodeID: "n", Command: "system.which"}, "not_declared"},
	} {
		s := newService()
		l := &link{}
		s.attach(t, "n", l, "system.run")
		_, err := s.Invoke(context.Background(), operator, c.in)
		if code(err) != c.want {
			t.Errorf("%+v: %v", c.in, err)
		}
		if len(l.requests()) != 0 {
			t.Errorf("%+v reached the node", c.in)
		}
	}
}

// The guard stands before system.run and before nothing else; what it says is what is sent.
func TestGuardIsAsked(t *testing.T) {
	s := newService()
	asked := 0
	s.guard = guardFunc(func(params []byte) ([]byte, error) {
		asked++
		if string(params) == `{"bad":1}` {
			return nil, errs.New(errs.Denied, "no")
		}
		return []byte(`{"rewritten":true}`), nil
	})
	l := &link{answer: says("1")}
	s.attach(t, "n", l, "system.run", "system.which")
	ctx := context.Background()
	if _, err := s.Invoke(ctx, operator, InvokeIn{NodeID: "n", Command: "system.which", Params: []byte(`{"a":1}`)}); err != nil || asked != 0 {
		t.Errorf("%v, asked %d", err, asked)
	}
	if _, err := s.Invoke(ctx, operator, InvokeIn{NodeID: " n ", Command: " system.run ", Params: []byte(`{"a":1}`)}); err != nil {
		t.Error(err)
	}
	if _, err := s.Invoke(ctx, operator, InvokeIn{NodeID: "n", Command: "system.run", Params: []byte(`{"bad":1}`)}); errs.ClassOf(err) != errs.Denied {
		t.Error(err)
	}
	got := l.requests()
	if len(got) != 2 || string(got[1].Params) != `{"rewritten":true}` || got[1].Command != "system.run" {
		t.Errorf("%+v", got)
	}
}

// Deadlines: the default, a given one, none, and the longest.
func TestInvokeDeadlines(t *testing.T) {
	d := func(x time.Duration) *time.Duration { return &x }
	for _, c := range []struct {
		timeout *time.Duration
		want    time.Duration
	}{
		{nil, DefaultTimeout}, {d(time.Millisecond), time.Millisecond}, {d(time.Hour), time.Hour}, {d(0), MaxTimeout}, {d(48 * time.Hour), MaxTimeout},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newService()
			l := &link{}
			s.attach(t, "n", l, "system.which")
			began := time.Now()
			_, err := s.Invoke(context.Background(), operator, InvokeIn{NodeID: "n", Command: "system.which", Timeout: c.timeout})
			if took := time.Since(began); code(err) != "timeout" || took != c.want {
				t.Errorf("%v: %v after %s", c.timeout, err, took)
			}
			if r := l.requests()[0]; cmp.Diff(c.timeout, r.Timeout) != "" {
				t.Errorf("the node is told %v", r.Timeout)
			}
			// The answer that comes too late is taken and dropped.
			out, err := s.Result(context.Background(), identity.Caller{Role: identity.RoleNode, NodeID: "n"}, ResultIn{NodeID: "n", InvokeID: l.requests()[0].ID, OK: true})
			if err != nil || !out.Ignored {
				t.Errorf("late: %+v %v", out, err)
			}
			if n := len(s.pending.m); n != 0 {
				t.Errorf("%d calls are kept as waiting", n)
			}
		})
	}
}

// What a node's answer becomes (nodes-approvals.md §2.1, §2.4).
func TestAnswers(t *testing.T) {
	p := func(s string) *string { return &s }
	for _, c := range []struct {
		name    string
		in      ResultIn
		payload string
		err     string
	}{
		{"value", ResultIn{OK: true, Payload: []byte(`{"a":1}`)}, `{"a":1}`, ""},
		{"nothing", ResultIn{OK: true}, "", ""},
		{"text", ResultIn{OK: true, PayloadJSON: p(` {"a":1} `)}, `{"a":1}`, ""},
		{"text over value", ResultIn{OK: true, PayloadJSON: p(`1`), Payload: []byte(`2`)}, `1`, ""},
		{"blank text", ResultIn{OK: true, PayloadJSON: p("  ")}, "", ""},
		{"no JSON", ResultIn{OK: true, PayloadJSON: p(`a"b`)}, `{"payloadJSON":"a\"b"}`, ""},
		{"failure", ResultIn{Error: &NodeError{Code: p("C"), Message: p("m")}}, "", "m"},
		{"failure without words", ResultIn{}, "", "the node could not do it"},
		{"failure with code", ResultIn{Error: &NodeError{Code: p("C")}}, "", "the node could not do it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newService()
			s.attach(t, "n", &link{answer: func(Request) *ResultIn { return &c.in }}, "system.which")
			out, err := s.Invoke(context.Background(), operator, InvokeIn{NodeID: "n", Command: "system.which"})
			if c.err != "" {
				if !errors.Is(err, ErrNodeFailed) || err.Error() != c.err {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || string(out.Payload) != c.payload || cmp.Diff(out.PayloadJSON, c.in.PayloadJSON) != "" {
				t.Errorf("%+v %v", out, err)
			}
		})
	}
	s := newService()
	s.attach(t, "n", &link{fail: errors.New("no socket")}, "system.which")
	if _, err := s.Invoke(context.Background(), operator, InvokeIn{NodeID: "n", Command: "system.which"}); code(err) != "send" {
		t.Errorf("got %v", err)
	}
}

// A node speaks for itself only.
func TestForeignResult(t *testing.T) {
	s := newService()
	s.attach(t, "n", &link{}, "system.which")
	s.attach(t, "m", &link{}, "system.which")
	for _, c := range []identity.Caller{{Role: identity.RoleNode, NodeID: "m"}, {Role: identity.RoleNode}, operator} {
		if _, err := s.Result(context.Background(), c, ResultIn{NodeID: "n", InvokeID: "x"}); code(err) != "foreign" {
			t.Errorf("%+v: %v", c, err)
		}
		if _, err := s.Event(context.Background(), c, EventIn{NodeID: "n", Event: "x"}); code(err) != "foreign" {
			t.Errorf("%+v: %v", c, err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		l := &link{}
		s.attach(t, "n", l, "system.which")
		s.attach(t, "m", &link{}, "system.which")
		done := make(chan error)
		go func() {
			_, err := s.Invoke(context.Background(), operator, InvokeIn{NodeID: "n", Command: "system.which"})
			done <- err
		}()
		synctest.Wait()
		// Another node that knows the id of the call cannot answer it.
		out, err := s.Result(context.Background(), identity.Caller{Role: identity.RoleNode, NodeID: "m"}, ResultIn{NodeID: "m", InvokeID: l.requests()[0].ID, OK: true})
		if err != nil || !out.Ignored {
			t.Errorf("%+v %v", out, err)
		}
		if err := <-done; code(err) != "timeout" {
			t.Error(err)
		}
	})
}

func TestEventPayload(t *testing.T) {
	s := newService()
	sub := s.bus.Subscribe(nil)
	defer sub.Close()
	c := identity.Caller{Role: identity.RoleNode, NodeID: "n"}
	big := strings.Repeat("x", maxEventPayload+1)
	if _, err := s.Event(context.Background(), c, EventIn{Event: "e", PayloadJSON: &big}); code(err) != "event_payload" {
		t.Error(err)
	}
	text := "1"
	if _, err := s.Event(context.Background(), c, EventIn{Event: "e", Payload: []byte("2"), PayloadJSON: &text}); err != nil {
		t.Error(err)
	}
	e, _ := sub.TryNext()
	if d := cmp.Diff(Reported{NodeID: "n", Event: "e", Payload: []byte("1")}, e.Payload); d != "" {
		t.Error(d)
	}
}

// The newer connection of a node wins; the end of the older one changes nothing; calls that wait on
// it fail at once.
func TestReplace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		sub := s.bus.Subscribe(nil)
		defer sub.Close()
		old, young := &link{}, &link{answer: says(`"young"`)}
		a := s.attach(t, "n", old, "system.which")
		failed := make(chan error)
		go func() {
			_, err := s.Invoke(context.Background(), operator, InvokeIn{NodeID: "n", Command: "system.which"})
			failed <- err
		}()
		synctest.Wait()
		b := s.attach(t, "n", young, "system.which")
		if err := <-failed; code(err) != "disconnected" {
			t.Error(err)
		}
		if old.closed == "" || young.closed != "" {
			t.Errorf("closed: %q %q", old.closed, young.closed)
		}
		a.Detach()
		out, err := s.Invoke(context.Background(), operator, InvokeIn{NodeID: "n", Command: "system.which"})
		if err != nil || string(out.Payload) != `"young"` || s.Connected() != 1 {
			t.Errorf("%+v %v", out, err)
		}
		b.Detach()
		b.Detach()
		if s.Connected() != 0 {
			t.Error("still connected")
		}
		var got []string
		for e, ok := sub.TryNext(); ok; e, ok = sub.TryNext() {
			got = append(got, e.Name)
		}
		if d := cmp.Diff([]string{"node.connected", "node.connected", "node.disconnected"}, got); d != "" {
			t.Error(d)
		}
	})
}

// Every call that waits on a node ends when it disconnects, those without a limit too.
func TestDisconnectFailsWaitingCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		a := s.attach(t, "n", &link{}, "system.which")
		none := time.Duration(0)
		var wg sync.WaitGroup
		var failed atomic.Int32
		for range 100 {
			wg.Go(func() {
				_, err := s.Invoke(context.Background(), operator, InvokeIn{NodeID: "n", Command: "system.which", Timeout: &none})
				if e, ok := errs.As(err); ok && e.Code == ErrDisconnected.Code && e.Field("command") == "system.which" {
					failed.Add(1)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		a.Detach()
		wg.Wait()
		if failed.Load() != 100 || time.Since(began) != 0 {
			t.Errorf("%d failed after %s", failed.Load(), time.Since(began))
		}
	})
}

// One key runs once, however many ask, and cannot be used for something else.
func TestIdempotency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		l := &link{}
		s.attach(t, "n", l, "system.which", "system.run")
		in := InvokeIn{NodeID: "n", Command: "system.which", Params: []byte(`{"a":1}`), IdempotencyKey: "k"}
		var wg sync.WaitGroup
		var same atomic.Int32
		for range 50 {
			wg.Go(func() {
				if out, err := s.Invoke(context.Background(), operator, in); err == nil && string(out.Payload) == `"x"` {
					same.Add(1)
				}
			})
		}
		synctest.Wait()
		if len(l.requests()) != 1 {
			t.Fatalf("it ran %d times", len(l.requests()))
		}
		_, err := s.Result(context.Background(), identity.Caller{Role: identity.RoleNode, NodeID: "n"}, ResultIn{NodeID: "n", InvokeID: l.requests()[0].ID, OK: true, Payload: []byte(`"x"`)})
		if err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if same.Load() != 50 {
			t.Errorf("%d got the answer", same.Load())
		}
		for _, other := range []InvokeIn{
			{NodeID: "n", Command: "system.which", Params: []byte(`{"a":2}`), IdempotencyKey: "k"},
			{NodeID: "n", Command: "system.which", IdempotencyKey: "k"},
			{NodeID: "n", Command: "system.run", Params: []byte(`{"a":1}`), IdempotencyKey: "k"},
			{NodeID: "m", Command: "system.which", Params: []byte(`{"a":1}`), IdempotencyKey: "k"},
		} {
			if _, err := s.Invoke(context.Background(), operator, other); code(err) != "key_reused" {
				t.Errorf("%+v: %v", other, err)
			}
		}
		// Another caller's key is another key.
		l.answer = says(`"y"`)
		stranger := identity.Caller{Role: identity.RoleOperator, Scopes: identity.AllOperatorScopes, DeviceID: "d"}
		if out, err := s.Invoke(context.Background(), stranger, in); err != nil || string(out.Payload) != `"y"` {
			t.Errorf("%+v %v", out, err)
		}
		// After its time it is forgotten.
		time.Sleep(keptFor + time.Second)
		if out, err := s.Invoke(context.Background(), operator, in); err != nil || string(out.Payload) != `"y"` {
			t.Errorf("%+v %v", out, err)
		}
	})
}

// A call that never reached the node may be tried again under its key; one that may have is not.
func TestKeyAfterFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		in := InvokeIn{NodeID: "n", Command: "system.which", IdempotencyKey: "k"}
		if _, err := s.Invoke(context.Background(), operator, in); code(err) != "not_connected" {
			t.Fatal(err)
		}
		l := &link{}
		s.attach(t, "n", l, "system.which")
		if _, err := s.Invoke(context.Background(), operator, in); code(err) != "timeout" {
			t.Fatal(err)
		}
		l.answer = says("1")
		if _, err := s.Invoke(context.Background(), operator, in); code(err) != "timeout" || len(l.requests()) != 1 {
			t.Errorf("%v; the node saw %d", err, len(l.requests()))
		}
	})
}

// What is kept for repetitions is bounded: in number, in bytes, and each answer.
func TestKeptIsBounded(t *testing.T) {
	s := newService()
	size := keptEach
	l := &link{answer: func(Request) *ResultIn {
		return &ResultIn{OK: true, Payload: []byte(`"` + strings.Repeat("x", size-2) + `"`)}
	}}
	s.attach(t, "n", l, "system.which")
	call := func(key string) (InvokeOut, error) {
		return s.Invoke(context.Background(), operator, InvokeIn{NodeID: "n", Command: "system.which", IdempotencyKey: key})
	}
	for i := range 2 * keptBytes / keptEach {
		if _, err := call(fmt.Sprint("big", i)); err != nil {
			t.Fatal(err)
		}
		if s.kept.bytes > keptBytes+keptEach || s.kept.bytes < 0 {
			t.Fatalf("%d bytes are kept", s.kept.bytes)
		}
	}
	size = keptEach + 1
	if out, err := call("huge"); err != nil || len(out.Payload) != size {
		t.Fatalf("%d %v", len(out.Payload), err)
	}
	ran := len(l.requests())
	if _, err := call("huge"); code(err) != "answer_gone" || len(l.requests()) != ran {
		t.Errorf("got %v", err)
	}
	size = 10
	for i := range 3 * keptEachCaller {
		if _, err := call(fmt.Sprint("small", i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.kept.m); n != keptEachCaller || n != s.kept.ended.Len() {
		t.Errorf("%d keys, %d in order", n, s.kept.ended.Len())
	}
	s.kept.check(t)
}

// check counts anew what is kept.
func (k *keptSet) check(t *testing.T) {
	t.Helper()
	sum, n := 0, 0
	for name, o := range k.owners {
		mine := 0
		for e := o.ended.Front(); e != nil; e = e.Next() {
			c := e.Value.(*call)
			mine += c.size
			n++
			if c.owner != name || k.m[c.id] != c {
				t.Errorf("a call of %q is kept for %q", c.owner, name)
			}
		}
		if mine != o.bytes || o.ended.Len() == 0 {
			t.Errorf("%s: %d bytes are counted, %d are there in %d calls", name, o.bytes, mine, o.ended.Len())
		}
		sum += mine
	}
	if sum != k.bytes || n != k.ended.Len() {
		t.Errorf("%d bytes in %d calls are counted, %d in %d are there", k.bytes, k.ended.Len(), sum, n)
	}
}

// One caller's calls push out its own and nobody else's; when there are too many in all, who has most
// loses most. A key that is known is not run again only because its answer took too much room.
func TestKeptIsFair(t *testing.T) {
	k := newKeptSet()
	now := time.Now()
	run := func(owner, key string, size int) {
		t.Helper()
		c, first, err := k.begin(callID([]byte(fmt.Sprintf("%-32s", owner+key))), owner, 1, now)
		if err != nil || !first {
			t.Fatalf("%s %s: %v %v", owner, key, first, err)
		}
		k.end(c, kept(size), true, now)
	}
	known := func(owner, key string) (answer, bool) {
		c, first, err := k.begin(callID([]byte(fmt.Sprintf("%-32s", owner+key))), owner, 1, now)
		if err != nil || first {
			return answer{}, false
		}
		return k.answer(c), true
	}
	run("quiet", "k", 100)
	for i := range 2 * keptEachCaller {
		run("loud", fmt.Sprint(i), keptEach)
	}
	if a, ok := known("quiet", "k"); !ok || a.err != nil {
		t.Errorf("the quiet caller's answer is gone: %v %v", ok, a.err)
	}
	if a, ok := known("loud", fmt.Sprint(keptEachCaller+1)); !ok || !errors.Is(a.err, ErrAnswerGone) {
		t.Errorf("a key whose answer was dropped: %v %v", ok, a.err)
	}
	if k.bytes > keptBytes {
		t.Errorf("%d bytes", k.bytes)
	}
	for i := range keptMax {
		run(fmt.Sprint("one of many ", i/10), fmt.Sprint(i), 1)
	}
	if k.ended.Len() != keptMax {
		t.Errorf("%d calls are kept", k.ended.Len())
	}
	if _, ok := known("quiet", "k"); !ok {
		t.Error("the quiet caller's key is gone")
	}
	k.check(t)
}

// An answer that was pruned before all who waited for it have it still reaches them, and is not
// counted out twice. A clock that was set back keeps nothing for ever.
func TestKeptBytesStayRight(t *testing.T) {
	for _, jump := range []time.Duration{keptFor + time.Second, -keptFor - time.Second} {
		k := newKeptSet()
		now := time.Now()
		c, _, err := k.begin(callID{1}, "o", 1, now)
		if err != nil {
			t.Fatal(err)
		}
		if _, first, err := k.begin(callID{1}, "o", 1, now); first || err != nil {
			t.Fatal(err)
		}
		k.end(c, kept(keptEach+1), true, now)
		if _, _, err := k.begin(callID{2}, "o", 1, now.Add(jump)); err != nil {
			t.Fatal(err)
		}
		if k.bytes != 0 || len(k.owners) != 0 || len(k.m) != 1 {
			t.Errorf("%d bytes are counted with nothing kept", k.bytes)
		}
		if a := k.answer(c); a.err != nil || len(a.out.Payload) != keptEach+1 || k.bytes != 0 {
			t.Errorf("who waited got %v", a.err)
		}
	}
}

// A large answer reaches all who waited for it and is let go of then; a node's long complaint is an
// answer like others.
func TestLargeAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		l := &link{}
		s.attach(t, "n", l, "system.which")
		long := strings.Repeat("x", keptEach)
		for i, res := range []ResultIn{{OK: true, Payload: []byte(`"` + long + `"`)}, {Error: &NodeError{Message: &long}}} {
			in := InvokeIn{NodeID: "n", Command: "system.which", IdempotencyKey: fmt.Sprint(i)}
			var wg sync.WaitGroup
			var whole atomic.Int32
			for range 20 {
				wg.Go(func() {
					out, err := s.Invoke(context.Background(), operator, in)
					if len(out.Payload) > keptEach || (err != nil && strings.HasSuffix(err.Error(), long)) {
						whole.Add(1)
					}
				})
			}
			synctest.Wait()
			ctx, cancel := context.WithCancel(context.Background())
			wg.Go(func() {
				if _, err := s.Invoke(ctx, operator, in); !errors.Is(err, context.Canceled) {
					t.Errorf("who left: %v", err)
				}
			})
			synctest.Wait()
			cancel()
			synctest.Wait()
			res.NodeID, res.InvokeID = "n", l.requests()[i].ID
			if _, err := s.Result(context.Background(), identity.Caller{NodeID: "n"}, res); err != nil {
				t.Fatal(err)
			}
			wg.Wait()
			if whole.Load() != 20 || s.kept.bytes != 0 {
				t.Errorf("%d got it; %d bytes are kept", whole.Load(), s.kept.bytes)
			}
			if _, err := s.Invoke(context.Background(), operator, in); code(err) != "answer_gone" || len(l.requests()) != i+1 {
				t.Errorf("later: %v, %d runs", err, len(l.requests()))
			}
		}
	})
}

// Whose key it is: the same caller's by any door and connection, and nobody else's.
func TestKeyScope(t *testing.T) {
	all, write := identity.AllOperatorScopes, []identity.Scope{identity.ScopeWrite}
	op := func(c identity.Caller) identity.Caller {
		c.Role = identity.RoleOperator
		return c
	}
	for _, c := range []struct {
		name string
		a, b identity.Caller
		same bool
	}{
		{"a device by two doors", op(identity.Caller{Door: identity.DoorGRPC, DeviceID: "d", Principal: "device:d", Scopes: write}), op(identity.Caller{Door: identity.DoorLegacy, DeviceID: "d", ConnID: "c", Principal: "conn:c", Scopes: write}), true},
		{"two connections with the secret", op(identity.Caller{ConnID: "c1", Principal: "conn:c1", Scopes: all}), op(identity.Caller{ConnID: "c2", Principal: "conn:c2", Scopes: all}), true},
		{"the secret by REST", op(identity.Caller{Principal: "shared-secret", Scopes: all}), op(identity.Caller{ConnID: "c2", Principal: "conn:c2", Scopes: []identity.Scope{identity.ScopeAdmin}}), true},
		{"the order of scopes", op(identity.Caller{DeviceID: "d", Scopes: []identity.Scope{"operator.write", "operator.read"}}), op(identity.Caller{DeviceID: "d", Scopes: []identity.Scope{"operator.read", "operator.write"}}), true},
		{"fewer rights", op(identity.Caller{ConnID: "c1", Principal: "conn:c1", Scopes: all}), op(identity.Caller{ConnID: "c2", Principal: "conn:c2", Scopes: write}), false},
		{"two devices", op(identity.Caller{DeviceID: "d1", Scopes: all}), op(identity.Caller{DeviceID: "d2", Scopes: all}), false},
		{"a device and the secret", op(identity.Caller{DeviceID: "d", Scopes: all}), op(identity.Caller{ConnID: "c", Principal: "conn:c", Scopes: all}), false},
		{"two users of this machine", op(identity.Caller{Principal: "local:1", Scopes: all}), op(identity.Caller{Principal: "local:2", Scopes: all}), false},
		{"two users of an identity service", op(identity.Caller{ConnID: "c1", Principal: "iam:alice", Scopes: all}), op(identity.Caller{ConnID: "c2", Principal: "iam:bob", Scopes: all}), false},
	} {
		a, _ := idOf(c.a, "k")
		b, _ := idOf(c.b, "k")
		if (a == b) != c.same {
			t.Errorf("%s: same %v", c.name, a == b)
		}
	}
	// What stands where in the name of a call cannot be moved by what a caller chooses.
	a, _ := idOf(op(identity.Caller{DeviceID: "d", Scopes: write}), "k")
	b, _ := idOf(op(identity.Caller{DeviceID: "d"}), "koperator.write")
	if a == b {
		t.Error("a key that ends like a scope")
	}
}

// A caller whose connection is lost comes back and gets the answer of its first call.
func TestKeyOutlivesCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		l := &link{}
		s.attach(t, "n", l, "system.which")
		pending := func() int {
			s.pending.mu.Lock()
			defer s.pending.mu.Unlock()
			return len(s.pending.m)
		}
		orphans := func() int {
			s.pending.mu.Lock()
			defer s.pending.mu.Unlock()
			return s.pending.orphans
		}
		none := time.Duration(0)
		in := InvokeIn{NodeID: "n", Command: "system.which", IdempotencyKey: "k", Timeout: &none}
		lost := func(in InvokeIn) error {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(time.Second, cancel)
			began := time.Now()
			_, err := s.Invoke(ctx, operator, in)
			if time.Since(began) != time.Second {
				t.Errorf("a caller that is gone is kept %s", time.Since(began))
			}
			return err
		}
		for range 2 { // the second is a repetition that is lost too
			if err := lost(in); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		answered := make(chan string, 1)
		go func() {
			out, err := s.Invoke(context.Background(), operator, in)
			answered <- fmt.Sprint(string(out.Payload), err)
		}()
		synctest.Wait()
		if _, err := s.Result(context.Background(), identity.Caller{NodeID: "n"}, ResultIn{NodeID: "n", InvokeID: l.requests()[0].ID, OK: true, Payload: []byte("7")}); err != nil {
			t.Fatal(err)
		}
		if got := <-answered; got != "7<nil>" || len(l.requests()) != 1 {
			t.Errorf("%s after %d runs", got, len(l.requests()))
		}
		// Nobody comes back: the call is let go of, and a repetition is told the truth.
		in.IdempotencyKey = "k2"
		if err := lost(in); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		time.Sleep(keptFor - time.Second)
		if orphans() != 1 {
			t.Errorf("%d calls go on without their callers", orphans())
		}
		time.Sleep(2 * time.Second)
		if orphans() != 0 || pending() != 0 {
			t.Errorf("%d calls go on without their callers", orphans())
		}
		if _, err := s.Invoke(context.Background(), operator, in); code(err) != "first_gone" || len(l.requests()) != 2 {
			t.Errorf("%v after %d runs", err, len(l.requests()))
		}
		// One with a limit of its own keeps it; one without a key ends with its caller.
		short := 3 * time.Second
		in.IdempotencyKey, in.Timeout = "k3", &short
		if err := lost(in); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		time.Sleep(short)
		if _, err := s.Invoke(context.Background(), operator, in); code(err) != "timeout" {
			t.Error(err)
		}
		in.IdempotencyKey, in.Timeout = "", &none
		if err := lost(in); !errors.Is(err, context.Canceled) || pending() != 0 {
			t.Error(err)
		}
		// They are bounded.
		s.pending.orphans = maxOrphans
		in.IdempotencyKey = "k4"
		if err := lost(in); !errors.Is(err, context.Canceled) || pending() != 0 {
			t.Errorf("one too many: %v, %d wait", err, pending())
		}
		s.pending.orphans = 0
	})
}

// A key outlasts the node's connection: what may have run is not run again by a repetition.
func TestKeyOutlivesReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		in := InvokeIn{NodeID: "n", Command: "system.which", IdempotencyKey: "k"}
		first := &link{}
		a := s.attach(t, "n", first, "system.which")
		errs := make(chan error, 2)
		for range 2 {
			go func() { errs <- second(s.Invoke(context.Background(), operator, in)) }()
		}
		synctest.Wait()
		a.Detach()
		for range 2 {
			if err := <-errs; code(err) != "disconnected" {
				t.Errorf("while it ran: %v", err)
			}
		}
		next := &link{answer: says("1")}
		s.attach(t, "n", next, "system.which")
		if _, err := s.Invoke(context.Background(), operator, in); code(err) != "disconnected" {
			t.Errorf("after the reconnect: %v", err)
		}
		// And an answer to a call that is done outlasts it too.
		in.IdempotencyKey = "done"
		if _, err := s.Invoke(context.Background(), operator, in); err != nil {
			t.Fatal(err)
		}
		last := &link{answer: says("2")}
		s.attach(t, "n", last, "system.which")
		if out, err := s.Invoke(context.Background(), operator, in); err != nil || string(out.Payload) != "1" {
			t.Errorf("%s %v", out.Payload, err)
		}
		if len(first.requests()) != 1 || len(next.requests()) != 1 || len(last.requests()) != 0 {
			t.Errorf("runs: %d, %d, %d", len(first.requests()), len(next.requests()), len(last.requests()))
		}
	})
}

func TestPendingIsBounded(t *testing.T) {
	p := pendingSet{m: map[string]*waiting{}}
	for i := range maxPending {
		if err := p.add(fmt.Sprint(i), &waiting{}, func() {}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.add("one more", &waiting{}, func() {}); code(err) != "too_many_invokes" {
		t.Error(err)
	}
}

func TestRegistryIsBounded(t *testing.T) {
	r := newRegistry()
	live := map[string]*entry{}
	for i := range maxNodes {
		live[fmt.Sprint(i)] = &entry{node: Node{ID: fmt.Sprint(i)}}
	}
	r.cur.Store(&snapshot{live: live})
	if _, err := r.put(&entry{node: Node{ID: "one more"}}); code(err) != "too_many_nodes" {
		t.Error(err)
	}
	if old, err := r.put(&entry{node: Node{ID: "7"}}); err != nil || old == nil {
		t.Errorf("one that is there: %v", err)
	}
}

// List is the union of connected and paired nodes in display order; names that people gave win and
// last (nodes-approvals.md §1.4).
func TestListAndRename(t *testing.T) {
	s := newService(Node{ID: "p1", DisplayName: "zeta"}, Node{ID: "c1", DisplayName: "paired name", Platform: "macos"}, Node{ID: "p2", DisplayName: "Alpha"})
	ctx := context.Background()
	_, _, err := s.Attach(Node{ID: "c1"}, []string{" canvas.eval", "canvas.eval", "canvas.hide"}, []string{"b", "a", "b", " "}, &link{})
	if err != nil {
		t.Fatal(err)
	}
	a2 := s.attach(t, "c2", &link{})
	show := func() (out []string) {
		l, err := s.List(ctx, operator, ListIn{})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range l.Nodes {
			out = append(out, fmt.Sprintf("%s %q %v %v %v %v", n.ID, n.DisplayName, n.Connected, n.Paired, n.Caps, n.Commands))
		}
		return out
	}
	want := []string{
		`c2 "" true false [] []`, `c1 "paired name" true true [a b] [canvas.eval canvas.hide]`,
		`p2 "Alpha" false true [] []`, `p1 "zeta" false true [] []`,
	}
	if d := cmp.Diff(want, show()); d != "" {
		t.Error(d)
	}
	for _, c := range []struct{ id, name, want string }{
		{"", "x", "id_required"}, {"c1", " ", "name_required"}, {"c1", strings.Repeat("ü", maxName+1), "name_too_long"}, {"nope", "x", "unknown"},
		{" c2 ", strings.Repeat("ü", maxName), ""}, {"c2", "  My box ", ""}, {"p1", "aaa", ""},
	} {
		if _, err := s.Rename(ctx, operator, RenameIn{NodeID: c.id, DisplayName: c.name}); code(err) != c.want {
			t.Errorf("%q %.10q: %v", c.id, c.name, err)
		}
	}
	a2.Detach()
	if _, err := s.Describe(ctx, operator, DescribeIn{NodeID: "c2"}); code(err) != "unknown" {
		t.Error(err)
	}
	s.attach(t, "c2", &link{})
	if d, err := s.Describe(ctx, operator, DescribeIn{NodeID: " c2 "}); err != nil || d.Node.DisplayName != "My box" {
		t.Errorf("%+v %v", d, err)
	}
	if got := show(); !strings.HasPrefix(got[2], `p1 "aaa"`) {
		t.Errorf("got %v", got)
	}
	if c, k := s.Counts(); c != 2 || k != 4 {
		t.Errorf("%d of %d", c, k)
	}
}

// Watchers miss nothing between the list and the changes, and see only what they may.
func TestWatch(t *testing.T) {
	s := newService()
	s.attach(t, "n", &link{})
	w, err := s.Watch(context.Background(), operator)
	if err != nil || len(w.Present) != 1 {
		t.Fatalf("%+v %v", w, err)
	}
	defer w.Events.Close()
	blind, err := s.Watch(context.Background(), identity.Caller{Role: identity.RoleNode, NodeID: "n"})
	if err != nil {
		t.Fatal(err)
	}
	defer blind.Events.Close()
	s.attach(t, "m", &link{}).Detach()
	for _, want := range []string{"node.connected", "node.disconnected"} {
		if e, _ := w.Events.TryNext(); e.Name != want || e.Payload.(Changed).Node.ID != "m" {
			t.Errorf("%+v", e)
		}
	}
	if _, ok := blind.Events.TryNext(); ok {
		t.Error("a node sees others come and go")
	}
}

// Nodes that come and go while many call them: every call ends, nothing is left, and whoever watches
// has the right picture in the end.
func TestRace(t *testing.T) {
	s := newService()
	var mu sync.Mutex
	online := map[string]bool{}
	s.bus.Sink(func(e events.Event) {
		mu.Lock()
		defer mu.Unlock()
		if c, ok := e.Payload.(Changed); ok {
			online[c.Node.ID] = e.Name == "node.connected"
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 200 {
				id := fmt.Sprint("n", (g+i)%3)
				a := s.attach(t, id, &link{answer: says("1")}, "system.which")
				if i%2 == 0 || i > 190 {
					a.Detach()
				} else {
					defer a.Detach()
				}
			}
		})
	}
	for range 8 {
		wg.Go(func() {
			for i := range 300 {
				_, err := s.Invoke(ctx, operator, InvokeIn{NodeID: fmt.Sprint("n", i%3), Command: "system.which", IdempotencyKey: fmt.Sprint(i)})
				switch code(err) {
				case "", "not_connected", "disconnected", "send":
				default:
					t.Errorf("got %v", err)
				}
				if _, err := s.List(ctx, operator, ListIn{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	for id, on := range online {
		if _, live := s.reg.get(id); live != on {
			t.Errorf("%s is connected: %v; who listened thinks %v", id, live, on)
		}
	}
	if len(s.pending.m) != 0 {
		t.Errorf("%d calls still wait", len(s.pending.m))
	}
}

func kept(size int) (a answer) {
	a.out.Payload = make([]byte, size)
	return a
}

// TestID: a device is its own id; without one the instance names the node, but never as a device.
func TestID(t *testing.T) {
	device := strings.Repeat("0a", 32)
	for _, c := range [][4]string{
		{device, "box", "node-host", device},
		{device, strings.Repeat("1b", 32), "node-host", device},
		{"", " box ", "node-host", "box"},
		{"", " ", "node-host", "node-host"},
		{"", device[1:], "node-host", device[1:]},
		{"", device[1:] + "g", "node-host", device[1:] + "g"},
	} {
		if got, err := ID(c[0], c[1], c[2]); err != nil || got != c[3] {
			t.Errorf("%q: %q, %v", c, got, err)
		}
	}
	for _, claimed := range []string{device, " " + device, strings.ToUpper(device)} {
		if _, err := ID("", claimed, "node-host"); !errors.Is(err, ErrDeviceClaimed) {
			t.Errorf("%q: %v", claimed, err)
		}
		if _, err := ID("", "", claimed); !errors.Is(err, ErrDeviceClaimed) {
			t.Errorf("%q as the kind of client: %v", claimed, err)
		}
	}
}

// BenchmarkInvoke is a call with a key to a node that answers at once, without any door.
func BenchmarkInvoke(b *testing.B) {
	s := newService()
	s.attach(b, "n", &link{answer: func(Request) *ResultIn { return &ResultIn{OK: true, Payload: []byte("1")} }}, "system.which")
	keys := make([]string, 4096)
	for i := range keys {
		keys[i] = fmt.Sprint("key-", i)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := s.Invoke(context.Background(), operator, InvokeIn{NodeID: "n", Command: "system.which", Params: []byte("{}"), IdempotencyKey: keys[i%len(keys)]}); err != nil {
			b.Fatal(err)
		}
	}
}
