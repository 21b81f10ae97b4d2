package contract

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// scenario is one recording.
type scenario struct {
	name   string // "<group>/<file>", as in the file
	group  string
	source string // folder it came from: empty for the recordings of this repository
	shared bool
	needs  string
	config *object
	env    map[string]string
	steps  []*object
	// deviates is set when a deliberate deviation replaced a step.
	deviates bool
}

// title names the scenario in reports, with its folder when it is not one of ours.
func (s *scenario) title() string {
	if s.source == "" {
		return s.name
	}
	return s.source + ":" + s.name
}

// daemonKey is equal for scenarios that may share a daemon.
func (s *scenario) daemonKey() string {
	env, _ := json.Marshal(s.env) // a map of strings always encodes, keys sorted
	return string(encode(s.config)) + "\n" + string(env)
}

// actions are the members that say what a step does, each with the members that may stand beside it.
var actions = map[string][]string{
	"open":       {"headers", "path"},
	"send":       {"frame"},
	"recv":       {"frame", "loose"},
	"closed":     {"code", "reason"},
	"silent":     {"event", "ms"},
	"close":      nil,
	"wait":       nil,
	"noResponse": {"id"},
	// responseHeaders is an addition for deviations: headers the answer must have with these values.
	"http": {"status", "contentType", "json", "text", "loose", "responseHeaders"},
}

// action is the one action of a step.
func action(step *object) (string, error) {
	var found []string
	for _, k := range step.keys {
		if _, ok := actions[k]; ok {
			found = append(found, k)
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("a step has one action, this has %d: %s", len(found), shown(step))
	}
	for _, k := range step.keys {
		if k != found[0] && !slices.Contains(actions[found[0]], k) {
			return "", fmt.Errorf("member %q of a %s step is not known: %s", k, found[0], shown(step))
		}
	}
	return found[0], nil
}

// loadScenario reads one recording. name is its path below the folder, without extension.
func loadScenario(path, name string) (*scenario, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseScenario(data, name)
}

func parseScenario(data []byte, name string) (*scenario, error) {
	v, err := parse(data)
	if err != nil {
		return nil, err
	}
	top, ok := v.(*object)
	if !ok {
		return nil, fmt.Errorf("%s: a scenario is an object", name)
	}
	s := &scenario{name: name, env: map[string]string{}, config: newObject()}
	s.group, _, _ = strings.Cut(name, "/")
	for _, k := range top.keys {
		switch k {
		case "name", "about":
		case "shared":
			s.shared, _ = top.vals[k].(bool)
		case "needs":
			s.needs = top.str(k)
		case "gateway":
			g := top.obj(k)
			if g == nil {
				return nil, fmt.Errorf("%s: gateway is an object", name)
			}
			if c := g.obj("config"); c != nil {
				s.config = c
			}
			if e := g.obj("env"); e != nil {
				for _, n := range e.keys {
					s.env[n] = e.str(n)
				}
			}
		case "steps":
			list, _ := top.vals[k].([]any)
			for i, e := range list {
				o, ok := e.(*object)
				if !ok {
					return nil, fmt.Errorf("%s step %d is not an object", name, i+1)
				}
				if _, err := action(o); err != nil {
					return nil, fmt.Errorf("%s step %d: %w", name, i+1, err)
				}
				s.steps = append(s.steps, o)
			}
		default:
			return nil, fmt.Errorf("%s: member %q is not known", name, k)
		}
	}
	if len(s.steps) == 0 {
		return nil, fmt.Errorf("%s has no steps", name)
	}
	return s, nil
}

// loadFolder reads every recording below dir, sorted by name.
func loadFolder(dir, source string) ([]*scenario, error) {
	var out []*scenario
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Ext(path) != ".json" {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		s, err := loadScenario(path, strings.TrimSuffix(filepath.ToSlash(rel), ".json"))
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		s.source = source
		out = append(out, s)
		return nil
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("no recordings below %s", dir)
	}
	return out, err
}

// moduleRoot is the folder that holds go.mod.
func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod above the test")
		}
		dir = up
	}
}

// recordings are all scenarios to replay, deviations applied: those of fixtures/gateway, and those of
// the folders named by FIXTURES: instead, or in addition when the list begins with "+".
func recordings(t testing.TB) []*scenario {
	t.Helper()
	root := moduleRoot(t)
	own, err := loadFolder(filepath.Join(root, "fixtures", "gateway"), "")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := loadDeviations(filepath.Join(root, "fixtures", "deviations.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	list, add := strings.CutPrefix(os.Getenv("FIXTURES"), "+")
	var other []*scenario
	for i, dir := range filepath.SplitList(list) {
		if dir == "" {
			continue
		}
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(root, dir)
		}
		found, err := loadFolder(dir, fmt.Sprintf("%d-%s", i+1, filepath.Base(dir)))
		if err != nil {
			t.Fatal(err)
		}
		other = append(other, found...)
	}
	if err := deviate(rows, own, other); err != nil {
		t.Fatal(err)
	}
	if len(other) == 0 {
		return own
	}
	if add {
		return append(own, other...)
	}
	return other
}
