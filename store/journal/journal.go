// Package journal makes appends to many files durable with one sync for many of them.
//
// Who appends writes to its file first, which costs no sync, and then has the journal record what it wrote and
// where. The journal gathers the records that wait, writes them in one piece, syncs once and answers all. After
// a crash the records say what every file must hold. When a segment of the journal is full, its owner syncs the
// files themselves, and the segment is removed.
//
// The package imports errs only. A Log owns two goroutines, one that writes and one that removes segments;
// Close waits for both. All methods may be called concurrently.
package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/errs"
)

const (
	// SegmentBytes is when a segment is full: what is read at a start after a crash stays small, and the files
	// are synced in batches that are worth it.
	SegmentBytes = 16 << 20
	// maxSegments bounds the journal: this many full segments may wait for their files; then appends wait.
	maxSegments = 3
	// maxQueued bounds the records that wait; one more is refused with ErrBusy.
	maxQueued = 4096
	// maxBatch bounds the records of one sync, and maxBatchBytes their size beyond the first one.
	maxBatch      = 1024
	maxBatchBytes = 4 << 20
	// MaxData bounds the data of one record in bytes.
	MaxData = 32 << 20
	// MaxName bounds the name of a file in bytes.
	MaxName = 1024
	// gatherYields is how often the writer lets others run before the next sync.
	gatherYields = 16
	// settleAfter is how long records wait in a segment that does not get full.
	settleAfter = 30 * time.Second
	suffix      = ".wal"
	// spareName is a full segment that is not needed any more. The next one takes its place: writing over blocks
	// that a file has costs a sync much less than making it longer.
	spareName = "spare"
)

// The errors of this package.
var (
	// ErrBusy says that nothing was recorded.
	ErrBusy = errs.Define(errs.Exhausted, "journal.busy", "too many appends are waiting for the disk; nothing was written; try again")
	// ErrClosed says that nothing was recorded.
	ErrClosed = errs.Define(errs.Unavailable, "journal.closed", "the store is closed; nothing was written")
	// ErrStopped says that nothing was recorded, since an earlier sync failed.
	ErrStopped = errs.Define(errs.Unavailable, "journal.stopped", "the store stopped after a write error; nothing was written; free disk space or replace the disk, and restart hanzod")
	// ErrNotWritten is a write that failed and left nothing; the journal goes on.
	ErrNotWritten = errs.Define(errs.Unavailable, "journal.not_written", "the write failed and nothing was written; free disk space and try again")
	// ErrUnknown is a sync that failed: what is on disk is not known, and the journal has stopped.
	ErrUnknown = errs.Define(errs.Unknown, "journal.unknown", "outcome unknown: the write may or may not be on disk; look before you repeat it")
	// ErrTooLarge is a record that is beyond MaxData or MaxName.
	ErrTooLarge = errs.Define(errs.Invalid, "journal.too_large", "one append may have 32 MiB at the most")
)

// Kind is what a record says.
type Kind byte

// The kinds. KindAppend says that Data is at Offset of Name. KindVoid says that what earlier records say of
// Name is durable, or means nothing any more: the file may have been moved or replaced since.
const (
	KindAppend Kind = 1
	KindVoid   Kind = 2
)

// Record is one entry.
type Record struct {
	Kind   Kind
	Name   string
	Offset int64
	Data   []byte
}

// Options are what a journal needs from outside.
type Options struct {
	// Settle makes the named files durable, whatever the records say of them; then the records go. It runs in
	// a goroutine of the journal and may be called for a file that is not there any more.
	Settle func(names []string) error
	// OnFatal is called once, after a failed sync, when its callers have been answered. It must not wait for
	// Close.
	OnFatal func(error)
	// NoSync leaves the syncs out, for tests of what does not depend on them.
	NoSync bool
}

type op struct {
	rec  Record
	done chan error
}

// segment is a file of records.
type segment struct {
	number uint64
	path   string
	names  map[string]struct{}
	// full says that another one follows soon.
	full bool
}

// Log is an open journal.
type Log struct {
	dir  string
	opts Options
	// sync and write are those of a file; tests put failing ones in their place.
	sync  func(*os.File) error
	write func(*os.File, []byte, int64) (int, error)

	mu      sync.Mutex
	wake    sync.Cond
	queue   []*op
	settle  bool // the writer is to end its segment soon
	waiting []chan error
	closed  bool
	failed  error

	// Of the writer.
	f    *os.File
	now  segment
	at   int64
	buf  []byte
	next uint64

	full    chan segment // full segments, for the settler
	flushed sync.WaitGroup
	stopped chan struct{}
	settled chan struct{}
	lost    error // of the settler, under mu
}

