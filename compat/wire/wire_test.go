package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestStringify(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`1.0`, `1`}, {`1e3`, `1000`}, {`-0`, `0`}, {`-0.0`, `0`}, {`1e21`, `1e+21`}, {`1e20`, `100000000000000000000`},
		{`123456789012345678901234567890`, `1.2345678901234568e+29`},
		{`9007199254740993`, `9007199254740992`}, {`9007199254740991`, `9007199254740991`},
		{`0.000001`, `0.000001`}, {`0.0000001`, `1e-7`}, {`1.5e-10`, `1.5e-10`}, {`1e-323`, `1e-323`}, {`5e-324`, `5e-324`},
		{`1e400`, `null`}, {`-1e400`, `null`}, {`1E400`, `null`}, {`1e-400`, `0`}, {`-5`, `-5`}, {`0.1`, `0.1`}, {`100`, `100`},
		{`1234567890123456789`, `1234567890123456800`}, {`0.30000000000000004`, `0.30000000000000004`},
		{`1.7976931348623157e308`, `1.7976931348623157e+308`}, {`4.35`, `4.35`}, {`1e100`, `1e+100`},
		{` { "b" : 1 , "a" : [ ] } `, `{"b":1,"a":[]}`},
		{`{"b":1,"a":2,"b":3}`, `{"b":3,"a":2}`},
		{`{"b":1,"2":0,"a":2,"10":0,"1":0,"01":0}`, `{"1":0,"2":0,"10":0,"b":1,"a":2,"01":0}`},
		{`{"4294967295":1,"4294967294":2,"-1":3,"0":4}`, `{"0":4,"4294967294":2,"4294967295":1,"-1":3}`},
		{`{"1":1,"1":2}`, `{"1":2}`}, {`{"a":{"x":1,"x":2},"a":{"y":1}}`, `{"a":{"y":1}}`},
		{`{"\u0061":1,"a":2}`, `{"a":2}`}, {`{"__proto__":1,"constructor":2}`, `{"__proto__":1,"constructor":2}`},
		{`"\ud83d\ude00"`, `"😀"`}, {`"\uD800"`, `"\ud800"`}, {`"\udfff x"`, `"\udfff x"`}, {`"\ude00\ud83d"`, `"\ude00\ud83d"`},
		{`"\ud83d\ud83d\ude00"`, `"\ud83d😀"`}, {`"\ud83dx"`, `"\ud83dx"`}, {`{"\ud800":1,"\ud801":2}`, `{"\ud800":1,"\ud801":2}`},
		{`"\u2028\u2029\u003c\u003e\u0026\/"`, "\"\u2028\u2029<>&/\""}, {"\"\u2028\u007f\"", "\"\u2028\u007f\""},
		{`"\b\t\n\f\r\u0000\u001F\u000b\"\\"`, `"\b\t\n\f\r\u0000\u001f\u000b\"\\"`},
		{`"\u00e9\uffff"`, "\"é\uffff\""}, {`null`, `null`}, {`[true,false,null,""]`, `[true,false,null,""]`},
		{`"é😀"`, `"é😀"`},
	} {
		v, err := Parse([]byte(c.in))
		if err != nil {
			t.Errorf("Parse(%s): %v", c.in, err)
			continue
		}
		if got := string(Stringify(v)); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.in, got, c.want)
		}
	}
	if got := string(Stringify(Value{})); got != "null" {
		t.Errorf("Undefined: %s", got)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{"", " ", "{", "}", "[1,]", "[,1]", `{"a":1,}`, `{"a"}`, `{a:1}`, `{"a":}`, `{1:2}`, "01", "-", "1.", ".5",
		"+1", "1e", "1e+", "0x1", "-01", "NaN", "Infinity", "tru", "nulll", `"`, `"\x"`, `"\u12"`, `"\u12g4"`, "\"\n\"", "\"\x00\"", `'a'`,
		"1 2", "[1] x", "\ufeff{}", "\u00a01", "\v1", `"\`, `"\u`, "{\"a\":1", "[[", "/**/1", "undefined", "\x00"} {
		if v, err := Parse([]byte(in)); !errors.Is(err, ErrSyntax) || v.Exists() {
			t.Errorf("Parse(%q) = %v, %v", in, v.Raw(), err)
		}
	}
	if _, err := Parse([]byte(strings.Repeat("[", MaxDepth+2))); !errors.Is(err, ErrLimit) {
		t.Errorf("too deep: %v", err)
	}
	deep := strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth)
	if v, err := Parse([]byte(deep)); err != nil || string(Stringify(v)) != deep {
		t.Errorf("deepest: %v", err)
	}
	if _, err := Parse([]byte("[" + strings.Repeat("1,", MaxNodes) + "1]")); !errors.Is(err, ErrLimit) {
		t.Errorf("too many nodes: %v", err)
	}
}

