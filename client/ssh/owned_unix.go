//go:build unix

package ssh

import (
	"errors"
	"os"
	"syscall"
)

// owned refuses a file that somebody else than this user or root can write.
func owned(info os.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || (int(st.Uid) != os.Getuid() && st.Uid != 0) {
		return errors.New("belongs to another user")
	}
	if info.Mode().Perm()&0o022 != 0 && info.Mode().IsRegular() {
		return errors.New("can be written by others")
	}
	return nil
}
