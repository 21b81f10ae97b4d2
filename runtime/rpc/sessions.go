package rpc

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/errs"
	sessionsv1 "github.com/hanzoai/hanzod/gen/hanzo/sessions/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/sessions"
)

// Sessions is what the door needs of sessions.Service.
type Sessions interface {
	List(context.Context, identity.Caller, sessions.ListIn) (sessions.ListOut, error)
	Resolve(context.Context, identity.Caller, sessions.ResolveIn) (string, error)
	Preview(context.Context, identity.Caller, sessions.PreviewIn) (sessions.Previews, error)
	Messages(context.Context, identity.Caller, sessions.MessagesIn) ([]sessions.Raw, error)
	History(context.Context, identity.Caller, sessions.HistoryIn) (sessions.History, error)
	Patch(context.Context, identity.Caller, sessions.PatchIn) (sessions.PatchOut, error)
	Reset(context.Context, identity.Caller, sessions.ResetIn) (sessions.ResetOut, error)
	Delete(context.Context, identity.Caller, sessions.DeleteIn) (sessions.DeleteOut, error)
	Compact(context.Context, identity.Caller, sessions.CompactIn) (sessions.CompactOut, error)
	Inject(context.Context, identity.Caller, sessions.InjectIn) (string, error)
}

// errClear has the field "name".
var errClear = errs.Define(errs.Invalid, "rpc.clear", "clear names a field that PatchSessionRequest does not have, or has a value for")

type sessionsServer struct {
	sessionsv1.UnimplementedSessionServiceServer
	s *Server
}

func (x *sessionsServer) ListSessions(ctx context.Context, req *sessionsv1.ListSessionsRequest) (*sessionsv1.ListSessionsResponse, error) {
	return call(ctx, req, listSessionsFromProto, x.s.d.Sessions.List, listSessionsToProto)
}

func (x *sessionsServer) ResolveSession(ctx context.Context, req *sessionsv1.ResolveSessionRequest) (*sessionsv1.ResolveSessionResponse, error) {
	return call(ctx, req, resolveSessionFromProto, x.s.d.Sessions.Resolve, func(key string) (*sessionsv1.ResolveSessionResponse, error) {
		return &sessionsv1.ResolveSessionResponse{Key: cleanText(key)}, nil
	})
}

func (x *sessionsServer) PreviewSessions(ctx context.Context, req *sessionsv1.PreviewSessionsRequest) (*sessionsv1.PreviewSessionsResponse, error) {
	return call(ctx, req, previewSessionsFromProto, x.s.d.Sessions.Preview, previewsToProto)
}

func (x *sessionsServer) ListMessages(ctx context.Context, req *sessionsv1.ListMessagesRequest) (*sessionsv1.ListMessagesResponse, error) {
	return call(ctx, req, listMessagesFromProto, x.s.d.Sessions.Messages, func(out []sessions.Raw) (*sessionsv1.ListMessagesResponse, error) {
		return &sessionsv1.ListMessagesResponse{Messages: messagesToProto(out)}, nil
	})
}

func (x *sessionsServer) GetHistory(ctx context.Context, req *sessionsv1.GetHistoryRequest) (*sessionsv1.GetHistoryResponse, error) {
	return call(ctx, req, historyFromProto, x.s.d.Sessions.History, historyToProto)
}

func (x *sessionsServer) PatchSession(ctx context.Context, req *sessionsv1.PatchSessionRequest) (*sessionsv1.PatchSessionResponse, error) {
	return call(ctx, req, patchSessionFromProto, x.s.d.Sessions.Patch, patchSessionToProto)
}

func (x *sessionsServer) ResetSession(ctx context.Context, req *sessionsv1.ResetSessionRequest) (*sessionsv1.ResetSessionResponse, error) {
	return call(ctx, req, resetSessionFromProto, x.s.d.Sessions.Reset, resetSessionToProto)
}

func (x *sessionsServer) DeleteSession(ctx context.Context, req *sessionsv1.DeleteSessionRequest) (*sessionsv1.DeleteSessionResponse, error) {
	return call(ctx, req, deleteSessionFromProto, x.s.d.Sessions.Delete, deleteSessionToProto)
}

func (x *sessionsServer) CompactSession(ctx context.Context, req *sessionsv1.CompactSessionRequest) (*sessionsv1.CompactSessionResponse, error) {
	return call(ctx, req, compactSessionFromProto, x.s.d.Sessions.Compact, compactSessionToProto)
}

