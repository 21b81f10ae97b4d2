package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hanzoai/hanzod/nodes/host"
)

// defaultChat is the program of chat.send.
var defaultChat = []string{"claude", "-p", messageWord, "--output-format", "text"}

// messageWord stands for the message in the argv of chat.send.
const messageWord = "{message}"

// chatEnv keeps the telemetry of the chat program quiet (tunnel.md §1.5).
var chatEnv = map[string]string{
	"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none", "DO_NOT_TRACK": "1",
}

// The answers of the bridge, in its order of members. What it does not have is left out where it would be
// compared.
type (
	execAnswer struct {
		ExitCode    int    `json:"exitCode"`
		Stdout      string `json:"stdout"`
		Stderr      string `json:"stderr"`
		Truncated   bool   `json:"truncated,omitempty"`
		StdoutBytes int64  `json:"stdoutBytes,omitempty"`
		StderrBytes int64  `json:"stderrBytes,omitempty"`
	}
	chatAnswer struct {
		Response  string `json:"response"`
		ExitCode  int    `json:"exitCode"`
		Truncated bool   `json:"truncated,omitempty"`
	}
	statusAnswer struct {
		Status   string        `json:"status"`
		Cwd      string        `json:"cwd"`
		User     *string       `json:"user"`
		Hostname string        `json:"hostname"`
		Platform string        `json:"platform"`
		Python   string        `json:"python"`
		PID      int           `json:"pid"`
		Session  statusSession `json:"session"`
	}
	statusSession struct {
		StartedAt    int64 `json:"started_at"`
		Conversation int   `json:"conversation_count"`
		Commands     int   `json:"command_count"`
		Scrollback   int   `json:"scrollback_count"`
	}
)

// exec is exec.run (tunnel.md §1.5).
func (a *Agent) exec(ctx context.Context, r host.Request, p params) host.Result {
	if raised := p.raised(); raised != nil {
		return *raised
	}
	if p.falsy("command") {
		return failed("INVALID_PARAMS", "no command provided")
	}
	if pythonType(p.members["command"]) != "str" {
		return failed("INVALID_PARAMS", "cmd must be a string")
	}
	line := p.str("command")
	if strings.ContainsRune(line, 0) {
		return failed("INVALID_PARAMS", "embedded null byte")
	}
	dir, refused := a.bridgeDir(p)
	if refused != nil {
		return *refused
	}
	release := a.slot(a.runs)
	if release == nil {
		return busy()
	}
	defer release()
	o := host.Order{
		Argv: shellArgv("", line), Text: line, Dir: dir, Env: a.environment(nil), AgentID: p.agent(), Approved: p.isTrue("approved"), Timeout: execTime,
	}
	stdout, stderr := &tail{most: 4*execChars + 64}, &tail{most: 4*execChars + 64}
	ended, err := a.start(ctx, o, stdout, stderr)
	switch {
	case err != nil:
		return failed(codeOf(err), err.Error())
	case ended.TimedOut:
		return failed("TIMEOUT", "command timed out (30s)")
	case ended.Cancelled:
		return failed("UNAVAILABLE", "the command was ended with the link")
	}
	answer := execAnswer{ExitCode: exitCode(ended)}
	var cutOut, cutErr bool
	answer.Stdout, cutOut = stdout.text(execChars)
	answer.Stderr, cutErr = stderr.text(execChars)
	if !r.Exact && (cutOut || cutErr) {
		answer.Truncated, answer.StdoutBytes, answer.StderrBytes = true, stdout.bytes(), stderr.bytes()
	}
	a.c.Session.Ran(line, answer.ExitCode, answer.Stdout, answer.Stderr)
	return done(answer)
}

// chat is chat.send (tunnel.md §1.5).
func (a *Agent) chat(ctx context.Context, r host.Request, p params) host.Result {
	if raised := p.raised(); raised != nil {
		return *raised
	}
	if p.falsy("message") {
		return failed("INVALID_PARAMS", "no message provided")
	}
	if t := pythonType(p.members["message"]); t != "str" {
		return failed("INVALID_PARAMS", "expected str, bytes or os.PathLike object, not "+t)
	}
	message := p.str("message")
	if strings.ContainsRune(message, 0) {
		return failed("INVALID_PARAMS", "embedded null byte")
	}
	settings, _ := a.current()
	argv, limit := settings.Chat, settings.ChatTimeout
	if argv == nil {
		argv = defaultChat
	}
	if limit <= 0 {
		limit = chatTime
	}
	argv = slices.Clone(argv)
	for i, word := range argv {
		if i > 0 && word == messageWord {
			argv[i] = noOption(message)
		}
	}
	name := filepath.Base(argv[0])
	missing := failed("NOT_FOUND", name+" not found — install it, or name another program with nodeHost.chat.command")
	if name == "claude" {
		missing = failed("NOT_FOUND", "claude CLI not found — install with: npm i -g @anthropic-ai/claude-code")
	}
	dir, refused := a.bridgeDir(p)
	if refused != nil {
		if strings.HasPrefix(refused.Error.Message, "[Errno 2]") {
			// The bridge takes a directory that is not there for a program that is not there.
			a.c.Log.Info("chat.send names a directory that is not there", "cwd", p.str("cwd"))
			return missing
		}
		return *refused
	}
	release, chats := a.slot(a.runs), a.slot(a.chats)
	for _, end := range []func(){release, chats} {
		if end != nil {
			defer end()
		}
	}
	if release == nil || chats == nil {
		return busy()
	}
	env := a.environment(merged(chatEnv, settings.ChatEnv), "CLAUDECODE")
	if _, ok := a.c.Policy.Locate(argv[0], dir, pathOf(env)); !ok {
		return missing
	}
	o := host.Order{Argv: argv, Text: strings.Join(argv, " "), Dir: dir, Env: env, AgentID: p.agent(), Approved: p.isTrue("approved"), Timeout: limit}
	stdout, stderr := &tail{most: outputBytes}, &tail{most: 4 * execChars}
	ended, err := a.start(ctx, o, stdout, stderr)
	switch {
	case errors.Is(err, host.ErrNoProgram):
		return missing
	case err != nil:
		return failed(codeOf(err), err.Error())
	case ended.TimedOut:
		return failed("TIMEOUT", fmt.Sprintf("%s timed out (%ds)", name, int(limit/time.Second)))
	case ended.Cancelled:
		return failed("UNAVAILABLE", "the chat was ended with the link")
	}
	text, cut := stdout.text(outputBytes)
	answer := chatAnswer{Response: withoutTelemetry(text), ExitCode: exitCode(ended), Truncated: cut && !r.Exact}
	if diagnosis, _ := stderr.text(execChars); answer.ExitCode != 0 && strings.TrimSpace(diagnosis) != "" {
		a.c.Log.Info("the chat program failed", "program", name, "exitCode", answer.ExitCode, "stderrBytes", stderr.bytes())
	}
	a.c.Session.Said("user", message, r.ID)
	a.c.Session.Said("assistant", answer.Response, r.ID)
	return done(answer)
}

