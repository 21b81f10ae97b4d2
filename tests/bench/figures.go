package main

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// A spec is one figure: what it is compared with. The bars P1 to P27 are those of performance.md
// §4, the original's figures and their ratios those of figures.md; where both speak, the stricter
// one stands. Zero means that there is none.
type spec struct {
	ID     string `json:"id"`
	Unit   string `json:"unit"` // µs, ms, /s, MB, KB, or a unit of its own
	Higher bool   `json:"higherIsBetter,omitempty"`
	// Floor is the id of the floor that the figure is divided by.
	Floor string  `json:"floor,omitempty"`
	Orig  float64 `json:"original,omitempty"`
	Bar   float64 `json:"bar,omitempty"`
	Aim   float64 `json:"aim,omitempty"`
	// Rule names where bar and aim come from.
	Rule string `json:"rule,omitempty"`
	// Best is what a floor was on the machine that the bars were written for.
	Best float64 `json:"best,omitempty"`
}

const (
	us = "µs"
	ms = "ms"
	ps = "/s"
	mb = "MB" // 10^6 bytes
	kb = "KB" // 10^3 bytes
)

var specs = []spec{
	{ID: "floor/tcp", Unit: us, Best: 8.4},
	{ID: "floor/unix", Unit: us, Best: 5.0},
	{ID: "floor/peer", Unit: us},
	{ID: "floor/relay", Unit: us},
	{ID: "floor/fsync", Unit: us, Best: 62},
	{ID: "floor/commit", Unit: us, Best: 177},
	{ID: "floor/exec", Unit: us, Best: 560},
	{ID: "floor/process", Unit: us, Best: 1500},

	{ID: "health/serial/p50", Unit: us, Floor: "floor/peer", Bar: 60, Aim: 30, Rule: "P4"},
	{ID: "health/serial/p99", Unit: us, Floor: "floor/peer", Bar: 300, Aim: 100, Rule: "P4"},
	{ID: "health/inflight32/rate", Unit: ps, Higher: true},
	{ID: "health/inflight32/p50", Unit: us, Floor: "floor/tcp"},
	{ID: "health/inflight32/p99", Unit: us, Floor: "floor/tcp"},
	{ID: "health/inflight32/cpu", Unit: us},
	{ID: "health/clients64/rate", Unit: ps, Higher: true, Bar: 20_000, Aim: 40_000, Rule: "P5"},
	{ID: "health/clients64/p99", Unit: us},

	{ID: "list/serial/p50", Unit: us, Floor: "floor/peer", Orig: 159, Bar: 159. * 2 / 3, Aim: 159. / 2, Rule: "2/3, 1/2"},
	{ID: "list/serial/p99", Unit: us, Floor: "floor/peer", Orig: 1300, Bar: 1300. / 3, Rule: "1/3"},
	{ID: "list/inflight32/rate", Unit: ps, Higher: true, Orig: 5400, Bar: 4 * 5400, Aim: 8 * 5400, Rule: "4x, 8x"},
	{ID: "list/inflight32/p50", Unit: us, Floor: "floor/tcp", Orig: 4900},
	{ID: "list/inflight32/p99", Unit: us, Floor: "floor/tcp", Orig: 18_000},
	{ID: "list/inflight32/cpu", Unit: us},
	{ID: "list/clients32/rate", Unit: ps, Higher: true, Orig: 5400, Bar: 4 * 5400, Aim: 8 * 5400, Rule: "4x, 8x"},

	{ID: "invoke/serial/p50", Unit: us, Floor: "floor/peer", Orig: 155, Bar: 155. * 2 / 3, Aim: 155. / 2, Rule: "P8, 2/3, 1/2"},
	{ID: "invoke/serial/p99", Unit: us, Floor: "floor/peer", Orig: 900, Bar: 300, Rule: "P8, 1/3"},
	{ID: "invoke/inflight32/rate", Unit: ps, Higher: true, Orig: 6200, Bar: 4 * 6200, Aim: 8 * 6200, Rule: "4x, 8x"},
	{ID: "invoke/inflight32/p50", Unit: us, Floor: "floor/tcp", Orig: 3800},
	{ID: "invoke/inflight32/p99", Unit: us, Floor: "floor/tcp", Orig: 23_000},
	{ID: "invoke/inflight32/cpu", Unit: us},
	{ID: "invoke/clients32/rate", Unit: ps, Higher: true, Orig: 6200, Bar: 4 * 6200, Aim: 8 * 6200, Rule: "4x, 8x"},

	{ID: "connect/plain/rate", Unit: ps, Higher: true, Orig: 133, Bar: 20 * 133, Rule: "20x"},
	{ID: "connect/plain/p50", Unit: ms, Floor: "floor/tcp", Orig: 53},
	{ID: "connect/plain/p99", Unit: ms, Floor: "floor/tcp", Orig: 191},
	{ID: "connect/plain/cpu", Unit: us},
	{ID: "connect/device/rate", Unit: ps, Higher: true, Orig: 2, Bar: 500 * 2, Rule: "500x"},
	{ID: "connect/device/p50", Unit: ms, Floor: "floor/commit", Orig: 2600},
	{ID: "connect/device/p99", Unit: ms, Floor: "floor/commit", Orig: 6800},
	{ID: "connect/device/cpu", Unit: us},

	{ID: "grpc/health/p50", Unit: us, Floor: "floor/unix", Bar: 80, Aim: 50, Rule: "P6"},
	{ID: "grpc/health/p99", Unit: us, Floor: "floor/unix"},
	{ID: "grpc/health64/rate", Unit: ps, Higher: true, Bar: 18_000, Aim: 28_000, Rule: "P6"},
	{ID: "grpc/health64/cpu", Unit: us},
	{ID: "grpc/list/p50", Unit: us, Floor: "floor/unix"},
	{ID: "grpc/list32/rate", Unit: ps, Higher: true},
	{ID: "apart/serial/p50", Unit: us, Floor: "floor/relay"},
	{ID: "apart/serial/p99", Unit: us, Floor: "floor/relay"},
	{ID: "apart/inflight32/rate", Unit: ps, Higher: true},
	{ID: "apart/inflight32/p50", Unit: us, Floor: "floor/relay"},
	{ID: "apart/inflight32/p99", Unit: us, Floor: "floor/relay"},
	{ID: "apart/inflight32/cpu", Unit: us},
	{ID: "apart/clients32/rate", Unit: ps, Higher: true},
	// As apart, with the node linked by gRPC, at the socket and over TLS.
	{ID: "link/socket/serial/p50", Unit: us, Floor: "floor/relay"},
	{ID: "link/socket/serial/p99", Unit: us, Floor: "floor/relay"},
	{ID: "link/socket/inflight32/rate", Unit: ps, Higher: true},
	{ID: "link/socket/inflight32/p50", Unit: us, Floor: "floor/relay"},
	{ID: "link/socket/inflight32/p99", Unit: us, Floor: "floor/relay"},
	{ID: "link/socket/inflight32/cpu", Unit: us},
	{ID: "link/socket/clients32/rate", Unit: ps, Higher: true},
	{ID: "link/tls/serial/p50", Unit: us, Floor: "floor/relay"},
	{ID: "link/tls/serial/p99", Unit: us, Floor: "floor/relay"},
	{ID: "link/tls/inflight32/rate", Unit: ps, Higher: true},
	{ID: "link/tls/inflight32/p50", Unit: us, Floor: "floor/relay"},
	{ID: "link/tls/inflight32/p99", Unit: us, Floor: "floor/relay"},
	{ID: "link/tls/inflight32/cpu", Unit: us},
	{ID: "link/tls/clients32/rate", Unit: ps, Higher: true},
	{ID: "grpc/invoke/p50", Unit: us, Floor: "floor/relay"},
	{ID: "grpc/invoke32/rate", Unit: ps, Higher: true},
	{ID: "grpc/invoke32/cpu", Unit: us},

	{ID: "rest/health/p50", Unit: us, Floor: "floor/peer", Bar: 150, Aim: 75, Rule: "P7"},
	{ID: "rest/health/p99", Unit: us, Floor: "floor/peer"},
	{ID: "rest/health32/rate", Unit: ps, Higher: true},
	{ID: "rest/health32/cpu", Unit: us},
	{ID: "rest/list/p50", Unit: us, Floor: "floor/peer"},
	{ID: "rest/list32/rate", Unit: ps, Higher: true},
	{ID: "rest/invoke/p50", Unit: us, Floor: "floor/relay"},
	{ID: "rest/invoke32/rate", Unit: ps, Higher: true},
	{ID: "rest/invoke32/cpu", Unit: us},

	{ID: "approval/event/p50", Unit: us, Floor: "floor/commit"},
	{ID: "approval/event/commits", Unit: "commits", Bar: 3, Aim: 1.5, Rule: "P10"},
	{ID: "approval/burst64/rate", Unit: ps, Higher: true, Floor: "floor/commit", Bar: 5_000, Aim: 20_000, Rule: "P11"},

	// 1,000 of 10,000 sessions, and how soon a daemon with so many is ready.
	{ID: "sessions/list1000/p50", Unit: ms},
	{ID: "sessions/list1000/p99", Unit: ms, Bar: 30, Aim: 5, Rule: "P23"},
	{ID: "sessions/list1000/cpu", Unit: us},
	{ID: "sessions/ready10k/p50", Unit: ms, Floor: "floor/process", Bar: 1000, Aim: 300, Rule: "P2"},
	{ID: "sessions/private10k", Unit: mb},
	// Lines of transcripts that are on disk.
	{ID: "append/producers64/rate", Unit: ps, Higher: true, Floor: "floor/fsync", Bar: 50_000, Aim: 200_000, Rule: "P12"},
	{ID: "append/producers64/p50", Unit: us, Floor: "floor/fsync"},
	{ID: "append/producers64/p99", Unit: us, Floor: "floor/fsync"},

	// What a decision costs: a line read and its programs found, the same for 64 KiB of hostile text, and
	// the rules.
	{ID: "policy/line/p50", Unit: us, Bar: 50, Rule: "typical line"},
	{ID: "policy/line/p99", Unit: us},
	{ID: "policy/hostile64k/p50", Unit: ms, Bar: 20, Rule: "64 KiB"},
	{ID: "policy/hostile64k/p99", Unit: ms},
	{ID: "policy/decide100/p50", Unit: us},
	{ID: "policy/decide100/p99", Unit: us, Bar: 200, Aim: 60, Rule: "P17"},

	{ID: "floor/fanout", Unit: ms, Best: 11.1e3},
	{ID: "fanout/last", Unit: ms},
	{ID: "run/listed/p50", Unit: us, Floor: "floor/exec", Bar: 2500, Aim: 1200, Rule: "P9"},

	// A key and its echo, from a viewer through gateway and node to a terminal and back; and what a flood moves to a
	// viewer alone and beside one that reads nothing, in MB (10^6 bytes) a second, with what the daemon held then.
	{ID: "floor/pty", Unit: us, Best: 5.4},
	{ID: "floor/key", Unit: us},
	{ID: "terminal/key/p50", Unit: us, Floor: "floor/key", Bar: 300, Aim: 120, Rule: "P22"},
	{ID: "terminal/key/p99", Unit: us, Floor: "floor/key"},
	{ID: "terminal/flood/rate", Unit: "MB/s", Higher: true},
	{ID: "terminal/flood/beside", Unit: "MB/s", Higher: true},
	{ID: "terminal/flood/ratio", Unit: "x", Higher: true, Bar: 0.7, Rule: "P22"},
	{ID: "terminal/flood/private", Unit: mb, Bar: 40, Rule: "P22"},

	{ID: "fanout/ratio", Unit: "x", Bar: 1.8, Aim: 1.2, Rule: "P13"},
	{ID: "storm/1000", Unit: ms, Floor: "floor/tcp", Bar: 3000, Aim: 1000, Rule: "P16"},
	{ID: "crowd/rss", Unit: mb, Bar: 400, Aim: 250, Rule: "P15"},
	{ID: "crowd/peak", Unit: mb, Bar: 400, Rule: "P15"},
	{ID: "crowd/health/p50", Unit: ms},
	{ID: "crowd/health/p99", Unit: ms, Floor: "floor/peer", Bar: 5, Rule: "P15"},

	{ID: "memory/idle/rss", Unit: mb, Orig: 276, Bar: 276. / 7, Aim: 32, Rule: "P1, 1/7"},
	{ID: "memory/idle/private", Unit: mb, Bar: 20, Aim: 12, Rule: "P1"},
	{ID: "memory/client/rss", Unit: kb, Orig: 37, Bar: 40, Aim: 24, Rule: "P14"},
	{ID: "memory/client/private", Unit: kb},

	{ID: "start/ready/p50", Unit: ms, Floor: "floor/process", Orig: 2500, Bar: 2500. / 20, Aim: 60, Rule: "P2, 1/20"},
	{ID: "start/ready/max", Unit: ms, Floor: "floor/process"},
	// With 1,000 agents, 10,000 sessions, 1,000 devices and 1,000 jobs; busy is with every core but one spinning and
	// another client writing.
	{ID: "large/ready/p50", Unit: ms, Floor: "floor/process", Bar: 1000, Aim: 300, Rule: "P2, R3"},
	{ID: "large/rss", Unit: mb},
	{ID: "large/busy/health/p99", Unit: ms, Bar: 50, Aim: 10, Rule: "P24, R4"},
	{ID: "large/busy/list1000/p99", Unit: ms, Bar: 100, Rule: "R4"},
	{ID: "start/init", Unit: ms, Bar: 8, Rule: "trick 7"},
	{ID: "stop/idle", Unit: ms, Bar: 5000, Aim: 1000, Rule: "P25"},
	{ID: "stop/clients100", Unit: ms, Bar: 5000, Aim: 1000, Rule: "P25"},

	{ID: "ctl/health/p50", Unit: ms, Floor: "floor/process", Orig: 2800, Bar: 30, Aim: 12, Rule: "P3"},
	{ID: "ctl/help/p50", Unit: ms, Floor: "floor/process", Bar: 20, Aim: 8, Rule: "P3"},
	{ID: "ctl/health/rss", Unit: mb, Orig: 337, Bar: 25, Aim: 15, Rule: "P3"},

	// From nothing to the first answer: at the socket, and over SSH beyond a bare handshake with the same server.
	{ID: "attach/local/p50", Unit: ms, Floor: "floor/unix", Bar: 20, Rule: "attach"},
	{ID: "attach/ssh/handshake", Unit: ms},
	{ID: "attach/ssh/beyond", Unit: ms, Floor: "floor/process", Bar: 300, Rule: "attach"},
	// What a download through it moves, and one through ssh -L in the same run, in MB (10^6 bytes) a second.
	{ID: "attach/stream/rate", Unit: "MB/s", Higher: true},
	{ID: "attach/stream/openssh", Unit: "MB/s", Higher: true},
	{ID: "attach/stream/ratio", Unit: "x", Higher: true, Bar: 0.8, Rule: "attach"},

	// 1 GiB to and from a node of this machine with "hanzoctl cp", and with scp in the same run, in MB (10^6 bytes)
	// a second.
	{ID: "files/up/rate", Unit: "MB/s", Higher: true},
	{ID: "files/up/scp", Unit: "MB/s", Higher: true},
	{ID: "files/up/ratio", Unit: "x", Higher: true, Bar: 0.6, Rule: "files"},
	{ID: "files/down/rate", Unit: "MB/s", Higher: true},
	{ID: "files/down/scp", Unit: "MB/s", Higher: true},
	{ID: "files/down/ratio", Unit: "x", Higher: true, Bar: 0.6, Rule: "files"},

	{ID: "size/hanzod", Unit: mb, Orig: 69, Bar: 45, Aim: 35, Rule: "P27"},
	{ID: "size/hanzoctl", Unit: mb},
}

