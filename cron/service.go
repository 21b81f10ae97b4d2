package cron

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

// Config is what the service needs.
type Config struct {
	Store      Store
	Queue      Queue
	Heartbeats Heartbeats
	// Commands may be nil where none can run.
	Commands Commands
	// Settings are asked at each use, so that a changed configuration counts at once. See Reload.
	Settings func() Settings
	Bus      *events.Bus
	Now      func() time.Time
	Log      *slog.Logger
}

// Service is the cron domain. Its methods are safe for concurrent use; changes are made by Run and wait for
// it. It owns a goroutine that writes, one that looks at the clock, one for each run and those that post
// webhooks, and waits for them in Run.
type Service struct {
	cfg  Config
	log  *slog.Logger
	life context.Context //nolint:containedctx // of runs; ended by Run
	end  context.CancelFunc

	queue   chan *op
	stopped chan struct{} // closed when nothing is written any more
	kick    chan struct{} // has room for one: the scheduler is to look again
	hooks   *hooks
	wg      sync.WaitGroup // runs

	mu      sync.Mutex
	jobs    map[string]*Job
	running map[string]*run
	lanes   [lanes]int
	closed  bool
	rows    int // since the log was pruned
}

// New reads the jobs. Run begins to run them.
func New(cfg Config) (*Service, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	all, err := cfg.Store.CronJobs()
	if err != nil {
		return nil, err
	}
	//nolint:contextcheck // the service's own lifetime, ended by Run
	life, end := context.WithCancel(context.Background())
	s := &Service{
		cfg: cfg, log: cfg.Log, life: life, end: end, queue: make(chan *op, maxQueue), stopped: make(chan struct{}), kick: make(chan struct{}, 1),
		jobs: make(map[string]*Job, len(all)), running: map[string]*run{},
	}
	s.hooks = newHooks(cfg.Log)
	for i := range all {
		// Whatever wrote the database: with moments that are none, slots could not be counted.
		for _, ms := range []*int64{&all[i].State.NextRunMs, &all[i].State.LastSlotMs, &all[i].State.SlotMs, &all[i].State.RunningMs, &all[i].State.LastRunMs} {
			*ms = min(max(*ms, 0), maxDateMs)
		}
		s.jobs[all[i].ID] = &all[i]
	}
	return s, nil
}

func (s *Service) now() int64 { return s.cfg.Now().UnixMilli() }

// Reload makes the scheduler look at the settings again.
func (s *Service) Reload() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// op is one change on its way.
type op struct {
	do   func(*batch) error
	done chan error
}

// batch is what one transaction will write. Its changes are seen by those that come after.
type batch struct {
	s       *Service
	now     int64
	put     map[string]*Job
	order   []string // of put and removed, as they came
	removed map[string]bool
	rows    []*Entry
	events  []Changed
	own     []bool   // of events
	count   int      // of jobs that are there
	after   []func() // what happens after the commit
}

// post sends a webhook after the commit.
func (b *batch) post(p post) { b.after = append(b.after, func() { b.s.hooks.offer(p) }) }

// job returns a copy to change.
func (b *batch) job(id string) (Job, bool) {
	if j, ok := b.put[id]; ok {
		return *j, true
	}
	if b.removed[id] {
		return Job{}, false
	}
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	j, ok := b.s.jobs[id]
	if !ok {
		return Job{}, false
	}
	return *j, true
}

func (b *batch) set(j Job) {
	b.put[j.ID] = &j
	delete(b.removed, j.ID)
	b.order = append(b.order, j.ID)
}

func (b *batch) remove(id string) {
	delete(b.put, id)
	b.removed[id] = true
	b.order = append(b.order, id)
	b.count--
}

// tell publishes an event after the commit.
func (b *batch) tell(own bool, c Changed) {
	b.events, b.own = append(b.events, c), append(b.own, own)
}

// row adds a row to the run log and tells of it.
func (b *batch) row(j *Job, e Entry) {
	e.AtMs, e.JobID, e.Own, e.Error = b.now, j.ID, j.own(), clip(strings.ToValidUTF8(e.Error, "\uFFFD"), maxError)
	e.Summary = strings.ToValidUTF8(e.Summary, "\uFFFD")
	if e.DeliveryStatus == "" {
		e.DeliveryStatus = NotRequested
	}
	b.rows = append(b.rows, &e)
	b.tell(e.Own, Changed{JobID: j.ID, Action: "finished", NextRunMs: e.NextRunMs, RunAtMs: e.RunAtMs, Entry: &e})
}

