package hanzotunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/coder/websocket"
)

// Carrier takes messages from one side of a link to the other. What carries them is no concern of the link: a
// WebSocket, or a pipe in memory (the crate's from_channels, tunnel.md §1.14). One goroutine may read while
// others write.
type Carrier interface {
	// Read returns the next message. A *CloseError says how the other side closed.
	Read(ctx context.Context) ([]byte, error)
	// Write sends a message; it may wait for a slow reader.
	Write(ctx context.Context, message []byte) error
	// Ping returns when the other side is there.
	Ping(ctx context.Context) error
	// Close ends the carrier with a code of a WebSocket, or with 0 at once. It may be called more than once.
	Close(code int, reason string) error
}

// CloseError is how the other side closed a carrier.
type CloseError struct {
	Code   int
	Reason string
}

func (e *CloseError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("closed with %d", e.Code)
	}
	return fmt.Sprintf("closed with %d: %s", e.Code, e.Reason)
}

// errNotText is a message that no link sends.
var errNotText = errors.New("a message that is no text")

// webSocket carries messages over a WebSocket.
type webSocket struct{ ws *websocket.Conn }

// OverWebSocket makes a carrier of a WebSocket, for messages of limit bytes at most.
func OverWebSocket(ws *websocket.Conn, limit int64) Carrier {
	ws.SetReadLimit(limit)
	return &webSocket{ws}
}

// refusedUpgrade is an answer to a handshake that is none of a WebSocket.
type refusedUpgrade struct {
	status int
	err    error
}

func (e *refusedUpgrade) Error() string {
	return fmt.Sprintf("the server answered %d %s", e.status, http.StatusText(e.status))
}
func (e *refusedUpgrade) Unwrap() error { return e.err }

func (s *webSocket) Read(ctx context.Context) ([]byte, error) {
	kind, data, err := s.ws.Read(ctx)
	if code := websocket.CloseStatus(err); code != -1 {
		var closed websocket.CloseError
		_ = errors.As(err, &closed) // it has a status, so it is one
		return nil, &CloseError{int(code), closed.Reason}
	}
	if err == nil && kind != websocket.MessageText {
		return nil, errNotText
	}
	return data, err
}

func (s *webSocket) Write(ctx context.Context, message []byte) error {
	return s.ws.Write(ctx, websocket.MessageText, message)
}

func (s *webSocket) Ping(ctx context.Context) error { return s.ws.Ping(ctx) }

// Close says why, and with the code 0 only ends.
func (s *webSocket) Close(code int, reason string) error {
	if code == 0 {
		return s.ws.CloseNow()
	}
	return s.ws.Close(websocket.StatusCode(code), reason)
}

// pipeQueue is how many messages wait in a pipe, as in the channels of the crate (tunnel.md §1.4).
const pipeQueue = 256

// pipe is one end of two.
type pipe struct {
	in, out chan []byte
	state   *pipeState
}

type pipeState struct {
	once   sync.Once
	closed chan struct{}
	err    error
}

// Pipe returns the two ends of a carrier in memory.
func Pipe() (a, b Carrier) {
	x, y := make(chan []byte, pipeQueue), make(chan []byte, pipeQueue)
	s := &pipeState{closed: make(chan struct{})}
	return &pipe{x, y, s}, &pipe{y, x, s}
}

func (p *pipe) Read(ctx context.Context) ([]byte, error) {
	select {
	case m := <-p.in:
		return m, nil
	default:
	}
	select {
	case m := <-p.in:
		return m, nil
	case <-p.state.closed:
		select {
		case m := <-p.in: // what was sent before the end
			return m, nil
		default:
			return nil, p.state.err
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipe) Write(ctx context.Context, message []byte) error {
	select {
	case <-p.state.closed:
		return io.ErrClosedPipe
	default:
	}
	select {
	case p.out <- append([]byte(nil), message...):
		return nil
	case <-p.state.closed:
		return io.ErrClosedPipe
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *pipe) Ping(context.Context) error {
	select {
	case <-p.state.closed:
		return io.ErrClosedPipe
	default:
		return nil
	}
}

func (p *pipe) Close(code int, reason string) error {
	p.state.once.Do(func() {
		p.state.err = &CloseError{code, reason}
		close(p.state.closed)
	})
	return nil
}
