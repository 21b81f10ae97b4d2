package hanzotunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/coder/websocket"
	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/compat/socket"
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/tunnel/links"
)

// conn is one link. Its reading goroutine owns it; other goroutines queue frames or ask for its end.
type conn struct {
	door *Door
	ws   *websocket.Conn
	nc   net.Conn
	from identity.Peer
	id   string
	// proved says that the instance was let in; nil where nobody wants to know.
	proved func()
	// admission is set before anything is read.
	admission identity.LinkAdmission
	// ctx ends with the link.
	ctx    context.Context
	cancel context.CancelFunc

	// joined is held while the link takes its place; what follows is set then and not changed.
	joined     sync.Mutex
	registered atomic.Bool
	instance   string // the id that the instance has for itself
	caller     identity.Caller
	node       *nodes.Attachment
	bridge     bool                 // frames stay below MaxToBridge
	held       atomic.Pointer[Held] // the technician session that it carries

	ending    atomic.Bool
	expelled  atomic.Bool // nothing is served any more
	lastHeard atomic.Int64
	lastPing  atomic.Int64 // both in nanoseconds since the door was made

	out outbox
	// tokens is how many events may come at once, as of refilled; the reading goroutine's own.
	tokens   float64
	refilled time.Time
}

func newConn(d *Door, from identity.Peer) *conn {
	c := &conn{door: d, from: from, id: uuid.NewString(), tokens: eventBurst, refilled: time.Now()}
	c.ctx, c.cancel = context.WithCancel(d.ctx)
	c.heard()
	return c
}

// heard notes that something came, by the monotonic clock.
func (c *conn) heard() { c.lastHeard.Store(int64(time.Since(c.door.began))) }

// look pings an instance that is silent, and gives up one that is for too long.
func (c *conn) look() {
	now := time.Since(c.door.began)
	silent := now - time.Duration(c.lastHeard.Load())
	switch {
	case silent >= deadAfter:
		c.door.cfg.Log.Warn("an instance is silent and counts as gone", "node", c.caller.NodeID, "silent", silent.Round(time.Second).String())
		c.abort()
	case silent >= pingAfter && now-time.Duration(c.lastPing.Load()) >= pingAfter:
		c.lastPing.Store(int64(now))
		_ = c.control(socket.AppendHead(nil, opPing, 0)) // it has ended
	}
}

// serve lets the instance in. The link then goes on in a goroutine of its own: this one had a deep stack.
func (c *conn) serve(token string, foreign, closed bool) {
	if !c.admit(token, foreign, closed) {
		c.leave()
		return
	}
	go func() {
		defer c.leave()
		late := time.AfterFunc(registerTime, c.late)
		defer late.Stop()
		c.loop()
	}()
}

// admit judges the token. Whoever is refused is told by a close alone.
func (c *conn) admit(token string, foreign, closed bool) bool {
	d := c.door
	if closed { // meanwhile
		c.end(websocket.StatusGoingAway, restarting, strangerWait)
		return false
	}
	reason := "origin not allowed"
	if !foreign {
		ctx, cancel := context.WithTimeout(c.ctx, admitTime)
		defer cancel()
		adm, err := d.cfg.Identity.AdmitLink(ctx, identity.LinkAttempt{Token: token, Peer: c.from})
		if err == nil {
			c.admission = adm
			if c.proved != nil {
				c.proved()
			}
			return true
		}
		if reason = "internal error"; errs.ClassOf(err) != errs.Internal && errs.ClassOf(err) != errs.Unknown {
			reason = textOf(err)
		} else {
			d.cfg.Log.Error("an instance could not be judged", "error", err)
		}
	}
	d.refusals.Say(d.cfg.Log, "instances", "an instance was not let in", "reason", reason, "ip", c.from.IP())
	c.end(websocket.StatusPolicyViolation, reason, strangerWait)
	return false
}

// textOf is the text of an error without what it wraps.
func textOf(err error) string {
	if e, ok := errs.As(err); ok {
		return e.Text
	}
	return err.Error()
}

// loop reads and serves frames until the link ends.
func (c *conn) loop() {
	for {
		done, err := c.one()
		if err != nil || done {
			return
		}
	}
}

