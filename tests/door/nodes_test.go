package door

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/nodes/push/pushtest"
	"github.com/hanzoai/hanzod/store"
)

// nodeDoor is what an operator does with nodes, at one door. Answers are reduced to what all doors
// tell, in the names of the RPCs.
type nodeDoor interface {
	operator
	// do runs an RPC of NodeService and returns its answer, or the refusal.
	do(rpc string, req proto.Message) (answer object, refusal string)
}

// nodeRPCs are the RPCs that the tests below use: the REST route and the legacy method of each.
var nodeRPCs = map[string]struct{ verb, path, legacy string }{
	"RequestPairing": {"POST", "/v1/node-requests", "node.pair.request"},
	"ListPairings":   {"GET", "/v1/node-requests", "node.pair.list"},
	"ApprovePairing": {"POST", "/v1/node-requests/{requestId}:approve", "node.pair.approve"},
	"RejectPairing":  {"POST", "/v1/node-requests/{requestId}:reject", "node.pair.reject"},
	"VerifyPairing":  {"POST", "/v1/node-requests:verify", "node.pair.verify"},
	"TestPush":       {"POST", "/v1/nodes/{nodeId}:testPush", "push.test"},
	"GetVoiceWake":   {"GET", "/v1/voicewake", "voicewake.get"},
	"SetVoiceWake":   {"PUT", "/v1/voicewake", "voicewake.set"},
}

func fields(tb testing.TB, m proto.Message) object {
	tb.Helper()
	text, err := protojson.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	out := object{}
	if err := json.Unmarshal(text, &out); err != nil {
		tb.Fatal(err)
	}
	return out
}

type grpcNodes struct{ *overGRPC }

func (g grpcNodes) do(rpc string, req proto.Message) (object, string) {
	out := reflect.ValueOf(g.c.Nodes).MethodByName(rpc).Call([]reflect.Value{reflect.ValueOf(context.Background()), reflect.ValueOf(req)})
	if err, _ := reflect.TypeAssert[error](out[1]); err != nil {
		return nil, g.reason(err)
	}
	answer, _ := reflect.TypeAssert[proto.Message](out[0])
	return fields(g.tb, answer), ""
}

type restNodes struct{ *overREST }

func (r restNodes) do(rpc string, req proto.Message) (object, string) {
	how := nodeRPCs[rpc]
	body, path := fields(r.tb, req), how.path
	for k, v := range maps.Clone(body) {
		if strings.Contains(path, "{"+k+"}") {
			path = strings.ReplaceAll(path, "{"+k+"}", fmt.Sprint(v))
			delete(body, k)
		}
	}
	if how.verb == "GET" {
		return r.overREST.do(how.verb, path, nil)
	}
	return r.overREST.do(how.verb, path, body)
}

type legacyNodes struct{ *overLegacy }

var nodeReasons = map[string]string{
	"unknown requestId": "nodes.request_unknown", "nodeId required": "nodes.id_required",
	"node phone has no APNs registration (connect iOS node first)":          "nodes.no_registration",
	"node tv has no APNs registration (connect iOS node first)":             "nodes.no_registration",
	"APNs auth missing: set OPENCLAW_APNS_TEAM_ID and OPENCLAW_APNS_KEY_ID": "push.no_credentials",
	"the environment of a push is sandbox or production":                    "push.environment",
}

func (l legacyNodes) do(rpc string, req proto.Message) (object, string) {
	f := l.c.call(nodeRPCs[rpc].legacy, fields(l.tb, req))
	if _, text := failure(f); text != "" {
		if nodeReasons[text] == "" {
			l.tb.Fatalf("unknown refusal %q", text)
		}
		return nil, nodeReasons[text]
	}
	out, _ := f["payload"].(object)
	return out, ""
}

