package approvals

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// Call is what an approval of a privileged command covers: the command and its params, and no others.
type Call struct {
	Command string
	// Digest is the SHA-256 of command and params, in hex.
	Digest string
}

// CallIn is a privileged command that is asked for.
type CallIn struct {
	Command string
	// Params is a JSON object, nil for none.
	Params []byte
}

// The marks of an approved call are the gateway's to set (nodes-approvals.md §2.3): what a caller sends under
// these names, in whatever case, goes nowhere.
var marks = []string{"approved", "approvalDecision"}

// call is a privileged command on its way.
type call struct {
	command string
	// params are the members in the order in which they came, without marks; each value is written in one way.
	params []member
	digest string
	// argv names the call in questions, grants and the log: the command, and what it would run, or its
	// params. Inner is what it would run alone, nil for a command that runs nothing of the caller's.
	argv, inner []string
	cwd         *string
	env         map[string]string
}

type member struct {
	name  string
	value json.RawMessage
}

// readCall reads the params of a call. What could be read in two ways is refused.
func readCall(command string, params []byte) (call, error) {
	c := call{command: command}
	if text := bytes.TrimSpace(params); len(text) > 0 && string(text) != "null" {
		var err error
		if c.params, err = members(text); err != nil {
			return c, ErrCallParams.Wrap(err)
		}
	}
	c.params = slices.DeleteFunc(c.params, func(m member) bool {
		return slices.ContainsFunc(marks, func(mark string) bool { return strings.EqualFold(mark, m.name) })
	})
	// How long it may take is none of what is approved.
	sorted := slices.DeleteFunc(slices.Clone(c.params), func(m member) bool {
		return m.name == "timeout_ms" && (command == "system.run" || command == "exec.run") ||
			m.name == "window" && command == "terminal.open" || // how much output the gateway takes at once; it puts that in
			(m.name == "id" || m.name == "carrier") && command == "tunnel.open" || // its names for the target and for the carrier, likewise; the latter is a secret
			(m.name == "session_id" || m.name == "owner") && command == "tech.open" // likewise; who asks is bound anyway
	})
	slices.SortFunc(sorted, func(a, b member) int { return strings.Compare(a.name, b.name) })
	sum := sha256.New()
	for _, part := range [][]byte{[]byte("call 1\x00"), []byte(command), {0}, writeMembers(sorted)} {
		_, _ = sum.Write(part) // never fails
	}
	c.digest = hex.EncodeToString(sum.Sum(nil))
	return c, c.read(sorted)
}

// read finds out what the call would run.
func (c *call) read(sorted []member) error {
	if cwd, ok := c.str("cwd"); ok && cwd != "" {
		c.cwd = &cwd
	}
	if raw := c.member("env"); raw != nil {
		if json.Unmarshal(raw, &c.env) != nil {
			c.env = nil // it is shown as any other value then
		}
	}
	switch c.command {
	case "exec.run":
		if line, ok := c.str("command"); ok {
			c.inner = []string{"/bin/sh", "-c", line}
		}
	case "terminal.open":
		if err := c.readTerminal(); err != nil {
			return err
		}
	case "system.run":
		if c.member("cmd") != nil && c.member("command") != nil {
			return ErrCallParams.WithText("the params name both cmd and command; give one")
		}
		for _, name := range []string{"cmd", "command"} {
			if line, ok := c.str(name); ok {
				c.inner = []string{"sh", "-c", line}
			} else if words := policy.Argv(c.member(name)); len(words) > 0 {
				c.inner = words
			}
		}
	}
	c.argv = []string{c.command}
	if c.inner != nil {
		c.argv = append(c.argv, c.inner...)
	}
	var shown []member
	for _, m := range sorted {
		switch {
		case m.name == "cwd" && c.cwd != nil, m.name == "env" && c.env != nil, // shown in their own places
			c.inner != nil && (m.name == "cmd" || m.name == "command" || c.command == "terminal.open" && (m.name == "argv" || m.name == "shell")):
		default:
			shown = append(shown, m)
		}
	}
	if len(shown) > 0 {
		c.argv = append(c.argv, string(writeMembers(shown)))
	}
	return nil
}

