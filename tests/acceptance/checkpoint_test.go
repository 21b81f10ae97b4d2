//go:build unix

package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
	"github.com/hanzoai/hanzod/tunnel/checkpoint/objects"
)

// storeConfig is the section checkpoints for the bucket of a test.
func (b bucket) storeConfig() object {
	return object{"store": "s3", "s3": object{
		"endpoint": strings.TrimPrefix(b.env[0], "S3_ENDPOINT_URL="), "accessKey": "test-access", "secretKey": "test-secret-key",
	}}
}

// boto says whether the interpreter has the library that the bridge keeps checkpoints with.
func boto(t *testing.T, row string) {
	t.Helper()
	if err := exec.Command(python(t, row), "-c", "import boto3").Run(); err != nil {
		notHere(t, row, "python3-boto3 is not installed")
	}
}

// kept are the checkpoints that REST lists, of one node or of all.
func kept(t *testing.T, d *proc.Daemon, node string) (ids []string, keys map[string]float64) {
	t.Helper()
	path := "/v1/checkpoints"
	if node != "" {
		path += "?nodeId=" + node
	}
	code, out := rest(t, d, "GET", path, nil)
	if code != http.StatusOK {
		t.Fatal(code, out)
	}
	keys = map[string]float64{}
	for _, c := range slicesOf(out["checkpoints"]) {
		c := c.(object)
		var size float64
		_, _ = fmt.Sscan(fmt.Sprint(c["size"]), &size)
		keys[c["key"].(string)] = size
		ids = append(ids, c["checkpointId"].(string))
	}
	return ids, keys
}

// The bridge, a node of ours and the daemon keep the same document; rclone reads it.
func TestH17Checkpoint(t *testing.T) {
	accept(t, "H17")
	boto(t, "H17")
	b := newBucket(t, "H17", nil)
	d := linkDaemon(t, object{"checkpoints": b.storeConfig()})
	agent(t, "H17", "bridge-a", withToken(d, "/v1/tunnel", proc.Token), b.env...)
	joined(t, d, "bridge-a")
	instanceOf(t, d, "node-a", b.env...)
	for _, id := range []string{"bridge-a", "node-a"} {
		long := strings.Repeat("x", 3000)
		for _, line := range []string{"echo hello", "echo " + long + "; echo err >&2; exit 3"} {
			if _, failure := called(t, d, id, "exec.run", object{"command": line}); failure != "" {
				t.Fatal(failure)
			}
		}
		out, failure := called(t, d, id, "session.checkpoint", object{})
		if failure != "" {
			t.Fatal(failure)
		}
		name, _ := out["checkpoint_id"].(string)
		key := id + "/" + name + ".json"
		if !regexp.MustCompile(`^\d{8}T\d{6}Z-[0-9a-f]{8}$`).MatchString(name) || out["key"] != key || out["checkpoint_url"] != "s3://hanzo-sessions/"+key {
			t.Errorf("%s: %v", id, out)
		}
		doc, raw := b.document(t, key)
		if doc.CheckpointID != name || doc.SourceInstanceID != id || len(doc.Session.Commands) != 2 || !strings.HasPrefix(string(raw), "{\n  \"version\": 1,") {
			t.Errorf("%s: %+v", id, doc)
		}
		if c := doc.Session.Commands[1]; len(c.Stdout) != 2048 || c.Stderr != "err\n" || c.ExitCode != 3 {
			t.Errorf("%s: %d characters of stdout, stderr %q, exit %d", id, len(c.Stdout), c.Stderr, c.ExitCode)
		}
		// The daemon lists and describes what the node stored.
		if ids, _ := kept(t, d, id); !slices.Equal(ids, []string{name}) {
			t.Errorf("of %s the daemon lists %v", id, ids)
		}
		code, shown := rest(t, d, "GET", "/v1/checkpoints/"+name, nil)
		if c, _ := shown["checkpoint"].(object); code != 200 || c["commandCount"] != 2.0 {
			t.Errorf("%d %v", code, shown)
		}
		if rclone, err := exec.LookPath("rclone"); err == nil {
			cmd := exec.CommandContext(context.Background(), rclone, "cat", "s3:hanzo-sessions/"+key)
			cmd.Env = proc.Env(t.TempDir(), "RCLONE_CONFIG_S3_TYPE=s3", "RCLONE_CONFIG_S3_PROVIDER=Other", "RCLONE_CONFIG_S3_ACCESS_KEY_ID=test-access",
				"RCLONE_CONFIG_S3_SECRET_ACCESS_KEY=test-secret-key", "RCLONE_CONFIG_S3_ENDPOINT="+strings.TrimPrefix(b.env[0], "S3_ENDPOINT_URL="))
			if got, err := cmd.Output(); err != nil || string(got) != string(raw) {
				t.Errorf("rclone cat: %d bytes, %v", len(got), err)
			}
		} else {
			t.Log("there is no rclone")
		}
	}
	// A wrong secret is told, and not shown.
	agent(t, "H17", "bridge-x", withToken(d, "/v1/tunnel", proc.Token), append(slices.Clone(b.env), "S3_SECRET_KEY=another-secret")...)
	instanceOf(t, d, "node-x", append(slices.Clone(b.env), "S3_SECRET_KEY=another-secret")...)
	joined(t, d, "bridge-x")
	for _, id := range []string{"bridge-x", "node-x"} {
		if _, failure := called(t, d, id, "session.checkpoint", object{}); !strings.Contains(failure, "checkpoint failed: An error occurred (403) when calling the HeadBucket operation: Forbidden") || strings.Contains(failure, "another-secret") {
			t.Errorf("%s: %s", id, failure)
		}
	}
}

