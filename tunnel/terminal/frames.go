package terminal

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/errs"
)

// A terminal over a pipe of bytes is a row of frames each way: a letter, the length of what follows as four
// bytes, and that. Numbers are big-endian.
//
//	node → gateway   S  start: the number of the first byte that follows (8 bytes)
//	                 D  output
//	                 M  missed: how many bytes the ring lost before the next (8 bytes)
//	                 C  how many bytes of input were taken in all (8 bytes)
//	                 X  exit: 1 and the code (4 bytes), or 0 and four zeros; the signal, a zero byte, the reason
//	gateway → node   I  input
//	                 R  columns and rows (2 bytes each)
//	                 A  the number before which all output was taken (8 bytes)
//
// Output not acknowledged yet is never more than Ahead bytes and input not taken never more than
// inputWindow, so that neither direction stops what the other one needs.
const (
	frameStart  = 'S'
	frameData   = 'D'
	frameMissed = 'M'
	frameTaken  = 'C'
	frameExit   = 'X'
	frameInput  = 'I'
	frameSize   = 'R'
	frameAck    = 'A'

	frameHead   = 5
	maxFrame    = 64 << 10
	inputWindow = 64 << 10
	maxInput    = 16 << 10 // in one frame
	ackEvery    = 32 << 10
	// ParkTime is how long the place of a viewer whose link broke is kept.
	ParkTime = 15 * time.Second
	// partingWait is how long the other side may take to close after the exit.
	partingWait = 5 * time.Second
)

// Pipe is an ordered stream of bytes between a node and its gateway. One goroutine may read while another
// writes; Close ends both. The channels of nodes/host and nodes are pipes.
type Pipe interface {
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	CloseWrite() error
	Close(err error) error
}

// writer writes whole frames, one at a time.
type writer struct {
	mu  sync.Mutex
	p   Pipe
	buf []byte
}

func (w *writer) frame(kind byte, payload ...[]byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, b := range payload {
		n += len(b)
	}
	w.buf = append(w.buf[:0], kind)
	w.buf = binary.BigEndian.AppendUint32(w.buf, uint32(n))
	for _, b := range payload {
		w.buf = append(w.buf, b...)
	}
	_, err := w.p.Write(w.buf)
	return err
}

func (w *writer) number(kind byte, n int64) error {
	return w.frame(kind, binary.BigEndian.AppendUint64(nil, uint64(n)))
}

// frames calls f for each frame until one fails or the pipe ends, which is io.EOF between frames. The payload
// is f's until it returns.
func frames(p Pipe, f func(kind byte, payload []byte) error) error {
	r := bufio.NewReaderSize(p, maxFrame)
	var head [frameHead]byte
	buf := make([]byte, 0, 4<<10)
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(head[1:])
		if n > maxFrame {
			return errs.New(errs.Invalid, fmt.Sprintf("a frame of a terminal with %d bytes; the most is %d", n, maxFrame))
		}
		if int(n) > cap(buf) {
			buf = make([]byte, n)
		}
		buf = buf[:n]
		if _, err := io.ReadFull(r, buf); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if err := f(head[0], buf); err != nil {
			return err
		}
	}
}

func number(payload []byte) (int64, error) {
	if len(payload) != 8 {
		return 0, errBadFrame
	}
	n := int64(binary.BigEndian.Uint64(payload))
	if n < 0 {
		return 0, errBadFrame
	}
	return n, nil
}

var errBadFrame = errs.New(errs.Invalid, "a frame of a terminal that cannot be read")

