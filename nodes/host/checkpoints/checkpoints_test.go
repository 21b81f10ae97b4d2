package checkpoints

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/tunnel/checkpoint"
	"github.com/hanzoai/hanzod/tunnel/checkpoint/objects"
)

// world is a node with a workspace.
type world struct {
	*testing.T
	m    *Module
	dir  string
	log  *checkpoint.Log
	vars map[string]string
}

func newWorld(t *testing.T, id string, security policy.Security) *world {
	t.Helper()
	log, err := checkpoint.OpenLog("", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, dir: t.TempDir(), log: log, vars: map[string]string{}}
	p := policy.Open(filepath.Join(t.TempDir(), "exec-approvals.json"), policy.Options{Defaults: policy.Overrides{Security: security, Ask: policy.AskOff}})
	w.m = New(Config{
		Policy: p, Session: log, Dir: func() string { return w.dir }, Getenv: func(k string) string { return w.vars[k] }, Temp: t.TempDir(),
		Instance: func() Instance {
			return Instance{ID: id, DisplayName: "agent@host-a", Commands: []string{"session.checkpoint"}, Capabilities: []string{"chat"}}
		},
	})
	return w
}

func (w *world) do(command, params string) string {
	w.Helper()
	r := w.m.Handle(context.Background(), host.Request{ID: "x", NodeID: "node", Command: command, ParamsJSON: &params, Exact: true})
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

func (w *world) run(argv ...string) string {
	w.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}

func (w *world) write(name, content string) {
	w.Helper()
	at := filepath.Join(w.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(content), 0o644)); err != nil {
		w.Fatal(err)
	}
}

// The texts of the bridge without a server (§1.5): the credentials come first.
func TestWithoutCredentials(t *testing.T) {
	w := newWorld(t, "agent-a", policy.SecurityFull)
	for _, command := range []string{"session.checkpoint", "session.list", "session.restore"} {
		for _, params := range []string{`{}`, `null`, `{"checkpoint_url":"s3://x"}`} {
			w.want(command, params, "UNAVAILABLE: S3_ACCESS_KEY and S3_SECRET_KEY env vars required")
		}
	}
	w.vars["S3_ACCESS_KEY"], w.vars["S3_SECRET_KEY"] = "a", "b"
	w.want("session.restore", `{}`, "INVALID_PARAMS: no checkpoint_url provided")
	w.want("session.restore", `{"checkpoint_url":""}`, "INVALID_PARAMS: no checkpoint_url provided")
	w.want("session.restore", `null`, "RAISED: 'NoneType' object has no attribute 'get'")
	w.want("session.list", `[]`, "RAISED: 'list' object has no attribute 'get'")
	w.want("session.restore", `{"checkpoint_url":"s3://onlybucket"}`, "UNAVAILABLE: restore failed: invalid s3 URI (no key): s3://onlybucket")
	w.want("session.capture", `{}`, "UNAVAILABLE: session.capture needs a channel, which this link does not carry; use session.checkpoint and session.restore")
}

// gateway starts the S3 server of tunnel.md §8.
func gateway(t *testing.T) map[string]string {
	t.Helper()
	bin := os.Getenv("VERSITYGW")
	if bin == "" {
		t.Skip("VERSITYGW names no versitygw (tunnel.md §8)")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	cmd := exec.Command(bin, "--port", addr, "posix", t.TempDir())
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY=test-access", "ROOT_SECRET_KEY=test-secret-key")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
			return map[string]string{"S3_ENDPOINT_URL": "http://" + addr, "S3_ACCESS_KEY": "test-access", "S3_SECRET_KEY": "test-secret-key", "S3_BUCKET": "hanzo-sessions"}
		}
		if time.Now().After(end) {
			t.Fatal("versitygw does not listen")
		}
	}
}

var volatile = regexp.MustCompile(`\d{8}T\d{6}Z-[0-9a-f]{8}`)

