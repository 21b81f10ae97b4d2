package wire

import (
	"errors"
	"math/bits"
	"strings"
	"unicode/utf8"
)

// Bounds of Parse; a text beyond one is refused with an error.
const (
	// MaxDepth is how deep arrays and objects may nest. Real frames stay below 20; the parser and everything that
	// walks a Value recurse, so the bound is what keeps a hostile text from exhausting the stack.
	MaxDepth = 512
	// MaxNodes is how many keys and values a text may hold. A node takes 16 bytes, so the largest text costs 32 MiB
	// beside itself, about the size of the largest message (25 MiB, protocol.md §0).
	MaxNodes = 2 << 20
	// MaxText is the longest text, in bytes, so that offsets fit 32 bits.
	MaxText = 1 << 30

	// pairwiseMax is the largest object whose keys are compared pair by pair instead of through a map.
	pairwiseMax = 12
)

// ErrSyntax is what every syntax error of Parse wraps.
var ErrSyntax = errors.New("not valid JSON")

// ErrLimit is what Parse returns for a text beyond MaxDepth, MaxNodes or MaxText.
var ErrLimit = errors.New("JSON text too deep or too large")

// Parse reads a JSON text as JSON.parse does: members keep their order except that integer-like keys come first,
// ascending; of repeated keys the last value counts, at the place of the first; escapes of lone surrogates are
// accepted. Bytes that are not UTF-8 read as U+FFFD, as a text decoder would have made them (binary messages,
// protocol.md §1.2); a leading byte order mark is a syntax error. data is copied and may be reused.
func Parse(data []byte) (Value, error) {
	if len(data) > MaxText {
		return Value{}, ErrLimit
	}
	var src string
	if utf8.Valid(data) {
		src = string(data)
	} else {
		src = replaceInvalid(data)
	}
	return parse(src)
}

// MustParse is Parse for texts in the program's own source; it panics on an error.
func MustParse(text string) Value {
	v, err := Parse([]byte(text))
	if err != nil {
		panic(err)
	}
	return v
}

func parse(src string) (Value, error) {
	if len(src) > MaxText {
		return Value{}, ErrLimit
	}
	p := parser{doc: &doc{src: src, tape: make([]node, 0, min(len(src)/9+4, 4096))}}
	p.space()
	if err := p.value(0); err != nil {
		return Value{}, err
	}
	p.space()
	if p.i < len(src) {
		return Value{}, p.failAs("Unexpected non-whitespace character after JSON")
	}
	return Value{p.doc, 0}, nil
}

type parser struct {
	*doc
	i int
}

// fail says that the character at p.i, or the end, fits nothing.
func (p *parser) fail() error { return &SyntaxError{src: p.src, at: min(p.i, len(p.src))} }

// failAs is fail where JavaScript says what it expected.
func (p *parser) failAs(what string) error {
	return &SyntaxError{src: p.src, at: min(p.i, len(p.src)), what: what}
}

