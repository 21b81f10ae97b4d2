// Package hanzotunnel speaks the link protocol of Hanzo Tunnel (tunnel.md §1, §2): JSON objects in WebSocket
// text messages, one object each, between an instance that dials and a server at /v1/tunnel or /v1/relay.
// The frames are those of both halves; the door serves instances, the dialler is one.
package hanzotunnel

import (
	"errors"
	"fmt"

	"github.com/hanzoai/hanzod/compat/wire"
)

// Limits of the protocol.
const (
	// MaxFromInstance is the largest message that an instance may send (tunnel.md §2.2).
	MaxFromInstance = 10 << 20
	// MaxToBridge is what the Python bridge refuses to receive, in bytes: a message to it stays below
	// (tunnel.md §1.2, rule 4).
	MaxToBridge = 1 << 20
)

// Paths are where the server half listens (tunnel.md §1.1).
var Paths = []string{"/v1/tunnel", "/v1/relay"}

// The errors of Parse.
var (
	// ErrUnknownType is a frame of a type that is none of those below. Readers ignore it.
	ErrUnknownType = errors.New("unknown frame type")
	// ErrFrame is a text that is no frame: no object, without a type, or with a member that is missing or of
	// another type than it has to be.
	ErrFrame = errors.New("not a frame")
	// errRegister is wrapped beside ErrFrame where it was to be a registration.
	errRegister = errors.New("frame of type register")
)

// Frame is one of *Register, *Registered, *Command, *Response, *Event, Ping, Pong, and the messages of technician sessions.
type Frame interface {
	// append writes the frame as JSON text.
	append(dst []byte) []byte
}

// Register is the first frame of an instance, but for an early ping. Absent texts and lists are empty:
// nothing depends on whether they were sent.
type Register struct {
	InstanceID   string
	AppKind      string
	DisplayName  string
	Capabilities []string
	Commands     []string
	Version      string
	Platform     string
	// Cwd is absent where the instance names none.
	Cwd wire.Opt[string]
	// Metadata is any JSON text, empty when it is absent; the crate writes null.
	Metadata wire.Raw
}

// Registered is the answer to Register.
type Registered struct {
	InstanceID string
	// SessionURL may be absent or null.
	SessionURL wire.Opt[string]
}

// Command goes to the instance.
type Command struct {
	ID     string
	Method string
	// Params is JSON text, empty when it is absent. A server always writes an object: the bridge fails on
	// null (tunnel.md §1.3).
	Params wire.Raw
}

// Response is the answer of the instance to a Command.
type Response struct {
	ID string
	OK bool
	// Data is JSON text, empty when it is absent.
	Data wire.Raw
	// Error is absent, null or the text of what failed.
	Error wire.Opt[string]
}

// Event goes both ways; the server sends expose.assigned and expose.failed (tunnel.md §1.12).
type Event struct {
	Event string
	// Data is JSON text. It is required: empty is written as null.
	Data wire.Raw
}

// Ping and Pong go both ways.
type (
	Ping struct{}
	Pong struct{}
)

// The messages of technician sessions (tunnel.md §3.4), whose members stand in a payload.
type (
	// TunnelOpen and TunnelClose go to the instance.
	TunnelOpen struct {
		SessionID string
		// TechID is who holds the instance.
		TechID string
	}
	TunnelClose struct{ SessionID string }
	// TunnelReady answers TunnelOpen.
	TunnelReady struct{ SessionID string }
	// TunnelData goes both ways.
	TunnelData struct {
		ChannelID string
		// Data is an object {"type","payload"}.
		Data wire.Raw
	}
	// TunnelError goes to the server. About a session, its id stands in the place of a channel's.
	TunnelError struct {
		ChannelID string
		Error     string
	}
)

// Append writes a frame as JSON text, in the order of members of the originals.
func Append(dst []byte, f Frame) []byte { return f.append(dst) }

func (f *Register) append(dst []byte) []byte {
	dst = field(append(dst, `{"type":"register"`...), "instance_id", f.InstanceID)
	dst = field(dst, "app_kind", f.AppKind)
	dst = field(dst, "display_name", f.DisplayName)
	dst = list(dst, "capabilities", f.Capabilities)
	dst = list(dst, "commands", f.Commands)
	dst = field(dst, "version", f.Version)
	dst = field(dst, "platform", f.Platform)
	dst = optional(dst, "cwd", f.Cwd)
	return append(raw(dst, "metadata", f.Metadata), '}')
}

