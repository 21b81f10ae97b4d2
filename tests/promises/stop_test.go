//go:build unix

package promises

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/compat/dial"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	// The promises R17 and P25.
	stopLoaded = 5 * time.Second
	stopIdle   = time.Second
	// crowd is how many clients are connected when the daemon stops.
	crowd = 100
)

// TestR17StopWithEverythingUnderWay: SIGTERM to exit within 5 s with 100 clients, a question that
// waits, a command that runs on the daemon's own node, an open stream, a half-sent request and a
// half-done handshake. The clients are told, the exit code is 0, and no child is left.
func TestR17StopWithEverythingUnderWay(t *testing.T) {
	t.Parallel()
	d := proc.Start(t, proc.Options{Form: proc.Tested, Args: []string{"--node"}})
	node := onlyNode(t, d)

	var mu sync.Mutex
	told := map[*dial.Conn]bool{}
	o := d.Operator(nil)
	o.OnEvent = func(c *dial.Conn, e dial.Event) {
		if e.Name == "shutdown" {
			mu.Lock()
			told[c] = true
			mu.Unlock()
		}
	}
	var clients []*dial.Conn
	for range crowd {
		clients = append(clients, proc.Connect(t, o))
	}

	// A question that waits.
	asked := make(chan struct{})
	answer := make(chan error, 1)
	go func() {
		_, err := clients[0].CallTwoPhase(context.Background(), "exec.approval.request",
			proc.Question("stop-waits", node, []string{"/bin/true"}, "", nil, 60_000), func(json.RawMessage) { close(asked) })
		answer <- err
	}()
	<-asked

	// A command that runs, with a child of its own.
	pidFile := filepath.Join(proc.Dir(t), "pid")
	script := filepath.Join(filepath.Dir(pidFile), "long")
	text := "#!/bin/sh\nsleep 300 &\necho $$ $! > '" + pidFile + ".new'\nmv '" + pidFile + ".new' '" + pidFile + "'\nwait\n"
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	run := d.Ctl("nodes", "run", node, "--", script)
	proc.Until(t, "the question is asked", func() bool { return waitingFor.MatchString(run.Stderr.String()) })
	d.Ctl("approve", waitingFor.FindStringSubmatch(run.Stderr.String())[1], "once").Wait(t, proc.Patience)
	var pids []int
	proc.Until(t, "the command runs", func() bool {
		b, err := os.ReadFile(pidFile)
		if err != nil {
			return false
		}
		for w := range strings.FieldsSeq(string(b)) {
			n, err := strconv.Atoi(w)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, n)
		}
		return true
	})

	// An open stream.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := d.Client(t).Nodes.WatchNodes(ctx, &nodesv1.WatchNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	streamEnd := make(chan error, 1)
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				streamEnd <- err
				return
			}
		}
	}()

	// A request that is half sent, a body that never comes, and a socket that never connects.
	for _, half := range []string{
		"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: ",
		"POST /v1/nodes/x:invoke HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + proc.Token + "\r\nContent-Length: 1000\r\n\r\n{",
	} {
		nc := dialTCP(t, d)
		if _, err := nc.Write([]byte(half)); err != nil {
			t.Fatal(err)
		}
	}
	ws := upgraded(t, d)

	took := d.End(syscall.SIGTERM)
	t.Logf("SIGTERM to exit: %v", took)
	if took > stopLoaded || d.Code != 0 {
		t.Errorf("the daemon ended with code %d after %v; want 0 within %v", d.Code, took, stopLoaded)
	}
	if err := <-answer; err == nil {
		t.Error("the question that waited was answered by the stop")
	}
	if err := <-streamEnd; err == nil {
		t.Error("the stream ended without saying why")
	}
	for i, c := range clients {
		<-c.Done()
		mu.Lock()
		knew := told[c]
		mu.Unlock()
		code := -1
		if e, ok := c.Err().(*dial.ClosedError); ok {
			code = e.Code
		}
		if !knew || code != int(websocket.StatusServiceRestart) {
			t.Errorf("client %d: told of the shutdown: %v, close code %d; want true and 1012", i, knew, code)
		}
	}
	_ = ws.CloseNow()
	proc.Until(t, fmt.Sprint("the command and its child have ended ", pids), func() bool {
		return !slices.ContainsFunc(pids, alive)
	})
	// The command line waits for the daemon, which tells it that nobody saw the end.
	d.Start()
	if run.Wait(t, proc.Patience); run.Code != 74 || !strings.Contains(run.Stderr.String(), "look before you repeat it") {
		t.Errorf("a run that was broken off ended with code %d: %s", run.Code, run.Stderr)
	}
}

