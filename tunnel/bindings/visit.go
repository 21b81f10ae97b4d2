package bindings

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// stallTimeout is how long a visitor may leave bytes lying, or keep the next ones of a body to itself, before
	// its connection ends; a deadline is set anew when a quarter of it has passed.
	stallTimeout = 60 * time.Second
	// lasting is when a request on the daemon's port has lasted.
	lasting = 5 * time.Second
	// retrySoon is when visitors are to come again that found no room.
	retrySoon = time.Second
	// sandbox keeps a page below the address of the daemon from being of its origin, which the Control UI has: it
	// may run scripts, and has no origin at all.
	sandbox = "sandbox allow-downloads allow-forms allow-modals allow-pointer-lock allow-popups allow-presentation allow-scripts"
)

// originHeaders are those of a response that hold for a whole origin, which below the address of the daemon is the
// daemon's.
var originHeaders = []string{
	"Accept-Ch", "Alt-Svc", "Clear-Site-Data", "Critical-Ch", "Nel", "Origin-Agent-Cluster", "Public-Key-Pins", "Public-Key-Pins-Report-Only",
	"Report-To", "Reporting-Endpoints", "Service-Worker-Allowed", "Set-Cookie", "Set-Cookie2", "Set-Login", "Strict-Transport-Security", "Www-Authenticate",
}

// Visit serves a request for a binding, known by its host name or its path, and reports whether it was one.
func (s *Service) Visit(w http.ResponseWriter, r *http.Request) bool {
	b, prefix, ours := s.find(hostname(r.Host), r.URL.EscapedPath())
	if !ours {
		return false
	}
	if b == nil {
		refuse(w, r, http.StatusNotFound, "not_found", "nothing is exposed here", 0)
		return true
	}
	if s.cfg.Proved != nil {
		ctx := r.Context()
		t := time.AfterFunc(lasting, func() { s.cfg.Proved(ctx) })
		defer t.Stop()
	}
	b.serve(w, r, prefix)
	return true
}

func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		return name
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}

// serve serves a visitor whose path begins with a prefix that is the daemon's.
func (b *bound) serve(w http.ResponseWriter, r *http.Request, prefix string) {
	if !b.begun(r.Context()) {
		refuse(w, r, http.StatusServiceUnavailable, "parked", "the binding is not there yet; come again", RetryAfter)
		return
	}
	upgrade := r.Header.Get("Upgrade") != ""
	switch {
	case r.Method == http.MethodConnect:
		refuse(w, r, http.StatusMethodNotAllowed, "invalid", "this is no proxy", 0)
		return
	case prefix != "" && r.Header.Get("Service-Worker") != "":
		refuse(w, r, http.StatusForbidden, "denied", "below the address of the gateway there are no service workers; give the binding a host name of its own", 0)
		return
	case prefix != "" && r.URL.EscapedPath() == prefix && !upgrade && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		to := prefix + "/"
		if r.URL.RawQuery != "" {
			to += "?" + r.URL.RawQuery
		}
		w.Header().Set("Location", to)
		w.WriteHeader(http.StatusPermanentRedirect)
		return
	case !b.admitted(w, r, prefix):
		return
	}
	v := &visit{ResponseWriter: w, control: http.NewResponseController(w), b: b, stall: b.s.stall}
	if r.Body != nil && r.ContentLength != 0 && !upgrade {
		r.Body = &incoming{ReadCloser: r.Body, control: v.control, stall: b.s.stall}
		// Targets may answer while they read. Without it HTTP/1.1 drops what has not been read by then.
		_ = v.control.EnableFullDuplex() // HTTP/2 has it
	}
	defer v.done()
	b.proxies(prefix).ServeHTTP(v, r)
}

// proxies returns the proxy of a binding for visitors with a prefix, or for those without.
func (b *bound) proxies(prefix string) *httputil.ReverseProxy {
	p := &b.direct
	if prefix != "" {
		p = &b.below
	}
	if found := p.Load(); found != nil {
		return found
	}
	made := &httputil.ReverseProxy{
		Rewrite:        func(pr *httputil.ProxyRequest) { b.rewrite(pr, prefix) },
		Transport:      trip{b},
		FlushInterval:  -1,
		BufferPool:     bufferPool{},
		ModifyResponse: func(r *http.Response) error { b.modify(r, prefix); return nil },
		ErrorHandler:   b.failed,
		ErrorLog:       slog.NewLogLogger(b.s.log.Handler(), slog.LevelDebug),
	}
	p.CompareAndSwap(nil, made)
	return p.Load()
}

