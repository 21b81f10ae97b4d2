package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/client/show"
	"github.com/hanzoai/hanzod/errs"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

const (
	// ensureTime bounds EnsureRunning: hanzod waits 30 seconds for a service that it started.
	ensureTime = 40 * time.Second
	// ensureEvery is the pause between two looks whether the daemon answers.
	ensureEvery = 25 * time.Millisecond
	// lateTime is how long a daemon may still come after its start was said to have failed: another
	// program may have started it at the same time.
	lateTime = 2 * time.Second
	// maxProgramOutput bounds what is kept of the output of hanzod, in bytes.
	maxProgramOutput = 16 << 10
)

// Codes of what keeps EnsureRunning from its end.
const (
	CodeNoProgram   = "client.no_program"   // hanzod was not found
	CodeNoService   = "client.no_service"   // no service is installed, or one with another state directory
	CodeStartFailed = "client.start_failed" // the service manager did not start it
	CodeNotReady    = "client.not_ready"    // it was started and does not answer
)

// EnsureOptions of EnsureRunning.
type EnsureOptions struct {
	// Options are those of Dial. Host and Via must be empty.
	Options
	// Program is hanzod, a path or a name in the PATH. When empty it is looked for: the program of the
	// installed service, that of the discovery file, one beside this program, one in the PATH. The first
	// three have to belong to this user or root and may not be writable by others, nor may their
	// directories; on Windows, where that is not looked at, the first two are not used.
	Program string
	// Wait bounds all of it; 40 seconds when zero.
	Wait time.Duration
	// OnStart is called before the service is started, for a line on the screen; it may be nil.
	OnStart func(program string)
}

// starting is held by the one who starts the service in this process; others wait and then find it
// started. Between processes the service manager starts a service once.
var starting = make(chan struct{}, 1)

// EnsureRunning returns a client whose daemon answers. When nothing answers, it starts the installed
// service by "hanzod service start" and waits until the daemon is ready. It installs nothing.
//
// It fails with an *Error whose code says what is missing: CodeNoProgram, CodeNoService, CodeStartFailed,
// CodeNotReady, CodeCanceled; and with what the daemon says, or its socket, such as CodeForeignSocket. The
// messages say what to do. It may be called by many goroutines and processes at once.
func EnsureRunning(ctx context.Context, o EnsureOptions) (*Client, error) {
	if o.Host != "" || o.Via != nil {
		return nil, &Error{Class: errs.Invalid, Message: "a daemon on another machine is not started from here"}
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(o.Wait, ensureTime))
	defer cancel()
	found := Found{Socket: o.Socket, By: BySocket}
	if o.Socket == "" {
		var err error
		if found, err = Find(os.Getenv); err != nil {
			return nil, err
		}
	}
	c, err := dialAnswering(ctx, o.Options, found.Socket)
	if err == nil || !absent(err) {
		return c, err
	}
	select {
	case starting <- struct{}{}:
		defer func() { <-starting }()
	case <-ctx.Done():
		return nil, waited(ctx)
	}
	if c, err = dialAnswering(ctx, o.Options, found.Socket); err == nil || !absent(err) {
		return c, err
	}
	program, err := findProgram(o.Program, found)
	if err != nil {
		return nil, err
	}
	s, err := askService(ctx, program)
	if err != nil {
		return nil, err
	}
	served := FindIn(s.StateDir)
	if named := found.By == BySocket || found.By == ByStateDir; named && served.Socket != found.Socket {
		return nil, &Error{Code: CodeNoService, Class: errs.Conflict, Message: fmt.Sprintf(
			"no daemon answers at %s, and the installed service is another one, with its state in %s; start the one you named with: hanzod run --state-dir DIRECTORY", found.Socket, s.StateDir)}
	}
	if o.OnStart != nil {
		o.OnStart(program)
	}
	text, startErr := run(ctx, program, "service", "start")
	wait := ctx
	if startErr != nil && ctx.Err() == nil {
		late, done := context.WithTimeout(ctx, lateTime)
		defer done()
		wait = late
	}
	if c, err = awaitAnswer(wait, o.Options, s.StateDir); err == nil || wait.Err() == nil && !absent(err) {
		return c, err
	}
	switch now, _ := askService(ctx, program); {
	case errors.Is(ctx.Err(), context.Canceled):
		return nil, waited(ctx)
	case startErr == nil || now.Running || ctx.Err() != nil:
		return nil, &Error{Code: CodeNotReady, Class: errs.Unavailable, Message: "hanzod was started and does not answer; see why with: hanzod service logs", Err: err}
	}
	return nil, &Error{Code: CodeStartFailed, Class: errs.Unavailable, Message: fmt.Sprintf(
		"hanzod service start failed: %s; see why with: hanzod service logs", text), Err: startErr}
}

// absent reports whether an error says that there is no daemon, or one that goes or comes.
func absent(err error) bool {
	if _, ok := errors.AsType[*NotRunning](err); ok {
		return true
	}
	return code(err) == CodeLost
}

