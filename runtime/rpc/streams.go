package rpc

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
)

// maxCarriers bounds the carriers of tunnels, those before their HELLO among them: as many tunnels as may be
// configured bring two each.
const maxCarriers = 20_000

// streams knows the open streams, so that they can be ended from outside.
type streams struct {
	mu      sync.Mutex
	live    map[*liveStream]struct{} // at most MaxStreams, and maxLinks more for nodes, and carriers, and the calls
	links   int
	chans   int
	calls   int
	carried int
	each    map[string]int // streams and links by device
	stopped error
}

type liveStream struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	caller identity.Caller
	owner  string // the device that it counts for, "" for callers without one
	kind   streamKind
	expiry *time.Timer // nil for callers whose credential has no end
}

// expires ends the stream with the token of its caller. What carries tunnels and channels looks at it itself.
func (l *liveStream) expires() {
	if l.expiry != nil {
		l.expiry.Stop()
	}
	if at := l.caller.Expires; !at.IsZero() && l.kind != aCarrier && l.kind != aChannel {
		l.expiry = time.AfterFunc(time.Until(at), func() { l.cancel(errExpired) })
	}
}

// streamKind says what stands among the streams.
type streamKind uint8

const (
	aWatch   streamKind = iota // or a wait for an approval
	aLink                      // of a node
	aCall                      // a unary call that may last; other limits bound those
	aChannel                   // beside the link of a node
	aCarrier                   // of a tunnel
)

func (s *streams) add(ctx context.Context, c identity.Caller, kind streamKind) (*liveStream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped != nil {
		return nil, s.stopped
	}
	l := &liveStream{caller: c, kind: kind}
	if kind != aCall {
		l.owner = c.DeviceID
	}
	switch {
	case l.owner != "" && s.each[l.owner] >= maxStreamsEach:
		return nil, errStreams
	case kind == aCall:
		s.calls++
	case kind == aLink && s.links >= maxLinks:
		return nil, nodes.ErrTooManyNodes
	case kind == aLink:
		s.links++
	case kind == aChannel && s.chans >= maxChannelStreams:
		return nil, nodes.ErrTooManyChannels
	case kind == aChannel:
		s.chans++
	case kind == aCarrier && s.carried >= maxCarriers:
		return nil, errStreams
	case kind == aCarrier:
		s.carried++
	case len(s.live)-s.links-s.calls-s.chans-s.carried >= MaxStreams:
		return nil, errStreams
	}
	if l.owner != "" {
		s.each[l.owner]++
	}
	l.ctx, l.cancel = context.WithCancelCause(context.WithValue(ctx, liveKey{}, l))
	s.live[l] = struct{}{}
	l.expires()
	return l, nil
}

// live puts a call into the list of those that Stop and EndStreams reach. A caller whose credential ended
// since it was looked at is refused: nobody else will end it.
func (s *Server) live(ctx context.Context, c identity.Caller, kind streamKind) (*liveStream, error) {
	l, err := s.streams.add(ctx, c, kind)
	if err != nil {
		return nil, err
	}
	if err := s.d.Devices.Standing(c); err != nil {
		s.streams.remove(l)
		return nil, err
	}
	return l, nil
}

// devices counts the open streams of each device.
func (s *streams) devices() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]int{}
	for l := range s.live {
		if l.caller.DeviceID != "" && l.kind != aCall {
			out[l.caller.DeviceID]++
		}
	}
	return out
}

// lasting runs a unary call that may last for as long as its caller's credential does: what was asked by
// a device that was revoked since, or with a token that expired, is not done later.
func lasting[In, Out any](
	s *Server, do func(context.Context, identity.Caller, In) (Out, error),
) func(context.Context, identity.Caller, In) (Out, error) {
	return func(ctx context.Context, c identity.Caller, in In) (Out, error) {
		if c.DeviceID == "" && c.Expires.IsZero() {
			return do(ctx, c, in)
		}
		live, err := s.live(ctx, c, aCall)
		if err != nil {
			var none Out
			return none, err
		}
		defer s.streams.remove(live)
		out, err := do(live.ctx, c, in)
		if err != nil && live.ctx.Err() != nil {
			err = context.Cause(live.ctx)
		}
		return out, err
	}
}

func (s *streams) remove(l *liveStream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.live[l]; there {
		switch l.kind {
		case aLink:
			s.links--
		case aCall:
			s.calls--
		case aChannel:
			s.chans--
		case aCarrier:
			s.carried--
		}
		if l.owner != "" {
			if s.each[l.owner]--; s.each[l.owner] == 0 {
				delete(s.each, l.owner)
			}
		}
	}
	delete(s.live, l)
	if l.expiry != nil {
		l.expiry.Stop()
	}
	l.cancel(nil)
}

// become gives a stream the caller that it turned out to be.
func (s *streams) become(l *liveStream, c identity.Caller) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.caller = c
	l.expires()
}

type liveKey struct{}

// liveFrom returns the stream of a handler's context.
func liveFrom(ctx context.Context) (*liveStream, bool) {
	l, ok := ctx.Value(liveKey{}).(*liveStream)
	return l, ok
}

func (s *streams) end(match func(identity.Caller) bool, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.live {
		if match(l.caller) {
			l.cancel(why)
		}
	}
}

func (s *streams) stop(why error) {
	s.mu.Lock()
	s.stopped = why
	s.mu.Unlock()
	s.end(func(identity.Caller) bool { return true }, why)
}

// open tells the client that the stream stands: from here on nothing is missed. The header is not
// empty, because the in-process channel passes on no empty one.
func open(stream grpc.ServerStream) error {
	return stream.SendHeader(metadata.Pairs(OpenHeader, "open"))
}

// OpenHeader is the metadata that a stream sends once it misses nothing more.
const OpenHeader = "hanzo-stream"

// forward hands on events until the stream ends; it returns why. lost is told of dropped events, in
// the place where they were, and decides whether to go on. An event without a name stands only for
// that.
func forward(ctx context.Context, sub *events.Subscription, lost func(n uint64) error, send func(events.Event) error) error {
	for {
		e, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		if e.Lost > 0 {
			if err := lost(e.Lost); err != nil {
				return err
			}
		}
		if err := send(e); err != nil {
			return err
		}
	}
}

// stateLost is for streams of states: a reader that missed a change would hold a wrong picture for
// ever, so the stream ends and the reader begins again with a fresh one.
func (s *Server) stateLost(c identity.Caller) func(uint64) error {
	return func(n uint64) error {
		s.d.Metrics.EventsDropped(c.Door.String(), n)
		return errSlow
	}
}
