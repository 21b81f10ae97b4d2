// Package agent serves what the agents of Hanzo Tunnel serve (tunnel.md §1.5–§1.7): the commands of the Python
// bridge and of the Rust dispatcher, each with its own spelling of members and its own texts, and commands of
// whoever runs this machine.
//
// It imports the errs leaf, nodes/host and tunnel/checkpoint. What may run is decided by a host.Policy.
// External programs are named by Settings, never by a request. The package owns one goroutine for each
// program that dev.launch started; Close ends the programs and waits for them.
package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/tunnel/checkpoint"
)

// Limits.
const (
	// execTime is how long exec.run may take, chatTime how long chat.send (tunnel.md §1.5), and runTime
	// how long the crate's system.run when it does not say (§1.6).
	execTime = 30 * time.Second
	chatTime = 120 * time.Second
	runTime  = 30 * time.Second
	// maxRunTime bounds timeout_ms and timeoutMs; more is cut to it.
	maxRunTime = 24 * time.Hour
	// execChars is how many characters of each stream exec.run answers with.
	execChars = 4096
	// outputBytes is how many bytes of each stream of other commands are kept: the last.
	outputBytes = 1 << 20
	// maxRuns is how many commands run at once, and maxChats how many of them are chats; more are refused.
	maxRuns  = host.MaxRuns
	maxChats = 8
)

// Settings are what the person of this machine has set. The zero value is the defaults.
type Settings struct {
	// Chat is the argv of chat.send; "{message}" in it is the message, and has to be a word of its own.
	// Nil is claude -p {message} --output-format text. ChatEnv is added to its environment.
	Chat        []string
	ChatEnv     map[string]string
	ChatTimeout time.Duration
	// Dev are the programs of dev.launch, of which the first that is there counts; nil is dev, hanzo-dev and
	// codex. DevEnv is added to its environment.
	Dev    []string
	DevEnv map[string]string
	// Commands are templates by name.
	Commands map[string]Template
}

// Config of New. Policy is required.
type Config struct {
	Policy host.Policy
	// Env returns what programs here begin with, and the variables that status.get and system.info tell;
	// os.Environ.
	Env func() []string
	// Dir is where commands run that name no directory; the process's own when empty.
	Dir string
	// Settings are asked for at each use; nil are the defaults. A pointer that is the same means the same.
	Settings func() *Settings
	// Session keeps what was said and run; nil keeps it in memory.
	Session Log
	// StateDir takes the logs of programs that dev.launch started; empty keeps none.
	StateDir string
	// Hostname, Now and Version are for tests and for status.get.
	Hostname func() (string, error)
	Now      func() time.Time
	Log      *slog.Logger
}

// Agent is a host.Module. Its methods may be called concurrently.
type Agent struct {
	c     Config
	dir   string
	runs  chan struct{} // one token for each command that runs
	chats chan struct{}
	devs  devs

	mu         sync.Mutex
	registered map[string]Custom
	settings   *Settings // of which templates are those
	templates  map[string]*template
}

// Custom is a command of the program that holds the agent.
type Custom struct {
	Name        string
	Description string
	// Replace lets it stand in for a command that there is without it.
	Replace bool
	// Run serves it, as host.Module.Handle does.
	Run func(context.Context, host.Request) host.Result
}

