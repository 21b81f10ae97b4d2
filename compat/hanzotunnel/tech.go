package hanzotunnel

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/errs"
	techmsg "github.com/hanzoai/hanzod/tunnel/tech/message"
)

// The errors of technician sessions on a link.
var (
	ErrNotLinked = errs.Define(errs.NotFound, "hanzotunnel.not_linked", "the node has no link of this kind")
	ErrTechHeld  = errs.Define(errs.Conflict, "hanzotunnel.tech_held", "the link of the node carries another technician session")
	ErrTechNode  = errs.Define(errs.Unavailable, "hanzotunnel.tech_refused", "the node refused the technician session")
	ErrTechGone  = errs.Define(errs.Unavailable, "hanzotunnel.tech_ended", "the node has ended the technician session")
)

// maxTechError bounds what a node's account of a failure takes here, in bytes.
const maxTechError = 1 << 10

// Held is a technician session over the link of one instance (tunnel.md §3.4). Its channels are told apart by their ids, and
// bounded each: one that nobody reads stops neither the link nor the others. Its methods may be called concurrently. It ends with
// Close, with the link, or when the instance gives it up.
type Held struct {
	c   *conn
	id  string
	own bool // opened by a command: the instance knows credit and the end of channels

	ready chan error // holds the answer to tunnel_open
	gone  chan struct{}

	mu       sync.Mutex
	channels map[string]*techChannel
	answer   bool // tunnel_open was answered
	over     bool
	givenUp  bool
}

type techChannel struct {
	*techmsg.Muxed
	kind techmsg.Kind
}

// Send implements techmsg.Conn.
func (t *techChannel) Send(ctx context.Context, m techmsg.Message) error {
	return techFault(t.Muxed.Send(ctx, m))
}

// Receive implements techmsg.Conn.
func (t *techChannel) Receive(ctx context.Context) (techmsg.Message, error) {
	m, err := t.Muxed.Receive(ctx)
	return m, techFault(err)
}

// techFault gives a class to why a channel has ended.
func techFault(err error) error {
	if _, known := errs.As(err); known || err == nil {
		return err
	}
	var closed *techmsg.CloseError
	switch {
	case errors.Is(err, techmsg.ErrBehind):
		return errs.New(errs.Exhausted, techmsg.ErrBehind.Error())
	case errors.As(err, &closed):
		return errs.New(errs.Unavailable, "the node has ended the channel: "+closed.Text)
	}
	return err
}

// Hold takes the link of a node for a session, before anything is sent. Own says that the node is one of ours, which is put into
// tunnel mode by a command; others are by Ask. It fails with ErrNotLinked and ErrTechHeld.
func (d *Door) Hold(node, session string, own bool) (*Held, error) {
	d.mu.Lock()
	c := d.linked[node]
	d.mu.Unlock()
	if c == nil || c.ending.Load() || c.expelled.Load() {
		return nil, ErrNotLinked
	}
	h := &Held{c: c, id: session, own: own, ready: make(chan error, 1), gone: make(chan struct{}), channels: map[string]*techChannel{}}
	if !c.held.CompareAndSwap(nil, h) {
		return nil, ErrTechHeld
	}
	if c.ctx.Err() != nil { // meanwhile
		c.held.CompareAndSwap(h, nil)
		return nil, ErrNotLinked
	}
	return h, nil
}

