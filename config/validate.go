package config

import (
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/config/schema"
)

// validate notes everything that is wrong with a configuration: first what the description of its keys
// says, then what depends on several of them (config.md §13).
func (l *loader) validate(n *json5.Node) {
	found := schema.Root().Check(n)
	for _, f := range found {
		is := l.fail(f.Path, f.Node, f.Message)
		is.AllowedValues, is.Hidden, is.Hint = f.Allowed, f.Hidden, f.Hint
		if f.Pos.Line > 0 {
			is.Line, is.Col = f.Pos.Line, f.Pos.Col
		}
		for _, key := range f.Unknown {
			if to := moved[join(f.Path, key)]; to != "" {
				is.Hint += " (moved to " + to + ")"
			} else if like := near(key, f.Known); like != "" {
				is.Hint += " (did you mean " + strconv.Quote(like) + "?)"
			}
		}
	}
	if len(found) > 0 {
		return
	}
	l.agentRules(n)
	l.toolRules(n)
	l.channelRules(n)
	l.otherRules(n)
}

// each calls f with the items of a list or the members of an object and their paths.
func each(n *json5.Node, path string, f func(key string, v *json5.Node, path string)) {
	if n == nil {
		return
	}
	for i, item := range n.Items {
		key := strconv.Itoa(i)
		f(key, item, join(path, key))
	}
	for _, m := range n.Members {
		f(m.Key, m.Value, join(path, m.Key))
	}
}

// str is a text below n, or "".
func str(n *json5.Node, path ...string) string {
	if v := n.At(path...); v != nil && v.Kind == json5.String {
		return v.Str
	}
	return ""
}

func (l *loader) agentRules(n *json5.Node) {
	list := n.At("agents", "list")
	ids, dirs := map[string]bool{}, map[string]string{}
	each(list, "agents.list", func(_ string, a *json5.Node, path string) {
		id := str(a, "id")
		ids[id] = true
		dir := str(a, "agentDir")
		if dir == "" {
			dir = filepath.Join(l.config.StateDir, "agents", AgentID(id), "agent")
		} else if abs, err := l.config.abs(dir); err == nil {
			dir = abs
		}
		if other, taken := dirs[dir]; taken && AgentID(other) != AgentID(id) {
			l.fail("agents.list", a, "Agents "+quote(other)+" and "+quote(id)+" share the directory "+quote(dir)+"; give each an agentDir of its own")
		}
		dirs[dir] = id
		if avatar := a.At("identity", "avatar"); avatar != nil {
			if text := avatarFault(avatar.Str); text != "" {
				l.fail(join(path, "identity.avatar"), avatar, text)
			}
		}
	})
	each(n.Get("broadcast"), "broadcast", func(key string, agents *json5.Node, path string) {
		if key == "strategy" || list == nil || len(list.Items) == 0 {
			return
		}
		each(agents, path, func(_ string, id *json5.Node, path string) {
			if id.Kind == json5.String && !ids[id.Str] {
				l.fail(path, id, "Unknown agent id "+strconv.Quote(id.Str)+" (not in agents.list).")
			}
		})
	})
	each(n.Get("bindings"), "bindings", func(_ string, b *json5.Node, path string) {
		if str(b, "type") != "acp" {
			return
		}
		if strings.TrimSpace(str(b, "match", "peer", "id")) == "" {
			l.fail(join(path, "match.peer"), b, "ACP bindings require match.peer.id to target a concrete conversation.")
		}
		if c := str(b, "match", "channel"); c != "discord" && c != "telegram" {
			l.fail(join(path, "match.channel"), b, `ACP bindings currently support only "discord" and "telegram" channels.`)
		}
	})
}

