package shell_test

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/approvals/shell"
)

// hostile is one line of testdata/hostile.txt.
type hostile struct {
	number             int
	attack, list, mode string
	text               string
	argv               []string
	missing            bool // that the program is not there is the point
}

func readHostile(tb testing.TB, root string) (all []hostile) {
	tb.Helper()
	f, err := os.Open("testdata/hostile.txt")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	attack := ""
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.ReplaceAll(lines.Text(), "{root}", root)
		if heading, ok := strings.CutPrefix(line, "== "); ok {
			attack = heading
			continue
		}
		if line == "" || line[0] == '#' {
			continue
		}
		h := hostile{number: n, attack: attack}
		var rest string
		h.list, rest, _ = strings.Cut(line, " ")
		h.mode, h.text, _ = strings.Cut(rest, " ")
		h.mode, h.missing = strings.TrimSuffix(h.mode, "?"), strings.HasSuffix(h.mode, "?")
		switch {
		case h.mode == "argv":
			err = json.Unmarshal([]byte(h.text), &h.argv)
		case strings.HasPrefix(h.text, `"`) && json.Valid([]byte(h.text)):
			err = json.Unmarshal([]byte(h.text), &h.text)
		}
		if err != nil || attack == "" || h.text == "" {
			tb.Fatalf("testdata/hostile.txt:%d: %v", n, err)
		}
		all = append(all, h)
	}
	if err := lines.Err(); err != nil {
		tb.Fatal(err)
	}
	return all
}

// ground is the tree of files that hostile lines are tried in, and the lists.
type ground struct {
	root  string
	lists map[string]shell.List
}

func newGround(tb testing.TB) *ground {
	tb.Helper()
	root, err := filepath.EvalSymlinks(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	names := append(shell.Carriers(), strings.Fields(`echo cat ls rm rg head tail tr wc cut uniq jq grep touch base64 xxd tee id diff printf env nice nohup stdbuf
		timeout sudo doas setsid ionice chrt taskset sh bash dash zsh ksh fish ash busybox toybox coreutils pwsh powershell powershell.exe cmd cmd.exe eval
		python3.11 ld-linux-x86-64.so.2 SH CMD Rscript true`)...)
	var files []string
	for _, n := range names {
		files = append(files, "bin/"+n)
	}
	files = append(files, "opt/bin/evil", "opt/bin/head", "proj/tool", "proj/sub/run", "proj/echo", "home/bin/mytool", "opt/bin/echo-evil")
	for _, p := range files {
		path := filepath.Join(root, p)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	for _, dir := range []string{"bin/dirtool", "links"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "bin/noexec"), nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	for l, to := range map[string]string{
		"links/head": "opt/bin/evil", "links/dangling": "nowhere", "links/python": "bin/python3", "bin/links-to-sh": "bin/sh",
	} {
		if err := os.Symlink(filepath.Join(root, to), filepath.Join(root, l)); err != nil {
			tb.Fatal(err)
		}
	}
	bins := []string{"jq", "cut", "uniq", "head", "tail", "tr", "wc", "grep", "sort"}
	all := shell.List{
		Patterns: []string{"*", root + "/bin/*", root + "/bin/**", root + "/**", "/**"}, SafeBins: names,
		TrustedDirs: []string{root + "/bin", root + "/links", root + "/opt/bin"}, AutoAllowSkills: true,
	}
	for _, n := range names {
		all.Skills = append(all.Skills, shell.Skill{Name: n, Path: root + "/bin/" + n})
	}
	return &ground{root: root, lists: map[string]shell.List{
		"all":  all,
		"echo": {Patterns: []string{root + "/bin/echo", root + "/bin/cat"}},
		"safe": {SafeBins: bins, TrustedDirs: []string{root + "/bin"}},
	}}
}

func (g *ground) machine(platform string) shell.Machine {
	return shell.Machine{
		Platform: platform, Home: g.root + "/home", Cwd: g.root + "/proj", Path: g.root + "/bin" + string(os.PathListSeparator) + "sub" + string(os.PathListSeparator) + ".",
	}
}

func (g *ground) analyse(h hostile) (shell.Machine, shell.Analysis) {
	m := g.machine("linux")
	if h.mode == "win" {
		m.Platform = "windows"
	}
	if h.mode == "argv" {
		return m, m.Argv(h.argv)
	}
	return m, m.Line(h.text)
}

// TestHostileLines has none of them run without a question, under lists as generous as mistakes make
// them.
func TestHostileLines(t *testing.T) {
	g := newGround(t)
	all := readHostile(t, g.root)
	if len(all) < 200 {
		t.Fatalf("%d lines", len(all))
	}
	for _, h := range all {
		list, known := g.lists[h.list]
		if !known || !slices.Contains([]string{"line", "argv", "win"}, h.mode) {
			t.Fatalf("testdata/hostile.txt:%d: %s %s", h.number, h.list, h.mode)
		}
		m, a := g.analyse(h)
		c, why := m.Permit(a, list)
		if why == "" {
			t.Errorf("hostile.txt:%d (%s): %s runs: %v by %v %v", h.number, h.attack, h.text, a.Segments, c.By, c.Matches)
		}
		// A line must not be denied for the wrong reason alone: its programs are there.
		there := true
		for _, s := range a.Segments {
			there = there && (s.Path != "" || s.Blocked != "")
		}
		if a.OK && there == h.missing {
			t.Errorf("hostile.txt:%d: %s: the programs are there: %v", h.number, h.text, there)
		}
	}
}

// TestOrdinaryLines are covered under the same lists: the lines above are not denied because everything
// is.
func TestOrdinaryLines(t *testing.T) {
	g := newGround(t)
	for _, c := range []struct{ list, mode, text string }{
		{"all", "line", "git status"}, {"all", "line", "git log --oneline | head -n 5"}, {"all", "line", "rg x && ls -la ; echo done"},
		{"all", "line", "timeout 5 rg x"}, {"all", "line", "nice -n 5 make test"}, {"all", "line", "find . -name '*.go' | wc -l"},
		{"all", "line", "awk '{print $1}' f"}, {"all", "line", "sed -n 1,5p f"}, {"all", "line", "tar xzf a.tgz"}, {"all", "win", "git status"},
		{"all", "line", "./tool a"}, {"all", "line", "~/bin/mytool 'a; b'"}, {"echo", "line", "echo a | cat"}, {"echo", "line", "echo 'a > b'"},
		{"echo", "line", "echo $HOME *"}, {"safe", "line", "head -n 1 | tr a-z A-Z"}, {"safe", "line", "jq .a | wc"}, {"all", "line", "diff a b"},
	} {
		h := hostile{list: c.list, mode: c.mode, text: c.text}
		m, a := g.analyse(h)
		if _, why := m.Permit(a, g.lists[c.list]); why != "" {
			t.Errorf("%s: %s", c.text, why)
		}
	}
}

// Bytes that are no UTF-8 keep their places when case is folded: what is cut out of a word by the place
// found in its folded form is there.
func TestBytesThatAreNoText(t *testing.T) {
	for _, argv := range [][]string{
		{"sh", "-\xff\xffCx"}, {"sh", "-\xff\xff\xffc"}, {"env", "-\xff\xff\xff", "sh", "-\xff\xffc"}, {"\xff\xfe", "-c"}, {"cmd", "/\xffc", "x"}, {"nice", "-n\xff", "x"},
	} {
		m := shell.Machine{Platform: "linux"}
		shell.FindInline(argv)
		m.AllowAlways(m.Argv(argv).Segments)
		m.Programs(argv)
		_, _ = shell.Key(argv)
	}
}
