package runs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// drive brings a run to its end. resumed says that the daemon was restarted since it began.
func (s *Service) drive(l *live, resumed bool) {
	ctx, cancel := context.WithCancel(s.life)
	defer cancel()
	l.mu.Lock()
	l.leave = cancel
	if l.killed {
		cancel()
	}
	l.mu.Unlock()
	d := &drive{s: s, l: l, c: l.get().Requester.Caller(), resumed: resumed}
	d.run(ctx)
}

// drive is one run on its way. Its methods run in one goroutine.
type drive struct {
	s       *Service
	l       *live
	c       identity.Caller
	resumed bool
}

func (d *drive) run(ctx context.Context) {
	switch r := d.l.get(); r.State {
	case Starting, Running:
		// It was on disk as leaving, and the daemon ended: it may have run.
		d.fail(Lost, ErrLost)
		return
	case Preparing:
		if !r.Tried && !d.try(ctx) {
			return
		}
		if !d.ask(ctx) {
			return
		}
	case Waiting:
	default:
		return
	}
	a, ok := d.await(ctx)
	if !ok {
		return
	}
	d.approved(ctx, a)
}

// try sends the command without an approval: the policy of the node, a rule or a grant may allow it. It
// reports whether an approval is to be asked for.
func (d *drive) try(ctx context.Context) bool {
	r, ok := d.write(func(r *Run) { r.State = Starting })
	if !ok {
		return false
	}
	payload, err := d.send(ctx, r, params(r, r.Argv), d.patience(r))
	if !errors.Is(err, ErrNeedsApproval) {
		d.finish(payload, err)
		return false
	}
	d.l.mu.Lock()
	d.l.left, d.l.invokeID = false, ""
	d.l.mu.Unlock()
	_, ok = d.write(func(r *Run) { r.State, r.Tried, r.StartedAt = Preparing, true, time.Time{} })
	return ok
}

// patience is how long the node is waited for.
func (d *drive) patience(r Run) time.Duration {
	if d.resumed {
		return max(r.WaitForNode, nodeReturn)
	}
	return r.WaitForNode
}

// send hands the command to the node and waits for its end.
func (d *drive) send(ctx context.Context, r Run, params []byte, wait time.Duration) ([]byte, error) {
	if err := d.s.standing(d.c); err != nil {
		return nil, err
	}
	cmd := Command{RunID: r.ID, NodeID: r.NodeID, Params: params, Wait: wait}
	if r.Timeout > 0 {
		cmd.Timeout = r.Timeout + timeoutGrace
	}
	return d.s.nodes.Run(ctx, d.c, cmd)
}

// ask asks the node what it would run and then for an approval of exactly that.
func (d *drive) ask(ctx context.Context) bool {
	r := d.l.get()
	payload, err := d.s.nodes.Prepare(ctx, d.c, r.NodeID, prepareParams(r), d.patience(r))
	if err != nil {
		d.finish(nil, err)
		return false
	}
	plan, ok := parsePlan(payload)
	if !ok {
		d.fail(Failed, ErrAnswer.WithText("the answer to system.run.prepare is not understood"))
		return false
	}
	a, err := d.s.approvals.Request(ctx, d.c, Question{
		ID: r.ID, NodeID: r.NodeID, Prepared: payload, Plan: plan, Env: r.Env, Timeout: r.ApprovalTimeout,
	})
	if err != nil && errs.ClassOf(err) == errs.Exists && r.Tried {
		// The daemon may have ended between the question and this note of it.
		known, gerr := d.s.approvals.Get(ctx, d.c, r.ID)
		switch {
		case gerr != nil:
			err = gerr
		case !d.mine(known, r, plan):
			err = ErrChanged
		default:
			a, err = known, nil
		}
	}
	if err != nil {
		d.finish(nil, err)
		return false
	}
	_, ok = d.write(func(r *Run) {
		r.State, r.ApprovalID, r.ExpiresAt, r.Command = Waiting, a.ID, a.ExpiresAt, plan.Text
		if a.Verdict == Allowed { // by a grant or a rule: nobody is waited for
			r.ResolvedBy = a.ResolvedBy
		}
	})
	return ok
}

// mine reports whether an approval is the question of this run.
func (d *drive) mine(a Approval, r Run, plan Plan) bool {
	return a.DeviceID == r.Requester.DeviceID && (a.DeviceID != "" || a.Principal == r.Requester.Principal) &&
		!a.CreatedAt.Before(r.CreatedAt) && slices.Equal(a.Argv, plan.Argv)
}

