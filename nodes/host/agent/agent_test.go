//go:build !windows

package agent_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/nodes/host/agent"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type world struct {
	*testing.T
	a   *agent.Agent
	h   *host.Host
	dir string
	bin string
}

func newWorld(t *testing.T, security policy.Security, change func(*agent.Config)) *world {
	t.Helper()
	w := &world{T: t, dir: t.TempDir(), bin: t.TempDir()}
	f := policy.Open(filepath.Join(t.TempDir(), "exec-approvals.json"), policy.Options{
		HomeDir: "/home/u", Defaults: policy.Overrides{Security: security, Ask: policy.AskOff},
	})
	c := agent.Config{
		Policy: f, Dir: w.dir, StateDir: t.TempDir(),
		Env: func() []string {
			return []string{"PATH=" + w.bin + ":/usr/bin:/bin", "USER=agent", "HOME=/home/u", "SHELL=/bin/sh", "CLAUDECODE=1", "HOSTNAME=box"}
		},
		Hostname: func() (string, error) { return "host-a", nil },
	}
	if change != nil {
		change(&c)
	}
	var err error
	if w.a, err = agent.New(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.a.Close)
	w.h = host.New(host.Config{Policy: f, Modules: []host.Module{w.a}, Env: c.Env})
	return w
}

