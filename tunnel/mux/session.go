package mux

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanzoai/hanzod/tunnel/wire"
)

// The errors of sessions. What ends a stream is a *ResetError where a RESET did.
var (
	// ErrClosed is what everything answers once the session has ended.
	ErrClosed = errors.New("the tunnel has ended")
	// ErrGoingAway is for opening a stream after either end said GOAWAY.
	ErrGoingAway = errors.New("the tunnel is about to end and takes no new streams")
	// ErrStreams is for opening a stream beyond Config.MaxStreams.
	ErrStreams = errors.New("the tunnel has as many streams as it may have")
	// ErrCarrier is for a carrier that the session does not have.
	ErrCarrier = errors.New("the tunnel has no such carrier")
	// ErrIDs is for a session that has used every stream id.
	ErrIDs = errors.New("the tunnel has used all its stream ids")
)

// SessionError ends a session: the GOAWAY that the other end gets, and the code that its carriers are closed with.
type SessionError struct {
	Code    wire.Code
	Message string
	// Close is the WebSocket close code; 0 means 1002.
	Close int
}

func (e *SessionError) Error() string { return e.Code.String() + ": " + e.Message }

// Config makes a session.
type Config struct {
	// Client is the end that dialled: its own streams have odd ids. The other end's are even.
	Client bool
	// StreamWindow and SessionWindow are the bytes of DATA that the other end may send before it gets credit back,
	// PeerStreamWindow and PeerSessionWindow what it lets this end send. 0 means the defaults of package wire for
	// the first two, and the same as those for the latter: HELLO_OK states one pair for both directions.
	StreamWindow, SessionWindow         uint32
	PeerStreamWindow, PeerSessionWindow uint32
	// MaxStreams is how many streams there may be at once, whoever opens them; 0 means 256. A stream of the other
	// end counts until it is over on the wire and closed here.
	MaxStreams int
	// Hanzod1 admits STREAM_ACCEPT, STREAM_CONTROL and BINDINGS; without it they are skipped. It also lets this end
	// gather credit before it is given back.
	Hanzod1 bool
	// PingEvery is how often each carrier is asked whether it lives, PongWithin how long an answer may take before
	// the carrier counts as lost (of the primary: GOAWAY 10 `pong timeout`). 0 asks nothing; PINGs of the other end
	// are answered in any case.
	PingEvery, PongWithin time.Duration
	// Control gets the frames of stream 0 other than WINDOW, PING and PONG; GOAWAY too, after which the session
	// opens no more streams. It runs on the goroutine that reads the carrier and must not wait. Its payload is
	// valid until it returns. An error ends the session with GOAWAY: a *SessionError as it says, others as a
	// protocol error. nil takes GOAWAY only.
	Control func(index int, f wire.Frame) error
	// Open gets the streams that the other end opens, on the reading goroutine: it must not wait. An error refuses
	// the stream: a *ResetError as it says, others with RESET 6 and their text. Whatever Open keeps, it closes. nil
	// refuses all.
	Open func(s *Stream, body wire.StreamOpenBody) error
	// Lost says that a carrier ended, once for each that was added and after its streams ended. Index 0 has taken
	// the session with it. The error is a *CloseError when the other end closed it, ErrClosed when this end did, a
	// *SessionError for what the other end did wrong. It must not wait.
	Lost func(index int, err error)
}

// Session is one end of a tunnel: streams on one carrier or more. All its methods may be used at the same time.
type Session struct {
	cfg Config
	// wait counts carriers.
	wait sync.WaitGroup
	done chan struct{}

	mu    sync.Mutex
	links [maxLinks]*link
	// streams are those that are not over on the wire. slots counts those that are not closed here either.
	streams map[uint32]*Stream
	slots   int
	drained sync.Cond
	// nextID is the id of the next stream of this end, maxPeer the highest of the other end.
	nextID, maxPeer uint32
	// refused is how many streams were refused in a row.
	refused int
	// leaving is after GOAWAY of this end, left after GOAWAY of the other.
	leaving, left bool
	err           error
	// recvLeft is the credit that the other end has left, recvPend what it will get back, giveBack that it is
	// time. sendLeft is the credit of this end.
	recvLeft, recvPend, sendLeft int64
	giveBack                     bool
	// starved are the streams that wait for credit of the session.
	starved list
	// holding are the streams with credit that is not given back yet.
	holding list
	// queued is bytes that wait to be sent, held those that wait to be read.
	queued, held int64
	// busy is how many streams have bytes that wait to be sent.
	busy  int
	stats Stats
	tick  *time.Timer
}

