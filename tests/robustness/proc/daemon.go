//go:build unix

package proc

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
)

// Options say what daemon a test wants. The zero value is one in token mode.
type Options struct {
	Form Form
	// State is a new directory when empty.
	State string
	// Config is merged over the default configuration, by top-level key.
	Config map[string]any
	Args   []string
	Env    []string
}

// Daemon is a hanzod process with its directory and port, which outlive a restart.
type Daemon struct {
	*Command
	State string
	Port  int
	// Ready is how long the last start took until the daemon was ready.
	Ready time.Duration

	o    Options
	tb   testing.TB
	seen []string // outputs of the processes that have ended
}

// Dir makes a directory with a short name, since socket paths are short.
func Dir(tb testing.TB) string {
	tb.Helper()
	d, err := os.MkdirTemp("", "hz")
	if err == nil {
		d, err = filepath.EvalSymlinks(d)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(d) })
	return d
}

// Start runs a daemon and returns when it is ready.
func Start(tb testing.TB, o Options) *Daemon {
	tb.Helper()
	d := New(tb, o)
	d.Start()
	return d
}

// New prepares a daemon without starting it.
func New(tb testing.TB, o Options) *Daemon {
	tb.Helper()
	if o.State == "" {
		o.State = Dir(tb)
	}
	d := &Daemon{State: o.State, Port: FreePort(tb), o: o, tb: tb}
	file := map[string]any{
		"gateway": map[string]any{"auth": map[string]any{"mode": "token", "token": Token}},
		"agents":  map[string]any{"defaults": map[string]any{"heartbeat": map[string]any{"every": "0m"}}},
	}
	maps.Copy(file, o.Config)
	text, err := json.Marshal(file)
	if err == nil {
		err = os.WriteFile(d.config(), text, 0o600)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if d.Command != nil {
			d.End(syscall.SIGTERM)
			d.note()
		}
		if tb.Failed() {
			for _, text := range d.seen[max(0, len(d.seen)-shownOutputs):] {
				tb.Logf("output of a start:\n%s", last(text))
			}
		}
	})
	return d
}

// maxShown is how much of an output a failed test shows, and shownOutputs of how many starts. Those
// of keptOutputs starts are kept.
const (
	maxShown     = 20_000
	shownOutputs = 3
	keptOutputs  = 20
)

func last(s string) string { return s[max(0, len(s)-maxShown):] }

func (d *Daemon) config() string { return filepath.Join(d.State, "config.json") }

// note looks at the output of the process that has ended, and keeps it.
func (d *Daemon) note() {
	text := d.Stderr.String() + d.Stdout.String()
	for _, f := range Faults(text) {
		d.tb.Errorf("the daemon's output holds %q:\n%s", f, last(text))
	}
	d.seen = append(d.seen[max(0, len(d.seen)-keptOutputs+1):], text)
}

// Outputs is what the processes of this daemon have printed so far, the running one first.
func (d *Daemon) Outputs() []string {
	return append([]string{d.Stderr.String() + d.Stdout.String()}, d.seen...)
}

// Spawn starts the process and does not wait until it is ready.
func (d *Daemon) Spawn() {
	d.tb.Helper()
	if d.Command != nil {
		if !d.Ended() {
			d.tb.Fatal("the daemon still runs")
		}
		d.note()
	}
	bin := Build(d.tb, "hanzod", d.o.Form)
	args := append([]string{"run", "--config", d.config(), "--state-dir", d.State, "--port", strconv.Itoa(d.Port)}, d.o.Args...)
	var err error
	if d.Command, err = start(bin, args, Env(d.State, d.o.Env...), d.State, nil, false); err != nil {
		d.tb.Fatal(err)
	}
}

// Start starts the process and waits until it is ready.
func (d *Daemon) Start() {
	d.tb.Helper()
	d.Spawn()
	d.WaitReady()
}

// WaitReady waits until the daemon answers that it is ready.
func (d *Daemon) WaitReady() {
	d.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	if err := poll(ctx, func() bool { return d.Ended() || d.isReady() }); err != nil || d.Ended() {
		d.tb.Fatalf("the daemon is not ready (ended %v, code %d)\n%s", d.Ended(), d.exitCode(), last(d.Stderr.String()))
	}
	d.Ready = time.Since(d.Began)
}

func (d *Daemon) exitCode() int {
	if d.Ended() {
		return d.Code
	}
	return 0
}

// isReady asks GET /readyz over a connection of its own.
func (d *Daemon) isReady() bool {
	nc, err := net.DialTimeout("tcp", d.Addr(), time.Second)
	if err != nil {
		return false
	}
	_ = nc.Close()
	c := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Get("http://" + d.Addr() + "/readyz")
	if err != nil {
		return false
	}
	_ = res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// Addr is the TCP address, URL the one of REST and WS the one of the legacy door.
func (d *Daemon) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(d.Port)) }
func (d *Daemon) URL() string  { return "http://" + d.Addr() }
func (d *Daemon) WS() string   { return "ws://" + d.Addr() }

// Socket is the path of the local socket.
func (d *Daemon) Socket() string { return client.SocketPath(d.State) }

// Stop ends the daemon as a service manager does and demands that it ends well and in time.
func (d *Daemon) Stop() time.Duration {
	d.tb.Helper()
	took := d.End(syscall.SIGTERM)
	if d.Code != 0 || took > 5*time.Second {
		d.tb.Errorf("after SIGTERM the daemon ended with code %d after %v; want 0 within 5 s\n%s", d.Code, took, last(d.Stderr.String()))
	}
	return took
}

// Kill ends the daemon with SIGKILL.
func (d *Daemon) Kill() { d.End(syscall.SIGKILL) }

// Ctl starts hanzoctl for this daemon.
func (d *Daemon) Ctl(args ...string) *Command {
	d.tb.Helper()
	return Run(d.tb, d.State, Build(d.tb, "hanzoctl", d.o.Form), []string{"HANZOD_STATE_DIR=" + d.State}, args...)
}

// Client returns a gRPC client, closed with the test.
func (d *Daemon) Client(tb testing.TB) *client.Client {
	tb.Helper()
	c, err := client.Dial(tb.Context(), client.Options{Socket: d.Socket(), ClientName: "test"})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// given are the ports handed out in this run.
var given struct {
	sync.Mutex
	ports map[int]bool
}

// FreePort returns a port that nobody listens on.
func FreePort(tb testing.TB) int {
	tb.Helper()
	given.Lock()
	defer given.Unlock()
	for range maxPortTries {
		port := firstPort + rand.IntN(lastPort-firstPort)
		if given.ports[port] {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		_ = l.Close()
		if given.ports == nil {
			given.ports = map[int]bool{}
		}
		given.ports[port] = true
		return port
	}
	tb.Fatalf("no free port in %d attempts", maxPortTries)
	return 0
}
