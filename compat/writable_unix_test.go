//go:build unix

package compat

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A frame of maxOffered never waits on a connection that counts as writable, whoever reads it.
func TestWritable(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for _, buffer := range []int{0, 1, 16 << 10} {
			addr := "127.0.0.1:0"
			if network == "unix" {
				addr = filepath.Join(t.TempDir(), "s")
			}
			l, err := net.Listen(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			reader, err := net.Dial(network, l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			writer, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer writer.Close()
			if buffer > 0 {
				if err := writer.(interface{ SetWriteBuffer(int) error }).SetWriteBuffer(buffer); err != nil {
					t.Fatal(err)
				}
			}
			raw, err := writer.(syscall.Conn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			frame := make([]byte, maxOffered+4)
			sent := 0
			for ; writable(raw); sent++ {
				if sent > 100_000 {
					t.Fatal("the socket never fills")
				}
				_ = writer.SetWriteDeadline(time.Now().Add(time.Second))
				if _, err := writer.Write(frame); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("%s, buffer %d: frame %d had to wait", network, buffer, sent)
				} else if err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("%s, buffer %d: %d frames", network, buffer, sent)
			if sent == 0 {
				continue
			}
			if _, err := io.ReadFull(reader, make([]byte, sent*len(frame))); err != nil {
				t.Fatal(err)
			}
			for range 1000 {
				if writable(raw) {
					break
				}
				time.Sleep(time.Millisecond)
			}
			if !writable(raw) {
				t.Errorf("%s, buffer %d: not writable again", network, buffer)
			}
		}
	}
}
