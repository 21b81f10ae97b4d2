package methods

import (
	"github.com/hanzoai/hanzod/agents/models"
	"github.com/hanzoai/hanzod/compat/wire"
)

type modelRow struct {
	ID            string                      `json:"id"`
	Name          string                      `json:"name"`
	Provider      string                      `json:"provider"`
	ContextWindow wire.Opt[int]               `json:"contextWindow,omitzero"`
	Reasoning     wire.Opt[bool]              `json:"reasoning,omitzero"`
	Input         wire.Opt[wire.List[string]] `json:"input,omitzero"`
}

type modelList struct {
	Models wire.List[modelRow] `json:"models"`
}

// ModelsToLegacy writes the result of models.list. Of a model that is only named nothing more is known.
func ModelsToLegacy(out []models.Model) any {
	var list modelList
	for _, m := range out {
		row := modelRow{ID: m.ID, Name: m.Name, Provider: m.Provider, ContextWindow: wire.NonZero(m.ContextWindow), Input: optList(m.Input)}
		if m.Known {
			row.Reasoning = wire.Some(m.Reasoning)
		}
		list.Models = append(list.Models, row)
	}
	return list
}

type toolsParams struct {
	AgentID string `json:"agentId"`
}

// ToolsFromLegacy reads tools.catalog. There are no plugins, so it does not matter whether they are wanted.
func ToolsFromLegacy(p wire.Value) (models.ToolsIn, error) {
	var in toolsParams
	err := wire.Decode(p, &in)
	return models.ToolsIn{AgentID: in.AgentID}, err
}

type toolProfile struct {
	ID    string `json:"id"`
	Label string `json:"label"`
}

type toolRow struct {
	ID              string            `json:"id"`
	Label           string            `json:"label"`
	Description     string            `json:"description"`
	Source          string            `json:"source"`
	DefaultProfiles wire.List[string] `json:"defaultProfiles"`
}

type toolGroup struct {
	ID     string             `json:"id"`
	Label  string             `json:"label"`
	Source string             `json:"source"`
	Tools  wire.List[toolRow] `json:"tools"`
}

type toolCatalog struct {
	AgentID  string                 `json:"agentId"`
	Profiles wire.List[toolProfile] `json:"profiles"`
	Groups   wire.List[toolGroup]   `json:"groups"`
}

// ToolsToLegacy writes the result of tools.catalog.
func ToolsToLegacy(out models.ToolsOut) any {
	const core = "core"
	c := toolCatalog{AgentID: out.AgentID}
	for _, p := range out.Profiles {
		c.Profiles = append(c.Profiles, toolProfile{p.ID, p.Label})
	}
	for _, g := range out.Groups {
		group := toolGroup{ID: g.ID, Label: g.Label, Source: core}
		for _, t := range g.Tools {
			group.Tools = append(group.Tools, toolRow{t.ID, t.ID, t.Description, core, t.Profiles})
		}
		c.Groups = append(c.Groups, group)
	}
	return c
}
