// Package wizard asks the questions that set up a daemon, one at a time, and writes the configuration when all
// are answered (control-plane.md §6).
//
// It imports leaves only. Service keeps one session, which runs in the goroutines of its callers; none is
// left behind. Its methods are safe for concurrent use.
package wizard

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

const (
	// idleFor is how long a session may wait for an answer before another may take its place: people look
	// for a key meanwhile, and a client that is gone never comes back.
	idleFor = 30 * time.Minute
	// maxText is the longest text of an answer in bytes; keys of services have some hundred.
	maxText = 16 << 10
	// maxWorkspace is the longest name of a directory in bytes.
	maxWorkspace = 4 << 10
)

// Type is how a step is shown.
type Type string

// The types of steps, with their legacy names.
const (
	Note        Type = "note"
	Select      Type = "select"
	Text        Type = "text"
	Confirm     Type = "confirm"
	MultiSelect Type = "multiselect"
)

// Status is where a session stands.
type Status string

// The states of a session, with their legacy names.
const (
	Running   Status = "running"
	Done      Status = "done"
	Cancelled Status = "cancelled"
	Failed    Status = "error"
)

// Step is one thing to show or to ask. Absent parts are empty; Message is nil where there is none.
type Step struct {
	ID string
	// Key names the question, the same in every session: what scripts answer by. Notes have none.
	Key     string
	Type    Type
	Title   string
	Message *string
	Options []Option
	// Initial is the answer to begin with: a string, a bool, a []string, or nil.
	Initial     any
	Placeholder string
	// Sensitive says that the answer is a secret.
	Sensitive bool
}

// Option is one of the answers to choose from.
type Option struct{ Value, Label, Hint string }

// Answer is the answer to a step. Value is nil, a bool, a float64, a string or a []any of those.
type Answer struct {
	StepID string
	Value  any
}

// StartIn, NextIn, SessionIn, StepOut and StatusOut are the arguments and results of the methods.
type (
	StartIn struct {
		// Mode is local or remote, "" to ask. Workspace is the directory to propose.
		Mode, Workspace string
	}
	NextIn struct {
		SessionID string
		// Answer is nil to see the pending step again.
		Answer *Answer
	}
	SessionIn struct{ SessionID string }
	StepOut   struct {
		SessionID string
		Done      bool
		// Step is nil when Done.
		Step   *Step
		Status Status
		// Error is "" unless the session was cancelled or failed.
		Error string
	}
	StatusOut struct {
		Status Status
		Error  string
	}
)

// The errors of this package. The text of ErrAnswer says what is wrong with an answer.
var (
	ErrRunning    = errs.Define(errs.Unavailable, "wizard.running", "somebody is setting up this daemon already; it may be tried again when they are done, or have not answered for half an hour")
	ErrNotFound   = errs.Define(errs.NotFound, "wizard.not_found", "there is no such session, or it has ended; start one with: hanzoctl setup")
	ErrNotRunning = errs.Define(errs.Conflict, "wizard.not_running", "the session has ended")
	ErrNoStep     = errs.Define(errs.Conflict, "wizard.no_step", "this step does not wait for an answer")
	ErrAnswer     = errs.Define(errs.Invalid, "wizard.answer", "the answer does not fit")
	ErrMode       = errs.Define(errs.Invalid, "wizard.mode", "the mode is local or remote")
	ErrWorkspace  = errs.Define(errs.Invalid, "wizard.workspace", "the name of the directory is too long")
)

// Change sets a key of the configuration to a string, a number, a bool, a list or a map of those.
type Change struct {
	Path  []string
	Value any
}

// Config is what a Service needs.
type Config struct {
	// Look shows what the configuration file says now.
	Look func() (config.View, error)
	// Write puts the changes into the file and into force, unless the file is another than when hash was read.
	// With fresh nothing of the file stays but the keys in keep.
	Write func(ctx context.Context, c identity.Caller, hash string, changes []Change, fresh bool, keep []string) error
	// Workspace is the directory that agents work in unless another is chosen.
	Workspace string
	// Token makes a random token. HasSecret reports whether the environment of the daemon holds a token or a
	// password, so that the file needs none.
	Token     func() string
	HasSecret func() bool
	// Version is that of this program, for the stamp in the file.
	Version string
	Now     func() time.Time
	Log     *slog.Logger
}

// Service is the wizard.
type Service struct {
	cfg Config

	mu      sync.Mutex // held while a session moves
	session *session   // nil without one
}

// New returns the service.
func New(cfg Config) *Service { return &Service{cfg: cfg} }

// session is one run of the questions.
type session struct {
	id     string
	next   func() (*Step, bool)
	stop   func()
	flow   *flow
	step   *Step // the pending one
	status Status
	err    string
	seen   time.Time
}

