package policy

import (
	"strings"
	"unicode/utf16"
)

// isSpace is white space as ECMAScript has it: with U+FEFF, without U+0085 (nodes-approvals.md
// §3.5).
func isSpace(r rune) bool {
	switch {
	case r >= '\t' && r <= '\r', r == ' ', r == 0xA0, r == 0x1680, r >= 0x2000 && r <= 0x200A,
		r == 0x2028, r == 0x2029, r == 0x202F, r == 0x205F, r == 0x3000, r == 0xFEFF:
		return true
	}
	return false
}

func trim(s string) string { return strings.TrimFunc(s, isSpace) }

// fold lowers ASCII letters alone, so that no letter of another script (U+212A, the Kelvin sign)
// becomes one.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

func units(s string) []uint16 { return utf16.Encode([]rune(s)) }

// localeLess orders names of variables for showing and hashing as the original's locale comparison
// does (nodes-approvals.md §2.3): `_`, digits, letters whatever their case; then lower before upper.
func localeLess(a, b string) bool {
	rank := func(c byte) int {
		switch {
		case c == '_':
			return 0
		case c >= '0' && c <= '9':
			return 1 + int(c)
		case c >= 'A' && c <= 'Z':
			return 0x100 + int(c|0x20)
		}
		return 0x100 + int(c)
	}
	for i := 0; i < len(a) && i < len(b); i++ {
		if x, y := rank(a[i]), rank(b[i]); x != y {
			return x < y
		}
	}
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a > b // the same letters: lower case has the higher byte and goes first
}