// The replacement of bytes that are not UTF-8 is that of the WHATWG decoder.
func TestParseInvalidUTF8(t *testing.T) {
	const r = "\ufffd"
	for _, c := range []struct{ in, want string }{
		{"\xff", r}, {"a\x80b", "a" + r + "b"}, {"\xe2\x82", r}, {"\xe2\x82x", r + "x"}, {"\xf0\x9f\x98", r}, {"\xed\xa0\x80", r + r + r},
		{"\xc0\xaf", r + r}, {"\xf4\x90\x80\x80", r + r + r + r}, {"\xe0\x80\x80", r + r + r}, {"\xf0\x9f\xf0\x9f\x98\x80", r + "😀"},
		{"\xe2\x28\xa1", r + "(" + r}, {"é\xc3", "é" + r},
	} {
		v, err := Parse([]byte(`"` + c.in + `"`))
		if err != nil || v.Str() != c.want {
			t.Errorf("%q: got %q, %v, want %q", c.in, v.Str(), err, c.want)
		}
	}
}

func TestValue(t *testing.T) {
	v := MustParse(`{"s":"x\ud800y","n":1.5,"t":true,"f":false,"z":null,"a":[1,[2,3],{"k":4}],"o":{"2":"b","1":"a","1":"c"}, "i": 1e3 }`)
	get := func(k string) Value {
		m, ok := v.Get(k)
		if !ok {
			t.Fatalf("no member %s", k)
		}
		return m
	}
	if s := get("s").Str(); s != "x\ufffdy" || !utf8.ValidString(s) {
		t.Errorf("lone surrogate reads as %q", s)
	}
	if get("n").Num() != 1.5 || !get("t").Bool() || get("f").Bool() || !get("z").IsNull() || get("z").Kind() != Null {
		t.Error("scalars")
	}
	if n, ok := get("i").Int(); n != 1000 || !ok {
		t.Error("1e3 is an integer")
	}
	if _, ok := get("n").Int(); ok {
		t.Error("1.5 is no integer")
	}
	if get("a").Len() != 3 || get("o").Len() != 2 || v.Len() != 8 || get("s").Len() != 0 {
		t.Error("lengths")
	}
	if get("i").Raw() != "1e3" || get("a").Raw() != `[1,[2,3],{"k":4}]` {
		t.Error("raw")
	}
	if m, _ := get("o").Get("1"); m.Str() != "c" {
		t.Error("the last of repeated keys counts")
	}
	var keys []string
	for k := range get("o").Members() {
		keys = append(keys, k)
	}
	if !slices.Equal(keys, []string{"1", "2"}) {
		t.Errorf("keys %q", keys)
	}
	var raws []string
	for m := range get("a").Items() {
		raws = append(raws, m.Raw())
	}
	if !slices.Equal(raws, []string{"1", "[2,3]", `{"k":4}`}) {
		t.Errorf("items %q", raws)
	}
	var none Value
	if _, ok := none.Get("x"); ok || none.Exists() || none.IsNull() || none.Len() != 0 || none.Raw() != "" || none.Str() != "" || none.Num() != 0 {
		t.Error("Undefined must answer nothing")
	}
	for range none.Members() {
		t.Error("Undefined has members")
	}
	big := MustParse("{" + strings.Repeat(`"k":1,`, 40) + `"z":2,"k":3}`)
	if got := string(Stringify(big)); got != `{"k":3,"z":2}` {
		t.Error(got)
	}
}

func TestLongStrings(t *testing.T) {
	for n := range 40 {
		for _, special := range []string{`\"`, `\\`, `\n`, "é", " ", "!", "\u007f", "\u2028"} {
			s := `"` + strings.Repeat("x", n) + special + strings.Repeat("ÿ", n%9) + `"`
			v, err := Parse([]byte(s))
			if err != nil || string(Stringify(v)) != s {
				t.Fatalf("%s: %v, %s", s, err, Stringify(v))
			}
			if _, err := Parse([]byte(`"` + strings.Repeat("x", n) + "\x1f" + strings.Repeat("x", n) + `"`)); err == nil {
				t.Fatal("control character accepted")
			}
		}
	}
}

