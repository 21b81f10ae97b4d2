package wire

import (
	"bytes"
	"encoding/json"
	"math"
	"testing"
	"time"
)

type inner struct {
	A string      `json:"a"`
	B Opt[string] `json:"b,omitzero"`
}

type encoded struct {
	S       string          `json:"s"`
	I       int64           `json:"i"`
	U       uint64          `json:"u"`
	F       float64         `json:"f"`
	T       bool            `json:"t"`
	P       *int            `json:"p"`
	Any     any             `json:"any"`
	M       map[string]bool `json:"m,omitempty"`
	MA      map[string]any  `json:"ma"`
	L       []string        `json:"l,omitempty"`
	Nil     []int           `json:"nil"`
	Lst     List[string]    `json:"lst"`
	Objects List[inner]     `json:"objects"`
	Absent  Opt[string]     `json:"absent,omitzero"`
	Null    Opt[string]     `json:"null"`
	Nested  Opt[inner]      `json:"nested,omitzero"`
	N       Opt[int64]      `json:"n,omitzero"`
	Num     json.Number     `json:"num"`
	When    Millis          `json:"when"`
	Whole   Int             `json:"whole"`
	Raw     Raw             `json:"raw,omitzero"`
	Skip    string          `json:"-"`
	Plain   int
	Arr     [2]bool `json:"arr"`
	inner
	Empty string `json:"empty,omitempty"`
}

// The encoder writes what encoding/json writes, but for the escapes that JavaScript does not use.
func TestMarshalEqualsEncodingJSON(t *testing.T) {
	seven := 7
	full := encoded{
		S: "a\"b\\c\n\x01é😀", I: -3, U: math.MaxUint64, F: 1.5, T: true, P: &seven,
		Any: map[string]any{"z": 1, "a": []any{nil, "x", 2.0}}, M: map[string]bool{"b": true, "a": false},
		MA: map[string]any{}, L: []string{"x"}, Lst: List[string]{"p", "q"},
		Objects: List[inner]{{A: "1"}, {A: "2", B: Some("y")}}, Null: NullOf[string](),
		Nested: Some(inner{A: "n"}), N: Some(int64(9)), Num: "12", When: MillisOf(time.UnixMilli(17)),
		Whole: 5, Raw: Raw(`{"k":[1,2]}`), Skip: "no", Plain: 1, Arr: [2]bool{true, false},
		inner: inner{A: "in", B: Some("flat")},
	}
	for name, v := range map[string]any{
		"full": full, "zero": encoded{Null: NullOf[string](), Num: "0"}, "pointer": &full, "list": List[int]{},
		"text": "plain", "nothing": nil, "slice": []encoded{full},
	} {
		want, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Marshal(v)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
}

func TestMarshalKeepsWhatJavaScriptDoesNotEscape(t *testing.T) {
	got, err := Marshal(map[string]string{"<&>": "\u2028\u2029"})
	if err != nil || string(got) != "{\"<&>\":\"\u2028\u2029\"}" {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestMarshalRefusesWhatHasNoForm(t *testing.T) {
	for _, v := range []any{make(chan int), map[int]int{1: 1}, struct{ F func() }{}} {
		if b, err := Marshal(v); err == nil {
			t.Errorf("%T: wrote %s", v, b)
		}
	}
}

func BenchmarkMarshal(b *testing.B) {
	v := inner{A: "some text", B: Some("more")}
	list := List[inner]{v, v, v, v}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Marshal(list); err != nil {
			b.Fatal(err)
		}
	}
}
