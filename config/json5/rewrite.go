package json5

import (
	"bytes"
	"errors"
	"math"
	"slices"
)

// Rewrite returns data changed so that it reads as want, which says nothing about the order of keys:
// those that are there stay where they are, with their comments, layout and style. New ones stand
// behind the one that is in front of them in want; keys at the end of want stand at the end. Comments
// around something that goes stay; only those inside of it go with it. Items of arrays are told apart
// by their place, or by a text under "id" where all have one.
//
// Keys of the document itself that are in moved are taken out and put in again where want has them.
//
// Errors: a *SyntaxError when data is not JSON5 or want nests too deep.
func Rewrite(data []byte, want *Node, moved ...string) ([]byte, error) {
	if want == nil {
		return nil, errors.New("json5: nothing to write")
	}
	if blank(data) {
		return fresh(data, nil, want)
	}
	root, err := Parse(data)
	if err != nil {
		return nil, err
	}
	if len(moved) == 0 && Equal(root, want) {
		return slices.Clone(data), nil
	}
	r := &rewriter{data: data, s: styleOf(data, root), moved: moved, root: root}
	r.out.Grow(len(data) + len(data)/64 + 256)
	r.out.Write(data[:root.Start.Offset])
	r.value(root, want)
	r.out.Write(data[root.End.Offset:])
	out := r.out.Bytes()
	root, r.root = nil, nil
	again, err := Parse(out)
	if err != nil {
		return nil, err
	}
	if !Equal(again, want) {
		return nil, errors.New("json5: the document cannot be changed in place")
	}
	return out, nil
}

// Equal reports whether two values are the same; the order of keys does not count. A NaN is the same
// as another one.
func Equal(a, b *Node) bool {
	if a == b {
		return true
	}
	if a == nil || b == nil || a.Kind != b.Kind {
		return false
	}
	switch a.Kind {
	case Bool:
		return a.Bool == b.Bool
	case Number:
		return a.Num == b.Num || math.IsNaN(a.Num) && math.IsNaN(b.Num)
	case String:
		return a.Str == b.Str
	case Array:
		return slices.EqualFunc(a.Items, b.Items, Equal)
	case Object:
		if len(a.Members) != len(b.Members) {
			return false
		}
		other := b.Index()
		for i, m := range a.Members {
			// Mostly the order is the same, too.
			if b.Members[i].Key == m.Key {
				if !Equal(m.Value, b.Members[i].Value) {
					return false
				}
				continue
			}
			v := other.Get(m.Key)
			if v == nil || !Equal(m.Value, v) {
				return false
			}
		}
	}
	return true
}

// Index finds the members of an object, also where they are many. It holds for as long as they stay
// as they are.
type Index struct {
	n    *Node
	keys map[string]*Node
}

// fewMembers is up to how many members are looked through one by one.
const fewMembers = 12

// Index is for asking for many keys of n, which may be nil.
func (n *Node) Index() *Index { return &Index{n: n} }

// Get returns the value of a key, or nil.
func (x *Index) Get(key string) *Node {
	if x.n == nil || x.n.Kind != Object {
		return nil
	}
	if len(x.n.Members) <= fewMembers {
		return x.n.Get(key)
	}
	if x.keys == nil {
		x.keys = make(map[string]*Node, len(x.n.Members))
		for _, m := range x.n.Members {
			x.keys[m.Key] = m.Value
		}
	}
	return x.keys[key]
}

// maxIndent bounds how far back the start of a line is looked for; a longer line has no indentation
// worth following.
const maxIndent = 4096

type rewriter struct {
	data  []byte
	s     style
	out   bytes.Buffer
	root  *Node
	moved []string
	// inNote tells that out ends with a // comment.
	inNote bool
}

// put writes text of the document or new text, on a new line where a comment runs to the end of its
// line.
func (r *rewriter) put(text []byte) {
	if len(text) == 0 {
		return
	}
	if r.inNote && !isBreak(text[0]) {
		r.out.WriteString(r.s.nl)
	}
	r.inNote = false
	r.out.Write(text)
}

// note writes the comments that are in text, with the white space between them; indent is for those that
// need a line of their own.
func (r *rewriter) note(text []byte, indent string) {
	end := trimRight(text, 0, len(text))
	if end == 0 {
		return
	}
	text = text[:end]
	switch c := text[0]; {
	case r.inNote && !isBreak(c):
		text = append([]byte(r.s.nl+indent), bytes.TrimLeft(text, " \t")...)
	case !isBreak(c) && !isBlank(c):
		r.put([]byte(" "))
	}
	r.put(text)
	r.inNote = runsToLineEnd(text)
}

