package auth

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/hanzodtest"
)

// The node host inside the daemon is let in whatever the mode is: it runs as the daemon's own user.
func TestOwnNodeInEveryMode(t *testing.T) {
	s := newService(t)
	for name, auth := range map[string]map[string]any{
		"none": {"mode": "none"}, "token": tokenMode(), "password": {"mode": "password", "password": "a-password-0123456789"},
		"trusted-proxy":         {"mode": "trusted-proxy", "trustedProxy": map[string]any{"userHeader": "X-User"}},
		"iam":                   {"mode": "iam", "iam": map[string]any{"serverUrl": s.URL, "clientId": "gw"}},
		"no loopback exemption": tokenMode("rateLimit", map[string]any{"maxAttempts": 1, "exemptLoopback": false}),
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, map[string]any{"auth": auth, "trustedProxies": []string{"127.0.0.9"}}, func(o *hanzodtest.Options) { o.Node = true })
			deadline := time.Now().Add(patience)
			for !strings.Contains(d.LogText(), "a node connected") && !strings.Contains(d.LogText(), `"role":"node"`) {
				if time.Now().After(deadline) {
					t.Fatal("the node of the daemon is not connected")
				}
				time.Sleep(20 * time.Millisecond)
			}
			if got := nodes(t, d); got != http.StatusUnauthorized {
				t.Errorf("a request without anything: %d", got)
			}
		})
	}
}