func (x *sessionsServer) InjectMessage(ctx context.Context, req *sessionsv1.InjectMessageRequest) (*sessionsv1.InjectMessageResponse, error) {
	return call(ctx, req, injectFromProto, x.s.d.Sessions.Inject, func(id string) (*sessionsv1.InjectMessageResponse, error) {
		return &sessionsv1.InjectMessageResponse{MessageId: cleanText(id)}, nil
	})
}

func listSessionsFromProto(r *sessionsv1.ListSessionsRequest) (sessions.ListIn, error) {
	return sessions.ListIn{
		Limit: int(r.GetLimit()), ActiveMinutes: int(r.GetActiveMinutes()), IncludeGlobal: r.GetIncludeGlobal(), IncludeUnknown: r.GetIncludeUnknown(),
		DerivedTitles: r.GetDerivedTitles(), LastMessages: r.GetLastMessages(), Label: r.GetLabel(), SpawnedBy: r.GetSpawnedBy(),
		AgentID: r.GetAgentId(), Text: r.GetSearch(),
	}, nil
}

func listSessionsToProto(out sessions.ListOut) (*sessionsv1.ListSessionsResponse, error) {
	r := &sessionsv1.ListSessionsResponse{At: timeToProto(out.At), DefaultModel: modelToProto(out.Default), ContextTokens: out.ContextTokens}
	for _, l := range out.Sessions {
		if l.Row == nil {
			continue
		}
		r.Sessions = append(r.Sessions, &sessionsv1.Session{
			Key: cleanText(l.Ref.Key), AgentId: cleanText(l.Ref.AgentID), Kind: cleanText(l.Kind), Name: cleanText(l.Name), Channel: cleanText(l.Channel),
			DerivedTitle: cleanText(l.DerivedTitle), LastMessage: cleanText(l.LastMessage), Model: modelToProto(l.Model), Delivery: deliveryToProto(l.Delivery),
			Entry: entryToProto(l.Entry),
		})
	}
	return r, nil
}

func modelToProto(m sessions.Model) *sessionsv1.Model {
	return &sessionsv1.Model{Provider: cleanText(m.Provider), Name: cleanText(m.Name)}
}

// rawToProto carries a value that the daemon keeps as it is; one that no protobuf value can hold is left out.
func rawToProto(r sessions.Raw) *structpb.Value {
	if len(r) == 0 {
		return nil
	}
	v, err := valueFromJSON(r)
	if err != nil {
		return nil
	}
	return v
}

func rawsToProto(in map[string]sessions.Raw) *structpb.Struct {
	if len(in) == 0 {
		return nil
	}
	out := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for _, name := range slices.Sorted(maps.Keys(in)) {
		if v := rawToProto(in[name]); v != nil {
			out.Fields[cleanText(name)] = v
		}
	}
	return out
}

func deliveryToProto(d *sessions.Delivery) *sessionsv1.Delivery {
	if d == nil {
		return nil
	}
	return &sessionsv1.Delivery{Channel: cleanText(d.Channel), To: cleanText(d.To), AccountId: cleanText(d.AccountID), ThreadId: rawToProto(d.ThreadID)}
}

func originToProto(o *sessions.Origin) *sessionsv1.Origin {
	if o == nil {
		return nil
	}
	return &sessionsv1.Origin{
		Label: cleanText(o.Label), Provider: cleanText(o.Provider), Surface: cleanText(o.Surface), ChatType: cleanText(o.ChatType),
		From: cleanText(o.From), To: cleanText(o.To), AccountId: cleanText(o.AccountID), ThreadId: rawToProto(o.ThreadID), Other: rawsToProto(o.Rest),
	}
}

