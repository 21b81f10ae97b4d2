package talk

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/identity"
)

// redacted stands for a secret that is not shown (control-plane.md §4; frozen).
const redacted = "__OPENCLAW_REDACTED__"

// The argument and the result of Configuration.
type (
	ConfigIn struct {
		// Secrets asks for API keys.
		Secrets bool
	}
	// ConfigOut is what voice clients need of the configuration; what is not set is nil or empty.
	ConfigOut struct {
		Talk *Talk
		// MainKey is session.mainKey, SeamColor ui.seamColor.
		MainKey, SeamColor string
	}
	// Talk is the section talk.
	Talk struct {
		Provider  string
		Providers []Provider
		// Active are the values of the provider in use, as older clients read them.
		Active            Provider
		InterruptOnSpeech *bool
	}
	// Provider is what is set for one provider of voices.
	Provider struct {
		ID                             string
		VoiceID, ModelID, OutputFormat string
		// Aliases are names of voices, by alias.
		Aliases map[string]string
		// APIKey is redacted unless it was asked for.
		APIKey string
	}
)

// Configuration returns what voice clients need. API keys are shown to those who may have them and ask.
func (s *Service) Configuration(_ context.Context, c identity.Caller, in ConfigIn) (ConfigOut, error) {
	if in.Secrets && !c.Has(identity.ScopeTalkSecrets) {
		return ConfigOut{}, ErrSecrets
	}
	cfg := s.cfg.Current()
	out := ConfigOut{MainKey: text(cfg.Section("session").Get("mainKey")), SeamColor: text(cfg.Section("ui").Get("seamColor"))}
	if out.MainKey != "" {
		out.MainKey = cfg.MainKey() // config.md §6: it is always this one
	}
	out.Talk = s.talk(cfg)
	if out.Talk != nil && !in.Secrets {
		hide(&out.Talk.Active)
		for i := range out.Talk.Providers {
			hide(&out.Talk.Providers[i])
		}
	}
	return out, nil
}

func hide(p *Provider) {
	if p.APIKey != "" {
		p.APIKey = redacted
	}
}

// talk reads the section talk in the form with providers; the older form is that of ElevenLabs (config.md §3).
func (s *Service) talk(cfg *config.Config) *Talk {
	n := cfg.Section("talk")
	key := s.getenv(cfg, "ELEVENLABS_API_KEY")
	if n == nil && key == "" {
		return nil
	}
	t := &Talk{Provider: text(n.Get("provider"))}
	if b := n.Get("interruptOnSpeech"); b != nil && b.Kind == json5.Bool {
		t.InterruptOnSpeech = &b.Bool
	}
	if list := n.Get("providers"); list != nil && list.Kind == json5.Object {
		for _, m := range list.Members {
			t.Providers = append(t.Providers, provider(cfg, m.Key, "talk.providers."+m.Key, m.Value))
		}
	}
	older := provider(cfg, ElevenLabs, "talk", n)
	if len(t.Providers) == 0 && (older.VoiceID != "" || older.ModelID != "" || older.OutputFormat != "" || len(older.Aliases) > 0 || older.APIKey != "") {
		t.Providers = []Provider{older}
	}
	if t.Provider == "" && len(t.Providers) == 1 {
		t.Provider = t.Providers[0].ID
	}
	if key != "" && (t.Provider == "" || t.Provider == ElevenLabs) {
		t.Provider = ElevenLabs
		i := slices.IndexFunc(t.Providers, func(p Provider) bool { return p.ID == ElevenLabs })
		if i < 0 {
			i, t.Providers = len(t.Providers), append(t.Providers, Provider{ID: ElevenLabs})
		}
		if t.Providers[i].APIKey == "" {
			t.Providers[i].APIKey = key
		}
	}
	if i := slices.IndexFunc(t.Providers, func(p Provider) bool { return p.ID == t.Provider }); i >= 0 {
		t.Active = t.Providers[i]
		t.Active.Aliases = maps.Clone(t.Active.Aliases)
	}
	return t
}

func provider(cfg *config.Config, id, path string, n *json5.Node) Provider {
	p := Provider{
		ID: id, VoiceID: text(n.Get("voiceId")), ModelID: text(n.Get("modelId")), OutputFormat: text(n.Get("outputFormat")),
		APIKey: secret(cfg, path+".apiKey", n.Get("apiKey")),
	}
	if a := n.Get("voiceAliases"); a != nil && a.Kind == json5.Object {
		for _, m := range a.Members {
			if v := text(m.Value); v != "" {
				if p.Aliases == nil {
					p.Aliases = map[string]string{}
				}
				p.Aliases[m.Key] = v
			}
		}
	}
	return p
}

// secret reads a secret of the configuration: a text, or what a reference was resolved to.
func secret(cfg *config.Config, path string, n *json5.Node) string {
	if n != nil && n.Kind == json5.Object {
		for _, r := range cfg.SecretRefs {
			if r.Path == path && r.Value.IsSet() {
				return r.Value.Reveal()
			}
		}
		return ""
	}
	return text(n)
}

func text(n *json5.Node) string {
	if n == nil || n.Kind != json5.String {
		return ""
	}
	return strings.TrimSpace(n.Str)
}

func number(n *json5.Node) (float64, bool) {
	if n == nil || n.Kind != json5.Number {
		return 0, false
	}
	return n.Num, true
}
