package shell

import (
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
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

// Trim removes white space as ECMAScript has it from both ends.
func Trim(s string) string { return trim(s) }

func trim(s string) string { return strings.TrimFunc(s, isSpace) }

// fold lowers ASCII letters alone, so that no letter of another script (U+212A, the Kelvin sign)
// becomes one. All other bytes stay where they are, also those that are no UTF-8.
func fold(s string) string {
	for i := range len(s) {
		if s[i] >= 'A' && s[i] <= 'Z' {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				if b[j] >= 'A' && b[j] <= 'Z' {
					b[j] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

// foldPath folds case as the original compares paths with patterns, in all scripts, except that no
// letter of another one becomes an ASCII letter: a file whose name only looks like a listed one must not
// run.
func foldPath(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r < utf8.RuneSelf:
			return r
		}
		if l := unicode.ToLower(r); l >= utf8.RuneSelf {
			r = l
		}
		if u := unicode.ToUpper(r); u >= utf8.RuneSelf && u <= 0xFFFF {
			r = u
		}
		return r
	}, s)
}

func units(s string) []uint16 { return utf16.Encode([]rune(s)) }

// EnvName reports whether s can name an environment variable.
func EnvName(s string) bool {
	for i := range len(s) {
		c := s[i] | 0x20
		if s[i] != '_' && (c < 'a' || c > 'z') && (i == 0 || s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return s != ""
}
