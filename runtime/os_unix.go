//go:build unix

package runtime

import (
	goruntime "runtime"

	"golang.org/x/sys/unix"
)

// osName is the operating system and the release of its kernel.
func osName() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return goruntime.GOOS
	}
	return goruntime.GOOS + " " + unix.ByteSliceToString(u.Release[:])
}
