package config

import (
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/config/schema"
)

// Sentinel stands for a secret where the configuration is shown (control-plane.md §4 "Redaction").
const Sentinel = "__OPENCLAW_REDACTED__"

// View is the configuration file as clients may see it: every secret is replaced by Sentinel
// (control-plane.md §4 "config.get").
type View struct {
	Path   string
	Exists bool
	// Hash is that of the file's text.
	Hash string
	// Raw is JSON5 text of Parsed, nil without a valid file or for an empty one.
	Raw *string
	// Parsed is what the file says, nil when it is not valid; Resolved is that with included files and
	// variables, Config that with defaults.
	Parsed, Resolved, Config *json5.Node
	Valid                    bool
	Issues                   []Issue
	// LegacyIssues are keys of older versions; a file with any is not valid until Migrate has moved them.
	LegacyIssues []Issue
}

// Look reads and checks the file anew and shows what it says now, which may not be what the daemon
// was started with. It fails when the file cannot be read; one that does not hold is shown with its
// issues and nothing else.
func Look(opts Options) (View, error) {
	opts.Unresolved = true
	l, text, err := find(opts)
	if err != nil {
		return View{}, err
	}
	c := l.config
	v := View{Path: c.Path, Exists: c.Exists, Hash: c.Hash, Issues: slices.Concat(l.legacy, l.issues), LegacyIssues: l.legacy}
	v.Valid = len(v.Issues) == 0
	empty := &json5.Node{Kind: json5.Object}
	if !v.Valid {
		v.Resolved, v.Config = empty, empty
		return v, nil
	}
	v.Parsed = empty
	if c.Exists {
		// The loader has changed its own tree.
		if v.Parsed, err = json5.Parse(text); err != nil {
			return View{}, err
		}
	}
	if str(v.Parsed, "meta", "lastTouchedAt") != "" {
		v.Parsed = asWritten(v.Parsed)
	}
	h := hider{filled: l.filled}
	v.Parsed, v.Resolved = h.hide(v.Parsed, nil), h.hide(c.tree, nil)
	v.Config = withDefaults(v.Resolved)
	if c.Exists && len(v.Parsed.Members) > 0 {
		raw := json5.Stringify(v.Parsed)
		v.Raw = &raw
	}
	return v, nil
}

// asWritten puts the keys of a file that the daemon has written into the order in which the original, which
// keeps no comments, would have written them; in the file they stay where their author had them. Its first
// write has meta at the end, as the file itself then.
func asWritten(n *json5.Node) *json5.Node {
	last := lastKey(n) == "meta"
	n = owned(schema.Root().Ordered(n, false))
	if last {
		i := slices.IndexFunc(n.Members, func(m json5.Member) bool { return m.Key == "meta" })
		meta := n.Members[i]
		n.Members = append(slices.Delete(n.Members, i, i+1), meta)
	}
	return n
}

// hider copies a tree without its secrets.
type hider struct{ filled map[*json5.Node]bool }

var (
	// reading is a text that names a variable and shows nothing of it.
	reading = regexp.MustCompile(`^\$\{[A-Z_][A-Z0-9_]*\}$`)
)

// harmless are ends of keys that count tokens or name files, and hold no secret.
var harmless = []string{
	"maxtokens", "maxoutputtokens", "maxinputtokens", "maxcompletiontokens", "contexttokens", "totaltokens", "tokencount",
	"tokenlimit", "tokenbudget", "passwordfile",
}

// sensitive is the rule of the original for a path in lower case, which is
// token$|password|secret|api.?key|serviceaccount(ref)?$ but for what is harmless.
func sensitive(path string) bool {
	ends := func(end string) bool { return strings.HasSuffix(path, end) }
	found := ends("token") || ends("serviceaccount") || ends("serviceaccountref") ||
		strings.Contains(path, "password") || strings.Contains(path, "secret")
	for rest := path; !found; {
		_, after, ok := strings.Cut(rest, "api")
		if !ok {
			return false
		}
		rest = after
		_, size := utf8.DecodeRuneInString(after)
		found = strings.HasPrefix(after, "key") || strings.HasPrefix(after[size:], "key")
	}
	return !slices.ContainsFunc(harmless, ends)
}