// Serve is the node's end: it sends the output from number from on (FromStart, FromEnd) and the exit over p,
// and types what comes. It returns nil once the exit was sent, and closes p in any case.
func (t *Terminal) Serve(ctx context.Context, p Pipe, from int64) (err error) {
	release := t.Hold()
	defer release()
	v, err := t.feed.Attach(from, Ahead)
	if err != nil {
		_ = p.Close(err) // which tells the gateway
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := &writer{p: p}
	s := &served{t: t, v: v, w: w, news: make(chan struct{}, 1)}
	// Whatever waits for the other side ends with ctx.
	stop := context.AfterFunc(ctx, func() { _ = p.Close(context.Cause(ctx)) })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		err := frames(p, s.take)
		if errors.Is(err, io.EOF) {
			err = errGone
		}
		cancel(err)
	})
	wg.Go(func() { s.typist(ctx) })
	defer wg.Wait()
	if err = s.send(ctx, from); err == nil {
		err = p.CloseWrite()
	}
	if err != nil {
		v.Park(ParkTime)
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		_ = p.Close(err) // it ends either way
		return err
	}
	v.Detach()
	parting := time.NewTimer(partingWait)
	defer parting.Stop()
	select {
	case <-ctx.Done(): // the gateway has closed, or broken
	case <-parting.C:
	}
	return p.Close(nil)
}

var errGone = errs.New(errs.Unavailable, "the other side of the terminal has gone")

type served struct {
	t *Terminal
	v *Viewer
	w *writer

	mu         sync.Mutex
	input      []byte        // what was read and not typed yet, inputWindow at the most
	got, taken int64         // bytes of input
	news       chan struct{} // holds one token when there is input
}

// send sends all output and the exit.
func (s *served) send(ctx context.Context, from int64) error {
	buf := make([]byte, readSize)
	for first := true; ; first = false {
		p, err := s.v.Next(ctx, buf)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if first {
			begin := p.Seq
			if from >= 0 {
				begin -= p.Missed
			}
			if err := s.w.number(frameStart, begin); err != nil {
				return err
			}
		}
		if p.Missed > 0 {
			if err := s.w.number(frameMissed, p.Missed); err != nil {
				return err
			}
		}
		if len(p.Data) > 0 {
			if err := s.w.frame(frameData, p.Data); err != nil {
				return err
			}
		}
		if err != nil {
			e, _ := s.t.feed.Exit()
			return s.w.frame(frameExit, e.encode())
		}
	}
}

// take is one frame of the gateway. It does not wait for the program.
func (s *served) take(kind byte, payload []byte) error {
	switch kind {
	case frameInput:
		s.mu.Lock()
		s.got += int64(len(payload))
		over := s.got-s.taken > inputWindow
		s.input = append(s.input, payload...)
		s.mu.Unlock()
		if over {
			return errs.New(errs.Invalid, "more input than the terminal had room for")
		}
		select {
		case s.news <- struct{}{}:
		default:
		}
	case frameSize:
		if len(payload) != 4 {
			return errBadFrame
		}
		// An ended program has no window.
		_ = s.t.Resize(int(binary.BigEndian.Uint16(payload)), int(binary.BigEndian.Uint16(payload[2:])))
	case frameAck:
		n, err := number(payload)
		if err != nil {
			return err
		}
		s.v.Ack(n)
	}
	return nil // what is not known is from a newer gateway
}

