package rpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/peer"

	"github.com/hanzoai/hanzod/errs"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/nodes"
)

const (
	// maxChannelStreams bounds the streams of channels, those that have not named theirs yet among them.
	maxChannelStreams = 2 * nodes.MaxChannels
	// maxPiece is how many bytes of a channel travel in one message.
	maxPiece = 256 << 10
)

// The errors of channels.
var (
	errChannelOpen  = errs.Define(errs.Invalid, "rpc.channel_open", "the first message on a channel is its name, and only the first")
	errChannelLate  = errs.Define(errs.Deadline, "rpc.channel_late", "the name of the channel did not come in time")
	errChannelPiece = errs.Define(errs.Invalid, "rpc.channel_piece", "a piece of a channel is larger than 256 KiB, or came after the end")
	errChannelLink  = errs.Define(errs.Denied, "rpc.channel_link", "a node opens its channels on the connection of its link")
)

// Channel is a stream of bytes beside the link of a node. The handler waits for its end: who asked for it reads
// and writes.
func (n *nodesServer) Channel(stream nodesv1.NodeService_ChannelServer) error {
	ctx := stream.Context()
	conn := connOf(ctx)
	if conn == nil || !n.s.links.on(conn) {
		return errChannelLink
	}
	ch := &channel{stream: stream, ctx: ctx, done: make(chan struct{})}
	name, err := ch.name(ctx)
	if err != nil {
		return err
	}
	leave, err := ch.open(func() (func(), error) { return n.s.links.take(conn, name, ch) })
	if err != nil {
		return err
	}
	defer leave()
	select {
	case <-ch.done:
		return ch.cause
	case <-ctx.Done():
		_ = ch.Close(context.Cause(ctx)) // only the first reason counts
		return context.Cause(ctx)
	}
}

// connOf is the connection of a call, nil when it is not known. It tells connections apart and nothing else.
func connOf(ctx context.Context) any {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	if c, ok := p.AuthInfo.(interface{ Conn() any }); ok {
		return c.Conn()
	}
	return nil
}

// on says whether a node has its link on the connection.
func (s *links) on(conn any) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.all {
		if l.conn == conn && l.att != nil {
			return true
		}
	}
	return false
}

// take hands the channel to the link on its connection that expects it.
func (s *links) take(conn any, name string, ch nodes.Channel) (leave func(), err error) {
	s.mu.Lock()
	var there []*nodes.Attachment
	for l := range s.all {
		if l.conn == conn && l.att != nil {
			there = append(there, l.att)
		}
	}
	s.mu.Unlock()
	for _, a := range there {
		if leave, err := a.TakeChannel(name, ch); err == nil {
			return leave, nil
		}
	}
	return nil, nodes.ErrChannelUnknown
}

// admit notes under which attachment the node of a link is known.
func (s *links) admit(l *link, a *nodes.Attachment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.att = a
}

// channel implements nodes.Channel.
type channel struct {
	stream nodesv1.NodeService_ChannelServer
	ctx    context.Context //nolint:containedctx // that of the stream

	read  sync.Mutex
	rest  []byte // of the last piece
	ended error  // what reading ends with

	write sync.Mutex
	shut  bool // this side has ended its direction

	once  sync.Once
	done  chan struct{}
	cause error // set before done is closed
}

