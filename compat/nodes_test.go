package compat

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
)

func shown(f wire.Frame) string { return string(wire.Stringify(f.Payload)) }

// A node that subscribed gets tick and health twice, once with a number and once without
// (nodes-approvals.md §2.6); one that did not, or not any more, gets them once.
func TestCopiesForSubscribers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		subscribed, plain, op := w.node("a"), w.node("b"), w.operator("operator.admin")
		say := func(event string) {
			if f := subscribed.call("node.event", `{"event":"`+event+`","payloadJSON":"{\"sessionKey\":\"main\"}"}`); !f.OK {
				t.Fatalf("%+v", f.Error)
			}
		}
		// heard is the tick and health events of a minute, with a mark on those without a number.
		heard := func(c *client) map[string]int {
			out := map[string]int{}
			for {
				select {
				case f, open := <-c.frames:
					if !open {
						t.Fatal("the connection ended")
					}
					if f.Event != "tick" && f.Event != "health" {
						continue
					}
					if _, numbered := f.Seq.Get(); !numbered {
						f.Event += " copy"
						if _, has := f.State.Get(); has {
							t.Errorf("a copy with a state version: %+v", f)
						}
					}
					out[f.Event]++
				default:
					return out
				}
			}
		}
		minute := func() {
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		say("chat.subscribe")
		minute()
		got := heard(subscribed)
		if got["tick"] == 0 || got["health"] == 0 || got["tick"] != got["tick copy"] || got["health copy"] == 0 {
			t.Errorf("subscribed: %v", got)
		}
		for name, c := range map[string]*client{"another node": plain, "an operator": op} {
			if got := heard(c); got["tick"] == 0 || got["tick copy"]+got["health copy"] != 0 {
				t.Errorf("%s: %v", name, got)
			}
		}
		say("chat.unsubscribe")
		heard(subscribed)
		minute()
		if got := heard(subscribed); got["tick"] == 0 || got["tick copy"]+got["health copy"] != 0 {
			t.Errorf("no longer subscribed: %v", got)
		}
	})
}

// payloadJSON of a companion app may be null; what a node reports stays in order.
func TestNodeEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		sub := w.bus.Subscribe(func(e events.Event) bool { return e.Name == "node.event" || e.Name == "node.exec" })
		defer sub.Close()
		c, _ := w.connect(hello{role: "node", id: "hanzo-bot-ios", mode: "node", instance: "n"})
		for _, p := range []string{
			`{"event":"made.up","payloadJSON":null}`, `{"payloadJSON":null,"event":"made.up","payload":{"a":1}}`,
		} {
			if f := c.call("node.event", p); !f.OK {
				t.Errorf("%s: %+v", p, f.Error)
			}
		}
		for _, p := range []string{
			`{"event":"made.up","payloadJSON":7}`, `{"payloadJSON":null}`, `{"event":"made.up","payloadJSON":null,"x":1}`,
		} {
			if f := c.call("node.event", p); f.OK {
				t.Errorf("%s is taken", p)
			}
		}
		for sub.Backlog() > 0 {
			sub.TryNext()
		}
		const n = 300
		var last string
		for i := range n {
			last = c.ask("node.event", fmt.Sprintf(`{"event":"exec.started","payload":{"sessionKey":"s","runId":"r%d"}}`, i))
		}
		c.res(last)
		i := 0
		for e, ok := sub.TryNext(); ok; e, ok = sub.TryNext() {
			if r, isExec := e.Payload.(nodes.ExecReport); isExec {
				if e.Lost == 0 && i > 0 && r.RunID != fmt.Sprint("r", i) {
					t.Errorf("%s after r%d", r.RunID, i-1)
				}
				_, _ = fmt.Sscanf(r.RunID, "r%d", &i)
				i++
			}
		}
		if i != n {
			t.Errorf("the last one is r%d", i-1)
		}
	})
}

// The words that wake voice clients: set by an operator, told to all, and the greeting of nodes.
func TestVoiceWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		triggers := func(f wire.Frame) string {
			list, _ := f.Payload.Get("triggers")
			var out []string
			for x := range list.Items() {
				out = append(out, x.Str())
			}
			return strings.Join(out, ",")
		}
		old := w.node("a")
		if f := old.event("voicewake.changed"); triggers(f) != "openclaw,claude,computer" {
			t.Errorf("%s", shown(f))
		}
		op, reader := w.operator("operator.write"), w.operator("operator.read")
		for _, bad := range []string{`{}`, `{"triggers":"x"}`, `{"triggers":null}`, `{"triggers":{"0":"x"}}`} {
			if f := op.call("voicewake.set", bad); f.OK || f.Error.Message != "voicewake.set requires triggers: string[]" || f.Error.Code != "INVALID_REQUEST" {
				t.Errorf("%s: %+v", bad, f)
			}
		}
		f, before := op.res(op.ask("voicewake.set", `{"triggers":[" hey ",7,null,"","computer"],"more":1}`))
		if !f.OK || triggers(f) != "hey,computer" {
			t.Errorf("%+v", f)
		}
		if !slices.ContainsFunc(before, func(f wire.Frame) bool { return f.Event == "voicewake.changed" && triggers(f) == "hey,computer" }) {
			t.Error("who set them is not told")
		}
		for _, c := range []*client{old, reader} {
			if f := c.event("voicewake.changed"); triggers(f) != "hey,computer" {
				t.Errorf("%s", shown(f))
			}
		}
		if f := reader.call("voicewake.get", `{"ignored":true}`); triggers(f) != "hey,computer" {
			t.Errorf("%s", shown(f))
		}
		if f := w.node("b").event("voicewake.changed"); triggers(f) != "hey,computer" {
			t.Errorf("the greeting: %s", shown(f))
		}
	})
}

