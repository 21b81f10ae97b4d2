package agents

import (
	"sync"
	"time"

	"github.com/hanzoai/hanzod/config"
)

const (
	// lateBy is how long after a change through it the older door still shows the agents of before. The
	// original shows them until it is loaded anew (protocol.md trap 14); its clients are written for that.
	lateBy = 5 * time.Second
	// lateMost ends that however often somebody changes something.
	lateMost = 30 * time.Second
)

// late shows the configuration as it was before the last changes.
type late struct {
	now func() time.Time

	mu           sync.Mutex
	held         *config.Config
	since, until time.Time
}

// hold keeps what is shown now for a while.
func (l *late) hold(cur *config.Config) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if l.held == nil || now.After(l.until) {
		l.held, l.since = cur, now
	}
	l.until = now.Add(lateBy)
	if most := l.since.Add(lateMost); l.until.After(most) {
		l.until = most
	}
}

func (l *late) see(cur *config.Config) *config.Config {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held != nil && !l.now().After(l.until) {
		return l.held
	}
	l.held = nil
	return cur
}

// Late is the service as clients of the original know it: what they change shows up a few seconds later.
// Both share everything else.
func (s *Service) Late() *Service {
	out := *s
	out.late = &late{now: s.cfg.Now}
	return &out
}
