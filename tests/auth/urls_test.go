package auth

import (
	"net/http"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/hanzodtest"
)

// No door reads a credential from an address, and no address with a query is logged (R23).
func TestNoCredentialInAURL(t *testing.T) {
	const hook = "hook-token-0123456789"
	d := hanzodtest.Start(t, hanzodtest.Options{Config: map[string]any{
		"gateway": map[string]any{"auth": tokenMode()},
		"hooks":   map[string]any{"enabled": true, "token": hook},
		"logging": map[string]any{"level": "trace", "consoleLevel": "trace"},
	}})
	in := hello{device: "d", scopes: allScopes, token: d.Token}.connect(t, d)
	device, _ := in.get(t, "auth", "deviceToken").(string)
	if device == "" {
		t.Fatal("no device token")
	}
	secrets := []string{d.Token, device, hook}
	for _, secret := range secrets {
		for _, name := range []string{"token", "access_token", "auth", "password", "deviceToken", "bearer", "Authorization", "api_key", "secret", "TOKEN", "t%6Fken"} {
			query := "?" + name + "=" + secret
			for _, path := range []string{"/", "/ws", "/v1/nodes", "/any/path"} {
				if got := (hello{scopes: allScopes, path: path + query}).verdict(t, d); got != "DEVICE_IDENTITY_REQUIRED" {
					t.Errorf("upgrade of %s?%s: %s", path, name, got)
				}
				if got := (hello{scopes: allScopes, device: "d", path: path + query}).verdict(t, d); got != "AUTH_TOKEN_MISSING" {
					t.Errorf("upgrade of %s?%s as a device: %s", path, name, got)
				}
			}
			for _, r := range []struct{ method, path string }{
				{"GET", "/v1/nodes"}, {"GET", "/metrics"}, {"GET", "/v1/status"}, {"POST", "/v1/nodes/x:invoke"},
				{"POST", "/tools/invoke"}, {"POST", "/hooks/wake"}, {"POST", "/hooks/agent"},
			} {
				resp, text := ask(t, d, r.method, r.path+query, `{"text":"x","tool":"x","message":"x"}`, "Content-Type: application/json")
				switch resp.StatusCode {
				case http.StatusUnauthorized, http.StatusBadRequest:
				case http.StatusTooManyRequests: // a request without the hook token counts as a guess at it
					if strings.HasPrefix(r.path, "/hooks/") {
						break
					}
					fallthrough
				default:
					t.Errorf("%s %s?%s: %d %s", r.method, r.path, name, resp.StatusCode, text)
				}
				if strings.Contains(text, secret) {
					t.Errorf("%s %s?%s answers the secret", r.method, r.path, name)
				}
			}
			// Beside a right header such an address is refused too, where it could have been logged on the way.
			if r, _ := ask(t, d, "GET", "/v1/nodes?token="+secret, "", bearer(d.Token)); r.StatusCode != http.StatusBadRequest {
				t.Errorf("REST with both: %d", r.StatusCode)
			}
			// A user in the address is no credential either.
			if r, _ := ask(t, d, "GET", "/v1/nodes", "", "Authorization: Basic dG9rZW46dG9rZW4="); r.StatusCode != http.StatusUnauthorized {
				t.Errorf("basic: %d", r.StatusCode)
			}
			if r, _ := ask(t, d, "GET", "/v1/nodes", "", "Cookie: token="+secret); r.StatusCode != http.StatusUnauthorized {
				t.Errorf("cookie: %d", r.StatusCode)
			}
		}
	}
	log := d.LogText()
	for _, secret := range secrets {
		if strings.Contains(log, secret) {
			t.Errorf("the log holds a secret:\n%.2000s", log)
		}
	}
	if strings.Contains(log, "?token=") || strings.Contains(log, "access_token") {
		t.Errorf("the log holds a query")
	}
}
