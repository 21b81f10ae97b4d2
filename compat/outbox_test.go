package compat

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/system"
)

func (w *world) tick() { w.bus.Publish("tick", system.Tick{At: time.Now()}) }

// The numbers of a client's events begin at 1 and have no gaps, whatever the others may see.
func TestSeqPerClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		all, few := w.operator("operator.admin"), w.operator("operator.read")
		for i := range 50 {
			w.tick()
			if i%2 == 0 {
				w.bus.Publish("exec.approval.requested", approvals.Requested{Approval: approvals.Approval{ID: fmt.Sprint(i)}})
			}
			w.bus.Publish("presence", system.PresenceChanged{})
		}
		w.bus.Publish("shutdown", system.Shutdown{Reason: "test"})
		for name, c := range map[string]*client{"all": all, "few": few} {
			var want uint64
			guarded := 0
			for {
				f := c.read()
				if f.Type != "event" {
					t.Fatalf("%s: %+v", name, f)
				}
				want++
				if n, ok := f.Seq.Get(); !ok || n != want {
					t.Fatalf("%s: event %s has the number %d, want %d", name, f.Event, n, want)
				}
				if f.Event == "exec.approval.requested" {
					guarded++
				}
				if f.Event == "shutdown" {
					break
				}
			}
			if (guarded == 25) != (name == "all") {
				t.Errorf("%s saw %d guarded events", name, guarded)
			}
		}
	})
}

// Who sees which event (protocol.md §6.1).
func TestEventsByScope(t *testing.T) {
	payloads := map[string]any{
		"tick": system.Tick{}, "health": system.HealthChanged{}, "presence": system.PresenceChanged{},
		"exec.approval.requested": approvals.Requested{}, "exec.approval.resolved": approvals.Resolved{},
		"device.pair.requested": identity.PairingRequested{}, "device.pair.resolved": identity.PairingResolved{},
		"node.connected": nodes.Changed{}, "node.event": nodes.Reported{}, "made.up": system.Tick{},
	}
	sees := map[string]string{
		"operator.admin":     "tick health presence exec.approval.requested exec.approval.resolved device.pair.requested device.pair.resolved",
		"operator.read":      "tick health presence",
		"operator.write":     "tick health presence",
		"operator.approvals": "tick health presence exec.approval.requested exec.approval.resolved",
		"operator.pairing":   "tick health presence device.pair.requested device.pair.resolved",
		"":                   "tick health presence",
		"node":               "tick health",
	}
	for who, want := range sees {
		t.Run(who, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				var c *client
				switch who {
				case "node":
					c = w.node("n")
				case "":
					c = w.operator()
				default:
					c = w.operator(who)
				}
				settle(c)
				for name, p := range payloads {
					w.bus.Publish(name, p)
				}
				w.bus.Publish("shutdown", system.Shutdown{})
				got := map[string]bool{}
				for f := c.read(); f.Event != "shutdown"; f = c.read() {
					got[f.Event] = true
				}
				for name := range payloads {
					if got[name] != strings.Contains(" "+want+" ", " "+name+" ") {
						t.Errorf("%s: seen %v", name, got[name])
					}
				}
			})
		})
	}
}

// A node's hello lists the gateway and the node, an operator's everybody.
func TestPresenceInHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.operator("operator.read")
		for _, c := range []struct {
			h    hello
			rows int
		}{
			{hello{role: "node", id: "node-host", mode: "node", instance: "n"}, 2},
			{hello{role: "node", id: "node-host", mode: "node", device: device("d")}, 2},
			{hello{scopes: []string{"operator.read"}}, 5},
		} {
			_, f := w.connect(c.h)
			snapshot, _ := f.Payload.Get("snapshot")
			rows, _ := snapshot.Get("presence")
			if rows.Len() != c.rows {
				t.Errorf("%+v is told %s", c.h, rows.Raw())
			}
		}
	})
}

// settle lets the events of connecting pass.
func settle(c *client) {
	c.tb.Helper()
	time.Sleep(2 * time.Second) // the fake clock's
	c.call("status", "{}")
}

