package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hanzoai/hanzod/client"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
)

const (
	// callTimeout bounds a call when --timeout is not given: a local daemon answers in
	// milliseconds, one that does not within this is stuck.
	callTimeout = 15 * time.Second
	// nodeTimeout is the same for calls that a node has to answer, which may take 30 s.
	nodeTimeout = 40 * time.Second
	// completionTimeout bounds what the shell waits for while the user presses Tab.
	completionTimeout = time.Second
)

// app is one run of hanzoctl: where it reads and writes, and the global flags.
type app struct {
	stdin          *os.File
	stdout, stderr *os.File
	getenv         func(string) string

	socket, stateDir, output string
	remote                   remoteFlags
	json, quiet, noColor     bool
	timeout                  time.Duration
	timeoutSet               bool

	// to is the daemon to ask, once it is known; said, that it was told on stderr.
	to   *target
	said bool
	// silent is a run that nobody looks at: the shell completes a line.
	silent bool
	steps  progress
	asker  asker

	args []string
	// running says that flags and arguments were understood.
	running bool
}

// run executes one command line and returns its exit code.
func (a *app) run(ctx context.Context, args []string) int {
	a.args, a.asker.a = args, a
	root := a.root()
	root.SetArgs(args)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	if err != nil && !a.running {
		err = usage(err)
	}
	return a.report(ctx, err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "hanzoctl",
		Short: "Ask and steer the hanzod daemon",
		Long: `hanzoctl asks a running hanzod daemon over its local socket: what it is doing, which
nodes it knows, what waits for an approval.

The daemon is found at --socket, else under --state-dir, else at $HANZOD_SOCKET, else in
the state directory ($HANZOD_STATE_DIR, or ~/.hanzo/hanzod). Where none answers in
~/.hanzo/hanzod, a running one with another state directory is. With --host, or a context
that was chosen with "hanzoctl context use", one on another machine is asked: see "hanzoctl
help remote". All output then says which.

Wherever a node is asked for, its id, its name, its address or the first 6 or more
characters of its id will do.`,
		Example: `  hanzoctl status
  hanzoctl nodes list
  hanzoctl nodes run build-box -- uname -a
  hanzoctl approve
  hanzoctl --host ssh://alice@box status
  hanzoctl help exit-codes`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if a.json {
				if f := cmd.Flags().Lookup("output"); f != nil && f.Changed && a.output != "json" {
					return fmt.Errorf("--json and --output %s say different things", a.output)
				}
				a.output = "json"
			}
			if !slices.Contains(formats, a.output) {
				return fmt.Errorf("unknown output %q: use %s", a.output, strings.Join(formats, ", "))
			}
			if f := cmd.Flags().Lookup("timeout"); f != nil {
				a.timeoutSet = f.Changed
			}
			if a.timeout < 0 {
				return fmt.Errorf("--timeout must not be negative")
			}
			a.running = true
			return nil
		},
	}
	f := root.PersistentFlags()
	f.StringVar(&a.socket, "socket", "", "socket of the daemon")
	f.StringVar(&a.stateDir, "state-dir", "", "state directory of the daemon")
	a.remote.add(f)
	f.StringVarP(&a.output, "output", "o", "table", "how to print: table, json, yaml or jsonl (one JSON object a line)")
	f.BoolVar(&a.json, "json", false, "the same as --output json")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "print ids only")
	f.DurationVar(&a.timeout, "timeout", 0, "how long to wait at the most, for example 5s (default 15s; no limit for watches)")
	f.BoolVar(&a.noColor, "no-color", false, "no colours on the terminal (also with NO_COLOR set)")
	// The names are constants of this file: an unknown one is a mistake that every test shows.
	must(root.RegisterFlagCompletionFunc("host", func(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return a.hostWords(word)
	}))
	must(root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)))
	root.AddCommand(
		a.statusCmd(), a.healthCmd(), a.doctorCmd(), a.nodesCmd(), a.uplinksCmd(), a.cpCmd(), a.filesCmd(), a.devicesCmd(), a.approveCmd(), a.grantsCmd(), a.policyCmd(), a.approvalsCmd(), a.auditCmd(), a.cronCmd(),
		a.checkpointsCmd(),
		a.agentsCmd(), a.skillsCmd(), a.modelsCmd(), a.toolsCmd(),
		a.sessionsCmd(), a.usageCmd(),
		a.enrollCmd(), a.contextCmd(), a.attachCmd(),
		a.configCmd(), a.updateCmd(), a.secretsCmd(), a.setupCmd(),
		a.heartbeatCmd(), a.wakeCmd(), a.eventCmd(), a.presenceCmd(), a.channelsCmd(), a.talkCmd(), a.ttsCmd(),
		a.terminalCmd(), a.screenCmd(), a.tunnelCmd(), a.techCmd(), a.eventsCmd(), a.logsCmd(), a.tokenCmd(), a.discoverCmd(), a.versionCmd(), exitCodesTopic(), remoteTopic(),
	)
	if docsCmd != nil {
		root.AddCommand(docsCmd(root))
	}
	return root
}

