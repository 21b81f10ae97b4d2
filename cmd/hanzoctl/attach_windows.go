package main

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"
)

// listenLocal listens on a named pipe that its security descriptor opens to this user alone.
func listenLocal(_ context.Context, path string) (net.Listener, error) {
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, fmt.Errorf("find the current user: %w", err)
	}
	// Protected, so nothing is inherited: full access for the user, none for anybody else.
	l, err := winio.ListenPipe(path, &winio.PipeConfig{SecurityDescriptor: "D:P(A;;GA;;;" + user.User.Sid.String() + ")"})
	if err != nil {
		return nil, fmt.Errorf("listen on the pipe %s: %w", path, err)
	}
	return l, nil
}

// lockFolder has nothing to do: a second listener on the same pipe fails.
func lockFolder(string) (unlock func(), mine bool, err error) { return func() {}, true, nil }

// ownDir has nothing to look at: a pipe is in no folder.
func ownDir(string) error { return nil }

func isBusy(err error) bool { return errors.Is(err, windows.WSAEADDRINUSE) }
