// Package screens shows the screen of this machine to a gateway: the bytes of the VNC server that the node was started
// with, and of no other, over the channel that a request names (tunnel.md §2.7).
//
// It imports nodes/host and the standard library. A screen that is shown owns two goroutines, which end with its
// channel or with the VNC server.
package screens

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/hanzoai/hanzod/nodes/host"
)

const (
	// maxScreens bounds the viewers of this machine.
	maxScreens = 16
	// dialTime bounds the connection to the VNC server (tunnel.md §2.7).
	dialTime = 10 * time.Second
	// piece is how many bytes travel at once.
	piece = 64 << 10
)

// command is ours.
const command = "screen.open"

// Config of New.
type Config struct {
	// Address is the VNC server of this machine, host:port; empty offers nothing.
	Address string
	Log     *slog.Logger
}

// Module is the host.Module. Its methods may be called concurrently.
type Module struct {
	c     Config
	slots chan struct{} // holds one token per screen that is shown
}

// New returns the module.
func New(c Config) *Module {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Module{c: c, slots: make(chan struct{}, maxScreens)}
}

// Commands implements host.Module: nothing where there is no VNC server to show.
func (m *Module) Commands() []string {
	if m.c.Address == "" {
		return nil
	}
	return []string{command}
}

// Caps implements host.Module.
func (m *Module) Caps() []string { return nil }

// Handle implements host.Module. That the node was started with a VNC server is what lets it be shown; who may look is
// the gateway's to decide.
func (m *Module) Handle(ctx context.Context, r host.Request) host.Result {
	if r.Command != command || m.c.Address == "" {
		return failed("UNKNOWN_COMMAND", "unknown command: "+r.Command)
	}
	var p struct {
		Channel string `json:"channel"`
		// Stream asks where the VNC server is, for a gateway that reaches it by a carrier: this link has no channels.
		Stream bool `json:"stream"`
	}
	if r.ParamsJSON == nil || json.Unmarshal([]byte(*r.ParamsJSON), &p) != nil || (p.Channel == "") != p.Stream {
		return failed("INVALID_PARAMS", "the parameters must be an object with a channel, or with stream")
	}
	if p.Stream {
		return m.where()
	}
	if r.Channel == nil {
		return failed("UNAVAILABLE", "this link has no channels")
	}
	select {
	case m.slots <- struct{}{}:
	default:
		return failed("UNAVAILABLE", "too many screens are shown")
	}
	free := func() { <-m.slots }
	dialing, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	server, err := (&net.Dialer{}).DialContext(dialing, "tcp", m.c.Address)
	if err != nil {
		free()
		m.c.Log.Warn("the VNC server of this machine was not reached", "address", m.c.Address, "err", err)
		return failed("UNAVAILABLE", "no VNC server answers on the node; start one at "+m.c.Address)
	}
	ch, err := r.Channel(ctx, p.Channel)
	if err != nil {
		_ = server.Close() // nothing was said
		free()
		return failed("UNAVAILABLE", "the channel could not be opened: "+err.Error())
	}
	m.c.Log.Info("the screen of this machine is shown", "request", r.ID)
	go func() { // ends with the channel, which ends with its link
		defer free()
		carry(server, ch)
		m.c.Log.Info("the screen of this machine is shown no more", "request", r.ID)
	}()
	text := `{"ok":true}`
	return host.Result{OK: true, PayloadJSON: &text}
}

// where answers with the VNC server. That tells nothing of the screen: what reaches it is another command.
func (m *Module) where() host.Result {
	name, text, err := net.SplitHostPort(m.c.Address)
	port, bad := strconv.Atoi(text)
	if err != nil || bad != nil {
		return failed("UNAVAILABLE", "the VNC server of the node is no host:port")
	}
	b, err := json.Marshal(place{OK: true, Host: name, Port: port})
	if err != nil {
		return failed("UNAVAILABLE", err.Error())
	}
	out := string(b)
	return host.Result{OK: true, PayloadJSON: &out}
}

type place struct {
	OK   bool   `json:"ok"`
	Host string `json:"host"`
	Port int    `json:"port"`
}

// carry moves bytes until either side ends.
func carry(server net.Conn, ch host.Channel) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer server.Close() // the viewer has left
		_ = pour(server, ch)
	}()
	err := pour(ch, server)
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		err = nil
	}
	if err == nil {
		_ = ch.CloseWrite() // the other side learns by that it ends in order
	}
	_ = ch.Close(err)
	<-done
}

// pour returns why it ended; io.EOF is an end in order.
func pour(to io.Writer, from io.Reader) error {
	buf := make([]byte, piece)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

func failed(code, message string) host.Result {
	return host.Result{Error: &host.Error{Code: code, Message: message}}
}
