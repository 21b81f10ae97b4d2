//go:build linux

package robustness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	// lazyClients of crowd clients stop reading; watchers read the same events, and askers ask for
	// health all the time.
	crowd       = 1000
	lazyClients = 100
	watchers    = 10
	askers      = 8
	// eventBytes is the size of a question that all watchers hear of, burst how many come at once,
	// which is more than the sockets hold, and flowEvery how far apart they come afterwards.
	eventBytes = 64 << 10
	burst      = 60
	flowEvery  = 50 * time.Millisecond
	// measured is how long health is asked for in each phase.
	measured = 2 * time.Second
	// noise is what p99 may differ by on a machine that does other things as well.
	noise = 10 * time.Millisecond
	// maxGrowth is the memory that clients who do not read may cost: the events that wait for them
	// are one text for all of them.
	maxGrowth = 150 * mib
	// cutAfter is when clients that do not read are gone.
	cutAfter = 15 * time.Second

	// unread are calls whose answers of unreadBytes nobody reads: more than the sockets hold.
	unread      = 8000
	unreadBytes = 600

	// strangers are connections that never say who they are; each costs perStranger at most and is
	// cut after strangerTime (promise 6).
	strangers     = 2000
	perStranger   = 64 << 10
	strangerTime  = 10 * time.Second
	strangerSlack = 2 * time.Second
)

// lazy is a client that reads until it is told to stop.
type lazy struct {
	ws   *websocket.Conn
	stop atomic.Bool
	done chan struct{}
}

