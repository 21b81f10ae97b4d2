//go:build unix

package proc

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/errs"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/identity"
)

const (
	// The pauses of the original's clients between attempts to connect (protocol.md §8): the command
	// line, the text interface and the node host double theirs from one second, the Control UI takes
	// 0.8 s times 1.7. A connection starts them anew.
	scriptFirst, scriptMax, scriptFactor    = time.Second, 30 * time.Second, 2.0
	browserFirst, browserMax, browserFactor = 800 * time.Millisecond, 15 * time.Second, 1.7
	// streamFirst and streamMax are the pauses of who follows a stream by gRPC or REST.
	streamFirst, streamMax = 50 * time.Millisecond, time.Second
	// crowdConnect bounds one attempt.
	crowdConnect = 20 * time.Second
	// crowdAtOnce is how many connect at a time at first; after a restart nothing holds them back.
	crowdAtOnce = 16
)

// CrowdOptions say how many clients of each kind there are, and where the daemon is.
type CrowdOptions struct {
	Addr, Socket, Token string
	// Scripts and Browsers are operators of the older protocol with the pauses of the original's two
	// kinds of clients; Devices are such with a device of their own, who come back with their device
	// token alone.
	Scripts, Browsers, Devices int
	// Nodes are nodes of the older protocol, GRPCNodes those of gRPC.
	Nodes, GRPCNodes int
	// Watchers follow the nodes by gRPC, Streams by REST.
	Watchers, Streams int
}

// Size is how many clients that are.
func (o CrowdOptions) Size() int {
	return o.Scripts + o.Browsers + o.Devices + o.Nodes + o.GRPCNodes + o.Watchers + o.Streams
}

// CrowdOf shares a number of clients out among the kinds.
func CrowdOf(d *Daemon, n int) CrowdOptions {
	o := CrowdOptions{Addr: d.Addr(), Socket: d.Socket(), Token: Token}
	kinds := []*int{&o.Scripts, &o.Browsers, &o.Devices, &o.Nodes, &o.GRPCNodes, &o.Watchers, &o.Streams}
	for i := range n {
		*kinds[i%len(kinds)]++
	}
	return o
}

// Crowd is clients that connect again by themselves, each as its kind does.
type Crowd struct {
	o      CrowdOptions
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	slots  chan struct{}
	// age counts the lives of the daemon: a client that is up names the one it has met.
	age     atomic.Int64
	members []*member

	mu      sync.Mutex
	refused map[string]int
}

// member is one client.
type member struct {
	kind string
	// met is the age that it is connected in, 0 while it is not; at says since when.
	met, at atomic.Int64
	// told is how often it was told of a stop, expected what the last one said of a restart.
	told     atomic.Int64
	expected atomic.Int64
}

