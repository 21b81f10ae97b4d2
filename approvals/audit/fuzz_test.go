package audit

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// sample is an export of n rows.
func sample(tb testing.TB, n int) []byte {
	tb.Helper()
	var out []byte
	var last Mark
	for i := range n {
		row := Row{Seq: uint64(i) + 1, Prev: last.Hash, Record: []byte("\x01{\"kind\":\"use\",\"subject\":\"a\\u00e9\"}")}
		row.Hash = Link(row.Seq, row.Prev, row.Record)
		last = Mark{Seq: row.Seq, Hash: row.Hash}
		var err error
		if out, err = AppendRow(out, row); err != nil {
			tb.Fatal(err)
		}
	}
	return AppendEnd(out, uint64(n), last)
}

// FuzzVerify gives the reader any bytes. It never panics; a row that it takes is written back as the same
// bytes, and an export that holds has a chain that was linked from its first row to its last.
func FuzzVerify(f *testing.F) {
	whole := sample(f, 3)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add(bytes.Replace(whole, []byte(`"use"`), []byte(`"lie"`), 1))
	f.Add([]byte("{\"rows\":0,\"head\":\"0:" + strings.Repeat("0", 64) + "\"}\n"))
	f.Add([]byte("{}\n"))
	f.Add([]byte(`{"seq":18446744073709551615,"prev":"` + strings.Repeat("f", 64) + `","hash":"` + strings.Repeat("0", 64) + "\",\"v\":1,\"row\":{}}\n"))
	f.Add([]byte(`{"seq":1,"prev":"` + strings.Repeat("0", 64) + `","hash":"` + strings.Repeat("0", 64) + "\",\"v\":1,\"row\":{\"kind\":\"checkpoint\",\"checkpoint\":{\"seq\":0,\"count\":9}}}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		report, err := Verify(bytes.NewReader(text))
		if err != nil {
			if _, ok := errors.AsType[*LineError](err); !ok {
				t.Fatal(err)
			}
			return
		}
		r := NewReader(bytes.NewReader(text))
		var again []byte
		var prev *Hash
		for {
			row, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if report.OK() {
				if row.Hash != Link(row.Seq, row.Prev, row.Record) || prev != nil && *prev != row.Prev {
					t.Fatalf("row %d holds and is not linked", row.Seq)
				}
			}
			prev = &row.Hash
			if again, err = AppendRow(again, row); err != nil {
				t.Fatal(err)
			}
		}
		if r.end != nil {
			again = AppendEnd(again, r.seen, *r.end)
		}
		if !bytes.Equal(again, text) {
			t.Fatalf("written back:\n%q\nread:\n%q", again, text)
		}
	})
}

// TestLongLine: a line that is longer than a row can be is refused, and not kept.
func TestLongLine(t *testing.T) {
	_, err := Verify(io.LimitReader(zeros{}, maxLine*4))
	if e, ok := errors.AsType[*LineError](err); !ok || e.Line != 1 {
		t.Fatal(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
