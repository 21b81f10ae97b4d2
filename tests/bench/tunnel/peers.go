package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	token     = "bench-token-0123456789abcdef"
	readyTime = 20 * time.Second
	stopTime  = 10 * time.Second
)

// proc is a process that was started here.
type proc struct {
	cmd *exec.Cmd
	in  io.Closer
	log *bytes.Buffer
}

// launch starts a process, which ends with its standard input or when it is stopped.
func launch(ctx context.Context, program string, args ...string) (*proc, io.Reader, error) {
	p := &proc{cmd: exec.CommandContext(ctx, program, args...), log: &bytes.Buffer{}}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	p.in, p.cmd.Stderr = in, p.log
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "HANZOD_") && !strings.HasPrefix(e, "OPENCLAW_") {
			p.cmd.Env = append(p.cmd.Env, e)
		}
	}
	return p, out, p.cmd.Start()
}

// stop asks the process to end, and ends it.
func (p *proc) stop() {
	_ = p.in.Close()
	done := make(chan struct{})
	go func() {
		_ = p.cmd.Wait()
		close(done)
	}()
	_ = p.cmd.Process.Signal(os.Interrupt)
	select {
	case <-done:
	case <-time.After(stopTime):
		_ = p.cmd.Process.Kill()
		<-done
	}
}

// resident is the memory of the process in bytes.
func (p *proc) resident() int64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	n, _ := strconv.ParseInt(f[1], 10, 64)
	return n * int64(os.Getpagesize())
}

// spent is the time of processors that the daemon and the client have used.
func (w *way) spent() (sum time.Duration) {
	for _, p := range []*proc{w.daemon, w.client} {
		if p == nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/stat")
		if err != nil {
			return 0
		}
		// Behind the name, which may have anything in it: the state is the first.
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		for _, ticks := range f[11:13] {
			n, _ := strconv.ParseInt(ticks, 10, 64)
			sum += time.Duration(n) * time.Second / 100
		}
	}
	return sum
}

// goMod makes the module that builds the others. frp needs its own yamux.
const goMod = `module peers

go 1.24

require (
	github.com/fatedier/frp v0.61.2
	github.com/jpillora/chisel v1.10.1
)

replace github.com/hashicorp/yamux => github.com/fatedier/yamux v0.0.0-20230628132301-7aca4898904d
`

const goTools = `//go:build tools

package peers

import (
	_ "github.com/fatedier/frp/cmd/frpc"
	_ "github.com/fatedier/frp/cmd/frps"
	_ "github.com/jpillora/chisel"
)
`

// buildPeers builds chisel and frp where they are not built yet.
func buildPeers(ctx context.Context, cache string) error {
	dir := filepath.Join(cache, "peers")
	missing := false
	for _, name := range []string{"chisel", "frpc", "frps"} {
		if _, err := os.Stat(filepath.Join(cache, name)); err != nil {
			missing = true
		}
	}
	if !missing {
		return nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	for name, text := range map[string]string{"go.mod": goMod, "tools.go": goTools} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	c := exec.CommandContext(ctx, "go", "build", "-mod=mod", "-trimpath", "-o", "..", "github.com/jpillora/chisel", "github.com/fatedier/frp/cmd/frpc", "github.com/fatedier/frp/cmd/frps")
	c.Dir = dir
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("build the others: %w\n%s", err, out)
	}
	return nil
}

