package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	// bootRoot and bootGroup name the root directory and the control group of the machine that boots, and
	// bootTest says which half of the test a process is: the one that becomes systemd, or the one that
	// tries things under it.
	bootRoot, bootGroup, bootTest = "HANZOD_TEST_ROOT", "HANZOD_TEST_GROUP", "HANZOD_TEST_BOOT"
	// bootDone is the last line of a boot whose tests have passed.
	bootDone = "hanzod-boot-test: all is well"
	// killLoop is how often the daemon is killed without the service manager giving up (R17).
	killLoop = 20
	// backAgain is how long a restart after a crash may take: one second of pause, the start, and a busy
	// machine.
	backAgain = 10 * time.Second
)

// accounts are those of the machine that boots: alice is a person, hanzo an account for the service.
const accounts = `root:x:0:0:root:/root:/bin/sh
hanzo:x:990:990::/var/lib/hanzo:/usr/sbin/nologin
alice:x:1000:1000::/home/alice:/bin/sh
`

// bootFiles are what such a machine needs: units of its own, so that none of the machine's runs.
func bootFiles() map[string]string {
	return map[string]string{
		"etc/passwd": accounts, "etc/group": "root:x:0:\nhanzo:x:990:\nalice:x:1000:\n", "etc/nsswitch.conf": "passwd: files\ngroup: files\n",
		"etc/machine-id": "00112233445566778899aabbccddeeff\n", "etc/hostname": "boot-test\n", "etc/hosts": "127.0.0.1 localhost\n",
		"etc/systemd/system/default.target":        "[Unit]\nDescription=default\nRequires=multi-user.target\nAfter=multi-user.target\nAllowIsolate=yes\n",
		"etc/systemd/system/multi-user.target":     "[Unit]\nDescription=multi user\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n",
		"etc/systemd/system/basic.target":          "[Unit]\nDescription=basic\nRequires=sysinit.target\nAfter=sysinit.target\n",
		"etc/systemd/system/sysinit.target":        "[Unit]\nDescription=sysinit\n",
		"etc/systemd/system/shutdown.target":       "[Unit]\nDescription=shutdown\nDefaultDependencies=no\n",
		"etc/systemd/system/network-online.target": "[Unit]\nDescription=network\n",
		"etc/systemd/system/before-log-on.target":  "[Unit]\nDescription=nothing runs\nRequires=basic.target\nAllowIsolate=yes\n",
	}
}

// TestBoot boots a real systemd as the first process of a machine of its own and tries the service of the
// machine there. The machine that runs the tests is out of its sight and reach; see privateRoot.
func TestBoot(t *testing.T) {
	if os.Getenv(bootTest) != "" {
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
	for _, name := range []string{"/bin", "/sbin", "/lib", "/lib64"} {
		if fi, err := os.Lstat(name); err != nil || fi.Mode()&os.ModeSymlink == 0 {
			t.Skipf("%s is no link into /usr, so its programs would be missing", name)
		}
	}
	groups := groupsOf(t)
	dir := proc.Dir(t)
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hanzod", "hanzoctl"} {
		link(t, proc.Build(t, name, proc.Shipped), filepath.Join(dir, name))
	}
	group := fmt.Sprintf("hanzod-boot-%d", time.Now().UnixNano())
	ctx, cancel := context.WithTimeout(t.Context(), outerTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--propagation", "private", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child",
		os.Args[0], "-test.run=^TestBootFirst$", "-test.v", "-test.timeout="+outerTime.String())
	cmd.Env = append(proc.Env(dir), bootTest+"=first", "ROBUST="+os.Getenv("ROBUST"), bootRoot+"="+root, bootGroup+"="+group, programs+"="+dir)
	cmd.WaitDelay = time.Second
	out := &proc.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // what it printed says how it went
	}()
	over := func() bool {
		text := out.String()
		return strings.Contains(text, bootDone) || strings.Contains(text, "--- FAIL") || strings.Contains(text, "panic:")
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
wait:
	for !over() {
		select {
		case <-ended:
			break wait
		case <-tick.C:
		}
	}
	select {
	case <-ended:
	case <-time.After(time.Second): // for the last lines of a test that failed
		cancel() // with its first process, the machine ends
		<-ended
	}
	proc.UntilFor(t, proc.Patience, "the control groups are left", func() bool {
		removeGroups(filepath.Join(groups, group))
		_, err := os.Stat(filepath.Join(groups, group))
		return os.IsNotExist(err)
	})
	t.Logf("inside:\n%s", out)
	if text := out.String(); !strings.Contains(text, bootDone) {
		t.Fatal("the tests under systemd did not pass")
	}
}

// groupsOf is where the control groups of version 2 are on this machine.
func groupsOf(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if w := strings.Fields(line); len(w) > 2 && w[2] == "cgroup2" {
			return w[1]
		}
	}
	t.Skip("there are no control groups of version 2 here")
	return ""
}

// TestBootFirst becomes systemd, after it has started TestBootInside.
func TestBootFirst(t *testing.T) {
	if os.Getenv(bootTest) != "first" {
		t.Skip("this is a half of TestBoot")
	}
	runtime.LockOSThread() // for good: its namespaces are not those of the others
	files := bootFiles()
	if err := packagedFiles(files); err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]string{"opt/hanzo/hanzod": "hanzod", "opt/hanzo/hanzoctl": "hanzoctl", "opt/test": ""} {
		path := filepath.Join(os.Getenv(programs), from)
		if from == "" {
			path = os.Args[0]
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(text)
	}
	if err := privateRoot(os.Getenv(bootRoot), os.Getenv(bootGroup), files); err != nil {
		t.Fatal(err) // and systemd is not started
	}
	clear(files)
	for path, uid := range map[string]int{"/home/alice": 1000, "/var/lib/hanzo": 990} {
		if err := os.Mkdir(path, 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "ROBUST=" + os.Getenv("ROBUST")}
	test := exec.Command("/opt/test", "-test.run=^TestBootInside$", "-test.v", "-test.timeout="+outerTime.String())
	test.Env = append(slices.Clone(env), bootTest+"=inside")
	test.Stdout, test.Stderr = os.Stdout, os.Stderr
	if err := test.Start(); err != nil {
		t.Fatal(err)
	}
	// No unit and no generator of the machine is found.
	env = append(env, "container=hanzod-test", "SYSTEMD_UNIT_PATH=/etc/systemd/system", "SYSTEMD_GENERATOR_PATH=/none", "SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/none")
	// systemd ends with unshare, as the process that unshare started does: what unshare said of that holds for
	// another thread, which is gone then.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	err := syscall.Exec(managerPath, []string{managerPath, "--system", "--log-target=console", "--log-level=warning", "--show-status=0"}, env)
	t.Fatal(err)
}

// machine is the inner half: one systemd, and the service of the machine.
type machine struct {
	*testing.T
	state string
	uid   int
}

// TestBootInside is the inner half of TestBoot.
func TestBootInside(t *testing.T) {
	if os.Getenv(bootTest) != "inside" {
		t.Skip("this is a half of TestBoot")
	}
	if err := private(); err != nil {
		t.Fatal(err)
	}
	m := &machine{T: t}
	proc.UntilFor(t, comeBack, "systemd runs", func() bool {
		out, _ := m.run("systemctl", "is-system-running")
		return strings.TrimSpace(out) == "running" || strings.TrimSpace(out) == "degraded"
	})
	ok := t.Run("Gateway", m.gateway) &&
		t.Run("Machine", m.machine) &&
		t.Run("BeforeLogOn", m.beforeLogOn) &&
		t.Run("Killed", m.killed) &&
		t.Run("Hangs", m.hangs) &&
		t.Run("Refused", m.refused) &&
		t.Run("PortTaken", m.portTaken) &&
		t.Run("Uninstall", m.uninstall) &&
		t.Run("Packaged", m.packaged)
	if ok {
		fmt.Println(bootDone)
	}
}

func (m *machine) run(name string, args ...string) (string, int) { return m.as(0, name, args...) }

// as runs a command as a user and returns what it printed and its exit code.
func (m *machine) as(uid int, name string, args ...string) (string, int) {
	m.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stepTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	home := map[int]string{0: "/root", 990: "/var/lib/hanzo", 1000: "/home/alice"}[uid]
	cmd.Env, cmd.Dir, cmd.WaitDelay = []string{"PATH=/usr/sbin:/usr/bin", "HOME=" + home}, "/", time.Second
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(out), exit.ExitCode()
	}
	if err != nil {
		m.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out), 0
}

func (m *machine) hanzod(t *testing.T, code int, args ...string) string {
	t.Helper()
	out, got := m.run("/opt/hanzo/hanzod", args...)
	if got != code {
		text, _ := m.run("systemctl", "status", "--no-pager", "hanzod.service")
		t.Fatalf("hanzod %s: exit code %d, want %d\n%s\n%s", strings.Join(args, " "), got, code, out, text)
	}
	return out
}

func (m *machine) property(name string) string {
	out, _ := m.run("systemctl", "show", "hanzod.service", "--value", "--property="+name)
	return strings.TrimSpace(out)
}

// answers returns the process that answers, 0 when none does. It is quick: it asks the daemon alone.
func (m *machine) answers() int {
	out, code := m.as(m.uid, "/opt/hanzo/hanzoctl", "status", "--state-dir", m.state, "-o", "json")
	var st struct {
		PID int `json:"pid,string"`
	}
	if code != 0 || json.Unmarshal([]byte(out), &st) != nil {
		return 0
	}
	return st.PID
}

// proves reads a line of /proc/PID/status.
func (m *machine) proves(t *testing.T, pid int, name string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(rest)
		}
	}
	t.Fatalf("no line %s", name)
	return ""
}

// gateway: a service that runs no commands is shut in, and serves.
func (m *machine) gateway(t *testing.T) {
	m.uid, m.state = 990, "/var/lib/hanzo/.hanzo/hanzod"
	out := m.hanzod(t, 0, "service", "install", "--system", "--run-as", "hanzo")
	t.Log(out)
	pid := m.answers()
	if pid == 0 || strconv.Itoa(pid) != m.property("MainPID") {
		t.Fatalf("process %d answers, systemd has %s", pid, m.property("MainPID"))
	}
	for name, want := range map[string]string{
		"Uid": "990\t990\t990\t990", "NoNewPrivs": "1", "Seccomp": "2", "CapBnd": "0000000000000000", "CapEff": "0000000000000000",
	} {
		if got := m.proves(t, pid, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for _, name := range []string{m.state, m.state + "/hanzod.sock", m.state + "/hanzod.db", m.state + "/config.json"} {
		var st syscall.Stat_t
		if err := syscall.Stat(name, &st); err != nil || st.Uid != 990 || st.Mode&0o077 != 0 {
			t.Errorf("%s: owner %d, mode %o, %v", name, st.Uid, st.Mode&0o777, err)
		}
	}
	if out, code := m.as(990, "/opt/hanzo/hanzoctl", "nodes", "list"); code != 0 {
		t.Errorf("its own account: %d %s", code, out)
	}
	if out, code := m.as(1000, "/opt/hanzo/hanzoctl", "--state-dir", m.state, "status"); code == 0 {
		t.Errorf("another account gets in: %s", out)
	}
	if out, err := exec.Command("systemd-analyze", "security", "--offline=yes", "/etc/systemd/system/hanzod.service").CombinedOutput(); err == nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.Log(lines[len(lines)-1])
	}
	m.hanzod(t, 0, "service", "restart")
	// There is no journal on this machine: what the daemon said is in its own file.
	if out := m.hanzod(t, 0, "service", "logs"); !strings.Contains(out, "hanzod is ready") {
		t.Errorf("logs: %s", out)
	}
	if out := m.hanzod(t, 1, "service", "install", "--state-dir", "/root/state"); !strings.Contains(out, "both want the TCP port 18789") || !strings.Contains(out, "sudo hanzod service uninstall --system") {
		t.Errorf("a second service for the same port: %s", out)
	}
	if out := m.hanzod(t, 2, "service", "install", "--system", "--force", "--run-as", "hanzo", "--state-dir", "/var/lib/hanzo/"+strings.Repeat("long", 30)); !strings.Contains(out, "too long") {
		t.Errorf("a long path: %s", out)
	}
	if err := os.Rename("/opt/hanzo/hanzod", "/opt/hanzo/moved"); err != nil {
		t.Fatal(err)
	}
	out, code := m.run("/opt/hanzo/moved", "service", "status")
	if err := os.Rename("/opt/hanzo/moved", "/opt/hanzo/hanzod"); err != nil {
		t.Fatal(err)
	}
	if code != 0 || !strings.Contains(out, "the program is not there") || !strings.Contains(out, "sudo hanzod service install --force --system --run-as hanzo") {
		t.Errorf("a program that was moved: %d %s", code, out)
	}
	m.hanzod(t, 0, "service", "uninstall", "--purge", "--yes")
	if out := m.hanzod(t, 1, "service", "status", "-o", "json"); !strings.Contains(out, `"installed":false`) {
		t.Errorf("status of nothing: %s", out)
	}
	if _, err := os.Stat(m.state); !os.IsNotExist(err) {
		t.Errorf("the state is still there: %v", err)
	}
}

// machine: one that runs commands is left what a log-in of its account has.
func (m *machine) machine(t *testing.T) {
	m.uid, m.state = 1000, "/home/alice/.hanzo/hanzod"
	m.hanzod(t, 0, "service", "install", "--system", "--run-as", "alice", "--node")
	pid := m.answers()
	for name, want := range map[string]string{"Uid": "1000\t1000\t1000\t1000", "NoNewPrivs": "0"} {
		if got := m.proves(t, pid, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	rules := filepath.Join(m.state, "exec-approvals.json")
	text := `{"version":1,"defaults":{"security":"full","ask":"off"},"agents":{}}`
	if err := os.WriteFile(rules, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(rules, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	out, _ := m.as(1000, "/opt/hanzo/hanzoctl", "nodes", "run", "boot-test", "--", "/usr/bin/id", "-un")
	if strings.TrimSpace(out) != "alice" {
		t.Errorf("a command of the node runs as %q", out)
	}
	if st := m.hanzod(t, 0, "service", "status"); !strings.Contains(st, "of the machine") {
		t.Errorf("%s", st)
	}
}

// beforeLogOn: the service comes with the machine, when nobody has logged on.
func (m *machine) beforeLogOn(t *testing.T) {
	if got := m.property("UnitFileState"); got != "enabled" {
		t.Fatalf("the unit is %s", got)
	}
	if out, code := m.run("systemctl", "isolate", "before-log-on.target"); code != 0 {
		t.Fatal(out)
	}
	proc.UntilFor(t, comeBack, "nothing runs", func() bool { return m.answers() == 0 && m.property("ActiveState") == "inactive" })
	if out, code := m.run("systemctl", "isolate", "default.target"); code != 0 {
		t.Fatal(out)
	}
	proc.UntilFor(t, comeBack, "the boot brings it up", func() bool { return m.answers() != 0 })
}

// back waits until another process answers and returns how long that took.
func (m *machine) back(t *testing.T, old int) time.Duration {
	t.Helper()
	began := time.Now()
	proc.UntilFor(t, comeBack, "another process answers", func() bool {
		pid := m.answers()
		return pid != 0 && pid != old
	})
	return time.Since(began)
}

// killed: after kill -9, again and again, the service is back each time, and is never given up.
func (m *machine) killed(t *testing.T) {
	rounds := 3
	if os.Getenv("ROBUST") != "" {
		rounds = killLoop
	}
	var longest time.Duration
	for range rounds {
		old := m.answers()
		if out, code := m.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "hanzod.service"); code != 0 {
			t.Fatal(out)
		}
		took := m.back(t, old)
		if longest = max(longest, took); took > backAgain {
			t.Errorf("it took %v", took)
		}
		// A daemon that has run for a while starts the pauses anew; this one is killed at once.
	}
	t.Logf("killed %d times; back after at most %v; %s restarts", rounds, longest, m.property("NRestarts"))
	if got := m.property("ActiveState"); got != "active" {
		t.Errorf("the service is %s", got)
	}
}

// dropIn changes the unit for one test.
func (m *machine) dropIn(t *testing.T, text string) {
	t.Helper()
	dir := "/etc/systemd/system/hanzod.service.d"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/test.conf", []byte("[Service]\n"+text), 0o644); err != nil {
		t.Fatal(err)
	}
	m.run("systemctl", "daemon-reload")
	t.Cleanup(func() {
		_ = os.RemoveAll(dir)
		m.run("systemctl", "daemon-reload")
	})
}

// hangs: a daemon that does not answer itself is started anew.
func (m *machine) hangs(t *testing.T) {
	m.dropIn(t, "WatchdogSec=2\nTimeoutAbortSec=1\n")
	m.hanzod(t, 0, "service", "restart")
	old := m.answers()
	if err := syscall.Kill(old, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	proc.UntilFor(t, comeBack, "systemd takes note", func() bool { return m.property("MainPID") != strconv.Itoa(old) })
	m.back(t, old)
	t.Logf("back %v after it was stopped (watchdog of 2 s)", time.Since(began))
}

// refused: a configuration that does not hold is no reason to try again and again, and the next start
// after it was mended works.
func (m *machine) refused(t *testing.T) {
	file := filepath.Join(m.state, "config.json")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("{gateway:{prot:1}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	forgetGood(t, m.state)
	for range 6 { // more often than a start limit would allow
		m.run("systemctl", "restart", "hanzod.service")
		if got, code := m.property("NRestarts"), m.property("ExecMainStatus"); got != "0" || code != "78" || m.property("Result") == "start-limit-hit" {
			t.Fatalf("%s restarts after exit code %s, %s", got, code, m.property("Result"))
		}
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	m.hanzod(t, 0, "service", "start")
}

// portTaken: another program has the port. The daemon says so, is tried again with growing pauses, and
// comes up by itself when the port is free.
func (m *machine) portTaken(t *testing.T) {
	m.hanzod(t, 0, "service", "stop")
	l, err := net.Listen("tcp", "127.0.0.1:18789")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m.run("systemctl", "start", "--no-block", "hanzod.service")
	began := time.Now()
	proc.UntilFor(t, comeBack, "it was tried twice", func() bool {
		n, _ := strconv.Atoi(m.property("NRestarts"))
		return n >= 1
	})
	time.Sleep(3 * time.Second) // several restarts, if it stormed
	n, _ := strconv.Atoi(m.property("NRestarts"))
	t.Logf("%d restarts within %v", n, time.Since(began))
	if n > 4 {
		t.Errorf("%d restarts within %v: a storm", n, time.Since(began))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	m.back(t, 0)
}

func (m *machine) uninstall(t *testing.T) {
	m.hanzod(t, 0, "service", "uninstall")
	if _, err := os.Stat(filepath.Join(m.state, "hanzod.db")); err != nil {
		t.Errorf("the state went with it: %v", err)
	}
	if out, code := m.run("systemctl", "list-unit-files", "hanzod.service", "--no-legend"); strings.Contains(out, "hanzod") {
		t.Errorf("systemd still knows it: %d %s", code, out)
	}
}
