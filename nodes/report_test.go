package nodes

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

func report1(s *Service, nodeID, event, payload string) error {
	return second(s.Event(context.Background(), identity.Caller{Role: identity.RoleNode, NodeID: nodeID}, EventIn{Event: event, PayloadJSON: &payload}))
}

// What each event becomes for the domains that act on it (nodes-approvals.md §2.5); what says nothing
// is accepted and becomes nothing.
func TestReports(t *testing.T) {
	seven, zero := 7, 0
	long := strings.Repeat("ä", maxPrompt)
	for _, c := range []struct {
		event, payload string
		name           string
		want           any
	}{
		{"voice.transcript", `{"text":" hi ","sessionKey":"main","eventId":"e","callId":"c","seq":3,"ts":17}`, "node.voice",
			VoiceTranscript{NodeID: "n", SessionKey: "main", Text: "hi", EventID: "e", CallID: "c", Sequence: "3", Timestamp: "17"}},
		{"voice.transcript", `{"text":"hi","providerEventId":"p","transcriptId":"t","providerCallId":"q","sequence":1,"timestamp":"x"}`, "node.voice",
			VoiceTranscript{NodeID: "n", Text: "hi", EventID: "p", CallID: "q", Sequence: "1", Timestamp: "x"}},
		{"voice.transcript", `{"text":"` + long + `"}`, "node.voice", VoiceTranscript{NodeID: "n", Text: long}},
		{"voice.transcript", `{"text":"` + long + `x"}`, "", nil}, {"voice.transcript", `{"text":""}`, "", nil}, {"voice.transcript", `{"text":7.5}`, "", nil},
		{"voice.transcript", `["hi"]`, "", nil}, {"voice.transcript", `nothing`, "", nil}, {"voice.transcript", ``, "", nil}, {"voice.transcript", `null`, "", nil},
		{"agent.request", `{"message":"do","sessionKey":"s","thinking":"low","deliver":true,"to":"+1","channel":"sms","receipt":true,"receiptText":"ok","timeoutSeconds":5,"attachments":[{"a":1}],"key":"k"}`, "node.agent_request",
			AgentRequest{NodeID: "n", SessionKey: "s", Message: "do", Thinking: "low", Deliver: true, To: "+1", Channel: "sms", Receipt: true, ReceiptText: "ok", Timeout: 5 * time.Second, Attachments: []byte(`[{"a":1}]`)}},
		{"agent.request", `{"message":"do","timeoutSeconds":1e9,"deliver":"yes","attachments":{}}`, "node.agent_request", AgentRequest{NodeID: "n", SessionKey: "node-n", Message: "do", Timeout: MaxTimeout}},
		{"agent.request", `{"message":"do","timeoutSeconds":-1}`, "node.agent_request", AgentRequest{NodeID: "n", SessionKey: "node-n", Message: "do"}},
		{"agent.request", `{"message":" "}`, "", nil},
		{"exec.started", `{"sessionKey":" agent:main:main ","runId":"r","command":"ls"}`, "node.exec", ExecReport{NodeID: "n", SessionKey: "agent:main:main", Phase: "started", RunID: "r", Command: "ls"}},
		{"exec.finished", `{"sessionKey":7,"runId":"r","exitCode":7,"timedOut":true,"output":" a\nb "}`, "node.exec", ExecReport{NodeID: "n", SessionKey: "node-n", Phase: "finished", RunID: "r", ExitCode: &seven, TimedOut: true, Output: " a\nb "}},
		{"exec.finished", `{"exitCode":0}`, "node.exec", ExecReport{NodeID: "n", SessionKey: "node-n", Phase: "finished", ExitCode: &zero}},
		{"exec.finished", `{"exitCode":1e300}`, "node.exec", ExecReport{NodeID: "n", SessionKey: "node-n", Phase: "finished"}},
		{"exec.denied", `{"sessionKey":"s","reason":"no"}`, "node.exec", ExecReport{NodeID: "n", SessionKey: "s", Phase: "denied", Reason: "no"}},
		{"exec.denied", `{"sessionKey":" "}`, "", nil},
		{"notifications.changed", `{"change":"posted","key":"k","packageName":"p","title":"t","text":"x"}`, "node.notification", NotificationChanged{NodeID: "n", SessionKey: "node-n", Change: "posted", Key: "k", PackageName: "p", Title: "t", Text: "x"}},
		{"notifications.changed", `{"change":"moved","key":"k"}`, "", nil}, {"notifications.changed", `{"change":"removed"}`, "", nil},
		{"made.up", `{"a":1}`, "", nil}, {"", `{}`, "", nil}, {"exec.exploded", `{"sessionKey":"s"}`, "", nil},
	} {
		s := newService()
		sub := s.bus.Subscribe(func(e events.Event) bool { return e.Name != "node.event" })
		shown := s.bus.Subscribe(func(e events.Event) bool { return e.Name == "node.event" })
		if err := report1(s, "n", c.event, c.payload); err != nil {
			t.Errorf("%s %.80s: %v", c.event, c.payload, err)
		}
		e, _ := sub.TryNext()
		if d := cmp.Diff(c.want, e.Payload); e.Name != c.name || d != "" {
			t.Errorf("%s %.80s: %s %s", c.event, c.payload, e.Name, d)
		}
		if c.name != "" && events.Visible(operator, c.name) {
			t.Errorf("%s reaches clients", c.name)
		}
		want := Reported{NodeID: "n", Event: c.event, Payload: []byte(c.payload)}
		if len(c.payload) > maxShownPayload {
			want.Payload = nil
		}
		if e, ok := shown.TryNext(); !ok || cmp.Diff(want, e.Payload) != "" {
			t.Errorf("%s %.80s is shown as %.200v", c.event, c.payload, e.Payload)
		}
		sub.Close()
		shown.Close()
	}
}