// await waits for the answer. It reports whether the run may leave.
func (d *drive) await(ctx context.Context) (Approval, bool) {
	for {
		r := d.l.get()
		a, err := d.wait(ctx, r)
		if err != nil {
			if d.gone(ctx) {
				return a, false
			}
			if errs.ClassOf(err) == errs.NotFound {
				// Old records go. Nobody knows any more whether it was used.
				d.fail(Lost, ErrLost)
				return a, false
			}
			if d.s.now().After(r.ExpiresAt.Add(decisionGrace)) {
				d.fail(Expired, ErrExpired)
				return a, false
			}
			d.s.log.Warn("the answer for a run could not be waited for; trying again", "run", r.ID, "error", err)
			if !pause(ctx, retryEvery) {
				d.gone(ctx)
				return a, false
			}
			continue
		}
		switch {
		case a.Used > 0:
			// It left by this approval, and its end was not seen.
			d.fail(Lost, ErrLost)
			return a, false
		case a.Verdict == Allowed:
			return a, true
		case a.Verdict == NotAllowed:
			why := ErrDenied
			if a.ResolvedBy != "" {
				why = why.WithText("the run was denied by " + a.ResolvedBy)
			}
			d.l.set(func(r *Run) { r.ResolvedBy = a.ResolvedBy })
			d.fail(Denied, why)
			return a, false
		case a.Verdict == Over || d.s.now().After(a.ExpiresAt.Add(decisionGrace)):
			d.fail(Expired, ErrExpired)
			return a, false
		}
		if !a.ExpiresAt.Equal(r.ExpiresAt) { // it was given more time
			if _, ok := d.write(func(r *Run) { r.ExpiresAt = a.ExpiresAt }); !ok {
				return a, false
			}
		}
	}
}

// wait waits for an approval until its end as it is known, and looks it up when it is not awaited any
// more.
func (d *drive) wait(ctx context.Context, r Run) (Approval, error) {
	left := r.ExpiresAt.Add(decisionGrace).Sub(d.s.now())
	waiting, cancel := context.WithTimeout(ctx, max(left, time.Millisecond))
	defer cancel()
	a, err := d.s.approvals.Wait(waiting, d.c, r.ApprovalID)
	if err == nil || ctx.Err() != nil {
		return a, err
	}
	return d.s.approvals.Get(ctx, d.c, r.ApprovalID)
}

// approved sends the command by its approval.
func (d *drive) approved(ctx context.Context, a Approval) {
	r := d.l.set(func(r *Run) { r.State, r.ResolvedBy, r.ExpiresAt = Starting, a.ResolvedBy, a.ExpiresAt })
	r.Env = d.l.get().Env
	d.s.bus.Publish("run.changed", Changed{shown(r)})
	for {
		wait := min(max(r.WaitForNode, nodeReturn), max(a.ExpiresAt.Sub(d.s.now()), time.Millisecond))
		payload, err := d.s.leave(ctx, d, r, a, wait)
		if err != nil && !d.left() && errs.ClassOf(err) == errs.Exhausted && d.s.now().Before(a.ExpiresAt) && pause(ctx, retryEvery) {
			continue // too many wait for nodes; the approval was not touched
		}
		if errors.Is(err, ErrNeedsApproval) && !d.left() {
			// The node went away between the use of the approval and the command.
			d.fail(Failed, ErrNotSent)
			return
		}
		d.finish(payload, err)
		return
	}
}

// leave sends an approved run, and notes that it left as soon as it did: from then on its environment is
// not kept.
func (s *Service) leave(ctx context.Context, d *drive, r Run, a Approval, wait time.Duration) ([]byte, error) {
	done := make(chan struct{})
	noted := make(chan struct{})
	go func() {
		defer close(noted)
		for {
			d.l.mu.Lock()
			left, changed := d.l.left, d.l.changed
			d.l.mu.Unlock()
			if left {
				began := d.l.get().StartedAt
				d.write(func(r *Run) { r.State, r.Env, r.StartedAt = Running, nil, began })
				return
			}
			select {
			case <-changed:
			case <-done:
				return
			}
		}
	}()
	payload, err := d.send(ctx, r, approvedParams(r, a), wait)
	close(done)
	<-noted
	return payload, err
}

func (d *drive) left() bool {
	d.l.mu.Lock()
	defer d.l.mu.Unlock()
	return d.l.left
}

// gone reports whether ctx ended: the daemon stops, and the run stays as it is on disk, or somebody ended
// it, which is noted.
func (d *drive) gone(ctx context.Context) bool {
	if ctx.Err() == nil {
		return false
	}
	if d.s.life.Err() == nil {
		d.killed()
	}
	return true
}

