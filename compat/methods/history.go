package methods

import (
	"math"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/sessions"
)

type chatHistoryParams struct {
	SessionKey string             `json:"sessionKey"`
	Limit      wire.Opt[wire.Int] `json:"limit"`
}

// ChatHistoryFromLegacy reads chat.history.
func ChatHistoryFromLegacy(p wire.Value) (sessions.HistoryIn, error) {
	var in chatHistoryParams
	if err := wire.Decode(p, &in); err != nil {
		return sessions.HistoryIn{}, err
	}
	return sessions.HistoryIn{Key: in.SessionKey, Limit: count(in.Limit)}, nil
}

type chatHistoryResult struct {
	SessionKey    string              `json:"sessionKey"`
	SessionID     wire.Opt[string]    `json:"sessionId,omitzero"`
	Messages      wire.List[wire.Raw] `json:"messages"`
	ThinkingLevel string              `json:"thinkingLevel"`
	VerboseLevel  wire.Opt[string]    `json:"verboseLevel,omitzero"`
}

func rawMessages(in []sessions.Raw) wire.List[wire.Raw] {
	out := make(wire.List[wire.Raw], len(in))
	for i, m := range in {
		out[i] = wire.Raw(m)
	}
	return out
}

// ChatHistoryToLegacy writes the result of chat.history.
func ChatHistoryToLegacy(h sessions.History) any {
	return chatHistoryResult{h.Key, wire.NonZero(h.SessionID), rawMessages(h.Messages), h.ThinkingLevel, wire.NonZero(h.VerboseLevel)}
}

// SessionsGetFromLegacy reads sessions.get, whose parameters nobody checks: what makes no sense counts as absent,
// and a number is the text of it.
func SessionsGetFromLegacy(p wire.Value) (sessions.MessagesIn, error) {
	text := func(name string) string {
		if v, _ := p.Get(name); v.Kind() == wire.Number {
			return string(wire.AppendNumber(nil, v.Num()))
		}
		return looseText(p, name)
	}
	key := text("key")
	if key == "" {
		key = text("sessionKey")
	}
	return sessions.MessagesIn{Key: key, Limit: looseCount(p, "limit")}, nil
}

// looseText is a member that is a text, trimmed; "" for anything else.
func looseText(p wire.Value, name string) string {
	v, _ := p.Get(name)
	if v.Kind() != wire.String {
		return ""
	}
	return wire.Trim(v.Str())
}

// looseCount is a member that is a number, at least 1; 0 for anything else.
func looseCount(p wire.Value, name string) int {
	v, _ := p.Get(name)
	if v.Kind() != wire.Number || math.IsInf(v.Num(), 0) || math.IsNaN(v.Num()) {
		return 0
	}
	return int(max(1, min(math.Floor(v.Num()), math.MaxInt32)))
}

type sessionsGetResult struct {
	Messages wire.List[wire.Raw] `json:"messages"`
}

// SessionsGetToLegacy writes the result of sessions.get.
func SessionsGetToLegacy(messages []sessions.Raw) any {
	return sessionsGetResult{rawMessages(messages)}
}

type sessionsPreviewParams struct {
	Keys     []string           `json:"keys"`
	Limit    wire.Opt[wire.Int] `json:"limit"`
	MaxChars wire.Opt[wire.Int] `json:"maxChars"`
}

// SessionsPreviewFromLegacy reads sessions.preview.
func SessionsPreviewFromLegacy(p wire.Value) (sessions.PreviewIn, error) {
	var in sessionsPreviewParams
	if err := wire.Decode(p, &in); err != nil {
		return sessions.PreviewIn{}, err
	}
	return sessions.PreviewIn{Keys: in.Keys, Limit: count(in.Limit), MaxChars: count(in.MaxChars)}, nil
}

type previewItem struct {
	Role string `json:"role"`
	Text string `json:"text"`
}

type previewShape struct {
	Key    string                 `json:"key"`
	Status string                 `json:"status"`
	Items  wire.List[previewItem] `json:"items"`
}

type sessionsPreviewResult struct {
	TS       int64                   `json:"ts"`
	Previews wire.List[previewShape] `json:"previews"`
}

// SessionsPreviewToLegacy writes the result of sessions.preview.
func SessionsPreviewToLegacy(out sessions.Previews) any {
	r := sessionsPreviewResult{TS: ms(out.At)}
	for _, p := range out.Previews {
		shape := previewShape{Key: p.Key, Status: p.Status}
		for _, i := range p.Items {
			shape.Items = append(shape.Items, previewItem(i))
		}
		r.Previews = append(r.Previews, shape)
	}
	return r
}
