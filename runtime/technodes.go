package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/compat/hanzotunnel"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/tunnel/tech"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// The commands of nodes of ours for technician sessions, and those of others that can stand in.
const (
	techOpen    = "tech.open"
	techClose   = "tech.close"
	techChannel = "tech.channel"
	bridgeRun   = "exec.run"
	systemRun   = "system.run"
)

// maybeTime is how long a node that runs commands, and may know of sessions, has to answer tunnel_open.
const maybeTime = 2 * time.Second

// undoTime bounds how long a node that did not answer in time is told that nobody waits any more.
const undoTime = 5 * time.Second

const (
	// maxRunTime bounds the limit that a command of a technician is given, and runGrace is how much later than that its
	// answer may come (tunnel.md §5.2).
	maxRunTime = 24 * time.Hour
	runGrace   = 5 * time.Second
)

// techNodes are the nodes as technician sessions see them.
type techNodes struct{ d *Daemon }

func (d *Daemon) techNodes() tech.Nodes { return techNodes{d} }

// Node implements tech.Nodes.
func (t techNodes) Node(c identity.Caller, id string) (tech.Node, error) {
	out, err := t.d.nodes.Describe(context.Background(), c, nodes.DescribeIn{NodeID: id})
	if err != nil {
		return tech.Node{}, err
	}
	return tech.Node{ID: out.Node.ID, Tenant: out.Node.Tenant, Connected: out.Node.Connected}, nil
}

// Mode implements tech.Nodes.
func (t techNodes) Mode(nodeID, session string) { t.d.nodes.SetSession(nodeID, session) }

// Open implements tech.Nodes: a node of ours is asked with tech.open, past everything that decides on that, which is asked
// for tunnel_open, too. Others know nothing of sessions: each of their commands is decided on by itself.
func (t techNodes) Open(ctx context.Context, c identity.Caller, in tech.OpenNode) (tech.Lane, error) {
	out, err := t.d.nodes.Describe(ctx, c, nodes.DescribeIn{NodeID: in.NodeID})
	if err != nil {
		return nil, err
	}
	ended, ok := t.d.nodes.Ended(in.NodeID)
	if !ok {
		return nil, tech.ErrOffline
	}
	n := out.Node
	l := &techLane{t: t, node: n.ID, session: in.SessionID, done: make(chan struct{}), stop: make(chan struct{})}
	has := func(command string) bool { return slices.Contains(n.Commands, command) }
	switch {
	case has(bridgeRun) && (!has(systemRun) || n.Version == bridgeVersion):
		l.run = bridgeRun
	case has(systemRun):
		l.run = systemRun
	}
	params, err := json.Marshal(map[string]any{
		"session_id": in.SessionID, "owner": in.Owner, "kinds": in.Kinds, "read_only": in.ReadOnly, "directories": in.Directories,
	})
	if err != nil {
		return nil, err
	}
	open := nodes.InvokeIn{NodeID: n.ID, Command: techOpen, Params: params}
	switch linked := n.Link == nodes.LinkTunnel; {
	case has(techOpen) && (linked || t.d.nodes.Channeled(n.ID)):
		err = l.command(ctx, c, open, linked)
	case has(techOpen) && l.run == "":
		return nil, tech.ErrUnsupported.WithText("the link of the node carries no channels; link it by gRPC")
	case linked && !emulatedAlways(n):
		err = l.frames(ctx, c, open, in.Owner, n)
	case l.run == "":
		return nil, tech.ErrUnsupported.WithText("the node offers neither technician sessions nor commands")
	}
	if err != nil {
		return nil, err
	}
	go l.follow(ended)
	return l, nil
}

// bridgeVersion is what the agent bridge says of itself.
const bridgeVersion = "0.2.0"

// emulatedAlways recognises the agent bridge and the Rust dispatcher, which know nothing of sessions (tunnel.md §1.5, §1.6).
func emulatedAlways(n nodes.Node) bool {
	has := func(command string) bool { return slices.Contains(n.Commands, command) }
	return has(bridgeRun) && n.Version == bridgeVersion || has(systemRun) && has("dev.launch") && has("dev.status")
}

// announces says whether a node has to know of sessions: it says so, or can do nothing else.
func announces(n nodes.Node) bool {
	return slices.Contains(n.Caps, "tunnel") || slices.Contains(n.Caps, "tech") ||
		!slices.Contains(n.Commands, bridgeRun) && !slices.Contains(n.Commands, systemRun)
}

// command opens the session of a node of ours; linked says that its channels share its link.
func (l *techLane) command(ctx context.Context, c identity.Caller, open nodes.InvokeIn, linked bool) error {
	l.run = ""
	l.own = true
	if linked {
		var err error
		if l.held, err = l.t.d.links.Hold(l.node, l.session, true); err != nil {
			return linkFault(err)
		}
	}
	_, err := l.t.d.nodes.Invoke(ctx, c, open)
	if err == nil {
		return nil
	}
	if l.held != nil {
		l.held.Close()
	}
	if ctx.Err() != nil || errs.ClassOf(err) == errs.Deadline {
		// It may have been heard all the same: nobody would use that session.
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		_, _ = l.t.d.nodes.InvokeInternal(undo, l.node, techClose, []byte(`{"session_id":"`+l.session+`","reason":"closed"}`)) // the error below says it
	}
	return err
}

