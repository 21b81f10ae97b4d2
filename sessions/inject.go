package sessions

import (
	"bytes"
	"context"
	"errors"

	"io/fs"
	"unicode/utf16"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/sessions/transcript"
)

const (
	// maxText bounds a message in bytes, and maxInjectLabel its label in UTF-16 units (frozen).
	maxText        = 8 << 20
	maxInjectLabel = 100
)

// Chat is what happens in a conversation, the payload of the event chat (sessions-chat.md §4).
type Chat struct {
	RunID string
	// SessionKey is the key as it was sent, or the canonical one of a run.
	SessionKey string
	Seq        int64
	State      string // delta, final, aborted, error
	// Message is a JSON object, nil for none.
	Message      Raw
	ErrorMessage string
	StopReason   string
}

// InjectIn puts a note into a transcript.
type InjectIn struct {
	Key   string
	Text  string
	Label string
}

// Inject appends a message of the assistant to a transcript without running a model, and tells everybody. It
// returns the id of the message, which is on disk then (sessions-chat.md §4).
func (s *Service) Inject(ctx context.Context, _ identity.Caller, in InjectIn) (string, error) {
	switch {
	case in.Text == "":
		return "", ErrText
	case len(in.Text) > maxText, len(utf16.Encode([]rune(in.Label))) > maxInjectLabel:
		return "", ErrTextLong
	}
	r, err := s.find(in.Key)
	if err != nil {
		return "", err
	}
	defer s.lock(r)()
	row, ok := s.row(r)
	if !ok {
		return "", ErrNoSession
	}
	f := FileOf(r.AgentID, row.Entry)
	m := transcript.Injected{Text: in.Text, Label: in.Label, At: s.now()}
	var lines [][]byte
	if m.ID, m.Parent, err = s.ends(f); errors.Is(err, fs.ErrNotExist) {
		header := transcript.Header{ID: row.Entry.SessionID, Timestamp: m.At, CWD: s.cfg.Config().Workspace(r.AgentID)}
		lines = append(lines, bytes.TrimSuffix(header.Build(), []byte("\n")))
		m.ID, err = transcript.FreshID(bytes.NewReader(nil), 0)
	}
	if err != nil {
		return "", unwritten(err)
	}
	line, message := m.Build()
	lines = append(lines, bytes.TrimSuffix(line, []byte("\n")))
	if err := s.cfg.Transcripts.Append(ctx, f, lines...); err != nil {
		return "", unwritten(err)
	}
	s.cfg.Bus.Publish("chat", Chat{RunID: "inject-" + m.ID, SessionKey: in.Key, State: "final", Message: message})
	return m.ID, nil
}

func unwritten(err error) error {
	if errs.ClassOf(err) == errs.Unknown {
		return err
	}
	return ErrTranscript.With("cause", err.Error()).Wrap(err)
}

// ends finds an id that a transcript does not have yet, and its leaf. A transcript that lost its header in a
// compaction has a leaf all the same.
func (s *Service) ends(f File) (fresh, leaf string, err error) {
	t, err := s.cfg.Transcripts.Open(f)
	if err != nil {
		return "", "", err
	}
	defer t.Close()
	if t.Size() == 0 {
		return "", "", fs.ErrNotExist
	}
	if fresh, err = transcript.FreshID(t, t.Size()); err != nil {
		return "", "", err
	}
	leaf, _, err = transcript.Leaf(t, t.Size())
	if err != nil || leaf != "" {
		return fresh, leaf, err
	}
	err = transcript.Backward(t, t.Size(), func(l transcript.Line) bool {
		e, ok := transcript.ParseEntry(l.Data)
		if !ok || e.Type == transcript.TypeHeader || e.ID == "" {
			return true
		}
		leaf = e.ID
		return false
	})
	return fresh, leaf, err
}

// Append adds lines to the transcript of a session, whose id they are for: a session that was reset meanwhile
// does not get them, ErrNoSession says so. All are on disk when it returns nil.
func (s *Service) Append(ctx context.Context, r Ref, sessionID string, lines ...[]byte) error {
	defer s.lock(r)()
	row, ok := s.row(r)
	if !ok || row.Entry.SessionID != sessionID {
		return ErrNoSession
	}
	return s.cfg.Transcripts.Append(ctx, FileOf(r.AgentID, row.Entry), lines...)
}

// Update changes an entry, for those that run agents: it makes one when there is none. change gets the whole
// entry and may run more than once.
func (s *Service) Update(ctx context.Context, r Ref, change func(e *Entry, exists bool) error) (Entry, error) {
	defer s.lock(r)()
	release, err := s.reserve(r, "")
	if err != nil {
		return Entry{}, err
	}
	defer release()
	return s.update(ctx, r, func(e *Entry, exists bool) (Change, error) { return Change{}, change(e, exists) })
}
