// Package compat is the legacy door: the frozen JSON WebSocket protocol, version 3
// (protocol.md). It translates and asks the gate; every rule lives in a domain.
//
// Frames and schemas are in wire and schema, codecs in methods. Each connection has one goroutine
// that reads and answers quick calls; a call that waits has one of its own while it waits. Whoever has
// something for a client writes it when nobody else does and the kernel takes it at once; else the
// connection has a goroutine that writes until nothing is left. An event is written by a few
// goroutines, each for its share of the clients. All of them end with the connection, and Door.Close
// waits for them.
package compat

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/agents"
	"github.com/hanzoai/hanzod/agents/models"
	"github.com/hanzoai/hanzod/agents/skills"
	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/channels"
	"github.com/hanzoai/hanzod/compat/socket"
	"github.com/hanzoai/hanzod/config/live"
	"github.com/hanzoai/hanzod/cron"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/gate"
	"github.com/hanzoai/hanzod/heartbeat"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/identity/peer"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/secrets"
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/sessions/chat"
	"github.com/hanzoai/hanzod/sessions/usage"
	"github.com/hanzoai/hanzod/system"
	"github.com/hanzoai/hanzod/talk"
	"github.com/hanzoai/hanzod/tunnel/screens"
	"github.com/hanzoai/hanzod/wizard"
)

// SessionDefaults describe sessions to clients (protocol.md §4).
type SessionDefaults struct{ MainKey, Scope, DefaultAgent string }

// Config is what the door needs.
type Config struct {
	Catalogue *ops.Catalogue
	Gate      *gate.Gate
	Identity  *identity.Service
	Nodes     *nodes.Service
	Approvals *approvals.Service
	System    *system.Service
	Sessions  *sessions.Service
	Usage     *usage.Service
	Heartbeat *heartbeat.Service
	Cron      *cron.Service
	Channels  *channels.Service
	Secrets   *secrets.Service
	Config    *live.Service
	Wizard    *wizard.Service
	Chat      *chat.Service
	Agents    *agents.Service
	Skills    *skills.Service
	Models    *models.Service
	Talk      *talk.Service
	Screens   *screens.Service
	Presence  *system.PresenceTable
	Bus       *events.Bus
	Log       *slog.Logger
	Metrics   Metrics

	// Version is the release that hello-ok names.
	Version    string
	ConfigPath string
	StateDir   string
	Port       int
	// Defaults describes sessions to clients; it is asked for each of them.
	Defaults func() SessionDefaults
	// Canvas says that a canvas host address is offered.
	Canvas bool
	// Peers decides where clients really come from and which web pages may connect; nil trusts and
	// allows nobody.
	Peers *peer.Rules
	Now   func() time.Time
}

// Metrics counts calls. A nil one counts nothing.
type Metrics interface {
	// Observe counts one answered call; class is "ok" or an error class.
	Observe(door, op, class string, took time.Duration)
	// EventsDropped counts events left out for a slow client.
	EventsDropped(door string, n uint64)
}

// Door serves the legacy protocol. It is an http.Handler for upgrade requests.
type Door struct {
	cfg     Config
	methods map[string]binding
	rows    rowCache
	// large and refusals bound what strangers take.
	large    large
	refusals peer.Refusals
	uploads  uploads
	caps     *capabilities
	began    time.Time
	budget   *events.Budget
	stalls   stalls

	mu    sync.Mutex
	conns map[*conn]struct{}
	// greeting are the connections that were not let in yet.
	greeting map[*conn]struct{}
	closed   bool
	wg       sync.WaitGroup
	// ctx ends when the door closes: every waiting call ends with it.
	ctx    context.Context
	cancel context.CancelFunc
}

// New returns the door and attaches it to the bus.
func New(cfg Config) *Door {
	if cfg.Peers == nil {
		cfg.Peers = &peer.Rules{}
	}
	d := &Door{
		cfg: cfg, caps: newCapabilities(), began: time.Now(), budget: cfg.Bus.Budget(), conns: map[*conn]struct{}{}, greeting: map[*conn]struct{}{},
	}
	//nolint:contextcheck // the door's own lifetime, ended by Close
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.methods = d.bind()
	maps.Copy(d.methods, d.turns())
	maps.Copy(d.methods, d.voice())
	cfg.Bus.Sink(d.deliver)
	cfg.Bus.Sink(d.endDevices)
	d.budget.Source(d.holders)
	return d
}

// ServeHTTP upgrades the request. It returns as soon as the connection has its own goroutine, so
// that the server's buffers are given back.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	closed := d.closed
	if !closed {
		d.wg.Add(1)
	}
	d.mu.Unlock()
	if closed {
		http.Error(w, "service restart", http.StatusServiceUnavailable)
		return
	}
	c, err := d.accept(w, r)
	if err != nil {
		d.wg.Done()
		d.cfg.Log.Debug("an upgrade failed", "error", err)
		return
	}
	d.mu.Lock()
	d.greeting[c] = struct{}{}
	closed = d.closed
	d.mu.Unlock()
	if closed { // meanwhile
		c.abort()
	}
	go c.serve()
}