// hostedDaemon is a daemon with a node host of its own, and that node's id.
func hostedDaemon(t *testing.T, config object) (*proc.Daemon, string) {
	t.Helper()
	config["gateway"] = object{"auth": object{"mode": "token", "token": proc.Token}}
	d := proc.Start(t, proc.Options{Config: config, Env: []string{"HANZOD_NODE=1"}})
	return d, hosted(t, d)
}

func hosted(t *testing.T, d *proc.Daemon) string {
	t.Helper()
	id := ""
	proc.Until(t, "the node host is linked", func() bool {
		for n := range listed(t, d) {
			id = n
		}
		return id != ""
	})
	return id
}

// create makes a checkpoint by gRPC and returns it.
func create(t *testing.T, d *proc.Daemon, node string) (*tunnelv1.CheckpointDetails, error) {
	t.Helper()
	s, err := d.Client(t).Checkpoints.Create(context.Background(), &tunnelv1.CheckpointServiceCreateRequest{NodeId: node})
	if err != nil {
		return nil, err
	}
	for {
		m, err := s.Recv()
		if err != nil {
			return nil, err
		}
		if c := m.GetCheckpoint(); c != nil {
			return c, nil
		}
	}
}

// The store in a directory holds the same document; what a kill cuts off is not listed.
func TestH17FileStoreAndKill(t *testing.T) {
	accept(t, "H17")
	dir := filepath.Join(t.TempDir(), "kept")
	d, node := hostedDaemon(t, object{"checkpoints": object{"store": "dir", "dir": dir}})
	work := filepath.Join(d.State, "workspace")
	if err := os.MkdirAll(work, 0o755); err != nil {
		t.Fatal(err)
	}
	shell(t, work, "git init -q -b main; echo hello > README.md; git add -A; git commit -qm first; echo more > new.txt")
	cp, err := create(t, d, node)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, node, cp.GetCheckpoint().GetCheckpointId()+".json")
	raw, err := os.ReadFile(file)
	if err != nil || !strings.HasPrefix(string(raw), "{\n  \"version\": 1,") || !strings.Contains(string(raw), `"git_branch": "main"`) || !strings.Contains(string(raw), "new.txt") {
		t.Fatalf("%s %v", raw, err)
	}
	if i, err := os.Stat(file); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", i.Mode(), err)
	}
	// It comes back over a channel: refused where there are changes, else whole.
	id := cp.GetCheckpoint().GetCheckpointId()
	shell(t, work, "rm new.txt; echo other > README.md")
	if c := d.Ctl("checkpoints", "restore", id, node).Wait(t, time.Minute); c.Code == 0 {
		t.Errorf("restored over changes: %s", c.Stdout)
	}
	if c := d.Ctl("checkpoints", "restore", id, node, "--force").Wait(t, time.Minute); c.Code != 0 {
		t.Errorf("%s%s", c.Stdout, c.Stderr)
	}
	if got := shell(t, work, "cat README.md new.txt; git log --oneline | wc -l"); got != "hello\nmore\n1\n" {
		t.Errorf("restored: %q", got)
	}
	// Larger, so that a kill comes in between.
	shell(t, work, "head -c 60000000 /dev/urandom > large.bin")
	for i := range 4 {
		go func() { _, _ = create(t, d, node) }()
		time.Sleep(time.Duration(150*(i+1)) * time.Millisecond)
		d.Kill()
		d.Start()
		node = hosted(t, d)
		ids, _ := kept(t, d, "")
		for _, id := range ids {
			// What is listed is whole: it is read with all its checksums for a dry run.
			code, out := rest(t, d, "POST", "/v1/checkpoints/"+id+"/restore", object{"nodeId": node, "dryRun": true})
			if code != 200 || fmt.Sprint(out["error"]) != "<nil>" {
				t.Errorf("%s: %d %v", id, code, out)
			}
		}
		t.Logf("killed after %d ms: %d checkpoints are listed", 150*(i+1), len(ids))
	}
	if _, err := create(t, d, node); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Join(d.State, "checkpoints.tmp")); len(left) != 0 {
		t.Errorf("left of the kills: %v", left)
	}
}

