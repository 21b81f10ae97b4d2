package compat

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// documented are the codes that the door closes with (protocol.md §2.5).
var documented = []websocket.StatusCode{1000, 1002, 1007, 1008, 1009}

// A stranger's first frame lets nobody in but with the secret, and ends with a documented code.
func FuzzConnectParams(f *testing.F) {
	good := hello{scopes: []string{"operator.read"}}
	f.Add([]byte(`{"type":"req","id":"1","method":"connect","params":`+good.params("")+`}`), true)
	node := hello{role: "node", id: "node-host", mode: "node", commands: []string{"system.run"}, device: device("d")}
	f.Add([]byte(`{"type":"req","id":"1","method":"connect","params":`+node.params("n")+`}`), true)
	f.Add([]byte(`{"type":"req","id":"1","method":"connect"}`), true)
	f.Add([]byte(`{"type":"req","id":"1","method":"connect","params":{"minProtocol":1,"maxProtocol":1,"client":{"id":"a","displayName":"",`+
		`"version":"","platform":"linux-x86_64","mode":"node"},"role":"node","auth":{"token":"`+secretText+`"}}}`), true)
	f.Add([]byte(`{"type":"req","id":"1","method":"connect","params":`+
		signed(hello{id: "bot-android", mode: "ui", role: "operator"}, device("d"), "v1", "bot-android", "-", time.Now())+`}`), true)
	f.Add([]byte(`[[[[`), false)
	f.Add([]byte("\xff\xfe"), true)
	f.Add([]byte(`{"type":"req","id":"\ud800","method":"connect","params":{"minProtocol":1e400}}`), true)
	shared := newWorld(f)
	f.Fuzz(func(t *testing.T, first []byte, asText bool) {
		w := *shared
		w.tb = t
		c := w.open()
		kind := websocket.MessageBinary
		if asText {
			kind = websocket.MessageText
		}
		_ = c.ws.Write(context.Background(), kind, first) // the door may close before it has all
		f, err := c.tryRead()
		if err == nil && f.Type == "odd" && text(f.Payload, "type") == "hello-ok" { // of version 1; the answer follows
			f, err = c.tryRead()
		}
		if err == nil && f.OK {
			if got := c.call("health", "{}"); !got.OK {
				t.Fatalf("let in, and then %+v", got.Error)
			}
			return
		}
		if code, reason, _ := c.end(); !slices.Contains(documented, code) || len(reason) > 120 {
			t.Fatalf("%q: closed with %d %q", first, code, reason)
		}
	})
}

// No frame of a client that was let in upsets the door: the next call is answered, or the connection
// ended with a documented code.
func FuzzDispatch(f *testing.F) {
	for _, s := range []string{
		`{"type":"req","id":"1","method":"node.list","params":{"connectedOnly":true}}`,
		`{"type":"req","id":"1","method":"node.invoke","params":{"nodeId":"n","command":"system.run","params":{"command":["a"]},"timeoutMs":1e3,"idempotencyKey":"k"}}`,
		`{"type":"req","id":"1","method":"exec.approval.request","params":{"command":"ls","timeoutMs":1,"twoPhase":true,"turnSourceThreadId":1.5}}`,
		`{"type":"req","id":"1","method":"logs.tail","params":{"cursor":0,"limit":1,"maxBytes":1}}`,
		`{"type":"req","id":"1","method":"node.invoke.result","params":{"id":"x","nodeId":"n","ok":false,"error":null,"payloadJSON":7}}`,
		`{"type":"req","id":1,"method":"health"}`, `{`, `[]`, "\xff", `{"type":"req","id":"after","method":"cron.add","params":{}}`,
		`{"type":"req","id":"1","method":"exec.approvals.set","params":{"file":{"version":1},"baseHash":"x"}}`,
	} {
		f.Add([]byte(s), true, true)
	}
	shared := newWorld(f)
	f.Fuzz(func(t *testing.T, frame []byte, asText, admin bool) {
		w := *shared
		w.tb = t
		var c *client
		if admin {
			c = w.operator("operator.admin")
		} else {
			c = w.node("n", "system.run")
		}
		kind := websocket.MessageBinary
		if asText {
			kind = websocket.MessageText
		}
		_ = c.ws.Write(context.Background(), kind, frame)
		_ = c.ws.Write(context.Background(), websocket.MessageText, []byte(`{"type":"req","id":"the next one","method":"health"}`))
		for {
			f, err := c.tryRead()
			if err != nil {
				if code, reason, _ := c.end(); !slices.Contains(documented, code) {
					t.Fatalf("%q: closed with %d %q", frame, code, reason)
				}
				return
			}
			if f.ID == "the next one" {
				return
			}
		}
	})
}
