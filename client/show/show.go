// Package show makes text of others fit for a terminal: the arguments of a command, names that nodes give
// themselves, messages. What is shown is what is there, and nothing of it steers the terminal.
//
// It imports nothing of ours; its functions are pure.
package show

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Quote writes an argv as one line that a shell would split into the same argv again, in printable
// ASCII only. Two different argv never give the same line, and nothing can hide in it: control
// characters, everything that is not ASCII and bytes that are no UTF-8 are written as escapes in
// $'…'.
func Quote(argv []string) string {
	words := make([]string, len(argv))
	for i, arg := range argv {
		words[i] = Word(arg, i == 0)
	}
	return strings.Join(words, " ")
}

// Plain are the characters that Quote leaves as they are.
const Plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+:,./-"

// Word is Quote for one word, which may be the first of its line, where an assignment would not be a word
// of the command.
func Word(s string, first bool) string {
	plain, ascii := s != "", true
	for i := range len(s) {
		c := s[i]
		if c < ' ' || c > '~' {
			ascii = false
		}
		// An assignment before the command would not be a word of it.
		if strings.IndexByte(Plain, c) < 0 && (c != '=' || first) {
			plain = false
		}
	}
	switch {
	case plain:
		return s
	case ascii:
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	var b strings.Builder
	b.WriteString("$'")
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case r == '\'' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= '~':
			b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		s = s[n:]
	}
	b.WriteString("'")
	return b.String()
}

// Visible reports whether a character may go to a terminal as it is: it shows, and it changes
// neither the terminal nor the direction of the text.
func Visible(r rune) bool {
	switch r {
	case '\u115f', '\u1160', '\u2800', '\u3164', '\uffa0': // letters and signs that show nothing
		return false
	}
	return unicode.IsPrint(r)
}

// Text makes text of others safe for a terminal and keeps it on one line: what is not visible is
// written as an escape.
func Text(s string) string { return escape(s, "") }

// Lines is Text for output of several lines.
func Lines(s string) string { return escape(s, "\n\t") }

func escape(s, keep string) string {
	clean := true
	for _, r := range s {
		if !Visible(r) || r == utf8.RuneError {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case Visible(r) || strings.ContainsRune(keep, r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		s = s[n:]
	}
	return b.String()
}
