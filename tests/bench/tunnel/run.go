package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/client"
)

// figures are what was measured, by way and by name. Rates are in MB/s or 1/s, times in microseconds.
type figures map[string]map[string]float64

func (f figures) set(way, name string, v float64) {
	if f[way] == nil {
		f[way] = map[string]float64{}
	}
	f[way][name] = v
}

// rows are the names of the figures in the order of the table.
var rows = []string{
	"one stream up MB/s", "one stream down MB/s", "eight streams up MB/s", "eight streams down MB/s", "round trip µs", inProcess, "first byte µs",
	"http 64 in flight /s", "http errors", "http one p50 µs", "100 streams MB/s", "beside a stalled MB/s", "least share", "most share",
	"50 ms delay MB/s", "one stream up CPU s/GB", "one stream down CPU s/GB", "eight streams up CPU s/GB", "eight streams down CPU s/GB", "100 streams CPU s/GB", "idle stream daemon B", "idle stream client B",
}

func run(ctx context.Context, o options) error {
	only, err := regexp.Compile(o.only)
	if err != nil {
		return err
	}
	if o.some, err = regexp.Compile(o.figures); err != nil {
		return err
	}
	if o.cache, err = filepath.Abs(o.cache); err != nil {
		return err
	}
	if err := buildPeers(ctx, o.cache); err != nil {
		return err
	}
	program := filepath.Join(o.cache, "hanzod")
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", program, "github.com/hanzoai/hanzod/cmd/hanzod")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("build hanzod: %w\n%s", err, out)
	}
	dir, err := os.MkdirTemp("", "bench-tunnel")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	t, err := start(ctx, "as-target")
	if err != nil {
		return err
	}
	defer t.stop()

	f := figures{}
	var names []string
	var ways []*way
	defer func() {
		for _, w := range slices.Backward(ways) {
			w.stop()
		}
	}()
	do := func(name string, make func() (*way, error)) error {
		if !only.MatchString(name) {
			return nil
		}
		w, err := make()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		w.name = name
		names, ways = append(names, name), append(ways, w)
		fmt.Fprintln(os.Stderr, "measuring", name)
		if err := measure(ctx, o, f, w); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	plain, err := startHanzod(ctx, program, filepath.Join(dir, "plain"), false)
	if err != nil {
		return err
	}
	defer plain.stop()
	encrypted, err := startHanzod(ctx, program, filepath.Join(dir, "encrypted"), true)
	if err != nil {
		return err
	}
	defer encrypted.stop()
	err = errors.Join(
		do("direct", func() (*way, error) { return directWay(t), nil }),
		do("chisel", func() (*way, error) { return chiselWay(ctx, o.cache, t) }),
		do("frp", func() (*way, error) { return frpWay(ctx, o.cache, dir, t, false) }),
		do("frp/tls", func() (*way, error) { return frpWay(ctx, o.cache, dir, t, true) }),
		do("hanzod/ws", func() (*way, error) { return hanzodWay(ctx, o, "hanzod/ws", "ws://"+at(plain.port), plain, t) }),
		do("hanzod/wss", func() (*way, error) {
			return hanzodWay(ctx, o, "hanzod/wss", "wss://"+at(encrypted.port), encrypted, t)
		}),
		do("hanzod/grpc", func() (*way, error) {
			return hanzodWay(ctx, o, "hanzod/grpc", client.SocketPath(plain.dir), plain, t)
		}),
		do(delayed, func() (*way, error) {
			r, err := start(ctx, "as-relay", at(encrypted.port))
			if err != nil {
				return nil, err
			}
			w, err := hanzodWay(ctx, o, delayed, "wss://"+at(r.Echo), encrypted, t)
			if err != nil {
				r.stop()
				return nil, err
			}
			end := w.stop
			w.stop = func() { end(); r.stop() }
			return w, nil
		}),
	)
	if o.some.MatchString("streams") {
		err = errors.Join(err, streams(f, ways, o.seconds))
	}
	if o.some.MatchString("latency") {
		err = errors.Join(err, latencies(ctx, f, ways, o.seconds/turns))
	}
	table(names, f)
	if o.figures != "" {
		return err
	}
	return errors.Join(err, bars(f))
}

// streamTurns and turns are how often each way has its turn with streams and with latencies. A machine's mood
// changes within a run: all ways are measured one after the other, several times, and the median counts. Round trips
// of one connection differ by a tenth, and those of two by half, so that many connections are asked for a few each.
const (
	streamTurns = 3
	turns       = 25
)

