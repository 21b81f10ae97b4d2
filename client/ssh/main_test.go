//go:build unix

package ssh_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/ssh"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
	"github.com/hanzoai/hanzod/tests/sshtest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "connect" { // taken for hanzod, because its daemon runs in here
		os.Exit(127)
	}
	if len(os.Args) > 1 && os.Args[1] == "-T" { // taken for ssh by TestProgramThatLeavesOthersBehind
		cmd := exec.Command("sleep", "25")
		cmd.Stdout = os.Stdout
		_ = cmd.Run() // it goes on when this process is killed
		os.Exit(1)
	}
	proc.Main(m)
}

// limit is how long one step of a test may take.
const limit = 30 * time.Second

// soon is a context that ends when a step has taken too long.
func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// within demands that a step ends, and shows what everybody waits for when it does not.
func within(t testing.TB, what string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		stacks := make([]byte, 1<<20)
		t.Fatalf("%s takes more than %s\n%s", what, limit, stacks[:runtime.Stack(stacks, true)])
		return nil
	}
}

// closes demands that something closes.
func closes(t testing.TB, c io.Closer) {
	t.Helper()
	if err := within(t, "closing", c.Close); err != nil {
		t.Error(err)
	}
}

// world is a machine with an sshd and a daemon, and the home directory of whoever connects.
type world struct {
	t      testing.TB
	server *sshtest.Server
	daemon *hanzodtest.Daemon
	home   string
	env    map[string]string
	prompt ssh.Prompter

	mu    sync.Mutex
	steps []string
}

// machine is a world whose sshd has these options, with a daemon that sessions there find.
func machine(t testing.TB, o sshtest.Options) *world {
	t.Helper()
	d := hanzodtest.Start(t, hanzodtest.Options{})
	if o.Env == nil {
		o.Env = map[string]string{}
	}
	if _, set := o.Env["HANZOD_STATE_DIR"]; !set {
		o.Env["HANZOD_STATE_DIR"] = d.StateDir
	}
	s := sshtest.Start(t, o)
	w := &world{t: t, server: s, daemon: d, env: map[string]string{}}
	w.configure(s.HostBlock("box"))
	return w
}

// configure gives whoever connects another ~/.ssh/config.
func (w *world) configure(config string) { w.home = w.server.ClientHome(config) }

func (w *world) options(address string) ssh.Options {
	return ssh.Options{
		Address: address, Prompt: w.prompt,
		Getenv: func(name string) string {
			if name == "HOME" {
				return w.home
			}
			return w.env[name]
		},
		Progress: func(step ssh.Step, text string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.steps = append(w.steps, string(step)+": "+text)
		},
	}
}

func (w *world) progress() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.steps, "\n")
}

// connect connects to box, and demands that it works.
func (w *world) connect() *ssh.Host {
	w.t.Helper()
	return w.connectTo(w.options("ssh://box"))
}

func (w *world) connectTo(o ssh.Options) *ssh.Host {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), limit)
	defer cancel()
	h, err := ssh.Connect(ctx, o)
	if err != nil {
		w.t.Fatalf("%v\n%s", err, w.progress())
	}
	w.t.Cleanup(func() { closes(w.t, h) })
	return h
}

// refused demands that connecting fails with a code, and that its text holds these.
func (w *world) refused(o ssh.Options, code string, says ...string) *client.Error {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), limit)
	defer cancel()
	h, err := ssh.Connect(ctx, o)
	if err == nil {
		closes(w.t, h)
		w.t.Fatalf("it connects\n%s", w.progress())
	}
	e, ok := errors.AsType[*client.Error](err)
	if !ok || e.Code != code || e.Fields["step"] == "" {
		w.t.Fatalf("it fails with %q (%T, %q), not with %s\n%s", err, err, e.Code, code, w.progress())
	}
	for _, s := range says {
		if !strings.Contains(e.Message, s) {
			w.t.Fatalf("the error does not say %q:\n%s", s, e.Message)
		}
	}
	return e
}

// health asks the daemon over SSH, and demands an answer.
func health(t testing.TB, h *ssh.Host) *client.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	c, err := client.Dial(ctx, client.Options{Via: h})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closes(t, c) })
	if _, err := c.System.GetHealth(ctx, &systemv1.GetHealthRequest{}); err != nil {
		t.Fatal(err)
	}
	return c
}

func route(t testing.TB, h *ssh.Host, want ssh.Route) {
	t.Helper()
	if h.Route() != string(want) {
		t.Fatalf("it is reached by %q, not by %q", h.Route(), want)
	}
}

// hanzod puts the program where sessions on the machine find it.
func (w *world) install() {
	w.t.Helper()
	dir := filepath.Join(w.server.Home, ".local", "bin")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Symlink(proc.Build(w.t, "hanzod", proc.Tested), filepath.Join(dir, "hanzod")); err != nil {
		w.t.Fatal(err)
	}
}

// person answers questions by what they hold, and remembers them.
type person struct {
	mu      sync.Mutex
	answers map[string][]string // by a part of the question
	asked   []string
	shown   []bool
}

func (p *person) Ask(_ context.Context, text string, echo bool) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked, p.shown = append(p.asked, text), append(p.shown, echo)
	for part, list := range p.answers {
		if strings.Contains(text, part) && len(list) > 0 {
			p.answers[part] = list[1:]
			return list[0], nil
		}
	}
	return "", fmt.Errorf("nobody answers %q", text)
}

func (p *person) questions() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// echo answers on a port with what it gets.
func exchange(t testing.TB, c io.ReadWriter, send, want string) {
	t.Helper()
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	read := func() error {
		_, err := io.ReadFull(c, got)
		return err
	}
	if err := within(t, "the answer", read); err != nil || string(got) != want {
		t.Fatalf("%q: %v", got, err)
	}
}