// killed ends a run that never left.
func (d *drive) killed() {
	d.l.mu.Lock()
	killer, asked := d.l.killer, d.l.run.ApprovalID != ""
	d.l.mu.Unlock()
	by := killerName(killer)
	d.l.set(func(r *Run) { r.KilledBy = by })
	d.fail(Failed, ErrKilled.WithText("the run was ended by "+by+" before the command began; nothing ran"))
	if asked {
		d.s.withdraw(d.s.life, killer, d.l.get().ID)
	}
}

// finish ends a run with the answer to its command.
func (d *drive) finish(payload []byte, err error) {
	if err != nil {
		d.l.mu.Lock()
		killed := d.l.killed
		d.l.mu.Unlock()
		switch {
		case errors.Is(err, ErrStopping), d.s.life.Err() != nil:
			return // it stays as it is on disk, where the next start finds it
		case killed && !d.left():
			d.killed()
			return
		}
	}
	left := d.left()
	d.end(func(r *Run) { conclude(r, payload, err, left) })
}

func (d *drive) fail(state State, why *errs.Error) {
	d.end(func(r *Run) {
		r.State, r.Failure = state, &Failure{Code: why.Code, Text: why.Text, Class: why.Class}
	})
}

// conclude gives a run the end that the answer to its command means. left says that the command went to
// the node.
func conclude(r *Run, payload []byte, err error, left bool) {
	if err == nil {
		if res, ok := parseResult(payload); ok {
			r.State, r.Result = Done, &res
			return
		}
		why := ErrAnswer.WithText("the node answered, and its answer is not understood; the command may have run: look before you repeat it")
		r.State, r.Failure = Lost, &Failure{Code: why.Code, Text: why.Text, Class: errs.Unknown}
		return
	}
	if n := (*NodeError)(nil); errors.As(err, &n) {
		f := &Failure{Code: "nodes.failed", Text: cut(n.Text), Class: errs.Unavailable}
		r.State = Failed
		if strings.HasPrefix(n.Text, "SYSTEM_RUN_DENIED") || strings.HasPrefix(n.Text, "SYSTEM_RUN_DISABLED") || strings.HasPrefix(n.Text, "PERMISSION_MISSING") {
			r.State = Refused
		}
		r.Failure = f
		return
	}
	e, known := errs.As(err)
	if !known {
		e = errs.New(errs.ClassOf(err), err.Error())
	}
	f := &Failure{Code: e.Code, Text: cut(e.Text), Class: e.Class}
	switch {
	case left:
		f = &Failure{Code: ErrLost.Code, Text: ErrLost.Text + " (" + cut(e.Text) + ")", Class: ErrLost.Class}
		r.State = Lost
	case e.Class == errs.Denied || e.Class == errs.Unauthenticated:
		r.State = Refused
	default:
		r.State = Failed
	}
	r.Failure = f
}

