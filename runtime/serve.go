package runtime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/live"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/runtime/backup"
	"github.com/hanzoai/hanzod/runtime/service"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/system"
)

// errRestart ends the run of a daemon that another one is to follow, in the same process.
var errRestart = errors.New("the daemon starts anew")

// ErrRestarting is the cause with which the context of ServeOptions.Each ends when another daemon follows.
var ErrRestarting = service.ErrReloading

// ConfigError is a configuration that cannot be read or does not hold, and for which there is no other one.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }
func (e *ConfigError) Unwrap() error { return e.Err }

// ServeOptions are what Serve needs.
type ServeOptions struct {
	// Load is where the configuration is. A port of 0 is the same one in all daemons of the process.
	Load config.Options
	// Options makes those of a daemon from its configuration. Config and Load are set by Serve.
	Options func(*config.Config) (Options, error)
	// Exec goes on as another program in this process, and returns only when it cannot; nil where that is not
	// possible. Program is the one that runs, UpdateDir a directory of newer ones, both "" without updates.
	Exec               func(program string) error
	Program, UpdateDir string
	// Now is the clock, time.Now when nil.
	Now func() time.Time
	// Each is called for each daemon, in a goroutine that Serve waits for; nil for nothing. ctx ends when
	// the daemon stops, with the cause ErrRestarting when another one follows.
	Each func(ctx context.Context, d *Daemon)
}

// Serve runs daemons, one after the other, until ctx ends: each change of the configuration that takes a
// restart ends one and makes the next, in this process. When the configuration does not allow a start, the
// daemon starts with the last one that worked in this state directory, and says so on every surface; where
// none ever did, Serve fails. The state is locked from the first daemon to the last.
func Serve(ctx context.Context, o ServeOptions) error {
	s := &server{o: o, restarts: live.NewRestarts(os.Getpid())}
	defer func() { _ = s.held.Release() }() // the kernel frees it with the process at the latest
	for {
		d, err := s.start(ctx)
		if err != nil {
			if p, ok := loadUpdate(s.dir); ok && p.To == Version && ctx.Err() == nil {
				return s.putBack(s.dir, p, err)
			}
			return err
		}
		if err := s.run(ctx, d); !errors.Is(err, errRestart) {
			return err
		}
		s.takeOver(s.dir)
	}
}

// now is the clock.
func (s *server) now() time.Time {
	if s.o.Now == nil {
		return time.Now()
	}
	return s.o.Now()
}

type server struct {
	o        ServeOptions
	restarts *live.Restarts
	held     *store.Held
	dir      string   // of the state
	notes    []string // for the log of the daemon that comes next
}

// start makes a daemon of the configuration, or else of the last one that worked.
func (s *server) start(ctx context.Context) (*Daemon, error) {
	dir, path, err := config.Locate(s.o.Load)
	if err != nil {
		return nil, &ConfigError{err}
	}
	s.dir = dir
	if err := s.beginUpdate(dir); err != nil {
		return nil, err
	}
	if err := s.recover(ctx, dir); err != nil {
		return nil, err
	}
	d, failed, err := s.try(ctx)
	if err == nil || !mayFallBack(ctx, err) {
		return d, err
	}
	first := err
	if undone, err := live.FailedStart(dir); err != nil {
		return nil, errors.Join(first, err)
	} else if undone {
		reason, _ := live.Reason(first)
		s.notes = append(s.notes, "the daemon did not start with the changed configuration, which is undone: "+reason)
		if d, failed, err = s.try(ctx); err == nil || !mayFallBack(ctx, err) {
			return d, err
		}
		first = err
	}
	good, err := live.LoadGood(dir)
	if err != nil || good.Path != path {
		return nil, first
	}
	load := s.o.Load
	load.Source = &good.Source
	cfg, err := config.Load(load)
	if err != nil {
		why, _ := live.Reason(err)
		return nil, fmt.Errorf("%w\nThe last configuration that worked (%s) does not hold any more either: %s", first, good.At.Local().Format("2006-01-02 15:04:05"), why)
	}
	if failed != nil && failed.Hash == good.Hash {
		return nil, first // it is the same
	}
	why, issues := live.Reason(first)
	fault := live.Fault{
		What:   fmt.Sprintf("%s; the daemon runs with the last configuration that worked, of %s", why, good.At.Local().Format("2006-01-02 15:04:05")),
		Issues: issues,
	}
	if failed != nil {
		src := failed.Source()
		fault.Source = &src
	}
	if d, err = s.make(ctx, cfg, fault); err != nil {
		return nil, errors.Join(first, fmt.Errorf("start with the last configuration that worked: %w", err))
	}
	return d, nil
}

// recover undoes the change that was to be undone while no daemon ran.
func (s *server) recover(ctx context.Context, dir string) error {
	_, ok, err := live.LoadPending(dir)
	if err != nil || !ok {
		return err
	}
	if s.held == nil {
		if s.held, err = store.Hold(ctx, dir); err != nil {
			return err
		}
	}
	what, err := live.Recover(dir, s.now())
	if what != "" {
		s.notes = append(s.notes, what)
	}
	return err
}

