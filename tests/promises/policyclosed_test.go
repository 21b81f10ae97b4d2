package promises

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
)

// TestWrongRulesAtStart: a daemon that starts with a wrong rules file runs, lets nothing privileged happen, and
// says why wherever one looks; the repair is in force without a restart.
func TestWrongRulesAtStart(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "hz")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "policy.json")
	for name, text := range map[string]string{
		path: "{version: 1,\n rules: [{name: 'x', effect: 'allow', argv: ['true'], whenever: 1}]}",
		filepath.Join(dir, "exec-approvals.json"): `{"version":1,"defaults":{"security":"full","ask":"off"}}`,
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := hanzodtest.Start(t, hanzodtest.Options{StateDir: dir, Node: true})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client.Dial(ctx, client.Options{Socket: d.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	node := nodeThatIsConnected(ctx, t, c)
	const fault = `policy.json:2: a rule has no key "whenever"`
	run := func() error {
		v, err := structpb.NewValue(map[string]any{"command": []any{"true"}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Nodes.Invoke(ctx, &nodesv1.InvokeRequest{NodeId: node, Command: "system.run", Params: v})
		return err
	}
	if err := run(); err == nil || !strings.Contains(err.Error(), "nothing may run") || !strings.Contains(err.Error(), fault) {
		t.Errorf("a run: %v", err)
	}
	command, plan := []string{"true"}, &approvalsv1.Plan{Argv: []string{"true"}}
	host := "node"
	if _, err := c.Approvals.RequestApproval(ctx, &approvalsv1.RequestApprovalRequest{Command: "true", CommandArgv: command, Plan: plan, NodeId: &node, Host: &host}); err == nil {
		t.Error("an approval can be asked for")
	}
	status, err := c.System.GetStatus(ctx, &systemv1.GetStatusRequest{})
	if err != nil || !strings.Contains(status.GetPolicyFault(), fault) {
		t.Errorf("status: %v %q", err, status.GetPolicyFault())
	}
	if !strings.Contains(d.LogText(), "the policy rules cannot be used") {
		t.Error("the log does not say it")
	}
	e, err := c.Policy.ExplainPolicy(ctx, &approvalsv1.ExplainPolicyRequest{Run: &approvalsv1.Run{Argv: command, NodeId: node}})
	if err != nil || e.GetVerdict() != approvalsv1.Verdict_VERDICT_DENY || !e.GetRulesClosed() || e.GetWhere() != "policy.json:2" {
		t.Errorf("explain: %v %v", err, e)
	}
	// What is not privileged goes on.
	if _, err := c.Nodes.ListNodes(ctx, &nodesv1.ListNodesRequest{}); err != nil {
		t.Error(err)
	}

	right := "{version: 1, rules: []}"
	if err := os.WriteFile(path, []byte(right), 0o600); err != nil {
		t.Fatal(err)
	}
	inForce(ctx, t, c, false, right)
	if err := run(); err != nil {
		t.Errorf("after the repair: %v", err)
	}
	if status, err = c.System.GetStatus(ctx, &systemv1.GetStatusRequest{}); err != nil || status.GetPolicyFault() != "" {
		t.Errorf("status: %v %q", err, status.GetPolicyFault())
	}
}
