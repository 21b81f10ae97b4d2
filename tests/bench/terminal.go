package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/creack/pty"

	"github.com/hanzoai/hanzod/client"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
)

// floods is how many bytes a program writes for each figure of a flood.
const floods = 64 << 20

// terminals measures a key and its echo, from a viewer through the gateway and a node in a process of its own to a
// terminal there and back, and a flood of output with and without another viewer that reads nothing.
func (b *bench) terminals(ctx context.Context) error {
	if err := b.keyFloor(ctx); err != nil {
		return err
	}
	d, err := startDaemon(ctx, b.prog.hanzod, filepath.Join(b.dir, "terminals"))
	if err != nil {
		return err
	}
	defer func() { _, _ = d.stop() }() // it was measured
	node := exec.CommandContext(ctx, b.prog.hanzod, "node", "--state-dir", filepath.Join(b.dir, "terminals-node"), "--port", d.addr[strings.LastIndexByte(d.addr, ':')+1:],
		"--security", "full", "--ask", "off")
	node.Env = append(cleanEnv(), "HANZOD_SOCKET="+d.socket)
	if err := node.Start(); err != nil {
		return err
	}
	defer func() { _, _ = node.Process.Kill(), node.Wait() }()
	c, err := client.Dial(ctx, client.Options{Socket: d.socket})
	if err != nil {
		return err
	}
	defer c.Close()
	id, err := terminalNode(ctx, c)
	if err != nil {
		return err
	}
	if err := b.keys(ctx, c, id); err != nil {
		return err
	}
	alone, _, err := b.flood(ctx, c, d, id, false)
	if err != nil {
		return err
	}
	beside, private, err := b.flood(ctx, c, d, id, true)
	if err != nil {
		return err
	}
	b.rep.set("terminal/flood/rate", alone)
	b.rep.set("terminal/flood/beside", beside)
	b.rep.set("terminal/flood/ratio", beside/alone)
	b.rep.set("terminal/flood/private", private/1e6)
	return nil
}

// keyFloor measures the echo of a terminal of this machine; with a round trip through a second process to a third
// it is what nothing can beat.
func (b *bench) keyFloor(ctx context.Context) error {
	master, slave, err := pty.Open()
	if err != nil {
		return err
	}
	defer master.Close()
	defer slave.Close()
	buf := make([]byte, 64)
	took, err := once(ctx, 2000, func() (time.Duration, error) {
		began := time.Now()
		if _, err := master.Write([]byte{'x'}); err != nil {
			return 0, err
		}
		_, err := master.Read(buf)
		return time.Since(began), err
	})
	if err != nil {
		return err
	}
	b.rep.times("floor/pty", []time.Duration{median(took)})
	b.rep.set("floor/key", inUnit(median(took), us)+median(b.rep.values["floor/relay"]))
	return nil
}

// terminalNode waits for a node with terminals.
func terminalNode(ctx context.Context, c *client.Client) (string, error) {
	deadline := time.Now().Add(readyTime)
	for time.Now().Before(deadline) {
		l, err := c.Nodes.ListNodes(ctx, &nodesv1.ListNodesRequest{ConnectedOnly: true})
		if err != nil {
			return "", err
		}
		if len(l.GetNodes()) > 0 {
			return l.GetNodes()[0].GetNodeId(), nil
		}
		<-time.After(probeEvery)
	}
	return "", errors.New("the node does not connect")
}

// join opens a terminal, and joins it n times.
func join(ctx context.Context, c *client.Client, node string, n int, argv ...string) ([]tunnelv1.TerminalService_AttachClient, string, error) {
	out, err := c.Terminals.Open(ctx, &tunnelv1.TerminalServiceOpenRequest{NodeId: node, Argv: argv})
	if err != nil {
		return nil, "", err
	}
	id := out.GetTerminal().GetTerminalId()
	var all []tunnelv1.TerminalService_AttachClient
	for range n {
		s, err := c.Terminals.Attach(ctx)
		if err != nil {
			return nil, id, err
		}
		if err := s.Send(&tunnelv1.TerminalServiceAttachRequest{Message: &tunnelv1.TerminalServiceAttachRequest_Attach{Attach: &tunnelv1.TerminalAttach{TerminalId: id}}}); err != nil {
			return nil, id, err
		}
		if _, err := s.Recv(); err != nil {
			return nil, id, err
		}
		all = append(all, s)
	}
	return all, id, nil
}

func typeText(s tunnelv1.TerminalService_AttachClient, text string) error {
	return s.Send(&tunnelv1.TerminalServiceAttachRequest{Message: &tunnelv1.TerminalServiceAttachRequest_Input{Input: []byte(text)}})
}

// keys measures single keys: the terminal echoes them, as it does for a person who types.
func (b *bench) keys(ctx context.Context, c *client.Client, node string) error {
	all, id, err := join(ctx, c, node, 1, "/bin/cat")
	if err != nil {
		return err
	}
	s, n := all[0], 0
	samples, err := b.plan.serial(ctx, func() error {
		key, want := "x", 1
		if n++; n%64 == 0 { // a line has an end
			key, want = "\n", 2
		}
		if err := typeText(s, key); err != nil {
			return err
		}
		if key == "\n" {
			want += 65 // cat repeats the line
		}
		for want > 0 {
			m, err := s.Recv()
			if err != nil {
				return err
			}
			want -= len(m.GetOutput().GetData())
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.rep.samples("terminal/key", samples)
	_, err = c.Terminals.Close(ctx, &tunnelv1.TerminalServiceCloseRequest{TerminalId: id})
	return err
}

// flood returns how many MB a second come to a viewer, and what the daemon holds at most, in bytes. slow adds a
// viewer that reads nothing.
func (b *bench) flood(ctx context.Context, c *client.Client, d *daemon, node string, slow bool) (rate, private float64, err error) {
	viewers := 1
	if slow {
		viewers = 2
	}
	line := strings.Repeat("x", 127)
	all, _, err := join(ctx, c, node, viewers, "/bin/sh", "-c", fmt.Sprintf("stty raw -echo; read x; yes %s | head -c %d", line, floods))
	if err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		for ctx.Err() == nil {
			if m, err := d.memory(); err == nil {
				private = max(private, m.private)
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	<-time.After(200 * time.Millisecond) // the shell is there
	began, got := time.Now(), 0
	if err := typeText(all[0], "\n"); err != nil {
		return 0, 0, err
	}
	for {
		m, err := all[0].Recv()
		if err != nil {
			return 0, 0, err
		}
		if m.GetMissed() != nil {
			return 0, 0, errors.New("the fast viewer missed output")
		}
		got += len(m.GetOutput().GetData())
		if m.GetExit() != nil {
			break
		}
	}
	took := time.Since(began)
	cancel()
	watch.Wait()
	if got < floods {
		return 0, 0, fmt.Errorf("%d of %d bytes came", got, floods)
	}
	return float64(got) / 1e6 / took.Seconds(), private, nil
}
