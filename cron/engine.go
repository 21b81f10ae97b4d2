package cron

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// The lanes that bound how many runs of a kind go on at a time.
const (
	laneEvents = iota
	laneTurns
	laneCommands
	lanes
)

func laneOf(k PayloadKind) int {
	switch k {
	case AgentTurn:
		return laneTurns
	case RunCommand:
		return laneCommands
	}
	return laneEvents
}

// room is how many more runs a lane takes. The caller holds mu.
func (s *Service) room(lane int, set Settings) int {
	most := maxEvents
	switch lane {
	case laneTurns:
		most = max(1, set.MaxTurns)
	case laneCommands:
		most = maxCommands
	}
	return most - s.lanes[lane]
}

// run is one run that goes on. Its job is as it was when it began.
type run struct {
	job    Job
	began  int64
	slot   int64
	asked  bool // by somebody: the schedule stays as it is
	resume bool // it began before the daemon did
	done   chan struct{}
}

// Run runs jobs until ctx ends. What the daemon before this one left half done is settled first: a run that
// was going on is recorded as interrupted and not repeated, except that of a command, which the runs of nodes
// know the end of. It returns when nothing of the service runs any more.
func (s *Service) Run(ctx context.Context) {
	quit := make(chan struct{})
	go s.keep(quit)
	hooking, unhook := context.WithCancel(context.WithoutCancel(ctx))
	hooked := make(chan struct{})
	go func() {
		defer close(hooked)
		s.hooks.run(hooking)
	}()
	defer func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.end()
		s.wg.Wait()
		close(quit)
		<-s.stopped
		unhook()
		<-hooked
	}()
	s.settle(ctx)
	prune := time.NewTicker(pruneEvery)
	defer prune.Stop()
	s.prune(ctx)
	for {
		timer := time.NewTimer(s.tick(ctx))
		select {
		case <-timer.C:
		case <-s.kick:
		case <-prune.C:
			s.prune(ctx)
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
		s.mu.Lock()
		many := s.rows > pruneAfter
		s.mu.Unlock()
		if many {
			s.prune(ctx)
		}
	}
}

// prune holds the run log within its bounds.
func (s *Service) prune(ctx context.Context) {
	set := s.cfg.Settings()
	s.mu.Lock()
	s.rows = 0
	s.mu.Unlock()
	if _, err := s.cfg.Store.PruneCronRuns(ctx, Keep{Rows: max(1, set.KeepRows), Bytes: max(1, set.KeepBytes), All: allRows}); err != nil && ctx.Err() == nil {
		s.log.Warn("old rows of the cron run log could not be removed", "error", err)
	}
}

// settle records what was going on when the daemon before this one ended.
func (s *Service) settle(ctx context.Context) {
	var resumed []*run
	err := s.apply(ctx, func(b *batch) error {
		b.s.mu.Lock()
		var ids []string
		for id, j := range b.s.jobs {
			if j.State.RunningMs != 0 {
				ids = append(ids, id)
			}
		}
		b.s.mu.Unlock()
		slices.Sort(ids)
		for _, id := range ids {
			j, _ := b.job(id)
			if j.own() && j.State.RunID != "" && s.cfg.Commands != nil {
				resumed = append(resumed, &run{job: j, began: j.State.RunningMs, slot: j.State.SlotMs, asked: j.State.SlotMs == 0, resume: true, done: make(chan struct{})})
				continue
			}
			s.interrupted(b, j)
		}
		return nil
	})
	if err != nil {
		s.log.Error("runs that were interrupted could not be recorded", "error", err)
		return
	}
	for _, r := range resumed {
		s.begin(r)
	}
}

// interruptedText is the error of a run that the end of the daemon cut off.
const interruptedText = "interrupted: the daemon ended while the job ran; it is not repeated"

