//go:build unix

package client

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

func sharedDir(getenv func(string) string) string {
	if home := homeDir(getenv); runtime.GOOS == "darwin" && home != "" {
		return filepath.Join(home, "Library", "Caches")
	}
	return ""
}

// openTrusted opens a plain file of this user or root that others may not write. What it looks at is what
// it opened.
func openTrusted(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = trustedFile(path, info)
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	return f, nil
}

func trustedFile(path string, info os.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no plain file", path)
	case !ok || !trusted(int(st.Uid), os.Getuid()):
		return fmt.Errorf("%s belongs to another user", path)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("others may write to %s", path)
	}
	return nil
}

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
