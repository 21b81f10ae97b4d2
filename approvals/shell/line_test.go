package shell

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// argvs are the words of the parts of a line, with the operators.
func argvs(a Analysis) string {
	var b strings.Builder
	for _, s := range a.Segments {
		b.WriteString(s.Op)
		fmt.Fprintf(&b, "%q", s.Argv)
	}
	return b.String()
}

func TestLinesAreReadAsWords(t *testing.T) {
	m := Machine{Platform: "linux"}
	for text, want := range map[string]string{
		"a b":                           `["a" "b"]`,
		"a && b || c | d ; e":           `["a"]&&["b"]||["c"]|["d"];["e"]`,
		"a;b":                           `["a"];["b"]`,
		"a;\nb &&\n\n c":                `["a"];["b"]&&["c"]`,
		"\n a && b \n":                  `["a"]&&["b"]`,
		"a 'b c'\"d e\"f\\ g":           `["a" "b cd ef g"]`,
		"if a; then b; fi":              `["if" "a"];["then" "b"];["fi"]`,
		"for x in y; do z; done":        `["for" "x" "in" "y"];["do" "z"];["done"]`,
		"while a; do b; done":           `["while" "a"];["do" "b"];["done"]`,
		"{ a; }":                        `["{" "a"];["}"]`,
		"! a":                           `["!" "a"]`,
		"A=1 B=2 a":                     `["A=1" "B=2" "a"]`,
		"a # b && c":                    `["a" "#" "b"]&&["c"]`,
		"# a":                           `["#" "a"]`,
		"a ${x:-b c}":                   `["a" "${x:-b" "c}"]`,
		"a $x $1 $@ $# $$":              `["a" "$x" "$1" "$@" "$#" "$$"]`,
		"a $[1+1] ${#x}":                `["a" "$[1+1]" "${#x}"]`,
		"a $'b' $\"c\"":                 `["a" "$b" "$c"]`,
		"a '' b \"\"":                   `["a" "b"]`,
		"[[ a = b ]]":                   `["[[" "a" "=" "b" "]]"]`,
		"function a":                    `["function" "a"]`,
		"a\vb\fc\u00a0d\ufeffe":         `["a" "b" "c" "d" "e"]`,
		"a \\\u3000b":                   `["a" "\u3000b"]`,
		"a '\u3000'":                    `["a" "\u3000"]`,
		"a\u0085b":                      `["a\u0085b"]`,
		"a b\x00c":                      `["a" "b\x00c"]`,
		"a '\r\n' b":                    `["a" "\r\n" "b"]`,
		"a ||| b":                       `["a"]||["b"]`,
		"a <<":                          `["a" "<<"]`,
		"a << | b":                      `["a" "<<"]|["b"]`,
		"a <<E x\nb\nE":                 `["a" "<<E" "x"]`,
		"a << E\nE":                     `["a" "<<" "E"]`,
		"a <<-E | b\n\tx\n\tE\n":        `["a" "<<-E"]|["b"]`,
		"a x<<E\nE":                     `["a" "x<<E"]`,
		"a 3<<E\nE":                     `["a" "3<<E"]`,
		"a <<E && b":                    ``,
		"a && b <<E\n$x it's\nE":        `["a"]&&["b" "<<E"]`,
		"a <<E <<F\nx\nE\ny\nF":         `["a" "<<E" "<<F"]`,
		"a <<'E'\n$(b) `c`\nE":          `["a" "<<E"]`,
		"a <<if\nif\n":                  `["a" "<<if"]`,
		"a <<E\n\\$(b)\nE":              `["a" "<<E"]`,
		"a <<E\nE\nb":                   ``,
		"a <<E\nE\n\n":                  ``,
		"a <<\\E\nE":                    ``,
		"a <<E'F'\nEF":                  ``,
		"a <<'E'F\nEF":                  ``,
		"a <<E\n$(b)\nE":                ``,
		"a <<E\n`b`\nE":                 ``,
		"a <<E\n${b}\nE":                ``,
		"a <<E\nx":                      ``,
		"a\nb <<E\nE":                   ``,
		"a |\nb <<E\nE":                 ``,
		"a <<E\nb; c\nE":                ``,
		"a &":                           ``,
		"a & b":                         ``,
		"a &&& b":                       ``,
		"a |& b":                        ``,
		"a;":                            ``,
		"a &&":                          ``,
		"a |":                           ``,
		"a | | b":                       ``,
		"| a":                           ``,
		"a ; ; b":                       ``,
		"a ;; b":                        ``,
		"a > b":                         ``,
		"a 2>&1":                        ``,
		"a < b":                         ``,
		"a <<< b":                       ``,
		"a <(b)":                        ``,
		"(a)":                           ``,
		"a()":                           ``,
		"a $(b)":                        ``,
		"a \"$(b)\"":                    ``,
		"a `b`":                         ``,
		"a \"`b`\"":                     ``,
		"a $((1))":                      ``,
		"a \\$(b)":                      ``,
		"a\nb":                          ``,
		"a\n":                           ``,
		"\na":                           ``,
		"a\rb":                          ``,
		"a \"b\nc\"":                    ``,
		"a \\\nb":                       ``,
		"a '\\\r'":                      ``,
		"a 'b":                          ``,
		"a \"b":                         ``,
		"a \\":                          ``,
		"a \\ ":                         ``,
		"":                              ``,
		" \t":                           ``,
		"''":                            ``,
		"'' a":                          ``,
		"a \xff":                        ``,
		strings.Repeat("a", 64<<10):     fmt.Sprintf("[%q]", strings.Repeat("a", 64<<10)),
		strings.Repeat("a", 64<<10+1):   ``,
		strings.Repeat("a;", 512) + "a": ``,
	} {
		a := m.Line(text)
		got := ""
		if a.OK {
			got = argvs(a)
		}
		if got != want || a.OK != (a.Reason == "") {
			t.Errorf("%.60q: %.80s %s, want %.80s", text, got, a.Reason, want)
		}
	}
}

