package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hanzoai/hanzod/client/clienttest"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

func TestMain(m *testing.M) {
	// A program with the race detector waits for a second when it ends, and stories start hundreds.
	if os.Getenv("GORACE") == "" {
		_ = os.Setenv("GORACE", noWait)
	}
	testscript.Main(m, map[string]func(){"hanzoctl": func() { os.Exit(Main()) }})
}

const noWait = "atexit_sleep_ms=10"

// TestScripts runs the stories in testdata, each against a daemon of its own. They know the daemon
// only by HANZOD_SOCKET and the world of clienttest: NODE and PHONE are the ids of its nodes.
//
// Commands are added: "exits N command…" runs a command and demands its exit code, "capture NAME" keeps
// the last standard output in a variable, "until NAME command…" runs a command until it prints something
// and keeps that, "knock NAME PLATFORM" makes a device ask to be let in as a
// node, "ask ID NAME" a client for a node id, "arrive ID [NAME]" connects a node, "later ID [NAME]" does
// so while the next command runs, "finding CHECK SEVERITY WHAT [NEXT]" gives the daemon something to find, "tamper SEQ" changes a row of the audit log behind the daemon's back.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			d := clienttest.New(e.T().(testing.TB))
			r := d.Remote(e.T().(testing.TB))
			e.Values[daemonKey{}] = d
			e.Setenv("REMOTE", r.Address)
			e.Setenv("PIN", r.Fingerprint)
			e.Setenv("CERT", r.CertFile)
			e.Setenv("HANZOD_STATE_DIR", filepath.Dir(d.Socket))
			e.Setenv("NODE", clienttest.NodeID)
			e.Setenv("PHONE", clienttest.PhoneID)
			e.Setenv("LAPTOP", clienttest.LaptopID)
			e.Setenv("DESK", clienttest.DeskID)
			e.Setenv("REQUEST", clienttest.RequestID)
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("SECRET", clienttest.Secret)
			e.Setenv("HOSTILE", "evil\x1b]0;x\u202e")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "capture": capture, "knock": knock, "ask": ask, "arrive": arrive, "later": later, "until": until, "tamper": tamper, "finding": finding,
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code command args...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

type daemonKey struct{}

func daemonOf(ts *testscript.TestScript) *clienttest.Daemon {
	return ts.Value(daemonKey{}).(*clienttest.Daemon)
}

func knock(ts *testscript.TestScript, _ bool, args []string) { daemonOf(ts).Knock(args[0], args[1]) }

func ask(ts *testscript.TestScript, _ bool, args []string) {
	_, err := daemonOf(ts).RequestPairing(context.Background(), &nodesv1.RequestPairingRequest{NodeId: args[0], DisplayName: args[1], Platform: "ios"})
	ts.Check(err)
}

func arrive(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) > 1 {
		daemonOf(ts).Arrive(args[0], args[1])
		return
	}
	daemonOf(ts).SetConnected(args[0], true)
}

func tamper(ts *testscript.TestScript, _ bool, args []string) {
	seq, err := strconv.Atoi(args[0])
	ts.Check(err)
	daemonOf(ts).Tamper(seq)
}

func finding(ts *testscript.TestScript, _ bool, args []string) {
	f := &systemv1.Finding{Check: args[0], Severity: systemv1.Severity(systemv1.Severity_value["SEVERITY_"+strings.ToUpper(args[1])]), What: args[2]}
	if len(args) > 3 {
		f.Next = args[3]
	}
	daemonOf(ts).Findings(f)
}

func later(ts *testscript.TestScript, _ bool, args []string) {
	timer := time.AfterFunc(300*time.Millisecond, func() { arrive(ts, false, args) })
	ts.Defer(func() { timer.Stop() })
}

// until runs a command again until it prints something, and keeps that in a variable.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until NAME command args...")
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if ts.Exec(args[1], args[2:]...) != nil {
			continue // the daemon may be starting anew
		}
		if out := strings.TrimSpace(ts.ReadFile("stdout")); out != "" {
			ts.Setenv(args[0], out)
			return
		}
	}
	ts.Fatalf("%v printed nothing", args[1:])
}

func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: capture NAME")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// terminal is hanzoctl on a terminal of its own.
type terminal struct {
	t   testing.TB
	f   *os.File
	cmd *exec.Cmd
	out chan string
	all strings.Builder
}

func onTerminal(t testing.TB, socket string, args ...string) *terminal {
	t.Helper()
	cmd := exec.Command("hanzoctl", args...)
	cmd.Env = append(os.Environ(), "HANZOD_STATE_DIR="+filepath.Dir(socket), "TERM=xterm", "NO_COLOR=1")
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	return screenOf(t, cmd, f)
}

