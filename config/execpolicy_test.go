package config

import (
	"os"
	"path/filepath"
	"testing"
)

// An agent's own security and ask come before the general ones (nodes-approvals.md §3.2).
func TestExecPolicy(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	text := `{tools: {exec: {security: "full", ask: "always"}}, agents: {list: [
		{id: "main"}, {id: "ops", tools: {exec: {security: "deny"}}}, {id: "dev", tools: {exec: {ask: "off", security: "allowlist"}}}]}}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(Options{Path: path, StateDir: dir, Env: func(string) string { return "" }})
	if err != nil {
		t.Fatal(err)
	}
	for agent, want := range map[string]ExecPolicy{
		"main": {"full", "always"}, "ops": {"deny", "always"}, "dev": {"allowlist", "off"}, "unknown": {"full", "always"}, "OPS": {"deny", "always"},
	} {
		if got := c.ExecPolicy(agent); got != want {
			t.Errorf("%s: %v, want %v", agent, got, want)
		}
	}
}
