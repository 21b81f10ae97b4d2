// Package carrier makes carriers of the streams of TunnelService/Carry, at both ends.
//
// A message is written with one copy, into a buffer that gRPC gives back, and read with one at most: Codec knows the
// two messages of Carry by sight and leaves all others to the codec of gRPC. What is on the wire is the same.
package carrier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/encoding"
	encproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

const (
	// closeWait is how long the other end may take to take a close and to end the stream.
	closeWait = time.Second
	// noCode is what a close without a code is read as, as on WebSockets; protocolCode and tooBig are of ours.
	noCode       = 1005
	protocolCode = 1002
	tooBig       = 1009
	// fieldFrames and fieldClose are the members of CarryRequest and CarryResponse.
	fieldFrames = 1
	fieldClose  = 2
	// maxHead is the largest head of a message.
	maxHead = 8
)

// Codec is the codec of gRPC that carriers need at both ends.
var Codec encoding.CodecV2 = codec{}

type codec struct{}

// outgoing and incoming are the messages that the codec knows. What is in incoming is free until the next is read.
type (
	outgoing struct{ data mem.BufferSlice }
	incoming struct {
		frames []byte
		closed *tunnelv1.CarryClose
		held   mem.Buffer
		big    *[]byte
	}
)

func (codec) Name() string { return encproto.Name }

// Marshal implements encoding.CodecV2.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(*outgoing); ok {
		return m.data, nil
	}
	return encoding.GetCodecV2(encproto.Name).Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*incoming)
	if !ok {
		return encoding.GetCodecV2(encproto.Name).Unmarshal(data, v)
	}
	return m.take(data)
}

var errLarge = errors.New("a message of a carrier is larger than 262,144 bytes")

// pool are buffers for whole messages with their heads. It is a mem.BufferPool for those of gRPC.
type pool struct{ p sync.Pool }

var large = &pool{sync.Pool{New: func() any { b := make([]byte, wire.MaxMessage+2*maxHead); return &b }}}

// Get implements mem.BufferPool, for lengths up to that of a message.
func (p *pool) Get(n int) *[]byte {
	b := p.p.Get().(*[]byte)
	*b = (*b)[:n]
	return b
}

// Put implements mem.BufferPool.
func (p *pool) Put(b *[]byte) {
	*b = (*b)[:cap(*b)]
	p.p.Put(b)
}

// take reads a message.
func (m *incoming) take(data mem.BufferSlice) error {
	n := data.Len()
	if n > wire.MaxMessage+2*maxHead {
		return errLarge
	}
	var b []byte
	if len(data) == 1 {
		data.Ref()
		m.held = data[0]
		b = m.held.ReadOnlyData()
	} else {
		m.big = large.Get(n)
		b = *m.big
		data.CopyTo(b)
	}
	for len(b) > 0 {
		field, kind, k := protowire.ConsumeTag(b)
		if k < 0 {
			return protowire.ParseError(k)
		}
		b = b[k:]
		if kind != protowire.BytesType || field != fieldFrames && field != fieldClose {
			if k = protowire.ConsumeFieldValue(field, kind, b); k < 0 {
				return protowire.ParseError(k)
			}
			b = b[k:]
			continue
		}
		value, k := protowire.ConsumeBytes(b)
		if k < 0 {
			return protowire.ParseError(k)
		}
		b = b[k:]
		if field == fieldFrames {
			m.frames, m.closed = value, nil
			continue
		}
		m.frames, m.closed = nil, &tunnelv1.CarryClose{}
		if err := proto.Unmarshal(value, m.closed); err != nil {
			return err
		}
	}
	return nil
}

// reset gives back what a message was in.
func (m *incoming) reset() {
	if m.held != nil {
		m.held.Free()
	}
	if m.big != nil {
		large.Put(m.big)
	}
	*m = incoming{}
}

// Stream is one end of the stream, which has been called or accepted with Codec.
type Stream interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

// Carrier implements mux.Carrier. It owns no goroutine.
type Carrier struct {
	stream Stream
	// ended ends what this end sends: that of clients.
	ended  func() error
	remote string
	cut    func()

	read sync.Mutex // held while somebody reads
	last incoming

	write sync.Mutex // held while something is written
	shut  bool       // nothing is written any more

	state   sync.Mutex // guards what follows
	closing bool       // Close was called
	over    bool
	watched <-chan struct{} // the end of the context that reading stops with
	unwatch func() bool
	reading bool
}

// New makes a carrier of a stream. cut ends the stream at once and makes what waits in it fail; it may be called more
// than once. closeSend ends the direction of a client and is nil at servers, whose handler ends with the stream.
func New(s Stream, remote string, cut func(), closeSend func() error) *Carrier {
	return &Carrier{stream: s, remote: remote, cut: cut, ended: closeSend}
}

var _ mux.Carrier = (*Carrier)(nil)

// RemoteAddr implements mux.Carrier.
func (c *Carrier) RemoteAddr() string { return c.remote }

