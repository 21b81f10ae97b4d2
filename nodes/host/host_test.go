//go:build !windows

package host_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/nodes/host"
	"go.uber.org/goleak"
)

func newHost(tb testing.TB, file string, env ...string) (*host.Host, *policy.File) {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "exec-approvals.json")
	if file != "" {
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	f := policy.Open(path, policy.Options{
		HomeDir:  "/home/u",
		Defaults: policy.Overrides{Security: policy.SecurityAllowlist, Ask: policy.AskOnMiss},
	})
	c := host.Config{Policy: f}
	if env != nil {
		c.Env = func() []string { return env }
	}
	return host.New(c), f
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const full = `{"version":1,"defaults":{"security":"full","ask":"off"}}`

type answer struct {
	ExitCode          *int
	TimedOut, Success bool
	Stdout, Stderr    string
	Error             *string
	Bins              map[string]string
	Hash              string
	File              json.RawMessage

	Code, Message string // of a refusal
	Events        []string
	refused       bool
}

// ask calls the host with params given as a Go value.
func ask(tb testing.TB, h *host.Host, command string, params any) answer {
	tb.Helper()
	return askContext(tb, context.Background(), h, command, params)
}

func askContext(tb testing.TB, ctx context.Context, h *host.Host, command string, params any) (a answer) {
	tb.Helper()
	raw, err := json.Marshal(params)
	if err != nil {
		tb.Fatal(err)
	}
	p := string(raw)
	r := h.Handle(ctx, host.Request{ID: "i", Command: command, ParamsJSON: &p, Emit: func(event, payload string) {
		a.Events = append(a.Events, event+" "+payload)
	}})
	if r.Error != nil {
		a.refused, a.Code, a.Message = true, r.Error.Code, r.Error.Message
		return a
	}
	if err := json.Unmarshal([]byte(*r.PayloadJSON), &a); err != nil {
		tb.Fatal(err)
	}
	return a
}

type m = map[string]any

func sh(script string, more ...any) m {
	p := m{"command": []string{"/bin/sh", "-c", script}}
	for i := 0; i+1 < len(more); i += 2 {
		p[more[i].(string)] = more[i+1]
	}
	return p
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatal("never happened: " + what)
		}
	}
}

func TestRun(t *testing.T) {
	h, _ := newHost(t, full)
	dir, _ := filepath.EvalSymlinks(t.TempDir())
	for name, tc := range map[string]struct {
		params m
		code   string // exit code, "" for none
		out    string
	}{
		"ok":           {sh("echo hi; echo err >&2"), "0", "hi\n|err\n"},
		"exit code":    {sh("exit 7"), "7", "|"},
		"signal":       {sh("kill -TERM $$"), "", "|"},
		"stdin closed": {sh("cat; echo done"), "0", "done\n|"},
		"cwd":          {sh("pwd", "cwd", dir), "0", dir + "\n|"},
		"env": {sh("echo $TERM,$FOO,$LD_PRELOAD,$PATH", "env", m{"TERM": "x", "FOO": "1", "LD_PRELOAD": "/e.so", "PATH": "/evil", "N": 5}),
			"0", "x,,," + os.Getenv("PATH") + "\n|"},
		"env direct": {m{"command": []string{"env"}, "env": m{"FOO": "1", "LD_PRELOAD": "/e.so", "BASH_ENV": "/e"}}, "0", "FOO=1"},
		"utf-8":      {sh(`printf 'a\377b'`), "0", "a\uFFFDb|"},
		"angle":      {sh(`echo "<&>"`), "0", "<&>\n|"},
	} {
		t.Run(name, func(t *testing.T) {
			a := ask(t, h, "system.run", tc.params)
			code := ""
			if a.ExitCode != nil {
				code = strconv.Itoa(*a.ExitCode)
			}
			if a.refused || code != tc.code || a.Success != (code == "0") || a.TimedOut || a.Error != nil {
				t.Fatalf("%+v", a)
			}
			if got := a.Stdout + "|" + a.Stderr; got != tc.out && (name != "env direct" || !strings.Contains(got, tc.out)) {
				t.Errorf("output %q, want %q", got, tc.out)
			}
			if strings.Contains(a.Stdout, "e.so") || strings.Contains(a.Stdout, "BASH_ENV") {
				t.Errorf("a dangerous variable came through: %q", a.Stdout)
			}
			if len(a.Events) != 1 || !strings.HasPrefix(a.Events[0], `exec.finished {"sessionKey":"node","runId":"`) {
				t.Errorf("events %q", a.Events)
			}
		})
	}
}

