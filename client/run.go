package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/errs"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
)

// RunIn is the argument of RunCommand.
type RunIn struct {
	// Node is a node as MatchNode takes it.
	Node string
	Argv []string
	// Cwd, Env and AgentID are left to the node when empty.
	Cwd     string
	Env     map[string]string
	AgentID string
	// Timeout is the limit of the command on the node; zero is none.
	Timeout time.Duration
	// ApprovalTimeout is how long the question stands, 120 s when zero.
	ApprovalTimeout time.Duration
	// WaitForNode is how long to wait for a node that is not connected; zero is not at all.
	WaitForNode time.Duration
}

// RunOut is the result of RunCommand.
type RunOut struct {
	NodeID   string
	NodeName string
	// ApprovalID is empty when the node ran the command without asking.
	ApprovalID string
	// ExitCode is nil when the command did not exit by itself: it was ended by a signal, reached
	// its limit or did not start.
	ExitCode *int
	// Signal is the name or number of the signal that ended it, when the node says.
	Signal         string
	Stdout, Stderr string
	TimedOut       bool
	// Failure is why the command did not start or was not carried out; empty when it was.
	Failure string
}

// StepKind says where a run stands.
type StepKind uint8

// The steps of a run. Waiting and Decided carry the approval.
const (
	StepNode         StepKind = iota // the node is found
	StepWaiting                      // the question is asked
	StepDecided                      // it is allowed
	StepReconnecting                 // the daemon went away; the flow goes on when it is back
	StepAway                         // the node is not connected, or not known yet; it is waited for
)

// Step is progress of a run.
type Step struct {
	Kind             StepKind
	NodeID, NodeName string
	Approval         *approvalsv1.Approval
}

// RunCommand runs a command on a node and waits for its end (nodes-approvals.md §6.2). A command
// that the node's policy allows runs at once. For any other the node is asked what it would run,
// an approval is requested for exactly that, and the command runs when it is allowed. The flow
// outlives a restart of the daemon while it waits.
//
// Every call has an idempotency key that a repetition reuses, and the run itself is repeated only
// when it surely never left: a command never runs twice. When the connection is lost during the
// run, the error has the class errs.Unknown. progress may be nil; it is called from this goroutine.
func (c *Client) RunCommand(ctx context.Context, in RunIn, progress func(Step)) (RunOut, error) {
	if len(in.Argv) == 0 || in.Argv[0] == "" {
		return RunOut{}, &Error{Class: errs.Invalid, Message: "command required"}
	}
	if progress == nil {
		progress = func(Step) {}
	}
	node, err := c.AwaitNode(ctx, in.Node, in.WaitForNode, func() { progress(Step{Kind: StepAway, NodeName: in.Node}) })
	if err != nil {
		return RunOut{}, err
	}
	r := &run{c: c, in: in, node: node, progress: progress}
	r.step(StepNode, nil)
	if in.WaitForNode > 0 && !node.GetConnected() {
		r.step(StepAway, nil)
	}
	out := RunOut{NodeID: node.GetNodeId(), NodeName: node.GetDisplayName()}

	payload, err := r.invoke(ctx, "system.run", r.params(in.Argv), r.runTimeout(), false)
	if needsApproval(err) {
		var p plan
		var a *approvalsv1.Approval
		if p, err = r.prepare(ctx); err != nil {
			return out, err
		}
		if a, err = r.approve(ctx, p); a != nil {
			out.ApprovalID = a.GetId()
		}
		if err != nil {
			return out, err
		}
		payload, err = r.invoke(ctx, "system.run", r.approvedParams(p, a), r.runTimeout(), false)
	}
	if err != nil {
		return out, err
	}
	return out, parseResult(payload, &out)
}

// run is one RunCommand under way.
type run struct {
	c        *Client
	in       RunIn
	node     *nodesv1.Node
	progress func(Step)
	// lost says that the daemon went away once, so that the node may be away too.
	lost bool
}

func (r *run) step(kind StepKind, a *approvalsv1.Approval) {
	r.progress(Step{Kind: kind, NodeID: r.node.GetNodeId(), NodeName: r.node.GetDisplayName(), Approval: a})
}

func (r *run) runTimeout() time.Duration {
	if r.in.Timeout <= 0 {
		return 0
	}
	return r.in.Timeout + invokeGrace
}

func (r *run) params(argv []string) map[string]any {
	p := map[string]any{"command": list(argv)}
	if r.in.Cwd != "" {
		p["cwd"] = r.in.Cwd
	}
	if len(r.in.Env) > 0 {
		env := make(map[string]any, len(r.in.Env))
		for k, v := range r.in.Env {
			env[k] = v
		}
		p["env"] = env
	}
	if r.in.AgentID != "" {
		p["agentId"] = r.in.AgentID
	}
	if r.in.Timeout > 0 {
		p["timeoutMs"] = float64(max(r.in.Timeout.Milliseconds(), 1))
	}
	return p
}

