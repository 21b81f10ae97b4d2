package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/client/show"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
)

// fact is one line of what a person should see before deciding. Its text is safe for a terminal.
type fact struct {
	name, text string
	warning    bool
}

// shortHash is how many digits of a hash are shown.
const shortHash = 12

// command is what would run: the words that the approval is bound to, and nothing that somebody wrote
// about them.
func command(a *approvalsv1.Approval) string {
	if argv := a.GetBinding().GetArgv(); len(argv) > 0 {
		return show.Quote(argv)
	}
	if argv := a.GetCommandArgv(); len(argv) > 0 {
		return show.Quote(argv)
	}
	return show.Quote([]string{a.GetCommand()})
}

// facts is everything that an approval is about. before is an earlier one of the same program, or nil.
func facts(a, before *approvalsv1.Approval, now time.Time) []fact {
	var out []fact
	add := func(name, text string) {
		if text != "" {
			out = append(out, fact{name, text, false})
		}
	}
	warn := func(name, text string) { out = append(out, fact{name, text, true}) }
	file := func(name string, f *approvalsv1.FileIdentity) {
		if f == nil {
			return
		}
		text := show.Quote([]string{f.GetPath()})
		if sum := f.GetSha256(); len(sum) >= shortHash {
			text += " sha256 " + show.Text(sum[:shortHash])
		}
		add(name, text)
	}

	add("runs", command(a))
	if was := command(before); before != nil && was != command(a) {
		add("last time", was)
	} else if before != nil {
		add("last time", "the same command")
	}
	if signs := a.GetSigns(); len(signs) > 0 {
		warn("WARNING", "it looks as if it hides what it does: "+show.Text(strings.Join(signs, ", ")))
	}
	id := a.GetBinding().GetIdentity()
	file("executable", id.GetExecutable())
	file("script", id.GetScript())
	for _, f := range id.GetInner() {
		file(show.Text(f.GetRole()), f.GetFile())
	}
	for _, why := range append(id.GetUnbound(), a.GetBinding().GetUnbound()) {
		if why != "" {
			warn("not checked", show.Text(why))
		}
	}
	cwd := a.GetCwd()
	if a.GetBinding() != nil {
		cwd = a.GetBinding().GetCwd()
	}
	if cwd == "" {
		add("directory", "(left to the machine)")
	} else {
		add("directory", show.Quote([]string{cwd}))
	}
	if keys := a.GetEnvKeys(); len(keys) > 0 {
		add("environment", "sets "+show.Quote(keys))
	}
	if a.GetNodeId() != "" {
		add("on", show.Text(a.GetNodeName()+" ("+a.GetNodeId()+")"))
	} else {
		add("on", show.Text(a.GetHost()))
	}
	add("agent", show.Text(a.GetAgentId()))
	add("session", show.Text(a.GetSessionKey()))
	add("asked by", show.Text(a.GetRequestedBy()))
	if a.GetRule() != "" {
		add("rule", show.Text(a.GetRule()+" ("+a.GetWhere()+")"))
	}
	if a.GetQuorum() > 1 {
		add("needs", fmt.Sprintf("%d approvers, %d votes so far", a.GetQuorum(), len(a.GetVotes())))
	}
	switch {
	case a.GetKeyRefused() != "":
		warn("always", "cannot be kept: "+show.Text(a.GetKeyRefused()))
	case a.GetKey() != "":
		add("always", "keeps "+show.Text(a.GetKey())+" until it is revoked")
	}
	add("approval", show.Text(a.GetId()))
	ends := map[approvalsv1.Decision]string{
		approvalsv1.Decision_DECISION_ALLOW_ONCE: ", then it is ALLOWED",
		approvalsv1.Decision_DECISION_DENY:       ", then it is denied",
	}
	add("time left", a.GetExpiresAt().AsTime().Sub(now).Round(time.Second).String()+ends[a.GetOnTimeout()])
	return out
}
