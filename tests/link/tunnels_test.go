//go:build unix

package link

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/tunnel/driver"
)

// echoServer answers with what it gets, until the end of that.
func echoServer(t *testing.T) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// through sends data through a dialer and wants it back, with the end behind it.
func through(ctx context.Context, d *driver.Dialer, data []byte) error {
	c, err := d.DialContext(ctx, "tcp", "")
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	go func() {
		if _, err := c.Write(data); err == nil {
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
		}
	}()
	got, err := io.ReadAll(c)
	if err == nil && !bytes.Equal(got, data) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// TestTunnels: a target of a node is reached over each kind of link, its own only, and again after the link was lost.
func TestTunnels(t *testing.T) {
	for _, via := range []string{webSocket, local, overTLS} {
		t.Run(via, func(t *testing.T) {
			t.Parallel()
			o := options{policy: asking}
			if via == webSocket { // the original lets nodes have what the configuration names
				o.config = map[string]any{"gateway": map[string]any{"auth": map[string]any{"mode": "token", "token": hanzodtest.Token}, "nodes": map[string]any{"allowCommands": []string{"tunnel.open", "tunnel.close", "tunnel.list"}}}}
				o.policy = free
			}
			w := newWorld(t, via, o)
			ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
			defer cancel()
			s, err := w.op.Tunnel(ctx, driver.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			port := echoServer(t)
			d, err := s.DialBinding(ctx, driver.DialIn{Node: w.node.id(), Host: "127.0.0.1", Port: port})
			if err != nil {
				t.Fatal(err)
			}
			data := make([]byte, 3<<20)
			_, _ = rand.Read(data)
			if err := through(ctx, d, data); err != nil {
				t.Fatalf("through the node: %v", err)
			}
			if out, err := w.invoke("tunnel.list", "{}", 0); err != nil || !bytes.Contains([]byte(out), []byte(strconv.Itoa(port))) {
				t.Errorf("%s, %v", out, err)
			}
			far, err := s.DialBinding(ctx, driver.DialIn{Node: w.node.id(), Host: "192.0.2.1", Port: 80})
			if err == nil {
				err = through(ctx, far, []byte("x"))
			}
			if err == nil {
				t.Error("a target beyond loopback was reached")
			}
			w.proxy.cut()
			until(t, patience, "the node is back", func() bool { return w.node.connects() >= 2 && w.online() })
			until(t, patience, "the target is reached again", func() bool { return through(ctx, d, []byte("again")) == nil })
		})
	}
}

// TestExpose: what a client exposes is visited at the daemon, and ends with the session.
func TestExpose(t *testing.T) {
	w := newWorld(t, local, options{})
	site := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(rw, r.Method+" "+r.URL.Path+" "+string(body))
	}))
	defer site.Close()
	for name, plain := range map[string]bool{"raw": false, "as published": true} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			s, err := w.op.Tunnel(ctx, driver.Options{Plain: plain})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			b, err := s.Expose(ctx, driver.ExposeIn{Target: site.Listener.Addr().String()})
			if err != nil {
				t.Fatal(err)
			}
			at := "http://127.0.0.1:" + strconv.Itoa(b.Info().Port) + "/a"
			answer, err := http.Post(at, "text/plain", bytes.NewReader(bytes.Repeat([]byte("x"), 1<<20)))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(answer.Body)
			_ = answer.Body.Close()
			if err != nil || len(got) != 1<<20+len("POST /a ") {
				t.Errorf("%s: %d bytes: %.40q, %v", answer.Status, len(got), got, err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			http.DefaultClient.CloseIdleConnections()
			until(t, patience, "the port is closed", func() bool {
				c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(b.Info().Port))
				if err == nil {
					_ = c.Close()
				}
				return err != nil
			})
		})
	}
}
