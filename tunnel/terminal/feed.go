// Package terminal runs programs under a pseudo-terminal and keeps what they write for those who watch:
// one ordered stream of bytes for each terminal, numbered by byte, that stops the program instead of
// losing anything (tunnel.md §7).
//
// It imports the errs leaf, the library of pseudo-terminals and the standard library. Nothing in it knows how
// the bytes travel: Serve and Remote are the two ends of any ordered pipe between a node and its gateway.
package terminal

import (
	"context"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/errs"
)

// Limits of a feed.
const (
	// Ring is how many bytes of output a feed keeps for who attaches later or reads slowly (tunnel.md §7).
	Ring = 256 << 10
	// Ahead is how far the writer may be ahead of the fastest viewer. The rest of the ring is what that
	// viewer has taken already: after a lost connection it attaches again from what did arrive.
	Ahead = Ring / 2
	// MaxViewers is how many viewers a feed has at once.
	MaxViewers = 16
	// firstRing is what a feed keeps to begin with: most terminals write little.
	firstRing = 4 << 10
)

var (
	// ErrEnded is the answer to a write after the end.
	ErrEnded = errs.Define(errs.Conflict, "terminal.ended", "the terminal has ended")
	// ErrViewers is the answer to a viewer too many.
	ErrViewers = errs.Define(errs.Exhausted, "terminal.viewers", "too many viewers watch this terminal; detach one and try again")
)

// Exit is how a program ended.
type Exit struct {
	// Code is the exit code, nil when a signal ended the program or nobody knows.
	Code *int
	// Signal is the name of the signal that ended it ("SIGKILL"), "" for none.
	Signal string
	// Reason says why there is neither, in words for people.
	Reason string
}

// Feed is the output of one terminal: the last Ring bytes, numbered by byte from 0, for any number of
// viewers up to MaxViewers. One goroutine at a time writes (Write, Put, Skip, End); the other methods may
// be called concurrently.
//
// The fastest attached viewer sets the pace: Write waits while it is Ahead bytes behind, so one viewer alone
// loses nothing however slow it is, and memory is flat. Of several, one that falls out of the ring is told how
// many bytes it missed. With no viewer nobody waits, and the ring keeps the last bytes. A viewer whose
// connection broke may leave its place behind for a moment (Park), so that it misses nothing when it is back.
type Feed struct {
	mu         sync.Mutex
	buf        []byte // a power of two long; byte n is at n % len(buf)
	start, end int64  // the bytes kept are [start, end)
	viewers    []*Viewer
	ended      bool
	exit       Exit
	done       chan struct{} // closed with ended
	room       chan struct{} // holds one token when the writer should look again
}

// NewFeed returns a feed whose first byte has the number seq: 0, unless what it is fed with began before.
func NewFeed(seq int64) *Feed {
	return &Feed{start: seq, end: seq, done: make(chan struct{}), room: make(chan struct{}, 1)}
}

// Write appends p, waiting as the pace demands, and returns how many bytes it appended: fewer than len(p) only
// with an error, which is ErrEnded after the end, or ctx's.
func (f *Feed) Write(ctx context.Context, p []byte) (written int, err error) {
	for {
		f.mu.Lock()
		if f.ended {
			f.mu.Unlock()
			return written, ErrEnded
		}
		n := min(int64(len(p)-written), f.free())
		f.put(p[written : written+int(n)])
		written += int(n)
		f.mu.Unlock()
		if written == len(p) {
			return written, nil
		}
		if err := f.wait(ctx); err != nil {
			return written, err
		}
	}
}

// Put appends p without waiting for anybody: for a source that cannot be stopped. It fails with ErrEnded.
func (f *Feed) Put(p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return ErrEnded
	}
	f.put(p)
	return nil
}

// Skip says that the next n bytes are lost: viewers are told at that place. It waits until the fastest
// viewer has taken what came before, because the ring begins anew.
func (f *Feed) Skip(ctx context.Context, n int64) error {
	if n <= 0 {
		return nil
	}
	for {
		f.mu.Lock()
		if f.ended {
			f.mu.Unlock()
			return ErrEnded
		}
		if len(f.viewers) == 0 || f.fastest() == f.end {
			f.end += n
			f.start = f.end
			f.wake()
			f.mu.Unlock()
			return nil
		}
		f.mu.Unlock()
		if err := f.wait(ctx); err != nil {
			return err
		}
	}
}

// End says that nothing follows. Viewers learn of it after the last byte. Only the first call counts.
func (f *Feed) End(e Exit) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return
	}
	f.ended, f.exit = true, e
	close(f.done)
	f.wake()
	f.signal()
}

// Done is closed at the end.
func (f *Feed) Done() <-chan struct{} { return f.done }

// Exit returns how the program ended; ended is false while it may still write.
func (f *Feed) Exit() (e Exit, ended bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.exit, f.ended
}

// Range returns the numbers of the first byte that is kept and of the next that will be written.
func (f *Feed) Range() (start, end int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.start, f.end
}

// Viewers returns how many are attached.
func (f *Feed) Viewers() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, v := range f.viewers {
		if !v.parked {
			n++
		}
	}
	return n
}

// Free returns how many bytes Write would take now without waiting; 0 is none. With no viewer it is Ahead.
func (f *Feed) Free() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return min(f.free(), Ahead)
}

// Attach adds a viewer that gets the bytes from number seq on, or from the first that is kept when that is
// later, which it is told as missed; FromStart and FromEnd name these places without anything missed. A number
// that was not written yet is waited for: what the feed is filled from may have it already. A viewer
// with a window acknowledges what it took (Ack) and is given at most window bytes beyond that; without, what
// Next returned counts as taken. The caller detaches it. It fails with ErrViewers.
func (f *Feed) Attach(seq, window int64) (*Viewer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, v := range slices.Clone(f.viewers) {
		if v.parked {
			v.detach()
		}
	}
	if len(f.viewers) >= MaxViewers {
		return nil, ErrViewers
	}
	switch seq {
	case FromStart:
		seq = f.start
	case FromEnd:
		seq = f.end
	}
	v := &Viewer{f: f, pos: seq, acked: seq, window: max(window, 0), news: make(chan struct{}, 1)}
	f.viewers = append(f.viewers, v)
	f.signal() // it may be faster than those that are there
	return v, nil
}

// Places to attach at.
const (
	FromStart int64 = -1
	FromEnd   int64 = -2
)

// free is how many bytes may be written now.
func (f *Feed) free() int64 {
	if len(f.viewers) == 0 {
		return 1 << 62
	}
	return max(f.fastest()+Ahead-f.end, 0)
}

// fastest is what the fastest viewer has taken.
func (f *Feed) fastest() int64 {
	var at int64
	for i, v := range f.viewers {
		if taken := v.taken(); i == 0 || taken > at {
			at = taken
		}
	}
	return at
}

func (f *Feed) put(p []byte) {
	if len(p) == 0 {
		return
	}
	if skip := len(p) - Ring; skip > 0 { // none of these would stay
		f.end += int64(skip)
		f.start = f.end
		p = p[skip:]
	}
	f.grow(int(f.end-f.start) + len(p))
	at := int(f.end % int64(len(f.buf)))
	n := copy(f.buf[at:], p)
	copy(f.buf, p[n:])
	f.end += int64(len(p))
	f.start = max(f.start, f.end-int64(len(f.buf)))
	f.wake()
}

// grow makes room for n bytes, up to Ring.
func (f *Feed) grow(n int) {
	n = min(n, Ring)
	if n <= len(f.buf) {
		return
	}
	size := max(len(f.buf), firstRing)
	for size < n {
		size *= 2
	}
	next := make([]byte, size)
	for seq := f.start; seq < f.end; {
		piece := f.at(seq)
		at := int(seq % int64(size))
		seq += int64(copy(next[at:], piece))
	}
	f.buf = next
}

// at returns kept bytes from number seq on, as many as lie together.
func (f *Feed) at(seq int64) []byte {
	i := int(seq % int64(len(f.buf)))
	return f.buf[i:min(i+int(f.end-seq), len(f.buf))]
}

// wake tells the viewers to look again, signal the writer.
func (f *Feed) wake() {
	for _, v := range f.viewers {
		v.wake()
	}
}

func (f *Feed) signal() {
	select {
	case f.room <- struct{}{}:
	default:
	}
}

