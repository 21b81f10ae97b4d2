package companion

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"
)

// Server answers the node hosts of this user.
type Server struct {
	// Token is the one of the exec approvals file. An empty one lets nobody in.
	Token string
	// Answer asks the person; ok is false for no answer. ctx ends when the asker is gone, and an answer
	// that comes after that goes nowhere. It is called by many goroutines.
	Answer func(ctx context.Context, p Prompt) (d Decision, ok bool)
	Log    *slog.Logger
}

// Serve answers on a listener of Listen until ctx ends, which closes it.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // which ends Accept
	defer stop()
	slots := make(chan struct{}, maxPeers)
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			// Too few descriptors, say; the next may do.
			s.Log.Warn("a connection could not be taken", "error", err)
			if !sleep(ctx, 100*time.Millisecond) {
				return ctx.Err()
			}
			continue
		}
		u, ok := c.(*net.UnixConn)
		if !ok {
			_ = c.Close() // nobody is answered on anything else
			continue
		}
		if err := checkPeer(u); err != nil {
			s.Log.Warn("somebody else was turned away", "error", err)
			_ = u.Close() // nothing was read
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			s.Log.Warn("too many questions at once; one was turned away", "most", maxPeers)
			_ = u.Close() // nothing was read
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			defer u.Close()
			s.hear(ctx, u)
		})
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// hear serves one connection: one question.
func (s *Server) hear(ctx context.Context, c *net.UnixConn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) }) // ends reads and writes
	defer stop()
	_ = c.SetDeadline(time.Now().Add(hearWait)) // a connection that is gone fails in lines
	f, err := lines(c, func(f frame) bool { return f.Type == "request" || f.Type == "exec" })
	switch {
	case err != nil:
		s.Log.Warn("a connection asked nothing", "error", err)
	case f.Type == "exec":
		s.refuse(c, f)
	case s.Token == "" || !same(f.Token, s.Token):
		s.Log.Warn("a question came with a wrong token and was dropped")
	case f.Request == nil || strings.TrimSpace(f.Request.Command) == "":
		s.Log.Warn("a question named no command and was dropped")
	default:
		s.ask(ctx, cancel, c, f)
	}
}

// ask gets the person's answer and hands it over, for as long as the asker waits.
func (s *Server) ask(ctx context.Context, cancel context.CancelFunc, c *net.UnixConn, f frame) {
	_ = c.SetDeadline(time.Now().Add(MaxWait)) // as above
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		// Nothing more is expected. Reading ends with the asker, or with the connection.
		var rest [1]byte
		_, _ = io.ReadFull(c, rest[:])
		cancel()
	}()
	d, ok := s.Answer(ctx, f.Request.prompt(f.ID))
	if ok && d.valid() && ctx.Err() == nil {
		if line, err := encode(frame{Type: "decision", ID: f.ID, Decision: d}); err == nil {
			_ = c.SetWriteDeadline(time.Now().Add(hearWait)) // as above
			if _, err := c.Write(line); err != nil {
				s.Log.Warn("an answer could not be delivered", "error", err)
			}
		}
	}
	_ = c.Close() // ends the reader
	<-gone
}

// refuse answers an exec request. Commands run in the node host alone, where they are bound to their
// approval; so there is nothing here to replay either.
func (s *Server) refuse(c net.Conn, f frame) {
	s.Log.Warn("a request to run a command was refused: this app only answers questions")
	no := false
	line, err := encode(frame{Type: "exec-res", ID: f.ID, OK: &no, Error: &refusing{
		Code: "UNAVAILABLE", Message: "this app answers questions and runs no commands; the node host runs them", Reason: "unsupported",
	}})
	if err == nil {
		_, _ = c.Write(line) // whoever does not read it is refused all the same
	}
}
