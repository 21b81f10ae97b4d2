package robustness

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// Either side of a technician session is killed at random points of its life: nothing of it is left, and the node can
// be held again.
func TestTechKill(t *testing.T) {
	longOnly(t)
	for _, side := range []string{"node", "daemon"} {
		t.Run(side, func(t *testing.T) {
			seed := time.Now().UnixNano()
			t.Logf("seed %d", seed)
			h := newTechHouse(t)
			r := rand.New(rand.NewSource(seed))
			points := map[string]int{}
			for round := range rounds(t, 100) {
				points[h.round(round, side, time.Duration(r.Intn([]int{10, 100, 600, 2000}[r.Intn(4)]))*time.Millisecond)]++
				if t.Failed() {
					t.Fatalf("round %d", round)
				}
			}
			t.Logf("killed after: %v", points)
		})
	}
}

type techHouse struct {
	*proc.Daemon
	t     *testing.T
	node  *proc.Command
	state string // of the node
	root  string
	tech  tunnelv1.TechSessionServiceClient
	id    string // of the node
	mark  string // of what runs in sessions
}

func newTechHouse(t *testing.T) *techHouse {
	t.Helper()
	h := &techHouse{t: t, Daemon: proc.Start(t, proc.Options{Config: map[string]any{
		"tunnel": map[string]any{"tech": map[string]any{"commandsPerMinute": 10_000}},
	}}), state: proc.Dir(t), root: proc.Dir(t), mark: fmt.Sprint(100_000_000+os.Getpid()) + "."}
	conn, err := grpc.NewClient("unix:"+h.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	h.tech = tunnelv1.NewTechSessionServiceClient(conn)
	h.offer()
	c := h.Client(t)
	proc.Until(t, "the node", func() bool {
		l, err := c.Nodes.ListNodes(t.Context(), &nodesv1.ListNodesRequest{ConnectedOnly: true})
		if err != nil || len(l.GetNodes()) == 0 {
			return false
		}
		h.id = l.GetNodes()[0].GetNodeId()
		return true
	})
	return h
}

func (h *techHouse) offer() {
	h.node = proc.Run(h.t, h.state, proc.Build(h.t, "hanzod", proc.Tested), []string{"HANZOD_SOCKET=" + h.Socket(), "SHELL=/bin/sh"},
		"node", "--state-dir", h.state, "--port", fmt.Sprint(h.Port), "--security", "full", "--ask", "off", "--files-root", h.root, "--display-name", "box")
}

// hold opens a session as soon as the node is there.
func (h *techHouse) hold(ctx context.Context) (string, error) {
	out, err := h.tech.Open(ctx, &tunnelv1.TechSessionServiceOpenRequest{NodeId: h.id}, grpc.WaitForReady(true))
	return out.GetSession().GetSessionId(), err
}

// running are the processes of sessions.
func (h *techHouse) running() (out []string) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range all {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), "\x00"+h.mark) {
			out = append(out, strings.ReplaceAll(strings.Trim(string(b), "\x00"), "\x00", " ")+" "+strings.Split(f, "/")[2])
		}
	}
	return out
}

// work uses a session: a terminal with a job of its own, a command and an upload, then closes it. It returns at its first
// failure, and reached says how far it came.
func (h *techHouse) work(ctx context.Context, round int, session string, reached func(string)) error {
	join := func(id string, kind tunnelv1.TechKind) (grpc.BidiStreamingClient[tunnelv1.TechSessionServiceChannelRequest, tunnelv1.TechSessionServiceChannelResponse], error) {
		s, err := h.tech.Channel(ctx)
		if err == nil {
			err = s.Send(&tunnelv1.TechSessionServiceChannelRequest{Item: &tunnelv1.TechSessionServiceChannelRequest_Join{
				Join: &tunnelv1.TechJoin{SessionId: session, ChannelId: id, Kind: kind},
			}})
		}
		if err == nil {
			_, err = s.Recv()
		}
		return s, err
	}
	say := func(s grpc.BidiStreamingClient[tunnelv1.TechSessionServiceChannelRequest, tunnelv1.TechSessionServiceChannelResponse], m message.Message) error {
		return s.Send(&tunnelv1.TechSessionServiceChannelRequest{Item: &tunnelv1.TechSessionServiceChannelRequest_Message{
			Message: &tunnelv1.TechMessage{Type: m.Type, Payload: m.Payload, Data: m.Data},
		}})
	}
	term, err := join("term", tunnelv1.TechKind_TECH_KIND_TERMINAL)
	if err == nil {
		// A job in a group of its own, one that ignores what hangs up, and the foreground.
		script := fmt.Sprintf("set -m; sleep %s1%d & (trap '' HUP TERM INT; sleep %s2%d; true) & echo up; sleep %s3%d", h.mark, round, h.mark, round, h.mark, round)
		err = say(term, message.Of(message.TypeOpen, message.TerminalOpen{Argv: []string{"sh", "-c", script}}, nil))
	}
	for err == nil {
		var m *tunnelv1.TechSessionServiceChannelResponse
		if m, err = term.Recv(); err == nil && strings.Contains(string(m.GetMessage().GetData()), "up") {
			break
		}
	}
	if err != nil {
		return err
	}
	reached("terminal")
	command, err := join("command", tunnelv1.TechKind_TECH_KIND_TERMINAL)
	if err == nil {
		err = say(command, message.Of(message.TypeCommand, message.Command{Command: fmt.Sprintf("echo up; sleep %s4%d", h.mark, round)}, nil))
	}
	if err == nil {
		_, err = command.Recv()
	}
	if err != nil {
		return err
	}
	reached("command")
	file, err := join("file", tunnelv1.TechKind_TECH_KIND_FILE)
	if err != nil {
		return err
	}
	piece := make([]byte, message.MaxData)
	for i := range int64(40) {
		p := message.FileWrite{Path: filepath.Join(h.root, "f"), Upload: "upload-" + strconv.Itoa(round), Offset: i * int64(len(piece)), EOF: i == 39}
		if err := say(file, message.Of(message.TypeWrite, p, piece)); err != nil {
			return err
		}
		m, err := file.Recv()
		if err != nil {
			return err
		}
		if m.GetMessage().GetType() != message.TypeAck {
			return fmt.Errorf("%s %s", m.GetMessage().GetType(), m.GetMessage().GetPayload())
		}
	}
	reached("file")
	return nil
}