func TestExactLines(t *testing.T) {
	m := Machine{Platform: "linux"}
	for text, want := range map[string]bool{
		"git log -n5 --format=%H | head; a/b && ./c.sh": true,
		`a 'x y' "z" b\ c \$d "\$e" '$f' '*' \*`:        true,
		"a 'é' \"\u3000x\"":                             false,
		"a $x":                                          false,
		"a \"$x\"":                                      false,
		"a *":                                           false,
		"a ?":                                           false,
		"a [b]":                                         false,
		"a ~":                                           false,
		"a b=~/c":                                       false,
		"a {b,c}":                                       false,
		"a !b":                                          false,
		"a =b":                                          false,
		"a # b":                                         false,
		"a ''":                                          false,
		"a é":                                           false,
		"a\u00a0b":                                      false,
		"a '\x01'":                                      false,
		"A=1 b":                                         false,
		"if a; then b; fi":                              false,
		"time a":                                        false,
		"eval a":                                        false,
		"a; . b":                                        false,
		"exec a":                                        false,
		"'eval' a":                                      false,
		"cd x && a":                                     false,
		"a <<E\nE":                                      false,
		"a ||| b":                                       false,
		"a\n&& b":                                       false,
		"a '\n' && b":                                   true,
		"a > b":                                         false,
		"a b\x00":                                       false,
	} {
		if a := m.Line(text); a.Exact != want {
			t.Errorf("%q: %v", text, a.Exact)
		}
	}
	if a := (Machine{Platform: "windows"}).Line("git status"); a.Exact || !a.OK {
		t.Errorf("%+v", a)
	}
}