func (r *rewriter) indent(at int) string {
	return indentAt(r.data[max(0, at-maxIndent):], min(at, maxIndent))
}

func (r *rewriter) value(n, want *Node) {
	switch {
	case r.unchanged(n, want):
		r.put(r.data[n.Start.Offset:n.End.Offset])
	case n.Kind == want.Kind && n.Kind == Object:
		r.container(n, want, r.members(n, want))
	case n.Kind == want.Kind && n.Kind == Array:
		r.container(n, want, r.items(n, want))
	default:
		r.put([]byte(r.s.render(want, r.indent(n.Start.Offset))))
	}
}

func (r *rewriter) unchanged(n, want *Node) bool {
	return (n != r.root || len(r.moved) == 0) && Equal(n, want)
}

// piece is a member or item of a container as it will be: one of the text, changed or not, one of the
// text that goes (want is nil), or a new one (old is -1).
type piece struct {
	old  int
	key  string
	want *Node
}

func (r *rewriter) members(n, want *Node) []piece {
	last := make(map[string]int, len(n.src))
	for i, m := range n.src {
		last[m.Key] = i
	}
	if n == r.root {
		for _, key := range r.moved {
			delete(last, key)
		}
	}
	// The new ones, by the member of the text that they stand behind; the first stand behind -1.
	added := map[int][]piece{}
	tail := len(want.Members)
	for tail > 0 {
		if _, ok := last[want.Members[tail-1].Key]; ok {
			break
		}
		tail--
	}
	behind := -1
	for i, m := range want.Members {
		if at, ok := last[m.Key]; ok {
			behind = at
			continue
		}
		at := behind
		if i >= tail && tail > 0 {
			at = len(n.src) - 1
		}
		added[at] = append(added[at], piece{-1, m.Key, m.Value})
	}
	index := want.Index()
	out := added[-1]
	for i, m := range n.src {
		p := piece{old: i}
		if at, ok := last[m.Key]; ok {
			p.want = index.Get(m.Key)
			if p.want != nil && at != i {
				p.want = m.Value // repeated further down, where it counts
			}
		}
		out = append(append(out, p), added[i]...)
	}
	return out
}

func (r *rewriter) items(n, want *Node) []piece {
	from, old, wanted := 0, n.Items, want.Items
	for from < len(old) && from < len(wanted) && Equal(old[from], wanted[from]) {
		from++
	}
	same := 0
	for same < len(old)-from && same < len(wanted)-from && Equal(old[len(old)-1-same], wanted[len(wanted)-1-same]) {
		same++
	}
	var out []piece
	for i := range from {
		out = append(out, piece{old: i, want: wanted[i]})
	}
	i, j := from, from
	oldEnd, wantEnd := len(old)-same, len(wanted)-same
	for places := namedPlaces(old[:oldEnd], wanted[from:wantEnd], from); j < wantEnd; j++ {
		if places != nil {
			at, ok := places[wanted[j].Get("id").Str]
			if !ok || at < i {
				out = append(out, piece{-1, "", wanted[j]})
				continue
			}
			for ; i < at; i++ {
				out = append(out, piece{old: i})
			}
		}
		if i >= oldEnd {
			out = append(out, piece{-1, "", wanted[j]})
			continue
		}
		out = append(out, piece{old: i, want: wanted[j]})
		i++
	}
	for ; i < oldEnd; i++ {
		out = append(out, piece{old: i})
	}
	for k := range same {
		out = append(out, piece{old: oldEnd + k, want: wanted[wantEnd+k]})
	}
	return out
}

// namedPlaces tells where the items stand by their id, nil unless all have one of their own.
func namedPlaces(old, wanted []*Node, from int) map[string]int {
	places := make(map[string]int, len(old))
	for i := from; i < len(old); i++ {
		id := old[i].Get("id")
		if id == nil || id.Kind != String {
			return nil
		}
		if _, twice := places[id.Str]; twice {
			return nil
		}
		places[id.Str] = i
	}
	for _, n := range wanted {
		if id := n.Get("id"); id == nil || id.Kind != String {
			return nil
		}
	}
	return places
}

// text of a member or item of the document, with what belongs to it: lead is what is in front of it,
// post what is between it and its comma, notes the comments behind that on the same line.
type part struct {
	lead, start, end, comma, notes int // places; comma is -1 without one
}

func (r *rewriter) parts(n *Node) (parts []part, closing int) {
	at := r.notes(n.Start.Offset + 1)
	for _, sp := range n.spans() {
		p := part{lead: at, start: sp.start, end: sp.end, comma: -1}
		at = sp.end
		if c := tokenAfter(r.data, sp.end); r.data[c] == ',' {
			p.comma, at = c, c+1
		}
		at = r.notes(at)
		p.notes = at
		parts = append(parts, p)
	}
	return parts, at
}

