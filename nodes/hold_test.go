package nodes

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

	"github.com/google/go-cmp/cmp"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes/push"
)

// phone is the push service in memory; the real one is in push_test.go.
type phone struct {
	began time.Time
	ready error
	say   func(push.Message) (push.Result, error)

	mu  sync.Mutex
	got []string
}

func (p *phone) Ready() error { return p.ready }

func (p *phone) Send(ctx context.Context, m push.Message) (push.Result, error) {
	p.mu.Lock()
	what := m.Kind
	if m.Alert != nil {
		what = "alert"
	}
	p.got = append(p.got, fmt.Sprint(time.Since(p.began), " ", what))
	p.mu.Unlock()
	if p.say != nil {
		return p.say(m)
	}
	return push.Result{Status: 200}, ctx.Err()
}

func (p *phone) pushes() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got)
}

const phoneToken = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

// asleep is a service with a phone that registered and went to sleep.
func asleep(t *testing.T) (*Service, *names, *phone) {
	t.Helper()
	store := &names{m: map[string]string{}, phones: map[string]Registration{
		"phone": {NodeID: "phone", Token: phoneToken, Topic: "ai.hanzo", Environment: push.Sandbox, Platform: "iOS 18.2", DeviceFamily: "iPhone"},
	}}
	p := &phone{began: time.Now()}
	s := newService()
	s.store, s.push = store, p
	t.Cleanup(s.Stop)
	return s, store, p
}

func (s *Service) attachPhone(tb testing.TB, l *link) *Attachment {
	tb.Helper()
	l.svc, l.id = s, "phone"
	a, _, err := s.Attach(Node{ID: "phone", Platform: "iOS 18.2", DeviceFamily: "iPhone"}, []string{"canvas.present"}, nil, l)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

var canvasCall = InvokeIn{NodeID: "phone", Command: "canvas.present"}

// A phone that does not come: two pushes in the background and one that its user sees, with the times
// of nodes-approvals.md §1.6; the next calls keep the distance.
func TestWakeTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, p := asleep(t)
		call := func() string {
			_, err := s.Invoke(context.Background(), operator, canvasCall)
			synctest.Wait() // the alert goes out beside the answer
			return fmt.Sprint(time.Since(p.began), " ", code(err))
		}
		for _, want := range []struct {
			end    string
			pushes []string
		}{
			{"15s not_connected", []string{"0s node.wake", "3s node.wake", "15s alert"}},
			// Twelve seconds after the last push the first one is left out; it still counts as sent.
			{"30s not_connected", []string{"18s node.wake"}},
		} {
			before := len(p.pushes())
			if got := call(); got != want.end {
				t.Errorf("%s, want %s", got, want.end)
			}
			if d := cmp.Diff(want.pushes, p.pushes()[before:]); d != "" {
				t.Error(d)
			}
		}
		time.Sleep(10*time.Minute - 15*time.Second)
		before := len(p.pushes())
		call()
		if d := cmp.Diff([]string{"10m15s node.wake", "10m18s node.wake", "10m30s alert"}, p.pushes()[before:]); d != "" {
			t.Error(d)
		}
		// Many calls at once are not many pushes.
		time.Sleep(time.Hour)
		before = len(p.pushes())
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := s.Invoke(context.Background(), operator, canvasCall); code(err) != "not_connected" {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		if n := len(p.pushes()) - before; n != 3 {
			t.Errorf("twenty calls sent %v", p.pushes()[before:])
		}
		if s.Held() != 0 {
			t.Errorf("%d calls are still held", s.Held())
		}
	})
}

// The phone comes at some moment of the waking: the call runs then, once.
func TestWakeAndRun(t *testing.T) {
	for _, c := range []struct {
		after  time.Duration
		pushes int
	}{{1, 1}, {time.Second, 1}, {3*time.Second - 1, 1}, {4 * time.Second, 2}, {15*time.Second - 1, 2}} {
		synctest.Test(t, func(t *testing.T) {
			s, _, p := asleep(t)
			l := &link{answer: says(`"shown"`)}
			time.AfterFunc(c.after, func() { s.attachPhone(t, l) })
			began := time.Now()
			out, err := s.Invoke(context.Background(), operator, canvasCall)
			if err != nil || string(out.Payload) != `"shown"` || time.Since(began) != c.after {
				t.Errorf("%s: %s %v after %s", c.after, out.Payload, err, time.Since(began))
			}
			time.Sleep(time.Minute)
			if len(l.requests()) != 1 || len(p.pushes()) != c.pushes || s.Held() != 0 {
				t.Errorf("%s: %d runs, pushes %v", c.after, len(l.requests()), p.pushes())
			}
		})
	}
}

