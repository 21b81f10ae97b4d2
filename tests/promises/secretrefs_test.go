//go:build unix

package promises

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// TestSecretsElsewhere: a token that a program hands out is the token; the daemon does not start without it, and
// says which key and why and never the value; when it is another one, "secrets reload" brings that into force and
// what the old one let in ends.
func TestSecretsElsewhere(t *testing.T) {
	dir := proc.Dir(t)
	value, program := filepath.Join(dir, "value"), filepath.Join(dir, "program")
	put := func(text string) {
		if err := os.WriteFile(value, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(program, []byte("#!/bin/sh\nread ask; test -s "+value+" || exit 3\nprintf '{\"protocolVersion\":1,\"values\":{\"gateway\":\"%s\"}}' \"$(/bin/cat "+value+")\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	put("")
	d := proc.New(t, proc.Options{Config: map[string]any{
		"secrets": map[string]any{"providers": map[string]any{"vault": map[string]any{"source": "exec", "command": program}}},
		"gateway": map[string]any{"auth": map[string]any{"mode": "token", "token": map[string]any{"source": "exec", "provider": "vault", "id": "gateway"}}},
	}})
	d.Spawn()
	d.Wait(t, proc.Patience)
	if text := d.Stderr.String(); d.Code != 78 || !strings.Contains(text, "gateway.auth.token") || !strings.Contains(text, "failed (exit status 3); run it yourself to see why") {
		t.Fatalf("it ended with %d: %s", d.Code, text)
	}
	const first, second = "first-token-0123456789", "second-token-0123456789"
	put(first)
	d.Start()
	works := func(token string) bool { return rest(t, d, token) == http.StatusOK }
	if !works(first) || works(second) {
		t.Fatal("the token of the program is not the token")
	}
	put(second)
	if out := d.Ctl("secrets", "reload").Wait(t, proc.Patience); out.Code != 0 {
		t.Fatalf("reload: %s", out.Stderr)
	}
	proc.Until(t, "the new token works", func() bool { return quietly(func() bool { return rest(t, d, second) == http.StatusOK }, d) })
	proc.Until(t, "the old token does not", func() bool { return quietly(func() bool { return rest(t, d, first) == http.StatusUnauthorized }, d) })
	put("")
	if out := d.Ctl("secrets", "reload").Wait(t, proc.Patience); out.Code == 0 || !strings.Contains(out.Stderr.String(), "gateway.auth.token") {
		t.Errorf("reload without a secret: %d %s", out.Code, out.Stderr)
	}
	if !works(second) {
		t.Error("the last good token is gone")
	}
	for _, text := range append(d.Outputs(), d.Ctl("logs").Wait(t, proc.Patience).Stdout.String()) {
		if strings.Contains(text, first) || strings.Contains(text, second) {
			t.Error("a token is in the log")
		}
	}
}

// quietly asks while the daemon may be starting anew.
func quietly(ask func() bool, d *proc.Daemon) bool {
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(d.URL() + "/readyz")
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK && ask()
}
