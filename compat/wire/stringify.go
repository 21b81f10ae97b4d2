package wire

import (
	"math"
	"strconv"
	"unicode/utf8"
)

// Stringify writes v as JSON.stringify would write the parsed value: no spaces, keys in JavaScript order, numbers
// as doubles in their shortest form, and only the escapes that JavaScript uses. Undefined is written as null.
func Stringify(v Value) []byte {
	return AppendStringify(make([]byte, 0, len(v.Raw())+8), v)
}

// AppendStringify appends what Stringify returns to dst.
func AppendStringify(dst []byte, v Value) []byte {
	switch v.Kind() {
	case Number:
		if raw := v.Raw(); plainInt(raw) {
			return append(dst, raw...)
		}
		return AppendNumber(dst, v.Num())
	case String:
		return v.d.appendString(dst, v.i)
	case Bool:
		return strconv.AppendBool(dst, v.Bool())
	case Array:
		dst = append(dst, '[')
		for i, end := v.i+1, v.d.tape[v.i].next; i < end; i = v.d.after(i) {
			if i > v.i+1 {
				dst = append(dst, ',')
			}
			dst = AppendStringify(dst, Value{v.d, i})
		}
		return append(dst, ']')
	case Object:
		return v.d.appendObject(dst, v.i)
	}
	return append(dst, "null"...)
}

func (d *doc) appendObject(dst []byte, obj uint32) []byte {
	dst = append(dst, '{')
	if d.tape[obj].flags&flagReordered != 0 {
		for n, k := range d.keys[obj] {
			if n > 0 {
				dst = append(dst, ',')
			}
			dst = d.appendMember(dst, k)
		}
		return append(dst, '}')
	}
	for i, end := obj+1, d.tape[obj].next; i < end; i = d.after(i + 1) {
		if i > obj+1 {
			dst = append(dst, ',')
		}
		dst = d.appendMember(dst, i)
	}
	return append(dst, '}')
}

func (d *doc) appendMember(dst []byte, key uint32) []byte {
	dst = append(d.appendString(dst, key), ':')
	return AppendStringify(dst, Value{d, key + 1})
}

// appendString writes a string node. One without escapes is already as JavaScript would write it.
func (d *doc) appendString(dst []byte, i uint32) []byte {
	n := &d.tape[i]
	if n.flags&flagEscaped == 0 {
		return append(dst, d.src[n.off:n.end]...)
	}
	return AppendString(dst, d.esc[n.next])
}

// plainInt reports whether a number literal is written the way JavaScript would write it, because it is a
// non-negative integer of at most 15 digits.
func plainInt(raw string) bool { return len(raw) <= 15 && digits(raw, 0) == len(raw) }

// AppendNumber appends f as JavaScript writes a number in JSON: shortest digits, exponents from 1e21 on and below
// 1e-6, no negative zero, null for NaN and infinities.
func AppendNumber(dst []byte, f float64) []byte {
	switch a := math.Abs(f); {
	case math.IsInf(f, 0) || math.IsNaN(f):
		return append(dst, "null"...)
	case f == 0:
		return append(dst, '0')
	case a >= 1e-6 && a < 1e21:
		return strconv.AppendFloat(dst, f, 'f', -1, 64)
	}
	dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
	if n := len(dst); dst[n-2] == '0' && (dst[n-3] == '-' || dst[n-3] == '+') { // e-07 is e-7 in JavaScript
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst
}

// AppendString appends s in quotation marks as JSON.stringify writes it: escapes for the quotation mark, the
// backslash and control characters only. A surrogate encoded in three bytes becomes \udXXX, any other byte that is
// not UTF-8 becomes U+FFFD.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			if r, n := utf8.DecodeRuneInString(s[i:]); r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
			dst = append(dst, s[from:i]...)
			if r, n := surrogate(s[i:]); n > 0 {
				dst = append(dst, '\\', 'u', hexDigits[r>>12], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
				i += n
			} else {
				dst = utf8.AppendRune(dst, utf8.RuneError)
				i++
			}
			from = i
			continue
		}
		dst = append(dst, s[from:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, `\b`...)
		case '\f':
			dst = append(dst, `\f`...)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		from = i
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

const hexDigits = "0123456789abcdef"

// surrogate decodes a surrogate written in three bytes (WTF-8) at the start of s; n is 0 when there is none.
func surrogate(s string) (r rune, n int) {
	if len(s) < 3 || s[0] != 0xED || s[1] < 0xA0 || s[1] > 0xBF || s[2]&0xC0 != 0x80 {
		return 0, 0
	}
	return 0xD000 | rune(s[1]&0x3F)<<6 | rune(s[2]&0x3F), 3
}
