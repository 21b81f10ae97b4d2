package contract

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// conn is one client connection of a scenario. Its reader goroutine queues what arrives; the scenario
// takes frames out of the queue. close waits for the reader.
type conn struct {
	ws      *websocket.Conn
	changed chan struct{} // holds one signal when the state below has changed
	done    chan struct{} // closed when the reader has ended

	mu     sync.Mutex
	queue  []*object
	nonce  string // of the challenge
	ended  bool
	code   int // of the server's close frame, -1 when there was none
	reason string
	err    error // why the reader ended
}

func dial(addr, path string, headers http.Header) (*conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	host := headers.Get("Host")
	headers.Del("Host")
	ws, _, err := websocket.Dial(ctx, "ws://"+addr+path, &websocket.DialOptions{
		HTTPHeader:      headers,
		Host:            host,
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(maxMessage)
	c := &conn{ws: ws, changed: make(chan struct{}, 1), done: make(chan struct{}), code: -1}
	go c.read()
	return c, nil
}

func (c *conn) read() {
	defer close(c.done)
	for {
		kind, data, err := c.ws.Read(context.Background())
		if err == nil {
			err = c.take(kind, data)
			if err == nil {
				continue
			}
			_ = c.ws.CloseNow() // the frame was wrong: the scenario fails with err
		}
		c.mu.Lock()
		c.ended, c.err = true, err
		if ce, ok := errors.AsType[websocket.CloseError](err); ok {
			c.code, c.reason = int(ce.Code), ce.Reason
		}
		c.mu.Unlock()
		c.signal()
		return
	}
}

// take queues one message. The server sends text only, one JSON object per message (protocol.md §1.2).
func (c *conn) take(kind websocket.MessageType, data []byte) error {
	if kind != websocket.MessageText {
		return errors.New("the server sent a binary message")
	}
	v, err := parse(data)
	if err != nil {
		return fmt.Errorf("the server sent what is not a JSON object: %w", err)
	}
	f, ok := v.(*object)
	if !ok {
		return fmt.Errorf("the server sent what is not a JSON object: %s", shown(v))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) >= maxQueued {
		return fmt.Errorf("more than %d frames are waiting", maxQueued)
	}
	if f.str("event") == "connect.challenge" {
		if p := f.obj("payload"); p != nil {
			c.nonce = p.str("nonce")
		}
	}
	c.queue = append(c.queue, f)
	c.signal()
	return nil
}

func (c *conn) signal() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// until calls ok under the lock whenever something has changed, until it is true or the time is over.
func (c *conn) until(limit time.Duration, ok func() bool) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		c.mu.Lock()
		done := ok()
		c.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-c.changed:
		case <-timer.C:
			return false
		}
	}
}

// send writes one message. The server may close before it has read all of it (too large): then the
// close is what the scenario looks at, and the failed write is no error.
func (c *conn) send(kind websocket.MessageType, data []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	defer cancel()
	err := c.ws.Write(ctx, kind, data)
	if err == nil {
		return nil
	}
	if c.until(recvTimeout, func() bool { return c.ended }) && c.code != -1 {
		return nil
	}
	return err
}

// close ends the connection as a client does and waits for the reader.
func (c *conn) close() {
	_ = c.ws.Close(websocket.StatusNormalClosure, "") // bounded by the library; the peer may be gone
	_ = c.ws.CloseNow()
	<-c.done
}

// seen is what waits in the queue, in short, for a report.
func (c *conn) seen() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for i, f := range c.queue {
		if i == maxDiffs {
			fmt.Fprintf(&b, "\n  … and %d more", len(c.queue)-i)
			break
		}
		fmt.Fprintf(&b, "\n  waiting: %s", shown(f))
	}
	if c.ended {
		fmt.Fprintf(&b, "\n  the connection has ended: %v", c.err)
	}
	return b.String()
}
