package wire

import (
	"os"
	"testing"
)

// TestJavaScript compares with texts that a JavaScript runtime parsed and wrote again: testdata/stringify.json holds
// pairs of a text and JSON.stringify(JSON.parse(text)).
func TestJavaScript(t *testing.T) {
	data, err := os.ReadFile("testdata/stringify.json")
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
		in, want := io[0].Str(), io[1].Str()
		v, err := Parse([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got := string(Stringify(v)); got != want {
			t.Errorf("%s\n got %s\nwant %s", in, got, want)
		}
	}
	if n < 100 {
		t.Fatalf("only %d pairs", n)
	}
}
