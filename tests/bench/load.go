package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"sync"
	"time"
)

const (
	inFlight    = 32
	manyClients = 64
	connectors  = 8
)

const (
	healthFrame = `{"type":"req","id":"########","method":"health"}`
	listFrame   = `{"type":"req","id":"########","method":"node.list","params":{}}`
)

// invokeFrame names its invoke by a key, as clients must.
func invokeFrame(node, prefix string) string {
	return `{"type":"req","id":"########","method":"node.invoke","params":{"nodeId":"` + node + `","command":"` + nodeCommand +
		`","params":{"title":"bench","body":"hello"},"timeoutMs":10000,"idempotencyKey":"` + prefix + `-########"}}`
}

// caller returns an operation that sends the request and waits for its answer, each time with a new
// number.
func caller(s *socket, req *numbered) func() error {
	var n uint32
	return func() error {
		n++
		return s.call(req.with(n))
	}
}

// legacy measures one method of the legacy door: one at a time, 32 in flight on one connection, and
// the given number of connections with one call each.
func (b *bench) legacy(ctx context.Context, name string, clients int, frame func(prefix string) string) error {
	d, err := b.loaded(ctx)
	if err != nil {
		return err
	}
	s, err := connect(ctx, d.addr, token, operator)
	if err != nil {
		return err
	}
	defer s.close()
	if b.rep.wants(name + "/serial") {
		err := b.load(d, name+"/serial", func(p plan) ([]sample, error) {
			return p.serial(ctx, caller(s, newNumbered(frame("s"))))
		})
		if err != nil {
			return err
		}
	}
	if b.rep.wants(name + "/inflight32") {
		err := b.load(d, name+"/inflight32", func(p plan) ([]sample, error) {
			return p.pipelined(ctx, s, newNumbered(frame("p")), inFlight)
		})
		if err != nil {
			return err
		}
	}
	group := fmt.Sprintf("%s/clients%d", name, clients)
	if !b.rep.wants(group) {
		return nil
	}
	all := make([]*socket, clients)
	for i := range all {
		if all[i], err = connect(ctx, d.addr, token, operator); err != nil {
			return err
		}
		defer all[i].close()
	}
	return b.load(d, group, func(p plan) ([]sample, error) {
		return p.parallel(ctx, clients, func(i int) func() error {
			return caller(all[i], newNumbered(frame(fmt.Sprintf("c%d", i))))
		})
	})
}

func (b *bench) health(ctx context.Context) error {
	return b.legacy(ctx, "health", manyClients, func(string) string { return healthFrame })
}

func (b *bench) list(ctx context.Context) error {
	return b.legacy(ctx, "list", inFlight, func(string) string { return listFrame })
}

func (b *bench) invoke(ctx context.Context) error {
	d, err := b.loaded(ctx)
	if err != nil {
		return err
	}
	near, stop := context.WithCancel(ctx)
	up, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- answerInvokes(near, d.addr, token, nearID, func() { close(up) }) }()
	select {
	case <-up:
	case err := <-done:
		stop()
		return err
	}
	err = b.legacy(ctx, "invoke", inFlight, func(p string) string { return invokeFrame(nearID, p) })
	stop()
	if e := <-done; err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return b.legacy(ctx, "apart", inFlight, func(p string) string { return invokeFrame(nodeID, p) })
}

// connectPlain measures connects without a device, each closed at once.
func (b *bench) connectPlain(ctx context.Context) error {
	d, err := b.loaded(ctx)
	if err != nil {
		return err
	}
	return b.load(d, "connect/plain", func(p plan) ([]sample, error) {
		return p.parallel(ctx, connectors, func(int) func() error {
			return func() error { return connectOnce(ctx, d.addr, token, operator) }
		})
	})
}

func connectOnce(ctx context.Context, addr, token string, w who) error {
	s, err := connect(ctx, addr, token, w)
	if err != nil {
		return err
	}
	s.close()
	return nil
}

// maxDevices bounds the keys that are made before the connects with new devices.
const maxDevices = 6000

// connectDevice measures connects of devices that were never seen: a signature is checked, the
// device is paired silently and written before the hello.
func (b *bench) connectDevice(ctx context.Context) error {
	d, err := b.loaded(ctx)
	if err != nil {
		return err
	}
	per := maxDevices / b.plan.rounds
	if b.plan.round < time.Second {
		per = 200
	}
	return b.load(d, "connect/device", func(p plan) ([]sample, error) {
		rounds := make([][]ed25519.PrivateKey, p.rounds)
		for i := range rounds {
			for range per {
				_, k, err := ed25519.GenerateKey(rand.Reader)
				if err != nil {
					return nil, err
				}
				rounds[i] = append(rounds[i], k)
			}
		}
		p.warmed()
		var out []sample
		for _, keys := range rounds {
			s, err := deviceRound(ctx, d.addr, keys, p.round)
			if err != nil {
				return nil, err
			}
			out = append(out, s)
		}
		return out, nil
	})
}

// deviceRound connects each device once, until the time is over.
func deviceRound(ctx context.Context, addr string, keys []ed25519.PrivateKey, limit time.Duration) (sample, error) {
	next := make(chan ed25519.PrivateKey, len(keys))
	for _, k := range keys {
		next <- k
	}
	close(next)
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		took  []time.Duration
		fault error
	)
	began := time.Now()
	for range connectors {
		wg.Go(func() {
			for time.Since(began) < limit {
				k, ok := <-next
				if !ok {
					return
				}
				w := paired
				w.Key = k
				start := time.Now()
				err := connectOnce(ctx, addr, token, w)
				d := time.Since(start)
				mu.Lock()
				took = append(took, d)
				if err != nil {
					fault = err
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return summarise(took, time.Since(began)), fault
}

// memoryPerClient measures what a held idle client costs.
func (b *bench) memoryPerClient(ctx context.Context) error {
	d, err := startDaemon(ctx, b.prog.hanzod, filepath.Join(b.dir, "held"))
	if err != nil {
		return err
	}
	defer func() { _, _ = d.stop() }() // it was measured
	// One client first, so that what is made once is there; then the daemon gives back what its
	// start took.
	if err := connectOnce(ctx, d.addr, token, operator); err != nil {
		return err
	}
	if err := wait(ctx, b.quiet); err != nil {
		return err
	}
	before, err := d.memory()
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	hold := make([]*socket, 0, b.held)
	defer func() {
		for _, s := range hold {
			s.close()
		}
	}()
	for range b.held {
		s, err := connect(ctx, d.addr, token, operator)
		if err != nil {
			return err
		}
		s.in, s.out = nil, nil
		hold = append(hold, s)
		// What comes is read, so that the daemon keeps nothing for a slow client.
		wg.Go(func() {
			for {
				if _, err := s.read(); err != nil {
					return
				}
				s.in = nil
			}
		})
	}
	if err := wait(ctx, b.quiet); err != nil {
		return err
	}
	after, err := d.memory()
	if err != nil {
		return err
	}
	per := float64(b.held) * 1e3
	b.rep.set("memory/client/rss", (after.rss-before.rss)/per)
	b.rep.set("memory/client/private", (after.private-before.private)/per)
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
