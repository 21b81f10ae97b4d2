//go:build unix

package source

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// word is a secret: no error may hold it.
const word = "swordfish-0123456789"

// script writes a program that only its owner may change.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(realDir(t), "program")
	// A child that starts meanwhile would hold the file open for writing, and it could not be run.
	syscall.ForkLock.RLock()
	err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func realDir(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i+1 < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// one asks one provider for one secret.
func one(t *testing.T, p Provider, id string) Result {
	t.Helper()
	s := Settings{Providers: map[string]Provider{"p": p}, Env: env("HOME", "/nowhere", "SHOWN", "yes", "HIDDEN", word)}
	r := s.Resolve(t.Context(), []Ref{{p.Source, "p", id}})[0]
	if r.Err != nil && strings.Contains(r.Err.Error(), word) {
		t.Errorf("an error shows the secret: %v", r.Err)
	}
	return r
}

func TestPrograms(t *testing.T) {
	t.Parallel()
	answer := func(body string) string { return "cat >/dev/null; printf '%s' '" + body + "'\n" }
	slow := 200 * time.Millisecond
	for _, c := range []struct {
		name, text    string
		p             Provider
		want, problem string
	}{
		{"answers", answer(`{"protocolVersion":1,"values":{"a/b":"` + word + `"}}`), Provider{}, word, ""},
		{"is told what is wanted", `read line; case $line in '{"ids":["a/b"],"protocolVersion":1,"provider":"p"}') printf '{"protocolVersion":1,"values":{"a/b":"%s"}}' "` + word + `";; esac`, Provider{}, word, ""},
		{"prints text", "echo " + word, Provider{AnyText: true}, word, ""},
		{"prints text and may not", "echo " + word, Provider{}, "", `printed no answer in JSON with "protocolVersion" 1`},
		{"reads nothing", `echo '{"protocolVersion":1,"values":{"a/b":"x"}}'`, Provider{}, "x", ""},
		{"has nothing", answer(`{"protocolVersion":1,"values":{}}`), Provider{}, "", `did not answer for "a/b"`},
		{"says why", answer(`{"protocolVersion":1,"values":{"a/b":"x"},"errors":{"a/b":{"message":"` + word + `"}}}`), Provider{}, "", `has no secret "a/b"`},
		{"no string", answer(`{"protocolVersion":1,"values":{"a/b":{"x":"` + word + `"}}}`), Provider{}, "", `answered with no string for "a/b"`},
		{"empty", answer(`{"protocolVersion":1,"values":{"a/b":" "}}`), Provider{}, "", `resolves to an empty value`},
		{"other version", answer(`{"protocolVersion":2,"values":{"a/b":"` + word + `"}}`), Provider{}, "", `a "protocolVersion" other than 1`},
		{"values are none", answer(`{"protocolVersion":1,"values":["` + word + `"]}`), Provider{}, "", `"values" or "errors" that are no objects`},
		{"fails", "echo " + word + " >&2; exit 3", Provider{}, "", "failed (exit status 3); run it yourself to see why"},
		{"too slow", "while :; do echo x >&2; sleep 0.05; done", Provider{Timeout: slow}, "", "took longer than 200ms"},
		{"silent", "sleep 10", Provider{Silence: slow}, "", "printed nothing for 200ms"},
		{"floods", "cat >/dev/null; while :; do echo " + word + "; done", Provider{MaxBytes: 4096}, "", "printed more than 4096 bytes"},
		{"keeps to itself what floods its errors", `while [ $((n=n+1)) -lt 5000 ]; do echo ` + word + ` >&2; done; echo '{"protocolVersion":1,"values":{"a/b":"x"}}'`, Provider{MaxBytes: 4096}, "x", ""},
		{"sees what it may", `printf '%s' "$SHOWN$SET$HIDDEN$HOME"`, Provider{AnyText: true, PassEnv: []string{"SHOWN"}, Env: map[string]string{"SET": "-set"}}, "yes-set", ""},
		{"arguments are no shell", `printf '%s' "$1"`, Provider{AnyText: true, Args: []string{"$(id) `id` ;id"}}, "$(id) `id` ;id", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.p.Source, c.p.Command = Exec, script(t, c.text)
			r := one(t, c.p, "a/b")
			if c.problem == "" && (r.Err != nil || r.Text != c.want) || c.problem != "" && (r.Err == nil || !strings.Contains(r.Err.Error(), c.problem)) {
				t.Errorf("got %q, %v; want %q, %q", r.Text, r.Err, c.want, c.problem)
			}
		})
	}
}

