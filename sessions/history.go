package sessions

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/identity"
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

// HistoryIn asks for the past of a session.
type HistoryIn struct {
	Key string
	// Limit is how many messages at most; 0 is 200, more than 1000 is 1000.
	Limit int
}

// History is the past of a session.
type History struct {
	// Key is as it was asked for. SessionID is empty when there is no such session.
	Key, SessionID string
	// Messages are JSON objects, the oldest first.
	Messages []Raw
	// ThinkingLevel is what is set for the session, else what its model does by default.
	ThinkingLevel, VerboseLevel string
}

// History reads the last messages of a session as people are shown them (sessions-chat.md §4). It reads no more of
// the transcript than that takes, and no session is one that said nothing.
func (s *Service) History(_ context.Context, _ identity.Caller, in HistoryIn) (History, error) {
	limit := min(in.Limit, maxHistory)
	if limit <= 0 {
		limit = historyLimit
	}
	out := History{Key: in.Key}
	r, e, ok := s.Lookup(in.Key)
	if ok {
		out.SessionID, out.ThinkingLevel, out.VerboseLevel = e.SessionID, e.ThinkingLevel, e.VerboseLevel
		messages, err := s.messages(FileOf(r.AgentID, e), limit, maxHistoryBytes, shown)
		if err != nil {
			return History{}, err
		}
		out.Messages = messages
	}
	if out.ThinkingLevel == "" {
		out.ThinkingLevel = s.thinking(s.ModelOf(r.AgentID, &e))
	}
	return out, nil
}

// thinking is how much a model thinks when nobody says.
func (s *Service) thinking(m Model) string {
	if s.cfg.Thinking == nil {
		return "off"
	}
	return s.cfg.Thinking(m)
}

// MessagesIn asks for messages as they are stored.
type MessagesIn struct {
	Key string
	// Limit is how many at most; 0 is 200, more than 10,000 is 10,000.
	Limit int
}

// Messages reads the last messages of a session as they are stored, the oldest first, 16 MiB at the most
// (sessions-chat.md §3). A session that is not known has none.
func (s *Service) Messages(_ context.Context, _ identity.Caller, in MessagesIn) ([]Raw, error) {
	if strings.TrimSpace(in.Key) == "" {
		return nil, ErrKeyRequired
	}
	limit := min(in.Limit, maxRaw)
	if limit <= 0 {
		limit = historyLimit
	}
	r, e, ok := s.Lookup(in.Key)
	if !ok {
		return nil, nil
	}
	return s.messages(FileOf(r.AgentID, e), limit, maxRawBytes, stored)
}

// messages reads a transcript; one that is not there has no messages.
func (s *Service) messages(f File, limit, bytes int, show func(transcript.Message) transcript.Value) ([]Raw, error) {
	t, err := s.read(f)
	if t == nil {
		return nil, err
	}
	defer t.Close()
	values, err := recent(t, t.Size(), limit, bytes, show)
	out := make([]Raw, len(values))
	for i, v := range values {
		out[i] = Raw(v)
	}
	return out, err
}

// read opens a transcript; nil for one that is not there, or that has a name no transcript can have.
func (s *Service) read(f File) (Transcript, error) {
	t, err := s.cfg.Transcripts.Open(f)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrFileName) {
		return nil, nil //nolint:nilnil // nil is no transcript
	}
	return t, err
}
