package shell

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"mvdan.cc/sh/v3/syntax"
)

// slow is what no analysis may take, whatever the text: the bar for 64 KiB is 20 ms, and a machine that
// is busy with other things gets a hundred times that.
const slow = 2 * time.Second

// seeds are the texts of testdata/hostile.txt and of the vectors.
func seeds(tb testing.TB) (lines []string, argvs [][]string) {
	tb.Helper()
	raw, err := os.ReadFile("testdata/hostile.txt")
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		mode, text, ok := strings.Cut(rest, " ")
		if !ok || line[0] == '#' || line[0] == '=' {
			continue
		}
		var argv []string
		if strings.HasPrefix(mode, "argv") && json.Unmarshal([]byte(text), &argv) == nil {
			argvs = append(argvs, argv)
			continue
		}
		_ = json.Unmarshal([]byte(text), &text) // when it is JSON
		lines = append(lines, text)
	}
	raw, err = os.ReadFile("../../fixtures/exec-vectors.json")
	if err != nil {
		tb.Fatal(err)
	}
	var vectors []struct {
		Kind    string
		Command json.RawMessage
		Argv    []string
	}
	if err := json.Unmarshal(raw, &vectors); err != nil {
		tb.Fatal(err)
	}
	for _, v := range vectors {
		var text string
		if v.Kind == "argv" {
			argvs = append(argvs, v.Argv)
		} else if json.Unmarshal(v.Command, &text) == nil {
			lines = append(lines, text)
		}
	}
	return lines, argvs
}

