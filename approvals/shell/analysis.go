package shell

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Line analyses a command line for a shell (nodes-approvals.md §3.5).
func (m Machine) Line(text string) Analysis {
	r := resolver{machine: m}
	a := r.line(text)
	a.text = text
	return a
}

// Argv analyses one argv: one segment, nothing of which is parsed. Blank elements are left out of
// Segment.Argv; a blank first one fails, because it is what would run.
func (m Machine) Argv(argv []string) Analysis {
	r := resolver{machine: m}
	a := r.argv(argv)
	a.text = strings.Join(argv, " ")
	return a
}

// A resolver looks for executables: for each word once, and through the links of a directory once.
type resolver struct {
	machine Machine
	found   map[string]location
	dirs    []string // of PATH
	real    map[string]string
	once    bool // nothing need be remembered
}

type location struct{ path, real, candidate string }

func (r *resolver) line(text string) Analysis {
	if r.machine.windows() {
		seg, reason := windowsLine(text)
		if reason != "" {
			return Analysis{Reason: reason, windows: true}
		}
		r.resolve(&seg)
		return Analysis{OK: true, Segments: []Segment{seg}, parts: []part{{segments: 1}}, windows: true}
	}
	pieces, exact, heredoc, reason := readLine(text)
	if reason != "" {
		return Analysis{Reason: reason}
	}
	a := Analysis{OK: true, Exact: exact, Heredoc: heredoc}
	for _, p := range pieces {
		a.parts = append(a.parts, part{segments: len(p.segs), reason: p.reason})
		if p.reason != "" {
			a.OK, a.Exact, a.Reason = false, false, p.reason
			break
		}
		if len(a.Segments) == 0 {
			a.Segments = p.segs
		} else {
			a.Segments = append(a.Segments, p.segs...)
		}
	}
	r.once = len(a.Segments) == 1
	for i := range a.Segments {
		r.resolve(&a.Segments[i])
	}
	return a
}

func (r *resolver) argv(argv []string) Analysis {
	blank := func(w string) bool { return trim(w) == "" }
	kept := argv
	if slices.ContainsFunc(argv, blank) {
		kept = slices.DeleteFunc(slices.Clone(argv), blank)
	}
	switch {
	case len(kept) == 0:
		return Analysis{Reason: "empty argv"}
	case blank(argv[0]):
		return Analysis{Reason: "the first word is empty"}
	}
	seg := Segment{Raw: strings.Join(kept, " "), Argv: kept, literal: true}
	r.resolve(&seg)
	return Analysis{
		OK: true, Segments: []Segment{seg}, parts: []part{{segments: 1}}, windows: r.machine.windows(),
		Exact: len(kept) == len(argv),
	}
}

// resolve looks through the wrappers of a segment and for its executable (§3.6, §3.8).
func (r *resolver) resolve(seg *Segment) {
	seg.Wrappers, seg.Effective, seg.Blocked = unwrapAll(seg.Argv)
	seg.Executable = trim(seg.Effective[0])
	at := r.find(seg.Executable)
	seg.Path, seg.RealPath, seg.candidate = at.path, at.real, at.candidate
}

// find locates an executable.
func (r *resolver) find(word string) (at location) {
	at, known := r.found[word]
	if known {
		return at
	}
	path, ok := "", false
	if bare(word) {
		if r.dirs == nil {
			r.dirs = r.machine.pathDirs()
		}
		path, ok = search(r.dirs, word)
	} else {
		path, ok = r.machine.Locate(word)
	}
	if ok {
		at = location{path: path, candidate: path, real: r.realPath(path)}
	} else {
		at.candidate = r.machine.candidate(word)
	}
	if r.once {
		return at
	}
	if r.found == nil {
		r.found = map[string]location{}
	}
	r.found[word] = at
	return at
}

// bare reports whether a word is a name that is looked for in PATH as it is.
func bare(word string) bool {
	return word != "" && word[0] != '~' && !strings.ContainsAny(word, "/\x00") && strings.IndexByte(word, filepath.Separator) < 0
}

// realPath follows links; "" is a failure.
func (r *resolver) realPath(path string) string {
	dir, name := filepath.Split(path)
	real, known := r.real[dir]
	if !known && name != "" && name != "." && name != ".." {
		var err error
		if real, err = filepath.EvalSymlinks(dir); err != nil {
			return ""
		}
		if r.real == nil {
			r.real = map[string]string{}
		}
		r.real[dir] = real
	}
	if real != "" {
		path = filepath.Join(real, name)
		if fi, err := os.Lstat(path); err == nil && fi.Mode()&os.ModeSymlink == 0 {
			return path
		}
	}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	return path
}

