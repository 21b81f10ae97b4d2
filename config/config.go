// Package config reads the daemon's configuration: one file in the legacy gateway's JSON5 format
// and key names, checked once and turned into typed values.
//
// It may import the standard library, config/json5, config/schema and secrets/source, and keeps no goroutine.
// A *Config is not changed after Load, except by EnsureToken, and may then be read from any goroutine.
package config

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/hanzoai/hanzod/config/json5"
)

// DefaultPort is the TCP port when nothing names another (config.md §1).
const DefaultPort = 18789

// Limits of what is read. More is refused with an issue, never cut off.
const (
	maxFileBytes    = 16 << 20 // the file itself; the largest real ones hold a few hundred kilobytes
	maxIncludeBytes = 2 << 20  // each included file (control-plane.md §4)
	maxIncludeDepth = 10       // files between the main one and the deepest (control-plane.md §4)
	maxIncludes     = 256      // included files altogether, so that ten levels cannot multiply
	maxNodes        = 1 << 20  // values of the merged tree, for the same reason
)

// Options says where to look. The zero value reads the process environment.
type Options struct {
	// Path is the file named by --config; StateDir the directory named by --state-dir.
	Path, StateDir string
	// Env looks a variable up; absent and empty are the same. Nil means os.Getenv.
	Env func(string) string
	// Port, GRPCPort and Bind override the file and the environment when set. Port 0 asks for a free
	// port; GRPCPort also opens the gRPC door for other machines where it would be closed.
	Port, GRPCPort *int
	Bind           string
	// Tailnet turns gateway.tailnet on.
	Tailnet bool
	// Unresolved leaves secrets unset that stand elsewhere (SecretRef), for who only looks at the file.
	Unresolved bool
	// Source is read in place of the files, when it is set.
	Source *Source
}

// Config is everything the daemon was told. Secrets in it print as "[redacted]".
type Config struct {
	// Path is the config file, whether it exists or not; Exists says which.
	Path   string
	Exists bool
	// Includes are the files that Path includes, as absolute paths without links, in order of reading.
	Includes []string
	// Hash is the lower-case hex SHA-256 of the file's text, of the empty text when it is missing.
	Hash string
	// StateDir is where the daemon keeps its state, Home the home directory paths with ~ mean.
	StateDir, Home string
	// LegacyDir is a state directory of the older product that exists and that nobody named, or "".
	LegacyDir string
	// Migrated says which keys of older versions the file has and where they count now; SaveMigrated makes
	// that part of the file.
	Migrated []string
	// Warnings are what holds and is most likely not what was meant, for the log.
	Warnings []string

	Gateway    Gateway
	Logging    Logging
	Audit      Audit
	Tunnel     Tunnel
	Session    Session
	Cron       Cron
	Agents     Agents
	Tools      Tools
	CanvasHost CanvasHost
	NodeHost   NodeHost
	Uplinks    []Uplink
	Hooks      Hooks
	Discovery  Discovery
	Update     Update
	Browser    Browser
	Push       Push
	// EnvVars are the variables that the file's env section sets for the commands of this daemon.
	// They are only handed out here; names that could take over a process are left out. Many hold API
	// keys, so all of them are secrets.
	EnvVars map[string]Secret

	// SecretRefs are the secrets that stand elsewhere, in the order of SecretTargets behind those that the
	// daemon itself uses.
	SecretRefs []SecretRef

	tree   *json5.Node
	filled map[*json5.Node]bool // strings of tree that hold the value of a variable
	opts   Options
	// madeToken says that EnsureToken made the token.
	madeToken bool
	source    *Source
	// bothSecrets notes that the file holds a token and a password and no mode.
	bothSecrets bool

	Checkpoints Checkpoints
}

// Load finds, reads and checks the configuration. A missing file gives the defaults. A file that
// does not hold is refused as a whole with an *Invalid that lists everything wrong with it; other
// errors mean that the file could not be read.
func Load(opts Options) (*Config, error) {
	l, _, err := find(opts)
	if err != nil {
		return nil, err
	}
	if len(l.issues) > 0 {
		return nil, l.invalid()
	}
	return l.config, nil
}

func (l *loader) invalid() *Invalid {
	return &Invalid{Path: l.config.Path, Issues: l.issues, Unresolved: l.unresolved}
}