// apply makes a change and returns when it is on disk. A change calls nothing of the batch that writes
// before it is sure: what it has written when it fails would be written all the same.
func (s *Service) apply(ctx context.Context, do func(*batch) error) error {
	o := &op{do: do, done: make(chan error, 1)}
	select {
	case <-s.stopped:
		return ErrStopped
	default:
	}
	select {
	case s.queue <- o:
	default:
		return ErrBusy
	}
	select {
	case err := <-o.done:
		return err
	case <-s.stopped:
		select {
		case err := <-o.done:
			return err
		default:
			return ErrStopped
		}
	case <-ctx.Done():
		return errs.Wrap(errs.Unknown, "the caller went away while the change was written", ctx.Err())
	}
}

// keep writes changes in groups until quit is closed.
func (s *Service) keep(quit <-chan struct{}) {
	defer close(s.stopped)
	for {
		select {
		case o := <-s.queue:
			s.write(s.gather(o))
		case <-quit:
			for {
				select {
				case o := <-s.queue:
					s.write(s.gather(o))
				default:
					return
				}
			}
		}
	}
}

func (s *Service) gather(first *op) []*op {
	group := []*op{first}
	for len(group) < maxGroup {
		select {
		case o := <-s.queue:
			group = append(group, o)
		default:
			return group
		}
	}
	return group
}

// safelyDo makes one change. A fault of ours fails this one: changes are checked before they change anything.
func (s *Service) safelyDo(o *op, b *batch) (err error) {
	defer func() {
		if fault := recover(); fault != nil {
			s.log.Error("a change of a cron job panicked", "panic", fault, "stack", string(debug.Stack()))
			err = errs.New(errs.Internal, "internal error")
		}
	}()
	return o.do(b)
}

// write makes a group of changes in one transaction, answers them and tells of them.
func (s *Service) write(group []*op) {
	s.mu.Lock()
	b := &batch{s: s, now: s.now(), put: map[string]*Job{}, removed: map[string]bool{}, count: len(s.jobs)}
	s.mu.Unlock()
	failed := make([]error, len(group))
	for i, o := range group {
		failed[i] = s.safelyDo(o, b)
	}
	var c Change
	seen := map[string]bool{}
	for _, id := range b.order {
		if seen[id] {
			continue
		}
		seen[id] = true
		if j, ok := b.put[id]; ok {
			c.Put = append(c.Put, *j)
		} else {
			c.Remove = append(c.Remove, id)
		}
	}
	c.Append = b.rows
	var err error
	if len(c.Put)+len(c.Remove)+len(c.Append) > 0 {
		err = s.cfg.Store.WriteCron(context.Background(), c)
	}
	if err == nil {
		s.mu.Lock()
		for _, id := range c.Remove {
			delete(s.jobs, id)
		}
		maps.Copy(s.jobs, b.put)
		s.rows += len(c.Append)
		s.mu.Unlock()
		for i, e := range b.events {
			name := "cron"
			if b.own[i] {
				name = "cron.changed"
			}
			s.cfg.Bus.Publish(name, e)
		}
		for _, f := range b.after {
			f()
		}
	}
	for i, o := range group {
		if failed[i] == nil {
			failed[i] = err
		}
		o.done <- failed[i]
	}
}

// visible says that a caller may see a job or a row.
func visible(c identity.Caller, own bool) bool { return !own || c.Door != identity.DoorLegacy }

// shown is a job without the values of its environment.
func shown(j Job) Job {
	if env := j.Payload.Command.Env; env != nil {
		hidden := make(map[string]string, len(env))
		for k := range env {
			hidden[k] = ""
		}
		j.Payload.Command.Env = hidden
	}
	return j
}

// all returns the jobs that a caller sees, in no order.
func (s *Service) all(c identity.Caller) []*Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*Job, 0, len(s.jobs))
	for _, j := range s.jobs {
		if visible(c, j.own()) {
			out = append(out, j)
		}
	}
	return out
}

// Count returns how many jobs there are.
func (s *Service) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.jobs)
}

// pageOf is the part of a whole that was asked for.
func pageOf(total, offset int, limit *int, usual int) (from, to int, p Page, err error) {
	n := usual
	if limit != nil {
		if n = *limit; n < 1 || n > MaxPage {
			return 0, 0, Page{}, ErrPage
		}
	}
	if offset < 0 {
		return 0, 0, Page{}, ErrPage
	}
	p = Page{Total: total, Offset: min(offset, total), Limit: min(n, MaxPage)}
	to = min(total, p.Offset+p.Limit)
	if to < total {
		next := to
		p.Next = &next
	}
	return p.Offset, to, p, nil
}

