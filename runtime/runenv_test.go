package runtime

import (
	"slices"
	"strings"
	"testing"
)

// Commands that run on this machine are not handed the secrets of the gateway, its key for pushes
// included.
func TestCommandsGetNoSecrets(t *testing.T) {
	for _, name := range gatewaySecrets {
		t.Setenv(name, "swordfish")
	}
	t.Setenv("HANZOD_APNS_TEAM_ID", "team")
	env := runEnv()
	for _, kv := range env {
		if strings.Contains(kv, "swordfish") {
			t.Errorf("%s is handed on", kv)
		}
	}
	if !slices.Contains(env, "HANZOD_APNS_TEAM_ID=team") {
		t.Error("what is no secret is gone")
	}
	for _, name := range []string{
		"HANZOD_TOKEN", "OPENCLAW_GATEWAY_PASSWORD", "HANZOD_APNS_PRIVATE_KEY_P8", "HANZOD_APNS_PRIVATE_KEY",
		"OPENCLAW_APNS_PRIVATE_KEY_P8", "OPENCLAW_APNS_PRIVATE_KEY",
	} {
		if !slices.Contains(gatewaySecrets, name) {
			t.Errorf("%s is no secret", name)
		}
	}
}
