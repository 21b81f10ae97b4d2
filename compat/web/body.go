package web

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/compat/wire"
)

// budget is a number of bytes that many requests share.
type budget struct {
	mu   sync.Mutex
	free int
}

func (b *budget) take(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.free {
		return false
	}
	b.free -= n
	return true
}

func (b *budget) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
}

// What can be wrong with a body. A text that is no JSON gives a *wire.SyntaxError.
var (
	errTooLarge = errors.New("payload too large")
	errSlow     = errors.New("request body timeout")
	errFull     = errors.New("too many request bodies are being read; try again later")
	errBroken   = errors.New("the request body could not be read")
)

// firstRead is the first piece of memory for a body; usual ones fit.
const firstRead = 2 << 10

// readJSON reads a body of at most limit bytes as a JavaScript server does. What is no object reads
// as an empty one (protocol.md §1.7). done is called when the value is not needed any more.
func (w *Web) readJSON(rw http.ResponseWriter, r *http.Request, limit int64) (v wire.Value, done func(), err error) {
	data, done, err := w.read(rw, r, limit)
	if err != nil {
		return wire.Value{}, done, err
	}
	if data = bytes.TrimFunc(data, isSpace); len(data) == 0 {
		return wire.EmptyObject(), done, nil
	}
	if v, err = wire.Parse(data); err != nil {
		return wire.Value{}, done, err
	}
	if v.Kind() != wire.Object {
		v = wire.EmptyObject()
	}
	return v, done, nil
}

// read returns the body. Its bytes count against the budget until release is called.
func (w *Web) read(rw http.ResponseWriter, r *http.Request, limit int64) (data []byte, release func(), err error) {
	taken := 0
	release = func() { w.bodies.give(taken) }
	switch {
	case r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0:
		return nil, release, nil
	case r.ContentLength > limit:
		return nil, release, errTooLarge
	}
	rc := http.NewResponseController(rw)
	_ = rc.SetReadDeadline(time.Now().Add(w.patience))
	size := int64(firstRead)
	if r.ContentLength > 0 && r.ContentLength < size {
		size = r.ContentLength + 1 // room to see the end
	}
	size = min(size, limit+1)
	if !w.bodies.take(int(size)) {
		return nil, release, errFull
	}
	taken = int(size)
	buf := make([]byte, 0, size)
	for {
		if len(buf) == cap(buf) {
			if int64(len(buf)) > limit {
				return nil, release, errTooLarge
			}
			more := int(min(2*int64(cap(buf)), limit+1)) - cap(buf)
			if !w.bodies.take(more) {
				return nil, release, errFull
			}
			taken += more
			buf = append(make([]byte, 0, cap(buf)+more), buf...)
		}
		n, err := r.Body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case int64(len(buf)) > limit:
			return nil, release, errTooLarge
		case errors.Is(err, io.EOF):
			_ = rc.SetReadDeadline(time.Time{})
			return buf, release, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, release, errSlow
		case err != nil:
			return nil, release, errBroken
		}
	}
}

// trim cuts off what String.prototype.trim of JavaScript does.
func trim(s string) string { return strings.TrimFunc(s, isSpace) }

func isSpace(r rune) bool {
	switch r {
	case '\t', '\n', '\v', '\f', '\r', ' ', 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000, 0xFEFF:
		return true
	}
	return r >= 0x2000 && r <= 0x200A
}
