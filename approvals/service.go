package approvals

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

// Config is what the service needs.
type Config struct {
	Store Store
	Bus   *events.Bus
	// File is the exec approvals file of the gateway host.
	File  *policy.File
	Nodes NodeFiles
	// Rules decide on runs before anybody is asked; none when nil.
	Rules Rules
	// Standing says whether what let a caller in still does; a grant that a device made ends with it.
	// Nil is always.
	Standing func(identity.Caller) error
	Now      func() time.Time
	Log      *slog.Logger
}

// Service is the approvals domain. Its methods are safe for concurrent use. Run must be running
// for questions to expire.
type Service struct {
	store Store
	bus   *events.Bus
	file  *policy.File
	nodes NodeFiles
	rules Rules
	// standing is Config.Standing.
	standing func(identity.Caller) error
	now      func() time.Time
	log      *slog.Logger

	mu sync.Mutex
	// live holds what is pending or may still be used, and for endedFor what ended.
	live    map[string]*live
	pending int
	grants  grantBook
	results results
	// lost is the runs that an earlier daemon did not record the end of; record alone touches it.
	lost []Audit
	// due is when Run looks next, wake makes it look earlier.
	due  time.Time
	wake chan struct{}
}

// live is an approval in memory. The store is the truth; this is for waiters and for finding what
// expires next.
type live struct {
	a     Approval
	done  chan struct{} // closed when it is not pending any more
	ended time.Time     // zero while it is pending or may be used
}

// New reads the live approvals from the store and returns the service. Pending ones keep their
// ids and their time.
func New(cfg Config) (*Service, error) {
	s := &Service{
		store: cfg.Store, bus: cfg.Bus, file: cfg.File, nodes: cfg.Nodes, rules: cfg.Rules, standing: cfg.Standing,
		now: cfg.Now, log: cfg.Log,
		live: map[string]*live{}, grants: newGrantBook(), wake: make(chan struct{}, 1),
		results: results{wake: make(chan struct{}, 1)},
	}
	if s.rules == nil {
		s.rules = noRules{}
	}
	stored, err := s.store.LiveApprovals()
	if err != nil {
		return nil, err
	}
	for _, a := range stored {
		s.remember(a)
	}
	grants, err := s.store.Grants()
	if err != nil {
		return nil, err
	}
	for _, g := range grants {
		s.grants.put(g, s.now())
	}
	if s.lost, err = s.store.OpenUses(); err != nil {
		return nil, err
	}
	return s, nil
}

// SetNodes wires the nodes, which are made after the approvals that guard them.
func (s *Service) SetNodes(n NodeFiles) { s.nodes = n }

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

func (s *Service) row(kind string, c identity.Caller, a Approval) Audit {
	r := Audit{
		At: s.now(), Kind: kind, Subject: c.Subject(), ApprovalID: a.ID, Command: a.Command,
		Decision: a.Decision,
	}
	if r.Argv, r.BindingHash = a.CommandArgv, bindingHash(a.Binding); a.Plan != nil {
		r.Argv = a.Plan.Argv
	}
	r.NodeID, r.Cwd, r.AgentID, r.SessionKey = text(a.NodeID), text(a.Cwd), text(a.AgentID), text(a.SessionKey)
	return r
}

// Request records a question and tells the approvers (nodes-approvals.md §3.16). It does not
// wait.
func (s *Service) Request(ctx context.Context, c identity.Caller, in RequestIn) (Approval, error) {
	a, err := s.newApproval(c, in)
	if err != nil {
		return Approval{}, err
	}
	if err := s.bind(ctx, &a); err != nil {
		return Approval{}, err
	}
	s.mu.Lock()
	_, taken := s.live[a.ID]
	full := s.pending >= maxPending || !s.makeRoom()
	s.mu.Unlock()
	if taken {
		return Approval{}, ErrTaken.With("id", a.ID)
	}
	if full {
		return Approval{}, ErrTooMany
	}
	t := attemptOf(a, partyOf(c))
	t.signs, t.signed = a.Signs, true
	r := s.rule(t)
	if r.Effect == policy.EffectDeny {
		row := authority{ruling: r}.mark(s.row(AuditRefusal, c, a))
		row.Reason = ErrRuleDenies.Code
		if err := s.store.AppendAudit(ctx, row); err != nil {
			return Approval{}, err
		}
		return Approval{}, deniedBy(r)
	}
	if a.KeyRefused = whyNotKept(a); a.KeyRefused == "" {
		a.Key = t.canon()
		a.KeyRefused = t.keyRefused
		for _, g := range s.covering(&t, r) {
			if a.Binding != nil && !g.sameFiles(a.Binding.Identity) {
				continue // what was allowed is not what would run
			}
			out, err := s.requestAllowed(ctx, c, a, authority{g.ID, r})
			if !errors.Is(err, errGrantGone) {
				return out, asTaken(err, a.ID)
			}
		}
	}
	switch {
	case r.Effect == policy.EffectAllow && len(a.Signs) == 0:
		out, err := s.requestAllowed(ctx, c, a, authority{ruling: r})
		return out, asTaken(err, a.ID)
	case r.Effect != policy.Abstain:
		terms(&a, r)
	}
	row := s.row(AuditRequest, c, a)
	if a.Rule != "" {
		row = authority{ruling: r}.mark(row)
	}
	if err := s.store.CreateApproval(ctx, a, row); err != nil {
		return Approval{}, asTaken(err, a.ID)
	}
	s.update(a)
	s.bus.Publish("exec.approval.requested", Requested{Approval: a})
	return a, nil
}

