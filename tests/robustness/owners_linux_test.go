package robustness

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// TestMigrateForeignOwners: files of the source that belong to somebody else and cannot be read are named, all others
// come over, and the source stays as it is.
func TestMigrateForeignOwners(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "owners") // below of which another user may go
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	source, home := filepath.Join(dir, "old"), filepath.Join(dir, "home")
	const readable, unreadable = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
	line := `{"type":"message","id":"a","parentId":null,"timestamp":"2025-01-01T00:00:00.000Z","message":{"role":"user","content":[{"type":"text","text":"hi"}],"timestamp":1}}` + "\n"
	files := map[string]string{
		"openclaw.json":  `{ gateway: { port: 18999 } }`,
		"cron/jobs.json": `{"version":1,"jobs":[]}`,
		"agents/main/sessions/sessions.json": `{"agent:main:main":{"sessionId":"` + readable + `","updatedAt":1700000000000},` +
			`"agent:main:two":{"sessionId":"` + unreadable + `","updatedAt":1700000000000}}`,
		"agents/main/sessions/" + readable + ".jsonl":   line,
		"agents/main/sessions/" + unreadable + ".jsonl": line,
	}
	hidden := []string{"cron/jobs.json", "agents/main/sessions/" + unreadable + ".jsonl"}
	for name, text := range files {
		path := filepath.Join(source, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range hidden {
		if err := os.Chmod(filepath.Join(source, name), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "hanzod")
	text, err := os.ReadFile(proc.Build(t, "hanzod", proc.Tested))
	if err != nil {
		t.Fatal(err)
	}
	syscall.ForkLock.RLock() // a fork in between would keep it open for writing
	err = os.WriteFile(program, text, 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "migrate", source, "--state-dir", filepath.Join(home, "state"), "--yes")
	cmd.Env, cmd.Dir, cmd.WaitDelay = proc.Env(home), home, time.Second
	if os.Getuid() == 0 { // who may read everything
		const nobody = 65534
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		if err := os.Chown(home, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	before := tree(t, source)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, name := range hidden {
		if !strings.Contains(out.String(), name+": ") {
			t.Errorf("%s is not named:\n%s", name, out.String())
		}
	}
	if got, err := os.ReadFile(filepath.Join(home, "state", "agents/main/sessions", readable+".jsonl")); err != nil || string(got) != line {
		t.Errorf("what can be read did not come over: %v\n%s", err, out.String())
	}
	if after := tree(t, source); after != before {
		t.Errorf("the source was changed:\n%s\n%s", before, after)
	}
}

// tree says what is in a directory: names, owners, modes, times and contents.
func tree(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `cd "$1" && find . | sort | xargs stat -c '%n %u %a %Y %s' && find . -type f | sort | xargs sha256sum 2>&1`, "sh", dir).CombinedOutput()
	if err != nil && os.Getuid() == 0 {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}
