//go:build unix

package interop

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	// timeBar is how long a command may take against hanzod, in times of what it takes against the client's
	// own gateway.
	timeBar = 1.05
	// timeRuns is how often each command is given at each side, unless INTEROP_RUNS says otherwise. One that
	// is over the bar is given as often again, up to timeRounds times, before it counts as slow: the median of a few
	// runs of a process that takes a second is itself uncertain by more than the bar allows.
	timeRuns   = 7
	timeRounds = 3
)

// timed are the commands that are timed, each of which can be given any number of times.
var timed = []string{
	"status", "status --json", "status --deep --json", "health --json",
	"gateway status --json", "gateway health", "gateway call health --json", "gateway probe --json", "gateway usage-cost --json",
	"sessions --json", "gateway call sessions.list --json",
	"cron status --json", "cron list --json", "cron add --name timed --every 24h --session main --system-event x --json",
	"cron edit {job} --description again", "cron run {job}", "cron runs --id {job}",
	"logs --limit 20 --json", "config get gateway.port", "config validate --json", "config set agents.defaults.maxConcurrent 3",
	"agents list --json", "models status --json", "skills list --json",
	"system presence --json", "system heartbeat last --json", "system event --text x",
	"devices list --json", "nodes status --json", "nodes list --json", "approvals get --gateway --json",
	"channels status --json", "doctor --non-interactive",
}

// TestCLITime gives each command in turn at hanzod and at the client's own gateway, compares the medians, and
// prints a table. It needs a machine that does nothing else, so INTEROP_TIME asks for it.
func TestCLITime(t *testing.T) {
	if os.Getenv("INTEROP_TIME") == "" {
		t.Skip("measures, on a machine that does nothing else; INTEROP_TIME=1 runs it (-timeout 60m), INTEROP_RUNS=n sets how often")
	}
	runs := timeRuns
	if v := os.Getenv("INTEROP_RUNS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			t.Fatalf("INTEROP_RUNS=%q is no number of runs; give a whole number, 1 or more", v)
		}
		runs = n
	}
	ours, theirs := sides(t)
	for _, s := range []*side{ours, theirs} {
		s.give(t, step{
			line: "cron add --name first --every 24h --session main --system-event x --json",
			keep: map[string][]any{"job": {"id"}},
		})
		s.give(t, step{line: "status --json"}) // its compiled code is kept now
	}
	table := []string{fmt.Sprintf("%-72s %4s %9s %9s %6s", "openclaw …", "runs", "hanzod", "theirs", "ratio")}
	for _, line := range timed {
		t.Run(line, func(t *testing.T) {
			a, b := alternate(t, ours, theirs, line, runs)
			ratio := float64(median(a)) / float64(median(b))
			row := fmt.Sprintf("%-72s %4d %9v %9v %6.3f", line, len(a), median(a).Round(time.Millisecond), median(b).Round(time.Millisecond), ratio)
			t.Log(row)
			table = append(table, row)
			if ratio > timeBar {
				t.Errorf("it takes %.3f times as long against hanzod, at most %.2f is allowed", ratio, timeBar)
			}
		})
	}
	t.Log("\n" + strings.Join(table, "\n"))
}

// alternate gives a command at both sides in turn until the medians are within the bar, for timeRounds at the most,
// and returns how long each took.
func alternate(t *testing.T, ours, theirs *side, line string, runs int) (a, b []time.Duration) {
	t.Helper()
	for range timeRounds {
		for i := range runs {
			// Who is first changes, so that what one leaves for the other does for both.
			first, second, p, q := ours, theirs, &a, &b
			if i%2 == 1 {
				first, second, p, q = theirs, ours, &b, &a
			}
			x, y := first.give(t, step{line: line}), second.give(t, step{line: line})
			if x.code != y.code {
				t.Fatalf("the exit codes differ\n%s\n%s", x, y)
			}
			*p, *q = append(*p, x.took), append(*q, y.took)
		}
		if float64(median(a)) <= timeBar*float64(median(b)) {
			break
		}
	}
	return a, b
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