// rewrite makes the request that the target gets of the one that came.
func (b *bound) rewrite(pr *httputil.ProxyRequest, prefix string) {
	in, out := pr.In, pr.Out
	b.aim(in, out, prefix)
	out.Trailer = in.Trailer // the same map: it is filled when the body has been read
	h := out.Header
	delete(h, "Expect") // 100 is sent when the body is read
	if up := h.Get("Upgrade"); up != "" && up == "h2c" {
		delete(h, "Upgrade") // what would follow is no longer what the head says
		delete(h, "Connection")
		delete(h, "Http2-Settings")
	}
	strip(h, prefix != "")
	if prefix != "" {
		delete(h, "Authorization") // it is for the daemon
		h["X-Forwarded-Prefix"] = []string{prefix}
	}
	ip, _, err := net.SplitHostPort(in.RemoteAddr)
	if err != nil {
		ip = in.RemoteAddr
	}
	host, forwarded := in.Host, ip
	if b.s.trusted(ip) {
		if more := in.Header["X-Forwarded-For"]; len(more) > 0 {
			forwarded = strings.Join(more, ", ") + ", " + ip
		}
		if one := in.Header.Get("X-Forwarded-Host"); one != "" {
			host = one
		}
	} else {
		delete(h, "X-Real-Ip")
	}
	if ip == "" || ip == "@" {
		forwarded = "unknown"
	}
	h["X-Forwarded-For"] = []string{forwarded}
	h["X-Forwarded-Host"] = []string{host}
	h["X-Forwarded-Proto"] = []string{b.s.proto(in)}
}

// aim leads the request to the target with the path and the query as the visitor sent them.
func (b *bound) aim(in, out *http.Request, prefix string) {
	sent := in.RequestURI
	if !strings.HasPrefix(sent, "/") && sent != "*" { // it names a host, or came another way
		sent = in.URL.EscapedPath()
		if in.URL.RawQuery != "" {
			sent += "?" + in.URL.RawQuery
		}
	}
	if prefix != "" {
		sent = strings.TrimPrefix(sent, prefix)
		if !strings.HasPrefix(sent, "/") {
			sent = "/" + sent
		}
	}
	path, query, asked := strings.Cut(sent, "?")
	u := &url.URL{Scheme: "http", Host: b.targetName, Opaque: path, RawQuery: query, ForceQuery: asked && query == ""}
	if strings.HasPrefix(path, "//") { // would be a host in Opaque
		u.Opaque, u.RawPath = "", path
		var err error
		if u.Path, err = url.PathUnescape(path); err != nil {
			u.Path = path
		}
	}
	out.URL, out.Host = u, b.targetName
	if up := b.upstream(); up != nil && !up.Raw() {
		out.Host = in.Host // a driver puts its own in its place
	}
}

// proto is what the visitor speaks: what a trusted proxy says of it counts.
func (s *Service) proto(r *http.Request) string {
	if said := r.Header.Get("X-Forwarded-Proto"); said == "https" || said == "http" {
		if ip, _, err := net.SplitHostPort(r.RemoteAddr); err == nil && s.trusted(ip) {
			return said
		}
	}
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

func (s *Service) trusted(ip string) bool {
	if s.cfg.Trusted == nil {
		return false
	}
	a, err := netip.ParseAddr(ip)
	return err == nil && s.cfg.Trusted(a.Unmap())
}

// modify keeps a response within what its address may.
func (b *bound) modify(res *http.Response, prefix string) {
	h := res.Header
	b.relocate(h, prefix)
	if prefix == "" {
		return
	}
	for _, name := range originHeaders {
		delete(h, name)
	}
	h.Add("Content-Security-Policy", sandbox)
	h["X-Content-Type-Options"] = []string{"nosniff"}
}

// relocate leads a redirection of the target to where visitors come from.
func (b *bound) relocate(h http.Header, prefix string) {
	to := h.Get("Location")
	if to == "" {
		return
	}
	for _, scheme := range []string{"http://", "https://"} {
		if rest, ok := strings.CutPrefix(to, scheme+b.targetName); ok && b.targetPort != 0 && (rest == "" || rest[0] == '/' || rest[0] == '?') {
			if to = rest; to == "" || to[0] == '?' {
				to = "/" + to
			}
			break
		}
	}
	if prefix != "" && strings.HasPrefix(to, "/") && !strings.HasPrefix(to, "//") {
		to = prefix + to
	}
	h.Set("Location", to)
}

// failed answers for what could not be reached (tunnel.md §4.12).
func (b *bound) failed(w http.ResponseWriter, r *http.Request, err error) {
	status, code, text, after := http.StatusBadGateway, "refused", "what is exposed here cannot be reached", time.Duration(0)
	switch {
	case errors.Is(err, context.Canceled) && r.Context().Err() != nil:
		panic(http.ErrAbortHandler) // there is nobody to tell
	case errors.Is(err, ErrNoCarrier):
		status, code, text, after = http.StatusServiceUnavailable, "no_carrier", ErrNoCarrier.Text, RetryAfter
	case errors.Is(err, ErrParked):
		status, code, text, after = http.StatusServiceUnavailable, "parked", ErrParked.Text, RetryAfter
	case errors.Is(err, ErrStreams):
		w.Header().Set("Retry-After", "1")
		plain(w, r, http.StatusServiceUnavailable, ErrStreams.Text)
		return
	case errors.Is(err, errPermits):
		status, code, text, after = http.StatusServiceUnavailable, "no_permits", errPermits.Error(), retrySoon
	case errors.Is(err, errTooLarge):
		status, code, text = http.StatusRequestHeaderFieldsTooLarge, "too_large", errTooLarge.Error()
	}
	if status == http.StatusBadGateway && b.parked.Load() { // its stream ended with the carrier
		status, code, text, after = http.StatusServiceUnavailable, "parked", ErrParked.Text, RetryAfter
	}
	if status == http.StatusBadGateway {
		b.s.log.Debug("a visitor did not get through", "binding", b.ID, "node", b.NodeID, "tunnel", b.TunnelID, "error", err)
	}
	refuse(w, r, status, code, text, after)
}

// refuse answers with a problem, and with when to come again.
func refuse(w http.ResponseWriter, r *http.Request, status int, code, text string, after time.Duration) {
	if after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(after.Seconds())))
	}
	unread(w, r)
	problem(w, status, code, text)
}

