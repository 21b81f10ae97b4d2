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

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
)

func (a *app) nodesRunCmd() *cobra.Command {
	var in client.RunIn
	var env []string
	c := &cobra.Command{Use: "run NODE [flags] -- COMMAND [ARG...]", Short: "Run a command on a node, and ask for approval where it is needed",
		ValidArgsFunction: a.completeNode,
		Long: `Run a command on a node and wait for its end.

With --wait a node that is not connected is waited for; a phone that registered for pushes
is woken either way. The command runs once.

A command that the policy of the node allows runs at once. Any other waits for an
approval; how to answer is printed to stderr. What the command prints comes out here, with
control characters escaped where stdout or stderr is a terminal, and its exit code becomes
the exit code (see "hanzoctl help exit-codes").

The words after -- go to the node as they are, without a shell.`,
		Example: `  hanzoctl nodes run build-box -- uname -a
  hanzoctl nodes run build-box --cwd /srv/app --env CI=1 --timeout 5m -- make test
  hanzoctl nodes run build-box -o json -- git rev-parse HEAD
  hanzoctl nodes run laptop --wait 5m -- uptime`,
		Args: func(cmd *cobra.Command, args []string) error {
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
			a.timeoutSet = false // it bounds the command on the node, not this call
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				waiting := ""
				out, err := c.RunCommand(ctx, in, func(s client.Step) {
					switch s.Kind {
					case client.StepWaiting:
						waiting = s.Approval.GetId()
						fmt.Fprintf(a.stderr, "waiting for approval %s to run on %s: %s\n", Text(waiting), Text(nodeLabel(s.NodeName, s.NodeID)), Quote(approvedArgv(s.Approval)))
						fmt.Fprintf(a.stderr, "answer with: %s approve %s once\n", a.again(), Text(waiting))
					case client.StepDecided:
						waiting = ""
						fmt.Fprintf(a.stderr, "allowed by %s\n", Text(s.Approval.GetResolvedBy()))
					case client.StepAway:
						a.awaiting(nodeLabel(s.NodeName, s.NodeID), in.WaitForNode)
					case client.StepReconnecting:
						fmt.Fprintln(a.stderr, "the daemon went away; waiting for it to come back")
					}
				})
				if ctx.Err() != nil {
					return &codeError{code: exitInt, text: interrupted(waiting)}
				}
				if client.RefusedByNode(err) {
					return &codeError{code: exitDenied, err: err}
				}
				if err != nil {
					return err
				}
				return a.finish(out, in.Timeout)
			})
		}}
	f := c.Flags()
	f.StringVar(&in.Cwd, "cwd", "", "directory on the node")
	f.StringArrayVar(&env, "env", nil, "NAME=VALUE for the command; may be repeated")
	f.DurationVar(&in.Timeout, "timeout", 0, "how long the command may run; 0 is no limit")
	f.StringVar(&in.AgentID, "agent", "", "agent whose policy counts")
	f.DurationVar(&in.WaitForNode, "wait", 0, "how long to wait for a node that is not connected, at most an hour")
	f.DurationVar(&in.ApprovalTimeout, "approval-timeout", 2*time.Minute, "how long to wait for an approval")
	return c
}

// awaiting says that a node is waited for.
func (a *app) awaiting(node string, wait time.Duration) {
	fmt.Fprintf(a.stderr, "%s is not connected; waiting for it, at most %s\n", Text(node), wait)
}

func interrupted(waiting string) string {
	if waiting != "" {
		return "interrupted; nothing runs, even if approval " + waiting + " is given now"
	}
	return "interrupted; a command that has begun goes on on the node"
}

func nodeLabel(name, id string) string {
	if name == "" {
		return id
	}
	return name
}

// ran is the result of nodes run as JSON.
type ran struct {
	NodeID     string `json:"nodeId"`
	NodeName   string `json:"nodeName"`
	ApprovalID string `json:"approvalId,omitempty"`
	ExitCode   *int   `json:"exitCode,omitempty"`
	Signal     string `json:"signal,omitempty"`
	TimedOut   bool   `json:"timedOut"`
	Stdout     string `json:"stdout"`
	Stderr     string `json:"stderr"`
	Error      string `json:"error,omitempty"`
}

// finish prints what the command left and turns its end into ours.
func (a *app) finish(out client.RunOut, limit time.Duration) error {
	if a.output == "table" {
		if err := errors.Join(relay(a.stdout, out.Stdout), relay(a.stderr, out.Stderr)); err != nil {
			return err
		}
	} else if err := a.printValue(ran{out.NodeID, out.NodeName, out.ApprovalID, out.ExitCode, out.Signal, out.TimedOut, out.Stdout, out.Stderr, out.Failure}); err != nil {
		return err
	}
	switch {
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

// relay writes output of a node: as it is, but escaped on a terminal.
func relay(w *os.File, s string) error {
	if isTerminal(w) {
		s = Lines(s)
	}
	_, err := io.WriteString(w, s)
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
