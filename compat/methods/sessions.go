package methods

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/sessions"
)

type sessionsListParams struct {
	Limit                wire.Opt[wire.Int] `json:"limit"`
	ActiveMinutes        wire.Opt[wire.Int] `json:"activeMinutes"`
	IncludeGlobal        wire.Opt[bool]     `json:"includeGlobal"`
	IncludeUnknown       wire.Opt[bool]     `json:"includeUnknown"`
	IncludeDerivedTitles wire.Opt[bool]     `json:"includeDerivedTitles"`
	IncludeLastMessage   wire.Opt[bool]     `json:"includeLastMessage"`
	Label                wire.Opt[string]   `json:"label"`
	SpawnedBy            wire.Opt[string]   `json:"spawnedBy"`
	AgentID              wire.Opt[string]   `json:"agentId"`
	Search               wire.Opt[string]   `json:"search"`
}

// count is a number of things: what does not fit counts as the most.
func count(o wire.Opt[wire.Int]) int { return int(min(o.Or(0), math.MaxInt32)) }

// SessionsListFromLegacy reads sessions.list.
func SessionsListFromLegacy(p wire.Value) (sessions.ListIn, error) {
	var in sessionsListParams
	if err := wire.Decode(p, &in); err != nil {
		return sessions.ListIn{}, err
	}
	return sessions.ListIn{
		Limit: count(in.Limit), ActiveMinutes: count(in.ActiveMinutes), IncludeGlobal: in.IncludeGlobal.Or(false),
		IncludeUnknown: in.IncludeUnknown.Or(false), DerivedTitles: in.IncludeDerivedTitles.Or(false), LastMessages: in.IncludeLastMessage.Or(false),
		Label: in.Label.Or(""), SpawnedBy: in.SpawnedBy.Or(""), AgentID: in.AgentID.Or(""), Text: in.Search.Or(""),
	}, nil
}

type sessionOrigin struct {
	Label     wire.Opt[string] `json:"label,omitzero"`
	Provider  wire.Opt[string] `json:"provider,omitzero"`
	Surface   wire.Opt[string] `json:"surface,omitzero"`
	ChatType  wire.Opt[string] `json:"chatType,omitzero"`
	From      wire.Opt[string] `json:"from,omitzero"`
	To        wire.Opt[string] `json:"to,omitzero"`
	AccountID wire.Opt[string] `json:"accountId,omitzero"`
	ThreadID  wire.Raw         `json:"threadId,omitzero"`
}

func originToLegacy(o *sessions.Origin) wire.Raw {
	if o == nil {
		return nil
	}
	return merged(wire.MustMarshal(sessionOrigin{
		wire.NonZero(o.Label), wire.NonZero(o.Provider), wire.NonZero(o.Surface), wire.NonZero(o.ChatType), wire.NonZero(o.From),
		wire.NonZero(o.To), wire.NonZero(o.AccountID), wire.Raw(o.ThreadID),
	}), o.Rest)
}

// merged adds fields to a JSON object.
func merged(object []byte, rest map[string]sessions.Raw) wire.Raw {
	if len(rest) == 0 {
		return object
	}
	out := map[string]wire.Raw{}
	for name, v := range wire.MustParse(string(object)).Members() {
		out[name] = wire.Raw(v.Raw())
	}
	for name, v := range rest {
		if _, known := out[name]; !known {
			out[name] = wire.Raw(v)
		}
	}
	return wire.MustMarshal(out)
}

type sessionDelivery struct {
	Channel   wire.Opt[string] `json:"channel,omitzero"`
	To        wire.Opt[string] `json:"to,omitzero"`
	AccountID wire.Opt[string] `json:"accountId,omitzero"`
	ThreadID  wire.Raw         `json:"threadId,omitzero"`
}

func deliveryToLegacy(d *sessions.Delivery) wire.Opt[sessionDelivery] {
	if d == nil {
		return wire.Opt[sessionDelivery]{}
	}
	return wire.Some(sessionDelivery{wire.NonZero(d.Channel), wire.NonZero(d.To), wire.NonZero(d.AccountID), wire.Raw(d.ThreadID)})
}

func boolOf(b *bool) wire.Opt[bool] {
	if b == nil {
		return wire.Opt[bool]{}
	}
	return wire.Some(*b)
}

func intOf(n *int64) wire.Opt[int64] {
	if n == nil {
		return wire.Opt[int64]{}
	}
	return wire.Some(*n)
}