// round kills a side after a while and looks at what is left. It returns how far the session was.
func (h *techHouse) round(round int, side string, after time.Duration) string {
	t := h.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	at, session := make(chan string, 8), ""
	if round%4 != 3 { // else the kill falls into the opening
		proc.UntilFor(t, time.Minute, "the node is held", func() bool {
			var err error
			session, err = h.hold(ctx)
			return err == nil
		})
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(at)
		if session == "" {
			s, err := h.hold(ctx)
			if err != nil {
				return
			}
			session = s
		}
		at <- "open"
		if err := h.work(ctx, round, session, func(s string) { at <- s }); err != nil {
			return
		}
		if round%2 == 0 {
			if _, err := h.tech.Close(ctx, &tunnelv1.TechSessionServiceCloseRequest{SessionId: session}); err == nil {
				at <- "closed"
			}
		}
	}()
	time.Sleep(after)
	if side == "node" {
		h.node.End(syscall.SIGKILL)
	} else {
		h.Kill()
	}
	time.AfterFunc(10*time.Second, cancel)
	if side == "node" {
		// What waits for the node ends by itself.
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			t.Error("a client waits for a node that was killed")
		}
	}
	if side == "daemon" {
		proc.Until(t, "the programs have ended without the daemon", func() bool { return len(h.running()) == 0 })
		if round%5 != 0 { // one that stays comes back later and later
			h.node.End(syscall.SIGTERM)
		}
		h.Start()
		if round%5 != 0 {
			h.offer()
		}
	}
	cancel()
	<-ended
	reached := "opening"
	for s := range at {
		reached = s
	}
	proc.Until(t, fmt.Sprintf("the programs have ended: %v", h.running()), func() bool { return len(h.running()) == 0 })
	parts, _ := filepath.Glob(filepath.Join(h.root, ".hanzo-part-*"))
	for _, p := range parts { // uploads could go on here
		_ = os.Remove(p)
	}
	// The rows are closed.
	var last []*tunnelv1.TechSession
	proc.UntilFor(t, 65*time.Second, "no session is active", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		out, err := h.tech.List(ctx, &tunnelv1.TechSessionServiceListRequest{Limit: 2}, grpc.WaitForReady(true))
		last = out.GetSessions()
		for _, s := range last {
			if s.GetStatus() != tunnelv1.TechStatus_TECH_STATUS_CLOSED {
				return false
			}
		}
		return err == nil
	})
	want := map[string]string{"node": "node_disconnected", "daemon": "daemon_restarted"}[side]
	for _, s := range last {
		if s.GetSessionId() == session && reached != "closed" && s.GetReason() != want && (reached != "file" || s.GetReason() != "closed") {
			t.Errorf("the session was closed for %q, not %q, after %s", s.GetReason(), want, reached)
		}
		if s.GetClosedAt() == nil || len(s.GetChannels()) > 0 {
			t.Errorf("%v", s)
		}
	}
	if side == "node" {
		h.offer()
	}
	// No lock is left: the node can be held, and works.
	again, herr := "", error(nil)
	defer func() {
		if again == "" {
			t.Logf("holding it again: %v", herr)
		}
	}()
	proc.UntilFor(t, time.Minute, "the node is held again", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		again, herr = h.hold(ctx)
		return herr == nil
	})
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	run, err := h.tech.Run(ctx, &tunnelv1.TechSessionServiceRunRequest{SessionId: again, Command: "echo works"})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := run.Recv(); err != nil || string(m.GetStdout()) != "works\n" {
		t.Errorf("%v %v", m, err)
	}
	if _, err := h.tech.Close(ctx, &tunnelv1.TechSessionServiceCloseRequest{SessionId: again}); err != nil {
		t.Error(err)
	}
	return reached
}