// What cannot help is not tried: no push for what the platform may not do, no wait without
// registration or credentials, no second push after a refusal for good.
func TestWakeInVain(t *testing.T) {
	refused := func(status int) func(push.Message) (push.Result, error) {
		return func(push.Message) (push.Result, error) { return push.Result{Status: status}, nil }
	}
	lost := func(push.Message) (push.Result, error) { return push.Result{}, push.ErrUnreachable }
	for _, c := range []struct {
		name    string
		in      InvokeIn
		ready   error
		say     func(push.Message) (push.Result, error)
		want    string
		took    time.Duration
		pushes  int
		dropped bool
	}{
		{name: "not allowed", in: InvokeIn{NodeID: "phone", Command: "sms.send"}, want: "not_allowed"},
		{name: "not for phones", in: InvokeIn{NodeID: "phone", Command: "system.run"}, want: "not_allowed"},
		{name: "policy file", in: InvokeIn{NodeID: "phone", Command: "system.execApprovals.get"}, want: "policy_command"},
		{name: "not registered", in: InvokeIn{NodeID: "tv", Command: "canvas.present"}, want: "not_connected"},
		{name: "no credentials", in: canvasCall, ready: push.ErrNoCredentials, want: "not_connected"},
		{name: "unregistered", in: canvasCall, say: refused(410), want: "not_connected", pushes: 1, dropped: true},
		{name: "bad token", in: canvasCall, say: refused(400), want: "not_connected", pushes: 1},
		{name: "bad credentials", in: canvasCall, say: refused(403), want: "not_connected", pushes: 1},
		{name: "too many", in: canvasCall, say: refused(429), want: "not_connected", took: 15 * time.Second, pushes: 3},
		{name: "out of service", in: canvasCall, say: refused(503), want: "not_connected", took: 15 * time.Second, pushes: 3},
		{name: "unreachable", in: canvasCall, say: lost, want: "not_connected", took: 15 * time.Second, pushes: 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, store, p := asleep(t)
				p.ready, p.say = c.ready, c.say
				began := time.Now()
				_, err := s.Invoke(context.Background(), operator, c.in)
				took := time.Since(began)
				synctest.Wait()
				if code(err) != c.want || took != c.took || len(p.pushes()) != c.pushes {
					t.Errorf("%v after %s with %v", err, took, p.pushes())
				}
				if _, there := store.phones["phone"]; there == c.dropped {
					t.Errorf("the registration is there: %v", there)
				}
			})
		})
	}
}

// A registration that was renewed while its old token was refused stays.
func TestRenewedRegistrationStays(t *testing.T) {
	s, store, p := asleep(t)
	fresh := store.phones["phone"]
	fresh.Token = strings.Repeat("ab", 32)
	p.say = func(push.Message) (push.Result, error) {
		store.mu.Lock()
		store.phones["phone"] = fresh
		store.mu.Unlock()
		return push.Result{Status: 410}, nil
	}
	if _, err := s.Invoke(context.Background(), operator, canvasCall); code(err) != "not_connected" {
		t.Error(err)
	}
	if r, ok, _ := store.Registration("phone"); !ok || r.Token != fresh.Token {
		t.Errorf("%v", ok)
	}
}

func waitFor(d time.Duration) *time.Duration { return &d }

// A call that may wait is held until its node comes, is judged then, and runs once.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		defer s.Stop()
		guarded := 0
		s.guard = guardFunc(func(p []byte) ([]byte, error) {
			guarded++
			return p, nil
		})
		in := InvokeIn{NodeID: "n", Command: "system.run", IdempotencyKey: "k", WaitForNode: waitFor(MaxNodeWait)}
		var wg sync.WaitGroup
		var good, declared atomic.Int32
		for range 10 { // one call and its repetitions
			wg.Go(func() {
				if out, err := s.Invoke(context.Background(), operator, in); err == nil && string(out.Payload) == "1" {
					good.Add(1)
				}
			})
		}
		wg.Go(func() {
			_, err := s.Invoke(context.Background(), operator, InvokeIn{NodeID: "n", Command: "system.which", WaitForNode: waitFor(time.Hour)})
			if code(err) == "not_declared" {
				declared.Add(1)
			}
		})
		time.Sleep(30 * time.Minute)
		if guarded != 0 || s.Held() != 2 {
			t.Errorf("asked %d times before the node came; %d are held", guarded, s.Held())
		}
		l := &link{answer: says("1")}
		s.attach(t, "n", l, "system.run")
		wg.Wait()
		synctest.Wait()
		if good.Load() != 10 || declared.Load() != 1 || len(l.requests()) != 1 || guarded != 1 || s.Held() != 0 {
			t.Errorf("%d answers, %d refusals, %d runs, %d asked, %d held", good.Load(), declared.Load(), len(l.requests()), guarded, s.Held())
		}
	})
}

