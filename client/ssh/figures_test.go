//go:build unix

package ssh_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/ssh"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
	"github.com/hanzoai/hanzod/tests/sshtest"
)

const (
	// attachBar is how long attaching may take beyond the SSH handshake, localBar the same by the local
	// socket, streamBar the least part of what "ssh -L" moves.
	attachBar = 300 * time.Millisecond
	localBar  = 20 * time.Millisecond
	streamBar = 0.8
	// streamTime is how long a stream is measured.
	streamTime = 150 * time.Millisecond
	// streamRounds is how often it is measured at most: other work on the machine hits now us and now ssh.
	streamRounds = 12
)

// How long it takes from the end of the SSH handshake to the first answer of the daemon.
func TestFigureAttach(t *testing.T) {
	w := machine(t, sshtest.Options{})
	attach := func() (handshake, beyond time.Duration) {
		var in atomic.Pointer[time.Time]
		o := w.options("ssh://box")
		o.Progress = func(step ssh.Step, _ string) {
			if now := time.Now(); step == ssh.StepFind {
				in.Store(&now)
			}
		}
		start := time.Now()
		h := w.connectTo(o)
		c, err := client.Dial(soon(t), client.Options{Via: h})
		if err != nil {
			t.Fatal(err)
		}
		defer closes(t, c)
		if _, err := c.System.GetHealth(soon(t), &systemv1.GetHealthRequest{}); err != nil {
			t.Fatal(err)
		}
		return in.Load().Sub(start), time.Since(*in.Load())
	}
	local := func() time.Duration {
		start := time.Now()
		c, err := client.Dial(soon(t), client.Options{Socket: w.daemon.Socket()})
		if err != nil {
			t.Fatal(err)
		}
		defer closes(t, c)
		if _, err := c.System.GetHealth(soon(t), &systemv1.GetHealthRequest{}); err != nil {
			t.Fatal(err)
		}
		return time.Since(start)
	}
	var hands, beyonds, locals []time.Duration
	for range 7 {
		a, b := attach()
		hands, beyonds, locals = append(hands, a), append(beyonds, b), append(locals, local())
	}
	for _, l := range [][]time.Duration{hands, beyonds, locals} {
		slices.Sort(l)
	}
	t.Logf("attach by SSH: handshake %s, beyond it %s (median of 7; bar %s); attach by the local socket %s (bar %s)",
		hands[3].Round(time.Millisecond), beyonds[3].Round(time.Millisecond), attachBar, locals[3].Round(100*time.Microsecond), localBar)
	// The fastest, because a busy machine says nothing about us.
	if beyonds[0] > attachBar || locals[0] > localBar {
		t.Errorf("attach takes %s beyond the handshake, and %s by the local socket", beyonds[0], locals[0])
	}
}

// pour is a port that pours bytes at whoever connects and says one byte, or takes all that comes.
func pour(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var how [1]byte
				if _, err := io.ReadFull(c, how[:]); err != nil {
					return
				}
				if how[0] == 'u' {
					_, _ = io.Copy(io.Discard, c)
					return
				}
				buf := make([]byte, 64<<10)
				for {
					if _, err := c.Write(buf); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// rate is how many bytes a second a connection moves.
func rate(t testing.TB, conn net.Conn, how byte) float64 {
	t.Helper()
	defer conn.Close()
	defer time.AfterFunc(limit, func() { conn.Close() }).Stop() // neither end has deadlines
	if _, err := conn.Write([]byte{how}); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	var n int64
	start, warm := time.Now(), time.Time{}
	for {
		var m int
		var err error
		if how == 'u' {
			m, err = conn.Write(buf)
		} else {
			m, err = conn.Read(buf)
		}
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		if warm.IsZero() {
			if now.Sub(start) > streamTime/5 {
				warm = now
			}
			continue
		}
		n += int64(m)
		if now.Sub(warm) > streamTime {
			return float64(n) / now.Sub(warm).Seconds()
		}
	}
}

// How much a stream by SSH moves, beside what "ssh -L" moves to the same port in the same run.
func TestFigureStream(t *testing.T) {
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("there is no ssh here (Debian: openssh-client)")
	}
	if proc.Race {
		t.Skip("the race detector slows us down, and not ssh")
	}
	w := machine(t, sshtest.Options{})
	port := pour(t)
	h := w.connect()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	local := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, "ssh", "-F", filepath.Join(w.home, ".ssh", "config"), "-N", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes",
		"-L", fmt.Sprintf("%s:127.0.0.1:%d", local, port), "box")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait()
	}()
	theirs := func() net.Conn {
		for deadline := time.Now().Add(limit); ; {
			c, err := net.Dial("tcp", local)
			if err == nil {
				return c
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
			<-time.After(20 * time.Millisecond)
		}
	}
	theirs().Close()
	for _, how := range []byte("du") {
		name := map[byte]string{'d': "from", 'u': "to"}[how]
		var us, them, best float64
		for i := range streamRounds {
			conn, err := h.DialPort(soon(t), port)
			if err != nil {
				t.Fatal(err)
			}
			a, b := rate(t, conn, how), rate(t, theirs(), how)
			us, them, best = max(us, a), max(them, b), max(best, a/b)
			if i > 1 && best >= streamBar {
				break
			}
		}
		t.Logf("stream %s the machine: at most %.0f MB/s by us and %.0f MB/s by ssh -L; in one round %.0f %% of it (bar %.0f %%)", name, us/1e6, them/1e6, 100*best, 100*streamBar)
		if best < streamBar {
			t.Errorf("a stream %s the machine moves %.0f %% of what ssh -L moves", name, 100*best)
		}
	}
}
