package socket_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/compat/gather"
	"github.com/hanzoai/hanzod/compat/socket"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/mux/muxtest"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

const bound = 20 * time.Second

// The ways of a pair.
const (
	plain    = "plain"
	overTLS  = "TLS"
	gathered = "TLS whose records go out together"
)

// together is a listener whose connections gather what TLS writes.
type together struct{ net.Listener }

func (l together) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return gather.New(c), nil
}

// pair is both ends of a WebSocket.
func pair(t testing.TB, way string, server, client socket.Options) (*socket.Conn, *socket.Conn) {
	t.Helper()
	got := make(chan *socket.Conn, 1)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := socket.Accept(w, r, server)
		if err != nil {
			t.Errorf("Accept: %v", err)
		}
		got <- c
	})
	s := httptest.NewUnstartedServer(h)
	switch way {
	case overTLS:
		s.StartTLS()
		client.Client = s.Client()
	case gathered:
		s.Listener = together{s.Listener}
		s.StartTLS()
		sum := sha256.Sum256(s.Certificate().Raw)
		tr, err := socket.Transport(nil, hex.EncodeToString(sum[:]))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(tr.CloseIdleConnections)
		client.Client = &http.Client{Transport: tr}
	default:
		s.Start()
	}
	t.Cleanup(s.Close)
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	c, _, err := socket.Dial(ctx, s.URL, client)
	if err != nil {
		t.Fatal(err)
	}
	sc := <-got
	t.Cleanup(func() { c.Close(0, ""); sc.Close(0, "") })
	return sc, c
}

func message(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func TestMessages(t *testing.T) {
	for _, way := range []string{plain, overTLS, gathered} {
		t.Run(way, func(t *testing.T) {
			s, c := pair(t, way, socket.Options{Subprotocols: []string{"b", "a"}}, socket.Options{Subprotocols: []string{"a", "b"}})
			if s.Subprotocol() != "b" || c.Subprotocol() != "b" {
				t.Fatalf("subprotocols %q and %q", s.Subprotocol(), c.Subprotocol())
			}
			for _, way := range [][2]*socket.Conn{{s, c}, {c, s}} {
				sizes := []int{0, 1, 125, 126, 127, 4000, 4096, 4097, 65535, 65536, 100_000, wire.MaxMessage, 3, 70_000, 0, wire.MaxMessage}
				go func() {
					for _, n := range sizes {
						m := message(n)
						keep := bytes.Clone(m)
						if err := way[0].Write(net.Buffers{m[:n/3], nil, m[n/3 : n/2], m[n/2:]}); err != nil {
							t.Errorf("Write: %v", err)
						}
						if !bytes.Equal(m, keep) {
							t.Error("Write changed what it was given")
						}
					}
				}()
				for _, n := range sizes {
					ctx, cancel := context.WithTimeout(t.Context(), bound)
					m, err := way[1].Read(ctx)
					cancel()
					if err != nil || !bytes.Equal(m, message(n)) {
						t.Fatalf("%d bytes: got %d, %v", n, len(m), err)
					}
				}
			}
		})
	}
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	t.Cleanup(cancel)
	return ctx
}

func TestStreams(t *testing.T) {
	for _, way := range []string{plain, overTLS, gathered} {
		t.Run(way, func(t *testing.T) {
			muxtest.Suite(t, func(t *testing.T) (mux.Carrier, mux.Carrier) {
				s, c := pair(t, way, socket.Options{}, socket.Options{})
				return c, s
			})
		})
	}
}

func TestClose(t *testing.T) {
	for _, way := range []string{plain, overTLS, gathered} {
		t.Run(way, func(t *testing.T) {
			for _, code := range []int{1000, 1008, 1005, 4001} {
				for _, byServer := range []bool{true, false} {
					one, other := pair(t, way, socket.Options{}, socket.Options{})
					if !byServer {
						one, other = other, one
					}
					reason := "because"
					if code == 1005 {
						reason = ""
					}
					waiting := make(chan error, 1)
					go func() {
						_, err := one.Read(within(t))
						waiting <- err
					}()
					// What was written before the close comes before it, and what comes meanwhile is no matter.
					if err := errors.Join(other.Write(net.Buffers{message(70_000)}), one.Write(net.Buffers{[]byte("last")}), one.Close(code, reason), one.Close(1000, "")); err != nil {
						t.Fatal(err)
					}
					if m, err := other.Read(within(t)); err != nil || string(m) != "last" {
						t.Fatalf("before the close: %q, %v", m, err)
					}
					var closed *mux.CloseError
					if _, err := other.Read(within(t)); !errors.As(err, &closed) || closed.Code != code || closed.Reason != reason {
						t.Fatalf("code %d, by the server %v: %v", code, byServer, err)
					}
					if err := <-waiting; err != nil && !errors.Is(err, net.ErrClosed) {
						t.Fatalf("who waited got %v", err)
					}
					if _, err := one.Read(within(t)); !errors.Is(err, net.ErrClosed) {
						t.Fatalf("who closed reads on: %v", err)
					}
					for name, c := range map[string]*socket.Conn{"who closed": one, "the other": other} {
						if c.Write(net.Buffers{{1}}) == nil {
							t.Errorf("%s writes on", name)
						}
					}
				}
			}
		})
	}
}

func TestLost(t *testing.T) {
	s, c := pair(t, plain, socket.Options{}, socket.Options{})
	c.Close(0, "")
	var closed *mux.CloseError
	if _, err := s.Read(within(t)); err == nil || errors.As(err, &closed) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Read: %v", err)
	}
}

