package migrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
)

const (
	partConfig = "config"
	// maxConfig is what package config reads.
	maxConfig = 16 << 20
	// maxIssues bounds the faults of a configuration that are told one by one.
	maxIssues = 20
)

// configOptions is what the configuration of the source is read with.
func (r *run) configOptions() config.Options {
	return config.Options{StateDir: r.Source, Path: r.configPath(), Env: r.env, Unresolved: true}
}

// readConfig reads the text of the configuration of the source.
func (r *run) readConfig() (name string, text []byte, err error) {
	path := r.configPath()
	if rel, err := filepath.Rel(r.Source, path); err == nil && filepath.IsLocal(rel) {
		text, err = readFile(r.source, filepath.ToSlash(rel), maxConfig)
		return filepath.ToSlash(rel), text, err
	}
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return path, nil, err
	}
	defer func() { _ = root.Close() }()
	text, err = readFile(root, filepath.Base(path), maxConfig)
	return path, text, err
}

// importConfig brings the configuration over: its text, with comments, includes and references to variables and
// secrets as they are. Keys of older versions move to where they count now, and workspaces that the original found by
// its own directory are named, so that agents keep their files.
func importConfig(_ context.Context, r *run) error {
	name, text, err := r.readConfig()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		r.found(Finding{Part: partConfig, Path: name, Outcome: Fault, Why: reason(err)})
		return nil
	}
	var notes []string
	text, notes, err = config.MigrateText(text)
	if err == nil {
		text, err = r.nameWorkspaces(text)
	}
	if err == nil {
		text, err = r.usualSessions(text)
	}
	if err != nil {
		r.found(Finding{Part: partConfig, Path: name, Outcome: Fault, Why: "it is not JSON5: " + reason(err)})
		return nil
	}
	o := r.configOptions()
	o.Source = &config.Source{Exists: true, Text: text, Includes: r.includes()}
	var invalid *config.Invalid
	_, err = config.Load(o)
	if errors.As(err, &invalid) && r.unset(name, invalid, &o) {
		_, err = config.Load(o)
	}
	if errors.As(err, &invalid) {
		for _, is := range invalid.Issues[:min(len(invalid.Issues), maxIssues)] {
			r.found(Finding{Part: partConfig, Path: name, Outcome: Fault, Why: is.Path + ": " + is.Message})
		}
		r.found(Finding{Part: partConfig, Path: name, Outcome: Fault, Why: "it does not hold, so no daemon would start with it: mend it and run this again"})
		return nil
	} else if err != nil {
		r.found(Finding{Part: partConfig, Path: name, Outcome: Fault, Why: reason(err)})
		return nil
	}
	if r.ConfigTo != "" && filepath.Dir(r.ConfigTo) != r.Target {
		r.found(Finding{Part: partConfig, Path: name, Outcome: Left, Why: "hanzod reads " + r.ConfigTo + "; copy it there by hand"})
		return nil
	}
	to := configName
	if r.ConfigTo != "" {
		to = filepath.Base(r.ConfigTo)
	}
	before := r.report.Count(Imported)
	if err := r.bringFile(partConfig, name, to, text, generatedConfig); err != nil || r.report.Count(Imported) == before {
		return err
	}
	for _, note := range notes {
		r.found(Finding{Part: partConfig, Path: name, Outcome: Left, Why: note})
	}
	return nil
}

// unset looks for variables that the configuration names and that are not set here: a service of the original may have
// them, and hanzod then needs them as well. They count as set for the check of the rest.
func (r *run) unset(file string, invalid *config.Invalid, o *config.Options) bool {
	names := map[string]bool{}
	for _, is := range invalid.Issues {
		name, ok := strings.CutPrefix(is.Message, "Missing env var \"")
		name, _, whole := strings.Cut(name, "\"")
		if ok && whole && !names[name] {
			names[name] = true
			r.found(Finding{Part: partConfig, Path: file, Outcome: Left, Why: "the variable " + name + " is not set here: hanzod does not start without it, so set it for its service or in .env of its state directory"})
		}
	}
	env := o.Env
	o.Env = func(name string) string {
		if names[name] {
			return "unset"
		}
		return env(name)
	}
	return len(names) > 0
}

