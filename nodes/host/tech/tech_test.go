//go:build linux

package tech_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/nodes/host/tech"
	"github.com/hanzoai/hanzod/tunnel/files"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

const (
	one = "11111111-1111-4111-8111-111111111111"
	two = "22222222-2222-4222-8222-222222222222"
	// wait bounds every wait of these tests.
	wait = 30 * time.Second
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("TECH_VICTIM"); dir != "" {
		victim(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// world is a node.
type world struct {
	testing.TB
	m    *tech.Module
	h    *host.Host
	dir  string // whose files are offered
	link chan struct{}
	once sync.Once
}

func newWorld(t testing.TB, security policy.Security, change ...func(*tech.Config)) *world {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{TB: t, dir: dir, link: make(chan struct{})}
	f := policy.Open(filepath.Join(t.TempDir(), "exec-approvals.json"), policy.Options{
		HomeDir: t.TempDir(), Defaults: policy.Overrides{Security: security, Ask: policy.AskOff},
	})
	c := tech.Config{
		Policy: f, Dir: dir, Env: func() []string { return []string{"PATH=/usr/bin:/bin", "SHELL=/bin/sh", "PS1=$ ", "LANG=C.UTF-8"} },
		Roots: func() []files.Root { return []files.Root{{Path: dir}} },
	}
	for _, f := range change {
		f(&c)
	}
	w.m = tech.New(c)
	w.h = host.New(host.Config{Policy: f, Modules: []host.Module{w.m}, Env: c.Env})
	t.Cleanup(func() {
		w.cut()
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		if err := w.m.Close(ctx); err != nil {
			t.Error("the module does not end: ", err)
		}
	})
	return w
}

// cut ends the link.
func (w *world) cut() { w.once.Do(func() { close(w.link) }) }

// do is "ok", or "code: message".
func (w *world) do(command string, params map[string]any) string {
	w.Helper()
	b, err := json.Marshal(params)
	if err != nil {
		w.Fatal(err)
	}
	text := string(b)
	r := w.h.Handle(context.Background(), host.Request{ID: "r", Command: command, ParamsJSON: &text, Ended: w.link})
	if r.OK {
		return "ok"
	}
	return r.Error.Code + ": " + r.Error.Message
}

func (w *world) open(more map[string]any) {
	w.Helper()
	p := map[string]any{"session_id": one, "owner": "ada"}
	maps.Copy(p, more)
	if got := w.do("tech.open", p); got != "ok" {
		w.Fatal("tech.open: ", got)
	}
}

// heartbeat waits until nothing holds the node.
func (w *world) heartbeat() {
	w.Helper()
	until(w, "heartbeat mode", func() bool {
		_, held := w.m.Machine().Session()
		return !held
	})
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(wait); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("still waiting for ", what)
		}
	}
}

// pipe is a message.Pipe and a host.Channel.
type pipe struct{ net.Conn }

func (p pipe) Close(error) error { return p.Conn.Close() }

func (p pipe) CloseWrite() error { return p.Conn.(*net.UnixConn).CloseWrite() }

// pipes are two ends of a stream with a buffer, as a link has.
func pipes(t testing.TB) (a, b pipe) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	end := func(fd int) pipe {
		f := os.NewFile(uintptr(fd), "pair")
		defer f.Close()
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		return pipe{c}
	}
	return end(fds[0]), end(fds[1])
}

// channel is the other side of a channel.
type channel struct {
	testing.TB
	message.Conn
	served chan error
}

var channels atomic.Int64

func (w *world) channel(kind message.Kind) *channel {
	w.Helper()
	return w.channelOf(one, "c"+strconv.FormatInt(channels.Add(1), 10), kind)
}

func (w *world) channelOf(session, id string, kind message.Kind) *channel {
	w.Helper()
	mine, theirs := pipes(w)
	c := &channel{TB: w.TB, Conn: message.Over(mine), served: make(chan error, 1)}
	go func() { c.served <- w.m.ServeChannel(context.Background(), session, id, kind, message.Over(theirs)) }()
	w.Cleanup(c.end)
	return c
}

// end ends the channel and waits for the node.
func (c *channel) end() {
	_ = c.Close(nil)
	select {
	case err := <-c.served:
		c.served <- err
	case <-time.After(wait):
		c.Error("the channel does not end")
	}
}

func (c *channel) say(typ string, payload any, data ...byte) {
	c.Helper()
	if err := c.Send(context.Background(), message.Of(typ, payload, data)); err != nil {
		c.Fatal(err)
	}
}

// hear waits for a message of a type.
func (c *channel) hear(typ string) message.Message {
	c.Helper()
	m, err := c.Receive(context.Background())
	if err != nil {
		c.Fatalf("%s was expected: %v", typ, err)
	}
	if m.Type != typ {
		c.Fatalf("%s was expected, not %s %s %q", typ, m.Type, m.Payload, m.Data)
	}
	return m
}

// refused is the code and the text of what did not work.
func (c *channel) refused() (f message.Failure) {
	c.Helper()
	c.into(c.hear(message.TypeError), &f)
	return f
}

func (c *channel) into(m message.Message, p any) {
	c.Helper()
	if err := m.Into(p); err != nil {
		c.Fatal(err)
	}
}

// ran is all output of a command, byte-exact.
func (c *channel) ran(p message.Command) (stdout, stderr string, end message.Output) {
	c.Helper()
	c.say(message.TypeCommand, p)
	return c.output()
}

func (c *channel) output() (stdout, stderr string, end message.Output) {
	c.Helper()
	for {
		var o message.Output
		c.into(c.hear(message.TypeOutput), &o)
		stdout += o.Stdout + string(o.StdoutB64)
		stderr += o.Stderr + string(o.StderrB64)
		if o.ExitCode != nil {
			return stdout, stderr, o
		}
	}
}