// maxLinks is the most carriers (tunnel.md §4.5).
const maxLinks = 16

// The windows for peers with the capability hanzod.1: 8 MiB carry 160 MB/s over 50 ms.
const (
	OwnStreamWindow  = 8 << 20
	OwnSessionWindow = 32 << 20
)

// heldBytes is what all sessions of the process have received and nobody has read; above heldBudget each stream gets
// no more credit back than the smallest window needs.
var heldBytes atomic.Int64

const heldBudget = 256 << 20

// New makes a session without carriers.
func New(cfg Config) *Session {
	if cfg.StreamWindow == 0 {
		cfg.StreamWindow = wire.StreamWindow
	}
	if cfg.SessionWindow == 0 {
		cfg.SessionWindow = wire.SessionWindow
	}
	if cfg.PeerStreamWindow == 0 {
		cfg.PeerStreamWindow = cfg.StreamWindow
	}
	if cfg.PeerSessionWindow == 0 {
		cfg.PeerSessionWindow = cfg.SessionWindow
	}
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = 256
	}
	s := &Session{
		cfg: cfg, done: make(chan struct{}), streams: map[uint32]*Stream{}, nextID: 2,
		recvLeft: int64(cfg.SessionWindow), sendLeft: int64(cfg.PeerSessionWindow), starved: list{kind: inStarved}, holding: list{kind: inHolding},
	}
	if cfg.Client {
		s.nextID = 1
	}
	s.drained.L = &s.mu
	return s
}

// Add gives the session a carrier, which it owns from now on, also when it answers an error: 0 is the primary, 1 to
// 15 are the further ones of v2. The frames of first are taken before anything is read: what came behind HELLO,
// HELLO_OK or JOIN in their message. ErrClosed, ErrCarrier for an index that is taken.
func (s *Session) Add(index int, c Carrier, first []byte) error {
	s.mu.Lock()
	err := s.err
	if err == nil && (index < 0 || index >= maxLinks || s.links[index] != nil) {
		err = ErrCarrier
	}
	if err != nil {
		s.mu.Unlock()
		_ = c.Close(0, "")
		return err
	}
	l := s.link(index, c)
	l.goroutines = 2
	s.wait.Add(1)
	if s.cfg.PingEvery > 0 {
		l.pingDue = time.Now().Add(s.cfg.PingEvery)
		s.schedule()
	}
	s.mu.Unlock()
	if len(first) > 0 {
		first = append([]byte(nil), first...)
	}
	go l.reader(first)
	go l.writer()
	return nil
}

func (s *Session) link(index int, c Carrier) *link {
	l := &link{s: s, index: index, c: c, windows: list{kind: inWindows}, ready: list{kind: inReady}}
	l.work.L = &s.mu
	s.links[index] = l
	return l
}

// Open opens a stream on the carrier that has the fewest. It does not wait for the other end: a refusal arrives as
// a *ResetError of the stream's methods. ErrClosed, ErrGoingAway, ErrStreams, ErrIDs, wire.ErrSize.
func (s *Session) Open(ctx context.Context, body wire.StreamOpenBody) (*Stream, error) {
	return s.open(ctx, -1, body)
}

// OpenOn is Open on a given carrier; ErrCarrier when it is not there.
func (s *Session) OpenOn(ctx context.Context, index int, body wire.StreamOpenBody) (*Stream, error) {
	if index < 0 || index >= maxLinks {
		return nil, ErrCarrier
	}
	return s.open(ctx, index, body)
}

func (s *Session) open(ctx context.Context, index int, body wire.StreamOpenBody) (*Stream, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return nil, s.err
	case s.leaving || s.left:
		return nil, ErrGoingAway
	case s.slots >= s.cfg.MaxStreams:
		return nil, ErrStreams
	case s.nextID >= 1<<32-2:
		return nil, ErrIDs
	}
	var l *link
	if index >= 0 {
		l = s.links[index]
		if l != nil && l.err != nil {
			l = nil
		}
	} else {
		for _, one := range s.links {
			if one != nil && one.err == nil && (l == nil || one.streams < l.streams) {
				l = one
			}
		}
	}
	if l == nil {
		return nil, ErrCarrier
	}
	open, err := wire.AppendBody(nil, wire.StreamOpen, s.nextID, &body)
	if err != nil {
		return nil, err
	}
	st := s.stream(l, s.nextID, body.RemoteAddr)
	s.nextID += 2
	st.control = open
	l.ready.push(st)
	l.kick(false)
	return st, nil
}

