package socket_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/compat/socket"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

const bound = 20 * time.Second

// pair is both ends of a WebSocket, over TLS or without.
func pair(t testing.TB, secure bool, server, client socket.Options) (*socket.Conn, *socket.Conn) {
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
	if secure {
		s.StartTLS()
		client.Client = s.Client()
	} else {
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
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			s, c := pair(t, secure, socket.Options{Subprotocols: []string{"b", "a"}}, socket.Options{Subprotocols: []string{"a", "b"}})
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

var _ = errors.Is
var _ = io.EOF
var _ *mux.CloseError
var _ websocket.StatusCode

func benchmark(b *testing.B, secure, up bool, size int) {
	s, c := pair(b, secure, socket.Options{}, socket.Options{})
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
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		for way, up := range map[string]bool{"masked": true, "unmasked": false} {
			b.Run(name+"/"+way+"/256K", func(b *testing.B) { benchmark(b, secure, up, wire.MaxMessage) })
			b.Run(name+"/"+way+"/1K", func(b *testing.B) { benchmark(b, secure, up, 1<<10) })
		}
	}
}
