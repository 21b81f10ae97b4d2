//go:build unix

package promises

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// TestBadCommandLine: what cannot start says why, with the exit code that service managers read,
// and leaves nothing behind.
func TestBadCommandLine(t *testing.T) {
	t.Parallel()
	bin := proc.Build(t, "hanzod", proc.Tested)
	for _, tc := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"flag", []string{"run", "--nope"}, 2, []string{"--nope", "hanzod run --help"}},
		{"argument", []string{"run", "now"}, 2, []string{"now"}},
		{"command", []string{"rum"}, 2, []string{"rum"}},
		{"version argument", []string{"version", "x"}, 2, []string{"x"}},
		{"port text", []string{"run", "--port", "http"}, 2, []string{"--port", "http"}},
		{"port range", []string{"run", "--port", "70000"}, 78, []string{"--port", "70000"}},
		{"bind", []string{"run", "--bind", "world"}, 78, []string{"--bind", "world", "loopback"}},
		{"node security", []string{"node", "--security", "lax"}, 2, []string{"lax", "allowlist"}},
		{"node ask", []string{"node", "--ask", "me"}, 2, []string{"me", "on-miss"}},
		{"node token file", []string{"node", "--token-file", "/nowhere/token"}, 2, []string{"/nowhere/token"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			home := proc.Dir(t)
			c := proc.Run(t, home, bin, nil, tc.args...).Wait(t, proc.Patience)
			wantRefusal(t, c, tc.code, tc.want...)
			if files, err := filepath.Glob(filepath.Join(home, ".hanzo", "hanzod", "*")); err != nil || len(files) > 0 {
				t.Errorf("it left %v behind", files)
			}
		})
	}
}

// wantRefusal looks at how a process that did not start ended.
func wantRefusal(t *testing.T, c *proc.Command, code int, want ...string) {
	t.Helper()
	text := c.Stderr.String()
	if c.Code != code {
		t.Errorf("code %d, want %d: %s", c.Code, code, text)
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("the text does not name %q: %s", w, text)
		}
	}
	if f := proc.Faults(text); len(f) > 0 || !strings.HasPrefix(text, "hanzod: ") {
		t.Errorf("not a clear refusal: %s", text)
	}
}

// TestBadConfiguration: a wrong key is named with its path and its line; the file stays as it is and
// no state is made.
func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	bin := proc.Build(t, "hanzod", proc.Tested)
	for _, tc := range []struct {
		name, text string
		want       []string
	}{
		{"wrong key", "{\n  gateway: {\n    prot: 18789,\n  },\n}\n", []string{"gateway", `"prot"`, `"port"`, "line 3"}},
		{"wrong type", "{gateway:{port:\"many\"}}", []string{"gateway.port", "line 1"}},
		{"wrong choice", "{gateway:{auth:{mode:\"tokn\"}}}", []string{"gateway.auth.mode", "tokn"}},
		{"cut off", "{gateway:{", []string{"line 1"}},
		{"no object", "[]", []string{"object"}},
		{"missing variable", "{gateway:{auth:{token:\"${NOT_SET_ANYWHERE}\"}}}", []string{"NOT_SET_ANYWHERE", "gateway.auth.token"}},
		{"open to all", "{gateway:{bind:\"lan\",auth:{mode:\"none\"}}}", []string{"without auth", "gateway.auth.token"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			home := proc.Dir(t)
			file := filepath.Join(home, "c.json")
			if err := os.WriteFile(file, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			state := filepath.Join(home, "state")
			c := proc.Run(t, home, bin, nil, "run", "--config", file, "--state-dir", state, "--port", "0").Wait(t, proc.Patience)
			wantRefusal(t, c, 78, tc.want...)
			if now, err := os.ReadFile(file); err != nil || string(now) != tc.text {
				t.Errorf("the file was changed to %q (%v)", now, err)
			}
		})
	}
}

// TestUnreadableConfiguration: a file that is there and cannot be read is no reason to run without
// it.
func TestUnreadableConfiguration(t *testing.T) {
	t.Parallel()
	bin, home := proc.Build(t, "hanzod", proc.Tested), proc.Dir(t)
	c := proc.Run(t, home, bin, nil, "run", "--config", home, "--state-dir", home, "--port", "0").Wait(t, proc.Patience)
	wantRefusal(t, c, 78, home, "cannot read the config file")
	if os.Getuid() == 0 {
		return // reads everything
	}
	file := filepath.Join(home, "c.json")
	if err := os.WriteFile(file, []byte("{}"), 0); err != nil {
		t.Fatal(err)
	}
	c = proc.Run(t, home, bin, nil, "run", "--config", file, "--state-dir", home, "--port", "0").Wait(t, proc.Patience)
	wantRefusal(t, c, 78, file, "permission denied")
}

