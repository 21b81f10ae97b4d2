package rpc

import (
	"context"

	"google.golang.org/protobuf/types/known/structpb"

	talkv1 "github.com/hanzoai/hanzod/gen/hanzo/talk/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/talk"
)

// Talk is what the door needs of talk.Service.
type Talk interface {
	Configuration(context.Context, identity.Caller, talk.ConfigIn) (talk.ConfigOut, error)
	SetMode(context.Context, identity.Caller, talk.ModeIn) (talk.ModeOut, error)
	Status(context.Context, identity.Caller) (talk.StatusOut, error)
	Providers(context.Context, identity.Caller) (talk.ProvidersOut, error)
	Enable(context.Context, identity.Caller) (talk.EnabledOut, error)
	Disable(context.Context, identity.Caller) (talk.EnabledOut, error)
	SetProvider(context.Context, identity.Caller, talk.SetProviderIn) (talk.SetProviderIn, error)
	Convert(context.Context, identity.Caller, talk.ConvertIn) (talk.ConvertOut, error)
}

type talkServer struct {
	talkv1.UnimplementedTalkServiceServer
	s *Server
}

func (t *talkServer) GetTalkConfig(ctx context.Context, req *talkv1.GetTalkConfigRequest) (*talkv1.GetTalkConfigResponse, error) {
	return call(ctx, req, talkConfigFromProto, t.s.d.Talk.Configuration, talkConfigToProto)
}

func (t *talkServer) SetTalkMode(ctx context.Context, req *talkv1.SetTalkModeRequest) (*talkv1.SetTalkModeResponse, error) {
	return call(ctx, req, talkModeFromProto, t.s.d.Talk.SetMode, talkModeToProto)
}

func (t *talkServer) GetSpeechStatus(ctx context.Context, req *talkv1.GetSpeechStatusRequest) (*talkv1.GetSpeechStatusResponse, error) {
	return call(ctx, req, nothing, without(t.s.d.Talk.Status), speechStatusToProto)
}

func (t *talkServer) ListSpeechProviders(ctx context.Context, req *talkv1.ListSpeechProvidersRequest) (*talkv1.ListSpeechProvidersResponse, error) {
	return call(ctx, req, nothing, without(t.s.d.Talk.Providers), speechProvidersToProto)
}

func (t *talkServer) EnableSpeech(ctx context.Context, req *talkv1.EnableSpeechRequest) (*talkv1.EnableSpeechResponse, error) {
	return call(ctx, req, nothing, without(t.s.d.Talk.Enable), func(talk.EnabledOut) (*talkv1.EnableSpeechResponse, error) {
		return &talkv1.EnableSpeechResponse{}, nil
	})
}

func (t *talkServer) DisableSpeech(ctx context.Context, req *talkv1.DisableSpeechRequest) (*talkv1.DisableSpeechResponse, error) {
	return call(ctx, req, nothing, without(t.s.d.Talk.Disable), func(talk.EnabledOut) (*talkv1.DisableSpeechResponse, error) {
		return &talkv1.DisableSpeechResponse{}, nil
	})
}

func (t *talkServer) SetSpeechProvider(ctx context.Context, req *talkv1.SetSpeechProviderRequest) (*talkv1.SetSpeechProviderResponse, error) {
	return call(ctx, req, speechProviderFromProto, t.s.d.Talk.SetProvider, speechProviderToProto)
}

func (t *talkServer) ConvertSpeech(ctx context.Context, req *talkv1.ConvertSpeechRequest) (*talkv1.ConvertSpeechResponse, error) {
	return call(ctx, req, convertFromProto, t.s.d.Talk.Convert, convertToProto)
}

func talkConfigFromProto(r *talkv1.GetTalkConfigRequest) (talk.ConfigIn, error) {
	return talk.ConfigIn{Secrets: r.GetIncludeSecrets()}, nil
}

