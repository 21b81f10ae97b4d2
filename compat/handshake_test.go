package compat

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/nodes"
)

// Every error that a domain defines has words on the legacy wire.
func TestWordsForEveryError(t *testing.T) {
	prefixes := []string{"identity.", "nodes.", "approvals.", "policy.", "system.", "gate."}
	for code, e := range errs.Defined() {
		for _, p := range prefixes {
			if !strings.HasPrefix(code, p) {
				continue
			}
			if _, ok := words[code]; !ok {
				t.Errorf("%s has no legacy words", code)
				continue
			}
			s := shapeOf(e)
			if s.Message == "" || (s.Code != codeInvalid && s.Code != codeUnavailable && s.Code != codeNotPaired) {
				t.Errorf("%s is worded %+v", code, s)
			}
		}
	}
	for code := range words {
		if _, ok := errs.Defined()[code]; !ok {
			t.Errorf("there are words for %s, which nobody defines", code)
		}
	}
}

func TestShapeOfSaysNothingOfTheInside(t *testing.T) {
	for _, err := range []error{
		context.DeadlineExceeded,
		errs.New(errs.Internal, "password hunter2"),
		errs.Wrap(errs.Internal, "hunter2", context.Canceled),
		errs.Wrap(errs.Unavailable, "short", errs.New(errs.Internal, "hunter2")),
	} {
		if s := shapeOf(err); strings.Contains(s.Message, "hunter2") || s.Message == "" {
			t.Errorf("%v is worded %q", err, s.Message)
		}
	}
	if s := shapeOf(errs.New(errs.Unavailable, strings.Repeat("é", 500))); len([]rune(s.Message)) != maxErrorText+3 {
		t.Errorf("a long text has %d characters", len([]rune(s.Message)))
	}
}

// What ends a handshake (protocol.md §2.4, §2.5).
func TestHandshakeEnds(t *testing.T) {
	good := hello{scopes: []string{"operator.read"}}.params("")
	for _, c := range []struct {
		name    string
		kind    websocket.MessageType
		frame   string
		code    websocket.StatusCode
		reason  string
		message string // of the error response, "" for none
	}{
		{"no JSON", websocket.MessageText, "hi", 1000, "", ""},
		{"invalid UTF-8", websocket.MessageText, "{\"a\":\"\xff\"}", 1007, "", ""},
		{"array", websocket.MessageText, "[]", 1008, "invalid request frame", ""},
		{"null", websocket.MessageText, "null", 1008, "invalid request frame", ""},
		{"empty id", websocket.MessageText, `{"type":"req","id":"","method":"connect"}`, 1008, "invalid request frame", ""},
		{"extra key", websocket.MessageText, `{"type":"req","id":"1","method":"connect","x":1}`, 1008, "invalid request frame", ""},
		{"another method", websocket.MessageText, `{"type":"req","id":"1","method":"health"}`, 1008,
			"invalid handshake: first request must be connect", "invalid handshake: first request must be connect"},
		{"no params", websocket.MessageText, `{"type":"req","id":"1","method":"connect"}`, 1008,
			"invalid connect params: must be object", "invalid connect params: must be object"},
		{"too large", websocket.MessageText, `{"type":"req","id":"` + strings.Repeat("x", maxFirst) + `"}`, 1009, "", ""},
		{"protocol", websocket.MessageText, `{"type":"req","id":"1","method":"connect","params":` +
			strings.NewReplacer(`"minProtocol":3`, `"minProtocol":4`, `"maxProtocol":3`, `"maxProtocol":9`).Replace(good) + `}`, 1002, "protocol mismatch", "protocol mismatch"},
		{"role", websocket.MessageText, `{"type":"req","id":"1","method":"connect","params":` +
			strings.Replace(good, `"role":"operator"`, `"role":"admin"`, 1) + `}`, 1008, "invalid role", "invalid role"},
		{"wrong token", websocket.MessageText, `{"type":"req","id":"1","method":"connect","params":` +
			strings.Replace(good, secretText, "wrong", 1) + `}`, 1008,
			"unauthorized: gateway token mismatch (provide gateway auth token)", "unauthorized: gateway token mismatch (provide gateway auth token)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				cl := w.open()
				if err := cl.ws.Write(context.Background(), c.kind, []byte(c.frame)); err != nil && c.code != 1009 {
					t.Fatal(err)
				}
				code, reason, last := cl.end()
				if code != c.code || reason != c.reason || last.Error.Message != c.message {
					t.Errorf("closed with %d %q after %+v", code, reason, last)
				}
				synctest.Wait()
				if n := len(w.conns()); n != 0 {
					t.Errorf("%d connections are left", n)
				}
			})
		})
	}
}

