package migrate

import (
	"cmp"
	"slices"
	"strings"
)

// maxTold bounds the findings of sessions that are named one by one; what is beyond is counted.
const maxTold = 100

// sessionTally gathers what became of many things.
type sessionTally struct {
	part   string // of the findings; "" is that of sessions
	told   []Finding
	counts map[Finding]*Finding // by what they have in common
}

// add notes what became of a thing. What somebody should look at is told by its path, all else is counted below the
// path that many share.
func (t *sessionTally) add(one, many string, o Outcome, why string, bytes int64) {
	f := Finding{Part: cmp.Or(t.part, partSessions), Path: many, Outcome: o, Why: why}
	if many == "" || ((o == Kept || o == Fault || o == Left && why != "") && len(t.told) < maxTold) {
		f.Path, f.Count, f.Bytes = one, 1, bytes
		t.told = append(t.told, f)
		return
	}
	sum := t.sum(f)
	sum.Count++
	sum.Bytes += bytes
}

// count notes that the same became of several things of a path.
func (t *sessionTally) count(path string, o Outcome, n int) {
	if n > 0 {
		t.sum(Finding{Part: cmp.Or(t.part, partSessions), Path: path, Outcome: o}).Count += n
	}
}

// sum is what gathers all that have these in common.
func (t *sessionTally) sum(f Finding) *Finding {
	if t.counts == nil {
		t.counts = map[Finding]*Finding{}
	}
	s := t.counts[f]
	if s == nil {
		s = &f
		t.counts[f] = s
	}
	return s
}

func (t *sessionTally) join(other *sessionTally) {
	t.told = append(t.told, other.told...)
	for key, f := range other.counts {
		sum := t.sum(key)
		sum.Count += f.Count
		sum.Bytes += f.Bytes
	}
}

// report hands the findings over in an order of their own: workers end in any.
func (t *sessionTally) report(r *run) {
	all := slices.Clone(t.told)
	for _, f := range t.counts {
		all = append(all, *f)
	}
	slices.SortStableFunc(all, func(a, b Finding) int {
		if c := strings.Compare(a.Path, b.Path); c != 0 {
			return c
		}
		if c := strings.Compare(string(a.Outcome), string(b.Outcome)); c != 0 {
			return c
		}
		return strings.Compare(a.Why, b.Why)
	})
	for _, f := range all {
		r.found(f)
	}
}
