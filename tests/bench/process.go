package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hanzoai/hanzod/client"
)

const (
	token = "bench-token-0123456789abcdef"
	// readyTime and stopTime bound a start and a stop.
	readyTime = 15 * time.Second
	stopTime  = 10 * time.Second
	// probeEvery is how often a starting daemon is asked.
	probeEvery = 200 * time.Microsecond
)

// programs are the paths of what was built.
type programs struct{ hanzod, hanzoctl, nothing, peak string }

const nothing = "package main\n\nfunc main() {}\n"

// peak prints the largest resident memory of a program that it runs, in bytes. It is small: the kernel counts what
// the parent has when it starts a child as the child's.
const peak = `package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

func main() {
	c := exec.Command(os.Args[1], os.Args[2:]...)
	if err := c.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(int64(c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) * 1024)
}
`

// build makes the daemon and the command line as they are released, and a program that does
// nothing.
func build(ctx context.Context, dir string, symbols bool) (programs, error) {
	p := programs{filepath.Join(dir, "hanzod"), filepath.Join(dir, "hanzoctl"), filepath.Join(dir, "nothing"), filepath.Join(dir, "peak")}
	src, peakSrc := filepath.Join(dir, "nothing.go"), filepath.Join(dir, "peak.go")
	if err := errors.Join(os.WriteFile(src, []byte(nothing), 0o600), os.WriteFile(peakSrc, []byte(peak), 0o600)); err != nil {
		return p, err
	}
	link := "-s -w"
	if symbols {
		link = ""
	}
	for _, x := range []struct{ out, pkg string }{
		{p.hanzod, "github.com/hanzoai/hanzod/cmd/hanzod"}, {p.hanzoctl, "github.com/hanzoai/hanzod/cmd/hanzoctl"}, {p.nothing, src}, {p.peak, peakSrc},
	} {
		if x.out == p.peak && runtime.GOOS != "linux" {
			continue // it is not measured
		}
		c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", link, "-o", x.out, x.pkg)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := c.CombinedOutput(); err != nil {
			return p, fmt.Errorf("build %s: %w\n%s", x.pkg, err, text)
		}
	}
	return p, nil
}

// daemon is a running hanzod in a process of its own.
type daemon struct {
	cmd    *exec.Cmd
	dir    string
	addr   string
	socket string
	exited chan error
	gone   bool
	// ready is the time from exec to the first readiness.
	ready time.Duration
}

// startDaemon runs a daemon on a fresh state directory and waits until it is ready.
func startDaemon(ctx context.Context, program, dir string, args ...string) (*daemon, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	text, err := json.Marshal(map[string]any{
		"gateway": map[string]any{"auth": map[string]any{"mode": "token", "token": token}},
		"agents":  map[string]any{"defaults": map[string]any{"heartbeat": map[string]any{"every": "0m"}}},
	})
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "config.json")
	if _, err := os.Stat(path); err != nil { // one that is there was put there for this daemon
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return nil, err
		}
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	console, err := os.Create(filepath.Join(dir, "console"))
	if err != nil {
		return nil, err
	}
	defer console.Close()
	d := &daemon{dir: dir, addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), socket: client.SocketPath(dir), exited: make(chan error, 1)}
	d.cmd = exec.CommandContext(ctx, program, append([]string{"run", "--port", strconv.Itoa(port), "--state-dir", dir}, args...)...)
	d.cmd.Stdout, d.cmd.Stderr = console, console
	d.cmd.Env = cleanEnv()
	began := time.Now()
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { d.exited <- d.cmd.Wait() }()
	if err := d.waitReady(); err != nil {
		d.kill()
		said, _ := os.ReadFile(filepath.Join(dir, "console"))
		return nil, fmt.Errorf("the daemon did not become ready: %w\n%s", err, said)
	}
	d.ready = time.Since(began)
	return d, nil
}

// cleanEnv is the environment without what would configure a daemon.
func cleanEnv() (out []string) {
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "HANZOD_") && !strings.HasPrefix(e, "OPENCLAW_") && !strings.HasPrefix(e, "CLAWDBOT_") && !strings.HasPrefix(e, "BOT_") && !strings.HasPrefix(e, "GO") {
			out = append(out, e)
		}
	}
	return out
}

func freePort(ctx context.Context) (int, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	a, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("no TCP address")
	}
	return a.Port, nil
}

// waitReady asks /readyz until it answers 200.
func (d *daemon) waitReady() error {
	deadline := time.NewTimer(readyTime)
	defer deadline.Stop()
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	last := errors.New("not asked")
	for {
		select {
		case <-tick.C:
			if last = probe(d.addr); last == nil {
				return nil
			}
		case err := <-d.exited:
			d.exited <- err
			return fmt.Errorf("it ended: %w", err)
		case <-deadline.C:
			return last
		}
	}
}

func probe(addr string) error {
	nc, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(nc, "GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: %s", resp.Status)
	}
	return nil
}

// stop asks the daemon to stop and returns how long that took.
func (d *daemon) stop() (time.Duration, error) {
	if d == nil || d.gone {
		return 0, nil
	}
	began := time.Now()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.kill()
		return 0, err
	}
	timer := time.NewTimer(stopTime)
	defer timer.Stop()
	select {
	case err := <-d.exited:
		d.gone = true
		return time.Since(began), err
	case <-timer.C:
		d.kill()
		return 0, errors.New("the daemon did not stop in time and was killed")
	}
}

func (d *daemon) kill() {
	if d.gone {
		return
	}
	d.gone = true
	_ = d.cmd.Process.Kill() // it may have ended already
	<-d.exited
}

func (d *daemon) memory() (memory, error) { return memoryOf(d.cmd.Process.Pid) }

// memory is what a process holds, in bytes.
type memory struct{ rss, private float64 }

// run executes a program and returns the wall time.
func run(ctx context.Context, program string, args ...string) (time.Duration, error) {
	c := exec.CommandContext(ctx, program, args...)
	c.Env = cleanEnv()
	began := time.Now()
	err := c.Run()
	took := time.Since(began)
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", filepath.Base(program), strings.Join(args, " "), err)
	}
	return took, nil
}

// peakOf executes a program and returns its largest resident memory in bytes, 0 where that is not measured.
func (p programs) peakOf(ctx context.Context, program string, args ...string) (float64, error) {
	if runtime.GOOS != "linux" {
		return 0, nil
	}
	c := exec.CommandContext(ctx, p.peak, append([]string{program}, args...)...)
	c.Env = cleanEnv()
	out, err := c.Output()
	if err != nil {
		return 0, fmt.Errorf("%s %s: %w", filepath.Base(program), strings.Join(args, " "), err)
	}
	return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
}
