// Package doctor says what is looked at when somebody asks what is wrong, and how findings are told. The
// table of checks is here; what makes them is on the machine (runtime/checks), in the daemon (runtime) and in
// hanzoctl.
//
// It imports nothing of ours and owns no goroutine.
package doctor

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// MaxTime bounds a diagnosis, MaxCheck each check of it.
const (
	MaxTime  = 5 * time.Second
	MaxCheck = 4 * time.Second
)

// Severity says how much a finding matters.
type Severity int

// The severities. Warnings and errors are problems.
const (
	OK Severity = iota + 1
	Note
	Warning
	Error
)

var severities = []string{OK: "ok", Note: "note", Warning: "warning", Error: "error"}

// String is the word for it.
func (s Severity) String() string {
	if s < OK || s > Error {
		return "unknown"
	}
	return severities[s]
}

// MarshalText makes it that word in JSON.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Check is one thing that is looked at.
type Check struct {
	// ID is stable: scripts go by it.
	ID string
	// About says in a few words what is looked at.
	About string
	// By are who can look: the daemon, the machine (hanzod doctor), the client (hanzoctl doctor).
	By string
}

// Checks are all, in the order in which they are told. An ID ends in what is looked at, and begins with the part
// of hanzod that it belongs to.
var Checks = []Check{
	{"state.dir", "the state directory is there and is ours", "daemon, machine"},
	{"state.mode", "only its owner can enter the state directory", "daemon, machine"},
	{"state.files", "only its owner can read the files with secrets", "daemon, machine"},
	{"state.space", "the disk has room", "daemon, machine"},
	{"state.disk", "the disk can lock and sync", "machine"},
	{"state.size", "database and logs are of a usual size", "daemon, machine"},
	{"state.restore", "no restore was cut off", "daemon, machine"},
	{"state.foreign", "the state of an older gateway", "daemon, machine"},
	{"lock", "who uses the state directory", "machine"},
	{"store", "the database is whole", "daemon, machine"},
	{"store.schema", "the database is of this version", "daemon, machine"},
	{"audit", "the audit log is as it was written", "daemon, machine"},
	{"config", "the configuration holds", "daemon, machine"},
	{"config.changed", "the daemon runs with the configuration that is there", "daemon"},
	{"config.pending", "no change of the configuration waits for an answer", "daemon"},
	{"config.env", "environment variables", "daemon, machine"},
	{"policy.rules", "the policy rules are those of their file", "daemon"},
	{"policy.file", "the exec approvals file can be read", "daemon, machine"},
	{"socket", "the local socket", "machine"},
	{"discovery", "the file that tells programs of this machine about the daemon", "machine"},
	{"daemon", "the daemon answers", "machine, client"},
	{"daemon.version", "the daemon is of the version of this program", "machine, client"},
	{"daemon.start", "how the last start went", "machine"},
	{"port", "the port is the daemon's", "machine"},
	{"remote", "the way in for other machines", "machine, client"},
	{"tls", "the certificate", "daemon, machine"},
	{"clock", "the clock", "daemon, machine, client"},
	{"service", "the service of the system", "machine"},
	{"service.program", "the program of the service is there", "machine"},
	{"service.twice", "one service, not two, wants the port", "machine"},
	{"service.linger", "the service stays when its user logs out", "machine"},
	{"pairing.devices", "devices that wait for an answer, or to be repaired", "daemon"},
	{"pairing.nodes", "nodes that wait for an answer", "daemon"},
	{"approvals.pending", "approvals that wait", "daemon"},
}

// Finding is what a check found. The texts hold no secret.
type Finding struct {
	Check    string   `json:"check"`
	Severity Severity `json:"severity"`
	// What says what is so, or what is wrong, Next what to do about it: a command where one does it.
	What string `json:"what"`
	Next string `json:"next,omitempty"`
	// Fixable says that "hanzod doctor --fix" can mend it, Fixed what it did about it.
	Fixable bool   `json:"fixable,omitempty"`
	Fixed   string `json:"fixed,omitempty"`
	// Mend does that; nil in findings from elsewhere.
	Mend func() (did string, err error) `json:"-"`
}