// Every object is listed, of one node or by the bridge's prefix.
func TestH20List(t *testing.T) {
	accept(t, "H20")
	boto(t, "H20")
	b := newBucket(t, "H20", nil)
	d := linkDaemon(t, object{"checkpoints": b.storeConfig()})
	put := func(key string) {
		if err := b.Put(context.Background(), key, strings.NewReader("{}"), objects.Info{Size: 2, ContentType: "application/json"}); err != nil {
			t.Error(err)
		}
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := w; i < 1050; i += 4 {
				put(fmt.Sprintf("agent-1/20250101T%06dZ-%08x.json", i, i))
			}
		})
	}
	wg.Wait()
	for _, key := range []string{"agent-10/20250101T000001Z-00000001.json", "agent-1/notes.txt", "agent-1/20250101T000000Z-00000000.d/base.bundle", "agent-2/x.json"} {
		put(key)
	}
	agent(t, "H20", "agent-1", withToken(d, "/v1/tunnel", proc.Token), b.env...)
	joined(t, d, "agent-1")
	instanceOf(t, d, "node-1", b.env...)
	for prefix, want := range map[string]int{"agent-1": 1051, "agent-1/": 1050, "agent-10": 1, "": 1052, "nobody": 0} {
		params := object{}
		if prefix != "" {
			params["instance_id"] = prefix
		}
		bridge, failure := called(t, d, "agent-1", "session.list", params)
		if failure != "" {
			t.Fatal(failure)
		}
		ours, failure := called(t, d, "node-1", "session.list", params)
		if failure != "" {
			t.Fatal(failure)
		}
		if got := bridge["count"]; got != float64(want) {
			t.Errorf("prefix %q: the bridge lists %v, want %d", prefix, got, want)
		}
		one, _ := json.Marshal(bridge)
		two, _ := json.Marshal(ours)
		if string(one) != string(two) {
			t.Errorf("prefix %q: a node of ours lists something else than the bridge: %.300s, %.300s", prefix, one, two)
		}
		if prefix != "" {
			continue
		}
		// REST lists what the bridge lists.
		_, keys := kept(t, d, "")
		if len(keys) != want {
			t.Errorf("REST lists %d", len(keys))
		}
		for _, c := range slicesOf(bridge["checkpoints"]) {
			if c := c.(object); keys[c["key"].(string)] != c["size"] {
				t.Fatalf("REST has %v for %v", keys[c["key"].(string)], c)
			}
		}
	}
	// And a node exactly.
	if ids, _ := kept(t, d, "agent-1"); len(ids) != 1050 {
		t.Errorf("of agent-1 there are %d", len(ids))
	}
	if ids, _ := kept(t, d, "agent-10"); len(ids) != 1 {
		t.Errorf("of agent-10 there are %d", len(ids))
	}
}

