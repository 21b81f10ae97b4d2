package tunnels

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/bindings"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// The WebSocket codes that carriers are closed with, on every kind of carrier.
const (
	closeNormal    = 1000
	closeAway      = 1001
	closeProtocol  = 1002
	closeNoCode    = 1005
	closePolicy    = 1008
	closeTryLater  = 1013
	maxCommands    = 2 * wire.MaxFrames // frames of stream 0 that wait for their turn
	maxDialBinds   = 8                  // bindings of mode dial that wait for their node
	maxAuthText    = 16 << 10
	authTime       = 10 * time.Second
	idleLooks      = 8 // looks at whether a tunnel is idle, in the time that it may be
	shortestLook   = 10 * time.Millisecond
	longestLook    = 15 * time.Second
	nonceSize      = 32
	sessionIDStart = "S-"
)

// The texts that drivers know (tunnel.md §4.5, §4.6).
const (
	textUnauthorized = "unauthorized"
	textExpired      = "resume grace expired"
	textIdle         = "session idle timeout"
	textKill         = "admin kill"
	textStopping     = "the daemon stops"
	textEnded        = "the credential has ended"
)

// owner is whose a tunnel is: what resumes it has to be the same.
type owner struct{ tenant, subject string }

func ownerOf(c identity.Caller) owner { return owner{c.Tenant, c.Subject()} }

// tunnel is a session. Its fields below turn are guarded by the service's mutex, except att, which is written
// under it and read anywhere.
type tunnel struct {
	s       *Service
	id      string
	owner   owner
	caller  identity.Caller
	version string
	hanzod1 bool
	created time.Time

	// turn is held while the tunnel parks, resumes or ends, so that bindings learn of it in that order. It is
	// taken before the service's mutex.
	turn lock

	att         atomic.Pointer[attachment] // nil while parked
	peerAddr    string
	transport   string
	granted     int
	parkedUntil time.Time
	parking     *time.Timer
	closing     bool
	ended       bool
	binds       map[int]*binding
	lastBind    int
	was         counts // of the carriers before
}

// attachment is the time that a tunnel has one primary carrier.
type attachment struct {
	t     *tunnel
	sess  *mux.Session
	ready chan struct{} // closed when the primary is in sess
	lost  chan struct{} // closed when it is lost, after lostErr was set
	// lostErr is how.
	lostErr error
	// further are closed when the carrier of the index is lost.
	further  [MaxConnections]chan struct{}
	tickets  map[int]ticket // guarded by the service's mutex
	commands chan func(context.Context)
	dialing  atomic.Int32
	local    atomic.Int32 // streams that somebody here has not closed
	away     atomic.Bool  // the client said GOAWAY
	leaving  atomic.Bool  // the tunnel was killed and takes no new streams
	once     [MaxConnections]sync.Once
	over     context.Context // ends with it
	cancel   context.CancelFunc
}

type ticket struct {
	nonce   string
	expires time.Time
}

// Serve runs one carrier until it ends, and closes it. A caller without a role has proved nothing at the door, and
// has to do so in HELLO. It returns nil when the carrier ended as carriers do, and else why it was turned away.
func (s *Service) Serve(ctx context.Context, c identity.Caller, in CarrierIn) error {
	if err := s.enter(); err != nil {
		code := closeNoCode
		if errors.Is(err, ErrStopping) {
			code = closeAway
		}
		_ = in.Carrier.Close(code, "") // it has no use any more
		return err
	}
	defer s.wg.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.over, cancel)()
	first, rest, err := s.first(ctx, in.Carrier)
	s.silent.Add(-1)
	if err != nil {
		return err
	}
	switch {
	case first.Type == wire.Hello && first.Stream == 0:
		return s.hello(ctx, c, in, first.Payload, rest)
	case first.Type == wire.Join && first.Stream == 0 && in.Version == wire.V2:
		return s.join(ctx, c, in, first.Payload, rest)
	}
	_ = in.Carrier.Close(closeProtocol, "the first frame is HELLO") // it has no use any more
	return errFirst
}

// errFirst and errSilence are of carriers that did not begin as they have to.
var (
	errFirst   = errors.New("the first frame was not HELLO")
	errSilence = errors.New("no first frame came in time")
)

func (s *Service) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ErrStopping
	case s.silent.Load() >= MaxSilent:
		return ErrSilent
	}
	s.silent.Add(1)
	s.wg.Add(1)
	return nil
}

