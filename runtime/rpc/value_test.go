package rpc

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

func TestValueFromJSON(t *testing.T) {
	for _, tt := range []struct{ in, out string }{
		{`null`, `null`},
		{`""`, `""`},
		{` {"b":[1,2.5,{}],"a":null,"c":true} `, `{"a":null,"b":[1,2.5,{}],"c":true}`},
		{`{"a":1,"a":2}`, `{"a":2}`},
		{`9007199254740993`, `9007199254740992`},
		{`1e21`, `1e+21`},
		{`-0`, `-0`},
		{`"<&>"`, `"<&>"`},
		{`"\ud800"`, `"` + "\uFFFD" + `"`},
		{strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth), strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth)},
	} {
		v, err := valueFromJSON([]byte(tt.in))
		if err != nil {
			t.Errorf("%.40s: %v", tt.in, err)
			continue
		}
		out, err := jsonFromValue(v)
		if err != nil || string(out) != tt.out {
			t.Errorf("%.40s became %.40s, %v", tt.in, out, err)
		}
	}
	if v, err := valueFromJSON(nil); v != nil || err != nil {
		t.Errorf("absent became %v, %v", v, err)
	}
	for _, in := range []string{"", "{", "1 2", "1e999", "\"\xff\"", "nil", strings.Repeat("[", maxDepth+2) + strings.Repeat("]", maxDepth+2)} {
		if v, err := valueFromJSON([]byte(in)); err == nil {
			t.Errorf("%.40q became %v", in, v)
		}
	}
}

func TestJSONFromValue(t *testing.T) {
	if b, err := jsonFromValue(nil); b != nil || err != nil {
		t.Errorf("absent became %q, %v", b, err)
	}
	deep := structpb.NewNullValue()
	for range maxDepth + 1 {
		deep = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{deep}})
	}
	for name, v := range map[string]*structpb.Value{
		"NaN":      structpb.NewNumberValue(math.NaN()),
		"infinity": structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewNumberValue(math.Inf(-1))}}),
		"no kind":  structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"a": {}}}),
		"depth":    deep,
	} {
		if b, err := jsonFromValue(v); err == nil {
			t.Errorf("%s became %.40s", name, b)
		}
	}
}

func FuzzValueFromJSON(f *testing.F) {
	for _, s := range []string{`null`, `{"a":[1,"x",{}]}`, `"\ud800"`, `1e400`, `{"a":1,"a":2}`, "\"\xff\"", `[[[[`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		v, err := valueFromJSON(in)
		if err != nil {
			return
		}
		if _, err := proto.Marshal(v); err != nil {
			t.Fatalf("%q gives a value that cannot be sent: %v", in, err)
		}
		text, err := jsonFromValue(v)
		if err != nil {
			t.Fatal(err)
		}
		again, err := valueFromJSON(text)
		if err != nil || !proto.Equal(v, again) {
			t.Fatalf("%q is not stable: %q, %v", in, text, err)
		}
		var want, got any
		if json.Unmarshal(in, &want) == nil && json.Unmarshal(text, &got) == nil && !reflect.DeepEqual(want, got) {
			t.Fatalf("%q became %q", in, text)
		}
	})
}
