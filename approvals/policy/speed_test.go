package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDecideSpeed is P17: a decision by 100 rules, with the reading of the line. The bar is 200 µs at the
// 99th percentile; here it is the median with slack, because other tests run meanwhile. "make bench"
// measures the percentile.
func TestDecideSpeed(t *testing.T) {
	var rules strings.Builder
	rules.WriteString("{version: 1, rules: [\n")
	for i := range 99 {
		fmt.Fprintf(&rules, "{name: \"r%d\", effect: \"deny\", argv: [[\"tool-%d\", \"**\"], [\"/opt/%d/bin/x\", \"--force\", \"**\"]], cwd: \"/srv/**\"},\n", i, i, i)
	}
	rules.WriteString(`{name: "last", effect: "allow", argv: [["git", "**"], ["grep", "**"], ["head", "**"]]}]}`)
	r := mustRules(t, rules.String())
	q := Query{Argv: []string{"/bin/sh", "-lc", `git log --oneline -n 20 | grep -e "fix: " | head -n 3 && git status`}, Cwd: "/srv/app", NodeID: "n", At: time.Now()}
	took := make([]time.Duration, 500)
	for i := range took {
		begin := time.Now()
		got := r.Decide(q)
		took[i] = time.Since(begin)
		if got.Effect != EffectAllow {
			t.Fatalf("%+v", got)
		}
	}
	slices.Sort(took)
	t.Logf("median %v, 99th percentile %v", took[len(took)/2], took[len(took)*99/100])
	if took[len(took)/2] > 5*200*time.Microsecond {
		t.Errorf("the median is %v", took[len(took)/2])
	}
}
