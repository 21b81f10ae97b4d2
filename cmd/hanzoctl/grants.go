package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
)

// minGrantPrefix is the shortest end of an id that names a grant. Ids begin with the time, so that the ends
// are what tells them apart.
const minGrantPrefix = 6

func (a *app) grantsCmd() *cobra.Command {
	return group("grants", "What runs without asking again, and who said so", `  hanzoctl grants list
  hanzoctl grants show GRANT
  hanzoctl grants revoke GRANT
  hanzoctl grants create --node build-box --uses 3 -- git pull`,
		a.grantsListCmd(), a.grantsShowCmd(), a.grantsRevokeCmd(), a.grantsCreateCmd())
}

func (a *app) grantsListCmd() *cobra.Command {
	var all, watch bool
	var node string
	var count int
	c := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List what may run without asking", Args: cobra.NoArgs,
		Long: `List the grants that may be used, newest first; with --all those that ended as well, and how
they ended. --watch goes on with each one that is made, used or ends.`,
		Example: `  hanzoctl grants list
  hanzoctl grants list --all --node build-box
  hanzoctl grants list --watch -o jsonl`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch && (all || node != "") {
				return usagef("--watch goes without --all and --node")
			}
			if watch {
				return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error { return a.watchGrants(ctx, c, count) })
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error { return a.listGrants(ctx, c, all, node) })
		}}
	c.Flags().BoolVar(&all, "all", false, "those that ended as well")
	c.Flags().BoolVar(&watch, "watch", false, "go on with each change")
	countFlag(c, &count)
	a.nodeFlag(c, &node)
	c.Flags().Lookup("node").Usage = "only those of this node"
	return c
}

func (a *app) listGrants(ctx context.Context, c *client.Client, all bool, node string) error {
	req := &approvalsv1.ListGrantsRequest{All: all}
	if node != "" {
		n, err := c.ResolveNode(ctx, node)
		if err != nil {
			return err
		}
		req.NodeId = n.GetNodeId()
	}
	whole := &approvalsv1.ListGrantsResponse{}
	if err := eachGrant(ctx, c, req, func(g *approvalsv1.Grant) bool {
		whole.Grants = append(whole.Grants, g)
		return true
	}); err != nil {
		return err
	}
	l := list{whole: whole, head: "ID\tSTATE\tWHERE\tUSED\tLEFT\tWHO\tCOMMAND", none: "nothing is granted: everything is asked about"}
	for _, g := range whole.GetGrants() {
		l.items = append(l.items, proto.Message(g))
		l.ids = append(l.ids, g.GetId())
	}
	l.row = func(i int) string {
		g := whole.GetGrants()[i]
		who := g.GetRequester()
		if g.GetAnyRequester() {
			who = "anybody"
		}
		return cells(g.GetId(), grantStates[g.GetState()], grantWhere(g), strconv.Itoa(int(g.GetUses())), grantLeft(g, time.Now()), who, grantCovers(g))
	}
	return a.printList(l)
}

// eachGrant goes through all pages until f has enough.
func eachGrant(ctx context.Context, c *client.Client, req *approvalsv1.ListGrantsRequest, f func(*approvalsv1.Grant) bool) error {
	for {
		out, err := c.Grants.ListGrants(ctx, req)
		if err != nil {
			return err
		}
		for _, g := range out.GetGrants() {
			if !f(g) {
				return nil
			}
		}
		if req.PageToken = out.GetNextPageToken(); req.GetPageToken() == "" {
			return nil
		}
	}
}

func (a *app) watchGrants(ctx context.Context, c *client.Client, count int) error {
	return follow(ctx, a, count, func(ctx context.Context, _ bool) (grpc.ServerStreamingClient[approvalsv1.WatchGrantsResponse], error) {
		return c.Grants.WatchGrants(ctx, &approvalsv1.WatchGrantsRequest{})
	}, func(m *approvalsv1.WatchGrantsResponse) error {
		g := m.GetGrant()
		line := fmt.Sprintf("%-8s  %s  %s  used %d, %s  %s", grantStates[g.GetState()], Text(g.GetId()), Text(grantWhere(g)), g.GetUses(), grantLeft(g, time.Now()), grantCovers(g))
		return a.printItem(g, g.GetId(), line)
	})
}

func (a *app) grantsShowCmd() *cobra.Command {
	return &cobra.Command{Use: "show GRANT", Short: "Show all of one grant", Args: cobra.ExactArgs(1),
		Long:    "Show what a grant covers, who made it and how it was used. The last 6 characters of its id will do.",
		Example: "  hanzoctl grants show 5f3a1c", ValidArgsFunction: a.completeGrant,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				id, err := grantID(ctx, c, args[0], true)
				if err != nil {
					return err
				}
				out, err := c.Grants.GetGrant(ctx, &approvalsv1.GetGrantRequest{Id: id})
				if err != nil {
					return err
				}
				return a.printGrant(out.GetGrant())
			})
		}}
}

