//go:build linux

package promises

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	mib = 1 << 20
	// The promise R2.
	maxIdle   = 40 * mib
	maxStatus = 25 * mib
	maxBoth   = 64 * mib
	// settled is when the daemon has given back the memory of its start.
	settled = 2500 * time.Millisecond
)

// TestR2IdleMemory: a daemon with a node fits into 40 MiB when it has settled, the command line
// into 25 MiB, and both together into a control group of 64 MiB.
func TestR2IdleMemory(t *testing.T) {
	peak, ctl := proc.Build(t, "peak", proc.Shipped), proc.Build(t, "hanzoctl", proc.Shipped)
	d := proc.Start(t, proc.Options{Args: []string{"--node"}})
	<-time.After(settled - time.Since(d.Began))
	var status int64
	for range 3 {
		c := proc.Run(t, d.State, peak, []string{"HANZOD_STATE_DIR=" + d.State}, ctl, "status").Wait(t, proc.Patience)
		kib, err := strconv.ParseInt(strings.TrimSpace(c.Stdout.String()), 10, 64)
		if err != nil {
			t.Fatalf("hanzoctl status: %s%s", c.Stdout, c.Stderr)
		}
		status = max(status, kib<<10)
	}
	idle := proc.RSS(t, d.PID())
	t.Logf("idle daemon with a node %.1f MiB, hanzoctl status %.1f MiB at its peak", float64(idle)/mib, float64(status)/mib)
	if idle > maxIdle {
		t.Errorf("the idle daemon holds %.1f MiB; at most %d are promised", float64(idle)/mib, maxIdle/mib)
	}
	if status > maxStatus {
		t.Errorf("hanzoctl status takes %.1f MiB; at most %d are promised", float64(status)/mib, maxStatus/mib)
	}
	if idle+status > maxBoth {
		t.Errorf("together they take %.1f MiB; at most %d are promised", float64(idle+status)/mib, maxBoth/mib)
	}
}

// memoryGroup makes a control group with a memory limit, and returns its directory and the name of
// the file that holds its peak. It skips the test where there is no right to make one.
func memoryGroup(t *testing.T, limit int64) (dir, peak string) {
	t.Helper()
	name := fmt.Sprintf("hanzod-test-%d", os.Getpid())
	for _, g := range []struct{ root, limit, peak string }{
		{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"},
		{"/sys/fs/cgroup", "memory.max", "memory.peak"},
	} {
		dir := filepath.Join(g.root, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			continue
		}
		t.Cleanup(func() { _ = os.Remove(dir) }) // empty by then: its processes have ended
		if err := os.WriteFile(filepath.Join(dir, g.limit), []byte(strconv.FormatInt(limit, 10)), 0o600); err == nil {
			return dir, g.peak
		}
	}
	t.Skip("no control group can be made here; the sum of both is checked by TestR2IdleMemory")
	return "", ""
}

// TestR2BothInAControlGroup runs both in a control group of 64 MiB, through a few dozen calls.
func TestR2BothInAControlGroup(t *testing.T) {
	ctl, bin := proc.Build(t, "hanzoctl", proc.Shipped), proc.Build(t, "hanzod", proc.Shipped)
	group, peakFile := memoryGroup(t, maxBoth)
	// The shell puts itself into the group and becomes the program.
	inside := func(d *proc.Daemon, bin string, args ...string) *proc.Command {
		script := `echo $$ > "$0" && exec "$@"`
		return proc.Run(t, d.State, "/bin/sh", []string{"HANZOD_STATE_DIR=" + d.State},
			append([]string{"-c", script, filepath.Join(group, "cgroup.procs"), bin}, args...)...)
	}
	d := proc.New(t, proc.Options{})
	daemon := inside(d, bin, "run", "--node", "--state-dir", d.State, "--port", strconv.Itoa(d.Port))
	d.Command = daemon
	d.WaitReady()
	const calls = 30
	for i := range calls {
		if c := inside(d, ctl, "status").Wait(t, proc.Patience); c.Code != 0 {
			t.Fatalf("status %d ended with %d: %s", i, c.Code, c.Stderr)
		}
	}
	if daemon.Ended() {
		t.Fatalf("the daemon ended in a group of %d MiB\n%s", maxBoth/mib, daemon.Stderr)
	}
	if text, err := os.ReadFile(filepath.Join(group, peakFile)); err == nil {
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("the group held %.1f MiB at its peak, page cache included", float64(n)/mib)
	}
	daemon.End(syscall.SIGTERM)
	if daemon.Code != 0 {
		t.Errorf("the daemon ended with %d", daemon.Code)
	}
}