// stream makes one and counts it.
func (s *Session) stream(l *link, id uint32, remote string) *Stream {
	st := &Stream{s: s, l: l, id: id, remote: remote, recvLeft: int64(s.cfg.StreamWindow), sendLeft: int64(s.cfg.PeerStreamWindow), counted: true}
	st.rc.L, st.wc.L = &s.mu, &s.mu
	s.streams[id] = st
	s.slots++
	l.streams++
	s.stats.Opened++
	return st
}

// Send queues a frame of stream 0 on the primary, whose payload is a copy. It does not wait; a queue that is full
// ends the session. ErrClosed, ErrCarrier.
func (s *Session) Send(t wire.Type, payload []byte) error { return s.SendOn(0, t, payload) }

// SendOn is Send on a given carrier.
func (s *Session) SendOn(index int, t wire.Type, payload []byte) error {
	if len(payload) > wire.MaxPayload {
		return wire.ErrSize
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if index < 0 || index >= maxLinks || s.links[index] == nil || s.links[index].err != nil {
		return ErrCarrier
	}
	l := s.links[index]
	if len(l.control) > maxControl {
		s.fail(&SessionError{Code: wire.CodeCalm, Message: "control frames are not read", Close: 1008})
		return s.err
	}
	l.control = wire.Append(l.control, t, 0, payload)
	l.kick(false)
	return nil
}

// PingAll sends a PING on each carrier now.
func (s *Session) PingAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.links {
		if l != nil {
			l.ping(time.Now())
		}
	}
}

// schedule sets the timer to the next PING or missing PONG. The lock is held.
func (s *Session) schedule() {
	var next time.Time
	for _, l := range s.links {
		if l == nil || l.err != nil {
			continue
		}
		if next.IsZero() || l.pingDue.Before(next) {
			next = l.pingDue
		}
		if due := l.pinged.Add(s.cfg.PongWithin); s.cfg.PongWithin > 0 && !l.pinged.IsZero() && due.Before(next) {
			next = due
		}
	}
	if next.IsZero() {
		return
	}
	wait := max(time.Until(next), time.Millisecond)
	if s.tick == nil {
		s.tick = time.AfterFunc(wait, s.ticked)
		return
	}
	s.tick.Reset(wait)
}

func (s *Session) ticked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	now := time.Now()
	for _, l := range s.links {
		if l == nil || l.err != nil {
			continue
		}
		if s.cfg.PongWithin > 0 && !l.pinged.IsZero() && now.Sub(l.pinged) >= s.cfg.PongWithin {
			timeout := &SessionError{Code: wire.CodeIdle, Message: "pong timeout", Close: 1001}
			if l.index == 0 {
				s.fail(timeout)
				return
			}
			l.drop(timeout)
			continue
		}
		if !now.Before(l.pingDue) {
			l.ping(now)
			l.pingDue = now.Add(s.cfg.PingEvery)
		}
	}
	s.schedule()
}

// GoAway tells the other end that the session is about to end: no stream is opened any more from either side, and
// the other end's new ones are refused. grace is for the other end's information.
func (s *Session) GoAway(code wire.Code, message string, grace time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	l := s.links[0]
	if l == nil {
		return ErrCarrier
	}
	s.leaving = true
	s.goAway(l, code, message, grace)
	l.kick(false)
	return nil
}

func (s *Session) goAway(l *link, code wire.Code, message string, grace time.Duration) {
	l.control = wire.Append(l.control, wire.GoAway, 0, wire.Encode(wire.GoAwayBody{Code: code, Message: message, LastStreamID: s.maxPeer, GraceMS: grace.Milliseconds()}))
}

// Drain waits until no stream is left, the session has ended or ctx has. It does not say GOAWAY.
func (s *Session) Drain(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer context.AfterFunc(ctx, func() {
		s.mu.Lock()
		s.drained.Broadcast()
		s.mu.Unlock()
	})()
	for len(s.streams) > 0 && s.err == nil {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.drained.Wait()
	}
	return nil
}

