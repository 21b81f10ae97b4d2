package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/errs"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	runsv1 "github.com/hanzoai/hanzod/gen/hanzo/runs/v1"
)

// RunIn is the argument of RunCommand and StartRun.
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
	// Output is as of FollowRun.
	Output func(Output)
}

// Output is something that a command wrote, or, with Missing, something that is left out here: the
// command is never slowed for who watches it.
type Output struct {
	Stderr  bool
	Data    []byte
	Missing int64 // bytes
}

// RunOut is the result of RunCommand and FollowRun.
type RunOut struct {
	RunID    string
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
	// OutputGone says that what it wrote is no longer kept.
	OutputGone bool
	TimedOut   bool
	// Failure is why the command did not start or was not carried out; empty when it was.
	Failure string
	// KilledBy is who ended it.
	KilledBy string
}

// StepKind says where a run stands.
type StepKind uint8

// The steps of a run. All but StepNode and StepAway carry the run.
const (
	StepNode         StepKind = iota // the node is found
	StepStarted                      // the daemon has the run: it goes on when its requester goes away
	StepWaiting                      // the question is asked
	StepDecided                      // it is allowed
	StepReconnecting                 // the daemon went away; the flow goes on when it is back
	StepAway                         // the node is not connected, or not known yet; it is waited for
)

// Step is progress of a run.
type Step struct {
	Kind             StepKind
	NodeID, NodeName string
	Run              *runsv1.Run
}

// RunCommand runs a command on a node and waits for its end (nodes-approvals.md §6.2): it is StartRun and
// FollowRun. progress may be nil; it and Output are called from this goroutine.
func (c *Client) RunCommand(ctx context.Context, in RunIn, progress func(Step)) (RunOut, error) {
	run, err := c.StartRun(ctx, in, progress)
	if err != nil {
		return RunOut{NodeID: run.GetNodeId(), NodeName: run.GetNodeName()}, err
	}
	return c.FollowRun(ctx, run.GetId(), progress, in.Output)
}

// StartRun begins a run and returns when the daemon has it on disk. From then on the daemon looks after
// it: a command that the node's policy allows runs at once, for any other the node is asked what it would
// run and an approval is requested for exactly that. It never runs twice. With an error, the run says
// which node was meant, when that is known, and has its id when it may have begun all the same.
func (c *Client) StartRun(ctx context.Context, in RunIn, progress func(Step)) (*runsv1.Run, error) {
	if len(in.Argv) == 0 || in.Argv[0] == "" {
		return nil, &Error{Class: errs.Invalid, Message: "command required"}
	}
	if !valid8(in) {
		return nil, &Error{Class: errs.Invalid, Message: "the command, its directory and its environment must be valid UTF-8"}
	}
	if progress == nil {
		progress = func(Step) {}
	}
	node, err := c.AwaitNode(ctx, in.Node, in.WaitForNode, func() { progress(Step{Kind: StepAway, NodeName: in.Node}) })
	if err != nil {
		return nil, err
	}
	f := &following{c: c, progress: progress, run: &runsv1.Run{NodeId: node.GetNodeId(), NodeName: node.GetDisplayName()}}
	f.step(StepNode)
	if in.WaitForNode > 0 && !node.GetConnected() {
		f.step(StepAway)
	}
	req := &runsv1.StartRunRequest{Id: newID(), NodeId: node.GetNodeId(), Argv: in.Argv, Cwd: in.Cwd, Env: in.Env, AgentId: in.AgentID}
	for _, d := range []struct {
		from time.Duration
		to   **durationpb.Duration
	}{{in.Timeout, &req.Timeout}, {in.ApprovalTimeout, &req.ApprovalTimeout}, {in.WaitForNode, &req.WaitForNode}} {
		if d.from > 0 {
			*d.to = durationpb.New(d.from)
		}
	}
	f.run.Id = req.GetId()
	err = f.again(ctx, func() error {
		out, err := c.Runs.StartRun(ctx, req)
		if err == nil {
			f.run = out.GetRun()
		}
		return err
	})
	if err != nil {
		return f.run, err
	}
	f.step(StepStarted)
	return f.run, nil
}

