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
	// patience is how long others may take to run. A processor that is not busy comes back in some ten microseconds.
	patience = 100 * time.Microsecond
	// minRest and maxRest are how long it waits at once after that, twice as long each time.
	minRest = 100 * time.Millisecond
	maxRest = 10 * time.Second
	// calm is how many answers in a row end the doubling.
	calm = 1000
)

// pace is whether the processors have time. It is of the process.
var pace struct {
	resting atomic.Int64 // until then it waits at once, in nanoseconds since began
	rest    atomic.Int64 // how long the last rest was, in nanoseconds
	answers atomic.Int64 // in a row
}

var began = time.Now()

// Read reads from a socket that does not block, and fails with EAGAIN when there is nothing and it has to be waited for.
func Read(fd uintptr, p []byte) (int, error) {
	n, err := read(fd, p)
	if !errors.Is(err, syscall.EAGAIN) {
		return n, err
	}
	now := time.Since(began)
	if int64(now) < pace.resting.Load() {
		return n, err
	}
	for range looks {
		// The runtime is told of the call, for it may take long. It does not fail.
		_, _, _ = syscall.Syscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
		before := now
		now = time.Since(began)
		n, err = read(fd, p)
		switch {
		case now-before > patience:
			tired(now)
			return n, err
		case !errors.Is(err, syscall.EAGAIN):
			if pace.answers.Add(1) == calm {
				pace.rest.Store(0)
			}
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

// tired begins a rest.
func tired(now time.Duration) {
	rest := min(max(2*time.Duration(pace.rest.Load()), minRest), maxRest)
	pace.rest.Store(int64(rest))
	pace.resting.Store(int64(now + rest))
	pace.answers.Store(0)
}