func (f *Registered) append(dst []byte) []byte {
	dst = field(append(dst, `{"type":"registered"`...), "instance_id", f.InstanceID)
	return append(optional(dst, "session_url", f.SessionURL), '}')
}

func (f *Command) append(dst []byte) []byte {
	dst = field(append(dst, `{"type":"command"`...), "id", f.ID)
	dst = field(dst, "method", f.Method)
	return append(raw(dst, "params", f.Params), '}')
}

func (f *Response) append(dst []byte) []byte {
	dst = field(append(dst, `{"type":"response"`...), "id", f.ID)
	if f.OK {
		dst = append(dst, `,"ok":true`...)
	} else {
		dst = append(dst, `,"ok":false`...)
	}
	dst = raw(dst, "data", f.Data)
	return append(optional(dst, "error", f.Error), '}')
}

func (f *Event) append(dst []byte) []byte {
	dst = field(append(dst, `{"type":"event"`...), "event", f.Event)
	if f.Data.IsZero() {
		return append(dst, `,"data":null}`...)
	}
	return append(raw(dst, "data", f.Data), '}')
}

func (Ping) append(dst []byte) []byte { return append(dst, `{"type":"ping"}`...) }
func (Pong) append(dst []byte) []byte { return append(dst, `{"type":"pong"}`...) }

func (f *TunnelOpen) append(dst []byte) []byte {
	dst = first(append(dst, `{"type":"tunnel_open"`...), "session_id", f.SessionID)
	return append(field(dst, "tech_id", f.TechID), "}}"...)
}

func (f *TunnelClose) append(dst []byte) []byte {
	return append(first(append(dst, `{"type":"tunnel_close"`...), "session_id", f.SessionID), "}}"...)
}

func (f *TunnelReady) append(dst []byte) []byte {
	return append(first(append(dst, `{"type":"tunnel_ready"`...), "session_id", f.SessionID), "}}"...)
}

func (f *TunnelData) append(dst []byte) []byte {
	dst = first(append(dst, `{"type":"tunnel_data"`...), "channel_id", f.ChannelID)
	if f.Data.IsZero() {
		return append(dst, `,"data":null}}`...)
	}
	return append(raw(dst, "data", f.Data), "}}"...)
}

func (f *TunnelError) append(dst []byte) []byte {
	dst = first(append(dst, `{"type":"tunnel_error"`...), "channel_id", f.ChannelID)
	return append(field(dst, "error", f.Error), "}}"...)
}

// first begins a payload with its first member.
func first(dst []byte, name, text string) []byte {
	dst = append(append(append(dst, `,"payload":{"`...), name...), `":`...)
	return wire.AppendString(dst, text)
}

func key(dst []byte, name string) []byte {
	return append(append(append(dst, `,"`...), name...), `":`...)
}

func field(dst []byte, name, text string) []byte { return wire.AppendString(key(dst, name), text) }

func list(dst []byte, name string, items []string) []byte {
	dst = append(key(dst, name), '[')
	for i, item := range items {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = wire.AppendString(dst, item)
	}
	return append(dst, ']')
}

func optional(dst []byte, name string, text wire.Opt[string]) []byte {
	if text.IsNull() {
		return append(key(dst, name), "null"...)
	}
	if s, ok := text.Get(); ok {
		return field(dst, name, s)
	}
	return dst
}

func raw(dst []byte, name string, text wire.Raw) []byte {
	if text.IsZero() {
		return dst
	}
	return append(key(dst, name), text...)
}

