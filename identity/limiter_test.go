package identity_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hanzoai/hanzod/identity"
)

const ls = identity.LimitSecret

// hand is a clock that is set by hand.
type hand struct{ t time.Time }

func (h *hand) now() time.Time       { return h.t }
func (h *hand) step(d time.Duration) { h.t = h.t.Add(d) }
func newHand() *hand                 { return &hand{time.UnixMilli(1_700_000_000_000)} }
func addr(s string) netip.Addr       { return netip.MustParseAddr(s) }
func v4(n int) netip.Addr            { return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}) }
func v6(net uint64, n uint64) netip.Addr { // a network of its own for each n, in the /48 net
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], 0x2001<<48|net<<16|n)
	return netip.AddrFrom16(b)
}

func fails(l *identity.Limiter, a netip.Addr, n int) {
	for range n {
		l.Fail(ls, a)
	}
}

func may(l *identity.Limiter, a netip.Addr) bool { _, ok := l.Allow(ls, a); return ok }

var rate = identity.Rate{Attempts: 3, Window: time.Minute, Lockout: 5 * time.Minute}

func TestLimiterLocks(t *testing.T) {
	h := newHand()
	l := identity.NewLimiter(rate, h.now)
	a, b := addr("192.0.2.1"), addr("192.0.2.2")
	fails(l, a, 2)
	if !may(l, a) {
		t.Error("locked before the last attempt")
	}
	fails(l, a, 1)
	if wait, ok := l.Allow(ls, a); ok || wait != 5*time.Minute {
		t.Errorf("%s, %t", wait, ok)
	}
	if _, ok := l.Allow(identity.LimitDevice, a); !ok || !may(l, b) {
		t.Error("another scope or source is locked")
	}
	h.step(time.Minute)
	fails(l, a, 100) // a locked source does not make it worse
	if wait, _ := l.Allow(ls, a); wait != 4*time.Minute {
		t.Errorf("wait %s", wait)
	}
	h.step(4*time.Minute - 1)
	if may(l, a) {
		t.Error("unlocked early")
	}
	h.step(1)
	if !may(l, a) {
		t.Error("not unlocked")
	}
	fails(l, a, 2)
	if !may(l, a) {
		t.Error("the failures before the lock still count")
	}
}

func TestLimiterWindowSlides(t *testing.T) {
	h := newHand()
	l := identity.NewLimiter(rate, h.now)
	a := addr("192.0.2.1")
	for range 100 { // two in each minute
		l.Fail(ls, a)
		h.step(time.Minute / 2)
		if !may(l, a) {
			t.Fatal("locked")
		}
	}
	l.Succeed(ls, a)
	fails(l, a, 2)
	l.Succeed(ls, a)
	fails(l, a, 2)
	if !may(l, a) {
		t.Error("a success forgets nothing")
	}
	l.Fail(ls, a)
	l.Succeed(ls, a)
	if !may(l, a) {
		t.Error("a success does not unlock")
	}
}

// Without a lock-out a source has a burst and then a steady rate, and a clock that jumps changes
// little.
func TestLimiterThrottles(t *testing.T) {
	h := newHand()
	l := identity.NewLimiter(identity.ThrottleRate, h.now)
	a := addr("127.0.0.1")
	tried := 0
	guess := func() time.Duration {
		_, wait := l.Try(ls, a, func() bool { tried++; return false })
		return wait
	}
	for range 1000 {
		guess()
	}
	if tried != 100 {
		t.Errorf("%d guesses at once", tried)
	}
	for range 100 {
		wait := guess()
		if wait <= 0 || wait > 100*time.Millisecond {
			t.Fatalf("wait %s", wait)
		}
		h.step(wait)
		if wait := guess(); wait != 0 {
			t.Fatalf("the turn did not come: %s", wait)
		}
	}
	tried = 0
	for range 10 * 60 * 100 { // a hundred times a second, for ten minutes
		guess()
		h.step(time.Second / 100)
	}
	if tried < 6_000-1 || tried > 6_000+1 {
		t.Errorf("%d guesses in ten minutes", tried)
	}
	h.step(-time.Hour)
	if wait, ok := l.Allow(ls, a); ok || wait > time.Second {
		t.Errorf("after the clock went back: wait %s, %t", wait, ok)
	}
	h.step(10 * time.Minute)
	tried = 0
	for range 1000 {
		guess()
	}
	if tried != 100 {
		t.Errorf("after a jump: %d guesses at once", tried)
	}
	before := heap()
	for i := range 40_000 {
		l.Fail(ls, v4(i))
	}
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("40,000 sources take %d KiB", grown>>10)
	}
	h.step(time.Minute)
	l.Fail(ls, a)
	l.Fail(ls, a)
	if !may(l, v4(7)) || !may(l, a) {
		t.Error("still refused")
	}
}

