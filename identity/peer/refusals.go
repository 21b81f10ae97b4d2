package peer

import (
	"log/slog"
	"sync"
	"time"
)

const (
	// maxRefusalLines is how many refusals are logged in refusalsEvery.
	maxRefusalLines = 30
	refusalsEvery   = time.Minute
)

// Refusals keeps strangers from filling the log: of each minute it says the first ones and then how many there
// were. The zero value is ready; it is safe for concurrent use.
type Refusals struct {
	mu     sync.Mutex
	began  time.Time
	logged int
	left   int
}

// Say logs a refusal, if there were not too many of late. whom are those that are not let in, in words.
func (r *Refusals) Say(log *slog.Logger, whom, msg string, args ...any) {
	r.mu.Lock()
	left := 0
	if time.Since(r.began) >= refusalsEvery {
		left = r.left
		r.began, r.logged, r.left = time.Now(), 0, 0
	}
	loud := r.logged < maxRefusalLines
	if loud {
		r.logged++
	} else {
		r.left++
	}
	r.mu.Unlock()
	if left > 0 {
		log.Warn("more "+whom+" were not let in than the log tells", "unlogged", left)
	}
	if loud {
		log.Info(msg, args...)
	}
}
