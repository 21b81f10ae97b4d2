package client_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/client"
)

// discoveryText is a discovery file of a daemon that serves a state directory at a socket.
func discoveryText(stateDir, socket string) string {
	quote := func(s string) string { return `"` + strings.ReplaceAll(s, `\`, `\\`) + `"` }
	return `{"format":1,"pid":4242,"startedAt":"2026-01-02T03:04:05.6Z","version":"1.2.3","stateDir":` + quote(stateDir) +
		`,"socket":` + quote(socket) + `,"port":18789,"addresses":["127.0.0.1:18789"],"later":{"known":"to later readers"}}`
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hz") // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// listenOn has somebody listen on a socket.
func listenOn(t *testing.T, socket string) net.Listener {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestReadDiscoveryBelievesOnlyWhatIsOurs(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes and links are those of Unix")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, client.DiscoveryName)
	if _, err := client.ReadDiscovery(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	good := discoveryText("/s", "/s/hanzod.sock")
	write(t, path, good)
	d, err := client.ReadDiscovery(path)
	if err != nil {
		t.Fatal(err)
	}
	if d.PID != 4242 || d.Socket != "/s/hanzod.sock" || d.StateDir != "/s" || d.Port != 18789 || d.Version != "1.2.3" || d.StartedAt.Year() != 2026 {
		t.Errorf("%+v", d)
	}
	refused := func(what, part string) {
		t.Helper()
		if d, err := client.ReadDiscovery(path); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %+v, %v", what, d, err)
		}
	}
	for _, mode := range []os.FileMode{0o620, 0o602, 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		refused(mode.String(), "others may write")
	}
	if os.Geteuid() == 0 {
		write(t, path, good)
		if err := errors.Join(os.Chmod(path, 0o600), os.Chown(path, 4711, 4711)); err != nil {
			t.Fatal(err)
		}
		refused("of another user", "another user")
	}
	if err := os.Rename(path, path+".real"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path+".real", path); err != nil {
		t.Fatal(err)
	}
	refused("a link", "")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	listenOn(t, path)
	refused("a socket", "")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	refused("a directory", "")
}

func TestParseDiscovery(t *testing.T) {
	for name, text := range map[string]string{
		"empty":           ``,
		"cut":             discoveryText("/s", "/s/x")[:40],
		"no object":       `[1]`,
		"another format":  strings.Replace(discoveryText("/s", "/s/x"), `"format":1`, `"format":2`, 1),
		"no format":       strings.Replace(discoveryText("/s", "/s/x"), `"format":1,`, ``, 1),
		"relative socket": discoveryText("/s", "hanzod.sock"),
		"relative state":  discoveryText("s", "/s/x"),
		"no socket":       discoveryText("/s", ""),
		"control in path": discoveryText("/s", `/s/\u001b[2J`),
		"control in text": strings.Replace(discoveryText("/s", "/s/x"), "1.2.3", `1\u0007`, 1),
		"too long":        discoveryText("/s", "/s/x") + strings.Repeat(" ", client.MaxDiscovery),
	} {
		if d, err := client.ParseDiscovery([]byte(strings.ReplaceAll(text, `\\u`, `\u`))); err == nil {
			t.Errorf("%s: taken: %+v", name, d)
		}
	}
	if _, err := client.ParseDiscovery([]byte(discoveryText(`C:\Users\a\.hanzo\hanzod`, `\\.\pipe\hanzod-1`))); err != nil {
		t.Errorf("of Windows: %v", err)
	}
}

func FuzzParseDiscovery(f *testing.F) {
	f.Add([]byte(discoveryText("/s", "/s/hanzod.sock")))
	f.Add([]byte(`{"format":1,"socket":"\\\\.\\pipe\\x","stateDir":"C:/x","pid":-1,"addresses":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := client.ParseDiscovery(text)
		if err != nil {
			return
		}
		if d.Format != client.DiscoveryFormat || d.Socket == "" || d.StateDir == "" || strings.ContainsAny(d.Socket+d.StateDir+d.Version, "\x1b\n\x00") {
			t.Errorf("taken: %+v", d)
		}
	})
}

// world is one user's environment.
type world struct {
	*testing.T
	home, runtime string
	env           map[string]string
}

func newWorld(t *testing.T) *world {
	if runtime.GOOS == "windows" {
		t.Skip("the sockets of this test are those of Unix")
	}
	dir := shortDir(t)
	w := &world{T: t, home: filepath.Join(dir, "home"), runtime: filepath.Join(dir, "run")}
	w.env = map[string]string{"HOME": w.home, "XDG_RUNTIME_DIR": w.runtime}
	return w
}

func (w *world) find() client.Found {
	w.Helper()
	f, err := client.Find(func(k string) string { return w.env[k] })
	if err != nil {
		w.Fatal(err)
	}
	return f
}

func (w *world) expect(what, socket string, by client.Rule, file bool) {
	w.Helper()
	if f := w.find(); f.Socket != socket || f.By != by || (f.Daemon != nil) != file {
		w.Errorf("%s: %+v", what, f)
	}
}

func TestFindFollowsTheRule(t *testing.T) {
	w := newWorld(t)
	usual := filepath.Join(w.home, ".hanzo", "hanzod")
	usualSocket := filepath.Join(usual, "hanzod.sock")
	other := filepath.Join(w.home, "other")
	otherSocket := filepath.Join(other, "hanzod.sock")
	shared := filepath.Join(w.runtime, "hanzod", "daemon.json")

	w.expect("nothing is there", usualSocket, client.ByHome, false)
	write(t, shared, discoveryText(other, otherSocket))
	w.expect("a stale shared file", usualSocket, client.ByHome, false)
	there := listenOn(t, otherSocket)
	w.expect("only the other daemon answers", otherSocket, client.ByShared, true)
	here := listenOn(t, usualSocket)
	w.expect("both answer", usualSocket, client.ByHome, false)
	here.Close()
	if err := os.Chmod(shared, 0o666); err != nil {
		t.Fatal(err)
	}
	w.expect("others may write the shared file", usualSocket, client.ByHome, false)
	write(t, shared, "{")
	w.expect("a broken shared file", usualSocket, client.ByHome, false)
	if err := os.Chmod(shared, 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, shared, discoveryText(other, otherSocket))
	w.expect("again", otherSocket, client.ByShared, true)

	// What the environment names is final.
	named := filepath.Join(w.home, "named")
	w.env["HANZOD_STATE_DIR"] = named
	w.expect("a named directory that nobody serves", filepath.Join(named, "hanzod.sock"), client.ByStateDir, false)
	w.env["HANZOD_SOCKET"] = "/x/y.sock"
	w.expect("a named socket", "/x/y.sock", client.BySocket, false)
	delete(w.env, "HANZOD_SOCKET")

	// A discovery file in the directory names the socket, but not one that speaks of another directory.
	elsewhere := filepath.Join(w.runtime, "short.sock")
	write(t, client.DiscoveryFile(named), discoveryText(named, elsewhere))
	w.expect("the file names the socket", elsewhere, client.ByStateDir, true)
	write(t, client.DiscoveryFile(named), discoveryText(other, otherSocket))
	w.expect("a copied directory", filepath.Join(named, "hanzod.sock"), client.ByStateDir, false)
	there.Close()
}

func TestFindNeedsAHome(t *testing.T) {
	t.Setenv("HOME", "")
	if f, err := client.Find(func(string) string { return "" }); err == nil && f.Socket == "" {
		t.Errorf("%+v", f)
	}
}

func TestSharedDiscoveryFile(t *testing.T) {
	env := func(dir string) func(string) string {
		return func(k string) string { return map[string]string{"XDG_RUNTIME_DIR": dir}[k] }
	}
	if got := client.SharedDiscoveryFile(env("/run/user/7")); runtime.GOOS != "windows" && got != "/run/user/7/hanzod/daemon.json" {
		t.Error(got)
	}
	if got := client.SharedDiscoveryFile(env("relative")); got != "" {
		t.Errorf("a relative directory: %s", got)
	}
	if got := client.SharedDiscoveryFile(env("")); runtime.GOOS == "linux" && got != "" {
		t.Errorf("without a runtime directory: %s", got)
	}
}
