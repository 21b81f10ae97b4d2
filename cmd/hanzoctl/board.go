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

// maxTyped bounds what is typed into a line of the board.
const maxTyped = 200

// board is the screen of the interactive approve: what it holds, how it is drawn and what keys do.
// It does no input or output and is used by one goroutine.
type board struct {
	all    []*approvalsv1.Approval // pending, oldest first
	items  []*approvalsv1.Approval // those of all that the filter lets through
	filter string
	// details is what was fetched about approvals that were under the cursor, by id.
	details map[string]detail
	cursor  int
	scroll  int
	// seen is the id of the approval that was shown to its last line.
	seen string
	// settled is when decisions count again.
	settled time.Time
	mode    mode
	typed   string // the filter while it is typed
	form    *grantForm
	note    string
	// mine is what this board decided on last: who did so needs no telling.
	mine  string
	w, h  int
	color bool
	// once says that there is nothing but once, always and deny: no grants, nothing to compare with.
	once bool
	// daemon names the one that is asked, "" for that of this machine. It is safe for a terminal.
	daemon string
	now    func() time.Time
}

// detail is what a list leaves out.
type detail struct {
	whole   *approvalsv1.Approval // nil while it is being fetched
	earlier *approvalsv1.Approval // nil when there is none
}

// mode is what keys mean.
type mode uint8

const (
	looking   mode = iota
	helping        // the help is shown
	filtering      // a filter is typed
	granting       // a grant is put together
)