// frames opens the session of another node by tunnel_open. One that need not know of it, and does not answer, is emulated.
func (l *techLane) frames(ctx context.Context, c identity.Caller, open nodes.InvokeIn, owner string, n nodes.Node) error {
	must := announces(n)
	ended, err := l.t.d.nodes.Admit(ctx, c, open)
	if err != nil {
		if e, ok := errs.As(err); ok && !must && e.Field(nodes.FieldAsk) != "" {
			return nil // each command is decided on by itself
		}
		return err
	}
	h, err := l.t.d.links.Hold(l.node, l.session, false)
	if err != nil {
		ended(err)
		return linkFault(err)
	}
	limit := tech.OpenTime
	if !must {
		limit = maybeTime
	}
	asking, cancel := context.WithTimeout(ctx, limit)
	err = h.Ask(asking, owner)
	cancel()
	ended(err)
	switch {
	case err == nil:
		l.run, l.held = "", h
		return nil
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		err = errs.New(errs.Deadline, "the node has not answered to tunnel_open within "+limit.String())
	}
	h.Close() // a late answer finds it closed
	if !must && errs.ClassOf(err) == errs.Deadline && ctx.Err() == nil {
		return nil
	}
	return err
}

// linkFault words what a link says of a session.
func linkFault(err error) error {
	switch {
	case errors.Is(err, hanzotunnel.ErrNotLinked):
		return tech.ErrOffline
	case errors.Is(err, hanzotunnel.ErrTechHeld):
		return tech.ErrHeld
	}
	return err
}

// techLane implements tech.Lane. It owns a goroutine, which ends with it or with the link of the node.
type techLane struct {
	t             techNodes
	node, session string
	run           string            // the command that stands in; empty for nodes that know of sessions
	own           bool              // the session was opened by tech.open
	held          *hanzotunnel.Held // the session on the link of the node, whose channels share it; nil for others

	once sync.Once
	stop chan struct{}
	done chan struct{}
}

func (l *techLane) follow(ended <-chan struct{}) {
	var gone <-chan struct{}
	if l.held != nil {
		gone = l.held.Done()
	}
	select {
	case <-ended:
	case <-gone:
	case <-l.stop:
		return
	}
	if l.held != nil {
		l.held.Close()
	}
	close(l.done)
}

// Done implements tech.Lane.
func (l *techLane) Done() <-chan struct{} { return l.done }

// Err implements tech.Lane.
func (l *techLane) Err() tech.Reason {
	if l.held != nil && l.held.GivenUp() {
		return tech.NodeEnded
	}
	return tech.Disconnected
}

// Emulated implements tech.Lane.
func (l *techLane) Emulated() bool { return l.run != "" }

// Close implements tech.Lane.
func (l *techLane) Close(ctx context.Context, reason tech.Reason) error {
	var err error
	l.once.Do(func() {
		close(l.stop)
		if l.held != nil {
			l.held.Close()
		}
		if !l.own {
			return
		}
		var params []byte
		if params, err = json.Marshal(map[string]string{"session_id": l.session, "reason": string(reason)}); err == nil {
			_, err = l.t.d.nodes.InvokeInternal(ctx, l.node, techClose, params)
		}
		if errors.Is(err, nodes.ErrNotConnected) || errors.Is(err, nodes.ErrDisconnected) {
			err = nil // its side ends with its link
		}
	})
	return err
}

// Channel implements tech.Lane.
func (l *techLane) Channel(ctx context.Context, c identity.Caller, id string, kind message.Kind) (message.Conn, error) {
	if l.run != "" {
		if kind != message.Terminal {
			return nil, tech.ErrUnsupported.WithText("the node only runs commands in a technician session")
		}
		return newEmulated(l, c), nil
	}
	if l.held != nil {
		return l.held.Channel(ctx, id, kind)
	}
	params, err := json.Marshal(map[string]string{"session_id": l.session, "channel_id": id, "kind": string(kind)})
	if err != nil {
		return nil, err
	}
	ch, answer, err := l.t.d.nodes.OpenChannelInternal(ctx, l.node, techChannel, params)
	if errors.Is(err, nodes.ErrNoChannel) { // the node came back by another link
		return nil, tech.ErrUnsupported.WithText("the link of the node carries no channels; link it by gRPC")
	}
	if err != nil {
		return nil, err
	}
	if _, err := answer(ctx); err != nil {
		_ = ch.Close(err) // nobody reads it
		return nil, err
	}
	return message.Over(ch), nil
}

