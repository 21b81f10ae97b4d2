package cron

import (
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/identity"
)

// newJob makes a job of what was asked for, with the defaults of the original.
func newJob(c identity.Caller, in AddIn, now int64, mainAgent string) (Job, error) {
	if err := checkAt(in.Schedule, now); err != nil {
		return Job{}, err
	}
	if in.Payload.Kind == RunCommand && c.Door == identity.DoorLegacy {
		return Job{}, ErrOwnKind
	}
	j := Job{
		ID: uuid.NewString(), AgentID: agentID(in.AgentID), SessionKey: strings.TrimSpace(in.SessionKey), Name: strings.TrimSpace(in.Name),
		Description: strings.TrimSpace(in.Description), Enabled: in.Enabled == nil || *in.Enabled, DeleteAfterRun: in.DeleteAfterRun,
		CreatedMs: now, UpdatedMs: now, Schedule: in.Schedule, Target: in.Target, WakeMode: in.WakeMode, Payload: in.Payload,
		Delivery: in.Delivery, FailureAlert: in.FailureAlert, Missed: in.Missed,
	}
	if j.Name == "" && in.Name == "" {
		j.Name = NameOf(j.Schedule, j.Payload)
	}
	if j.WakeMode == "" {
		j.WakeMode = WakeNow
	}
	switch {
	case j.Target != "":
	case j.Payload.Kind == SystemEvent:
		j.Target = Main
	case j.Payload.Kind == AgentTurn:
		j.Target = Isolated
	}
	switch j.Schedule.Kind {
	case At:
		if j.DeleteAfterRun == nil {
			yes := true
			j.DeleteAfterRun = &yes
		}
	case Every:
		if j.Schedule.AnchorMs == nil {
			j.Schedule.AnchorMs = &now
		}
	case Cron:
		j.Schedule = withStagger(j.Schedule)
	}
	if j.Delivery == nil && j.Target == Isolated && j.Payload.Kind == AgentTurn {
		j.Delivery = &Delivery{Mode: "announce"}
	}
	if j.own() {
		var err error
		if j.Owner, err = ownerOf(c); err != nil {
			return Job{}, err
		}
	}
	if err := j.check(mainAgent); err != nil {
		return Job{}, err
	}
	return j, j.plan(now)
}

// agentID is the form in which agents are known; "" stays.
func agentID(id string) string {
	if strings.TrimSpace(id) == "" {
		return ""
	}
	return config.AgentID(id)
}

func withStagger(s Schedule) Schedule {
	if s.StaggerMs == nil {
		if n := usualStagger(s.Expr); n > 0 {
			s.StaggerMs = &n
		}
	}
	return s
}

// plan sets when the job runs next.
func (j *Job) plan(now int64) error {
	j.State.NextRunMs = 0
	if !j.Enabled {
		return nil
	}
	clk, err := j.clock()
	if err != nil {
		return err
	}
	if clk.kind == At { // due until it has run
		if j.State.LastStatus != OK || clk.at > j.State.LastRunMs {
			j.State.NextRunMs = clk.at
		}
		return nil
	}
	j.State.NextRunMs, _ = clk.after(max(now, j.State.LastSlotMs))
	return nil
}

// ownerOf refuses callers that nobody can be held to later.
func ownerOf(c identity.Caller) (Owner, error) {
	lasts := c.DeviceID != "" && c.Paired || strings.HasPrefix(c.Principal, "local:")
	if !lasts {
		return Owner{}, ErrOwner
	}
	return Owner{
		Tenant:   c.Tenant,
		DeviceID: c.DeviceID, Paired: c.Paired, Principal: c.Principal, Scopes: c.Scopes, ClientID: c.ClientID, DisplayName: c.DisplayName, Local: c.Local,
	}, nil
}

// maxNameText and maxExprText are how much of a text or an expression becomes a name, in UTF-16 units as the
// original counts.
const (
	maxNameText = 60
	maxExprText = 52
)

