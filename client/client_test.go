package client_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/clienttest"
	"github.com/hanzoai/hanzod/errs"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dial connects to a socket for the length of a test.
func dial(t testing.TB, socket string) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), client.Options{Socket: socket, ClientName: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestNotRunning(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "s")
	l, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, socket := range map[string]string{"missing": filepath.Join(dir, "none"), "stale": stale, "a file": file} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, socket)
			_, err := c.System.GetHealth(t.Context(), &systemv1.GetHealthRequest{})
			nr, ok := errors.AsType[*client.NotRunning](err)
			if !ok {
				t.Fatalf("got %T %v", err, err)
			}
			want := "no daemon answers at " + socket + `; start it with "hanzod run"`
			if nr.Error() != want || nr.Reason == "" {
				t.Errorf("got %q, reason %q", nr.Error(), nr.Reason)
			}
			s, err := c.Nodes.WatchNodes(t.Context(), &nodesv1.WatchNodesRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			if _, ok := errors.AsType[*client.NotRunning](err); !ok {
				t.Errorf("stream: got %T %v", err, err)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	d := clienttest.New(t)
	c := dial(t, d.Socket)
	_, err := c.Nodes.GetNode(t.Context(), &nodesv1.GetNodeRequest{NodeId: "x"})
	e, ok := errors.AsType[*client.Error](err)
	if !ok || e.Code != "nodes.unknown" || e.Class != errs.NotFound || e.Message != "no such node is connected or paired" {
		t.Errorf("got %#v", err)
	}
	_, err = c.Nodes.Invoke(t.Context(), &nodesv1.InvokeRequest{NodeId: clienttest.NodeID, Command: "camera.snap"})
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Fields["command"] != "camera.snap" || e.Class != errs.Denied {
		t.Errorf("got %#v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.System.GetHealth(ctx, &systemv1.GetHealthRequest{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: got %v", err)
	}
	ctx, cancel = context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	_, err = c.System.GetHealth(ctx, &systemv1.GetHealthRequest{})
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != client.CodeTimeout || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("deadline: got %#v", err)
	}
}

func TestForeignSocket(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to give a socket away")
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chown(path, 12345, -1); err != nil {
		t.Fatal(err)
	}
	_, err = dial(t, path).System.GetHealth(t.Context(), &systemv1.GetHealthRequest{})
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != client.CodeForeignSocket || !strings.Contains(e.Message, "user 12345") {
		t.Errorf("got %v", err)
	}
}

func TestSocketPath(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("pipes have no length limit to keep")
	}
	if got := client.SocketPath("/home/a/.hanzo/hanzod"); got != "/home/a/.hanzo/hanzod/hanzod.sock" {
		t.Error(got)
	}
	runtimeDir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", runtimeDir)
	long := "/home/" + strings.Repeat("a", 100)
	got := client.SocketPath(long)
	if len(got) > 103 || !strings.HasSuffix(got, ".sock") {
		t.Errorf("got %q, %d bytes", got, len(got))
	}
	if again := client.SocketPath(long + "/x/.."); again != got {
		t.Errorf("one directory, two paths: %q and %q", got, again)
	}
	if other := client.SocketPath(long + "b"); other == got {
		t.Error("two directories, one path")
	}
	t.Setenv("XDG_RUNTIME_DIR", "/nowhere/"+strings.Repeat("r", 100))
	t.Setenv("TMPDIR", "/nowhere/"+strings.Repeat("t", 100))
	if got := client.SocketPath(long); len(got) > 103 {
		t.Errorf("got %q, %d bytes", got, len(got))
	}
}