// A node without a device cannot take the place of one that has, connected or not, paired or not.
func TestClaimedNodeID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		key := device("phone")
		id := identity.DeviceID(key.Public().(ed25519.PublicKey))
		live, _ := w.connect(hello{role: "node", id: "node-host", mode: "node", device: key, commands: []string{"system.which"}})
		claim := func(instance string) string {
			c := w.open()
			h := hello{role: "node", id: "node-host", mode: "node", instance: instance, commands: []string{"system.which"}}
			c.write(`{"type":"req","id":"hello","method":"connect","params":` + h.params(c.nonce) + `}`)
			code, reason, last := c.end()
			if code != 1008 || last.OK || last.Error.Message == "" {
				t.Errorf("%q: closed with %d %q after %+v", instance, code, reason, last)
				return ""
			}
			return last.Error.Message
		}
		for _, instance := range []string{id, strings.ToUpper(id), " " + id + " "} {
			if got := claim(instance); got == "" {
				t.Errorf("%q is let in", instance)
			}
		}
		op := w.operator("operator.admin")
		asked := op.ask("node.invoke", `{"nodeId":"`+id+`","command":"system.which","params":{},"idempotencyKey":"k"}`)
		if f := live.event("node.invoke.request"); text(f.Payload, "nodeId") != id {
			t.Errorf("%s", shown(f))
		}
		_ = live.ws.CloseNow()
		op.res(asked)
		claim(id) // nor while it is away
		// Its own device may name any instance, also its own.
		again, _ := w.connect(hello{role: "node", id: "node-host", mode: "node", device: key, instance: id})
		if f := again.event("voicewake.changed"); f.Event == "" {
			t.Error("not let in")
		}
	})
}

// Tokens of paired nodes are shown to admins only, and in no event.
func TestNodePairingSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		admin, pairer, reader := w.operator("operator.admin"), w.operator("operator.pairing"), w.operator("operator.read")
		f := pairer.call("node.pair.request", `{"nodeId":"ipad","caps":[],"silent":false}`)
		v := f.Payload
		if want := `"caps":[]`; !strings.Contains(shown(f), want) || strings.Contains(shown(f), `"commands"`) || !strings.Contains(shown(f), `"silent":false`) {
			t.Errorf("%s", shown(f))
		}
		f = pairer.call("node.pair.approve", `{"requestId":"`+text(v, "request.requestId")+`"}`)
		token := text(f.Payload, "node.token")
		if len(token) != 43 {
			t.Fatalf("%s", shown(f))
		}
		for c, want := range map[*client]bool{admin: true, pairer: false} {
			if f := c.call("node.pair.list", `{}`); strings.Contains(shown(f), token) != want || !strings.Contains(shown(f), `"ipad"`) {
				t.Errorf("want the token %v: %s", want, shown(f))
			}
		}
		if f := reader.call("node.pair.list", `{}`); f.OK {
			t.Errorf("%s", shown(f))
		}
		// Everything that anybody was sent unasked.
		reader.call("health", "{}")
		for _, c := range []*client{admin, pairer, reader} {
			var names []string
			for len(c.frames) > 0 {
				f := <-c.frames
				names = append(names, f.Event)
				if strings.Contains(shown(f), token) {
					t.Errorf("the event %s has the token", f.Event)
				}
			}
			if c == reader && slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "node.pair.") }) {
				t.Errorf("a reader is told: %v", names)
			}
		}
	})
}

// Answers of the original that stand in recordings with methods that are not served yet.
func TestFrozenNodeAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		admin, n := w.operator("operator.admin"), w.node("n")
		for _, c := range []struct {
			c              *client
			method, params string
			want           string // the text of the refusal, or the payload
		}{
			{admin, "voicewake.get", `{"__bogus__":1}`, `{"triggers":["openclaw","claude","computer"]}`},
			{admin, "voicewake.set", `{}`, "voicewake.set requires triggers: string[]"},
			{admin, "node.pair.list", `{}`, `{"pending":[],"paired":[]}`},
			{admin, "node.pair.list", `{"__bogus__":1}`, "invalid node.pair.list params: at root: unexpected property '__bogus__'"},
			{admin, "node.pair.request", `{"__bogus__":1}`, "invalid node.pair.request params: must have required property 'nodeId'; at root: unexpected property '__bogus__'"},
			{admin, "node.pair.approve", `{}`, "invalid node.pair.approve params: must have required property 'requestId'"},
			{admin, "node.pair.reject", `{"requestId":"missing"}`, "unknown requestId"},
			{admin, "node.pair.verify", `{}`, "invalid node.pair.verify params: must have required property 'nodeId'; must have required property 'token'"},
			{admin, "push.test", `{}`, "invalid push.test params: must have required property 'nodeId'"},
			{admin, "push.test", `{"nodeId":"missing"}`, "node missing has no APNs registration (connect iOS node first)"},
			{admin, "push.test", `{"nodeId":" "}`, "nodeId required"},
			{admin, "skills.bins", `{}`, "unauthorized role: operator"},
			{n, "skills.bins", `{}`, `{"bins":[]}`},
			{n, "skills.bins", `{"__bogus__":1}`, "invalid skills.bins params: at root: unexpected property '__bogus__'"},
			{n, "voicewake.get", `{}`, "unauthorized role: node"},
			{n, "node.pair.verify", `{}`, "unauthorized role: node"},
		} {
			f := c.c.call(c.method, c.params)
			got := f.Error.Message
			if f.OK {
				got = shown(f)
			}
			if got != c.want {
				t.Errorf("%s %s: %s", c.method, c.params, got)
			}
		}
	})
}