func valid8(in RunIn) bool {
	ok := utf8.ValidString(in.Cwd) && utf8.ValidString(in.AgentID)
	for _, a := range in.Argv {
		ok = ok && utf8.ValidString(a)
	}
	for k, v := range in.Env {
		ok = ok && utf8.ValidString(k) && utf8.ValidString(v)
	}
	return ok
}

// FollowRun waits for the end of a run, also of one that has ended, and outlives a restart of the daemon.
// output is handed what the command writes, as it comes where the node streams it and at the end
// otherwise; nil for nobody. An error of the class errs.Unknown says that the command may have run.
func (c *Client) FollowRun(ctx context.Context, id string, progress func(Step), output func(Output)) (RunOut, error) {
	if progress == nil {
		progress = func(Step) {}
	}
	f := &following{c: c, progress: progress, output: output, run: &runsv1.Run{Id: id}}
	err := f.again(ctx, func() error { return f.watch(ctx, id) })
	run := f.run
	out := RunOut{
		RunID: run.GetId(), NodeID: run.GetNodeId(), NodeName: run.GetNodeName(), ApprovalID: run.GetApprovalId(), KilledBy: run.GetKilledBy(),
	}
	if err != nil {
		if away := isNotRunning(err) || code(err) == CodeLost; away && (run.GetState() == runsv1.State_STATE_STARTING || run.GetState() == runsv1.State_STATE_RUNNING) {
			err = &Error{Code: CodeOutcomeUnknown, Class: errs.Unknown, Err: err,
				Message: "the daemon went away while the command ran, and does not come back; it may have run: look before you repeat it"}
		}
		return out, err
	}
	if fail := run.GetFailure(); fail != nil || run.GetResult() == nil {
		return out, failureOf(run)
	}
	res := run.GetResult()
	out.Stdout, out.Stderr, out.TimedOut, out.Failure, out.Signal, out.OutputGone =
		res.GetStdout(), res.GetStderr(), res.GetTimedOut(), res.GetError(), res.GetSignal(), res.GetOutputGone()
	if res.ExitCode != nil {
		out.ExitCode = new(int(res.GetExitCode()))
	}
	f.rest(res)
	return out, nil
}

// failureOf is the error that a run ended with.
func failureOf(run *runsv1.Run) error {
	fail := run.GetFailure()
	e := &Error{Code: fail.GetCode(), Class: classes[codes.Code(fail.GetStatus())], Message: fail.GetMessage()}
	about := ""
	if run.GetApprovalId() != "" {
		about = fmt.Sprintf(" (approval %s)", run.GetApprovalId())
	}
	switch run.GetState() {
	case runsv1.State_STATE_DENIED:
		e.Code, e.Message = CodeApprovalDenied, e.Message+about
	case runsv1.State_STATE_EXPIRED:
		e.Code, e.Message = CodeApprovalExpired, fmt.Sprintf("nobody answered in time%s; run it again and have an approver at hand", about)
	case runsv1.State_STATE_LOST:
		e.Code = CodeOutcomeUnknown
	}
	return e
}

// following is one run that is waited for.
type following struct {
	c        *Client
	progress func(Step)
	output   func(Output)
	run      *runsv1.Run // as it is known
	told     StepKind    // of StepWaiting and StepDecided
	// lost says that the daemon went away once; cut that it did so after output had come.
	lost, cut bool
	seen      [2]int64 // of stdout and stderr, in bytes
	missing   [2]int64
}

func (f *following) step(kind StepKind) {
	f.progress(Step{Kind: kind, NodeID: f.run.GetNodeId(), NodeName: f.run.GetNodeName(), Run: f.run})
}

