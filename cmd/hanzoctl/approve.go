package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/proto"

	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
)

// minApprovalPrefix is the shortest beginning of an id that names an approval: legacy clients
// show the first 8 characters (nodes-approvals.md §3.17).
const minApprovalPrefix = 8

// decisions are the words for a decision. "always" is none of the daemon's: see alwaysOf.
var decisions = map[string]approvalsv1.Decision{
	"once": approvalsv1.Decision_DECISION_ALLOW_ONCE, "allow-once": approvalsv1.Decision_DECISION_ALLOW_ONCE,
	always: approvalsv1.Decision_DECISION_ALLOW_ONCE, "allow-always": approvalsv1.Decision_DECISION_ALLOW_ALWAYS,
	"deny": approvalsv1.Decision_DECISION_DENY,
}

const always = "always"

// alwaysOf makes the answer "always": a grant for exactly the command that is shown, which can be revoked.
// The decision of that name would also have the node remember the program, with any arguments. Where several
// have to allow it, they have to mean the grant, and that decision alone says so.
func alwaysOf(p *approvalsv1.Approval) action {
	if p.GetQuorum() > 1 {
		return action{kind: actDecide, id: p.GetId(), decision: approvalsv1.Decision_DECISION_ALLOW_ALWAYS}
	}
	return action{kind: actDecide, id: p.GetId(), decision: approvalsv1.Decision_DECISION_ALLOW_ONCE, grant: &grantTerms{always: true}}
}

var decided = map[approvalsv1.Decision]string{
	approvalsv1.Decision_DECISION_ALLOW_ONCE:   "allowed once",
	approvalsv1.Decision_DECISION_ALLOW_ALWAYS: "allowed always",
	approvalsv1.Decision_DECISION_DENY:         "denied",
}

func (a *app) approveCmd() *cobra.Command {
	var watch, bell bool
	var count int
	var socket string
	var flags grantFlags
	c := &cobra.Command{Use: "approve [ID [once|always|deny]]", Short: "Look through what waits for an approval, and decide",
		Long: `Without arguments, on a terminal: look through the pending approvals and decide with a key
(? shows the keys). Elsewhere: list them. With an id: show that one, and how it differs
from the last time. With an id and a decision: decide. The first 8 characters of an id
will do where they are unique.

What would run is shown word for word: as a shell would take it, with every character that
is not plain ASCII written as an escape.

"once" allows this one run. With --uses, --for, --until or --session it also makes a grant,
so that the same command is not asked about again that often, or that long. "always" keeps
it until it is revoked. --pattern keeps every command of a form instead of the one: * is
any text within a word, a last ** any further words. See "hanzoctl grants".

"allow-always" is what older clients answer: beside the grant, the node remembers the
program in its own exec approvals file and lets it run with any arguments from then on.

--watch prints what is pending and then each change: votes, who was asked as well, who
answered, what expired. It goes on when the daemon comes back.

--serve-socket answers the node host of this machine instead, without a daemon: it makes
the socket that the exec approvals file names, and asks here about runs that come without
an approval. Only this user can connect. Where that is wanted on one's own desktop, runs
on it need no answer from elsewhere.`,
		Example: `  hanzoctl approve
  hanzoctl approve 3f2a9c51 once
  hanzoctl approve 3f2a9c51 once --uses 3 --for 2h
  hanzoctl approve 3f2a9c51 once --session --pattern "git status **"
  hanzoctl approve -o json
  hanzoctl approve --watch -o jsonl
  hanzoctl approve --serve-socket`,
		Args:              approveArgs,
		ValidArgsFunction: a.completeApprove,
		RunE: func(cmd *cobra.Command, args []string) error {
			serve := cmd.Flags().Changed("serve-socket")
			terms, err := flags.terms(time.Now())
			switch {
			case err != nil:
				return usage(err)
			case terms != nil && len(args) < 2:
				return usagef("--uses, --for, --until, --session and --pattern go with an id and a decision")
			case (watch || serve) && len(args) > 0:
				return usagef("--watch and --serve-socket take no id")
			case watch && serve:
				return usagef("give --watch or --serve-socket")
			case bell && !watch:
				return usagef("--bell goes with --watch")
			case serve:
				return a.serveSocket(cmd.Context(), strings.TrimSpace(socket))
			case watch:
				return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error { return a.watchApprovals(ctx, c, count, bell) })
			case len(args) == 2:
				act := action{decision: decisions[args[1]], grant: terms}
				if err := act.combine(args[1] == always); err != nil {
					return usage(err)
				}
				return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error { return a.decide(ctx, c, args[0], act) })
			case len(args) == 1:
				return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error { return a.showApproval(ctx, c, args[0]) })
			case a.output == "table" && !a.quiet && isTerminal(a.stdin) && isTerminal(a.stdout):
				return a.call(cmd, 0, a.interactive)
			}
			return a.call(cmd, callTimeout, a.listApprovals)
		}}
	f := c.Flags()
	f.BoolVar(&watch, "watch", false, "print the pending approvals, and then each change")
	f.BoolVar(&bell, "bell", false, "with --watch: ring the bell of the terminal for each new one")
	countFlag(c, &count)
	f.StringVar(&socket, "serve-socket", "", "answer the node host of this machine, which uses this exec approvals file")
	f.Lookup("serve-socket").NoOptDefVal = " " // without a value: the usual file
	flags.add(f)
	return c
}

