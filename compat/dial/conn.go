package dial

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
	"github.com/hanzoai/hanzod/compat/wire"
)

// Limits of a connection.
const (
	// writeTimeout bounds one write; a peer that takes longer is gone.
	writeTimeout = 30 * time.Second
	// silentClose is how long the closing of a connection to a silent gateway may take.
	silentClose = 200 * time.Millisecond
	// MaxPending is how many calls may wait at once; more fail at once.
	MaxPending = 1024
	// EventBuffer is how many events wait for a reader of Events; more are dropped and counted.
	EventBuffer = 256
	// look is how often the clock is looked at; clockJump how far it may run meanwhile before it counts as a jump, as after
	// a sleep of the machine. The gateway is asked then whether it is there, and has wakeWait for its answer.
	look      = time.Second
	clockJump = 15 * time.Second
	wakeWait  = 3 * time.Second
	// statusTickTimeout is the close code of a client that misses ticks (protocol.md §2.5).
	statusTickTimeout websocket.StatusCode = 4000
)

// Event is an event of the gateway.
type Event struct {
	Name string
	// Payload is JSON text, nil without one.
	Payload json.RawMessage
	// Seq is nil for events to this connection alone.
	Seq *uint64
}

// CallError is the gateway's refusal of a call.
type CallError struct {
	Code    string
	Message string
	// Details and Payload are JSON text, nil when there are none.
	Details    json.RawMessage
	Payload    json.RawMessage
	Retryable  bool
	RetryAfter time.Duration
}

func (e *CallError) Error() string { return e.Code + ": " + e.Message }

// ClosedError says that the connection ended before what was being done was done.
type ClosedError struct {
	Doing string
	// Code is the WebSocket close code, -1 when the link broke without one.
	Code   int
	Reason string
	Err    error
}

func (e *ClosedError) Error() string {
	if e.Code >= 0 {
		return fmt.Sprintf("%s: the gateway closed the connection (%d %s)", e.Doing, e.Code, e.Reason)
	}
	return e.Doing + ": the connection to the gateway broke: " + e.Err.Error()
}

func (e *ClosedError) Unwrap() error { return e.Err }

func closed(doing string, err error) error {
	c := &ClosedError{Doing: doing, Code: int(websocket.CloseStatus(err)), Err: err}
	if ce := (websocket.CloseError{}); errors.As(err, &ce) {
		c.Reason = ce.Reason
	}
	return c
}

// The ends of a connection that this side brings about, and the bounds of a call.
var (
	ErrClosed      = errors.New("the connection was closed on this side")
	ErrTickTimeout = errors.New("the gateway went silent: no tick for two intervals")
	ErrTooMany     = errors.New("too many calls are waiting for the gateway")
	ErrTooLarge    = errors.New("the message is larger than the 25 MiB that a gateway takes")
)

// Conn is a connection that the gateway has let in. Its methods may be called concurrently.
type Conn struct {
	ws      *websocket.Conn
	hello   Hello
	log     *slog.Logger
	onEvent func(*Conn, Event)
	now     func() time.Time
	ctx     context.Context // ends when the connection has ended
	cancel  context.CancelFunc
	events  chan Event
	dropped atomic.Uint64
	ticks   chan struct{}
	wg      sync.WaitGroup
	done    chan struct{}

	mu      sync.Mutex
	err     error
	next    uint64
	pending map[string]chan wire.Frame
}

func start(ctx context.Context, ws *websocket.Conn, o Options, h Hello, early []Event) *Conn {
	c := &Conn{
		ws: ws, hello: h, log: o.Log, onEvent: o.OnEvent, now: o.Now,
		events: make(chan Event, EventBuffer), ticks: make(chan struct{}, 1),
		done: make(chan struct{}), pending: map[string]chan wire.Frame{},
	}
	c.ctx, c.cancel = context.WithCancel(ctx)
	c.wg.Go(func() { c.read(early) })
	c.wg.Go(c.watch)
	return c
}

