package promises

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/dial"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/identity"
)

// beyond reports whether an error is the refusal of somebody who holds too little, by any door.
func beyond(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "missing scope") || strings.Contains(err.Error(), "lacks the scope") ||
		strings.Contains(err.Error(), "gate.scope") || strings.Contains(err.Error(), "beyond_caller"))
}

// TestSelfDeclaredScopes (GHSA-rqpp-rjj8-7wv8): what a device says of its own scopes gives it none.
func TestSelfDeclaredScopes(t *testing.T) {
	a := attack(t, nil)
	device, token := a.paired(identity.ScopePairing)
	for name, auth := range map[string]dial.Auth{"token": {Token: token}, "deviceToken": {DeviceToken: token}} {
		o := a.options(device, identity.AllOperatorScopes...)
		o.Auth = auth
		if c, err := a.dial(o); err == nil {
			t.Errorf("with its token as %s it was let in with %v", name, c.Hello().Scopes)
		}
	}
	o := a.options(nil, identity.ScopeAdmin)
	o.Auth = dial.Auth{Token: token}
	if _, err := a.dial(o); err == nil {
		t.Error("the token of a device works without the device")
	}
	for _, p := range a.doors(device, token, identity.ScopePairing) {
		if err := p.list(); !beyond(err) {
			t.Errorf("%s: %v", p.door, err)
		}
	}
	// Nor does it by what it claims to be.
	for _, md := range [][]string{
		{"x-hanzo-role", "operator", "x-hanzo-scopes", "operator.admin"}, {"x-openclaw-scopes", "operator.admin"}, {"x-hanzo-role", "node"}, {"x-hanzo-role", "invited"},
	} {
		_, err := a.remote(token).Nodes.ListNodes(metadata.AppendToOutgoingContext(a.ctx(), md...), &nodesv1.ListNodesRequest{})
		if err == nil {
			t.Errorf("gRPC with %v", md)
		}
		h := bearerHeader(token)
		for i := 0; i < len(md); i += 2 {
			h.Set(md[i], md[i+1])
			h.Set("Grpc-Metadata-"+md[i], md[i+1])
		}
		if code, text := a.ask(http.MethodGet, "/v1/nodes", h, ""); code != http.StatusForbidden {
			t.Errorf("REST with %v: %d %s", md, code, text)
		}
	}
	// Mode none asks for no secret, but for a device, and a device from elsewhere for an answer.
	none := attack(t, map[string]any{"gateway": map[string]any{"auth": map[string]any{"mode": "none"}}})
	o = none.options(nil, identity.ScopeAdmin)
	o.Auth = dial.Auth{}
	if _, err := none.dial(o); err == nil {
		t.Error("mode none lets in somebody without a device")
	}
	o = none.options(newDevice(t), identity.ScopeAdmin)
	o.Auth = dial.Auth{}
	none.asks(o)
	if code, _ := none.ask(http.MethodGet, "/v1/nodes", nil, ""); code != http.StatusUnauthorized {
		t.Errorf("mode none answers REST without a token: %d", code)
	}
}

// TestRotationStaysWithin (CVE-2026-32922, GHSA-4jpw-hj22-2xmc): whoever may rotate tokens gets no
// scope by it that it does not hold, and does not become a device that holds more.
func TestRotationStaysWithin(t *testing.T) {
	a := attack(t, nil)
	admin, _ := a.paired(identity.ScopeAdmin)
	small, token := a.paired(identity.ScopePairing, identity.ScopeRead)
	for _, p := range a.doors(small, token, identity.ScopePairing, identity.ScopeRead) {
		for _, try := range []struct {
			device, role string
			scopes       []string
		}{
			{small.ID, "operator", []string{"operator.admin"}},
			{small.ID, "operator", []string{"operator.read", "operator.write"}},
			{small.ID, "node", nil},
			{admin.ID, "operator", nil},
			{admin.ID, "operator", []string{"operator.admin"}},
			{admin.ID, "operator", []string{"operator.read"}},
			{admin.ID, "operator", []string{"operator.pairing", "operator.read"}},
		} {
			if got, err := p.rotate(try.device, try.role, try.scopes...); err == nil {
				t.Errorf("%s: rotated to %v: a token of %d bytes", p.door, try, len(got))
			}
		}
		p.close()
	}
	// Its own it may have anew, and holds no more by it.
	own := a.doors(small, token, identity.ScopePairing, identity.ScopeRead)[0]
	fresh, err := own.rotate(small.ID, "operator")
	if err != nil || fresh == "" {
		t.Fatalf("its own, as it is: %v", err)
	}
	own.close()
	for _, p := range a.doors(small, fresh, identity.ScopePairing, identity.ScopeRead) {
		if err := p.list(); err != nil {
			t.Errorf("%s: the new token: %v", p.door, err)
		}
		if err := p.remove(admin.ID); !beyond(err) {
			t.Errorf("%s: the new token removes an admin: %v", p.door, err)
		}
	}
}

