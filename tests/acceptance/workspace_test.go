//go:build unix

package acceptance

import (
	"context"
	"encoding/json"
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

	"github.com/hanzoai/hanzod/tests/robustness/proc"
	"github.com/hanzoai/hanzod/tunnel/checkpoint"
	"github.com/hanzoai/hanzod/tunnel/checkpoint/objects"
)

// bucket is an S3 server with the bucket of the bridge.
type bucket struct {
	*objects.S3
	env []string
}

// newBucket starts one; through, when it is not empty, is the address at which nodes are told to find it.
func newBucket(t *testing.T, row string, through func(addr string) string) bucket {
	t.Helper()
	bin := os.Getenv("VERSITYGW")
	if bin == "" {
		var err error
		if bin, err = exec.LookPath("versitygw"); err != nil {
			notHere(t, row, "there is no versitygw; VERSITYGW names one")
		}
	}
	addr := fmt.Sprintf("127.0.0.1:%d", proc.FreePort(t))
	c := proc.Run(t, t.TempDir(), bin, []string{"ROOT_ACCESS_KEY=test-access", "ROOT_SECRET_KEY=test-secret-key"}, "--port", addr, "posix", t.TempDir())
	proc.Until(t, "versitygw listens", func() bool {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", addr)
		if err == nil {
			_ = conn.Close()
		} else if c.Ended() {
			t.Fatalf("versitygw ended: %s%s", c.Stdout, c.Stderr)
		}
		return err == nil
	})
	s3, err := objects.NewS3(objects.S3Config{Endpoint: "http://" + addr, Bucket: objects.DefaultBucket, AccessKey: "test-access", SecretKey: "test-secret-key", CreateBucket: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s3.Check(context.Background()); err != nil {
		t.Fatal(err)
	}
	if through != nil {
		addr = through(addr)
	}
	return bucket{s3, []string{"S3_ENDPOINT_URL=http://" + addr, "S3_ACCESS_KEY=test-access", "S3_SECRET_KEY=test-secret-key"}}
}

// document reads a stored one.
func (b bucket) document(t *testing.T, key string) (*checkpoint.Document, []byte) {
	t.Helper()
	body, o, err := b.Get(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	raw, err := io.ReadAll(body)
	if err != nil || o.ContentType != "application/json" {
		t.Fatalf("%s: %+v, %v", key, o, err)
	}
	d, err := checkpoint.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return d, raw
}

// instanceOf starts a node of ours as an instance, and returns its workspace.
func instanceOf(t *testing.T, d *proc.Daemon, id string, env ...string) string {
	t.Helper()
	work := filepath.Join(t.TempDir(), id)
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	env = append([]string{"TUNNEL_URL=" + withToken(d, "/v1/tunnel", proc.Token), "INSTANCE_ID=" + id, "WORKSPACE_DIR=" + work, "USER=agent", "APP_KIND=dev"}, env...)
	proc.RunGroup(t, t.TempDir(), proc.Build(t, "hanzod", proc.Shipped), env, nil, "node")
	joined(t, d, id)
	return work
}

// called invokes a command by REST and returns its answer, or the text of its failure.
func called(t *testing.T, d *proc.Daemon, id, command string, params object) (object, string) {
	t.Helper()
	code, out := rest(t, d, "POST", "/v1/nodes/"+id+"/invoke", object{"command": command, "params": params, "timeout": "90s"})
	if code != 200 {
		text, _ := json.Marshal(out)
		return nil, string(text)
	}
	payload, ok := out["payload"].(object)
	if !ok {
		if text, is := out["payloadJson"].(string); is {
			_ = json.Unmarshal([]byte(text), &payload)
		}
	}
	if payload == nil {
		text, _ := json.Marshal(out)
		return nil, string(text)
	}
	return payload, ""
}

// shell runs a line in a directory.
func shell(t *testing.T, dir, line string) string {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), "/bin/sh", "-ec", line)
	cmd.Dir = dir
	cmd.Env = proc.Env(t.TempDir(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// stalling passes connections on, and holds what comes back while it is told to.
type stalling struct {
	mu   sync.Mutex
	free chan struct{} // closed while bytes pass
	open int
}

func (s *stalling) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = make(chan struct{})
}

func (s *stalling) let() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.free)
}

func (s *stalling) gate() chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.free
}