// talkConfigToProto writes the sections in the words of the configuration file.
func talkConfigToProto(out talk.ConfigOut) (*talkv1.GetTalkConfigResponse, error) {
	root := map[string]any{}
	if t := out.Talk; t != nil {
		section := providerValues(t.Active)
		providers := map[string]any{}
		for _, p := range t.Providers {
			providers[cleanText(p.ID)] = providerValues(p)
		}
		if len(providers) > 0 {
			section["providers"] = providers
		}
		if t.Provider != "" {
			section["provider"] = cleanText(t.Provider)
		}
		if t.InterruptOnSpeech != nil {
			section["interruptOnSpeech"] = *t.InterruptOnSpeech
		}
		root["talk"] = section
	}
	if out.MainKey != "" {
		root["session"] = map[string]any{"mainKey": cleanText(out.MainKey)}
	}
	if out.SeamColor != "" {
		root["ui"] = map[string]any{"seamColor": cleanText(out.SeamColor)}
	}
	s, err := structpb.NewStruct(root)
	return &talkv1.GetTalkConfigResponse{Config: s}, err
}

func providerValues(p talk.Provider) map[string]any {
	out := map[string]any{}
	for key, v := range map[string]string{"voiceId": p.VoiceID, "modelId": p.ModelID, "outputFormat": p.OutputFormat, "apiKey": p.APIKey} {
		if v != "" {
			out[key] = cleanText(v)
		}
	}
	if len(p.Aliases) > 0 {
		aliases := map[string]any{}
		for k, v := range p.Aliases {
			aliases[cleanText(k)] = cleanText(v)
		}
		out["voiceAliases"] = aliases
	}
	return out
}

func talkModeFromProto(r *talkv1.SetTalkModeRequest) (talk.ModeIn, error) {
	if r.Enabled == nil {
		return talk.ModeIn{}, errEnabled
	}
	return talk.ModeIn{Enabled: r.GetEnabled(), Phase: absentWhenEmpty(r.GetPhase())}, nil
}

func talkModeToProto(out talk.ModeOut) (*talkv1.SetTalkModeResponse, error) {
	r := &talkv1.SetTalkModeResponse{Enabled: out.Enabled, At: timeToProto(out.At)}
	if out.Phase != nil {
		r.Phase = cleanText(*out.Phase)
	}
	return r, nil
}

func speechStatusToProto(s talk.StatusOut) (*talkv1.GetSpeechStatusResponse, error) {
	return &talkv1.GetSpeechStatusResponse{
		Enabled: s.Enabled, Auto: s.Auto, Provider: s.Provider, FallbackProviders: s.Fallbacks, PrefsPath: cleanText(s.PrefsPath),
		HasOpenaiKey: s.OpenAIKey, HasElevenlabsKey: s.ElevenLabsKey, EdgeEnabled: s.Edge,
	}, nil
}

func speechProvidersToProto(out talk.ProvidersOut) (*talkv1.ListSpeechProvidersResponse, error) {
	r := &talkv1.ListSpeechProvidersResponse{Active: out.Active}
	for _, p := range out.Speakers {
		r.Providers = append(r.Providers, &talkv1.SpeechProvider{Id: p.ID, Name: p.Name, Configured: p.Configured, Models: p.Models, Voices: p.Voices})
	}
	return r, nil
}

func speechProviderFromProto(r *talkv1.SetSpeechProviderRequest) (talk.SetProviderIn, error) {
	return talk.SetProviderIn{Provider: r.GetProvider()}, nil
}

func speechProviderToProto(out talk.SetProviderIn) (*talkv1.SetSpeechProviderResponse, error) {
	return &talkv1.SetSpeechProviderResponse{Provider: out.Provider}, nil
}

func convertFromProto(r *talkv1.ConvertSpeechRequest) (talk.ConvertIn, error) {
	return talk.ConvertIn{Text: r.GetText(), Channel: r.GetChannel()}, nil
}

func convertToProto(out talk.ConvertOut) (*talkv1.ConvertSpeechResponse, error) {
	return &talkv1.ConvertSpeechResponse{AudioPath: cleanText(out.Path), Provider: out.Provider, OutputFormat: out.Format, VoiceCompatible: out.Voice}, nil
}