// newLazy connects with a small receive buffer, so that what is not read stays with the daemon.
func newLazy(t *testing.T, d *proc.Daemon) *lazy {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), proc.Patience)
	defer cancel()
	dialer := &net.Dialer{}
	tr := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, addr)
		if tc, ok := c.(*net.TCPConn); ok {
			err = errors.Join(err, tc.SetReadBuffer(16<<10))
		}
		return c, err
	}}
	ws, _, err := websocket.Dial(ctx, d.WS(), &websocket.DialOptions{HTTPClient: &http.Client{Transport: tr}})
	if err != nil {
		t.Fatal(err)
	}
	l := &lazy{ws: ws, done: make(chan struct{})}
	t.Cleanup(func() {
		_ = ws.CloseNow()
		<-l.done
	})
	ws.SetReadLimit(-1)
	if _, _, err := ws.Read(ctx); err != nil { // the challenge
		t.Fatal(err)
	}
	hello, err := json.Marshal(map[string]any{"type": "req", "id": "1", "method": "connect", "params": map[string]any{
		"minProtocol": 3, "maxProtocol": 3, "role": "operator", "scopes": []string{"operator.admin"},
		"client": map[string]string{"id": "test", "mode": "test", "version": "1", "platform": "linux"},
		"auth":   map[string]string{"token": proc.Token},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := ws.Write(ctx, websocket.MessageText, hello); err != nil {
		t.Fatal(err)
	}
	if _, m, err := ws.Read(ctx); err != nil || !strings.Contains(string(m), "hello-ok") {
		t.Fatalf("%.300s, %v", m, err)
	}
	go func() {
		defer close(l.done)
		for !l.stop.Load() {
			if _, _, err := ws.Read(context.Background()); err != nil {
				return
			}
		}
	}()
	return l
}

// p99 asks for health from all askers for a while.
func p99(t *testing.T, conns []*dial.Conn) time.Duration {
	t.Helper()
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	end := time.Now().Add(measured)
	for _, c := range conns {
		wg.Go(func() {
			var took []time.Duration
			for time.Now().Before(end) {
				began := time.Now()
				if _, err := c.Call(context.Background(), "health", map[string]any{}); err != nil {
					t.Error(err)
					return
				}
				took = append(took, time.Since(began))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
		})
	}
	wg.Wait()
	if len(all) == 0 {
		t.Fatal("nobody got an answer")
	}
	slices.Sort(all)
	return all[len(all)*99/100]
}

// TestP5SlowReaders: 100 of 1,000 clients stop reading while events flow. The others do not notice:
// p99 of health at most doubles, memory stays below its bound, and the slow ones are gone within 15 s.
func TestP5SlowReaders(t *testing.T) {
	d := proc.Start(t, proc.Options{})
	var slow []*lazy
	for range lazyClients {
		slow = append(slow, newLazy(t, d))
	}
	for range watchers {
		proc.Connect(t, d.Operator(nil))
	}
	o := d.Operator(nil)
	o.Scopes = []identity.Scope{identity.ScopeRead} // these hear of no question
	var asking []*dial.Conn
	for i := range crowd - lazyClients - watchers {
		c := proc.Connect(t, o)
		if i < askers {
			asking = append(asking, c)
		}
	}
	source := proc.Connect(t, d.Operator(nil))
	text := strings.Repeat("x", eventBytes)
	n := 0
	question := func() {
		n++
		id := fmt.Sprint("flow", n)
		accepted := make(chan struct{})
		go func() {
			_, _ = source.CallTwoPhase(context.Background(), "exec.approval.request", map[string]any{
				"id": id, "command": text, "timeoutMs": 500, "twoPhase": true,
			}, func(json.RawMessage) { close(accepted) })
		}()
		select {
		case <-accepted:
		case <-source.Done():
		}
	}
	stop := make(chan struct{})
	flowing := sync.WaitGroup{}
	bursts := make(chan chan struct{})
	flowing.Go(func() {
		tick := time.NewTicker(flowEvery)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case done := <-bursts:
				for range burst {
					question()
				}
				close(done)
			case <-tick.C:
				question()
			}
		}
	})
	defer flowing.Wait()
	defer sync.OnceFunc(func() { close(stop) })()
	flood := func() {
		done := make(chan struct{})
		bursts <- done
		<-done
	}

	flood()
	before := p99(t, asking)
	memory := proc.Private(t, d.PID())
	for _, l := range slow {
		l.stop.Store(true)
	}
	stopped := time.Now()
	flood()
	after := p99(t, asking)
	grown := proc.Private(t, d.PID()) - memory
	t.Logf("p99 of health %v with all reading, %v with %d of %d not reading; memory %.1f MiB, then %+.1f MiB",
		before, after, lazyClients, crowd, float64(memory)/mib, float64(grown)/mib)
	if after > 2*before+noise {
		t.Errorf("p99 of health grew from %v to %v; at most twice is promised", before, after)
	}
	if grown > maxGrowth {
		t.Errorf("clients that do not read cost %.1f MiB", float64(grown)/mib)
	}
	// The daemon cuts them; the readers stay.
	proc.UntilFor(t, cutAfter-time.Since(stopped), "the slow clients are cut", func() bool {
		return connections(t, d) <= crowd-lazyClients+1
	})
	t.Logf("all are gone after %v", time.Since(stopped))
	if got := connections(t, d); got != crowd-lazyClients+1 {
		t.Errorf("%d clients are left; want %d", got, crowd-lazyClients+1)
	}
	proc.UntilFor(t, cutAfter, "the memory comes back", func() bool { return proc.Private(t, d.PID())-memory < maxGrowth/2 })
	d.Kill() // a close of each in turn would be told to all others, which takes longer than the test
}

// TestAnswersNobodyReads: an operator that invokes and does not read the answers does not keep the
// node waiting, whose answers to others arrive as before.
func TestAnswersNobodyReads(t *testing.T) {
	d := proc.Start(t, proc.Options{})
	me := proc.Device(t)
	text := strings.Repeat("x", unreadBytes)
	proc.Connect(t, d.Node(me, func(proc.Invocation) any { return text }))
	op := proc.Connect(t, d.Operator(nil))
	invoke := func() time.Duration {
		began := time.Now()
		if _, err := which(op, me.ID, fmt.Sprint("op", began.UnixNano()), 5000); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	// Nineteen of twenty, so that a moment in which the machine does something else does not count.
	worst := func() time.Duration {
		var all []time.Duration
		for range 200 {
			all = append(all, invoke())
		}
		slices.Sort(all)
		return all[len(all)*19/20]
	}
	before := worst()
	l := newLazy(t, d)
	l.stop.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), proc.Patience)
	defer cancel()
	sent := 0
	for ; sent < unread; sent++ {
		req := fmt.Sprintf(`{"type":"req","id":"%d","method":"node.invoke","params":{"nodeId":%q,"command":"system.which","params":{"bins":["sh"]},"idempotencyKey":"k%d"}}`,
			sent, me.ID, sent)
		if l.ws.Write(ctx, websocket.MessageText, []byte(req)) != nil {
			break
		}
		if sent%256 == 0 {
			invoke() // the node answers in order: what was asked before is answered
		}
	}
	if sent < unread {
		t.Fatalf("only %d calls were taken", sent)
	}
	after := worst()
	t.Logf("19 of 20 calls took up to %v, and up to %v with %d answers that nobody reads", before, after, sent)
	if after > 2*before+10*noise {
		t.Errorf("calls grew from %v to %v", before, after)
	}
}

