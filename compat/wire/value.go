package wire

import (
	"iter"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Kind is the JSON type of a Value.
type Kind uint8

// The kinds. Undefined is the zero Value: a member that is not there.
const (
	Undefined Kind = iota
	Null
	Bool
	Number
	String
	Array
	Object
)

func (k Kind) String() string {
	return [...]string{"undefined", "null", "boolean", "number", "string", "array", "object"}[k]
}

// A Value is one value of a parsed JSON text. It is a small reference into the text it was parsed from: copying is
// free, and it keeps that text alive. Values are immutable and safe for concurrent use. The zero Value is Undefined.
type Value struct {
	d *doc
	i uint32
}

// doc is a parsed text: the text and a tape of nodes in source order. An object is followed by its members, each a
// key node and a value; an array by its items. Nodes hold offsets, not slices, so a text costs three allocations.
type doc struct {
	src  string
	tape []node
	esc  []string            // decoded strings that had escapes; lone surrogates as three bytes (WTF-8)
	keys map[uint32][]uint32 // key nodes in JavaScript order, for the few objects where it differs from the text's
}

type node struct {
	off, end uint32 // the value's text is src[off:end]
	next     uint32 // containers: first node after it; escaped strings: index into esc
	kind     Kind
	flags    uint8
}

const (
	flagTrue      = 1 << iota // Bool: true
	flagEscaped               // String: text is in esc
	flagLone                  // String: holds a lone surrogate
	flagReordered             // Object: see doc.keys
)

func (d *doc) after(i uint32) uint32 {
	if n := &d.tape[i]; n.kind >= Array {
		return n.next
	}
	return i + 1
}

// text is the exact decoded text of a string node, lone surrogates included.
func (d *doc) text(i uint32) string {
	n := &d.tape[i]
	if n.flags&flagEscaped != 0 {
		return d.esc[n.next]
	}
	return d.src[n.off+1 : n.end-1]
}

// wellFormed is text with lone surrogates replaced by U+FFFD, fit for the rest of the program.
func (d *doc) wellFormed(i uint32) string {
	s := d.text(i)
	if d.tape[i].flags&flagLone == 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for j := 0; j < len(s); {
		if _, n := surrogate(s[j:]); n > 0 {
			out = utf8.AppendRune(out, utf8.RuneError)
			j += n
			continue
		}
		out = append(out, s[j])
		j++
	}
	return string(out)
}

// Kind reports the JSON type.
func (v Value) Kind() Kind {
	if v.d == nil {
		return Undefined
	}
	return v.d.tape[v.i].kind
}

// Exists reports whether there is a value at all, null included.
func (v Value) Exists() bool { return v.d != nil }

// IsNull reports whether v is JSON null. An Undefined value is not null.
func (v Value) IsNull() bool { return v.Kind() == Null }

// Bool reports whether v is true.
func (v Value) Bool() bool { return v.Kind() == Bool && v.d.tape[v.i].flags&flagTrue != 0 }

// Str returns the text of a string and "" for anything else. Lone surrogates read as U+FFFD, so the result is always
// valid UTF-8; Stringify still writes them as they came.
func (v Value) Str() string {
	if v.Kind() != String {
		return ""
	}
	return v.d.wellFormed(v.i)
}

// Num returns a number as JavaScript holds it (a double; ±Inf when the literal is too large) and 0 for anything else.
func (v Value) Num() float64 {
	if v.Kind() != Number {
		return 0
	}
	raw := v.Raw()
	if plainInt(raw) {
		var n int64
		for i := 0; i < len(raw); i++ {
			n = n*10 + int64(raw[i]-'0')
		}
		return float64(n)
	}
	f, _ := strconv.ParseFloat(raw, 64) // the only possible error is ErrRange, and then f is ±Inf, which is wanted
	return f
}

// Int returns the number as an integer and whether v is a whole number within ±2^53 (1.0 and 1e3 are).
func (v Value) Int() (int64, bool) {
	if v.Kind() != Number {
		return 0, false
	}
	f := v.Num()
	if f != math.Trunc(f) || math.Abs(f) > maxInt {
		return 0, false
	}
	return int64(f), true
}

// Raw returns the value's JSON text as it came ("" when Undefined).
func (v Value) Raw() string {
	if v.d == nil {
		return ""
	}
	n := &v.d.tape[v.i]
	return v.d.src[n.off:n.end]
}

// Len is the number of members or items; 0 for anything else.
func (v Value) Len() int {
	count := 0
	switch v.Kind() {
	case Object:
		if v.d.tape[v.i].flags&flagReordered != 0 {
			return len(v.d.keys[v.i])
		}
		for i, end := v.i+1, v.d.tape[v.i].next; i < end; i = v.d.after(i + 1) {
			count++
		}
	case Array:
		for i, end := v.i+1, v.d.tape[v.i].next; i < end; i = v.d.after(i) {
			count++
		}
	}
	return count
}

// Get returns the member of that name. It is false when v is no object or has no such member. The cost is linear in
// the number of members; use Members to visit many.
func (v Value) Get(key string) (Value, bool) {
	if v.Kind() != Object {
		return Value{}, false
	}
	d := v.d
	if d.tape[v.i].flags&flagReordered != 0 {
		for _, k := range d.keys[v.i] {
			if d.text(k) == key {
				return Value{d, k + 1}, true
			}
		}
		return Value{}, false
	}
	for i, end := v.i+1, d.tape[v.i].next; i < end; i = d.after(i + 1) {
		if d.text(i) == key {
			return Value{d, i + 1}, true
		}
	}
	return Value{}, false
}

// Members yields the members of an object in JavaScript order: integer-like keys ascending, then the others in the
// order of their first appearance. It yields nothing for anything else. Lone surrogates in keys read as U+FFFD.
func (v Value) Members() iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		if v.Kind() != Object {
			return
		}
		d := v.d
		if d.tape[v.i].flags&flagReordered != 0 {
			for _, k := range d.keys[v.i] {
				if !yield(d.wellFormed(k), Value{d, k + 1}) {
					return
				}
			}
			return
		}
		for i, end := v.i+1, d.tape[v.i].next; i < end; i = d.after(i + 1) {
			if !yield(d.wellFormed(i), Value{d, i + 1}) {
				return
			}
		}
	}
}

