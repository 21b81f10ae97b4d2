package methods

import (
	"time"

	"github.com/hanzoai/hanzod/agents/skills"
	"github.com/hanzoai/hanzod/compat/wire"
)

type skillParams struct {
	AgentID   string             `json:"agentId"`
	Name      string             `json:"name"`
	InstallID string             `json:"installId"`
	TimeoutMs wire.Opt[wire.Int] `json:"timeoutMs"`
	SkillKey  string             `json:"skillKey"`
	Enabled   wire.Opt[bool]     `json:"enabled"`
	APIKey    wire.Opt[string]   `json:"apiKey"`
	Env       map[string]string  `json:"env"`
}

func skillFromLegacy(p wire.Value) (in skillParams, err error) {
	err = wire.Decode(p, &in)
	return in, err
}

// SkillStatusFromLegacy reads skills.status.
func SkillStatusFromLegacy(p wire.Value) (skills.StatusIn, error) {
	in, err := skillFromLegacy(p)
	return skills.StatusIn{AgentID: in.AgentID}, err
}

type skillNeeds struct {
	Bins    wire.List[string] `json:"bins"`
	AnyBins wire.List[string] `json:"anyBins"`
	Env     wire.List[string] `json:"env"`
	Config  wire.List[string] `json:"config"`
	OS      wire.List[string] `json:"os"`
}

func skillNeedsToLegacy(n skills.Needs) skillNeeds {
	return skillNeeds{Bins: n.Bins, AnyBins: n.AnyBins, Env: n.Env, Config: n.Config, OS: n.OS}
}

type skillCheck struct {
	Path      string `json:"path"`
	Satisfied bool   `json:"satisfied"`
}

type skillInstall struct {
	ID    string            `json:"id"`
	Kind  string            `json:"kind"`
	Label string            `json:"label"`
	Bins  wire.List[string] `json:"bins"`
}

type skillRow struct {
	Name               string                  `json:"name"`
	Description        string                  `json:"description"`
	Source             string                  `json:"source"`
	Bundled            bool                    `json:"bundled"`
	FilePath           string                  `json:"filePath"`
	BaseDir            string                  `json:"baseDir"`
	SkillKey           string                  `json:"skillKey"`
	PrimaryEnv         wire.Opt[string]        `json:"primaryEnv,omitzero"`
	Emoji              wire.Opt[string]        `json:"emoji,omitzero"`
	Homepage           wire.Opt[string]        `json:"homepage,omitzero"`
	Always             bool                    `json:"always"`
	Disabled           bool                    `json:"disabled"`
	BlockedByAllowlist bool                    `json:"blockedByAllowlist"`
	Eligible           bool                    `json:"eligible"`
	Requirements       skillNeeds              `json:"requirements"`
	Missing            skillNeeds              `json:"missing"`
	ConfigChecks       wire.List[skillCheck]   `json:"configChecks"`
	Install            wire.List[skillInstall] `json:"install"`
}

type skillList struct {
	WorkspaceDir     string              `json:"workspaceDir"`
	ManagedSkillsDir string              `json:"managedSkillsDir"`
	Skills           wire.List[skillRow] `json:"skills"`
}

// SkillStatusToLegacy writes the result of skills.status.
func SkillStatusToLegacy(out skills.StatusOut) any {
	list := skillList{WorkspaceDir: out.Workspace, ManagedSkillsDir: out.ManagedDir}
	for _, s := range out.Skills {
		row := skillRow{
			Name: s.Name, Description: s.Description, Source: s.Source, Bundled: s.Bundled, FilePath: s.FilePath, BaseDir: s.BaseDir, SkillKey: s.Key,
			PrimaryEnv: wire.NonZero(s.PrimaryEnv), Emoji: wire.NonZero(s.Emoji), Homepage: wire.NonZero(s.Homepage), Always: s.Always,
			Disabled: s.Disabled, BlockedByAllowlist: s.Blocked, Eligible: s.Eligible,
			Requirements: skillNeedsToLegacy(s.Requires), Missing: skillNeedsToLegacy(s.Missing),
		}
		for _, c := range s.Checks {
			row.ConfigChecks = append(row.ConfigChecks, skillCheck{c.Path, c.Satisfied})
		}
		for _, o := range s.Install {
			row.Install = append(row.Install, skillInstall{o.ID, o.Kind, o.Label, o.Bins})
		}
		list.Skills = append(list.Skills, row)
	}
	return list
}

// SkillUpdateFromLegacy reads skills.update.
func SkillUpdateFromLegacy(p wire.Value) (skills.UpdateIn, error) {
	in, err := skillFromLegacy(p)
	out := skills.UpdateIn{Key: in.SkillKey, APIKey: ptr(in.APIKey), Env: in.Env}
	if on, ok := in.Enabled.Get(); ok {
		out.Enabled = &on
	}
	return out, err
}

type skillUpdated struct {
	OK       bool     `json:"ok"`
	SkillKey string   `json:"skillKey"`
	Config   wire.Raw `json:"config"`
}

// SkillUpdateToLegacy writes the result of skills.update.
func SkillUpdateToLegacy(out skills.UpdateOut) any {
	return skillUpdated{OK: true, SkillKey: out.Key, Config: treeToLegacy(out.Entry)}
}

// SkillInstallFromLegacy reads skills.install.
func SkillInstallFromLegacy(p wire.Value) (skills.InstallIn, error) {
	in, err := skillFromLegacy(p)
	return skills.InstallIn{Name: in.Name, InstallID: in.InstallID, Timeout: time.Duration(in.TimeoutMs.Or(0)) * time.Millisecond}, err
}

type skillInstalled struct {
	OK       bool              `json:"ok"`
	Message  string            `json:"message"`
	Stdout   string            `json:"stdout"`
	Stderr   string            `json:"stderr"`
	Code     wire.Opt[int]     `json:"code"`
	Warnings wire.List[string] `json:"warnings,omitempty"`
}

// SkillInstallToLegacy writes the result of skills.install.
func SkillInstallToLegacy(out skills.InstallOut) any {
	return skillInstalled{
		OK: out.OK, Message: out.Message, Stdout: out.Stdout, Stderr: out.Stderr, Code: wire.SomeOrNull(out.Code), Warnings: out.Warnings,
	}
}
