//go:build unix

package interop

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// step is one command that is given at both gateways, one after the other at each.
type step struct {
	// line is the command, with 'words of several' in quotes. {name} stands for what an earlier step of the
	// same family kept under that name, and {home} for the home of the user.
	line string
	// keep says what of the JSON that the command prints later steps need, by name.
	keep map[string][]any
	// but are the differences that are none, by the key path or the line (a regular expression that fits all
	// of it), each with its reason.
	but map[string]string
	// own says why what is printed cannot be compared; the exit code still is.
	own string
	// row is the row of fixtures/deviations.yaml by which hanzod answers otherwise, with exit code 1 and says.
	row, says string
	// again is what is printed when this machine was too slow for one of the client's own limits; the command, which
	// only reads, is given again then.
	again string
}

// tries is how often a command with again is given at the most.
const tries = 5

// side is one of the two gateways, with the user who gives it commands.
type side struct {
	*client
	kept map[string]string
}

// sides starts hanzod and the client's gateway for two users whose configurations are the same. hanzod reads
// the very file of its user, as the client's gateway does.
func sides(tb testing.TB) (ours, theirs *side) {
	tb.Helper()
	root := proc.Dir(tb) // one for both, so that their paths are of the same length
	user := func(name string) *client {
		home := filepath.Join(root, name)
		if err := os.Mkdir(home, 0o700); err != nil {
			tb.Fatal(err)
		}
		return newClientIn(tb, home, nil)
	}
	configure := func(c *client, port int) {
		writeJSON(tb, filepath.Join(c.home, "state", "openclaw.json"), map[string]any{
			"gateway": map[string]any{
				"mode": "local", "bind": "loopback", "port": port,
				"auth": map[string]any{"mode": "token", "token": token},
			},
			"logging": map[string]any{"file": c.path("client.log")},
			"browser": map[string]any{"enabled": false}, // it would listen on a port that nobody reserved
			"agents": map[string]any{"defaults": map[string]any{
				"workspace": c.path("workspace"), "heartbeat": map[string]any{"every": "0m"},
			}},
		})
	}
	a, b := user("ours"), user("them")
	state := a.path("house") // as long as their "state"
	if err := os.Mkdir(state, 0o700); err != nil {
		tb.Fatal(err)
	}
	d := proc.New(tb, proc.Options{Form: proc.Tested, State: state, Args: []string{"--config", filepath.Join(a.home, "state", "openclaw.json")}})
	configure(a, d.Port)
	d.Start()
	port := proc.FreePort(tb)
	configure(b, port)
	startGateway(tb, b, port)
	return &side{client: a, kept: map[string]string{"home": a.home}}, &side{client: b, kept: map[string]string{"home": b.home}}
}

var word = regexp.MustCompile(`'[^']*'|\S+`)

// args are the words of a step's line at one side.
func (s *side) args(tb testing.TB, line string) []string {
	tb.Helper()
	args := word.FindAllString(line, -1)
	for i, a := range args {
		a = strings.Trim(a, "'")
		for k, v := range s.kept {
			a = strings.ReplaceAll(a, "{"+k+"}", v)
		}
		args[i] = a
	}
	return args
}

// give gives the command of a step and keeps what later ones need.
func (s *side) give(tb testing.TB, p step) answer {
	tb.Helper()
	a := s.call(tb, s.args(tb, p.line)...)
	for n := 1; n < tries && p.again != "" && strings.Contains(a.stdout, p.again); n++ {
		a = s.call(tb, s.args(tb, p.line)...)
	}
	if len(p.keep) == 0 {
		return a
	}
	var v any
	if err := json.Unmarshal([]byte(a.stdout), &v); err != nil {
		tb.Errorf("it printed no JSON: %v\n%s", err, a)
	}
	for name, path := range p.keep {
		text, _ := get(v, path...).(string)
		if text == "" {
			tb.Errorf("there is nothing to keep at %v\n%s", path, a)
		}
		s.kept[name] = text
	}
	return a
}

// TestCLISame gives hanzod and the client's own gateway the same commands of the client in the same order, and
// demands the same: the exit code; the keys of what is printed as JSON; the lines of what is printed as text,
// but for times, ids and the like.
func TestCLISame(t *testing.T) {
	t.Parallel()
	theClient(t)
	ours, theirs := sides(t)
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			answers := make([][]answer, 2)
			t.Run("ask", func(t *testing.T) {
				for i, s := range []*side{ours, theirs} {
					t.Run([]string{"hanzod", "theirs"}[i], func(t *testing.T) {
						t.Parallel()
						for _, p := range f.steps {
							answers[i] = append(answers[i], s.give(t, p))
						}
					})
				}
			})
			for i, p := range f.steps {
				if i >= len(answers[0]) || i >= len(answers[1]) {
					t.Fatal("not every command was given at both")
				}
				t.Run(p.line, func(t *testing.T) { compare(t, p, answers[0][i], answers[1][i]) })
			}
		})
	}
}