// NameOf is the name of a job that was given none.
func NameOf(s Schedule, p Payload) string {
	text := p.Text
	switch p.Kind {
	case AgentTurn:
		text = p.Turn.Message
	case RunCommand:
		text = strings.Join(p.Command.Argv, " ")
	}
	for line := range strings.SplitSeq(text, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			return shorten(line, maxNameText)
		}
	}
	return "Cron job"
}

func shorten(s string, n int) string {
	u := utf16.Encode([]rune(s))
	if len(u) <= n {
		return s
	}
	return strings.TrimRight(string(utf16.Decode(u[:n-1])), " \t") + "…"
}

// check refuses jobs that the rules do not allow, in the order of the original.
func (j *Job) check(mainAgent string) error {
	if j.Name == "" {
		return ErrName
	}
	if err := j.checkForm(); err != nil {
		return err
	}
	switch {
	case j.own():
		return j.checkCommand()
	case j.Target == Main && j.Payload.Kind != SystemEvent:
		return ErrMainPayload
	case j.Target == Isolated && j.Payload.Kind != AgentTurn:
		return ErrIsolated
	case j.Target == Main && j.AgentID != "" && !strings.EqualFold(j.AgentID, mainAgent):
		return ErrMainAgent.WithText(`cron: sessionTarget "main" is only valid for the default agent. Use sessionTarget "isolated" with payload.kind "agentTurn" ` +
			"for non-default agents (agentId: " + clip(j.AgentID, 60) + ")")
	}
	if err := j.checkDelivery(); err != nil {
		return err
	}
	return j.checkFailure()
}

// Check refuses a job that did not come through a door and could not be kept or would never be due.
func (j *Job) Check() error {
	if err := j.checkForm(); err != nil {
		return err
	}
	_, err := j.clock()
	return err
}

// checkForm refuses what no door should have let through, and what is too large.
func (j *Job) checkForm() error {
	s := j.Schedule
	switch {
	case s.Kind != At && s.Kind != Every && s.Kind != Cron, s.Kind == Every && (s.EveryMs < 1 || s.EveryMs > maxDateMs),
		s.AnchorMs != nil && (*s.AnchorMs < 0 || *s.AnchorMs > maxDateMs), s.StaggerMs != nil && (*s.StaggerMs < 0 || *s.StaggerMs > maxDateMs):
		return ErrSchedule
	case j.Payload.Kind != SystemEvent && j.Payload.Kind != AgentTurn && j.Payload.Kind != RunCommand,
		j.Payload.Kind == SystemEvent && j.Payload.Text == "", j.Payload.Kind == AgentTurn && j.Payload.Turn.Message == "",
		j.Payload.ambiguous():
		return ErrPayload
	case j.own() != (j.Target == ""), j.Target != "" && j.Target != Main && j.Target != Isolated, j.WakeMode != WakeNow && j.WakeMode != WakeNextHeartbeat:
		return ErrTarget
	case j.size() > maxJobBytes:
		return ErrTooLarge
	}
	switch j.Missed.Mode {
	case "", MissedOnce, MissedSkip, MissedAll:
		if j.Missed.Within != 0 {
			return ErrMissed
		}
	case MissedWithin:
		if j.Missed.Within < time.Second || j.Missed.Within > 366*24*time.Hour {
			return ErrMissed
		}
	default:
		return ErrMissed
	}
	return nil
}

// ambiguous reports whether a payload says something of another kind than its own.
func (p Payload) ambiguous() bool {
	return p.Kind != SystemEvent && p.Text != "" || p.Kind != AgentTurn && p.Turn != (Turn{}) ||
		p.Kind != RunCommand && (p.Command.NodeID != "" || len(p.Command.Argv) > 0)
}

func (j *Job) size() int {
	n := len(j.AgentID) + len(j.SessionKey) + len(j.Name) + len(j.Description) + len(j.Schedule.At) + len(j.Schedule.Expr) + len(j.Schedule.Zone) + len(j.Payload.Text) + len(j.Payload.Turn.Message)
	for _, p := range []*string{j.Payload.Turn.Model, j.Payload.Turn.Thinking, j.Payload.Turn.Channel, j.Payload.Turn.To} {
		if p != nil {
			n += len(*p)
		}
	}
	if f := j.Payload.Turn.Fallbacks; f != nil {
		for _, s := range *f {
			n += len(s) + 16
		}
	}
	if d := j.Delivery; d != nil {
		n += len(d.Channel) + len(d.To) + len(d.AccountID)
		if d.Failure != nil {
			n += len(d.Failure.Channel) + len(d.Failure.To) + len(d.Failure.AccountID)
		}
	}
	if a := j.FailureAlert; a != nil {
		n += len(a.Channel) + len(a.To) + len(a.AccountID)
	}
	return n + j.Payload.Command.size()
}