// How a held call ends when no node comes: with its time, with its caller, with the service.
func TestHoldEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		in := InvokeIn{NodeID: "n", Command: "system.which", WaitForNode: waitFor(time.Minute)}
		began := time.Now()
		if _, err := s.Invoke(context.Background(), operator, in); code(err) != "not_connected" || time.Since(began) != time.Minute {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(time.Second, cancel)
		began = time.Now()
		if _, err := s.Invoke(ctx, operator, in); !errors.Is(err, context.Canceled) || time.Since(began) != time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		l := &link{answer: says("1")}
		a := s.attach(t, "n", l, "system.which")
		if len(l.requests()) != 0 {
			t.Error("a call ran whose caller is gone")
		}
		a.Detach()
		stopped := make(chan error)
		go func() { stopped <- second(s.Invoke(context.Background(), operator, in)) }()
		synctest.Wait()
		s.Stop()
		if err := <-stopped; code(err) != "closing" {
			t.Errorf("when the service stops: %v", err)
		}
		if _, err := s.Invoke(context.Background(), operator, in); code(err) != "closing" || s.Held() != 0 {
			t.Errorf("after that: %v", err)
		}
		for _, d := range []time.Duration{-1, MaxNodeWait + 1} {
			in.WaitForNode = &d
			if _, err := s.Invoke(context.Background(), operator, in); code(err) != "wait_range" {
				t.Errorf("%s: %v", d, err)
			}
		}
		in.WaitForNode = waitFor(0)
		if _, err := s.Invoke(context.Background(), operator, in); code(err) != "not_connected" {
			t.Errorf("no time to wait: %v", err)
		}
	})
}

// When the caller of a held call goes and a repetition waits, the repetition takes its place.
func TestRepetitionTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		defer s.Stop()
		in := InvokeIn{NodeID: "n", Command: "system.which", IdempotencyKey: "k", WaitForNode: waitFor(time.Hour)}
		ctx, cancel := context.WithCancel(context.Background())
		first := make(chan error, 1)
		go func() { first <- second(s.Invoke(ctx, operator, in)) }()
		synctest.Wait()
		rest := make(chan error, 2)
		for range 2 {
			go func() { rest <- second(s.Invoke(context.Background(), operator, in)) }()
		}
		synctest.Wait()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		synctest.Wait()
		l := &link{answer: says("1")}
		s.attach(t, "n", l, "system.which")
		for range 2 {
			if err := <-rest; err != nil {
				t.Error(err)
			}
		}
		if len(l.requests()) != 1 {
			t.Errorf("%d runs", len(l.requests()))
		}
	})
}

// A node that is gone again before the request left does not end the wait; one that may have seen it
// does.
func TestHoldOverBrokenLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		defer s.Stop()
		in := InvokeIn{NodeID: "n", Command: "system.which", WaitForNode: waitFor(time.Hour)}
		done := make(chan error, 1)
		go func() { done <- second(s.Invoke(context.Background(), operator, in)) }()
		synctest.Wait()
		for range 3 {
			a := s.attach(t, "n", &link{fail: errors.New("broken pipe")}, "system.which")
			synctest.Wait()
			a.Detach()
		}
		if s.Held() != 1 {
			t.Errorf("%d are held", s.Held())
		}
		l := &link{}
		a := s.attach(t, "n", l, "system.which")
		synctest.Wait()
		a.Detach()
		err := <-done
		synctest.Wait()
		if code(err) != "disconnected" || len(l.requests()) != 1 || s.Held() != 0 {
			t.Errorf("%v; %d runs; %d held", err, len(l.requests()), s.Held())
		}
	})
}

