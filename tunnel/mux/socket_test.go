package mux_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/mux/muxtest"
)

// socketPair returns the two ends of a TCP connection.
func socketPair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a, b = near.(*net.TCPConn), far.(*net.TCPConn)
	for _, c := range []*net.TCPConn{a, b} {
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		t.Cleanup(func() { _ = c.Close() })
	}
	return a, b
}

// Bytes between sockets arrive whole: those that the carrier's reader writes itself and those that wait for a sink
// that is slow.
func TestSockets(t *testing.T) {
	e := muxtest.Connect(t, func(*testing.T) (client, server mux.Carrier) { return mux.Pipe() }, mux.Config{Hanzod1: true}, 1)
	visitor, atServer := socketPair(t)
	atClient, target := socketPair(t)
	near, far := e.Open(t, false)
	var wg sync.WaitGroup
	for _, end := range []struct {
		st *mux.Stream
		c  *net.TCPConn
	}{{near, atServer}, {far, atClient}} {
		wg.Go(func() {
			if _, err := io.Copy(end.st, end.c); err != nil {
				t.Error(err)
			}
			_ = end.st.CloseWrite()
		})
		wg.Go(func() {
			if _, err := io.Copy(end.c, end.st); err != nil {
				t.Error(err)
			}
			_ = end.c.CloseWrite()
		})
	}
	data := make([]byte, 6<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	sum := sha256.Sum256(data)
	for _, way := range [][2]*net.TCPConn{{visitor, target}, {target, visitor}} {
		wg.Go(func() {
			// Small pieces first, then all that fits.
			for i := range 100 {
				_, _ = way[0].Write(data[i*10 : i*10+10])
			}
			_, _ = way[0].Write(data[1000:])
			_ = way[0].CloseWrite()
		})
		wg.Go(func() {
			var got bytes.Buffer
			_, _ = io.CopyN(&got, way[1], 1<<20)
			<-time.After(50 * time.Millisecond)
			_, _ = io.Copy(&got, way[1])
			if sha256.Sum256(got.Bytes()) != sum {
				t.Errorf("%d of %d bytes, or others", got.Len(), len(data))
			}
		})
	}
	wg.Wait()
	_ = near.Close()
	_ = far.Close()
	// A sink that breaks ends WriteTo.
	near, far = e.Open(t, true)
	a, b := socketPair(t)
	failed := make(chan error, 1)
	go func() {
		_, err := io.Copy(a, far)
		failed <- err
	}()
	_ = b.SetLinger(0)
	_ = b.Close()
	for {
		if _, err := near.Write([]byte("x")); err != nil {
			break
		}
		select {
		case err := <-failed:
			if err == nil {
				t.Error("wrote to a socket that is gone")
			}
			_ = far.Close()
			_ = near.Close()
			return
		case <-time.After(time.Millisecond):
		}
	}
	t.Error("no end")
}