func (p *parser) space() {
	for p.i < len(p.src) {
		switch p.src[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

// peek skips white space and returns the next byte, 0 at the end.
func (p *parser) peek() byte {
	p.space()
	if p.i >= len(p.src) {
		return 0
	}
	return p.src[p.i]
}

func (p *parser) value(depth int) error {
	if depth > MaxDepth || len(p.tape) >= MaxNodes {
		return ErrLimit
	}
	if p.i >= len(p.src) {
		return p.fail()
	}
	switch c := p.src[p.i]; c {
	case '{':
		return p.object(depth)
	case '[':
		return p.array(depth)
	case '"':
		return p.str()
	case 't':
		return p.word("true", Bool, flagTrue)
	case 'f':
		return p.word("false", Bool, 0)
	case 'n':
		return p.word("null", Null, 0)
	default:
		return p.number()
	}
}

func (p *parser) word(w string, k Kind, flags uint8) error {
	if !strings.HasPrefix(p.src[p.i:], w) {
		for n := 0; n < len(w) && p.i < len(p.src) && p.src[p.i] == w[n]; n++ {
			p.i++
		}
		return p.fail()
	}
	p.add(p.i, p.i+len(w), k, flags)
	return nil
}

// add puts a scalar on the tape and moves behind it.
func (p *parser) add(off, end int, k Kind, flags uint8) {
	p.tape = append(p.tape, node{off: uint32(off), end: uint32(end), kind: k, flags: flags})
	p.i = end
}

func (p *parser) object(depth int) error {
	at := p.open(Object)
	if p.peek() == '}' {
		p.close(at)
		return nil
	}
	expected := "Expected property name or '}' in JSON"
	for {
		if p.peek() != '"' {
			return p.failAs(expected)
		}
		expected = "Expected double-quoted property name in JSON"
		if err := p.str(); err != nil {
			return err
		}
		if p.peek() != ':' {
			return p.failAs("Expected ':' after property name in JSON")
		}
		p.i++
		p.space()
		if err := p.value(depth + 1); err != nil {
			return err
		}
		switch p.peek() {
		case ',':
			p.i++
		case '}':
			p.close(at)
			p.orderKeys(at)
			return nil
		default:
			return p.failAs("Expected ',' or '}' after property value in JSON")
		}
	}
}

func (p *parser) array(depth int) error {
	at := p.open(Array)
	if p.peek() == ']' {
		p.close(at)
		return nil
	}
	for {
		p.space()
		if err := p.value(depth + 1); err != nil {
			return err
		}
		switch p.peek() {
		case ',':
			p.i++
		case ']':
			p.close(at)
			return nil
		default:
			return p.failAs("Expected ',' or ']' after array element in JSON")
		}
	}
}

func (p *parser) open(k Kind) uint32 {
	at := uint32(len(p.tape))
	p.add(p.i, p.i+1, k, 0)
	return at
}

func (p *parser) close(at uint32) {
	p.i++
	n := &p.tape[at]
	n.end, n.next = uint32(p.i), uint32(len(p.tape))
}

func (p *parser) number() error {
	s, start, i := p.src, p.i, p.i
	if i < len(s) && s[i] == '-' {
		i++
	}
	whole := i
	i = digits(s, i)
	switch {
	case i == whole && i > start:
		p.i = i
		return p.failAs("No number after minus sign in JSON")
	case i == whole:
		return p.fail()
	case s[whole] == '0' && i > whole+1:
		p.i = whole + 1
		return p.fail()
	}
	if i < len(s) && s[i] == '.' {
		frac := i + 1
		if i = digits(s, frac); i == frac {
			p.i = i
			return p.failAs("Unterminated fractional number in JSON")
		}
	}
	if i < len(s) && s[i]|0x20 == 'e' {
		i++
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		exp := i
		if i = digits(s, exp); i == exp {
			p.i = i
			return p.failAs("Exponent part is missing a number in JSON")
		}
	}
	p.add(start, i, Number, 0)
	return nil
}

func digits(s string, i int) int {
	for i < len(s) && s[i]-'0' <= 9 {
		i++
	}
	return i
}

// str reads the string at p.i, which is a quotation mark.
func (p *parser) str() error {
	start := p.i
	i := plainEnd(p.src, start+1)
	if i < len(p.src) && p.src[i] == '"' {
		p.add(start, i+1, String, 0)
		return nil
	}
	var buf []byte
	from, lone := start+1, false
	for {
		if i >= len(p.src) || p.src[i] < ' ' {
			p.i = i
			if i >= len(p.src) {
				return p.failAs("Unterminated string in JSON")
			}
			return p.failAs("Bad control character in string literal in JSON")
		}
		buf = append(buf, p.src[from:i]...)
		if p.src[i] == '"' {
			break
		}
		var err error
		if buf, i, err = p.escape(buf, i, &lone); err != nil {
			return err
		}
		from = i
		i = plainEnd(p.src, i)
	}
	flags := uint8(flagEscaped)
	if lone {
		flags |= flagLone
	}
	p.add(start, i+1, String, flags)
	p.tape[len(p.tape)-1].next = uint32(len(p.esc))
	p.esc = append(p.esc, string(buf))
	return nil
}

// escape decodes the escape at i (a backslash) and returns the index behind it.
func (p *parser) escape(buf []byte, i int, lone *bool) ([]byte, int, error) {
	s := p.src
	if i+1 >= len(s) {
		p.i = len(s)
		return nil, 0, p.fail()
	}
	switch c := s[i+1]; c {
	case '"', '\\', '/':
		return append(buf, c), i + 2, nil
	case 'b':
		return append(buf, '\b'), i + 2, nil
	case 'f':
		return append(buf, '\f'), i + 2, nil
	case 'n':
		return append(buf, '\n'), i + 2, nil
	case 'r':
		return append(buf, '\r'), i + 2, nil
	case 't':
		return append(buf, '\t'), i + 2, nil
	case 'u':
		r, ok := hex4(s, i+2)
		if !ok {
			for p.i = i + 2; p.i < len(s) && strings.IndexByte("0123456789abcdefABCDEF", s[p.i]) >= 0; p.i++ {
			}
			return nil, 0, p.failAs("Bad Unicode escape in JSON")
		}
		i += 6
		if r < 0xD800 || r > 0xDFFF {
			return utf8.AppendRune(buf, r), i, nil
		}
		if r < 0xDC00 && strings.HasPrefix(s[i:], `\u`) {
			if low, ok := hex4(s, i+2); ok && low >= 0xDC00 && low <= 0xDFFF {
				return utf8.AppendRune(buf, (r-0xD800)<<10|(low-0xDC00)+0x10000), i + 6, nil
			}
		}
		*lone = true
		return append(buf, 0xE0|byte(r>>12), 0x80|byte(r>>6)&0xBF, 0x80|byte(r)&0xBF), i, nil
	}
	p.i = i + 1
	return nil, 0, p.failAs("Bad escaped character in JSON")
}

func hex4(s string, i int) (rune, bool) {
	if i+4 > len(s) {
		return 0, false
	}
	var r rune
	for _, c := range []byte(s[i : i+4]) {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// plainEnd is the index of the first byte at or after i that ends a plain stretch of a string: a quotation mark, a
// backslash or a control character. It looks at eight bytes at a time, because a string may be a 20 MiB attachment.
func plainEnd(s string, i int) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for ; i+8 <= len(s); i += 8 {
		w := uint64(s[i]) | uint64(s[i+1])<<8 | uint64(s[i+2])<<16 | uint64(s[i+3])<<24 |
			uint64(s[i+4])<<32 | uint64(s[i+5])<<40 | uint64(s[i+6])<<48 | uint64(s[i+7])<<56
		q, b := w^(ones*'"'), w^(ones*'\\')
		// A borrow can mark a byte wrongly only above a rightly marked one, and the lowest mark is taken.
		if m := ((q-ones)&^q | (b-ones)&^b | (w-ones*' ')&^w) & highs; m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
	}
	for i < len(s) && s[i] >= ' ' && s[i] != '"' && s[i] != '\\' {
		i++
	}
	return i
}

// replaceInvalid decodes data as UTF-8 with one U+FFFD for each maximal ill-formed part, as the WHATWG decoder does.
// (The standard library would give one for each byte, or one for a run.)
func replaceInvalid(data []byte) string {
	var out strings.Builder
	out.Grow(len(data) + 16)
	for i := 0; i < len(data); {
		if r, n := utf8.DecodeRune(data[i:]); r != utf8.RuneError || n > 1 {
			out.Write(data[i : i+n])
			i += n
			continue
		}
		out.WriteRune(utf8.RuneError)
		i += illFormed(data[i:])
	}
	return out.String()
}

// illFormed is the length of the ill-formed part at the start of b: a lead byte and those continuation bytes that
// could still have become a character.
func illFormed(b []byte) int {
	need, low, high := 0, byte(0x80), byte(0xBF)
	switch c := b[0]; {
	case c >= 0xC2 && c <= 0xDF:
		need = 1
	case c >= 0xE0 && c <= 0xEF:
		need = 2
		switch c {
		case 0xE0:
			low = 0xA0
		case 0xED:
			high = 0x9F
		}
	case c >= 0xF0 && c <= 0xF4:
		need = 3
		switch c {
		case 0xF0:
			low = 0x90
		case 0xF4:
			high = 0x8F
		}
	}
	n := 1
	for ; n <= need && n < len(b) && b[n] >= low && b[n] <= high; n++ {
		low, high = 0x80, 0xBF
	}
	return n
}
