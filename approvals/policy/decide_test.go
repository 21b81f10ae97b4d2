package policy

import "testing"

// TestDecisionTable is nodes-approvals.md §7.1 in full, written down independently of the vectors.
func TestDecisionTable(t *testing.T) {
	n := 0
	for _, sec := range []Security{SecurityDeny, SecurityAllowlist, SecurityFull} {
		for _, ask := range []Ask{AskOff, AskOnMiss, AskAlways} {
			for _, analysis := range []string{"hit", "miss", "unparsed"} {
				for _, shell := range []bool{false, true} {
					for _, approval := range []string{"none", "allow-once", "allow-always", "approved-flag"} {
						n++
						covered, approved := analysis == "hit", approval != "none"
						want := ""
						switch {
						case sec == SecurityDeny:
							want = "security=deny"
						case approved:
						case ask == AskAlways:
							want = "approval-required"
						case sec == SecurityFull:
						case covered && !shell:
						case ask == AskOnMiss:
							want = "approval-required"
						default:
							want = "allowlist-miss"
						}
						if got := Decide(sec, ask, covered, shell, approved); got.Reason != want || got.Run != (want == "") {
							t.Errorf("%s %s %s shell=%v %s: %+v, want %q", sec, ask, analysis, shell, approval, got, want)
						}
					}
				}
			}
		}
	}
	if n != 216 {
		t.Fatalf("%d combinations", n)
	}
}