func (d *Door) accept(w http.ResponseWriter, r *http.Request) (*conn, error) {
	opts := &websocket.AcceptOptions{
		// The origin is judged in the handshake, where the answer is a frame that clients can show.
		InsecureSkipVerify: true,
		CompressionMode:    websocket.CompressionDisabled,
	}
	if offered := r.Header.Values("Sec-WebSocket-Protocol"); len(offered) > 0 {
		opts.Subprotocols = firstProtocol(offered[0])
	}
	c := newConn(d, upgradeOf(d.cfg.Peers, r))
	c.proved = peer.Prover(r.Context())
	var err error
	if c.ws, err = websocket.Accept(socket.Owned(w, (*owner)(c)), r, opts); err != nil {
		return nil, err
	}
	c.ws.SetReadLimit(-1) // the door has a limit of its own, with the close code that clients know
	return c, nil
}

// holders are the clients that something may wait for.
func (d *Door) holders() []events.Holder {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]events.Holder, 0, len(d.conns))
	for c := range d.conns {
		out = append(out, c)
	}
	return out
}

// greeted takes a connection out of those that were not let in yet.
func (d *Door) greeted(c *conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.greeting, c)
}

// add lets a connection receive events. It fails when the door is closing.
func (d *Door) add(c *conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.conns[c] = struct{}{}
	return true
}

func (d *Door) remove(c *conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.conns, c)
}

// endDevices ends the connections of a device that was removed or revoked. It is a sink on the bus: it
// does not wait.
func (d *Door) endDevices(e events.Event) {
	ended, ok := e.Payload.(identity.Ended)
	if !ok {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		if ended.Covers(c.caller) {
			c.expel(ended.Reason, c.id == ended.By)
		}
	}
}

// DeviceConnections returns how many connections each device has.
func (d *Door) DeviceConnections() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[string]int{}
	for c := range d.conns {
		if c.caller.DeviceID != "" {
			out[c.caller.DeviceID]++
		}
	}
	return out
}

// Connections returns how many clients are connected.
func (d *Door) Connections() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

// Run asks silent nodes whether they are there, and everybody after a jump of the clock, and ends connections whose
// token has expired, until ctx ends.
func (d *Door) Run(ctx context.Context) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	wall := d.cfg.Now().Round(0) // without the monotonic clock, which stands still while a machine sleeps
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := d.cfg.Now().Round(0)
		d.expire(now)
		d.ask(now.Sub(wall) > clockJump)
		wall = now
	}
}

// expire ends the connections of those whom nothing lets in any more but a token that has expired.
func (d *Door) expire(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		if t := c.caller.Expires; !t.IsZero() && !now.Before(t) && !c.expelled.Load() {
			c.expel("the token has expired; sign in again", false)
		}
	}
}

// ask asks clients whether they are there. woke says that the clock has jumped.
func (d *Door) ask(woke bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	for c := range d.conns {
		node := c.caller.Role == identity.RoleNode
		if (!woke && (!node || c.silentFor() < pingAfter)) || !c.pinging.CompareAndSwap(false, true) {
			continue
		}
		d.wg.Go(func() {
			defer c.pinging.Store(false)
			wait := pingWait
			if woke {
				wait = wakeWait
			}
			for !c.answers(wait) && d.ctx.Err() == nil && c.ctx.Err() == nil {
				if c.caller.Role != identity.RoleNode && c.Backlog() > 0 {
					continue // how long it may take for what waits is not decided here; the next question stands behind it
				}
				d.cfg.Log.Warn("a client is silent and counts as gone", "conn", c.id, "node", c.caller.NodeID, "silent", c.silentFor().String())
				c.abort()
				return
			}
		})
	}
}

// answers asks the client and reports whether it is there. An answer stands behind a message that is on
// its way.
func (c *conn) answers(wait time.Duration) bool {
	ctx, cancel := context.WithTimeout(c.ctx, wait)
	defer cancel()
	return c.ws.Ping(ctx) == nil || c.silentFor() < wait
}

// Close tells every client that the service stops, closes the connections with 1012 and waits for
// their goroutines, at most until ctx ends.
func (d *Door) Close(ctx context.Context) {
	d.mu.Lock()
	d.closed = true
	conns := make([]*conn, 0, len(d.conns))
	for c := range d.conns {
		conns = append(conns, c)
	}
	for c := range d.greeting {
		if _, in := d.conns[c]; !in {
			conns = append(conns, c)
		}
	}
	d.wg.Add(len(conns))
	d.mu.Unlock()
	for _, c := range conns {
		go func() {
			defer d.wg.Done()
			c.shutdown(websocket.StatusServiceRestart, "service restart")
		}()
	}
	done := make(chan struct{})
	go func() {
		d.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	d.cancel()
	d.mu.Lock()
	for _, c := range conns {
		c.abort()
	}
	d.mu.Unlock()
	<-done
}
