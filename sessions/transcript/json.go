package transcript

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"unicode/utf8"
)

// Value is one JSON value as it was written, known to be well formed. It is a part of the line it came from.
type Value []byte

// object returns the line as a JSON object, and false when it is none. What is not UTF-8 is replaced first.
func object(line []byte) (Value, bool) {
	line = bytes.TrimSpace(line)
	if len(line) == 0 || line[0] != '{' {
		return nil, false
	}
	if !utf8.Valid(line) {
		line = bytes.ToValidUTF8(line, []byte("\uFFFD"))
	}
	end, ok := skip(line, 0, 0)
	if !ok || blanks(line, end) != len(line) {
		return nil, false
	}
	return Value(line), true
}

// Kind is the first byte of the value: { [ " t f n, or 0 for a number, and 'x' for no value.
func (v Value) Kind() byte {
	if len(v) == 0 {
		return 'x'
	}
	switch v[0] {
	case '{', '[', '"', 't', 'f', 'n':
		return v[0]
	}
	return 0
}

// Members calls f with each member of an object in order, until f returns false. Of a member that is there twice the
// last one counts, as in JavaScript.
func (v Value) Members(f func(key string, value Value) bool) {
	if v.Kind() != '{' {
		return
	}
	i := blanks(v, 1)
	for i < len(v) && v[i] == '"' {
		end, ok := skipString(v, i)
		if !ok {
			return
		}
		key := unquote(v[i:end])
		i = blanks(v, end)
		if i >= len(v) || v[i] != ':' {
			return
		}
		i = blanks(v, i+1)
		if end, ok = skip(v, i, 0); !ok {
			return
		}
		if !f(key, v[i:end:end]) {
			return
		}
		if i = blanks(v, end); i < len(v) && v[i] == ',' {
			i = blanks(v, i+1)
		}
	}
}

// Get is the member of that name; no value when it is not there or v is no object.
func (v Value) Get(name string) (out Value) {
	v.Members(func(key string, m Value) bool {
		if key == name {
			out = m
		}
		return true
	})
	return out
}

// Items calls f with each item of an array in order, until f returns false.
func (v Value) Items(f func(Value) bool) {
	if v.Kind() != '[' {
		return
	}
	i := blanks(v, 1)
	for i < len(v) && v[i] != ']' {
		end, ok := skip(v, i, 0)
		if !ok || !f(v[i:end:end]) {
			return
		}
		if i = blanks(v, end); i < len(v) && v[i] == ',' {
			i = blanks(v, i+1)
		}
	}
}

// Str is the text of a string, and "" of anything else. A lone surrogate becomes U+FFFD.
func (v Value) Str() string {
	if v.Kind() != '"' {
		return ""
	}
	return unquote(v)
}

// Bool reports whether the value is true.
func (v Value) Bool() bool { return v.Kind() == 't' }

// Num is the value of a finite number.
func (v Value) Num() (float64, bool) {
	if v.Kind() != 0 {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(v), 64)
	if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
		return 0, false
	}
	return f, true
}

// Int is the value of a number without its fraction; 0 for anything else and beyond ±2^53.
func (v Value) Int() int64 {
	f, ok := v.Num()
	if !ok || math.Abs(f) > 1<<53 {
		return 0
	}
	return int64(f)
}

// Quote is s as a JSON string.
func Quote(s string) Value { return marshal(s) }

// Edit returns the object with each member's value replaced by what f returns; nil leaves the member out. What is no
// object, and what f changes nothing of, comes back as it is.
func (v Value) Edit(f func(key string, value Value) Value) Value {
	out := make(Value, 0, len(v))
	out = append(out, '{')
	changed := false
	v.Members(func(key string, old Value) bool {
		now := f(key, old)
		changed = changed || !same(now, old)
		if now == nil {
			return true
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, Quote(key)...), ':'), now...)
		return true
	})
	if !changed {
		return v
	}
	return append(out, '}')
}

