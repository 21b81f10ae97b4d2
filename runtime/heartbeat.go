package runtime

import (
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/heartbeat"
)

// beatsOf are the agents that beat, as a configuration has them: every agent with a heartbeat section of its
// own, else the default one (control-plane.md §3).
func beatsOf(cfg *config.Config) []heartbeat.Agent {
	own := map[string]config.Heartbeat{}
	for _, a := range cfg.Agents.List {
		if _, twice := own[a.ID]; !twice {
			own[a.ID] = a.Heartbeat
		}
	}
	zone := ""
	if n := cfg.Section("agents").Get("defaults").Get("userTimezone"); n != nil && n.Kind == json5.String {
		zone = n.Str
	}
	var out []heartbeat.Agent
	for _, id := range cfg.AgentIDs() {
		b := cfg.Beat(id)
		if !b.Enabled {
			continue
		}
		h, listed := own[id]
		if !listed {
			h = cfg.Agents.Defaults.Heartbeat
		}
		a := heartbeat.Agent{
			ID: id, Default: id == cfg.DefaultAgentID(), Session: mainSessionOf(cfg, id), Prompt: b.Prompt, Model: b.Model, Target: b.Target,
			AckMaxChars: b.AckMaxChars, LightContext: h.LightContext, Workspace: cfg.Workspace(id),
			Hours: heartbeat.Hours{Start: h.ActiveStart, End: h.ActiveEnd, Zone: h.ActiveTimezone, UserZone: zone},
		}
		if h.Session != "" {
			a.Session = h.Session
		}
		if b.EveryMs != nil {
			a.Interval = time.Duration(*b.EveryMs) * time.Millisecond
		}
		out = append(out, a)
	}
	return out
}

// mainSessionOf is the session that people talk to when they name none but an agent.
func mainSessionOf(cfg *config.Config, agent string) string {
	if cfg.SessionScope() == "global" {
		return "global"
	}
	return "agent:" + agent + ":" + cfg.MainKey()
}
