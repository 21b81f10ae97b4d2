package json5

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Parse reads one JSON5 document. The error is a *SyntaxError. Bytes that are not UTF-8 read as
// U+FFFD inside strings and comments and are refused elsewhere.
func Parse(data []byte) (*Node, error) {
	p := &parser{src: data, line: 1}
	n, err := p.document()
	if err != nil {
		return nil, err
	}
	return n, nil
}

// eof is what peek returns behind the last character; no character has this value.
const eof = rune(-1)

type parser struct {
	src       []byte
	off       int
	line, col int // col: UTF-16 units of this line already read
	depth     int
}

func (p *parser) peek() rune {
	if p.off >= len(p.src) {
		return eof
	}
	if c := p.src[p.off]; c < utf8.RuneSelf {
		return rune(c)
	}
	r, _ := utf8.DecodeRune(p.src[p.off:])
	return r
}

func (p *parser) next() rune {
	if p.off >= len(p.src) {
		p.col++
		return eof
	}
	r, size := rune(p.src[p.off]), 1
	if r >= utf8.RuneSelf {
		r, size = utf8.DecodeRune(p.src[p.off:])
	}
	p.off += size
	if r == '\n' {
		p.line++
		p.col = 0
	} else {
		p.col += units(r)
	}
	return r
}

func (p *parser) pos() Pos { return Pos{Offset: p.off, Line: p.line, Col: p.col + 1} }

// unexpected reads the character that does not belong here and refuses it.
func (p *parser) unexpected() error {
	r := p.next()
	msg := "invalid end of input"
	if r != eof {
		msg = "invalid character '" + printable(r) + "'"
	}
	return &SyntaxError{Msg: msg, Line: p.line, Col: p.col}
}

// space skips white space and comments.
func (p *parser) space() error {
	for {
		r := p.peek()
		switch {
		case r == '/':
			if err := p.comment(); err != nil {
				return err
			}
		case r != eof && isSpace(r):
			p.next()
		default:
			return nil
		}
	}
}

func (p *parser) comment() error {
	p.next()
	switch p.peek() {
	case '/':
		for r := p.peek(); r != eof && !isLineEnd(r); r = p.peek() {
			p.next()
		}
		return nil
	case '*':
		p.next()
		for {
			r := p.peek()
			if r == eof {
				return p.unexpected()
			}
			p.next()
			if r == '*' && p.peek() == '/' {
				p.next()
				return nil
			}
		}
	}
	return p.unexpected()
}

func (p *parser) document() (*Node, error) {
	if err := p.space(); err != nil {
		return nil, err
	}
	n, err := p.value()
	if err != nil {
		return nil, err
	}
	if err := p.space(); err != nil {
		return nil, err
	}
	if p.peek() != eof {
		return nil, p.unexpected()
	}
	return n, nil
}

func (p *parser) value() (*Node, error) {
	n := &Node{Start: p.pos()}
	var err error
	switch r := p.peek(); r {
	case '{':
		n.Kind = Object
		err = p.nested(n, p.object)
	case '[':
		n.Kind = Array
		err = p.nested(n, p.array)
	case '"', '\'':
		n.Kind = String
		n.Str, err = p.text()
	case 'n':
		err = p.word("null")
	case 't':
		n.Kind, n.Bool = Bool, true
		err = p.word("true")
	case 'f':
		n.Kind = Bool
		err = p.word("false")
	default:
		n.Kind = Number
		n.Num, err = p.number()
	}
	if err != nil {
		return nil, err
	}
	n.End = p.pos()
	return n, nil
}

func (p *parser) nested(n *Node, read func(*Node) error) error {
	if p.depth == MaxDepth {
		pos := p.pos()
		return &SyntaxError{Msg: fmt.Sprintf("more than %d levels of nesting", MaxDepth), Line: pos.Line, Col: pos.Col}
	}
	p.depth++
	defer func() { p.depth-- }()
	p.next()
	return read(n)
}