// TestReadGoesOn breaks a read off in the middle of a message.
func TestReadGoesOn(t *testing.T) {
	s, nc := raw(t, socket.Options{})
	want := message(100_000)
	f := append(head(2, true, len(want), true), masked(want)...)
	if _, err := nc.Write(f[:50_000]); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if _, err := s.Read(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Read: %v", err)
		}
		cancel()
	}
	if _, err := nc.Write(f[50_000:]); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Read(within(t)); err != nil || !bytes.Equal(m, want) {
		t.Fatalf("Read: %d bytes, %v", len(m), err)
	}
}

// TestStall gives an end up that does not read, and lets it send its pings nonetheless.
func TestStall(t *testing.T) {
	s, nc := raw(t, socket.Options{Stall: 1200 * time.Millisecond})
	go func() {
		for range 100 { // the reader does not wait for the writer
			if _, err := nc.Write(append(head(9, true, 4, true), masked([]byte("ping"))...)); err != nil {
				return
			}
		}
		nc.Write(append(head(2, true, 4, true), masked([]byte("data"))...))
	}()
	stalled := make(chan error, 1)
	go func() {
		for {
			if err := s.Write(net.Buffers{message(wire.MaxMessage)}); err != nil {
				stalled <- err
				return
			}
		}
	}()
	if m, err := s.Read(within(t)); err != nil || string(m) != "data" {
		t.Fatalf("Read: %q, %v", m, err)
	}
	select {
	case err := <-stalled:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write: %v", err)
		}
	case <-time.After(bound):
		t.Fatal("a write waits for ever")
	}
	// A close does not wait for long either.
	s, _ = raw(t, socket.Options{})
	go func() {
		for s.Write(net.Buffers{message(wire.MaxMessage)}) == nil {
		}
		stalled <- nil
	}()
	begin := time.Now()
	s.Close(1001, "")
	if took := time.Since(begin); took > bound/2 {
		t.Errorf("a close took %v", took)
	}
	<-stalled
}

// raw is the server's end, and the connection of a client whose frames the test writes.
func raw(t testing.TB, o socket.Options) (*socket.Conn, net.Conn) {
	t.Helper()
	got := make(chan *socket.Conn, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := socket.Accept(w, r, o)
		if err != nil {
			t.Errorf("Accept: %v", err)
		}
		got <- c
	}))
	t.Cleanup(s.Close)
	nc, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	c := <-got
	t.Cleanup(func() { c.Close(0, "") })
	for end := []byte{}; !bytes.HasSuffix(end, []byte("\r\n\r\n")); { // byte by byte: what follows is frames
		b := make([]byte, 1)
		if _, err := nc.Read(b); err != nil {
			t.Fatal(err)
		}
		end = append(end, b...)
	}
	return c, nc
}

// key masks what the tests write.
var key = [4]byte{1, 2, 3, 4}

func masked(b []byte) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[i] = b[i] ^ key[i%4]
	}
	return out
}

