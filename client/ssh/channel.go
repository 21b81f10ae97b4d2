package ssh

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// channel opens a channel within ctx. One that opens later is closed again.
func (h *Host) channel(ctx context.Context, l *link, kind string, data []byte) (ssh.Channel, <-chan *ssh.Request, error) {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	type opened struct {
		ch   ssh.Channel
		reqs <-chan *ssh.Request
		err  error
	}
	done := make(chan opened, 1)
	l.spawn(func() {
		ch, reqs, err := l.OpenChannel(kind, data)
		if err == nil && ctx.Err() != nil {
			go ssh.DiscardRequests(reqs)
			err = errors.Join(ctx.Err(), ch.Close())
		}
		done <- opened{ch, reqs, err}
	})
	select {
	case o := <-done:
		return o.ch, o.reqs, o.err
	case <-ctx.Done():
		select {
		case o := <-done: // it came at the last moment
			return o.ch, o.reqs, o.err
		default:
			return nil, nil, ctx.Err()
		}
	}
}

// address is an end of a connection that has no address of the network.
type address string

func (address) Network() string  { return "ssh" }
func (a address) String() string { return string(a) }

// conn is a connection to the daemon inside an SSH connection or a pipe.
type conn struct {
	io.Reader
	w    io.Writer
	half func() error // ends the writing direction
	to   string

	once sync.Once
	done func() error
}

func (c *conn) Write(p []byte) (int, error) { return c.w.Write(p) }

// CloseWrite ends the writing direction; reading goes on.
func (c *conn) CloseWrite() error { return c.half() }

func (c *conn) Close() error {
	var err error
	c.once.Do(func() { err = c.done() })
	return err
}

func (c *conn) LocalAddr() net.Addr              { return address("ssh") }
func (c *conn) RemoteAddr() net.Addr             { return address(c.to) }
func (c *conn) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (c *conn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (c *conn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// forwarded makes a connection of a channel to a socket or a port.
func forwarded(l *link, ch ssh.Channel, reqs <-chan *ssh.Request, to string) net.Conn {
	l.spawn(func() { ssh.DiscardRequests(reqs) })
	l.spawn(func() { _, _ = io.Copy(io.Discard, ch.Stderr()) }) // nothing is to come there
	return &conn{Reader: ch, w: ch, half: ch.CloseWrite, to: to, done: ch.Close}
}
