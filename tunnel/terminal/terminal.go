package terminal

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanzoai/hanzod/errs"
)

// Limits of terminals.
const (
	// MaxTerminals is how many programs run at once, unless Config says otherwise.
	MaxTerminals = 64
	// MaxInput is how many bytes of input wait for one program that does not read, and the most that one
	// Input takes.
	MaxInput = 1 << 20
	// termAfter and killAfter are how long a program has to heed SIGHUP, and then to heed SIGTERM
	// (tunnel.md §7): it is gone killAfter after the request to close at the latest.
	termAfter = 2 * time.Second
	killAfter = 5 * time.Second
	// Linger is how long the last output of an ended program is kept for who attaches again.
	Linger = time.Minute
	// Orphan is how long a program runs on while nobody watches it and no link of it stands.
	Orphan = time.Hour
	// drainQuiet is how long output is waited for after the program itself has ended, when children of it
	// still hold the terminal.
	drainQuiet = 300 * time.Millisecond
	// lookEvery is how often what a closed program started is looked for.
	lookEvery = 50 * time.Millisecond
	// readSize is what is read at once.
	readSize = 32 << 10
	// MinSide, MaxSide bound a window.
	MinSide, MaxSide = 1, 65535
)

var (
	// ErrNotFound names a terminal that is not here (any more).
	ErrNotFound = errs.Define(errs.NotFound, "terminal.not_found", "the terminal is not here (any more); list those that are")
	// ErrTooMany is the answer to a terminal beyond the limit.
	ErrTooMany = errs.Define(errs.Exhausted, "terminal.too_many", "too many terminals are open on this machine; close one and try again")
	// ErrInput is the answer to input that a program did not take in time, and of which nothing is kept.
	ErrInput = errs.Define(errs.Exhausted, "terminal.input_full", "the program does not read what was typed; nothing of this was kept, try again later")
	// ErrSpawn is a program that could not be started; the cause says why.
	ErrSpawn = errs.Define(errs.Unavailable, "terminal.spawn", "the program could not be started")
)

// Spec is what to open.
type Spec struct {
	// Path is the executable, Argv the arguments with their first, by which the program is called; Name is the
	// program for people, the first of Argv when empty.
	Name string
	Path string
	Argv []string
	// Env is the whole environment; Dir "" is the process's own.
	Env []string
	Dir string
	// Cols and Rows are the window.
	Cols, Rows int
	// Files are for the program, from descriptor 3 on; nil is none at that number. It is for systems that have such.
	Files []*os.File
	// Began is called once the program has started or could not be, so that what it is started by can be
	// let go.
	Began func()
}

// Info describes a terminal.
type Info struct {
	ID         string
	Shell      string // the program, as it was named
	Argv       []string
	Dir        string
	PID        int
	Cols, Rows int
	Started    time.Time
	Viewers    int
	// Start and End are the numbers of the first byte that is kept and of the next.
	Start, End int64
	// Ended says that the program is gone, and Exit how.
	Ended bool
	Exit  Exit
}

// Config of NewManager. The zero value is usable.
type Config struct {
	// Max replaces MaxTerminals, Linger and Orphan the constants of these names, when they are positive.
	Max            int
	Linger, Orphan time.Duration
	// Grace replaces termAfter and killAfter, for tests.
	Grace [2]time.Duration
	Log   *slog.Logger
}

// Manager holds the terminals of this machine. Its methods may be called concurrently, and none of them waits
// for a program, but Close.
type Manager struct {
	c  Config
	wg sync.WaitGroup

	mu      sync.Mutex
	all     map[string]*Terminal
	opening int
	closed  bool
}

