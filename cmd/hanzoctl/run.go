package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
	runsv1 "github.com/hanzoai/hanzod/gen/hanzo/runs/v1"
)

func (a *app) nodesRunCmd() *cobra.Command {
	var in client.RunIn
	var env []string
	var resume string
	var detach bool
	c := &cobra.Command{Use: "run NODE [flags] -- COMMAND [ARG...]", Short: "Run a command on a node, and ask for approval where it is needed",
		ValidArgsFunction: a.completeNode,
		Long: `Run a command on a node and wait for its end.

With --wait a node that is not connected is waited for; a phone that registered for pushes
is woken either way. The command runs once.

A command that the policy of the node allows runs at once. Any other waits for an
approval; how to answer is printed to stderr. What the command prints comes out here while
it runs, with control characters escaped where stdout or stderr is a terminal, and its exit
code becomes the exit code (see "hanzoctl help exit-codes").

The daemon looks after the command: it goes on when this program is interrupted, and a
question outlives a restart of the daemon. With --resume a run is waited for again, or its
result printed when it has ended, as the first one would have. With --detach the id of the
run is printed, and nothing is waited for. See also "hanzoctl nodes runs", "nodes watch" and
"nodes kill".

The words after -- go to the node as they are, without a shell.`,
		Example: `  hanzoctl nodes run build-box -- uname -a
  hanzoctl nodes run build-box --cwd /srv/app --env CI=1 --timeout 5m -- make test
  hanzoctl nodes run build-box -o json -- git rev-parse HEAD
  hanzoctl nodes run laptop --wait 5m -- uptime
  hanzoctl nodes run build-box --detach -- make release
  hanzoctl nodes run --resume 0f8fad5b-d9cb-469f-a165-70867728950e`,
		Args: func(cmd *cobra.Command, args []string) error {
			if resume != "" {
				if len(args) > 0 {
					return errors.New("--resume takes up a run as it is: give no node and no command")
				}
				if detach {
					return errors.New("--resume waits, --detach does not: give one of them")
				}
				return nil
			}
			switch dash := cmd.ArgsLenAtDash(); {
			case len(args) == 0 || dash == 0:
				return errors.New("say on which node")
			case dash < 0 || dash > 1:
				return errors.New("put -- between the node and the command")
			case len(args) < 2:
				return errors.New("say what to run behind --")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			a.timeoutSet = false // it bounds the command on the node, not this call
			if resume != "" {
				return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
					id, err := a.resolveRun(ctx, c, resume)
					if err != nil {
						return err
					}
					return a.follow(ctx, c, id, 0)
				})
			}
			in.Node, in.Argv, in.Env = args[0], args[1:], map[string]string{}
			for _, kv := range env {
				k, v, ok := strings.Cut(kv, "=")
				if !ok || k == "" {
					return usagef("--env %q must have the form NAME=VALUE", kv)
				}
				in.Env[k] = v
			}
			if in.Timeout < 0 || in.ApprovalTimeout < 0 || in.WaitForNode < 0 {
				return usagef("a timeout must not be negative")
			}
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				run, err := c.StartRun(ctx, in, func(s client.Step) { a.runStep(s, in.WaitForNode) })
				if err != nil {
					if ctx.Err() != nil {
						return a.interrupted("interrupted; if the run has begun, it goes on", run.GetId())
					}
					return err
				}
				if detach {
					return a.detach(ctx, c, run)
				}
				return a.follow(ctx, c, run.GetId(), in.Timeout)
			})
		}}
	f := c.Flags()
	f.StringVar(&in.Cwd, "cwd", "", "directory on the node")
	f.StringArrayVar(&env, "env", nil, "NAME=VALUE for the command; may be repeated")
	f.DurationVar(&in.Timeout, "timeout", 0, "how long the command may run; 0 is no limit")
	f.StringVar(&in.AgentID, "agent", "", "agent whose policy counts")
	f.DurationVar(&in.WaitForNode, "wait", 0, "how long to wait for a node that is not connected, at most an hour")
	f.DurationVar(&in.ApprovalTimeout, "approval-timeout", 2*time.Minute, "how long to wait for an approval")
	f.StringVar(&resume, "resume", "", "id of a run to wait for, or to print the result of")
	f.BoolVar(&detach, "detach", false, "print the id of the run and do not wait")
	must(c.RegisterFlagCompletionFunc("resume", func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return a.completeRun(cmd, false)
	}))
	return c
}