// name waits for the first message.
func (c *channel) name(ctx context.Context) (string, error) {
	type first struct {
		m   *nodesv1.ChannelRequest
		err error
	}
	got := make(chan first, 1)
	go func() { // ends with the stream at the latest
		m, err := c.stream.Recv()
		got <- first{m, err}
	}()
	late := time.NewTimer(registerTime)
	defer late.Stop()
	select {
	case f := <-got:
		if f.err != nil {
			return "", recvEnd(f.err)
		}
		open, ok := f.m.GetMessage().(*nodesv1.ChannelRequest_Open)
		if !ok || open.Open == "" {
			return "", errChannelOpen
		}
		return open.Open, nil
	case <-late.C:
		return "", errChannelLate
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// open takes the channel and says so, before anything else goes to the node.
func (c *channel) open(take func() (func(), error)) (leave func(), err error) {
	c.write.Lock()
	defer c.write.Unlock()
	if leave, err = take(); err != nil {
		return nil, err
	}
	if err := c.send(&nodesv1.ChannelResponse{Message: &nodesv1.ChannelResponse_Opened{Opened: &nodesv1.ChannelOpened{}}}); err != nil {
		_ = c.Close(err) // whoever has it learns of it
		leave()
		return nil, err
	}
	return leave, nil
}

// Read implements nodes.Channel.
func (c *channel) Read(p []byte) (int, error) {
	c.read.Lock()
	defer c.read.Unlock()
	for len(c.rest) == 0 {
		piece, err := c.next()
		if err != nil {
			return 0, err
		}
		c.rest = piece
	}
	n := copy(p, c.rest)
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		c.rest = nil
	}
	return n, nil
}

// Piece returns what came in one piece, or what Read has left of it; it is the caller's. It ends as Read does.
func (c *channel) Piece() ([]byte, error) {
	c.read.Lock()
	defer c.read.Unlock()
	if piece := c.rest; len(piece) > 0 {
		c.rest = nil
		return piece, nil
	}
	return c.next()
}

// WriteTo implements io.WriterTo: the pieces go on as they came.
func (c *channel) WriteTo(w io.Writer) (int64, error) {
	c.read.Lock()
	defer c.read.Unlock()
	var all int64
	for {
		piece := c.rest
		if c.rest = nil; len(piece) == 0 {
			var err error
			if piece, err = c.next(); errors.Is(err, io.EOF) {
				return all, nil
			} else if err != nil {
				return all, err
			}
		}
		n, err := w.Write(piece)
		all += int64(n)
		if err != nil {
			c.rest = piece[n:]
			return all, err
		}
	}
}

// next waits for a piece. The caller holds read.
func (c *channel) next() ([]byte, error) {
	if c.ended != nil {
		return nil, c.ended
	}
	piece, err := c.recv()
	if err != nil {
		c.ended = err
		if !errors.Is(err, io.EOF) {
			_ = c.Close(err) // the other direction is of no use
		}
	}
	return piece, err
}

func (c *channel) recv() ([]byte, error) {
	m, err := c.stream.Recv()
	select {
	case <-c.done: // whatever broke, it broke because of that
		return nil, c.why()
	default:
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil, nodes.ErrChannelFailed.WithText("the node left the channel before its end")
	case err != nil && c.ctx.Err() != nil:
		return nil, context.Cause(c.ctx)
	case err != nil:
		return nil, nodes.ErrChannelFailed.Wrap(err)
	}
	switch m := m.GetMessage().(type) {
	case *nodesv1.ChannelRequest_Data:
		if len(m.Data) > maxPiece {
			return nil, errChannelPiece
		}
		return m.Data, nil
	case *nodesv1.ChannelRequest_End:
		return nil, io.EOF
	case *nodesv1.ChannelRequest_Error:
		return nil, nodes.ErrChannelFailed.WithText(m.Error.GetMessage()).With("nodeCode", m.Error.GetCode(), "nodeMessage", m.Error.GetMessage())
	}
	return nil, errChannelOpen
}

// why is what callers get after the end.
func (c *channel) why() error {
	if c.cause != nil {
		return c.cause
	}
	return nodes.ErrChannelClosed
}

// Write implements nodes.Channel.
func (c *channel) Write(p []byte) (int, error) {
	c.write.Lock()
	defer c.write.Unlock()
	all := 0
	for len(p) > 0 {
		piece := p[:min(len(p), maxPiece)]
		if err := c.send(&nodesv1.ChannelResponse{Message: &nodesv1.ChannelResponse_Data{Data: piece}}); err != nil {
			return all, err
		}
		all, p = all+len(piece), p[len(piece):]
	}
	return all, nil
}

// send hands a message to the stream. The caller holds write.
func (c *channel) send(m *nodesv1.ChannelResponse) error {
	select {
	case <-c.done:
		return c.why()
	default:
	}
	if c.shut {
		return nodes.ErrChannelClosed
	}
	if err := c.stream.Send(m); err != nil {
		select {
		case <-c.done:
			return c.why()
		default:
		}
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		return nodes.ErrChannelFailed.Wrap(err)
	}
	return nil
}

// CloseWrite implements nodes.Channel.
func (c *channel) CloseWrite() error {
	c.write.Lock()
	defer c.write.Unlock()
	if c.shut {
		return nil
	}
	err := c.send(&nodesv1.ChannelResponse{Message: &nodesv1.ChannelResponse_End{End: &nodesv1.ChannelEnd{}}})
	c.shut = true
	return err
}

// Close implements nodes.Channel. It does not wait: the handler ends the stream, and with it what waits.
func (c *channel) Close(err error) error {
	c.once.Do(func() {
		c.cause = err
		close(c.done)
	})
	return nil
}
