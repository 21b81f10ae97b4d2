// Package message is what travels on the channels of technician sessions (tunnel.md §3.4, §3.5): a type, a payload in
// JSON, and bytes. On the link of a node the bytes stand in the payload as data_b64, in an envelope
// {"type","payload"}; on a pipe they follow the payload as they are.
//
// It imports the standard library only.
package message

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Limits, in bytes.
const (
	// MaxPayload bounds the payload of a message, MaxData its bytes. A sender cuts what is longer.
	MaxPayload = 64 << 10
	MaxData    = 256 << 10
)

// The errors of this package.
var (
	// ErrTooLarge is a message beyond the limits.
	ErrTooLarge = errors.New("the message is larger than 64 KiB of payload and 256 KiB of data")
	// ErrSyntax is what is no message.
	ErrSyntax = errors.New("not a message")
)

// Kind is what a channel is for (seed 001: Terminal, File, Registry, Service).
type Kind string

// The kinds.
const (
	Terminal Kind = "terminal"
	File     Kind = "file"
	Registry Kind = "registry"
	Service  Kind = "service"
)

// Kinds are all of them.
var Kinds = []Kind{Terminal, File, Registry, Service}

// The types of messages. To the node:
const (
	TypeCommand  = "terminal"        // Command: runs one command line
	TypeOpen     = "terminal_open"   // TerminalOpen: attaches a terminal
	TypeInput    = "terminal_input"  // data: what is typed
	TypeResize   = "terminal_resize" // TerminalSize
	TypeClose    = "terminal_close"  // hangs the terminal up, or ends the command that runs
	TypeList     = "file_list"       // Path
	TypeRead     = "file_read"       // FileRead
	TypeWrite    = "file_write"      // FileWrite, data
	TypeSum      = "file_sum"        // FileRead: asks for the checksum of a range
	TypeRegistry = "registry"        // RegistryCall
	TypeService  = "service"         // ServiceCall
)

// The types of messages from the node:
const (
	TypeOutput         = "terminal_output" // Output of a command; the last one has the exit code
	TypeOpened         = "terminal_ready"  // TerminalReady
	TypeChunk          = "terminal_chunk"  // data: what the terminal shows
	TypeExit           = "terminal_exit"   // Exit
	TypeEntries        = "file_entries"    // Entries
	TypeFileChunk      = "file_chunk"      // FileChunk, data
	TypeAck            = "file_ack"        // FileAck
	TypeFileSum        = "file_checksum"   // FileSum
	TypeRegistryResult = "registry_result" // RegistryResult
	TypeServiceResult  = "service_result"  // ServiceResult
	TypeError          = "error"           // Failure: what was asked last did not work; the channel goes on
)

// Message is one message.
type Message struct {
	Type string
	// Payload is a JSON object, or empty.
	Payload json.RawMessage
	// Data are the bytes that belong to it.
	Data []byte
}

// Of makes a message with a payload that can be put as JSON.
func Of(typ string, payload any, data []byte) Message {
	b, err := json.Marshal(payload)
	if err != nil {
		panic("message: " + err.Error()) // the types of this package always can
	}
	return Message{Type: typ, Payload: b, Data: data}
}

// Into reads the payload. Unknown members are ignored.
func (m Message) Into(payload any) error {
	if len(m.Payload) == 0 {
		return nil
	}
	if err := json.Unmarshal(m.Payload, payload); err != nil {
		return fmt.Errorf("%w: the payload of %.32q is not understood", ErrSyntax, m.Type)
	}
	return nil
}