func TestWindowsLines(t *testing.T) {
	for _, platform := range []string{"windows", " Win32 ", "WINNT"} {
		m := Machine{Platform: platform}
		for text, want := range map[string]string{
			`git status; rm x`: `["git" "status;" "rm" "x"]`,
			`git "a b"c 'd e'`: `["git" "a bc" "'d" "e'"]`,
			`C:\x\y.exe $x`:    `["C:\\x\\y.exe" "$x"]`,
			"a\u3000b":         `["a" "b"]`,
			`a "&"`:            ``,
			`a | b`:            ``,
			`a ^b`:             ``,
			`a %b%`:            ``,
			`a !b!`:            ``,
			"a\nb":             ``,
			`a "b`:             ``,
			`""`:               ``,
			``:                 ``,
		} {
			a := m.Line(text)
			if got := argvs(a); got != want || a.OK != (want != "") {
				t.Errorf("%q: %s %s", text, got, a.Reason)
			}
			if _, why := m.Enforced(a); why == "" {
				t.Errorf("%q has an enforced text", text)
			}
		}
	}
}

// programs makes a machine with executables of these names, and links to them.
func programs(t *testing.T, names []string, links map[string]string) (Machine, string) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs the executable bit")
	}
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(root, n), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for l, to := range links {
		if err := os.Symlink(filepath.Join(root, to), filepath.Join(root, l)); err != nil {
			t.Fatal(err)
		}
	}
	return Machine{Path: root, Home: root, Cwd: root}, root
}

