// Package secrets hands out the secrets that the configuration keeps elsewhere, and reads them anew when it
// is told to (control-plane.md §5).
//
// The configuration in force holds the values; Service shows which there are, and values only where they
// are asked for by name. It imports leaves and owns no goroutine. Its methods are safe for concurrent use.
package secrets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

const (
	// maxTargets and maxCommandName bound what Resolve is asked; the table has less than a hundred places.
	maxTargets     = 1024
	maxCommandName = 256
	// degraded and recovered begin the system events of a reload that failed, and of the next that did not.
	degraded  = "[SECRETS_RELOADER_DEGRADED]"
	recovered = "[SECRETS_RELOADER_RECOVERED]"
)

// The errors of this package. Fields are "target" of ErrTarget, "command" and "path" of ErrUnresolved.
var (
	ErrCommandName = errs.Define(errs.Invalid, "secrets.command_name", "say which command the secrets are for, in at most 256 bytes")
	ErrTargets     = errs.Define(errs.Invalid, "secrets.targets", "name at most 1024 target ids")
	ErrTarget      = errs.Define(errs.Invalid, "secrets.target", "there is no such target id; hanzoctl secrets list --targets names them")
	ErrInactive    = errs.Define(errs.Unavailable, "secrets.inactive", "no configuration with secrets is in force yet; try again when the daemon is ready")
	ErrUnresolved  = errs.Define(errs.Unavailable, "secrets.unresolved", "a secret could not be read; see hanzoctl secrets check")
	ErrReload      = errs.Define(errs.Unavailable, "secrets.reload", "the secrets could not be read anew, and those of before stay in force")
	ErrBusy        = errs.Define(errs.Exhausted, "secrets.busy", "the configuration changed meanwhile; try again")
)

// Config is what a Service needs.
type Config struct {
	// Current is the configuration in force, nil when there is none yet.
	Current func() *config.Config
	// Swap puts a configuration into force that differs from old in its secrets alone. It returns false, with
	// nothing done, when old is not in force any more.
	Swap func(old, fresh *config.Config) bool
	// Tell queues a text for the main session and returns when it is on disk.
	Tell func(ctx context.Context, text string) error
	// Record writes to the audit log and returns when it is on disk.
	Record func(ctx context.Context, c identity.Caller, what string) error
	Log    *slog.Logger
}

// Service is the secrets of the configuration in force.
type Service struct {
	cfg Config

	mu       sync.Mutex // held while secrets are read anew: programs are asked once at a time
	telling  sync.Mutex // held while an event is queued
	degraded bool       // under telling
}

// New returns the service.
func New(cfg Config) *Service { return &Service{cfg: cfg} }

// ReloadIn and ReloadOut are the arguments and the result of Reload.
type (
	ReloadIn  struct{}
	ReloadOut struct {
		// Warnings is how many references belong to something that is off and were left alone.
		Warnings int
	}
)

// Reload reads all secrets anew and puts them into force together. When one cannot be read, the error says
// which and why, nothing changes, and the main session is told. It takes as long as the slowest source.
func (s *Service) Reload(ctx context.Context, c identity.Caller, _ ReloadIn) (ReloadOut, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.cfg.Current()
	if old == nil {
		return ReloadOut{}, ErrInactive
	}
	// What cannot be recorded is not done.
	if err := s.cfg.Record(ctx, c, "the secrets of the configuration are read anew"); err != nil {
		return ReloadOut{}, err
	}
	fresh, err := old.Resolved(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return ReloadOut{}, ctx.Err() // the caller went away; the sources are not to blame
		}
		s.Failed(ctx, err)
		return ReloadOut{}, ErrReload.WithText(ErrReload.Text + ": " + reason(err))
	}
	if !s.cfg.Swap(old, fresh) {
		return ReloadOut{}, ErrBusy
	}
	s.Worked(ctx)
	out := ReloadOut{}
	for _, r := range fresh.SecretRefs {
		if !r.Active {
			out.Warnings++
		}
	}
	return out, nil
}

// Failed tells the main session, once, that secrets could not be read anew and the last good ones stay.
func (s *Service) Failed(ctx context.Context, err error) {
	s.cfg.Log.Warn("secrets could not be read anew; those of before stay in force", "why", reason(err))
	s.tell(ctx, true, degraded+" Secrets could not be read anew, so those of before stay in force: "+reason(err))
}

// Worked tells the main session, after Failed, that secrets can be read again.
func (s *Service) Worked(ctx context.Context) {
	s.tell(ctx, false, recovered+" Secrets can be read again, and the present ones are in force.")
}

func (s *Service) tell(ctx context.Context, bad bool, text string) {
	s.telling.Lock()
	defer s.telling.Unlock()
	if s.degraded == bad {
		return
	}
	// Whoever asked may be gone; the event is for others.
	if err := s.cfg.Tell(context.WithoutCancel(ctx), text); err != nil {
		s.cfg.Log.Error("a system event was not queued", "error", err)
		return
	}
	s.degraded = bad
}

