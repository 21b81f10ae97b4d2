package json5

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRewrite(t *testing.T) {
	for _, c := range []struct{ name, in, want, out string }{
		{"same", "{ a: 1, /* c */ }", `{"a":1}`, "{ a: 1, /* c */ }"},
		{"value", "{\n  a: 1, // one\n  // two\n  b: 'x',\n}\n", `{"a":2,"b":"y"}`, "{\n  a: 2, // one\n  // two\n  b: 'y',\n}\n"},
		{"add at the end", "{\n  a: 1 // one\n  // end\n}", `{"a":1,"b":{"c":[]}}`, "{\n  a: 1, // one\n  b: {\n    c: []\n  }\n  // end\n}"},
		{"add in front", "{ // head\n  // about b\n  b: 1,\n}", `{"a":0,"b":1}`, "{ // head\n  a: 0,\n  // about b\n  b: 1,\n}"},
		{"add between", "{\n  a: 1,\n  c: 3\n}", `{"a":1,"b":2,"c":3}`, "{\n  a: 1,\n  b: 2,\n  c: 3\n}"},
		{"add to a line", "{a:1}", `{"a":1,"b":2}`, "{a:1, b: 2}"},
		{"add in front on a line", "{b:1}", `{"a":1,"b":1}`, "{a: 1, b:1}"},
		{"add to nothing", "{ /* c */ }", `{"a":1}`, "{ /* c */\n  \"a\": 1\n}"},
		{"remove", "{\n  a: 1, // one\n  // two\n  b: 2, // b\n  c: 3\n}", `{"a":1,"c":3}`, "{\n  a: 1, // one\n  // two\n  // b\n  c: 3\n}"},
		{"remove the last", "{\n  a: 1,\n  b: 2\n}", `{"a":1}`, "{\n  a: 1\n}"},
		{"remove all", "{\n  a: 1,\n  b: 2\n}", `{}`, "{}"},
		{"remove all but comments", "{\n  // x\n  a: 1\n}", `{}`, "{\n  // x\n}"},
		{"remove all, comment on a line", "{a: 1 // x\n}", `{}`, "{ // x\n}"},
		{"kind", "{a: {b: 1}}", `{"a":"x"}`, "{a: \"x\"}"},
		{"items", "[1, 2, /* three */ 3]", `[1,3]`, "[1, /* three */ 3]"},
		{"items end", "[\n  1,\n  2, // two\n]", `[1,2,3,4]`, "[\n  1,\n  2, // two\n  3,\n  4,\n]"},
		{
			"items by id", "[\n  // a\n  {id: 'a', v: 1},\n  // b\n  {id: 'b', v: 1}, // end b\n  // c\n  {id: 'c', v: 1}\n]",
			`[{"id":"a","v":1},{"id":"x"},{"id":"c","v":2}]`,
			"[\n  // a\n  {id: 'a', v: 1},\n  {\n    id: 'x'\n  },\n  // b\n  // end b\n  // c\n  {id: 'c', v: 2}\n]",
		},
		{"repeated", "{a: 1, a: 2}", `{"a":3}`, "{a: 1, a: 3}"},
		{"repeated, gone", "{a: 1, a: 2, b: 1}", `{"b":1}`, "{ b: 1}"},
		{"crlf", "{\r\n  a: 1\r\n}", `{"a":1,"b":2}`, "{\r\n  a: 1,\r\n  b: 2\r\n}"},
		{"document", "// x\n1\n// y", `{"a":1}`, "// x\n{\n  \"a\": 1\n}\n// y"},
	} {
		t.Run(c.name, func(t *testing.T) {
			want, err := Parse([]byte(c.want))
			if err != nil {
				t.Fatal(err)
			}
			got, err := Rewrite([]byte(c.in), want)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.out, string(got)); d != "" {
				t.Fatal(d)
			}
		})
	}
	want, _ := Parse([]byte(`{"meta":1,"a":1}`))
	got, err := Rewrite([]byte("{\n  a: 1,\n  meta: 1,\n}"), want, "meta")
	if err != nil || string(got) != "{\n  meta: 1,\n  a: 1,\n}" {
		t.Errorf("%s %v", got, err)
	}
}

// notesOf are the comments of a text, in order.
func notesOf(data []byte) (out []string) {
	p := &parser{src: data, line: 1}
	for p.off < len(data) {
		switch p.peek() {
		case '"', '\'':
			if _, err := p.text(); err != nil {
				return nil
			}
		case '/':
			start := p.off
			if p.comment() != nil {
				return nil
			}
			out = append(out, strings.TrimSpace(string(data[start:p.off])))
		default:
			p.next()
		}
	}
	return out
}

func FuzzRewrite(f *testing.F) {
	f.Add("{a: 1, /* x */ b: [1, 2], // y\n c: {}}", `{"a":2,"b":[2],"d":1}`)
	f.Add("// x\n[{id:'a'},{id:'b'} // e\n]", `[{"id":"b","x":1}]`)
	f.Add("{a:1,a:2,'b':'\\u0031'}", `{}`)
	f.Add("{\r\n a:{}//x\r\n}", `{"a":{"b":1},"c":null}`)
	f.Fuzz(func(t *testing.T, in, wanted string) {
		want, err := Parse([]byte(wanted))
		if err != nil {
			return
		}
		root, err := Parse([]byte(in))
		if err != nil && !blank([]byte(in)) {
			return
		}
		out, err := Rewrite([]byte(in), want)
		if err != nil {
			t.Fatalf("%q to %q: %v", in, wanted, err)
		}
		again, err := Parse(out)
		if err != nil || !Equal(again, want) {
			t.Fatalf("%q to %q gave %q: %v", in, wanted, out, err)
		}
		// Where no container goes, no comment does.
		if root != nil && root.Kind == want.Kind && flat(root) {
			if d := cmp.Diff(notesOf([]byte(in)), notesOf(out)); d != "" {
				t.Fatalf("%q to %q gave %q: %s", in, wanted, out, d)
			}
		}
	})
}

// flat reports that nothing inside of n is a container.
func flat(n *Node) bool {
	for _, m := range n.src {
		if m.Value.Kind >= Array {
			return false
		}
	}
	for _, item := range n.Items {
		if item.Kind >= Array {
			return false
		}
	}
	return n.Kind >= Array
}
