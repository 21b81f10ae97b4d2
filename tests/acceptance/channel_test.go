//go:build linux

package acceptance

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// sequenced checks the output of seq 1 … as it comes: every byte in order, with the carriage returns of a terminal.
type sequenced struct {
	next  int
	want  []byte
	bytes int64
	err   error
}

func (s *sequenced) Write(p []byte) (int, error) {
	n := len(p)
	s.bytes += int64(n)
	for len(p) > 0 && s.err == nil {
		if len(s.want) == 0 {
			s.next++
			s.want = fmt.Appendf(s.want, "%d\r\n", s.next)
		}
		k := min(len(s.want), len(p))
		if !bytes.Equal(p[:k], s.want[:k]) {
			s.err = fmt.Errorf("byte %d: %q instead of %q", s.bytes-int64(len(p)), p[:k], s.want[:k])
		}
		p, s.want = p[k:], s.want[k:]
	}
	return n, s.err
}

// attachTerminal joins a terminal from its first byte.
func attachTerminal(t *testing.T, c *client.Client, id string, more func(*tunnelv1.TerminalAttach)) tunnelv1.TerminalService_AttachClient {
	t.Helper()
	s, err := c.Terminals.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	zero := int64(0)
	a := &tunnelv1.TerminalAttach{TerminalId: id, From: &zero}
	if more != nil {
		more(a)
	}
	if err := s.Send(&tunnelv1.TerminalServiceAttachRequest{Message: &tunnelv1.TerminalServiceAttachRequest_Attach{Attach: a}}); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Recv(); err != nil || m.GetAttached() == nil {
		t.Fatalf("%v, %v", m, err)
	}
	return s
}

// nodeWithTerminals waits for a connected node that offers terminals.
func nodeWithTerminals(t *testing.T, c *client.Client, not string) string {
	t.Helper()
	id := ""
	proc.Until(t, "a node with terminals", func() bool {
		l, err := c.Nodes.ListNodes(t.Context(), &nodesv1.ListNodesRequest{ConnectedOnly: true})
		if err != nil {
			return false
		}
		for _, n := range l.GetNodes() {
			for _, command := range n.GetCommands() {
				if command == "terminal.open" && n.GetNodeId() != not {
					id = n.GetNodeId()
				}
			}
		}
		return id != ""
	})
	return id
}

// grpcNode is a node in a process of its own, by gRPC at the daemon's socket.
func grpcNode(t *testing.T, d *proc.Daemon, state string) *proc.Command {
	t.Helper()
	return proc.Run(t, state, proc.Build(t, "hanzod", proc.Tested), []string{"HANZOD_SOCKET=" + d.Socket()}, "node", "--state-dir", state, "--port", fmt.Sprint(d.Port), "--security", "full", "--ask", "off")
}

// linkedNode is one at the JSON link.
func linkedNode(t *testing.T, d *proc.Daemon, state string) *proc.Command {
	t.Helper()
	return proc.Run(t, state, proc.Build(t, "hanzod", proc.Tested), []string{"TUNNEL_URL=" + strings.Replace(d.WS(), "ws://", "ws://node:"+proc.Token+"@", 1) + "/v1/tunnel"}, "node", "--state-dir", state)
}

var terminalNodes = map[string]func(*testing.T, *proc.Daemon, string) *proc.Command{"grpc": grpcNode, "link": linkedNode}

