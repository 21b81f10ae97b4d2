package shell

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// unquoted removes the backslashes of a text outside of quotes. bad is a token that is not supported.
func unquoted(s string) (value string, exact bool, bad string) {
	exact = true
	escaped := false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch c {
		case '\\':
			escaped = true
			i++
			if i < len(s) && (s[i] < ' ' || s[i] >= utf8.RuneSelf || s[i] == 0x7F) {
				exact = false
			}
			continue
		case '\n':
			return "", false, "newline"
		case '$':
			if strings.HasPrefix(s[i:], "$(") {
				return "", false, "$()"
			}
		case '|':
			return "", false, "|&"
		case '(', ')', '>', '`', '&', '\r':
			return "", false, string(rune(c))
		case '<':
			if !strings.HasPrefix(s[i:], "<<") {
				return "", false, "<"
			}
			i++ // a here-document without a delimiter is a word
		}
		exact = exact && literalByte[c] && (c != '=' || i > 0) // zsh has =program
	}
	if !escaped {
		return s, exact, ""
	}
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' {
			if i++; i == len(s) {
				return "", false, "\\"
			}
		}
		b.WriteByte(s[i])
	}
	return b.String(), exact, ""
}

// literalByte are the characters that every shell takes as they are, outside of quotes.
var literalByte = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_@%+:,./-=", byte(c)) >= 0
	}
	return t
}()

// doubleQuoted removes the backslashes of a text between double quotes.
func doubleQuoted(s string) (value string, exact bool, bad string) {
	exact = true
	escaped := false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i++; i < len(s) && strings.IndexByte("\\\"$`", s[i]) >= 0 {
				escaped = true
			} else {
				i--
			}
		case '\n', '\r':
			return "", false, "newline"
		case '`':
			return "", false, "`"
		case '$':
			if strings.HasPrefix(s[i:], "$(") {
				return "", false, "$()"
			}
			exact = false
		}
	}
	if !escaped {
		return s, exact, ""
	}
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) && strings.IndexByte("\\\"$`", s[i+1]) >= 0 {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String(), exact, ""
}

// substitutes reports whether an unescaped backtick, or a $ before one of open, stands in s.
func substitutes(s, open string) bool {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '`':
			return true
		case '$':
			if i+1 < len(s) && strings.IndexByte(open, s[i+1]) >= 0 {
				return true
			}
		}
	}
	return false
}

// odd reports a character that separates words here and not in shells, or that shells drop or mark things
// with.
func odd(r rune) bool {
	return r < ' ' && r != '\t' && r != '\n' || r == 0x7F || r >= utf8.RuneSelf && (isSpace(r) || unicode.IsSpace(r))
}

// continues reports whether a backslash stands right before a line end.
func continues(s string) bool {
	for rest := s; ; {
		i := strings.IndexByte(rest, '\\')
		if i < 0 {
			return false
		}
		if rest = rest[i+1:]; rest != "" && (rest[0] == '\n' || rest[0] == '\r') {
			return true
		}
	}
}

// startsHeredoc reports whether << with a delimiter stands somewhere in s.
func startsHeredoc(s string) bool {
	for i := 0; ; {
		at := strings.Index(s[i:], "<<")
		if at < 0 {
			return false
		}
		if i += at; hasDelimiter(s[i:]) {
			return true
		}
		i++
	}
}

// hasDelimiter reports whether the << that s starts with has a delimiter.
func hasDelimiter(s string) bool {
	s = strings.TrimLeft(strings.TrimPrefix(s[2:], "-"), " \t")
	if s == "" || strings.IndexByte("|&;<>", s[0]) >= 0 {
		return false
	}
	r, _ := utf8.DecodeRuneInString(s)
	return !isSpace(r)
}
