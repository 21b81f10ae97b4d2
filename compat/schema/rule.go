package schema

import (
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/compat/wire"
)

// rule is a compiled schema. Only the keywords of the frozen list are known; an unknown one panics at compile time,
// so that no schema is ever half applied.
type rule struct {
	kind     wire.Kind // Undefined: any type
	integer  bool      // kind is Number and must be whole
	typeText string    // "must be string"

	fixed wire.Value // const
	enum  []string
	anyOf []*rule

	minimum, maximum *float64
	minLen, maxLen   int // characters; maxLen -1 when unbounded
	pattern          *pattern

	minItems, maxItems int // maxItems -1 when unbounded
	items              *rule

	required []string
	mustHave uint64 // the required ones as bits of props
	props    []prop
	index    map[string]int // of props, when there are many
	closed   bool           // additionalProperties: false
	extra    *rule          // additionalProperties: a schema
	patterns []patternProp
}

type prop struct {
	name string
	rule *rule
}

type patternProp struct {
	pattern *pattern
	rule    *rule
}

// manyProps is the number of properties from which a map is faster than comparing names.
const manyProps = 8

func compile(v wire.Value) *rule {
	r := &rule{maxLen: -1, maxItems: -1}
	for k, m := range v.Members() {
		switch k {
		case "type":
			r.setType(m.Str())
		case "const":
			r.fixed = m
		case "enum":
			for e := range m.Items() {
				r.enum = append(r.enum, e.Str())
			}
		case "anyOf":
			for b := range m.Items() {
				r.anyOf = append(r.anyOf, compile(b))
			}
		case "minimum":
			n := m.Num()
			r.minimum = &n
		case "maximum":
			n := m.Num()
			r.maximum = &n
		case "minLength":
			r.minLen = int(m.Num())
		case "maxLength":
			r.maxLen = int(m.Num())
		case "pattern":
			r.pattern = newPattern(m.Str())
		case "minItems":
			r.minItems = int(m.Num())
		case "maxItems":
			r.maxItems = int(m.Num())
		case "items":
			r.items = compile(m)
		case "required":
			for e := range m.Items() {
				r.required = append(r.required, e.Str())
			}
		case "properties":
			for name, p := range m.Members() {
				r.props = append(r.props, prop{name, compile(p)})
			}
		case "additionalProperties":
			if m.Kind() == wire.Object {
				r.extra = compile(m)
			} else {
				r.closed = !m.Bool()
			}
		case "patternProperties":
			for re, p := range m.Members() {
				r.patterns = append(r.patterns, patternProp{newPattern(re), compile(p)})
			}
		default:
			panic("schema: unknown keyword " + k)
		}
	}
	if len(r.props) > 64 {
		panic("schema: more than 64 properties")
	}
	if len(r.props) >= manyProps {
		r.index = make(map[string]int, len(r.props))
		for i, p := range r.props {
			r.index[p.name] = i
		}
	}
	for _, name := range r.required {
		i := r.find(name)
		if i < 0 {
			panic("schema: required property " + name + " has no schema")
		}
		r.mustHave |= 1 << i
	}
	return r
}

func (r *rule) setType(t string) {
	switch t {
	case "string":
		r.kind = wire.String
	case "integer":
		r.kind, r.integer = wire.Number, true
	case "number":
		r.kind = wire.Number
	case "boolean":
		r.kind = wire.Bool
	case "object":
		r.kind = wire.Object
	case "array":
		r.kind = wire.Array
	case "null":
		r.kind = wire.Null
	default:
		panic("schema: unknown type " + t)
	}
	r.typeText = "must be " + t
}

// find is the index of a property, -1 when there is none.
func (r *rule) find(name string) int {
	if r.index != nil {
		if i, ok := r.index[name]; ok {
			return i
		}
		return -1
	}
	for i := range r.props {
		if r.props[i].name == name {
			return i
		}
	}
	return -1
}

// check reports whether v fits. Without a collector it stops at the first problem and allocates nothing; with one it
// finds them all, in the validator's order: the type, then const, enum and union (these are tested even when the type
// is wrong), then what belongs to the type the value has.
func (r *rule) check(v wire.Value, at *place, c *collector) bool {
	ok := true
	fail := func(text string) bool {
		ok = false
		if c != nil {
			c.add(at, text)
		}
		return c == nil || c.full()
	}
	kind := v.Kind()
	if r.kind != wire.Undefined && !r.typeFits(v, kind) && fail(r.typeText) {
		return false
	}
	if r.fixed.Exists() && !equal(r.fixed, v) && fail("must be equal to constant") {
		return false
	}
	if r.enum != nil && (kind != wire.String || !slices.Contains(r.enum, v.Str())) &&
		fail("must be equal to one of the allowed values") {
		return false
	}
	if r.anyOf != nil && !r.checkUnion(v, at, c) && fail("must match a schema in anyOf") {
		return false
	}
	switch kind {
	case wire.Number:
		n := v.Num()
		if math.IsInf(n, 0) { // not a number to the validator; said above where a number is wanted
			break
		}
		if r.maximum != nil && n > *r.maximum && fail("must be <= "+number(*r.maximum)) {
			return false
		}
		if r.minimum != nil && n < *r.minimum && fail("must be >= "+number(*r.minimum)) {
			return false
		}
	case wire.String:
		if r.maxLen < 0 && r.minLen == 0 && r.pattern == nil {
			break
		}
		s := v.Str()
		n := 0
		if r.maxLen >= 0 || r.minLen > 1 {
			n = utf8.RuneCountInString(s) // the validator counts code points, not UTF-16 units
		} else if s != "" {
			n = 1
		}
		if r.maxLen >= 0 && n > r.maxLen && fail("must NOT have more than "+strconv.Itoa(r.maxLen)+" characters") {
			return false
		}
		if n < r.minLen && fail("must NOT have fewer than "+strconv.Itoa(r.minLen)+" characters") {
			return false
		}
		if r.pattern != nil && !r.pattern.match(s) && fail(`must match pattern "`+r.pattern.source+`"`) {
			return false
		}
	case wire.Array:
		if r.maxItems >= 0 || r.minItems > 0 {
			n := v.Len()
			if r.maxItems >= 0 && n > r.maxItems && fail("must NOT have more than "+strconv.Itoa(r.maxItems)+" items") {
				return false
			}
			if n < r.minItems && fail("must NOT have fewer than "+strconv.Itoa(r.minItems)+" items") {
				return false
			}
		}
		return r.checkItems(v, at, c) && ok
	case wire.Object:
		if c == nil {
			return r.fitsObject(v)
		}
		return r.checkObject(v, at, c) && ok
	}
	return ok
}

