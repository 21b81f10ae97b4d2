package door

import (
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/runtime"
)

// A device that was paired with the original connects with its token to the daemon that was started on what a migration
// brought; one whose token was revoked there does not.
func TestMigratedDeviceConnects(t *testing.T) {
	home := t.TempDir()
	state, err := os.MkdirTemp("", "hz") // paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(state) })
	legacy := filepath.Join(home, ".openclaw")
	paired := object{}
	for name, revoked := range map[string]bool{"laptop": false, "lost": true} {
		token := object{"token": "token-of-" + name, "role": "operator", "scopes": []string{"operator.read"}, "createdAtMs": 1700000000000}
		if revoked {
			token["revokedAtMs"] = 1700000001000
		}
		paired[idOf(name)] = object{
			"deviceId": idOf(name), "publicKey": identity.EncodeKey(keyOf(name).Public().(ed25519.PublicKey)), "platform": "linux", "clientId": "test",
			"clientMode": "test", "role": "operator", "roles": []string{"operator"}, "scopes": []string{"operator.read"},
			"approvedScopes": []string{"operator.read"}, "tokens": object{"operator": token}, "createdAtMs": 1700000000000, "approvedAtMs": 1700000000000,
		}
	}
	text, err := json.Marshal(paired)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"devices/paired.json": string(text), "openclaw.json": `{ gateway: { mode: "local", auth: { mode: "token", token: "of-the-gateway" } } }`,
		"settings/voicewake.json": `{"triggers":["moved"],"updatedAtMs":1700000000000}`,
	} {
		file := filepath.Join(legacy, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, err = runtime.Migrate(t.Context(), runtime.MigrateIn{Legacy: legacy, StateDir: state, Config: filepath.Join(state, "config.json"), Home: home})
	if err != nil {
		t.Fatal(err)
	}
	d := hanzodtest.Start(t, hanzodtest.Options{StateDir: state, KeepConfig: true})
	k := kind{name: "laptop", role: identity.RoleOperator, scopes: []identity.Scope{"operator.read"}, token: "token-of-laptop"}
	c := connectDevice(t, d.WS(), k)
	if got, _ := json.Marshal(c.call("voicewake.get", object{})); !strings.Contains(string(got), "moved") {
		t.Errorf("%s", got)
	}
	k.name, k.token = "lost", "token-of-lost"
	if _, hello := helloDevice(t, d.WS(), k); hello["ok"] == true {
		t.Errorf("a device whose token was revoked came in: %v", hello)
	}
	if again, err := runtime.Migrate(t.Context(), runtime.MigrateIn{Legacy: legacy, StateDir: state, Home: home}); err == nil || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("a state directory in use was migrated: %v %v", again, err)
	}
}

// A daemon does not start on half an import, and says how to go on.
func TestUnfinishedMigration(t *testing.T) {
	state := t.TempDir()
	if err := os.WriteFile(filepath.Join(state, "migration.json"), []byte(`{"state":"importing","source":"/home/a/.openclaw","parts":{}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := runtime.FinishedMigration(state); err == nil || !strings.Contains(err.Error(), "hanzod migrate /home/a/.openclaw") || !strings.Contains(err.Error(), "--abandon") {
		t.Errorf("%v", err)
	}
	if err := runtime.AbandonMigration(state); err != nil {
		t.Fatal(err)
	}
	if err := runtime.FinishedMigration(state); err != nil {
		t.Error(err)
	}
}
