package json5

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
)

// style is how a document is written, as far as new text should look like it.
type style struct {
	quote byte   // of strings and quoted keys
	bare  bool   // keys without quotes where that is possible
	unit  string // one step of indentation
	nl    string // line end
}

// plain is the style of a document that shows none.
var plain = style{quote: '"', unit: "  ", nl: "\n"}

// maxUnitTries bounds how many containers are asked for the indentation step, because each costs a
// look along its line; a document that shows none by then gets the plain one.
const maxUnitTries = 64

// styleOf takes the style from the first member that shows it.
func styleOf(data []byte, root *Node) style {
	s := plain
	for i, c := range data {
		if c == '\n' {
			if i > 0 && data[i-1] == '\r' {
				s.nl = "\r\n"
			}
			break
		}
	}
	var sawString, sawKey, sawUnit bool
	var tries int
	text := func(at int) {
		if q := data[at]; !sawString && (q == '"' || q == '\'') {
			s.quote, sawString = q, true
		}
	}
	child := func(n *Node, first Pos) {
		if sawUnit || tries == maxUnitTries || first.Line == n.Start.Line || !firstOnLine(data, first.Offset) {
			return
		}
		tries++
		outer, in := indentAt(data, n.Start.Offset), indentAt(data, first.Offset)
		if len(in) > len(outer) && strings.HasPrefix(in, outer) {
			s.unit, sawUnit = in[len(outer):], true
		}
	}
	var walk func(n *Node)
	walk = func(n *Node) {
		for i, m := range n.src {
			text(m.KeyPos.Offset)
			if q := data[m.KeyPos.Offset]; !sawKey {
				s.bare, sawKey = q != '"' && q != '\'', true
			}
			if i == 0 {
				child(n, m.KeyPos)
			}
			walk(m.Value)
		}
		for i, item := range n.Items {
			if i == 0 {
				child(n, item.Start)
			}
			walk(item)
		}
		if n.Kind == String {
			text(n.Start.Offset)
		}
	}
	walk(root)
	return s
}

// toNode makes a Node from a Go value. Structs and other types go through encoding/json.
func toNode(v any) (*Node, error) {
	switch v := v.(type) {
	case nil:
		return &Node{}, nil
	case *Node:
		if v == nil {
			return &Node{}, nil
		}
		return v, nil
	case bool:
		return &Node{Kind: Bool, Bool: v}, nil
	case string:
		return &Node{Kind: String, Str: wellFormed(v)}, nil
	case float64:
		return &Node{Kind: Number, Num: v}, nil
	case []any:
		n := &Node{Kind: Array}
		for _, item := range v {
			c, err := toNode(item)
			if err != nil {
				return nil, err
			}
			n.Items = append(n.Items, c)
		}
		return n, nil
	}
	if rv := reflect.ValueOf(v); rv.CanInt() {
		return &Node{Kind: Number, Num: float64(rv.Int())}, nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("json5: cannot write a %T: %w", v, err)
	}
	n, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("json5: cannot write a %T: %w", v, err)
	}
	return n, nil
}

// write appends n; indent is that of the line on which n starts.
func (s style) write(b *strings.Builder, n *Node, indent string) {
	inner := indent + s.unit
	switch n.Kind {
	case Null:
		b.WriteString("null")
	case Bool:
		b.WriteString(strconv.FormatBool(n.Bool))
	case Number:
		b.WriteString(numeral(n.Num))
	case String:
		s.writeText(b, n.Str)
	case Array:
		if len(n.Items) == 0 {
			b.WriteString("[]")
			return
		}
		b.WriteByte('[')
		for i, item := range n.Items {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(s.nl + inner)
			s.write(b, item, inner)
		}
		b.WriteString(s.nl + indent + "]")
	case Object:
		if len(n.Members) == 0 {
			b.WriteString("{}")
			return
		}
		b.WriteByte('{')
		for i, m := range n.Members {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(s.nl + inner)
			s.writeMember(b, m.Key, m.Value, inner)
		}
		b.WriteString(s.nl + indent + "}")
	}
}

func (s style) writeMember(b *strings.Builder, key string, v *Node, indent string) {
	if s.bare && bareKey(key) {
		b.WriteString(key)
	} else {
		s.writeText(b, key)
	}
	b.WriteString(": ")
	s.write(b, v, indent)
}

func (s style) member(key string, v *Node, indent string) string {
	var b strings.Builder
	s.writeMember(&b, key, v, indent)
	return b.String()
}

func bareKey(key string) bool {
	for i, r := range key {
		if r >= 128 || !isIDPart(r) || i == 0 && !isIDStart(r) {
			return false
		}
	}
	return key != ""
}

// numeral writes a number as JavaScript does for the common sizes.
func numeral(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 0):
		if f > 0 {
			return "Infinity"
		}
		return "-Infinity"
	case f == 0 && math.Signbit(f):
		return "-0"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}

func (s style) writeText(b *strings.Builder, text string) {
	b.WriteByte(s.quote)
	for _, r := range text {
		switch {
		case r == rune(s.quote), r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' || r == '\ufeff':
			fmt.Fprintf(b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte(s.quote)
}

// wellFormed is text as Parse would give it back: each byte that is not UTF-8 becomes U+FFFD.
func wellFormed(text string) string { return string([]rune(text)) }

// Stringify writes a value as the original's writer does: two spaces, a comma after every last member,
// keys bare where they can be, and strings in single quotes unless they hold more of those than of
// double ones.
func Stringify(n *Node) string {
	var b strings.Builder
	stringify(&b, n, "")
	return b.String()
}

func stringify(b *strings.Builder, n *Node, indent string) {
	s := style{quote: '\'', unit: "  ", nl: "\n"}
	inner := indent + s.unit
	open, closing, size := "[", "]", len(n.Items)
	if n.Kind == Object {
		open, closing, size = "{", "}", len(n.Members)
	}
	switch {
	case n.Kind == String:
		quoted(b, n.Str)
		return
	case n.Kind != Array && n.Kind != Object, size == 0:
		s.write(b, n, indent)
		return
	}
	b.WriteString(open + s.nl)
	for _, item := range n.Items {
		b.WriteString(inner)
		stringify(b, item, inner)
		b.WriteString("," + s.nl)
	}
	for _, m := range n.Members {
		b.WriteString(inner)
		if bareKey(m.Key) {
			b.WriteString(m.Key)
		} else {
			quoted(b, m.Key)
		}
		b.WriteString(": ")
		stringify(b, m.Value, inner)
		b.WriteString("," + s.nl)
	}
	b.WriteString(indent + closing)
}

func quoted(b *strings.Builder, text string) {
	s := style{quote: '\''}
	if strings.Count(text, "'") > strings.Count(text, `"`) {
		s.quote = '"'
	}
	s.writeText(b, text)
}

// Format writes a value as JSON with two spaces, without a line end behind it; NaN and infinities, which
// JSON has not, as JSON5.
func Format(n *Node) string { return plain.render(n, "") }

// HasComments reports whether a document that parses has comments.
func HasComments(data []byte) bool {
	p := &parser{src: data, line: 1}
	for p.off < len(data) {
		switch c := p.peek(); c {
		case '"', '\'':
			if _, err := p.text(); err != nil {
				return false
			}
		case '/':
			return true
		default:
			p.next()
		}
	}
	return false
}
