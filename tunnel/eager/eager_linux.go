package eager

import (
	"errors"
	"sync/atomic"
	"syscall"
	"time"
)

const able = true

const (
	// looks is how often it lets others run and looks again: a few microseconds in all.
	looks = 4
	// patience is how long others may take to run, in all looks. A processor that is not busy comes back in some ten microseconds.
	patience = 100 * time.Microsecond
	// restFactor is how many times as long as they took it waits at once after that: what it loses is one part in
	// as many.
	restFactor = 50
)

// resting is until when reads of the process wait at once, as the processors are busy: in nanoseconds since began.
var resting atomic.Int64

var began = time.Now()

// Read reads from a socket that does not block, and fails with EAGAIN when there is nothing and it has to be waited for.
func Read(fd uintptr, p []byte) (int, error) {
	n, err := read(fd, p)
	if !errors.Is(err, syscall.EAGAIN) {
		return n, err
	}
	start := time.Since(began)
	if int64(start) < resting.Load() {
		return n, err
	}
	for range looks {
		// The runtime is told of the call, for it may take long. It does not fail.
		_, _, _ = syscall.Syscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
		now := time.Since(began)
		n, err = read(fd, p)
		if took := now - start; took > patience {
			resting.Store(int64(now + restFactor*took))
			return n, err
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return n, err
		}
	}
	return n, err
}

func read(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), p)
		if !errors.Is(err, syscall.EINTR) {
			return max(n, 0), err
		}
	}
}
