package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// echoes is a carrier to a server that echoes, and how many connections it refused.
func echoes(t *testing.T) (c *carrier, path string, refused *atomic.Int32) {
	t.Helper()
	far, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	go func() {
		for {
			conn, err := far.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(conn, conn)
				conn.(*net.TCPConn).CloseWrite()
			}()
		}
	}()
	path = filepath.Join(shortDir(t), "s")
	l, err := listenLocal(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	refused = &atomic.Int32{}
	c = newCarrier(l, func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", far.Addr().String())
	}, func() { refused.Add(1) })
	t.Cleanup(c.close)
	return c, path, refused
}

func TestCarrier(t *testing.T) {
	c, path, refused := echoes(t)
	ends := func(conn net.Conn) {
		t.Helper()
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := conn.Read(make([]byte, 1)); n != 0 || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("read %d bytes, %v", n, err)
		}
	}
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	says := func(conn net.Conn) {
		t.Helper()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.WriteString(conn, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	ends(dial()) // not open yet
	c.open()

	// The end of one direction is passed on, and the other goes on.
	conn := dial()
	io.WriteString(conn, "all of it")
	conn.(*net.UnixConn).CloseWrite()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if got, err := io.ReadAll(conn); string(got) != "all of it" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}

	// So many at once, and no more; those go on.
	var all []net.Conn
	for range maxCarried {
		conn := dial()
		says(conn)
		all = append(all, conn)
	}
	ends(dial())
	if refused.Load() != 1 {
		t.Errorf("%d were refused", refused.Load())
	}
	says(all[0])
	all[1].Close()
	for deadline := time.Now().Add(10 * time.Second); len(c.slots) == maxCarried && time.Now().Before(deadline); {
		<-time.After(time.Millisecond)
	}
	says(dial())

	// A cut ends all of them, and whoever comes before it is open again.
	c.cut()
	for _, conn := range all[2:] {
		ends(conn)
	}
	ends(dial())
	c.open()
	for deadline := time.Now().Add(10 * time.Second); len(c.slots) > 0 && time.Now().Before(deadline); {
		<-time.After(time.Millisecond)
	}
	says(dial())
}

func TestListenAddress(t *testing.T) {
	for in, want := range map[string]string{
		"18789": "127.0.0.1:18789", "127.0.0.1:0": "127.0.0.1:0", "localhost:1": "127.0.0.1:1", "[::1]:5": "[::1]:5", "127.9.9.9:1": "127.9.9.9:1",
		"0.0.0.0:1": "", ":1": "", "[::]:1": "", "192.0.2.1:1": "", "box:1": "", "1:2:3": "", "127.0.0.1:65536": "", "127.0.0.1:-1": "", "127.0.0.1:": "", "": "",
	} {
		got, err := listenAddress(in, false)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	if got, err := listenAddress("0.0.0.0:1", true); got != "0.0.0.0:1" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := listenAddress("box:1", true); err == nil {
		t.Error("a name is taken")
	}
}

// shortDir is a directory for sockets, whose paths have to be short.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
