//go:build unix

package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

// Of returns the space of the file system that a path is on.
func Of(path string) (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return Space{}, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	size := uint64(st.Bsize)
	return Space{Free: st.Bavail * size, Total: st.Blocks * size}, nil
}