// A figure is a spec with what was measured. Value is the median of the rounds.
type figure struct {
	spec
	Value   float64   `json:"value"`
	Rounds  []float64 `json:"rounds"`
	Floored float64   `json:"floorRatio,omitempty"`
	OrigBy  float64   `json:"originalRatio,omitempty"`
	Verdict string    `json:"verdict"`
}

// report gathers figures. It is used by one goroutine.
type report struct {
	only   *regexp.Regexp
	values map[string][]float64
	Notes  []string
}

func newReport(only *regexp.Regexp) *report {
	return &report{only: only, values: map[string][]float64{}}
}

// wants reports whether any figure of a group was asked for. Floors always are.
func (r *report) wants(group string) bool {
	return slices.ContainsFunc(specs, func(s spec) bool {
		return strings.HasPrefix(s.ID, group+"/") && r.only.MatchString(s.ID)
	})
}

// set records the rounds of a figure, in its unit.
func (r *report) set(id string, rounds ...float64) {
	if !slices.ContainsFunc(specs, func(s spec) bool { return s.ID == id }) {
		panic("no figure is called " + id)
	}
	r.values[id] = append(r.values[id], rounds...)
}

// samples records what a load gave: the figures of the name that have a spec.
func (r *report) samples(name string, in []sample) {
	for _, s := range specs {
		rest, ok := strings.CutPrefix(s.ID, name+"/")
		if !ok {
			continue
		}
		for _, x := range in {
			switch rest {
			case "p50":
				r.set(s.ID, inUnit(x.p50, s.Unit))
			case "p99":
				r.set(s.ID, inUnit(x.p99, s.Unit))
			case "rate":
				r.set(s.ID, x.rate)
			}
		}
	}
}

