package runs

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

// Config is what the service needs.
type Config struct {
	Store     Store
	Nodes     Nodes
	Approvals Approvals
	// Standing says whether what let a caller in still does.
	Standing func(identity.Caller) error
	Bus      *events.Bus
	Now      func() time.Time
	Log      *slog.Logger
}

// Service is the runs domain. Its methods are safe for concurrent use.
type Service struct {
	store     Store
	nodes     Nodes
	approvals Approvals
	standing  func(identity.Caller) error
	bus       *events.Bus
	now       func() time.Time
	log       *slog.Logger

	// life ends when the service stops; what is parked then stays so on disk.
	life context.Context //nolint:containedctx // the service's own
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	live    map[string]*live // by id, those of Start that have not ended
	before  []*live          // of live, those that New found
	foreign map[string]*live // by id, those of other doors
	invokes map[string]*live // by invoke, those that are on a node
	each    map[string]int   // of live, by subject
	begins  int              // of live, those that are being written
	bytes   int              // of live
	waiters int
	tails   int
	ended   int           // since the last look at what is kept
	full    chan struct{} // has room for one: enough have ended to look again
}

// live is a run in memory. The store is the truth of what has a State; this is for those who wait.
type live struct {
	mu sync.Mutex
	// run has no values of the environment once they are not needed, and its output once it has ended.
	run     Run
	version int // of run
	changed chan struct{}
	tail    *tail // nil before the first output, and when there are too many
	// left says that the command went to the node, invokeID as which invoke. It is never taken back.
	left     bool
	invokeID string
	// killer is who ended it before it left, killed that somebody did; leave ends what it waits for.
	killer identity.Caller
	killed bool
	leave  context.CancelFunc
	forget time.Time // of a foreign run that has ended
	size   int       // as counted
}

func newLive(r Run) *live {
	return &live{run: r, changed: make(chan struct{}), leave: func() {}, size: size(r)}
}

// tell wakes those who wait. The caller holds mu.
func (l *live) tell() {
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *live) set(change func(*Run)) Run {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.run)
	l.version++
	l.tell()
	return shown(l.run)
}

func (l *live) get() Run {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.run
}

// shown is a run without the values of its environment.
func shown(r Run) Run {
	r.Env = nil
	return r
}

// New reads the runs that have not ended. Run takes them up.
func New(cfg Config) (*Service, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	//nolint:contextcheck // the service's own lifetime, ended by Run
	life, stop := context.WithCancel(context.Background())
	s := &Service{
		store: cfg.Store, nodes: cfg.Nodes, approvals: cfg.Approvals, standing: cfg.Standing, bus: cfg.Bus, now: cfg.Now, log: cfg.Log,
		life: life, stop: stop, live: map[string]*live{}, foreign: map[string]*live{}, invokes: map[string]*live{}, each: map[string]int{},
		full: make(chan struct{}, 1),
	}
	all, err := s.store.Runs()
	if err != nil {
		stop()
		return nil, err
	}
	for _, r := range all {
		if !r.State.Ended() {
			l := newLive(r)
			s.live[r.ID] = l
			s.before = append(s.before, l)
			s.count(r, 1, l.size)
		}
	}
	return s, nil
}

// Run takes up the runs of before and looks after all until ctx ends. It returns when no goroutine of
// the service is left; what is parked is on disk.
func (s *Service) Run(ctx context.Context) {
	s.mu.Lock()
	for _, l := range s.before {
		s.wg.Go(func() { s.drive(l, true) })
	}
	s.before = nil
	s.mu.Unlock()
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	sweep := time.NewTicker(foreignFor / 4)
	defer sweep.Stop()
	s.prune(ctx)
	for {
		select {
		case <-tick.C:
			s.prune(ctx)
		case <-s.full:
			s.prune(ctx)
		case <-sweep.C:
			s.forget()
		case <-ctx.Done():
			s.mu.Lock()
			s.closed = true
			s.mu.Unlock()
			s.stop()
			s.wg.Wait()
			return
		}
	}
}

func (s *Service) prune(ctx context.Context) {
	if _, err := s.store.PruneRuns(ctx, s.now().Add(-keepFor), keepMax, keepBytes); err != nil && ctx.Err() == nil {
		s.log.Warn("old runs could not be removed", "error", err)
	}
}

