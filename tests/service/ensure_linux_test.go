package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

const (
	// ensureHelper marks a process that is one of many programs which want a running daemon.
	ensureHelper = "HANZOD_TEST_ENSURE"
	// ensureProcesses and ensureCallers are how many programs ask at once, and how often each.
	ensureProcesses, ensureCallers = 3, 4
)

// ensured calls EnsureRunning and returns the process of the daemon that answers.
func ensured(ctx context.Context) (int64, error) {
	c, err := client.EnsureRunning(ctx, client.EnsureOptions{})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	out, err := c.System.GetStatus(ctx, &systemv1.GetStatusRequest{})
	return out.GetPid(), err
}

// TestEnsureHelper is one of the programs of ensure.
func TestEnsureHelper(t *testing.T) {
	if os.Getenv(ensureHelper) == "" {
		t.Skip("this is one of the programs of TestInside")
	}
	var all sync.WaitGroup
	for range ensureCallers {
		all.Go(func() {
			pid, err := ensured(t.Context())
			if err != nil {
				t.Errorf("%T: %v", err, err)
			}
			fmt.Fprintf(os.Stderr, "answered by %d\n", pid)
		})
	}
	all.Wait()
}

// ensure has programs start the service, which is installed and stopped.
func (w *world) ensure(t *testing.T) {
	for _, kv := range w.env {
		k, v, _ := strings.Cut(kv, "=")
		t.Setenv(k, v)
	}
	w.hanzod(t, 0, "service", "stop")
	var all sync.WaitGroup
	outputs := make([]string, ensureProcesses)
	for i := range outputs {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), stepTime)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestEnsureHelper$", "-test.timeout="+stepTime.String())
			cmd.Env, cmd.WaitDelay = append(w.env, ensureHelper+"=1"), time.Second
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			outputs[i] = string(out)
		})
	}
	all.Wait()
	text := strings.Join(outputs, "")
	if want := "answered by " + w.property("MainPID"); strings.Count(text, "answered by ") != ensureProcesses*ensureCallers || strings.Count(text, want+"\n") != ensureProcesses*ensureCallers {
		t.Errorf("not all were answered by the same process, %s:\n%s", want, text)
	}
	if f := client.FindIn(w.state); f.Daemon == nil || strconv.Itoa(f.Daemon.PID) != w.property("MainPID") || f.Daemon.Service != "systemd" || f.Daemon.Executable != filepath.Join(w.bin, "hanzod") {
		t.Errorf("the discovery file: %+v", f.Daemon)
	}
	w.hanzod(t, 0, "service", "stop")
	began := time.Now()
	if _, err := ensured(t.Context()); err != nil {
		t.Error(err)
	}
	t.Logf("from a stopped service to the first answer: %v", time.Since(began).Round(time.Millisecond))

	// Another state directory was named, and the service is not its daemon.
	t.Setenv("HANZOD_STATE_DIR", filepath.Join(w.home, "other"))
	expectCode(t, client.CodeNoService, "--state-dir")
	t.Setenv("HANZOD_STATE_DIR", "")

	w.hanzod(t, 0, "service", "stop")
	file := filepath.Join(w.state, "config.json")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("{gateway:{prot:1}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	forgetGood(t, w.state)
	expectCode(t, client.CodeStartFailed, "hanzod service logs")
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ensured(t.Context()); err != nil {
		t.Error(err)
	}
}

// forgetGood takes away the last configuration that worked: a daemon that never ran has nothing to fall back on.
func forgetGood(t *testing.T, state string) {
	t.Helper()
	if err := os.Remove(filepath.Join(state, "config.last-good.json")); err != nil {
		t.Fatal(err)
	}
}

func expectCode(t *testing.T, code, say string) {
	t.Helper()
	_, err := ensured(t.Context())
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != code || !strings.Contains(e.Message, say) {
		t.Errorf("%T %v; want %s with %q", err, err, code, say)
	}
}