// waited words the end of a wait.
func waited(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return &Error{Code: CodeCanceled, Class: errs.Deadline, Message: "canceled", Err: ctx.Err()}
	}
	return &Error{Code: CodeNotReady, Class: errs.Unavailable, Message: "hanzod is being started and does not answer yet; see why with: hanzod service logs", Err: ctx.Err()}
}

// dialAnswering returns a client whose daemon has answered.
func dialAnswering(ctx context.Context, o Options, socket string) (*Client, error) {
	o.Socket = socket
	c, err := Dial(ctx, o)
	if err != nil {
		return nil, err
	}
	if _, err := c.System.GetHealth(ctx, &systemv1.GetHealthRequest{}); err != nil {
		_ = c.Close() // nothing is under way
		return nil, err
	}
	return c, nil
}

// awaitAnswer is dialAnswering for a daemon that is coming.
func awaitAnswer(ctx context.Context, o Options, stateDir string) (*Client, error) {
	tick := time.NewTicker(ensureEvery)
	defer tick.Stop()
	for {
		// The socket may be another one now: the daemon writes a new discovery file.
		c, err := dialAnswering(ctx, o, FindIn(stateDir).Socket)
		if err == nil || !absent(err) {
			return c, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// installedService is what "hanzod service status" says, as far as it matters here.
type installedService struct {
	Installed bool   `json:"installed"`
	Running   bool   `json:"running"`
	StateDir  string `json:"stateDir"`
}

func askService(ctx context.Context, program string) (installedService, error) {
	var s installedService
	// The exit code says how the service stands, and so does the text.
	text, err := run(ctx, program, "service", "status", "--output", "json")
	if ctx.Err() != nil {
		return s, waited(ctx)
	}
	if json.NewDecoder(strings.NewReader(text)).Decode(&s) != nil {
		return s, &Error{Code: CodeStartFailed, Class: errs.Unavailable, Message: fmt.Sprintf("%s does not say how the service stands: %s", program, text), Err: err}
	}
	if !s.Installed || s.StateDir == "" {
		return s, &Error{Code: CodeNoService, Class: errs.NotFound, Message: "hanzod does not run, and is not installed as a service; install it with: hanzod service install"}
	}
	return s, nil
}

// run runs hanzod and returns what it printed, in one line and without control characters when it failed.
func run(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	var out, errOut limited
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &errOut, time.Second
	err := cmd.Run()
	if out.Len() > 0 {
		return out.String(), err
	}
	text := strings.ReplaceAll(strings.TrimSpace(errOut.String()), "\n", "; ")
	if text == "" && err != nil {
		text = err.Error()
	}
	return show.Text(text), err
}

// limited keeps the beginning of what is written to it.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	l.Buffer.Write(p[:min(len(p), max(0, maxProgramOutput-l.Len()))])
	return len(p), nil
}

// findProgram finds hanzod.
func findProgram(named string, found Found) (string, error) {
	if named != "" {
		path, err := exec.LookPath(named)
		if err != nil {
			return "", &Error{Code: CodeNoProgram, Class: errs.NotFound, Message: fmt.Sprintf("hanzod is not at %s; install it, or name where it is", named), Err: err}
		}
		return path, nil
	}
	name := "hanzod"
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	var candidates []string
	if runtime.GOOS != "windows" {
		candidates = installedPrograms()
		if found.Daemon != nil {
			candidates = append(candidates, found.Daemon.Executable)
		}
	}
	if self, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(self); err == nil {
			self = real
		}
		candidates = append(candidates, filepath.Join(filepath.Dir(self), name))
	}
	for _, path := range candidates {
		if trustedProgram(path) {
			return path, nil
		}
	}
	path, err := exec.LookPath("hanzod")
	if err != nil {
		return "", &Error{Code: CodeNoProgram, Class: errs.NotFound, Message: "hanzod does not run, and its program was not found in the PATH or beside this one; install hanzod, then: hanzod service install", Err: err}
	}
	return path, nil
}

// installedPrograms are the programs of the installed services, of this user and of the machine, as
// "hanzod service install" notes them (runtime/service).
func installedPrograms() []string {
	files := []string{"/etc/hanzod/service.json"}
	if runtime.GOOS == "darwin" {
		files[0] = "/Library/Application Support/hanzod/service.json"
	}
	if dir, err := os.UserConfigDir(); err == nil {
		files = append([]string{filepath.Join(dir, "hanzod", "service.json")}, files...)
	}
	var programs []string
	for _, path := range files {
		f, err := openTrusted(path)
		if err != nil {
			continue // none is installed, or others could have written it
		}
		var spec struct{ Executable string }
		err = json.NewDecoder(io.LimitReader(f, MaxDiscovery)).Decode(&spec)
		_ = f.Close() // nothing was written
		if err == nil && spec.Executable != "" {
			programs = append(programs, spec.Executable)
		}
	}
	return programs
}
