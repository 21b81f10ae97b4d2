package json5

import (
	"fmt"
	"unicode"
)

func isLineEnd(r rune) bool {
	return r == '\n' || r == '\r' || r == '\u2028' || r == '\u2029'
}

// isSpace reports white space and line ends: the listed characters, the byte-order mark and every
// Unicode space separator.
func isSpace(r rune) bool {
	switch r {
	case ' ', '\t', '\v', '\f', '\u00a0', '\ufeff':
		return true
	}
	return isLineEnd(r) || r > 127 && unicode.Is(unicode.Zs, r)
}

func isDigit(r rune) bool { return r >= '0' && r <= '9' }

func hexValue(r rune) int {
	switch {
	case isDigit(r):
		return int(r - '0')
	case r >= 'a' && r <= 'f':
		return int(r-'a') + 10
	case r >= 'A' && r <= 'F':
		return int(r-'A') + 10
	}
	return -1
}

func isIDStart(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r == '$', r == '_':
		return true
	case r < 128:
		return false
	}
	return unicode.IsLetter(r) || unicode.Is(unicode.Nl, r)
}

func isIDPart(r rune) bool {
	if isIDStart(r) || isDigit(r) {
		return true
	}
	if r < 128 {
		return false
	}
	return r == '\u200c' || r == '\u200d' || unicode.In(r, unicode.Mn, unicode.Mc, unicode.Nd, unicode.Pc)
}

// units is the number of UTF-16 units of r.
func units(r rune) int {
	if r > 0xffff {
		return 2
	}
	return 1
}

// printable renders a character inside an error text.
func printable(r rune) string {
	switch r {
	case '\'':
		return `\'`
	case '"':
		return `\"`
	case '\\':
		return `\\`
	case '\b':
		return `\b`
	case '\f':
		return `\f`
	case '\n':
		return `\n`
	case '\r':
		return `\r`
	case '\t':
		return `\t`
	case '\v':
		return `\v`
	case 0:
		return `\0`
	case '\u2028':
		return `\u2028`
	case '\u2029':
		return `\u2029`
	}
	if r < ' ' {
		return fmt.Sprintf(`\x%02x`, r)
	}
	return string(r)
}
