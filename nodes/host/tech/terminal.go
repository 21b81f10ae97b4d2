package tech

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
	"github.com/hanzoai/hanzod/tunnel/terminal"
)

const (
	// MaxCommandTime bounds a command, and is its limit when it names none.
	MaxCommandTime = 24 * time.Hour
	// inputWait is how long input waits for a program that does not read; its piece is refused then.
	inputWait = 5 * time.Second
	// outputPiece is how much of a command's output travels at once: it fits a payload in whatever way JSON writes it.
	outputPiece = 8 << 10
	// screenPiece is how much of a terminal's output travels at once.
	screenPiece = 32 << 10
	// maxSide is the largest window.
	maxSide = 65535
	// maxArgs bounds the words and the variables of a terminal.
	maxArgs = 1024
)

// console is what runs on a terminal channel: one command, or one terminal.
type console struct {
	*served
	wg sync.WaitGroup

	mu    sync.Mutex
	taken bool
	stop  context.CancelFunc // ends the command; nil without one
	term  *terminal.Terminal // nil without one
}

// terminal serves a channel for commands and terminals, one at a time.
func (c *served) terminal(ctx context.Context) error {
	t := &console{served: c}
	ctx, cancel := context.WithCancel(ctx)
	defer t.wg.Wait() // all programs have ended when it returns
	defer cancel()
	return c.each(ctx, t.handle)
}

func (t *console) handle(ctx context.Context, m message.Message) error {
	switch m.Type {
	case message.TypeCommand:
		var p message.Command
		if err := m.Into(&p); err != nil {
			return errs.New(errs.Invalid, err.Error())
		}
		return t.claim(func() error { return t.command(ctx, p) })
	case message.TypeOpen:
		var p message.TerminalOpen
		if err := m.Into(&p); err != nil {
			return errs.New(errs.Invalid, err.Error())
		}
		return t.claim(func() error { return t.open(ctx, p) })
	case message.TypeInput:
		term, err := t.opened()
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, inputWait)
		defer cancel()
		return unlessEnded(term.Input(ctx, m.Data))
	case message.TypeResize:
		var p message.TerminalSize
		if err := m.Into(&p); err != nil {
			return errs.New(errs.Invalid, err.Error())
		}
		if p.Cols < 1 || p.Rows < 1 || p.Cols > maxSide || p.Rows > maxSide {
			return errs.New(errs.Invalid, fmt.Sprintf("cols and rows are from 1 to %d", maxSide))
		}
		term, err := t.opened()
		if err != nil {
			return err
		}
		return unlessEnded(term.Resize(p.Cols, p.Rows))
	case message.TypeClose:
		t.mu.Lock()
		defer t.mu.Unlock()
		switch {
		case t.stop != nil:
			t.stop()
		case t.term != nil:
			t.term.Close()
		} // else it has ended, and that was told
		return nil
	}
	return ErrMessage
}

// unlessEnded leaves out that a terminal has ended: its exit, which is being told, says so.
func unlessEnded(err error) error {
	if errors.Is(err, terminal.ErrEnded) {
		return nil
	}
	return err
}

// claim starts what runs on the channel.
func (t *console) claim(start func() error) error {
	t.mu.Lock()
	if t.taken {
		t.mu.Unlock()
		return errs.New(errs.Conflict, "something runs on this channel; wait for its end, close it, or open another channel")
	}
	t.taken = true
	t.mu.Unlock()
	t.busy.Add(1)
	err := start()
	if err != nil {
		t.release()
	}
	return err
}

func (t *console) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken, t.stop, t.term = false, nil, nil
	t.busy.Add(-1)
}

func (t *console) opened() (*terminal.Terminal, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.term == nil {
		return nil, errs.New(errs.Conflict, "no terminal is open on this channel; commands read nothing")
	}
	return t.term, nil
}

