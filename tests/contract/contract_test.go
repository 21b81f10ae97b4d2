package contract

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// status of a recording after the replay.
type status string

const (
	green    status = "green"     // every step as recorded
	deviated status = "deviation" // every step as recorded or as deviations.yaml says
	red      status = "red"
	needs    status = "needs" // wants a companion that is not run here
)

type result struct {
	*scenario
	status status
	err    error
}

// all holds the results of the one replay of a test run; TestContract and TestParity both read them.
var all struct {
	once    sync.Once
	results []result
}

// results replays everything once.
func results(t testing.TB) []result {
	t.Helper()
	bin := buildDaemon(t)
	list := recordings(t)
	if only := os.Getenv("CONTRACT_ONLY"); only != "" {
		re, err := regexp.Compile(only)
		if err != nil {
			t.Fatalf("CONTRACT_ONLY: %v", err)
		}
		list = slices.DeleteFunc(list, func(s *scenario) bool { return !re.MatchString(s.title()) })
	}
	all.once.Do(func() { all.results = run(bin, list) })
	return all.results
}

// untimely tells whether a recording cannot come out as it did at this time of day. state/cron lists a job that is due
// at nine on weekdays in Berlin behind one that is due in an hour.
func untimely(name string, now time.Time) bool {
	if name != "state/cron" {
		return false
	}
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		return false
	}
	for _, at := range []time.Time{now.In(berlin), now.In(berlin).Add(time.Minute)} { // the replay takes a moment
		if at.Weekday() >= time.Monday && at.Weekday() <= time.Friday && at.Hour() == 8 {
			return true
		}
	}
	return false
}

// run replays scenarios, at most maxParallel daemons at a time. Those that share a daemon run one
// after the other: any order is promised for them, at the same time is not.
func run(bin string, list []*scenario) []result {
	var out []result
	units := map[string][]*scenario{}
	for _, s := range list {
		key := s.title()
		switch {
		case s.needs == "" && untimely(s.name, time.Now()):
			s.needs = "another hour: between eight and nine on weekdays in Berlin its jobs are due in another order"
			fallthrough
		case s.needs != "":
			out = append(out, result{scenario: s, status: needs})
			continue
		case s.shared:
			key = "shared " + s.daemonKey()
		}
		units[key] = append(units[key], s)
	}
	order := make([][]*scenario, 0, len(units))
	for _, u := range units {
		order = append(order, u)
	}
	slices.SortFunc(order, func(a, b []*scenario) int { // the longest first
		return cmp.Or(weight(b)-weight(a), strings.Compare(a[0].title(), b[0].title()))
	})
	work := make(chan []*scenario)
	done := make(chan []result)
	var wg sync.WaitGroup
	for range maxParallel {
		wg.Go(func() {
			for u := range work {
				done <- runUnit(bin, u)
			}
		})
	}
	go func() {
		for _, u := range order {
			work <- u
		}
		close(work)
		wg.Wait()
		close(done)
	}()
	for rs := range done {
		out = append(out, rs...)
	}
	slices.SortFunc(out, func(a, b result) int { return strings.Compare(a.title(), b.title()) })
	return out
}

// weight guesses how long a unit takes: a tick takes as long as a hundred other scenarios.
func weight(unit []*scenario) int {
	n := len(unit)
	for _, s := range unit {
		for _, step := range s.steps {
			if f := step.obj("frame"); f != nil && f.str("event") == "tick" {
				n += 100
			}
		}
	}
	return n
}

// runUnit replays the scenarios of one daemon. A daemon that does not start or end cleanly fails all.
func runUnit(bin string, unit []*scenario) []result {
	out := make([]result, len(unit))
	d, err := startDaemon(bin, unit[0].config, unit[0].env)
	for i, s := range unit {
		out[i] = result{scenario: s, status: green}
		if s.deviates {
			out[i].status = deviated
		}
		if err != nil {
			out[i].status, out[i].err = red, err
			continue
		}
		if e := replay(s, newWorld(d.home, d.port, d.host)); e != nil {
			out[i].status, out[i].err = red, fmt.Errorf("%w\n--- daemon output\n%s", e, d.log)
		}
	}
	if err != nil {
		return out
	}
	if e := d.stop(); e != nil {
		for i := range out {
			out[i].status, out[i].err = red, joined(out[i].err, e)
		}
	}
	return out
}

func joined(a, b error) error {
	if a == nil {
		return b
	}
	return fmt.Errorf("%w\n%w", a, b)
}