func (s *stalling) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open
}

// listen serves a way to an address until the test ends.
func (s *stalling) listen(t *testing.T, to string) string {
	t.Helper()
	s.free = make(chan struct{})
	close(s.free)
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
	})
	copyHeld := func(dst, src net.Conn) {
		defer dst.Close()
		b := make([]byte, 32<<10)
		for {
			n, err := src.Read(b)
			select {
			case <-s.gate():
			case <-ctx.Done():
				return
			}
			if n > 0 {
				if _, err := dst.Write(b[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := (&net.Dialer{}).DialContext(ctx, "tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			s.mu.Lock()
			s.open++
			s.mu.Unlock()
			go copyHeld(out, in)
			go copyHeld(in, out)
		}
	}()
	return l.Addr().String()
}

// A server that stalls for 20 s holds two uploads, and nothing else.
func TestH18StoreOffTheCommandPath(t *testing.T) {
	accept(t, "H18")
	d := linkDaemon(t, nil)
	s := &stalling{}
	b := newBucket(t, "H18", func(addr string) string { return s.listen(t, addr) })
	instanceOf(t, d, "agent-a", b.env...)
	if _, failure := called(t, d, "agent-a", "session.checkpoint", object{}); failure != "" {
		t.Fatal(failure)
	}
	s.hold()
	before := s.connections()
	began := time.Now()
	var wg sync.WaitGroup
	took := make([]time.Duration, 2)
	for i := range took {
		wg.Go(func() {
			if _, failure := called(t, d, "agent-a", "session.checkpoint", object{}); failure != "" {
				t.Error(failure)
			}
			took[i] = time.Since(began)
		})
	}
	slowest := time.Duration(0)
	for time.Since(began) < 20*time.Second {
		at := time.Now()
		if out, failure := called(t, d, "agent-a", "exec.run", object{"command": "echo here"}); failure != "" || out["stdout"] != "here\n" {
			t.Fatalf("while the store stalls: %v %s", out, failure)
		}
		if out, failure := called(t, d, "agent-a", "status.get", object{}); failure != "" || out["status"] != "running" {
			t.Fatalf("while the store stalls: %v %s", out, failure)
		}
		slowest = max(slowest, time.Since(at))
		time.Sleep(200 * time.Millisecond)
	}
	if n := s.connections() - before; n < 1 {
		t.Errorf("%d connections were opened for two uploads", n)
	}
	s.let()
	wg.Wait()
	for _, t0 := range took {
		if t0 < 20*time.Second {
			t.Errorf("an upload ended after %s, while the store stalled", t0)
		}
	}
	if slowest > 3*time.Second {
		t.Errorf("two commands took %s while the store stalled", slowest)
	}
	out, failure := called(t, d, "agent-a", "session.list", object{"instance_id": "agent-a"})
	if failure != "" || out["count"] != 3.0 {
		t.Errorf("listed: %v %s", out, failure)
	}
	t.Logf("while the store stalled, two commands took at most %s; the uploads %s and %s", slowest, took[0], took[1])
}

// What the bridge saved is restored with its diff, and what hanzod saved is restored by it and by the bridge.
func TestH19Restore(t *testing.T) {
	accept(t, "H19")
	if _, err := exec.LookPath("git"); err != nil {
		notHere(t, "H19", "there is no git")
	}
	d := linkDaemon(t, nil)
	b := newBucket(t, "H19", nil)
	origin := t.TempDir()
	shell(t, origin, "git init -q -b main; echo hello > README.md; git add -A; git commit -qm first")

	// The document of the bridge.
	raw, err := os.ReadFile("../../fixtures/tunnel/checkpoint-agent-a.json")
	if err != nil {
		t.Fatal(err)
	}
	old := strings.ReplaceAll(string(raw), "file:///srv/origin.git", "file://"+origin)
	if err := b.Put(context.Background(), "agent-a/20250101T000001Z-00000001.json", strings.NewReader(old), objects.Info{Size: int64(len(old)), ContentType: "application/json"}); err != nil {
		t.Fatal(err)
	}
	work := instanceOf(t, d, "agent-b", b.env...)
	out, failure := called(t, d, "agent-b", "session.restore", object{"checkpoint_url": "s3://hanzo-sessions/agent-a/20250101T000001Z-00000001.json"})
	if failure != "" {
		t.Fatal(failure)
	}
	git, _ := out["git_restore"].(object)
	if out["restored_from"] != "agent-a" || out["conversation_count"] != 4.0 || out["command_count"] != 6.0 || out["scrollback_count"] != 11.0 ||
		git["attempted"] != true || git["clone"] != "ok" || git["apply_diff"] != "ok" {
		t.Errorf("restored: %v", out)
	}
	if got := shell(t, work, "cat README.md; git status --short"); got != "hello\nchanged\n M README.md\n" {
		t.Errorf("the workspace of the bridge's document: %q", got)
	}

	// That of a node of ours, into another one of ours: the index, files that git does not know, a commit that the
	// remote has not.
	from := instanceOf(t, d, "agent-c", b.env...)
	shell(t, from, "git clone -q file://"+origin+" .; echo more > more.txt; git add -A; git commit -qm second; echo staged > staged.txt; git add staged.txt; "+
		"printf 'a\\000b\\377' > bin.dat; ln -s README.md link; echo later >> README.md; mkdir sub; printf '#!/bin/sh\\r\\n' > sub/run; chmod +x sub/run; rm more.txt")
	if _, failure := called(t, d, "agent-c", "exec.run", object{"command": "echo one"}); failure != "" {
		t.Fatal(failure)
	}
	out, failure = called(t, d, "agent-c", "session.checkpoint", object{})
	if failure != "" {
		t.Fatal(failure)
	}
	to := instanceOf(t, d, "agent-d", b.env...)
	got, failure := called(t, d, "agent-d", "session.restore", object{"checkpoint_url": out["checkpoint_url"]})
	git, _ = got["git_restore"].(object)
	if failure != "" || got["command_count"] != 1.0 || git["clone"] != "ok" || git["apply_diff"] != "ok" {
		t.Fatalf("restored: %v %s", got, failure)
	}
	same := "git status --porcelain=v2; git log --format='%H %s'; git ls-files -s; find . -path ./.git -prune -o -print | sort; cat README.md bin.dat sub/run | od -c; readlink link; ls -l sub/run | cut -c1-10"
	if a, b := shell(t, from, same), shell(t, to, same); a != b {
		t.Errorf("restored is\n%s\nnot\n%s", b, a)
	}

	// The bridge with it: version 1, a clone, and the diff as it stands into git apply.
	shell(t, from, "git push -q origin HEAD:refs/heads/published; git reset -q --hard; git clean -fdq; git checkout -q -b published origin/published; echo changed >> README.md")
	if out, failure = called(t, d, "agent-c", "session.checkpoint", object{}); failure != "" {
		t.Fatal(failure)
	}
	doc, text := b.document(t, out["key"].(string))
	if !regexp.MustCompile(`^\{\n  "version": 1,\n  "checkpoint_id": "\d{8}T\d{6}Z-[0-9a-f]{8}",\n  "source_instance_id": "agent-c",\n`).Match(text) {
		t.Errorf("the document begins %.200s", text)
	}
	bridge := t.TempDir()
	shell(t, bridge, "git clone -q --depth=1 -b '"+doc.Workspace.Branch+"' '"+doc.Workspace.RemoteURL+"' .")
	apply := exec.CommandContext(context.Background(), "git", "apply", "--allow-empty", "-")
	apply.Dir, apply.Stdin = bridge, strings.NewReader(doc.Workspace.Diff)
	if out, err := apply.CombinedOutput(); err != nil {
		t.Errorf("git apply of the bridge: %v\n%s", err, out)
	}
	if got := shell(t, bridge, "cat README.md; cat more.txt"); got != "hello\nchanged\nmore\n" {
		t.Errorf("the workspace of the bridge: %q", got)
	}
}
