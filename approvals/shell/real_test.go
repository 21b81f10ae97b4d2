//go:build !windows

package shell

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// recorders are programs that write down the words they were given, one file each.
func recorders(t *testing.T) (m Machine, records string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	records = filepath.Join(dir, "records")
	for _, d := range []string{"bin", "records", "cwd", "home"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// printf is one write of the shell itself.
	script := fmt.Sprintf("#!/bin/sh\nprintf '%%s\\0' \"$0\" \"$@\" >'%s'/$$\n", records)
	for _, name := range []string{"aa", "bb", "cc", "d d"} {
		if err := os.WriteFile(filepath.Join(dir, "bin", name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"x", "y", "-n"} { // what patterns would find
		if err := os.WriteFile(filepath.Join(dir, "cwd", name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Machine{Home: filepath.Join(dir, "home"), Path: filepath.Join(dir, "bin"), Cwd: filepath.Join(dir, "cwd")}, records
}

// fragments are what lines are made of: mostly harmless, so that many of them are accepted.
var fragments = []string{
	"aa ", "bb ", "cc ", "aa", " ", "  ", "\t", "x", "y", "-n", "--k=v", "a/b", "1", "e", "'", "\"", "'q q'", "\"q q\"", "\\", "\\ ", "\\'", "\\\"", "\\\\",
	" && aa ", " || bb ", " | cc ", "; aa ", "|", "&&", ";", "&", "$", "$HOME", "${HOME}", "$'x'", "$\"x\"", "$(aa)", "`aa`", "*", "?", "[x]", "{x,y}", "~", "~root", "#", " # ",
	"!", "=", "A=b ", "<", ">", "<<E", "<<'E'", "\nE", "\n", "\r", "\r\n", "(", ")", "{ ", "}", "if ", "then ", "fi", "time ", "exec ", "eval ", "[[ ", "''", "\"\"",
	"\u00a0", "\u3000", "\ufeff", "\u200b", "\u0085", "\u2028", "\u212a", "é", "😀", "\v", "\f", "\x01", "\x7f", "\x1b", "\x80", "\xff", "%", "^", "+", "@", ",", ":", ".", "\\\n",
	"'d d' ", "'it'\\''s'", "\"a\\$b\"", "\"a\\nb\"", "'\\'", "\"\\`\"", "-", "--", "aa=", "=aa", "\\~", "'*'", "\"#\"", "a#b", "x=~", "\\|", "1>", "in ", "do ", "\x00",
}

// words are the fragments of lines that shells take as they are.
var words = []string{
	"x", "y", "-n", "--k=v", "a/b", "1", "'q q'", "\"q q\"", "\\ ", "\\'", "\\\"", "\\\\", "'it'\\''s'", "\"a\\$b\"", "\"a\\nb\"", "'\\'", "\"\\`\"", "'*'", "\"#\"", "\\*",
	"\\~", "\\|", "'$HOME'", "\"é\"", "'\u3000'", "\"😀\u212a\"", "'#'", "%", "+", "@", ",", ":", ".", "'a\nb'", "\"!\"", "'&&'", "\";\"", "\\;", "\\&\\&", "'\t'", "\\#", "\"'\"", "'\"'",
}

// line makes one up.
func line(r *rand.Rand) string {
	var b strings.Builder
	b.WriteString([]string{"aa ", "bb ", "'aa' ", "a\\a ", "\"bb\" ", "'d d' ", " aa "}[r.IntN(7)])
	plain := r.IntN(2) == 0
	for range 1 + r.IntN(9) {
		switch {
		case plain && r.IntN(4) == 0:
			b.WriteString([]string{" ", "  ", "\t", " && aa ", "&&bb ", " || cc ", " | bb ", "|aa ", "; cc ", ";aa ", "||| bb ", "\n&& cc ", ";\naa "}[r.IntN(13)])
		case plain:
			b.WriteString(words[r.IntN(len(words))])
		default:
			b.WriteString(fragments[r.IntN(len(fragments))])
		}
	}
	return b.String()
}

// ran returns what was written down, each with its words, and forgets it.
func ran(t *testing.T, records string) (all [][]string) {
	t.Helper()
	files, err := os.ReadDir(records)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		path := filepath.Join(records, f.Name())
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00"))
	}
	return all
}

// expected are the argv that a shell runs when every program succeeds.
func expected(a Analysis) (all [][]string) {
	skip := false
	for _, s := range a.Segments {
		switch s.Op {
		case "||":
			skip = true
		case "&&", ";":
			skip = false
		}
		if !skip {
			all = append(all, append([]string{filepath.Join(filepath.Dir(s.Path), filepath.Base(s.Path))}, s.Argv[1:]...))
		}
	}
	return all
}

func sortArgv(all [][]string) {
	slices.SortFunc(all, slices.Compare[[]string])
}

// TestWhatIsDecidedRuns compares what an analysis says with what real shells run, byte for byte: the
// enforced text of every line that is understood, and the line itself where it is said to be exact.
func TestWhatIsDecidedRuns(t *testing.T) {
	m, records := recorders(t)
	var shells [][]string
	for _, argv := range [][]string{{"/bin/sh"}, {"dash"}, {"bash", "--norc"}, {"bash", "--posix"}, {"zsh", "-f"}, {"ksh"}, {"mksh"}, {"busybox", "sh"}} {
		if path, err := exec.LookPath(argv[0]); err == nil {
			shells = append(shells, append([]string{path}, argv[1:]...))
		}
	}
	t.Logf("shells %q", shells)
	run := func(sh []string, text string) [][]string {
		cmd := exec.Command(sh[0], append(slices.Clone(sh[1:]), "-c", text)...)
		cmd.Dir, cmd.Env = m.Cwd, []string{"PATH=" + m.Path + ":/usr/bin:/bin", "HOME=" + m.Home, "LC_ALL=C.UTF-8"}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err != nil {
			t.Errorf("%q %q: %v %s", sh, text, err, stderr.String())
		}
		return ran(t, records)
	}
	seed := uint64(1)
	if s := os.Getenv("SHELL_SEED"); s != "" {
		fmt.Sscan(s, &seed)
	}
	r := rand.New(rand.NewPCG(seed, 7))
	budget, enough := 4*time.Second, 150
	if d, err := time.ParseDuration(os.Getenv("SHELL_TIME")); err == nil {
		budget, enough = d, 1<<30
	}
	var exact, enforced, lines int
	for start := time.Now(); time.Since(start) < budget && exact < enough && !t.Failed(); {
		text := line(r)
		lines++
		a := m.Line(text)
		if !a.OK || slices.ContainsFunc(a.Segments, func(s Segment) bool { return s.Path == "" || s.RealPath != s.Path }) {
			continue
		}
		want := expected(a)
		sortArgv(want)
		check := func(what, text string, sh []string) {
			got := run(sh, text)
			sortArgv(got)
			if !slices.EqualFunc(want, got, slices.Equal[[]string]) {
				t.Errorf("%s\nsegments %+v\ntext %q\nin   %q\nsaid %q\nran  %q", what, a.Segments, text, sh, want, got)
			}
		}
		if a.Exact {
			exact++
			for _, sh := range shells {
				check("exact", text, sh)
			}
			continue
		}
		if lines%3 != 0 || strings.Contains(text, "\x00") { // no program can be given a NUL
			continue
		}
		enforced++
		text, why := m.Enforced(a)
		if why != "" {
			t.Fatalf("%+v: %s", a.Segments, why)
		}
		check("enforced", text, shells[enforced%len(shells)])
	}
	t.Logf("%d lines, %d exact in %d shells, %d enforced", lines, exact, len(shells), enforced)
	if exact < 10 || enforced < 2 {
		t.Error("too few lines to say anything")
	}
}
