package host

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/errs"
)

// Limits of serving.
const (
	// MaxInvokes is how many invokes are served at once; more are answered UNAVAILABLE. It is above
	// MaxRuns, so that short questions are answered while every place for commands is taken.
	MaxInvokes = 2 * MaxRuns
	// firstWait and maxWait bound the pause between attempts to connect, which doubles; every pause is
	// shortened by up to a half at random, so that nodes of a restarted gateway do not come back at
	// once.
	firstWait = time.Second
	maxWait   = 60 * time.Second
	// absentWait bounds it where nobody answered at all: asking again costs nobody anything, and a machine whose
	// network comes back is to be back within five seconds, of which one attempt that got no answer may
	// take a part.
	absentWait = 3 * time.Second
	// healthyAfter is how long a link must have stood to make the next pause the first again.
	healthyAfter = time.Minute
)

// Phase is where a node stands.
type Phase string

// The phases.
const (
	Connecting Phase = "connecting"
	Connected  Phase = "connected"
	Waiting    Phase = "waiting"
)

// State is what Serve reports.
type State struct {
	Phase Phase
	// Link is set when connected.
	Link Info
	// Err is why there is no link, and RetryIn when the next attempt is, when waiting.
	Err     error
	RetryIn time.Duration
}

// Offer is what a node offers to a gateway.
type Offer struct {
	Caps, Commands []string
	PathEnv        string
}

// Info describes a link, for people.
type Info struct {
	// Via is the way ("grpc", "websocket"), Gateway the address.
	Via, Gateway string
	// Version and ConnID are what the gateway said.
	Version, ConnID string
}

// Link is a live connection to a gateway. Its methods may be called concurrently.
type Link interface {
	Info() Info
	// Answer hands over the result of a request, Emit an event with its payload as JSON text.
	Answer(Request, Result) error
	Emit(event, payloadJSON string) error
	// Done is closed when the link has ended; Err says why then.
	Done() <-chan struct{}
	Err() error
	// Close ends the link and waits for its goroutines.
	Close() error
}

// Channeler is a Link that has channels.
type Channeler interface {
	// Channel opens the channel that a request named. It fails when the gateway does not expect it.
	Channel(ctx context.Context, name string) (Channel, error)
}

// Carrying is a Link whose gateway takes carriers for tunnels.
type Carrying interface {
	// Carry opens one, of a version of the protocol that the carrier speaks. ctx covers the opening alone; the
	// carrier may outlive the link.
	Carry(ctx context.Context, version string) (Carrier, error)
}

// Connector makes links to one gateway.
type Connector interface {
	// Connect returns when the gateway has let the node in; ctx covers that alone. An error of the class
	// errs.Invalid is one that no retry mends. invoke is called by the link for each request, one call at
	// a time, and does not block.
	Connect(ctx context.Context, offer Offer, invoke func(Link, Request)) (Link, error)
	// Explain logs why there is no link, and what a person can do.
	Explain(log *slog.Logger, err error)
}

// absentee is a Connector that can tell that nobody answered.
type absentee interface {
	// Absent reports whether an error of Connect says that nobody is there. A gateway that refuses is.
	Absent(err error) bool
}

// ServeOptions of Serve. Host and Connector are required.
type ServeOptions struct {
	Host      *Host
	Connector Connector
	// OnState is called, one call at a time, when the state changes. It must not block.
	OnState func(State)
	// Healthy is how long a link must have stood to make the next pause the first again; a minute when zero.
	Healthy time.Duration
	// Once makes no second attempt: Serve returns what ended the first.
	Once bool
	// Wait pauses, and returns early when ctx ends; Rand returns a number in [0,1); Now is the clock.
	// They are for tests.
	Wait func(ctx context.Context, d time.Duration)
	Rand func() float64
	Now  func() time.Time
	Log  *slog.Logger
}