// one reads and serves one message.
func (c *conn) one() (done bool, err error) {
	limit := maxFirst
	if c.registered.Load() {
		limit = MaxFromInstance
	}
	m := message{c: c}
	defer m.done()
	data, err := m.read(limit)
	switch {
	case errors.Is(err, errTooLarge):
		c.end(websocket.StatusMessageTooBig, fmt.Sprintf("a message is larger than %d bytes", limit), closeWait)
		return true, nil
	case err != nil:
		return true, err
	case c.expelled.Load() || c.ending.Load():
		return false, nil // until the link has ended
	}
	if c.registered.Load() {
		c.node.Heard()
	}
	f, err := Parse(data)
	if err != nil {
		c.door.cfg.Log.Debug("a frame of an instance is not understood and left out", "conn", c.id, "error", err)
		if errors.Is(err, errRegister) && !c.registered.Load() {
			c.refuse(err.Error())
		}
		return false, nil
	}
	c.take(f, data)
	return false, nil
}

// take serves a frame. Before the registration all but a ping is left out (tunnel.md §2.2).
func (c *conn) take(f Frame, data []byte) {
	switch f := f.(type) {
	case Ping:
		_ = c.send(Pong{}) // who pings faster than it reads gets fewer pongs
		return
	case *Register:
		c.register(f, data)
		return
	}
	if !c.registered.Load() {
		return
	}
	switch f := f.(type) {
	case *Response:
		c.answer(f)
	case *Event:
		c.report(f)
	case *TunnelReady, *TunnelData, *TunnelError:
		c.technician(f)
	}
}

// register lets the instance take its place, once.
func (c *conn) register(f *Register, data []byte) {
	c.joined.Lock()
	defer c.joined.Unlock()
	if !c.registered.Load() && !c.ending.Load() {
		c.join(f, data)
	}
}

// late is for an instance that has not registered in time: one of the Rust crate that comes back, which is known
// for who it is, or one to be sent away (tunnel.md §1.4).
func (c *conn) late() {
	c.joined.Lock()
	defer c.joined.Unlock()
	if c.registered.Load() || c.ending.Load() {
		return
	}
	l, ok := c.door.cfg.Memory.Lost(c.admission.Credential, c.from.IP())
	if ok {
		if f, err := Parse(l.Registration); err == nil {
			if r, is := f.(*Register); is {
				c.door.cfg.Log.Info("an instance came back without registering and is known for who it was", "node", l.NodeID, "conn", c.id)
				c.join(r, l.Registration)
				return
			}
		}
	}
	c.finishWith(closeTimeout, "handshake timeout", closeWait)
}

func (c *conn) refuse(reason string) {
	c.door.refusals.Say(c.door.cfg.Log, "instances", "an instance was not registered", "reason", wire.TruncateUTF8(reason, maxText), "ip", c.from.IP())
	c.finishWith(websocket.StatusPolicyViolation, reason, closeWait)
}

// check says what is wrong with a registration, "" for nothing.
func (f *Register) check() string {
	for name, text := range map[string]string{"app_kind": f.AppKind, "display_name": f.DisplayName, "version": f.Version, "platform": f.Platform} {
		if len(text) > maxText {
			return fmt.Sprintf("%s is longer than %d bytes", name, maxText)
		}
	}
	if len(f.Cwd.Or("")) > maxCwd {
		return fmt.Sprintf("cwd is longer than %d bytes", maxCwd)
	}
	if len(f.Metadata) > maxMetadata {
		return fmt.Sprintf("metadata is larger than %d bytes", maxMetadata)
	}
	for name, list := range map[string][]string{"capabilities": f.Capabilities, "commands": f.Commands} {
		if len(list) > maxList {
			return fmt.Sprintf("%s has more than %d items", name, maxList)
		}
		for _, item := range list {
			if len(item) > maxItem {
				return fmt.Sprintf("an item of %s is longer than %d bytes", name, maxItem)
			}
		}
	}
	return ""
}

