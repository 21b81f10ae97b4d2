package agent

import (
	"context"
	"encoding/json"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/nodes/host"
)

// The answers of the Rust dispatcher, in its order of members.
type (
	infoAnswer struct {
		OS       string `json:"os"`
		Arch     string `json:"arch"`
		Hostname string `json:"hostname"`
		Home     string `json:"home"`
		Cwd      string `json:"cwd"`
		Shell    string `json:"shell"`
		User     string `json:"user"`
	}
	runAnswer struct {
		ExitCode    *int   `json:"exit_code"`
		Stdout      string `json:"stdout"`
		Stderr      string `json:"stderr"`
		Truncated   bool   `json:"truncated,omitempty"`
		StdoutBytes int64  `json:"stdout_bytes,omitempty"`
		StderrBytes int64  `json:"stderr_bytes,omitempty"`
	}
)

func ownPID() int { return os.Getpid() }

func (a *Agent) firstEnv(names ...string) string {
	for _, n := range names {
		if v := a.env(n); v != "" {
			return v
		}
	}
	return ""
}

// shell is the shell of the person whose process this is.
func (a *Agent) shell() string { return a.env("SHELL") }

// info is system.info (tunnel.md §1.6).
func (a *Agent) info(context.Context, host.Request, params) host.Result {
	return done(infoAnswer{
		OS: rustOS(), Arch: rustArch(), Hostname: a.hostname(), Home: a.firstEnv("HOME", "USERPROFILE"), Cwd: a.dir,
		Shell: shellArgv(a.shell(), "")[0], User: a.user(),
	})
}

// hostname is what the environment says, as in the crate, and else what the machine says: services have no such
// variables.
func (a *Agent) hostname() string {
	if name := a.firstEnv("HOSTNAME", "HOST"); name != "" {
		return name
	}
	name, _ := os.Hostname() // "" for a machine without one
	return name
}

// user is likewise.
func (a *Agent) user() string {
	if name := a.firstEnv("USER", "USERNAME"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}

// run is the crate's system.run (tunnel.md §1.6): a line for the shell, killed with all that it started when its
// time is up.
func (a *Agent) run(ctx context.Context, _ host.Request, p params) host.Result {
	line := p.str("cmd")
	if line == "" {
		line = p.str("command")
	}
	if line == "" {
		return failed("INVALID_PARAMS", "missing cmd")
	}
	if strings.ContainsRune(line, 0) {
		return failed("INVALID_PARAMS", "the command holds a null byte")
	}
	dir, refused := a.crateDir(p, "EXEC_FAILED")
	if refused != nil {
		return *refused
	}
	limit := millis(p.members["timeout_ms"])
	if limit == 0 {
		limit = runTime
	}
	release := a.slot(a.runs)
	if release == nil {
		return busy()
	}
	defer release()
	o := host.Order{
		Argv: shellArgv(a.shell(), line), Text: line, Dir: dir, Env: a.environment(nil), AgentID: p.agent(), Approved: p.isTrue("approved"), Timeout: limit,
	}
	return a.collect(ctx, o)
}

// collect runs an order and answers as the crate does.
func (a *Agent) collect(ctx context.Context, o host.Order) host.Result {
	stdout, stderr := &tail{most: outputBytes}, &tail{most: outputBytes}
	ended, err := a.start(ctx, o, stdout, stderr)
	switch {
	case err != nil:
		return failed(codeOf(err), err.Error())
	case ended.TimedOut:
		return failed("TIMEOUT", "command timed out")
	case ended.Cancelled:
		return failed("UNAVAILABLE", "the command was ended with the link")
	}
	var answer runAnswer
	if ended.Code >= 0 {
		answer.ExitCode = &ended.Code
	}
	var cutOut, cutErr bool
	answer.Stdout, cutOut = stdout.text(outputBytes)
	answer.Stderr, cutErr = stderr.text(outputBytes)
	if cutOut || cutErr {
		answer.Truncated, answer.StdoutBytes, answer.StderrBytes = true, stdout.bytes(), stderr.bytes()
	}
	a.c.Session.Ran(o.Text, exitCode(ended), lastChars(answer.Stdout, execChars), lastChars(answer.Stderr, execChars))
	return done(answer)
}

// crateDir is the directory of a command of the crate.
func (a *Agent) crateDir(p params, code string) (string, *host.Result) {
	dir := p.str("cwd")
	if dir == "" {
		return a.dir, nil
	}
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(a.dir, dir)
	}
	if err := host.IsDir(dir); err != nil {
		r := failed(code, dir+": "+err.Error())
		return "", &r
	}
	return dir, nil
}

// millis is a positive number of milliseconds, 0 for anything else.
func millis(raw json.RawMessage) time.Duration {
	var n float64
	if raw == nil || json.Unmarshal(raw, &n) != nil || n <= 0 {
		return 0
	}
	if n >= float64(maxRunTime/time.Millisecond) {
		return maxRunTime
	}
	return max(time.Duration(n*float64(time.Millisecond)), 1)
}
