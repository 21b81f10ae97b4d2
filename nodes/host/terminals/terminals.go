// Package terminals serves the commands terminal.* of a node: programs under a terminal of this machine, for a
// gateway (tunnel.md §1.6, §1.8). What a terminal writes rides the channel that a request names; on links without
// channels it goes in events.
//
// It imports nodes/host, tunnel/terminal and the standard library. A goroutine for each terminal that is followed
// ends with its link.
package terminals

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/tunnel/terminal"
)

const (
	// inputWait is how long input waits for a program that does not read; its piece is refused then.
	inputWait = 10 * time.Second
	// maxWaiting is how many requests wait so at once, of all terminals: the others must be served.
	maxWaiting = 16
	// eventPiece is how much output one event carries.
	eventPiece = 16 << 10
	// maxWindow bounds the credit of a gateway for events.
	maxWindow = terminal.Ahead
	// maxSide is the largest window, and what the Rust crate's numbers can hold.
	maxSide = 65535
)

// Config of New. Policy is required.
type Config struct {
	Policy host.Policy
	// Env returns the host's own environment; os.Environ.
	Env func() []string
	// Dir is where terminals open that name no directory; "" is that of the process, or the home of its user where
	// that is the root of the file system.
	Dir string
	// Terminals are the limits.
	Terminals terminal.Config
	Log       *slog.Logger
}

// Module is the host.Module. Its methods may be called concurrently.
type Module struct {
	c       Config
	m       *terminal.Manager
	waiting chan struct{} // holds one token per request that waits for a program

	mu        sync.Mutex
	followers map[string]*follower // by terminal: whose events go to a link
}

// New returns the module. Close ends its terminals.
func New(c Config) *Module {
	if c.Env == nil {
		c.Env = os.Environ
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Terminals.Log = c.Log
	return &Module{c: c, m: terminal.NewManager(c.Terminals), waiting: make(chan struct{}, maxWaiting), followers: map[string]*follower{}}
}

// Close ends all terminals, and waits until they have ended or ctx has.
func (m *Module) Close(ctx context.Context) error { return m.m.Close(ctx) }

var commands = map[string]func(*Module, context.Context, host.Request, params) (any, *host.Error){
	"terminal.open": (*Module).open, "terminal.input": (*Module).input, "terminal.resize": (*Module).resize, "terminal.close": (*Module).close,
	"terminal.list": (*Module).list, "terminal.attach": (*Module).attach, "terminal.ack": (*Module).ack,
}

// Commands implements host.Module. terminal.attach and terminal.ack are ours.
func (m *Module) Commands() []string {
	return []string{"terminal.ack", "terminal.attach", "terminal.close", "terminal.input", "terminal.list", "terminal.open", "terminal.resize"}
}

// Caps implements host.Module.
func (m *Module) Caps() []string { return []string{"terminal"} }

// Sequence implements host.Sequencer: what is typed into a terminal stays in order.
func (m *Module) Sequence(r host.Request) string {
	if r.Command != "terminal.input" || r.ParamsJSON == nil {
		return ""
	}
	var p struct {
		Session string `json:"session_id"`
	}
	if json.Unmarshal([]byte(*r.ParamsJSON), &p) != nil {
		return ""
	}
	return p.Session
}

// Handle implements host.Module.
func (m *Module) Handle(ctx context.Context, r host.Request) host.Result {
	serve := commands[r.Command]
	if serve == nil {
		return host.Result{Error: &host.Error{Code: "UNKNOWN_COMMAND", Message: "unknown command: " + r.Command}}
	}
	p, err := read(r.ParamsJSON)
	if err != nil {
		return host.Result{Error: err}
	}
	out, err := serve(m, ctx, r, p)
	if err != nil {
		return host.Result{Error: err}
	}
	text := encode(out)
	return host.Result{OK: true, PayloadJSON: &text}
}

// params are those of all commands.
type params struct {
	Session  *string            `json:"session_id"`
	Shell    string             `json:"shell"`
	Cmd      json.RawMessage    `json:"cmd"`
	Argv     json.RawMessage    `json:"argv"`
	Cwd      string             `json:"cwd"`
	Env      map[string]*string `json:"env"`
	Cols     *float64           `json:"cols"`
	Rows     *float64           `json:"rows"`
	Data     *string            `json:"data"`
	Base64   *string            `json:"data_b64"`
	From     *float64           `json:"from"`
	Seq      *float64           `json:"seq"`
	Window   *float64           `json:"window"`
	Channel  string             `json:"channel"`
	AgentID  *string            `json:"agentId"`
	Approved json.RawMessage    `json:"approved"`
	Decision json.RawMessage    `json:"approvalDecision"`
}

// names are those of params.
var names = []string{
	"session_id", "shell", "cmd", "argv", "cwd", "env", "cols", "rows", "data", "data_b64", "from", "seq", "window", "channel", "agentId", "approved", "approvalDecision",
}

func read(text *string) (p params, bad *host.Error) {
	if text == nil {
		return p, nil
	}
	raw := bytes.TrimSpace([]byte(*text))
	if len(raw) == 0 || string(raw) == "null" {
		return p, nil
	}
	if raw[0] != '{' {
		return p, invalid("the parameters must be an object")
	}
	// Names count as they are written: who guards this node reads them so, too.
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err == nil {
		for name := range members {
			if !slices.Contains(names, name) {
				delete(members, name)
			}
		}
		raw = []byte(encode(members))
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return p, invalid(fmt.Sprintf("%s must not be a %s", e.Field, e.Value))
		}
		return p, invalid("the parameters are no JSON: " + err.Error())
	}
	return p, nil
}

