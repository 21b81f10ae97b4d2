package main

import (
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
)

// shortHash is how many digits of a hash are shown: enough to compare by eye, and far too many to
// find another file with the same by chance. JSON output has all.
const shortHash = 12

// fileFacts says which files an approval for a node covers, and what it does not.
func fileFacts(p *approvalsv1.Approval) []fact {
	b := p.GetBinding()
	if b == nil || p.GetNodeId() == "" {
		return nil
	}
	id := b.GetIdentity()
	if id == nil {
		why := b.GetUnbound()
		if why == "" {
			why = "this node does not bind files"
		}
		return []fact{{"files", text("not checked: " + Text(why))}}
	}
	var out []fact
	add := func(name string, f *approvalsv1.FileIdentity) {
		if f == nil {
			return
		}
		what := Quote([]string{f.GetPath()})
		if sum := f.GetSha256(); len(sum) >= shortHash {
			what += " sha256 " + Text(sum[:shortHash])
		}
		out = append(out, fact{name, text(what)})
	}
	add("executable", id.GetExecutable())
	add("script", id.GetScript())
	for _, f := range id.GetInner() {
		add(Text(f.GetRole()), f.GetFile())
	}
	for _, why := range id.GetUnbound() {
		out = append(out, fact{"not checked", styled(warning, Text(why))})
	}
	return out
}
