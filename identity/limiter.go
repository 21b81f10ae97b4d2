package identity

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// LimitScope keeps failures of different kinds apart (protocol.md §4.4).
type LimitScope string

// The scopes of failed attempts.
const (
	LimitSecret  LimitScope = "shared-secret"
	LimitDevice  LimitScope = "device-token"
	LimitHook    LimitScope = "hook-auth"
	LimitDefault LimitScope = "default"
)

// Rate is how many failures a source may have.
type Rate struct {
	// Attempts is how many failures within Window lock a source.
	Attempts int
	Window   time.Duration
	// Lockout is how long a lock lasts. With 0 there is none: a source has Attempts failures at once, and
	// then one each time that Window takes for one of Attempts.
	Lockout time.Duration
}

// The rates (protocol.md §0, §4.4). ThrottleRate, ten failures a second after the first hundred,
// slows whoever no other rate holds: a program on this machine that guesses, and everybody where
// gateway.auth.rateLimit is not set. It stays far above what people and reconnecting clients do.
var (
	DefaultRate  = Rate{Attempts: 10, Window: time.Minute, Lockout: 5 * time.Minute}
	HookRate     = Rate{Attempts: 20, Window: time.Minute, Lockout: time.Minute}
	ThrottleRate = Rate{Attempts: 100, Window: 10 * time.Second}
)

const (
	// maxSources bounds the sources that are told apart, maxNeighbours those of one IPv6 /48: who owns
	// a /48 has 65,536 networks to come from, which count as one beyond this.
	maxSources    = 16_384
	maxNeighbours = 256
	// maxFailures bounds the failure times that are kept in all (3 MiB).
	maxFailures = 1 << 17
	// pruneEvery is how often sources that have nothing to remember are forgotten, pruneFull how often
	// at most when there is no room.
	pruneEvery = time.Minute
	pruneFull  = time.Second
	// maxSearch is how many sources are looked at to find one that can be forgotten: looking at all for
	// each newcomer would be a flood's work done for it.
	maxSearch = 256
	// overflowFactor is how many times the failures of one source all sources together may have that
	// find no room in a table full of locked ones.
	overflowFactor = 10
)

// Limiter counts failed attempts by source and refuses sources that failed too often. IPv6 sources
// are told apart by their /64. Its memory is bounded: failures of sources that are not locked are
// forgotten first, locks never early. A nil Limiter refuses nobody. It is safe for concurrent use.
//
// Times are compared as differences, so that a clock with a monotonic reading is not moved by
// changes of the wall clock; a clock that goes back does not make a lock longer than Lockout.
type Limiter struct {
	rate Rate
	now  func() time.Time

	mu         sync.Mutex
	sources    map[source]*record
	neighbours map[netip.Prefix]int // sources by IPv6 /48
	failures   int                  // times kept in all records
	overflow   record
	pruned     time.Time
}

type source struct {
	scope LimitScope
	net   netip.Prefix
}

// record is what is known of a source: when it failed within the window, oldest first, and since
// when it is locked. Without lock-out the one time in failed is when the last failure is paid for.
type record struct {
	failed   []time.Time
	lockedAt time.Time // zero when it is not locked
}

// NewLimiter returns a limiter without records.
func NewLimiter(rate Rate, now func() time.Time) *Limiter {
	rate.Attempts = min(max(rate.Attempts, 1), maxFailures)
	return &Limiter{
		rate: rate, now: now, sources: map[source]*record{}, neighbours: map[netip.Prefix]int{}, pruned: now(),
	}
}

// Allow reports whether the source may try; otherwise, after which time it may.
func (l *Limiter) Allow(scope LimitScope, from netip.Addr) (retryAfter time.Duration, ok bool) {
	if l == nil {
		return 0, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.allow(l.find(scope, from), l.now())
}

// Fail counts a failure. Those of a locked source do not count.
func (l *Limiter) Fail(scope LimitScope, from netip.Addr) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail(scope, from)
}

// Succeed forgets the failures of the source, and its lock.
func (l *Limiter) Succeed(scope LimitScope, from netip.Addr) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(source{scope, network(from)})
}

