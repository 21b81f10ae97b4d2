package system

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

const (
	// The defaults and limits of logs.tail are frozen (control-plane.md §1).
	tailLines    = 500
	maxTailLines = 5000
	tailBytes    = 250_000
	maxTailBytes = 1_000_000
	// followEvery is how often a followed file is looked at.
	followEvery = 200 * time.Millisecond
	// maxFollowLine cuts a line that never ends.
	maxFollowLine = 1 << 20
)

// TailLogs reads the end of the log file, or what came after a cursor.
func (s *Service) TailLogs(_ context.Context, _ identity.Caller, in TailIn) (TailOut, error) {
	if in.Limit == 0 {
		in.Limit = tailLines
	}
	if in.MaxBytes == 0 {
		in.MaxBytes = tailBytes
	}
	if in.Limit < 1 || in.Limit > maxTailLines || in.MaxBytes < 1 || in.MaxBytes > maxTailBytes ||
		(in.Cursor != nil && *in.Cursor < 0) {
		return TailOut{}, ErrLogRange
	}
	out := TailOut{File: currentLog(s.cfg.LogFile), Lines: []string{}}
	f, err := openLog(out.File)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return TailOut{}, ErrLogRead.Wrap(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return TailOut{}, ErrLogRead.Wrap(err)
	}
	out.Size = info.Size()
	limit := int64(in.MaxBytes)
	start := max(0, out.Size-limit)
	switch {
	case in.Cursor == nil:
		out.Truncated = start > 0
	case *in.Cursor > out.Size:
		out.Reset = true
		out.Truncated = start > 0
	case out.Size-*in.Cursor > limit:
		out.Reset, out.Truncated = true, true
	default:
		start = *in.Cursor
	}
	buf := make([]byte, out.Size-start)
	n, err := f.ReadAt(buf, start)
	if err != nil && !errors.Is(err, io.EOF) {
		return TailOut{}, ErrLogRead.Wrap(err)
	}
	buf = buf[:n]
	if start > 0 && !endsLine(f, start) {
		if i := bytes.IndexByte(buf, '\n'); i >= 0 {
			buf = buf[i+1:]
		} else {
			buf = nil
		}
	}
	out.Cursor = start + int64(n)
	if len(buf) > 0 {
		out.Lines = strings.Split(strings.TrimSuffix(string(buf), "\n"), "\n")
	}
	if len(out.Lines) > in.Limit {
		out.Lines = out.Lines[len(out.Lines)-in.Limit:]
	}
	return out, nil
}

// rolling is the name of a log that begins anew each day (control-plane.md §1).
var rolling = regexp.MustCompile(`^openclaw-\d{4}-\d{2}-\d{2}\.log$`)

// currentLog is the file to read: of one that begins anew each day, the newest when that of today is not there.
func currentLog(path string) string {
	if !rolling.MatchString(filepath.Base(path)) {
		return path
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return path
	}
	newest, at := path, time.Time{}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && rolling.MatchString(e.Name()) && info.Mode().IsRegular() && !info.ModTime().Before(at) {
			newest, at = filepath.Join(filepath.Dir(path), e.Name()), info.ModTime()
		}
	}
	return newest
}

var errNoFile = errors.New("it is not a regular file")

// openLog opens a log for reading. Opening a named pipe would wait for its writer.
func openLog(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errNoFile
	}
	return os.Open(path)
}

// endsLine reports whether the byte before the offset ends a line, so that none is cut there.
func endsLine(f *os.File, at int64) bool {
	var b [1]byte
	_, err := f.ReadAt(b[:], at-1)
	return err == nil && b[0] == '\n'
}

// FollowLogs sends the last lines of the log file and then each new one, through rotations, until
// ctx or send ends it.
func (s *Service) FollowLogs(ctx context.Context, c identity.Caller, lines int, send func(line string) error) error {
	if lines < 0 || lines > maxTailLines {
		return ErrLogRange
	}
	var cursor int64
	if lines > 0 {
		out, err := s.TailLogs(ctx, c, TailIn{Limit: lines, MaxBytes: maxTailBytes})
		if err != nil {
			return err
		}
		for _, l := range out.Lines {
			if err := send(l); err != nil {
				return err
			}
		}
		cursor = out.Cursor
	} else if info, err := os.Stat(s.cfg.LogFile); err == nil {
		cursor = info.Size()
	}
	fl := follower{path: s.cfg.LogFile, at: cursor}
	defer fl.close()
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if err := fl.read(send); err != nil {
				return err
			}
		}
	}
}

// follower reads a file that grows and is replaced now and then.
type follower struct {
	path string
	f    *os.File
	r    *bufio.Reader
	at   int64
	part []byte // an unfinished line
}

func (fl *follower) close() {
	if fl.f != nil {
		_ = fl.f.Close() // read only: nothing can be lost
		fl.f = nil
	}
}

// read sends the lines that are there by now. A file that was replaced is read to its end first.
func (fl *follower) read(send func(string) error) error {
	for {
		if fl.f == nil {
			f, err := openLog(fl.path)
			if err != nil {
				return nil //nolint:nilerr // between two files of a rotation there is none
			}
			if info, err := f.Stat(); err == nil && info.Size() < fl.at {
				fl.at = 0
			}
			if _, err := f.Seek(fl.at, io.SeekStart); err != nil {
				_ = f.Close()
				return ErrLogRead.Wrap(err)
			}
			fl.f, fl.r = f, bufio.NewReader(f)
		}
		if err := fl.lines(send); err != nil {
			return err
		}
		was, err1 := fl.f.Stat()
		is, err2 := os.Stat(fl.path)
		if err1 != nil || err2 != nil || (os.SameFile(was, is) && is.Size() >= was.Size()) {
			return nil
		}
		if !os.SameFile(was, is) {
			// Lines may have come between the last look and the end of the file's time.
			if err := fl.lines(send); err != nil {
				return err
			}
		}
		fl.close()
		fl.at, fl.part = 0, nil
	}
}

func (fl *follower) lines(send func(string) error) error {
	for {
		chunk, err := fl.r.ReadSlice('\n')
		fl.part = append(fl.part, chunk...)
		if err != nil && len(fl.part) < maxFollowLine {
			if errors.Is(err, bufio.ErrBufferFull) {
				continue
			}
			return nil //nolint:nilerr // the rest of the line is not written yet
		}
		line := strings.TrimSuffix(string(fl.part), "\n")
		fl.part = fl.part[:0]
		if err := send(line); err != nil {
			return err
		}
	}
}
