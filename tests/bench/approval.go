package main

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"
)

const (
	// asked is how many questions are asked one by one, burst how many at once: together they stay
	// below what a daemon keeps at one time.
	asked = 300
	burst = 640
)

var requestedMark = []byte(`{"type":"event","event":"exec.approval.requested"`)

func askFrame(prefix string) *numbered {
	return newNumbered(`{"type":"req","id":"########","method":"exec.approval.request","params":{"id":"` + prefix +
		`-########","command":"/usr/bin/true --bench","cwd":"/tmp","host":"gateway","timeoutMs":600000,"twoPhase":true}}`)
}

func resolveFrame(prefix string) *numbered {
	return newNumbered(`{"type":"req","id":"########","method":"exec.approval.resolve","params":{"id":"` + prefix +
		`-########","decision":"deny"}}`)
}

// approvals measures how long a question takes to reach an approver, durable, in units of one
// commit, and how many questions a burst brings in a second.
func (b *bench) approvals(ctx context.Context) error {
	if err := b.ask(ctx); err != nil {
		return err
	}
	for i := range min(b.plan.rounds, 3) {
		rate, err := b.burst(ctx, fmt.Sprintf("burst%d", i))
		if err != nil {
			return err
		}
		b.rep.set("approval/burst64/rate", rate)
	}
	return nil
}

func (b *bench) ask(ctx context.Context) error {
	d, err := startDaemon(ctx, b.prog.hanzod, filepath.Join(b.dir, "ask"))
	if err != nil {
		return err
	}
	defer func() { _, _ = d.stop() }() // it was measured
	requester, err := connect(ctx, d.addr, token, operator)
	if err != nil {
		return err
	}
	defer requester.close()
	approver, err := connect(ctx, d.addr, token, operator)
	if err != nil {
		return err
	}
	defer approver.close()
	// The requester's answers and events are read and dropped.
	var wg sync.WaitGroup
	defer wg.Wait()
	defer requester.close()
	wg.Go(func() {
		for {
			if _, err := requester.read(); err != nil {
				return
			}
		}
	})
	req, res := askFrame("ask"), resolveFrame("ask")
	var n uint32
	op := func() (time.Duration, error) {
		n++
		began := time.Now()
		if err := requester.write(req.with(n)); err != nil {
			return 0, err
		}
		if err := seen(approver); err != nil {
			return 0, err
		}
		took := time.Since(began)
		return took, approver.call(res.with(n))
	}
	rounds := b.plan.rounds
	for range rounds {
		if err := b.commits(ctx, plan{rounds: 1, round: b.plan.round / 4}); err != nil {
			return err
		}
		commits := b.rep.values["floor/commit"]
		took, err := once(ctx, asked/rounds, op)
		if err != nil {
			return err
		}
		p50 := median(took)
		b.rep.times("approval/event/p50", []time.Duration{p50})
		b.rep.set("approval/event/commits", inUnit(p50, us)/commits[len(commits)-1])
	}
	return nil
}

// seen reads until a question comes.
func seen(s *socket) error {
	for {
		m, err := s.read()
		if err != nil {
			return err
		}
		if bytes.HasPrefix(m, requestedMark) {
			return nil
		}
	}
}

// burst has 64 callers ask, each one after the other, and waits for the acceptance of each, which
// comes when the question is on disk.
func (b *bench) burst(ctx context.Context, name string) (float64, error) {
	d, err := startDaemon(ctx, b.prog.hanzod, filepath.Join(b.dir, name))
	if err != nil {
		return 0, err
	}
	defer func() { _, _ = d.stop() }() // it was measured
	callers := make([]*socket, manyClients)
	for i := range callers {
		// Without the scope of approvals, so that the figure is about writes and not about events.
		w := operator
		w.Scopes = []string{"operator.read", "operator.write", "operator.approvals"}
		if callers[i], err = connect(ctx, d.addr, token, w); err != nil {
			return 0, err
		}
		defer callers[i].close()
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		fault error
	)
	began := time.Now()
	for i, s := range callers {
		wg.Go(func() {
			req := askFrame(fmt.Sprintf("b%d", i))
			for n := range burst / manyClients {
				if err := s.call(req.with(uint32(n + 1))); err != nil {
					mu.Lock()
					fault = err
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(burst/manyClients*manyClients) / time.Since(began).Seconds(), fault
}