type sample struct {
	A Opt[string]   `json:"a,omitzero"`
	B Opt[Int]      `json:"b,omitzero"`
	C Opt[[]string] `json:"c,omitzero"`
	T Millis        `json:"t,omitzero"`
	R Raw           `json:"r,omitzero"`
	L List[string]  `json:"l"`
}

func TestTypes(t *testing.T) {
	for _, c := range []struct {
		v    sample
		want string
	}{
		{sample{}, `{"l":[]}`},
		{sample{A: NullOf[string](), B: NullOf[Int](), L: List[string]{"<&>\u2028"}}, "{\"a\":null,\"b\":null,\"l\":[\"<&>\u2028\"]}"},
		{sample{A: Some(""), B: Some(Int(0)), C: Some([]string{"x"}), T: MillisOf(time.UnixMilli(1768435200123)), R: Raw(`{"k":1}`)},
			`{"a":"","b":0,"c":["x"],"t":1768435200123,"r":{"k":1},"l":[]}`},
		{sample{A: SomeOrNull[string](nil), B: NonZero(Int(0))}, `{"a":null,"l":[]}`},
	} {
		got, err := Marshal(c.v)
		if err != nil || string(got) != c.want {
			t.Errorf("got %s %v\nwant %s", got, err, c.want)
		}
		for name, read := range map[string]func(*sample) error{
			"Decode":        func(s *sample) error { return Decode(MustParse(c.want), s) },
			"encoding/json": func(s *sample) error { return json.Unmarshal([]byte(c.want), s) },
		} {
			var back sample
			if err := read(&back); err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if again, _ := Marshal(back); string(again) != c.want {
				t.Errorf("%s: round trip gives %s, want %s", name, again, c.want)
			}
		}
	}
	for in, want := range map[string]bool{"1": true, "1.0": true, "1e3": true, "-5": true, "9007199254740992": true, "9007199254740994": false,
		"1.5": false, `"1"`: false, "null": false, "true": false, "1e400": false, "[]": false} {
		var n Int
		var m Millis
		if err := json.Unmarshal([]byte(in), &n); (err == nil) != want && in != "null" {
			t.Errorf("Int %s: %v", in, err)
		}
		if err := Decode(MustParse(in), &n); (err == nil) != want {
			t.Errorf("Decode Int %s: %v", in, err)
		}
		if err := Decode(MustParse(in), &m); (err == nil) != want {
			t.Errorf("Decode Millis %s: %v", in, err)
		}
	}
	if v, ok := Some(3).Get(); v != 3 || !ok || Some(3).Or(4) != 3 || NullOf[int]().Or(4) != 4 || !NullOf[int]().IsNull() || !(Opt[int]{}).IsZero() {
		t.Error("accessors")
	}
}

func TestDecode(t *testing.T) {
	type inner struct {
		K string `json:"k"`
	}
	type outer struct {
		inner
		Name  string            `json:"name"`
		N     int               `json:"n"`
		U     uint8             `json:"u"`
		F     float64           `json:"f"`
		B     bool              `json:"b"`
		P     *int              `json:"p"`
		S     []inner           `json:"s"`
		M     map[string]string `json:"m"`
		V     Value             `json:"v"`
		O     Opt[inner]        `json:"o,omitzero"`
		Skip  string            `json:"-"`
		Plain string
	}
	var got outer
	err := Decode(MustParse(`{"NAME":"no","name":"yes","n":1e2,"u":255,"f":0.5,"b":true,"p":7,"s":[{"k":"a"},{"K":"b"}],
		"m":{"x":"y"},"v":[1],"o":{"k":"z"},"-":"no","Skip":"no","Plain":"p","other":1}`), &got)
	if err != nil {
		t.Fatal(err)
	}
	if o, _ := got.O.Get(); got.Name != "yes" || got.N != 100 || got.U != 255 || got.F != 0.5 || !got.B || *got.P != 7 || got.Plain != "p" ||
		!reflect.DeepEqual(got.S, []inner{{"a"}, {""}}) || got.M["x"] != "y" || got.V.Len() != 1 || o.K != "z" || got.Skip != "" {
		t.Errorf("got %+v", got)
	}
	for in, want := range map[string]string{
		`{"name":null}`: "at /name: want a value, got null", `{"n":1.5}`: "at /n: want an integer, got 1.5", `{"u":256}`: "at /u: want a non-negative integer, got 256",
		`{"s":[{"k":1}]}`: "at /s/0/k: want a string, got 1", `{"m":{"a":true}}`: "at /m/a: want a string, got boolean",
		`[]`: "want an object, got array", `{"o":{"k":[]}}`: "at /o/k: want a string, got array", `{"f":1e400}`: "at /f: want a number, got 1e400",
	} {
		var o outer
		if err := Decode(MustParse(in), &o); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", in, err, want)
		}
	}
	if Decode(Value{}, new(string)) == nil || Decode(MustParse("1"), 5) == nil || Decode(MustParse("1"), nil) == nil {
		t.Error("misuse must be an error")
	}
}

