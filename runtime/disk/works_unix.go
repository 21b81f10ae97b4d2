//go:build unix

package disk

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Works tries whether files of a directory can be locked and synced, with one that goes away again.
func Works(dir string) (err error) {
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	other, err := os.OpenFile(f.Name(), os.O_RDWR, 0)
	if err := errors.Join(err, os.Remove(f.Name())); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, other.Close()) }()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("files in %s cannot be locked: %w", dir, err)
	}
	switch err := unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case err == nil:
		return fmt.Errorf("a lock in %s keeps nobody out: two daemons could use one state", dir)
	case !errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("files in %s cannot be locked: %w", dir, err)
	}
	if _, err := f.WriteString("x"); err != nil {
		return fmt.Errorf("files in %s cannot be written: %w", dir, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("files in %s cannot be synced: %w", dir, err)
	}
	return nil
}