func (s *Service) interrupted(b *batch, j Job) {
	st := &j.State
	e := Entry{Status: Failed, Error: interruptedText, RunAtMs: st.RunningMs, SlotMs: st.SlotMs, RunID: st.RunID, DeliveryStatus: undelivered(&j)}
	if j.own() {
		e.NodeID = j.Payload.Command.NodeID
	}
	st.LastRunMs, st.LastRunStatus, st.LastStatus, st.LastError, st.LastDeliveryStatus = st.RunningMs, Failed, Failed, interruptedText, e.DeliveryStatus
	st.RunningMs, st.SlotMs, st.RunID = 0, 0, ""
	if j.Schedule.Kind == At {
		j.Enabled, st.NextRunMs = false, 0
	}
	j.UpdatedMs = b.now
	e.NextRunMs = st.NextRunMs
	b.set(j)
	b.row(&j, e)
}

// undelivered is the delivery status of a run that says nothing of it.
func undelivered(j *Job) string {
	if d := j.Delivery; d != nil {
		if d.Mode == "announce" {
			return UnknownYet
		}
		return NotRequested
	}
	if t := j.Payload.Turn; t.Deliver != nil && *t.Deliver || t.Deliver == nil && t.To != nil && strings.TrimSpace(*t.To) != "" {
		return UnknownYet // asked for in the older way
	}
	return NotRequested
}

// tick starts what is due and returns how long nothing is.
func (s *Service) tick(ctx context.Context) time.Duration {
	set := s.cfg.Settings()
	if !set.Enabled {
		return maxSleep
	}
	now := s.now()
	s.mu.Lock()
	var due []*Job
	var back []string // clocks were put back
	wait := maxSleep.Milliseconds()
	for id, j := range s.jobs {
		switch next := j.State.NextRunMs; {
		case !j.Enabled || next == 0 || s.running[id] != nil || j.State.RunningMs != 0:
		case next <= now:
			due = append(due, j)
		default:
			if j.ahead(now) {
				back = append(back, id)
			}
			wait = min(wait, next-now)
		}
	}
	slices.SortFunc(due, func(a, b *Job) int {
		return cmp.Or(cmp.Compare(a.State.NextRunMs, b.State.NextRunMs), strings.Compare(a.ID, b.ID))
	})
	var room [lanes]int
	for l := range room {
		room[l] = s.room(l, set)
	}
	s.mu.Unlock()
	var ids []string
	for _, j := range due {
		// The others go on being due: whoever ends looks again.
		if l := laneOf(j.Payload.Kind); room[l] > 0 {
			room[l]--
			ids = append(ids, j.ID)
		}
	}
	if len(ids)+len(back) == 0 {
		return time.Duration(wait) * time.Millisecond
	}
	var begun []*run
	// Whatever is claimed begins, so the end of ctx does not count.
	err := s.apply(context.WithoutCancel(ctx), func(b *batch) error {
		begun = nil
		for _, id := range back {
			s.recount(b, id)
		}
		for _, id := range ids {
			if r := s.claimSafely(b, id); r != nil {
				begun = append(begun, r)
			}
		}
		return nil
	})
	if err != nil {
		if ctx.Err() == nil {
			s.log.Error("due cron jobs could not be claimed; they are tried again", "jobs", len(ids), "error", err)
		}
		return time.Second
	}
	for _, r := range begun {
		s.begin(r)
	}
	return 0
}

// ahead reports whether the last slot of a job lies so far ahead that the clock was wrong then. An interval is
// no time of day: it goes on as soon as the clock was put back at all.
func (j *Job) ahead(now int64) bool {
	switch j.Schedule.Kind {
	case Every:
		return j.State.LastSlotMs > now+2*maxSleep.Milliseconds()
	case Cron:
		return j.State.LastSlotMs > now+setBack.Milliseconds()
	}
	return false
}

// recount counts the slots of a job from now: the clock that it was counted by was far ahead.
func (s *Service) recount(b *batch, id string) {
	j, ok := b.job(id)
	if !ok || !j.Enabled || !j.ahead(b.now) {
		return
	}
	j.State.LastSlotMs = 0
	if now := b.now; j.Schedule.Kind == Every {
		j.Schedule.AnchorMs = &now
	}
	if err := j.plan(b.now); err != nil {
		s.badSchedule(b, j, err)
		return
	}
	b.set(j)
	b.row(&j, Entry{Status: Skipped, Error: "the clock was put back; slots are counted from now", RunAtMs: b.now, NextRunMs: j.State.NextRunMs})
}