func TestEmptyEnvironmentIsNotInherited(t *testing.T) {
	t.Setenv("SECRET_OF_HOST", "1")
	h, _ := newHost(t, full, "LD_PRELOAD=left out, so that nothing is left")
	if a := ask(t, h, "system.run", m{"command": []string{"/usr/bin/env"}}); a.Stdout != "" || !a.Success {
		t.Errorf("%+v", a)
	}
}

func TestSpawnErrors(t *testing.T) {
	h, _ := newHost(t, full)
	for name, p := range map[string]m{
		"program":   {"command": []string{"no-such-program-here"}},
		"cwd":       {"command": []string{"true"}, "cwd": "/no/such/dir"},
		"directory": {"command": []string{"/tmp"}},
		"nul":       {"command": []string{"true", "a\x00b"}},
	} {
		a := ask(t, h, "system.run", p)
		if a.refused || a.Error == nil || !strings.HasPrefix(*a.Error, "spawn ") || a.Success || a.ExitCode != nil {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// pidIn waits for a pid that a command writes to a file.
func pidIn(tb testing.TB, file string) (pid int) {
	tb.Helper()
	eventually(tb, "pid in "+file, func() bool {
		b, _ := os.ReadFile(file)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		return pid > 0
	})
	return pid
}

func TestTimeoutKillsGrandchildren(t *testing.T) {
	h, _ := newHost(t, full)
	file := filepath.Join(t.TempDir(), "pid")
	begin := time.Now()
	a := ask(t, h, "system.run", sh("(trap '' TERM; sleep 300 & echo $! >"+file+"; wait) & echo started; wait", "timeoutMs", 500))
	if a.refused || !a.TimedOut || a.Success || a.ExitCode != nil || a.Stdout != "started\n" {
		t.Errorf("%+v", a)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	pid := pidIn(t, file)
	eventually(t, "grandchild gone", func() bool { return !alive(pid) || zombie(pid) })
}

// zombie reports whether a process has ended and waits for a parent, which in a container may be
// nobody.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(b), ") Z ")
}

func TestContextKillsGroup(t *testing.T) {
	h, _ := newHost(t, full)
	file := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan answer, 1)
	go func() { got <- askContext(t, ctx, h, "system.run", sh("sleep 300 & echo $! >"+file+"; wait")) }()
	pid := pidIn(t, file)
	cancel()
	if a := <-got; a.TimedOut || a.Success || a.ExitCode != nil {
		t.Errorf("%+v", a)
	}
	eventually(t, "child gone", func() bool { return !alive(pid) || zombie(pid) })
}

func TestOutputOfChildrenIsWaitedFor(t *testing.T) {
	h, _ := newHost(t, full)
	a := ask(t, h, "system.run", sh("(sleep 0.3; echo late) & echo early"))
	if a.Stdout != "early\nlate\n" || !a.Success {
		t.Errorf("%+v", a)
	}
	begin := time.Now() // but not for ever
	a = ask(t, h, "system.run", sh("sleep 30 & echo early"))
	if took := time.Since(begin); took > 10*time.Second || a.Stdout != "early\n" || !a.Success || a.Error != nil {
		t.Errorf("%v %+v", took, a)
	}
}

func TestFlood(t *testing.T) {
	h, _ := newHost(t, full)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	a := ask(t, h, "system.run", sh("head -c 52428800 /dev/zero | tr '\\0' x"))
	runtime.ReadMemStats(&after)
	const mark = "\n... (truncated)"
	if len(a.Stdout) != host.OutputCap+len(mark) || !strings.HasSuffix(a.Stdout, mark) || !a.Success {
		t.Errorf("%d bytes, %+v", len(a.Stdout), a.Error)
	}
	if grown := int64(after.TotalAlloc - before.TotalAlloc); grown > 16<<20 {
		t.Errorf("allocated %d bytes for 50 MiB of output", grown)
	}
	if len(a.Events[0]) > 60_000 || !strings.Contains(a.Events[0], `"output":"... (truncated) xxx`) {
		t.Errorf("event of %d bytes: %.300s", len(a.Events[0]), a.Events[0])
	}
	// Both streams share the limit, and the mark goes to stderr when that says something.
	a = ask(t, h, "system.run", sh("echo oops >&2; head -c 300000 /dev/zero | tr '\\0' x"))
	if len(a.Stdout)+len(a.Stderr) != host.OutputCap+len(mark) || a.Stderr != "oops\n"+mark {
		t.Errorf("%d + %q", len(a.Stdout), a.Stderr)
	}
	// A character that the limit splits is left out whole.
	a = ask(t, h, "system.run", sh("i=0; while [ $i -lt 100 ]; do printf x; head -c 3000 /dev/zero | sed 's/\\x00/é/g'; i=$((i+1)); done"))
	if strings.Contains(a.Stdout, "\uFFFD") || !strings.HasSuffix(a.Stdout, mark) {
		t.Errorf("end %q", a.Stdout[len(a.Stdout)-40:])
	}
}

func TestApprovedCwd(t *testing.T) {
	root, _ := filepath.EvalSymlinks(t.TempDir())
	os.MkdirAll(root+"/real/sub", 0o700)
	os.WriteFile(root+"/file", nil, 0o600)
	os.Symlink(root+"/real", root+"/link")
	h, _ := newHost(t, "")
	for cwd, want := range map[string]string{
		root + "/real":       "",
		root + "/real/":      "",
		root + "/gone":       "SYSTEM_RUN_DENIED: approval requires an existing canonical cwd",
		root + "/file":       "SYSTEM_RUN_DENIED: approval requires cwd to be a directory",
		root + "/link":       "SYSTEM_RUN_DENIED: approval requires canonical cwd (no symlink path components)",
		root + "/link/sub":   "SYSTEM_RUN_DENIED: approval requires canonical cwd (no symlink path components)",
		root + "/link/../x/": "SYSTEM_RUN_DENIED: approval requires an existing canonical cwd",
	} {
		a := ask(t, h, "system.run", m{"command": []string{"pwd"}, "cwd": cwd, "approved": true})
		if a.Message != want || want == "" && a.Stdout != root+"/real\n" {
			t.Errorf("%s: %+v", cwd, a)
		}
		if want != "" && (a.Code != "UNAVAILABLE" || len(a.Events) != 1 || !strings.Contains(a.Events[0], `"reason":"approval-required"`)) {
			t.Errorf("%s: %+v", cwd, a)
		}
	}
}

func TestSwappedCwd(t *testing.T) {
	root, _ := filepath.EvalSymlinks(t.TempDir())
	os.MkdirAll(root+"/work", 0o700)
	os.MkdirAll(root+"/evil", 0o700)
	for name, swap := range map[string]func(){
		"directory": func() { os.Rename(root+"/work", root+"/old"); os.Rename(root+"/evil", root+"/work") },
		"link":      func() { os.RemoveAll(root + "/work"); os.Symlink(root+"/old", root+"/work") },
	} {
		os.RemoveAll(root + "/work")
		os.MkdirAll(root+"/work", 0o700)
		os.MkdirAll(root+"/evil", 0o700)
		h, _ := newHost(t, "")
		h.BeforeSpawn(swap)
		a := ask(t, h, "system.run", m{"command": []string{"touch", "ran"}, "cwd": root + "/work", "approvalDecision": "allow-once"})
		if a.Message != "SYSTEM_RUN_DENIED: approval cwd changed before execution" {
			t.Errorf("%s: %+v", name, a)
		}
		if found, _ := filepath.Glob(root + "/*/ran"); found != nil {
			t.Errorf("%s: ran in %v", name, found)
		}
	}
}

func TestAllowAlways(t *testing.T) {
	h, f := newHost(t, "")
	plain := m{"command": []string{"uname", "-s"}, "agentId": " ops "}
	if a := ask(t, h, "system.run", plain); a.Message != "SYSTEM_RUN_DENIED: approval required" || a.Code != "UNAVAILABLE" ||
		!strings.Contains(a.Events[0], `"command":"uname -s","reason":"approval-required"`) {
		t.Fatalf("%+v", a)
	}
	approved := m{"command": []string{"uname", "-s"}, "agentId": "ops", "approvalDecision": "allow-always", "runId": "A1", "sessionKey": "s"}
	if a := ask(t, h, "system.run", approved); !a.Success || !strings.Contains(a.Events[0], `{"sessionKey":"s","runId":"A1","host":"node"`) {
		t.Fatalf("%+v", a)
	}
	if a := ask(t, h, "system.run", plain); !a.Success {
		t.Fatalf("%+v", a)
	}
	if a := ask(t, h, "system.run", m{"command": []string{"uname", "-s"}}); !a.refused {
		t.Error("another agent may run it too")
	}
	s, err := f.Snapshot()
	if err != nil || !strings.Contains(string(s.File), `"lastUsedCommand":"uname -s"`) {
		t.Errorf("%s, %v", s.File, err)
	}
	// What a wrapper runs is stored, and runs again within the wrapper.
	wrapped := m{"command": []string{"nice", "-n", "7", "printenv", "PATH"}}
	if a := ask(t, h, "system.run", wrapped); !a.refused {
		t.Fatalf("%+v", a)
	}
	wrapped["approvalDecision"] = "allow-always"
	if a := ask(t, h, "system.run", wrapped); !a.Success {
		t.Fatalf("%+v", a)
	}
	delete(wrapped, "approvalDecision")
	if a := ask(t, h, "system.run", wrapped); !a.Success {
		t.Fatalf("%+v", a)
	}
	for _, argv := range [][]string{{"sh", "-c", "uname"}, {"env", "A=1", "uname"}, {"nice", "sh", "-c", "uname"}} {
		before, _ := f.Snapshot()
		if a := ask(t, h, "system.run", m{"command": argv, "approvalDecision": "allow-always"}); !a.Success {
			t.Errorf("%q: %+v", argv, a)
		}
		if after, _ := f.Snapshot(); after.Hash != before.Hash {
			t.Errorf("%q was stored", argv)
		}
	}
}

// TestTextThatHidesAScript is about a command whose text for people is not what its shell would run.
func TestTextThatHidesAScript(t *testing.T) {
	h, _ := newHost(t, `{"version":1,"defaults":{"security":"full","ask":"off"}}`)
	dir := t.TempDir()
	for _, name := range []string{"x.sh", "true and more"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("touch ran"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, argv := range [][]string{{"sh", "x.sh", "-c", "true"}, {"sh", "-C", "true and more"}} {
		for _, command := range []string{"system.run", "system.run.prepare"} {
			a := ask(t, h, command, m{"command": argv, "cwd": dir, "approved": true})
			if a.Code != "INVALID_REQUEST" || !strings.Contains(a.Message, "something else than the text that is shown") {
				t.Errorf("%q: %+v", argv, a)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
		t.Error("it ran")
	}
}

func TestDamagedPolicyRefuses(t *testing.T) {
	h, _ := newHost(t, "{")
	for _, p := range []m{{"command": []string{"true"}}, {"command": []string{"true"}, "approved": true}} {
		if a := ask(t, h, "system.run", p); a.Message != "SYSTEM_RUN_DISABLED: security=deny" {
			t.Errorf("%+v", a)
		}
	}
	if a := ask(t, h, "system.execApprovals.get", m{}); a.Code != "INVALID_REQUEST" || !strings.Contains(a.Message, "cannot be used") {
		t.Errorf("%+v", a)
	}
}

func TestParameterErrors(t *testing.T) {
	h, _ := newHost(t, full)
	text := func(s string) *string { return &s }
	for name, tc := range map[string]struct {
		command string
		params  *string
		want    host.Error
	}{
		"unknown":    {"system.nope", nil, host.Error{Code: "UNAVAILABLE", Message: "command not supported"}},
		"no params":  {"system.run", nil, host.Error{Code: "INVALID_REQUEST", Message: "Error: INVALID_REQUEST: paramsJSON required"}},
		"empty":      {"system.which", text(""), host.Error{Code: "INVALID_REQUEST", Message: "Error: INVALID_REQUEST: paramsJSON required"}},
		"bad json":   {"system.run", text("{"), host.Error{Code: "INVALID_REQUEST", Message: "SyntaxError: paramsJSON is not valid JSON"}},
		"no command": {"system.run", text("{}"), host.Error{Code: "INVALID_REQUEST", Message: "command required"}},
		"scalar":     {"system.run", text("5"), host.Error{Code: "INVALID_REQUEST", Message: "command required"}},
		"raw":        {"system.run", text(`{"command":["a"],"rawCommand":"b"}`), host.Error{Code: "INVALID_REQUEST", Message: "INVALID_REQUEST: rawCommand does not match command"}},
		"raw alone":  {"system.run", text(`{"rawCommand":"b"}`), host.Error{Code: "INVALID_REQUEST", Message: "rawCommand requires params.command"}},
		"bins":       {"system.which", text("{}"), host.Error{Code: "INVALID_REQUEST", Message: "Error: INVALID_REQUEST: bins required"}},
		"bins null":  {"system.which", text(`{"bins":null}`), host.Error{Code: "INVALID_REQUEST", Message: "Error: INVALID_REQUEST: bins required"}},
		"file":       {"system.execApprovals.set", text(`{"file":[]}`), host.Error{Code: "INVALID_REQUEST", Message: "Error: INVALID_REQUEST: exec approvals file required"}},
		"hash":       {"system.execApprovals.set", text(`{"file":{"version":1}}`), host.Error{Code: "INVALID_REQUEST", Message: "Error: INVALID_REQUEST: exec approvals base hash required; reload and retry"}},
		"stale":      {"system.execApprovals.set", text(`{"file":{"version":1},"baseHash":"0"}`), host.Error{Code: "INVALID_REQUEST", Message: "Error: INVALID_REQUEST: exec approvals changed; reload and retry"}},
		"screen":     {"system.run", text(`{"command":["true"],"needsScreenRecording":true}`), host.Error{Code: "UNAVAILABLE", Message: "PERMISSION_MISSING: screenRecording"}},
	} {
		r := h.Handle(context.Background(), host.Request{Command: tc.command, ParamsJSON: tc.params})
		if r.OK || *r.Error != tc.want {
			t.Errorf("%s: %+v", name, r.Error)
		}
	}
}

func TestWhich(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(dir+"/tool", []byte("#!/bin/sh\n"), 0o755)
	os.WriteFile(dir+"/plain", nil, 0o644)
	os.Mkdir(dir+"/folder", 0o755)
	h, _ := newHost(t, "", "PATH="+dir)
	a := ask(t, h, "system.which", m{"bins": []any{" tool ", "plain", "folder", "gone", "a/b", dir + "/tool", "tool", 5, "", "~"}})
	if len(a.Bins) != 1 || a.Bins["tool"] != dir+"/tool" {
		t.Errorf("%+v", a.Bins)
	}
	if a = ask(t, h, "system.which", m{"bins": make([]string, 1001)}); !a.refused {
		t.Error("a list without bound")
	}
}

func TestPolicyOverTheWire(t *testing.T) {
	h, _ := newHost(t, "")
	a := ask(t, h, "system.execApprovals.get", m{})
	if a.refused || a.Hash == "" || !strings.Contains(string(a.File), `"socket":{"path":`) || strings.Contains(string(a.File), "token") {
		t.Fatalf("%+v", a)
	}
	b := ask(t, h, "system.execApprovals.set", m{"file": m{"version": 1, "defaults": m{"security": "full", "ask": "off"}}, "baseHash": a.Hash})
	if b.refused || b.Hash == a.Hash {
		t.Fatalf("%+v", b)
	}
	if r := ask(t, h, "system.run", m{"command": []string{"true"}}); !r.Success {
		t.Errorf("%+v", r)
	}
}

func TestTooManyRuns(t *testing.T) {
	h, _ := newHost(t, full)
	ctx, cancel := context.WithCancel(context.Background())
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range host.MaxRuns {
		wg.Go(func() {
			askContext(t, ctx, h, "system.run", sh(fmt.Sprintf("echo 1 >%s/%d; exec sleep 60", dir, i)))
		})
	}
	eventually(t, "all running", func() bool {
		all, _ := filepath.Glob(dir + "/*")
		return len(all) == host.MaxRuns
	})
	if a := ask(t, h, "system.run", m{"command": []string{"true"}}); a.Code != "UNAVAILABLE" || !strings.Contains(a.Message, "too many") {
		t.Errorf("%+v", a)
	}
	cancel()
	wg.Wait()
	if a := ask(t, h, "system.run", m{"command": []string{"true"}}); !a.Success {
		t.Errorf("%+v", a)
	}
}