var nodeDoors = map[string]func(testing.TB, *hanzodtest.Daemon) nodeDoor{
	"grpc":   func(tb testing.TB, d *hanzodtest.Daemon) nodeDoor { return grpcNodes{newGRPC(tb, d).(*overGRPC)} },
	"rest":   func(tb testing.TB, d *hanzodtest.Daemon) nodeDoor { return restNodes{&overREST{tb, d}} },
	"legacy": func(tb testing.TB, d *hanzodtest.Daemon) nodeDoor { return legacyNodes{newLegacy(tb, d).(*overLegacy)} },
}

func each(v any) (out []object) {
	list, _ := v.([]any)
	for _, x := range list {
		o, _ := x.(object)
		out = append(out, o)
	}
	return out
}

// Pairing nodes by request has the same effect by every door: the same answers, events, rows on disk.
func TestNodePairingByEveryDoor(t *testing.T) {
	var base []string
	for _, name := range []string{"grpc", "rest", "legacy"} {
		t.Run(name, func(t *testing.T) {
			d := hanzodtest.Start(t, hanzodtest.Options{})
			events := listen(t, d)
			o := nodeDoors[name](t, d)
			var seen []string
			say := func(format string, args ...any) { seen = append(seen, fmt.Sprintf(format, args...)) }
			do := func(rpc string, req proto.Message) object {
				out, refusal := o.do(rpc, req)
				if refusal != "" {
					say("%s: %s", rpc, refusal)
				}
				return out
			}
			ask := func(req *nodesv1.RequestPairingRequest) string {
				out := do("RequestPairing", req)
				r, _ := out["request"].(object)
				created, _ := out["created"].(bool)
				name, _ := r["displayName"].(string)
				say("created %v: %v %q %s %s", created, r["nodeId"], name, joined(r["caps"]), joined(r["commands"]))
				return fmt.Sprint(r["requestId"])
			}
			list := func() {
				out := do("ListPairings", &nodesv1.ListPairingsRequest{})
				for _, r := range each(out["pending"]) {
					say("pending %v", r["nodeId"])
				}
				for _, p := range each(out["paired"]) {
					say("paired %v %v", p["nodeId"], p["displayName"])
				}
			}
			ipad := ask(&nodesv1.RequestPairingRequest{NodeId: "ipad", DisplayName: "iPad", Caps: []string{"canvas"}, Commands: []string{"canvas.present"}})
			if again := ask(&nodesv1.RequestPairingRequest{NodeId: "ipad", DisplayName: "other"}); again != ipad {
				t.Errorf("%s, then %s", ipad, again)
			}
			tv := ask(&nodesv1.RequestPairingRequest{NodeId: "tv"})
			list()
			out := do("ApprovePairing", &nodesv1.ApprovePairingRequest{RequestId: ipad})
			node, _ := out["node"].(object)
			token, _ := out["token"].(string)
			if name == "legacy" {
				token, _ = node["token"].(string)
			}
			if len(token) != 43 || node["nodeId"] != "ipad" {
				t.Fatalf("%v", out)
			}
			do("ApprovePairing", &nodesv1.ApprovePairingRequest{RequestId: ipad})
			say("rejected %v", do("RejectPairing", &nodesv1.RejectPairingRequest{RequestId: tv})["nodeId"])
			do("RejectPairing", &nodesv1.RejectPairingRequest{RequestId: "missing"})
			do("RequestPairing", &nodesv1.RequestPairingRequest{NodeId: " "})
			for _, try := range []string{token, "wrong"} {
				ok, _ := do("VerifyPairing", &nodesv1.VerifyPairingRequest{NodeId: "ipad", Token: try})["ok"].(bool)
				say("verified %v", ok)
			}
			o.rename("ipad", "Kitchen")
			list()
			until(t, "the events", func() bool { return count(events(), "node.pair.resolved") == 2 })
			say("%v", slices.DeleteFunc(events(), func(e string) bool { return !strings.HasPrefix(e, "node.pair.") }))
			if strings.Contains(d.LogText(), token) {
				t.Error("the token is in the log")
			}
			if err := d.Stop(); err != nil {
				t.Fatal(err)
			}
			st, err := store.Open(context.Background(), d.StateDir, store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			rows, err := st.Audit(0, 100)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rows {
				if r.Kind == "node-pairing" && r.Subject == "" {
					t.Error("a row without its author")
				}
				say("%s %s %s", r.Kind, r.NodeID, r.Decision)
			}
			if base == nil {
				base = seen
			}
			if d := cmp.Diff(base, seen); d != "" {
				t.Error(d)
			}
		})
	}
}

// sleeper is a phone without a device: it connects, registers for pushes and goes to sleep; wake lets
// it connect again and answer.
type sleeper struct {
	tb testing.TB
	d  *hanzodtest.Daemon

	mu   sync.Mutex
	c    *legacy
	runs []string
}

func (s *sleeper) connect() {
	hold := make(chan struct{})
	c, hello := connect(s.tb, s.d.WS(), params("node", s.d.Token, nil, object{
		"commands": []string{"canvas.present", "canvas.eval"},
		"client":   object{"id": "openclaw-ios", "version": "1", "platform": "iOS 18.2", "deviceFamily": "iPhone", "mode": "node", "instanceId": "phone"},
	}), func(name string, p object) {
		if name != "node.invoke.request" {
			return
		}
		<-hold
		s.mu.Lock()
		s.runs = append(s.runs, fmt.Sprint(p["command"]))
		c := s.c
		s.mu.Unlock()
		c.send("node.invoke.result", object{"id": p["id"], "nodeId": "phone", "ok": true, "payload": fmt.Sprint("did ", p["command"])})
	})
	s.mu.Lock()
	s.c = c
	s.mu.Unlock()
	close(hold)
	if hello["ok"] != true {
		s.tb.Errorf("%v", hello)
	}
}

func (s *sleeper) sleep(o nodeDoor) {
	s.tb.Helper()
	s.mu.Lock()
	c := s.c
	s.mu.Unlock()
	c.close()
	until(s.tb.(*testing.T), "the phone is gone", func() bool { return len(o.list()) == 0 })
}

func (s *sleeper) ran() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.runs)
}

