package host_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hanzoai/hanzod/nodes/host"
)

// write puts a script at a path, in a new file.
func write(tb testing.TB, path, text string) {
	tb.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		tb.Fatal(err)
	}
}

func real(tb testing.TB) string {
	tb.Helper()
	dir, err := filepath.EvalSymlinks(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	return dir
}

// approve prepares a run and returns its parameters as a gateway sends them when it is approved.
func approve(tb testing.TB, h *host.Host, params m) (run m, binding m) {
	tb.Helper()
	raw, err := json.Marshal(params)
	if err != nil {
		tb.Fatal(err)
	}
	text := string(raw)
	r := h.Handle(tb.Context(), host.Request{ID: "p", Command: "system.run.prepare", ParamsJSON: &text})
	if !r.OK {
		tb.Fatalf("%v", r.Error)
	}
	var p struct {
		Plan    m
		Binding m
	}
	if err := json.Unmarshal([]byte(*r.PayloadJSON), &p); err != nil {
		tb.Fatal(err)
	}
	run = m{"command": p.Plan["argv"], "rawCommand": p.Plan["rawCommand"], "cwd": p.Plan["cwd"],
		"approved": true, "approvalDecision": "allow-once", "runId": "r", "binding": p.Binding}
	return run, p.Binding
}

func TestApprovedScripts(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", tmp)
	h, _ := newHost(t, "")
	dir := real(t)
	write(t, dir+"/sh.sh", "#!/bin/sh\necho sh ${0##*/} $(readlink -f $0) $1 $(pwd)\n")
	write(t, dir+"/env.sh", "#!/usr/bin/env bash\necho env ${0##*/} $1\n")
	write(t, dir+"/split.sh", "#!/usr/bin/env -S bash -u\necho split ${0##*/} $1\n")
	write(t, dir+"/plain", "echo plain ${0##*/} $1\n")
	write(t, dir+"/nested", "#!"+dir+"/sh.sh\n")
	write(t, dir+"/self.sh", "#!/bin/sh\nif [ $# = 1 ]; then exec \"$0\" a b; fi; echo again ${0##*/}\n")
	write(t, dir+"/w.pl", "#!/usr/bin/perl -w\nuse FindBin; print \"perl $FindBin::RealBin @ARGV\\n\";\n")
	for _, tc := range []struct {
		name string
		argv []string
		want string
	}{
		{"first line", []string{dir + "/sh.sh", "a"}, "sh sh.sh " + dir + "/sh.sh a " + dir + "\n"},
		{"relative", []string{"./sh.sh", "a"}, "sh sh.sh " + dir + "/sh.sh a " + dir + "\n"},
		{"env", []string{dir + "/env.sh", "a"}, "env env.sh a\n"},
		{"env split", []string{dir + "/split.sh", "a"}, "split split.sh a\n"},
		{"argument", []string{"sh", "plain", "a"}, "plain plain a\n"},
		{"option and argument", []string{"bash", "--norc", "-u", "plain", "a"}, "plain plain a\n"},
		{"itself", []string{dir + "/self.sh", "a"}, "again self.sh\n"},
		{"perl", []string{dir + "/w.pl", "a"}, "perl " + dir + " a\n"},
		{"perl argument", []string{"perl", "-w", "w.pl", "a"}, "perl " + dir + " a\n"},
		{"program", []string{"cat", "/proc/self/comm"}, "cat\n"},
		{"inline", []string{"sh", "-c", "./sh.sh b; echo $0"}, "sh sh.sh " + dir + "/sh.sh b " + dir + "\nsh\n"},
		{"wrapped argument", []string{"env", "X=1", "bash", "-u", "plain", "c"}, "plain plain c\n"},
		{"inline of a wrapper", []string{"nice", "sh", "-c", "./sh.sh $0", "x"}, "sh sh.sh " + dir + "/sh.sh x " + dir + "\n"},
		{"wrapper", []string{"env", "X=1", "nice", "./sh.sh", "c"}, "sh sh.sh " + dir + "/sh.sh c " + dir + "\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run, binding := approve(t, h, m{"command": tc.argv, "cwd": dir})
			a := ask(t, h, "system.run", run)
			if a.refused || !a.Success || !strings.HasSuffix(a.Stdout, tc.want) {
				t.Errorf("%+v\nbinding %v", a, binding)
			}
			if b, err := json.Marshal(binding); err != nil || !strings.Contains(string(b), `"sha256"`) {
				t.Errorf("%s, %v", b, err)
			} else {
				t.Logf("%s", b)
			}
		})
	}
	if left, _ := os.ReadDir(tmp); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestFoldersOfTheDeadAreSwept(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", tmp)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	gone := fmt.Sprintf("%s/%s%d-1", tmp, host.RunFolder(), dead.Process.Pid)
	alive := fmt.Sprintf("%s/%s%d-1", tmp, host.RunFolder(), os.Getpid())
	// A container that shares the directory has processes that nobody else sees.
	foreign := fmt.Sprintf("%s/hanzod-run-1-%d-1", tmp, dead.Process.Pid)
	for _, dir := range []string{gone, alive, foreign, tmp + "/" + host.RunFolder() + "x-1"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	newHost(t, full)
	if left, _ := filepath.Glob(tmp + "/*"); len(left) != 3 || slices.Contains(left, gone) {
		t.Errorf("left %v", left)
	}
}

// A trap is what may happen to the files of a run between its approval and its start.
type trap struct {
	name string
	// prepare makes the files and returns the run; good and evil turn the files into what was approved
	// and into something else, each at once.
	prepare func(t *testing.T, dir string) (params m, good, evil func())
}

// The programs of the traps: what was approved makes a file at the path that it is given, the other
// makes a folder there.
const marks, strays = "/usr/bin/touch", "/usr/bin/mkdir"

func copyTo(tb testing.TB, from, to string) {
	tb.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o755); err != nil {
		tb.Fatal(err)
	}
}

// exchange swaps two paths at once.
func exchange(a, b string) {
	_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}

// swapping makes good and evil out of exchanging two paths.
func swapping(a, b string) (good, evil func()) {
	swapped := false
	return func() {
			if swapped {
				exchange(a, b)
				swapped = false
			}
		}, func() {
			if !swapped {
				exchange(a, b)
				swapped = true
			}
		}
}

// linkTurned is the trap that finds nothing to turn: the plan has the real path.
const linkTurned = "link turned"

const (
	markScript  = "#!/bin/sh\n# as approved\nexec " + marks + " \"$1\"\n"
	strayScript = "#!/bin/sh\n# otherwise \nexec " + strays + " \"$1\"\n"
)

var traps = []trap{
	{"program replaced", func(t *testing.T, dir string) (m, func(), func()) {
		copyTo(t, marks, dir+"/prog")
		copyTo(t, strays, dir+"/other")
		good, evil := swapping(dir+"/prog", dir+"/other")
		return m{"command": []string{dir + "/prog", "OUT"}}, good, evil
	}},
	{"program written to", func(t *testing.T, dir string) (m, func(), func()) {
		copyTo(t, marks, dir+"/prog")
		a, _ := os.ReadFile(marks)
		b, _ := os.ReadFile(strays)
		into := func(text []byte) func() { return func() { _ = os.WriteFile(dir+"/prog", text, 0o755) } }
		return m{"command": []string{dir + "/prog", "OUT"}}, into(a), into(b)
	}},
	{linkTurned, func(t *testing.T, dir string) (m, func(), func()) {
		to := func(target string) func() {
			return func() {
				_ = os.Symlink(target, dir+"/new")
				_ = os.Rename(dir+"/new", dir+"/link")
			}
		}
		to(marks)()
		return m{"command": []string{dir + "/link", "OUT"}}, to(marks), to(strays)
	}},
	{"parent replaced", func(t *testing.T, dir string) (m, func(), func()) {
		os.MkdirAll(dir+"/a/bin", 0o755)
		os.MkdirAll(dir+"/b/bin", 0o755)
		copyTo(t, marks, dir+"/a/bin/prog")
		copyTo(t, strays, dir+"/b/bin/prog")
		good, evil := swapping(dir+"/a", dir+"/b")
		return m{"command": []string{dir + "/a/bin/prog", "OUT"}}, good, evil
	}},
	{"script replaced", func(t *testing.T, dir string) (m, func(), func()) {
		write(t, dir+"/prog", markScript)
		write(t, dir+"/other", strayScript)
		good, evil := swapping(dir+"/prog", dir+"/other")
		return m{"command": []string{dir + "/prog", "OUT"}}, good, evil
	}},
	{"script written to", func(t *testing.T, dir string) (m, func(), func()) {
		write(t, dir+"/prog", markScript)
		into := func(text string) func() { return func() { _ = os.WriteFile(dir+"/prog", []byte(text), 0o755) } }
		return m{"command": []string{"sh", "prog", "OUT"}, "cwd": dir}, into(markScript), into(strayScript)
	}},
	{"script of a wrapper replaced", func(t *testing.T, dir string) (m, func(), func()) {
		write(t, dir+"/prog", markScript)
		write(t, dir+"/other", strayScript)
		good, evil := swapping(dir+"/prog", dir+"/other")
		return m{"command": []string{"env", "A=1", "nice", "./prog", "OUT"}, "cwd": dir}, good, evil
	}},
	{"interpreter replaced", func(t *testing.T, dir string) (m, func(), func()) {
		copyTo(t, "/bin/sh", dir+"/shell")
		copyTo(t, strays, dir+"/other")
		write(t, dir+"/prog", "#!"+dir+"/shell\nexec "+marks+" \"$1\"\n")
		good, evil := swapping(dir+"/shell", dir+"/other")
		return m{"command": []string{dir + "/prog", "OUT"}}, good, evil
	}},
	{"directory replaced", func(t *testing.T, dir string) (m, func(), func()) {
		os.Mkdir(dir+"/work", 0o755)
		os.Mkdir(dir+"/elsewhere", 0o755)
		write(t, dir+"/work/task", "echo "+marks+"\n")
		write(t, dir+"/elsewhere/task", "echo "+strays+"\n")
		good, evil := swapping(dir+"/work", dir+"/elsewhere")
		return m{"command": []string{"sh", "-c", `$(sh ./task) "$0"`, "OUT"}, "cwd": dir + "/work"}, good, evil
	}},
}

func why(a answer) string {
	if a.Error == nil {
		return a.Stderr
	}
	return (*a.Error)[max(0, len(*a.Error)-30):]
}

// linger waits for a while of milliseconds at the most, often not at all.
func linger(most int) {
	if n := rand.IntN(2 * most); n < most {
		time.Sleep(time.Duration(n)*time.Millisecond + time.Duration(rand.IntN(1000))*time.Microsecond)
	}
}

// TestSwappedFiles lets somebody change the files of an approved run in a tight loop while it starts,
// again and again: it is refused, or what was approved runs.
func TestSwappedFiles(t *testing.T) {
	least := 400 * time.Millisecond
	if rounds, _ := strconv.Atoi(os.Getenv("ROBUST_ROUNDS")); os.Getenv("ROBUST") != "" {
		least = time.Duration(max(rounds, 1)) * 10 * time.Millisecond
	}
	for _, trap := range traps {
		t.Run(trap.name, func(t *testing.T) {
			dir := real(t)
			h, _ := newHost(t, "")
			params, good, evil := trap.prepare(t, dir)
			run, _ := approve(t, h, params)
			argv, _ := run["command"].([]any)
			out := dir + "/out"
			argv[len(argv)-1] = out
			delete(run, "rawCommand")
			// The output is part of the argv and of the line of a shell, so the binding is asked for anew.
			run, _ = approve(t, h, m{"command": argv, "cwd": run["cwd"]})

			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				for {
					select {
					case <-stop:
						return
					default:
					}
					evil()
					linger(2)
					good()
					linger(6)
				}
			}()
			ran, refused := 0, map[string]int{}
			for begin := time.Now(); time.Since(begin) < least || (ran == 0 || len(refused) == 0 && trap.name != linkTurned) && time.Since(begin) < 20*least; {
				a := ask(t, h, "system.run", run)
				switch fi, err := os.Lstat(out); {
				case err == nil && fi.IsDir():
					t.Fatalf("something else ran: %+v", a)
				case err == nil && !a.refused:
					ran++
				case err == nil:
					t.Fatalf("it ran and was refused: %+v", a)
				case a.refused:
					if !strings.HasPrefix(a.Message, "SYSTEM_RUN_DENIED: ") {
						t.Fatalf("%+v", a)
					}
					refused[a.Message[:min(len(a.Message), 60)]]++
				default: // it could not be started, or what it needs was gone
					refused["not started: "+why(a)]++
				}
				os.Remove(out)
			}
			close(stop)
			<-stopped
			if ran == 0 || len(refused) == 0 && trap.name != linkTurned {
				t.Errorf("ran %d times, and was stopped by nothing: %v", ran, refused)
			}
			t.Logf("ran %d times, %v", ran, refused)
		})
	}
}