func TestMarshalText(t *testing.T) {
	for in, want := range map[string]string{
		"<a>&\u2028\u2029": "\"<a>&\u2028\u2029\"", `\u2028`: `"\\u2028"`, `\` + "\u2028": "\"\\\\\u2028\"",
		"\xff": "\"\ufffd\"", "\x01\b\f\x7f": "\"\\u0001\\b\\f\x7f\"", `"`: `"\""`,
	} {
		if got, err := Marshal(in); err != nil || string(got) != want {
			t.Errorf("%q: got %s %v, want %s", in, got, err, want)
		}
		if got := AppendString(nil, in); string(got) != want {
			t.Errorf("AppendString %q: got %s, want %s", in, got, want)
		}
	}
	if _, err := Marshal(math.NaN()); err == nil {
		t.Error("NaN must be an error")
	}
}

func TestFrames(t *testing.T) {
	shape := ErrorShape{Code: "INVALID_REQUEST", Message: `bad "x"`}
	full := ErrorShape{Code: "UNAVAILABLE", Message: "later", Details: Raw(`{"limit":"3 per 60s"}`), Retryable: true, RetryAfterMs: 1500}
	for _, c := range []struct {
		got  []byte
		want string
	}{
		{AppendResult(nil, "r\"1", nil), `{"type":"res","id":"r\"1","ok":true}`},
		{AppendResult(nil, "1", []byte("null")), `{"type":"res","id":"1","ok":true,"payload":null}`},
		{AppendError(nil, "1", shape), `{"type":"res","id":"1","ok":false,"error":{"code":"INVALID_REQUEST","message":"bad \"x\""}}`},
		{AppendError(nil, "1", full), `{"type":"res","id":"1","ok":false,"error":{"code":"UNAVAILABLE","message":"later","details":{"limit":"3 per 60s"},"retryable":true,"retryAfterMs":1500}}`},
		{AppendErrorPayload(nil, "1", []byte(`{"a":1}`), ErrorShape{Code: "X"}), `{"type":"res","id":"1","ok":false,"payload":{"a":1},"error":{"code":"X","message":"X"}}`},
		{AppendErrorRawID(nil, Raw("5"), shape), `{"type":"res","id":5,"ok":false,"error":{"code":"INVALID_REQUEST","message":"bad \"x\""}}`},
		{AppendEvent(nil, "tick", []byte(`{"ts":1}`), Opt[uint64]{}, Opt[StateVersion]{}), `{"type":"event","event":"tick","payload":{"ts":1}}`},
		{AppendEvent(nil, "x", nil, Some[uint64](7), Some(StateVersion{1, 2})), `{"type":"event","event":"x","seq":7,"stateVersion":{"presence":1,"health":2}}`},
		{AppendRequest(nil, "a", "node.list", nil), `{"type":"req","id":"a","method":"node.list"}`},
		{AppendRequest(nil, "a", "m", []byte("{}")), `{"type":"req","id":"a","method":"m","params":{}}`},
	} {
		if string(c.got) != c.want {
			t.Errorf("got  %s\nwant %s", c.got, c.want)
		}
	}

	f, err := ParseFrame(AppendError(nil, "1", full))
	if err != nil || f.Type != "res" || f.ID != "1" || f.OK || !reflect.DeepEqual(f.Error, full) {
		t.Errorf("%+v %v", f, err)
	}
	f, err = ParseFrame([]byte(`{"type":"event","event":"x","payload":null,"seq":3,"stateVersion":{"presence":1,"health":2,"z":0},"more":1}`))
	if n, _ := f.Seq.Get(); err != nil || n != 3 || !f.Payload.IsNull() || f.State != Some(StateVersion{1, 2}) {
		t.Errorf("%+v %v", f, err)
	}
	f, err = ParseFrame([]byte(`{"type":"res","id":"1","ok":true,"payload":{},"error":null}`))
	if err != nil || !f.OK || f.Payload.Kind() != Object {
		t.Errorf("%+v %v", f, err)
	}
	for _, bad := range []string{`{}`, `[]`, `null`, `{"type":"res","id":1,"ok":true}`, `{"type":"res","id":"1"}`, `{"type":"event"}`, `{"type":"req","id":"1","method":"x"}`} {
		if _, err := ParseFrame([]byte(bad)); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := ParseFrame([]byte("x")); !errors.Is(err, ErrSyntax) {
		t.Error(err)
	}
	if p := (Request{}).ParamsOrEmpty(); p.Kind() != Object || p.Len() != 0 {
		t.Error("missing params are {}")
	}
}

func TestTruncateUTF8(t *testing.T) {
	const long = "invalid connect params: must have required property 'minProtocol'; must have required property 'maxProtocol'; must have required property 'client'"
	for _, c := range []struct {
		in   string
		max  int
		want string
	}{
		{long, MaxCloseReason, "invalid connect params: must have required property 'minProtocol'; must have required property 'maxProtocol'; must have "},
		{"abc", 3, "abc"}, {"é", 1, ""}, {"aé", 2, "a"}, {"a😀b", 4, "a"}, {"a😀b", 5, "a😀"}, {"x", 0, ""},
	} {
		if got := TruncateUTF8(c.in, c.max); got != c.want {
			t.Errorf("%q to %d: %q", c.in, c.max, got)
		}
	}
}

// TestLocaleLess computes the recorded environment hashes (nodes-approvals.md §2.3), which need the order, the
// strings and the numbers of Stringify to be exact.
func TestLocaleLess(t *testing.T) {
	data, err := os.ReadFile("testdata/envhash.json")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	vectors := 0
	for v := range mustParse(t, data).Items() {
		vectors++
		env, _ := v.Get("env")
		type pair struct{ k, v string }
		var pairs []pair
		for k, m := range env.Members() {
			if k = strings.TrimSpace(k); m.Kind() == String && name.MatchString(k) {
				pairs = append(pairs, pair{k, m.Str()})
			}
		}
		slices.SortFunc(pairs, func(a, b pair) int {
			switch {
			case LocaleLess(a.k, b.k):
				return -1
			case LocaleLess(b.k, a.k):
				return 1
			}
			return 0
		})
		text, keys := []byte("["), []byte("[")
		for i, p := range pairs {
			if i > 0 {
				text, keys = append(text, ','), append(keys, ',')
			}
			text = append(AppendString(append(AppendString(append(text, '['), p.k), ','), p.v), ']')
			keys = AppendString(keys, p.k)
		}
		sum := sha256.Sum256(append(text, ']'))
		got := `"` + hex.EncodeToString(sum[:]) + `"`
		if len(pairs) == 0 {
			got = "null"
		}
		expect, _ := v.Get("expect")
		hash, _ := expect.Get("envHash")
		order, _ := expect.Get("envKeys")
		if got != hash.Raw() || string(append(keys, ']')) != string(Stringify(order)) {
			id, _ := v.Get("name")
			t.Errorf("%s: got %s %s], want %s %s", id.Str(), got, keys, hash.Raw(), order.Raw())
		}
	}
	if vectors == 0 {
		t.Fatal("no vectors")
	}
	want := []string{"", "_", "_a", "0", "9", "a", "A", "a_", "a1", "aa", "aA", "Aa", "AA", "ab", "B", "Z", "zz"}
	for i, a := range want {
		for j, b := range want {
			if LocaleLess(a, b) != (i < j) {
				t.Errorf("LocaleLess(%q, %q) = %v", a, b, i >= j)
			}
		}
	}
}

func mustParse(t testing.TB, data []byte) Value {
	t.Helper()
	v, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// FuzzParse: no text may panic; a valid one is stable under Stringify and Parse; and Parse agrees with encoding/json
// about what is JSON, except for the bounds of depth and nodes.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e3,"\ud800"],"1":null,"a":true}`, `[[[]]]`, `"\u00e9"`, "\"\xff\"", "1e400", `{"0":1,"00":2}`, " [ ] ", `"\\\""`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := Parse(data)
		if errors.Is(err, ErrLimit) {
			return
		}
		if utf8.Valid(data) && json.Valid(data) != (err == nil) {
			t.Fatalf("encoding/json says %v, Parse says %v: %q", json.Valid(data), err, data)
		}
		if err != nil {
			return
		}
		once := Stringify(v)
		w, err := Parse(once)
		if err != nil {
			t.Fatalf("%q → %q: %v", data, once, err)
		}
		if twice := Stringify(w); !bytes.Equal(once, twice) {
			t.Fatalf("unstable: %q → %q → %q", data, once, twice)
		}
		// Their meaning is the same too (numbers out of range aside, which encoding/json refuses).
		var a, b any
		if utf8.Valid(data) && json.Unmarshal(data, &a) == nil && !bytes.Contains(data, []byte(`\u`)) {
			if err := json.Unmarshal(once, &b); err != nil || !reflect.DeepEqual(zeros(a), zeros(b)) {
				t.Fatalf("meaning differs: %q → %q (%v)", data, once, err)
			}
		}
	})
}

