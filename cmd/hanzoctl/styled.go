package main

import "strings"

// style is how a part of a line stands out on a terminal with colours. Without colours the text alone has to
// say it.
type style string

// The styles, as parameters of the terminal's SGR sequence.
const (
	plain   style = ""
	bold    style = "1"
	reverse style = "7"
	warning style = "1;33"
	removed style = "31"
	added   style = "32"
)

// run is text in one style, a line several of them. The text is safe for a terminal.
type (
	run struct {
		text string
		as   style
	}
	line []run
)

func text(s string) line { return line{{s, plain}} }

func styled(as style, s string) line { return line{{s, as}} }

// String is the line without styles.
func (l line) String() string {
	var b strings.Builder
	for _, r := range l {
		b.WriteString(r.text)
	}
	return b.String()
}

// paint writes the line for a terminal.
func (l line) paint(color bool) string {
	if !color {
		return l.String()
	}
	var b strings.Builder
	for _, r := range l {
		if r.as == plain || r.text == "" {
			b.WriteString(r.text)
			continue
		}
		b.WriteString("\x1b[" + string(r.as) + "m" + r.text + "\x1b[0m")
	}
	return b.String()
}

// wrap breaks a line behind a label into lines of the width. It cuts anywhere, so that nothing is lost, and
// indents what follows.
func wrap(label string, l line, w int) []line {
	room := max(1, w-len(label))
	var out []line
	now, used := text(label), 0
	for _, r := range l {
		for rest := []rune(r.text); len(rest) > 0; {
			if used == room {
				out = append(out, now)
				now, used = text(strings.Repeat(" ", len(label))), 0
			}
			n := min(room-used, len(rest))
			now = append(now, run{string(rest[:n]), r.as})
			rest, used = rest[n:], used+n
		}
	}
	return append(out, now)
}

// clip cuts a text to the width, and shows that it did.
func clip(s string, w int) string {
	r := []rune(s)
	if len(r) <= w {
		return s
	}
	return string(r[:max(0, w-3)]) + "..."[:max(0, min(3, w))]
}
