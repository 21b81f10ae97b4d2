package sessions

import (
	"io"
	"slices"

	"github.com/hanzoai/hanzod/sessions/transcript"
)

const (
	// historyLimit is how many messages are shown unless the caller says otherwise, maxHistory how many at most
	// (sessions-chat.md §4; frozen).
	historyLimit = 200
	maxHistory   = 1000

	// maxHistoryText is the longest text of a block, in UTF-16 units (frozen).
	maxHistoryText = 12_000

	// maxHistoryMessage is the longest message shown, in bytes of JSON (frozen).
	maxHistoryMessage = 128 << 10

	// maxHistoryBytes is how much is shown at once, in bytes of JSON; the oldest go first (frozen).
	maxHistoryBytes = 6 << 20

	// maxRawBytes is the same for messages as stored. Clients take frames of 25 MiB at most.
	maxRawBytes = 16 << 20

	// maxRaw is how many messages are given out as stored, at most.
	maxRaw = 10_000
)

// oversized stands for a message that is too large to be shown.
const oversized = `[chat.history omitted: message too large]`

// recent returns the last messages of a transcript in order, at most limit of them and bytes of JSON together. show
// makes what is given out of a message; nil leaves it out, but it counts.
func recent(r io.ReaderAt, size int64, limit, bytes int, show func(transcript.Message) transcript.Value) ([]transcript.Value, error) {
	var out []transcript.Value
	total, seen := 2, 0 // brackets
	err := transcript.Backward(r, size, func(l transcript.Line) bool {
		v, is := lineShown(l, show)
		if !is {
			return true
		}
		seen++
		if v != nil {
			if total += len(v) + 1; total > bytes+1 {
				return false
			}
			out = append(out, slices.Clone(v))
		}
		return seen < limit
	})
	slices.Reverse(out)
	return out, err
}

// lineShown is what a line contributes; is says whether it counts as a message.
func lineShown(l transcript.Line, show func(transcript.Message) transcript.Value) (v transcript.Value, is bool) {
	if l.Oversized {
		return placeholder("", nil), true
	}
	e, ok := transcript.ParseEntry(l.Data)
	if !ok {
		return nil, false
	}
	if m, ok := e.Message(); ok {
		return show(m), true
	}
	if e.Type == transcript.TypeCompaction {
		return compaction(e), true
	}
	return nil, false
}

// shown is a message of chat.history.
func shown(m transcript.Message) transcript.Value {
	v := displayed(m)
	if len(v) > maxHistoryMessage {
		return placeholder(m.Role, m.Raw.Get("timestamp"))
	}
	return v
}

// stored is a message of sessions.get.
func stored(m transcript.Message) transcript.Value { return m.Raw }

// placeholder stands for a message that is too large.
func placeholder(role string, timestamp transcript.Value) transcript.Value {
	if role == "" {
		role = transcript.RoleAssistant
	}
	v := transcript.Value(`{}`).With("role", transcript.Quote(role))
	if timestamp.Kind() == 0 {
		v = v.With("timestamp", timestamp)
	}
	v = v.With("content", transcript.Value(`[{"type":"text","text":"`+oversized+`"}]`))
	return v.With("__openclaw", transcript.Value(`{"truncated":true,"reason":"oversized"}`))
}

// compaction is the line where the past was summed up, as clients are shown it.
func compaction(e transcript.Entry) transcript.Value {
	v := transcript.Value(`{"role":"system","content":[{"type":"text","text":"Compaction"}]}`)
	if !e.Timestamp.IsZero() {
		v = v.With("timestamp", transcript.Number(e.Timestamp.UnixMilli()))
	}
	mark := transcript.Value(`{"kind":"compaction"}`)
	if e.ID != "" {
		mark = mark.With("id", transcript.Quote(e.ID))
	}
	return v.With("__openclaw", mark)
}
