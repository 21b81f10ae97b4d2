package store

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/store/journal"
)

const (
	agentsDir   = "agents"
	sessionsDir = "sessions"
	journalDir  = "journal"
	// newSuffix ends the name of a transcript that is being made beside another one.
	newSuffix = ".new"

	// maxOpen bounds the transcripts that stay open for the next append. What is beyond is opened each time.
	maxOpen = 128
	// maxFileName bounds the name of a transcript in bytes, with what is added when it is put aside.
	maxFileName = 200
	// maxTail is how far back a torn last line may begin, in bytes; it is as long as an append.
	maxTail = journal.MaxData
	// syncers is how many files are synced at a time.
	syncers = 4
)

// Transcripts are the files of sessions, in the layout of the original: agents/<id>/sessions/<file>.jsonl in
// the state directory, mode 0600. It implements sessions.Transcripts.
//
// An append goes to its file and then to the journal, which many appends share one sync of; the files are
// synced when the journal gets full. What a crash leaves undone is done when the store opens.
type Transcripts struct {
	dir  string
	root *os.Root
	log  *journal.Log
	slog *slog.Logger

	mu   sync.Mutex
	open map[sessions.File]*transcript
	idle int // of open, those that nobody uses

	// moving is held for reading while a file is moved or replaced, and for writing while a backup takes hold
	// of all files.
	moving sync.RWMutex
}

var _ sessions.Transcripts = (*Transcripts)(nil)

// transcript is a file that was appended to.
type transcript struct {
	users int // under Transcripts.mu

	mu sync.Mutex
	f  *os.File
	// size is what is acknowledged, -1 while the file was not opened.
	size atomic.Int64
}

// openTranscripts opens the journal and brings the files up to what it says.
func openTranscripts(dir string, noSync bool, log *slog.Logger, onFatal func(error)) (*Transcripts, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, cannotOpen(dir, err)
	}
	t := &Transcripts{dir: dir, root: root, slog: log, open: map[sessions.File]*transcript{}}
	jdir := filepath.Join(dir, journalDir)
	if st, err := os.Lstat(jdir); err == nil && !st.IsDir() {
		return nil, errors.Join(cannotOpen(jdir, errors.New("it is not a directory; move it away")), root.Close())
	}
	replayed := 0
	t.log, err = journal.Open(jdir, func(r journal.Record) error {
		replayed++
		return t.replay(r)
	}, journal.Options{Settle: t.settle, OnFatal: onFatal, NoSync: noSync})
	if err != nil {
		return nil, errors.Join(cannotOpen(jdir, err), root.Close())
	}
	if replayed > 0 {
		log.Info("transcripts repaired after a crash", "records", replayed)
	}
	t.closeAll()
	return t, nil
}

func (t *Transcripts) close() error {
	err := t.log.Close()
	t.closeAll()
	return errors.Join(err, t.root.Close())
}

// closeAll closes the files that nobody uses.
func (t *Transcripts) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, x := range t.open {
		if x.users == 0 {
			x.shut()
			delete(t.open, name)
		}
	}
	t.idle = 0
}

func (x *transcript) shut() {
	if x.f != nil {
		_ = x.f.Close() // what was acknowledged is in the journal
		x.f = nil
	}
	x.size.Store(-1)
}

// relOf checks the name of a transcript and returns it below the state directory, with slashes.
func relOf(f sessions.File) (string, error) {
	if !plain(f.AgentID, 64) || !plain(f.Name, maxFileName) || !strings.Contains(f.Name, ".jsonl") {
		return "", sessions.ErrFileName
	}
	return path.Join(agentsDir, f.AgentID, sessionsDir, f.Name), nil
}

// fileAt is the transcript that a name below the state directory belongs to; ok is false for any other name.
func fileAt(rel string) (f sessions.File, ok bool) {
	dir, name := path.Split(rel)
	f = sessions.File{AgentID: path.Base(path.Dir(path.Clean(dir))), Name: name}
	back, err := relOf(f)
	return f, err == nil && back == rel
}

