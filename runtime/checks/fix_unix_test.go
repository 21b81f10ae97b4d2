//go:build unix

package checks_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/system/doctor"
)

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func modeOf(t *testing.T, path string) os.FileMode {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Mode().Perm()
}

// mendAll does what the findings bring, and returns what they say that they did.
func mendAll(t *testing.T, found []doctor.Finding) (did []string) {
	t.Helper()
	for _, f := range found {
		if f.Mend == nil {
			continue
		}
		text, err := f.Mend()
		if err != nil {
			did = append(did, f.Check+": "+err.Error())
			continue
		}
		did = append(did, text)
	}
	return did
}

// TestMend: permissions, a socket and a discovery file of one that is gone are put right, once.
func TestMend(t *testing.T) {
	dir := stateDir(t)
	db, cfg := filepath.Join(dir, store.FileName), filepath.Join(dir, "config.json")
	chmod(t, dir, 0o755)
	chmod(t, db, 0o644)
	chmod(t, cfg, 0o666)
	l, err := net.Listen("unix", client.SocketPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	p := place(t, dir)
	found := look(t, p)
	if f := worst(found, "state.mode"); f.Severity != doctor.Warning || !f.Fixable {
		t.Errorf("%+v", f)
	}
	if f := worst(found, "state.files"); f.Severity != doctor.Error || !f.Fixable {
		t.Errorf("%+v", f)
	}
	if did := mendAll(t, found); len(did) != 4 {
		t.Errorf("did %q", did)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, db: 0o600, cfg: 0o600} {
		if got := modeOf(t, path); got != want {
			t.Errorf("%s has mode %o", path, got)
		}
	}
	if _, err := os.Lstat(client.SocketPath(dir)); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
	if did := mendAll(t, look(t, p)); len(did) != 0 {
		t.Errorf("the second time it did %q", did)
	}
}

// TestMendsNothingElse: what a link leads to, what has a second name and what somebody listens on stay as they
// are.
func TestMendsNothingElse(t *testing.T) {
	dir, elsewhere := stateDir(t), t.TempDir()
	theirs := filepath.Join(elsewhere, "theirs")
	write(t, theirs, "{}")
	chmod(t, theirs, 0o644)
	if err := os.Symlink(theirs, filepath.Join(dir, "exec-approvals.json")); err != nil {
		t.Fatal(err)
	}
	twin := filepath.Join(elsewhere, "twin")
	write(t, twin, "{}")
	chmod(t, twin, 0o644)
	if err := os.Link(twin, filepath.Join(dir, "policy.json")); err != nil {
		t.Fatal(err)
	}
	p := place(t, dir)
	found := look(t, p)
	// Between the look and the mending, a file is exchanged for a link.
	cfg := filepath.Join(dir, "config.json")
	chmod(t, cfg, 0o644)
	late := look(t, p)
	if err := os.Remove(cfg); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(theirs, cfg); err != nil {
		t.Fatal(err)
	}
	did := strings.Join(append(mendAll(t, found), mendAll(t, late)...), "\n")
	for _, path := range []string{theirs, twin} {
		if got := modeOf(t, path); got != 0o644 {
			t.Errorf("%s has mode %o; did:\n%s", path, got, did)
		}
	}
	if !strings.Contains(did, "second name") {
		t.Errorf("did:\n%s", did)
	}

	l, err := net.Listen("unix", client.SocketPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	stale := look(t, p)
	l, err = net.Listen("unix", client.SocketPath(dir)+".new")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Rename(client.SocketPath(dir)+".new", client.SocketPath(dir)); err != nil {
		t.Fatal(err)
	}
	if did := mendAll(t, stale); !strings.Contains(strings.Join(did, "\n"), "somebody answers on it now") {
		t.Errorf("did %q", did)
	}
}
