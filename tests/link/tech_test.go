//go:build unix

package link

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/runtime"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// overTunnel is a link at /v1/tunnel.
const overTunnel = "tunnel"

// techOn switches technician sessions on.
var techOn = map[string]any{
	"gateway": map[string]any{"auth": map[string]any{"mode": "token", "token": hanzodtest.Token}},
	"tunnel":  map[string]any{"tech": map[string]any{"enabled": true}},
}

// bench is a world with technicians.
type bench struct {
	*world
	id   string // of the node
	root string // whose files it offers
	tech tunnelv1.TechSessionServiceClient
}

func newBench(t *testing.T, via string) *bench {
	t.Helper()
	b := &bench{world: &world{t: t, via: via, o: options{policy: free, config: techOn}}, root: t.TempDir()}
	b.start("")
	b.proxy = newProxy(t, via == local)
	conn, err := grpc.NewClient("unix:"+b.d.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	b.tech = tunnelv1.NewTechSessionServiceClient(conn)
	if via != overTunnel {
		b.proxy.to(b.target())
		b.node = b.join("box", t.TempDir())
		b.id = b.node.id()
		return b
	}
	b.proxy.to("tcp", b.d.Addr())
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "exec-approvals.json"), []byte(free), 0o600); err != nil {
		t.Fatal(err)
	}
	b.node = runNode(t, runtime.NodeOptions{
		StateDir: dir, DisplayName: "box", Token: b.d.Token, Files: []string{b.root}, Workspace: b.root,
		Tunnel: &runtime.TunnelOptions{URL: "ws://127.0.0.1:" + strconv.Itoa(b.proxy.port()) + "/v1/tunnel", InstanceID: "box"},
	})
	b.node.until("it is linked", func() bool { return b.node.connects() == 1 })
	b.id = "box"
	return b
}

func (b *bench) open() *tunnelv1.TechSession {
	b.t.Helper()
	out, err := b.tech.Open(b.t.Context(), &tunnelv1.TechSessionServiceOpenRequest{NodeId: b.id})
	if err != nil {
		b.t.Fatal(err)
	}
	return out.GetSession()
}

// run runs a command and returns all that it wrote, and its exit code; -1 without one.
func (b *bench) run(session, command string) (out string, code int, err error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	s, err := b.tech.Run(ctx, &tunnelv1.TechSessionServiceRunRequest{SessionId: session, Command: command})
	if err != nil {
		return "", -1, err
	}
	code = -1
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return out, code, nil
		}
		if err != nil {
			return out, code, err
		}
		out += string(m.GetStdout())
		if m.ExitCode != nil {
			code = int(m.GetExitCode())
		}
	}
}

// channel is a stream of messages.
type channel struct {
	t *testing.T
	s grpc.BidiStreamingClient[tunnelv1.TechSessionServiceChannelRequest, tunnelv1.TechSessionServiceChannelResponse]
}

func (b *bench) channel(session string, kind tunnelv1.TechKind) *channel {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 2*patience)
	b.t.Cleanup(cancel)
	s, err := b.tech.Channel(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	join := &tunnelv1.TechJoin{SessionId: session, Kind: kind}
	if err := s.Send(&tunnelv1.TechSessionServiceChannelRequest{Item: &tunnelv1.TechSessionServiceChannelRequest_Join{Join: join}}); err != nil {
		b.t.Fatal(err)
	}
	if m, err := s.Recv(); err != nil || m.GetJoined() == nil {
		b.t.Fatalf("%v, %v", m, err)
	}
	return &channel{b.t, s}
}

func (c *channel) send(m message.Message) {
	c.t.Helper()
	out := &tunnelv1.TechMessage{Type: m.Type, Payload: m.Payload, Data: m.Data}
	if err := c.s.Send(&tunnelv1.TechSessionServiceChannelRequest{Item: &tunnelv1.TechSessionServiceChannelRequest_Message{Message: out}}); err != nil {
		c.t.Fatal(err)
	}
}

