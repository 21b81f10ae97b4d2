package bindings

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/tunnel/wire"
)

// maxResponseHead bounds the heads of a response in bytes.
const maxResponseHead = 1 << 20

// line is a raw stream that carries one request after the other, without goroutines of its own. Requests with a body
// and upgrades, whose two directions go on at the same time, take http.Transport.
type line struct {
	st    *held
	r     *bufio.Reader
	left  int64 // bytes that may still be read before a head is complete
	got   bool  // bytes of a response came
	since time.Time
}

// Read implements io.Reader for r.
func (l *line) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errHead
	}
	if int64(len(p)) > l.left {
		p = p[:l.left]
	}
	n, err := l.st.Stream.Read(p)
	l.left -= int64(n)
	l.got = l.got || n > 0
	return n, err
}

func (l *line) abort() {
	_ = l.st.Reset(wire.CodeCancel, "")
	_ = l.st.Close() // it is over
}

// quick sends a request without a body. One that finds its stream ended, before any byte of a response, has another
// one: the target has closed a connection that it no longer wanted to keep.
func (b *bound) quick(r *http.Request) (*http.Response, error) {
	for {
		l, reused, err := b.line(r.Context())
		if err != nil {
			return nil, err
		}
		res, err := b.ask(l, r)
		if err == nil && reused && res.StatusCode == http.StatusRequestTimeout && res.Close {
			_ = res.Body.Close() // the target said so before it had this request
			continue
		}
		if err == nil {
			return res, nil
		}
		l.abort()
		if !reused || l.got || r.Context().Err() != nil || b.parked.Load() {
			return nil, err
		}
	}
}

// line takes the stream that was used last, or opens one.
func (b *bound) line(ctx context.Context) (l *line, reused bool, err error) {
	b.mu.Lock()
	if n := len(b.lines); n > 0 {
		l, b.lines[n-1] = b.lines[n-1], nil
		b.lines = b.lines[:n-1]
	}
	b.mu.Unlock()
	if l != nil {
		l.got = false
		return l, true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	st, err := b.open(ctx, OpenIn{Kind: KindTCP})
	if err != nil {
		return nil, false, err
	}
	l = &line{st: st}
	l.r = bufio.NewReader(l)
	return l, false, nil
}

// keep puts a stream aside for the next request.
func (b *bound) keep(l *line) {
	l.since = time.Now()
	b.mu.Lock()
	if b.ended || b.parked.Load() || len(b.lines) >= maxIdle {
		b.mu.Unlock()
		_ = l.st.Close() // all is said
		return
	}
	b.lines = append(b.lines, l)
	if b.reaper == nil {
		b.reaper = time.AfterFunc(idleStream, b.reap)
	}
	b.mu.Unlock()
}

// reap closes the streams that nobody has used for long.
func (b *bound) reap() {
	before := time.Now().Add(-idleStream)
	b.mu.Lock()
	n := 0
	for n < len(b.lines) && !b.lines[n].since.After(before) { // those used last are at the end
		n++
	}
	old := slices.Clone(b.lines[:n])
	b.lines = slices.Delete(b.lines, 0, n)
	b.reaper = nil
	if len(b.lines) > 0 {
		b.reaper = time.AfterFunc(time.Until(b.lines[0].since.Add(idleStream))+time.Millisecond, b.reap)
	}
	b.mu.Unlock()
	for _, l := range old {
		_ = l.st.Close() // all is said
	}
}

// requests are for the heads of requests.
var requests = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// ask sends a request and waits for its head.
func (b *bound) ask(l *line, r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	l.left = maxResponseHead
	stop := context.AfterFunc(ctx, func() { _ = l.st.Reset(wire.CodeCancel, "the visitor has gone") })
	buf := requests.Get().(*bytes.Buffer)
	buf.Reset()
	err := r.Write(buf)
	if err == nil {
		_, err = l.st.Stream.Write(buf.Bytes())
	}
	requests.Put(buf)
	var res *http.Response
	if err == nil {
		res, err = l.answer(ctx, r)
	}
	if err != nil {
		stop()
		return nil, err
	}
	l.left = math.MaxInt64
	body := &answerBody{ReadCloser: res.Body, b: b, l: l, stop: stop, again: !res.Close}
	if res.Body == http.NoBody {
		body.end()
		return res, nil
	}
	res.Body = body
	return res, nil
}

// answer reads the head of a response, behind informational ones.
func (l *line) answer(ctx context.Context, r *http.Request) (*http.Response, error) {
	for range maxHeads {
		res, err := http.ReadResponse(l.r, r)
		switch {
		case err != nil:
			return nil, err
		case res.StatusCode >= 200:
			return res, nil
		case res.StatusCode < 100 || res.StatusCode == http.StatusSwitchingProtocols:
			return nil, errHead
		}
		if t := httptrace.ContextClientTrace(ctx); t != nil && t.Got1xxResponse != nil && res.StatusCode != http.StatusContinue {
			if err := t.Got1xxResponse(res.StatusCode, textproto.MIMEHeader(res.Header)); err != nil {
				return nil, err
			}
		}
	}
	return nil, errHead
}

// answerBody gives its stream back when it has been read.
type answerBody struct {
	io.ReadCloser
	b     *bound
	l     *line
	stop  func() bool
	again bool // the target takes another request
	over  bool
}

func (a *answerBody) Read(p []byte) (int, error) {
	if a.over {
		return 0, io.EOF
	}
	n, err := a.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		a.end()
	}
	return n, err
}

func (a *answerBody) Close() error {
	if !a.over {
		a.over = true
		a.stop()
		a.l.abort()
	}
	return nil
}

// end is after the last byte of the response.
func (a *answerBody) end() {
	if a.over {
		return
	}
	a.over = true
	if a.stop() && a.again && a.l.r.Buffered() == 0 {
		a.b.keep(a.l)
		return
	}
	_ = a.l.st.Close() // all is said
}