// grantFlags are the terms of a grant on the command line.
type grantFlags struct {
	uses             int
	forTime          string
	until            string
	session          bool
	pattern          string
	anyCwd, anyAgent bool
	note             string
}

func (g *grantFlags) add(f *pflag.FlagSet) {
	f.IntVar(&g.uses, "uses", 0, "allow the same command so many more times")
	f.StringVar(&g.forTime, "for", "", "allow the same command for so long: 30m, 2h, 7d")
	f.StringVar(&g.until, "until", "", "allow the same command until then: 18:00, 2006-01-02 15:04")
	f.BoolVar(&g.session, "session", false, "allow the same command in this session only")
	f.StringVar(&g.pattern, "pattern", "", `allow commands of this form instead: "git status **"`)
	f.BoolVar(&g.anyCwd, "any-cwd", false, "in any directory, not only in this one")
	f.BoolVar(&g.anyAgent, "any-agent", false, "for any agent, not only for this one")
	f.StringVar(&g.note, "note", "", "why, for whoever looks at the grant later")
}

// terms reads the flags; nil when none was given.
func (g *grantFlags) terms(now time.Time) (*grantTerms, error) {
	if *g == (grantFlags{}) {
		return nil, nil
	}
	out := &grantTerms{uses: g.uses, session: g.session, anyCwd: g.anyCwd, anyAgent: g.anyAgent, note: g.note}
	if g.uses < 0 || g.uses > maxUses {
		return nil, fmt.Errorf("--uses must be from 1 to %d", maxUses)
	}
	if g.forTime != "" && g.until != "" {
		return nil, errors.New("--for and --until say the same: give one")
	}
	var err error
	if when := g.forTime + g.until; when != "" {
		if out.until, err = parseUntil(when, now); err != nil {
			return nil, err
		}
	}
	if out.pattern, err = splitWords(g.pattern); err != nil {
		return nil, fmt.Errorf("--pattern: %w", err)
	}
	return out, nil
}

// combine brings a decision and the terms of a grant together.
func (act *action) combine(forever bool) error {
	g := act.grant
	switch {
	case g == nil && forever:
		act.grant = &grantTerms{always: true}
		return nil
	case g == nil:
		return nil
	}
	limited := g.uses > 0 || !g.until.IsZero() || g.session
	switch {
	case act.decision == approvalsv1.Decision_DECISION_DENY:
		return errors.New("a run that is denied gets no grant")
	case act.decision == approvalsv1.Decision_DECISION_ALLOW_ALWAYS:
		return errors.New("allow-always has no terms: use once or always")
	case forever && limited:
		return errors.New("always has no limit: use once with --uses, --for, --until or --session")
	case !forever && !limited:
		return errors.New("say how far the grant reaches: --uses, --for, --until or --session, or always instead of once")
	}
	g.always = forever
	return nil
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
	p, now := out.GetApproval(), time.Now()
	rows := []string{cells("state", state(p))}
	if daemon := a.elsewhere(); daemon != "" {
		rows = append(rows, cells("daemon", daemon))
	}
	all := facts(p, now)
	if p.GetState() == approvalsv1.State_STATE_PENDING && a.output == "table" {
		like, err := c.Approvals.ListApprovals(ctx, &approvalsv1.ListApprovalsRequest{Like: &id})
		if err == nil { // what it is compared with is no more than a help
			all = append(all, compared(p, earlierOf(p, like.GetApprovals()), now)...)
		}
	}
	for _, f := range all {
		rows = append(rows, cells(strings.TrimSpace(f.name), f.text.String()))
	}
	return a.printOne(p, p.GetId(), rows...)
}

