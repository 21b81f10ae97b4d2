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

// Open implements tech.Nodes: a node of ours is asked with tech.open, past everything that decides on that. Others know
// nothing of sessions: each of their commands is decided on by itself.
func (t techNodes) Open(ctx context.Context, c identity.Caller, in tech.OpenNode) (tech.Lane, error) {
	out, err := t.d.nodes.Describe(ctx, c, nodes.DescribeIn{NodeID: in.NodeID})
	if err != nil {
		return nil, err
	}
	ended, ok := t.d.nodes.Ended(in.NodeID)
	if !ok {
		return nil, tech.ErrOffline
	}
	l := &techLane{t: t, node: in.NodeID, session: in.SessionID, done: make(chan struct{}), stop: make(chan struct{})}
	switch has := func(command string) bool { return slices.Contains(out.Node.Commands, command) }; {
	case has(techOpen):
		params, err := json.Marshal(map[string]any{
			"session_id": in.SessionID, "owner": in.Owner, "kinds": in.Kinds, "read_only": in.ReadOnly, "directories": in.Directories,
		})
		if err != nil {
			return nil, err
		}
		if _, err := t.d.nodes.Invoke(ctx, c, nodes.InvokeIn{NodeID: in.NodeID, Command: techOpen, Params: params}); err != nil {
			return nil, err
		}
	case has(bridgeRun):
		l.run = bridgeRun
	case has(systemRun):
		l.run = systemRun
	default:
		return nil, tech.ErrUnsupported.WithText("the node offers neither technician sessions nor commands")
	}
	go l.follow(ended)
	return l, nil
}

// techLane implements tech.Lane. It owns a goroutine, which ends with it or with the link of the node.
type techLane struct {
	t             techNodes
	node, session string
	run           string // the command that stands in; empty for nodes that know of sessions

	once sync.Once
	stop chan struct{}
	done chan struct{}
}

func (l *techLane) follow(ended <-chan struct{}) {
	select {
	case <-ended:
		close(l.done)
	case <-l.stop:
	}
}

// Done implements tech.Lane.
func (l *techLane) Done() <-chan struct{} { return l.done }

// Err implements tech.Lane.
func (l *techLane) Err() tech.Reason { return tech.Disconnected }

// Emulated implements tech.Lane.
func (l *techLane) Emulated() bool { return l.run != "" }

// Close implements tech.Lane.
func (l *techLane) Close(ctx context.Context, reason tech.Reason) error {
	var err error
	l.once.Do(func() {
		close(l.stop)
		if l.run != "" {
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
	params, err := json.Marshal(map[string]string{"session_id": l.session, "channel_id": id, "kind": string(kind)})
	if err != nil {
		return nil, err
	}
	ch, answer, err := l.t.d.nodes.OpenChannelInternal(ctx, l.node, techChannel, params)
	if errors.Is(err, nodes.ErrNoChannel) {
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
	if e.l.run == systemRun {
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
		TimedOut       bool
	}
	if json.Unmarshal(out.Payload, &answer) != nil {
		return message.Of(message.TypeError, message.Failure{Code: "unavailable", Error: "the node's answer is not understood"}, nil)
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
