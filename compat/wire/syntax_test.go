package wire

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// TestSyntaxMessages compares with what a JavaScript runtime says: testdata/syntax.json holds pairs of a text and the
// message of JSON.parse (Node 22).
func TestSyntaxMessages(t *testing.T) {
	data, err := os.ReadFile("testdata/syntax.json")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for pair := range mustParse(t, data).Items() {
		var io []Value
		if err := Decode(pair, &io); err != nil {
			t.Fatal(err)
		}
		n++
		in := io[0].Str()
		_, err := Parse([]byte(in))
		e, ok := errors.AsType[*SyntaxError](err)
		if !ok || !errors.Is(err, ErrSyntax) {
			t.Errorf("Parse(%q): %v", in, err)
			continue
		}
		if got, want := string(AppendString(nil, e.JavaScript())), string(Stringify(io[1])); got != want {
			t.Errorf("%q\n got %s\nwant %s", in, got, want)
		}
	}
	if n < 400 {
		t.Fatalf("only %d pairs", n)
	}
}

func FuzzSyntaxMessage(f *testing.F) {
	for _, s := range []string{"{bad", "[1,", `"\ud83d`, "\xff\xfe", strings.Repeat("😀", 30) + "x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := Parse(data)
		if e, ok := errors.AsType[*SyntaxError](err); ok && (e.JavaScript() == "" || e.Error() == "") {
			t.Error("no message")
		}
	})
}