// What keys do, by the names that parseKeys gives them.
type action struct {
	kind     actionKind
	id       string
	decision approvalsv1.Decision
	grant    *grantTerms
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

// shown is the current approval with all of its text, once that is there.
func (b *board) shown() *approvalsv1.Approval {
	p := b.current()
	if d := b.details[p.GetId()]; p != nil && p.GetCut() && d.whole != nil {
		return d.whole
	}
	return p
}

// wants is the id of the approval whose detail should be fetched, "" for none.
func (b *board) wants() string {
	p := b.current()
	if p == nil || b.once {
		return ""
	}
	if _, ok := b.details[p.GetId()]; ok {
		return ""
	}
	return p.GetId()
}

// fetching and fetched keep a detail. What comes later makes the approval longer: it has to be seen again.
func (b *board) fetching(id string) { b.keep(id, detail{}) }

func (b *board) fetched(id string, d detail) {
	if _, ok := b.details[id]; !ok {
		return
	}
	b.keep(id, d)
	if b.seen == id {
		b.seen = ""
	}
}

func (b *board) keep(id string, d detail) {
	if b.details == nil {
		b.details = map[string]detail{}
	}
	b.details[id] = d
}

// update takes in a change; what is not pending disappears, and the board says who decided.
func (b *board) update(p *approvalsv1.Approval) {
	all := slices.Clone(b.all)
	i := slices.IndexFunc(all, func(q *approvalsv1.Approval) bool { return q.GetId() == p.GetId() })
	pending := p.GetState() == approvalsv1.State_STATE_PENDING
	switch {
	case i >= 0 && pending:
		all[i] = p
	case i >= 0:
		if q := all[i]; p.GetId() != b.mine && p.GetResolvedBy() != "" {
			b.note = fmt.Sprintf("%s by %s: %s", state(p), Text(p.GetResolvedBy()), whatRuns(q))
		}
		all = slices.Delete(all, i, i+1)
	case pending:
		all = append(all, p)
	}
	b.replace(all)
}

// replace takes in a whole list. The cursor stays on its approval; when that is gone it moves, and
// decisions are ignored for a moment.
func (b *board) replace(all []*approvalsv1.Approval) {
	old := b.current()
	b.all = all
	b.items = nil
	for _, p := range all {
		if matches(p, b.filter) {
			b.items = append(b.items, p)
		}
	}
	for id := range b.details {
		if !slices.ContainsFunc(all, func(p *approvalsv1.Approval) bool { return p.GetId() == id }) {
			delete(b.details, id)
		}
	}
	if old != nil {
		if i := b.index(old.GetId()); i >= 0 {
			b.cursor = i
			return
		}
	}
	if b.mode == granting {
		b.mode, b.form = looking, nil
	}
	b.cursor = max(0, min(b.cursor, len(b.items)-1))
	b.scroll = 0
	b.settled = b.now().Add(settle)
}

func (b *board) index(id string) int {
	return slices.IndexFunc(b.items, func(p *approvalsv1.Approval) bool { return p.GetId() == id })
}

// tick drops what has expired; expiry may come without a message.
func (b *board) tick() {
	now := b.now()
	all := slices.DeleteFunc(slices.Clone(b.all), func(p *approvalsv1.Approval) bool {
		return p.GetExpiresAt() != nil && !now.Before(p.GetExpiresAt().AsTime())
	})
	if len(all) != len(b.all) {
		b.replace(all)
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
	if k == "ctrl-c" || k == "ctrl-d" {
		return action{kind: actQuit}
	}
	switch b.mode {
	case helping:
		b.mode = looking
		return action{}
	case filtering:
		b.typeFilter(k)
		return action{}
	case granting:
		return b.formKey(k)
	default:
		return b.look(strings.ToLower(k))
	}
}

func (b *board) look(k string) action {
	switch k {
	case "q":
		return action{kind: actQuit}
	case "r":
		return action{kind: actRefresh}
	case "?", "h":
		b.mode = helping
	case "/":
		b.mode, b.typed = filtering, b.filter
	case "esc":
		b.setFilter("")
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
	case "g":
		b.beginGrant()
	default:
		if len(k) == 1 && k[0] >= '1' && k[0] <= '9' {
			b.move(int(k[0] - '1'))
		}
	}
	return action{}
}

func (b *board) typeFilter(k string) {
	switch k {
	case "enter":
		b.mode = looking
		b.setFilter(b.typed)
	case "esc":
		b.mode = looking
	default:
		b.typed = typeInto(b.typed, k)
	}
}

func (b *board) setFilter(f string) {
	if f = strings.TrimSpace(f); f != b.filter {
		b.filter = f
		b.replace(b.all)
	}
}

// typeInto is a line after one more key.
func typeInto(s, k string) string {
	switch {
	case k == "backspace" && s != "":
		return s[:len(s)-1]
	case len(k) == 1 && len(s) < maxTyped:
		return s + k
	}
	return s
}

// ready says whether the current approval may be decided on; if not, the note says why.
func (b *board) ready(deny bool) *approvalsv1.Approval {
	p := b.current()
	switch {
	case p == nil:
		return nil
	case b.now().Before(b.settled):
		b.note = "the list has just changed: look again"
		return nil
	case !deny && b.shown().GetCut():
		b.note = "not all of it is here yet: wait, or press r"
		return nil
	case !deny && b.seen != p.GetId():
		b.note = "press space to see all of it before you allow it"
		return nil
	}
	return p
}

func (b *board) decision(d approvalsv1.Decision) action {
	p := b.ready(d == approvalsv1.Decision_DECISION_DENY)
	if p == nil {
		return action{}
	}
	switch {
	case d != approvalsv1.Decision_DECISION_ALLOW_ALWAYS || b.once:
	case p.GetKeyRefused() != "":
		b.note = "it cannot be allowed always: " + Text(p.GetKeyRefused())
		return action{}
	default:
		return alwaysOf(p)
	}
	return action{kind: actDecide, id: p.GetId(), decision: d}
}

// listHeight and detailHeight share out the lines between the title and the two lines of the foot.
func (b *board) listHeight() int { return max(1, min(len(b.items), b.h/3)) }

func (b *board) detailHeight() int { return max(1, b.h-b.listHeight()-5) }

// render draws the whole screen, each line ending in erase-to-end.
func (b *board) render() string {
	lines := []line{styled(bold, clip(b.title(), b.w))}
	switch b.mode {
	case helping:
		lines = append(lines, b.helpLines()...)
	case granting:
		lines = append(lines, b.formLines()...)
	default:
		lines = append(lines, b.listLines()...)
		lines = append(lines, line{})
		lines = append(lines, b.detailLines()...)
	}
	for len(lines) < b.h-2 {
		lines = append(lines, line{})
	}
	lines = append(lines[:max(1, b.h-2)], text(clip(b.note, b.w)), text(clip(b.foot(), b.w)))
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = l.paint(b.color)
	}
	return "\x1b[H" + strings.Join(out, "\x1b[K\r\n") + "\x1b[K\x1b[J"
}

// place says behind a decision where the command runs.
func (b *board) place(p *approvalsv1.Approval) string {
	if b.once {
		return ""
	}
	return at(p, b.daemon)
}

// at says where the command of an approval runs, and by which daemon where that is not the one of this machine.
func at(p *approvalsv1.Approval, daemon string) string {
	s := " on " + Text(where(p))
	if daemon != "" {
		s += " of " + daemon
	}
	return s
}

func (b *board) title() string {
	title := fmt.Sprintf("%d waiting for an approval", len(b.all))
	if len(b.all) == 0 {
		title = "nothing waits for an approval"
	}
	if b.daemon != "" {
		title = b.daemon + ": " + title // in front, where a narrow screen shows it
	}
	if b.filter != "" {
		title += fmt.Sprintf("; %d with %q", len(b.items), b.filter)
	}
	return title
}

func (b *board) foot() string {
	switch b.mode {
	case helping:
		return "any key goes back"
	case filtering:
		return "show those with: " + b.typed + "_  (Enter, Esc)"
	case granting:
		return b.form.foot()
	default:
		if b.once {
			return "o once  a always  d deny  n/p move  space more  / filter  ? help  q quit"
		}
		return "o once  a always  g grant  d deny  n/p move  space more  / filter  ? help  q quit"
	}
}

// boardHelp is the help screen.
const boardHelp = `o      allow this run, once
a      allow this command always: what that keeps is shown under "always"
g      allow it with a grant: so many times, until a time, in this session, or always
d      deny

n p    the next one, the one before (also j k and the arrows)
1 - 9  that one
space  more of the details (b goes back)
/      show only those with some text; Esc shows all again
r      ask the daemon again
q      quit; what waits goes on waiting

What would run is shown word for word, as a shell would take it, with every character
that is not plain ASCII as an escape. It cannot be allowed before all of it was shown.

"earlier" compares with the last approval of the same program on the same node:
[-gone-] {+new+}.`

func (b *board) helpLines() []line {
	var out []line
	for l := range strings.SplitSeq(boardHelp, "\n") {
		if b.once && strings.HasPrefix(l, "g ") {
			continue
		}
		out = append(out, text(clip(l, b.w)))
	}
	return out
}

func (b *board) listLines() []line {
	n := b.listHeight()
	first := max(0, min(b.cursor-n/2, len(b.items)-n))
	var out []line
	for i := first; i < len(b.items) && i < first+n; i++ {
		p := b.items[i]
		mark, as := "  ", plain
		if i == b.cursor {
			mark, as = "> ", reverse
		}
		warn := ""
		if len(p.GetSigns()) > 0 {
			warn = "! "
		}
		out = append(out, styled(as, clip(fmt.Sprintf("%s%d  %-6s  %s%s: %s", mark, i+1, left(p, b.now()), warn, Text(where(p)), whatRuns(p)), b.w)))
	}
	return out
}

// detailLines is the part of the facts that fits, and notes when the last line was among them.
func (b *board) detailLines() []line {
	p := b.shown()
	if p == nil {
		return nil
	}
	all := facts(p, b.now())
	if b.daemon != "" {
		all = append([]fact{{"daemon", text(b.daemon)}}, all...)
	}
	if b.once {
		program := p.GetResolvedPath()
		if program == "" {
			program = "the program"
		}
		all = append(all, fact{"always", styled(warning, "puts "+Text(program)+" on the list of this machine: it runs with any arguments then")})
	}
	all = append(all, compared(p, b.details[p.GetId()].earlier, b.now())...)
	var lines []line
	for _, f := range all {
		lines = append(lines, wrap(fmt.Sprintf("%-13s", f.name), f.text, b.w)...)
	}
	h := b.detailHeight()
	if len(lines) <= h {
		b.scroll, b.seen = 0, p.GetId()
		return lines
	}
	h-- // for the line that says there is more
	b.scroll = min(b.scroll, len(lines)-h)
	rest := len(lines) - h - b.scroll
	more := "(end)"
	if rest > 0 {
		more = fmt.Sprintf("(%d more lines: space)", rest)
	} else {
		b.seen = p.GetId()
	}
	return append(slices.Clone(lines[b.scroll:b.scroll+h]), styled(bold, clip(more, b.w)))
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
		case c == '\r' || c == '\n':
			out = append(out, "enter")
		case c == 0x7f || c == 8:
			out = append(out, "backspace")
		case c >= ' ' && c <= '~':
			out = append(out, string(rune(c)))
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
	if len(in) == 1 {
		return "esc", 1
	}
	if len(in) < 3 || (in[1] != '[' && in[1] != 'O') {
		return "", min(len(in), 2) // Alt and a key
	}
	for i := 2; i < len(in); i++ {
		if in[i] >= 0x40 && in[i] <= 0x7e {
			return sequences[string(in[2:i+1])], i + 1
		}
	}
	return "", len(in)
}