// screenOf reads the terminal of a program.
func screenOf(t testing.TB, cmd *exec.Cmd, f *os.File) *terminal {
	term := &terminal{t: t, f: f, cmd: cmd, out: make(chan string)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(term.out)
		buf := make([]byte, 4096)
		for {
			n, err := f.Read(buf)
			if err != nil {
				return
			}
			term.out <- string(buf[:n])
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		f.Close()
		for range term.out {
		}
		<-done
	})
	return term
}

func (tm *terminal) press(keys string) {
	tm.t.Helper()
	if _, err := tm.f.WriteString(keys); err != nil {
		tm.t.Fatal(err)
	}
}

// until waits for a pattern on the screen, in what was drawn since the last call.
func (tm *terminal) until(pattern string) string {
	tm.t.Helper()
	re := regexp.MustCompile(pattern)
	limit := time.After(20 * time.Second)
	for {
		if s := tm.all.String(); re.MatchString(s) {
			tm.all.Reset()
			return s
		}
		select {
		case s, ok := <-tm.out:
			if !ok {
				tm.t.Fatalf("ended without %q; screen:\n%q", pattern, tm.all.String())
			}
			tm.all.WriteString(s)
		case <-limit:
			tm.t.Fatalf("no %q; screen:\n%q", pattern, tm.all.String())
		}
	}
}

// exit waits for the end and returns the exit code.
func (tm *terminal) exit() int {
	tm.t.Helper()
	for s := range tm.out {
		tm.all.WriteString(s)
	}
	tm.cmd.Wait()
	return tm.cmd.ProcessState.ExitCode()
}

// process is hanzoctl without a terminal.
type process struct {
	cmd         *exec.Cmd
	out, errOut strings.Builder
}

func start(t testing.TB, socket string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command("hanzoctl", args...)}
	p.cmd.Env = append(os.Environ(), "HANZOD_STATE_DIR="+filepath.Dir(socket))
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.errOut
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// end waits and returns the standard output and the exit code.
func (p *process) end() (string, int) {
	p.cmd.Wait()
	return p.out.String(), p.cmd.ProcessState.ExitCode()
}