// Parse reads one message. Members that the frame does not have are ignored; null counts as absent but for the
// members that tell them apart. The bounds of size and depth are those of wire.Parse; how long a message
// may be is the reader's business. An error wraps wire.ErrSyntax, wire.ErrLimit, ErrUnknownType or ErrFrame and
// quotes nothing of the message but an unknown type.
func Parse(data []byte) (Frame, error) {
	v, err := wire.Parse(data)
	if err != nil {
		return nil, err
	}
	if v.Kind() != wire.Object {
		return nil, fmt.Errorf("%w: want an object, got %s", ErrFrame, v.Kind())
	}
	m := members{v: v}
	typ := m.need("type")
	if m.err != nil {
		return nil, m.err
	}
	var f Frame
	switch typ {
	case "register":
		f = &Register{
			InstanceID: m.text("instance_id"), AppKind: m.text("app_kind"), DisplayName: m.text("display_name"),
			Capabilities: m.list("capabilities"), Commands: m.list("commands"), Version: m.text("version"),
			Platform: m.text("platform"), Cwd: m.optional("cwd"), Metadata: m.raw("metadata"),
		}
	case "registered":
		f = &Registered{InstanceID: m.need("instance_id"), SessionURL: m.optional("session_url")}
	case "command":
		f = &Command{ID: m.need("id"), Method: m.need("method"), Params: m.raw("params")}
	case "response":
		f = &Response{ID: m.need("id"), OK: m.flag("ok"), Data: m.raw("data"), Error: m.optional("error")}
	case "event":
		f = &Event{Event: m.need("event"), Data: m.raw("data")}
	case "tunnel_open":
		p := m.payload()
		f = &TunnelOpen{SessionID: p.need("session_id"), TechID: p.text("tech_id")}
		m.err = p.err
	case "tunnel_close":
		p := m.payload()
		f = &TunnelClose{SessionID: p.need("session_id")}
		m.err = p.err
	case "tunnel_ready":
		p := m.payload()
		f = &TunnelReady{SessionID: p.need("session_id")}
		m.err = p.err
	case "tunnel_data":
		p := m.payload()
		f = &TunnelData{ChannelID: p.need("channel_id"), Data: p.object("data")}
		m.err = p.err
	case "tunnel_error":
		p := m.payload()
		f = &TunnelError{ChannelID: p.need("channel_id"), Error: p.text("error")}
		m.err = p.err
	case "ping":
		f = Ping{}
	case "pong":
		f = Pong{}
	default:
		return nil, fmt.Errorf("%w %q", ErrUnknownType, wire.TruncateUTF8(typ, maxTypeShown))
	}
	switch {
	case m.err != nil && typ == "register":
		return nil, fmt.Errorf("%w in a %w", m.err, errRegister)
	case m.err != nil:
		return nil, fmt.Errorf("%w in a frame of type %s", m.err, typ)
	}
	return f, nil
}

// maxTypeShown is how much of an unknown type an error shows, in bytes.
const maxTypeShown = 64

// members reads the members of an object; err is the first that was wrong.
type members struct {
	v   wire.Value
	err error
}

// get returns a member, Undefined when it is absent.
func (m *members) get(name string) wire.Value {
	v, _ := m.v.Get(name)
	return v
}

func (m *members) wrong(name, want string, v wire.Value) {
	if m.err == nil {
		m.err = fmt.Errorf("%w: member %s is %s, want %s", ErrFrame, name, v.Kind(), want)
	}
}

func (m *members) need(name string) string {
	v := m.get(name)
	if v.Kind() != wire.String {
		m.wrong(name, "a string", v)
	}
	return v.Str()
}

func (m *members) text(name string) string { return m.optional(name).Or("") }

func (m *members) optional(name string) wire.Opt[string] {
	switch v := m.get(name); v.Kind() {
	case wire.Undefined:
		return wire.Opt[string]{}
	case wire.Null:
		return wire.NullOf[string]()
	case wire.String:
		return wire.Some(v.Str())
	default:
		m.wrong(name, "a string", v)
		return wire.Opt[string]{}
	}
}

func (m *members) list(name string) []string {
	v := m.get(name)
	if !v.Exists() || v.IsNull() {
		return nil
	}
	if v.Kind() != wire.Array {
		m.wrong(name, "an array", v)
		return nil
	}
	out := make([]string, 0, v.Len())
	for item := range v.Items() {
		if item.Kind() != wire.String {
			m.wrong(name, "an array of strings", v)
			return nil
		}
		out = append(out, item.Str())
	}
	return out
}

func (m *members) flag(name string) bool {
	v := m.get(name)
	if v.Kind() != wire.Bool {
		m.wrong(name, "a boolean", v)
	}
	return v.Bool()
}

// payload is the members of the payload, which has to be there.
func (m *members) payload() *members {
	v := m.get("payload")
	p := &members{v: v}
	if v.Kind() != wire.Object {
		p.wrong("payload", "an object", v)
	}
	return p
}

// object is the text of a member that has to be an object.
func (m *members) object(name string) wire.Raw {
	v := m.get(name)
	if v.Kind() != wire.Object {
		m.wrong(name, "an object", v)
		return nil
	}
	return wire.Raw(v.Raw())
}

func (m *members) raw(name string) wire.Raw {
	v := m.get(name)
	if !v.Exists() {
		return nil
	}
	return wire.Raw(v.Raw())
}
