// Package host runs commands on this machine for a gateway: the node side of system.run and its
// relatives (nodes-approvals.md §4).
//
// It imports the errs leaf, the standard library and golang.org/x/sys. What may run is decided by a Policy, which the
// exec approvals file satisfies, and how a gateway is reached by a Connector. The package owns no
// goroutine beyond a call: when Handle returns, the command has ended or, after a normal end, has left
// children of its own behind; Serve owns one for each request that it serves and waits for them.
package host

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/errs"
)

// Limits.
const (
	// MaxRuns is how many commands run at once; beyond it a run is refused with UNAVAILABLE.
	MaxRuns = 32
	// OutputCap is how many bytes of both streams together are kept; the rest is read and dropped
	// (nodes-approvals.md §4.3).
	OutputCap = 200_000
	// maxEventText bounds the command and the output in an event, in characters.
	maxEventText = 20_000
	// maxRunTime bounds timeoutMs; more is cut to it.
	maxRunTime = 24 * time.Hour
	// maxBins is how many names system.which answers at once.
	maxBins = 1000
	// pipeGrace is how long output of children is waited for after the command itself has ended.
	pipeGrace = 2 * time.Second
)

// Policy decides what may run. It is satisfied by *policy.File of approvals.
type Policy interface {
	// Command reads the JSON values of the parameters command and rawCommand, nil when absent, and
	// returns the argv, its text for people and whether it is an inline shell.
	Command(command, raw []byte) (argv []string, text string, shell bool, err error)
	// Environment makes the environment of a run out of the host's and the caller's overrides.
	Environment(base []string, overrides map[string]string, inlineShell bool) (env, dropped []string)
	// Locate finds an executable. An empty cwd is the process's.
	Locate(word, cwd, pathEnv string) (path string, ok bool)
	// Programs returns the argvs that a wrapper or an inline shell in argv would start as far as its
	// text says, one level deep, and what else it may start in words for people.
	Programs(argv []string, cwd, pathEnv string) (inner [][]string, why string)
	// Pin puts the real path of the executable in front of a plain argv.
	Pin(argv []string, cwd, pathEnv string) ([]string, error)
	// Admit decides; a reason is a refusal. agentID nil is the main agent. pinned says that run begins
	// with the real path of what the allow-list covers, and that nothing else may run.
	Admit(agentID *string, argv []string, cwd, pathEnv string, approved bool) (run []string, pinned bool, reason, message string, err error)
	// Record remembers a run, with always for good.
	Record(agentID *string, argv []string, cwd, pathEnv, text string, always bool) error
	// SnapshotJSON and SetJSON read and replace the policy.
	SnapshotJSON() ([]byte, error)
	SetJSON(file []byte, base *string) ([]byte, error)
}

// Config of New. Policy is required.
type Config struct {
	Policy Policy
	// Env returns the host's own environment; os.Environ.
	Env func() []string
	// Prompter asks the person at this machine; nil asks nobody.
	Prompter Prompter
	// MaxRuns and OutputCap replace the constants of the same names when they are positive.
	MaxRuns   int
	OutputCap int
	// Modules are what this machine offers beyond running commands. A command belongs to the first that names
	// it; those of this package belong to nobody else.
	Modules []Module
	Log     *slog.Logger
}

// Module serves commands of another package on this machine. Its methods may be called concurrently.
type Module interface {
	// Commands are the names that Handle serves, Caps the capabilities to announce.
	Commands() []string
	Caps() []string
	// Handle is Host.Handle for one of the commands. Parameters are not read yet: ParamsJSON may be nil or no
	// JSON.
	Handle(ctx context.Context, r Request) Result
}

// Dialect is a Module that knows another form of a command of this package: the crate's system.run takes a line
// for the shell where the gateway's takes an argv (tunnel.md §1.6).
type Dialect interface {
	// Speaks reports whether the parameters, JSON text, of a command of this package are in the module's form.
	Speaks(command, paramsJSON string) bool
}

