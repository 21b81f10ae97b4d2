package transcript

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// What the daemon writes itself carries these names in place of a model's.
const (
	OwnProvider = "openclaw"
	OwnModel    = "gateway-injected"
	ownAPI      = "openai-responses"
)

// isoMillis is how times are written: UTC with milliseconds.
const isoMillis = "2006-01-02T15:04:05.000Z"

// Build returns the header as a line, with its line break. A zero Version is Version.
func (h Header) Build() []byte {
	version := h.Version
	if version == 0 {
		version = Version
	}
	return marshalLine(struct {
		Type      string `json:"type"`
		Version   int    `json:"version"`
		ID        string `json:"id"`
		Timestamp string `json:"timestamp"`
		CWD       string `json:"cwd"`
		Parent    string `json:"parentSession,omitempty"`
	}{TypeHeader, version, h.ID, h.Timestamp.UTC().Format(isoMillis), h.CWD, h.Parent})
}

// Injected is a message that the daemon writes itself (sessions-chat.md §2).
type Injected struct {
	// ID is a fresh id of the file; Parent is its current leaf, "" when there is none. Without the right parent the
	// branch, and a compaction on it, is lost.
	ID, Parent string
	Text       string
	// Label, when there is one, becomes a first line of its own.
	Label string
	At    time.Time
}

// Build returns the entry as a line with its line break, and the message in it.
func (in Injected) Build() (line []byte, message []byte) {
	text := in.Text
	if in.Label != "" {
		text = "[" + in.Label + "]\n\n" + text
	}
	message = marshal(ownMessage{
		Role: RoleAssistant, Content: []ownText{{"text", text}}, Timestamp: in.At.UnixMilli(), StopReason: "stop",
		API: ownAPI, Provider: OwnProvider, Model: OwnModel,
	})
	return BuildMessage(in.ID, in.Parent, in.At, message), message
}

type ownText struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

type ownCost struct {
	Input      int `json:"input"`
	Output     int `json:"output"`
	CacheRead  int `json:"cacheRead"`
	CacheWrite int `json:"cacheWrite"`
	Total      int `json:"total"`
}

type ownUsage struct {
	Input      int     `json:"input"`
	Output     int     `json:"output"`
	CacheRead  int     `json:"cacheRead"`
	CacheWrite int     `json:"cacheWrite"`
	Total      int     `json:"totalTokens"`
	Cost       ownCost `json:"cost"`
}

type ownMessage struct {
	Role       string    `json:"role"`
	Content    []ownText `json:"content"`
	Timestamp  int64     `json:"timestamp"`
	StopReason string    `json:"stopReason"`
	Usage      ownUsage  `json:"usage"`
	API        string    `json:"api"`
	Provider   string    `json:"provider"`
	Model      string    `json:"model"`
}

// BuildMessage returns an entry of type message as a line with its line break. message is a JSON object on one line.
func BuildMessage(id, parent string, at time.Time, message []byte) []byte {
	var up *string
	if parent != "" {
		up = &parent
	}
	return marshalLine(struct {
		Type      string          `json:"type"`
		ID        string          `json:"id"`
		Parent    *string         `json:"parentId"`
		Timestamp string          `json:"timestamp"`
		Message   json.RawMessage `json:"message"`
	}{TypeMessage, id, up, at.UTC().Format(isoMillis), message})
}

func marshalLine(v any) []byte { return append(marshal(v), '\n') }

// marshal writes v without escaping what only HTML minds.
func marshal(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(fmt.Sprintf("transcript: encode %T: %v", v, err)) // only this package's own types come here
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// Leaf is the id of the current leaf: of the last entry that has one. header says whether the file has a valid header;
// without one it counts as empty, and there is no leaf.
func Leaf(r io.ReaderAt, size int64) (id string, header bool, err error) {
	if _, header, err = ReadHeader(r); err != nil || !header {
		return "", false, err
	}
	err = Backward(r, size, func(l Line) bool {
		if l.Oversized {
			id = prefixString(l.Data, "id")
			return id == ""
		}
		e, ok := ParseEntry(l.Data)
		if !ok || e.Type == TypeHeader || e.ID == "" {
			return true
		}
		id = e.ID
		return false
	})
	return id, header, err
}

// prefixString finds a top-level string member in the beginning of an object that was cut off.
func prefixString(prefix []byte, name string) string {
	i := blanks(prefix, 0)
	if i >= len(prefix) || prefix[i] != '{' {
		return ""
	}
	i = blanks(prefix, i+1)
	for i < len(prefix) && prefix[i] == '"' {
		end, ok := skipString(prefix, i)
		if !ok {
			return ""
		}
		key := unquote(prefix[i:end])
		i = blanks(prefix, end)
		if i >= len(prefix) || prefix[i] != ':' {
			return ""
		}
		i = blanks(prefix, i+1)
		if end, ok = skip(prefix, i, 0); !ok {
			return ""
		}
		if key == name {
			return Value(prefix[i:end]).Str()
		}
		if i = blanks(prefix, end); i < len(prefix) && prefix[i] == ',' {
			i = blanks(prefix, i+1)
		}
	}
	return ""
}

// FreshID makes an id of 8 hexadecimal characters that the first size bytes of r do not hold.
func FreshID(r io.ReaderAt, size int64) (string, error) {
	const tries = 16 // each fails with a chance of entries/2^32
	for range tries {
		var b [4]byte
		_, _ = rand.Read(b[:])
		id := hex.EncodeToString(b[:])
		taken, err := holds(r, size, []byte(`"`+id+`"`))
		if err != nil {
			return "", err
		}
		if !taken {
			return id, nil
		}
	}
	return "", fmt.Errorf("found no free entry id in %d tries", tries)
}

func holds(r io.ReaderAt, size int64, needle []byte) (bool, error) {
	buf := make([]byte, 256<<10)
	overlap := int64(len(needle) - 1)
	for at := int64(0); at < size; {
		n := min(int64(len(buf)), size-at)
		if err := readFull(r, buf[:n], at); err != nil {
			return false, err
		}
		if bytes.Contains(buf[:n], needle) {
			return true, nil
		}
		if at += n; at < size {
			at -= overlap
		}
	}
	return false, nil
}
