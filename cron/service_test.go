package cron

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

func turn(text string) Payload { return Payload{Kind: AgentTurn, Turn: Turn{Message: text}} }

func command(argv ...string) Payload {
	return Payload{Kind: RunCommand, Command: Command{NodeID: "n", Argv: argv, Env: map[string]string{"KEY": "secret"}}}
}

// TestDefaults are those of the original (control-plane.md §12).
func TestDefaults(t *testing.T) {
	w := newWorld(t, "2026-05-01T12:00:00Z")
	j := w.add(AddIn{Schedule: Schedule{Kind: At, At: "2026-05-02T00:00:00Z"}, Payload: turn("do it\nnow")})
	if j.Name != "do it" || j.Target != Isolated || j.WakeMode != WakeNow || !j.Enabled || !*j.DeleteAfterRun || j.Delivery.Mode != "announce" {
		t.Errorf("%+v", j)
	}
	j = w.add(AddIn{Name: "n", Schedule: Schedule{Kind: Cron, Expr: "0 * * * *", Zone: "UTC"}})
	offset := staggerOf(j.ID, 300_000)
	if *j.Schedule.StaggerMs != 300_000 || j.Target != Main || j.Delivery != nil || j.DeleteAfterRun != nil || (j.State.NextRunMs-offset)%3_600_000 != 0 {
		t.Errorf("%+v", j)
	}
	if j = w.add(AddIn{Schedule: every(time.Hour)}); *j.Schedule.AnchorMs != w.now.Load() || j.State.NextRunMs != w.now.Load()+3_600_000 {
		t.Errorf("%+v", j)
	}
	if j = w.add(AddIn{Schedule: every(time.Hour), Payload: turn("x"), AgentID: " Ops Team "}); j.AgentID != "ops-team" {
		t.Errorf("%q", j.AgentID)
	}
	if j = w.add(AddIn{Schedule: every(time.Hour), Enabled: ref(false)}); j.State != (State{}) {
		t.Errorf("%+v", j.State)
	}
	if got := staggerOf("3f0e9a1c-0000-4000-8000-000000000001", 300_000); got < 0 || got >= 300_000 || got != staggerOf("3f0e9a1c-0000-4000-8000-000000000001", 300_000) {
		t.Error(got)
	}
	if staggerOf("x", 1) != 0 || staggerOf("x", 0) != 0 {
		t.Error("a stagger of nothing moves")
	}
}