// Open opens the journal in a directory, which is made with the first record. It replays what a crash left:
// the records go to apply in their order, but for those that a later KindVoid of the same name ends. Then
// Settle is called with their names, and they are removed. An error of either leaves the journal as it is.
func Open(dir string, apply func(Record) error, opts Options) (*Log, error) {
	l := &Log{
		dir: dir, opts: opts, full: make(chan segment, maxSegments), stopped: make(chan struct{}), settled: make(chan struct{}),
		sync: syncData, write: (*os.File).WriteAt,
	}
	if opts.NoSync {
		l.sync = func(*os.File) error { return nil }
	}
	l.wake.L = &l.mu
	found, err := Segments(dir)
	if err != nil {
		return nil, err
	}
	if err := l.replay(found, apply); err != nil {
		return nil, err
	}
	if err := l.dropSpare(); err != nil {
		return nil, err
	}
	go l.run()
	go l.settleAll()
	return l, nil
}

// Segments are the files of a journal, oldest first; none when there is no directory.
func Segments(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if _, ok := numberOf(e.Name()); ok && e.Type().IsRegular() {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(out)
	return out, nil
}

func numberOf(name string) (uint64, bool) {
	hex, ok := strings.CutSuffix(name, suffix)
	if !ok || len(hex) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(hex, 16, 64)
	return n, err == nil
}

func (l *Log) replay(paths []string, apply func(Record) error) error {
	if len(paths) == 0 {
		return nil
	}
	// The first pass finds what later records ended.
	void := map[string]int{}
	i := 0
	each := func(f func(Record) error) error {
		i = 0
		for _, path := range paths {
			if err := Read(path, func(r Record) error {
				i++
				return f(r)
			}); err != nil {
				return err
			}
		}
		return nil
	}
	err := each(func(r Record) error {
		if r.Kind == KindVoid {
			void[r.Name] = i
		}
		return nil
	})
	if err != nil {
		return err
	}
	names := map[string]struct{}{}
	err = each(func(r Record) error {
		if r.Kind != KindAppend || i <= void[r.Name] {
			return nil
		}
		names[r.Name] = struct{}{}
		return apply(r)
	})
	if err != nil {
		return err
	}
	if err := l.opts.Settle(sorted(names)); err != nil {
		return err
	}
	for _, path := range paths {
		n, _ := numberOf(filepath.Base(path))
		l.next = max(l.next, n+1)
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return l.syncDir()
}

func sorted(names map[string]struct{}) []string {
	out := make([]string, 0, len(names))
	for n := range names {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// Append records what was written, and returns when the record is on disk. Of the errors only ErrUnknown
// leaves open whether it is.
func (l *Log) Append(r Record) error {
	if len(r.Data) > MaxData || len(r.Name) > MaxName {
		return ErrTooLarge
	}
	o := &op{rec: r, done: make(chan error, 1)}
	l.mu.Lock()
	switch {
	case l.failed != nil:
		l.mu.Unlock()
		return ErrStopped.Wrap(l.failed)
	case l.closed:
		l.mu.Unlock()
		return ErrClosed
	case len(l.queue) >= maxQueued:
		l.mu.Unlock()
		return ErrBusy
	}
	l.queue = append(l.queue, o)
	if len(l.queue) == 1 {
		l.wake.Signal()
	}
	l.mu.Unlock()
	return <-o.done
}

// Settle makes the files of all records durable and empties the journal of what was appended before.
func (l *Log) Settle() error {
	done := make(chan error, 1)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.waiting = append(l.waiting, done)
	l.wake.Signal()
	l.mu.Unlock()
	return <-done
}

// Close records what waits, settles all files and removes the journal. After a failed sync it leaves it.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		<-l.settled
		return nil
	}
	l.closed = true
	l.wake.Signal()
	l.mu.Unlock()
	<-l.stopped
	<-l.settled
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.failed, l.lost)
}

func (l *Log) run() {
	defer close(l.stopped)
	defer close(l.full)
	var timer *time.Timer
	for {
		batch, waiting, settle, done := l.take()
		if len(batch) > 0 {
			l.commit(batch)
			if timer == nil {
				timer = time.AfterFunc(settleAfter, func() {
					l.mu.Lock()
					l.settle = true
					l.wake.Signal()
					l.mu.Unlock()
				})
			}
		}
		if settle || done || len(waiting) > 0 {
			if timer != nil {
				timer.Stop()
				timer = nil
			}
			l.rotate()
		}
		if len(waiting) > 0 {
			l.flushed.Wait()
			l.mu.Lock()
			err := errors.Join(l.failed, l.lost)
			l.mu.Unlock()
			for _, w := range waiting {
				w <- err
			}
		}
		if done {
			return
		}
		l.gather(len(batch))
	}
}

// gather lets those who were just answered append again, as they often do, so that they share the next sync with
// those who came during the last one. It does not sleep: without others who could run it returns at once.
func (l *Log) gather(answered int) {
	l.mu.Lock()
	want := len(l.queue) + answered
	l.mu.Unlock()
	for range gatherYields {
		runtime.Gosched()
		l.mu.Lock()
		n := len(l.queue)
		l.mu.Unlock()
		if n >= want {
			return
		}
	}
}

// take waits for something to do.
func (l *Log) take() (batch []*op, waiting []chan error, settle, done bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue) == 0 && len(l.waiting) == 0 && !l.settle && !l.closed {
		l.wake.Wait()
	}
	n, size := 0, 0
	for n < len(l.queue) && n < maxBatch && (n == 0 || size < maxBatchBytes) {
		size += len(l.queue[n].rec.Data)
		n++
	}
	batch = slices.Clone(l.queue[:n])
	rest := copy(l.queue, l.queue[n:])
	clear(l.queue[rest:])
	l.queue = l.queue[:rest]
	if rest == 0 {
		waiting, settle, done = l.waiting, l.settle, l.closed
		l.waiting, l.settle = nil, false
	}
	return batch, waiting, settle, done
}

