package heartbeat

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

// Config is what the service needs.
type Config struct {
	// Agents are those that beat, in the order of the configuration. It is asked at each use, so that a
	// changed configuration counts at once.
	Agents func() []Agent
	// Turn takes the turns; nil where no agent runs.
	Turn Turn
	// Busy says that an agent has something else to do first; nil is never.
	Busy func(agent string) bool
	Bus  *events.Bus
	Now  func() time.Time
	Log  *slog.Logger
}

// Service beats. Its methods are safe for concurrent use; beats run one at a time.
type Service struct {
	cfg  Config
	beat chan struct{} // holds a token while a beat runs
	kick chan struct{} // something changed that the runner sleeps past

	mu       sync.Mutex
	off      bool
	last     *Report
	told     map[string]told // by agent: what it said last
	due      map[string]schedule
	requests map[string]request // by agent, "" for all
	at       time.Time          // when the requests are looked at
}

// schedule is when an agent beats next by itself.
type schedule struct {
	interval time.Duration
	at       time.Time
}

// request is a beat that was asked for.
type request struct {
	reason   string
	priority int
}

type told struct {
	text string
	at   time.Time
}

// New returns the service. Heartbeats are on.
func New(cfg Config) *Service {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{
		cfg: cfg, beat: make(chan struct{}, 1), kick: make(chan struct{}, 1),
		told: map[string]told{}, due: map[string]schedule{}, requests: map[string]request{},
	}
}

// Last returns how the last beat ended, nil before the first.
func (s *Service) Last(context.Context, identity.Caller) (*Report, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, nil
}

// SetEnabled turns all heartbeats of this process on or off. It does not outlive the process.
func (s *Service) SetEnabled(_ context.Context, _ identity.Caller, in SetIn) (SetOut, error) {
	s.mu.Lock()
	s.off = !in.Enabled
	s.mu.Unlock()
	s.rouse()
	return SetOut(in), nil
}

// Enabled reports whether heartbeats are on.
func (s *Service) Enabled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.off
}

// RunNow lets an agent beat and returns what came of it. It waits for a busy agent, for two minutes at the most.
func (s *Service) RunNow(ctx context.Context, _ identity.Caller, in RunIn) (Outcome, error) {
	agents := s.cfg.Agents()
	i := slices.IndexFunc(agents, func(a Agent) bool { return a.ID == in.Agent || (in.Agent == "" && a.Default) })
	if i < 0 {
		if in.Agent == "" {
			return Outcome{string(Skipped), Disabled}, nil
		}
		return Outcome{}, ErrUnknownAgent
	}
	return s.patiently(ctx, agents[i], "manual")
}

// RunHeartbeat lets the default agent beat because of a reason such as "cron:<id>", and returns what came of
// it: ran, skipped or failed, and why. It waits for a busy agent, for two minutes at the most; then the beat is
// asked for and it returns skipped, requests-in-flight. When ctx ends it returns failed.
func (s *Service) RunHeartbeat(ctx context.Context, reason string) (status, why string) {
	agents := s.cfg.Agents()
	i := slices.IndexFunc(agents, func(a Agent) bool { return a.Default })
	if i < 0 {
		return string(Skipped), Disabled
	}
	out, err := s.patiently(ctx, agents[i], reason)
	if err != nil {
		return string(Failed), err.Error()
	}
	return out.Status, out.Reason
}

// patiently is a beat that waits for a busy agent.
func (s *Service) patiently(ctx context.Context, a Agent, reason string) (Outcome, error) {
	began := s.cfg.Now()
	for {
		out, err := s.one(ctx, a, reason)
		if err != nil || out.Reason != InFlight {
			return out, err
		}
		if s.cfg.Now().Sub(began) >= busyWait {
			s.Request(reason)
			return out, nil
		}
		select {
		case <-ctx.Done():
			return Outcome{}, context.Cause(ctx)
		case <-time.After(mergeFor):
		}
	}
}

