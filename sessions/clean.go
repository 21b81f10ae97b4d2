package sessions

import (
	"regexp"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/hanzoai/hanzod/sessions/transcript"
)

// What clients are shown is what people wrote: without the frame that the daemon puts around it for the model
// (sessions-chat.md §4).

var (
	envelope     = regexp.MustCompile(`^\[([^\]]+)\]\s*`)
	envelopeTime = regexp.MustCompile(`\b\d{4}-\d{2}-\d{2}(?:T\d{2}:\d{2}Z\b| \d{2}:\d{2}\b)`)
	messageID    = regexp.MustCompile(`(?i)^\s*\[message_id:[^\]]+\]\s*$`)
	directive    = regexp.MustCompile(`(?i)\[\[\s*(?:audio_as_voice|reply_to_current|reply_to\s*:[^\]\n]+)\s*\]\]`)

	// envelopeChannels begin the header of an envelope without a time.
	envelopeChannels = []string{
		"WebChat", "WhatsApp", "Telegram", "Signal", "Slack", "Discord", "Google Chat", "iMessage", "Teams", "Matrix",
		"Zalo", "Zalo Personal", "BlueBubbles",
	}
	// metadataTitles head the blocks that are put before a text (channels-plugins.md §6).
	metadataTitles = map[string]bool{
		"Conversation info (untrusted metadata):":                 true,
		"Sender (untrusted metadata):":                            true,
		"Thread starter (untrusted, for context):":                true,
		"Replied message (untrusted, for context):":               true,
		"Forwarded message context (untrusted metadata):":         true,
		"Chat history since last reply (untrusted, for context):": true,
	}
)

// cleanUser takes the frame off what a user said.
func cleanUser(text string) string {
	text = withoutMetadata(text)
	if m := envelope.FindStringSubmatch(text); m != nil && isEnvelope(m[1]) {
		text = text[len(m[0]):]
	}
	if strings.Contains(strings.ToLower(text), "[message_id:") {
		lines := strings.Split(text, "\n")
		text = strings.Join(slices.DeleteFunc(lines, messageID.MatchString), "\n")
	}
	return withoutDirectives(text)
}

func isEnvelope(header string) bool {
	if envelopeTime.MatchString(header) {
		return true
	}
	for _, c := range envelopeChannels {
		if strings.HasPrefix(header, c+" ") {
			return true
		}
	}
	return false
}

// withoutMetadata removes each block of a known title and a fenced JSON text that follows at once.
func withoutMetadata(text string) string {
	if !strings.Contains(text, "(untrusted") {
		return text
	}
	lines := strings.Split(text, "\n")
	var kept []string
	removed := false
	for i := 0; i < len(lines); i++ {
		end := metadataEnd(lines, i)
		if end == 0 {
			kept = append(kept, lines[i])
			continue
		}
		removed = true
		for end < len(lines) && strings.TrimSpace(lines[end]) == "" {
			end++ // the blank line that sets the block off
		}
		i = end - 1
	}
	if !removed {
		return text
	}
	return strings.Trim(strings.Join(kept, "\n"), "\n")
}

// metadataEnd is the index after the block that begins at line i, 0 when none does.
func metadataEnd(lines []string, i int) int {
	if !metadataTitles[strings.TrimSpace(lines[i])] || i+1 >= len(lines) || strings.TrimSpace(lines[i+1]) != "```json" {
		return 0
	}
	for j := i + 2; j < len(lines); j++ {
		if strings.TrimSpace(lines[j]) == "```" {
			return j + 1
		}
	}
	return 0
}

// withoutDirectives removes the tags that steer how a reply is delivered.
func withoutDirectives(text string) string {
	if !strings.Contains(text, "[[") {
		return text
	}
	return directive.ReplaceAllString(text, "")
}

// units is the length of s in UTF-16 units, which is how the limits of texts count.
func units(s string) int {
	n := 0
	for _, r := range s {
		n += max(utf16.RuneLen(r), 1)
	}
	return n
}

// head is the longest prefix of s of at most limit UTF-16 units.
func head(s string, limit int) string {
	if len(s) <= limit {
		return s // a unit is a byte at least
	}
	n := 0
	for i, r := range s {
		if n += max(utf16.RuneLen(r), 1); n > limit {
			return s[:i]
		}
	}
	return s
}

// displayed is a message as clients are shown it; nil when they are not shown it.
func displayed(m transcript.Message) transcript.Value {
	if silent(m) {
		return nil
	}
	clean := withoutDirectives
	if m.Role == transcript.RoleUser {
		clean = cleanUser
	}
	text := func(v transcript.Value) transcript.Value {
		if v.Kind() != '"' {
			return v
		}
		was := v.Str()
		now := clean(was)
		if cut := head(now, maxHistoryText); cut != now {
			now = cut + "\n...(truncated)..."
		}
		if now == was {
			return v
		}
		return transcript.Quote(now)
	}
	return m.Raw.Edit(func(key string, v transcript.Value) transcript.Value {
		switch key {
		case "details", "usage", "cost":
			return nil
		case "text":
			return text(v)
		case "content":
			if v.Kind() == '[' {
				return v.EditItems(func(b transcript.Value) transcript.Value { return displayedBlock(b, text) })
			}
			return text(v)
		}
		return v
	})
}

// displayedBlock is one block of a message as clients are shown it.
func displayedBlock(b transcript.Value, text func(transcript.Value) transcript.Value) transcript.Value {
	if kind := b.Get("type").Str(); kind == "image" {
		if data := b.Get("data"); data.Kind() == '"' {
			return omittedImage(b, len(data)-2)
		}
	}
	return b.Edit(func(key string, v transcript.Value) transcript.Value {
		switch key {
		case "thinkingSignature":
			return nil
		case "text", "thinking", "partialJson":
			return text(v)
		}
		return v
	})
}

// omittedImage is an image without its data, which had so many bytes.
func omittedImage(b transcript.Value, bytes int) transcript.Value {
	return b.Edit(func(key string, v transcript.Value) transcript.Value {
		switch key {
		case "data", "omitted", "bytes":
			return nil
		}
		return v
	}).With("omitted", transcript.Value("true")).With("bytes", transcript.Number(int64(bytes)))
}

// silent reports whether a message says nothing to people: the text of an assistant that had nothing to say.
func silent(m transcript.Message) bool {
	return m.Role == transcript.RoleAssistant && len(m.Tools()) == 0 && m.Text() == "NO_REPLY"
}
