package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strings"
)

// The names the older product used (config.md §1).
var (
	legacyDirs  = []string{".openclaw", ".clawdbot", ".moldbot", ".moltbot"}
	legacyFiles = []string{"openclaw.json", "clawdbot.json", "moldbot.json", "moltbot.json"}
)

// first returns the first variable that is set, and its trimmed value.
func first(env func(string) string, names ...string) (name, value string) {
	for _, name := range names {
		if v := strings.TrimSpace(env(name)); v != "" {
			return name, v
		}
	}
	return "", ""
}

// locate finds home, state directory and config file: flag, our variables, the legacy variables,
// the default. A legacy directory that nobody named is reported and not used.
func (c *Config) locate(opts Options) error {
	env := Environ(opts.Env)
	name, dir := "", opts.StateDir
	if dir == "" {
		name, dir = env.Lookup("HANZOD_STATE_DIR")
	}
	home, err := homeDir(opts.Env)
	switch {
	case err == nil:
	case filepath.IsAbs(dir):
		home = dir // a container may have an account without a name and a home
	default:
		return err
	}
	c.Home = home

	if dir == "" {
		dir = filepath.Join(home, ".hanzo", "hanzod")
	}
	if c.StateDir, err = c.abs(dir); err != nil {
		return err
	}

	path := opts.Path
	if path == "" {
		_, path = env.Lookup("HANZOD_CONFIG_PATH")
	}
	if path == "" {
		path = filepath.Join(c.StateDir, "config.json")
		// A state directory named by a legacy variable may hold its file under a legacy name.
		if strings.HasSuffix(name, "_STATE_DIR") && name != "HANZOD_STATE_DIR" && !exists(path) {
			for _, f := range legacyFiles {
				if p := filepath.Join(c.StateDir, f); exists(p) {
					path = p
					break
				}
			}
		}
	}
	if c.Path, err = c.abs(path); err != nil {
		return err
	}

	for _, d := range legacyDirs {
		d = filepath.Join(home, d)
		if st, err := os.Stat(d); err == nil && st.IsDir() && d != c.StateDir {
			c.LegacyDir = d
			break
		}
	}
	return nil
}

// Migration is where a migration finds both sides.
type Migration struct {
	StateDir, Path string // ours
	// Legacy is the state directory of the original, "" when none is there; LegacyPath its configuration file when
	// that is named to be elsewhere.
	Legacy, LegacyPath string
	Home               string
	// Profile is the one of the original that is in use, "" for none.
	Profile string
}

// LocateMigration says where a state directory of the original is and where ours, without reading either. The
// legacy variables name that of the original here, and never ours (config.md §1). A directory that is given wins.
func LocateMigration(opts Options, legacy string) (Migration, error) {
	env := opts.Env
	if env == nil {
		env = os.Getenv
	}
	_, state := first(env, "HANZOD_STATE_DIR")
	_, path := first(env, "HANZOD_CONFIG_PATH")
	_, theirs := first(env, "OPENCLAW_STATE_DIR", "CLAWDBOT_STATE_DIR")
	_, theirPath := first(env, "OPENCLAW_CONFIG_PATH", "CLAWDBOT_CONFIG_PATH")
	_, profile := first(env, "OPENCLAW_PROFILE")
	opts.Env = func(name string) string {
		switch {
		case name == "HANZOD_STATE_DIR":
			return state
		case name == "HANZOD_CONFIG_PATH":
			return path
		case strings.HasSuffix(name, "_STATE_DIR"), strings.HasSuffix(name, "_CONFIG_PATH"):
			return ""
		}
		return env(name)
	}
	c := &Config{}
	if err := c.locate(opts); err != nil {
		return Migration{}, err
	}
	m := Migration{StateDir: c.StateDir, Path: c.Path, Home: c.Home}
	if profile != "default" {
		m.Profile = profile
	}
	switch {
	case legacy != "":
		theirPath = ""
	case theirs != "":
		legacy = theirs
	case m.Profile != "":
		legacy = filepath.Join(c.Home, ".openclaw-"+profile)
	default:
		legacy = c.LegacyDir
	}
	var err error
	if legacy != "" {
		m.Legacy, err = c.abs(legacy)
	}
	if theirPath != "" && err == nil {
		m.LegacyPath, err = c.abs(theirPath)
	}
	return m, err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func homeDir(env func(string) string) (string, error) {
	_, home := first(env, "OPENCLAW_HOME", "HOME", "USERPROFILE")
	if home == "" {
		u, err := user.Current()
		if err != nil || u.HomeDir == "" {
			return "", errors.New("cannot find the home directory: set HOME, or HANZOD_STATE_DIR to an absolute path")
		}
		home = u.HomeDir
	}
	home, err := filepath.Abs(home)
	if err != nil {
		return "", fmt.Errorf("cannot use the home directory: %w", err)
	}
	return home, nil
}

// abs expands a leading ~ and makes the path absolute.
func (c *Config) abs(path string) (string, error) {
	if path == "~" || strings.HasPrefix(path, "~/") || strings.HasPrefix(path, `~\`) {
		path = filepath.Join(c.Home, path[1:])
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("cannot use path %q: %w", path, err)
	}
	return abs, nil
}

// readLimited reads r to its end; more than limit bytes is an error.
func readLimited(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("larger than %d bytes", limit)
	}
	return data, nil
}
