package nodes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes/push"
	"github.com/hanzoai/hanzod/nodes/push/pushtest"
)

func register(s *Service, nodeID, payload string) error {
	return second(s.Event(context.Background(), identity.Caller{Role: identity.RoleNode, NodeID: nodeID}, EventIn{Event: pushRegister, PayloadJSON: &payload}))
}

// What a node may register, and that it is for itself and shown to nobody.
func TestRegister(t *testing.T) {
	s := newService()
	store := &names{m: map[string]string{}}
	s.store = store
	sub := s.bus.Subscribe(nil)
	defer sub.Close()
	s.attachPhone(t, &link{})
	sub.TryNext() // node.connected
	good := Registration{NodeID: "phone", Token: phoneToken, Topic: "ai.hanzo.app", Environment: push.Sandbox, Platform: "iOS 18.2", DeviceFamily: "iPhone"}
	production := good
	production.Environment = push.Production
	for _, c := range []struct {
		payload string
		want    *Registration
	}{
		{`{"token":"` + phoneToken + `","topic":" ai.hanzo.app "}`, &good},
		{`{"token":"<` + strings.ToUpper(phoneToken[:32]) + " " + phoneToken[32:] + `>","topic":"ai.hanzo.app","environment":"sandbox"}`, &good},
		{`{"token":"` + phoneToken + `","topic":"ai.hanzo.app","environment":"PRODUCTION"}`, &production},
		{`{"token":"` + phoneToken + `","topic":"ai.hanzo.app","environment":"moon"}`, &good},
		{`{"token":"` + phoneToken + `"}`, nil}, {`{"token":"` + phoneToken + `","topic":" "}`, nil},
		{`{"token":"` + phoneToken[:30] + `","topic":"t"}`, nil}, {`{"token":"` + phoneToken + `0","topic":"t"}`, nil},
		{`{"token":"` + strings.Repeat("0", maxPushToken+2) + `","topic":"t"}`, nil},
		{`{"token":"` + strings.Repeat("xy", 32) + `","topic":"t"}`, nil}, {`{"token":"../../` + phoneToken + `","topic":"t"}`, nil},
		{`{"token":"` + phoneToken + `","topic":"t\r\nApns-Priority: 10"}`, nil},
		{`{"token":"` + phoneToken + `","topic":"` + strings.Repeat("t", maxPushTopic+1) + `"}`, nil},
		{`{"token":7,"topic":"t"}`, nil}, {`{"token":["` + phoneToken + `"],"topic":"t"}`, nil},
		{`[]`, nil}, {`null`, nil}, {``, nil}, {`{"token":`, nil},
	} {
		store.phones = nil
		if err := register(s, "phone", c.payload); err != nil {
			t.Errorf("%s: %v", c.payload, err)
		}
		got, ok := store.phones["phone"]
		got.UpdatedAt = time.Time{}
		if ok != (c.want != nil) || (ok && got != *c.want) {
			t.Errorf("%s: %+v", c.payload, got)
		}
	}
	other := "tv"
	payload := `{"token":"` + phoneToken + `","topic":"t"}`
	for _, c := range []identity.Caller{{Role: identity.RoleNode, NodeID: "phone"}, operator} {
		if _, err := s.Event(context.Background(), c, EventIn{NodeID: other, Event: pushRegister, PayloadJSON: &payload}); code(err) != "foreign" {
			t.Errorf("for another node: %v", err)
		}
	}
	if e, ok := sub.TryNext(); ok {
		t.Errorf("shown to watchers: %+v", e)
	}
}

// What was not written was not registered; a repetition writes nothing; the number is bounded.
func TestRegisterIsWritten(t *testing.T) {
	s := newService()
	store := &names{m: map[string]string{}, full: errors.New("disk full")}
	s.store = store
	payload := `{"token":"` + phoneToken + `","topic":"t"}`
	if err := register(s, "a", payload); !errors.Is(err, store.full) {
		t.Error(err)
	}
	store.full = nil
	if err := register(s, "a", payload); err != nil {
		t.Error(err)
	}
	store.full = errors.New("disk full")
	if err := register(s, "a", payload); err != nil {
		t.Errorf("a repetition: %v", err)
	}
	store.full = nil
	for i := range maxRegistrations {
		store.phones[fmt.Sprint("n", i)] = Registration{}
	}
	if err := register(s, "b", payload); code(err) != "too_many_registrations" {
		t.Error(err)
	}
}

// served is a service with a real push service behind it, and quick times.
func served(t *testing.T) (*Service, *names, *pushtest.Service) {
	t.Helper()
	apple := pushtest.Start(t)
	c := push.New(apple.Config())
	t.Cleanup(c.Close)
	s := newService()
	store := &names{m: map[string]string{}}
	s.store, s.push = store, c
	s.times = timings{again: 50 * time.Millisecond, give: 100 * time.Millisecond, every: 200 * time.Millisecond, nudge: time.Hour}
	t.Cleanup(s.Stop)
	a := s.attachPhone(t, &link{})
	if err := register(s, "phone", `{"token":"`+phoneToken+`","topic":"ai.hanzo.app"}`); err != nil {
		t.Fatal(err)
	}
	a.Detach()
	return s, store, apple
}

