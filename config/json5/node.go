// Package json5 reads JSON5 documents with the position of everything in them, and changes single
// values in a document's text while the rest of the text (comments, order, spacing, quotes) stays
// as its author left it.
//
// It imports the standard library only and owns no goroutine. All functions are safe to call from
// several goroutines; a Node is plain data.
package json5

import "fmt"

// MaxDepth bounds how deep arrays and objects may nest, so that a hostile document cannot exhaust
// the stack. A deeper document is refused with a *SyntaxError.
const MaxDepth = 512

// Kind is the type of a value.
type Kind uint8

// The kinds of values.
const (
	Null Kind = iota
	Bool
	Number
	String
	Array
	Object
)

var kindNames = [...]string{"null", "boolean", "number", "string", "array", "object"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Pos is a place in a document. Offset counts bytes from 0. Line and Col count from 1; a line ends
// at "\n", and Col counts UTF-16 units, as the original reader does. The zero Pos means unknown.
type Pos struct {
	Offset, Line, Col int
}

// Node is one value of a document. The field that its Kind names is the one that holds it.
type Node struct {
	Kind Kind
	Bool bool
	Num  float64
	Str  string
	// Items are the values of an array.
	Items []*Node
	// Members are those of an object in the order of their first appearance. A key that the text
	// repeats is here once, with its last value.
	Members []Member
	// Start is the first byte of the value in the text, End the byte after its last one.
	Start, End Pos

	// src are the members as written, repeated keys included; the editor needs their places.
	src []Member
}

// Member is one key of an object and its value. KeyPos is where the key starts, quotes included.
type Member struct {
	Key    string
	KeyPos Pos
	Value  *Node
}

// Get returns the value of a key of an object, or nil.
func (n *Node) Get(key string) *Node {
	if n == nil || n.Kind != Object {
		return nil
	}
	for i := range n.Members {
		if n.Members[i].Key == key {
			return n.Members[i].Value
		}
	}
	return nil
}

// At follows keys from n downwards and returns the value found, or nil.
func (n *Node) At(path ...string) *Node {
	for _, key := range path {
		n = n.Get(key)
	}
	return n
}

// Value returns the value as plain Go data: nil, bool, float64, string, []any or map[string]any.
func (n *Node) Value() any {
	if n == nil {
		return nil
	}
	switch n.Kind {
	case Bool:
		return n.Bool
	case Number:
		return n.Num
	case String:
		return n.Str
	case Array:
		out := make([]any, len(n.Items))
		for i, item := range n.Items {
			out[i] = item.Value()
		}
		return out
	case Object:
		out := make(map[string]any, len(n.Members))
		for _, m := range n.Members {
			out[m.Key] = m.Value.Value()
		}
		return out
	default:
		return nil
	}
}

// SyntaxError says where a text stops being JSON5. Its wording is that of the original reader.
type SyntaxError struct {
	Msg       string
	Line, Col int
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("JSON5: %s at %d:%d", e.Msg, e.Line, e.Col)
}

// Repeated returns the members of an object whose key the text has used before, where they are
// written. Members holds the last value of each only.
func (n *Node) Repeated() []Member {
	if n == nil || len(n.src) == len(n.Members) {
		return nil
	}
	seen := make(map[string]bool, len(n.src))
	var out []Member
	for _, m := range n.src {
		if seen[m.Key] {
			out = append(out, m)
		}
		seen[m.Key] = true
	}
	return out
}