// claimSafely is claim where a fault of ours costs this job, not the daemon.
func (s *Service) claimSafely(b *batch, id string) (r *run) {
	defer func() {
		if fault := recover(); fault != nil {
			s.log.Error("the slots of a cron job could not be told", "job", id, "panic", fault, "stack", string(debug.Stack()))
			if j, ok := b.job(id); ok {
				s.badSchedule(b, j, errs.New(errs.Internal, "internal error"))
			}
			r = nil
		}
	}()
	return s.claim(b, id, false)
}

// claim takes the slot of a job that is due, and leaves out those that its policy does not run. What it
// writes is on disk before the run begins, which is never begun again: nil says that nothing is to be run.
// Asked says that somebody wants it now, whatever the policy says.
func (s *Service) claim(b *batch, id string, asked bool) *run {
	j, ok := b.job(id)
	st := &j.State
	if !ok || !j.Enabled || st.NextRunMs == 0 || st.NextRunMs > b.now || st.RunningMs != 0 {
		return nil
	}
	clk, err := j.clock()
	if err != nil {
		s.badSchedule(b, j, err)
		return nil
	}
	st.ScheduleErrors = 0
	var between []int64 // slots that it was not to run: after an error, or while it was running
	if st.LastSlotMs != 0 && clk.kind != At {
		between, _ = clk.between(st.LastSlotMs, st.NextRunMs-1)
	}
	var more int64
	due := []int64{st.NextRunMs}
	if clk.kind != At {
		rest, n := clk.between(st.NextRunMs, b.now)
		if due, more = append(due, rest...), n; n > 0 {
			due = rest // the first is among those that are only counted
			more++
		}
	}
	last := due[len(due)-1]
	late := b.now - last
	runs, left := due[len(due)-1:], due[:len(due)-1]
	switch {
	case asked:
	case j.Missed.Mode == MissedSkip && late > onTime.Milliseconds(),
		j.Missed.Mode == MissedWithin && late > max(j.Missed.Within.Milliseconds(), (5*time.Second).Milliseconds()):
		runs, left = nil, due
	case j.Missed.Mode == MissedAll:
		n := max(0, len(due)-maxRunAll)
		runs, left = due[n:], due[:n]
	}
	next := func(after int64) int64 {
		at, ok := clk.after(after)
		if !ok || clk.kind == At {
			return 0
		}
		return at
	}
	if len(runs) == 0 {
		st.LastSlotMs, st.NextRunMs = last, next(max(b.now, last))
		st.LastStatus, st.LastRunStatus, st.LastError = Skipped, Skipped, missedText(&j)
		if clk.kind == At {
			j.Enabled = false
		}
	} else {
		st.LastSlotMs, st.NextRunMs = runs[0], next(max(b.now, last))
		if len(runs) > 1 {
			st.NextRunMs = runs[1]
		}
		st.RunningMs, st.SlotMs, st.LastError = b.now, runs[0], ""
		if j.own() {
			st.RunID = newRunID()
		}
	}
	b.set(j)
	why := "left out: the job was still running, or had just ended"
	if n := st.ConsecutiveErrors; n != nil && *n > 0 {
		why = fmt.Sprintf("left out: the job waits after %d errors in a row", *n)
	}
	leaveOut(b, &j, between, 0, why)
	leaveOut(b, &j, left, more, missedText(&j))
	if len(runs) == 0 {
		return nil
	}
	b.tell(j.own(), Changed{JobID: j.ID, Action: "started", RunAtMs: b.now})
	return &run{job: j, began: b.now, slot: runs[0], done: make(chan struct{})}
}

func missedText(j *Job) string {
	policy := string(cmp.Or(j.Missed.Mode, MissedOnce))
	if j.Missed.Mode == MissedWithin {
		policy += " " + j.Missed.Within.String()
	}
	return "missed: the daemon did not run, was busy, or its clock was set forward (policy " + policy + ")"
}