// compare demands that both answers to a step are the same.
func compare(t *testing.T, p step, ours, theirs answer) {
	t.Helper()
	if p.row != "" {
		if text, err := os.ReadFile(filepath.Join(proc.Root(t), "fixtures", "deviations.yaml")); err != nil || !strings.Contains(string(text), "- id: "+p.row+"\n") {
			t.Errorf("fixtures/deviations.yaml has no row %s (%v)", p.row, err)
		}
		if ours.demand(t, 1, p.says); theirs.code != 0 {
			t.Errorf("theirs refuses this too: the row is not needed for it\n%s", theirs)
		}
		return
	}
	if p.again != "" && (strings.Contains(ours.stdout, p.again) || strings.Contains(theirs.stdout, p.again)) {
		t.Skipf("this machine is too slow for the client's limits\n%s\n%s", ours, theirs)
	}
	var bad []string
	if ours.code != theirs.code {
		bad = append(bad, fmt.Sprintf("the exit codes are %d and %d", ours.code, theirs.code))
	}
	if p.own == "" {
		a, isJSON := keyPaths(ours.stdout)
		b, both := keyPaths(theirs.stdout)
		if !isJSON || !both {
			a, b = lines(ours), lines(theirs)
		}
		used := map[string]bool{}
		for _, d := range []struct {
			who  string
			list []string
		}{{"only hanzod", without(a, b)}, {"only theirs", without(b, a)}} {
			for _, l := range d.list {
				if k := p.excuse(l); k != "" {
					used[k] = true
					continue
				}
				bad = append(bad, d.who+": "+l)
			}
		}
		for k := range p.but {
			if !used[k] {
				t.Logf("no difference fits %q any more, which %s", k, p.but[k])
			}
		}
	}
	if len(bad) > 0 {
		t.Errorf("%s\n=== hanzod\n%s\n=== theirs\n%s", strings.Join(bad, "\n"), ours, theirs)
	}
}

// excuse is the entry of but that a difference fits, "" for none.
func (p step) excuse(text string) string {
	for k := range p.but {
		if regexp.MustCompile("^(?:" + k + ")$").MatchString(text) {
			return k
		}
	}
	return ""
}

// without are the members of a that b does not have, counting how often each is there.
func without(a, b []string) (only []string) {
	count := map[string]int{}
	for _, l := range b {
		count[l]++
	}
	for _, l := range a {
		if count[l]--; count[l] < 0 {
			only = append(only, l)
		}
	}
	return only
}

// keyPaths are the paths of keys in a text that is JSON, or lines of JSON; those of a list are the union of its
// members' paths.
func keyPaths(text string) (paths []string, ok bool) {
	set := map[string]bool{}
	dec := json.NewDecoder(strings.NewReader(text))
	n := 0
	for ; dec.More(); n++ {
		var v any
		if dec.Decode(&v) != nil {
			return nil, false
		}
		walk(set, "", v)
	}
	return slices.Sorted(maps.Keys(set)), n > 0
}

func walk(set map[string]bool, at string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, m := range v {
			k = at + "." + mark(k)
			set[k] = true
			walk(set, k, m)
		}
	case []any:
		for _, m := range v {
			walk(set, at+"[]", m)
		}
	}
}

// lines are the lines of what a command printed, marked, without empty ones.
func lines(a answer) (out []string) {
	for l := range strings.Lines(a.stdout + "\n" + a.stderr) {
		l = strings.TrimSpace(gaps.ReplaceAllString(l, " "))
		switch n := len(out) - 1; {
		case l == "":
		case n >= 0 && strings.HasPrefix(l, "│ │") && strings.Count(l, "│") == strings.Count(out[n], "│"):
			out[n] = joined(out[n], l)
		default:
			out = append(out, l)
		}
	}
	for i, l := range out {
		out[i] = mark(l)
	}
	return out
}

// joined is the row of a table with the next line of text in its cells.
func joined(row, next string) string {
	cells := strings.Split(row, "│")
	for i, c := range strings.Split(next, "│") {
		if c = strings.TrimSpace(c); c != "" {
			cells[i] = strings.TrimRight(cells[i], " ") + " " + c + " "
		}
	}
	return strings.Join(cells, "│")
}

// gaps are what lays text out, as wide as the longest member of a column.
var gaps = regexp.MustCompile(`[\s─━═-]{2,}|\s`)

// mark puts marks in place of what differs from run to run and side to side.
func mark(s string) string {
	for _, r := range marks {
		s = r.find.ReplaceAllString(s, r.with)
	}
	return s
}

var marks = []struct {
	find *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`\x1b\[[0-9;?]*[a-zA-Z]`), ""},
	{regexp.MustCompile(`/[\w/.-]*/hz\d+/(ours|them)`), "<home>"},
	{regexp.MustCompile(`(~|<home>)/(state|house)`), "<state>"},
	{regexp.MustCompile(`\b(app|version) [\d.]+\b`), "$1 <version>"},
	{regexp.MustCompile(`pid \d+ .*`), "<process>"},
	{regexp.MustCompile(`[0-9a-f]{64}`), "<hash>"},
	{regexp.MustCompile(`\b[0-9a-f]{27}\b|\b[0-9a-f]{10} │`), "<hash> │"}, // one that a narrow column breaks
	{regexp.MustCompile(`"[\w-]{43}"`), `"<token>"`},
	{regexp.MustCompile(`~/(\.openclaw|state|house)/exec-approvals`), "<state>/exec-approvals"}, // theirs keeps it there always
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "<uuid>"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?(Z|[+-]\d\d:\d\d)?`), "<date>"},
	{regexp.MustCompile(`\b1[0-9]{12}\b`), "<time>"},
	{regexp.MustCompile(`\b(127\.0\.0\.1|localhost):\d+`), "<address>"},
	{regexp.MustCompile(`\b([Pp]ort[= ])\d+`), "$1<port>"},
	{regexp.MustCompile(`\bjust now\b|\b(in )?<?\d+[smhd]( ago)?\b`), "<ago>"},
	{regexp.MustCompile(`\b\d+(\.\d+)?\s?ms\b`), "<n>ms"},
}