// unread ends the connection of a visitor whose body nobody reads.
func unread(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
}

func plain(w http.ResponseWriter, r *http.Request, status int, text string) {
	unread(w, r)
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // a visitor who has gone needs no answer
}

// problem is an RFC 9457 answer. The texts are ours and need no escapes.
func problem(w http.ResponseWriter, status int, code, text string) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"type":"about:blank","title":%q,"status":%d,"detail":%q,"code":%q}`, http.StatusText(status), status, text, code) // as above
}

// visit is the writer of a visitor: one that leaves bytes lying is let go.
type visit struct {
	http.ResponseWriter
	control *http.ResponseController
	b       *bound
	stall   time.Duration
	until   time.Time
}

// Unwrap is for http.ResponseController.
func (v *visit) Unwrap() http.ResponseWriter { return v.ResponseWriter }

func (v *visit) Write(p []byte) (int, error) {
	if now := time.Now(); v.until.Sub(now) < v.stall*3/4 {
		v.until = now.Add(v.stall)
		_ = v.control.SetWriteDeadline(v.until) // without one it is the writer's own limit that counts
	}
	return v.ResponseWriter.Write(p)
}

// Hijack gives what follows 101 the same bound. Without it a visitor that takes nothing would hold its descriptors
// and its stream for ever, even when the tunnel has ended: nobody reads the stream while its bytes are being written.
func (v *visit) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := v.control.Hijack()
	if err != nil {
		return nil, nil, err
	}
	t := &taking{Conn: c, b: v.b, stall: v.stall}
	v.b.took(t)
	return t, rw, nil
}

// taking is the connection of a visitor after 101: one that takes nothing for as long as stall is let go, and soon
// when the streams of its binding have ended.
type taking struct {
	net.Conn
	b     *bound
	stall time.Duration

	mu    sync.Mutex
	late  bool
	until time.Time
}

func (t *taking) Write(p []byte) (int, error) {
	t.mu.Lock()
	if now := time.Now(); !t.late && t.until.Sub(now) < t.stall*3/4 {
		t.until = now.Add(t.stall)
		_ = t.SetWriteDeadline(t.until) // the write says what is wrong
	}
	t.mu.Unlock()
	return t.Conn.Write(p)
}

// hurry leaves it little time for what it has not taken yet.
func (t *taking) hurry() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.late {
		t.late = true
		_ = t.SetWriteDeadline(time.Now().Add(min(farewell, t.stall))) // the write says what is wrong
	}
}

// Close lets it go.
func (t *taking) Close() error {
	t.b.mu.Lock()
	delete(t.b.takers, t)
	t.b.mu.Unlock()
	return t.Conn.Close()
}

// CloseWrite says that the target sends no more.
func (t *taking) CloseWrite() error { return closeWrite(t.Conn) }

func (v *visit) done() {
	if !v.until.IsZero() {
		_ = v.control.SetWriteDeadline(time.Time{}) // as above
	}
}

// incoming is the body of a request: a visitor that does not go on with it is let go.
type incoming struct {
	io.ReadCloser
	control *http.ResponseController
	stall   time.Duration
	until   time.Time
}

func (b *incoming) Read(p []byte) (int, error) {
	if now := time.Now(); b.until.Sub(now) < b.stall*3/4 {
		b.until = now.Add(b.stall)
		_ = b.control.SetReadDeadline(b.until) // without one it is the reader's own limit that counts
	}
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.control.SetReadDeadline(time.Time{}) // or a later pause would count as the visitor's end
	}
	return n, err
}