// A push that cannot help leaves the rest of the wait to chance; a push that does helps.
func TestHoldAndWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, p := asleep(t)
		in := canvasCall
		in.WaitForNode = waitFor(time.Hour)
		l := &link{answer: says("1")}
		time.AfterFunc(30*time.Minute, func() { s.attachPhone(t, l) })
		if _, err := s.Invoke(context.Background(), operator, in); err != nil {
			t.Error(err)
		}
		if d := cmp.Diff([]string{"0s node.wake", "3s node.wake", "15s alert"}, p.pushes()); d != "" || len(l.requests()) != 1 {
			t.Errorf("%s; %d runs", d, len(l.requests()))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s, _, p := asleep(t)
		p.say = func(push.Message) (push.Result, error) { return push.Result{Status: 400}, nil }
		in := canvasCall
		in.WaitForNode = waitFor(time.Minute)
		began := time.Now()
		if _, err := s.Invoke(context.Background(), operator, in); code(err) != "not_connected" || time.Since(began) != time.Minute {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		// A wish that is shorter than the waking counts.
		p.say = nil
		in.WaitForNode = waitFor(5 * time.Second)
		began = time.Now()
		if _, err := s.Invoke(context.Background(), operator, in); code(err) != "not_connected" || time.Since(began) != 5*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
	// A slow push service holds up nobody: the node comes while the push is on its way.
	synctest.Test(t, func(t *testing.T) {
		s, _, p := asleep(t)
		never := make(chan struct{})
		p.say = func(push.Message) (push.Result, error) {
			<-never
			return push.Result{Status: 200}, nil
		}
		l := &link{answer: says("1")}
		time.AfterFunc(time.Second, func() { s.attachPhone(t, l) })
		began := time.Now()
		if _, err := s.Invoke(context.Background(), operator, canvasCall); err != nil || time.Since(began) != time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		close(never)
	})
}

// Held calls are bounded for each node, each caller and in all.
func TestHeldIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		var refused atomic.Int32
		hold := func(caller, node string, n int) {
			c := identity.Caller{Role: identity.RoleOperator, Scopes: identity.AllOperatorScopes, DeviceID: caller}
			for range n {
				wg.Go(func() {
					_, err := s.Invoke(ctx, c, InvokeIn{NodeID: node, Command: "system.which", WaitForNode: waitFor(time.Hour)})
					if code(err) == "too_many_held" {
						refused.Add(1)
					}
				})
			}
			synctest.Wait()
		}
		want := func(held, more int) {
			t.Helper()
			if s.Held() != held || refused.Load() != int32(more) {
				t.Errorf("%d are held and %d refused, want %d and %d", s.Held(), refused.Load(), held, more)
			}
		}
		hold("a", "n", maxHeldNode+5)
		want(maxHeldNode, 5)
		for i := range maxHeldCaller {
			hold("a", fmt.Sprint("m", i/maxHeldNode), 1)
		}
		want(maxHeldCaller, 5+maxHeldNode)
		hold("b", "n", 1)
		want(maxHeldCaller, 6+maxHeldNode)
		for i := range maxHeld {
			hold(fmt.Sprint("c", i), fmt.Sprint("o", i), 1)
		}
		want(maxHeld, 6+maxHeldNode+maxHeldCaller)
		cancel()
		wg.Wait()
		synctest.Wait()
		want(0, 6+maxHeldNode+maxHeldCaller)
		if len(s.held.m) != 0 || len(s.held.each) != 0 {
			t.Errorf("left over: %v %v", s.held.m, s.held.each)
		}
		s.Stop()
	})
}

// The times of pushes are bounded too, and let go of what holds nothing back.
func TestThrottleIsBounded(t *testing.T) {
	th := throttle{m: map[string]pushTimes{}}
	now := time.Now()
	take := func(id string) bool { return th.take(id, now, waked, 15*time.Second, 10*time.Minute) }
	for i := range maxThrottled {
		if !take(fmt.Sprint(i)) {
			t.Fatal(i)
		}
	}
	if take("one more") || len(th.m) != maxThrottled {
		t.Errorf("%d are kept", len(th.m))
	}
	now = now.Add(10 * time.Minute)
	if !take("one more") || len(th.m) != 1 {
		t.Errorf("%d are kept", len(th.m))
	}
	now = now.Add(-time.Hour)
	if !take("one more") {
		t.Error("a clock that was set back holds pushes back")
	}
}
