package robustness

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// elsewhere is another network: a namespace with a wire to this one.
type elsewhere struct {
	t          *testing.T
	name       string
	here, away string // the addresses of the two ends
	home       string // of who works there
}

// newElsewhere makes one, or skips the test where that is not allowed.
func newElsewhere(t *testing.T) *elsewhere {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make a network namespace")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs the program ip")
	}
	n := rand.IntN(1 << 14)
	e := &elsewhere{
		t: t, name: fmt.Sprintf("hz%d-%d", os.Getpid(), n), home: proc.Dir(t),
		// Of the network that is kept for benchmarks (RFC 2544), so of nobody's.
		here: fmt.Sprintf("198.18.%d.%d", n/64, n%64*4+1), away: fmt.Sprintf("198.18.%d.%d", n/64, n%64*4+2),
	}
	ip := func(args ...string) error {
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	if err := ip("netns", "add", e.name); err != nil {
		t.Skipf("no network namespace here: %v", err)
	}
	t.Cleanup(func() {
		if err := ip("netns", "del", e.name); err != nil { // the wire goes with it
			t.Error(err)
		}
	})
	a, b := fmt.Sprintf("hza%d", n), fmt.Sprintf("hzb%d", n)
	for _, args := range [][]string{
		{"link", "add", a, "type", "veth", "peer", "name", b, "netns", e.name},
		{"addr", "add", e.here + "/30", "dev", a},
		{"link", "set", a, "up"},
		{"-n", e.name, "addr", "add", e.away + "/30", "dev", b},
		{"-n", e.name, "link", "set", b, "up"},
		{"-n", e.name, "link", "set", "lo", "up"},
	} {
		if err := ip(args...); err != nil {
			t.Skipf("no wire between networks here: %v", err)
		}
	}
	return e
}

// run starts a program there.
func (e *elsewhere) run(env []string, bin string, args ...string) *proc.Command {
	e.t.Helper()
	return proc.RunGroup(e.t, e.home, "ip", env, nil, append([]string{"netns", "exec", e.name, bin}, args...)...)
}

// file writes a file of who works there.
func (e *elsewhere) file(name, text string) string {
	e.t.Helper()
	path := filepath.Join(e.home, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		e.t.Fatal(err)
	}
	return path
}