// The largest first frame that is read, and binary frames, are let in.
func TestHandshakeAccepts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		p := hello{scopes: []string{"operator.read"}}.params("")
		frame := `{"type":"req","id":"1","method":"connect","params":` + p + `}`
		frame = strings.Repeat(" ", maxFirst-len(frame)) + frame
		if err := c.ws.Write(context.Background(), websocket.MessageBinary, []byte(frame)); err != nil {
			t.Fatal(err)
		}
		if f := c.read(); !f.OK {
			t.Fatalf("%+v", f.Error)
		}
	})
}

// A client that says nothing costs ten seconds and no more.
func TestHandshakeTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		began := time.Now()
		c := w.open()
		code, reason, _ := c.end()
		if took := time.Since(began); code != 1000 || reason != "" || took != handshakeTimeout {
			t.Errorf("closed with %d %q after %s", code, reason, took)
		}
	})
}

// A second connect is judged by the caller's rights (protocol.md §2.4), and frames that were sent
// in one go with connect are served after it.
func TestSecondConnect(t *testing.T) {
	for _, c := range []struct {
		h    hello
		want string
	}{
		{hello{scopes: []string{"operator.admin"}}, "connect is only valid as the first request"},
		{hello{scopes: []string{"operator.read"}}, "missing scope: operator.admin"},
		{hello{role: "node", id: "node-host", mode: "node", instance: "n"}, "unauthorized role: node"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			cl := w.open()
			p := c.h.params("")
			cl.write(`{"type":"req","id":"1","method":"connect","params":` + p + `}`)
			cl.write(`{"type":"req","id":"2","method":"connect","params":` + p + `}`)
			cl.write(`{"type":"req","id":"3","method":"health"}`)
			if f := cl.read(); f.ID != "1" || !f.OK {
				t.Fatalf("%+v", f)
			}
			if f, _ := cl.res("2"); f.Error.Message != c.want {
				t.Errorf("got %q", f.Error.Message)
			}
			if f, _ := cl.res("3"); !f.OK {
				t.Errorf("%+v", f.Error)
			}
		})
	}
}

// More than ten calls outside the role in a row end the connection; one inside it starts the count
// again.
func TestRepeatedUnauthorizedCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.node("n")
		for range maxUnauthorized {
			c.call("node.list", "{}")
		}
		c.call("health", "{}")
		for range maxUnauthorized {
			c.call("node.list", "{}")
		}
		c.ask("node.list", "{}")
		code, reason, last := c.end()
		if code != 1008 || reason != "repeated unauthorized calls" || last.Error.Message != "unauthorized role: node" {
			t.Errorf("%d %q %+v", code, reason, last)
		}
	})
}

// Writes of the configuration are limited before their parameters are looked at, and a client is told
// when to try again (protocol.md §5).
func TestControlPlaneLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newWorld(t).operator("operator.admin")
		for range 3 {
			if f := c.call("config.apply", "{}"); f.Error.Message != "invalid config.apply params: must have required property 'raw'" {
				t.Errorf("%+v", f.Error)
			}
		}
		time.Sleep(500 * time.Millisecond)
		f := c.call("config.patch", "{}")
		if f.Error.Code != "UNAVAILABLE" || f.Error.Message != "rate limit exceeded for config.patch; retry after 60s" ||
			!f.Error.Retryable || f.Error.RetryAfterMs != 59_500 || string(f.Error.Details) != `{"method":"config.patch","limit":"3 per 60s"}` {
			t.Errorf("%+v %s", f.Error, f.Error.Details)
		}
		if f := c.call("config.set", "{}"); !strings.HasPrefix(f.Error.Message, "invalid config.set params: ") {
			t.Errorf("%+v", f.Error)
		}
		time.Sleep(59_500 * time.Millisecond)
		if f := c.call("config.patch", "{}"); !strings.HasPrefix(f.Error.Message, "invalid config.patch params: ") {
			t.Errorf("%+v", f.Error)
		}
	})
}