func (r *report) times(id string, in []time.Duration) {
	for _, s := range specs {
		if s.ID != id {
			continue
		}
		for _, d := range in {
			r.set(id, inUnit(d, s.Unit))
		}
	}
}

func inUnit(d time.Duration, unit string) float64 {
	if unit == ms {
		return float64(d) / float64(time.Millisecond)
	}
	return float64(d) / float64(time.Microsecond)
}

func perUnit(unit string) float64 {
	if unit == ms {
		return 1000
	}
	return 1
}

// figures judges what was measured, in the order of the specs.
func (r *report) figures() []figure {
	var out []figure
	for _, s := range specs {
		v, ok := r.values[s.ID]
		floor := strings.HasPrefix(s.ID, "floor/")
		if !ok || !floor && !r.only.MatchString(s.ID) {
			continue
		}
		f := figure{spec: s, Value: median(v), Rounds: v}
		slow := 1.0
		if fl := median(r.values[s.Floor]); fl > 0 {
			if !s.Higher {
				f.Floored = f.Value * perUnit(s.Unit) / fl
			}
			slow = r.slow(s.Floor)
		}
		if s.Orig > 0 {
			f.OrigBy = f.Value / s.Orig
		}
		f.Verdict = f.judge(slow)
		out = append(out, f)
	}
	return out
}

