package approvals

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/identity"
)

// live is an approval in memory. The store is the truth; this is for waiters and for finding what
// expires next.
type live struct {
	a     Approval
	done  chan struct{} // closed when it is not pending any more
	ended time.Time     // zero while it is pending or may be used
}

// remember puts an approval into memory as it stands and wakes those who wait for it. The caller
// holds mu, or is New.
func (s *Service) remember(a Approval) {
	l, ok := s.live[a.ID]
	if !ok {
		l = &live{done: make(chan struct{})}
		s.live[a.ID] = l
	} else if progress(a) < progress(l.a) {
		return // a later change was quicker to get here
	}
	if ok && l.a.State == Pending {
		s.pending--
	}
	if a.State == Pending {
		s.pending++
	}
	l.a = a
	if a.State != Pending {
		select {
		case <-l.done:
		default:
			close(l.done)
		}
	}
	if l.ended.IsZero() && (a.State == Denied || a.State == Expired || a.State == Consumed) {
		l.ended = s.now()
	}
}

// progress orders the forms of an approval: it never goes back.
func progress(a Approval) int {
	switch a.State {
	case Pending:
		n := len(a.Votes)
		if a.Escalated {
			n++
		}
		return n
	case Allowed:
		return maxVotes + 2 + a.Uses
	default:
		return math.MaxInt
	}
}

