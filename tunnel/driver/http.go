package driver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"slices"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// Limits of what a local service answers.
const (
	// maxLine bounds a line of a head in bytes, maxFields their number; together they stay below a frame.
	maxLine   = 16 << 10
	maxFields = 256
	maxHead   = 48 << 10
	// maxInformational bounds the heads before the final one.
	maxInformational = 8
)

var errLocal = errors.New("the local service does not speak HTTP/1.1")

// perHop are the headers that are not passed on (tunnel.md §4.7).
var perHop = []string{
	"connection", "upgrade", "keep-alive", "transfer-encoding", "te", "trailer", "proxy-authenticate", "proxy-authorization", "proxy-connection",
}

// validRequest checks what goes into a request line and its headers.
func validRequest(body wire.StreamOpenBody) bool {
	whole := body.Target == "*" && body.Method == "OPTIONS"
	if !token(body.Method) || !strings.HasPrefix(body.Target, "/") && !whole || strings.ContainsFunc(body.Target, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return false
	}
	for _, h := range body.Headers {
		if !token(h[0]) || !fieldValue(h[1]) {
			return false
		}
	}
	return true
}

func token(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r)
	})
}

func fieldValue(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// header returns the values of a header, joined as a list.
func header(all [][2]string, name string) string {
	var out []string
	for _, h := range all {
		if strings.EqualFold(h[0], name) {
			out = append(out, h[1])
		}
	}
	return strings.Join(out, ", ")
}

// lists reports whether a header that is a list of tokens holds one.
func lists(value, token string) bool {
	for part := range strings.SplitSeq(value, ",") {
		if strings.EqualFold(strings.TrimSpace(part), token) {
			return true
		}
	}
	return false
}

// carried returns the headers that are passed on, in their order.
func carried(all [][2]string, also ...string) [][2]string {
	connection := header(all, "connection")
	out := make([][2]string, 0, len(all)+3)
	for _, h := range all {
		name := strings.ToLower(h[0])
		if slices.Contains(perHop, name) || slices.Contains(also, name) || lists(connection, name) {
			continue
		}
		out = append(out, h)
	}
	return out
}

// request makes the head for the local service.
func request(body wire.StreamOpenBody, host string, chunked, empty, plain bool) []byte {
	drop := []string{"host"}
	if chunked || empty {
		drop = append(drop, "content-length")
	}
	headers := carried(body.Headers, drop...)
	if visited := header(body.Headers, "host"); !plain && visited != "" && header(headers, "x-forwarded-host") == "" {
		headers = append(headers, [2]string{"X-Forwarded-Host", visited})
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", body.Method, body.Target, host)
	for _, h := range headers {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	switch {
	case body.IsUpgrade:
		fmt.Fprintf(&b, "Connection: Upgrade\r\nUpgrade: %s\r\n", header(body.Headers, "upgrade"))
	default:
		b.WriteString("Connection: close\r\n")
	}
	switch {
	case chunked:
		b.WriteString("Transfer-Encoding: chunked\r\n")
	case empty:
		b.WriteString("Content-Length: 0\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// pumpHTTP answers one stream of kind http from a local service, for servers that do not send raw bytes for
// bindings of kind http (tunnel.md §4.7). Bodies go both ways as they come.
func (s *Session) pumpHTTP(ctx context.Context, l *link, st *mux.Stream, c net.Conn, target string, body wire.StreamOpenBody) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	sent := make(chan struct{})
	began := make(chan struct{}) // closed when the service has taken an upgrade
	go func() {
		defer close(sent)
		if err := s.sendRequest(st, c, target, body, began); err != nil {
			_ = c.Close() // the answer has no reader, or the service takes no more: what it said is read on nevertheless
			return
		}
		<-st.Done() // a visitor who leaves ends the answer
		_ = c.Close()
	}()
	if err := s.sendAnswer(l, st, c, body, began); err == nil {
		if err := st.CloseWrite(); err != nil {
			_ = st.Reset(wire.CodeCancel, "") // it is gone
		}
		select {
		case <-began: // an upgrade: the visitor's direction goes on until it ends
			<-sent
		default:
		}
	} else {
		s.log.Debug("a request could not be answered", "target", target, "err", err)
		_ = st.Reset(wire.CodeInternal, "the local service broke off") // nothing when the stream is gone
	}
	_ = st.Close()
	_ = c.Close()
	<-sent
}

// sendRequest writes the request with its body.
func (s *Session) sendRequest(st *mux.Stream, c net.Conn, target string, body wire.StreamOpenBody, began <-chan struct{}) error {
	if body.IsUpgrade {
		if _, err := c.Write(request(body, target, false, false, s.o.Plain)); err != nil {
			return err
		}
		select {
		case <-began:
		case <-st.Done():
			return errLocal
		}
		if _, err := st.WriteTo(c); err != nil {
			return err
		}
		if h, ok := c.(halfCloser); ok {
			return h.CloseWrite()
		}
		return nil
	}
	length := strings.TrimSpace(header(body.Headers, "content-length"))
	// Whether there is a body is not always said: then its first byte, or its end, says it.
	var ahead []byte
	chunked := header(body.Headers, "transfer-encoding") != "" || length != "" && length != "0"
	if !chunked {
		var one [1]byte
		n, err := io.ReadFull(st, one[:])
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		ahead, chunked = one[:n], n > 0
	}
	empty := !chunked && (length == "0" || slices.Contains([]string{"POST", "PUT", "PATCH"}, body.Method))
	if _, err := c.Write(request(body, target, chunked, empty, s.o.Plain)); err != nil {
		return err
	}
	if !chunked {
		return nil
	}
	w := httputil.NewChunkedWriter(c)
	if len(ahead) > 0 {
		if _, err := w.Write(ahead); err != nil {
			return err
		}
	}
	if _, err := st.WriteTo(w); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_, err := io.WriteString(c, "\r\n") // no trailers
	return err
}

// answerHead is what a local service said before its body.
type answerHead struct {
	status  int
	headers [][2]string
}

// sendAnswer reads the answer of the local service and sends it on. An error is an answer that was not whole.
func (s *Session) sendAnswer(l *link, st *mux.Stream, c net.Conn, body wire.StreamOpenBody, began chan<- struct{}) error {
	r := bufio.NewReaderSize(c, maxLine)
	var h answerHead
	for i := 0; ; i++ {
		var err error
		if h, err = readHead(r); err != nil {
			return err
		}
		if h.status >= 200 || h.status == 101 {
			break
		}
		if i >= maxInformational {
			return fmt.Errorf("%w: too many informational answers", errLocal)
		}
		if l.extended && h.status != 100 {
			if err := st.SendHead(wire.ResponseHeadBody{Status: h.status, Headers: carried(h.headers), Final: false}); err != nil {
				return err
			}
		}
	}
	if h.status == 101 {
		if !body.IsUpgrade {
			return fmt.Errorf("%w: it changed the protocol without being asked", errLocal)
		}
		if err := st.SendHead(wire.ResponseHeadBody{Status: 101, Headers: h.headers, Final: true}); err != nil {
			return err
		}
		close(began)
		return copyOut(st, r, c)
	}
	length, chunked, err := framing(h, body.Method)
	if err != nil {
		return err
	}
	drop := []string{}
	if chunked {
		drop = append(drop, "content-length")
	}
	if err := st.SendHead(wire.ResponseHeadBody{Status: h.status, Headers: carried(h.headers, drop...), Final: true}); err != nil {
		return err
	}
	switch {
	case chunked:
		_, err = st.ReadFrom(httputil.NewChunkedReader(r))
		return err
	case length < 0:
		return copyOut(st, r, c)
	}
	// What is buffered goes first, the rest straight from the socket.
	n := min(int64(r.Buffered()), length)
	if _, err := io.CopyN(st, r, n); err != nil {
		return err
	}
	if length -= n; length == 0 {
		return nil
	}
	got, err := st.ReadFrom(&io.LimitedReader{R: c, N: length})
	if err == nil && got != length {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// copyOut sends everything until the end of the connection.
func copyOut(st *mux.Stream, r *bufio.Reader, c net.Conn) error {
	if n := r.Buffered(); n > 0 {
		if _, err := io.CopyN(st, r, int64(n)); err != nil {
			return err
		}
	}
	_, err := st.ReadFrom(c)
	return err
}

// framing says how long the body is: -1 until the connection ends.
func framing(h answerHead, method string) (length int64, chunked bool, err error) {
	coding := header(h.headers, "transfer-encoding")
	switch {
	case method == "HEAD", h.status == 204, h.status == 304:
		return 0, false, nil
	case strings.EqualFold(coding, "chunked"):
		return 0, true, nil
	case coding != "":
		return 0, false, fmt.Errorf("%w: transfer coding %.32q", errLocal, coding)
	}
	length = -1
	for _, f := range h.headers {
		if !strings.EqualFold(f[0], "content-length") {
			continue
		}
		for part := range strings.SplitSeq(f[1], ",") { // the same one twice is one
			n, err := strconv.ParseUint(strings.TrimSpace(part), 10, 63)
			if err != nil || length >= 0 && length != int64(n) {
				return 0, false, fmt.Errorf("%w: content-length %.32q", errLocal, f[1])
			}
			length = int64(n)
		}
	}
	return length, false, nil
}

// readHead reads a status line and headers, which keep their order and their spelling.
func readHead(r *bufio.Reader) (h answerHead, err error) {
	total := 0
	line := func() (string, error) {
		raw, err := r.ReadSlice('\n')
		if total += len(raw); err != nil || total > maxHead {
			return "", fmt.Errorf("%w: its head is cut off or too large", errLocal)
		}
		return string(bytes.TrimRight(raw, "\r\n")), nil
	}
	text, err := line()
	if err != nil {
		return h, err
	}
	version, rest, _ := strings.Cut(text, " ")
	code, _, _ := strings.Cut(rest, " ")
	h.status, err = strconv.Atoi(code)
	if !strings.HasPrefix(version, "HTTP/1.") || err != nil || len(code) != 3 || h.status < 100 {
		return h, errLocal
	}
	h.headers = [][2]string{}
	for {
		text, err := line()
		switch {
		case err != nil:
			return h, err
		case text == "":
			return h, nil
		case len(h.headers) >= maxFields:
			return h, fmt.Errorf("%w: too many headers", errLocal)
		}
		name, value, ok := strings.Cut(text, ":")
		if value = strings.Trim(value, " \t"); !ok || !token(name) || !fieldValue(value) {
			return h, errLocal
		}
		h.headers = append(h.headers, [2]string{name, strings.ToValidUTF8(value, "\uFFFD")})
	}
}