// TestRefusals have the words of the original, in its order.
func TestRefusals(t *testing.T) {
	w := newWorld(t, "2026-05-01T12:00:00Z")
	in := func(f func(*AddIn)) AddIn {
		in := AddIn{Schedule: every(time.Hour), Payload: Payload{Kind: SystemEvent, Text: "x"}}
		f(&in)
		return in
	}
	at := func(text string) AddIn { return in(func(i *AddIn) { i.Schedule = Schedule{Kind: At, At: text} }) }
	for _, c := range []struct {
		in   AddIn
		want error
		text string
	}{
		{at("soon"), ErrAtFormat, "Invalid schedule.at: expected ISO-8601 timestamp (got soon)"},
		{at("2026-05-01T11:00:00Z"), ErrAtPast, "schedule.at is in the past: 2026-05-01T11:00:00.000Z (60 minutes ago). Current time: 2026-05-01T12:00:00.000Z"},
		{at("2099-01-01T00:00:00Z"), ErrAtFar, "schedule.at is too far in the future: 2099-01-01T00:00:00.000Z (72 years ahead). Maximum allowed: 10 years"},
		{at("2026-05-01T11:59:30Z"), nil, ""},
		{in(func(i *AddIn) { i.Target = Isolated }), ErrIsolated, ""},
		{in(func(i *AddIn) { i.Target, i.Payload = Main, turn("x") }), ErrMainPayload, ""},
		{in(func(i *AddIn) { i.AgentID = "other" }), ErrMainAgent, `cron: sessionTarget "main" is only valid for the default agent. Use`},
		{in(func(i *AddIn) { i.AgentID = "MAIN" }), nil, ""},
		{in(func(i *AddIn) { i.Delivery = &Delivery{Mode: "announce"} }), ErrChannel, ""},
		{in(func(i *AddIn) { i.Delivery = &Delivery{Mode: "webhook", To: "ftp://x"} }), ErrWebhookURL, ""},
		{in(func(i *AddIn) { i.Delivery = &Delivery{Mode: "webhook", To: " https://x.test/h "} }), nil, ""},
		{in(func(i *AddIn) { i.Delivery = &Delivery{Mode: "none", Failure: &Destination{To: "x"}} }), ErrFailureMain, ""},
		{in(func(i *AddIn) {
			i.Payload, i.Delivery = turn("x"), &Delivery{Mode: "announce", Failure: &Destination{Mode: "webhook", To: "x"}}
		}), ErrFailureURL, ""},
		{in(func(i *AddIn) {
			i.Payload, i.Delivery = turn("x"), &Delivery{Mode: "announce", Channel: "telegram", To: "-100123/7"}
		}), ErrTelegram, ""},
		{in(func(i *AddIn) { i.Schedule = Schedule{Kind: Cron, Expr: "x"} }), ErrExpression, "CronPattern: invalid configuration format ('x')"},
		{in(func(i *AddIn) { i.Schedule = expr("0 9 * * *", "Mars/Base") }), ErrZone, "CronDate: Failed to convert date to timezone 'Mars/Base'."},
		{in(func(i *AddIn) { i.Schedule = expr("0 9 * * *", "local") }), ErrZone, ""},
		{in(func(i *AddIn) { i.Schedule.EveryMs = 0 }), ErrSchedule, ""},
		{in(func(i *AddIn) { i.Name = "  " }), ErrName, ""},
		{in(func(i *AddIn) { i.Payload.Text = "" }), ErrPayload, ""},
		{in(func(i *AddIn) { i.WakeMode = "later" }), ErrTarget, ""},
		{in(func(i *AddIn) { i.Missed.Mode = "later" }), ErrMissed, ""},
		{in(func(i *AddIn) { i.Missed = Missed{Mode: MissedWithin} }), ErrMissed, ""},
		{in(func(i *AddIn) { i.Payload.Text = strings.Repeat("x", maxJobBytes) }), ErrTooLarge, ""},
		{in(func(i *AddIn) { i.Payload = command() }), ErrCommand, ""},
		{in(func(i *AddIn) { i.Payload, i.Target = command("ls"), Main }), ErrTarget, ""},
		{in(func(i *AddIn) { i.Payload = command("ls") }), nil, ""},
	} {
		_, err := w.s.Add(context.Background(), admin, c.in)
		if !errors.Is(err, c.want) || c.want != nil && !strings.HasPrefix(err.Error(), c.text) {
			t.Errorf("%+v\n got %v\nwant %v %s", c.in, err, c.want, c.text)
		}
	}
	if _, err := w.s.Add(context.Background(), legacy, AddIn{Schedule: every(time.Hour), Payload: command("ls")}); !errors.Is(err, ErrOwnKind) {
		t.Error(err)
	}
	nobody := admin
	nobody.Principal = "conn:5"
	if _, err := w.s.Add(context.Background(), nobody, AddIn{Schedule: every(time.Hour), Payload: command("ls")}); !errors.Is(err, ErrOwner) {
		t.Error(err)
	}
}

// TestPatches change what they say.
func TestPatches(t *testing.T) {
	w := newWorld(t, "2026-05-01T12:00:00Z")
	j := w.add(AddIn{Name: "n", Description: "d", Schedule: Schedule{Kind: Cron, Expr: "0 * * * *"}})
	w.pass(time.Second)
	j, err := w.update(j.ID, Patch{Schedule: ref(every(time.Minute)), Description: ref(""), Name: ref(" m ")})
	if err != nil || *j.Schedule.AnchorMs != w.now.Load() || j.State.NextRunMs != w.now.Load()+60_000 || j.Description != "" || j.Name != "m" {
		t.Errorf("%+v %v", j, err)
	}
	if j, err = w.update(j.ID, Patch{Enabled: ref(false)}); err != nil || j.State.NextRunMs != 0 {
		t.Errorf("%+v %v", j.State, err)
	}
	if _, err = w.update(j.ID, Patch{Payload: &PayloadPatch{Kind: AgentTurn}}); !errors.Is(err, ErrPatchTurn) {
		t.Error(err)
	}
	if _, err = w.update(j.ID, Patch{Payload: &PayloadPatch{Kind: AgentTurn, Message: ref("x")}}); !errors.Is(err, ErrMainPayload) {
		t.Error(err)
	}
	j, err = w.update(j.ID, Patch{Target: Isolated, Payload: &PayloadPatch{Kind: AgentTurn, Message: ref("x"), Turn: Turn{Deliver: ref(true), To: ref(" t ")}}})
	if err != nil || j.Payload.Text != "" || j.Delivery == nil || j.Delivery.Mode != "announce" || j.Delivery.To != "t" {
		t.Errorf("%+v %v", j, err)
	}
	j, err = w.update(j.ID, Patch{FailureAlert: &FailureAlertPatch{After: ref(int64(3)), To: ref("a")}, Payload: &PayloadPatch{Kind: AgentTurn, Turn: Turn{Model: ref("m")}}})
	if err != nil || *j.FailureAlert.After != 3 || j.Payload.Turn.Message != "x" || *j.Payload.Turn.Model != "m" {
		t.Errorf("%+v %v", j, err)
	}
	if j, err = w.update(j.ID, Patch{FailureAlert: &FailureAlertPatch{Off: true}}); err != nil || !j.FailureAlert.Off {
		t.Errorf("%+v %v", j, err)
	}
	j, err = w.update(j.ID, Patch{Target: Main, Payload: &PayloadPatch{Kind: SystemEvent, Text: ref("y")}})
	if err != nil || j.Delivery != nil || j.Payload.Turn != (Turn{}) {
		t.Errorf("%+v %v", j, err)
	}
	if _, err = w.update(j.ID, Patch{Name: ref(" ")}); !errors.Is(err, ErrName) {
		t.Error(err)
	}
	if _, err = w.update("nobody", Patch{}); !errors.Is(err, ErrUnknownJob) || err.Error() != "unknown cron job id: nobody" {
		t.Error(err)
	}
	if j, err = w.update(j.ID, Patch{Payload: &PayloadPatch{Kind: RunCommand, Command: &Command{NodeID: "n", Argv: []string{"ls"}}}}); err != nil || j.Target != "" || j.Owner.Principal != "local:1000" {
		t.Errorf("%+v %v", j, err)
	}
	if j, err = w.update(j.ID, Patch{Payload: &PayloadPatch{Kind: SystemEvent, Text: ref("y")}}); err != nil || j.Target != Main || j.Owner.Principal != "" {
		t.Errorf("%+v %v", j, err)
	}
}

