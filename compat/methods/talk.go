package methods

import (
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/talk"
)

type talkConfigParams struct {
	IncludeSecrets wire.Opt[bool] `json:"includeSecrets"`
}

// TalkConfigFromLegacy reads talk.config.
func TalkConfigFromLegacy(p wire.Value) (talk.ConfigIn, error) {
	var in talkConfigParams
	err := wire.Decode(p, &in)
	return talk.ConfigIn{Secrets: in.IncludeSecrets.Or(false)}, err
}

type talkProvider struct {
	VoiceID      wire.Opt[string]  `json:"voiceId,omitzero"`
	VoiceAliases map[string]string `json:"voiceAliases,omitempty"`
	ModelID      wire.Opt[string]  `json:"modelId,omitzero"`
	OutputFormat wire.Opt[string]  `json:"outputFormat,omitzero"`
	APIKey       wire.Opt[string]  `json:"apiKey,omitzero"`
}

func talkProviderToLegacy(p talk.Provider) talkProvider {
	return talkProvider{
		VoiceID: wire.NonZero(p.VoiceID), VoiceAliases: p.Aliases, ModelID: wire.NonZero(p.ModelID), OutputFormat: wire.NonZero(p.OutputFormat),
		APIKey: wire.NonZero(p.APIKey),
	}
}

type talkSection struct {
	Provider          wire.Opt[string]        `json:"provider,omitzero"`
	Providers         map[string]talkProvider `json:"providers,omitempty"`
	VoiceID           wire.Opt[string]        `json:"voiceId,omitzero"`
	VoiceAliases      map[string]string       `json:"voiceAliases,omitempty"`
	ModelID           wire.Opt[string]        `json:"modelId,omitzero"`
	OutputFormat      wire.Opt[string]        `json:"outputFormat,omitzero"`
	APIKey            wire.Opt[string]        `json:"apiKey,omitzero"`
	InterruptOnSpeech wire.Opt[bool]          `json:"interruptOnSpeech,omitzero"`
}

type talkSession struct {
	MainKey string `json:"mainKey"`
}

type talkUI struct {
	SeamColor string `json:"seamColor"`
}

type talkConfig struct {
	Talk    wire.Opt[talkSection] `json:"talk,omitzero"`
	Session wire.Opt[talkSession] `json:"session,omitzero"`
	UI      wire.Opt[talkUI]      `json:"ui,omitzero"`
}

type talkConfigResult struct {
	Config talkConfig `json:"config"`
}

// TalkConfigToLegacy writes the result of talk.config.
func TalkConfigToLegacy(out talk.ConfigOut) any {
	var r talkConfigResult
	if t := out.Talk; t != nil {
		active := talkProviderToLegacy(t.Active)
		s := talkSection{
			Provider: wire.NonZero(t.Provider), VoiceID: active.VoiceID, VoiceAliases: active.VoiceAliases, ModelID: active.ModelID,
			OutputFormat: active.OutputFormat, APIKey: active.APIKey, InterruptOnSpeech: absent(t.InterruptOnSpeech),
		}
		for _, p := range t.Providers {
			if s.Providers == nil {
				s.Providers = map[string]talkProvider{}
			}
			s.Providers[p.ID] = talkProviderToLegacy(p)
		}
		r.Config.Talk = wire.Some(s)
	}
	if out.MainKey != "" {
		r.Config.Session = wire.Some(talkSession{out.MainKey})
	}
	if out.SeamColor != "" {
		r.Config.UI = wire.Some(talkUI{out.SeamColor})
	}
	return r
}

type talkModeParams struct {
	Enabled bool             `json:"enabled"`
	Phase   wire.Opt[string] `json:"phase"`
}

// TalkModeFromLegacy reads talk.mode.
func TalkModeFromLegacy(p wire.Value) (talk.ModeIn, error) {
	var in talkModeParams
	err := wire.Decode(p, &in)
	return talk.ModeIn{Enabled: in.Enabled, Phase: ptr(in.Phase)}, err
}

