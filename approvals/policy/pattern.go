package policy

import (
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/approvals/shell"
)

// wild is a text in which * stands for any run of characters.
type wild struct {
	text  string
	parts []string // between the stars; one part is plain text
}

func newWild(s string) wild { return wild{text: s, parts: strings.Split(s, "*")} }

func (w wild) plain() bool { return len(w.parts) == 1 }

// match reports whether the whole of s fits.
func (w wild) match(s string) bool { return w.matchWithout(s, "") }

// matchWithout is match, with characters that * does not stand for.
func (w wild) matchWithout(s, stops string) bool {
	if w.plain() {
		return w.text == s
	}
	first, last := w.parts[0], w.parts[len(w.parts)-1]
	if len(s) < len(first)+len(last) || !strings.HasPrefix(s, first) || !strings.HasSuffix(s, last) {
		return false
	}
	if stops != "" && strings.ContainsAny(s, stops) {
		return w.matchStops(s, stops)
	}
	s = s[len(first) : len(s)-len(last)]
	for _, part := range w.parts[1 : len(w.parts)-1] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return true
}

// matchStops compares piece by piece: a star never passes a stop.
func (w wild) matchStops(s, stops string) bool {
	pattern := w.text
	for {
		pi, si := strings.IndexAny(pattern, stops), strings.IndexAny(s, stops)
		if (pi < 0) != (si < 0) {
			return false
		}
		if pi < 0 {
			return newWild(pattern).match(s)
		}
		if pattern[pi] != s[si] || !newWild(pattern[:pi]).match(s[:si]) {
			return false
		}
		pattern, s = pattern[pi+1:], s[si+1:]
	}
}

// meets reports whether some text fits both: s may hold shell.Unknown for what is not known.
func (w wild) meets(s string) bool {
	if !strings.Contains(s, shell.Unknown) {
		return w.match(s)
	}
	if len(s)*len(w.text) > maxMeet {
		return true // it is for rules that forbid
	}
	return meet(w.text, s)
}

// meet reports whether two patterns have a text in common; * and shell.Unknown are any run. Its time is
// the product of the lengths.
func meet(a, b string) bool {
	star := func(c byte) bool { return c == '*' || c == shell.Unknown[0] }
	row := make([]bool, len(b)+1)
	row[0] = true
	for j := range len(b) {
		row[j+1] = row[j] && star(b[j])
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = row[0] && star(a[i])
		for j := range len(b) {
			up := row[j+1]
			switch {
			case star(a[i]) || star(b[j]):
				row[j+1] = up && star(a[i]) || row[j] && star(b[j]) || diag || row[j] && star(a[i]) || up && star(b[j])
			default:
				row[j+1] = diag && a[i] == b[j]
			}
			diag = up
		}
	}
	return row[len(b)]
}

// words is an argv pattern.
type words struct {
	first program
	args  []wild
	// any says that there is no first word: it fits every command. rest says that any words may follow.
	any, rest bool
}

// program is the pattern of a first word.
type program struct {
	wild
	// name is what a plain or wild name without a path is compared with in rules that forbid; path says
	// that the pattern is a whole path.
	name wild
	path bool
	// starts says that the pattern names a program that starts others.
	starts bool
}

