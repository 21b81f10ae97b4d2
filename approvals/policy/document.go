package policy

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// document is the content of the file after normalisation.
type document struct {
	socket   object
	defaults object
	// agents maps ids to objects.
	agents object
}

// parseDocument reads and normalises a file (nodes-approvals.md §3.1). Unlike the original it never
// takes a damaged or newer file for an empty one: why is set then.
func parseDocument(raw []byte, newID func() string) (d document, why string) {
	if len(raw) > MaxFile {
		return d, "it is larger than 4 MiB"
	}
	if !utf8.Valid(raw) || !json.Valid(raw) {
		return d, "it is not valid JSON"
	}
	top, ok := parseObject(raw)
	if !ok {
		return d, "it is not a JSON object"
	}
	var version float64
	if v := top.get("version"); v == nil || json.Unmarshal(v, &version) != nil || version != 1 {
		return d, "its version is not 1"
	}
	parts := map[string]object{}
	for _, key := range []string{"socket", "defaults", "agents"} {
		parts[key] = object{}
		if v := top.get(key); v != nil {
			if parts[key], ok = parseObject(v); !ok {
				return d, key + " is not an object"
			}
		}
	}
	d.socket, d.defaults = object{}, object{}
	for _, key := range []string{"path", "token"} {
		if s, ok := parts["socket"].str(key); ok && trim(s) != "" {
			d.socket.setStr(key, trim(s))
		}
	}
	for _, key := range []string{"security", "ask", "askFallback", "autoAllowSkills"} {
		if v := parts["defaults"].get(key); v != nil {
			d.defaults.set(key, v)
		}
	}
	d.agents = normalAgents(parts["agents"], newID)
	return d, ""
}

func normalAgents(agents object, newID func() string) object {
	out := object{}
	var legacy object
	for _, m := range agents {
		a, _ := parseObject(m.val)
		normalList(&a, newID)
		if m.key == "default" {
			legacy = a
			if legacy == nil {
				legacy = object{}
			}
			continue
		}
		out = append(out, member{m.key, a.encode()}) // each key is there once
	}
	if legacy == nil {
		return out
	}
	// An agent called default is the old name of main: main's own values win.
	own, _ := parseObject(out.get(mainAgent))
	list, has := asArray(own.get("allowlist"))
	seen := map[string]bool{}
	for _, item := range list {
		seen[strings.ToLower(trim(patternOf(item)))] = true
	}
	more, had := asArray(legacy.get("allowlist"))
	for _, item := range more {
		if p := strings.ToLower(trim(patternOf(item))); !seen[p] {
			seen[p] = true
			list = append(list, item)
		}
	}
	for _, m := range legacy {
		if m.key != "allowlist" && own.get(m.key) == nil {
			own.set(m.key, m.val)
		}
	}
	if has || had {
		own.set("allowlist", encodeArray(list))
	}
	out.set(mainAgent, own.encode())
	return out
}

// normalList normalises the allow-list of an agent in place.
func normalList(agent *object, newID func() string) {
	items, ok := asArray(agent.get("allowlist"))
	if !ok {
		agent.remove("allowlist")
		return
	}
	list := make([]json.RawMessage, 0, len(items))
	for _, item := range items {
		e, _ := parseObject(item)
		if s, isText := asString(item); isText {
			e = object{}
			e.setStr("pattern", trim(s))
		}
		if p, _ := e.str("pattern"); trim(p) == "" {
			continue
		}
		if id, _ := e.str("id"); id == "" {
			e.setStr("id", newID())
		}
		list = append(list, e.encode())
	}
	agent.set("allowlist", encodeArray(list))
}

func (d document) agent(id string) object {
	o, _ := parseObject(d.agents.get(id))
	return o
}

// encode writes the document; withToken keeps the secret of the socket.
func (d document) encode(withToken bool) []byte {
	socket := object{}
	for _, m := range d.socket {
		if m.key != "token" || withToken {
			socket.set(m.key, m.val)
		}
	}
	o := object{
		{"version", json.RawMessage("1")},
		{"socket", socket.encode()},
		{"defaults", d.defaults.encode()},
		{"agents", d.agents.encode()},
	}
	var b bytes.Buffer
	_ = json.Compact(&b, o.encode()) // made of valid JSON
	return b.Bytes()
}

// text is what stands in the file.
func (d document) text() []byte {
	var b bytes.Buffer
	_ = json.Indent(&b, d.encode(true), "", "  ") // made of valid JSON
	b.WriteByte('\n')
	return b.Bytes()
}

func cutUTF8(s string, n int) string {
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
