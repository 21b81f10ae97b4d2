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
func Marshal(v any) ([]byte, error) { return AppendValue(make([]byte, 0, usualSize), v) }

// usualSize is the room for an answer that Marshal starts with.
const usualSize = 256

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
	rv := reflect.ValueOf(v)
	if rv.Kind() == reflect.Struct {
		// Fields that can be pointed at are written without being copied to the heap one by one.
		at := reflect.New(rv.Type()).Elem()
		at.Set(rv)
		rv = at
	}
	return encoderOf(rv.Type())(dst, rv)
}

// encode writes a value of one type.
type encode func(dst []byte, v reflect.Value) ([]byte, error)

var (
	appenderType  = reflect.TypeFor[appender]()
	marshalerType = reflect.TypeFor[json.Marshaler]()
	numberType    = reflect.TypeFor[json.Number]()

	encoders sync.Map // reflect.Type → encode
)

// encoderOf returns the encoder of a type, made once.
func encoderOf(t reflect.Type) encode {
	if e, ok := encoders.Load(t); ok {
		return e.(encode)
	}
	// A type that contains itself finds this while its own encoder is made.
	var once sync.Once
	var made encode
	e, loaded := encoders.LoadOrStore(t, encode(func(dst []byte, v reflect.Value) ([]byte, error) {
		once.Do(func() { made = makeEncoder(t) })
		return made(dst, v)
	}))
	if loaded {
		return e.(encode)
	}
	once.Do(func() { made = makeEncoder(t) })
	encoders.Store(t, made)
	return made
}

// own returns the value as an interface, by pointer when it has an address.
func own(v reflect.Value) any {
	if v.CanAddr() {
		return v.Addr().Interface()
	}
	return v.Interface()
}

func makeEncoder(t reflect.Type) encode {
	switch {
	case t.Kind() != reflect.Pointer && t.Kind() != reflect.Interface && t.Implements(appenderType):
		return func(dst []byte, v reflect.Value) ([]byte, error) { return own(v).(appender).appendJSON(dst) }
	case t.Kind() != reflect.Pointer && t.Kind() != reflect.Interface && t.Implements(marshalerType):
		return func(dst []byte, v reflect.Value) ([]byte, error) {
			b, err := own(v).(json.Marshaler).MarshalJSON()
			return append(dst, b...), err
		}
	case t == numberType:
		return func(dst []byte, v reflect.Value) ([]byte, error) {
			if v.Len() == 0 {
				return append(dst, '0'), nil
			}
			return append(dst, v.String()...), nil
		}
	}
	switch t.Kind() {
	case reflect.Pointer:
		elem := encoderOf(t.Elem())
		return func(dst []byte, v reflect.Value) ([]byte, error) {
			if v.IsNil() {
				return append(dst, "null"...), nil
			}
			return elem(dst, v.Elem())
		}
	case reflect.Interface:
		return func(dst []byte, v reflect.Value) ([]byte, error) {
			if v.IsNil() {
				return append(dst, "null"...), nil
			}
			return AppendValue(dst, v.Interface())
		}
	case reflect.String:
		return func(dst []byte, v reflect.Value) ([]byte, error) { return AppendString(dst, v.String()), nil }
	case reflect.Bool:
		return func(dst []byte, v reflect.Value) ([]byte, error) { return strconv.AppendBool(dst, v.Bool()), nil }
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return func(dst []byte, v reflect.Value) ([]byte, error) { return strconv.AppendInt(dst, v.Int(), 10), nil }
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return func(dst []byte, v reflect.Value) ([]byte, error) { return strconv.AppendUint(dst, v.Uint(), 10), nil }
	case reflect.Float32, reflect.Float64:
		return func(dst []byte, v reflect.Value) ([]byte, error) {
			f := v.Float()
			if math.IsNaN(f) || math.IsInf(f, 0) {
				return nil, fmt.Errorf("encode: %v is no JSON number", f)
			}
			return AppendNumber(dst, f), nil
		}
	case reflect.Struct:
		return structEncoder(t)
	case reflect.Map:
		return mapEncoder(t)
	case reflect.Slice, reflect.Array:
		elem := encoderOf(t.Elem())
		return func(dst []byte, v reflect.Value) ([]byte, error) {
			if v.Kind() == reflect.Slice && v.IsNil() {
				return append(dst, "null"...), nil
			}
			return appendItems(dst, v, elem)
		}
	default:
		return func([]byte, reflect.Value) ([]byte, error) {
			return nil, fmt.Errorf("encode: a %s has no JSON form", t)
		}
	}
}

