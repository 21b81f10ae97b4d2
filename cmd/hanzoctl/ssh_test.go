package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hanzoai/hanzod/client"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/tests/sshtest"
)

// boxed is a daemon on a machine that is reached by SSH as "box", and the home directory of who reaches it.
type boxed struct {
	d    *hanzodtest.Daemon
	ssh  *sshtest.Server
	home string
}

func startBox(t testing.TB) *boxed {
	t.Helper()
	d := hanzodtest.Start(t, hanzodtest.Options{})
	s := sshtest.Start(t, sshtest.Options{Env: map[string]string{"HANZOD_STATE_DIR": d.StateDir}})
	return &boxed{d: d, ssh: s, home: s.ClientHome(s.HostBlock("box"))}
}

// env is the environment of who reaches it, with more.
func (b *boxed) env(more ...string) []string {
	return append(append(os.Environ(), "HOME="+b.home, "SSH_AUTH_SOCK=", "HANZOD_STATE_DIR=", "HANZOD_SOCKET=", "XDG_RUNTIME_DIR="), more...)
}

// TestSSHScripts runs the stories in testdata/ssh, each against a daemon on a machine that is reached by SSH.
func TestSSHScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "ssh"),
		Setup: func(e *testscript.Env) error {
			tb := e.T().(testing.TB)
			b := startBox(tb)
			for _, kv := range []string{"HOME=" + b.home, "PATH=" + os.Getenv("PATH"), "GORACE=" + noWait, "ADDRESS=" + b.ssh.Address(), "TOKEN=" + b.d.Token, "STATE=" + b.d.StateDir, "SSH_AUTH_SOCK="} {
				name, value, _ := strings.Cut(kv, "=")
				e.Setenv(name, value)
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			tb.Cleanup(func() { l.Close() })
			e.Setenv("BUSY", l.Addr().String())
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "capture": capture},
	})
}

// attacher is a running "hanzoctl attach" that tells its changes as JSON.
type attacher struct {
	t   testing.TB
	cmd *exec.Cmd
	out *bufio.Reader
	err errText
}

// errText is what a running program has written.
type errText struct {
	mu sync.Mutex
	b  strings.Builder
}

func (e *errText) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.b.Write(p)
}

func (e *errText) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.b.String()
}

func (b *boxed) attach(t testing.TB, args ...string) *attacher {
	t.Helper()
	at := &attacher{t: t, cmd: exec.Command("hanzoctl", append([]string{"attach", "ssh://box", "-o", "jsonl"}, args...)...)}
	at.cmd.Env = b.env()
	pipe, err := at.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	at.out, at.cmd.Stderr = bufio.NewReader(pipe), &at.err
	if err := at.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		at.cmd.Process.Kill()
		at.cmd.Wait()
	})
	return at
}

// state waits for the next change, which has to be the given one.
func (at *attacher) state(want string) attachState {
	at.t.Helper()
	type read struct {
		line string
		err  error
	}
	got := make(chan read, 1)
	go func() {
		line, err := at.out.ReadString('\n')
		got <- read{line, err}
	}()
	select {
	case r := <-got:
		var s attachState
		if r.err != nil || json.Unmarshal([]byte(r.line), &s) != nil || s.State != want {
			at.t.Fatalf("got %q (%v), want the state %q; stderr:\n%s", r.line, r.err, want, at.err.String())
		}
		return s
	case <-time.After(40 * time.Second):
		at.t.Fatalf("no %q; stderr:\n%s", want, at.err.String())
	}
	panic("not reached")
}

func askHealth(t testing.TB, socket string) error {
	t.Helper()
	c, err := client.Dial(t.Context(), client.Options{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.System.GetHealth(t.Context(), &systemv1.GetHealthRequest{})
	return err
}

// legacyClient is a client of the legacy protocol that is let in by a token, or not.
func legacyClient(t testing.TB, address, token string) (*websocket.Conn, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "ws://"+address, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.CloseNow() })
	params := map[string]any{"minProtocol": 3, "maxProtocol": 3, "role": "operator", "scopes": []string{"operator.read"},
		"client": map[string]any{"id": "cli", "version": "1", "platform": "linux", "mode": "cli"}, "auth": map[string]any{"token": token}}
	text, err := json.Marshal(map[string]any{"type": "req", "id": "1", "method": "connect", "params": params})
	if err != nil {
		t.Fatal(err)
	}
	if err := ws.Write(ctx, websocket.MessageText, text); err != nil {
		t.Fatal(err)
	}
	for {
		_, data, err := ws.Read(ctx)
		if err != nil {
			return ws, err.Error()
		}
		var m struct{ Type string }
		if json.Unmarshal(data, &m) == nil && m.Type == "res" {
			return ws, string(data)
		}
	}
}

