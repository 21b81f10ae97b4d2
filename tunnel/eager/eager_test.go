package eager_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tunnel/eager"
)

// pair are two ends of a connection of the system's.
func pair(tb testing.TB, network, addr string) (a, b net.Conn) {
	tb.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	a, err = net.Dial(network, l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

func TestRead(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			addr := "127.0.0.1:0"
			if network == "unix" {
				dir, err := os.MkdirTemp("", "e")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { os.RemoveAll(dir) })
				addr = filepath.Join(dir, "s")
			}
			a, b := pair(t, network, addr)
			r := eager.New(b)
			if n, err := r.Read(nil); n != 0 || err != nil {
				t.Fatalf("no room: %d, %v", n, err)
			}
			sent := make([]byte, 3<<20)
			for i := range sent {
				sent[i] = byte(rand.Uint32())
			}
			go func() {
				for p := sent; len(p) > 0; {
					n := min(len(p), 1+rand.IntN(64<<10))
					_, _ = a.Write(p[:n])
					p = p[n:]
				}
				_ = a.(interface{ CloseWrite() error }).CloseWrite()
			}()
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, sent) {
				t.Fatalf("%d bytes of %d came, %v", len(got), len(sent), err)
			}
		})
	}
}

// TestEnds has a read that waits ended as one of the connection is.
func TestEnds(t *testing.T) {
	a, b := pair(t, "tcp", "127.0.0.1:0")
	r := eager.New(b)
	one := make([]byte, 1)
	_ = b.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	var timeout net.Error
	if _, err := r.Read(one); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("a deadline: %v", err)
	}
	_ = b.SetReadDeadline(time.Time{})
	if _, err := a.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Read(one); n != 1 || err != nil || one[0] != 'x' {
		t.Fatalf("after the deadline: %d %v", n, err)
	}
	closed := make(chan error, 1)
	go func() {
		_, err := r.Read(make([]byte, 1))
		closed <- err
	}()
	time.Sleep(20 * time.Millisecond)
	_ = b.Close()
	if err := <-closed; !errors.Is(err, net.ErrClosed) {
		t.Fatalf("closed while it waits: %v", err)
	}

	a, b = pair(t, "tcp", "127.0.0.1:0")
	r = eager.New(b)
	_ = a.(*net.TCPConn).SetLinger(0)
	_ = a.Close()
	var op *net.OpError
	if _, err := r.Read(one); !errors.Is(err, syscall.ECONNRESET) || !errors.As(err, &op) {
		t.Fatalf("the other end broke off: %v", err)
	}
}

// TestTwoReaders has several read at once, each byte going to one of them.
func TestTwoReaders(t *testing.T) {
	a, b := pair(t, "tcp", "127.0.0.1:0")
	r := eager.New(b)
	const total = 20000
	got := make(chan int, 4)
	for range 4 {
		go func() {
			n := 0
			p := make([]byte, 7)
			for {
				m, err := r.Read(p)
				if n += m; err != nil {
					got <- n
					return
				}
			}
		}()
	}
	for range total / 10 {
		if _, err := a.Write(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
	}
	_ = a.Close()
	n := 0
	for range 4 {
		n += <-got
	}
	if n != total {
		t.Fatalf("%d bytes of %d", n, total)
	}
}

func TestOthersStay(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if r := eager.New(a); r != io.Reader(a) {
		t.Fatalf("a pipe is read with %T", r)
	}
}

// BenchmarkRoundTrip is a byte there and back between two goroutines.
func BenchmarkRoundTrip(b *testing.B) {
	for _, x := range []struct {
		name string
		of   func(net.Conn) io.Reader
	}{
		{"plain", func(c net.Conn) io.Reader { return c }},
		{"eager", eager.New},
	} {
		b.Run(x.name, func(b *testing.B) {
			near, far := pair(b, "tcp", "127.0.0.1:0")
			nr, fr := x.of(near), x.of(far)
			go func() {
				p := make([]byte, 1)
				for {
					if _, err := fr.Read(p); err != nil {
						return
					}
					if _, err := far.Write(p); err != nil {
						return
					}
				}
			}()
			b.ReportAllocs()
			p := make([]byte, 1)
			for b.Loop() {
				if _, err := near.Write(p); err != nil {
					b.Fatal(err)
				}
				if _, err := nr.Read(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