// program writes a script and makes it runnable.
func (w *world) program(name, text string) {
	w.Helper()
	syscall.ForkLock.RLock() // a fork in between would keep the file open for writing
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(filepath.Join(w.bin, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		w.Fatal(err)
	}
}

// do is an exact request; the answer is its payload, or "code: message".
func (w *world) do(command, params string) string {
	w.Helper()
	r := host.Request{ID: "req", Command: command, Exact: true}
	if params != "" {
		r.ParamsJSON = &params
	}
	return text(w.h.Handle(context.Background(), r))
}

func text(r host.Result) string {
	if r.OK {
		return *r.PayloadJSON
	}
	return r.Error.Code + ": " + r.Error.Message
}

func (w *world) want(command, params, want string) {
	w.Helper()
	if got := w.do(command, params); got != want {
		w.Errorf("%s %s\n got %s\nwant %s", command, params, got, want)
	}
}

func (w *world) into(command, params string, out any) {
	w.Helper()
	got := w.do(command, params)
	if err := json.Unmarshal([]byte(got), out); err != nil {
		w.Fatalf("%s %s: %s", command, params, got)
	}
}

// The answers and texts of the bridge (tunnel.md §1.5, fixtures/tunnel/agent-bridge.jsonl).
func TestBridge(t *testing.T) {
	w := newWorld(t, policy.SecurityFull, nil)
	w.want("exec.run", `{"command":"echo hello"}`, `{"exitCode":0,"stdout":"hello\n","stderr":""}`)
	w.want("exec.run", `{"command":"echo out; echo err >&2; exit 3"}`, `{"exitCode":3,"stdout":"out\n","stderr":"err\n"}`)
	w.want("exec.run", `{"command":"pwd","cwd":"/"}`, `{"exitCode":0,"stdout":"/\n","stderr":""}`)
	w.want("exec.run", `{"command":"kill -9 $$"}`, `{"exitCode":-9,"stdout":"","stderr":""}`)
	w.want("exec.run", `{"command":"true","cwd":"/does/not/exist"}`, `INVALID_PARAMS: [Errno 2] No such file or directory: '/does/not/exist'`)
	w.want("exec.run", `{"command":"true","cwd":"/bin/sh"}`, `INVALID_PARAMS: [Errno 20] Not a directory: '/bin/sh'`)
	for _, nothing := range []string{``, `{}`, `{"command":""}`, `{"command":null}`, `{"command":0}`, `{"command":[]}`} {
		w.want("exec.run", nothing, `INVALID_PARAMS: no command provided`)
	}
	w.want("exec.run", `{"command":7}`, `INVALID_PARAMS: cmd must be a string`)
	w.want("exec.run", `null`, `RAISED: 'NoneType' object has no attribute 'get'`)
	w.want("exec.run", `[1]`, `RAISED: 'list' object has no attribute 'get'`)
	w.want("exec.run", `"x"`, `RAISED: 'str' object has no attribute 'get'`)
	w.want("exec.run", `1.5`, `RAISED: 'float' object has no attribute 'get'`)
	w.want("exec.run", `{"command":"printf 'a\\377b\\342\\202c\\300\\200'"}`, `{"exitCode":0,"stdout":"a�b�c��","stderr":""}`)
	w.want("exec.run", `{"command":"head -c 5000 /dev/zero | tr '\\0' x; head -c 5000 /dev/zero | tr '\\0' y >&2"}`,
		`{"exitCode":0,"stdout":"`+strings.Repeat("x", 4096)+`","stderr":"`+strings.Repeat("y", 4096)+`"}`)
	w.want("exec.run", `{"command":"i=0; while [ $i -lt 30000 ]; do printf '\\342\\202\\254'; i=$((i+1)); done"}`,
		`{"exitCode":0,"stdout":"`+strings.Repeat("€", 4096)+`","stderr":""}`)

	params := `{"command":"head -c 5000 /dev/zero | tr '\\0' x"}`
	if got := text(w.h.Handle(context.Background(), host.Request{Command: "exec.run", ParamsJSON: &params})); !strings.HasSuffix(got, `,"truncated":true,"stdoutBytes":5000}`) {
		t.Errorf("an answer that is not compared says nothing of what is missing: …%s", got[len(got)-80:])
	}

	w.want("chat.send", `{}`, `INVALID_PARAMS: no message provided`)
	w.want("chat.send", `{"message":"fix the bug"}`, `NOT_FOUND: claude CLI not found — install with: npm i -g @anthropic-ai/claude-code`)
	w.program("claude", `p=$2
[ "$p" = EXIT2 ] && { echo boom; exit 2; }
echo '{'; echo '  resource: {'; echo '  },'; echo '}'
printf 'reply to: %s [%s %s %s]\n' "$p" "$1" "$3" "$4"
echo '{ "kept": 1'; echo '}'
echo "CLAUDECODE=${CLAUDECODE-unset} OTEL_SDK_DISABLED=$OTEL_SDK_DISABLED DO_NOT_TRACK=$DO_NOT_TRACK $OTEL_LOGS_EXPORTER"
echo
`)
	w.want("chat.send", `{"message":"fix the bug"}`, `{"response":"reply to: fix the bug [-p --output-format text]\n{ \"kept\": 1\n}\nCLAUDECODE=unset OTEL_SDK_DISABLED=true DO_NOT_TRACK=1 none","exitCode":0}`)
	w.want("chat.send", `{"message":"EXIT2"}`, `{"response":"boom","exitCode":2}`)
	w.want("chat.send", `{"message":"hi","cwd":"/nope"}`, `NOT_FOUND: claude CLI not found — install with: npm i -g @anthropic-ai/claude-code`)
	if got := w.do("chat.send", `{"message":"--dangerously"}`); !strings.Contains(got, `"reply to:  --dangerously `) {
		t.Errorf("a message became an option: %s", got)
	}

	var s struct {
		Status, Cwd, User, Hostname, Platform, Python string
		PID                                           int
		Session                                       struct {
			StartedAt    int64 `json:"started_at"`
			Conversation int   `json:"conversation_count"`
			Commands     int   `json:"command_count"`
			Scrollback   int   `json:"scrollback_count"`
		}
	}
	w.into("status.get", `null`, &s)
	if s.Status != "running" || s.Cwd != w.dir || s.User != "agent" || s.Hostname != "host-a" || s.PID != os.Getpid() || s.Session.StartedAt == 0 {
		t.Errorf("status.get: %+v", s)
	}
	if s.Session.Conversation != 6 || s.Session.Commands != 8 || s.Session.Scrollback != 8+7 {
		t.Errorf("status.get counts %+v", s.Session)
	}
	w.want("does.not.exist", `{}`, "UNAVAILABLE: command not supported") // the dialler has the bridge's words
}

// A command whose time is up leaves no process and holds nobody, whoever has its output (tunnel.md §7).
func TestRunsEndAtTheirDeadline(t *testing.T) {
	w := newWorld(t, policy.SecurityFull, nil)
	pid := filepath.Join(w.dir, "pid")
	began := time.Now()
	w.want("system.run", `{"cmd":"sleep 60 & echo $! > pid; sleep 60; true","timeout_ms":500}`, "TIMEOUT: command timed out")
	if took := time.Since(began); took > 1500*time.Millisecond {
		t.Errorf("it answered after %s", took)
	}
	gone(t, pid)
	began = time.Now()
	w.want("system.run", `{"cmd":"setsid sleep 3","timeout_ms":200}`, "TIMEOUT: command timed out") // left the group, and holds the pipes
	if took := time.Since(began); took > 1500*time.Millisecond {
		t.Errorf("it answered after %s", took)
	}
}

func gone(t *testing.T, file string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if state, err := os.ReadFile("/proc/" + strings.TrimSpace(string(raw)) + "/stat"); err != nil || strings.Contains(string(state), ") Z ") {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("process %s still runs", raw)
}

// The answers and texts of the crate (tunnel.md §1.6).
func TestCrate(t *testing.T) {
	w := newWorld(t, policy.SecurityFull, nil)
	w.want("system.run", `{"cmd":"echo a; echo b >&2; exit 4"}`, `{"exit_code":4,"stdout":"a\n","stderr":"b\n"}`)
	w.want("system.run", `{"command":"echo a"}`, `{"exit_code":0,"stdout":"a\n","stderr":""}`)
	w.want("system.run", `{"cmd":"kill -9 $$"}`, `{"exit_code":null,"stdout":"","stderr":""}`)
	w.want("system.run", `{"cmd":""}`, `INVALID_PARAMS: missing cmd`)
	w.want("system.run", `{"cmd":7}`, `INVALID_PARAMS: missing cmd`)
	if got := w.do("system.run", `{"cmd":"pwd","cwd":"/nope"}`); !strings.HasPrefix(got, "EXEC_FAILED: ") {
		t.Error(got)
	}
	if got := w.do("system.run", `{"command":["/bin/echo","argv"]}`); !strings.Contains(got, `"success":true`) {
		t.Errorf("an argv is the gateway's system.run: %s", got)
	}
	w.want("system.run", `{}`, `INVALID_REQUEST: command required`)

	var info map[string]string
	w.into("system.info", ``, &info)
	if info["hostname"] != "box" || info["home"] != "/home/u" || info["cwd"] != w.dir || info["shell"] != "/bin/sh" || info["user"] != "agent" || len(info) != 7 {
		t.Errorf("system.info: %v", info)
	}

	if got := w.do("dev.launch", `{"message":"m"}`); !strings.HasPrefix(got, "LAUNCH_FAILED: launch failed: none of dev, hanzo-dev, codex") {
		t.Error(got)
	}
	w.want("dev.status", ``, `{"running":false,"pids":[]}`)
	w.program("codex", "echo \"$@\"; head -c 3000000 /dev/zero | tr '\\0' x; sleep 60 & echo $! > pid; echo $$ > own; wait\n")
	var l struct {
		PID                    int
		Binary, Model, ID, Log string
		Cwd                    *string
	}
	w.into("dev.launch", `{"message":"--help"}`, &l)
	if l.PID == 0 || l.Binary != filepath.Join(w.bin, "codex") || l.Model != "claude-sonnet-4-6" || l.Cwd != nil {
		t.Errorf("dev.launch: %+v", l)
	}
	for range 200 { // its output does not stop it
		if _, err := os.Stat(filepath.Join(w.dir, "own")); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	var s struct {
		Running bool
		PIDs    []string
	}
	w.into("dev.status", ``, &s)
	if !s.Running || len(s.PIDs) != 1 {
		t.Errorf("dev.status: %+v", s)
	}
	for _, path := range []string{l.Log, l.Log + ".1"} {
		if fi, err := os.Stat(path); err != nil || fi.Size() > 1<<20 {
			t.Errorf("the log %s: %v, %v", path, fi, err)
		}
	}
	if got := w.do("dev.stop", `{"id":"`+l.ID+`"}`); !strings.Contains(got, `"running":false`) {
		t.Errorf("dev.stop: %s", got)
	}
	gone(t, filepath.Join(w.dir, "pid"))
	if got := w.do("dev.launch", `{"model":"--yolo"}`); !strings.HasPrefix(got, "LAUNCH_FAILED") {
		t.Errorf("a model became an option: %s", got)
	}
}

// The exec approvals file decides on every command that starts something.
func TestPolicyDecides(t *testing.T) {
	w := newWorld(t, policy.SecurityAllowlist, func(c *agent.Config) {
		c.Settings = settings(agent.Settings{Commands: map[string]agent.Template{"say": {Argv: []string{"echo", "hi"}}}})
	})
	w.program("claude", "echo yes\n")
	w.program("dev", "echo yes\n")
	for command, params := range map[string]string{
		"exec.run": `{"command":"echo yes > leak"}`, "system.run": `{"cmd":"echo yes > leak"}`, "chat.send": `{"message":"m"}`, "dev.launch": `{}`, "say": `{}`,
	} {
		if got := w.do(command, params); !strings.HasPrefix(got, "DENIED: SYSTEM_RUN_DENIED") {
			t.Errorf("%s: %s", command, got)
		}
	}
	if _, err := os.Stat(filepath.Join(w.dir, "leak")); err == nil {
		t.Error("a refused command ran")
	}
	w.want("exec.run", `{"command":"echo yes","approved":true}`, `{"exitCode":0,"stdout":"yes\n","stderr":""}`)
	w.want("say", `{"approved":true}`, `{"exit_code":0,"stdout":"hi\n","stderr":""}`)
	if got := w.do("status.get", `{}`); !strings.Contains(got, `"running"`) {
		t.Error(got)
	}

	deny := newWorld(t, policy.SecurityDeny, nil)
	if got := deny.do("exec.run", `{"command":"true","approved":true}`); !strings.HasPrefix(got, "DENIED: ") {
		t.Errorf("deny stays denied: %s", got)
	}
}

func settings(s agent.Settings) func() *agent.Settings { return func() *agent.Settings { return &s } }

func TestCustomCommands(t *testing.T) {
	low, high := int64(1), int64(5)
	s := &agent.Settings{Commands: map[string]agent.Template{
		"deploy": {
			Description: "bring it out",
			Argv:        []string{"printf", "<%s>", "{env}", "n={count}", "{dry}", "{note}", "{file}"},
			Params: map[string]agent.Param{
				"env":   {Type: "string", Enum: []string{"prod", "stage"}},
				"count": {Type: "integer", Minimum: &low, Maximum: &high, Default: json.RawMessage("2")},
				"dry":   {Type: "boolean", Flag: "--dry-run", Optional: true},
				"note":  {Type: "string", Pattern: "[^$]+", MaxLength: 12, Optional: true},
				"file":  {Type: "path", Optional: true},
			},
		},
		"broken":     {Argv: []string{"{x}"}},
		"exec.run":   {Argv: []string{"false"}},
		"status.get": {Argv: []string{"echo", "mine"}, Replace: true},
	}}
	w := newWorld(t, policy.SecurityFull, func(c *agent.Config) { c.Settings = func() *agent.Settings { return s } })
	out := func(words string) string { return `{"exit_code":0,"stdout":"` + words + `","stderr":""}` }
	w.want("deploy", `{"env":"prod"}`, out("<prod><n=2>"))
	w.want("deploy", `{"env":"stage","count":5,"dry":true,"note":"a; rm -rf /"}`, out("<stage><n=5><--dry-run><a; rm -rf />"))
	w.want("deploy", `{"env":"stage","dry":false,"note":"$(id)"}`, "INVALID_PARAMS: deploy: note has to fit [^$]+")
	w.want("deploy", `{}`, "INVALID_PARAMS: deploy: missing env")
	w.want("deploy", `{"env":"dev"}`, "INVALID_PARAMS: deploy: env has to be one of prod, stage")
	w.want("deploy", `{"env":"prod","count":6}`, "INVALID_PARAMS: deploy: count has to be from 1 to 5")
	w.want("deploy", `{"env":"prod","count":"3"}`, "INVALID_PARAMS: deploy: count has to be an integer")
	w.want("deploy", `{"env":"prod","dry":"yes"}`, "INVALID_PARAMS: deploy: dry has to be true or false")
	w.want("deploy", `{"env":"prod","note":"--force"}`, "INVALID_PARAMS: deploy: note may not begin with a dash")
	w.want("deploy", `{"env":"prod","note":"0123456789abc"}`, "INVALID_PARAMS: deploy: note may have at most 12 characters")
	w.want("deploy", `{"env":"prod","other":1}`, `INVALID_PARAMS: deploy: there is no parameter "other"`)
	w.want("deploy", `[]`, "INVALID_PARAMS: the parameters have to be an object")
	w.want("deploy", `{"env":"prod","file":"new"}`, out("<prod><n=2><"+w.dir+"/new>"))
	for _, path := range []string{"../x", "/etc/passwd", "out/passwd"} {
		if err := os.Symlink("/etc", filepath.Join(w.dir, "out")); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
		w.want("deploy", `{"env":"prod","file":"`+path+`"}`, "INVALID_PARAMS: deploy: file is outside of what the command may touch")
	}
	w.want("exec.run", `{"command":"echo built in"}`, `{"exitCode":0,"stdout":"built in\n","stderr":""}`)
	w.want("status.get", `{}`, out(`mine\n`))
	for _, name := range w.a.Commands() {
		if name == "broken" {
			t.Error("a template that cannot be used is offered")
		}
	}
	var about string
	for _, d := range w.a.Describe() {
		if d.Name == "deploy" {
			about = d.About
		}
	}
	if about != "bring it out {count?: integer, dry?: boolean, env: string (prod, stage), file?: path, note?: string}" {
		t.Errorf("described as %q", about)
	}
	s = &agent.Settings{}
	if got := w.do("status.get", ``); !strings.Contains(got, `"running"`) {
		t.Errorf("the settings of before still count: %s", got)
	}

	said := func(_ context.Context, r host.Request) host.Result {
		payload := `{"id":"` + r.ID + `"}`
		return host.Result{OK: true, PayloadJSON: &payload}
	}
	if err := w.a.Register(agent.Custom{Name: "my.command", Run: said}); err != nil {
		t.Fatal(err)
	}
	w.want("my.command", ``, `{"id":"req"}`)
	for _, c := range []agent.Custom{{Name: "my.command", Run: said}, {Name: "exec.run", Run: said}, {Name: "a b", Run: said}, {Name: "x"}} {
		if err := w.a.Register(c); err == nil {
			t.Errorf("%s was registered", c.Name)
		}
	}
	if err := w.a.Register(agent.Custom{Name: "system.run", Replace: true, Run: said}); err != nil {
		t.Fatal(err)
	}
	w.want("system.run", `{"command":["true"]}`, `{"id":"req"}`)
}
