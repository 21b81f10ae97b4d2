package tunnels

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

const (
	// The bounds of WatchIn.Every.
	shortestEvery = 100 * time.Millisecond
	longestEvery  = time.Minute
	defaultEvery  = time.Second
	maxWatchers   = 64
	// maxEnds is how many ids of tunnels that ended are remembered.
	maxEnds = 4096
	// drainLook is how often a tunnel that ends is looked at whether readers here are done.
	drainLook = 2 * time.Millisecond
	// auditTime bounds the wait for the disk.
	auditTime = 5 * time.Second
)

// The words of Stats.
const (
	resultOK      = "ok"
	resultReset   = "reset"
	resultRefused = "refused"
	resultResumed = "resumed"
	resultExpired = "expired"
	resultUnknown = "unknown"
)

// sees reports whether a tunnel is there for a caller: those of another tenant are not.
func (t *tunnel) sees(c identity.Caller) bool { return c.Tenant == "" || c.Tenant == t.owner.tenant }

// List returns the tunnels in the order of their creation: those of its tenant for a caller with one.
func (s *Service) List(_ context.Context, c identity.Caller, in ListIn) (ListOut, error) {
	if !c.Has(identity.ScopeRead) {
		return ListOut{}, ErrRead
	}
	return ListOut{Tunnels: s.shown(c, in.NodeID, false), Permits: Permits(s.cfg.Bindings.Permits())}, nil
}

// All returns the tunnels of all tenants, for the figures of the daemon itself.
func (s *Service) All() []Tunnel { return s.shown(identity.Caller{}, "", true) }

// shown returns what a caller sees.
func (s *Service) shown(c identity.Caller, node string, states bool) []Tunnel {
	s.mu.Lock()
	out := make([]Tunnel, 0, len(s.tunnels))
	for _, t := range s.tunnels {
		if t.sees(c) && (node == "" || node == t.caller.NodeID) {
			out = append(out, t.facts(states))
		}
	}
	s.mu.Unlock()
	for i := range out {
		share := s.cfg.Bindings.Share(out[i].ID)
		out[i].Permits, out[i].PermitLimit = share.Used, share.Limit
	}
	slices.SortFunc(out, func(a, b Tunnel) int { return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID)) })
	return out
}

