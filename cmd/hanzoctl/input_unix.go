//go:build unix

package main

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// inputWait is how often a reader of keys looks whether it should end.
const inputWait = 100 * time.Millisecond

// waitInput waits a moment for input. It uses select because poll does not know terminals on darwin.
func waitInput(f *os.File) (bool, error) {
	var set unix.FdSet
	fd := int(f.Fd())
	set.Set(fd)
	tv := unix.NsecToTimeval(int64(inputWait))
	n, err := unix.Select(fd+1, &set, nil, nil, &tv)
	if errors.Is(err, unix.EINTR) {
		return false, nil
	}
	return n > 0, err
}
