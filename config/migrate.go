package config

import (
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/config/json5"
)

// legacyIssues names the keys of older versions in a configuration (config.md §13).
func legacyIssues(l *loader, n *json5.Node) []Issue {
	_, notes := migrated(n)
	out := make([]Issue, 0, len(notes))
	for _, note := range notes {
		is := Issue{Path: note.path, Message: note.text + " (auto-migrated on load)."}
		if note.at != nil {
			is.Line, is.Col, is.File = note.at.Start.Line, note.at.Start.Col, l.origin[note.at]
		}
		out = append(out, is)
	}
	return out
}

// Migrate moves keys of older versions to where they count now; n stays as it is. notes say what was moved,
// nil when there was nothing.
func Migrate(n *json5.Node) (out *json5.Node, notes []string) {
	out, found := migrated(n)
	for _, note := range found {
		notes = append(notes, note.text+".")
	}
	return out, notes
}

// MigrateText is Migrate for the text of a file, which keeps its comments and layout.
func MigrateText(text []byte) (out []byte, notes []string, err error) {
	n, err := json5.Parse(text)
	if err != nil {
		return nil, nil, err
	}
	want, notes := Migrate(n)
	if len(notes) == 0 {
		return text, nil, nil
	}
	out, err = json5.Rewrite(text, want)
	return out, notes, err
}

type note struct {
	path, text string
	at         *json5.Node
}

// migration is a copy of a configuration that is being changed: own are the objects that are copies.
type migration struct {
	root  *json5.Node
	own   map[*json5.Node]bool
	notes []note
}

func migrated(n *json5.Node) (*json5.Node, []note) {
	if n == nil || n.Kind != json5.Object {
		return n, nil
	}
	root := *n
	root.Members = append([]json5.Member(nil), n.Members...)
	m := &migration{root: &root, own: map[*json5.Node]bool{&root: true}}
	m.channels()
	m.agent()
	m.routing()
	m.rest()
	return m.root, m.notes
}

func (m *migration) note(at *json5.Node, path, text string) {
	m.notes = append(m.notes, note{path, text, at})
}

// object is the object at a path that may be changed; with make it is made where there is none. It is nil
// where something else stands.
func (m *migration) object(build bool, path ...string) *json5.Node {
	n := m.root
	for _, key := range path {
		next := m.child(n, key)
		if next == nil {
			if !build || n.Get(key) != nil {
				return nil
			}
			next = &json5.Node{Kind: json5.Object}
			m.own[next] = true
			n.Members = append(n.Members, json5.Member{Key: key, Value: next})
		}
		n = next
	}
	return n
}

func (m *migration) child(n *json5.Node, key string) *json5.Node {
	for i, mem := range n.Members {
		if mem.Key == key && mem.Value.Kind == json5.Object {
			if !m.own[mem.Value] {
				c := *mem.Value
				c.Members = append([]json5.Member(nil), c.Members...)
				m.own[&c] = true
				n.Members[i].Value = &c
			}
			return n.Members[i].Value
		}
	}
	return nil
}

func remove(n *json5.Node, key string) *json5.Node {
	for i, mem := range n.Members {
		if mem.Key == key {
			n.Members = append(n.Members[:i:i], n.Members[i+1:]...)
			return mem.Value
		}
	}
	return nil
}

// put sets a key that is not there; objects are laid under those that are.
func (m *migration) put(v *json5.Node, path ...string) {
	parent := m.object(true, path[:len(path)-1]...)
	if parent == nil {
		return
	}
	key := path[len(path)-1]
	old := parent.Get(key)
	if old == nil {
		parent.Members = append(parent.Members, json5.Member{Key: key, Value: v})
		return
	}
	if old.Kind == json5.Object && v.Kind == json5.Object {
		for _, mem := range v.Members {
			m.put(mem.Value, append(slices.Clip(path), mem.Key)...)
		}
	}
}

// move takes a key from one place to another.
func (m *migration) move(from, to string) {
	path := strings.Split(from, ".")
	parent := m.object(false, path[:len(path)-1]...)
	if parent == nil {
		return
	}
	if v := remove(parent, path[len(path)-1]); v != nil {
		m.note(v, from, from+" was moved; use "+to+" instead")
		m.put(v, strings.Split(to, ".")...)
	}
}

