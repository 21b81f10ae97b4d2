package rpc

import (
	"context"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/agents"
	"github.com/hanzoai/hanzod/agents/models"
	"github.com/hanzoai/hanzod/agents/skills"
	agentsv1 "github.com/hanzoai/hanzod/gen/hanzo/agents/v1"
	"github.com/hanzoai/hanzod/identity"
)

// Agents is what the door needs of agents.Service.
type Agents interface {
	List(context.Context, identity.Caller, struct{}) (agents.ListOut, error)
	Create(context.Context, identity.Caller, agents.CreateIn) (agents.CreateOut, error)
	Update(context.Context, identity.Caller, agents.UpdateIn) (agents.UpdateOut, error)
	Delete(context.Context, identity.Caller, agents.DeleteIn) (agents.DeleteOut, error)
	Identity(context.Context, identity.Caller, agents.IdentityIn) (agents.IdentityOut, error)
	ListFiles(context.Context, identity.Caller, agents.FilesIn) (agents.FilesOut, error)
	GetFile(context.Context, identity.Caller, agents.FileIn) (agents.FileOut, error)
	SetFile(context.Context, identity.Caller, agents.SetFileIn) (agents.FileOut, error)
}

// Skills is what the door needs of skills.Service.
type Skills interface {
	Status(context.Context, identity.Caller, skills.StatusIn) (skills.StatusOut, error)
	Update(context.Context, identity.Caller, skills.UpdateIn) (skills.UpdateOut, error)
	Install(context.Context, identity.Caller, skills.InstallIn) (skills.InstallOut, error)
}

// Models is what the door needs of models.Service.
type Models interface {
	List(context.Context, identity.Caller, struct{}) ([]models.Model, error)
	Tools(context.Context, identity.Caller, models.ToolsIn) (models.ToolsOut, error)
}

type agentsServer struct {
	agentsv1.UnimplementedAgentServiceServer
	s *Server
}

func (a *agentsServer) ListAgents(ctx context.Context, req *agentsv1.ListAgentsRequest) (*agentsv1.ListAgentsResponse, error) {
	return call(ctx, req, nothing, a.s.d.Agents.List, listAgentsToProto)
}

func (a *agentsServer) CreateAgent(ctx context.Context, req *agentsv1.CreateAgentRequest) (*agentsv1.CreateAgentResponse, error) {
	return call(ctx, req, createAgentFromProto, a.s.d.Agents.Create, createAgentToProto)
}

func (a *agentsServer) UpdateAgent(ctx context.Context, req *agentsv1.UpdateAgentRequest) (*agentsv1.UpdateAgentResponse, error) {
	return call(ctx, req, updateAgentFromProto, a.s.d.Agents.Update, updateAgentToProto)
}

func (a *agentsServer) DeleteAgent(ctx context.Context, req *agentsv1.DeleteAgentRequest) (*agentsv1.DeleteAgentResponse, error) {
	return call(ctx, req, deleteAgentFromProto, a.s.d.Agents.Delete, deleteAgentToProto)
}

func (a *agentsServer) GetAgentIdentity(ctx context.Context, req *agentsv1.GetAgentIdentityRequest) (*agentsv1.GetAgentIdentityResponse, error) {
	return call(ctx, req, agentIdentityFromProto, a.s.d.Agents.Identity, agentIdentityToProto)
}

func (a *agentsServer) ListAgentFiles(ctx context.Context, req *agentsv1.ListAgentFilesRequest) (*agentsv1.ListAgentFilesResponse, error) {
	return call(ctx, req, listAgentFilesFromProto, a.s.d.Agents.ListFiles, listAgentFilesToProto)
}

func (a *agentsServer) GetAgentFile(ctx context.Context, req *agentsv1.GetAgentFileRequest) (*agentsv1.GetAgentFileResponse, error) {
	return call(ctx, req, getAgentFileFromProto, a.s.d.Agents.GetFile, getAgentFileToProto)
}

func (a *agentsServer) SetAgentFile(ctx context.Context, req *agentsv1.SetAgentFileRequest) (*agentsv1.SetAgentFileResponse, error) {
	return call(ctx, req, setAgentFileFromProto, a.s.d.Agents.SetFile, setAgentFileToProto)
}