// status is status.get (tunnel.md §1.5). What runs here is no Python: the member says so.
func (a *Agent) status(context.Context, host.Request, params) host.Result {
	name, err := a.c.Hostname()
	if err != nil {
		name = "localhost"
	}
	s := statusAnswer{Status: "running", Cwd: a.dir, Hostname: name, Platform: BridgePlatform(), Python: runtime.Version(), PID: ownPID()}
	if user := a.env("USER"); user != "" {
		s.User = &user
	}
	n := a.c.Session.Counts()
	s.Session = statusSession{a.c.Session.StartedAt(), n.Conversation, n.Commands, n.Scrollback}
	return done(s)
}

// bridgeDir is the directory of a command of the bridge; a failure has the words of Python.
func (a *Agent) bridgeDir(p params) (string, *host.Result) {
	if p.falsy("cwd") {
		return a.dir, nil
	}
	bad := func(text string) (string, *host.Result) {
		r := failed("INVALID_PARAMS", text)
		return "", &r
	}
	if t := pythonType(p.members["cwd"]); t != "str" {
		return bad("expected str, bytes or os.PathLike object, not " + t)
	}
	dir := p.str("cwd")
	if strings.ContainsRune(dir, 0) {
		return bad("embedded null byte")
	}
	at := dir
	if !filepath.IsAbs(at) {
		at = filepath.Join(a.dir, at)
	}
	err := host.IsDir(at)
	var no syscall.Errno
	switch {
	case err == nil:
		return at, nil
	case errors.As(err, &no):
		text := no.Error()
		return bad(fmt.Sprintf("[Errno %d] %s: %s", int(no), strings.ToUpper(text[:1])+text[1:], repr(dir)))
	}
	return bad(err.Error())
}

// start runs an order to its end.
func (a *Agent) start(ctx context.Context, o host.Order, stdout, stderr io.Writer) (host.Ended, error) {
	o.Stdout, o.Stderr = stdout, stderr
	child, err := host.Start(a.c.Policy, o)
	if err != nil {
		return host.Ended{}, err
	}
	return child.Wait(ctx), nil
}

// exitCode is the exit code as Python tells it: the negative number of the signal that ended the program.
func exitCode(e host.Ended) int {
	if e.Signal > 0 {
		return -e.Signal
	}
	return e.Code
}

func codeOf(err error) string {
	if _, ok := errors.AsType[*host.RefusedError](err); ok {
		return "DENIED"
	}
	return "EXEC_FAILED"
}

// noOption keeps a text that begins with a dash from being taken for an option: programs read a word that begins
// with a space as text.
func noOption(s string) string {
	if strings.HasPrefix(s, "-") {
		return " " + s
	}
	return s
}

// shellArgv is a line for the shell of this system; sh is the one to use, or "".
func shellArgv(sh, line string) []string {
	if runtime.GOOS == "windows" {
		if sh == "" {
			sh = "cmd.exe"
		}
		return []string{sh, "/d", "/c", line}
	}
	if sh == "" {
		sh = "/bin/sh"
	}
	return []string{sh, "-c", line}
}

func merged(a, b map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range []map[string]string{a, b} {
		maps.Copy(out, m)
	}
	return out
}

func pathOf(env []string) string {
	for _, kv := range env {
		if k, v, _ := strings.Cut(kv, "="); strings.EqualFold(k, "PATH") {
			return v
		}
	}
	return ""
}

// BridgePlatform is this system as the bridge names it, CratePlatform as the crate does (tunnel.md §1.3).
func BridgePlatform() string { return runtime.GOOS + "-" + machine() }

// CratePlatform is in Rust's names.
func CratePlatform() string { return rustOS() + "-" + rustArch() }

func machine() string {
	switch arch := runtime.GOARCH; {
	case arch == "amd64":
		if runtime.GOOS == "windows" {
			return "amd64"
		}
		return "x86_64"
	case arch == "arm64" && runtime.GOOS == "linux":
		return "aarch64"
	default:
		return arch
	}
}

func rustOS() string {
	if runtime.GOOS == "darwin" {
		return "macos"
	}
	return runtime.GOOS
}

func rustArch() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	case "386":
		return "x86"
	}
	return runtime.GOARCH
}
