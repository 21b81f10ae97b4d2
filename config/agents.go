package config

import (
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/config/json5"
)

// defaultPrompt is what a heartbeat asks when the config has no prompt (control-plane.md §1).
const defaultPrompt = "Read HEARTBEAT.md if it exists (workspace context). Follow it strictly. Do not infer or repeat old tasks from prior chats. If nothing needs attention, reply HEARTBEAT_OK."

const mainName = "main"

func (l *loader) agents(o object, a *Agents) {
	a.Defaults.Heartbeat = Heartbeat{
		Every: "30m", Target: "none", DirectPolicy: "allow", Prompt: defaultPrompt, AckMaxChars: 300,
	}
	defaults := o.object("defaults")
	defaults.file("workspace", &a.Defaults.Workspace)
	l.heartbeat(defaults.object("heartbeat"), &a.Defaults.Heartbeat)

	list := o.typed("list", json5.Array)
	if list == nil {
		return
	}
	for i, item := range list.Items {
		path := "agents.list." + strconv.Itoa(i)
		if item.Kind != json5.Object {
			l.fail(path, item, "Expected object, got "+item.Kind.String())
			continue
		}
		entry := object{l: l, n: item, path: path, known: new([]string)}
		agent := Agent{Heartbeat: a.Defaults.Heartbeat}
		entry.required("id", &agent.ID)
		agent.ID = AgentID(agent.ID)
		entry.str("name", &agent.Name)
		entry.bool("default", &agent.Default)
		entry.file("workspace", &agent.Workspace)
		own := entry.object("heartbeat")
		agent.OwnHeartbeat = own.n != nil
		l.heartbeat(own, &agent.Heartbeat)
		exec := entry.object("tools").object("exec")
		l.safeBins(exec, &agent.SafeBins)
		exec.choice("security", &agent.Exec.Security, "deny", "allowlist", "full")
		exec.choice("ask", &agent.Exec.Ask, "off", "on-miss", "always")
		a.List = append(a.List, agent)
	}
}

func (l *loader) heartbeat(o object, h *Heartbeat) {
	if n := o.take("every"); n != nil {
		text := n.Str
		if n.Kind == json5.Number {
			text = strconv.FormatFloat(n.Num, 'f', -1, 64)
		}
		if _, ok := parseEvery(text); ok {
			h.Every = strings.TrimSpace(text)
		} else {
			l.fail(join(o.path, "every"), n, "invalid duration (use ms, s, m, h, d), got "+got(n))
		}
	}
	hours := o.object("activeHours")
	hours.str("start", &h.ActiveStart)
	hours.str("end", &h.ActiveEnd)
	hours.str("timezone", &h.ActiveTimezone)
	o.str("model", &h.Model)
	o.str("session", &h.Session)
	o.bool("includeReasoning", &h.IncludeReasoning)
	o.str("target", &h.Target)
	o.choice("directPolicy", &h.DirectPolicy, "allow", "block")
	o.str("to", &h.To)
	o.str("accountId", &h.AccountID)
	var prompt string
	if o.str("prompt", &prompt); strings.TrimSpace(prompt) != "" {
		h.Prompt = strings.TrimSpace(prompt)
	}
	o.int("ackMaxChars", 0, noBound, &h.AckMaxChars)
	o.bool("suppressToolErrorWarnings", &h.SuppressToolErrorWarnings)
	o.bool("lightContext", &h.LightContext)
}

// parseEvery reads a heartbeat's interval; a number without a unit is minutes.
func parseEvery(s string) (time.Duration, bool) { return parseDuration(s, "m", maxTimer) }

// Interval is the time between two beats; 0 means off.
func (h Heartbeat) Interval() time.Duration {
	d, _ := parseEvery(h.Every)
	return d
}

// Beat is what health and status tell about an agent's heartbeat (control-plane.md §1).
type Beat struct {
	Enabled     bool
	Every       string
	EveryMs     *int64 // nil when off
	Prompt      string
	Target      string
	Model       string
	AckMaxChars int
}