// find is Load with what was found on the way: the loader, issues and all, and the text of the file.
func find(opts Options) (*loader, []byte, error) {
	if opts.Env == nil {
		opts.Env = os.Getenv
	}
	c := &Config{opts: opts}
	if err := c.locate(opts); err != nil {
		return nil, nil, err
	}
	vars, err := dotenv(c.StateDir)
	if err != nil {
		return nil, nil, err
	}
	opts.Env = withDotenv(opts.Env, vars)
	text, err := opts.read(c.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, nil, fmt.Errorf("cannot read the config file: %w", err)
	default:
		c.Exists = true
	}
	c.source = &Source{Exists: c.Exists, Text: text, Includes: map[string][]byte{}}
	sum := sha256.Sum256(text)
	c.Hash = hex.EncodeToString(sum[:])

	l := &loader{config: c, env: opts.Env, given: opts.Source, origin: map[*json5.Node]string{}, filled: map[*json5.Node]bool{}}
	c.filled = l.filled
	if c.tree = l.parse(text); c.tree != nil {
		if l.legacy = legacyIssues(l, c.tree); len(l.legacy) > 0 {
			c.tree, c.Migrated = Migrate(c.tree)
			for _, note := range c.Migrated {
				c.Warnings = append(c.Warnings, note+notSaved)
			}
		}
		c.EnvVars = l.envVars(c.tree)
		for name, v := range vars {
			if !unsafeName(name) {
				c.EnvVars[name] = NewSecret(v)
			}
		}
		l.substitute(c.tree, "")
	}
	if len(l.issues) == 0 {
		l.fill(context.Background(), opts) // each source has a time limit of its own
	}
	return l, text, nil
}

// fill makes the configuration of the tree.
func (l *loader) fill(ctx context.Context, opts Options) {
	l.read(l.config.tree)
	held := len(l.issues) == 0
	l.override(opts)
	if held {
		l.resolveSecrets(ctx, opts.Unresolved)
	}
	l.credentials()
	l.pushCredentials()
}

// Locate says where state and configuration are, without reading either.
func Locate(opts Options) (stateDir, path string, err error) {
	if opts.Env == nil {
		opts.Env = os.Getenv
	}
	c := &Config{}
	err = c.locate(opts)
	return c.StateDir, c.Path, err
}

// Section returns the checked tree of a top-level key that has no typed form here, or nil. It holds
// secrets as plain text: never print it.
func (c *Config) Section(key string) *json5.Node { return c.tree.Get(key) }

// String names the file and shows no content.
func (c *Config) String() string { return "config " + c.Path }

// GoString is String, so that no verb of fmt shows the content.
func (c *Config) GoString() string { return c.String() }

// Format is String for every verb.
func (c *Config) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// LogValue is String in structured logs.
func (c *Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// loader turns the text of one configuration into values and collects what is wrong with it.
type loader struct {
	config   *Config
	env      func(string) string
	given    *Source // read in place of the files
	issues   []Issue
	legacy   []Issue                // keys of older versions
	origin   map[*json5.Node]string // file of the nodes that came from another file than the main one
	filled   map[*json5.Node]bool   // strings that hold the value of a variable
	asked    map[string]bool        // the keys that were read, for a test
	includes int
	nodes    int
	secrets  []pending
	refs     []pending // those of Config.SecretRefs
	// unresolved are the paths of references that could not be resolved.
	unresolved []string
}

// parse reads the text of the main file and what it includes; nil after an issue.
func (l *loader) parse(text []byte) *json5.Node {
	if !l.config.Exists {
		return &json5.Node{Kind: json5.Object}
	}
	root, err := json5.Parse(text)
	if err != nil {
		l.syntax(err, "")
		return nil
	}
	root = l.include(root, includeSite{file: l.config.Path})
	if root != nil && root.Kind != json5.Object {
		l.fail("", root, "Expected object, got "+root.Kind.String())
		return nil
	}
	return root
}

func (l *loader) syntax(err error, file string) {
	is := Issue{Message: "JSON5 parse failed: SyntaxError: " + err.Error(), File: file}
	if se, ok := errors.AsType[*json5.SyntaxError](err); ok {
		is.Line, is.Col = se.Line, se.Col
	}
	l.issues = append(l.issues, is)
}

// override applies flags and environment, which win over the file.
func (l *loader) override(opts Options) {
	g := &l.config.Gateway
	l.environment()
	if opts.Port != nil {
		if g.Port = *opts.Port; g.Port < 0 || g.Port > 65535 {
			l.fail("--port", nil, fmt.Sprintf("Expected integer 0..65535, got %d", g.Port))
		}
	}
	if opts.GRPCPort != nil {
		on := true
		if g.GRPC.Enabled, g.GRPC.Port = &on, opts.GRPCPort; *opts.GRPCPort < 0 || *opts.GRPCPort > 65535 {
			l.fail("--grpc-port", nil, fmt.Sprintf("Expected integer 0..65535, got %d", *opts.GRPCPort))
		}
	}
	l.tailnetOverride(opts)
	if opts.Bind != "" {
		bind, ok := bindMode(opts.Bind)
		if !ok {
			l.fail("--bind", nil, wrongChoice(opts.Bind, bindModes))
		}
		g.Bind = bind
	}
	if canvas := &l.config.CanvasHost; canvas.Port == 0 && g.Port > 0 && g.Port <= 65531 {
		canvas.Port = g.Port + 4 // derived ports, config.md §1
	}
}

// readFile reads a regular file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	// Asked before opening, which would wait for the writer of a named pipe.
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, limit)
}

func readAll(f *os.File, limit int64) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", filepath.Base(f.Name()))
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", filepath.Base(f.Name()), limit)
	}
	return readLimited(f, limit)
}