// A node may report as much as an app sends, and no more.
func TestReportBounds(t *testing.T) {
	s := newService()
	for _, c := range []struct {
		event string
		size  int
		want  string
	}{
		{"e", maxEventPayload - 1, ""}, {"e", maxEventPayload, "event_payload"}, {strings.Repeat("e", maxEventPayload+1), 0, "event_payload"},
		{"agent.request", maxAgentRequest - len("agent.request"), ""}, {"agent.request", maxAgentRequest, "event_payload"},
		{"exec.started", maxEventPayload, "event_payload"},
	} {
		text := `"` + strings.Repeat("x", max(0, c.size-2)) + `"`
		if c.size == 0 {
			text = ""
		}
		if err := report1(s, "n", c.event, text); code(err) != c.want {
			t.Errorf("%.20s with %d bytes: %v", c.event, c.size, err)
		}
	}
	if err := report1(s, "n", "exec.started", strings.Repeat(`{"a":`, 40_000)); err != nil {
		t.Errorf("deeply nested: %v", err)
	}
}

func FuzzReport(f *testing.F) {
	for _, s := range []string{`{"text":"x"}`, `{"exitCode":1e999}`, `{"sessionKey":"\ud800"}`, `[`, `{"attachments":[1,{"a":"\u0000"}]}`} {
		for _, e := range []string{"voice.transcript", "agent.request", "exec.finished", "notifications.changed", "chat.subscribe", pushRegister} {
			f.Add(e, s)
		}
	}
	s := newService()
	s.store = &names{m: map[string]string{}}
	f.Fuzz(func(t *testing.T, event, payload string) {
		if err := report1(s, "n", event, payload); err != nil && code(err) != "event_payload" {
			t.Errorf("%q %q: %v", event, payload, err)
		}
	})
}

// Subscriptions belong to a connection, are bounded, and end with it (nodes-approvals.md §2.6).
func TestSubscriptions(t *testing.T) {
	s := newService()
	sub := func(event, payload string) error { return report1(s, "n", event, payload) }
	if err := sub("chat.subscribe", `{"sessionKey":"main"}`); err != nil || s.Subscribed("n", "") {
		t.Errorf("a node that is not connected: %v", err)
	}
	a := s.attach(t, "n", &link{})
	for _, p := range []string{`{"sessionKey":" main\t"}`, `{"sessionKey":"main"}`, `{"sessionKey":"Main"}`, `{"sessionKey":" "}`, `{}`, `7`} {
		if err := sub("chat.subscribe", p); err != nil {
			t.Error(err)
		}
	}
	if !s.Subscribed("n", "main") || !s.Subscribed("n", "Main") || s.Subscribed("n", "MAIN") || !s.Subscribed("n", "") || s.Subscribed("m", "main") {
		t.Error("what is subscribed")
	}
	for _, key := range []string{"main", "Main", "other"} {
		if err := sub("chat.unsubscribe", `{"sessionKey":"`+key+`"}`); err != nil {
			t.Error(err)
		}
	}
	if s.Subscribed("n", "main") || s.Subscribed("n", "") {
		t.Error("a subscription that was ended")
	}
	var wg sync.WaitGroup
	for i := range maxSubscriptions {
		wg.Go(func() {
			if err := sub("chat.subscribe", fmt.Sprintf(`{"sessionKey":"s%d"}`, i)); err != nil {
				t.Error(err)
			}
			s.Subscribed("n", "s1")
		})
	}
	wg.Wait()
	if err := sub("chat.subscribe", `{"sessionKey":"one more"}`); !errors.Is(err, ErrTooManySessions) {
		t.Error(err)
	}
	if err := sub("chat.subscribe", `{"sessionKey":"s7"}`); err != nil {
		t.Errorf("a known one: %v", err)
	}
	if err := sub("chat.unsubscribe", `{"sessionKey":"s7"}`); err != nil {
		t.Error(err)
	}
	if err := sub("chat.subscribe", `{"sessionKey":"`+strings.Repeat("k", maxSessionKey+1)+`"}`); !errors.Is(err, ErrTooManySessions) {
		t.Errorf("a long key: %v", err)
	}
	s.attach(t, "n", &link{}) // a newer connection begins anew, and the end of the older one changes nothing
	if s.Subscribed("n", "") {
		t.Error("a new connection is subscribed")
	}
	if err := sub("chat.subscribe", `{"sessionKey":"main"}`); err != nil {
		t.Error(err)
	}
	a.Detach()
	if !s.Subscribed("n", "main") {
		t.Error("the end of the older connection ended the newer one's subscription")
	}
}