// rowBytes is the usual size of a row.
const rowBytes = 768

// appendRow writes a row of sessions.list (sessions-chat.md §3). Lists are long and asked for often, so that rows
// are written without the detour over a struct.
func appendRow(b []byte, s *sessions.Listed) []byte {
	e := &s.Row.Entry
	b = append(b, `{"key":`...)
	b = wire.AppendString(b, s.Row.Ref.Key)
	text := func(name, v string) {
		if v != "" {
			b = append(append(append(b, `,"`...), name...), `":`...)
			b = wire.AppendString(b, v)
		}
	}
	raw := func(name string, v []byte) {
		if len(v) > 0 {
			b = append(append(append(append(b, `,"`...), name...), `":`...), v...)
		}
	}
	number := func(name string, v *int64) {
		if v != nil {
			b = append(append(append(b, `,"`...), name...), `":`...)
			b = strconv.AppendInt(b, *v, 10)
		}
	}
	flag := func(name string, v *bool) {
		if v != nil {
			b = append(append(append(b, `,"`...), name...), `":`...)
			b = strconv.AppendBool(b, *v)
		}
	}
	// object ends one whose fields begin at a place: the first has no comma before it.
	object := func(at int) {
		if len(b) > at {
			b = slices.Delete(b, at, at+1)
		}
		b = append(b, '}')
	}
	text("kind", s.Kind)
	text("label", e.Label)
	text("displayName", s.Name)
	text("derivedTitle", s.DerivedTitle)
	text("lastMessagePreview", s.LastMessage)
	text("channel", s.Channel)
	text("subject", e.Subject)
	text("groupChannel", e.GroupChannel)
	text("space", e.Space)
	text("chatType", e.ChatType)
	if o := e.Origin; o != nil && len(o.Rest) > 0 {
		raw("origin", originToLegacy(o))
	} else if o != nil {
		b = append(b, `,"origin":{`...)
		at := len(b)
		text("label", o.Label)
		text("provider", o.Provider)
		text("surface", o.Surface)
		text("chatType", o.ChatType)
		text("from", o.From)
		text("to", o.To)
		text("accountId", o.AccountID)
		raw("threadId", o.ThreadID)
		object(at)
	}
	if e.UpdatedAt.IsZero() {
		raw("updatedAt", []byte("null"))
	} else {
		at := ms(e.UpdatedAt)
		number("updatedAt", &at)
	}
	text("sessionId", e.SessionID)
	flag("systemSent", e.SystemSent)
	flag("abortedLastRun", e.AbortedLastRun)
	text("thinkingLevel", e.ThinkingLevel)
	text("verboseLevel", e.VerboseLevel)
	text("reasoningLevel", e.ReasoningLevel)
	text("elevatedLevel", e.ElevatedLevel)
	text("sendPolicy", e.SendPolicy)
	number("inputTokens", e.InputTokens)
	number("outputTokens", e.OutputTokens)
	fresh := e.TotalTokensFresh != nil && *e.TotalTokensFresh
	if fresh {
		number("totalTokens", e.TotalTokens)
	}
	flag("totalTokensFresh", &fresh)
	text("responseUsage", e.ResponseUsage)
	text("modelProvider", s.Model.Provider)
	b = append(b, `,"model":`...)
	b = wire.AppendString(b, s.Model.Name)
	number("contextTokens", e.ContextTokens)
	channel, to, account := e.LastChannel, e.LastTo, e.LastAccountID
	if d := s.Delivery; d != nil {
		b = append(b, `,"deliveryContext":{`...)
		at := len(b)
		text("channel", d.Channel)
		text("to", d.To)
		text("accountId", d.AccountID)
		raw("threadId", d.ThreadID)
		object(at)
		channel, to, account = cmp.Or(d.Channel, channel), cmp.Or(d.To, to), cmp.Or(d.AccountID, account)
	}
	text("lastChannel", channel)
	text("lastTo", to)
	text("lastAccountId", account)
	return append(b, '}')
}

type sessionsDefaults struct {
	ModelProvider wire.Opt[string] `json:"modelProvider"`
	Model         wire.Opt[string] `json:"model"`
	ContextTokens wire.Opt[int64]  `json:"contextTokens"`
}

type sessionsListResult struct {
	TS       int64            `json:"ts"`
	Path     string           `json:"path"`
	Count    int              `json:"count"`
	Defaults sessionsDefaults `json:"defaults"`
	Sessions wire.Raw         `json:"sessions"`
}

