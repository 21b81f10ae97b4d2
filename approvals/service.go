package approvals

import (
	"context"
	"encoding/json"
	"errors"
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
	Now   func() time.Time
	Log   *slog.Logger
}

// Service is the approvals domain. Its methods are safe for concurrent use. Run must be running
// for questions to expire.
type Service struct {
	store Store
	bus   *events.Bus
	file  *policy.File
	nodes NodeFiles
	rules Rules
	now   func() time.Time
	log   *slog.Logger

	mu sync.Mutex
	// live holds what is pending or may still be used, and for endedFor what ended.
	live    map[string]*live
	pending int
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
		store: cfg.Store, bus: cfg.Bus, file: cfg.File, nodes: cfg.Nodes, rules: cfg.Rules, now: cfg.Now, log: cfg.Log,
		live: map[string]*live{}, wake: make(chan struct{}, 1),
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
	} else if progress(a.State) < progress(l.a.State) {
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

// progress orders the states: an approval never goes back.
func progress(s State) int {
	switch s {
	case Pending:
		return 0
	case Allowed:
		return 1
	default:
		return 2
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

// until is when something has to be done about it: an approval that was not answered or used
// expires, an ended one is forgotten. A used one is known for as long as it stood.
func (l *live) until() time.Time {
	if l.ended.IsZero() {
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
	for id, l := range s.live {
		until := l.until()
		switch {
		case l.ended.IsZero() && l.a.over(now):
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
		a, err := s.store.UpdateApproval(ctx, id, func(a *Approval) (Audit, error) {
			if a.State != Pending && a.State != Allowed {
				return Audit{}, errNoChange
			}
			a.State = Expired
			return s.row("expiry", identity.Internal(), *a), nil
		})
		if err != nil && !errors.Is(err, errNoChange) {
			if ctx.Err() == nil {
				s.log.Error("an approval could not be expired", "approval", id, "error", err)
			}
			// It is past its time all the same: every use checks the time itself.
			next = min(next, time.Second)
			continue
		}
		if err == nil {
			s.mu.Lock()
			s.remember(a)
			s.mu.Unlock()
			next = min(next, endedFor)
		}
	}
	next = max(next, time.Millisecond)
	s.mu.Lock()
	s.due = s.now().Add(next)
	s.mu.Unlock()
	return next
}

// errNoChange stops a store update that has nothing to do.
var errNoChange = errors.New("no change")

func (s *Service) row(kind string, c identity.Caller, a Approval) Audit {
	r := Audit{
		At: s.now(), Kind: kind, Subject: c.Subject(), ApprovalID: a.ID, Command: a.Command,
		Decision: a.Decision,
	}
	if a.NodeID != nil {
		r.NodeID = *a.NodeID
	}
	return r
}

// Request records a question and tells the approvers (nodes-approvals.md §3.16). It does not
// wait.
func (s *Service) Request(ctx context.Context, c identity.Caller, in RequestIn) (Approval, error) {
	a, err := s.newApproval(c, in)
	if err != nil {
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
	if err := s.store.CreateApproval(ctx, a, s.row("request", c, a)); err != nil {
		if errs.ClassOf(err) == errs.Exists {
			return Approval{}, ErrTaken.With("id", a.ID)
		}
		return Approval{}, err
	}
	s.update(a)
	s.bus.Publish("exec.approval.requested", Requested{Approval: a})
	return a, nil
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
		Requester: Requester{
			DeviceID: c.DeviceID, ConnID: c.ConnID, Principal: c.Principal, ClientID: c.ClientID,
		},
	}
	if in.Host == nil || strings.TrimSpace(*in.Host) != "node" {
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

// Resolve decides a pending approval. The first valid answer wins.
func (s *Service) Resolve(ctx context.Context, c identity.Caller, in ResolveIn) (Approval, error) {
	switch in.Decision {
	case AllowOnce, AllowAlways, Deny:
	default:
		return Approval{}, ErrDecision
	}
	if in.ID == "" {
		return Approval{}, ErrIDRequired
	}
	now := s.now()
	a, err := s.store.UpdateApproval(ctx, in.ID, func(a *Approval) (Audit, error) {
		if a.State != Pending || a.over(now) {
			return Audit{}, ErrUnknown.With("id", in.ID, "state", string(a.State), "resolvedBy", a.ResolvedBy)
		}
		a.Decision, a.State = in.Decision, Allowed
		if in.Decision == Deny {
			a.State = Denied
		}
		a.ResolvedAt, a.ResolvedBy, a.ResolvedBySubject = now, c.Name(), c.Subject()
		return s.row("decision", c, *a), nil
	})
	if err != nil {
		if errs.ClassOf(err) == errs.NotFound && !errors.Is(err, ErrUnknown) {
			return Approval{}, ErrUnknown.With("id", in.ID)
		}
		return Approval{}, err
	}
	s.update(a)
	s.bus.Publish("exec.approval.resolved", Resolved{Approval: a})
	return a, nil
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
	if in.All {
		return s.store.RecentApprovals(MaxListed)
	}
	return s.pendingNow(), nil
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
	// Events carries Requested and Resolved payloads.
	Events *events.Subscription
}

// Watch begins a stream: no change between Pending and Events is lost.
func (s *Service) Watch(_ context.Context, c identity.Caller) (Watch, error) {
	sub := s.bus.Subscribe(func(e events.Event) bool {
		switch e.Payload.(type) {
		case Requested, Resolved:
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
// change that cannot be recorded does not happen.
func (s *Service) SetFile(ctx context.Context, c identity.Caller, in SetFileIn) (policy.Snapshot, error) {
	if err := s.store.AppendAudit(ctx, Audit{At: s.now(), Kind: "policy", Subject: c.Subject(), Reason: "gateway file"}); err != nil {
		return policy.Snapshot{}, err
	}
	return s.file.Set(in.File, trimmed(&in.BaseHash))
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
	row := Audit{At: s.now(), Kind: "policy", Subject: c.Subject(), NodeID: in.NodeID, Reason: "node file"}
	if err := s.store.AppendAudit(ctx, row); err != nil {
		return nil, err
	}
	return s.nodeFile(ctx, in.NodeID, "system.execApprovals.set", params)
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
