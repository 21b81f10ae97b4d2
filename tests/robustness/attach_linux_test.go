package robustness

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// What a cut network costs: the daemon asks a silent node after 20 s and gives it 20 s (runtime/rpc,
// linkAfter and linkWait), a node gives its daemon two heartbeats of 30 s, an operator asks after 20 s and waits
// 10 s (client, pingAfter and pingWait). Both sides have twoHeartbeats.
const (
	// backTime is in how much time everybody is back after the network is.
	backTime = 5 * time.Second
	// shortCut is a cut that nobody is to notice.
	shortCut = 3 * time.Second
)

// attached is a daemon, a node and an operator, each on a machine of its own, linked by TLS.
type attached struct {
	t            *testing.T
	d, n, o      *station
	daemon, node *proc.Command
	events       *proc.Command // what the operator follows
	pin          string
}

func newAttached(t *testing.T) *attached {
	t.Helper()
	w := newWires(t)
	a := &attached{t: t, d: w.station(), n: w.station(), o: w.station()}
	hanzod := proc.Build(t, "hanzod", proc.Tested)
	a.daemon = a.d.daemon(fmt.Sprintf(`{gateway: {bind: "lan", auth: {mode: "token", token: %q}}}`, proc.Token))
	a.pin = strings.TrimSpace(a.d.run(nil, hanzod, "tls", "fingerprint", "--state-dir", a.d.home).Wait(t, proc.Patience).Stdout.String())
	state := a.n.home + "/node"
	a.n.file("node/exec-approvals.json", `{"version":1,"defaults":{"security":"full","ask":"off"}}`)
	invite := a.d.run(nil, proc.Build(t, "hanzoctl", proc.Tested), "--state-dir", a.d.home, "devices", "invite", "--role", "node", "-q").Wait(t, proc.Patience)
	a.node = a.n.run(nil, hanzod, "node", "--state-dir", state, "--display-name", "far", "--enroll", "@"+a.n.file("code", invite.Stdout.String()))
	proc.Until(t, "the node is let in", func() bool { return a.connects() == 1 || a.node.Ended() })
	if a.node.Ended() {
		t.Fatalf("the node is not let in: %s%s", invite.Stderr, a.node.Stderr)
	}
	a.o.file("token", proc.Token)
	a.events = a.ctl("nodes", "watch", "-o", "jsonl")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the operator says %s%s\nthe node says %s", a.events.Stdout, a.events.Stderr, a.node.Stderr)
		}
	})
	proc.Until(t, "the operator sees the node", func() bool { return strings.Contains(a.events.Stdout.String(), "PRESENT") })
	return a
}

// ctl is hanzoctl at the operator's machine.
func (a *attached) ctl(args ...string) *proc.Command {
	a.t.Helper()
	flags := []string{"--host", "hanzod://" + a.d.addr, "--token-file", a.o.home + "/token", "--tls-fingerprint", a.pin}
	return a.o.run(nil, proc.Build(a.t, "hanzoctl", proc.Tested), append(flags, args...)...)
}

func (a *attached) connects() int {
	return strings.Count(a.node.Stderr.String(), "connected to the gateway")
}

// here asks at the daemon's own socket whether the node, which it knows, is online.
func (a *attached) here() bool {
	a.t.Helper()
	c := a.d.run(nil, proc.Build(a.t, "hanzoctl", proc.Tested), "--state-dir", a.d.home, "nodes", "list", "-o", "json").Wait(a.t, proc.Patience)
	var list struct {
		Nodes []struct{ Connected bool }
	}
	if err := json.Unmarshal([]byte(c.Stdout.String()), &list); err != nil || len(list.Nodes) != 1 {
		a.t.Fatalf("%v: %s %s", err, c.Stdout, c.Stderr)
	}
	return list.Nodes[0].Connected
}

// run starts a command on the node from the daemon's own machine.
func (a *attached) run(script string) *proc.Command {
	a.t.Helper()
	return a.d.run(nil, proc.Build(a.t, "hanzoctl", proc.Tested), "--state-dir", a.d.home, "nodes", "invoke", "far", "system.run",
		"--params", fmt.Sprintf(`{"command":["/bin/sh","-c",%q]}`, script), "--timeout", "5m")
}

// works demands that a command from the operator reaches the node.
func (a *attached) works() {
	a.t.Helper()
	if c := a.ctl("nodes", "run", "far", "--", "echo", "works").Wait(a.t, proc.Patience); c.Code != 0 || !strings.Contains(c.Stdout.String(), "works") {
		a.t.Errorf("%d %s %s", c.Code, c.Stdout, c.Stderr)
	}
}