// nullable writes a value, or null for the zero one.
func nullable[T comparable](v T) wire.Opt[T] {
	var zero T
	if v == zero {
		return wire.NullOf[T]()
	}
	return wire.Some(v)
}

// SessionsListToLegacy writes the result of sessions.list.
func SessionsListToLegacy(out sessions.ListOut) any {
	rows := append(make([]byte, 0, 2+rowBytes*len(out.Sessions)), '[')
	for i := range out.Sessions {
		if i > 0 {
			rows = append(rows, ',')
		}
		rows = appendRow(rows, &out.Sessions[i])
	}
	return sessionsListResult{
		TS: ms(out.At), Path: out.Path, Count: len(out.Sessions), Sessions: append(rows, ']'),
		Defaults: sessionsDefaults{nullable(out.Default.Provider), nullable(out.Default.Name), nullable(out.ContextTokens)},
	}
}

type sessionsResolveParams struct {
	Key            wire.Opt[string] `json:"key"`
	SessionID      wire.Opt[string] `json:"sessionId"`
	Label          wire.Opt[string] `json:"label"`
	AgentID        wire.Opt[string] `json:"agentId"`
	SpawnedBy      wire.Opt[string] `json:"spawnedBy"`
	IncludeGlobal  wire.Opt[bool]   `json:"includeGlobal"`
	IncludeUnknown wire.Opt[bool]   `json:"includeUnknown"`
}

// SessionsResolveFromLegacy reads sessions.resolve.
func SessionsResolveFromLegacy(p wire.Value) (sessions.ResolveIn, error) {
	var in sessionsResolveParams
	if err := wire.Decode(p, &in); err != nil {
		return sessions.ResolveIn{}, err
	}
	return sessions.ResolveIn{
		Key: in.Key.Or(""), SessionID: in.SessionID.Or(""), Label: in.Label.Or(""), AgentID: in.AgentID.Or(""), SpawnedBy: in.SpawnedBy.Or(""),
		IncludeGlobal: in.IncludeGlobal.Or(false), IncludeUnknown: in.IncludeUnknown.Or(false),
	}, nil
}

type sessionKeyResult struct {
	OK  bool   `json:"ok"`
	Key string `json:"key"`
}

// SessionsResolveToLegacy writes the result of sessions.resolve.
func SessionsResolveToLegacy(key string) any { return sessionKeyResult{true, key} }

type sessionsPatchParams struct {
	Key             string             `json:"key"`
	Label           wire.Opt[string]   `json:"label"`
	ThinkingLevel   wire.Opt[string]   `json:"thinkingLevel"`
	VerboseLevel    wire.Opt[string]   `json:"verboseLevel"`
	ReasoningLevel  wire.Opt[string]   `json:"reasoningLevel"`
	ResponseUsage   wire.Opt[string]   `json:"responseUsage"`
	ElevatedLevel   wire.Opt[string]   `json:"elevatedLevel"`
	ExecHost        wire.Opt[string]   `json:"execHost"`
	ExecSecurity    wire.Opt[string]   `json:"execSecurity"`
	ExecAsk         wire.Opt[string]   `json:"execAsk"`
	ExecNode        wire.Opt[string]   `json:"execNode"`
	Model           wire.Opt[string]   `json:"model"`
	SpawnedBy       wire.Opt[string]   `json:"spawnedBy"`
	SpawnDepth      wire.Opt[wire.Int] `json:"spawnDepth"`
	SendPolicy      wire.Opt[string]   `json:"sendPolicy"`
	GroupActivation wire.Opt[string]   `json:"groupActivation"`
}

// set reads a field of a patch: null clears it.
func set[T any](o wire.Opt[T]) sessions.Set[T] {
	if v, ok := o.Get(); ok {
		return sessions.SetTo(v)
	}
	return sessions.Set[T]{Given: o.IsNull()}
}