// NewCrowd starts the clients. The test ends them.
func NewCrowd(tb testing.TB, o CrowdOptions) *Crowd {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &Crowd{o: o, ctx: ctx, cancel: cancel, slots: make(chan struct{}, crowdAtOnce), refused: map[string]int{}}
	c.age.Store(1)
	add := func(n int, kind string, first, most time.Duration, factor float64, serve func(i int) func(ctx context.Context, m *member) error) {
		for i := range n {
			m := &member{kind: kind}
			c.members = append(c.members, m)
			run := serve(i)
			c.wg.Go(func() { c.keep(m, first, most, factor, run) })
		}
	}
	operator := func(kind string) func(i int) func(context.Context, *member) error {
		return func(i int) func(context.Context, *member) error {
			p := dial.Options{
				URL: "ws://" + o.Addr, Client: dial.Client{ID: "test", Mode: "test", InstanceID: fmt.Sprint(kind, i)},
				Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeRead, identity.ScopeWrite}, Auth: dial.Auth{Token: o.Token},
			}
			return func(ctx context.Context, m *member) error { return c.legacy(ctx, m, p) }
		}
	}
	add(o.Scripts, "script", scriptFirst, scriptMax, scriptFactor, operator("script"))
	add(o.Browsers, "browser", browserFirst, browserMax, browserFactor, operator("browser"))
	add(o.Devices, "device", scriptFirst, scriptMax, scriptFactor, func(i int) func(context.Context, *member) error {
		p := dial.Options{
			URL: "ws://" + o.Addr, Client: dial.Client{ID: "test", Mode: "test", InstanceID: fmt.Sprint("device", i)}, Device: Device(tb),
			Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeRead}, Auth: dial.Auth{Token: o.Token},
		}
		return func(ctx context.Context, m *member) error { return c.device(ctx, m, &p) }
	})
	add(o.Nodes, "node", scriptFirst, scriptMax, scriptFactor, func(i int) func(context.Context, *member) error {
		p := dial.Options{
			URL: "ws://" + o.Addr, Client: dial.Client{ID: "node-host", Mode: "node", InstanceID: NodeOfCrowd(i)},
			Role: identity.RoleNode, Commands: []string{"system.run"}, Caps: []string{"system"}, Auth: dial.Auth{Token: o.Token},
		}
		return func(ctx context.Context, m *member) error { return c.legacy(ctx, m, p) }
	})
	dialled := func(asNode bool) *client.Client {
		g, err := client.Dial(ctx, client.Options{Socket: o.Socket, ClientName: "crowd", AsNode: asNode})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = g.Close() })
		return g
	}
	add(o.GRPCNodes, "grpc node", streamFirst, streamMax, scriptFactor, func(i int) func(context.Context, *member) error {
		g := dialled(true)
		return func(ctx context.Context, m *member) error { return c.grpcNode(ctx, m, g, i) }
	})
	add(o.Watchers, "watcher", streamFirst, streamMax, scriptFactor, func(int) func(context.Context, *member) error {
		g := dialled(false)
		return func(ctx context.Context, m *member) error { return c.watcher(ctx, m, g) }
	})
	h := &http.Client{Transport: &http.Transport{}}
	tb.Cleanup(h.CloseIdleConnections)
	add(o.Streams, "stream", streamFirst, streamMax, scriptFactor, func(int) func(context.Context, *member) error {
		return func(ctx context.Context, m *member) error { return c.stream(ctx, m, h) }
	})
	tb.Cleanup(func() {
		cancel()
		c.wg.Wait()
	})
	return c
}

// NodeOfCrowd is the id of a node of the older protocol.
func NodeOfCrowd(i int) string { return fmt.Sprint("crowd-node-", i) }

// keep connects again and again.
func (c *Crowd) keep(m *member, first, most time.Duration, factor float64, serve func(context.Context, *member) error) {
	pause := first
	for begin := true; c.ctx.Err() == nil; begin = false {
		if begin {
			c.slots <- struct{}{}
			m.at.Store(-1) // it holds a slot until it is up
		}
		met := m.met.Load()
		err := serve(c.ctx, m)
		was := m.met.Swap(0)
		if begin && m.at.CompareAndSwap(-1, 0) {
			<-c.slots
		}
		if was != met && was != 0 {
			pause = first // it was up
		} else if e, ok := errors.AsType[*client.Error](err); ok && e.Class != errs.Unavailable && c.ctx.Err() == nil {
			c.note(m.kind + ": " + e.Message)
		}
		t := time.NewTimer(time.Duration(float64(pause) * (0.9 + 0.2*rand.Float64())))
		select {
		case <-t.C:
		case <-c.ctx.Done():
			t.Stop()
		}
		pause = min(time.Duration(float64(pause)*factor), most)
	}
}

func (c *Crowd) note(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused[text]++
}

// Refused are the refusals that clients have met, with how often.
func (c *Crowd) Refused() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.refused)
}

// up notes that a client is connected.
func (c *Crowd) up(m *member) {
	m.met.Store(c.age.Load())
	if m.at.Swap(time.Now().UnixNano()) == -1 {
		<-c.slots
	}
}

