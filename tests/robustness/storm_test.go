//go:build linux

package robustness

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	// stormClients are connected when the daemon is killed, and all of them are back within stormTime of
	// its being there again. They try again after firstRetry, later less often, at least each maxRetry.
	stormClients = 5000
	stormTime    = 15 * time.Second
	firstRetry   = 20 * time.Millisecond
	maxRetry     = time.Second
	// stormAtOnce is how many of them connect at a time at first; after the kill nothing holds them back.
	stormAtOnce = 64
	// oneConnect bounds one attempt.
	oneConnect = 20 * time.Second
	// stormMemory is what the daemon may hold just after all came at once: what each may cost before it is
	// let in (promise 6), twice, because the collector runs behind.
	stormMemory = 2 * stormClients * 64 << 10
)

// storm is clients that connect again as soon as they can.
type storm struct {
	d       *proc.Daemon
	ctx     context.Context
	wg      sync.WaitGroup
	up      atomic.Int64 // how many are connected
	tries   atomic.Int64
	refused atomic.Int64 // attempts that the daemon answered, but not with a hello
	slots   chan struct{}
}

func (s *storm) client() {
	retry := firstRetry
	for first := true; s.ctx.Err() == nil; first = false {
		if first {
			s.slots <- struct{}{}
		}
		r, err := s.connect()
		if first {
			<-s.slots
		}
		if err != nil {
			wait := time.NewTimer(retry/2 + rand.N(retry))
			select {
			case <-wait.C:
			case <-s.ctx.Done():
				wait.Stop()
			}
			retry = min(2*retry, maxRetry)
			continue
		}
		retry = firstRetry
		s.up.Add(1)
		stop := context.AfterFunc(s.ctx, func() { _ = r.Close() })
		for err == nil {
			_, err = r.Message()
		}
		stop()
		s.up.Add(-1)
		_ = r.Close()
	}
}

func (s *storm) connect() (*proc.Raw, error) {
	s.tries.Add(1)
	ctx, cancel := context.WithTimeout(s.ctx, oneConnect)
	defer cancel()
	r, err := s.d.DialRaw(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.Hello("operator.read"); err != nil {
		_ = r.Close()
		if errors.Is(err, proc.ErrRefused) {
			s.refused.Add(1)
		}
		return nil, err
	}
	r.Forever()
	return r, nil
}

// TestStorm: 5,000 clients that lose the daemon to a kill -9 are all back within 15 s of its next start,
// and nobody is refused.
func TestStorm(t *testing.T) {
	d := proc.Start(t, proc.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	s := &storm{d: d, ctx: ctx, slots: make(chan struct{}, stormAtOnce)}
	defer s.wg.Wait()
	defer cancel()
	for range stormClients {
		s.wg.Go(s.client)
	}
	all := func() bool { return s.up.Load() == stormClients }
	began := time.Now()
	proc.UntilFor(t, time.Minute, "all are connected", all)
	t.Logf("%d clients connected within %v", stormClients, time.Since(began))
	for range rounds(t, 1) {
		d.Kill()
		proc.Until(t, "all have lost their connection", func() bool { return s.up.Load() == 0 })
		s.tries.Store(0)
		began := time.Now()
		d.Start()
		proc.UntilFor(t, stormTime-time.Since(began), "all are back", all)
		took, rss := time.Since(began), proc.RSS(t, d.PID())
		t.Logf("all are back after %v, of which the start took %v, with %d attempts; the daemon holds %.1f MiB", took, d.Ready, s.tries.Load(), float64(rss)/mib)
		if n := s.refused.Load(); n > 0 {
			t.Errorf("%d attempts were refused", n)
		}
		if rss > stormMemory {
			t.Errorf("the daemon holds %.1f MiB", float64(rss)/mib)
		}
		// Attempts that were given up are let go of as their ends are read.
		proc.UntilFor(t, stormTime, "the daemon counts those clients alone", func() bool { return connections(t, d) == stormClients })
	}
}