// List returns jobs (control-plane.md §12).
func (s *Service) List(_ context.Context, c identity.Caller, in ListIn) (ListOut, error) {
	filter := in.Enabled
	if filter == "" {
		filter = "enabled"
		if in.IncludeDisabled {
			filter = "all"
		}
	}
	if !slices.Contains([]string{"all", "enabled", "disabled"}, filter) || !slices.Contains([]string{"", "nextRunAtMs", "updatedAtMs", "name"}, in.SortBy) {
		return ListOut{}, ErrFilter
	}
	query := strings.ToLower(strings.TrimSpace(in.Query))
	found := slices.DeleteFunc(s.all(c), func(j *Job) bool {
		return filter == "enabled" && !j.Enabled || filter == "disabled" && j.Enabled ||
			query != "" && !strings.Contains(strings.ToLower(j.Name+" "+j.Description+" "+j.AgentID), query)
	})
	slices.SortFunc(found, func(a, b *Job) int {
		n := 0
		switch in.SortBy {
		case "name":
			n = byName(a.Name, b.Name)
		case "updatedAtMs":
			n = cmp.Compare(a.UpdatedMs, b.UpdatedMs)
		default:
			x, y := a.State.NextRunMs, b.State.NextRunMs
			switch {
			case x != 0 && y != 0:
				n = cmp.Compare(x, y)
			case x != 0:
				n = -1
			case y != 0:
				n = 1
			}
		}
		if in.Descend {
			n = -n
		}
		return cmp.Or(n, strings.Compare(a.ID, b.ID))
	})
	usual := len(found)
	if usual == 0 {
		usual = defaultPage
	}
	from, to, page, err := pageOf(len(found), in.Offset, in.Limit, usual)
	if err != nil {
		return ListOut{}, err
	}
	out := ListOut{Jobs: make([]Job, 0, to-from), Page: page}
	for _, j := range found[from:to] {
		out.Jobs = append(out.Jobs, shown(*j))
	}
	return out, nil
}

// byName orders names as people expect: case does not count, and letters come after digits, and those after
// the rest.
func byName(a, b string) int {
	key := func(r rune) (int, rune) {
		switch {
		case unicode.IsLetter(r):
			return 2, unicode.ToLower(r)
		case unicode.IsDigit(r):
			return 1, r
		}
		return 0, r
	}
	x, y := []rune(a), []rune(b)
	for i := range min(len(x), len(y)) {
		cx, rx := key(x[i])
		cy, ry := key(y[i])
		if n := cmp.Or(cmp.Compare(cx, cy), cmp.Compare(rx, ry)); n != 0 {
			return n
		}
	}
	return cmp.Compare(len(x), len(y))
}

// Get returns one job.
func (s *Service) Get(_ context.Context, c identity.Caller, id string) (Job, error) {
	s.mu.Lock()
	j, ok := s.jobs[id]
	s.mu.Unlock()
	if !ok || !visible(c, j.own()) {
		return Job{}, unknown(id)
	}
	return shown(*j), nil
}

func unknown(id string) error { return ErrUnknownJob.WithText("unknown cron job id: " + clip(id, 150)) }

// Status says whether jobs run, and when the next is due.
func (s *Service) Status(_ context.Context, c identity.Caller, _ struct{}) (StatusOut, error) {
	set := s.cfg.Settings()
	out := StatusOut{Enabled: set.Enabled, StorePath: set.StorePath}
	for _, j := range s.all(c) {
		out.Jobs++
		if next := j.State.NextRunMs; set.Enabled && j.Enabled && next != 0 && (out.NextMs == 0 || next < out.NextMs) {
			out.NextMs = next
		}
	}
	s.mu.Lock()
	for _, r := range s.running {
		if visible(c, r.job.own()) {
			out.Running++
		}
	}
	s.mu.Unlock()
	return out, nil
}

// Add makes a job. A command runs as the caller, who has to be somebody who lasts.
func (s *Service) Add(ctx context.Context, c identity.Caller, in AddIn) (Job, error) {
	var made Job
	err := s.apply(ctx, func(b *batch) error {
		if b.count >= maxJobs {
			return ErrTooMany
		}
		j, err := newJob(c, in, b.now, s.cfg.Settings().MainAgent)
		if err != nil {
			return err
		}
		made = j
		b.count++
		b.set(j)
		b.tell(j.own(), Changed{JobID: j.ID, Action: "added", NextRunMs: j.State.NextRunMs})
		return nil
	})
	if err != nil {
		return Job{}, err
	}
	s.Reload()
	return shown(made), nil
}

