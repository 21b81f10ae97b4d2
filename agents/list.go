package agents

import (
	"context"
	"os"
	"path/filepath"
	"slices"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/identity"
)

// Listed is an agent in the list.
type Listed struct {
	ID, Name string
	// Identity is nil when the configuration says nothing about it.
	Identity *ListedIdentity
	// Default marks the default agent, Node an entry that stands for a connected node, Configured one of
	// agents.list.
	Default, Node, Configured bool
	Workspace, Model          string
}

// ListedIdentity is the configured identity of an agent. AvatarURL is an http(s) or data URL, "" where the
// avatar is none or cannot be shown.
type ListedIdentity struct {
	Name, Theme, Emoji, Avatar, AvatarURL string
}

// ListOut is the result of List. Scope is per-sender or global.
type ListOut struct {
	DefaultID, MainKey, Scope string
	Agents                    []Listed
}

// List returns the agents: the default one first, the others by id, then the connected nodes that are no
// agents (sessions-chat.md §11). It does not fail.
func (s *Service) List(context.Context, identity.Caller, struct{}) (ListOut, error) {
	v := s.view()
	c := v.Config
	out := ListOut{DefaultID: v.DefaultID, MainKey: c.MainKey(), Scope: c.SessionScope()}
	ids := v.ids()
	pictures := avatars{left: maxAvatars}
	for _, id := range ids {
		row := Listed{ID: id, Default: id == v.DefaultID, Workspace: v.Workspace(id)}
		if a := v.Agent(id); a != nil {
			row.Name, row.Configured, row.Model = a.Name, true, a.Model
			if p := a.Identity; p != nil {
				row.Identity = &ListedIdentity{Name: p.Name, Theme: p.Theme, Emoji: p.Emoji, Avatar: p.Avatar}
				row.Identity.AvatarURL = pictures.url(row.Workspace, p.Avatar)
			}
		}
		out.Agents = append(out.Agents, row)
	}
	for _, n := range s.nodes() {
		id := config.AgentID(n.ID)
		if slices.Contains(ids, id) {
			continue
		}
		ids = append(ids, id)
		name := n.Name
		if name == "" {
			name = n.ID
		}
		out.Agents = append(out.Agents, Listed{
			ID: id, Name: name, Identity: &ListedIdentity{Name: name}, Node: true, Workspace: v.Workspace(id),
		})
	}
	return out, nil
}

func (s *Service) nodes() []Node {
	if s.cfg.Nodes == nil {
		return nil
	}
	return s.cfg.Nodes()
}

// ids are those of the list, or main and the directories of agents when there is no list.
func (v *View) ids() []string {
	ids := make([]string, 0, len(v.List)+1)
	for _, a := range v.List {
		if a.ID != v.DefaultID {
			ids = append(ids, a.ID)
		}
	}
	if len(v.List) == 0 {
		seen := map[string]bool{v.DefaultID: true}
		for _, id := range dirs(filepath.Join(v.Config.StateDir, "agents")) {
			if id = config.AgentID(id); !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	sortIDs(ids)
	return slices.Concat([]string{v.DefaultID}, ids)
}

// dirs are the names of the directories in a directory, at most maxDirs of them.
func dirs(path string) []string {
	f, err := os.Open(path + string(filepath.Separator) + ".") // never a named pipe, which would be waited for
	if err != nil {
		return nil
	}
	defer f.Close()
	entries, _ := f.ReadDir(maxDirs) // what was read before a fault counts
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out
}