func (c Command) size() int {
	n := len(c.NodeID) + len(c.Cwd)
	for _, a := range c.Argv {
		n += len(a) + 1
	}
	for k, v := range c.Env {
		n += len(k) + len(v) + 2
	}
	return n
}

func (j *Job) checkCommand() error {
	c := j.Payload.Command
	valid := utf8.ValidString(c.NodeID) && utf8.ValidString(c.Cwd)
	for _, a := range c.Argv {
		valid = valid && utf8.ValidString(a)
	}
	for k, v := range c.Env {
		valid = valid && utf8.ValidString(k) && utf8.ValidString(v)
	}
	switch {
	case strings.TrimSpace(c.NodeID) == "", len(c.Argv) == 0 || c.Argv[0] == "", !valid, c.size() > maxCommand,
		c.Timeout < 0 || c.Timeout > maxCommandTime, c.ApprovalTimeout < 0 || c.ApprovalTimeout > maxApproval, c.WaitForNode < 0 || c.WaitForNode > maxNodeWait:
		return ErrCommand
	case j.Delivery != nil && j.Delivery.Mode == "announce":
		return ErrTarget
	}
	return j.checkDelivery()
}

func (j *Job) checkDelivery() error {
	d := j.Delivery
	if d == nil {
		return nil
	}
	switch d.Mode {
	case "none":
		return nil
	case "webhook":
		to, ok := webURL(d.To)
		if !ok {
			return ErrWebhookURL
		}
		changed := *d
		changed.To = to
		j.Delivery = &changed
		return nil
	case "announce":
	default:
		return ErrTarget
	}
	if j.Target != Isolated {
		return ErrChannel
	}
	if d.Channel == "telegram" {
		return checkTelegram(d.To)
	}
	return nil
}

var (
	telegramLink  = regexp.MustCompile(`(?i)t\.me/`)
	telegramTopic = regexp.MustCompile(`^-?\d+/\d+$`)
)

func checkTelegram(to string) error {
	if t := strings.TrimSpace(to); telegramLink.MatchString(t) || !telegramTopic.MatchString(t) {
		return nil
	}
	return ErrTelegram.WithText(`Invalid Telegram delivery target "` + clip(to, 60) + `". Use colon (:) as delimiter for topics, not slash. ` +
		"Valid formats: -1001234567890, -1001234567890:123, -1001234567890:topic:123, @username, https://t.me/username")
}

func (j *Job) checkFailure() error {
	if j.Delivery == nil || j.Delivery.Failure == nil {
		return nil
	}
	if j.Target == Main && j.Delivery.Mode != "webhook" {
		return ErrFailureMain
	}
	if j.Delivery.Failure.Mode != "webhook" {
		return nil
	}
	to, ok := webURL(j.Delivery.Failure.To)
	if !ok {
		return ErrFailureURL
	}
	d, f := *j.Delivery, *j.Delivery.Failure
	f.To = to
	d.Failure, j.Delivery = &f, &d
	return nil
}

// webURL takes http and https addresses of a host.
func webURL(s string) (string, bool) {
	s = strings.TrimSpace(s)
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Hostname() == "" || len(s) > 4096 {
		return "", false
	}
	return s, strings.EqualFold(u.Scheme, "http") || strings.EqualFold(u.Scheme, "https")
}