// fuzzMachine has a few programs, so that something can be covered.
func fuzzMachine(tb testing.TB) (Machine, List) {
	tb.Helper()
	root, err := filepath.EvalSymlinks(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	bin := filepath.Join(root, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		tb.Fatal(err)
	}
	for _, n := range []string{"echo", "cat", "rg", "a", "git", "head", "env", "nice", "timeout", "sh", "python3", "my tool"} {
		if err := os.WriteFile(filepath.Join(bin, n), nil, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	m := Machine{Platform: "linux", Home: root, Path: bin, Cwd: root}
	return m, List{Patterns: []string{"*", bin + "/**"}, SafeBins: DefaultSafeBins, TrustedDirs: []string{bin}}
}

// FuzzLine: nothing panics or takes long; what is permitted is there and is what the enforced text runs,
// byte for byte.
func FuzzLine(f *testing.F) {
	lines, _ := seeds(f)
	for _, l := range lines {
		f.Add(l, "linux")
		f.Add(l, "windows")
	}
	m, list := fuzzMachine(f)
	f.Fuzz(func(t *testing.T, text, platform string) { checkLine(t, m, list, text, platform) })
}

func checkLine(t *testing.T, m Machine, list List, text, platform string) {
	t.Helper()
	m.Platform = platform
	begin := time.Now()
	a := m.Line(text)
	c, why := m.Permit(a, list)
	Signs(text)
	if took := time.Since(begin); took > slow {
		t.Fatalf("%v for %d bytes", took, len(text))
	}
	checkAnalysis(t, m, a, c, why)
	if why != "" {
		return
	}
	if len(Signs(text)) > 0 || a.Heredoc || strings.ContainsRune(text, 0) && a.Exact {
		t.Fatalf("%q is permitted", text)
	}
	enforced, refused := m.Enforced(a)
	if refused != "" {
		if !m.windows() {
			t.Fatalf("%q is permitted and has no text to run: %s", text, refused)
		}
		return
	}
	checkEnforced(t, a, enforced)
}

// FuzzArgv: the words of an argv that is permitted run as they are.
func FuzzArgv(f *testing.F) {
	_, argvs := seeds(f)
	for _, a := range argvs {
		f.Add(strings.Join(a, "\x00"))
	}
	m, list := fuzzMachine(f)
	f.Fuzz(func(t *testing.T, joined string) { checkArgv(t, m, list, joined) })
}

func checkArgv(t *testing.T, m Machine, list List, joined string) {
	t.Helper()
	argv := strings.Split(joined, "\x00")
	begin := time.Now()
	a := m.Argv(argv)
	c, why := m.Permit(a, list)
	m.AllowAlways(a.Segments)
	FindInline(argv)
	if took := time.Since(begin); took > slow {
		t.Fatalf("%v for %d bytes", took, len(joined))
	}
	checkAnalysis(t, m, a, c, why)
	if why != "" {
		return
	}
	s := a.Segments[0]
	planned := s.Planned()
	if planned == nil || !slices.Equal(planned[1:], s.Effective[1:]) || trim(argv[0]) == "" {
		t.Fatalf("%q runs %q", argv, planned)
	}
	if kept := slices.DeleteFunc(slices.Clone(argv), func(w string) bool { return trim(w) == "" }); !slices.Equal(s.Argv, kept) {
		t.Fatalf("%q is read as %q", argv, s.Argv)
	}
	if len(s.Wrappers) == 0 && !slices.Equal(s.Effective, s.Argv) || !slices.Equal(s.Argv[len(s.Argv)-len(s.Effective):], s.Effective) {
		t.Fatalf("%q has within %q", s.Argv, s.Effective)
	}
	if _, inline := FindInline(argv); inline {
		t.Fatalf("%q is an inline shell", argv)
	}
}

func checkAnalysis(t *testing.T, m Machine, a Analysis, c Coverage, why string) {
	t.Helper()
	if a.OK && len(a.Segments) == 0 || !a.OK && a.Reason == "" {
		t.Fatalf("%+v", a)
	}
	for _, s := range a.Segments {
		if len(s.Argv) == 0 || len(s.Effective) == 0 || s.Blocked != "" && s.Planned() != nil {
			t.Fatalf("%+v", s)
		}
	}
	m.AllowAlways(a.Segments)
	if why != "" {
		return
	}
	if !a.OK || !c.Satisfied || len(c.By) != len(a.Segments) || slices.Contains(c.By, "") {
		t.Fatalf("permitted: %+v %+v", a, c)
	}
	for _, s := range a.Segments {
		fi, err := os.Stat(s.Path)
		if err != nil || !fi.Mode().IsRegular() || s.Path != filepath.Clean(s.Path) || RunsOthers(s.Path) || s.Blocked != "" {
			t.Fatalf("permitted: %+v", s)
		}
	}
}

// checkEnforced reads the enforced text with the parser alone: every word must be a literal, and the
// words those that were decided on.
func checkEnforced(t *testing.T, a Analysis, enforced string) {
	t.Helper()
	if !utf8.ValidString(enforced) || strings.ContainsAny(enforced, "\x00\r") {
		return // what a shell does with such bytes is not the parser's to say; TestWhatIsDecidedRuns asks real shells
	}
	file, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(strings.NewReader(enforced), "")
	if err != nil {
		t.Fatalf("%q: %v", enforced, err)
	}
	var got [][]string
	syntax.Walk(file, func(n syntax.Node) bool {
		call, ok := n.(*syntax.CallExpr)
		if !ok {
			return true
		}
		var argv []string
		for _, w := range call.Args {
			word := ""
			for _, p := range w.Parts {
				switch x := p.(type) {
				case *syntax.SglQuoted:
					word += x.Value
				case *syntax.DblQuoted:
					for _, q := range x.Parts {
						lit, ok := q.(*syntax.Lit)
						if !ok {
							t.Fatalf("%q is not literal", enforced)
						}
						word += lit.Value
					}
				default:
					t.Fatalf("%q is not literal", enforced)
				}
			}
			argv = append(argv, word)
		}
		if len(call.Assigns) > 0 {
			t.Fatalf("%q assigns", enforced)
		}
		got = append(got, argv)
		return true
	})
	var want [][]string
	for _, s := range a.Segments {
		want = append(want, s.Planned())
	}
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Fatalf("%q runs %q, decided on %q", enforced, got, want)
	}
}

// FuzzMatch compares the matcher with regular expressions made from the rules of §3.7.
func FuzzMatch(f *testing.F) {
	f.Add("/usr/**/r?", "/usr/bin/rg")
	f.Add("~/*", "/home/u/x")
	f.Add(`/a\\b`, "/a/b")
	f.Add("/a/**", "/a/../b")
	f.Add("/*K*", "/\u212a")
	f.Fuzz(checkMatch)
}

func checkMatch(t *testing.T, pattern, target string) {
	t.Helper()
	m := Machine{Platform: "linux", Home: "/home/u"}
	begin := time.Now()
	got := m.Match(pattern, target)
	if took := time.Since(begin); took > slow {
		t.Fatalf("%v", took)
	}
	if !utf8.ValidString(pattern+target) || len(pattern) > 200 || len(target) > 200 {
		return
	}
	for _, r := range pattern + target {
		if r >= 0x80 {
			return // letters of other scripts and characters of two units have rules of their own
		}
	}
	p := trim(pattern)
	if p == "" || !strings.ContainsAny(p, `/\~`) || filepath.Clean(target) != target {
		if got {
			t.Fatalf("%q matches %q", pattern, target)
		}
		return
	}
	if p == "~" || strings.HasPrefix(p, "~/") || strings.HasPrefix(p, `~\`) {
		p = m.Home + p[1:]
	}
	p, target = strings.ReplaceAll(p, `\\`, "/"), strings.ReplaceAll(target, `\\`, "/")
	var re strings.Builder
	re.WriteString(`(?is)\A`)
	for i := 0; i < len(p); i++ {
		switch {
		case p[i] == '*' && i+1 < len(p) && p[i+1] == '*':
			re.WriteString(`[^\n\r]*`)
			i++
		case p[i] == '*':
			re.WriteString(`[^/]*`)
		case p[i] == '?':
			re.WriteString(`[^\n\r]`)
		default:
			re.WriteString(regexp.QuoteMeta(p[i : i+1]))
		}
	}
	re.WriteString(`\z`)
	if want := regexp.MustCompile(re.String()).MatchString(target); got != want {
		t.Fatalf("match(%q, %q) is %v", pattern, target, got)
	}
}

func FuzzSigns(f *testing.F) {
	lines, _ := seeds(f)
	for _, l := range lines {
		f.Add(l)
	}
	f.Fuzz(checkSigns)
}

func checkSigns(t *testing.T, text string) {
	t.Helper()
	begin := time.Now()
	found := Signs(text)
	if took := time.Since(begin); took > slow {
		t.Fatalf("%v for %d bytes", took, len(text))
	}
	// A line more does not hide a sign, except that a second address makes an installer unknown.
	for _, id := range found {
		if more := Signs(text + "\necho"); !slices.Contains(more, id) {
			t.Fatalf("%q: %q is gone with another line: %q", text, id, more)
		}
	}
}

// TestMutations runs the checks of the fuzz targets on random changes of their seeds, without the guidance
// of coverage and many times faster. SHELL_MUTATIONS says how many; SHELL_SEED makes other ones.
func TestMutations(t *testing.T) {
	n, seed := 20_000, uint64(1)
	if s := os.Getenv("SHELL_MUTATIONS"); s != "" {
		if _, err := fmt.Sscan(s, &n); err != nil {
			t.Fatal(err)
		}
	}
	if s := os.Getenv("SHELL_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(seed, 25))
	lines, argvs := seeds(t)
	pool := slices.Clone(lines)
	for _, a := range argvs {
		pool = append(pool, strings.Join(a, "\x00"))
	}
	m, list := fuzzMachine(t)
	platforms := []string{"linux", "linux", "linux", "darwin", "windows"}
	permitted := 0
	for i := range n {
		text := mutated(r, pool)
		switch i % 8 {
		case 0, 1, 2, 3:
			checkLine(t, m, list, text, platforms[i/8%len(platforms)])
			if _, why := m.Permit(m.Line(text), list); why == "" {
				permitted++
			}
		case 4, 5:
			checkArgv(t, m, list, text)
		case 6:
			checkMatch(t, clipTo(text, 100), clipTo(mutated(r, pool), 100))
		default:
			checkSigns(t, text)
		}
		if t.Failed() {
			t.Fatalf("%q", text)
		}
	}
	t.Logf("%d executions, %d lines permitted", n, permitted)
	if permitted < n/1000 {
		t.Error("too few are permitted to say anything")
	}
}

func clipTo(s string, n int) string { return s[:min(n, len(s))] }

// bits are inserted into texts: what has a meaning to shells, to wrappers and to the matcher.
var bits = []string{
	" ", "\t", "\n", "\r\n", "\x00", "'", "\"", "\\", "`", "$", "$(", "${", "$((", ")", "}", "(", "{", "|", "||", "|&", "&", "&&", ";", ";;", "<", "<<", "<<<", "<<-", "<(",
	">", ">>", ">|", "#", "!", "=", "*", "**", "?", "[", "]", "~", "~/", "/", "//", "/../", "..", "./", "--", "-c", "-", "-n5", "--x=", "env ", "nice ", "timeout 5 ", "sh -c ",
	"busybox ", "echo ", "cat ", "rg ", "git ", "a ", "head -n 1", "python3 ", "if ", "then ", "fi", "do ", "EOF", "\nEOF\n", "$'\\x41'", "\u3000", "\u2028", "\u212a", "\ufeff",
	"\u200b", "\xff", "\xc3", "\U0001f600", "%", "^", "base64 -d", "| sh", "curl ", "eval ", "x=1;", "printf \\x41", "A=b ",
}

func mutated(r *rand.Rand, pool []string) string {
	s := pool[r.IntN(len(pool))]
	for range 1 + r.IntN(5) {
		i := r.IntN(len(s) + 1)
		j := min(len(s), i+r.IntN(12))
		switch r.IntN(7) {
		case 0:
			s = s[:i] + s[j:]
		case 1:
			s = s[:j] + s[i:]
		case 2:
			s = s[:i] + string([]byte{byte(r.IntN(256))}) + s[j:]
		case 3:
			other := pool[r.IntN(len(pool))]
			s = s[:i] + other[r.IntN(len(other)+1):]
		default:
			s = s[:i] + bits[r.IntN(len(bits))] + s[i:]
		}
		if len(s) > 4096 {
			s = s[:4096]
		}
	}
	return s
}
