package migrate

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/hanzoai/hanzod/config"
)

// load reads the configuration of the source: where sessions and jobs are, which agents there are. Of one that does
// not hold the defaults are taken; the part that moves it reports why.
func (r *run) load() *config.Config {
	opts := config.Options{Path: r.configPath(), StateDir: r.Source, Unresolved: true, Env: r.env}
	c, err := config.Load(opts)
	if err == nil {
		return c
	}
	opts.Source = &config.Source{}
	if c, err = config.Load(opts); err == nil {
		return c
	}
	return &config.Config{StateDir: r.Source, Home: r.Home}
}

// env is what a configuration is read with: the environment, without what it says of a daemon.
func (r *run) env(name string) string {
	if name == "HOME" && r.Home != "" {
		return r.Home
	}
	for _, prefix := range []string{"HANZOD_", "OPENCLAW_", "CLAWDBOT_", "BOT_"} {
		if strings.HasPrefix(name, prefix) {
			return ""
		}
	}
	return os.Getenv(name)
}

// legacyConfigs are the names of the configuration of the original, the newest first (config.md §1).
var legacyConfigs = []string{"openclaw.json", "clawdbot.json", "moldbot.json", "moltbot.json"}

// configPath is the configuration file of the source.
func (r *run) configPath() string {
	if r.Config != "" {
		return r.Config
	}
	names := legacyConfigs
	if r.notesName == exportName {
		names = []string{configName}
	}
	for _, name := range names {
		if st, err := r.source.Lstat(name); err == nil && !st.IsDir() {
			return filepath.Join(r.Source, name)
		}
	}
	return filepath.Join(r.Source, names[0])
}

// configName is our configuration file in the state directory.
const configName = "config.json"
