package models

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/identity"
)

func newService(t testing.TB, text string) *Service {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(config.Options{Path: path, StateDir: dir, Env: func(k string) string { return map[string]string{"HOME": dir}[k] }})
	if err != nil {
		t.Fatal(err)
	}
	return New(func() *config.Config { return cfg })
}

func list(t testing.TB, s *Service) []Model {
	t.Helper()
	out, err := s.List(context.Background(), identity.Caller{}, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The catalogue is whole, each model in it once, and sorted.
func TestCatalogue(t *testing.T) {
	s := newService(t, `{}`)
	seen := map[Ref]bool{}
	last := ""
	for _, m := range list(t, s) {
		ref := Ref{m.Provider, m.ID}
		if m.ID == "" || m.Name == "" || m.Provider == "" || m.ContextWindow < 1000 || len(m.Input) == 0 || m.Input[0] != "text" || seen[ref] || !m.Known {
			t.Errorf("%+v", m)
		}
		if seen[ref] = true; m.Provider < last {
			t.Errorf("%s comes after %s", m.Provider, last)
		}
		last = m.Provider
		if got, ok := s.Parse(ref.String()); !ok || got != ref {
			t.Errorf("%s is read as %v", ref, got)
		}
	}
	for ref := range extraHigh {
		if !seen[ref] {
			t.Errorf("%s knows xhigh and is not in the catalogue", ref)
		}
	}
	if !seen[Ref{defaultProvider, defaultModel}] {
		t.Error("the default is not in the catalogue")
	}
}

func TestAllowedModels(t *testing.T) {
	s := newService(t, `{agents: {defaults: {model: "openai/gpt-5.2", models: {"anthropic/opus-4.6": {alias: "Opus"}, "x/unknown": {}, "z.ai/glm-5": {params: {thinking: "high"}}}}}}`)
	var got []string
	for _, m := range list(t, s) {
		got = append(got, m.Provider+"/"+m.ID)
		if known := m.ID != "unknown"; m.Known != known || !known && (m.Name != "unknown" || m.ContextWindow != 0) {
			t.Errorf("%+v", m)
		}
	}
	if want := []string{"anthropic/claude-opus-4-6", "openai/gpt-5.2", "x/unknown", "zai/glm-5"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for override, want := range map[string]string{
		"": "openai/gpt-5.2", "opus": "anthropic/claude-opus-4-6", " OPUS@work ": "anthropic/claude-opus-4-6", "x/unknown": "x/unknown",
		"openai/gpt-4o": "openai/gpt-5.2", "zai/glm-5": "zai/glm-5", "/": "openai/gpt-5.2", "claude-opus-4-6": "anthropic/claude-opus-4-6",
	} {
		if ref := s.Resolve("main", override); ref.String() != want {
			t.Errorf("%q: %s, want %s", override, ref, want)
		}
	}
	if got := s.Thinking(Ref{"zai", "glm-5"}); got != "high" {
		t.Error(got)
	}
}

func TestDefaults(t *testing.T) {
	s := newService(t, `{agents: {list: [{id: "main"}, {id: "own", model: {primary: "mine/small"}}, {id: "alias", model: "sonnet-4.6"}]},
		models: {providers: {mine: {baseUrl: "http://127.0.0.1:1", models: [{id: "small", name: "Small", contextWindow: 4000}, {id: "plain", name: "Plain"}]},
			anthropic: {baseUrl: "https://x", models: [{id: "claude-opus-4-6", name: "Ours", reasoning: true, input: ["text", "image"], contextWindow: 1000}]}}}}`)
	for agent, want := range map[string]string{"": "anthropic/claude-opus-4-6", "own": "mine/small", "alias": "anthropic/claude-sonnet-4-6", "none": "anthropic/claude-opus-4-6"} {
		if got := s.Default(agent); got.String() != want {
			t.Errorf("%q: %s", agent, got)
		}
	}
	for ref, want := range map[Ref]int{{"mine", "small"}: 4000, {"mine", "plain"}: 200_000, {"anthropic", "claude-opus-4-6"}: 1000, {"a", "b"}: 200_000} {
		if got := s.ContextTokens(ref); got != want {
			t.Errorf("%s: %d", ref, got)
		}
	}
	for ref, want := range map[Ref]string{
		{"anthropic", "claude-opus-4-6"}: "adaptive", {"openai", "gpt-5.2"}: "low", {"openai", "gpt-4o"}: "off", {"mine", "small"}: "off",
	} {
		if got := s.Thinking(ref); got != want {
			t.Errorf("%s: %s", ref, got)
		}
	}
	i := slices.IndexFunc(list(t, s), func(m Model) bool { return m.Provider == "anthropic" && m.Name == "Ours" })
	if i < 0 {
		t.Error("a configured model does not take the place of the built-in one")
	}
	only := newService(t, `{models: {mode: "replace", providers: {mine: {baseUrl: "http://x", models: [{id: "a", name: "A"}]}}}, agents: {defaults: {contextTokens: 5, thinkingDefault: "minimal"}}}`)
	if got := list(t, only); len(got) != 1 || !slices.Equal(got[0].Input, []string{"text"}) || got[0].ContextWindow != 200_000 {
		t.Errorf("%+v", got)
	}
	if only.ContextTokens(Ref{"mine", "a"}) != 5 || only.Thinking(Ref{"mine", "a"}) != "minimal" {
		t.Error("general settings do not count")
	}
}

func TestTools(t *testing.T) {
	s := newService(t, `{agents: {list: [{id: "a"}, {id: "b", default: true}]}}`)
	out, err := s.Tools(context.Background(), identity.Caller{}, ToolsIn{})
	if err != nil || out.AgentID != "b" || len(out.Profiles) != 4 || len(out.Groups) != 11 {
		t.Errorf("%+v %v", out, err)
	}
	known := map[string]bool{}
	for _, p := range out.Profiles {
		known[p.ID] = true
	}
	tools := map[string]bool{}
	for _, g := range out.Groups {
		for _, tool := range g.Tools {
			if tool.Description == "" || tools[tool.ID] || slices.ContainsFunc(tool.Profiles, func(p string) bool { return !known[p] || p == "full" }) {
				t.Errorf("%+v", tool)
			}
			tools[tool.ID] = true
		}
	}
	if len(tools) != 25 {
		t.Errorf("%d tools", len(tools))
	}
	if _, err := s.Tools(context.Background(), identity.Caller{}, ToolsIn{AgentID: "c"}); !errors.Is(err, ErrAgent) {
		t.Error(err)
	}
}
