package tunnel_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel"
	"github.com/hanzoai/hanzod/tunnel/terminal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipe is one end of a pair in memory: the custom transport (tunnel.md §1.14).
type pipe struct {
	in  *io.PipeReader
	out *io.PipeWriter
}

func pair() (a, b *pipe) {
	ar, bw := io.Pipe()
	br, aw := io.Pipe()
	return &pipe{ar, aw}, &pipe{br, bw}
}

func (p *pipe) Read(b []byte) (int, error)  { return p.in.Read(b) }
func (p *pipe) Write(b []byte) (int, error) { return p.out.Write(b) }
func (p *pipe) CloseWrite() error           { return p.out.Close() }
func (p *pipe) Close(err error) error {
	if err == nil {
		err = io.ErrClosedPipe
	}
	return errors.Join(p.in.CloseWithError(err), p.out.CloseWithError(err))
}

// node is a machine with real terminals, linked in memory.
type node struct {
	t        *testing.T
	svc      *tunnel.Service
	m        *terminal.Manager
	commands []string
	channels bool

	mu    sync.Mutex
	on    bool
	pipes []*pipe
	life  context.Context
	cut   context.CancelFunc
	wg    sync.WaitGroup
	acks  map[string]*terminal.Viewer
	asked []string
}

var errGone = errs.New(errs.Unavailable, "the node is gone")

func (n *node) Node(c identity.Caller, id string) (tunnel.Node, error) {
	if id != "n1" || !c.SeesNode(id) {
		return tunnel.Node{}, errs.New(errs.NotFound, "no such node")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return tunnel.Node{ID: "n1", Connected: n.on, Commands: n.commands}, nil
}

// link connects the node anew; lose takes the link away.
func (n *node) link() {
	n.mu.Lock()
	n.on = true
	n.life, n.cut = context.WithCancel(context.Background())
	n.mu.Unlock()
	n.svc.Came("n1")
}

func (n *node) lose() {
	n.mu.Lock()
	n.on = false
	n.cut()
	for _, p := range n.pipes {
		_ = p.Close(errGone)
	}
	n.pipes = nil
	n.mu.Unlock()
	n.svc.Left("n1")
}

// restart is a node whose program was killed and started again.
func (n *node) restart() {
	n.lose()
	_ = n.m.Close(context.Background())
	n.m = terminal.NewManager(terminal.Config{})
}

func (n *node) OpenInternal(ctx context.Context, id, command string, params []byte) (tunnel.Pipe, func(context.Context) ([]byte, error), error) {
	if !n.channels {
		return nil, nil, tunnel.ErrNoChannel
	}
	n.mu.Lock()
	on, life := n.on, n.life
	n.mu.Unlock()
	if !on {
		return nil, nil, errGone
	}
	mine, theirs := pair()
	answer, err := n.serve(command, params, func(t *terminal.Terminal, from int64) {
		n.wg.Go(func() { _ = t.Serve(life, theirs, from) })
	})
	if err != nil {
		return nil, nil, err
	}
	n.mu.Lock()
	n.pipes = append(n.pipes, mine, theirs)
	n.mu.Unlock()
	return mine, func(context.Context) ([]byte, error) { return answer, nil }, nil
}

func (n *node) Open(ctx context.Context, _ identity.Caller, id, command string, params []byte) (tunnel.Pipe, func(context.Context) ([]byte, error), error) {
	return n.OpenInternal(ctx, id, command, params)
}

func (n *node) Invoke(ctx context.Context, _ identity.Caller, id, command string, params []byte) ([]byte, error) {
	return n.InvokeInternal(ctx, id, command, params)
}

func (n *node) InvokeInternal(_ context.Context, _, command string, params []byte) ([]byte, error) {
	n.mu.Lock()
	on, life := n.on, n.life
	n.asked = append(n.asked, command)
	n.mu.Unlock()
	if !on {
		return nil, errGone
	}
	return n.serve(command, params, func(t *terminal.Terminal, from int64) {
		v, err := t.Feed().Attach(from, n.window(params))
		if err != nil {
			n.t.Error(err)
			return
		}
		n.mu.Lock()
		old := n.acks[t.ID()]
		n.acks[t.ID()] = v
		n.mu.Unlock()
		if old != nil { // the newer one is there: nothing is lost between the two
			old.Detach()
		}
		n.wg.Go(func() { n.report(life, t, v) })
	})
}

func (n *node) window(params []byte) int64 {
	var p struct{ Window int64 }
	_ = json.Unmarshal(params, &p)
	return p.Window
}

// report sends the output as events, as a node on a link without channels does.
func (n *node) report(ctx context.Context, t *terminal.Terminal, v *terminal.Viewer) {
	defer v.Detach()
	buf := make([]byte, 4096)
	for {
		p, err := v.Next(ctx, buf)
		if len(p.Data) > 0 || p.Missed > 0 {
			m := map[string]any{"session_id": t.ID(), "seq": p.Seq, "missed": p.Missed}
			if utf8.Valid(p.Data) {
				m["data"] = string(p.Data)
			} else {
				m["data_b64"] = p.Data
			}
			text, _ := json.Marshal(m)
			n.svc.Reported("n1", "terminal.output", text)
		}
		if errors.Is(err, io.EOF) {
			e, _ := t.Feed().Exit()
			text, _ := json.Marshal(map[string]any{"session_id": t.ID(), "exit_code": e.Code, "signal": e.Signal})
			n.svc.Reported("n1", "terminal.exit", text)
			return
		}
		if err != nil {
			return
		}
	}
}

func (n *node) serve(command string, params []byte, watch func(*terminal.Terminal, int64)) ([]byte, error) {
	var p struct {
		Session    string `json:"session_id"`
		Shell      string
		Argv       []string
		Cols, Rows int
		From       *int64
		Data       string
		Base64     string `json:"data_b64"`
		Seq        int64
	}
	if err := json.Unmarshal(params, &p); err != nil {
		return nil, err
	}
	if command == "terminal.open" {
		argv := p.Argv
		if len(argv) == 0 {
			argv = []string{"/bin/sh"}
		}
		t, err := n.m.Open(terminal.Spec{Path: argv[0], Argv: argv, Env: terminal.Environ(os.Environ(), p.Cols, p.Rows), Cols: p.Cols, Rows: p.Rows})
		if err != nil {
			return nil, err
		}
		watch(t, terminal.FromStart)
		return json.Marshal(map[string]any{"session_id": t.ID(), "shell": argv[0], "pid": t.Info().PID, "cols": p.Cols, "rows": p.Rows})
	}
	if command == "terminal.list" {
		list := []map[string]any{}
		for _, i := range n.m.List() {
			list = append(list, map[string]any{"session_id": i.ID})
		}
		return json.Marshal(list)
	}
	t, err := n.m.Get(p.Session)
	if err != nil {
		return nil, err
	}
	switch command {
	case "terminal.attach":
		watch(t, *p.From)
		return json.Marshal(map[string]any{"session_id": t.ID()})
	case "terminal.input":
		data := []byte(p.Data)
		if p.Base64 != "" {
			data, _ = base64.StdEncoding.DecodeString(p.Base64)
		}
		err = t.Input(context.Background(), data)
	case "terminal.resize":
		err = t.Resize(p.Cols, p.Rows)
	case "terminal.close":
		t.Close()
	case "terminal.ack":
		n.mu.Lock()
		v := n.acks[p.Session]
		n.mu.Unlock()
		v.Ack(p.Seq)
	}
	return []byte(`{"ok":true}`), err
}

// disk is a store in memory: what is on disk is the store's to test.
type disk struct {
	mu   sync.Mutex
	all  map[string]tunnel.Record
	rows []tunnel.Audit
	full error
}

func (d *disk) Terminals() ([]tunnel.Record, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []tunnel.Record
	for _, r := range d.all {
		out = append(out, r)
	}
	return out, nil
}

func (d *disk) ChangeTerminal(_ context.Context, id string, keep *tunnel.Record, rows ...tunnel.Audit) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full != nil {
		return d.full
	}
	if delete(d.all, id); keep != nil {
		d.all[id] = *keep
	}
	d.rows = append(d.rows, rows...)
	return nil
}

