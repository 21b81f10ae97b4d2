package wire

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// Marshal writes a Go value for the wire: encoding/json without the escapes that JavaScript does not use (<, >, &,
// U+2028, U+2029) and without the final newline.
func Marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return unescapeSeparators(bytes.TrimSuffix(buf.Bytes(), []byte("\n"))), nil
}

// MustMarshal is Marshal for types that cannot fail: structs of strings, numbers, booleans and this package's types.
// It panics on an error, which is then a fault of the program.
func MustMarshal(v any) []byte {
	b, err := Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// unescapeSeparators rewrites, in place, the three escapes that encoding/json writes and JSON.stringify does not:
// \u2028, \u2029 and \ufffd (for bytes that are not UTF-8).
func unescapeSeparators(b []byte) []byte {
	if !bytes.Contains(b, []byte(`\u202`)) && !bytes.Contains(b, []byte(`\ufffd`)) {
		return b
	}
	out := b[:0] // a rune is never longer than its escape
	for i := 0; i < len(b); {
		if b[i] != '\\' || i+1 >= len(b) {
			out = append(out, b[i])
			i++
			continue
		}
		if i+6 <= len(b) && b[i+1] == 'u' {
			if r, _ := hex4(string(b[i:i+6]), 2); r == 0x2028 || r == 0x2029 || r == utf8.RuneError {
				out = utf8.AppendRune(out, r)
				i += 6
				continue
			}
		}
		out = append(out, b[i], b[i+1])
		i += 2
	}
	return out
}
