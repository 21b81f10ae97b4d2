//go:build linux

package promises

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// network is a network namespace of its own. The test is skipped where none can be made.
type network struct {
	t    *testing.T
	name string
}

var networks int

func newNetwork(t *testing.T, setup ...string) *network {
	t.Helper()
	networks++
	n := &network{t, fmt.Sprintf("hanzod-test-%d-%d", os.Getpid(), networks)}
	if out, err := exec.Command("ip", "netns", "add", n.name).CombinedOutput(); err != nil {
		t.Skipf("no network namespace can be made here: %v %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", n.name).Run() })
	for _, line := range setup {
		if out, err := exec.Command("ip", append([]string{"-n", n.name}, strings.Fields(line)...)...).CombinedOutput(); err != nil {
			t.Skipf("ip %s: %v %s", line, err, out)
		}
	}
	return n
}

// run starts hanzod in the network, with these keys of the section gateway.
func (n *network) run(gateway map[string]any) (c *proc.Command, state string) {
	n.t.Helper()
	state = proc.Dir(n.t)
	text, err := json.Marshal(map[string]any{"gateway": gateway, "agents": map[string]any{"defaults": map[string]any{"heartbeat": map[string]any{"every": "0m"}}}})
	if err != nil {
		n.t.Fatal(err)
	}
	file := filepath.Join(state, "config.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		n.t.Fatal(err)
	}
	c = proc.RunGroup(n.t, state, "ip", nil, nil, "netns", "exec", n.name, proc.Build(n.t, "hanzod", proc.Tested),
		"run", "--config", file, "--state-dir", state, "--port", "18789")
	return c, state
}

// listening is where hanzod listens for HTTP, by its own word, or why it does not start.
func (n *network) listening(gateway map[string]any) string {
	n.t.Helper()
	c, state := n.run(gateway)
	var listen []string
	proc.Until(n.t, "it listens or ends", func() bool {
		ctl := proc.Run(n.t, state, proc.Build(n.t, "hanzoctl", proc.Tested), []string{"HANZOD_STATE_DIR=" + state}, "status", "-o", "json").Wait(n.t, proc.Patience)
		var s struct{ Listen []string }
		if json.Unmarshal([]byte(ctl.Stdout.String()), &s) == nil && len(s.Listen) > 0 {
			listen = s.Listen
			return true
		}
		return c.Ended()
	})
	c.End(syscall.SIGTERM)
	if listen != nil {
		return strings.Join(listen, " ")
	}
	if c.Code != 78 {
		n.t.Errorf("it ended with %d", c.Code)
	}
	return strings.TrimPrefix(strings.TrimSpace(c.Stderr.String()), "hanzod: ")
}

// TestBinds: each bind mode on machines of different kinds, with real interfaces; what would be open
// to others without a proof is refused.
func TestBinds(t *testing.T) {
	token := map[string]any{"mode": "token", "token": proc.Token}
	none := map[string]any{"mode": "none"}
	noUI := map[string]any{"enabled": false}
	const (
		pair    = "link add net0 type veth peer name net1"
		up      = "link set net0 up"
		noAuth  = " without auth (set gateway.auth.token/password, or set HANZOD_TOKEN/HANZOD_PASSWORD)"
		nowhere = "gateway bind=loopback resolved to non-loopback host 0.0.0.0; refusing fallback to a network bind"
	)
	whole := []string{"link set lo up", pair, "addr add 10.9.0.1/24 dev net0", "addr add 100.100.1.2/32 dev net0", up}
	for _, machine := range []struct {
		name  string
		setup []string
		cases []struct {
			gateway map[string]any
			want    string
		}
	}{
		{"with everything", whole, []struct {
			gateway map[string]any
			want    string
		}{
			{map[string]any{"auth": none}, "127.0.0.1:18789 [::1]:18789"},
			{map[string]any{"bind": "auto", "auth": none}, "127.0.0.1:18789 [::1]:18789"},
			{map[string]any{"bind": "lan", "auth": token}, "0.0.0.0:18789"},
			{map[string]any{"bind": "lan", "auth": none}, "refusing to bind gateway to 0.0.0.0:18789" + noAuth},
			{map[string]any{"bind": "tailnet", "auth": token}, "100.100.1.2:18789"},
			{map[string]any{"bind": "tailnet", "auth": none}, "refusing to bind gateway to 100.100.1.2:18789" + noAuth},
			{map[string]any{"bind": "custom", "customBindHost": "10.9.0.1", "auth": token}, "10.9.0.1:18789"},
			{map[string]any{"bind": "custom", "customBindHost": "10.9.0.2", "auth": token}, "gateway bind=custom requested 10.9.0.2 but resolved 0.0.0.0; refusing fallback"},
			{map[string]any{"bind": "custom", "customBindHost": "127.0.0.5", "auth": none}, "127.0.0.5:18789"},
		}},
		{"without a tailnet", []string{"link set lo up"}, []struct {
			gateway map[string]any
			want    string
		}{
			{map[string]any{"bind": "tailnet", "auth": none}, "127.0.0.1:18789 [::1]:18789"},
		}},
		{"without loopback", []string{pair, "addr add 10.9.0.1/24 dev net0", up}, []struct {
			gateway map[string]any
			want    string
		}{
			{map[string]any{"auth": token}, nowhere},
			{map[string]any{"auth": none}, nowhere},
			{map[string]any{"bind": "auto", "auth": none}, "refusing to bind gateway to 0.0.0.0:18789" + noAuth},
			{map[string]any{"bind": "auto", "auth": token, "controlUi": noUI}, "0.0.0.0:18789"},
			{map[string]any{"bind": "tailnet", "auth": none}, "refusing to bind gateway to 0.0.0.0:18789" + noAuth},
		}},
	} {
		t.Run(machine.name, func(t *testing.T) {
			n := newNetwork(t, machine.setup...)
			for _, c := range machine.cases {
				got := n.listening(c.gateway)
				no6, _, _ := strings.Cut(c.want, " [::1]")
				if got != c.want && got != no6 {
					t.Errorf("%v: %q, want %q", c.gateway, got, c.want)
				}
			}
		})
	}
}