// Start begins a session and returns its first step. There is one session at a time; one that nobody has
// answered for half an hour makes way.
func (s *Service) Start(ctx context.Context, c identity.Caller, in StartIn) (StepOut, error) {
	switch {
	case in.Mode != "" && in.Mode != "local" && in.Mode != "remote":
		return StepOut{}, ErrMode
	case len(in.Workspace) > maxWorkspace:
		return StepOut{}, ErrWorkspace
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.session; old != nil {
		if old.status == Running && s.cfg.Now().Sub(old.seen) < idleFor {
			return StepOut{}, ErrRunning
		}
		s.drop()
	}
	f := &flow{cfg: s.cfg, in: in, caller: c}
	next, stop := iter.Pull(f.run)
	s.session = &session{id: uuid.NewString(), next: next, stop: stop, flow: f, status: Running, seen: s.cfg.Now()}
	return s.advance(ctx), nil
}

// Next takes the answer to the pending step and returns the next one; without an answer it returns the
// pending step again. An answer that does not fit leaves the step pending. When the last step is answered
// the session is over; with the one before it the configuration was written.
func (s *Service) Next(ctx context.Context, c identity.Caller, in NextIn) (StepOut, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	se, err := s.find(in.SessionID)
	if err != nil {
		return StepOut{}, err
	}
	se.seen = s.cfg.Now()
	if in.Answer != nil {
		if se.status != Running {
			return StepOut{}, ErrNotRunning
		}
		if se.step == nil || in.Answer.StepID != se.step.ID {
			return StepOut{}, ErrNoStep
		}
		value, problem := fit(*se.step, in.Answer.Value)
		if problem == "" && se.flow.check != nil {
			problem = se.flow.check(value)
		}
		if problem != "" {
			return StepOut{}, ErrAnswer.WithText(problem)
		}
		se.step, se.flow.value, se.flow.caller = nil, value, c
	}
	if se.step != nil {
		return StepOut{SessionID: se.id, Step: se.step, Status: se.status}, nil
	}
	return s.advance(ctx), nil
}

// Cancel ends a session. Nothing was written unless it had come to its last step.
func (s *Service) Cancel(_ context.Context, _ identity.Caller, in SessionIn) (StatusOut, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.find(in.SessionID); err != nil {
		return StatusOut{}, err
	}
	s.drop()
	return StatusOut{Cancelled, "cancelled"}, nil
}

// Status says where a session stands. One that has ended is forgotten with that.
func (s *Service) Status(_ context.Context, _ identity.Caller, in SessionIn) (StatusOut, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	se, err := s.find(in.SessionID)
	if err != nil {
		return StatusOut{}, err
	}
	if se.status != Running {
		s.drop()
	}
	return StatusOut{se.status, se.err}, nil
}

// Close ends the session that is open, for a daemon that stops.
func (s *Service) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop()
}

func (s *Service) find(id string) (*session, error) {
	if s.session == nil || s.session.id != id {
		return nil, ErrNotFound
	}
	return s.session, nil
}

func (s *Service) drop() {
	if s.session != nil {
		s.session.stop()
		s.session = nil
	}
}

// advance lets the session go on to its next step, or to its end, for who holds s.mu.
func (s *Service) advance(ctx context.Context) StepOut {
	se := s.session
	se.flow.ctx = ctx
	step, more := se.next()
	se.flow.ctx = nil
	if more {
		se.step = step
		return StepOut{SessionID: se.id, Step: step, Status: Running}
	}
	se.status, se.err = Done, ""
	if err := se.flow.err; err != nil {
		se.status, se.err = Failed, err.Error()
		if errors.Is(err, errDeclined) {
			se.status = Cancelled
		}
	}
	s.drop()
	return StepOut{SessionID: se.id, Done: true, Status: se.status, Error: se.err}
}

// fit turns a value into what the type of the step wants. It returns why it does not fit; never the value,
// which may be a secret.
func fit(step Step, v any) (value any, problem string) {
	switch step.Type {
	case Note:
		return nil, ""
	case Confirm:
		b, ok := v.(bool)
		if !ok {
			return nil, "answer with true or false"
		}
		return b, ""
	case Text:
		text, ok := v.(string)
		if v == nil {
			ok = true
		}
		switch {
		case !ok:
			return nil, "answer with a text"
		case len(text) > maxText:
			return nil, "the text is longer than 16384 bytes"
		case strings.ContainsAny(text, "\x00\r\n"):
			return nil, "the text has to be one line"
		}
		return strings.TrimSpace(text), ""
	case Select:
		text, ok := v.(string)
		if !ok || !step.offers(text) {
			return nil, "answer with one of: " + step.values()
		}
		return text, ""
	case MultiSelect:
		list, ok := v.([]any)
		if v == nil {
			ok = true
		}
		out := []string{}
		for _, item := range list {
			text, isText := item.(string)
			if !isText || !step.offers(text) {
				ok = false
				break
			}
			if !slices.Contains(out, text) {
				out = append(out, text)
			}
		}
		if !ok {
			return nil, "answer with a list of: " + step.values()
		}
		return out, ""
	}
	return nil, "this step takes no answer"
}

func (s Step) offers(value string) bool {
	return slices.ContainsFunc(s.Options, func(o Option) bool { return o.Value == value })
}

func (s Step) values() string {
	var out []string
	for _, o := range s.Options {
		out = append(out, o.Value)
	}
	return strings.Join(out, ", ")
}