type talkMode struct {
	Enabled bool             `json:"enabled"`
	Phase   wire.Opt[string] `json:"phase"`
	TS      int64            `json:"ts"`
}

// TalkModeToLegacy writes the result of talk.mode and the payload of its event.
func TalkModeToLegacy(out talk.ModeOut) any {
	return talkMode{out.Enabled, null(out.Phase), ms(out.At)}
}

type ttsStatus struct {
	Enabled           bool              `json:"enabled"`
	Auto              string            `json:"auto"`
	Provider          string            `json:"provider"`
	FallbackProvider  wire.Opt[string]  `json:"fallbackProvider"`
	FallbackProviders wire.List[string] `json:"fallbackProviders"`
	PrefsPath         string            `json:"prefsPath"`
	HasOpenAIKey      bool              `json:"hasOpenAIKey"`
	HasElevenLabsKey  bool              `json:"hasElevenLabsKey"`
	EdgeEnabled       bool              `json:"edgeEnabled"`
}

// TTSStatusToLegacy writes the result of tts.status.
func TTSStatusToLegacy(s talk.StatusOut) any {
	out := ttsStatus{
		Enabled: s.Enabled, Auto: s.Auto, Provider: s.Provider, FallbackProvider: wire.NullOf[string](), FallbackProviders: s.Fallbacks,
		PrefsPath: s.PrefsPath, HasOpenAIKey: s.OpenAIKey, HasElevenLabsKey: s.ElevenLabsKey, EdgeEnabled: s.Edge,
	}
	if len(s.Fallbacks) > 0 {
		out.FallbackProvider = wire.Some(s.Fallbacks[0])
	}
	return out
}

type ttsProvider struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Configured bool              `json:"configured"`
	Models     wire.List[string] `json:"models"`
	Voices     wire.List[string] `json:"voices"`
}

type ttsProviders struct {
	Providers wire.List[ttsProvider] `json:"providers"`
	Active    string                 `json:"active"`
}

// TTSProvidersToLegacy writes the result of tts.providers.
func TTSProvidersToLegacy(out talk.ProvidersOut) any {
	r := ttsProviders{Active: out.Active}
	for _, p := range out.Speakers {
		r.Providers = append(r.Providers, ttsProvider{p.ID, p.Name, p.Configured, p.Models, p.Voices})
	}
	return r
}

type ttsEnabled struct {
	Enabled bool `json:"enabled"`
}

// TTSEnabledToLegacy writes the result of tts.enable and tts.disable.
func TTSEnabledToLegacy(out talk.EnabledOut) any { return ttsEnabled(out) }

// loose reads a text of a method without a schema; what is none is "".
func loose(p wire.Value, key string) string {
	if v, ok := p.Get(key); ok && v.Kind() == wire.String {
		return v.Str()
	}
	return ""
}

// TTSSetProviderFromLegacy reads tts.setProvider, which has no schema.
func TTSSetProviderFromLegacy(p wire.Value) (talk.SetProviderIn, error) {
	return talk.SetProviderIn{Provider: loose(p, "provider")}, nil
}

type ttsProviderSet struct {
	Provider string `json:"provider"`
}

// TTSSetProviderToLegacy writes the result of tts.setProvider.
func TTSSetProviderToLegacy(out talk.SetProviderIn) any { return ttsProviderSet(out) }

// TTSConvertFromLegacy reads tts.convert, which has no schema.
func TTSConvertFromLegacy(p wire.Value) (talk.ConvertIn, error) {
	return talk.ConvertIn{Text: loose(p, "text"), Channel: loose(p, "channel")}, nil
}

type ttsConverted struct {
	AudioPath       string `json:"audioPath"`
	Provider        string `json:"provider"`
	OutputFormat    string `json:"outputFormat"`
	VoiceCompatible bool   `json:"voiceCompatible"`
}

// TTSConvertToLegacy writes the result of tts.convert.
func TTSConvertToLegacy(out talk.ConvertOut) any {
	return ttsConverted{out.Path, out.Provider, out.Format, out.Voice}
}
