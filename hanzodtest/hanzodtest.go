// Package hanzodtest runs a whole daemon inside a test: real store, real sockets, real doors, in a
// directory of its own that goes away with the test.
//
// It is for tests only and may import everything. The daemon's goroutines end before the test does.
package hanzodtest

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/nodes/push"
	"github.com/hanzoai/hanzod/runtime"
)

// stopTime is how long a daemon may take to stop: the promise is five seconds.
const stopTime = 5 * time.Second

// Token is the shared token of daemons that are started without a configuration.
const Token = "test-token-0123456789"

// Options change the daemon of a test. The zero value is a daemon in token mode on a free port.
type Options struct {
	// StateDir is a new directory when empty. A test that restarts a daemon passes the first one's.
	StateDir string
	// Config is merged over the default configuration, key by key at the top level.
	Config map[string]any
	// Node runs the node host inside the daemon.
	Node bool
	// GRPC opens gRPC over TLS on a free port; TLS makes the other port speak TLS.
	GRPC, TLS bool
	Now       func() time.Time
	// Env are environment variables of the daemon.
	Env map[string]string
	// PushHosts and PushRoots take the place of Apple's push service.
	PushHosts map[push.Environment]string
	PushRoots *x509.CertPool
	// TailscaleSocket is where a Tailscale service answers.
	TailscaleSocket string
	// SharedDiscovery is the discovery file that several daemons share.
	SharedDiscovery string
	// KeepConfig leaves the configuration file of StateDir as it is; Config is not used then.
	KeepConfig bool
}

// Daemon is a running daemon. What is embedded is the first of those that follow each other when a change of
// the configuration takes a restart; Latest is the one that serves. Its addresses are those of all of them.
type Daemon struct {
	*runtime.Daemon
	StateDir string
	Token    string

	tls  bool
	stop context.CancelFunc
	done chan error
	once sync.Once
	err  error
	log  *syncBuffer

	mu     sync.Mutex
	latest *runtime.Daemon
	starts int
}

// Start runs a daemon and returns when it serves. It is stopped when the test ends, unless the
// test stops it before.
func Start(tb testing.TB, o Options) *Daemon {
	tb.Helper()
	d, err := Try(tb, o)
	if err != nil {
		tb.Fatalf("the daemon did not start: %v", err)
	}
	return d
}

// Try is Start for a daemon that may not start; the error says why it did not.
func Try(tb testing.TB, o Options) (*Daemon, error) {
	tb.Helper()
	if o.StateDir == "" {
		// Socket paths are short; the directories of tests with long names are not.
		dir, err := os.MkdirTemp("", "hz")
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = os.RemoveAll(dir) })
		o.StateDir = dir
	}
	path := filepath.Join(o.StateDir, "config.json")
	if !o.KeepConfig {
		writeConfig(tb, path, o)
	}
	port := 0
	var grpcPort *int
	if o.GRPC {
		grpcPort = &port
	}
	load := config.Options{
		Path: path, StateDir: o.StateDir, Port: &port, GRPCPort: grpcPort,
		Env: func(k string) string {
			if k == "HOME" || k == "PATH" {
				return os.Getenv(k)
			}
			return o.Env[k]
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	log := &syncBuffer{}
	d := &Daemon{StateDir: o.StateDir, Token: Token, stop: cancel, done: make(chan error, 1), log: log}
	first := make(chan *runtime.Daemon, 1)
	go func() {
		d.done <- runtime.Serve(ctx, runtime.ServeOptions{
			Load: load, Now: o.Now,
			Options: func(*config.Config) (runtime.Options, error) {
				return runtime.Options{
					Console: log, Node: o.Node, Now: o.Now, PushHosts: o.PushHosts, PushRoots: o.PushRoots, TailscaleSocket: o.TailscaleSocket,
					SharedDiscovery: o.SharedDiscovery,
				}, nil
			},
			Each: func(ctx context.Context, rd *runtime.Daemon) {
				select {
				case <-rd.Ready():
				case <-ctx.Done():
					return
				}
				d.mu.Lock()
				d.latest = rd
				d.starts++
				n := d.starts
				d.mu.Unlock()
				if n == 1 {
					first <- rd
				}
			},
		})
	}()
	tb.Cleanup(func() {
		if err := d.Stop(); err != nil && d.Daemon != nil {
			tb.Errorf("the daemon did not stop cleanly: %v", err)
		}
		if tb.Failed() {
			tb.Logf("daemon log:\n%s", log.String())
		}
	})
	select {
	case rd := <-first:
		d.Daemon, d.tls = rd, rd.Started().Gateway.TLS.Enabled
		return d, nil
	case err := <-d.done:
		d.done <- err // for Stop
		return d, err
	case <-time.After(stopTime):
		tb.Fatal("the daemon did not become ready")
		return nil, nil
	}
}

// writeConfig makes the configuration file.
func writeConfig(tb testing.TB, path string, o Options) {
	tb.Helper()
	file := map[string]any{
		"gateway": map[string]any{
			"auth": map[string]any{"mode": "token", "token": Token}, "tls": map[string]any{"enabled": o.TLS},
		},
		"agents": map[string]any{"defaults": map[string]any{"heartbeat": map[string]any{"every": "0m"}}},
	}
	maps.Copy(file, o.Config)
	text, err := json.Marshal(file)
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		tb.Fatal(err)
	}
}

// Latest is the daemon that serves, and how many have served.
func (d *Daemon) Latest() (*runtime.Daemon, int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.latest, d.starts
}

// Stop stops the daemon and waits. It may be called more than once.
func (d *Daemon) Stop() error {
	d.once.Do(func() {
		d.stop()
		select {
		case d.err = <-d.done:
		case <-time.After(stopTime):
			d.err = context.DeadlineExceeded
		}
	})
	return d.err
}

// Addr is the daemon's first TCP address, as host:port.
func (d *Daemon) Addr() string { return d.Addresses()[0] }

// WS is the address of the legacy door.
func (d *Daemon) WS() string { return d.scheme("ws") + d.Addr() }

// URL is the address of the REST door.
func (d *Daemon) URL() string { return d.scheme("http") + d.Addr() }

func (d *Daemon) scheme(s string) string {
	if d.tls {
		s += "s"
	}
	return s + "://"
}

// Host is the address of gRPC over TLS, as clients take it.
func (d *Daemon) Host() string { return "hanzod://" + d.GRPCAddress() }

// LogText is what the daemon has logged so far.
func (d *Daemon) LogText() string { return d.log.String() }

// syncBuffer is a buffer that several goroutines write to.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
