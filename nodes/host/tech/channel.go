package tech

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// served is a channel of a session.
type served struct {
	h    *held
	m    *Module
	id   string
	kind message.Kind
	conn message.Conn

	out  sync.Mutex   // one message at a time
	busy atomic.Int32 // how much is being done
}

// serve serves a channel until either side or the session ends, and closes conn.
func (c *served) serve(ctx context.Context, conn message.Conn) error {
	c.conn = conn
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// What waits in the connection fails when the session or the caller ends.
	defer context.AfterFunc(c.h.ctx, func() { cancel(context.Cause(c.h.ctx)) })()
	defer context.AfterFunc(ctx, func() {
		if why := context.Cause(ctx); !errors.Is(why, context.Canceled) {
			_ = conn.Close(why)
			return
		}
		_ = conn.Close(nil)
	})()
	var err error
	switch c.kind {
	case message.Terminal:
		err = c.terminal(ctx)
	case message.File:
		err = c.file(ctx)
	case message.Service:
		err = c.service(ctx)
	case message.Registry:
		err = c.registry(ctx)
	}
	if why := context.Cause(ctx); why != nil {
		err = why
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	_ = conn.Close(err) // it may be closed
	return err
}

// send sends a message.
func (c *served) send(ctx context.Context, typ string, payload any, data []byte) error {
	c.out.Lock()
	defer c.out.Unlock()
	return c.conn.Send(ctx, message.Of(typ, payload, data))
}

// refuse tells why something did not work; the channel goes on.
func (c *served) refuse(ctx context.Context, err error) error {
	return c.send(ctx, message.TypeError, failureOf(err), nil)
}

// failures are the codes of message.Failure, by class.
var failures = map[errs.Class]string{
	errs.Invalid: "invalid", errs.NotFound: "not_found", errs.Exists: "conflict", errs.Conflict: "conflict", errs.Denied: "denied",
	errs.Exhausted: "exhausted", errs.Deadline: "unavailable", errs.Unavailable: "unavailable",
}

// unsupported is what this system does not have.
type unsupported struct{ what string }

func (u unsupported) Error() string { return u.what }

// maxError bounds the text of a failure, in bytes.
const maxError = 4 << 10

func failureOf(err error) message.Failure {
	f := message.Failure{Code: failures[errs.ClassOf(err)], Error: strings.ToValidUTF8(err.Error(), "\uFFFD")}
	if f.Code == "" {
		f.Code = "internal"
	}
	if _, ok := errors.AsType[unsupported](err); ok {
		f.Code = "unsupported"
	}
	if len(f.Error) > maxError {
		f.Error = strings.ToValidUTF8(f.Error[:maxError], "") + "…"
	}
	return f
}

// each hands over one message after another; what handle fails with is told, and the channel goes on.
func (c *served) each(ctx context.Context, handle func(context.Context, message.Message) error) error {
	for {
		msg, err := c.conn.Receive(ctx)
		if err != nil {
			return err
		}
		if err := c.work(ctx, msg, handle); err != nil {
			return err
		}
	}
}

// work handles a message, and tells what that fails with. It fails when nobody can be told.
func (c *served) work(ctx context.Context, m message.Message, handle func(context.Context, message.Message) error) error {
	c.busy.Add(1)
	defer c.busy.Add(-1)
	err := handle(ctx, m)
	if err == nil || ctx.Err() != nil {
		return err
	}
	return c.refuse(ctx, err)
}
