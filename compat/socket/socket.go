// Package socket is WebSockets whose binary messages are read and written whole: one system call writes a message,
// whatever it is made of, and a message that is read stands where the kernel put it (tunnel.md §4.4).
//
// github.com/coder/websocket does the handshakes. The frames are read and written here (RFC 6455), since that
// library sends a message in pieces of 4 KiB from clients, copies what it reads, and waits in the reader until a pong
// is written. There is no compression, and no text: carriers have binary messages only.
//
// A Conn owns no goroutine while it is in use. Pongs are written by one that ends with them, and so is the wait for
// the other end after a close, for CloseWait at most.
package socket

import (
	"bufio"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// The close codes that are used here (RFC 6455 §7.4.1).
const (
	CodeNormal      = 1000
	CodeGoingAway   = 1001
	CodeProtocol    = 1002
	CodeUnsupported = 1003
	CodeNone        = 1005
	CodeNotUTF8     = 1007
	CodePolicy      = 1008
	CodeTooBig      = 1009
	CodeTryLater    = 1013
)

// CloseWait is how long the other end may take to take a close and to close in turn.
const CloseWait = time.Second

// defaultStall is how long the other end may leave a message lying.
const defaultStall = 60 * time.Second

// Options of Accept and Dial. The zero value is good.
type Options struct {
	// Subprotocols are those that are spoken, the best first. Accept takes the first that the client offers, Dial
	// offers all.
	Subprotocols []string
	// MaxMessage is the largest message in bytes, either way; 0 means wire.MaxMessage.
	MaxMessage int
	// Stall is how long the other end may leave a message lying; then it counts as gone. 0 means a minute.
	Stall time.Duration
	// RemoteAddr is what the method of that name answers; empty means the address of the network connection.
	RemoteAddr string
	// Header goes with the request of Dial, and Client makes it; nil is http.DefaultClient. Its transport must not
	// speak HTTP/2.
	Header http.Header
	Client *http.Client
}

// Conn is one end of a WebSocket. It implements mux.Carrier. One goroutine may read while others write.
type Conn struct {
	nc          net.Conn      // deadlines, and the end
	rd          io.Reader     // nc, after what was read with the handshake
	vec         vectorWriter  // writes what is in several places at once; nil where that is no use
	below       gatherer      // what TLS writes to; nil without TLS, or where it cannot gather
	key         *rand.ChaCha8 // masks; nil for servers, which do not mask
	subprotocol string
	remote      string
	limit       int
	stall       time.Duration

	state   sync.Mutex // guards what follows to the empty line, and the read deadline
	closing bool
	cause   error           // of a connection that was lost in a write
	watched <-chan struct{} // the end of the context that reading stops with
	unwatch func() bool

	read reader

	write    sync.Mutex // held while something is written; guards what follows to the empty line
	parts    net.Buffers
	left     net.Buffers // of parts
	head     [maxHead]byte
	deadline time.Time
	shut     bool // a close was written: nothing follows it

	pongs   sync.Mutex // guards what follows
	pong    []byte     // the one that waits; nil for none
	ponging bool

	leaving atomic.Bool // writes have CloseWait
	gone    atomic.Bool
}

var _ mux.Carrier = (*Conn)(nil)

// vectorWriter writes buffers with one system call, and takes what it wrote out of them.
type vectorWriter interface {
	WriteBuffers(b *net.Buffers) (int64, error)
}

// gatherer is a connection below TLS, which writes the records of a message at once.
type gatherer interface {
	Gather()
	Flush() error
}

// kernel is a connection that net writes to with one system call.
type kernel struct{ c net.Conn }

func (k kernel) WriteBuffers(b *net.Buffers) (int64, error) { return b.WriteTo(k.c) }

func newConn(nc net.Conn, rd io.Reader, o Options, client bool) (*Conn, error) {
	c := &Conn{nc: nc, rd: rd, remote: o.RemoteAddr, limit: o.MaxMessage, stall: o.Stall}
	if c.limit == 0 {
		c.limit = wire.MaxMessage
	}
	if c.stall == 0 {
		c.stall = defaultStall
	}
	if c.remote == "" && nc.RemoteAddr() != nil {
		c.remote = nc.RemoteAddr().String()
	}
	if over, ok := nc.(interface{ NetConn() net.Conn }); ok {
		c.below, _ = over.NetConn().(gatherer)
	}
	if client {
		var seed [32]byte
		if _, err := crand.Read(seed[:]); err != nil {
			return nil, fmt.Errorf("read random bytes for masks: %w", err)
		}
		c.key = rand.NewChaCha8(seed)
		return c, nil
	}
	switch v := nc.(type) {
	case vectorWriter:
		c.vec = v
	case *net.TCPConn, *net.UnixConn:
		c.vec = kernel{nc}
	}
	return c, nil
}

// Accept upgrades a request. The Origin of it must have been judged. When it fails, the request is answered.
//
// The connection does not end with the request, whose handler may return.
func Accept(w http.ResponseWriter, r *http.Request, o Options) (*Conn, error) {
	h := &hijacker{ResponseWriter: w}
	ws, err := websocket.Accept(h, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // see above
		CompressionMode:    websocket.CompressionDisabled, Subprotocols: o.Subprotocols,
	})
	if err != nil {
		return nil, err
	}
	_ = ws.CloseNow() // it has nothing to close
	c, err := newConn(h.nc, h.nc, o, false)
	if err != nil {
		return nil, errors.Join(err, h.nc.Close())
	}
	c.subprotocol = ws.Subprotocol()
	c.read.buf, c.read.w = h.early, len(h.early)
	return c, nil
}

