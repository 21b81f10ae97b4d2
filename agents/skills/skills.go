// Package skills finds the skills that agents have, says what each of them needs and whether that is there,
// and installs what can be installed (control-plane.md §10).
//
// It imports leaves and agents. A skill is what somebody else wrote: its folder is read through os.Root,
// its front matter is bounded, and nothing of it is run but the program of a known installer, without a
// shell. Each installation owns its goroutines and waits for them;
// methods may be called concurrently.
package skills

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/agents"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// The errors of this package.
var (
	ErrAgent = errs.Define(errs.NotFound, "skills.agent", "there is no agent of this id: see the list of agents")
	ErrKey   = errs.Define(errs.Invalid, "skills.key", "the key of a skill has 1 to 256 bytes")
	ErrValue = errs.Define(errs.Invalid, "skills.value", "an API key or a variable may have 16384 bytes, a skill 64 variables")
	ErrBusy  = errs.Define(errs.Exhausted, "skills.busy", "another installation is running: try again when it has ended")
	ErrWrite = errs.Define(errs.Unavailable, "skills.write", "the configuration cannot be written")
)

// The places that skills are found at, as clients know them.
const (
	sourceExtra     = "openclaw-extra"
	sourceBundled   = "openclaw-bundled"
	sourceManaged   = "openclaw-managed"
	sourcePersonal  = "agents-skills-personal"
	sourceProject   = "agents-skills-project"
	sourceWorkspace = "openclaw-workspace"
)

// Config is what the service needs.
type Config struct {
	// Current is the configuration in force; it may change between calls.
	Current func() *config.Config
	File    agents.ConfigFile
	// Bundled is the directory of the skills that came with the daemon, "" for none.
	Bundled string
	// Env looks a variable of the daemon up; nil means os.Getenv.
	Env func(string) string
	// Environ is what installers get; nil means os.Environ. Variables that look like secrets are left out.
	Environ func() []string
	// Client fetches downloads; nil means one that reaches public addresses over https only.
	Client *http.Client
	// Record notes in the audit log what a caller has installed, before it is done; nil for nobody.
	Record func(ctx context.Context, c identity.Caller, what string) error
	// Log hears of installations; nothing when nil.
	Log *slog.Logger
	Now func() time.Time
}

// Service answers for skills.
type Service struct {
	cfg   Config
	views *agents.Views
	// one is held by the installation that runs.
	one chan struct{}
}

