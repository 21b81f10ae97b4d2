// Package rest is the handler of the TCP port: probes, metrics, the OpenAPI document, REST, and the
// way to the legacy WebSocket door and to the HTTP routes of the original (compat/web).
//
// REST is the gRPC door in JSON: grpc-gateway translates, and an in-process channel runs the same
// handlers behind the same interceptors, with the caller that the bearer token proved and never
// with the trust of the local socket. The package imports identity, ops, gate, gen and runtime/rpc.
// It owns no goroutine; net/http and the in-process channel run the handlers.
//
// JSON is proto JSON: camelCase names, 64-bit integers as strings, times in RFC 3339, durations as
// "3.5s"; white space may differ from build to build. Plain fields are always there, zero, empty
// list and empty map included, so that scripts find the keys they expect; optional fields and
// messages are left out when absent. Unknown fields in a request are refused. An id in a path may
// be percent-encoded but holds no slash. Errors are RFC 9457 problems. A stream is one JSON object
// a line (application/x-ndjson), or server-sent events when the request accepts text/event-stream;
// when it fails on the way, its last object is {"error": problem}, as an event named "error".
package rest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	gwruntime "github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	"github.com/hanzoai/hanzod/compat/hoody"
	"github.com/hanzoai/hanzod/compat/tech"
	"github.com/hanzoai/hanzod/compat/web"
	"github.com/hanzoai/hanzod/gate"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/gen/openapi"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/identity/peer"
	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/runtime/listen"
)

// Limits of the port.
const (
	// MaxBody is the largest request body in bytes, the message limit of the gRPC door. A larger one
	// is answered 413.
	MaxBody = 26214400
	// bodyTimeout is how long a body may take to arrive, then 408.
	bodyTimeout = 30 * time.Second
	// dismissTimeout is how long the rest of a body that nobody reads may take to arrive.
	dismissTimeout = 2 * time.Second
	// writeTimeout is how long a reader may leave a part of an answer lying; then its connection
	// ends. It counts anew for each part of a stream.
	writeTimeout = 30 * time.Second
	// headerTimeout and idleTimeout end connections that send no request.
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	// maxHeaderBytes bounds the header of a request: net/http keeps it twice, and before authentication
	// a connection may cost 64 KiB. The largest tokens of identity services have some 8 KiB.
	maxHeaderBytes = 16 << 10
)

// RPC is what the door needs of the gRPC door.
type RPC interface {
	Register(grpc.ServiceRegistrar)
	UnaryInterceptor() grpc.UnaryServerInterceptor
	StreamInterceptor() grpc.StreamServerInterceptor
}

// Deps is what the handler stands on. Fields are required unless they say otherwise.
type Deps struct {
	RPC RPC
	// Legacy takes WebSocket upgrades, on any path (protocol.md §1.2).
	Legacy http.Handler
	// Links takes the upgrades of instances (tunnel.md §1.1); nil leaves them to Legacy.
	Links http.Handler
	// Carriers takes the upgrades of tunnels (tunnel.md §4.2); nil leaves them to Legacy.
	Carriers http.Handler
	// Endpoints answer what else is asked of tunnels at /api/v1/tunnel; nil answers nothing.
	Endpoints *hoody.Endpoints
	// Tech answers what is asked of technician sessions there; nil answers nothing.
	Tech *tech.Endpoints
	// Visit serves a request for something that a node exposes, and reports whether it was one; nil for none.
	Visit func(http.ResponseWriter, *http.Request) bool
	// Screens lets viewers in; nil refuses them all.
	Screens Screens
	// Web is the HTTP routes of the original; nil leaves them out.
	Web *web.Web
	// Metrics serves the metrics page to those who may read it.
	Metrics http.Handler
	// DetailedMetrics serves it with single tunnels of all tenants, to callers of none; nil for Metrics.
	DetailedMetrics http.Handler
	// Bearer finds the caller that a token stands for, or a peer without one.
	Bearer func(ctx context.Context, token string, from identity.Peer) (identity.Caller, error)
	Gate   *gate.Gate
	// Ready returns "ready", "starting" or "stopping".
	Ready func() string
	// Peers says where requests come from and which web pages may make them; nil trusts and allows
	// nobody.
	Peers *peer.Rules
	// Loopback says that the port is bound to loopback only. Then the Host header must name a
	// loopback address or one of Hosts, so that no web page reaches the daemon by a name of its own.
	Loopback bool
	// Hosts are further names of this daemon, without port.
	Hosts []string
	// ProxyNames lets requests of trusted proxies name any host. It must not be set where the word of a
	// proxy is enough to be let in: a web page that leads a name of its own here can send any header.
	ProxyNames bool
	// TailnetName is the full name of this daemon on the tailnet, "" while it is on none; nil where it
	// never is.
	TailnetName func() string
	// HSTS is the value of Strict-Transport-Security, empty for none.
	HSTS string
	Log  *slog.Logger
}

