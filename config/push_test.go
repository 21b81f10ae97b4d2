package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The credentials for pushes come from the environment, our own names first; a file that cannot be read
// does not keep the daemon from starting, and nothing prints the key.
func TestPushCredentials(t *testing.T) {
	key := "-----BEGIN PRIVATE KEY-----\n" + hidden + "\n-----END PRIVATE KEY-----\n"
	dir := t.TempDir()
	file, large := filepath.Join(dir, "key.p8"), filepath.Join(dir, "large")
	for name, text := range map[string]string{file: key, large: strings.Repeat("x", maxPushKeyBytes+1)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		env              []string
		team, keyID, key string
		fails            bool
	}{
		{},
		{env: []string{"OPENCLAW_APNS_TEAM_ID=T", "OPENCLAW_APNS_KEY_ID=K", "OPENCLAW_APNS_PRIVATE_KEY_P8=" + key}, team: "T", keyID: "K", key: key},
		{env: []string{"OPENCLAW_APNS_PRIVATE_KEY=" + key}, key: key},
		{env: []string{"HANZOD_APNS_TEAM_ID=A", "OPENCLAW_APNS_TEAM_ID=B", "HANZOD_APNS_KEY_ID=C", "OPENCLAW_APNS_KEY_ID=D", "HANZOD_APNS_PRIVATE_KEY=E", "OPENCLAW_APNS_PRIVATE_KEY_P8=F"}, team: "A", keyID: "C", key: "E"},
		{env: []string{"HANZOD_APNS_PRIVATE_KEY_PATH=" + file}, key: key},
		{env: []string{"OPENCLAW_APNS_PRIVATE_KEY_PATH=" + file}, key: key},
		{env: []string{"HANZOD_APNS_PRIVATE_KEY_PATH=" + filepath.Join(dir, "none"), "HANZOD_APNS_PRIVATE_KEY_P8=G"}, key: "G"},
		{env: []string{"HANZOD_APNS_PRIVATE_KEY_PATH=" + filepath.Join(dir, "none")}, fails: true},
		{env: []string{"HANZOD_APNS_PRIVATE_KEY_PATH=" + large}, fails: true},
		{env: []string{"HANZOD_APNS_PRIVATE_KEY_PATH=" + dir}, fails: true},
	} {
		var env []string
		for _, kv := range c.env {
			name, value, _ := strings.Cut(kv, "=")
			env = append(env, name, value)
		}
		cfg, err := load(t, "{}", env...)
		if err != nil {
			t.Errorf("%v: %v", c.env, err)
			continue
		}
		p := cfg.Push
		if p.TeamID != c.team || p.KeyID != c.keyID || strings.TrimSpace(p.Key.Reveal()) != strings.TrimSpace(c.key) || (p.KeyErr != nil) != c.fails {
			t.Errorf("%v: %q %q %v", c.env, p.TeamID, p.KeyID, p.KeyErr)
		}
		text, _ := json.Marshal(p)
		if out := fmt.Sprintf("%v %+v %#v %s %v", p, p, p, text, p.KeyErr); strings.Contains(out, hidden) {
			t.Errorf("%v shows the key: %s", c.env, out)
		}
	}
}
