//go:build unix

package shell

import "syscall"

// runnable reports whether a regular file that somebody may execute is there. It is asked for every
// directory of PATH, so it makes nothing but the call.
func runnable(path string) bool {
	var st syscall.Stat_t
	for {
		switch err := syscall.Stat(path, &st); err {
		case nil:
			return st.Mode&syscall.S_IFMT == syscall.S_IFREG && st.Mode&0o111 != 0
		case syscall.EINTR:
		default:
			return false
		}
	}
}