// hijacker keeps the network connection of a request, and gives the library one that does nothing.
type hijacker struct {
	http.ResponseWriter
	nc    net.Conn
	early []byte // what came with the request
}

// Hijack implements http.Hijacker.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, early, err := hijack(h.ResponseWriter)
	if err != nil {
		return nil, nil, err
	}
	h.nc, h.early = nc, early
	return nothing{Conn: nc}, bufio.NewReadWriter(bufio.NewReaderSize(nothing{}, 0), bufio.NewWriterSize(nothing{}, 0)), nil
}

// nothing is the connection that the library has: the handshake is all that it does here.
type nothing struct{ net.Conn }

func (nothing) Read([]byte) (int, error)    { return 0, io.EOF }
func (nothing) Write(b []byte) (int, error) { return len(b), nil }
func (nothing) Close() error                { return nil }

// Dial opens a WebSocket. The URL is ws, wss, http or https. The response is there when the server has given one,
// also with an error.
//
// ctx covers the handshake.
func Dial(ctx context.Context, url string, o Options) (*Conn, *http.Response, error) {
	client := http.Client{}
	if o.Client != nil {
		client = *o.Client
	}
	t := &taker{next: client.Transport}
	if t.next == nil {
		t.next = http.DefaultTransport
	}
	client.Transport = t
	ws, answer, err := websocket.Dial(ctx, url, &websocket.DialOptions{
		HTTPClient: &client, HTTPHeader: o.Header, CompressionMode: websocket.CompressionDisabled, Subprotocols: o.Subprotocols,
	})
	if err != nil {
		if t.body != nil {
			_ = t.body.Close() // it is of no use
		}
		return nil, answer, err
	}
	_ = ws.CloseNow() // it has nothing to close
	c, err := newConn(t.nc, t.body, o, true)
	if err != nil {
		return nil, answer, errors.Join(err, t.body.Close())
	}
	c.subprotocol = ws.Subprotocol()
	return c, answer, nil
}

// taker keeps the connection that an upgrade has switched, and gives the library one that does nothing.
type taker struct {
	next http.RoundTripper
	nc   net.Conn
	body io.ReadWriteCloser
}

var errNotSwitched = errors.New("the transport gives no connection to write to")

// RoundTrip implements http.RoundTripper.
func (t *taker) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { t.nc = i.Conn }})
	answer, err := t.next.RoundTrip(r.WithContext(ctx))
	if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
		return answer, err
	}
	body, ok := answer.Body.(io.ReadWriteCloser)
	if !ok || t.nc == nil {
		return nil, errors.Join(errNotSwitched, answer.Body.Close())
	}
	t.body = body
	answer.Body = nothing{}
	return answer, nil
}

// Subprotocol is what was chosen, "" for none.
func (c *Conn) Subprotocol() string { return c.subprotocol }

// RemoteAddr implements mux.Carrier.
func (c *Conn) RemoteAddr() string { return c.remote }

// Close implements mux.Carrier: with a code it says so and returns, after CloseWait at most; the other end then has
// CloseWait to close in turn. With CodeNone the close has no code; with 0 the connection is cut.
func (c *Conn) Close(code int, reason string) error {
	if code == 0 {
		c.abort()
		return nil
	}
	if !c.begin() {
		return nil
	}
	if code == CodeNone {
		code = 0
	}
	c.farewell(code, reason)
	go c.linger()
	return nil
}

// begin marks the connection as closing and makes reading fail. It reports whether it was not closing yet.
func (c *Conn) begin() bool {
	c.state.Lock()
	defer c.state.Unlock()
	if c.closing {
		return false
	}
	c.closing = true
	_ = c.nc.SetReadDeadline(past) // a connection that is gone fails anyway
	return true
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// ended is what reading ends with, nil while the connection stands.
func (c *Conn) ended() error {
	c.state.Lock()
	defer c.state.Unlock()
	switch {
	case c.cause != nil:
		return lostTo(c.cause)
	case c.closing:
		return net.ErrClosed
	}
	return nil
}

// lostTo is the error of a connection that was lost.
func lostTo(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("the connection was lost: %w", err)
}

// linger waits until the other end has closed, and throws away what it still sends: what lies unread would make
// the kernel throw away the close in turn.
func (c *Conn) linger() {
	defer c.abort()
	c.read.mu.Lock()
	defer c.read.mu.Unlock()
	_ = c.nc.SetReadDeadline(time.Now().Add(CloseWait)) // as above
	if c.key == nil {
		if h, ok := c.nc.(interface{ CloseWrite() error }); ok {
			_ = h.CloseWrite() // as above
		}
	}
	_, _ = io.Copy(io.Discard, c.rd)
}

// abort cuts the connection.
func (c *Conn) abort() {
	c.state.Lock()
	c.closing = true
	if c.unwatch != nil {
		c.unwatch()
	}
	c.watched, c.unwatch = nil, nil
	c.state.Unlock()
	if !c.gone.Swap(true) {
		_ = c.nc.Close() // nobody is told
	}
}
