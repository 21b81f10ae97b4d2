//go:build unix

package interop

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	// callTimeout bounds one call of the command line, which takes a second or two alone.
	callTimeout = 90 * time.Second
	// patience is how long to wait for what a process of the client does soon.
	patience = 60 * time.Second
	// shown is how much of an output a failed test shows, in bytes from its end.
	shown = 20_000
)

// client is a user of the client: a home of its own, with an identity and a configuration.
type client struct {
	pkg  clientPackage
	home string
	env  []string
}

// newClient makes a user whose configuration is what is given, and whose environment is env.
func newClient(tb testing.TB, config map[string]any, env ...string) *client {
	tb.Helper()
	return newClientIn(tb, proc.Dir(tb), config, env...)
}

// newClientIn is newClient with a home that is there.
func newClientIn(tb testing.TB, home string, config map[string]any, env ...string) *client {
	tb.Helper()
	c := &client{pkg: theClient(tb), home: home}
	state := filepath.Join(c.home, "state")
	for _, d := range []string{state, filepath.Join(c.home, "tmp"), c.pkg.cache} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			tb.Fatal(err)
		}
	}
	// Its log goes to a folder that all its users share, unless it is told.
	file := map[string]any{"logging": map[string]any{"file": filepath.Join(c.home, "client.log")}}
	maps.Copy(file, config)
	writeJSON(tb, filepath.Join(state, "openclaw.json"), file)
	c.env = append([]string{
		"TMPDIR=" + filepath.Join(c.home, "tmp"),
		"OPENCLAW_STATE_DIR=" + state,
		"OPENCLAW_SKIP_CHANNELS=1", "OPENCLAW_DISABLE_BONJOUR=1", "NO_COLOR=1",
		// Without the warning off it starts itself a second time with this very option.
		"NODE_OPTIONS=--disable-warning=ExperimentalWarning",
		"NODE_COMPILE_CACHE=" + c.pkg.cache,
	}, env...)
	return c
}

// userOf makes a user of a gateway on this machine.
func userOf(tb testing.TB, port int, token string, config map[string]any) *client {
	tb.Helper()
	return newClient(tb, config, "OPENCLAW_GATEWAY_PORT="+strconv.Itoa(port), "OPENCLAW_GATEWAY_TOKEN="+token)
}

// with is the same user with more environment; later values win.
func (c *client) with(env ...string) *client {
	o := *c
	o.env = append(append([]string{}, c.env...), env...)
	return &o
}

// path is a file in the user's home.
func (c *client) path(name string) string { return filepath.Join(c.home, name) }

// start starts the client. It and what it starts end with the test.
func (c *client) start(tb testing.TB, stdin string, args ...string) *proc.Command {
	tb.Helper()
	return proc.RunGroup(tb, c.home, c.pkg.node, c.env, strings.NewReader(stdin), append([]string{c.pkg.main}, args...)...)
}

// answer is what a call printed and how it ended.
type answer struct {
	args   []string
	stdout string
	stderr string
	code   int
	took   time.Duration
}

func (a answer) String() string {
	return fmt.Sprintf("openclaw %s\nexit code %d after %v\n--- stdout\n%s\n--- stderr\n%s", strings.Join(a.args, " "), a.code,
		a.took.Round(time.Millisecond), end(a.stdout), end(a.stderr))
}

func end(s string) string { return s[max(0, len(s)-shown):] }

// finish waits for a call that was started.
func finish(tb testing.TB, p *proc.Command, args ...string) answer {
	tb.Helper()
	p.Wait(tb, callTimeout)
	return answer{args: args, stdout: p.Stdout.String(), stderr: p.Stderr.String(), code: p.Code, took: p.Took}
}

// call runs the command line and returns its answer, whatever it is.
func (c *client) call(tb testing.TB, args ...string) answer {
	tb.Helper()
	return finish(tb, c.start(tb, "", args...), args...)
}

// ok runs the command line and demands exit code 0 and every text in what it prints.
func (c *client) ok(tb testing.TB, texts []string, args ...string) answer {
	tb.Helper()
	a := c.call(tb, args...)
	a.demand(tb, 0, texts...)
	return a
}

// refused runs the command line and demands exit code 1 and every text in what it prints.
func (c *client) refused(tb testing.TB, texts []string, args ...string) answer {
	tb.Helper()
	a := c.call(tb, args...)
	a.demand(tb, 1, texts...)
	return a
}