func (r *rule) typeFits(v wire.Value, kind wire.Kind) bool {
	if kind != r.kind {
		return false
	}
	if kind != wire.Number {
		return true
	}
	n := v.Num()
	return !math.IsInf(n, 0) && (!r.integer || n == math.Trunc(n))
}

// checkUnion tries the branches; when none fits it reports the problems of all.
func (r *rule) checkUnion(v wire.Value, at *place, c *collector) bool {
	for _, b := range r.anyOf {
		if b.check(v, nil, nil) {
			return true
		}
	}
	if c != nil {
		for _, b := range r.anyOf {
			b.check(v, at, c)
		}
	}
	return false
}

func (r *rule) checkItems(v wire.Value, at *place, c *collector) bool {
	if r.items == nil {
		return true
	}
	ok, i := true, 0
	for item := range v.Items() {
		if c == nil {
			if !r.items.check(item, nil, nil) {
				return false
			}
			continue
		}
		ok = r.items.check(item, &place{up: at, index: i, item: true}, c) && ok
		if c.full() {
			return false
		}
		i++
	}
	return ok
}

// fitsObject is the quick judgement: one pass over the members.
func (r *rule) fitsObject(v wire.Value) bool {
	var seen uint64
	for k, m := range v.Members() {
		i := r.find(k)
		if i >= 0 {
			seen |= 1 << i
			if !r.props[i].rule.check(m, nil, nil) {
				return false
			}
		}
		known := i >= 0
		for _, p := range r.patterns {
			if p.pattern.match(k) {
				known = true
				if !p.rule.check(m, nil, nil) {
					return false
				}
			}
		}
		if !known && (r.closed || r.extra != nil && !r.extra.check(m, nil, nil)) {
			return false
		}
	}
	return seen&r.mustHave == r.mustHave
}

// checkObject finds every problem: missing keys, unexpected keys as sent, then the properties in schema order.
func (r *rule) checkObject(v wire.Value, at *place, c *collector) bool {
	ok := true
	for _, name := range r.required {
		if _, has := v.Get(name); !has {
			ok = false
			c.add(at, "must have required property '"+name+"'")
		}
	}
	if r.closed || r.extra != nil {
		for k, m := range v.Members() {
			if c.full() {
				return false
			}
			if r.find(k) >= 0 || slices.ContainsFunc(r.patterns, func(p patternProp) bool { return p.pattern.match(k) }) {
				continue
			}
			if r.extra != nil {
				ok = r.extra.check(m, &place{up: at, key: k}, c) && ok
				continue
			}
			ok = false
			c.addUnexpected(at, k)
		}
	}
	for _, p := range r.props {
		if m, has := v.Get(p.name); has {
			ok = p.rule.check(m, &place{up: at, key: p.name}, c) && ok
		}
	}
	for _, p := range r.patterns {
		for k, m := range v.Members() {
			if c.full() {
				return false
			}
			if p.pattern.match(k) {
				ok = p.rule.check(m, &place{up: at, key: k}, c) && ok
			}
		}
	}
	return ok
}

func equal(want, v wire.Value) bool {
	if want.Kind() != v.Kind() {
		return false
	}
	switch v.Kind() {
	case wire.String:
		return want.Str() == v.Str()
	case wire.Number:
		return want.Num() == v.Num()
	case wire.Bool:
		return want.Bool() == v.Bool()
	}
	return v.IsNull()
}

func number(f float64) string { return string(wire.AppendNumber(nil, f)) }

// pattern is a regular expression of the frozen list. Those of anyLine apart use nothing
// on which Go and JavaScript differ (a test holds the list).
type pattern struct {
	source string
	re     *regexp.Regexp // nil for anyLine
}

// anyLine is the pattern of free keys. Its dot does not match line terminators, of which JavaScript has four.
const anyLine = "^(.*)$"

func newPattern(source string) *pattern {
	if source == anyLine {
		return &pattern{source: source}
	}
	return &pattern{source, regexp.MustCompile(source)}
}

func (p *pattern) match(s string) bool {
	if p.re == nil {
		return !strings.ContainsAny(s, "\n\r\u2028\u2029")
	}
	return p.re.MatchString(s)
}