// notes is the place behind the comments that end the line of at, or at.
func (r *rewriter) notes(at int) int {
	end := afterNotes(r.data, at)
	next := end + len(blanksAfter(r.data, end))
	if next >= len(r.data) || isBreak(r.data[next]) {
		return end
	}
	return at
}

func (r *rewriter) container(n, want *Node, pieces []piece) {
	bracket, closing := n.Start.Offset+1, n.End.Offset-1
	parts, rest := r.parts(n)
	if len(parts) == 0 {
		r.filled(n, want)
		return
	}
	final := -1
	for i, p := range pieces {
		if p.want != nil {
			final = i
		}
	}
	first, last := parts[0], parts[len(parts)-1]
	trailing := last.comma >= 0
	broken := bytes.ContainsAny(r.data[bracket:first.start], "\n\r") || bytes.ContainsAny(r.data[last.lead:last.start], "\n\r")
	outer := r.indent(n.Start.Offset)
	inner := outer + r.s.unit
	if broken && firstOnLine(r.data, last.start) {
		inner = r.indent(last.start)
	}

	r.put(r.data[n.Start.Offset:bracket])
	if first.lead > bracket {
		r.note(r.data[bracket:first.lead], inner)
	}
	var written, kept bool
	for i, p := range pieces {
		comma := i != final || trailing
		switch {
		case p.old < 0:
			indent := inner
			switch {
			case broken:
				r.put([]byte(r.s.nl + inner))
			case written:
				r.put([]byte(" "))
				fallthrough
			default:
				indent = outer // what it opens is closed below the line that it stands on
			}
			r.put([]byte(r.element(n.Kind, p, indent)))
			if comma {
				r.put([]byte(","))
			}
		case p.want == nil:
			at := parts[p.old]
			end := at.end
			r.note(r.data[at.lead:at.start], inner)
			if at.comma >= 0 {
				r.note(r.data[at.end:at.comma], inner)
				end = at.comma + 1
			}
			r.note(r.data[end:at.notes], inner)
			kept = kept || r.inNote
			continue
		default:
			at := parts[p.old]
			if written && at.lead == at.start {
				r.put([]byte(" "))
			}
			r.put(r.data[at.lead:at.start])
			child := r.child(n, p.old)
			r.put(r.data[at.start:child.Start.Offset])
			r.value(child, p.want)
			end := at.end
			if at.comma >= 0 {
				r.note(r.data[at.end:at.comma], inner)
				end = at.comma + 1
			}
			if comma {
				r.put([]byte(","))
			}
			r.note(r.data[end:at.notes], inner)
		}
		written = true
	}
	tail := r.data[rest:closing]
	if final >= 0 || r.inNote || kept || len(bytes.TrimSpace(tail)) > 0 {
		r.put(tail)
		if r.inNote = r.inNote || runsToLineEndOpen(tail); r.inNote {
			r.put([]byte(r.s.nl))
		}
	}
	r.put(r.data[closing:n.End.Offset])
}

// runsToLineEndOpen reports that text ends inside a // comment.
func runsToLineEndOpen(text []byte) bool {
	i := bytes.LastIndexAny(text, "\n\r")
	return runsToLineEnd(text[i+1:])
}

func (r *rewriter) child(n *Node, i int) *Node {
	if n.Kind == Object {
		return n.src[i].Value
	}
	return n.Items[i]
}

func (r *rewriter) element(kind Kind, p piece, indent string) string {
	if kind == Object {
		return r.s.member(p.key, p.want, indent)
	}
	return r.s.render(p.want, indent)
}

// filled writes a container that was empty but for comments.
func (r *rewriter) filled(n, want *Node) {
	closing := n.End.Offset - 1
	at := trimRight(r.data, n.Start.Offset+1, closing)
	outer := r.indent(n.Start.Offset)
	inner := outer + r.s.unit
	r.put(r.data[n.Start.Offset:at])
	r.inNote = runsToLineEnd(r.data[n.Start.Offset+1 : at])
	size := max(len(want.Items), len(want.Members))
	for i := range size {
		p := piece{old: -1}
		if n.Kind == Object {
			p.key, p.want = want.Members[i].Key, want.Members[i].Value
		} else {
			p.want = want.Items[i]
		}
		text := r.s.nl + inner + r.element(n.Kind, p, inner)
		if i < size-1 {
			text += ","
		}
		r.put([]byte(text))
	}
	tail := r.data[at:closing]
	if !bytes.ContainsAny(tail, "\n\r") {
		tail = []byte(r.s.nl + outer)
	}
	r.put(tail)
	r.put(r.data[closing:n.End.Offset])
}
