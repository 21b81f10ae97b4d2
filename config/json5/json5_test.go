package json5

import (
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
)

func TestParseValid(t *testing.T) {
	inf := math.Inf(1)
	for _, c := range []struct {
		name, in string
		want     any
	}{
		{"null", `null`, nil},
		{"booleans", `[true,false]`, []any{true, false}},
		{"empty containers", `[{},[]]`, []any{map[string]any{}, []any{}}},
		{"bare keys", `{a:1,$b:2,_c:3,d9:4}`, map[string]any{"a": 1.0, "$b": 2.0, "_c": 3.0, "d9": 4.0}},
		{"words as keys", `{null:1,true:2,Infinity:3,while:4}`, map[string]any{"null": 1.0, "true": 2.0, "Infinity": 3.0, "while": 4.0}},
		{"unicode keys", `{ünï:1,ƒ:2,日本:3,ⅷ:4}`, map[string]any{"ünï": 1.0, "ƒ": 2.0, "日本": 3.0, "ⅷ": 4.0}},
		{"joiners inside keys", "{a\u200c\u200d:1}", map[string]any{"a\u200c\u200d": 1.0}},
		{"combining mark inside a key", "{e\u0301:1}", map[string]any{"e\u0301": 1.0}},
		{"escaped keys", `{\u0061b:1,a\u0030:2}`, map[string]any{"ab": 1.0, "a0": 2.0}},
		{"quoted keys", `{"a b":1,'c\'d':2,"":3}`, map[string]any{"a b": 1.0, "c'd": 2.0, "": 3.0}},
		{"proto is a key", `{__proto__:1,"constructor":2}`, map[string]any{"__proto__": 1.0, "constructor": 2.0}},
		{"last of repeated keys wins", `{a:1,b:2,a:3}`, map[string]any{"a": 3.0, "b": 2.0}},
		{"trailing commas", `[{a:1,},[1,],]`, []any{map[string]any{"a": 1.0}, []any{1.0}}},
		{"integers", `[0,7,-7,+7,123]`, []any{0.0, 7.0, -7.0, 7.0, 123.0}},
		{"fractions", `[.5,5.,-.5,0.25,0.,1.5e3,5.e1,1E-2,2e+2,0e5]`, []any{.5, 5.0, -.5, .25, 0.0, 1500.0, 50.0, .01, 200.0, 0.0}},
		{"hex", `[0x1F,0Xff,-0x10,+0x0]`, []any{31.0, 255.0, -16.0, 0.0}},
		{"infinities", `[Infinity,+Infinity,-Infinity,1e999]`, []any{inf, inf, -inf, inf}},
		{"not a number", `[NaN,+NaN,-NaN]`, []any{math.NaN(), math.NaN(), math.NaN()}},
		{"strings", `["it's",'say "x"','']`, []any{"it's", `say "x"`, ""}},
		{"escapes", `'\b\f\n\r\t\v\0\\\'\"\/\a'`, "\b\f\n\r\t\v\x00\\'\"/a"},
		{"hex escapes", `'\x41\xe9'`, "Aé"},
		{"unicode escapes", `'\u0041\u20ac\uD83D\uDE00'`, "A€😀"},
		{"lone surrogates", `'\ud800|\udc00|\ud800A|\ud800\u0041'`, "\ufffd|\ufffd|\ufffdA|\ufffdA"},
		{"high, then a pair", `'\ud83d\ud83d\ude00'`, "\ufffd😀"},
		{"continuations", "'a\\\nb\\\r\nc\\\rd\\\u2028e\\\u2029f'", "abcdef"},
		{"separators inside strings", "'\u2028\u2029'", "\u2028\u2029"},
		{"tab inside a string", "'\t'", "\t"},
		{"bytes that are not UTF-8", "'\xff'", "\ufffd"},
		{"white space", "\ufeff\t\v\f \u00a0\u2003\u3000\n\r\u2028\u2029 1 \ufeff", 1.0},
		{"comments", "// a\n/* b * / ** */ 1 // c", 1.0},
		{"comment with other line ends", "//a\r1//b\u2028", 1.0},
		{"comments everywhere", `/**/{/**/a/**/:/**/1/**/,/**/b:2/**/}/**/`, map[string]any{"a": 1.0, "b": 2.0}},
		{"deep enough", strings.Repeat("[", MaxDepth-1) + strings.Repeat("]", MaxDepth-1), nested(MaxDepth - 1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := Parse([]byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			if got := n.Value(); !same(c.want, got) {
				t.Fatalf("got %#v, want %#v", got, c.want)
			}
		})
	}
}

// same compares plain values; NaN equals NaN. Package cmp takes time exponential in the depth.
func same(a, b any) bool {
	switch a := a.(type) {
	case float64:
		b, ok := b.(float64)
		return ok && (a == b || a != a && b != b)
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, same)
	case map[string]any:
		b, ok := b.(map[string]any)
		return ok && maps.EqualFunc(a, b, same)
	}
	return a == b
}

