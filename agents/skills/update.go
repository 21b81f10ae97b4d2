package skills

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/identity"
)

// Limits of what a client may have written.
const (
	maxKey   = 256
	maxValue = 16 << 10
	maxVars  = 64
)

// UpdateIn changes the entry of a skill; what is nil stays. An empty API key and an empty variable are
// removed.
type UpdateIn struct {
	Key     string
	Enabled *bool
	APIKey  *string
	Env     map[string]string
}

// UpdateOut is the entry as it stands in the configuration now, without its secrets.
type UpdateOut struct {
	Key   string
	Entry *json5.Node
}

// Update writes skills.entries of one skill, which need not be there. It is on disk on return.
// Errors: ErrKey, ErrValue, ErrWrite, and those of agents.ConfigFile.
func (s *Service) Update(ctx context.Context, c identity.Caller, in UpdateIn) (UpdateOut, error) {
	if in.Key == "" || len(in.Key) > maxKey || strings.ContainsRune(in.Key, 0) {
		return UpdateOut{}, ErrKey
	}
	if in.APIKey != nil && len(*in.APIKey) > maxValue || len(in.Env) > maxVars {
		return UpdateOut{}, ErrValue
	}
	for k, v := range in.Env {
		if len(k) > maxKey || len(v) > maxValue {
			return UpdateOut{}, ErrValue
		}
	}
	out := UpdateOut{Key: in.Key}
	_, err := s.cfg.File.Rewrite(ctx, c, "skills.entries."+in.Key+" is changed", func(text []byte, _ *config.Config) ([]byte, error) {
		e := &entryEdit{text: text, path: []string{"skills", "entries", in.Key}}
		e.read()
		if e.node == nil || e.node.Kind != json5.Object {
			e.set(&json5.Node{Kind: json5.Object})
		}
		if in.Enabled != nil {
			e.set(*in.Enabled, "enabled")
		}
		if in.APIKey != nil {
			e.put(strings.Join(strings.Fields(*in.APIKey), ""), "apiKey")
		}
		if in.Env != nil && e.node.Get("env") == nil {
			e.set(&json5.Node{Kind: json5.Object}, "env")
		}
		for _, k := range slices.Sorted(maps.Keys(in.Env)) {
			if name := strings.TrimSpace(k); name != "" {
				e.put(strings.TrimSpace(in.Env[k]), "env", name)
			}
		}
		if e.err != nil {
			return nil, ErrWrite.WithText("skills.entries cannot be changed: " + e.err.Error()).Wrap(e.err)
		}
		out.Entry = hide(e.node, nil)
		return e.text, nil
	})
	if err != nil {
		return UpdateOut{}, err
	}
	return out, nil
}

// entryEdit changes one entry in the text of the configuration.
type entryEdit struct {
	text []byte
	path []string
	node *json5.Node
	err  error
}

func (e *entryEdit) read() {
	root, err := json5.Parse(e.text)
	if err != nil {
		e.node = nil // a file that is not there yet is empty; Set says what else is wrong
		return
	}
	e.node = root.At(e.path...)
}

func (e *entryEdit) set(v any, path ...string) {
	if e.err == nil {
		if e.text, e.err = json5.Set(e.text, slices.Concat(e.path, path), v); e.err == nil {
			e.read()
		}
	}
}

// put sets a text, or removes what is empty.
func (e *entryEdit) put(v string, path ...string) {
	if v != "" {
		e.set(v, path...)
		return
	}
	if e.err == nil && e.node.At(path...) != nil {
		if e.text, e.err = json5.Delete(e.text, slices.Concat(e.path, path)); e.err == nil {
			e.read()
		}
	}
}

var sensitive = regexp.MustCompile(`(?i)token|password|secret|api.?key|credential`)

// hide copies an entry without its secrets: the API key, all variables, and what looks like a secret. A
// text that names a variable shows nothing, and stays.
func hide(n *json5.Node, path []string) *json5.Node {
	if n == nil {
		return nil
	}
	out := *n
	secret := len(path) > 1 && path[0] == "env" || len(path) > 0 && sensitive.MatchString(path[len(path)-1])
	switch n.Kind {
	case json5.String, json5.Number:
		if secret && (n.Kind == json5.Number || n.Str != "" && !naming.MatchString(n.Str)) {
			return &json5.Node{Kind: json5.String, Str: config.Sentinel}
		}
	case json5.Array:
		out.Items = nil
		for _, item := range n.Items {
			out.Items = append(out.Items, hide(item, path))
		}
	case json5.Object:
		out.Members = nil
		for _, m := range n.Members {
			under := slices.Concat(path, []string{m.Key})
			if m.Key == "id" && secret {
				under = []string{"secret"}
			}
			out.Members = append(out.Members, json5.Member{Key: m.Key, Value: hide(m.Value, under)})
		}
	}
	return &out
}

var naming = regexp.MustCompile(`^\$\{[A-Z_][A-Z0-9_]*\}$`)