// The words that wake voice clients: kept, cleaned, told (control-plane.md §9).
func TestVoiceWake(t *testing.T) {
	s := newService()
	store := &names{m: map[string]string{}}
	s.store = store
	sub := s.bus.Subscribe(nil)
	defer sub.Close()
	ctx := context.Background()
	want := func(words []string) {
		t.Helper()
		out, err := s.VoiceWake(ctx, operator, VoiceWakeIn{})
		if d := cmp.Diff(words, out.Triggers); err != nil || d != "" {
			t.Errorf("%v %s", err, d)
		}
	}
	want([]string{"openclaw", "claude", "computer"})
	many := make([]string, 50)
	for i := range many {
		many[i] = fmt.Sprint("w", i)
	}
	for _, c := range []struct{ in, want []string }{
		{[]string{" hey \t", "", "  ", "hey"}, []string{"hey", "hey"}}, {many, many[:maxTriggers]}, {nil, []string{"openclaw", "claude", "computer"}},
		{[]string{" "}, []string{"openclaw", "claude", "computer"}},
		{[]string{strings.Repeat("a", 65), strings.Repeat("😀", 33), "a" + strings.Repeat("😀", 32)}, []string{strings.Repeat("a", 64), strings.Repeat("😀", 32), "a" + strings.Repeat("😀", 31)}},
	} {
		out, err := s.SetVoiceWake(ctx, operator, SetVoiceWakeIn{Triggers: c.in})
		if d := cmp.Diff(c.want, out.Triggers); err != nil || d != "" {
			t.Errorf("%v %s", err, d)
		}
		want(c.want)
		if e, ok := sub.TryNext(); !ok || e.Name != "voicewake.changed" || cmp.Diff(VoiceWakeChanged{Triggers: c.want}, e.Payload) != "" {
			t.Errorf("told %+v", e)
		}
	}
	store.full = errors.New("disk full")
	if _, err := s.SetVoiceWake(ctx, operator, SetVoiceWakeIn{Triggers: []string{"x"}}); !errors.Is(err, store.full) {
		t.Error(err)
	}
	if e, ok := sub.TryNext(); ok {
		t.Errorf("told of what was not written: %+v", e)
	}
}

func TestSkillBins(t *testing.T) {
	s := newService()
	for _, c := range []struct {
		bins func() []string
		want []string
	}{{nil, []string{}}, {func() []string { return []string{"rg", " gh", "rg", ""} }, []string{"gh", "rg"}}} {
		s.skillBins = c.bins
		out, err := s.SkillBins(context.Background(), identity.Caller{Role: identity.RoleNode, NodeID: "n"}, SkillBinsIn{})
		if d := cmp.Diff(c.want, out.Bins); err != nil || d != "" {
			t.Errorf("%v %s", err, d)
		}
	}
}

// decisions keeps what people at nodes answered.
type decisions []Decision

func (d *decisions) NodeDecided(_ context.Context, _ identity.Caller, x Decision) error {
	*d = append(*d, x)
	return nil
}

// The answer of a person at a node is kept once for each privileged run that waits there, and for nothing
// else, so that no node can fill the log.
func TestAnswersAtANode(t *testing.T) {
	s := newService()
	var kept decisions
	s.answers = &kept
	say := func(nodeID, invokeID, decision string) {
		if err := report1(s, nodeID, "exec.decided", `{"invokeId":"`+invokeID+`","runId":"r","command":"ls","decision":"`+decision+`","by":"companion app"}`); err != nil {
			t.Error(err)
		}
	}
	l := &link{}
	l.answer = func(r Request) *ResultIn {
		say("n", "other", "allow-once")
		say("m", r.ID, "allow-once")
		say("n", r.ID, "maybe")
		say("n", r.ID, "deny")
		say("n", r.ID, "allow-always")
		return &ResultIn{OK: true, Payload: []byte("1")}
	}
	s.attach(t, "n", l, "system.run", "system.which")
	for _, command := range []string{"system.which", "system.run"} {
		if _, err := s.Invoke(context.Background(), operator, InvokeIn{NodeID: "n", Command: command, Params: []byte("{}")}); err != nil {
			t.Error(err)
		}
	}
	say("n", l.requests()[1].ID, "allow-once") // it waits no more
	want := Decision{NodeID: "n", RunID: "r", Command: "ls", Decision: "deny", By: "companion app"}
	if len(kept) != 1 || kept[0] != want {
		t.Errorf("kept %+v", kept)
	}
	s.answers = nil
	say("n", "x", "deny")
}