// Hello is what the gateway said at connect.
func (c *Conn) Hello() Hello { return c.hello }

// Done is closed when the connection has ended; Err says why then.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err is why the connection ended, nil while it stands.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Events is the events in order. It holds EventBuffer of them, drops what comes while it is full, and is closed when
// the connection ends.
func (c *Conn) Events() <-chan Event { return c.events }

// Dropped is how many events Events has dropped.
func (c *Conn) Dropped() uint64 { return c.dropped.Load() }

// Close ends the connection and waits for its goroutines. It must not be called from OnEvent.
func (c *Conn) Close() error {
	c.fail(ErrClosed, websocket.StatusNormalClosure, "")
	c.wg.Wait()
	return nil
}

// fail ends the connection once; later calls do nothing.
func (c *Conn) fail(err error, code websocket.StatusCode, reason string) {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = err
		close(c.done)
	}
	c.mu.Unlock()
	if first {
		if errors.Is(err, ErrTickTimeout) {
			// The library would wait seconds for a peer that is most likely gone.
			defer time.AfterFunc(silentClose, c.cancel).Stop()
		}
		if code != 0 {
			c.ws.Close(code, reason) // bounded by the library
		}
		c.ws.CloseNow()
		c.cancel()
	}
}

// Call sends a request and returns the payload of its first response as JSON text, nil without one. It fails with a
// *CallError when the gateway refuses, and with a *ClosedError when the connection ends. params nil are left out.
func (c *Conn) Call(ctx context.Context, method string, params any) (json.RawMessage, error) {
	return c.call(ctx, method, params, nil)
}

// CallTwoPhase is Call for methods that answer twice (protocol.md §2.1): onAccepted gets the first payload, the second
// is returned. A response that is not an acceptance is final.
func (c *Conn) CallTwoPhase(ctx context.Context, method string, params any, onAccepted func(json.RawMessage)) (json.RawMessage, error) {
	if onAccepted == nil {
		onAccepted = func(json.RawMessage) {}
	}
	return c.call(ctx, method, params, onAccepted)
}

func (c *Conn) call(ctx context.Context, method string, params any, onAccepted func(json.RawMessage)) (json.RawMessage, error) {
	frame, id, err := c.request(method, params)
	if err != nil {
		return nil, err
	}
	answers := make(chan wire.Frame, 2) // no method answers more often
	c.mu.Lock()
	switch {
	case c.err != nil:
		err = c.lost(method)
	case len(c.pending) >= MaxPending:
		err = ErrTooMany
	default:
		c.pending[id] = answers
	}
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	defer func() {
		c.mu.Lock()
		delete(c.pending, id)
		c.mu.Unlock()
	}()
	if err := c.write(frame); err != nil {
		return nil, closed(method, err)
	}
	for {
		var f wire.Frame
		select {
		case f = <-answers:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-c.done:
			select { // an answer that came before the end counts
			case f = <-answers:
			default:
				c.mu.Lock()
				defer c.mu.Unlock()
				return nil, c.lost(method)
			}
		}
		payload := rawOf(f.Payload)
		if !f.OK {
			return nil, &CallError{
				Code: f.Error.Code, Message: f.Error.Message, Details: json.RawMessage(f.Error.Details), Payload: payload,
				Retryable: f.Error.Retryable, RetryAfter: time.Duration(min(f.Error.RetryAfterMs, int64(24*time.Hour/time.Millisecond))) * time.Millisecond,
			}
		}
		if status, _ := f.Payload.Get("status"); onAccepted != nil && status.Str() == "accepted" {
			onAccepted(payload)
			onAccepted = nil
			continue
		}
		return payload, nil
	}
}

// Send sends a request and does not wait for its response.
func (c *Conn) Send(method string, params any) error {
	frame, _, err := c.request(method, params)
	if err != nil {
		return err
	}
	if err := c.write(frame); err != nil {
		return closed(method, err)
	}
	return nil
}