// A client that does not read keeps nobody waiting, and what waits for it is bounded.
func TestStuckReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		stuck := w.operator("operator.admin")
		other := w.operator("operator.read")
		stuck.nc.stuck.Store(true)
		settle(other)
		big := approvals.Approval{ID: "x", Command: strings.Repeat("x", 1<<20)}
		began := time.Now()
		for range (maxBuffered >> 20) + 40 {
			w.bus.Publish("exec.approval.requested", approvals.Requested{Approval: big})
		}
		w.tick()
		if took := time.Since(began); took != 0 {
			t.Errorf("publishing took %s", took)
		}
		other.event("tick")
		for _, c := range w.conns() {
			c.out.mu.Lock()
			if c.out.bytes > maxBuffered+maxPayload {
				t.Errorf("%d bytes wait", c.out.bytes)
			}
			c.out.mu.Unlock()
		}
		if n := w.bus.Budget().Held(); n > maxBuffered+2*maxPayload {
			t.Errorf("%d bytes are held", n)
		}
		synctest.Wait()
		time.Sleep(stallAlone + 2*stallLook)
		synctest.Wait()
		if n := len(w.conns()); n != 1 {
			t.Errorf("%d connections are left, want the one that reads", n)
		}
		if n := w.bus.Budget().Held(); n != 0 {
			t.Errorf("%d bytes are held for nobody", n)
		}
	})
}

// Of many clients that do not read, all are gone soon; the others stay.
func TestManyStuckReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var stuck, others []*client
		for range stallCrowd {
			stuck, others = append(stuck, w.operator("operator.read")), append(others, w.operator("operator.read"))
		}
		for i, c := range stuck {
			settle(others[i])
			c.nc.stuck.Store(true)
		}
		for range 2 {
			w.tick() // what a client already waits for, it gets
			synctest.Wait()
		}
		time.Sleep(stallInCrowd + 2*stallLook)
		synctest.Wait()
		if n := len(w.conns()); n != len(others) {
			t.Errorf("%d connections are left, want the %d that read", n, len(others))
		}
		if w.door.stalls.n != 0 || w.bus.Budget().Held() != 0 {
			t.Errorf("%d count as stalled, %d bytes as held", w.door.stalls.n, w.bus.Budget().Held())
		}
		for _, c := range others {
			c.call("health", "{}")
		}
	})
}

// One client that takes a byte now and then is not cut off, however many others are.
func TestSlowIsNotStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		slow, other := w.operator("operator.admin"), w.operator("operator.read")
		settle(slow)
		w.door.stalls.add(stallCrowd) // a crowd is stalled
		slow.nc.every.Store(int64(time.Second))
		for i := range 200 {
			w.bus.Publish("exec.approval.requested", approvals.Requested{Approval: approvals.Approval{ID: fmt.Sprint(i), Command: strings.Repeat("x", 1<<10)}})
		}
		time.Sleep(5 * time.Minute)
		w.door.stalls.add(0)
		other.call("health", "{}")
		if n := len(w.conns()); n != 2 {
			t.Errorf("%d connections are left", n)
		}
		slow.nc.every.Store(0)
		slow.call("health", "{}")
	})
}

// When too much waits for all clients together, the one that is furthest behind is closed; the others
// keep what waits for them.
func TestBudgetEvictsTheLargest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{mode: identity.AuthToken, budget: 4 << 20})
		hungry, modest := w.operator("operator.admin"), w.operator("operator.read")
		settle(modest)
		hungry.nc.every.Store(int64(time.Second))
		modest.nc.every.Store(int64(time.Second))
		w.tick()
		for i := range 8 {
			a := approvals.Approval{ID: fmt.Sprint(i), Command: strings.Repeat("x", 1<<20)}
			w.bus.Publish("exec.approval.requested", approvals.Requested{Approval: a})
			if n := w.bus.Budget().Held(); n > 4<<20 {
				t.Errorf("%d bytes are held", n)
			}
		}
		w.tick()
		hungry.nc.every.Store(0)
		modest.nc.every.Store(0)
		if code, reason, last := hungry.end(); code != 1008 || reason != "slow consumer" {
			t.Errorf("%d %q after %+v", code, reason, last)
		}
		first, _ := modest.event("tick").Seq.Get()
		if second, _ := modest.event("tick").Seq.Get(); second != first+1 && second != first+2 {
			// That the other one left may be told between them.
			t.Errorf("tick %d follows %d", second, first)
		}
		synctest.Wait()
		if n := w.bus.Budget().Held(); n != 0 {
			t.Errorf("%d bytes are held for nobody", n)
		}
	})
}

// Past the bound a droppable event is left out and leaves its number; another one ends the
// connection (protocol.md §6.2).
func TestSlowConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.operator("operator.read")
		settle(c)
		sc := w.conns()[0]
		pretend := func(n int) {
			sc.out.mu.Lock()
			sc.out.bytes += n
			sc.out.mu.Unlock()
		}
		w.tick()
		first, _ := c.event("tick").Seq.Get()
		pretend(maxBuffered + 1)
		w.tick()
		pretend(-maxBuffered - 1)
		w.tick()
		if n, _ := c.event("tick").Seq.Get(); n != first+2 {
			t.Errorf("the number after a lost event is %d, want %d", n, first+2)
		}
		pretend(maxBuffered + 1)
		w.bus.Publish("health", system.HealthChanged{})
		if code, reason, _ := c.end(); code != 1008 || reason != "slow consumer" {
			t.Errorf("closed with %d %q", code, reason)
		}
	})
}