// Try lets a source that may try do so, and counts a failure, in one step: attempts at the same time
// do not get more of them than one after the other. check must be quick and must not use the
// limiter. retryAfter is not 0 when check was not called.
func (l *Limiter) Try(scope LimitScope, from netip.Addr, check func() bool) (ok bool, retryAfter time.Duration) {
	if l == nil {
		return check(), 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if wait, ok := l.allow(l.find(scope, from), l.now()); !ok {
		return false, wait
	}
	if check() {
		return true, 0
	}
	l.fail(scope, from)
	return false, 0
}

// allow brings a record up to date and reads it. The callers of this and what follows hold mu.
func (l *Limiter) allow(r *record, now time.Time) (time.Duration, bool) {
	if r == nil {
		return 0, true
	}
	l.slide(r, now)
	attempts := l.attempts(r)
	switch {
	case !r.lockedAt.IsZero():
		return l.rate.Lockout - now.Sub(r.lockedAt), false
	case len(r.failed) == 0:
		return 0, true
	case l.rate.Lockout == 0:
		wait := r.failed[0].Sub(now) + l.cost(r) - l.rate.Window
		return wait, wait <= 0
	case len(r.failed) < attempts:
		return 0, true
	}
	return max(l.rate.Window-now.Sub(r.failed[0]), time.Millisecond), false
}

func (l *Limiter) attempts(r *record) int {
	if r == &l.overflow {
		return l.rate.Attempts * overflowFactor
	}
	return l.rate.Attempts
}

// cost is how long one failure takes to be paid for, without lock-out.
func (l *Limiter) cost(r *record) time.Duration {
	return l.rate.Window / time.Duration(l.attempts(r))
}

// slide drops what is over: failures that left the window, a lock that has run out. Where the clock
// went back, the lock and the failures count from now.
func (l *Limiter) slide(r *record, now time.Time) {
	if !r.lockedAt.IsZero() {
		since := now.Sub(r.lockedAt)
		if since < 0 {
			r.lockedAt = now
		}
		if since >= l.rate.Lockout {
			r.lockedAt = time.Time{}
		}
		return
	}
	keep, latest := l.rate.Window, now // how long a time counts, and how late it may be
	if l.rate.Lockout == 0 {
		keep, latest = 0, now.Add(l.rate.Window)
	}
	n := 0
	for i := range r.failed {
		if r.failed[i].After(latest) {
			r.failed[i] = latest
		}
		if now.Sub(r.failed[i]) >= keep {
			n = i + 1
		}
	}
	l.drop(r, n)
}

func (l *Limiter) drop(r *record, n int) {
	r.failed = slices.Delete(r.failed, 0, n)
	l.failures -= n
}

func (l *Limiter) fail(scope LimitScope, from netip.Addr) {
	now := l.now()
	if since := now.Sub(l.pruned); since > pruneEvery || since < 0 {
		l.prune(now)
	}
	if l.failures >= maxFailures && !l.evict() {
		return // nothing but locks was found
	}
	r := l.find(scope, from)
	if r == nil || r == &l.overflow {
		r = l.add(scope, from, now)
	}
	if _, ok := l.allow(r, now); !ok {
		return
	}
	if l.rate.Lockout == 0 {
		if len(r.failed) == 0 {
			r.failed = append(r.failed, now)
			l.failures++
		}
		r.failed[0] = r.failed[0].Add(l.cost(r))
		return
	}
	r.failed = append(r.failed, now)
	l.failures++
	if r != &l.overflow && len(r.failed) >= l.rate.Attempts {
		r.lockedAt = now
		l.drop(r, len(r.failed))
		r.failed = nil
	}
}

// find returns the record of a source, nil when nothing is known of it.
func (l *Limiter) find(scope LimitScope, from netip.Addr) *record {
	net := network(from)
	if r := l.sources[source{scope, net}]; r != nil {
		return r
	}
	if wide, ok := neighbourhood(net); ok {
		if r := l.sources[source{scope, wide}]; r != nil {
			return r
		}
	}
	if len(l.sources) >= maxSources && len(l.overflow.failed) > 0 {
		return &l.overflow
	}
	return nil
}

// add makes the record of a source, in place of another when there is no room.
func (l *Limiter) add(scope LimitScope, from netip.Addr, now time.Time) *record {
	net := network(from)
	wide, single := neighbourhood(net)
	if single && l.neighbours[wide] >= maxNeighbours {
		net, single = wide, false
	}
	if len(l.sources) >= maxSources {
		if now.Sub(l.pruned) >= pruneFull {
			l.prune(now)
		}
		if len(l.sources) >= maxSources && !l.evict() {
			return &l.overflow
		}
	}
	r := &record{}
	l.sources[source{scope, net}] = r
	if single {
		l.neighbours[wide]++
	}
	return r
}

// prune forgets the sources that have nothing to remember.
func (l *Limiter) prune(now time.Time) {
	l.pruned = now
	l.slide(&l.overflow, now)
	for s, r := range l.sources {
		if l.slide(r, now); len(r.failed) == 0 && r.lockedAt.IsZero() {
			l.forget(s)
		}
	}
}

// evict forgets, of some sources that are not locked, the one whose last failure is the oldest. It
// fails when it finds none.
func (l *Limiter) evict() bool {
	var oldest source
	var at time.Time
	seen, found := 0, false
	for s, r := range l.sources { // begins anywhere
		if n := len(r.failed); n > 0 && (!found || r.failed[n-1].Before(at)) { // a locked one has none
			oldest, at, found = s, r.failed[n-1], true
		}
		if seen++; seen == maxSearch {
			break
		}
	}
	if found {
		l.forget(oldest)
	}
	return found
}

func (l *Limiter) forget(s source) {
	r := l.sources[s]
	if r == nil {
		return
	}
	l.drop(r, len(r.failed))
	delete(l.sources, s)
	wide, ok := neighbourhood(s.net)
	if !ok {
		return
	}
	if l.neighbours[wide]--; l.neighbours[wide] <= 0 {
		delete(l.neighbours, wide)
	}
}

// network is what of an address makes a source: all of an IPv4 address, the /64 of an IPv6 one. An
// address that is not known is a source of its own.
func network(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // no address
	}
	return p
}

// neighbourhood is the /48 of an IPv6 /64.
func neighbourhood(p netip.Prefix) (netip.Prefix, bool) {
	if !p.Addr().Is6() || p.Bits() != 64 {
		return netip.Prefix{}, false
	}
	wide, err := p.Addr().Prefix(48)
	return wide, err == nil
}
