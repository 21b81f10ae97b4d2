package policy

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/approvals/shell"
	"github.com/hanzoai/hanzod/config/json5"
)

// Fault is what is wrong with rules at one place, and what to write instead.
type Fault struct {
	Line, Col int
	Text      string
}

// settings are security, ask and fallback for some runs. An empty value says nothing.
type settings struct {
	security Security
	ask      Ask
	fallback Security
	// The keys' places: "agents.main.security" and "policy.json:4".
	securityAt, askAt, fallbackAt place
}

type place struct{ name, where string }

// rule is one rule, ready to be compared.
type rule struct {
	name, where string
	effect      Effect
	argv        []words // any of them; none fits every command
	agents      []wild
	nodes       []wild
	sessions    []wild
	hosts       []wild
	cwds        []dirs
	during      []window
	expires     time.Time

	timeout          time.Duration
	onTimeout        Effect
	quorum           int
	approvers        []string
	excludeRequester bool
	escalateAfter    time.Duration
	escalateTo       []string
}

// Rules are the rules of one text, ready to decide. They never change. The zero value has none.
type Rules struct {
	hash     string
	defaults settings
	agents   map[string]settings
	nodes    map[string]settings
	rules    []rule
	// order holds the rules that allow or ask, denies the others; both in the order of the file.
	order, denies []*rule
	asks          bool
	// broken is why there are no rules, and nothing may run; at is where.
	broken, at string
}

// Hash returns the SHA-256 in hex of the text, "" without one.
func (r *Rules) Hash() string { return r.hash }

// Count returns how many rules there are.
func (r *Rules) Count() int { return len(r.rules) }

// ParseRules reads the text of a rules file. name is the file as people know it. A wrong text fails with
// ErrRules, whose text has every fault as "file:line: …".
//
// The text is JSON5:
//
//	{
//	  version: 1,
//	  defaults: {security: "allowlist", ask: "on-miss", fallback: "deny"},
//	  agents: {main: {ask: "always"}},
//	  nodes: {"build-mac": {security: "full"}},
//	  rules: [
//	    {name: "no root", effect: "deny", argv: ["sudo", "**"]},
//	    {name: "git", effect: "allow", argv: [["git", "status"], ["git", "log", "**"]], cwd: "/srv/**"},
//	    {name: "deploy", effect: "ask", argv: ["make", "deploy"], node: "build-*", timeout: "10m", onTimeout: "deny",
//	     approvers: ["device:…"], quorum: 2, excludeRequester: true, escalateAfter: "5m", escalateTo: ["device:…"],
//	     during: {days: ["mon-fri"], from: "09:00", to: "17:00", zone: "Europe/Berlin"}, expires: "2027-01-01T00:00:00Z"},
//	  ],
//	}
//
// A matching deny anywhere beats every allow and ask; of the others the first that matches decides.
func ParseRules(name string, text []byte) (*Rules, error) {
	r, faults := readRules(name, text)
	if len(faults) == 0 {
		return r, nil
	}
	return nil, ErrRules.WithText(FaultText(name, faults))
}

// CheckRules returns what is wrong with a text; nothing when it may be used.
func CheckRules(text []byte) []Fault {
	_, faults := readRules("", text)
	return faults
}

// FaultText is one line per fault, each with its place.
func FaultText(name string, faults []Fault) string {
	var b strings.Builder
	for i, f := range faults {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s:%d: %s", name, f.Line, f.Text)
	}
	return b.String()
}

