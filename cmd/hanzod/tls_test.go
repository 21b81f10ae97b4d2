package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/runtime"
)

func hanzod(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := rootCmd(&out, io.Discard)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestTLSCommands(t *testing.T) {
	state := t.TempDir()
	t.Setenv("HOME", state)
	for _, cmd := range []string{"fingerprint", "show"} {
		if _, err := hanzod(t, "tls", cmd, "--state-dir", state); !errors.Is(err, runtime.ErrNoCertificate) {
			t.Errorf("%s without a certificate: %v", cmd, err)
		}
	}
	first, err := hanzod(t, "tls", "renew", "--state-dir", state)
	if err != nil || len(first) != 65 {
		t.Fatalf("%q, %v", first, err)
	}
	if again, err := hanzod(t, "tls", "fingerprint", "--state-dir", state); err != nil || again != first {
		t.Errorf("%q, %v", again, err)
	}
	if show, err := hanzod(t, "tls", "show", "--state-dir", state); err != nil || !strings.Contains(show, "sha256:"+first) || !strings.Contains(show, "name         localhost") {
		t.Errorf("%q, %v", show, err)
	}
	_, err = hanzod(t, "tls", "renew", "--state-dir", state)
	if exitCode(err) != exitUsage || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("renew without --yes: %v", err)
	}
	second, err := hanzod(t, "tls", "renew", "--yes", "--state-dir", state)
	if err != nil || second == first {
		t.Errorf("%q, %v", second, err)
	}
	for _, name := range []string{"gateway-cert.pem", "gateway-cert.pem.old", "gateway-key.pem", "gateway-key.pem.old"} {
		st, err := os.Stat(filepath.Join(state, "gateway", "tls", name))
		if err != nil || st.Mode().Perm() != 0o600 && os.PathSeparator == '/' {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	if _, err := hanzod(t, "tls", "renwe"); exitCode(err) != exitUsage {
		t.Errorf("an unknown command: %v", err)
	}
	// A named certificate is somebody else's.
	cfg := filepath.Join(state, "c.json")
	if err := os.WriteFile(cfg, []byte(`{gateway:{tls:{certPath:"/x/c.pem",keyPath:"/x/k.pem"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := hanzod(t, "tls", "renew", "--yes", "--config", cfg, "--state-dir", state); exitCode(err) != exitConfig {
		t.Errorf("a named certificate: %v", err)
	}
}

// TestRunRefusesCertificate: run ends with 78 over a certificate that cannot be used.
func TestRunRefusesCertificate(t *testing.T) {
	state := t.TempDir()
	t.Setenv("HOME", state)
	cfg := filepath.Join(state, "config.json")
	if err := os.WriteFile(cfg, []byte(`{gateway:{port:1,tls:{enabled:true,autoGenerate:false}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := hanzod(t, "run", "--state-dir", state, "--port", "0")
	if exitCode(err) != exitConfig || !strings.Contains(err.Error(), "gateway.tls.autoGenerate") {
		t.Errorf("%v", err)
	}
}