// Attempts at the same time do not get more guesses than attempts one after the other.
func TestTryIsOneStep(t *testing.T) {
	l := identity.NewLimiter(rate, time.Now)
	a := addr("192.0.2.1")
	var tried atomic.Int64
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			l.Try(ls, a, func() bool { tried.Add(1); return false })
		})
	}
	wg.Wait()
	if tried.Load() != 3 {
		t.Errorf("%d guesses", tried.Load())
	}
	if ok, wait := l.Try(ls, a, func() bool { return true }); ok || wait <= 0 {
		t.Error("the right secret of a locked source is let in")
	}
}

func TestSources(t *testing.T) {
	h := newHand()
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"fe80::1%eth0", "fe80::2%eth1", true},
		{"::1", "127.0.0.1", false},
		{"127.0.0.1", "127.0.0.2", false},
	} {
		l := identity.NewLimiter(rate, h.now)
		fails(l, addr(c.a), 3)
		if got := !may(l, addr(c.b)); got != c.same {
			t.Errorf("%s locks %s: %t", c.a, c.b, got)
		}
	}
	l := identity.NewLimiter(rate, h.now)
	fails(l, netip.Addr{}, 3)
	if may(l, netip.Addr{}) || !may(l, addr("0.0.0.0")) {
		t.Error("sources that are not known are not one of their own")
	}
	var none *identity.Limiter
	none.Fail(ls, addr("::1"))
	none.Succeed(ls, addr("::1"))
	if ok, _ := none.Try(ls, addr("::1"), func() bool { return true }); !ok || !may(none, addr("::1")) {
		t.Error("no limiter refuses")
	}
}

// A clock that jumps neither locks for longer than a lock lasts nor frees a source that goes on
// failing.
func TestLimiterClockJumps(t *testing.T) {
	a := addr("192.0.2.1")
	for _, jump := range []time.Duration{-time.Hour, -time.Minute, 10 * time.Minute, 24 * time.Hour, -100 * 365 * 24 * time.Hour} {
		t.Run(fmt.Sprint(jump), func(t *testing.T) {
			h := newHand()
			l := identity.NewLimiter(rate, h.now)
			fails(l, a, 3)
			h.step(jump)
			wait, ok := l.Allow(ls, a)
			if jump < 0 && ok || wait > rate.Lockout {
				t.Errorf("after a jump: wait %s, %t", wait, ok)
			}
			h.step(rate.Lockout)
			if !may(l, a) {
				t.Error("locked for longer than a lock lasts")
			}
			fails(l, a, 2)
			h.step(jump)
			if !may(l, a) {
				t.Error("locked by a jump")
			}
			fails(l, a, 3)
			if may(l, a) {
				t.Error("not locked after a jump")
			}
		})
	}
}

// A flood of sources takes no more memory than the bound, unlocks nobody and locks nobody else out.
func TestLimiterFlood(t *testing.T) {
	h := newHand()
	l := identity.NewLimiter(rate, h.now)
	locked, other := addr("192.0.2.1"), addr("192.0.2.2")
	fails(l, locked, 3)
	before := heap()
	for i := range 40_000 { // one failure each: they are forgotten for each other
		l.Fail(ls, v4(i))
		if i%1000 == 0 {
			h.step(time.Millisecond)
		}
	}
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("40,000 sources take %d KiB", grown>>10)
	}
	if may(l, locked) {
		t.Error("the flood unlocked a source")
	}
	if !may(l, other) {
		t.Error("the flood locked a source that did nothing")
	}
	h.step(rate.Lockout)
	l.Fail(ls, other)
	if grown := heap() - before; grown > 4<<20 {
		t.Errorf("afterwards %d KiB are left", grown>>10)
	}
}