func (s *Service) update(a Approval) {
	s.mu.Lock()
	s.remember(a)
	early := s.live[a.ID].until().Before(s.due)
	s.mu.Unlock()
	if early {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// escalates reports whether others are still to be asked as well.
func (a Approval) escalates() bool {
	return a.State == Pending && !a.EscalateAt.IsZero() && !a.Escalated
}

// until is when something has to be done about it: others are asked, an approval that was not answered
// or used expires, an ended one is forgotten. A used one is known for as long as it stood.
func (l *live) until() time.Time {
	if l.ended.IsZero() {
		if l.a.escalates() && l.a.EscalateAt.Before(l.a.ExpiresAt) {
			return l.a.EscalateAt
		}
		return l.a.ExpiresAt
	}
	until := l.ended.Add(endedFor)
	if l.a.State == Consumed && l.a.ExpiresAt.After(until) {
		return l.a.ExpiresAt
	}
	return until
}

// makeRoom forgets the oldest ended approvals when there are too many, and says whether there is
// room for one more. The caller holds mu.
func (s *Service) makeRoom() bool {
	if len(s.live) < maxLive {
		return true
	}
	var ended []*live
	for _, l := range s.live {
		if !l.ended.IsZero() {
			ended = append(ended, l)
		}
	}
	slices.SortFunc(ended, func(a, b *live) int { return a.ended.Compare(b.ended) })
	for _, l := range ended[:(len(ended)+1)/2] {
		delete(s.live, l.a.ID)
	}
	return len(s.live) < maxLive
}

// Run expires questions that nobody answered, records how runs ended and sweeps old records, until ctx
// ends and what ended before is recorded.
func (s *Service) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.record(ctx) })
	prune := s.now()
	for {
		next := s.expire(ctx)
		if now := s.now(); now.Sub(prune) >= 0 {
			prune = now.Add(pruneEvery)
			if _, err := s.store.PruneApprovals(ctx, now.Add(-keepEnded), keepMax); err != nil && ctx.Err() == nil {
				s.log.Warn("old approvals could not be removed", "error", err)
			}
			if _, err := s.store.PruneGrants(ctx, now, now.Add(-keepGrants), keepGrantsMax); err != nil && ctx.Err() == nil {
				s.log.Warn("old grants could not be removed", "error", err)
			}
			if _, err := s.store.PruneAudit(ctx, now); err != nil && ctx.Err() == nil {
				s.log.Warn("old rows of the audit log could not be removed", "error", err)
			}
		}
		timer := time.NewTimer(min(next, pruneEvery))
		select {
		case <-timer.C:
		case <-s.wake:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// expire ends what is due and returns how long until something is due again.
func (s *Service) expire(ctx context.Context) time.Duration {
	now := s.now()
	next := pruneEvery
	var due []string
	s.mu.Lock()
	// What comes while this looks and writes makes Run look again: next does not count it.
	s.due = now.Add(2 * MaxTimeout)
	for id, l := range s.live {
		until := l.until()
		switch {
		case l.ended.IsZero() && l.a.over(now), l.a.escalates() && !now.Before(l.a.EscalateAt):
			due = append(due, id)
		case until.After(now):
			next = min(next, until.Sub(now))
		case l.ended.IsZero():
			due = append(due, id)
		default:
			delete(s.live, id)
		}
	}
	if len(s.live) > maxPending {
		next = max(next, sweepGap)
	}
	s.mu.Unlock()
	for _, id := range due {
		if err := s.end(ctx, id, now); err != nil {
			if ctx.Err() == nil {
				s.log.Error("an approval could not be expired", "approval", id, "error", err)
			}
			// It is past its time all the same: every use checks the time itself.
			next = min(next, time.Second)
			continue
		}
		next = min(next, endedFor)
		s.mu.Lock()
		if l, ok := s.live[id]; ok { // what was done may leave something to do earlier
			next = min(next, l.until().Sub(now))
		}
		s.mu.Unlock()
	}
	next = max(next, time.Millisecond)
	s.mu.Lock()
	s.due = s.now().Add(next)
	s.mu.Unlock()
	return next
}

// end does what is due with an approval: others are asked, or its time is up, and the rule that asked
// says what that means.
func (s *Service) end(ctx context.Context, id string, now time.Time) error {
	escalated, unanswered := false, false
	a, err := s.store.UpdateApproval(ctx, id, func(a *Approval) (Audit, error) {
		unanswered = a.State == Pending
		by := authority{ruling: policy.Ruling{Rule: a.Rule, Where: a.Where}}
		escalated = a.escalates() && !now.Before(a.EscalateAt) && !a.over(now)
		switch {
		case escalated:
			a.Escalated = true
			row := by.mark(s.row(AuditEscalation, identity.Internal(), *a))
			row.Detail = cutText(strings.Join(a.EscalateTo, ", "), maxKeyBytes)
			return row, nil
		case a.State != Pending && a.State != Allowed || !a.over(now) && now.Before(a.ExpiresAt):
			return Audit{}, errNoChange
		case a.State == Pending && a.OnTimeout == Deny:
			by.allow(a, now)
			a.State, a.Decision = Denied, Deny
		case a.State == Pending && a.OnTimeout == AllowOnce && !now.Before(a.ExpiresAt) && now.Before(a.ExpiresAt.Add(graceUse)):
			// Its requester waits and needs a moment to run it. A daemon that was away for longer lets
			// nothing run that nobody waits for any more.
			by.allow(a, now)
			a.ExpiresAt = now.Add(graceUse)
		default:
			a.State = Expired
			return s.row(AuditExpiry, identity.Internal(), *a), nil
		}
		row := by.mark(s.row(AuditDecision, identity.Internal(), *a))
		row.Subject, row.Reason = a.ResolvedBySubject, "timeout"
		return row, nil
	})
	switch {
	case errors.Is(err, errNoChange):
		return nil
	case err != nil:
		return err
	}
	s.update(a)
	switch {
	case escalated, a.State == Expired && unanswered: // legacy clients know the time (nodes-approvals.md §3.16)
		s.bus.Publish("exec.approval.changed", Changed{Approval: a})
	case a.State == Expired: // its answer was told
	default:
		s.bus.Publish("exec.approval.resolved", Resolved{Approval: a})
	}
	return nil
}

// errNoChange stops a store update that has nothing to do.
var errNoChange = errors.New("no change")
