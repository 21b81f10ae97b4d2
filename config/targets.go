package config

import (
	"slices"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/config/json5"
)

// SecretTarget is a place where a secret may stand, by its stable id (control-plane.md §5).
type SecretTarget struct {
	ID string
	// path is the way there: "*" is any key, "[]" any element. It is empty where the place is not in the
	// configuration.
	path []string
}

// secretTargets is the table of the original. A channel's secrets stand at the channel and at each of its
// accounts, except those of accountless.
var secretTargets = func() []SecretTarget {
	ids := []string{
		"agents.defaults.memorySearch.remote.apiKey", "agents.list[].memorySearch.remote.apiKey",
		"cron.webhookToken", "gateway.auth.token", "gateway.auth.password", "gateway.remote.token", "gateway.remote.password",
		"messages.tts.elevenlabs.apiKey", "messages.tts.openai.apiKey", "models.providers.*.apiKey", "skills.entries.*.apiKey",
		"talk.apiKey", "talk.providers.*.apiKey", "tools.web.search.apiKey", "tools.web.search.gemini.apiKey",
		"tools.web.search.grok.apiKey", "tools.web.search.kimi.apiKey", "tools.web.search.perplexity.apiKey",
	}
	for _, c := range []struct {
		name        string
		accountless bool
		keys        []string
	}{
		{"bluebubbles", false, []string{"password"}},
		{"discord", false, []string{"token", "pluralkit.token", "voice.tts.elevenlabs.apiKey", "voice.tts.openai.apiKey"}},
		{"feishu", false, []string{"appSecret", "verificationToken"}},
		{"googlechat", false, []string{"serviceAccount"}},
		{"irc", false, []string{"password", "nickserv.password"}},
		{"matrix", false, []string{"password"}},
		{"mattermost", false, []string{"botToken"}},
		{"msteams", true, []string{"appPassword"}},
		{"nextcloud-talk", false, []string{"botSecret", "apiPassword"}},
		{"slack", false, []string{"botToken", "appToken", "userToken", "signingSecret"}},
		{"telegram", false, []string{"botToken", "webhookSecret"}},
		{"zalo", false, []string{"botToken", "webhookSecret"}},
	} {
		for _, key := range c.keys {
			if !c.accountless {
				ids = append(ids, "channels."+c.name+".accounts.*."+key)
			}
			ids = append(ids, "channels."+c.name+"."+key)
		}
	}
	var out []SecretTarget
	for _, id := range ids {
		out = append(out, SecretTarget{id, strings.Split(strings.ReplaceAll(id, "[]", ".[]"), ".")})
	}
	// The profiles of agents are files of their own.
	return append(out, SecretTarget{ID: "auth-profiles.api_key.key"}, SecretTarget{ID: "auth-profiles.token.token"})
}()

// SecretTargets lists the places where secrets may stand, by their stable ids.
func SecretTargets() []SecretTarget { return slices.Clone(secretTargets) }

// Holds reports whether a reference stands at the target.
func (t SecretTarget) Holds(r SecretRef) bool {
	if len(t.path) == 0 || len(t.path) != len(r.Segments) {
		return false
	}
	for i, want := range t.path {
		if _, err := strconv.Atoi(r.Segments[i]); want != "*" && want != r.Segments[i] && (want != "[]" || err != nil) {
			return false
		}
	}
	return true
}

// findSecrets adds the references that stand where nothing typed is.
func (l *loader) findSecrets() {
	found := map[*json5.Node]bool{}
	for _, p := range l.secrets {
		found[p.node] = true
	}
	for _, t := range secretTargets {
		if len(t.path) == 0 {
			continue
		}
		walk(l.config.tree, t.path, nil, func(n *json5.Node, at []string) {
			if n.Kind != json5.Object || found[n] || n.Get("source") == nil || n.Get("id") == nil {
				return
			}
			found[n] = true
			l.secrets = append(l.secrets, pending{
				path: strings.Join(at, "."), segs: at, node: n, active: func() bool { return !l.off(at) },
			})
		})
	}
}

// walk visits what stands at a path with places for any key.
func walk(n *json5.Node, path, at []string, visit func(*json5.Node, []string)) {
	switch {
	case n == nil:
	case len(path) == 0:
		visit(n, at)
	case path[0] == "[]":
		if n.Kind == json5.Array {
			for i, item := range n.Items {
				walk(item, path[1:], append(slices.Clone(at), strconv.Itoa(i)), visit)
			}
		}
	case n.Kind != json5.Object:
	case path[0] == "*":
		for _, m := range n.Members {
			walk(m.Value, path[1:], append(slices.Clone(at), m.Key), visit)
		}
	default:
		walk(n.Get(path[0]), path[1:], append(slices.Clone(at), path[0]), visit)
	}
}

// off reports whether something on the way to a secret is switched off by "enabled", or another search
// provider is chosen than the one that the secret is for.
func (l *loader) off(at []string) bool {
	n := l.config.tree
	for i, key := range at {
		switch n.Kind {
		case json5.Object:
			if e := n.Get("enabled"); e != nil && e.Kind == json5.Bool && !e.Bool {
				return true
			}
			if chosen := text(n.Get("provider")); chosen != "" && i == 3 && len(at) == 5 && strings.Join(at[:3], ".") == "tools.web.search" && chosen != key {
				return true
			}
			n = n.Get(key)
		case json5.Array:
			index, err := strconv.Atoi(key)
			if err != nil || index >= len(n.Items) {
				return true
			}
			n = n.Items[index]
		}
		if n == nil {
			return true
		}
	}
	return false
}