// Serve keeps this machine linked to a gateway until ctx ends, and returns ctx's error then. An error
// of the class errs.Invalid, which no retry mends, is returned at once. Losing the link ends the
// commands that were running for it; their results are dropped, because a gateway fails an invoke when
// its link goes (protocol.md §6.7).
func Serve(ctx context.Context, o ServeOptions) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.OnState == nil {
		o.OnState = func(State) {}
	}
	if o.Wait == nil {
		o.Wait = pause
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Healthy == 0 {
		o.Healthy = healthyAfter
	}
	wait := firstWait
	for ctx.Err() == nil {
		o.OnState(State{Phase: Connecting})
		stood, err := serveOnce(ctx, o)
		if ctx.Err() != nil {
			break
		}
		if errs.ClassOf(err) == errs.Invalid || o.Once {
			return err
		}
		if stood >= o.Healthy {
			wait = firstWait
		}
		most := maxWait
		if a, ok := o.Connector.(absentee); ok && a.Absent(err) {
			most = absentWait
		}
		wait = min(wait, most)
		d := wait - time.Duration(o.Rand()*float64(wait)/2)
		wait = min(2*wait, maxWait)
		o.Connector.Explain(o.Log.With("retryIn", d.Round(time.Millisecond).String()), err)
		o.OnState(State{Phase: Waiting, Err: err, RetryIn: d})
		o.Wait(ctx, d)
	}
	return ctx.Err()
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// serveOnce connects, serves until the link is gone, and returns how long it stood.
func serveOnce(ctx context.Context, o ServeOptions) (stood time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx) // ends the commands when the link goes
	s := &session{ctx: ctx, host: o.Host, log: o.Log, slots: make(chan struct{}, MaxInvokes), linked: make(chan struct{})}
	defer s.wg.Wait()
	defer cancel()
	offer := Offer{Caps: o.Host.Caps(), Commands: o.Host.Commands(), PathEnv: o.Host.PathEnv()}
	l, err := o.Connector.Connect(ctx, offer, s.invoke)
	if err != nil {
		return 0, err
	}
	defer l.Close()
	began := o.Now()
	i := l.Info()
	o.Log.Info("connected to the gateway", "gateway", i.Gateway, "via", i.Via, "version", i.Version, "conn", i.ConnID)
	o.OnState(State{Phase: Connected, Link: i})
	o.Host.linked(l.Emit, l.Done())
	close(s.linked)
	select {
	case <-l.Done():
		return o.Now().Sub(began), l.Err()
	case <-ctx.Done():
		return o.Now().Sub(began), ctx.Err()
	}
}

// session serves the invokes of one link.
type session struct {
	ctx   context.Context
	host  *Host
	log   *slog.Logger
	slots chan struct{}
	wg    sync.WaitGroup
	// linked is closed when the modules know the link: a gateway may ask before Connect has returned, and what
	// a command emits has to have where to go.
	linked chan struct{}

	mu   sync.Mutex
	rows map[string]chan struct{} // the last request of each row, closed when it has been served
}

// line puts a request at the end of its row: wait returns when its turn has come, done ends it.
func (s *session) line(row string) (wait, done func()) {
	if row == "" {
		return func() {}, func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rows == nil {
		s.rows = map[string]chan struct{}{}
	}
	before, mine := s.rows[row], make(chan struct{})
	s.rows[row] = mine
	wait = func() {
		if before == nil {
			return
		}
		select {
		case <-before:
		case <-s.ctx.Done():
		}
	}
	return wait, func() {
		close(mine)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.rows[row] == mine {
			delete(s.rows, row)
		}
	}
}

// invoke runs in the link's reader: it starts the invoke and returns.
func (s *session) invoke(l Link, r Request) {
	select {
	case s.slots <- struct{}{}:
	default:
		s.answer(l, r, failed("UNAVAILABLE", fmt.Sprintf("UNAVAILABLE: this node is already serving %d requests; try again later", MaxInvokes)))
		return
	}
	r.Emit = func(event, payload string) {
		if err := l.Emit(event, payload); err != nil {
			s.log.Warn("an event could not be delivered to the gateway and is dropped", "event", event, "err", err)
		}
	}
	r.Send, r.Ended = l.Emit, l.Done()
	if c, ok := l.(Channeler); ok {
		r.Channel = c.Channel
	}
	if c, ok := l.(Carrying); ok {
		r.Carry = c.Carry
	}
	wait, done := s.line(s.host.sequence(r))
	s.wg.Go(func() {
		defer func() { <-s.slots }()
		defer done()
		select {
		case <-s.linked:
		case <-s.ctx.Done():
		}
		wait()
		s.answer(l, r, s.host.Handle(s.ctx, r))
	})
}

func (s *session) answer(l Link, r Request, result Result) {
	if err := l.Answer(r, result); err != nil {
		s.log.Warn("the result of a command could not be delivered to the gateway and is dropped", "command", r.Command, "invoke", r.ID, "err", err)
	}
}
