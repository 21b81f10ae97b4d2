package migrate

import (
	"maps"
	"sync"
	"time"
)

// noted is the hash that the last run wrote of a thing, "" for none.
func (r *run) noted(part, name string) string { return r.last.Parts[part][name] }

// allNoted are the hashes of a part by name. They may be noted anew meanwhile.
func (r *run) allNoted(part string) map[string]string { return maps.Clone(r.last.Parts[part]) }

// note keeps the hash of a thing for the next run; "" forgets it.
func (r *run) note(part, name, sum string) {
	if r.last.Parts == nil {
		r.last.Parts = map[string]map[string]string{}
	}
	if r.last.Parts[part] == nil {
		r.last.Parts[part] = map[string]string{}
	}
	if sum == "" {
		delete(r.last.Parts[part], name)
		return
	}
	r.last.Parts[part][name] = sum
}

// pace is how far the part at hand is. It may be told by several goroutines.
type pace struct {
	mu          sync.Mutex
	part        string
	done, total int64
	told        time.Time
}

// progressEvery bounds how often progress is told.
const progressEvery = 100 * time.Millisecond

// expect says how many bytes a part has to move.
func (r *run) expect(part string, n int64) {
	r.pace.mu.Lock()
	defer r.pace.mu.Unlock()
	r.pace.part, r.pace.done, r.pace.total = part, 0, n
}

// step says that so many more bytes of a part were looked at.
func (r *run) step(part string, n int64) {
	if r.Progress == nil {
		return
	}
	p := &r.pace
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.part != part {
		p.part, p.done, p.total = part, 0, 0
	}
	p.done += n
	if now := time.Now(); now.Sub(p.told) >= progressEvery {
		p.told = now
		r.Progress(Progress{part, p.done, max(p.done, p.total)})
	}
}