// separator reads what may stand behind an item: a comma, or the closing bracket. It reports
// whether the container goes on.
func (p *parser) separator(closing rune) (bool, error) {
	if err := p.space(); err != nil {
		return false, err
	}
	switch p.peek() {
	case ',':
		p.next()
		return true, nil
	case closing:
		p.next()
		return false, nil
	}
	return false, p.unexpected()
}

func (p *parser) array(n *Node) error {
	for {
		if err := p.space(); err != nil {
			return err
		}
		if p.peek() == ']' {
			p.next()
			return nil
		}
		item, err := p.value()
		if err != nil {
			return err
		}
		n.Items = append(n.Items, item)
		if more, err := p.separator(']'); err != nil || !more {
			return err
		}
	}
}

func (p *parser) object(n *Node) error {
	for {
		if err := p.space(); err != nil {
			return err
		}
		if p.peek() == '}' {
			p.next()
			n.unite()
			return nil
		}
		m := Member{KeyPos: p.pos()}
		var err error
		if m.Key, err = p.key(); err != nil {
			return err
		}
		if err := p.space(); err != nil {
			return err
		}
		if p.peek() != ':' {
			return p.unexpected()
		}
		p.next()
		if err := p.space(); err != nil {
			return err
		}
		if m.Value, err = p.value(); err != nil {
			return err
		}
		n.src = append(n.src, m)
		more, err := p.separator('}')
		if err != nil {
			return err
		}
		if !more {
			n.unite()
			return nil
		}
	}
}

// unite makes Members from the members as written: of a repeated key the last value counts.
func (n *Node) unite() {
	if !n.repeats() {
		n.Members = slices.Clip(n.src)
		return
	}
	first := make(map[string]int, len(n.src))
	n.Members = make([]Member, 0, len(n.src))
	for _, m := range n.src {
		if i, dup := first[m.Key]; dup {
			n.Members[i] = m
			continue
		}
		first[m.Key] = len(n.Members)
		n.Members = append(n.Members, m)
	}
}

func (n *Node) repeats() bool {
	if len(n.src) > fewMembers {
		seen := make(map[string]bool, len(n.src))
		for _, m := range n.src {
			if seen[m.Key] {
				return true
			}
			seen[m.Key] = true
		}
		return false
	}
	for i, m := range n.src {
		for _, other := range n.src[:i] {
			if other.Key == m.Key {
				return true
			}
		}
	}
	return false
}

func (p *parser) word(w string) error {
	for _, want := range w {
		if p.peek() != want {
			return p.unexpected()
		}
		p.next()
	}
	return nil
}

func (p *parser) key() (string, error) {
	if r := p.peek(); r == '"' || r == '\'' {
		return p.text()
	}
	var b strings.Builder
	for {
		r := p.peek()
		allowed := isIDPart
		if b.Len() == 0 {
			allowed = isIDStart
		}
		switch {
		case r == '\\':
			at := p.pos()
			p.next()
			if p.peek() != 'u' {
				return "", p.unexpected()
			}
			p.next()
			esc, err := p.hex(4)
			if err != nil {
				return "", err
			}
			if !allowed(esc) {
				return "", &SyntaxError{Msg: "invalid identifier character", Line: at.Line, Col: at.Col}
			}
			b.WriteRune(esc)
		case r != eof && allowed(r):
			b.WriteRune(p.next())
		case b.Len() == 0:
			return "", p.unexpected()
		default:
			return b.String(), nil
		}
	}
}

func (p *parser) hex(digits int) (rune, error) {
	var v rune
	for range digits {
		d := hexValue(p.peek())
		if d < 0 {
			return 0, p.unexpected()
		}
		p.next()
		v = v<<4 | rune(d)
	}
	return v, nil
}

