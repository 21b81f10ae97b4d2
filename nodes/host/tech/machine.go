package tech

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/tunnel/files"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// Session is what holds this machine.
type Session struct {
	ID string
	// Owner is for the log.
	Owner string
	// Kinds are the channels that it may have, all when it is empty.
	Kinds []message.Kind
	// ReadOnly allows nothing that changes this machine, and no terminal with it.
	ReadOnly bool
	// Directories are absolute: commands start in the first of them or below one, and files are below of one, as far as this
	// machine offers their files. Empty leaves it to this machine.
	Directories []string
}

// Admission is who let a session open.
type Admission struct {
	// AgentID is whose policy counts, nil for the main agent.
	AgentID *string
	// Approved says that a person or a rule of the gateway let it go.
	Approved bool
	// Foreign is for servers that know no approvals: the policy of this machine decides about each command by itself.
	Foreign bool
}

// Machine is the mode of this machine: heartbeat, or tunnel with the session that holds it. Its methods may be called
// concurrently.
type Machine struct {
	mu      sync.Mutex
	held    *held // nil in heartbeat mode
	stopped bool
}

// Session returns what holds this machine; false in heartbeat mode.
func (x *Machine) Session() (Session, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.held == nil {
		return Session{}, false
	}
	return x.held.Session, true
}

// enter goes from heartbeat to tunnel, and waits for a session that is just ending.
func (x *Machine) enter(ctx context.Context, h *held) error {
	ctx, cancel := context.WithTimeout(ctx, openWait)
	defer cancel()
	for {
		x.mu.Lock()
		if x.stopped {
			x.mu.Unlock()
			return ErrEnding.WithText("this node is stopping")
		}
		old := x.held
		if old == nil {
			x.held = h
			x.mu.Unlock()
			return nil
		}
		x.mu.Unlock()
		if old.ctx.Err() == nil {
			return ErrHeld
		}
		select {
		case <-old.gone:
		case <-ctx.Done():
			return ErrHeld.WithText("the technician session before has not ended yet; try again")
		}
	}
}

// leave goes from tunnel to heartbeat.
func (x *Machine) leave(h *held) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.held == h {
		x.held = nil
	}
}

// stop refuses sessions from now on, and returns the one that is there.
func (x *Machine) stop() *held {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stopped = true
	return x.held
}

// find returns the session when it holds this machine, and over that link when strict.
func (x *Machine) find(id string, link <-chan struct{}, strict bool) (*held, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.held == nil || x.held.ID != id || strict && x.held.link != link {
		return nil, ErrSession
	}
	return x.held, nil
}

// directory is one of a session, as it was named and without symbolic links.
type directory struct{ named, real string }

// held is a session that holds this machine.
type held struct {
	Session
	Admission
	m     *Module
	link  <-chan struct{} // closed when the link that it was opened over ends; nil without one
	files *files.Files
	dirs  []directory // those that are there

	ctx    context.Context // ends with the session; its cause says why
	cancel context.CancelCauseFunc
	gone   chan struct{} // closed when all channels and programs have ended

	mu       sync.Mutex
	channels map[string]*served
	ending   bool
	wg       sync.WaitGroup // of the channels
	keep     *keeper
}

// Open puts this machine into tunnel mode until EndSession, or link is closed (nil is never). It fails with ErrHeld, leaving the
// session that is there unharmed, with ErrDenied, and for what no session can be.
func (m *Module) Open(ctx context.Context, s Session, a Admission, link <-chan struct{}) error {
	if err := check(&s); err != nil {
		return err
	}
	h := &held{Session: s, Admission: a, m: m, link: link, channels: map[string]*served{}, gone: make(chan struct{}), keep: keep(m.c.Log)}
	if err := h.narrow(); err != nil {
		return err
	}
	if !s.ReadOnly && !a.Foreign {
		if err := h.admitted(); err != nil {
			return err
		}
	}
	//nolint:contextcheck // it goes on after the request
	h.ctx, h.cancel = context.WithCancelCause(context.Background())
	if err := m.machine.enter(ctx, h); err != nil {
		h.cancel(nil)
		return err
	}
	m.c.Log.Info("a technician session holds this machine", "session", s.ID, "owner", s.Owner, "read_only", s.ReadOnly)
	if m.c.Mode != nil {
		m.c.Mode(s.ID)
	}
	m.wg.Go(h.watch)
	return nil
}