func appendItems(dst []byte, v reflect.Value, elem encode) ([]byte, error) {
	dst = append(dst, '[')
	for i := range v.Len() {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		if dst, err = elem(dst, v.Index(i)); err != nil {
			return nil, err
		}
	}
	return append(dst, ']'), nil
}

func mapEncoder(t reflect.Type) encode {
	if t.Key().Kind() != reflect.String {
		return func([]byte, reflect.Value) ([]byte, error) {
			return nil, fmt.Errorf("encode: the keys of a %s are no strings", t)
		}
	}
	elem := encoderOf(t.Elem())
	return func(dst []byte, v reflect.Value) ([]byte, error) {
		if v.IsNil() {
			return append(dst, "null"...), nil
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
			if dst, err = elem(append(AppendString(dst, k), ':'), items[k]); err != nil {
				return nil, err
			}
		}
		return append(dst, '}'), nil
	}
}

// outField is how one field of a struct is written.
type outField struct {
	index  []int
	key    string // with quotation marks and colon
	absent func(reflect.Value) bool
	encode encode
}

func outLayout(t reflect.Type, at []int) []outField {
	var out []outField
	for i := range t.NumField() {
		f := t.Field(i)
		index := append(slices.Clone(at), i)
		name, rest, _ := strings.Cut(f.Tag.Get("json"), ",")
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
		o := outField{index: index, key: string(AppendString(nil, name)) + ":", encode: encoderOf(f.Type)}
		for opt := range strings.SplitSeq(rest, ",") {
			switch opt {
			case "omitzero":
				o.absent = zeroCheck(f.Type)
			case "omitempty":
				o.absent = emptyCheck(f.Type)
			}
		}
		out = append(out, o)
	}
	return out
}

func structEncoder(t reflect.Type) encode {
	fields := outLayout(t, nil)
	return func(dst []byte, v reflect.Value) ([]byte, error) {
		dst = append(dst, '{')
		first := true
		for i := range fields {
			f := &fields[i]
			fv := v.FieldByIndex(f.index)
			if f.absent != nil && f.absent(fv) {
				continue
			}
			if !first {
				dst = append(dst, ',')
			}
			first = false
			var err error
			if dst, err = f.encode(append(dst, f.key...), fv); err != nil {
				return nil, err
			}
		}
		return append(dst, '}'), nil
	}
}

type zeroer interface{ IsZero() bool }

func zeroCheck(t reflect.Type) func(reflect.Value) bool {
	if t.Implements(reflect.TypeFor[zeroer]()) {
		return func(v reflect.Value) bool { return own(v).(zeroer).IsZero() }
	}
	return reflect.Value.IsZero
}

func emptyCheck(t reflect.Type) func(reflect.Value) bool {
	switch t.Kind() {
	case reflect.Slice, reflect.Map, reflect.String, reflect.Array:
		return func(v reflect.Value) bool { return v.Len() == 0 }
	case reflect.Struct:
		return func(reflect.Value) bool { return false }
	default:
		return reflect.Value.IsZero
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
		return appendItems(dst, reflect.ValueOf([]T(l)), encoderOf(reflect.TypeFor[T]()))
	}
}

func (v Value) appendJSON(dst []byte) ([]byte, error) { return AppendStringify(dst, v), nil }