// avatarFault says why a text names no picture, or nothing (config.md §5).
func avatarFault(s string) string {
	s = strings.TrimSpace(s)
	lower := strings.ToLower(s)
	switch {
	case s == "", strings.HasPrefix(lower, "data:"), strings.HasPrefix(lower, "http://"), strings.HasPrefix(lower, "https://"):
		return ""
	case strings.HasPrefix(s, "~"), strings.Contains(s, "://"), filepath.IsAbs(s), strings.HasPrefix(s, "/"), strings.HasPrefix(s, `\`),
		len(s) > 1 && s[1] == ':':
		return "identity.avatar must be a workspace-relative path, http(s) URL, or data URI."
	case !filepath.IsLocal(filepath.FromSlash(strings.ReplaceAll(s, `\`, "/"))):
		return "identity.avatar must stay within the agent workspace."
	}
	return ""
}

func (l *loader) toolRules(n *json5.Node) {
	l.toolScope(n.Get("tools"), "tools", "tools")
	each(n.At("agents", "list"), "agents.list", func(_ string, a *json5.Node, path string) {
		l.toolScope(a.Get("tools"), join(path, "tools"), "agent tools")
		l.network(a.At("sandbox", "docker", "network"), join(path, "sandbox.docker.network"))
	})
	l.network(n.At("agents", "defaults", "sandbox", "docker", "network"), "agents.defaults.sandbox.docker.network")
}

func (l *loader) network(n *json5.Node, path string) {
	if n != nil && strings.EqualFold(strings.TrimSpace(n.Str), "host") {
		l.fail(path, n, `Sandbox security: network mode "host" is blocked. Use "bridge" or "none" instead.`)
	}
}

func (l *loader) toolScope(t *json5.Node, path, name string) {
	if t == nil {
		return
	}
	filled := func(n *json5.Node, key string) bool { v := n.Get(key); return v != nil && len(v.Items) > 0 }
	one := func(n *json5.Node, path, name string) {
		if filled(n, "allow") && filled(n, "alsoAllow") {
			l.fail(path, n, name+" cannot set both allow and alsoAllow in the same scope (merge allow entries into alsoAllow, or remove allow and use profile + alsoAllow)")
		}
	}
	one(t, path, name)
	each(t.Get("byProvider"), join(path, "byProvider"), func(_ string, p *json5.Node, path string) { one(p, path, name+".byProvider policy") })
	loop := t.Get("loopDetection")
	last, lastKey := -1.0, ""
	for _, key := range []string{"warningThreshold", "criticalThreshold", "globalCircuitBreakerThreshold"} {
		v := loop.Get(key)
		limit := map[string]float64{"warningThreshold": 10, "criticalThreshold": 20, "globalCircuitBreakerThreshold": 30}[key]
		if v != nil {
			limit = v.Num
		}
		if loop != nil && lastKey != "" && limit <= last && (v != nil || loop.Get(lastKey) != nil) {
			if v == nil {
				v = loop.Get(lastKey)
			}
			l.fail(join(path, "loopDetection."+key), v, "tools.loopDetection."+lastKey+" must be lower than "+key+".")
		}
		last, lastKey = limit, key
	}
}

// secretName is what a provider of secrets may be called.
const secretName = `^[a-z][a-z0-9_-]{0,63}$`

// extraChannels are those of plugins of the older gateway.
var extraChannels = []string{
	"feishu", "line", "matrix", "mattermost", "nextcloud-talk", "nostr", "synology-chat", "tlon", "twitch", "zalo", "zalouser",
}

func (l *loader) channelRules(n *json5.Node) {
	channels := schema.Root().Field("channels").Type
	each(n.Get("channels"), "channels", func(key string, c *json5.Node, path string) {
		switch {
		case channels.Field(key) == nil && !slices.Contains(extraChannels, key):
			l.fail(path, c, "unknown channel id: "+key)
			return
		case c.Kind != json5.Object:
			l.fail(path, c, "Invalid input: expected object, received "+c.Kind.String())
			return
		case key == "defaults" || key == "modelByChannel":
			return
		}
		l.whoMayWrite(c, c, path)
		each(c.Get("accounts"), join(path, "accounts"), func(_ string, a *json5.Node, path string) { l.whoMayWrite(a, c, path) })
	})
}

// whoMayWrite checks the policy of an account, whose values come before those of its channel.
func (l *loader) whoMayWrite(account, channel *json5.Node, path string) {
	policy, from := str(account, "dmPolicy"), account.Get("allowFrom")
	if policy == "" {
		return
	}
	if from == nil {
		from = channel.Get("allowFrom")
	}
	if from == nil {
		from = channel.At("dm", "allowFrom")
	}
	any, star := from != nil && len(from.Items) > 0, false
	if from != nil {
		for _, item := range from.Items {
			star = star || item.Str == "*"
		}
	}
	switch {
	case policy == "open" && !star:
		l.fail(join(path, "allowFrom"), account, path+`.dmPolicy="open" requires `+path+`.allowFrom to include "*"`)
	case policy == "allowlist" && !any:
		l.fail(join(path, "allowFrom"), account, path+`.dmPolicy="allowlist" requires `+path+`.allowFrom to contain at least one sender ID`)
	}
}

func (l *loader) otherRules(n *json5.Node) {
	l.checkpointRules(n.Get("checkpoints"))
	each(n.At("browser", "profiles"), "browser.profiles", func(_ string, p *json5.Node, path string) {
		if p.Get("cdpPort") == nil && str(p, "cdpUrl") == "" {
			l.fail(path, p, "Profile must set cdpPort or cdpUrl")
		}
	})
	each(n.At("secrets", "providers"), "secrets.providers", func(key string, p *json5.Node, path string) {
		if ok, _ := regexp.MatchString(secretName, key); !ok {
			l.fail(path, p, "Secret provider alias must match /"+secretName+`/ (example: "default").`)
		}
		if c := str(p, "command"); str(p, "source") == "exec" && !filepath.IsAbs(c) {
			l.fail(join(path, "command"), p.Get("command"), "secrets.providers.*.command must be an absolute path.")
		}
	})
	each(n.At("hooks", "mappings"), "hooks.mappings", func(_ string, m *json5.Node, path string) {
		module := m.At("transform", "module")
		if module != nil && !filepath.IsLocal(filepath.FromSlash(module.Str)) {
			l.fail(join(path, "transform.module"), module, "module path must stay below hooks.transformsDir")
		}
	})
}
