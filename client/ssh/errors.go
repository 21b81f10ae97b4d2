package ssh

import (
	"errors"
	"strings"
	"unicode"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/show"
)

// Codes of failures on the way to a daemon by SSH. Each has its step in the field "step", and says in its
// message what to do next.
const (
	CodeBadAddress  = "client.ssh_address"      // the address is not understood
	CodeConfig      = "client.ssh_config"       // the configuration of SSH does not hold
	CodeUnreachable = "client.ssh_unreachable"  // the machine does not answer, or does not speak SSH
	CodeUnknownHost = "client.ssh_host_unknown" // the key of the machine is not known
	CodeChangedHost = "client.ssh_host_changed" // the key of the machine is another one than before
	CodeRevokedHost = "client.ssh_host_revoked" // the key of the machine is marked as revoked
	CodeAuth        = "client.ssh_auth"         // the machine does not let the user in
	CodePrompt      = "client.ssh_prompt"       // somebody would have to be asked, and nobody can be
	CodeNoDaemon    = "client.ssh_no_daemon"    // no daemon of this account runs there
	CodeNoHanzod    = "client.ssh_no_hanzod"    // sockets are not forwarded, and hanzod is not installed there
	CodeForeign     = "client.ssh_foreign"      // the socket there belongs to somebody else
	CodeRefused     = "client.ssh_refused"      // the machine refuses to open a connection to the daemon
	CodeProgram     = "client.ssh_program"      // the user's ssh program failed, or is needed and not there
	CodeBusy        = "client.ssh_busy"         // too many connections at once
	CodeClosed      = "client.ssh_closed"       // the Host was closed
)

// Step is a part of the way to the daemon.
type Step string

// The steps, in their order.
const (
	StepConfig  Step = "config"       // read ssh_config
	StepConnect Step = "connect"      // reach the machine, through jump hosts
	StepHostKey Step = "host key"     // know the machine by its key
	StepAuth    Step = "authenticate" // prove who we are
	StepFind    Step = "find"         // find the daemon's socket there
	StepOpen    Step = "open"         // open it
)

// fail makes an error of a step.
func fail(step Step, code string, class client.Class, text string) *client.Error {
	return &client.Error{Code: code, Class: class, Message: "SSH, step " + string(step) + ": " + text,
		Fields: map[string]string{"step": string(step)}}
}

// with gives an error its cause.
func with(e *client.Error, err error) *client.Error {
	e.Err = err
	return e
}

// transient says whether the same may work a moment later.
func transient(err error) bool {
	e, ok := errors.AsType[*client.Error](err)
	return !ok || e.Class == client.Unavailable || e.Class == client.Deadline || e.Class == client.Exhausted
}

// plain makes a text that came from elsewhere fit for a terminal: no control characters, one line, bounded.
func plain(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case !show.Visible(r) || r == unicode.ReplacementChar:
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return strings.Join(strings.Fields(s), " ")
}
