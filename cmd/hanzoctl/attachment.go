package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanzoai/hanzod/client"
)

const (
	// maxAttached bounds the folders of attachments that are looked through.
	maxAttached = 256
	// refusedEvery is how often it is told at the most that connections are refused.
	refusedEvery = 10 * time.Second
	// commandGrace is how long a command may take to end after a signal to end that this process got.
	commandGrace = 10 * time.Second
)

// attachment is a daemon that this process carries to.
type attachment struct {
	a       *app
	c       *client.Client
	way     hostWay
	socket  *carrier
	legacy  *carrier // nil without --listen
	port    atomic.Int64
	command bool // output belongs to a command

	mu   sync.Mutex // for what is told, and guards what follows
	last attachState
	away time.Duration // of the last time that the link was lost
	told time.Time     // when it was last told that connections are refused
}

func (at *attachment) open() {
	at.socket.open()
	if at.legacy != nil {
		at.legacy.open()
	}
}

func (at *attachment) cut() {
	at.socket.cut()
	if at.legacy != nil {
		at.legacy.cut()
	}
}

// begin lets connections through and says so.
func (at *attachment) begin() error {
	at.open()
	a, s := at.a, at.last
	switch {
	case at.command:
		if !a.quiet {
			fmt.Fprintf(a.stderr, "attached to %s (hanzod %s, %.1f ms, %s)\n", Text(s.Target.short()), Text(s.Version), s.LatencyMs, Text(s.Route))
		}
		return nil
	case a.quiet:
		return a.printIDs([]string{s.Socket})
	case a.output != "table":
		return a.printItem(s, "", "")
	}
	if err := a.printTable(s.rows()); err != nil {
		return err
	}
	_, err := fmt.Fprintf(a.stdout, "\n%s\n\nattached until Ctrl-C; other programs of yours use it with the line above\n", a.export(s.Socket))
	return err
}

// tell says that the state has changed. It fails when nobody reads it any more.
func (at *attachment) tell(state string, cause error) error {
	at.mu.Lock()
	defer at.mu.Unlock()
	a, s := at.a, at.last
	s.State, s.At = state, time.Now()
	if cause != nil {
		s.Error = cause.Error()
	}
	line := s.At.Format(time.TimeOnly) + "  "
	switch state {
	case "lost":
		line += "the link to " + Text(s.Target.short()) + " was lost: " + Text(s.Error) + "; its connections have ended, trying again"
	case "resumed":
		line += fmt.Sprintf("attached to %s again, after %s", Text(s.Target.short()), at.away.Round(time.Millisecond))
	case "refused":
		line += fmt.Sprintf("a connection was refused: %d are open, which is the most", maxCarried)
	case "ended":
		line = "ended"
	}
	switch {
	case at.command || a.quiet:
		_, err := fmt.Fprintln(a.stderr, "hanzoctl: "+line)
		return err
	case a.output != "table":
		return a.printItem(s, "", "")
	}
	_, err := fmt.Fprintln(a.stdout, line)
	return err
}

// refused tells now and then of connections that were too many.
func (at *attachment) refused() {
	at.mu.Lock()
	soon := time.Since(at.told) < refusedEvery
	if !soon {
		at.told = time.Now()
	}
	at.mu.Unlock()
	if !soon {
		_ = at.tell("refused", nil) // who does not read it learns of it otherwise
	}
}

// attached is the file beside the socket of an attachment. It holds no secret.
type attached struct {
	Version int    `json:"version"`
	Socket  string `json:"socket"`
	Target  string `json:"target"`
	PID     int    `json:"pid"`
}

const attachedFile = "attached.json"

// attachSocket makes the local socket of an attachment in a folder of its own. One for a command
// is private; else it is at the same place for each daemon.
func (a *app) attachSocket(ctx context.Context, t *target, private bool) (socket string, l net.Listener, err error) {
	parent, err := a.attachDir()
	if err != nil {
		return "", nil, err
	}
	if err := privateDir(parent); err != nil {
		return "", nil, err
	}
	a.sweep(ctx, parent)
	dir := filepath.Join(parent, folderFor(t))
	if private {
		if dir, err = os.MkdirTemp(parent, "run-"); err != nil {
			return "", nil, err
		}
	}
	if err := privateDir(dir); err != nil {
		return "", nil, err
	}
	socket = client.SocketPath(dir)
	unlock, mine, err := lockFolder(dir)
	if err != nil {
		return "", nil, err
	}
	if mine && client.Answers(ctx, socket) == nil {
		mine = false // an older one, which does not lock
		unlock()
	}
	if !mine {
		return "", nil, &codeError{code: exitConflict, text: fmt.Sprintf(
			"%s is attached already; use that one (%s), or end it first", t.short(), a.export(socket))}
	}
	if l, err = listenLocal(ctx, socket); err != nil {
		unlock()
		return "", nil, err
	}
	l = &locked{l, dir, unlock}
	err = writeSettings(filepath.Join(dir, attachedFile), attached{Version: 1, Socket: socket, Target: t.String(), PID: os.Getpid()})
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("keep what is attached: %w", err), l.Close())
	}
	return socket, l, nil
}

