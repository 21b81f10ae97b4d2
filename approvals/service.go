package approvals

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	if r, ok := s.nodes.(resolver); ok && in.NodeID != nil {
		id := r.Resolve(c, strings.TrimSpace(*in.NodeID))
		in.NodeID = &id
	}
	a, asked, err := s.newApproval(c, in)
	if err != nil {
		return Approval{}, err
	}
	if !c.SeesNode(text(a.NodeID)) {
		return Approval{}, ErrNodeUnknown.With("node", text(a.NodeID))
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
	r := policy.Ruling{}
	if asked != nil {
		r = s.callRule(*asked, t)
	} else {
		r = s.rule(t)
	}
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
	return Requester{DeviceID: c.DeviceID, ConnID: c.ConnID, Principal: c.Principal, ClientID: c.ClientID, Paired: c.Paired, Tenant: c.Tenant}
}

// newApproval checks a question and fills in the record.
func (s *Service) newApproval(c identity.Caller, in RequestIn) (Approval, *call, error) {
	if in.Call == nil {
		a, err := s.newRunApproval(c, in)
		return a, nil, err
	}
	in.ID = strings.TrimSpace(in.ID)
	if in.Timeout == 0 {
		in.Timeout = DefaultTimeout
	}
	switch {
	case len(in.ID) > maxIDBytes:
		return Approval{}, nil, ErrIDTooLong
	case in.Timeout < time.Millisecond || in.Timeout > MaxTimeout:
		return Approval{}, nil, ErrTimeoutRange
	}
	a, asked, err := s.newCallApproval(c, in)
	return a, &asked, err
}

// newRunApproval is newApproval of a question about a run.
func (s *Service) newRunApproval(c identity.Caller, in RequestIn) (Approval, error) {
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
func (s *Service) Wait(ctx context.Context, c identity.Caller, id string) (Approval, error) {
	if id = strings.TrimSpace(id); id == "" {
		return Approval{}, ErrIDRequired
	}
	s.mu.Lock()
	l, ok := s.live[id]
	ok = ok && c.Decides(l.a.tenant())
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
		if !c.Decides(a.tenant()) {
			return ErrUnknown.With("id", in.ID)
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
func (s *Service) Get(_ context.Context, c identity.Caller, id string) (Approval, error) {
	if id == "" {
		return Approval{}, ErrIDRequired
	}
	a, err := s.store.Approval(id)
	if err == nil && !c.Decides(a.tenant()) {
		err = ErrUnknown
	}
	if err != nil {
		if errs.ClassOf(err) == errs.NotFound {
			return Approval{}, ErrGone.With("id", id)
		}
		return Approval{}, err
	}
	return a, nil
}

// List returns the pending approvals, oldest first, or with All the recent ones, newest first.
func (s *Service) List(_ context.Context, c identity.Caller, in ListIn) (all []Approval, err error) {
	switch {
	case in.Like != "":
		all, err = s.like(c, in.Like)
	case in.All:
		all, err = s.store.RecentApprovals(MaxListed)
	default:
		all = s.pendingNow()
	}
	return seen(c, all), err
}

// seen leaves out what is of other tenants.
func seen(c identity.Caller, all []Approval) []Approval {
	if c.Tenant == "" {
		return all
	}
	return slices.DeleteFunc(all, func(a Approval) bool { return !c.Decides(a.tenant()) })
}

// like returns earlier approvals of the same program on the same node.
func (s *Service) like(c identity.Caller, id string) ([]Approval, error) {
	a, err := s.store.Approval(id)
	if err == nil && !c.Decides(a.tenant()) {
		err = ErrUnknown
	}
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
			return events.Visible(c, e.Name) && events.Concerns(c, e.Payload)
		default:
			return false
		}
	})
	return Watch{Pending: seen(c, s.pendingNow()), Events: sub}, nil
}
