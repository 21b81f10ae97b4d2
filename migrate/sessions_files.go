package migrate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanzoai/hanzod/errs"
)

const (
	// indexName is the store of sessions of an agent in the original.
	indexName = "sessions.json"
	// tempPrefix begins the name of a file that is being written beside its place.
	tempPrefix = ".migrate-"
	// movers is how many files are written at a time: one waits for the disk while another is read.
	movers = 4
	// moveChunk is how much is read at a time.
	moveChunk = 1 << 20
	// maxSessionFiles bounds the files of all sessions: each costs about 300 bytes of memory.
	maxSessionFiles = 1_000_000
	// maxSessionDepth bounds the directories below one of sessions; the original makes none.
	maxSessionDepth = 4
	// maxTranscriptName is what package store allows for the name of a transcript, in bytes.
	maxTranscriptName = 200
)

// fileMover brings files of sessions to their places. One file after another is written beside its place, synced and
// renamed, so that a file is there whole or not at all.
type fileMover struct {
	r *run
	// target is nil in a dry run whose target is not there yet.
	target *os.Root
	// gone says why a file stays away that was written before and is not there any more; "" writes it again.
	gone string
	// also are hashes by name of what is not changed either; nil for none.
	also map[string]string

	mu    sync.Mutex
	dirs  map[string]bool // that have to be synced
	tally sessionTally
}

// relation says how the file that is there compares with the one that is to be moved.
type relation int

const (
	same     relation = iota
	grown             // what is there is the beginning of the other
	ahead             // the other is the beginning of what is there
	diverged          // neither
)

