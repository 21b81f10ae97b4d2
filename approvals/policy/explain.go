package policy

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/hanzoai/hanzod/approvals/shell"
	"github.com/hanzoai/hanzod/config/json5"
)

// FileRuling is what the exec approvals file of a machine says about a run, and why.
type FileRuling struct {
	Path, Hash string
	Security   Security
	Ask        Ask
	// Run says that it may run; else Reason is the word for exec.denied and Message the text for the caller.
	Run             bool
	Reason, Message string
	// Rule is the setting or the allow-list entry that decides, Where the place it is written at
	// ("path:line"), the path alone when the file says nothing.
	Rule, Where string
}

// Explain says what Admit would say, and by which line of the file.
func (f *File) Explain(agentID *string, argv []string, cwd, pathEnv string, approved bool) (FileRuling, error) {
	doc, err := f.ensured()
	if err != nil {
		v := Decide(SecurityDeny, AskAlways, false, false, approved)
		return FileRuling{Path: f.path, Security: SecurityDeny, Ask: AskAlways, Reason: v.Reason, Message: err.Error(), Rule: "the file cannot be used", Where: f.path}, err
	}
	eff := doc.resolve(agentID, f.configured(agentID))
	c := coverage{}
	if eff.Security == SecurityAllowlist {
		c = f.cover(agentID, eff, argv, cwd, pathEnv)
	} else {
		_, c.inline = shell.FindInline(argv)
	}
	text := doc.text()
	out := ruleFile(doc, text, agentID, eff, c, approved)
	out.Path, out.Hash = f.path, hashOf(text)
	out.Where = strings.Replace(out.Where, "file", f.path, 1)
	return out, nil
}

// ExplainJSON is Explain as JSON text, for a gateway that asks this machine.
func (f *File) ExplainJSON(agentID *string, argv []string, cwd, pathEnv string, approved bool) []byte {
	r, _ := f.Explain(agentID, argv, cwd, pathEnv, approved) // a file that cannot be used says so in the answer
	return object{
		{"security", quote(string(r.Security))},
		{"ask", quote(string(r.Ask))},
		{"run", json.RawMessage(fmt.Sprint(r.Run))},
		{"reason", quote(r.Reason)},
		{"message", quote(r.Message)},
		{"rule", quote(r.Rule)},
		{"where", quote(r.Where)},
	}.encode()
}

// ExplainText is Explain for the file of another machine, given as JSON text: what can be said from afar.
// located is where the machine finds the executable, "" when that is not known. Defaults are what counts
// there when the file says nothing.
func ExplainText(file []byte, path string, defaults Overrides, home, platform string, agentID *string, argv []string, located string, approved bool) (FileRuling, error) {
	doc, why := parseDocument(file, func() string { return "" })
	if why != "" {
		return FileRuling{Path: path, Security: SecurityDeny, Rule: "the file cannot be used", Where: path, Reason: "security=deny", Message: why}, ErrCorrupt.WithText("the exec approvals file of the machine cannot be used: " + why)
	}
	eff := doc.resolve(agentID, defaults)
	_, inline := shell.FindInline(argv)
	c := coverage{inline: inline}
	if eff.Security == SecurityAllowlist && !inline && located != "" && !shell.RunsOthers(located) {
		m := shell.Machine{Home: home, Platform: platform}
		for i := range eff.Allowlist {
			if e := &eff.Allowlist[i]; c.entry == nil && (trim(e.Pattern) == "*" || m.Match(e.Pattern, located)) {
				c.entry, c.covered = e, true
			}
		}
	}
	out := ruleFile(doc, doc.text(), agentID, eff, c, approved)
	out.Path = path
	out.Where = path
	return out, nil
}

// ruleFile decides and finds the place of what decides; Where begins with "file".
func ruleFile(doc document, text []byte, agentID *string, eff Effective, c coverage, approved bool) FileRuling {
	v := Decide(eff.Security, eff.Ask, c.covered, c.inline, approved)
	out := FileRuling{Security: eff.Security, Ask: eff.Ask, Run: v.Run, Reason: v.Reason, Message: v.Message}
	id := mainAgent
	if agentID != nil {
		id = *agentID
	}
	key := "security"
	switch {
	case v.Run && !approved && eff.Security == SecurityAllowlist && c.entry != nil:
		out.Rule = fmt.Sprintf("allow-list entry %q of agent %s", c.entry.Pattern, c.entry.Agent)
		out.Where = "file" + lineOf(text, "agents", c.entry.Agent, "allowlist", c.entry.Pattern)
		return out
	case v.Run && !approved && eff.Security == SecurityAllowlist:
		out.Rule, out.Where = c.by+" of the machine", "file"
		return out
	case v.Reason == "approval-required":
		key = "ask"
	}
	value := string(eff.Security)
	if key == "ask" {
		value = string(eff.Ask)
	}
	from := doc.origin(id, key)
	if from == nil {
		out.Rule, out.Where = key+" "+value+", the default of the machine", "file"
		return out
	}
	out.Rule = strings.Join(from, ".") + " " + value
	out.Where = "file" + lineOf(text, from...)
	return out
}

// origin is the path of the setting that resolve takes, nil when the file says nothing.
func (d document) origin(id, key string) []string {
	valid := func(o object) bool {
		s, ok := o.str(key)
		return ok && (key == "security" && Security(s).valid() || key == "ask" && Ask(s).valid())
	}
	own, every := d.agent(id), d.agent(anyAgent)
	switch {
	case own.get(key) != nil && valid(own):
		return []string{"agents", id, key}
	case own.get(key) == nil && every.get(key) != nil && valid(every):
		return []string{"agents", anyAgent, key}
	case valid(d.defaults):
		return []string{"defaults", key}
	}
	return nil
}

// lineOf is ":" and the line of a place in a text, "" when it is not found. Of an allow-list the entry with
// a pattern is meant.
func lineOf(text []byte, path ...string) string {
	root, err := json5.Parse(text)
	if err != nil {
		return ""
	}
	n := root
	for _, key := range path {
		if n != nil && n.Kind == json5.Array {
			var found *json5.Node
			for _, item := range n.Items {
				if p := item.Get("pattern"); found == nil && p != nil && p.Str == key {
					found = p
				}
			}
			n = found
			continue
		}
		n = n.Get(key)
	}
	if n == nil {
		return ""
	}
	return fmt.Sprintf(":%d", n.Start.Line)
}
