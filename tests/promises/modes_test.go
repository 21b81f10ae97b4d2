//go:build unix

package promises

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// TestOthersReadNothing: another user of this machine reads nothing of the daemon's, whatever the umask
// of its owner: no file, no socket, no directory lets others or the group in, nothing of the owner's is
// left in the directory for temporary files, and what the list of processes shows holds no secret.
func TestOthersReadNothing(t *testing.T) {
	t.Parallel()
	home := proc.Dir(t)
	temp := filepath.Join(home, "tmp")
	if err := os.Mkdir(temp, 0o700); err != nil {
		t.Fatal(err)
	}
	state, port := filepath.Join(home, "state"), proc.FreePort(t)
	bin := proc.Build(t, "hanzod", proc.Tested)
	run := proc.Run(t, home, "/bin/sh", []string{"TMPDIR=" + temp, "HANZOD_TOKEN=" + proc.Token}, "-c",
		`umask 000; exec "$0" "$@"`, bin, "run", "--node", "--state-dir", state, "--port", fmt.Sprint(port), "--grpc-port", fmt.Sprint(proc.FreePort(t)))
	proc.Until(t, "the daemon is ready", func() bool {
		res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/readyz", port))
		if err != nil {
			return run.Ended()
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
	ctl := func(args ...string) string {
		c := proc.Run(t, home, proc.Build(t, "hanzoctl", proc.Tested), []string{"HANZOD_STATE_DIR=" + state}, args...).Wait(t, proc.Patience)
		if c.Code != 0 {
			t.Fatalf("%v: %s", args, c.Stderr)
		}
		return c.Stdout.String()
	}
	proc.Until(t, "its node is connected", func() bool { return strings.Contains(ctl("nodes", "list"), "connected") })
	ctl("devices", "invite", "--role", "node")
	if run.Ended() {
		t.Fatalf("%s", run.Stderr)
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", run.PID())); err == nil && (strings.Contains(string(b), proc.Token) || strings.Contains(string(b), "hzi_")) {
		t.Errorf("the list of processes shows a secret: %q", b)
	}
	seen := 0
	err := filepath.WalkDir(state, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		seen++
		if mode := info.Mode().Perm(); mode&0o077 != 0 {
			t.Errorf("others may come at %s: %v", path, info.Mode())
		}
		return nil
	})
	if err != nil || seen < 5 {
		t.Errorf("%d files: %v", seen, err)
	}
	left, err := os.ReadDir(temp)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the directory for temporary files: %v, %v", left, err)
	}
	run.End(syscall.SIGTERM)
	for _, out := range []string{run.Stdout.String(), run.Stderr.String()} {
		if strings.Contains(out, proc.Token) || strings.Contains(out, "hzi_") {
			t.Error("the output holds a secret")
		}
	}
}