// An attached daemon is used through its socket alone, and by legacy clients through one port; neither wants a
// secret on the way (promises.md R22).
func TestAttach(t *testing.T) {
	t.Parallel()
	b := startBox(t)
	at := b.attach(t, "--listen", "127.0.0.1:0")
	s := at.state("attached")
	if s.Target.Address != "ssh://box" || s.Version == "" || s.Route == "" || s.LatencyMs <= 0 {
		t.Errorf("got %+v", s)
	}
	if !strings.Contains(at.err.String(), "ssh://box") {
		t.Errorf("stderr does not say which daemon: %q", at.err.String())
	}
	for path, mode := range map[string]os.FileMode{s.Socket: 0o600 | os.ModeSocket, filepath.Dir(s.Socket): 0o700 | os.ModeDir} {
		if st, err := os.Lstat(path); err != nil || st.Mode() != mode {
			t.Errorf("%s: %v, %v", path, st.Mode(), err)
		}
	}
	if err := askHealth(t, s.Socket); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("hanzoctl", "status")
	cmd.Env = b.env("HANZOD_SOCKET=" + s.Socket)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "ssh://box · attached at "+s.Socket) || !strings.Contains(string(out), b.d.StateDir) {
		t.Errorf("%v: %s", err, out)
	}
	if _, answer := legacyClient(t, s.Listen, "wrong"); !strings.Contains(answer, "unauthorized") {
		t.Errorf("without the token: %s", answer)
	}
	ws, answer := legacyClient(t, s.Listen, b.d.Token)
	if !strings.Contains(answer, `"ok":true`) || !strings.Contains(answer, "hello-ok") {
		t.Fatalf("legacy client: %s", answer)
	}
	// Another attachment does not take the socket, one for a command has its own.
	cmd = exec.Command("hanzoctl", "attach", "ssh://box")
	cmd.Env = b.env()
	if out, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != exitConflict || !strings.Contains(string(out), "attached already") {
		t.Errorf("%v: %s", err, out)
	}

	// The link is lost: what it carried ends at once, and so does what comes meanwhile.
	b.ssh.Down()
	if s := at.state("lost"); s.Error == "" {
		t.Errorf("lost without a reason: %+v", s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for {
		if _, _, err := ws.Read(ctx); err != nil {
			if ctx.Err() != nil {
				t.Error("a connection that was carried hangs")
			}
			break
		}
	}
	c, err := net.Dial("unix", s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err != io.EOF && !strings.Contains(err.Error(), "reset") {
		t.Errorf("a connection while the link is lost: %v", err)
	}
	c.Close()
	b.ssh.Up()
	if again := at.state("resumed"); again.Socket != s.Socket || again.Listen != s.Listen {
		t.Errorf("resumed elsewhere: %+v", again)
	}
	if err := askHealth(t, s.Socket); err != nil {
		t.Error(err)
	}
	if _, answer := legacyClient(t, s.Listen, b.d.Token); !strings.Contains(answer, `"ok":true`) {
		t.Errorf("legacy client after it was resumed: %s", answer)
	}

	if err := at.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	at.state("ended")
	at.cmd.Wait()
	if code := at.cmd.ProcessState.ExitCode(); code != exitInt {
		t.Errorf("exit %d", code)
	}
	if _, err := os.Lstat(filepath.Dir(s.Socket)); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

// A link that is silent is noticed without anybody asking for anything.
func TestAttachSilence(t *testing.T) {
	t.Parallel()
	b := startBox(t)
	at := b.attach(t)
	s := at.state("attached")
	c, err := net.Dial("unix", s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	b.ssh.Freeze()
	at.state("lost")
	if took := time.Since(began); took > 3*probeEvery {
		t.Errorf("it was noticed after %s", took)
	}
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("what was carried did not end: %v", err)
	}
	at.state("resumed")
	if err := askHealth(t, s.Socket); err != nil {
		t.Error(err)
	}
	b.ssh.Thaw()
}

// The daemon may go away and come back, with another port, while the machine stays.
func TestAttachRestart(t *testing.T) {
	t.Parallel()
	b := startBox(t)
	at := b.attach(t, "--listen", "127.0.0.1:0")
	s := at.state("attached")
	if err := b.d.Stop(); err != nil {
		t.Fatal(err)
	}
	at.state("lost")
	d := hanzodtest.Start(t, hanzodtest.Options{StateDir: b.d.StateDir})
	at.state("resumed")
	if err := askHealth(t, s.Socket); err != nil {
		t.Error(err)
	}
	if _, answer := legacyClient(t, s.Listen, d.Token); !strings.Contains(answer, `"ok":true`) {
		t.Errorf("legacy client: %s", answer)
	}
}

// What was killed leaves a socket behind that nobody answers on; the next attachment replaces it.
func TestAttachAfterKill(t *testing.T) {
	t.Parallel()
	b := startBox(t)
	at := b.attach(t)
	s := at.state("attached")
	at.cmd.Process.Kill()
	at.cmd.Wait()
	if _, err := os.Lstat(s.Socket); err != nil {
		t.Fatal(err)
	}
	if again := b.attach(t).state("attached"); again.Socket != s.Socket {
		t.Errorf("got %s, want %s", again.Socket, s.Socket)
	}
	if err := askHealth(t, s.Socket); err != nil {
		t.Error(err)
	}
}

// onTerminalWith is hanzoctl on a terminal with an environment of its own.
func onTerminalWith(t testing.TB, env []string, args ...string) *terminal {
	t.Helper()
	cmd := exec.Command("hanzoctl", args...)
	cmd.Env = append(env, "TERM=xterm", "NO_COLOR=1")
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	return screenOf(t, cmd, f)
}

// A machine that is not known is asked about on the terminal, and only there.
func TestSSHAsks(t *testing.T) {
	t.Parallel()
	b := startBox(t)
	if err := os.WriteFile(b.ssh.KnownHosts, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("hanzoctl", "--host", "ssh://box", "health", "-o", "json")
	cmd.Env = b.env()
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); cmd.ProcessState.ExitCode() != exitDenied || out.Len() > 0 || !strings.Contains(errOut.String(), "host key") {
		t.Errorf("%v: %s%s", err, out.String(), errOut.String())
	}
	tm := onTerminalWith(t, b.env(), "--host", "ssh://box", "health")
	tm.until("SHA256:(.|\n)*\\?")
	tm.press("yes\r")
	tm.until(`ok\r\n`)
	if code := tm.exit(); code != 0 {
		t.Errorf("exit %d", code)
	}
	// From now on it is known.
	cmd = exec.Command("hanzoctl", "--host", "ssh://box", "health", "-q")
	cmd.Env = b.env()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// A passphrase is asked for on the terminal, and not shown.
func TestSSHAsksForPassphrase(t *testing.T) {
	t.Parallel()
	d := hanzodtest.Start(t, hanzodtest.Options{})
	s := sshtest.Start(t, sshtest.Options{Env: map[string]string{"HANZOD_STATE_DIR": d.StateDir}})
	key := filepath.Join(s.Dir, "locked")
	const passphrase = "correct horse"
	sshtest.KeyPair(t, key, "ed25519", passphrase)
	s.Authorize(key + ".pub")
	s.Key = key
	b := &boxed{d: d, ssh: s, home: s.ClientHome(s.HostBlock("box", "IdentitiesOnly yes"))}
	tm := onTerminalWith(t, b.env(), "--host", "ssh://box", "health")
	tm.until("passphrase")
	tm.press("wrong\r")
	tm.until("passphrase")
	tm.press(passphrase[:7] + "xy\x7f\x7f" + passphrase[7:] + "\r")
	screen := tm.until(`ok\r\n`)
	if code := tm.exit(); code != 0 || strings.Contains(screen, "horse") {
		t.Errorf("exit %d, %q", code, screen)
	}
	cmd := exec.Command("hanzoctl", "--host", "ssh://box", "health")
	cmd.Env = b.env()
	if out, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != exitDenied || !strings.Contains(string(out), "ssh-add") {
		t.Errorf("exit %d, %s", cmd.ProcessState.ExitCode(), out)
	}
}

// The board of approve says on which daemon it decides.
func TestInteractiveOverSSH(t *testing.T) {
	t.Parallel()
	b := startBox(t)
	tm := onTerminalWith(t, b.env(), "approve", "--host", "ssh://box")
	tm.until("ssh://box: nothing waits for an approval")
	tm.press("q")
	if code := tm.exit(); code != 0 {
		t.Errorf("exit %d", code)
	}
}

// What an interrupt means is up to the command, and an order to end reaches it.
func TestAttachCommandSignals(t *testing.T) {
	t.Parallel()
	b := startBox(t)
	tm := onTerminalWith(t, b.env(), "attach", "ssh://box", "--", "sh", "-c", `trap 'echo caught' INT; echo ready; while :; do read x && exit 5; done`)
	tm.until("ready")
	tm.press("\x03")
	tm.until("caught")
	tm.press("go\r")
	if code := tm.exit(); code != 5 {
		t.Errorf("exit %d, %q", code, tm.all.String())
	}

	cmd := exec.Command("hanzoctl", "attach", "ssh://box", "--", "sh", "-c", "echo ready; exec sleep 60")
	cmd.Env = b.env()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	if _, err := io.ReadFull(out, make([]byte, len("ready"))); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitSignal+int(syscall.SIGTERM) {
		t.Errorf("exit %d", code)
	}
	left, err := filepath.Glob(filepath.Join(b.home, ".hanzo", "hanzoctl", "attach", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A connection that takes its time says on a terminal what it is about, and nowhere else.
func TestSlowConnection(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	env := append(os.Environ(), "HOME="+t.TempDir(), "SSH_AUTH_SOCK=")
	tm := onTerminalWith(t, env, "--host", "ssh://me@"+l.Addr().String(), "--timeout", "1500ms", "health")
	tm.until("\r\x1b\\[KSSH, ")
	if code := tm.exit(); code != exitDeadline && code != exitNoDaemon || !strings.Contains(tm.all.String(), "SSH, step") {
		t.Errorf("exit %d, %q", code, tm.all.String())
	}
	cmd := exec.Command("hanzoctl", "--host", "ssh://me@"+l.Addr().String(), "--timeout", "1s", "health")
	cmd.Env = env
	if out, _ := cmd.CombinedOutput(); strings.Contains(string(out), "\x1b") || !strings.Contains(string(out), "SSH, step") {
		t.Errorf("got %q", out)
	}
}
