// Package models knows which models and tools there are, and which model an agent uses
// (sessions-chat.md §9, control-plane.md §8).
//
// It imports leaves and agents, reads the configuration through a function and owns no goroutine. Methods
// may be called concurrently and never wait.
package models

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/hanzoai/hanzod/agents"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// ErrAgent is what Tools returns for an agent that is not there.
var ErrAgent = errs.Define(errs.NotFound, "models.agent", "there is no agent of this id: see the list of agents")

const (
	// defaultProvider and defaultModel are used where nothing else is configured.
	defaultProvider = "anthropic"
	defaultModel    = "claude-opus-4-6"
	// defaultContext is the context window of a model that says nothing of it, in tokens (config.md §8).
	defaultContext = 200_000
)

// Model is a model that can be used. ContextWindow is in tokens, 0 when it is not known; Input is what it
// reads besides text: text, image, document.
type Model struct {
	ID, Name, Provider string
	ContextWindow      int
	Reasoning          bool
	Input              []string
	// Known tells those of the catalogue from those that are only named in a list.
	Known bool
}

// Ref names a model.
type Ref struct{ Provider, Model string }

// String is "provider/model".
func (r Ref) String() string { return r.Provider + "/" + r.Model }

// Service answers for models and tools.
type Service struct {
	current func() *config.Config
	views   *agents.Views
	last    atomic.Pointer[known]
}

// New returns a service that reads the configuration in force.
func New(current func() *config.Config) *Service {
	return &Service{current: current, views: &agents.Views{}}
}

// For is the service with another view of the configuration.
func (s *Service) For(current func() *config.Config) *Service { return New(current) }

// known is what one configuration says.
type known struct {
	config  *config.Config
	all     []Model
	byRef   map[Ref]*Model
	allowed []Ref // nil without an allow-list
	aliases map[string]Ref
	primary string
	context int
	params  *json5.Node
}

func (s *Service) look() *known {
	c := s.current()
	if k := s.last.Load(); k != nil && k.config == c {
		return k
	}
	k := &known{config: c, byRef: map[Ref]*Model{}, aliases: map[string]Ref{}}
	section := c.Section("models")
	if mode := section.Get("mode"); mode == nil || mode.Str != "replace" {
		k.all = slices.Clone(catalogue)
	}
	for _, m := range configured(section.Get("providers")) {
		i := slices.IndexFunc(k.all, func(o Model) bool { return o.Provider == m.Provider && o.ID == m.ID })
		if i >= 0 {
			k.all[i] = m
		} else {
			k.all = append(k.all, m)
		}
	}
	for i := range k.all {
		k.byRef[Ref{k.all[i].Provider, k.all[i].ID}] = &k.all[i]
	}
	defaults := c.Section("agents").Get("defaults")
	k.primary, _ = agents.ModelOf(defaults.Get("model"))
	if n := defaults.Get("contextTokens"); n != nil && n.Kind == json5.Number && n.Num >= 1 && n.Num < 1<<53 {
		k.context = int(n.Num)
	}
	if list := defaults.Get("models"); list != nil && list.Kind == json5.Object {
		k.params = list
		for _, m := range list.Members {
			ref, ok := parse(m.Key, nil)
			if !ok {
				continue
			}
			k.allowed = append(k.allowed, ref)
			if a := m.Value.Get("alias"); a != nil && strings.TrimSpace(a.Str) != "" {
				k.aliases[strings.ToLower(strings.TrimSpace(a.Str))] = ref
			}
		}
	}
	s.last.Store(k)
	return k
}

// configured are the models of models.providers.
func configured(providers *json5.Node) []Model {
	if providers == nil || providers.Kind != json5.Object {
		return nil
	}
	var out []Model
	for _, p := range providers.Members {
		list := p.Value.Get("models")
		if list == nil || list.Kind != json5.Array {
			continue
		}
		for _, n := range list.Items {
			m := Model{ID: word(n.Get("id")), Name: word(n.Get("name")), Provider: provider(p.Key), ContextWindow: defaultContext, Known: true}
			if m.ID == "" {
				continue
			}
			if m.Name == "" {
				m.Name = m.ID
			}
			if w := n.Get("contextWindow"); w != nil && w.Kind == json5.Number && w.Num >= 1 && w.Num < 1<<53 {
				m.ContextWindow = int(w.Num)
			}
			if r := n.Get("reasoning"); r != nil {
				m.Reasoning = r.Bool
			}
			if in := n.Get("input"); in != nil {
				for _, item := range in.Items {
					if s := word(item); s != "" {
						m.Input = append(m.Input, s)
					}
				}
			}
			if len(m.Input) == 0 {
				m.Input = []string{"text"}
			}
			out = append(out, m)
		}
	}
	return out
}

func word(n *json5.Node) string {
	if n == nil || n.Kind != json5.String {
		return ""
	}
	return strings.TrimSpace(n.Str)
}

// providerAliases are other names of providers (sessions-chat.md §9).
var providerAliases = map[string]string{
	"z.ai": "zai", "z-ai": "zai", "opencode-zen": "opencode", "qwen": "qwen-portal", "kimi-code": "kimi-coding",
	"bedrock": "amazon-bedrock", "aws-bedrock": "amazon-bedrock", "bytedance": "volcengine", "doubao": "volcengine",
}

// modelAliases are short names of Anthropic's models.
var modelAliases = map[string]string{
	"opus-4.6": "claude-opus-4-6", "opus-4.5": "claude-opus-4-5", "sonnet-4.6": "claude-sonnet-4-6", "sonnet-4.5": "claude-sonnet-4-5",
}

func provider(name string) string {
	name = strings.ToLower(strings.TrimSpace(name))
	if to, ok := providerAliases[name]; ok {
		return to
	}
	return name
}

// parse reads a reference: provider/model, an alias, or a model of Anthropic; "@profile" at its end is left
// out.
func parse(text string, aliases map[string]Ref) (Ref, bool) {
	text = strings.TrimSpace(text)
	if at := strings.LastIndexByte(text, '@'); at > strings.LastIndexByte(text, '/')+1 {
		text = strings.TrimSpace(text[:at])
	}
	if ref, ok := aliases[strings.ToLower(text)]; ok {
		return ref, true
	}
	p, m, both := strings.Cut(text, "/")
	if !both {
		p, m = defaultProvider, text
	}
	ref := Ref{provider(p), strings.TrimSpace(m)}
	if ref.Provider == defaultProvider {
		if to, ok := modelAliases[strings.ToLower(ref.Model)]; ok {
			ref.Model = to
		}
	}
	return ref, ref.Provider != "" && ref.Model != ""
}

// Parse reads a reference to a model: provider/model, an alias of the configuration, or a model of
// Anthropic without its provider. ok is false for what names none.
func (s *Service) Parse(text string) (ref Ref, ok bool) { return parse(text, s.look().aliases) }

// Default is the model of an agent: its own, else the general one, else anthropic/claude-opus-4-6. The id
// may be unknown or "".
func (s *Service) Default(agentID string) Ref {
	k := s.look()
	v := s.views.Of(k.config)
	if agentID == "" {
		agentID = v.DefaultID
	}
	if a := v.Agent(agentID); a != nil && a.Model != "" {
		if ref, ok := parse(a.Model, k.aliases); ok {
			return ref
		}
	}
	if ref, ok := parse(k.primary, k.aliases); ok {
		return ref
	}
	return Ref{defaultProvider, defaultModel}
}

// Allowed reports whether a model may be chosen: it is in agents.defaults.models, it is the default of the
// agent, or there is no such list.
func (s *Service) Allowed(agentID string, ref Ref) bool {
	k := s.look()
	return k.allowed == nil || slices.Contains(k.allowed, ref) || ref == s.Default(agentID)
}

// Resolve is the model that an agent uses where override, a reference or "", was chosen: it counts when it
// names a model and is allowed.
func (s *Service) Resolve(agentID, override string) Ref {
	if ref, ok := s.Parse(override); ok && s.Allowed(agentID, ref) {
		return ref
	}
	return s.Default(agentID)
}

// ContextTokens is how many tokens a model has room for, as far as they are accounted for:
// agents.defaults.contextTokens, else its context window, else 200,000.
func (s *Service) ContextTokens(ref Ref) int {
	k := s.look()
	if k.context > 0 {
		return k.context
	}
	if m := k.byRef[ref]; m != nil && m.ContextWindow > 0 {
		return m.ContextWindow
	}
	return defaultContext
}

// Reasoning reports whether a model thinks before it answers; false for one that is not known.
func (s *Service) Reasoning(ref Ref) bool {
	m := s.look().byRef[ref]
	return m != nil && m.Reasoning
}

// Thinking is how much a model thinks when nobody says: off, minimal, low, medium, high, xhigh or adaptive.
func (s *Service) Thinking(ref Ref) string {
	k := s.look()
	if k.params != nil {
		for _, m := range k.params.Members {
			if of, ok := parse(m.Key, nil); ok && of == ref {
				if t := word(m.Value.At("params", "thinking")); t != "" {
					return t
				}
			}
		}
	}
	if t := word(k.config.Section("agents").At("defaults", "thinkingDefault")); t != "" {
		return t
	}
	switch {
	case strings.HasPrefix(ref.Model, "claude-opus-4-6"), strings.HasPrefix(ref.Model, "claude-sonnet-4-6"):
		return "adaptive"
	case s.Reasoning(ref):
		return "low"
	}
	return "off"
}

// extraHigh are the models that know the level xhigh (sessions-chat.md §3).
var extraHigh = map[Ref]bool{
	{"openai", "gpt-5.4"}: true, {"openai", "gpt-5.4-pro"}: true, {"openai", "gpt-5.2"}: true,
	{"openai-codex", "gpt-5.4"}: true, {"openai-codex", "gpt-5.3-codex"}: true, {"openai-codex", "gpt-5.3-codex-spark"}: true,
	{"openai-codex", "gpt-5.2-codex"}: true, {"openai-codex", "gpt-5.1-codex"}: true,
	{"github-copilot", "gpt-5.2"}: true, {"github-copilot", "gpt-5.2-codex"}: true,
}

// ExtraHigh reports whether a model knows the thinking level xhigh.
func (s *Service) ExtraHigh(ref Ref) bool { return extraHigh[ref] }

// List returns the models that can be chosen, by provider and name: those of agents.defaults.models and the
// default, else all of the catalogue. It does not fail.
func (s *Service) List(context.Context, identity.Caller, struct{}) ([]Model, error) {
	k := s.look()
	out := slices.Clone(k.all)
	if k.allowed != nil {
		out = out[:0]
		seen := map[Ref]bool{}
		for _, ref := range append(slices.Clone(k.allowed), s.Default("")) {
			if seen[ref] {
				continue
			}
			seen[ref] = true
			if m := k.byRef[ref]; m != nil {
				out = append(out, *m)
			} else {
				out = append(out, Model{ID: ref.Model, Name: ref.Model, Provider: ref.Provider})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Model) int {
		return cmp.Or(cmp.Compare(a.Provider, b.Provider), cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}
