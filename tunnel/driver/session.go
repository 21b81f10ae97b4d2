package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// The words of BIND.
const (
	kindHTTP   = "http"
	kindTCP    = "tcp"
	kindDial   = "dial"
	modeExpose = "expose"
	modePull   = "pull"
)

// Session is a tunnel as its client sees it. Its methods may be called concurrently.
type Session struct {
	o      Options
	log    *slog.Logger
	ctx    context.Context //nolint:containedctx // ends with the session
	cancel context.CancelFunc
	wg     sync.WaitGroup // the supervisor, and a goroutine for each stream with a local end
	done   chan struct{}
	places *places

	telling sync.Mutex // OnEvent, one call at a time

	mu       sync.Mutex
	id       string
	link     *link         // nil while there is none
	changed  chan struct{} // closed when link changes
	bindings []*binding    // in the order of their making, those that wait for their grant among them
	lastRef  int
	closing  bool
	ended    bool
	err      error
}

// binding is what a binding asks for, and what it has.
type binding struct {
	ref      int
	ask      wire.BindBody
	target   string // where streams end, "" of mode dial
	takeover bool
	wanted   int // the port asked for

	// Guarded by Session.mu.
	id        int // 0 before it is granted
	port      int
	publicURL string
	revoked   bool
	reason    string
}

// answer is what a server said to BIND or UNBIND.
type answer struct {
	ok  wire.BindOKBody
	err error
}

// link is the session on one primary carrier.
type link struct {
	m        *mux.Session
	hello    hello
	extended bool
	lost     chan struct{} // closed when the primary carrier is gone

	mu       sync.Mutex
	binds    map[int]chan answer // by ref
	unbinds  map[int]chan answer // by id
	lostErr  error
	away     *GoAwayError
	goneAway bool
}

// Connect opens a session. ctx bounds the first handshake only. An error is that of Dial, one of the refusals of this
// package, a *GoAwayError or ErrProtocol.
func Connect(ctx context.Context, o Options) (*Session, error) {
	switch {
	case o.Dial == nil:
		return nil, errors.New("tunnel/driver: Options.Dial is required")
	case o.Version == "":
		o.Version = wire.V1
	case o.Version != wire.V1 && o.Version != wire.V2:
		return nil, fmt.Errorf("the tunnel protocol %q is not known: use %s or %s", o.Version, wire.V1, wire.V2)
	}
	if o.MaxConnections < 0 || o.MaxConnections > maxCarriers || o.MaxConnections > 1 && o.Version != wire.V2 {
		return nil, fmt.Errorf("a tunnel has 1 to %d carriers, and more than one with %s only", maxCarriers, wire.V2)
	}
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	if o.Local == nil {
		o.Local = (&net.Dialer{}).DialContext
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Session{o: o, log: o.Log, done: make(chan struct{}), changed: make(chan struct{}), places: newPlaces(o.MaxLocal, o.MaxTarget)}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	l, err := s.handshake(ctx, o.Resume)
	if err != nil {
		s.cancel()
		return nil, err
	}
	s.publish(l)
	s.wg.Go(func() { s.supervise(l) })
	return s, nil
}

// publish makes a link the one in use; nil is none.
func (s *Session) publish(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link = l
	close(s.changed)
	s.changed = make(chan struct{})
}

// current waits for a link.
func (s *Session) current(ctx context.Context) (*link, error) {
	late := time.NewTimer(bindWait)
	defer late.Stop()
	for {
		s.mu.Lock()
		l, changed, over := s.link, s.changed, s.ended || s.closing
		s.mu.Unlock()
		switch {
		case over:
			return nil, s.closedErr()
		case l != nil:
			return l, nil
		}
		select {
		case <-changed:
		case <-s.done:
		case <-late.C:
			return nil, ErrAway
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrAway, ctx.Err())
		}
	}
}

func (s *Session) closedErr() error {
	if err := s.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return ErrClosed
}

// tell calls OnEvent.
func (s *Session) tell(e Event) {
	if s.o.OnEvent == nil {
		return
	}
	s.telling.Lock()
	defer s.telling.Unlock()
	s.o.OnEvent(e)
}

