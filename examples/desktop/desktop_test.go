//go:build unix

package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/client"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
)

const (
	// asApp marks the process that is the app and not its test.
	asApp = "DESKTOP_TEST_APP"
	// patience bounds each wait.
	patience = 20 * time.Second
)

func TestMain(m *testing.M) {
	if os.Getenv(asApp) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// app is the app on a terminal of its own.
type app struct {
	*testing.T
	tty  *os.File
	cmd  *exec.Cmd
	done chan error

	mu  sync.Mutex
	out strings.Builder
}

func startApp(t *testing.T, socket string) *app {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-name", "desk", "-socket", socket)
	cmd.Env = []string{asApp + "=1", "TERM=xterm-256color", "HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 120})
	if err != nil {
		t.Fatal(err)
	}
	a := &app{T: t, tty: tty, cmd: cmd, done: make(chan error, 1)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := tty.Read(buf)
			a.mu.Lock()
			a.out.Write(buf[:n])
			a.mu.Unlock()
			if err != nil {
				return // the terminal is gone, as after the end of the app
			}
		}
	}()
	go func() { a.done <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = tty.Close()
		<-read
		if t.Failed() {
			t.Logf("the terminal: %q", a.text())
		}
	})
	return a
}

func (a *app) text() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.out.String()
}

// until waits until the app has written a word. It writes what changes on the screen, so that only single
// words can be waited for, where something else stood before.
func (a *app) until(word string) {
	a.Helper()
	wait(a.T, "the terminal shows "+word, func() bool { return strings.Contains(a.text(), word) })
}

// clear forgets what was written.
func (a *app) clear() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.out.Reset()
}

func (a *app) press(keys string) {
	a.Helper()
	if _, err := a.tty.WriteString(keys); err != nil {
		a.Fatal(err)
	}
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("waited %v: %s", patience, what)
		}
	}
}

func operator(t *testing.T, d *hanzodtest.Daemon) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), client.Options{Socket: d.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// notify has the app show a word.
func notify(t *testing.T, c *client.Client, word string) {
	t.Helper()
	params, err := structpb.NewValue(map[string]any{"title": word, "body": "\x1b]0;owned\x07"})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, "the app is a node", func() bool {
		_, err = c.Nodes.Invoke(t.Context(), &nodesv1.InvokeRequest{NodeId: "desktop-desk", Command: "system.notify", Params: params})
		return err == nil
	})
}

func TestAppOnATerminal(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{Node: true})
	c := operator(t, d)
	a := startApp(t, d.Socket())
	a.until(d.Socket())
	a.until("system.notify") // it lists itself
	notify(t, c, "from-operator")
	a.until("from-operator")
	a.until(`\x1b]0;owned\x07`)

	// It is the node of the app that is asked to run something, and it does not offer that.
	if _, err := c.Nodes.Invoke(t.Context(), &nodesv1.InvokeRequest{NodeId: "desktop-desk", Command: "system.run"}); err == nil {
		t.Error("the app runs commands")
	}

	// A command waits until a key lets it run.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	type end struct {
		out client.RunOut
		err error
	}
	ended := make(chan end, 1)
	asked := make(chan struct{})
	go func() {
		out, err := c.RunCommand(ctx, client.RunIn{Node: d.NodeName(), Argv: []string{"uname", "-s"}}, func(s client.Step) {
			if s.Kind == client.StepWaiting {
				close(asked)
			}
		})
		ended <- end{out, err}
	}()
	select {
	case <-asked:
	case e := <-ended:
		t.Fatalf("it did not wait: %+v, %v", e.out, e.err)
	}
	a.until("waiting")
	a.press("2")
	a.until("sha256") // what runs is shown with its files
	var e end
	wait(t, "the command runs", func() bool {
		a.press("o") // counts when the list has settled
		select {
		case e = <-ended:
			return true
		default:
			return false
		}
	})
	if e.err != nil || !strings.HasPrefix(e.out.Stdout, "Linux") && !strings.HasPrefix(e.out.Stdout, "Darwin") {
		t.Errorf("%+v, %v", e.out, e.err)
	}

	// Another size of the window.
	a.clear()
	if err := pty.Setsize(a.tty, &pty.Winsize{Rows: 20, Cols: 70}); err != nil {
		t.Fatal(err)
	}
	a.until("LOCAL")

	// The daemon goes, and comes back.
	a.press("1")
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	a.until("AWAY")
	a.clear()
	d = hanzodtest.Start(t, hanzodtest.Options{Node: true, StateDir: d.StateDir})
	a.until("back")
	notify(t, operator(t, d), "again-there")
	a.until("again-there")

	a.press("q")
	select {
	case err := <-a.done:
		if err != nil {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it does not quit")
	}
	a.until("\x1b[?1049l") // the terminal is as it was
	if strings.Contains(a.text(), "\x1b]0;owned") {
		t.Error("others steered the terminal")
	}
}

// TestAppEndsOnSignals: a closed terminal or a service manager ends it, too.
func TestAppEndsOnSignals(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{})
	a := startApp(t, d.Socket())
	a.until("system.notify") // it lists itself
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-a.done:
		if err != nil {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
	a.until("\x1b[?1049l") // the terminal is as it was
}

func TestAppSaysWhenNothingRuns(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{asApp + "=1", "HOME=" + t.TempDir(), "PATH=/nowhere"}
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !strings.Contains(string(out), "hanzod service install") {
		t.Errorf("%v\n%s", err, out)
	}
}
