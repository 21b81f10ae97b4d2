package migrate

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxIndex bounds sessions.json, in bytes: the original writes it anew with each message and rotates it at 10 MB.
const maxIndex = 1 << 30

// boundedReader ends a value that takes more than what is left, so that none fills the memory.
type boundedReader struct {
	r    io.Reader
	left int64
}

var errEntrySize = errors.New("an entry is too large")

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errEntrySize
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// readIndex reads a sessions.json one entry at a time and hands each over as it is written. Of a file that is cut off
// or broken, or has an entry of more than so many bytes, it hands over what comes before, and returns an error. An
// error of each ends it.
func readIndex(r io.Reader, most int64, each func(key string, entry json.RawMessage) error) error {
	b := &boundedReader{bufio.NewReaderSize(r, 256<<10), most}
	d := json.NewDecoder(b)
	t, err := d.Token()
	if errors.Is(err, io.EOF) {
		return errors.New("it is empty")
	}
	if err != nil {
		return notJSON(err)
	}
	if t != json.Delim('{') {
		return errNoObject
	}
	for d.More() {
		b.left = most
		t, err := d.Token()
		if err != nil {
			return notJSON(err)
		}
		key, ok := t.(string)
		if !ok {
			return errNoObject
		}
		var entry json.RawMessage
		if err := d.Decode(&entry); err != nil {
			return notJSON(err)
		}
		if err := each(key, entry); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return notJSON(err)
	}
	return nil
}

// notJSON words an error without text of the file.
func notJSON(err error) error {
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("it is not whole: no JSON from byte %d on", syntax.Offset)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("it is not whole: it ends too early")
	}
	return err
}

// indexWriter writes a sessions.json as the original does, with two spaces.
type indexWriter struct {
	w   *bufio.Writer
	n   int
	buf bytes.Buffer
}

func newIndexWriter(w io.Writer) *indexWriter {
	return &indexWriter{w: bufio.NewWriterSize(w, 256<<10)}
}

// add writes an entry; errors show in close.
func (w *indexWriter) add(key string, entry json.RawMessage) error {
	lead := "{\n  "
	if w.n > 0 {
		lead = ",\n  "
	}
	w.n++
	w.buf.Reset()
	w.buf.WriteString(lead)
	w.buf.Write(writeText(key))
	w.buf.WriteString(": ")
	if err := json.Indent(&w.buf, entry, "  ", "  "); err != nil {
		return err
	}
	_, err := w.w.Write(w.buf.Bytes())
	return err
}

// close writes what is left.
func (w *indexWriter) close() error {
	end := "\n}"
	if w.n == 0 {
		end = "{}"
	}
	if _, err := w.w.WriteString(end); err != nil {
		return err
	}
	return w.w.Flush()
}
