package host

import (
	"context"
	"maps"
	"sync"
	"time"
)

const (
	// outputEvent carries what a running command writes, to a gateway that asked for it with the parameter
	// streamOutput.
	outputEvent = "exec.output"
	// pieceBytes bounds the output in one event.
	pieceBytes = 16 << 10
	// tapBytes bounds what waits to be sent of one command. When it is full, further output is not sent,
	// and the next piece shows by its offset that something is missing: a command is never slowed for who
	// watches it, and its result has its beginning all the same.
	tapBytes = 256 << 10
	// pieceGap is the least time between two events of a command, so that one that writes byte by byte
	// makes no flood of them; at pieceBytes for each that is 1.6 MiB a second.
	pieceGap = 10 * time.Millisecond
)

// piece is output on its way. Its keys are ours: the original has no such event.
type piece struct {
	InvokeID string `json:"invokeId"`
	RunID    string `json:"runId"`
	Stream   string `json:"stream"`
	// Offset is how many bytes of the stream stand before it.
	Offset int64  `json:"offset"`
	Data   []byte `json:"data"` // base64; empty in a last piece, when the end of the stream was not sent
}

// tap sends the output of one command while it runs. Writing to it does not block.
type tap struct {
	invokeID, runID string
	emit            func(event, payloadJSON string)

	mu      sync.Mutex
	queue   []piece
	bytes   int
	offsets map[string]int64
	sent    map[string]int64 // up to where; of send alone
	closed  bool
	wake    chan struct{} // has room for one
	done    chan struct{}
}

// newTap starts to send; close ends it.
func newTap(r Request, runID string) *tap {
	t := &tap{invokeID: r.ID, runID: runID, emit: r.Emit, offsets: map[string]int64{}, sent: map[string]int64{}, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go t.send()
	return t
}

func (t *tap) write(stream string, p []byte) {
	if t == nil || len(p) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	at := t.offsets[stream]
	t.offsets[stream] = at + int64(len(p))
	p = p[:min(len(p), tapBytes-t.bytes)]
	t.bytes += len(p)
	for len(p) > 0 {
		last := len(t.queue) - 1
		if last < 0 || t.queue[last].Stream != stream || len(t.queue[last].Data) >= pieceBytes || t.queue[last].Offset+int64(len(t.queue[last].Data)) != at {
			t.queue = append(t.queue, piece{InvokeID: t.invokeID, RunID: t.runID, Stream: stream, Offset: at})
			last++
		}
		n := min(len(p), pieceBytes-len(t.queue[last].Data))
		t.queue[last].Data = append(t.queue[last].Data, p[:n]...)
		p, at = p[n:], at+int64(n)
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *tap) send() {
	defer close(t.done)
	for {
		t.mu.Lock()
		closed := t.closed
		var next *piece
		if len(t.queue) > 0 {
			next = &t.queue[0]
			t.queue = t.queue[1:]
			t.bytes -= len(next.Data)
		}
		t.mu.Unlock()
		switch {
		case next != nil:
			t.emit(outputEvent, string(encode(next)))
			t.sent[next.Stream] = next.Offset + int64(len(next.Data))
			if !closed {
				<-time.After(pieceGap)
			}
		case closed:
			t.mu.Lock()
			ends := maps.Clone(t.offsets)
			t.mu.Unlock()
			for stream, end := range ends {
				if end > t.sent[stream] {
					t.emit(outputEvent, string(encode(piece{InvokeID: t.invokeID, RunID: t.runID, Stream: stream, Offset: end, Data: []byte{}})))
				}
			}
			return
		default:
			<-t.wake
		}
	}
}

// close sends what waits and returns when it is sent.
func (t *tap) close() {
	if t == nil {
		return
	}
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
	<-t.done
}

// running are the commands that run, by invoke, so that the gateway can end one.
type running struct {
	mu sync.Mutex
	m  map[string]*command
}

type command struct {
	cancel context.CancelFunc
	by     string // who ended it
}

// begin puts a command in; its end must be called.
func (s *running) begin(ctx context.Context, invokeID string) (context.Context, func() (by string)) {
	ctx, cancel := context.WithCancel(ctx)
	c := &command{cancel: cancel}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil {
		s.m = map[string]*command{}
	}
	if s.m[invokeID] == nil { // a gateway names no two alike; the second could not be told from the first
		s.m[invokeID] = c
	}
	return ctx, func() string {
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.m[invokeID] == c {
			delete(s.m, invokeID)
		}
		return c.by
	}
}

// kill is system.run.kill {invokeId, by}: it ends a command with its process group. The command's own
// answer says so, and by whom. Only the gateway itself asks for it.
func (h *Host) kill(_ context.Context, _ Request, p params) Result {
	id, by := orEmpty(p.text("invokeId")), orEmpty(p.text("by"))
	if by == "" {
		by = "the gateway"
	}
	h.commands.mu.Lock()
	defer h.commands.mu.Unlock()
	c, ok := h.commands.m[id]
	if !ok {
		return failed("NOT_FOUND", "NOT_FOUND: no such command runs on this node; it has ended, or has not begun yet")
	}
	if c.by == "" {
		c.by = by
	}
	c.cancel()
	return done([]byte(`{"killed":true}`))
}
