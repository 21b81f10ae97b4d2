package dial

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/identity"
)

func TestIdentityFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "identity", "device.json")
	ids := make([]*Identity, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			var err error
			if ids[i], err = LoadOrCreateIdentity(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id == nil || id.ID != ids[0].ID || id.PublicKey() != ids[0].PublicKey() {
			t.Fatal("several identities were made")
		}
	}
	b, _ := os.ReadFile(path)
	var f map[string]any
	json.Unmarshal(b, &f)
	if f["version"] != 1.0 || f["deviceId"] != ids[0].ID || !strings.HasPrefix(f["publicKeyPem"].(string), "-----BEGIN PUBLIC KEY-----\n") ||
		!strings.HasPrefix(f["privateKeyPem"].(string), "-----BEGIN PRIVATE KEY-----\n") || f["createdAtMs"].(float64) < 1e12 {
		t.Errorf("%v", f)
	}
	if key, ok := identity.ParseKey(f["publicKeyPem"].(string)); !ok || identity.DeviceID(key) != ids[0].ID {
		t.Error("the public key is another one")
	}
	if fi, _ := os.Stat(path); runtime.GOOS != "windows" && fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", fi.Mode())
	}
	if left, _ := filepath.Glob(filepath.Dir(path) + "/.*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	for _, bad := range []string{"", "{", `{"version":2}`, `{"version":1,"privateKeyPem":"x"}`, strings.Replace(string(b), ids[0].ID[:8], "00000000", 1)} {
		os.WriteFile(path, []byte(bad), 0o600)
		if _, err := LoadOrCreateIdentity(path); err == nil || strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%.40q: %v", bad, err)
		}
		if now, _ := os.ReadFile(path); string(now) != bad {
			t.Errorf("%.40q was overwritten", bad)
		}
	}
}

func TestTokensFile(t *testing.T) {
	k := Tokens{Path: filepath.Join(t.TempDir(), "device-auth.json"), DeviceID: "D"}
	if s, err := k.Get("node"); s != "" || err != nil {
		t.Errorf("%q, %v", s, err)
	}
	if err := k.Drop("node"); err != nil {
		t.Error(err)
	}
	k.Put("operator", "O", []identity.Scope{"operator.read"}, time.UnixMilli(1))
	if err := k.Put("node", "N", nil, time.UnixMilli(2)); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(k.Path)
	var v wire.Value
	v, err := wire.Parse(b)
	if want := `{"version":1,"deviceId":"D","tokens":{"node":{"token":"N","role":"node","scopes":[],"updatedAtMs":2},"operator":{"token":"O","role":"operator","scopes":["operator.read"],"updatedAtMs":1}}}`; err != nil || string(wire.Stringify(v)) != want {
		t.Errorf("%s", b)
	}
	k.Drop("node")
	if s, _ := k.Get("node"); s != "" {
		t.Error("not dropped")
	}
	if s, _ := k.Get("operator"); s != "O" {
		t.Error("the other role's token is gone")
	}
	if s, _ := (Tokens{Path: k.Path, DeviceID: "E"}).Get("operator"); s != "" {
		t.Error("another device's token")
	}
	os.WriteFile(k.Path, []byte("{"), 0o600)
	if s, err := k.Get("operator"); s != "" || err != nil {
		t.Errorf("%q, %v", s, err)
	}
}

func TestNodeConfigFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "node.json")
	c, err := LoadOrCreateNodeConfig(path)
	if err != nil || len(c.NodeID) != 36 {
		t.Fatalf("%+v, %v", c, err)
	}
	again, err := LoadOrCreateNodeConfig(path)
	if err != nil || again.NodeID != c.NodeID {
		t.Errorf("%+v, %v", again, err)
	}
	os.WriteFile(path, []byte(`{"version":1,"nodeId":"N","token":"T","theirs":{"a":[1]},"displayName":"old"}`), 0o600)
	c, err = LoadOrCreateNodeConfig(path)
	if err != nil || c.NodeID != "N" || c.Token != "T" || c.DisplayName != "old" || c.Gateway != nil {
		t.Fatalf("%+v, %v", c, err)
	}
	c.DisplayName = ""
	c.Gateway = &GatewayAddr{Host: "h", Port: 1, TLS: true}
	if err := c.Save(path); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(path)
	var got map[string]any
	json.Unmarshal(b, &got)
	want := map[string]any{"version": 1.0, "nodeId": "N", "token": "T", "theirs": map[string]any{"a": []any{1.0}}, "gateway": map[string]any{"host": "h", "port": 1.0, "tls": true}}
	if string(mustJSON(got)) != string(mustJSON(want)) {
		t.Errorf("%s", b)
	}
	for _, bad := range []string{"{", `{"nodeId":5}`, `{"gateway":"x"}`} {
		os.WriteFile(path, []byte(bad), 0o600)
		if _, err := LoadOrCreateNodeConfig(path); err == nil {
			t.Errorf("%s was taken", bad)
		}
		if now, _ := os.ReadFile(path); string(now) != bad {
			t.Errorf("%s was overwritten", bad)
		}
	}
}

func FuzzHello(f *testing.F) {
	f.Add([]byte(hello))
	f.Add([]byte(`{"type":"hello-ok","protocol":3,"policy":{"tickIntervalMs":1e300}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := wire.Parse(data)
		if err != nil {
			return
		}
		if h, err := parseHello(v); err == nil && (h.TickInterval < minTick || h.TickInterval > maxTick) {
			t.Errorf("tick %v", h.TickInterval)
		}
		if fr, err := wire.ParseFrame(data); err == nil && fr.Type == "event" {
			eventOf(fr)
		}
	})
}