// text reads a quoted string.
func (p *parser) text() (string, error) {
	quote := p.next()
	var b strings.Builder
	for {
		switch r := p.peek(); r {
		case quote:
			p.next()
			return b.String(), nil
		case eof, '\n', '\r':
			return "", p.unexpected()
		case '\\':
			p.next()
			if err := p.escape(&b); err != nil {
				return "", err
			}
		default:
			b.WriteRune(p.next())
		}
	}
}

func (p *parser) escape(b *strings.Builder) error {
	r := p.peek()
	if r == eof || r >= '1' && r <= '9' {
		return p.unexpected()
	}
	p.next()
	switch r {
	case 'b':
		b.WriteByte('\b')
	case 'f':
		b.WriteByte('\f')
	case 'n':
		b.WriteByte('\n')
	case 'r':
		b.WriteByte('\r')
	case 't':
		b.WriteByte('\t')
	case 'v':
		b.WriteByte('\v')
	case '0':
		if isDigit(p.peek()) {
			return p.unexpected()
		}
		b.WriteByte(0)
	case 'x':
		v, err := p.hex(2)
		if err != nil {
			return err
		}
		b.WriteRune(v)
	case 'u':
		return p.unicodeEscape(b)
	case '\r':
		if p.peek() == '\n' {
			p.next()
		}
	case '\n', '\u2028', '\u2029': // a line continuation adds nothing
	default:
		b.WriteRune(r)
	}
	return nil
}

// unicodeEscape reads the digits of \uHHHH, and the second half when it is a surrogate pair. A
// surrogate alone is no character and reads as U+FFFD.
func (p *parser) unicodeEscape(b *strings.Builder) error {
	v, err := p.hex(4)
	if err != nil {
		return err
	}
	for utf16.IsSurrogate(v) {
		if v >= 0xdc00 || p.off+1 >= len(p.src) || p.src[p.off] != '\\' || p.src[p.off+1] != 'u' {
			v = utf8.RuneError
			break
		}
		p.next()
		p.next()
		low, err := p.hex(4)
		if err != nil {
			return err
		}
		if pair := utf16.DecodeRune(v, low); pair != utf8.RuneError {
			v = pair
			break
		}
		b.WriteRune(utf8.RuneError)
		v = low
	}
	b.WriteRune(v)
	return nil
}

func (p *parser) number() (float64, error) {
	sign := 1.0
	if r := p.peek(); r == '+' || r == '-' {
		if p.next(); r == '-' {
			sign = -1
		}
	}
	start := p.off
	switch r := p.peek(); {
	case r == 'I':
		return sign * math.Inf(1), p.word("Infinity")
	case r == 'N':
		return math.NaN(), p.word("NaN")
	case r == '0':
		p.next()
		if x := p.peek(); x == 'x' || x == 'X' {
			p.next()
			if hexValue(p.peek()) < 0 {
				return 0, p.unexpected()
			}
			for hexValue(p.peek()) >= 0 {
				p.next()
			}
			return sign * float(p.src[start:p.off], "p0"), nil
		}
		if p.peek() == '.' {
			p.next()
			p.digits()
		}
	case isDigit(r):
		p.digits()
		if p.peek() == '.' {
			p.next()
			p.digits()
		}
	case r == '.':
		p.next()
		if !isDigit(p.peek()) {
			return 0, p.unexpected()
		}
		p.digits()
	default:
		return 0, p.unexpected()
	}
	if r := p.peek(); r == 'e' || r == 'E' {
		p.next()
		if s := p.peek(); s == '+' || s == '-' {
			p.next()
		}
		if !isDigit(p.peek()) {
			return 0, p.unexpected()
		}
		p.digits()
	}
	return sign * float(p.src[start:p.off], ""), nil
}

func (p *parser) digits() {
	for isDigit(p.peek()) {
		p.next()
	}
}

// float converts a checked numeral. One too large is an infinity, as in the original.
func float(text []byte, suffix string) float64 {
	f, _ := strconv.ParseFloat(string(text)+suffix, 64)
	return f
}
