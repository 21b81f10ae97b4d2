package cron

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

// memory keeps what the database would; it outlives services as that does.
type memory struct {
	mu   sync.Mutex
	jobs map[string]Job
	rows []Entry
	seq  uint64
	fail error
}

func (m *memory) CronJobs() (out []Job, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, j := range m.jobs {
		out = append(out, j)
	}
	return out, nil
}

func (m *memory) WriteCron(_ context.Context, c Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	for _, j := range c.Put {
		m.jobs[j.ID] = j
	}
	for _, id := range c.Remove {
		delete(m.jobs, id)
	}
	for _, e := range c.Append {
		m.seq++
		e.Seq = m.seq
		m.rows = append(m.rows, *e)
	}
	return nil
}

func (m *memory) CronRuns(f Find) (out []Entry, total int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.rows {
		if (f.JobID == "" || e.JobID == f.JobID) && (f.Match == nil || f.Match(&e)) {
			out = append(out, e)
		}
	}
	if !f.Ascend {
		slices.Reverse(out)
	}
	total = len(out)
	from := min(f.Offset, total)
	return out[from:min(total, from+f.Limit)], total, nil
}

func (m *memory) PruneCronRuns(context.Context, Keep) (int, error) { return 0, nil }

func (m *memory) of(id string) (out []Entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.rows {
		if e.JobID == id {
			out = append(out, e)
		}
	}
	return out
}

// world is a service whose clock stands still until it is told.
type world struct {
	t     testing.TB
	store *memory
	s     *Service
	now   atomic.Int64
	set   atomic.Pointer[Settings]
	bus   *events.Bus
	quit  chan struct{}

	mu     sync.Mutex
	texts  []string // told to the main session, with their keys
	asked  []string // heartbeats that were asked for
	events []Changed
	hold   chan struct{} // heartbeats wait for it, nil for not
	status string
	why    string
	end    func(id string) (CommandEnd, error)
	runs   []string // of commands that were started
}

func newWorld(t testing.TB, at string) *world {
	t.Helper()
	w := &world{t: t, store: &memory{jobs: map[string]Job{}}, status: "ran"}
	w.to(at)
	w.set.Store(&Settings{Enabled: true, StorePath: "p", MainAgent: "main", MaxTurns: 1, MaxAttempts: 3, KeepRows: 2000, KeepBytes: 1 << 20})
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *world) to(at string) {
	w.t.Helper()
	when, err := time.Parse(time.RFC3339, at)
	if err != nil {
		w.t.Fatal(err)
	}
	w.now.Store(when.UnixMilli())
}

func (w *world) pass(d time.Duration) { w.now.Add(d.Milliseconds()) }

func (w *world) start() {
	w.t.Helper()
	w.bus = events.New(time.Now)
	w.bus.Sink(func(e events.Event) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if c, ok := e.Payload.(Changed); ok {
			w.events = append(w.events, c)
		}
	})
	var err error
	w.s, err = New(Config{
		Store: w.store, Queue: w, Heartbeats: w, Commands: w, Settings: func() Settings { return *w.set.Load() }, Bus: w.bus,
		Now: func() time.Time { return time.UnixMilli(w.now.Load()) }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.quit = make(chan struct{})
	go w.s.keep(w.quit)
	w.s.settle(context.Background())
}

// stop ends the service as the end of the daemon does.
func (w *world) stop() {
	if w.quit == nil {
		return
	}
	w.s.mu.Lock()
	w.s.closed = true
	w.s.mu.Unlock()
	w.s.end()
	w.s.wg.Wait()
	close(w.quit)
	<-w.s.stopped
	w.quit = nil
}

// tick lets everything that is due run to its end.
func (w *world) tick() {
	w.t.Helper()
	for range 10_000 {
		wait := w.s.tick(context.Background())
		w.s.mu.Lock()
		idle := len(w.s.running) == 0
		w.s.mu.Unlock()
		if wait > 0 && idle {
			return
		}
		w.s.wg.Wait()
	}
	w.t.Fatal("there is no end of what is due")
}

func (w *world) Queue(_ context.Context, text, key string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, key+" "+text)
	return nil
}

func (w *world) RunHeartbeat(ctx context.Context, reason string) (string, string) {
	w.mu.Lock()
	hold, status, why := w.hold, w.status, w.why
	w.asked = append(w.asked, "run "+reason)
	w.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return "failed", ctx.Err().Error()
		}
	}
	return status, why
}

func (w *world) Request(reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, reason)
}

func (w *world) Start(_ context.Context, c identity.Caller, id string, cmd Command) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.runs = append(w.runs, fmt.Sprint(c.Subject(), " ", id, " ", cmd.NodeID, " ", cmd.Argv))
	return nil
}

func (w *world) Wait(ctx context.Context, _ identity.Caller, id string) (CommandEnd, error) {
	w.mu.Lock()
	end := w.end
	w.mu.Unlock()
	if end == nil {
		<-ctx.Done()
		return CommandEnd{}, ctx.Err()
	}
	return end(id)
}

var (
	admin  = identity.Caller{Door: identity.DoorGRPC, Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}, Principal: "local:1000", Local: true}
	legacy = identity.Caller{Door: identity.DoorLegacy, Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}, Principal: "conn:1"}
)

func (w *world) add(in AddIn) Job {
	w.t.Helper()
	if in.Payload.Kind == "" {
		in.Payload = Payload{Kind: SystemEvent, Text: "tick"}
	}
	j, err := w.s.Add(context.Background(), admin, in)
	if err != nil {
		w.t.Fatal(err)
	}
	return j
}

func (w *world) job(id string) Job {
	w.t.Helper()
	j, err := w.s.Get(context.Background(), admin, id)
	if err != nil {
		w.t.Fatal(err)
	}
	return j
}

func (w *world) update(id string, p Patch) (Job, error) {
	return w.s.Update(context.Background(), admin, UpdateIn{ID: id, Patch: p})
}

func every(d time.Duration) Schedule { return Schedule{Kind: Every, EveryMs: d.Milliseconds()} }

func expr(text, zone string) Schedule {
	none := int64(0)
	return Schedule{Kind: Cron, Expr: text, Zone: zone, StaggerMs: &none}
}

func ref[T any](v T) *T { return &v }

var errDisk = errors.New("the disk is full")