func invalid(text string) *host.Error { return &host.Error{Code: "INVALID_PARAMS", Message: text} }

// opened is the answer to terminal.open (tunnel.md §1.6), with members of ours behind it.
type opened struct {
	Session string `json:"session_id"`
	Shell   string `json:"shell"`
	PID     int    `json:"pid"`
	Cols    int    `json:"cols"`
	Rows    int    `json:"rows"`
	// Started is in milliseconds, Viewers how many watch; of terminal.list and terminal.attach.
	Started int64 `json:"started_at_ms,omitempty"`
	Viewers *int  `json:"viewers,omitempty"`
	// Seq and Start are the numbers of the next byte of output and of the first that is kept.
	Seq   *int64 `json:"seq,omitempty"`
	Start *int64 `json:"start_seq,omitempty"`
}

type okAnswer struct {
	OK bool `json:"ok"`
}

func answerOf(i terminal.Info) opened {
	return opened{Session: i.ID, Shell: i.Shell, PID: i.PID, Cols: i.Cols, Rows: i.Rows}
}

func longAnswerOf(i terminal.Info) opened {
	o := answerOf(i)
	o.Started, o.Viewers, o.Seq, o.Start = i.Started.UnixMilli(), &i.Viewers, &i.End, &i.Start
	return o
}