// TestEvents really reach the main session, and its agent is let look.
func TestEvents(t *testing.T) {
	w := newWorld(t, "2026-05-01T12:00:00Z")
	now, later := w.add(AddIn{Schedule: every(time.Minute)}), w.add(AddIn{Schedule: every(time.Minute), WakeMode: WakeNextHeartbeat, Payload: Payload{Kind: SystemEvent, Text: " tock "}})
	w.status, w.why = "skipped", "disabled"
	w.pass(time.Minute)
	w.tick()
	if e := w.store.of(now.ID); len(e) != 1 || e[0].Status != Skipped || e[0].Error != "disabled" || e[0].Summary != "tick" || e[0].DeliveryStatus != NotRequested || *e[0].DurationMs != 0 {
		t.Errorf("%+v", e)
	}
	if e := w.store.of(later.ID); len(e) != 1 || e[0].Status != OK || e[0].Summary != "tock" {
		t.Errorf("%+v", e)
	}
	said, asked := strings.Join(w.texts, "|"), strings.Join(w.asked, "|")
	for _, want := range []string{"cron:" + now.ID + " tick", "cron:" + later.ID + " tock"} {
		if !strings.Contains(said, want) {
			t.Errorf("%q is not among %s", want, said)
		}
	}
	if !strings.Contains(asked, "run cron:"+now.ID) || strings.Contains(asked, "run cron:"+later.ID) {
		t.Error(asked)
	}
	st := w.job(now.ID).State
	if st.LastError != "disabled" || st.LastStatus != Skipped || *st.ConsecutiveErrors != 0 || st.RunningMs != 0 || st.NextRunMs != w.now.Load()+60_000 {
		t.Errorf("%+v", st)
	}
	var actions []string
	for _, e := range w.events {
		if e.JobID == now.ID {
			actions = append(actions, e.Action)
		}
	}
	if got := strings.Join(actions, " "); got != "added started finished" {
		t.Error(got)
	}
}

// TestOnce: a job at a moment goes when it went well, and stays disabled when it did not.
func TestOnce(t *testing.T) {
	w := newWorld(t, "2026-05-01T12:00:00Z")
	at := Schedule{Kind: At, At: "2026-05-01T12:01:00Z"}
	goes, stays := w.add(AddIn{Schedule: at}), w.add(AddIn{Schedule: at, DeleteAfterRun: ref(false)})
	w.pass(time.Minute)
	w.tick()
	if _, err := w.s.Get(context.Background(), admin, goes.ID); !errors.Is(err, ErrUnknownJob) || len(w.store.of(goes.ID)) != 1 {
		t.Error(err)
	}
	if j := w.job(stays.ID); j.Enabled || j.State.NextRunMs != 0 || j.State.LastStatus != OK {
		t.Errorf("%+v", j)
	}
	w.status, w.why = "failed", "fetch failed"
	w.set.Store(&Settings{Enabled: true, MaxAttempts: 2, Backoff: []time.Duration{time.Second, time.Minute}})
	fails := w.add(AddIn{Schedule: Schedule{Kind: At, At: "2026-05-01T12:01:00Z"}})
	w.tick()
	for i, wait := range []time.Duration{time.Second, time.Minute} {
		if next := w.job(fails.ID).State.NextRunMs - w.now.Load(); next != wait.Milliseconds() {
			t.Errorf("after %d failures it waits %d ms", i+1, next)
		}
		w.pass(wait)
		w.tick()
	}
	if j := w.job(fails.ID); j.Enabled || *j.State.ConsecutiveErrors != 3 || len(w.store.of(fails.ID)) != 3 {
		t.Errorf("%+v", j)
	}
}

