package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"

	"github.com/hanzoai/hanzod/client"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

const (
	// nodeID is the node in a process of its own; nearID the one in this process, which is how the
	// original was measured: fewer processes have to wake each other for each call.
	nodeID = "bench-node"
	nearID = "bench-near"
	// nodeCommand is one that every node may offer and that needs no approval.
	nodeCommand = "system.notify"
	// nodeUp is what the node process says when it is connected.
	nodeUp = "connected"
)

func benchNode(id string) who {
	return who{ID: "node-host", Mode: "node", Role: "node", Instance: id, Commands: []string{nodeCommand}}
}

// answerInvokes is a node that answers every invoke at once, until ctx ends or the daemon goes.
func answerInvokes(ctx context.Context, addr, token, id string, up func()) error {
	s, err := connect(context.WithoutCancel(ctx), addr, token, benchNode(id))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, s.close)
	defer stop()
	up()
	var out []byte
	for {
		m, err := s.read()
		if err != nil {
			return nil // the daemon stopped, or this was told to
		}
		if !strings.HasPrefix(string(m[:min(len(m), 64)]), `{"type":"event","event":"node.invoke.request"`) {
			continue
		}
		invoke := between(m, `"id":"`)
		if invoke == nil {
			return fmt.Errorf("an invoke without id came: %s", m)
		}
		out = append(out[:0], `{"type":"req","id":"r","method":"node.invoke.result","params":{"id":"`...)
		out = append(out, invoke...)
		out = append(out, `","nodeId":"`+id+`","ok":true,"payloadJSON":"{\"ok\":true}"}}`...)
		if err := s.write(out); err != nil {
			return nil // as above
		}
	}
}

// linkedID is the node that is linked by gRPC, in a process of its own.
const linkedID = "bench-linked"

// answerLinked is answerInvokes over gRPC: at the local socket, or over TLS.
func answerLinked(ctx context.Context, to string, up func()) error {
	o := client.Options{Socket: to, AsNode: true}
	if addr, pin, remote := strings.Cut(to, "="); remote {
		o = client.Options{Host: addr, TLSFingerprint: pin, Token: token, AsNode: true}
	}
	c, err := client.Dial(ctx, o)
	if err != nil {
		return err
	}
	defer c.Close()
	payload := `{"ok":true}`
	l, err := c.AttachNode(ctx, client.NodeOptions{
		Registration: &nodesv1.NodeRegistration{
			InstanceId: linkedID, ClientId: "node-host", ClientMode: "node", Version: "1", Platform: "linux", Commands: []string{nodeCommand},
		},
		OnInvoke: func(l *client.NodeLink, i *nodesv1.NodeInvoke) {
			_ = l.Answer(&nodesv1.NodeResult{InvokeId: i.GetInvokeId(), Ok: true, PayloadJson: &payload}) // the daemon stopped then
		},
	})
	if err != nil {
		return err
	}
	defer l.Close()
	up()
	select {
	case <-l.Done():
	case <-ctx.Done():
	}
	return nil
}

// links measures an invoke of a node that is linked by gRPC, as apart measures one at a WebSocket.
func (b *bench) links(ctx context.Context) error {
	d, err := b.loaded(ctx)
	if err != nil {
		return err
	}
	c, err := client.Dial(ctx, client.Options{Socket: d.socket})
	if err != nil {
		return err
	}
	defer c.Close()
	st, err := c.System.GetStatus(ctx, &systemv1.GetStatusRequest{})
	if err != nil {
		return err
	}
	for _, x := range []struct{ name, to string }{
		{"link/socket", d.socket}, {"link/tls", st.GetGrpcListen() + "=" + st.GetTlsFingerprint()},
	} {
		h, err := startHelper(ctx, "-linked", x.to)
		if err != nil {
			return err
		}
		err = b.legacy(ctx, x.name, inFlight, func(p string) string { return invokeFrame(linkedID, p) })
		h.stop()
		if err != nil {
			return fmt.Errorf("%s: %w", x.name, err)
		}
	}
	return nil
}

// helper is this program in another part, as a process of its own.
type helper struct {
	cancel context.CancelFunc
	ended  chan error
	// said is the first line of its output.
	said string
}

// startHelper runs this program with the arguments and waits for its first line.
func startHelper(ctx context.Context, args ...string) (*helper, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	c := exec.CommandContext(ctx, self, args...)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		cancel()
		return nil, err
	}
	if err := c.Start(); err != nil {
		cancel()
		return nil, err
	}
	h := &helper{cancel: cancel, ended: make(chan error, 1)}
	line, err := bufio.NewReader(out).ReadString('\n')
	go func() { h.ended <- c.Wait() }()
	if h.said = strings.TrimSpace(line); err != nil {
		h.stop()
		return nil, fmt.Errorf("%s did not start: %w", strings.Join(args, " "), err)
	}
	return h, nil
}

func (h *helper) stop() {
	h.cancel()
	<-h.ended
}

func startNode(ctx context.Context, addr string) (*helper, error) {
	return startHelper(ctx, "-node", addr)
}

// serveRelay answers one connection: it sends back what it gets, or what it gets from the address
// after passing it on. That is the least that a gateway between two processes can do.
func serveRelay(ctx context.Context, to string) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var up net.Conn
	if to != "none" {
		var d net.Dialer
		if up, err = d.DialContext(ctx, "tcp", to); err != nil {
			return err
		}
		defer up.Close()
	}
	fmt.Println(l.Addr())
	c, err := l.Accept()
	if err != nil {
		return nil // it was told to stop
	}
	defer c.Close()
	buf := make([]byte, echoSize)
	for {
		if _, err := io.ReadFull(c, buf); err != nil {
			return nil // the other side is done
		}
		if up != nil {
			if _, err := up.Write(buf); err != nil {
				return err
			}
			if _, err := io.ReadFull(up, buf); err != nil {
				return err
			}
		}
		if _, err := c.Write(buf); err != nil {
			return err
		}
	}
}
