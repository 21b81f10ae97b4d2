package promises

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
)

// TestExplainAgreesWithWhatHappens is R10: one policy, and "policy explain" names the one rule that decides.
// Every command is explained and then run for real, under several rules files, node files and grants; the
// verdicts must be the same, and a rule that decides must be written where explain says.
func TestExplainAgreesWithWhatHappens(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the commands are those of Unix")
	}
	t.Parallel()
	d := hanzodtest.Start(t, hanzodtest.Options{Node: true})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c, err := client.Dial(ctx, client.Options{Socket: d.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	node := nodeThatIsConnected(ctx, t, c)

	trueAt := "/bin/true"
	for _, p := range []string{"/usr/bin/true", "/bin/true"} {
		if real, err := filepath.EvalSymlinks(p); err == nil {
			trueAt = real
			break
		}
	}
	rules := map[string]string{
		"no rules": ``,
		"rules": `{version: 1, rules: [
			{name: "fine", effect: "allow", argv: [["true"], ["echo", "**"], ["nice", "-n", "1", "true"]]},
			{name: "in tmp", effect: "allow", argv: ["pwd"], cwd: "/tmp/**"},
			{name: "ask about uname", effect: "ask", argv: ["uname", "**"]},
			{name: "no false", effect: "deny", argv: ["false", "**"]},
			{name: "ops only", effect: "allow", argv: ["id"], agent: "ops"},
		]}`,
		"closed": `{version: 1, defaults: {security: "deny"}, agents: {ops: {security: "full"}}}`,
		"listed": `{version: 1, defaults: {security: "allowlist", ask: "off"}, rules: [{name: "fine", effect: "allow", argv: ["true"]}]}`,
		"asking": `{version: 1, defaults: {ask: "always"}, rules: [{name: "no false", effect: "deny", argv: ["false"]}]}`,
		"open":   `{version: 1, defaults: {security: "full"}}`,
		"wrong":  `{version: 1, rules: [}`,
	}
	files := map[string]string{
		"list":   fmt.Sprintf(`{"version":1,"defaults":{"security":"allowlist","ask":"on-miss"},"agents":{"main":{"allowlist":[{"pattern":%q}]}}}`, "**/true"),
		"silent": fmt.Sprintf(`{"version":1,"defaults":{"security":"allowlist","ask":"off"},"agents":{"*":{"allowlist":[{"pattern":%q}]}}}`, "/**/echo"),
		"full":   `{"version":1,"defaults":{"security":"full","ask":"off"}}`,
		"always": `{"version":1,"defaults":{"security":"full","ask":"always"}}`,
		"deny":   `{"version":1,"agents":{"main":{"security":"deny"}},"defaults":{"security":"full","ask":"off"}}`,
		"broken": `{"version":`,
	}
	type run struct {
		argv       []string
		cwd, agent string
	}
	runs := []run{
		{argv: []string{"true"}}, {argv: []string{trueAt}}, {argv: []string{"true"}, agent: "ops"},
		{argv: []string{"echo", "hi"}}, {argv: []string{"false"}}, {argv: []string{"uname", "-s"}},
		{argv: []string{"pwd"}, cwd: "/tmp"}, {argv: []string{"pwd"}, cwd: "/"}, {argv: []string{"pwd"}},
		{argv: []string{"id"}, agent: "ops"}, {argv: []string{"id"}},
		{argv: []string{"sh", "-c", "true && echo hi"}}, {argv: []string{"sh", "-c", "true; false"}}, {argv: []string{"sh", "-c", "true; id"}},
		{argv: []string{"sh", "-c", "echo $HOME"}}, {argv: []string{"sh", "-c", "$(echo false)"}}, {argv: []string{"/bin/sh", "-lc", "true"}},
		{argv: []string{"nice", "-n", "1", "true"}}, {argv: []string{"nice", "true"}}, {argv: []string{"env", "false"}}, {argv: []string{"env", "A=1", "true"}},
		{argv: []string{"no-such-command-here"}}, {argv: []string{"./true"}, cwd: "/bin"},
		{argv: []string{"sh", "-c", "echo dHJ1ZQ== | base64 -d | sh"}},
		{argv: []string{"true"}, cwd: "/no/such/directory"},
	}
	policyFile, nodeFile := filepath.Join(d.StateDir, "policy.json"), filepath.Join(d.StateDir, "exec-approvals.json")
	compared, seen := 0, map[string]int{}
	compare := func(t *testing.T, r run, rulesText string) {
		t.Helper()
		explained, err := c.Policy.ExplainPolicy(ctx, &approvalsv1.ExplainPolicyRequest{
			Run: &approvalsv1.Run{Argv: r.argv, Cwd: r.cwd, AgentId: r.agent, NodeId: node},
		})
		if err != nil {
			t.Fatal(err)
		}
		params := map[string]any{"command": anyWords(r.argv)}
		if r.cwd != "" {
			params["cwd"] = r.cwd
		}
		if r.agent != "" {
			params["agentId"] = r.agent
		}
		v, err := structpb.NewValue(params)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Nodes.Invoke(ctx, &nodesv1.InvokeRequest{NodeId: node, Command: "system.run", Params: v})
		happened := approvalsv1.Verdict_VERDICT_RUN
		switch {
		case err == nil:
		case strings.Contains(err.Error(), "SYSTEM_RUN_DENIED: approval required"):
			happened = approvalsv1.Verdict_VERDICT_ASK
		default:
			happened = approvalsv1.Verdict_VERDICT_DENY
		}
		compared++
		seen[happened.String()]++
		if explained.GetVerdict() != happened {
			t.Errorf("%q (cwd %q, agent %q): explained as %v (%s), and it was %v: %v", r.argv, r.cwd, r.agent, explained.GetVerdict(), explained.GetText(), happened, err)
		}
		if explained.GetRule() == "" {
			t.Errorf("%q: no rule is named", r.argv)
		}
		// The place is that of the rule.
		where, line, found := strings.Cut(explained.GetWhere(), "policy.json:")
		if found && where == "" && !strings.Contains(explained.GetRule(), ".") {
			var n int
			fmt.Sscan(line, &n)
			lines := strings.Split(rulesText, "\n")
			if n < 1 || n > len(lines) || !strings.Contains(lines[n-1], explained.GetRule()) {
				t.Errorf("%q: the rule %q is not at line %d", r.argv, explained.GetRule(), n)
			}
		}
	}
	for rulesName, rulesText := range rules {
		use(ctx, t, c, policyFile, rulesText, rulesName == "wrong")
		for fileName, fileText := range files {
			if err := os.WriteFile(nodeFile, []byte(fileText), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Run(rulesName+", "+fileName, func(t *testing.T) {
				for _, r := range runs {
					compare(t, r, rulesText)
				}
			})
		}
	}

	// Grants.
	use(ctx, t, c, policyFile, rules["rules"], false)
	if err := os.WriteFile(nodeFile, []byte(files["list"]), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, g := range []*approvalsv1.CreateGrantRequest{
		{Argv: []string{"uname", "-s"}, Uses: 2}, {Pattern: []string{"id", "**"}, Always: true}, {Pattern: []string{"false", "**"}, Always: true},
	} {
		g.NodeId, g.AnyAgent, g.AnyCwd, g.AnyRequester = node, true, true, true
		if _, err := c.Grants.CreateGrant(ctx, g); err != nil {
			t.Logf("grant %v: %v", g, err) // one that a rule forbids need not be made
		}
	}
	t.Run("grants", func(t *testing.T) {
		for range 3 { // the first is used up on the way
			for _, r := range runs {
				compare(t, r, rules["rules"])
			}
		}
	})
	t.Logf("%d runs compared: %v", compared, seen)
	if len(seen) != 3 {
		t.Errorf("the table does not have every verdict: %v", seen)
	}
}

func anyWords(in []string) []any {
	out := make([]any, len(in))
	for i, s := range in {
		out[i] = s
	}
	return out
}

// use puts rules into force; no text and a wrong one go by the file.
func use(ctx context.Context, t *testing.T, c *client.Client, path, text string, wrong bool) {
	t.Helper()
	old, err := c.Policy.GetRules(ctx, &approvalsv1.GetRulesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case text == "":
		if err = os.Remove(path); os.IsNotExist(err) {
			err = nil
		}
	case wrong:
		err = os.WriteFile(path, []byte(text), 0o600)
	default:
		_, err = c.Policy.SetRules(ctx, &approvalsv1.SetRulesRequest{Text: text, BaseHash: old.GetRules().GetHash()})
	}
	if err != nil {
		t.Fatal(err)
	}
	inForce(ctx, t, c, wrong, text)
}

// inForce waits until the daemon has looked at its rules file.
func inForce(ctx context.Context, t *testing.T, c *client.Client, wrong bool, text string) {
	t.Helper()
	for {
		out, err := c.Policy.GetRules(ctx, &approvalsv1.GetRulesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		r := out.GetRules()
		if r.GetText() == text && (wrong && r.GetFault() != "" && r.GetActiveHash() != r.GetHash() || !wrong && r.GetFault() == "" && r.GetActiveHash() == r.GetHash()) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the rules are never in force: %v", r)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func nodeThatIsConnected(ctx context.Context, t *testing.T, c *client.Client) string {
	t.Helper()
	for {
		out, err := c.Nodes.ListNodes(ctx, &nodesv1.ListNodesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range out.GetNodes() {
			if n.GetConnected() {
				return n.GetNodeId()
			}
		}
		select {
		case <-ctx.Done():
			t.Fatal("no node connects")
		case <-time.After(20 * time.Millisecond):
		}
	}
}