// patched returns the job with the changes.
func (j *Job) patched(c identity.Caller, p Patch, now int64, mainAgent string) (Job, error) {
	out := *j
	if p.Schedule != nil {
		if err := checkAt(*p.Schedule, now); err != nil {
			return Job{}, err
		}
	}
	set := func(to *string, from *string) {
		if from != nil {
			*to = strings.TrimSpace(*from)
		}
	}
	set(&out.Name, p.Name)
	if out.Name == "" {
		return Job{}, ErrName
	}
	set(&out.Description, p.Description)
	if p.Enabled != nil {
		out.Enabled = *p.Enabled
	}
	if p.DeleteAfterRun != nil {
		out.DeleteAfterRun = p.DeleteAfterRun
	}
	if p.Schedule != nil {
		out.Schedule = patchedSchedule(j, *p.Schedule, now)
	}
	if p.Target != "" {
		out.Target = p.Target
	}
	if p.WakeMode != "" {
		out.WakeMode = p.WakeMode
	}
	if p.Missed != nil {
		out.Missed = *p.Missed
	}
	if err := out.patchPayload(c, p, j.own()); err != nil {
		return Job{}, err
	}
	out.patchDelivery(p)
	out.patchAlert(p.FailureAlert)
	if out.Target == Main && out.Delivery != nil && out.Delivery.Mode != "webhook" {
		out.Delivery = nil
	}
	out.patchState(p.State)
	if p.AgentID != nil {
		out.AgentID = agentID(*p.AgentID)
	}
	set(&out.SessionKey, p.SessionKey)
	if err := out.check(mainAgent); err != nil {
		return Job{}, err
	}
	out.UpdatedMs = now
	switch {
	case p.Schedule != nil || p.Enabled != nil:
		// Slots are counted anew: what was missed of another schedule, or while off, was not missed.
		out.State.LastSlotMs, out.State.ScheduleErrors = 0, 0
		if err := out.plan(now); err != nil {
			return Job{}, err
		}
	case out.Enabled && out.State.NextRunMs == 0 && out.State.RunningMs == 0:
		if err := out.plan(now); err != nil {
			return Job{}, err
		}
	}
	return out, nil
}

func patchedSchedule(j *Job, s Schedule, now int64) Schedule {
	switch {
	case s.Kind == Every && s.AnchorMs == nil:
		s.AnchorMs = &now
	case s.Kind == Cron && s.StaggerMs == nil && j.Schedule.Kind == Cron:
		s.StaggerMs = j.Schedule.StaggerMs
	case s.Kind == Cron:
		s = withStagger(s)
	}
	return s
}

func (j *Job) patchPayload(c identity.Caller, p Patch, own bool) error {
	if p.Payload == nil {
		return nil
	}
	pp := *p.Payload
	kept := j.Payload
	if pp.Kind != kept.Kind {
		kept = Payload{Kind: pp.Kind}
	}
	switch pp.Kind {
	case SystemEvent:
		if pp.Text != nil {
			kept.Text = *pp.Text
		}
		if kept.Text == "" {
			return ErrPatchText
		}
	case AgentTurn:
		if pp.Message != nil {
			kept.Turn.Message = *pp.Message
		}
		if kept.Turn.Message == "" {
			return ErrPatchTurn
		}
		t := &kept.Turn
		over(&t.Model, pp.Turn.Model)
		over(&t.Fallbacks, pp.Turn.Fallbacks)
		over(&t.Thinking, pp.Turn.Thinking)
		over(&t.TimeoutSeconds, pp.Turn.TimeoutSeconds)
		over(&t.AllowUnsafeExternalContent, pp.Turn.AllowUnsafeExternalContent)
		over(&t.LightContext, pp.Turn.LightContext)
		over(&t.Deliver, pp.Turn.Deliver)
		over(&t.Channel, pp.Turn.Channel)
		over(&t.To, pp.Turn.To)
		over(&t.BestEffortDeliver, pp.Turn.BestEffortDeliver)
	case RunCommand:
		if c.Door == identity.DoorLegacy {
			return ErrOwnKind
		}
		if pp.Command == nil {
			return ErrPayload
		}
		kept.Command = *pp.Command
		owner, err := ownerOf(c) // it runs as who changed it last
		if err != nil {
			return err
		}
		j.Owner = owner
		if !own && p.Target == "" {
			j.Target, j.Delivery = "", nil
		}
	default:
		return ErrPayload
	}
	if pp.Kind != RunCommand {
		j.Owner = Owner{}
		if own && p.Target == "" {
			j.Target = map[PayloadKind]Target{SystemEvent: Main, AgentTurn: Isolated}[pp.Kind]
		}
	}
	j.Payload = kept
	return nil
}