// secretAt reports whether what stands at a path is a secret. Beyond the rules of the original, all of
// the section env and all HTTP headers are: they mostly hold keys.
func secretAt(path []string) bool {
	lower := strings.ToLower(strings.Join(path, "."))
	switch {
	case len(path) > 1 && path[0] == "env", slices.Contains(path[:max(len(path)-1, 0)], "headers"):
		return true
	case len(path) > 2 && path[0] == "hooks" && path[1] == "mappings" && path[len(path)-1] == "sessionKey":
		return true
	}
	return sensitive(lower)
}

// hide returns n itself where there is nothing to hide.
func (h hider) hide(n *json5.Node, path []string) *json5.Node {
	switch n.Kind {
	case json5.String, json5.Number:
		hidden := h.filled[n] || (secretAt(path) && !reading.MatchString(n.Str))
		if hidden && (n.Kind == json5.Number || n.Str != "") {
			out := *n
			out.Kind, out.Str, out.Num = json5.String, Sentinel, 0
			return &out
		}
	case json5.Array:
		out := n
		for i, item := range n.Items {
			// An array is as secret as its key; the index is no part of the rules.
			v := h.hide(item, path)
			if v == item {
				continue
			}
			if out == n {
				c := *n
				c.Items = slices.Clone(n.Items)
				out = &c
			}
			out.Items[i] = v
		}
		return out
	case json5.Object:
		ref := secretAt(path) && n.Get("source") != nil && n.Get("id") != nil
		out := n
		for i, m := range n.Members {
			if ref && (m.Key == "source" || m.Key == "provider") && m.Value.Kind == json5.String {
				continue
			}
			v := h.hide(m.Value, append(slices.Clip(path), m.Key))
			if v == m.Value {
				continue
			}
			if out == n {
				out = owned(n)
			}
			out.Members[i].Value = v
		}
		return out
	}
	return n
}

// withDefaults lays the defaults under a copy of the tree that clients are shown (config.md §12).
func withDefaults(tree *json5.Node) *json5.Node {
	root := resultView(tree)
	fill(under(root, "messages"), "ackReactionScope", textNode("group-mentions"))
	if root.Get("logging") != nil {
		fill(under(root, "logging"), "redactSensitive", textNode("tools"))
	}
	talkDefaults(root)
	return root
}

// talkDefaults gives older settings of talk the form that names who speaks (config.md §12).
func talkDefaults(root *json5.Node) {
	if n := root.Get("talk"); n == nil || n.Kind != json5.Object || n.Get("providers") != nil || n.Get("provider") != nil {
		return
	}
	talk, voice := under(root, "talk"), &json5.Node{Kind: json5.Object}
	for _, key := range []string{"voiceId", "voiceAliases", "modelId", "outputFormat", "apiKey"} {
		if v := talk.Get(key); v != nil {
			fill(voice, key, v)
		}
	}
	if len(voice.Members) == 0 {
		return
	}
	fill(talk, "provider", textNode("elevenlabs"))
	fill(talk, "providers", &json5.Node{Kind: json5.Object, Members: []json5.Member{{Key: "elevenlabs", Value: voice}}})
}

func textNode(s string) *json5.Node    { return &json5.Node{Kind: json5.String, Str: s} }
func numberNode(f float64) *json5.Node { return &json5.Node{Kind: json5.Number, Num: f} }

// resultView is a configuration that was written as its writer gets it back: keys in the order of the
// description, with its defaults and those of agents, sessions and models (control-plane.md §4).
func resultView(tree *json5.Node) *json5.Node {
	root := owned(schema.Root().Ordered(tree, true))
	agents := under(under(root, "agents"), "defaults")
	fill(agents, "maxConcurrent", numberNode(4))
	fill(under(agents, "subagents"), "maxConcurrent", numberNode(8))
	if root.At("session", "mainKey") != nil {
		set(under(root, "session"), "mainKey", textNode(mainName))
	}
	modelDefaults(root)
	modelAliases(root)
	return schema.Root().Ordered(root, false)
}