// A table that is full of locked sources locks new ones by a shared bound, not everybody at once,
// and recovers.
func TestLimiterFullOfLocks(t *testing.T) {
	h := newHand()
	l := identity.NewLimiter(rate, h.now)
	const sources = 20_000
	for i := range sources {
		fails(l, v4(i), 3)
	}
	unlocked := 0
	for i := range 10_000 {
		if may(l, v4(i)) {
			unlocked++
		}
	}
	if unlocked > 0 {
		t.Errorf("%d locked sources are free again", unlocked)
	}
	guesses := 0
	for i := range 10_000 {
		l.Try(ls, v4(1<<20+i), func() bool { guesses++; return false })
	}
	if guesses > 10*rate.Attempts {
		t.Errorf("sources beyond the table have %d guesses", guesses)
	}
	h.step(rate.Window)
	if !may(l, addr("192.0.2.9")) {
		t.Error("a newcomer is refused when the window has room")
	}
	h.step(rate.Lockout)
	for i := range 100 {
		if fails(l, v4(i), 2); !may(l, v4(i)) {
			t.Fatal("refused after the locks ran out")
		}
	}
}

// Who owns a /48 is not 65,536 sources, and does not fill the table of the others.
func TestLimiterNeighbours(t *testing.T) {
	h := newHand()
	l := identity.NewLimiter(rate, h.now)
	guesses := 0
	for n := range uint64(65_536) {
		for range 3 {
			l.Try(ls, v6(1, n), func() bool { guesses++; return false })
		}
	}
	if most := 257 * rate.Attempts; guesses > most {
		t.Errorf("one /48 had %d guesses", guesses)
	}
	if may(l, v6(1, 60_000)) || may(l, v6(1, 3)) || !may(l, v6(2, 3)) {
		t.Error("the wrong networks are locked")
	}
	h.step(rate.Lockout)
	l.Fail(ls, v4(1))
	if !may(l, v6(1, 60_000)) || !may(l, v6(1, 3)) {
		t.Error("locked for longer than a lock lasts")
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// The limiter agrees with the plain rule, kept for each source in a list.
func TestLimiterModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHand()
		l := identity.NewLimiter(rate, h.now)
		type state struct {
			failed []time.Time
			until  time.Time
		}
		model := map[netip.Addr]*state{v4(1): {}, v4(2): {}}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			a := v4(rapid.IntRange(1, 2).Draw(t, "source"))
			s := model[a]
			locked := h.t.Before(s.until)
			if !locked {
				n := 0
				for n < len(s.failed) && h.t.Sub(s.failed[n]) >= rate.Window {
					n++
				}
				s.failed = s.failed[n:]
			}
			switch rapid.SampledFrom([]string{"fail", "fail", "succeed", "wait", "long", "ask"}).Draw(t, "act") {
			case "fail":
				l.Fail(ls, a)
				if !locked {
					if s.failed = append(s.failed, h.t); len(s.failed) >= rate.Attempts {
						s.until, s.failed = h.t.Add(rate.Lockout), nil
					}
				}
			case "succeed":
				l.Succeed(ls, a)
				*s = state{}
			case "wait":
				h.step(time.Duration(rapid.IntRange(0, 40).Draw(t, "s")) * time.Second)
			case "long":
				h.step(3 * time.Minute)
			}
			if may(l, a) == h.t.Before(s.until) {
				t.Fatalf("%s: the limiter says %t", a, may(l, a))
			}
		}
	})
}

func BenchmarkLimiterFlood(b *testing.B) {
	l := identity.NewLimiter(rate, time.Now)
	for i := range 40_000 {
		fails(l, v4(i), 3)
	}
	i := 0
	for b.Loop() {
		l.Fail(ls, v4(1<<22+i))
		i++
	}
}