// open is terminal.open.
func (m *Module) open(ctx context.Context, r host.Request, p params) (any, *host.Error) {
	cols, bad := side("cols", p.Cols, 80)
	if bad != nil {
		return nil, bad
	}
	rows, bad := side("rows", p.Rows, 24)
	if bad != nil {
		return nil, bad
	}
	argv, text, inline, bad := m.argv(p)
	if bad != nil {
		return nil, bad
	}
	dir, bad := m.dir(p.Cwd)
	if bad != nil {
		return nil, bad
	}
	overrides := make(map[string]string, len(p.Env))
	for k, v := range p.Env {
		if v == nil {
			return nil, invalid("env must hold texts")
		}
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.ContainsRune(*v, 0) {
			return nil, invalid("env holds a name or a value that no environment can hold")
		}
		overrides[k] = *v
	}
	env, dropped := m.c.Policy.Environment(m.c.Env(), overrides, inline)
	if len(dropped) > 0 {
		m.c.Log.Info("environment overrides of a terminal were left out", "names", dropped)
	}
	env = terminal.Environ(env, cols, rows)
	program, err := host.Admit(m.c.Policy, host.Order{
		Argv: argv, Text: text, Dir: dir, Env: env, AgentID: p.AgentID, Approved: string(p.Approved) == "true" || approving(p.Decision),
	})
	if err != nil {
		if refused, ok := errors.AsType[*host.RefusedError](err); ok {
			return nil, &host.Error{Code: "DENIED", Message: refused.Message}
		}
		return nil, spawnFailed(err)
	}
	t, err := m.m.Open(terminal.Spec{Path: program.Path, Argv: program.Argv, Env: env, Dir: program.Dir, Cols: cols, Rows: rows, Files: program.Files, Began: program.Began, Name: argv[0]})
	if err != nil {
		program.Close()
		if errors.Is(err, terminal.ErrTooMany) {
			return nil, &host.Error{Code: "UNAVAILABLE", Message: err.Error()}
		}
		if cause := errors.Unwrap(err); cause != nil {
			err = cause
		}
		return nil, spawnFailed(err)
	}
	go func() { // its files are held as long as it runs
		<-t.Feed().Done()
		program.Close()
	}()
	m.c.Log.Info("a terminal was opened", "terminal", t.ID(), "program", argv[0], "pid", t.Info().PID)
	if bad := m.follow(ctx, r, t, p, terminal.FromStart); bad != nil {
		t.Close()
		return nil, bad
	}
	return answerOf(t.Info()), nil
}

func approving(decision json.RawMessage) bool {
	return string(decision) == `"allow-once"` || string(decision) == `"allow-always"`
}

func spawnFailed(err error) *host.Error {
	return &host.Error{Code: "SPAWN_FAILED", Message: "spawn failed: " + err.Error()}
}

// argv is what to run: cmd or argv, a list, or a line for the shell; else the shell itself.
func (m *Module) argv(p params) (argv []string, text string, inline bool, bad *host.Error) {
	shell := p.Shell
	if shell == "" {
		shell = m.shell()
	}
	given := p.Cmd
	if absent(given) {
		given = p.Argv
	}
	if absent(given) {
		if strings.ContainsRune(shell, 0) {
			return nil, "", false, invalid("shell holds a null byte")
		}
		return []string{shell}, shell, false, nil
	}
	var line string
	if json.Unmarshal(given, &line) == nil {
		if strings.TrimSpace(line) == "" {
			return nil, "", false, invalid("missing cmd")
		}
		given = []byte(encode(shellArgv(shell, line)))
	}
	argv, text, inline, err := m.c.Policy.Command(given, nil)
	switch {
	case err != nil:
		return nil, "", false, invalid(err.Error())
	case len(argv) == 0:
		return nil, "", false, invalid("cmd must be a list of texts, of which the first is the program")
	}
	for _, a := range argv {
		if strings.ContainsRune(a, 0) {
			return nil, "", false, invalid("cmd holds a null byte")
		}
	}
	return argv, text, inline, nil
}

func absent(raw json.RawMessage) bool {
	s := strings.TrimSpace(string(raw))
	return s == "" || s == "null" || s == "[]"
}

func shellArgv(shell, line string) []string {
	if runtime.GOOS == "windows" {
		return []string{shell, "/d", "/s", "/c", line}
	}
	return []string{shell, "-c", line}
}

// shell is $SHELL, else /bin/sh; on Windows %ComSpec%.
func (m *Module) shell() string {
	name, otherwise := "SHELL", "/bin/sh"
	if runtime.GOOS == "windows" {
		name, otherwise = "ComSpec", "cmd.exe"
	}
	for _, kv := range m.c.Env() {
		if k, v, _ := strings.Cut(kv, "="); (k == name || runtime.GOOS == "windows" && strings.EqualFold(k, name)) && v != "" {
			return v
		}
	}
	return otherwise
}