// command runs one command line.
func (t *console) command(ctx context.Context, p message.Command) error {
	switch {
	case strings.TrimSpace(p.Command) == "":
		return errs.New(errs.Invalid, "missing command")
	case strings.ContainsRune(p.Command, 0):
		return errs.New(errs.Invalid, "the command holds a null byte")
	case p.TimeoutMS < 0:
		return errs.New(errs.Invalid, "timeout_ms is negative")
	}
	limit := MaxCommandTime
	if p.TimeoutMS > 0 && p.TimeoutMS < limit.Milliseconds() {
		limit = time.Duration(p.TimeoutMS) * time.Millisecond
	}
	dir, err := t.h.dir(p.Cwd)
	if err != nil {
		return err
	}
	argv, text, inline, err := t.argv(shellArgv(t.m.shell(), p.Command))
	if err != nil {
		return err
	}
	env, _ := t.m.c.Policy.Environment(t.m.c.Env(), nil, inline)
	ctx, stop := context.WithCancel(ctx)
	stdout, stderr := &pieces{t: t, ctx: ctx}, &pieces{t: t, ctx: ctx, stderr: true}
	kept := t.h.keep.begin()
	child, err := host.Start(t.m.c.Policy, host.Order{
		Argv: argv, Text: text, Dir: dir, Env: append(slices.Clip(env), kept.variable()), AgentID: t.h.AgentID, Approved: t.h.Approved, Timeout: limit, Stdout: stdout, Stderr: stderr,
	})
	if err != nil {
		stop()
		kept.ended()
		return startFailed(err)
	}
	kept.started(child.PID)
	t.mu.Lock()
	t.stop = stop
	t.mu.Unlock()
	t.wg.Go(func() {
		defer stop()
		ended := child.Wait(ctx)
		kept.ended()
		stdout.flush()
		stderr.flush()
		code := ended.Code
		o := message.Output{TimedOut: ended.TimedOut, ExitCode: &code}
		if code < 0 {
			code = 128 + ended.Signal // as shells tell it
			o.Signal = signalName(ended.Signal)
		}
		t.release()                                                        // whoever has the end may send the next one
		_ = t.send(context.WithoutCancel(ctx), message.TypeOutput, o, nil) // whoever asked is gone when it fails
	})
	return nil
}

// argv asks the policy for what is run.
func (t *console) argv(words []string) (argv []string, text string, inline bool, err error) {
	given, err := json.Marshal(words)
	if err != nil {
		return nil, "", false, errs.New(errs.Invalid, err.Error())
	}
	argv, text, inline, err = t.m.c.Policy.Command(given, nil)
	switch {
	case err != nil:
		return nil, "", false, errs.New(errs.Invalid, err.Error())
	case len(argv) == 0:
		return nil, "", false, errs.New(errs.Invalid, "the first word of argv is the program")
	}
	return argv, text, inline, nil
}

func shellArgv(shell, line string) []string {
	if runtime.GOOS == "windows" {
		return []string{shell, "/d", "/s", "/c", line}
	}
	return []string{shell, "-c", line}
}

func startFailed(err error) error {
	if refused, ok := errors.AsType[*host.RefusedError](err); ok {
		return ErrDenied.WithText(refused.Message)
	}
	if errors.Is(err, host.ErrNoProgram) {
		return errs.New(errs.NotFound, err.Error())
	}
	return errs.New(errs.Unavailable, "the program could not be started: "+err.Error())
}

// pieces sends what a command writes to one of its streams. What may be the beginning of a character waits for the rest.
type pieces struct {
	t      *console
	ctx    context.Context //nolint:containedctx // of the command
	stderr bool
	held   []byte
}

func (w *pieces) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), outputPiece-len(w.held))
		b := append(w.held, rest[:n]...)
		rest = rest[n:]
		whole := complete(b)
		if err := w.send(b[:whole]); err != nil {
			return 0, err
		}
		w.held = append(w.held[:0], b[whole:]...)
	}
	return len(p), nil
}

// flush sends what was held back, once nothing follows.
func (w *pieces) flush() {
	_ = w.send(w.held) // whoever asked is gone when it fails
	w.held = nil
}

func (w *pieces) send(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	var o message.Output
	text, raw := &o.Stdout, &o.StdoutB64
	if w.stderr {
		text, raw = &o.Stderr, &o.StderrB64
	}
	if utf8.Valid(b) {
		*text = string(b)
	} else {
		*raw = b
	}
	return w.t.send(w.ctx, message.TypeOutput, o, nil)
}

// complete returns how much of b ends with a whole character.
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

// open attaches a terminal.
func (t *console) open(ctx context.Context, p message.TerminalOpen) error {
	if p.Cols < 0 || p.Rows < 0 || p.Cols > maxSide || p.Rows > maxSide {
		return errs.New(errs.Invalid, fmt.Sprintf("cols and rows are from 0 to %d", maxSide))
	}
	if len(p.Argv) > maxArgs || len(p.Env) > maxArgs {
		return errs.New(errs.Invalid, fmt.Sprintf("argv and env have %d texts at the most", maxArgs))
	}
	if len(p.Argv) == 0 {
		p.Argv = []string{t.m.shell()}
	}
	for _, word := range p.Argv {
		if strings.ContainsRune(word, 0) {
			return errs.New(errs.Invalid, "argv holds a null byte")
		}
	}
	overrides := make(map[string]string, len(p.Env))
	for _, kv := range p.Env {
		name, value, ok := strings.Cut(kv, "=")
		if !ok || name == "" || strings.ContainsRune(kv, 0) {
			return errs.New(errs.Invalid, "env holds texts NAME=VALUE")
		}
		overrides[name] = value
	}
	dir, err := t.h.dir(p.Cwd)
	if err != nil {
		return err
	}
	argv, text, inline, err := t.argv(p.Argv)
	if err != nil {
		return err
	}
	env, dropped := t.m.c.Policy.Environment(t.m.c.Env(), overrides, inline)
	if len(dropped) > 0 {
		t.m.c.Log.Info("environment overrides of a terminal were left out", "names", dropped)
	}
	kept := t.h.keep.begin()
	env = append(slices.Clip(terminal.Environ(env, p.Cols, p.Rows)), kept.variable())
	program, err := host.Admit(t.m.c.Policy, host.Order{Argv: argv, Text: text, Dir: dir, Env: env, AgentID: t.h.AgentID, Approved: t.h.Approved})
	if err != nil {
		kept.ended()
		return startFailed(err)
	}
	term, err := t.m.terminals.Open(terminal.Spec{
		Path: program.Path, Argv: program.Argv, Env: env, Dir: program.Dir, Cols: p.Cols, Rows: p.Rows, Files: program.Files, Began: program.Began, Name: argv[0],
	})
	if err != nil {
		kept.ended()
		program.Close()
		return err
	}
	end := func() { // nobody may be left when the channel has ended
		term.Close()
		<-term.Feed().Done()
		kept.ended()
		program.Close()
	}
	kept.started(term.Info().PID)
	viewer, err := term.Feed().Attach(terminal.FromStart, 0)
	if err == nil {
		err = t.send(ctx, message.TypeOpened, message.TerminalReady{PID: int64(term.Info().PID), Argv: argv}, nil)
	}
	if err != nil {
		end()
		return err
	}
	t.mu.Lock()
	t.term = term
	t.mu.Unlock()
	t.wg.Go(func() {
		err := t.show(ctx, viewer)
		viewer.Detach()
		end()
		exit, _ := term.Feed().Exit()
		t.release()
		if err == nil {
			_ = t.send(ctx, message.TypeExit, message.Exit{ExitCode: exit.Code, Signal: exit.Signal}, nil) // whoever asked is gone when it fails
		}
	})
	return nil
}

// show sends what a terminal shows until its program has ended.
func (t *console) show(ctx context.Context, v *terminal.Viewer) error {
	buf := make([]byte, screenPiece)
	for {
		p, err := v.Next(ctx, buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := t.send(ctx, message.TypeChunk, struct{}{}, p.Data); err != nil {
			return err
		}
	}
}

// dir is where something starts: below of a directory of the session, if it has some.
func (h *held) dir(cwd string) (string, error) {
	if strings.ContainsRune(cwd, 0) || len(cwd) > 4096 {
		return "", errs.New(errs.Invalid, "cwd is no path")
	}
	base := h.m.c.Dir
	switch {
	case len(h.dirs) > 0:
		base = h.dirs[0].real
	case base == "":
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
	real, err := filepath.EvalSymlinks(cwd)
	if err == nil {
		err = host.IsDir(real)
	}
	within := len(h.dirs) == 0
	for _, d := range h.dirs {
		within = within || err == nil && below(d.real, real) || err != nil && (below(d.real, filepath.Clean(cwd)) || below(d.named, filepath.Clean(cwd)))
	}
	switch {
	case !within:
		return "", errs.New(errs.Denied, fmt.Sprintf("%q is outside of the directories of this technician session", cwd))
	case errors.Is(err, os.ErrNotExist):
		return "", errs.New(errs.NotFound, fmt.Sprintf("%q: no such directory", cwd))
	case err != nil:
		return "", errs.New(errs.Invalid, fmt.Sprintf("%q cannot be a working directory: %v", cwd, err))
	}
	return real, nil
}
