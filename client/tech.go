package client

import (
	"context"
	"errors"
	"io"
	"sync"

	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// techKinds are the kinds of channels by their numbers.
var techKinds = map[message.Kind]tunnelv1.TechKind{
	message.Terminal: tunnelv1.TechKind_TECH_KIND_TERMINAL, message.File: tunnelv1.TechKind_TECH_KIND_FILE,
	message.Registry: tunnelv1.TechKind_TECH_KIND_REGISTRY, message.Service: tunnelv1.TechKind_TECH_KIND_SERVICE,
}

// TechKind is the number of a kind of channels; that of none for what is no kind.
func TechKind(k message.Kind) tunnelv1.TechKind { return techKinds[k] }

// TechChannel opens a channel of a technician session. It ends with ctx or with Close. Its errors are those of a call.
func (c *Client) TechChannel(ctx context.Context, session string, kind message.Kind) (message.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := c.Technicians.Channel(ctx)
	if err == nil {
		err = stream.Send(&tunnelv1.TechSessionServiceChannelRequest{Item: &tunnelv1.TechSessionServiceChannelRequest_Join{
			Join: &tunnelv1.TechJoin{SessionId: session, Kind: techKinds[kind]},
		}})
	}
	if err == nil || errors.Is(err, io.EOF) { // the reason comes by receiving
		_, err = stream.Recv()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return &techChannel{stream: stream, cancel: cancel}, nil
}

// techChannel implements message.Conn.
type techChannel struct {
	stream tunnelv1.TechSessionService_ChannelClient
	cancel context.CancelFunc
	send   sync.Mutex
	once   sync.Once
}

func (t *techChannel) Send(_ context.Context, m message.Message) error {
	t.send.Lock()
	defer t.send.Unlock()
	return t.stream.Send(&tunnelv1.TechSessionServiceChannelRequest{Item: &tunnelv1.TechSessionServiceChannelRequest_Message{
		Message: &tunnelv1.TechMessage{Type: m.Type, Payload: m.Payload, Data: m.Data},
	}})
}

func (t *techChannel) Receive(context.Context) (message.Message, error) {
	for {
		r, err := t.stream.Recv()
		if err != nil {
			return message.Message{}, err
		}
		if m := r.GetMessage(); m != nil {
			return message.Message{Type: m.GetType(), Payload: m.GetPayload(), Data: m.GetData()}, nil
		}
	}
}

func (t *techChannel) Close(err error) error {
	t.once.Do(func() {
		if err == nil {
			t.send.Lock()
			_ = t.stream.CloseSend() // it has ended
			t.send.Unlock()
		}
		t.cancel()
	})
	return nil
}