// Ask sends tunnel_open and waits for tunnel_ready. Tech is who holds the instance. When it fails, an instance that understood
// is back in heartbeat mode; the session is to be closed in any case.
func (h *Held) Ask(ctx context.Context, tech string) error {
	if err := h.c.sendWait(ctx, &TunnelOpen{SessionID: h.id, TechID: tech}); err != nil {
		return err
	}
	select {
	case err := <-h.ready:
		return err
	case <-h.gone:
		return errGone
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Channel opens a channel. Its messages are those of message; ids are the caller's, and not used twice at a time.
func (h *Held) Channel(ctx context.Context, id string, kind techmsg.Kind) (techmsg.Conn, error) {
	ch := &techChannel{kind: kind}
	put := func(ctx context.Context, envelope json.RawMessage) error {
		return h.c.sendWait(ctx, &TunnelData{ChannelID: id, Data: wire.Raw(envelope)})
	}
	ch.Muxed = techmsg.NewMuxed(put, h.own, func(err error) { h.hangUp(id, ch, err) })
	h.mu.Lock()
	switch {
	case h.over:
		h.mu.Unlock()
		return nil, ErrTechGone
	case h.channels[id] != nil:
		h.mu.Unlock()
		return nil, errs.New(errs.Conflict, "the technician session has a channel of that id")
	}
	h.channels[id] = ch
	h.mu.Unlock()
	if h.own {
		envelope, err := techmsg.Envelope(techmsg.Of(techmsg.TypeChannelOpen, techmsg.ChannelOpen{Session: h.id, Kind: kind}, nil))
		if err == nil {
			err = put(ctx, envelope)
		}
		if err != nil {
			h.drop(id, ch)
			ch.End(err)
			return nil, err
		}
	}
	return ch, nil
}

func (h *Held) drop(id string, ch *techChannel) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.channels[id] == ch {
		delete(h.channels, id)
	}
}

// hangUp tells the instance that a channel was closed here, as far as it can be told: the published messages end what runs under
// a terminal, and no more.
func (h *Held) hangUp(id string, ch *techChannel, err error) {
	h.drop(id, ch)
	m := techmsg.Message{Type: techmsg.TypeClose, Payload: json.RawMessage("{}")}
	switch {
	case h.own:
		var p techmsg.ChannelClose
		if err != nil {
			p.Error = textOf(err)
		}
		m = techmsg.Of(techmsg.TypeChannelClose, p, nil)
	case ch.kind != techmsg.Terminal:
		return
	}
	if envelope, err := techmsg.Envelope(m); err == nil {
		_ = h.c.send(&TunnelData{ChannelID: id, Data: wire.Raw(envelope)}) // the link is gone, or about to be
	}
}

// Close ends the session on the link: an instance that was asked gets tunnel_close. It may be called more than once.
func (h *Held) Close() {
	if h.end(errs.New(errs.Unavailable, "the technician session was closed"), false) && !h.own {
		_ = h.c.send(&TunnelClose{SessionID: h.id}) // its side ends with its link
	}
}

// Done is closed when the link has ended, the instance has given the session up, or it was closed here.
func (h *Held) Done() <-chan struct{} { return h.gone }

// GivenUp says that the instance ended it, and the link stands.
func (h *Held) GivenUp() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.givenUp
}

// end is true once.
func (h *Held) end(why error, givenUp bool) bool {
	h.mu.Lock()
	if h.over {
		h.mu.Unlock()
		return false
	}
	h.over, h.givenUp = true, givenUp
	all := h.channels
	h.channels = map[string]*techChannel{}
	h.mu.Unlock()
	h.c.held.CompareAndSwap(h, nil)
	for _, ch := range all {
		ch.End(why)
	}
	close(h.gone)
	return true
}

func (h *Held) channel(id string) *techChannel {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.channels[id]
}

// technician takes a message of a technician session. What belongs to none of this link is left out: no instance reaches the
// session of another.
func (c *conn) technician(f Frame) {
	h := c.held.Load()
	if h == nil {
		c.pace()
		return
	}
	switch f := f.(type) {
	case *TunnelReady:
		if f.SessionID == h.id && !h.own {
			h.answered(nil)
		}
	case *TunnelError:
		text := wire.TruncateUTF8(f.Error, maxTechError)
		if f.ChannelID == h.id {
			if !h.answered(ErrTechNode.WithText("the node refused the technician session: " + text)) {
				h.end(ErrTechGone.WithText("the node has ended the technician session: "+text), true)
			}
			return
		}
		if ch := h.channel(f.ChannelID); ch != nil {
			ch.Put(techmsg.Of(techmsg.TypeError, failureSaid(text), nil))
			return
		}
		c.pace()
	case *TunnelData:
		ch := h.channel(f.ChannelID)
		switch {
		case ch == nil:
			c.pace()
		case h.own:
			ch.Take(f.Data)
		default:
			for _, m := range foreign(f.Data) {
				ch.Put(m)
			}
		}
	}
}