func (a *app) grantsRevokeCmd() *cobra.Command {
	return &cobra.Command{Use: "revoke GRANT...", Short: "End grants at once", Args: cobra.MinimumNArgs(1),
		Long: `End grants at once: what they covered is asked about again, also where it was allowed already
and has not begun. What a node remembers in its own exec approvals file after "always" stays
there: see "hanzoctl approvals".`,
		Example: "  hanzoctl grants revoke 5f3a1c\n  hanzoctl grants revoke $(hanzoctl grants list -q)", ValidArgsFunction: a.completeGrant,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				for _, arg := range args {
					id, err := grantID(ctx, c, arg, false)
					if err != nil {
						return err
					}
					out, err := c.Grants.RevokeGrant(ctx, &approvalsv1.RevokeGrantRequest{Id: id})
					if err != nil {
						return err
					}
					g := out.GetGrant()
					if err := a.printOne(g, g.GetId(), fmt.Sprintf("revoked: %s on %s (%s)", grantCovers(g), Text(grantWhere(g)), Text(g.GetId()))); err != nil {
						return err
					}
				}
				return nil
			})
		}}
}

func (a *app) grantsCreateCmd() *cobra.Command {
	var flags grantFlags
	var node, agent, session, cwd, requester string
	var always, anyRequester bool
	var env []string
	c := &cobra.Command{Use: "create [flags] -- COMMAND [ARG...]", Short: "Let a command run without an approval that asked for it",
		Long: `Let a command run without asking. It covers exactly the words after -- or, with --pattern, every
command of a form; on one node, for one agent, in one directory and for one requester, unless
it is widened. The usual way to a grant is the answer to an approval, which knows all of that:
see "hanzoctl approve".`,
		Example: `  hanzoctl grants create --node build-box --cwd /srv/app --uses 3 -- git pull
  hanzoctl grants create --node build-box --any-cwd --for 8h --pattern "git status **"
  hanzoctl grants create --node build-box --any-cwd --always -- uptime`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
				return errors.New("put -- before the command")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			terms, err := flags.terms(time.Now())
			if err != nil {
				return usage(err)
			}
			if terms == nil {
				terms = &grantTerms{}
			}
			limited := terms.uses > 0 || !terms.until.IsZero()
			switch {
			case terms.session:
				return usagef("name the session with --in-session")
			case (len(args) > 0) == (len(terms.pattern) > 0):
				return usagef("give either a command after -- or --pattern")
			case always && limited:
				return usagef("always has no limit")
			case !always && !limited:
				return usagef("say how far the grant reaches: --uses, --for, --until or --always")
			}
			req := &approvalsv1.CreateGrantRequest{
				Argv: args, Pattern: terms.pattern, AnyAgent: terms.anyAgent, AnyCwd: terms.anyCwd, Requester: requester, AnyRequester: anyRequester,
				Uses: int32(terms.uses), Always: always, Note: terms.note, Env: map[string]string{},
			}
			if !terms.until.IsZero() {
				req.Until = timestamppb.New(terms.until)
			}
			for _, o := range []struct {
				to   **string
				text string
			}{{&req.AgentId, agent}, {&req.SessionKey, session}, {&req.Cwd, cwd}} {
				if o.text != "" {
					*o.to = &o.text
				}
			}
			for _, kv := range env {
				k, v, ok := strings.Cut(kv, "=")
				if !ok || k == "" {
					return usagef("--env %q must have the form NAME=VALUE", kv)
				}
				req.Env[k] = v
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				if node != "" {
					n, err := c.ResolveNode(ctx, node)
					if err != nil {
						return err
					}
					req.NodeId = n.GetNodeId()
				}
				out, err := c.Grants.CreateGrant(ctx, req)
				if err != nil {
					return err
				}
				return a.printGrant(out.GetGrant())
			})
		}}
	flags.add(c.Flags())
	must(c.Flags().MarkHidden("session")) // of an approval
	a.nodeFlag(c, &node)
	f := c.Flags()
	f.Lookup("node").Usage = "the node that it is for; the daemon's machine without it"
	f.StringVar(&agent, "agent", "", "the agent that it is for; runs that name none without it")
	f.StringVar(&session, "in-session", "", "the only session that it holds in")
	f.StringVar(&cwd, "cwd", "", "the directory that it is for; runs that name none without it")
	f.StringArrayVar(&env, "env", nil, "NAME=VALUE that the run must set; may be repeated")
	f.StringVar(&requester, "requester", "", `who may use it, as "asked by" of an approval shows them; you without it`)
	f.BoolVar(&anyRequester, "any-requester", false, "whoever may run commands")
	f.BoolVar(&always, "always", false, "until it is revoked")
	return c
}

var grantStates = map[approvalsv1.GrantState]string{
	approvalsv1.GrantState_GRANT_STATE_LIVE: "live", approvalsv1.GrantState_GRANT_STATE_USED: "used up",
	approvalsv1.GrantState_GRANT_STATE_OVER: "over", approvalsv1.GrantState_GRANT_STATE_REVOKED: "revoked",
}

