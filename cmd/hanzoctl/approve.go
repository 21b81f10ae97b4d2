package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
)

// minApprovalPrefix is the shortest beginning of an id that names an approval: legacy clients
// show the first 8 characters (nodes-approvals.md §3.17).
const minApprovalPrefix = 8

// decisions are the words for a decision.
var decisions = map[string]approvalsv1.Decision{
	"once": approvalsv1.Decision_DECISION_ALLOW_ONCE, "allow-once": approvalsv1.Decision_DECISION_ALLOW_ONCE,
	"always": approvalsv1.Decision_DECISION_ALLOW_ALWAYS, "allow-always": approvalsv1.Decision_DECISION_ALLOW_ALWAYS,
	"deny": approvalsv1.Decision_DECISION_DENY,
}

var decided = map[approvalsv1.Decision]string{
	approvalsv1.Decision_DECISION_ALLOW_ONCE:   "allowed once",
	approvalsv1.Decision_DECISION_ALLOW_ALWAYS: "allowed always",
	approvalsv1.Decision_DECISION_DENY:         "denied",
}

func (a *app) approveCmd() *cobra.Command {
	var watch bool
	var count int
	c := &cobra.Command{Use: "approve [ID [once|always|deny]]", Short: "Look through what waits for an approval, and decide",
		Long: `Without arguments, on a terminal: look through the pending approvals and decide with a key.
Elsewhere: list them. With an id: show that one. With an id and a decision: decide. The
first 8 characters of an id will do where they are unique.

What would run is shown word for word: as a shell would take it, with every character that
is not plain ASCII written as an escape.`,
		Example: `  hanzoctl approve
  hanzoctl approve 3f2a9c51 once
  hanzoctl approve -o json
  hanzoctl approve --watch -o jsonl`,
		Args:              approveArgs,
		ValidArgsFunction: a.completeApprove,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case watch && len(args) > 0:
				return usagef("--watch takes no id")
			case watch:
				return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error { return a.watchApprovals(ctx, c, count) })
			case len(args) == 2:
				return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
					return a.decide(ctx, c, args[0], decisions[args[1]])
				})
			case len(args) == 1:
				return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error { return a.showApproval(ctx, c, args[0]) })
			case a.output == "table" && !a.quiet && isTerminal(a.stdin) && isTerminal(a.stdout):
				return a.call(cmd, 0, a.interactive)
			}
			return a.call(cmd, callTimeout, a.listApprovals)
		}}
	c.Flags().BoolVar(&watch, "watch", false, "print the pending approvals, and then each change")
	countFlag(c, &count)
	return c
}

func approveArgs(_ *cobra.Command, args []string) error {
	if len(args) > 2 {
		return fmt.Errorf("too many arguments: give an id and a decision")
	}
	if len(args) == 2 && decisions[args[1]] == 0 {
		return fmt.Errorf("unknown decision %q: use once, always or deny", args[1])
	}
	return nil
}

func (a *app) completeApprove(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	switch len(args) {
	case 0:
		return a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
			out, err := c.Approvals.ListApprovals(ctx, &approvalsv1.ListApprovalsRequest{})
			if err != nil {
				return nil
			}
			var words []string
			for _, p := range out.GetApprovals() {
				words = append(words, Text(p.GetId())+"\t"+whatRuns(p))
			}
			return words
		})
	case 1:
		return []string{"once", "always", "deny"}, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

func (a *app) listApprovals(ctx context.Context, c *client.Client) error {
	out, err := c.Approvals.ListApprovals(ctx, &approvalsv1.ListApprovalsRequest{})
	if err != nil {
		return err
	}
	l := list{whole: out, head: "ID\tWHERE\tLEFT\tAGENT\tCOMMAND", none: "nothing waits for an approval"}
	for _, p := range out.GetApprovals() {
		l.items = append(l.items, proto.Message(p))
		l.ids = append(l.ids, p.GetId())
	}
	l.row = func(i int) string {
		p := out.GetApprovals()[i]
		return cells(p.GetId(), where(p), left(p, time.Now()), p.GetAgentId(), whatRuns(p))
	}
	return a.printList(l)
}

func (a *app) showApproval(ctx context.Context, c *client.Client, query string) error {
	id, err := approvalID(ctx, c, query)
	if err != nil {
		return err
	}
	out, err := c.Approvals.GetApproval(ctx, &approvalsv1.GetApprovalRequest{Id: id})
	if err != nil {
		return err
	}
	p := out.GetApproval()
	rows := []string{cells("state", state(p))}
	for _, f := range facts(p, time.Now()) {
		rows = append(rows, cells(f.name, f.text))
	}
	return a.printOne(p, p.GetId(), rows...)
}

func (a *app) decide(ctx context.Context, c *client.Client, query string, d approvalsv1.Decision) error {
	id, err := approvalID(ctx, c, query)
	if err != nil {
		return err
	}
	out, err := c.Approvals.ResolveApproval(ctx, &approvalsv1.ResolveApprovalRequest{Id: id, Decision: d})
	if err != nil {
		return err
	}
	p := out.GetApproval()
	return a.printOne(p, p.GetId(), fmt.Sprintf("%s: %s on %s (%s)", decided[p.GetDecision()], whatRuns(p), Text(where(p)), Text(p.GetId())))
}