// Beat returns the heartbeat of an agent. If any agent of the list has a heartbeat section of its
// own, only those agents beat; otherwise only the default agent does (control-plane.md §3). An
// agent that does not beat shows the defaults with Every "disabled".
func (c *Config) Beat(agentID string) Beat {
	agentID = AgentID(agentID)
	h, enabled := c.Agents.Defaults.Heartbeat, agentID == c.DefaultAgentID()
	if slices.ContainsFunc(c.Agents.List, func(a Agent) bool { return a.OwnHeartbeat }) {
		enabled = false
		if a := c.agent(agentID); a != nil && a.OwnHeartbeat {
			h, enabled = a.Heartbeat, true
		}
	}
	b := Beat{Enabled: enabled, Every: "disabled", Prompt: h.Prompt, Target: h.Target, Model: h.Model, AckMaxChars: h.AckMaxChars}
	if enabled {
		b.Every = h.Every
		if ms := h.Interval().Milliseconds(); ms > 0 {
			b.EveryMs = &ms
		}
	}
	return b
}

func (c *Config) agent(id string) *Agent {
	for i := range c.Agents.List {
		if c.Agents.List[i].ID == id {
			return &c.Agents.List[i]
		}
	}
	return nil
}

var notID = regexp.MustCompile(`[^a-z0-9_-]+`)

// AgentID is the form of an agent id used as a key and in file names: lower case, at most 64
// characters of a-z, 0-9, _ and -. The empty id is "main".
func AgentID(id string) string {
	id = strings.Trim(notID.ReplaceAllString(strings.ToLower(strings.TrimSpace(id)), "-"), "-")
	if id = id[:min(len(id), 64)]; id == "" {
		return mainName
	}
	return id
}

// AgentIDs are the ids of all agents in the order of the file; "main" when there are none.
func (c *Config) AgentIDs() []string {
	var ids []string
	seen := make(map[string]bool, len(c.Agents.List))
	for _, a := range c.Agents.List {
		if !seen[a.ID] {
			ids, seen[a.ID] = append(ids, a.ID), true
		}
	}
	if len(ids) == 0 {
		return []string{mainName}
	}
	return ids
}

// AgentName is the name of an agent, or "".
func (c *Config) AgentName(id string) string {
	if a := c.agent(AgentID(id)); a != nil {
		return strings.TrimSpace(a.Name)
	}
	return ""
}

// DefaultAgentID is the first agent marked default, else the first one (config.md §5).
func (c *Config) DefaultAgentID() string {
	for _, a := range c.Agents.List {
		if a.Default {
			return a.ID
		}
	}
	if len(c.Agents.List) == 0 {
		return mainName
	}
	return c.Agents.List[0].ID
}

// Workspace is the working directory of an agent.
func (c *Config) Workspace(id string) string {
	id = AgentID(id)
	a := c.agent(id)
	switch {
	case a != nil && a.Workspace != "":
		return a.Workspace
	case id != c.DefaultAgentID():
		return filepath.Join(c.StateDir, "workspace-"+id)
	case c.Agents.Defaults.Workspace != "":
		return c.Agents.Defaults.Workspace
	}
	return filepath.Join(c.StateDir, "workspace")
}

// MainKey is the key of the main session. The file's session.mainKey is accepted and has no effect
// (config.md §6).
func (c *Config) MainKey() string { return mainName }

// SessionScope is per-sender or global.
func (c *Config) SessionScope() string { return c.Session.Scope }

// ExecPolicy is security and ask of tools.exec for one agent: its own before the general ones
// (nodes-approvals.md §3.2).
func (c *Config) ExecPolicy(agentID string) ExecPolicy {
	out := ExecPolicy{Security: c.Tools.Exec.Security, Ask: c.Tools.Exec.Ask}
	if a := c.agent(AgentID(agentID)); a != nil {
		if a.Exec.Security != "" {
			out.Security = a.Exec.Security
		}
		if a.Exec.Ask != "" {
			out.Ask = a.Exec.Ask
		}
	}
	return out
}

// SafeBins are the keys of tools.exec about filters that need no approval, for one agent: the list is
// the agent's own or the general one, directories are those of both, and a profile of the agent comes
// before a general one of the same name (nodes-approvals.md §3.9).
func (c *Config) SafeBins(agentID string) SafeBins {
	out := c.Tools.Exec.SafeBins
	a := c.agent(AgentID(agentID))
	if a == nil {
		return out
	}
	if a.SafeBins.Bins != nil {
		out.Bins = a.SafeBins.Bins
	}
	out.TrustedDirs = slices.Concat(out.TrustedDirs, a.SafeBins.TrustedDirs)
	if len(a.SafeBins.Profiles) > 0 {
		profiles := maps.Clone(a.SafeBins.Profiles)
		for name, p := range out.Profiles {
			if _, own := profiles[name]; !own {
				profiles[name] = p
			}
		}
		out.Profiles = profiles
	}
	return out
}
