package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
	runsv1 "github.com/hanzoai/hanzod/gen/hanzo/runs/v1"
)

// minRunPrefix is the shortest beginning of the id of a run that names it.
const minRunPrefix = 4

// runStates are the states of runs as they are typed and shown.
var runStates = map[runsv1.State]string{
	runsv1.State_STATE_PREPARING: "preparing", runsv1.State_STATE_WAITING: "waiting", runsv1.State_STATE_STARTING: "starting",
	runsv1.State_STATE_RUNNING: "running", runsv1.State_STATE_DONE: "done", runsv1.State_STATE_REFUSED: "refused",
	runsv1.State_STATE_DENIED: "denied", runsv1.State_STATE_EXPIRED: "expired", runsv1.State_STATE_FAILED: "failed",
	runsv1.State_STATE_LOST: "lost",
}

func stateWords() []string {
	var out []string
	for _, w := range runStates {
		out = append(out, w)
	}
	slices.Sort(out)
	return out
}

func (a *app) nodesRunsCmd() *cobra.Command {
	var live bool
	var node string
	var states []string
	var limit int
	c := &cobra.Command{Use: "runs", Short: "List the commands that the daemon runs, parks and keeps the results of", Args: cobra.NoArgs,
		Long: `List the commands that were run on nodes, newest first: those that wait for an approval, those
that run, and for a week those that have ended.

Without the scope for approvals only your own are shown. The states are:

  preparing   the node is asked what it would run
  waiting     for an approval
  starting    it may run; the node is awaited
  running
  done        it ended; its exit code stands behind it
  refused     by a policy
  denied      by an approver
  expired     nobody answered in time
  failed      it did not run, for another reason
  lost        its end was not seen: it may have run`,
		Example: `  hanzoctl nodes runs
  hanzoctl nodes runs --live
  hanzoctl nodes runs --node build-box --state lost --state failed
  hanzoctl nodes runs -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req := &runsv1.ListRunsRequest{Live: live}
			if limit < 0 || limit > 1000 {
				return usagef("--limit must be from 1 to 1000")
			}
			req.Limit = int32(limit)
			for _, word := range states {
				found := false
				for s, w := range runStates {
					if w == word {
						req.States, found = append(req.States, s), true
					}
				}
				if !found {
					return usagef("unknown state %q: use %s", word, strings.Join(stateWords(), ", "))
				}
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				if node != "" {
					n, err := c.ResolveNode(ctx, node)
					if err != nil {
						return err
					}
					req.NodeId = n.GetNodeId()
				}
				out, err := c.Runs.ListRuns(ctx, req)
				if err != nil {
					return err
				}
				l := list{whole: out, head: "ID\tSTATE\tNODE\tBY\tAGE\tCOMMAND", none: "no runs are known"}
				for _, r := range out.GetRuns() {
					l.items = append(l.items, r)
					l.ids = append(l.ids, r.GetId())
				}
				l.row = func(i int) string {
					r := out.GetRuns()[i]
					return cells(shortID(r.GetId()), runState(r), nodeLabel(r.GetNodeName(), shortID(r.GetNodeId())), r.GetRequestedBy(),
						span(time.Since(r.GetCreatedAt().AsTime())), r.GetCommand())
				}
				return a.printList(l)
			})
		}}
	f := c.Flags()
	f.BoolVar(&live, "live", false, "only those that have not ended")
	f.StringVar(&node, "node", "", "only those of one node")
	f.StringArrayVar(&states, "state", nil, "only those in this state; may be repeated")
	f.IntVar(&limit, "limit", 0, "how many at the most (default 200)")
	must(c.RegisterFlagCompletionFunc("node", func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return a.completeNode(cmd, nil, word)
	}))
	must(c.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(stateWords(), cobra.ShellCompDirectiveNoFileComp)))
	return c
}

// runState is the state of a run, and how it ended.
func runState(r *runsv1.Run) string {
	word := runStates[r.GetState()]
	if r.GetState() != runsv1.State_STATE_DONE {
		return word
	}
	switch res := r.GetResult(); {
	case res.ExitCode != nil:
		return word + " " + strconv.Itoa(int(res.GetExitCode()))
	case r.GetKilledBy() != "":
		return "killed"
	case res.GetTimedOut():
		return word + " (limit)"
	case res.GetSignal() != "":
		return word + " " + res.GetSignal()
	}
	return word + " (no exit code)"
}

func (a *app) nodesKillCmd() *cobra.Command {
	return &cobra.Command{Use: "kill RUN", Short: "End a run: one that waits never begins, one that runs is killed", Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeRun(cmd, true)
		},
		Long: `End a run. One that has not begun never does; one that runs is killed on its node, with the
processes that it started. Who started it is told by whom. Your own runs you may always end,
those of others with the scope for approvals.

A node that runs the program of the original cannot be asked to end a command.`,
		Example: `  hanzoctl nodes runs --live
  hanzoctl nodes kill 0f8fad5b`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				id, err := a.resolveRun(ctx, c, args[0])
				if err != nil {
					return err
				}
				out, err := c.Runs.KillRun(ctx, &runsv1.KillRunRequest{Id: id})
				if err != nil {
					return err
				}
				r := out.GetRun()
				return a.printOne(r, id, Text(fmt.Sprintf("ended: %s on %s (%s)", r.GetCommand(), nodeLabel(r.GetNodeName(), r.GetNodeId()), id)))
			})
		}}
}

// watchRun prints what a run writes, from the end of what is known on, until it has ended.
func (a *app) watchRun(cmd *cobra.Command, word string, count int) error {
	return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
		id, err := a.resolveRun(ctx, c, word)
		if err != nil {
			return err
		}
		if a.output != "table" || a.quiet {
			s, err := c.Runs.WatchRun(ctx, &runsv1.WatchRunRequest{Id: id})
			if err != nil {
				return err
			}
			return each(s, count, func(m *runsv1.WatchRunResponse) error { return a.printItem(m, id, "") })
		}
		got, err := c.Runs.GetRun(ctx, &runsv1.GetRunRequest{Id: id})
		if err != nil {
			return err
		}
		a.introduce(got.GetRun())
		r := a.relays()
		out, err := c.FollowRun(ctx, id, func(s client.Step) { a.runStep(s, 0) }, r.write)
		if ferr := r.flush(); ferr != nil {
			return ferr
		}
		if err != nil {
			return err
		}
		how := "without an exit code"
		switch {
		case out.KilledBy != "" && out.ExitCode == nil:
			how = "killed by " + out.KilledBy
		case out.ExitCode != nil:
			how = "exit code " + strconv.Itoa(*out.ExitCode)
		case out.TimedOut:
			how = "it reached its limit"
		case out.Failure != "":
			how = out.Failure
		case out.Signal != "":
			how = "signal " + out.Signal
		}
		fmt.Fprintf(a.stderr, "ended: %s\n", Text(how))
		return nil
	})
}

// introduce says on stderr what is watched.
func (a *app) introduce(r *runsv1.Run) {
	fmt.Fprintf(a.stderr, "%s on %s: %s (asked for by %s)\n", runState(r), Text(nodeLabel(r.GetNodeName(), r.GetNodeId())), Text(r.GetCommand()), Text(r.GetRequestedBy()))
	if r.GetState() == runsv1.State_STATE_RUNNING && !r.GetStreams() {
		fmt.Fprintln(a.stderr, "this node does not send what a command writes while it runs; it comes at the end")
	}
	if r.GetEndedAt() == nil {
		fmt.Fprintf(a.stderr, "end it with: %s nodes kill %s\n", a.again(), Text(r.GetId()))
	}
}

// resolveRun finds the run that a person means: by its id, or by the beginning of it.
func (a *app) resolveRun(ctx context.Context, c *client.Client, word string) (string, error) {
	if len(word) < minRunPrefix {
		return word, nil // the daemon says what is wrong with it
	}
	out, err := c.Runs.ListRuns(ctx, &runsv1.ListRunsRequest{Limit: 1000})
	if err != nil {
		return "", err
	}
	var found []string
	for _, r := range out.GetRuns() {
		if r.GetId() == word {
			return word, nil
		}
		if strings.HasPrefix(r.GetId(), word) {
			found = append(found, r.GetId())
		}
	}
	switch len(found) {
	case 0:
		return word, nil
	case 1:
		return found[0], nil
	}
	return "", usagef("%q is the beginning of several runs: %s", word, Text(strings.Join(found, ", ")))
}

// completeRun completes the id of a run.
func (a *app) completeRun(cmd *cobra.Command, live bool) ([]string, cobra.ShellCompDirective) {
	return a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
		out, err := c.Runs.ListRuns(ctx, &runsv1.ListRunsRequest{Live: live})
		if err != nil {
			return nil
		}
		var words []string
		for _, r := range out.GetRuns() {
			words = append(words, Text(r.GetId())+"\t"+Text(runState(r))+", "+Text(nodeLabel(r.GetNodeName(), r.GetNodeId()))+": "+Text(r.GetCommand()))
		}
		return words
	})
}
