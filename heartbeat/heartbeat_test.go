package heartbeat

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

var nobody identity.Caller

// world is a service whose runner runs in the clock of the test.
type world struct {
	*Service
	mu      sync.Mutex
	agents  []Agent
	busy    bool
	said    TurnOut
	err     error
	turns   []TurnIn
	reports []Report
	times   []time.Time
}

func begin(t *testing.T, taken bool, agents ...Agent) *world {
	w := &world{agents: agents}
	bus := events.New(time.Now)
	bus.Sink(func(e events.Event) {
		if r, ok := e.Payload.(Report); ok && e.Name == "heartbeat" {
			w.reports = append(w.reports, r)
		}
	})
	cfg := Config{
		Bus: bus, Now: time.Now,
		Agents: func() []Agent { w.mu.Lock(); defer w.mu.Unlock(); return w.agents },
		Busy:   func(string) bool { w.mu.Lock(); defer w.mu.Unlock(); return w.busy },
	}
	if taken {
		cfg.Turn = func(_ context.Context, in TurnIn) (TurnOut, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.turns, w.times = append(w.turns, in), append(w.times, time.Now())
			return w.said, w.err
		}
	}
	w.Service = New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

func (w *world) set(f func()) {
	w.mu.Lock()
	f()
	w.mu.Unlock()
	w.Changed()
}

func (w *world) count() int { w.mu.Lock(); defer w.mu.Unlock(); return len(w.turns) }

func sleep(d time.Duration) { time.Sleep(d); synctest.Wait() }

func TestIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, true, Agent{ID: "main", Default: true, Interval: 30 * time.Minute, Prompt: "look"}, Agent{ID: "b", Interval: 10 * time.Minute}, Agent{ID: "off"})
		sleep(time.Hour + time.Second)
		var got []string
		for _, in := range w.turns {
			got = append(got, in.Agent.ID)
			if in.Reason != "interval" {
				t.Errorf("reason %q", in.Reason)
			}
		}
		if want := "b b main b b b main b"; strings.Join(got, " ") != want {
			t.Errorf("beats of %v, want %v", got, want)
		}
		// A shorter interval counts from now, one that is off ends.
		w.set(func() { w.agents = []Agent{{ID: "main", Interval: time.Minute}, {ID: "b"}} })
		n := w.count()
		sleep(5*time.Minute + time.Second)
		if w.count() != n+5 {
			t.Errorf("%d beats after the change, want 5", w.count()-n)
		}
		// Off is off for all, and on again goes on.
		if out, _ := w.SetEnabled(t.Context(), nobody, SetIn{}); out.Enabled {
			t.Error("still on")
		}
		n = w.count()
		sleep(5 * time.Minute)
		if w.count() != n {
			t.Error("it beat while off")
		}
		if status, why := w.RunHeartbeat(t.Context(), "cron:1"); status != "skipped" || why != "disabled" {
			t.Error(status, why)
		}
		if _, err := w.SetEnabled(t.Context(), nobody, SetIn{Enabled: true}); err != nil {
			t.Error(err)
		}
		sleep(2*time.Minute + time.Second)
		if w.count() < n+2 {
			t.Error("it did not beat after it was on again")
		}
	})
}

func TestRequestsMerge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, true, Agent{ID: "main", Default: true, Interval: time.Hour})
		w.Request("wake")
		w.Request("hook:wake")
		sleep(100 * time.Millisecond)
		w.Request("wake") // less urgent than the hook
		sleep(149 * time.Millisecond)
		if w.count() != 0 {
			t.Error("it beat before requests were gathered")
		}
		sleep(time.Millisecond)
		if w.count() != 1 || w.turns[0].Reason != "hook:wake" {
			t.Errorf("%+v", w.turns)
		}
		// A beat of its own comes an interval after the last one, not before.
		sleep(59 * time.Minute)
		if w.count() != 1 {
			t.Error("the interval was not begun anew")
		}
		sleep(2 * time.Minute)
		if w.count() != 2 {
			t.Error("the interval is lost")
		}
	})
}

