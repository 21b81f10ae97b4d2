package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// ran is how many commands are run one after the other.
const ran = 400

// ownFile is where a daemon keeps the exec approvals file of its own machine.
const ownFile = "exec-approvals.json"

// commands measures the run of a command on the list of a real node host, from the caller and back.
func (b *bench) commands(ctx context.Context) error {
	dir := filepath.Join(b.dir, "commands")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file := `{"version":1,"agents":{"main":{"security":"allowlist","ask":"on-miss","allowlist":[{"pattern":"/**/true"}]}}}`
	if err := os.WriteFile(filepath.Join(dir, ownFile), []byte(file), 0o600); err != nil {
		return err
	}
	d, err := startDaemon(ctx, b.prog.hanzod, dir, "--node")
	if err != nil {
		return err
	}
	defer func() { _, _ = d.stop() }() // it was measured
	s, err := connect(ctx, d.addr, token, operator)
	if err != nil {
		return err
	}
	defer s.close()
	node, err := ownNode(s)
	if err != nil {
		return err
	}
	n := uint32(10)
	frame := newNumbered(`{"type":"req","id":"########","method":"node.invoke","params":{"nodeId":"` + node +
		`","command":"system.run","params":{"command":["true"]},"idempotencyKey":"run-########"}}`)
	took, err := once(ctx, ran, func() (time.Duration, error) {
		n++
		began := time.Now()
		err := s.call(frame.with(n))
		return time.Since(began), err
	})
	if err != nil {
		return err
	}
	b.rep.times("run/listed/p50", []time.Duration{median(took)})
	return nil
}

// ownNode waits for the node of the daemon itself and returns its id.
func ownNode(s *socket) (string, error) {
	deadline := time.Now().Add(readyTime)
	for n := uint32(1); time.Now().Before(deadline); n++ {
		frame := newNumbered(`{"type":"req","id":"########","method":"node.list","params":{}}`)
		if err := s.write(frame.with(n)); err != nil {
			return "", err
		}
		m, err := s.read()
		if err != nil {
			return "", err
		}
		var answer struct {
			Payload struct {
				Nodes []struct{ NodeID string }
			}
		}
		if err := json.Unmarshal(m, &answer); err == nil && len(answer.Payload.Nodes) > 0 {
			return answer.Payload.Nodes[0].NodeID, nil
		}
		<-time.After(probeEvery)
	}
	return "", fmt.Errorf("the daemon's own node does not connect")
}