func TestCoverStopsAtTheFirstMiss(t *testing.T) {
	m, root := programs(t, []string{"a", "b", "sh"}, nil)
	list := List{Patterns: []string{root + "/a"}}
	for text, want := range map[string]Coverage{
		"a && a":               {OK: true, Satisfied: true, By: []string{"allowlist", "allowlist"}, Matches: []string{root + "/a", root + "/a"}, Listed: 2},
		"b && a $(x)":          {OK: true, By: []string{""}, Listed: 1},
		"b | a && a":           {OK: true, By: []string{""}, Listed: 2},
		"a | b && a":           {OK: true, By: []string{"allowlist", ""}, Matches: []string{root + "/a"}, Listed: 2},
		"a && a $(x)":          {},
		"b; a 'x":              {OK: true, By: []string{""}, Listed: 1},
		"a; a 'x":              {},
		"env env env env sh x": {OK: true, By: []string{""}, Listed: 1},
	} {
		got := m.Cover(m.Line(text), list)
		if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
	if got := m.Cover(m.Line("env env env env sh -c x"), List{Patterns: []string{"*"}}); got.Satisfied {
		t.Error("a hidden shell is covered")
	}
	if got := m.Cover(Analysis{}, List{Patterns: []string{"*"}}); got.Satisfied || got.OK {
		t.Errorf("nothing is covered: %+v", got)
	}
}

func TestEnforcedKeepsTheNameOfAnApplet(t *testing.T) {
	m, root := programs(t, []string{"busybox", "a"}, map[string]string{"ls": "busybox", "link": "a"})
	text, why := m.Enforced(m.Line("nice ls x && link 'it'\\''s'"))
	if want := "'" + root + "/ls' 'x' && '" + root + `/a' 'it'"'"'s'`; text != want || why != "" {
		t.Errorf("%s %s", text, why)
	}
	for _, line := range []string{"sudo a", "a && env A=1 a", "a $(x)"} {
		if text, why := m.Enforced(m.Line(line)); text != "" || why == "" {
			t.Errorf("%q: %q", line, text)
		}
	}
}

func TestKeptWrappers(t *testing.T) {
	m, root := programs(t, []string{"a", "timeout", "A=x"}, nil)
	m.Path += ":/usr/bin:/bin"
	nice, err := filepath.EvalSymlinks("/usr/bin/nice")
	if err != nil || filepath.Base(nice) != "nice" {
		t.Skip("this system has no nice of its own")
	}
	for _, tc := range []struct{ argv, want []string }{
		{[]string{"a", "x"}, []string{root + "/a", "x"}},
		{[]string{"nice", "-n", "5", "a", "x"}, []string{nice, "-n", "5", root + "/a", "x"}},
		{[]string{"nice", "nice", "-n5", "a"}, []string{nice, nice, "-n5", root + "/a"}},
		{[]string{"nice", "-N", "5", "a"}, nil},    // not what nice reads
		{[]string{"nice", " -n", "5", "a"}, nil},   // neither
		{[]string{"timeout", "5", "a"}, nil},       // not the system's
		{[]string{root + "/nice", "a"}, nil},       // neither
		{[]string{"env", "A=1", "a"}, nil},         // blocked
		{[]string{"env", "--", "./A=x", "a"}, nil}, // env would take it for an assignment
		{[]string{"nice", "gone"}, nil},
	} {
		a := m.Argv(tc.argv)
		if got, ok := m.Kept(a.Segments[0]); ok != (tc.want != nil) || !slices.Equal(got, tc.want) {
			t.Errorf("%q: %q", tc.argv, got)
		}
	}
}

// TestHostileTextIsCheap is about time: each of these took a second somewhere.
func TestHostileTextIsCheap(t *testing.T) {
	m := Machine{Path: "/usr/bin:/bin", Home: "/", Cwd: "/"}
	for _, s := range []string{
		"a|", "a;", "a && ", "$(", "(", "`", "\"", "''", "\\", "{", "if ", "$((", "<<", "<<E ", "<<E\n", "\"$(", "${x:-", "\u3000", "#", "[[", "sh -c ",
		"env ", "$'\\x", "<(", "a(){ ", "case a in a) ", "a=(", "${a[", "|", "&", "'", "\n", "../", "a\n;",
	} {
		text := strings.Repeat(s, MaxText/len(s))
		start := time.Now()
		a := m.Line(text)
		m.Cover(a, List{Patterns: []string{"/usr/**/x", "*"}, SafeBins: DefaultSafeBins})
		m.AllowAlways(a.Segments)
		m.Enforced(a)
		if _, err := Key([]string{"sh", "-c", text}); err == nil {
			t.Errorf("%q: has a key", s)
		}
		if d := time.Since(start); d > 500*time.Millisecond { // it is a tenth of that; the machine may be busy
			t.Errorf("%q: %v", s, d)
		}
	}
}

func TestInlineTextThatWouldNotRun(t *testing.T) {
	for _, argv := range [][]string{
		{"sh", "x.sh", "-c", "a b"}, {"bash", "-C", "a b"}, {"sh", "-e", "x.sh", "-c", "a"}, {"sh", "-", "-c", "a"}, {"nice", "sh", "x", "-c", "a"},
		{"bash", "--rcfile", "x", "-ic", "a"}, {"bash", "--init-file", "x", "-ic", "a"}, {"fish", "--init-command=x", "-c", "a"},
		{"pwsh", "x.ps1", "-Command", "a"}, {"pwsh", "-NoProfile", "x.ps1", "-c", "a"}, {"pwsh", "-File", "x", "-c", "a"}, {"pwsh", "-f", "x", "-c", "a"},
		{"cmd", "x.bat", "/c", "a"}, {"busybox", "sh", "x", "-c", "a"},
	} {
		if sh, ok := FindInline(argv); ok && !sh.Misread {
			t.Errorf("%q shows %q", argv, sh.Text)
		}
	}
	for _, argv := range [][]string{
		{"sh", "-c", "a"}, {"sh", "-lc", "a"}, {"bash", "-xec", "a"}, {"bash", "--norc", "--noprofile", "-c", "a"}, {"bash", "-o", "pipefail", "-c", "a"},
		{"bash", "-eo", "pipefail", "-c", "a"}, {"bash", "+x", "-c", "a"}, {"sh", "-ce", "a"}, {"sh", "-c", "-e", "a"}, {"sh", "-c"}, {"sh", "-ca"},
		{"env", "A=1", "sh", "x", "-c", "a"}, {"fish", "--command", "a"}, {"bash", "--command", "a"}, {"sh", "x", "-c", "a", "b"},
		{"pwsh", "-NoProfile", "-ExecutionPolicy", "Bypass", "-Command", "a"}, {"pwsh", "-c", "a"}, {"cmd", "/d", "/s", "/c", "a"},
	} {
		if sh, _ := FindInline(argv); sh.Misread {
			t.Errorf("%q is misread", argv)
		}
	}
}
