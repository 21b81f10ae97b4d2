package driver

import (
	"context"
	"sync"
)

// places are the local sockets that a session may have (tunnel.md §4.10). Who finds none waits in the order of coming.
type places struct {
	all, each int

	mu      sync.Mutex
	used    int
	by      map[string]int
	waiting []*waiter
}

type waiter struct {
	target string
	free   chan struct{} // closed when the place is this one's
	has    bool
}

func newPlaces(all, each int) *places {
	if all <= 0 {
		all = MaxLocal
		if each <= 0 {
			each = MaxTarget
		}
	}
	if each <= 0 {
		each = max(all/4, 1)
	}
	return &places{all: all, each: min(each, all), by: map[string]int{}}
}

// take waits for a place until ctx ends.
func (p *places) take(ctx context.Context, target string) error {
	p.mu.Lock()
	if p.fits(target) {
		p.give(target)
		p.mu.Unlock()
		return nil
	}
	w := &waiter{target: target, free: make(chan struct{})}
	p.waiting = append(p.waiting, w) // as many as there are streams
	p.mu.Unlock()
	select {
	case <-w.free:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.has {
		return nil
	}
	for i, other := range p.waiting {
		if other == w {
			p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
			break
		}
	}
	return ErrLimit
}

func (p *places) fits(target string) bool { return p.used < p.all && p.by[target] < p.each }

func (p *places) give(target string) {
	p.used++
	p.by[target]++
}

// back returns a place, which the first who can use it gets.
func (p *places) back(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used--
	if p.by[target]--; p.by[target] == 0 {
		delete(p.by, target)
	}
	for i, w := range p.waiting {
		if p.fits(w.target) {
			p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
			p.give(w.target)
			w.has = true
			close(w.free)
			return
		}
	}
}