// The payloads.
type (
	// Command is one command line for the shell of the node's user.
	Command struct {
		Command string `json:"command"`
		Cwd     string `json:"cwd,omitempty"`
		// TimeoutMS is 0 for the limit of the node.
		TimeoutMS int64 `json:"timeout_ms,omitempty"`
	}
	// Output is what a command has written since the last one. ExitCode is null until the command has ended (128 and the number of
	// the signal that ended it); what is no UTF-8 stands in the members _b64 in place of the others. Truncated says that not all of it is kept.
	Output struct {
		Stdout    string `json:"stdout"`
		Stderr    string `json:"stderr"`
		StdoutB64 []byte `json:"stdout_b64,omitempty"`
		StderrB64 []byte `json:"stderr_b64,omitempty"`
		ExitCode  *int   `json:"exit_code"`
		Signal    string `json:"signal,omitempty"`
		TimedOut  bool   `json:"timed_out,omitempty"`
		Truncated bool   `json:"truncated,omitempty"`
	}
	TerminalOpen struct {
		// Argv is the shell of the node's user when it is empty.
		Argv []string `json:"argv,omitempty"`
		Cwd  string   `json:"cwd,omitempty"`
		Env  []string `json:"env,omitempty"`
		Cols int      `json:"cols,omitempty"`
		Rows int      `json:"rows,omitempty"`
	}
	TerminalSize struct {
		Cols int `json:"cols"`
		Rows int `json:"rows"`
	}
	TerminalReady struct {
		PID  int64    `json:"pid"`
		Argv []string `json:"argv"`
	}
	Exit struct {
		ExitCode *int   `json:"exit_code"`
		Signal   string `json:"signal,omitempty"`
	}
	// Path is a path of the node. What is no UTF-8 stands in PathB64, here and below.
	Path struct {
		Path    string `json:"path"`
		PathB64 []byte `json:"path_b64,omitempty"`
		// After is the name after which a list goes on.
		After    string `json:"after,omitempty"`
		AfterB64 []byte `json:"after_b64,omitempty"`
	}
	Entry struct {
		Name    string `json:"name"`
		NameB64 []byte `json:"name_b64,omitempty"`
		Size    int64  `json:"size"`
		Mode    string `json:"mode"` // as ls shows it: -rw-r--r--
		MtimeMS int64  `json:"mtime_ms"`
		Dir     bool   `json:"dir"`
		Link    bool   `json:"link,omitempty"`
	}
	Entries struct {
		Entries []Entry `json:"entries"`
		// More says that the list goes on after the last name.
		More bool `json:"more,omitempty"`
	}
	// FileRead asks for a range in bytes; a length of 0 is up to the end.
	FileRead struct {
		Path    string `json:"path"`
		PathB64 []byte `json:"path_b64,omitempty"`
		Offset  int64  `json:"offset"`
		Length  int64  `json:"length"`
	}
	// FileChunk is a piece; with the last one, EOF says whether the file ends there, Done that the range does, and
	// SHA256 (hex) and Size are of the whole range that was sent and of the whole file.
	FileChunk struct {
		Offset int64  `json:"offset"`
		EOF    bool   `json:"eof"`
		Done   bool   `json:"done,omitempty"`
		SHA256 string `json:"sha256,omitempty"`
		Size   int64  `json:"size,omitempty"`
	}
	// FileWrite is a piece of an upload. Upload names it (8 to 64 letters, digits, - and _), so that one that was cut off is
	// gone on with at the offset that the node acknowledged; without it the piece is written in place. With EOF the
	// upload ends: it takes its name when SHA256 (hex, of the whole) holds.
	FileWrite struct {
		Path     string `json:"path"`
		PathB64  []byte `json:"path_b64,omitempty"`
		Offset   int64  `json:"offset"`
		Truncate bool   `json:"truncate,omitempty"`
		EOF      bool   `json:"eof,omitempty"`
		SHA256   string `json:"sha256,omitempty"`
		Upload   string `json:"upload,omitempty"`
		// Probe asks how much of an upload is there, with no data.
		Probe bool  `json:"probe,omitempty"`
		Size  int64 `json:"size,omitempty"` // of the whole, where it is known
		// Parents makes the directories above the file, Mode are its permission bits (0 leaves them): of uploads.
		Parents bool   `json:"parents,omitempty"`
		Mode    uint32 `json:"mode,omitempty"`
	}
	// FileAck answers each FileWrite, in their order: how many bytes are on the node's disk, from the begin of the file. A sender
	// may have several pieces under way. SHA256 (hex) is of those bytes; it answers a probe.
	FileAck struct {
		Written int64  `json:"written"`
		Done    bool   `json:"done,omitempty"`
		SHA256  string `json:"sha256,omitempty"`
	}
	FileSum struct {
		SHA256 string `json:"sha256"`
		Size   int64  `json:"size"`
	}
	// RegistryCall is for the registry of Windows: Op is get, set, delete or list.
	RegistryCall struct {
		Op    string          `json:"op"`
		Key   string          `json:"key"`
		Name  string          `json:"name,omitempty"`
		Value json.RawMessage `json:"value,omitempty"`
		Kind  string          `json:"kind,omitempty"`
		// After is the key after which a list goes on.
		After string `json:"after,omitempty"`
	}
	// RegistryResult answers all of them; get and list with what is there. More says that the list goes on after the last key.
	// A Value is a text (sz, expand_sz; base64 for binary and other kinds), a list of texts (multi_sz) or a number (dword,
	// qword).
	RegistryResult struct {
		Keys   []string        `json:"keys,omitempty"`
		Values []RegistryValue `json:"values,omitempty"`
		More   bool            `json:"more,omitempty"`
	}
	RegistryValue struct {
		Name  string          `json:"name"`
		Kind  string          `json:"kind"`
		Value json.RawMessage `json:"value"`
	}
	// ServiceCall is for the service manager of the node: Op is list, status, start, stop or restart.
	ServiceCall struct {
		Op   string `json:"op"`
		Name string `json:"name,omitempty"`
		// After is the name after which a list goes on.
		After string `json:"after,omitempty"`
	}
	// ServiceResult answers all of them: the one that was named as it is then, or all. More says that the list goes on after the
	// last name; a long one has no descriptions.
	ServiceResult struct {
		Services []ServiceState `json:"services"`
		More     bool           `json:"more,omitempty"`
	}
	ServiceState struct {
		Name        string `json:"name"`
		State       string `json:"state"`
		Enabled     bool   `json:"enabled"`
		Description string `json:"description,omitempty"`
	}
	// Failure is why something did not work. Code is one of invalid, denied, not_found, conflict, exhausted, unavailable,
	// unsupported, internal.
	Failure struct {
		Code  string `json:"code,omitempty"`
		Error string `json:"error"`
	}
)