// drop removes an object that migration has emptied.
func (m *migration) drop(path ...string) {
	parent := m.object(false, path[:len(path)-1]...)
	key := path[len(path)-1]
	if parent == nil {
		return
	}
	if n := parent.Get(key); n != nil && n.Kind == json5.Object && len(n.Members) == 0 {
		remove(parent, key)
	}
}

func (m *migration) channels() {
	for _, id := range []string{"whatsapp", "telegram", "discord", "slack", "signal", "imessage", "msteams"} {
		m.move(id, "channels."+id)
	}
	channels := m.object(false, "channels")
	if channels == nil {
		return
	}
	for _, mem := range channels.Members {
		c := m.child(channels, mem.Key)
		if c == nil {
			continue
		}
		m.channel(c, "channels."+mem.Key, mem.Key)
		if accounts := m.child(c, "accounts"); accounts != nil {
			for _, a := range accounts.Members {
				if one := m.child(accounts, a.Key); one != nil {
					m.channel(one, "channels."+mem.Key+".accounts."+a.Key, mem.Key)
				}
			}
		}
	}
}

func (m *migration) channel(c *json5.Node, path, id string) {
	if id != "googlechat" {
		if v := remove(c, "streamMode"); v != nil {
			m.note(v, path+".streamMode", path+".streamMode was moved; use "+path+".streaming instead")
			if c.Get("streaming") == nil || c.Get("streaming").Kind == json5.Bool {
				remove(c, "streaming")
				c.Members = append(c.Members, json5.Member{Key: "streaming", Value: v})
			}
		}
	}
	if v := c.Get("streaming"); v != nil && v.Kind == json5.Bool {
		mode := "off"
		if v.Bool {
			mode = "partial"
		}
		m.note(v, path+".streaming", path+".streaming is off, partial, block or progress now")
		set(c, "streaming", textNode(mode))
	}
	if t := m.child(c, "threadBindings"); t != nil {
		m.hours(t, path+".threadBindings")
	}
}

func (m *migration) hours(t *json5.Node, path string) {
	if v := remove(t, "ttlHours"); v != nil {
		m.note(v, path+".ttlHours", path+".ttlHours was renamed; use "+path+".idleHours instead")
		fill(t, "idleHours", v)
	}
}

// agent moves the section of the time when there was one agent.
func (m *migration) agent() {
	if a := m.object(false, "agent"); a != nil {
		models := func(name string) {
			if n := a.Get("models"); n == nil {
				a.Members = append(a.Members, json5.Member{Key: "models", Value: &json5.Node{Kind: json5.Object}})
			}
			if list := m.child(a, "models"); list != nil && name != "" {
				fill(list, name, &json5.Node{Kind: json5.Object})
			}
		}
		for _, kind := range []struct{ model, fallbacks string }{{"model", "modelFallbacks"}, {"imageModel", "imageModelFallbacks"}} {
			primary, rest := a.Get(kind.model), remove(a, kind.fallbacks)
			if rest == nil {
				continue
			}
			choice := &json5.Node{Kind: json5.Object}
			if primary != nil {
				if primary.Kind == json5.Object {
					choice.Members = append(choice.Members, primary.Members...)
				} else {
					choice.Members = append(choice.Members, json5.Member{Key: "primary", Value: primary})
				}
				remove(a, kind.model)
			}
			fill(choice, "fallbacks", rest)
			a.Members = append(a.Members, json5.Member{Key: kind.model, Value: choice})
		}
		if list := remove(a, "allowedModels"); list != nil {
			for _, item := range list.Items {
				models(item.Str)
			}
		}
		if names := remove(a, "modelAliases"); names != nil {
			for _, mem := range names.Members {
				if mem.Value.Kind != json5.String || mem.Value.Str == "" {
					continue
				}
				models(mem.Value.Str)
				if one := m.child(m.child(a, "models"), mem.Value.Str); one != nil {
					fill(one, "alias", textNode(mem.Key))
				}
			}
		}
		for _, key := range []string{"tools", "elevated", "bash", "sandbox"} {
			if key == "sandbox" || a.Get(key) == nil {
				continue
			}
			v := remove(a, key)
			switch key {
			case "tools":
				m.put(v, "tools")
			case "elevated":
				m.put(v, "tools", "elevated")
			case "bash":
				m.put(v, "tools", "exec")
			}
		}
		m.move("agent", "agents.defaults")
	}
	m.move("memorySearch", "agents.defaults.memorySearch")
	if h := m.object(false, "heartbeat"); h != nil {
		for _, key := range []string{"showOk", "showAlerts", "useIndicator"} {
			if v := remove(h, key); v != nil {
				m.note(v, "heartbeat."+key, "heartbeat."+key+" was moved; use channels.defaults.heartbeat."+key+" instead")
				m.put(v, "channels", "defaults", "heartbeat", key)
			}
		}
		m.move("heartbeat", "agents.defaults.heartbeat")
	}
	if id := remove(m.root, "identity"); id != nil {
		m.note(id, "identity", "identity was moved; use agents.list[].identity instead")
		fill(m.agentEntry(""), "identity", id)
	}
}

