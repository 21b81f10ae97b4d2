package transcript

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"time"
)

// The types of entries.
const (
	TypeHeader        = "session"
	TypeMessage       = "message"
	TypeCompaction    = "compaction"
	TypeModelChange   = "model_change"
	TypeThinkingLevel = "thinking_level_change"
	TypeBranchSummary = "branch_summary"
	TypeCustom        = "custom"
	TypeCustomMessage = "custom_message"
	TypeLabel         = "label"
	TypeSessionInfo   = "session_info"
)

// The roles of messages.
const (
	RoleUser          = "user"
	RoleAssistant     = "assistant"
	RoleToolResult    = "toolResult"
	RoleBashExecution = "bashExecution"
	RoleCustom        = "custom"
)

// Header is the first line of a transcript.
type Header struct {
	Version int
	// ID is the session id.
	ID        string
	Timestamp time.Time
	// CWD is the directory the session works in, on the machine that wrote it.
	CWD string
	// Parent is the path of the transcript it was forked from; may be empty.
	Parent string
}

// ParseHeader reads the first line. Without a header that has an id the file counts as empty.
func ParseHeader(line []byte) (Header, bool) {
	v, ok := object(line)
	if !ok || len(line) > maxHeader {
		return Header{}, false
	}
	var h Header
	var kind string
	v.Members(func(key string, m Value) bool {
		switch key {
		case "type":
			kind = m.Str()
		case "version":
			h.Version = int(m.Int())
		case "id":
			h.ID = m.Str()
		case "timestamp":
			h.Timestamp = isoTime(m)
		case "cwd":
			h.CWD = m.Str()
		case "parentSession":
			h.Parent = m.Str()
		}
		return true
	})
	return h, kind == TypeHeader && h.ID != ""
}

// ReadHeader reads the header of a file. False without an error means that the file counts as empty.
func ReadHeader(r io.ReaderAt) (Header, bool, error) {
	buf := make([]byte, 4<<10)
	for {
		n, err := r.ReadAt(buf, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return Header{}, false, err
		}
		if i := bytes.IndexByte(buf[:n], '\n'); i >= 0 {
			h, ok := ParseHeader(buf[:i])
			return h, ok, nil
		}
		if n < len(buf) || len(buf) >= maxHeader {
			h, ok := ParseHeader(buf[:n])
			return h, ok, nil
		}
		buf = make([]byte, 2*len(buf))
	}
}

// Entry is one line after the header.
type Entry struct {
	Type string
	// ID is 8 hexadecimal characters, unique in its file; empty in damaged files.
	ID string
	// Parent is empty for the first entry.
	Parent string
	// Timestamp is when the entry was written; zero when the line does not say.
	Timestamp time.Time
	// Summary is the text of a compaction or branch summary.
	Summary string
	// FirstKept is the entry a compaction keeps first.
	FirstKept string
	// Raw is the whole line.
	Raw Value

	message Value
}

// ParseEntry reads a line that is not the header. False: it is none, and is skipped. The entry shares the memory of
// the line.
func ParseEntry(line []byte) (Entry, bool) {
	v, ok := object(line)
	if !ok {
		return Entry{}, false
	}
	e := Entry{Raw: v}
	v.Members(func(key string, m Value) bool {
		switch key {
		case "type":
			e.Type = m.Str()
		case "id":
			e.ID = m.Str()
		case "parentId":
			e.Parent = m.Str()
		case "timestamp":
			e.Timestamp = isoTime(m)
		case "summary":
			e.Summary = m.Str()
		case "firstKeptEntryId":
			e.FirstKept = m.Str()
		case "message":
			e.message = m
		}
		return true
	})
	return e, true
}

// Message is the message of an entry that has one, whatever its type says.
func (e Entry) Message() (Message, bool) {
	if e.message.Kind() != '{' {
		return Message{}, false
	}
	return parseMessage(e.message), true
}

// Message is what somebody said.
type Message struct {
	Role string
	// Timestamp is zero when the message does not say.
	Timestamp time.Time
	// Provider, Model, API and StopReason belong to assistant messages.
	Provider, Model, API, StopReason string
	ErrorMessage                     string
	// ToolName and ToolCallID belong to tool results, as IsError does.
	ToolName, ToolCallID string
	IsError              bool
	// Raw is the message as stored.
	Raw Value

	content, text, usage, duration Value
}

func parseMessage(v Value) Message {
	m := Message{Raw: v}
	v.Members(func(key string, f Value) bool {
		switch key {
		case "role":
			m.Role = f.Str()
		case "timestamp":
			m.Timestamp = milliTime(f)
		case "provider":
			m.Provider = f.Str()
		case "model":
			m.Model = f.Str()
		case "api":
			m.API = f.Str()
		case "stopReason":
			m.StopReason = f.Str()
		case "errorMessage":
			m.ErrorMessage = f.Str()
		case "toolName":
			m.ToolName = f.Str()
		case "toolCallId":
			m.ToolCallID = f.Str()
		case "isError":
			m.IsError = f.Bool()
		case "content":
			m.content = f
		case "text":
			m.text = f
		case "usage":
			m.usage = f
		case "durationMs":
			m.duration = f
		}
		return true
	})
	return m
}

// Duration is how long the answer took, when the message says so.
func (m Message) Duration() (time.Duration, bool) {
	ms, ok := m.duration.Num()
	if !ok || ms < 0 || ms > 1<<40 {
		return 0, false
	}
	return time.Duration(ms * float64(time.Millisecond)), true
}

