// Package service tries hanzod as a service under a real service manager.
package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	// inside marks the process that runs in namespaces of its own, below a systemd of its own.
	inside = "HANZOD_TEST_INSIDE"
	// programs names the directory of the programs under test there.
	programs = "HANZOD_TEST_PROGRAMS"
	// outerTime bounds all of it, stepTime one command, comeBack how long a restart may take.
	outerTime = 2 * time.Minute
	stepTime  = 30 * time.Second
	comeBack  = 15 * time.Second
	// managerPath is where Debian and its relatives have systemd.
	managerPath = "/lib/systemd/systemd"
)

// TestUnderSystemd installs hanzod under a real systemd, the manager of a user, which runs in namespaces of
// its own: nothing of the machine is touched.
func TestUnderSystemd(t *testing.T) {
	if os.Getenv(inside) != "" {
		t.Skip("this is the outer half")
	}
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("namespaces and control groups of its own need root")
	}
	for _, need := range []string{managerPath, "/usr/bin/systemctl", "/usr/bin/unshare"} {
		if _, err := os.Stat(need); err != nil {
			t.Skipf("%s is not here", need)
		}
	}
	dir := proc.Dir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hanzod", "hanzoctl"} {
		link(t, proc.Build(t, name, proc.Tested), filepath.Join(dir, name))
	}
	// The next program has a migration more, which only adds.
	proc.Variant(t, filepath.Join(dir, "next"), "-tags", "hanzod_nextschema", "-ldflags", "-s -w -X github.com/hanzoai/hanzod/runtime.Version=9.9.9")
	ctx, cancel := context.WithTimeout(t.Context(), outerTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
		os.Args[0], "-test.run=^TestInside$", "-test.v", "-test.timeout="+outerTime.String())
	cmd.Env = append(proc.Env(dir), inside+"=1", programs+"="+dir, "ROBUST="+os.Getenv("ROBUST"))
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	t.Logf("inside:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "--- PASS: TestInside") {
		t.Fatal("the inner half did not run")
	}
}

func link(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// world is the inner half: one systemd and one home directory.
type world struct {
	*testing.T
	bin, home, state string
	env              []string
}

// TestInside is the inner half of TestUnderSystemd.
func TestInside(t *testing.T) {
	if os.Getenv(inside) == "" {
		t.Skip("this is the inner half of TestUnderSystemd")
	}
	w := newWorld(t)
	if !t.Run("Install", w.install) {
		return
	}
	t.Run("Ensure", w.ensure)
	t.Run("Crash", w.crash)
	t.Run("Watchdog", w.watchdog)
	t.Run("BadConfiguration", w.badConfiguration)
	t.Run("BadUpgrade", w.badUpgrade)
	t.Run("RollBack", w.rollBack)
	t.Run("Restarts", w.restarts)
	t.Run("Upgrade", w.upgrade)
	t.Run("OneWay", w.oneWay)
	t.Run("Uninstall", w.uninstall)
}

func newWorld(t *testing.T) *world {
	bin := "/run/home/bin"
	w := &world{T: t, bin: bin, home: "/run/home", state: "/run/home/.hanzo/hanzod"}
	runtimeDir := "/run/user/0"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// The machine's own /run and control groups are out of sight from here on.
	must(syscall.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"))
	for _, dir := range []string{"/run/systemd/system", runtimeDir, w.home} {
		must(os.MkdirAll(dir, 0o755))
	}
	must(os.Chmod(runtimeDir, 0o700))
	for syscall.Unmount("/sys/fs/cgroup", syscall.MNT_DETACH) == nil {
	}
	must(syscall.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""))
	group := fmt.Sprintf("/sys/fs/cgroup/hanzod-test-%d", time.Now().UnixNano())
	must(os.MkdirAll(group+"/manager", 0o755))
	must(os.WriteFile(group+"/manager/cgroup.procs", []byte(strconv.Itoa(os.Getpid())), 0o644))
	must(os.MkdirAll(bin, 0o755))
	for _, name := range []string{"hanzod", "hanzoctl"} {
		link(t, filepath.Join(os.Getenv(programs), name), filepath.Join(bin, name))
	}
	// /tmp is the machine's, and none of this one's to clean.
	must(os.MkdirAll(w.home+"/.config/systemd/user", 0o755))
	for _, unit := range []string{"systemd-tmpfiles-setup.service", "systemd-tmpfiles-clean.service", "systemd-tmpfiles-clean.timer"} {
		must(os.Symlink("/dev/null", w.home+"/.config/systemd/user/"+unit))
	}
	w.env = append(proc.Env(w.home), "XDG_RUNTIME_DIR="+runtimeDir, "XDG_CONFIG_HOME="+w.home+"/.config")
	manager := exec.Command(managerPath, "--user", "--log-target=console", "--log-level=warning")
	manager.Env = w.env
	manager.Stdout, manager.Stderr = os.Stderr, os.Stderr
	must(manager.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = manager.Wait()
	}()
	t.Cleanup(func() {
		_ = manager.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(comeBack):
			_ = manager.Process.Kill()
			<-ended
		}
		// What is ours leaves with us; the group goes when nobody is in it.
		_ = os.WriteFile("/sys/fs/cgroup/cgroup.procs", []byte(strconv.Itoa(os.Getpid())), 0o644)
		removeGroups(group)
	})
	proc.UntilFor(t, comeBack, "systemd runs", func() bool {
		out, _ := w.run("systemctl", "--user", "is-system-running")
		return strings.TrimSpace(out) == "running" || strings.TrimSpace(out) == "degraded"
	})
	return w
}