// receive returns the next message, which has to be of that type, with its payload read.
func (c *channel) receive(typ string, payload any) message.Message {
	c.t.Helper()
	r, err := c.s.Recv()
	if err != nil {
		c.t.Fatal(err)
	}
	m := message.Message{Type: r.GetMessage().GetType(), Payload: r.GetMessage().GetPayload(), Data: r.GetMessage().GetData()}
	if m.Type != typ {
		c.t.Fatalf("%s %s, not %s", m.Type, m.Payload, typ)
	}
	if err := m.Into(payload); err != nil {
		c.t.Fatal(err)
	}
	return m
}

// TestTech: over each kind of link a node is held once, its commands run, and the loss of the link ends the session.
func TestTech(t *testing.T) {
	for _, via := range []string{webSocket, local, overTLS, overTunnel} {
		t.Run(via, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, via)
			s := b.open()
			if s.GetEmulated() != (via == webSocket) {
				t.Errorf("emulated: %v", s.GetEmulated())
			}
			if _, err := b.tech.Open(t.Context(), &tunnelv1.TechSessionServiceOpenRequest{NodeId: b.id}); err == nil {
				t.Error("it was opened twice")
			}
			if out, code, err := b.run(s.GetSessionId(), `printf 'a "b" $(x)'; exit 3`); err == nil && (out == "" || code != 3) || err != nil {
				t.Errorf("%q, %d, %v", out, code, err)
			}
			if out, code, err := b.run(s.GetSessionId(), `head -c 300000 /dev/zero | tr '\0' x`); err != nil || code != 0 || via != webSocket && len(out) != 300_000 {
				t.Errorf("%d bytes, %d, %v", len(out), code, err)
			}
			b.proxy.cut()
			until(t, patience, "the session is closed", func() bool {
				out, err := b.tech.Get(t.Context(), &tunnelv1.TechSessionServiceGetRequest{SessionId: s.GetSessionId()})
				return err == nil && out.GetSession().GetStatus() == tunnelv1.TechStatus_TECH_STATUS_CLOSED && out.GetSession().GetReason() == "node_disconnected"
			})
			until(t, patience, "the node is back", func() bool { return b.node.connects() >= 2 && b.seen(b.id).GetConnected() })
			again := b.open()
			if out, _, err := b.run(again.GetSessionId(), "echo back"); err != nil || out != "back\n" {
				t.Errorf("%q, %v", out, err)
			}
			if _, err := b.tech.Close(t.Context(), &tunnelv1.TechSessionServiceCloseRequest{SessionId: again.GetSessionId()}); err != nil {
				t.Error(err)
			}
			b.open() // the node is free again
		})
	}
}

