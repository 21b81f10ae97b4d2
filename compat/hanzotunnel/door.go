package hanzotunnel

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/compat/socket"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/identity/peer"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/tunnel/bindings"
	"github.com/hanzoai/hanzod/tunnel/links"
)

// Settings are what the configuration in force says of links.
type Settings struct {
	// SessionURL is the address of the pages of nodes, without the id of one and the slash before it.
	SessionURL string
	// PerTenant is how many instances of one tenant may be linked at once.
	PerTenant int
}

// Config is what the door needs. Fields are required unless they say otherwise.
type Config struct {
	Identity *identity.Service
	Nodes    *nodes.Service
	// Memory knows instances that come back.
	Memory *links.Memory
	// Bindings gives addresses to what instances expose.
	Bindings *bindings.Service
	Bus      *events.Bus
	// Peers decides where instances really come from and which web pages may link; nil trusts and allows nobody.
	Peers    *peer.Rules
	Settings func() Settings
	Log      *slog.Logger
}

// Door serves instances: the server half of the protocol. It is an http.Handler for upgrade requests on Paths.
//
// Each link has one goroutine that reads, and one that writes while something waits. Close waits for them.
type Door struct {
	cfg      Config
	began    time.Time
	room     room
	refusals peer.Refusals

	// joining is held while an instance takes its place.
	joining sync.Mutex

	mu sync.Mutex
	// greeting are the links that have not registered, linked those that have by the id of their node, and
	// tenants counts these by tenant.
	greeting map[*conn]struct{}
	linked   map[string]*conn
	tenants  map[string]int
	closed   bool
	wg       sync.WaitGroup
	ctx      context.Context // ends when the door closes
	cancel   context.CancelFunc
}

// New returns the door and attaches it to the bus.
func New(cfg Config) *Door {
	if cfg.Peers == nil {
		cfg.Peers = &peer.Rules{}
	}
	d := &Door{
		cfg: cfg, began: time.Now(), greeting: map[*conn]struct{}{}, linked: map[string]*conn{}, tenants: map[string]int{},
	}
	//nolint:contextcheck // the door's own lifetime, ended by Close
	d.ctx, d.cancel = context.WithCancel(context.Background())
	cfg.Bus.Sink(d.expel)
	return d
}

// restarting is what instances are told by a daemon that stops.
const restarting = "service restart"

// Serves reports whether a path, as it was sent, is one of the door.
func Serves(path string) bool { return slices.Contains(Paths, path) }

// ServeHTTP upgrades the request. It returns as soon as the link has its own goroutine, so that the server's
// buffers are given back. Nobody is refused with an HTTP status: an instance would not come back after one
// (tunnel.md §1.2, rule 2).
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, _ := peer.TakeToken(r)
	options := &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the origin is judged below, where the answer is one that instances understand
		CompressionMode:    websocket.CompressionDisabled,
	}
	d.mu.Lock()
	closed := d.closed
	if !closed {
		d.wg.Add(1)
	}
	d.mu.Unlock()
	if closed {
		if ws, err := websocket.Accept(w, r, options); err == nil {
			time.AfterFunc(strangerWait, func() { _ = ws.CloseNow() })
			_ = ws.Close(websocket.StatusGoingAway, restarting) // it comes back, or is gone
		}
		return
	}
	from := d.cfg.Peers.Peer(r)
	page := d.cfg.Peers.Page(r, from)
	c := newConn(d, from)
	c.proved = peer.Prover(r.Context())
	var err error
	c.ws, err = websocket.Accept(socket.Owned(w, (*owner)(c)), r, options)
	if err != nil {
		d.wg.Done()
		d.cfg.Log.Debug("an upgrade failed", "error", err)
		return
	}
	c.ws.SetReadLimit(-1) // the door has a limit of its own
	d.mu.Lock()
	d.greeting[c] = struct{}{}
	closed = d.closed
	d.mu.Unlock()
	go c.serve(token, page.Present && !page.MayConnect(), closed)
}

// expel ends the links of a credential that does not let in any more. It is a sink on the bus: it does not wait.
func (d *Door) expel(e events.Event) {
	ended, ok := e.Payload.(identity.Ended)
	if !ok {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.linked {
		if ended.Covers(c.caller) {
			c.expelled.Store(true)
			c.finishWith(websocket.StatusPolicyViolation, ended.Reason, strangerWait)
		}
	}
}

// Links returns how many instances are linked.
func (d *Door) Links() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.linked)
}

// Run asks silent instances whether they are there, until ctx ends.
func (d *Door) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		d.mu.Lock()
		for _, c := range d.linked {
			c.look()
		}
		d.mu.Unlock()
	}
}

// Close ends all links, so that instances come back, and waits for their goroutines, at most until ctx ends.
func (d *Door) Close(ctx context.Context) {
	d.mu.Lock()
	d.closed = true
	all := make([]*conn, 0, len(d.linked)+len(d.greeting))
	for _, c := range d.linked {
		all = append(all, c)
	}
	for c := range d.greeting {
		all = append(all, c)
	}
	for _, c := range all {
		c.finishWith(websocket.StatusGoingAway, restarting, closeWait)
	}
	d.mu.Unlock()
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
	for _, c := range all {
		c.abort()
	}
	<-done
	d.cfg.Bindings.Close()
	d.cfg.Memory.Close()
}

// room is what large messages take together.
type room struct {
	mu    sync.Mutex
	bytes int
}

func (r *room) take(n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bytes+n > maxRoom {
		return false
	}
	r.bytes += n
	return true
}

func (r *room) give(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bytes -= n
}

// sessionURL is the page of an instance.
func sessionURL(base, id string) string {
	return strings.TrimRight(base, "/") + "/" + url.PathEscape(id)
}
