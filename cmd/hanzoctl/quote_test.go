package main

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

func TestQuote(t *testing.T) {
	for _, tc := range []struct {
		argv []string
		want string
	}{
		{nil, ""},
		{[]string{"uname", "-a"}, "uname -a"},
		{[]string{""}, "''"},
		{[]string{"echo", "a b", "c"}, "echo 'a b' c"},
		{[]string{"echo", "a", "b c"}, "echo a 'b c'"},
		{[]string{"it's"}, `'it'\''s'`},
		{[]string{"A=1", "B=2"}, "'A=1' B=2"},
		{[]string{"sh", "-c", "rm -rf ~ # no"}, "sh -c 'rm -rf ~ # no'"},
		{[]string{"a\nb\tc\x1b[31m"}, `$'a\nb\tc\x1b[31m'`},
		{[]string{"x\u202egpj.exe"}, `$'x\u202egpj.exe'`},
		{[]string{"caf\u00e9", "\U0001f600"}, `$'caf\u00e9' $'\U0001f600'`},
		{[]string{"\xff'\\"}, `$'\xff\'\\'`},
		{[]string{"\x7f\u0085"}, `$'\x7f\u0085'`},
		{[]string{`a\b`}, `'a\b'`},
		{[]string{"~", "*", "$HOME", "`x`", "a;b", "#"}, "'~' '*' '$HOME' '`x`' 'a;b' '#'"},
	} {
		if got := Quote(tc.argv); got != tc.want {
			t.Errorf("%q: got %s, want %s", tc.argv, got, tc.want)
		}
	}
}

// unquote reads what Quote wrote, as a shell would.
func unquote(s string) []string {
	var argv []string
	var word strings.Builder
	begun := false
	end := func() {
		if begun {
			argv = append(argv, word.String())
		}
		word.Reset()
		begun = false
	}
	for i := 0; i < len(s); {
		switch {
		case s[i] == ' ':
			end()
			i++
		case s[i] == '\\':
			word.WriteByte(s[i+1])
			begun = true
			i += 2
		case s[i] == '\'':
			n := strings.IndexByte(s[i+1:], '\'')
			word.WriteString(s[i+1 : i+1+n])
			begun = true
			i += n + 2
		case strings.HasPrefix(s[i:], "$'"):
			begun = true
			for i += 2; s[i] != '\''; {
				if s[i] != '\\' {
					word.WriteByte(s[i])
					i++
					continue
				}
				digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[i+1]]
				switch n, _ := strconv.ParseUint(s[i+2:min(len(s), i+2+digits)], 16, 32); {
				case s[i+1] == 'x':
					word.WriteByte(byte(n))
				case digits > 0:
					word.WriteRune(rune(n))
				case s[i+1] == 'n':
					word.WriteByte('\n')
				case s[i+1] == 't':
					word.WriteByte('\t')
				default:
					word.WriteByte(s[i+1])
				}
				i += 2 + digits
			}
			i++
		default:
			word.WriteByte(s[i])
			begun = true
			i++
		}
	}
	end()
	return argv
}

func FuzzQuote(f *testing.F) {
	for _, s := range []string{"uname\x00-a", "\x00", "a b\x00'\x00\\", "\u202e\x00\xff\xfe", "$'\x00\x1b", "\U0010ffff", "=\x00=", "\ufffd"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		argv := strings.Split(s, "\x00")
		q := Quote(argv)
		for i := range len(q) {
			if q[i] < ' ' || q[i] > '~' {
				t.Fatalf("%q is not printable ASCII", q)
			}
		}
		if got := unquote(q); !slices.Equal(got, argv) {
			t.Fatalf("%q was written as %s, which reads %q", argv, q, got)
		}
	})
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"plain", "\x1b[2J", "\u202e\u2066", "\xff", "a\nb", "\u0085\u2028", "\u3164", "\ufffd"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range Text(s) {
			if !visible(r) {
				t.Fatalf("%q lets %U through", Text(s), r)
			}
		}
		for _, r := range Lines(s) {
			if !visible(r) && r != '\n' && r != '\t' {
				t.Fatalf("%q lets %U through", Lines(s), r)
			}
		}
		in, err := json.Marshal(map[string]string{s: s})
		if err != nil {
			t.Skip()
		}
		out := safeJSON(in)
		for _, r := range string(out) {
			if !visible(r) {
				t.Fatalf("%s lets %U through", out, r)
			}
		}
		var was, is map[string]string
		if json.Unmarshal(in, &was) != nil || json.Unmarshal(out, &is) != nil {
			t.Fatalf("%s became %s", in, out)
		}
		for k, v := range was {
			if is[k] != v {
				t.Fatalf("%s became %s", in, out)
			}
		}
	})
}

func TestYAML(t *testing.T) {
	plain, err := encode(json.RawMessage(`{"b":"x","a":[1,1.5,"2",{"c":null,"d":"\ud83d\ude00"}],"e":{}}`), "yaml")
	if want := "b: x\na:\n- 1\n- 1.5\n- \"2\"\n- c: null\n  d: \U0001f600\ne: {}\n"; err != nil || string(plain) != want {
		t.Errorf("got %s, %v", plain, err)
	}
	in := map[string]any{"text": "a\x1b[31m\u009b\u202e\u2028b", "number": "123", "yes": "yes", "list": []any{1.0, nil, true, map[string]any{"k": "v: w"}}, "none": []any{}}
	b, err := encode(in, "yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range string(b) {
		if !visible(r) && r != '\n' {
			t.Errorf("lets %U through:\n%s", r, b)
		}
	}
	var out map[string]any
	if err := yaml.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	if out["text"] != in["text"] || out["number"] != "123" || out["yes"] != "yes" {
		t.Errorf("got %v\n%s", out, b)
	}
}