func entryToProto(e sessions.Entry) *sessionsv1.Entry {
	return &sessionsv1.Entry{
		SessionId: cleanText(e.SessionID), UpdatedAt: timeToProto(e.UpdatedAt), SessionFile: cleanText(e.SessionFile), SpawnedBy: cleanText(e.SpawnedBy),
		SpawnDepth: e.SpawnDepth, SystemSent: e.SystemSent, AbortedLastRun: e.AbortedLastRun, ChatType: cleanText(e.ChatType),
		ThinkingLevel: cleanText(e.ThinkingLevel), VerboseLevel: cleanText(e.VerboseLevel), ReasoningLevel: cleanText(e.ReasoningLevel),
		ElevatedLevel: cleanText(e.ElevatedLevel), ExecHost: cleanText(e.ExecHost), ExecSecurity: cleanText(e.ExecSecurity), ExecAsk: cleanText(e.ExecAsk),
		ExecNode: cleanText(e.ExecNode), ResponseUsage: cleanText(e.ResponseUsage), GroupActivation: cleanText(e.GroupActivation),
		SendPolicy: cleanText(e.SendPolicy), ProviderOverride: cleanText(e.ProviderOverride), ModelOverride: cleanText(e.ModelOverride),
		ModelProvider: cleanText(e.ModelProvider), Model: cleanText(e.Model), AuthProfileOverride: cleanText(e.AuthProfileOverride),
		AuthProfileOverrideSource: cleanText(e.AuthProfileOverrideSource), InputTokens: e.InputTokens, OutputTokens: e.OutputTokens,
		TotalTokens: e.TotalTokens, CacheRead: e.CacheRead, CacheWrite: e.CacheWrite, TotalTokensFresh: e.TotalTokensFresh,
		ContextTokens: e.ContextTokens, CompactionCount: e.CompactionCount, Label: cleanText(e.Label), DisplayName: cleanText(e.DisplayName),
		Channel: cleanText(e.Channel), GroupId: cleanText(e.GroupID), Subject: cleanText(e.Subject), GroupChannel: cleanText(e.GroupChannel),
		Space: cleanText(e.Space), Origin: originToProto(e.Origin), DeliveryContext: deliveryToProto(e.DeliveryContext),
		LastChannel: cleanText(e.LastChannel), LastTo: cleanText(e.LastTo), LastAccountId: cleanText(e.LastAccountID),
		LastThreadId: rawToProto(e.LastThreadID), Other: rawsToProto(e.Rest),
	}
}

func resolveSessionFromProto(r *sessionsv1.ResolveSessionRequest) (sessions.ResolveIn, error) {
	return sessions.ResolveIn{
		Key: r.GetKey(), SessionID: r.GetSessionId(), Label: r.GetLabel(), AgentID: r.GetAgentId(), SpawnedBy: r.GetSpawnedBy(),
		IncludeGlobal: r.GetIncludeGlobal(), IncludeUnknown: r.GetIncludeUnknown(),
	}, nil
}

func previewSessionsFromProto(r *sessionsv1.PreviewSessionsRequest) (sessions.PreviewIn, error) {
	return sessions.PreviewIn{Keys: r.GetKeys(), Limit: int(r.GetLimit()), MaxChars: int(r.GetMaxChars())}, nil
}

func previewsToProto(out sessions.Previews) (*sessionsv1.PreviewSessionsResponse, error) {
	r := &sessionsv1.PreviewSessionsResponse{At: timeToProto(out.At)}
	for _, p := range out.Previews {
		x := &sessionsv1.Preview{Key: cleanText(p.Key), Status: cleanText(p.Status)}
		for _, i := range p.Items {
			x.Items = append(x.Items, &sessionsv1.PreviewItem{Role: cleanText(i.Role), Text: cleanText(i.Text)})
		}
		r.Previews = append(r.Previews, x)
	}
	return r, nil
}

func listMessagesFromProto(r *sessionsv1.ListMessagesRequest) (sessions.MessagesIn, error) {
	return sessions.MessagesIn{Key: r.GetKey(), Limit: int(r.GetLimit())}, nil
}

// messagesToProto carries messages as objects. One that no protobuf value can hold is named, so that it does not keep
// the others from being read.
func messagesToProto(in []sessions.Raw) []*structpb.Struct {
	out := make([]*structpb.Struct, 0, len(in))
	for _, m := range in {
		s, err := structFromJSON(m)
		if err != nil || s == nil {
			s = &structpb.Struct{Fields: map[string]*structpb.Value{
				"role": structpb.NewStringValue("system"), "content": structpb.NewStringValue(fmt.Sprintf("[message omitted: %v]", err)),
			}}
		}
		out = append(out, s)
	}
	return out
}

func historyFromProto(r *sessionsv1.GetHistoryRequest) (sessions.HistoryIn, error) {
	return sessions.HistoryIn{Key: r.GetKey(), Limit: int(r.GetLimit())}, nil
}

func historyToProto(h sessions.History) (*sessionsv1.GetHistoryResponse, error) {
	return &sessionsv1.GetHistoryResponse{
		Key: cleanText(h.Key), SessionId: cleanText(h.SessionID), Messages: messagesToProto(h.Messages),
		ThinkingLevel: cleanText(h.ThinkingLevel), VerboseLevel: cleanText(h.VerboseLevel),
	}, nil
}