// Close ends the session: what is queued for stream 0 is still sent, for a second at most, then every carrier is
// closed with the WebSocket code and the reason; with code 0 all of that at once. Streams end with ErrClosed. It
// does not wait: Wait does.
func (s *Session) Close(code int, reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(ErrClosed, code, reason)
	return nil
}

// Wait waits until all carriers are closed, their goroutines are gone and Lost has been called for each. It is not for
// Control, Open and Lost. It is called after Close, or when nobody adds carriers any more.
func (s *Session) Wait() { s.wait.Wait() }

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is why the session ended, nil before.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Streams is how many streams there are on the wire.
func (s *Session) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}

// Carriers is how many carriers there are.
func (s *Session) Carriers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, l := range s.links {
		if l != nil && l.err == nil {
			n++
		}
	}
	return n
}

// fail ends the session for what the other end did. The lock is held.
func (s *Session) fail(e *SessionError) {
	if s.err != nil {
		return
	}
	if l := s.links[0]; l != nil {
		s.goAway(l, e.Code, e.Message, 0)
	}
	code := e.Close
	if code == 0 {
		code = 1002
	}
	s.end(e, code, e.Message)
}

// end ends the session: streams first, then the carriers. The lock is held.
func (s *Session) end(err error, code int, reason string) {
	if s.err != nil {
		return
	}
	s.err = err
	if s.tick != nil {
		s.tick.Stop()
	}
	over := &lostError{err}
	for _, st := range s.streams {
		st.over(over)
	}
	for _, l := range s.links {
		if l == nil {
			continue
		}
		if l.err == nil {
			l.err = err
		}
		l.close(code, reason)
	}
	s.drained.Broadcast()
	close(s.done)
}

// frame handles a frame, whose payload is at an offset of buf unless that is nil. The lock is held, and let go while Control and Open run.
func (s *Session) frame(l *link, f wire.Frame, buf *buffer, at int) error {
	switch f.Type {
	case wire.Data:
		return s.data(l, f, buf, at)
	case wire.Window:
		return s.window(l, f)
	case wire.StreamOpen:
		return s.opened(l, f)
	case wire.Ping:
		if l.pongs >= maxPongs {
			return &SessionError{Code: wire.CodeCalm, Message: "too many PINGs", Close: 1008}
		}
		l.pongs++
		l.control = wire.Append(l.control, wire.Pong, 0, f.Payload)
		return nil
	case wire.Pong:
		if n := binary.BigEndian.Uint64(f.Payload); n > l.answered && n <= l.asked {
			l.answered = n
			l.pinged = time.Time{}
			if n < l.asked {
				l.pinged = time.Now()
			}
		}
		return nil
	case wire.EOF, wire.Reset, wire.ResponseHead, wire.StreamAccept, wire.StreamControl:
		st, err := s.find(l, f.Stream)
		if st == nil {
			return err
		}
		return st.frame(f)
	case wire.GoAway:
		s.left = true
	}
	if s.cfg.Control == nil {
		if f.Type == wire.GoAway {
			return nil
		}
		return &SessionError{Code: wire.CodeProtocol, Message: "a frame that is not expected"}
	}
	s.mu.Unlock()
	err := s.cfg.Control(l.index, f)
	s.mu.Lock()
	var own *SessionError
	if err != nil && !errors.As(err, &own) {
		err = &SessionError{Code: wire.CodeProtocol, Message: err.Error()}
	}
	return err
}

// find returns the stream of a frame: nil without an error for one that is over, an error for one that never was.
func (s *Session) find(l *link, id uint32) (*Stream, error) {
	if st := s.streams[id]; st != nil {
		if st.l != l {
			return nil, &SessionError{Code: wire.CodeProtocol, Message: "a frame of a stream of another carrier"}
		}
		return st, nil
	}
	if s.own(id) && id >= s.nextID || !s.own(id) && id > s.maxPeer {
		return nil, &SessionError{Code: wire.CodeProtocol, Message: "a frame of a stream that was never opened"}
	}
	return nil, nil
}

// own tells whether ids like this are of this end.
func (s *Session) own(id uint32) bool { return id&1 == s.nextID&1 }

