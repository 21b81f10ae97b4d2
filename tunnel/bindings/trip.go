package bindings

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/hanzoai/hanzod/tunnel/wire"
)

const (
	// maxIdle bounds the streams of a binding that wait for another request, idleStream how long they do.
	maxIdle    = 64
	idleStream = 30 * time.Second
	// maxHeads bounds the heads of one response, maxHeadFields the headers of one and maxHeadBytes their bytes.
	maxHeads      = 8
	maxHeadFields = 500
	maxHeadBytes  = 48 << 10
)

var (
	errHead     = errors.New("the response has a head that cannot be")
	errTooLarge = errors.New("the head of the request is too large for the tunnel")
)

// trip is the way of a request to what is exposed. A request that a takeover has cut off before its response, and
// before any of its body was read, goes to the new owner.
type trip struct{ b *bound }

// RoundTrip implements http.RoundTripper.
func (t trip) RoundTrip(r *http.Request) (*http.Response, error) {
	b := t.b
	var body *untouched
	if r.Body != nil && r.Body != http.NoBody {
		body = &untouched{Reader: r.Body}
		copied := *r
		copied.Body = body
		r = &copied
	}
	for {
		res, err := b.once(r)
		if err == nil {
			return res, nil
		}
		next := b.successor()
		if next == b || body != nil && body.touched.Load() || r.Context().Err() != nil {
			return nil, err
		}
		b = next
		if !b.begun(r.Context()) {
			return nil, err
		}
	}
}

// untouched knows whether a body was read. Its owner closes it.
type untouched struct {
	io.Reader
	touched atomic.Bool
}

func (u *untouched) Read(p []byte) (int, error) {
	u.touched.Store(true)
	return u.Reader.Read(p)
}

func (u *untouched) Close() error { return nil }

func (b *bound) once(r *http.Request) (*http.Response, error) {
	up := b.upstream()
	switch {
	case b.parked.Load():
		return nil, ErrParked
	case up == nil:
		return nil, ErrNoCarrier
	case up.Raw() && r.Body == nil && r.Header.Get("Upgrade") == "" && replayable(r.Method):
		return b.quick(r)
	case up.Raw():
		return b.transport().RoundTrip(r)
	}
	return b.byHead(r)
}

// replayable reports whether a request may be sent again when nothing is known of it.
func replayable(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return false
}

// transport speaks HTTP over raw streams.
func (b *bound) transport() *http.Transport {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.http == nil {
		b.http = &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, openTimeout)
				defer cancel()
				return b.open(ctx, OpenIn{Kind: KindTCP})
			},
			DisableCompression: true, MaxIdleConns: maxIdle, MaxIdleConnsPerHost: maxIdle, IdleConnTimeout: idleStream,
			MaxResponseHeaderBytes: 1 << 20,
		}
	}
	return b.http
}

// idle closes the streams that wait for another request.
func (b *bound) idle() {
	b.mu.Lock()
	t, lines := b.http, b.lines
	b.lines = nil
	if b.reaper != nil {
		b.reaper.Stop()
		b.reaper = nil
	}
	b.mu.Unlock()
	for _, l := range lines {
		_ = l.st.Close() // all is said
	}
	if t != nil {
		t.CloseIdleConnections()
	}
}

// byHead speaks to published drivers: STREAM_OPEN and STREAM_RESPONSE_HEAD in place of heads of HTTP (tunnel.md
// §4.7).
func (b *bound) byHead(r *http.Request) (*http.Response, error) {
	headers, size := fields(r)
	if size > maxHeadBytes {
		return nil, errTooLarge
	}
	ctx := r.Context()
	upgrade := r.Header.Get("Upgrade") != ""
	target := r.URL.RequestURI()
	open, cancel := context.WithTimeout(ctx, openTimeout)
	st, err := b.open(open, OpenIn{Kind: KindHTTP, Method: r.Method, Target: target, Headers: headers, IsUpgrade: upgrade, RemoteAddr: r.RemoteAddr})
	cancel()
	if err != nil {
		return nil, err
	}
	x := &exchange{st: st}
	x.stop = context.AfterFunc(ctx, func() { _ = st.Reset(wire.CodeCancel, "the visitor has gone") })
	switch {
	case upgrade:
	case r.Body == nil || r.Body == http.NoBody:
		err = st.CloseWrite()
	default:
		go x.send(r.Body)
	}
	var h wire.ResponseHeadBody
	if err == nil {
		h, err = x.head(ctx)
	}
	var res *http.Response
	if err == nil {
		res, err = x.response(r, h, upgrade)
	}
	if err != nil {
		x.abort()
		return nil, err
	}
	return res, nil
}

// fields are the headers of a request as STREAM_OPEN has them, and their size in JSON at most.
func fields(r *http.Request) ([][2]string, int) {
	out := make([][2]string, 1, len(r.Header)+2)
	out[0] = [2]string{"host", r.Host}
	names := make([]string, 0, len(r.Header))
	for name := range r.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	size := len(r.Host) + len(r.URL.RequestURI())*2
	for _, name := range names {
		low := strings.ToLower(name)
		for _, value := range r.Header[name] {
			if value == "" && low == "user-agent" {
				continue // net/http's way to say that there is none
			}
			out = append(out, [2]string{low, value})
			size += len(low) + len(value) + 8 + 5*escapes(value)
		}
	}
	if r.ContentLength > 0 && r.Header.Get("Content-Length") == "" {
		out = append(out, [2]string{"content-length", strconv.FormatInt(r.ContentLength, 10)})
	}
	return out, size
}