type skillsServer struct {
	agentsv1.UnimplementedSkillServiceServer
	s *Server
}

func (k *skillsServer) ListSkills(ctx context.Context, req *agentsv1.ListSkillsRequest) (*agentsv1.ListSkillsResponse, error) {
	return call(ctx, req, listSkillsFromProto, k.s.d.Skills.Status, listSkillsToProto)
}

func (k *skillsServer) UpdateSkill(ctx context.Context, req *agentsv1.UpdateSkillRequest) (*agentsv1.UpdateSkillResponse, error) {
	return call(ctx, req, updateSkillFromProto, k.s.d.Skills.Update, updateSkillToProto)
}

func (k *skillsServer) InstallSkill(ctx context.Context, req *agentsv1.InstallSkillRequest) (*agentsv1.InstallSkillResponse, error) {
	return call(ctx, req, installSkillFromProto, lasting(k.s, k.s.d.Skills.Install), installSkillToProto)
}

type catalogServer struct {
	agentsv1.UnimplementedCatalogServiceServer
	s *Server
}

func (c *catalogServer) ListModels(ctx context.Context, req *agentsv1.ListModelsRequest) (*agentsv1.ListModelsResponse, error) {
	return call(ctx, req, nothing, c.s.d.Models.List, listModelsToProto)
}

func (c *catalogServer) ListTools(ctx context.Context, req *agentsv1.ListToolsRequest) (*agentsv1.ListToolsResponse, error) {
	return call(ctx, req, listToolsFromProto, c.s.d.Models.Tools, listToolsToProto)
}

func listAgentsToProto(out agents.ListOut) (*agentsv1.ListAgentsResponse, error) {
	list := &agentsv1.ListAgentsResponse{
		DefaultAgentId: cleanText(out.DefaultID), MainKey: cleanText(out.MainKey), SessionScope: cleanText(out.Scope),
		Agents: make([]*agentsv1.Agent, len(out.Agents)),
	}
	for i, a := range out.Agents {
		row := &agentsv1.Agent{
			AgentId: cleanText(a.ID), Name: cleanText(a.Name), IsDefault: a.Default, IsNode: a.Node, Configured: a.Configured,
			Workspace: cleanText(a.Workspace), Model: cleanText(a.Model),
		}
		if p := a.Identity; p != nil {
			row.Identity = &agentsv1.Persona{
				Name: cleanText(p.Name), Theme: cleanText(p.Theme), Emoji: cleanText(p.Emoji), Avatar: cleanText(p.Avatar), AvatarUrl: cleanText(p.AvatarURL),
			}
		}
		list.Agents[i] = row
	}
	return list, nil
}

func createAgentFromProto(r *agentsv1.CreateAgentRequest) (agents.CreateIn, error) {
	return agents.CreateIn{Name: r.GetName(), Workspace: r.GetWorkspace(), Emoji: r.GetEmoji(), Avatar: r.GetAvatar(), Model: r.GetModel()}, nil
}

func createAgentToProto(out agents.CreateOut) (*agentsv1.CreateAgentResponse, error) {
	return &agentsv1.CreateAgentResponse{AgentId: cleanText(out.AgentID), Name: cleanText(out.Name), Workspace: cleanText(out.Workspace)}, nil
}

func updateAgentFromProto(r *agentsv1.UpdateAgentRequest) (agents.UpdateIn, error) {
	return agents.UpdateIn{AgentID: r.GetAgentId(), Name: r.GetName(), Workspace: r.GetWorkspace(), Model: r.GetModel(), Avatar: r.GetAvatar()}, nil
}

func updateAgentToProto(out agents.UpdateOut) (*agentsv1.UpdateAgentResponse, error) {
	return &agentsv1.UpdateAgentResponse{AgentId: cleanText(out.AgentID)}, nil
}

func deleteAgentFromProto(r *agentsv1.DeleteAgentRequest) (agents.DeleteIn, error) {
	return agents.DeleteIn{AgentID: r.GetAgentId(), KeepFiles: r.GetKeepFiles()}, nil
}