// Of makes a finding.
func Of(check string, s Severity, what, next string) Finding {
	return Finding{Check: check, Severity: s, What: what, Next: next}
}

// WithMend adds how to mend it.
func (f Finding) WithMend(mend func() (string, error)) Finding {
	f.Fixable, f.Mend = true, mend
	return f
}

// Sort puts the worst first, and what is as bad in the order of the table.
func Sort(all []Finding) {
	order := func(f Finding) int { return slices.IndexFunc(Checks, func(c Check) bool { return c.ID == f.Check }) }
	slices.SortStableFunc(all, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(b.Severity, a.Severity), cmp.Compare(order(a), order(b)))
	})
}

// Merge adds the findings of another side. Where both looked at one thing, the worse one stays, and of two that
// are as bad the first.
func Merge(mine, theirs []Finding) []Finding {
	out := slices.Clone(mine)
	for _, f := range theirs {
		i := slices.IndexFunc(out, func(o Finding) bool { return o.Check == f.Check })
		switch {
		case i < 0:
			out = append(out, f)
		case f.Severity > OK && slices.ContainsFunc(mine, func(o Finding) bool { return o.Check == f.Check && o.What == f.What }):
		case f.Severity > OK && out[i].Severity == OK:
			out[i] = f
		case f.Severity > OK:
			out = append(out, f)
		}
	}
	return out
}

// Problems counts warnings and errors that were not mended.
func Problems(all []Finding) (errors, warnings int) {
	for _, f := range all {
		switch {
		case f.Fixed != "":
		case f.Severity == Error:
			errors++
		case f.Severity == Warning:
			warnings++
		}
	}
	return errors, warnings
}

// colours of the severities on a terminal.
var colours = []string{OK: "\x1b[32m", Note: "\x1b[36m", Warning: "\x1b[33m", Error: "\x1b[31m"}

// Print tells people: problems and notes with what to do, and, with all, also what is fine. clean makes a text
// safe for the terminal.
func Print(w io.Writer, findings []Finding, all, colour bool, clean func(string) string) error {
	var b strings.Builder
	fine := 0
	for _, f := range findings {
		if f.Severity == OK && !all {
			fine++
			continue
		}
		word := f.Severity.String()
		if f.Fixed != "" {
			word = "fixed"
		}
		pad := strings.Repeat(" ", max(0, 8-len(word)))
		if colour && f.Severity >= OK && f.Severity <= Error {
			c := colours[f.Severity]
			if f.Fixed != "" {
				c = colours[OK]
			}
			word = c + word + "\x1b[0m"
		}
		fmt.Fprintf(&b, "%s%s %-17s %s\n", word, pad, clean(f.Check), clean(f.What))
		indent := strings.Repeat(" ", 27)
		switch {
		case f.Fixed != "":
			fmt.Fprintf(&b, "%s%s\n", indent, clean(f.Fixed))
		case f.Next != "":
			fmt.Fprintf(&b, "%s-> %s\n", indent, clean(f.Next))
		}
	}
	errs, warnings := Problems(findings)
	var parts []string
	for _, p := range []struct {
		n    int
		one  string
		many string
	}{{errs, "error", "errors"}, {warnings, "warning", "warnings"}} {
		if p.n == 1 {
			parts = append(parts, "1 "+p.one)
		} else if p.n > 1 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.many))
		}
	}
	if len(parts) == 0 {
		parts = []string{"no problems"}
	}
	if fine > 0 {
		parts = append(parts, fmt.Sprintf("%d checks are fine (see them with --all)", fine))
	}
	fmt.Fprintln(&b, strings.Join(parts, ", "))
	_, err := io.WriteString(w, b.String())
	return err
}