// grantCovers is the command or the pattern that a grant covers, in printable ASCII.
func grantCovers(g *approvalsv1.Grant) string {
	if p := g.GetPattern(); len(p) > 0 {
		words := make([]string, len(p))
		for i, w := range p {
			if words[i] = quoteWord(w, i == 0); strings.Trim(w, safe+"*") == "" {
				words[i] = w // * and ** are what they say
			}
		}
		return strings.Join(words, " ")
	}
	if g.GetCommand() != "" {
		return strconv.QuoteToASCII(g.GetCommand())
	}
	return strconv.QuoteToASCII(g.GetKey())
}

func grantWhere(g *approvalsv1.Grant) string {
	switch {
	case g.GetNodeName() != "":
		return g.GetNodeName()
	case g.GetNodeId() != "":
		return g.GetNodeId()
	}
	return "gateway"
}

// grantLeft is how far a grant still reaches.
func grantLeft(g *approvalsv1.Grant, now time.Time) string {
	var parts []string
	if g.GetMaxUses() > 0 {
		parts = append(parts, count(int(max(0, g.GetMaxUses()-g.GetUses())), "use"))
	}
	if g.GetUntil() != nil {
		parts = append(parts, span(g.GetUntil().AsTime().Sub(now)))
	}
	if g.SessionKey != nil {
		parts = append(parts, "this session")
	}
	if len(parts) == 0 {
		return "always"
	}
	return strings.Join(parts, ", ")
}

func (a *app) printGrant(g *approvalsv1.Grant) error {
	now := time.Now()
	var rows []string
	add := func(name, text string) {
		if text != "" {
			rows = append(rows, cells(name, text))
		}
	}
	anyOr := func(any bool, text *string, none string) string {
		switch {
		case any:
			return "any"
		case text == nil:
			return none
		default:
			return Text(*text)
		}
	}
	add("grant", Text(g.GetId()))
	add("state", grantStates[g.GetState()])
	add("covers", grantCovers(g))
	if g.GetKey() != "" {
		add("found by", keyText(g.GetKey()))
	}
	add("on", Text(grantWhere(g)))
	add("directory", anyOr(g.GetAnyCwd(), g.Cwd, "runs that name none"))
	add("agent", anyOr(g.GetAnyAgent(), g.AgentId, "runs that name none"))
	add("session", anyOr(g.SessionKey == nil, g.SessionKey, ""))
	if g.EnvHash != nil {
		add("environment", "with the same values as then")
	} else {
		add("environment", "runs that set none")
	}
	add("for", anyOr(g.GetAnyRequester(), &g.Requester, ""))
	used := strconv.Itoa(int(g.GetUses()))
	if g.GetLastUsedAt() != nil {
		used += ", last " + span(now.Sub(g.GetLastUsedAt().AsTime())) + " ago"
	}
	add("used", used)
	add("left", grantLeft(g, now))
	by := g.GetCreatedByName()
	if by != g.GetCreatedBy() {
		by = strings.TrimSpace(by + " (" + g.GetCreatedBy() + ")")
	}
	add("made", span(now.Sub(g.GetCreatedAt().AsTime()))+" ago by "+Text(by))
	add("approval", Text(g.GetApprovalId()))
	add("rule", Text(g.GetRule()))
	add("note", Text(g.GetNote()))
	if g.GetRevokedAt() != nil {
		add("revoked", span(now.Sub(g.GetRevokedAt().AsTime()))+" ago by "+Text(g.GetRevokedBy()))
	}
	return a.printOne(g, g.GetId(), rows...)
}

// grantID is the id that a person means: an exact one, or the end of one. all looks at ended ones as well.
func grantID(ctx context.Context, c *client.Client, query string, all bool) (string, error) {
	if len(query) < minGrantPrefix {
		return query, nil
	}
	var found []string
	exact := false
	if err := eachGrant(ctx, c, &approvalsv1.ListGrantsRequest{All: all}, func(g *approvalsv1.Grant) bool {
		exact = g.GetId() == query
		if strings.HasSuffix(g.GetId(), query) {
			found = append(found, g.GetId())
		}
		return !exact
	}); err != nil {
		return "", err
	}
	switch {
	case exact, len(found) == 0:
		return query, nil
	case len(found) == 1:
		return found[0], nil
	}
	return "", &client.Error{Class: client.Invalid, Message: "several grants end with " + query + ": " + strings.Join(found, ", ")}
}

func (a *app) completeGrant(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
		out, err := c.Grants.ListGrants(ctx, &approvalsv1.ListGrantsRequest{})
		if err != nil {
			return nil
		}
		var words []string
		for _, g := range out.GetGrants() {
			words = append(words, Text(g.GetId())+"\t"+grantCovers(g)+" on "+Text(grantWhere(g)))
		}
		return words
	})
}
