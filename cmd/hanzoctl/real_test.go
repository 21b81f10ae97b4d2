package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hanzoai/hanzod/client"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
)

// realDaemon is hanzod with a node host for this machine, and the name and id of that node.
func realDaemon(t testing.TB, o hanzodtest.Options) (d *hanzodtest.Daemon, name, id string) {
	t.Helper()
	o.Node = true
	d = hanzodtest.Start(t, o)
	c, err := client.Dial(context.Background(), client.Options{Socket: d.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for deadline := time.Now().Add(20 * time.Second); ; {
		out, err := c.Nodes.ListNodes(context.Background(), &nodesv1.ListNodesRequest{ConnectedOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if n := out.GetNodes(); len(n) == 1 {
			return d, n[0].GetDisplayName(), n[0].GetNodeId()
		}
		if time.Now().After(deadline) {
			t.Fatal("the node host did not come")
		}
		<-time.After(20 * time.Millisecond)
	}
}

// TestRealScripts runs the stories in testdata/real, each against a daemon of its own with a node host, on
// which commands really run. NODE and NAME are those of the node.
func TestRealScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "real"),
		Setup: func(e *testscript.Env) error {
			d, name, id := realDaemon(e.T().(testing.TB), hanzodtest.Options{})
			e.Setenv("HANZOD_SOCKET", d.Socket())
			e.Setenv("NODE", id)
			e.Setenv("NAME", strings.ReplaceAll(name, ".", `\.`))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("PATH", os.Getenv("PATH"))
			work, err := filepath.EvalSymlinks(e.WorkDir) // an approval takes no links
			if err != nil {
				return err
			}
			e.Setenv("WORK", work)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "capture": capture},
	})
}