// locked is a listener whose folder is this process's. Close removes it.
type locked struct {
	net.Listener
	dir    string
	unlock func()
}

func (l *locked) Close() error {
	err := errors.Join(l.Listener.Close(), os.RemoveAll(l.dir))
	l.unlock()
	return err
}

// privateDir makes a folder that only this user can look into. One that is there must be this user's.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := ownDir(dir); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

var notName = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// folderFor is the name of the folder for a daemon.
func folderFor(t *target) string {
	if t.Name != "" {
		return t.Name
	}
	name := notName.ReplaceAllString(t.Address, "_")
	return "at-" + name[:min(len(name), 100)]
}

// sweep removes what attachments left behind that were killed.
func (a *app) sweep(ctx context.Context, parent string) {
	for dir, at := range a.attachments(parent) {
		unlock, mine, err := lockFolder(dir)
		if err != nil || !mine {
			continue
		}
		if errors.Is(client.Answers(ctx, at.Socket), client.ErrNobody) {
			_ = os.Remove(at.Socket) // it may be outside the folder, where paths are long
			_ = os.RemoveAll(dir)    // what stays is tried again next time
		}
		unlock()
	}
}

// attachments are those that are known, by folder.
func (a *app) attachments(parent string) map[string]attached {
	out := map[string]attached{}
	dirs, err := os.ReadDir(parent)
	if err != nil {
		return out
	}
	for _, d := range dirs[:min(len(dirs), maxAttached)] {
		text, err := readSettings(filepath.Join(parent, d.Name(), attachedFile), maxContextFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var at attached
		if err == nil && json.Unmarshal(text, &at) == nil && at.Version == 1 && at.Socket != "" {
			out[filepath.Join(parent, d.Name())] = at
		}
	}
	return out
}

// attachedAt is the daemon behind a socket of an attachment, "" for other sockets.
func (a *app) attachedAt(socket string) string {
	parent, err := a.attachDir()
	if err != nil {
		return ""
	}
	for _, at := range a.attachments(parent) {
		if at.Socket == socket {
			return at.Target
		}
	}
	return ""
}

// runAttached runs a command that uses the attached daemon, and ends as it does.
func (a *app) runAttached(ctx context.Context, at *attachment, words []string, socket string) error {
	// An interrupt on the terminal reaches the command too, and only the command knows what to do about it.
	watch, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	cmd := exec.CommandContext(watch, words[0], words[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.stdin, a.stdout, a.stderr
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); name != "HANZOD_SOCKET" && name != "HANZOCTL_HOST" {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "HANZOD_SOCKET="+socket)
	a.asker.away.Store(true)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return &codeError{code: exitNotRun, text: fmt.Sprintf("%s does not start: %v", words[0], err), final: true}
	}
	wg.Go(func() { _ = at.stay(watch) }) // each change is told; the command goes on
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var killed <-chan time.Time
	for {
		select {
		case err := <-done:
			return endedAs(err)
		case s := <-signals:
			if s != os.Interrupt || !isTerminal(a.stdin) {
				_ = cmd.Process.Signal(s) // one that has ended meanwhile is waited for above
			}
			if s != os.Interrupt && killed == nil {
				killed = time.After(commandGrace)
			}
		case <-killed:
			_ = cmd.Process.Kill() // as above
		}
	}
}

// endedAs is the exit code of a command as an error, nil for 0.
func endedAs(err error) error {
	if err == nil {
		return &codeError{final: true}
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return err
	}
	code := exit.ExitCode()
	if s, ok := exit.Sys().(interface {
		Signaled() bool
		Signal() syscall.Signal
	}); ok && s.Signaled() {
		code = exitSignal + int(s.Signal())
	}
	return &codeError{code: code, final: true}
}
