package methods

import (
	"github.com/hanzoai/hanzod/agents"
	"github.com/hanzoai/hanzod/compat/wire"
)

type personaShape struct {
	Name      wire.Opt[string] `json:"name,omitzero"`
	Theme     wire.Opt[string] `json:"theme,omitzero"`
	Emoji     wire.Opt[string] `json:"emoji,omitzero"`
	Avatar    wire.Opt[string] `json:"avatar,omitzero"`
	AvatarURL wire.Opt[string] `json:"avatarUrl,omitzero"`
}

type agentRow struct {
	ID       string                 `json:"id"`
	Name     wire.Opt[string]       `json:"name,omitzero"`
	Identity wire.Opt[personaShape] `json:"identity,omitzero"`
}

type agentList struct {
	DefaultID string              `json:"defaultId"`
	MainKey   string              `json:"mainKey"`
	Scope     string              `json:"scope"`
	Agents    wire.List[agentRow] `json:"agents"`
}

// AgentsToLegacy writes the result of agents.list.
func AgentsToLegacy(out agents.ListOut) any {
	list := agentList{DefaultID: out.DefaultID, MainKey: out.MainKey, Scope: out.Scope}
	for _, a := range out.Agents {
		row := agentRow{ID: a.ID, Name: wire.NonZero(a.Name)}
		if i := a.Identity; i != nil {
			row.Identity = wire.Some(personaShape{
				Name: wire.NonZero(i.Name), Theme: wire.NonZero(i.Theme), Emoji: wire.NonZero(i.Emoji), Avatar: wire.NonZero(i.Avatar),
				AvatarURL: wire.NonZero(i.AvatarURL),
			})
		}
		list.Agents = append(list.Agents, row)
	}
	return list
}

type agentsParams struct {
	AgentID     string         `json:"agentId"`
	Name        string         `json:"name"`
	Workspace   string         `json:"workspace"`
	Emoji       string         `json:"emoji"`
	Avatar      string         `json:"avatar"`
	Model       string         `json:"model"`
	DeleteFiles wire.Opt[bool] `json:"deleteFiles"`
	SessionKey  string         `json:"sessionKey"`
	Content     string         `json:"content"`
}

func agentFromLegacy(p wire.Value) (in agentsParams, err error) {
	err = wire.Decode(p, &in)
	return in, err
}

// AgentCreateFromLegacy reads agents.create.
func AgentCreateFromLegacy(p wire.Value) (agents.CreateIn, error) {
	in, err := agentFromLegacy(p)
	return agents.CreateIn{Name: in.Name, Workspace: in.Workspace, Emoji: in.Emoji, Avatar: in.Avatar}, err
}

type agentDone struct {
	OK              bool             `json:"ok"`
	AgentID         string           `json:"agentId"`
	Name            wire.Opt[string] `json:"name,omitzero"`
	Workspace       wire.Opt[string] `json:"workspace,omitzero"`
	RemovedBindings wire.Opt[int]    `json:"removedBindings,omitzero"`
}

// AgentCreateToLegacy writes the result of agents.create.
func AgentCreateToLegacy(out agents.CreateOut) any {
	return agentDone{OK: true, AgentID: out.AgentID, Name: wire.Some(out.Name), Workspace: wire.Some(out.Workspace)}
}

// AgentUpdateFromLegacy reads agents.update.
func AgentUpdateFromLegacy(p wire.Value) (agents.UpdateIn, error) {
	in, err := agentFromLegacy(p)
	return agents.UpdateIn{AgentID: in.AgentID, Name: in.Name, Workspace: in.Workspace, Model: in.Model, Avatar: in.Avatar}, err
}

// AgentUpdateToLegacy writes the result of agents.update.
func AgentUpdateToLegacy(out agents.UpdateOut) any { return agentDone{OK: true, AgentID: out.AgentID} }

// AgentDeleteFromLegacy reads agents.delete.
func AgentDeleteFromLegacy(p wire.Value) (agents.DeleteIn, error) {
	in, err := agentFromLegacy(p)
	return agents.DeleteIn{AgentID: in.AgentID, KeepFiles: !in.DeleteFiles.Or(true)}, err
}

