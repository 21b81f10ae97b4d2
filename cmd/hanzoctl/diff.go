package main

import (
	"slices"
	"strings"
	"time"

	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
)

// maxDiffWords bounds a comparison word by word, whose cost grows with the product of the words; beyond it
// the middles are shown as replaced.
const maxDiffWords = 1000

// part is words that both sides have, or one of them.
type part struct {
	words []string
	side  style // plain, removed or added
}

// diffWords compares two lists of words: the fewest that go and come.
func diffWords(old, now []string) []part {
	head := 0
	for head < len(old) && head < len(now) && old[head] == now[head] {
		head++
	}
	tail := 0
	for tail < len(old)-head && tail < len(now)-head && old[len(old)-1-tail] == now[len(now)-1-tail] {
		tail++
	}
	a, b := old[head:len(old)-tail], now[head:len(now)-tail]
	var out []part
	add := func(side style, words ...string) {
		if n := len(out); n > 0 && out[n-1].side == side {
			out[n-1].words = append(out[n-1].words, words...)
		} else if len(words) > 0 {
			out = append(out, part{slices.Clone(words), side})
		}
	}
	add(plain, old[:head]...)
	if len(a) > maxDiffWords || len(b) > maxDiffWords {
		add(removed, a...)
		add(added, b...)
	} else {
		// common[i][j] is how many words a[i:] and b[j:] have in common, in order.
		common := make([][]int, len(a)+1)
		for i := range common {
			common[i] = make([]int, len(b)+1)
		}
		for i := range slices.Backward(a) {
			for j := len(b) - 1; j >= 0; j-- {
				if a[i] == b[j] {
					common[i][j] = common[i+1][j+1] + 1
				} else {
					common[i][j] = max(common[i+1][j], common[i][j+1])
				}
			}
		}
		i, j := 0, 0
		for i < len(a) || j < len(b) {
			switch {
			case i < len(a) && j < len(b) && a[i] == b[j]:
				add(plain, a[i])
				i, j = i+1, j+1
			case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
				add(removed, a[i])
				i++
			default:
				add(added, b[j])
				j++
			}
		}
	}
	add(plain, old[len(old)-tail:]...)
	return out
}

// marked writes a comparison on one line, with marks that do not need colours.
func marked(parts []part, quote func([]string) string) line {
	var out line
	for i, p := range parts {
		if i > 0 {
			out = append(out, run{" ", plain})
		}
		switch s := quote(p.words); p.side {
		case removed:
			out = append(out, run{"[-" + s + "-]", removed})
		case added:
			out = append(out, run{"{+" + s + "+}", added})
		default:
			out = append(out, run{s, plain})
		}
	}
	return out
}

// quoteWords is Quote for words in the middle of an argv.
func quoteWords(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = quoteWord(w, true)
	}
	return strings.Join(out, " ")
}

// earlierOf picks the approval to compare with: of those of the same program on the same node, newest first,
// the last one that was allowed for the same command, else the last one that was allowed, else the last.
func earlierOf(p *approvalsv1.Approval, like []*approvalsv1.Approval) *approvalsv1.Approval {
	rank := func(q *approvalsv1.Approval) int {
		switch {
		case !allowedOnce(q):
			return 0
		case p.GetKey() != "" && p.GetKey() == q.GetKey():
			return 2
		}
		return 1
	}
	var best *approvalsv1.Approval
	for _, q := range like {
		if q.GetId() != p.GetId() && q.GetState() != approvalsv1.State_STATE_PENDING && (best == nil || rank(q) > rank(best)) {
			best = q
		}
	}
	return best
}

func allowedOnce(q *approvalsv1.Approval) bool {
	return q.GetDecision() == approvalsv1.Decision_DECISION_ALLOW_ONCE || q.GetDecision() == approvalsv1.Decision_DECISION_ALLOW_ALWAYS
}

// compared is what differs from an earlier approval, as facts; the first says which one that is.
func compared(p, q *approvalsv1.Approval, now time.Time) []fact {
	if q == nil {
		return nil
	}
	what := state(q)
	if q.GetState() == approvalsv1.State_STATE_CONSUMED {
		what = decided[q.GetDecision()]
	}
	if q.GetResolvedBy() != "" {
		what += " by " + Text(q.GetResolvedBy())
	}
	if at := q.GetResolvedAt(); at != nil {
		what += " " + span(now.Sub(at.AsTime())) + " ago"
	}
	out := []fact{{"earlier", text(Text(q.GetId()) + ", " + what)}}
	differs := func(name string, old, new []string) {
		if !slices.Equal(old, new) {
			out = append(out, fact{name, marked(diffWords(old, new), quoteWords)})
		}
	}
	one := func(s string) []string {
		if s == "" {
			return nil
		}
		return []string{s}
	}
	differs("  words", wordsOf(q), wordsOf(p))
	differs("  directory", one(cwdOf(q)), one(cwdOf(p)))
	if slices.Equal(q.GetEnvKeys(), p.GetEnvKeys()) && q.GetBinding().GetEnvHash() != p.GetBinding().GetEnvHash() {
		out = append(out, fact{"  environment", styled(added, "other values of "+Quote(p.GetEnvKeys()))})
	}
	differs("  environment", q.GetEnvKeys(), p.GetEnvKeys())
	// An earlier approval that bound no files has none to compare with.
	if a, b := filesOf(q), filesOf(p); len(a) > 0 || len(b) > 0 {
		differs("  files", a, b)
	}
	differs("  agent", one(q.GetAgentId()), one(p.GetAgentId()))
	if len(out) == 1 {
		out[0].text = append(out[0].text, run{"; the same in words, directory, environment and files", plain})
	}
	return out
}

func wordsOf(p *approvalsv1.Approval) []string {
	if argv := approvedArgv(p); len(argv) > 0 {
		return argv
	}
	return []string{p.GetCommand()}
}

func cwdOf(p *approvalsv1.Approval) string {
	if p.GetBinding() != nil {
		return p.GetBinding().GetCwd()
	}
	return p.GetCwd()
}

// filesOf is the files that an approval is bound to, each with the beginning of its hash.
func filesOf(p *approvalsv1.Approval) []string {
	id := p.GetBinding().GetIdentity()
	files := []*approvalsv1.FileIdentity{id.GetExecutable(), id.GetScript()}
	for _, f := range id.GetInner() {
		files = append(files, f.GetFile())
	}
	var out []string
	for _, f := range files {
		if f.GetPath() == "" {
			continue
		}
		name := f.GetPath()
		if sum := f.GetSha256(); sum != "" {
			name += "@" + sum[:min(shortHash, len(sum))]
		}
		out = append(out, name)
	}
	return out
}