// Update changes a job.
func (s *Service) Update(ctx context.Context, c identity.Caller, in UpdateIn) (Job, error) {
	var made Job
	err := s.apply(ctx, func(b *batch) error {
		if in.Patch.Schedule != nil { // before the job is looked for, as in the original
			if err := checkAt(*in.Patch.Schedule, b.now); err != nil {
				return err
			}
		}
		j, ok := b.job(in.ID)
		if !ok || !visible(c, j.own()) {
			return unknown(in.ID)
		}
		next, err := j.patched(c, in.Patch, b.now, s.cfg.Settings().MainAgent)
		if err != nil {
			return err
		}
		made = next
		b.set(next)
		b.tell(next.own(), Changed{JobID: next.ID, Action: "updated", NextRunMs: next.State.NextRunMs})
		return nil
	})
	if err != nil {
		return Job{}, err
	}
	s.Reload()
	return shown(made), nil
}

// Remove takes a job away. A run that is going on ends by itself; its rows stay in the run log.
func (s *Service) Remove(ctx context.Context, c identity.Caller, id string) (RemoveOut, error) {
	removed := false
	err := s.apply(ctx, func(b *batch) error {
		j, ok := b.job(id)
		if !ok || !visible(c, j.own()) {
			return nil
		}
		removed = true
		b.remove(id)
		b.tell(j.own(), Changed{JobID: id, Action: "removed"})
		return nil
	})
	if err != nil {
		return RemoveOut{}, err
	}
	return RemoveOut{Removed: removed}, nil
}

// Runs returns rows of the run log, in the order in which they were written.
func (s *Service) Runs(_ context.Context, c identity.Caller, in RunsIn) (RunsOut, error) {
	id := in.ID
	switch {
	case in.All:
		id = ""
	case strings.TrimSpace(id) == "" || strings.ContainsAny(id, "/\\\x00"):
		return RunsOut{}, ErrRunsID
	default:
		id = strings.TrimSpace(id)
	}
	for _, st := range in.Statuses {
		if st != OK && st != Failed && st != Skipped {
			return RunsOut{}, ErrFilter
		}
	}
	for _, st := range in.DeliveryStatuses {
		if st != Delivered && st != NotDelivered && st != UnknownYet && st != NotRequested {
			return RunsOut{}, ErrFilter
		}
	}
	_, _, page, err := pageOf(0, in.Offset, in.Limit, DefaultRuns)
	if err != nil {
		return RunsOut{}, err
	}
	names := map[string]string{}
	if in.All {
		for _, j := range s.all(c) {
			names[j.ID] = j.Name
		}
	}
	query := strings.ToLower(strings.TrimSpace(in.Query))
	match := func(e *Entry) bool {
		return visible(c, e.Own) && (len(in.Statuses) == 0 || slices.Contains(in.Statuses, e.Status)) &&
			(len(in.DeliveryStatuses) == 0 || slices.Contains(in.DeliveryStatuses, e.DeliveryStatus)) &&
			(query == "" || strings.Contains(strings.ToLower(e.Summary+" "+e.Error+" "+e.JobID+" "+names[e.JobID]), query))
	}
	f := Find{JobID: id, Match: match, Ascend: in.Ascend, Offset: in.Offset, Limit: page.Limit}
	if c.Door != identity.DoorLegacy && len(in.Statuses)+len(in.DeliveryStatuses) == 0 && query == "" {
		f.Match = nil
	}
	rows, total, err := s.cfg.Store.CronRuns(f)
	if err != nil {
		return RunsOut{}, err
	}
	_, _, page, err = pageOf(total, in.Offset, in.Limit, DefaultRuns)
	if err != nil {
		return RunsOut{}, err
	}
	for i := range rows {
		rows[i].JobName = names[rows[i].JobID]
	}
	return RunsOut{Entries: rows, Page: page}, nil
}

// Preview tells the next moments of a schedule, as Add would take it but without the stagger.
func (s *Service) Preview(_ context.Context, _ identity.Caller, in PreviewIn) (PreviewOut, error) {
	if in.Count == 0 {
		in.Count = defaultPreview
	}
	if in.Count < 1 || in.Count > maxPreview || in.FromMs < 0 || in.FromMs > maxDateMs {
		return PreviewOut{}, ErrPreview
	}
	from := in.FromMs
	if from == 0 {
		from = s.now()
	}
	none := int64(0)
	in.Schedule.StaggerMs = &none
	base := from
	if in.Schedule.AnchorMs != nil {
		base = *in.Schedule.AnchorMs
	}
	clk, err := clockOf(in.Schedule, "", base)
	if err != nil {
		return PreviewOut{}, err
	}
	return PreviewOut{AtMs: clk.some(from, maxDateMs, in.Count)}, nil
}

// newRunID names a run of a command.
func newRunID() string { return "cron-" + uuid.NewString() }
