package tunnels

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"iter"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/bindings"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// The commands that nodes have for ways.
const (
	// CommandOpen admits a target: {id, host, port} is answered with {ok: true}. The node then serves streams of
	// kind dial whose bindId is id, and has a carrier to this daemon.
	CommandOpen = "tunnel.open"
	// CommandClose takes {id} back.
	CommandClose = "tunnel.close"
)

const (
	// maxGrants bounds the ways to all nodes, maxGrantsPerNode those to one, maxPerNode the tunnels of one node.
	maxGrants        = 4096
	maxGrantsPerNode = 256
	maxPerNode       = 8
	// askTime bounds what the daemon asks a node by itself.
	askTime = 10 * time.Second
)

// Grant is a way to one host and port of a node, and the upstream of bindings that expose it. Its methods are safe
// for concurrent use.
type Grant struct {
	// ID is what tunnel.open named it, NodeID the registry's id of the node.
	ID     int
	NodeID string
	Host   string
	Port   int

	s      *Service
	own    bool            // the node exposes it by itself
	caller identity.Caller // who was let have it, unless own
	once   sync.Once

	mu      sync.Mutex
	cut     bool // what let the caller have it has ended
	streams map[*stream]struct{}
}

// params are those of tunnel.open. again says that the daemon asks by itself for what a caller was let have.
func (g *Grant) params(again bool) []byte {
	g.s.mu.Lock()
	p := map[string]any{"id": g.ID, "host": g.Host, "port": g.Port, "carrier": g.s.proof(g.NodeID)}
	g.s.mu.Unlock()
	if again && !g.own && (g.s.cfg.Unmarked == nil || !g.s.cfg.Unmarked(CommandOpen)) {
		p["approved"] = true // by what let the caller have it
	}
	return encode(p)
}

func encode(params map[string]any) []byte {
	b, err := json.Marshal(params)
	if err != nil {
		panic("tunnels: " + err.Error()) // texts, numbers and booleans
	}
	return b
}

// Grant asks a node to reach a host and a port for the caller, with the command tunnel.open and all that the
// command takes, and returns a way there. It stays until it is closed, and is asked for again, without the caller,
// when the node comes back.
func (s *Service) Grant(ctx context.Context, c identity.Caller, in GrantIn) (*Grant, error) {
	if !c.Has(identity.ScopeWrite) {
		return nil, ErrScope
	}
	to, err := targetOf(in.Host, in.Port)
	if err != nil {
		return nil, err
	}
	id, linked, err := s.cfg.Nodes.Linked(ctx, c, in.NodeID)
	switch {
	case err != nil:
		return nil, err
	case !linked:
		return nil, ErrNoNode
	}
	g, err := s.reserveGrant(c, id, to, false)
	if err != nil {
		return nil, err
	}
	if _, err := s.cfg.Nodes.Invoke(ctx, c, id, CommandOpen, g.params(false)); err != nil {
		s.forget(g)
		return nil, err
	}
	if err := s.cfg.Standing(c); err != nil { // it has ended while the node was asked
		s.forget(g)
		g.tell()
		return nil, err
	}
	return g, nil
}

func (s *Service) reserveGrant(c identity.Caller, node string, to target, own bool) (*Grant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, g := range s.grants {
		if g.NodeID == node {
			n++
		}
	}
	switch {
	case s.closed:
		return nil, ErrStopping
	case len(s.grants) >= maxGrants || n >= maxGrantsPerNode:
		return nil, ErrGrants
	}
	g := &Grant{NodeID: node, Host: to.host, Port: to.port, s: s, own: own, caller: c, streams: map[*stream]struct{}{}}
	for g.ID == 0 || s.grants[g.ID] != nil {
		g.ID = randomID()
	}
	s.grants[g.ID] = g
	return g, nil
}

// randomID is a number that a daemon before this one has hardly given.
func randomID() int {
	var b [4]byte
	_, _ = rand.Read(b[:]) // it cannot fail
	return int(binary.BigEndian.Uint32(b[:]) & math.MaxInt32)
}

func (s *Service) forget(g *Grant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grants[g.ID] == g {
		delete(s.grants, g.ID)
	}
}

// Raw implements bindings.Upstream: nodes give bytes.
func (g *Grant) Raw() bool { return true }

// Open opens a stream there, of which only RemoteAddr counts. It waits DialTime at most, for the node's carrier
// too.
func (g *Grant) Open(ctx context.Context, in bindings.OpenIn) (bindings.Stream, error) {
	st, _, err := g.open(ctx, in)
	var reset *mux.ResetError
	switch {
	case err == nil:
		return st, nil
	case errors.As(err, &reset):
		return nil, bindings.ErrRefused.Wrap(err)
	case errors.Is(err, context.DeadlineExceeded):
		return nil, bindings.ErrNoCarrier
	}
	return nil, err
}

