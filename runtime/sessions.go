package runtime

import (
	"github.com/hanzoai/hanzod/agents/models"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/sessions"
)

// sessionModels tells sessions what models agents use, by the configuration in force.
type sessionModels struct{ *models.Service }

func newSessionModels(current func() *config.Config) sessionModels {
	return sessionModels{models.New(current)}
}

func sessionModel(r models.Ref) sessions.Model {
	return sessions.Model{Provider: r.Provider, Name: r.Model}
}

// Default implements sessions.Models.
func (m sessionModels) Default(agentID string) sessions.Model {
	return sessionModel(m.Service.Default(agentID))
}

// Choose implements sessions.Models.
func (m sessionModels) Choose(agentID, text string) (sessions.Model, error) {
	ref, ok := m.Parse(text)
	if !ok {
		return sessions.Model{}, sessions.ErrModel.With("model", text)
	}
	if !m.Allowed(agentID, ref) {
		return sessions.Model{}, sessions.ErrModelNotAllowed.With("model", ref.String())
	}
	return sessionModel(ref), nil
}

// ContextTokens implements sessions.Models.
func (m sessionModels) ContextTokens() int64 {
	return int64(m.Service.ContextTokens(m.Service.Default("")))
}

// thinking is how much a model thinks when nobody says.
func (m sessionModels) thinking(of sessions.Model) string {
	return m.Thinking(models.Ref{Provider: of.Provider, Model: of.Name})
}