// instanceID is the id of an instance: its own, or a new one where it names none (tunnel.md §2.2).
func instanceID(wanted, device string) (string, error) {
	id := strings.TrimSpace(wanted)
	switch {
	case id == "":
		return uuid.NewString(), nil
	case len(id) > maxInstanceID || strings.ContainsFunc(id, func(r rune) bool { return r == '/' || !unicode.IsPrint(r) }):
		return "", fmt.Errorf("instance_id must be at most %d printable characters without a slash", maxInstanceID)
	case identity.LooksLikeDevice(id) && id != device:
		return "", errors.New("instance_id is that of a device; link with the token of the device")
	}
	return id, nil
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// join puts the instance into the registry and answers it. The caller holds joined.
func (c *conn) join(f *Register, text []byte) {
	d := c.door
	if problem := f.check(); problem != "" {
		c.refuse("invalid register: " + problem)
		return
	}
	id, err := instanceID(f.InstanceID, c.admission.DeviceID)
	if err != nil {
		c.refuse("invalid register: " + err.Error())
		return
	}
	settings := d.cfg.Settings()
	n := nodes.Node{
		ID: nodes.QualifiedID(c.admission.Tenant, id), DisplayName: or(f.DisplayName, "tunnel-node"), Platform: or(f.Platform, "unknown"),
		Version: or(f.Version, "0.0.0"), RemoteIP: c.from.ReportedIP(), Paired: c.admission.DeviceID != "",
		Link: nodes.LinkTunnel, Tenant: c.admission.Tenant, InstanceID: id, AppKind: f.AppKind, Cwd: f.Cwd.Or(""),
		SessionURL: sessionURL(settings.SessionURL, id), Metadata: f.Metadata,
	}
	c.instance = id
	c.caller = c.admission.Caller()
	c.caller.Door, c.caller.ConnID, c.caller.NodeID = identity.DoorTunnel, c.id, n.ID
	c.caller.DisplayName, c.caller.ClientID, c.caller.ClientMode = n.DisplayName, f.AppKind, "tunnel"
	c.caller.Local, c.caller.RemoteIP = c.from.Local, c.from.ReportedIP()
	c.bridge = isBridge(f)
	code, reason := c.enter(n, f, settings.PerTenant)
	if code != 0 {
		if code == websocket.StatusPolicyViolation {
			c.refuse(reason)
			return
		}
		d.refusals.Say(d.cfg.Log, "instances", "an instance was not registered", "reason", reason, "node", n.ID, "ip", c.from.IP())
		c.finishWith(code, reason, closeWait)
		return
	}
	answer := &Registered{InstanceID: id, SessionURL: wire.Some(n.SessionURL)}
	_ = c.sendText(Append(nil, answer), true) // it has ended meanwhile
	c.registered.Store(true)
	d.cfg.Memory.Linked(links.Link{
		NodeID: n.ID, Credential: c.admission.Credential, Address: c.from.IP(), Registration: registrationOf(f, id, text),
	})
	d.cfg.Log.Info("an instance is linked", "node", n.ID, "kind", f.AppKind, "version", n.Version, "platform", n.Platform, "conn", c.id, "ip", c.from.IP())
}

// registrationOf is the text of a registration with the id that was assigned.
func registrationOf(f *Register, id string, text []byte) []byte {
	if f.InstanceID == id {
		return bytes.Clone(text)
	}
	named := *f
	named.InstanceID = id
	return Append(nil, &named)
}

// isBridge recognises the Python bridge (tunnel.md §5.2), which handles one command at a time and takes no frame of
// MaxToBridge.
func isBridge(f *Register) bool {
	return f.Version == "0.2.0" && slices.Contains(f.Commands, "exec.run")
}

// enter takes the place of the node. A code other than 0 refuses it.
func (c *conn) enter(n nodes.Node, f *Register, perTenant int) (websocket.StatusCode, string) {
	d := c.door
	d.joining.Lock()
	defer d.joining.Unlock()
	d.mu.Lock()
	holder, tenants := d.linked[n.ID], d.tenants[n.Tenant]
	closed := d.closed
	d.mu.Unlock()
	switch {
	case closed:
		return websocket.StatusGoingAway, restarting
	case holder != nil && holder.admission.Credential != c.admission.Credential:
		return closeInUse, "instance_id in use"
	case holder == nil && d.cfg.Nodes.LinkedAs(n.ID) != "" && d.cfg.Nodes.LinkedAs(n.ID) != nodes.LinkTunnel:
		return closeInUse, "instance_id in use"
	case holder == nil && n.Tenant != "" && tenants >= perTenant:
		return websocket.StatusPolicyViolation, fmt.Sprintf("%d instances of this tenant are linked, which is the limit (tunnel.maxPerTenant)", tenants)
	}
	d.mu.Lock()
	if holder == nil {
		d.tenants[n.Tenant]++
	}
	delete(d.greeting, c)
	d.linked[n.ID] = c
	d.mu.Unlock()
	// From here on an end of the credential reaches this link; this is for one that came before.
	if err := d.cfg.Identity.ConfirmLink(c.caller, c.admission); err != nil {
		return websocket.StatusPolicyViolation, textOf(err)
	}
	c.hold()
	n.Exposed = Exposed(d.cfg.Bindings.Back(n.ID))
	att, _, err := d.cfg.Nodes.Attach(n, f.Commands, f.Capabilities, c)
	if err != nil {
		return websocket.StatusPolicyViolation, textOf(err)
	}
	c.node = att
	return 0, ""
}

// leave takes the link out of every place that knows it.
func (c *conn) leave() {
	defer c.door.wg.Done()
	d := c.door
	c.cancel()
	c.ending.Store(true)
	c.die()
	if h := c.held.Load(); h != nil {
		h.end(errGone, false)
	}
	_ = c.ws.CloseNow() // the instance is gone, or was told
	c.joined.Lock()     // nobody takes a place for it any more
	defer c.joined.Unlock()
	d.mu.Lock()
	delete(d.greeting, c)
	last := c.caller.NodeID != "" && d.linked[c.caller.NodeID] == c
	if last {
		delete(d.linked, c.caller.NodeID)
		if d.tenants[c.caller.Tenant]--; d.tenants[c.caller.Tenant] <= 0 {
			delete(d.tenants, c.caller.Tenant)
		}
	}
	d.mu.Unlock()
	if c.node == nil {
		return
	}
	c.node.Detach()
	if last {
		d.cfg.Memory.Dropped(c.caller.NodeID)
		d.cfg.Bindings.Gone(c.caller.NodeID)
	}
	d.cfg.Log.Info("a link ended", "node", c.caller.NodeID, "conn", c.id, "replaced", !last)
}

// end closes the link with a code, after what is queued. Only the first end counts. It waits for the closing
// handshake, at most for the time given.
func (c *conn) end(code websocket.StatusCode, reason string, wait time.Duration) {
	if c.ending.Swap(true) {
		return
	}
	timer := time.AfterFunc(wait, c.abort)
	defer timer.Stop()
	late := time.NewTimer(wait)
	defer late.Stop()
	c.drained(late.C)
	_ = c.ws.Close(code, wire.TruncateUTF8(reason, wire.MaxCloseReason)) // a peer that does not answer is dropped
}

// finishWith is end for others than the reading goroutine: it does not wait.
func (c *conn) finishWith(code websocket.StatusCode, reason string, wait time.Duration) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if !c.out.dead { // else the link has ended, and nobody may be counted any more
		c.door.wg.Go(func() { c.end(code, reason, wait) })
	}
}

