//go:build unix

package interop

import (
	"crypto/sha256"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// moved is what a gateway says of what it keeps, as far as it must be the same on both.
func moved(tb testing.TB, c *dial.Conn) map[string]any {
	tb.Helper()
	ask := func(method string, params map[string]any) (v map[string]any) {
		tb.Helper()
		if err := json.Unmarshal(proc.Call(tb, c, method, params), &v); err != nil {
			tb.Fatal(err)
		}
		return v
	}
	pick := func(list any, key string, fields ...string) map[string]any {
		out := map[string]any{}
		rows, _ := list.([]any)
		for _, row := range rows {
			entry := map[string]any{}
			for _, f := range fields {
				entry[f] = get(row, f)
				if list, ok := entry[f].([]any); ok && len(list) == 0 {
					entry[f] = nil // the client's gateway leaves out scopes of a node, hanzod says that there are none
				}
			}
			name, _ := get(row, key).(string)
			out[name] = entry
		}
		return out
	}
	sessions := ask("sessions.list", map[string]any{"includeGlobal": true, "includeUnknown": true})
	jobs := ask("cron.list", map[string]any{"includeDisabled": true})
	approvals := ask("exec.approvals.get", map[string]any{})
	devices := ask("device.pair.list", map[string]any{})
	return map[string]any{
		"sessions":  pick(sessions["sessions"], "key", "sessionId", "label", "thinkingLevel"),
		"jobs":      pick(jobs["jobs"], "id", "name", "description", "schedule", "payload", "sessionTarget", "enabled", "createdAtMs"),
		"approvals": pick(get(approvals, "file", "agents", "main", "allowlist"), "pattern", "pattern"),
		"defaults":  get(approvals, "file", "defaults"),
		"devices":   pick(devices["paired"], "deviceId", "roles", "scopes", "createdAtMs", "approvedAtMs"),
		"pending":   pick(devices["pending"], "deviceId", "role"),
	}
}

// same fails the test for each part of what a gateway keeps that is another one on the other.
func same(tb testing.TB, want, got map[string]any) {
	tb.Helper()
	for name := range want {
		if !reflect.DeepEqual(want[name], got[name]) {
			a, _ := json.MarshalIndent(want[name], "", " ")
			b, _ := json.MarshalIndent(got[name], "", " ")
			tb.Errorf("%s are\n%s\nbut were\n%s", name, b, a)
		}
	}
}

// tree is what every file below a directory holds, and how it may be used.
func tree(tb testing.TB, dir string) map[string]string {
	tb.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		out[path] = info.Mode().String() + " " + info.ModTime().String()
		if info.Mode().IsRegular() {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(text)
			out[path] += string(sum[:])
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// migrating runs hanzod migrate as a user of the client, demands that it ends well and says each text, and never a
// secret.
func migrating(tb testing.TB, home string, secrets, texts []string, args ...string) string {
	tb.Helper()
	c := proc.Run(tb, home, proc.Build(tb, "hanzod", proc.Tested), nil, append([]string{"migrate", "--yes"}, args...)...)
	c.Wait(tb, callTimeout)
	out := c.Stdout.String() + c.Stderr.String()
	if c.Code != 0 {
		tb.Fatalf("hanzod migrate %v: exit code %d\n%s", args, c.Code, out)
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			tb.Errorf("hanzod migrate %v does not say %q:\n%s", args, text, out)
		}
	}
	for _, secret := range secrets {
		if secret == "" || strings.Contains(out, secret) {
			tb.Errorf("hanzod migrate %v: a secret of %d characters is shown", args, len(secret))
		}
	}
	return out
}

// listing is the line of a client in the list of those that were paired.
func listing(tb testing.TB, out, device, role string) string {
	tb.Helper()
	for line := range strings.Lines(out) {
		if strings.Contains(line, device[:12]) && strings.Contains(line, " "+role+" ") {
			return line
		}
	}
	tb.Errorf("%s with role %s is not among the clients:\n%s", device, role, out)
	return ""
}

// TestMoveOver moves a user of the client's gateway to hanzod on the same port, and back. Its command line, one that was
// paired from elsewhere and has nothing but the token of its device, and a node host like it connect without being
// paired again, each time, and find what they left.
func TestMoveOver(t *testing.T) {
	t.Parallel()
	theClient(t)
	near, port := theirUser(t, map[string]any{"mode": "token", "token": token}, nil)
	state := near.path("state")
	for name, text := range seeded(state) {
		if !strings.Contains(name, "/agents/main/") {
			continue
		}
		err := os.MkdirAll(filepath.Dir(name), 0o700)
		if err == nil {
			err = os.WriteFile(name, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	gateway := startGateway(t, near, port)
	health := []string{"gateway", "call", "health"}
	near.ok(t, nil, health...)
	app := theirOperator(port, nil) // a program with the shared token
	c := proc.Connect(t, app)

	// Who comes through the proxy is not let in silently. It is asked for, and has the token of its device from then on.
	through := elsewhere(t, port)
	pair := func() *client {
		t.Helper()
		far := userOf(t, through, token, nil)
		far.refused(t, []string{"pairing required"}, health...)
		near.ok(t, []string{"Approved " + far.device(t)}, "devices", "approve", "--latest")
		far.ok(t, nil, health...)
		return far.with("OPENCLAW_GATEWAY_TOKEN=")
	}
	far := pair()
	boxUser := userOf(t, through, token, nil)
	box := boxUser.nodeHost(t, through, "box", true)
	until(t, "the request of the node", func() (bool, bool) {
		pending, _ := moved(t, c)["pending"].(map[string]any)
		return true, len(pending) > 0
	})
	near.ok(t, []string{"Approved " + boxUser.device(t)}, "devices", "approve", "--latest")
	connected := func() any {
		t.Helper()
		return until(t, "the node host", func() (any, bool) {
			var v map[string]any
			if err := json.Unmarshal(proc.Call(t, c, "node.list", map[string]any{}), &v); err != nil {
				t.Fatal(err)
			}
			list, _ := v["nodes"].([]any)
			for _, n := range list {
				if get(n, "displayName") == "box" && get(n, "connected") == true {
					return get(n, "nodeId"), true
				}
			}
			return nil, false
		})
	}
	connected()
	box.End(syscall.SIGTERM)
	box = boxUser.with("OPENCLAW_GATEWAY_TOKEN=").nodeHost(t, through, "box", true) // it stays from here to the end
	id := connected()
	ls := which(t, "ls")
	atBox := func(u *client) {
		t.Helper()
		if now := connected(); now != id {
			t.Fatalf("the node came back as %v, was %v", now, id)
		}
		v := u.json(t, "nodes", "invoke", "--node", "box", "--command", "system.run", "--params", `{"command":["`+ls+`","/"]}`)
		want(t, v, float64(0), "payload", "exitCode")
		if box.Ended() {
			t.Fatalf("the node host ended with exit code %d\n%s", box.Code, box.output())
		}
	}

	// What there is to be moved.
	near.ok(t, []string{ls}, "approvals", "set", "--node", "box", "--file", policy(t, near.home, "allowlist", "on-miss", ls))
	near.ok(t, []string{ls}, "approvals", "set", "--gateway", "--file", policy(t, near.home, "allowlist", "on-miss", ls))
	weekly, _ := near.json(t, "cron", "add", "--name", "weekly", "--cron", "0 7 * * 1", "--tz", "Europe/Berlin", "--session", "main", "--system-event", "say it", "--json")["id"].(string)
	proc.Call(t, c, "sessions.patch", map[string]any{"key": "main", "label": "before"})
	proc.Call(t, c, "chat.inject", map[string]any{"sessionKey": "main", "message": "written there"})
	atBox(near)

	// A first copy while it runs, which names it.
	d := proc.New(t, proc.Options{Form: proc.Tested})
	d.Port = port
	if err := os.Remove(filepath.Join(d.State, "config.json")); err != nil { // it comes from there
		t.Fatal(err)
	}
	farToken, _ := get(readJSON(t, far.path("state/identity/device-auth.json")), "tokens", "operator", "token").(string)
	boxToken, _ := get(readJSON(t, boxUser.path("state/identity/device-auth.json")), "tokens", "node", "token").(string)
	secrets := []string{token, farToken, boxToken}
	listens := "listens on port " + strconv.Itoa(port)
	running := []string{"A gateway (process " + strconv.Itoa(gateway.PID()) + ",", listens, "this is a first copy", "No service runs it"}
	dry := []string{state, "--state-dir", d.State, "--dry-run"}
	migrating(t, near.home, secrets, running[:2], dry...)
	migrating(t, near.home, secrets, running, state, "--state-dir", d.State)

	// It goes on, ends, and the rest comes. What it left is only read.
	proc.Call(t, c, "sessions.patch", map[string]any{"key": "later", "thinkingLevel": "high"})
	near.ok(t, nil, "cron", "edit", weekly, "--description", "once a week")
	before := moved(t, c)
	_ = c.Close()
	gateway.End(syscall.SIGTERM)
	left := tree(t, near.home)
	out := migrating(t, near.home, secrets, []string{"To go back: " + state}, state, "--state-dir", d.State)
	t.Log(out)
	if strings.Contains(out, listens) {
		t.Errorf("nobody listens, and it says:\n%s", out)
	}
	for _, k := range []struct{ device, role string }{{near.device(t), "operator"}, {far.device(t), "operator"}, {boxUser.device(t), "node"}} {
		if line := listing(t, out, k.device, k.role); !strings.HasSuffix(strings.TrimSpace(line), " connects") {
			t.Errorf("the list says %q", line)
		}
	}
	if now := tree(t, near.home); !maps.Equal(left, now) {
		for name := range left {
			if now[name] != left[name] {
				t.Errorf("%s was changed", name)
			}
		}
		t.Errorf("in the home directory of the client's gateway are %d files, were %d", len(now), len(left))
	}

	// The same clients, on the same port.
	d.Start()
	c = proc.Connect(t, app)
	near.ok(t, []string{"weekly"}, "cron", "list")
	far.ok(t, nil, health...)
	atBox(near)
	same(t, before, moved(t, c))
	says := func(texts ...string) {
		t.Helper()
		history := string(proc.Call(t, c, "chat.history", map[string]any{"sessionKey": "main"}))
		for _, text := range texts {
			if !strings.Contains(history, text) {
				t.Errorf("the session does not hold %q:\n%s", text, history)
			}
		}
	}
	says("first question", "written there")

	// Life goes on here.
	newcomer := pair()
	near.ok(t, nil, "cron", "edit", weekly, "--name", "renamed")
	proc.Call(t, c, "sessions.patch", map[string]any{"key": "main", "label": "meanwhile"})
	proc.Call(t, c, "chat.inject", map[string]any{"sessionKey": "main", "message": "written here"})
	near.ok(t, nil, "approvals", "allowlist", "add", "--gateway", "--agent", "main", which(t, "uname"))
	during := moved(t, c)
	_ = c.Close()
	for name := range before {
		if name != "defaults" && name != "pending" && reflect.DeepEqual(before[name], during[name]) {
			t.Errorf("%s were not changed here", name)
		}
	}
	d.Stop()

	// And back, on what came since.
	back := filepath.Join(proc.Dir(t), "back")
	migrating(t, near.home, secrets, []string{"exported"}, "--export", back, "--state-dir", d.State, "--config", filepath.Join(d.State, "config.json"))
	// What may run on the machine of the gateway is read from the home directory, whatever its state directory is.
	text, err := os.ReadFile(filepath.Join(back, "exec-approvals.json"))
	if err == nil {
		err = os.WriteFile(near.path(".openclaw/exec-approvals.json"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	again := near.with("OPENCLAW_STATE_DIR=" + back)
	startGateway(t, again, port)
	c = proc.Connect(t, app)
	again.ok(t, []string{"renamed"}, "cron", "list")
	far.ok(t, nil, health...)
	newcomer.ok(t, nil, health...)
	atBox(again)
	same(t, during, moved(t, c))
	says("first question", "written there", "written here")
	if got := readJSON(t, filepath.Join(back, "identity/device.json"))["deviceId"]; got != near.device(t) {
		t.Errorf("the command line came back as device %v, was %v", got, near.device(t))
	}
}
