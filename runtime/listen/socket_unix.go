//go:build !windows

package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/hanzoai/hanzod/identity/peer/owner"
)

// Unix listens on a socket at path, for the daemon's own user only: mode 0600 in a directory that
// is made with mode 0700. A socket that nobody answers on is replaced; one that answers, and any
// other kind of file, is left alone and is an error. Closing the listener removes the socket. On
// Windows path names a pipe.
func Unix(ctx context.Context, path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the local socket: %w", err)
	}
	st, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("look at the directory of the local socket: %w", err)
	}
	if st.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("others may write to %s, so they could put another socket in place of ours; run chmod 700 %s", dir, dir)
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the local socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict the local socket: %w", err), l.Close())
	}
	return l, nil
}

func removeStale(ctx context.Context, path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look for an old local socket: %w", err)
	case st.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is in the way and is no socket; move it elsewhere", path)
	}
	d := net.Dialer{Timeout: probeWait}
	c, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		_ = c.Close()
		return fmt.Errorf("another daemon answers on %s; stop it first", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("cannot tell whether another daemon uses %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the old local socket: %w", err)
	}
	return nil
}

// peer reads the credentials of the process that connected.
func peer(c net.Conn) (PeerInfo, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return PeerInfo{}, fmt.Errorf("%T is no local socket", c)
	}
	uid, pid, err := owner.Of(u)
	if err != nil {
		return PeerInfo{}, err
	}
	return newPeerInfo(strconv.Itoa(uid), pid, uid == os.Geteuid()), nil
}

func isBusy(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }
