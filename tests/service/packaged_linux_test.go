package service

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/runtime/service"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// packagedFiles are the template unit of a package and its scripts, for a hanzod in /opt/hanzo: the machine that
// boots has /usr from the one that runs the tests.
func packagedFiles(files map[string]string) error {
	here := func(text string) string { return strings.ReplaceAll(text, "/usr/bin/hanzod", "/opt/hanzo/hanzod") }
	files["etc/systemd/system/hanzod@.service"] = here(service.Packaged()["system/hanzod@.service"])
	for _, name := range []string{"postinstall", "preremove"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "tools", "dist", "scripts", name))
		if err != nil {
			return err
		}
		files["etc/hanzod-"+name] = here(string(text))
	}
	return nil
}

// packaged: a package starts nothing, restarts what runs, leaves alone what does not, and stops what it leaves.
func (m *machine) packaged(t *testing.T) {
	const unit = "hanzod@alice.service"
	m.uid, m.state = 1000, "/home/alice/.hanzo/hanzod"
	script := func(name string, args ...string) {
		t.Helper()
		if out, code := m.run("/bin/sh", append([]string{"/etc/hanzod-" + name}, args...)...); code != 0 {
			t.Fatalf("%s %v: %d\n%s", name, args, code, out)
		}
	}
	is := func(what, want string) {
		t.Helper()
		if out, _ := m.run("systemctl", "is-"+what, unit); strings.TrimSpace(out) != want {
			t.Errorf("%s is %q, want %s", unit, strings.TrimSpace(out), want)
		}
	}
	script("postinstall", "configure", "")
	is("active", "inactive")
	is("enabled", "disabled")
	if out, code := m.run("systemctl", "enable", "--now", unit); code != 0 {
		text, _ := m.run("systemctl", "status", "--no-pager", unit)
		t.Fatalf("%s\n%s", out, text)
	}
	pid := m.answers()
	if pid == 0 || m.proves(t, pid, "Uid") != "1000\t1000\t1000\t1000" {
		t.Fatalf("process %d answers", pid)
	}
	for _, args := range [][]string{{"configure", "0.0.9"}, {"2"}} { // as Debian and RPM say it
		script("postinstall", args...)
		next := m.answers()
		if next == 0 || next == pid {
			t.Fatalf("after %v process %d answers, as before %d", args, next, pid)
		}
		pid = next
	}
	script("preremove", "upgrade", "0.0.9")
	script("preremove", "1")
	if got := m.answers(); got != pid {
		t.Errorf("before an upgrade process %d became %d", pid, got)
	}
	if out, code := m.run("systemctl", "stop", unit); code != 0 {
		t.Fatal(out)
	}
	script("postinstall", "configure", "0.0.9")
	is("active", "inactive")
	if out, code := m.run("systemctl", "start", unit); code != 0 {
		t.Fatal(out)
	}
	pid = m.answers()
	script("preremove", "remove")
	is("active", "inactive")
	is("enabled", "disabled")
	proc.Until(t, "it is gone", func() bool {
		_, err := os.Stat("/proc/" + strconv.Itoa(pid))
		return os.IsNotExist(err)
	})
	if _, err := os.Stat(filepath.Join(m.state, "hanzod.db")); err != nil {
		t.Errorf("the state went with it: %v", err)
	}
}