// TestFromAnotherMachine: hanzoctl and a node host on another network reach a daemon that is bound to
// the local network, know it by its fingerprint, and are refused where they should be.
func TestFromAnotherMachine(t *testing.T) {
	e := newElsewhere(t)
	hanzod, ctl := proc.Build(t, "hanzod", proc.Tested), proc.Build(t, "hanzoctl", proc.Tested)
	grpcPort := proc.FreePort(t)
	d := proc.Start(t, proc.Options{Form: proc.Tested, Config: map[string]any{"gateway": map[string]any{
		"bind": "lan", "grpc": map[string]any{"port": grpcPort}, "auth": map[string]any{"mode": "token", "token": proc.Token},
	}}})
	pin := strings.TrimSpace(proc.Run(t, d.State, hanzod, nil, "tls", "fingerprint", "--state-dir", d.State).Wait(t, proc.Patience).Stdout.String())
	if len(pin) != 64 {
		t.Fatalf("fingerprint %q", pin)
	}
	host := "hanzod://" + net.JoinHostPort(e.here, strconv.Itoa(grpcPort))
	token, wrong := e.file("token", proc.Token+"\n"), e.file("wrong", "another-token-123456")
	ask := func(code int, want string, args ...string) *proc.Command {
		t.Helper()
		c := e.run(nil, ctl, append([]string{"--host", host}, args...)...).Wait(t, proc.Patience)
		if text := c.Stdout.String() + c.Stderr.String(); c.Code != code || !strings.Contains(text, want) || strings.Contains(text, proc.Token) {
			t.Errorf("%q ended with %d: %s", args, c.Code, text)
		}
		return c
	}
	ask(0, "ok", "--token-file", token, "--tls-fingerprint", pin, "health")
	ask(0, `"stateDir"`, "--token-file", token, "--tls-fingerprint", pin, "status", "-o", "json")
	ask(77, pin, "--token-file", token, "health")
	ask(77, "not the pinned one", "--token-file", token, "--tls-fingerprint", strings.Repeat("ab", 32), "health")
	ask(77, "not valid", "--token-file", wrong, "--tls-fingerprint", pin, "health")
	ask(2, "--token-file", "--tls-fingerprint", pin, "health")
	ask(77, "socket only", "--token-file", token, "--tls-fingerprint", pin, "token")

	// The port of HTTP does not speak TLS here, and says so; nor does the other one speak HTTP.
	c := e.run(nil, ctl, "--host", net.JoinHostPort(e.here, strconv.Itoa(d.Port)), "--token-file", token, "--tls-fingerprint", pin, "health").Wait(t, proc.Patience)
	if c.Code != 77 || !strings.Contains(c.Stderr.String(), "does not speak TLS") {
		t.Errorf("%d: %s", c.Code, c.Stderr)
	}
	web := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	if res, err := web.Get("http://" + net.JoinHostPort(e.here, strconv.Itoa(grpcPort)) + "/health"); err != nil {
		t.Error(err)
	} else if _ = res.Body.Close(); res.StatusCode != http.StatusBadRequest {
		t.Errorf("plain HTTP on the gRPC port: %s", res.Status)
	}

	// A node enrols with one line.
	invite := d.Ctl("devices", "invite", "--role", "node", "-o", "json").Wait(t, proc.Patience).Stdout.String()
	if !strings.Contains(invite, e.here) || !strings.Contains(invite, pin) {
		t.Fatalf("invite %s", invite)
	}
	code := d.Ctl("devices", "invite", "--role", "node", "-q").Wait(t, proc.Patience).Stdout.String()
	e.file("exec-approvals.json", "{}")
	state := filepath.Join(e.home, "node")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	e.file("node/exec-approvals.json", `{"version":1,"defaults":{"security":"full","ask":"off"}}`)
	node := e.run(nil, hanzod, "node", "--state-dir", state, "--display-name", "far", "--enroll", "@"+e.file("code", code))
	proc.Until(t, "the node is connected", func() bool { return strings.Contains(node.Stderr.String(), "connected to the gateway") })
	list := d.Ctl("nodes", "list").Wait(t, proc.Patience).Stdout.String()
	if !strings.Contains(list, "far") || !strings.Contains(list, e.away) {
		t.Errorf("nodes:\n%s", list)
	}
	if out := d.Ctl("nodes", "run", "far", "--", "/bin/sh", "-c", "echo from $$; exit 7").Wait(t, proc.Patience); out.Code != 7 || !strings.Contains(out.Stdout.String(), "from ") {
		t.Errorf("%d %s %s", out.Code, out.Stdout, out.Stderr)
	}
	// Both ends of a command may be elsewhere.
	ask(0, "Linux", "--token-file", token, "--tls-fingerprint", pin, "nodes", "run", "far", "--", "uname", "-s")

	// It outlives a restart of the daemon, and needs nothing for its own.
	d.Stop()
	d.Start()
	proc.Until(t, "the node is back", func() bool { return strings.Count(node.Stderr.String(), "connected to the gateway") == 2 })
	node.End(syscall.SIGTERM)
	again := e.run(nil, hanzod, "node", "--state-dir", state)
	proc.Until(t, "the node is back", func() bool { return strings.Contains(again.Stderr.String(), "connected to the gateway") })
	ask(0, "far", "--token-file", token, "--tls-fingerprint", pin, "nodes", "list")
	if text := node.Stderr.String() + again.Stderr.String() + strings.Join(d.Outputs(), ""); strings.Contains(text, strings.TrimSpace(code)) || strings.Contains(text, proc.Token) {
		t.Error("a secret is in the output")
	}
}
