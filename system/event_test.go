package system

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

func say(s string) *string { return &s }

// eventWorld is a service whose announcements are kept.
func eventWorld() (*Service, *queue, *[]PresenceChanged, *time.Time) {
	clock := time.UnixMilli(1000)
	now := func() time.Time { return clock }
	q, bus := &queue{}, events.New(now)
	var told []PresenceChanged
	bus.Sink(func(e events.Event) {
		if p, ok := e.Payload.(PresenceChanged); ok {
			told = append(told, p)
		}
	})
	s := New(Config{
		Bus: bus, Queue: q, Now: now, Presence: NewPresence(Presence{Host: "gw"}, now), MainSession: func() string { return "global" },
		Facts: Facts{Connections: func() int { return 0 }},
	})
	return s, q, &told, &clock
}

func TestSendEvent(t *testing.T) {
	s, q, told, clock := eventWorld()
	twelve := 12.0
	send := func(in EventIn) Presence {
		t.Helper()
		q.events, *told = nil, nil
		*clock = clock.Add(time.Millisecond)
		if _, err := s.SendEvent(t.Context(), identity.Caller{}, in); err != nil {
			t.Fatal(err)
		}
		if len(*told) != 1 {
			t.Fatalf("%d announcements", len(*told))
		}
		return (*told)[0].Entries[1]
	}
	queued := func() string {
		var out []string
		for _, e := range q.events {
			out = append(out, e.Text)
		}
		return strings.Join(out, "|")
	}
	p := send(EventIn{
		Text: " Node: Box (10.0.0.5) · app 1.2.3 · last input 12s ago · mode remote · reason launch ", DeviceID: say(" DEV-1 "), Host: say("Box!"),
		Roles: []identity.Role{"node", " "}, Scopes: []identity.Scope{},
	})
	if p.Key != "dev-1" || p.Host != "Box!" || p.IP != "10.0.0.5" || p.Version != "1.2.3" || *p.LastInputSeconds != 12 || p.Mode != "remote" || p.Reason != "launch" ||
		p.DeviceID != " DEV-1 " || len(p.Roles) != 1 || p.Scopes != nil || p.Text != "Node: Box (10.0.0.5) · app 1.2.3 · last input 12s ago · mode remote · reason launch" {
		t.Errorf("%+v", p)
	}
	if got := queued(); got != "Node: Box! (10.0.0.5) · app 1.2.3 · mode remote · reason launch" || q.session != "global" {
		t.Errorf("queued %q for %s", got, q.session)
	}
	// What is not said stays; lists are united; what did not change is not told again.
	p = send(EventIn{Text: "Node: again", DeviceID: say("dev-1"), Platform: say("linux"), Roles: []identity.Role{"operator", "node"}, Scopes: []identity.Scope{"operator.read"}})
	if p.Host != "Box!" || p.Platform != "linux" || len(p.Roles) != 2 || len(p.Scopes) != 1 || p.Text != "Node: again" || queued() != "" {
		t.Errorf("%+v %q", p, queued())
	}
	send(EventIn{Text: "Node: x", DeviceID: say("dev-1"), Mode: say("local"), LastInputSeconds: &twelve})
	if got := queued(); got != "mode local" {
		t.Errorf("queued %q", got)
	}
	// After another event a line says again of whom it speaks.
	send(EventIn{Text: "something else"})
	send(EventIn{Text: "Node: x", DeviceID: say("dev-1"), Mode: say("remote")})
	if got := queued(); got != "Node: Box! (10.0.0.5) · mode remote" {
		t.Errorf("queued %q", got)
	}
	for _, reason := range []string{"periodic", "Periodic-5m", "heartbeat"} {
		send(EventIn{Text: "Node: x", DeviceID: say("dev-1"), Version: say("v" + reason), Reason: say(reason)})
		if got := queued(); got != "" {
			t.Errorf("%s: queued %q", reason, got)
		}
	}
	// The key: device, instance, host and address of the text, the text.
	long := strings.Repeat("é", 63) + "😀 and more"
	for _, c := range []struct {
		in  EventIn
		key string
	}{
		{EventIn{Text: "x", DeviceID: say(" "), InstanceID: say("Inst-1"), Host: say("H")}, "inst-1"},
		{EventIn{Text: "Node: Other (10.0.0.6) · app 1 · last input 0s ago · mode m · reason r", Host: say("H")}, "other"},
		{EventIn{Text: "Something happened", Host: say("H"), IP: say("1.2.3.4")}, "Something happened"},
		{EventIn{Text: long}, strings.Repeat("é", 63)},
	} {
		if p := send(c.in); p.Key != c.key {
			t.Errorf("%.30q stands under %q, want %q", c.in.Text, p.Key, c.key)
		}
		if !strings.HasPrefix(c.in.Text, "Node:") && queued() != c.in.Text {
			t.Errorf("queued %q", queued())
		}
	}
}

func TestSendEventRefusals(t *testing.T) {
	s, q, told, _ := eventWorld()
	for name, c := range map[string]struct {
		in   EventIn
		want error
	}{
		"blank":       {EventIn{Text: " \n"}, ErrEventText},
		"long text":   {EventIn{Text: strings.Repeat("x", maxNoteText+1)}, ErrEventTooLong},
		"long host":   {EventIn{Text: "x", Host: say(strings.Repeat("x", maxNoteField+1))}, ErrEventTooLong},
		"many scopes": {EventIn{Text: "x", Scopes: make([]identity.Scope, maxNoteList+1)}, ErrEventTooLong},
		"long role":   {EventIn{Text: "x", Roles: []identity.Role{identity.Role(strings.Repeat("x", maxNoteField+1))}}, ErrEventTooLong},
	} {
		if _, err := s.SendEvent(t.Context(), identity.Caller{}, c.in); !errors.Is(err, c.want) || len(q.events)+len(*told) > 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	q.err = errors.New("disk")
	if _, err := s.SendEvent(t.Context(), identity.Caller{}, EventIn{Text: "x"}); !errors.Is(err, q.err) {
		t.Error(err)
	}
	// Whatever is sent, the table is bounded.
	q.err = nil
	for i := range 3 * presenceMax {
		if _, err := s.SendEvent(t.Context(), identity.Caller{}, EventIn{Text: "t" + strings.Repeat("x", i%70) + string(rune('a'+i%26)) + string(rune('a'+i/26%26))}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.cfg.Presence.List()); n > presenceMax {
		t.Errorf("%d entries", n)
	}
}
