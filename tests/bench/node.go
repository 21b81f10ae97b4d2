package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

const (
	nodeID = "bench-node"
	// nodeCommand is one that every node may offer and that needs no approval.
	nodeCommand = "system.notify"
	// nodeUp is what the node process says when it is connected.
	nodeUp = "connected"
)

var benchNode = who{ID: "node-host", Mode: "node", Role: "node", Instance: nodeID, Commands: []string{nodeCommand}}

// answerInvokes is a node that answers every invoke at once, until ctx ends or the daemon goes.
func answerInvokes(ctx context.Context, addr, token string, up func()) error {
	s, err := connect(context.WithoutCancel(ctx), addr, token, benchNode)
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
		id := between(m, `"id":"`)
		if id == nil {
			return fmt.Errorf("an invoke without id came: %s", m)
		}
		out = append(out[:0], `{"type":"req","id":"r","method":"node.invoke.result","params":{"id":"`...)
		out = append(out, id...)
		out = append(out, `","nodeId":"`+nodeID+`","ok":true,"payloadJSON":"{\"ok\":true}"}}`...)
		if err := s.write(out); err != nil {
			return nil // as above
		}
	}
}

// nodeProcess is this program as a node.
type nodeProcess struct {
	cancel context.CancelFunc
	ended  chan error
}

func startNode(ctx context.Context, addr string) (*nodeProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	c := exec.CommandContext(ctx, self, "-node", addr)
	c.Stderr = os.Stderr
	said, err := c.StdoutPipe()
	if err != nil {
		cancel()
		return nil, err
	}
	if err := c.Start(); err != nil {
		cancel()
		return nil, err
	}
	n := &nodeProcess{cancel: cancel, ended: make(chan error, 1)}
	line, err := bufio.NewReader(said).ReadString('\n')
	go func() { n.ended <- c.Wait() }()
	if err != nil || strings.TrimSpace(line) != nodeUp {
		n.stop()
		return nil, errors.New("the node did not connect")
	}
	return n, nil
}

func (n *nodeProcess) stop() {
	n.cancel()
	<-n.ended
}