// readTerminal finds out what terminal.open would run: cmd or argv, a list or a line for the shell, else shell,
// else the shell of the node's user, which nobody knows here.
func (c *call) readTerminal() error {
	shell, _ := c.str("shell")
	if shell != "" {
		c.inner = []string{shell}
	}
	given := 0
	for _, name := range []string{"cmd", "argv"} {
		raw := c.member(name)
		if len(raw) == 0 || string(raw) == "null" || string(raw) == "[]" {
			continue
		}
		if given++; given > 1 {
			return ErrCallParams.WithText("the params name both cmd and argv; give one")
		}
		if line, ok := c.str(name); ok {
			c.inner = []string{cmp.Or(shell, "sh"), "-c", line}
		} else if words := policy.Argv(raw); len(words) > 0 {
			c.inner = words
		}
	}
	return nil
}

func (c *call) member(name string) json.RawMessage {
	for _, m := range c.params {
		if m.name == name {
			return m.value
		}
	}
	return nil
}

func (c *call) str(name string) (string, bool) {
	raw := c.member(name)
	var s string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", false
	}
	return s, true
}

// send writes the params for the node; approved puts the mark in.
func (c *call) send(approved bool) []byte {
	out := c.params
	if approved {
		out = append(slices.Clip(out), member{"approved", json.RawMessage("true")})
	}
	return writeMembers(out)
}

// writeMembers writes members as an object.
func writeMembers(all []member) []byte {
	out := []byte{'{'}
	for i, m := range all {
		if i > 0 {
			out = append(out, ',')
		}
		name, _ := plainJSON(m.name) // text always marshals
		out = append(append(append(out, name...), ':'), m.value...)
	}
	return append(out, '}')
}

func plainJSON(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimRight(buf.Bytes(), "\n"), err
}

// members reads an object. Names that differ in case alone are one to some readers and two to others.
func members(text []byte) ([]member, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("they are no object")
	}
	var out []member
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string)
		var v any
		if err := d.Decode(&v); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(m member) bool { return strings.EqualFold(m.name, name) }) {
			return nil, errors.New("a member is there twice")
		}
		value, err := plainJSON(v) // members of members sorted, the last of two of a name
		if err != nil {
			return nil, err
		}
		out = append(out, member{name, value})
		if len(out) > maxCallMembers {
			return nil, errors.New("they are too many")
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows them")
	}
	return out, nil
}

// maxCallMembers bounds the params of a privileged command.
const maxCallMembers = 256

// attempt is the call as grants know it; rules are asked by callRule.
func (c *call) attempt(nodeID string, by identity.Caller) attempt {
	t := attempt{argv: c.argv, text: policy.FormatArgv(c.argv), nodeID: nodeID, cwd: c.cwd, by: partyOf(by), tenant: by.Tenant}
	t.envHash, _ = policy.EnvHash(c.env)
	return t
}

// callRule asks the rules about a call: about the call itself, and about what it would run. A rule that
// forbids either forbids it; else what is said of what runs counts before what is said of the call.
func (s *Service) callRule(c call, t attempt) policy.Ruling {
	r := s.rule(t)
	if c.inner == nil || r.Effect == policy.EffectDeny {
		return r
	}
	t.argv, t.text, t.signed = c.inner, policy.FormatArgv(c.inner), false
	if inner := s.rule(t); inner.Effect != policy.Abstain {
		return inner
	}
	return r
}

// callDetail begins the detail of a row about a privileged command.
const callDetail = "command "

// callRow is the row of a privileged call. Params are in it by their digest; what runs is shown as for any
// run, without values of the environment.
func (s *Service) callRow(kind string, by identity.Caller, nodeID string, c call) Audit {
	row := Audit{At: s.now(), Kind: kind, Subject: by.Subject(), NodeID: nodeID, Command: c.command, BindingHash: c.digest, Cwd: text(c.cwd), Policy: s.policyHash()}
	row.Detail = callDetail + c.command
	if c.inner != nil {
		row.Argv, row.Command = c.inner, c.command+" "+policy.FormatArgv(c.inner)
	}
	return row
}