// pending waits until so many questions are pending.
func pending(t testing.TB, d *clienttest.Daemon, n int) []string {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		if ids := d.Pending(); len(ids) == n {
			return ids
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d pending, want %d", len(d.Pending()), n)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func TestInteractive(t *testing.T) {
	d := clienttest.New(t)
	tm := onTerminal(t, d.Socket, "approve")
	tm.until("nothing waits for an approval")

	first := start(t, d.Socket, "nodes", "run", "build box", "--cwd", "/srv", "--env", "A=1", "--", "uname", "it's\x1b[2J\u202e")
	pending(t, d, 1)
	screen := tm.until("1 waiting(.|\n)*time left")
	for _, want := range []string{`/usr/bin/uname $'it\'s\x1b[2J\u202e'`, "/srv", "sets A", "build box (" + clienttest.NodeID + ")", "local:1000"} {
		if !strings.Contains(screen, want) {
			t.Errorf("the screen lacks %q", want)
		}
	}
	second := start(t, d.Socket, "nodes", "run", "build box", "--", "exit", "3")
	pending(t, d, 2)
	tm.until("2 waiting")
	third := start(t, d.Socket, "nodes", "run", "build box", "--", "exit", "4")
	pending(t, d, 3)
	tm.until("3 waiting")

	// Deny the second, then allow the first, each once the list has settled.
	tm.press("n")
	tm.until(`> 2`)
	pressUntil(tm, "d", "denied: /usr/bin/exit 3")
	if _, code := second.end(); code != exitDenied {
		t.Errorf("denied run exits with %d", code)
	}
	pressUntil(tm, "\x1b[A", `> 1`)
	pressUntil(tm, "o", "allowed once: /usr/bin/uname")
	if out, code := first.end(); code != 0 || out != "Linux box\n" {
		t.Errorf("allowed run: %q, exit %d", out, code)
	}
	pressUntil(tm, "a", "allowed always: /usr/bin/exit 4")
	if _, code := third.end(); code != 4 {
		t.Errorf("allowed run exits with %d", code)
	}
	tm.until("nothing waits")

	// The daemon goes away and comes back.
	d.Stop()
	tm.until("trying again")
	d.Start(t)
	fourth := start(t, d.Socket, "nodes", "run", "build box", "--", "uname")
	pending(t, d, 1)
	tm.until("1 waiting")
	pressUntil(tm, "d", "denied: /usr/bin/uname")
	fourth.end()

	tm.press("q")
	if code := tm.exit(); code != 0 {
		t.Errorf("q exits with %d", code)
	}
	if s := tm.all.String(); !strings.HasSuffix(s, "\x1b[?25h\x1b[?1049l") {
		t.Errorf("the terminal is left as %q", s)
	}
}

// pressUntil presses a key again while the list settles, as a person would.
func pressUntil(tm *terminal, key, pattern string) {
	tm.t.Helper()
	re := regexp.MustCompile(regexp.QuoteMeta(pattern))
	for range 20 {
		tm.press(key)
		timeout := time.After(400 * time.Millisecond)
	wait:
		for {
			select {
			case s, ok := <-tm.out:
				if !ok {
					tm.t.Fatalf("ended without %q; screen:\n%q", pattern, tm.all.String())
				}
				tm.all.WriteString(s)
				if re.MatchString(tm.all.String()) {
					tm.all.Reset()
					return
				}
			case <-timeout:
				break wait
			}
		}
	}
	tm.t.Fatalf("no %q; screen:\n%q", pattern, tm.all.String())
}

func TestInteractiveInterrupt(t *testing.T) {
	d := clienttest.New(t)
	tm := onTerminal(t, d.Socket, "approve")
	tm.until("nothing waits")
	tm.press("\x03")
	if code := tm.exit(); code != exitInt {
		t.Errorf("exit %d", code)
	}
	tm = onTerminal(t, filepath.Join(t.TempDir(), "none"), "approve")
	if code := tm.exit(); code != exitNoDaemon || strings.Contains(tm.all.String(), "\x1b[?1049h") {
		t.Errorf("without a daemon: exit %d, %q", code, tm.all.String())
	}
}

// Output of a command reaches a terminal escaped.
func TestRunOnTerminal(t *testing.T) {
	d := clienttest.New(t)
	tm := onTerminal(t, d.Socket, "nodes", "run", "build box", "--", "echo", "a\x1b]0;owned\x07\tb")
	if code := tm.exit(); code != 0 || !strings.Contains(tm.all.String(), `a\x1b]0;owned\x07`+"\tb") {
		t.Errorf("exit %d, %q", code, tm.all.String())
	}
}

// A run in a terminal's shell outlives a restart of the daemon while its question stands
// (promises.md R7).
func TestRunOutlivesRestart(t *testing.T) {
	d := clienttest.New(t)
	p := start(t, d.Socket, "nodes", "run", "build box", "--", "uname")
	id := pending(t, d, 1)[0]
	d.Stop()
	if _, code := start(t, d.Socket, "approve", id, "once").end(); code != exitNoDaemon {
		t.Errorf("approve without a daemon exits with %d", code)
	}
	d.Start(t)
	if _, code := start(t, d.Socket, "approve", id[:8], "once").end(); code != 0 {
		t.Errorf("approve exits with %d", code)
	}
	if out, code := p.end(); code != 0 || out != "Linux box\n" || len(d.Runs()) != 1 {
		t.Errorf("got %q, exit %d, %s, runs %v", out, code, p.errOut.String(), d.Runs())
	}
}

func TestRunInterrupted(t *testing.T) {
	d := clienttest.New(t)
	p := start(t, d.Socket, "nodes", "run", "build box", "--", "uname")
	id := pending(t, d, 1)[0]
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_, code := p.end()
	if want := "nodes run --resume " + id; code != exitInt || !strings.Contains(p.errOut.String(), want) {
		t.Errorf("exit %d, %s", code, p.errOut.String())
	}
	// The run goes on without its requester.
	if _, code := start(t, d.Socket, "approve", id, "once").end(); code != 0 {
		t.Errorf("approve exits with %d", code)
	}
	if out, code := start(t, d.Socket, "nodes", "run", "--resume", id).end(); code != 0 || out != "Linux box\n" || len(d.Runs()) != 1 {
		t.Errorf("resumed: %q, exit %d, runs %v", out, code, d.Runs())
	}
}

func TestEvents(t *testing.T) {
	d := clienttest.New(t)
	p := start(t, d.Socket, "events", "-f", "--name", "exec.approval.requested", "--count", "1", "-o", "jsonl")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.cmd.Wait()
	}()
	// The stream begins at some point; ask until it has brought a question.
	for n := 0; ; n++ {
		start(t, d.Socket, "nodes", "run", "build box", "--approval-timeout", "1ms", "--", "uname").end()
		select {
		case <-ended:
			if out := p.out.String(); p.cmd.ProcessState.ExitCode() != 0 || !strings.HasPrefix(out, `{"seq":"1","name":"exec.approval.requested",`) {
				t.Errorf("got %s", out)
			}
			return
		default:
			if n == 100 {
				t.Fatal("no event")
			}
		}
	}
}