// SessionsPatchFromLegacy reads sessions.patch.
func SessionsPatchFromLegacy(p wire.Value) (sessions.PatchIn, error) {
	var in sessionsPatchParams
	if err := wire.Decode(p, &in); err != nil {
		return sessions.PatchIn{}, err
	}
	out := sessions.PatchIn{
		Key: in.Key, Label: set(in.Label), ThinkingLevel: set(in.ThinkingLevel), VerboseLevel: set(in.VerboseLevel),
		ReasoningLevel: set(in.ReasoningLevel), ResponseUsage: set(in.ResponseUsage), ElevatedLevel: set(in.ElevatedLevel), ExecHost: set(in.ExecHost),
		ExecSecurity: set(in.ExecSecurity), ExecAsk: set(in.ExecAsk), ExecNode: set(in.ExecNode), Model: set(in.Model), SpawnedBy: set(in.SpawnedBy),
		SendPolicy: set(in.SendPolicy), GroupActivation: set(in.GroupActivation), SpawnDepth: sessions.Set[int64]{Given: in.SpawnDepth.IsNull()},
	}
	if n, ok := in.SpawnDepth.Get(); ok {
		out.SpawnDepth = sessions.SetTo(int64(n))
	}
	return out, nil
}

type sessionEntry struct {
	SessionID                 string                    `json:"sessionId"`
	UpdatedAt                 wire.Opt[int64]           `json:"updatedAt,omitzero"`
	SessionFile               wire.Opt[string]          `json:"sessionFile,omitzero"`
	SpawnedBy                 wire.Opt[string]          `json:"spawnedBy,omitzero"`
	SpawnDepth                wire.Opt[int64]           `json:"spawnDepth,omitzero"`
	SystemSent                wire.Opt[bool]            `json:"systemSent,omitzero"`
	AbortedLastRun            wire.Opt[bool]            `json:"abortedLastRun,omitzero"`
	ChatType                  wire.Opt[string]          `json:"chatType,omitzero"`
	ThinkingLevel             wire.Opt[string]          `json:"thinkingLevel,omitzero"`
	VerboseLevel              wire.Opt[string]          `json:"verboseLevel,omitzero"`
	ReasoningLevel            wire.Opt[string]          `json:"reasoningLevel,omitzero"`
	ElevatedLevel             wire.Opt[string]          `json:"elevatedLevel,omitzero"`
	ExecHost                  wire.Opt[string]          `json:"execHost,omitzero"`
	ExecSecurity              wire.Opt[string]          `json:"execSecurity,omitzero"`
	ExecAsk                   wire.Opt[string]          `json:"execAsk,omitzero"`
	ExecNode                  wire.Opt[string]          `json:"execNode,omitzero"`
	ResponseUsage             wire.Opt[string]          `json:"responseUsage,omitzero"`
	ProviderOverride          wire.Opt[string]          `json:"providerOverride,omitzero"`
	ModelOverride             wire.Opt[string]          `json:"modelOverride,omitzero"`
	AuthProfileOverride       wire.Opt[string]          `json:"authProfileOverride,omitzero"`
	AuthProfileOverrideSource wire.Opt[string]          `json:"authProfileOverrideSource,omitzero"`
	GroupActivation           wire.Opt[string]          `json:"groupActivation,omitzero"`
	SendPolicy                wire.Opt[string]          `json:"sendPolicy,omitzero"`
	InputTokens               wire.Opt[int64]           `json:"inputTokens,omitzero"`
	OutputTokens              wire.Opt[int64]           `json:"outputTokens,omitzero"`
	TotalTokens               wire.Opt[int64]           `json:"totalTokens,omitzero"`
	TotalTokensFresh          wire.Opt[bool]            `json:"totalTokensFresh,omitzero"`
	CacheRead                 wire.Opt[int64]           `json:"cacheRead,omitzero"`
	CacheWrite                wire.Opt[int64]           `json:"cacheWrite,omitzero"`
	ModelProvider             wire.Opt[string]          `json:"modelProvider,omitzero"`
	Model                     wire.Opt[string]          `json:"model,omitzero"`
	ContextTokens             wire.Opt[int64]           `json:"contextTokens,omitzero"`
	CompactionCount           wire.Opt[int64]           `json:"compactionCount,omitzero"`
	Label                     wire.Opt[string]          `json:"label,omitzero"`
	DisplayName               wire.Opt[string]          `json:"displayName,omitzero"`
	Channel                   wire.Opt[string]          `json:"channel,omitzero"`
	GroupID                   wire.Opt[string]          `json:"groupId,omitzero"`
	Subject                   wire.Opt[string]          `json:"subject,omitzero"`
	GroupChannel              wire.Opt[string]          `json:"groupChannel,omitzero"`
	Space                     wire.Opt[string]          `json:"space,omitzero"`
	Origin                    wire.Raw                  `json:"origin,omitzero"`
	DeliveryContext           wire.Opt[sessionDelivery] `json:"deliveryContext,omitzero"`
	LastChannel               wire.Opt[string]          `json:"lastChannel,omitzero"`
	LastTo                    wire.Opt[string]          `json:"lastTo,omitzero"`
	LastAccountID             wire.Opt[string]          `json:"lastAccountId,omitzero"`
	LastThreadID              wire.Raw                  `json:"lastThreadId,omitzero"`
}

