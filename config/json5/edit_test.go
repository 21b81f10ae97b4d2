package json5

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestSet(t *testing.T) {
	for _, c := range []struct {
		name, in, path string
		value          any
		want           string
	}{
		{"empty file", "", "gateway.auth.token", "x", "{\n  \"gateway\": {\n    \"auth\": {\n      \"token\": \"x\"\n    }\n  }\n}\n"},
		{"only comments", "// mine", "a", 1, "// mine\n{\n  \"a\": 1\n}\n"},
		{"replaced", "{a: /* was */ 1, // one\n b: 2}", "a", "x", "{a: /* was */ \"x\", // one\n b: 2}"},
		{"quotes as the document has them", "{'a': 'x'}", "a", `it's "y"`, `{'a': 'it\'s "y"'}`},
		{"added, several lines", "{\n  // first\n  a: 1, // one\n  b: 2 // two\n  // last\n}\n", "c", true,
			"{\n  // first\n  a: 1, // one\n  b: 2, // two\n  c: true\n  // last\n}\n"},
		{"added, trailing comma", "{\n\ta: 1,\n\tb: 'x', // two\n}", "c", "y", "{\n\ta: 1,\n\tb: 'x', // two\n\tc: 'y',\n}"},
		{"added, blank before the comma", "{\n\ta: 1 , // two\n}", "c", 2, "{\n\ta: 1 , // two\n\tc: 2,\n}"},
		{"added in line", `{ "a": 1 }`, "b", 2, `{ "a": 1, "b": 2 }`},
		{"added in line, trailing comma", `{a: 1,}`, "b", 2, `{a: 1, b: 2,}`},
		{"added in line, behind a comment", `{a: 1 /* x */}`, "b", 2, `{a: 1, /* x */ b: 2}`},
		{"added behind a line comment", "{ a: 1 // x\n}", "b", 2, "{ a: 1, // x\n  b: 2\n}"},
		{"comma on its own line", "{\n  a: 1 // x\n  ,\n}", "b", 2, "{\n  a: 1 // x\n  ,\n  b: 2,\n}"},
		{"empty object", "{\n  a: {}\n}", "a.b.c", []any{1, "x"}, "{\n  a: {\n    b: {\n      c: [\n        1,\n        \"x\"\n      ]\n    }\n  }\n}"},
		{"object with blanks", "{ }", "a", 1, "{\n  \"a\": 1\n}"},
		{"object with a comment", "{\n  // nothing yet\n}", "a", 1, "{\n  // nothing yet\n  \"a\": 1\n}"},
		{"object with a comment in line", "{ /* x */ }", "a", 1, "{ /* x */\n  \"a\": 1\n}"},
		{"parents made", "{\n    x: 1\n}", "gateway.auth.mode", "token",
			"{\n    x: 1,\n    gateway: {\n        auth: {\n            mode: \"token\"\n        }\n    }\n}"},
		{"windows lines", "{\r\n  a: 1\r\n}\r\n", "b", 2, "{\r\n  a: 1,\r\n  b: 2\r\n}\r\n"},
		{"key that needs quotes", "{\n  a: 1\n}", "b-c", 2, "{\n  a: 1,\n  \"b-c\": 2\n}"},
		{"array item", "[1, 2, 3]", "1", "x", `[1, "x", 3]`},
		{"array appended", "[\n  1,\n  2\n]", "2", 3, "[\n  1,\n  2,\n  3\n]"},
		{"array appended in line", "{list:[1]}", "list.1", nil, "{list:[1, null]}"},
		{"object in an array", "{l: [{id: 'a'}]}", "l.0.name", "A", "{l: [{id: 'a', name: 'A'}]}"},
		{"repeated key", "{a: 1, a: 2}", "a", 3, "{a: 1, a: 3}"},
		{"the whole document", "// x\n1 // y", "", 2, "// x\n2 // y"},
		{"struct", "{}", "a", struct {
			B int    `json:"b"`
			A string `json:"a"`
		}{1, "<"}, "{\n  \"a\": {\n    \"b\": 1,\n    \"a\": \"<\"\n  }\n}"},
		{"numbers", "[0,0,0]", "0", -1.5e300, "[-1.5e+300,0,0]"},
		{"infinity", "{a:1}", "a", math.Inf(-1), "{a:-Infinity}"},
		{"control characters", "{a:1}", "a", "\x00\n\u2028", `{a:"\u0000\n\u2028"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var path []string
			if c.path != "" {
				path = strings.Split(c.path, ".")
			}
			out, err := Set([]byte(c.in), path, c.value)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, string(out)); d != "" {
				t.Fatal(d)
			}
		})
	}
}

func TestSetRefused(t *testing.T) {
	for _, c := range []struct{ in, path, want string }{
		{"{a: 'x'}", "a.b", `json5: cannot go into a: it is a string, not an object`},
		{"[1]", "x", `json5: "x" is no index of the document, which has 1 items`},
		{"{a:[1]}", "a.3", `json5: "3" is no index of a, which has 1 items`},
		{"{a:[1]}", "a.+0", `json5: "+0" is no index of a, which has 1 items`},
		{"{a:", "a", `JSON5: invalid end of input at 1:4`},
	} {
		if _, err := Set([]byte(c.in), strings.Split(c.path, "."), 1); err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", c.in, err, c.want)
		}
	}
	if _, err := Set(nil, []string{"a"}, func() {}); err == nil {
		t.Error("a function was written")
	}
	deep := make([]string, MaxDepth+1)
	if _, err := Set([]byte("{}"), deep, 1); err == nil {
		t.Error("a document deeper than Parse allows was made")
	}
}

func TestDelete(t *testing.T) {
	for _, c := range []struct{ name, in, path, want string }{
		{"only", "{a: 1}", "a", "{}"},
		{"first in line", "{ a: 1, b: 2 }", "a", "{ b: 2 }"},
		{"last in line", "{ a: 1, b: 2 }", "b", "{ a: 1 }"},
		{"middle in line", "{ a: 1, b: 2, c: 3 }", "b", "{ a: 1, c: 3 }"},
		{"line", "{\n  // about a\n  a: 1,\n  b: 2,\n  c: 3\n}", "b", "{\n  // about a\n  a: 1,\n  c: 3\n}"},
		{"last line", "{\n  a: 1, // one\n  b: 2\n}", "b", "{\n  a: 1 // one\n}"},
		{"last line, trailing comma", "{\n  a: 1,\n  b: {\n    x: 1\n  },\n}", "b", "{\n  a: 1,\n}"},
		{"notes stay", "{\n  a: 1, // one\n  b: 2 // two\n}", "a", "{\n  // one\n  b: 2 // two\n}"},
		{"note in front of the comma", "{a: 1 /* x */, b: 2}", "a", "{/* x */ b: 2}"},
		{"windows lines", "{\r\n  a: 1,\r\n  b: 2\r\n}", "a", "{\r\n  b: 2\r\n}"},
		{"repeated", "{a: 1, b: 2, a: 3}", "a", "{b: 2}"},
		{"item", "[1, 2, 3]", "0", "[2, 3]"},
		{"inside", "{g: {t: 'x', u: 1}}", "g.t", "{g: {u: 1}}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := Delete([]byte(c.in), strings.Split(c.path, "."))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, string(out)); d != "" {
				t.Fatal(d)
			}
		})
	}
	for _, c := range []struct{ in, path string }{{"{}", "a"}, {"", "a"}, {"{a:1}", "a.b"}, {"[1]", "1"}, {"{a:[1]}", "a.x.y"}} {
		if _, err := Delete([]byte(c.in), strings.Split(c.path, ".")); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s %s: %v", c.in, c.path, err)
		}
	}
	if _, err := Delete([]byte("{"+strings.Repeat("a:1,", maxRepeats+1)+"}"), []string{"a"}); err == nil {
		t.Error("a key repeated beyond the limit was deleted")
	}
	if _, err := Delete([]byte("{}"), nil); err == nil {
		t.Error("the document was deleted")
	}
}

// document draws a JSON5 text with comments and every kind of spacing.
func document(t *rapid.T) string {
	gap := rapid.SampledFrom([]string{"", "", " ", "\n", "\n  ", "\t", "\r\n", "/* c, } */", " // c: {\n", "\u00a0", "//x\u2028"})
	key := rapid.SampledFrom([]string{"a", "b", "c", "'a'", `"b"`, "'d e'", `\u0061`, "ü"})
	scalar := rapid.SampledFrom([]string{"1", ".5", "0xF", "-Infinity", "true", "null", "'x'", `"y // z"`, "'\\\n'", "'}'"})
	var value func(depth int) string
	value = func(depth int) string {
		kind := 0
		if depth < 4 {
			kind = rapid.IntRange(0, 2).Draw(t, "kind")
		}
		if kind == 0 {
			return scalar.Draw(t, "scalar")
		}
		open, closing := "{", "}"
		if kind == 2 {
			open, closing = "[", "]"
		}
		var b strings.Builder
		b.WriteString(open + gap.Draw(t, "gap"))
		n := rapid.IntRange(0, 3).Draw(t, "n")
		for i := range n {
			if kind == 1 {
				b.WriteString(key.Draw(t, "key") + gap.Draw(t, "gap") + ":" + gap.Draw(t, "gap"))
			}
			b.WriteString(value(depth+1) + gap.Draw(t, "gap"))
			if i < n-1 || rapid.Bool().Draw(t, "trailing") {
				b.WriteString("," + gap.Draw(t, "gap"))
			}
		}
		return b.String() + closing
	}
	return gap.Draw(t, "gap") + value(0) + gap.Draw(t, "gap")
}

// comments lists the texts of the comments of a document that parses.
func comments(data []byte) []string {
	var out []string
	p := &parser{src: data}
	for p.off < len(data) {
		switch p.peek() {
		case '"', '\'':
			_, _ = p.text()
		case '/':
			start := p.off
			_ = p.comment()
			out = append(out, string(data[start:p.off]))
		default:
			p.next()
		}
	}
	return out
}

var path = rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d e", "new", "0", "1"}), 1, 3)

func TestSetKeepsTheRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in, path := []byte(document(t)), path.Draw(t, "path")
		value := rapid.SampledFrom([]any{nil, true, 1.0, "x'\"\n", []any{}, []any{"a", 1.0}, map[string]any{"k": "v"}}).Draw(t, "value")
		before, err := Parse(in)
		if err != nil {
			t.Fatalf("the generator made %q: %v", in, err)
		}
		out, err := Set(in, path, value)
		if err != nil {
			return
		}
		after, err := Parse(out)
		if err != nil {
			t.Fatal(err)
		}
		if !same(put(before.Value(), path, value), after.Value()) {
			t.Fatalf("%q\n%q", in, out)
		}
		// A comment can go only with a value that contained it.
		if old, rest, _ := descend(before, path); len(rest) > 0 || old.Kind != Object && old.Kind != Array {
			if d := cmp.Diff(comments(in), comments(out)); d != "" {
				t.Fatalf("%q\n%q\n%s", in, out, d)
			}
		}
	})
}

func TestDeleteKeepsTheRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in, path := []byte(document(t)), path.Draw(t, "path")
		out, err := Delete(in, path)
		if err != nil {
			return
		}
		before, _ := Parse(in)
		after, err := Parse(out)
		if err != nil {
			t.Fatal(err)
		}
		if !same(drop(before.Value(), path), after.Value()) {
			t.Fatalf("%q\n%q", in, out)
		}
	})
}

// put and drop do on plain values what Set and Delete do on text.
func put(v any, path []string, value any) any {
	if len(path) == 0 {
		return value
	}
	switch v := v.(type) {
	case []any:
		i := int(path[0][0] - '0')
		if i == len(v) {
			v = append(v, nil)
		}
		v[i] = put(v[i], path[1:], value)
		return v
	case map[string]any:
		v[path[0]] = put(v[path[0]], path[1:], value)
		return v
	}
	return map[string]any{path[0]: put(nil, path[1:], value)}
}

func drop(v any, path []string) any {
	switch v := v.(type) {
	case []any:
		i := int(path[0][0] - '0')
		if len(path) == 1 {
			return append(v[:i:i], v[i+1:]...)
		}
		v[i] = drop(v[i], path[1:])
		return v
	case map[string]any:
		if len(path) == 1 {
			delete(v, path[0])
			return v
		}
		v[path[0]] = drop(v[path[0]], path[1:])
		return v
	}
	return v
}

func FuzzSet(f *testing.F) {
	for _, s := range []string{"", "{a:1}", "{\n  // x\n  'a': {}, // y\n}", "[1]", "{a:{b:[{}]}}", "{a:1,a:2//\r}"} {
		f.Add([]byte(s), "a.b", "value")
	}
	f.Fuzz(func(t *testing.T, data []byte, dotted, value string) {
		path := strings.Split(dotted, ".")
		out, err := Set(data, path, value)
		if err != nil {
			return
		}
		if _, err := Parse(out); err != nil {
			t.Fatal(err)
		}
		again, err := Set(out, path, value)
		if err != nil || !bytes.Equal(again, out) {
			t.Fatalf("%q, then %q: %v", out, again, err)
		}
		less, err := Delete(out, path)
		if err != nil {
			t.Fatalf("what was set in %q cannot be deleted: %v", out, err)
		}
		if _, err := Parse(less); err != nil {
			t.Fatal(err)
		}
	})
}