// plain reports whether a text is fit for a file name on every system.
func plain(s string, limit int) bool {
	if s == "" || len(s) > limit || s[0] == '.' || s[len(s)-1] == '.' {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// Path implements sessions.Transcripts.
func (t *Transcripts) Path(f sessions.File) string {
	return filepath.Join(t.dir, agentsDir, f.AgentID, sessionsDir, f.Name)
}

// openFile opens a regular file that is no link.
func (t *Transcripts) openFile(rel string, flag int) (*os.File, error) {
	name := filepath.FromSlash(rel)
	before, err := t.root.Lstat(name)
	switch {
	case err == nil && !before.Mode().IsRegular():
		return nil, t.notRegular(rel)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, t.worded(rel, err)
	case err != nil && flag&os.O_CREATE == 0:
		return nil, err
	case err != nil:
		flag |= os.O_EXCL // a link that comes between is not followed
	default:
		flag &^= os.O_CREATE
	}
	f, err := t.root.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, t.worded(rel, err)
	}
	if before != nil {
		after, err := f.Stat()
		if err != nil || !os.SameFile(before, after) {
			return nil, errors.Join(t.notRegular(rel), err, f.Close())
		}
	}
	return f, nil
}

func (t *Transcripts) notRegular(rel string) error {
	p := filepath.Join(t.dir, filepath.FromSlash(rel))
	return sessions.ErrNotRegular.With("path", p).WithText(p + " is not a regular file; remove what is in its place")
}

// worded says so where a directory on the way leads out of the state directory, or is none.
func (t *Transcripts) worded(rel string, err error) error {
	for dir := path.Dir(rel); dir != "."; dir = path.Dir(dir) {
		if st, lerr := t.root.Lstat(filepath.FromSlash(dir)); lerr == nil && !st.IsDir() {
			return t.notRegular(dir)
		}
	}
	return err
}

// makeDirs makes the directories of a transcript.
func (t *Transcripts) makeDirs(rel string) error {
	dir := path.Dir(rel)
	if err := t.root.MkdirAll(filepath.FromSlash(dir), 0o700); err != nil {
		return t.worded(rel, err)
	}
	return nil
}

// use returns the file for a use that ends with done.
func (t *Transcripts) use(f sessions.File) *transcript {
	t.mu.Lock()
	defer t.mu.Unlock()
	x, ok := t.open[f]
	if !ok {
		x = &transcript{}
		x.size.Store(-1)
		t.open[f] = x
	} else if x.users == 0 {
		t.idle--
	}
	x.users++
	return x
}

// done ends a use. Of the files that nobody uses some stay open.
func (t *Transcripts) done(f sessions.File, x *transcript) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if x.users--; x.users > 0 {
		return
	}
	if x.f == nil {
		delete(t.open, f)
		return
	}
	if t.idle++; t.idle <= maxOpen {
		return
	}
	for name, other := range t.open { // any will do: the map begins anywhere, and most are idle
		if other.users == 0 {
			other.shut()
			delete(t.open, name)
			t.idle--
			return
		}
	}
}

// ready opens a file for appending, made when it is missing, and cuts off a torn last line. The caller holds
// x.mu.
func (t *Transcripts) ready(rel string, x *transcript) error {
	if x.f != nil {
		return nil
	}
	f, err := t.openFile(rel, os.O_RDWR|os.O_CREATE)
	if errors.Is(err, fs.ErrNotExist) {
		if err := t.makeDirs(rel); err != nil {
			return err
		}
		f, err = t.openFile(rel, os.O_RDWR|os.O_CREATE)
	}
	if err != nil {
		return err
	}
	size, err := repair(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	x.f = f
	x.size.Store(size)
	return nil
}

// repair ends a file with a whole line: what a crash cut off goes, and what only lacks its line feed gets it.
// It returns the size.
func repair(f *os.File) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	size := st.Size()
	end, err := wholeLines(f, size)
	if err != nil || end == size {
		return size, err
	}
	rest := make([]byte, size-end)
	if _, err := f.ReadAt(rest, end); err != nil {
		return 0, err
	}
	if json.Valid(rest) {
		_, err := f.WriteAt([]byte{'\n'}, size)
		return size + 1, err
	}
	return end, f.Truncate(end)
}

// wholeLines is the length of a file without a last line that has no line feed.
func wholeLines(r io.ReaderAt, size int64) (int64, error) {
	buf := make([]byte, min(size, 4096))
	for end := size; end > 0; {
		if size-end > maxTail {
			return 0, fmt.Errorf("it has no line feed in its last %d bytes", maxTail)
		}
		n := min(end, int64(len(buf)))
		if _, err := r.ReadAt(buf[:n], end-n); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return end - n + int64(i) + 1, nil
		}
		end -= n
		if len(buf) < 1<<20 {
			buf = make([]byte, 1<<20)
		}
	}
	return 0, nil
}