// The recorded exchange of an agent with its bucket.
func TestBridgeWithABucket(t *testing.T) {
	vars := gateway(t)
	a := newWorld(t, "agent-a", policy.SecurityFull)
	a.vars = vars
	a.want("session.checkpoint", `{}`, "UNAVAILABLE: checkpoint failed: An error occurred (404) when calling the HeadBucket operation: Not Found")
	c, err := objects.FromEnv(func(k string) string { return vars[k] })
	if err != nil {
		t.Fatal(err)
	}
	c.CreateBucket = true
	s3, err := objects.NewS3(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s3.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	put := func(key string, raw []byte) {
		t.Helper()
		if err := s3.Put(t.Context(), key, bytes.NewReader(raw), objects.Info{Size: int64(len(raw)), ContentType: "application/json"}); err != nil {
			t.Fatal(err)
		}
	}
	a.want("session.list", `{}`, `{"checkpoints":[],"count":0,"bucket":"hanzo-sessions"}`)
	origin := newWorld(t, "", policy.SecurityFull)
	origin.write("README.md", "hello\n")
	for _, argv := range []string{"git init -q -b main", "git add -A", "git commit -qm first"} {
		origin.run(strings.Fields(argv)...)
	}
	a.run("git", "clone", "-q", "file://"+origin.dir, ".")
	a.write("README.md", "hello\nchanged\n")
	a.write("new.txt", "untracked\n")
	a.log.Said("user", "fix the bug", "req-014")
	a.log.Said("assistant", "done", "req-014")
	a.log.Ran("echo hello", 0, "hello\n", "")
	got := a.do("session.checkpoint", `{}`)
	id := volatile.FindString(got)
	if want := `{"checkpoint_id":"ID","checkpoint_url":"s3://hanzo-sessions/agent-a/ID.json","key":"agent-a/ID.json","session_stats":{"conversation_count":2,"command_count":1,"scrollback_count":2}}`; strings.ReplaceAll(got, id, "ID") != want {
		t.Fatalf("session.checkpoint: %s", got)
	}
	for _, params := range []string{`{}`, `{"instance_id":"agent-a"}`, `{"instance_id":"agent"}`} {
		if got := a.do("session.list", params); !regexp.MustCompile(`^\{"checkpoints":\[\{"key":"agent-a/` + id + `\.json","size":\d+,"last_modified":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00"\}\],"count":1,"bucket":"hanzo-sessions"\}$`).MatchString(got) {
			t.Errorf("session.list %s: %s", params, got)
		}
	}
	a.want("session.list", `{"instance_id":"agent-b"}`, `{"checkpoints":[],"count":0,"bucket":"hanzo-sessions"}`)
	body, o, err := s3.Get(t.Context(), "agent-a/"+id+".json")
	if err != nil || o.ContentType != "application/json" {
		t.Fatalf("%+v, %v", o, err)
	}
	raw, err := io.ReadAll(body)
	body.Close()
	if err != nil {
		t.Fatal(err)
	}
	// What the bridge would do with it: clone, and feed the diff as it is to git apply.
	var d struct {
		Workspace struct {
			Branch string   `json:"git_branch"`
			URL    string   `json:"git_remote_url"`
			Diff   string   `json:"git_diff"`
			Others []string `json:"git_untracked"`
		} `json:"workspace"`
	}
	if err := json.Unmarshal(raw, &d); err != nil || d.Workspace.Branch != "main" || strings.Join(d.Workspace.Others, ",") != "new.txt" {
		t.Fatalf("%v\n%s", err, raw)
	}
	bridge := newWorld(t, "", policy.SecurityFull)
	bridge.run("git", "clone", "-q", "--depth=1", "-b", d.Workspace.Branch, d.Workspace.URL, ".")
	apply := exec.Command("git", "apply", "--allow-empty", "-")
	apply.Dir, apply.Stdin = bridge.dir, strings.NewReader(d.Workspace.Diff)
	if out, err := apply.CombinedOutput(); err != nil {
		t.Errorf("the bridge's git apply: %v\n%s", err, out)
	}
	if now := bridge.run("git", "status", "--short"); now != " M README.md\n" {
		t.Errorf("after the bridge's restore: %q", now)
	}

	a.want("session.restore", `{"checkpoint_url":"s3://hanzo-sessions/agent-a/none.json"}`, "UNAVAILABLE: restore failed: An error occurred (NoSuchKey) when calling the GetObject operation: The specified key does not exist.")
	put("x/v2.json", []byte(`{"version": 2}`))
	a.want("session.restore", `{"checkpoint_url":"x/v2.json"}`, "INVALID_PARAMS: unsupported checkpoint version: 2 (expected 1)")

	// In an empty workspace all of it is there, what is not tracked too.
	b := newWorld(t, "agent-b", policy.SecurityFull)
	b.vars = vars
	got = b.do("session.restore", `{"checkpoint_url":"s3://hanzo-sessions/agent-a/`+id+`.json"}`)
	stamp := regexp.MustCompile(`"timestamp":"[^"]*"`)
	if want := `{"restored_from":"agent-a","source_platform":"` + platform() + `","checkpoint_id":"` + id + `","timestamp":"","conversation_count":2,"command_count":1,"scrollback_count":2,"git_restore":{"attempted":true,"clone":"ok","apply_diff":"ok"}}`; stamp.ReplaceAllString(got, `"timestamp":""`) != want {
		t.Fatalf("session.restore: %s", got)
	}
	if now := b.run("git", "status", "--short"); now != " M README.md\n?? new.txt\n" {
		t.Errorf("after the restore: %q", now)
	}
	if n := b.log.Counts(); n != (checkpoint.Counts{Conversation: 2, Commands: 1, Scrollback: 2}) {
		t.Errorf("counts %+v", n)
	}

	// The recorded document, and one without a workspace.
	recorded, err := os.ReadFile("../../../fixtures/tunnel/checkpoint-agent-a.json")
	if err != nil {
		t.Fatal(err)
	}
	put("agent-a/20250101T000001Z-00000001.json", bytes.ReplaceAll(recorded, []byte("file:///srv/origin.git"), []byte("file://"+filepath.ToSlash(origin.dir))))
	old := newWorld(t, "agent-b", policy.SecurityFull)
	old.vars = vars
	want := `{"restored_from":"agent-a","source_platform":"linux-x86_64","checkpoint_id":"20250101T000001Z-00000001","timestamp":"2025-01-01T00:00:00.000000+00:00","conversation_count":4,"command_count":6,"scrollback_count":11,"git_restore":{"attempted":true,"clone":"CLONE","apply_diff":"ok"}}`
	old.want("session.restore", `{"checkpoint_url":"s3://hanzo-sessions/agent-a/20250101T000001Z-00000001.json"}`, strings.Replace(want, "CLONE", "ok", 1))
	old.want("session.restore", `{"checkpoint_url":"agent-a/20250101T000001Z-00000001.json"}`, strings.Replace(want, "CLONE", "skipped (existing .git)", 1))
	if now := old.run("git", "diff"); !strings.Contains(now, "+changed") {
		t.Errorf("after the restore of the recorded document: %s", now)
	}
	lines, err := json.Marshal(strings.Split(strings.Repeat("line\n", 599)+"last", "\n"))
	if err != nil {
		t.Fatal(err)
	}
	put("x/nows.json", fmt.Appendf(nil, `{"version":1,"checkpoint_id":"c-1","source_instance_id":"src","platform":"darwin-arm64","timestamp":"2025-01-01T00:00:00+00:00","session":{"conversation":[{"role":"user","content":"x"}],"scrollback":%s}}`, lines))
	a.want("session.restore", `{"checkpoint_url":"s3://hanzo-sessions/x/nows.json"}`, `{"restored_from":"src","source_platform":"darwin-arm64","checkpoint_id":"c-1","timestamp":"2025-01-01T00:00:00+00:00","conversation_count":1,"command_count":0,"scrollback_count":500}`)

	// What the policy of the machine does not let run does not run; the session is there all the same.
	deny := newWorld(t, "agent-d", policy.SecurityDeny)
	deny.vars = vars
	if got := deny.do("session.restore", `{"checkpoint_url":"agent-a/20250101T000001Z-00000001.json"}`); !strings.Contains(got, `"clone":"error: SYSTEM_RUN_DISABLED`) {
		t.Errorf("without leave: %s", got)
	}
	if left, _ := os.ReadDir(deny.dir); len(left) != 0 {
		t.Errorf("without leave: %v", left)
	}
	// A wrong secret is refused, and not shown.
	a.vars = map[string]string{"S3_ENDPOINT_URL": vars["S3_ENDPOINT_URL"], "S3_ACCESS_KEY": "test-access", "S3_SECRET_KEY": "hunter2hunter2"}
	if got := a.do("session.list", `{}`); !strings.HasPrefix(got, "UNAVAILABLE: list failed: ") || strings.Contains(got, "hunter2") {
		t.Errorf("a wrong secret: %s", got)
	}
}

// pipe is a channel in memory.
type pipe struct {
	net.Conn
	once sync.Once
	in   *io.PipeReader
	out  *io.PipeWriter
}

func (p *pipe) Read(b []byte) (int, error)  { return p.in.Read(b) }
func (p *pipe) Write(b []byte) (int, error) { return p.out.Write(b) }
func (p *pipe) CloseWrite() error           { return p.out.Close() }
func (p *pipe) Close(err error) error {
	p.once.Do(func() {
		_ = p.in.CloseWithError(err)
		_ = p.out.CloseWithError(err)
	})
	return nil
}

func pipes() (*pipe, *pipe) {
	ar, bw := io.Pipe()
	br, aw := io.Pipe()
	return &pipe{in: ar, out: aw}, &pipe{in: br, out: bw}
}

// A checkpoint goes over a channel from one node to another.
func TestCaptureAndApply(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	a, b := newWorld(t, "agent-a", policy.SecurityFull), newWorld(t, "agent-b", policy.SecurityFull)
	a.write("a", "1\n")
	for _, argv := range []string{"git init -q -b main", "git add -A", "git commit -qm first"} {
		a.run(strings.Fields(argv)...)
	}
	a.write("a", "2\n")
	a.write("b", strings.Repeat("large ", 100_000))
	a.log.Ran("true", 0, "", "")
	call := func(w *world, command, params string, feed io.Reader, take io.Writer) (string, []string) {
		t.Helper()
		mine, theirs := pipes()
		var events []string
		var wg sync.WaitGroup
		wg.Go(func() {
			if feed != nil {
				_, _ = io.Copy(theirs, feed) // a node that refuses stops reading
				_ = theirs.CloseWrite()
				return
			}
			if _, err := io.Copy(take, theirs); err != nil {
				t.Error(err)
			}
		})
		r := w.m.Handle(context.Background(), host.Request{
			ID: "1", Command: command, ParamsJSON: &params, Emit: func(event, payload string) { events = append(events, event+payload) },
			Channel: func(_ context.Context, name string) (host.Channel, error) {
				if name != "c" {
					return nil, errors.New("another channel")
				}
				return mine, nil
			},
		})
		wg.Wait()
		if !r.OK {
			return r.Error.Message, events
		}
		return *r.PayloadJSON, events
	}
	var pack bytes.Buffer
	got, events := call(a, "session.capture", `{"channel":"c"}`, nil, &pack)
	if !strings.Contains(got, `"session_stats":{"conversation_count":0,"command_count":1,"scrollback_count":1}`) || len(events) < 4 || !strings.HasPrefix(events[0], `session.progress{"id":"1","step":"bundle","state":"running"`) {
		t.Fatalf("%s\n%q", got, events)
	}
	whole := pack.Bytes()
	got, _ = call(b, "session.apply", `{"channel":"c","dryRun":true}`, bytes.NewReader(whole), nil)
	if !strings.Contains(got, `"ok":true,"dry_run":true`) || b.log.Counts().Commands != 0 {
		t.Errorf("dry run: %s", got)
	}
	got, _ = call(b, "session.apply", `{"channel":"c"}`, bytes.NewReader(whole[:len(whole)/2]), nil)
	if !strings.HasPrefix(got, "the checkpoint cannot be taken: ") {
		t.Errorf("a cut stream: %s", got)
	}
	if left, _ := os.ReadDir(b.dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	got, _ = call(b, "session.apply", `{"channel":"c"}`, bytes.NewReader(whole), nil)
	var answer struct {
		OK    bool              `json:"ok"`
		Steps []checkpoint.Step `json:"steps"`
	}
	if err := json.Unmarshal([]byte(got), &answer); err != nil || !answer.OK || answer.Steps[len(answer.Steps)-1].Name != "session" {
		t.Fatalf("%s", got)
	}
	if now := b.run("git", "status", "--short"); now != " M a\n?? b\n" || b.log.Counts().Commands != 1 {
		t.Errorf("after the restore: %q, %+v", now, b.log.Counts())
	}
	// A second time the workspace has changes: refused, step by step, and forced.
	got, _ = call(b, "session.apply", `{"channel":"c"}`, bytes.NewReader(whole), nil)
	if !strings.Contains(got, `"ok":false`) || !strings.Contains(got, `{"name":"preflight","state":"failed"`) {
		t.Errorf("into changes: %s", got)
	}
	if got, _ = call(b, "session.apply", `{"channel":"c","force":true}`, bytes.NewReader(whole), nil); !strings.Contains(got, `"ok":true`) {
		t.Errorf("forced: %s", got)
	}
	// The policy of the machine has the last word, and an approved call its word.
	deny := newWorld(t, "agent-d", policy.SecurityDeny)
	if got, _ = call(deny, "session.apply", `{"channel":"c","approved":true}`, bytes.NewReader(whole), nil); !strings.Contains(got, `"ok":false`) || !strings.Contains(got, "SYSTEM_RUN_DISABLED") {
		t.Errorf("denied: %s", got)
	}
	list := newWorld(t, "agent-l", policy.SecurityAllowlist)
	if got, _ = call(list, "session.apply", `{"channel":"c"}`, bytes.NewReader(whole), nil); !strings.Contains(got, `"ok":false`) {
		t.Errorf("not on the list: %s", got)
	}
	if got, _ = call(list, "session.apply", `{"channel":"c","approved":true}`, bytes.NewReader(whole), nil); !strings.Contains(got, `"ok":true`) {
		t.Errorf("approved: %s", got)
	}
}
