package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/ssh"
	"github.com/hanzoai/hanzod/client/tailnet"
)

// The exit codes. Those from 64 on are the ones of sysexits.h that come closest.
const (
	exitFailed   = 1
	exitUsage    = 2
	exitBroken   = 65
	exitNotFound = 66
	exitNoDaemon = 69
	exitConflict = 73
	exitUnknown  = 74
	exitLater    = 75
	exitDenied   = 77
	exitDeadline = 124
	exitNotRun   = 127
	exitSignal   = 128
	exitInt      = 130
)

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: `hanzoctl ends with one of these codes:

    0  done
    1  failed for another reason
    2  the command line or the request is wrong
   66  no such node, run, device or approval
   69  no daemon answers at the socket or the address, or its machine cannot be
       reached
   73  the state does not allow it: already there, or changed meanwhile
   74  the outcome is not known: look before you repeat it
   75  not now, later may work: node not connected, a limit reached, nobody
       answered the approval
   77  not allowed: by the daemon, by the policy of the node, or denied by an
       approver; or it is not known who answers, or SSH does not let you in
       (see "hanzoctl help remote")
  124  no answer or no end in time
  130  interrupted

"hanzoctl nodes run" ends with the exit code of the command on the node, and
otherwise with one of the codes above, or

  127  the command did not start
128+n  the command was ended by signal n; 128 when the node does not say which;
       137 when somebody killed it with "hanzoctl nodes kill"

"hanzoctl attach HOST -- COMMAND" ends in the same way, with the command on this machine.

A command may use these codes itself: "-o json" tells them apart.`,
	}
}

// codeError is an error that brings its own exit code. An empty text prints nothing.
type codeError struct {
	code int
	text string
	err  error
	// final is a code that stands although this process was interrupted.
	final bool
}

func (e *codeError) Error() string {
	if e.err != nil {
		return e.err.Error()
	}
	return e.text
}

func (e *codeError) Unwrap() error { return e.err }

func usage(err error) error { return &codeError{code: exitUsage, err: err} }

func usagef(format string, args ...any) error { return usage(fmt.Errorf(format, args...)) }

var classCodes = map[client.Class]int{
	client.Internal:        exitFailed,
	client.Invalid:         exitUsage,
	client.NotFound:        exitNotFound,
	client.Exists:          exitConflict,
	client.Conflict:        exitConflict,
	client.Unauthenticated: exitDenied,
	client.Denied:          exitDenied,
	client.Exhausted:       exitLater,
	client.Unavailable:     exitLater,
	client.Deadline:        exitDeadline,
	client.Unknown:         exitUnknown,
}

// unreached are the codes of errors that say that no daemon could be reached, on the ways that have more to say
// about it than client.NotRunning.
var unreached = []string{
	client.CodeLost, ssh.CodeUnreachable, ssh.CodeNoDaemon, ssh.CodeNoHanzod, ssh.CodeRefused, ssh.CodeProgram, ssh.CodeClosed,
	tailnet.CodeNoService, tailnet.CodeNoPeer, tailnet.CodeOther,
}

// exitCode is the exit code for an error.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*codeError](err); ok {
		return e.code
	}
	if _, ok := errors.AsType[*client.NotRunning](err); ok {
		return exitNoDaemon
	}
	if e, ok := errors.AsType[*client.Error](err); ok {
		if slices.Contains(unreached, e.Code) {
			return exitNoDaemon
		}
		return classCodes[e.Class]
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return exitDeadline
	}
	return exitFailed
}

