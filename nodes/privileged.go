package nodes

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// maxSessions bounds the terminals of a node whose opener is remembered; of more, the oldest is forgotten, and
// its opener then needs what everybody else does.
const maxSessions = 256

// terminals remembers who opened which terminal on a node, by a call that was let through: who did may type
// into it (tunnel.md §5.4). It ends with the link.
type terminals struct {
	mu    sync.Mutex
	owner map[string]string // subject by session
	order []string
}

func (t *terminals) opened(answer []byte, by string) {
	id := sessionOf(answer)
	if id == "" || len(id) > maxSessionKey {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.owner[id]; known {
		return // a node that names a session twice gives it to nobody else
	}
	if t.owner == nil {
		t.owner = map[string]string{}
	}
	if len(t.order) >= maxSessions {
		delete(t.owner, t.order[0])
		t.order = slices.Delete(t.order, 0, 1)
	}
	t.owner[id] = by
	t.order = append(t.order, id)
}

func (t *terminals) owns(params []byte, by string) bool {
	id := sessionOf(params)
	t.mu.Lock()
	defer t.mu.Unlock()
	owner, ok := t.owner[id]
	return ok && owner == by
}

// sessionOf is the session that the params or the answer of a terminal command name, "" for none and for
// what names it in two ways.
func sessionOf(text []byte) (id string) {
	var all map[string]json.RawMessage
	if json.Unmarshal(text, &all) != nil {
		return ""
	}
	n := 0
	for k, raw := range all {
		if strings.EqualFold(k, "session_id") {
			n++
			if k != "session_id" || json.Unmarshal(raw, &id) != nil {
				return ""
			}
		}
	}
	if n != 1 {
		return ""
	}
	return id
}

// follows reports whether a command is for a terminal that the caller opened.
func follows(e *entry, c identity.Caller, in InvokeIn) bool {
	if !strings.HasPrefix(in.Command, "terminal.") || in.Command == "terminal.open" {
		return false
	}
	return e.own.terminals.owns(in.Params, c.Subject())
}

// lineRun reports whether a system.run is of the kind that linked machines take, a line for a shell
// (tunnel.md §1.6), and not of the gateway protocol, whose command is an array.
func lineRun(n Node, in InvokeIn) bool {
	if in.Command != "system.run" || n.Link != LinkTunnel && n.Link != LinkGRPC {
		return false
	}
	var all map[string]json.RawMessage
	if json.Unmarshal(in.Params, &all) != nil {
		return false
	}
	raw := bytes.TrimSpace(all["command"])
	return all["cmd"] != nil || len(raw) > 0 && raw[0] != '['
}

// RunsLines reports whether a node runs lines for a shell instead of what the gateway protocol calls
// system.run, and by which command: linked machines that are no hanzod (tunnel.md §1.7).
func (s *Service) RunsLines(c identity.Caller, nodeID string) (command string, ok bool) {
	e, ok := s.reg.get(s.Resolve(c, trim(nodeID)))
	if !ok || !c.SeesNode(e.node.ID) || e.node.Link != LinkTunnel || slices.Contains(e.node.Caps, bindingCap) {
		return "", false
	}
	for _, command := range []string{"system.run", "exec.run"} {
		if slices.Contains(e.node.Commands, command) {
			return command, true
		}
	}
	return "", false
}

// MayWait reports whether Start waits for the disk before it returns: what a guard has to record.
func MayWait(command string) bool {
	command = trim(command)
	if command == "system.run" {
		return true
	}
	for _, list := range defaults {
		if slices.Contains(list, command) {
			return false
		}
	}
	return !reading[command]
}

// guarded asks the guard about a call, if it is one that takes its word. It returns the params to send, and
// what hears how the call ended, nil when nobody was asked.
func (s *Service) guarded(ctx context.Context, c identity.Caller, e *entry, g grade, in InvokeIn) ([]byte, func(bool, []byte, error), error) {
	switch {
	case in.Command == "system.run" && !lineRun(e.node, in):
		return s.guard.GuardRun(ctx, c, in.NodeID, in.Params)
	case in.Command == "system.run":
		g = privileged
		if s.policy.Load().added(in.Command) {
			g = recorded
		}
	case g == open, follows(e, c, in):
		return in.Params, nil, nil
	}
	knows := slices.Contains(e.node.Caps, bindingCap)
	return s.guard.GuardCall(ctx, c, in.NodeID, in.Command, in.Params, g == recorded, knows)
}

// Ask is Invoke for who may have to ask: a call that takes an approval is asked for, and made once somebody
// has allowed it. Asked hears of the question at most once.
func (s *Service) Ask(ctx context.Context, c identity.Caller, in AskIn, asked func(Question) error) (InvokeOut, error) {
	out, err := s.Invoke(ctx, c, in.Invoke)
	if e, ok := errs.As(err); !ok || e.Field(FieldAsk) == "" {
		return out, err
	}
	call := in.Invoke
	err = s.guard.AskCall(ctx, c, s.Resolve(c, trim(call.NodeID)), trim(call.Command), call.Params, in.ApprovalTimeout,
		func(approvalID string, argv []string, cwd string, envKeys []string, expires time.Time) error {
			return asked(Question{approvalID, argv, cwd, envKeys, expires})
		})
	if err != nil {
		return InvokeOut{}, err
	}
	return s.Invoke(ctx, c, call)
}

// Admit decides on a call as Invoke does, where the call reaches its node by other messages than those of commands; the node
// need not have declared it. When err is nil, ended has to be told once how it went.
//
// Errors: ErrNotConnected, ErrNotAllowed, and those of the guard.
func (s *Service) Admit(ctx context.Context, c identity.Caller, in InvokeIn) (ended func(error), err error) {
	in.NodeID, in.Command = s.Resolve(c, trim(in.NodeID)), trim(in.Command)
	e, ok := s.reg.get(in.NodeID)
	if !ok || !c.SeesNode(in.NodeID) {
		return nil, ErrNotConnected.With("node", in.NodeID)
	}
	g := s.policy.Load().grade(e.node, in.Command)
	if g == never {
		return nil, ErrNotAllowed.With("command", in.Command, "platform", e.node.Platform)
	}
	_, told, err := s.guarded(ctx, c, e, g, in)
	if told == nil {
		told = func(bool, []byte, error) {}
	}
	if err != nil {
		told(false, nil, err)
		return nil, withCommand(err, in.Command)
	}
	return func(err error) { told(true, nil, err) }, nil
}
