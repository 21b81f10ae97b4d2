package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/approvals/shell"
)

// Step is one thing that was looked at on the way to a ruling.
type Step struct {
	// Rule and Where name a rule or a setting.
	Rule, Where string
	Effect      Effect
	// Fits says that it applies; Why says in words why, or why not.
	Fits bool
	Why  string
}

// Decide says what the rules say about a run. It reads nothing but its arguments, and takes some ten
// microseconds for a usual line and a hundred rules.
func (r *Rules) Decide(q Query) Ruling {
	d := decider{r: r, q: q}
	return d.decide()
}

// Explain is Decide with every step of the way.
func (r *Rules) Explain(q Query) (Ruling, []Step) {
	d := decider{r: r, q: q, trace: true}
	return d.decide(), d.steps
}

// decider is one decision.
type decider struct {
	r     *Rules
	q     Query
	trace bool
	steps []Step

	calls    []shell.Call
	segments []shell.Simple
	unclear  string // why the segments are not all that runs
}

func (d *decider) step(rule, where string, effect Effect, fits bool, why string) {
	if d.trace {
		d.steps = append(d.steps, Step{rule, where, effect, fits, why})
	}
}

func (d *decider) decide() Ruling {
	r := d.r
	if r.broken != "" {
		d.step("policy.json", r.at, EffectDeny, true, r.broken)
		return Ruling{Effect: EffectDeny, Rule: "policy.json", Where: r.at, Reason: r.broken}
	}
	if d.q.At.IsZero() {
		d.q.At = time.Now()
	}
	if d.q.AgentID == "" {
		d.q.AgentID = mainAgent
	}
	out := d.effect()
	out.Rules = r.hash
	return out
}

func (d *decider) effect() Ruling {
	if len(d.r.denies) > 0 || d.r.asks {
		var all bool
		if d.calls, all = d.seen(); !all {
			why := "the command starts too many others to be compared with the rules"
			first := d.r.firstForbidding()
			d.step(first.name, first.where, EffectDeny, true, why)
			return Ruling{Effect: EffectDeny, Rule: first.name, Where: first.where, Reason: why}
		}
	}
	for _, rl := range d.r.denies {
		why := d.forbids(rl)
		if why == "" {
			return d.ruled(rl, "it forbids the command")
		}
		d.step(rl.name, rl.where, rl.effect, false, why)
	}
	set := d.r.settingsFor(d.q)
	if set.security == SecurityDeny {
		return d.set(set.securityAt, EffectDeny, "nothing may run")
	}
	out := d.inOrder()
	fallback := func(out Ruling) Ruling {
		if out.OnTimeout != Abstain || set.fallback == "" {
			return out
		}
		out.OnTimeout = EffectDeny
		if set.fallback == SecurityFull || set.fallback == SecurityAllowlist && d.covered() {
			out.OnTimeout = EffectAllow
		}
		return out
	}
	switch {
	case out.Effect == EffectAsk:
		return fallback(out)
	case set.ask == AskAlways:
		return fallback(d.set(set.askAt, EffectAsk, "everything is asked"))
	case out.Effect == EffectAllow:
		return out
	case set.security == SecurityAllowlist && set.ask == AskOff:
		return d.set(set.securityAt, EffectDeny, "no rule allows it, and nobody is to be asked")
	case set.security == SecurityAllowlist:
		return fallback(d.set(set.securityAt, EffectAsk, "no rule allows it"))
	case set.security == SecurityFull:
		d.step(set.securityAt.name, set.securityAt.where, Abstain, true, "the gateway has no objection")
	}
	return Ruling{Reason: out.Reason}
}

func (r *Rules) firstForbidding() *rule {
	for i := range r.rules {
		if r.rules[i].effect != EffectAllow {
			return &r.rules[i]
		}
	}
	return &rule{}
}

// covered reports whether rules allow the run, whatever asks.
func (d *decider) covered() bool {
	if d.unclear != "" || len(d.segments) == 0 {
		return false
	}
	for _, s := range d.segments {
		if !slices.ContainsFunc(d.r.order, func(rl *rule) bool { return rl.effect == EffectAllow && d.permits(rl, s) == "" }) {
			return false
		}
	}
	return true
}

func (d *decider) set(at place, effect Effect, why string) Ruling {
	d.step(at.name, at.where, effect, true, why)
	return Ruling{Effect: effect, Rule: at.name, Where: at.where, Reason: why}
}

func (d *decider) ruled(rl *rule, why string) Ruling {
	d.step(rl.name, rl.where, rl.effect, true, why)
	return Ruling{
		Effect: rl.effect, Rule: rl.name, Where: rl.where, Reason: why,
		Timeout: rl.timeout, OnTimeout: rl.onTimeout, Quorum: rl.quorum, Approvers: rl.approvers,
		ExcludeRequester: rl.excludeRequester, EscalateAfter: rl.escalateAfter, EscalateTo: rl.escalateTo,
	}
}

func (d *decider) seen() ([]shell.Call, bool) {
	if len(d.q.Argv) > 0 {
		return shell.Calls(d.q.Argv)
	}
	return shell.CallsOf(d.q.Text)
}