// owned is a copy of an object whose members may be replaced.
func owned(n *json5.Node) *json5.Node {
	c := *n
	c.Members = slices.Clone(n.Members)
	return &c
}

// aliases are short names of models that get them where they are listed without one.
var aliases = []struct{ name, model string }{
	{"opus", "anthropic/claude-opus-4-6"}, {"sonnet", "anthropic/claude-sonnet-4-6"}, {"gpt", "openai/gpt-5.2"},
	{"gpt-mini", "openai/gpt-5-mini"}, {"gemini", "google/gemini-3-pro-preview"}, {"gemini-flash", "google/gemini-3-flash-preview"},
}

func modelAliases(root *json5.Node) {
	if n := root.At("agents", "defaults", "models"); n == nil || n.Kind != json5.Object {
		return
	}
	models := under(under(under(root, "agents"), "defaults"), "models")
	for _, a := range aliases {
		if n := models.Get(a.model); n != nil && n.Kind == json5.Object {
			fill(under(models, a.model), "alias", textNode(a.name))
		}
	}
}

// modelDefaults completes the models of providers (config.md §8).
func modelDefaults(root *json5.Node) {
	if n := root.At("models", "providers"); n == nil || n.Kind != json5.Object {
		return
	}
	providers := under(under(root, "models"), "providers")
	for i, m := range providers.Members {
		if m.Value.Kind != json5.Object {
			continue
		}
		p := under(providers, m.Key)
		if m.Key == "anthropic" {
			fill(p, "api", textNode("anthropic-messages"))
		}
		api, list := p.Get("api"), p.Get("models")
		if list == nil || list.Kind != json5.Array {
			continue
		}
		models := *list
		models.Items = slices.Clone(list.Items)
		for j, item := range models.Items {
			if item.Kind != json5.Object {
				continue
			}
			one := *item
			one.Members = slices.Clone(item.Members)
			if api != nil {
				fill(&one, "api", api)
			}
			fill(&one, "reasoning", &json5.Node{Kind: json5.Bool})
			fill(&one, "input", &json5.Node{Kind: json5.Array, Items: []*json5.Node{textNode("text")}})
			cost := under(&one, "cost")
			for _, key := range []string{"input", "output", "cacheRead", "cacheWrite"} {
				fill(cost, key, numberNode(0))
			}
			fill(&one, "contextWindow", numberNode(200_000))
			limit := 8192.0
			if w := one.Get("contextWindow"); w.Kind == json5.Number {
				limit = min(limit, w.Num)
			}
			fill(&one, "maxTokens", numberNode(limit))
			models.Items[j] = &one
		}
		set(p, "models", &models)
		providers.Members[i].Value = p
	}
}

// under returns the object at a key of n, a copy of its own that may be changed, made when there is
// none.
func under(n *json5.Node, key string) *json5.Node {
	own := &json5.Node{Kind: json5.Object}
	for i, m := range n.Members {
		if m.Key != key {
			continue
		}
		if m.Value.Kind == json5.Object {
			own.Members = slices.Clone(m.Value.Members)
		}
		n.Members[i].Value = own
		return own
	}
	n.Members = append(n.Members, json5.Member{Key: key, Value: own})
	return own
}

// fill sets a key that is not there.
func fill(n *json5.Node, key string, v *json5.Node) {
	if n.Get(key) == nil {
		n.Members = append(n.Members, json5.Member{Key: key, Value: v})
	}
}

// set replaces the value of a key that is there.
func set(n *json5.Node, key string, v *json5.Node) {
	for i := range n.Members {
		if n.Members[i].Key == key {
			n.Members[i].Value = v
		}
	}
}
