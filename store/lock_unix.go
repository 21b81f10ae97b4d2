//go:build unix

package store

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// tryLock locks the open file for this process. Files are opened close-on-exec, so no child of the
// daemon inherits the lock. Several can share a lock, and nobody has it alone meanwhile.
func tryLock(f *os.File, shared bool) error {
	how := unix.LOCK_EX
	if shared {
		how = unix.LOCK_SH
	}
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EWOULDBLOCK):
			return errHeld
		default:
			return err
		}
	}
}

// checkOwner refuses a directory of another user: what is made in it would be out of that user's reach, also
// for root.
func checkOwner(dir string) error {
	fi, err := os.Stat(dir)
	if err != nil {
		return cannotOpen(dir, err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || int(st.Uid) == os.Geteuid() {
		return nil
	}
	name := strconv.FormatUint(uint64(st.Uid), 10)
	run := "#" + name
	if u, err := user.LookupId(name); err == nil {
		name, run = u.Username, u.Username
	}
	return ErrOwner.With("path", dir).WithText(fmt.Sprintf("%s belongs to the user %s; run this as that user: sudo -u %s hanzod ...", dir, name, run))
}

// syncDir makes the entries of a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