// TestListed: what the list covers runs, whatever way it is named.
func TestListed(t *testing.T) {
	dir := real(t)
	write(t, dir+"/tool", "#!/bin/sh\necho script $0 $1\n")
	os.Symlink(dir+"/tool", dir+"/link")
	h, _ := newHost(t, `{"version":1,"agents":{"main":{"security":"allowlist","ask":"off","allowlist":[{"pattern":"/**/echo"},{"pattern":"`+dir+`/*"}]}}}`)
	for _, tc := range []struct {
		argv []string
		want string
	}{
		{[]string{"echo", "a"}, "a\n"}, {[]string{"/bin/echo", "a"}, "a\n"}, {[]string{"/usr/bin/echo", "a"}, "a\n"},
		{[]string{"env", "echo", "a"}, "a\n"}, {[]string{"/usr/bin/nice", "-n", "1", "echo", "a"}, "a\n"}, {[]string{"timeout", "5", "/bin/echo", "a"}, "a\n"},
		{[]string{dir + "/tool", "a"}, "script " + dir + "/tool a\n"}, {[]string{"./link", "a"}, "script " + dir + "/tool a\n"},
	} {
		if a := ask(t, h, "system.run", m{"command": tc.argv, "cwd": dir}); a.Stdout != tc.want {
			t.Errorf("%q: %+v", tc.argv, a)
		}
	}
}
