// Package uplinks keeps this machine an instance of other hanzods and relays: which there are, whether they run, and
// how they fare (tunnel.md §5.3, row 10).
//
// It imports leaves alone. How a link is made and served is a Run's business. The package owns one goroutine for
// each uplink that runs; Close ends them and waits.
package uplinks

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// The errors of this package.
var (
	ErrUnknown = errs.Define(errs.NotFound, "uplinks.unknown", "no uplink of this name is in the configuration")
	ErrClosed  = errs.Define(errs.Unavailable, "uplinks.closed", "the daemon is stopping")
	ErrTenant  = errs.Define(errs.Denied, "uplinks.tenant", "uplinks belong to who administers the gateway, not to a tenant")
)

// Uplink is one as the configuration has it, without its token.
type Uplink struct {
	Name                             string
	URL                              string
	InstanceID, AppKind, DisplayName string
	Enabled, Reconnect               bool
}

// Phase is where an uplink stands.
type Phase string

// The phases.
const (
	Stopped    Phase = "stopped"
	Connecting Phase = "connecting"
	Connected  Phase = "connected"
	Waiting    Phase = "waiting"
	Failed     Phase = "failed" // it does not try again
)

// State is an uplink and how it fares.
type State struct {
	Uplink
	Phase Phase
	// Since is when the phase began.
	Since time.Time
	// Error is why there is no link, and RetryIn when the next attempt is, while it waits.
	Error   string
	RetryIn time.Duration
	// SessionURL is where people look at the instance, as the other side says.
	SessionURL string
}

// Report is a change that a Run tells of. Empty members say nothing new.
type Report struct {
	Phase      Phase
	Err        error
	RetryIn    time.Duration
	SessionURL string
}

// Config of New. All are required but Now.
type Config struct {
	// List returns the uplinks in force, in any order, with a value of each that changes when anything of it does, its
	// token too.
	List func() map[string]Entry
	// Run keeps an uplink linked until ctx ends.
	Run func(ctx context.Context, name string, tell func(Report)) error
	Now func() time.Time
}

// Entry is an uplink and what it is compared by.
type Entry struct {
	Uplink
	// Mark is compared with reflect.DeepEqual.
	Mark any
}

// Service is the domain. Its methods may be called concurrently.
type Service struct {
	c Config

	mu     sync.Mutex
	all    map[string]*uplink
	closed bool
	wg     sync.WaitGroup
}

type uplink struct {
	entry  Entry
	state  State
	cancel context.CancelFunc // nil when it does not run
	ended  chan struct{}
}

// New returns a service in which nothing runs yet.
func New(c Config) *Service {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Service{c: c, all: map[string]*uplink{}}
}

// NameIn names an uplink.
type NameIn struct{ Name string }

// ListOut is the answer of List.
type ListOut struct{ Uplinks []State }

// Run starts what is enabled, and ends all of it with ctx.
func (s *Service) Run(ctx context.Context) {
	s.Reload()
	<-ctx.Done()
	s.Close()
}

// Reload takes the configuration in force: what is new and enabled starts, what changed starts anew, and what is
// gone ends. It does not wait for the ends.
func (s *Service) Reload() {
	now := s.c.List()
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, u := range s.all {
		e, ok := now[name]
		if ok && reflect.DeepEqual(e, u.entry) {
			continue
		}
		if u.cancel != nil {
			u.cancel()
		}
		if !ok {
			delete(s.all, name)
			continue
		}
		next := &uplink{entry: e, ended: u.ended}
		next.state = State{Uplink: e.Uplink, Phase: Stopped, Since: s.c.Now()}
		s.all[name] = next
		if e.Enabled {
			s.begin(next)
		}
	}
	for name, e := range now {
		if s.all[name] != nil {
			continue
		}
		u := &uplink{entry: e, state: State{Uplink: e.Uplink, Phase: Stopped, Since: s.c.Now()}}
		s.all[name] = u
		if e.Enabled {
			s.begin(u)
		}
	}
}

