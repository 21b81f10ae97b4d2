package wire

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// appender is what the field types of this package implement, so that no text is made twice.
type appender interface {
	appendJSON(dst []byte) ([]byte, error)
}

// Marshal writes a Go value for the wire by the json tags of its type: what encoding/json writes, less the escapes that
// JavaScript does not use (<, >, &, U+2028, U+2029).
func Marshal(v any) ([]byte, error) { return AppendValue(nil, v) }

// MustMarshal is Marshal for types that cannot fail: structs of strings, numbers, booleans and this package's types.
// It panics on an error, which is then a fault of the program.
func MustMarshal(v any) []byte {
	b, err := Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// AppendValue appends what Marshal writes.
func AppendValue(dst []byte, v any) ([]byte, error) {
	if v == nil {
		return append(dst, "null"...), nil
	}
	return appendReflect(dst, reflect.ValueOf(v))
}

var appenderType = reflect.TypeFor[appender]()

func appendReflect(dst []byte, v reflect.Value) ([]byte, error) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return append(dst, "null"...), nil
		}
		if v.Kind() == reflect.Interface || !v.Type().Implements(appenderType) {
			return appendReflect(dst, v.Elem())
		}
	default:
	}
	if v.Type().Implements(appenderType) {
		return v.Interface().(appender).appendJSON(dst)
	}
	if m, ok := v.Interface().(json.Marshaler); ok {
		b, err := m.MarshalJSON()
		return append(dst, b...), err
	}
	switch v.Kind() {
	case reflect.String:
		if v.Type() == reflect.TypeFor[json.Number]() {
			if v.Len() == 0 {
				return append(dst, '0'), nil
			}
			return append(dst, v.String()...), nil
		}
		return AppendString(dst, v.String()), nil
	case reflect.Bool:
		return strconv.AppendBool(dst, v.Bool()), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(dst, v.Int(), 10), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return strconv.AppendUint(dst, v.Uint(), 10), nil
	case reflect.Float32, reflect.Float64:
		f := v.Float()
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, fmt.Errorf("encode: %v is no JSON number", f)
		}
		return AppendNumber(dst, f), nil
	case reflect.Struct:
		return appendStruct(dst, v)
	case reflect.Map:
		return appendMap(dst, v)
	case reflect.Slice:
		if v.IsNil() {
			return append(dst, "null"...), nil
		}
		return appendItems(dst, v)
	case reflect.Array:
		return appendItems(dst, v)
	default:
		return nil, fmt.Errorf("encode: a %s has no JSON form", v.Type())
	}
}

func appendItems(dst []byte, v reflect.Value) ([]byte, error) {
	dst = append(dst, '[')
	for i := range v.Len() {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = appendReflect(dst, v.Index(i)); err != nil {
			return nil, err
		}
	}
	return append(dst, ']'), nil
}

func appendMap(dst []byte, v reflect.Value) ([]byte, error) {
	if v.IsNil() {
		return append(dst, "null"...), nil
	}
	if v.Type().Key().Kind() != reflect.String {
		return nil, fmt.Errorf("encode: the keys of a %s are no strings", v.Type())
	}
	items := make(map[string]reflect.Value, v.Len())
	for it := v.MapRange(); it.Next(); {
		items[it.Key().String()] = it.Value()
	}
	dst = append(dst, '{')
	for i, k := range slices.Sorted(maps.Keys(items)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = appendReflect(append(AppendString(dst, k), ':'), items[k]); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}

// outField is how one field of a struct is written.
type outField struct {
	index     []int
	key       string // with quotation marks and colon
	omitEmpty bool
	omitZero  bool
}

var outFields sync.Map // reflect.Type → []outField

func outFieldsOf(t reflect.Type) []outField {
	if f, ok := outFields.Load(t); ok {
		return f.([]outField)
	}
	f, _ := outFields.LoadOrStore(t, outLayout(t, nil))
	return f.([]outField)
}

func outLayout(t reflect.Type, at []int) []outField {
	var out []outField
	for i := range t.NumField() {
		f := t.Field(i)
		index := append(slices.Clone(at), i)
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct && !f.Type.Implements(appenderType) {
			out = append(out, outLayout(f.Type, index)...)
			continue
		}
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		out = append(out, outField{
			index: index, key: string(AppendString(nil, name)) + ":",
			omitEmpty: slices.Contains(strings.Split(opts, ","), "omitempty"),
			omitZero:  slices.Contains(strings.Split(opts, ","), "omitzero"),
		})
	}
	return out
}

func appendStruct(dst []byte, v reflect.Value) ([]byte, error) {
	dst = append(dst, '{')
	first := true
	for _, f := range outFieldsOf(v.Type()) {
		fv := v.FieldByIndex(f.index)
		if (f.omitZero && zero(fv)) || (f.omitEmpty && empty(fv)) {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		var err error
		if dst, err = appendReflect(append(dst, f.key...), fv); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}

func zero(v reflect.Value) bool {
	if z, ok := v.Interface().(interface{ IsZero() bool }); ok {
		return z.IsZero()
	}
	return v.IsZero()
}

func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map, reflect.String, reflect.Array:
		return v.Len() == 0
	case reflect.Struct:
		return false
	default:
		return v.IsZero()
	}
}

func (o Opt[T]) appendJSON(dst []byte) ([]byte, error) {
	if o.state != optSome {
		return append(dst, "null"...), nil
	}
	switch v := any(o.value).(type) {
	case string:
		return AppendString(dst, v), nil
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	default:
		return AppendValue(dst, v)
	}
}

func (n Int) appendJSON(dst []byte) ([]byte, error) { return strconv.AppendInt(dst, int64(n), 10), nil }

func (m Millis) appendJSON(dst []byte) ([]byte, error) {
	return strconv.AppendInt(dst, m.UnixMilli(), 10), nil
}

func (r Raw) appendJSON(dst []byte) ([]byte, error) {
	if len(r) == 0 {
		return append(dst, "null"...), nil
	}
	return append(dst, r...), nil
}

func (l List[T]) appendJSON(dst []byte) ([]byte, error) {
	switch items := any([]T(l)).(type) {
	case []string:
		dst = append(dst, '[')
		for i, s := range items {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = AppendString(dst, s)
		}
		return append(dst, ']'), nil
	default:
		if len(l) == 0 {
			return append(dst, '[', ']'), nil
		}
		return appendItems(dst, reflect.ValueOf([]T(l)))
	}
}

func (v Value) appendJSON(dst []byte) ([]byte, error) { return AppendStringify(dst, v), nil }