func freePort() (int, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// await waits until somebody answers at a port.
func await(ctx context.Context, port int) error {
	for end := time.Now().Add(readyTime); ; {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", at(port))
		if err == nil {
			return c.Close()
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func at(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// way is one way from visitors to the target.
type way struct {
	name string
	ports
	// daemon and client are the processes in between, for their memory.
	daemon, client *proc
	stop           func()
}

func directWay(t *child) *way { return &way{name: "direct", ports: t.ports, stop: func() {}} }

func several(n int) (out []int, err error) {
	for range n {
		p, e := freePort()
		out, err = append(out, p), errors.Join(err, e)
	}
	return out, err
}

func chiselWay(ctx context.Context, cache string, t *child) (*way, error) {
	p, err := several(5)
	if err != nil {
		return nil, err
	}
	s, _, err := launch(ctx, filepath.Join(cache, "chisel"), "server", "--host", "127.0.0.1", "--port", strconv.Itoa(p[0]), "--reverse")
	if err != nil {
		return nil, err
	}
	w := &way{name: "chisel", ports: ports{p[1], p[2], p[3], p[4]}, daemon: s, stop: s.stop}
	if err := await(ctx, p[0]); err != nil {
		w.stop()
		return nil, err
	}
	args := []string{"client", "http://" + at(p[0])}
	for i, to := range []int{t.Sink, t.Source, t.Echo, t.HTTP} {
		args = append(args, fmt.Sprintf("R:127.0.0.1:%d:127.0.0.1:%d", p[i+1], to))
	}
	c, _, err := launch(ctx, filepath.Join(cache, "chisel"), args...)
	if err != nil {
		w.stop()
		return nil, err
	}
	w.client, w.stop = c, func() { c.stop(); s.stop() }
	if err := await(ctx, p[4]); err != nil {
		w.stop()
		return nil, err
	}
	return w, nil
}

func frpWay(ctx context.Context, cache, dir string, t *child, encrypted bool) (*way, error) {
	p, err := several(5)
	if err != nil {
		return nil, err
	}
	name := "frp"
	if encrypted {
		name = "frp/tls"
	}
	dir = filepath.Join(dir, strings.ReplaceAll(name, "/", "-"))
	server := fmt.Sprintf("bindAddr = \"127.0.0.1\"\nproxyBindAddr = \"127.0.0.1\"\nbindPort = %d\nvhostHTTPPort = %d\nlog.to = \"%s/frps.log\"\n", p[0], p[4], dir)
	var conf strings.Builder
	_, _ = fmt.Fprintf(&conf, "serverAddr = \"127.0.0.1\"\nserverPort = %d\ntransport.tls.enable = %v\nlog.to = \"%s/frpc.log\"\n", p[0], encrypted, dir)
	for i, to := range []int{t.Sink, t.Source, t.Echo} {
		_, _ = fmt.Fprintf(&conf, "[[proxies]]\nname = \"p%d\"\ntype = \"tcp\"\nlocalIP = \"127.0.0.1\"\nlocalPort = %d\nremotePort = %d\n", i, to, p[i+1])
	}
	_, _ = fmt.Fprintf(&conf, "[[proxies]]\nname = \"web\"\ntype = \"http\"\nlocalIP = \"127.0.0.1\"\nlocalPort = %d\ncustomDomains = [\"127.0.0.1\"]\n", t.HTTP)
	if err := errors.Join(os.MkdirAll(dir, 0o750), os.WriteFile(filepath.Join(dir, "frps.toml"), []byte(server), 0o600), os.WriteFile(filepath.Join(dir, "frpc.toml"), []byte(conf.String()), 0o600)); err != nil {
		return nil, err
	}
	s, _, err := launch(ctx, filepath.Join(cache, "frps"), "-c", filepath.Join(dir, "frps.toml"))
	if err != nil {
		return nil, err
	}
	w := &way{name: name, ports: ports{p[1], p[2], p[3], p[4]}, daemon: s, stop: s.stop}
	if err := await(ctx, p[0]); err != nil {
		w.stop()
		return nil, err
	}
	c, _, err := launch(ctx, filepath.Join(cache, "frpc"), "-c", filepath.Join(dir, "frpc.toml"))
	if err != nil {
		w.stop()
		return nil, err
	}
	w.client, w.stop = c, func() { c.stop(); s.stop() }
	if err := await(ctx, p[3]); err != nil {
		w.stop()
		return nil, err
	}
	return w, nil
}

// hanzod is a daemon.
type hanzod struct {
	*proc
	port        int
	dir         string
	fingerprint string
}

func startHanzod(ctx context.Context, program, dir string, encrypted bool) (*hanzod, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(map[string]any{
		"gateway": map[string]any{
			"auth": map[string]any{"mode": "token", "token": token}, "tls": map[string]any{"enabled": encrypted},
		},
		"agents": map[string]any{"defaults": map[string]any{"heartbeat": map[string]any{"every": "0m"}}},
		"tunnel": map[string]any{"maxStreams": 20_000, "permits": 40_000, "permitsPerTunnel": 40_000},
	})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600)); err != nil {
		return nil, err
	}
	p, _, err := launch(ctx, program, "run", "--port", strconv.Itoa(port), "--state-dir", dir)
	if err != nil {
		return nil, err
	}
	d := &hanzod{proc: p, port: port, dir: dir}
	if err := await(ctx, port); err != nil {
		d.stop()
		return nil, fmt.Errorf("hanzod does not start: %w\n%s", err, p.log)
	}
	if encrypted {
		c, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", at(port))
		if err != nil {
			d.stop()
			return nil, err
		}
		sum := sha256.Sum256(c.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw)
		d.fingerprint = hex.EncodeToString(sum[:])
		_ = c.Close()
	}
	return d, nil
}

// hanzodWay has a client of its own over one carrier.
func hanzodWay(ctx context.Context, o options, name, server string, d *hanzod, t *child) (*way, error) {
	args := []string{"-server", server, "-sink", strconv.Itoa(t.Sink), "-source", strconv.Itoa(t.Source), "-echo", strconv.Itoa(t.Echo), "-http", strconv.Itoa(t.HTTP)}
	if d.fingerprint != "" && strings.HasPrefix(server, "wss:") {
		args = append(args, "-fingerprint", d.fingerprint)
	}
	if o.profile != "" {
		args = append(args, "-profile", filepath.Join(o.profile, strings.ReplaceAll(name, "/", "-")+".pprof"))
	}
	c, err := start(ctx, "as-client", args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &way{name: name, ports: c.ports, daemon: d.proc, client: &c.proc, stop: c.stop}, nil
}