func (c *Crowd) legacy(ctx context.Context, m *member, o dial.Options) error {
	o.OnEvent = func(_ *dial.Conn, e dial.Event) {
		if e.Name != "shutdown" {
			return
		}
		var p struct {
			RestartExpectedMs *int64 `json:"restartExpectedMs"`
		}
		_ = json.Unmarshal(e.Payload, &p) // no number is none
		m.expected.Store(-1)
		if p.RestartExpectedMs != nil {
			m.expected.Store(*p.RestartExpectedMs)
		}
		m.told.Add(1)
	}
	in, cancel := context.WithTimeout(ctx, crowdConnect)
	defer cancel()
	l, err := dial.Dial(in, o)
	if err != nil {
		if r, ok := err.(*dial.RefusedError); ok {
			c.note(m.kind + ": " + r.Message)
		}
		return err
	}
	defer l.Close()
	c.up(m)
	select {
	case <-l.Done():
		return l.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// device takes the token that it gets the first time, and shows nothing else from then on.
func (c *Crowd) device(ctx context.Context, m *member, o *dial.Options) error {
	if o.Auth.DeviceToken == "" {
		l, err := dial.Dial(ctx, *o)
		if err != nil {
			return err
		}
		o.Auth = dial.Auth{DeviceToken: l.Hello().DeviceToken, Token: l.Hello().DeviceToken}
		if err := l.Close(); err != nil {
			return err
		}
	}
	return c.legacy(ctx, m, *o)
}

func (c *Crowd) grpcNode(ctx context.Context, m *member, g *client.Client, i int) error {
	in, cancel := context.WithTimeout(ctx, crowdConnect)
	defer cancel()
	l, err := g.AttachNode(in, client.NodeOptions{
		Registration: &nodesv1.NodeRegistration{InstanceId: fmt.Sprint("crowd-grpc-", i), ClientId: "node-host", ClientMode: "node", Version: "1", Platform: "linux", Caps: []string{"system"}, Commands: []string{"system.run"}},
		OnInvoke:     func(*client.NodeLink, *nodesv1.NodeInvoke) {},
	})
	if err != nil {
		return err
	}
	defer l.Close()
	c.up(m)
	select {
	case <-l.Done():
		return l.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Crowd) watcher(ctx context.Context, m *member, g *client.Client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := g.Nodes.WatchNodes(ctx, &nodesv1.WatchNodesRequest{})
	for first := true; err == nil; first = false {
		if _, err = s.Recv(); err == nil && first {
			c.up(m)
		}
	}
	return err
}

func (c *Crowd) stream(ctx context.Context, m *member, h *http.Client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.o.Addr+"/v1/nodes:watch", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.o.Token)
	res, err := h.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		c.note(m.kind + ": " + res.Status)
		return nil
	}
	lines := bufio.NewReader(res.Body)
	for first := true; ; first = false {
		if _, err := lines.ReadSlice('\n'); err != nil && err != bufio.ErrBufferFull {
			return err
		}
		if first {
			c.up(m)
		}
	}
}

// Restarted says that the daemon of before has ended: who is up from now on has met the next one.
func (c *Crowd) Restarted() { c.age.Add(1) }

// Missing is how many clients of each kind are not connected to the daemon of this age.
func (c *Crowd) Missing() map[string]int {
	age, out := c.age.Load(), map[string]int{}
	for _, m := range c.members {
		if m.met.Load() != age {
			out[m.kind]++
		}
	}
	return out
}

// Back waits until all are connected to the daemon of this age. It returns when the last one of each kind
// came.
func (c *Crowd) Back(tb testing.TB, limit time.Duration) map[string]time.Time {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if poll(ctx, func() bool { return len(c.Missing()) == 0 }) != nil {
		tb.Fatalf("after %v these are not back: %v; refused: %v", limit, c.Missing(), c.Refused())
	}
	last := map[string]time.Time{}
	for _, m := range c.members {
		if at := time.Unix(0, m.at.Load()); at.After(last[m.kind]) {
			last[m.kind] = at
		}
	}
	return last
}

// Told is how many clients of the older protocol were told of n stops, and what the last one said of a
// restart, each value once, -1 for none.
func (c *Crowd) Told(n int64) (told int, expected []int64) {
	for _, m := range c.members {
		if m.told.Load() >= n {
			told++
			if x := m.expected.Load(); !slices.Contains(expected, x) {
				expected = append(expected, x)
			}
		}
	}
	return told, expected
}
