package promises

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/hanzodtest"
)

// patience is how long a change of the configuration may take to show.
const patience = 15 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func configOf(d *hanzodtest.Daemon) string { return filepath.Join(d.StateDir, "config.json") }

func writeConfig(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const goodConfig = `{
  // kept
  gateway: { auth: { mode: "token", token: "test-token-0123456789" }, reload: { debounceMs: 0 } },
  agents: { defaults: { heartbeat: { every: "0m" } } },
}
`

// startGood starts a daemon with goodConfig in a directory of its own.
func startGood(t *testing.T) *hanzodtest.Daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "hz")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	writeConfig(t, filepath.Join(dir, "config.json"), goodConfig)
	return hanzodtest.Start(t, hanzodtest.Options{StateDir: dir, KeepConfig: true})
}

// TestR19InvalidAtStart: a file that does not hold never keeps a daemon from starting that ran with it before.
func TestR19InvalidAtStart(t *testing.T) {
	d := startGood(t)
	eventually(t, "the configuration that works is kept", func() bool {
		_, err := os.Stat(filepath.Join(d.StateDir, "config.last-good.json"))
		return err == nil
	})
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"syntax": `{ gateway: `, "unknown key": `{ gatewya: {} }`, "wrong value": `{ gateway: { port: "x" } }`,
		"a lost variable": `{ gateway: { auth: { token: "${NO_SUCH_VARIABLE}" } } }`, "remote mode": `{ gateway: { mode: "remote" } }`,
	} {
		t.Run(name, func(t *testing.T) {
			writeConfig(t, configOf(d), text)
			again := hanzodtest.Start(t, hanzodtest.Options{StateDir: d.StateDir, KeepConfig: true})
			fault := again.ConfigFault()
			if !strings.Contains(fault, "last configuration that worked") {
				t.Errorf("the daemon does not say that it runs with another configuration: %q", fault)
			}
			if !strings.Contains(again.LogText(), "THE CONFIGURATION FILE IS NOT IN USE") {
				t.Error("the log does not say so")
			}
			if got, _ := os.ReadFile(configOf(d)); string(got) != text {
				t.Errorf("the file was changed to %q", got)
			}
			// Corrected, it counts by itself.
			writeConfig(t, configOf(d), goodConfig)
			eventually(t, "the corrected file is in force", func() bool { l, _ := again.Latest(); return l.ConfigFault() == "" })
			if err := again.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestR19NeverRan: without a daemon that ever ran, a file that does not hold is refused with the reasons.
func TestR19NeverRan(t *testing.T) {
	dir := t.TempDir()
	writeConfig(t, filepath.Join(dir, "config.json"), `{ gatewya: {} }`)
	_, err := hanzodtest.Try(t, hanzodtest.Options{StateDir: dir, KeepConfig: true})
	if err == nil || !strings.Contains(err.Error(), "gatewya") {
		t.Fatalf("want a refusal that names the key, got %v", err)
	}
}

// TestR19InvalidWhileRunning: a bad file never stops a daemon, and is named.
func TestR19InvalidWhileRunning(t *testing.T) {
	d := startGood(t)
	writeConfig(t, configOf(d), `{ logging: { level: "loud" } }`)
	eventually(t, "the bad file is named", func() bool { return strings.Contains(d.ConfigFault(), "logging.level") })
	if got := d.Probe(t.Context()); got != nil {
		t.Fatalf("the daemon does not answer: %v", got)
	}
	writeConfig(t, configOf(d), goodConfig)
	eventually(t, "the good file settles it", func() bool { return d.ConfigFault() == "" })
	if _, n := d.Latest(); n != 1 {
		t.Errorf("the daemon was started %d times, want once", n)
	}
}

// TestR19CannotStart: a configuration that holds and with which no daemon starts is replaced by the one before.
func TestR19CannotStart(t *testing.T) {
	d := startGood(t)
	var lc net.ListenConfig
	taken, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	writeConfig(t, configOf(d), strings.Replace(goodConfig, "gateway: {", "gateway: { grpc: { enabled: true, port: "+port+" },", 1))
	eventually(t, "the daemon came back", func() bool { _, n := d.Latest(); return n == 2 })
	l, _ := d.Latest()
	if fault := l.ConfigFault(); !strings.Contains(fault, port) || !strings.Contains(fault, "last configuration that worked") {
		t.Errorf("the daemon says %q; want the port and what it runs with", fault)
	}
	if err := l.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	// It is not tried again and again.
	time.Sleep(time.Second)
	if _, n := d.Latest(); n != 2 {
		t.Errorf("the daemon was started %d times, want twice", n)
	}
}

// TestRestartInProcess: what takes a restart gets one, in this process and on the same port.
func TestRestartInProcess(t *testing.T) {
	d := startGood(t)
	addr := d.Addr()
	writeConfig(t, configOf(d), strings.Replace(goodConfig, "gateway: {", "gateway: { http: { securityHeaders: { strictTransportSecurity: 'max-age=1' } },", 1))
	eventually(t, "the daemon started anew", func() bool { _, n := d.Latest(); return n == 2 })
	l, _ := d.Latest()
	if got := l.Addresses()[0]; got != addr {
		t.Errorf("the daemon listens on %s, want %s as before", got, addr)
	}
	if err := l.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(d.LogText(), "hanzod starts anew") {
		t.Error("the log does not name the restart")
	}
}

// TestHotReload: what can be hot is, and nobody is cut off.
func TestHotReload(t *testing.T) {
	d := startGood(t)
	writeConfig(t, configOf(d), strings.Replace(goodConfig, "agents:", "messages: { ackReactionScope: 'all' }, agents:", 1))
	eventually(t, "the change is in force", func() bool { return strings.Contains(d.LogText(), "another configuration is in force") })
	if _, n := d.Latest(); n != 1 {
		t.Errorf("the daemon was started %d times, want once", n)
	}
}
