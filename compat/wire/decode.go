package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"sync"
)

// valueDecoder is what the field types of this package implement.
type valueDecoder interface{ decodeValue(Value) error }

// Decode fills dst, a non-nil pointer, from v by the json tags of its type. It differs from encoding/json where the
// dialect does: keys match exactly, never in another case; null fits only Opt, Raw, Value, pointers, slices, maps and
// interfaces; integers may be written 1.0 or 1e3. Keys without a field are ignored, because the frozen schema has
// judged them before. Missing keys leave the field as it is. An error names the place, not the value.
func Decode(v Value, dst any) error {
	rv := reflect.ValueOf(dst)
	if rv.Kind() != reflect.Pointer || rv.IsNil() {
		return fmt.Errorf("decode: destination is %T, want a non-nil pointer", dst)
	}
	return decode(v, rv.Elem())
}

func decode(v Value, rv reflect.Value) error {
	if !v.Exists() {
		return fmt.Errorf("want a value, got none")
	}
	switch dst := rv.Addr().Interface().(type) {
	case *Value:
		*dst = v
		return nil
	case valueDecoder:
		return dst.decodeValue(v)
	case json.Unmarshaler:
		return dst.UnmarshalJSON([]byte(v.Raw()))
	}
	if v.IsNull() {
		switch rv.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface:
			rv.SetZero()
			return nil
		}
		return wrongKind("a value", v)
	}
	switch rv.Kind() {
	case reflect.Pointer:
		p := reflect.New(rv.Type().Elem())
		if err := decode(v, p.Elem()); err != nil {
			return err
		}
		rv.Set(p)
	case reflect.String:
		if v.Kind() != String {
			return wrongKind("a string", v)
		}
		rv.SetString(v.Str())
	case reflect.Bool:
		if v.Kind() != Bool {
			return wrongKind("a boolean", v)
		}
		rv.SetBool(v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, ok := v.Int()
		if !ok || rv.OverflowInt(n) {
			return wrongKind("an integer", v)
		}
		rv.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, ok := v.Int()
		if !ok || n < 0 || rv.OverflowUint(uint64(n)) {
			return wrongKind("a non-negative integer", v)
		}
		rv.SetUint(uint64(n))
	case reflect.Float32, reflect.Float64:
		if v.Kind() != Number || math.IsInf(v.Num(), 0) {
			return wrongKind("a number", v)
		}
		rv.SetFloat(v.Num())
	case reflect.Slice:
		return decodeSlice(v, rv)
	case reflect.Map:
		return decodeMap(v, rv)
	case reflect.Struct:
		return decodeStruct(v, rv)
	default:
		return fmt.Errorf("cannot decode into %s", rv.Type())
	}
	return nil
}

func decodeSlice(v Value, rv reflect.Value) error {
	if v.Kind() != Array {
		return wrongKind("an array", v)
	}
	n := v.Len()
	out := reflect.MakeSlice(rv.Type(), n, n)
	i := 0
	for item := range v.Items() {
		if err := decode(item, out.Index(i)); err != nil {
			return at(strconv.Itoa(i), err)
		}
		i++
	}
	rv.Set(out)
	return nil
}

func decodeMap(v Value, rv reflect.Value) error {
	if v.Kind() != Object {
		return wrongKind("an object", v)
	}
	t := rv.Type()
	if t.Key().Kind() != reflect.String {
		return fmt.Errorf("cannot decode into %s", t)
	}
	out := reflect.MakeMap(t)
	for k, m := range v.Members() {
		e := reflect.New(t.Elem()).Elem()
		if err := decode(m, e); err != nil {
			return at(k, err)
		}
		out.SetMapIndex(reflect.ValueOf(k).Convert(t.Key()), e)
	}
	rv.Set(out)
	return nil
}

func decodeStruct(v Value, rv reflect.Value) error {
	if v.Kind() != Object {
		return wrongKind("an object", v)
	}
	fields := fieldsOf(rv.Type())
	for k, m := range v.Members() {
		for i := range fields {
			if fields[i].name != k {
				continue
			}
			if err := decode(m, rv.FieldByIndex(fields[i].index)); err != nil {
				return at(k, err)
			}
			break
		}
	}
	return nil
}

// at puts a step of the path in front of an error.
func at(step string, err error) error {
	if p, ok := errors.AsType[*pathError](err); ok {
		return &pathError{"/" + step + p.path, p.err}
	}
	return &pathError{"/" + step, err}
}

type pathError struct {
	path string
	err  error
}

func (e *pathError) Error() string { return "at " + e.path + ": " + e.err.Error() }
func (e *pathError) Unwrap() error { return e.err }

type field struct {
	name  string
	index []int
}

var layouts sync.Map // reflect.Type → []field; bounded by the types of the program

func fieldsOf(t reflect.Type) []field {
	if f, ok := layouts.Load(t); ok {
		return f.([]field)
	}
	f, _ := layouts.LoadOrStore(t, layout(t, nil))
	return f.([]field)
}

func layout(t reflect.Type, prefix []int) (out []field) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		index := append(append([]int(nil), prefix...), i)
		switch {
		case name == "-":
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			out = append(out, layout(f.Type, index)...)
		case !f.IsExported():
		case name == "":
			out = append(out, field{f.Name, index})
		default:
			out = append(out, field{name, index})
		}
	}
	return out
}