// demand fails the test when the call ended otherwise or printed none of a text.
func (a answer) demand(tb testing.TB, code int, texts ...string) {
	tb.Helper()
	if a.code != code {
		tb.Fatalf("want exit code %d\n%s", code, a)
	}
	for _, want := range texts {
		if !strings.Contains(a.stdout+a.stderr, want) {
			tb.Fatalf("it does not say %q\n%s", want, a)
		}
	}
}

// object is the JSON object that a call printed.
func (a answer) object(tb testing.TB) map[string]any {
	tb.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(a.stdout), &v); err != nil {
		tb.Fatalf("it printed no JSON object: %v\n%s", err, a)
	}
	return v
}

// json runs the command line, demands exit code 0, and returns the JSON object that it printed.
func (c *client) json(tb testing.TB, args ...string) map[string]any {
	tb.Helper()
	return c.ok(tb, nil, args...).object(tb)
}

// get follows a path of keys and indices into JSON; nil when it leads nowhere.
func get(v any, path ...any) any {
	for _, p := range path {
		switch k := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[k]
		case int:
			l, _ := v.([]any)
			if k >= len(l) {
				return nil
			}
			v = l[k]
		}
	}
	return v
}

// want fails the test when what a path leads to is something else.
func want(tb testing.TB, in any, value any, path ...any) {
	tb.Helper()
	if got := get(in, path...); got != value {
		text, _ := json.MarshalIndent(in, "", "  ")
		tb.Fatalf("%v is %#v, want %#v, in\n%s", path, got, value, end(string(text)))
	}
}

func writeJSON(tb testing.TB, path string, v any) {
	tb.Helper()
	text, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// worker is a process that serves until it is told to stop, and whose output a failed test shows.
type worker struct {
	*proc.Command
	name string
}

func show(tb testing.TB, name string, c *proc.Command) *worker {
	tb.Helper()
	w := &worker{Command: c, name: name}
	tb.Cleanup(func() {
		c.End(syscall.SIGTERM)
		if tb.Failed() {
			tb.Logf("output of %s:\n%s", name, w.output())
		}
	})
	return w
}

func (w *worker) output() string { return end(w.Stdout.String() + w.Stderr.String()) }

// nodeHost starts the client's node host for a gateway on this machine. keep keeps the process
// alive without a connection: when the connection is lost, this release leaves itself nothing to
// wait for and ends with exit code 0, so that whoever supervises it starts it again.
func (c *client) nodeHost(tb testing.TB, port int, name string, keep bool) *worker {
	tb.Helper()
	u := c
	if keep {
		file := c.path("keep.cjs")
		if err := os.WriteFile(file, []byte("setInterval(() => {}, 1 << 30);\n"), 0o600); err != nil {
			tb.Fatal(err)
		}
		u = c.with("NODE_OPTIONS=--disable-warning=ExperimentalWarning --require=" + file)
	}
	return show(tb, "openclaw node run", u.start(tb, "", "node", "run", "--host", "127.0.0.1",
		"--port", strconv.Itoa(port), "--display-name", name))
}

// theirGateway starts the client's gateway in token mode and waits until it serves.
func theirGateway(tb testing.TB, token string) (c *client, port int, w *worker) {
	tb.Helper()
	c, port = theirUser(tb, map[string]any{"mode": "token", "token": token}, nil)
	return c, port, startGateway(tb, c, port)
}

// theirUser makes a user who has a gateway to run on a free port; more is merged over its configuration.
func theirUser(tb testing.TB, auth, more map[string]any) (c *client, port int) {
	tb.Helper()
	port = proc.FreePort(tb)
	config := map[string]any{
		"gateway": map[string]any{"mode": "local", "bind": "loopback", "port": port, "auth": auth},
		"browser": map[string]any{"enabled": false}, // it would listen on a port that nobody reserved
		"agents":  map[string]any{"defaults": map[string]any{"heartbeat": map[string]any{"every": "0m"}}},
	}
	maps.Copy(config, more)
	return newClient(tb, config), port
}

// startGateway starts the gateway of a user and waits until it serves.
func startGateway(tb testing.TB, c *client, port int) *worker {
	tb.Helper()
	w := show(tb, "openclaw gateway run", c.start(tb, "", "gateway", "run", "--port", strconv.Itoa(port), "--bind", "loopback"))
	proc.UntilFor(tb, patience, "the client's gateway to listen\n"+w.output(), func() bool {
		if w.Ended() {
			tb.Fatalf("the client's gateway ended with exit code %d\n%s", w.Code, w.output())
		}
		nc, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), time.Second)
		if err != nil {
			return false
		}
		_ = nc.Close()
		return true
	})
	return w
}
