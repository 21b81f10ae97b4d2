package screens

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// ConnectIn names the screen of Connect; NodeID is empty for the daemon's machine.
type ConnectIn struct {
	NodeID string
}

// Connect reaches the VNC server of a screen for one viewer. It returns when the server is reached; the caller must
// Close what it gets. The row of the audit log is on disk before anything leaves.
func (s *Service) Connect(ctx context.Context, c identity.Caller, in ConnectIn) (*Screen, error) {
	set := s.c.Settings()
	if !set.Enabled {
		return nil, ErrOff
	}
	in.NodeID = strings.TrimSpace(in.NodeID)
	var node Node
	if in.NodeID == "" {
		if !c.Has(identity.ScopeAdmin) {
			return nil, ErrLocalAdmin
		}
	} else {
		var err error
		if node, err = s.node(c, in.NodeID); err != nil {
			return nil, err
		}
		if !node.Connected {
			return nil, ErrNodeUnknown.With("node", node.ID)
		}
	}
	way := wayTo(node)
	switch {
	case in.NodeID == "":
	case way == noWay:
		return nil, ErrNoScreen.With("node", node.ID)
	case way == byCall && !c.Has(identity.ScopeAdmin):
		return nil, ErrCallAdmin.With("node", node.ID)
	case way == byCall && node.Denied:
		return nil, ErrDenied.With("node", node.ID)
	}
	left, err := s.room(c, node.ID)
	if err != nil {
		return nil, err
	}
	defer left()
	v := &Screen{s: s, id: uuid.NewString(), node: node.ID, subject: c.Subject(), over: make(chan struct{})}
	if err := s.c.Audit(ctx, s.row(v, "opened", "")); err != nil {
		return nil, err
	}
	switch {
	case in.NodeID == "":
		v.pipe, err = dial(ctx, set)
	case way == byChannel:
		v.pipe, err = s.c.Nodes.Open(ctx, c, node.ID)
	default:
		v.pipe, err = s.callNode(ctx, node.ID)
	}
	if err != nil {
		s.record(v, "closed", "it was not reached: "+textOf(err))
		return nil, err
	}
	s.mu.Lock()
	stopped := s.stopped
	if !stopped {
		s.open[v] = struct{}{}
	}
	s.mu.Unlock()
	v.start()
	if stopped {
		v.Close(ErrStopping)
		return nil, ErrStopping
	}
	return v, nil
}

// textOf is what people are told of a failure, without what caused it.
func textOf(err error) string {
	if e, ok := errs.As(err); ok {
		return e.Text
	}
	return err.Error()
}

// room takes a place for a screen that is being reached, until left is called.
func (s *Service) room(c identity.Caller, node string) (left func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, ErrStopping
	}
	mine := claim{node, c.Subject()}
	same, own := 0, 0
	count := func(o claim) {
		if o.node == mine.node {
			same++
		}
		if o.owner == mine.owner {
			own++
		}
	}
	for v := range s.open {
		count(claim{v.node, v.subject})
	}
	for _, o := range s.opening {
		count(o)
	}
	if len(s.open)+len(s.opening) >= MaxScreens || same >= MaxNodeScreens || own >= MaxOwnScreens {
		return nil, ErrTooMany
	}
	s.opening = append(s.opening, mine)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, o := range s.opening {
			if o == mine {
				s.opening = append(s.opening[:i], s.opening[i+1:]...)
				return
			}
		}
	}, nil
}

func (s *Service) row(v *Screen, act, detail string) Row {
	return Row{At: s.c.Now().UTC(), Act: act, Subject: v.subject, ScreenID: v.id, NodeID: v.node, Detail: detail}
}

// record writes the row of a screen that is over, whoever has gone meanwhile.
func (s *Service) record(v *Screen, act, detail string) {
	ctx, cancel := context.WithTimeout(context.Background(), recordTime)
	defer cancel()
	if err := s.c.Audit(ctx, s.row(v, act, detail)); err != nil {
		s.c.Log.Error("the end of a screen could not be recorded", "screen", v.id, "err", err)
	}
}

// dial reaches the VNC server of this machine.
func dial(ctx context.Context, set Settings) (Pipe, error) {
	ctx, cancel := context.WithTimeout(ctx, DialTime)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address(set))
	if err != nil {
		return nil, ErrNoServer.With("address", address(set)).Wrap(err)
	}
	return ConnPipe{conn}, nil
}