// facts is the tunnel as it is told, without permits. The caller holds the service's mutex.
func (t *tunnel) facts(states bool) Tunnel {
	out := Tunnel{
		ID: t.id, Tenant: t.owner.tenant, Subject: t.owner.subject, NodeID: t.caller.NodeID, Version: t.version, PeerAddr: t.peerAddr, CreatedAt: t.created,
		Transport: t.transport, ParkedUntil: t.parkedUntil, Closing: t.closing, Granted: t.granted, MaxStreams: t.s.cfg.Settings().MaxStreams,
		Bindings: make([]Binding, 0, len(t.binds)),
	}
	n := t.was
	if att := t.att.Load(); att != nil {
		n.add(countsOf(att.sess.Stats()))
		out.Streams, out.Carriers = att.sess.Streams(), att.sess.Carriers()
		if states {
			out.States = att.sess.States()
		}
	}
	out.Parked = !out.ParkedUntil.IsZero()
	out.BytesIn, out.BytesOut, out.StreamsTotal, out.Stalled = n.in, n.out, n.opened, n.stalled
	for _, b := range t.binds {
		select {
		case <-b.told:
			out.Bindings = append(out.Bindings, b.facts())
		default: // its client has not heard of it
		}
	}
	slices.SortFunc(out.Bindings, func(a, b Binding) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Get returns one tunnel.
func (s *Service) Get(_ context.Context, c identity.Caller, in GetIn) (Tunnel, error) {
	if !c.Has(identity.ScopeRead) {
		return Tunnel{}, ErrRead
	}
	s.mu.Lock()
	t := s.tunnels[in.ID]
	if t == nil || !t.sees(c) {
		s.mu.Unlock()
		return Tunnel{}, ErrUnknown.With("tunnel", in.ID)
	}
	out := t.facts(false)
	s.mu.Unlock()
	share := s.cfg.Bindings.Share(out.ID)
	out.Permits, out.PermitLimit = share.Used, share.Limit
	return out, nil
}

// Kill ends a tunnel for good: its own with operator.write, another's with operator.admin. It returns when the
// GOAWAY is on its way; the tunnel is gone from lists after the grace.
func (s *Service) Kill(_ context.Context, c identity.Caller, in KillIn) (KillOut, error) {
	grace := DefaultGrace
	if in.Grace != nil {
		grace = *in.Grace
	}
	if grace < 0 || grace > MaxGrace {
		return KillOut{}, ErrGrace
	}
	if !c.Has(identity.ScopeWrite) {
		return KillOut{}, ErrDenied
	}
	s.mu.Lock()
	t := s.tunnels[in.ID]
	switch {
	case t == nil || !t.sees(c) || t.closing:
		s.mu.Unlock()
		return KillOut{}, ErrUnknown.With("tunnel", in.ID)
	case t.owner != ownerOf(c) && !c.Has(identity.ScopeAdmin):
		s.mu.Unlock()
		return KillOut{}, ErrDenied
	case s.closed:
		s.mu.Unlock()
		return KillOut{}, ErrStopping
	}
	t.closing = true
	att, hanzod1 := t.att.Load(), t.hanzod1
	s.totals.kills++
	s.wg.Add(1)
	s.mu.Unlock()
	s.audit(c, AuditRow{Action: "killed", TunnelID: t.id, NodeID: t.caller.NodeID, Detail: "with a grace of " + grace.String()})
	done := ending{close: closeNormal, reason: "killed", by: &c}
	if att == nil || att.quiet() {
		done.text = textKill
		s.end(t, done)
		s.wg.Done()
		return KillOut{ID: t.id}, nil
	}
	// Published drivers end all their streams when they hear GOAWAY: they hear it at the end (tunnel.md §4.6).
	att.leaving.Store(true)
	if hanzod1 {
		_ = att.sess.GoAway(wire.CodeNone, textKill, grace) // it may be gone
	} else {
		done.text = textKill
	}
	go func() {
		defer s.wg.Done()
		ctx, cancel := context.WithTimeout(att.over, grace)
		defer cancel()
		att.drain(ctx) // what has not ended by then is cut
		s.end(t, done)
	}()
	return KillOut{ID: t.id}, nil
}

// quiet reports whether no stream is left: on the wire, and with those here who read or write it.
func (att *attachment) quiet() bool { return att.sess.Streams() == 0 && att.local.Load() == 0 }

// drain waits until that is so, or until ctx ends.
func (att *attachment) drain(ctx context.Context) {
	if att.sess.Drain(ctx) != nil {
		return
	}
	look := time.NewTicker(drainLook)
	defer look.Stop()
	for !att.quiet() && att.sess.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
	}
}

// Watch tells the tunnels now and then, with rates since the last time. It ends with ctx or an error of send, which
// may take its time: what happened meanwhile comes in one.
func (s *Service) Watch(ctx context.Context, c identity.Caller, in WatchIn, send func(Snapshot) error) error {
	if !c.Has(identity.ScopeRead) {
		return ErrRead
	}
	s.mu.Lock()
	if s.closed || s.watchers >= maxWatchers {
		s.mu.Unlock()
		return ErrWatchers
	}
	s.watchers++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.watchers--
		s.mu.Unlock()
	}()
	every := in.Every
	if every == 0 {
		every = defaultEvery
	}
	tick := time.NewTicker(min(max(every, shortestEvery), longestEvery))
	defer tick.Stop()
	var before map[string]moved
	var last time.Time
	for {
		if err := s.cfg.Standing(c); err != nil {
			return err
		}
		now := time.Now()
		snap := Snapshot{At: s.cfg.Now(), Tunnels: s.shown(c, in.NodeID, false), Permits: Permits(s.cfg.Bindings.Permits())}
		before = rates(snap.Tunnels, before, now.Sub(last).Seconds())
		last = now
		if err := send(snap); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.over.Done():
			return ErrStopping
		case <-tick.C:
		}
	}
}

// moved are the bytes of a tunnel and its bindings at a time.
type moved struct {
	all   counts
	binds map[int]counts
}

// rates fills in the rates since the last time, and returns what to compare with the next time.
func rates(all []Tunnel, before map[string]moved, seconds float64) map[string]moved {
	now := make(map[string]moved, len(all))
	rate := func(is, was uint64) float64 {
		if is < was || seconds <= 0 {
			return 0
		}
		return float64(is-was) / seconds
	}
	for i := range all {
		t := &all[i]
		m := moved{counts{in: t.BytesIn, out: t.BytesOut}, make(map[int]counts, len(t.Bindings))}
		was, known := before[t.ID]
		if known {
			t.RateIn, t.RateOut = rate(t.BytesIn, was.all.in), rate(t.BytesOut, was.all.out)
		}
		for j := range t.Bindings {
			b := &t.Bindings[j]
			m.binds[b.ID] = counts{in: b.BytesIn, out: b.BytesOut}
			if old, ok := was.binds[b.ID]; ok {
				b.RateIn, b.RateOut = rate(b.BytesIn, old.in), rate(b.BytesOut, old.out)
			}
		}
		now[t.ID] = m
	}
	return now
}