// EditItems does the same with the items of an array.
func (v Value) EditItems(f func(Value) Value) Value {
	out := make(Value, 0, len(v))
	out = append(out, '[')
	changed := false
	v.Items(func(old Value) bool {
		now := f(old)
		changed = changed || !same(now, old)
		if now == nil {
			return true
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, now...)
		return true
	})
	if !changed {
		return v
	}
	return append(out, ']')
}

// same reports whether two values are the same bytes in memory.
func same(a, b Value) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) && (a == nil) == (b == nil)
}

func unquote(q []byte) string {
	in := q[1 : len(q)-1]
	if bytes.IndexByte(in, '\\') < 0 {
		return string(in)
	}
	var s string
	if json.Unmarshal(q, &s) != nil {
		return ""
	}
	return s
}

func blanks(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

// skip returns the index after the value that begins at i, and false when there is none.
func skip(b []byte, i, depth int) (int, bool) {
	if i >= len(b) || depth > maxDepth {
		return 0, false
	}
	switch c := b[i]; c {
	case '"':
		return skipString(b, i)
	case '{', '[':
		return skipGroup(b, i, depth)
	case 't':
		return skipWord(b, i, "true")
	case 'f':
		return skipWord(b, i, "false")
	case 'n':
		return skipWord(b, i, "null")
	default:
		return skipNumber(b, i)
	}
}

func skipGroup(b []byte, i, depth int) (int, bool) {
	closing := b[i] + 2 // { and }, [ and ] are two apart
	keys := b[i] == '{'
	i = blanks(b, i+1)
	if i < len(b) && b[i] == closing {
		return i + 1, depth < maxDepth
	}
	for {
		var ok bool
		if keys {
			if i >= len(b) || b[i] != '"' {
				return 0, false
			}
			if i, ok = skipString(b, i); !ok {
				return 0, false
			}
			i = blanks(b, i)
			if i >= len(b) || b[i] != ':' {
				return 0, false
			}
			i = blanks(b, i+1)
		}
		if i, ok = skip(b, i, depth+1); !ok {
			return 0, false
		}
		i = blanks(b, i)
		if i >= len(b) {
			return 0, false
		}
		switch b[i] {
		case ',':
			i = blanks(b, i+1)
		case closing:
			return i + 1, depth < maxDepth
		default:
			return 0, false
		}
	}
}

func skipString(b []byte, i int) (int, bool) {
	for i++; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i + 1, true
		case c < 0x20:
			return 0, false
		case c == '\\':
			if i++; i >= len(b) {
				return 0, false
			}
			switch b[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				if i+4 >= len(b) {
					return 0, false
				}
				for _, h := range b[i+1 : i+5] {
					if (h < '0' || h > '9') && (h|0x20 < 'a' || h|0x20 > 'f') {
						return 0, false
					}
				}
				i += 4
			default:
				return 0, false
			}
		}
	}
	return 0, false
}

func skipWord(b []byte, i int, word string) (int, bool) {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return 0, false
	}
	return i + len(word), true
}

func skipNumber(b []byte, i int) (int, bool) {
	if i < len(b) && b[i] == '-' {
		i++
	}
	begin := i
	if i = digits(b, i); i == begin || b[begin] == '0' && i > begin+1 {
		return 0, false
	}
	if i < len(b) && b[i] == '.' {
		begin = i + 1
		if i = digits(b, begin); i == begin {
			return 0, false
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		begin = i
		if i = digits(b, i); i == begin {
			return 0, false
		}
	}
	return i, true
}

func digits(b []byte, i int) int {
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	return i
}

// With is the object with one more member at its end.
func (v Value) With(key string, value Value) Value {
	if v.Kind() != '{' {
		return v
	}
	out := make(Value, 0, len(v)+len(key)+len(value)+8)
	out = append(out, v[:len(v)-1]...)
	if blanks(v, 1) < len(v)-1 {
		out = append(out, ',')
	}
	return append(append(append(append(out, Quote(key)...), ':'), value...), '}')
}

// Number is n as a JSON number.
func Number(n int64) Value { return strconv.AppendInt(nil, n, 10) }