// Append implements sessions.Transcripts.
func (t *Transcripts) Append(ctx context.Context, f sessions.File, lines ...[]byte) error {
	if err := ctx.Err(); err != nil {
		return ErrGaveUp.Wrap(err)
	}
	rel, err := relOf(f)
	if err != nil {
		return err
	}
	size := 0
	for _, l := range lines {
		if len(l) == 0 || bytes.IndexByte(l, '\n') >= 0 {
			return sessions.ErrLine
		}
		size += len(l) + 1
	}
	if size == 0 {
		return nil
	}
	if size > journal.MaxData {
		return journal.ErrTooLarge
	}
	data := make([]byte, 0, size)
	for _, l := range lines {
		data = append(append(data, l...), '\n')
	}
	x := t.use(f)
	defer t.done(f, x)
	x.mu.Lock()
	defer x.mu.Unlock()
	return t.append(rel, x, data)
}

// append writes to the file and has the journal record it. The caller holds x.mu.
func (t *Transcripts) append(rel string, x *transcript, data []byte) error {
	if err := t.ready(rel, x); err != nil {
		return notWritten(err)
	}
	at := x.size.Load()
	_, err := x.f.WriteAt(data, at)
	if err != nil {
		err = journal.ErrNotWritten.Wrap(err)
	} else {
		err = t.log.Append(journal.Record{Kind: journal.KindAppend, Name: rel, Offset: at, Data: data})
	}
	switch {
	case err == nil:
		x.size.Store(at + int64(len(data)))
	case errs.ClassOf(err) == errs.Unknown:
		x.shut() // the daemon stops
	default:
		if terr := x.f.Truncate(at); terr != nil {
			t.slog.Warn("a transcript keeps lines that were not acknowledged", "path", filepath.Join(t.dir, rel), "error", terr)
			x.shut() // the next append looks at it anew
		}
	}
	return err
}

func notWritten(err error) error {
	if _, worded := errs.As(err); worded {
		return err
	}
	return journal.ErrNotWritten.Wrap(err)
}

// openTranscript is a sessions.Transcript.
type openTranscript struct {
	*os.File
	size int64
	mod  time.Time
}

func (o openTranscript) Size() int64        { return o.size }
func (o openTranscript) ModTime() time.Time { return o.mod }

func (o openTranscript) ReadAt(p []byte, at int64) (int, error) {
	if at >= o.size {
		return 0, io.EOF
	}
	short := int64(len(p)) > o.size-at
	if short {
		p = p[:o.size-at]
	}
	n, err := o.File.ReadAt(p, at)
	if err == nil && short {
		err = io.EOF
	}
	return n, err
}

// Open implements sessions.Transcripts.
func (t *Transcripts) Open(f sessions.File) (sessions.Transcript, error) {
	rel, err := relOf(f)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	known := int64(-1)
	if x, ok := t.open[f]; ok {
		known = x.size.Load() // before the file is opened: what takes its place is at rest
	}
	t.mu.Unlock()
	file, err := t.openFile(rel, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	st, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	out := openTranscript{file, st.Size(), st.ModTime()}
	if known >= 0 {
		out.size = min(out.size, known)
		return out, nil
	}
	if out.size, err = wholeLines(file, st.Size()); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if rest := st.Size() - out.size; rest > 0 && rest <= maxTail {
		tail := make([]byte, rest)
		if _, err := file.ReadAt(tail, out.size); err == nil && json.Valid(tail) {
			out.size = st.Size()
		}
	}
	return out, nil
}

// ArchiveName implements sessions.Transcripts.
func (t *Transcripts) ArchiveName(f sessions.File, why sessions.Reason, at time.Time) (string, error) {
	rel, err := relOf(f)
	if err != nil {
		return "", err
	}
	for {
		suffix := "." + string(why) + "." + strings.ReplaceAll(at.UTC().Format("2006-01-02T15:04:05.000Z"), ":", "-")
		_, err := t.root.Lstat(filepath.FromSlash(rel + suffix))
		if errors.Is(err, fs.ErrNotExist) {
			return f.Name + suffix, nil
		}
		if err != nil {
			return "", t.worded(rel, err)
		}
		at = at.Add(time.Millisecond)
	}
}

// Shorten implements sessions.Transcripts.
func (t *Transcripts) Shorten(ctx context.Context, f sessions.File, lines int) (with string, kept int, err error) {
	in, err := t.Open(f)
	if err != nil {
		return "", 0, err
	}
	defer in.Close()
	from, kept, more, err := lastLines(ctx, in, in.Size(), lines)
	if err != nil || !more {
		return "", kept, err
	}
	with = f.Name + newSuffix
	rel, err := relOf(sessions.File{AgentID: f.AgentID, Name: with})
	if err != nil {
		return "", 0, err
	}
	if err := t.root.Remove(filepath.FromSlash(rel)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", 0, notWritten(err)
	}
	out, err := t.openFile(rel, os.O_WRONLY|os.O_CREATE)
	if err != nil {
		return "", 0, notWritten(err)
	}
	w := bufio.NewWriterSize(out, 1<<16)
	err = copyLines(ctx, w, io.NewSectionReader(in, from, in.Size()-from))
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return "", 0, notWritten(errors.Join(err, t.root.Remove(filepath.FromSlash(rel))))
	}
	return with, kept, nil
}