func over[T any](to **T, from *T) {
	if from != nil {
		*to = from
	}
}

func (j *Job) patchDelivery(p Patch) {
	d := p.Delivery
	if d == nil && p.Payload != nil && p.Payload.Kind == AgentTurn && j.Target == Isolated && j.Payload.Kind == AgentTurn {
		d = olderDelivery(p.Payload.Turn)
	}
	if d == nil {
		return
	}
	next := Delivery{Mode: "none"}
	if j.Delivery != nil {
		next = *j.Delivery
	}
	text := func(to *string, from *string) {
		if from != nil {
			*to = strings.TrimSpace(*from)
		}
	}
	text(&next.Mode, d.Mode)
	text(&next.Channel, d.Channel)
	text(&next.To, d.To)
	text(&next.AccountID, d.AccountID)
	over(&next.BestEffort, d.BestEffort)
	if f := d.Failure; f != nil {
		var to Destination
		if next.Failure != nil {
			to = *next.Failure
		}
		text(&to.Channel, f.Channel)
		text(&to.To, f.To)
		text(&to.AccountID, f.AccountID)
		text(&to.Mode, f.Mode)
		next.Failure = &to
	}
	j.Delivery = &next
}

// olderDelivery reads the flags that older clients send with the payload.
func olderDelivery(t Turn) *DeliveryPatch {
	to := ""
	if t.To != nil {
		to = strings.TrimSpace(*t.To)
	}
	if t.Deliver == nil && t.BestEffortDeliver == nil && to == "" {
		return nil
	}
	d := &DeliveryPatch{To: t.To, BestEffort: t.BestEffortDeliver}
	mode := "announce"
	switch {
	case t.Deliver != nil && !*t.Deliver:
		mode = "none"
		d.Mode = &mode
	case t.Deliver != nil || to != "":
		d.Mode = &mode
	}
	if t.Channel != nil {
		channel := strings.ToLower(strings.TrimSpace(*t.Channel))
		d.Channel = &channel
	}
	return d
}

func (j *Job) patchAlert(p *FailureAlertPatch) {
	if p == nil {
		return
	}
	if p.Off {
		j.FailureAlert = &FailureAlert{Off: true}
		return
	}
	next := FailureAlert{}
	if j.FailureAlert != nil && !j.FailureAlert.Off {
		next = *j.FailureAlert
	}
	over(&next.After, p.After)
	over(&next.CooldownMs, p.CooldownMs)
	for _, t := range []struct{ to, from *string }{{&next.Channel, p.Channel}, {&next.To, p.To}, {&next.Mode, p.Mode}, {&next.AccountID, p.AccountID}} {
		if t.from != nil {
			*t.to = strings.TrimSpace(*t.from)
		}
	}
	j.FailureAlert = &next
}

func (j *Job) patchState(p *StatePatch) {
	if p == nil {
		return
	}
	s := &j.State
	number := func(to *int64, from *int64) {
		if from != nil {
			*to = max(0, min(*from, maxDateMs))
		}
	}
	number(&s.NextRunMs, p.NextRunMs)
	number(&s.LastRunMs, p.LastRunMs)
	number(&s.LastFailureAlertMs, p.LastFailureAlertMs)
	over(&s.LastDurationMs, p.LastDurationMs)
	over(&s.ConsecutiveErrors, p.ConsecutiveErrors)
	over(&s.LastDelivered, p.LastDelivered)
	if p.LastRunStatus != nil {
		s.LastRunStatus = *p.LastRunStatus
	}
	if p.LastStatus != nil {
		s.LastStatus = *p.LastStatus
	}
	for _, t := range []struct{ to, from *string }{
		{&s.LastError, p.LastError}, {&s.LastDeliveryStatus, p.LastDeliveryStatus}, {&s.LastDeliveryError, p.LastDeliveryError},
	} {
		if t.from != nil {
			*t.to = clip(*t.from, maxError)
		}
	}
}
