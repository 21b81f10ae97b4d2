package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"reflect"
	"time"
	"unicode/utf8"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/errs"
)

// recordVersion is the first byte of every record.
const recordVersion = 1

// maxID bounds the ids that become keys; bbolt takes 32 KiB with the time before it.
const maxID = 1024

// encode makes a record of a struct. It refuses text that JSON would change: what is read later
// has to be what was approved.
func encode(rec any) ([]byte, error) {
	if !validText(reflect.ValueOf(rec)) {
		return nil, ErrText
	}
	var b bytes.Buffer
	b.WriteByte(recordVersion)
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(rec); err != nil {
		return nil, errs.Wrap(errs.Internal, "encoding a record", err)
	}
	return b.Bytes()[:b.Len()-1], nil // without the line feed
}

// decode reads a record. Its error names the bucket and the key, never what is in the record.
func decode(bucket, key, value []byte, rec any) error {
	switch {
	case len(value) == 0:
		return recordError(bucket, key, "it is empty")
	case value[0] == 0 || value[0] > recordVersion:
		return recordError(bucket, key, fmt.Sprintf("its version is %d; this hanzod knows %d", value[0], recordVersion))
	}
	if err := json.Unmarshal(value[1:], rec); err != nil {
		return recordError(bucket, key, "it is not in the format of its version")
	}
	return nil
}

func recordError(bucket, key []byte, why string) *errs.Error {
	name := printable(key)
	e := ErrRecord.With("bucket", string(bucket), "key", name)
	return e.WithText(fmt.Sprintf("the record %s in %s cannot be read: %s; restore a backup", name, bucket, why))
}

// printable shows a key: text as text, anything else in hex.
func printable(key []byte) string {
	for _, c := range key {
		if c < 0x20 || c > 0x7e {
			return fmt.Sprintf("%#x", key)
		}
	}
	return fmt.Sprintf("%q", key)
}

// validText reports whether all text below v is valid UTF-8.
func validText(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.String:
		return utf8.ValidString(v.String())
	case reflect.Pointer, reflect.Interface:
		return v.IsNil() || validText(v.Elem())
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return true
		}
		for i := range v.Len() {
			if !validText(v.Index(i)) {
				return false
			}
		}
	case reflect.Map:
		for k, e := range v.Seq2() {
			if !validText(k) || !validText(e) {
				return false
			}
		}
	case reflect.Struct:
		if v.Type() == timeType {
			return true
		}
		for _, field := range v.Fields() {
			if !validText(field) {
				return false
			}
		}
	}
	return true
}

var timeType = reflect.TypeFor[time.Time]()

// keyOf makes a key of an id.
func keyOf(id string) ([]byte, error) {
	if id == "" || len(id) > maxID {
		return nil, ErrKey
	}
	if !utf8.ValidString(id) {
		return nil, ErrText
	}
	return []byte(id), nil
}

// nanos is the time in a key. Times before 1970 count as 1970.
func nanos(t time.Time) []byte {
	var n uint64
	if !t.Before(time.Unix(0, 0)) {
		n = uint64(t.UnixNano())
	}
	return binary.BigEndian.AppendUint64(nil, n)
}

// timeKey is the key of a record in order of time, from the time and the id.
func timeKey(at, id []byte) []byte { return append(bytes.Clone(at), id...) }

// idIn is the id in a key in order of time.
func idIn(key []byte) []byte {
	if len(key) < 8 {
		return nil
	}
	return key[8:]
}

func seqKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// utc drops what a record does not keep of a time: the zone and the monotonic clock.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Round(0)
}

// view runs a read. It is short: a long one keeps old pages alive and delays the growing of the
// file.
func (s *Store) view(fn func(*bolt.Tx) error) error { return closedErr(s.db.View(fn)) }