// candidate is where a word that is a path leads, whether or not something is there; "" for a name.
func (m Machine) candidate(word string) string {
	word = m.expand(word)
	if !strings.ContainsAny(word, `/\`) {
		return ""
	}
	if filepath.IsAbs(word) {
		return word
	}
	abs, err := filepath.Abs(filepath.Join(trim(m.Cwd), word))
	if err != nil {
		return ""
	}
	return abs
}

// Cover compares an analysis with a list. For each segment the patterns go first, then the safe bins,
// then the skills. The chain is judged part by part, and nothing is looked at after a part that is not
// covered (nodes-approvals.md §3.5).
//
// It reads the list as the original does. Who lets something run without a question asks Permit.
func (m Machine) Cover(a Analysis, l List) Coverage {
	c := Coverage{OK: a.OK}
	star := slices.IndexFunc(l.Patterns, func(p string) bool { return trim(p) == "*" })
	next := 0
	for _, p := range a.parts {
		if p.reason != "" {
			return Coverage{}
		}
		segments := a.Segments[next : next+p.segments]
		next += p.segments
		c.Listed = next
		for _, seg := range segments {
			by, pattern := m.covers(seg, l, star, a.windows)
			c.By = append(c.By, by)
			if by == "" {
				c.OK = true
				return c
			}
			if by == ByAllowlist {
				c.Matches = append(c.Matches, pattern)
			}
		}
	}
	c.Satisfied = a.OK
	return c
}

func (m Machine) covers(seg Segment, l List, star int, windows bool) (by, pattern string) {
	switch {
	case seg.Blocked != "" || !seg.literal || runsArguments(seg.Effective) || hidesShell(seg):
		return "", ""
	case star >= 0:
		return ByAllowlist, l.Patterns[star]
	}
	if seg.Path != "" {
		for _, p := range l.Patterns {
			if m.Match(p, seg.Path) {
				return ByAllowlist, p
			}
		}
	}
	switch {
	case !windows && m.safeBin(seg, l):
		return BySafeBins, ""
	case m.skill(seg, l):
		return BySkills, ""
	}
	return "", ""
}

// maxAlways is how deep allow-always looks into wrappers and inline shells.
const maxAlways = 3

// AllowAlways returns the patterns that allow-always would store for segments: the exact paths of what
// they run, also within wrappers and inline shells (nodes-approvals.md §3.11). None means that they
// cannot be allowed for good.
func (m Machine) AllowAlways(segments []Segment) []string {
	r := resolver{machine: m}
	var out []string
	for _, s := range segments {
		out = r.always(out, s.Argv, 0)
	}
	return out
}

func (r *resolver) always(out, argv []string, depth int) []string {
	if depth >= maxAlways || len(argv) == 0 {
		return out
	}
	name := programName(argv[0])
	if isDispatcher(name) {
		inner, _, _ := unwrap(argv)
		return r.always(out, inner, depth+1)
	}
	if isBox(name) {
		if inner, ok := unwrapBox(argv); ok {
			return r.always(out, inner, depth+1)
		}
		return out
	}
	word := trim(argv[0])
	at := r.find(word)
	if at.candidate == "" {
		return out
	}
	if !isShell(name) {
		if !slices.Contains(out, at.candidate) {
			out = append(out, at.candidate)
		}
		return out
	}
	if text, ok := shellPayload(name, argv); ok {
		if a := r.line(text.Text); a.OK {
			for _, s := range a.Segments {
				out = r.always(out, s.Argv, depth+1)
			}
		}
	}
	return out
}

// Enforced returns the text that runs exactly what was decided on: each segment with its wrappers
// removed, the real path in front, every word in single quotes (nodes-approvals.md §3.12). Where there
// is none, why is the reason and text empty.
func (m Machine) Enforced(a Analysis) (text, why string) {
	switch {
	case a.windows:
		return "", "unsupported platform"
	case !a.OK:
		return "", a.Reason
	}
	var b strings.Builder
	for _, s := range a.Segments {
		planned := s.Planned()
		if planned == nil {
			return "", "segment execution plan unavailable"
		}
		if s.Op != "" {
			b.WriteString(" " + s.Op + " ")
		}
		for i, w := range planned {
			if i > 0 {
				b.WriteByte(' ')
			}
			b.WriteByte('\'')
			b.WriteString(strings.ReplaceAll(w, "'", `'"'"'`))
			b.WriteByte('\'')
		}
	}
	return b.String(), ""
}

// Planned returns the argv that runs when a segment is covered: its effective argv with the real path
// in front, nil when it is blocked (nodes-approvals.md §3.12). A link to a program that acts by its
// name, as busybox does, keeps its name.
func (s Segment) Planned() []string {
	if s.Blocked != "" || len(s.Effective) == 0 {
		return nil
	}
	argv := slices.Clone(s.Effective)
	switch {
	case s.Path != "":
		if argv[0] = s.RealPath; argv[0] == "" {
			return nil
		}
		if pinned, ok := Pinned(s.Path); ok {
			argv[0] = pinned
		}
	default:
		argv[0] = s.Executable
	}
	return argv
}

// Kept returns the argv that runs when a direct argv is covered and its wrappers are to keep their
// effect: the wrappers and the executable by their real paths, and every other word as it is. It fails
// when a wrapper is not one of the system's own, or is told something that it may read otherwise than it
// was read here.
func (m Machine) Kept(s Segment) ([]string, bool) {
	inner := s.Planned()
	if inner == nil || s.Path == "" {
		return nil, false
	}
	argv := slices.Clone(s.Argv)
	at := len(s.Argv) - len(s.Effective)
	argv[at] = inner[0]
	rest := s.Argv
	for _, name := range s.Wrappers {
		start := len(s.Argv) - len(rest)
		next, _, ok := unwrap(rest)
		if !ok || name == "env" && strings.Contains(inner[0], "=") {
			return nil, false
		}
		path, found := m.Locate(rest[0])
		real, err := filepath.EvalSymlinks(path)
		if !found || err != nil || !slices.Contains(systemBinDirs, filepath.Dir(real)) {
			return nil, false
		}
		for _, w := range rest[1 : len(rest)-len(next)] {
			if trim(w) != w || strings.HasPrefix(w, "-") && fold(w) != w {
				return nil, false
			}
		}
		if argv[start] = real; programName(real) != name { // a box goes by its name
			argv[start] = path
		}
		rest = next
	}
	return argv, true
}