// Presence follows connects and disconnects; the disconnect is announced.
func TestPresence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.operator("operator.read")
		settle(c)
		other, _ := w.connect(hello{mode: "ui", id: "openclaw-macos", instance: "Mac-1", name: "Ann's Mac", scopes: []string{"operator.read"}})
		row := func() string {
			f := c.call("system-presence", "{}")
			for r := range f.Payload.Items() {
				if text(r, "instanceId") == "Mac-1" {
					return text(r, "host") + " " + text(r, "reason") + " " + text(r, "text")
				}
			}
			return ""
		}
		if got := row(); got != "Ann's Mac connect Node: Ann's Mac · mode ui" {
			t.Errorf("got %q", got)
		}
		_ = other.ws.CloseNow()
		c.event("presence")
		if got := row(); !strings.HasPrefix(got, "Ann's Mac disconnect") {
			t.Errorf("got %q", got)
		}
		time.Sleep(5*time.Minute + time.Second)
		if got := row(); got != "" {
			t.Errorf("after five minutes there is %q", got)
		}
		w.connect(hello{mode: "cli", id: "cli", instance: "mac-2", scopes: []string{"operator.read"}})
		f := c.call("system-presence", "{}")
		if strings.Contains(f.Payload.Raw(), "mac-2") {
			t.Error("a cli client is listed")
		}
	})
}

// The end of a connection that was replaced leaves its successor in place, and calls that wait on
// the replaced one fail at once.
func TestReplacedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		op := w.operator("operator.admin")
		first := w.node("n", "system.which")
		id := op.ask("node.invoke", `{"nodeId":"n","command":"system.which","params":{"bins":["x"]},"idempotencyKey":"k"}`)
		old := first.event("node.invoke.request")
		if _, ok := old.Seq.Get(); ok {
			t.Error("a request to a node has a number")
		}
		second := w.node("n", "system.which")
		if f, _ := op.res(id); f.Error.Message != "Error: node disconnected (system.which)" {
			t.Errorf("got %+v", f)
		}
		if code, reason, _ := first.end(); code != 1008 || reason != "replaced by a newer connection" {
			t.Errorf("closed with %d %q", code, reason)
		}
		synctest.Wait()
		id = op.ask("node.invoke", `{"nodeId":"n","command":"system.which","idempotencyKey":"k2","timeoutMs":1000}`)
		req := second.event("node.invoke.request")
		if text(req.Payload, "paramsJSON") != "null" || text(req.Payload, "timeoutMs") != "1000" {
			t.Errorf("got %s", req.Payload.Raw())
		}
		rid := text(req.Payload, "id")
		if f := second.call("node.invoke.result", `{"id":"`+rid+`","nodeId":"other","ok":true}`); f.Error.Message != "nodeId mismatch" {
			t.Errorf("%+v", f)
		}
		second.call("node.invoke.result", `{"id":"`+rid+`","nodeId":"n","ok":true,"payloadJSON":"{\"a\":1}"}`)
		if f, _ := op.res(id); text(f.Payload, "payload.a") != "1" || text(f.Payload, "payloadJSON") != `{"a":1}` {
			t.Errorf("got %+v", f)
		}
		// Late, unknown and repeated answers are ignored.
		for _, x := range []string{rid, "nope", text(old.Payload, "id")} {
			if f := second.call("node.invoke.result", `{"id":"`+x+`","nodeId":"n","ok":true}`); text(f.Payload, "ignored") != "true" {
				t.Errorf("%s: %s", x, f.Payload.Raw())
			}
		}
	})
}

// One connection may have only so many calls waiting; the others are refused and the connection
// stays.
func TestInFlightLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		op := w.operator("operator.admin")
		node := w.node("n", "system.which")
		for i := range maxInFlight + 1 {
			op.ask("node.invoke", fmt.Sprintf(`{"nodeId":"n","command":"system.which","idempotencyKey":"k%d"}`, i))
		}
		f := op.read()
		for f.Type != "res" {
			f = op.read()
		}
		if f.Error.Code != codeUnavailable || !f.Error.Retryable {
			t.Errorf("%+v", f)
		}
		if f := op.call("health", "{}"); !f.OK {
			t.Errorf("%+v", f)
		}
		synctest.Wait() // all of them wait for the node
		_ = node.ws.CloseNow()
		for range maxInFlight {
			f := op.read()
			for f.Type != "res" {
				f = op.read()
			}
			if f.Error.Message != "Error: node disconnected (system.which)" {
				t.Fatalf("%+v", f)
			}
		}
	})
}

