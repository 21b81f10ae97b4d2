package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
)

// settle is how long decisions are ignored after another approval came under the cursor by itself,
// so that nobody decides on what they have not seen.
const settle = 700 * time.Millisecond

// board is the screen of the interactive approve: what it holds, how it is drawn and what keys do.
// It does no input or output and is used by one goroutine.
type board struct {
	items  []*approvalsv1.Approval // pending, oldest first
	cursor int
	scroll int
	// seen is the id of the approval that was shown to its last line.
	seen string
	// settled is when decisions count again.
	settled time.Time
	note    string
	w, h    int
	color   bool
	now     func() time.Time
}

// What keys do, by the names that parseKeys gives them.
type action struct {
	kind     actionKind
	id       string
	decision approvalsv1.Decision
}

type actionKind uint8

const (
	actNone actionKind = iota
	actQuit
	actRefresh
	actDecide
)

func (b *board) current() *approvalsv1.Approval {
	if b.cursor < len(b.items) {
		return b.items[b.cursor]
	}
	return nil
}

// update takes in a change; what is not pending disappears.
func (b *board) update(p *approvalsv1.Approval) {
	items := slices.Clone(b.items)
	i := slices.IndexFunc(items, func(q *approvalsv1.Approval) bool { return q.GetId() == p.GetId() })
	pending := p.GetState() == approvalsv1.State_STATE_PENDING
	switch {
	case i >= 0 && pending:
		items[i] = p
	case i >= 0:
		items = slices.Delete(items, i, i+1)
	case pending:
		items = append(items, p)
	}
	b.replace(items)
}

// replace takes in a whole list. The cursor stays on its approval; when that is gone it moves, and
// decisions are ignored for a moment.
func (b *board) replace(items []*approvalsv1.Approval) {
	old := b.current()
	b.items = items
	if old != nil {
		if i := slices.IndexFunc(items, func(p *approvalsv1.Approval) bool { return p.GetId() == old.GetId() }); i >= 0 {
			b.cursor = i
			return
		}
	}
	b.cursor = max(0, min(b.cursor, len(items)-1))
	b.scroll = 0
	b.settled = b.now().Add(settle)
}

// tick drops what has expired; expiry may come without a message.
func (b *board) tick() {
	now := b.now()
	items := slices.DeleteFunc(slices.Clone(b.items), func(p *approvalsv1.Approval) bool {
		return p.GetExpiresAt() != nil && !now.Before(p.GetExpiresAt().AsTime())
	})
	if len(items) != len(b.items) {
		b.replace(items)
	}
}

func (b *board) move(to int) {
	if to < 0 || to >= len(b.items) || to == b.cursor {
		return
	}
	b.cursor, b.scroll, b.note = to, 0, ""
}

// key says what a key does.
func (b *board) key(k string) action {
	switch k {
	case "q", "ctrl-c", "ctrl-d":
		return action{kind: actQuit}
	case "r":
		return action{kind: actRefresh}
	case "n", "j", "down":
		b.move(b.cursor + 1)
	case "p", "k", "up":
		b.move(b.cursor - 1)
	case " ", "pgdn":
		b.scroll += max(1, b.detailHeight()-1)
	case "b", "pgup":
		b.scroll = max(0, b.scroll-max(1, b.detailHeight()-1))
	case "o":
		return b.decision(approvalsv1.Decision_DECISION_ALLOW_ONCE)
	case "a":
		return b.decision(approvalsv1.Decision_DECISION_ALLOW_ALWAYS)
	case "d":
		return b.decision(approvalsv1.Decision_DECISION_DENY)
	default:
		if len(k) == 1 && k[0] >= '1' && k[0] <= '9' {
			b.move(int(k[0] - '1'))
		}
	}
	return action{}
}

func (b *board) decision(d approvalsv1.Decision) action {
	p := b.current()
	switch {
	case p == nil:
		return action{}
	case b.now().Before(b.settled):
		b.note = "the list has just changed: look again"
		return action{}
	case d != approvalsv1.Decision_DECISION_DENY && b.seen != p.GetId():
		b.note = "press space to see all of it before you allow it"
		return action{}
	}
	return action{kind: actDecide, id: p.GetId(), decision: d}
}

// listHeight and detailHeight share out the lines between the title and the two lines of the foot.
func (b *board) listHeight() int { return max(1, min(len(b.items), b.h/3)) }

func (b *board) detailHeight() int { return max(1, b.h-b.listHeight()-5) }