func (s *Session) opened(l *link, f wire.Frame) error {
	if s.own(f.Stream) || f.Stream <= l.lastPeer || s.streams[f.Stream] != nil {
		return &SessionError{Code: wire.CodeProtocol, Message: "a stream id that cannot be opened"}
	}
	l.lastPeer = f.Stream
	s.maxPeer = max(s.maxPeer, f.Stream)
	var body wire.StreamOpenBody
	switch {
	case s.leaving || s.left:
		return s.refuse(l, f.Stream, wire.CodeRefused, ErrGoingAway.Error())
	case s.slots >= s.cfg.MaxStreams:
		return s.refuse(l, f.Stream, wire.CodeExhausted, "max streams exceeded")
	case s.cfg.Open == nil:
		return s.refuse(l, f.Stream, wire.CodeRefused, "no streams are taken here")
	case wire.Decode(f.Payload, &body) != nil:
		return s.refuse(l, f.Stream, wire.CodeProtocol, "a STREAM_OPEN that cannot be read")
	}
	st := s.stream(l, f.Stream, body.RemoteAddr)
	st.opened = true
	s.mu.Unlock()
	err := s.cfg.Open(st, body)
	s.mu.Lock()
	if err == nil {
		s.refused = 0
		return nil
	}
	code, reason := wire.CodeRefused, err.Error()
	if reset, ok := errors.AsType[*ResetError](err); ok {
		code, reason = reset.Code, reset.Reason
	}
	if st.gone {
		st.closeHere()
		return nil
	}
	s.stats.Refused++
	if err := s.mad(); err != nil {
		return err
	}
	st.reset(code, reason)
	st.closeHere()
	return nil
}

func (s *Session) refuse(l *link, id uint32, code wire.Code, reason string) error {
	s.stats.Refused++
	if err := s.mad(); err != nil {
		return err
	}
	return l.reset(id, code, reason)
}

func (s *Session) mad() error {
	s.refused++
	if s.refused > maxRefused {
		return &SessionError{Code: wire.CodeCalm, Message: "too many streams that are refused", Close: 1008}
	}
	return nil
}

// reset queues RESET. Only so many wait.
func (l *link) reset(id uint32, code wire.Code, reason string) error {
	if l.resets >= maxResets {
		return &SessionError{Code: wire.CodeCalm, Message: "too many streams to reset", Close: 1008}
	}
	l.resets++
	l.control = wire.AppendReset(l.control, id, code, reason)
	return nil
}

func (s *Session) data(l *link, f wire.Frame, buf *buffer, at int) error {
	st, err := s.find(l, f.Stream)
	if err != nil {
		return err
	}
	n := int64(len(f.Payload))
	s.stats.In += uint64(n)
	s.recvLeft -= n
	if s.recvLeft < 0 {
		return &SessionError{Code: wire.CodeFlowControl, Message: "more DATA than the session has credit for", Close: 1002}
	}
	if st == nil {
		s.returned(n)
		return nil
	}
	st.recvLeft -= n
	st.gotBytes += uint64(n)
	code, reason := wire.CodeNone, ""
	switch {
	case st.recvEOF:
		code, reason = wire.CodeStreamClosed, "DATA after EOF"
	case st.recvLeft < 0:
		code, reason = wire.CodeFlowControl, "more DATA than the stream has credit for"
	case st.closed:
		code, reason = wire.CodeCancel, "closed"
	}
	if code != wire.CodeNone {
		s.returned(n)
		return st.resetNow(code, reason)
	}
	if n == 0 {
		return nil
	}
	s.hold(n)
	rest := st.deliver(f.Payload)
	if len(rest) == 0 {
		return nil
	}
	if st.closed || st.gone {
		// It ended meanwhile.
		s.hold(-int64(len(rest)))
		s.returned(int64(len(rest)))
		return nil
	}
	at += len(f.Payload) - len(rest)
	n = int64(len(rest))
	if buf != nil {
		buf.refs.Add(1)
		st.in.push(chunk{buf: buf, off: at, end: at + len(rest)})
	} else {
		st.in.fill(rest, 0, int(st.inBytes))
	}
	st.inBytes += n
	if st.recvLeft < wire.MaxPayload && st.recvPend > 0 {
		l.windows.push(st)
	}
	if s.prompt() {
		s.returnAll()
	}
	st.rc.Broadcast()
	return nil
}