// dir is where a terminal opens.
func (m *Module) dir(cwd string) (string, *host.Error) {
	if strings.ContainsRune(cwd, 0) {
		return "", invalid("cwd holds a null byte")
	}
	base := m.c.Dir
	if base == "" {
		base, _ = os.Getwd() // "" is the process's own, too
		if home, err := os.UserHomeDir(); err == nil && (base == "" || filepath.Dir(base) == base) {
			base = home
		}
	}
	switch {
	case cwd == "":
		cwd = base
	case cwd == "~" || strings.HasPrefix(cwd, "~/"):
		if home, err := os.UserHomeDir(); err == nil {
			cwd = filepath.Join(home, cwd[1:])
		}
	case !filepath.IsAbs(cwd):
		cwd = filepath.Join(base, cwd)
	}
	if err := host.IsDir(cwd); err != nil {
		return "", &host.Error{Code: "SPAWN_FAILED", Message: "spawn failed: " + cwd + ": " + err.Error()}
	}
	return cwd, nil
}

// side reads columns or rows, numbers of 16 bits in the crate.
func side(name string, n *float64, otherwise int) (int, *host.Error) {
	switch {
	case n == nil:
		return otherwise, nil
	case *n != float64(int64(*n)) || *n < 0 || *n > maxSide:
		return 0, invalid(fmt.Sprintf("%s must be a whole number from 0 to %d", name, maxSide))
	case *n == 0:
		return otherwise, nil
	}
	return int(*n), nil
}

// find returns the terminal that a request names; code is that of the crate for one that is not here.
func (m *Module) find(p params, code string) (*terminal.Terminal, *host.Error) {
	if p.Session == nil {
		return nil, invalid("missing session_id")
	}
	t, err := m.m.Get(*p.Session)
	if err != nil {
		return nil, &host.Error{Code: code, Message: "session not found: " + *p.Session}
	}
	return t, nil
}

// input is terminal.input.
func (m *Module) input(ctx context.Context, r host.Request, p params) (any, *host.Error) {
	const code = "INPUT_FAILED"
	if p.Session == nil {
		return nil, invalid("missing session_id")
	}
	var data []byte
	switch {
	case p.Base64 != nil:
		var err error
		if data, err = base64.StdEncoding.DecodeString(*p.Base64); err != nil {
			return nil, invalid("data_b64 is no base64")
		}
	case p.Data != nil:
		data = []byte(*p.Data)
	default:
		return nil, invalid("missing data")
	}
	t, bad := m.find(p, code)
	if bad != nil {
		return nil, bad
	}
	m.again(ctx, r, t)
	select {
	case m.waiting <- struct{}{}:
		defer func() { <-m.waiting }()
	default:
		return nil, &host.Error{Code: code, Message: "too much input waits for programs that do not read; try again later"}
	}
	ctx, cancel := context.WithTimeout(ctx, inputWait)
	defer cancel()
	switch err := t.Input(ctx, data); {
	case errors.Is(err, terminal.ErrEnded):
		return nil, &host.Error{Code: code, Message: "stdin closed"}
	case err != nil:
		return nil, &host.Error{Code: code, Message: err.Error()}
	}
	return okAnswer{true}, nil
}

// resize is terminal.resize.
func (m *Module) resize(ctx context.Context, r host.Request, p params) (any, *host.Error) {
	if p.Session == nil {
		return nil, invalid("missing session_id")
	}
	cols, bad := side("cols", p.Cols, 80)
	if bad != nil {
		return nil, bad
	}
	rows, bad := side("rows", p.Rows, 24)
	if bad != nil {
		return nil, bad
	}
	t, bad := m.find(p, "RESIZE_FAILED")
	if bad != nil {
		return nil, bad
	}
	m.again(ctx, r, t)
	if err := t.Resize(cols, rows); err != nil {
		return nil, &host.Error{Code: "RESIZE_FAILED", Message: err.Error()}
	}
	return okAnswer{true}, nil
}

// close is terminal.close. The program has its time to end; terminal.exit tells when it has.
func (m *Module) close(_ context.Context, _ host.Request, p params) (any, *host.Error) {
	t, bad := m.find(p, "CLOSE_FAILED")
	if bad != nil {
		return nil, bad
	}
	t.Close()
	return okAnswer{true}, nil
}

// list is terminal.list.
func (m *Module) list(context.Context, host.Request, params) (any, *host.Error) {
	out := []opened{}
	for _, i := range m.m.List() {
		out = append(out, longAnswerOf(i))
	}
	return out, nil
}