// Discard implements sessions.Transcripts.
func (t *Transcripts) Discard(f sessions.File, with string) error {
	rel, err := relOf(sessions.File{AgentID: f.AgentID, Name: with})
	if err != nil {
		return err
	}
	if !strings.HasSuffix(with, newSuffix) {
		return sessions.ErrFileName
	}
	return t.root.Remove(filepath.FromSlash(rel))
}

// Remove implements sessions.Transcripts.
func (t *Transcripts) Remove(f sessions.File) error {
	rel, err := relOf(f)
	if err != nil {
		return err
	}
	if strings.HasSuffix(f.Name, ".jsonl") {
		return sessions.ErrFileName
	}
	t.moving.RLock()
	defer t.moving.RUnlock()
	if err := t.root.Remove(filepath.FromSlash(rel)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// move carries out a Move. It may be cut off anywhere and done again.
func (t *Transcripts) move(m sessions.Move) error {
	from, err := relOf(m.From)
	if err != nil {
		return err
	}
	to, err := relOf(sessions.File{AgentID: m.From.AgentID, Name: m.To})
	if err != nil {
		return err
	}
	t.moving.RLock()
	defer t.moving.RUnlock()
	x := t.use(m.From)
	defer t.done(m.From, x)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.shut()
	if t.there(from) && !t.there(to) {
		// Its content must last before the journal forgets it: what has its name later is another file.
		if err := t.syncFile(from); err != nil {
			return err
		}
		if err := t.log.Append(journal.Record{Kind: journal.KindVoid, Name: from}); err != nil {
			return err
		}
		testStep("rename")
		if err := t.root.Rename(filepath.FromSlash(from), filepath.FromSlash(to)); err != nil {
			return err
		}
		testStep("renamed")
	}
	if m.With != "" {
		with, err := relOf(sessions.File{AgentID: m.From.AgentID, Name: m.With})
		if err != nil {
			return err
		}
		if t.there(with) {
			if err := t.root.Rename(filepath.FromSlash(with), filepath.FromSlash(from)); err != nil {
				return err
			}
			testStep("replaced")
		}
	}
	return t.syncDirs([]string{from})
}

// Hold waits for moves that are under way and keeps others from beginning, until the function that it returns is
// called: so that a copy of the database and the files beside it are of one moment. Appends go on.
func (t *Transcripts) Hold() (release func()) {
	t.moving.Lock()
	return t.moving.Unlock
}

// testStep is called between the steps of a move. Tests end the process there.
var testStep = func(string) {}

func (t *Transcripts) there(rel string) bool {
	_, err := t.root.Lstat(filepath.FromSlash(rel))
	return err == nil
}

// replay does what a record of the journal says.
func (t *Transcripts) replay(r journal.Record) error {
	f, ok := fileAt(r.Name)
	if !ok {
		t.slog.Warn("the journal names a file that is none of ours; left out", "name", r.Name)
		return nil
	}
	x := t.use(f)
	defer t.done(f, x)
	if x.f == nil {
		file, err := t.openFile(r.Name, os.O_RDWR|os.O_CREATE)
		if errors.Is(err, fs.ErrNotExist) {
			if err = t.makeDirs(r.Name); err == nil {
				file, err = t.openFile(r.Name, os.O_RDWR|os.O_CREATE)
			}
		}
		if err != nil {
			return err
		}
		x.f = file
	}
	st, err := x.f.Stat()
	if err != nil {
		return err
	}
	at := r.Offset
	if at > st.Size() {
		// Somebody shortened it. The lines stand for themselves.
		t.slog.Warn("a transcript is shorter than what was written to it", "path", filepath.Join(t.dir, r.Name), "bytes", st.Size(), "expected", at)
		if at, err = repair(x.f); err != nil {
			return err
		}
	}
	have := make([]byte, len(r.Data))
	if n, _ := x.f.ReadAt(have, at); n == len(have) && bytes.Equal(have, r.Data) {
		return nil
	}
	_, err = x.f.WriteAt(r.Data, at)
	return err
}

// settle makes files durable. It implements the Settle of the journal.
func (t *Transcripts) settle(names []string) error {
	names = slices.DeleteFunc(names, func(rel string) bool {
		_, ok := fileAt(rel)
		return !ok // a journal that was made by somebody else
	})
	var wg sync.WaitGroup
	next, failed := make(chan string), make([]error, syncers)
	for i := range syncers {
		wg.Go(func() {
			for rel := range next {
				err := t.syncFile(rel)
				switch {
				case err == nil, errors.Is(err, fs.ErrNotExist):
				case errors.Is(err, sessions.ErrNotRegular):
					// Somebody put something else in its place: what was ours is gone already.
					t.slog.Warn("a transcript was replaced by something else", "error", err)
				case failed[i] == nil:
					failed[i] = err
				}
			}
		})
	}
	for _, rel := range names {
		next <- rel
	}
	close(next)
	wg.Wait()
	return errors.Join(errors.Join(failed...), t.syncDirs(names))
}

// syncFile makes the content of a file durable.
func (t *Transcripts) syncFile(rel string) error {
	f, err := t.openFile(rel, os.O_RDWR)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// syncDirs makes the directories of files durable, up to the state directory.
func (t *Transcripts) syncDirs(names []string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	var dirs []string
	for _, rel := range names {
		for dir := path.Dir(rel); !slices.Contains(dirs, dir); dir = path.Dir(dir) {
			dirs = append(dirs, dir)
		}
	}
	for _, dir := range dirs {
		d, err := t.root.Open(filepath.FromSlash(dir))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			return err
		}
	}
	return nil
}

// lastLines finds the last lines that hold text: where the first of them begins, how many they are, and
// whether there are more before.
func lastLines(ctx context.Context, r io.ReaderAt, size int64, want int) (from int64, kept int, more bool, err error) {
	const chunk = 256 << 10
	buf := make([]byte, chunk)
	text := false // whether the line at hand, read from its end, holds some
	from = size
	for end := size; end > 0; {
		if err := ctx.Err(); err != nil {
			return 0, 0, false, ErrGaveUp.Wrap(err)
		}
		n := min(end, chunk)
		if _, err := r.ReadAt(buf[:n], end-n); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, false, err
		}
		for i := n - 1; i >= 0; i-- {
			switch c := buf[i]; {
			case c == '\n':
				if text {
					if kept == want {
						return from, kept, true, nil
					}
					kept++
					from = end - n + i + 1
				}
				text = false
			case c != ' ' && c != '\t' && c != '\r':
				text = true
			}
		}
		end -= n
	}
	if text {
		if kept == want {
			return from, kept, true, nil
		}
		kept++
	}
	return 0, kept, false, nil
}

// copyLines copies lines, without the empty ones.
func copyLines(ctx context.Context, w io.Writer, r io.Reader) error {
	buf := make([]byte, 256<<10)
	var line []byte
	for {
		if err := ctx.Err(); err != nil {
			return ErrGaveUp.Wrap(err)
		}
		n, err := r.Read(buf)
		for part := range bytes.Lines(buf[:n]) {
			line = append(line, part...)
			if line[len(line)-1] != '\n' {
				break
			}
			if len(bytes.TrimSpace(line)) > 0 {
				if _, err := w.Write(line); err != nil {
					return err
				}
			}
			line = line[:0]
		}
		if errors.Is(err, io.EOF) {
			if len(bytes.TrimSpace(line)) > 0 {
				_, err := w.Write(append(line, '\n'))
				return err
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}
