//go:build unix

package client

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

func socketPath(dir string) string {
	path := filepath.Join(dir, "hanzod.sock")
	if len(path) <= maxSocketPath {
		return path
	}
	uid := strconv.Itoa(os.Geteuid())
	// /run/user comes second so that a client without a login session finds the same place.
	for _, base := range []string{os.Getenv("XDG_RUNTIME_DIR"), "/run/user/" + uid, os.TempDir()} {
		if info, err := os.Stat(base); base == "" || err != nil || !info.IsDir() {
			continue
		}
		if short := filepath.Join(base, "hanzod-"+uid, hash16(dir)+".sock"); len(short) <= maxSocketPath {
			return short
		}
	}
	return filepath.Join("/tmp", "hanzod-"+uid, hash16(dir)+".sock")
}

// dialSocket connects after it has checked that the socket belongs to this user or root, so that
// nothing is ever sent to a stranger's socket.
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("%s is not a socket", path)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("the owner of %s cannot be read", path)
	}
	if uid := int(st.Uid); !trusted(uid, os.Geteuid()) {
		return nil, &refused{code: CodeForeignSocket, text: fmt.Sprintf(
			"the socket %s belongs to user %d, not to you; run this as that user, or name your own socket with --socket", path, uid)}
	}
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

func trusted(owner, self int) bool { return owner == self || owner == 0 }