func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, true, Agent{ID: "main", Default: true, Interval: time.Hour})
		w.set(func() { w.busy = true })
		w.Request("wake")
		sleep(10 * time.Second)
		if w.count() != 0 || len(w.reports) != 0 {
			t.Error("a busy agent beat, or told of it")
		}
		w.set(func() { w.busy = false })
		sleep(1500 * time.Millisecond)
		if w.count() != 1 || w.turns[0].Reason != "wake" {
			t.Errorf("%+v", w.turns)
		}
		// Who waits gets its turn when the agent is free, and is sent on after two minutes.
		w.set(func() { w.busy = true })
		go func() { time.Sleep(time.Minute); w.set(func() { w.busy = false }) }()
		if status, why := w.RunHeartbeat(t.Context(), "cron:1"); status != Ran || why != "" {
			t.Error(status, why)
		}
		w.set(func() { w.busy = true })
		began := time.Now()
		if status, why := w.RunHeartbeat(t.Context(), "cron:1"); status != "skipped" || why != InFlight || time.Since(began) > busyWait+time.Second {
			t.Error(status, why, time.Since(began))
		}
		n := w.count()
		w.set(func() { w.busy = false })
		sleep(2 * time.Second)
		if w.count() != n+1 {
			t.Error("the beat that was asked for did not come")
		}
		// An interval that falls into work is kept, and does not spin.
		w.set(func() { w.busy = true })
		sleep(2 * time.Hour)
		n = w.count()
		w.set(func() { w.busy = false })
		sleep(2 * time.Second)
		if w.count() != n+1 {
			t.Error("the beat of the interval is lost")
		}
	})
}

func TestNobodyTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, false, Agent{ID: "main", Default: true, Interval: time.Hour})
		if r, err := w.Last(t.Context(), nobody); r != nil || err != nil {
			t.Error(r, err)
		}
		if status, why := w.RunHeartbeat(t.Context(), "cron:1"); status != "skipped" || why != NoAgents {
			t.Error(status, why)
		}
		r, err := w.Last(t.Context(), nobody)
		if err != nil || r == nil || r.Status != Skipped || r.Reason != NoAgents || len(w.reports) != 1 || r.At.IsZero() || r.Took == nil {
			t.Errorf("%+v %v %d", r, err, len(w.reports))
		}
	})
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	for text, nothing := range map[string]bool{
		"": true, "# Tasks\n\n- [ ]\n* \n-\n##\n": true, "# Tasks\n- [x]  \n": true, "#hashtag": false, "- [ ] mail\n": false, "look": false,
	} {
		if err := os.WriteFile(filepath.Join(dir, FileName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if asksNothing(dir) != nothing {
			t.Errorf("%q asks nothing: %v", text, !nothing)
		}
	}
	if asksNothing(filepath.Join(dir, "none")) || asksNothing("") {
		t.Error("a file that is not there has no content")
	}
	if err := os.WriteFile(filepath.Join(dir, FileName), []byte("# \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, true, Agent{ID: "main", Default: true, Interval: time.Hour, Workspace: dir})
		sleep(61 * time.Minute)
		if w.count() != 0 || len(w.reports) != 1 || w.reports[0].Reason != EmptyFile {
			t.Errorf("%d turns, %+v", w.count(), w.reports)
		}
		for _, reason := range []string{"wake", "cron:1", "hook:x", "exec-event"} {
			if status, why := w.RunHeartbeat(t.Context(), reason); status != Ran {
				t.Error(reason, status, why)
			}
		}
		if out, err := w.RunNow(t.Context(), nobody, RunIn{}); err != nil || out.Reason != EmptyFile {
			t.Errorf("%+v %v", out, err)
		}
		if _, err := w.RunNow(t.Context(), nobody, RunIn{Agent: "who"}); !errors.Is(err, ErrUnknownAgent) {
			t.Error(err)
		}
	})
}

func TestAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, true, Agent{ID: "main", Default: true, Interval: time.Hour, AckMaxChars: 5, Target: "none"})
		for _, tc := range []struct {
			said              TurnOut
			err               error
			status            Status
			reason, indicator string
		}{
			{TurnOut{}, nil, OKEmpty, "", "ok"},
			{TurnOut{Text: " HEARTBEAT_OK all"}, nil, OKToken, "", "ok"},
			{TurnOut{Text: "fine HEARTBEAT_OK"}, nil, OKToken, "", "ok"},
			{TurnOut{Text: "HEARTBEAT_OK but look here"}, nil, Skipped, "target-none", ""},
			{TurnOut{Text: strings.Repeat("é", 300), Channel: "telegram", To: "1"}, nil, Sent, "", "alert"},
			{TurnOut{Text: strings.Repeat("é", 300), Channel: "telegram", To: "1"}, nil, Skipped, Duplicate, ""},
			{TurnOut{}, errors.New("no model"), Failed, "no model", "error"},
		} {
			w.said, w.err = tc.said, tc.err
			status, _ := w.RunHeartbeat(t.Context(), "cron:1")
			r, _ := w.Last(t.Context(), nobody)
			if r.Status != tc.status || r.Reason != tc.reason || r.Indicator != tc.indicator || len([]rune(r.Preview)) > maxPreview || (status == Ran) != (tc.err == nil) {
				t.Errorf("%+v: %s %+v", tc, status, r)
			}
		}
	})
}

// A clock that is set back neither stops the beats nor makes up for them.
func TestClockJumps(t *testing.T) {
	now := time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC)
	agents := []Agent{{ID: "main", Default: true, Interval: time.Hour}}
	s := New(Config{Bus: events.New(time.Now), Now: func() time.Time { return now }, Agents: func() []Agent { return agents }})
	s.work(t.Context())
	now = now.Add(-10 * time.Hour)
	s.work(t.Context())
	if d := s.due["main"].at.Sub(now); d != time.Hour {
		t.Errorf("the next beat is %v away", d)
	}
	now = now.Add(100 * time.Hour) // asleep
	s.work(t.Context())
	if r, _ := s.Last(t.Context(), nobody); r == nil {
		t.Error("no beat after waking up")
	}
	if d := s.due["main"].at.Sub(now); d != time.Hour {
		t.Errorf("the next beat is %v away: it makes up for the past", d)
	}
}

func TestHours(t *testing.T) {
	at := func(text string) time.Time {
		v, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, tc := range []struct {
		h    Hours
		at   string
		want bool
	}{
		{Hours{}, "2026-03-29T03:00:00Z", true},
		{Hours{Start: "08:00", End: "24:00", Zone: "UTC"}, "2026-03-29T07:59:59Z", false},
		{Hours{Start: "08:00", End: "24:00", Zone: "UTC"}, "2026-03-29T23:59:59Z", true},
		{Hours{Start: "22:00", End: "06:00", Zone: "UTC"}, "2026-03-29T05:59:00Z", true},
		{Hours{Start: "22:00", End: "06:00", Zone: "UTC"}, "2026-03-29T06:00:00Z", false},
		{Hours{Start: "22:00", End: "06:00", Zone: "UTC"}, "2026-03-29T22:00:00Z", true},
		{Hours{Start: "08:00", End: "08:00", Zone: "UTC"}, "2026-03-29T08:00:00Z", false},
		// The hour that summer time skips in Berlin: 01:30 UTC is 03:30 there.
		{Hours{Start: "03:00", End: "04:00", Zone: "Europe/Berlin"}, "2026-03-29T01:30:00Z", true},
		{Hours{Start: "02:00", End: "03:00", Zone: "Europe/Berlin"}, "2026-03-29T00:30:00Z", false},
		{Hours{Start: "03:00", End: "04:00", UserZone: "Asia/Tokyo"}, "2026-03-29T18:30:00Z", true},
		{Hours{Start: "03:00", End: "04:00", Zone: "No/Where", UserZone: "Asia/Tokyo"}, "2026-03-29T18:30:00Z", true},
		{Hours{Start: "24:00", End: "04:00", Zone: "UTC"}, "2026-03-29T12:00:00Z", true},
		{Hours{Start: "8:00", End: "9:00", Zone: "UTC"}, "2026-03-29T12:00:00Z", true},
		{Hours{Start: "08:60", End: "09:00", Zone: "UTC"}, "2026-03-29T12:00:00Z", true},
	} {
		if got := tc.h.Contain(at(tc.at)); got != tc.want {
			t.Errorf("%+v at %s: %v", tc.h, tc.at, got)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		w := begin(t, true, Agent{ID: "main", Default: true, Interval: time.Hour, Hours: Hours{Start: "08:00", End: "08:00", Zone: "UTC"}})
		if status, why := w.RunHeartbeat(t.Context(), "cron:1"); status != "skipped" || why != QuietHours {
			t.Error(status, why)
		}
	})
}
