package compat

import (
	"slices"
	"sync"
	"time"
)

// large is the room for first frames of more than smallFirst. Together they take 16 MiB at the most,
// however many strangers begin one and leave it unfinished; who holds a place too long makes way.
type large struct {
	mu      sync.Mutex
	holders []holder // the one that holds a place for the longest time first
}

type holder struct {
	c  *conn
	at time.Time
}

// take makes room for the first frame of a connection. It reports false when there is none now.
func (l *large) take(c *conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.holders) >= maxLarge {
		oldest := l.holders[0]
		if time.Since(oldest.at) < largeHold {
			return false
		}
		oldest.c.abort()
		l.holders = slices.Delete(l.holders, 0, 1)
	}
	l.holders = append(l.holders, holder{c, time.Now()})
	return true
}

func (l *large) leave(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holders = slices.DeleteFunc(l.holders, func(h holder) bool { return h.c == c })
}

// largeFirsts are the buffers of large first frames.
var largeFirsts = sync.Pool{New: func() any { b := make([]byte, maxFirst+1); return &b }}

// roomForLarge waits for room for a large first frame. It fails when the time of the handshake is
// over.
func (c *conn) roomForLarge() (*[]byte, bool) {
	end := time.NewTimer(handshakeTimeout)
	defer end.Stop()
	again := time.NewTicker(largeRetry)
	defer again.Stop()
	for !c.door.large.take(c) {
		select {
		case <-again.C:
		case <-end.C:
			return nil, false
		case <-c.ctx.Done():
			return nil, false
		}
	}
	c.tookLarge = true
	return largeFirsts.Get().(*[]byte), true
}
