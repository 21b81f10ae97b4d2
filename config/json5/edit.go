package json5

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ErrNotFound is what Delete returns when the path leads nowhere.
var ErrNotFound = errors.New("json5: no such key")

// Set returns data with the value at path replaced or added. Comments, order, spacing and the
// style of keys and strings stay; bytes outside the value change only where a comma is needed. An
// element of path names a key of an object or, in an array, an index; the index after the last one
// appends. Missing parents become objects. Empty data (white space and comments count as empty)
// gives a new document. The value may be what encoding/json can write, or a *Node.
//
// Errors: a *SyntaxError when data is not JSON5 or the result would nest too deep; another error
// when a parent on the path is no container, or the value cannot be written.
func Set(data []byte, path []string, value any) ([]byte, error) {
	v, err := toNode(value)
	if err != nil {
		return nil, err
	}
	if blank(data) {
		return fresh(data, path, v)
	}
	root, err := Parse(data)
	if err != nil {
		return nil, err
	}
	at, rest, err := descend(root, path)
	if err != nil {
		return nil, err
	}
	s := styleOf(data, root)
	var out []byte
	if len(rest) == 0 {
		out = splice(data, at.Start.Offset, at.End.Offset, s.render(v, indentAt(data, at.Start.Offset)))
	} else {
		out = s.insert(data, at, rest[0], chain(rest[1:], v))
	}
	return checked(out)
}

// maxRepeats bounds how often a key that Delete removes may be repeated, because each cut copies the
// text.
const maxRepeats = 1000

// Delete returns data without the value at path, its key and the comma that separated it. Comments
// around it stay. When the path leads nowhere the error is ErrNotFound; a *SyntaxError tells that
// data is not JSON5. The document itself (an empty path) cannot be deleted.
func Delete(data []byte, path []string) ([]byte, error) {
	if len(path) == 0 {
		return nil, errors.New("json5: cannot delete the whole document")
	}
	if blank(data) {
		return nil, ErrNotFound
	}
	root, err := Parse(data)
	if err != nil {
		return nil, err
	}
	parent, rest, err := descend(root, path[:len(path)-1])
	if err != nil || len(rest) > 0 {
		return nil, ErrNotFound
	}
	key := path[len(path)-1]
	spans := parent.spans()
	out, cuts := data, 0
	// Backwards, so that the places in front of a cut stay right; a repeated key goes altogether.
	for i, span := range slices.Backward(spans) {
		if !parent.names(i, key) {
			continue
		}
		if cuts++; cuts > maxRepeats {
			return nil, fmt.Errorf("json5: %q is repeated more than %d times", key, maxRepeats)
		}
		last := i == len(spans)-1
		start, from := parent.Start.Offset+1, true
		if i > 0 {
			start, from = spans[i-1].end, false
		}
		out = cut(out, start, span, from, last)
		spans = slices.Delete(spans, i, i+1)
	}
	if cuts == 0 {
		return nil, ErrNotFound
	}
	return checked(out)
}

// checked parses what an edit made, so that a document that cannot be read is never handed out.
func checked(out []byte) ([]byte, error) {
	if _, err := Parse(out); err != nil {
		return nil, err
	}
	return out, nil
}

// blank reports a document without a value.
func blank(data []byte) bool {
	p := &parser{src: data, line: 1}
	return p.space() == nil && p.peek() == eof
}

func fresh(data []byte, path []string, v *Node) ([]byte, error) {
	text := plain.render(chain(path, v), "") + plain.nl
	if len(bytes.TrimSpace(data)) == 0 {
		return checked([]byte(text))
	}
	// Only comments: they stay in front, and the last one may run to the end of its line.
	out := slices.Clone(data)
	if !bytes.HasSuffix(out, []byte("\n")) {
		out = append(out, plain.nl...)
	}
	return checked(append(out, text...))
}