// emulated is a channel to a node that knows nothing of sessions: a command is an invoke of its caller, and its output comes
// at once when it has ended. One command runs at a time.
type emulated struct {
	l      *techLane
	c      identity.Caller
	ctx    context.Context //nolint:containedctx // of the commands, which end with the channel
	cancel context.CancelFunc
	answer chan message.Message // holds what Receive returns
	busy   chan struct{}        // holds a token while a command runs
}

func newEmulated(l *techLane, c identity.Caller) *emulated {
	ctx, cancel := context.WithCancel(context.Background())
	return &emulated{l: l, c: c, ctx: ctx, cancel: cancel, answer: make(chan message.Message, 1), busy: make(chan struct{}, 1)}
}

// Send implements message.Conn.
func (e *emulated) Send(ctx context.Context, m message.Message) error {
	switch m.Type {
	case message.TypeClose:
		e.cancel()
		return nil
	case message.TypeCommand:
	default:
		return e.say(ctx, message.Of(message.TypeError, message.Failure{Code: "unsupported", Error: "unsupported: the node only runs commands in a technician session"}, nil))
	}
	var p message.Command
	if err := m.Into(&p); err != nil {
		return err
	}
	select {
	case e.busy <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-e.ctx.Done():
		return io.ErrClosedPipe
	}
	go func() { // ends with the command, or the channel
		defer func() { <-e.busy }()
		_ = e.say(e.ctx, e.invoke(p)) // the channel has ended
	}()
	return nil
}

func (e *emulated) say(ctx context.Context, m message.Message) error {
	select {
	case e.answer <- m:
		return nil
	case <-e.ctx.Done():
		return io.ErrClosedPipe
	case <-ctx.Done():
		return ctx.Err()
	}
}

// invoke runs a command with all that the node's own takes.
func (e *emulated) invoke(p message.Command) message.Message {
	params := map[string]any{"command": p.Command}
	switch _, line := e.l.t.d.nodes.RunsLines(e.c, e.l.node); {
	case e.l.run != systemRun:
	case line:
		if p.TimeoutMS > 0 {
			params["timeout_ms"] = p.TimeoutMS
		}
	default:
		params = map[string]any{"command": []string{"/bin/sh", "-lc", p.Command}, "rawCommand": p.Command}
		if p.TimeoutMS > 0 {
			params["timeoutMs"] = p.TimeoutMS
		}
	}
	if p.Cwd != "" {
		params["cwd"] = p.Cwd
	}
	text, err := json.Marshal(params)
	var out nodes.InvokeOut
	if err == nil {
		in := nodes.InvokeIn{NodeID: e.l.node, Command: e.l.run, Params: text}
		if p.TimeoutMS > 0 {
			limit := time.Duration(min(p.TimeoutMS, maxRunTime.Milliseconds()))*time.Millisecond + runGrace
			in.Timeout = &limit
		}
		out, err = e.l.t.d.nodes.Invoke(e.ctx, e.c, in)
	}
	if err != nil {
		f := message.Failure{Code: "unavailable", Error: err.Error()}
		if x, ok := errs.As(err); ok {
			f.Error = x.Text
			if errs.ClassOf(err) == errs.Denied {
				f.Code = "denied"
			}
		}
		return message.Of(message.TypeError, f, nil)
	}
	var answer struct {
		Stdout, Stderr string
		ExitCode       *int
		Code           *int `json:"exit_code"` // of the Rust dispatcher
		TimedOut       bool
	}
	if json.Unmarshal(out.Payload, &answer) != nil {
		return message.Of(message.TypeError, message.Failure{Code: "unavailable", Error: "the node's answer is not understood"}, nil)
	}
	if answer.ExitCode == nil {
		answer.ExitCode = answer.Code
	}
	if answer.ExitCode == nil && !answer.TimedOut {
		none := -1
		answer.ExitCode = &none
	}
	// What is longer than a message is cut at its begin, as the bridge does.
	const most = message.MaxPayload / 4
	cut := func(s string) (string, bool) {
		if len(s) <= most {
			return s, false
		}
		s = s[len(s)-most:]
		for len(s) > 0 && !utf8.RuneStart(s[0]) {
			s = s[1:]
		}
		return s, true
	}
	result := message.Output{ExitCode: answer.ExitCode, TimedOut: answer.TimedOut}
	var a, b bool
	result.Stdout, a = cut(answer.Stdout)
	result.Stderr, b = cut(answer.Stderr)
	result.Truncated = a || b
	return message.Of(message.TypeOutput, result, nil)
}

// Receive implements message.Conn.
func (e *emulated) Receive(ctx context.Context) (message.Message, error) {
	select {
	case m := <-e.answer:
		return m, nil
	case <-e.ctx.Done():
		return message.Message{}, io.EOF
	case <-ctx.Done():
		return message.Message{}, context.Cause(ctx)
	}
}

// Close implements message.Conn.
func (e *emulated) Close(error) error {
	e.cancel()
	return nil
}