// GuardCall decides on a privileged command that is not a system.run of the gateway protocol
// (tunnel.md §2.3, §5.4): what a rule denies goes nowhere; else what the configuration allows goes as it
// is, for the node to decide; else an approval of exactly this call, a grant, a rule or the scope
// operator.admin lets it go as approved. It returns the params to send. Marks says that the node knows the
// mark of an approved call. A use is on disk before it returns; how the call ends is told to ended.
func (s *Service) GuardCall(ctx context.Context, by identity.Caller, nodeID, command string, params []byte, allowed, knows bool) (_ []byte, ended func(sent bool, answer []byte, err error), _ error) {
	c, err := readCall(command, params)
	if err != nil {
		return nil, nil, s.refusedCall(ctx, by, nodeID, c, policy.Ruling{}, err)
	}
	t := c.attempt(nodeID, by)
	r := s.callRule(c, t)
	use := s.callRow(AuditUse, by, nodeID, c)
	use.RunID = newRun()
	switch {
	case r.Effect == policy.EffectDeny:
		return nil, nil, s.refusedCall(ctx, by, nodeID, c, r, deniedBy(r))
	case allowed && r.Effect != policy.EffectAsk:
		use.Rule = "gateway.nodes.allowCommands"
		return s.letCall(ctx, c, use, false)
	}
	for _, id := range s.callApprovals(by, nodeID, c) {
		switch a, err := s.useCall(ctx, by, nodeID, c, id, &use); {
		case err == nil:
			s.update(a)
			return c.send(knows), s.begun(use), nil
		case !errors.Is(err, errNoChange):
			return nil, nil, err
		}
	}
	for _, g := range s.covering(&t, r) {
		if g.Files != nil {
			continue // it covers files that nobody asks for here
		}
		switch err := s.useGrant(ctx, g, r, &use); {
		case err == nil:
			return c.send(knows), s.begun(use), nil
		case !errors.Is(err, errGrantGone):
			return nil, nil, err
		}
	}
	switch {
	case r.Effect == policy.EffectAllow && len(t.suspicious()) == 0:
		return s.letCall(ctx, c, authority{ruling: r}.mark(use), knows)
	case r.Effect == policy.EffectAllow, r.Effect == policy.EffectAsk:
		return nil, nil, s.refusedCall(ctx, by, nodeID, c, r, byRule(ErrCallRequired, r))
	case by.Has(identity.ScopeAdmin):
		use.Rule = string(identity.ScopeAdmin)
		return s.letCall(ctx, c, use, knows)
	}
	return nil, nil, s.refusedCall(ctx, by, nodeID, c, r, ErrCallRequired)
}

// letCall records a use and lets the call go.
func (s *Service) letCall(ctx context.Context, c call, use Audit, mark bool) ([]byte, func(bool, []byte, error), error) {
	if err := s.store.AppendAudit(ctx, use); err != nil {
		return nil, nil, err
	}
	return c.send(mark), s.begun(use), nil
}

