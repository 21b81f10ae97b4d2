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

// TestPolicyScripts runs the stories in testdata/policy, each against a real daemon whose node host runs
// in it. RULES is its rules file, APPROVALS the exec approvals file of its node, NODE the id of that.
func TestPolicyScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/policy",
		Setup: func(e *testscript.Env) error {
			d := hanzodtest.Start(e.T().(testing.TB), hanzodtest.Options{Node: true})
			id, err := nodeOf(d.Socket())
			if err != nil {
				return err
			}
			e.Setenv("GORACE", noWait)
			e.Setenv("NODE", id)
			e.Setenv("HANZOD_STATE_DIR", d.StateDir)
			e.Setenv("RULES", filepath.Join(d.StateDir, "policy.json"))
			e.Setenv("STATE", d.StateDir)
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "capture": capture, "until": until, "eventually": eventually},
	})
}

// eventually runs a command again until its standard output holds a text.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually TEXT command args...")
	}
	out := ""
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		_ = ts.Exec(args[1], args[2:]...)
		if out = ts.ReadFile("stdout") + ts.ReadFile("stderr"); strings.Contains(out, args[0]) {
			return
		}
	}
	ts.Fatalf("%v never printed %q, but %s", args[1:], args[0], out)
}

// nodeOf waits for the node of a daemon.
func nodeOf(socket string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, client.Options{Socket: socket})
	if err != nil {
		return "", err
	}
	defer c.Close()
	for {
		out, err := c.Nodes.ListNodes(ctx, &nodesv1.ListNodesRequest{})
		if err != nil {
			return "", err
		}
		for _, n := range out.GetNodes() {
			if n.GetConnected() {
				return n.GetNodeId(), nil
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestPolicyCases(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                              "f:1: the cases must be a list",
		`[`:                               "f:1: this is not JSON5",
		"[\n1]":                           "f:2: a case must be an object",
		"[{expect: 'allow'}]":             "f:1: a case needs argv or line",
		"[{line: 'x'}]":                   "f:1: a case needs expect",
		"[{line: 'x', expect: 'yes'}]":    "f:1: a case needs expect",
		"[{argv: 'x', expect: 'ask'}]":    "f:1: argv must be a list of words",
		"[{argv: [1], expect: 'ask'}]":    "f:1: argv must be a list of words",
		"[{line: 'x',\n\ncmd: 'ask'}]":    `f:3: a case has no key "cmd"`,
		"[{line: 'x', at: 'noon'}]":       "f:1: at must be a time",
		"[{line: 'x', argv: ['x']}]":      "not both",
		"[{line: 1, expect: 'ask'}]":      "f:1: line must be a text",
		"[{node: 'x', expect: 'ask'}\n,]": "f:1: a case needs argv or line",
	} {
		if _, _, err := policyCases("f", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	cases, at, err := policyCases("f", []byte("[\n{argv: ['a', 'b'], node: 'n', agent: 'g', session: 's', cwd: '/c', at: '2027-01-31T18:00:00Z', expect: 'ask', rule: 'r'},\n{line: 'x | y', expect: 'none'}]"))
	if err != nil || len(cases) != 2 || at[0] != 2 || at[1] != 3 || cases[0].GetRun().GetAt() == nil || cases[0].GetRule() != "r" || cases[1].GetRun().GetLine() != "x | y" {
		t.Errorf("%v %v %v", cases, at, err)
	}
}

func TestDiffLines(t *testing.T) {
	for _, c := range []struct{ old, now, want string }{
		{"", "a\n", "+ a\n"},
		{"a\n", "", "- a\n"},
		{"1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\n2\n3\n4\nfive\n6\n7\n8\n9\n", "  2\n  3\n  4\n- 5\n+ five\n  6\n  7\n  8\n"},
		{"a\nb\nc\nd\n", "a\nx\nc\ny\n", "  a\n- b\n+ x\n  c\n- d\n+ y\n"},
	} {
		if got := diffLines(c.old, c.now); got != c.want {
			t.Errorf("%q to %q:\n%swant\n%s", c.old, c.now, got, c.want)
		}
	}
}

// The editor may be used twice, and nothing is saved that is wrong or not confirmed.
func TestPolicyEditOnTerminal(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{})
	dir := t.TempDir()
	editor := filepath.Join(dir, "editor")
	script := "#!/bin/sh\nif [ -e " + dir + "/again ]; then cp " + dir + "/right \"$1\"; else touch " + dir + "/again; echo '{version: 1, rulez: []}' > \"$1\"; fi\n"
	right := "{version: 1, rules: [{name: \"r\", effect: \"deny\", argv: [\"rm\", \"**\"]}]} // kept\n"
	for name, text := range map[string]string{"editor": script, "right": right} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("EDITOR", editor)
	term := onTerminal(t, d.Socket(), "policy", "edit")
	term.until(`policy.json:1: the file has no key(.|\n)*edit it again\? \[y/N\]`)
	term.press("y\n")
	term.until(`\+ \{version: 1(.|\n)*save it\? \[y/N\]`)
	term.press("y\n")
	term.until("1 rules, in force")
	got, err := os.ReadFile(filepath.Join(d.StateDir, "policy.json"))
	if err != nil || string(got) != right {
		t.Errorf("the file is %q, %v", got, err)
	}
}