// agentEntry is the entry of agents.list with an id, or the default one; it is made when there is none.
func (m *migration) agentEntry(id string) *json5.Node {
	agents := m.object(true, "agents")
	list := &json5.Node{Kind: json5.Array}
	if old := agents.Get("list"); old != nil && old.Kind == json5.Array {
		*list = *old
		list.Items = append([]*json5.Node(nil), old.Items...)
		set(agents, "list", list)
	} else {
		remove(agents, "list")
		agents.Members = append(agents.Members, json5.Member{Key: "list", Value: list})
	}
	at := -1
	for i, item := range list.Items {
		isDefault := item.Get("default") != nil && item.Get("default").Bool
		if id != "" && str(item, "id") == id || id == "" && isDefault {
			at = i
			break
		}
	}
	if at < 0 && id == "" && len(list.Items) > 0 {
		at = 0
	}
	entry := &json5.Node{Kind: json5.Object}
	if at < 0 {
		if id == "" {
			id = mainName
		}
		entry.Members = []json5.Member{{Key: "id", Value: textNode(id)}}
		list.Items = append(list.Items, entry)
		return entry
	}
	*entry = *list.Items[at]
	entry.Members = append([]json5.Member(nil), entry.Members...)
	list.Items[at] = entry
	return entry
}

func (m *migration) routing() {
	r := m.object(false, "routing")
	if r == nil {
		return
	}
	m.move("routing.allowFrom", "channels.whatsapp.allowFrom")
	m.move("routing.bindings", "bindings")
	m.move("routing.agentToAgent", "tools.agentToAgent")
	m.move("routing.queue", "messages.queue")
	if g := m.object(false, "routing", "groupChat"); g != nil {
		if v := remove(g, "requireMention"); v != nil {
			m.note(v, "routing.groupChat.requireMention", "routing.groupChat.requireMention was moved; use groups of the channels instead")
			for _, id := range []string{"whatsapp", "telegram", "imessage"} {
				if m.object(false, "channels", id) != nil {
					m.put(v, "channels", id, "groups", "*", "requireMention")
				}
			}
		}
		m.move("routing.groupChat", "messages.groupChat")
	}
	if v := remove(r, "transcribeAudio"); v != nil {
		m.note(v, "routing.transcribeAudio", "routing.transcribeAudio was moved; use tools.media.audio.models instead")
		m.transcription(v)
	}
	if agents := remove(r, "agents"); agents != nil {
		m.note(agents, "routing.agents", "routing.agents was moved; use agents.list instead")
		for _, mem := range agents.Members {
			entry := m.agentEntry(mem.Key)
			for _, key := range mem.Value.Members {
				fill(entry, key.Key, key.Value)
			}
		}
	}
	if id := remove(r, "defaultAgentId"); id != nil {
		m.note(id, "routing.defaultAgentId", "routing.defaultAgentId was moved; use agents.list[].default instead")
		if id.Kind == json5.String && id.Str != "" {
			fill(m.agentEntry(id.Str), "default", &json5.Node{Kind: json5.Bool, Bool: true})
		}
	}
	m.drop("routing")
}

