package nodes

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// Limits of channels.
const (
	// MaxNodeChannels bounds the channels of one node, those among them that it has not opened yet, and
	// MaxChannels those of all nodes. Each may hold one window of HTTP/2 (1 MiB) that nobody has read.
	MaxNodeChannels = 64
	MaxChannels     = 512
	// ChannelWait is how long a node may take to open a channel; a shorter time limit of the call counts. A
	// person at the node may be asked before.
	ChannelWait = 2 * time.Minute
)

// The errors of channels.
var (
	ErrNoChannel        = errs.Define(errs.Unavailable, "nodes.no_channel", "the link of the node carries no channels")
	ErrChannelUnknown   = errs.Define(errs.NotFound, "nodes.channel_unknown", "no channel of this name is expected from this node")
	ErrChannelNotOpened = errs.Define(errs.Unavailable, "nodes.channel_not_opened", "the node answered without opening the channel that it was asked for")
	ErrChannelLate      = errs.Define(errs.Deadline, "nodes.channel_late", "the node did not open the channel in time")
	ErrChannelParams    = errs.Define(errs.Invalid, "nodes.channel_params", "the parameters of a command with a channel must be a JSON object")
	ErrChannelFailed    = errs.Define(errs.Unavailable, "nodes.channel_failed", "the node gave the channel up")
	ErrChannelClosed    = errs.Define(errs.Conflict, "nodes.channel_closed", "the channel was closed")
	ErrTooManyChannels  = errs.Define(errs.Exhausted, "nodes.too_many_channels", "too many channels to nodes are open; try again later")
)

// Channeled is a Link whose node can open channels beside it.
type Channeled interface {
	Link
	Channels() bool
}

// opening is a channel that a node is asked for.
type opening struct {
	name  string
	own   *Attachment
	taken chan Channel // has room for one
}

// channelSet holds the channels of all nodes, open and expected.
type channelSet struct {
	mu       sync.Mutex
	expected map[string]*opening
	open     map[*Attachment]map[Channel]struct{}
	each     map[*Attachment]int // both kinds
	all      int
}

func newChannelSet() *channelSet {
	return &channelSet{expected: map[string]*opening{}, open: map[*Attachment]map[Channel]struct{}{}, each: map[*Attachment]int{}}
}

// expect lets the node of an attachment take the name.
func (s *channelSet) expect(o *opening, own *Attachment) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.each[own] >= MaxNodeChannels || s.all >= MaxChannels {
		return ErrTooManyChannels
	}
	o.own = own
	s.expected[o.name] = o
	s.count(own, 1)
	return nil
}

func (s *channelSet) count(own *Attachment, n int) {
	s.all += n
	if s.each[own] += n; s.each[own] == 0 {
		delete(s.each, own)
	}
}

// forget ends the expectation, and returns the channel when it came already.
func (s *channelSet) forget(o *opening) Channel {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.expected[o.name] == o {
		delete(s.expected, o.name)
		s.count(o.own, -1)
		return nil
	}
	select {
	case ch := <-o.taken:
		return ch
	default:
		return nil
	}
}

func (s *channelSet) leave(own *Attachment, ch Channel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.open[own][ch]; !there {
		return
	}
	if delete(s.open[own], ch); len(s.open[own]) == 0 {
		delete(s.open, own)
	}
	s.count(own, -1)
}

// end closes the channels of an attachment that is gone.
func (s *channelSet) end(own *Attachment) {
	s.mu.Lock()
	list := make([]Channel, 0, len(s.open[own]))
	for ch := range s.open[own] {
		list = append(list, ch)
	}
	s.mu.Unlock()
	for _, ch := range list {
		_ = ch.Close(ErrDisconnected) // it has ended then
	}
}

// TakeChannel hands over the channel that the node of this attachment opened by its name, which works once. A
// channel is closed when the attachment ends. The door calls leave when the channel has ended. Close of the
// channel does not wait.
func (a *Attachment) TakeChannel(name string, ch Channel) (leave func(), err error) {
	s := a.svc.channels
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.expected[name]
	if o == nil || o.own != a || a.closed() {
		return nil, ErrChannelUnknown
	}
	delete(s.expected, name)
	if s.open[a] == nil {
		s.open[a] = map[Channel]struct{}{}
	}
	s.open[a][ch] = struct{}{}
	o.taken <- ch
	return func() { s.leave(a, ch) }, nil
}