// inOrder finds what the rules that allow or ask say. Of one command the first that fits decides; a line
// of several runs only when all of them may, and is asked when one of them is.
func (d *decider) inOrder() Ruling {
	if len(d.q.Argv) > 0 {
		d.segments, d.unclear = shell.Plain(d.q.Argv)
	} else {
		d.segments, d.unclear = shell.PlainText(d.q.Text)
	}
	if len(d.r.order) == 0 {
		return Ruling{Reason: "no rule is about it"}
	}
	if d.unclear != "" {
		return d.askedOnly(d.unclear)
	}
	if len(d.segments) > 1 || len(d.q.Argv) == 0 || len(d.q.Argv) > 0 && !sameWords(d.segments[0].Argv, d.q.Argv) {
		return d.several()
	}
	for _, rl := range d.r.order {
		var why string
		if rl.effect == EffectAllow {
			why = d.permits(rl, d.segments[0])
		} else {
			why = d.forbids(rl)
		}
		if why == "" {
			if rl.effect == EffectAsk {
				return d.ruled(rl, "it asks about the command")
			}
			return d.ruled(rl, "it allows the command")
		}
		d.step(rl.name, rl.where, rl.effect, false, why)
	}
	return Ruling{Reason: "no rule is about it"}
}

func sameWords(a, b []string) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

// askedOnly is for what cannot be known before it runs: nothing allows it.
func (d *decider) askedOnly(unclear string) Ruling {
	for _, rl := range d.r.order {
		if rl.effect == EffectAllow {
			d.step(rl.name, rl.where, rl.effect, false, "what runs cannot be known: "+unclear)
			continue
		}
		why := d.forbids(rl)
		if why == "" {
			return d.ruled(rl, "it asks about a part of the command")
		}
		d.step(rl.name, rl.where, rl.effect, false, why)
	}
	return Ruling{Reason: "no rule can allow it, because what runs cannot be known: " + unclear}
}

// several decides on a line of several commands, or on the text of a shell.
func (d *decider) several() Ruling {
	var by, ask *rule
	open := ""
	for _, s := range d.segments {
		calls, all := shell.Calls(s.Argv)
		if !all {
			open = s.Argv[0]
			break
		}
		for i := range calls {
			calls[i].Moved = calls[i].Moved || s.Moved
		}
		first := d.firstFor(s, calls)
		switch {
		case first == nil && open == "":
			open = FormatArgv(s.Argv)
		case first != nil && first.effect == EffectAsk && ask == nil:
			ask = first
		case first != nil && by == nil:
			by = first
		}
	}
	if ask == nil { // a rule may ask about the shell itself, or what stands between the commands
		for _, rl := range d.r.order {
			if rl.effect == EffectAsk && d.forbidsCalls(rl, d.outer()) == "" {
				ask = rl
				break
			}
		}
	}
	for _, rl := range d.r.order {
		switch {
		case rl == ask:
			return d.ruled(rl, "it asks about a part of the line")
		case ask == nil && open == "" && rl == by:
			return d.ruled(rl, fmt.Sprintf("rules allow every one of the %d commands in the line", len(d.segments)))
		case open != "" && rl.effect == EffectAllow:
			d.step(rl.name, rl.where, rl.effect, false, "no rule allows "+open+", which is a part of the line")
		default:
			d.step(rl.name, rl.where, rl.effect, false, "it decides on no part of the line, or another does")
		}
	}
	if open == "" {
		return Ruling{Reason: "no rule is about it"}
	}
	return Ruling{Reason: "no rule allows " + open + ", which is a part of the line"}
}

// outer are the calls of the shell itself, without its text.
func (d *decider) outer() []shell.Call {
	if len(d.q.Argv) == 0 {
		return nil
	}
	return []shell.Call{{Words: d.q.Argv, Name: shell.CallName(d.q.Argv[0])}}
}

func (d *decider) firstFor(s shell.Simple, calls []shell.Call) *rule {
	for _, rl := range d.r.order {
		var why string
		if rl.effect == EffectAllow {
			why = d.permits(rl, s)
		} else {
			why = d.forbidsCalls(rl, calls)
		}
		if why == "" {
			return rl
		}
	}
	return nil
}

// permits says why a rule that allows does not fit one command; "" when it does. What is not known does
// not fit.
func (d *decider) permits(rl *rule, s shell.Simple) string {
	switch {
	case len(rl.argv) == 0:
		if why := (words{any: true}).harmless(s); why != "" {
			return why
		}
	case !slices.ContainsFunc(rl.argv, func(w words) bool { return w.permits(s) }):
		return rl.whyNot(s)
	}
	if strings.ContainsAny(s.Argv[0], separators) && !absolute(s.Argv[0]) {
		return "the path of the program depends on where it runs"
	}
	if dotted(s.Argv[0]) || strings.HasSuffix(s.Argv[0], "/") {
		return "the path of the program leads elsewhere"
	}
	if why := d.about(rl); why != "" || len(rl.cwds) == 0 {
		return why
	}
	switch {
	case s.Moved || !absolute(d.q.Cwd) || dotted(d.q.Cwd):
		return "the directory that it runs in is not known"
	case !slices.ContainsFunc(rl.cwds, func(c dirs) bool { return c.match(d.q.Cwd, false) }):
		return "it runs in another directory"
	}
	return ""
}

