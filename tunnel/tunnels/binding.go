package tunnels

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/tunnel/bindings"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// modeDial is of bindings whose streams the client opens (tunnel.md §4.3).
const modeDial = "dial"

// The kinds of streams.
const (
	kindHTTP = bindings.KindHTTP
	kindTCP  = bindings.KindTCP
	kindDial = "dial"
)

// unknownBind is the code of UNBIND_ERR.
const unknownBind = "UNKNOWN_BINDING"

// binding is one of a tunnel, and the upstream of its visitors. The service's mutex guards what follows mu's own.
type binding struct {
	t       *tunnel
	id      int
	kind    string
	mode    string
	label   string
	node    string
	created time.Time
	// told is closed when the client knows of it: no stream comes before (tunnel.md §4.6).
	told chan struct{}

	host   string
	port   int
	url    string
	access string
	// revoked is why it ended before the client knew of it.
	revoked *string
	ended   bool
	ways    map[target]way // of mode dial

	mu      sync.Mutex
	streams map[*stream]struct{}
	total   uint64
	was     counts
}

// control is mux's Control.
func (att *attachment) control(index int, f wire.Frame) error {
	if f.Type >= wire.FirstExtension && f.Type <= wire.LastExtension {
		return nil
	}
	if f.Type == wire.GoAway {
		att.away.Store(true)
		return att.do(func(context.Context) {
			att.t.s.endOf(att.t, att, ending{close: closeNormal, reason: "closed by the client"})
		})
	}
	if index != 0 {
		return &mux.SessionError{Code: wire.CodeProtocol, Message: "a further carrier has no frames of the session"}
	}
	switch f.Type {
	case wire.Bind:
		var b wire.BindBody
		if wire.Decode(f.Payload, &b) != nil {
			return &mux.SessionError{Code: wire.CodeProtocol, Message: "BIND cannot be read"}
		}
		return att.do(func(ctx context.Context) { att.bind(ctx, b) })
	case wire.Unbind:
		var b wire.UnbindBody
		if wire.Decode(f.Payload, &b) != nil {
			return &mux.SessionError{Code: wire.CodeProtocol, Message: "UNBIND cannot be read"}
		}
		return att.do(func(context.Context) { att.unbind(b.BindID) })
	}
	return &mux.SessionError{Code: wire.CodeProtocol, Message: fmt.Sprintf("a client sends no frame of type 0x%02x there", uint8(f.Type))}
}

// do lets something be done in its turn.
func (att *attachment) do(what func(context.Context)) error {
	select {
	case att.commands <- what:
		return nil
	default:
		return &mux.SessionError{Code: wire.CodeCalm, Message: "too many frames of the session wait for an answer"}
	}
}

// say sends a frame of stream 0.
func (att *attachment) say(t wire.Type, body any) {
	_ = att.sess.Send(t, wire.Encode(body)) // an attachment that has ended needs none
}

// bind answers BIND.
func (att *attachment) bind(ctx context.Context, in wire.BindBody) {
	if in.Mode != modeDial {
		b, err := att.expose(ctx, in)
		att.answer(in, b, err)
		return
	}
	// What a node has to be asked may take its time.
	if att.dialing.Add(1) > maxDialBinds {
		att.dialing.Add(-1)
		att.answer(in, nil, bindings.ErrBindCap)
		return
	}
	att.t.s.wg.Go(func() {
		defer att.dialing.Add(-1)
		b, err := att.reach(ctx, in)
		att.answer(in, b, err)
	})
}

// reserve makes a binding that nobody knows of yet.
func (att *attachment) reserve(in wire.BindBody) (*binding, error) {
	t := att.t
	s := t.s
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case t.ended || t.closing:
		return nil, ErrStopping
	case len(t.binds) >= bindings.MaxPerTunnel:
		return nil, bindings.ErrBindCap
	}
	t.lastBind++
	b := &binding{
		t: t, id: t.lastBind, kind: in.Kind, mode: in.Mode, label: in.Label, node: in.Node, host: in.Host, port: in.ContainerPort, created: s.cfg.Now(),
		told: make(chan struct{}), streams: map[*stream]struct{}{},
	}
	t.binds[b.id] = b
	return b, nil
}

// expose makes a binding whose streams the server opens.
func (att *attachment) expose(ctx context.Context, in wire.BindBody) (*binding, error) {
	t := att.t
	s := t.s
	b, err := att.reserve(in)
	if err != nil {
		return nil, err
	}
	out, err := s.cfg.Bindings.Bind(ctx, t.caller, bindings.BindIn{
		TunnelID: t.id, BindID: b.id, Kind: in.Kind, Mode: in.Mode, Port: in.ContainerPort, Host: in.Host, Label: in.Label,
		Takeover: in.Takeover != nil && *in.Takeover, Subdomain: in.Subdomain, Access: bindings.Access(in.Access), Upstream: b, Revoked: b.revoke,
	})
	s.mu.Lock()
	if err != nil {
		delete(t.binds, b.id)
	}
	b.port, b.url = out.Port, out.PublicURL
	b.host, b.access = out.Binding.Host, string(out.Binding.Access)
	late := t.ended
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if late {
		_ = s.cfg.Bindings.Unbind(t.id, b.id) // End may have been before it
	}
	return b, nil
}

