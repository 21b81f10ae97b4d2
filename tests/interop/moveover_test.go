//go:build unix

package interop

import (
	"encoding/json"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// connectedNode waits until the command line lists a node as connected, and returns its id.
func connectedNode(tb testing.TB, u *client, name string) string {
	tb.Helper()
	id, _ := theirNode(tb, u, name)["nodeId"].(string)
	return id
}

// jobNames are the jobs that the command line lists.
func jobNames(tb testing.TB, u *client) string {
	tb.Helper()
	var names []string
	list, _ := u.json(tb, "cron", "list", "--all", "--json")["jobs"].([]any)
	for _, j := range list {
		name, _ := get(j, "name").(string)
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

// pairedDevices are the devices that the command line lists; none may be waiting.
func pairedDevices(tb testing.TB, u *client) (ids []string) {
	tb.Helper()
	v := u.json(tb, "devices", "list", "--json")
	if pending, _ := v["pending"].([]any); len(pending) > 0 {
		tb.Errorf("somebody asks to be paired: %v", pending)
	}
	list, _ := v["paired"].([]any)
	for _, d := range list {
		id, _ := get(d, "deviceId").(string)
		ids = append(ids, id)
	}
	return ids
}

// sessionLabels are the labels of sessions as the gateway tells the command line.
func sessionLabels(tb testing.TB, u *client) string {
	tb.Helper()
	a := u.ok(tb, nil, "gateway", "call", "sessions.list", "--params", "{}", "--json")
	var v struct{ Sessions []struct{ Key, Label string } }
	if err := json.Unmarshal([]byte(a.stdout), &v); err != nil {
		tb.Fatalf("%v\n%s", err, a)
	}
	var out []string
	for _, s := range v.Sessions {
		out = append(out, s.Label)
	}
	return strings.Join(out, " ")
}

// TestMoveOver moves a user of the original over to hanzod and back (R12, R23): command line and node host are those of the
// original, as they are, and neither is paired again.
func TestMoveOver(t *testing.T) {
	theClient(t)
	u, port, gateway := theirGateway(t, token)
	old := u.path("state")
	host := newClient(t, map[string]any{}, "OPENCLAW_GATEWAY_TOKEN="+token)
	node := host.nodeHost(t, port, "the-node", true)
	nodeID := connectedNode(t, u, "the-node")
	u.ok(t, nil, "cron", "add", "--name", "before", "--every", "1h", "--session", "main", "--system-event", "hello")
	u.ok(t, nil, "gateway", "call", "sessions.patch", "--params", `{"key":"main","label":"of-before"}`, "--json")
	u.ok(t, nil, "approvals", "allowlist", "add", "/usr/bin/uptime", "--gateway")
	devices := pairedDevices(t, u)
	if len(devices) < 2 {
		t.Fatalf("paired are %v", devices)
	}

	state := filepath.Join(proc.Dir(t), "s")
	hanzod := proc.Build(t, "hanzod", proc.Tested)
	home := u.home
	c := proc.Run(t, home, hanzod, nil, "migrate", old, "--state-dir", state, "--dry-run")
	c.Wait(t, callTimeout)
	if said := c.Stderr.String(); c.Code != 0 || !strings.Contains(said, "A gateway (process ") || !strings.Contains(said, "listens on port "+strconv.Itoa(port)) {
		t.Fatalf("the running original is not named: exit code %d\n%s%s", c.Code, c.Stdout, said)
	}
	// A first copy while it runs, and the rest behind its end.
	first := migrate(t, home, old, "--state-dir", state)
	u.ok(t, nil, "cron", "add", "--name", "late", "--every", "2h", "--session", "main", "--system-event", "hello")
	gateway.End(syscall.SIGTERM)
	said := migrate(t, home, old, "--state-dir", state)
	for _, want := range []string{"clients that were paired", "connects", "hanzod service stop", "--export"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q:\n%s\nand before\n%s", want, said, first)
		}
	}
	if strings.Contains(said, "does not connect") || strings.Contains(said, "fault:") {
		t.Errorf("not all came over:\n%s", said)
	}

	daemon := show(t, "hanzod run", proc.RunGroup(t, home, hanzod, nil, strings.NewReader(""), "run", "--state-dir", state))
	proc.UntilFor(t, patience, "hanzod to listen on the port of the original", func() bool {
		if daemon.Ended() {
			t.Fatalf("hanzod ended with exit code %d\n%s", daemon.Code, daemon.output())
		}
		nc, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), time.Second)
		if err != nil {
			return false
		}
		_ = nc.Close()
		return true
	})
	if id := connectedNode(t, u, "the-node"); id != nodeID {
		t.Errorf("the node is %s now, and was %s", id, nodeID)
	}
	if got := pairedDevices(t, u); strings.Join(got, " ") == "" || len(got) != len(devices) {
		t.Errorf("paired are %v, and were %v", got, devices)
	}
	if got := jobNames(t, u); !strings.Contains(got, "before") || !strings.Contains(got, "late") {
		t.Errorf("the jobs are %s", got)
	}
	if got := sessionLabels(t, u); !strings.Contains(got, "of-before") {
		t.Errorf("the labels of sessions are %s", got)
	}
	u.ok(t, []string{"/usr/bin/uptime"}, "approvals", "get", "--gateway", "--json")
	v := u.json(t, "nodes", "invoke", "--node", "the-node", "--command", "system.which", "--params", `{"bins":["ls"]}`)
	want(t, v, which(t, "ls"), "payload", "bins", "ls")
	// What is done here is there on the way back.
	u.ok(t, nil, "cron", "add", "--name", "meanwhile", "--every", "3h", "--session", "main", "--system-event", "hello")
	u.ok(t, nil, "gateway", "call", "sessions.patch", "--params", `{"key":"main","label":"of-hanzod"}`, "--json")
	daemon.End(syscall.SIGTERM)

	back := filepath.Join(proc.Dir(t), "back")
	t.Log(migrate(t, home, "--export", back, "--state-dir", state))
	u = u.with("OPENCLAW_STATE_DIR=" + back)
	startGateway(t, u, port)
	if id := connectedNode(t, u, "the-node"); id != nodeID {
		t.Errorf("back, the node is %s, and was %s", id, nodeID)
	}
	if got := pairedDevices(t, u); len(got) != len(devices) {
		t.Errorf("back, paired are %v, and were %v", got, devices)
	}
	if got := jobNames(t, u); !strings.Contains(got, "before") || !strings.Contains(got, "meanwhile") {
		t.Errorf("back, the jobs are %s", got)
	}
	if got := sessionLabels(t, u); !strings.Contains(got, "of-hanzod") {
		t.Errorf("back, the labels of sessions are %s", got)
	}
	if node.Ended() {
		t.Errorf("the node host has ended\n%s", node.output())
	}
}