// A node that is there but says nothing stays; one that does not answer is gone within two
// heartbeats, and its calls fail.
func TestSilentNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		op := w.operator("operator.admin")
		w.node("alive", "system.which")
		dead := w.node("dead", "system.which")
		dead.nc.dead.Store(true)
		id := op.ask("node.invoke", `{"nodeId":"dead","command":"system.which","idempotencyKey":"k","timeoutMs":0}`)
		began := time.Now()
		f, _ := op.res(id)
		if took := time.Since(began); took > 2*system.TickEvery || f.Error.Message != "Error: node disconnected (system.which)" {
			t.Errorf("after %s: %+v", took, f)
		}
		if got := op.call("node.list", `{"connectedOnly":true}`).Payload.Raw(); strings.Contains(got, `"dead"`) || !strings.Contains(got, `"alive"`) {
			t.Errorf("connected: %s", got)
		}
	})
}

// After a jump of the clock everybody is asked whether they are there, at once (R14); those that are,
// stay, also when the clock goes back.
func TestJumpOfTheClock(t *testing.T) {
	for _, role := range []string{"operator", "node"} {
		synctest.Test(t, func(t *testing.T) {
			var ahead atomic.Int64
			w := newWorld(t, worldOptions{mode: "token", now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
			join := func(name string) *client {
				h := hello{scopes: []string{"operator.read"}}
				if role == "node" {
					h = hello{role: "node", id: "node-host", mode: "node", instance: name}
				}
				c, _ := w.connect(h)
				return c
			}
			join("alive")
			dead := join("dead")
			time.Sleep(3 * time.Second)
			for _, jump := range []time.Duration{10 * time.Minute, -20 * time.Minute, 10 * time.Minute} {
				ahead.Add(int64(jump))
				time.Sleep(5 * time.Second)
				if n := len(w.conns()); n != 2 {
					t.Fatalf("after a jump of %s: %d %ss are left", jump, n, role)
				}
			}
			dead.nc.dead.Store(true)
			ahead.Add(int64(10 * time.Minute))
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if n := len(w.conns()); n != 1 {
				t.Errorf("after a jump: %d %ss are left, want the one that lives", n, role)
			}
		})
	}
}

// A node that takes long to send one message is not silent.
func TestSlowUploadIsNotSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		op := w.operator("operator.admin")
		node := w.node("n", "system.which")
		id := op.ask("node.invoke", `{"nodeId":"n","command":"system.which","idempotencyKey":"k","timeoutMs":0}`)
		req := node.event("node.invoke.request")
		node.nc.dead.Store(true) // its answer to a ping would stand behind the message
		body := `{"type":"req","id":"r","method":"node.invoke.result","params":{"id":"` + text(req.Payload, "id") +
			`","nodeId":"n","ok":true,"payload":"` + strings.Repeat("x", 60_000) + `"}}`
		frame := append([]byte{0x81, 0x80 | 126, byte(len(body) >> 8), byte(len(body)), 0, 0, 0, 0}, body...)
		for len(frame) > 0 { // a chunk every five seconds, five minutes in all
			n := min(len(frame), 1000)
			if _, err := node.nc.Write(frame[:n]); err != nil {
				t.Fatalf("after %d bytes: %v", len(body)-len(frame), err)
			}
			frame = frame[n:]
			time.Sleep(5 * time.Second)
		}
		if f, _ := op.res(id); !f.OK {
			t.Errorf("%+v", f.Error)
		}
	})
}

// A client's own ping is answered however long ago the last frame went out.
func TestPongAfterQuietTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.operator("operator.read")
		settle(c)
		for range 5 {
			time.Sleep(15*time.Second + 6*time.Second)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			if err := c.ws.Ping(ctx); err != nil {
				t.Fatal(err)
			}
			cancel()
		}
	})
}

// The answer that was due when the service stops is written before the close.
func TestCloseCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.operator("operator.admin")
		done := make(chan struct{})
		go func() {
			defer close(done)
			code, reason, last := c.end()
			if code != 1012 || reason != "service restart" || last.Event != "shutdown" {
				t.Errorf("%d %q after %+v", code, reason, last)
			}
		}()
		synctest.Wait()
		time.Sleep(3 * time.Second)
		w.bus.Publish("shutdown", system.Shutdown{Reason: "test"})
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		w.door.Close(ctx)
		<-done
	})
}
