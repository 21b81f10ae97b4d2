// Package tech is a node's side of technician sessions: the mode of the machine, and the servers of the channels of
// the session that holds it (tunnel.md §3).
//
// It imports the errs leaf, nodes/host, tunnel/files, tunnel/terminal, tunnel/tech/message, the library of D-Bus on Linux,
// golang.org/x/sys and the standard library. A channel owns goroutines and programs; all of them have ended when its
// session has.
package tech

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/tunnel/files"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
	"github.com/hanzoai/hanzod/tunnel/terminal"
)

// Limits.
const (
	// MaxChannels is how many channels a session has at once: those of the gateway (tech.MaxChannels).
	MaxChannels = 32
	// maxDirectories and maxOwner bound what tech.open says, the latter in bytes.
	maxDirectories = 64
	maxOwner       = 512
	// openWait is how long tech.open waits for a session that is just ending.
	openWait = 10 * time.Second
	// closeWait is how long tech.close waits until all programs have ended.
	closeWait = 10 * time.Second
)

// grace is how long programs under a terminal have to heed SIGHUP, and then SIGTERM, before they are killed.
var grace = [2]time.Duration{500 * time.Millisecond, 1500 * time.Millisecond}

// The errors of this package.
var (
	ErrHeld    = errs.Define(errs.Conflict, "tech.node_held", "this node is held by another technician session")
	ErrSession = errs.Define(errs.NotFound, "tech.node_session", "this node is not held by that technician session; open one")
	ErrKind    = errs.Define(errs.Denied, "tech.node_kind", "this technician session has no channels of that kind")
	ErrUsed    = errs.Define(errs.Conflict, "tech.node_channel", "this technician session has a channel of that id")
	ErrMany    = errs.Define(errs.Exhausted, "tech.node_channels", "this technician session has too many channels; close some first")
	ErrEnding  = errs.Define(errs.Unavailable, "tech.node_ending", "the technician session has ended")
	ErrMessage = errs.Define(errs.Invalid, "tech.node_message", "this message does not belong on a channel of that kind")
	ErrDenied  = errs.Define(errs.Denied, "tech.node_denied", "the exec approvals of this node do not let that be done")
)

// Config of New. Policy and Roots are required.
type Config struct {
	Policy host.Policy
	// Env returns the environment that programs begin with; os.Environ.
	Env func() []string
	// Dir is where commands start that name no directory, in sessions without directories; "" is that of the process.
	Dir string
	// Roots are the directories whose files are offered, asked for anew with each session.
	Roots func() []files.Root
	// Mode is told of each change: the session that holds this machine, "" in heartbeat mode. Nil tells nobody.
	Mode func(session string)
	// Bus is the address of the system's D-Bus; empty is the usual one.
	Bus string
	Log *slog.Logger
}

// Module is the host.Module. Its methods may be called concurrently.
type Module struct {
	c         Config
	machine   Machine
	terminals *terminal.Manager
	wg        sync.WaitGroup
}