// includes are the texts of the files that the configuration includes.
func (r *run) includes() map[string][]byte {
	out := map[string][]byte{}
	for _, path := range r.config.Includes {
		if text, err := os.ReadFile(path); err == nil { // it was read as one a moment ago
			out[path] = text
		}
	}
	return out
}

// nameWorkspaces writes the workspaces of agents into the configuration where the original found them by itself.
func (r *run) nameWorkspaces(text []byte) ([]byte, error) {
	n, err := json5.Parse(text)
	if err != nil {
		return nil, err
	}
	c := r.config
	for _, id := range c.AgentIDs() {
		dir := filepath.Join(r.Source, "workspace-"+id)
		own := id == c.DefaultAgentID()
		if own {
			// It is home based, whatever the state directory is (config.md §1).
			dir = filepath.Join(r.Home, ".openclaw", "workspace")
			if p := strings.TrimSpace(os.Getenv("OPENCLAW_PROFILE")); p != "" && p != "default" {
				dir += "-" + p
			}
		}
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			continue
		}
		i := slices.IndexFunc(c.Agents.List, func(a config.Agent) bool { return a.ID == id })
		path := []string{"agents", "defaults", "workspace"}
		switch {
		case own && c.Agents.Defaults.Workspace != "", i >= 0 && c.Agents.List[i].Workspace != "":
			continue
		case !own && i < 0:
			r.found(Finding{Part: partConfig, Path: dir, Outcome: Left, Why: "no agent of the configuration has this workspace"})
			continue
		case !own:
			list := n.Get("agents").Get("list")
			if list == nil || i >= len(list.Items) {
				r.found(Finding{Part: partConfig, Path: dir, Outcome: Left, Why: fmt.Sprintf("set the workspace of the agent %s to it by hand: its entry stands in an included file", id)})
				continue
			}
			path = []string{"agents", "list", strconv.Itoa(i), "workspace"}
		}
		out, err := json5.Set(text, path, dir)
		if err != nil {
			r.found(Finding{Part: partConfig, Path: dir, Outcome: Left, Why: fmt.Sprintf("set %s to it by hand: %v", strings.Join(path, "."), err)})
			continue
		}
		text = out
		r.found(Finding{Part: partConfig, Path: dir, Outcome: Left, Why: "stays where it is, and the configuration names it: " + strings.Join(path, ".")})
	}
	return text, nil
}

// generatedConfig tells whether a configuration says nothing but the token that a first start made.
func generatedConfig(text []byte) bool {
	n, err := json5.Parse(text)
	if err != nil {
		return false
	}
	only := func(n *json5.Node, keys ...string) bool {
		return n == nil || !slices.ContainsFunc(n.Members, func(m json5.Member) bool { return !slices.Contains(keys, m.Key) })
	}
	return only(n, "gateway", "meta") && only(n.Get("gateway"), "auth") && only(n.Get("gateway").Get("auth"), "mode", "token")
}

// exportConfig writes the configuration under the name of the original.
func exportConfig(_ context.Context, r *run) error {
	name, text, err := r.readConfig()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		r.found(Finding{Part: partConfig, Path: name, Outcome: Fault, Why: reason(err)})
		return nil
	}
	theirs, gone, err := config.WithoutOwn(text)
	if err != nil {
		r.found(Finding{Part: partConfig, Path: name, Outcome: Fault, Why: "it is not JSON5: " + reason(err)})
		return nil
	}
	for _, key := range gone {
		r.found(Finding{Part: partConfig, Path: name, Outcome: Left, Why: key + " is hanzod's own: the original would not start with it"})
	}
	return r.writeFile(partConfig, legacyConfigs[0], theirs, 1)
}
