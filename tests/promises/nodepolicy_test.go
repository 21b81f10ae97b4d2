package promises

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/config"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	hanzod "github.com/hanzoai/hanzod/runtime"
)

// TestNodePolicyDefaults: where the exec approvals file of a node says nothing, the configuration of its
// machine counts, of an agent before the general one; then the command line or the environment; then
// allowlist and on-miss (nodes-approvals.md §3.2). It holds for the node host inside the daemon and for one
// of its own.
func TestNodePolicyDefaults(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the commands are those of Unix")
	}
	t.Parallel()
	exec := func(security, ask string) map[string]any { return map[string]any{"security": security, "ask": ask} }
	configured := map[string]any{
		"tools": map[string]any{"exec": exec("full", "off")},
		"agents": map[string]any{"defaults": map[string]any{"heartbeat": map[string]any{"every": "0m"}}, "list": []any{
			map[string]any{"id": "main"}, map[string]any{"id": "ops", "tools": map[string]any{"exec": exec("deny", "off")}},
			map[string]any{"id": "dev", "tools": map[string]any{"exec": map[string]any{"ask": "always"}}},
		}},
	}
	const configText = `{tools: {exec: {security: "full", ask: "off"}}, agents: {list: [{id: "main"},
		{id: "ops", tools: {exec: {security: "deny"}}}, {id: "dev", tools: {exec: {ask: "always"}}}]}}`
	// check asks what would happen to id, which no file lists, for an agent.
	check := func(t *testing.T, d *hanzodtest.Daemon, want map[string]string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		c, err := client.Dial(ctx, client.Options{Socket: d.Socket()})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		node := nodeThatIsConnected(ctx, t, c)
		for agent, verdict := range want {
			out, err := c.Policy.ExplainPolicy(ctx, &approvalsv1.ExplainPolicyRequest{Run: &approvalsv1.Run{Argv: []string{"id"}, NodeId: node, AgentId: agent}})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.ToLower(strings.TrimPrefix(out.GetVerdict().String(), "VERDICT_")); got != verdict {
				t.Errorf("agent %q: %s (%s), want %s", agent, got, out.GetText(), verdict)
			}
		}
	}
	byConfig := map[string]string{"": "run", "main": "run", "ops": "deny", "dev": "ask", "other": "run"}

	t.Run("inside the daemon", func(t *testing.T) {
		t.Parallel()
		check(t, hanzodtest.Start(t, hanzodtest.Options{Node: true, Config: configured}), byConfig)
	})
	t.Run("inside the daemon, the file comes first", func(t *testing.T) {
		t.Parallel()
		dir, err := os.MkdirTemp("", "hz")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		if err := os.WriteFile(filepath.Join(dir, "exec-approvals.json"), []byte(`{"version":1,"defaults":{"security":"deny"}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		check(t, hanzodtest.Start(t, hanzodtest.Options{Node: true, Config: configured, StateDir: dir}), map[string]string{"": "deny", "dev": "deny"})
	})
	t.Run("inside the daemon, nothing said", func(t *testing.T) {
		t.Parallel()
		check(t, hanzodtest.Start(t, hanzodtest.Options{Node: true}), map[string]string{"": "ask", "ops": "ask"})
	})

	node := func(t *testing.T, o hanzod.NodeOptions, text string) *hanzodtest.Daemon {
		t.Helper()
		d := hanzodtest.Start(t, hanzodtest.Options{})
		o.StateDir, o.Socket, o.Console = t.TempDir(), d.Socket(), io.Discard
		if text != "" {
			path := filepath.Join(o.StateDir, "config.json")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg, err := config.Load(config.Options{Path: path, StateDir: o.StateDir, Env: func(string) string { return "" }})
			if err != nil {
				t.Fatal(err)
			}
			o.Current = func() *config.Config { return cfg }
		}
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- hanzod.RunNode(ctx, o) }()
		t.Cleanup(func() {
			stop()
			if err := <-done; err != nil {
				t.Errorf("the node host: %v", err)
			}
		})
		return d
	}
	t.Run("of its own, by configuration", func(t *testing.T) {
		t.Parallel()
		// The command line comes after the configuration.
		check(t, node(t, hanzod.NodeOptions{Security: "deny", Ask: "always"}, configText), byConfig)
	})
	t.Run("of its own, by the command line", func(t *testing.T) {
		t.Parallel()
		check(t, node(t, hanzod.NodeOptions{Security: "full", Ask: "off"}, ""), map[string]string{"": "run", "ops": "run"})
	})
	t.Run("of its own, nothing said", func(t *testing.T) {
		t.Parallel()
		check(t, node(t, hanzod.NodeOptions{}, ""), map[string]string{"": "ask"})
	})
}
