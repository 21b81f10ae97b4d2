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

// errEnded says that a link ended while something was asked for by it.
var errEnded = errors.New("it has ended")

// channel opens a channel within ctx. One that opens later is closed again.
func (h *Host) channel(ctx context.Context, l *link, kind string, data []byte) (ssh.Channel, <-chan *ssh.Request, error) {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	type opened struct {
		ch   ssh.Channel
		reqs <-chan *ssh.Request
		err  error
	}
	answer, left, over := make(chan opened), make(chan struct{}), make(chan struct{})
	defer close(left)
	go func() {
		defer close(over)
		ch, reqs, err := l.OpenChannel(kind, data)
		select {
		case answer <- opened{ch, reqs, err}:
		case <-left:
			if err == nil {
				l.spawn(func() { ssh.DiscardRequests(reqs) })
				_ = ch.Close() // nobody waits for it any more
			}
		}
	}()
	l.spawn(func() { l.outlast(over) })
	select {
	case o := <-answer:
		return o.ch, o.reqs, o.err
	case <-l.gone:
		return nil, nil, errEnded
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}

// outlast waits until something is over, and not much longer than the link: the library may lose a request
// for a channel that meets the end of the connection, and then never answers it (see meter.refuse).
func (l *link) outlast(over <-chan struct{}) {
	select {
	case <-over:
		return
	case <-l.gone:
	}
	t := time.NewTimer(closeTime)
	defer t.Stop()
	select {
	case <-over:
	case <-t.C:
	}
}

// limit closes a channel when ctx ends. Who waits for something on the channel is not free before the machine
// has closed it too, so a machine that does not within deafTime loses the link. It returns a function that
// ends the limit and says whether that was in time; it may be called again.
func (l *link) limit(ctx context.Context, ch io.Closer) func() bool {
	over := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		l.spawn(func() { _ = ch.Close() }) // the link may be gone
		t := time.NewTimer(deafTime)
		defer t.Stop()
		select {
		case <-over:
		case <-l.gone:
		case <-t.C:
			_ = l.base.Close() // it is of no use
		}
	})
	return sync.OnceValue(func() bool {
		close(over)
		return stop()
	})
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