// Expose binds a port of the server, whose visitors end at a local target. Errors: a *TargetError, a *BindError,
// ErrAway, ErrClosed, ErrLimit.
func (s *Session) Expose(ctx context.Context, in ExposeIn) (*Binding, error) {
	target, err := Target(in.Target)
	if err != nil {
		return nil, err
	}
	b := &binding{target: target, takeover: in.Takeover, ask: wire.BindBody{
		Kind: kindHTTP, Mode: modeExpose, ContainerPort: in.Port, Label: in.Label, Subdomain: in.Subdomain, Access: in.Access, Takeover: &in.Takeover,
	}}
	if in.TCP {
		b.ask.Kind = kindTCP
	}
	return s.add(ctx, b)
}

// Pull binds a loopback port of the server, whose connections end at a local target. Errors as of Expose.
func (s *Session) Pull(ctx context.Context, in PullIn) (*Binding, error) {
	target, err := Target(in.Target)
	if err != nil {
		return nil, err
	}
	return s.add(ctx, &binding{target: target, ask: wire.BindBody{Kind: kindTCP, Mode: modePull, ContainerPort: in.Port, Label: in.Label, Host: in.Host}})
}

// DialBinding binds the right to open streams, on servers of ours (tunnel.md §4.13). Errors as of Expose; a server
// that does not know the mode dial answers INVALID_KIND.
func (s *Session) DialBinding(ctx context.Context, in DialIn) (*Dialer, error) {
	if s.o.Plain {
		return nil, &BindError{wire.InvalidKind, "streams of the client take the capability hanzod.1"}
	}
	b, err := s.add(ctx, &binding{ask: wire.BindBody{Kind: kindTCP, Mode: kindDial, ContainerPort: in.Port, Label: in.Label, Host: in.Host, Node: in.Node}})
	if err != nil {
		return nil, err
	}
	return &Dialer{b}, nil
}

// add asks for a binding and keeps it when it is granted.
func (s *Session) add(ctx context.Context, b *binding) (*Binding, error) {
	if p := b.ask.ContainerPort; p < 0 || p > 65535 {
		return nil, fmt.Errorf("the port of the server is 0 to 65535, not %d", p)
	}
	l, err := s.current(ctx)
	if err != nil {
		return nil, err
	}
	if !l.extended && b.ask.Mode == kindDial {
		return nil, &BindError{wire.InvalidKind, "the server does not know streams that the client opens"}
	}
	s.mu.Lock()
	if len(s.bindings) >= maxBindings {
		s.mu.Unlock()
		return nil, fmt.Errorf("%w: %d bindings", ErrLimit, maxBindings)
	}
	s.lastRef++
	b.ref, b.wanted = s.lastRef, b.ask.ContainerPort
	b.ask.ClientBindRef = b.ref
	s.bindings = append(s.bindings, b) // streams may come with the answer
	s.mu.Unlock()
	if err := s.bind(ctx, l, b, b.wanted); err != nil {
		s.drop(b)
		return nil, err
	}
	return &Binding{s, b}, nil
}

// bind asks for a binding on a link with a port, and waits for the answer.
func (s *Session) bind(ctx context.Context, l *link, b *binding, port int) error {
	ask := b.ask
	ask.ContainerPort = port
	ch := make(chan answer, 1)
	l.mu.Lock()
	l.binds[b.ref] = ch
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.binds, b.ref)
		l.mu.Unlock()
	}()
	if err := l.m.Send(wire.Bind, wire.Encode(ask)); err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	a, err := s.wait(ctx, l, ch, bindWait)
	return cmp.Or(err, a.err)
}

