package wire

import (
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// SyntaxError is a text that is no JSON. It wraps ErrSyntax.
type SyntaxError struct {
	src  string
	at   int    // byte offset of the first character that does not fit, len(src) at the end
	what string // what JavaScript says of the place, "" where it names the character
}

// Error says the place in bytes.
func (e *SyntaxError) Error() string {
	if e.at >= len(e.src) {
		return ErrSyntax.Error() + ": unexpected end"
	}
	return fmt.Sprintf("%v: unexpected character at byte %d", ErrSyntax, e.at)
}

// Is makes errors.Is match ErrSyntax.
func (e *SyntaxError) Is(target error) bool { return target == ErrSyntax }

// context is how many characters JSON.parse shows on each side of one that it did not expect.
const context = 10

// JavaScript is the message of JSON.parse for the text, as Node 22 words it: places count UTF-16
// units. A character that the message cuts in halves is in it as three bytes, which AppendString
// writes as JavaScript does.
func (e *SyntaxError) JavaScript() string {
	before := utf16.Encode([]rune(e.src[:e.at]))
	pos := len(before)
	if e.what == "" {
		switch {
		case e.at >= len(e.src):
			return "Unexpected end of JSON input"
		case e.src[e.at] == '"':
			return e.place("Unexpected string in JSON", before)
		case e.src[e.at] == '-', e.src[e.at]-'0' <= 9:
			return e.place("Unexpected number in JSON", before)
		}
		switch e.src {
		case "undefined", "NaN", "Infinity", "[object Object]":
			return `"` + e.src + `" is not valid JSON`
		}
		all := append(before, utf16.Encode([]rune(e.src[e.at:]))...)
		token := wtf8(all[pos : pos+1])
		start, end, lead, tail := 0, len(all), "", ""
		if len(all) > 2*context {
			if pos >= context {
				start, lead = pos-context, "..."
			}
			if pos < len(all)-context {
				end, tail = pos+context, "..."
			}
		}
		return "Unexpected token '" + token + "', " + lead + `"` + wtf8(all[start:end]) + `"` + tail + " is not valid JSON"
	}
	return e.place(e.what, before)
}

// place adds where the error is.
func (e *SyntaxError) place(what string, before []uint16) string {
	line, column := 1, 1
	for i, u := range before {
		switch {
		case u == '\n' && i > 0 && before[i-1] == '\r':
			column = 1 // the line was counted
		case u == '\n', u == '\r':
			line, column = line+1, 1
		default:
			column++
		}
	}
	return fmt.Sprintf("%s at position %d (line %d column %d)", what, len(before), line, column)
}

// wtf8 decodes UTF-16; half of a pair becomes three bytes.
func wtf8(units []uint16) string {
	var out strings.Builder
	for i := 0; i < len(units); i++ {
		u := rune(units[i])
		if utf16.IsSurrogate(u) {
			if i+1 < len(units) {
				if r := utf16.DecodeRune(u, rune(units[i+1])); r != utf8.RuneError {
					out.WriteRune(r)
					i++
					continue
				}
			}
			out.Write([]byte{0xE0 | byte(u>>12), 0x80 | byte(u>>6)&0xBF, 0x80 | byte(u)&0xBF})
			continue
		}
		out.WriteRune(u)
	}
	return out.String()
}
