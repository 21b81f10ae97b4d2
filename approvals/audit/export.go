package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// maxLine bounds a line of an export. A record has a dozen texts of 64 KiB at the most, and a byte may
// take six in JSON.
const maxLine = 8 << 20

// An export is JSON lines. Each row is
//
//	{"seq":7,"prev":"HASH","hash":"HASH","v":1,"row":{…}}
//
// where v and row are the record, byte by byte as it is stored, and the last line is
//
//	{"rows":7,"head":"SEQ:HASH"}
//
// Lines are written in this one way: a reader that finds another refuses the line, so that no two
// programs see different things in one file.

// AppendRow appends a row as a line of an export.
func AppendRow(b []byte, row Row) ([]byte, error) {
	if len(row.Record) < 2 || row.Record[1] != '{' || bytes.ContainsAny(row.Record[1:], "\r\n") {
		return nil, fmt.Errorf("row %d cannot be exported: its record is not one line of JSON", row.Seq)
	}
	b = append(b, `{"seq":`...)
	b = strconv.AppendUint(b, row.Seq, 10)
	b = append(append(b, `,"prev":"`...), row.Prev.String()...)
	b = append(append(b, `","hash":"`...), row.Hash.String()...)
	b = append(b, `","v":`...)
	b = strconv.AppendUint(b, uint64(row.Record[0]), 10)
	b = append(append(b, `,"row":`...), row.Record[1:]...)
	return append(b, '}', '\n'), nil
}

// AppendEnd appends the last line of an export.
func AppendEnd(b []byte, rows uint64, head Mark) []byte {
	b = append(b, `{"rows":`...)
	b = strconv.AppendUint(b, rows, 10)
	b = append(append(b, `,"head":"`...), head.String()...)
	return append(b, '"', '}', '\n')
}

// LineError is a line of an export that cannot be read.
type LineError struct {
	Line int
	Why  string
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Why) }

// errLine is the answer to a line that is longer than any that is written.
var errLine = errors.New("longer than a row can be")

// Reader reads an export line by line.
type Reader struct {
	r    *bufio.Reader
	line int
	rows uint64
	end  *Mark
	seen uint64 // rows that the last line counts
	buf  []byte
}

// NewReader reads an export.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReaderSize(r, 64<<10)} }

// Next returns the next row, io.EOF after the last.
func (r *Reader) Next() (Row, error) {
	text, err := r.next()
	if err != nil {
		return Row{}, err
	}
	r.line++
	if r.end != nil {
		return Row{}, &LineError{r.line, "comes after the line that ends the export"}
	}
	if bytes.HasPrefix(text, []byte(`{"rows":`)) {
		return Row{}, r.last(text)
	}
	var in struct {
		Seq  uint64          `json:"seq"`
		Prev string          `json:"prev"`
		Hash string          `json:"hash"`
		V    byte            `json:"v"`
		Row  json.RawMessage `json:"row"`
	}
	if json.Unmarshal(text, &in) != nil {
		return Row{}, &LineError{r.line, "is no JSON of an exported row"}
	}
	row := Row{Seq: in.Seq, Record: append([]byte{in.V}, in.Row...)}
	if row.Prev, err = ParseHash(in.Prev); err == nil {
		row.Hash, err = ParseHash(in.Hash)
	}
	if err != nil {
		return Row{}, &LineError{r.line, err.Error()}
	}
	again, err := AppendRow(make([]byte, 0, len(text)+1), row)
	if err != nil || !bytes.Equal(again[:len(again)-1], text) {
		return Row{}, &LineError{r.line, "is not written as an export writes a row"}
	}
	r.rows++
	return row, nil
}

// last reads the last line and then goes on to the end of the file.
func (r *Reader) last(text []byte) error {
	var in struct {
		Rows uint64 `json:"rows"`
		Head string `json:"head"`
	}
	if json.Unmarshal(text, &in) != nil {
		return &LineError{r.line, "is no JSON of the end of an export"}
	}
	head, err := ParseMark(in.Head)
	if err != nil {
		return &LineError{r.line, err.Error()}
	}
	if again := AppendEnd(nil, in.Rows, head); !bytes.Equal(again[:len(again)-1], text) {
		return &LineError{r.line, "is not written as an export writes its end"}
	}
	r.end, r.seen = &head, in.Rows
	_, err = r.Next()
	return err
}

// next returns the next line without its end.
func (r *Reader) next() ([]byte, error) {
	r.buf = r.buf[:0]
	for {
		part, err := r.r.ReadSlice('\n')
		if len(r.buf)+len(part) > maxLine {
			return nil, &LineError{r.line + 1, errLine.Error()}
		}
		r.buf = append(r.buf, part...)
		switch {
		case err == nil:
			return r.buf[:len(r.buf)-1], nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(r.buf) > 0:
			return nil, &LineError{r.line + 1, "is cut off"}
		default:
			return nil, err
		}
	}
}

// Verify reads a whole export and says whether it is a piece of one chain, and whole. The error is that
// of reading; what is wrong with the rows is in the report.
func Verify(in io.Reader, marks ...Mark) (Report, error) {
	r := NewReader(in)
	v := NewVerifier(marks...)
	for {
		row, err := r.Next()
		switch {
		case err == nil:
			v.Add(row)
			continue
		case !errors.Is(err, io.EOF):
			return v.Report(nil), err
		}
		switch {
		case r.end == nil:
			v.fault(v.last.Seq, Truncated, "the export has no end: it was cut off after row %d", v.last.Seq)
		case r.seen != r.rows:
			v.fault(v.last.Seq, Missing, "the export has %d rows and counts %d", r.rows, r.seen)
		case r.rows == 0:
			v.From(*r.end, false)
		}
		return v.Report(r.end), nil
	}
}
