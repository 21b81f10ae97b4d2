package runtime_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/hanzodtest"
)

func owner(t *testing.T, path string) string {
	t.Helper()
	d, err := client.ReadDiscovery(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return d.StateDir
}

func TestDiscoveryFileSaysWhereTheDaemonIs(t *testing.T) {
	t.Parallel()
	d := hanzodtest.Start(t, hanzodtest.Options{GRPC: true})
	path := client.DiscoveryFile(d.StateDir)
	f, err := client.ReadDiscovery(path)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if f.PID != os.Getpid() || f.Socket != d.Socket() || f.StateDir != d.StateDir || f.Port != d.Port() || len(f.Addresses) == 0 || f.Addresses[0] != d.Addr() ||
		f.GRPCAddress != d.GRPCAddress() || !strings.HasSuffix(f.GRPCAddress, ":"+jsonNumber(t, f.GRPCPort)) || f.TLSFingerprint != d.TLSFingerprint() ||
		f.Executable != exe || f.Version == "" || f.StartedAt.IsZero() {
		t.Errorf("%+v", f)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	text, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(text), hanzodtest.Token) {
		t.Errorf("%v\n%s", err, text)
	}
	// What somebody removed or changed is put right.
	for _, spoil := range []func() error{
		func() error { return os.Remove(path) },
		func() error { return os.WriteFile(path, []byte("{}"), 0o600) },
		func() error { return os.Chmod(path, 0o666) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		d.Announce()
		if owner(t, path) != d.StateDir {
			t.Error("it was not written again")
		}
	}
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	d.Announce()
	if entries, err := filepath.Glob(filepath.Join(d.StateDir, "*daemon.json*")); err != nil || len(entries) > 0 || owner(t, path) != "" {
		t.Errorf("after the stop: %v %v", entries, err)
	}
}

func jsonNumber(t *testing.T, n int) string {
	t.Helper()
	text, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestSharedFileBelongsToTheFirstThatIsAlive(t *testing.T) {
	t.Parallel()
	shared := filepath.Join(t.TempDir(), "hanzod", "daemon.json")
	start := func() *hanzodtest.Daemon {
		return hanzodtest.Start(t, hanzodtest.Options{SharedDiscovery: shared})
	}
	a, b := start(), start()
	if got := owner(t, shared); got != a.StateDir {
		t.Errorf("with both it is of %q", got)
	}
	b.Announce()
	if got := owner(t, shared); got != a.StateDir {
		t.Errorf("the second took it: %q", got)
	}
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	if got := owner(t, shared); got != "" && got != b.StateDir {
		t.Errorf("the first left it behind: %q", got)
	}
	b.Announce()
	if got := owner(t, shared); got != b.StateDir {
		t.Errorf("the second does not take the place: %q", got)
	}
	c := start()
	if err := c.Stop(); err != nil {
		t.Fatal(err)
	}
	if got := owner(t, shared); got != b.StateDir {
		t.Errorf("another one's stop removed it: %q", got)
	}
	// What a daemon left that was killed is replaced.
	text, err := os.ReadFile(shared)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(shared, text, 0o600); err != nil {
		t.Fatal(err)
	}
	d := start()
	if got := owner(t, shared); got != d.StateDir {
		t.Errorf("a stale file stays: %q", got)
	}
}
