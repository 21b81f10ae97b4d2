package bindings

import (
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httputil"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// readyTimeout is how long visitors wait for a tunnel to learn of its binding.
const readyTimeout = 5 * time.Second

// done is of what is ready from the start.
var done = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// bound is a binding at work. What is not behind mu never changes after it is made known.
type bound struct {
	Binding
	s         *Service
	operators bool            // of an operator, for a node
	caller    identity.Caller // who made it, for operators
	admin     bool            // of one with operator.admin
	key       string
	place     string
	sub       string
	slot      *slot // nil: found by its place only
	secret    [32]byte
	share     *pool
	revoked   func(string)
	// ready is closed when visitors may come.
	ready chan struct{}
	// The target: what Host says, and what OpenIn has when the binding knows it.
	targetName string
	targetHost string
	targetPort int

	up     atomic.Pointer[Upstream] // nil: that of the node
	parked atomic.Bool
	direct atomic.Pointer[httputil.ReverseProxy]
	below  atomic.Pointer[httputil.ReverseProxy]

	mu      sync.Mutex
	http    *http.Transport
	lines   []*line // those used last at the end
	reaper  *time.Timer
	streams map[*held]struct{}
	takers  map[*taking]struct{} // visitors after 101
	ended   bool
}

// upstream is where streams go, nil for nowhere.
func (b *bound) upstream() Upstream {
	if up := b.up.Load(); up != nil {
		return *up
	}
	if b.TunnelID != "" || b.s.cfg.Upstreams == nil {
		return nil
	}
	return b.s.cfg.Upstreams(b.NodeID)
}

func (b *bound) closeUpstream() {
	if up := b.up.Load(); up != nil {
		if c, ok := (*up).(io.Closer); ok {
			_ = c.Close() // it is given up
		}
	}
}

// begun waits until visitors may come.
func (b *bound) begun(ctx context.Context) bool {
	select {
	case <-b.ready:
		return true
	default:
	}
	t := time.NewTimer(readyTimeout)
	defer t.Stop()
	select {
	case <-b.ready:
		return true
	case <-ctx.Done():
	case <-t.C:
	}
	return false
}

// successor is who has the port now.
func (b *bound) successor() *bound {
	if b.slot == nil {
		return b
	}
	return b.slot.cur.Load()
}

// remember notes an open stream, unless the binding has ended or parked while it was opened: nobody else would end it.
func (b *bound) remember(h *held) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.ended:
		return ErrRefused
	case b.parked.Load():
		return ErrParked
	}
	if b.streams == nil {
		b.streams = map[*held]struct{}{}
	}
	b.streams[h] = struct{}{}
	return nil
}

// took notes a visitor after 101. One that comes too late finds its stream reset.
func (b *bound) took(t *taking) {
	b.mu.Lock()
	if b.takers == nil {
		b.takers = map[*taking]struct{}{}
	}
	b.takers[t] = struct{}{}
	over := b.ended || b.parked.Load()
	b.mu.Unlock()
	if over {
		t.hurry()
	}
}

func (b *bound) forget(h *held) {
	b.mu.Lock()
	delete(b.streams, h)
	b.mu.Unlock()
	b.s.figures.closed(h.kind)
}

func (b *bound) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.streams)
}

// seen is the binding as others see it.
func (b *bound) seen() Binding {
	out := b.Binding
	out.Parked, out.Streams = b.parked.Load(), b.count()
	return out
}

// end resets all streams; no further ones are opened.
func (b *bound) end(code wire.Code) {
	b.mu.Lock()
	b.ended = true
	all := slices.Collect(maps.Keys(b.streams))
	b.mu.Unlock()
	b.reset(all, code)
	b.closeUpstream()
}

// reset ends streams. Those that wait for a request are closed whole, since nobody else does it at once.
func (b *bound) reset(all []*held, code wire.Code) {
	for _, h := range all {
		_ = h.Reset(code, "") // it may have ended
	}
	b.mu.Lock()
	takers := slices.Collect(maps.Keys(b.takers))
	b.mu.Unlock()
	for _, t := range takers {
		t.hurry()
	}
	b.idle()
}

// figures are the counters of Stats.
type figures struct {
	mu        sync.Mutex
	active    map[string]int
	total     map[StreamResult]uint64
	takeovers uint64
	rejected  map[string]uint64
}

// StreamResult names the streams that are counted together. Result is opened, refused or exhausted.
type StreamResult struct{ Kind, Result string }

// BindKind names the bindings that are counted together; Mode is empty for those of nodes.
type BindKind struct{ Kind, Mode string }

// Stats are figures of visitors and bindings; totals are since the start.
type Stats struct {
	Bindings  map[BindKind]int
	Parked    int
	Streams   map[string]int // open, by kind
	Total     map[StreamResult]uint64
	Takeovers uint64
	// Rejected is by the code of BIND_ERR.
	Rejected map[string]uint64
	Permits  Permits
}

// opened counts a stream, or why there is none.
func (s *Service) opened(kind string, err error) {
	f := &s.figures
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.total == nil {
		f.total, f.active = map[StreamResult]uint64{}, map[string]int{}
	}
	result := "opened"
	switch {
	case err == nil:
		f.active[kind]++
	case errs.ClassOf(err) == errs.Exhausted || err == errPermits: //nolint:errorlint // it is never wrapped
		result = "exhausted"
	default:
		result = "refused"
	}
	f.total[StreamResult{kind, result}]++
}

func (f *figures) closed(kind string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.active[kind]--
}

func (f *figures) took() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takeovers++
}

func (f *figures) reject(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rejected == nil {
		f.rejected = map[string]uint64{}
	}
	f.rejected[Code(err)]++
}

// Stats returns the figures.
func (s *Service) Stats() Stats {
	out := Stats{Bindings: map[BindKind]int{}, Permits: s.Permits()}
	s.mu.Lock()
	for _, all := range s.byNode {
		for _, b := range all {
			out.Bindings[BindKind{Kind: string(b.Protocol)}]++
		}
	}
	for _, all := range s.tunnels {
		for _, b := range all {
			out.Bindings[BindKind{b.Kind, b.Mode}]++
			if b.parked.Load() {
				out.Parked++
			}
		}
	}
	s.mu.Unlock()
	f := &s.figures
	f.mu.Lock()
	defer f.mu.Unlock()
	out.Streams, out.Total, out.Rejected, out.Takeovers = maps.Clone(f.active), maps.Clone(f.total), maps.Clone(f.rejected), f.takeovers
	return out
}
