package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/config"
)

// Reason says in one line why a configuration cannot be in force, and what is wrong with its file. It
// names keys and places and shows no secret.
func Reason(err error) (string, []config.Issue) {
	if invalid, ok := errors.AsType[*config.Invalid](err); ok {
		n := len(invalid.Issues)
		what := "the file does not hold"
		if n > 0 {
			what += ": " + invalid.Issues[0].String()
		}
		if n > 1 {
			what += fmt.Sprintf(" (and %d more)", n-1)
		}
		return what, invalid.Issues
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return first, nil
}

// startable reports whether a daemon would start with a configuration, as far as that can be told.
func startable(c *config.Config) error {
	if c.AuthMode() == "token" && !c.Gateway.Auth.Token.IsSet() {
		return nil // the start makes one
	}
	return c.CheckStart()
}

// reload reads the files and puts into force what they say, as far as that goes without a restart, and
// plans the restart that the rest takes. A configuration that does not hold changes nothing.
func (s *Service) reload(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reloadLocked(ctx)
}

// reloadLocked is reload for who holds s.mu. It returns what it took.
func (s *Service) reloadLocked(ctx context.Context) Plan {
	cur := s.Current()
	next, err := config.Load(s.load)
	s.tellSecrets(ctx, err)
	if err == nil {
		s.follow(next)
		err = startable(next)
	}
	if err != nil {
		s.refuse(err)
		return Plan{}
	}
	src := next.Source()
	switch {
	case same(src, cur.Source()):
		s.settle(nil)
		return Plan{}
	case s.failed != nil && same(src, *s.failed):
		return Plan{} // it was tried
	}
	plan := planBetween(cur, next)
	if plan.Mode == "off" {
		s.await(plan.Changed, "gateway.reload.mode is off: what changed in the configuration counts after a restart")
		return plan
	}
	if plan.Effect == EffectRestart || plan.Mode == "restart" && len(plan.Changed) > 0 {
		if plan.Mode != "hot" {
			s.await(plan.Changed, "the configuration changed; the daemon starts anew")
			plan.Effect = EffectRestart
			s.restart(RestartIn{Reason: "config reload"})
			return plan
		}
		// What is hot comes into force with the rest: nobody reads the rest before a restart.
		s.await(plan.Restart, "gateway.reload.mode is hot: some of what changed in the configuration counts after a restart only")
	}
	s.enforce(next, plan)
	return plan
}

// same reports whether two sources are the same text.
func same(a, b config.Source) bool {
	return a.Exists == b.Exists && bytes.Equal(a.Text, b.Text) && maps.EqualFunc(a.Includes, b.Includes, bytes.Equal)
}

// enforce puts a configuration into force and tells who wants to know.
func (s *Service) enforce(next *config.Config, plan Plan) {
	old := s.cur.Swap(next)
	if plan.Effect != EffectRestart {
		s.settle(next)
	}
	s.tellSubscribers(old, next, plan.Changed)
	s.Kept()
	if len(plan.Changed) > 0 {
		s.cfg.Log.Info("another configuration is in force", "changed", plan.Changed)
	}
	s.publish(plan.Changed, plan.Effect)
}

// tellSubscribers tells who wants to know of one of the paths.
func (s *Service) tellSubscribers(old, next *config.Config, changed []string) {
	s.subsMu.Lock()
	subs := slices.Clone(s.subs)
	s.subsMu.Unlock()
	for _, sub := range subs {
		if touches(changed, sub.prefixes) {
			sub.f(old, next)
		}
	}
}

// refuse notes that the file cannot be in force.
func (s *Service) refuse(err error) {
	what, issues := Reason(err)
	s.seenMu.Lock()
	s.waits = nil
	if strings.HasPrefix(s.fault.What, what+";") {
		s.fault.Issues = issues
		s.seenMu.Unlock()
		return // it has been told, and what is in force instead
	}
	what += "; the configuration before stays in force"
	s.fault = Fault{What: what, Issues: issues, At: s.cfg.Now()}
	s.seenMu.Unlock()
	s.cfg.Log.Warn("the changed configuration is not used", "path", s.load.Path, "why", what)
	s.publish(nil, EffectNone)
}

// settle notes that the file is in force. next is nil when it was before.
func (s *Service) settle(next *config.Config) {
	s.seenMu.Lock()
	had := s.fault.What != ""
	s.fault, s.waits = Fault{}, nil
	s.seenMu.Unlock()
	s.failed = nil
	if had && next == nil {
		s.cfg.Log.Info("the configuration file holds again", "path", s.load.Path)
		s.publish(nil, EffectNone)
	}
}

// await notes what of the file is not in force yet.
func (s *Service) await(paths []string, why string) {
	s.seenMu.Lock()
	s.waits = slices.Clone(paths)
	s.fault = Fault{}
	s.seenMu.Unlock()
	s.cfg.Log.Info(why, "changed", paths)
}

// restart plans a restart. Where nobody starts the daemon again, there is none.
func (s *Service) restart(in RestartIn) Restart {
	if s.cfg.Restarts == nil {
		s.cfg.Log.Warn("the daemon is not started again by itself; start it anew for the configuration to count")
		return Restart{Reason: in.Reason}
	}
	return s.cfg.Restarts.Schedule(in)
}

// begin starts the time to confirm a change, now that it is in force.
func (s *Service) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok, err := LoadPending(s.load.StateDir)
	if err != nil {
		s.cfg.Log.Error("a change of the configuration cannot be undone", "error", err)
	}
	if ok {
		s.note(&p)
	}
	if !ok || err != nil || p.Begun || p.Hash != s.Current().Hash {
		return
	}
	p.Begun, p.Deadline = true, s.cfg.Now().Round(0).Add(p.Window)
	if err := savePending(s.load.StateDir, p); err != nil {
		s.cfg.Log.Warn("the time to confirm the configuration was not begun anew", "error", err)
		return
	}
	s.note(&p)
	s.cfg.Log.Warn("the configuration undoes itself unless somebody confirms it: hanzoctl config confirm", "within", p.Window.String(), "by", p.By)
}