// asTaken says that an id is taken in our words.
func asTaken(err error, id string) error {
	if err != nil && errs.ClassOf(err) == errs.Exists {
		return ErrTaken.With("id", id)
	}
	return err
}

func requesterOf(c identity.Caller) Requester {
	return Requester{DeviceID: c.DeviceID, ConnID: c.ConnID, Principal: c.Principal, ClientID: c.ClientID, Paired: c.Paired}
}

// newApproval checks a question and fills in the record.
func (s *Service) newApproval(c identity.Caller, in RequestIn) (Approval, error) {
	size := len(in.Command)
	for _, x := range in.CommandArgv {
		size += len(x)
	}
	for k, v := range in.Env {
		size += len(k) + len(v)
	}
	if in.Plan != nil {
		for _, x := range in.Plan.Argv {
			size += len(x)
		}
		for _, x := range []*string{in.Plan.Cwd, in.Plan.RawCommand, in.Plan.AgentID, in.Plan.SessionKey} {
			size += len(text(x))
		}
	}
	for _, x := range []*string{
		in.Cwd, in.NodeID, in.Host, in.Security, in.Ask, in.AgentID, in.ResolvedPath, in.SessionKey,
		in.TurnSource.Channel, in.TurnSource.To, in.TurnSource.AccountID,
	} {
		size += len(text(x))
	}
	if in.Timeout == 0 {
		in.Timeout = DefaultTimeout
	}
	switch {
	case strings.TrimSpace(in.Command) == "" && in.Plan == nil:
		return Approval{}, ErrCommandRequired
	case size > maxCommandBytes:
		return Approval{}, ErrTooLarge
	case len(in.ID) > maxIDBytes:
		return Approval{}, ErrIDTooLong
	case in.Timeout < time.Millisecond || in.Timeout > MaxTimeout:
		return Approval{}, ErrTimeoutRange
	}
	if in.ID = strings.TrimSpace(in.ID); in.ID == "" {
		in.ID = uuid.NewString()
	}
	now := s.now()
	a := Approval{
		ID: in.ID, State: Pending, Command: in.Command, CommandArgv: in.CommandArgv,
		Cwd: in.Cwd, Host: in.Host, Security: in.Security, Ask: in.Ask, AgentID: in.AgentID,
		ResolvedPath: in.ResolvedPath, SessionKey: in.SessionKey, TurnSource: in.TurnSource,
		CreatedAt: now, ExpiresAt: now.Add(in.Timeout),
		Requester: requesterOf(c),
	}
	if in.Host == nil || strings.TrimSpace(*in.Host) != "node" {
		a.Signs = Signs(a.Command, a.CommandArgv)
		return a, nil
	}
	node := trimmed(in.NodeID)
	switch {
	case node == nil:
		return Approval{}, ErrNodeRequired
	case in.Plan == nil || len(in.Plan.Argv) == 0:
		return Approval{}, ErrPlanRequired
	case len(in.CommandArgv) == 0:
		return Approval{}, ErrArgvRequired
	}
	a.NodeID, a.Plan = node, in.Plan
	a.CommandArgv = in.Plan.Argv
	a.Command = policy.FormatArgv(in.Plan.Argv)
	if in.Plan.RawCommand != nil {
		a.Command = *in.Plan.RawCommand
	}
	a.Cwd = or(in.Plan.Cwd, in.Cwd)
	a.AgentID = or(in.Plan.AgentID, in.AgentID)
	a.SessionKey = or(in.Plan.SessionKey, in.SessionKey)
	hash, keys := policy.EnvHash(in.Env)
	a.EnvKeys = keys
	a.Binding = &Binding{Argv: in.Plan.Argv, Cwd: a.Cwd, AgentID: a.AgentID, SessionKey: a.SessionKey, EnvHash: hash}
	a.Signs = Signs(a.Command, a.CommandArgv)
	return a, nil
}

