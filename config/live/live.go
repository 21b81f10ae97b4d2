// Package live holds the configuration in force: who may change it and how, what a change takes, and
// which configuration a daemon falls back on.
//
// It imports leaves only. Service owns the goroutine of Run and what that starts; it writes the
// configuration file and, in the state directory, the last configuration that worked, a change that waits
// for an answer, and the note to the daemon after a restart.
package live

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

// Change is a row of the audit log.
type Change struct {
	At time.Time
	// By is who did it, as the daemon verified it; What names the operation and the keys, never values.
	By, What string
}

// Config is what a Service needs.
type Config struct {
	// Load is how the configuration is read; Initial is what came of it.
	Load    config.Options
	Initial *config.Config
	// Fault says why Initial is not what the file says; its zero value is that it is.
	Fault Fault
	// Restarts ends the daemon where a change takes that; nil for a daemon that nobody starts again.
	Restarts *Restarts
	Bus      *events.Bus
	// Record writes to the audit log and returns when it is on disk.
	Record func(ctx context.Context, c Change) error
	// Secrets hears whether secrets could be read; nil is for nobody.
	Secrets Secrets
	// Updates replaces the program; nil where that cannot be done from within.
	Updates Updates
	// Version is that of this program, for the stamp in the file.
	Version string
	Now     func() time.Time
	Log     *slog.Logger
}

// Fault says why the configuration in force is not that of the file.
type Fault struct {
	// What is for people, "" when there is none.
	What string
	// Issues are what is wrong with the file, when it was read.
	Issues []config.Issue
	// Source is the text that failed: it is not tried again.
	Source *config.Source
	At     time.Time
}

// Changed is the payload of the event config.changed: another configuration is in force, or the one of
// the file cannot be.
type Changed struct {
	// Hash is that of the configuration in force.
	Hash   string
	Paths  []string
	Effect Effect
	// Fault is "" when the configuration in force is that of the file.
	Fault string
	At    time.Time
}

// The errors of this package.
var (
	ErrPending = errs.Define(errs.Conflict, "config.pending",
		"an earlier change waits for an answer; keep it with: hanzoctl config confirm, or undo it with: hanzoctl config revert")
	ErrNotPending = errs.Define(errs.NotFound, "config.not_pending", "no change of the configuration waits for an answer")
	ErrWindow     = errs.Define(errs.Invalid, "config.window", "the time to confirm goes from 5 seconds to an hour")
	ErrNotWritten = errs.Define(errs.Unavailable, "config.not_written", "the configuration was not written; it is as it was before")
	ErrRead       = errs.Define(errs.Unavailable, "config.unreadable", "the configuration file cannot be read; check that it is there and that the daemon may read it")
)

// Service is the configuration in force. Its methods may be called concurrently; changes happen one after
// the other.
type Service struct {
	cfg  Config
	load config.Options
	cur  atomic.Pointer[config.Config]

	started time.Time
	until   atomic.Pointer[time.Time] // when a change undoes itself, nil without one

	mu     sync.Mutex // held while the file or what is in force changes
	failed *config.Source

	seenMu sync.Mutex
	fault  Fault
	waits  []string // paths of the file that a restart would bring into force

	subsMu sync.Mutex
	subs   []*subscriber

	filesMu sync.Mutex
	watched []string
}

type subscriber struct {
	prefixes []string
	f        func(old, now *config.Config)
}

// New returns the service; Run makes it follow the file.
func New(cfg Config) *Service {
	s := &Service{cfg: cfg, load: cfg.Load, started: cfg.Now(), fault: cfg.Fault, failed: cfg.Fault.Source}
	s.load.Path, s.load.StateDir, s.load.Source = cfg.Initial.Path, cfg.Initial.StateDir, nil
	s.cur.Store(cfg.Initial)
	s.follow(cfg.Initial)
	return s
}

// Current is the configuration in force. It is a snapshot: whoever wants to see changes asks again.
func (s *Service) Current() *config.Config { return s.cur.Load() }

// OnChange calls f after a change of what is at, above or below one of the prefixes is in force, without a
// restart. Calls come one after the other, in the order of OnChange; f has to be quick. The function that
// it returns ends that.
func (s *Service) OnChange(prefixes []string, f func(old, now *config.Config)) (cancel func()) {
	sub := &subscriber{prefixes, f}
	s.subsMu.Lock()
	defer s.subsMu.Unlock()
	s.subs = append(s.subs, sub)
	return func() {
		s.subsMu.Lock()
		defer s.subsMu.Unlock()
		s.subs = slices.DeleteFunc(s.subs, func(other *subscriber) bool { return other == sub })
	}
}

// Fault says why the configuration in force is not that of the file; What is "" when it is.
func (s *Service) Fault() Fault {
	s.seenMu.Lock()
	defer s.seenMu.Unlock()
	return s.fault
}

// Waiting are the keys whose values in the file come into force with a restart.
func (s *Service) Waiting() []string {
	s.seenMu.Lock()
	defer s.seenMu.Unlock()
	return slices.Clone(s.waits)
}

// PendingUntil is when a change undoes itself, zero when none does.
func (s *Service) PendingUntil() time.Time {
	if t := s.until.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// note remembers the change that waits for an answer, nil for none.
func (s *Service) note(p *Pending) {
	if p == nil {
		s.until.Store(nil)
		return
	}
	s.until.Store(&p.Deadline)
}

// Run follows the file and undoes what nobody confirms, until ctx ends. It is called when the daemon is
// ready, once.
func (s *Service) Run(ctx context.Context) {
	s.begin()
	var wg sync.WaitGroup
	wg.Go(func() { s.expire(ctx) })
	wg.Go(func() { s.checkUpdates(ctx) })
	s.watch(ctx)
	wg.Wait()
}

// Kept keeps the configuration in force as the one to fall back on. It is called when the daemon is ready.
func (s *Service) Kept() {
	if err := SaveGood(s.load.StateDir, s.Current(), s.cfg.Now()); err != nil {
		s.cfg.Log.Warn("the configuration in force was not kept; after a bad one the daemon falls back on an older one, or does not start", "error", err)
	}
}

// publish tells of what is in force now.
func (s *Service) publish(paths []string, e Effect) {
	s.cfg.Bus.Publish("config.changed", Changed{Hash: s.Current().Hash, Paths: paths, Effect: e, Fault: s.Fault().What, At: s.cfg.Now()})
}

// may checks that a caller may change the configuration, beside the gate.
func may(c identity.Caller) error {
	if !c.Has(identity.ScopeAdmin) {
		return errs.New(errs.Denied, "missing scope: operator.admin")
	}
	return nil
}
