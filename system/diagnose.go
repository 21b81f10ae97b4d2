package system

import (
	"context"
	"os"
	"time"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/system/doctor"
)

// Diagnosis is what is wrong, as far as the daemon can see it.
type Diagnosis struct {
	Findings []doctor.Finding
	At       time.Time
	Version  string
	PID      int
}

// Diagnose looks for what is wrong, for doctor.MaxTime at the most. One looks at a time: who asks meanwhile
// waits for it and gets the same, so that asking often costs the others nothing.
func (s *Service) Diagnose(ctx context.Context, _ identity.Caller) (Diagnosis, error) {
	if s.cfg.Facts.Diagnose == nil {
		return Diagnosis{At: s.cfg.Now(), Version: s.cfg.Version, PID: os.Getpid()}, nil
	}
	s.mu.Lock()
	r := s.diagnosis
	if r == nil {
		r = &diagnosing{done: make(chan struct{})}
		s.diagnosis = r
		// It goes on when who asked first goes away: others wait for it.
		//nolint:contextcheck,gosec // see above; it is bounded
		go func() {
			look, cancel := context.WithTimeout(context.Background(), doctor.MaxTime)
			defer cancel()
			found := s.cfg.Facts.Diagnose(look)
			doctor.Sort(found)
			r.out = Diagnosis{Findings: found, At: s.cfg.Now(), Version: s.cfg.Version, PID: os.Getpid()}
			s.mu.Lock()
			s.diagnosis = nil
			s.mu.Unlock()
			close(r.done)
		}()
	}
	s.mu.Unlock()
	select {
	case <-r.done:
		return r.out, nil
	case <-ctx.Done():
		return Diagnosis{}, ctx.Err()
	}
}

// diagnosing is a diagnosis under way. out is set before done is closed.
type diagnosing struct {
	done chan struct{}
	out  Diagnosis
}
