package bindings

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of visitors of a port.
const (
	// headerTimeout is how long the head of a request may take, idleTimeout how long a connection may stay without
	// one, and maxHeader bounds a head in bytes: all of it fits STREAM_OPEN.
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 32 << 10
	// acceptPause is how long a port waits when the system cannot give it another connection.
	acceptPause = 100 * time.Millisecond
	// farewell is how long visitors of a port that has ended may take to read the rest of an answer.
	farewell = time.Second
)

// slot is a port and who takes its visitors now.
type slot struct {
	s   *Service
	key string // host and port
	ln  net.Listener
	cur atomic.Pointer[bound]

	ctx  context.Context // ends with the slot
	stop context.CancelFunc
	// server serves http, and is nil for tcp. visitors bounds its connections, so that no port takes all permits.
	server   *http.Server
	visitors *pool
	once     sync.Once
	ended    atomic.Bool
}

func (s *Service) slot(key string, ln net.Listener) *slot {
	p := &slot{s: s, key: key, ln: ln}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.visitors = &pool{limit: func() int { return max(1, s.limit()/2) }}
	return p
}

// serve takes visitors until the slot is closed.
func (p *slot) serve(http1 bool) {
	if !http1 {
		p.s.wg.Go(p.acceptTCP)
		return
	}
	p.server = &http.Server{
		Handler:           http.HandlerFunc(p.visit),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		Protocols:         new(http.Protocols),
		ErrorLog:          slog.NewLogLogger(p.s.log.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return p.ctx },
	}
	p.server.Protocols.SetHTTP1(true)
	p.server.Protocols.SetUnencryptedHTTP2(true)
	server := p.server
	p.s.wg.Go(func() {
		if err := server.Serve(pausing{p}); !errors.Is(err, http.ErrServerClosed) && !p.ended.Load() {
			p.s.log.Error("an exposed port has stopped; unbind it and bind it again", "address", p.key, "error", err)
		}
	})
}

// close ends the port and its visitors.
func (p *slot) close() {
	p.once.Do(func() {
		p.ended.Store(true)
		_ = p.ln.Close() // nobody uses it
		if p.server == nil {
			p.stop()
			return
		}
		p.s.wg.Go(func() {
			defer p.stop()
			// Who has all of an answer gets its end; the streams of the others are over, and they are told.
			ctx, cancel := context.WithTimeout(context.Background(), farewell)
			defer cancel()
			if p.server.Shutdown(ctx) != nil {
				_ = p.server.Close() // with all its visitors
			}
		})
	})
}

func (p *slot) visit(w http.ResponseWriter, r *http.Request) {
	b := p.cur.Load()
	b.serve(w, r, "")
}

// accept waits for a visitor. Errors of the system that pass are waited out.
func (p *slot) accept() (net.Conn, error) {
	for {
		c, err := p.ln.Accept()
		if err == nil {
			return c, nil
		}
		if p.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil, net.ErrClosed
		}
		p.s.log.Warn("a visitor could not be accepted; the port waits", "address", p.key, "error", err)
		t := time.NewTimer(acceptPause)
		select {
		case <-t.C:
		case <-p.ctx.Done():
			t.Stop()
		}
	}
}

// pausing is the listener of http: who comes takes a permit, and the next one is not accepted before there is one.
type pausing struct{ p *slot }

func (l pausing) Accept() (net.Conn, error) {
	c, err := l.p.accept()
	if err != nil {
		return nil, err
	}
	stop := l.p.ctx.Done()
	if !l.p.visitors.take(stop) {
		_ = c.Close() // the port has ended
		return nil, net.ErrClosed
	}
	if !l.p.s.permits.take(stop) {
		l.p.visitors.give()
		_ = c.Close() // the port has ended
		return nil, net.ErrClosed
	}
	return &visitor{Conn: c, p: l.p}, nil
}

func (l pausing) Close() error   { return l.p.ln.Close() }
func (l pausing) Addr() net.Addr { return l.p.ln.Addr() }

// visitor is a connection that gives its permit back.
type visitor struct {
	net.Conn
	p    *slot
	once sync.Once
}

func (v *visitor) Close() error {
	v.once.Do(func() {
		v.p.visitors.give()
		v.p.s.permits.give()
	})
	return v.Conn.Close()
}

// CloseWrite says that no more bytes follow.
func (v *visitor) CloseWrite() error { return closeWrite(v.Conn) }

// ReadFrom lets the kernel copy where it can.
func (v *visitor) ReadFrom(r io.Reader) (int64, error) { return io.Copy(v.Conn, r) }

func closeWrite(c net.Conn) error {
	if cw, ok := c.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}
