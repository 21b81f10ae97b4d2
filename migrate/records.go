package migrate

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"reflect"
	"strings"
	"time"
)

// maxRecords bounds a file of records in bytes.
const maxRecords = 64 << 20

// thing is something with what it is compared by: without what changes by itself, such as when it was used last.
type thing[T any] struct {
	v      T
	steady any
}

func (t thing[T]) MarshalJSON() ([]byte, error) { return json.Marshal(t.steady) }

// things gives each what it is compared by.
func things[T any](in map[string]T, steady func(T) any) map[string]thing[T] {
	out := make(map[string]thing[T], len(in))
	for name, v := range in {
		out[name] = thing[T]{v, steady(v)}
	}
	return out
}

func plainOf[T any](in []thing[T]) []T {
	out := make([]T, len(in))
	for i, t := range in {
		out[i] = t.v
	}
	return out
}

// object reads a file of the source that is a JSON object: its members, and whether it is there and whole.
func (r *run) object(part, name string) (out map[string]json.RawMessage, ok bool) {
	text, err := readFile(r.source, name, maxRecords)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	if err != nil {
		r.found(Finding{Part: part, Path: name, Outcome: Fault, Why: whyNot(err)})
		return nil, false
	}
	if err := json.Unmarshal(bytes.TrimPrefix(text, []byte("\ufeff")), &out); err != nil {
		r.found(Finding{Part: part, Path: name, Outcome: Fault, Why: notJSON(err).Error()})
		return nil, false
	}
	return out, true
}

// decodeRecord reads one record, and keeps for the way back what hanzod does not know of it.
func decodeRecord[T any](r *run, part, file, name string, raw json.RawMessage) (out T, ok bool) {
	path := file + " " + shown(name)
	var all map[string]json.RawMessage
	err := json.Unmarshal(raw, &out)
	if err == nil {
		err = json.Unmarshal(raw, &all)
	}
	if err != nil {
		r.found(Finding{Part: part, Path: path, Outcome: Fault, Why: notJSON(err).Error()})
		return out, false
	}
	known := reflect.TypeOf(out)
	for f := range known.Fields() {
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		delete(all, key)
	}
	var rest json.RawMessage
	if len(all) > 0 {
		rest, _ = json.Marshal(all) // it was read as JSON
		r.found(Finding{Part: part, Path: path, Outcome: Left, Why: "members that hanzod has no use for; an export brings them back"})
	}
	r.rest(part, name, rest)
	return out, true
}

// withRest is a record with what hanzod does not know of it.
func (r *run) withRest(part, name string, v any) (any, error) {
	rest := r.imported.Rest[part][name]
	if len(rest) == 0 {
		return v, nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	own, all := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if err := errors.Join(json.Unmarshal(rest, &all), json.Unmarshal(text, &own)); err != nil {
		return nil, err
	}
	maps.Copy(all, own)
	return all, nil
}

// writeJSON writes a file as the original does: two blanks, no line at the end.
func (r *run) writeJSON(part, name string, v any, count int) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return err
	}
	return r.writeFile(part, name, bytes.TrimRight(b.Bytes(), "\n"), count)
}

// writeFile writes an exported file, unless somebody wrote to it since the last export.
func (r *run) writeFile(part, name string, text []byte, count int) error {
	sum, have, err := sumOf(text), "", error(nil)
	if r.target != nil {
		have, err = r.sumThere(name)
	}
	if err != nil {
		return err
	}
	f := Finding{Part: part, Path: name, Outcome: Imported, Count: count}
	switch {
	case have == sum:
		f.Outcome = Unchanged
		r.note(part, name, sum)
	case have != "" && have != r.noted(part, name):
		f.Outcome, f.Count, f.Why = Kept, 1, "it was written to since the last export; export to a new directory"
	case !r.DryRun:
		if err := r.write(name, text); err != nil {
			return err
		}
		r.note(part, name, sum)
	}
	r.found(f)
	return nil
}

// bringFile writes a small file to the state directory: one that was changed here since the last time stays, and one
// that was here before the first import, unless own says that nobody but hanzod itself wrote it.
func (r *run) bringFile(part, from, to string, text []byte, own func([]byte) bool) error {
	here := map[string]string{}
	if r.target != nil {
		have, err := readFile(r.target, to, maxRecords)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return cannotWrite(to, err)
		case r.noted(part, to) != "" || r.last.Pending[part][to] != "" || !own(have):
			here[to] = sumOf(have)
		}
	}
	want := map[string]string{to: sumOf(text)}
	p, err := r.follow(part, want, here, false)
	if err != nil {
		return err
	}
	if len(p.put) > 0 && !r.DryRun {
		if err := r.write(to, text); err != nil {
			return err
		}
	}
	r.wrote(part, p, want, here, int64(len(text)))
	return nil
}

// sumThere is the hash of a small file of the target, "" where there is none.
func (r *run) sumThere(name string) (string, error) {
	text, err := readFile(r.target, name, maxRecords)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", cannotWrite(name, err)
	}
	return sumOf(text), nil
}

// milliseconds and moment are the times of the original: milliseconds since 1970, none for 0.
func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func moment(ms int64) time.Time {
	if ms <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
