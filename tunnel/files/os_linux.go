package files

import (
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// identity is device, inode and the time of the last change of any kind.
func identity(info fs.FileInfo) (dev, ino uint64, ctime int64) {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Dev, s.Ino, s.Ctim.Nano()
	}
	return 0, 0, 0
}

// flush asks the disk to begin with a range; it does not wait.
func flush(f *os.File, from, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), from, n, unix.SYNC_FILE_RANGE_WRITE) // the sync at the end counts
}

// syncData makes the contents of a file durable, and its size.
func syncData(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
