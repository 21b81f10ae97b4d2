//go:build !windows

package companion

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hanzoai/hanzod/identity/peer/owner"
)

// probeWait is how long a socket that is already there is tried; a live app answers at once.
const probeWait = time.Second

// checkSocket says why the file at path is not the socket of this user alone, in a directory that
// nobody else can change. Links are not followed.
func checkSocket(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%w: its path %q is not absolute", ErrUnsafe, path)
	}
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrAbsent
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsafe, err)
	}
	switch {
	case st.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%w: %s is no socket", ErrUnsafe, path)
	case !mine(st):
		return fmt.Errorf("%w: %s belongs to another user", ErrUnsafe, path)
	case st.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%w: others may connect to %s; run chmod 600 %s", ErrUnsafe, path, path)
	}
	return checkDir(filepath.Dir(path))
}

// checkDir says why others could put another socket into a directory.
func checkDir(dir string) error {
	st, err := os.Stat(dir)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnsafe, err)
	case !st.IsDir():
		return fmt.Errorf("%w: %s is no directory", ErrUnsafe, dir)
	case !mine(st):
		return fmt.Errorf("%w: the directory %s belongs to another user", ErrUnsafe, dir)
	case st.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%w: others may write to %s; run chmod 700 %s", ErrUnsafe, dir, dir)
	}
	return nil
}

// mine reports whether a file is this user's.
func mine(st fs.FileInfo) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && int(sys.Uid) == os.Geteuid()
}

// checkPeer says why the process at the other end is not this user's.
func checkPeer(c *net.UnixConn) error {
	uid, _, err := owner.Of(c)
	if err != nil {
		return fmt.Errorf("who is at the other end cannot be told: %w", err)
	}
	if uid != os.Geteuid() {
		return fmt.Errorf("user %d is at the other end, not user %d", uid, os.Geteuid())
	}
	return nil
}

// Listen makes the socket: mode 0600, in a directory that is made with mode 0700. A socket that nobody
// answers on is replaced; one that answers, and any other kind of file, is left alone and is an error.
// Closing the listener removes the socket.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("the path of the socket, %q, is not absolute", path)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the socket: %w", err)
	}
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the socket: %w", err)
	}
	// Who connected before this is refused all the same, for its user.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict the socket: %w", err), l.Close())
	}
	return l, nil
}

func removeStale(ctx context.Context, path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look for an old socket: %w", err)
	case st.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is in the way and is no socket; move it elsewhere", path)
	}
	d := net.Dialer{Timeout: probeWait}
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		_ = c.Close() // nothing was sent
		return fmt.Errorf("another app answers on %s; end it first", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("cannot tell whether another app uses %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the old socket: %w", err)
	}
	return nil
}