// SessionEntryToLegacy writes a whole entry as the original keeps it (sessions-chat.md §2).
func SessionEntryToLegacy(e sessions.Entry) wire.Raw {
	out := sessionEntry{
		SessionID: e.SessionID, UpdatedAt: maybeMS(e.UpdatedAt), SessionFile: wire.NonZero(e.SessionFile), SpawnedBy: wire.NonZero(e.SpawnedBy),
		SpawnDepth: intOf(e.SpawnDepth), SystemSent: boolOf(e.SystemSent), AbortedLastRun: boolOf(e.AbortedLastRun), ChatType: wire.NonZero(e.ChatType),
		ThinkingLevel: wire.NonZero(e.ThinkingLevel), VerboseLevel: wire.NonZero(e.VerboseLevel), ReasoningLevel: wire.NonZero(e.ReasoningLevel),
		ElevatedLevel: wire.NonZero(e.ElevatedLevel), ExecHost: wire.NonZero(e.ExecHost), ExecSecurity: wire.NonZero(e.ExecSecurity),
		ExecAsk: wire.NonZero(e.ExecAsk), ExecNode: wire.NonZero(e.ExecNode), ResponseUsage: wire.NonZero(e.ResponseUsage),
		ProviderOverride: wire.NonZero(e.ProviderOverride), ModelOverride: wire.NonZero(e.ModelOverride), AuthProfileOverride: wire.NonZero(e.AuthProfileOverride),
		AuthProfileOverrideSource: wire.NonZero(e.AuthProfileOverrideSource), GroupActivation: wire.NonZero(e.GroupActivation), SendPolicy: wire.NonZero(e.SendPolicy),
		InputTokens: intOf(e.InputTokens), OutputTokens: intOf(e.OutputTokens), TotalTokens: intOf(e.TotalTokens), TotalTokensFresh: boolOf(e.TotalTokensFresh),
		CacheRead: intOf(e.CacheRead), CacheWrite: intOf(e.CacheWrite), ModelProvider: wire.NonZero(e.ModelProvider), Model: wire.NonZero(e.Model),
		ContextTokens: intOf(e.ContextTokens), CompactionCount: intOf(e.CompactionCount), Label: wire.NonZero(e.Label), DisplayName: wire.NonZero(e.DisplayName),
		Channel: wire.NonZero(e.Channel), GroupID: wire.NonZero(e.GroupID), Subject: wire.NonZero(e.Subject), GroupChannel: wire.NonZero(e.GroupChannel),
		Space: wire.NonZero(e.Space), Origin: originToLegacy(e.Origin), DeliveryContext: deliveryToLegacy(e.DeliveryContext), LastChannel: wire.NonZero(e.LastChannel),
		LastTo: wire.NonZero(e.LastTo), LastAccountID: wire.NonZero(e.LastAccountID), LastThreadID: wire.Raw(e.LastThreadID),
	}
	return merged(wire.MustMarshal(out), e.Rest)
}

type resolvedModel struct {
	ModelProvider string `json:"modelProvider"`
	Model         string `json:"model"`
}

type sessionsPatchResult struct {
	OK       bool          `json:"ok"`
	Path     string        `json:"path"`
	Key      string        `json:"key"`
	Entry    wire.Raw      `json:"entry"`
	Resolved resolvedModel `json:"resolved"`
}

// SessionsPatchToLegacy writes the result of sessions.patch.
func SessionsPatchToLegacy(out sessions.PatchOut) any {
	return sessionsPatchResult{true, out.Path, out.Ref.Key, SessionEntryToLegacy(out.Entry), resolvedModel{out.Model.Provider, out.Model.Name}}
}

type sessionsResetParams struct {
	Key    string           `json:"key"`
	Reason wire.Opt[string] `json:"reason"`
}

// SessionsResetFromLegacy reads sessions.reset.
func SessionsResetFromLegacy(p wire.Value) (sessions.ResetIn, error) {
	var in sessionsResetParams
	if err := wire.Decode(p, &in); err != nil {
		return sessions.ResetIn{}, err
	}
	return sessions.ResetIn{Key: in.Key, Reason: in.Reason.Or("reset")}, nil
}