// EndSession puts this machine back into heartbeat mode when the session holds it by that link, and waits until its programs
// have ended.
func (m *Module) EndSession(ctx context.Context, id, reason string, link <-chan struct{}) error {
	h, err := m.machine.find(id, link, true)
	if err != nil {
		return nil // it does not, or no longer
	}
	if reason == "" {
		reason = "closed"
	}
	h.end(ErrEnding.WithText("the technician session was closed: " + reason))
	t := time.NewTimer(closeWait)
	defer t.Stop()
	select {
	case <-h.gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return errs.New(errs.Deadline, "programs of the technician session have not ended yet")
	}
}

// end ends the session; gone tells when it has ended.
func (h *held) end(why error) { h.cancel(why) }

// watch is the life of a session.
func (h *held) watch() {
	select {
	case <-h.link: // nil: never
		h.end(ErrEnding.WithText("the link of this node has ended"))
	case <-h.ctx.Done():
	}
	h.mu.Lock()
	h.ending = true
	h.mu.Unlock()
	h.wg.Wait()
	h.keep.end()
	h.m.machine.leave(h)
	close(h.gone)
	h.m.c.Log.Info("a technician session holds this machine no more", "session", h.ID, "why", context.Cause(h.ctx))
	if h.m.c.Mode != nil {
		h.m.c.Mode("")
	}
}

// begin adds a channel; finish takes it away.
func (h *held) begin(id string, kind message.Kind) (*served, error) {
	switch {
	case !idOK(id, 36):
		return nil, errs.New(errs.Invalid, "the id of a channel is 1 to 36 letters, digits, - and _")
	case !slices.Contains(message.Kinds, kind):
		return nil, errs.New(errs.Invalid, "a channel is terminal, file, registry or service")
	case len(h.Kinds) > 0 && !slices.Contains(h.Kinds, kind), h.ReadOnly && kind == message.Terminal:
		return nil, ErrKind
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.ending || h.ctx.Err() != nil:
		return nil, ErrEnding
	case h.channels[id] != nil:
		return nil, ErrUsed
	case len(h.channels) >= MaxChannels:
		return nil, ErrMany
	}
	c := &served{h: h, m: h.m, id: id, kind: kind}
	h.channels[id] = c
	h.wg.Add(1)
	return c, nil
}

func (h *held) finish(c *served) {
	h.release(c)
	h.wg.Done()
}

// release makes room for another channel in the place of one that is ending.
func (h *held) release(c *served) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.channels[c.id] == c {
		delete(h.channels, c.id)
	}
}

// check makes sure of what a session says.
func check(s *Session) error {
	if len(s.Directories) > maxDirectories {
		return errs.New(errs.Invalid, "the technician session names too many directories")
	}
	for _, k := range s.Kinds {
		if !slices.Contains(message.Kinds, k) {
			return errs.New(errs.Invalid, "a channel is terminal, file, registry or service")
		}
	}
	for i, d := range s.Directories {
		if !filepath.IsAbs(d) || len(d) > files.MaxPath || !clean(d) {
			return errs.New(errs.Invalid, "a directory of a technician session is an absolute path of this node")
		}
		s.Directories[i] = filepath.Clean(d)
	}
	return nil
}

// narrow makes the files of the session: what this machine offers, as far as it is below of the directories.
func (h *held) narrow() error {
	h.files = files.New(func() []files.Root { return narrowed(h.m.c.Roots(), h.dirs) })
	for _, d := range h.Directories {
		real, err := filepath.EvalSymlinks(d)
		if errors.Is(err, os.ErrNotExist) {
			continue // nothing starts there
		}
		if err != nil {
			return errs.New(errs.Invalid, "a directory of the technician session cannot be used: "+err.Error())
		}
		h.dirs = append(h.dirs, directory{d, real})
	}
	if len(h.Directories) > 0 && len(h.dirs) == 0 {
		return errs.New(errs.NotFound, "none of the directories of the technician session is there on this node")
	}
	return nil
}
