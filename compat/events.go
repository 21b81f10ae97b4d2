package compat

import (
	"runtime"
	"slices"
	"sync"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/compat/methods"
	"github.com/hanzoai/hanzod/compat/schema"
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/config/live"
	"github.com/hanzoai/hanzod/cron"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/heartbeat"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/system"
	"github.com/hanzoai/hanzod/talk"
)

// rendered is an event as every client gets it, but for the number that counts its own events.
type rendered struct {
	head, tail []byte
	droppable  bool
	text       *events.Shared // the memory of head and tail
}

// Payload writes the payload of an event as legacy JSON. It also knows the events that only the
// other doors deliver. ok is false for payloads without a form.
func Payload(e events.Event) (payload []byte, ok bool) {
	shape, ok := shapeOfEvent(e)
	if !ok {
		return nil, false
	}
	b, err := wire.Marshal(shape)
	if err != nil {
		return nil, false
	}
	return b, true
}

func shapeOfEvent(e events.Event) (any, bool) {
	switch p := e.Payload.(type) {
	case system.Tick:
		return methods.TickToLegacy(p), true
	case system.HealthChanged:
		return methods.HealthToLegacy(p.Health), true
	case system.PresenceChanged:
		return methods.PresenceChangedToLegacy(p), true
	case talk.Mode:
		return methods.TalkModeToLegacy(p), true
	case heartbeat.Report:
		return methods.HeartbeatToLegacy(p), true
	case system.Shutdown:
		return methods.ShutdownToLegacy(p), true
	case approvals.Requested:
		return methods.ApprovalRequestedToLegacy(p), true
	case approvals.Resolved:
		return methods.ApprovalResolvedToLegacy(p), true
	case approvals.Changed:
		return methods.ApprovalChangedToLegacy(p), true
	case approvals.GrantChanged:
		return methods.GrantChangedToLegacy(p), true
	case identity.PairingRequested:
		return methods.PairingRequestedToLegacy(p), true
	case identity.PairingResolved:
		return methods.PairingResolvedToLegacy(p), true
	case nodes.VoiceWakeChanged:
		return methods.VoiceWakeChangedToLegacy(p), true
	case nodes.PairingRequested:
		return methods.NodePairRequestedToLegacy(p), true
	case nodes.PairingResolved:
		return methods.NodePairResolvedToLegacy(p), true
	case live.UpdateAvailable:
		return methods.UpdateAvailableToLegacy(p), true
	case live.Changed:
		return methods.ConfigChangedToLegacy(p), true
	case nodes.Changed:
		return methods.NodeChangedToLegacy(p), true
	case nodes.Reported:
		return methods.NodeReportedToLegacy(p), true
	case sessions.Chat:
		return methods.ChatToLegacy(p), true
	case cron.Changed:
		return methods.CronChangedToLegacy(p), true
	default:
		return nil, false
	}
}

// legacyEvents are the names that this door delivers: the frozen list and no other.
var legacyEvents = sync.OnceValue(func() map[string]bool {
	out := map[string]bool{}
	for _, n := range schema.HelloEvents() {
		out[n] = true
	}
	return out
})

// linkNews reports whether an event is what a linked instance reports: the original has no such event, and
// clients that look at these instances want it (tunnel.md §5.3 row 6). What nodes of the gateway protocol
// report stays between them and the gateway.
func linkNews(e events.Event) bool {
	r, ok := e.Payload.(nodes.Reported)
	return ok && r.Link == nodes.LinkTunnel
}