// first reads the first message, whose first frame it returns, and the rest of it. Both are valid until the next
// read.
func (s *Service) first(ctx context.Context, c mux.Carrier) (f wire.Frame, rest []byte, err error) {
	waiting, cancel := context.WithTimeout(ctx, s.times.hello)
	message, err := c.Read(waiting)
	late := waiting.Err() != nil
	cancel()
	if err != nil {
		if late {
			err = errSilence
		}
		_ = c.Close(closeNoCode, "") // it has no use any more
		return wire.Frame{}, nil, err
	}
	f, rest, err = wire.Next(message)
	if len(message) > wire.MaxMessage {
		err = wire.ErrSize
	}
	if err != nil {
		_ = c.Close(closeProtocol, "the first frame is HELLO") // it has no use any more
		return wire.Frame{}, nil, errFirst
	}
	return f, rest, nil
}

// frame is one of stream 0, for a carrier that is in no session yet.
func frame(t wire.Type, body any) []byte { return wire.Append(nil, t, 0, wire.Encode(body)) }

// refuse says GOAWAY on a carrier that has no session, and closes it.
func refuse(c mux.Carrier, code wire.Code, text string, closeCode int) {
	_ = c.Write(net.Buffers{frame(wire.GoAway, wire.GoAwayBody{Code: code, Message: text})}) // it ends in any case
	_ = c.Close(closeCode, text)                                                             // the same
}

func (s *Service) hello(ctx context.Context, c identity.Caller, in CarrierIn, payload, rest []byte) error {
	var h wire.HelloBody
	if wire.Decode(payload, &h) != nil {
		_ = in.Carrier.Close(closeProtocol, "HELLO cannot be read") // it has no use any more
		return errFirst
	}
	if h.Version != in.Version || (h.Version != wire.V1 && h.Version != wire.V2) {
		refuse(in.Carrier, wire.CodeVersion, "version mismatch", closeProtocol)
		return errFirst
	}
	rest = slices.Clone(rest) // the next read is not far
	c, err := s.proved(ctx, c, in, h)
	if err != nil {
		refuse(in.Carrier, wire.CodeAuth, textUnauthorized, closePolicy)
		return err
	}
	if h.Resume != nil {
		switch t, known := s.known(h.Resume.SessionID, c, in.Version); {
		case t != nil:
			if err := s.resume(ctx, t, in, h, rest); !errors.Is(err, errGone) {
				return err
			}
			fallthrough // it has expired meanwhile
		case known:
			s.count(func(n *totals) { n.resumes[resultExpired]++ })
			refuse(in.Carrier, wire.CodeIdle, textExpired, closePolicy)
			return errGone
		default:
			s.count(func(n *totals) { n.resumes[resultUnknown]++ })
		}
	}
	return s.start(ctx, c, in, h, rest)
}

// errGone is of a tunnel that ended before it was resumed.
var errGone = errors.New(textExpired)

// proved is who opens a tunnel: who came so to the door, whom HELLO proves, or the node whose proof is in it.
func (s *Service) proved(ctx context.Context, c identity.Caller, in CarrierIn, h wire.HelloBody) (identity.Caller, error) {
	if h.Auth != nil && h.Auth.Kind == ProofKind {
		return s.proven(c, h.Auth.Token)
	}
	if c.Role == "" {
		if h.Auth == nil || h.Auth.Kind != "bearer" || h.Auth.Token == "" || len(h.Auth.Token) > maxAuthText || in.Authenticate == nil {
			return c, ErrScope
		}
		ctx, cancel := context.WithTimeout(ctx, authTime)
		defer cancel()
		var err error
		if c, err = in.Authenticate(ctx, h.Auth.Token); err != nil {
			return c, err
		}
	}
	return c, mayCarry(c)
}

// mayCarry is the rule of who has tunnels: operators that may write, and nodes (tunnel.md §5.4).
func mayCarry(c identity.Caller) error {
	if c.Subject() == "" || (c.Role != identity.RoleNode && !c.Has(identity.ScopeWrite)) {
		return ErrScope
	}
	return nil
}

// known returns the tunnel to resume, or whether there was one of the caller's.
func (s *Service) known(id string, c identity.Caller, version string) (*tunnel, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tunnels[id]; t != nil && t.owner == ownerOf(c) && t.version == version && !t.closing {
		return t, true
	}
	return nil, s.ends.has(id, ownerOf(c))
}