func cut(s string) string {
	if len(s) > maxErrorText {
		return strings.ToValidUTF8(s[:maxErrorText], "") + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// end writes the end of a run and tells everybody.
func (d *drive) end(change func(*Run)) {
	s, l := d.s, d.l
	mem := l.get()
	var final Run
	_, err := d.update(func(r *Run) (*Audit, error) {
		if r.State.Ended() {
			return nil, ErrEnded
		}
		change(r)
		r.Env, r.EndedAt = nil, s.now()
		r.StartedAt, r.ResolvedBy, r.ExpiresAt, r.KilledBy = mem.StartedAt, mem.ResolvedBy, mem.ExpiresAt, first(l.get().KilledBy, r.KilledBy)
		final = *r
		return nil, nil
	})
	if err != nil {
		// The daemon stops when its store fails; the next one finds the run as it was.
		s.log.Error("the end of a run could not be written", "run", mem.ID, "error", err)
		return
	}
	final.Streams = mem.Streams
	l.set(func(r *Run) { *r = final })
	s.mu.Lock()
	delete(s.live, mem.ID)
	s.count(final, -1, l.size)
	if s.ended++; s.ended >= pruneAfter {
		s.ended = 0
		select {
		case s.full <- struct{}{}:
		default:
		}
	}
	s.mu.Unlock()
	out := shown(final)
	if out.Result != nil {
		res := *out.Result
		res.Stdout, res.Stderr = "", ""
		out.Result = &res
	}
	s.bus.Publish("run.changed", Changed{out})
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// lasting is for writes that must not be given up half way: the service waits for them.
func (s *Service) lasting() context.Context { return context.WithoutCancel(s.life) }

// update changes the record of the run. It waits while the store has too much to write.
func (d *drive) update(change func(*Run) (*Audit, error)) (Run, error) {
	for {
		r, err := d.s.store.UpdateRun(d.s.lasting(), d.l.get().ID, change)
		if err == nil || errs.ClassOf(err) != errs.Exhausted || !pause(d.s.life, retryEvery) {
			return r, err
		}
	}
}

// write changes a run that goes on, on disk and then in memory. It reports whether that went well; when
// not, the run stays as it is on disk.
func (d *drive) write(change func(*Run)) (Run, bool) {
	stored, err := d.update(func(r *Run) (*Audit, error) {
		if r.State.Ended() {
			return nil, ErrEnded
		}
		change(r)
		return nil, nil
	})
	if err != nil {
		d.s.log.Error("the state of a run could not be written", "run", d.l.get().ID, "error", err)
		return Run{}, false
	}
	out := d.l.set(change)
	d.s.bus.Publish("run.changed", Changed{out})
	out.Env = stored.Env
	return out, true
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// The parameters of system.run and system.run.prepare (nodes-approvals.md §4.2, §4.3).

type object struct{ bytes.Buffer }

func (o *object) add(key string, v any) {
	sep := byte(',')
	if o.Len() == 0 {
		sep = '{'
	}
	o.WriteByte(sep)
	o.value(key)
	o.WriteByte(':')
	o.value(v)
}

// value writes texts, numbers, booleans, and lists and maps of texts, which always can be written.
func (o *object) value(v any) {
	e := json.NewEncoder(&o.Buffer)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	o.Truncate(o.Len() - 1) // the line feed
}

func (o *object) end() []byte {
	o.WriteByte('}')
	return o.Bytes()
}

func (o *object) texts(r Run) {
	for _, f := range [][2]string{{"cwd", r.Cwd}, {"agentId", r.AgentID}, {"sessionKey", r.SessionKey}} {
		if f[1] != "" {
			o.add(f[0], f[1])
		}
	}
}

func prepareParams(r Run) []byte {
	var o object
	o.add("command", r.Argv)
	o.texts(r)
	return o.end()
}

func params(r Run, argv []string) []byte {
	var o object
	o.run(r, argv)
	return o.end()
}

func (o *object) run(r Run, argv []string) {
	o.add("command", argv)
	o.texts(r)
	if len(r.Env) > 0 {
		o.add("env", r.Env)
	}
	if r.Timeout > 0 {
		o.add("timeoutMs", max(r.Timeout.Milliseconds(), 1))
	}
	o.add("runId", r.ID)
}

// approvedParams claims the approval. What runs is what the approval says: approvals put it in.
func approvedParams(r Run, a Approval) []byte {
	var o object
	o.run(r, a.Argv)
	o.add("approved", true)
	decision := "allow-once"
	if a.Always {
		decision = "allow-always"
	}
	o.add("approvalDecision", decision)
	return o.end()
}

// parsePlan reads the answer to system.run.prepare.
func parsePlan(payload []byte) (Plan, bool) {
	var answer struct {
		CmdText string
		Plan    struct {
			Argv                                 []string
			RawCommand, Cwd, AgentID, SessionKey *string
		}
	}
	if json.Unmarshal(payload, &answer) != nil || len(answer.Plan.Argv) == 0 {
		return Plan{}, false
	}
	p := answer.Plan
	out := Plan{Text: answer.CmdText, Argv: p.Argv, RawCommand: p.RawCommand, Cwd: p.Cwd, AgentID: p.AgentID, SessionKey: p.SessionKey}
	if p.RawCommand != nil {
		out.Text = *p.RawCommand
	}
	return out, true
}

// maxOutput bounds each stream of a result that is kept; node hosts send 200,000 bytes of both.
const maxOutput = 1 << 20

// parseResult reads the answer to system.run.
func parseResult(payload []byte) (Result, bool) {
	var res struct {
		ExitCode *float64
		Signal   json.RawMessage
		TimedOut bool
		Success  *bool
		Stdout   string
		Stderr   string
		Error    *string
	}
	if json.Unmarshal(payload, &res) != nil || (res.ExitCode == nil && res.Success == nil) {
		return Result{}, false
	}
	out := Result{TimedOut: res.TimedOut, Stdout: head(res.Stdout), Stderr: head(res.Stderr)}
	if res.ExitCode != nil {
		code := int(*res.ExitCode)
		out.ExitCode = &code
	}
	if res.Error != nil {
		out.Error = cut(*res.Error)
	}
	if s := strings.Trim(string(res.Signal), `"`); s != "null" {
		out.Signal = cut(s)
	}
	return out, true
}

func head(s string) string {
	if len(s) <= maxOutput {
		return s
	}
	return strings.ToValidUTF8(s[:maxOutput], "") + "\n... (truncated)"
}