// NewManager returns a manager; Close ends what it holds.
func NewManager(c Config) *Manager {
	if c.Max <= 0 {
		c.Max = MaxTerminals
	}
	if c.Linger <= 0 {
		c.Linger = Linger
	}
	if c.Orphan <= 0 {
		c.Orphan = Orphan
	}
	if c.Grace[0] <= 0 {
		c.Grace = [2]time.Duration{termAfter, killAfter}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Manager{c: c, all: map[string]*Terminal{}}
}

// Open starts a program under a terminal of its own. It fails with ErrTooMany and ErrSpawn.
func (m *Manager) Open(s Spec) (*Terminal, error) {
	began := sync.OnceFunc(func() {
		if s.Began != nil {
			s.Began()
		}
	})
	defer began()
	m.mu.Lock()
	running := m.opening
	for _, t := range m.all {
		if !t.ended() {
			running++
		}
	}
	if m.closed || running >= m.c.Max {
		defer m.mu.Unlock()
		if m.closed {
			return nil, ErrSpawn.WithText("this machine is being stopped")
		}
		return nil, ErrTooMany
	}
	m.opening++
	m.wg.Add(1) // Close waits for it, too
	m.mu.Unlock()

	t, err := m.start(s)
	began()

	m.mu.Lock()
	defer m.mu.Unlock()
	m.opening--
	if err != nil {
		m.wg.Done()
		return nil, ErrSpawn.Wrap(err)
	}
	m.all[t.id] = t
	if m.closed {
		t.Close()
	}
	go func() {
		defer m.wg.Done()
		t.run()
		m.forgetLater(t)
	}()
	return t, nil
}

func (m *Manager) start(s Spec) (*Terminal, error) {
	s.Cols, s.Rows = clampSide(s.Cols, 80), clampSide(s.Rows, 24)
	d, pid, err := openDevice(s)
	if err != nil {
		return nil, err
	}
	t := &Terminal{
		m: m, id: newID(), spec: s, dev: d, pid: pid, began: time.Now(), cols: s.Cols, rows: s.Rows,
		feed: NewFeed(0), gone: make(chan struct{}), closing: make(chan struct{}),
	}
	t.in.init()
	return t, nil
}

// forgetLater takes an ended terminal away once nobody can want its last bytes any more.
func (m *Manager) forgetLater(t *Terminal) {
	time.AfterFunc(m.c.Linger, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.all, t.id)
	})
}

// Get returns a terminal, also one that has ended less than Linger ago. It fails with ErrNotFound.
func (m *Manager) Get(id string) (*Terminal, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.all[id]; t != nil {
		return t, nil
	}
	return nil, ErrNotFound.With("id", id)
}

