package main

import (
	"context"
	"slices"
	"sync"
	"time"
)

// sample is what one round gave.
type sample struct {
	p50, p99 time.Duration
	rate     float64 // per second
	n        int
}

// maxPerRound bounds the times that one round keeps.
const maxPerRound = 1 << 20

func summarise(took []time.Duration, wall time.Duration) sample {
	if len(took) == 0 || wall <= 0 {
		return sample{}
	}
	slices.Sort(took)
	return sample{
		p50: took[len(took)/2], p99: took[min(len(took)-1, len(took)*99/100)],
		rate: float64(len(took)) / wall.Seconds(), n: len(took),
	}
}

// plan is how long and how often is measured.
type plan struct {
	rounds int
	round  time.Duration
	// warm is called when the warming up is over; nil for nothing.
	warm func()
}

func (p plan) warmed() {
	if p.warm != nil {
		p.warm()
	}
}

// serial calls op one at a time, after a tenth of a round to warm up.
func (p plan) serial(ctx context.Context, op func() error) ([]sample, error) {
	return p.parallel(ctx, 1, func(int) func() error { return op })
}

// parallel calls one op of each worker, one at a time per worker. make is called once a worker.
func (p plan) parallel(ctx context.Context, workers int, make func(worker int) func() error) ([]sample, error) {
	ops := []func() error{}
	for w := range workers {
		ops = append(ops, make(w))
	}
	if _, err := together(ctx, p.round/10, ops); err != nil {
		return nil, err
	}
	p.warmed()
	var out []sample
	for range p.rounds {
		s, err := together(ctx, p.round, ops)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// together runs the ops for a time, each in a goroutine of its own, and waits for them.
func together(ctx context.Context, d time.Duration, ops []func() error) (sample, error) {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		all   []time.Duration
		fault error
	)
	began := time.Now()
	end := began.Add(d)
	for _, op := range ops {
		wg.Go(func() {
			took := make([]time.Duration, 0, 1<<12)
			last := time.Now()
			var err error
			for last.Before(end) && len(took) < maxPerRound/len(ops) && err == nil {
				if err = op(); err == nil {
					err = ctx.Err()
				}
				now := time.Now()
				took = append(took, now.Sub(last))
				last = now
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			if fault == nil {
				fault = err
			}
		})
	}
	wg.Wait()
	return summarise(all, time.Since(began)), fault
}

// pipelined keeps n requests of one socket in flight.
func (p plan) pipelined(ctx context.Context, s *socket, req *numbered, n int) ([]sample, error) {
	var next uint32
	if _, err := pipeline(ctx, s, req, n, &next, p.round/10); err != nil {
		return nil, err
	}
	p.warmed()
	var out []sample
	for range p.rounds {
		x, err := pipeline(ctx, s, req, n, &next, p.round)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

func pipeline(ctx context.Context, s *socket, req *numbered, n int, next *uint32, d time.Duration) (sample, error) {
	// A started request stands at its number modulo a size that is well over n, since answers may
	// come in any order.
	started := make([]time.Time, 16*n)
	send := func() error {
		*next++
		started[int(*next)%len(started)] = time.Now()
		return s.write(req.with(*next))
	}
	took := make([]time.Duration, 0, 1<<12)
	began := time.Now()
	end := began.Add(d)
	for range n {
		if err := send(); err != nil {
			return sample{}, err
		}
	}
	var wall time.Duration
	for out := n; out > 0; {
		m, err := s.answer()
		if err != nil {
			return sample{}, err
		}
		id, err := idOf(m)
		if err != nil {
			return sample{}, err
		}
		v, err := number(id)
		if err != nil {
			return sample{}, err
		}
		now := time.Now()
		if now.Before(end) && len(took) < maxPerRound && ctx.Err() == nil {
			took = append(took, now.Sub(started[int(v)%len(started)]))
			wall = now.Sub(began)
			if err := send(); err != nil {
				return sample{}, err
			}
			continue
		}
		out--
	}
	return summarise(took, wall), ctx.Err()
}

// once measures ops that are slow enough to be counted: n calls, each a value of its own.
func once(ctx context.Context, n int, op func() (time.Duration, error)) ([]time.Duration, error) {
	var out []time.Duration
	for range n {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d, err := op()
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func median[T interface{ ~int64 | ~float64 }](in []T) T {
	if len(in) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(in))
	return s[len(s)/2]
}

// load measures a load on the daemon, and what each request cost it in processor time. That says
// more than the rates do on a machine that does other work too.
func (b *bench) load(d *daemon, name string, f func(plan) ([]sample, error)) error {
	var before time.Duration
	p := b.plan
	p.warm = func() { before = cpuOf(d.cmd.Process.Pid) }
	got, err := f(p)
	if err != nil {
		return err
	}
	used := cpuOf(d.cmd.Process.Pid) - before
	b.rep.samples(name, got)
	n := 0
	for _, s := range got {
		n += s.n
	}
	if n > 0 && used > 0 {
		b.rep.times(name+"/cpu", []time.Duration{used / time.Duration(n)})
	}
	return nil
}