// alive reports whether a process runs; a zombie that nobody has waited for does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !os.IsNotExist(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func dialTCP(t *testing.T, d *proc.Daemon) net.Conn {
	t.Helper()
	nc, err := net.DialTimeout("tcp", d.Addr(), proc.Patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return nc
}

// upgraded is a WebSocket whose client says nothing.
func upgraded(t *testing.T, d *proc.Daemon) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), proc.Patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, d.WS(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	return ws
}

// TestR17StopBeforeTheHandshake: sockets that never connected do not hold the stop up.
func TestR17StopBeforeTheHandshake(t *testing.T) {
	t.Parallel()
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	for range 20 {
		upgraded(t, d)
	}
	if took := d.End(syscall.SIGTERM); took > stopLoaded || d.Code != 0 {
		t.Errorf("the daemon ended with code %d after %v; want 0 within %v", d.Code, took, stopLoaded)
	}
}

// TestR17StopIdle: within a second, and nothing is written afterwards.
func TestR17StopIdle(t *testing.T) {
	hello := proc.Build(t, "hello", proc.Shipped)
	d := proc.Start(t, proc.Options{Args: []string{"--node"}})
	onlyNode(t, d)
	floor := proc.Run(t, d.State, hello, nil).Wait(t, proc.Patience).Took
	took := d.Stop()
	t.Logf("SIGTERM to exit: %v", took)
	if took > stretched(stopIdle, floor) {
		t.Errorf("an idle daemon took %v to stop; %v are promised", took, stopIdle)
	}
	before := snapshot(t, d.State)
	proc.UntilFor(t, proc.Patience, "nobody listens", func() bool {
		_, err := net.DialTimeout("tcp", d.Addr(), time.Second)
		return err != nil
	})
	if _, err := os.Lstat(d.Socket()); !os.IsNotExist(err) {
		t.Errorf("the socket is still there after a clean stop: %v", err)
	}
	if after := snapshot(t, d.State); after != before {
		t.Errorf("the state changed after the exit:\n%s\n%s", before, after)
	}
	if n := openers(t, d.State); n > 0 {
		t.Errorf("%d processes still have files of the state open", n)
	}
}

// snapshot is the names, sizes, times and contents of a directory.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %d %s %x\n", path, info.Size(), info.ModTime(), sha256.Sum256(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// openers is how many other processes have a file below dir open; 0 where /proc is missing.
func openers(t *testing.T, dir string) int {
	t.Helper()
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, fd := range fds {
		if strings.HasPrefix(fd, fmt.Sprintf("/proc/%d/", os.Getpid())) {
			continue
		}
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, dir+"/") {
			n++
		}
	}
	return n
}

// TestR17StopDuringStart: SIGTERM at any moment of the start ends the daemon within the time of a
// stop: with code 0 once it listens to signals, by the signal before that.
func TestR17StopDuringStart(t *testing.T) {
	d := proc.New(t, proc.Options{})
	const rounds = 25
	clean := 0
	for i := range rounds {
		d.Spawn()
		<-time.After(time.Duration(i) * 700 * time.Microsecond)
		took := d.End(syscall.SIGTERM)
		switch status, _ := d.Command.State.Sys().(syscall.WaitStatus); {
		case took > stopLoaded:
			t.Errorf("round %d: the stop took %v", i, took)
		case status.Signaled() && status.Signal() == syscall.SIGTERM:
		case d.Code == 0:
			clean++
		default:
			t.Errorf("round %d: code %d\n%s", i, d.Code, d.Stderr)
		}
	}
	t.Logf("%d of %d stops came when the daemon listened to signals", clean, rounds)
	d.Start()
	d.Stop()
}