func (r *run) approvedParams(p plan, a *approvalsv1.Approval) map[string]any {
	params := r.params(p.Argv)
	for key, v := range map[string]*string{"rawCommand": p.RawCommand, "cwd": p.Cwd, "agentId": p.AgentID, "sessionKey": p.SessionKey} {
		delete(params, key)
		if v != nil {
			params[key] = *v
		}
	}
	params["runId"] = a.GetId()
	params["approved"] = true
	params["approvalDecision"] = "allow-once"
	if a.GetDecision() == approvalsv1.Decision_DECISION_ALLOW_ALWAYS {
		params["approvalDecision"] = "allow-always"
	}
	return params
}

// plan is a node's answer to system.run.prepare.
type plan struct {
	Argv       []string `json:"argv"`
	Cwd        *string  `json:"cwd"`
	RawCommand *string  `json:"rawCommand"`
	AgentID    *string  `json:"agentId"`
	SessionKey *string  `json:"sessionKey"`
	text       string
}

func (r *run) prepare(ctx context.Context) (plan, error) {
	params := r.params(r.in.Argv)
	delete(params, "env")
	delete(params, "timeoutMs")
	payload, err := r.invoke(ctx, "system.run.prepare", params, prepareTimeout, true)
	if err != nil {
		return plan{}, err
	}
	var answer struct {
		CmdText string `json:"cmdText"`
		Plan    plan   `json:"plan"`
	}
	if json.Unmarshal(payload, &answer) != nil || len(answer.Plan.Argv) == 0 {
		return plan{}, badAnswer("system.run.prepare")
	}
	answer.Plan.text = answer.CmdText
	if answer.Plan.RawCommand != nil {
		answer.Plan.text = *answer.Plan.RawCommand
	}
	return answer.Plan, nil
}

// approve asks and waits. It returns the approval with its error, once there is one.
func (r *run) approve(ctx context.Context, p plan) (*approvalsv1.Approval, error) {
	timeout := r.in.ApprovalTimeout
	if timeout <= 0 {
		timeout = approvalTimeout
	}
	req := &approvalsv1.RequestApprovalRequest{
		Id: newID(), Command: p.text, CommandArgv: p.Argv,
		Plan: &approvalsv1.Plan{Argv: p.Argv, Cwd: p.Cwd, RawCommand: p.RawCommand, AgentId: p.AgentID, SessionKey: p.SessionKey},
		Env:  r.in.Env, Cwd: p.Cwd, AgentId: p.AgentID, SessionKey: p.SessionKey,
		NodeId: new(r.node.GetNodeId()), Host: new("node"), Timeout: durationpb.New(timeout),
	}
	if absolute(p.Argv[0]) {
		req.ResolvedPath = &p.Argv[0]
	}
	var a *approvalsv1.Approval
	tries := 0
	err := r.again(ctx, reconnectFor, true, func() error {
		tries++
		out, err := r.c.Approvals.RequestApproval(ctx, req)
		if tries > 1 && classOf(err) == errs.Exists {
			// The first try arrived although its answer did not.
			got, err := r.c.Approvals.GetApproval(ctx, &approvalsv1.GetApprovalRequest{Id: req.GetId()})
			a = got.GetApproval()
			return err
		}
		a = out.GetApproval()
		return err
	})
	if err != nil {
		return nil, err
	}
	if a.GetId() == "" {
		return nil, badAnswer("RequestApproval")
	}
	r.step(StepWaiting, a)
	id := a.GetId()
	err = r.again(ctx, timeout+waitGrace, true, func() error {
		out, err := r.c.Approvals.WaitApproval(ctx, &approvalsv1.WaitApprovalRequest{Id: id})
		if classOf(err) == errs.NotFound {
			// It ended while the daemon was away; the record says how.
			got, err := r.c.Approvals.GetApproval(ctx, &approvalsv1.GetApprovalRequest{Id: id})
			if err == nil {
				a = got.GetApproval()
			}
			return err
		}
		if err == nil {
			a = out.GetApproval()
		}
		return err
	})
	if err != nil {
		return a, err
	}
	switch a.GetDecision() {
	case approvalsv1.Decision_DECISION_ALLOW_ONCE, approvalsv1.Decision_DECISION_ALLOW_ALWAYS:
		r.step(StepDecided, a)
		return a, nil
	case approvalsv1.Decision_DECISION_DENY:
		by := ""
		if a.GetResolvedBy() != "" {
			by = " by " + a.GetResolvedBy()
		}
		return a, &Error{Code: CodeApprovalDenied, Class: errs.Denied, Message: fmt.Sprintf("the run was denied%s (approval %s)", by, id)}
	default:
		return a, &Error{Code: CodeApprovalExpired, Class: errs.Unavailable,
			Message: fmt.Sprintf("nobody answered in time (approval %s); run it again and have an approver at hand", id)}
	}
}