// head is that of a frame.
func head(opcode byte, final bool, n int, mask bool) []byte {
	b := []byte{opcode, 0}
	if final {
		b[0] |= 0x80
	}
	switch {
	case n < 126:
		b[1] = byte(n)
	case n < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if mask {
		b[1] |= 0x80
		b = append(b, key[:]...)
	}
	return b
}

func frame(opcode byte, final bool, text string) []byte {
	return append(head(opcode, final, len(text), true), masked([]byte(text))...)
}

func TestFrames(t *testing.T) {
	join := func(all ...[]byte) []byte { return bytes.Join(all, nil) }
	for name, tc := range map[string]struct {
		in   []byte
		want string
		code int // of the close, 0 when the message is read
	}{
		"message":                  {frame(2, true, "hello"), "hello", 0},
		"in parts":                 {join(frame(2, false, "he"), frame(0, false, ""), frame(0, false, "ll"), frame(0, true, "o")), "hello", 0},
		"control between parts":    {join(frame(2, false, "he"), frame(9, true, "p"), frame(10, true, ""), frame(0, true, "llo")), "hello", 0},
		"many pings":               {join(bytes.Repeat(frame(9, true, "p"), 1000), frame(2, true, "hello")), "hello", 0},
		"the largest":              {append(head(2, true, wire.MaxMessage, true), masked(message(wire.MaxMessage))...), string(message(wire.MaxMessage)), 0},
		"the largest in parts":     {join(append(head(2, false, wire.MaxMessage-1, true), masked(message(wire.MaxMessage-1))...), frame(0, true, "x")), string(message(wire.MaxMessage-1)) + "x", 0},
		"text":                     {frame(1, true, "hello"), "", socket.CodeUnsupported},
		"text in parts":            {frame(1, false, "hello"), "", socket.CodeUnsupported},
		"too large":                {head(2, true, wire.MaxMessage+1, true), "", socket.CodeTooBig},
		"too large in parts":       {join(append(head(2, false, wire.MaxMessage, true), masked(message(wire.MaxMessage))...), head(0, false, 1, true)), "", socket.CodeTooBig},
		"immense":                  {join([]byte{0x82, 0xff}, bytes.Repeat([]byte{0xff}, 8), key[:]), "", socket.CodeTooBig},
		"without a mask":           {join(head(2, true, 5, false), []byte("hello")), "", socket.CodeProtocol},
		"reserved bit":             {append([]byte{0xc2}, frame(2, true, "hello")[1:]...), "", socket.CodeProtocol},
		"unknown opcode":           {frame(3, true, "hello"), "", socket.CodeProtocol},
		"unknown control":          {frame(11, true, ""), "", socket.CodeProtocol},
		"part of nothing":          {frame(0, true, "hello"), "", socket.CodeProtocol},
		"message within a message": {join(frame(2, false, "he"), frame(2, true, "llo")), "", socket.CodeProtocol},
		"large control":            {frame(9, true, strings.Repeat("p", 126)), "", socket.CodeProtocol},
		"control in parts":         {frame(9, false, "p"), "", socket.CodeProtocol},
		"half a code":              {frame(8, true, "\x03"), "", socket.CodeProtocol},
		"code that nobody sends":   {frame(8, true, "\x03\xed"), "", socket.CodeProtocol},
		"reason that is no text":   {frame(8, true, "\x03\xe8\xff"), "", socket.CodeNotUTF8},
	} {
		t.Run(name, func(t *testing.T) {
			s, nc := raw(t, socket.Options{})
			wrote := make(chan struct{})
			go func() { defer close(wrote); nc.Write(tc.in) }()
			m, err := s.Read(within(t))
			if tc.code == 0 {
				if err != nil || string(m) != tc.want {
					t.Fatalf("got %d bytes, %v", len(m), err)
				}
				<-wrote
				return
			}
			var v *socket.Violation
			if !errors.As(err, &v) || v.Code != tc.code {
				t.Fatalf("got %v", err)
			}
			nc.SetReadDeadline(time.Now().Add(bound))
			b, err := io.ReadAll(nc)
			<-wrote
			if len(b) < 4 || b[0] != 0x88 || int(binary.BigEndian.Uint16(b[2:])) != tc.code {
				t.Fatalf("the client was told %x, %v", b, err)
			}
			if _, err := s.Read(within(t)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("reads on: %v", err)
			}
		})
	}
}

// TestPong answers the last ping at least, with its payload.
func TestPong(t *testing.T) {
	s, nc := raw(t, socket.Options{})
	go s.Read(within(t))
	if _, err := nc.Write(append(frame(9, true, "one"), frame(9, true, "two")...)); err != nil {
		t.Fatal(err)
	}
	nc.SetReadDeadline(time.Now().Add(bound))
	for got := []byte{}; !bytes.Contains(got, []byte("\x8a\x03two")); {
		b := make([]byte, 64)
		n, err := nc.Read(b)
		if err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
		got = append(got, b[:n]...)
	}
}

// TestServerMasks: a server that masks is none.
func TestServerMasks(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Sec-WebSocket-Accept", base64.StdEncoding.EncodeToString(sum[:]))
		w.WriteHeader(101)
		nc, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		nc.Write(frame(2, true, "hello"))
		io.Copy(io.Discard, nc)
		nc.Close()
	})}
	go srv.Serve(l)
	defer srv.Close()
	c, _, err := socket.Dial(within(t), "ws://"+l.Addr().String(), socket.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(0, "")
	var v *socket.Violation
	if _, err := c.Read(within(t)); !errors.As(err, &v) || v.Code != socket.CodeProtocol {
		t.Errorf("Read: %v", err)
	}
}

