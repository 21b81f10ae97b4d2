package compat

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/identity"
)

// A proof is good for the connection, the device and the words that it was made for, and for nothing
// else: not a second time, not on another connection, not for another device, role, scope or platform.
func TestForeignProofs(t *testing.T) {
	type params = map[string]any
	base := hello{device: device("mine"), scopes: []string{"operator.read"}}
	public := func(name string) ed25519.PublicKey { return device(name).Public().(ed25519.PublicKey) }
	block := func(p params) params { return p["device"].(params) }
	signed := func(h hello, nonce string) params {
		var p params
		if err := json.Unmarshal([]byte(h.params(nonce)), &p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for name, c := range map[string]struct {
		made func(nonce, earlier string) params
		want string
	}{
		"as it should be":          {func(n, _ string) params { return signed(base, n) }, ""},
		"of an earlier connection": {func(_, earlier string) params { return signed(base, earlier) }, "device nonce mismatch"},
		"of an earlier connection, with this one's nonce": {func(n, earlier string) params {
			p := signed(base, earlier)
			block(p)["nonce"] = n
			return p
		}, "device signature invalid"},
		"under the id of another device": {func(n, _ string) params {
			p := signed(base, n)
			block(p)["id"] = identity.DeviceID(public("other"))
			return p
		}, "device identity mismatch"},
		"under the id and key of another device": {func(n, _ string) params {
			p := signed(base, n)
			block(p)["id"], block(p)["publicKey"] = identity.DeviceID(public("other")), identity.EncodeKey(public("other"))
			return p
		}, "device signature invalid"},
		"by another key under its own id": {func(n, _ string) params {
			p := signed(hello{device: device("other"), scopes: base.scopes}, n)
			block(p)["id"] = identity.DeviceID(public("mine"))
			return p
		}, "device identity mismatch"},
		"for fewer scopes": {func(n, _ string) params {
			p := signed(base, n)
			p["scopes"] = []string{"operator.read", "operator.admin"}
			return p
		}, "device signature invalid"},
		"for two scopes, as one": {func(n, _ string) params {
			p := signed(hello{device: base.device, scopes: []string{"operator.read", "x"}}, n)
			p["scopes"] = []string{"operator.read,x"}
			return p
		}, "device signature invalid"},
		"for one scope with a comma": {func(n, _ string) params {
			return signed(hello{device: base.device, scopes: []string{"operator.read,operator.admin"}}, n)
		}, "device signature invalid"},
		"for another role": {func(n, _ string) params {
			p := signed(base, n)
			p["role"] = "node"
			return p
		}, "device signature invalid"},
		"for another platform": {func(n, _ string) params {
			p := signed(base, n)
			p["client"].(params)["platform"] = "windows"
			return p
		}, "device signature invalid"},
		"for a platform that looks the same": {func(n, _ string) params {
			p := signed(base, n)
			p["client"].(params)["platform"] = "lіnux"
			return p
		}, "device signature invalid"},
		"for another token": {func(n, _ string) params {
			p := signed(hello{device: base.device, scopes: base.scopes, token: "another"}, n)
			p["auth"] = params{"token": secretText}
			return p
		}, "device signature invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				earlier := w.open()
				cl := w.open()
				text, err := json.Marshal(c.made(cl.nonce, earlier.nonce))
				if err != nil {
					t.Fatal(err)
				}
				cl.write(`{"type":"req","id":"1","method":"connect","params":` + string(text) + `}`)
				if c.want == "" {
					if f := cl.read(); !f.OK {
						t.Errorf("%+v", f.Error)
					}
					return
				}
				code, reason, last := cl.end()
				if code != websocket.StatusPolicyViolation || reason != c.want || last.Error.Message != c.want {
					t.Errorf("closed with %d %q after %+v", code, reason, last.Error)
				}
				if devices, err := w.store.Devices(); err != nil || len(devices) != 0 {
					t.Errorf("%d devices, %v", len(devices), err)
				}
			})
		})
	}
}

// The same first message twice on one connection lets nobody in twice.
func TestProofTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.open()
		frame := `{"type":"req","id":"1","method":"connect","params":` + hello{device: device("mine"), scopes: []string{"operator.admin"}}.params(c.nonce) + `}`
		c.write(frame)
		if f := c.read(); !f.OK {
			t.Fatalf("%+v", f.Error)
		}
		c.write(frame)
		if f, _ := c.res("1"); f.OK || f.Error.Message != "connect is only valid as the first request" {
			t.Errorf("%+v", f)
		}
		time.Sleep(time.Second)
		if n := len(w.conns()); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
}

// A client that reads nothing is gone within a second of its revocation, and what it still sends is not
// served.
func TestExpelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c, _ := w.connect(hello{device: device("mine"), scopes: []string{"operator.admin"}})
		other, _ := w.connect(hello{device: device("other"), scopes: []string{"operator.admin"}})
		id := identity.DeviceID(device("mine").Public().(ed25519.PublicKey))
		began := time.Now()
		c.nc.stuck.Store(true) // it reads nothing more
		if f := other.call("device.token.revoke", `{"deviceId":"`+id+`","role":"operator"}`); !f.OK {
			t.Fatalf("%+v", f.Error)
		}
		late := `{"type":"req","id":"late","method":"device.pair.remove","params":{"deviceId":"` + identity.DeviceID(device("other").Public().(ed25519.PublicKey)) + `"}}`
		_ = c.ws.Write(context.Background(), websocket.MessageText, []byte(late)) // the daemon may have hung up
		synctest.Wait()
		for len(w.conns()) > 1 {
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("it was gone after %v", took)
		}
		if f := other.call("health", `{}`); !f.OK {
			t.Errorf("another device: %+v", f.Error)
		}
		if devices, err := w.store.Devices(); err != nil || len(devices) != 2 {
			t.Errorf("%d devices, %v", len(devices), err)
		}
	})
}