// expireEvery is how often the deadline of a change is looked at, so that a clock that jumps matters
// little.
const expireEvery = 500 * time.Millisecond

// expire undoes the change that nobody confirmed in time.
func (s *Service) expire(ctx context.Context) {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if s.until.Load() == nil {
			continue
		}
		if err := s.lapse(ctx); err != nil {
			s.cfg.Log.Error("the configuration was not undone; it is tried again", "error", err)
		}
	}
}

// lapse undoes the change that waits for an answer when its time is up.
func (s *Service) lapse(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok, err := LoadPending(s.load.StateDir)
	switch {
	case err != nil:
		return err
	case !ok:
		s.note(nil)
		return nil
	case p.left(s.cfg.Now()) > 0:
		return nil
	}
	s.cfg.Log.Warn("nobody confirmed the configuration in time; it is undone", "by", p.By, "at", p.At)
	return s.back(ctx, p, "undone, because nobody confirmed it within "+p.Window.String())
}

// back puts the file of before into place and into force, for who holds s.mu.
func (s *Service) back(ctx context.Context, p Pending, why string) error {
	// The row comes first: what cannot be recorded is not done. A second one after a failed attempt does no harm.
	if err := s.cfg.Record(ctx, Change{At: s.cfg.Now(), By: p.By, What: "the change of the configuration is " + why}); err != nil {
		return err
	}
	if err := undo(s.load.StateDir, p); err != nil {
		return err
	}
	s.note(nil)
	s.failed = nil
	next, err := config.Load(s.load)
	if err == nil {
		err = startable(next)
	}
	if err != nil {
		s.refuse(err) // it is the one that was there before, and fails for another reason now
		return nil
	}
	plan := planBetween(s.Current(), next)
	if plan.Effect == EffectRestart {
		s.await(plan.Changed, "the configuration was undone; the daemon starts anew")
		now := time.Duration(0)
		s.restart(RestartIn{Delay: &now, Reason: "config undone", Urgent: true})
		return nil
	}
	s.enforce(next, plan)
	return nil
}
