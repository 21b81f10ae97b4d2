package tech

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

const (
	// MaxCommand bounds a command line in bytes.
	MaxCommand = 32 << 10
	// maxWhat is how much of a command or a path a list of channels shows, in bytes.
	maxWhat = 256
	// channelTime bounds how long a node takes to open a channel.
	channelTime = 15 * time.Second
	// hangUpTime bounds how long a command that nobody waits for any more may take to end.
	hangUpTime = 10 * time.Second
)

// JoinIn is the argument of Join.
type JoinIn struct {
	SessionID string
	// ChannelID is made when it is empty.
	ChannelID string
	Kind      message.Kind
}

// Joined is a channel for who opened it. One goroutine may send while another receives.
type Joined struct {
	h      *hold
	caller identity.Caller
	conn   message.Conn
	ID     string
	Kind   message.Kind
	opened time.Time

	once   sync.Once
	closed chan struct{}

	mu    sync.Mutex
	why   error // what it was closed with
	what  string
	doing act               // what the node is asked last
	put   map[string]string // uploads that have their row: path to upload
}

// act is something that the node does, for the row at its end.
type act struct {
	op     string
	detail map[string]any
	bytes  int64
}

var channelID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,36}$`)

// toNode says which messages go to the node on a channel of a kind, and whether they leave the node as it is.
var toNode = map[message.Kind]map[string]bool{
	message.Terminal: {message.TypeCommand: false, message.TypeOpen: false, message.TypeInput: false, message.TypeResize: false, message.TypeClose: false},
	message.File:     {message.TypeList: true, message.TypeRead: true, message.TypeSum: true, message.TypeWrite: false},
	message.Registry: {message.TypeRegistry: true},
	message.Service:  {message.TypeService: true},
}

// reads are the operations on registry and services that change nothing.
var reads = []string{"get", "list", "status"}

// Join opens a channel in a session of the caller. The context is for the opening only.
//
// Errors: ErrScope, ErrSession, ErrUnknown, ErrForeign, ErrEnded, ErrKind, ErrNotAllowed, ErrChannel, ErrChannelUsed,
// ErrTooMany, ErrUnsupported, and those of the node.
func (s *Service) Join(ctx context.Context, c identity.Caller, in JoinIn) (*Joined, error) {
	if !c.Has(identity.ScopeWrite) {
		return nil, ErrScope
	}
	h, err := s.find(c, in.SessionID, true)
	switch {
	case err != nil:
		return nil, err
	case toNode[in.Kind] == nil:
		return nil, ErrKind
	case in.ChannelID == "":
		in.ChannelID = uuid.NewString()
	case !channelID.MatchString(in.ChannelID):
		return nil, ErrChannel
	}
	j := &Joined{h: h, caller: c, ID: in.ChannelID, Kind: in.Kind, opened: s.c.Now(), closed: make(chan struct{}), put: map[string]string{}}
	if err := h.add(j); err != nil {
		if errors.Is(err, ErrNotAllowed) {
			s.refuse("not_allowed")
			if err := h.record(ctx, in.ChannelID, "refused", ErrNotAllowed.Text, c.Subject(), map[string]any{"kind": string(in.Kind)}); err != nil {
				return nil, err
			}
		}
		return nil, err
	}
	err = h.record(ctx, j.ID, "channel_open", "ok", c.Subject(), map[string]any{"kind": string(j.Kind)})
	if err == nil {
		opening, cancel := context.WithTimeout(ctx, channelTime)
		j.conn, err = h.lane.Channel(opening, c, j.ID, j.Kind)
		cancel()
	}
	if err != nil {
		h.remove(j)
		return nil, err
	}
	h.mu.Lock()
	over := h.over
	h.mu.Unlock()
	if over { // while it was opened
		_ = j.Close(ErrEnded) // the error below says it
		return nil, ErrEnded
	}
	h.hub.tell(Event{Type: "channel_opened", ChannelID: j.ID, Kind: j.Kind, Subject: c.Subject()})
	return j, nil
}

func (h *hold) add(j *Joined) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.over:
		return ErrEnded
	case !slices.Contains(h.rec.Kinds, j.Kind), h.rec.ReadOnly && j.Kind == message.Terminal:
		return ErrNotAllowed
	case h.channels[j.ID] != nil:
		return ErrChannelUsed
	case len(h.channels) >= MaxChannels:
		return ErrTooMany
	}
	h.channels[j.ID] = j
	return nil
}

func (h *hold) remove(j *Joined) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.channels[j.ID] == j {
		delete(h.channels, j.ID)
	}
}

func (j *Joined) shown() Channel {
	j.mu.Lock()
	defer j.mu.Unlock()
	return Channel{ID: j.ID, Kind: j.Kind, OpenedAt: j.opened, What: j.what}
}

// Send checks a message, writes down what it does, and gives it to the node. It waits while the node does not read. What
// is refused is written down too, and the channel goes on.
//
// Errors: ErrMessage, ErrNotAllowed, ErrDirectory, ErrRate, ErrEnded, and those of the disk and the link, after which the
// channel is of no use.
func (j *Joined) Send(ctx context.Context, m message.Message) error {
	row, err := j.check(m)
	if err != nil {
		if e, ok := errs.As(err); ok && !errors.Is(err, ErrMessage) {
			j.h.s.refuse(reasonOf(err))
			row.detail["type"] = m.Type
			if err := j.h.record(ctx, j.ID, "refused", e.Text, j.caller.Subject(), row.detail); err != nil {
				return err
			}
			j.h.hub.tell(Event{Type: "refused", ChannelID: j.ID, Kind: j.Kind, Subject: j.caller.Subject(), Text: e.Text})
		}
		return err
	}
	if row.op != "" {
		if err := j.h.record(ctx, j.ID, row.op, "ok", j.caller.Subject(), row.detail); err != nil {
			return err
		}
		j.tellAct(row)
	}
	j.h.touch(len(m.Payload)+len(m.Data), 0)
	if err := j.conn.Send(ctx, m); err != nil {
		return j.cause(err)
	}
	return nil
}

func reasonOf(err error) string {
	switch {
	case errors.Is(err, ErrRate):
		return "rate"
	case errors.Is(err, ErrDirectory):
		return "directory"
	default:
		return "not_allowed"
	}
}

func (j *Joined) tellAct(row act) {
	e := Event{Type: row.op, ChannelID: j.ID, Kind: j.Kind, Subject: j.caller.Subject(), Text: text(row.detail)}
	switch j.Kind {
	case message.File:
		e.Type = "file"
	case message.Registry, message.Service:
		e.Type = string(j.Kind)
	case message.Terminal:
		e.Type = "command"
	}
	j.mu.Lock()
	j.what = e.Text[:min(len(e.Text), maxWhat)]
	j.mu.Unlock()
	j.h.hub.tell(e)
}

// text is what an act is about.
func text(detail map[string]any) string {
	for _, name := range []string{"command", "path", "key", "name", "argv"} {
		switch v := detail[name].(type) {
		case string:
			return v
		case []string:
			return strings.Join(v, " ")
		}
	}
	if op, ok := detail["op"].(string); ok {
		return op
	}
	return ""
}

// exact puts text into a row byte by byte: what is no UTF-8 stands there in base64.
func exact(detail map[string]any, name, value string) {
	if utf8.ValidString(value) {
		detail[name] = value
		return
	}
	detail[name+"_b64"] = base64.StdEncoding.EncodeToString([]byte(value))
	detail[name] = strings.ToValidUTF8(value, "\uFFFD")
}

// check says what a message does: nothing that needs a row where op is empty.
func (j *Joined) check(m message.Message) (act, error) {
	row := act{detail: map[string]any{}}
	harmless, known := toNode[j.Kind][m.Type]
	if !known {
		return row, ErrMessage
	}
	if len(m.Payload) > message.MaxPayload || len(m.Data) > message.MaxData {
		return row, ErrMessage.WithText(message.ErrTooLarge.Error())
	}
	j.h.mu.Lock()
	readOnly, dirs := j.h.rec.ReadOnly, j.h.rec.Directories
	j.h.mu.Unlock()
	var err error
	switch m.Type {
	case message.TypeCommand:
		var p message.Command
		if err = into(m, &p); err != nil {
			return row, err
		}
		row.op = "command"
		exact(row.detail, "command", p.Command)
		exact(row.detail, "cwd", p.Cwd)
		switch {
		case strings.TrimSpace(p.Command) == "" || len(p.Command) > MaxCommand || strings.ContainsRune(p.Command, 0) || p.TimeoutMS < 0:
			return row, ErrMessage.WithText("a command is 1 to 32768 bytes without a zero byte, its limit of time no negative number")
		case p.Cwd != "" && len(dirs) > 0 && !within(dirs, p.Cwd):
			return row, ErrDirectory
		}
	case message.TypeOpen:
		var p message.TerminalOpen
		if err = into(m, &p); err != nil {
			return row, err
		}
		row.op = "terminal_open"
		row.detail["argv"] = p.Argv
		exact(row.detail, "cwd", p.Cwd)
		if p.Cwd != "" && len(dirs) > 0 && !within(dirs, p.Cwd) {
			return row, ErrDirectory
		}
	case message.TypeList, message.TypeRead, message.TypeSum, message.TypeWrite:
		if row, err = j.checkFile(m, dirs); err != nil {
			return row, err
		}
	case message.TypeRegistry:
		var p message.RegistryCall
		if err = into(m, &p); err != nil {
			return row, err
		}
		row.op = "registry"
		row.detail["op"] = p.Op
		exact(row.detail, "key", p.Key)
		exact(row.detail, "value_name", p.Name)
		harmless = slices.Contains(reads, p.Op)
		if !harmless {
			row.detail["value"], row.detail["value_kind"] = string(p.Value), p.Kind
		}
	case message.TypeService:
		var p message.ServiceCall
		if err = into(m, &p); err != nil {
			return row, err
		}
		row.op = "service"
		row.detail["op"] = p.Op
		exact(row.detail, "name", p.Name)
		harmless = slices.Contains(reads, p.Op)
	}
	if readOnly && !harmless {
		return row, ErrNotAllowed
	}
	if (row.op == "command" || row.op == "terminal_open") && !j.h.command() {
		return row, ErrRate
	}
	if row.op != "" {
		j.mu.Lock()
		j.doing = row
		j.mu.Unlock()
	}
	return row, nil
}

func into(m message.Message, p any) error {
	if err := m.Into(p); err != nil {
		return ErrMessage.WithText(err.Error())
	}
	return nil
}

// checkFile is check for files. Pieces of an upload that has its row already need no other one.
func (j *Joined) checkFile(m message.Message, dirs []string) (act, error) {
	row := act{op: m.Type, detail: map[string]any{}}
	var p message.FileWrite // the others have no member that it has not
	if err := into(m, &p); err != nil {
		return row, err
	}
	name := p.Path
	if len(p.PathB64) > 0 {
		name = string(p.PathB64)
	}
	exact(row.detail, "path", name)
	switch {
	case name == "" || strings.ContainsRune(name, 0) || p.Offset < 0:
		return row, ErrMessage.WithText("a path has no zero byte, and an offset is no negative number")
	case len(dirs) > 0 && !within(dirs, name):
		return row, ErrDirectory
	}
	switch m.Type {
	case message.TypeRead, message.TypeSum:
		var r message.FileRead
		if err := into(m, &r); err != nil {
			return row, err
		}
		row.detail["offset"], row.detail["length"] = r.Offset, r.Length
	case message.TypeWrite:
		row.detail["offset"] = p.Offset
		if p.Upload != "" {
			row.detail["upload"] = p.Upload
		}
		j.mu.Lock()
		known, seen := j.put[name]
		switch {
		case seen && known == p.Upload:
			row.op = ""
		case len(j.put) >= maxQueue: // each path has its row at the latest when it is written again
			clear(j.put)
			fallthrough
		default:
			j.put[name] = p.Upload
		}
		if p.EOF {
			delete(j.put, name)
		}
		j.mu.Unlock()
	}
	return row, nil
}

// Receive returns the next message of the node; io.EOF when the channel has ended well. What the node did is written down
// before it is returned.
func (j *Joined) Receive(ctx context.Context) (message.Message, error) {
	m, err := j.conn.Receive(ctx)
	if err != nil {
		return message.Message{}, j.cause(err)
	}
	j.h.touch(0, len(m.Payload)+len(m.Data))
	if err := j.tap(ctx, m); err != nil {
		return message.Message{}, err
	}
	return m, nil
}

// cause is why the channel ended, as far as this side knows.
func (j *Joined) cause(err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.why != nil {
		return j.why
	}
	return err
}

// tap shows what the node says to the watchers, and writes down what has ended.
func (j *Joined) tap(ctx context.Context, m message.Message) error {
	show := func(stream string, data []byte) {
		if len(data) > 0 {
			j.h.hub.tell(Event{Type: "output", ChannelID: j.ID, Kind: j.Kind, Stream: stream, Data: slices.Clone(data)})
		}
	}
	switch m.Type {
	case message.TypeOutput:
		var p message.Output
		if err := into(m, &p); err != nil {
			return err
		}
		out, errOut := outputOf(p.Stdout, p.StdoutB64), outputOf(p.Stderr, p.StderrB64)
		show("stdout", out)
		show("stderr", errOut)
		j.mu.Lock()
		j.doing.bytes += int64(len(out) + len(errOut))
		j.mu.Unlock()
		if p.ExitCode != nil || p.Signal != "" || p.TimedOut {
			return j.finish(ctx, "command_end", "ok", p.ExitCode, map[string]any{"signal": p.Signal, "timed_out": p.TimedOut, "truncated": p.Truncated})
		}
	case message.TypeChunk:
		show("terminal", m.Data)
	case message.TypeExit:
		var p message.Exit
		if err := into(m, &p); err != nil {
			return err
		}
		return j.finish(ctx, "terminal_exit", "ok", p.ExitCode, map[string]any{"signal": p.Signal})
	case message.TypeFileChunk:
		var p message.FileChunk
		if err := into(m, &p); err != nil {
			return err
		}
		j.mu.Lock()
		j.doing.bytes += int64(len(m.Data))
		j.mu.Unlock()
		if p.Done {
			return j.finish(ctx, "file_read_end", "ok", nil, map[string]any{"sha256": p.SHA256})
		}
	case message.TypeAck:
		var p message.FileAck
		if err := into(m, &p); err != nil {
			return err
		}
		if p.Done {
			return j.finish(ctx, "file_write_end", "ok", nil, map[string]any{"written": p.Written})
		}
	case message.TypeError:
		var p message.Failure
		if err := into(m, &p); err != nil {
			return err
		}
		return j.finish(ctx, "failed", p.Error, nil, map[string]any{"code": p.Code})
	}
	return nil
}

func outputOf(plain string, b64 []byte) []byte {
	if len(b64) > 0 {
		return b64
	}
	return []byte(plain)
}

// finish writes the end of what the node did.
func (j *Joined) finish(ctx context.Context, op, outcome string, code *int, detail map[string]any) error {
	j.mu.Lock()
	did := j.doing
	if op != "file_write_end" { // pieces of another file may be on their way
		j.doing = act{}
	}
	j.what = ""
	j.mu.Unlock()
	if did.bytes > 0 {
		detail["bytes"] = did.bytes
	}
	if path, ok := did.detail["path"]; ok {
		detail["path"] = path
	}
	if did.op != "" {
		detail["of"] = did.op
	}
	e := Event{Type: "exit", ChannelID: j.ID, Kind: j.Kind, ExitCode: code, Text: outcome}
	if code != nil {
		detail["exit_code"] = *code
	}
	err := j.h.record(ctx, j.ID, op, outcome, j.caller.Subject(), detail)
	if j.Kind != message.Terminal {
		e.Type = "done"
	}
	j.h.hub.tell(e)
	return err
}

// Close ends the channel. It may be called more than once; the first reason counts.
func (j *Joined) Close(why error) error {
	err := j.close(why)
	return err
}

func (j *Joined) close(why error) error {
	var err error
	j.once.Do(func() {
		j.mu.Lock()
		if why == nil {
			why = io.EOF
		}
		j.why = why
		did := j.doing
		j.mu.Unlock()
		close(j.closed)
		if why == io.EOF {
			err = j.conn.Close(nil)
		} else {
			err = j.conn.Close(why)
		}
		j.h.remove(j)
		detail := map[string]any{"kind": string(j.Kind)}
		outcome := "ok"
		if did.op != "" {
			outcome = "cut off"
			detail["of"] = did.op
		}
		ctx, cancel := context.WithTimeout(context.Background(), recordTime)
		defer cancel()
		if rerr := j.h.record(ctx, j.ID, "channel_close", outcome, j.caller.Subject(), detail); rerr != nil {
			j.h.s.c.Log.Error("the end of a channel could not be written down", "session", j.h.id, "channel", j.ID, "err", rerr)
		}
		j.h.hub.tell(Event{Type: "channel_closed", ChannelID: j.ID, Kind: j.Kind, Subject: j.caller.Subject()})
	})
	return err
}

// RunIn is the argument of Run.
type RunIn struct {
	SessionID string
	ChannelID string // made when it is empty
	message.Command
}

// Run runs one command in a session of the caller, on a channel of its own. each gets what the command writes, as it does,
// at last with the exit code; an error of each ends the command. When ctx ends, the command is hung up.
// Errors: those of Join and Joined.Send, and what the node says.
func (s *Service) Run(ctx context.Context, c identity.Caller, in RunIn, each func(channelID string, out message.Output) error) error {
	j, err := s.Join(ctx, c, JoinIn{SessionID: in.SessionID, ChannelID: in.ChannelID, Kind: message.Terminal})
	if err != nil {
		return err
	}
	defer func() { _ = j.Close(nil) }() // it has ended
	stop := context.AfterFunc(ctx, func() {
		hang, cancel := context.WithTimeout(context.WithoutCancel(ctx), hangUpTime)
		defer cancel()
		_ = j.conn.Send(hang, message.Message{Type: message.TypeClose}) // the end of the channel says it as well
		_ = j.Close(context.Cause(ctx))                                 // Receive below returns
	})
	defer stop()
	if err := j.Send(ctx, message.Of(message.TypeCommand, in.Command, nil)); err != nil {
		return err
	}
	for {
		m, err := j.Receive(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return ErrUnsupported.WithText("the node ended the channel without an exit code")
		case err != nil:
			return err
		}
		switch m.Type {
		case message.TypeOutput:
			var out message.Output
			if err := into(m, &out); err != nil {
				return err
			}
			if err := each(j.ID, out); err != nil {
				return err
			}
			if out.ExitCode != nil || out.Signal != "" || out.TimedOut {
				return nil
			}
		case message.TypeError:
			var f message.Failure
			if err := into(m, &f); err != nil {
				return err
			}
			return failure(f)
		}
	}
}

// failure is what a node said, as an error.
func failure(f message.Failure) error {
	class := map[string]*errs.Error{"invalid": ErrMessage, "denied": ErrNotAllowed, "exhausted": ErrTooMany}[f.Code]
	if class == nil {
		class = ErrUnsupported
	}
	return class.WithText(f.Error)
}