// hints say what to do next, by error code; an entry that ends in a dot stands for all codes that
// begin so.
var hints = map[string]string{
	client.CodeNodeUnknown:     "see the nodes with: hanzoctl nodes list",
	client.CodeNodeAmbiguous:   "name it by its id: hanzoctl nodes list",
	client.CodeNodeRequired:    "see the nodes with: hanzoctl nodes list",
	client.CodeLost:            "see whether the daemon runs with: hanzoctl health",
	"nodes.not_connected":      "see the nodes with: hanzoctl nodes list; wait for this one with --wait",
	"nodes.not_declared":       "see its commands with: hanzoctl nodes describe NODE",
	"nodes.timeout":            "give it longer with --timeout",
	client.CodeTimeout:         "give it longer with --timeout",
	client.CodeWrongPin:        `compare with "hanzod tls fingerprint" on that machine, over a way that you trust, and pin the new one only if it is the same`,
	client.CodeUnknownDaemon:   `compare with "hanzod tls fingerprint" on that machine, over a way that you trust. On a terminal it is asked about, and kept; elsewhere, if it is the same, repeat with --tls-fingerprint`,
	"identity.bearer":          `see the token that it takes with "hanzoctl token" on that machine`,
	"system.local_only":        "run it on the machine of the daemon",
	client.CodeDeviceUnknown:   "see the devices with: hanzoctl devices",
	client.CodePairingUnknown:  "see what waits with: hanzoctl devices",
	client.CodeWaitingUnknown:  "see what waits with: hanzoctl nodes pending",
	"nodes.request_unknown":    "see what waits with: hanzoctl nodes pending",
	"nodes.too_many_held":      "try it again later",
	"identity.unknown_request": "see what waits with: hanzoctl devices",
	"identity.unknown_device":  "see the devices with: hanzoctl devices",
	"identity.unknown_token":   "see roles and scopes with: hanzoctl devices",
	"identity.beyond_caller":   "ask somebody who holds it, or an admin",
	"runs.unknown":             "see the runs with: hanzoctl nodes runs",
	"runs.ended":               "see how with: hanzoctl nodes run --resume RUN",
	"runs.too_many":            "see them with: hanzoctl nodes runs --live; end one with: hanzoctl nodes kill RUN",
	"runs.too_many_of_caller":  "see them with: hanzoctl nodes runs --live; end one with: hanzoctl nodes kill RUN",
	"approvals.unknown":        "see what is pending with: hanzoctl approve",
	"approvals.gone":           "see what is pending with: hanzoctl approve",
	"approvals.grant_unknown":  "see the grants with: hanzoctl grants list --all",
	"approvals.audit_unknown":  "see the rows with: hanzoctl audit list",
	"approvals.audit_mark":     "see the mark of the newest row with: hanzoctl audit head",
	"approvals.file_changed":   "read it again with: hanzoctl approvals get",
}

// report prints an error and returns the exit code.
func (a *app) report(ctx context.Context, err error) int {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*codeError](err); ok && e.final {
		if e.text != "" {
			fmt.Fprintln(a.stderr, "hanzoctl: "+Text(e.text))
		}
		return e.code
	}
	if ctx.Err() != nil {
		if e, ok := errors.AsType[*codeError](err); ok && e.text != "" {
			fmt.Fprintln(a.stderr, "hanzoctl: "+Text(e.text))
		}
		return exitInt
	}
	e, ours := errors.AsType[*client.Error](err)
	if text := err.Error(); text != "" {
		show := Text
		if ours && e.Code == "policy.rules" {
			show = Lines // a fault a line, with what the file holds in quotes
		}
		fmt.Fprintln(a.stderr, "hanzoctl: "+a.at(err, text)+show(text))
	}
	code := exitCode(err)
	if ours && e.Code == client.CodeWrongPin && a.to != nil && !a.to.knownSince.IsZero() {
		fmt.Fprintf(a.stderr, `THE DAEMON THERE HAS ANOTHER CERTIFICATE than the one that was trusted on %s.
Either it got a new one, or somebody else answers in its place. Compare with "hanzod tls
fingerprint" on that machine, over a way that you trust. Only if it is the same as the one
presented: hanzoctl context untrust %s
`, a.to.knownSince.Local().Format("2 January 2006"), Quote([]string{strings.TrimPrefix(a.to.Address, kindTLS+"://")}))
	} else if ours && hints[e.Code] != "" {
		fmt.Fprintln(a.stderr, hints[e.Code])
	} else if code == exitUsage && !a.running {
		fmt.Fprintln(a.stderr, `see "`+a.helpFor()+`"`)
	}
	return code
}

// at names a daemon on another machine, or a context, in front of an error that came of asking it, where the
// text does not do so itself.
func (a *app) at(err error, text string) string {
	t := a.to
	if t == nil || t.local() || t.Kind == kindSocket && t.Name == "" && t.Attached == "" || exitCode(err) == exitUsage && !a.said {
		return ""
	}
	for _, s := range []string{t.Name, t.Attached, strings.TrimPrefix(t.Address, kindTLS+"://")} {
		if s != "" && strings.Contains(text, s) {
			return ""
		}
	}
	return Text(t.String()) + ": "
}

// helpFor is the help command for the words that were typed, as far as they are commands.
func (a *app) helpFor() string {
	cmd, _, err := a.root().Find(a.args)
	if err != nil {
		return "hanzoctl --help"
	}
	return cmd.CommandPath() + " --help"
}