func deleteAgentToProto(out agents.DeleteOut) (*agentsv1.DeleteAgentResponse, error) {
	return &agentsv1.DeleteAgentResponse{
		AgentId: cleanText(out.AgentID), RemovedBindings: clampInt32(out.RemovedBindings), Trash: cleanText(out.Trash), Kept: cleanTexts(out.Kept),
	}, nil
}

func agentIdentityFromProto(r *agentsv1.GetAgentIdentityRequest) (agents.IdentityIn, error) {
	return agents.IdentityIn{AgentID: r.GetAgentId(), SessionKey: r.GetSessionKey()}, nil
}

func agentIdentityToProto(out agents.IdentityOut) (*agentsv1.GetAgentIdentityResponse, error) {
	return &agentsv1.GetAgentIdentityResponse{
		AgentId: cleanText(out.AgentID), Name: cleanText(out.Name), Avatar: cleanText(out.Avatar), Emoji: cleanText(out.Emoji),
	}, nil
}

func listAgentFilesFromProto(r *agentsv1.ListAgentFilesRequest) (agents.FilesIn, error) {
	return agents.FilesIn{AgentID: r.GetAgentId()}, nil
}

func agentFileToProto(f agents.File) *agentsv1.AgentFile {
	return &agentsv1.AgentFile{
		Name: cleanText(f.Name), Path: cleanText(f.Path), Missing: f.Missing, Size: f.Size, UpdatedAt: timeToProto(f.Updated), Content: cleanOpt(f.Content),
	}
}

func listAgentFilesToProto(out agents.FilesOut) (*agentsv1.ListAgentFilesResponse, error) {
	list := &agentsv1.ListAgentFilesResponse{
		AgentId: cleanText(out.AgentID), Workspace: cleanText(out.Workspace), Files: make([]*agentsv1.AgentFile, len(out.Files)),
	}
	for i, f := range out.Files {
		list.Files[i] = agentFileToProto(f)
	}
	return list, nil
}

func getAgentFileFromProto(r *agentsv1.GetAgentFileRequest) (agents.FileIn, error) {
	return agents.FileIn{AgentID: r.GetAgentId(), Name: r.GetName()}, nil
}

func getAgentFileToProto(out agents.FileOut) (*agentsv1.GetAgentFileResponse, error) {
	return &agentsv1.GetAgentFileResponse{AgentId: cleanText(out.AgentID), Workspace: cleanText(out.Workspace), File: agentFileToProto(out.File)}, nil
}

func setAgentFileFromProto(r *agentsv1.SetAgentFileRequest) (agents.SetFileIn, error) {
	return agents.SetFileIn{AgentID: r.GetAgentId(), Name: r.GetName(), Content: r.GetContent()}, nil
}

func setAgentFileToProto(out agents.FileOut) (*agentsv1.SetAgentFileResponse, error) {
	return &agentsv1.SetAgentFileResponse{AgentId: cleanText(out.AgentID), Workspace: cleanText(out.Workspace), File: agentFileToProto(out.File)}, nil
}

func listSkillsFromProto(r *agentsv1.ListSkillsRequest) (skills.StatusIn, error) {
	return skills.StatusIn{AgentID: r.GetAgentId()}, nil
}

func skillNeedsToProto(n skills.Needs) *agentsv1.SkillNeeds {
	return &agentsv1.SkillNeeds{
		Bins: cleanTexts(n.Bins), AnyBins: cleanTexts(n.AnyBins), Env: cleanTexts(n.Env), Config: cleanTexts(n.Config), Os: cleanTexts(n.OS),
	}
}