const pushToken = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// A phone that registered is shown pushes and woken by every door; a command that its platform may not
// offer does not wake it.
func TestPushByEveryDoor(t *testing.T) {
	for name, door := range nodeDoors {
		t.Run(name, func(t *testing.T) {
			apple := pushtest.Start(t)
			d := hanzodtest.Start(t, hanzodtest.Options{Env: apple.Env(), PushHosts: apple.Hosts(), PushRoots: apple.Roots()})
			o := door(t, d)
			if _, refusal := o.do("TestPush", &nodesv1.TestPushRequest{NodeId: "tv"}); refusal != "nodes.no_registration" {
				t.Errorf("a node that did not register: %q", refusal)
			}
			phone := &sleeper{tb: t, d: d}
			phone.connect()
			if f := phone.c.call("node.event", object{"event": "push.apns.register", "payloadJSON": `{"token":"<` + pushToken + `>","topic":"ai.hanzo.app"}`}); f["ok"] != true {
				t.Fatalf("%v", f)
			}
			phone.sleep(o)

			got, refusal := o.do("TestPush", &nodesv1.TestPushRequest{NodeId: "phone", Title: "Hi", Environment: "production"})
			want := object{
				"ok": true, "status": 200.0, "apnsId": "E621E1F8-C36C-495A-93FC-0C247A3E6E5F", "tokenSuffix": "89abcdef", "topic": "ai.hanzo.app", "environment": "production",
			}
			if delete(got, "reason"); refusal != "" || cmp.Diff(want, got) != "" {
				t.Errorf("%s %s", refusal, cmp.Diff(want, got))
			}
			before := len(apple.Got())
			if _, refusal := o.invoke("phone", "sms.send", `{}`, "k1"); refusal == "" || len(apple.Got()) != before {
				t.Errorf("not allowed: %q after %d pushes", refusal, len(apple.Got())-before)
			}
			woken := make(chan struct{}, 10)
			apple.OnPush(func(p pushtest.Push) { woken <- struct{}{} })
			go func() {
				<-woken
				phone.connect()
			}()
			for range 2 { // the second is a repetition: the phone is asked once
				payload, refusal := o.invoke("phone", "canvas.present", `{}`, "k2")
				if payload != `"did canvas.present"` || refusal != "" {
					t.Errorf("%s %s", payload, refusal)
				}
			}
			if runs := phone.ran(); len(runs) != 1 {
				t.Errorf("it ran %v", runs)
			}
			log := d.LogText()
			for _, secret := range []string{pushToken, strings.Split(apple.Key, "\n")[1]} {
				if strings.Contains(log, secret) {
					t.Error("a secret is in the log")
				}
			}
			if got := apple.Got()[0]; got.Bearer == "" || strings.Contains(log, got.Bearer) {
				t.Error("the provider token is in the log")
			}
			// The registration outlasts a restart, and goes with the answer that it is not valid any more.
			phone.sleep(o)
			if err := d.Stop(); err != nil {
				t.Fatal(err)
			}
			d = hanzodtest.Start(t, hanzodtest.Options{StateDir: d.StateDir, Env: apple.Env(), PushHosts: apple.Hosts(), PushRoots: apple.Roots()})
			o = door(t, d)
			apple.Say(func(pushtest.Push) pushtest.Answer { return pushtest.Answer{Status: 410, Reason: "Unregistered"} })
			got, refusal = o.do("TestPush", &nodesv1.TestPushRequest{NodeId: "phone"})
			if ok, _ := got["ok"].(bool); ok || refusal != "" || got["status"] != 410.0 || got["reason"] != "Unregistered" {
				t.Errorf("%v %s", got, refusal)
			}
			if _, refusal := o.do("TestPush", &nodesv1.TestPushRequest{NodeId: "phone"}); refusal != "nodes.no_registration" {
				t.Errorf("afterwards: %q", refusal)
			}
		})
	}
}