// counts are what carriers have moved.
type counts struct {
	in, out, opened uint64
	stalled         time.Duration
}

func (n *counts) add(m counts) {
	n.in += m.in
	n.out += m.out
	n.opened += m.opened
	n.stalled += m.stalled
}

func countsOf(st mux.Stats) counts { return counts{st.In, st.Out, st.Opened, st.Stalled} }

// totals are the figures of the service.
type totals struct {
	was      counts // of carriers that are gone
	streams  map[string]int
	ended    map[StreamResult]uint64
	resumes  map[string]uint64
	rejected map[string]uint64
	kills    uint64
}

func newTotals() totals {
	return totals{streams: map[string]int{}, ended: map[StreamResult]uint64{}, resumes: map[string]uint64{}, rejected: map[string]uint64{}}
}

// count changes the figures.
func (s *Service) count(change func(*totals)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.totals)
}

// refused counts a stream that never was.
func (s *Service) refused(kind string) {
	s.count(func(n *totals) { n.ended[StreamResult{kind, resultRefused}]++ })
}

// Stats returns the figures.
func (s *Service) Stats() Stats {
	s.mu.Lock()
	out := Stats{
		Bindings: map[BindKind]int{}, Streams: maps.Clone(s.totals.streams), StreamsTotal: maps.Clone(s.totals.ended),
		Resumes: maps.Clone(s.totals.resumes), Rejected: maps.Clone(s.totals.rejected), Kills: s.totals.kills,
	}
	n := s.totals.was
	for _, t := range s.tunnels {
		if att := t.att.Load(); att != nil {
			out.Sessions++
			n.add(countsOf(att.sess.Stats()))
			out.States.Add(att.sess.States())
		} else {
			out.Parked++
		}
		for _, b := range t.binds {
			out.Bindings[BindKind{b.kind, b.mode}]++
		}
	}
	s.mu.Unlock()
	out.BytesIn, out.BytesOut, out.Stall = n.in, n.out, n.stalled
	of := s.cfg.Bindings.Stats()
	out.Permits, out.Takeovers = Permits(of.Permits), of.Takeovers
	return out
}

// Revoke ends the carriers of callers that have lost their credential, and the ways to nodes that they were let
// have: for whom gone is true. It does not block.
func (s *Service) Revoke(gone func(identity.Caller) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	for _, t := range s.tunnels {
		if gone(t.caller) {
			s.wg.Go(func() {
				s.end(t, ending{code: wire.CodeAuth, text: textEnded, close: closePolicy, reason: "credential ended"})
			})
		}
	}
	for _, g := range s.grants {
		if !g.own && gone(g.caller) {
			s.wg.Go(g.revoke)
		}
	}
}

// Close says GOAWAY to all, ends them within a second, and waits for the goroutines.
func (s *Service) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.wg.Wait()
		return
	}
	s.closed = true
	var ended sync.WaitGroup
	for _, t := range s.tunnels {
		ended.Go(func() {
			s.end(t, ending{code: wire.CodeNone, text: textStopping, close: closeAway, reason: textStopping})
		})
	}
	s.mu.Unlock()
	late := time.AfterFunc(s.times.bye, s.stop)
	defer late.Stop()
	ended.Wait()
	s.stop() // those who have no tunnel yet
	s.wg.Wait()
}

// audit records something. What cannot be recorded is logged.
func (s *Service) audit(c identity.Caller, row AuditRow) {
	ctx, cancel := context.WithTimeout(context.Background(), auditTime)
	defer cancel()
	if err := s.cfg.Audit(ctx, c, row); err != nil {
		s.cfg.Log.Error("what happened to a tunnel was not recorded", "action", row.Action, "tunnel", row.TunnelID, "error", err)
	}
}

// ends remembers tunnels that are gone, the newest of them.
type ends struct {
	owners map[string]owner
	order  []string
	next   int
}

func newEnds() ends { return ends{owners: map[string]owner{}} }

func (e *ends) add(id string, o owner) {
	if len(e.order) < maxEnds {
		e.order = append(e.order, id)
	} else {
		delete(e.owners, e.order[e.next])
		e.order[e.next] = id
		e.next = (e.next + 1) % maxEnds
	}
	e.owners[id] = o
}

func (e *ends) has(id string, o owner) bool {
	was, ok := e.owners[id]
	return ok && was == o
}