// slow is how much slower a floor is than on the machine that the bars were written for, at least
// 1. A floor without such a figure goes by the round trip.
func (r *report) slow(id string) float64 {
	if best(id) == 0 {
		id = "floor/tcp"
	}
	return max(1, median(r.values[id])/best(id))
}

func best(id string) float64 {
	for _, s := range specs {
		if s.ID == id {
			return s.Best
		}
	}
	return 0
}

const below = "below bar"

// judge compares with bar and aim. A figure over its bar holds all the same when it would hold on
// a machine whose floor is the one that the bars were written for: the ratio to the floor of the
// same run is what counts (performance.md).
func (f figure) judge(slow float64) string {
	meets := func(limit, by float64) bool {
		if f.Higher {
			return f.Value*by >= limit
		}
		return f.Value/by <= limit
	}
	switch {
	case f.Bar == 0:
		return "no bar"
	case f.Aim != 0 && meets(f.Aim, 1):
		return "ok, aim"
	case meets(f.Bar, 1):
		return "ok"
	case meets(f.Bar, slow):
		return fmt.Sprintf("ok (floor %.1fx slow)", slow)
	default:
		return below
	}
}

func (r *report) missed() []string {
	ids := []string{}
	for _, f := range r.figures() {
		if f.Verdict == below {
			ids = append(ids, f.ID)
		}
	}
	return ids
}