// transcription makes a model of the older program that writes speech down.
func (m *migration) transcription(v *json5.Node) {
	command := v.Get("command")
	if command == nil || command.Kind != json5.Array || len(command.Items) == 0 {
		return
	}
	model := &json5.Node{Kind: json5.Object, Members: []json5.Member{
		{Key: "type", Value: textNode("cli")}, {Key: "command", Value: command.Items[0]},
	}}
	if rest := command.Items[1:]; len(rest) > 0 {
		model.Members = append(model.Members, json5.Member{Key: "args", Value: &json5.Node{Kind: json5.Array, Items: rest}})
	}
	if t := v.Get("timeoutSeconds"); t != nil {
		model.Members = append(model.Members, json5.Member{Key: "timeoutSeconds", Value: t})
	}
	m.put(&json5.Node{Kind: json5.Bool, Bool: true}, "tools", "media", "audio", "enabled")
	m.put(&json5.Node{Kind: json5.Array, Items: []*json5.Node{model}}, "tools", "media", "audio", "models")
}

func (m *migration) rest() {
	m.move("tools.bash", "tools.exec")
	m.move("gateway.token", "gateway.auth.token")
	m.move("messages.queue.byProvider", "messages.queue.byChannel")
	if a := m.object(false, "audio"); a != nil && a.Get("transcription") != nil {
		v := remove(a, "transcription")
		m.note(v, "audio.transcription", "audio.transcription was moved; use tools.media.audio.models instead")
		m.transcription(v)
		m.drop("audio")
	}
	if t := m.object(false, "messages", "tts"); t != nil {
		if v := remove(t, "enabled"); v != nil {
			m.note(v, "messages.tts.enabled", "messages.tts.enabled was moved; use messages.tts.auto instead")
			auto := "off"
			if v.Bool {
				auto = "always"
			}
			fill(t, "auto", textNode(auto))
		}
	}
	if g := m.object(false, "gateway"); g != nil {
		if v := g.Get("bind"); v != nil && v.Kind == json5.String {
			if mode, ok := bindMode(v.Str); ok && mode != v.Str {
				m.note(v, "gateway.bind", "gateway.bind "+quote(v.Str)+" is a host; use the mode "+mode+" instead")
				set(g, "bind", textNode(mode))
			}
		}
	}
	if t := m.object(false, "session", "threadBindings"); t != nil {
		m.hours(t, "session.threadBindings")
	}
	m.matches("bindings", m.root, "bindings")
	if p := m.object(false, "session", "sendPolicy"); p != nil {
		m.matches("session.sendPolicy.rules", p, "rules")
	}
	if profile := m.object(false, "auth", "profiles", "anthropic:claude-cli"); profile != nil && str(profile, "mode") == "token" {
		m.note(profile, "auth.profiles.anthropic:claude-cli.mode", "auth profile anthropic:claude-cli has the mode oauth now")
		set(profile, "mode", textNode("oauth"))
	}
}

// matches renames the keys of what rules of a list match.
func (m *migration) matches(path string, parent *json5.Node, key string) {
	old := parent.Get(key)
	if old == nil || old.Kind != json5.Array {
		return
	}
	list := *old
	list.Items = append([]*json5.Node(nil), old.Items...)
	changed := false
	for i, item := range list.Items {
		match := item.Get("match")
		if match == nil || match.Get("provider") == nil && match.Get("accountID") == nil {
			continue
		}
		one := *item
		one.Members = append([]json5.Member(nil), item.Members...)
		own := under(&one, "match")
		for _, name := range []struct{ from, to string }{{"provider", "channel"}, {"accountID", "accountId"}} {
			if v := remove(own, name.from); v != nil {
				m.note(v, path, path+"[].match."+name.from+" was renamed; use match."+name.to+" instead")
				fill(own, name.to, v)
			}
		}
		list.Items[i], changed = &one, true
	}
	if changed {
		set(parent, key, &list)
	}
}