// deliver hands an event to every client that may see it. It is the door's sink on the bus: it
// queues and never waits.
func (d *Door) deliver(e events.Event) {
	if !legacyEvents()[e.Name] && !linkNews(e) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.conns) == 0 {
		return
	}
	payload, ok := Payload(e)
	if !ok {
		d.cfg.Log.Error("an event has no legacy form", "event", e.Name)
		return
	}
	r := render(e, payload)
	var bare *rendered // the same for subscribed nodes, which get it a second time without a number
	if nodes.Copied(e.Name) {
		bare = &rendered{head: wire.AppendEvent(nil, e.Name, payload, wire.Opt[uint64]{}, wire.Opt[wire.StateVersion]{}), droppable: true}
		bare.text = events.NewShared(cap(bare.head))
	}
	_, tailored := e.Payload.(events.Tailored)
	var parts map[string]*rendered // by tenant
	due := make([]*conn, 0, len(d.conns))
	audience := events.AudienceOf(e.Name)
	for c := range d.conns {
		if !audience.Sees(c.caller) || !events.Concerns(c.caller, e.Payload) {
			continue
		}
		part := r
		if tailored && c.caller.Tenant != "" {
			if part, ok = parts[c.caller.Tenant]; !ok {
				own := e.For(c.caller)
				payload, ok := Payload(own)
				if !ok {
					continue
				}
				if parts == nil {
					parts = map[string]*rendered{}
				}
				part = render(own, payload)
				parts[c.caller.Tenant] = part
			}
		}
		mine := c.event(part)
		if bare != nil && c.caller.Role == identity.RoleNode && d.cfg.Nodes.Subscribed(c.caller.NodeID, "") {
			mine = c.copyEvent(bare) || mine
		}
		if mine {
			due = append(due, c)
		}
	}
	// Each goroutine writes what the kernels of its share of the clients take at once.
	share := max(minShare, (len(due)+sharers-1)/sharers)
	for some := range slices.Chunk(due, share) {
		d.wg.Go(func() {
			for _, c := range some {
				c.flush()
			}
		})
	}
}

// render writes an event once for all who are sent it.
func render(e events.Event, payload []byte) *rendered {
	text := wire.AppendEvent(nil, e.Name, payload, wire.Opt[uint64]{}, wire.Opt[wire.StateVersion]{})
	r := &rendered{
		head: append(text[:len(text)-1], `,"seq":`...), tail: []byte{'}'}, droppable: events.Droppable(e.Name),
	}
	if v, ok := versionsOf(e); ok {
		withState := wire.AppendEvent(nil, "", nil, wire.Opt[uint64]{}, wire.Some(wire.StateVersion(v)))
		r.tail = withState[len(`{"type":"event","event":""`):]
	}
	r.text = events.NewShared(cap(r.head) + cap(r.tail))
	return r
}

// sharers is how many goroutines write one event, and minShare how many clients are worth one.
const minShare = 16

var sharers = 2 * runtime.GOMAXPROCS(0)

// versionsOf returns the versions that an event carries beside its payload.
func versionsOf(e events.Event) (system.Versions, bool) {
	switch p := e.Payload.(type) {
	case system.HealthChanged:
		return p.Versions, true
	case system.PresenceChanged:
		return p.Versions, true
	default:
		return system.Versions{}, false
	}
}

func (d *Door) dropped() {
	if d.cfg.Metrics != nil {
		d.cfg.Metrics.EventsDropped("legacy", 1)
	}
}

// features is what hello-ok lists: the frozen names, whoever asks.
var features = sync.OnceValue(func() wire.Raw {
	return wire.MustMarshal(struct {
		Methods []string `json:"methods"`
		Events  []string `json:"events"`
	}{schema.HelloMethods(), schema.HelloEvents()})
})

// maxPresenceRows bounds the kept rows: twice what a table lists.
const maxPresenceRows = 400

// rowCache keeps the text of presence entries: each connect tells its client of all the others,
// and few of them have changed since the last one.
type rowCache struct {
	mu   sync.Mutex
	rows map[uint64][]byte // by revision
}

// table writes the entries as system-presence does, but for the brackets around them.
func (c *rowCache) table(entries []system.Presence) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rows == nil || len(c.rows) > maxPresenceRows {
		c.rows = map[uint64][]byte{}
	}
	out := make([][]byte, 0, len(entries))
	for i, p := range entries {
		row, ok := c.rows[p.Rev]
		if !ok {
			row = append([]byte{','}, wire.MustMarshal(methods.PresenceRow(p))...)
			if p.Rev != 0 {
				c.rows[p.Rev] = row
			}
		}
		if i == 0 {
			row = row[1:]
		}
		out = append(out, row)
	}
	return out
}

// healthRow is the cached health for hello, {} before the first look.
func (d *Door) healthRow() any {
	h := d.cfg.System.Cached()
	if h == nil {
		return struct{}{}
	}
	return methods.HealthToLegacy(*h)
}

func encodeInvoke(r nodes.Request) ([]byte, error) {
	return wire.Marshal(methods.InvokeRequestToLegacy(r))
}