func TestModeOfTheMachine(t *testing.T) {
	var mu sync.Mutex
	var modes []string
	w := newWorld(t, policy.SecurityFull, func(c *tech.Config) {
		c.Mode = func(s string) { mu.Lock(); defer mu.Unlock(); modes = append(modes, s) }
	})
	w.open(nil)
	c := w.channel(message.Terminal)
	if got := w.do("tech.open", map[string]any{"session_id": two}); !strings.HasPrefix(got, "CONFLICT: this node is held") {
		t.Error("a second session: ", got)
	}
	if out, _, _ := c.ran(message.Command{Command: "echo still here"}); out != "still here\n" {
		t.Errorf("the first session was harmed: %q", out)
	}
	// Another link neither works in it nor ends it.
	other := make(chan struct{})
	if err := w.m.EndSession(context.Background(), one, "", other); err != nil {
		t.Error(err)
	}
	if s, held := w.m.Machine().Session(); !held || s.ID != one || s.Owner != "ada" {
		t.Error("another link has ended the session: ", s, held)
	}
	if got := w.do("tech.close", map[string]any{"session_id": two}); got != "ok" {
		t.Error("closing what is not there: ", got)
	}
	if got := w.do("tech.close", map[string]any{"session_id": one, "reason": "taken over"}); got != "ok" {
		t.Error("tech.close: ", got)
	}
	if _, held := w.m.Machine().Session(); held {
		t.Error("the node is held after tech.close")
	}
	if _, err := c.Receive(context.Background()); err == nil {
		t.Error("a channel is open after its session")
	}
	if err := w.m.ServeChannel(context.Background(), one, "x", message.File, message.Over(first(pipes(t)))); !errors.Is(err, tech.ErrSession) {
		t.Error("a channel of a closed session: ", err)
	}
	w.open(map[string]any{"session_id": two})
	w.cut()
	w.heartbeat()
	until(t, "the modes to be told", func() bool { mu.Lock(); defer mu.Unlock(); return len(modes) == 4 })
	if want := []string{one, "", two, ""}; !slices.Equal(modes, want) {
		t.Errorf("modes %q, not %q", modes, want)
	}
}

func first(a, b pipe) pipe { b.Conn.Close(); return a }

