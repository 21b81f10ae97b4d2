package contract

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// binary is the daemon under test, built at most once per run.
var binary struct {
	once sync.Once
	dir  string
	path string
	err  error
}

func TestMain(m *testing.M) {
	if mode := os.Getenv(standInMode); mode != "" {
		os.Exit(standIn(mode, os.Args[1:]))
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if binary.dir != "" {
			_ = os.RemoveAll(binary.dir)
		}
		os.Exit(code)
	}))
}

// buildDaemon builds ./cmd/hanzod, with the race detector when this test has it.
func buildDaemon(t testing.TB) string {
	t.Helper()
	root := moduleRoot(t)
	binary.once.Do(func() {
		if _, err := os.Stat(filepath.Join(root, "cmd", "hanzod")); err != nil {
			binary.err = fmt.Errorf("there is no daemon to test: %w", err)
			return
		}
		if binary.dir, binary.err = os.MkdirTemp("", "hanzod-contract-"); binary.err != nil {
			return
		}
		binary.path = filepath.Join(binary.dir, "hanzod")
		if runtime.GOOS == "windows" {
			binary.path += ".exe"
		}
		args := []string{"build", "-ldflags", "-s -w", "-o", binary.path}
		if raceBuilt {
			args = append(args, "-race")
		}
		ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
		defer cancel()
		cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/hanzod")...)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			binary.err = fmt.Errorf("go build ./cmd/hanzod: %w\n%s", err, out)
		}
	})
	if binary.err != nil {
		t.Fatal(binary.err)
	}
	return binary.path
}

// tail keeps the last maxLog bytes that were written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, p...)
	if n := len(l.buf) - maxLog; n > 0 {
		l.buf = append(l.buf[:0], l.buf[n:]...)
	}
	return len(p), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.buf)
}

// daemon is one running hanzod with a home of its own.
type daemon struct {
	home string
	port int
	host string
	cmd  *exec.Cmd
	log  *tail
	done chan struct{} // closed when the process has ended
	err  error         // of the process; read after done
}

// errTaken means that another process took the chosen port before the daemon did.
var errTaken = errors.New("the port was taken")

// startDaemon starts bin with the config and environment of a scenario and waits until it is ready.
func startDaemon(bin string, config *object, env map[string]string) (*daemon, error) {
	for attempt := 1; ; attempt++ {
		d, err := startOnce(bin, config, env)
		if err == nil || !errors.Is(err, errTaken) || attempt == maxStarts {
			return d, err
		}
	}
}

func startOnce(bin string, config *object, env map[string]string) (*daemon, error) {
	home, err := os.MkdirTemp("", "hz-")
	if err != nil {
		return nil, err
	}
	if home, err = filepath.EvalSymlinks(home); err != nil {
		return nil, err
	}
	d := &daemon{home: home, log: &tail{}, done: make(chan struct{})}
	if err := d.start(bin, config, env); err != nil {
		_ = os.RemoveAll(home)
		return nil, err
	}
	if err := d.ready(); err != nil {
		return nil, errors.Join(err, d.stop())
	}
	return d, nil
}

func (d *daemon) start(bin string, config *object, env map[string]string) error {
	var err error
	if d.host, err = os.Hostname(); err != nil {
		return err
	}
	if d.port, err = freePort(); err != nil {
		return err
	}
	w := newWorld(d.home, d.port, d.host)
	filled, err := w.fill(config)
	if err != nil {
		return err
	}
	state := filepath.Join(d.home, ".openclaw")
	tmp := filepath.Join(d.home, "tmp")
	for _, dir := range []string{state, tmp} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	file := filepath.Join(state, "openclaw.json")
	if err := os.WriteFile(file, append(encode(filled), '\n'), 0o600); err != nil {
		return err
	}
	d.cmd = exec.Command(bin, "run", "--config", file, "--state-dir", state, "--port", strconv.Itoa(d.port))
	d.cmd.Dir = d.home
	d.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.home, "TMPDIR=" + tmp}
	if runtime.GOOS == "windows" {
		d.cmd.Env = append(d.cmd.Env, "SystemRoot="+os.Getenv("SystemRoot"), "USERPROFILE="+d.home, "TEMP="+tmp, "TMP="+tmp)
	}
	for k, v := range env {
		if v, err = w.text(v); err != nil {
			return err
		}
		d.cmd.Env = append(d.cmd.Env, k+"="+v)
	}
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.WaitDelay = stopTimeout // a child that keeps the output open does not hold us up
	if err := d.cmd.Start(); err != nil {
		return err
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.done)
	}()
	return nil
}

// given are the ports handed out in this run, so that daemons that start together get different ones.
var given struct {
	sync.Mutex
	ports map[int]bool
}

func freePort() (int, error) {
	given.Lock()
	defer given.Unlock()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		port := l.Addr().(*net.TCPAddr).Port
		if err := l.Close(); err != nil {
			return 0, err
		}
		if !given.ports[port] {
			if given.ports == nil {
				given.ports = map[int]bool{}
			}
			given.ports[port] = true
			return port, nil
		}
	}
	return 0, errors.New("no free port in 100 attempts")
}

var portTaken = regexp.MustCompile(`(?i)address already in use|already listening`)

// ready polls GET /readyz until it answers 200.
func (d *daemon) ready() error {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	url := fmt.Sprintf("http://127.0.0.1:%d/readyz", d.port)
	tick := time.NewTicker(readyInterval)
	defer tick.Stop()
	limit := time.NewTimer(readyTimeout)
	defer limit.Stop()
	last := "no answer yet"
	for {
		select {
		case <-d.done:
			err := fmt.Errorf("the daemon ended before it was ready (%w)\n%s", d.err, d.log)
			if portTaken.MatchString(d.log.String()) {
				err = errors.Join(errTaken, err)
			}
			return err
		case <-limit.C:
			return fmt.Errorf("the daemon was not ready within %v (last: %s)\n%s", readyTimeout, last, d.log)
		case <-tick.C:
		}
		res, err := client.Get(url)
		if err != nil {
			last = err.Error()
			continue
		}
		_ = res.Body.Close()
		if last = res.Status; res.StatusCode == http.StatusOK {
			return nil
		}
	}
}

// stop ends the daemon as a service manager does, removes its home and reports anything unclean.
func (d *daemon) stop() error {
	var problem error
	select {
	case <-d.done: // before anybody asked
		problem = fmt.Errorf("the daemon ended by itself: %w", d.err)
	default:
		sig := os.Signal(syscall.SIGTERM)
		if runtime.GOOS == "windows" { // there is no SIGTERM
			sig = os.Kill
		}
		if err := d.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			problem = err
		}
		limit := time.NewTimer(stopTimeout)
		defer limit.Stop()
		select {
		case <-d.done:
			if d.err != nil && runtime.GOOS != "windows" {
				problem = fmt.Errorf("the daemon did not end cleanly after SIGTERM: %w", d.err)
			}
		case <-limit.C:
			problem = fmt.Errorf("the daemon did not end within %v after SIGTERM", stopTimeout)
			_ = d.cmd.Process.Kill()
			<-d.done
		}
	}
	log := []byte(d.log.String())
	for _, bad := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: "} {
		if bytes.Contains(log, []byte(bad)) {
			problem = errors.Join(problem, fmt.Errorf("the daemon's output holds %q", strings.TrimSpace(bad)))
		}
	}
	if problem != nil {
		problem = fmt.Errorf("%w\n--- daemon output\n%s", problem, log)
	}
	return errors.Join(problem, os.RemoveAll(d.home))
}
