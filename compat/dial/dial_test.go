package dial

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"
	"github.com/hanzoai/hanzod/identity"
)

func testIdentity() *Identity {
	seed := make([]byte, ed25519.SeedSize)
	for i := range seed {
		seed[i] = byte(i)
	}
	return NewIdentity(ed25519.NewKeyFromSeed(seed))
}

// TestSignatureVectors are those of protocol.md §4.5.
func TestSignatureVectors(t *testing.T) {
	for version, want := range map[string]string{
		"":   "H9P_Qc9aNUtY7XrBmaODGfKCtThUpjpm-chiegHCp00-1v_96l851xagewpWkC6BnFaINPWV_vG01FjLSncpBg",
		"v3": "H9P_Qc9aNUtY7XrBmaODGfKCtThUpjpm-chiegHCp00-1v_96l851xagewpWkC6BnFaINPWV_vG01FjLSncpBg",
		"v2": "oXb5HorQvMB5v7g86e-new53YBCuQaOO5EvLkRmGJHCkKdBhaDqMM_qFsdPfW0EU8_f1ZMMHybwXvmDvzfyHCA",
	} {
		p := connectParams(Options{
			Client: Client{ID: "openclaw-macos", Mode: "ui", Platform: " macOS 15.3 ", DeviceFamily: "Mac"},
			Role:   identity.RoleOperator, Scopes: []identity.Scope{"operator.admin", "operator.read"},
			Auth: Auth{Token: "tok"}, Device: testIdentity(), SignatureVersion: version,
			Now: func() time.Time { return time.UnixMilli(1700000000000) },
		}, "nonce-1")
		if p.Device.Signature != want || p.Device.PublicKey != "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg" ||
			p.Device.ID != "56475aa75463474c0285df5dbf2bcab73da651358839e9b77481b2eab107708c" {
			t.Errorf("%q: %+v", version, p.Device)
		}
	}
}

func TestDial(t *testing.T) {
	got := make(chan json.RawMessage, 1)
	url := gateway(t, func(p *peer) {
		p.send(`{"type":"event","event":"noise"}`)
		got <- p.greet(`{"type":"hello-ok","protocol":3,"server":{"version":"9","connId":"C7"},"canvasHostUrl":"http://c","auth":{"deviceToken":"DT","role":"node","scopes":[],"issuedAtMs":1},"policy":{"tickIntervalMs":15000},"more":{}}`)
		p.wait()
	})
	o := options(url)
	o.Role, o.Device, o.Auth = identity.RoleNode, testIdentity(), Auth{DeviceToken: "DT"}
	o.Caps, o.Permissions, o.PathEnv = []string{"system"}, map[string]bool{"a": true}, "/bin"
	o.Client.InstanceID = "I"
	now := time.UnixMilli(1700000000000)
	o.Now = func() time.Time { return now }
	c := connect(t, o)
	h := c.Hello()
	h.Raw = nil
	want := Hello{ServerVersion: "9", ConnID: "C7", CanvasURL: "http://c", DeviceToken: "DT", Role: "node", Scopes: []identity.Scope{}, TickInterval: 15 * time.Second}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Error(diff)
	}
	params := <-got
	var w struct {
		Device struct {
			ID, PublicKey, Signature, Nonce string
			SignedAt                        int64
		}
	}
	json.Unmarshal(params, &w)
	proof := identity.Proof{ID: w.Device.ID, PublicKey: w.Device.PublicKey, Signature: w.Device.Signature, SignedAt: w.Device.SignedAt, Nonce: w.Device.Nonce}
	signed := identity.Signed{ClientID: "test", ClientMode: "test", Role: identity.RoleNode, Token: "DT", Platform: "linux"}
	if _, err := proof.Verify(signed, "nonce-1", now); err != nil {
		t.Error(err)
	}
	text := string(params)
	text = text[:strings.Index(text, `,"device"`)]
	if want := `{"minProtocol":3,"maxProtocol":3,"client":{"id":"test","version":"1","platform":"linux","mode":"test","instanceId":"I"},"role":"node","scopes":[],"caps":["system"],"permissions":{"a":true},"pathEnv":"/bin"`; text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	if !strings.HasSuffix(string(params), `,"auth":{"deviceToken":"DT"}}`) {
		t.Errorf("%s", params)
	}
}