// Block is one part of what a message holds.
type Block struct {
	// Type is text, image, thinking, toolCall or something else.
	Type string
	// Text is the text of a text block.
	Text string
	// Name is the tool of a tool call.
	Name string
	// Raw is the block as stored.
	Raw Value
}

// ToolCall reports whether the block calls a tool, in any of the spellings in use.
func (b Block) ToolCall() bool {
	switch strings.ToLower(strings.ReplaceAll(b.Type, "_", "")) {
	case "toolcall", "tooluse":
		return true
	}
	return false
}

// Blocks are the parts of the content; a content that is a string is one text block.
func (m Message) Blocks() []Block {
	if m.content.Kind() == '"' {
		return []Block{{Type: "text", Text: m.content.Str()}}
	}
	var out []Block
	m.content.Items(func(v Value) bool {
		b := Block{Raw: v}
		v.Members(func(key string, f Value) bool {
			switch key {
			case "type":
				b.Type = f.Str()
			case "text":
				b.Text = f.Str()
			case "name":
				b.Name = f.Str()
			}
			return true
		})
		if b.Type != "" || b.Text != "" {
			out = append(out, b)
		}
		return true
	})
	return out
}

// Text is the text of the message: its text blocks that are not blank, one per line, trimmed.
func (m Message) Text() string {
	if m.content.Kind() == 'x' && m.text.Kind() == '"' {
		return strings.TrimSpace(m.text.Str())
	}
	var parts []string
	for _, b := range m.Blocks() {
		switch b.Type {
		case "text", "input_text", "output_text":
			if strings.TrimSpace(b.Text) != "" {
				parts = append(parts, b.Text)
			}
		}
	}
	return strings.TrimSpace(strings.Join(parts, "\n"))
}

// Tools are the names of the tools that the message calls, in order, with repetitions.
func (m Message) Tools() []string {
	var out []string
	for _, b := range m.Blocks() {
		if b.ToolCall() && b.Name != "" {
			out = append(out, b.Name)
		}
	}
	return out
}

// Usage is what an assistant message cost.
type Usage struct {
	// Input, Output, CacheRead, CacheWrite and Total count tokens.
	Input, Output, CacheRead, CacheWrite, Total int64
	// Priced says that the message says what it cost.
	Priced bool
	// Cost is in US dollars.
	Cost Cost
}

// Cost is a price in US dollars and its parts.
type Cost struct {
	Input, Output, CacheRead, CacheWrite, Total float64
}

// Usage is the usage the message states, in the spelling of the format or in those of providers. False: it states
// none.
func (m Message) Usage() (Usage, bool) {
	if m.usage.Kind() != '{' {
		return Usage{}, false
	}
	var u Usage
	var any, total bool
	var parts bool
	m.usage.Members(func(key string, f Value) bool {
		n := max(f.Int(), 0)
		known := true
		switch key {
		case "input", "inputTokens", "input_tokens", "promptTokens", "prompt_tokens":
			u.Input = n
		case "output", "outputTokens", "output_tokens", "completionTokens", "completion_tokens":
			u.Output = n
		case "cacheRead", "cache_read", "cache_read_input_tokens":
			u.CacheRead = n
		case "cacheWrite", "cache_write", "cache_creation_input_tokens":
			u.CacheWrite = n
		case "totalTokens", "total", "total_tokens":
			u.Total, total = n, true
		case "cost":
			known = false
			u.Cost, u.Priced, parts = cost(f)
		default:
			known = false
		}
		any = any || known && f.Kind() == 0
		return true
	})
	if !total || u.Total == 0 {
		u.Total = u.Input + u.Output + u.CacheRead + u.CacheWrite
	}
	if u.Priced && parts && u.Cost.Total == 0 {
		u.Cost.Total = u.Cost.Input + u.Cost.Output + u.Cost.CacheRead + u.Cost.CacheWrite
	}
	return u, any
}

// cost reads {input,output,cacheRead,cacheWrite,total}; priced when a total is stated or a part is.
func cost(v Value) (c Cost, priced, parts bool) {
	v.Members(func(key string, f Value) bool {
		n, ok := f.Num()
		if !ok || n < 0 {
			return true
		}
		switch key {
		case "input":
			c.Input, parts = n, true
		case "output":
			c.Output, parts = n, true
		case "cacheRead":
			c.CacheRead, parts = n, true
		case "cacheWrite":
			c.CacheWrite, parts = n, true
		case "total":
			c.Total, priced = n, true
		}
		return true
	})
	return c, priced || parts, parts
}

// isoTime reads a time as text, or as milliTime does.
func isoTime(v Value) time.Time {
	if v.Kind() != '"' {
		return milliTime(v)
	}
	t, err := time.Parse(time.RFC3339Nano, v.Str())
	if err != nil {
		return time.Time{}
	}
	return t
}

// milliTime reads milliseconds since the epoch, or a time as text; beyond what a JavaScript date holds there is none.
func milliTime(v Value) time.Time {
	if v.Kind() == '"' {
		return isoTime(v)
	}
	ms, ok := v.Num()
	if !ok || ms <= 0 || ms > 8.64e15 {
		return time.Time{}
	}
	return time.UnixMilli(int64(ms)).UTC()
}