type server struct {
	d         Deps
	mux       *gwruntime.ServeMux
	files     tunnelv1.FileServiceClient
	terminals tunnelv1.TerminalServiceClient
	screens   tunnelv1.ScreenServiceClient
	techs     tunnelv1.TechSessionServiceClient
	stages    []web.Stage
	hsts      []string
	hosts     map[string]bool
	etag      string
}

// New returns the handler of the port. It fails only when the routes of two RPCs clash.
func New(d Deps) (http.Handler, error) {
	if d.Peers == nil {
		d.Peers = &peer.Rules{}
	}
	s := &server{d: d, hosts: map[string]bool{}}
	if d.HSTS != "" {
		s.hsts = []string{d.HSTS}
	}
	for _, h := range d.Hosts {
		s.hosts[strings.ToLower(h)] = true
	}
	sum := sha256.Sum256(openapi.Compressed)
	s.etag = `"` + hex.EncodeToString(sum[:8]) + `"`
	var err error
	if s.mux, err = s.gateway(); err != nil {
		return nil, fmt.Errorf("register the REST routes: %w", err)
	}
	s.stages = s.route()
	return s, nil
}

// NewServer returns an HTTP server with the limits of the port around the handler. Connections of a
// guarded listener are strangers' until a request on them is let in. Its owner serves it and shuts
// it down.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	f := &fresh{conns: map[net.Conn]struct{}{}}
	s := &http.Server{
		ConnState: func(c net.Conn, state http.ConnState) {
			if gc, ok := listen.Guarded(c); ok && state == http.StateIdle {
				gc.Served()
			}
			f.state(c, state)
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if gc, ok := listen.Guarded(c); ok {
				ctx = peer.WithProved(ctx, gc.Known)
			}
			if tc, ok := listen.TailnetOf(c); ok {
				ctx = peer.WithMember(ctx, tc.Member)
			}
			return ctx
		},
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	s.RegisterOnShutdown(f.close)
	return s
}

// fresh are the connections that have not sent a whole request yet. A shutdown closes them, because
// net/http waits five seconds for each. headerTimeout bounds how long one stays in here.
type fresh struct {
	mu      sync.Mutex
	conns   map[net.Conn]struct{}
	stopped bool
}

func (f *fresh) state(c net.Conn, s http.ConnState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case s != http.StateNew:
		delete(f.conns, c)
	case f.stopped: // accepted just before the listener closed
		_ = c.Close() // there is nobody to tell
	default:
		f.conns[c] = struct{}{}
	}
}

func (f *fresh) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	for c := range f.conns {
		_ = c.Close() // there is nobody to tell
	}
}

// The headers that every response carries (protocol.md §1.6). They are shared and never changed.
var (
	nosniff     = []string{"nosniff"}
	noReferrer  = []string{"no-referrer"}
	permissions = []string{"camera=(), microphone=(), geolocation=()"}
	noStore     = []string{"no-store"}
	jsonType    = []string{"application/json; charset=utf-8"}
	textType    = []string{"text/plain; charset=utf-8"}
)

// readers are the methods that read.
const readers = "GET, HEAD"