// AgentDeleteToLegacy writes the result of agents.delete.
func AgentDeleteToLegacy(out agents.DeleteOut) any {
	return agentDone{OK: true, AgentID: out.AgentID, RemovedBindings: wire.Some(out.RemovedBindings)}
}

// AgentIdentityFromLegacy reads agent.identity.get.
func AgentIdentityFromLegacy(p wire.Value) (agents.IdentityIn, error) {
	in, err := agentFromLegacy(p)
	return agents.IdentityIn{AgentID: in.AgentID, SessionKey: in.SessionKey}, err
}

type agentIdentity struct {
	AgentID string           `json:"agentId"`
	Name    string           `json:"name"`
	Avatar  string           `json:"avatar"`
	Emoji   wire.Opt[string] `json:"emoji,omitzero"`
}

// AgentIdentityToLegacy writes the result of agent.identity.get.
func AgentIdentityToLegacy(out agents.IdentityOut) any {
	return agentIdentity{AgentID: out.AgentID, Name: out.Name, Avatar: out.Avatar, Emoji: wire.NonZero(out.Emoji)}
}

// AgentFilesFromLegacy reads agents.files.list.
func AgentFilesFromLegacy(p wire.Value) (agents.FilesIn, error) {
	in, err := agentFromLegacy(p)
	return agents.FilesIn{AgentID: in.AgentID}, err
}

// AgentFileFromLegacy reads agents.files.get.
func AgentFileFromLegacy(p wire.Value) (agents.FileIn, error) {
	in, err := agentFromLegacy(p)
	return agents.FileIn{AgentID: in.AgentID, Name: in.Name}, err
}

// AgentFileSetFromLegacy reads agents.files.set.
func AgentFileSetFromLegacy(p wire.Value) (agents.SetFileIn, error) {
	in, err := agentFromLegacy(p)
	return agents.SetFileIn{AgentID: in.AgentID, Name: in.Name, Content: in.Content}, err
}

type agentFile struct {
	Name        string           `json:"name"`
	Path        string           `json:"path"`
	Missing     bool             `json:"missing"`
	Size        wire.Opt[int64]  `json:"size,omitzero"`
	UpdatedAtMs wire.Opt[int64]  `json:"updatedAtMs,omitzero"`
	Content     wire.Opt[string] `json:"content,omitzero"`
}

func agentFileToLegacy(f agents.File) agentFile {
	out := agentFile{Name: f.Name, Path: f.Path, Missing: f.Missing}
	if !f.Missing || f.Size > 0 {
		out.Size = wire.Some(f.Size)
	}
	out.UpdatedAtMs = maybeMS(f.Updated)
	if f.Content != nil {
		out.Content = wire.Some(*f.Content)
	}
	return out
}

type agentFiles struct {
	AgentID   string               `json:"agentId"`
	Workspace string               `json:"workspace"`
	Files     wire.List[agentFile] `json:"files"`
}

// AgentFilesToLegacy writes the result of agents.files.list.
func AgentFilesToLegacy(out agents.FilesOut) any {
	list := agentFiles{AgentID: out.AgentID, Workspace: out.Workspace}
	for _, f := range out.Files {
		list.Files = append(list.Files, agentFileToLegacy(f))
	}
	return list
}

type agentFileGot struct {
	AgentID   string    `json:"agentId"`
	Workspace string    `json:"workspace"`
	File      agentFile `json:"file"`
}

// AgentFileToLegacy writes the result of agents.files.get.
func AgentFileToLegacy(out agents.FileOut) any {
	return agentFileGot{AgentID: out.AgentID, Workspace: out.Workspace, File: agentFileToLegacy(out.File)}
}

type agentFileSet struct {
	OK bool `json:"ok"`
	agentFileGot
}

// AgentFileSetToLegacy writes the result of agents.files.set.
func AgentFileSetToLegacy(out agents.FileOut) any {
	return agentFileSet{true, agentFileGot{AgentID: out.AgentID, Workspace: out.Workspace, File: agentFileToLegacy(out.File)}}
}
