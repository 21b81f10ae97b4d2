//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// connect runs the command with an input, and returns what it prints and how it ends.
func connect(t *testing.T, in io.Reader, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out bytes.Buffer
	c := connectCmd(in, &out)
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetArgs(args)
	err := c.ExecuteContext(ctx)
	return out.String(), err
}

// backwards answers, once its input has ended, with it in capitals: it works only where halves are closed.
func backwards(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
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
				if text, err := io.ReadAll(c); err == nil {
					_, _ = io.WriteString(c, strings.ToUpper(string(text)))
				}
			}()
		}
	}()
	return l
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestConnectCarriesBothHalves(t *testing.T) {
	dir := shortDir(t)
	socket := filepath.Join(dir, "hanzod.sock")
	backwards(t, "unix", socket)
	port := strconv.Itoa(backwards(t, "tcp", "127.0.0.1:0").Addr().(*net.TCPAddr).Port)
	long := strings.Repeat("0123456789abcdef", 64<<10)
	for _, args := range [][]string{{"--socket", socket}, {"--state-dir", dir}, {"--port", port}} {
		out, err := connect(t, strings.NewReader(long), append(args, "--stdio")...)
		if err != nil || out != strings.ToUpper(long) {
			t.Fatalf("%v: %d bytes, %v", args, len(out), err)
		}
		out, err = connect(t, strings.NewReader("x"), append(args, "--stdio", "--greet", "hello there")...)
		if err != nil || out != "hello there\nX" {
			t.Fatalf("%v: %q, %v", args, out, err)
		}
	}
	t.Setenv("HANZOD_SOCKET", socket)
	if out, err := connect(t, strings.NewReader("y"), "--stdio"); err != nil || out != "Y" {
		t.Fatalf("%q, %v", out, err)
	}
}

// The daemon may end first, and the other side need not.
func TestConnectEndsWithTheDaemon(t *testing.T) {
	socket := filepath.Join(shortDir(t), "hanzod.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	more := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, "bye")
		_ = c.(*net.UnixConn).CloseWrite()
		text, _ := io.ReadAll(c)
		more <- string(text)
	}()
	in, feed := io.Pipe()
	out, show := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		c := connectCmd(in, show)
		c.SetArgs([]string{"--stdio", "--socket", socket})
		ended <- c.Execute()
	}()
	text, err := io.ReadAll(out) // it ends although our half is open
	if err != nil || string(text) != "bye" {
		t.Fatalf("%q, %v", text, err)
	}
	_, _ = io.WriteString(feed, "still here")
	feed.Close()
	if got := <-more; got != "still here" {
		t.Fatalf("%q", got)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

func TestConnectFailsClearly(t *testing.T) {
	dir := shortDir(t)
	t.Setenv("HANZOD_SOCKET", "")
	t.Setenv("HANZOD_STATE_DIR", dir)
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, exitUsage, "--stdio"},
		{[]string{"--stdio", "x"}, exitUsage, "no arguments"},
		{[]string{"--stdio", "--port", "0"}, exitUsage, "1 to 65535"},
		{[]string{"--stdio", "--port", "70000"}, exitUsage, "1 to 65535"},
		{[]string{"--stdio", "--port", "1", "--gateway"}, exitUsage, "exclude"},
		{[]string{"--stdio", "--socket", "x", "--gateway"}, exitUsage, "exclude"},
		{[]string{"--stdio", "--socket", "x", "--state-dir", "y"}, exitUsage, "exclude"},
		{[]string{"--stdio", "--greet", "a\nb"}, exitUsage, "one line"},
		{[]string{"--stdio"}, exitUnavailable, "hanzod run"},
		{[]string{"--stdio", "--port", "1"}, exitUnavailable, "port 1 "},
	} {
		out, err := connect(t, strings.NewReader(""), c.args...)
		if err == nil || out != "" || exitCode(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %q, %v (exit code %d)", c.args, out, err, exitCode(err))
		}
	}
	file := filepath.Join(dir, "hanzod.sock")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, strings.NewReader(""), "--stdio"); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Error(err)
	}
	if os.Geteuid() != 0 {
		return
	}
	os.Remove(file)
	backwards(t, "unix", file)
	if err := os.Chown(file, 12345, -1); err != nil {
		t.Fatal(err)
	}
	_, err := connect(t, strings.NewReader(""), "--stdio")
	if exitCode(err) != exitForeign || !errors.As(err, new(foreignError)) {
		t.Error(err)
	}
}