// New returns an agent.
func New(c Config) (*Agent, error) {
	if c.Env == nil {
		c.Env = os.Environ
	}
	if c.Settings == nil {
		none := &Settings{}
		c.Settings = func() *Settings { return none }
	}
	if c.Hostname == nil {
		c.Hostname = os.Hostname
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Session == nil {
		session, err := checkpoint.OpenLog("", c.Log, c.Now)
		if err != nil {
			return nil, err
		}
		c.Session = session
	}
	a := &Agent{c: c, dir: c.Dir, runs: make(chan struct{}, maxRuns), chats: make(chan struct{}, maxChats), registered: map[string]Custom{}}
	if a.dir == "" {
		a.dir = "."
	}
	var err error
	if a.dir, err = filepath.Abs(a.dir); err != nil {
		return nil, fmt.Errorf("where do commands run that name no directory: %w", err)
	}
	a.devs.a = a
	return a, nil
}

// Close ends the programs that dev.launch started and waits for them.
func (a *Agent) Close() { a.devs.close() }

// Dir is where commands run that name no directory.
func (a *Agent) Dir() string { return a.dir }

// Register adds a command. It fails for a name that is taken, unless the command says that it replaces it.
func (a *Agent) Register(c Custom) error {
	if !nameOK(c.Name) || c.Run == nil {
		return errs.New(errs.Invalid, fmt.Sprintf("%q cannot be registered: a command has a name of letters, digits, dots, dashes and underscores, and something that serves it", c.Name))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.registered[c.Name]; ok && !c.Replace {
		return errs.New(errs.Exists, "the command "+c.Name+" is registered already")
	}
	if _, ok := builtins[c.Name]; ok && !c.Replace {
		return errs.New(errs.Exists, "the command "+c.Name+" is built in; it is replaced only by a command that says so")
	}
	a.registered[c.Name] = c
	return nil
}

// builtin is one of the commands of the two originals.
type builtin struct {
	about string
	serve func(*Agent, context.Context, host.Request, params) host.Result
	// bridge is for the Python bridge's: null is no object there.
	bridge bool
	// declared is false for what package host declares itself.
	declared bool
}

// builtins are they, by name. They are set at the beginning because what serves them reads them.
var builtins map[string]builtin

func init() {
	builtins = map[string]builtin{
		"chat.send":   {"ask the chat program of this machine {message, cwd?}", (*Agent).chat, true, true},
		"exec.run":    {"run a line in the shell, 30 s at most {command, cwd?}", (*Agent).exec, true, true},
		"status.get":  {"what this agent is, and how much it has seen", (*Agent).status, true, true},
		"system.info": {"what this machine is", (*Agent).info, false, true},
		"system.run":  {"run a line in the shell {cmd, cwd?, timeout_ms?}, or an argv {command, …}", (*Agent).run, false, false},
		"dev.launch":  {"start the development program of this machine {message?, cwd?, model?}", (*Agent).launch, false, true},
		"dev.status":  {"which development programs run", (*Agent).running, false, true},
		"dev.stop":    {"end a development program {id}", (*Agent).stop, false, true},
	}
}

// Commands implements host.Module.
func (a *Agent) Commands() []string {
	var out []string
	for name, b := range builtins {
		if b.declared {
			out = append(out, name)
		}
	}
	_, templates := a.current()
	a.mu.Lock()
	defer a.mu.Unlock()
	out = slices.AppendSeq(out, maps.Keys(a.registered))
	out = slices.AppendSeq(out, maps.Keys(templates))
	slices.Sort(out)
	return slices.Compact(out)
}

// Caps implements host.Module.
func (a *Agent) Caps() []string { return []string{"chat", "exec", "tools"} }

// Description is a command and what it does.
type Description struct {
	Name, About string
	// Custom is one that is not built in; Replaces one that stands in for a built-in one.
	Custom, Replaces bool
}

// Describe lists the commands, sorted.
func (a *Agent) Describe() []Description {
	_, templates := a.current()
	a.mu.Lock()
	defer a.mu.Unlock()
	all := map[string]Description{}
	for name, b := range builtins {
		all[name] = Description{Name: name, About: b.about}
	}
	add := func(name, about string) {
		_, replaces := builtins[name]
		all[name] = Description{name, about, true, replaces}
	}
	for name, c := range a.registered {
		add(name, c.Description)
	}
	for name, t := range templates {
		add(name, t.describe())
	}
	return slices.SortedFunc(maps.Values(all), func(x, y Description) int { return strings.Compare(x.Name, y.Name) })
}

// Speaks implements host.Dialect: the crate's system.run names a line of the shell.
func (a *Agent) Speaks(command, paramsJSON string) bool {
	if command != "system.run" {
		return false
	}
	p, _ := read(&paramsJSON)
	if p.members["cmd"] != nil {
		return p.members["command"] == nil || p.str("command") != ""
	}
	return p.str("command") != "" && p.members["rawCommand"] == nil
}

// Overrides implements host.Overrider.
func (a *Agent) Overrides(command string) bool { return a.custom(command, true) != nil }

// custom is the custom command of a name, nil when there is none; replacing wants one that replaces.
func (a *Agent) custom(name string, replacing bool) func(context.Context, host.Request) host.Result {
	_, templates := a.current()
	a.mu.Lock()
	defer a.mu.Unlock()
	if t := templates[name]; t != nil && (t.Replace || !replacing) {
		return func(ctx context.Context, r host.Request) host.Result { return a.template(ctx, r, t) }
	}
	if c, ok := a.registered[name]; ok && (c.Replace || !replacing) {
		return c.Run
	}
	return nil
}

// current are the settings and their templates; those that cannot be used are said in the log once.
func (a *Agent) current() (*Settings, map[string]*template) {
	s := a.c.Settings()
	if s == nil {
		s = &Settings{}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if s != a.settings {
		a.settings, a.templates = s, map[string]*template{}
		for name, t := range s.Commands {
			made, err := compile(name, t)
			if err != nil {
				a.c.Log.Error("a command of the configuration cannot be used and is left out", "command", name, "err", err)
				continue
			}
			a.templates[name] = made
		}
	}
	return s, a.templates
}

// Handle implements host.Module: custom commands come first.
func (a *Agent) Handle(ctx context.Context, r host.Request) host.Result {
	if run := a.custom(r.Command, false); run != nil {
		return run(ctx, r)
	}
	b, ok := builtins[r.Command]
	if !ok {
		return failed("UNKNOWN_COMMAND", "unknown command: "+r.Command)
	}
	p, err := read(r.ParamsJSON)
	if err != nil {
		return failed("INVALID_PARAMS", err.Error())
	}
	return b.serve(a, ctx, r, p)
}

// CodeRaised is the code of a failure that the bridge answers without data: its handler raised.
const CodeRaised = "RAISED"

// Bridge reports whether a command is one of the Python bridge's six, or of nobody: those fail with their text
// twice (tunnel.md §1.3, §1.7).
func Bridge(command string, known bool) bool {
	switch command {
	case "chat.send", "exec.run", "status.get", "session.checkpoint", "session.restore", "session.list":
		return true
	}
	return !known
}

// params are the parameters of a command.
type params struct {
	members map[string]json.RawMessage
	// noObject is the Python name of what came in place of an object.
	noObject string
}

func read(text *string) (params, error) {
	if text == nil || *text == "" {
		return params{}, nil
	}
	raw := bytes.TrimSpace([]byte(*text))
	if !json.Valid(raw) {
		return params{}, fmt.Errorf("the parameters are no JSON")
	}
	if raw[0] != '{' {
		return params{noObject: pythonType(raw)}, nil
	}
	var p params
	return p, json.Unmarshal(raw, &p.members)
}

// raised is what the bridge says of parameters that are no object; nil when they are one.
func (p params) raised() *host.Result {
	if p.noObject == "" {
		return nil
	}
	r := failed(CodeRaised, "'"+p.noObject+"' object has no attribute 'get'")
	return &r
}

// str is a string member, "" for anything else.
func (p params) str(name string) string {
	var s string
	if json.Unmarshal(p.members[name], &s) != nil {
		return ""
	}
	return s
}

func (p params) isTrue(name string) bool { return string(p.members[name]) == "true" }

// agent is the agent whose policy counts, nil for the main one.
func (p params) agent() *string {
	if s := p.str("agentId"); s != "" {
		return &s
	}
	return nil
}

// falsy reports whether a member is what Python takes for nothing.
func (p params) falsy(name string) bool {
	switch string(p.members[name]) {
	case "", "null", "false", `""`, "[]", "{}":
		return true
	}
	var n float64
	return json.Unmarshal(p.members[name], &n) == nil && n == 0
}

// pythonType is the name of a JSON value's type in Python.
func pythonType(raw []byte) string {
	switch raw[0] {
	case 'n':
		return "NoneType"
	case 't', 'f':
		return "bool"
	case '"':
		return "str"
	case '[':
		return "list"
	case '{':
		return "dict"
	}
	if bytes.ContainsAny(raw, ".eE") {
		return "float"
	}
	return "int"
}

// env is a variable of this machine.
func (a *Agent) env(name string) string {
	for _, kv := range a.c.Env() {
		if k, v, _ := strings.Cut(kv, "="); k == name || runtime.GOOS == "windows" && strings.EqualFold(k, name) {
			return v
		}
	}
	return ""
}

// environment is what a program begins with.
func (a *Agent) environment(overrides map[string]string, without ...string) []string {
	env, _ := a.c.Policy.Environment(a.c.Env(), nil, false)
	env = slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		_, replaced := overrides[name]
		return replaced || slices.Contains(without, name)
	})
	for _, name := range slices.Sorted(maps.Keys(overrides)) {
		env = append(env, name+"="+overrides[name])
	}
	return env
}

// slot takes one of the places for commands; nil when all are taken.
func (a *Agent) slot(places chan struct{}) func() {
	select {
	case places <- struct{}{}:
		return func() { <-places }
	default:
		return nil
	}
}

func busy() host.Result {
	return failed("UNAVAILABLE", "too many commands are running on this node; wait for one to end and try again")
}

func done(v any) host.Result {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // texts, numbers and lists of them only: a fault of this package
	}
	s := strings.TrimSuffix(b.String(), "\n")
	return host.Result{OK: true, PayloadJSON: &s}
}

func failed(code, message string) host.Result {
	return host.Result{Error: &host.Error{Code: code, Message: message}}
}

func nameOK(name string) bool {
	if name == "" || len(name) > 128 {
		return false
	}
	for _, c := range name {
		if ok := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c); !ok {
			return false
		}
	}
	return true
}