// 100 MB of output through a viewer that reads slowly: memory is flat, every byte comes in order, and the exit code
// after the last.
func TestH14(t *testing.T) {
	accept(t, "H14")
	seq, err := exec.LookPath("seq")
	if err != nil {
		notHere(t, "H14", "there is no seq")
	}
	const (
		last    = 11_300_000 // 101,888,897 bytes with carriage returns
		pauses  = 20         // of the viewer, spread over the output
		pause   = 150 * time.Millisecond
		maxMore = 24 << 20
	)
	for via, start := range terminalNodes {
		t.Run(via, func(t *testing.T) {
			d := proc.Start(t, proc.Options{})
			c := d.Client(t)
			node := start(t, d, proc.Dir(t))
			id := nodeWithTerminals(t, c, "")
			out, err := c.Terminals.Open(t.Context(), &tunnelv1.TerminalServiceOpenRequest{NodeId: id, Argv: []string{seq, "1", fmt.Sprint(last)}})
			if err != nil {
				t.Fatal(err)
			}
			s := attachTerminal(t, c, out.GetTerminal().GetTerminalId(), nil)
			time.Sleep(time.Second) // nobody reads: all buffers on the way fill
			daemon, host := proc.Private(t, d.PID()), proc.Private(t, node.PID())
			var most [2]int64
			check, paused, began := &sequenced{}, int64(0), time.Now()
			for {
				m, err := s.Recv()
				if err != nil {
					t.Fatalf("%v after %d bytes", err, check.bytes)
				}
				if n := m.GetMissed().GetBytes(); n > 0 {
					t.Fatalf("%d bytes were missed after %d", n, check.bytes)
				}
				if e := m.GetExit(); e != nil {
					if e.Code == nil || e.GetCode() != 0 {
						t.Errorf("%v", e)
					}
					break
				}
				if _, err := check.Write(m.GetOutput().GetData()); err != nil {
					t.Fatal(err)
				}
				if check.bytes/(100<<20/pauses) > paused {
					paused++
					time.Sleep(pause)
					most[0] = max(most[0], proc.Private(t, d.PID()))
					most[1] = max(most[1], proc.Private(t, node.PID()))
				}
			}
			if _, err := s.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("%v after the exit", err)
			}
			if check.next != last || len(check.want) != 0 {
				t.Errorf("the output ends at %d", check.next)
			}
			took := time.Since(began)
			t.Logf("%d bytes in %v, %.0f MB/s; the daemon had %d KiB, at most %d; the node %d, at most %d", check.bytes, took,
				float64(check.bytes)/1e6/took.Seconds(), daemon>>10, most[0]>>10, host>>10, most[1]>>10)
			for i, base := range []int64{daemon, host} {
				if most[i] > base+maxMore && !proc.Race {
					t.Errorf("memory grew from %d to %d KiB (%s)", base>>10, most[i]>>10, []string{"daemon", "node"}[i])
				}
			}
		})
	}
}

// The same terminal goes on when the daemon is killed, and is told to have ended when its node is.
func TestH14Kill(t *testing.T) {
	accept(t, "H14")
	for via, start := range terminalNodes {
		t.Run(via, func(t *testing.T) {
			d := proc.Start(t, proc.Options{})
			c := d.Client(t)
			node := start(t, d, proc.Dir(t))
			id := nodeWithTerminals(t, c, "")
			out, err := c.Terminals.Open(t.Context(), &tunnelv1.TerminalServiceOpenRequest{NodeId: id, Argv: []string{"/bin/sh", "-c", "stty -echo; echo ready; while read x; do echo got $x; done"}})
			if err != nil {
				t.Fatal(err)
			}
			tid := out.GetTerminal().GetTerminalId()
			until := func(s tunnelv1.TerminalService_AttachClient, text string) {
				t.Helper()
				var all []byte
				for !bytes.Contains(all, []byte(text)) {
					m, err := s.Recv()
					if err != nil {
						t.Fatalf("%v after %q", err, all)
					}
					all = append(all, m.GetOutput().GetData()...)
				}
			}
			input := func(s tunnelv1.TerminalService_AttachClient, text string) {
				t.Helper()
				if err := s.Send(&tunnelv1.TerminalServiceAttachRequest{Message: &tunnelv1.TerminalServiceAttachRequest_Input{Input: []byte(text)}}); err != nil {
					t.Fatal(err)
				}
			}
			s := attachTerminal(t, c, tid, nil)
			until(s, "ready")
			input(s, "one\n")
			until(s, "got one")
			d.Kill()
			d.Start()
			c = d.Client(t)
			proc.UntilFor(t, time.Minute, "the terminal is joined again", func() bool {
				l, err := c.Terminals.List(t.Context(), &tunnelv1.TerminalServiceListRequest{})
				return err == nil && len(l.GetTerminals()) == 1 && l.GetTerminals()[0].GetConnected() && l.GetTerminals()[0].GetTerminalId() == tid
			})
			s = attachTerminal(t, c, tid, nil)
			input(s, "two\n")
			until(s, "got two")
			node.End(9)
			start(t, d, proc.Dir(t)) // another node: its terminals are its own
			if via == "grpc" {
				return // it is away, and comes back or not
			}
			for {
				m, err := s.Recv()
				if err != nil {
					t.Fatal(err)
				}
				if l := m.GetLink(); l != nil && !l.GetConnected() {
					return
				}
			}
		})
	}
}