// start makes a tunnel.
func (s *Service) start(ctx context.Context, c identity.Caller, in CarrierIn, h wire.HelloBody, rest []byte) error {
	t := &tunnel{
		s: s, id: sessionIDStart + uuid.NewString(), owner: ownerOf(c), caller: c, version: in.Version, created: s.cfg.Now(), binds: map[int]*binding{},
		hanzod1: slices.Contains(h.Capabilities, wire.Hanzod1), turn: newLock(),
	}
	if err := s.admit(t); err != nil {
		refuse(in.Carrier, wire.CodeExhausted, "session limit reached", closeTryLater)
		return err
	}
	if err := s.cfg.Standing(c); err != nil { // it may have been revoked before the tunnel could be found
		s.end(t, ending{reason: "credential ended"})
		refuse(in.Carrier, wire.CodeAuth, textUnauthorized, closePolicy)
		return err
	}
	t.turn.lock()
	att, err := s.attach(t, in, h, false)
	t.turn.unlock()
	if err != nil {
		s.end(t, ending{reason: "carrier lost"})
		return err
	}
	s.audit(c, AuditRow{Action: "opened", TunnelID: t.id, NodeID: c.NodeID, Detail: in.Version + " from " + in.PeerAddr})
	return s.run(ctx, att, in.Carrier, rest)
}

// admit finds room for a tunnel. At the limit a parked one of the same owner makes way.
func (s *Service) admit(t *tunnel) error {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return ErrStopping
		}
		if err := s.room(t); err == nil {
			s.tunnels[t.id] = t
			s.byOwner[t.share()]++
			s.mu.Unlock()
			return nil
		}
		oldest := s.oldestParked(t.owner)
		s.mu.Unlock()
		if oldest == nil {
			return ErrSessions
		}
		s.end(oldest, ending{reason: "made way for another tunnel of its owner"})
	}
}

// share is whose number of tunnels counts: a node's own, else the organisation's.
func (t *tunnel) share() string {
	if t.caller.Role == identity.RoleNode && t.caller.NodeID != "" {
		return "node:" + t.caller.NodeID
	}
	return "tenant:" + t.owner.tenant
}

// room reports whether there may be one more. The caller holds mu.
func (s *Service) room(t *tunnel) error {
	set := s.cfg.Settings()
	limit := set.MaxPerTenant
	if t.caller.Role == identity.RoleNode && t.caller.NodeID != "" {
		limit = min(limit, maxPerNode)
	}
	if len(s.tunnels) >= set.MaxTunnels || s.byOwner[t.share()] >= limit {
		return ErrSessions
	}
	return nil
}

func (s *Service) oldestParked(o owner) *tunnel {
	var oldest *tunnel
	for _, t := range s.tunnels {
		if t.owner == o && t.att.Load() == nil && !t.parkedUntil.IsZero() && (oldest == nil || t.parkedUntil.Before(oldest.parkedUntil)) {
			oldest = t
		}
	}
	return oldest
}

// resume gives a tunnel another primary carrier. errGone says that it has ended.
func (s *Service) resume(ctx context.Context, t *tunnel, in CarrierIn, h wire.HelloBody, rest []byte) error {
	if err := s.cfg.Standing(t.caller); err != nil {
		refuse(in.Carrier, wire.CodeAuth, textUnauthorized, closePolicy)
		return err
	}
	t.turn.lock()
	s.mu.Lock()
	if t.ended || t.closing {
		s.mu.Unlock()
		t.turn.unlock()
		return errGone
	}
	s.mu.Unlock()
	if old := t.att.Load(); old != nil {
		// The client knows before us that its carrier is gone.
		s.detach(t, old, 0)
		s.cfg.Bindings.Park(t.id)
	}
	att, err := s.attach(t, in, h, true)
	if err != nil {
		s.cfg.Bindings.Park(t.id)
		s.park(t)
		t.turn.unlock()
		return err
	}
	t.turn.unlock()
	s.count(func(n *totals) { n.resumes[resultResumed]++ })
	return s.run(ctx, att, in.Carrier, rest)
}