// Items yields the items of an array; nothing for anything else.
func (v Value) Items() iter.Seq[Value] {
	return func(yield func(Value) bool) {
		if v.Kind() != Array {
			return
		}
		for i, end := v.i+1, v.d.tape[v.i].next; i < end; i = v.d.after(i) {
			if !yield(Value{v.d, i}) {
				return
			}
		}
	}
}

// MarshalJSON writes the value as Stringify does; Undefined as null.
func (v Value) MarshalJSON() ([]byte, error) { return Stringify(v), nil }

// UnmarshalJSON parses data.
func (v *Value) UnmarshalJSON(data []byte) error {
	p, err := Parse(data)
	if err == nil {
		*v = p
	}
	return err
}

// orderKeys records the JavaScript order of the object at i when it is not the order of the text: a key repeats, or
// looks like an array index.
func (d *doc) orderKeys(obj uint32) {
	end := d.tape[obj].next
	count, special := 0, false
	for i := obj + 1; i < end; i = d.after(i + 1) {
		count++
		if _, ok := arrayIndex(d.text(i)); ok {
			special = true
		}
	}
	if !special && count <= pairwiseMax {
		for i := obj + 1; i < end && !special; i = d.after(i + 1) {
			a := d.text(i)
			for j := d.after(i + 1); j < end; j = d.after(j + 1) {
				if d.text(j) == a {
					special = true
					break
				}
			}
		}
		if !special {
			return
		}
	}
	slot := make(map[string]int, count)
	order := make([]uint32, 0, count)
	for i := obj + 1; i < end; i = d.after(i + 1) {
		k := d.text(i)
		if at, dup := slot[k]; dup {
			order[at], special = i, true
			continue
		}
		slot[k] = len(order)
		order = append(order, i)
	}
	if !special {
		return
	}
	slices.SortStableFunc(order, func(a, b uint32) int {
		x, xi := arrayIndex(d.text(a))
		y, yi := arrayIndex(d.text(b))
		switch {
		case xi && yi:
			return int(int64(x) - int64(y))
		case xi:
			return -1
		case yi:
			return 1
		}
		return 0
	})
	if d.keys == nil {
		d.keys = make(map[uint32][]uint32)
	}
	d.keys[obj] = order
	d.tape[obj].flags |= flagReordered
}

// arrayIndex reports whether k is an ECMAScript array index in canonical form: "0" to "4294967294".
func arrayIndex(k string) (uint32, bool) {
	if len(k) == 0 || len(k) > 10 || k[0] == '0' && len(k) > 1 {
		return 0, false
	}
	var n uint64
	for i := 0; i < len(k); i++ {
		if k[i] < '0' || k[i] > '9' {
			return 0, false
		}
		n = n*10 + uint64(k[i]-'0')
	}
	return uint32(n), n < 1<<32-1
}