// chain wraps v in one object for each element of path.
func chain(path []string, v *Node) *Node {
	for _, key := range slices.Backward(path) {
		m := []Member{{Key: wellFormed(key), Value: v}}
		v = &Node{Kind: Object, Members: m}
	}
	return v
}

func (s style) render(n *Node, indent string) string {
	var b strings.Builder
	s.write(&b, n, indent)
	return b.String()
}

// descend follows path as far as it exists; rest is what is missing below the node returned.
func descend(n *Node, path []string) (at *Node, rest []string, err error) {
	for i, key := range path {
		var child *Node
		switch n.Kind {
		case Object:
			child = n.Get(wellFormed(key))
		case Array:
			j, err := strconv.Atoi(key)
			if err != nil || j < 0 || j > len(n.Items) || strconv.Itoa(j) != key {
				return nil, nil, fmt.Errorf("json5: %q is no index of %s, which has %d items", key, where(path[:i]), len(n.Items))
			}
			if j < len(n.Items) {
				child = n.Items[j]
			}
		default:
			return nil, nil, fmt.Errorf("json5: cannot go into %s: it is a %s, not an object", where(path[:i]), n.Kind)
		}
		if child == nil {
			return n, path[i:], nil
		}
		n = child
	}
	return n, nil, nil
}

func where(path []string) string {
	if len(path) == 0 {
		return "the document"
	}
	return strings.Join(path, ".")
}

// span is the text of a member (key to value) or of an item.
type span struct{ start, end int }

func (n *Node) spans() []span {
	var out []span
	for _, m := range n.src {
		out = append(out, span{m.KeyPos.Offset, m.Value.End.Offset})
	}
	for _, item := range n.Items {
		out = append(out, span{item.Start.Offset, item.End.Offset})
	}
	return out
}

// names reports whether the i-th span is what key names.
func (n *Node) names(i int, key string) bool {
	if n.Kind == Object {
		return n.src[i].Key == wellFormed(key)
	}
	return strconv.Itoa(i) == key
}

// insert adds a member (or item) behind the last one of n.
func (s style) insert(data []byte, n *Node, key string, v *Node) []byte {
	member := func(indent string) string {
		var b strings.Builder
		if n.Kind == Object {
			s.writeMember(&b, key, v, indent)
		} else {
			s.write(&b, v, indent)
		}
		return b.String()
	}
	spans := n.spans()
	outer := indentAt(data, n.Start.Offset)
	closing := n.End.Offset - 1
	if len(spans) == 0 {
		at := trimRight(data, n.Start.Offset+1, closing)
		text := s.nl + outer + s.unit + member(outer+s.unit)
		if !bytes.ContainsAny(data[at:closing], "\n\r") {
			text += s.nl + outer
		}
		return splice(data, at, closingGap(data, at, closing), text)
	}

	last := spans[len(spans)-1]
	before := n.Start.Offset + 1
	if len(spans) > 1 {
		before = spans[len(spans)-2].end
	}
	comma := tokenAfter(data, last.end)
	trailing := data[comma] == ','
	at := last.end
	if trailing {
		at = comma + 1
	}
	at = afterNotes(data, at)
	broken := bytes.ContainsAny(data[before:last.start], "\n\r") || runsToLineEnd(data[last.end:at])

	var text string
	if broken {
		indent := indentAt(data, last.start)
		if !firstOnLine(data, last.start) {
			indent = outer + s.unit
		}
		text = s.nl + indent + member(indent)
	} else {
		text = " " + member(indentAt(data, last.start))
	}
	if trailing {
		return splice(data, at, at, text+",")
	}
	// The comma stands directly behind the last value, in front of any comment.
	return splice(splice(data, at, at, text), last.end, last.end, ",")
}

// closingGap drops the blanks of "{ }" when something is put between the brackets.
func closingGap(data []byte, at, closing int) int {
	if bytes.ContainsAny(data[at:closing], "\n\r") {
		return at
	}
	return closing
}