// leaveOut writes rows for slots that are not run: one each, and one for all where there are too many. More
// are those that were only counted, before them.
func leaveOut(b *batch, j *Job, slots []int64, more int64, why string) {
	row := func(slot, until, n int64) {
		e := Entry{Status: Skipped, Error: why, RunAtMs: slot, SlotMs: slot, LeftOut: n, NextRunMs: j.State.NextRunMs}
		if n > 1 {
			e.UntilMs = until
			e.Error = fmt.Sprintf("%s; %d slots from %s to %s", why, n, ISO(slot), ISO(until))
			if more > 0 {
				e.Error = fmt.Sprintf("%s; at least %d slots to %s", why, n, ISO(until))
			}
		}
		b.row(j, e)
	}
	if len(slots) == 0 {
		if more > 0 {
			row(j.State.LastSlotMs, j.State.LastSlotMs, more)
		}
		return
	}
	if n := len(slots) - maxRows; n > 0 || more > 0 {
		n = max(1, n+1)
		row(slots[0], slots[n-1], int64(n)+more)
		slots = slots[n:]
	}
	for _, slot := range slots {
		row(slot, slot, 1)
	}
}

// badSchedule counts a schedule that cannot be read any more, and disables the job in the end.
func (s *Service) badSchedule(b *batch, j Job, err error) {
	st := &j.State
	st.ScheduleErrors++
	text := clip(err.Error(), maxError)
	st.LastError = "schedule error: " + text
	st.NextRunMs = 0
	if st.ScheduleErrors < scheduleErrors {
		st.NextRunMs = b.now + maxSleep.Milliseconds() // it is looked at again: a zone may be installed
	} else {
		j.Enabled = false
		said := fmt.Sprintf("⚠️ Cron job \"%s\" has been auto-disabled after %d consecutive schedule errors. Last error: %s", j.Name, st.ScheduleErrors, text)
		b.after = append(b.after, func() { s.notify(said, "cron:"+j.ID+":auto-disabled") })
	}
	b.set(j)
	b.row(&j, Entry{Status: Failed, Error: st.LastError, RunAtMs: b.now, NextRunMs: st.NextRunMs})
}

// notify tells the main session of something, soon.
func (s *Service) notify(text, key string) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.wg.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.wg.Done()
		if err := s.cfg.Queue.Queue(s.life, text, key); err != nil {
			s.log.Warn("the main session could not be told about a cron job", "error", err)
			return
		}
		s.cfg.Heartbeats.Request(key)
	}()
}

// begin starts a run that was claimed.
func (s *Service) begin(r *run) {
	lane := laneOf(r.job.Payload.Kind)
	s.mu.Lock()
	s.running[r.job.ID] = r
	s.lanes[lane]++
	closed := s.closed
	if !closed {
		s.wg.Add(1)
	}
	s.mu.Unlock()
	if closed {
		return // the daemon ends; the next one settles it
	}
	go func() {
		defer s.wg.Done()
		out := s.safely(r)
		var err error
		if !out.goesOn {
			err = s.apply(context.WithoutCancel(s.life), func(b *batch) error { s.finish(b, r, out); return nil })
		}
		if err != nil {
			s.log.Error("the end of a cron run could not be recorded", "job", r.job.ID, "error", err)
		}
		s.mu.Lock()
		delete(s.running, r.job.ID)
		s.lanes[lane]--
		s.mu.Unlock()
		close(r.done)
		s.Reload()
	}()
}

// outcome is how a run ended.
type outcome struct {
	status   Status
	err      string
	summary  string
	exitCode *int64
	goesOn   bool // it will be settled when the daemon is back
}

func (s *Service) safely(r *run) (out outcome) {
	defer func() {
		if fault := recover(); fault != nil {
			s.log.Error("a cron run panicked", "job", r.job.ID, "panic", fault, "stack", string(debug.Stack()))
			out = outcome{status: Failed, err: "internal error"}
		}
	}()
	return s.execute(r)
}

// timedOut is the error of a run that took too long (control-plane.md §12; frozen).
const timedOut = "cron: job execution timed out"

func (s *Service) execute(r *run) outcome {
	j := &r.job
	switch j.Payload.Kind {
	case SystemEvent:
		return s.event(j)
	case AgentTurn:
		return outcome{status: Failed, err: "agent turns cannot run: no agent runs on this hanzod yet"}
	}
	return s.command(r)
}

