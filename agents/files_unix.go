//go:build unix

package agents

import (
	"io/fs"
	"os"
	"syscall"
)

// noWait makes opening a named pipe return at once.
const noWait = syscall.O_NONBLOCK

// links is how many names a file has.
func links(st fs.FileInfo) uint64 {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return uint64(sys.Nlink) //nolint:unconvert // of another type on other systems
	}
	return 1
}

// syncWithin puts the names of a directory on disk.
func syncWithin(root *os.Root, dir string) error {
	d, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