// attach answers HELLO and makes the attachment. The caller holds turn.
func (s *Service) attach(t *tunnel, in CarrierIn, h wire.HelloBody, resumed bool) (*attachment, error) {
	set := s.cfg.Settings()
	att := &attachment{
		t: t, ready: make(chan struct{}), lost: make(chan struct{}), tickets: map[int]ticket{}, commands: make(chan func(context.Context), maxCommands),
	}
	att.over, att.cancel = context.WithCancel(s.over)
	answer := wire.HelloOKBody{
		SessionID: t.id, Resumed: resumed, ResumedBinds: []wire.ResumedBind{}, StreamWindow: wire.StreamWindow, SessionWindow: wire.SessionWindow,
		MaxStreams: set.MaxStreams,
		Limits: &wire.Limits{
			Bindings: bindings.MaxPerTunnel, IdleMS: int(set.Idle.Milliseconds()), GraceMS: int(set.Grace.Milliseconds()), MaxMessage: wire.MaxMessage,
		},
	}
	granted := 1
	if in.Version == wire.V2 {
		if slices.Contains(h.Capabilities, wire.MultiWS) {
			granted = max(1, min(h.MaxConnections, set.Connections, MaxConnections))
		}
		answer.ConnectionsGranted, answer.JoinTickets = granted, []wire.JoinTicket{}
		for i := 1; i < granted; i++ {
			k := ticket{nonce(), s.cfg.Now().Add(s.times.ticket)}
			att.tickets[i] = k
			att.further[i] = make(chan struct{})
			answer.JoinTickets = append(answer.JoinTickets, wire.JoinTicket{Index: i, Nonce: k.nonce, ExpiresMS: s.times.ticket.Milliseconds()})
		}
		if slices.Contains(h.Capabilities, wire.MultiWS) {
			answer.Capabilities = append(answer.Capabilities, wire.MultiWS)
		}
	}
	hanzod1 := slices.Contains(h.Capabilities, wire.Hanzod1)
	if hanzod1 {
		answer.Capabilities = append(answer.Capabilities, wire.Hanzod1)
		answer.StreamWindow, answer.SessionWindow = mux.OwnStreamWindow, mux.OwnSessionWindow
	}
	att.sess = mux.New(mux.Config{
		StreamWindow: answer.StreamWindow, SessionWindow: answer.SessionWindow, MaxStreams: set.MaxStreams, Hanzod1: hanzod1,
		PingEvery: s.times.ping, PongWithin: s.times.pong,
		Control: att.control, Open: att.opened, Lost: att.gone,
	})
	s.mu.Lock()
	if t.ended || s.closed {
		s.mu.Unlock()
		att.cancel()
		_ = in.Carrier.Close(closeAway, textStopping) // it has no use any more
		return nil, errGone
	}
	if resumed {
		answer.ResumedBinds = t.list()
	}
	t.hanzod1, t.granted, t.peerAddr, t.transport = hanzod1, granted, in.PeerAddr, in.Transport
	t.parkedUntil = time.Time{}
	if t.parking != nil {
		t.parking.Stop()
		t.parking = nil
	}
	t.att.Store(att)
	live := maps.Clone(t.binds)
	s.mu.Unlock()
	if resumed {
		// Visitors wait from here on, until the client has its answer.
		s.cfg.Bindings.Resume(t.id, func(id int) bindings.Upstream {
			if b := live[id]; b != nil {
				return b
			}
			return nil
		})
	}
	if err := in.Carrier.Write(net.Buffers{frame(wire.HelloOK, answer)}); err != nil {
		s.detach(t, att, 0)
		_ = in.Carrier.Close(0, "") // it is lost
		return nil, err
	}
	return att, nil
}

func nonce() string {
	b := make([]byte, nonceSize)
	_, _ = rand.Read(b) // it cannot fail
	return base64.RawURLEncoding.EncodeToString(b)
}

// run serves an attachment until it is lost, and then parks or ends the tunnel.
func (s *Service) run(ctx context.Context, att *attachment, c mux.Carrier, rest []byte) error {
	t := att.t
	if err := att.sess.Add(0, c, rest); err != nil {
		_ = c.Close(0, "") // sess has not taken it
		att.gone(0, err)
	}
	close(att.ready)
	defer att.sess.Wait() // it is closed by then
	s.arrived(t)
	idle := newIdle(s.cfg.Settings().Idle)
	defer idle.Stop()
	for {
		select {
		case do := <-att.commands:
			do(att.over)
			continue
		case <-idle.C:
			if idle.passed(att.sess.Streams() > 0 || t.bound(), s.cfg.Settings().Idle) {
				s.end(t, ending{code: wire.CodeIdle, text: textIdle, close: closeNormal, reason: "idle"})
				return nil
			}
			continue
		case <-ctx.Done():
			_ = att.sess.Close(closeAway, "") // it is lost then
			att.gone(0, mux.ErrClosed)
		case <-att.lost:
		}
		break
	}
	s.left(t, att)
	return nil
}