// TestFailing: a recurring job that fails waits longer each time, and says so.
func TestFailing(t *testing.T) {
	w := newWorld(t, "2026-05-01T12:00:00Z")
	w.set.Store(&Settings{Enabled: true, MainAgent: "main", MaxTurns: 1, Alert: AlertSettings{Enabled: true, After: 2, Cooldown: time.Hour}})
	j := w.add(AddIn{Schedule: every(10 * time.Second), Payload: turn("x")})
	for i, wait := range []time.Duration{30 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, time.Hour} {
		w.now.Store(w.job(j.ID).State.NextRunMs)
		w.tick()
		if got := w.job(j.ID).State.NextRunMs - w.now.Load(); got != wait.Milliseconds() {
			t.Errorf("after %d failures it waits %v", i+1, time.Duration(got)*time.Millisecond)
		}
	}
	e := w.store.of(j.ID)
	if e[0].Status != Failed || e[0].Error == "" || e[0].DeliveryStatus != UnknownYet {
		t.Errorf("%+v", e[0])
	}
	left := int64(0)
	for _, r := range e {
		left += r.LeftOut
	}
	if left == 0 {
		t.Error("the slots of the waits have no row")
	}
	w.s.wg.Wait()
	alerts := 0
	for _, text := range w.texts {
		if strings.Contains(text, ":failure-alert ") && strings.Contains(text, "failed 2 times") {
			alerts++
		}
	}
	if alerts != 1 {
		t.Errorf("%d alerts: %q", alerts, w.texts)
	}
}