// attach is terminal.attach: the output from a number on, over the channel that is named or in events.
func (m *Module) attach(ctx context.Context, r host.Request, p params) (any, *host.Error) {
	t, bad := m.find(p, "ATTACH_FAILED")
	if bad != nil {
		return nil, bad
	}
	from := terminal.FromStart
	if p.From != nil {
		if *p.From != float64(int64(*p.From)) || *p.From < -2 {
			return nil, invalid("from must be the number of a byte")
		}
		from = int64(*p.From)
	}
	if bad := m.follow(ctx, r, t, p, from); bad != nil {
		return nil, bad
	}
	return longAnswerOf(t.Info()), nil
}

// ack is terminal.ack: the gateway has taken everything before seq. From the first one on, no more is sent than
// the gateway acknowledges.
func (m *Module) ack(_ context.Context, _ host.Request, p params) (any, *host.Error) {
	t, bad := m.find(p, "ACK_FAILED")
	if bad != nil {
		return nil, bad
	}
	if p.Seq == nil || *p.Seq < 0 || *p.Seq != float64(int64(*p.Seq)) {
		return nil, invalid("seq must be the number of a byte")
	}
	m.mu.Lock()
	f := m.followers[t.ID()]
	m.mu.Unlock()
	if f != nil {
		f.acked(int64(*p.Seq))
	}
	return okAnswer{true}, nil
}

// follow lets the output of a terminal go to the gateway: over the channel that the request names, or in events of
// its link. It goes on after the request.
func (m *Module) follow(ctx context.Context, r host.Request, t *terminal.Terminal, p params, from int64) *host.Error {
	if p.Channel == "" {
		m.events(r, t, p.Window, from)
		return nil
	}
	if r.Channel == nil {
		return &host.Error{Code: "UNAVAILABLE", Message: "this link has no channels"}
	}
	ch, err := r.Channel(ctx, p.Channel)
	if err != nil {
		return &host.Error{Code: "UNAVAILABLE", Message: "the channel could not be opened: " + err.Error()}
	}
	m.mu.Lock()
	if f := m.followers[t.ID()]; f != nil {
		f.stop()
	}
	m.mu.Unlock()
	// The channel ends with its link, and Serve with the channel.
	go func() {
		err := t.Serve(context.WithoutCancel(ctx), ch, from)
		if err != nil {
			m.c.Log.Debug("a channel of a terminal has ended", "terminal", t.ID(), "err", err)
		}
	}()
	return nil
}

// again follows a terminal for a link that uses it and gets no output: one of a gateway that knows no
// terminal.attach and whose last link was lost.
func (m *Module) again(ctx context.Context, r host.Request, t *terminal.Terminal) {
	m.mu.Lock()
	f := m.followers[t.ID()]
	m.mu.Unlock()
	if f != nil && f.lost() && t.Feed().Viewers() == 0 {
		m.events(r, t, nil, f.sent())
	}
}

// follower sends the output of a terminal in events.
type follower struct {
	v      *terminal.Viewer
	cancel context.CancelFunc
	ended  <-chan struct{}

	mu     sync.Mutex
	window bool
	at     int64 // everything before it was sent
	gone   bool
}

func (f *follower) acked(seq int64) {
	f.mu.Lock()
	first := !f.window
	f.window = true
	f.mu.Unlock()
	if first {
		f.v.SetWindow(maxWindow)
	}
	f.v.Ack(seq)
}

func (f *follower) lost() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gone
}

func (f *follower) sent() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at
}

func (f *follower) stop() { f.cancel() }