// Overrider is a Module whose commands may stand in for those of others.
type Overrider interface {
	// Overrides reports whether the module serves a command whoever else does.
	Overrides(command string) bool
}

// Sequencer is a Module some of whose requests must be served in the order in which they came.
type Sequencer interface {
	// Sequence names the row that a request stands in; those of one row are handled one after another. "" is none.
	// It is called in the reader of a link and does not wait.
	Sequence(r Request) string
}

// Follower is a Module that wants to know of links, because something happens on this machine while no
// request is served.
type Follower interface {
	// Linked is called when a link stands, one call at a time. emit sends an event with its payload as JSON
	// text over it and may wait for a slow link; it fails once ended is closed. Linked does not block.
	Linked(emit func(event, payloadJSON string) error, ended <-chan struct{})
}

// Channel is a stream of bytes to and from the gateway, beside the link and with a flow control of its
// own: a side that does not read stops the other side from writing. One goroutine may read while another
// writes.
type Channel interface {
	// Read returns io.EOF when the gateway has ended its direction, and another error when the channel broke.
	Read(p []byte) (int, error)
	// Write takes up to MaxChannelWrite bytes at once without splitting them.
	Write(p []byte) (int, error)
	// CloseWrite ends this direction; what was written arrives before that.
	CloseWrite() error
	// Close gives both directions up. An error tells the gateway why.
	Close(err error) error
}

// Carrier takes binary messages to the gateway and from it, beside the link: mux.Carrier of tunnel/mux, which says
// what its methods do.
type Carrier interface {
	Read(ctx context.Context) ([]byte, error)
	Write(parts net.Buffers) error
	Close(code int, reason string) error
	RemoteAddr() string
}

// MaxChannelWrite is how many bytes travel as one piece on a Channel.
const MaxChannelWrite = 256 << 10

// Host serves the commands of this machine. Its methods may be called concurrently.
type Host struct {
	policy Policy
	env    func() []string
	cap    int
	log    *slog.Logger
	runs   chan struct{} // holds one token per running command
	// commands are those that the gateway can end.
	commands running
	modules  []Module

	prompter Prompter
	prompts  chan struct{} // holds one token per open question

	spawn       func(context.Context, job) outcome // exec, but for tests
	beforeSpawn func()                             // for tests
}

// Request is one invoke.
type Request struct {
	ID string
	// NodeID is what the gateway calls this node.
	NodeID  string
	Command string
	// ParamsJSON is nil when the gateway sent none.
	ParamsJSON *string
	// Timeout is how long the gateway waits for the answer, 0 when it does not say. A run that has begun
	// is not ended by it (nodes-approvals.md §4.1).
	Timeout time.Duration
	// Emit sends an event (exec.finished, exec.denied, exec.decided) with its payload as JSON text, before the
	// result is returned. Nil drops it.
	Emit func(event, payloadJSON string)
	// Send is Emit that says when an event could not be sent; it may wait for a slow link, also after the result
	// was returned, and fails once Ended, which is closed with the link. Nil where there is no link.
	Send  func(event, payloadJSON string) error
	Ended <-chan struct{}
	// Channel opens the channel that the gateway named in the parameter "channel" of this request. It is nil
	// on links that have none: what is large goes in pieces then.
	Channel func(ctx context.Context, name string) (Channel, error)
	// Carry opens a carrier for tunnels of a version to the gateway of this link, which knows the node by it. It is
	// nil on links that have none.
	Carry func(ctx context.Context, version string) (Carrier, error)
	// Exact says that the answer is compared with that of the original: it holds no member that the original
	// does not have.
	Exact bool
}

// Error is a failure as the gateway is told.
type Error struct {
	Code    string
	Message string
}

// Result is the answer to an invoke. PayloadJSON is nil and Error set when OK is false.
type Result struct {
	OK          bool
	PayloadJSON *string
	Error       *Error
}