// commit writes a batch and answers it.
func (l *Log) commit(batch []*op) {
	err := l.stoppedBy()
	if err == nil {
		err = l.store(batch)
	}
	for _, o := range batch {
		o.done <- err
	}
	if errors.Is(err, ErrUnknown) && l.opts.OnFatal != nil {
		l.opts.OnFatal(err)
	}
}

func (l *Log) stoppedBy() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return ErrStopped.Wrap(l.failed)
	}
	return nil
}

func (l *Log) store(batch []*op) error {
	if l.f == nil {
		if err := l.begin(); err != nil {
			return ErrNotWritten.Wrap(err)
		}
	}
	l.buf = l.buf[:0]
	for _, o := range batch {
		l.buf = appendRecord(l.buf, l.now.number, o.rec)
	}
	if _, err := l.write(l.f, l.buf, l.at); err != nil {
		// A part may be there. It is no whole batch, but its first records may be whole.
		if terr := l.f.Truncate(l.at); terr != nil {
			return l.fail(errors.Join(err, terr))
		}
		return ErrNotWritten.Wrap(err)
	}
	if err := l.sync(l.f); err != nil {
		return l.fail(err)
	}
	l.at += int64(len(l.buf))
	for _, o := range batch {
		if _, ok := l.now.names[o.rec.Name]; !ok && o.rec.Kind == KindAppend {
			l.now.names[o.rec.Name] = struct{}{}
		}
	}
	if cap(l.buf) > 2*maxBatchBytes {
		l.buf = nil
	}
	if l.at >= SegmentBytes {
		l.now.full = true
		l.rotate()
	}
	return nil
}

func (l *Log) fail(err error) error {
	l.mu.Lock()
	l.failed = err
	l.mu.Unlock()
	return ErrUnknown.Wrap(err)
}

// begin makes the next segment.
func (l *Log) begin() error {
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(l.dir, fmt.Sprintf("%016x%s", l.next, suffix))
	// What a spare one holds is of another number, and so no record of this one.
	flag := os.O_RDWR
	if err := os.Rename(l.sparePath(), path); err != nil {
		flag |= os.O_CREATE | os.O_EXCL
	}
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return err
	}
	if err := l.syncDir(); err != nil {
		return errors.Join(err, f.Close(), os.Remove(path))
	}
	l.f, l.at, l.now = f, 0, segment{number: l.next, path: path, names: map[string]struct{}{}}
	l.next++
	return nil
}

// rotate ends the segment at hand and has its files settled. It waits while too many are.
func (l *Log) rotate() {
	if l.f == nil {
		return
	}
	_ = l.f.Close() // it was synced
	l.f = nil
	l.flushed.Add(1)
	l.full <- l.now
	l.now = segment{}
}

// settleAll makes the files of full segments durable and removes the segments.
func (l *Log) settleAll() {
	defer close(l.settled)
	for s := range l.full {
		err := l.stoppedBy()
		if err == nil {
			err = l.opts.Settle(sorted(s.names))
		}
		if err == nil {
			err = l.retire(s)
		}
		if err != nil {
			// The records stay, and so does the older state that they repair: the next start replays them.
			l.mu.Lock()
			first := l.lost == nil && l.failed == nil
			if l.failed == nil {
				l.lost, l.failed = err, err
			}
			l.mu.Unlock()
			if first && l.opts.OnFatal != nil {
				l.opts.OnFatal(ErrUnknown.Wrap(err))
			}
		}
		l.flushed.Done()
	}
}

// retire takes a segment away whose files are durable.
func (l *Log) retire(s segment) error {
	if s.full {
		if _, err := os.Lstat(l.sparePath()); errors.Is(err, fs.ErrNotExist) {
			return errors.Join(os.Rename(s.path, l.sparePath()), l.syncDir())
		}
		return errors.Join(os.Remove(s.path), l.syncDir())
	}
	return errors.Join(os.Remove(s.path), l.dropSpare(), l.syncDir())
}

func (l *Log) sparePath() string { return filepath.Join(l.dir, spareName) }

// dropSpare removes the spare segment: what it holds of transcripts is not to stay for longer than it is of use.
func (l *Log) dropSpare() error {
	if err := os.Remove(l.sparePath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// syncDir makes the entries of the journal's directory durable. Windows has no way to; NTFS journals its
// entries.
func (l *Log) syncDir() error {
	if l.opts.NoSync || runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(l.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
