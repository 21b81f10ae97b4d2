package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	lockName = "hanzod.lock"
	// lockTextSize is the fixed length of the lock file's text, so that one write replaces all of
	// an older one.
	lockTextSize = 128
	// lockTries and lockWait let WhoHolds, which shares a free lock for a moment, not keep a daemon from
	// starting. A second start must be over in 200 ms.
	lockTries = 3
	lockWait  = 15 * time.Millisecond
)

// errHeld is what tryLock returns when another process holds the lock.
var errHeld = errors.New("held")

// dirLock is the lock of a state directory. The kernel keeps it and drops it when the process ends
// in whatever way; the file stays.
type dirLock struct{ f *os.File }

// lockDir takes the lock of a directory or fails at once.
func lockDir(dir string, now time.Time) (*dirLock, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, cannotOpen(path, err)
	}
	err = tryLock(f, false)
	for range lockTries - 1 {
		if !errors.Is(err, errHeld) {
			break
		}
		<-time.After(lockWait)
		err = tryLock(f, false)
	}
	if err != nil {
		defer f.Close()
		if errors.Is(err, errHeld) {
			return nil, lockedError(dir, readHolder(f))
		}
		return nil, cannotOpen(path, fmt.Errorf("locking it: %w", err))
	}
	l := &dirLock{f: f}
	if err := l.sign(now); err != nil {
		_ = l.release()
		return nil, cannotOpen(path, err)
	}
	return l, nil
}

// sign writes who holds the lock.
func (l *dirLock) sign(now time.Time) error {
	text := fmt.Sprintf("pid %d started %s", os.Getpid(), now.UTC().Format(time.RFC3339))
	if _, err := l.f.WriteAt(fmt.Appendf(nil, "%-*s\n", lockTextSize-1, text), 0); err != nil {
		// A full disk must not keep the daemon from starting. But an older text may not go on
		// naming a process that holds nothing.
		return l.f.Truncate(0)
	}
	return nil
}

// release empties the text and frees the lock. The file stays: who removes a lock file takes it
// from under a process that has just locked it.
func (l *dirLock) release() error {
	return errors.Join(l.f.Truncate(0), l.f.Close())
}

// holder is what the text says. It is for people only: between a crash and the next write it may
// name a process that is gone.
type holder struct {
	pid     int
	started string
}

func readHolder(f *os.File) holder {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, lockTextSize))
	if err != nil {
		return holder{}
	}
	return parseHolder(string(text))
}

func parseHolder(text string) holder {
	w := strings.Fields(text)
	if len(w) != 4 || w[0] != "pid" || w[2] != "started" {
		return holder{}
	}
	pid, err := strconv.Atoi(w[1])
	if err != nil || pid <= 0 {
		return holder{}
	}
	if _, err := time.Parse(time.RFC3339, w[3]); err != nil {
		return holder{}
	}
	return holder{pid: pid, started: w[3]}
}

func lockedError(dir string, h holder) error {
	if h.pid == 0 {
		return ErrLocked.WithText(fmt.Sprintf(
			"another hanzod is using %s; stop it, or choose another state directory with HANZOD_STATE_DIR", dir))
	}
	e := ErrLocked.With("pid", h.pid, "started", h.started)
	return e.WithText(fmt.Sprintf(
		"another hanzod (pid %d, started %s) is using %s; stop it, or choose another state directory with HANZOD_STATE_DIR",
		h.pid, h.started, dir))
}