// TestReachedFromElsewhere: a daemon that is bound to one address is reached there and nowhere else,
// with a token and not without.
func TestReachedFromElsewhere(t *testing.T) {
	server := newNetwork(t, "link set lo up")
	client := newNetwork(t, "link set lo up")
	link := fmt.Sprintf("link add v0 type veth peer name v1 netns %s", client.name)
	for _, line := range []string{
		"-n " + server.name + " " + link,
		"-n " + server.name + " addr add 10.9.1.1/24 dev v0", "-n " + server.name + " addr add 10.9.2.1/24 dev v0",
		"-n " + server.name + " link set v0 up",
		"-n " + client.name + " addr add 10.9.1.2/24 dev v1", "-n " + client.name + " addr add 10.9.2.2/24 dev v1",
		"-n " + client.name + " link set v1 up",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Skipf("ip %s: %v %s", line, err, out)
		}
	}
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("there is no curl")
	}
	status := func(where, url string, header ...string) string {
		args := []string{"netns", "exec", where, "curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", url}
		for _, h := range header {
			args = append(args, "-H", h)
		}
		out, _ := exec.Command("ip", args...).Output() // its code says what -w says
		return string(out)
	}
	c, _ := server.run(map[string]any{
		"bind": "custom", "customBindHost": "10.9.1.1", "grpc": map[string]any{"enabled": false},
		"auth": map[string]any{"mode": "token", "token": proc.Token, "rateLimit": map[string]any{"maxAttempts": 3}},
	})
	proc.Until(t, "it answers", func() bool { return c.Ended() || status(client.name, "http://10.9.1.1:18789/health") == "200" })
	good, bad := "Authorization: Bearer "+proc.Token, "Authorization: Bearer wrong"
	for _, x := range []struct{ name, got, want string }{
		{"elsewhere, the token", status(client.name, "http://10.9.1.1:18789/v1/nodes", good), "200"},
		{"elsewhere, nothing", status(client.name, "http://10.9.1.1:18789/v1/nodes"), "401"},
		{"another address", status(client.name, "http://10.9.2.1:18789/health"), "000"},
		{"loopback of the machine", status(server.name, "http://127.0.0.1:18789/health"), "000"},
		{"wrong", status(client.name, "http://10.9.1.1:18789/v1/nodes", bad), "401"},
		{"wrong again", status(client.name, "http://10.9.1.1:18789/v1/nodes", bad), "401"},
		{"wrong, named by itself", status(client.name, "http://10.9.1.1:18789/v1/nodes", bad, "X-Forwarded-For: 127.0.0.1"), "401"},
		{"locked out", status(client.name, "http://10.9.1.1:18789/v1/nodes", good), "429"},
		{"the machine itself", status(server.name, "http://10.9.1.1:18789/v1/nodes", good), "200"},
	} {
		if x.got != x.want {
			t.Errorf("%s: %s, want %s", x.name, x.got, x.want)
		}
	}
}

// TestBusyPort: a port that another program has is waited for, then named; a second daemon of the
// same state does not wait, and names the owner.
func TestBusyPort(t *testing.T) {
	t.Parallel()
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	bin := proc.Build(t, "hanzod", proc.Tested)
	began := time.Now()
	same := proc.Run(t, d.State, bin, nil, "run", "--state-dir", d.State, "--config", filepath.Join(d.State, "config.json"), "--port", fmt.Sprint(d.Port)).Wait(t, proc.Patience)
	if took := time.Since(began); same.Code != 78 || !strings.Contains(same.Stderr.String(), fmt.Sprint(d.PID())) || took > 2*time.Second {
		t.Errorf("the same state: %d after %s: %s", same.Code, took, same.Stderr)
	}
	state := proc.Dir(t)
	began = time.Now()
	other := proc.Run(t, state, bin, nil, "run", "--state-dir", state, "--port", fmt.Sprint(d.Port)).Wait(t, proc.Patience)
	took := time.Since(began)
	want := fmt.Sprintf("another gateway instance is already listening on ws://127.0.0.1:%d", d.Port)
	if other.Code == 0 || !strings.Contains(other.Stderr.String(), want) || took < 2*time.Second || took > 8*time.Second {
		t.Errorf("another state: %d after %s: %s", other.Code, took, other.Stderr)
	}
	if !slices.Contains([]int{1, 78}, other.Code) {
		t.Errorf("code %d", other.Code)
	}
}