// whyNot says why a rule that allows does not fit the words of a command.
func (rl *rule) whyNot(s shell.Simple) string {
	for _, w := range rl.argv {
		if w.program(s.Argv[0]) && (w.any || w.arguments(s.Argv[1:], wild.match)) {
			if why := w.harmless(s); why != "" {
				return why
			}
		}
	}
	return "the words are others"
}

// forbids says why a rule that denies or asks does not fit; "" when it does. What is not known fits.
func (d *decider) forbids(rl *rule) string { return d.forbidsCalls(rl, d.calls) }

func (d *decider) forbidsCalls(rl *rule, calls []shell.Call) string {
	if len(rl.argv) > 0 && !slices.ContainsFunc(calls, func(c shell.Call) bool { return rl.names(c) }) {
		return "the words are others" // most rules end here
	}
	if why := d.about(rl); why != "" {
		return why
	}
	known := absolute(d.q.Cwd) && !dotted(d.q.Cwd)
	inside := len(rl.cwds) == 0 || !known || slices.ContainsFunc(rl.cwds, func(c dirs) bool { return c.match(d.q.Cwd, true) })
	if len(rl.argv) == 0 {
		if inside || slices.ContainsFunc(calls, func(c shell.Call) bool { return c.Moved }) {
			return ""
		}
		return "it runs in another directory"
	}
	elsewhere := false
	for _, c := range calls {
		for _, w := range rl.argv {
			if !w.forbids(c, d.q.Cwd) {
				continue
			}
			if inside || c.Moved {
				return ""
			}
			elsewhere = true
		}
	}
	if elsewhere {
		return "it runs in another directory"
	}
	return "the words are others"
}

// names reports whether a rule that forbids is about the program of a call at all.
func (rl *rule) names(c shell.Call) bool {
	for i := range rl.argv {
		w := &rl.argv[i]
		if w.any || w.first.name.match(c.Name) || strings.Contains(c.Words[0], shell.Unknown) {
			return true
		}
	}
	return false
}

// about compares everything but the command and its directory.
func (d *decider) about(rl *rule) string {
	q := &d.q
	switch {
	case !rl.expires.IsZero() && !q.At.Before(rl.expires):
		return "it has expired"
	case len(rl.agents) > 0 && !anyWild(rl.agents, q.AgentID):
		return "it is for another agent"
	case len(rl.nodes) > 0 && !anyWild(rl.nodes, q.NodeID) && (q.NodeName == "" || !anyWild(rl.nodes, q.NodeName)):
		return "it is for another node"
	case len(rl.sessions) > 0 && !anyWild(rl.sessions, q.SessionKey):
		return "it is for another session"
	case len(rl.hosts) > 0 && !anyWild(rl.hosts, q.Host):
		return "it is for another host"
	case len(rl.during) > 0 && !slices.ContainsFunc(rl.during, func(w window) bool { return w.contains(q.At) }):
		return "it is not its time"
	}
	return ""
}

func anyWild(all []wild, s string) bool {
	for i := range all {
		if all[i].match(s) {
			return true
		}
	}
	return false
}

// settingsFor are the settings for one run. An agent's and a node's own take the place of the defaults;
// where both speak, the stricter counts (nodes-approvals.md §3.3).
func (r *Rules) settingsFor(q Query) settings {
	agent, hasAgent := r.agents[q.AgentID]
	node, hasNode := r.nodes[q.NodeID]
	if !hasNode && q.NodeName != "" {
		node, hasNode = r.nodes[q.NodeName]
	}
	if !hasAgent && !hasNode {
		return r.defaults
	}
	out := agent
	if node.security != "" && (out.security == "" || strictness(node.security) < strictness(out.security)) {
		out.security, out.securityAt = node.security, node.securityAt
	}
	if node.ask != "" && (out.ask == "" || asking(node.ask) > asking(out.ask)) {
		out.ask, out.askAt = node.ask, node.askAt
	}
	if node.fallback != "" && (out.fallback == "" || strictness(node.fallback) < strictness(out.fallback)) {
		out.fallback, out.fallbackAt = node.fallback, node.fallbackAt
	}
	if out.security == "" {
		out.security, out.securityAt = r.defaults.security, r.defaults.securityAt
	}
	if out.ask == "" {
		out.ask, out.askAt = r.defaults.ask, r.defaults.askAt
	}
	if out.fallback == "" {
		out.fallback, out.fallbackAt = r.defaults.fallback, r.defaults.fallbackAt
	}
	return out
}

func strictness(s Security) int {
	return slices.Index([]Security{SecurityDeny, SecurityAllowlist, SecurityFull}, s)
}

func asking(a Ask) int { return slices.Index([]Ask{AskOff, AskOnMiss, AskAlways}, a) }