func (s *server) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if s.d.Visit != nil && s.d.Visit(rw, r) { // what it answers is not ours
		return
	}
	h := rw.Header()
	h["X-Content-Type-Options"] = nosniff
	h["Referrer-Policy"] = noReferrer
	h["Permissions-Policy"] = permissions
	if s.hsts != nil {
		h["Strict-Transport-Security"] = s.hsts
	}
	asked := r.URL.EscapedPath()
	r, scoped := web.Scoped(r)
	if isScreen(r.URL.EscapedPath()) && !isScreen(asked) {
		web.RefuseVNC(rw, r) // a capability for the canvas is none for a screen
		return
	}
	if web.Upgrading(r) {
		s.upgrade(rw, r, scoped)
		return
	}
	w := &writer{ResponseWriter: rw}
	if r.ContentLength != 0 && r.Body != nil {
		w.body = &body{ReadCloser: r.Body}
		r.Body = w.body
	}
	defer s.recover(w, r)
	if !scoped {
		web.Unauthorized(w)
		return
	}
	path := r.URL.EscapedPath()
	for _, stage := range s.stages {
		if stage.Match(path) {
			stage.Serve(w, r)
			return
		}
	}
	text(w, http.StatusNotFound, "Not Found")
}

// recover answers 500 for a panic, where an answer is still possible.
func (s *server) recover(w *writer, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p)
	}
	s.d.Log.ErrorContext(r.Context(), "a handler of the TCP port panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
	if w.wrote {
		panic(http.ErrAbortHandler) // a cut connection is the only way left to say it
	}
	if !strings.HasPrefix(r.URL.Path, "/v1/") && r.URL.Path != "/metrics" {
		text(w, http.StatusInternalServerError, "Internal Server Error")
		return
	}
	writeProblem(w, problem{Status: http.StatusInternalServerError, Detail: "internal error; the log of the daemon says more", Code: "internal"})
}

func probe(w http.ResponseWriter, r *http.Request, status int, body string) {
	h := w.Header()
	h["Cache-Control"] = noStore
	if !reads(w, r) {
		return
	}
	h["Content-Type"] = jsonType
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write([]byte(body))
	}
}

// reads answers 405 to all but GET and HEAD.
func reads(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return true
	}
	w.Header().Set("Allow", readers)
	text(w, http.StatusMethodNotAllowed, "Method Not Allowed")
	return false
}

func text(w http.ResponseWriter, status int, body string) {
	w.Header()["Content-Type"] = textType
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}

func (s *server) document(w http.ResponseWriter, r *http.Request) {
	if !reads(w, r) {
		return
	}
	h := w.Header()
	h["Content-Type"] = jsonType
	h.Set("ETag", s.etag)
	h.Set("Cache-Control", "no-cache")
	http.ServeContent(w, r, "openapi.json", time.Time{}, bytes.NewReader(openapi.Document()))
}

// metricsOperation is the facts of reading the metrics page, which is no RPC.
var metricsOperation = &ops.Operation{Role: identity.RoleOperator, Scope: identity.ScopeRead}

func (s *server) metrics(w http.ResponseWriter, r *http.Request) {
	if !reads(w, r) {
		return
	}
	c, err := s.guard(r)
	if err == nil {
		err = s.d.Gate.Admit(c, metricsOperation)
	}
	if err != nil {
		refuse(w, err)
		return
	}
	if c.Tenant == "" && s.d.DetailedMetrics != nil {
		s.d.DetailedMetrics.ServeHTTP(w, r)
		return
	}
	s.d.Metrics.ServeHTTP(w, r)
}

// writer remembers that the header went out and swallows a second one, which the gateway writes
// when a stream fails after it was opened.
type writer struct {
	http.ResponseWriter
	body  *body // nil without one
	wrote bool
	sse   bool
}

func (w *writer) WriteHeader(status int) {
	if !w.wrote {
		w.begin()
		w.ResponseWriter.WriteHeader(status)
	}
}

func (w *writer) Write(b []byte) (int, error) {
	if !w.wrote {
		w.begin()
	}
	return w.ResponseWriter.Write(b)
}

func (w *writer) begin() {
	w.wrote = true
	if w.body != nil && !w.body.whole {
		dismiss(w.ResponseWriter)
	}
}

// Unwrap lets http.ResponseController reach the connection.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// body remembers whether it was read to its end.
type body struct {
	io.ReadCloser
	whole bool
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && errors.Is(err, io.EOF) {
		b.whole = true
	}
	return n, err
}

// dismiss prepares the answer to a request whose body nobody will read. net/http reads on before it
// answers, so that the sender sees the answer and the connection can be used again: that must not
// last.
func dismiss(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(dismissTimeout))
}
