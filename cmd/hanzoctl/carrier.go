package main

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// maxCarried bounds the connections that one local socket or port carries at once. A desktop app has a
	// handful; each costs two buffers of 32 KB.
	maxCarried = 256
	// carryDial bounds how long the other end of a carried connection may take.
	carryDial = 30 * time.Second
	// acceptPause is how long accepting waits after a failure, such as too few descriptors.
	acceptPause = 100 * time.Millisecond
)

// carrier takes connections of a listener and carries each to a connection of its own at the other end. It
// owns one goroutine for the listener and two for each connection, and waits for them in close.
type carrier struct {
	l       net.Listener
	dial    func(context.Context) (net.Conn, error)
	refused func()
	slots   chan struct{}
	wg      sync.WaitGroup

	mu sync.Mutex
	// link ends when the link is cut; nil while there is none.
	link context.Context //nolint:containedctx // it is the life of a link, not of a call
	end  context.CancelFunc
}

// newCarrier begins to carry. It refuses connections until open, and calls refused, from any goroutine, for
// those that are too many.
func newCarrier(l net.Listener, dial func(context.Context) (net.Conn, error), refused func()) *carrier {
	c := &carrier{l: l, dial: dial, refused: refused, slots: make(chan struct{}, maxCarried)}
	c.wg.Go(c.accept)
	return c
}

// open lets connections through.
func (c *carrier) open() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end == nil {
		c.link, c.end = context.WithCancel(context.Background())
	}
}

// cut ends every connection, and those that come until open.
func (c *carrier) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end != nil {
		c.end()
		c.link, c.end = nil, nil
	}
}

func (c *carrier) close() {
	_ = c.l.Close() // which ends accept; a socket that is gone already is no fault
	c.cut()
	c.wg.Wait()
}

func (c *carrier) accept() {
	for {
		conn, err := c.l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			<-time.After(acceptPause)
			continue
		}
		c.mu.Lock()
		link := c.link
		c.mu.Unlock()
		if link == nil {
			_ = conn.Close() // nothing was read
			continue
		}
		select {
		case c.slots <- struct{}{}:
		default:
			_ = conn.Close() // nothing was read
			c.refused()
			continue
		}
		c.wg.Go(func() {
			defer func() { <-c.slots }()
			c.carry(link, conn)
		})
	}
}

// carry moves bytes until both ends have nothing more to say, or the link ends.
func (c *carrier) carry(link context.Context, near net.Conn) {
	defer near.Close()
	stop := context.AfterFunc(link, func() { _ = near.Close() }) // ends what waits for it
	defer stop()
	ctx, cancel := context.WithTimeout(link, carryDial)
	far, err := c.dial(ctx)
	cancel()
	if err != nil {
		return // the client sees that it ends; the link is watched elsewhere
	}
	defer far.Close()
	stopFar := context.AfterFunc(link, func() { _ = far.Close() })
	defer stopFar()
	var wg sync.WaitGroup
	wg.Go(func() { pour(far, near) })
	pour(near, far)
	wg.Wait()
}

// pour copies until the end of what comes, and passes the end on.
func pour(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		if half.CloseWrite() == nil {
			return
		}
	}
	// What failed, or cannot be half closed, is over for both.
	_ = errors.Join(to.Close(), from.Close())
}