// answer says how a BIND went.
func (att *attachment) answer(in wire.BindBody, b *binding, err error) {
	t := att.t
	s := t.s
	what := fmt.Sprintf("%s %s of port %d", in.Kind, in.Mode, in.ContainerPort)
	if in.Mode == modeDial {
		what = fmt.Sprintf("dial of %s as %s", address(in.Host, in.ContainerPort), cmp.Or(in.Node, "this machine"))
	}
	if err != nil {
		code := bindCode(err, t.hanzod1)
		s.count(func(n *totals) { n.rejected[code]++ })
		att.say(wire.BindErr, wire.BindErrBody{ClientBindRef: in.ClientBindRef, Code: code, Message: text(err)})
		s.audit(t.caller, AuditRow{Action: "binding-refused", TunnelID: t.id, NodeID: cmp.Or(in.Node, t.caller.NodeID), Detail: what, Reason: code})
		return
	}
	ok := wire.BindOKBody{ClientBindRef: in.ClientBindRef, BindID: b.id, ContainerPort: b.port}
	if b.url != "" {
		ok.PublicURL = &b.url
	}
	s.mu.Lock()
	if t.att.Load() != att { // nobody hears of it
		delete(t.binds, b.id)
		s.mu.Unlock()
		b.release()
		if in.Mode != modeDial {
			_ = s.cfg.Bindings.Unbind(t.id, b.id) // it may have ended
		}
		close(b.told)
		return
	}
	att.say(wire.BindOK, ok)
	close(b.told)
	if b.revoked != nil {
		att.say(wire.BindRevoked, wire.BindRevokedBody{BindID: b.id, Reason: *b.revoked})
	}
	s.mu.Unlock()
	s.audit(t.caller, AuditRow{Action: "binding-created", TunnelID: t.id, NodeID: cmp.Or(b.node, t.caller.NodeID), Detail: fmt.Sprintf("%d: %s", b.id, what)})
}

// text is an error for the other end: what a class says, nothing of what is behind.
func text(err error) string {
	if e, ok := errs.As(err); ok {
		return e.Text
	}
	return "the server failed; its log says why"
}

// callRequired is the code of the error of package approvals for what takes an approval.
const callRequired = "approvals.call_required"

// bindCode is the word of BIND_ERR for an error, for a peer with or without the capability hanzod.1.
func bindCode(err error, hanzod1 bool) string {
	e, ok := errs.As(err)
	switch {
	case !ok:
		return wire.Internal
	case e.Code == callRequired && hanzod1:
		return wire.ApprovalRequired
	case e.Code == ErrReach.Code, e.Code == ErrTarget.Code, e.Code == ErrScope.Code, e.Class == errs.Denied && bindings.Code(err) == wire.Internal:
		return wire.InvalidHost
	case e.Code == ErrGrants.Code:
		return wire.BindCapExceeded
	}
	return bindings.Code(err)
}

// unbind answers UNBIND.
func (att *attachment) unbind(id int) {
	t := att.t
	s := t.s
	s.mu.Lock()
	b := t.binds[id]
	delete(t.binds, id)
	if b != nil {
		b.ended = true
	}
	s.mu.Unlock()
	if b == nil {
		att.say(wire.UnbindErr, wire.UnbindBody{BindID: id, Code: unknownBind, Message: "there is no such binding"})
		return
	}
	if b.mode == modeDial {
		b.release()
	} else {
		_ = s.cfg.Bindings.Unbind(t.id, id) // somebody else may have ended it
	}
	b.cut(wire.CodeBind, "the binding has ended")
	att.say(wire.UnbindOK, wire.UnbindBody{BindID: id})
	s.audit(t.caller, AuditRow{Action: "binding-deleted", TunnelID: t.id, NodeID: cmp.Or(b.node, t.caller.NodeID), Detail: fmt.Sprintf("%d", id), Reason: "unbound by the client"})
}

// revoke is bindings' Revoked.
func (b *binding) revoke(reason string) {
	t := b.t
	s := t.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.ended || t.ended {
		return
	}
	b.ended = true
	delete(t.binds, b.id)
	select {
	case <-b.told:
		if att := t.att.Load(); att != nil {
			att.say(wire.BindRevoked, wire.BindRevokedBody{BindID: b.id, Reason: reason})
			if t.hanzod1 {
				att.say(wire.Bindings, wire.BindingsBody{Bindings: t.list()})
			}
		}
	default:
		b.revoked = &reason
	}
	if !s.closed {
		s.wg.Go(func() {
			s.audit(t.caller, AuditRow{Action: "binding-deleted", TunnelID: t.id, NodeID: t.caller.NodeID, Detail: fmt.Sprintf("%d", b.id), Reason: reason})
		})
	}
}