// interrupted says how to get at a run that nobody waits for any more.
func (a *app) interrupted(what, id string) error {
	fmt.Fprintln(a.stderr, what)
	if id != "" {
		fmt.Fprintf(a.stderr, "see its result with: %s nodes run --resume %s\nend it with: %s nodes kill %s\n", a.again(), Text(id), a.again(), Text(id))
	}
	return &codeError{code: exitInt}
}

// settled is how long --detach waits until it is known whether an approval is needed.
const settled = 10 * time.Second

// detach prints the id of a run as soon as its question stands, so that who reads it can answer, or the
// command runs.
func (a *app) detach(ctx context.Context, c *client.Client, run *runsv1.Run) error {
	watch, cancel := context.WithTimeout(ctx, settled)
	defer cancel()
	s, err := c.Runs.WatchRun(watch, &runsv1.WatchRunRequest{Id: run.GetId()})
	for err == nil {
		var m *runsv1.WatchRunResponse
		if m, err = s.Recv(); err != nil || m.GetRun() == nil {
			continue
		}
		run = m.GetRun()
		state := run.GetState()
		if run.GetEndedAt() != nil || state == runsv1.State_STATE_WAITING || state == runsv1.State_STATE_RUNNING {
			break
		}
	}
	// A watch that broke changes nothing: the run is the daemon's.
	return a.printOne(run, run.GetId(), Text(run.GetId()))
}

// runStep says on stderr where a run stands.
func (a *app) runStep(s client.Step, wait time.Duration) {
	switch s.Kind {
	case client.StepWaiting:
		id := s.Run.GetApprovalId()
		fmt.Fprintf(a.stderr, "waiting for approval %s to run on %s: %s\n", Text(id), Text(nodeLabel(s.NodeName, s.NodeID)), Text(s.Run.GetCommand()))
		fmt.Fprintf(a.stderr, "answer with: %s approve %s once\n", a.again(), Text(id))
	case client.StepDecided:
		fmt.Fprintf(a.stderr, "allowed by %s\n", Text(s.Run.GetResolvedBy()))
	case client.StepAway:
		a.awaiting(nodeLabel(s.NodeName, s.NodeID), wait)
	case client.StepReconnecting:
		fmt.Fprintln(a.stderr, "the daemon went away; waiting for it to come back")
	}
}

// follow waits for the end of a run, prints what it writes and ends as it does. Limit is its own, zero when
// it is not known.
func (a *app) follow(ctx context.Context, c *client.Client, id string, limit time.Duration) error {
	r := a.relays()
	output := r.write
	if a.output != "table" {
		output = nil
	}
	out, err := c.FollowRun(ctx, id, func(s client.Step) { a.runStep(s, 0) }, output)
	if ferr := r.flush(); err == nil {
		err = ferr
	}
	if ctx.Err() != nil {
		return a.interrupted("interrupted; the run goes on", id)
	}
	if client.RefusedByNode(err) {
		return &codeError{code: exitDenied, err: err}
	}
	if code := exitCode(err); code == exitNoDaemon || code == exitUnknown {
		fmt.Fprintf(a.stderr, "see what became of it, with the daemon there, with: %s nodes run --resume %s\n", a.again(), Text(id))
	}
	if err != nil {
		return err
	}
	return a.finish(out, limit)
}

// awaiting says that a node is waited for.
func (a *app) awaiting(node string, wait time.Duration) {
	fmt.Fprintf(a.stderr, "%s is not connected; waiting for it, at most %s\n", Text(node), wait)
}

func nodeLabel(name, id string) string {
	if name == "" {
		return id
	}
	return name
}

// ran is the result of nodes run as JSON.
type ran struct {
	RunID      string `json:"runId"`
	NodeID     string `json:"nodeId"`
	NodeName   string `json:"nodeName"`
	ApprovalID string `json:"approvalId,omitempty"`
	ExitCode   *int   `json:"exitCode,omitempty"`
	Signal     string `json:"signal,omitempty"`
	TimedOut   bool   `json:"timedOut"`
	Stdout     string `json:"stdout"`
	Stderr     string `json:"stderr"`
	Error      string `json:"error,omitempty"`
	KilledBy   string `json:"killedBy,omitempty"`
	OutputGone bool   `json:"outputGone,omitempty"`
}

