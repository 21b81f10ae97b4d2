package store

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Purge removes a state directory with all that is in it. It refuses one without a database of hanzod's,
// and fails with ErrLocked while a daemon uses it.
func Purge(dir string) error {
	path := filepath.Join(dir, fileName)
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("%s holds no state of hanzod, so nothing was removed: %w", dir, err)
	}
	l, err := lockDir(dir, time.Now())
	if err != nil {
		return err
	}
	// The database goes first: a directory that was removed in part is none of ours any more.
	if err := os.Remove(path); err != nil {
		_ = l.release()
		return err
	}
	if err := l.release(); err != nil { // Windows removes no file that is open
		return err
	}
	return os.RemoveAll(dir)
}