// wait waits for an answer on a link.
func (s *Session) wait(ctx context.Context, l *link, ch chan answer, d time.Duration) (answer, error) {
	late := time.NewTimer(d)
	defer late.Stop()
	select {
	case a := <-ch:
		return a, nil
	case <-l.lost:
		select {
		case a := <-ch: // it came before
			return a, nil
		default:
		}
		return answer{}, l.whyLost()
	case <-s.ctx.Done():
		return answer{}, ErrClosed
	case <-late.C:
		return answer{}, fmt.Errorf("the server did not answer within %s: %w", d, context.DeadlineExceeded)
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
}

// drop forgets a binding.
func (s *Session) drop(b *binding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bindings = slices.DeleteFunc(s.bindings, func(other *binding) bool { return other == b })
}

// Unbind ends a binding and waits for the server to say so. One that has ended is no error.
func (s *Session) Unbind(ctx context.Context, b *Binding) error {
	s.mu.Lock()
	l, id := s.link, b.b.id
	known := slices.Contains(s.bindings, b.b)
	s.mu.Unlock()
	if !known {
		return nil
	}
	s.drop(b.b) // it does not come back after a drop, whatever happens
	if l == nil {
		return nil // the next session has no such binding
	}
	return s.unbind(ctx, l, id)
}

func (s *Session) unbind(ctx context.Context, l *link, id int) error {
	ch := make(chan answer, 1)
	l.mu.Lock()
	l.unbinds[id] = ch
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.unbinds, id)
		l.mu.Unlock()
	}()
	if err := l.m.Send(wire.Unbind, wire.Encode(wire.UnbindBody{BindID: id})); err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	a, err := s.wait(ctx, l, ch, bindWait)
	return cmp.Or(err, a.err)
}

// Bindings returns the bindings that have not ended, in the order of their making.
func (s *Session) Bindings() []*Binding {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*Binding, 0, len(s.bindings))
	for _, b := range s.bindings {
		if b.id != 0 {
			out = append(out, &Binding{s, b})
		}
	}
	return out
}

// ID is that of the session, which changes when it is replaced.
func (s *Session) ID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// Extended reports whether the server knows hanzod.1; false without a carrier.
func (s *Session) Extended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link != nil && s.link.extended
}

// Stats returns the counts of the session on its present carriers, zero without any.
func (s *Session) Stats() mux.Stats {
	s.mu.Lock()
	l := s.link
	s.mu.Unlock()
	if l == nil {
		return mux.Stats{}
	}
	return l.m.Stats()
}

// Streams is how many streams there are now.
func (s *Session) Streams() int {
	s.mu.Lock()
	l := s.link
	s.mu.Unlock()
	if l == nil {
		return 0
	}
	return l.m.Streams()
}

// Close ends the bindings, for at most two seconds, and then the session. It waits for the goroutines of the session
// and is idempotent. It is not called from OnEvent and Serve.
func (s *Session) Close() error {
	s.mu.Lock()
	first := !s.closing && !s.ended
	s.closing = true
	l := s.link
	var ids []int
	for _, b := range s.bindings {
		if b.id != 0 && !b.revoked {
			ids = append(ids, b.id)
		}
	}
	s.mu.Unlock()
	if first && l != nil {
		ctx, cancel := context.WithTimeout(s.ctx, unbindWait)
		var all sync.WaitGroup
		for _, id := range ids {
			all.Go(func() { _ = s.unbind(ctx, l, id) }) // the close says the same
		}
		all.Wait()
		cancel()
		_ = l.m.Close(closeNormal, "")
	}
	s.cancel()
	<-s.done
	s.wg.Wait()
	if l != nil {
		l.m.Wait() // the server knows then, or does not listen
	}
	return nil
}

// finish ends the session for good; the supervisor calls it.
func (s *Session) finish(err error) {
	s.mu.Lock()
	if s.closing {
		err = nil
	}
	l := s.link
	s.link, s.ended, s.err = nil, true, err
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	if l != nil {
		_ = l.m.Close(closeNormal, "")
	}
	s.cancel()
	close(s.done)
}