// TestRunNow runs whatever the schedule says, which stays as it is.
func TestRunNow(t *testing.T) {
	w := newWorld(t, "2026-05-01T12:00:00Z")
	j := w.add(AddIn{Schedule: every(time.Hour), Enabled: ref(false)})
	run := func(in RunIn) RunOut {
		t.Helper()
		out, err := w.s.RunNow(context.Background(), admin, in)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := run(RunIn{ID: j.ID}); !out.Ran || w.job(j.ID).State.NextRunMs != 0 {
		t.Errorf("%+v", out)
	}
	k := w.add(AddIn{Schedule: every(time.Hour)})
	if out := run(RunIn{ID: k.ID, Due: true}); out.Ran || out.Reason != "not-due" {
		t.Errorf("%+v", out)
	}
	next := w.job(k.ID).State.NextRunMs
	if run(RunIn{ID: k.ID}); w.job(k.ID).State.NextRunMs != next {
		t.Error("the schedule has moved")
	}
	w.hold = make(chan struct{})
	done := make(chan RunOut)
	go func() { done <- run(RunIn{ID: k.ID}) }()
	for deadline := time.Now().Add(5 * time.Second); w.job(k.ID).State.RunningMs == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if out := run(RunIn{ID: k.ID}); out.Reason != "already-running" {
		t.Errorf("%+v", out)
	}
	close(w.hold)
	if out := <-done; !out.Ran {
		t.Errorf("%+v", out)
	}
	if _, err := w.s.RunNow(context.Background(), admin, RunIn{ID: "x"}); !errors.Is(err, ErrUnknownJob) {
		t.Error(err)
	}
}

// TestInterrupted: what was going on when the daemon died is recorded and not repeated; a command is asked about.
func TestInterrupted(t *testing.T) {
	w := newWorld(t, "2026-05-01T12:00:00Z")
	j := w.add(AddIn{Schedule: every(time.Minute)})
	once := w.add(AddIn{Schedule: Schedule{Kind: At, At: "2026-05-01T12:01:00Z"}})
	c := w.add(AddIn{Schedule: every(time.Minute), Payload: command("ls")})
	w.stop()
	for id, job := range w.store.jobs {
		job.State.RunningMs, job.State.SlotMs, job.State.LastSlotMs = w.now.Load()+60_000, w.now.Load()+60_000, w.now.Load()+60_000
		job.State.NextRunMs = w.now.Load() + 120_000
		if id == c.ID {
			job.State.RunID = "cron-before"
		}
		w.store.jobs[id] = job
	}
	w.end = func(id string) (CommandEnd, error) {
		if id != "cron-before" {
			return CommandEnd{}, errors.New("another run")
		}
		return CommandEnd{ExitCode: ref(0), Output: "done"}, nil
	}
	w.pass(61 * time.Second)
	w.start()
	w.s.wg.Wait()
	w.tick()
	if e := w.store.of(j.ID); len(e) != 1 || e[0].Status != Failed || e[0].Error != interruptedText || len(w.texts) != 0 {
		t.Errorf("%+v %q", e, w.texts)
	}
	if e, left := w.store.of(once.ID), w.job(once.ID); len(e) != 1 || left.Enabled {
		t.Errorf("%+v %+v", e, left)
	}
	if e := w.store.of(c.ID); len(e) != 1 || e[0].Status != OK || e[0].Summary != "done" || e[0].RunID != "cron-before" || len(w.runs) != 0 {
		t.Errorf("%+v %q", e, w.runs)
	}
}

// TestCommands run as their owner; their values are shown to nobody, and they themselves not at the legacy door.
func TestCommands(t *testing.T) {
	w := newWorld(t, "2026-05-01T12:00:00Z")
	w.end = func(string) (CommandEnd, error) { return CommandEnd{ExitCode: ref(3), Output: "no"}, nil }
	j := w.add(AddIn{Schedule: every(time.Minute), Payload: command("ls", "-l")})
	w.pass(time.Minute)
	w.tick()
	if len(w.runs) != 1 || !strings.HasPrefix(w.runs[0], "local:1000 cron-") || !strings.HasSuffix(w.runs[0], " n [ls -l]") {
		t.Errorf("%q", w.runs)
	}
	e := w.store.of(j.ID)
	if len(e) != 1 || e[0].Status != Failed || e[0].Error != "exit code 3" || *e[0].ExitCode != 3 || !e[0].Own || e[0].NodeID != "n" {
		t.Errorf("%+v", e)
	}
	if got := w.job(j.ID).Payload.Command.Env["KEY"]; got != "" {
		t.Errorf("a value is shown: %q", got)
	}
	if w.store.jobs[j.ID].Payload.Command.Env["KEY"] != "secret" {
		t.Error("the value is lost")
	}
	out, _ := w.s.List(context.Background(), legacy, ListIn{Enabled: "all"})
	runs, _ := w.s.Runs(context.Background(), legacy, RunsIn{All: true})
	_, err := w.s.Update(context.Background(), legacy, UpdateIn{ID: j.ID, Patch: Patch{Enabled: ref(false)}})
	gone, _ := w.s.Remove(context.Background(), legacy, j.ID)
	if len(out.Jobs)+len(runs.Entries) != 0 || !errors.Is(err, ErrUnknownJob) || gone.Removed {
		t.Errorf("%+v %+v %v %v", out, runs, err, gone)
	}
	if runs, _ := w.s.Runs(context.Background(), admin, RunsIn{All: true}); len(runs.Entries) != 1 || runs.Entries[0].JobName != j.Name {
		t.Errorf("%+v", runs)
	}
}

// TestPages as the original cuts them.
func TestPages(t *testing.T) {
	w := newWorld(t, "2026-05-01T12:00:00Z")
	for i := range 5 {
		w.add(AddIn{Name: fmt.Sprintf("Job %d", 4-i), Description: map[bool]string{true: "even"}[i%2 == 0], Schedule: every(time.Duration(i+1) * time.Minute), Enabled: ref(i != 4)})
	}
	list := func(in ListIn) string {
		t.Helper()
		out, err := w.s.List(context.Background(), legacy, in)
		if err != nil {
			return err.Error()
		}
		var names []string
		for _, j := range out.Jobs {
			names = append(names, strings.TrimPrefix(j.Name, "Job "))
		}
		next := -1
		if out.Page.Next != nil {
			next = *out.Page.Next
		}
		return fmt.Sprint(names, out.Page.Total, out.Page.Offset, out.Page.Limit, next)
	}
	for _, c := range []struct {
		in   ListIn
		want string
	}{
		{ListIn{}, "[4 3 2 1] 4 0 4 -1"},
		{ListIn{Enabled: "disabled"}, "[0] 1 0 1 -1"},
		{ListIn{IncludeDisabled: true, SortBy: "name", Limit: ref(2), Offset: 1}, "[1 2] 5 1 2 3"},
		{ListIn{IncludeDisabled: true, SortBy: "nextRunAtMs", Descend: true}, "[0 1 2 3 4] 5 0 5 -1"},
		{ListIn{Query: " EVEN "}, "[4 2] 2 0 2 -1"},
		{ListIn{Query: "none"}, "[] 0 0 50 -1"},
		{ListIn{Offset: 99}, "[] 4 4 4 -1"},
		{ListIn{Limit: ref(0)}, ErrPage.Error()}, {ListIn{Limit: ref(201)}, ErrPage.Error()}, {ListIn{SortBy: "x"}, ErrFilter.Error()},
	} {
		if got := list(c.in); got != c.want {
			t.Errorf("%+v: %s, want %s", c.in, got, c.want)
		}
	}
	for _, id := range []string{" ", "a/b", `a\b`, "a\x00"} {
		if _, err := w.s.Runs(context.Background(), legacy, RunsIn{ID: id}); !errors.Is(err, ErrRunsID) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if out, err := w.s.Runs(context.Background(), legacy, RunsIn{ID: "missing"}); err != nil || out.Page != (Page{Limit: 50}) {
		t.Errorf("%+v %v", out, err)
	}
}

// TestSwitches: what is off does not run, and runs when it is on again.
func TestSwitches(t *testing.T) {
	w := newWorld(t, "2026-05-01T12:00:00Z")
	off := *w.set.Load()
	off.Enabled = false
	w.set.Store(&off)
	j := w.add(AddIn{Schedule: every(time.Minute)})
	w.pass(time.Minute)
	w.tick()
	st, _ := w.s.Status(context.Background(), admin, struct{}{})
	if len(w.store.of(j.ID)) != 0 || st.Enabled || st.NextMs != 0 || st.Jobs != 1 {
		t.Errorf("%+v", st)
	}
	on := off
	on.Enabled = true
	w.set.Store(&on)
	w.tick()
	if len(w.store.of(j.ID)) != 1 {
		t.Error("it does not run")
	}
}

// TestDiskFull: nothing runs whose claim is not on disk.
func TestDiskFull(t *testing.T) {
	w := newWorld(t, "2026-05-01T12:00:00Z")
	j := w.add(AddIn{Schedule: every(time.Minute)})
	w.pass(time.Minute)
	w.store.fail = errDisk
	if wait := w.s.tick(context.Background()); wait != time.Second || len(w.texts) != 0 {
		t.Errorf("%v %q", wait, w.texts)
	}
	if _, err := w.s.Add(context.Background(), admin, AddIn{Schedule: every(time.Hour), Payload: Payload{Kind: SystemEvent, Text: "x"}}); !errors.Is(err, errDisk) || w.s.Count() != 1 {
		t.Error(err)
	}
	w.store.fail = nil
	w.tick()
	if len(w.store.of(j.ID)) != 1 {
		t.Error("it does not run")
	}
}

// TestLanes: events do not keep each other from starting, agent turns go one by one.
func TestLanes(t *testing.T) {
	w := newWorld(t, "2026-05-01T12:00:00Z")
	w.hold = make(chan struct{})
	for range 50 {
		w.add(AddIn{Schedule: every(time.Minute)})
	}
	w.pass(time.Minute)
	w.s.tick(context.Background())
	st, _ := w.s.Status(context.Background(), admin, struct{}{})
	if st.Running != 50 {
		t.Errorf("%d run", st.Running)
	}
	close(w.hold)
	w.s.wg.Wait()
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.s.room(laneTurns, Settings{MaxTurns: 1}) != 1 || w.s.room(laneEvents, Settings{}) != maxEvents {
		t.Error("room")
	}
}

// TestWebhooks are posted with the token, which no redirect and no log gets.
func TestWebhooks(t *testing.T) {
	got := make(chan string, 4)
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got <- "the other host was asked" }))
	defer other.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			http.Redirect(rw, r, other.URL, http.StatusTemporaryRedirect)
			got <- "away"
			return
		}
		b, _ := io.ReadAll(r.Body)
		got <- r.Header.Get("Authorization") + " " + string(b)
	}))
	defer srv.Close()
	w := newWorld(t, "2026-05-01T12:00:00Z")
	set := *w.set.Load()
	set.Token = func() string { return "hook-secret" }
	w.set.Store(&set)
	var log strings.Builder
	h := newHooks(slog.New(slog.NewTextHandler(&log, nil)))
	w.s.hooks = h
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); h.run(ctx) }()
	j := w.add(AddIn{Schedule: every(time.Minute), Delivery: &Delivery{Mode: "webhook", To: srv.URL + "/hook"}})
	w.pass(time.Minute)
	w.tick()
	text := <-got
	auth, body, _ := strings.Cut(text, " {")
	var sent map[string]any
	if err := json.Unmarshal([]byte("{"+body), &sent); err != nil || auth != "Bearer hook-secret" || sent["jobId"] != j.ID || sent["summary"] != "tick" || sent["status"] != "ok" {
		t.Errorf("%s: %v", text, err)
	}
	if _, err := w.update(j.ID, Patch{Delivery: &DeliveryPatch{To: ref(srv.URL + "/away")}}); err != nil {
		t.Fatal(err)
	}
	w.pass(time.Minute)
	w.tick()
	if text := <-got; text != "away" {
		t.Error(text)
	}
	if err := h.send(ctx, post{url: "http://169.254.169.254/latest", token: "hook-secret"}); !errors.Is(err, errAddress) {
		t.Error(err)
	}
	cancel()
	<-done
	select {
	case text := <-got:
		t.Error(text)
	default:
	}
	if s := log.String(); strings.Contains(s, "hook-secret") || strings.Contains(s, "/away") {
		t.Error(s)
	}
}