// list is what RESUMED and BINDINGS tell. The caller holds the service's mutex.
func (t *tunnel) list() []wire.ResumedBind {
	out := make([]wire.ResumedBind, 0, len(t.binds))
	for id, b := range t.binds {
		select {
		case <-b.told:
			out = append(out, wire.ResumedBind{BindID: id, Kind: b.kind, Mode: b.mode, ContainerPort: b.port})
		default: // its client has not heard of it
		}
	}
	slices.SortFunc(out, func(a, b wire.ResumedBind) int { return cmp.Compare(a.BindID, b.BindID) })
	return out
}

// bound reports whether there is a binding.
func (t *tunnel) bound() bool {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	return len(t.binds) > 0
}

// Raw implements bindings.Upstream: published drivers take what they know.
func (b *binding) Raw() bool {
	b.t.s.mu.Lock()
	defer b.t.s.mu.Unlock()
	return b.t.hanzod1
}

// Open implements bindings.Upstream.
func (b *binding) Open(ctx context.Context, in bindings.OpenIn) (bindings.Stream, error) {
	select {
	case <-b.told:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	att := b.t.att.Load()
	if att == nil {
		b.t.s.refused(in.Kind)
		return nil, bindings.ErrParked
	}
	st, err := att.open(ctx, wire.StreamOpenBody{
		Kind: in.Kind, Method: in.Method, Target: in.Target, Headers: in.Headers, IsUpgrade: in.IsUpgrade, BindID: b.id, RemoteAddr: in.RemoteAddr,
	})
	if err != nil {
		b.t.s.refused(in.Kind)
		return nil, err
	}
	return att.follow(st, in.Kind, b), nil
}

// open opens a stream, with the errors of bindings.Upstream.
func (att *attachment) open(ctx context.Context, body wire.StreamOpenBody) (*mux.Stream, error) {
	select {
	case <-att.ready:
	case <-att.over.Done():
		return nil, bindings.ErrParked
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if att.leaving.Load() {
		return nil, bindings.ErrParked
	}
	st, err := att.sess.Open(ctx, body)
	switch {
	case err == nil:
		return st, nil
	case errors.Is(err, mux.ErrStreams):
		return nil, bindings.ErrStreams
	case errors.Is(err, mux.ErrCarrier), att.sess.Err() != nil:
		return nil, bindings.ErrParked
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, bindings.ErrRefused.Wrap(err)
}

// stream is one that is counted.
type stream struct {
	*mux.Stream
	att  *attachment
	kind string
	b    *binding // nil for ways to nodes
	g    *Grant   // of ways to nodes
	once sync.Once
}

// follow counts a stream until it is closed or reset.
func (att *attachment) follow(st *mux.Stream, kind string, b *binding) *stream {
	c := &stream{Stream: st, att: att, kind: kind, b: b}
	att.local.Add(1)
	att.t.s.count(func(n *totals) { n.streams[kind]++ })
	if b != nil {
		b.mu.Lock()
		b.streams[c] = struct{}{}
		b.total++
		b.mu.Unlock()
	}
	return c
}

func (c *stream) moved() counts {
	in, out := c.Counts()
	return counts{in: in, out: out}
}

// Close ends the stream.
func (c *stream) Close() error {
	err := c.Stream.Close()
	c.over(c.Stream.Err())
	return err
}

// Reset ends it at once.
func (c *stream) Reset(code wire.Code, reason string) error {
	err := c.Stream.Reset(code, reason)
	c.over(&mux.ResetError{Code: code})
	return err
}

// over counts the end.
func (c *stream) over(err error) {
	c.once.Do(func() {
		result := resultOK
		var reset *mux.ResetError
		switch {
		case errors.As(err, &reset) && reset.Remote && reset.Code == wire.CodeRefused:
			result = resultRefused
		case err != nil:
			result = resultReset
		}
		c.att.local.Add(-1)
		c.att.t.s.count(func(n *totals) {
			n.streams[c.kind]--
			n.ended[StreamResult{c.kind, result}]++
		})
		if c.g != nil {
			c.g.mu.Lock()
			delete(c.g.streams, c)
			c.g.mu.Unlock()
		}
		if c.b == nil {
			return
		}
		moved := c.moved()
		c.b.mu.Lock()
		defer c.b.mu.Unlock()
		delete(c.b.streams, c)
		c.b.was.add(moved)
	})
}

// cut resets the streams of a binding.
func (b *binding) cut(code wire.Code, reason string) {
	b.mu.Lock()
	all := make([]*stream, 0, len(b.streams))
	for c := range b.streams {
		all = append(all, c)
	}
	b.mu.Unlock()
	for _, c := range all {
		_ = c.Reset(code, reason) // it may have ended
	}
}

// facts is the binding as it is told. The caller holds the service's mutex.
func (b *binding) facts() Binding {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.was
	for c := range b.streams {
		n.add(c.moved())
	}
	return Binding{
		TunnelID: b.t.id, ID: b.id, Kind: b.kind, Mode: b.mode, Host: b.host, Port: b.port, NodeID: b.node, Label: b.label, PublicURL: b.url,
		Access: b.access, CreatedAt: b.created, Streams: len(b.streams), StreamsTotal: b.total, BytesIn: n.in, BytesOut: n.out,
	}
}