// docsCmd makes the command that writes man pages and completions; builds with the tag "docs" have it.
var docsCmd func(root *cobra.Command) *cobra.Command

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// group is a command that only holds others.
func group(use, short, example string, cmds ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Example: example, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return usage(fmt.Errorf("say what to do: %s", names(cmd))) }}
	c.AddCommand(cmds...)
	return c
}

func names(cmd *cobra.Command) string {
	var out []string
	for _, c := range cmd.Commands() {
		out = append(out, cmd.CommandPath()+" "+c.Name())
	}
	return strings.Join(out, ", ")
}

// call runs f with a client and a deadline: --timeout, else the given one; zero is none.
func (a *app) call(cmd *cobra.Command, limit time.Duration, f func(context.Context, *client.Client) error) error {
	ctx, cancel := a.bounded(cmd.Context(), 0)
	defer cancel()
	c, err := a.dialWithin(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if !a.timeoutSet { // else it bounds both
		var done context.CancelFunc
		ctx, done = a.bounded(ctx, limit)
		defer done()
	}
	return f(ctx, c)
}

// dialWithin is dial with a deadline of its own: a person may be asked on the way.
func (a *app) dialWithin(ctx context.Context) (*client.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	return a.dial(ctx)
}

// bounded gives a context a deadline: --timeout, else the given one; zero is none.
func (a *app) bounded(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if a.timeoutSet {
		limit = a.timeout
	}
	if limit <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, limit)
}

// complete asks the daemon for words to complete with; without an answer in time there are none.
func (a *app) complete(cmd *cobra.Command, f func(context.Context, *client.Client) []string) ([]string, cobra.ShellCompDirective) {
	parent := cmd.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, completionTimeout)
	defer cancel()
	a.silent = true
	c, err := a.dial(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer c.Close()
	return f(ctx, c), cobra.ShellCompDirectiveNoFileComp
}

// completeNode completes the first argument with the nodes, by a name that needs no quotes where
// it is the only one of that name.
func (a *app) completeNode(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.complete(cmd, func(ctx context.Context, c *client.Client) []string {
		out, err := c.Nodes.ListNodes(ctx, &nodesv1.ListNodesRequest{})
		if err != nil {
			return nil
		}
		return nodeWords(out.GetNodes())
	})
}

func nodeWords(nodes []*nodesv1.Node) []string {
	count := map[string]int{}
	for _, n := range nodes {
		count[client.Slug(n.GetDisplayName())]++
	}
	var words []string
	for _, n := range nodes {
		word, about := n.GetNodeId(), n.GetDisplayName()
		if slug := client.Slug(n.GetDisplayName()); slug != "" && count[slug] == 1 {
			word, about = slug, shortID(n.GetNodeId())
		}
		words = append(words, Text(word)+"\t"+Text(about)+", "+connected(n))
	}
	return words
}

// isTerminal reports whether a file is a terminal.
func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// color reports whether to use colours on the terminal.
func (a *app) color() bool {
	return !a.noColor && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"
}

// again is how to call this command for the same daemon.
func (a *app) again() string {
	switch {
	case a.remote.host != "":
		words := []string{"hanzoctl", "--host", a.remote.host}
		for _, f := range [][2]string{
			{"--socket", a.socket}, {"--state-dir", a.stateDir}, {"--token-file", a.remote.tokenFile}, {"--tls-fingerprint", a.remote.fingerprint}, {"--tls-ca", a.remote.ca},
		} {
			if f[1] != "" {
				words = append(words, f[0], f[1])
			}
		}
		return Quote(words)
	case a.socket != "":
		return "hanzoctl --socket " + Quote([]string{a.socket})
	case a.stateDir != "":
		return "hanzoctl --state-dir " + Quote([]string{a.stateDir})
	default:
		return "hanzoctl"
	}
}
