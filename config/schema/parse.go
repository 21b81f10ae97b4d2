package schema

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/config/json5"
)

// maxSafe is the largest integer that a JavaScript number holds exactly.
const maxSafe = 1<<53 - 1

// The text of keys.txt: a key a line, what is inside of it below and further in by two spaces.
//
//	key type [attribute …] | label | help
//
// A line "def name type" names a type, "&name" is that type, and a line "+name" has the keys of the object
// of that name here. Types: string, string1 (not empty), bool, number, int, int0 (0 and up), int+ (1 and
// up), any, secret, a|b|c (one of these texts), enum:a|b, {} an object with the keys below, {+} one that may
// have others and {+:type} with such values, {*:type} a map, [type] a list, type;type either. Attributes: =value the default, :=value one
// that is shown in answers, 1..9 bounds, cap=9 an upper bound that is not published, re=pattern, msg="text",
// is=check, req, sens(itive), adv(anced), unhinted, order=9, tags=a,b.
type reader struct {
	lines []line
	defs  map[string]*Type
}

type line struct {
	no, depth   int
	words       []string
	label, help string
}

func parse(text string) (*Type, error) {
	r := &reader{defs: map[string]*Type{}}
	no := 0
	for s := range strings.Lines(text) {
		no++
		s = strings.TrimRight(s, "\r\n ")
		body := strings.TrimLeft(s, " ")
		if body == "" || body[0] == '#' {
			continue
		}
		l := line{no: no, depth: (len(s) - len(body)) / 2}
		parts := strings.SplitN(body, " |", 3)
		if len(parts) > 1 {
			l.label = strings.TrimSpace(parts[1])
		}
		if len(parts) > 2 {
			l.help = strings.TrimSpace(parts[2])
		}
		var err error
		if l.words, err = words(parts[0]); err != nil {
			return nil, fmt.Errorf("keys.txt:%d: %w", no, err)
		}
		r.lines = append(r.lines, l)
	}
	root := &Type{Kind: Object}
	return root, r.block(root, 0)
}

// words splits at blanks outside of double quotes, which go.
func words(s string) ([]string, error) {
	var out []string
	var b strings.Builder
	quoted := false
	for _, c := range s {
		switch {
		case c == '"':
			quoted = !quoted
		case c == ' ' && !quoted:
			if b.Len() > 0 {
				out = append(out, b.String())
				b.Reset()
			}
		default:
			b.WriteRune(c)
		}
	}
	if b.Len() > 0 {
		out = append(out, b.String())
	}
	if quoted || len(out) == 0 {
		return nil, fmt.Errorf("an open quote, or nothing")
	}
	return out, nil
}

// block reads the lines of one depth into an object.
func (r *reader) block(into *Type, depth int) error {
	for len(r.lines) > 0 && r.lines[0].depth >= depth {
		l := r.lines[0]
		fail := func(format string, args ...any) error {
			return fmt.Errorf("keys.txt:%d: %s", l.no, fmt.Sprintf(format, args...))
		}
		if l.depth > depth {
			return fail("too far in")
		}
		r.lines = r.lines[1:]
		name := l.words[0]
		if mix, ok := strings.CutPrefix(name, "+"); ok {
			t := r.defs[mix]
			if t == nil || t.Kind != Object {
				return fail("no object %q", mix)
			}
			into.Fields = append(into.Fields, t.Fields...)
			continue
		}
		def := name == "def"
		if def {
			l.words = l.words[1:]
			name = l.words[0]
		}
		if len(l.words) < 2 {
			return fail("no type")
		}
		var open []*Type
		t, err := r.typed(l.words[1], &open)
		if err != nil {
			return fail("%v", err)
		}
		f := &Field{Key: name, Type: t, Label: l.label, Help: l.help}
		for _, word := range l.words[2:] {
			if err := f.attribute(word); err != nil {
				return fail("%v", err)
			}
		}
		if len(open) > 1 {
			return fail("more than one object")
		}
		if len(open) == 1 {
			if err := r.block(open[0], depth+1); err != nil {
				return err
			}
		}
		if def {
			r.defs[name] = t
			continue
		}
		into.Fields = append(into.Fields, f)
	}
	return nil
}

func bound(v float64) *float64 { return &v }

// alternatives splits at semicolons outside of brackets.
func alternatives(s string) (out []string) {
	depth, start := 0, 0
	for i, c := range s {
		switch c {
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		case ';':
			if depth == 0 {
				out, start = append(out, s[start:i]), i+1
			}
		}
	}
	return append(out, s[start:])
}