// zeros replaces negative zeros, which JavaScript writes without the sign.
func zeros(v any) any {
	switch v := v.(type) {
	case float64:
		if v == 0 {
			return 0.0
		}
	case []any:
		for i := range v {
			v[i] = zeros(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = zeros(v[k])
		}
	}
	return v
}

// FuzzAppendString: whatever the bytes, the result is a JSON string that reads back as the text made valid.
func FuzzAppendString(f *testing.F) {
	f.Add("a\"\\\n\u2028\xff😀")
	f.Fuzz(func(t *testing.T, s string) {
		q := AppendString(nil, s)
		v, err := Parse(q)
		if err != nil || !utf8.Valid(q) {
			t.Fatalf("%q → %q: %v", s, q, err)
		}
		if utf8.ValidString(s) && v.Str() != s {
			t.Fatalf("%q reads back as %q", s, v.Str())
		}
	})
}

// FuzzFrame: no text of a peer may panic the client half.
func FuzzFrame(f *testing.F) {
	f.Add([]byte(`{"type":"res","id":"1","ok":false,"error":{"code":"X","message":"y","retryAfterMs":1e400}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if fr, err := ParseFrame(data); err == nil && fr.Type != "res" && fr.Type != "event" {
			t.Fatalf("%q: %+v", data, fr)
		}
	})
}

var frame200 = []byte(`{"type":"req","id":"2f1c7f0e-5a55-4b6b-9d6c-0f5d0c2a7b11","method":"node.invoke","params":{"nodeId":"mac-studio","command":"system.which","params":{"bins":["git","go"]},"timeoutMs":5000,"idempotencyKey":"k-1"}}`)

func BenchmarkParse(b *testing.B) {
	b.SetBytes(int64(len(frame200)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(frame200); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseLongString(b *testing.B) {
	data := []byte(`{"data":"` + strings.Repeat("QUJD", 1<<18) + `"}`)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStringify(b *testing.B) {
	v := mustParse(b, frame200)
	buf := make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendStringify(buf[:0], v)
	}
}

func BenchmarkDecode(b *testing.B) {
	v, _ := mustParse(b, frame200).Get("params")
	type invoke struct {
		NodeID  string   `json:"nodeId"`
		Command string   `json:"command"`
		Params  Value    `json:"params"`
		Timeout Opt[Int] `json:"timeoutMs,omitzero"`
		Key     string   `json:"idempotencyKey"`
	}
	b.ReportAllocs()
	for b.Loop() {
		var in invoke
		if err := Decode(v, &in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendResult(b *testing.B) {
	buf := make([]byte, 0, 512)
	payload := []byte(`{"ok":true,"nodeId":"n1"}`)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendResult(buf[:0], "2f1c7f0e-5a55-4b6b-9d6c-0f5d0c2a7b11", payload)
	}
}

func BenchmarkAppendEvent(b *testing.B) {
	buf := make([]byte, 0, 512)
	payload := []byte(`{"ts":1768435200123}`)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendEvent(buf[:0], "presence", payload, Some[uint64](12), Some(StateVersion{3, 4}))
	}
}
