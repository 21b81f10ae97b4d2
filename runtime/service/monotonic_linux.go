package service

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// monotonic is the monotonic clock in microseconds, as systemd wants it with RELOADING=1.
func monotonic() string {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return "0"
	}
	return strconv.FormatInt(t.Nano()/1000, 10)
}
