package tech

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// A server of ours opens the session by tech.open, and on a link without channels each channel by message.TypeChannelOpen. Its
// messages then have credit, and an end.

// muxed hands a message to a channel of such a server, and opens it. It is false for messages of other servers.
func (f *Frames) muxed(channel string, m message.Message) bool {
	f.mu.Lock()
	x := f.owned[channel]
	f.mu.Unlock()
	switch {
	case m.Type == message.TypeChannelOpen && x == nil:
		f.openMuxed(channel, m)
		return true
	case x != nil:
		x.Put(m)
		return true
	}
	// What comes for a channel that has just ended.
	return m.Type == message.TypeChannelOpen || m.Type == message.TypeChannelCredit || m.Type == message.TypeChannelClose
}

// put sends an envelope.
func (f *Frames) put(channel string) func(context.Context, json.RawMessage) error {
	return func(_ context.Context, envelope json.RawMessage) error { return f.to.Data(channel, envelope) }
}

// hangUp tells the server that a channel has ended here.
func (f *Frames) hangUp(channel string, err error) {
	var p message.ChannelClose
	if err != nil && !errors.Is(err, context.Canceled) {
		p.Error = failureOf(err).Error
	}
	envelope, err := message.Envelope(message.Of(message.TypeChannelClose, p, nil))
	if err == nil {
		_ = f.to.Data(channel, envelope) // the link ends when it fails
	}
}

func (f *Frames) openMuxed(channel string, m message.Message) {
	var p message.ChannelOpen
	err := m.Into(&p)
	var h *held
	if err == nil {
		h, err = f.m.machine.find(p.Session, f.ended, true)
	}
	if err == nil && h.Foreign {
		err = ErrSession
	}
	var c *served
	if err == nil {
		c, err = h.begin(channel, p.Kind)
	}
	if err != nil {
		select { // the reader of the link does not wait
		case f.says <- func() { f.hangUp(channel, err) }:
		default:
		}
		return
	}
	x := message.NewMuxed(f.put(channel), true, func(err error) { f.m.wg.Go(func() { f.hangUp(channel, err) }) })
	f.mu.Lock()
	if f.owned == nil {
		f.owned = map[string]*message.Muxed{}
	}
	f.owned[channel] = x
	f.mu.Unlock()
	go func() { // ends with the channel, and with the session
		defer h.finish(c)
		_ = c.serve(context.Background(), x) // the other side was told why
		f.mu.Lock()
		delete(f.owned, channel)
		f.mu.Unlock()
		x.End(errs.New(errs.Unavailable, "the channel has ended"))
	}()
}