// migrateScript runs testdata/migrate.py.
func migrateScript(t *testing.T, d *proc.Daemon, token string, args ...string) (string, bool) {
	t.Helper()
	script, err := filepath.Abs("testdata/migrate.py")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.Background(), python(t, "H21"), append([]string{script}, args...)...)
	cmd.Env = proc.Env(t.TempDir(), "OPERATOR_URL="+d.WS()+"/", "BOT_GATEWAY_TOKEN="+token)
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

func TestH21Migration(t *testing.T) {
	accept(t, "H21")
	boto(t, "H21")
	b := newBucket(t, "H21", nil)
	d := linkDaemon(t, object{"checkpoints": b.storeConfig()})
	var ids []string
	for i, kind := range []string{"dev", "dev", "cloud", "cloud"} {
		id := fmt.Sprintf("migrate-test-%s-%d-%d", kind, i, os.Getpid())
		agent(t, "H21", id, withToken(d, "/v1/tunnel", proc.Token), append(slices.Clone(b.env), "APP_KIND="+kind)...)
		joined(t, d, id)
		ids = append(ids, id)
	}
	if out, ok := migrateScript(t, d, "", "--list"); ok || out != "ERROR: Set BOT_GATEWAY_TOKEN env var\n" {
		t.Errorf("without a token: %s", out)
	}
	out, ok := migrateScript(t, d, proc.Token, "--list")
	if !ok || !strings.Contains(out, "4 node(s)") {
		t.Fatalf("--list: %s", out)
	}
	for _, id := range ids {
		if !strings.Contains(out, id) {
			t.Errorf("%s is not listed: %s", id, out)
		}
	}
	out, ok = migrateScript(t, d, proc.Token, append([]string{"--swarm"}, ids[:3]...)...)
	if !ok || !strings.Contains(out, "counts: 2, 2, 3\n") {
		t.Fatalf("the logic of test-migration.py: %s", out)
	}
	out, ok = migrateScript(t, d, proc.Token, "--from", ids[0], "--to", ids[1])
	if !ok || !strings.Contains(out, "[1/3] Checkpointing "+ids[0]) || !strings.Contains(out, "from "+ids[0]+": 0 messages, 3 commands") || !strings.HasSuffix(out, "running, 3 commands\nMigration complete\n") {
		t.Errorf("--from --to: %s", out)
	}
	out, ok = migrateScript(t, d, proc.Token, "--checkpoints", ids[0])
	if !ok || !strings.Contains(out, "2 checkpoint(s) in hanzo-sessions") || !strings.Contains(out, ids[0]+"/2") {
		t.Errorf("--checkpoints: %s", out)
	}
	// The same by the daemon, whose store is that of the bridges.
	ctl := d.Ctl("checkpoints", "migrate", ids[1], ids[3]).Wait(t, time.Minute)
	if text := ctl.Stdout.String(); !strings.Contains(text, "3 commands") || !strings.Contains(text, "running") {
		t.Errorf("hanzoctl checkpoints migrate: %s%s", text, ctl.Stderr)
	}
	if got, _ := kept(t, d, ids[1]); len(got) != 1 {
		t.Errorf("of %s there is %v", ids[1], got)
	}
}