func escapes(s string) (n int) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' || c >= 0x7f {
			n++
		}
	}
	return n
}

// exchange is a request and its response on one stream.
type exchange struct {
	st   *held
	stop func() bool
}

func (x *exchange) abort() {
	x.stop()
	_ = x.st.Reset(wire.CodeCancel, "")
	_ = x.st.Close() // it is over
}

func (x *exchange) send(body io.ReadCloser) {
	_, err := copyPooled(struct{ io.Writer }{x.st.Stream}, struct{ io.Reader }{body})
	_ = body.Close() // its handler notices
	if err != nil {
		_ = x.st.Reset(wire.CodeCancel, "the visitor has gone") // or the stream has ended, as the head says
		return
	}
	_ = x.st.CloseWrite() // or the stream has ended, as the head says
}

// head waits for the final head.
func (x *exchange) head(ctx context.Context) (wire.ResponseHeadBody, error) {
	for range maxHeads {
		h, err := x.st.Head(ctx)
		switch {
		case err != nil:
			return h, err
		case h.Status < 100 || h.Status > 599 || len(h.Headers) > maxHeadFields:
			return h, errHead
		case h.Final && (h.Status >= 200 || h.Status == http.StatusSwitchingProtocols):
			return h, nil
		case h.Status >= 200 || h.Status == http.StatusSwitchingProtocols:
			return h, errHead
		}
		informational, err := headersOf(h)
		if err != nil {
			return h, err
		}
		if t := httptrace.ContextClientTrace(ctx); t != nil && t.Got1xxResponse != nil && h.Status != http.StatusContinue {
			if err := t.Got1xxResponse(h.Status, textproto.MIMEHeader(informational)); err != nil {
				return h, err
			}
		}
	}
	return wire.ResponseHeadBody{}, errHead
}

func headersOf(h wire.ResponseHeadBody) (http.Header, error) {
	out := make(http.Header, len(h.Headers))
	for _, f := range h.Headers {
		if !httpguts.ValidHeaderFieldName(f[0]) || !httpguts.ValidHeaderFieldValue(f[1]) {
			return nil, errHead
		}
		name := http.CanonicalHeaderKey(f[0])
		out[name] = append(out[name], f[1])
	}
	return out, nil
}

func (x *exchange) response(r *http.Request, h wire.ResponseHeadBody, upgrade bool) (*http.Response, error) {
	header, err := headersOf(h)
	if err != nil {
		return nil, err
	}
	res := &http.Response{
		Status: strconv.Itoa(h.Status) + " " + http.StatusText(h.Status), StatusCode: h.Status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Request: r, ContentLength: -1,
	}
	header.Del("Transfer-Encoding") // the stream says where the body ends
	if h.Status == http.StatusSwitchingProtocols {
		if !upgrade {
			return nil, errHead
		}
		if header.Get("Upgrade") == "" {
			header.Set("Upgrade", r.Header.Get("Upgrade"))
		}
		header.Set("Connection", "Upgrade")
		res.Body = &duplex{x}
		return res, nil
	}
	if upgrade { // the visitor's bytes are not wanted
		_ = x.st.CloseWrite() // or the stream has ended, as its reader says
	}
	if all := header["Content-Length"]; len(all) > 0 {
		n, err := strconv.ParseUint(all[0], 10, 63)
		if err != nil || slices.ContainsFunc(all, func(s string) bool { return s != all[0] }) {
			return nil, errHead
		}
		header["Content-Length"], res.ContentLength = all[:1], int64(n)
	}
	if r.Method == http.MethodHead || h.Status == http.StatusNoContent || h.Status == http.StatusNotModified {
		x.end()
		res.Body = http.NoBody
		return res, nil
	}
	res.Body = &payload{x: x, left: res.ContentLength}
	return res, nil
}

// end ends a stream whose response is complete.
func (x *exchange) end() {
	x.stop()
	_ = x.st.Close() // all is said
}

// payload is the body of a response. left counts what its length still allows, and is negative without one.
type payload struct {
	x    *exchange
	left int64
	done bool
	once sync.Once
}

func (p *payload) Read(b []byte) (int, error) {
	if p.done || p.left == 0 {
		p.done = true
		return 0, io.EOF
	}
	if p.left > 0 && int64(len(b)) > p.left {
		b = b[:p.left]
	}
	n, err := p.x.st.Stream.Read(b)
	if p.left > 0 {
		p.left -= int64(n)
	}
	switch {
	case err == nil:
	case !errors.Is(err, io.EOF):
	case p.left > 0:
		err = io.ErrUnexpectedEOF
	default:
		p.done = true
	}
	return n, err
}

func (p *payload) Close() error {
	p.once.Do(func() {
		if p.done || p.left == 0 {
			p.x.end()
		} else {
			p.x.abort()
		}
	})
	return nil
}

// duplex is what follows 101.
type duplex struct{ x *exchange }

func (d *duplex) Read(p []byte) (int, error)  { return d.x.st.Stream.Read(p) }
func (d *duplex) Write(p []byte) (int, error) { return d.x.st.Stream.Write(p) }

// CloseWrite says that the visitor sends no more.
func (d *duplex) CloseWrite() error { return d.x.st.CloseWrite() }

// Close ends the stream.
func (d *duplex) Close() error {
	d.x.end()
	return nil
}
