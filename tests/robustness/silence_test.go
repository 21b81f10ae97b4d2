//go:build unix

package robustness

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	// twoHeartbeats is in how much time a silent node is offline (R13), and pollSlack what the
	// daemon's own rhythm may add on a busy machine.
	twoHeartbeats = 60 * time.Second
	pollSlack     = 3 * time.Second
	// goodbye is how long the client half waits for the closing handshake of a gateway that is silent.
	goodbye = 10 * time.Second
	// atOnce is in how much time a closed socket is noticed.
	atOnce = 2 * time.Second
	// pastDefault is longer than the wait of an invoke that names no limit.
	pastDefault = 33 * time.Second
)

// online reports whether a node is connected.
func online(t *testing.T, c *dial.Conn, node string) bool {
	t.Helper()
	var list struct {
		Nodes []struct {
			NodeID string `json:"nodeId"`
		} `json:"nodes"`
	}
	if err := json.Unmarshal(proc.Call(t, c, "node.list", map[string]any{"connectedOnly": true}), &list); err != nil {
		t.Fatal(err)
	}
	for _, n := range list.Nodes {
		if n.NodeID == node {
			return true
		}
	}
	return false
}

// which asks a node with a limit.
func which(c *dial.Conn, node, key string, timeoutMs int) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*twoHeartbeats)
	defer cancel()
	return c.Call(ctx, "node.invoke", map[string]any{
		"nodeId": node, "command": "system.which", "params": map[string]any{"bins": []string{"sh"}},
		"idempotencyKey": key, "timeoutMs": timeoutMs,
	})
}

// mute is a node behind a link that never answers, and a channel that tells of each invoke.
func mute(t *testing.T, d *proc.Daemon) (p *proc.Link, c *dial.Conn, node string, got chan proc.Invocation) {
	t.Helper()
	p = proc.NewLink(t, d.Addr())
	me := proc.Device(t)
	got = make(chan proc.Invocation, 16)
	o := d.Node(me, func(i proc.Invocation) any {
		got <- i
		return nil
	})
	o.URL = p.URL()
	return p, proc.Connect(t, o), me.ID, got
}

// TestR13SilentNode: a node whose network goes silent is offline within two heartbeats, and the
// calls that wait for it fail by then.
func TestR13SilentNode(t *testing.T) {
	longOnly(t)
	t.Parallel()
	d := proc.Start(t, proc.Options{})
	p, _, node, got := mute(t, d)
	op := proc.Connect(t, d.Operator(nil))
	type end struct {
		err error
		at  time.Time
	}
	ended := make(chan end, 2)
	for i, limit := range []int{0, 600_000} {
		go func() {
			_, err := which(op, node, fmt.Sprint("silent", i), limit)
			ended <- end{err, time.Now()}
		}()
		<-got
	}
	began := time.Now()
	p.Hush()
	proc.UntilFor(t, twoHeartbeats+pollSlack, "the node is offline", func() bool { return !online(t, op, node) })
	t.Logf("offline after %v", time.Since(began))
	for range 2 {
		e := <-ended
		if e.err == nil || !strings.Contains(e.err.Error(), "node disconnected") || e.at.Sub(began) > twoHeartbeats+pollSlack {
			t.Errorf("a call that waited ended after %v with %v", e.at.Sub(began), e.err)
		}
	}
}

