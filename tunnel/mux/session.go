package mux

import (
	"context"
	"errors"
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
type Session struct{ cfg Config }

// New makes a session without carriers.
func New(cfg Config) *Session { return &Session{cfg: cfg} }

// Add gives the session a carrier, which it owns from now on: 0 is the primary, 1 to 15 are the further ones of v2.
// The frames of first are taken before anything is read: what came behind HELLO, HELLO_OK or JOIN in their message.
func (s *Session) Add(index int, c Carrier, first []byte) error { return ErrClosed }

// Open opens a stream on the carrier that has the fewest. It does not wait for the other end: a refusal arrives as
// a *ResetError of the stream's methods. ErrClosed, ErrGoingAway, ErrStreams.
func (s *Session) Open(ctx context.Context, body wire.StreamOpenBody) (*Stream, error) {
	return nil, ErrClosed
}

// OpenOn is Open on a given carrier; ErrCarrier when it is not there.
func (s *Session) OpenOn(ctx context.Context, index int, body wire.StreamOpenBody) (*Stream, error) {
	return nil, ErrClosed
}

// Send queues a frame of stream 0 on the primary. It does not wait; a queue that is full ends the session.
func (s *Session) Send(t wire.Type, payload []byte) error { return ErrClosed }

// SendOn is Send on a given carrier.
func (s *Session) SendOn(index int, t wire.Type, payload []byte) error { return ErrClosed }

// PingAll sends a PING on each carrier now.
func (s *Session) PingAll() {}

// GoAway tells the other end that the session is about to end: no stream is opened any more from either side, and
// the other end's new ones are refused. grace is for the other end's information.
func (s *Session) GoAway(code wire.Code, message string, grace time.Duration) error { return ErrClosed }

// Drain waits until no stream is left, the session has ended or ctx has. It does not say GOAWAY.
func (s *Session) Drain(ctx context.Context) error { return ErrClosed }

// Close ends the session: what is queued for stream 0 is still sent, for a second at most, then every carrier is
// closed with the WebSocket code and the reason (at once for code 0). Streams end with ErrClosed. It returns when
// the carriers are closed and their goroutines gone; Close may be called from Control, Open and Lost, where it does
// not wait.
func (s *Session) Close(code int, reason string) error { return nil }

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return nil }

// Err is why the session ended, nil before.
func (s *Session) Err() error { return ErrClosed }

// Streams is how many streams there are.
func (s *Session) Streams() int { return 0 }

// Carriers is how many carriers there are.
func (s *Session) Carriers() int { return 0 }

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
func (s *Session) Stats() Stats { return Stats{} }