type sessionsResetResult struct {
	OK    bool     `json:"ok"`
	Key   string   `json:"key"`
	Entry wire.Raw `json:"entry"`
}

// SessionsResetToLegacy writes the result of sessions.reset.
func SessionsResetToLegacy(out sessions.ResetOut) any {
	return sessionsResetResult{true, out.Ref.Key, SessionEntryToLegacy(out.Entry)}
}

type sessionsDeleteParams struct {
	Key              string         `json:"key"`
	DeleteTranscript wire.Opt[bool] `json:"deleteTranscript"`
}

// SessionsDeleteFromLegacy reads sessions.delete. emitLifecycleHooks is for hooks of agents, which there are none of.
func SessionsDeleteFromLegacy(p wire.Value) (sessions.DeleteIn, error) {
	var in sessionsDeleteParams
	if err := wire.Decode(p, &in); err != nil {
		return sessions.DeleteIn{}, err
	}
	return sessions.DeleteIn{Key: in.Key, KeepTranscript: !in.DeleteTranscript.Or(true)}, nil
}

type sessionsDeleteResult struct {
	OK       bool              `json:"ok"`
	Key      string            `json:"key"`
	Deleted  bool              `json:"deleted"`
	Archived wire.List[string] `json:"archived"`
}

// SessionsDeleteToLegacy writes the result of sessions.delete.
func SessionsDeleteToLegacy(out sessions.DeleteOut) any {
	return sessionsDeleteResult{true, out.Ref.Key, out.Deleted, out.Archived}
}

type sessionsCompactParams struct {
	Key      string             `json:"key"`
	MaxLines wire.Opt[wire.Int] `json:"maxLines"`
}

// SessionsCompactFromLegacy reads sessions.compact.
func SessionsCompactFromLegacy(p wire.Value) (sessions.CompactIn, error) {
	var in sessionsCompactParams
	if err := wire.Decode(p, &in); err != nil {
		return sessions.CompactIn{}, err
	}
	return sessions.CompactIn{Key: in.Key, MaxLines: count(in.MaxLines)}, nil
}

type sessionsCompactResult struct {
	OK        bool             `json:"ok"`
	Key       string           `json:"key"`
	Compacted bool             `json:"compacted"`
	Reason    wire.Opt[string] `json:"reason,omitzero"`
	Archived  wire.Opt[string] `json:"archived,omitzero"`
	Kept      wire.Opt[int]    `json:"kept,omitzero"`
}

// SessionsCompactToLegacy writes the result of sessions.compact.
func SessionsCompactToLegacy(out sessions.CompactOut) any {
	r := sessionsCompactResult{OK: true, Key: out.Ref.Key, Compacted: out.Compacted, Reason: wire.NonZero(out.Reason), Archived: wire.NonZero(out.Archived)}
	if out.Reason == "" {
		r.Kept = wire.Some(out.Kept)
	}
	return r
}

type chatInjectParams struct {
	SessionKey string           `json:"sessionKey"`
	Message    string           `json:"message"`
	Label      wire.Opt[string] `json:"label"`
}

// ChatInjectFromLegacy reads chat.inject.
func ChatInjectFromLegacy(p wire.Value) (sessions.InjectIn, error) {
	var in chatInjectParams
	if err := wire.Decode(p, &in); err != nil {
		return sessions.InjectIn{}, err
	}
	return sessions.InjectIn{Key: in.SessionKey, Text: in.Message, Label: in.Label.Or("")}, nil
}

type chatInjectResult struct {
	OK        bool   `json:"ok"`
	MessageID string `json:"messageId"`
}

// ChatInjectToLegacy writes the result of chat.inject.
func ChatInjectToLegacy(id string) any { return chatInjectResult{true, id} }

type chatEvent struct {
	RunID        string           `json:"runId"`
	SessionKey   string           `json:"sessionKey"`
	Seq          int64            `json:"seq"`
	State        string           `json:"state"`
	Message      wire.Raw         `json:"message,omitzero"`
	ErrorMessage wire.Opt[string] `json:"errorMessage,omitzero"`
	StopReason   wire.Opt[string] `json:"stopReason,omitzero"`
}

// ChatToLegacy writes the payload of the event chat.
func ChatToLegacy(e sessions.Chat) any {
	return chatEvent{e.RunID, e.SessionKey, e.Seq, e.State, wire.Raw(e.Message), wire.NonZero(e.ErrorMessage), wire.NonZero(e.StopReason)}
}
