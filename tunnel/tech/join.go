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
	// maxAsked bounds what a channel asks without an answer; a node takes far less at once. maxPut is of how many files it
	// remembers that their upload has its row.
	maxAsked = 8192
	maxPut   = 4096
)

// errExpired ends channels and watchers.
var errExpired = identity.ErrEnded.WithText("the token that opened this has expired; come back with a new one, the technician session goes on")

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
	ID     string
	Kind   message.Kind
	opened time.Time

	once  sync.Once
	timer *time.Timer // ends it with the caller's token; nil without one

	mu   sync.Mutex
	conn message.Conn // nil until the node has opened it
	why  error        // what it was closed with
	what string
	// doing is what runs on a terminal channel; asked is what the node has not answered yet on the others, in order.
	doing act
	shows bool // doing is a terminal that is open
	asked []act
	put   map[string]string // uploads that have their row: path to upload
}

// act is something that the node is asked to do, for the row at its end. Without an op it needs no row at its begin.
type act struct {
	op     string
	detail map[string]any
	bytes  int64
	sha256 string // of an upload that ends
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
	j := &Joined{h: h, caller: c, ID: in.ChannelID, Kind: in.Kind, opened: s.c.Now(), put: map[string]string{}}
	if err := h.add(j); err != nil {
		if errors.Is(err, ErrNotAllowed) {
			s.refuse("not_allowed")
			if err := h.record(ctx, in.ChannelID, "refused", ErrNotAllowed.Text, c.Subject(), map[string]any{"kind": string(in.Kind)}); err != nil {
				return nil, err
			}
		}
		return nil, err
	}
	if err := h.record(ctx, j.ID, "channel_open", "ok", c.Subject(), map[string]any{"kind": string(j.Kind)}); err != nil {
		h.remove(j)
		return nil, err
	}
	opening, cancel := context.WithTimeout(ctx, channelTime)
	conn, err := h.lane.Channel(opening, c, j.ID, j.Kind)
	cancel()
	if err != nil {
		_ = j.Close(err) // there is nothing to close but the row
		return nil, err
	}
	j.mu.Lock()
	j.conn = conn
	why := j.why
	if why == nil && !c.Expires.IsZero() {
		j.timer = time.AfterFunc(c.Expires.Sub(s.c.Now()), func() { _ = j.Close(errExpired) }) // stopped by Close
	}
	j.mu.Unlock()
	if why == nil && h.ending() {
		why = ErrEnded
	}
	if why != nil { // the session ended while it was opened
		_ = j.Close(why)
		_ = conn.Close(why)
		return nil, why
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

// Send checks a message, writes down what it does, and gives it to the node: what the row says and nothing else. It waits
// while the node does not read. What is refused is written down too, and the channel goes on. It may be called from one
// goroutine at a time.
//
// Errors: ErrMessage, ErrNotAllowed, ErrDirectory, ErrRate, ErrTooMany, ErrEnded, and those of the disk and the link; after
// the last three the channel is of no use.
func (j *Joined) Send(ctx context.Context, m message.Message) error {
	if err := j.standing(); err != nil {
		return err
	}
	m, row, err := j.check(m)
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
	if err := j.expect(m.Type, row); err != nil {
		return err
	}
	if err := j.pass(ctx, m); err != nil {
		return err
	}
	if m.Type == message.TypeInput {
		j.h.pace.key()
	}
	j.h.touch(len(m.Payload)+len(m.Data), 0)
	if err := j.conn.Send(ctx, m); err != nil {
		return j.cause(err)
	}
	return nil
}

// standing fails when the channel is closed, or its caller may no longer.
func (j *Joined) standing() error {
	j.mu.Lock()
	why := j.why
	j.mu.Unlock()
	switch {
	case why != nil:
		return why
	case !j.caller.Expires.IsZero() && !j.h.s.c.Now().Before(j.caller.Expires):
		_ = j.Close(errExpired) // said below
		return errExpired
	}
	return nil
}

// expect notes what the node is to answer.
func (j *Joined) expect(typ string, row act) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.Kind != message.Terminal:
		if len(j.asked) >= maxAsked {
			return ErrTooMany.WithText("the node has not answered for too long; read its answers")
		}
		j.asked = append(j.asked, row)
	case typ == message.TypeCommand, typ == message.TypeOpen:
		j.doing = row
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

// check says what a message does, and returns it as the node gets it: with the members that were looked at, each once.
func (j *Joined) check(m message.Message) (message.Message, act, error) {
	row := act{detail: map[string]any{}}
	harmless, known := toNode[j.Kind][m.Type]
	if !known || !utf8.Valid(m.Payload) {
		return m, row, ErrMessage
	}
	j.h.mu.Lock()
	readOnly, dirs := j.h.rec.ReadOnly, j.h.rec.Directories
	j.h.mu.Unlock()
	var err error
	out := message.Message{Type: m.Type, Data: m.Data}
	switch m.Type {
	case message.TypeInput, message.TypeClose:
	case message.TypeResize:
		var p message.TerminalSize
		if err = into(m, &p, &out); err != nil {
			return m, row, err
		}
	case message.TypeCommand:
		var p message.Command
		if err = into(m, &p, &out); err != nil {
			return m, row, err
		}
		row.op = "command"
		exact(row.detail, "command", p.Command)
		exact(row.detail, "cwd", p.Cwd)
		switch {
		case strings.TrimSpace(p.Command) == "" || len(p.Command) > MaxCommand || strings.ContainsRune(p.Command+p.Cwd, 0) || p.TimeoutMS < 0:
			err = ErrMessage.WithText("a command is 1 to 32768 bytes without a zero byte, its limit of time no negative number")
		case p.Cwd != "" && len(dirs) > 0 && !within(dirs, p.Cwd):
			err = ErrDirectory
		}
	case message.TypeOpen:
		var p message.TerminalOpen
		if err = into(m, &p, &out); err != nil {
			return m, row, err
		}
		row.op = "terminal_open"
		names := make([]string, len(p.Env)) // their values may be secrets
		for i, v := range p.Env {
			names[i], _, _ = strings.Cut(v, "=")
		}
		row.detail["argv"], row.detail["env"] = p.Argv, names
		exact(row.detail, "cwd", p.Cwd)
		switch {
		case strings.ContainsRune(strings.Join(p.Argv, "")+strings.Join(p.Env, "")+p.Cwd, 0):
			err = ErrMessage.WithText("a terminal is opened without a zero byte in its words")
		case p.Cwd != "" && len(dirs) > 0 && !within(dirs, p.Cwd):
			err = ErrDirectory
		}
	case message.TypeList, message.TypeRead, message.TypeSum, message.TypeWrite:
		err = j.checkFile(m, &out, &row, dirs, readOnly)
	case message.TypeRegistry:
		var p message.RegistryCall
		if err = into(m, &p, &out); err != nil {
			return m, row, err
		}
		row.op = "registry"
		row.detail["op"] = p.Op
		exact(row.detail, "key", p.Key)
		exact(row.detail, "value_name", p.Name)
		if harmless = slices.Contains(reads, p.Op); !harmless {
			row.detail["value"], row.detail["value_kind"] = string(p.Value), p.Kind
		}
	case message.TypeService:
		var p message.ServiceCall
		if err = into(m, &p, &out); err != nil {
			return m, row, err
		}
		row.op = "service"
		row.detail["op"] = p.Op
		exact(row.detail, "name", p.Name)
		harmless = slices.Contains(reads, p.Op)
	}
	switch {
	case err != nil:
		return m, row, err
	case len(out.Payload) > message.MaxPayload || len(out.Data) > message.MaxData:
		return m, row, ErrMessage.WithText(message.ErrTooLarge.Error())
	case readOnly && !harmless:
		return m, row, ErrNotAllowed
	case (row.op == "command" || row.op == "terminal_open") && !j.h.command():
		return m, row, ErrRate
	}
	return out, row, nil
}

// into reads a payload, and puts what was read into what goes on: two readers of JSON do not always see the same in one text.
func into(m message.Message, p any, out *message.Message) error {
	if err := m.Into(p); err != nil {
		return ErrMessage.WithText(err.Error())
	}
	if out != nil {
		out.Payload = message.Of(m.Type, p, nil).Payload
	}
	return nil
}

// nameOf is a path as it is, and as it goes on.
func nameOf(text *string, b64 *[]byte) string {
	name := *text
	if len(*b64) > 0 {
		name = string(*b64)
	}
	if *text, *b64 = name, nil; !utf8.ValidString(name) {
		*text, *b64 = strings.ToValidUTF8(name, "\uFFFD"), []byte(name)
	}
	return name
}

// checkFile is check for files. Pieces of an upload that has its row already need no other one.
func (j *Joined) checkFile(m message.Message, out *message.Message, row *act, dirs []string, readOnly bool) error {
	row.op = m.Type
	var name string
	var offset, length int64
	var write message.FileWrite
	switch m.Type {
	case message.TypeList:
		var p message.Path
		if err := into(m, &p, nil); err != nil {
			return err
		}
		name = nameOf(&p.Path, &p.PathB64)
		nameOf(&p.After, &p.AfterB64)
		out.Payload = message.Of(m.Type, p, nil).Payload
	case message.TypeWrite:
		if err := into(m, &write, nil); err != nil {
			return err
		}
		name, offset, length = nameOf(&write.Path, &write.PathB64), write.Offset, write.Size
		out.Payload = message.Of(m.Type, write, nil).Payload
		row.detail["offset"] = offset
		if write.Upload != "" {
			row.detail["upload"] = write.Upload
		}
	default:
		var p message.FileRead
		if err := into(m, &p, nil); err != nil {
			return err
		}
		name, offset, length = nameOf(&p.Path, &p.PathB64), p.Offset, p.Length
		out.Payload = message.Of(m.Type, p, nil).Payload
		row.detail["offset"], row.detail["length"] = offset, length
	}
	exact(row.detail, "path", name)
	switch {
	case name == "" || strings.ContainsRune(name, 0) || offset < 0 || length < 0:
		return ErrMessage.WithText("a path is not empty and has no zero byte; offset, length and size are no negative numbers")
	case len(dirs) > 0 && !within(dirs, name):
		return ErrDirectory
	case m.Type != message.TypeWrite || readOnly:
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	known, seen := j.put[name]
	switch {
	case seen && known == write.Upload:
		row.op = ""
	case len(j.put) >= maxPut: // a file has its row again when it is written again
		clear(j.put)
		fallthrough
	default:
		j.put[name] = write.Upload
	}
	if write.EOF {
		delete(j.put, name)
		row.sha256 = write.SHA256
	}
	return nil
}

// Receive returns the next message of the node; io.EOF when the channel has ended well. What the node did is written down
// before it is returned.
func (j *Joined) Receive(ctx context.Context) (message.Message, error) {
	m, err := j.conn.Receive(ctx)
	if err != nil {
		return message.Message{}, j.cause(err)
	}
	if err := j.pass(ctx, m); err != nil {
		return message.Message{}, err
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
		if err := into(m, &p, nil); err != nil {
			return err
		}
		out, errOut := outputOf(p.Stdout, p.StdoutB64), outputOf(p.Stderr, p.StderrB64)
		show("stdout", out)
		show("stderr", errOut)
		j.count(len(out) + len(errOut))
		if p.ExitCode != nil || p.Signal != "" || p.TimedOut {
			return j.finish(ctx, "command_end", "ok", p.ExitCode, map[string]any{"signal": p.Signal, "timed_out": p.TimedOut, "truncated": p.Truncated})
		}
	case message.TypeOpened:
		j.mu.Lock()
		j.shows = true
		j.mu.Unlock()
	case message.TypeChunk:
		show("terminal", m.Data)
		j.count(len(m.Data))
	case message.TypeExit:
		var p message.Exit
		if err := into(m, &p, nil); err != nil {
			return err
		}
		return j.finish(ctx, "terminal_exit", "ok", p.ExitCode, map[string]any{"signal": p.Signal})
	case message.TypeFileChunk:
		var p message.FileChunk
		if err := into(m, &p, nil); err != nil {
			return err
		}
		j.count(len(m.Data))
		if p.Done {
			return j.finish(ctx, "file_read_end", "ok", nil, map[string]any{"sha256": p.SHA256})
		}
	case message.TypeAck:
		var p message.FileAck
		if err := into(m, &p, nil); err != nil {
			return err
		}
		if p.Done {
			return j.finish(ctx, "file_write_end", "ok", nil, map[string]any{"written": p.Written})
		}
		j.answered()
	case message.TypeEntries, message.TypeFileSum, message.TypeRegistryResult, message.TypeServiceResult:
		j.answered()
	case message.TypeError:
		var p message.Failure
		if err := into(m, &p, nil); err != nil {
			return err
		}
		j.mu.Lock()
		shows := j.shows
		j.mu.Unlock()
		if shows { // a key or a size was refused; the terminal goes on
			return j.h.record(ctx, j.ID, "failed", p.Error, j.caller.Subject(), map[string]any{"code": p.Code})
		}
		return j.finish(ctx, "failed", p.Error, nil, map[string]any{"code": p.Code})
	}
	return nil
}

// count counts what the node has written or read so far.
func (j *Joined) count(n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.Kind == message.Terminal {
		j.doing.bytes += int64(n)
	} else if len(j.asked) > 0 {
		j.asked[0].bytes += int64(n)
	}
}

// answered is what the node has answered now.
func (j *Joined) answered() act {
	j.mu.Lock()
	defer j.mu.Unlock()
	did := j.doing
	j.shows = false
	if j.doing = (act{}); j.Kind != message.Terminal && len(j.asked) > 0 {
		did = j.asked[0]
		j.asked[0] = act{}
		if j.asked = j.asked[1:]; len(j.asked) == 0 {
			j.asked = nil
		}
	}
	if len(j.asked) == 0 {
		j.what = ""
	}
	return did
}

func outputOf(plain string, b64 []byte) []byte {
	if len(b64) > 0 {
		return b64
	}
	return []byte(plain)
}

// finish writes the end of what the node did.
func (j *Joined) finish(ctx context.Context, op, outcome string, code *int, detail map[string]any) error {
	did := j.answered()
	about(did, detail)
	if code != nil {
		detail["exit_code"] = *code
	}
	err := j.h.record(ctx, j.ID, op, outcome, j.caller.Subject(), detail)
	e := Event{Type: "done", ChannelID: j.ID, Kind: j.Kind, ExitCode: code, Text: outcome}
	if j.Kind == message.Terminal {
		e.Type = "exit"
	}
	j.h.hub.tell(e)
	return err
}

// about says in the row of an end what has ended.
func about(did act, detail map[string]any) {
	if did.op != "" {
		detail["of"] = did.op
	}
	if did.bytes > 0 {
		detail["bytes"] = did.bytes
	}
	if did.sha256 != "" {
		detail["sha256"] = did.sha256
	}
	for _, name := range []string{"path", "path_b64"} {
		if v, ok := did.detail[name]; ok {
			detail[name] = v
		}
	}
}

// Close ends the channel, with nil as well as with why. It may be called more than once and at any time; the first reason
// counts.
func (j *Joined) Close(why error) error {
	var err error
	j.once.Do(func() {
		told := why
		if why == nil {
			why = io.EOF
		}
		j.mu.Lock()
		j.why = why
		did, conn := j.doing, j.conn
		if len(j.asked) > 0 {
			did = j.asked[0]
		}
		if j.timer != nil {
			j.timer.Stop()
		}
		j.mu.Unlock()
		if conn != nil {
			err = conn.Close(told)
		}
		j.h.remove(j)
		detail, outcome := map[string]any{"kind": string(j.Kind)}, "ok"
		if told != nil {
			outcome = outcomeOf(told)
		} else if did.detail != nil {
			outcome = "cut off"
		}
		about(did, detail)
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
	hangUp := sync.OnceFunc(func() {
		hang, cancel := context.WithTimeout(context.WithoutCancel(ctx), hangUpTime)
		defer cancel()
		_ = j.conn.Send(hang, message.Message{Type: message.TypeClose}) // the end of the channel says it as well
		_ = j.Close(context.Cause(ctx))                                 // Receive below returns
	})
	stop := context.AfterFunc(ctx, hangUp)
	defer func() {
		if stop(); ctx.Err() != nil {
			hangUp()
		}
		_ = j.Close(nil) // it has ended
	}()
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
			if err := into(m, &out, nil); err != nil {
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
			if err := into(m, &f, nil); err != nil {
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