// connections is how many legacy clients the daemon counts.
func connections(t *testing.T, d *proc.Daemon) int {
	t.Helper()
	var status struct {
		Connections int `json:"connections"`
	}
	out := d.Ctl("status", "-o", "json").Wait(t, proc.Patience).Stdout.String()
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	return status.Connections
}

// TestP6Strangers: connections that never finish their request, or never say who they are, cost
// little, keep nobody out, and are cut after ten seconds.
func TestP6Strangers(t *testing.T) {
	const upgrade = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	// A message of 64 KiB, masked with zeros, of which the end is missing.
	const frame = "\x81\xff\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"
	for _, tc := range []struct{ name, text string }{
		{"half a header", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "},
		{"most of a large header", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + strings.Repeat("X-Large: "+strings.Repeat("x", 1000)+"\r\n", 15)},
		{"nothing", ""},
		{"no connect", upgrade},
		{"most of a large frame", upgrade + frame + strings.Repeat("x", 64<<10-1)},
		{"a body that does not come", "POST /v1/nodes/x:invoke HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if long() {
				t.Parallel()
			}
			d := proc.Start(t, proc.Options{})
			proc.Call(t, proc.Connect(t, d.Operator(nil)), "health", map[string]any{})
			memory := proc.RSS(t, d.PID())
			var conns []net.Conn
			defer func() {
				for _, c := range conns {
					_ = c.Close()
				}
			}()
			began := time.Now()
			for range strangers {
				c, err := net.DialTimeout("tcp", d.Addr(), proc.Patience)
				if err != nil {
					t.Fatal(err)
				}
				conns = append(conns, c)
				if _, err := c.Write([]byte(tc.text)); err != nil {
					t.Fatal(err)
				}
			}
			connect := time.Now()
			c := proc.Connect(t, d.Operator(nil))
			proc.Call(t, c, "health", map[string]any{})
			took := time.Since(connect)
			each := (proc.RSS(t, d.PID()) - memory) / strangers
			t.Logf("beside %d strangers a client connects and asks in %v; each costs %.1f KiB", strangers, took, float64(each)/1024)
			if took > 2*time.Second {
				t.Errorf("a client needed %v", took)
			}
			if each > perStranger {
				t.Errorf("each stranger costs %d bytes; at most %d are promised", each, perStranger)
			}
			if !long() {
				return
			}
			// A byte now and then buys no time.
			for _, c := range conns {
				if err := c.SetReadDeadline(began.Add(strangerTime + strangerSlack)); err != nil {
					t.Fatal(err)
				}
				buf := make([]byte, 4096)
				for {
					if _, err := c.Read(buf); err != nil {
						if e, ok := err.(net.Error); ok && e.Timeout() {
							t.Fatalf("a stranger is still connected after %v", time.Since(began))
						}
						break
					}
				}
			}
			t.Logf("all were cut after %v", time.Since(began))
		})
	}
}