// left parks or ends a tunnel whose primary carrier is gone, unless somebody else has seen to it.
func (s *Service) left(t *tunnel, att *attachment) {
	how, over := departure(att.lostErr)
	if over || att.away.Load() || s.cfg.Settings().Grace <= 0 {
		s.endOf(t, att, ending{reason: how})
		return
	}
	t.turn.lock()
	defer t.turn.unlock()
	if t.att.Load() != att {
		return
	}
	s.detach(t, att, 0)
	s.cfg.Bindings.Park(t.id)
	s.park(t)
}

// departure is how a primary carrier went, and whether that is the end of the tunnel (tunnel.md §4.8).
func departure(err error) (string, bool) {
	var closed *mux.CloseError
	var wrong *mux.SessionError
	switch {
	case errors.As(err, &closed):
		return "closed by the client", closed.Code == closeNormal || closed.Code == closeNoCode
	case errors.As(err, &wrong):
		// Who is silent may have lost its network; who breaks the protocol does not come back.
		return wrong.Error(), wrong.Code != wire.CodeIdle
	}
	return "carrier lost", false
}

// detach takes the attachment off a tunnel, with its streams. The caller holds turn.
func (s *Service) detach(t *tunnel, att *attachment, closeCode int) {
	s.mu.Lock()
	if t.att.Load() == att {
		t.att.Store(nil)
	}
	clear(att.tickets)
	s.mu.Unlock()
	att.cancel()
	_ = att.sess.Close(closeCode, "") // it is lost
	s.keep(t, att)
}

// keep adds what an attachment has moved to what the tunnel has.
func (s *Service) keep(t *tunnel, att *attachment) {
	n := countsOf(att.sess.Stats())
	s.mu.Lock()
	defer s.mu.Unlock()
	t.was.add(n)
	s.totals.was.add(n)
}

// park lets a tunnel wait for its client. The caller holds turn, and the tunnel has no attachment.
func (s *Service) park(t *tunnel) {
	grace := s.cfg.Settings().Grace
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.ended || s.closed {
		return
	}
	t.parkedUntil = s.cfg.Now().Add(grace)
	var timer *time.Timer
	timer = time.AfterFunc(grace, func() {
		s.mu.Lock()
		mine := t.parking == timer && !t.ended && !s.closed
		if mine {
			s.wg.Add(1)
		}
		s.mu.Unlock()
		if !mine {
			return
		}
		defer s.wg.Done()
		s.endOf(t, nil, ending{reason: textExpired})
	})
	t.parking = timer
}

// ending is how a tunnel ends: with a GOAWAY unless it has no text.
type ending struct {
	code   wire.Code
	text   string
	close  int
	reason string
	// by is who ends it, nobody for the tunnel's own end.
	by *identity.Caller
}

// end ends a tunnel; once.
func (s *Service) end(t *tunnel, how ending) { s.finish(t, how, nil) }

// endOf is end, unless the tunnel has another attachment by now.
func (s *Service) endOf(t *tunnel, att *attachment, how ending) {
	s.finish(t, how, func() bool { return t.att.Load() == att })
}

func (s *Service) finish(t *tunnel, how ending, still func() bool) {
	t.turn.lock()
	defer t.turn.unlock()
	s.mu.Lock()
	if t.ended || (still != nil && !still()) {
		s.mu.Unlock()
		return
	}
	t.ended = true
	att := t.att.Swap(nil)
	delete(s.tunnels, t.id)
	if s.byOwner[t.share()]--; s.byOwner[t.share()] <= 0 {
		delete(s.byOwner, t.share())
	}
	s.ends.add(t.id, t.owner)
	if t.parking != nil {
		t.parking.Stop()
		t.parking = nil
	}
	binds := t.binds
	t.binds = map[int]*binding{}
	s.mu.Unlock()
	if att != nil && how.text != "" {
		_ = att.sess.GoAway(how.code, how.text, 0) // it may be gone
	}
	s.cfg.Bindings.End(t.id)
	for _, b := range binds {
		b.release()
	}
	if att != nil {
		att.cancel()
		_ = att.sess.Close(how.close, how.text) // it ends in any case
		s.keep(t, att)
	}
	who := t.caller
	if how.by != nil {
		who = *how.by
	}
	s.audit(who, AuditRow{Action: "closed", TunnelID: t.id, NodeID: t.caller.NodeID, Reason: how.reason})
}