// invoke runs one command on the node and returns its answer as JSON text. A repeatable command
// has no effect of its own, so that it may be sent again when the answer was lost.
func (r *run) invoke(ctx context.Context, command string, params map[string]any, timeout time.Duration, repeatable bool) ([]byte, error) {
	value, err := structpb.NewValue(params)
	if err != nil {
		return nil, &Error{Class: errs.Invalid, Message: "the command, its directory and its environment must be valid UTF-8", Err: err}
	}
	req := &nodesv1.InvokeRequest{NodeId: r.node.GetNodeId(), Command: command, Params: value,
		Timeout: durationpb.New(timeout), IdempotencyKey: newID()}
	if r.in.WaitForNode > 0 {
		req.WaitForNode = durationpb.New(r.in.WaitForNode)
	}
	var payload []byte
	err = r.again(ctx, reconnectFor, repeatable, func() error {
		out, err := r.c.Nodes.Invoke(ctx, req)
		if err != nil {
			return err
		}
		payload, err = Payload(out)
		return err
	})
	if code(err) == CodeLost && !repeatable {
		return nil, &Error{Code: CodeOutcomeUnknown, Class: errs.Unknown, Err: err,
			Message: "the connection to the daemon was lost while the command ran; it may have run: look before you repeat it"}
	}
	return payload, err
}

// again makes a call until it succeeds, fails for good or patience ends. It repeats a call that
// was not sent; one whose answer was lost only when it is repeatable; and, after the daemon came
// back, one that found the node not connected yet.
func (r *run) again(ctx context.Context, patience time.Duration, repeatable bool, call func() error) error {
	deadline := time.Now().Add(patience)
	pause := redialFirst
	for {
		err := call()
		switch {
		case err == nil:
			return nil
		case isNotRunning(err), repeatable && code(err) == CodeLost:
			if !r.lost {
				r.lost = true
				r.step(StepReconnecting, nil)
			}
		case r.lost && code(err) == "nodes.not_connected":
		default:
			return err
		}
		if time.Now().Add(pause).After(deadline) {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
		pause = min(2*pause, redialMax)
	}
}

// needsApproval reports whether a node refused a run that an approval would allow (nodes-approvals.md §4.3).
func needsApproval(err error) bool {
	return says(err, "SYSTEM_RUN_DENIED: approval required", "SYSTEM_RUN_DENIED: allowlist miss")
}

// RefusedByNode reports whether a node's own policy refused a run (nodes-approvals.md §4.3).
func RefusedByNode(err error) bool { return says(err, "SYSTEM_RUN_DENIED: ", "SYSTEM_RUN_DISABLED: ") }

// says reports whether an answer of the daemon holds one of some texts, which may be a node's.
func says(err error, texts ...string) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return false
	}
	in := append(slices.Collect(maps.Values(e.Fields)), e.Message)
	return slices.ContainsFunc(in, func(said string) bool {
		return slices.ContainsFunc(texts, func(t string) bool { return strings.Contains(said, t) })
	})
}

// Payload is a node's answer as JSON text: the text it sent, else its value; "null" for none.
func Payload(out *nodesv1.InvokeResponse) ([]byte, error) {
	if out.PayloadJson != nil && json.Valid([]byte(out.GetPayloadJson())) {
		return []byte(out.GetPayloadJson()), nil
	}
	if out.GetPayload() == nil {
		return []byte("null"), nil
	}
	return protojson.Marshal(out.GetPayload())
}

func parseResult(payload []byte, out *RunOut) error {
	var res struct {
		ExitCode *float64        `json:"exitCode"`
		Signal   json.RawMessage `json:"signal"`
		TimedOut bool            `json:"timedOut"`
		Success  *bool           `json:"success"`
		Stdout   string          `json:"stdout"`
		Stderr   string          `json:"stderr"`
		Error    *string         `json:"error"`
	}
	if err := json.Unmarshal(payload, &res); err != nil || (res.ExitCode == nil && res.Success == nil) {
		return badAnswer("system.run")
	}
	out.Stdout, out.Stderr, out.TimedOut = res.Stdout, res.Stderr, res.TimedOut
	if res.ExitCode != nil {
		out.ExitCode = new(int(*res.ExitCode))
	}
	if res.Error != nil {
		out.Failure = *res.Error
	}
	if s := strings.Trim(string(res.Signal), `"`); s != "null" {
		out.Signal = s
	}
	return nil
}

func badAnswer(what string) error {
	return &Error{Code: CodeBadAnswer, Class: errs.Unavailable, Message: "the answer to " + what + " is not understood"}
}

func isNotRunning(err error) bool {
	_, ok := errors.AsType[*NotRunning](err)
	return ok
}

func classOf(err error) errs.Class {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	return errs.Internal
}

// absolute reports whether a path is absolute on any system: the node's need not be ours.
func absolute(p string) bool {
	return strings.HasPrefix(p, "/") || strings.HasPrefix(p, `\\`) ||
		(len(p) > 2 && p[1] == ':' && (p[2] == '\\' || p[2] == '/'))
}

func list(argv []string) []any {
	out := make([]any, len(argv))
	for i, a := range argv {
		out[i] = a
	}
	return out
}

// newID is a random UUID (version 4).
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