func readRules(name string, text []byte) (*Rules, []Fault) {
	p := &reader{file: filepath.Base(name), r: &Rules{hash: hashOf(text), agents: map[string]settings{}, nodes: map[string]settings{}}}
	if len(text) > MaxRules {
		return nil, []Fault{{1, 1, "the file is larger than 1 MiB"}}
	}
	if !utf8.Valid(text) {
		return nil, []Fault{{1, 1, "the file is not valid UTF-8"}}
	}
	root, err := json5.Parse(text)
	if err != nil {
		f := Fault{1, 1, err.Error()}
		if syntax, ok := errors.AsType[*json5.SyntaxError](err); ok {
			f = Fault{max(1, syntax.Line), max(1, syntax.Col), "this is not JSON5: " + syntax.Msg}
		}
		return nil, []Fault{f}
	}
	p.document(root)
	for i := range p.r.rules {
		rl := &p.r.rules[i]
		if rl.effect == EffectDeny {
			p.r.denies = append(p.r.denies, rl)
			continue
		}
		p.r.asks = p.r.asks || rl.effect == EffectAsk
		p.r.order = append(p.r.order, rl)
	}
	slices.SortStableFunc(p.faults, func(a, b Fault) int { return a.Line - b.Line })
	return p.r, p.faults
}

// DenyAll are rules that let nothing run, because of what is wrong at a place.
func DenyAll(why, where string) *Rules { return &Rules{broken: why, at: where} }

type reader struct {
	file   string
	r      *Rules
	faults []Fault
}

func (p *reader) fault(at json5.Pos, format string, args ...any) {
	if len(p.faults) < maxRuleFaults {
		p.faults = append(p.faults, Fault{max(1, at.Line), max(1, at.Col), fmt.Sprintf(format, args...)})
	}
}

func (p *reader) where(at json5.Pos) string { return fmt.Sprintf("%s:%d", p.file, at.Line) }

// members checks that n is an object with no other keys than these, each written once.
func (p *reader) members(n *json5.Node, what string, keys ...string) []json5.Member {
	if n.Kind != json5.Object {
		p.fault(n.Start, "%s must be an object { … }, not %s", what, article(n.Kind))
		return nil
	}
	for _, m := range n.Repeated() {
		p.fault(m.KeyPos, "%s has %q twice: remove one", what, m.Key)
	}
	for _, m := range n.Members {
		if len(keys) > 0 && !slices.Contains(keys, m.Key) {
			p.fault(m.KeyPos, "%s has no key %q%s", what, show(m.Key), p.meant(m.Key, keys))
		}
	}
	return n.Members
}

func article(k json5.Kind) string {
	switch k {
	case json5.Null:
		return "null"
	case json5.Array, json5.Object:
		return "an " + k.String()
	default:
		return "a " + k.String()
	}
}

// show shortens what a file may hold, for an error.
func show(s string) string {
	if len(s) > 64 {
		return cutUTF8(s, 64) + "…"
	}
	return s
}

// meant names the key that was likely meant, else all of them.
func (p *reader) meant(key string, keys []string) string {
	plain := func(s string) string { return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(s)) }
	for _, k := range keys {
		if plain(k) == plain(key) || distance(plain(k), plain(key)) <= 2 {
			return fmt.Sprintf("; write %q", k)
		}
	}
	return "; its keys are " + strings.Join(keys, ", ")
}

// distance is how many letters have to change; 3 stands for more.
func distance(a, b string) int {
	if len(a) > 32 || len(b) > 32 || len(a)-len(b) > 2 || len(b)-len(a) > 2 {
		return 3
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diag+cost)
		}
	}
	return row[len(b)]
}

func (p *reader) document(root *json5.Node) {
	if root.Kind != json5.Object {
		p.fault(root.Start, "the file must be one object { version: 1, rules: [ … ] }")
		return
	}
	version := root.Get("version")
	switch {
	case version == nil:
		p.fault(root.Start, "the version is missing; write version: 1")
	case version.Kind == json5.Number && version.Num > 1:
		p.fault(version.Start, "version %v is of a newer release; this one reads version 1", version.Num)
		return
	case version.Kind != json5.Number || version.Num != 1:
		p.fault(version.Start, "write version: 1")
	}
	for _, m := range p.members(root, "the file", "version", "defaults", "agents", "nodes", "rules") {
		switch m.Key {
		case "defaults":
			p.r.defaults = p.settings(m.Value, "defaults")
		case "agents", "nodes":
			into := p.r.agents
			if m.Key == "nodes" {
				into = p.r.nodes
			}
			for _, a := range p.members(m.Value, m.Key) {
				if strings.TrimSpace(a.Key) == "" || strings.Contains(a.Key, "*") {
					p.fault(a.KeyPos, "%s.%q must be one name; defaults are for all the others", m.Key, show(a.Key))
				}
				into[a.Key] = p.settings(a.Value, m.Key+"."+a.Key)
			}
		case "rules":
			p.rules(m.Value)
		}
	}
}