// request makes a frame. An id is never used twice on a connection.
func (c *Conn) request(method string, params any) (frame []byte, id string, err error) {
	var raw []byte
	if params != nil {
		if raw, err = wire.Marshal(params); err != nil {
			return nil, "", fmt.Errorf("encode the parameters of %s: %w", method, err)
		}
	}
	c.mu.Lock()
	c.next++
	id = strconv.FormatUint(c.next, 10)
	c.mu.Unlock()
	frame = wire.AppendRequest(nil, id, method, raw)
	if len(frame) > MaxFrame {
		return nil, "", ErrTooLarge
	}
	return frame, id, nil
}

// write sends a frame. Its time is the connection's, not a caller's: a write that is broken off ends the connection.
func (c *Conn) write(frame []byte) error {
	ctx, cancel := context.WithTimeout(c.ctx, writeTimeout)
	defer cancel()
	return c.ws.Write(ctx, websocket.MessageText, frame)
}

// lost wraps why the connection ended; the lock is held.
func (c *Conn) lost(method string) error {
	if e := (*ClosedError)(nil); errors.As(c.err, &e) {
		return &ClosedError{Doing: method, Code: e.Code, Reason: e.Reason, Err: e.Err}
	}
	return &ClosedError{Doing: method, Code: -1, Err: c.err}
}

// read is the one reader. It hands answers to their callers and events on.
func (c *Conn) read(early []Event) {
	defer close(c.events)
	for _, e := range early {
		c.deliver(e)
	}
	for {
		_, data, err := c.ws.Read(c.ctx)
		if err != nil {
			c.fail(closed("read", err), 0, "")
			return
		}
		f, err := wire.ParseFrame(data)
		if err != nil {
			c.log.Debug("a message of the gateway is no frame and was ignored", "bytes", len(data))
			continue
		}
		if f.Type == "event" {
			c.deliver(eventOf(f))
			continue
		}
		c.mu.Lock()
		answers := c.pending[f.ID]
		c.mu.Unlock()
		select {
		case answers <- f: // a nil channel is never ready: nobody waits
		default:
		}
	}
}

func (c *Conn) deliver(e Event) {
	if e.Name == "tick" {
		select {
		case c.ticks <- struct{}{}:
		default:
		}
	}
	if c.onEvent != nil {
		c.onEvent(c, e)
		return
	}
	select {
	case c.events <- e:
	default:
		c.dropped.Add(1)
	}
}

// watch ends the connection when the gateway has not ticked for two intervals; other frames do not count. After a jump
// of the clock it asks at once.
func (c *Conn) watch() {
	limit := 2 * c.hello.TickInterval
	timer := time.NewTimer(limit)
	defer timer.Stop()
	every := time.NewTicker(look)
	defer every.Stop()
	wall := c.now().Round(0) // without the monotonic clock, which stands still during a sleep
	for {
		select {
		case <-c.ticks:
			timer.Reset(limit)
		case <-timer.C:
			c.fail(ErrTickTimeout, statusTickTimeout, "tick timeout")
			return
		case <-every.C:
			now := c.now().Round(0)
			if now.Sub(wall) > clockJump {
				c.ask()
			}
			wall = now
		case <-c.done:
			return
		}
	}
}

// ask ends the connection when the gateway does not answer a ping in time.
func (c *Conn) ask() {
	ctx, cancel := context.WithTimeout(c.ctx, wakeWait)
	defer cancel()
	if err := c.ws.Ping(ctx); err != nil {
		c.fail(ErrTickTimeout, statusTickTimeout, "tick timeout")
	}
}

func eventOf(f wire.Frame) Event {
	e := Event{Name: f.Event, Payload: rawOf(f.Payload)}
	if n, ok := f.Seq.Get(); ok {
		e.Seq = &n
	}
	return e
}

func rawOf(v wire.Value) json.RawMessage {
	if !v.Exists() {
		return nil
	}
	return json.RawMessage(v.Raw())
}