// TestTechShared: on a link without channels a file goes both ways whole, while a terminal echoes and a channel that nobody
// reads waits.
func TestTechShared(t *testing.T) {
	t.Parallel()
	b := newBench(t, overTunnel)
	s := b.open().GetSessionId()
	data := make([]byte, 6<<20)
	_, _ = rand.Read(data)
	sum := sha256.Sum256(data)
	want := hex.EncodeToString(sum[:])
	path := filepath.Join(b.root, "up")

	stalled := b.channel(s, tunnelv1.TechKind_TECH_KIND_TERMINAL)
	stalled.send(message.Of(message.TypeCommand, message.Command{Command: `head -c 4000000 /dev/zero | tr "\\0" x`}, nil))

	terminal := b.channel(s, tunnelv1.TechKind_TECH_KIND_TERMINAL)
	terminal.send(message.Of(message.TypeOpen, message.TerminalOpen{Argv: []string{"/bin/cat"}, Cols: 80, Rows: 24}, nil))
	var ready message.TerminalReady
	terminal.receive(message.TypeOpened, &ready)
	echo := func() {
		t.Helper()
		terminal.send(message.Message{Type: message.TypeInput, Data: []byte("hello\n")})
		var seen []byte
		for !bytes.Contains(seen, []byte("hello\r\nhello\r\n")) {
			seen = append(seen, terminal.receive(message.TypeChunk, &anything{}).Data...)
		}
	}
	echo()

	up := b.channel(s, tunnelv1.TechKind_TECH_KIND_FILE)
	const piece = 200 << 10
	for at := 0; at < len(data); at += piece {
		end := min(at+piece, len(data))
		p := message.FileWrite{Path: path, Offset: int64(at), Upload: "upload-01", Size: int64(len(data))}
		if end == len(data) {
			p.EOF, p.SHA256 = true, want
		}
		up.send(message.Of(message.TypeWrite, p, data[at:end]))
	}
	for {
		var ack message.FileAck
		up.receive(message.TypeAck, &ack)
		if ack.Done {
			break
		}
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	echo()

	down := b.channel(s, tunnelv1.TechKind_TECH_KIND_FILE)
	down.send(message.Of(message.TypeRead, message.FileRead{Path: path}, nil))
	var got []byte
	for {
		var p message.FileChunk
		got = append(got, down.receive(message.TypeFileChunk, &p).Data...)
		if p.Done || p.EOF {
			break
		}
	}
	if !bytes.Equal(got, data) {
		t.Fatalf("%d bytes came back", len(got))
	}
	echo()

	n := 0
	for {
		var p message.Output
		stalled.receive(message.TypeOutput, &p)
		if n += len(p.Stdout) + len(p.StdoutB64); p.ExitCode != nil {
			break
		}
	}
	if n != 4_000_000 {
		t.Errorf("%d bytes of 4000000 came when they were read", n)
	}
}

// anything takes any payload.
type anything struct{}

func (*anything) UnmarshalJSON([]byte) error { return nil }

// agent is an instance that the test plays, with the messages of tunnel.md §3.4.
type agent struct {
	*testing.T
	ws *websocket.Conn
}

func (b *bench) agent(id string, caps, commands []string) *agent {
	b.t.Helper()
	ws, _, err := websocket.Dial(b.t.Context(), b.d.WS()+"/v1/tunnel", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + b.d.Token}}})
	if err != nil {
		b.t.Fatal(err)
	}
	ws.SetReadLimit(2 << 20)
	b.t.Cleanup(func() { _ = ws.CloseNow() })
	a := &agent{b.t, ws}
	a.say(map[string]any{"type": "register", "instance_id": id, "app_kind": "rmm", "version": "9", "platform": "linux-x86_64", "capabilities": caps, "commands": commands})
	a.hear("registered")
	return a
}

func (a *agent) say(frame any) {
	a.Helper()
	text, err := json.Marshal(frame)
	if err == nil {
		err = a.ws.Write(context.Background(), websocket.MessageText, text)
	}
	if err != nil {
		a.Fatal(err)
	}
}

// frame is a message, with the members that this test looks at.
type frame struct {
	Type    string
	ID      string
	Method  string
	Params  struct{ Command string }
	Payload struct {
		SessionID string `json:"session_id"`
		TechID    string `json:"tech_id"`
		ChannelID string `json:"channel_id"`
		Data      struct {
			Type    string
			Payload map[string]any
		}
	}
}

func (a *agent) hear(typ string) frame {
	a.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, text, err := a.ws.Read(ctx)
	if err != nil {
		a.Fatal(err)
	}
	var f frame
	if err := json.Unmarshal(text, &f); err != nil || f.Type != typ {
		a.Fatalf("%s, %v; want %s", text, err, typ)
	}
	return f
}

type fields map[string]any

