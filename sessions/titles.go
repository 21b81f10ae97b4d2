package sessions

import (
	"io"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/sessions/transcript"
)

const (
	// titleChars is the longest derived title, titleBreak the earliest blank it is cut back to, in UTF-16 units
	// (sessions-chat.md §3; frozen).
	titleChars = 60
	titleBreak = 36

	// titleReach and titleLines are how far into a transcript its first question is looked for, lastReach how far
	// back its last message, in bytes and lines: a list of many sessions stays cheap.
	titleReach = 256 << 10
	titleLines = 64
	lastReach  = 256 << 10

	// lastChars is the longest preview of a last message, in UTF-16 units.
	lastChars = 4000
)

// titleOf is the title of a session: what people call it, else its first question, else its id and date. first is
// called only when it is needed.
func titleOf(displayName, subject, sessionID string, updatedAt time.Time, first func() string) string {
	for _, name := range []string{displayName, subject} {
		if name = strings.TrimSpace(name); name != "" {
			return name
		}
	}
	if text := strings.Join(strings.Fields(first()), " "); text != "" {
		return titleFrom(text)
	}
	if sessionID == "" {
		return ""
	}
	title := head(sessionID, 8)
	if !updatedAt.IsZero() {
		title += " (" + updatedAt.UTC().Format(time.DateOnly) + ")"
	}
	return title
}

// titleFrom cuts a text to a title, between words where that does not cost much.
func titleFrom(text string) string {
	if units(text) <= titleChars {
		return text
	}
	cut := head(text, titleChars-1)
	if i := strings.LastIndexByte(cut, ' '); i >= 0 && units(cut[:i]) > titleBreak {
		cut = cut[:i]
	}
	return cut + "…"
}

// firstQuestion is the text of the first user message, "" when there is none near the beginning.
func firstQuestion(r io.ReaderAt, size int64) string {
	s := transcript.NewScanner(io.NewSectionReader(r, 0, min(size, titleReach)), 0)
	for range titleLines {
		if !s.Next() {
			return ""
		}
		if s.Line().Oversized {
			continue
		}
		e, ok := transcript.ParseEntry(s.Line().Data)
		if !ok {
			continue
		}
		if m, ok := e.Message(); ok && m.Role == transcript.RoleUser {
			if text := m.Text(); text != "" {
				return text
			}
		}
	}
	return ""
}

// lastMessage is the text of the last message of a person or an assistant, "" when there is none near the end.
func lastMessage(r io.ReaderAt, size int64) string {
	text := ""
	_ = transcript.Backward(r, size, func(l transcript.Line) bool {
		if !l.Oversized {
			if e, ok := transcript.ParseEntry(l.Data); ok {
				if m, ok := e.Message(); ok && (m.Role == transcript.RoleUser || m.Role == transcript.RoleAssistant) {
					text = m.Text()
				}
			}
		}
		return text == "" && size-l.Offset < lastReach
	})
	return shorten(text, lastChars)
}

// said fills in what is read from the transcript of a listed session. What cannot be read is left out: a list is not
// to fail for one file.
func (s *Service) said(l *Listed, title, last bool) {
	e := &l.Entry
	var t Transcript
	open := func() Transcript {
		if t == nil {
			t, _ = s.read(FileOf(l.Ref.AgentID, *e))
		}
		return t
	}
	if title {
		l.DerivedTitle = titleOf(e.DisplayName, e.Subject, e.SessionID, e.UpdatedAt, func() string {
			if t := open(); t != nil {
				return firstQuestion(t, t.Size())
			}
			return ""
		})
	}
	if last {
		if t := open(); t != nil {
			l.LastMessage = lastMessage(t, t.Size())
		}
	}
	if t != nil {
		_ = t.Close()
	}
}
