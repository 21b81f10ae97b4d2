package listen

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"
)

// Unix listens on the named pipe at path (`\\.\pipe\…`), which its security descriptor opens to the
// daemon's own user only. A pipe that another process holds is an error.
func Unix(_ context.Context, path string) (net.Listener, error) {
	sid, err := ownSID()
	if err != nil {
		return nil, err
	}
	l, err := winio.ListenPipe(path, &winio.PipeConfig{
		// Protected, so nothing is inherited: full access for the user, none for anybody else.
		SecurityDescriptor: "D:P(A;;GA;;;" + sid + ")",
	})
	if err != nil {
		return nil, fmt.Errorf("listen on the pipe %s (is another daemon running?): %w", path, err)
	}
	return l, nil
}

func ownSID() (string, error) {
	u, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return "", fmt.Errorf("find the current user: %w", err)
	}
	return u.User.Sid.String(), nil
}

// peer says who connected. Only the own user passes the security descriptor of the pipe.
func peer(c net.Conn) (PeerInfo, error) {
	h, ok := c.(interface{ Fd() uintptr })
	if !ok {
		return PeerInfo{}, fmt.Errorf("%T is no named pipe", c)
	}
	sid, err := ownSID()
	if err != nil {
		return PeerInfo{}, err
	}
	var pid uint32
	// The process is for showing only.
	if err := windows.GetNamedPipeClientProcessId(windows.Handle(h.Fd()), &pid); err != nil {
		pid = 0
	}
	return newPeerInfo(sid, int(pid), true), nil
}

func isBusy(err error) bool { return errors.Is(err, windows.WSAEADDRINUSE) }