// List returns the terminals whose programs run, the oldest first.
func (m *Manager) List() []Info {
	m.mu.Lock()
	all := slices.Collect(maps.Values(m.all))
	m.mu.Unlock()
	out := []Info{}
	for _, t := range all {
		if i := t.Info(); !i.Ended {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(a, b Info) int {
		return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// Close ends all programs and waits until they are gone. When ctx ends they are killed.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	m.closed = true
	for _, t := range m.all {
		t.Close()
	}
	m.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.wg.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	m.mu.Lock()
	for _, t := range m.all {
		if !t.ended() {
			t.dev.Kill()
		}
	}
	m.mu.Unlock()
	late := time.NewTimer(time.Second)
	defer late.Stop()
	select {
	case <-done:
		return nil
	case <-late.C:
		return ctx.Err()
	}
}

// Terminal is one program under a terminal. It goes one way: running, ended once its last output is in the feed.
// Its methods may be called concurrently.
type Terminal struct {
	m     *Manager
	id    string
	spec  Spec
	dev   device
	pid   int
	began time.Time
	feed  *Feed
	in    input

	gone    chan struct{} // closed when the program itself has ended
	closing chan struct{} // closed when it is to end
	once    sync.Once
	touched atomic.Int64 // when somebody last did something, in nanoseconds since began

	mu         sync.Mutex
	cols, rows int
	over       bool // the device is closed
	links      int  // Hold
}

// device is a program under a terminal of this system. Read and Write may be called at once; the others too.
type device interface {
	// Read returns an error when nobody can write any more, or once there was nothing for drainQuiet after
	// Wait.
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	// TryWrite writes what can be written without waiting, while there is no Write, and returns how much that was.
	TryWrite(p []byte) int
	Resize(cols, rows int) error
	// Wait waits for the program, once, and from then on reads end; Reap then says how it ended. Between the two
	// the number of the program belongs to it, where the system has such a state.
	Wait()
	Reap() Exit
	// Alive reports whether anything that the program started is known to live.
	Alive() bool
	// Hangup, Terminate and Kill end the program with all that it started, ever more firmly.
	Hangup()
	Terminate()
	Kill()
	Close() error
}

// ID names the terminal; Feed is what it writes.
func (t *Terminal) ID() string { return t.id }

// Feed is the output of the terminal.
func (t *Terminal) Feed() *Feed { return t.feed }

// Info describes the terminal as it is now.
func (t *Terminal) Info() Info {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := Info{ID: t.id, Argv: t.spec.Argv, Dir: t.spec.Dir, PID: t.pid, Cols: t.cols, Rows: t.rows, Started: t.began, Viewers: t.feed.Viewers()}
	if i.Shell = t.spec.Name; i.Shell == "" && len(t.spec.Argv) > 0 {
		i.Shell = t.spec.Argv[0]
	}
	i.Start, i.End = t.feed.Range()
	i.Exit, i.Ended = t.feed.Exit()
	return i
}

// Input types p, as one piece, and waits until ctx ends for room when the program does not read. It fails
// with ErrInput, having kept nothing, and with ErrEnded.
func (t *Terminal) Input(ctx context.Context, p []byte) error {
	t.touch()
	return t.in.add(ctx, p, t.dev.TryWrite)
}

// Resize changes the window; the program learns of it. It fails with ErrEnded.
func (t *Terminal) Resize(cols, rows int) error {
	t.touch()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return ErrEnded
	}
	cols, rows = clampSide(cols, t.cols), clampSide(rows, t.rows)
	if err := t.dev.Resize(cols, rows); err != nil {
		return errs.Wrap(errs.Internal, "change the size of the terminal", err)
	}
	t.cols, t.rows = cols, rows
	return nil
}

// Close asks for the end of the program and returns at once: SIGHUP to all of it, SIGTERM after two seconds,
// SIGKILL after five. The feed's end tells when it is gone.
func (t *Terminal) Close() { t.once.Do(func() { close(t.closing) }) }

// Hold says that somebody uses the terminal until release is called: it is no orphan meanwhile.
func (t *Terminal) Hold() (release func()) {
	t.mu.Lock()
	t.links++
	t.mu.Unlock()
	return sync.OnceFunc(func() {
		t.mu.Lock()
		t.links--
		t.mu.Unlock()
		t.touch()
	})
}

func (t *Terminal) ended() bool {
	_, ended := t.feed.Exit()
	return ended
}

// touch notes that somebody does something. It wakes nobody: that would cost each key a turn of another goroutine.
func (t *Terminal) touch() { t.touched.Store(int64(time.Since(t.began))) }

// run is the life of the terminal; it returns when the program is gone and its output is in the feed.
func (t *Terminal) run() {
	var wg sync.WaitGroup
	var exit Exit
	ended := make(chan struct{})
	wg.Go(func() {
		t.end()
		close(ended)
	})
	wg.Go(func() {
		t.dev.Wait()
		close(t.gone)
		<-ended
		exit = t.dev.Reap()
	})
	wg.Go(func() { t.in.serve(t.dev) })
	t.read()
	<-t.gone
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
	t.in.end()
	if err := t.dev.Close(); err != nil {
		t.m.c.Log.Warn("a terminal could not be closed", "terminal", t.id, "err", err)
	}
	wg.Wait()
	t.feed.End(exit)
}

// read copies output into the feed. What is stopped by a viewer that does not read goes on when the viewer does,
// or leaves; who closes the terminal is waited for no longer than killAfter and a moment.
func (t *Terminal) read() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-stop:
			return
		case <-t.closing:
		}
		select {
		case <-stop:
		case <-time.After(t.m.c.Grace[1] + t.m.c.Linger):
			cancel()
		}
	}()
	buf := make([]byte, readSize)
	for {
		n, err := t.dev.Read(buf)
		if written, werr := t.feed.Write(ctx, buf[:n]); werr != nil {
			_ = t.feed.Put(buf[written:n]) // nobody takes it, but the last of it is kept
		}
		if err != nil {
			return
		}
	}
}

