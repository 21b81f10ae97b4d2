//go:build unix

package skills

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// program puts a program into the path, which knows no others.
func (w *world) program(t *testing.T, name, script string) {
	t.Helper()
	bin := filepath.Join(w.home, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	// A child that starts meanwhile would hold the file open for writing, and it could not be run.
	syscall.ForkLock.RLock()
	err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\nPATH=/usr/bin:/bin\n"+script), 0o700)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
}

func (w *world) install(t *testing.T, limit time.Duration) InstallOut {
	t.Helper()
	w.skill(t, "state/skills/s", "name: s\ndescription: d\nmetadata: {openclaw: {install: [{kind: uv, id: i, package: pack}]}}")
	out, err := w.Install(context.Background(), admin, InstallIn{Name: "s", InstallID: "i", Timeout: limit})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Installers really run: with their arguments, without the daemon's secrets, and their outcome is told.
func TestInstallRuns(t *testing.T) {
	w := newWorld(t, `{}`)
	t.Setenv("PATH", "")
	if out := w.install(t, 0); out.OK || out.Code != nil || !strings.HasPrefix(out.Message, "uv not installed") {
		t.Errorf("%+v", out)
	}
	t.Setenv("HANZOD_TOKEN", "very-secret")
	t.Setenv("SOME_API_KEY", "very-secret")
	t.Setenv("HARMLESS", "yes")
	w.program(t, "uv", `echo "$@"; env; echo warn >&2`)
	out := w.install(t, 0)
	if !out.OK || out.Message != "Installed" || *out.Code != 0 || !strings.HasPrefix(out.Stdout, "tool install pack\n") || out.Stderr != "warn" ||
		!strings.Contains(out.Stdout, "HARMLESS=yes") || strings.Contains(out.Stdout, "very-secret") {
		t.Errorf("%+v", out)
	}
	w.program(t, "uv", `echo fine; echo "no such package" >&2; exit 3`)
	if out := w.install(t, 0); out.OK || *out.Code != 3 || out.Message != "Install failed (exit 3): no such package" {
		t.Errorf("%+v", out)
	}
	w.program(t, "uv", `kill -9 $$`)
	if out := w.install(t, 0); out.OK || out.Code != nil || out.Message != "Install failed (it was ended by a signal)" {
		t.Errorf("%+v", out)
	}
	// Output is cut to its end, however much there is.
	w.program(t, "uv", `yes 0123456789 | head -c 3000000; echo the-end`)
	if out := w.install(t, 0); !out.OK || len(out.Stdout) > maxOutput+8 || !strings.HasSuffix(out.Stdout, "the-end") || !strings.HasPrefix(out.Stdout, "…") {
		t.Errorf("%d bytes, ok %v", len(out.Stdout), out.OK)
	}
}

// What an installer started ends with it, in time or not.
func TestInstallEndsItsTree(t *testing.T) {
	w := newWorld(t, `{}`)
	pid := filepath.Join(w.home, "pid")
	alive := func() bool {
		b, err := os.ReadFile(pid)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if syscall.Kill(n, 0) != nil {
				return false
			}
			if stat, err := os.ReadFile("/proc/" + strconv.Itoa(n) + "/stat"); err == nil && strings.Contains(string(stat), ") Z ") {
				return false
			}
			<-time.After(20 * time.Millisecond)
		}
		return true
	}
	w.program(t, "uv", `sleep 300 & echo $! > `+pid+`; sleep 300`)
	began := time.Now()
	if out := w.install(t, time.Second); out.OK || !strings.HasPrefix(out.Message, "Install failed (timed out after ") || time.Since(began) > 10*time.Second {
		t.Errorf("%+v after %v", out, time.Since(began))
	}
	if alive() {
		t.Error("a child outlives the time limit")
	}
	w.program(t, "uv", `sleep 300 >/dev/null 2>&1 & echo $! > `+pid)
	if out := w.install(t, 0); !out.OK {
		t.Errorf("%+v", out)
	}
	if alive() {
		t.Error("a child outlives its installer")
	}
}

// One installation runs at a time.
func TestInstallBusy(t *testing.T) {
	w := newWorld(t, `{}`)
	gate := filepath.Join(w.home, "gate")
	w.program(t, "uv", `touch `+gate+`; while [ -e `+gate+` ]; do sleep 0.02; done`)
	w.skill(t, "state/skills/s", "name: s\ndescription: d\nmetadata: {openclaw: {install: [{kind: uv, id: i, package: pack}]}}")
	var wg sync.WaitGroup
	wg.Go(func() {
		if out, err := w.Install(context.Background(), admin, InstallIn{Name: "s", InstallID: "i"}); err != nil || !out.OK {
			t.Errorf("%+v %v", out, err)
		}
	})
	for {
		if _, err := os.Stat(gate); err == nil {
			break
		}
		<-time.After(5 * time.Millisecond)
	}
	if _, err := w.Install(context.Background(), admin, InstallIn{Name: "s", InstallID: "i"}); err == nil || err.Error() != ErrBusy.Error() {
		t.Errorf("%v", err)
	}
	if err := os.Remove(gate); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
}

// A folder of skills may be anything.
func TestHostileFolders(t *testing.T) {
	w := newWorld(t, `{agents: {defaults: {workspace: "$home/ws"}}}`)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w.skill(t, "outside", "name: outside\ndescription: d")
	w.skill(t, "ws/skills/good", "name: good\ndescription: d")
	skills := filepath.Join(w.home, "ws", "skills")
	must(os.Symlink(filepath.Join(w.home, "outside"), filepath.Join(skills, "abs")))
	must(os.Symlink("../../outside", filepath.Join(skills, "rel")))
	must(os.Symlink("good", filepath.Join(skills, "inner")))
	for _, d := range []string{"fifo", "dir", "link", "dev"} {
		must(os.Mkdir(filepath.Join(skills, d), 0o700))
	}
	must(syscall.Mkfifo(filepath.Join(skills, "fifo", fileName), 0o600))
	must(os.Mkdir(filepath.Join(skills, "dir", fileName), 0o700))
	must(os.Symlink("../../../outside/SKILL.md", filepath.Join(skills, "link", fileName)))
	must(os.Symlink("/dev/zero", filepath.Join(skills, "dev", fileName)))
	must(os.MkdirAll(filepath.Join(w.home, ".agents"), 0o700))
	must(syscall.Mkfifo(filepath.Join(w.home, ".agents", "skills"), 0o600))
	done := make(chan map[string]Skill, 1)
	go func() { done <- w.status(t) }()
	select {
	case all := <-done:
		if len(all) != 1 || all["good"].Name != "good" {
			t.Errorf("%v", all)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it waits for somebody")
	}
}