// finish turns the end of a command into ours. What it wrote is printed already, but for JSON.
func (a *app) finish(out client.RunOut, limit time.Duration) error {
	if a.output == "table" {
		if out.OutputGone {
			fmt.Fprintln(a.stderr, "what the command wrote is no longer kept")
		}
	} else if err := a.printValue(ran{out.RunID, out.NodeID, out.NodeName, out.ApprovalID, out.ExitCode, out.Signal, out.TimedOut, out.Stdout, out.Stderr, out.Failure, out.KilledBy, out.OutputGone}); err != nil {
		return err
	}
	switch {
	case out.KilledBy != "" && out.ExitCode == nil:
		return &codeError{code: exitSignal + signals["KILL"], text: "the command was killed by " + out.KilledBy}
	case out.TimedOut && limit == 0:
		return &codeError{code: exitDeadline, text: "the command reached its limit and was ended"}
	case out.TimedOut:
		return &codeError{code: exitDeadline, text: fmt.Sprintf("the command reached its limit of %s and was ended", limit)}
	case out.ExitCode != nil && (*out.ExitCode != 0 || out.Failure == ""):
		if *out.ExitCode == 0 {
			return nil
		}
		return &codeError{code: *out.ExitCode}
	case out.Failure != "":
		return &codeError{code: exitNotRun, text: "the command did not start: " + out.Failure}
	case out.Signal != "":
		return &codeError{code: exitSignal + signalNumber(out.Signal), text: "the command was ended by signal " + out.Signal}
	}
	return &codeError{code: exitSignal, text: "the command was ended by a signal"}
}

// relays print what a command writes.
type relays struct {
	a        *app
	out, err relay
	failed   error
}

// relay is one stream of it: as it is, but escaped on a terminal. A character that is not whole yet waits.
type relay struct {
	w       *os.File
	escape  bool
	partial []byte
}

func (a *app) relays() *relays {
	return &relays{a: a, out: relay{w: a.stdout, escape: isTerminal(a.stdout)}, err: relay{w: a.stderr, escape: isTerminal(a.stderr)}}
}

func (r *relays) write(o client.Output) {
	to, name := &r.out, "stdout"
	if o.Stderr {
		to, name = &r.err, "stderr"
	}
	if o.Missing > 0 {
		fmt.Fprintf(r.a.stderr, "hanzoctl: %d bytes of %s are left out here\n", o.Missing, name)
		return
	}
	if err := to.write(o.Data); r.failed == nil {
		r.failed = err
	}
}

// flush writes what is left and returns what went wrong.
func (r *relays) flush() error { return errors.Join(r.failed, r.out.flush(), r.err.flush()) }

func (r *relay) write(b []byte) error {
	if !r.escape {
		_, err := r.w.Write(b)
		return err
	}
	r.partial = append(r.partial, b...)
	n := len(r.partial)
	for i := max(0, n-utf8.UTFMax+1); i < n; i++ {
		if utf8.RuneStart(r.partial[i]) && !utf8.FullRune(r.partial[i:]) {
			n = i
			break
		}
	}
	whole := string(r.partial[:n])
	r.partial = append([]byte(nil), r.partial[n:]...)
	_, err := io.WriteString(r.w, Lines(whole))
	return err
}

func (r *relay) flush() error {
	if len(r.partial) == 0 {
		return nil
	}
	_, err := io.WriteString(r.w, Lines(string(r.partial)))
	return err
}

// signals are the numbers that all supported systems share.
var signals = map[string]int{"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "FPE": 8, "KILL": 9, "SEGV": 11, "PIPE": 13, "ALRM": 14, "TERM": 15}

// signalNumber is the number of a signal given by number or name, 0 for an unknown one.
func signalNumber(s string) int {
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n < 65 {
		return n
	}
	return signals[strings.TrimPrefix(strings.ToUpper(s), "SIG")]
}