func (p *reader) settings(n *json5.Node, name string) settings {
	var s settings
	for _, m := range p.members(n, name, "security", "ask", "fallback") {
		at := place{name + "." + m.Key, p.where(m.KeyPos)}
		switch m.Key {
		case "security":
			s.security, s.securityAt = Security(p.choice(m, name, "deny", "allowlist", "full")), at
		case "ask":
			s.ask, s.askAt = Ask(p.choice(m, name, "off", "on-miss", "always")), at
		case "fallback":
			// The original spells it in both ways.
			if m.Value.Str == "allow-list" {
				m.Value.Str = "allowlist"
			}
			s.fallback, s.fallbackAt = Security(p.choice(m, name, "deny", "allowlist", "full")), at
		}
	}
	return s
}

func (p *reader) choice(m json5.Member, what string, values ...string) string {
	if m.Value.Kind != json5.String || !slices.Contains(values, m.Value.Str) {
		p.fault(m.Value.Start, "%s.%s must be one of %q", what, m.Key, values)
		return ""
	}
	return m.Value.Str
}

func (p *reader) rules(n *json5.Node) {
	if n.Kind != json5.Array {
		p.fault(n.Start, "rules must be a list [ … ], not %s", article(n.Kind))
		return
	}
	if len(n.Items) > maxRuleCount {
		p.fault(n.Start, "there are %d rules; at most %d may be", len(n.Items), maxRuleCount)
		return
	}
	names := map[string]string{}
	for _, item := range n.Items {
		r, ok := p.rule(item)
		if !ok {
			continue
		}
		if first, taken := names[r.name]; taken {
			p.fault(item.Start, "the rule %q is there already, at %s; give each its own name", r.name, first)
		}
		names[r.name] = r.where
		p.r.rules = append(p.r.rules, r)
	}
}

var ruleKeys = []string{
	"name", "effect", "argv", "agent", "node", "session", "host", "cwd", "during", "expires",
	"timeout", "onTimeout", "approvers", "quorum", "excludeRequester", "escalateAfter", "escalateTo",
}

// askKeys are the terms of asking.
var askKeys = ruleKeys[10:]

func (p *reader) rule(n *json5.Node) (rule, bool) {
	before := len(p.faults)
	r := rule{where: p.where(n.Start)}
	members := p.members(n, "a rule", ruleKeys...)
	if members == nil {
		return r, false
	}
	if name := n.Get("name"); name == nil {
		p.fault(n.Start, `a rule needs a name; write name: "…"`)
	} else {
		r.name = p.name(name)
	}
	what := fmt.Sprintf("rule %q", r.name)
	if effect := n.Get("effect"); effect == nil {
		p.fault(n.Start, `%s needs an effect; write effect: "allow", "ask" or "deny"`, what)
	} else {
		r.effect = Effect(p.choice(json5.Member{Key: "effect", Value: effect}, what, "allow", "ask", "deny"))
	}
	for _, m := range members {
		if r.effect != EffectAsk && r.effect != Abstain && slices.Contains(askKeys, m.Key) {
			p.fault(m.KeyPos, "%s has %s, which only rules with effect \"ask\" have", what, m.Key)
			continue
		}
		switch m.Key {
		case "argv":
			r.argv = p.argv(m.Value, what, r.effect)
		case "agent":
			r.agents = p.wilds(m, what)
		case "node":
			r.nodes = p.wilds(m, what)
		case "session":
			r.sessions = p.wilds(m, what)
		case "host":
			r.hosts = p.hosts(m, what)
		case "cwd":
			r.cwds = p.dirs(m, what)
		case "during":
			r.during = p.windows(m.Value, what)
		case "expires":
			r.expires = p.instant(m.Value, what)
		case "timeout":
			r.timeout = p.duration(m, what)
		case "onTimeout":
			r.onTimeout = Effect(p.choice(m, what, "deny", "allow"))
		case "approvers":
			r.approvers = p.subjects(m, what)
		case "quorum":
			r.quorum = p.quorum(m.Value, what)
		case "excludeRequester":
			if m.Value.Kind != json5.Bool {
				p.fault(m.Value.Start, "%s.excludeRequester must be true or false", what)
			}
			r.excludeRequester = m.Value.Bool
		case "escalateAfter":
			r.escalateAfter = p.duration(m, what)
		case "escalateTo":
			r.escalateTo = p.subjects(m, what)
		}
	}
	p.together(n, r, what)
	return r, len(p.faults) == before
}

