package wire

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// maxInt is the largest magnitude at which a double still holds every integer.
const maxInt = 1 << 53

// Opt is a field that may be absent, null or hold a value. Tag it `json:"name,omitzero"`: the zero Opt is absent and
// is left out.
type Opt[T any] struct {
	state optState
	value T
}

type optState uint8

const (
	optAbsent optState = iota
	optNull
	optSome
)

// Some is a present value.
func Some[T any](v T) Opt[T] { return Opt[T]{optSome, v} }

// NullOf is a present null.
func NullOf[T any]() Opt[T] { return Opt[T]{state: optNull} }

// SomeOrNull is the value v points to, or null when v is nil: for fields that are always written.
func SomeOrNull[T any](v *T) Opt[T] {
	if v == nil {
		return NullOf[T]()
	}
	return Some(*v)
}

// NonZero is v, or absent when v is the zero value of its type.
func NonZero[T comparable](v T) Opt[T] {
	var zero T
	if v == zero {
		return Opt[T]{}
	}
	return Some(v)
}

// Get returns the value and whether there is one; absent and null both give the zero value and false.
func (o Opt[T]) Get() (T, bool) { return o.value, o.state == optSome }

// Or returns the value, or d when absent or null.
func (o Opt[T]) Or(d T) T {
	if o.state == optSome {
		return o.value
	}
	return d
}

// IsZero reports whether the field is absent; encoding/json asks it for omitzero.
func (o Opt[T]) IsZero() bool { return o.state == optAbsent }

// IsNull reports whether the field is present and null.
func (o Opt[T]) IsNull() bool { return o.state == optNull }

// MarshalJSON writes the value, or null.
func (o Opt[T]) MarshalJSON() ([]byte, error) {
	return o.appendJSON(nil)
}

// UnmarshalJSON reads null or a value.
func (o *Opt[T]) UnmarshalJSON(data []byte) error { return unmarshal(data, o) }

func (o *Opt[T]) decodeValue(v Value) error {
	*o = Opt[T]{}
	if v.IsNull() {
		o.state = optNull
		return nil
	}
	if err := Decode(v, &o.value); err != nil {
		return err
	}
	o.state = optSome
	return nil
}

// Int is an integer of the dialect: it reads 1, 1.0 and 1e3, refuses 1.5, strings and anything beyond ±2^53, and
// writes digits.
type Int int64

// MarshalJSON writes digits.
func (n Int) MarshalJSON() ([]byte, error) { return strconv.AppendInt(nil, int64(n), 10), nil }

// UnmarshalJSON reads a whole number.
func (n *Int) UnmarshalJSON(data []byte) error { return unmarshal(data, n) }

func (n *Int) decodeValue(v Value) error {
	i, ok := v.Int()
	if !ok {
		return wrongKind("an integer", v)
	}
	*n = Int(i)
	return nil
}

// Millis is a time written as integer milliseconds since the epoch. The zero time is absent under omitzero.
type Millis struct{ time.Time }

// MillisOf is t as Millis.
func MillisOf(t time.Time) Millis { return Millis{t} }

// MarshalJSON writes digits.
func (m Millis) MarshalJSON() ([]byte, error) { return strconv.AppendInt(nil, m.UnixMilli(), 10), nil }

// UnmarshalJSON reads a whole number of milliseconds; the time is in UTC.
func (m *Millis) UnmarshalJSON(data []byte) error { return unmarshal(data, m) }

func (m *Millis) decodeValue(v Value) error {
	i, ok := v.Int()
	if !ok {
		return wrongKind("integer milliseconds", v)
	}
	m.Time = time.UnixMilli(i).UTC()
	return nil
}

// Raw is a JSON value kept as it came. Empty means absent under omitzero and is null when written anyway.
type Raw []byte

// IsZero reports whether there is no value.
func (r Raw) IsZero() bool { return len(r) == 0 }

// MarshalJSON returns the bytes.
func (r Raw) MarshalJSON() ([]byte, error) {
	if len(r) == 0 {
		return []byte("null"), nil
	}
	return r, nil
}

// UnmarshalJSON keeps a copy of data.
func (r *Raw) UnmarshalJSON(data []byte) error {
	*r = append((*r)[:0:0], data...)
	return nil
}

func (r *Raw) decodeValue(v Value) error {
	*r = Raw(v.Raw())
	return nil
}

// List is a slice that writes [] when nil. Use it where the dialect always sends an array; a plain nil slice writes
// null, or nothing with omitempty.
type List[T any] []T

// MarshalJSON writes an array.
func (l List[T]) MarshalJSON() ([]byte, error) {
	return l.appendJSON(nil)
}

func wrongKind(want string, v Value) error {
	if v.Kind() == Number {
		raw := v.Raw()
		return fmt.Errorf("want %s, got %s", want, raw[:min(len(raw), 32)])
	}
	return errors.New("want " + want + ", got " + v.Kind().String())
}

func unmarshal(data []byte, dst valueDecoder) error {
	v, err := Parse(data)
	if err != nil {
		return err
	}
	return dst.decodeValue(v)
}