// render draws the whole screen, each line ending in erase-to-end.
func (b *board) render() string {
	var lines []string
	title := fmt.Sprintf("%d waiting for an approval", len(b.items))
	if len(b.items) == 0 {
		title = "nothing waits for an approval"
	}
	lines = append(lines, b.style("1", clip(title, b.w)))
	lines = append(lines, b.listLines()...)
	lines = append(lines, "")
	lines = append(lines, b.detailLines()...)
	for len(lines) < b.h-2 {
		lines = append(lines, "")
	}
	lines = append(lines[:max(1, b.h-2)], clip(b.note, b.w))
	lines = append(lines, clip("o once  a always  d deny  n/p move  space more  r refresh  q quit", b.w))
	return "\x1b[H" + strings.Join(lines, "\x1b[K\r\n") + "\x1b[K\x1b[J"
}

func (b *board) listLines() []string {
	n := b.listHeight()
	first := max(0, min(b.cursor-n/2, len(b.items)-n))
	var out []string
	for i := first; i < len(b.items) && i < first+n; i++ {
		p := b.items[i]
		mark := "  "
		if i == b.cursor {
			mark = "> "
		}
		line := clip(fmt.Sprintf("%s%d  %-6s  %s: %s", mark, i+1, left(p, b.now()), Text(where(p)), whatRuns(p)), b.w)
		if i == b.cursor {
			line = b.style("7", line)
		}
		out = append(out, line)
	}
	return out
}

// detailLines is the part of the facts that fits, and notes when the last line was among them.
func (b *board) detailLines() []string {
	p := b.current()
	if p == nil {
		return nil
	}
	var all []string
	for _, f := range facts(p, b.now()) {
		all = append(all, wrap(fmt.Sprintf("%-12s", f.name), f.text, b.w)...)
	}
	h := b.detailHeight()
	if len(all) <= h {
		b.scroll, b.seen = 0, p.GetId()
		return all
	}
	h-- // for the line that says there is more
	b.scroll = min(b.scroll, len(all)-h)
	rest := len(all) - h - b.scroll
	more := "(end)"
	if rest > 0 {
		more = fmt.Sprintf("(%d more lines: space)", rest)
	} else {
		b.seen = p.GetId()
	}
	return append(slices.Clone(all[b.scroll:b.scroll+h]), b.style("1", clip(more, b.w)))
}

func (b *board) style(code, s string) string {
	if !b.color {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// clip cuts a line to the width, and shows that it did.
func clip(s string, w int) string {
	r := []rune(s)
	if len(r) <= w {
		return s
	}
	return string(r[:max(0, w-3)]) + "..."[:max(0, min(3, w))]
}

// wrap breaks a text behind a label into lines of the width. It cuts anywhere, so that nothing is
// lost, and indents what follows.
func wrap(label, text string, w int) []string {
	room := max(1, w-len(label))
	var out []string
	r := []rune(text)
	for {
		n := min(room, len(r))
		out = append(out, label+string(r[:n]))
		r = r[n:]
		if len(r) == 0 {
			return out
		}
		label = strings.Repeat(" ", len(label))
	}
}

// parseKeys splits what a terminal sent into keys.
func parseKeys(in []byte) []string {
	var out []string
	for len(in) > 0 {
		if seq, n := escapeSequence(in); n > 0 {
			if seq != "" {
				out = append(out, seq)
			}
			in = in[n:]
			continue
		}
		switch c := in[0]; {
		case c == 3:
			out = append(out, "ctrl-c")
		case c == 4:
			out = append(out, "ctrl-d")
		case c >= ' ' && c <= '~':
			out = append(out, strings.ToLower(string(rune(c))))
		}
		in = in[1:]
	}
	return out
}

var sequences = map[string]string{"A": "up", "B": "down", "5~": "pgup", "6~": "pgdn"}

// escapeSequence takes an escape sequence from the front: its key, "" for one that does nothing
// here, and its length, 0 when there is none.
func escapeSequence(in []byte) (string, int) {
	if in[0] != 0x1b {
		return "", 0
	}
	if len(in) < 3 || (in[1] != '[' && in[1] != 'O') {
		return "", min(len(in), 2) // Alt and a key, or Escape alone
	}
	for i := 2; i < len(in); i++ {
		if in[i] >= 0x40 && in[i] <= 0x7e {
			return sequences[string(in[2:i+1])], i + 1
		}
	}
	return "", len(in)
}