// answered hands over the answer to tunnel_open; it is false when there was one.
func (h *Held) answered(err error) bool {
	if h.own {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.answer {
		return false
	}
	h.answer = true
	h.ready <- err
	return true
}

// failureSaid is what an instance says of a failure, which has no code.
func failureSaid(text string) techmsg.Failure {
	f := techmsg.Failure{Error: text}
	const unsupported = "unsupported"
	if len(text) >= len(unsupported) && text[:len(unsupported)] == unsupported {
		f.Code = unsupported
	}
	return f
}

// maxPiece is how much output of another instance goes into one message, in bytes: as JSON it may take six times that.
const maxPiece = techmsg.MaxPayload / 6 / 2

// foreign reads an envelope of an instance that is not ours. Output that is larger than a message comes in pieces.
func foreign(envelope []byte) []techmsg.Message {
	m, err := techmsg.FromEnvelope(envelope)
	if err == nil {
		return []techmsg.Message{m}
	}
	failed := []techmsg.Message{techmsg.Of(techmsg.TypeError, techmsg.Failure{Code: "invalid", Error: "the node sent what is not understood: " + err.Error()}, nil)}
	if !errors.Is(err, techmsg.ErrTooLarge) {
		return failed
	}
	var e struct {
		Type    string
		Payload techmsg.Output
	}
	if json.Unmarshal(envelope, &e) != nil || e.Type != techmsg.TypeOutput {
		return failed
	}
	var out []techmsg.Message
	for e.Payload.Stdout != "" || e.Payload.Stderr != "" {
		var p techmsg.Output
		p.Stdout, e.Payload.Stdout = cut(e.Payload.Stdout)
		p.Stderr, e.Payload.Stderr = cut(e.Payload.Stderr)
		out = append(out, techmsg.Of(techmsg.TypeOutput, p, nil))
	}
	last := e.Payload
	last.StdoutB64, last.StderrB64 = nil, nil
	return append(out, techmsg.Of(techmsg.TypeOutput, last, nil))
}

func cut(s string) (head, tail string) {
	if len(s) <= maxPiece {
		return s, ""
	}
	n := maxPiece
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	if n == 0 {
		n = maxPiece
	}
	return s[:n], s[n:]
}

// TechSender sends what an instance says in a technician session. Its methods wait for a slow server, and fail when the link has
// ended; they may be called concurrently.
type TechSender interface {
	Ready(session string) error
	Data(channel string, data json.RawMessage) error
	Error(channel, text string) error
}

// Technician serves the technician sessions of one link. Its methods are called by the reader of the link, and do not wait.
type Technician interface {
	Open(session, owner string)
	CloseSession(session string)
	Data(channel string, data json.RawMessage)
}

// techSender is an uplink as Technicians see it.
type techSender struct{ l *uplink }

func (s techSender) Ready(session string) error {
	return s.l.write(Append(nil, &TunnelReady{SessionID: session}))
}

func (s techSender) Data(channel string, data json.RawMessage) error {
	return s.l.write(Append(nil, &TunnelData{ChannelID: channel, Data: wire.Raw(data)}))
}

func (s techSender) Error(channel, text string) error {
	return s.l.write(Append(nil, &TunnelError{ChannelID: channel, Error: text}))
}

// technician hands over a message of a technician session.
func (l *uplink) technician(f Frame) {
	if l.tech == nil {
		return
	}
	switch f := f.(type) {
	case *TunnelOpen:
		l.tech.Open(f.SessionID, f.TechID)
	case *TunnelClose:
		l.tech.CloseSession(f.SessionID)
	case *TunnelData:
		l.tech.Data(f.ChannelID, json.RawMessage(f.Data))
	}
}