// TestR17StopWhilePortIsTaken: the wait for a port that is taken ends with a signal, and without
// one it ends with a text that names the way out.
func TestR17StopWhilePortIsTaken(t *testing.T) {
	t.Parallel()
	d := proc.New(t, proc.Options{Form: proc.Tested})
	l, err := net.Listen("tcp", d.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d.Spawn()
	d.Wait(t, proc.Patience)
	if text := d.Stderr.String(); d.Code != 1 || !strings.Contains(text, "--port") || !strings.Contains(text, strconv.Itoa(d.Port)) {
		t.Errorf("a taken port: code %d, %s", d.Code, text)
	}
	d.Spawn()
	lock := filepath.Join(d.State, "hanzod.lock")
	proc.Until(t, "the daemon has the state", func() bool {
		b, err := os.ReadFile(lock)
		return err == nil && strings.Contains(string(b), fmt.Sprintf("pid %d ", d.PID()))
	})
	if took := d.End(syscall.SIGTERM); d.Code != 0 || took > stopIdle {
		t.Errorf("stopped while it waited for the port: code %d after %v\n%s", d.Code, took, d.Stderr)
	}
}

// TestR17SecondSignal: more signals while the daemon stops change nothing.
func TestR17SecondSignal(t *testing.T) {
	t.Parallel()
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	conn := proc.Connect(t, d.Operator(nil))
	nc := dialTCP(t, d) // half a request holds the stop up for a while
	if _, err := nc.Write([]byte("GET /health HTTP/1.1\r\n")); err != nil {
		t.Fatal(err)
	}
	d.Signal(syscall.SIGTERM)
	<-conn.Done()
	for range 3 {
		d.Signal(syscall.SIGTERM)
		d.Signal(syscall.SIGINT)
	}
	if took := d.End(syscall.SIGTERM); d.Code != 0 || took > stopLoaded {
		t.Errorf("code %d after %v", d.Code, took)
	}
}

// TestR16StaleFilesDoNotHoldAStart: what a killed daemon leaves behind is no obstacle.
func TestR16StaleFilesDoNotHoldAStart(t *testing.T) {
	t.Parallel()
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	for range 3 {
		pid := d.PID()
		d.Kill()
		if _, err := os.Lstat(d.Socket()); err != nil {
			t.Fatalf("the killed daemon left no socket: %v", err)
		}
		b, err := os.ReadFile(filepath.Join(d.State, "hanzod.lock"))
		if err != nil || !strings.Contains(string(b), fmt.Sprintf("pid %d ", pid)) {
			t.Fatalf("the killed daemon left no lock file: %q, %v", b, err)
		}
		d.Start()
		if h := d.Ctl("health").Wait(t, proc.Patience); h.Code != 0 {
			t.Fatalf("health: %s", h.Stderr)
		}
	}
	d.Stop()
}

// TestR17ClosedTerminal: a daemon whose terminal is closed stops in order, unless it was started to
// outlive it.
func TestR17ClosedTerminal(t *testing.T) {
	t.Parallel()
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("what this test starts would ignore SIGHUP, as under nohup")
	}
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	conn := proc.Connect(t, d.Operator(nil))
	took := d.End(syscall.SIGHUP)
	<-conn.Done()
	if e, ok := conn.Err().(*dial.ClosedError); d.Code != 0 || took > stopLoaded || !ok || e.Code != int(websocket.StatusServiceRestart) {
		t.Errorf("after SIGHUP: code %d after %v, the client saw %v", d.Code, took, conn.Err())
	}
	n := proc.New(t, proc.Options{})
	n.Command = proc.Run(t, n.State, "/bin/sh", nil, "-c", `trap "" HUP; exec "$@"`, "sh",
		proc.Build(t, "hanzod", proc.Tested), "run", "--config", filepath.Join(n.State, "config.json"),
		"--state-dir", n.State, "--port", strconv.Itoa(n.Port))
	n.WaitReady()
	n.Signal(syscall.SIGHUP)
	for range 20 {
		if h := n.Ctl("health").Wait(t, proc.Patience); h.Code != 0 {
			t.Fatalf("SIGHUP ended a daemon that was started to ignore it: %s", n.Stderr)
		}
	}
	n.Stop()
}

// TestR17NobodyReadsTheOutput: when the reader of its output goes away, the daemon goes on.
func TestR17NobodyReadsTheOutput(t *testing.T) {
	t.Parallel()
	d := proc.New(t, proc.Options{})
	// The reader ends after the first line.
	d.Command = proc.Run(t, d.State, "/bin/sh", nil, "-c", `out="$1"; shift; mkfifo "$out"; head -n 1 "$out" >/dev/null & exec "$@" >"$out" 2>&1`, "sh",
		filepath.Join(d.State, "out"), proc.Build(t, "hanzod", proc.Tested), "run", "--config", filepath.Join(d.State, "config.json"),
		"--state-dir", d.State, "--port", strconv.Itoa(d.Port))
	d.WaitReady()
	for range 50 { // each is a line of the log
		proc.Connect(t, d.Operator(nil))
	}
	if h := d.Ctl("health").Wait(t, proc.Patience); h.Code != 0 || d.Ended() {
		t.Errorf("the daemon has gone: %v", d.Ended())
	}
	d.Stop()
}