// Channels returns how many channels of nodes are open or expected.
func (s *Service) Channels() int {
	s.channels.mu.Lock()
	defer s.channels.mu.Unlock()
	return s.channels.all
}

// OpenChannel is Invoke of a command that moves bytes: the node is told a name for a channel in the parameter
// "channel", after everything that decides on the call, and opens it. It returns when the channel stands; answer
// then waits for the node's answer to the call, which may come before the channel ends or after it. ctx
// covers the call, until its answer, and not the channel: the caller must Close that. Idempotency keys and
// WaitForNode do not count here. It fails with ErrNoChannel, with nothing sent, when the link of the node has no
// channels.
func (s *Service) OpenChannel(ctx context.Context, c identity.Caller, in InvokeIn) (ch Channel, answerOf func(context.Context) (InvokeOut, error), err error) {
	in.NodeID, in.Command = s.Resolve(c, trim(in.NodeID)), trim(in.Command)
	in.IdempotencyKey, in.WaitForNode = uuid.NewString(), nil
	if err := check(in); err != nil {
		return nil, nil, err
	}
	return s.openChannel(ctx, in.Command, func(ctx context.Context, then func(a answer, ran bool)) { s.invoke(ctx, c, in, then, nil) })
}

// OpenChannelInternal is OpenChannel for the daemon itself: past the command policy, with no guard.
func (s *Service) OpenChannelInternal(ctx context.Context, nodeID, command string, params []byte) (Channel, func(context.Context) (InvokeOut, error), error) {
	e, ok := s.reg.get(nodeID)
	if !ok {
		return nil, nil, ErrNotConnected.With("node", nodeID)
	}
	in := InvokeIn{NodeID: nodeID, Command: command, Params: params}
	return s.openChannel(ctx, command, func(ctx context.Context, then func(a answer, ran bool)) {
		s.send(ctx, identity.Internal(), e, in, then, nil)
	})
}

// openChannel makes a call that names a channel, and waits for the channel.
func (s *Service) openChannel(ctx context.Context, command string, call func(ctx context.Context, then func(a answer, ran bool))) (ch Channel, answerOf func(context.Context) (InvokeOut, error), err error) {
	var name [16]byte
	rand.Read(name[:]) // never fails
	o := &opening{name: hex.EncodeToString(name[:]), taken: make(chan Channel, 1)}
	ctx, cancel := context.WithCancel(context.WithValue(ctx, openingKey{}, o))
	var a answer
	done := make(chan struct{})
	call(ctx, func(got answer, _ bool) {
		a = got
		close(done)
		cancel()
	})
	late := time.NewTimer(ChannelWait)
	defer late.Stop()
	select {
	case ch = <-o.taken:
	case <-done:
		if ch = s.channels.forget(o); ch == nil && a.err != nil {
			err = a.err
		}
	case <-late.C:
		ch, err = s.channels.forget(o), ErrChannelLate
	}
	switch {
	case ch != nil:
		return ch, func(ctx context.Context) (InvokeOut, error) {
			select {
			case <-done:
				return a.out, a.err
			case <-ctx.Done():
				return InvokeOut{}, ctx.Err()
			}
		}, nil
	case err == nil:
		err = ErrChannelNotOpened
	}
	cancel()
	return nil, nil, withCommand(err, command)
}

func channeled(e *entry) bool {
	l, ok := e.link.(Channeled)
	return ok && l.Channels()
}

// openingKey is where a call that OpenChannel made has its channel, on its way through what decides on it.
type openingKey struct{}

func openingOf(ctx context.Context) *opening {
	o, _ := ctx.Value(openingKey{}).(*opening)
	return o
}

// nameChannel puts the name of the channel of a call into its parameters, and expects it from the node.
func (s *Service) nameChannel(e *entry, o *opening, in []byte) ([]byte, error) {
	if !channeled(e) { // the node came back by another link
		return nil, ErrNoChannel.With("node", e.node.ID)
	}
	params := map[string]json.RawMessage{}
	if len(bytes.TrimSpace(in)) > 0 {
		if err := json.Unmarshal(in, &params); err != nil || params == nil {
			return nil, ErrChannelParams
		}
	}
	params["channel"] = json.RawMessage(`"` + o.name + `"`)
	out, err := json.Marshal(params)
	if err != nil {
		return nil, ErrChannelParams.Wrap(err)
	}
	return out, s.channels.expect(o, e.own)
}