func (a *app) watchApprovals(ctx context.Context, c *client.Client, count int) error {
	s, err := c.Approvals.WatchApprovals(ctx, &approvalsv1.WatchApprovalsRequest{})
	if err != nil {
		return err
	}
	return each(s, count, func(m *approvalsv1.WatchApprovalsResponse) error {
		p := m.GetApproval()
		line := fmt.Sprintf("%-14s  %s  %s  %s", state(p), Text(p.GetId()), Text(where(p)), whatRuns(p))
		return a.printItem(p, p.GetId(), line)
	})
}

// approvalID is the id that a person means: an exact one, or the unique beginning of a pending one.
func approvalID(ctx context.Context, c *client.Client, query string) (string, error) {
	if len(query) < minApprovalPrefix {
		return query, nil
	}
	out, err := c.Approvals.ListApprovals(ctx, &approvalsv1.ListApprovalsRequest{})
	if err != nil {
		return "", err
	}
	var found []string
	for _, p := range out.GetApprovals() {
		if p.GetId() == query {
			return query, nil
		}
		if strings.HasPrefix(p.GetId(), query) {
			found = append(found, p.GetId())
		}
	}
	switch len(found) {
	case 0:
		return query, nil
	case 1:
		return found[0], nil
	}
	return "", &client.Error{Class: client.Invalid, Message: "several approvals begin with " + query + ": " + strings.Join(found, ", ")}
}

// whatRuns is what an approval would let run, unambiguous and in printable ASCII: the argv that it
// is bound to, or the text of the command where it is bound to none.
func whatRuns(p *approvalsv1.Approval) string {
	if argv := approvedArgv(p); len(argv) > 0 {
		return Quote(argv)
	}
	return strconv.QuoteToASCII(p.GetCommand())
}

func approvedArgv(p *approvalsv1.Approval) []string {
	if argv := p.GetBinding().GetArgv(); len(argv) > 0 {
		return argv
	}
	return p.GetCommandArgv()
}

// where is the machine that it would run on.
func where(p *approvalsv1.Approval) string {
	switch {
	case p.GetNodeName() != "":
		return p.GetNodeName()
	case p.GetNodeId() != "":
		return p.GetNodeId()
	case p.GetHost() != "":
		return p.GetHost()
	}
	return "gateway"
}

// left is how long an approval stands yet.
func left(p *approvalsv1.Approval, now time.Time) string {
	return span(p.GetExpiresAt().AsTime().Sub(now))
}

func state(p *approvalsv1.Approval) string {
	switch p.GetState() {
	case approvalsv1.State_STATE_PENDING:
		return "pending"
	case approvalsv1.State_STATE_EXPIRED:
		return "expired"
	case approvalsv1.State_STATE_CONSUMED:
		return "used"
	}
	return decided[p.GetDecision()]
}

// fact is one line of what there is to know about an approval. Its text is safe for a terminal.
type fact struct{ name, text string }

// facts is everything a person should see before deciding.
func facts(p *approvalsv1.Approval, now time.Time) []fact {
	out := []fact{{"runs", whatRuns(p)}}
	argv := approvedArgv(p)
	if path := p.GetResolvedPath(); path != "" && (len(argv) == 0 || argv[0] != path) {
		out = append(out, fact{"program", Quote([]string{path})})
	}
	if text := p.GetCommand(); len(argv) > 0 && text != strings.Join(argv, " ") && text != Quote(argv) {
		out = append(out, fact{"asked as", strconv.QuoteToASCII(text)})
	}
	cwd := p.GetCwd()
	if p.GetBinding() != nil {
		cwd = p.GetBinding().GetCwd()
	}
	if cwd == "" {
		out = append(out, fact{"directory", "(left to the machine)"})
	} else {
		out = append(out, fact{"directory", Quote([]string{cwd})})
	}
	out = append(out, fileFacts(p)...)
	if keys := p.GetEnvKeys(); len(keys) > 0 {
		out = append(out, fact{"environment", "sets " + Quote(keys)})
	}
	machine := where(p)
	if p.GetNodeName() != "" {
		machine += " (" + p.GetNodeId() + ")"
	}
	out = append(out, fact{"on", Text(machine)})
	for _, f := range []fact{{"agent", p.GetAgentId()}, {"session", p.GetSessionKey()}, {"asked by", p.GetRequestedBy()},
		{"security", p.GetSecurity()}, {"ask", p.GetAsk()}} {
		if f.text != "" {
			out = append(out, fact{f.name, Text(f.text)})
		}
	}
	out = append(out, fact{"approval", Text(p.GetId())})
	if p.GetState() == approvalsv1.State_STATE_PENDING {
		return append(out, fact{"time left", left(p, now)})
	}
	if p.GetResolvedBy() != "" {
		out = append(out, fact{"decided by", Text(p.GetResolvedBy())})
	}
	return out
}