func nested(n int) any {
	v := []any{}
	for range n - 1 {
		v = []any{v}
	}
	return v
}

func TestNegativeZero(t *testing.T) {
	for _, in := range []string{"-0", "-0x0", "-0.0"} {
		n, err := Parse([]byte(in))
		if err != nil || n.Num != 0 || !math.Signbit(n.Num) {
			t.Errorf("%s: %v, %v", in, n, err)
		}
	}
}

func TestParseInvalid(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"empty", ``, `JSON5: invalid end of input at 1:1`},
		{"only a comment", "// a\n", `JSON5: invalid end of input at 2:1`},
		{"unclosed comment", `1 /* a`, `JSON5: invalid end of input at 1:7`},
		{"half a comment", `1 / 2`, `JSON5: invalid character ' ' at 1:4`},
		{"comment needs no star slash", `/*/ 1`, `JSON5: invalid end of input at 1:6`},
		{"unclosed object", "{\n  a: 1", `JSON5: invalid end of input at 2:7`},
		{"unclosed array", `[1,`, `JSON5: invalid end of input at 1:4`},
		{"no colon", `{a 1}`, `JSON5: invalid character '1' at 1:4`},
		{"no value", `{a:}`, `JSON5: invalid character '}' at 1:4`},
		{"no key", `{:1}`, `JSON5: invalid character ':' at 1:2`},
		{"no comma", "{a:1\nb:2}", `JSON5: invalid character 'b' at 2:1`},
		{"leading comma", `[,1]`, `JSON5: invalid character ',' at 1:2`},
		{"two commas", `[1,,2]`, `JSON5: invalid character ',' at 1:4`},
		{"comma alone", `{,}`, `JSON5: invalid character ',' at 1:2`},
		{"wrong bracket", `[1}`, `JSON5: invalid character '}' at 1:3`},
		{"second value", `1 2`, `JSON5: invalid character '2' at 1:3`},
		{"word", `nope`, `JSON5: invalid character 'o' at 1:2`},
		{"half a word", `tru`, `JSON5: invalid end of input at 1:4`},
		{"long word", `truex`, `JSON5: invalid character 'x' at 1:5`},
		{"capital", `True`, `JSON5: invalid character 'T' at 1:1`},
		{"octal", `010`, `JSON5: invalid character '1' at 1:2`},
		{"noctal", `-098`, `JSON5: invalid character '9' at 1:3`},
		{"point alone", `.`, `JSON5: invalid end of input at 1:2`},
		{"exponent alone", `1e`, `JSON5: invalid end of input at 1:3`},
		{"point exponent", `.e1`, `JSON5: invalid character 'e' at 1:2`},
		{"empty hex", `0x`, `JSON5: invalid end of input at 1:3`},
		{"hex fraction", `0x1.5`, `JSON5: invalid character '.' at 1:4`},
		{"sign and space", `+ 1`, `JSON5: invalid character ' ' at 1:2`},
		{"two signs", `--1`, `JSON5: invalid character '-' at 1:2`},
		{"sign and word", `-true`, `JSON5: invalid character 't' at 1:2`},
		{"number key", `{1:2}`, `JSON5: invalid character '1' at 1:2`},
		{"key with a dash", `{a-b:1}`, `JSON5: invalid character '-' at 1:3`},
		{"key escape of a digit first", `{\u0031a:1}`, `JSON5: invalid identifier character at 1:2`},
		{"key escape of a dash", `{a\u002d:1}`, `JSON5: invalid identifier character at 1:3`},
		{"key hex escape", `{\x41:1}`, `JSON5: invalid character 'x' at 1:3`},
		{"unclosed string", `"a`, `JSON5: invalid end of input at 1:3`},
		{"line in a string", "'a\nb'", `JSON5: invalid character '\n' at 2:0`},
		{"return in a string", "'a\rb'", `JSON5: invalid character '\r' at 1:3`},
		{"escaped digit", `'\1'`, `JSON5: invalid character '1' at 1:3`},
		{"zero and digit", `'\01'`, `JSON5: invalid character '1' at 1:4`},
		{"short hex escape", `'\x4'`, `JSON5: invalid character '\'' at 1:5`},
		{"short unicode escape", `"\u12G4"`, `JSON5: invalid character 'G' at 1:6`},
		{"escape at the end", `'\`, `JSON5: invalid end of input at 1:3`},
		{"control character", "\x01", `JSON5: invalid character '\x01' at 1:1`},
		{"other quote", "`a`", "JSON5: invalid character '`' at 1:1"},
		{"bytes that are not UTF-8", "\xff", "JSON5: invalid character '\ufffd' at 1:1"},
		{"columns count UTF-16", `"😀" x`, `JSON5: invalid character 'x' at 1:6`},
		{"too deep", strings.Repeat("[", MaxDepth+1), `JSON5: more than 512 levels of nesting at 1:513`},
		{"too deep, mixed", strings.Repeat("{a:[", MaxDepth), `JSON5: more than 512 levels of nesting at 1:1025`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.in))
			var se *SyntaxError
			if !errors.As(err, &se) || err.Error() != c.want {
				t.Fatalf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestPositionsAndOrder(t *testing.T) {
	n, err := Parse([]byte("{\n  b: 1, // one\n  'a': [ true ],\n  b: 'x',\n}"))
	if err != nil {
		t.Fatal(err)
	}
	if len(n.Members) != 2 || n.Members[0].Key != "b" || n.Members[1].Key != "a" {
		t.Fatalf("members %+v", n.Members)
	}
	if got, want := n.Get("b").Start, (Pos{Offset: 39, Line: 4, Col: 6}); got != want {
		t.Errorf("b starts at %+v, want %+v", got, want)
	}
	a := n.Members[1]
	if got, want := a.KeyPos, (Pos{Offset: 19, Line: 3, Col: 3}); got != want {
		t.Errorf("key a at %+v, want %+v", got, want)
	}
	if got, want := a.Value.End, (Pos{Offset: 32, Line: 3, Col: 16}); got != want {
		t.Errorf("a ends at %+v, want %+v", got, want)
	}
	if !n.Get("a").Items[0].Bool || n.At("a", "x") != nil || n.Get("zz") != nil {
		t.Error("Get and At")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{a:[1,'x',"y",.5,0xF,-Infinity,NaN,null,],}`, "// c\n{/**/}", `'\u00e9\x41\0\v\
'`, "\ufeff{ünï\\u0061:1}", `[1,,]`, `{a:'\ud83d\ude00'}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := Parse(data)
		if err != nil {
			var se *SyntaxError
			if !errors.As(err, &se) || se.Line < 1 {
				t.Fatalf("error %v is no placed syntax error", err)
			}
			return
		}
		text := plain.render(n, "")
		again, err := Parse([]byte(text))
		if err != nil {
			t.Fatalf("%q was written as %q: %v", data, text, err)
		}
		if !same(n.Value(), again.Value()) {
			t.Fatalf("%q was written as %q, which is another value", data, text)
		}
	})
}
