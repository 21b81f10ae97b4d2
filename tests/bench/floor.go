package main

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
)

// floors measures what nothing can beat on this machine: it is called at the start and at the end,
// so that the medians stand for the whole run.
func (b *bench) floors(ctx context.Context) error {
	small := plan{rounds: b.plan.rounds, round: b.plan.round / 4}
	for _, x := range []struct{ id, network string }{{"floor/tcp", "tcp"}, {"floor/unix", "unix"}} {
		s, err := b.echo(ctx, small, x.network)
		if err != nil {
			return err
		}
		for _, r := range s {
			b.rep.times(x.id, []time.Duration{r.p50})
		}
	}
	if err := b.processes(ctx, small); err != nil {
		return err
	}
	s, err := b.fsync(ctx, small)
	if err != nil {
		return err
	}
	for _, r := range s {
		b.rep.times("floor/fsync", []time.Duration{r.p50})
	}
	if err := b.commits(ctx, small); err != nil {
		return err
	}
	for id, program := range map[string]string{"floor/exec": "true", "floor/process": b.prog.nothing} {
		took, err := once(ctx, b.runs, func() (time.Duration, error) {
			d, err := run(ctx, program)
			return d, err
		})
		if err != nil {
			return err
		}
		b.rep.times(id, took)
	}
	return nil
}

const echoSize = 64

// echo measures a round trip of 64 bytes.
func (b *bench) echo(ctx context.Context, p plan, network string) ([]sample, error) {
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(b.dir, "echo.sock")
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, echoSize)
		for {
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}()
	defer func() { <-done }()
	defer l.Close()
	return roundTrips(ctx, p, network, l.Addr().String())
}

// processes measures a round trip to another process, and one through a second to a third: what a
// call and an invoke cost at least.
func (b *bench) processes(ctx context.Context, p plan) error {
	to := "none"
	for _, id := range []string{"floor/peer", "floor/relay"} {
		// The echo serves one connection: each figure has one of its own.
		h, err := startHelper(ctx, "-relay", to)
		if err != nil {
			return err
		}
		defer h.stop()
		s, err := roundTrips(ctx, p, "tcp", h.said)
		if err != nil {
			return err
		}
		for _, r := range s {
			b.rep.times(id, []time.Duration{r.p50})
		}
		if h, err = startHelper(ctx, "-relay", "none"); err != nil {
			return err
		}
		defer h.stop()
		to = h.said
	}
	return nil
}

func roundTrips(ctx context.Context, p plan, network, addr string) ([]sample, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	buf := make([]byte, echoSize)
	return p.serial(ctx, func() error {
		if _, err := c.Write(buf); err != nil {
			return err
		}
		_, err := io.ReadFull(c, buf)
		return err
	})
}

// fsync measures 4 KB appended and synced.
func (b *bench) fsync(ctx context.Context, p plan) ([]sample, error) {
	f, err := os.CreateTemp(b.dir, "fsync")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	buf := make([]byte, 4<<10)
	return p.serial(ctx, func() error {
		if _, err := f.WriteAt(buf, 0); err != nil {
			return err
		}
		return f.Sync()
	})
}

// commits measures one put of 300 bytes in a transaction of its own, as the store does it.
func (b *bench) commits(ctx context.Context, p plan) error {
	path := filepath.Join(b.dir, "commit.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true})
	if err != nil {
		return err
	}
	defer os.Remove(path)
	defer db.Close()
	name := []byte("b")
	if err := db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(name)
		return err
	}); err != nil {
		return err
	}
	value := make([]byte, 300)
	if _, err := rand.Read(value); err != nil {
		return err
	}
	var n uint64
	s, err := p.serial(ctx, func() error {
		n++
		return db.Update(func(tx *bbolt.Tx) error {
			return tx.Bucket(name).Put(binary.BigEndian.AppendUint64(nil, n), value)
		})
	})
	if err != nil {
		return err
	}
	for _, r := range s {
		b.rep.times("floor/commit", []time.Duration{r.p50})
	}
	return nil
}