// watch follows the run until it has ended.
func (f *following) watch(ctx context.Context, id string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := f.c.Runs.WatchRun(ctx, &runsv1.WatchRunRequest{Id: id})
	if err != nil {
		return err
	}
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			if hasEnded(f.run.GetState()) {
				return nil
			}
			return badAnswer("WatchRun")
		}
		if err != nil {
			return err
		}
		if o := m.GetOutput(); o != nil {
			f.wrote(o)
			continue
		}
		f.run = m.GetRun()
		switch {
		case f.run.GetState() == runsv1.State_STATE_WAITING && f.run.GetResolvedBy() == "" && f.told < StepWaiting:
			f.told = StepWaiting
			f.step(StepWaiting)
		case f.told == StepWaiting && (f.run.GetState() == runsv1.State_STATE_STARTING || f.run.GetState() == runsv1.State_STATE_RUNNING || f.run.GetState() == runsv1.State_STATE_DONE):
			f.told = StepDecided
			f.step(StepDecided)
		}
	}
}

func hasEnded(s runsv1.State) bool {
	switch s {
	case runsv1.State_STATE_DONE, runsv1.State_STATE_REFUSED, runsv1.State_STATE_DENIED, runsv1.State_STATE_EXPIRED,
		runsv1.State_STATE_FAILED, runsv1.State_STATE_LOST:
		return true
	}
	return false
}

// wrote hands on what is new of a piece of output: after a reconnection some comes again.
func (f *following) wrote(o *runsv1.Output) {
	i := 0
	if o.GetStream() == runsv1.Output_STREAM_STDERR {
		i = 1
	}
	data, at := o.GetData(), o.GetOffset()
	if at > f.seen[i] {
		f.missing[i] += at - f.seen[i]
		f.hand(Output{Stderr: i == 1, Missing: at - f.seen[i]})
		f.seen[i] = at
	}
	if known := f.seen[i] - at; known < int64(len(data)) {
		f.hand(Output{Stderr: i == 1, Data: data[known:]})
		f.seen[i] = at + int64(len(data))
	}
}

func (f *following) hand(o Output) {
	if f.output != nil {
		f.output(o)
	}
}

// truncated is the mark of a result that does not hold all output (nodes-approvals.md §4.3).
const truncated = "\n... (truncated)"

// rest hands on what the result says and was not streamed.
func (f *following) rest(res *runsv1.Result) {
	for i, text := range []string{res.GetStdout(), res.GetStderr()} {
		switch {
		case f.seen[i] == 0 && text != "":
			f.hand(Output{Stderr: i == 1, Data: []byte(text)})
		case f.cut && f.missing[i] == 0:
			if text = strings.TrimSuffix(text, truncated); int64(len(text)) > f.seen[i] {
				f.hand(Output{Stderr: i == 1, Data: []byte(text[f.seen[i]:])})
			}
		}
	}
}

// again makes a call until it succeeds or fails for good. It goes on when the daemon went away, for as long
// as a question stands and for reconnectFor otherwise.
func (f *following) again(ctx context.Context, call func() error) error {
	var deadline time.Time
	pause := redialFirst
	for {
		before := f.run
		err := call()
		switch {
		case err == nil:
			return nil
		case isNotRunning(err), code(err) == CodeLost, code(err) == "runs.stopping":
			f.cut = f.cut || f.seen[0]+f.seen[1] > 0
			if !f.lost {
				f.lost = true
				f.step(StepReconnecting)
			}
		default:
			return err
		}
		if deadline.IsZero() || f.run != before { // it was there meanwhile
			deadline, pause = time.Now().Add(reconnectFor), redialFirst
			if t := f.run.GetExpiresAt(); t != nil && f.run.GetState() == runsv1.State_STATE_WAITING {
				deadline = later(deadline, t.AsTime().Add(waitGrace))
			}
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

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
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

func badAnswer(what string) error {
	return &Error{Code: CodeBadAnswer, Class: errs.Unavailable, Message: "the answer to " + what + " is not understood"}
}

func isNotRunning(err error) bool {
	if e, ok := errors.AsType[*Error](err); ok && e.away {
		return true
	}
	_, ok := errors.AsType[*NotRunning](err)
	return ok
}

func classOf(err error) errs.Class {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	return errs.Internal
}

// newID is a random UUID (version 4).
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
