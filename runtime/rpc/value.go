package rpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"
)

// maxDepth bounds how deeply arrays and objects may nest in a value. A protobuf reader stops after
// 10,000 messages, and one level of JSON takes three of them.
const maxDepth = 1000

var (
	errDepth = fmt.Errorf("arrays and objects nest deeper than %d levels", maxDepth)
	errUTF8  = errors.New("the text is not valid UTF-8")
)

// valueFromJSON reads JSON text into a value; nil text gives nil, the text null a null value.
// Numbers become doubles, so integers beyond 2^53 lose their last digits; of a key that stands
// twice, the last wins. A number that no double holds is an error.
func valueFromJSON(text []byte) (*structpb.Value, error) {
	if text == nil {
		return nil, nil
	}
	if !utf8.Valid(text) {
		return nil, errUTF8
	}
	d := json.NewDecoder(bytes.NewReader(text))
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more follows after the value")
	}
	return valueOf(v, 0)
}

func valueOf(v any, depth int) (*structpb.Value, error) {
	if depth > maxDepth {
		return nil, errDepth
	}
	switch v := v.(type) {
	case nil:
		return structpb.NewNullValue(), nil
	case bool:
		return structpb.NewBoolValue(v), nil
	case float64:
		return structpb.NewNumberValue(v), nil
	case string:
		return structpb.NewStringValue(v), nil
	case []any:
		list := &structpb.ListValue{Values: make([]*structpb.Value, len(v))}
		for i, x := range v {
			e, err := valueOf(x, depth+1)
			if err != nil {
				return nil, err
			}
			list.Values[i] = e
		}
		return structpb.NewListValue(list), nil
	case map[string]any:
		s := &structpb.Struct{Fields: make(map[string]*structpb.Value, len(v))}
		for k, x := range v {
			e, err := valueOf(x, depth+1)
			if err != nil {
				return nil, err
			}
			s.Fields[k] = e
		}
		return structpb.NewStructValue(s), nil
	}
	return nil, fmt.Errorf("%T is no JSON value", v)
}

// jsonFromValue writes a value as JSON text, keys sorted; nil gives nil. Infinities, NaN and a
// value without a kind are errors.
func jsonFromValue(v *structpb.Value) ([]byte, error) {
	if v == nil {
		return nil, nil
	}
	plain, err := plainOf(v, 0)
	if err != nil {
		return nil, errValue.Wrap(err)
	}
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(plain); err != nil {
		return nil, errValue.Wrap(err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

func plainOf(v *structpb.Value, depth int) (any, error) {
	if depth > maxDepth {
		return nil, errDepth
	}
	switch k := v.GetKind().(type) {
	case *structpb.Value_NullValue:
		return nil, nil
	case *structpb.Value_BoolValue:
		return k.BoolValue, nil
	case *structpb.Value_NumberValue:
		if math.IsNaN(k.NumberValue) || math.IsInf(k.NumberValue, 0) {
			return nil, errors.New("JSON has no infinity and no NaN")
		}
		return k.NumberValue, nil
	case *structpb.Value_StringValue:
		return k.StringValue, nil
	case *structpb.Value_ListValue:
		in := k.ListValue.GetValues()
		out := make([]any, len(in))
		for i, x := range in {
			var err error
			if out[i], err = plainOf(x, depth+1); err != nil {
				return nil, err
			}
		}
		return out, nil
	case *structpb.Value_StructValue:
		in := k.StructValue.GetFields()
		out := make(map[string]any, len(in))
		for name, x := range in {
			var err error
			if out[name], err = plainOf(x, depth+1); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return nil, errors.New("a value has no kind")
}

// structFromJSON reads JSON text that must be an object; nil text gives nil.
func structFromJSON(text []byte) (*structpb.Struct, error) {
	v, err := valueFromJSON(text)
	if err != nil || v == nil {
		return nil, err
	}
	s, ok := v.GetKind().(*structpb.Value_StructValue)
	if !ok {
		return nil, errors.New("the text is no JSON object")
	}
	return s.StructValue, nil
}

// jsonFromStruct writes an object as JSON text; nil gives nil.
func jsonFromStruct(s *structpb.Struct) ([]byte, error) {
	if s == nil {
		return nil, nil
	}
	return jsonFromValue(structpb.NewStructValue(s))
}
