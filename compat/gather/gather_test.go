package gather_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/hanzoai/hanzod/compat/gather"
)

// sink counts calls.
type sink struct {
	net.Conn
	calls int
	got   bytes.Buffer
	err   error
}

func (s *sink) Write(p []byte) (int, error) {
	s.calls++
	if s.err != nil {
		return 0, s.err
	}
	return s.got.Write(p)
}

func TestGather(t *testing.T) {
	s := &sink{}
	c := gather.New(s)
	var want bytes.Buffer
	write := func(n int) {
		t.Helper()
		p := bytes.Repeat([]byte{byte(n), byte(n >> 8), 7}, n/3+1)[:n]
		want.Write(p)
		if m, err := c.Write(p); m != n || err != nil {
			t.Fatal(m, err)
		}
	}
	check := func(calls int) {
		t.Helper()
		if s.calls != calls || !bytes.Equal(s.got.Bytes(), want.Bytes()) {
			t.Fatalf("%d calls and %d bytes, want %d and %d", s.calls, s.got.Len(), calls, want.Len())
		}
	}
	write(10)
	check(1)
	if err := c.Flush(); err != nil { // nothing was gathered
		t.Fatal(err)
	}
	c.Gather()
	c.Gather()
	for range 7 {
		write(16 << 10)
	}
	if s.calls != 1 {
		t.Fatalf("%d calls while it gathers", s.calls)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	check(2)
	write(20)
	check(3)
	// What is more than there is room for goes out in order.
	c.Gather()
	write(100_000)
	write(100_000)
	write(300_000)
	write(5)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	check(7)
	// A connection that fails says so at the latest when it is flushed.
	s.err = io.ErrClosedPipe
	c.Gather()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(); !errors.Is(err, io.ErrClosedPipe) {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Fatal(err)
	}
}
