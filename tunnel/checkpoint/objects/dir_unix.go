//go:build unix

package objects

import (
	"os"

	"golang.org/x/sys/unix"
)

// openFile opens without following a link at the end, and without waiting for a writer of a named pipe.
func openFile(root *os.Root, file string) (*os.File, error) {
	return root.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

func syncDir(root *os.Root, dir string) error {
	f, err := root.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return f.Sync()
}