// join takes a further carrier of a tunnel.
func (s *Service) join(ctx context.Context, c identity.Caller, in CarrierIn, payload, rest []byte) error {
	var j wire.JoinBody
	if wire.Decode(payload, &j) != nil {
		_ = in.Carrier.Close(closeProtocol, "JOIN cannot be read") // it has no use any more
		return errFirst
	}
	rest = slices.Clone(rest) // the next read is not far
	att, err := s.redeem(c, j)
	if err != nil {
		e, _ := errs.As(err)
		text := frame(wire.JoinErr, wire.JoinErrBody{Code: e.Code, Message: e.Text})
		_ = in.Carrier.Write(net.Buffers{text})   // it ends in any case
		_ = in.Carrier.Close(closePolicy, e.Text) // the same
		return err
	}
	select {
	case <-att.ready:
	case <-att.over.Done():
	}
	if err := in.Carrier.Write(net.Buffers{frame(wire.JoinOK, wire.JoinOKBody{Index: j.Index})}); err != nil {
		_ = in.Carrier.Close(0, "") // it is lost
		return err
	}
	if err := att.sess.Add(j.Index, in.Carrier, rest); err != nil {
		_ = in.Carrier.Close(closeAway, "") // the tunnel is gone
		return err
	}
	select {
	case <-att.further[j.Index]:
	case <-att.lost:
	case <-ctx.Done():
		_ = in.Carrier.Close(closeAway, "") // the session notes that it is lost
	}
	return nil
}

// The reasons for JOIN_ERR, whose codes are their own words.
var (
	errNoSession = &errs.Error{Class: errs.NotFound, Code: "UNKNOWN_SESSION", Text: "there is no such session with a carrier"}
	errTicket    = &errs.Error{Class: errs.Denied, Code: "INVALID_TICKET", Text: "no such ticket, or it was used"}
	errTooLate   = &errs.Error{Class: errs.Denied, Code: "TICKET_EXPIRED", Text: "the ticket has expired"}
)

// redeem takes a ticket. Who has proved at the door who it is has to be the tunnel's owner.
func (s *Service) redeem(c identity.Caller, j wire.JoinBody) (*attachment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tunnels[j.SessionID]
	if t == nil || t.version != wire.V2 || t.closing || (c.Role != "" && ownerOf(c) != t.owner) {
		return nil, errNoSession
	}
	att := t.att.Load()
	if att == nil {
		return nil, errNoSession
	}
	k, ok := att.tickets[j.Index]
	if subtle.ConstantTimeCompare([]byte(k.nonce), []byte(j.Nonce)) != 1 || !ok {
		return nil, errTicket
	}
	delete(att.tickets, j.Index)
	if s.cfg.Now().After(k.expires) {
		return nil, errTooLate
	}
	return att, nil
}

// gone is mux's Lost.
func (att *attachment) gone(index int, err error) {
	att.once[index].Do(func() {
		if index != 0 {
			close(att.further[index])
			return
		}
		att.lostErr = err
		close(att.lost)
	})
}

// lock is a mutex; it has a name of its own because it is held while others are waited for.
type lock chan struct{}

func newLock() lock { return make(lock, 1) }

func (l lock) lock()   { l <- struct{}{} }
func (l lock) unlock() { <-l }

// idle looks now and then whether there is something to do.
type idleness struct {
	*time.Ticker
	since time.Time
}

func newIdle(after time.Duration) *idleness {
	return &idleness{time.NewTicker(min(max(after/idleLooks, shortestLook), longestLook)), time.Now()}
}

// passed reports whether nothing was busy for so long.
func (i *idleness) passed(busy bool, after time.Duration) bool {
	if busy {
		i.since = time.Now()
	}
	return time.Since(i.since) >= after
}
