package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/nodes/host"
)

// Limits of development programs.
const (
	// maxDevs is how many run at once; a further one is refused. keptDevs is how many that have ended are
	// still told of.
	maxDevs  = 16
	keptDevs = 16
	// devLogBytes is how large a log gets before it is put aside, in place of the one put aside before.
	devLogBytes = 1 << 20
	// devStop is how long a program is waited for when it is to end.
	devStop = 5 * time.Second
	// defaultModel is the crate's (tunnel.md §1.6).
	defaultModel = "claude-sonnet-4-6"
	// logsDir is where the logs are, in the state directory.
	logsDir = "dev"
)

var defaultDev = []string{"dev", "hanzo-dev", "codex"}

// The answers of dev.launch and dev.status; id and what follows are ours.
type (
	launchAnswer struct {
		PID    int     `json:"pid"`
		Binary string  `json:"binary"`
		Model  string  `json:"model"`
		Cwd    *string `json:"cwd"`
		ID     string  `json:"id"`
		Log    string  `json:"log,omitempty"`
	}
	runningAnswer struct {
		Running bool       `json:"running"`
		PIDs    []string   `json:"pids"`
		Runs    []devState `json:"runs,omitempty"`
	}
	devState struct {
		ID        string  `json:"id"`
		PID       int     `json:"pid"`
		Binary    string  `json:"binary"`
		Model     string  `json:"model"`
		Cwd       *string `json:"cwd"`
		Log       string  `json:"log,omitempty"`
		StartedAt int64   `json:"started_at"`
		Running   bool    `json:"running"`
		ExitCode  *int    `json:"exit_code,omitempty"`
		EndedAt   int64   `json:"ended_at,omitempty"`
	}
)

// devs are the development programs of one agent. Each has a goroutine that waits for it.
type devs struct {
	a *Agent

	mu      sync.Mutex
	all     []*dev // the oldest first
	closed  bool
	waiting sync.WaitGroup
}

type dev struct {
	state devState
	child *host.Child
	end   context.CancelFunc
	done  chan struct{}
}

// launch is dev.launch (tunnel.md §1.6). The program is one that the settings name; the request gives it text.
func (a *Agent) launch(_ context.Context, _ host.Request, p params) host.Result {
	message, model := p.str("message"), p.str("model")
	if model == "" {
		model = defaultModel
	}
	if strings.HasPrefix(model, "-") || strings.ContainsAny(model, "\x00\n") {
		return failed("LAUNCH_FAILED", "launch failed: the model may not begin with a dash")
	}
	if strings.ContainsRune(message, 0) {
		return failed("LAUNCH_FAILED", "launch failed: the message holds a null byte")
	}
	dir, refused := a.crateDir(p, "LAUNCH_FAILED")
	if refused != nil {
		return *refused
	}
	settings, _ := a.current()
	names := settings.Dev
	if len(names) == 0 {
		names = defaultDev
	}
	env := a.environment(settings.DevEnv)
	binary := names[0]
	for _, n := range names {
		if path, ok := a.c.Policy.Locate(n, dir, pathOf(env)); ok {
			binary = path
			break
		}
	}
	argv := []string{binary, "--model", model}
	if message != "" {
		argv = append(argv, noOption(message))
	}
	o := host.Order{Argv: argv, Text: strings.Join(argv, " "), Dir: dir, Env: env, AgentID: p.agent(), Approved: p.isTrue("approved")}
	d := &dev{done: make(chan struct{})}
	d.state = devState{ID: newID(), Binary: binary, Model: model, StartedAt: a.c.Now().Unix(), Running: true}
	if p.str("cwd") != "" {
		d.state.Cwd = &dir
	}
	if err := a.devs.start(d, o); err != nil {
		code, text := "LAUNCH_FAILED", "launch failed: "+err.Error()
		switch _, denied := errors.AsType[*host.RefusedError](err); {
		case denied:
			code, text = "DENIED", err.Error()
		case errors.Is(err, host.ErrNoProgram):
			text = fmt.Sprintf("launch failed: none of %s is on the PATH of this node; install one, or name another with nodeHost.dev.programs", strings.Join(names, ", "))
		}
		return failed(code, text)
	}
	return done(launchAnswer{d.state.PID, binary, model, d.state.Cwd, d.state.ID, d.state.Log})
}