// typist types what was read, in order, until ctx ends.
func (s *served) typist(ctx context.Context) {
	for {
		select {
		case <-s.news:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		p := s.input
		s.input = nil
		s.mu.Unlock()
		if s.t.Input(ctx, p) != nil {
			return // an ended program reads nothing
		}
		s.mu.Lock()
		s.taken += int64(len(p))
		taken := s.taken
		s.mu.Unlock()
		if s.w.number(frameTaken, taken) != nil {
			return // the reader learns of it
		}
	}
}

// Remote is the gateway's end of a terminal: it copies the output into a feed with the same numbers.
// Input and Resize may be called concurrently, also with Run.
type Remote struct {
	p    Pipe
	feed *Feed
	w    writer

	mu    sync.Mutex
	sent  int64 // bytes of input
	taken int64
	room  chan struct{} // closed and replaced when taken grows
	over  chan struct{} // closed when Run returns
	turn  chan struct{} // holds one token: who types, in order
}

// NewRemote returns the end of a terminal that Serve serves at the other end of p, attached there at the
// number that the feed goes on with.
func NewRemote(p Pipe, feed *Feed) *Remote {
	return &Remote{p: p, feed: feed, w: writer{p: p}, room: make(chan struct{}), over: make(chan struct{}), turn: make(chan struct{}, 1)}
}

// Run copies until the terminal ends, which is nil and ends the feed, or the pipe does, which is an error and
// leaves the feed as it is: another Remote may go on with it. It closes the pipe. Ending ctx ends it.
func (r *Remote) Run(ctx context.Context) error {
	defer close(r.over)
	stop := context.AfterFunc(ctx, func() { _ = r.p.Close(ctx.Err()) }) // which ends the read
	defer stop()
	acked := int64(-1)
	err := frames(r.p, func(kind byte, payload []byte) error {
		switch kind {
		case frameStart:
			n, err := number(payload)
			if err != nil {
				return err
			}
			_, end := r.feed.Range()
			if n < end {
				return errs.New(errs.Invalid, fmt.Sprintf("the terminal goes on at %d, and %d was asked for", n, end))
			}
			acked = n
			return r.feed.Skip(ctx, n-end)
		case frameMissed:
			n, err := number(payload)
			if err != nil {
				return err
			}
			return r.feed.Skip(ctx, n)
		case frameData:
			if acked < 0 {
				return errBadFrame
			}
			if _, err := r.feed.Write(ctx, payload); err != nil {
				return err
			}
			if _, end := r.feed.Range(); end-acked >= ackEvery {
				acked = end
				return r.w.number(frameAck, end)
			}
		case frameTaken:
			n, err := number(payload)
			if err != nil {
				return err
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			if n > r.sent || n < r.taken {
				return errBadFrame
			}
			r.taken = n
			close(r.room)
			r.room = make(chan struct{})
		case frameExit:
			e, err := decodeExit(payload)
			if err != nil {
				return err
			}
			r.feed.End(e)
			return errEnded
		}
		return nil // what is not known is from a newer node
	})
	switch {
	case errors.Is(err, errEnded):
		err = nil
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.Is(err, io.EOF):
		err = errGone
	}
	_ = r.p.Close(err) // it ends either way
	return err
}

var errEnded = errors.New("the terminal has ended")

// Input types b, waiting while the program does not read. Part of b may have been typed when it fails, which
// it does with ErrEnded when the terminal or the pipe ended, and with ctx's error.
func (r *Remote) Input(ctx context.Context, b []byte) error {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-r.over:
		return ErrEnded
	case <-ctx.Done():
		return ctx.Err()
	}
	for len(b) > 0 {
		r.mu.Lock()
		n := min(len(b), maxInput, int(r.taken+inputWindow-r.sent))
		r.sent += int64(n)
		room := r.room
		r.mu.Unlock()
		if n == 0 {
			select {
			case <-room:
			case <-r.over:
				return ErrEnded
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		if err := r.w.frame(frameInput, b[:n]); err != nil {
			return ErrEnded.Wrap(err)
		}
		b = b[n:]
	}
	return nil
}

// Resize changes the window. It fails with ErrEnded.
func (r *Remote) Resize(cols, rows int) error {
	b := binary.BigEndian.AppendUint16(nil, uint16(clampSide(cols, 80)))
	b = binary.BigEndian.AppendUint16(b, uint16(clampSide(rows, 24)))
	if err := r.w.frame(frameSize, b); err != nil {
		return ErrEnded.Wrap(err)
	}
	return nil
}

func (e Exit) encode() []byte {
	b := make([]byte, 5, 5+len(e.Signal)+1+len(e.Reason))
	if e.Code != nil {
		b[0] = 1
		binary.BigEndian.PutUint32(b[1:], uint32(int32(*e.Code)))
	}
	return append(append(append(b, e.Signal...), 0), e.Reason...)
}

func decodeExit(b []byte) (Exit, error) {
	if len(b) < 6 || b[0] > 1 {
		return Exit{}, errBadFrame
	}
	signal, reason, ok := strings.Cut(string(b[5:]), "\x00")
	if !ok {
		return Exit{}, errBadFrame
	}
	e := Exit{Signal: signal, Reason: reason}
	if b[0] == 1 {
		code := int(int32(binary.BigEndian.Uint32(b[1:])))
		e.Code = &code
	}
	return e, nil
}
