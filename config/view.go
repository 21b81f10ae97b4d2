package config

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/config/json5"
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
	v := View{Path: c.Path, Exists: c.Exists, Hash: c.Hash, Issues: l.issues, Valid: len(l.issues) == 0}
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
	h := hider{filled: l.filled}
	v.Parsed, v.Resolved = h.hide(v.Parsed, nil), h.hide(c.tree, nil)
	v.Config = withDefaults(v.Resolved)
	if c.Exists && len(v.Parsed.Members) > 0 {
		raw := json5.Stringify(v.Parsed)
		v.Raw = &raw
	}
	return v, nil
}

// hider copies a tree without its secrets.
type hider struct{ filled map[*json5.Node]bool }

var (
	// sensitive and harmless are the rules of the original for key paths in lower case.
	sensitive = regexp.MustCompile(`token$|password|secret|api.?key|serviceaccount(ref)?$`)
	harmless  = regexp.MustCompile(`(maxtokens|maxoutputtokens|maxinputtokens|maxcompletiontokens|contexttokens|totaltokens|tokencount|tokenlimit|tokenbudget|passwordfile)$`)
	// reading is a text that names a variable and shows nothing of it.
	reading = regexp.MustCompile(`^\$\{[A-Z_][A-Z0-9_]*\}$`)
)

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
	return sensitive.MatchString(lower) && !harmless.MatchString(lower)
}

func (h hider) hide(n *json5.Node, path []string) *json5.Node {
	out := *n
	switch n.Kind {
	case json5.String, json5.Number:
		hidden := h.filled[n] || (secretAt(path) && !reading.MatchString(n.Str))
		if hidden && (n.Kind == json5.Number || n.Str != "") {
			out.Kind, out.Str, out.Num = json5.String, Sentinel, 0
		}
	case json5.Array:
		out.Items = make([]*json5.Node, len(n.Items))
		for i, item := range n.Items {
			// An array is as secret as its key; the index is no part of the rules.
			out.Items[i] = h.hide(item, path)
		}
	case json5.Object:
		ref := secretAt(path) && n.Get("source") != nil && n.Get("id") != nil
		out.Members = make([]json5.Member, len(n.Members))
		for i, m := range n.Members {
			out.Members[i] = json5.Member{Key: m.Key}
			if ref && (m.Key == "source" || m.Key == "provider") && m.Value.Kind == json5.String {
				plain := *m.Value
				out.Members[i].Value = &plain
				continue
			}
			out.Members[i].Value = h.hide(m.Value, append(slices.Clone(path), m.Key))
		}
	}
	return &out
}

// The order of keys in answers (config.md §3); others keep theirs.
var (
	rootOrder = []string{
		"$schema", "meta", "env", "wizard", "diagnostics", "logging", "cli", "update", "browser", "ui", "secrets", "auth",
		"acp", "models", "nodeHost", "agents", "tools", "bindings", "broadcast", "audio", "media", "messages", "commands",
		"approvals", "session", "cron", "hooks", "web", "channels", "discovery", "canvasHost", "talk", "gateway", "memory",
		"skills", "plugins",
	}
	gatewayOrder = []string{
		"port", "mode", "bind", "customBindHost", "controlUi", "auth", "trustedProxies", "allowRealIpFallback", "tools",
		"channelHealthCheckMinutes", "tailscale", "remote", "reload", "tls", "http", "nodes",
	}
	loggingOrder = []string{"level", "file", "maxFileBytes", "consoleLevel", "consoleStyle", "redactSensitive", "redactPatterns"}
)

// withDefaults lays the defaults under a copy of the tree that clients are shown (config.md §12).
func withDefaults(tree *json5.Node) *json5.Node {
	text := func(s string) *json5.Node { return &json5.Node{Kind: json5.String, Str: s} }
	number := func(f float64) *json5.Node { return &json5.Node{Kind: json5.Number, Num: f} }
	root := *tree
	root.Members = slices.Clone(tree.Members)

	commands := under(&root, "commands")
	fill(commands, "native", text("auto"))
	fill(commands, "nativeSkills", text("auto"))
	fill(commands, "restart", &json5.Node{Kind: json5.Bool, Bool: true})
	fill(commands, "ownerDisplay", text("raw"))
	agents := under(under(&root, "agents"), "defaults")
	fill(agents, "maxConcurrent", number(4))
	fill(under(agents, "subagents"), "maxConcurrent", number(8))
	fill(under(&root, "messages"), "ackReactionScope", text("group-mentions"))
	if root.Get("logging") != nil {
		logging := under(&root, "logging")
		fill(logging, "redactSensitive", text("tools"))
		order(logging, loggingOrder)
	}
	if root.At("session", "mainKey") != nil {
		session := under(&root, "session")
		for i := range session.Members {
			if session.Members[i].Key == "mainKey" {
				session.Members[i].Value = text(mainName)
			}
		}
	}
	if root.Get("gateway") != nil {
		order(under(&root, "gateway"), gatewayOrder)
	}
	order(&root, rootOrder)
	return &root
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

// order sorts the members by a list; those that are not in it keep their order behind.
func order(n *json5.Node, keys []string) {
	at := func(m json5.Member) int {
		if i := slices.Index(keys, m.Key); i >= 0 {
			return i
		}
		return len(keys)
	}
	slices.SortStableFunc(n.Members, func(a, b json5.Member) int { return cmp.Compare(at(a), at(b)) })
}