// callApprovals finds the approvals that could cover a call of the caller.
func (s *Service) callApprovals(by identity.Caller, nodeID string, c call) (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, l := range s.live {
		if coversCall(l.a, by, nodeID, c) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// coversCall reports whether an approval lets a call of the caller go, whatever the time.
func coversCall(a Approval, by identity.Caller, nodeID string, c call) bool {
	return a.State == Allowed && a.Binding != nil && a.Binding.Call != nil && text(a.NodeID) == nodeID &&
		a.Binding.Call.Command == c.command && a.Binding.Call.Digest == c.digest && partyOf(by).same(a.Requester.party()) &&
		(a.Requester.DeviceID == "" || a.Requester.DeviceID == by.DeviceID)
}

// useCall uses an approval. It fails with errNoChange when that does not cover the call any more.
func (s *Service) useCall(ctx context.Context, by identity.Caller, nodeID string, c call, id string, use *Audit) (a Approval, err error) {
	row := *use
	err = s.store.Transact(ctx, func(tx Tx) (err error) {
		if a, err = tx.Approval(id); err != nil {
			if errs.ClassOf(err) == errs.NotFound {
				return errNoChange
			}
			return err
		}
		if !coversCall(a, by, nodeID, c) || a.over(s.now()) {
			return errNoChange
		}
		if err := revoked(tx, a); err != nil {
			return errNoChange
		}
		a.Uses++
		a.LastUsedAt = s.now()
		if a.Decision == AllowOnce {
			a.State = Consumed
		}
		if err := tx.UpdateApproval(a); err != nil {
			return err
		}
		row.ApprovalID, row.Decision, row.Rule, row.Where = a.ID, a.Decision, a.Rule, a.Where
		return tx.Audit(row)
	})
	*use = row
	return a, err
}

// useGrant uses a grant. It fails with errGrantGone when that has ended.
func (s *Service) useGrant(ctx context.Context, g Grant, r policy.Ruling, use *Audit) error {
	row := authority{g.ID, r}.mark(*use)
	row.Decision = AllowOnce
	var used Grant
	err := s.store.Transact(ctx, func(tx Tx) (err error) {
		if used, err = s.take(tx, g.ID, s.now()); err != nil {
			return err
		}
		return tx.Audit(row)
	})
	if err != nil {
		return err
	}
	*use = row
	s.tellGrant(used)
	return nil
}

// refusedCall leaves a row for a call that did not go.
func (s *Service) refusedCall(ctx context.Context, by identity.Caller, nodeID string, c call, r policy.Ruling, err error) error {
	e, ok := errs.As(err)
	if !ok {
		return err
	}
	row := s.callRow(AuditRefusal, by, nodeID, c)
	row.Reason, row.Detail = e.Code, e.Text
	if failed := s.store.AppendAudit(ctx, authority{ruling: r}.mark(row)); failed != nil {
		return failed
	}
	if e.Code == ErrCallRequired.Code {
		return e.With("node", nodeID, "command", c.command, "ask", "call")
	}
	return e.With("node", nodeID, "command", c.command)
}

// AskCall records a question about a call that was refused, and waits for the answer. Asked hears of the
// question when nobody has answered it at once. It returns nil when the call was allowed.
func (s *Service) AskCall(ctx context.Context, by identity.Caller, nodeID, command string, params []byte, timeout time.Duration, asked func(approvalID string, argv []string, cwd string, envKeys []string, expires time.Time) error) error {
	a, err := s.Request(ctx, by, RequestIn{NodeID: &nodeID, Timeout: timeout, Call: &CallIn{Command: command, Params: params}})
	if err != nil {
		return err
	}
	if a.State == Pending {
		if err := asked(a.ID, a.CommandArgv, text(a.Cwd), a.EnvKeys, a.ExpiresAt); err != nil {
			return err
		}
		if a, err = s.Wait(ctx, by, a.ID); err != nil {
			return err
		}
	}
	switch a.State {
	case Allowed:
		return nil
	case Denied:
		return ErrCallDenied.With("id", a.ID).WithText("the call was denied by " + a.ResolvedBy)
	default:
		return ErrCallUnanswered.With("id", a.ID)
	}
}

// newCallApproval is newApproval of a question about a privileged command.
func (s *Service) newCallApproval(by identity.Caller, in RequestIn) (Approval, call, error) {
	node := trimmed(in.NodeID)
	switch {
	case node == nil:
		return Approval{}, call{}, ErrNodeRequired
	case strings.TrimSpace(in.Call.Command) == "":
		return Approval{}, call{}, ErrCommandRequired
	case len(in.Call.Params)+len(in.Call.Command) > maxCommandBytes:
		return Approval{}, call{}, ErrTooLarge
	case in.Plan != nil || in.Command != "" || len(in.CommandArgv) > 0 || len(in.Env) > 0 || in.Cwd != nil:
		return Approval{}, call{}, ErrCallOrRun
	}
	c, err := readCall(strings.TrimSpace(in.Call.Command), in.Call.Params)
	if err != nil {
		return Approval{}, call{}, err
	}
	host := "node"
	now := s.now()
	a := Approval{
		ID: in.ID, State: Pending, Command: policy.FormatArgv(c.argv), CommandArgv: c.argv, Cwd: c.cwd, NodeID: node, Host: &host,
		AgentID: in.AgentID, SessionKey: in.SessionKey, TurnSource: in.TurnSource,
		CreatedAt: now, ExpiresAt: now.Add(in.Timeout), Requester: requesterOf(by),
	}
	if a.ID == "" {
		a.ID = uuid.NewString()
	}
	hash, keys := policy.EnvHash(c.env)
	a.EnvKeys = keys
	a.Binding = &Binding{Argv: c.argv, Cwd: c.cwd, EnvHash: hash, Call: &Call{Command: c.command, Digest: c.digest}}
	a.Signs = Signs(a.Command, c.argv)
	if c.inner != nil {
		a.Signs = Signs(policy.FormatArgv(c.inner), c.inner)
	}
	return a, c, nil
}
