package host_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
	if left, _ := filepath.Glob(os.TempDir() + "/hanzod-run-*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
