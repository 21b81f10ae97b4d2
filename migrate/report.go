package migrate

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Outcome is what became of one thing.
type Outcome string

// The outcomes, from what is fine to what somebody should look at.
const (
	Imported  Outcome = "imported"  // written; in a dry run, would be
	Unchanged Outcome = "unchanged" // already there as it is in the source
	Removed   Outcome = "removed"   // gone from the source since the last time, and so here too
	Kept      Outcome = "kept"      // changed here since the last import, and left so
	Left      Outcome = "left"      // stays in the source only; Why says why
	Fault     Outcome = "fault"     // could not be read or understood; stays in the source only
)

var order = []Outcome{Imported, Unchanged, Removed, Kept, Left, Fault}

// Finding is one thing that was looked at, or many alike of one part: then Count is above 1.
type Finding struct {
	Part    string  `json:"part"` // config, devices, nodes, approvals, sessions, cron, voicewake, push, files
	Path    string  `json:"path,omitzero"`
	Outcome Outcome `json:"outcome"`
	Count   int     `json:"count"`
	Bytes   int64   `json:"bytes,omitzero"`
	Why     string  `json:"why,omitzero"`
}

// Report is what a migration did, or would do. It names no secret.
type Report struct {
	Source   string        `json:"source"`
	Target   string        `json:"target"`
	DryRun   bool          `json:"dryRun,omitzero"`
	Findings []Finding     `json:"findings"`
	Took     time.Duration `json:"-"`
}

// maxFindings bounds the rows of a report: of more the number is told. Ten thousand broken names are one fault.
const maxFindings = 2000

func (r *run) found(f Finding) {
	if f.Count == 0 {
		f.Count = 1
	}
	all := r.report.Findings
	if len(all) < maxFindings {
		r.report.Findings = append(all, f)
		return
	}
	more := Finding{Part: f.Part, Outcome: f.Outcome, Why: "more like these"}
	i := slices.IndexFunc(all, func(g Finding) bool { g.Count, g.Bytes = 0, 0; return g == more })
	if i < 0 {
		i, all = len(all), append(all, more)
	}
	all[i].Count += f.Count
	all[i].Bytes += f.Bytes
	r.report.Findings = all
}

// Count is how many things had an outcome.
func (r Report) Count(o Outcome) int {
	n := 0
	for _, f := range r.Findings {
		if f.Outcome == o {
			n += f.Count
		}
	}
	return n
}

// Text writes the report for people: a line for each part, then each thing to look at.
func (r Report) Text(w io.Writer) error {
	var b strings.Builder
	var names []string
	sum := map[string]map[Outcome]int{}
	size := map[string]int64{}
	for _, f := range r.Findings {
		if sum[f.Part] == nil {
			sum[f.Part] = map[Outcome]int{}
			names = append(names, f.Part)
		}
		sum[f.Part][f.Outcome] += f.Count
		if f.Outcome == Imported {
			size[f.Part] += f.Bytes
		}
	}
	for _, name := range names {
		var texts []string
		for _, o := range order {
			if n := sum[name][o]; n > 0 {
				text := fmt.Sprintf("%d %s", n, o)
				if o == Imported && size[name] > 0 {
					text += " (" + sizeText(size[name]) + ")"
				}
				texts = append(texts, text)
			}
		}
		fmt.Fprintf(&b, "%-10s %s\n", name, strings.Join(texts, ", "))
	}
	rows := slices.DeleteFunc(slices.Clone(r.Findings), func(f Finding) bool { return f.Why == "" })
	slices.SortStableFunc(rows, func(x, y Finding) int {
		return cmp.Compare(slices.Index(order, y.Outcome), slices.Index(order, x.Outcome))
	})
	for i, f := range rows {
		if i == 0 || rows[i-1].Outcome != f.Outcome {
			fmt.Fprintf(&b, "\n%s:\n", f.Outcome)
		}
		what := cmp.Or(f.Path, f.Part)
		if f.Count > 1 {
			what += fmt.Sprintf(" (%d)", f.Count)
		}
		fmt.Fprintf(&b, "  %s: %s\n", plain(what), plain(f.Why))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func sizeText(n int64) string {
	switch {
	case n < 10<<10:
		return fmt.Sprintf("%d bytes", n)
	case n < 10<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// plain makes a name of the source safe for the terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '?'
		}
		return r
	}, s)
}
