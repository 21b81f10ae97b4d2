package policy

import (
	"errors"
	"syscall"
)

// errSharingViolation is the answer to opening a file that somebody holds alone.
const errSharingViolation = syscall.Errno(32)

// lockFile opens a file that nobody else may open meanwhile; the system closes it when the process
// ends.
func lockFile(path string) (unlock func(), err error) {
	name, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	h, err := syscall.CreateFile(name, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, nil, syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, errSharingViolation) {
		return nil, errLocked
	}
	if err != nil {
		return nil, err
	}
	return func() { syscall.CloseHandle(h) }, nil
}

// syncDir does nothing: Windows has no such call.
func syncDir(string) error { return nil }
