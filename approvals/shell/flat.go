package shell

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// flat appends a copy of text, of the same length, in which nothing but quotes, backslashes, blanks,
// `;`, `&&`, `||`, `|` and, with heredocs, here-documents and line ends has a meaning. Inside quotes the
// replacements change no structure. It fails when there is no character left to stand for others.
func flat(out []byte, text string, heredocs bool) ([]byte, bool) {
	const never = "%+,:@^"
	stand := byte('%')
	if heredocs {
		// The end of a body is found by comparing lines, so the replacement must not make two of them
		// equal.
		i := strings.IndexFunc(never, func(r rune) bool { return !strings.ContainsRune(text, r) })
		if i < 0 {
			return out, false
		}
		stand = never[i]
	}
	slashes := 0    // backslashes right before i
	joined := false // nothing but white space stands between what joins a chain and i
	for i := 0; i < len(text); {
		c := text[i]
		n := 1
		switch act := flatActs[c]; act {
		case actKeep:
			out = append(out, c)
		case actReplace:
			out = append(out, stand)
		case actLetter:
			for i+n < len(text) && flatActs[text[i+n]] == actLetter {
				n++
			}
			out = append(out, text[i:i+n]...)
			if posixReserved(text[i : i+n]) {
				out[len(out)-n] = stand
			}
		case actBlank:
			out = append(out, ' ')
		case actLineBreak:
			switch {
			case heredocs:
				out = append(out, c)
			case joined:
				out = append(out, ' ')
			default:
				out = append(out, stand)
			}
		case actOperator:
			n, out = flatOperator(out, text[i:], stand, slashes%2 == 1, heredocs)
			if slashes%2 == 0 && !heredocs && isChain(out[i:]) {
				// Line ends around it are white space.
				for j := i - 1; j >= 0 && bytes.IndexByte(flatBlanks, out[j]) >= 0 || j >= 0 && isLineEnd(text[j]); j-- {
					out[j] = ' '
				}
				joined = true
				i += n
				continue
			}
		case actWide:
			var r rune
			r, n = utf8.DecodeRuneInString(text[i:])
			switch {
			case !isSpace(r):
				out = append(out, text[i:i+n]...)
			case slashes%2 == 1:
				for range n {
					out = append(out, stand)
				}
			default:
				for range n {
					out = append(out, ' ')
				}
			}
		}
		if c == '\\' {
			slashes++
		} else {
			slashes = 0
		}
		i += n
		joined = joined && out[len(out)-1] == ' ' || joined && c == '\t'
	}
	return out, true
}

var flatBlanks = []byte(" \t")

func isLineEnd(c byte) bool { return c == '\n' || c == '\r' }

// isChain reports whether what was copied joins the parts of a chain.
func isChain(op []byte) bool {
	return bytes.HasPrefix(op, []byte("&&")) || bytes.HasPrefix(op, []byte("||")) || op[0] == ';'
}

// flatOperator copies the operator that s starts with.
func flatOperator(out []byte, s string, stand byte, escaped, heredocs bool) (int, []byte) {
	if escaped {
		return 1, append(out, s[0])
	}
	run := 1
	for run < len(s) && s[run] == s[0] && (run < 3 || s[0] != '<') {
		run++
	}
	switch s[0] {
	case '<':
		if heredocs && run >= 2 && hasDelimiter(s) {
			return 2, append(out, "<<"...)
		}
		if run >= 2 && !hasDelimiter(s) {
			return 2, append(out, stand, stand)
		}
		return 1, append(out, stand)
	case '&':
		switch run {
		case 1:
			return 1, append(out, stand)
		case 3:
			return 3, append(out, '&', '&', stand)
		}
	case '|':
		switch {
		case run == 1 && len(s) > 1 && s[1] == '&':
			return 1, append(out, stand)
		case run == 3:
			return 3, append(out, "|| "...)
		}
	}
	return run, append(out, s[:run]...)
}

// What flat does with a byte.
const (
	actKeep = iota
	actReplace
	actLetter
	actBlank
	actLineBreak
	actOperator
	actWide
)

var flatActs = func() (t [256]uint8) {
	for c := range t {
		switch {
		case c >= 'a' && c <= 'z':
			t[c] = actLetter
		case c >= utf8.RuneSelf:
			t[c] = actWide
		}
	}
	for _, c := range "${}!#=[]()>`\x00" {
		t[c] = actReplace
	}
	for _, c := range "\v\f" {
		t[c] = actBlank
	}
	for _, c := range "\r\n" {
		t[c] = actLineBreak
	}
	for _, c := range "<&|;" {
		t[c] = actOperator
	}
	return t
}()

const openEnd = "unterminated shell quote/escape"