// Without credentials nothing waits, and the test says what to set.
func TestPushWithoutCredentials(t *testing.T) {
	for name, door := range nodeDoors {
		t.Run(name, func(t *testing.T) {
			d := hanzodtest.Start(t, hanzodtest.Options{})
			o := door(t, d)
			phone := &sleeper{tb: t, d: d}
			phone.connect()
			phone.c.call("node.event", object{"event": "push.apns.register", "payload": object{"token": pushToken, "topic": "t"}})
			phone.sleep(o)
			if _, refusal := o.do("TestPush", &nodesv1.TestPushRequest{NodeId: "phone"}); refusal != "push.no_credentials" {
				t.Errorf("%q", refusal)
			}
			began := time.Now()
			if _, refusal := o.invoke("phone", "canvas.present", `{}`, "k"); refusal != "nodes.not_connected" || time.Since(began) > 2*time.Second {
				t.Errorf("%q after %s", refusal, time.Since(began))
			}
		})
	}
}

// A call that may wait is held until its node connects; the daemon ends it when it stops. The legacy
// method has no such parameter.
func TestWaitForNode(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{})
	g := nodeDoors["grpc"](t, d).(grpcNodes)
	value := structpb.NewStructValue(&structpb.Struct{})
	type result struct{ payload, refusal string }
	held := make(chan result, 3)
	overGRPC := func() {
		out, err := g.c.Nodes.Invoke(context.Background(), &nodesv1.InvokeRequest{
			NodeId: "phone", Command: "canvas.eval", Params: value, IdempotencyKey: "one", WaitForNode: durationpb.New(time.Minute),
		})
		held <- result{out.GetPayload().GetStringValue(), g.reason(err)}
	}
	go overGRPC()
	go overGRPC()
	go func() {
		r := &overREST{t, d}
		out, refusal := r.do("POST", "/v1/nodes/phone:invoke", object{"command": "canvas.present", "waitForNode": "60s"})
		held <- result{fmt.Sprint(out["payload"]), refusal}
	}()
	select {
	case r := <-held:
		t.Fatalf("not held: %+v", r)
	case <-time.After(300 * time.Millisecond):
	}
	phone := &sleeper{tb: t, d: d}
	phone.connect()
	var got []result
	for range 3 {
		got = append(got, <-held)
	}
	slices.SortFunc(got, func(a, b result) int { return strings.Compare(a.payload, b.payload) })
	want := []result{{"did canvas.eval", ""}, {"did canvas.eval", ""}, {"did canvas.present", ""}}
	if !slices.Equal(got, want) || len(phone.ran()) != 2 {
		t.Errorf("%+v after %v", got, phone.ran())
	}
	l := legacyNodes{newLegacy(t, d).(*overLegacy)}
	f := l.c.call("node.invoke", object{"nodeId": "phone", "command": "canvas.eval", "idempotencyKey": "k", "waitForNode": "60s"})
	if _, text := failure(f); !strings.Contains(text, "unexpected property 'waitForNode'") {
		t.Errorf("%q", text)
	}
	_, err := g.c.Nodes.Invoke(context.Background(), &nodesv1.InvokeRequest{NodeId: "tv", Command: "canvas.eval", WaitForNode: durationpb.New(2 * time.Hour)})
	if g.reason(err) != "nodes.wait_range" {
		t.Errorf("%v", err)
	}
	go func() {
		_, err := g.c.Nodes.Invoke(context.Background(), &nodesv1.InvokeRequest{NodeId: "tv", Command: "canvas.eval", WaitForNode: durationpb.New(time.Minute)})
		held <- result{"", g.reason(err)}
	}()
	time.Sleep(200 * time.Millisecond)
	began := time.Now()
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	if r := <-held; r.refusal != "nodes.closing" || time.Since(began) > 3*time.Second {
		t.Errorf("at the stop: %+v after %s", r, time.Since(began))
	}
}

