package carrier_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/hanzoai/hanzod/client/carrier"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/mux/muxtest"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

const bound = 20 * time.Second

// server hands the carriers that come to who waits for them.
type server struct {
	tunnelv1.UnimplementedTunnelServiceServer
	came chan *carrier.Carrier
}

func (s *server) Carry(stream tunnelv1.TunnelService_CarryServer) error {
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	over := make(chan struct{})
	s.came <- carrier.New(stream, "peer", sync.OnceFunc(func() { close(over) }), nil)
	select {
	case <-over:
	case <-stream.Context().Done():
	}
	return nil
}

// world is a server and a client, over a local socket or TLS, with the codec at either end or not.
type world struct {
	came   chan *carrier.Carrier
	client tunnelv1.TunnelServiceClient
}

func newWorld(t testing.TB, secure bool) *world {
	t.Helper()
	w := &world{came: make(chan *carrier.Carrier, 1)}
	options := []grpc.ServerOption{grpc.ForceServerCodecV2(carrier.Codec)}
	dial := []grpc.DialOption{}
	var l net.Listener
	var err error
	target := ""
	if secure {
		s := httptest.NewUnstartedServer(nil)
		s.StartTLS()
		cert := s.TLS.Certificates[0]
		s.Close()
		options = append(options, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}})))
		l, err = net.Listen("tcp", "127.0.0.1:0")
		dial = append(dial, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	} else {
		l, err = net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		dial = append(dial, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	if err != nil {
		t.Fatal(err)
	}
	target = "unix:" + l.Addr().String()
	if secure {
		target = "passthrough:///" + l.Addr().String()
	}
	g := grpc.NewServer(options...)
	tunnelv1.RegisterTunnelServiceServer(g, &server{came: w.came})
	go g.Serve(l) // ends with Stop
	t.Cleanup(g.Stop)
	conn, err := grpc.NewClient(target, dial...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	w.client = tunnelv1.NewTunnelServiceClient(conn)
	return w
}

// pair opens a carrier.
func (w *world) pair(t testing.TB) (client, server *carrier.Carrier) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	stream, err := w.client.Carry(ctx, grpc.ForceCodecV2(carrier.Codec))
	if err == nil {
		_, err = stream.Header()
	}
	if err != nil {
		t.Fatal(err)
	}
	select {
	case server = <-w.came:
	case <-time.After(bound):
		t.Fatal("no carrier came")
	}
	return carrier.New(stream, "", cancel, stream.CloseSend), server
}

func message(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func each(t *testing.T, f func(t *testing.T, w *world)) {
	for name, secure := range map[string]bool{"socket": false, "TLS": true} {
		t.Run(name, func(t *testing.T) { f(t, newWorld(t, secure)) })
	}
}

func TestStreams(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		muxtest.Suite(t, func(t *testing.T) (mux.Carrier, mux.Carrier) {
			c, s := w.pair(t)
			return c, s
		})
	})
}

func TestMessages(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		c, s := w.pair(t)
		for _, way := range [][2]*carrier.Carrier{{c, s}, {s, c}} {
			sizes := []int{0, 1, 127, 128, 4000, 16_000, 16_384, 65_545, 100_000, wire.MaxMessage, 3, wire.MaxMessage}
			go func() {
				for _, n := range sizes {
					m := message(n)
					if err := way[0].Write(net.Buffers{m[:n/3], nil, m[n/3:]}); err != nil {
						t.Errorf("Write: %v", err)
					}
				}
			}()
			for _, n := range sizes {
				m, err := way[1].Read(t.Context())
				if err != nil || !bytes.Equal(m, message(n)) {
					t.Fatalf("%d bytes: got %d, %v", n, len(m), err)
				}
			}
		}
		if err := c.Write(net.Buffers{make([]byte, wire.MaxMessage), {1}}); err == nil {
			t.Error("a message that is too large went out")
		}
	})
}