// ConnPipe is a connection as a Pipe.
type ConnPipe struct{ net.Conn }

// Close implements Pipe.
func (p ConnPipe) Close(error) error { return p.Conn.Close() }

// Screen is one viewer's way to a VNC server. One goroutine may read while another writes; Close may be called by
// anybody, and more than once.
type Screen struct {
	s             *Service
	id            string
	node, subject string
	pipe          Pipe

	began     time.Time
	timer     *time.Timer
	in, out   atomic.Int64 // bytes to the server, and from it
	last      atomic.Int64 // when bytes moved, since began
	reading   atomic.Int64 // when the viewer began to take what was read, since began; -1 while the server is waited for
	writing   atomic.Int64 // when a write to the server began; -1 without one
	once      sync.Once
	over      chan struct{} // closed by Close
	mu        sync.Mutex
	why       error
	done      bool
	nextCheck time.Duration
}

// ID names the screen in the audit log.
func (v *Screen) ID() string { return v.id }

// NodeID is empty for the daemon's machine.
func (v *Screen) NodeID() string { return v.node }

func (v *Screen) start() {
	v.began = time.Now()
	v.reading.Store(0)
	v.writing.Store(-1)
	v.nextCheck = min(v.s.c.Idle, v.s.c.Stall) / 4
	v.mu.Lock()
	defer v.mu.Unlock()
	v.timer = time.AfterFunc(v.nextCheck, v.look)
}

func (v *Screen) since() int64 { return int64(time.Since(v.began)) }

// look ends a screen that stands still.
func (v *Screen) look() {
	now := v.since()
	late := func(at int64) bool { return at >= 0 && time.Duration(now-at) > v.s.c.Stall }
	switch {
	case late(v.writing.Load()), late(v.reading.Load()):
		v.Close(ErrStalled)
		return
	case time.Duration(now-v.last.Load()) > v.s.c.Idle:
		v.Close(ErrIdle)
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.done {
		v.timer.Reset(v.nextCheck)
	}
}

// Read takes what the VNC server sends. It returns io.EOF when the server, or the node, has ended, and the reason of
// Close after that.
func (v *Screen) Read(p []byte) (int, error) {
	v.reading.Store(-1)
	n, err := v.pipe.Read(p)
	now := v.since()
	v.reading.Store(now)
	if n > 0 {
		v.last.Store(now)
		v.out.Add(int64(n))
	}
	if err != nil {
		return n, v.end(err)
	}
	return n, nil
}

// Write hands the VNC server what the viewer sends.
func (v *Screen) Write(p []byte) (int, error) {
	v.writing.Store(v.since())
	n, err := v.pipe.Write(p)
	v.writing.Store(-1)
	if n > 0 {
		v.last.Store(v.since())
		v.in.Add(int64(n))
	}
	if err != nil {
		return n, v.end(err)
	}
	return n, nil
}

// end is what a failed read or write is called.
func (v *Screen) end(err error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.done && v.why != nil:
		return v.why
	case v.done:
		return ErrClosed
	case errors.Is(err, io.EOF):
		return io.EOF
	}
	return err
}

// Done is closed when somebody has closed the screen, and Why says then why; nil that a side has left.
func (v *Screen) Done() <-chan struct{} { return v.over }

// Why is as Done says.
func (v *Screen) Why() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.why
}

// Close ends the screen and writes its row; err says why, nil that a side has left.
func (v *Screen) Close(err error) {
	v.once.Do(func() {
		v.mu.Lock()
		v.done, v.why = true, err
		if v.timer != nil {
			v.timer.Stop()
		}
		v.mu.Unlock()
		close(v.over)
		v.s.mu.Lock()
		delete(v.s.open, v)
		v.s.mu.Unlock()
		_ = v.pipe.Close(err) // there is nobody to tell
		detail := fmt.Sprintf("%d bytes to the viewer, %d from it, %s", v.out.Load(), v.in.Load(), time.Since(v.began).Round(time.Millisecond))
		if err != nil {
			detail += "; " + textOf(err)
		}
		v.s.record(v, "closed", detail)
	})
}
