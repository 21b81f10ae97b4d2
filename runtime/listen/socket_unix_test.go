//go:build !windows

package listen

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestUnixModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "s")
	l, err := Unix(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]fs.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		st, err := os.Stat(p)
		if err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", p, st.Mode().Perm(), err, want)
		}
	}
	if _, err := Unix(t.Context(), path); err == nil || !strings.Contains(err.Error(), "another daemon answers on "+path) {
		t.Errorf("a live socket: %v", err)
	}
	closeAll(t, l)
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

func TestUnixReplacesAStaleSocketOnly(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	closeAll(t, old)
	l, err := Unix(t.Context(), stale)
	if err != nil {
		t.Fatal(err)
	}
	closeAll(t, l)

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Unix(t.Context(), file); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("a file in the way: %v", err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "keep" {
		t.Errorf("the file holds %q, %v", b, err)
	}
}

func TestUnixRefusesADirectoryOthersWrite(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Unix(t.Context(), filepath.Join(dir, "s")); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("got %v", err)
	}
}

func TestPeerIsThisProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Unix(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(t, l)
	var d net.Dialer
	client, err := d.DialContext(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	_, auth, err := PeerCredentials().ServerHandshake(server)
	if err != nil {
		t.Fatal(err)
	}
	uid := strconv.Itoa(os.Geteuid())
	want := PeerInfo{User: uid, PID: os.Getpid(), Own: true, Principal: "local:" + uid}
	if auth != want {
		t.Errorf("got %+v, want %+v", auth, want)
	}
}

func TestPeerOfATCPConnectionIsRefused(t *testing.T) {
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	if _, _, err := PeerCredentials().ServerHandshake(a); err == nil {
		t.Error("a connection without credentials is let in")
	}
	if _, _, err := PeerCredentials().ClientHandshake(t.Context(), "", b); err == nil {
		t.Error("the credentials work for clients")
	}
}
