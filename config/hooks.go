package config

import (
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/config/json5"
)

// hookChannels are the values of hooks.mappings[].channel (config.md §9).
var hookChannels = []string{"last", "whatsapp", "telegram", "discord", "irc", "slack", "signal", "imessage", "msteams"}

// maxMappings bounds hooks.mappings: each request to a path without a route of its own is compared
// with all of them.
const maxMappings = 1000

// maxHookBody is the most that hooks.maxBodyBytes may be: the largest message of the other doors.
const maxHookBody = 25 << 20

func (l *loader) hooks(o object, h *Hooks) {
	*h = Hooks{Path: "/hooks", MaxBodyBytes: 256 << 10}
	o.bool("enabled", &h.Enabled)
	o.secret("token", &h.Token, func() bool { return h.Enabled })
	o.str("path", &h.Path)
	o.str("defaultSessionKey", &h.DefaultSessionKey)
	o.bool("allowRequestSessionKey", &h.AllowRequestSessionKey)
	o.strs("allowedSessionKeyPrefixes", &h.AllowedSessionKeyPrefixes)
	o.strs("allowedAgentIds", &h.AllowedAgentIDs)
	o.integer("maxBodyBytes", 1, maxHookBody, &h.MaxBodyBytes)
	if strings.TrimSpace(h.Path) == "" {
		h.Path = "/hooks"
	}
	h.Path = "/" + strings.Trim(strings.TrimSpace(h.Path), "/")

	l.mappings(o, h)
	presets := o.typed("presets", json5.Array)
	if presets != nil {
		for i, p := range presets.Items {
			at := "hooks.presets." + strconv.Itoa(i)
			if p.Kind != json5.String {
				l.fail(at, p, "Expected string, got "+p.Kind.String())
				continue
			}
			if p.Str != "gmail" {
				l.fail(at, p, wrongChoice(p.Str, []string{"gmail"})).AllowedValues = []string{"gmail"}
				continue
			}
			mail := gmailPreset
			if unsafe := o.n.At("gmail", "allowUnsafeExternalContent"); unsafe != nil {
				mail.AllowUnsafeExternalContent = unsafe.Bool
			}
			h.Mappings = append(h.Mappings, mail)
		}
	}
	o.typed("transformsDir", json5.String)
	o.raw(json5.Object, "gmail", "internal")
	o.strict()
}

// gmailPreset is what the preset gmail stands for (channels-plugins.md §5.4).
var gmailPreset = HookMapping{
	ID: "gmail", MatchPath: "gmail", Action: "agent", WakeMode: "now", Name: "Gmail", Deliver: true,
	SessionKey: "hook:gmail:{{messages[0].id}}",
	MessageTemplate: "New email from {{messages[0].from}}\nSubject: {{messages[0].subject}}\n" +
		"{{messages[0].snippet}}\n{{messages[0].body}}",
}

func (l *loader) mappings(o object, h *Hooks) {
	list := o.typed("mappings", json5.Array)
	if list == nil {
		return
	}
	if len(list.Items) > maxMappings {
		l.fail("hooks.mappings", list, "Expected at most "+strconv.Itoa(maxMappings)+" entries")
		return
	}
	for i, item := range list.Items {
		path := "hooks.mappings." + strconv.Itoa(i)
		if item.Kind != json5.Object {
			l.fail(path, item, "Expected object, got "+item.Kind.String())
			continue
		}
		h.Mappings = append(h.Mappings, l.mapping(object{l: l, n: item, path: path, known: new([]string)}, i, h.Enabled))
	}
}

func (l *loader) mapping(o object, i int, enabled bool) HookMapping {
	m := HookMapping{ID: "mapping-" + strconv.Itoa(i+1), Action: "agent", WakeMode: "now", Deliver: true}
	var id string
	if o.str("id", &id); strings.TrimSpace(id) != "" {
		m.ID = strings.TrimSpace(id)
	}
	match := o.object("match")
	match.str("path", &m.MatchPath)
	m.MatchPath = strings.Trim(strings.TrimSpace(m.MatchPath), "/")
	match.str("source", &m.MatchSource)
	m.MatchSource = strings.TrimSpace(m.MatchSource)
	match.strict()
	o.choice("action", &m.Action, "wake", "agent")
	o.choice("wakeMode", &m.WakeMode, "now", "next-heartbeat")
	o.str("name", &m.Name)
	o.str("agentId", &m.AgentID)
	// The key may hold an expression; what comes of it is checked with each request.
	o.str("sessionKey", &m.SessionKey)
	o.str("messageTemplate", &m.MessageTemplate)
	o.str("textTemplate", &m.TextTemplate)
	o.bool("deliver", &m.Deliver)
	o.bool("allowUnsafeExternalContent", &m.AllowUnsafeExternalContent)
	o.choice("channel", &m.Channel, hookChannels...)
	o.str("to", &m.To)
	o.str("model", &m.Model)
	o.str("thinking", &m.Thinking)
	o.int("timeoutSeconds", 1, 1<<31-1, &m.TimeoutSeconds)
	if t := o.typed("transform", json5.Object); t != nil && enabled {
		l.fail(join(o.path, "transform"), t, "JavaScript modules cannot run here; "+
			"describe the mapping with messageTemplate or textTemplate, or take it out")
	}
	o.strict()
	return m
}