// TestR13SilentGateway: a node host whose gateway goes silent notices it within two heartbeats, gives
// the connection up and comes back by itself.
func TestR13SilentGateway(t *testing.T) {
	longOnly(t)
	t.Parallel()
	d := proc.Start(t, proc.Options{})
	p := proc.NewLink(t, d.Addr())
	_, port, err := net.SplitHostPort(p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	home := proc.Dir(t)
	host := proc.Run(t, home, proc.Build(t, "hanzod", proc.Shipped), []string{"HANZOD_TOKEN=" + proc.Token},
		"node", "--state-dir", home, "--port", port)
	connects := func() int { return strings.Count(host.Stderr.String(), "connected to the gateway") }
	proc.Until(t, "the node is connected", func() bool { return connects() == 1 })
	began := time.Now()
	p.Hush()
	proc.UntilFor(t, twoHeartbeats+goodbye+pollSlack, "the node host has noticed", func() bool {
		return strings.Contains(host.Stderr.String(), "no connection to the gateway")
	})
	t.Logf("noticed after %v", time.Since(began))
	p.Speak()
	proc.UntilFor(t, twoHeartbeats, "the node is back", func() bool { return connects() > 1 })
}

// TestR13ZeroMeansNoLimit: an invoke with timeoutMs 0 outlives the default limit.
func TestR13ZeroMeansNoLimit(t *testing.T) {
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	me := proc.Device(t)
	got := make(chan proc.Invocation, 1)
	node := proc.Connect(t, d.Node(me, func(i proc.Invocation) any {
		got <- i
		return nil
	}))
	op := proc.Connect(t, d.Operator(nil))
	ended := make(chan error, 1)
	go func() {
		_, err := which(op, me.ID, "zero", 0)
		ended <- err
	}()
	i := <-got
	if i.TimeoutMs == nil || *i.TimeoutMs != 0 {
		t.Errorf("the node was told the limit %v; want 0", i.TimeoutMs)
	}
	wait := 100 * time.Millisecond
	if long() {
		wait = pastDefault
	}
	select {
	case err := <-ended:
		t.Fatalf("the call ended before the node answered: %v", err)
	case <-time.After(wait):
	}
	proc.Answer(node, i, map[string]any{"bins": map[string]string{}})
	if err := <-ended; err != nil {
		t.Errorf("the answer after %v: %v", wait, err)
	}
	// One that names a limit ends with it.
	began := time.Now()
	if _, err := which(op, me.ID, "limit", 50); err == nil || !strings.Contains(err.Error(), "TIMEOUT") && !strings.Contains(err.Error(), "timed out") {
		t.Errorf("a call with a limit of 50 ms ended after %v with %v", time.Since(began), err)
	}
}

// TestR13ClosedNode: a node whose connection closes, with or without a word, is offline at once, and
// the calls that wait for it fail.
func TestR13ClosedNode(t *testing.T) {
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	op := proc.Connect(t, d.Operator(nil))
	for _, how := range []string{"cut", "goodbye"} {
		p, c, node, got := mute(t, d)
		ended := make(chan error, 1)
		go func() {
			_, err := which(op, node, how, 600_000)
			ended <- err
		}()
		<-got
		began := time.Now()
		if how == "cut" {
			p.Cut()
		} else {
			_ = c.Close()
		}
		proc.UntilFor(t, atOnce, "the node is offline", func() bool { return !online(t, op, node) })
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "node disconnected") || time.Since(began) > atOnce {
			t.Errorf("%s: the waiting call ended after %v with %v", how, time.Since(began), err)
		}
	}
}

// TestR13ReplacedNode: a newer connection of a node takes its place; the end of the older one
// neither removes it nor fails its calls.
func TestR13ReplacedNode(t *testing.T) {
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	op := proc.Connect(t, d.Operator(nil))
	me := proc.Device(t)
	answer := func(proc.Invocation) any { return map[string]any{"bins": map[string]string{}} }
	var prev *dial.Conn
	for i := range 20 {
		c := proc.Connect(t, d.Node(me, answer))
		if prev != nil {
			<-prev.Done()
			if e, ok := prev.Err().(*dial.ClosedError); !ok || e.Code != 1008 {
				t.Errorf("the older connection ended with %v; want 1008", prev.Err())
			}
		}
		if !online(t, op, me.ID) {
			t.Fatalf("after %d connections the node is offline", i+1)
		}
		if _, err := which(op, me.ID, fmt.Sprint("replaced", i), 5000); err != nil {
			t.Fatalf("after %d connections: %v", i+1, err)
		}
		prev = c
	}
	_ = prev.Close()
	proc.UntilFor(t, atOnce, "the node is offline", func() bool { return !online(t, op, me.ID) })
}