// event tells the main session, and lets its agent look.
func (s *Service) event(j *Job) outcome {
	ctx, cancel := context.WithTimeout(s.life, eventTime)
	defer cancel()
	text := strings.TrimSpace(j.Payload.Text)
	if text == "" {
		return outcome{status: Skipped, err: "main job requires non-empty systemEvent text"}
	}
	key := "cron:" + j.ID
	if err := s.cfg.Queue.Queue(ctx, text, key); err != nil {
		return outcome{status: Failed, err: s.cause(ctx, err.Error()), summary: text}
	}
	if j.WakeMode != WakeNow {
		s.cfg.Heartbeats.Request(key)
		return outcome{status: OK, summary: text}
	}
	switch status, why := s.cfg.Heartbeats.RunHeartbeat(ctx, key); status {
	case "ran":
		return outcome{status: OK, summary: text}
	case "skipped":
		return outcome{status: Skipped, err: why, summary: text}
	default:
		return outcome{status: Failed, err: s.cause(ctx, why), summary: text}
	}
}

// cause is why something failed: the end of the time or of the daemon comes first.
func (s *Service) cause(ctx context.Context, text string) string {
	switch {
	case s.life.Err() != nil:
		return "interrupted: the daemon stopped"
	case ctx.Err() != nil:
		return timedOut
	}
	return text
}

// command runs a command as its owner, with the approvals that it takes.
func (s *Service) command(r *run) outcome {
	j := &r.job
	if s.cfg.Commands == nil {
		return outcome{status: Failed, err: "commands cannot run on this daemon"}
	}
	c, owner, id := j.Payload.Command, j.Owner.Caller(), j.State.RunID
	if c.Timeout == 0 {
		c.Timeout = commandTime
	}
	if c.ApprovalTimeout == 0 {
		c.ApprovalTimeout = approvalTime
	}
	ctx, cancel := context.WithTimeout(s.life, c.Timeout+c.ApprovalTimeout+c.WaitForNode+commandGrace)
	defer cancel()
	if !r.resume {
		if err := s.cfg.Commands.Start(ctx, owner, id, c); err != nil {
			if s.life.Err() != nil || errors.Is(err, ErrStopped) {
				return outcome{goesOn: true} // the next daemon finds that it never began
			}
			return outcome{status: Failed, err: s.cause(ctx, err.Error())}
		}
	}
	end, err := s.cfg.Commands.Wait(ctx, owner, id)
	switch {
	case err != nil && (s.life.Err() != nil || errors.Is(err, ErrStopped)):
		return outcome{goesOn: true} // the run goes on, and is known by its id
	case err != nil && r.resume:
		return outcome{status: Failed, err: interruptedText}
	case err != nil:
		return outcome{status: Failed, err: s.cause(ctx, err.Error())}
	}
	out := outcome{status: OK, summary: tail(end.Output, maxSummary)}
	switch {
	case end.Failure != "":
		out.status, out.err = Failed, end.Failure
	case end.TimedOut:
		out.status, out.err = Failed, timedOut
	case end.ExitCode == nil:
		out.status, out.err = Failed, "the command did not exit by itself"
	default:
		code := int64(*end.ExitCode)
		out.exitCode = &code
		if code != 0 {
			out.status, out.err = Failed, fmt.Sprintf("exit code %d", code)
		}
	}
	return out
}

// tail is the end of a text, in whole characters.
func tail(s string, n int) string {
	if len(s) > n {
		s = "…" + strings.ToValidUTF8(s[len(s)-n:], "")
	}
	return s
}