// begin runs an uplink, after the end of the one that had its name.
func (s *Service) begin(u *uplink) {
	if s.closed {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	before := u.ended
	u.cancel, u.ended = cancel, make(chan struct{})
	u.state.Phase, u.state.Since, u.state.Error, u.state.RetryIn, u.state.SessionURL = Connecting, s.c.Now(), "", 0, ""
	ended := u.ended
	s.wg.Go(func() {
		defer close(ended)
		if before != nil {
			<-before // its other side would take the second for somebody else
		}
		err := s.c.Run(ctx, u.entry.Name, func(r Report) { s.told(u, ended, r) })
		r := Report{Phase: Stopped}
		if err != nil && ctx.Err() == nil { // else it was ended from here
			r = Report{Phase: Failed, Err: err}
		}
		cancel()
		s.told(u, ended, r)
		s.mu.Lock()
		defer s.mu.Unlock()
		if u.ended == ended {
			u.cancel = nil
		}
	})
}

// told takes a change of the run that ends with ended; one of before it says nothing.
func (s *Service) told(u *uplink, ended chan struct{}, r Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.ended != ended {
		return
	}
	if r.SessionURL != "" {
		u.state.SessionURL = r.SessionURL
	}
	if r.Phase == "" {
		return
	}
	if r.Phase != u.state.Phase {
		u.state.Since = s.c.Now()
	}
	u.state.Phase, u.state.RetryIn, u.state.Error = r.Phase, r.RetryIn, ""
	if r.Err != nil {
		u.state.Error = r.Err.Error()
	}
}

// find is the uplink of a name, for a caller who may see it.
func (s *Service) find(c identity.Caller, name string) (*uplink, error) {
	if c.Tenant != "" {
		return nil, ErrTenant
	}
	u := s.all[name]
	if u == nil {
		return nil, ErrUnknown.With("uplink", name)
	}
	return u, nil
}

// Start runs an uplink, also one that the configuration does not enable. One that runs is left as it is; one that
// waits tries again at once.
func (s *Service) Start(_ context.Context, c identity.Caller, in NameIn) (State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, err := s.find(c, in.Name)
	switch {
	case err != nil:
		return State{}, err
	case s.closed:
		return State{}, ErrClosed
	case u.cancel != nil && u.state.Phase != Waiting:
		return u.state, nil
	case u.cancel != nil:
		u.cancel()
	}
	s.begin(u)
	return u.state, nil
}

// Stop ends an uplink until it is started or its configuration changes; so does a restart of the daemon. It waits
// for its end.
func (s *Service) Stop(ctx context.Context, c identity.Caller, in NameIn) (State, error) {
	s.mu.Lock()
	u, err := s.find(c, in.Name)
	if err != nil {
		s.mu.Unlock()
		return State{}, err
	}
	var ended chan struct{}
	if u.cancel != nil {
		u.cancel()
		ended = u.ended
	}
	s.mu.Unlock()
	if ended != nil {
		select {
		case <-ended:
		case <-ctx.Done():
			return State{}, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.state.Phase == Failed {
		u.state.Phase, u.state.Since = Stopped, s.c.Now()
	}
	return u.state, nil
}

// Status returns one uplink.
func (s *Service) Status(_ context.Context, c identity.Caller, in NameIn) (State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, err := s.find(c, in.Name)
	if err != nil {
		return State{}, err
	}
	return u.state, nil
}

// List returns all of them, by name.
func (s *Service) List(_ context.Context, c identity.Caller) (ListOut, error) {
	if c.Tenant != "" {
		return ListOut{}, ErrTenant
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := ListOut{}
	for _, u := range s.all {
		out.Uplinks = append(out.Uplinks, u.state)
	}
	slices.SortFunc(out.Uplinks, func(a, b State) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Close ends all uplinks and waits for their ends.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	for _, u := range s.all {
		if u.cancel != nil {
			u.cancel()
		}
	}
	s.mu.Unlock()
	s.wg.Wait()
}