// TestProgramsChildrenEnd holds that nothing that a program started outlives the question.
func TestProgramsChildrenEnd(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]string{"ended by itself": "echo text", "ended by us": "sleep 60"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pid := filepath.Join(realDir(t), "pid")
			begin := time.Now()
			one(t, Provider{Source: Exec, AnyText: true, Silence: 300 * time.Millisecond, Command: script(t, "sleep 60 & echo $! > "+pid+"\n"+end)}, "x")
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("it took %s", took)
			}
			text, err := os.ReadFile(pid)
			if err != nil {
				t.Fatal(err)
			}
			child, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			for range 100 {
				if syscall.Kill(child, 0) != nil || zombie(child) {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
			t.Error("the child still runs")
		})
	}
}

// zombie says that a process has ended and nobody has taken note.
func zombie(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(text), ") Z ")
}

func TestWhichProgramsRun(t *testing.T) {
	t.Parallel()
	good := script(t, "echo ok")
	dir := filepath.Dir(good)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	loose := script(t, "echo ok")
	if err := os.Chmod(loose, 0o722); err != nil {
		t.Fatal(err)
	}
	open := script(t, "echo ok")
	if err := os.Chmod(filepath.Dir(open), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, problem string
		p             Provider
	}{
		{"a file", "", Provider{Command: good}},
		{"none", "it needs a command", Provider{}},
		{"relative", "is no absolute path", Provider{Command: "program"}},
		{"missing", "is not there", Provider{Command: filepath.Join(dir, "none")}},
		{"directory", "is not a regular file", Provider{Command: dir}},
		{"device", "is not a regular file", Provider{Command: "/dev/null"}},
		{"link", "is a symbolic link", Provider{Command: link}},
		{"link that may be", "", Provider{Command: link, AllowSymlink: true}},
		{"link that leads out", "is not beneath the trustedDirs", Provider{Command: link, AllowSymlink: true, TrustedDirs: []string{"/usr/bin"}}},
		{"in its place", "", Provider{Command: good, TrustedDirs: []string{"/usr/bin", dir}}},
		{"beside its place", "is not beneath the trustedDirs", Provider{Command: good, TrustedDirs: []string{dir + "x", dir[:len(dir)-1]}}},
		{"others change it", "others may change it (mode 0722)", Provider{Command: loose}},
		{"others replace it", "others may change it (mode 0777)", Provider{Command: open}},
		{"others may", "", Provider{Command: open, Insecure: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.p.Source, c.p.AnyText = Exec, true
			r := one(t, c.p, "x")
			if (r.Err == nil) != (c.problem == "") || r.Err != nil && !strings.Contains(r.Err.Error(), c.problem) {
				t.Errorf("got %q, %v", r.Text, r.Err)
			}
		})
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	dir := realDir(t)
	make := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	doc := make("doc", `{"a":{"b/c":["`+word+`"]}}`, 0o600)
	link, pipe := filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	if err := os.Symlink(doc, link); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	huge := make("huge", "", 0o600)
	if err := os.Truncate(huge, 1<<40); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, id, want, problem string
		p                       Provider
	}{
		{"document", "/a/b~1c/0", word, "", Provider{Path: doc}},
		{"nothing there", "/a/0", "", `has nothing at "/a/0"`, Provider{Path: doc}},
		{"no string", "/a", "", `holds no string at "/a"`, Provider{Path: doc}},
		{"no pointer", "a", "", `is no JSON pointer`, Provider{Path: doc}},
		{"no document", "/a", "", "is not JSON", Provider{Path: make("text", word, 0o600)}},
		{"text", "value", word, "", Provider{Path: make("text", word+"\r\n", 0o600), Single: true}},
		{"text by another id", "/a", "", `must be "value"`, Provider{Path: doc, Single: true}},
		{"read by others", "/a/b~1c/0", "", "others may read it (mode 0640); run chmod 600", Provider{Path: make("shared", `{"a":{"b/c":["`+word+`"]}}`, 0o640)}},
		{"read by others who may", "/a/b~1c/0", word, "", Provider{Path: filepath.Join(dir, "shared"), Insecure: true}},
		{"link", "/a/b~1c/0", "", "it is a symbolic link", Provider{Path: link}},
		{"link that may be", "/a/b~1c/0", word, "", Provider{Path: link, Insecure: true}},
		{"pipe", "/a", "", "it is not a regular file", Provider{Path: pipe}},
		{"directory", "/a", "", "it is not a regular file", Provider{Path: dir}},
		{"endless", "/a", "", "", Provider{Path: huge}},
		{"too large", "value", "", "is larger than 3 bytes", Provider{Path: doc, Single: true, MaxBytes: 3}},
		{"missing", "/a", "", "no such file", Provider{Path: filepath.Join(dir, "none")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.p.Source = File
			r := one(t, c.p, c.id)
			if c.want != "" && (r.Err != nil || r.Text != c.want) || c.want == "" && (r.Err == nil || !strings.Contains(r.Err.Error(), c.problem)) {
				t.Errorf("got %q, %v", r.Text, r.Err)
			}
		})
	}
}

