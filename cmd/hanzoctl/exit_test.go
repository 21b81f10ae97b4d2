package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/client"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
)

func TestExitCode(t *testing.T) {
	for want, err := range map[int]error{
		0:            nil,
		exitFailed:   errors.New("x"),
		exitUsage:    usagef("x"),
		exitNotFound: &client.Error{Class: client.NotFound},
		exitNoDaemon: fmt.Errorf("wrapped: %w", &client.NotRunning{}),
		exitConflict: &client.Error{Class: client.Conflict},
		exitUnknown:  &client.Error{Class: client.Unknown},
		exitLater:    &client.Error{Class: client.Unavailable, Code: "nodes.not_connected"},
		exitDenied:   &client.Error{Class: client.Denied},
		exitDeadline: context.DeadlineExceeded,
		42:           &codeError{code: 42},
	} {
		if got := exitCode(err); got != want {
			t.Errorf("%v: got %d, want %d", err, got, want)
		}
	}
	if got := exitCode(&client.Error{Class: client.Unavailable, Code: client.CodeLost}); got != exitNoDaemon {
		t.Errorf("lost: %d", got)
	}
	for c := client.Internal; c <= client.Unknown; c++ {
		if classCodes[c] == 0 {
			t.Errorf("class %v has no exit code", c)
		}
	}
}

func TestFinish(t *testing.T) {
	for want, out := range map[int]client.RunOut{
		0:            {ExitCode: new(0)},
		7:            {ExitCode: new(7)},
		exitNotRun:   {Failure: "ENOENT"},
		exitDeadline: {TimedOut: true, ExitCode: new(1)},
		139:          {Signal: "SIGSEGV"},
		137:          {Signal: "9"},
		exitSignal:   {},
	} {
		a := &app{output: "table", stdout: devNull(t), stderr: devNull(t)}
		if got := exitCode(a.finish(out, 0)); got != want {
			t.Errorf("%+v: got %d, want %d", out, got, want)
		}
	}
}

func TestNodeWords(t *testing.T) {
	got := nodeWords([]*nodesv1.Node{
		{NodeId: "a1", DisplayName: "Build Box", Connected: true},
		{NodeId: "b1", DisplayName: "twin", Paired: true}, {NodeId: "b2", DisplayName: "Twin", Paired: true},
		{NodeId: "c1", DisplayName: "书房", Paired: true},
	})
	want := []string{"build-box\ta1, connected", "b1\ttwin, offline", "b2\tTwin, offline", "c1\t书房, offline"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q", got)
	}
}

func devNull(t testing.TB) *os.File {
	t.Helper()
	f, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// hanzoctl links the client and the generated types, never the daemon.
func TestLinksLittle(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	const module = "github.com/hanzoai/hanzod/"
	mine := []string{"cmd/hanzoctl", "client", "client/discover", "client/ssh", "client/tailnet", "identity/tailnet", "errs", "compat/companion", "identity/peer/owner", "config/json5", "approvals/audit", "client/show", "client/asciicast", "client/carrier", "tunnel/driver", "tunnel/eager", "tunnel/mux", "tunnel/wire", "tunnel/tech/message", "system/doctor"}
	for pkg := range strings.FieldsSeq(string(out)) {
		if own, ok := strings.CutPrefix(pkg, module); ok && !slices.Contains(mine, own) && !strings.HasPrefix(own, "gen/") {
			t.Errorf("links %s", pkg)
		}
		if strings.Contains(pkg, "bbolt") || strings.Contains(pkg, "websocket") || strings.Contains(pkg, "prometheus") {
			t.Errorf("links %s", pkg)
		}
	}
}
