package runtime

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/compat/companion"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/nodes/host"
)

// prompter asks the companion app of this machine, when one is running. Path and secret stand in the exec
// approvals file, where whoever may read them may allow anything anyway.
type prompter struct {
	file *policy.File
	wait time.Duration
}

// companionOf reads what the command line says of the companion app: "auto" (also when empty) asks it where
// one is running, "off" never, and a duration is how long its answer is waited for.
//
// It is on by default: the socket is only there when the user of this machine has started an app that
// makes it, it is used only where it belongs to that user alone, and whoever can make it can also write
// the exec approvals file. What the gateway's own rules refuse or ask never gets this far.
func companionOf(what string, file *policy.File) (host.Prompter, error) {
	p := prompter{file: file, wait: companion.Wait}
	switch what {
	case "", "auto":
		return p, nil
	case "off":
		return nil, nil
	}
	wait, err := time.ParseDuration(what)
	if err != nil || wait < time.Second || wait > companion.MaxWait {
		return nil, errs.New(errs.Invalid, fmt.Sprintf("companion must be auto, off or a duration from 1s to %s, not %q", companion.MaxWait, what))
	}
	p.wait = wait
	return p, nil
}

func (p prompter) Prompt(ctx context.Context, q host.Question) (string, error) {
	path, token, err := p.file.Companion()
	if err != nil {
		return "", err
	}
	effective, err := p.file.Effective(q.AgentID)
	if err != nil {
		return "", err
	}
	in := companion.Prompt{
		Command: q.Command, Cwd: q.Cwd, Host: "node", Security: string(effective.Security), Ask: string(effective.Ask),
		ResolvedPath: q.Program, SessionKey: q.SessionKey,
	}
	if q.AgentID != nil {
		in.AgentID = *q.AgentID
	}
	d, err := companion.Socket{Path: path, Token: token, Wait: p.wait}.Ask(ctx, in)
	if errors.Is(err, companion.ErrAbsent) || errors.Is(err, companion.ErrUnsupported) || ctx.Err() != nil {
		return "", nil // as where there is no such thing
	}
	return string(d), err
}

// nodeDecisions brings what people at nodes answered to the log.
type nodeDecisions struct{ d *Daemon }

func (n nodeDecisions) NodeDecided(ctx context.Context, c identity.Caller, d nodes.Decision) error {
	return n.d.approvals.NodeAnswered(ctx, c, approvals.NodeAnswer{
		NodeID: d.NodeID, NodeName: n.d.nodes.Name(d.NodeID), RunID: d.RunID, SessionKey: d.SessionKey, Command: d.Command,
		Decision: approvals.Decision(d.Decision), By: d.By,
	})
}