// A push wakes the phone, the phone connects, the call runs there.
func TestWakeOverHTTP2(t *testing.T) {
	s, _, apple := served(t)
	l := &link{answer: says(`"shown"`)}
	come := make(chan struct{}, 1)
	arrived := make(chan struct{})
	go func() {
		defer close(arrived)
		<-come
		l.svc, l.id = s, "phone"
		if _, _, err := s.Attach(Node{ID: "phone", Platform: "iOS"}, []string{"canvas.present"}, nil, l); err != nil {
			t.Error(err)
		}
	}()
	apple.OnPush(func(p pushtest.Push) {
		if p.Kind == "background" && len(apple.Got()) == 2 { // it slept through the first one
			come <- struct{}{}
		}
	})
	out, err := s.Invoke(context.Background(), operator, canvasCall)
	<-arrived
	if err != nil || string(out.Payload) != `"shown"` || len(l.requests()) != 1 {
		t.Fatalf("%s %v", out.Payload, err)
	}
	for _, p := range apple.Got() {
		var body struct {
			APS      map[string]any
			OpenClaw struct {
				Kind, NodeID, Reason string
				TS                   int64
			}
		}
		if err := json.Unmarshal([]byte(p.Body), &body); err != nil || body.OpenClaw.Kind != "node.wake" || body.OpenClaw.NodeID != "phone" ||
			body.OpenClaw.Reason != "node.invoke" || time.Since(time.UnixMilli(body.OpenClaw.TS)) > time.Minute || body.APS["content-available"] != 1.0 ||
			p.Token != phoneToken || p.Topic != "ai.hanzo.app" {
			t.Errorf("%+v", p)
		}
	}
}

// It does not come: its user is asked to open the app. Its token is not in use any more: it counts as
// one that never registered.
func TestWakeInVainOverHTTP2(t *testing.T) {
	s, store, apple := served(t)
	if _, err := s.Invoke(context.Background(), operator, canvasCall); code(err) != "not_connected" {
		t.Error(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for len(apple.Got()) < 3 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	got := apple.Got()
	if len(got) != 3 || got[2].Kind != "alert" || !strings.Contains(got[2].Body, "OpenClaw needs a quick reopen") {
		t.Fatalf("%+v", got)
	}
	apple.Say(func(pushtest.Push) pushtest.Answer { return pushtest.Answer{Status: 410, Reason: "Unregistered"} })
	time.Sleep(s.times.every)
	if _, err := s.Invoke(context.Background(), operator, canvasCall); code(err) != "not_connected" || len(store.phones) != 0 {
		t.Errorf("%v; %d registrations", err, len(store.phones))
	}
	if _, err := s.TestPush(context.Background(), operator, TestPushIn{NodeID: "phone"}); code(err) != "no_registration" {
		t.Error(err)
	}
}

// A device that is removed, or revoked as a node, is not woken any more; a new token changes nothing.
func TestUnregister(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, store, _ := asleep(t)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			s.Run(ctx)
			close(done)
		}()
		synctest.Wait()
		phone := store.phones["phone"]
		there := func() bool {
			time.Sleep(seenEvery)
			synctest.Wait()
			_, ok, _ := store.Registration("phone")
			return ok
		}
		for _, c := range []struct {
			ended identity.Ended
			left  bool
		}{
			{identity.Ended{DeviceID: "phone", Role: identity.RoleOperator}, true}, {identity.Ended{DeviceID: "phone", Role: identity.RoleNode, TokenID: "t"}, true},
			{identity.Ended{DeviceID: "tv"}, true}, {identity.Ended{DeviceID: "phone", Role: identity.RoleNode}, false}, {identity.Ended{DeviceID: "phone"}, false},
		} {
			if err := store.PutRegistration(ctx, phone, 1); err != nil {
				t.Fatal(err)
			}
			s.bus.Publish("device.ended", c.ended)
			if got := there(); got != c.left {
				t.Errorf("%+v: registered %v", c.ended, got)
			}
		}
		cancel()
		<-done
	})
}

// push.test (nodes-approvals.md §1.6).
func TestTestPush(t *testing.T) {
	s, _, apple := served(t)
	ctx := context.Background()
	out, err := s.TestPush(ctx, operator, TestPushIn{NodeID: " phone ", Title: "Hi", Body: "there", Environment: "production"})
	want := TestPushOut{OK: true, Status: 200, APNsID: "E621E1F8-C36C-495A-93FC-0C247A3E6E5F", TokenSuffix: "ccddeeff", Topic: "ai.hanzo.app", Environment: "production"}
	if d := cmp.Diff(want, out); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
	if got := apple.Got()[0]; got.Kind != "alert" || !strings.Contains(got.Body, `{"title":"Hi","body":"there"}`) || !strings.Contains(got.Body, `"kind":"push.test"`) {
		t.Errorf("%+v", got)
	}
	apple.Say(func(pushtest.Push) pushtest.Answer { return pushtest.Answer{Status: 429, Reason: "TooManyRequests"} })
	if out, err := s.TestPush(ctx, operator, TestPushIn{NodeID: "phone"}); err != nil || out.OK || out.Status != 429 || out.Reason != "TooManyRequests" || out.Environment != "sandbox" {
		t.Errorf("%+v %v", out, err)
	}
	for _, c := range []struct {
		in   TestPushIn
		want error
	}{
		{TestPushIn{NodeID: " "}, ErrNodeIDRequired}, {TestPushIn{NodeID: "tv"}, ErrNoRegistration},
		{TestPushIn{NodeID: "phone", Environment: "moon"}, push.ErrEnvironment},
		{TestPushIn{NodeID: "phone", Body: strings.Repeat("x", maxPushText+1)}, ErrPushText},
	} {
		if _, err := s.TestPush(ctx, operator, c.in); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v", c.in, err)
		}
	}
	for _, p := range []Pusher{nil, push.New(push.Config{})} {
		s.push = p
		if _, err := s.TestPush(ctx, operator, TestPushIn{NodeID: "phone"}); !errors.Is(err, push.ErrNoCredentials) || errs.ClassOf(err) != errs.Conflict {
			t.Errorf("without credentials: %v", err)
		}
	}
}
