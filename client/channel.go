package client

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/errs"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
)

const (
	// MaxPiece is how many bytes travel as one piece on a channel.
	MaxPiece = 256 << 10
	// lastPiece is how long a channel that is given up with a reason waits for the daemon to take that.
	lastPiece = 5 * time.Second
)

// CodeChannelClosed says that Close was called on a channel.
const CodeChannelClosed = "client.channel_closed"

var errChannelClosed = &Error{Code: CodeChannelClosed, Class: errs.Conflict, Message: "the channel was closed on this side"}

// Channel is a stream of bytes to and from the daemon, beside a node's link. One goroutine may read while
// another writes.
type Channel struct {
	stream nodesv1.NodeService_ChannelClient
	cancel context.CancelFunc
	link   *NodeLink

	read  sync.Mutex
	rest  []byte // of the last piece
	ended error

	write sync.Mutex
	shut  bool // this side has ended its direction

	once   sync.Once
	closed chan struct{}
	over   chan struct{} // closed when reading has come to its end
	gone   sync.Once
}

// Channel opens the channel that a request of the daemon named. ctx covers the opening alone: the channel ends
// with Close, or with the link.
func (l *NodeLink) Channel(ctx context.Context, name string) (*Channel, error) {
	life, cancel := context.WithCancel(l.life)
	stop := context.AfterFunc(ctx, cancel)
	late := time.AfterFunc(nodeHandshake, cancel)
	ch, err := l.open(life, name)
	inTime, asked := late.Stop(), stop()
	switch {
	case !asked:
		err = ctx.Err()
	case !inTime:
		err = &Error{Code: CodeTimeout, Class: errs.Deadline, Message: "the daemon did not take the channel in time", Err: context.DeadlineExceeded}
	}
	if err != nil {
		cancel()
		return nil, err
	}
	ch.cancel = cancel
	return ch, nil
}

func (l *NodeLink) open(ctx context.Context, name string) (*Channel, error) {
	stream, err := l.c.Nodes.Channel(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&nodesv1.ChannelRequest{Message: &nodesv1.ChannelRequest_Open{Open: name}}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	m, err := stream.Recv() // a refusal, too
	if err != nil {
		return nil, ended(err)
	}
	if m.GetOpened() == nil {
		return nil, &Error{Code: CodeBadAnswer, Class: errs.Unavailable, Message: "the answer to the name of the channel is not understood"}
	}
	return &Channel{stream: stream, link: l, closed: make(chan struct{}), over: make(chan struct{})}, nil
}

// Read implements io.Reader. It returns io.EOF when the daemon has ended its direction, and another error when
// the channel broke.
func (c *Channel) Read(p []byte) (int, error) {
	c.read.Lock()
	defer c.read.Unlock()
	for len(c.rest) == 0 {
		piece, err := c.next()
		if err != nil {
			return 0, err
		}
		c.rest = piece
	}
	n := copy(p, c.rest)
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		c.rest = nil
	}
	return n, nil
}

// Piece returns what came in one piece, or what Read has left of it; it is the caller's. It ends as Read does.
func (c *Channel) Piece() ([]byte, error) {
	c.read.Lock()
	defer c.read.Unlock()
	if piece := c.rest; len(piece) > 0 {
		c.rest = nil
		return piece, nil
	}
	return c.next()
}

// WriteTo implements io.WriterTo: the pieces go on as they came.
func (c *Channel) WriteTo(w io.Writer) (int64, error) {
	c.read.Lock()
	defer c.read.Unlock()
	var all int64
	for {
		piece := c.rest
		if c.rest = nil; len(piece) == 0 {
			var err error
			if piece, err = c.next(); errors.Is(err, io.EOF) {
				return all, nil
			} else if err != nil {
				return all, err
			}
		}
		n, err := w.Write(piece)
		all += int64(n)
		if err != nil {
			c.rest = piece[n:]
			return all, err
		}
	}
}

// next waits for a piece. The caller holds read.
func (c *Channel) next() ([]byte, error) {
	if c.ended != nil {
		return nil, c.ended
	}
	m, err := c.stream.Recv()
	if err != nil {
		c.gone.Do(func() { close(c.over) })
		c.ended = c.why(ended(err))
		return nil, c.ended
	}
	if m.GetEnd() != nil {
		c.ended = io.EOF
		return nil, io.EOF
	}
	return m.GetData(), nil
}

