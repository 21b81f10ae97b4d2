//go:build !windows

package host

import (
	"os"
	"syscall"
)

// numbers are the device and the inode of an open file.
func numbers(_ *os.File, info os.FileInfo) (device, inode string) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", ""
	}
	return decimal(st.Dev), decimal(st.Ino)
}
