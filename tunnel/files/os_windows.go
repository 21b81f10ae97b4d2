package files

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

const openFlags = 0

func noSpace(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}

func alone(fs.FileInfo) bool { return true }

func chownLike(*os.File, fs.FileInfo) {}

func free(*os.File) (int64, bool) { return 0, false }

// identity: size and time have to do.
func identity(fs.FileInfo) (dev, ino uint64, ctime int64) { return 0, 0, 0 }

func flush(*os.File, int64, int64) {}

func syncData(f *os.File) error { return f.Sync() }

// syncDir: names are durable with the file system's journal.
func syncDir(*os.Root) error { return nil }
