package sessions

import (
	"strings"

	"github.com/hanzoai/hanzod/config"
)

const (
	// GlobalKey is the one session of all, UnknownKey that of messages from nowhere.
	GlobalKey  = "global"
	UnknownKey = "unknown"
	mainName   = "main"

	scopeGlobal = "global"
	// maxKey bounds a key in bytes: with the agent and a separator it is a key of the store.
	maxKey = 512
)

// Parsed is a key of an agent: agent:<AgentID>:<Rest>.
type Parsed struct{ AgentID, Rest string }

// ParseKey reads a key of an agent. ok is false for any other.
func ParseKey(key string) (p Parsed, ok bool) {
	var parts []string
	for part := range strings.SplitSeq(strings.ToLower(strings.TrimSpace(key)), ":") {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if len(parts) < 3 || parts[0] != "agent" {
		return p, false
	}
	p = Parsed{AgentID: strings.TrimSpace(parts[1]), Rest: strings.Join(parts[2:], ":")}
	return p, p.AgentID != "" && p.Rest != ""
}

// Malformed reports whether a key begins as one of an agent and is none (sessions-chat.md §1).
func Malformed(key string) bool {
	_, ok := ParseKey(key)
	return !ok && strings.HasPrefix(strings.ToLower(strings.TrimSpace(key)), "agent:")
}

// MainKey is the key of the session that people talk to when they name none.
func MainKey(c *config.Config) string {
	if c.SessionScope() == scopeGlobal {
		return GlobalKey
	}
	return agentMain(c.DefaultAgentID())
}

func agentMain(agentID string) string { return "agent:" + agentID + ":" + mainName }

// Canonical resolves what a client calls a session: aliases become the key, in lower case (sessions-chat.md §1).
// The empty text stays so.
func Canonical(c *config.Config, key string) Ref {
	key = strings.ToLower(strings.TrimSpace(key))
	def := c.DefaultAgentID()
	if key == "" || key == GlobalKey || key == UnknownKey {
		return Ref{def, key}
	}
	if p, ok := ParseKey(key); ok {
		agent := config.AgentID(p.AgentID)
		if key == agentMain(agent) || p.Rest == mainName {
			if c.SessionScope() == scopeGlobal {
				return Ref{def, GlobalKey}
			}
			return Ref{agent, agentMain(agent)}
		}
		return Ref{agent, key}
	}
	if key == mainName || key == strings.ToLower(c.MainKey()) {
		return Ref{def, MainKey(c)}
	}
	if strings.HasPrefix(key, "agent:") {
		return Ref{def, key}
	}
	return Canonical(c, "agent:"+def+":"+key) // which may be a spelling of the main key in turn, as of "main:"
}

// Kind is how a session is shown (sessions-chat.md §1).
func Kind(key, chatType string) string {
	switch {
	case key == GlobalKey, key == UnknownKey:
		return key
	case chatType == "group", chatType == "channel", strings.Contains(key, ":group:"), strings.Contains(key, ":channel:"):
		return "group"
	}
	return "direct"
}

// cronRun reports whether a key is that of one run of a job: lists leave it out.
func cronRun(key string) bool {
	p, ok := ParseKey(key)
	if !ok {
		return false
	}
	rest, ok := strings.CutPrefix(p.Rest, "cron:")
	if !ok {
		return false
	}
	job, run, ok := strings.Cut(rest, ":run:")
	return ok && job != "" && run != "" && !strings.Contains(job, ":") && !strings.Contains(run, ":")
}

// subagent reports whether a key is that of a session that another one spawned.
func subagent(key string) bool {
	if strings.HasPrefix(key, "subagent:") {
		return true
	}
	p, ok := ParseKey(key)
	return ok && strings.HasPrefix(p.Rest, "subagent:")
}

// groupOf reads channel, kind and id of a group's key.
func groupOf(key string) (channel, id string) {
	rest := key
	if p, ok := ParseKey(key); ok {
		rest = p.Rest
	}
	var parts []string
	for part := range strings.SplitSeq(rest, ":") {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if len(parts) < 3 || (parts[1] != "group" && parts[1] != "channel") {
		return "", ""
	}
	return parts[0], strings.Join(parts[2:], ":")
}
