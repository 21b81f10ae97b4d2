package compat

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/identity/peer"
)

var companions = []string{
	"hanzo-bot-macos", "bot-macos", "hanzo-bot-ios", "bot-ios", "hanzo-bot-android", "bot-android", "moltbot-ios",
}

// try connects and returns the answer.
func (w *world) try(params func(nonce string) string, header ...string) wire.Frame {
	w.tb.Helper()
	c := w.open(header...)
	c.write(`{"type":"req","id":"hello","method":"connect","params":` + params(c.nonce) + `}`)
	return c.read()
}

// signed is the parameters of a connect with a signature of a version, over a client id that may be
// another than the one that is sent. A nonce of "-" is left out.
func signed(h hello, key ed25519.PrivateKey, version, signedID, nonce string, at time.Time) string {
	text := h.params("")
	pub := key.Public().(ed25519.PublicKey)
	f := identity.Signed{
		DeviceID: identity.DeviceID(pub), ClientID: signedID, ClientMode: h.mode, Role: identity.Role(h.role),
		SignedAt: at.UnixMilli(), Token: secretText, Nonce: nonce, Platform: "linux",
	}
	for _, s := range h.scopes {
		f.Scopes = append(f.Scopes, identity.Scope(s))
	}
	device := fmt.Sprintf(`"device":{"id":%q,"publicKey":%q,"signedAt":%d,"signature":%q`, f.DeviceID, identity.EncodeKey(pub), f.SignedAt,
		base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(f.Payload(version)))))
	if nonce != "-" {
		device += fmt.Sprintf(`,"nonce":%q`, nonce)
	}
	return text[:len(text)-1] + "," + device + "}}"
}

// The companion apps of this product are let in under their own names, which they sign (protocol.md §9).
func TestCompanionApps(t *testing.T) {
	for i, id := range companions {
		for _, role := range []string{"operator", "node"} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				h := hello{id: id, mode: "ui", role: role}
				if role == "node" {
					h.mode = "node"
				}
				for _, version := range []string{"v2", "v3"} {
					f := w.try(func(nonce string) string { return signed(h, device(version), version, id, nonce, time.Now()) })
					if !f.OK || text(f.Payload, "protocol") != "3" {
						t.Errorf("%s as %s with %s: %+v", id, role, version, f.Error)
					}
				}
				// What it counts as is not what it signs.
				f := w.try(func(nonce string) string {
					return signed(h, device("other"), "v3", []string{"openclaw-macos", "openclaw-ios", "openclaw-android"}[i%3], nonce, time.Now())
				})
				if f.OK || f.Error.Message != "device signature invalid" {
					t.Errorf("%s signed as another: %+v", id, f.Error)
				}
			})
		}
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, id := range []string{"hanzo-bot", "hanzo-bot-linux", "bot-linux", "Bot-iOS", "hanzo-bot-ios ", "hanzo", "moltbot-macos", "clawdbot-ios", ""} {
			const want = "invalid connect params: at /client/id: must be equal to constant; at /client/id: must match a schema in anyOf"
			f := w.try(func(string) string {
				return strings.Replace(hello{}.params(""), `"id":"test"`, fmt.Sprintf(`"id":%q`, id), 1)
			})
			if f.OK || f.Error.Message != want {
				t.Errorf("%q: %+v", id, f.Error)
			}
		}
	})
}

// A signature without the nonce lets a companion app on this machine in, once.
func TestUnchallengedSignature(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour)
		before := time.Now()
		time.Sleep(time.Second)
		w := newWorld(t)
		time.Sleep(time.Second)
		h := hello{id: "hanzo-bot-android", mode: "ui", role: "operator", scopes: []string{"operator.read"}}
		key := device("phone")
		at := time.Now()
		v1 := func(at time.Time) func(string) string {
			return func(string) string { return signed(h, key, "v1", h.id, "-", at) }
		}
		if f := w.try(v1(at)); !f.OK {
			t.Fatalf("%+v", f.Error)
		}
		for name, c := range map[string]struct {
			params func(string) string
			header []string
			want   string
		}{
			"again":              {v1(at), nil, "device nonce required"},
			"from elsewhere":     {v1(at.Add(1)), []string{"X-Forwarded-For", "192.0.2.7"}, "device nonce required"},
			"before the start":   {v1(before), nil, "device nonce required"},
			"too old":            {v1(at.Add(-time.Hour)), nil, "device signature expired"},
			"with a nonce":       {func(n string) string { return signed(h, key, "v1", h.id, n, at.Add(2)) }, nil, "device signature invalid"},
			"another version":    {func(string) string { return signed(h, key, "v2", h.id, "-", at.Add(3)) }, nil, "device signature invalid"},
			"another app's name": {func(string) string { return signed(h, key, "v1", "bot-android", "-", at.Add(4)) }, nil, "device signature invalid"},
			"an openclaw app": {func(string) string {
				o := h
				o.id = "openclaw-android"
				return signed(o, key, "v1", o.id, "-", at.Add(5))
			}, nil, "invalid connect params: at /device: must have required property 'nonce'"},
		} {
			if f := w.try(c.params, c.header...); f.OK || f.Error.Message != c.want {
				t.Errorf("%s: %+v, want %q", name, f.Error, c.want)
			}
		}
		if f := w.try(v1(time.Now().Add(time.Millisecond))); !f.OK {
			t.Errorf("the next one: %+v", f.Error)
		}
	})
}

// The Android app sends the address that it connects to as its Origin.
func TestOwnOrigin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const refused = "origin not allowed (open the Control UI from the gateway host or allow it in gateway.controlUi.allowedOrigins)"
		for _, c := range []struct{ id, origin, forwarded, want string }{
			{"hanzo-bot-android", "http://127.0.0.1:4711", "", ""},
			{"bot-android", "https://127.0.0.1:4711", "", ""},
			{"hanzo-bot-android", "http://evil.example:4711", "", refused},
			{"hanzo-bot-android", "http://192.0.2.1:4711", "", refused},
			{"hanzo-bot-android", "null", "", refused},
			{"hanzo-bot-ios", "http://192.0.2.1:4711", "", refused},
		} {
			f := w.try(hello{id: c.id, mode: "ui", scopes: []string{"operator.read"}}.params, "Origin", c.origin)
			if f.OK != (c.want == "") || f.Error.Message != c.want {
				t.Errorf("%s from %s: %v %+v", c.id, c.origin, f.OK, f.Error)
			}
		}
	})
	for _, c := range []struct {
		host, origin string
		browser, own bool
		want         bool
	}{
		{"192.0.2.1:18789", "http://192.0.2.1:18789", false, true, true},
		{"192.0.2.1:18789", "http://192.0.2.1:18789", false, false, false},
		{"[2001:db8::1]:18789", "http://[2001:db8::1]:18789", false, true, true},
		{"gateway.example:18789", "http://gateway.example:18789", false, true, false},
		{"192.0.2.1:18789", "http://192.0.2.1:8080", false, true, false},
		{"192.0.2.1:18789", "http://192.0.2.1:18789", true, false, false},
	} {
		u := pageAt(t, c.host, c.origin)
		if got := u.originAllowed(c.browser, c.own); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// pageAt is an upgrade request from another machine with these headers.
func pageAt(t *testing.T, host, origin string) upgrade {
	t.Helper()
	r := httptest.NewRequest("GET", "/", nil)
	r.Host, r.RemoteAddr = host, "192.0.2.9:4000"
	r.Header.Set("Origin", origin)
	return upgradeOf(&peer.Rules{}, r)
}