// TestBadSchedule: a zone that is gone disables the job in the end, and somebody is told.
func TestBadSchedule(t *testing.T) {
	w := newWorld(t, "2026-05-01T12:00:00Z")
	j := w.add(AddIn{Schedule: expr("* * * * *", "UTC")})
	w.stop()
	broken := w.store.jobs[j.ID]
	broken.Schedule.Zone = "Mars/Base"
	w.store.jobs[j.ID] = broken
	w.start()
	for range scheduleErrors {
		w.pass(2 * time.Minute)
		w.tick()
	}
	if now := w.job(j.ID); now.Enabled || now.State.ScheduleErrors != scheduleErrors || !strings.HasPrefix(now.State.LastError, "schedule error: CronDate") {
		t.Errorf("%+v", now)
	}
	w.s.wg.Wait()
	if len(w.texts) != 1 || !strings.Contains(w.texts[0], "auto-disabled after 3 consecutive schedule errors") {
		t.Errorf("%q", w.texts)
	}
}

// TestRun is the loop itself, on a clock that goes.
func TestRun(t *testing.T) {
	m := &memory{jobs: map[string]Job{}}
	w := &world{t: t, store: m, status: "ran"}
	w.set.Store(&Settings{Enabled: true, MainAgent: "main"})
	w.now.Store(time.Now().UnixMilli())
	w.start()
	w.stop()
	s, err := New(Config{Store: m, Queue: w, Heartbeats: w, Settings: func() Settings { return *w.set.Load() }, Bus: w.bus, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	j, err := s.Add(context.Background(), admin, AddIn{Schedule: every(20 * time.Millisecond), Payload: Payload{Kind: SystemEvent, Text: "x"}})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); len(m.of(j.ID)) < 5; {
		if time.Now().After(deadline) {
			t.Fatal("it does not run")
		}
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	<-ended
	if _, err := s.Add(context.Background(), admin, AddIn{}); errs.ClassOf(err) != errs.Unavailable {
		t.Error(err)
	}
	if _, err := s.RunNow(context.Background(), identity.Caller{}, RunIn{ID: j.ID}); errs.ClassOf(err) != errs.Unavailable {
		t.Error(err)
	}
}

// TestHostileRecords: whatever stands in the database, the scheduler neither panics nor loops, and goes on with
// the other jobs.
func TestHostileRecords(t *testing.T) {
	w := newWorld(t, "2026-05-01T12:00:00Z")
	fine := w.add(AddIn{Schedule: every(time.Minute)})
	w.stop()
	const low, high = -1 << 63, 1<<63 - 1
	for i, j := range []Job{
		{}, {Schedule: Schedule{Kind: Every}}, {Schedule: Schedule{Kind: Every, EveryMs: 1, AnchorMs: ref(int64(low))}},
		{Schedule: Schedule{Kind: Every, EveryMs: high, AnchorMs: ref(int64(high))}}, {Schedule: Schedule{Kind: Every, EveryMs: 1}, State: State{LastSlotMs: low}},
		{Schedule: Schedule{Kind: Cron, Expr: "* * * * * *", StaggerMs: ref(int64(high))}, State: State{LastSlotMs: 1}},
		{Schedule: Schedule{Kind: Cron, Expr: "* * * * *", Zone: "\x00", StaggerMs: ref(int64(low))}}, {Schedule: Schedule{Kind: At, At: "never"}},
		{Schedule: Schedule{Kind: Every, EveryMs: 5}, State: State{RunningMs: high, SlotMs: low, RunID: "x"}, Payload: Payload{Kind: RunCommand}},
		{Schedule: Schedule{Kind: Every, EveryMs: 5}, Payload: Payload{Kind: "other"}, Missed: Missed{Mode: "other", Within: low}},
		{Schedule: Schedule{Kind: At, At: "2026-05-01T12:00:00Z"}, Payload: Payload{Kind: AgentTurn}, FailureAlert: &FailureAlert{After: ref(int64(low))}, Delivery: &Delivery{Mode: "webhook", To: ":"}},
	} {
		for _, next := range []int64{1, low, w.now.Load()} {
			j.ID, j.Enabled, j.State.NextRunMs = fmt.Sprint("hostile-", i, next), true, next
			w.store.jobs[j.ID] = j
		}
	}
	w.end = func(string) (CommandEnd, error) { return CommandEnd{}, errors.New("no such run") }
	w.start()
	for range 4 {
		w.pass(time.Minute)
		began := time.Now()
		w.s.tick(context.Background())
		w.s.wg.Wait()
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("it took %v", d)
		}
	}
	if n := len(w.store.of(fine.ID)); n < 2 {
		t.Errorf("the other job ran %d times", n)
	}
}

// TestStopWaits: a command that is under way when the daemon stops is asked about by the next one.
func TestStopWaits(t *testing.T) {
	w := newWorld(t, "2026-05-01T12:00:00Z")
	j := w.add(AddIn{Schedule: every(time.Hour), Payload: command("ls")})
	w.pass(time.Hour)
	w.s.tick(context.Background())
	w.stop()
	if st := w.store.jobs[j.ID].State; st.RunningMs == 0 || st.RunID == "" || len(w.store.of(j.ID)) != 0 {
		t.Errorf("%+v", st)
	}
	w.end = func(string) (CommandEnd, error) { return CommandEnd{ExitCode: ref(0)}, nil }
	w.start()
	w.s.wg.Wait()
	if e := w.store.of(j.ID); len(e) != 1 || e[0].Status != OK || len(w.runs) != 1 {
		t.Errorf("%+v %q", e, w.runs)
	}
}

// TestZones takes the names that the original's dates take.
func TestZones(t *testing.T) {
	at := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	for name, want := range map[string]string{
		"Europe/Berlin": "14:00", "europe/berlin": "14:00", "AMERICA/NEW_YORK": "08:00", "utc": "12:00", "+02:00": "14:00", "-0530": "06:30", "Mars/Base": "", "local": "", "+25:00": "",
	} {
		z, err := zoneOf(name)
		if (err != nil) != (want == "") || err == nil && at.In(z).Format("15:04") != want {
			t.Errorf("%s: %v %v", name, z, err)
		}
	}
}

func TestParseAt(t *testing.T) {
	for text, want := range map[string]string{
		"2026-05-01": "2026-05-01T00:00:00.000Z", "2026-05-01T10:00": "2026-05-01T10:00:00.000Z", "2026-05-01T10:00:00+02:00": "2026-05-01T08:00:00.000Z",
		"2026-05-01T10:00:00.5Z": "2026-05-01T10:00:00.500Z", "1768435200123": "2026-01-15T00:00:00.123Z", "2026-02-30T00:00:00Z": "2026-03-02T00:00:00.000Z",
		"2026-05-01T24:00:00Z": "2026-05-02T00:00:00.000Z", "+012026-01-01T00:00:00-0130": "+012026-01-01T01:30:00.000Z",
		"": "", "x": "", "2026-13-01": "", "2026-05-01T25:00Z": "", "0": "", "99999999999999999999": "", "2026-05-01T10:00:00+25:00": "",
	} {
		ms, ok := ParseAt(text)
		if got := ISO(ms); ok != (want != "") || ok && got != want {
			t.Errorf("%q: %s %v", text, got, ok)
		}
	}
}

func TestPreview(t *testing.T) {
	w := newWorld(t, "2027-03-27T12:00:00Z")
	out, err := w.s.Preview(context.Background(), admin, PreviewIn{Schedule: expr("30 2 * * *", "Europe/Berlin"), Count: 2})
	if err != nil || len(out.AtMs) != 2 || ISO(out.AtMs[0]) != "2027-03-28T01:30:00.000Z" || ISO(out.AtMs[1]) != "2027-03-29T00:30:00.000Z" {
		t.Errorf("%v %v", out, err)
	}
	if _, err := w.s.Preview(context.Background(), admin, PreviewIn{Schedule: expr("x", ""), Count: 1}); !errors.Is(err, ErrExpression) {
		t.Error(err)
	}
	if _, err := w.s.Preview(context.Background(), admin, PreviewIn{Count: 101}); !errors.Is(err, ErrPreview) {
		t.Error(err)
	}
}