// A repeated key is one run by every door: while it runs, afterwards, and when the node came back
// meanwhile. Another caller's key is another call.
func TestKeysByEveryDoor(t *testing.T) {
	for name, door := range nodeDoors {
		t.Run(name, func(t *testing.T) {
			d := hanzodtest.Start(t, hanzodtest.Options{})
			runs := box(t, d, "box")
			var wg sync.WaitGroup
			var mu sync.Mutex
			answers := map[string]int{}
			for range 8 {
				o := door(t, d) // connections of their own
				wg.Go(func() {
					payload, refusal := o.invoke("box", "system.which", `{"bins":["ls"]}`, "same")
					mu.Lock()
					answers[payload+refusal]++
					mu.Unlock()
				})
			}
			wg.Wait()
			if len(answers) != 1 || len(runs()) != 1 {
				t.Errorf("answers %v, runs %v", answers, runs())
			}
			again := box(t, d, "box") // takes the place of the first
			o := door(t, d)
			if payload, refusal := o.invoke("box", "system.which", `{"bins":["ls"]}`, "same"); refusal != "" || answers[payload] != 8 || len(again()) != 0 {
				t.Errorf("after the reconnect: %s %s, runs %v", payload, refusal, again())
			}
			for other, door := range nodeDoors {
				if other == name || (name != "grpc" && other != "grpc") {
					continue // REST and legacy come with the same shared token
				}
				before := len(again())
				if _, refusal := door(t, d).invoke("box", "system.which", `{"bins":["ls"]}`, "same"); refusal != "" || len(again()) != before+1 {
					t.Errorf("another caller by %s: %s, runs %v", other, refusal, again())
				}
				break
			}
		})
	}
}

// The voice wake words by every door.
func TestVoiceWakeByEveryDoor(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{})
	for name, door := range nodeDoors {
		o := door(t, d)
		out, refusal := o.do("SetVoiceWake", &nodesv1.SetVoiceWakeRequest{Triggers: []string{" " + name + " ", ""}})
		if refusal != "" || joined(out["triggers"]) != name {
			t.Errorf("%s: %v %s", name, out, refusal)
		}
		for other, door := range nodeDoors {
			if out, refusal := door(t, d).do("GetVoiceWake", &nodesv1.GetVoiceWakeRequest{}); refusal != "" || joined(out["triggers"]) != name {
				t.Errorf("%s after %s: %v %s", other, name, out, refusal)
			}
		}
	}
}