// New returns the module. Close ends its session.
func New(c Config) *Module {
	if c.Env == nil {
		c.Env = os.Environ
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Roots == nil {
		c.Roots = func() []files.Root { return nil }
	}
	return &Module{c: c, terminals: terminal.NewManager(terminal.Config{Linger: time.Second, Grace: grace, Log: c.Log})}
}

// Machine is the mode of this machine.
func (m *Module) Machine() *Machine { return &m.machine }

// Close ends the session, its channels and their programs, and waits until they have ended or ctx has.
func (m *Module) Close(ctx context.Context) error {
	if h := m.machine.stop(); h != nil {
		h.end(ErrEnding.WithText("this node is stopping"))
	}
	err := m.terminals.Close(ctx)
	done := make(chan struct{})
	go func() {
		m.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Commands implements host.Module.
func (m *Module) Commands() []string { return []string{"tech.channel", "tech.close", "tech.open"} }

// Caps implements host.Module.
func (m *Module) Caps() []string { return []string{"tech"} }

// params are those of all commands.
type params struct {
	Session     string          `json:"session_id"`
	Owner       string          `json:"owner"`
	Kinds       []message.Kind  `json:"kinds"`
	ReadOnly    bool            `json:"read_only"`
	Directories []string        `json:"directories"`
	Reason      string          `json:"reason"`
	ChannelID   string          `json:"channel_id"`
	Kind        message.Kind    `json:"kind"`
	Channel     string          `json:"channel"`
	AgentID     *string         `json:"agentId"`
	Approved    json.RawMessage `json:"approved"`
	Decision    json.RawMessage `json:"approvalDecision"`
}

var names = []string{"session_id", "owner", "kinds", "read_only", "directories", "reason", "channel_id", "kind", "channel", "agentId", "approved", "approvalDecision"}

func read(text *string) (p params, bad *host.Error) {
	if text == nil {
		return p, invalid("the parameters are missing")
	}
	// Names count as they are written: who guards this node reads them so, too.
	var members map[string]json.RawMessage
	if json.Unmarshal(bytes.TrimSpace([]byte(*text)), &members) != nil {
		return p, invalid("the parameters must be an object")
	}
	for name := range members {
		if !slices.Contains(names, name) {
			delete(members, name)
		}
	}
	clean, _ := json.Marshal(members) // of JSON
	if json.Unmarshal(clean, &p) != nil {
		return p, invalid("a parameter is of the wrong kind")
	}
	if !idOK(p.Session, 64) {
		return p, invalid("session_id is missing, or is no id")
	}
	return p, nil
}

// idOK reports whether a text is 1 to most letters, digits, - and _.
func idOK(s string, most int) bool {
	return s != "" && len(s) <= most && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}

func invalid(text string) *host.Error { return &host.Error{Code: "INVALID_PARAMS", Message: text} }

// codes are what a failure is called, by its class.
var codes = map[errs.Class]string{
	errs.Invalid: "INVALID_PARAMS", errs.NotFound: "NOT_FOUND", errs.Exists: "CONFLICT", errs.Conflict: "CONFLICT", errs.Denied: "DENIED",
	errs.Exhausted: "EXHAUSTED", errs.Deadline: "TIMEOUT",
}

func failed(err error) *host.Error {
	code := codes[errs.ClassOf(err)]
	if code == "" {
		code = "UNAVAILABLE"
	}
	return &host.Error{Code: code, Message: strings.ToValidUTF8(err.Error(), "\uFFFD")}
}

// Handle implements host.Module.
func (m *Module) Handle(ctx context.Context, r host.Request) host.Result {
	p, bad := read(r.ParamsJSON)
	if bad == nil {
		switch r.Command {
		case "tech.open":
			bad = m.open(ctx, r, p)
		case "tech.close":
			bad = m.close(ctx, r, p)
		case "tech.channel":
			bad = m.channel(ctx, r, p)
		default:
			bad = &host.Error{Code: "UNKNOWN_COMMAND", Message: "unknown command: " + r.Command}
		}
	}
	if bad != nil {
		return host.Result{Error: bad}
	}
	text := `{"ok":true,"session_id":"` + p.Session + `"}` // an id
	return host.Result{OK: true, PayloadJSON: &text}
}

// open is tech.open.
func (m *Module) open(ctx context.Context, r host.Request, p params) *host.Error {
	if len(p.Owner) > maxOwner {
		return invalid("owner is too long")
	}
	approved := string(p.Approved) == "true" || string(p.Decision) == `"allow-once"` || string(p.Decision) == `"allow-always"`
	s := Session{ID: p.Session, Owner: p.Owner, Kinds: p.Kinds, ReadOnly: p.ReadOnly, Directories: p.Directories}
	if err := m.Open(ctx, s, Admission{AgentID: p.AgentID, Approved: approved}, r.Ended); err != nil {
		return failed(err)
	}
	return nil
}

// close is tech.close. A session that does not hold this machine, or no longer, is closed.
func (m *Module) close(ctx context.Context, r host.Request, p params) *host.Error {
	if err := m.EndSession(ctx, p.Session, p.Reason, r.Ended); err != nil {
		return failed(err)
	}
	return nil
}

// channel is tech.channel: the messages of a channel ride the channel of the link that the request names.
func (m *Module) channel(ctx context.Context, r host.Request, p params) *host.Error {
	switch {
	case !idOK(p.ChannelID, 36):
		return invalid("channel_id is missing, or is no id")
	case p.Channel == "":
		return invalid("missing channel")
	case r.Channel == nil:
		return &host.Error{Code: "UNAVAILABLE", Message: "this link has no channels"}
	}
	h, err := m.machine.find(p.Session, r.Ended, true)
	if err != nil {
		return failed(err)
	}
	c, err := h.begin(p.ChannelID, p.Kind)
	if err != nil {
		return failed(err)
	}
	ch, err := r.Channel(ctx, p.Channel)
	if err != nil {
		h.finish(c)
		return &host.Error{Code: "UNAVAILABLE", Message: "the channel could not be opened: " + err.Error()}
	}
	go func() { // ends with the channel, and with the session
		defer h.finish(c)
		_ = c.serve(context.WithoutCancel(ctx), message.Over(ch)) // the gateway was told why
	}()
	return nil
}

// ServeChannel serves a channel of the session that holds this machine over conn, until the other side, the session or
// ctx ends; it closes conn and returns when all programs of the channel have ended. It fails with ErrSession, ErrKind, ErrUsed
// and ErrMany, without having served anything.
func (m *Module) ServeChannel(ctx context.Context, session, channel string, kind message.Kind, conn message.Conn) error {
	h, err := m.machine.find(session, nil, false)
	var c *served
	if err == nil {
		c, err = h.begin(channel, kind)
	}
	if err != nil {
		_ = conn.Close(err) // the other side learns why
		return err
	}
	defer h.finish(c)
	return c.serve(ctx, conn)
}