// Request asks for a beat of all agents soon, for a reason such as "wake" or "hook:<name>". Requests that come
// together become one beat, with the most urgent of their reasons. It does not wait.
func (s *Service) Request(reason string) { s.request("", reason, priorityOf(reason), mergeFor) }

func (s *Service) request(agent, reason string, priority int, after time.Duration) {
	s.mu.Lock()
	if have, ok := s.requests[agent]; (!ok || priority >= have.priority) && (ok || len(s.requests) < maxRequests) {
		s.requests[agent] = request{reason, priority}
	}
	if at := s.cfg.Now().Add(after); s.at.IsZero() || at.Before(s.at) {
		s.at = at
	}
	s.mu.Unlock()
	s.rouse()
}

// The priorities of requests (control-plane.md §3).
const (
	byRetry = iota
	byInterval
	byDefault
	byAction
)

func priorityOf(reason string) int {
	switch {
	case reason == "interval":
		return byInterval
	case reason == "manual", reason == "exec-event", strings.HasPrefix(reason, "hook:"):
		return byAction
	}
	return byDefault
}

// unasked reports whether a beat comes by itself: only such a one looks at what the file asks for first.
func unasked(reason string) bool {
	switch {
	case reason == "wake", reason == "exec-event", strings.HasPrefix(reason, "cron:"), strings.HasPrefix(reason, "hook:"):
		return false
	}
	return true
}

func (s *Service) rouse() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// Changed has the intervals read again: the configuration is another.
func (s *Service) Changed() { s.rouse() }

// Run beats until ctx ends.
func (s *Service) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.kick:
		case <-timer.C:
		}
		s.work(ctx)
		timer.Reset(s.wait())
	}
}

// work does what is due.
func (s *Service) work(ctx context.Context) {
	agents := s.cfg.Agents()
	now := s.cfg.Now()
	s.mu.Lock()
	s.plan(agents, now)
	var asked map[string]request
	if !s.at.IsZero() && !now.Before(s.at) {
		asked, s.requests, s.at = s.requests, map[string]request{}, time.Time{}
	}
	s.mu.Unlock()
	for _, a := range agents {
		reason := ""
		s.mu.Lock()
		next, scheduled := s.due[a.ID]
		s.mu.Unlock()
		if scheduled && !now.Before(next.at) {
			reason = "interval"
		}
		for _, target := range []string{"", a.ID} {
			if r, ok := asked[target]; ok && (reason == "" || r.priority >= priorityOf(reason)) {
				reason = r.reason
			}
		}
		if reason == "" || ctx.Err() != nil {
			continue
		}
		out, err := s.one(ctx, a, reason)
		if err != nil || out.Reason != InFlight { // an error is the end of the daemon
			continue
		}
		s.mu.Lock()
		if d, ok := s.due[a.ID]; ok && !now.Before(d.at) {
			s.due[a.ID] = schedule{d.interval, now.Round(0).Add(retryAfter)}
		}
		s.mu.Unlock()
		if reason != "interval" {
			s.request(a.ID, reason, byRetry, retryAfter)
		}
	}
}

// plan brings the schedule in line with the configuration and the clock. The caller holds mu.
func (s *Service) plan(agents []Agent, now time.Time) {
	for id := range s.due {
		if !slices.ContainsFunc(agents, func(a Agent) bool { return a.ID == id && a.Interval > 0 }) {
			delete(s.due, id)
			delete(s.told, id)
		}
	}
	for _, a := range agents {
		if a.Interval <= 0 {
			continue
		}
		d, ok := s.due[a.ID]
		// One that would be further away than the interval was planned by a clock that was set since.
		if !ok || d.interval != a.Interval || d.at.Sub(now) > a.Interval {
			s.due[a.ID] = schedule{a.Interval, now.Round(0).Add(a.Interval)}
		}
	}
}

