package bindings

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tunnel/wire"
)

// peerOf is the other end of a tunnel: one that gives raw streams, or a driver as published, which speaks heads.
type peerOf struct {
	target string
	raw    bool
	fail   atomic.Pointer[error]
	// driver answers a stream of KindHTTP in place of the ordinary one.
	driver func(in OpenIn, st *fakeStream)
	slow   time.Duration

	mu      sync.Mutex
	streams map[*fakeStream]bool
	opened  atomic.Int64
	last    atomic.Pointer[OpenIn]
}

func (p *peerOf) Raw() bool { return p.raw }

func (p *peerOf) Open(_ context.Context, in OpenIn) (Stream, error) {
	if err := p.fail.Load(); err != nil {
		return nil, *err
	}
	p.opened.Add(1)
	p.last.Store(&in)
	here, there := net.Pipe()
	if p.slow == 0 {
		var err error
		if here, there, err = tcpPair(); err != nil {
			return nil, err
		}
	}
	st := &fakeStream{Conn: here, peer: there, p: p, heads: make(chan wire.ResponseHeadBody, 16), reset: make(chan struct{})}
	p.mu.Lock()
	if p.streams == nil {
		p.streams = map[*fakeStream]bool{}
	}
	p.streams[st] = true
	p.mu.Unlock()
	switch {
	case in.Kind == KindTCP:
		go st.pump()
	case p.driver != nil:
		go p.driver(in, st)
	default:
		go st.serve(in)
	}
	return st, nil
}

func (p *peerOf) open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.streams)
}

// fakeStream is a stream whose bytes go through a pair of sockets.
type fakeStream struct {
	net.Conn
	peer  net.Conn
	p     *peerOf
	heads chan wire.ResponseHeadBody
	reset chan struct{}
	once  sync.Once
	code  wire.Code
}

var errReset = errors.New("stream reset")

func (s *fakeStream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	select {
	case <-s.reset:
		if n == 0 {
			err = errReset
		}
	default:
	}
	return n, err
}

func (s *fakeStream) CloseWrite() error { return closeWrite(s.Conn) }

func (s *fakeStream) Reset(code wire.Code, _ string) error {
	s.once.Do(func() {
		s.code = code
		close(s.reset)
		abort(s.Conn)
		abort(s.peer)
	})
	return nil
}

func (s *fakeStream) Close() error {
	s.p.mu.Lock()
	delete(s.p.streams, s)
	s.p.mu.Unlock()
	return s.Conn.Close()
}

func (s *fakeStream) Head(ctx context.Context) (wire.ResponseHeadBody, error) {
	select {
	case h := <-s.heads:
		return h, nil
	case <-s.reset:
		return wire.ResponseHeadBody{}, errReset
	case <-ctx.Done():
		return wire.ResponseHeadBody{}, ctx.Err()
	}
}

func (s *fakeStream) pump() {
	c, err := net.Dial("tcp", s.p.target)
	if err != nil {
		_ = s.Reset(wire.CodeRefused, "local connect failed")
		return
	}
	join(c, s.peer)
}

func join(a, b net.Conn) {
	var wg sync.WaitGroup
	for _, x := range [][2]net.Conn{{a, b}, {b, a}} {
		wg.Go(func() {
			if _, err := io.Copy(x[0], x[1]); err != nil {
				abort(x[0])
				return
			}
			_ = closeWrite(x[0])
		})
	}
	wg.Wait()
	_, _ = a.Close(), b.Close()
}

// serve does what a driver does with a stream of KindHTTP (tunnel.md §4.7).
func (s *fakeStream) serve(in OpenIn) {
	c, err := net.Dial("tcp", s.p.target)
	if err != nil {
		_ = s.Reset(wire.CodeRefused, "local connect failed")
		return
	}
	defer c.Close()
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", in.Method, in.Target, s.p.target)
	body := false
	for _, h := range in.Headers {
		switch h[0] {
		case "host", "keep-alive", "te", "trailer":
			continue
		case "connection", "upgrade":
			if !in.IsUpgrade {
				continue
			}
		case "content-length":
			body = true
			continue
		}
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	body = body || in.Method == http.MethodPost
	if body {
		b.WriteString("Transfer-Encoding: chunked\r\n")
	}
	b.WriteString("\r\n")
	_, _ = io.WriteString(c, b.String())
	if body {
		go func() {
			buf := make([]byte, 32<<10)
			for {
				n, err := s.peer.Read(buf)
				if n > 0 {
					fmt.Fprintf(c, "%x\r\n%s\r\n", n, buf[:n])
				}
				if err != nil {
					if errors.Is(err, io.EOF) {
						_, _ = io.WriteString(c, "0\r\n\r\n")
					}
					return
				}
			}
		}()
	}
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, &http.Request{Method: in.Method})
	if err != nil {
		_ = s.Reset(wire.CodeInternal, "local response failed")
		return
	}
	head := wire.ResponseHeadBody{Status: res.StatusCode, Final: true}
	for name, values := range res.Header {
		for _, v := range values {
			head.Headers = append(head.Headers, [2]string{name, v})
		}
	}
	s.heads <- head
	if res.StatusCode == http.StatusSwitchingProtocols {
		go func() {
			_, _ = io.Copy(c, s.peer)
			_ = closeWrite(c)
		}()
		_, _ = io.Copy(s.peer, r)
	} else if _, err := io.Copy(s.peer, res.Body); err != nil {
		_ = s.Reset(wire.CodeInternal, "local response failed")
		return
	}
	_ = closeWrite(s.peer)
}

func tcpPair() (net.Conn, net.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	b, err := l.Accept()
	return a, b, err
}

// tunnels is a service for tests with one tunnel, whose names are up to the test.
func tunnels(t testing.TB, with func(*Config)) *Service {
	t.Helper()
	cfg := Config{
		Pattern: func() string { return "" }, Base: func() string { return "https://box:18789" }, Host: func() string { return "box" },
		Listen:   func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") },
		Reserved: func(host string) bool { return host == "gw.example.com" },
		Changed:  func(string, []Binding) {}, Now: time.Now,
	}
	if with != nil {
		with(&cfg)
	}
	s := New(cfg)
	t.Cleanup(func() {
		s.Close()
		if p := s.Permits(); p.Used != 0 {
			eventually(t, "all permits are back", func() bool { return s.Permits().Used == 0 })
		}
	})
	return s
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for range 1000 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("after ten seconds: not %s", what)
}

var client = &http.Client{
	Timeout:       20 * time.Second,
	Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func (b BindOut) url(path string) string { return "http://127.0.0.1:" + strconv.Itoa(b.Port) + path }

func listens(t testing.TB, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return l.Addr().String()
}

func body(t testing.TB, res *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(all)
}
