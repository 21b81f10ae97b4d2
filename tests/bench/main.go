// Command bench measures hanzod against the bars of performance.md and the figures of the original
// in figures.md.
//
// It builds the programs as they are released, runs the daemon as a process of its own on a fresh
// state directory, and loads it from this process; the node that answers invokes
// is in this process, as when the original was measured, and for the rows named apart in a third one.
// Everything is bounded in number and time and ends by itself; only processes that it started are
// signalled. The floor of the machine is measured in the same run.
//
// It exits with 1 when a bar is missed and with 2 when it could not measure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const (
	// fullTime and quickTime bound a run, without the building.
	fullTime  = 8 * time.Minute
	quickTime = time.Minute
	buildTime = 5 * time.Minute
)

// bench is one run.
type bench struct {
	dir  string
	prog programs
	rep  *report
	plan plan
	// runs is how often a process is started, idle how long the idle daemon is left alone, held how
	// many clients are held.
	runs  int
	idle  time.Duration
	held  int
	quiet time.Duration

	main *daemon
	node *helper
}

// group measures the figures whose ids begin with its names.
type group struct {
	names []string
	run   func(*bench, context.Context) error
}

// groups are in the order in which they run: the quiet ones first.
var groups = []group{
	{[]string{"size"}, (*bench).sizes},
	{[]string{"start"}, (*bench).starts},
	{[]string{"stop"}, (*bench).stops},
	{[]string{"ctl"}, (*bench).ctl},
	{[]string{"attach"}, (*bench).attaches},
	{[]string{"files"}, (*bench).copies},
	{[]string{"health"}, (*bench).health},
	{[]string{"list"}, (*bench).list},
	{[]string{"invoke", "apart"}, (*bench).invoke},
	{[]string{"link"}, (*bench).links},
	{[]string{"grpc"}, (*bench).grpc},
	{[]string{"rest"}, (*bench).rest},
	{[]string{"approval"}, (*bench).approvals},
	{[]string{"sessions"}, (*bench).sessions},
	{[]string{"append"}, (*bench).appends},
	{[]string{"large"}, (*bench).large},
	{[]string{"policy"}, (*bench).decisions},
	{[]string{"run"}, (*bench).commands},
	{[]string{"terminal"}, (*bench).terminals},
	{[]string{"connect/plain"}, (*bench).connectPlain},
	{[]string{"connect/device"}, (*bench).connectDevice},
	{[]string{"fanout"}, (*bench).fanOut},
	{[]string{"storm"}, (*bench).storm},
	{[]string{"memory/client"}, (*bench).memoryPerClient},
	{[]string{"crowd"}, (*bench).crowd},
}