// start starts a program and has it waited for.
func (s *devs) start(d *dev, o host.Order) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	running := 0
	for _, x := range s.all {
		if x.state.Running {
			running++
		}
	}
	switch {
	case s.closed:
		return errors.New("this node is stopping")
	case running >= maxDevs:
		return fmt.Errorf("%d programs run already; end one with dev.stop", maxDevs)
	}
	var log *devLog
	if dir := s.a.c.StateDir; dir != "" {
		dir = filepath.Join(dir, logsDir)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		d.state.Log = filepath.Join(dir, d.state.ID+".log")
		var err error
		if log, err = newDevLog(d.state.Log); err != nil {
			return err
		}
		o.Stdout, o.Stderr = log, log
	}
	child, err := host.Start(s.a.c.Policy, o)
	if err != nil {
		log.close()
		log.remove()
		return err
	}
	d.child, d.state.PID = child, child.PID
	ctx, cancel := context.WithCancel(context.Background())
	d.end = cancel
	s.all = append(s.all, d)
	s.forget()
	s.waiting.Go(func() {
		ended := child.Wait(ctx)
		cancel()
		log.close()
		s.mu.Lock()
		d.state.Running, d.state.EndedAt = false, s.a.c.Now().Unix()
		if ended.Code >= 0 {
			d.state.ExitCode = &ended.Code
		}
		s.mu.Unlock()
		close(d.done)
		s.a.c.Log.Info("a development program ended", "id", d.state.ID, "pid", child.PID, "exitCode", exitCode(ended))
	})
	s.a.c.Log.Info("a development program runs", "id", d.state.ID, "pid", child.PID, "program", filepath.Base(d.state.Binary), "log", d.state.Log)
	return nil
}

// forget drops the oldest of those that have ended, with their logs.
func (s *devs) forget() {
	ended := 0
	for i, d := range slices.Backward(s.all) {
		if d.state.Running {
			continue
		}
		if ended++; ended > keptDevs {
			if d.state.Log != "" {
				(&devLog{path: d.state.Log}).remove()
			}
			s.all = slices.Delete(s.all, i, i+1)
		}
	}
}

// running is dev.status (tunnel.md §1.6), of the programs that this agent started and no others.
func (a *Agent) running(context.Context, host.Request, params) host.Result {
	a.devs.mu.Lock()
	defer a.devs.mu.Unlock()
	answer := runningAnswer{PIDs: []string{}}
	for _, d := range a.devs.all {
		if d.state.Running {
			answer.Running = true
			answer.PIDs = append(answer.PIDs, strconv.Itoa(d.state.PID))
		}
		answer.Runs = append(answer.Runs, d.state)
	}
	return done(answer)
}

// stop is dev.stop {id}, which is ours: it ends a program that dev.launch started, with its group.
func (a *Agent) stop(ctx context.Context, _ host.Request, p params) host.Result {
	id := p.str("id")
	a.devs.mu.Lock()
	i := slices.IndexFunc(a.devs.all, func(d *dev) bool { return d.state.ID == id })
	var d *dev
	if i >= 0 {
		d = a.devs.all[i]
	}
	a.devs.mu.Unlock()
	if d == nil {
		return failed("NOT_FOUND", "no development program has this id; dev.status lists them")
	}
	d.end()
	t := time.NewTimer(devStop)
	defer t.Stop()
	select {
	case <-d.done:
	case <-t.C:
		return failed("TIMEOUT", "the program has not ended yet; dev.status says when it has")
	case <-ctx.Done():
		return failed("UNAVAILABLE", "the link is gone")
	}
	a.devs.mu.Lock()
	defer a.devs.mu.Unlock()
	return done(d.state)
}

// close ends all programs.
func (s *devs) close() {
	s.mu.Lock()
	s.closed = true
	for _, d := range s.all {
		d.end()
	}
	s.mu.Unlock()
	s.waiting.Wait()
}

// devLog is a file of bounded size.
type devLog struct {
	path string

	mu   sync.Mutex
	f    *os.File
	size int64
}

func newDevLog(path string) (*devLog, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &devLog{path: path, f: f}, nil
}

// Write never fails: a program does not end for a log that cannot be written.
func (l *devLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil && l.size+int64(len(p)) > devLogBytes {
		l.f.Close()
		_ = os.Rename(l.path, l.path+".1") // at worst the log begins anew
		l.f, _ = os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		l.size = 0
	}
	if l.f != nil {
		n, _ := l.f.Write(p)
		l.size += int64(n)
	}
	return len(p), nil
}

func (l *devLog) close() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
}

func (l *devLog) remove() {
	if l == nil {
		return
	}
	_ = os.Remove(l.path)        // what is left is swept with the state
	_ = os.Remove(l.path + ".1") // likewise
}

func newID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