// The text of a node's own error is without white space around code and message; the details have it as
// the node sent it.
func TestNodeFailed(t *testing.T) {
	ptr := func(s string) *string { return &s }
	for _, tc := range []struct {
		err  nodes.NodeError
		want string
	}{
		{nodes.NodeError{Code: ptr("C"), Message: ptr("m")}, "C: m"},
		{nodes.NodeError{Code: ptr(" C\n"), Message: ptr("\ufeffm ")}, "C: m"},
		{nodes.NodeError{Code: ptr(" "), Message: ptr(" ")}, "node invoke failed"},
		{nodes.NodeError{Message: ptr("m\u0085")}, "m\u0085"},
		{nodes.NodeError{Code: ptr("C"), Message: ptr("\u2028")}, "C: node invoke failed"},
		{nodes.NodeError{}, "node invoke failed"},
	} {
		e := nodes.ErrNodeFailed.With("nodeError", tc.err)
		got := nodeFailed(e)
		if got.Message != tc.want {
			t.Errorf("%+v: %q, want %q", tc.err, got.Message, tc.want)
		}
		if code := tc.err.Code; code != nil && text(wire.MustParse(string(got.Details)), "nodeError.code") != *code {
			t.Errorf("%+v: details %s", tc.err, got.Details)
		}
	}
}

func TestAfterHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.operator("operator.admin")
		c.write("no json")
		c.write(`{"type":"req","id":7,"method":"health"}`)
		// A numeric id comes back as it was sent.
		f := c.read()
		for f.Type == "event" {
			f = c.read()
		}
		if text(f.Payload, "id") != "7" || text(f.Payload, "error.message") != "invalid request frame: at /id: must be string" {
			t.Errorf("got %s", f.Payload.Raw())
		}
		c.write(`{"type":"req","id":"8","method":"nope"}`)
		if f, _ := c.res("8"); f.Error.Message != "unknown method: nope" {
			t.Errorf("%+v", f)
		}
		c.write(`{"type":"req","id":"9","method":"node.list","params":null}`)
		if f, _ := c.res("9"); !f.OK {
			t.Errorf("%+v", f)
		}
	})
}

// The client hears why it is not let in, also when that comes up late in the handshake.
func TestLateRefusalIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{mode: "token", nameless: true})
		c := w.open()
		c.write(`{"type":"req","id":"1","method":"connect","params":` + hello{role: "node", id: "node-host", mode: "node"}.params("") + `}`)
		_, _, last := c.end()
		if last.ID != "1" || last.OK || last.Error.Code != codeUnavailable {
			t.Errorf("the last frame is %+v", last)
		}
	})
}

// A client that has not said a word yet does not hold up a stop.
func TestCloseDuringHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.end()
		}()
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		w.door.Close(ctx)
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("the door took %s to close", took)
		}
		<-done
	})
}

// A request that follows connect at once waits for hello, and is not served when the client is not let in.
func TestRequestsBeforeHello(t *testing.T) {
	for name, in := range map[string]bool{"let in": true, "refused": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				c := w.open()
				h := hello{scopes: []string{"operator.read"}}
				if !in {
					h.token = "wrong"
				}
				c.write(`{"type":"req","id":"hello","method":"connect","params":` + h.params(c.nonce) + `}`)
				const id = "early"
				// A refusal may have closed the connection before this is on its way.
				err := c.ws.Write(context.Background(), websocket.MessageText, []byte(`{"type":"req","id":"`+id+`","method":"status","params":{}}`))
				if in && err != nil {
					t.Fatal(err)
				}
				if f := c.read(); f.ID != "hello" || f.OK != in {
					t.Fatalf("%+v", f)
				}
				if in {
					if f, _ := c.res(id); !f.OK {
						t.Fatalf("%+v", f.Error)
					}
					return
				}
				if code, _, last := c.end(); code != websocket.StatusPolicyViolation || last.ID == id {
					t.Fatalf("%d, %+v", code, last)
				}
			})
		})
	}
}
