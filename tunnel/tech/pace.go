package tech

import (
	"context"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

const (
	// besideKeys is how many bytes a second the files of a session move while somebody types in it, all of them together:
	// less than half of what a wire of 1 Gbit/s carries. Without a bound one file takes all processors of gateway and node, and a key
	// waits for them.
	besideKeys = 48_000_000
	// keysFor is how long after a key somebody counts as typing.
	keysFor = 2 * time.Second
	// maxLag is how much a file that was held up may make good at once.
	maxLag = 5 * time.Millisecond
)

// pace lets files of a session go at besideKeys while somebody types, and at any speed else. It may be used concurrently; its
// zero value is ready.
type pace struct {
	mu    sync.Mutex
	typed time.Time // the last key
	next  time.Time // when the next piece may go
}

// key notes that something was typed.
func (p *pace) key() {
	now := time.Now()
	p.mu.Lock()
	p.typed = now
	p.mu.Unlock()
}

// turn is how long n bytes that are to go now have to wait, and takes their place.
func (p *pace) turn(now time.Time, n int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.typed.IsZero() || now.Sub(p.typed) > keysFor {
		return 0
	}
	if first := now.Add(-maxLag); p.next.Before(first) {
		p.next = first
	}
	wait := p.next.Sub(now)
	p.next = p.next.Add(time.Duration(n) * time.Second / besideKeys)
	return wait
}

// pass waits until the bytes of a message of a file may go.
func (j *Joined) pass(ctx context.Context, m message.Message) error {
	if j.Kind != message.File || len(m.Data) == 0 {
		return nil
	}
	wait := j.h.pace.turn(time.Now(), len(m.Data))
	if wait <= 0 {
		return nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