func newProgram(s string) program {
	p := program{wild: newWild(s), path: strings.ContainsAny(s, `/\`)}
	p.name = newWild(shell.CallName(s))
	p.starts = p.plain() && shell.Starts(s) && !shell.Tabled(s)
	return p
}

const separators = `/\`

// permits reports whether a rule that allows fits a command: exactly as written, without looking
// through anything. Wrappers and shells must be spelled to the last word.
func (w words) permits(c shell.Simple) bool {
	argv := c.Argv
	if len(argv) == 0 {
		return false
	}
	if !w.program(argv[0]) || !w.any && !w.arguments(argv[1:], wild.match) {
		return false
	}
	return w.literal() || w.harmless(c) == ""
}

// harmless says why a command that the pattern fits is not permitted: it would run something else, which
// the pattern does not spell. "" is no objection.
func (w words) harmless(c shell.Simple) string {
	if c.Starts && !shell.Tabled(c.Argv[0]) {
		return c.Argv[0] + " starts other programs; a rule must spell every word of it"
	}
	spelled := 0
	if !w.any && w.first.plain() {
		for spelled = 1; spelled <= len(w.args) && w.args[spelled-1].plain(); spelled++ {
		}
	}
	if why := shell.Carries(c.Argv, spelled); why != "" {
		return why + "; a rule must spell every word of it"
	}
	return ""
}

// program compares the first word of a run with the pattern, for rules that allow. A name never fits
// a path outside of the system's directories: ./git is another program than git.
func (w words) program(word string) bool {
	if w.any {
		// What a relative path names depends on where it runs; the rule says nothing about it.
		return true
	}
	if !strings.ContainsAny(word, separators) {
		return !w.first.path && w.first.match(word)
	}
	if w.first.path {
		return !dotted(word) && w.first.matchWithout(word, separators)
	}
	// A node that pins what it is asked to run sends the path of the name.
	at := strings.LastIndexByte(word, '/') + 1
	return slices.Contains(systemDirs, word[:at]) && w.first.match(word[at:])
}

// systemDirs are where a plain name in a rule that allows may be found, by its path: those that only an
// administrator changes.
var systemDirs = []string{"/bin/", "/sbin/", "/usr/bin/", "/usr/sbin/", "/usr/local/bin/", "/usr/local/sbin/", "/opt/homebrew/bin/", "/snap/bin/"}

func (w words) literal() bool {
	if w.any || w.rest || !w.first.plain() {
		return false
	}
	for _, a := range w.args {
		if !a.plain() {
			return false
		}
	}
	return true
}

func (w words) arguments(args []string, fits func(wild, string) bool) bool {
	if len(args) < len(w.args) || len(args) > len(w.args) && !w.rest {
		return false
	}
	for i, a := range w.args {
		if !fits(a, args[i]) {
			return false
		}
	}
	return true
}

// forbids reports whether a rule that asks or denies fits a call: by name where that is all that is
// known, in any case of letters, and wherever a word is not known.
func (w words) forbids(c shell.Call, cwd string) bool {
	if w.any {
		return true
	}
	if !w.forbidsProgram(c, cwd) {
		return false
	}
	args := c.Words[1:]
	for i, a := range args {
		if !strings.Contains(a, shell.Unknown) {
			continue
		}
		// A word that the run makes may become several, or none: only what stands before it is known.
		if i > len(w.args) && !w.rest || !startFits(w.args, args[:i]) {
			return false
		}
		return i >= len(w.args) || w.args[i].meets(a)
	}
	return w.arguments(args, wild.match)
}

// startFits reports whether the patterns fit words as far as both go.
func startFits(patterns []wild, args []string) bool {
	for i := range min(len(patterns), len(args)) {
		if !patterns[i].match(args[i]) {
			return false
		}
	}
	return true
}

func (w words) forbidsProgram(c shell.Call, cwd string) bool {
	word := c.Words[0]
	known, named := word, w.first.name.match(c.Name)
	if strings.Contains(word, shell.Unknown) {
		known = strings.ReplaceAll(word, shell.Unknown, "")
		if strings.Trim(known, `/\.`) == "" {
			return false // nothing of the name is known
		}
		named = w.first.name.meets(c.Name) || w.first.name.match(shell.CallName(known))
	}
	if !w.first.path || !named {
		return named
	}
	// The rule names a path. A bare name may be found there, and so may what is not known; of a
	// whole directory that would be every name.
	if known != word || !strings.ContainsAny(word, separators) {
		return w.first.name.text != "*"
	}
	if !absolute(word) {
		if c.Moved || !absolute(cwd) {
			return true
		}
		word = cwd + "/" + word
	}
	return newWild(foldPath(w.first.text)).matchWithout(cleaned(foldPath(word)), "/")
}

// absolute reports a path from the root, in either notation.
func absolute(p string) bool {
	return strings.HasPrefix(p, "/") || strings.HasPrefix(p, `\`) || drive(p)
}

func drive(p string) bool {
	return len(p) > 2 && p[1] == ':' && (p[2] == '\\' || p[2] == '/') && (p[0]|0x20 >= 'a' && p[0]|0x20 <= 'z')
}

// dotted reports a path with components that lead elsewhere than they seem.
func dotted(p string) bool {
	for part := range strings.FieldsFuncSeq(p, func(r rune) bool { return r == '/' || r == '\\' }) {
		if part == "." || part == ".." {
			return true
		}
	}
	return strings.Contains(p[min(1, len(p)):], "//")
}

// foldPath is a path for comparing where letters may be the same in either case.
func foldPath(p string) string {
	b := []byte(strings.ReplaceAll(p, `\`, "/"))
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// cleaned resolves . and .. in the text of an absolute path with slashes.
func cleaned(p string) string {
	head := ""
	if len(p) > 1 && p[1] == ':' {
		head, p = p[:2], p[2:]
	}
	var out []string
	for part := range strings.SplitSeq(p, "/") {
		switch part {
		case "", ".":
		case "..":
			out = out[:max(0, len(out)-1)]
		default:
			out = append(out, part)
		}
	}
	return head + "/" + strings.Join(out, "/")
}

// dirs is a pattern of directories, by component: * is any run inside one, ** any components or none.
type dirs struct {
	text  string
	parts []wild // "**" is the text of the one that is any
}

func newDirs(s string) dirs {
	d := dirs{text: s}
	for _, p := range components(s) {
		d.parts = append(d.parts, newWild(p))
	}
	return d
}

func components(p string) []string {
	return strings.FieldsFunc(strings.ReplaceAll(p, `\`, "/"), func(r rune) bool { return r == '/' })
}

// match compares a directory; fold ignores the case of letters.
func (d dirs) match(cwd string, fold bool) bool {
	parts := components(cwd)
	if len(parts) > maxRuleList {
		return fold // past any real path: it is for rules that forbid
	}
	// One row of the table: whether the patterns so far fit the first j components.
	row := make([]bool, len(parts)+1)
	row[0] = true
	for _, p := range d.parts {
		if p.text == "**" {
			for j := range parts {
				row[j+1] = row[j+1] || row[j]
			}
			continue
		}
		if fold {
			p = newWild(foldPath(p.text))
		}
		for j := len(parts); j > 0; j-- {
			s := parts[j-1]
			if fold {
				s = foldPath(s)
			}
			row[j] = row[j-1] && p.match(s)
		}
		row[0] = false
	}
	return row[len(parts)]
}
