package models

import (
	"context"
	"strings"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/identity"
)

// Profile is a set of tools that an agent may be given.
type Profile struct{ ID, Label string }

// Group is a group of tools.
type Group struct {
	ID, Label string
	Tools     []Tool
}

// Tool is a tool of the agents. Profiles are those that have it; the profile full has all.
type Tool struct {
	ID, Description string
	Profiles        []string
}

// ToolsIn names an agent; "" is the default one.
type ToolsIn struct{ AgentID string }

// ToolsOut is the result of Tools.
type ToolsOut struct {
	AgentID  string
	Profiles []Profile
	Groups   []Group
}

var profiles = []Profile{{"minimal", "Minimal"}, {"coding", "Coding"}, {"messaging", "Messaging"}, {"full", "Full"}}

var (
	coding = []string{"coding"}
	both   = []string{"coding", "messaging"}
	always = []string{"minimal", "coding", "messaging"}
)

// groups are the tools of the core (control-plane.md §8).
var groups = []Group{
	{"fs", "Files", []Tool{
		{"read", "Read file contents", coding}, {"write", "Create or overwrite files", coding}, {"edit", "Make precise edits", coding},
		{"apply_patch", "Patch files (OpenAI)", coding},
	}},
	{"runtime", "Runtime", []Tool{{"exec", "Run shell commands", coding}, {"process", "Manage background processes", coding}}},
	{"web", "Web", []Tool{{"web_search", "Search the web", nil}, {"web_fetch", "Fetch web content", nil}}},
	{"memory", "Memory", []Tool{{"memory_search", "Semantic search", coding}, {"memory_get", "Read memory files", coding}}},
	{"sessions", "Sessions", []Tool{
		{"sessions_list", "List sessions", both}, {"sessions_history", "Session history", both}, {"sessions_send", "Send to session", both},
		{"sessions_spawn", "Spawn sub-agent", coding}, {"subagents", "Manage sub-agents", coding}, {"session_status", "Session status", always},
	}},
	{"ui", "UI", []Tool{{"browser", "Control web browser", nil}, {"canvas", "Control canvases", nil}}},
	{"messaging", "Messaging", []Tool{{"message", "Send messages", []string{"messaging"}}}},
	{"automation", "Automation", []Tool{{"cron", "Schedule tasks", coding}, {"gateway", "Gateway control", nil}}},
	{"nodes", "Nodes", []Tool{{"nodes", "Nodes + devices", nil}}},
	{"agents", "Agents", []Tool{{"agents_list", "List agents", nil}}},
	{"media", "Media", []Tool{{"image", "Image understanding", coding}, {"tts", "Text-to-speech conversion", nil}}},
}

// Tools lists the tools that agents can be given, in groups. Errors: ErrAgent.
func (s *Service) Tools(_ context.Context, _ identity.Caller, in ToolsIn) (ToolsOut, error) {
	v := s.views.Of(s.current())
	id := v.DefaultID
	if asked := strings.TrimSpace(in.AgentID); asked != "" {
		if id = config.AgentID(asked); !v.Known(id) {
			return ToolsOut{}, ErrAgent.With("agent", asked)
		}
	}
	return ToolsOut{AgentID: id, Profiles: profiles, Groups: groups}, nil
}