// events starts a follower in the place of the one before.
func (m *Module) events(r host.Request, t *terminal.Terminal, window *float64, from int64) {
	if r.Send == nil {
		return
	}
	credit := int64(0)
	if window != nil && *window >= 1 {
		credit = int64(min(*window, maxWindow))
	}
	m.mu.Lock()
	if old := m.followers[t.ID()]; old != nil {
		old.stop()
	}
	m.mu.Unlock()
	v, err := t.Feed().Attach(from, credit)
	if err != nil {
		m.c.Log.Warn("the output of a terminal cannot be sent", "terminal", t.ID(), "err", err)
		return
	}
	//nolint:contextcheck // it goes on after the request, and ends with its link
	ctx, cancel := context.WithCancel(context.Background())
	f := &follower{v: v, cancel: cancel, ended: r.Ended, window: credit > 0, at: max(from, 0)}
	m.mu.Lock()
	m.followers[t.ID()] = f
	m.mu.Unlock()
	release := t.Hold()
	go func() {
		select {
		case <-r.Ended:
		case <-ctx.Done():
		}
		cancel()
	}()
	go func() {
		defer cancel()
		defer release()
		if err := f.send(ctx, r, t); err != nil {
			v.Park(terminal.ParkTime) // a lost link is to find what follows
			f.mu.Lock()
			f.gone = true
			f.mu.Unlock()
			m.c.Log.Debug("the events of a terminal have ended", "terminal", t.ID(), "err", err)
			m.forget(t, f)
			return
		}
		v.Detach()
		m.drop(t, f)
	}()
}

// forget takes a follower whose link was lost away once its terminal has ended.
func (m *Module) forget(t *terminal.Terminal, f *follower) {
	<-t.Feed().Done()
	m.drop(t, f)
}

func (m *Module) drop(t *terminal.Terminal, f *follower) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.followers[t.ID()] == f {
		delete(m.followers, t.ID())
	}
}

// The events (tunnel.md §1.8), with members of ours behind those of the crate.
type (
	outputEvent struct {
		Session string `json:"session_id"`
		Data    string `json:"data"`
		// Base64 is there when the bytes are no text: what Data says of them is incomplete then.
		Base64 string `json:"data_b64,omitempty"`
		Seq    int64  `json:"seq"`
		Missed int64  `json:"missed,omitempty"`
	}
	exitEvent struct {
		Session string `json:"session_id"`
		Code    *int   `json:"exit_code"`
		Signal  string `json:"signal,omitempty"`
		Reason  string `json:"reason,omitempty"`
	}
)

// send sends all output and the exit; nil says that it did.
func (f *follower) send(ctx context.Context, r host.Request, t *terminal.Terminal) error {
	buf := make([]byte, eventPiece)
	held := make([]byte, 0, eventPiece+utf8.UTFMax)
	for {
		p, err := f.v.Next(ctx, buf)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		over := err != nil
		seq := p.Seq - int64(len(held))
		if p.Missed > 0 && len(held) > 0 { // what was begun has no end
			if err := f.output(r, t, outputEvent{Seq: seq - p.Missed}, held); err != nil {
				return err
			}
			held, seq = held[:0], p.Seq
		}
		b := append(held, p.Data...)
		whole := len(b)
		if !over {
			whole = complete(b)
		}
		if whole > 0 || p.Missed > 0 {
			if err := f.output(r, t, outputEvent{Seq: seq, Missed: p.Missed}, b[:whole]); err != nil {
				return err
			}
			f.mu.Lock()
			f.at = seq + int64(whole)
			f.mu.Unlock()
		}
		held = append(held[:0], b[whole:]...)
		if over {
			e, _ := t.Feed().Exit()
			return r.Send("terminal.exit", encode(exitEvent{Session: t.ID(), Code: e.Code, Signal: e.Signal, Reason: e.Reason}))
		}
	}
}

func (f *follower) output(r host.Request, t *terminal.Terminal, e outputEvent, b []byte) error {
	e.Session, e.Data = t.ID(), string(b)
	if !utf8.Valid(b) {
		e.Data, e.Base64 = strings.ToValidUTF8(e.Data, "\uFFFD"), base64.StdEncoding.EncodeToString(b)
	}
	return r.Send("terminal.output", encode(e))
}

// complete returns how much of b ends with a whole character: what may be the beginning of one waits for the rest.
func complete(b []byte) int {
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-i:]) {
				return len(b) - i
			}
			break
		}
	}
	return len(b)
}

// encode writes JSON without escaping <, > and &.
func encode(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // texts, numbers and booleans only: a fault of this package
	}
	return strings.TrimSuffix(b.String(), "\n")
}
