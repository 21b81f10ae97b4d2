package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"
)

const (
	// audience is how many clients an event goes to (P13), and eventBytes how large it is.
	audience   = 1000
	eventBytes = 1 << 10
	// fanRounds is how often one goes out; the daemon sends health once a second at most.
	fanRounds = 7
	fanGap    = 1100 * time.Millisecond
	// stormClients connect at the same time (P16), and crowdClients and crowdNodes are connected and
	// idle (P15).
	stormClients = 1000
	crowdClients = 10_000
	crowdNodes   = 100
	// crowdTime is how long health is asked for beside them.
	crowdTime = 3 * time.Second
)

// fan sends a message of a size to everybody who is connected, when the first one who has connected
// asks for it: what nothing can beat. It serves until ctx ends.
func fan(ctx context.Context, said func(addr string)) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	said(l.Addr().String())
	first, err := l.Accept()
	if err != nil {
		return nil // it was told to stop
	}
	defer first.Close()
	var conns []net.Conn
	for range audience {
		c, err := l.Accept()
		if err != nil {
			return nil // as above
		}
		defer c.Close()
		conns = append(conns, c)
	}
	share := (len(conns) + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0)
	for {
		var size [8]byte
		if _, err := io.ReadFull(first, size[:]); err != nil {
			return nil // the other side is done
		}
		message := make([]byte, binary.BigEndian.Uint64(size[:]))
		var wg sync.WaitGroup
		for at := 0; at < len(conns); at += share {
			wg.Go(func() {
				for _, c := range conns[at:min(len(conns), at+share)] {
					_, _ = c.Write(message) // the reader notices when it does not come
				}
			})
		}
		wg.Wait()
	}
}

// heard counts who has got a message, and when the last one had it.
type heard struct {
	mu   sync.Mutex
	left int
	last time.Time
	done chan struct{}
}

func (h *heard) expect(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left, h.done = n, make(chan struct{})
}

func (h *heard) one() {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.left--; h.left == 0 {
		h.last = now
		close(h.done)
	}
}

// wait returns how long it took since began.
func (h *heard) wait(ctx context.Context, began time.Time) (time.Duration, error) {
	select {
	case <-h.done:
		return h.last.Sub(began), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// fanOut measures an event to many clients until the last one has it, in turns with the same bytes
// over raw TCP from a process that does nothing else.
func (b *bench) fanOut(ctx context.Context) error {
	// Each agent adds to the health event, which is to be of a kilobyte.
	text, err := json.Marshal(map[string]any{
		"gateway": map[string]any{"auth": map[string]any{"mode": "token", "token": token}},
		"agents": map[string]any{
			"defaults": map[string]any{"heartbeat": map[string]any{"every": "0m"}}, "list": []any{map[string]any{"id": "main"}, map[string]any{"id": "second"}},
		},
	})
	if err != nil {
		return err
	}
	config := filepath.Join(b.dir, "fan.json")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return err
	}
	d, err := startDaemon(ctx, b.prog.hanzod, filepath.Join(b.dir, "fan"), "--config", config)
	if err != nil {
		return err
	}
	defer func() { _, _ = d.stop() }() // it was measured
	floor, err := startHelper(ctx, "-fan")
	if err != nil {
		return err
	}
	defer floor.stop()
	var (
		wg        sync.WaitGroup
		raw, sent heard
	)
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx) // whoever still reads ends then
	defer cancel()
	closing := func(c io.Closer) { context.AfterFunc(ctx, func() { _ = c.Close() }) }

	ask, err := net.Dial("tcp", floor.said)
	if err != nil {
		return err
	}
	closing(ask)
	// The daemon's event is health; the other one is made as large.
	size, err := healthSize(ctx, d.addr)
	if err != nil {
		return err
	}
	for range audience {
		c, err := net.Dial("tcp", floor.said)
		if err != nil {
			return err
		}
		closing(c)
		wg.Go(func() {
			buf := make([]byte, size)
			for {
				if _, err := io.ReadFull(c, buf); err != nil {
					return
				}
				raw.one()
			}
		})
	}
	who := operator
	who.Mode = "cli" // not listed: presence is not what is measured
	for range audience {
		s, err := connect(ctx, d.addr, token, who)
		if err != nil {
			return err
		}
		closing(s.nc)
		wg.Go(func() {
			for {
				m, err := s.read()
				if err != nil {
					return
				}
				if bytes.HasPrefix(m, []byte(`{"type":"event","event":"health"`)) {
					sent.one()
				}
			}
		})
	}
	caller, err := connect(ctx, d.addr, token, who)
	if err != nil {
		return err
	}
	closing(caller.nc)
	probe := []byte(`{"type":"req","id":"p","method":"health","params":{"probe":true}}`)
	for i := range fanRounds + 1 {
		if err := wait(ctx, fanGap); err != nil {
			return err
		}
		raw.expect(audience)
		began := time.Now()
		if _, err := ask.Write(binary.BigEndian.AppendUint64(nil, uint64(size))); err != nil {
			return err
		}
		least, err := raw.wait(ctx, began)
		if err != nil {
			return err
		}
		sent.expect(audience)
		began = time.Now()
		if err := caller.call(probe); err != nil {
			return err
		}
		took, err := sent.wait(ctx, began)
		if err != nil {
			return err
		}
		if i == 0 {
			continue // to warm up
		}
		b.rep.times("floor/fanout", []time.Duration{least})
		b.rep.times("fanout/last", []time.Duration{took})
		b.rep.set("fanout/ratio", float64(took)/float64(least))
	}
	return nil
}