// all moves files; an error is one of the target, and ends it.
func (m *fileMover) all(ctx context.Context, files []sessionFile) error {
	m.dirs = map[string]bool{}
	if m.target != nil && !m.r.DryRun {
		if err := m.prepare(files); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan sessionFile)
	var wg sync.WaitGroup
	for i := range movers {
		wg.Go(func() {
			buf := [2][]byte{make([]byte, moveChunk), make([]byte, moveChunk)}
			for f := range work {
				if ctx.Err() != nil {
					continue
				}
				if err := m.one(ctx, f, i, buf); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, f := range files {
		select {
		case work <- f:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
	}
	close(work)
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return m.syncDirs()
}

// prepare makes the directories, and removes from them what a run that was cut off left half-written.
func (m *fileMover) prepare(files []sessionFile) error {
	seen := map[string]bool{}
	for _, f := range files {
		dir := path.Dir(f.to)
		if seen[dir] {
			continue
		}
		seen[dir] = true
		if err := m.target.MkdirAll(filepath.FromSlash(dir), 0o700); err != nil {
			return m.cannot(dir, err)
		}
		if err := dropTemp(m.target, dir); err != nil {
			return m.cannot(dir, err)
		}
	}
	return nil
}

// dropTemp removes files that were being written when a run was cut off.
func dropTemp(root *os.Root, dir string) error {
	d, err := root.Open(filepath.FromSlash(dir))
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	var names []string
	for {
		entries, err := d.ReadDir(1024)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), tempPrefix) {
				names = append(names, e.Name())
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := root.Remove(filepath.FromSlash(path.Join(dir, name))); err != nil {
			return err
		}
	}
	return nil
}

// one moves a file, or says why not.
func (m *fileMover) one(ctx context.Context, f sessionFile, worker int, buf [2][]byte) error {
	in, st, err := openRegular(f.root, f.from)
	if err != nil {
		m.say(f, Fault, "it cannot be read: "+reason(err), 0)
		m.step(f.size)
		return nil
	}
	defer func() { _ = in.Close() }()
	noted := m.noted(f.to)
	there, err := m.look(f)
	switch {
	case err != nil:
		return err
	case there == nil && noted != "" && m.gone != "":
		m.say(f, Kept, m.gone, 0)
		m.step(f.size)
		return nil
	case there == nil:
		return m.write(ctx, f, in, st, worker, buf[0])
	case !there.Mode().IsRegular():
		m.say(f, Kept, "something that is no file has its place", 0)
		m.step(f.size)
		return nil
	case there.Size() == st.Size() && there.ModTime().Equal(st.ModTime()):
		if noted == "" && !m.r.DryRun {
			if noted, err = hashOf(ctx, m.target, f.to, buf[0]); err != nil {
				return m.cannot(f.to, err)
			}
		}
		m.note(f.to, noted)
		m.say(f, Unchanged, "", 0)
		m.step(f.size)
		return nil
	}
	return m.update(ctx, f, in, st, noted, worker, buf)
}

// update decides about a file that is there already and is not as the other.
func (m *fileMover) update(ctx context.Context, f sessionFile, in *os.File, st fs.FileInfo, noted string, worker int, buf [2][]byte) error {
	ours, _, err := openRegular(m.target, f.to)
	if err != nil {
		return m.cannot(f.to, err)
	}
	rel, ourHash, inHash, err := compare(ctx, ours, in, buf)
	_ = ours.Close()
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m.say(f, Fault, "it cannot be read: "+reason(err), 0)
		m.step(f.size)
		return nil
	}
	switch {
	case rel == same:
		m.note(f.to, ourHash)
		m.say(f, Unchanged, "", 0)
	case rel == grown && inHash != noted, ourHash == noted, ourHash == m.also[f.to]:
		if _, err := in.Seek(0, io.SeekStart); err != nil {
			m.say(f, Fault, "it cannot be read: "+reason(err), 0)
			break
		}
		return m.write(ctx, f, in, st, worker, buf[0])
	case rel == ahead || inHash == noted:
		m.say(f, Kept, "it went on since the last time", 0)
	default:
		m.say(f, Kept, "it went on in both places since the last time", 0)
	}
	m.step(f.size)
	return nil
}

// look is what is in the place of a file, nil for nothing.
func (m *fileMover) look(f sessionFile) (fs.FileInfo, error) {
	if m.target == nil {
		return nil, nil //nolint:nilnil // nil is nothing
	}
	st, err := m.target.Lstat(filepath.FromSlash(f.to))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // nil is nothing
	}
	if err != nil {
		return nil, m.cannot(f.to, err)
	}
	return st, nil
}

// write puts a file in its place, with the time of the other, so that both are known as the same by it.
func (m *fileMover) write(ctx context.Context, f sessionFile, in *os.File, st fs.FileInfo, worker int, buf []byte) error {
	if m.r.DryRun {
		m.say(f, Imported, "", st.Size())
		m.step(f.size)
		return nil
	}
	dir := path.Dir(f.to)
	temp := filepath.FromSlash(path.Join(dir, fmt.Sprintf("%s%d", tempPrefix, worker)))
	out, err := m.target.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return m.cannot(f.to, err)
	}
	sum := sha256.New()
	n, rerr, err := m.copy(ctx, out, io.LimitReader(in, st.Size()), sum, buf)
	if err == nil && rerr == nil {
		err = out.Sync()
	}
	err = errors.Join(err, out.Close())
	if err == nil && rerr == nil && n == st.Size() {
		err = m.target.Chtimes(temp, time.Time{}, st.ModTime())
	}
	if err != nil || rerr != nil {
		err = m.cannot(f.to, errors.Join(err, m.target.Remove(temp)))
		if rerr != nil && ctx.Err() == nil {
			m.say(f, Fault, "it cannot be read: "+reason(rerr), 0)
		}
		return err
	}
	if err := m.target.Rename(temp, filepath.FromSlash(f.to)); err != nil {
		return m.cannot(f.to, errors.Join(err, m.target.Remove(temp)))
	}
	m.mu.Lock()
	m.dirs[dir] = true
	m.mu.Unlock()
	m.note(f.to, hex.EncodeToString(sum.Sum(nil)))
	m.say(f, Imported, "", n)
	return nil
}

// copy copies and counts. rerr is an error of reading, err one of writing.
func (m *fileMover) copy(ctx context.Context, out io.Writer, in io.Reader, sum hash.Hash, buf []byte) (n int64, rerr, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return n, nil, err
		}
		k, rerr := in.Read(buf)
		if k > 0 {
			_, _ = sum.Write(buf[:k])
			if _, err := out.Write(buf[:k]); err != nil {
				return n, nil, err
			}
			n += int64(k)
			m.step(int64(k))
		}
		if errors.Is(rerr, io.EOF) {
			return n, nil, nil
		}
		if rerr != nil {
			return n, rerr, nil
		}
	}
}

