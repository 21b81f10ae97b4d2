package main

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/client/discover"
)

// printed runs f with an app and returns what it wrote.
func printed(t *testing.T, format string, quiet bool, f func(*app) error) (stdout, stderr string) {
	t.Helper()
	dir := t.TempDir()
	a := &app{output: format, quiet: quiet, getenv: func(string) string { return "" }}
	var err error
	if a.stdout, err = os.Create(filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	if a.stderr, err = os.Create(filepath.Join(dir, "err")); err != nil {
		t.Fatal(err)
	}
	if err := f(a); err != nil {
		t.Fatal(err)
	}
	read := func(f *os.File) string {
		_ = f.Close()
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	return read(a.stdout), read(a.stderr)
}

func heard(s, on string) discover.Address {
	return discover.Address{Addr: netip.MustParseAddr(s), Interface: on}
}

// TestFoundIsSafe: whatever answers, nothing of it steers the terminal or stands in a command to repeat.
func TestFoundIsSafe(t *testing.T) {
	evil := "\x1b]0;owned\a\n$(reboot)\u202e\xff" + strings.Repeat("x", 200)
	r := discover.Result{Networks: []string{"eth0"}, Dropped: true, Daemons: []discover.Daemon{
		{Name: evil, Host: evil, Version: evil, Addresses: []discover.Address{heard("198.18.0.1", "eth0"), heard("fe80::1", "eth0")}, GatewayPort: 1, GRPCPort: 2, SSHPort: 3, Fingerprint: strings.Repeat("ab", 32)},
		{Name: "old", Legacy: true, Addresses: []discover.Address{heard("fe80::2", "eth1")}, GatewayPort: 18789, SSHPort: 22},
		{Name: "ssh", Addresses: []discover.Address{heard("198.18.0.3", "eth1")}, GatewayPort: 18789, SSHPort: 2222},
	}}
	for _, format := range formats {
		out, errs := printed(t, format, false, func(a *app) error { return a.printFound(r) })
		for _, c := range out + errs {
			if c != '\n' && !visible(c) {
				t.Errorf("%s: %q in %q", format, c, out)
			}
		}
		if strings.Contains(errs, "reboot") || !strings.Contains(errs, "flood") {
			t.Errorf("%s: %s", format, errs)
		}
		if format != "table" && (!strings.Contains(out, "hanzod://198.18.0.1:2") || strings.Contains(out, `"tlsFingerprint"`)) {
			t.Errorf("%s: %s", format, out)
		}
		if format == "table" {
			for line := range strings.Lines(out) {
				if len(line) > 200 {
					t.Errorf("%d bytes: %s", len(line), line)
				}
			}
			for _, want := range []string{"hanzoctl enroll -", "ssh://USER@ADDRESS", "nobody proved", "kind gateway"} {
				if !strings.Contains(errs, want) {
					t.Errorf("no %q in %s", want, errs)
				}
			}
		}
	}
	out, _ := printed(t, "table", true, func(a *app) error { return a.printFound(r) })
	if out != "hanzod://198.18.0.1:2\nfe80::2%eth1\nssh://198.18.0.3:2222\n" {
		t.Error(out)
	}
}

func TestFoundNothing(t *testing.T) {
	out, errs := printed(t, "table", false, func(a *app) error { return a.printFound(discover.Result{Networks: []string{"eth0"}}) })
	if out != "" || !strings.Contains(errs, "no daemon answered on eth0") || !strings.Contains(errs, "mdns") || !strings.Contains(errs, "5353") {
		t.Error(out, errs)
	}
	if out, _ = printed(t, "json", false, func(a *app) error { return a.printFound(discover.Result{}) }); !strings.Contains(out, `"daemons": []`) || !strings.Contains(out, `"interfaces": []`) {
		t.Error(out)
	}
	if err := (&app{output: "table", stderr: os.Stderr}).printFound(discover.Result{}); exitCode(err) != exitLater {
		t.Error(err)
	}
}

func TestFoundChanges(t *testing.T) {
	box := discover.Daemon{Name: "box", Addresses: []discover.Address{heard("198.18.0.1", "eth0")}, GatewayPort: 1}
	moved := box
	moved.Addresses = []discover.Address{heard("198.18.0.2", "eth0")}
	out, _ := printed(t, "table", false, func(a *app) error {
		seen := map[string]foundDaemon{}
		for _, r := range [][]discover.Daemon{{box}, {box}, {moved}, {}, {}} {
			if err := a.printChanges(seen, discover.Result{Daemons: r}); err != nil {
				return err
			}
		}
		return nil
	})
	if got := len(bytes.Split([]byte(strings.TrimSpace(out)), []byte("\n"))); got != 3 || !strings.Contains(out, "found  box") || !strings.Contains(out, "changed  box") || !strings.Contains(out, "gone  box") {
		t.Error(out)
	}
}