// reason says in one line what cannot be read. It names keys, files and programs and shows no value.
func reason(err error) string {
	invalid, ok := errors.AsType[*config.Invalid](err)
	if !ok || len(invalid.Issues) == 0 {
		return "the configuration cannot be read"
	}
	text := invalid.Issues[0].String()
	if n := len(invalid.Issues); n > 1 {
		text += fmt.Sprintf(" (and %d more)", n-1)
	}
	return text
}

// Ref is a reference of the configuration. It holds no value.
type Ref struct {
	Path                 string
	Source, Provider, ID string
	// Target is the stable id of the place, "" for one that only the daemon uses.
	Target string
	// Active says that what it is for is on; only then it is resolved.
	Active bool
	// Problem says why it cannot be read, "" when it can or was not tried.
	Problem string
}

// ListIn and ListOut are the arguments and the result of List.
type (
	ListIn struct {
		// Check tries to read each, and changes nothing.
		Check bool
	}
	ListOut struct {
		Refs []Ref
		// Targets are the ids of all places where secrets may stand.
		Targets []string
	}
)

// List shows the references of the configuration in force and, with Check, which of them cannot be read now.
func (s *Service) List(ctx context.Context, _ identity.Caller, in ListIn) (ListOut, error) {
	cur := s.cfg.Current()
	if cur == nil {
		return ListOut{}, ErrInactive
	}
	var out ListOut
	targets := config.SecretTargets()
	for _, t := range targets {
		out.Targets = append(out.Targets, t.ID)
	}
	for _, r := range cur.SecretRefs {
		out.Refs = append(out.Refs, Ref{Path: r.Path, Source: r.Source, Provider: r.Provider, ID: r.ID, Target: targetOf(targets, r), Active: r.Active})
	}
	if !in.Check {
		return out, nil
	}
	s.mu.Lock()
	_, err := cur.Resolved(ctx)
	s.mu.Unlock()
	if ctx.Err() != nil {
		return ListOut{}, ctx.Err()
	}
	if invalid, ok := errors.AsType[*config.Invalid](err); ok {
		for _, issue := range invalid.Issues {
			for i := range out.Refs {
				if out.Refs[i].Path == issue.Path {
					out.Refs[i].Problem = issue.Message
				}
			}
		}
	}
	return out, nil
}

func targetOf(targets []config.SecretTarget, r config.SecretRef) string {
	for _, t := range targets {
		if t.Holds(r) {
			return t.ID
		}
	}
	return ""
}

// ResolveIn and ResolveOut are the arguments and the result of Resolve.
type (
	ResolveIn struct {
		// Command says what the secrets are for; it is shown in errors and in the audit log.
		Command string
		// Targets are ids of places; those at which nothing stands give nothing.
		Targets []string
	}
	ResolveOut struct {
		Assignments []Assignment
		// Diagnostics are for people, Inactive the paths of references that belong to something that is off.
		Diagnostics []string
		Inactive    []string
	}
	// Assignment is a secret. Value is revealed by whoever carries it out of the daemon.
	Assignment struct {
		Path     string
		Segments []string
		Value    config.Secret
	}
)

// Resolve returns the values in force of the references at some places. A row in the audit log says so
// before.
func (s *Service) Resolve(ctx context.Context, c identity.Caller, in ResolveIn) (ResolveOut, error) {
	command := strings.TrimSpace(in.Command)
	if command == "" || len(command) > maxCommandName {
		return ResolveOut{}, ErrCommandName
	}
	if len(in.Targets) > maxTargets {
		return ResolveOut{}, ErrTargets
	}
	all := config.SecretTargets()
	wanted := map[string]bool{}
	for _, id := range in.Targets {
		if id = strings.TrimSpace(id); id == "" {
			continue
		}
		if !slices.ContainsFunc(all, func(t config.SecretTarget) bool { return t.ID == id }) {
			return ResolveOut{}, ErrTarget.With("target", id)
		}
		wanted[id] = true
	}
	cur := s.cfg.Current()
	if cur == nil {
		return ResolveOut{}, ErrInactive
	}
	var out ResolveOut
	for _, t := range all {
		if !wanted[t.ID] {
			continue
		}
		for _, r := range cur.SecretRefs {
			switch {
			case !t.Holds(r):
			case !r.Active:
				out.Inactive = append(out.Inactive, r.Path)
				out.Diagnostics = append(out.Diagnostics, r.Path+": the secret was not read, because what it is for is off.")
			case !r.Value.IsSet():
				return ResolveOut{}, ErrUnresolved.With("command", command, "path", r.Path)
			default:
				out.Assignments = append(out.Assignments, Assignment{r.Path, r.Segments, r.Value})
			}
		}
	}
	if len(out.Assignments) == 0 {
		return out, nil
	}
	var paths []string
	for _, a := range out.Assignments {
		paths = append(paths, a.Path)
	}
	// What cannot be recorded is not shown.
	if err := s.cfg.Record(ctx, c, "secrets were handed out to "+command+": "+strings.Join(paths, ", ")); err != nil {
		return ResolveOut{}, err
	}
	return out, nil
}
