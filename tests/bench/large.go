package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/tests/scale"
)

// large measures a daemon with everything that R3 names: how soon it is ready, and how large it is.
func (b *bench) large(ctx context.Context) error {
	dir := filepath.Join(b.dir, "large")
	if err := largeState(ctx, dir); err != nil {
		return err
	}
	ready, err := once(ctx, max(3, b.runs/4), func() (time.Duration, error) {
		d, err := startDaemon(ctx, b.prog.hanzod, dir)
		if err != nil {
			return 0, err
		}
		_, err = d.stop()
		return d.ready, err
	})
	if err != nil {
		return err
	}
	b.rep.times("large/ready/p50", ready)
	d, err := startDaemon(ctx, b.prog.hanzod, dir)
	if err != nil {
		return err
	}
	time.Sleep(settled)
	if m, err := d.memory(); err == nil {
		b.rep.set("large/rss", m.rss/1e6)
	}
	return errors.Join(b.busy(ctx, d), func() error { _, err := d.stop(); return err }())
}

func p99(in []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(in))
	return s[len(s)*99/100]
}

// settled is how long a daemon is left alone before it is measured: it gives memory back after two seconds.
const settled = 5 * time.Second

func largeState(ctx context.Context, dir string) error {
	file := map[string]any{"gateway": map[string]any{"auth": map[string]any{"mode": "token", "token": token}}}
	return errors.Join(scale.Large.Fill(ctx, dir), scale.Large.Config(dir, file))
}

// busy measures health and a list while every core but one spins and another client writes without a pause. A
// writer that hangs for good is in tests/promises (R4).
func (b *bench) busy(ctx context.Context, d *daemon) error {
	s, err := connect(ctx, d.addr, token, operator)
	if err != nil {
		return err
	}
	defer s.close()
	w, err := connect(ctx, d.addr, token, operator)
	if err != nil {
		return err
	}
	defer w.close()
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for range max(1, runtime.NumCPU()-1) {
		wg.Go(func() {
			for n := 1; n&(1<<20-1) != 0 || ctx.Err() == nil; n++ {
			}
		})
	}
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			key := fmt.Sprintf("agent:%s:telegram:direct:%d", scale.AgentID(i%scale.Large.Agents), i%scale.Large.Sessions)
			if w.call(fmt.Appendf(nil, `{"type":"req","id":"w","method":"sessions.patch","params":{"key":%q,"thinkingLevel":"low"}}`, key)) != nil {
				return // the daemon is gone, which the measured connection says better
			}
		}
	})
	for _, x := range []struct {
		id, frame string
		n         int
	}{
		{"large/busy/health", `{"type":"req","id":"1","method":"health","params":{}}`, 1000},
		{"large/busy/list1000", `{"type":"req","id":"1","method":"sessions.list","params":{"limit":1000}}`, 200},
	} {
		took, err := once(ctx, x.n, func() (time.Duration, error) {
			began := time.Now()
			err := s.call([]byte(x.frame))
			return time.Since(began), err
		})
		if err != nil {
			return err
		}
		b.rep.times(x.id+"/p99", []time.Duration{p99(took)})
	}
	return nil
}
