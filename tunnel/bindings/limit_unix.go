//go:build unix

package bindings

import "syscall"

// most is the default limit of permits: maxPermits, or three quarters of what the process may open.
func most() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return maxPermits
	}
	return int(min(uint64(maxPermits), uint64(l.Cur)/4*3)) //nolint:unconvert // it is signed on some systems
}
