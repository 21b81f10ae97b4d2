package wire

import (
	"strings"
	"unicode/utf8"
)

// MaxCloseReason is the longest WebSocket close reason that is sent, in bytes (protocol.md §0).
const MaxCloseReason = 120

// TruncateUTF8 cuts s to at most max bytes without splitting a character.
func TruncateUTF8(s string, max int) string {
	if len(s) <= max {
		return s
	}
	for max > 0 && !utf8.RuneStart(s[max]) {
		max--
	}
	return s[:max]
}

// Trim cuts off the white space at both ends that JavaScript's trim does: with U+FEFF, without U+0085.
func Trim(s string) string {
	return strings.TrimFunc(s, func(r rune) bool {
		switch r {
		case '\t', '\n', '\v', '\f', '\r', ' ', 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000, 0xFEFF:
			return true
		}
		return r >= 0x2000 && r <= 0x200A
	})
}

// LocaleLess orders names of environment variables as the locale comparison of a JavaScript runtime does
// (nodes-approvals.md §2.3): `_`, then digits, then letters without regard to case, a prefix before the longer name;
// names that are equal so far have lower case before upper case at the first difference. Other characters come last,
// by code point.
func LocaleLess(a, b string) bool {
	for i := 0; i < len(a) && i < len(b); i++ {
		if x, y := primary(a[i]), primary(b[i]); x != y {
			return x < y
		}
	}
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a > b // the same letters: lower case has the higher byte and goes first
}

// primary is the weight of a character without its case.
func primary(c byte) int {
	switch {
	case c == '_':
		return 0
	case c >= '0' && c <= '9':
		return 1 + int(c)
	case c >= 'A' && c <= 'Z':
		return 0x100 + int(c|0x20)
	case c >= 'a' && c <= 'z':
		return 0x100 + int(c)
	}
	return 0x200 + int(c)
}
