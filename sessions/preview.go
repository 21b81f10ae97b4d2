package sessions

import (
	"io"
	"slices"
	"strconv"
	"strings"

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
	if item.Text == "" {
		if item.Text = toolsCalled(m.Tools()); item.Text != "" {
			item.Role = "tool"
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