func (g *Grant) open(ctx context.Context, in bindings.OpenIn) (*stream, string, error) {
	s := g.s
	ctx, cancel := context.WithTimeout(ctx, s.times.dial)
	defer cancel()
	st, peer, err := g.try(ctx, in)
	if err != nil {
		s.refused(kindDial)
		return nil, "", err
	}
	return st, peer, nil
}

// try opens a stream on a carrier of the node, for which it waits.
func (g *Grant) try(ctx context.Context, in bindings.OpenIn) (*stream, string, error) {
	for {
		att, err := g.carrier(ctx)
		if err != nil {
			return nil, "", err
		}
		st, err := att.open(ctx, wire.StreamOpenBody{Kind: kindDial, Host: g.Host, Port: g.Port, BindID: g.ID, RemoteAddr: in.RemoteAddr})
		if errors.Is(err, bindings.ErrParked) && ctx.Err() == nil {
			select { // it was just lost
			case <-att.lost:
				continue
			case <-ctx.Done():
			}
		}
		if err != nil {
			return nil, "", err
		}
		peer, err := st.Accepted(ctx)
		if err != nil {
			_ = st.Reset(wire.CodeCancel, "nobody waits any more") // it may have ended
			return nil, "", err
		}
		c := att.follow(st, kindDial, nil)
		if !g.remember(c) {
			_ = c.Reset(wire.CodeAuth, textEnded) // it may have ended
			return nil, "", bindings.ErrNoCarrier
		}
		return c, peer, nil
	}
}