// cut removes one span with its comma. before is the end of the sibling in front, or the inside of
// the opening bracket when first; last tells that no sibling follows.
func cut(data []byte, before int, sp span, first, last bool) []byte {
	end := sp.end
	after := tokenAfter(data, sp.end)
	comma := -1
	if data[after] == ',' {
		comma = after
		if len(bytes.TrimSpace(data[sp.end:after])) == 0 {
			end, comma = after+1, -1
		}
	}
	keepTrailing := data[after] == ','
	if comma >= 0 {
		data = splice(data, comma, comma+1, "")
	}
	start := sp.start
	lineStart := start - len(blanksBefore(data, start))
	eol := end + len(blanksAfter(data, end))
	startsLine := lineStart == 0 || isBreak(data[lineStart-1])
	endsLine := eol < len(data) && isBreak(data[eol])
	switch {
	case startsLine && endsLine && lineStart > 0:
		// Alone on its lines: the lines go.
		start, end = lineStart, eol+1
		if data[eol] == '\r' && eol+1 < len(data) && data[eol+1] == '\n' {
			end++
		}
	case last && !startsLine && !first:
		start = lineStart
	case !last && !endsLine:
		end = eol
	}
	out := splice(data, start, end, "")
	if last && !first && !keepTrailing {
		// The sibling in front is the last one now, and this document writes no trailing comma.
		if c := tokenAfter(out, before); c < len(out) && out[c] == ',' {
			out = splice(out, c, c+1, "")
		}
	}
	return out
}

func splice(data []byte, start, end int, text string) []byte {
	return slices.Concat(data[:start], []byte(text), data[end:])
}

func isBreak(c byte) bool { return c == '\n' || c == '\r' }

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

func blanksBefore(data []byte, at int) []byte {
	i := at
	for i > 0 && isBlank(data[i-1]) {
		i--
	}
	return data[i:at]
}

func blanksAfter(data []byte, at int) []byte {
	i := at
	for i < len(data) && isBlank(data[i]) {
		i++
	}
	return data[at:i]
}

// indentAt is the white space at the start of the line of at.
func indentAt(data []byte, at int) string {
	start := at
	for start > 0 && !isBreak(data[start-1]) {
		start--
	}
	return string(blanksAfter(data[:at], start))
}

// firstOnLine reports that only blanks stand in front of at on its line.
func firstOnLine(data []byte, at int) bool {
	start := at - len(blanksBefore(data, at))
	return start == 0 || isBreak(data[start-1])
}

// tokenAfter is the place of the first character behind at that is no white space or comment.
// at must be outside of strings and comments of a document that parses.
func tokenAfter(data []byte, at int) int {
	p := &parser{src: data, off: at}
	if p.space() != nil {
		return len(data)
	}
	return p.off
}

// trimRight is the place behind the last comment between start and end, or start when there is
// only white space.
func trimRight(data []byte, start, end int) int {
	p := &parser{src: data[:end], off: start}
	last := start
	for p.off < end {
		if p.peek() == '/' {
			if p.comment() != nil {
				break
			}
			last = p.off
			continue
		}
		p.next()
	}
	return last
}

// runsToLineEnd reports whether the last comment of text is a // comment.
func runsToLineEnd(text []byte) bool {
	p := &parser{src: text}
	line := false
	for p.off < len(text) {
		if p.peek() != '/' {
			p.next()
			continue
		}
		line = p.off+1 < len(text) && text[p.off+1] == '/'
		if p.comment() != nil {
			break
		}
	}
	return line
}

// afterNotes skips the comments that follow at on the same line. Blanks behind the last comment
// are not skipped, and a comment that runs over several lines ends the search in front of it.
func afterNotes(data []byte, at int) int {
	for {
		i := at + len(blanksAfter(data, at))
		if i+1 >= len(data) || data[i] != '/' {
			return at
		}
		p := &parser{src: data, off: i}
		if p.comment() != nil || bytes.ContainsAny(data[i:p.off], "\n\r") {
			return at
		}
		at = p.off
	}
}