// typed reads a type; objects whose keys are below go to open.
func (r *reader) typed(s string, open *[]*Type) (*Type, error) {
	if alts := alternatives(s); len(alts) > 1 {
		t := &Type{Kind: Union}
		for _, alt := range alts {
			a, err := r.typed(alt, open)
			if err != nil {
				return nil, err
			}
			t.Alts = append(t.Alts, a)
		}
		return t, nil
	}
	switch s {
	case "any":
		return &Type{}, nil
	case "string":
		return &Type{Kind: String}, nil
	case "string1":
		return &Type{Kind: String, Min: bound(1)}, nil
	case "bool":
		return &Type{Kind: Bool}, nil
	case "number":
		return &Type{Kind: Number}, nil
	case "number+":
		return &Type{Kind: Number, Min: bound(0), Above: true}, nil
	case "number0":
		return &Type{Kind: Number, Min: bound(0)}, nil
	case "int":
		return &Type{Kind: Integer}, nil
	case "int0":
		return &Type{Kind: Integer, Min: bound(0)}, nil
	case "int+":
		return &Type{Kind: Integer, Min: bound(0), Above: true}, nil
	case "secret":
		return &Type{Kind: Secret}, nil
	case "{}", "{+}":
		t := &Type{Kind: Object, Open: s == "{+}"}
		*open = append(*open, t)
		return t, nil
	}
	if name, ok := strings.CutPrefix(s, "&"); ok {
		if t := r.defs[name]; t != nil {
			return t, nil
		}
		return nil, fmt.Errorf("no type %q", name)
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		if !ok {
			return nil, fmt.Errorf("%q is not closed", s)
		}
		elem, err := r.typed(inner, open)
		return &Type{Kind: Array, Elem: elem}, err
	}
	if inner, ok := strings.CutPrefix(s, "{+:"); ok {
		inner, ok = strings.CutSuffix(inner, "}")
		if !ok {
			return nil, fmt.Errorf("%q is not closed", s)
		}
		elem, err := r.typed(inner, open)
		t := &Type{Kind: Object, Open: true, Elem: elem}
		*open = append(*open, t)
		return t, err
	}
	if inner, ok := strings.CutPrefix(s, "{*:"); ok {
		inner, ok = strings.CutSuffix(inner, "}")
		if !ok {
			return nil, fmt.Errorf("%q is not closed", s)
		}
		elem, err := r.typed(inner, open)
		return &Type{Kind: Map, Elem: elem}, err
	}
	t := &Type{Kind: OneOf}
	if rest, ok := strings.CutPrefix(s, "enum:"); ok {
		t.Kind, s = Enum, rest
	} else if rest, ok := strings.CutPrefix(s, "const:"); ok {
		s = rest
	} else if !strings.Contains(s, "|") {
		return nil, fmt.Errorf("no type %q", s)
	}
	for v := range strings.SplitSeq(s, "|") {
		n := &json5.Node{Kind: json5.String, Str: v}
		switch v {
		case "false", "true":
			n = &json5.Node{Kind: json5.Bool, Bool: v == "true"}
		case "null":
			n = &json5.Node{}
		}
		t.Values = append(t.Values, n)
	}
	return t, nil
}

func (f *Field) attribute(word string) error {
	t := f.Type
	for t.Kind == Union { // attributes of values are those of the first alternative
		t = t.Alts[0]
	}
	key, value, _ := strings.Cut(word, "=")
	number := func() (*float64, error) {
		v, err := strconv.ParseFloat(value, 64)
		return &v, err
	}
	var err error
	switch {
	case key == "" || key == ":":
		if f.Default, err = json5.Parse([]byte(value)); err != nil {
			f.Default, err = &json5.Node{Kind: json5.String, Str: value}, nil
		}
		f.Shown = key == ":"
	case strings.Contains(word, "..") && value == "":
		low, high, _ := strings.Cut(word, "..")
		for _, side := range []struct {
			text string
			into **float64
		}{{low, &t.Min}, {high, &t.Max}} {
			if side.text == "" {
				continue
			}
			v, err := strconv.ParseFloat(side.text, 64)
			if err != nil {
				return err
			}
			*side.into = &v
			if side.into == &t.Min {
				t.Above = false
			}
		}
	case key == "cap":
		t.Cap, err = number()
	case key == "re":
		t.Pattern, err = regexp.Compile(value)
	case key == "msg":
		t.Message = value
	case key == "is":
		if t.Test = value; checks[value] == nil {
			err = fmt.Errorf("no check %q", value)
		}
	case key == "order":
		f.Order, err = strconv.Atoi(value)
	case key == "tags":
		f.Tags = strings.Split(value, ",")
	case word == "req":
		f.Required = true
	case word == "sens":
		f.Sensitive = true
	case word == "adv":
		f.Advanced = true
	case word == "unhinted":
		f.Unhinted = true
	default:
		err = fmt.Errorf("no attribute %q", word)
	}
	return err
}