func TestClose(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for _, code := range []int{1000, 1008, 1005} {
			for _, byServer := range []bool{false, true} {
				c, s := w.pair(t)
				one, other := c, s
				if byServer {
					one, other = s, c
				}
				if err := one.Write(net.Buffers{[]byte("last")}); err != nil {
					t.Fatal(err)
				}
				reason := "because"
				if code == 1005 {
					reason = ""
				}
				gone := make(chan error, 1)
				go func() { gone <- one.Close(code, reason) }() // a client's waits until the other end knows
				ctx, cancel := context.WithTimeout(t.Context(), bound)
				defer cancel()
				if m, err := other.Read(ctx); err != nil || string(m) != "last" {
					t.Fatalf("before the close: %q, %v", m, err)
				}
				var closed *mux.CloseError
				if _, err := other.Read(ctx); !errors.As(err, &closed) || closed.Code != code || closed.Reason != reason {
					t.Fatalf("code %d, by the server %v: %v", code, byServer, err)
				}
				if err := other.Write(net.Buffers{{1}}); err == nil {
					t.Error("a closed carrier takes messages")
				}
				if err := <-gone; err != nil {
					t.Errorf("Close: %v", err)
				}
				if _, err := one.Read(ctx); !errors.Is(err, net.ErrClosed) {
					t.Errorf("who closed reads on: %v", err)
				}
			}
		}
	})
}

func TestLost(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		c, s := w.pair(t)
		c.Close(0, "")
		var closed *mux.CloseError
		if _, err := s.Read(t.Context()); err == nil || errors.As(err, &closed) {
			t.Errorf("the server after a cut: %v", err)
		}
		c, s = w.pair(t)
		s.Close(0, "")
		if _, err := c.Read(t.Context()); err == nil || errors.As(err, &closed) {
			t.Errorf("the client after a cut: %v", err)
		}
	})
}

func TestReadEndsWithContext(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		_, s := w.pair(t)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := s.Read(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Read: %v", err)
		}
		// A context that ends between two reads cuts nothing.
		c, s := w.pair(t)
		ctx, cancel = context.WithCancel(t.Context())
		go c.Write(net.Buffers{{1}})
		if _, err := s.Read(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		go c.Write(net.Buffers{{2}})
		if m, err := s.Read(t.Context()); err != nil || m[0] != 2 {
			t.Fatalf("Read: %v", err)
		}
	})
}

// TestPlainCodec talks to an end that knows the generated messages alone.
func TestPlainCodec(t *testing.T) {
	w := newWorld(t, false)
	stream, err := w.client.Carry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&tunnelv1.CarryRequest{Message: &tunnelv1.CarryRequest_Frames{Frames: []byte("up")}}); err != nil {
		t.Fatal(err)
	}
	s := <-w.came
	if m, err := s.Read(t.Context()); err != nil || string(m) != "up" {
		t.Fatalf("Read: %q, %v", m, err)
	}
	if err := s.Write(net.Buffers{[]byte("do"), []byte("wn")}); err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || string(m.GetFrames()) != "down" {
		t.Fatalf("Recv: %v, %v", m, err)
	}
	if err := stream.Send(&tunnelv1.CarryRequest{Message: &tunnelv1.CarryRequest_Close{Close: &tunnelv1.CarryClose{Code: 1001, Reason: "bye"}}}); err != nil {
		t.Fatal(err)
	}
	var closed *mux.CloseError
	if _, err := s.Read(t.Context()); !errors.As(err, &closed) || closed.Code != 1001 || closed.Reason != "bye" {
		t.Fatalf("Read: %v", err)
	}
}

func BenchmarkMessages(b *testing.B) {
	for name, secure := range map[string]bool{"socket": false, "TLS": true} {
		for size, n := range map[string]int{"256K": wire.MaxMessage, "1K": 1 << 10} {
			b.Run(name+"/"+size, func(b *testing.B) {
				c, s := newWorld(b, secure).pair(b)
				m := message(n)
				b.SetBytes(int64(n))
				b.ReportAllocs()
				go func() {
					for range b.N {
						if c.Write(net.Buffers{m[:9], m[9:]}) != nil {
							return
						}
					}
				}()
				for range b.N {
					if _, err := s.Read(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
