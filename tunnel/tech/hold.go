package tech

import (
	"context"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

// hold is an active session.
type hold struct {
	s                       *Service
	id, node, owner, tenant string
	caller                  identity.Caller
	lane                    Lane
	hub                     *hub
	pace                    pace
	// ended is closed when it is over, and gone when its node was told.
	ended, gone chan struct{}

	// state is held for reading while a row is written, and for writing while the session is closed: no late row brings a
	// closed session back.
	state sync.RWMutex

	mu       sync.Mutex
	rec      Session
	kept     time.Time // the last activity that is on disk
	over     bool
	channels map[string]*Joined
}

func newHold(s *Service, c identity.Caller, r Session, lane Lane) *hold {
	c.Expires = time.Time{} // the session is of the person: a newer token goes on with it
	return &hold{
		s: s, id: r.ID, node: r.NodeID, owner: r.Owner, tenant: r.Tenant, caller: c, lane: lane, hub: newHub(r.ID, s.c.Now), ended: make(chan struct{}), gone: make(chan struct{}),
		rec: r, kept: r.LastActivity, channels: map[string]*Joined{},
	}
}

// follow closes the session when its node goes away.
func (h *hold) follow() {
	defer h.s.wg.Done()
	select {
	case <-h.lane.Done():
		_ = h.end(h.lane.Err(), "hanzod") // it is logged
	case <-h.ended:
	}
}

// shown is the session as it is now.
func (h *hold) shown() Session {
	watchers := h.hub.count()
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.rec
	r.Watchers = watchers
	for _, j := range h.channels {
		r.Channels = append(r.Channels, j.shown())
	}
	return r
}

func (h *hold) active() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rec.LastActivity
}

// touch notes that something happens.
func (h *hold) touch(in, out int) {
	now := h.s.c.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rec.LastActivity = now
	h.rec.BytesIn += int64(in)
	h.rec.BytesOut += int64(out)
}

// keep writes the last activity down, when there was some.
func (h *hold) keep(time.Time) {
	h.state.RLock()
	defer h.state.RUnlock()
	h.mu.Lock()
	r, stale, over := h.rec, h.rec.LastActivity.After(h.kept), h.over
	h.kept = r.LastActivity
	h.mu.Unlock()
	if over || !stale {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), recordTime)
	defer cancel()
	if err := h.s.c.Store.ChangeTechSession(ctx, r); err != nil {
		h.s.c.Log.Warn("the last activity of a technician session could not be kept", "session", h.id, "err", err)
	}
}

// record writes a row to the disk, with the session. Rows of a session that was closed meanwhile are written alone.
func (h *hold) record(ctx context.Context, channel, op, outcome, subject string, detail map[string]any) error {
	h.state.RLock()
	defer h.state.RUnlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	h.mu.Lock()
	if !h.over {
		h.rec.LastActivity = h.s.c.Now()
		h.kept = h.rec.LastActivity
	}
	r, over := h.rec, h.over
	h.mu.Unlock()
	row := h.s.row(r, channel, op, outcome, subject, detail)
	if over {
		return h.s.c.Store.AppendTechAudit(ctx, row)
	}
	return h.s.c.Store.ChangeTechSession(ctx, r, row)
}

// ending says whether the session ends, or has.
func (h *hold) ending() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.over
}

// end closes the session. When an operator asks and the disk fails, it stays as it was; else it ends in any case.
func (h *hold) end(reason Reason, by string) error {
	h.state.Lock()
	h.mu.Lock()
	if h.over {
		h.mu.Unlock()
		h.state.Unlock()
		return nil
	}
	r := h.rec
	h.mu.Unlock()
	r.Status, r.Reason, r.ClosedBy, r.ClosedAt = Closed, reason, by, h.s.c.Now()
	ctx, cancel := context.WithTimeout(context.Background(), recordTime)
	defer cancel()
	row := h.s.row(r, "", "close", "ok", by, map[string]any{"reason": string(reason)})
	if err := h.s.c.Store.ChangeTechSession(ctx, r, row); err != nil {
		if reason == ByOperator || reason == TakenOver {
			h.state.Unlock()
			return err
		}
		h.s.later(unclosed{r, row}, err)
	}
	h.mu.Lock()
	h.rec, h.over = r, true
	joined := make([]*Joined, 0, len(h.channels))
	for _, j := range h.channels {
		joined = append(joined, j)
	}
	h.mu.Unlock()
	close(h.ended)
	h.state.Unlock()

	why := endedBy(reason)
	for _, j := range joined {
		_ = j.Close(why) // who uses it is told by its Receive
	}
	closing, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	if err := h.lane.Close(closing, reason); err != nil {
		h.s.c.Log.Info("the node of a technician session that was closed could not be told", "session", h.id, "node", h.node, "err", err)
	}
	h.s.c.Nodes.Mode(h.node, "")
	h.hub.end(Event{Type: "closed", Subject: by, Text: string(reason)})
	h.s.mu.Lock()
	delete(h.s.live, h.id)
	h.s.mu.Unlock()
	close(h.gone)
	h.s.c.Log.Info("a technician session was closed", "session", h.id, "node", h.node, "reason", reason, "by", by)
	return nil
}

// endings are the reasons for people.
var endings = map[Reason]string{
	ByOperator: "it was closed", TakenOver: "somebody took the node over", Disconnected: "the node was disconnected", Restarted: "the daemon is stopping",
	Idle: "nothing happened in it for too long", Revoked: "what let its owner in has ended", Removed: "the node was removed", NodeEnded: "the node ended it",
}

// endedBy is ErrEnded with the reason.
func endedBy(reason Reason) error {
	return ErrEnded.WithText("the technician session is closed ("+endings[reason]+"); open another one").With("reason", string(reason))
}

// leave ends what callers do here whose credential has ended.
func (h *hold) leave(covers func(identity.Caller) bool) {
	h.hub.leave(covers)
	h.mu.Lock()
	var gone []*Joined
	for _, j := range h.channels {
		if covers(j.caller) {
			gone = append(gone, j)
		}
	}
	h.mu.Unlock()
	for _, j := range gone {
		_ = j.Close(identity.ErrEnded) // who uses it is told by its Receive
	}
}

// command takes a place in the rate of commands, which are counted over all sessions of an operator on a node.
func (h *hold) command() bool {
	rate := h.s.c.Settings().Rate
	if rate <= 0 {
		rate = DefaultRate
	}
	now, who := h.s.c.Now(), h.owner+"\x00"+h.node
	h.s.mu.Lock()
	ran := recent(h.s.commands[who], now)
	if len(ran) >= rate {
		h.s.commands[who] = ran
		h.s.mu.Unlock()
		return false
	}
	h.s.commands[who] = append(ran, now)
	h.s.ran++
	h.s.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rec.Commands++
	return true
}

// recent keeps the times of the last minute.
func recent(ran []time.Time, now time.Time) []time.Time {
	first := 0
	for first < len(ran) && now.Sub(ran[first]) >= time.Minute {
		first++
	}
	return append(ran[:0], ran[first:]...)
}

// forgetCommands lets go of who ran nothing in the last minute.
func (s *Service) forgetCommands(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for who, ran := range s.commands {
		if ran = recent(ran, now); len(ran) == 0 {
			delete(s.commands, who)
		} else {
			s.commands[who] = ran
		}
	}
}