// abort drops the network connection; everything that uses it fails at once.
func (c *conn) abort() { _ = c.nc.Close() }

// Invoke implements nodes.Link.
func (c *conn) Invoke(r nodes.Request) error {
	params := wire.Raw("{}")
	if v, err := wire.Parse(r.Params); err == nil && v.Kind() == wire.Object {
		params = wire.Raw(v.Raw())
	}
	text := Append(nil, &Command{ID: r.ID, Method: r.Command, Params: params})
	limit := maxToOther
	if c.bridge {
		limit = MaxToBridge - 1
	}
	if len(text) > limit {
		return nodes.ErrTooLarge.WithText(fmt.Sprintf("the request is %d bytes large; this node takes at most %d: send less at once", len(text), limit))
	}
	return c.sendText(text, false)
}

// Close implements nodes.Link: a newer link took the place of the node.
func (c *conn) Close(reason string) { c.finishWith(websocket.StatusPolicyViolation, reason, closeWait) }

// answer hands over the answer to a command (tunnel.md §2.3).
func (c *conn) answer(f *Response) {
	in := nodes.ResultIn{NodeID: c.caller.NodeID, InvokeID: f.ID, OK: f.OK}
	if f.OK {
		in.PayloadJSON = payload(f.Data)
	} else {
		in.Error = failure(f)
	}
	if _, err := c.door.cfg.Nodes.Result(c.ctx, c.caller, in); err != nil {
		c.door.cfg.Log.Debug("the answer of an instance was refused", "node", c.caller.NodeID, "error", err)
	}
}

// payload is data as text, nil for what JavaScript takes for false.
func payload(data wire.Raw) *string {
	v, err := wire.Parse(data)
	if err != nil {
		return nil // absent
	}
	switch v.Kind() {
	case wire.Null:
		return nil
	case wire.Bool:
		if !v.Bool() {
			return nil
		}
	case wire.Number:
		if v.Num() == 0 {
			return nil
		}
	case wire.String:
		if v.Str() == "" {
			return nil
		}
	}
	text := string(wire.Stringify(v))
	return &text
}