// together checks what only makes sense with another key.
func (p *reader) together(n *json5.Node, r rule, what string) {
	switch {
	case (r.escalateAfter > 0) != (len(r.escalateTo) > 0):
		p.fault(n.Start, "%s needs escalateAfter and escalateTo together", what)
	case r.timeout > 0 && r.escalateAfter >= r.timeout:
		p.fault(n.Get("escalateAfter").Start, "%s escalates after %v, when its timeout of %v is over; make it shorter", what, r.escalateAfter, r.timeout)
	}
	if count := len(r.approvers) + len(r.escalateTo); r.quorum > count && len(r.approvers) > 0 {
		p.fault(n.Get("quorum").Start, "%s wants %d approvers of %d; name more of them or lower the quorum", what, r.quorum, count)
	}
}

func (p *reader) name(n *json5.Node) string {
	s := n.Str
	odd := strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
	switch {
	case n.Kind != json5.String || s == "" || s != strings.TrimSpace(s) || odd >= 0:
		p.fault(n.Start, "the name of a rule must be a text that people can read")
	case len(s) > 128:
		p.fault(n.Start, "the name of a rule may be 128 bytes long")
	case s == "defaults" || strings.HasPrefix(s, "defaults.") || strings.HasPrefix(s, "agents.") || strings.HasPrefix(s, "nodes."):
		p.fault(n.Start, "the name %q would look like a setting; choose another", show(s))
	}
	return show(s)
}

// texts reads a text or a list of them.
func (p *reader) texts(m json5.Member, what string) []*json5.Node {
	items := []*json5.Node{m.Value}
	if m.Value.Kind == json5.Array {
		items = m.Value.Items
	}
	if len(items) == 0 {
		p.fault(m.Value.Start, "%s.%s is empty and would fit nothing; leave it out to fit everything", what, m.Key)
	}
	if len(items) > maxRuleList {
		p.fault(m.Value.Start, "%s.%s has more than %d entries", what, m.Key, maxRuleList)
		return nil
	}
	var out []*json5.Node
	for _, item := range items {
		switch {
		case item.Kind != json5.String:
			p.fault(item.Start, "%s.%s must be a text or a list of texts, not %s", what, m.Key, article(item.Kind))
		case strings.TrimSpace(item.Str) == "":
			p.fault(item.Start, "%s.%s has an empty text", what, m.Key)
		case len(item.Str) > maxRuleText || strings.Contains(item.Str, shell.Unknown):
			p.fault(item.Start, "%s.%s is too long or holds a NUL", what, m.Key)
		default:
			out = append(out, item)
		}
	}
	return out
}

func (p *reader) wilds(m json5.Member, what string) []wild {
	var out []wild
	for _, item := range p.texts(m, what) {
		out = append(out, newWild(item.Str))
	}
	return out
}

func (p *reader) subjects(m json5.Member, what string) []string {
	var out []string
	for _, item := range p.texts(m, what) {
		if strings.Contains(item.Str, "*") {
			p.fault(item.Start, "%s.%s names people and devices; * stands for nobody", what, m.Key)
		}
		if slices.Contains(out, item.Str) {
			p.fault(item.Start, "%s.%s names %q twice", what, m.Key, show(item.Str))
		}
		out = append(out, item.Str)
	}
	return out
}

