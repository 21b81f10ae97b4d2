//go:build unix

package robustness

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"

	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	updatev1 "github.com/hanzoai/hanzod/gen/hanzo/update/v1"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// TestUpdate: a daemon goes on as the newest build of a directory, in the same process, and takes nothing whose
// checksum is wrong or that does not run.
func TestUpdate(t *testing.T) {
	builds, home := t.TempDir(), t.TempDir()
	// The daemon runs from a place of its own, which the update may write to.
	program := filepath.Join(home, "hanzod")
	text, err := os.ReadFile(proc.Build(t, "hanzod", proc.Shipped))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, text, 0o700); err != nil {
		t.Fatal(err)
	}
	put := func(version string, text []byte, sum string) {
		t.Helper()
		name := "hanzod_" + version + "_" + runtime.GOOS + "_" + runtime.GOARCH
		if sum == "" {
			s := sha256.Sum256(text)
			sum = hex.EncodeToString(s[:])
		}
		if err := os.WriteFile(filepath.Join(builds, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(builds, "SHA256SUMS"), []byte(sum+"  "+name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := proc.New(t, proc.Options{State: home})
	run := func() *proc.Command {
		return proc.Run(t, home, program, proc.Env(home, "HANZOD_STATE_DIR="+home, "HANZOD_UPDATE_DIR="+builds), "run", "--port", "0")
	}
	c := run()
	defer c.End(9)
	version := func() string {
		out, err := d.Client(t).System.GetStatus(t.Context(), &systemv1.GetStatusRequest{})
		if err != nil {
			return ""
		}
		return out.GetVersion()
	}
	proc.Until(t, "the daemon answers", func() bool { return version() != "" })
	old := version()
	update := func() *updatev1.RunUpdateResponse {
		t.Helper()
		out, err := d.Client(t).Updates.RunUpdate(t.Context(), &updatev1.RunUpdateRequest{RestartDelay: durationpb.New(0)})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	put("9.9.9", []byte("#!/bin/sh\nexit 1\n"), "")
	if out := update(); out.GetStatus() != "error" || version() != old {
		t.Errorf("a program that does not run: %v", out)
	}
	put("9.9.9", text, strings.Repeat("0", 64))
	if out := update(); out.GetStatus() != "error" || !strings.Contains(out.String(), "checksum") {
		t.Errorf("a wrong checksum: %v", out)
	}

	next := filepath.Join(t.TempDir(), "hanzod")
	proc.Variant(t, next, "-ldflags", "-s -w -X github.com/hanzoai/hanzod/runtime.Version=9.9.9")
	newer, err := os.ReadFile(next)
	if err != nil {
		t.Fatal(err)
	}
	put("9.9.9", newer, "")
	out := update()
	if out.GetStatus() != "ok" || !out.GetRestarting() {
		t.Fatalf("the update: %v", out)
	}
	proc.UntilFor(t, 40*proc.Patience/10, "the new program answers", func() bool { return version() == "9.9.9" })
	status, err := d.Client(t).System.GetStatus(t.Context(), &systemv1.GetStatusRequest{})
	if err != nil || int(status.GetPid()) != c.PID() {
		t.Errorf("another process answers: %v, %v, want %d", status, err, c.PID())
	}
	if _, err := os.Stat(program + ".previous"); err != nil {
		t.Errorf("the program before is not kept: %v", err)
	}
	proc.Until(t, "the update is done", func() bool {
		_, err := os.Stat(filepath.Join(home, "update.pending.json"))
		return os.IsNotExist(err)
	})
}