// TestBatches holds that each provider is asked once, and within its limits.
func TestBatches(t *testing.T) {
	t.Parallel()
	count := filepath.Join(realDir(t), "count")
	cmd := script(t, "echo x >> "+count+`; cat >/dev/null; printf '{"protocolVersion":1,"values":{"a":"1","b":"2"}}'`)
	s := Settings{Env: env(), Providers: map[string]Provider{"p": {Source: Exec, Command: cmd}}, Defaults: map[string]string{Exec: "p"}}
	out := s.Resolve(t.Context(), []Ref{{Exec, "p", "a"}, {Exec, "", "b"}, {Env, "", "X"}, {Exec, "p", "a"}, {Exec, "none", "a"}})
	if out[0].Text != "1" || out[1].Text != "2" || out[2].Err == nil || out[3].Text != "1" || out[4].Err == nil {
		t.Errorf("got %+v", out)
	}
	if text, err := os.ReadFile(count); err != nil || string(text) != "x\n" {
		t.Errorf("the program ran %q, %v", text, err)
	}
	s.MaxRefs = 1
	if out := s.Resolve(t.Context(), []Ref{{Exec, "p", "a"}, {Exec, "p", "b"}}); out[0].Err == nil || !strings.Contains(out[0].Err.Error(), "maxRefsPerProvider allows 1") {
		t.Errorf("got %+v", out)
	}
	s.MaxRefs, s.MaxBatchBytes = 0, 20
	if out := s.Resolve(t.Context(), []Ref{{Exec, "p", "a"}}); out[0].Err == nil || !strings.Contains(out[0].Err.Error(), "maxBatchBytes allows 20") {
		t.Errorf("got %+v", out)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	s.MaxBatchBytes = 0
	if out := s.Resolve(ended, []Ref{{Exec, "p", "a"}}); out[0].Err == nil {
		t.Errorf("got %+v", out)
	}
}

func TestWrongReferences(t *testing.T) {
	t.Parallel()
	s := Settings{Env: env(), Providers: map[string]Provider{"e": {Source: Exec, Command: "/bin/true"}}}
	for _, ref := range []Ref{{"kms", "", "x"}, {Exec, "e", ""}, {Exec, "e", "../x"}, {Exec, "e", "a/../b"}, {Exec, "e", "a b"}, {Exec, "e", "-x"}, {Exec, "E", "x"}, {Env, "", "a"}, {Env, "", strings.Repeat("A", 200)}, {File, "e", "/x"}} {
		if r := s.Resolve(t.Context(), []Ref{ref})[0]; r.Err == nil {
			t.Errorf("%+v was taken: %q", ref, r.Text)
		}
	}
}