// TestShortCut: a network that is silent for seconds costs nobody a connection, nor a call that is under
// way.
func TestShortCut(t *testing.T) {
	t.Parallel()
	a := newAttached(t)
	call := a.run("sleep 2; echo survived")
	proc.Until(t, "the command runs", func() bool { return strings.Contains(a.daemon.Stderr.String(), "is ready") })
	time.Sleep(500 * time.Millisecond) // it is on its way
	a.n.cut()
	a.o.cut()
	time.Sleep(shortCut)
	if call.Ended() {
		t.Fatalf("the cut cuts nothing: %s", call.Stdout)
	}
	a.n.join()
	a.o.join()
	if call.Wait(t, proc.Patience); call.Code != 0 || !strings.Contains(call.Stdout.String(), "survived") {
		t.Errorf("%d %s %s", call.Code, call.Stdout, call.Stderr)
	}
	a.works()
	if a.connects() != 1 || a.events.Ended() || strings.Contains(a.events.Stderr.String(), "away") {
		t.Errorf("connected %d times; the watch says %q", a.connects(), a.events.Stderr)
	}
}

// TestRestartOverTLS: node and operator come back by themselves after a restart of the daemon.
func TestRestartOverTLS(t *testing.T) {
	t.Parallel()
	a := newAttached(t)
	a.daemon.End(syscall.SIGTERM)
	a.daemon = a.d.run(nil, proc.Build(t, "hanzod", proc.Tested), "run", "--state-dir", a.d.home)
	proc.Until(t, "the daemon is ready", func() bool { return strings.Contains(a.daemon.Stderr.String(), "hanzod is ready") })
	began := time.Now()
	proc.UntilFor(t, backTime, "both are back", func() bool {
		return a.connects() == 2 && strings.Contains(a.events.Stderr.String(), "is back")
	})
	t.Logf("back after %v", time.Since(began))
	a.works()
}

// TestSilentNetwork: when the network between the machines goes silent, both sides notice within two
// heartbeats, what was under way fails by then, and both are back by themselves within seconds of its return,
// at whatever address and however long it was away (R13).
func TestSilentNetwork(t *testing.T) {
	longOnly(t)
	for name, c := range map[string]struct {
		away time.Duration // beyond the time in which it is noticed
		addr string        // of the node, after
	}{
		"brief": {}, "long": {away: 90 * time.Second}, "moved": {addr: "198.18.0.77"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAttached(t)
			call := a.run("sleep 300")
			ended := make(chan time.Time, 1)
			time.Sleep(time.Second) // it is on its way
			began := time.Now()
			a.n.cut()
			a.o.cut()
			go func() {
				call.Wait(t, twoHeartbeats+pollSlack)
				ended <- time.Now()
			}()
			if c.addr != "" {
				a.n.move(c.addr)
			}
			noticed := map[string]time.Duration{}
			notice := func(who string, ok func() bool) {
				t.Helper()
				proc.UntilFor(t, twoHeartbeats+pollSlack-time.Since(began), who+" notices", ok)
				noticed[who] = time.Since(began).Round(100 * time.Millisecond)
			}
			notice("operator", func() bool { return strings.Contains(a.events.Stderr.String(), "is away") })
			notice("daemon", func() bool { return !a.here() })
			notice("node", func() bool { return strings.Contains(a.node.Stderr.String(), "retryIn") })
			noticed["call"] = (<-ended).Sub(began).Round(100 * time.Millisecond)
			if call.Code == 0 || !strings.Contains(call.Stderr.String(), "disconnected") {
				t.Errorf("the call ended with %d: %s", call.Code, call.Stderr)
			}
			t.Logf("noticed after %v", noticed)
			time.Sleep(c.away)
			before := a.connects()
			a.n.join()
			a.o.join()
			began = time.Now()
			proc.UntilFor(t, backTime, "the node is back", func() bool { return a.connects() > before })
			proc.UntilFor(t, backTime-time.Since(began), "the operator is back", func() bool { return strings.Contains(a.events.Stderr.String(), "is back") })
			t.Logf("back after %v", time.Since(began))
			a.works()
			if c.addr != "" && !strings.Contains(a.ctl("nodes", "list").Wait(t, proc.Patience).Stdout.String(), c.addr) {
				t.Error("the list has the old address")
			}
		})
	}
}