func main() {
	var (
		asJSON  = flag.Bool("json", false, "print one JSON document with every round")
		gobench = flag.Bool("gobench", false, "print lines in the format of Go benchmarks, for benchstat")
		quick   = flag.Bool("quick", false, "measure for a minute at most, with short rounds")
		only    = flag.String("only", "", "measure the figures whose `regexp` matches")
		keep    = flag.Bool("keep", false, "keep the directory of the run, and say where it is")
		symbols = flag.Bool("symbols", false, "build with symbols, for a profiler that watches the daemon")
		relay   = flag.String("relay", "", "be an echo, or a relay to this `address` unless it is \"none\"")
		node    = flag.String("node", "", "be the node that answers at once, connected to this `address`")
		linked  = flag.String("linked", "", "be that node over gRPC, at this `socket` or host:port=fingerprint")
		fanning = flag.Bool("fan", false, "be who sends a message to many over raw TCP")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *node != "" {
		if err := answerInvokes(ctx, *node, token, nodeID, func() { fmt.Println(nodeUp) }); err != nil {
			fmt.Fprintln(os.Stderr, "bench node:", err)
			os.Exit(2)
		}
		return
	}
	if *linked != "" {
		if err := answerLinked(ctx, *linked, func() { fmt.Println(nodeUp) }); err != nil {
			fmt.Fprintln(os.Stderr, "bench node:", err)
			os.Exit(2)
		}
		return
	}
	if *fanning {
		if err := fan(ctx, func(addr string) { fmt.Println(addr) }); err != nil {
			fmt.Fprintln(os.Stderr, "bench fan:", err)
			os.Exit(2)
		}
		return
	}
	if *relay != "" {
		if err := serveRelay(ctx, *relay); err != nil {
			fmt.Fprintln(os.Stderr, "bench relay:", err)
			os.Exit(2)
		}
		return
	}
	pattern, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: -only:", err)
		os.Exit(2)
	}
	b := &bench{
		rep: newReport(pattern), plan: plan{rounds: 5, round: time.Second}, runs: 20,
		idle: time.Minute, held: 2000, quiet: 5 * time.Second,
	}
	limit := fullTime
	if *quick {
		b.plan, b.runs, b.idle, b.quiet, limit = plan{rounds: 3, round: 250 * time.Millisecond}, 7, 10*time.Second, 3*time.Second, quickTime
	}
	began, usage := time.Now(), usageNow()
	err = b.run(ctx, limit, *keep, *symbols)
	if share := usageNow().foreign(usage); share > 0.05 {
		b.rep.Notes = append(b.rep.Notes, fmt.Sprintf(
			"other work took %.0f %% of the processors meanwhile: rates are too low and times too long; measure again on a quiet machine", 100*share))
	}
	switch {
	case *asJSON:
		err = errors.Join(err, b.rep.json(os.Stdout, machine(began)))
	case *gobench:
		err = errors.Join(err, b.rep.gobench(os.Stdout))
	default:
		fmt.Println(describe(machine(began)))
		err = errors.Join(err, b.rep.table(os.Stdout))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if missed := b.rep.missed(); len(missed) > 0 {
		fmt.Fprintf(os.Stderr, "bench: below the bar: %s\n", strings.Join(missed, ", "))
		os.Exit(1)
	}
}

// run measures every group that was asked for. What was measured before a failure stands.
func (b *bench) run(ctx context.Context, limit time.Duration, keep, symbols bool) (err error) {
	if runtime.GOOS == "windows" {
		return errors.New("the benchmark stops daemons by a signal, which Windows has not; run it on Linux or macOS")
	}
	// Socket paths are short.
	if b.dir, err = os.MkdirTemp("", "hzb"); err != nil {
		return err
	}
	if keep {
		fmt.Fprintln(os.Stderr, "bench: the run is in", b.dir)
	} else {
		defer func() { _ = os.RemoveAll(b.dir) }()
	}
	building, done := context.WithTimeout(ctx, buildTime)
	defer done()
	if b.prog, err = build(building, b.dir, symbols); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	waitIdle, err := b.startIdle(ctx)
	if err != nil {
		return err
	}
	defer b.stopMain()
	err = b.floors(ctx)
	for _, g := range groups {
		for _, name := range g.names {
			if err == nil && b.rep.wants(name) {
				if err = g.run(b, ctx); err != nil {
					err = fmt.Errorf("%s: %w", name, err)
				}
			}
		}
	}
	if err == nil {
		err = b.floors(ctx)
	}
	return errors.Join(err, waitIdle(err == nil))
}

// startIdle starts the daemon that is left alone. What it returns waits for its time, measures and
// stops it.
func (b *bench) startIdle(ctx context.Context) (func(measure bool) error, error) {
	if !b.rep.wants("memory/idle") {
		return func(bool) error { return nil }, nil
	}
	d, err := startDaemon(ctx, b.prog.hanzod, filepath.Join(b.dir, "idle"))
	if err != nil {
		return nil, err
	}
	type result struct {
		m   memory
		err error
	}
	measured := make(chan result, 1)
	timer := time.NewTimer(b.idle)
	abandon := make(chan struct{})
	go func() {
		defer timer.Stop()
		select {
		case <-timer.C:
			m, err := d.memory()
			measured <- result{m, err}
		case <-abandon:
			measured <- result{err: context.Canceled}
		case <-ctx.Done():
			measured <- result{err: ctx.Err()}
		}
	}()
	return func(measure bool) error {
		if !measure {
			close(abandon)
		}
		r := <-measured
		_, err := d.stop()
		if !measure || r.err != nil {
			return errors.Join(r.err, err)
		}
		b.rep.set("memory/idle/rss", r.m.rss/1e6)
		b.rep.set("memory/idle/private", r.m.private/1e6)
		return err
	}, nil
}

// loaded returns the daemon that is under load, with its node, and starts both when they are not
// there.
func (b *bench) loaded(ctx context.Context) (*daemon, error) {
	if b.main != nil {
		return b.main, nil
	}
	var err error
	if b.main, err = startDaemon(ctx, b.prog.hanzod, filepath.Join(b.dir, "main"), "--grpc-port", "0"); err != nil {
		return nil, err
	}
	b.node, err = startNode(ctx, b.main.addr)
	return b.main, err
}

func (b *bench) stopMain() {
	if b.node != nil {
		b.node.stop()
	}
	if _, err := b.main.stop(); err != nil {
		b.rep.Notes = append(b.rep.Notes, "the loaded daemon: "+err.Error())
	}
}

func machine(began time.Time) map[string]any {
	load, _ := os.ReadFile("/proc/loadavg") // other systems have none
	return map[string]any{
		"cpus": runtime.NumCPU(), "os": runtime.GOOS, "arch": runtime.GOARCH, "go": runtime.Version(),
		"at": began.UTC().Format(time.RFC3339), "took": time.Since(began).Round(time.Second).String(),
		"load": strings.TrimSpace(string(load)),
	}
}

func describe(m map[string]any) string {
	return fmt.Sprintf("%s/%s, %d CPUs, %s, %s, took %s, load %s", m["os"], m["arch"], m["cpus"], m["go"], m["at"], m["took"], m["load"])
}

// usage is how much processor time was used, and by this program and those it waited for.
type usage struct{ all, busy, own time.Duration }

// foreign is the share of the processors that others took since an earlier look, 0 when it is not
// known.
func (u usage) foreign(old usage) float64 {
	all := u.all - old.all
	if all <= 0 {
		return 0
	}
	return float64((u.busy-old.busy)-(u.own-old.own)) / float64(all)
}
