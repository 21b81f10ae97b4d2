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

// trustedProgram reports whether nobody but this user and root decides what a program is: it and its
// directories belong to them, and others may not write there.
func trustedProgram(path string) bool {
	if !filepath.IsAbs(path) {
		return false
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	info, err := os.Stat(real)
	if err != nil || info.Mode().Perm()&0o111 == 0 || trustedFile(real, info) != nil {
		return false
	}
	for dir := filepath.Dir(real); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return false
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		// In a directory like /tmp others may add files, and leave those of others alone.
		if !ok || !trusted(int(st.Uid), os.Getuid()) || info.Mode().Perm()&0o022 != 0 && info.Mode()&os.ModeSticky == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}