// Done is closed when the session has ended for good; Err says why then.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is nil before Done, and after Close.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Wait waits for the end of the session, whose error it returns, or of ctx.
func (s *Session) Wait(ctx context.Context) error {
	select {
	case <-s.done:
		return s.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Info is what is known of the binding now.
func (b *Binding) Info() BindingInfo {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	i := b.b
	return BindingInfo{
		ID: i.id, Port: i.port, PublicURL: i.publicURL, Kind: i.ask.Kind, Mode: i.ask.Mode, Target: i.target, Label: i.ask.Label, Node: i.ask.Node, Host: i.ask.Host,
		Revoked: i.revoked, RevocationReason: i.reason,
	}
}

// answered hands the answer for a ref or an id to who waits for it.
func answered(waiting map[int]chan answer, key int, a answer) bool {
	ch := waiting[key]
	if ch == nil {
		return false
	}
	select {
	case ch <- a:
	default: // a second answer
	}
	return true
}

// failAll answers all binds that wait (tunnel.md §4.5).
func failAll(waiting map[int]chan answer, err error) {
	for ref := range maps.Keys(waiting) {
		answered(waiting, ref, answer{err: err})
	}
}

// control takes the frames of the session on the reading goroutine.
func (s *Session) control(l *link, f wire.Frame) error {
	switch f.Type {
	case wire.BindOK:
		var ok wire.BindOKBody
		if err := wire.Decode(f.Payload, &ok); err != nil {
			return &mux.SessionError{Code: wire.CodeProtocol, Message: "BIND_OK is not understood"}
		}
		s.granted(l, ok)
	case wire.BindErr:
		var refused wire.BindErrBody
		err := wire.Decode(f.Payload, &refused)
		l.mu.Lock()
		defer l.mu.Unlock()
		e := &BindError{refused.Code, refused.Message}
		if err != nil {
			e = &BindError{wire.Internal, "the refusal is not understood"}
		}
		if err != nil || !answered(l.binds, refused.ClientBindRef, answer{err: e}) {
			failAll(l.binds, e)
		}
	case wire.UnbindOK, wire.UnbindErr:
		var u wire.UnbindBody
		if err := wire.Decode(f.Payload, &u); err != nil {
			return nil // who waits for it has a deadline
		}
		var a answer
		if f.Type == wire.UnbindErr {
			a.err = &BindError{cmp.Or(u.Code, wire.Internal), cmp.Or(u.Message, "the binding could not be ended")}
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		answered(l.unbinds, u.BindID, a)
	case wire.BindRevoked:
		var r wire.BindRevokedBody
		if err := wire.Decode(f.Payload, &r); err == nil {
			s.revoked(r)
		}
	case wire.GoAway:
		var g wire.GoAwayBody
		_ = wire.Decode(f.Payload, &g) // it means the same without its members
		l.mu.Lock()
		l.away = &GoAwayError{g.Code, g.Message}
		again := l.goneAway
		l.goneAway = true
		l.mu.Unlock()
		if !again {
			s.goneAway(l, time.Duration(min(max(g.GraceMS, 0), maxDrain.Milliseconds()))*time.Millisecond)
		}
	}
	return nil
}

// granted notes a grant before the next frame is looked at, which may be a stream of it.
func (s *Session) granted(l *link, ok wire.BindOKBody) {
	s.mu.Lock()
	i := slices.IndexFunc(s.bindings, func(b *binding) bool { return b.ref == ok.ClientBindRef })
	if i >= 0 {
		b := s.bindings[i]
		b.id, b.port, b.revoked = ok.BindID, ok.ContainerPort, false
		if b.publicURL = ""; ok.PublicURL != nil {
			b.publicURL = *ok.PublicURL
		}
	}
	s.mu.Unlock()
	l.mu.Lock()
	taken := answered(l.binds, ok.ClientBindRef, answer{ok: ok})
	l.mu.Unlock()
	if !taken {
		// Nobody waits for it any more: it must not stay.
		_ = l.m.Send(wire.Unbind, wire.Encode(wire.UnbindBody{BindID: ok.BindID}))
	}
}

// revoked notes that a binding went to somebody else.
func (s *Session) revoked(r wire.BindRevokedBody) {
	s.mu.Lock()
	i := slices.IndexFunc(s.bindings, func(b *binding) bool { return b.id == r.BindID })
	if i < 0 {
		s.mu.Unlock()
		return
	}
	b := s.bindings[i]
	b.revoked, b.reason = true, r.Reason
	s.bindings = slices.Delete(s.bindings, i, i+1)
	s.mu.Unlock()
	s.tell(Event{Kind: Revoked, Binding: &Binding{s, b}, Text: r.Reason})
}

// find is where a stream belongs: to the binding that it names, else to the latest of its kind, which is what
// published servers mean.
func (s *Session) find(body wire.StreamOpenBody) *binding {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range slices.Backward(s.bindings) {
		switch {
		case b.target == "":
		case body.BindID != 0 && b.id == body.BindID, body.BindID == 0 && b.ask.Kind == body.Kind:
			return b
		}
	}
	return nil
}