// removeGroups removes control groups from the innermost out.
func removeGroups(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			removeGroups(filepath.Join(dir, e.Name()))
		}
	}
	_ = syscall.Rmdir(dir)
}

// run runs a command and returns what it printed and its exit code.
func (w *world) run(name string, args ...string) (string, int) {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stepTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = w.env, w.home, time.Second
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(out), exit.ExitCode()
	}
	if err != nil {
		w.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), 0
}

// hanzod runs the installed program and demands an exit code.
func (w *world) hanzod(t *testing.T, code int, args ...string) string {
	t.Helper()
	out, got := w.run(filepath.Join(w.bin, "hanzod"), args...)
	if got != code {
		t.Fatalf("hanzod %s: exit code %d, want %d\n%s", strings.Join(args, " "), got, code, out)
	}
	return out
}

// property asks systemd.
func (w *world) property(name string) string {
	out, _ := w.run("systemctl", "--user", "show", "hanzod.service", "--value", "--property="+name)
	return strings.TrimSpace(out)
}

// status is "hanzod service status" in JSON.
func (w *world) status(t *testing.T) (st struct {
	Installed, Running, Answers, Changed bool
	Version                              string
	PID                                  int
}) {
	t.Helper()
	// Not the installed program, which a test may have replaced.
	out, _ := w.run(filepath.Join(os.Getenv(programs), "hanzod"), "service", "status", "--output", "json")
	text, _, _ := strings.Cut(out, "\nhanzod: ")
	if err := json.Unmarshal([]byte(text), &st); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return st
}

