package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/config/json5"
)

// Issue is one thing wrong with a configuration. Path is the key ("agents.list.0.id"), the name of
// a variable or flag, or empty for the document itself. Line and Col are 0 when the fault has no
// place in a file. File is set when that file is an included one. AllowedValues are those of an
// enumeration.
type Issue struct {
	Path, Message string
	File          string
	Line, Col     int
	AllowedValues []string
	// Hidden is how many more values there are; Hint says what was meant, most likely.
	Hidden int
	Hint   string
}

func (i Issue) String() string {
	s := i.Message + i.Hint
	if i.Path != "" {
		s = i.Path + ": " + s
	}
	switch {
	case i.File != "" && i.Line > 0:
		s += fmt.Sprintf(" (%s line %d)", filepath.Base(i.File), i.Line)
	case i.Line > 0:
		s += fmt.Sprintf(" (line %d)", i.Line)
	}
	return s
}

// Invalid is the error of a configuration that does not hold. Path is the config file.
type Invalid struct {
	Path   string
	Issues []Issue
	// Unresolved are the paths of secrets that cannot be read where they stand. Where there are any, nothing
	// else is wrong.
	Unresolved []string
}

func (e *Invalid) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Invalid config at %s:\n", e.Path)
	for _, i := range e.Issues {
		b.WriteString("- " + i.String() + "\n")
	}
	b.WriteString("Correct this and start again; the file was not changed.")
	return b.String()
}

// fail notes an issue; n, which may be nil, is where it is.
func (l *loader) fail(path string, n *json5.Node, message string) *Issue {
	is := Issue{Path: path, Message: message}
	if n != nil {
		is.Line, is.Col, is.File = n.Start.Line, n.Start.Col, l.origin[n]
	}
	l.issues = append(l.issues, is)
	return &l.issues[len(l.issues)-1]
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func contains(list []string, s string) bool { return slices.Contains(list, s) }

// quote shows a wrong value; a long one is cut, because it may be anything.
func quote(s string) string {
	if r := []rune(s); len(r) > 40 {
		s = string(r[:40]) + "…"
	}
	return strconv.Quote(s)
}

// got names a value in an error text: scalars as written, except strings of unknown content.
func got(n *json5.Node) string {
	switch n.Kind {
	case json5.String:
		return quote(n.Str)
	case json5.Number:
		return strconv.FormatFloat(n.Num, 'g', -1, 64)
	case json5.Bool:
		return strconv.FormatBool(n.Bool)
	}
	return n.Kind.String()
}

func wrongChoice(value string, allowed []string) string {
	quoted := make([]string, len(allowed))
	for i, a := range allowed {
		quoted[i] = strconv.Quote(a)
	}
	return "Invalid value " + quote(value) + ", expected one of " + strings.Join(quoted, ", ")
}

// near returns the known key that a mistyped one most likely means, or "".
func near(key string, known []string) string {
	best, limit := "", min(2, len(key)/2)+1
	for _, k := range known {
		if d := distance(strings.ToLower(key), strings.ToLower(k)); d < limit {
			best, limit = k, d
		}
	}
	return best
}

// distance counts the edits that turn a into b; keys are short, longer ones differ by length.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(diagonal+cost, row[j]+1, row[j+1]+1)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