// TestApprovalStaysWithin (CVE-2026-33579, CVE-2026-33577): nobody approves a request for more than it
// holds, not even one that grew after it was made.
func TestApprovalStaysWithin(t *testing.T) {
	a := attack(t, nil)
	small, token := a.paired(identity.ScopePairing, identity.ScopeRead)
	for _, p := range a.doors(small, token, identity.ScopePairing, identity.ScopeRead) {
		asking := newDevice(t)
		request := a.asks(a.options(asking, identity.ScopeAdmin))
		if err := p.approve(request); !beyond(err) {
			t.Errorf("%s approved an admin: %v", p.door, err)
		}
		// One that it may approve, and that grows before it does: another request, under another id.
		other := newDevice(t)
		shown := a.asks(a.options(other, identity.ScopeRead))
		grown := a.asks(a.options(other, identity.ScopeRead, identity.ScopeAdmin))
		if shown == grown {
			t.Errorf("%s: the wider request has the id that was shown", p.door)
		}
		if err := p.approve(shown); err == nil {
			t.Errorf("%s approved what is not there any more", p.door)
		}
		if err := p.approve(grown); !beyond(err) {
			t.Errorf("%s approved what grew: %v", p.door, err)
		}
		// A role is more than scopes.
		third := newDevice(t)
		o := a.options(third, identity.ScopeRead)
		request = a.asks(o)
		c := a.connect(a.options(nil, identity.ScopePairing, identity.ScopeRead))
		if _, err := c.Call(a.ctx(), "device.pair.approve", map[string]any{"requestId": request}); err != nil {
			t.Errorf("one that holds as much: %v", err)
		}
		d, err := a.local().Devices.ListDevices(a.ctx(), &devicesv1.ListDevicesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, dev := range d.GetDevices() {
			if slices.Contains([]string{asking.ID, other.ID}, dev.GetDeviceId()) {
				t.Errorf("%s: %s is paired with %v", p.door, dev.GetDeviceId(), dev.GetScopes())
			}
		}
	}
}

// TestOtherDevicesRequests (GHSA-xrq9-jm7v-g9h7): without the scope nobody sees or decides on the
// requests of others, and with it nobody ends a device that holds more.
func TestOtherDevicesRequests(t *testing.T) {
	a := attack(t, nil)
	admin, _ := a.paired(identity.ScopeAdmin)
	writer, writerToken := a.paired(identity.ScopeWrite, identity.ScopeApprovals)
	pairer, pairerToken := a.paired(identity.ScopePairing)
	request := a.asks(a.options(newDevice(t), identity.ScopeWrite))
	for _, p := range a.doors(writer, writerToken, identity.ScopeWrite, identity.ScopeApprovals) {
		for what, err := range map[string]error{"approves": p.approve(request), "rejects": p.reject(request), "removes": p.remove(admin.ID)} {
			if !beyond(err) {
				t.Errorf("%s: without the scope it %s: %v", p.door, what, err)
			}
		}
	}
	for _, p := range a.doors(pairer, pairerToken, identity.ScopePairing) {
		for what, err := range map[string]error{"approves": p.approve(request), "removes an admin": p.remove(admin.ID), "removes a writer": p.remove(writer.ID)} {
			if !beyond(err) {
				t.Errorf("%s: with the scope alone it %s: %v", p.door, what, err)
			}
		}
	}
}

// TestUnsignedMetadata (CVE-2026-32014): a node goes by the platform that was approved. A signature that
// does not cover the platform, another platform in words that look alike, or a family that is named later
// give it no commands.
func TestUnsignedMetadata(t *testing.T) {
	a := attack(t, nil)
	commands := []string{"system.run", "system.which", "camera.list"}
	node := func(device *dial.Identity, platform, family, version string) dial.Options {
		o := a.options(device)
		o.Client = dial.Client{ID: "node-host", Mode: "node", Platform: platform, DeviceFamily: family}
		o.Role, o.Commands, o.SignatureVersion = identity.RoleNode, commands, version
		return o
	}
	offered := func(id string) []string {
		t.Helper()
		n, err := a.local().Nodes.GetNode(a.ctx(), &nodesv1.GetNodeRequest{NodeId: id})
		if err != nil {
			t.Fatal(err)
		}
		return n.GetNode().GetCommands()
	}
	// A node that is approved as a phone.
	phone := newDevice(t)
	secret, err := a.local().Devices.CreateInvite(a.ctx(), &devicesv1.CreateInviteRequest{Role: "node"})
	if err != nil {
		t.Fatal(err)
	}
	text := identity.EnrollText(secret.GetSecret(), phone.ID, "ios 18", "iphone")
	in, err := a.remote(secret.GetSecret()).Devices.Enroll(a.ctx(), &devicesv1.EnrollRequest{
		PublicKey: phone.PublicKey(), Signature: phone.Sign(text), Platform: "ios 18", DeviceFamily: "iphone",
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"v2", "v3"} {
		for _, claim := range [][2]string{{"linux", "iphone"}, {"macos", "Mac"}, {"ios 18", "Mac"}, {"", ""}, {"ios 18 linux", "iphone"}} {
			o := node(phone, claim[0], claim[1], version)
			o.Auth = dial.Auth{DeviceToken: in.GetToken()}
			if claim[0] == "" {
				o.Client.Platform = "windows"
			}
			if c, err := a.dial(o); err == nil {
				if got := offered(phone.ID); slices.Contains(got, "system.run") {
					t.Errorf("%s as %v offers %v", version, claim, got)
				}
				_ = c.Close()
			}
		}
	}
	// Words that look like a platform that runs commands are none.
	for _, lookalike := range []string{
		"lіnux", "ⅼinux", "l\u0131nux", "\u200blinux", "wіndows", "mасos", "dаrwin", "lin\u00adux", "\u202elinux", "LІNUX",
	} {
		n := newDevice(t)
		c, err := a.dial(node(n, lookalike, "", "v3"))
		if err != nil {
			t.Errorf("%q: %v", lookalike, err)
			continue
		}
		// What the eye cannot tell from a real one is one, or is none of those: never a wider one than it
		// reads as.
		if got := offered(n.ID); slices.Contains(got, "system.run") && lookalike != "ⅼinux" {
			t.Errorf("%q offers %v", lookalike, got)
		}
		_ = c.Close()
	}
}

// TestNothingBeforeConnect (CVE-2026-25593): an unauthenticated client of this machine reaches no
// operation, config.apply least of all; one without scopes neither.
func TestNothingBeforeConnect(t *testing.T) {
	a := attack(t, nil)
	for _, method := range []string{"config.apply", "config.set", "config.patch", "exec.approvals.set", "update.run", "node.invoke"} {
		ws, _, _ := a.socket("/", nil)
		got, end := a.say(ws, fmt.Appendf(nil, `{"type":"req","id":"1","method":%q,"params":{"raw":"{}"}}`, method))
		if got == nil || got.OK || !strings.Contains(got.Error.Message, "first request must be connect") {
			t.Errorf("%s: %+v, %d", method, got, end)
		}
		device, _ := a.paired()
		c := a.connect(a.options(device))
		if _, err := c.Call(a.ctx(), method, map[string]any{"raw": "{}"}); !beyond(err) {
			t.Errorf("%s without scopes: %v", method, err)
		}
	}
}

// TestPresenceIsNotProof (CVE-2026-28472): a secret that is there is not a secret that is right, by any
// door and in any mode.
func TestPresenceIsNotProof(t *testing.T) {
	for _, auth := range []map[string]any{
		{"mode": "token", "token": "right-token-8d2b"}, {"mode": "password", "password": "right-password-8d2b"}, {"mode": "none"},
	} {
		a := attack(t, map[string]any{"gateway": map[string]any{"auth": auth}})
		for _, wrong := range []string{"x", "undefined", "null", "true", "right-token-8d2", "right-token-8d2b0", "RIGHT-TOKEN-8D2B", "${HANZOD_TOKEN}"} {
			for _, o := range []dial.Auth{{Token: wrong}, {Password: wrong}, {DeviceToken: wrong}, {Token: wrong, Password: wrong, DeviceToken: wrong}} {
				for _, role := range []identity.Role{identity.RoleOperator, identity.RoleNode} {
					opt := a.options(nil, identity.ScopeAdmin)
					opt.Auth, opt.Role = o, role
					if _, err := a.dial(opt); err == nil {
						t.Errorf("%v: %+v was let in as %s", auth["mode"], o, role)
					}
				}
			}
			if code, _ := a.ask(http.MethodGet, "/v1/nodes", bearerHeader(wrong), ""); code != http.StatusUnauthorized && code != http.StatusTooManyRequests {
				t.Errorf("%v: REST with %q: %d", auth["mode"], wrong, code)
			}
			if _, err := a.remote(wrong).Nodes.ListNodes(a.ctx(), &nodesv1.ListNodesRequest{}); err == nil {
				t.Errorf("%v: gRPC with %q", auth["mode"], wrong)
			}
		}
	}
}

// TestRotationCounts (GHSA-m8wm-r5vq-qjpg): a credential is looked at each time. One that was rotated,
// revoked or removed is over at once, by every door, and stays so through a restart of nothing.
func TestRotationCounts(t *testing.T) {
	a := attack(t, nil)
	local := a.local()
	for what, end := range map[string]func(id string) error{
		"rotated": func(id string) error {
			_, err := local.Devices.RotateToken(a.ctx(), &devicesv1.RotateTokenRequest{DeviceId: id, Role: "operator"})
			return err
		},
		"revoked": func(id string) error {
			_, err := local.Devices.RevokeToken(a.ctx(), &devicesv1.RevokeTokenRequest{DeviceId: id, Role: "operator"})
			return err
		},
		"removed": func(id string) error {
			_, err := local.Devices.RemoveDevice(a.ctx(), &devicesv1.RemoveDeviceRequest{DeviceId: id})
			return err
		},
	} {
		device, token := a.paired(identity.ScopeRead)
		powers := a.doors(device, token, identity.ScopeRead)
		for _, p := range powers {
			if err := p.list(); err != nil {
				t.Fatal(err)
			}
		}
		if err := end(device.ID); err != nil {
			t.Fatal(err)
		}
		for _, p := range powers[1:] { // the connection of the legacy door has its second
			if err := p.list(); err == nil {
				t.Errorf("%s: the token still counts at %s", what, p.door)
			}
		}
		deadline := time.Now().Add(time.Second)
		for powers[0].list() == nil {
			if time.Now().After(deadline) {
				t.Fatalf("%s: its connection is still served", what)
			}
			time.Sleep(5 * time.Millisecond)
		}
		o := a.options(device, identity.ScopeRead)
		o.Auth = dial.Auth{DeviceToken: token}
		if _, err := a.dial(o); err == nil {
			t.Errorf("%s: the token still connects", what)
		}
	}
}

// TestRevokedCallIsNotMadeLater (promise 8): what a device asked for and what waits for a node is not
// done when the device was revoked meanwhile.
func TestRevokedCallIsNotMadeLater(t *testing.T) {
	a := attack(t, nil)
	device, token := a.paired(identity.ScopeWrite)
	node := newDevice(t)
	ended := make(chan string, 2)
	body := `{"command":"system.which","params":{"bins":["sh"]},"waitForNode":"60s","idempotencyKey":"%s"}`
	go func() {
		code, text := a.ask(http.MethodPost, "/v1/nodes/"+node.ID+":invoke", bearerHeader(token), fmt.Sprintf(body, "r"))
		ended <- fmt.Sprint("REST ", code, " ", text)
	}()
	c := a.remote(token)
	go func() {
		wait := time.Minute
		_, err := c.Nodes.Invoke(a.ctx(), &nodesv1.InvokeRequest{NodeId: node.ID, Command: "system.which", WaitForNode: durationOf(wait), IdempotencyKey: "g"})
		ended <- fmt.Sprint("gRPC ", err)
	}()
	select {
	case got := <-ended:
		t.Fatalf("a call does not wait for the node: %s", got)
	case <-time.After(500 * time.Millisecond):
	}
	if _, err := a.local().Devices.RevokeToken(a.ctx(), &devicesv1.RevokeTokenRequest{DeviceId: device.ID, Role: "operator"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		select {
		case got := <-ended:
			t.Log(got)
		case <-time.After(time.Second):
			t.Fatal("a call of a revoked device still waits")
		}
	}
	o := a.options(node)
	o.Client = dial.Client{ID: "node-host", Mode: "node", Platform: "linux"}
	o.Role, o.Commands = identity.RoleNode, []string{"system.which"}
	asked := make(chan struct{}, 2)
	o.OnEvent = func(_ *dial.Conn, e dial.Event) {
		if e.Name == "node.invoke.request" {
			asked <- struct{}{}
		}
	}
	c2 := a.connect(o)
	if _, err := c2.Call(a.ctx(), "health", map[string]any{}); err != nil { // what was queued has come by then
		t.Fatal(err)
	}
	select {
	case <-asked:
		t.Error("the node was asked for a revoked device")
	default:
	}
}

// TestToolsOverHTTP (GHSA-943q-mwmv-hhvh): the tools of the gateway are for admins, and no other
// spelling of a path slips past the check.
func TestToolsOverHTTP(t *testing.T) {
	a := attack(t, map[string]any{"hooks": map[string]any{"enabled": true, "token": "hook-token-4f1e9b"}})
	_, writer := a.paired(identity.ScopeWrite, identity.ScopeRead, identity.ScopeApprovals, identity.ScopePairing)
	body := `{"tool":"exec","args":{"command":"id"}}`
	json := func(h http.Header) http.Header {
		h.Set("Content-Type", "application/json")
		return h
	}
	for name, c := range map[string]struct {
		header http.Header
		code   int
	}{
		"nobody":        {http.Header{}, http.StatusUnauthorized},
		"a wrong token": {bearerHeader("wrong"), http.StatusUnauthorized},
		"a hook":        {bearerHeader("hook-token-4f1e9b"), http.StatusUnauthorized},
		"a writer":      {bearerHeader(writer), http.StatusNotFound}, // as for a tool that there is not
		"two headers":   {http.Header{"Authorization": {"Bearer " + a.Token, "Bearer x"}}, http.StatusUnauthorized},
		"basic":         {http.Header{"Authorization": {"Basic " + a.Token}}, http.StatusUnauthorized},
		"a cookie":      {http.Header{"Cookie": {"token=" + a.Token}}, http.StatusUnauthorized},
	} {
		if code, text := a.ask(http.MethodPost, "/tools/invoke", json(c.header), body); code != c.code {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
	for _, path := range []string{
		"/tools%2finvoke", "/tools/%69nvoke", "//tools/invoke", "/tools/invoke/", "/./tools/invoke", "/x/../tools/invoke", "/tools/invoke;x", "/TOOLS/INVOKE",
		"/hooks/../tools/invoke", "/hooks%2f..%2ftools/invoke", "/v1/../tools/invoke", "/__openclaw__/cap/x/tools/invoke", "/%2e/tools/invoke", "/tools\\invoke",
		"/v1/nodes%2f", "/v1/./nodes", "/v1//nodes", "/%76%31/nodes", "/V1/nodes", "/__bot__/cap/x/v1/nodes", "/v1/nodes;a=b", "/v1%2fnodes", "/metrics/", "/%6detrics",
		"/api/channels/../../v1/nodes", "/api%2fchannels/x", "/api/channels%2fx", "/__openclaw__/canvas/..%2f..%2fconfig.json", "/__openclaw__/canvas/%2e%2e/config.json",
		"/__openclaw__/canvas/..\\config.json", "/__openclaw__/canvas//etc/passwd", "/__openclaw__/a2ui/..%5c..%5cconfig.json", "/__openclaw__/canvas/%00",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			// As somebody from elsewhere: for this machine the canvas is open.
			code, text := a.ask(method, path, json(http.Header{"X-Forwarded-For": {"203.0.113.9"}}), body)
			if code < 300 || strings.Contains(text, a.Token) || strings.Contains(text, "gateway") && strings.Contains(text, "auth\"") {
				t.Errorf("%s %s: %d %.200s", method, path, code, text)
			}
		}
	}
	for _, path := range []string{"/__openclaw__/canvas/..%2f..%2fconfig.json", "/__openclaw__/canvas/%2e%2e/hanzod.db", "/__openclaw__/canvas/..%2fconfig.json", "/__openclaw__/canvas/../config.json"} {
		if code, text := a.ask(http.MethodGet, path, nil, ""); code == http.StatusOK {
			t.Errorf("from this machine %s: %.200s", path, text)
		}
	}
}

// TestLoopbackBruteForce: a web page on this machine is locked out after ten wrong guesses, whatever it
// names itself and through whatever door, and with that no program on this machine; a program here guesses
// a few times a second at the most; and a device with its token is let in throughout.
func TestLoopbackBruteForce(t *testing.T) {
	a := attack(t, nil)
	device, token := a.paired(identity.ScopeRead)
	page := func(origin, guess string) error {
		o := a.options(nil, identity.ScopeAdmin)
		o.Header = http.Header{"Origin": {origin}}
		o.Auth = dial.Auth{Token: guess}
		_, err := a.dial(o)
		return err
	}
	limited := 0
	for i := range 20 {
		err := page([]string{"http://localhost:18789", "http://127.0.0.1:3000"}[i%2], "guess-"+random(t))
		refused, ok := errors.AsType[*dial.RefusedError](err)
		if !ok {
			t.Fatalf("%v", err)
		}
		if refused.Detail("code") == "AUTH_RATE_LIMITED" {
			limited++
		} else if i >= 10 {
			t.Errorf("guess %d of a page is judged: %v", i+1, err)
		}
	}
	if limited < 10 {
		t.Errorf("%d of 20 guesses were refused unseen", limited)
	}
	if err := page("http://localhost:18789", a.Token); err == nil {
		t.Error("the right one is let in while the page is locked out: a guess at the right time would be too")
	}
	if _, err := a.dial(a.options(nil, identity.ScopeRead)); err != nil {
		t.Errorf("a program with the right token pays for the page: %v", err)
	}
	// A program.
	judged, tries, began := 0, 0, time.Now()
	for time.Since(began) < 3*time.Second {
		tries++
		code, _ := a.ask(http.MethodGet, "/v1/nodes", bearerHeader("guess-"+random(t)), "")
		if code == http.StatusUnauthorized {
			judged++
		} else if code != http.StatusTooManyRequests {
			t.Fatalf("a guess is answered %d", code)
		}
	}
	if most := 100 + 10*int(time.Since(began).Seconds()+1) + 5; judged > most {
		t.Errorf("%d of %d guesses were judged in %v, at most %d may be", judged, tries, time.Since(began), most)
	}
	for _, p := range a.doors(device, token, identity.ScopeRead) {
		if err := p.list(); err != nil {
			t.Errorf("a device with its token pays for the guesser at %s: %v", p.door, err)
		}
	}
}

func random(t *testing.T) string {
	t.Helper()
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b[:])
}

// TestReplayedSignatures: a signature is for one connection. It does not count on another one, of
// another door or of the same, nor for a second connect on its own.
func TestReplayedSignatures(t *testing.T) {
	a := attack(t, nil)
	device, _ := a.paired(identity.ScopeRead)
	connect := func(nonce string, scopes []identity.Scope, signed []identity.Scope, id string) []byte {
		now := time.Now().UnixMilli()
		text := identity.Signed{
			DeviceID: device.ID, ClientID: "test", ClientMode: "test", Role: identity.RoleOperator, Scopes: signed, SignedAt: now,
			Token: a.Token, Nonce: nonce, Platform: "linux",
		}.Payload("v3")
		return mustJSON(t, map[string]any{"type": "req", "id": id, "method": "connect", "params": map[string]any{
			"minProtocol": 3, "maxProtocol": 3, "role": "operator", "scopes": scopes,
			"client": map[string]any{"id": "test", "version": "1", "platform": "linux", "mode": "test"}, "auth": map[string]any{"token": a.Token},
			"device": map[string]any{"id": device.ID, "publicKey": device.PublicKey(), "signature": device.Sign(text), "signedAt": now, "nonce": nonce},
		}})
	}
	read := []identity.Scope{identity.ScopeRead}
	one, nonce, _ := a.socket("/", nil)
	message := connect(nonce, read, read, "1")
	if got, _ := a.say(one, message); got == nil || !got.OK {
		t.Fatalf("%+v", got)
	}
	if got, _ := a.say(one, message); got == nil || got.OK {
		t.Errorf("a second time on its connection: %+v", got)
	}
	two, nonce2, _ := a.socket("/", nil)
	if got, _ := a.say(two, message); got == nil || got.OK || got.Error.Details["code"] != "DEVICE_AUTH_NONCE_MISMATCH" {
		t.Errorf("on another connection: %+v", got)
	}
	three, _, _ := a.socket("/", nil)
	if got, _ := a.say(three, connect(nonce2, read, read, "1")); got == nil || got.OK {
		t.Errorf("with the nonce of another connection: %+v", got)
	}
	four, nonce4, _ := a.socket("/", nil)
	if got, _ := a.say(four, connect(nonce4, []identity.Scope{identity.ScopeAdmin}, read, "1")); got == nil || got.OK {
		t.Errorf("with other scopes: %+v", got)
	}
	// The link of a node has a nonce of its own.
	five, nonce5, _ := a.socket("/", nil)
	defer func() { _ = five.CloseNow() }()
	n := a.client(client.Options{Socket: a.Socket(), AsNode: true})
	_, err := n.AttachNode(a.ctx(), client.NodeOptions{
		Registration: &nodesv1.NodeRegistration{ClientId: "node-host", ClientMode: "node", Version: "1", Platform: "linux"},
		Prove: func(string) (*nodesv1.DeviceProof, error) {
			now := time.Now()
			text := identity.Signed{
				DeviceID: device.ID, ClientID: "node-host", ClientMode: "node", Role: identity.RoleNode, SignedAt: now.UnixMilli(), Nonce: nonce5, Platform: "linux",
			}.Payload("v3")
			return &nodesv1.DeviceProof{DeviceId: device.ID, PublicKey: device.PublicKey(), Signature: device.Sign(text), SignedAt: timeOf(now), Nonce: nonce5}, nil
		},
	})
	if err == nil {
		t.Error("the nonce of a legacy connection counts for the link of a node")
	}
}

// TestIdsOfOthers: no client takes the place of a device by naming it, at either door of nodes, and
// answers for the calls of none but itself.
func TestIdsOfOthers(t *testing.T) {
	a := attack(t, nil)
	victim := newDevice(t)
	o := a.options(victim)
	o.Client = dial.Client{ID: "node-host", Mode: "node", Platform: "linux"}
	o.Role, o.Commands = identity.RoleNode, []string{"system.which"}
	invoked := make(chan string, 1)
	o.OnEvent = func(_ *dial.Conn, e dial.Event) {
		var p struct{ ID string }
		if e.Name == "node.invoke.request" && json.Unmarshal(e.Payload, &p) == nil {
			invoked <- p.ID
		}
	}
	real := a.connect(o)
	// By name.
	for _, c := range []dial.Client{
		{ID: "node-host", Mode: "node", Platform: "linux", InstanceID: victim.ID},
		{ID: "node-host", Mode: "node", Platform: "linux", InstanceID: " " + strings.ToUpper(victim.ID)},
	} {
		o := a.options(nil)
		o.Client, o.Role, o.Commands = c, identity.RoleNode, []string{"system.which"}
		if got, err := a.dial(o); err == nil {
			t.Errorf("legacy: somebody is %s by saying so: %s", victim.ID, got.Hello().Raw)
		}
	}
	for _, n := range []*client.Client{
		a.client(client.Options{Socket: a.Socket(), AsNode: true}),
		a.client(client.Options{Host: a.Host(), TLSFingerprint: a.TLSFingerprint(), Token: a.Token, AsNode: true}),
	} {
		for _, r := range []*nodesv1.NodeRegistration{
			{ClientId: "node-host", ClientMode: "node", Version: "1", Platform: "linux", InstanceId: victim.ID},
			{ClientId: victim.ID, ClientMode: "node", Version: "1", Platform: "linux"},
			{ClientId: strings.ToUpper(victim.ID), ClientMode: "node", Version: "1", Platform: "linux", InstanceId: " "},
		} {
			r.Commands = []string{"system.which"}
			if l, err := n.AttachNode(a.ctx(), client.NodeOptions{Registration: r}); err == nil {
				t.Errorf("the link: somebody is %s by saying so", l.Welcome().GetNodeId())
				_ = l.Close()
			}
		}
	}
	// Its calls are its own to answer.
	answered := make(chan error, 1)
	go func() {
		_, err := a.local().Nodes.Invoke(a.ctx(), &nodesv1.InvokeRequest{NodeId: victim.ID, Command: "system.which"})
		answered <- err
	}()
	var id string
	select {
	case id = <-invoked:
	case <-time.After(attackTime):
		t.Fatal("the call did not reach the node")
	}
	thief := newDevice(t)
	o = a.options(thief)
	o.Client = dial.Client{ID: "node-host", Mode: "node", Platform: "linux"}
	o.Role, o.Commands = identity.RoleNode, []string{"system.which"}
	other := a.connect(o)
	for _, as := range []string{victim.ID, thief.ID} {
		for _, method := range []string{"node.invoke.result", "node.event"} {
			params := map[string]any{"id": id, "nodeId": as, "ok": true, "payloadJSON": `"stolen"`}
			if method == "node.event" {
				params = map[string]any{"event": "x", "nodeId": as}
			}
			_, _ = other.Call(a.ctx(), method, params) // refused, or ignored
		}
	}
	select {
	case err := <-answered:
		t.Fatalf("another node answered: %v", err)
	default:
	}
	if _, err := real.Call(a.ctx(), "node.invoke.result", map[string]any{"id": id, "nodeId": victim.ID, "ok": true, "payloadJSON": `"mine"`}); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Errorf("its own answer: %v", err)
	}
	// A node is no operator, by any door.
	for _, method := range []string{"node.list", "node.invoke", "node.pair.request", "node.pair.approve", "device.pair.list", "config.get", "connect", "nope"} {
		_, err := other.Call(a.ctx(), method, map[string]any{})
		if err == nil || !strings.Contains(err.Error(), "unauthorized role") {
			t.Errorf("%s by a node: %v", method, err)
		}
		_, _ = other.Call(a.ctx(), "health", map[string]any{})
	}
	token := a.connect(o).Hello().DeviceToken
	if token != "" {
		if code, _ := a.ask(http.MethodGet, "/v1/nodes", bearerHeader(token), ""); code != http.StatusForbidden {
			t.Errorf("REST with the token of a node: %d", code)
		}
	}
}

// TestKeysOfOthers: an idempotency key is its caller's. Another caller with the same key gets an answer of
// its own, not the one that was kept for the first.
func TestKeysOfOthers(t *testing.T) {
	a := attack(t, nil)
	node := newDevice(t)
	o := a.options(node)
	o.Client = dial.Client{ID: "node-host", Mode: "node", Platform: "linux"}
	o.Role, o.Commands = identity.RoleNode, []string{"system.which"}
	n := 0
	o.OnEvent = func(c *dial.Conn, e dial.Event) {
		var p struct{ ID string }
		if e.Name == "node.invoke.request" && json.Unmarshal(e.Payload, &p) == nil {
			n++
			_ = c.Send("node.invoke.result", map[string]any{"id": p.ID, "nodeId": node.ID, "ok": true, "payloadJSON": fmt.Sprint(n)})
		}
	}
	a.connect(o)
	got := map[string]string{}
	for _, who := range []string{"one", "two"} {
		device, token := a.paired(identity.ScopeWrite)
		opt := a.options(device, identity.ScopeWrite)
		opt.Auth = dial.Auth{DeviceToken: token}
		c := a.connect(opt)
		for range 2 {
			out, err := c.Call(a.ctx(), "node.invoke", map[string]any{"nodeId": node.ID, "command": "system.which", "idempotencyKey": "same"})
			var r struct{ Payload json.RawMessage }
			if err != nil || json.Unmarshal(out, &r) != nil {
				t.Fatalf("%s: %s %v", who, out, err)
			}
			if got[who] != "" && got[who] != string(r.Payload) {
				t.Errorf("%s: the repetition ran again", who)
			}
			got[who] = string(r.Payload)
		}
	}
	if got["one"] == got["two"] {
		t.Errorf("the second caller was given the answer of the first: %v", got)
	}
}

// TestWrongCertificate: a client that pins a certificate sends its token to no other, and the port for
// other machines speaks TLS 1.3 or not at all.
func TestWrongCertificate(t *testing.T) {
	a := attack(t, nil)
	pin := strings.Repeat("ab", 32)
	c := a.client(client.Options{Host: a.Host(), TLSFingerprint: pin, Token: a.Token})
	_, err := c.Nodes.ListNodes(a.ctx(), &nodesv1.ListNodesRequest{})
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != client.CodeWrongPin {
		t.Errorf("with another pin: %v", err)
	}
	c = a.client(client.Options{Host: a.Host(), Token: a.Token})
	if _, err := c.Nodes.ListNodes(a.ctx(), &nodesv1.ListNodesRequest{}); err == nil {
		t.Error("a certificate that nobody vouches for is taken")
	}
	oldTLS(t, a.GRPCAddress())
	if code := plainGRPC(t, a, a.GRPCAddress()); code == codes.OK {
		t.Error("the port answers without TLS")
	}
}
