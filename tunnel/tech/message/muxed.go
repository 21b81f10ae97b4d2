package message

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"
)

// The types of messages about a channel itself, on links that carry all channels in envelopes. Only daemons and nodes of ours
// send them to each other: the published messages have no flow control, and no end of a channel (tunnel.md §3.4).
const (
	TypeChannelOpen   = "channel_open"   // ChannelOpen: to the node
	TypeChannelCredit = "channel_credit" // ChannelCredit: what was received has been taken
	TypeChannelClose  = "channel_close"  // ChannelClose: the last message of a channel
)

type (
	ChannelOpen struct {
		Session string `json:"session_id"`
		Kind    Kind   `json:"kind"`
	}
	ChannelCredit struct {
		Bytes int `json:"bytes"`
	}
	ChannelClose struct {
		Error string `json:"error,omitempty"`
	}
)

// Limits of Muxed, in bytes as size counts.
const (
	// Window is what may be on its way on one channel and not yet taken.
	Window = 512 << 10
	// MaxWaiting bounds what waits on a channel without credit.
	MaxWaiting = 4 << 20
	// creditAt is when the other side is told. A sender that waits has more than that on its way.
	creditAt = Window / 4
	// overhead counts for a message beside its payload and bytes.
	overhead = 64
)

// ErrBehind ends a channel whose other side sent more than fits.
var ErrBehind = errors.New("the channel was ended: more came than was read; open another one, and read it faster")

// CloseError is why the other side ended a channel.
type CloseError struct{ Text string }

func (e *CloseError) Error() string { return e.Text }

func size(m Message) int { return len(m.Payload) + len(m.Data) + overhead }

// Muxed is a Conn on a link that carries other channels and more in envelopes. The reader of the link hands messages to Take
// or Put, which never wait: a channel that nobody reads stops nothing but itself.
type Muxed struct {
	put    func(ctx context.Context, envelope json.RawMessage) error
	credit bool
	closed func(err error)

	sending sync.Mutex // held by one Send at a time

	mu     sync.Mutex
	queue  []Message
	queued int   // bytes
	out    int   // bytes that the other side has not taken
	owed   int   // bytes that were taken here and not told
	over   bool  // nothing is sent or queued any more
	err    error // what Receive ends with
	done   chan struct{}
	wake   chan struct{} // holds a token when there may be something to receive
	room   chan struct{} // holds a token when there may be room to send
}

// NewMuxed makes one. Put sends an envelope, and may wait for the link, not for long after it has ended; credit says that both sides know ChannelCredit; closed
// is called once when the channel is closed here, with the error of Close or ErrBehind, and not when the other side or the link ended
// it.
func NewMuxed(put func(ctx context.Context, envelope json.RawMessage) error, credit bool, closed func(err error)) *Muxed {
	return &Muxed{put: put, credit: credit, closed: closed, done: make(chan struct{}), wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Take is Put for an envelope. What is none ends the channel.
func (x *Muxed) Take(envelope []byte) {
	m, err := FromEnvelope(envelope)
	if err != nil {
		x.finish(err, true)
		return
	}
	x.Put(m)
}

// Put queues a message from the other side, or follows it when it is about the channel. It does not wait.
func (x *Muxed) Put(m Message) {
	switch {
	case x.credit && m.Type == TypeChannelCredit:
		var p ChannelCredit
		if err := m.Into(&p); err != nil || p.Bytes < 0 {
			x.finish(ErrSyntax, true)
			return
		}
		x.mu.Lock()
		x.out = max(0, x.out-p.Bytes)
		x.mu.Unlock()
		poke(x.room)
		return
	case x.credit && m.Type == TypeChannelClose:
		var p ChannelClose
		_ = m.Into(&p) // an end without a reason is one
		if p.Error != "" {
			x.finish(&CloseError{p.Error}, false)
			return
		}
		x.finish(nil, false)
		return
	}
	limit := MaxWaiting
	if x.credit {
		limit = Window + MaxPayload + MaxData + overhead // who has room for one byte may not send a message, but the first
	}
	x.mu.Lock()
	if x.over {
		x.mu.Unlock()
		return
	}
	if x.queued > 0 && x.queued+size(m) > limit {
		x.mu.Unlock()
		x.finish(ErrBehind, true)
		return
	}
	x.queue = append(x.queue, m)
	x.queued += size(m)
	x.mu.Unlock()
	poke(x.wake)
}

// End ends the channel because the link has, or the session: nobody is told. A nil error is io.EOF.
func (x *Muxed) End(err error) { x.finish(err, false) }

// Close implements Conn.
func (x *Muxed) Close(err error) error {
	x.finish(err, true)
	return nil
}

// finish ends the channel. What came before can still be received, unless the end is made here.
func (x *Muxed) finish(err error, here bool) {
	x.mu.Lock()
	if x.over {
		x.mu.Unlock()
		return
	}
	x.over, x.err = true, err
	if err == nil {
		x.err = io.EOF
	}
	if here {
		x.queue, x.queued = nil, 0
	}
	close(x.done)
	x.mu.Unlock()
	if here && x.closed != nil {
		x.closed(err)
	}
}

// Send implements Conn.
func (x *Muxed) Send(ctx context.Context, m Message) error {
	if len(m.Payload) > MaxPayload || len(m.Data) > MaxData {
		return ErrTooLarge
	}
	envelope, err := Envelope(m)
	if err != nil {
		return err
	}
	x.sending.Lock()
	defer x.sending.Unlock()
	for {
		x.mu.Lock()
		over, free := x.over, !x.credit || x.out == 0 || x.out+size(m) <= Window
		if free && !over {
			x.out += size(m)
		}
		x.mu.Unlock()
		if over {
			return x.reason()
		}
		if free {
			break
		}
		select {
		case <-x.room:
		case <-x.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return x.put(ctx, envelope)
}

// reason is why the channel is over, for who sends.
func (x *Muxed) reason() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if errors.Is(x.err, io.EOF) {
		return io.ErrClosedPipe
	}
	return x.err
}

// Receive implements Conn.
func (x *Muxed) Receive(ctx context.Context) (Message, error) {
	for {
		x.mu.Lock()
		if len(x.queue) > 0 {
			m := x.queue[0]
			x.queue[0] = Message{}
			if x.queue = x.queue[1:]; len(x.queue) == 0 {
				x.queue = nil
			}
			x.queued -= size(m)
			tell := 0
			if x.credit && !x.over {
				if x.owed += size(m); x.owed >= creditAt {
					tell, x.owed = x.owed, 0
				}
			}
			x.mu.Unlock()
			if tell > 0 {
				x.tell(ctx, tell)
			}
			return m, nil
		}
		over, err := x.over, x.err
		x.mu.Unlock()
		if over {
			return Message{}, err
		}
		select {
		case <-x.wake:
		case <-x.done:
		case <-ctx.Done():
			return Message{}, context.Cause(ctx)
		}
	}
}

// tell gives credit. What could not be told is told with the next.
func (x *Muxed) tell(ctx context.Context, n int) {
	envelope, err := Envelope(Of(TypeChannelCredit, ChannelCredit{n}, nil))
	if err == nil {
		err = x.put(ctx, envelope)
	}
	if err != nil {
		x.mu.Lock()
		x.owed += n
		x.mu.Unlock()
	}
}