// TestLibrary speaks with github.com/coder/websocket, at either end.
func TestLibrary(t *testing.T) {
	sizes := []int{0, 5, 4096, 70_000, wire.MaxMessage}
	echo := func(ws *websocket.Conn) error {
		ws.SetReadLimit(wire.MaxMessage)
		for {
			kind, m, err := ws.Read(within(t))
			if err != nil {
				return err
			}
			w, err := ws.Writer(within(t), kind) // in parts
			if err != nil {
				return err
			}
			if _, err := w.Write(m[:len(m)/2]); err != nil {
				return err
			}
			if _, err := w.Write(m[len(m)/2:]); err != nil {
				return err
			}
			if err := w.Close(); err != nil {
				return err
			}
		}
	}
	ask := func(t *testing.T, c *socket.Conn) {
		for _, n := range sizes {
			if err := c.Write(net.Buffers{message(n)}); err != nil {
				t.Fatal(err)
			}
			if m, err := c.Read(within(t)); err != nil || !bytes.Equal(m, message(n)) {
				t.Fatalf("%d bytes: got %d, %v", n, len(m), err)
			}
		}
	}
	t.Run("server", func(t *testing.T) {
		ended := make(chan error, 1)
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ws, err := websocket.Accept(w, r, nil)
			if err != nil {
				t.Error(err)
				return
			}
			ended <- echo(ws)
		}))
		defer s.Close()
		c, _, err := socket.Dial(within(t), s.URL, socket.Options{})
		if err != nil {
			t.Fatal(err)
		}
		ask(t, c)
		c.Close(4000, "done")
		if err := <-ended; websocket.CloseStatus(err) != 4000 {
			t.Errorf("the library was told %v", err)
		}
	})
	t.Run("client", func(t *testing.T) {
		got := make(chan *socket.Conn, 1)
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := socket.Accept(w, r, socket.Options{})
			if err != nil {
				t.Error(err)
			}
			got <- c
		}))
		defer s.Close()
		ws, _, err := websocket.Dial(within(t), s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- echo(ws) }()
		c := <-got
		ask(t, c)
		c.Close(4000, "done")
		if err := <-ended; websocket.CloseStatus(err) != 4000 {
			t.Errorf("the library was told %v", err)
		}
	})
}

const pythonClient = `
import asyncio, sys, websockets
async def main():
    async with websockets.connect(sys.argv[1], max_size=None, compression=None) as ws:
        pong = await ws.ping(b"there?")
        await ws.send([b"a" * 1000, b"b" * 70000])  # in parts
        assert await ws.recv() == b"a" * 1000 + b"b" * 70000
        await asyncio.wait_for(pong, 10)
        await ws.send("text")
        try:
            await ws.recv()
        except websockets.ConnectionClosed as e:
            print(e.code)
asyncio.run(main())
`

func TestPython(t *testing.T) {
	const python = "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import websockets").Run(); err != nil {
		t.Skip("needs Python with websockets")
	}
	got := make(chan error, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := socket.Accept(w, r, socket.Options{})
		for err == nil {
			var m []byte
			if m, err = c.Read(within(t)); err == nil {
				err = c.Write(net.Buffers{m[:10], m[10:]})
			}
		}
		got <- err
	}))
	defer s.Close()
	out, err := exec.CommandContext(within(t), python, "-c", pythonClient, "ws"+strings.TrimPrefix(s.URL, "http")).CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "1003" {
		t.Fatalf("the client: %v\n%s", err, out)
	}
	var v *socket.Violation
	if err := <-got; !errors.As(err, &v) || v.Code != socket.CodeUnsupported {
		t.Errorf("the server: %v", err)
	}
}