func trimmed(s *string) *string {
	if s == nil {
		return nil
	}
	t := strings.TrimSpace(*s)
	if t == "" {
		return nil
	}
	return &t
}

func or(a, b *string) *string {
	if a != nil {
		return a
	}
	return b
}

// Wait returns when the approval is decided or expired.
func (s *Service) Wait(ctx context.Context, _ identity.Caller, id string) (Approval, error) {
	if id = strings.TrimSpace(id); id == "" {
		return Approval{}, ErrIDRequired
	}
	s.mu.Lock()
	l, ok := s.live[id]
	s.mu.Unlock()
	if !ok {
		return Approval{}, ErrGone.With("id", id)
	}
	select {
	case <-l.done:
	case <-ctx.Done():
		return Approval{}, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return l.a, nil
}

// Resolve answers a pending approval. The first valid answer wins, unless a rule wants several to allow
// it: then their answers are counted, one of each, and the first denial ends it. With a Grant, or with
// AllowAlways, a grant is made in the same moment.
func (s *Service) Resolve(ctx context.Context, c identity.Caller, in ResolveIn) (Approval, error) {
	switch in.Decision {
	case AllowOnce, AllowAlways, Deny:
	default:
		return Approval{}, ErrDecision
	}
	switch {
	case in.ID == "":
		return Approval{}, ErrIDRequired
	case in.Grant != nil && in.Decision != AllowOnce:
		return Approval{}, ErrGrantDecision
	}
	mayGrant := in.Decision == AllowAlways || in.Grant != nil
	if mayGrant {
		if err := s.reserve(c.Subject()); err == nil {
			defer s.release(c.Subject())
		} else if !in.GrantOptional {
			return Approval{}, err
		} else {
			mayGrant = false
		}
	}
	now, me := s.now(), partyOf(c)
	var (
		a       Approval
		g       Grant
		granted bool
	)
	err := s.store.Transact(ctx, func(tx Tx) (err error) {
		granted = false
		if a, err = tx.Approval(in.ID); err != nil {
			return err
		}
		if a.State != Pending || a.over(now) {
			return notPending(a)
		}
		// Who asked may always take it back.
		if err := mayAnswer(a, me, now); err != nil && (in.Decision != Deny || !me.same(a.Requester.party())) {
			return err
		}
		kind, decides := AuditDecision, true
		makers := []Party{me}
		if a.Quorum > 1 && in.Decision != Deny {
			if in.Grant != nil {
				return ErrGrantQuorum
			}
			if slices.ContainsFunc(a.Votes, func(v Vote) bool { return v.Party.same(me) }) {
				return ErrVoted.With("id", a.ID)
			}
		}
		if a.Quorum > 1 {
			a.Votes = append(a.Votes, Vote{Subject: c.Subject(), Name: c.Name(), Decision: in.Decision, At: now, Party: me})
			decides = in.Decision == Deny || len(a.Votes) >= a.Quorum
			makers = nil
			for _, v := range a.Votes {
				makers = append(makers, v.Party)
			}
		}
		if decides {
			a.Decision, a.State = in.Decision, Allowed
			if in.Decision == Deny {
				a.State = Denied
			}
			// What all of them allow is what the most careful of them does.
			if slices.ContainsFunc(a.Votes, func(v Vote) bool { return v.Decision == AllowOnce }) && a.State == Allowed {
				a.Decision = AllowOnce
			}
			a.ResolvedAt, a.ResolvedBy, a.ResolvedBySubject = now, c.Name(), c.Subject()
			if mayGrant && a.State == Allowed && (in.Grant != nil || a.Decision == AllowAlways) {
				ask := GrantIn{Always: true}
				if in.Grant != nil {
					ask = *in.Grant
				}
				if g, err = s.grantFor(c, a, ask, makers); err == nil {
					granted, a.GrantID = true, g.ID
				} else if !in.GrantOptional {
					return err
				}
			}
		} else {
			kind = AuditVote
		}
		row := s.row(kind, c, a)
		if a.Rule != "" {
			row.Rule, row.Where = a.Rule, a.Where
		}
		if !decides {
			row.Decision = in.Decision
		}
		if granted {
			if err := tx.PutGrant(g); err != nil {
				return err
			}
			if err := tx.Audit(s.grantRow(AuditGrant, c.Subject(), g, "made")); err != nil {
				return err
			}
		}
		if err := tx.UpdateApproval(a); err != nil {
			return err
		}
		return tx.Audit(row)
	})
	if err != nil {
		if errs.ClassOf(err) == errs.NotFound && !errors.Is(err, ErrUnknown) {
			return Approval{}, ErrUnknown.With("id", in.ID)
		}
		return Approval{}, err
	}
	s.update(a)
	if a.State == Pending {
		s.bus.Publish("exec.approval.changed", Changed{Approval: a})
		return a, nil
	}
	s.bus.Publish("exec.approval.resolved", Resolved{Approval: a})
	if granted {
		s.tellGrant(g)
	}
	return a, nil
}

// notPending says what became of an approval that can no longer be answered, and by whom.
func notPending(a Approval) error {
	if a.ResolvedAt.IsZero() {
		return ErrUnknown.With("id", a.ID, "state", string(a.State))
	}
	e := ErrUnknown.With("id", a.ID, "state", string(a.State), "decision", string(a.Decision), "resolvedBy", a.ResolvedBy,
		"resolvedBySubject", a.ResolvedBySubject)
	return e.WithText(fmt.Sprintf("%s has answered before: %s", a.ResolvedBy, a.Decision))
}

// mayAnswer refuses who the rule that asks does not name. Names that clients show decide nothing.
func mayAnswer(a Approval, p Party, now time.Time) error {
	named := len(a.Approvers) == 0 || p.in(a.Approvers)
	if !named && !a.EscalateAt.IsZero() && (a.Escalated || !now.Before(a.EscalateAt)) {
		named = p.in(a.EscalateTo)
	}
	switch {
	case !named:
		return byRule(ErrNotApprover, policy.Ruling{Rule: a.Rule, Where: a.Where})
	case a.ExcludeRequester && p.same(a.Requester.party()):
		return byRule(ErrOwnRequest, policy.Ruling{Rule: a.Rule, Where: a.Where})
	}
	return nil
}

// Get returns one approval, also one that ended.
func (s *Service) Get(_ context.Context, _ identity.Caller, id string) (Approval, error) {
	if id == "" {
		return Approval{}, ErrIDRequired
	}
	a, err := s.store.Approval(id)
	if err != nil {
		if errs.ClassOf(err) == errs.NotFound {
			return Approval{}, ErrGone.With("id", id)
		}
		return Approval{}, err
	}
	return a, nil
}

// List returns the pending approvals, oldest first, or with All the recent ones, newest first.
func (s *Service) List(_ context.Context, _ identity.Caller, in ListIn) ([]Approval, error) {
	if in.Like != "" {
		return s.like(in.Like)
	}
	if in.All {
		return s.store.RecentApprovals(MaxListed)
	}
	return s.pendingNow(), nil
}

// like returns earlier approvals of the same program on the same node.
func (s *Service) like(id string) ([]Approval, error) {
	a, err := s.store.Approval(id)
	if err != nil {
		if errs.ClassOf(err) == errs.NotFound {
			return nil, ErrGone.With("id", id)
		}
		return nil, err
	}
	program := programOf(a)
	return s.store.EarlierApprovals(a.CreatedAt, maxLike, scanLike, func(b Approval) bool {
		return b.ID != a.ID && same(a.NodeID, b.NodeID) && programOf(b) == program
	})
}

func (s *Service) pendingNow() []Approval {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Approval
	for _, l := range s.live {
		if l.a.State == Pending && !l.a.over(now) {
			out = append(out, l.a)
		}
	}
	slices.SortFunc(out, func(a, b Approval) int {
		if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out
}

// PendingCount returns how many questions are open.
func (s *Service) PendingCount() int { return len(s.pendingNow()) }

// Watch is a stream of approvals. The reader closes Events.
type Watch struct {
	Pending []Approval
	// Events carries Requested, Changed and Resolved payloads.
	Events *events.Subscription
}

// Watch begins a stream: no change between Pending and Events is lost.
func (s *Service) Watch(_ context.Context, c identity.Caller) (Watch, error) {
	sub := s.bus.Subscribe(func(e events.Event) bool {
		switch e.Payload.(type) {
		case Requested, Resolved, Changed:
			return events.Visible(c, e.Name)
		default:
			return false
		}
	})
	return Watch{Pending: s.pendingNow(), Events: sub}, nil
}

// SetFileIn and SetNodeFileIn are the arguments of SetFile and SetNodeFile. File is the new file
// as JSON text, BaseHash the hash of the version it starts from.
type (
	SetFileIn struct {
		File     []byte
		BaseHash string
	}
	SetNodeFileIn struct {
		NodeID   string
		File     []byte
		BaseHash string
	}
)

// GetFile returns the exec approvals file of the gateway host.
func (s *Service) GetFile(context.Context, identity.Caller) (policy.Snapshot, error) {
	return s.file.Snapshot()
}

// SetFile replaces the exec approvals file of the gateway host. The audit row comes first: a
// change that cannot be recorded does not happen. A second row says what came of it.
func (s *Service) SetFile(ctx context.Context, c identity.Caller, in SetFileIn) (policy.Snapshot, error) {
	row := Audit{At: s.now(), Kind: AuditPolicy, Subject: c.Subject(), Reason: "gateway file"}
	if err := s.intend(ctx, row, in.File, in.BaseHash); err != nil {
		return policy.Snapshot{}, err
	}
	out, err := s.file.Set(in.File, trimmed(&in.BaseHash))
	s.came(ctx, row, out.Hash, err)
	return out, err
}

// intend records that a file is about to be replaced.
func (s *Service) intend(ctx context.Context, row Audit, file []byte, base string) error {
	sum := sha256.Sum256(file)
	row.Detail = "is about to be replaced; SHA-256 of what was sent: " + hex.EncodeToString(sum[:])
	if base != "" {
		row.Detail += "; it starts from the version " + base
	}
	return s.store.AppendAudit(ctx, row)
}

// came records what came of it. The file is outside of the store: when this row cannot be written, the one
// before stands alone, which means that nobody knows.
func (s *Service) came(ctx context.Context, row Audit, hash string, failed error) {
	row.At = s.now()
	switch {
	case failed != nil:
		row.Detail = "was not replaced: " + failed.Error()
	case hash != "":
		row.Detail = "was replaced; its hash is " + hash
	default:
		row.Detail = "was replaced"
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastResults)
	defer cancel()
	if err := s.store.AppendAudit(ctx, row); err != nil {
		s.log.Error("what came of a change of an exec approvals file could not be recorded", "node", row.NodeID, "error", err)
	}
}

// GetNodeFile returns the exec approvals file of a node, as the node gave it: JSON text.
func (s *Service) GetNodeFile(ctx context.Context, _ identity.Caller, nodeID string) ([]byte, error) {
	return s.nodeFile(ctx, nodeID, "system.execApprovals.get", []byte("{}"))
}

// SetNodeFile replaces the exec approvals file of a node.
func (s *Service) SetNodeFile(ctx context.Context, c identity.Caller, in SetNodeFileIn) ([]byte, error) {
	var object map[string]json.RawMessage
	if json.Unmarshal(in.File, &object) != nil || object == nil {
		return nil, policy.ErrInvalid
	}
	params := append([]byte(`{"file":`), in.File...)
	if in.BaseHash != "" {
		hash, err := json.Marshal(in.BaseHash)
		if err != nil {
			return nil, err
		}
		params = append(append(params, `,"baseHash":`...), hash...)
	}
	params = append(params, '}')
	row := Audit{At: s.now(), Kind: AuditPolicy, Subject: c.Subject(), NodeID: in.NodeID, Reason: "node file"}
	if err := s.intend(ctx, row, in.File, in.BaseHash); err != nil {
		return nil, err
	}
	out, err := s.nodeFile(ctx, in.NodeID, "system.execApprovals.set", params)
	s.came(ctx, row, "", err)
	return out, err
}

func (s *Service) nodeFile(ctx context.Context, nodeID, command string, params []byte) ([]byte, error) {
	if nodeID = strings.TrimSpace(nodeID); nodeID == "" {
		return nil, ErrNodeRequired
	}
	answer, err := s.nodes.InvokeInternal(ctx, nodeID, command, params)
	if err != nil {
		return nil, err
	}
	return withoutToken(answer), nil
}

// withoutToken takes the socket token out of a node's answer. Nodes leave it out; one that does
// not must not make it known here.
func withoutToken(answer []byte) []byte {
	var snapshot, file, socket map[string]json.RawMessage
	if json.Unmarshal(answer, &snapshot) != nil || json.Unmarshal(snapshot["file"], &file) != nil ||
		json.Unmarshal(file["socket"], &socket) != nil || socket["token"] == nil {
		return answer
	}
	delete(socket, "token")
	for _, step := range []struct {
		in  map[string]json.RawMessage
		key string
		v   any
	}{{file, "socket", socket}, {snapshot, "file", file}} {
		raw, err := json.Marshal(step.v)
		if err != nil {
			return nil // maps of JSON text always marshal
		}
		step.in[step.key] = raw
	}
	out, err := json.Marshal(snapshot)
	if err != nil {
		return nil
	}
	return out
}