func (a *app) decide(ctx context.Context, c *client.Client, query string, act action) error {
	id, err := approvalID(ctx, c, query)
	if err != nil {
		return err
	}
	act.id = id
	if act.grant != nil {
		out, err := c.Approvals.GetApproval(ctx, &approvalsv1.GetApprovalRequest{Id: id})
		switch {
		case err != nil: // deciding says why
		case act.grant.onlyAlways():
			act = alwaysOf(out.GetApproval())
		default:
			act.grant.pattern = patternFor(act.grant.pattern, out.GetApproval())
		}
	}
	p, ok, err := daemonSource{c}.decide(ctx, act)
	if err != nil {
		return err
	}
	if !ok {
		if p.GetResolvedBy() == "" {
			return &client.Error{Code: "approvals.unknown", Class: client.NotFound, Message: "no such approval is pending: " + id}
		}
		return &client.Error{Code: "approvals.unknown", Class: client.NotFound, Message: fmt.Sprintf("somebody was quicker: %s (%s)", beaten(p), id)}
	}
	what := act.done(p)
	if p.GetState() == approvalsv1.State_STATE_PENDING {
		what = fmt.Sprintf("counted, %d of %d have allowed it", allowing(p), p.GetQuorum())
	}
	rows := []string{fmt.Sprintf("%s: %s%s (%s)", what, whatRuns(p), at(p, a.elsewhere()), Text(p.GetId()))}
	if p.GetGrantId() != "" {
		kept := "until it is revoked"
		if act.grant != nil {
			kept = act.grant.String()
		}
		rows = append(rows, fmt.Sprintf("kept as grant %s, %s; end it with: %s grants revoke %s", Text(p.GetGrantId()), kept, a.again(), Text(p.GetGrantId())))
	}
	return a.printOne(p, p.GetId(), rows...)
}

// done says what a decision that was taken has done.
func (act action) done(p *approvalsv1.Approval) string {
	switch {
	case act.grant == nil:
		return decided[p.GetDecision()]
	case act.grant.onlyAlways():
		return decided[approvalsv1.Decision_DECISION_ALLOW_ALWAYS]
	default:
		return "allowed"
	}
}

func (a *app) watchApprovals(ctx context.Context, c *client.Client, count int, bell bool) error {
	last := map[string]*approvalsv1.Approval{}
	printed, heard := 0, false
	show := func(p *approvalsv1.Approval) error {
		old := last[p.GetId()]
		if p.GetState() == approvalsv1.State_STATE_PENDING {
			last[p.GetId()] = p
		} else {
			delete(last, p.GetId())
		}
		if old != nil && proto.Equal(old, p) {
			return nil // told twice
		}
		if old == nil && bell && isTerminal(a.stderr) && p.GetState() == approvalsv1.State_STATE_PENDING {
			fmt.Fprint(a.stderr, "\a")
		}
		line := fmt.Sprintf("%-14s  %s  %s  %s", state(p), Text(p.GetId()), Text(where(p)), whatRuns(p))
		if news := whatIsNew(old, p); news != "" {
			line += "  (" + news + ")"
		}
		if err := a.printItem(p, p.GetId(), line); err != nil {
			return err
		}
		if printed++; count > 0 && printed >= count {
			return errEnough
		}
		return nil
	}
	err := c.WatchApprovals(ctx, func(ch client.ApprovalsChange) error {
		switch {
		case ch.Away != nil:
			if !heard {
				return ch.Away // it was not there in the first place
			}
			fmt.Fprintln(a.stderr, Text(ch.Away.Error())+"; trying again")
		case ch.Began:
			heard = true
			for _, p := range ch.Pending {
				if err := show(p); err != nil {
					return err
				}
			}
		default:
			return show(ch.Approval)
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// errEnough ends a watch that has printed what was asked for.
var errEnough = errors.New("enough")

// whatIsNew says what a change of an approval is about, beside its state.
func whatIsNew(old, p *approvalsv1.Approval) string {
	switch {
	case p.GetState() != approvalsv1.State_STATE_PENDING:
		if p.GetResolvedBy() != "" {
			return "by " + Text(p.GetResolvedBy())
		}
	case len(p.GetVotes()) > len(old.GetVotes()):
		v := p.GetVotes()[len(p.GetVotes())-1]
		return fmt.Sprintf("%s %s, %d of %d", Text(voter(v)), decided[v.GetDecision()], allowing(p), max(p.GetQuorum(), 1))
	case p.GetEscalated() && !old.GetEscalated():
		return "escalated to " + Text(strings.Join(p.GetEscalateTo(), ", "))
	}
	return ""
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