// why says what broke the channel.
func (c *Channel) why(err error) error {
	select {
	case <-c.closed:
		return errChannelClosed
	default:
	}
	if end := c.link.Err(); end != nil {
		return end
	}
	return err
}

// Write implements io.Writer. What is larger than MaxPiece goes in several pieces.
func (c *Channel) Write(p []byte) (int, error) {
	c.write.Lock()
	defer c.write.Unlock()
	all := 0
	for len(p) > 0 {
		piece := p[:min(len(p), MaxPiece)]
		if err := c.send(&nodesv1.ChannelRequest{Message: &nodesv1.ChannelRequest_Data{Data: piece}}); err != nil {
			return all, err
		}
		all, p = all+len(piece), p[len(piece):]
	}
	return all, nil
}

// pieces are buffers of MaxPiece for ReadFrom.
var pieces = sync.Pool{New: func() any { return new([MaxPiece]byte) }}

// ReadFrom implements io.ReaderFrom: what one Read of r returns travels as one piece.
func (c *Channel) ReadFrom(r io.Reader) (int64, error) {
	buf, _ := pieces.Get().(*[MaxPiece]byte)
	defer pieces.Put(buf)
	var all int64
	for {
		n, err := r.Read(buf[:])
		if n > 0 {
			sent, err := c.Write(buf[:n])
			if all += int64(sent); err != nil {
				return all, err
			}
		}
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
	}
}

// send hands over a message. The caller holds write.
func (c *Channel) send(m *nodesv1.ChannelRequest) error {
	select {
	case <-c.closed:
		return errChannelClosed
	default:
	}
	if c.shut {
		return errChannelClosed
	}
	if err := c.stream.Send(m); err != nil {
		return c.why(&Error{Code: CodeLost, Class: errs.Unavailable, Message: "the daemon closed the channel", Err: err})
	}
	return nil
}

// CloseWrite ends this direction; what was written arrives before that.
func (c *Channel) CloseWrite() error {
	c.write.Lock()
	defer c.write.Unlock()
	if c.shut {
		return nil
	}
	err := c.send(&nodesv1.ChannelRequest{Message: &nodesv1.ChannelRequest_End{End: &nodesv1.ChannelEnd{}}})
	c.shut = true
	return err
}

// Close gives both directions up; an error tells the daemon why. It does not wait. What was written before
// CloseWrite still arrives, for as long as the link stands.
func (c *Channel) Close(err error) error {
	c.once.Do(func() {
		close(c.closed)
		c.link.mu.Lock()
		defer c.link.mu.Unlock()
		if c.link.err != nil {
			c.cancel() // there is nobody to tell
			return
		}
		c.link.wg.Go(func() { c.finish(err) })
	})
	return nil
}

// finish ends the stream when the daemon has what it is to have.
func (c *Channel) finish(err error) {
	defer c.cancel()
	if err != nil {
		late := time.AfterFunc(lastPiece, c.cancel) // what waits in Write, too
		c.write.Lock()
		if !c.shut {
			c.shut = true
			_ = c.stream.Send(&nodesv1.ChannelRequest{Message: &nodesv1.ChannelRequest_Error{ // it is over either way
				Error: &nodesv1.NodeError{Code: "UNAVAILABLE", Message: *valid(err.Error())},
			}})
		}
		c.write.Unlock()
		defer late.Stop()
	} else if !c.writeEnded() {
		return
	}
	_ = c.stream.CloseSend() // never fails
	// A reader that is in its call sees the end; else it is looked for here.
	c.link.wg.Go(func() {
		c.read.Lock()
		defer c.read.Unlock()
		for c.ended == nil || errors.Is(c.ended, io.EOF) {
			if _, err := c.stream.Recv(); err != nil {
				c.gone.Do(func() { close(c.over) })
				c.ended = c.why(err)
			}
		}
	})
	select {
	case <-c.over:
	case <-c.link.Done():
	}
}

func (c *Channel) writeEnded() bool {
	if !c.write.TryLock() {
		return false // a Write is under way: it is given up
	}
	defer c.write.Unlock()
	return c.shut
}
