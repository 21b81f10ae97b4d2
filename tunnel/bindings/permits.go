package bindings

import (
	"context"
	"sync"
	"time"
)

const (
	// maxPermits is how many descriptors exposures hold at most by default, and the share of the descriptors of
	// the process that they never exceed is three quarters; sharePermits is what one tunnel may (tunnel.md §4.10).
	maxPermits   = 1024
	sharePermits = 100
	// permitWait is how long a visitor waits for a permit before being told to come again.
	permitWait = 500 * time.Millisecond
)

// Permits is how many descriptors exposures hold, and how many they may (tunnel.md §4.10): one for each listener,
// each visitor of a listener for http, and each open stream, idle ones included.
type Permits struct{ Used, Limit int }

// pool counts permits. Its limit is asked for each time.
type pool struct {
	limit func() int

	mu    sync.Mutex
	used  int
	freed chan struct{} // closed when one is given back, nil while nobody waits
}

// try takes a permit if there is one.
func (p *pool) try() bool {
	limit := p.limit()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.used >= limit {
		return false
	}
	p.used++
	return true
}

// take waits for a permit until stop is closed.
func (p *pool) take(stop <-chan struct{}) bool {
	for {
		limit := p.limit()
		p.mu.Lock()
		if p.used < limit {
			p.used++
			p.mu.Unlock()
			return true
		}
		if p.freed == nil {
			p.freed = make(chan struct{})
		}
		freed := p.freed
		p.mu.Unlock()
		select {
		case <-freed:
		case <-stop:
			return false
		}
	}
}

// give gives a permit back.
func (p *pool) give() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used--
	if p.freed != nil {
		close(p.freed)
		p.freed = nil
	}
}

func (p *pool) state() Permits {
	limit := p.limit()
	p.mu.Lock()
	defer p.mu.Unlock()
	return Permits{p.used, limit}
}

// both takes a permit of the process and one of a share, or none.
func (s *Service) both(share *pool) bool {
	if !share.try() {
		return false
	}
	if !s.permits.try() {
		share.give()
		return false
	}
	return true
}

// await is both for a visitor who can wait a little: others may be about to end.
func (s *Service) await(ctx context.Context, share *pool) bool {
	ctx, cancel := context.WithTimeout(ctx, permitWait)
	defer cancel()
	if !share.take(ctx.Done()) {
		return false
	}
	if !s.permits.take(ctx.Done()) {
		share.give()
		return false
	}
	return true
}

func (s *Service) giveBoth(share *pool) {
	s.permits.give()
	share.give()
}

// Permit takes one of the process for a stream that is of no binding here; give gives it back, once. It is false when
// there is none.
func (s *Service) Permit() (give func(), ok bool) {
	if !s.permits.try() {
		return nil, false
	}
	return sync.OnceFunc(s.permits.give), true
}

// Permits returns those of the process.
func (s *Service) Permits() Permits { return s.permits.state() }

// Share returns those of a tunnel.
func (s *Service) Share(tunnelID string) Permits {
	s.mu.Lock()
	p := s.shares[tunnelID]
	s.mu.Unlock()
	if p == nil {
		return Permits{0, s.shareLimit()}
	}
	return p.state()
}

func (s *Service) limit() int {
	if n := s.settings().Permits; n > 0 {
		return n
	}
	return s.most
}

func (s *Service) shareLimit() int {
	if n := s.settings().PermitsPerTunnel; n > 0 {
		return n
	}
	return sharePermits
}

func (s *Service) settings() Settings {
	if s.cfg.Settings == nil {
		return Settings{}
	}
	return s.cfg.Settings()
}