// Start begins a run and returns when it is on disk. The same call again is the same run.
func (s *Service) Start(ctx context.Context, c identity.Caller, in StartIn) (Run, error) {
	r, err := s.newRun(c, in)
	if err != nil {
		return Run{}, err
	}
	if known, err := s.store.Run(r.ID); err == nil {
		return again(known, r)
	} else if errs.ClassOf(err) != errs.NotFound {
		return Run{}, err
	}
	subject := c.Subject()
	s.mu.Lock()
	switch {
	case s.closed:
		err = ErrStop
	case len(s.live)+s.begins >= maxLive:
		err = ErrTooMany
	case s.bytes+size(r) > maxLiveBytes:
		err = ErrTooMany
	case s.each[subject] >= maxLiveEach:
		err = ErrTooManyMine
	default:
		s.begins++
		s.count(r, 1, size(r))
		s.wg.Add(1) // Run must not return while this writes
	}
	s.mu.Unlock()
	if err != nil {
		return Run{}, err
	}
	defer s.wg.Done()
	// It goes on when the caller goes away: what is on disk must have somebody who looks after it.
	err = s.store.CreateRun(context.WithoutCancel(ctx), r)
	s.mu.Lock()
	s.begins--
	if err != nil {
		s.count(r, -1, size(r))
		s.mu.Unlock()
		if errs.ClassOf(err) == errs.Exists {
			if known, kerr := s.store.Run(r.ID); kerr == nil {
				return again(known, r)
			}
		}
		return Run{}, err
	}
	l := newLive(r)
	s.live[r.ID] = l
	s.wg.Go(func() { s.drive(l, false) })
	s.mu.Unlock()
	s.bus.Publish("run.changed", Changed{shown(r)})
	return shown(r), nil
}

// count takes a run in, or out with -1. The caller holds mu, or is New.
func (s *Service) count(r Run, n, size int) {
	subject := r.Requester.Caller().Subject()
	if s.each[subject] += n; s.each[subject] <= 0 {
		delete(s.each, subject)
	}
	s.bytes += n * size
}

// size is about what a run takes while it waits.
func size(r Run) int {
	n := len(r.Cwd) + len(r.AgentID) + len(r.SessionKey)
	for _, a := range r.Argv {
		n += len(a) + 1
	}
	for k, v := range r.Env {
		n += len(k) + len(v) + 2
	}
	return n
}

// again is the answer to a call that has the id of a run that is there.
func again(known, asked Run) (Run, error) {
	if !sameOwner(known.Requester, asked.Requester) || known.NodeID != asked.NodeID || !slices.Equal(known.Argv, asked.Argv) ||
		known.Cwd != asked.Cwd || known.AgentID != asked.AgentID || known.SessionKey != asked.SessionKey ||
		!slices.Equal(known.EnvKeys, asked.EnvKeys) || (known.Env != nil && !maps.Equal(known.Env, asked.Env)) {
		return Run{}, ErrTaken
	}
	return shown(known), nil
}

func sameOwner(a, b Requester) bool {
	if a.DeviceID != "" || b.DeviceID != "" {
		return a.DeviceID == b.DeviceID
	}
	return a.Principal != "" && a.Principal == b.Principal
}

// newRun checks what is asked for and makes the record.
func (s *Service) newRun(c identity.Caller, in StartIn) (Run, error) {
	in.NodeID = s.nodes.Resolve(c, strings.TrimSpace(in.NodeID))
	size := len(in.Cwd) + len(in.AgentID) + len(in.SessionKey)
	valid := utf8.ValidString(in.Cwd) && utf8.ValidString(in.AgentID) && utf8.ValidString(in.SessionKey)
	for _, a := range in.Argv {
		size += len(a) + 1
		valid = valid && utf8.ValidString(a)
	}
	for k, v := range in.Env {
		size += len(k) + len(v) + 2
		valid = valid && utf8.ValidString(k) && utf8.ValidString(v)
	}
	switch {
	case in.NodeID == "":
		return Run{}, ErrNode
	case !c.SeesNode(in.NodeID):
		return Run{}, ErrNodeUnknown
	case len(in.Argv) == 0 || in.Argv[0] == "":
		return Run{}, ErrArgv
	case !valid || !utf8.ValidString(in.NodeID):
		return Run{}, ErrText
	case size > maxBytes || len(in.NodeID) > maxBytes:
		return Run{}, ErrTooLarge
	case !validID(in.ID):
		return Run{}, ErrID
	case in.Timeout < 0 || in.Timeout > maxTimeout || in.ApprovalTimeout < 0 || in.ApprovalTimeout > maxApprovalTimeout ||
		in.WaitForNode < 0 || in.WaitForNode > maxNodeWait:
		return Run{}, ErrTimes
	}
	if in.ID == "" {
		in.ID = uuid.NewString()
	}
	r := Run{
		ID: in.ID, State: Preparing, NodeID: in.NodeID, Argv: in.Argv, Cwd: in.Cwd, AgentID: in.AgentID, SessionKey: in.SessionKey,
		Command: strings.Join(in.Argv, " "), Requester: requesterOf(c), Timeout: in.Timeout,
		ApprovalTimeout: in.ApprovalTimeout, WaitForNode: in.WaitForNode, CreatedAt: s.now(),
	}
	if len(in.Env) > 0 {
		r.Env = maps.Clone(in.Env)
		r.EnvKeys = slices.Sorted(maps.Keys(in.Env))
	}
	return r, nil
}