// compare reads two files to their ends.
func compare(ctx context.Context, a, b io.Reader, buf [2][]byte) (rel relation, ah, bh string, err error) {
	sums := [2]hash.Hash{sha256.New(), sha256.New()}
	equal, size := true, [2]int64{}
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return 0, "", "", err
		}
		var n [2]int
		more = false
		for i, r := range []io.Reader{a, b} {
			n[i], err = io.ReadFull(r, buf[i])
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return 0, "", "", err
			}
			more = more || err == nil
			_, _ = sums[i].Write(buf[i][:n[i]])
			size[i] += int64(n[i])
		}
		k := min(n[0], n[1])
		equal = equal && string(buf[0][:k]) == string(buf[1][:k])
	}
	switch {
	case !equal:
		rel = diverged
	case size[0] < size[1]:
		rel = grown
	case size[0] > size[1]:
		rel = ahead
	}
	return rel, hex.EncodeToString(sums[0].Sum(nil)), hex.EncodeToString(sums[1].Sum(nil)), nil
}

func hashOf(ctx context.Context, root *os.Root, name string, buf []byte) (string, error) {
	f, _, err := openRegular(root, name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.Read(buf)
		_, _ = sum.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(sum.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// openRegular opens a regular file for reading; what is none is not opened.
func openRegular(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	name = filepath.FromSlash(name)
	st, err := root.Stat(name)
	if err != nil {
		return nil, nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, nil, errors.New("it is no regular file")
	}
	f, err := root.OpenFile(name, os.O_RDONLY|openNow, 0)
	if err != nil {
		return nil, nil, err
	}
	if st, err = f.Stat(); err == nil && !st.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, st, nil
}

// syncDirs makes the names of what was written durable. Windows has no way to.
func (m *fileMover) syncDirs() error {
	if runtime.GOOS == "windows" {
		return nil
	}
	up := map[string]bool{}
	for dir := range m.dirs {
		for ; !up[dir]; dir = path.Dir(dir) {
			up[dir] = true
		}
	}
	for dir := range up {
		d, err := m.target.Open(filepath.FromSlash(dir))
		if err != nil {
			return m.cannot(dir, err)
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			return m.cannot(dir, err)
		}
	}
	m.dirs = map[string]bool{}
	return nil
}

// The run is used by all workers.

func (m *fileMover) step(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.r.step(cmp.Or(m.tally.part, partSessions), n)
}

func (m *fileMover) noted(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.r.noted(cmp.Or(m.tally.part, partTranscripts), name)
}

func (m *fileMover) note(name, sum string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.r.note(cmp.Or(m.tally.part, partTranscripts), name, sum)
}

func (m *fileMover) say(f sessionFile, o Outcome, why string, n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	many := path.Join(path.Dir(f.to), "*.jsonl")
	if m.tally.part != "" {
		many, _, _ = strings.Cut(f.from, "/")
	}
	m.tally.add(f.to, many, o, why, n)
}

// cannot is an error of writing, worded for who reads it.
func (m *fileMover) cannot(name string, err error) error { return cannotWrite(name, err) }

func cannotWrite(name string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	what := name + " could not be written"
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		what += ": there is no space left; make some and run it again, it goes on where it was"
	}
	return errs.Wrap(errs.Unavailable, what, err)
}