func (f *Feed) wait(ctx context.Context) error {
	select {
	case <-f.room:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Viewer reads a feed. One goroutine at a time calls Next; Ack and Detach may be called from others.
type Viewer struct {
	f        *Feed
	pos      int64 // the next byte for Next
	acked    int64 // with a window: what was acknowledged
	window   int64
	detached bool
	parked   bool
	news     chan struct{}
}

// Piece is what Next returns.
type Piece struct {
	// Missed is how many bytes before Data this viewer was too slow for.
	Missed int64
	// Seq is the number of the first byte of Data.
	Seq  int64
	Data []byte
}

// Next waits for output and copies it into buf. Data may be empty when bytes were missed at the very end. It
// fails with io.EOF after the last byte of a feed that has ended, io.ErrClosedPipe once detached, and with
// ctx's error.
func (v *Viewer) Next(ctx context.Context, buf []byte) (Piece, error) {
	f := v.f
	for {
		f.mu.Lock()
		if v.detached || v.parked {
			f.mu.Unlock()
			return Piece{}, io.ErrClosedPipe
		}
		p := Piece{}
		if v.pos < f.start {
			p.Missed = f.start - v.pos
			v.pos = f.start
			// Nobody will acknowledge what was never given.
			v.acked = max(v.acked, v.pos-v.window)
		}
		p.Seq = v.pos
		n := max(f.end-v.pos, 0)
		if v.window > 0 {
			n = max(min(n, v.acked+v.window-v.pos), 0)
		}
		n = min(n, int64(len(buf)))
		for p.Data = buf[:0]; n > 0; {
			piece := f.at(v.pos)
			piece = piece[:min(int64(len(piece)), n)]
			p.Data = append(p.Data, piece...)
			v.pos += int64(len(piece))
			n -= int64(len(piece))
		}
		over := f.ended && v.pos >= f.end
		moved := p.Missed > 0 || len(p.Data) > 0
		if moved {
			f.signal()
		}
		f.mu.Unlock()
		switch {
		case moved:
			return p, nil
		case over:
			return Piece{Seq: p.Seq}, io.EOF
		}
		select {
		case <-v.news:
		case <-ctx.Done():
			return Piece{}, ctx.Err()
		}
	}
}

// Ack says that everything before number seq was taken. Numbers that go back or that were not given yet do
// not count. It is for viewers with a window.
func (v *Viewer) Ack(seq int64) {
	v.f.mu.Lock()
	defer v.f.mu.Unlock()
	if seq = min(seq, v.pos); seq > v.acked {
		v.acked = seq
		v.wake()
		v.f.signal()
	}
}

// SetWindow changes the window; 0 takes it away, and with it the need to acknowledge.
func (v *Viewer) SetWindow(window int64) {
	v.f.mu.Lock()
	defer v.f.mu.Unlock()
	if v.window == 0 && window > 0 {
		v.acked = v.pos
	}
	v.window = max(window, 0)
	v.wake()
	v.f.signal()
}

// Detach takes the viewer away. The pace no longer depends on it.
func (v *Viewer) Detach() {
	v.f.mu.Lock()
	defer v.f.mu.Unlock()
	v.detach()
}

func (v *Viewer) detach() {
	if v.detached {
		return
	}
	v.detached = true
	v.f.viewers = slices.DeleteFunc(v.f.viewers, func(o *Viewer) bool { return o == v })
	v.wake()
	v.f.signal()
}

// Park detaches the viewer, but lets the pace depend on what it has taken for d, or until another one
// attaches: for a viewer whose connection broke and who is to come back.
func (v *Viewer) Park(d time.Duration) {
	v.f.mu.Lock()
	defer v.f.mu.Unlock()
	if v.detached || v.parked || v.f.ended && v.f.end-v.taken() <= Ahead {
		v.detach()
		return
	}
	v.parked = true
	v.wake()
	time.AfterFunc(d, v.Detach)
}

func (v *Viewer) taken() int64 {
	if v.window > 0 {
		return min(v.acked, v.f.end)
	}
	return min(v.pos, v.f.end)
}

// Seq is the number of the next byte for Next.
func (v *Viewer) Seq() int64 {
	v.f.mu.Lock()
	defer v.f.mu.Unlock()
	return v.pos
}

func (v *Viewer) wake() {
	select {
	case v.news <- struct{}{}:
	default:
	}
}
