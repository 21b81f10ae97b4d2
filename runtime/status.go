package runtime

import (
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/system"
)

// sessionsOf shows the sessions of an agent to health and status.
func (d *Daemon) sessionsOf(agentID string, recent int) (int, []system.Session) {
	var out []system.Session
	window := d.talksWith.ContextTokens()
	for _, row := range d.sessions.Recent(agentID, recent) {
		e := &row.Entry
		s := system.Session{
			AgentID: row.Ref.AgentID, Key: row.Ref.Key, Kind: sessions.Kind(row.Ref.Key, e.ChatType), ID: e.SessionID, UpdatedAt: e.UpdatedAt,
			Thinking: e.ThinkingLevel, Verbose: e.VerboseLevel, Reasoning: e.ReasoningLevel, Elevated: e.ElevatedLevel,
			SystemSent: e.SystemSent, Aborted: e.AbortedLastRun, Input: e.InputTokens, Output: e.OutputTokens,
			CacheRead: e.CacheRead, CacheWrite: e.CacheWrite, Total: e.TotalTokens, TotalFresh: e.TotalTokensFresh,
			Model: d.sessions.ModelOf(agentID, e).Name, Context: e.ContextTokens,
		}
		if s.Context == nil && window > 0 {
			s.Context = &window
		}
		out = append(out, s)
	}
	return d.sessions.Count(agentID), out
}

// defaultsOf is what new sessions of an agent start with.
func (d *Daemon) defaultsOf(agentID string) system.Defaults {
	m := d.talksWith
	out := system.Defaults{Model: m.Default(agentID).Name}
	if n := m.ContextTokens(); n > 0 {
		out.Context = &n
	}
	return out
}