// end ends the program when that is asked for, and when nobody wants it any more.
func (t *Terminal) end() {
	orphan := time.NewTimer(t.m.c.Orphan)
	defer orphan.Stop()
	for asked := false; !asked; {
		select {
		case <-t.gone:
			t.dev.Hangup() // for what it left behind, as the end of a session does
			return
		case <-t.closing:
			asked = true
		case <-orphan.C:
			if rest := time.Duration(t.touched.Load()) + t.m.c.Orphan - time.Since(t.began); rest > 0 {
				orphan.Reset(rest)
				break
			}
			t.mu.Lock()
			held := t.links > 0
			t.mu.Unlock()
			if held || t.feed.Viewers() > 0 {
				orphan.Reset(t.m.c.Orphan)
				break
			}
			t.m.c.Log.Warn("a terminal that nobody watches is closed", "terminal", t.id, "after", t.m.c.Orphan.String())
			t.Close()
		}
	}
	t.dev.Hangup()
	terminate, kill := time.NewTimer(t.m.c.Grace[0]), time.NewTimer(t.m.c.Grace[1])
	defer terminate.Stop()
	defer kill.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	gone := t.gone
	for killed := false; ; {
		select {
		case <-gone:
			gone = nil
		case <-look.C:
		case <-terminate.C:
			t.dev.Terminate()
		case <-kill.C:
			t.dev.Kill()
			killed = true
			kill.Reset(t.m.c.Grace[1])
		}
		if gone == nil && (killed || !t.dev.Alive()) {
			return
		}
	}
}

// input is what waits for the program to read it.
type input struct {
	mu     sync.Mutex
	queue  [][]byte
	size   int
	over   bool
	turn   chan struct{} // holds one token: who adds, in order
	room   chan struct{} // holds one token when there is more room
	news   chan struct{} // holds one token when there is something to write
	ending chan struct{}
}

func (q *input) init() {
	q.turn, q.room, q.news, q.ending = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{})
}

// add queues p, or what try does not take of it where nothing waits: a key is written at once, with no turn of serve.
func (q *input) add(ctx context.Context, p []byte, try func([]byte) int) error {
	if len(p) > MaxInput {
		return errs.New(errs.Invalid, fmt.Sprintf("more than %d bytes of input at once; send it in pieces", MaxInput))
	}
	select {
	case q.turn <- struct{}{}:
		defer func() { <-q.turn }()
	case <-q.ending:
		return ErrEnded
	case <-ctx.Done():
		return ErrInput
	}
	for {
		q.mu.Lock()
		switch {
		case q.over:
			q.mu.Unlock()
			return ErrEnded
		case q.size == 0 || q.size+len(p) <= MaxInput:
			if len(q.queue) == 0 {
				p = p[try(p):]
			}
			if len(p) == 0 {
				q.mu.Unlock()
				return nil
			}
			q.queue = append(q.queue, slices.Clone(p))
			q.size += len(p)
			q.mu.Unlock()
			select {
			case q.news <- struct{}{}:
			default:
			}
			return nil
		}
		q.mu.Unlock()
		select {
		case <-q.room:
		case <-q.ending:
		case <-ctx.Done():
			return ErrInput
		}
	}
}

// serve writes what is queued, until end.
func (q *input) serve(w interface{ Write([]byte) (int, error) }) {
	for {
		q.mu.Lock()
		var p []byte
		if len(q.queue) > 0 {
			p = q.queue[0]
		}
		q.mu.Unlock()
		if p == nil {
			select {
			case <-q.news:
				continue
			case <-q.ending:
				return
			}
		}
		n, err := w.Write(p[:min(len(p), inputPiece)])
		q.mu.Lock()
		q.size -= n
		if q.queue[0] = p[n:]; n == len(p) {
			q.queue = q.queue[1:]
		}
		q.mu.Unlock()
		select {
		case q.room <- struct{}{}:
		default:
		}
		if err != nil {
			q.end()
			return
		}
	}
}

// inputPiece is what is written to a program at once, so that the room it makes is known early.
const inputPiece = 4 << 10

func (q *input) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.over {
		q.over = true
		close(q.ending)
	}
}

func clampSide(n, otherwise int) int {
	if n <= 0 {
		n = otherwise
	}
	return min(max(n, MinSide), MaxSide)
}

// Environ is the environment of a program under a terminal: env, and what says that it has one and how
// large it was at the start (tunnel.md §1.6).
func Environ(env []string, cols, rows int) []string {
	set := []string{"COLUMNS=" + fmt.Sprint(clampSide(cols, 80)), "LINES=" + fmt.Sprint(clampSide(rows, 24)), "TERM=xterm-256color"}
	out := make([]string, 0, len(env)+len(set))
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		if !slices.ContainsFunc(set, func(s string) bool { return strings.HasPrefix(s, name+"=") }) {
			out = append(out, kv)
		}
	}
	return append(out, set...)
}

func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
