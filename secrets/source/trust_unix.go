//go:build !windows

package source

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

var systemEnv []string

// openFlags open without waiting for the writer of a pipe.
func openFlags(links bool) int {
	if links {
		return syscall.O_NONBLOCK
	}
	return syscall.O_NONBLOCK | syscall.O_NOFOLLOW
}

// private refuses a file that others may read or change.
func private(st fs.FileInfo) error {
	if err := owned(st); err != nil {
		return err
	}
	if perm := st.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("others may read it (mode %04o); run chmod 600 on it, or set allowInsecurePath of the provider", perm)
	}
	return nil
}

// unchangeable refuses a file or directory that others may change. In a directory with the sticky bit
// only owners replace what is theirs.
func unchangeable(st fs.FileInfo) error {
	if err := owned(st); err != nil {
		return err
	}
	if perm := st.Mode().Perm(); perm&0o022 != 0 && (!st.IsDir() || st.Mode()&fs.ModeSticky == 0) {
		return fmt.Errorf("others may change it (mode %04o); take that right from them, or set allowInsecurePath of the provider", perm)
	}
	return nil
}

// owned refuses what is neither ours nor root's.
func owned(st fs.FileInfo) error {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("its owner is not known")
	}
	if sys.Uid != 0 && int(sys.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to user %d; give it to the user of the daemon, or set allowInsecurePath of the provider", sys.Uid)
	}
	return nil
}

func brokenPipe(err error) bool { return errors.Is(err, syscall.EPIPE) }
