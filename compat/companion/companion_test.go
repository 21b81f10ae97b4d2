//go:build !windows

package companion

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const token = "not-a-real-token-0123456789abcdef"

// as is the user that other processes of these tests run as; it needs root.
const as = 65534

func TestMain(m *testing.M) {
	switch os.Getenv("COMPANION_TEST") {
	case "listen": // as another user, answer everything with allow-always
		l, err := net.Listen("unix", os.Getenv("COMPANION_SOCKET"))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if err := os.Chmod(os.Getenv("COMPANION_SOCKET"), 0o666); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ready")
		for {
			c, err := l.Accept()
			if err != nil {
				os.Exit(1)
			}
			line, err := bufio.NewReader(c).ReadString('\n')
			fmt.Printf("got %q %v\n", line, err)
		}
	case "connect": // as another user, ask
		c, err := net.Dial("unix", os.Getenv("COMPANION_SOCKET"))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Fprintf(c, `{"type":"request","token":%q,"id":"x","request":{"command":"id"}}`+"\n", token)
		line, err := bufio.NewReader(c).ReadString('\n')
		fmt.Printf("%q %v\n", line, err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// folder is a directory whose path is short enough for a socket.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// serving is an app at a socket.
func serving(t testing.TB, answer func(context.Context, Prompt) (Decision, bool)) Socket {
	t.Helper()
	path := filepath.Join(folder(t), "deep", "exec-approvals.sock")
	ctx, cancel := context.WithCancel(context.Background())
	l, err := Listen(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- (&Server{Token: token, Answer: answer}).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve ended with %v", err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	})
	return Socket{Path: path, Token: token}
}

func always(d Decision) func(context.Context, Prompt) (Decision, bool) {
	return func(context.Context, Prompt) (Decision, bool) { return d, true }
}

func TestAnswers(t *testing.T) {
	var seen Prompt
	for _, d := range []Decision{AllowOnce, AllowAlways, Deny} {
		s := serving(t, func(_ context.Context, p Prompt) (Decision, bool) { seen = p; return d, true })
		in := Prompt{Command: "uname -a", Cwd: "/srv", Host: "node", Security: "allowlist", Ask: "on-miss", AgentID: "main",
			ResolvedPath: "/usr/bin/uname", SessionKey: "agent:main:main"}
		got, err := s.Ask(context.Background(), in)
		if err != nil || got != d {
			t.Errorf("%s: got %q, %v", d, got, err)
		}
		in.ID = seen.ID
		if seen != in || len(seen.ID) != 36 {
			t.Errorf("the app was asked %+v", seen)
		}
		for _, f := range []struct {
			path string
			mode os.FileMode
		}{{s.Path, 0o600}, {filepath.Dir(s.Path), 0o700}} {
			if st, err := os.Stat(f.path); err != nil || st.Mode().Perm() != f.mode {
				t.Errorf("%s has mode %v, %v", f.path, st.Mode(), err)
			}
		}
	}
}

// The line is the frozen one, byte for byte but for the id.
func TestFrozenFrames(t *testing.T) {
	path := filepath.Join(folder(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		line, _ := bufio.NewReader(c).ReadString('\n')
		got <- line
		var f struct{ ID string }
		_ = json.Unmarshal([]byte(line), &f)
		// Lines that mean nothing come first, and an answer to another question.
		fmt.Fprintf(c, "hello\n{\"type\":\"ping\"}\n{\"type\":\"decision\",\"id\":\"other\",\"decision\":\"allow-always\"}\n"+
			"{\"type\":\"decision\",\"id\":%q,\"decision\":\"maybe\"}\n{\"type\":\"decision\",\"id\":%q,\"decision\":\"deny\"}\n", f.ID, f.ID)
	}()
	d, err := Socket{Path: path, Token: token}.Ask(context.Background(), Prompt{Command: "id", Host: "node"})
	if err != nil || d != Deny {
		t.Fatalf("got %q, %v", d, err)
	}
	line := <-got
	var f struct{ ID string }
	if err := json.Unmarshal([]byte(line), &f); err != nil {
		t.Fatal(err)
	}
	want := `{"type":"request","token":"` + token + `","id":"` + f.ID + `","request":{"command":"id","cwd":null,"host":"node",` +
		`"security":null,"ask":null,"agentId":null,"resolvedPath":null,"sessionKey":null}}` + "\n"
	if line != want {
		t.Errorf("sent %s want %s", line, want)
	}
}

// What the socket is decides whether anything is sent.
func TestUnsafeSockets(t *testing.T) {
	ask := func(s Socket) error {
		_, err := s.Ask(context.Background(), Prompt{Command: "id"})
		return err
	}
	if err := ask(Socket{Token: token}); !errors.Is(err, ErrAbsent) {
		t.Errorf("no path: %v", err)
	}
	s := serving(t, always(AllowOnce))
	if err := ask(Socket{Path: s.Path}); !errors.Is(err, ErrAbsent) {
		t.Errorf("no token: %v", err)
	}
	if err := ask(Socket{Path: s.Path + "x", Token: token}); !errors.Is(err, ErrAbsent) {
		t.Errorf("no socket: %v", err)
	}
	if err := ask(Socket{Path: "relative.sock", Token: token}); !errors.Is(err, ErrUnsafe) {
		t.Errorf("a relative path: %v", err)
	}
	for name, spoil := range map[string]func(dir, path string) error{
		"others may connect":      func(_, path string) error { return os.Chmod(path, 0o666) },
		"the group may connect":   func(_, path string) error { return os.Chmod(path, 0o620) },
		"others may replace it":   func(dir, _ string) error { return os.Chmod(dir, 0o777) },
		"a sticky directory":      func(dir, _ string) error { return os.Chmod(dir, 0o777|os.ModeSticky) },
		"a file":                  func(_, path string) error { return errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600)) },
		"a link to a real socket": func(_, path string) error { return errors.Join(os.Rename(path, path+"2"), os.Symlink(path+"2", path)) },
		"another owner": func(_, path string) error {
			if os.Getuid() != 0 {
				return errors.ErrUnsupported
			}
			return os.Chown(path, as, as)
		},
		"a directory of another owner": func(dir, _ string) error {
			if os.Getuid() != 0 {
				return errors.ErrUnsupported
			}
			return os.Chown(dir, as, as)
		},
	} {
		dir := folder(t)
		path := filepath.Join(dir, "s")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		heard := make(chan struct{}, 1)
		go func() {
			if c, err := l.Accept(); err == nil {
				heard <- struct{}{}
				c.Close()
			}
		}()
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := spoil(dir, path); errors.Is(err, errors.ErrUnsupported) {
			l.Close()
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		if err := ask(Socket{Path: path, Token: token}); !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: %v", name, err)
		}
		l.Close()
		select {
		case <-heard:
			t.Errorf("%s: it was connected to", name)
		default:
		}
	}
}

// helper runs this program as another user.
func helper(t *testing.T, what, socket string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("running as another user needs root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	// Where the other user can read it.
	bin := filepath.Join(filepath.Dir(socket), "helper")
	if err := os.WriteFile(bin, text, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin)
	cmd.Env = []string{"COMPANION_TEST=" + what, "COMPANION_SOCKET=" + socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: as, Gid: as}}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("this system does not let us run as another user: %v", err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd, bufio.NewReader(out)
}

// Another user's process behind a socket that looks right gets nothing, the token least of all.
func TestForeignApp(t *testing.T) {
	dir := folder(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	_, out := helper(t, "listen", path)
	if line, err := out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if err := errors.Join(os.Chown(path, 0, 0), os.Chmod(path, 0o600), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	_, err := Socket{Path: path, Token: token}.Ask(context.Background(), Prompt{Command: "id"})
	if !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), "user 65534") {
		t.Errorf("asked: %v", err)
	}
	if line, _ := out.ReadString('\n'); line != `got "" EOF`+"\n" {
		t.Errorf("the other user %s", line)
	}
}

// Another user's process is not heard, even where it may connect.
func TestForeignAsker(t *testing.T) {
	asked := false
	s := serving(t, func(context.Context, Prompt) (Decision, bool) { asked = true; return AllowOnce, true })
	top := filepath.Dir(filepath.Dir(s.Path))
	if err := errors.Join(os.Chmod(top, 0o755), os.Chmod(filepath.Dir(s.Path), 0o755), os.Chmod(s.Path, 0o666)); err != nil {
		t.Fatal(err)
	}
	_, out := helper(t, "connect", s.Path)
	line, _ := out.ReadString('\n')
	if asked || strings.Contains(line, "decision") {
		t.Errorf("another user was heard: %s", line)
	}
}

// talk sends bytes to an app and returns what comes back until it hangs up.
func talk(t *testing.T, s Socket, in ...string) string {
	t.Helper()
	c, err := net.Dial("unix", s.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		for _, part := range in {
			if _, err := c.Write([]byte(part)); err != nil {
				return
			}
		}
	}()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	var out bytes.Buffer
	if _, err := out.ReadFrom(c); err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("%v", err)
	}
	return out.String()
}

func TestHostileAskers(t *testing.T) {
	var mu sync.Mutex
	var commands []string
	s := serving(t, func(_ context.Context, p Prompt) (Decision, bool) {
		mu.Lock()
		defer mu.Unlock()
		commands = append(commands, p.Command)
		return AllowOnce, true
	})
	good := func(command string) string {
		return `{"type":"request","token":"` + token + `","id":"1","request":{"command":` + command + `}}` + "\n"
	}
	big, _ := json.Marshal(strings.Repeat("x", MaxLine))
	for name, in := range map[string][]string{
		"no token":      {`{"type":"request","id":"1","request":{"command":"id"}}` + "\n"},
		"empty token":   {`{"type":"request","token":"","id":"1","request":{"command":"id"}}` + "\n"},
		"wrong token":   {`{"type":"request","token":"` + token + `x","id":"1","request":{"command":"id"}}` + "\n"},
		"no command":    {good(`"  "`)},
		"no request":    {`{"type":"request","token":"` + token + `","id":"1"}` + "\n"},
		"oversized":     {good(string(big))},
		"no end":        {strings.Repeat("x", MaxLine+10)},
		"lines forever": {strings.Repeat("{}\n", maxSkipped+1)},
		"not JSON":      {strings.Repeat("}{\n", maxSkipped+1)},
		"wrong types":   {strings.Repeat(`{"type":"request","token":1,"request":[]}`+"\n", maxSkipped)},
	} {
		if out := talk(t, s, in...); out != "" {
			t.Errorf("%s: answered %q", name, out)
		}
	}
	if len(commands) != 0 {
		t.Fatalf("asked %q", commands)
	}
	// The longest line there may be is heard, behind lines that mean nothing.
	rest := MaxLine - len(good(`""`)) + 1
	if out := talk(t, s, "hello\n\n", good(`"`+strings.Repeat("y", rest)+`"`)); out != `{"type":"decision","id":"1","decision":"allow-once"}`+"\n" {
		t.Errorf("the longest: %q", out)
	}
	if len(commands) != 1 || len(commands[0]) != rest {
		t.Errorf("asked %d", len(commands))
	}
}

// Commands do not run in the app, whatever proof comes with them.
func TestExecIsRefused(t *testing.T) {
	s := serving(t, func(context.Context, Prompt) (Decision, bool) { panic("asked") })
	line := `{"type":"exec","id":"e1","nonce":"00112233445566778899aabbccddeeff","ts":1760000000000,"hmac":"00","requestJson":"{}"}` + "\n"
	for range 2 {
		var f struct {
			Type, ID string
			OK       *bool
			Error    struct{ Code, Message, Reason string }
		}
		out := talk(t, s, line)
		if err := json.Unmarshal([]byte(out), &f); err != nil || f.Type != "exec-res" || f.ID != "e1" || f.OK == nil || *f.OK || f.Error.Code != "UNAVAILABLE" ||
			!strings.Contains(f.Error.Message, "the node host runs them") {
			t.Errorf("answered %q, %v", out, err)
		}
	}
}

// One that asks nothing is hung up on, and holds nobody else up.
func TestSlowAsker(t *testing.T) {
	t.Parallel()
	s := serving(t, always(AllowOnce))
	began := time.Now()
	idle := make([]net.Conn, 8)
	for i := range idle {
		c, err := net.Dial("unix", s.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		idle[i] = c
	}
	if d, err := s.Ask(context.Background(), Prompt{Command: "id"}); err != nil || d != AllowOnce || time.Since(began) > 2*time.Second {
		t.Errorf("beside slow ones: %q, %v after %v", d, err, time.Since(began))
	}
	_ = idle[0].SetReadDeadline(time.Now().Add(4 * hearWait))
	var b [1]byte
	if n, err := idle[0].Read(b[:]); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a silent one is kept: %d, %v", n, err)
	}
}

// There is an end to how many are held, and to how long.
func TestManyAskers(t *testing.T) {
	release := make(chan struct{})
	s := serving(t, func(ctx context.Context, _ Prompt) (Decision, bool) {
		select {
		case <-release:
			return AllowOnce, true
		case <-ctx.Done():
			return "", false
		}
	})
	const more = 8
	results := make(chan error, maxPeers+more)
	for range maxPeers + more {
		go func() {
			_, err := s.Ask(context.Background(), Prompt{Command: "id"})
			results <- err
		}()
	}
	for range more {
		if err := <-results; !errors.Is(err, ErrSilent) {
			t.Errorf("one too many: %v", err)
		}
	}
	close(release)
	for range maxPeers {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// An asker that gives up takes its question back, and an answer after that goes nowhere.
func TestTakenBack(t *testing.T) {
	asked, gone := make(chan struct{}), make(chan error, 1)
	s := serving(t, func(ctx context.Context, _ Prompt) (Decision, bool) {
		close(asked)
		<-ctx.Done()
		gone <- ctx.Err()
		return AllowOnce, true
	})
	s.Wait = 200 * time.Millisecond
	began := time.Now()
	if d, err := s.Ask(context.Background(), Prompt{Command: "id"}); !errors.Is(err, ErrSilent) || d != "" {
		t.Errorf("got %q, %v", d, err)
	}
	if took := time.Since(began); took < s.Wait || took > 5*time.Second {
		t.Errorf("waited %v", took)
	}
	<-asked
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the question ended with %v", err)
	}
	// So does a caller that is gone.
	s2 := serving(t, func(ctx context.Context, _ Prompt) (Decision, bool) { <-ctx.Done(); return Deny, true })
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := s2.Ask(ctx, Prompt{Command: "id"}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// An app that hangs up, floods or sends without end gives no answer.
func TestHostileApps(t *testing.T) {
	for name, app := range map[string]func(net.Conn){
		"hangs up":  func(net.Conn) {},
		"oversized": func(c net.Conn) { fmt.Fprintf(c, "%s\n", strings.Repeat("x", MaxLine+1)) },
		"floods": func(c net.Conn) {
			for {
				if _, err := c.Write([]byte("{}\n")); err != nil {
					return
				}
			}
		},
		"another id": func(c net.Conn) { fmt.Fprintln(c, `{"type":"decision","id":"x","decision":"allow-always"}`) },
		"no id":      func(c net.Conn) { fmt.Fprintln(c, `{"type":"decision","decision":"allow-always"}`) },
	} {
		path := filepath.Join(folder(t), "s")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = bufio.NewReader(c).ReadString('\n')
			app(c)
		}()
		began := time.Now()
		d, err := Socket{Path: path, Token: token, Wait: 5 * time.Second}.Ask(context.Background(), Prompt{Command: "id"})
		if !errors.Is(err, ErrSilent) || d != "" || time.Since(began) > 4*time.Second {
			t.Errorf("%s: %q, %v after %v", name, d, err, time.Since(began))
		}
		l.Close()
	}
	if _, err := (Socket{Path: "/x", Token: token}).Ask(context.Background(), Prompt{Command: strings.Repeat("x", MaxLine)}); !errors.Is(err, ErrSilent) {
		t.Errorf("too long to ask: %v", err)
	}
}

func TestListen(t *testing.T) {
	ctx := context.Background()
	dir := folder(t)
	path := filepath.Join(dir, "s")
	l, err := Listen(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(ctx, path); err == nil || !strings.Contains(err.Error(), "another app answers") {
		t.Errorf("a live one: %v", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if l, err = Listen(ctx, path); err != nil { // a stale one is replaced
		t.Fatal(err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(ctx, path); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file: %v", err)
	}
	if err := errors.Join(os.Remove(path), os.Chmod(dir, 0o770)); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(ctx, path); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("a directory of others: %v", err)
	}
	if _, err := Listen(ctx, "s"); err == nil {
		t.Error("a relative path")
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte(`{"type":"request","token":"t","id":"1","request":{"command":"id"}}` + "\n"))
	f.Add([]byte("\n\n{}\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := lines(bytes.NewReader(in), func(f frame) bool { return f.Type == "request" })
		if err == nil && got.Type != "request" {
			t.Errorf("took %+v", got)
		}
	})
}
