package compat

import (
	"sync"
	"time"
)

// uploads is the room for messages of clients that were let in, while they arrive and are larger than
// smallMessage: a client that begins many large ones and leaves them unfinished takes a bounded part of
// it, and nobody else's.
type uploads struct {
	mu    sync.Mutex
	bytes int
	by    map[string]int // by device
}

// take makes room for n bytes more of a device, "" for clients without one, which are the owner's. It
// reports false when there is none now.
func (u *uploads) take(device string, n int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.bytes+n > maxUploads || device != "" && u.by[device]+n > maxUploadsEach {
		return false
	}
	u.bytes += n
	if device != "" {
		if u.by == nil {
			u.by = map[string]int{}
		}
		u.by[device] += n
	}
	return true
}

func (u *uploads) give(device string, n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.bytes -= n
	if device == "" {
		return
	}
	if u.by[device] -= n; u.by[device] <= 0 {
		delete(u.by, device)
	}
}

// upload is one large message on its way.
type upload struct {
	c     *conn
	bytes int
	late  *time.Timer
}

// grow makes room for the message to become size bytes large. It waits a while when there is none: the
// client is slowed down by that, and by nothing else. It fails when the connection is to end.
func (u *upload) grow(size int) bool {
	if size <= smallMessage {
		return true
	}
	all, device := &u.c.door.uploads, u.c.caller.DeviceID
	var end, tick *time.Timer
	for !all.take(device, size-u.bytes) {
		if tick == nil {
			end, tick = time.NewTimer(uploadWait), time.NewTimer(largeRetry)
			defer end.Stop()
			defer tick.Stop()
		}
		select {
		case <-tick.C:
			tick.Reset(largeRetry)
		case <-end.C:
			return false
		case <-u.c.ctx.Done():
			return false
		}
	}
	u.bytes = size
	if u.late == nil {
		u.late = time.AfterFunc(uploadTime, u.c.abort)
	}
	return true
}

// done gives the room back.
func (u *upload) done() {
	if u.late == nil {
		return
	}
	u.late.Stop()
	u.c.door.uploads.give(u.c.caller.DeviceID, u.bytes)
}