func patchSessionFromProto(r *sessionsv1.PatchSessionRequest) (sessions.PatchIn, error) {
	in := sessions.PatchIn{Key: r.GetKey()}
	texts := map[string]*sessions.Set[string]{
		"label": &in.Label, "thinking_level": &in.ThinkingLevel, "verbose_level": &in.VerboseLevel, "reasoning_level": &in.ReasoningLevel,
		"response_usage": &in.ResponseUsage, "elevated_level": &in.ElevatedLevel, "exec_host": &in.ExecHost, "exec_security": &in.ExecSecurity,
		"exec_ask": &in.ExecAsk, "exec_node": &in.ExecNode, "model": &in.Model, "spawned_by": &in.SpawnedBy, "send_policy": &in.SendPolicy,
		"group_activation": &in.GroupActivation,
	}
	for name, v := range map[string]*string{
		"label": r.Label, "thinking_level": r.ThinkingLevel, "verbose_level": r.VerboseLevel, "reasoning_level": r.ReasoningLevel,
		"response_usage": r.ResponseUsage, "elevated_level": r.ElevatedLevel, "exec_host": r.ExecHost, "exec_security": r.ExecSecurity,
		"exec_ask": r.ExecAsk, "exec_node": r.ExecNode, "model": r.Model, "spawned_by": r.SpawnedBy, "send_policy": r.SendPolicy,
		"group_activation": r.GroupActivation,
	} {
		if v != nil {
			*texts[name] = sessions.SetTo(*v)
		}
	}
	if r.SpawnDepth != nil {
		in.SpawnDepth = sessions.SetTo(r.GetSpawnDepth())
	}
	for _, name := range r.GetClear() {
		switch to := texts[name]; {
		case name == "spawn_depth" && !in.SpawnDepth.Given:
			in.SpawnDepth = sessions.Clear[int64]()
		case to == nil || to.Given && to.Value != nil:
			return in, errClear.With("name", name).WithText(fmt.Sprintf("clear: %.64q is no field that can be cleared, or has a value in the same request", name))
		default:
			*to = sessions.Clear[string]()
		}
	}
	return in, nil
}

func patchSessionToProto(out sessions.PatchOut) (*sessionsv1.PatchSessionResponse, error) {
	return &sessionsv1.PatchSessionResponse{
		Path: cleanText(out.Path), Key: cleanText(out.Ref.Key), AgentId: cleanText(out.Ref.AgentID), Entry: entryToProto(out.Entry), Model: modelToProto(out.Model),
	}, nil
}

func resetSessionFromProto(r *sessionsv1.ResetSessionRequest) (sessions.ResetIn, error) {
	return sessions.ResetIn{Key: r.GetKey(), Reason: r.GetReason()}, nil
}

func resetSessionToProto(out sessions.ResetOut) (*sessionsv1.ResetSessionResponse, error) {
	return &sessionsv1.ResetSessionResponse{Key: cleanText(out.Ref.Key), AgentId: cleanText(out.Ref.AgentID), Entry: entryToProto(out.Entry)}, nil
}

func deleteSessionFromProto(r *sessionsv1.DeleteSessionRequest) (sessions.DeleteIn, error) {
	return sessions.DeleteIn{Key: r.GetKey(), KeepTranscript: r.GetKeepTranscript()}, nil
}

func deleteSessionToProto(out sessions.DeleteOut) (*sessionsv1.DeleteSessionResponse, error) {
	return &sessionsv1.DeleteSessionResponse{
		Key: cleanText(out.Ref.Key), AgentId: cleanText(out.Ref.AgentID), Deleted: out.Deleted, Archived: cleanTexts(out.Archived),
	}, nil
}

func compactSessionFromProto(r *sessionsv1.CompactSessionRequest) (sessions.CompactIn, error) {
	return sessions.CompactIn{Key: r.GetKey(), MaxLines: int(r.GetMaxLines())}, nil
}

func compactSessionToProto(out sessions.CompactOut) (*sessionsv1.CompactSessionResponse, error) {
	return &sessionsv1.CompactSessionResponse{
		Key: cleanText(out.Ref.Key), AgentId: cleanText(out.Ref.AgentID), Compacted: out.Compacted, Reason: cleanText(out.Reason),
		Archived: cleanText(out.Archived), Kept: clampInt32(out.Kept),
	}, nil
}

func injectFromProto(r *sessionsv1.InjectMessageRequest) (sessions.InjectIn, error) {
	return sessions.InjectIn{Key: r.GetKey(), Text: r.GetText(), Label: r.GetLabel()}, nil
}