// finish records how a run ended and plans the next.
func (s *Service) finish(b *batch, r *run, out outcome) {
	set := s.cfg.Settings()
	j, there := b.job(r.job.ID)
	if !there {
		j = r.job // it was removed meanwhile; its end is told all the same
	}
	st := &j.State
	took := max(0, b.now-r.began)
	e := Entry{
		Status: out.status, Error: out.err, Summary: out.summary, DeliveryStatus: undelivered(&j), RunAtMs: r.began, DurationMs: &took, SlotMs: r.slot,
		RunID: r.job.State.RunID, ExitCode: out.exitCode,
	}
	if r.job.own() {
		e.NodeID = r.job.Payload.Command.NodeID
	}
	if !there {
		b.row(&j, e)
		s.deliver(b, &j, set)
		return
	}
	st.RunningMs, st.SlotMs, st.RunID = 0, 0, ""
	st.LastRunMs, st.LastRunStatus, st.LastStatus, st.LastDurationMs = r.began, out.status, out.status, &took
	out.err = strings.ToValidUTF8(out.err, "\uFFFD")
	st.LastError, st.LastDelivered, st.LastDeliveryStatus, st.LastDeliveryError = clip(out.err, maxError), nil, e.DeliveryStatus, ""
	j.UpdatedMs = b.now
	failures := int64(0)
	if out.status == Failed {
		if failures = 1; st.ConsecutiveErrors != nil {
			failures += *st.ConsecutiveErrors
		}
	} else {
		st.LastFailureAlertMs = 0
	}
	st.ConsecutiveErrors = &failures
	remove := s.next(b, &j, r, out, set)
	e.NextRunMs = st.NextRunMs
	if out.status == Failed {
		s.alert(b, &j, set)
	}
	b.set(j)
	b.row(&j, e)
	s.deliver(b, &j, set)
	if remove {
		b.remove(j.ID)
		b.tell(j.own(), Changed{JobID: j.ID, Action: "removed"})
	}
}

// next plans the run after one that ended, and reports whether there is none and the job goes.
func (s *Service) next(b *batch, j *Job, r *run, out outcome, set Settings) (remove bool) {
	st := &j.State
	if j.Schedule.Kind == At {
		switch {
		case out.status == OK && j.DeleteAfterRun != nil && *j.DeleteAfterRun:
			return true
		case out.status == Failed && j.Enabled && transient(out.err, set.RetryOn) && *st.ConsecutiveErrors <= int64(set.MaxAttempts):
			wait := errorBackoff[0]
			if n := len(set.Backoff); n > 0 {
				wait = set.Backoff[min(int(*st.ConsecutiveErrors), n)-1]
			}
			st.NextRunMs = b.now + wait.Milliseconds()
		default:
			j.Enabled, st.NextRunMs = false, 0
		}
		return false
	}
	if !j.Enabled {
		st.NextRunMs = 0
		return false
	}
	clk, err := j.clock()
	if err != nil {
		s.log.Warn("the schedule of a cron job cannot be read any more", "job", j.ID, "error", err)
		return false // it counts when it is due
	}
	from := b.now
	switch {
	case out.status == Failed:
		from += errorBackoff[min(int(*st.ConsecutiveErrors), len(errorBackoff))-1].Milliseconds() - 1
	case r.asked || (j.Missed.Mode == MissedAll && st.NextRunMs != 0 && st.NextRunMs <= b.now):
		return false // as it was
	case clk.kind == Cron:
		from += refireGap.Milliseconds() - 1
	}
	st.NextRunMs, _ = clk.after(max(from, st.LastSlotMs))
	return false
}

// Errors that go away by themselves, by the words of cron.retry.retryOn.
var transients = map[string]*regexp.Regexp{
	"rate_limit":   regexp.MustCompile(`(?i)rate[_ ]limit|too many requests|\b429\b|resource has been exhausted`),
	"network":      regexp.MustCompile(`(?i)network|econnreset|econnrefused|fetch failed|socket|connection (refused|reset)|not connected`),
	"timeout":      regexp.MustCompile(`(?i)timeout|etimedout|timed out`),
	"server_error": regexp.MustCompile(`\b5\d{2}\b`),
}

func transient(text string, on []string) bool {
	for word, re := range transients {
		if (on == nil || slices.Contains(on, word)) && re.MatchString(text) {
			return true
		}
	}
	return false
}