// healthSize is how large the health event is on the wire. It fails when that is less than what is to
// be measured.
func healthSize(ctx context.Context, addr string) (int, error) {
	s, err := connect(ctx, addr, token, operator)
	if err != nil {
		return 0, err
	}
	defer s.close()
	for {
		m, err := s.read()
		if err != nil {
			return 0, err
		}
		if bytes.HasPrefix(m, []byte(`{"type":"event","event":"health"`)) {
			if len(m) < eventBytes {
				return 0, fmt.Errorf("the health event has %d bytes; %d are to be measured", len(m), eventBytes)
			}
			return len(m) + 4, nil
		}
	}
}

// storm measures how long it takes until many known devices that connect at the same time are all let
// in, each with a signature over its challenge.
func (b *bench) storm(ctx context.Context) error {
	d, err := startDaemon(ctx, b.prog.hanzod, filepath.Join(b.dir, "storm"))
	if err != nil {
		return err
	}
	defer func() { _, _ = d.stop() }() // it was measured
	devices := make([]who, stormClients)
	for i := range devices {
		devices[i] = paired
		if _, devices[i].Key, err = ed25519.GenerateKey(rand.Reader); err != nil {
			return err
		}
	}
	all := func(limit int) (time.Duration, error) {
		var (
			wg    sync.WaitGroup
			mu    sync.Mutex
			fault error
			open  []*socket
		)
		slots := make(chan struct{}, limit)
		began := time.Now()
		for _, w := range devices {
			wg.Go(func() {
				slots <- struct{}{}
				s, err := connect(ctx, d.addr, token, w)
				<-slots
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					fault = errors.Join(fault, err)
					return
				}
				open = append(open, s)
			})
		}
		wg.Wait()
		took := time.Since(began)
		for _, s := range open {
			s.close()
		}
		return took, fault
	}
	if _, err := all(connectors); err != nil { // they become known
		return err
	}
	for range b.plan.rounds {
		if err := wait(ctx, time.Second); err != nil {
			return err
		}
		took, err := all(stormClients)
		if err != nil {
			return err
		}
		b.rep.times("storm/1000", []time.Duration{took})
	}
	return nil
}

// crowd measures the memory of the daemon with many idle clients and nodes, and health beside them.
func (b *bench) crowd(ctx context.Context) error {
	if b.plan.round < time.Second {
		return nil // it takes too long for a quick run
	}
	d, err := startDaemon(ctx, b.prog.hanzod, filepath.Join(b.dir, "crowd"))
	if err != nil {
		return err
	}
	defer func() { _, _ = d.stop() }() // it was measured
	var (
		wg, readers sync.WaitGroup
		mu          sync.Mutex
		fault       error
		open        []*socket
	)
	defer readers.Wait()
	defer func() {
		for _, s := range open {
			s.close()
		}
	}()
	next := make(chan who, crowdClients+crowdNodes)
	for range crowdClients {
		next <- operator
	}
	for i := range crowdNodes {
		next <- benchNode(fmt.Sprint("crowd-", i))
	}
	close(next)
	for range connectors {
		wg.Go(func() {
			for w := range next {
				s, err := connect(ctx, d.addr, token, w)
				if err != nil {
					mu.Lock()
					fault = err
					mu.Unlock()
					return
				}
				s.in, s.out = nil, nil
				mu.Lock()
				open = append(open, s)
				mu.Unlock()
				readers.Go(func() {
					for {
						if _, err := s.read(); err != nil {
							return
						}
						s.in = nil
					}
				})
			}
		})
	}
	wg.Wait()
	if fault != nil {
		return fault
	}
	if err := wait(ctx, b.quiet); err != nil {
		return err
	}
	m, err := d.memory()
	if err != nil {
		return err
	}
	b.rep.set("crowd/rss", m.rss/1e6)
	s, err := connect(ctx, d.addr, token, operator)
	if err != nil {
		return err
	}
	defer s.close()
	p := plan{rounds: 1, round: crowdTime}
	got, err := p.serial(ctx, caller(s, newNumbered(healthFrame)))
	if err != nil {
		return err
	}
	b.rep.samples("crowd/health", got)
	if m, err = d.memory(); err != nil {
		return err
	}
	b.rep.set("crowd/peak", m.rss/1e6)
	return nil
}
