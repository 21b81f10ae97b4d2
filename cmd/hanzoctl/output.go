package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf16"

	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

var formats = []string{"table", "json", "yaml", "jsonl"}

// list is an answer of several things.
type list struct {
	whole proto.Message // the answer as JSON and YAML print it
	items []proto.Message
	ids   []string
	head  string // columns, separated by tabs
	row   func(i int) string
	none  string // what to say of an empty list
}

// printList prints a list in the chosen format.
func (a *app) printList(l list) error {
	if a.quiet {
		return a.printIDs(l.ids)
	}
	switch a.output {
	case "jsonl":
		for _, m := range l.items {
			if err := a.printValue(m); err != nil {
				return err
			}
		}
		return nil
	case "table":
		if len(l.items) == 0 {
			_, err := fmt.Fprintln(a.stderr, l.none)
			return err
		}
		rows := []string{l.head}
		for i := range l.items {
			rows = append(rows, l.row(i))
		}
		return a.printTable(rows)
	}
	return a.printValue(l.whole)
}

// printOne prints one thing in the chosen format; as a table it is the given rows.
func (a *app) printOne(v any, id string, rows ...string) error {
	if a.quiet && id != "" {
		return a.printIDs([]string{id})
	}
	if a.output == "table" {
		return a.printTable(rows)
	}
	return a.printValue(v)
}

// printItem prints one thing of a watch, on one line where the format has lines.
func (a *app) printItem(v any, id, line string) error {
	if a.quiet {
		return a.printIDs([]string{id})
	}
	switch a.output {
	case "table":
		_, err := fmt.Fprintln(a.stdout, line)
		return err
	case "yaml":
		if _, err := fmt.Fprintln(a.stdout, "---"); err != nil {
			return err
		}
		return a.printValue(v)
	}
	b, err := encode(v, "jsonl")
	if err != nil {
		return err
	}
	_, err = a.stdout.Write(b)
	return err
}

func (a *app) printIDs(ids []string) error {
	for _, id := range ids {
		if _, err := fmt.Fprintln(a.stdout, Text(id)); err != nil {
			return err
		}
	}
	return nil
}

// printTable prints rows whose cells are separated by tabs. Cells are made safe by their callers.
func (a *app) printTable(rows []string) error {
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	for _, r := range rows {
		if _, err := io.WriteString(w, r+"\n"); err != nil {
			return err
		}
	}
	return w.Flush()
}

// printValue prints a message, or a value with JSON tags, as JSON or YAML; as a table it is JSON.
func (a *app) printValue(v any) error {
	b, err := encode(v, a.output)
	if err != nil {
		return err
	}
	_, err = a.stdout.Write(b)
	return err
}

// encode writes a value. Field names are the JSON names of the protocol.
func encode(v any, format string) ([]byte, error) {
	b, err := toJSON(v)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	switch format {
	case "jsonl":
		err = json.Compact(&out, b)
	case "yaml":
		return toYAML(b)
	default:
		err = json.Indent(&out, b, "", "  ")
	}
	if err != nil {
		return nil, err
	}
	return append(safeJSON(out.Bytes()), '\n'), nil
}

func toJSON(v any) ([]byte, error) {
	switch v := v.(type) {
	case json.RawMessage:
		return v, nil
	case proto.Message:
		return protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(v)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}

// safeJSON writes what a terminal must not see as \u escapes. JSON has such characters inside
// strings only.
func safeJSON(b []byte) []byte {
	var out bytes.Buffer
	for _, r := range string(b) {
		switch {
		case r < 0x80 && r != 0x7f, visible(r):
			out.WriteRune(r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&out, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.Bytes()
}

// toYAML writes JSON as YAML. Where text holds what a terminal must not see, the answer is the JSON
// with escapes, which is YAML as well.
func toYAML(b []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := ordered(d)
	if err != nil {
		return nil, err
	}
	out, err := yaml.Marshal(v)
	if err != nil {
		return nil, err
	}
	for _, r := range string(out) {
		if !visible(r) && r != '\n' {
			return encode(json.RawMessage(b), "json")
		}
	}
	return out, nil
}

// ordered reads one JSON value and keeps the order of its names.
func ordered(d *json.Decoder) (any, error) {
	tok, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch tok := tok.(type) {
	case json.Delim:
		obj, list := yaml.MapSlice{}, []any{}
		for d.More() {
			var key json.Token
			if tok == '{' {
				if key, err = d.Token(); err != nil {
					return nil, err
				}
			}
			v, err := ordered(d)
			if err != nil {
				return nil, err
			}
			obj, list = append(obj, yaml.MapItem{Key: key, Value: v}), append(list, v)
		}
		if _, err := d.Token(); err != nil {
			return nil, err
		}
		if tok == '{' {
			return obj, nil
		}
		return list, nil
	case json.Number:
		if n, err := tok.Int64(); err == nil {
			return n, nil
		}
		return tok.Float64()
	}
	return tok, nil
}

// cells joins the cells of a row, each made safe for the terminal.
func cells(in ...string) string {
	for i, s := range in {
		in[i] = Text(s)
		if in[i] == "" {
			in[i] = "-"
		}
	}
	return strings.Join(in, "\t")
}

// span is a length of time for people.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// shortID is enough of a node's id to tell nodes apart in a table; it names the node.
func shortID(id string) string {
	const n = 12
	if len(id) <= n {
		return id
	}
	return id[:n]
}