// carrier returns the attachment of a carrier of the node. A node without one is asked for it, and waited for.
func (g *Grant) carrier(ctx context.Context) (*attachment, error) {
	s := g.s
	for asked := false; ; asked = true {
		s.mu.Lock()
		att := s.ofNode(g.NodeID)
		gone := s.grants[g.ID] != g
		came := s.came[g.NodeID]
		if att == nil && came == nil {
			came = make(chan struct{})
			s.came[g.NodeID] = came
		}
		s.mu.Unlock()
		switch {
		case gone:
			return nil, bindings.ErrNoCarrier
		case att != nil:
			return att, nil
		case !asked:
			// Carriers without streams end: the node opens another one when it is asked again.
			if err := g.ask(ctx); err != nil {
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				return nil, bindings.ErrNoCarrier.Wrap(err)
			}
			continue
		}
		select {
		case <-came:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// ofNode is the newest carrier of a node of ours. The caller holds mu.
func (s *Service) ofNode(id string) *attachment {
	var newest *tunnel
	for _, t := range s.tunnels {
		if t.caller.Role != identity.RoleNode || t.caller.NodeID != id || !t.hanzod1 || t.closing || t.att.Load() == nil {
			continue
		}
		if newest == nil || t.created.After(newest.created) {
			newest = t
		}
	}
	if newest == nil {
		return nil
	}
	return newest.att.Load()
}

// arrived wakes who waits for a carrier of a node.
func (s *Service) arrived(t *tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ch := s.came[t.caller.NodeID]; ch != nil && t.caller.Role == identity.RoleNode {
		close(ch)
		delete(s.came, t.caller.NodeID)
	}
}

// Close takes the grant back. The node is told, without being waited for.
func (g *Grant) Close() error {
	g.once.Do(func() {
		g.s.forget(g)
		g.tell()
	})
	return nil
}

// remember notes an open stream unless the way was revoked.
func (g *Grant) remember(c *stream) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cut {
		return false
	}
	c.g = g
	g.streams[c] = struct{}{}
	return true
}

// revoke takes the way back with all its streams.
func (g *Grant) revoke() {
	g.mu.Lock()
	g.cut = true
	all := slices.Collect(maps.Keys(g.streams))
	g.mu.Unlock()
	_ = g.Close() // it cannot fail
	for _, c := range all {
		_ = c.Reset(wire.CodeAuth, textEnded) // it may have ended
	}
}

// let does something at a node, in a goroutine of its own.
func (s *Service) let(do func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.wg.Go(func() {
		ctx, cancel := context.WithTimeout(s.over, askTime)
		defer cancel()
		if err := do(ctx); err != nil {
			s.cfg.Log.Debug("a node was not told of a way", "error", err)
		}
	})
}

// NodeCame is told of a node that is linked: what it was to reach is asked for again. It does not block.
func (s *Service) NodeCame(nodeID string) {
	s.mu.Lock()
	var again []*Grant
	for _, g := range s.grants {
		if g.NodeID == nodeID && !g.own {
			again = append(again, g)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(again, func(a, b *Grant) int { return a.ID - b.ID })
	for _, g := range again {
		s.let(g.ask)
	}
}

// ask asks the node for the way again. One that was given up meanwhile is taken back.
func (g *Grant) ask(ctx context.Context) error {
	s := g.s
	_, err := s.cfg.Nodes.InvokeInternal(ctx, g.NodeID, CommandOpen, g.params(true))
	s.mu.Lock()
	gone := s.grants[g.ID] != g
	s.mu.Unlock()
	if gone && err == nil {
		g.tell()
	}
	return err
}

// tell says that the way is given up.
func (g *Grant) tell() {
	g.s.let(func(ctx context.Context) error {
		_, err := g.s.cfg.Nodes.InvokeInternal(ctx, g.NodeID, CommandClose, encode(map[string]any{"id": g.ID}))
		return err
	})
}

// NodeLeft is told of a node whose link has ended: what it exposed by itself it will name again. Its carriers end by
// themselves, or here where only the link vouched for them. It does not block.
func (s *Service) NodeLeft(nodeID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unprove(nodeID)
	for id, g := range s.grants {
		if g.own && g.NodeID == nodeID {
			delete(s.grants, id)
		}
	}
	for _, t := range s.tunnels {
		if t.caller.Role == identity.RoleNode && t.caller.NodeID == nodeID && t.caller.Principal == "node:"+nodeID && !s.closed {
			s.wg.Go(func() { s.end(t, ending{reason: "the link of the node ended"}) }) // nothing else proves it
		}
	}
}

// upstream is where visitors of what a node exposes go.
type upstream struct {
	s    *Service
	node string
}

// Upstream is where the visitors of what a linked node exposes go: the carriers that the node, or its credential,
// has opened.
func (s *Service) Upstream(nodeID string) bindings.Upstream { return upstream{s, nodeID} }

// Raw implements bindings.Upstream: a node of ours takes bytes, a driver what it knows.
func (u upstream) Raw() bool {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	for t := range u.s.tunnelsOf(u.node) {
		for _, b := range t.binds {
			if b.kind == kindHTTP && !t.hanzod1 {
				return false
			}
		}
	}
	return true
}

// Open implements bindings.Upstream.
func (u upstream) Open(ctx context.Context, in bindings.OpenIn) (bindings.Stream, error) {
	s := u.s
	s.mu.Lock()
	b, parked := s.served(u.node, in)
	own := s.ofNode(u.node) != nil
	s.mu.Unlock()
	switch {
	case b != nil:
		return b.Open(ctx, in)
	case parked:
		return nil, bindings.ErrParked
	case in.Port == 0 || in.Kind != kindTCP || !own && !s.cfg.Nodes.Offers(u.node, CommandOpen):
		return nil, bindings.ErrNoCarrier // a node of ours opens one when it is asked
	}
	g, err := s.ownGrant(ctx, u.node, target{in.Host, in.Port})
	if err != nil {
		return nil, err
	}
	return g.Open(ctx, in)
}

// ownGrant is the way to what a node exposes by itself.
func (s *Service) ownGrant(ctx context.Context, node string, to target) (*Grant, error) {
	s.mu.Lock()
	for _, g := range s.grants {
		if g.own && g.NodeID == node && g.Host == to.host && g.Port == to.port {
			s.mu.Unlock()
			return g, nil
		}
	}
	s.mu.Unlock()
	g, err := s.reserveGrant(identity.Caller{}, node, to, true)
	if err != nil {
		return nil, err
	}
	if _, err := s.cfg.Nodes.InvokeInternal(ctx, node, CommandOpen, g.params(true)); err != nil {
		s.forget(g)
		return nil, bindings.ErrNoCarrier.Wrap(err)
	}
	return g, nil
}

// tunnelsOf are those of a node, and of the credential that let it in. The caller holds mu.
func (s *Service) tunnelsOf(node string) iter.Seq[*tunnel] {
	credential, tenant := s.cfg.Credential(node), identity.NodeTenant(node)
	return func(yield func(*tunnel) bool) {
		for _, t := range s.tunnels {
			mine := t.caller.Role == identity.RoleNode && t.caller.NodeID == node
			same := credential != "" && t.caller.Principal == credential && t.caller.Tenant == tenant
			if (mine || same) && !yield(t) {
				return
			}
		}
	}
}

// served finds the binding of a driver's tunnel that serves what a node exposes: that of the same name, else the one
// for its port, else the only one. The tunnel is of the node, or of the credential that let the node in. The caller
// holds mu.
func (s *Service) served(node string, in bindings.OpenIn) (_ *binding, parked bool) {
	var all, named, port []*binding
	for t := range s.tunnelsOf(node) {
		for _, b := range t.binds {
			raw := in.Kind == kindTCP && b.kind == kindHTTP && t.hanzod1
			if b.mode == modeDial || b.kind != in.Kind && !raw {
				continue
			}
			if t.att.Load() == nil || t.closing {
				parked = true
				continue
			}
			all = append(all, b)
			if in.Name != "" && b.label == in.Name {
				named = append(named, b)
			}
			if in.Port != 0 && b.port == in.Port {
				port = append(port, b)
			}
		}
	}
	for _, some := range [][]*binding{named, port} {
		if len(some) > 0 {
			return slices.MaxFunc(some, func(a, b *binding) int { return a.created.Compare(b.created) }), false
		}
	}
	if len(all) == 1 {
		return all[0], false
	}
	return nil, parked
}