// Conn carries the messages of one channel. One goroutine may send while another receives; Close may be called at any
// time, and ends both.
type Conn interface {
	// Send waits while the other side does not read. It does not keep the message.
	Send(ctx context.Context, m Message) error
	// Receive returns io.EOF when the other side has ended the channel. The message is the caller's.
	Receive(ctx context.Context) (Message, error)
	// Close ends the channel; an error tells the other side why.
	Close(err error) error
}

// Pipe is a stream of bytes in both directions, such as a channel beside a link or a stream of a carrier.
type Pipe interface {
	io.Reader
	io.Writer
	Close(err error) error
}

// Pieces is a Pipe that hands over what came piece by piece, without a copy: the piece is the caller's. It returns what Read
// returns beside, and what Read has left of a piece first.
type Pieces interface {
	Pipe
	Piece() ([]byte, error)
}

// head is a message on a pipe: the length of the head and of the data, big endian, then both.
type head struct {
	Type    string          `json:"type"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

// Over carries messages over a pipe. The contexts of its methods are not watched: who wants to end a wait closes it.
func Over(p Pipe) Conn { return &framed{pipe: p} }

type framed struct {
	pipe Pipe
	out  sync.Mutex
	buf  []byte // what is sent, kept from message to message
	in   sync.Mutex
	rest []byte // of the last piece
}

func (f *framed) Send(_ context.Context, m Message) error {
	h, err := json.Marshal(head{m.Type, m.Payload})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	if len(h) > MaxPayload || len(m.Data) > MaxData {
		return ErrTooLarge
	}
	f.out.Lock()
	defer f.out.Unlock()
	f.buf = binary.BigEndian.AppendUint32(f.buf[:0], uint32(len(h)))
	f.buf = binary.BigEndian.AppendUint32(f.buf, uint32(len(m.Data)))
	f.buf = append(append(f.buf, h...), m.Data...)
	for rest := f.buf; len(rest) > 0; {
		n, err := f.pipe.Write(rest[:min(len(rest), MaxData)])
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

func (f *framed) Receive(context.Context) (Message, error) {
	f.in.Lock()
	defer f.in.Unlock()
	n, err := f.take(8)
	if err != nil {
		return Message{}, err
	}
	hl, dl := binary.BigEndian.Uint32(n[:4]), binary.BigEndian.Uint32(n[4:])
	if hl > MaxPayload || dl > MaxData {
		return Message{}, ErrTooLarge
	}
	b, err := f.take(int(hl + dl))
	if err != nil {
		return Message{}, err
	}
	var h head
	if err := json.Unmarshal(b[:hl], &h); err != nil || h.Type == "" {
		return Message{}, ErrSyntax
	}
	m := Message{Type: h.Type, Payload: h.Payload}
	if dl > 0 {
		m.Data = b[hl:]
	}
	return m, nil
}

// take returns the next n bytes. What lies in one piece is not copied: each copy of a file costs the keys beside it. The
// caller holds in.
func (f *framed) take(n int) ([]byte, error) {
	pipe, ok := f.pipe.(Pieces)
	if !ok {
		b := make([]byte, n)
		_, err := io.ReadFull(f.pipe, b)
		return b, err
	}
	var b []byte
	for {
		if len(b) == 0 && len(f.rest) >= n {
			b, f.rest = f.rest[:n:n], f.rest[n:]
			return b, nil
		}
		if b == nil && len(f.rest) > 0 {
			b = make([]byte, 0, n)
		}
		k := min(n-len(b), len(f.rest))
		b, f.rest = append(b, f.rest[:k]...), f.rest[k:]
		if len(b) == n {
			return b, nil
		}
		var err error
		if f.rest, err = pipe.Piece(); err != nil {
			if errors.Is(err, io.EOF) && len(b) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

func (f *framed) Close(err error) error { return f.pipe.Close(err) }

// Envelope writes a message as {"type","payload"}, the bytes as data_b64 of the payload (tunnel.md §3.5).
func Envelope(m Message) (json.RawMessage, error) {
	p := m.Payload
	if len(m.Data) > 0 {
		members := map[string]json.RawMessage{}
		if len(p) > 0 {
			if err := json.Unmarshal(p, &members); err != nil {
				return nil, fmt.Errorf("%w: the payload is no object", ErrSyntax)
			}
		}
		b, err := json.Marshal(base64.StdEncoding.EncodeToString(m.Data))
		if err != nil {
			return nil, err
		}
		members["data_b64"] = b
		if p, err = json.Marshal(members); err != nil {
			return nil, err
		}
	}
	return json.Marshal(head{m.Type, p})
}

// FromEnvelope reads what Envelope writes.
func FromEnvelope(text []byte) (Message, error) {
	var h head
	if err := json.Unmarshal(text, &h); err != nil || h.Type == "" {
		return Message{}, ErrSyntax
	}
	m := Message{Type: h.Type, Payload: h.Payload}
	if string(h.Payload) == "null" {
		m.Payload = nil
	}
	if len(m.Payload) > 0 {
		members := map[string]json.RawMessage{}
		if err := json.Unmarshal(h.Payload, &members); err != nil {
			return Message{}, fmt.Errorf("%w: the payload is no object", ErrSyntax)
		}
		if coded, ok := members["data_b64"]; ok {
			if err := json.Unmarshal(coded, &m.Data); err != nil {
				return Message{}, fmt.Errorf("%w: data_b64 is no base64", ErrSyntax)
			}
			delete(members, "data_b64") // the bytes travel by themselves from here
			var err error
			if m.Payload, err = json.Marshal(members); err != nil {
				return Message{}, err
			}
		}
	}
	if len(m.Payload) > MaxPayload || len(m.Data) > MaxData {
		return Message{}, ErrTooLarge
	}
	return m, nil
}