// TestBadState: a database that is damaged, foreign or cut off is refused and left byte for byte as
// it is; so is a directory that cannot be written.
func TestBadState(t *testing.T) {
	t.Parallel()
	bin := proc.Build(t, "hanzod", proc.Tested)
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	c := proc.Connect(t, d.Operator(proc.Device(t)))
	for i := range 50 {
		proc.Call(t, c, "exec.approvals.get", map[string]any{})
		if _, err := c.CallTwoPhase(t.Context(), "exec.approval.request",
			map[string]any{"id": fmt.Sprint("fill", i), "command": strings.Repeat("x", 500), "timeoutMs": 1}, nil); err != nil {
			t.Fatal(err)
		}
	}
	d.Stop()
	good, err := os.ReadFile(filepath.Join(d.State, "hanzod.db"))
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	// The pages that hold records are damaged all at once; which of them are in use is the database's
	// own affair.
	damaged := bytes.Clone(good)
	for at := 2 * page; at+page <= len(damaged); at += page {
		copy(damaged[at:], bytes.Repeat([]byte{0xa5}, page))
	}
	heads := bytes.Clone(good)
	copy(heads, make([]byte, 2*page))
	for _, tc := range []struct {
		name string
		text []byte
	}{
		{"damaged pages", damaged},
		{"no heads", heads},
		{"cut off", good[:3*page]},
		{"something else", bytes.Repeat([]byte("not a database\n"), 1000)},
		{"empty", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			state := proc.Dir(t)
			file := filepath.Join(state, "hanzod.db")
			if err := os.WriteFile(file, tc.text, 0o600); err != nil {
				t.Fatal(err)
			}
			c := proc.Run(t, state, bin, nil, "run", "--state-dir", state, "--port", "0").Wait(t, proc.Patience)
			wantRefusal(t, c, 78, file, "left as it is", "backup")
			if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, tc.text) {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
	t.Run("not writable", func(t *testing.T) {
		state := filepath.Join(proc.Dir(t), "ro")
		if err := os.Mkdir(state, 0o500); err != nil {
			t.Fatal(err)
		}
		if os.Getuid() == 0 { // whom no mode keeps out
			state = "/proc/hanzod-state"
		}
		c := proc.Run(t, os.TempDir(), bin, nil, "run", "--state-dir", state, "--port", "0").Wait(t, proc.Patience)
		wantRefusal(t, c, 1, state)
	})
	t.Run("a file", func(t *testing.T) {
		state := filepath.Join(proc.Dir(t), "file")
		if err := os.WriteFile(state, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		c := proc.Run(t, os.TempDir(), bin, nil, "run", "--state-dir", state, "--port", "0").Wait(t, proc.Patience)
		wantRefusal(t, c, 78, state)
	})
}

// TestTokenFromTheEnvironment: a configuration that names a variable takes the token from there, and
// the file keeps the name, not the token.
func TestTokenFromTheEnvironment(t *testing.T) {
	t.Parallel()
	const secret = "token-from-the-environment-1c8a"
	d := proc.Start(t, proc.Options{
		Form:   proc.Tested,
		Config: map[string]any{"gateway": map[string]any{"auth": map[string]any{"mode": "token", "token": "${MY_TOKEN}"}}},
		Env:    []string{"MY_TOKEN=" + secret},
	})
	o := d.Operator(nil)
	o.Auth = dial.Auth{Token: secret}
	o.Scopes = []identity.Scope{identity.ScopeRead}
	proc.Connect(t, o)
	if got := d.Ctl("token", "-q").Wait(t, proc.Patience).Stdout.String(); strings.TrimSpace(got) != secret {
		t.Errorf("hanzoctl token says %q", got)
	}
	if code := rest(t, d, secret); code != http.StatusOK {
		t.Errorf("REST with the token: %d", code)
	}
	if code := rest(t, d, "${MY_TOKEN}"); code != http.StatusUnauthorized {
		t.Errorf("REST with the name of the variable: %d", code)
	}
	text, err := os.ReadFile(filepath.Join(d.State, "config.json"))
	if err != nil || strings.Contains(string(text), secret) || !strings.Contains(string(text), "${MY_TOKEN}") {
		t.Errorf("the configuration file: %s, %v", text, err)
	}
}

// rest asks for the nodes with a bearer token and returns the status.
func rest(t *testing.T, d *proc.Daemon, token string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.URL()+"/v1/nodes", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode
}
