package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
)

// fact is one line of what there is to know about an approval. Its text is safe for a terminal.
type fact struct {
	name string
	text line
}

// facts is everything a person should see before deciding.
func facts(p *approvalsv1.Approval, now time.Time) []fact {
	var out []fact
	add := func(name, s string) {
		if s != "" {
			out = append(out, fact{name, text(s)})
		}
	}
	warn := func(name, s string) { out = append(out, fact{name, styled(warning, s)}) }

	add("runs", whatRuns(p))
	argv := approvedArgv(p)
	if path := p.GetResolvedPath(); path != "" && (len(argv) == 0 || argv[0] != path) {
		add("program", Quote([]string{path}))
	}
	if asked := p.GetCommand(); len(argv) > 0 && asked != strings.Join(argv, " ") && asked != Quote(argv) {
		add("asked as", strconv.QuoteToASCII(asked))
	}
	if signs := p.GetSigns(); len(signs) > 0 {
		warn("WARNING", "it looks as if it hides what it does: "+Text(strings.Join(signs, ", ")))
	}
	out = append(out, fileFacts(p)...)
	if cwd := cwdOf(p); cwd == "" {
		add("directory", "(left to the machine)")
	} else {
		add("directory", Quote([]string{cwd}))
	}
	if keys := p.GetEnvKeys(); len(keys) > 0 {
		add("environment", "sets "+Quote(keys))
	}
	machine := where(p)
	if p.GetNodeName() != "" {
		machine += " (" + p.GetNodeId() + ")"
	}
	add("on", Text(machine))
	add("agent", Text(p.GetAgentId()))
	add("session", Text(p.GetSessionKey()))
	add("asked by", Text(p.GetRequestedBy()))
	add("security", Text(p.GetSecurity()))
	add("ask", Text(p.GetAsk()))
	if p.GetRule() != "" {
		rule := Text(p.GetRule())
		if p.GetWhere() != "" {
			rule += " (" + Text(p.GetWhere()) + ")"
		}
		add("rule", rule)
	}
	pending := p.GetState() == approvalsv1.State_STATE_PENDING
	if p.GetQuorum() > 1 {
		add("needs", fmt.Sprintf("%d approvers, %d so far", p.GetQuorum(), allowing(p)))
	}
	for _, v := range p.GetVotes() {
		add("vote", Text(voter(v))+" "+decided[v.GetDecision()]+agoText(v.GetAt().AsTime(), now))
	}
	if who := p.GetApprovers(); len(who) > 0 {
		add("who may", Text(strings.Join(who, ", ")))
	}
	if p.GetExcludeRequester() {
		add("who may", "not whoever asked")
	}
	switch {
	case p.GetEscalated():
		add("escalated", "to "+Text(strings.Join(p.GetEscalateTo(), ", ")))
	case pending && p.GetEscalateAt() != nil:
		add("escalates", "to "+Text(strings.Join(p.GetEscalateTo(), ", "))+" in "+span(p.GetEscalateAt().AsTime().Sub(now)))
	}
	if pending {
		switch {
		case p.GetKeyRefused() != "":
			warn("always", "cannot be kept: "+Text(p.GetKeyRefused()))
		case p.GetKey() != "":
			add("always", "keeps "+keyText(p.GetKey())+" on "+Text(where(p))+" until it is revoked")
		}
	}
	add("approval", Text(p.GetId()))
	if pending {
		add("time left", left(p, now)+timeoutText(p))
		return out
	}
	if p.GetResolvedBy() != "" {
		add("decided by", Text(p.GetResolvedBy()))
	}
	add("grant", Text(p.GetGrantId()))
	return out
}

// timeoutText says what happens when nobody answers, where that is not the usual.
func timeoutText(p *approvalsv1.Approval) string {
	switch p.GetOnTimeout() {
	case approvalsv1.Decision_DECISION_ALLOW_ONCE:
		return ", then it is ALLOWED"
	case approvalsv1.Decision_DECISION_DENY:
		return ", then it is denied"
	default:
		return ""
	}
}

func agoText(at, now time.Time) string {
	if at.Unix() <= 0 {
		return ""
	}
	return " " + span(now.Sub(at)) + " ago"
}

func voter(v *approvalsv1.Vote) string {
	if v.GetName() != "" {
		return v.GetName()
	}
	return v.GetSubject()
}

// allowing counts the votes for it.
func allowing(p *approvalsv1.Approval) int {
	n := 0
	for _, v := range p.GetVotes() {
		if v.GetDecision() != approvalsv1.Decision_DECISION_DENY {
			n++
		}
	}
	return n
}

// keyText is the canonical form of a command, for people, in printable ASCII.
func keyText(key string) string {
	ascii := strconv.QuoteToASCII(key)
	return strings.ReplaceAll(ascii[1:len(ascii)-1], `\"`, `"`)
}

// matches reports whether an approval has a text in what a person would look for.
func matches(p *approvalsv1.Approval, filter string) bool {
	filter = strings.ToLower(filter)
	return filter == "" || slices.ContainsFunc([]string{
		whatRuns(p), p.GetId(), p.GetNodeId(), p.GetNodeName(), p.GetAgentId(), p.GetSessionKey(), p.GetRequestedBy(), p.GetRule(),
	}, func(s string) bool { return strings.Contains(strings.ToLower(s), filter) })
}