// Fifty ask at once: one holds the node.
func TestOneHoldsTheNode(t *testing.T) {
	w := newWorld(t, policy.SecurityFull)
	var wg sync.WaitGroup
	var held, refused atomic.Int64
	start := make(chan struct{})
	for i := range 50 {
		wg.Go(func() {
			<-start
			id := fmt.Sprintf("%08d-0000-4000-8000-000000000000", i)
			err := w.m.Open(context.Background(), tech.Session{ID: id}, tech.Admission{}, w.link)
			switch {
			case err == nil:
				held.Add(1)
			case errors.Is(err, tech.ErrHeld):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	close(start)
	wg.Wait()
	if held.Load() != 1 || refused.Load() != 49 {
		t.Errorf("%d hold the node, %d were refused", held.Load(), refused.Load())
	}
}

func TestWhatOpensASession(t *testing.T) {
	for _, tc := range []struct {
		security policy.Security
		params   map[string]any
		want     string
	}{
		{policy.SecurityFull, nil, "ok"},
		{policy.SecurityDeny, map[string]any{"approved": true}, "DENIED: "},
		{policy.SecurityAllowlist, nil, "DENIED: "},
		{policy.SecurityAllowlist, map[string]any{"approved": "true"}, "DENIED: "},
		{policy.SecurityAllowlist, map[string]any{"Approved": true}, "DENIED: "}, // names count as they are written
		{policy.SecurityAllowlist, map[string]any{"approved": true}, "ok"},
		{policy.SecurityAllowlist, map[string]any{"approvalDecision": "allow-once"}, "ok"},
		{policy.SecurityAllowlist, map[string]any{"read_only": true}, "ok"},
		{policy.SecurityFull, map[string]any{"session_id": ""}, "INVALID_PARAMS: "},
		{policy.SecurityFull, map[string]any{"session_id": "a'b"}, "INVALID_PARAMS: "},
		{policy.SecurityFull, map[string]any{"session_id": strings.Repeat("a", 65)}, "INVALID_PARAMS: "},
		{policy.SecurityFull, map[string]any{"kinds": []string{"shell"}}, "INVALID_PARAMS: "},
		{policy.SecurityFull, map[string]any{"directories": []string{"relative"}}, "INVALID_PARAMS: "},
		{policy.SecurityFull, map[string]any{"directories": []string{"/a\x00b"}}, "INVALID_PARAMS: "},
		{policy.SecurityFull, map[string]any{"directories": []string{"/nowhere/at/all"}}, "NOT_FOUND: "},
	} {
		w := newWorld(t, tc.security)
		p := map[string]any{"session_id": one}
		maps.Copy(p, tc.params)
		if got := w.do("tech.open", p); !strings.HasPrefix(got, tc.want) {
			t.Errorf("%s %v: %s, not %s", tc.security, tc.params, got, tc.want)
		}
		if _, held := w.m.Machine().Session(); held != (tc.want == "ok") {
			t.Errorf("%s %v: held is %v", tc.security, tc.params, held)
		}
	}
}

func TestKindsOfChannels(t *testing.T) {
	w := newWorld(t, policy.SecurityAllowlist)
	w.open(map[string]any{"read_only": true, "kinds": []string{"terminal", "file"}})
	for _, tc := range []struct {
		id   string
		kind message.Kind
		want error
	}{
		{"a", message.Terminal, tech.ErrKind}, {"a", message.Service, tech.ErrKind}, {"a", "shell", errs.New(errs.Invalid, "")},
		{"a/b", message.File, errs.New(errs.Invalid, "")}, {strings.Repeat("a", 37), message.File, errs.New(errs.Invalid, "")}, {"", message.File, errs.New(errs.Invalid, "")},
	} {
		err := w.m.ServeChannel(context.Background(), one, tc.id, tc.kind, message.Over(first(pipes(t))))
		if errs.ClassOf(err) != errs.ClassOf(tc.want) {
			t.Errorf("%q %q: %v, not %v", tc.id, tc.kind, err, tc.want)
		}
	}
	c := w.channelOf(one, "same", message.File)
	c.say(message.TypeService, message.ServiceCall{Op: "list"})
	if f := c.refused(); f.Code != "invalid" {
		t.Error("a message of another kind: ", f)
	}
	if err := w.m.ServeChannel(context.Background(), one, "same", message.File, message.Over(first(pipes(t)))); !errors.Is(err, tech.ErrUsed) {
		t.Error("an id that is used: ", err)
	}
	c.say(message.TypeWrite, message.FileWrite{Path: "x", EOF: true, Truncate: true}, 'x')
	if f := c.refused(); f.Code != "denied" {
		t.Error("a write in a session for reading: ", f)
	}
	for i := range tech.MaxChannels - 1 {
		c := w.channelOf(one, fmt.Sprint("n", i), message.File)
		c.say(message.TypeList, message.Path{})
		c.hear(message.TypeEntries) // it is served
	}
	if err := w.m.ServeChannel(context.Background(), one, "more", message.File, message.Over(first(pipes(t)))); !errors.Is(err, tech.ErrMany) {
		t.Error("one channel more: ", err)
	}
}

func TestCommands(t *testing.T) {
	w := newWorld(t, policy.SecurityAllowlist)
	w.open(map[string]any{"approved": true})
	c := w.channel(message.Terminal)
	hostile := `printf '%s' 'a"b'\''c $(x) ;|&<>'` + "; printf '\\033\\001\\r'"
	for _, tc := range []struct {
		command     string
		out, errOut string
		code        int
		signal      string
	}{
		{"echo out; echo err >&2; exit 3", "out\n", "err\n", 3, ""},
		{hostile, "a\"b'c $(x) ;|&<>\x1b\x01\r", "", 0, ""},
		{`printf '\377\376\n'`, "\xff\xfe\n", "", 0, ""},
		{"printf 'дом\\n'", "дом\n", "", 0, ""},
		{"pwd", w.dir + "\n", "", 0, ""},
		{"kill -TERM $$", "", "", 128 + 15, "SIGTERM"},
		{"cat", "", "", 0, ""}, // its input is empty
		{"no-such-program-at-all 2>/dev/null", "", "", 127, ""},
	} {
		out, errOut, end := c.ran(message.Command{Command: tc.command})
		if out != tc.out || errOut != tc.errOut || *end.ExitCode != tc.code || end.Signal != tc.signal {
			t.Errorf("%q: %q %q %d %q, not %q %q %d %q", tc.command, out, errOut, *end.ExitCode, end.Signal, tc.out, tc.errOut, tc.code, tc.signal)
		}
	}
	for command, code := range map[string]string{"": "invalid", " \t": "invalid", "a\x00b": "invalid"} {
		c.say(message.TypeCommand, message.Command{Command: command})
		if f := c.refused(); f.Code != code {
			t.Errorf("%q: %v", command, f)
		}
	}
	if _, _, end := c.ran(message.Command{Command: "sleep 60", TimeoutMS: 50}); !end.TimedOut || end.Signal != "SIGKILL" {
		t.Error("a time limit: ", end)
	}
	c.say(message.TypeInput, struct{}{}, 'x')
	if f := c.refused(); f.Code != "conflict" {
		t.Error("input without a terminal: ", f)
	}
}

// A megabyte of every byte comes through as it was written, in pieces as they were written.
func TestOutputIsLiveAndExact(t *testing.T) {
	w := newWorld(t, policy.SecurityFull)
	w.open(nil)
	c := w.channel(message.Terminal)
	data := make([]byte, 1<<20)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	copy(data[1000:], strings.Repeat("дом€😀", 1000))
	name := filepath.Join(w.dir, "data")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _, _ := c.ran(message.Command{Command: "cat data"}); out != string(data) {
		t.Errorf("%d bytes came through, not the same %d", len(out), len(data))
	}
	fifo := filepath.Join(w.dir, "go")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	c.say(message.TypeCommand, message.Command{Command: "echo begun; read -r x <go; echo $x"})
	var o message.Output
	c.into(c.hear(message.TypeOutput), &o)
	if o.Stdout != "begun\n" || o.ExitCode != nil {
		t.Errorf("the first piece is %+v", o)
	}
	c.say(message.TypeCommand, message.Command{Command: "echo second"})
	if f := c.refused(); f.Code != "conflict" {
		t.Error("a second command at once: ", f)
	}
	if err := os.WriteFile(fifo, []byte("on\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _, _ := c.output(); out != "on\n" {
		t.Errorf("the rest is %q", out)
	}
}

// alive reports whether a process runs.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	return !bytes.Contains(stat[bytes.LastIndexByte(stat, ')'):], []byte(") Z"))
}

func (w *world) pids(name string, n int) (out []int) {
	w.Helper()
	until(w, "process numbers", func() bool {
		b, _ := os.ReadFile(filepath.Join(w.dir, name))
		out = nil
		for f := range strings.FieldsSeq(string(b)) {
			pid, err := strconv.Atoi(f)
			if err != nil {
				return false
			}
			out = append(out, pid)
		}
		return len(out) == n && bytes.HasSuffix(b, []byte("\n"))
	})
	return out
}

func gone(t testing.TB, pids []int) {
	t.Helper()
	until(t, fmt.Sprint("the end of ", pids), func() bool { return !slices.ContainsFunc(pids, alive) })
}

// What a command has started ends with it, whoever ends it.
func TestProcessesEnd(t *testing.T) {
	const line = "sleep 600 & a=$!; (sleep 600 & echo $! $a >pids; wait) & wait"
	for name, end := range map[string]func(*world, *channel){
		"close":   func(_ *world, c *channel) { c.say(message.TypeClose, struct{}{}) },
		"channel": func(_ *world, c *channel) { c.end() },
		"session": func(w *world, _ *channel) {
			if got := w.do("tech.close", map[string]any{"session_id": one}); got != "ok" {
				w.Error(got)
			}
		},
		"link": func(w *world, _ *channel) { w.cut() },
		"module": func(w *world, _ *channel) {
			ctx, cancel := context.WithTimeout(context.Background(), wait)
			defer cancel()
			if err := w.m.Close(ctx); err != nil {
				w.Error(err)
			}
		},
	} {
		for _, kind := range []string{"command", "terminal"} {
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, policy.SecurityFull)
				w.open(nil)
				c := w.channel(message.Terminal)
				if kind == "command" {
					c.say(message.TypeCommand, message.Command{Command: line})
				} else {
					c.say(message.TypeOpen, message.TerminalOpen{Argv: []string{"/bin/sh", "-c", "trap '' HUP; " + line}})
				}
				pids := w.pids("pids", 2)
				end(w, c)
				gone(t, pids)
				if name == "session" || name == "link" || name == "module" {
					w.heartbeat()
				}
				if name == "close" && kind == "command" {
					if _, _, o := c.output(); *o.ExitCode != 137 || o.Signal != "SIGKILL" {
						t.Error("the end that is told: ", o)
					}
				}
			})
		}
	}
}

// victim is a node that will be killed: TestKilledNode.
func victim(dir string) {
	f := policy.Open(filepath.Join(dir, "exec-approvals.json"), policy.Options{HomeDir: dir, Defaults: policy.Overrides{Security: policy.SecurityFull, Ask: policy.AskOff}})
	m := tech.New(tech.Config{Policy: f, Dir: dir, Env: func() []string { return []string{"PATH=/usr/bin:/bin", "SHELL=/bin/sh"} }})
	if err := m.Open(context.Background(), tech.Session{ID: one}, tech.Admission{}, nil); err != nil {
		panic(err)
	}
	for id, msg := range map[string]message.Message{
		"a": message.Of(message.TypeCommand, message.Command{Command: "sleep 600 & a=$!; setsid sleep 600 & echo $$ $a $! >one; wait"}, nil),
		"b": message.Of(message.TypeOpen, message.TerminalOpen{Argv: []string{"/bin/sh", "-c", "trap '' HUP; set -m; sleep 600 & echo $$ $! >two; wait"}}, nil),
		"c": message.Of(message.TypeCommand, message.Command{Command: "true"}, nil),
	} {
		mine, theirs := net.Pipe()
		go func() {
			_ = m.ServeChannel(context.Background(), one, id, message.Terminal, message.Over(pipe{theirs})) // until it is killed
		}()
		go func() {
			c := message.Over(pipe{mine})
			_ = c.Send(context.Background(), msg)
			for {
				if _, err := c.Receive(context.Background()); err != nil {
					return
				}
			}
		}()
	}
	select {}
}

// A node that is killed leaves nothing running.
func TestKilledNode(t *testing.T) {
	w := newWorld(t, policy.SecurityFull)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TECH_VICTIM="+w.dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }() // it was
	pids := append(w.pids("one", 3), w.pids("two", 2)...)
	for _, pid := range pids {
		if !alive(pid) {
			t.Fatalf("%d does not run", pid)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	gone(t, pids)
}

func TestTerminal(t *testing.T) {
	w := newWorld(t, policy.SecurityFull)
	w.open(nil)
	c := w.channel(message.Terminal)
	c.say(message.TypeOpen, message.TerminalOpen{Cols: 91, Rows: 33, Env: []string{"GREETING=hello"}})
	var ready message.TerminalReady
	c.into(c.hear(message.TypeOpened), &ready)
	if ready.PID == 0 || !slices.Equal(ready.Argv, []string{"/bin/sh"}) {
		t.Error("ready: ", ready)
	}
	var seen []byte
	expect := func(text string) {
		t.Helper()
		for !bytes.Contains(seen, []byte(text)) {
			seen = append(seen, c.hear(message.TypeChunk).Data...)
		}
	}
	c.say(message.TypeInput, struct{}{}, []byte("stty -echo; echo $GREETING $TERM; stty size\n")...)
	expect("hello xterm-256color\r\n33 91\r\n")
	c.say(message.TypeResize, message.TerminalSize{Cols: 100, Rows: 40})
	c.say(message.TypeInput, struct{}{}, []byte("stty size\n")...)
	expect("40 100")
	c.say(message.TypeResize, message.TerminalSize{Cols: -1, Rows: 40})
	refused := func() (f message.Failure) { // amid what the shell says
		t.Helper()
		for {
			m, err := c.Receive(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if m.Type == message.TypeError {
				c.into(m, &f)
				return f
			}
		}
	}
	if f := refused(); f.Code != "invalid" {
		t.Error("a window of no size: ", f)
	}
	c.say(message.TypeCommand, message.Command{Command: "true"})
	refused()
	c.say(message.TypeInput, struct{}{}, []byte("exit 7\n")...)
	for range 100 { // nobody reads it, and that is no error before the exit is told
		c.say(message.TypeInput, struct{}{}, []byte("x")...)
	}
	var exit message.Exit
	for {
		m, err := c.Receive(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if m.Type == message.TypeError {
			var f message.Failure
			c.into(m, &f)
			t.Error(f)
		}
		if m.Type == message.TypeExit {
			c.into(m, &exit)
			break
		}
	}
	if exit.ExitCode == nil || *exit.ExitCode != 7 {
		t.Error("exit: ", exit)
	}
	// The channel goes on, and a terminal that is closed says how it ended.
	c.say(message.TypeOpen, message.TerminalOpen{Argv: []string{"sleep", "600"}})
	for { // after the exit it is one
		m, err := c.Receive(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if m.Type == message.TypeOpened {
			break
		}
		if m.Type != message.TypeError {
			t.Fatal(m.Type)
		}
	}
	c.say(message.TypeClose, struct{}{})
	c.into(c.hear(message.TypeExit), &exit)
	if want := map[bool]string{false: "SIGHUP", true: "SIGTERM"}[signal.Ignored(syscall.SIGHUP)]; exit.Signal != want { // with nohup it is
		t.Error("exit: ", exit)
	}
	c.say(message.TypeOpen, message.TerminalOpen{Argv: []string{"no-such-program-at-all"}})
	if f := c.refused(); f.Code != "not_found" {
		t.Error("no program: ", f)
	}
	c.say(message.TypeOpen, message.TerminalOpen{Env: []string{"x"}})
	if f := c.refused(); f.Code != "invalid" {
		t.Error("no environment: ", f)
	}
}

func TestDirectories(t *testing.T) {
	w := newWorld(t, policy.SecurityFull)
	for _, d := range []string{"in/deep", "out"} {
		if err := os.MkdirAll(filepath.Join(w.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	in, out := filepath.Join(w.dir, "in"), filepath.Join(w.dir, "out")
	for name, target := range map[string]string{"in/away": out, "in/up": "../out", "in/here": "deep"} {
		if err := os.Symlink(target, filepath.Join(w.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(out, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.open(map[string]any{"directories": []string{in}})
	c := w.channel(message.Terminal)
	for cwd, want := range map[string]string{"": in, "deep": in + "/deep", in: in, "here": in + "/deep", in + "/./deep/..": in} {
		if got, _, _ := c.ran(message.Command{Command: "pwd -P", Cwd: cwd}); got != want+"\n" {
			t.Errorf("%q: %q, not %q", cwd, got, want)
		}
	}
	for cwd, code := range map[string]string{out: "denied", "..": "denied", "away": "denied", "up": "denied", "/": "denied", "nowhere": "not_found", "/nowhere": "denied", "a\x00b": "invalid"} {
		c.say(message.TypeCommand, message.Command{Command: "pwd", Cwd: cwd})
		if f := c.refused(); f.Code != code {
			t.Errorf("%q: %v, not %s", cwd, f, code)
		}
	}
	f := w.channel(message.File)
	for _, path := range []string{out + "/secret", "../out/secret", "away/secret", "up/secret", in + "/../out/secret", "/etc/passwd", "/proc/self/root/etc/passwd", in + "/away/secret"} {
		f.say(message.TypeRead, message.FileRead{Path: path})
		if got := f.refused(); got.Code != "denied" {
			t.Errorf("reading %q: %v", path, got)
		}
		f.say(message.TypeWrite, message.FileWrite{Path: path, Truncate: true, EOF: true}, 'x')
		if got := f.refused(); got.Code != "denied" {
			t.Errorf("writing %q: %v", path, got)
		}
	}
	if b, err := os.ReadFile(filepath.Join(out, "secret")); string(b) != "secret" {
		t.Error("what is outside was changed: ", b, err)
	}
}

// Somebody exchanges the directory of the session, or one below it, for a link that leads out, again and again.
func TestExchangedDirectories(t *testing.T) {
	for _, what := range []string{"in", "in/sub"} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t, policy.SecurityFull)
			in, out := filepath.Join(w.dir, "in"), filepath.Join(w.dir, "out")
			for _, d := range []string{in, in + "/sub", out, out + "/sub"} {
				err := os.Mkdir(d, 0o700)
				if err == nil {
					err = os.WriteFile(d+"/file", []byte(map[bool]string{true: "in", false: "out"}[strings.HasPrefix(d, in)]), 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			w.open(map[string]any{"directories": []string{in}})
			stop := make(chan struct{})
			var wg sync.WaitGroup
			dir := filepath.Join(w.dir, what)
			target := strings.Replace(dir, in, out, 1)
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if err := errors.Join(os.Rename(dir, dir+".away"), os.Symlink(target, dir), os.Remove(dir), os.Rename(dir+".away", dir)); err != nil {
						t.Error(err)
						return
					}
				}
			})
			c := w.channel(message.File)
			read := func(path string) string {
				c.say(message.TypeRead, message.FileRead{Path: path})
				m, err := c.Receive(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				return string(m.Data)
			}
			for i := range 300 {
				path := []string{"file", "sub/file", in + "/file", in + "/sub/file"}[i%4]
				if got := read(path); got != "in" && got != "" {
					t.Fatalf("%q was read of %s", got, path)
				}
				c.say(message.TypeWrite, message.FileWrite{Path: path + ".new", Truncate: true, EOF: true}, 'x')
				if _, err := c.Receive(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
			close(stop)
			wg.Wait()
			if got := read("sub/file"); got != "in" {
				t.Errorf("%q was read when all was done", got)
			}
			for _, name := range []string{out + "/file.new", out + "/sub/file.new"} {
				if _, err := os.Lstat(name); err == nil {
					t.Errorf("%s was written outside", name)
				}
			}
		})
	}
}

func sumOf(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func TestFiles(t *testing.T) {
	w := newWorld(t, policy.SecurityAllowlist)
	w.open(map[string]any{"approved": true})
	c := w.channel(message.File)
	data := make([]byte, 3<<20+17)
	random := rand.New(rand.NewPCG(3, 4))
	for i := range data {
		data[i] = byte(random.Uint32())
	}
	// An upload in pieces of which several are under way.
	up := message.FileWrite{Path: "dir/with 'quotes'/big", Upload: "upload-0001", Size: int64(len(data)), Parents: true, Mode: 0o640}
	const piece = 100_000
	n := 0
	go func() {
		for at := 0; at < len(data); at += piece {
			end := min(at+piece, len(data))
			up := up
			up.Offset = int64(at)
			if end == len(data) {
				up.EOF, up.SHA256 = true, sumOf(data)
			}
			_ = c.Send(context.Background(), message.Of(message.TypeWrite, up, data[at:end])) // the answers say it
		}
	}()
	for done := false; !done; n++ {
		var ack message.FileAck
		c.into(c.hear(message.TypeAck), &ack)
		if want := min(int64(n+1)*piece, int64(len(data))); ack.Written != want {
			t.Fatalf("answer %d says %d, not %d", n, ack.Written, want)
		}
		done = ack.Done
	}
	if n != (len(data)+piece-1)/piece {
		t.Errorf("%d answers", n)
	}
	name := filepath.Join(w.dir, "dir/with 'quotes'/big")
	if b, err := os.ReadFile(name); err != nil || !bytes.Equal(b, data) {
		t.Fatal("the file is not what was sent: ", err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o640 {
		t.Error("its mode: ", info.Mode(), err)
	}
	// The whole of it, and ranges.
	for _, r := range [][2]int64{{0, 0}, {0, 1}, {100, 200_000}, {1 << 20, 0}, {int64(len(data)) - 5, 100}, {int64(len(data)) + 5, 0}} {
		c.say(message.TypeRead, message.FileRead{Path: name, Offset: r[0], Length: r[1]})
		var got []byte
		var chunk message.FileChunk
		for !chunk.Done {
			m := c.hear(message.TypeFileChunk)
			chunk = message.FileChunk{}
			c.into(m, &chunk)
			if want := r[0] + int64(len(got)); chunk.Offset != want {
				t.Fatalf("a chunk at %d, not %d", chunk.Offset, want)
			}
			got = append(got, m.Data...)
		}
		from, to := min(r[0], int64(len(data))), int64(len(data))
		if r[1] > 0 {
			to = min(to, from+r[1])
		}
		if !bytes.Equal(got, data[from:to]) || chunk.SHA256 != sumOf(got) || chunk.Size != int64(len(data)) || chunk.EOF != (to == int64(len(data))) {
			t.Errorf("%v: %d bytes, %+v", r, len(got), chunk)
		}
		c.say(message.TypeSum, message.FileRead{Path: name, Offset: r[0], Length: r[1]})
		var sum message.FileSum
		c.into(c.hear(message.TypeFileSum), &sum)
		if sum.SHA256 != sumOf(got) || sum.Size != int64(len(got)) {
			t.Errorf("%v: %+v", r, sum)
		}
	}
	// What was cut off goes on.
	half := message.FileWrite{Path: "half", Upload: "upload-0002"}
	c.say(message.TypeWrite, half, data[:1000]...)
	c.hear(message.TypeAck)
	c.end()
	c = w.channel(message.File)
	probe := half
	probe.Probe = true
	c.say(message.TypeWrite, probe)
	var ack message.FileAck
	c.into(c.hear(message.TypeAck), &ack)
	if ack.Written != 1000 || ack.SHA256 != sumOf(data[:1000]) || ack.Done {
		t.Fatalf("a probe: %+v", ack)
	}
	half.Offset = 900
	c.say(message.TypeWrite, half, data[900:2000]...)
	if f := c.refused(); f.Code != "conflict" || !strings.Contains(f.Error, "1000 bytes") {
		t.Error("another offset than what is there: ", f)
	}
	half.Offset, half.EOF, half.SHA256 = 1000, true, sumOf(data[:2000])
	c.say(message.TypeWrite, half, data[1000:2000]...)
	c.into(c.hear(message.TypeAck), &ack)
	if b, err := os.ReadFile(filepath.Join(w.dir, "half")); !ack.Done || err != nil || !bytes.Equal(b, data[:2000]) {
		t.Error("what was gone on with: ", ack, err)
	}
	// A wrong checksum leaves nothing, and what was there.
	half.Offset, half.SHA256 = 0, sumOf(data)
	c.say(message.TypeWrite, half, 'x')
	if f := c.refused(); f.Code != "conflict" {
		t.Error("a wrong checksum: ", f)
	}
	if b, err := os.ReadFile(filepath.Join(w.dir, "half")); err != nil || !bytes.Equal(b, data[:2000]) {
		t.Error("a wrong checksum has changed the file: ", err)
	}
	half.SHA256 = ""
	c.say(message.TypeWrite, half, 'x')
	if f := c.refused(); f.Code != "invalid" {
		t.Error("no checksum: ", f)
	}
	// In place.
	for _, s := range []struct {
		p    message.FileWrite
		data string
		want string
	}{
		{message.FileWrite{Path: "p"}, "hello", "hello"},
		{message.FileWrite{Path: "p", Offset: 5}, " world", "hello world"},
		{message.FileWrite{Path: "p", Offset: 2, Truncate: true}, "y", "hey"},
		{message.FileWrite{Path: "p", Offset: 1, EOF: true, SHA256: sumOf([]byte("hoy"))}, "o", "hoy"},
		{message.FileWrite{Path: "p", Truncate: true, EOF: true}, "", ""},
	} {
		c.say(message.TypeWrite, s.p, []byte(s.data)...)
		ack = message.FileAck{}
		c.into(c.hear(message.TypeAck), &ack)
		b, err := os.ReadFile(filepath.Join(w.dir, "p"))
		if err != nil || string(b) != s.want || ack.Written != s.p.Offset+int64(len(s.data)) || ack.Done != s.p.EOF {
			t.Errorf("%+v: %q %v %+v", s.p, b, err, ack)
		}
	}
	for _, p := range []message.FileRead{{Path: "nothing"}, {Path: "dir"}, {Path: "p", Offset: -1}, {Path: "p", Length: -1}, {Path: "a\x00b"}, {Path: "/etc/passwd"}} {
		c.say(message.TypeRead, p)
		if f := c.refused(); f.Code == "" || f.Code == "internal" || f.Error == "" {
			t.Errorf("%+v: %+v", p, f)
		}
	}
}

func TestListOfFiles(t *testing.T) {
	w := newWorld(t, policy.SecurityFull)
	var want []string
	for i := range 700 {
		name := fmt.Sprintf("%04d <&> %s", i, strings.Repeat("x", i%60))
		if i%100 == 0 {
			name += "\xff\n"
		}
		want = append(want, name)
		if err := os.WriteFile(filepath.Join(w.dir, name), make([]byte, i), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(filepath.Join(w.dir, "zd"), 0o750), os.Symlink("zd", filepath.Join(w.dir, "zl"))); err != nil {
		t.Fatal(err)
	}
	want = append(want, "zd", "zl")
	slices.Sort(want)
	w.open(nil)
	c := w.channel(message.File)
	var got []message.Entry
	p := message.Path{Path: w.dir}
	rounds := 0
	for more := true; more; rounds++ {
		c.say(message.TypeList, p)
		var e message.Entries
		c.into(c.hear(message.TypeEntries), &e)
		got = append(got, e.Entries...)
		last := e.Entries[len(e.Entries)-1]
		p.After, p.AfterB64, more = last.Name, last.NameB64, e.More
	}
	var names []string
	for _, e := range got {
		if len(e.NameB64) > 0 {
			e.Name = string(e.NameB64)
		}
		names = append(names, e.Name)
	}
	if !slices.Equal(names, want) {
		t.Errorf("%d names, not the same %d", len(names), len(want))
	}
	if rounds < 2 {
		t.Error("all in one message")
	}
	d, l, f := got[len(got)-2], got[len(got)-1], got[7]
	if !d.Dir || d.Mode != "drwxr-x---" || !l.Link || l.Mode[0] != 'l' || f.Dir || f.Size != 7 || f.Mode != "-rw-r-----" || f.MtimeMS == 0 {
		t.Errorf("%+v %+v %+v", d, l, f)
	}
}

// A channel that the gateway names carries the messages; without it nothing is served.
func TestChannelOfTheLink(t *testing.T) {
	w := newWorld(t, policy.SecurityFull)
	w.open(nil)
	mine, theirs := pipes(t)
	defer mine.Conn.Close()
	params := `{"session_id":"` + one + `","channel_id":"a","kind":"terminal","channel":"ch-1"}`
	r := host.Request{Command: "tech.channel", ParamsJSON: &params, Ended: w.link}
	if got := w.h.Handle(context.Background(), r); got.OK || got.Error.Code != "UNAVAILABLE" {
		t.Error("a link without channels: ", got)
	}
	r.Channel = func(_ context.Context, name string) (host.Channel, error) {
		if name != "ch-1" {
			return nil, io.ErrUnexpectedEOF
		}
		return theirs, nil
	}
	foreign := r
	foreign.Ended = make(chan struct{})
	if got := w.h.Handle(context.Background(), foreign); got.OK || got.Error.Code != "NOT_FOUND" {
		t.Error("another link: ", got)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if got := w.h.Handle(ctx, r); !got.OK {
		t.Fatal(got.Error)
	}
	cancel() // the request has ended, its channel goes on
	c := &channel{TB: t, Conn: message.Over(mine)}
	if out, _, _ := c.ran(message.Command{Command: "echo by the link"}); out != "by the link\n" {
		t.Errorf("%q", out)
	}
	w.cut()
	if _, err := c.Receive(context.Background()); err == nil {
		t.Error("the channel is open after its link")
	}
	w.heartbeat()
}

func TestWhatThisSystemHasNot(t *testing.T) {
	w := newWorld(t, policy.SecurityFull)
	w.open(nil)
	c := w.channel(message.Registry)
	c.say(message.TypeRegistry, message.RegistryCall{Op: "get", Key: `HKLM\SOFTWARE`})
	if f := c.refused(); f.Code != "unsupported" || f.Error != "unsupported on linux" {
		t.Error(f)
	}
	for _, p := range []message.RegistryCall{{Op: "get"}, {Op: "format", Key: "x"}} {
		c.say(message.TypeRegistry, p)
		if f := c.refused(); f.Code != "invalid" {
			t.Error(p, f)
		}
	}
}

// A reader that does not read stops its own channel, and nobody else.
func TestSlowReader(t *testing.T) {
	w := newWorld(t, policy.SecurityFull)
	w.open(nil)
	slow, quick := w.channel(message.Terminal), w.channel(message.Terminal)
	slow.say(message.TypeCommand, message.Command{Command: "echo $$ >pids; yes"})
	pids := w.pids("pids", 1)
	for range 20 {
		if out, _, _ := quick.ran(message.Command{Command: "echo quick"}); out != "quick\n" {
			t.Errorf("%q", out)
		}
	}
	slow.end()
	gone(t, pids)
}

// frames hears what goes to a foreign server.
type frames struct {
	testing.TB
	said chan string
}

func (f frames) Ready(session string) error { return f.add("ready " + session) }

func (f frames) Data(channel string, data json.RawMessage) error {
	return f.add("data " + channel + " " + string(data))
}

func (f frames) Error(channel, text string) error { return f.add("error " + channel + " " + text) }

func (f frames) add(text string) error { f.said <- text; return nil }

func (f frames) next() string {
	f.Helper()
	select {
	case s := <-f.said:
		return s
	case <-time.After(wait):
		f.Fatal("nothing was said")
		return ""
	}
}

func (f frames) want(begin string) string {
	f.Helper()
	s := f.next()
	if !strings.HasPrefix(s, begin) {
		f.Errorf("%q was said, not %q", s, begin)
	}
	return s
}

func TestForeignServer(t *testing.T) {
	w := newWorld(t, policy.SecurityFull)
	f := frames{t, make(chan string, 1000)}
	x := w.m.Frames(f, w.link)
	command := func(line string) json.RawMessage {
		e, err := message.Envelope(message.Of(message.TypeCommand, message.Command{Command: line}, nil))
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	x.Data("a", command("echo early"))
	f.want("error a this node is not held")
	x.Open(one, "tech")
	f.want("ready " + one)
	x.Open(two, "tech")
	f.want("error " + two + " this node is held")
	x.Data("a", command(`echo out; echo err >&2; printf '\377'; exit 4`))
	var out, errOut string
	for {
		s := f.want("data a ")
		m, err := message.FromEnvelope([]byte(strings.TrimPrefix(s, "data a ")))
		if err != nil || m.Type != message.TypeOutput {
			t.Fatal(s, err)
		}
		var o struct {
			Stdout, Stderr string
			Code           *int `json:"exit_code"`
		}
		if err := m.Into(&o); err != nil {
			t.Fatal(err)
		}
		out, errOut = out+o.Stdout, errOut+o.Stderr
		if o.Code != nil {
			if *o.Code != 4 || out != "out\n\uFFFD" || errOut != "err\n" {
				t.Errorf("%d %q %q", *o.Code, out, errOut)
			}
			break
		}
	}
	x.Data("r", json.RawMessage(`{"type":"registry","payload":{"op":"get","key":"HKLM"}}`))
	f.want("error r unsupported on linux")
	x.Data("f", json.RawMessage(`{"type":"file_write","payload":{"path":"new","offset":0,"data_b64":"`+base64.StdEncoding.EncodeToString([]byte("by a link"))+`"}}`))
	f.want(`data f {"type":"file_ack","payload":{"written":9}}`)
	x.Data("f", json.RawMessage(`{"type":"file_read","payload":{"path":"new","offset":3,"length":0}}`))
	if s := f.want(`data f {"type":"file_chunk"`); !strings.Contains(s, base64.StdEncoding.EncodeToString([]byte("a link"))) {
		t.Error(s)
	}
	for _, bad := range []string{`{`, `{}`, `[]`, `{"type":"other"}`} {
		x.Data("b", json.RawMessage(bad))
		f.want("error b ")
	}
	x.Data("a/b", command("true"))
	f.want("error a/b ")
	// Each command may have a channel of its own: those that are done make room.
	for i := range 3 * tech.MaxChannels {
		id := fmt.Sprint("n", i)
		x.Data(id, command("true"))
		f.want(`data ` + id + ` {"type":"terminal_output","payload":{"stdout":"","stderr":"","exit_code":0}}`)
	}
	// What waits for a program is bounded, and does not stop the reader of the link.
	x.Data("s", command("echo $$ >pids; sleep 600"))
	pids := w.pids("pids", 1)
	x.CloseSession(two) // not that one
	x.CloseSession(one)
	w.heartbeat()
	gone(t, pids)
	x.Data("a", command("true"))
	f.want("error a this node is not held")
	x.Open(two, "tech")
	f.want("ready " + two)
	w.cut()
	w.heartbeat()
}

// A foreign server has no approvals: the policy decides about each command.
func TestForeignServerIsUnderThePolicy(t *testing.T) {
	w := newWorld(t, policy.SecurityAllowlist)
	f := frames{t, make(chan string, 1000)}
	x := w.m.Frames(f, w.link)
	x.Open(one, "tech")
	f.want("ready " + one)
	x.Data("a", json.RawMessage(`{"type":"terminal","payload":{"command":"id"}}`))
	f.want("error a SYSTEM_RUN_DENIED")
	x.Data("b", json.RawMessage(`{"type":"terminal_open","payload":{}}`))
	f.want("error b SYSTEM_RUN_DENIED")
	x.Data("c", json.RawMessage(`{"type":"service","payload":{"op":"stop","name":"ssh"}}`))
	f.want("error c SYSTEM_RUN_DENIED")
}

// A server that sends more than is taken loses that channel, and no other.
func TestForeignServerThatFloods(t *testing.T) {
	w := newWorld(t, policy.SecurityFull)
	f := frames{t, make(chan string, 100_000)}
	x := w.m.Frames(f, w.link)
	x.Open(one, "tech")
	f.want("ready " + one)
	x.Data("a", json.RawMessage(`{"type":"terminal_open","payload":{"argv":["sleep","600"]}}`))
	f.want(`data a {"type":"terminal_ready"`)
	input := json.RawMessage(`{"type":"terminal_input","payload":{"data_b64":"` + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("x\n"), 4<<10)) + `"}}`)
	for range 400 {
		x.Data("a", input)
	}
	until(t, "the end of the channel", func() bool { return strings.HasPrefix(f.next(), "error a too much waits") })
	x.Data("b", json.RawMessage(`{"type":"terminal","payload":{"command":"echo fine"}}`))
	until(t, "another channel", func() bool {
		s := f.next()
		return strings.HasPrefix(s, "data b ") && strings.Contains(s, "fine")
	})
}