// failure is the account of a failed command: its text, or the one in its data, which the bridge repeats there.
func failure(f *Response) *nodes.NodeError {
	text := f.Error.Or("")
	if text == "" {
		if v, err := wire.Parse(f.Data); err == nil {
			e, _ := v.Get("error")
			text = e.Str()
		}
	}
	if text == "" {
		return nil
	}
	code := "TUNNEL_ERROR"
	return &nodes.NodeError{Code: &code, Message: &text}
}

// report takes an event.
func (c *conn) report(f *Event) {
	c.pace()
	switch f.Event {
	case "expose.request":
		c.expose(f.Data)
		return
	case "expose.stop":
		c.unexpose(f.Data)
		return
	}
	if _, err := c.door.cfg.Nodes.Event(c.ctx, c.caller, nodes.EventIn{NodeID: c.caller.NodeID, Event: f.Event, Payload: f.Data}); err != nil {
		c.door.cfg.Log.Debug("an event of an instance was refused", "node", c.caller.NodeID, "event", wire.TruncateUTF8(f.Event, maxText), "error", err)
	}
}

// pace waits where more events come than may.
func (c *conn) pace() {
	now := time.Now()
	c.tokens = min(c.tokens+now.Sub(c.refilled).Seconds()*eventRate, eventBurst) - 1
	c.refilled = now
	if c.tokens >= 0 {
		return
	}
	timer := time.NewTimer(time.Duration(-c.tokens / eventRate * float64(time.Second)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.ctx.Done():
	}
}

var (
	// errTooLarge is a message over the limit.
	errTooLarge = errors.New("message over the limit")
	// errEnded says that the link was ended while reading.
	errEnded = errors.New("link ended")
)

// scratch are the buffers that messages are read into.
var scratch = sync.Pool{New: func() any { b := make([]byte, 4<<10); return &b }}

// message is one message and the room that it takes, until done.
type message struct {
	c     *conn
	room  int
	small *[]byte
	late  *time.Timer
}

func (m *message) done() {
	if m.small != nil {
		scratch.Put(m.small)
	}
	if m.room > 0 {
		m.c.door.room.give(m.room)
	}
}

// read returns the next message. Its bytes may be used until done.
func (m *message) read(limit int) ([]byte, error) {
	c := m.c
	// The end of the link unblocks this; a context that can end would cost a timer a message.
	typ, r, err := c.ws.Reader(context.Background()) //nolint:contextcheck // see above
	if err != nil {
		return nil, err
	}
	if typ != websocket.MessageText {
		c.end(websocket.StatusUnsupportedData, "text messages only", closeWait)
		return nil, errEnded
	}
	m.small = scratch.Get().(*[]byte)
	buf, n := *m.small, 0
	defer func() {
		if m.late != nil {
			m.late.Stop()
		}
	}()
	for {
		if n == len(buf) {
			size := min(2*len(buf), limit+1)
			if !m.grow(size) {
				c.end(websocket.StatusTryAgainLater, "too many large messages at once", closeWait)
				return nil, errEnded
			}
			bigger := make([]byte, size)
			copy(bigger, buf)
			buf = bigger
		}
		k, err := r.Read(buf[n:])
		n += k
		if n > limit {
			return nil, errTooLarge
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if !utf8.Valid(buf[:n]) {
		c.end(websocket.StatusInvalidFramePayloadData, "not UTF-8", closeWait)
		return nil, errEnded
	}
	return buf[:n], nil
}

// grow makes room for the message to become size bytes large. It waits a while when there is none.
func (m *message) grow(size int) bool {
	if size <= smallMessage {
		return true
	}
	if m.late == nil {
		m.late = time.AfterFunc(arriveTime, m.c.abort)
	}
	all := &m.c.door.room
	if !all.take(size - m.room) {
		end, tick := time.NewTimer(roomWait), time.NewTicker(roomRetry)
		defer end.Stop()
		defer tick.Stop()
		for !all.take(size - m.room) {
			select {
			case <-tick.C:
			case <-end.C:
				return false
			case <-m.c.ctx.Done():
				return false
			}
		}
	}
	m.room = size
	return true
}