// TestRefused answers what is no handshake, and tells the client's end of a refusal.
func TestRefused(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		if _, err := socket.Accept(w, r, socket.Options{}); err == nil {
			t.Error("no handshake, and an upgrade")
		}
	}))
	defer s.Close()
	answer, err := http.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("status %d", answer.StatusCode)
	}
	if _, answer, err := socket.Dial(within(t), s.URL+"/no", socket.Options{}); err == nil || answer == nil || answer.StatusCode != http.StatusTeapot {
		t.Errorf("Dial: %v, %v", answer, err)
	}
}

func TestTransport(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, err := socket.Accept(w, r, socket.Options{}); err == nil {
			c.Close(0, "")
		}
	}))
	defer s.Close()
	sum := sha256.Sum256(s.Certificate().Raw)
	for name, tc := range map[string]struct {
		pin string
		ok  bool
	}{"right": {hex.EncodeToString(sum[:]), true}, "wrong": {strings.Repeat("ab", 32), false}, "none": {"", false}} {
		tr, err := socket.Transport(nil, tc.pin)
		if err != nil {
			t.Fatal(err)
		}
		c, _, err := socket.Dial(within(t), s.URL, socket.Options{Client: &http.Client{Transport: tr}})
		if (err == nil) != tc.ok || name == "wrong" && !errors.Is(err, socket.ErrPin) {
			t.Errorf("%s: %v", name, err)
		}
		if c != nil {
			c.Close(0, "")
		}
	}
	if _, err := socket.Transport(nil, "abc"); errs.ClassOf(err) != errs.Invalid {
		t.Errorf("half a fingerprint: %v", err)
	}
}

// memory is a connection from which data comes in steps.
type memory struct {
	net.Conn
	mu   sync.Mutex
	data []byte
	step int
}

func (m *memory) Read(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b, m.data[:min(m.step, len(m.data))])
	m.data = m.data[n:]
	return n, nil
}
func (m *memory) Write(b []byte) (int, error)      { return len(b), nil }
func (m *memory) Close() error                     { return nil }
func (m *memory) RemoteAddr() net.Addr             { return nil }
func (m *memory) SetReadDeadline(time.Time) error  { return nil }
func (m *memory) SetWriteDeadline(time.Time) error { return nil }

// FuzzRead reads what anybody may send, cut anywhere. It ends with an error that is known, and takes no more than
// the limit.
func FuzzRead(f *testing.F) {
	f.Add(frame(2, true, "hello"), 3, true)
	f.Add(append(frame(2, false, "he"), frame(0, true, "llo")...), 1, true)
	f.Add(append(frame(9, true, "p"), frame(8, true, "\x03\xe8bye")...), 100, true)
	f.Add([]byte("\x82\x03abc\x8a\x00\x02\x01x\x80\x01y\x88\x00"), 2, false)
	f.Add(append(head(2, true, 5000, true), make([]byte, 5000)...), 4096, true)
	f.Fuzz(func(t *testing.T, data []byte, step int, client bool) {
		const limit = 8 << 10
		c := socket.ForTest(&memory{data: data, step: max(1, step%(len(data)+1))}, limit, !client)
		defer c.Close(0, "")
		for {
			m, err := c.Read(t.Context())
			if err == nil {
				if len(m) > limit {
					t.Fatalf("a message of %d bytes", len(m))
				}
				continue
			}
			var v *socket.Violation
			var closed *mux.CloseError
			if !errors.As(err, &v) && !errors.As(err, &closed) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("Read: %v", err)
			}
			return
		}
	})
}

func benchmark(b *testing.B, kind string, up bool, size int) {
	s, c := pair(b, kind, socket.Options{}, socket.Options{})
	if !up {
		s, c = c, s
	}
	m := message(size)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		for range b.N {
			if err := c.Write(net.Buffers{m[:9], m[9:]}); err != nil {
				b.Errorf("Write: %v", err)
				return
			}
		}
	}()
	for range b.N {
		if _, err := s.Read(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMessages(b *testing.B) {
	for _, kind := range []string{plain, overTLS, gathered} {
		for way, up := range map[string]bool{"masked": true, "unmasked": false} {
			b.Run(kind+"/"+way+"/256K", func(b *testing.B) { benchmark(b, kind, up, wire.MaxMessage) })
			b.Run(kind+"/"+way+"/1K", func(b *testing.B) { benchmark(b, kind, up, 1<<10) })
		}
	}
}