func validID(id string) bool {
	return len(id) <= maxIDBytes && !strings.ContainsFunc(id, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '-' && r != '_' && r != '.'
	})
}

// sees reports whether a caller may see and end a run: with the scope for writing its own, with the one
// for approvals any.
func sees(c identity.Caller, r Run) bool {
	if !c.Decides(r.tenant()) {
		return false
	}
	return c.Has(identity.ScopeApprovals) || c.Has(identity.ScopeWrite) && sameOwner(r.Requester, requesterOf(c))
}

// mayAsk refuses callers who can see no run at all.
func mayAsk(c identity.Caller) error {
	if c.Has(identity.ScopeApprovals) || c.Has(identity.ScopeWrite) {
		return nil
	}
	return ErrScope
}

// find returns a run that is in memory.
func (s *Service) find(id string) (*live, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.live[id]
	if !ok {
		l, ok = s.foreign[id]
	}
	return l, ok
}

// Get returns a run, with its output once it has ended. Who may not see it is told that there is none.
func (s *Service) Get(_ context.Context, c identity.Caller, id string) (Run, error) {
	if err := mayAsk(c); err != nil {
		return Run{}, err
	}
	if l, ok := s.find(id); ok {
		if r := shown(l.get()); sees(c, r) {
			return r, nil
		}
		return Run{}, ErrUnknown
	}
	r, err := s.store.Run(id)
	switch {
	case err != nil && errs.ClassOf(err) == errs.NotFound:
		return Run{}, ErrUnknown
	case err != nil:
		return Run{}, err
	case !sees(c, r):
		return Run{}, ErrUnknown
	}
	return shown(r), nil
}