// deliver posts what a run has to say, where its job wants that.
func (s *Service) deliver(b *batch, j *Job, set Settings) {
	e := b.rows[len(b.rows)-1] // of the run
	if d := j.Delivery; d != nil && d.Mode == "webhook" && e.Summary != "" {
		b.post(post{url: d.To, token: set.token(), job: j.ID, body: eventBody(e)})
	}
	if e.Status != Failed {
		return
	}
	to := set.Failure
	if d := j.Delivery; d != nil {
		if d.BestEffort != nil && *d.BestEffort {
			return
		}
		if d.Failure != nil {
			to = *d.Failure
		}
	}
	if to.Mode != "webhook" {
		return // channels come with channels
	}
	if url, ok := webURL(to.To); ok {
		body := eventBody(e)
		body["jobName"], body["message"] = j.Name, fmt.Sprintf("Cron job \"%s\" failed: %s", j.Name, cmp.Or(e.Error, "unknown error"))
		b.post(post{url: url, token: set.token(), job: j.ID, body: body})
	}
}

func (set Settings) token() string {
	if set.Token == nil {
		return ""
	}
	return set.Token()
}

// alert tells of a job that keeps failing: by webhook, or in the main session where no channel is.
func (s *Service) alert(b *batch, j *Job, set Settings) {
	a := j.FailureAlert
	if a == nil && !set.Alert.Enabled || a != nil && a.Off {
		return
	}
	after, cooldown, mode, to := int64(set.Alert.After), set.Alert.Cooldown.Milliseconds(), set.Alert.Mode, ""
	if a != nil {
		if a.After != nil {
			after = *a.After
		}
		if a.CooldownMs != nil {
			cooldown = *a.CooldownMs
		}
		mode, to = cmp.Or(a.Mode, mode), a.To
	}
	best := j.Delivery != nil && j.Delivery.BestEffort != nil && *j.Delivery.BestEffort ||
		j.Payload.Turn.BestEffortDeliver != nil && *j.Payload.Turn.BestEffortDeliver
	st := &j.State
	if best || *st.ConsecutiveErrors < max(1, after) || st.LastFailureAlertMs != 0 && b.now-st.LastFailureAlertMs < cooldown {
		return
	}
	st.LastFailureAlertMs = b.now
	text := fmt.Sprintf("Cron job \"%s\" failed %d times\nLast error: %s", j.Name, *st.ConsecutiveErrors, clip(cmp.Or(st.LastError, "unknown reason"), 200))
	if mode == "webhook" {
		if to == "" && j.Delivery != nil {
			to = j.Delivery.To
		}
		if url, ok := webURL(to); ok {
			b.post(post{url: url, token: set.token(), job: j.ID, body: map[string]any{"jobId": j.ID, "jobName": j.Name, "message": text}})
			return
		}
	}
	b.after = append(b.after, func() { s.notify(text, "cron:"+j.ID+":failure-alert") })
}

// RunNow runs a job at once, or if it is due, and returns when the run has ended or the caller goes.
func (s *Service) RunNow(ctx context.Context, c identity.Caller, in RunIn) (RunOut, error) {
	var out RunOut
	var r *run
	err := s.apply(context.WithoutCancel(ctx), func(b *batch) error {
		out, r = RunOut{}, nil
		j, ok := b.job(in.ID)
		if !ok || !visible(c, j.own()) {
			return unknown(in.ID)
		}
		s.mu.Lock()
		busy := s.running[in.ID] != nil
		s.mu.Unlock()
		if busy || j.State.RunningMs != 0 {
			out.Reason = "already-running"
			return nil
		}
		if in.Due {
			if r = s.claim(b, in.ID, true); r == nil {
				out.Reason = "not-due"
			}
			return nil
		}
		j.State.RunningMs, j.State.SlotMs, j.State.LastError = b.now, 0, ""
		if j.own() {
			j.State.RunID = newRunID()
		}
		b.set(j)
		b.tell(j.own(), Changed{JobID: j.ID, Action: "started", RunAtMs: b.now})
		r = &run{job: j, began: b.now, asked: true, done: make(chan struct{})}
		return nil
	})
	if r != nil && err == nil {
		s.begin(r)
	}
	if err != nil || r == nil {
		return out, err
	}
	select {
	case <-r.done:
		return RunOut{Ran: true}, nil
	case <-ctx.Done():
		return RunOut{}, context.Cause(ctx)
	case <-s.stopped:
		return RunOut{}, ErrStopped
	}
}