func (r *report) table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "figure\tmeasured\t/ floor\toriginal\t/ original\tbar\taim\trule\tverdict")
	for _, f := range r.figures() {
		orig := ""
		if f.OrigBy > 0 {
			orig = fmt.Sprintf("%.2fx", f.OrigBy)
			if f.OrigBy < 0.1 {
				orig = fmt.Sprintf("1/%.0f", 1/f.OrigBy)
			}
		}
		floored := ""
		if f.Floored > 0 {
			floored = fmt.Sprintf("%.1f", f.Floored)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.ID, show(f.Value, f.Unit), floored,
			show(f.Orig, f.Unit), orig, f.limit(f.Bar), f.limit(f.Aim), f.Rule, f.Verdict)
	}
	for _, n := range r.Notes {
		fmt.Fprintln(t, "note: "+n)
	}
	return t.Flush()
}

func (f figure) limit(v float64) string {
	switch {
	case v == 0:
		return ""
	case f.Higher:
		return "≥ " + show(v, f.Unit)
	default:
		return "≤ " + show(v, f.Unit)
	}
}

func show(v float64, unit string) string {
	switch {
	case v == 0:
		return ""
	case unit == ps:
		return fmt.Sprintf("%.0f%s", v, unit)
	case v >= 1000:
		return fmt.Sprintf("%.0f %s", v, unit)
	default:
		return fmt.Sprintf("%.3g %s", v, unit)
	}
}

// gobench writes every round as a line of a Go benchmark, so that benchstat compares runs.
func (r *report) gobench(w io.Writer) error {
	units := map[string]struct {
		name string
		by   float64
	}{us: {"ns/op", 1e3}, ms: {"ns/op", 1e6}, ps: {"req/s", 1}, mb: {"B", 1e6}, kb: {"B", 1e3}}
	for _, f := range r.figures() {
		u, ok := units[f.Unit]
		if !ok {
			u.name, u.by = f.Unit, 1
		}
		for _, v := range f.Rounds {
			if _, err := fmt.Fprintf(w, "Benchmark/%s 1 %g %s\n", f.ID, v*u.by, u.name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *report) json(w io.Writer, machine map[string]any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(map[string]any{"machine": machine, "figures": r.figures(), "missed": r.missed(), "notes": r.Notes})
}
