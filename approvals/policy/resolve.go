package policy

import (
	"encoding/json"
	"slices"
	"time"
)

// mainAgent is the agent of calls that name none.
const mainAgent = "main"

// anyAgent holds what counts for every agent.
const anyAgent = "*"

// Entry is one line of an allow-list.
type Entry struct {
	ID      string
	Pattern string
	// Agent is whose list it stands in.
	Agent string
}

// Overrides are what configuration says where the file says nothing. Empty values say nothing.
type Overrides struct {
	Security        Security
	Ask             Ask
	AskFallback     Security
	AutoAllowSkills bool
}

// Effective is the policy for one agent.
type Effective struct {
	Security        Security
	Ask             Ask
	AskFallback     Security
	AutoAllowSkills bool
	// Allowlist is the entries for every agent, then the agent's own.
	Allowlist []Entry
}

// denied is the policy of a file that cannot be read.
var denied = Effective{Security: SecurityDeny, Ask: AskAlways, AskFallback: SecurityDeny}

// Resolve returns the policy for an agent, nil being main (nodes-approvals.md §3.2). It creates the
// file when there is none. On an error the policy denies everything.
func (f *File) Resolve(agentID *string, o Overrides) (Effective, error) {
	doc, err := f.ensured()
	if err != nil {
		return denied, err
	}
	return doc.resolve(agentID, o), nil
}

// Effective is Resolve with what the configuration of this machine says.
func (f *File) Effective(agentID *string) (Effective, error) {
	return f.Resolve(agentID, f.configured(agentID))
}

// configured is what counts for an agent where the file says nothing.
func (f *File) configured(agentID *string) Overrides {
	if f.agents == nil {
		return f.defaults
	}
	id := mainAgent
	if agentID != nil {
		id = *agentID
	}
	o, own := f.defaults, f.agents(id)
	if own.Security.valid() {
		o.Security = own.Security
	}
	if own.Ask.valid() {
		o.Ask = own.Ask
	}
	if own.AskFallback.valid() {
		o.AskFallback = own.AskFallback
	}
	return o
}

func (d document) resolve(agentID *string, o Overrides) Effective {
	id := mainAgent
	if agentID != nil {
		id = *agentID
	}
	def := Effective{Security: SecurityDeny, Ask: AskOnMiss, AskFallback: SecurityDeny, AutoAllowSkills: o.AutoAllowSkills}
	if o.Security.valid() {
		def.Security = o.Security
	}
	if o.Ask.valid() {
		def.Ask = o.Ask
	}
	if o.AskFallback.valid() {
		def.AskFallback = o.AskFallback
	}
	def = overlay(def, func(key string) json.RawMessage { return d.defaults.get(key) })

	own, every := d.agent(id), d.agent(anyAgent)
	eff := overlay(def, func(key string) json.RawMessage {
		if v := own.get(key); v != nil {
			return v
		}
		return every.get(key)
	})
	eff.Allowlist = entries(every, anyAgent)
	if id != anyAgent {
		eff.Allowlist = append(eff.Allowlist, entries(own, id)...)
	}
	return eff
}

// overlay lays valid values over e; an invalid one changes nothing.
func overlay(e Effective, get func(key string) json.RawMessage) Effective {
	if s, ok := asString(get("security")); ok && Security(s).valid() {
		e.Security = Security(s)
	}
	if s, ok := asString(get("ask")); ok && Ask(s).valid() {
		e.Ask = Ask(s)
	}
	if s, ok := asString(get("askFallback")); ok && Security(s).valid() {
		e.AskFallback = Security(s)
	}
	if v := get("autoAllowSkills"); v != nil {
		e.AutoAllowSkills = truthy(v)
	}
	return e
}

func entries(agent object, id string) []Entry {
	items, _ := asArray(agent.get("allowlist"))
	var out []Entry
	for _, item := range items {
		if o, ok := parseObject(item); ok {
			e := Entry{Agent: id}
			e.ID, _ = o.str("id")
			e.Pattern, _ = o.str("pattern")
			out = append(out, e)
		}
	}
	return out
}

// AddAllow puts a path on the list of an agent (nil is main), unless that list already has it. A path
// that would cover other paths is refused with ErrInvalid.
func (f *File) AddAllow(agentID *string, pattern string) error {
	if !escapeFree(pattern) {
		return ErrInvalid.WithText("a path with * or ? in its name cannot be allowed always; approve it once")
	}
	return f.edit(agentID, func(list []json.RawMessage) ([]json.RawMessage, bool) {
		if slices.ContainsFunc(list, func(item json.RawMessage) bool { return patternOf(item) == pattern }) {
			return list, false
		}
		var o object
		o.setStr("id", f.newID())
		o.setStr("pattern", pattern)
		o.set("lastUsedAt", f.stampTime())
		return append(list, o.encode()), true
	})
}

// Stamp notes a use on the entries of an agent's own list that have this pattern. Entries for every
// agent are not stamped; the original replaces the agent's list with an empty one then, which is not
// copied. An empty resolvedPath removes the last one. An entry that says the same since a moment ago is
// left: a command that runs again and again does not wait for the disk each time.
func (f *File) Stamp(agentID *string, pattern, command, resolvedPath string) error {
	if len(command) > MaxStampedCommand {
		command = cutUTF8(command, MaxStampedCommand)
	}
	return f.edit(agentID, func(list []json.RawMessage) ([]json.RawMessage, bool) {
		changed := false
		for i, item := range list {
			o, ok := parseObject(item)
			if !ok || patternOf(item) != pattern {
				continue
			}
			if f.justStamped(o, command, resolvedPath) {
				continue
			}
			o.set("lastUsedAt", f.stampTime())
			o.setStr("lastUsedCommand", command)
			o.remove("lastResolvedPath")
			if resolvedPath != "" {
				o.setStr("lastResolvedPath", resolvedPath)
			}
			list[i], changed = o.encode(), true
		}
		return list, changed
	})
}

// justStamped reports whether an entry was stamped with this within stampEvery.
func (f *File) justStamped(o object, command, resolvedPath string) bool {
	var last int64
	if raw := o.get("lastUsedAt"); raw == nil || json.Unmarshal(raw, &last) != nil {
		return false
	}
	wasCommand, _ := o.str("lastUsedCommand")
	wasPath, _ := o.str("lastResolvedPath")
	ago := f.now().Sub(time.UnixMilli(last))
	return ago >= 0 && ago < stampEvery && wasCommand == command && wasPath == resolvedPath
}

func patternOf(item json.RawMessage) string {
	o, _ := parseObject(item)
	s, _ := o.str("pattern")
	return s
}