func (w *world) install(t *testing.T) {
	out := w.hanzod(t, 0, "service", "install", "--node", "--port", "21789")
	if !strings.Contains(out, "started: hanzod") || !strings.Contains(out, "enable-linger") {
		t.Errorf("%s", out)
	}
	for name, want := range map[string]string{
		"ActiveState": "active", "Type": "notify", "WatchdogUSec": "30s", "UnitFileState": "enabled", "NRestarts": "0", "LimitNOFILE": "65536",
	} {
		if got := w.property(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := w.property("StatusText"); !strings.Contains(got, "0 approvals pending") {
		t.Errorf("status text %q", got)
	}
	st := w.status(t)
	if !st.Installed || !st.Running || !st.Answers || st.Changed || strconv.Itoa(st.PID) != w.property("MainPID") {
		t.Errorf("%+v", st)
	}
	if out := w.hanzod(t, 1, "service", "install"); !strings.Contains(out, "--force") {
		t.Errorf("a second install: %s", out)
	}
	if out, code := w.run(filepath.Join(w.bin, "hanzoctl"), "nodes", "list"); code != 0 || !strings.Contains(out, "connected") {
		t.Errorf("nodes list: %d\n%s", code, out)
	}
	// What systemd gives the daemon for itself does not reach the commands that it runs.
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", st.PID))
	if err != nil || !strings.Contains(string(env), "NOTIFY_SOCKET=") {
		t.Errorf("systemd passes no socket: %v", err)
	}
	if out := w.hanzod(t, 0, "service", "stop"); !strings.Contains(out, "stopped") {
		t.Errorf("%s", out)
	}
	if out := w.hanzod(t, 3, "service", "status"); !strings.Contains(out, "stopped") {
		t.Errorf("%s", out)
	}
	w.hanzod(t, 0, "service", "start")
	w.hanzod(t, 0, "service", "restart")
}

// again waits until another process answers.
func (w *world) again(t *testing.T, old int) {
	t.Helper()
	proc.UntilFor(t, comeBack, "another process answers", func() bool {
		st := w.status(t)
		return st.Answers && st.PID != old
	})
}

func (w *world) crash(t *testing.T) {
	old := w.status(t).PID
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.again(t, old)
	if got := w.property("NRestarts"); got != "1" {
		t.Errorf("%s restarts", got)
	}
}

func (w *world) watchdog(t *testing.T) {
	dir := w.home + "/.config/systemd/user/hanzod.service.d"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/test.conf", []byte("[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = os.RemoveAll(dir)
		w.run("systemctl", "--user", "daemon-reload")
	}()
	w.run("systemctl", "--user", "daemon-reload")
	w.hanzod(t, 0, "service", "restart")
	time.Sleep(3 * time.Second) // a daemon that is well is left alone
	old := w.status(t).PID
	if got := w.property("NRestarts"); got != "0" {
		t.Fatalf("a daemon that is well was restarted %s times", got)
	}
	if err := syscall.Kill(old, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	w.again(t, old)
	if got := w.property("NRestarts"); got != "1" {
		t.Errorf("%s restarts", got)
	}
}

func (w *world) badConfiguration(t *testing.T) {
	file := filepath.Join(w.state, "config.json")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("{gateway:{prot:1}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.hanzod(t, 0, "service", "restart")
	if out, code := w.run(filepath.Join(w.bin, "hanzoctl"), "status"); code != 0 || !strings.Contains(out, "last configuration that worked") {
		t.Errorf("with a bad file: %d %s", code, out)
	}
	forgetGood(t, w.state)
	w.run("systemctl", "--user", "restart", "hanzod.service")
	time.Sleep(3 * time.Second) // several restarts, if it restarted
	if got, code := w.property("NRestarts"), w.property("ExecMainStatus"); got != "0" || code != "78" {
		t.Errorf("%s restarts after exit code %s", got, code)
	}
	if out := w.hanzod(t, 1, "service", "start"); !strings.Contains(out, "hanzod service logs") {
		t.Errorf("%s", out)
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	w.hanzod(t, 0, "service", "start")
}

// crowd attaches clients to the daemon.
func (w *world) crowd(t *testing.T, n int) *proc.Crowd {
	t.Helper()
	out, code := w.run(filepath.Join(w.bin, "hanzoctl"), "status", "-o", "json")
	var st struct{ Listen []string }
	if err := json.Unmarshal([]byte(out), &st); err != nil || code != 0 || len(st.Listen) == 0 {
		t.Fatalf("%d %v %s", code, err, out)
	}
	token, code := w.run(filepath.Join(w.bin, "hanzoctl"), "token")
	if code != 0 {
		t.Fatal(token)
	}
	o := proc.CrowdOptions{Addr: st.Listen[0], Socket: client.SocketPath(w.state), Token: strings.TrimSpace(token)}
	o.Scripts, o.Browsers, o.Devices, o.Nodes, o.GRPCNodes, o.Watchers, o.Streams = n, n, n, n, n, n, n
	c := proc.NewCrowd(t, o)
	c.Back(t, comeBack)
	return c
}

// name gives the node of the crowd a name, which is on disk when it returns, and named demands that it has it.
func (w *world) name(t *testing.T, text string) {
	t.Helper()
	if out, code := w.run(filepath.Join(w.bin, "hanzoctl"), "nodes", "rename", proc.NodeOfCrowd(0), text); code != 0 {
		t.Fatalf("rename: %d %s", code, out)
	}
}

func (w *world) named(t *testing.T, text string) {
	t.Helper()
	if out, code := w.run(filepath.Join(w.bin, "hanzoctl"), "nodes", "list"); code != 0 || !strings.Contains(out, text) {
		t.Errorf("what was acknowledged is not there: %q: %d %s", text, code, out)
	}
}

// backIn is how long the clients may take to come back after a restart through the service manager.
const backIn = 5 * time.Second

// restarts: restarts through the service manager; the clients are told that the daemon comes back.
func (w *world) restarts(t *testing.T) {
	rounds, each := 2, 4
	if os.Getenv("ROBUST") != "" {
		rounds, each = 10, 28
	}
	c := w.crowd(t, each)
	for i := range rounds {
		text := fmt.Sprint("round-", i)
		w.name(t, text)
		began := time.Now()
		c.Restarted() // nobody comes in before the new one listens
		w.hanzod(t, 0, "service", "restart")
		var longest time.Duration
		for _, at := range c.Back(t, 2*backIn) {
			longest = max(longest, at.Sub(began))
		}
		if longest > backIn {
			t.Errorf("the last client was back after %v", longest)
		}
		w.named(t, text)
		told, expected := c.Told(int64(i + 1))
		t.Logf("restart %d: all %d clients back within %v; %d were told, restart expected in %v ms", i, 7*each, longest, told, expected)
		if told != 4*each || len(expected) != 1 || expected[0] <= 0 {
			t.Errorf("%d of %d clients of the older protocol were told of the stop, with %v", told, 4*each, expected)
		}
	}
	if r := c.Refused(); len(r) > 0 {
		t.Errorf("clients were refused: %v", r)
	}
}

// upgrade goes to a program that changes the schema, with clients attached.
func (w *world) upgrade(t *testing.T) {
	next := filepath.Join(os.Getenv(programs), "next")
	c := w.crowd(t, 3)
	w.name(t, "before-the-upgrade")
	began := time.Now()
	c.Restarted()
	out := w.hanzod(t, 0, "service", "upgrade", "--binary", next)
	if st := w.status(t); st.Version != "9.9.9" || !strings.Contains(out, "hanzod 9.9.9 runs") {
		t.Errorf("%+v\n%s", st, out)
	}
	c.Back(t, comeBack)
	t.Logf("upgraded, and all clients back, within %v", time.Since(began))
	w.named(t, "before-the-upgrade")
	if out := w.hanzod(t, 1, "service", "upgrade", "--binary", filepath.Join(w.bin, "hanzod")); !strings.Contains(out, "installed program itself") {
		t.Errorf("%s", out)
	}
	// And back: the older program serves what the newer one has written.
	w.name(t, "by-the-newer")
	c.Restarted()
	if out := w.hanzod(t, 0, "service", "upgrade", "--binary", filepath.Join(os.Getenv(programs), "hanzod")); !strings.Contains(out, " runs") {
		t.Errorf("%s", out)
	}
	c.Back(t, comeBack)
	w.named(t, "by-the-newer")
	if r := c.Refused(); len(r) > 0 {
		t.Errorf("clients were refused: %v", r)
	}
}

// rollBack: the new program brings the database to its schema, lets clients in, acknowledges what they
// write, and fails. The old one takes over again with all of that.
func (w *world) rollBack(t *testing.T) {
	old := w.status(t)
	c := w.crowd(t, 3)
	w.name(t, "by-the-old")
	next, bad := filepath.Join(os.Getenv(programs), "next"), filepath.Join(w.home, "fails")
	stop := filepath.Join(w.home, "stop")
	// It is not the process that systemd waits for, so it never counts as up; it serves until it is stopped.
	script := "#!/bin/sh\n[ \"$1\" = version ] && exec '" + next + "' \"$@\"\n" +
		"'" + next + "' \"$@\" &\nwhile [ ! -e '" + stop + "' ]; do sleep 0.1; done\nkill -9 $!\nwait\nexit 1\n"
	if err := os.WriteFile(bad, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	type result struct {
		out  string
		code int
	}
	done := make(chan result, 1)
	go func() {
		cmd := exec.Command(filepath.Join(w.bin, "hanzod"), "service", "upgrade", "--binary", bad)
		cmd.Env, cmd.Dir = w.env, w.home
		out, err := cmd.CombinedOutput()
		code := 0
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			code = exit.ExitCode()
		}
		done <- result{string(out), code}
	}()
	proc.UntilFor(t, comeBack, "the new program answers", func() bool { return w.status(t).Version == "9.9.9" })
	t.Log("the new program answers")
	proc.UntilFor(t, comeBack, "the node is back", func() bool {
		out, _ := w.run(filepath.Join(w.bin, "hanzoctl"), "nodes", "rename", proc.NodeOfCrowd(0), "by-the-failing")
		return !strings.Contains(out, "hanzoctl: ")
	})
	t.Log("it acknowledged a write")
	c.Restarted()
	began := time.Now()
	if err := os.WriteFile(stop, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r := <-done
	t.Logf("rolled back within %v:\n%s", time.Since(began), r.out)
	if st := w.status(t); r.code != 1 || !st.Answers || st.Version != old.Version || !strings.Contains(r.out, "runs again") {
		t.Errorf("%d %+v\n%s", r.code, st, r.out)
	}
	c.Back(t, comeBack)
	w.named(t, "by-the-failing")
	if r := c.Refused(); len(r) > 0 {
		t.Errorf("clients were refused: %v", r)
	}
}

// oneWay: a program whose database the installed one could not read is refused, and so is one that cannot
// read the database that is there.
func (w *world) oneWay(t *testing.T) {
	for facts, want := range map[string]string{
		`{"version":"20.0.0","schema":9,"readableFrom":9}`: "--one-way",
		`{"version":"0.0.1","schema":2,"readableFrom":1}`:  "cannot read the database",
	} {
		script := "#!/bin/sh\n[ \"$1\" = version ] && { echo '" + facts + "'; exit 0; }\nexit 1\n"
		file := filepath.Join(w.home, "facts")
		if err := os.WriteFile(file, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		old := w.status(t).PID
		if out := w.hanzod(t, 1, "service", "upgrade", "--binary", file); !strings.Contains(out, want) {
			t.Errorf("%s: %s", facts, out)
		}
		if now := w.status(t).PID; now != old {
			t.Errorf("%s: a refused upgrade restarted the daemon", facts)
		}
	}
}

func (w *world) badUpgrade(t *testing.T) {
	old := w.status(t)
	bad := filepath.Join(w.home, "bad")
	if out := w.hanzod(t, 1, "service", "upgrade", "--binary", "/bin/true"); !strings.Contains(out, "is not hanzod") {
		t.Errorf("%s", out)
	}
	script := "#!/bin/sh\n[ \"$1\" = version ] && { echo hanzod 10.0.0; exit 0; }\nexit 78\n"
	if err := os.WriteFile(bad, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	out := w.hanzod(t, 1, "service", "upgrade", "--binary", bad)
	if st := w.status(t); !st.Answers || st.Version != old.Version || !strings.Contains(out, "put back") {
		t.Errorf("%+v\n%s", st, out)
	}
}

func (w *world) uninstall(t *testing.T) {
	unit := w.home + "/.config/systemd/user/hanzod.service"
	if out := w.hanzod(t, 0, "service", "uninstall"); !strings.Contains(out, w.state) {
		t.Errorf("%s", out)
	}
	if _, err := os.Stat(unit); !os.IsNotExist(err) {
		t.Errorf("the unit is still there (%v)", err)
	}
	if _, err := os.Stat(filepath.Join(w.state, "hanzod.db")); err != nil {
		t.Errorf("the state went with it: %v", err)
	}
	if out := w.hanzod(t, 1, "service", "status"); !strings.Contains(out, "not installed") {
		t.Errorf("%s", out)
	}
	w.hanzod(t, 0, "service", "install", "--port", "0")
	w.hanzod(t, 1, "service", "uninstall", "--purge") // asks, and nobody answers
	w.hanzod(t, 0, "service", "uninstall", "--purge", "--yes")
	if _, err := os.Stat(w.state); !os.IsNotExist(err) {
		t.Errorf("the state is still there (%v)", err)
	}
}
