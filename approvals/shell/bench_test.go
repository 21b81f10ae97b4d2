package shell

import (
	"strings"
	"testing"
	"time"
)

const typicalLine = `git log --oneline -n 20 | grep -e "fix: " | head -n 3 && git status --short`

// long are texts of 64 KiB that are meant to take time: each repeats what one part of the analysis works
// at, and stops short of what would end it early.
func long() map[string]string {
	fill := func(unit string) string { return strings.Repeat(unit, MaxText/len(unit)) }
	return map[string]string{
		"words":       fill("a "),
		"quotes":      fill("''"),
		"pipes":       "echo " + fill("|a")[:MaxText-5],
		"chain":       fill("a;")[:MaxText-1],
		"open":        "echo '" + fill("a")[:MaxText-6],
		"nested":      fill("$("),
		"braces":      fill("${"),
		"backticks":   fill("`\\"),
		"heredocs":    fill("<<A "),
		"bodies":      "cat " + fill("<<A ")[:MaxText/2] + "\n" + fill("A\n")[:MaxText/2-6],
		"backslashes": "echo " + fill("\\")[:MaxText-5],
		"blanks":      "echo" + strings.Repeat("\u3000", (MaxText-5)/3) + "a",
		"base64":      fill("base64 -d "),
		"printf":      fill(`printf \x41 `),
		"printfs":     fill("printf ")[:MaxText/2] + `\x41` + strings.Repeat("\n| sh;", MaxText/2/7),
		"pipe shells": fill("| sh; "),
		"assignments": fill("a=b;"),
		"substitutes": fill(`sh -c "$(base64 `),
		"ansi":        fill(`$'\x41`),
		"eval":        fill("eval "),
		"python":      fill("python -c "),
		"sources":     fill(". <( "),
		"urls":        fill("curl http://a "),
		"wrappers":    fill("nice "),
		"paths":       "/" + fill("a/")[:MaxText-1],
		"parentheses": fill("("),
		"case":        fill("case a in "),
		"functions":   fill("f(){ "),
		"ifs":         fill("if "),
		"zero":        fill("\x00"),
		"wide":        fill("\U0001f600"),
		"invalid":     fill("\xff"),
		"redirects":   "echo " + fill(">a ")[:MaxText-5],
		"dollars":     "echo " + fill("$")[:MaxText-5],
	}
}

func BenchmarkLine(b *testing.B) {
	m, list := fuzzMachine(b)
	for _, c := range []struct{ name, text string }{
		{"one", "git status"}, {"typical", typicalLine}, {"heredoc", "cat <<'EOF' | head -n 1\na\nb\nEOF"}, {"refused", "echo $(id) > x"},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m.Permit(m.Line(c.text), list)
			}
		})
	}
}

func BenchmarkArgv(b *testing.B) {
	m, list := fuzzMachine(b)
	argv := []string{"git", "log", "--oneline", "-n", "20"}
	b.ReportAllocs()
	for b.Loop() {
		m.Permit(m.Argv(argv), list)
	}
}

func BenchmarkSigns(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Signs(typicalLine)
	}
}

func BenchmarkHostile(b *testing.B) {
	m, list := fuzzMachine(b)
	for name, text := range long() {
		b.Run(strings.ReplaceAll(name, " ", "-"), func(b *testing.B) {
			for b.Loop() {
				m.Permit(m.Line(text), list)
				Signs(text)
			}
		})
	}
}

// Slack for the bars on a machine that is busy with other tests, and under the race detector.
const slack = 15

// best is the shortest of a few tries: what the work costs, not what else the machine did.
func best(n int, work func()) time.Duration {
	least := time.Hour
	for range n {
		begin := time.Now()
		work()
		least = min(least, time.Since(begin))
	}
	return least
}

// TestSpeed holds the bars: 50 µs for a typical line, 20 ms for 64 KiB of hostile text.
func TestSpeed(t *testing.T) {
	m, list := fuzzMachine(t)
	if took := best(200, func() { m.Permit(m.Line(typicalLine), list) }); took > 50*time.Microsecond*slack {
		t.Errorf("a typical line takes %v", took)
	} else {
		t.Logf("a typical line takes %v", took)
	}
	for name, text := range long() {
		if len(text) > MaxText || len(text) < MaxText*9/10 {
			t.Errorf("%s is %d bytes long", name, len(text))
		}
		took := best(3, func() {
			m.Permit(m.Line(text), list)
			Signs(text)
		})
		if took > 20*time.Millisecond*slack {
			t.Errorf("%s: %v", name, took)
		}
		if took > 10*time.Millisecond {
			t.Logf("%s: %v", name, took)
		}
	}
}
