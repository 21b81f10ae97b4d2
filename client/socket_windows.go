package client

import (
	"context"
	"fmt"
	"net"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"
)

func socketPath(dir string) string {
	user := ""
	if sid, err := ownSID(); err == nil {
		user = sid.String()
	}
	return `\\.\pipe\hanzod-` + hash16(user+"\x00"+dir)
}

// dialSocket connects and checks, before anything is sent, that the pipe belongs to this user, to
// the system or to the administrators.
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	conn, err := winio.DialPipeContext(ctx, path)
	if err != nil {
		return nil, err
	}
	if err := checkOwner(conn, path); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func checkOwner(conn net.Conn, path string) error {
	handle, ok := conn.(interface{ Fd() uintptr })
	if !ok {
		return fmt.Errorf("the owner of %s cannot be read", path)
	}
	return checkHandle(windows.Handle(handle.Fd()), windows.SE_KERNEL_OBJECT, path)
}

// checkHandle checks that an object belongs to this user, to the system or to the administrators.
func checkHandle(handle windows.Handle, kind windows.SE_OBJECT_TYPE, path string) error {
	sd, err := windows.GetSecurityInfo(handle, kind, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return fmt.Errorf("read the owner of %s: %w", path, err)
	}
	owner, _, err := sd.Owner()
	if err != nil || owner == nil {
		return fmt.Errorf("the owner of %s cannot be read", path)
	}
	self, err := ownSID()
	if err != nil {
		return err
	}
	if owner.Equals(self) || owner.IsWellKnown(windows.WinLocalSystemSid) || owner.IsWellKnown(windows.WinBuiltinAdministratorsSid) {
		return nil
	}
	return &refused{code: CodeForeignSocket, text: fmt.Sprintf("%s belongs to %s, not to you", path, owner.String())}
}

func ownSID() (*windows.SID, error) {
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, fmt.Errorf("read the user of this process: %w", err)
	}
	return user.User.Sid, nil
}