func listSkillsToProto(out skills.StatusOut) (*agentsv1.ListSkillsResponse, error) {
	list := &agentsv1.ListSkillsResponse{
		Workspace: cleanText(out.Workspace), ManagedDir: cleanText(out.ManagedDir), Skills: make([]*agentsv1.Skill, len(out.Skills)),
	}
	for i, s := range out.Skills {
		row := &agentsv1.Skill{
			Name: cleanText(s.Name), Description: cleanText(s.Description), Source: cleanText(s.Source), Bundled: s.Bundled, FilePath: cleanText(s.FilePath),
			BaseDir: cleanText(s.BaseDir), SkillKey: cleanText(s.Key), PrimaryEnv: cleanText(s.PrimaryEnv), Emoji: cleanText(s.Emoji),
			Homepage: cleanText(s.Homepage), Always: s.Always, Disabled: s.Disabled, BlockedByAllowlist: s.Blocked, Eligible: s.Eligible,
			Requirements: skillNeedsToProto(s.Requires), Missing: skillNeedsToProto(s.Missing),
		}
		for _, c := range s.Checks {
			row.ConfigChecks = append(row.ConfigChecks, &agentsv1.SkillConfigCheck{Path: cleanText(c.Path), Satisfied: c.Satisfied})
		}
		for _, o := range s.Install {
			row.Installers = append(row.Installers, &agentsv1.SkillInstaller{
				InstallId: cleanText(o.ID), Kind: cleanText(o.Kind), Label: cleanText(o.Label), Bins: cleanTexts(o.Bins),
			})
		}
		list.Skills[i] = row
	}
	return list, nil
}

func updateSkillFromProto(r *agentsv1.UpdateSkillRequest) (skills.UpdateIn, error) {
	return skills.UpdateIn{Key: r.GetSkillKey(), Enabled: r.Enabled, APIKey: r.ApiKey, Env: r.GetEnv()}, nil
}

func updateSkillToProto(out skills.UpdateOut) (*agentsv1.UpdateSkillResponse, error) {
	v, err := valueOf(out.Entry.Value(), 0)
	if err != nil {
		return nil, err
	}
	entry := v.GetStructValue()
	if entry == nil {
		entry = &structpb.Struct{}
	}
	return &agentsv1.UpdateSkillResponse{SkillKey: cleanText(out.Key), Config: entry}, nil
}

func installSkillFromProto(r *agentsv1.InstallSkillRequest) (skills.InstallIn, error) {
	in := skills.InstallIn{Name: r.GetName(), InstallID: r.GetInstallId()}
	d, err := durationFromProto(r.GetTimeout())
	if err != nil {
		return skills.InstallIn{}, err
	}
	if d != nil {
		in.Timeout = *d
	}
	return in, nil
}

func installSkillToProto(out skills.InstallOut) (*agentsv1.InstallSkillResponse, error) {
	m := &agentsv1.InstallSkillResponse{
		Ok: out.OK, Message: cleanText(out.Message), Stdout: cleanText(out.Stdout), Stderr: cleanText(out.Stderr), Warnings: cleanTexts(out.Warnings),
	}
	if out.Code != nil {
		code := clampInt32(*out.Code)
		m.ExitCode = &code
	}
	return m, nil
}

func listModelsToProto(out []models.Model) (*agentsv1.ListModelsResponse, error) {
	list := &agentsv1.ListModelsResponse{Models: make([]*agentsv1.Model, len(out))}
	for i, m := range out {
		list.Models[i] = &agentsv1.Model{
			ModelId: cleanText(m.ID), Name: cleanText(m.Name), Provider: cleanText(m.Provider), ContextWindow: int64(m.ContextWindow),
			Reasoning: m.Reasoning, Input: cleanTexts(m.Input), Known: m.Known,
		}
	}
	return list, nil
}

func listToolsFromProto(r *agentsv1.ListToolsRequest) (models.ToolsIn, error) {
	return models.ToolsIn{AgentID: r.GetAgentId()}, nil
}

func listToolsToProto(out models.ToolsOut) (*agentsv1.ListToolsResponse, error) {
	m := &agentsv1.ListToolsResponse{AgentId: cleanText(out.AgentID)}
	for _, p := range out.Profiles {
		m.Profiles = append(m.Profiles, &agentsv1.ToolProfile{ProfileId: cleanText(p.ID), Label: cleanText(p.Label)})
	}
	for _, g := range out.Groups {
		group := &agentsv1.ToolGroup{GroupId: cleanText(g.ID), Label: cleanText(g.Label)}
		for _, t := range g.Tools {
			group.Tools = append(group.Tools, &agentsv1.Tool{ToolId: cleanText(t.ID), Description: cleanText(t.Description), Profiles: cleanTexts(t.Profiles)})
		}
		m.Groups = append(m.Groups, group)
	}
	return m, nil
}
