// Package asciicast writes and reads recordings of terminals in the format asciicast v2: a line of JSON that
// describes the recording, and one for each event.
//
// It imports the standard library alone and owns no goroutine.
package asciicast

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Header describes a recording.
type Header struct {
	Version   int               `json:"version"`
	Width     int               `json:"width"`
	Height    int               `json:"height"`
	Timestamp int64             `json:"timestamp,omitempty"` // seconds
	Command   string            `json:"command,omitempty"`
	Title     string            `json:"title,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
}

// The kinds of events that are written; readers are to pass over others.
const (
	Output = "o"
	Input  = "i"
	Resize = "r" // the data is COLUMNSxROWS
	Marker = "m"
)

// Event is one line of a recording.
type Event struct {
	At   time.Duration // since the beginning
	Kind string
	Data string
}

// maxLine bounds a line of a recording that is read.
const maxLine = 4 << 20

// Writer writes a recording. Its methods may be called concurrently. The first error stays.
type Writer struct {
	mu   sync.Mutex
	w    *bufio.Writer
	now  func() time.Time
	from time.Time
	last time.Duration
	held []byte // the beginning of a character
	err  error
}

// NewWriter writes the header; now is the clock.
func NewWriter(w io.Writer, h Header, now func() time.Time) (*Writer, error) {
	h.Version = 2
	out := &Writer{w: bufio.NewWriter(w), now: now, from: now()}
	if h.Timestamp == 0 {
		h.Timestamp = out.from.Unix()
	}
	out.line(h)
	return out, out.Flush()
}

// Output records what the terminal showed. A character that is not whole waits for its rest; what is no text
// becomes U+FFFD, because the format is JSON.
func (w *Writer) Output(p []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := append(w.held, p...)
	n := whole(b)
	if n > 0 {
		w.event(Output, string(bytes.ToValidUTF8(b[:n], []byte("\uFFFD"))))
	}
	w.held = append([]byte(nil), b[n:]...)
	return w.err
}

// Resize records another size, Marker a note.
func (w *Writer) Resize(cols, rows int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.event(Resize, fmt.Sprintf("%dx%d", cols, rows))
	return w.err
}

// Marker records a note.
func (w *Writer) Marker(text string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.event(Marker, text)
	return w.err
}

// Flush hands everything over to the file.
func (w *Writer) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = w.w.Flush()
	}
	return w.err
}

// Close writes what was held and flushes. It does not close the file.
func (w *Writer) Close() error {
	w.mu.Lock()
	if len(w.held) > 0 {
		w.event(Output, "\uFFFD")
		w.held = nil
	}
	w.mu.Unlock()
	return w.Flush()
}

func (w *Writer) event(kind, data string) {
	w.last = max(w.now().Sub(w.from), w.last) // a clock that goes back makes no time before the last
	seconds := json.Number(strconv.FormatFloat(w.last.Seconds(), 'f', 6, 64))
	w.line([]any{seconds, kind, data})
}

func (w *Writer) line(v any) {
	if w.err != nil {
		return
	}
	e := json.NewEncoder(w.w) // which ends the line
	e.SetEscapeHTML(false)
	w.err = e.Encode(v)
}

// whole is how much of b ends with a whole character.
func whole(b []byte) int {
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-i:]) {
				return len(b) - i
			}
			break
		}
	}
	return len(b)
}

// Reader reads a recording.
type Reader struct {
	s    *bufio.Scanner
	line int
}

// ErrFormat says that something is no asciicast v2.
var ErrFormat = errors.New("this is no recording in asciicast v2")

// NewReader reads the header. It fails with ErrFormat.
func NewReader(r io.Reader) (*Reader, Header, error) {
	out := &Reader{s: bufio.NewScanner(r)}
	out.s.Buffer(nil, maxLine)
	var h Header
	text, err := out.next()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = ErrFormat
		}
		return nil, h, err
	}
	if err := json.Unmarshal(text, &h); err != nil || h.Version != 2 || h.Width <= 0 || h.Height <= 0 {
		return nil, h, ErrFormat
	}
	return out, h, nil
}

// Next returns the next event, io.EOF after the last one.
func (r *Reader) Next() (Event, error) {
	text, err := r.next()
	if err != nil {
		return Event{}, err
	}
	var parts []json.RawMessage
	var at float64
	var e Event
	if json.Unmarshal(text, &parts) != nil || len(parts) < 3 || json.Unmarshal(parts[0], &at) != nil || json.Unmarshal(parts[1], &e.Kind) != nil ||
		json.Unmarshal(parts[2], &e.Data) != nil || at < 0 || at > math.MaxInt64/float64(time.Second)/2 {
		return Event{}, fmt.Errorf("line %d: %w", r.line, ErrFormat)
	}
	e.At = time.Duration(at * float64(time.Second))
	return e, nil
}

// next returns the next line that is not empty.
func (r *Reader) next() ([]byte, error) {
	for r.s.Scan() {
		r.line++
		if b := bytes.TrimSpace(r.s.Bytes()); len(b) > 0 {
			return b, nil
		}
	}
	if err := r.s.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", r.line+1, err)
	}
	return nil, io.EOF
}

// Size reads the data of a Resize.
func Size(data string) (cols, rows int, ok bool) {
	c, r, ok := strings.Cut(data, "x")
	cols, err1 := strconv.Atoi(c)
	rows, err2 := strconv.Atoi(r)
	return cols, rows, ok && err1 == nil && err2 == nil && cols > 0 && rows > 0
}