// List returns runs that the caller may see, newest first, without their output.
func (s *Service) List(_ context.Context, c identity.Caller, in ListIn) ([]Run, error) {
	if err := mayAsk(c); err != nil {
		return nil, err
	}
	limit := in.Limit
	if limit <= 0 {
		limit = DefaultListed
	}
	limit = min(limit, MaxListed)
	stored, err := s.store.Runs()
	if err != nil {
		return nil, err
	}
	all := make(map[string]Run, len(stored))
	for _, r := range stored {
		all[r.ID] = r
	}
	s.mu.Lock()
	lives := slices.AppendSeq(slices.Collect(maps.Values(s.live)), maps.Values(s.foreign))
	s.mu.Unlock()
	for _, l := range lives { // they know more than what is on disk
		r := l.get()
		if r.Result != nil {
			res := *r.Result
			res.Stdout, res.Stderr = "", ""
			r.Result = &res
		}
		all[r.ID] = r
	}
	var out []Run
	for _, r := range all {
		if sees(c, r) && (!in.Live || !r.State.Ended()) && (in.NodeID == "" || r.NodeID == in.NodeID) &&
			(len(in.States) == 0 || slices.Contains(in.States, r.State)) {
			out = append(out, shown(r))
		}
	}
	slices.SortFunc(out, func(a, b Run) int {
		if n := b.CreatedAt.Compare(a.CreatedAt); n != 0 {
			return n
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out[:min(len(out), limit)], nil
}

// Wait returns a run when it has ended.
func (s *Service) Wait(ctx context.Context, c identity.Caller, id string) (Run, error) {
	w, err := s.Watch(ctx, c, id)
	if err != nil {
		return Run{}, err
	}
	defer w.Close()
	w.quiet = true
	for {
		u, err := w.Next(ctx)
		if err != nil {
			return Run{}, err
		}
		if u.Run != nil && u.Run.State.Ended() {
			return *u.Run, nil
		}
	}
}

// Count returns how many runs have not ended.
func (s *Service) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.live)
}

// Kill ends a run: one that has not left never does, one that is on a node is killed there. It returns
// the run as it stands then; how it ends is told as of any run.
func (s *Service) Kill(ctx context.Context, c identity.Caller, id string) (Run, error) {
	if err := mayAsk(c); err != nil {
		return Run{}, err
	}
	l, ok := s.find(id)
	if !ok {
		r, err := s.Get(ctx, c, id)
		if err != nil {
			return Run{}, err
		}
		return shown(r), ErrEnded
	}
	r := l.get()
	switch {
	case !sees(c, r):
		return Run{}, ErrUnknown
	case r.State.Ended():
		return shown(r), ErrEnded
	}
	// The row comes first: what cannot be recorded does not happen.
	row := Audit{At: s.now(), Kind: "kill", Subject: c.Subject(), RunID: id, ApprovalID: r.ApprovalID, NodeID: r.NodeID, Command: r.Command, Argv: r.Argv}
	if err := s.record(ctx, r, row); err != nil {
		return Run{}, err
	}
	l.mu.Lock()
	left, invoke, before := l.left, l.invokeID, l.run.KilledBy
	switch {
	case left:
		l.run.KilledBy = first(before, killerName(c)) // the answer of the command may come before that of the node
	case !l.killed:
		l.killed, l.killer = true, c
		l.leave()
	}
	l.mu.Unlock()
	if left {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
		defer cancel()
		if err := s.nodes.Kill(ctx, r.NodeID, invoke, id, killerName(c)); err != nil {
			l.mu.Lock()
			if !l.run.State.Ended() {
				l.run.KilledBy = before
			}
			l.mu.Unlock()
			return Run{}, err
		}
		return l.set(func(*Run) {}), nil
	}
	return shown(l.get()), nil
}

func killerName(c identity.Caller) string {
	if name, subject := c.Name(), c.Subject(); name != "" && name != subject {
		return name + " (" + subject + ")"
	}
	return c.Subject()
}

// record writes an audit row. For a run that is stored it goes with the record.
func (s *Service) record(ctx context.Context, r Run, row Audit) error {
	if r.Foreign {
		return s.store.AppendRunAudit(context.WithoutCancel(ctx), row)
	}
	_, err := s.store.UpdateRun(context.WithoutCancel(ctx), r.ID, func(stored *Run) (*Audit, error) {
		if stored.State.Ended() {
			return nil, ErrEnded
		}
		return &row, nil
	})
	return err
}

// Update is one thing that a watcher is told: the run, or something that it wrote.
type Update struct {
	Run    *Run
	Output *Chunk
}

// Watcher follows a run. One goroutine uses it; it must be closed.
type Watcher struct {
	s       *Service
	l       *live // nil for a run that has ended
	run     *Run  // to be told
	version int
	next    int // number of the next chunk
	quiet   bool
	ended   bool
	once    sync.Once
}

// Watch begins to follow a run.
func (s *Service) Watch(ctx context.Context, c identity.Caller, id string) (*Watcher, error) {
	if err := mayAsk(c); err != nil {
		return nil, err
	}
	s.mu.Lock()
	if s.waiters >= maxWaiters {
		s.mu.Unlock()
		return nil, ErrWaiters
	}
	s.waiters++
	s.mu.Unlock()
	w := &Watcher{s: s, version: -1}
	l, ok := s.find(id)
	if ok && sees(c, l.get()) {
		w.l = l
		return w, nil
	}
	r, err := s.Get(ctx, c, id)
	if err != nil {
		w.Close()
		return nil, err
	}
	w.run = &r
	return w, nil
}

// Close ends it.
func (w *Watcher) Close() {
	w.once.Do(func() {
		w.s.mu.Lock()
		defer w.s.mu.Unlock()
		w.s.waiters--
	})
}

// errOver says that nothing more comes.
var errOver = errors.New("the run has ended")

// IsOver reports whether an error of Next says that all was told.
func IsOver(err error) bool { return errors.Is(err, errOver) }

// Next waits for the next update: the run first, then its changes and its output as they come, at last
// the run with its result. It fails with the cause of ctx, with ErrStop, or as IsOver says.
func (w *Watcher) Next(ctx context.Context) (Update, error) {
	if w.ended {
		return Update{}, errOver
	}
	if w.l == nil {
		w.ended = true
		return Update{Run: w.run}, nil
	}
	for {
		u, changed, ok := w.look()
		if ok {
			return u, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Update{}, context.Cause(ctx)
		case <-w.s.life.Done():
			if u, _, ok := w.look(); ok { // it may have ended in this moment
				return u, nil
			}
			return Update{}, ErrStop
		}
	}
}

func (w *Watcher) look() (Update, <-chan struct{}, bool) {
	l := w.l
	l.mu.Lock()
	defer l.mu.Unlock()
	over := l.run.State.Ended()
	if w.version != l.version && !over {
		w.version = l.version
		r := shown(l.run)
		return Update{Run: &r}, nil, true
	}
	if l.tail != nil && !w.quiet {
		if c, ok := l.tail.from(&w.next); ok {
			return Update{Output: &c}, nil, true
		}
	}
	if over {
		w.ended = true
		r := shown(l.run)
		return Update{Run: &r}, nil, true
	}
	return Update{}, l.changed, false
}
