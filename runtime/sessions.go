package runtime

import (
	"strings"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/sessions"
)

// sessionModels tells sessions what models agents use.
type sessionModels struct{ current func() *config.Config }

const (
	defaultProvider = "anthropic"
	defaultModel    = "claude-opus-4-6"
	// defaultWindow is the context window of a model that nothing is known of, in tokens.
	defaultWindow = 200_000
)

// Default implements sessions.Models.
func (m sessionModels) Default(string) sessions.Model {
	return sessions.Model{Provider: defaultProvider, Name: defaultModel}
}

// Choose implements sessions.Models.
func (m sessionModels) Choose(_, text string) (sessions.Model, error) {
	provider, name, ok := strings.Cut(text, "/")
	if !ok {
		provider, name = defaultProvider, text
	}
	if provider, name = strings.ToLower(strings.TrimSpace(provider)), strings.TrimSpace(name); provider == "" || name == "" {
		return sessions.Model{}, sessions.ErrModel.With("model", text)
	}
	return sessions.Model{Provider: provider, Name: name}, nil
}

// ContextTokens implements sessions.Models.
func (m sessionModels) ContextTokens() int64 { return defaultWindow }