// hold counts bytes that wait to be read; a negative n takes them away.
func (s *Session) hold(n int64) {
	s.held += n
	heldBytes.Add(n)
}

// returned gives the other end credit of the session back.
func (s *Session) returned(n int64) {
	s.recvPend += n
	if s.recvPend > 0 && (s.prompt() || s.recvPend >= together(s.cfg.SessionWindow)) {
		s.giveBack = true
	}
}

// prompt tells whether credit goes back at once: published drivers expect it, and where half of the session's window is
// out, the other end (see allowed) may wait for each byte of it.
func (s *Session) prompt() bool {
	return !s.cfg.Hanzod1 || s.recvLeft < int64(s.cfg.SessionWindow)/2 || s.cfg.StreamWindow > s.cfg.SessionWindow/4
}

// together is how much credit of a window comes together before it is given back. It counts as part of the round trip,
// where the window bounds the rate.
func together(window uint32) int64 { return int64(min(window/4, maxTogether)) }

const maxTogether = 512 << 10

// credit gives the other end credit of a stream back when it is time: at once, or when some has come together. Nobody
// waits who has less than a whole frame left.
func (s *Session) credit(st *Stream) {
	switch {
	case st.recvPend == 0 || st.recvEOF || st.gone:
	case st.recvLeft < wire.MaxPayload:
		st.l.windows.push(st)
	case st.inBytes > 0 && heldBytes.Load() > heldBudget:
		// The reader is behind, and so is the whole process.
	case s.prompt() || st.recvPend >= together(s.cfg.StreamWindow):
		st.l.windows.push(st)
	default:
		s.holding.push(st)
	}
}

// returnAll gives back what was held, once prompt is true.
func (s *Session) returnAll() {
	for !s.holding.empty() {
		st := s.holding.pop()
		st.l.windows.push(st)
		if !st.l.writing {
			st.l.work.Signal()
		}
	}
	if s.recvPend > 0 {
		s.giveBack = true
	}
}

func (s *Session) window(l *link, f wire.Frame) error {
	n := int64(wire.ParseWindow(f.Payload))
	if f.Stream == 0 {
		s.sendLeft += n
		if s.sendLeft > int64(s.cfg.PeerSessionWindow) {
			return &SessionError{Code: wire.CodeFlowControl, Message: "credit above the size of the session window", Close: 1002}
		}
		for !s.starved.empty() {
			s.starved.pop().sendMore()
		}
		return nil
	}
	st, err := s.find(l, f.Stream)
	if st == nil {
		return err
	}
	st.sendLeft += n
	if st.sendLeft > int64(s.cfg.PeerStreamWindow) {
		return &SessionError{Code: wire.CodeFlowControl, Message: "credit above the size of the stream window", Close: 1002}
	}
	st.sendMore()
	return nil
}

// allowed is how many bytes of a stream may be sent now. Besides its own credit that is half of what is left of the
// session's, less what of it is still out: streams that nobody reads at the other end never take all of it, however
// many they are, so that they cost the others nothing.
func (s *Session) allowed(st *Stream) int64 {
	out := int64(s.cfg.PeerStreamWindow) - st.sendLeft
	return min(st.sendLeft, (s.sendLeft+1)/2-out)
}

// starve sets a stream aside that may send nothing: until WINDOW on the stream, or on the session where that is what
// is missing.
func (s *Session) starve(st *Stream) {
	if st.sendLeft > 0 {
		s.starved.push(st)
	}
}

// settle takes a stream out that is over on the wire.
func (s *Session) settle(st *Stream) {
	if st.eofSent && st.recvEOF {
		st.over(nil)
	}
}

// Stats are counts since the session began.
type Stats struct {
	// In and Out are bytes of DATA payloads; FramesIn and FramesOut frames of all types.
	In, Out             uint64
	FramesIn, FramesOut uint64
	// Opened is streams that either end opened, Refused those of the other end that were refused.
	Opened, Refused uint64
	// Stalled is the time that streams with bytes to send waited for credit, added up.
	Stalled time.Duration
	// Queued is bytes that wait to be sent, Held bytes received that nobody has read yet.
	Queued, Held int64
}

// Stats returns the counts.
func (s *Session) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.stats
	out.Queued, out.Held = s.queued, s.held
	return out
}