// TestContract replays the recordings. Those listed in fixtures/passed.txt must pass; one that passes
// and is not listed must be added (CONTRACT_UPDATE=1); others are reported only. Recordings of other
// folders (FIXTURES) have no list: all must pass.
func TestContract(t *testing.T) {
	rs := results(t)
	listFile := filepath.Join(moduleRoot(t), "fixtures", "passed.txt")
	listed := readList(t, listFile)
	var grown []string
	for _, r := range rs {
		t.Run(r.title(), func(t *testing.T) {
			switch passed := r.status == green || r.status == deviated; {
			case r.status == needs:
				t.Logf("not run: needs %s", r.needs)
			case r.source != "" && !passed:
				t.Error(r.err)
			case r.source != "":
			case passed && !slices.Contains(listed, r.name):
				grown = append(grown, r.name)
				if os.Getenv("CONTRACT_UPDATE") != "1" {
					t.Error("passes, but fixtures/passed.txt does not list it: run with CONTRACT_UPDATE=1 and commit the list")
				}
			case !passed && slices.Contains(listed, r.name):
				t.Errorf("passed before and does not now\n%v", r.err)
			case !passed:
				t.Logf("red\n%v", r.err)
			}
		})
	}
	if os.Getenv("CONTRACT_UPDATE") == "1" && len(grown) > 0 {
		listed = append(listed, grown...)
		slices.Sort(listed)
		if err := os.WriteFile(listFile, []byte(strings.Join(listed, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Logf("added to fixtures/passed.txt: %s", strings.Join(grown, " "))
	}
	text := table(rs)
	t.Log("\n" + text)
	if os.Getenv("CONTRACT_TABLE") == "1" {
		fmt.Print("\n", text)
	}
}

// TestPassedList keeps fixtures/passed.txt honest: sorted, each once, each a recording that exists.
func TestPassedList(t *testing.T) {
	root := moduleRoot(t)
	listed := readList(t, filepath.Join(root, "fixtures", "passed.txt"))
	if !slices.IsSorted(listed) || len(slices.Compact(slices.Clone(listed))) != len(listed) {
		t.Error("fixtures/passed.txt is to be sorted, each name once")
	}
	own, err := loadFolder(filepath.Join(root, "fixtures", "gateway"), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range listed {
		if !slices.ContainsFunc(own, func(s *scenario) bool { return s.name == name }) {
			t.Errorf("fixtures/passed.txt lists %s, which is not in fixtures/gateway", name)
		}
	}
}

func readList(t testing.TB, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(data))
}

// table counts the results by group.
func table(rs []result) string {
	kinds := []status{green, deviated, red, needs}
	count := map[string]map[status]int{}
	var groups []string
	for _, r := range rs {
		g := r.group
		if r.source != "" {
			g = r.source + ":" + g
		}
		if count[g] == nil {
			count[g] = map[status]int{}
			groups = append(groups, g)
		}
		count[g][r.status]++
	}
	slices.Sort(groups)
	var b strings.Builder
	line := func(name string, c map[status]int) {
		n := 0
		for _, k := range kinds {
			n += c[k]
		}
		fmt.Fprintf(&b, "%-24s %6d", name, n)
		for _, k := range kinds {
			fmt.Fprintf(&b, " %10d", c[k])
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "%-24s %6s", "group", "files")
	for _, k := range kinds {
		fmt.Fprintf(&b, " %10s", k)
	}
	b.WriteByte('\n')
	sum := map[status]int{}
	for _, g := range groups {
		line(g, count[g])
		for k, n := range count[g] {
			sum[k] += n
		}
	}
	line("all", sum)
	for _, r := range rs {
		if r.status == red {
			first, _, _ := strings.Cut(r.err.Error(), "\n")
			fmt.Fprintf(&b, "red: %s\n", first)
		}
	}
	return b.String()
}

func TestUntimely(t *testing.T) {
	for text, want := range map[string]bool{
		"2026-11-23T06:58:00Z": false, "2026-11-23T06:59:30Z": true, "2026-11-23T07:30:00Z": true, "2026-11-23T07:59:59Z": true, "2026-11-23T08:00:00Z": false,
		"2026-11-22T07:30:00Z": false, "2026-07-20T06:30:00Z": true, "2026-07-20T07:30:00Z": false,
	} {
		now, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		if got := untimely("state/cron", now); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if untimely("state/other", time.Date(2026, 11, 23, 7, 30, 0, 0, time.UTC)) {
		t.Error("another recording waits too")
	}
}