func TestDialRefused(t *testing.T) {
	url := gateway(t, func(p *peer) {
		p.refuse(1008, `{"code":"NOT_PAIRED","message":"pairing required","details":{"code":"PAIRING_REQUIRED","requestId":"R1"}}`)
	})
	_, err := Dial(t.Context(), options(url))
	var r *RefusedError
	if !errors.As(err, &r) || r.Code != "NOT_PAIRED" || r.CloseCode != 1008 || r.Detail("requestId") != "R1" || !strings.Contains(err.Error(), "pairing required") {
		t.Errorf("%+v", err)
	}
}

func TestDialBadGateways(t *testing.T) {
	for name, serve := range map[string]func(p *peer){
		"closes at once": func(p *peer) { p.ws.Close(1012, "service restart") },
		"empty nonce": func(p *peer) {
			p.send(`{"type":"event","event":"connect.challenge","payload":{"nonce":" "}}`)
			p.wait()
		},
		"no hello":       func(p *peer) { p.greet(`{"type":"other"}`); p.wait() },
		"other protocol": func(p *peer) { p.greet(`{"type":"hello-ok","protocol":4}`); p.wait() },
		"bad hello":      func(p *peer) { p.greet(`{"type":"hello-ok","protocol":3,"server":7}`); p.wait() },
		"closes later": func(p *peer) {
			p.send(`{"type":"event","event":"connect.challenge","payload":{"nonce":"n"}}`)
			p.recv()
		},
		"too many events": func(p *peer) {
			for range 2 * maxEarly {
				p.send(`{"type":"event","event":"x"}`)
			}
			p.wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			c, err := Dial(ctx, options(gateway(t, serve)))
			if err == nil {
				c.Close()
				t.Fatal("connected")
			}
			if ctx.Err() != nil {
				t.Error("only the deadline ended it")
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, options(gateway(t, func(p *peer) { p.wait() }))); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silence: %v", err)
	}
}

func TestAddresses(t *testing.T) {
	for url, ok := range map[string]bool{
		"ws://127.0.0.1:1": true, "ws://localhost:1": true, "ws://[::1]:1": true, "wss://example.com": true,
		"ws://example.com": false, "ws://10.0.0.1": false, "http://127.0.0.1": false, "": false, "ws://": false,
		"ws://localhost.evil.com": false, "wss://user:secret@example.com": false,
	} {
		if err := checkURL(url, false); (err == nil) != ok {
			t.Errorf("%q: %v", url, err)
		} else if err != nil && strings.Contains(err.Error(), "secret@") {
			t.Errorf("%q: the error shows the secret", url)
		}
	}
	if err := checkURL("ws://10.0.0.1", true); err != nil {
		t.Error(err)
	}
}

func TestFingerprint(t *testing.T) {
	url, srv := gatewayServer(t, true, func(p *peer) { p.greet(hello); p.wait() })
	sum := sha256.Sum256(srv.Certificate().Raw)
	o := options(url)
	if _, err := Dial(t.Context(), o); err == nil {
		t.Error("a certificate of nobody was taken")
	}
	o.TLSFingerprint = strings.Repeat("00", 32)
	if _, err := Dial(t.Context(), o); !errors.Is(err, ErrFingerprint) {
		t.Errorf("wrong pin: %v", err)
	}
	o.TLSFingerprint = "12"
	if _, err := Dial(t.Context(), o); err == nil {
		t.Error("a short pin was taken")
	}
	pin := strings.ToUpper(hex.EncodeToString(sum[:]))
	o.TLSFingerprint = pin[:2] + ":" + pin[2:]
	connect(t, o)
}

func TestCalls(t *testing.T) {
	url := gateway(t, func(p *peer) {
		p.greet(hello)
		for {
			r, ok := p.recv()
			if !ok {
				return
			}
			switch r.Method {
			case "echo":
				p.send(`{"type":"res","id":%q,"ok":true,"payload":%s}`, r.ID, r.Params)
			case "none":
				p.send(`{"type":"res","id":%q,"ok":true}`, r.ID)
			case "fail":
				p.send(`{"type":"res","id":%q,"ok":false,"payload":{"p":1},"error":{"code":"UNAVAILABLE","message":"no","details":{"a":1},"retryable":true,"retryAfterMs":1500}}`, r.ID)
			case "two":
				p.send(`{"type":"res","id":%q,"ok":true,"payload":{"status":"accepted","n":1}}`, r.ID)
				p.send(`{"type":"res","id":%q,"ok":true,"payload":{"n":2}}`, r.ID)
				p.send(`{"type":"res","id":%q,"ok":true,"payload":{"n":3}}`, r.ID)
			case "hostile":
				for _, s := range []string{"", "null", "[]", "{", `{"type":"res"}`, `{"type":"res","id":5,"ok":true}`, `{"type":"res","id":"999","ok":true}`,
					`{"type":"event"}`, `{"type":"event","event":""}`, `{"type":"req","id":"1","method":"x"}`, strings.Repeat("[", 100000), "\xff\xfe", `{"type":"event","event":"e","seq":-1,"stateVersion":7}`} {
					p.ws.Write(p.ctx, websocket.MessageText, []byte(s))
					p.ws.Write(p.ctx, websocket.MessageBinary, []byte(s))
				}
				p.send(`{"type":"res","id":%q,"ok":true,"payload":"alive"}`, r.ID)
			case "hang":
			case "large":
				p.send(`{"type":"res","id":%q,"ok":true,"payload":%q}`, r.ID, strings.Repeat("x", 20<<20))
			}
		}
	})
	c := connect(t, options(url))
	ctx := t.Context()
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if got, err := c.Call(ctx, "echo", i); err != nil || string(got) != string(mustJSON(i)) {
				t.Errorf("%d: %s, %v", i, got, err)
			}
		})
	}
	wg.Wait()
	if got, err := c.Call(ctx, "none", nil); err != nil || got != nil {
		t.Errorf("%s, %v", got, err)
	}
	_, err := c.Call(ctx, "fail", map[string]any{})
	want := &CallError{Code: "UNAVAILABLE", Message: "no", Details: json.RawMessage(`{"a":1}`), Payload: json.RawMessage(`{"p":1}`), Retryable: true, RetryAfter: 1500 * time.Millisecond}
	if diff := cmp.Diff(error(want), err); diff != "" {
		t.Error(diff)
	}
	var first string
	got, err := c.CallTwoPhase(ctx, "two", nil, func(p json.RawMessage) { first = string(p) })
	if err != nil || string(got) != `{"n":2}` || first != `{"status":"accepted","n":1}` {
		t.Errorf("%s then %s, %v", first, got, err)
	}
	if got, err = c.Call(ctx, "two", nil); err != nil || string(got) != first {
		t.Errorf("%s, %v", got, err)
	}
	if got, err = c.CallTwoPhase(ctx, "echo", "x", nil); err != nil || string(got) != `"x"` {
		t.Errorf("one answer: %s, %v", got, err)
	}
	if got, err = c.Call(ctx, "hostile", nil); err != nil || string(got) != `"alive"` {
		t.Errorf("%s, %v", got, err)
	}
	if got, err = c.Call(ctx, "large", nil); err != nil || len(got) != 20<<20+2 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if got, err = c.Call(ctx, "echo", strings.Repeat("y", 20<<20)); err != nil || len(got) != 20<<20+2 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err = c.Call(ctx, "echo", strings.Repeat("y", MaxFrame)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v", err)
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, err = c.Call(short, "hang", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if got, err = c.Call(ctx, "echo", "still"); err != nil || string(got) != `"still"` {
		t.Errorf("after a call was given up: %s, %v", got, err)
	}
	c.mu.Lock()
	if len(c.pending) != 0 {
		t.Errorf("%d calls were left behind", len(c.pending))
	}
	c.mu.Unlock()
	hung := make(chan error, 1)
	go func() { _, err := c.Call(ctx, "hang", nil); hung <- err }()
	c.Close()
	if err := <-hung; !errors.Is(err, ErrClosed) {
		t.Errorf("a call during close: %v", err)
	}
	if _, err := c.Call(ctx, "echo", 1); !errors.Is(err, ErrClosed) {
		t.Errorf("a call after close: %v", err)
	}
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func TestServerCloses(t *testing.T) {
	c := connect(t, options(gateway(t, func(p *peer) {
		p.greet(hello)
		p.recv()
		p.ws.Close(1012, "service restart")
	})))
	_, err := c.Call(t.Context(), "x", nil)
	var e *ClosedError
	if !errors.As(err, &e) || e.Code != 1012 || e.Reason != "service restart" {
		t.Errorf("%v", err)
	}
	within(t, "done", c.Done())
}

func TestTooLargeFrame(t *testing.T) {
	c := connect(t, options(gateway(t, func(p *peer) {
		p.greet(hello)
		p.send(`{"type":"event","event":"x","payload":%q}`, strings.Repeat("x", MaxFrame))
		p.wait()
	})))
	within(t, "the end of the connection", c.Done())
}

func TestTicks(t *testing.T) {
	code := make(chan websocket.StatusCode, 1)
	began := time.Now()
	c := connect(t, options(gateway(t, func(p *peer) {
		p.greet(helloTick(150))
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for range 5 { // longer than two intervals in all
			<-tick.C
			p.send(`{"type":"event","event":"tick","payload":{"ts":1}}`)
		}
		p.send(`{"type":"event","event":"health"}`) // does not count
		code <- p.wait()
	})))
	within(t, "tick timeout", c.Done())
	if !errors.Is(c.Err(), ErrTickTimeout) || time.Since(began) < 500*time.Millisecond {
		t.Errorf("%v after %v", c.Err(), time.Since(began))
	}
	if got := <-code; got != 4000 {
		t.Errorf("close code %d", got)
	}
}

// A gateway that is gone does not hold up the next attempt.
func TestTickTimeoutWaitsForNobody(t *testing.T) {
	c := connect(t, options(gateway(t, func(p *peer) {
		p.greet(helloTick(50))
		<-p.ctx.Done() // reads nothing, so that a close is not answered
	})))
	within(t, "tick timeout", c.Done())
	began := time.Now()
	c.Close()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("closing took %v", took)
	}
}

func TestEvents(t *testing.T) {
	c := connect(t, options(gateway(t, func(p *peer) {
		p.send(`{"type":"event","event":"connect.challenge","payload":{"nonce":"n"}}`)
		r, _ := p.recv()
		p.send(`{"type":"event","event":"early"}`)
		p.send(`{"type":"res","id":%q,"ok":true,"payload":%s}`, r.ID, hello)
		for i := range 2 * EventBuffer {
			p.send(`{"type":"event","event":"e","payload":{"n":%d},"seq":%d}`, i, i)
		}
		if r, ok := p.recv(); ok {
			p.send(`{"type":"res","id":%q,"ok":true}`, r.ID)
		}
		p.wait()
	})))
	if _, err := c.Call(t.Context(), "sync", nil); err != nil {
		t.Fatal(err)
	}
	if c.Dropped() != EventBuffer+1 {
		t.Errorf("%d dropped", c.Dropped())
	}
	if e := <-c.Events(); e.Name != "early" || e.Seq != nil || e.Payload != nil {
		t.Errorf("%+v", e)
	}
	if e := <-c.Events(); string(e.Payload) != `{"n":0}` || *e.Seq != 0 {
		t.Errorf("%+v", e)
	}
	c.Close()
	for range c.Events() { // closed at the end
	}
}
