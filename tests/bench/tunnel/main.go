// Command tunnel measures tunnels side by side in one run: direct loopback, chisel, frp with and without TLS, and
// hanzod over ws, wss and gRPC. Visitors, daemon, client and target are processes of their own. It prints each
// figure with its bar and fails when one is missed.
//
// The others are built by the Go toolchain in a module of their own below .cache/bench-tunnel, once.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"time"
)

// options are the flags.
type options struct {
	cache, only string
	figures     string
	some        *regexp.Regexp // of figures
	seconds     time.Duration
	idle        int
	profile     string
}

func main() {
	if len(os.Args) > 1 {
		if role := roles[os.Args[1]]; role != nil {
			// The parent's end of standard input is what ends it.
			signal.Ignore(os.Interrupt)
			if err := role(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, os.Args[1]+":", err)
				os.Exit(1)
			}
			return
		}
	}
	var o options
	flag.StringVar(&o.cache, "cache", filepath.Join(".cache", "bench-tunnel"), "where the other programs are built")
	flag.StringVar(&o.only, "only", "", "regular expression of the ways to measure; the bars need direct, chisel and frp too")
	flag.StringVar(&o.figures, "figures", "", "regular expression of what to measure: streams, http, fairness, idle, delay, latency; with it no bars are held up")
	flag.DurationVar(&o.seconds, "for", 2*time.Second, "how long each figure is measured")
	flag.IntVar(&o.idle, "idle", 10_000, "idle streams on one carrier")
	flag.StringVar(&o.profile, "profile", "", "directory for CPU profiles of the client's process")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-tunnel:", err)
		os.Exit(1)
	}
}
