package sessions

import (
	"context"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/sessions/transcript"
)

const (
	// previewLimit and previewChars are what a preview holds unless the caller says otherwise, the others what it
	// holds at most (sessions-chat.md §3; frozen).
	previewLimit    = 12
	maxPreview      = 50
	previewChars    = 240
	minPreviewChars = 20
	maxPreviewChars = 2000
	maxPreviewKeys  = 64

	// previewReach is how far back a preview looks, in bytes: sixty-four previews of large transcripts stay cheap.
	previewReach = 1 << 20
)

// PreviewItem is one message of a preview.
type PreviewItem struct {
	// Role is user, assistant, tool, system or other.
	Role string
	Text string
}

// previewOf reads the last messages of a transcript that say something, at most limit of them, each cut to chars
// UTF-16 units.
func previewOf(r io.ReaderAt, size int64, limit, chars int) ([]PreviewItem, error) {
	var out []PreviewItem
	err := transcript.Backward(r, size, func(l transcript.Line) bool {
		if item, ok := previewItem(l, chars); ok {
			out = append(out, item)
		}
		return len(out) < limit && size-l.Offset < previewReach
	})
	slices.Reverse(out)
	return out, err
}

func previewItem(l transcript.Line, chars int) (PreviewItem, bool) {
	if l.Oversized {
		return PreviewItem{}, false
	}
	e, ok := transcript.ParseEntry(l.Data)
	if !ok {
		return PreviewItem{}, false
	}
	m, ok := e.Message()
	if !ok {
		return PreviewItem{}, false
	}
	item := PreviewItem{Role: previewRole(m.Role), Text: m.Text()}
	if tools := m.Tools(); len(tools) > 0 {
		item.Role = "tool" // also where it says something beside
		if item.Text == "" {
			item.Text = toolsCalled(tools)
		}
	}
	if item.Text == "" {
		return PreviewItem{}, false
	}
	item.Text = shorten(item.Text, chars)
	return item, true
}

func previewRole(role string) string {
	switch role {
	case transcript.RoleUser, transcript.RoleAssistant, "system":
		return role
	case transcript.RoleToolResult, "tool":
		return "tool"
	}
	return "other"
}

// toolsCalled says which tools a message calls that says nothing else.
func toolsCalled(names []string) string {
	const named = 2
	if len(names) == 0 {
		return ""
	}
	text := "call " + strings.Join(names[:min(len(names), named)], ", ")
	if more := len(names) - named; more > 0 {
		text += " +" + strconv.Itoa(more)
	}
	return text
}

// shorten cuts s to at most limit UTF-16 units.
func shorten(s string, limit int) string {
	if units(s) <= limit {
		return s
	}
	return head(s, limit-3) + "..."
}

// The states of a preview.
const (
	PreviewOK      = "ok"
	PreviewEmpty   = "empty"
	PreviewMissing = "missing"
	PreviewError   = "error"
)

// PreviewIn asks for the end of several sessions.
type PreviewIn struct {
	// Keys are the sessions; the first 64 count.
	Keys []string
	// Limit is how many messages of each; 0 is 12, more than 50 is 50.
	Limit int
	// MaxChars is how long each may be, in UTF-16 units; 0 is 240, 20 to 2000.
	MaxChars int
}

// Preview is the end of one session.
type Preview struct {
	// Key is as it was asked for.
	Key string
	// Status is ok, empty (nothing was said), missing (no such session) or error (the transcript cannot be read).
	Status string
	Items  []PreviewItem
}

// Previews are the ends of several sessions.
type Previews struct {
	At       time.Time
	Previews []Preview
}

// Preview shows the end of several sessions, as stored (sessions-chat.md §3).
func (s *Service) Preview(ctx context.Context, _ identity.Caller, in PreviewIn) (Previews, error) {
	limit, chars := min(in.Limit, maxPreview), min(in.MaxChars, maxPreviewChars)
	if limit <= 0 {
		limit = previewLimit
	}
	if chars <= 0 {
		chars = previewChars
	}
	chars = max(chars, minPreviewChars)
	out := Previews{At: s.now()}
	for _, key := range in.Keys[:min(len(in.Keys), maxPreviewKeys)] {
		if ctx.Err() != nil {
			return out, errs.Wrap(errs.Unavailable, "read the transcripts", ctx.Err())
		}
		out.Previews = append(out.Previews, s.preview(key, limit, chars))
	}
	return out, nil
}

func (s *Service) preview(key string, limit, chars int) Preview {
	p := Preview{Key: key, Status: PreviewMissing}
	r, e, ok := s.Lookup(key)
	if !ok {
		return p
	}
	t, err := s.read(FileOf(r.AgentID, e))
	if err == nil && t != nil {
		defer t.Close()
		p.Items, err = previewOf(t, t.Size(), limit, chars)
	}
	switch {
	case err != nil:
		s.cfg.Log.Warn("a transcript could not be read", "session", r.Key, "error", err)
		p.Status, p.Items = PreviewError, nil
	case len(p.Items) == 0:
		p.Status = PreviewEmpty
	default:
		p.Status = PreviewOK
	}
	return p
}
