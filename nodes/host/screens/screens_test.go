package screens

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/nodes/host"
)

// channel is a host.Channel over one end of a pipe.
type channel struct {
	net.Conn
	closed chan error
}

func (c *channel) CloseWrite() error { return nil }

func (c *channel) Close(err error) error {
	c.closed <- err
	return c.Conn.Close()
}

func request(params string, open func(context.Context, string) (host.Channel, error)) host.Request {
	return host.Request{Command: command, ParamsJSON: &params, Channel: open}
}

func TestShows(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // says again what it hears, and ends with it
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 5)
				if _, err := io.ReadFull(c, buf); err == nil {
					_, _ = c.Write(append([]byte("RFB "), buf...))
				}
			}()
		}
	}()
	m := New(Config{Address: l.Addr().String()})
	if got := m.Commands(); len(got) != 1 || got[0] != command {
		t.Errorf("%v", got)
	}
	near, far := net.Pipe()
	ch := &channel{Conn: near, closed: make(chan error, 4)}
	r := m.Handle(t.Context(), request(`{"channel":"x"}`, func(_ context.Context, name string) (host.Channel, error) {
		if name != "x" {
			t.Errorf("channel %q", name)
		}
		return ch, nil
	}))
	if !r.OK || *r.PayloadJSON != `{"ok":true}` {
		t.Fatalf("%+v", r)
	}
	_ = far.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := far.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(far)
	if err != nil || !bytes.Equal(got, []byte("RFB hello")) {
		t.Errorf("%q, %v", got, err)
	}
	if err := <-ch.closed; err != nil {
		t.Error(err)
	}
	// Where the link has no channels, the gateway is told where to look.
	if r := m.Handle(t.Context(), request(`{"stream":true}`, nil)); !r.OK || !bytes.HasPrefix([]byte(*r.PayloadJSON), []byte(`{"ok":true,"host":"127.0.0.1","port":`)) {
		t.Errorf("%+v", r)
	}
}

func TestRefusals(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := l.Addr().String()
	_ = l.Close()
	opens := func(context.Context, string) (host.Channel, error) { return nil, errors.New("no") }
	m := New(Config{Address: gone})
	for text, code := range map[string]string{
		`{}`: "INVALID_PARAMS", `[]`: "INVALID_PARAMS", `{"channel":"x","stream":true}`: "INVALID_PARAMS", `{"channel":"x"}`: "UNAVAILABLE",
	} {
		if r := m.Handle(t.Context(), request(text, opens)); r.OK || r.Error.Code != code {
			t.Errorf("%s: %+v", text, r.Error)
		}
	}
	if r := m.Handle(t.Context(), request(`{"channel":"x"}`, nil)); r.OK || r.Error.Code != "UNAVAILABLE" {
		t.Errorf("%+v", r.Error)
	}
	if r := m.Handle(t.Context(), host.Request{Command: command}); r.OK {
		t.Error("no parameters")
	}
	none := New(Config{})
	if none.Commands() != nil {
		t.Error("a screen is offered that is not there")
	}
	if r := none.Handle(t.Context(), request(`{"stream":true}`, opens)); r.OK {
		t.Error("a screen is shown that is not there")
	}
	if len(m.slots) != 0 {
		t.Errorf("%d places are taken", len(m.slots))
	}
}