func TestDefaultStateDir(t *testing.T) {
	for _, tc := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"HOME": "/h"}, "/h/.hanzo/hanzod"},
		{map[string]string{"HOME": "/h", "CLAWDBOT_STATE_DIR": "/c"}, "/c"},
		{map[string]string{"HOME": "/h", "CLAWDBOT_STATE_DIR": "/c", "OPENCLAW_STATE_DIR": "/o"}, "/o"},
		{map[string]string{"HOME": "/h", "OPENCLAW_STATE_DIR": "/o", "HANZOD_STATE_DIR": "/z"}, "/z"},
		{map[string]string{"HOME": "/h", "HANZOD_STATE_DIR": " "}, "/h/.hanzo/hanzod"},
		{map[string]string{"HOME": "/h", "HANZOD_STATE_DIR": "~/s"}, "/h/s"},
	} {
		got := client.DefaultStateDir(func(k string) string { return tc.env[k] })
		if filepath.ToSlash(got) != tc.want {
			t.Errorf("%v: got %q, want %q", tc.env, got, tc.want)
		}
	}
}

func TestMatchNode(t *testing.T) {
	node := func(id, name, ip string, connected bool) *nodesv1.Node {
		return &nodesv1.Node{NodeId: id, DisplayName: name, RemoteIp: ip, Connected: connected}
	}
	nodes := []*nodesv1.Node{
		node("aaaaaaaa1", "Build Box", "10.0.0.1", true),
		node("aaaaaaaa2", "build-box!", "10.0.0.2", false),
		node("bbbbbbbb1", "twin", "", true),
		node("bbbbbbbb2", "Twin", "", true),
		node("cccccccc1", "书房", "", true),
		node("cccccccc2", "客厅", "", true),
		node("dddddddd1", "aaaaaaaa2", "", true), // calls itself like another's id
		node("eeeeeeee1", "", "10.0.0.5", false),
	}
	for _, tc := range []struct{ query, id, err string }{
		{query: "aaaaaaaa1", id: "aaaaaaaa1"},
		{query: " aaaaaaaa1 ", id: "aaaaaaaa1"},
		{query: "aaaaaaaa2", id: "aaaaaaaa2"},
		{query: "BUILD box", id: "aaaaaaaa1"},
		{query: "10.0.0.2", id: "aaaaaaaa2"},
		{query: "dddddd", id: "dddddddd1"},
		{query: "ddddd", err: "unknown node: ddddd (known: "},
		{query: "aaaaaa", id: "aaaaaaaa1"}, // the only connected one
		{query: "bbbbbb", err: "ambiguous node: bbbbbb (matches: twin, Twin)"},
		{query: "twin", err: "ambiguous node: twin (matches: twin, Twin)"},
		{query: "书房", id: "cccccccc1"},
		{query: "厨房", err: "unknown node: 厨房 (known: Build Box, build-box!, twin, Twin, 书房, 客厅, aaaaaaaa2, 10.0.0.5)"},
		{query: "", err: "node required"},
		{query: "eeeeeeee", id: "eeeeeeee1"},
	} {
		n, err := client.MatchNode(nodes, tc.query)
		if tc.err != "" {
			if err == nil || !strings.HasPrefix(err.Error(), tc.err) {
				t.Errorf("%q: got %v, %v, want %q", tc.query, n, err, tc.err)
			}
			continue
		}
		if err != nil || n.GetNodeId() != tc.id {
			t.Errorf("%q: got %v, %v, want %s", tc.query, n, err, tc.id)
		}
	}
	if _, err := client.MatchNode(nil, "x"); err == nil || err.Error() != "unknown node: x (known: none)" {
		t.Errorf("no nodes: %v", err)
	}
}

func TestDialOnce(t *testing.T) {
	// A client outlives a restart of its daemon.
	d := clienttest.New(t)
	c := dial(t, d.Socket)
	if _, err := c.Approvals.ListApprovals(t.Context(), &approvalsv1.ListApprovalsRequest{}); err != nil {
		t.Fatal(err)
	}
	d.Stop()
	d.Start(t)
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, err := c.Approvals.ListApprovals(t.Context(), &approvalsv1.ListApprovalsRequest{})
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		tick(t)
	}
}

// tick waits a moment, for polling a condition with a deadline.
func tick(t testing.TB) {
	t.Helper()
	select {
	case <-time.After(10 * time.Millisecond):
	case <-t.Context().Done():
	}
}