func (d *disk) acts() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := []string{}
	for _, r := range d.rows {
		out = append(out, r.Act)
	}
	return out
}

// world is the service and one node.
type world struct {
	*tunnel.Service
	t    *testing.T
	node *node
	disk *disk
}

// kinds of links.
var kinds = map[string]func(*node){
	"channel": func(n *node) {
		n.channels = true
		n.commands = []string{"terminal.open", "terminal.attach", "terminal.list"}
	},
	"credit": func(n *node) {
		n.commands = []string{"terminal.open", "terminal.attach", "terminal.list", "terminal.ack"}
	},
}

func newWorld(t *testing.T, kind string) *world {
	t.Helper()
	n := &node{t: t, m: terminal.NewManager(terminal.Config{Grace: [2]time.Duration{100 * time.Millisecond, 300 * time.Millisecond}}), acks: map[string]*terminal.Viewer{}}
	kinds[kind](n)
	w := &world{t: t, node: n, disk: &disk{all: map[string]tunnel.Record{}}}
	w.serve()
	n.link()
	t.Cleanup(func() {
		w.Stop()
		n.lose()
		if err := n.m.Close(context.Background()); err != nil {
			t.Error(err)
		}
		n.wg.Wait()
	})
	return w
}

func (w *world) serve() {
	w.Service = tunnel.New(tunnel.Config{Nodes: w.node, Store: w.disk, Now: time.Now, Linger: 2 * time.Second})
	w.node.svc = w.Service
	if err := w.Start(); err != nil {
		w.t.Fatal(err)
	}
}

var alice = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeWrite}, Principal: "iam:alice"}

func (w *world) open(argv ...string) tunnel.Terminal {
	w.t.Helper()
	out, err := w.Open(w.t.Context(), alice, tunnel.OpenIn{NodeID: "n1", Argv: argv})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.Terminal
}

func (w *world) attach(id string, o ...func(*tunnel.AttachIn)) *tunnel.Viewer {
	w.t.Helper()
	in := tunnel.AttachIn{ID: id}
	for _, f := range o {
		f(&in)
	}
	v, err := w.Attach(w.t.Context(), alice, in)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(v.Close)
	return v
}
