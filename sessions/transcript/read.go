package transcript

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Line is one line of a file.
type Line struct {
	// Offset is where the line begins, in bytes.
	Offset int64
	// Size is its length without the line break, in bytes.
	Size int64
	// Data is the line without its line break, valid until the next line is read. Of a line beyond MaxLine it is
	// the first MaxPrefix bytes.
	Data []byte
	// Oversized says that Data is not the whole line.
	Oversized bool
	// Torn says that no line break follows: the file ends here.
	Torn bool
}

// Blank reports whether there is nothing but white space.
func (l Line) Blank() bool { return !l.Oversized && len(bytes.TrimSpace(l.Data)) == 0 }

// Scanner reads the lines of a transcript from front to back. It holds at most one line.
type Scanner struct {
	r    *bufio.Reader
	buf  []byte
	line Line
	next int64
	err  error
}

// NewScanner reads r from where it stands, which is where offset says it is in its file.
func NewScanner(r io.Reader, offset int64) *Scanner {
	return &Scanner{r: bufio.NewReaderSize(r, firstChunk), next: offset}
}

// Next goes to the next line, and returns false at the end and after an error.
func (s *Scanner) Next() bool {
	if s.err != nil {
		return false
	}
	s.buf = s.buf[:0]
	s.line = Line{Offset: s.next}
	for {
		part, err := s.r.ReadSlice('\n')
		s.next += int64(len(part))
		s.line.Size += int64(len(part))
		ended := err == nil
		if ended {
			part = part[:len(part)-1]
			s.line.Size--
		}
		switch {
		case s.line.Oversized:
		case len(s.buf)+len(part) > MaxLine:
			s.line.Oversized = true
			s.buf = append(s.buf, part[:min(len(part), MaxPrefix)]...)
			s.buf = append([]byte(nil), s.buf[:min(len(s.buf), MaxPrefix)]...)
		case ended && len(s.buf) == 0:
			s.line.Data = part // the usual case: no copy
			return true
		default:
			s.buf = append(s.buf, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			s.err = err
			if !errors.Is(err, io.EOF) || s.line.Size == 0 {
				return false
			}
			s.line.Torn = true
		}
		s.line.Data = s.buf
		return true
	}
}

// Line is the line that Next found. Its Data is valid until Next is called again.
func (s *Scanner) Line() Line { return s.line }

// Err is why reading ended, nil at the end of the file.
func (s *Scanner) Err() error {
	if errors.Is(s.err, io.EOF) {
		return nil
	}
	return s.err
}

// Backward calls visit with the lines of the first size bytes of r from the last to the first, until visit returns
// false. It reads no more of the file than that takes. The Data of a line is valid during the call.
func Backward(r io.ReaderAt, size int64, visit func(Line) bool) error {
	var (
		buf   []byte // the bytes [from, to) of the file: what was read and not yet visited
		from  = size
		to    = size
		chunk = int64(firstChunk)
		torn  = true
	)
	if size > 0 {
		var last [1]byte
		if err := readFull(r, last[:], size-1); err != nil {
			return err
		}
		if last[0] == '\n' {
			torn = false
			from, to = size-1, size-1
		}
	}
	emit := func(begin int64, data []byte) bool {
		l := Line{Offset: begin, Size: to - begin, Data: data, Torn: torn}
		if l.Size > MaxLine {
			l.Oversized, l.Data = true, data[:min(len(data), MaxPrefix)]
		}
		torn, chunk = false, firstChunk
		return visit(l)
	}
	for {
		if i := bytes.LastIndexByte(buf, '\n'); i >= 0 {
			begin := from + int64(i) + 1
			if !emit(begin, buf[i+1:]) {
				return nil
			}
			buf, to = buf[:i], begin-1
			continue
		}
		if from == 0 {
			if size > 0 && (to > 0 || !torn) {
				emit(0, buf)
			}
			return nil
		}
		if len(buf) > MaxLine {
			begin, err := lineStart(r, from)
			if err != nil {
				return err
			}
			prefix := make([]byte, MaxPrefix)
			if err := readFull(r, prefix, begin); err != nil {
				return err
			}
			if !emit(begin, prefix) || begin == 0 {
				return nil
			}
			buf, from, to = nil, begin-1, begin-1
			continue
		}
		n := min(chunk, from)
		grown := make([]byte, n+int64(len(buf)))
		if err := readFull(r, grown[:n], from-n); err != nil {
			return err
		}
		copy(grown[n:], buf)
		buf, from = grown, from-n
		chunk = min(chunk*2, lastChunk)
	}
}

// lineStart finds where the line begins that the byte before from belongs to.
func lineStart(r io.ReaderAt, from int64) (int64, error) {
	buf := make([]byte, firstChunk)
	for from > 0 {
		n := min(int64(len(buf)), from)
		if err := readFull(r, buf[:n], from-n); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			return from - n + int64(i) + 1, nil
		}
		from -= n
	}
	return 0, nil
}

func readFull(r io.ReaderAt, buf []byte, at int64) error {
	n, err := r.ReadAt(buf, at)
	if n == len(buf) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(buf), at, err)
}