// newForeign is a daemon with no node.
func newForeign(t *testing.T) *bench {
	t.Helper()
	b := &bench{world: &world{t: t}}
	b.d = hanzodtest.Start(t, hanzodtest.Options{Config: techOn})
	conn, err := grpc.NewClient("unix:"+b.d.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	b.tech = tunnelv1.NewTechSessionServiceClient(conn)
	return b
}

type opened struct {
	s   *tunnelv1.TechSession
	err error
}

// opening opens a session of a node that the test plays.
func (b *bench) opening(id string) <-chan opened {
	out := make(chan opened, 1)
	go func() {
		r, err := b.tech.Open(b.t.Context(), &tunnelv1.TechSessionServiceOpenRequest{NodeId: id})
		out <- opened{r.GetSession(), err}
	}()
	return out
}

func (b *bench) closedFor(session, reason string) {
	b.t.Helper()
	until(b.t, patience, "the session is closed: "+reason, func() bool {
		out, err := b.tech.Get(b.t.Context(), &tunnelv1.TechSessionServiceGetRequest{SessionId: session})
		return err == nil && out.GetSession().GetReason() == reason
	})
}

// TestTechForeign: an instance that knows the published messages, and no more, is held and works; what it sends for others is
// left out.
func TestTechForeign(t *testing.T) {
	t.Parallel()
	b := newForeign(t)
	a, other := b.agent("rmm-1", []string{"tunnel"}, nil), b.agent("rmm-2", []string{"tunnel"}, nil)

	refused := b.opening("rmm-1")
	f := a.hear("tunnel_open")
	other.say(fields{"type": "tunnel_ready", "payload": fields{"session_id": f.Payload.SessionID}}) // of nobody
	a.say(fields{"type": "tunnel_error", "payload": fields{"channel_id": f.Payload.SessionID, "error": "busy here"}})
	if o := <-refused; o.err == nil || !strings.Contains(o.err.Error(), "busy here") {
		t.Fatalf("%v, %v", o.s, o.err)
	}
	a.hear("tunnel_close")

	ask := b.opening("rmm-1")
	f = a.hear("tunnel_open")
	if f.Payload.TechID == "" {
		t.Error("it is not told who holds it")
	}
	a.say(fields{"type": "tunnel_ready", "payload": fields{"session_id": f.Payload.SessionID}})
	o := <-ask
	if o.err != nil || o.s.GetEmulated() || o.s.GetSessionId() != f.Payload.SessionID {
		t.Fatalf("%v, %v", o.s, o.err)
	}

	type ran struct {
		out  string
		code int
		err  error
	}
	done := make(chan ran, 1)
	go func() {
		out, code, err := b.run(o.s.GetSessionId(), "ls -la")
		done <- ran{out, code, err}
	}()
	f = a.hear("tunnel_data")
	if f.Payload.Data.Type != "terminal" || f.Payload.Data.Payload["command"] != "ls -la" {
		t.Fatalf("%+v", f)
	}
	big := strings.Repeat("héllo\n", 40_000)
	answer := func(to *agent, channel, stdout string, code any) {
		to.say(fields{"type": "tunnel_data", "payload": fields{"channel_id": channel, "data": fields{
			"type": "terminal_output", "payload": fields{"stdout": stdout, "stderr": "", "exit_code": code},
		}}})
	}
	answer(other, f.Payload.ChannelID, "forged\n", 0) // from a node that is not in the session
	answer(a, "another", "lost\n", 0)
	answer(a, f.Payload.ChannelID, big, nil)
	answer(a, f.Payload.ChannelID, "end\n", 7)
	if r := <-done; r.err != nil || r.code != 7 || r.out != big+"end\n" {
		t.Errorf("%d bytes, %d, %v", len(r.out), r.code, r.err)
	}
	if f := a.hear("tunnel_data"); f.Payload.Data.Type != "terminal_close" {
		t.Errorf("%+v", f)
	}

	registry := b.channel(o.s.GetSessionId(), tunnelv1.TechKind_TECH_KIND_REGISTRY)
	registry.send(message.Of(message.TypeRegistry, message.RegistryCall{Op: "list", Key: `HKLM\Software`}, nil))
	f = a.hear("tunnel_data")
	a.say(fields{"type": "tunnel_error", "payload": fields{"channel_id": f.Payload.ChannelID, "error": "unsupported on linux"}})
	var failure message.Failure
	if registry.receive(message.TypeError, &failure); failure.Error != "unsupported on linux" || failure.Code != "unsupported" {
		t.Errorf("%+v", failure)
	}

	// A node that floods a channel that nobody reads loses the channel, and not the session.
	lazy := b.channel(o.s.GetSessionId(), tunnelv1.TechKind_TECH_KIND_TERMINAL)
	lazy.send(message.Of(message.TypeCommand, message.Command{Command: "yes"}, nil))
	f = a.hear("tunnel_data")
	for range 600 {
		answer(a, f.Payload.ChannelID, strings.Repeat("y", 60_000), nil)
	}
	if out, err := b.tech.Get(t.Context(), &tunnelv1.TechSessionServiceGetRequest{SessionId: o.s.GetSessionId()}); err != nil || out.GetSession().GetStatus() != tunnelv1.TechStatus_TECH_STATUS_ACTIVE {
		t.Errorf("%v, %v", out, err)
	}
	var end error
	for range 1000 {
		if _, end = lazy.s.Recv(); end != nil {
			break
		}
	}
	if end == nil || !strings.Contains(end.Error(), "more came than was read") {
		t.Errorf("the flooded channel ended with %v", end)
	}

	a.say(fields{"type": "tunnel_error", "payload": fields{"channel_id": o.s.GetSessionId(), "error": "the user took over"}})
	b.closedFor(o.s.GetSessionId(), "node_ended")
	a.say(fields{"type": "tunnel_data", "payload": fields{"channel_id": "x", "data": fields{"type": "terminal_output"}}}) // of no session

	ask = b.opening("rmm-2")
	f = other.hear("tunnel_open")
	other.say(fields{"type": "tunnel_ready", "payload": fields{"session_id": f.Payload.SessionID}})
	if o = <-ask; o.err != nil {
		t.Fatal(o.err)
	}
	_ = other.ws.CloseNow()
	b.closedFor(o.s.GetSessionId(), "node_disconnected")
}

// TestTechEmulated: nodes that only run commands are held without a frame, or after none was answered; their commands are
// asked for in their own way.
func TestTechEmulated(t *testing.T) {
	t.Parallel()
	b := newForeign(t)
	dispatcher := []string{"system.run", "dev.launch", "dev.status", "terminal.open"}
	a := b.agent("crate", nil, dispatcher)
	o := <-b.opening("crate")
	if o.err != nil || !o.s.GetEmulated() {
		t.Fatalf("%v, %v", o.s, o.err)
	}
	go func() {
		f := a.hear("command")
		if f.Method != "system.run" || f.Params.Command != "uname" {
			a.Errorf("%+v", f)
		}
		a.say(fields{"type": "response", "id": f.ID, "ok": true, "data": fields{"exit_code": 4, "stdout": "out", "stderr": ""}})
	}()
	if out, code, err := b.run(o.s.GetSessionId(), "uname"); err != nil || out != "out" || code != 4 {
		t.Errorf("%q, %d, %v", out, code, err)
	}

	silent := b.agent("silent", nil, []string{"exec.run"})
	ask := b.opening("silent")
	opening := silent.hear("tunnel_open")
	if o = <-ask; o.err != nil || !o.s.GetEmulated() {
		t.Fatalf("%v, %v", o.s, o.err)
	}
	if f := silent.hear("tunnel_close"); f.Payload.SessionID != opening.Payload.SessionID {
		t.Errorf("%+v", f)
	}
	silent.say(fields{"type": "tunnel_ready", "payload": fields{"session_id": opening.Payload.SessionID}}) // too late
	go func() {
		f := silent.hear("command")
		silent.say(fields{"type": "response", "id": f.ID, "ok": true, "data": fields{"exitCode": 0, "stdout": f.Params.Command, "stderr": ""}, "error": nil})
	}()
	if out, code, err := b.run(o.s.GetSessionId(), "id"); err != nil || out != "id" || code != 0 {
		t.Errorf("%q, %d, %v", out, code, err)
	}
}