// wait is how long there is nothing to do.
func (s *Service) wait() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, d := s.cfg.Now(), maxSleep
	if !s.at.IsZero() {
		d = min(d, s.at.Sub(now))
	}
	for _, next := range s.due {
		d = min(d, next.at.Sub(now))
	}
	return max(d, 0)
}

// one is one beat of one agent. It fails when ctx ends while another beat runs.
func (s *Service) one(ctx context.Context, a Agent, reason string) (Outcome, error) {
	select {
	case s.beat <- struct{}{}:
	case <-ctx.Done():
		return Outcome{}, context.Cause(ctx)
	}
	defer func() { <-s.beat }()
	out := s.attempt(ctx, a, reason)
	// A beat that was held up comes soon; any other waits for the next interval.
	if out.Reason != InFlight && a.Interval > 0 {
		s.mu.Lock()
		s.due[a.ID] = schedule{a.Interval, s.cfg.Now().Round(0).Add(a.Interval)}
		s.mu.Unlock()
		s.rouse()
	}
	return out, nil
}

// attempt asks what speaks against a beat, in the order of the original, and lets the agent take its turn.
func (s *Service) attempt(ctx context.Context, a Agent, reason string) Outcome {
	began := s.cfg.Now()
	skip := func(why string) Outcome { return Outcome{string(Skipped), why} }
	switch {
	case !s.Enabled(), a.Interval <= 0:
		return skip(Disabled)
	case !a.Hours.Contain(began):
		return skip(QuietHours)
	case s.cfg.Busy != nil && s.cfg.Busy(a.ID):
		return skip(InFlight)
	}
	report := func(r Report) {
		took := s.cfg.Now().Sub(began)
		r.At, r.Took = s.cfg.Now(), &took
		s.mu.Lock()
		s.last = &r
		s.mu.Unlock()
		s.cfg.Bus.Publish("heartbeat", r)
	}
	if unasked(reason) && asksNothing(a.Workspace) {
		report(Report{Status: Skipped, Reason: EmptyFile})
		return skip(EmptyFile)
	}
	if s.cfg.Turn == nil {
		report(Report{Status: Skipped, Reason: NoAgents})
		return skip(NoAgents)
	}
	turn, cancel := context.WithTimeout(ctx, maxTurn)
	defer cancel()
	said, err := s.cfg.Turn(turn, TurnIn{Agent: a, Prompt: a.Prompt, Reason: reason, Session: a.Session})
	if err != nil {
		s.cfg.Log.Warn("a heartbeat failed", "agent", a.ID, "reason", reason, "error", err)
		report(Report{Status: Failed, Reason: err.Error(), Indicator: "error"})
		return Outcome{string(Failed), err.Error()}
	}
	report(s.judge(a, said))
	return Outcome{Ran, ""}
}

// judge says what an answer means.
func (s *Service) judge(a Agent, said TurnOut) Report {
	text := strings.TrimSpace(said.Text)
	r := Report{
		Status: Sent, Channel: said.Channel, To: said.To, AccountID: said.AccountID, HasMedia: said.HasMedia,
		Preview: preview(text), Indicator: "alert",
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.told[a.ID]
	switch {
	case text == "" && !said.HasMedia:
		return Report{Status: OKEmpty, Silent: true, Indicator: "ok"}
	case acknowledges(text, a.AckMaxChars) && !said.HasMedia:
		return Report{Status: OKToken, Silent: true, Indicator: "ok"}
	case before.text == text && text != "" && s.cfg.Now().Sub(before.at) < sameFor:
		r.Status, r.Reason, r.Indicator = Skipped, Duplicate, ""
		return r
	case said.Channel == "":
		r.Status, r.Reason, r.Indicator = Skipped, cmp.Or(targetReason(a.Target), NoTarget), ""
	}
	s.told[a.ID] = told{text, s.cfg.Now()}
	return r
}

func targetReason(target string) string {
	if target == "none" {
		return "target-none"
	}
	return ""
}