func (p *reader) hosts(m json5.Member, what string) []wild {
	var out []wild
	for _, item := range p.texts(m, what) {
		if item.Str != "node" && item.Str != "gateway" {
			p.fault(item.Start, `%s.host must be "node" or "gateway"; the name of a machine goes into node`, what)
		}
		out = append(out, newWild(item.Str))
	}
	return out
}

func (p *reader) dirs(m json5.Member, what string) []dirs {
	var out []dirs
	for _, item := range p.texts(m, what) {
		s := item.Str
		d := newDirs(s)
		switch {
		case !absolute(s):
			p.fault(item.Start, "%s.cwd %q must be a full path, such as \"/srv/**\"; what ~ is, only the node knows", what, show(s))
		case dotted(s):
			p.fault(item.Start, "%s.cwd %q goes through . or ..; write the directory itself", what, show(s))
		case len(d.parts) > maxRuleList:
			p.fault(item.Start, "%s.cwd has more than %d parts", what, maxRuleList)
		case slices.ContainsFunc(d.parts, func(w wild) bool { return w.text != "**" && strings.Contains(w.text, "**") }):
			p.fault(item.Start, "%s.cwd %q: ** must stand alone between two slashes", what, show(s))
		}
		out = append(out, d)
	}
	return out
}

// argv reads one pattern or a list of them.
func (p *reader) argv(n *json5.Node, what string, effect Effect) []words {
	const form = `write a list of words, such as ["git", "log", "**"], or a list of such lists`
	if n.Kind != json5.Array || len(n.Items) == 0 {
		p.fault(n.Start, "%s.argv: %s", what, form)
		return nil
	}
	if len(n.Items) > maxRuleList {
		p.fault(n.Start, "%s.argv has more than %d entries", what, maxRuleList)
		return nil
	}
	if n.Items[0].Kind == json5.String {
		return []words{p.words(n, what, effect)}
	}
	var out []words
	for _, item := range n.Items {
		if item.Kind != json5.Array || len(item.Items) == 0 {
			p.fault(item.Start, "%s.argv: %s", what, form)
			continue
		}
		out = append(out, p.words(item, what, effect))
	}
	return out
}

func (p *reader) words(n *json5.Node, what string, effect Effect) words {
	var w words
	if len(n.Items) > maxRuleList {
		p.fault(n.Start, "%s.argv has a pattern of more than %d words", what, maxRuleList)
		return w
	}
	for i, item := range n.Items {
		s := item.Str
		switch {
		case item.Kind != json5.String:
			p.fault(item.Start, "%s.argv: each word must be a text, not %s", what, article(item.Kind))
			return w
		case len(s) > maxRuleText || strings.Contains(s, shell.Unknown):
			p.fault(item.Start, "%s.argv has a word that is too long or holds a NUL", what)
			return w
		case s == "**" && i != len(n.Items)-1:
			p.fault(item.Start, "%s.argv: ** may be the last word only; * stands for one word", what)
			return w
		case s == "**":
			w.any, w.rest = i == 0, true
		case strings.Contains(s, "**"):
			p.fault(item.Start, "%s.argv %q: inside a word write a single *; ** stands alone, as the last word", what, show(s))
			return w
		case i > 0:
			w.args = append(w.args, newWild(s))
		default:
			p.program(item, what)
			w.first = newProgram(s)
		}
	}
	if effect == EffectAllow && w.first.starts && !w.literal() {
		p.fault(n.Start, "%s would allow whatever %s is told to run: write every word of it without *, or allow what it runs", what, show(w.first.text))
	}
	return w
}