// Read implements mux.Carrier. A context that ends meanwhile cuts the carrier.
func (c *Carrier) Read(ctx context.Context) ([]byte, error) {
	c.state.Lock()
	closing := c.closing
	c.state.Unlock()
	if closing {
		return nil, net.ErrClosed // while Close reads
	}
	c.read.Lock()
	defer c.read.Unlock()
	if err := c.watch(ctx); err != nil {
		return nil, err
	}
	message, err := c.next()
	c.state.Lock()
	c.reading = false
	closing = c.closing
	c.state.Unlock()
	switch {
	case closing:
		return nil, net.ErrClosed
	case err == nil:
		return message, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	if _, ok := errors.AsType[*mux.CloseError](err); !ok {
		c.abort()
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("the carrier was lost: %w", io.ErrUnexpectedEOF)
		}
		return nil, err
	}
	c.write.Lock()
	c.shut = true
	c.write.Unlock()
	c.abort()
	return nil, err
}

func (c *Carrier) next() ([]byte, error) {
	for {
		c.last.reset()
		if err := c.stream.RecvMsg(&c.last); err != nil {
			return nil, err
		}
		switch m := &c.last; {
		case m.closed != nil:
			code := int(m.closed.GetCode())
			if code == 0 {
				code = noCode
			}
			return nil, &mux.CloseError{Code: code, Reason: m.closed.GetReason()}
		case len(m.frames) > wire.MaxMessage:
			return nil, errLarge
		default:
			return m.frames, nil
		}
	}
}

// watch makes the end of ctx end a read. A context that is seen again costs nothing.
func (c *Carrier) watch(ctx context.Context) error {
	done := ctx.Done()
	c.state.Lock()
	defer c.state.Unlock()
	if c.closing || c.over {
		return net.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c.reading = true
	if done == c.watched {
		return nil
	}
	if c.unwatch != nil {
		c.unwatch()
	}
	c.watched, c.unwatch = done, nil
	if done != nil {
		c.unwatch = context.AfterFunc(ctx, func() {
			c.state.Lock()
			now := c.reading && c.watched == done
			c.state.Unlock()
			if now {
				c.abort()
			}
		})
	}
	return nil
}

// abort cuts the stream.
func (c *Carrier) abort() {
	c.state.Lock()
	c.over = true
	if c.unwatch != nil {
		c.unwatch()
	}
	c.watched, c.unwatch = nil, nil
	c.state.Unlock()
	c.cut()
}

// Write implements mux.Carrier.
func (c *Carrier) Write(parts net.Buffers) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n > wire.MaxMessage {
		return errLarge
	}
	buffers := mem.BufferPool(large)
	size := n + maxHead
	if size <= 4<<10 {
		buffers = mem.DefaultBufferPool()
	}
	b := buffers.Get(size)
	out := protowire.AppendTag((*b)[:0], fieldFrames, protowire.BytesType)
	out = protowire.AppendVarint(out, uint64(n))
	for _, p := range parts {
		out = append(out, p...)
	}
	*b = out
	c.write.Lock()
	defer c.write.Unlock()
	if c.shut {
		return net.ErrClosed
	}
	return c.send(&outgoing{mem.BufferSlice{mem.NewBuffer(b, buffers)}})
}

// send hands a message to gRPC. The caller holds write.
func (c *Carrier) send(m *outgoing) error {
	c.state.Lock()
	over := c.over
	c.state.Unlock()
	if over {
		return net.ErrClosed
	}
	err := c.stream.SendMsg(m)
	if err != nil {
		c.shut = true
		if errors.Is(err, io.EOF) { // the reader learns why
			return fmt.Errorf("the carrier was lost: %w", io.ErrUnexpectedEOF)
		}
	}
	return err
}

// Close implements mux.Carrier. With a code it says so and returns, after a second at most; with 1005 it says so
// without a code.
func (c *Carrier) Close(code int, reason string) error {
	c.state.Lock()
	first := !c.closing
	c.closing = true
	c.state.Unlock()
	if code == 0 {
		c.abort()
		return nil
	}
	if !first {
		return nil
	}
	late := time.AfterFunc(closeWait, c.abort)
	if code == noCode {
		code = 0
	}
	m, err := proto.Marshal(&tunnelv1.CarryRequest{Message: &tunnelv1.CarryRequest_Close{Close: &tunnelv1.CarryClose{Code: uint32(code), Reason: reason}}})
	if err != nil {
		m = nil // a reason that is no text: the end says enough
	}
	c.write.Lock()
	if !c.shut && m != nil {
		_ = c.send(&outgoing{mem.BufferSlice{mem.SliceBuffer(m)}}) // the stream ends either way
	}
	c.shut = true
	if c.ended != nil {
		_ = c.ended() // never fails
	}
	c.write.Unlock()
	if c.ended == nil { // the handler returns, and gRPC sends what waits before it ends the stream
		late.Stop()
		c.abort()
		return nil
	}
	// What was sent is on its way for sure when the other end has ended the stream: the program may end then.
	defer late.Stop()
	c.read.Lock()
	defer c.read.Unlock()
	for {
		c.last.reset()
		if c.stream.RecvMsg(&c.last) != nil {
			c.abort()
			return nil
		}
	}
}
