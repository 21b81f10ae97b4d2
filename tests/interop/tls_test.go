//go:build unix

package interop

import (
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// TestTLS has the client and its node host reach hanzod over TLS by the fingerprint of the
// certificate that hanzod makes, and refuse any other.
func TestTLS(t *testing.T) {
	t.Parallel()
	theClient(t)
	d := proc.New(t, proc.Options{Form: proc.Tested, Config: map[string]any{"gateway": map[string]any{
		"auth": map[string]any{"mode": "token", "token": token}, "tls": map[string]any{"enabled": true},
	}}})
	d.Spawn()
	until(t, "the daemon", func() (bool, bool) {
		if d.Ended() {
			t.Fatalf("the daemon ended with exit code %d", d.Code)
		}
		return true, d.Ctl("health").Wait(t, proc.Patience).Code == 0
	})
	p := proc.Run(t, d.State, proc.Build(t, "hanzod", proc.Tested), nil, "tls", "fingerprint", "--state-dir", d.State).Wait(t, proc.Patience)
	pin := strings.TrimSpace(p.Stdout.String())
	if p.Code != 0 || len(pin) != 64 {
		t.Fatalf("hanzod tls fingerprint: exit code %d\n%s%s", p.Code, p.Stdout, p.Stderr)
	}
	other := strings.Repeat("ab", 32)
	url := "wss://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(d.Port))
	remote := func(pin string) *client {
		return newClient(t, map[string]any{"gateway": map[string]any{
			"mode": "remote", "remote": map[string]any{"url": url, "token": token, "tlsFingerprint": pin},
		}})
	}

	remote(pin).ok(t, []string{"OK ("}, "gateway", "health")
	remote(other).refused(t, []string{"fingerprint mismatch"}, "gateway", "call", "health")
	newClient(t, nil).refused(t, nil, "gateway", "call", "health", "--url", url, "--token", token)                   // nobody vouches for it
	newClient(t, nil).refused(t, nil, "gateway", "call", "health", "--url", "ws"+url[len("wss"):], "--token", token) // nor without TLS

	u := newClient(t, nil, "OPENCLAW_GATEWAY_TOKEN="+token)
	run := func(name, pin string) *worker {
		return show(t, "openclaw node run", u.start(t, "", "node", "run", "--host", "127.0.0.1", "--port", strconv.Itoa(d.Port),
			"--tls", "--tls-fingerprint", pin, "--display-name", name))
	}
	run("box", pin)
	listed(t, d, "box")
	ctl(t, d, "nodes", "invoke", "box", "system.which", "--params", `{"bins":["ls"]}`)
	w := run("other-box", other)
	proc.UntilFor(t, patience, "the node host to refuse", func() bool { return strings.Contains(w.output(), "fingerprint mismatch") })
}