// streams takes how much one and eight streams move.
func streams(f figures, ways []*way, d time.Duration) error {
	fmt.Fprintln(os.Stderr, "measuring streams in turn")
	const cost = "CPU s/GB"
	all := map[string]map[string][]float64{}
	for range streamTurns {
		for _, w := range ways {
			if w.name == delayed {
				continue
			}
			if all[w.name] == nil {
				all[w.name] = map[string][]float64{}
			}
			for _, x := range []struct {
				name string
				n    int
				move func(*way, int, time.Duration) (float64, []float64, error)
			}{
				{"one stream up", 1, upload}, {"one stream down", 1, download}, {"eight streams up", 8, upload}, {"eight streams down", 8, download},
			} {
				before, began := w.spent(), time.Now()
				v, _, err := x.move(w, x.n, d)
				if err != nil {
					return fmt.Errorf("%s: %w", w.name, err)
				}
				all[w.name][x.name+" MB/s"] = append(all[w.name][x.name+" MB/s"], v/1e6)
				if used := w.spent() - before; used > 0 {
					all[w.name][x.name+" "+cost] = append(all[w.name][x.name+" "+cost], used.Seconds()/(v*time.Since(began).Seconds()/1e9))
				}
			}
		}
	}
	for name, rows := range all {
		for row, v := range rows {
			f.set(name, row, median(v))
		}
	}
	return nil
}

// latencies takes round trips, first bytes and single requests, which are made for d each time.
func latencies(ctx context.Context, f figures, ways []*way, d time.Duration) error {
	fmt.Fprintln(os.Stderr, "measuring latencies in turn")
	trips, firsts, singles := map[string][]time.Duration{}, map[string][]time.Duration{}, map[string][]time.Duration{}
	port, err := listen(echo)
	if err != nil {
		return err
	}
	floor := &way{ports: ports{Echo: port}}
	var floors []time.Duration
	for range turns {
		took, err := roundTrip(floor)
		if err != nil {
			return err
		}
		floors = append(floors, took)
		for _, w := range ways {
			if w.name == delayed {
				continue
			}
			trip, err := roundTrip(w)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			first, err := firstByte(w)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			_, _, single, err := requests(ctx, w, 1, d)
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			trips[w.name], firsts[w.name], singles[w.name] = append(trips[w.name], trip), append(firsts[w.name], first), append(singles[w.name], single)
		}
	}
	f.set("direct", inProcess, micros(median(floors)))
	for name := range trips {
		f.set(name, "round trip µs", micros(median(trips[name])))
		f.set(name, "first byte µs", micros(median(firsts[name])))
		f.set(name, "http one p50 µs", micros(median(singles[name])))
	}
	return nil
}

// The bars in microseconds and in requests a second were written for a machine on which a round trip on loopback, within a process, takes
// referenceTrip; on a slower one the ratio to that of the same run counts (performance.md).
const (
	inProcess     = "trip in a process µs"
	referenceTrip = 8.4
)

// delayed is the way whose carrier has 50 ms.
const delayed = "hanzod/delay"

// measure takes the other figures of a way.
func measure(ctx context.Context, o options, f figures, w *way) error {
	const mega = 1e6
	set := func(name string, v float64) { f.set(w.name, name, v) }
	if w.name == delayed {
		if !o.some.MatchString("delay") {
			return nil
		}
		v, _, err := download(w, 1, 2*o.seconds)
		set("50 ms delay MB/s", v/mega)
		return err
	}
	if o.some.MatchString("http") {
		rate, failed, _, err := requests(ctx, w, 64, o.seconds)
		if err != nil {
			return err
		}
		set("http 64 in flight /s", rate)
		set("http errors", float64(failed))
	}
	if !strings.HasPrefix(w.name, "hanzod") {
		return nil
	}
	if o.some.MatchString("fairness") {
		before, began := w.spent(), time.Now()
		alone, beside, least, most, err := fairness(w, o.seconds)
		if err != nil {
			return err
		}
		set("100 streams CPU s/GB", (w.spent()-before).Seconds()/(beside*time.Since(began).Seconds()/1e9))
		set("100 streams MB/s", alone/mega)
		set("beside a stalled MB/s", beside/mega)
		set("least share", least)
		set("most share", most)
	}
	if o.some.MatchString("idle") {
		daemon, far, err := idle(w, o.idle)
		if err != nil {
			return err
		}
		set("idle stream daemon B", float64(daemon))
		set("idle stream client B", float64(far))
	}
	return nil
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }

func table(names []string, f figures) {
	fmt.Printf("%-26s", "")
	for _, n := range names {
		fmt.Printf("%14s", n)
	}
	fmt.Println()
	for _, row := range rows {
		fmt.Printf("%-26s", row)
		for _, n := range names {
			if v, ok := f[n][row]; ok {
				fmt.Printf("%14.4g", v)
			} else {
				fmt.Printf("%14s", "")
			}
		}
		fmt.Println()
	}
}

// bars compares with what the figures must reach, and prints each.
func bars(f figures) error {
	missed := 0
	bar := func(what string, have, want float64, atLeast bool) {
		ok := have >= want == atLeast || have == want
		verdict := "ok"
		if !ok {
			verdict = "MISSED"
			missed++
		}
		sign := "≤"
		if atLeast {
			sign = "≥"
		}
		fmt.Printf("%-58s %10.4g %s %-10.4g %s\n", what, have, sign, want, verdict)
	}
	slow := max(1, f["direct"][inProcess]/referenceTrip)
	fmt.Printf("\na round trip within a process takes %.3g µs here, and %.3g µs where the bars in µs and requests a second come from: %.2f times as long, and so are those\n", f["direct"][inProcess], referenceTrip, slow)
	better := func(row string, of ...string) (best float64, ok bool) {
		for _, n := range of {
			if v, there := f[n][row]; there {
				best, ok = max(best, v), true
			}
		}
		return best, ok
	}
	fmt.Println()
	for _, pair := range [][2]string{{"hanzod/ws", "frp"}, {"hanzod/wss", "frp/tls"}} {
		own, there := f[pair[0]]
		if !there {
			continue
		}
		// The more a way is asked for, the less the direction matters: the mean of both counts.
		both := func(m map[string]float64, row string) float64 {
			return (m[row+" up MB/s"] + m[row+" down MB/s"]) / 2
		}
		if _, ok := f[pair[1]]; ok {
			one := max(both(f[pair[1]], "one stream"), both(f["chisel"], "one stream"))
			bar(pair[0]+" one stream, 1.5 × the better of "+pair[1]+" and chisel", both(own, "one stream"), 1.5*one, true)
			eight := max(both(f[pair[1]], "eight streams"), both(f["chisel"], "eight streams"))
			bar(pair[0]+" eight streams, the better", both(own, "eight streams"), eight, true)
			if rtt := f[pair[1]]["round trip µs"]; rtt > 0 {
				if c := f["chisel"]["round trip µs"]; c > 0 {
					rtt = min(rtt, c)
				}
				bar(pair[0]+" round trip of a byte µs, the better", own["round trip µs"], rtt, false)
			}
			if v, ok := better("http 64 in flight /s", pair[1]); ok {
				bar(pair[0]+" http requests, 1.2 × "+pair[1], own["http 64 in flight /s"], 1.2*v, true)
			}
		}
		bar(pair[0]+" http errors (P21)", own["http errors"], 0, false)
		bar(pair[0]+" http requests a second (P21)", own["http 64 in flight /s"], 10_000/slow, true)
		bar(pair[0]+" 100 streams: least share of the mean", own["least share"], 0.8, true)
		bar(pair[0]+" 100 streams: most share of the mean", own["most share"], 1.2, false)
		bar(pair[0]+" beside a stalled stream, of without", own["beside a stalled MB/s"]/own["100 streams MB/s"], 0.8, true)
		bar(pair[0]+" memory of an idle stream, daemon, bytes", own["idle stream daemon B"], 20<<10, false)
		bar(pair[0]+" memory of an idle stream, client, bytes", own["idle stream client B"], 20<<10, false)
		if d, ok := f["direct"]["http one p50 µs"]; ok {
			bar(pair[0]+" added to a small request, p50 µs (P20)", own["http one p50 µs"]-d, 200*slow, false)
			bar(pair[0]+" first byte on a new stream µs (P20)", own["first byte µs"], 500*slow, false)
		}
	}
	if own, ok := f["hanzod/wss"]; ok {
		bar("hanzod/wss one stream encrypted MB/s (P18)", max(own["one stream up MB/s"], own["one stream down MB/s"]), 300, true)
	}
	if own, ok := f["hanzod/delay"]; ok {
		bar("hanzod one stream with 50 ms, encrypted MB/s (P19)", own["50 ms delay MB/s"], 50, true)
	}
	if missed > 0 {
		return fmt.Errorf("%d bars are missed", missed)
	}
	return nil
}