// New returns the service.
func New(cfg Config) *Service {
	if cfg.Env == nil {
		cfg.Env = os.Getenv
	}
	if cfg.Environ == nil {
		cfg.Environ = os.Environ
	}
	if cfg.Client == nil {
		cfg.Client = publicClient()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{cfg: cfg, views: &agents.Views{}, one: make(chan struct{}, 1)}
}

// For is the service with another view of the configuration. Both share everything else.
func (s *Service) For(current func() *config.Config) *Service {
	out := *s
	out.cfg.Current, out.views = current, &agents.Views{}
	return &out
}

// Needs are what a skill wants to be there.
type Needs struct{ Bins, AnyBins, Env, Config, OS []string }

func (n Needs) none() bool {
	return len(n.Bins)+len(n.AnyBins)+len(n.Env)+len(n.Config)+len(n.OS) == 0
}

// Check is a key of the configuration that a skill needs.
type Check struct {
	Path      string
	Satisfied bool
}

// Option is a way to install what a skill needs.
type Option struct {
	ID, Kind, Label string
	Bins            []string
}

// Skill is a skill and how it stands.
type Skill struct {
	Name, Description, Source, FilePath, BaseDir, Key string
	PrimaryEnv, Emoji, Homepage                       string
	Bundled, Always, Disabled, Blocked, Eligible      bool
	Requires, Missing                                 Needs
	Checks                                            []Check
	Install                                           []Option
}

// StatusIn names the agent whose workspace is looked at; "" is the default one.
type StatusIn struct{ AgentID string }

// StatusOut is the result of Status.
type StatusOut struct {
	Workspace, ManagedDir string
	Skills                []Skill
}

// Status lists the skills that an agent has, with what each needs and what of it is missing. Folders that
// are no skills, and what cannot be read safely, are left out. Errors: ErrAgent.
func (s *Service) Status(_ context.Context, _ identity.Caller, in StatusIn) (StatusOut, error) {
	v := s.views.Of(s.cfg.Current())
	id := v.DefaultID
	if asked := strings.TrimSpace(in.AgentID); asked != "" {
		if id = config.AgentID(asked); !v.Known(id) {
			return StatusOut{}, ErrAgent.With("agent", asked)
		}
	}
	l := s.look(v.Config)
	out := StatusOut{Workspace: v.Workspace(id), ManagedDir: managedDir(v.Config)}
	for _, f := range l.found(out.Workspace) {
		out.Skills = append(out.Skills, l.stand(f))
	}
	return out, nil
}

// Bins names the programs that the skills of all agents need or install, sorted.
func (s *Service) Bins() []string {
	v := s.views.Of(s.cfg.Current())
	l := s.look(v.Config)
	seen := map[string]bool{}
	take := func(fs []found) {
		for _, f := range fs {
			for _, bins := range [][]string{f.meta.Requires.Bins, f.meta.Requires.AnyBins} {
				for _, b := range bins {
					seen[b] = true
				}
			}
			for _, i := range f.meta.Install {
				for _, b := range i.Bins {
					seen[b] = true
				}
			}
		}
	}
	take(l.shared)
	for _, w := range workspaces(v) {
		take(l.own(w))
	}
	out := make([]string, 0, len(seen))
	for b := range seen {
		if b != "" && !strings.ContainsAny(b, "/\\\x00") {
			out = append(out, b)
		}
	}
	slices.Sort(out)
	return out
}

// workspaces are those of all agents.
func workspaces(v *agents.View) []string {
	out := []string{v.Workspace(v.DefaultID)}
	for _, a := range v.List {
		if a.ID != v.DefaultID {
			out = append(out, a.Workspace)
		}
	}
	return out
}

func managedDir(c *config.Config) string { return filepath.Join(c.StateDir, "skills") }

// look is one look at the skills: what the configuration says, and what was found already.
type look struct {
	s      *Service
	cfg    *config.Config
	node   *json5.Node
	limits limits
	shared []found
	bins   map[string]bool
}

func (s *Service) look(c *config.Config) *look {
	l := &look{s: s, cfg: c, node: c.Section("skills"), bins: map[string]bool{}}
	l.limits = limitsOf(l.node.Get("limits"))
	var roots []root
	for _, dir := range texts(l.node.At("load", "extraDirs")) {
		roots = append(roots, root{expand(c.Home, dir), sourceExtra})
	}
	roots = append(roots, root{s.cfg.Bundled, sourceBundled}, root{managedDir(c), sourceManaged},
		root{filepath.Join(c.Home, ".agents", "skills"), sourcePersonal})
	for _, r := range roots {
		l.shared = append(l.shared, r.scan(l.limits)...)
	}
	return l
}

// own are the skills of a workspace alone.
func (l *look) own(workspace string) []found {
	return slices.Concat(root{filepath.Join(workspace, ".agents", "skills"), sourceProject}.scan(l.limits),
		root{filepath.Join(workspace, "skills"), sourceWorkspace}.scan(l.limits))
}

// found are the skills of a workspace and the shared ones; of one name the last root wins, in the place
// of the first.
func (l *look) found(workspace string) []found {
	var out []found
	at := map[string]int{}
	for _, f := range slices.Concat(l.shared, l.own(workspace)) {
		if i, ok := at[f.meta.Name]; ok {
			out[i] = f
			continue
		}
		at[f.meta.Name] = len(out)
		out = append(out, f)
	}
	return out
}

// stand says how a skill stands.
func (l *look) stand(f found) Skill {
	m := f.meta
	out := Skill{
		Name: m.Name, Description: m.Description, Source: f.source, FilePath: f.file, BaseDir: filepath.Dir(f.file), Key: m.key(),
		PrimaryEnv: m.PrimaryEnv, Emoji: m.Emoji, Homepage: m.Homepage, Bundled: f.source == sourceBundled, Always: m.Always, Requires: m.Requires,
	}
	entry := l.node.Get("entries").Get(out.Key)
	if on := entry.Get("enabled"); on != nil && on.Kind == json5.Bool {
		out.Disabled = !on.Bool
	}
	if allowed := texts(l.node.Get("allowBundled")); out.Bundled && len(allowed) > 0 {
		out.Blocked = !slices.Contains(allowed, out.Key) && !slices.Contains(allowed, out.Name)
	}
	for _, p := range m.Requires.Config {
		out.Checks = append(out.Checks, Check{p, l.truthy(p)})
	}
	out.Missing = l.missing(m, entry)
	out.Eligible = !out.Disabled && !out.Blocked && out.Missing.none()
	out.Install = l.options(m)
	return out
}

func (l *look) missing(m Meta, entry *json5.Node) Needs {
	var n Needs
	if m.Always {
		return n
	}
	for _, b := range m.Requires.Bins {
		if !l.has(b) {
			n.Bins = append(n.Bins, b)
		}
	}
	if len(m.Requires.AnyBins) > 0 && !slices.ContainsFunc(m.Requires.AnyBins, l.has) {
		n.AnyBins = m.Requires.AnyBins
	}
	for _, name := range m.Requires.Env {
		set := l.s.cfg.Env(name) != "" || filled(entry.Get("env").Get(name)) || name == m.PrimaryEnv && filled(entry.Get("apiKey"))
		if _, own := l.cfg.EnvVars[name]; !set && !own {
			n.Env = append(n.Env, name)
		}
	}
	for _, p := range m.Requires.Config {
		if !l.truthy(p) {
			n.Config = append(n.Config, p)
		}
	}
	if len(m.Requires.OS) > 0 && !slices.Contains(m.Requires.OS, platform()) {
		n.OS = m.Requires.OS
	}
	return n
}

// filled reports whether a value of the configuration says something: a text, or a reference to a secret.
func filled(n *json5.Node) bool {
	return n != nil && (n.Kind == json5.String && strings.TrimSpace(n.Str) != "" || n.Kind == json5.Object)
}

// has reports whether a program is in the path.
func (l *look) has(bin string) bool {
	if have, known := l.bins[bin]; known {
		return have
	}
	_, have := locate(bin)
	l.bins[bin] = have
	return have
}

// truthy reports whether a key of the configuration is set to something that counts.
func (l *look) truthy(path string) bool {
	parts := strings.Split(path, ".")
	n := l.cfg.Section(parts[0]).At(parts[1:]...)
	switch {
	case n == nil:
		return path == "browser.enabled" || path == "browser.evaluateEnabled" // both are on by default
	case n.Kind == json5.Bool:
		return n.Bool
	case n.Kind == json5.Number:
		return n.Num != 0
	case n.Kind == json5.String:
		return strings.TrimSpace(n.Str) != ""
	}
	return n.Kind != json5.Null
}

// options are the ways to install what a skill needs on this machine: the best one, or all downloads.
func (l *look) options(m Meta) []Option {
	if len(m.Requires.OS) > 0 && !slices.Contains(m.Requires.OS, platform()) {
		return nil
	}
	var fit []int
	downloads := true
	for i, spec := range m.Install {
		if len(spec.OS) == 0 || slices.Contains(spec.OS, platform()) {
			fit = append(fit, i)
			downloads = downloads && spec.Kind == kindDownload
		}
	}
	if !downloads && len(fit) > 0 {
		fit = []int{l.best(m, fit)}
	}
	var out []Option
	for _, i := range fit {
		spec := m.Install[i]
		out = append(out, Option{ID: spec.id(i), Kind: spec.Kind, Label: spec.label(l.nodeManager()), Bins: spec.Bins})
	}
	return out
}

// best is the installer that is offered.
func (l *look) best(m Meta, fit []int) int {
	of := func(kind string) int {
		for _, i := range fit {
			if m.Install[i].Kind == kind {
				return i
			}
		}
		return -1
	}
	preferBrew := true
	if n := l.node.At("install", "preferBrew"); n != nil && n.Kind == json5.Bool {
		preferBrew = n.Bool
	}
	if i := of(kindBrew); i >= 0 && preferBrew && l.has("brew") {
		return i
	}
	for _, kind := range []string{kindUV, kindNode, kindBrew, kindGo, kindDownload} {
		if i := of(kind); i >= 0 {
			return i
		}
	}
	return fit[0]
}

// nodeManager is the program that installs packages of node.
func (l *look) nodeManager() string {
	if n := l.node.At("install", "nodeManager"); n != nil && slices.Contains([]string{"npm", "pnpm", "yarn", "bun"}, n.Str) {
		return n.Str
	}
	return "npm"
}

// platform is the operating system as skills name it.
func platform() string {
	if runtime.GOOS == "windows" {
		return "win32"
	}
	return runtime.GOOS
}

// locate finds a program in the path. A path that is not absolute is never taken.
func locate(bin string) (string, bool) {
	if bin == "" || strings.ContainsAny(bin, "/\\\x00") {
		return "", false
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if !filepath.IsAbs(dir) {
			continue
		}
		for _, ext := range extensions() {
			path := filepath.Join(dir, bin+ext)
			if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && (runtime.GOOS == "windows" || st.Mode().Perm()&0o111 != 0) {
				return path, true
			}
		}
	}
	return "", false
}

func extensions() []string {
	if runtime.GOOS != "windows" {
		return []string{""}
	}
	return append([]string{""}, strings.Split(strings.ToLower(os.Getenv("PATHEXT")), ";")...)
}

func texts(n *json5.Node) []string {
	if n == nil || n.Kind != json5.Array {
		return nil
	}
	var out []string
	for _, item := range n.Items {
		if s := strings.TrimSpace(item.Str); item.Kind == json5.String && s != "" {
			out = append(out, s)
		}
	}
	return out
}

func expand(home, path string) string {
	if path == "~" || strings.HasPrefix(path, "~/") || strings.HasPrefix(path, `~\`) {
		return filepath.Join(home, path[1:])
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return filepath.Clean(path)
}