func (p *reader) program(item *json5.Node, what string) {
	s := item.Str
	switch {
	case strings.TrimSpace(s) == "" || s != strings.TrimSpace(s):
		p.fault(item.Start, "%s.argv: the first word must be the name or the full path of a program", what)
	case strings.ContainsAny(s, separators) && !absolute(s):
		p.fault(item.Start, "%s.argv: %q depends on where it runs; write the full path, or the name alone", what, show(s))
	case strings.ContainsAny(s, separators) && dotted(s):
		p.fault(item.Start, "%s.argv: %q goes through . or ..; write the path itself", what, show(s))
	case len(s) > 1 && strings.IndexFunc(s, unicode.IsSpace) >= 0 && !strings.ContainsAny(s, separators):
		p.fault(item.Start, "%s.argv: %q is one word with a blank in it; write %s", what, show(s), quoteWords(strings.Fields(show(s))))
	}
}

func quoteWords(fields []string) string {
	return "[" + strings.ReplaceAll(fmt.Sprintf("%q", strings.Join(fields, "\x00")), `\x00`, `", "`) + "]"
}

func (p *reader) windows(n *json5.Node, what string) []window {
	items := []*json5.Node{n}
	if n.Kind == json5.Array {
		items = n.Items
	}
	if len(items) == 0 || len(items) > maxRuleList {
		p.fault(n.Start, "%s.during must be one time window or a list of at most %d", what, maxRuleList)
		return nil
	}
	var out []window
	for _, item := range items {
		out = append(out, p.window(item, what+".during"))
	}
	return out
}

func (p *reader) window(n *json5.Node, what string) window {
	w := window{to: dayMinutes, zone: time.Local}
	for i := range w.days {
		w.days[i] = true
	}
	for _, m := range p.members(n, what, "days", "from", "to", "zone") {
		switch m.Key {
		case "days":
			w.days = [7]bool{}
			for _, d := range p.texts(m, what) {
				if !parseDays(d.Str, &w.days) {
					p.fault(d.Start, `%s.days: %q is no day; write "mon", "sat" or "mon-fri"`, what, show(d.Str))
				}
			}
		case "from", "to":
			at, ok := parseClock(m.Value.Str)
			if m.Value.Kind != json5.String || !ok || m.Key == "from" && at == dayMinutes {
				p.fault(m.Value.Start, `%s.%s must be a time of the day such as "09:00" or "17:30"`, what, m.Key)
				continue
			}
			if m.Key == "from" {
				w.from = at
			} else {
				w.to = at
			}
		case "zone":
			zone, err := time.LoadLocation(m.Value.Str)
			if m.Value.Kind != json5.String || m.Value.Str == "" || err != nil {
				p.fault(m.Value.Start, `%s.zone: %q is no time zone; write one such as "Europe/Berlin" or "UTC"`, what, show(m.Value.Str))
				continue
			}
			w.zone = zone
		}
	}
	if w.from == w.to || w.to == 0 && w.from == 0 {
		p.fault(n.Start, "%s begins when it ends; leave out from and to for the whole day", what)
	}
	return w
}

func (p *reader) instant(n *json5.Node, what string) time.Time {
	t, err := time.Parse(time.RFC3339, n.Str)
	if n.Kind != json5.String || err != nil {
		p.fault(n.Start, `%s.expires must be a date with time and zone, such as "2027-01-31T18:00:00+01:00"`, what)
	}
	return t
}

func (p *reader) duration(m json5.Member, what string) time.Duration {
	text := m.Value.Str
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		if _, err := fmt.Sscanf(days, "%d", &n); err == nil && fmt.Sprint(n) == days && n >= 0 && n <= 7 {
			text = fmt.Sprintf("%dh", n*24)
		}
	}
	d, err := time.ParseDuration(text)
	if m.Value.Kind != json5.String || err != nil || d < time.Second || d > maxRuleTimeout {
		p.fault(m.Value.Start, `%s.%s must be a time from "1s" to "7d", such as "90s", "10m" or "2h30m"`, what, m.Key)
		return 0
	}
	return d
}

func (p *reader) quorum(n *json5.Node, what string) int {
	if n.Kind != json5.Number || n.Num != float64(int(n.Num)) || n.Num < 1 || n.Num > maxQuorum {
		p.fault(n.Start, "%s.quorum must be a whole number from 1 to %d", what, maxQuorum)
		return 0
	}
	return int(n.Num)
}
