package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func (b *bench) sizes(context.Context) error {
	for id, path := range map[string]string{"size/hanzod": b.prog.hanzod, "size/hanzoctl": b.prog.hanzoctl} {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		b.rep.set(id, float64(info.Size())/1e6)
	}
	return nil
}

// coldStarts is how often a daemon is started on a fresh directory.
const coldStarts = 10

func (b *bench) starts(ctx context.Context) error {
	i := 0
	took, err := once(ctx, coldStarts, func() (time.Duration, error) {
		i++
		d, err := startDaemon(ctx, b.prog.hanzod, filepath.Join(b.dir, "start"+strconv.Itoa(i)))
		if err != nil {
			return 0, err
		}
		_, err = d.stop()
		return d.ready, err
	})
	if err != nil {
		return err
	}
	b.rep.times("start/ready/p50", took)
	longest := took[0]
	for _, t := range took {
		longest = max(longest, t)
	}
	b.rep.times("start/ready/max", []time.Duration{longest})
	for range 3 {
		sum, err := b.initTime(ctx)
		if err != nil {
			return err
		}
		b.rep.set("start/init", sum)
	}
	return nil
}

// initTime sums what the packages of the daemon take to initialise, in milliseconds.
func (b *bench) initTime(ctx context.Context) (float64, error) {
	c := exec.CommandContext(ctx, b.prog.hanzod, "version")
	c.Env = append(cleanEnv(), "GODEBUG=inittrace=1")
	var said bytes.Buffer
	c.Stderr = &said
	if err := c.Run(); err != nil {
		return 0, err
	}
	var sum float64
	for sc := bufio.NewScanner(&said); sc.Scan(); {
		// init internal/bytealg @0.008 ms, 0 ms clock, 0 bytes, 0 allocs
		_, rest, ok := strings.Cut(sc.Text(), " ms, ")
		took, _, ok2 := strings.Cut(rest, " ms clock")
		if !ok || !ok2 {
			continue
		}
		v, err := strconv.ParseFloat(took, 64)
		if err != nil {
			return 0, fmt.Errorf("read %q: %w", sc.Text(), err)
		}
		sum += v
	}
	return sum, nil
}

// stops measures SIGTERM to exit, idle and with 100 clients.
func (b *bench) stops(ctx context.Context) error {
	for _, x := range []struct {
		id      string
		clients int
	}{{"stop/idle", 0}, {"stop/clients100", 100}} {
		for i := range 3 {
			took, err := b.stopWith(ctx, fmt.Sprintf("stop%d-%d", x.clients, i), x.clients)
			if err != nil {
				return err
			}
			b.rep.times(x.id, []time.Duration{took})
		}
	}
	return nil
}

func (b *bench) stopWith(ctx context.Context, dir string, clients int) (time.Duration, error) {
	d, err := startDaemon(ctx, b.prog.hanzod, filepath.Join(b.dir, dir))
	if err != nil {
		return 0, err
	}
	for range clients {
		s, err := connect(ctx, d.addr, token, operator)
		if err != nil {
			d.kill()
			return 0, err
		}
		defer s.close()
		go func() {
			// A client that reads, and answers the close as a library does.
			for {
				if _, err := s.read(); err != nil {
					_ = s.frame(8, []byte{0x03, 0xe8}) // the connection may be gone
					s.close()
					return
				}
			}
		}()
	}
	return d.stop()
}

// ctl measures the command line from exec to exit.
func (b *bench) ctl(ctx context.Context) error {
	d, err := b.loaded(ctx)
	if err != nil {
		return err
	}
	for _, x := range []struct {
		id, rss string
		args    []string
	}{
		{"ctl/health/p50", "ctl/health/rss", []string{"--state-dir", d.dir, "health"}}, {"ctl/help/p50", "", []string{"--help"}},
	} {
		took, err := once(ctx, b.runs, func() (time.Duration, error) {
			return run(ctx, b.prog.hanzoctl, x.args...)
		})
		if err != nil {
			return err
		}
		b.rep.times(x.id, took)
		if x.rss == "" {
			continue
		}
		most := 0.0
		for range 10 {
			rss, err := b.prog.peakOf(ctx, b.prog.hanzoctl, x.args...)
			if err != nil {
				return err
			}
			most = max(most, rss)
		}
		if most > 0 {
			b.rep.set(x.rss, most/1e6)
		}
	}
	return nil
}