// New returns a host.
func New(c Config) *Host {
	h := &Host{policy: c.Policy, env: c.Env, cap: c.OutputCap, log: c.Log, prompter: c.Prompter, prompts: make(chan struct{}, maxPrompts), modules: c.Modules}
	if h.env == nil {
		h.env = os.Environ
	}
	if h.cap <= 0 {
		h.cap = OutputCap
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if c.MaxRuns <= 0 {
		c.MaxRuns = MaxRuns
	}
	h.runs = make(chan struct{}, c.MaxRuns)
	h.spawn = h.exec
	sweep()
	return h
}

// Commands are the names that Handle serves (nodes-approvals.md §4.1), those of modules among them.
// Desktop and browser control are not offered. system.run.kill is ours: it says that this host streams the
// output of commands and ends them when asked.
func (h *Host) Commands() []string {
	out := []string{"system.run.prepare", "system.run", "system.run.kill", "system.which", "system.execApprovals.get", "system.execApprovals.set"}
	for _, m := range h.modules {
		for _, name := range m.Commands() {
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// CapBinding is the capability of a node that says which files a run would open, in the answer to
// system.run.prepare, and runs no others under an approval that comes with them.
const CapBinding = "system.binding"

// Caps are the capabilities to announce.
func (h *Host) Caps() []string {
	out := []string{"system", CapBinding}
	for _, m := range h.modules {
		out = append(out, m.Caps()...)
	}
	return out
}

// linked tells the modules of a link.
func (h *Host) linked(emit func(event, payloadJSON string) error, ended <-chan struct{}) {
	for _, m := range h.modules {
		if f, ok := m.(Follower); ok {
			f.Linked(emit, ended)
		}
	}
}

// sequence returns the row of a request.
func (h *Host) sequence(r Request) string {
	for _, m := range h.modules {
		if s, ok := m.(Sequencer); ok && slices.Contains(m.Commands(), r.Command) {
			return s.Sequence(r)
		}
	}
	return ""
}

// PathEnv is the PATH in which executables are looked for.
func (h *Host) PathEnv() string {
	env, _ := h.policy.Environment(h.env(), nil, false)
	return lookup(env, "PATH")
}

// Handle serves one invoke. It returns when the command has ended; ending ctx kills the command with
// its children.
func (h *Host) Handle(ctx context.Context, r Request) Result {
	if r.Emit == nil {
		r.Emit = func(string, string) {}
	}
	for _, m := range h.modules {
		if o, ok := m.(Overrider); ok && o.Overrides(r.Command) {
			return m.Handle(ctx, r)
		}
		if d, ok := m.(Dialect); ok && r.ParamsJSON != nil && d.Speaks(r.Command, *r.ParamsJSON) {
			return m.Handle(ctx, r)
		}
	}
	serve := map[string]func(context.Context, Request, params) Result{
		"system.run":               h.run,
		"system.run.prepare":       h.prepare,
		"system.run.kill":          h.kill,
		"system.which":             h.which,
		"system.execApprovals.set": h.setPolicy,
	}[r.Command]
	if r.Command == "system.execApprovals.get" {
		return h.getPolicy(r)
	}
	if serve == nil {
		for _, m := range h.modules {
			if slices.Contains(m.Commands(), r.Command) {
				return m.Handle(ctx, r)
			}
		}
		return failed("UNAVAILABLE", "command not supported")
	}
	if r.ParamsJSON == nil || *r.ParamsJSON == "" {
		return invalid("Error: INVALID_REQUEST: paramsJSON required")
	}
	if !json.Valid([]byte(*r.ParamsJSON)) {
		return invalid("SyntaxError: paramsJSON is not valid JSON")
	}
	var p params
	_ = json.Unmarshal([]byte(*r.ParamsJSON), &p) // anything but an object has no parameters
	return serve(ctx, r, p)
}

func (h *Host) which(_ context.Context, _ Request, p params) Result {
	var bins []json.RawMessage
	if p["bins"] == nil || json.Unmarshal(p["bins"], &bins) != nil || bins == nil {
		return invalid("Error: INVALID_REQUEST: bins required")
	}
	if len(bins) > maxBins {
		return invalid(fmt.Sprintf("Error: INVALID_REQUEST: at most %d bins at once", maxBins))
	}
	path := h.PathEnv()
	found, seen := []byte(`{"bins":{`), map[string]bool{}
	for _, raw := range bins {
		var name string
		if json.Unmarshal(raw, &name) != nil {
			continue
		}
		name = strings.TrimSpace(name)
		if name == "" || seen[name] || strings.ContainsAny(name, `/\`) || strings.HasPrefix(name, "~") {
			continue
		}
		seen[name] = true
		if at, ok := h.policy.Locate(name, "", path); ok {
			if found[len(found)-1] != '{' {
				found = append(found, ',')
			}
			found = append(append(append(found, encode(name)...), ':'), encode(at)...)
		}
	}
	return done(append(found, "}}"...))
}

func (h *Host) setPolicy(_ context.Context, _ Request, p params) Result {
	file := p["file"]
	if len(file) == 0 || file[0] != '{' {
		return invalid("Error: INVALID_REQUEST: exec approvals file required")
	}
	return policyResult(h.policy.SetJSON(file, p.text("baseHash")))
}

// policyResult words what the policy says (nodes-approvals.md §3.15, node texts).
func policyResult(snapshot []byte, err error) Result {
	if err == nil {
		return done(snapshot)
	}
	code := ""
	if e, ok := errs.As(err); ok {
		code = e.Code
	}
	switch code {
	case "policy.hash_required":
		return invalid("Error: INVALID_REQUEST: exec approvals base hash required; reload and retry")
	case "policy.changed":
		return invalid("Error: INVALID_REQUEST: exec approvals changed; reload and retry")
	}
	return invalid("Error: INVALID_REQUEST: " + err.Error())
}

func done(payload []byte) Result {
	s := string(payload)
	return Result{OK: true, PayloadJSON: &s}
}

func invalid(message string) Result { return failed("INVALID_REQUEST", message) }

func failed(code, message string) Result { return Result{Error: &Error{Code: code, Message: message}} }

// params are the members of the parameters object.
type params map[string]json.RawMessage

// text returns a string parameter, nil when it is absent, blank or no string.
func (p params) text(key string) *string {
	var s *string
	if p[key] == nil || json.Unmarshal(p[key], &s) != nil || s == nil {
		return nil
	}
	t := strings.TrimSpace(*s)
	if t == "" {
		return nil
	}
	return &t
}

func (p params) isTrue(key string) bool { return string(p[key]) == "true" }

// strings returns the members of an object parameter that are strings.
func (p params) strings(key string) map[string]string {
	var members map[string]json.RawMessage
	if json.Unmarshal(p[key], &members) != nil {
		return nil
	}
	out := make(map[string]string, len(members))
	for k, raw := range members {
		var s *string
		if json.Unmarshal(raw, &s) == nil && s != nil {
			out[k] = *s
		}
	}
	return out
}

// millis returns a positive number of milliseconds as a duration, 0 for anything else.
func (p params) millis(key string) time.Duration {
	var n float64
	if p[key] == nil || json.Unmarshal(p[key], &n) != nil || n <= 0 {
		return 0
	}
	if n >= float64(maxRunTime/time.Millisecond) {
		return maxRunTime
	}
	return max(time.Duration(n*float64(time.Millisecond)), 1)
}

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// encode writes JSON without escaping <, > and &.
func encode(v any) []byte {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // strings, numbers and booleans only: a fault of this package
	}
	return []byte(strings.TrimSuffix(b.String(), "\n"))
}

func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// lookup returns a variable of an environment; on Windows the case of names does not count.
func lookup(env []string, name string) string {
	for _, kv := range env {
		if k, v, _ := strings.Cut(kv, "="); k == name || foldNames && strings.EqualFold(k, name) {
			return v
		}
	}
	return ""
}
