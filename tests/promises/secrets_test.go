//go:build unix

package promises

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// wrong are secrets that clients present and that are not the daemon's: a password typed into the
// wrong field is a secret too.
const (
	wrongToken    = "wrong-token-9f2c61d0aa"
	wrongPassword = "wrong-password-77b1e09c3f"
	urlToken      = "url-token-3d0c55e1b8"
	logBytes      = 16 << 10 // makes the log rotate
)

// TestSecretsStayInside: after a busy time with right and wrong tokens, with the log at its
// chattiest, no secret is in a log, in what the processes print, or in a list of processes, and none
// reaches the commands that a node runs.
func TestSecretsStayInside(t *testing.T) {
	t.Parallel()
	script := filepath.Join(proc.Dir(t), "environment")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nenv\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	d := proc.Start(t, proc.Options{
		Form: proc.Tested, Args: []string{"--node"},
		Config: map[string]any{
			"gateway": map[string]any{"auth": map[string]any{"mode": "token", "token": "${HANZOD_TOKEN}"}},
			"logging": map[string]any{"level": "trace", "consoleLevel": "trace", "maxFileBytes": logBytes},
		},
		Env: []string{"HANZOD_TOKEN=" + proc.Token, "OPENCLAW_GATEWAY_TOKEN=" + proc.Token},
	})
	secrets := []string{proc.Token, wrongToken, wrongPassword, urlToken}

	// The node of the daemon runs a command that prints its environment.
	node := onlyNode(t, d)
	run := d.Ctl("nodes", "run", node, "--", script)
	proc.Until(t, "the question is asked", func() bool { return waitingFor.MatchString(run.Stderr.String()) })
	d.Ctl("approve", waitingFor.FindStringSubmatch(run.Stderr.String())[1], "once").Wait(t, proc.Patience)
	if run.Wait(t, proc.Patience); run.Code != 0 || !strings.Contains(run.Stdout.String(), "PATH=") {
		t.Fatalf("code %d: %s%s", run.Code, run.Stdout, run.Stderr)
	}
	if strings.Contains(run.Stdout.String(), proc.Token) {
		t.Errorf("a command on the daemon's node is handed the gateway's token:\n%s", run.Stdout)
	}

	// A node host of its own, by environment and by file, each with a device token afterwards.
	hosts := []*proc.Command{}
	homes := []string{}
	for i := range 2 {
		home := proc.Dir(t)
		file := filepath.Join(home, "token")
		if err := os.WriteFile(file, []byte(proc.Token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		args, env := []string{"node", "--state-dir", home, "--port", fmt.Sprint(d.Port), "--log-level", "debug"}, []string{}
		if i == 0 {
			env = append(env, "HANZOD_TOKEN="+proc.Token)
		} else {
			args = append(args, "--token-file", file)
		}
		hosts, homes = append(hosts, proc.Run(t, home, proc.Build(t, "hanzod", proc.Tested), env, args...)), append(homes, home)
	}
	for _, h := range hosts {
		proc.Until(t, "the node host is connected", func() bool { return strings.Contains(h.Stderr.String(), "connected to the gateway") })
	}

	// Legacy clients, let in and not.
	for range 20 {
		me := proc.Device(t)
		c := proc.Connect(t, d.Operator(me))
		token := c.Hello().DeviceToken
		if token == "" {
			t.Fatal("a paired device got no token")
		}
		secrets = append(secrets, token)
		proc.Call(t, c, "health", map[string]any{})
		o := d.Operator(me)
		o.Auth = dial.Auth{DeviceToken: token}
		proc.Connect(t, o)
		for _, bad := range []dial.Auth{{Token: wrongToken}, {Password: wrongPassword}, {DeviceToken: wrongToken}, {Token: wrongToken, Password: wrongPassword}} {
			o := d.Operator(proc.Device(t))
			o.Auth = bad
			if c, err := dial.Dial(t.Context(), o); err == nil {
				_ = c.Close()
				t.Errorf("%+v was let in", bad)
			}
		}
		o = d.Operator(nil)
		o.URL += "/?token=" + urlToken
		o.Scopes = []identity.Scope{identity.ScopeRead}
		proc.Connect(t, o)
		for _, bearer := range []string{proc.Token, token, wrongToken} {
			if code := rest(t, d, bearer); (code == http.StatusOK) != (bearer != wrongToken) {
				t.Errorf("REST answered %d", code)
			}
		}
		res, err := http.Get(d.URL() + "/v1/nodes?token=" + urlToken)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode == http.StatusOK {
			t.Error("a token in the address was taken")
		}
	}
	http.DefaultClient.CloseIdleConnections()
	if got := d.Ctl("token", "-q").Wait(t, proc.Patience).Stdout.String(); strings.TrimSpace(got) != proc.Token {
		t.Errorf("hanzoctl token says %q", got)
	}
	status := d.Ctl("status").Wait(t, proc.Patience)
	tail := d.Ctl("logs").Wait(t, proc.Patience)

	// Everything that others may see.
	places := map[string]string{
		"hanzoctl status": status.Stdout.String() + status.Stderr.String(),
		"hanzoctl logs":   tail.Stdout.String() + tail.Stderr.String(),
	}
	for i, out := range d.Outputs() {
		places[fmt.Sprint("daemon output ", i)] = out
	}
	for i, h := range hosts {
		places[fmt.Sprint("node output ", i)] = h.Stderr.String() + h.Stdout.String()
	}
	for _, pid := range []int{d.PID(), hosts[0].PID(), hosts[1].PID()} {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil {
			places[fmt.Sprint("command line of ", pid)] = string(b)
		}
	}
	d.Stop()
	logs, err := filepath.Glob(filepath.Join(d.State, "logs", "*"))
	if err != nil || len(logs) < 2 {
		t.Errorf("the log did not rotate: %v, %v", logs, err)
	}
	for _, l := range logs {
		b, err := os.ReadFile(l)
		if err != nil {
			t.Fatal(err)
		}
		places[l] = string(b)
	}
	for _, home := range homes {
		b, err := os.ReadFile(filepath.Join(home, "identity", "device-auth.json"))
		if err == nil {
			for _, w := range strings.FieldsFunc(string(b), func(r rune) bool { return r == '"' }) {
				if len(w) == 43 {
					secrets = append(secrets, w)
				}
			}
		}
	}
	slices.Sort(secrets)
	secrets = slices.Compact(secrets)
	for place, text := range places {
		if text == "" {
			t.Errorf("%s is empty", place)
		}
		for _, s := range secrets {
			if at := strings.Index(text, s); at >= 0 {
				t.Errorf("%s holds a secret: …%s…", place, text[max(0, at-200):min(len(text), at+len(s)+20)])
			}
		}
	}
	for _, l := range append(logs, filepath.Join(d.State, "hanzod.db"), filepath.Join(d.State, "config.json")) {
		if info, err := os.Stat(l); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("others may read %s: %v, %v", l, info.Mode(), err)
		}
	}
	t.Logf("%d secrets, %d places", len(secrets), len(places))
}
