//go:build unix

package checks

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownerOf is the user that a file belongs to, and whether that is the one of this process.
func ownerOf(fi fs.FileInfo) (uid string, mine, known bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return "", false, false
	}
	return strconv.FormatUint(uint64(st.Uid), 10), int(st.Uid) == os.Geteuid(), true
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return strconv.Itoa(os.Geteuid())
}

// restrict takes a file or directory from everybody but its owner. What it changes is what it looked at: it
// follows no link, and leaves alone what belongs to somebody else or has a second name, which may be outside.
func restrict(path string, dir bool) (string, error) {
	flags := unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	if dir {
		flags |= unix.O_DIRECTORY
	}
	fd, err := unix.Open(path, flags, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: path, Err: err}
	}
	m := uint32(st.Mode) //nolint:unconvert // shorter on other systems
	switch {
	case int(st.Uid) != os.Geteuid():
		return "", errors.New("it belongs to another user")
	case !dir && m&unix.S_IFMT != unix.S_IFREG:
		return "", errors.New("it is not a regular file")
	case !dir && st.Nlink != 1:
		return "", errors.New("it has a second name elsewhere")
	}
	mode := m & 0o700
	if mode == m&0o777 {
		return "it is restricted already", nil
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		return "", &os.PathError{Op: "chmod", Path: path, Err: err}
	}
	return fmt.Sprintf("%s has mode %04o now", path, mode), nil
}

func alive(pid int) bool {
	err := unix.Kill(pid, 0)
	return err == nil || errors.Is(err, unix.EPERM)
}
