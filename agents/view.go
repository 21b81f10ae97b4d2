package agents

import (
	"cmp"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
)

// Main is the id of the agent that is there without any configuration.
const Main = "main"

// Agent is an entry of agents.list (config.md §5).
type Agent struct {
	ID, Name string
	// AgentDir and Workspace are absolute.
	AgentDir, Workspace string
	// Model is the own model of the agent, "" for the general one; Fallbacks replace the general ones when
	// they are not nil.
	Model     string
	Fallbacks []string
	// Skills are the only ones it uses; nil for all.
	Skills []string
	// Identity is nil when the entry has none.
	Identity *Persona
}

// Persona is how an agent presents itself, as configured or as its IDENTITY.md says.
type Persona struct {
	Name, Theme, Emoji, Avatar, Creature, Vibe string
}

// View is what a configuration says about agents. It is not changed once made.
type View struct {
	Config    *config.Config
	DefaultID string
	// List are the entries in the order of the file; the first entry of an id counts.
	List []Agent

	byID          map[string]int
	skipBootstrap bool
	assistant     Persona
	basePath      string
}

// Views keeps the view of the configuration that was asked for last. The zero value is ready.
type Views struct{ last atomic.Pointer[View] }

// Of returns the view of a configuration.
func (v *Views) Of(c *config.Config) *View {
	if last := v.last.Load(); last != nil && last.Config == c {
		return last
	}
	made := Look(c)
	v.last.Store(made)
	return made
}

// Look reads a configuration.
func Look(c *config.Config) *View {
	v := &View{Config: c, DefaultID: c.DefaultAgentID(), byID: map[string]int{}}
	v.skipBootstrap = flag(c.Section("agents").At("defaults", "skipBootstrap"))
	v.assistant.Name = text(c.Section("ui").At("assistant", "name"))
	v.assistant.Avatar = text(c.Section("ui").At("assistant", "avatar"))
	v.basePath = c.Gateway.ControlUI.BasePath
	list := c.Section("agents").Get("list")
	if list == nil || list.Kind != json5.Array {
		return v
	}
	for i, n := range list.Items {
		raw := n.Get("id")
		if raw == nil {
			continue
		}
		a := Agent{ID: config.AgentID(raw.Str), Name: text(n.Get("name"))}
		if _, twice := v.byID[a.ID]; twice {
			continue
		}
		if i < len(c.Agents.List) && c.Agents.List[i].ID == a.ID {
			a.Workspace = c.Agents.List[i].Workspace
		}
		if a.Workspace == "" {
			a.Workspace = c.Workspace(a.ID)
		}
		a.AgentDir = text(n.Get("agentDir"))
		if a.AgentDir = expand(c.Home, a.AgentDir); a.AgentDir == "" {
			a.AgentDir = AgentDir(c.StateDir, a.ID)
		}
		a.Model, a.Fallbacks = ModelOf(n.Get("model"))
		a.Skills = texts(n.Get("skills"))
		if id := n.Get("identity"); id != nil && id.Kind == json5.Object {
			a.Identity = &Persona{
				Name: text(id.Get("name")), Theme: text(id.Get("theme")), Emoji: text(id.Get("emoji")), Avatar: text(id.Get("avatar")),
			}
		}
		v.byID[a.ID] = len(v.List)
		v.List = append(v.List, a)
	}
	return v
}

// Agent returns the entry of an id, nil when the list has none. The id is normalised.
func (v *View) Agent(id string) *Agent {
	if i, ok := v.byID[config.AgentID(id)]; ok {
		return &v.List[i]
	}
	return nil
}

// Known reports whether an agent may be named: it is in the list, or it is main and there is no list.
func (v *View) Known(id string) bool {
	return v.Agent(id) != nil || len(v.List) == 0 && config.AgentID(id) == Main
}

// Workspace is the working directory of an agent, known or not.
func (v *View) Workspace(id string) string {
	if a := v.Agent(id); a != nil {
		return a.Workspace
	}
	return v.Config.Workspace(id)
}

// AgentDir is where the daemon keeps what an agent needs beside its workspace.
func AgentDir(stateDir, id string) string {
	return filepath.Join(stateDir, "agents", config.AgentID(id), "agent")
}

// SessionsDir is where the transcripts of an agent are.
func SessionsDir(stateDir, id string) string {
	return filepath.Join(stateDir, "agents", config.AgentID(id), "sessions")
}

// ModelOf reads a model as it is configured: a text, or an object with primary and fallbacks.
func ModelOf(n *json5.Node) (primary string, fallbacks []string) {
	if n == nil {
		return "", nil
	}
	if n.Kind == json5.Object {
		return text(n.Get("primary")), texts(n.Get("fallbacks"))
	}
	return text(n), nil
}

func text(n *json5.Node) string {
	if n == nil || n.Kind != json5.String {
		return ""
	}
	return strings.TrimSpace(n.Str)
}

func flag(n *json5.Node) bool { return n != nil && n.Kind == json5.Bool && n.Bool }

// texts reads a list of texts; nil without one.
func texts(n *json5.Node) []string {
	if n == nil || n.Kind != json5.Array {
		return nil
	}
	out := []string{}
	for _, item := range n.Items {
		if s := text(item); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// expand makes a path absolute as the configuration does; "" stays.
func expand(home, path string) string {
	path = strings.TrimSpace(path)
	if path == "" {
		return ""
	}
	if path == "~" || strings.HasPrefix(path, "~/") || strings.HasPrefix(path, `~\`) {
		path = filepath.Join(home, path[1:])
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return filepath.Clean(path)
	}
	return abs
}

func hasNUL(s string) bool { return strings.IndexByte(s, 0) >= 0 }

// sortIDs sorts agent ids as a dictionary does: the signs come before digits, and those before letters.
func sortIDs(ids []string) {
	slices.SortFunc(ids, func(a, b string) int {
		for i := range min(len(a), len(b)) {
			if c := cmp.Compare(weight(a[i]), weight(b[i])); c != 0 {
				return c
			}
		}
		return cmp.Compare(len(a), len(b))
	})
}

func weight(c byte) int {
	switch c {
	case '_':
		return 0
	case '-':
		return 1
	}
	return int(c)
}