// try makes a daemon of what the file says. failed is the configuration with which there is none.
func (s *server) try(ctx context.Context) (d *Daemon, failed *config.Config, err error) {
	cfg, err := config.Load(s.o.Load)
	if err != nil {
		return nil, nil, &ConfigError{err}
	}
	if d, err = s.make(ctx, cfg, live.Fault{}); err != nil {
		return nil, cfg, err
	}
	return d, nil, nil
}

func (s *server) make(ctx context.Context, cfg *config.Config, fault live.Fault) (*Daemon, error) {
	o, err := s.o.Options(cfg)
	if err != nil {
		return nil, err
	}
	if fault.What != "" {
		fault.At = s.now()
	}
	if s.o.Exec != nil && s.o.UpdateDir != "" && s.o.Program != "" {
		o.updates = updates{s.o.UpdateDir, s.o.Program, cfg.StateDir}
	}
	o.Config, o.Load, o.fault, o.restarts, o.lock = cfg, s.o.Load, fault, s.restarts, &s.held
	d, err := New(ctx, o)
	if err != nil {
		return nil, err
	}
	for _, note := range s.notes {
		d.log.Warn(note)
	}
	s.notes = nil
	if fault.What != "" {
		d.log.Error("THE CONFIGURATION FILE IS NOT IN USE", "path", cfg.Path, "why", fault.What)
	}
	// Clients come back to where they were.
	if p := s.o.Load.Port; p != nil && *p == 0 {
		port := d.Port()
		s.o.Load.Port = &port
	}
	if p := s.o.Load.GRPCPort; p != nil && *p == 0 {
		_, text, _ := net.SplitHostPort(d.GRPCAddress())
		if port, err := strconv.Atoi(text); err == nil {
			s.o.Load.GRPCPort = &port
		}
	}
	return d, nil
}

// run runs one daemon to its end.
func (s *server) run(ctx context.Context, d *Daemon) error {
	told, end := context.WithCancelCause(ctx)
	var each sync.WaitGroup
	defer each.Wait()
	defer end(nil)
	leave := s.restarts.Bind(d.busy, func(reason string) {
		end(ErrRestarting)
		d.startAnew(reason)
	})
	defer leave()
	if s.o.Each != nil {
		each.Go(func() { s.o.Each(told, d) })
	}
	return d.Run(ctx)
}

// mayFallBack reports whether another configuration could help: not where the state itself is the trouble.
func mayFallBack(ctx context.Context, err error) bool {
	if ctx.Err() != nil || errors.Is(err, backup.ErrUnfinished) {
		return false
	}
	e, ok := errs.As(err)
	return !ok || !strings.HasPrefix(e.Code, "store.")
}

// startAnew asks Run to end for a restart.
func (d *Daemon) startAnew(reason string) {
	select {
	case d.anew <- reason:
	default: // it does already
	}
}

// busy counts what a restart waits for.
func (d *Daemon) busy() int { return d.nodes.InFlight() }

// makeLive makes the configuration in force.
func (d *Daemon) makeLive() {
	d.live = live.New(live.Config{
		Updates: d.updates,
		Load:    d.load, Initial: d.cfg, Fault: d.fault, Restarts: d.restarts, Bus: d.bus, Secrets: secretsWatch{d}, Version: Version, Now: d.now, Log: d.subsystem("config"),
		Record: func(ctx context.Context, c live.Change) error {
			return d.store.AppendAudit(ctx, approvals.Audit{At: c.At, Kind: "config", Subject: c.By, Detail: c.What})
		},
	})
}

// followConfig keeps the configuration that the daemon is ready with, tells why it was started, and follows
// the file.
func (d *Daemon) followConfig(ctx context.Context) {
	if d.live.Fault().What == "" {
		d.live.Kept()
	}
	if p, ok := loadUpdate(d.cfg.StateDir); ok && p.To == Version {
		d.log.Info("hanzod "+p.To+" took the place of "+p.From, "program", p.Program)
		if err := dropUpdate(d.cfg.StateDir); err != nil {
			d.log.Warn("the update is not noted as done", "error", err)
		}
	}
	d.tellRestart(ctx)
	d.live.Run(ctx)
}

// tellRestart delivers the note from before the restart, as a system event of the session that it names.
func (d *Daemon) tellRestart(ctx context.Context) {
	note, ok, err := live.TakeSentinel(d.cfg.StateDir)
	if err != nil {
		d.log.Warn("the note from before the restart", "error", err)
	}
	if !ok {
		return
	}
	session := note.SessionKey
	if session == "" {
		session = mainSession(d.current())
	}
	e := system.QueuedEvent{Text: note.Text(), Source: "gateway", At: d.now()}
	if err := d.store.QueueEvent(ctx, session, e, system.MaxQueuedEvents); err != nil {
		d.log.Warn("the note from before the restart was not delivered", "error", err)
	}
}
