// Package schema is the one description of every key of the configuration: type, values, bounds, default,
// order, label and help. What is checked, shown and generated comes from it.
//
// It imports the standard library and config/json5 only. The description is read from keys.txt when it is
// first asked for; what Root returns must not be changed and may be read from any goroutine.
package schema

import (
	_ "embed"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/hanzoai/hanzod/config/json5"
)

// Kind is what a value may be.
type Kind uint8

// The kinds of types.
const (
	Any Kind = iota
	String
	Bool
	Number
	Integer
	// OneOf is a value out of Values, which JSON Schema gets as alternatives; Enum is one that it gets as
	// an enumeration.
	OneOf
	Enum
	// Secret is a text or a reference to a secret kept elsewhere.
	Secret
	Array  // of Elem
	Map    // any keys, values of Elem
	Object // Fields
	Union  // any of Alts
)

// Type is what a value must be.
type Type struct {
	Kind   Kind
	Values []*json5.Node
	Elem   *Type
	Alts   []*Type
	Fields []*Field
	// Open objects may have keys that are not described, with values of Elem or, without it, any.
	Open bool
	// Min and Max bound numbers, lengths of texts and counts of items; nil is without a bound. Above
	// tells that Min itself is too small.
	Min, Max *float64
	Above    bool
	// Cap is an upper bound that holds here and is not part of the published schema.
	Cap *float64
	// Pattern is what a text must match; Message what is said when it does not.
	Pattern *regexp.Regexp
	Message string
	// Test names a further test of texts: see checks.
	Test string

	once  sync.Once
	byKey map[string]*Field
}

// Field is a key of an object.
type Field struct {
	Key  string
	Type *Type
	// Label is "" when it follows from the path. Help is a sentence or two.
	Label, Help string
	// Default counts where the key is missing; nil is none, or one that depends on something else. Shown
	// tells that it is written into answers and files.
	Default *json5.Node
	Shown   bool
	// Order is where forms show a section; 0 for keys inside of one.
	Order     int
	Required  bool
	Sensitive bool
	Advanced  bool
	// Tags are those of the key where they do not follow from its path.
	Tags []string
	// Unhinted keys have no entry in the hints for forms.
	Unhinted bool
}

//go:embed keys.txt
var keys string

var root = sync.OnceValue(func() *Type {
	t, err := parse(keys)
	if err != nil {
		panic(err) // keys.txt is part of the program, and a test reads it
	}
	return t
})

// Root is the type of the whole configuration.
func Root() *Type { return root() }

// Field returns the description of a key of an object, or nil.
func (t *Type) Field(key string) *Field {
	if t.Kind != Object {
		return nil
	}
	t.once.Do(func() {
		t.byKey = make(map[string]*Field, len(t.Fields))
		for _, f := range t.Fields {
			t.byKey[f.Key] = f
		}
	})
	return t.byKey[key]
}

// Walk calls visit with every key below t, objects before what is in them. In paths "*" stands for any key
// of a map and "[]" behind a key for any item of an array. It stops below where visit returns false.
func (t *Type) Walk(visit func(path []string, f *Field) bool) { t.walk(nil, visit) }

func (t *Type) walk(path []string, visit func([]string, *Field) bool) {
	switch t.Kind {
	case Object:
		for _, f := range t.Fields {
			at := append(slices.Clip(path), f.Key)
			if visit(at, f) {
				f.Type.walk(at, visit)
			}
		}
	case Map:
		t.Elem.walk(append(slices.Clip(path), "*"), visit)
	case Array:
		if n := len(path); n > 0 {
			at := append([]string{}, path...)
			at[n-1] += "[]"
			t.Elem.walk(at, visit)
		}
	case Union:
		for _, alt := range t.Alts {
			alt.walk(path, visit)
		}
	}
}

// fits is the alternative of a union that a value is meant for: the one of its kind.
func (t *Type) fits(n *json5.Node) *Type {
	if t.Kind != Union {
		return t
	}
	var found *Type
	for _, alt := range t.Alts {
		if alt = alt.fits(n); alt == nil || !alt.takes(n.Kind) {
			continue
		}
		var issues []Issue
		if alt.check(n, "", &issues); len(issues) == 0 {
			return alt
		}
		if found == nil {
			found = alt
		}
	}
	return found
}

func (t *Type) takes(k json5.Kind) bool {
	switch t.Kind {
	case Array:
		return k == json5.Array
	case Map, Object:
		return k == json5.Object
	case Secret:
		return k == json5.Object || k == json5.String
	case Any, Union:
		return true
	}
	return k != json5.Array && k != json5.Object
}

// Ordered returns n with the keys of every object in the order of the description; keys of maps, and those
// that are not described, keep theirs, the second behind the others. With fill it gets the defaults that
// answers and files show. n stays as it is; parts of it that are in order are parts of the result.
func (t *Type) Ordered(n *json5.Node, fill bool) *json5.Node {
	own := t.fits(n)
	if own == nil {
		return n
	}
	switch {
	case n.Kind == json5.Array && own.Kind == Array:
		out := n
		for i, item := range n.Items {
			v := own.Elem.Ordered(item, fill)
			if v == item {
				continue
			}
			if out == n {
				c := *n
				c.Items = slices.Clone(n.Items)
				out = &c
			}
			out.Items[i] = v
		}
		return out
	case n.Kind == json5.Object && own.Kind == Map:
		out := n
		for i, m := range n.Members {
			v := own.Elem.Ordered(m.Value, fill)
			if v == m.Value {
				continue
			}
			if out == n {
				c := *n
				c.Members = slices.Clone(n.Members)
				out = &c
			}
			out.Members[i].Value = v
		}
		return out
	case n.Kind == json5.Object && own.Kind == Object:
		return own.orderedObject(n, fill)
	}
	return n
}

func (t *Type) orderedObject(n *json5.Node, fill bool) *json5.Node {
	out, index := *n, n.Index()
	out.Members = make([]json5.Member, 0, len(n.Members))
	for _, f := range t.Fields {
		v := index.Get(f.Key)
		if v == nil && fill && f.Shown {
			v = f.Default
		}
		if v != nil {
			out.Members = append(out.Members, json5.Member{Key: f.Key, Value: f.Type.Ordered(v, fill)})
		}
	}
	for _, m := range n.Members {
		if t.Field(m.Key) == nil {
			out.Members = append(out.Members, m)
		}
	}
	same := func(a, b json5.Member) bool { return a.Key == b.Key && a.Value == b.Value }
	if slices.EqualFunc(out.Members, n.Members, same) {
		return n
	}
	return &out
}

// At finds the type and the description at a path of keys; "*" stands for any key or item, a number for an
// item. ok is false when there is nothing such. f is nil for what is no key of an object.
func (t *Type) At(path []string) (found *Type, f *Field, required, ok bool) {
	for _, key := range path {
		if f = t.Field(key); f != nil {
			t = f.Type
			continue
		}
		switch {
		case t.Kind == Map && key != "":
			t = t.Elem
		case t.Kind == Object && t.Open && key == "*":
			t = t.rest()
		case t.Kind == Array && isIndex(key):
			t = t.Elem
		default:
			return nil, nil, false, false
		}
	}
	return t, f, f != nil && f.Required, true
}

func isIndex(key string) bool {
	return key == "*" || key != "" && strings.Trim(key, "0123456789") == ""
}

// rest is what the values of keys that are not described must be.
func (t *Type) rest() *Type {
	if t.Elem != nil {
		return t.Elem
	}
	return &Type{}
}
