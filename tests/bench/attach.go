package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/ssh"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/tests/sshtest"
)

const (
	// streamSize is what is moved through either tunnel, in bytes.
	streamSize = 64 << 20
	// attachTime bounds one attachment.
	attachTime = 20 * time.Second
	// streamRounds is how often each tunnel moves it.
	streamRounds = 5
)

// attaches measures how long it takes to an answer of a daemon that was not connected to before: on this
// machine, and over SSH from a real server, beside what a bare handshake with that server takes. And how much an
// attachment moves, as a part of what "ssh -L" moves.
func (b *bench) attaches(ctx context.Context) error {
	d, err := b.loaded(ctx)
	if err != nil {
		return err
	}
	took, err := once(ctx, b.runs, func() (time.Duration, error) {
		began := time.Now()
		err := firstAnswer(ctx, client.Options{Socket: d.socket})
		return time.Since(began), err
	})
	if err != nil {
		return err
	}
	b.rep.times("attach/local/p50", took)

	t := &stand{}
	err = t.during(func() error { return b.overSSH(ctx, t) })
	if why, ok := errors.AsType[*skipped](err); ok {
		b.rep.Notes = append(b.rep.Notes, "nothing was measured over SSH: "+why.text)
		return nil
	}
	return err
}

// firstAnswer connects, asks one thing and leaves.
func firstAnswer(ctx context.Context, o client.Options) error {
	ctx, cancel := context.WithTimeout(ctx, attachTime)
	defer cancel()
	c, err := client.Dial(ctx, o)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.System.GetHealth(ctx, &systemv1.GetHealthRequest{})
	return err
}

func (b *bench) overSSH(ctx context.Context, t *stand) error {
	// A daemon of its own, with something to stream.
	dir := filepath.Join(b.dir, "attach")
	root := filepath.Join(dir, "workspace", "canvas")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "big.bin"), make([]byte, streamSize), 0o600); err != nil {
		return err
	}
	d, err := startDaemon(ctx, b.prog.hanzod, dir)
	if err != nil {
		return err
	}
	defer d.kill()
	s := sshtest.Start(t, sshtest.Options{Env: map[string]string{"HANZOD_STATE_DIR": dir}})
	home := s.ClientHome(s.HostBlock("box"))
	if err := b.handshakes(ctx, s, home); err != nil {
		return err
	}
	return b.streams(ctx, d, home)
}

// handshakes measures bare handshakes and whole attachments in turns.
func (b *bench) handshakes(ctx context.Context, s *sshtest.Server, home string) error {
	key, err := os.ReadFile(s.Key)
	if err != nil {
		return err
	}
	signer, err := xssh.ParsePrivateKey(key)
	if err != nil {
		return err
	}
	cfg := &xssh.ClientConfig{
		User: s.User, Auth: []xssh.AuthMethod{xssh.PublicKeys(signer)}, Timeout: attachTime,
		HostKeyCallback: xssh.InsecureIgnoreHostKey(), // a server of this run, of which nothing is asked
	}
	var bare, beyond []time.Duration
	for range b.runs {
		began := time.Now()
		c, err := xssh.Dial("tcp", s.Addr(), cfg)
		if err != nil {
			return err
		}
		shake := time.Since(began)
		_ = c.Close() // it only had to be let in
		began = time.Now()
		ctx, cancel := context.WithTimeout(ctx, attachTime)
		h, err := ssh.Connect(ctx, ssh.Options{Address: "ssh://box", Getenv: func(name string) string {
			if name == "HOME" {
				return home
			}
			return ""
		}})
		if err == nil {
			err = firstAnswer(ctx, client.Options{Via: h})
			beyond = append(beyond, max(0, time.Since(began)-shake))
			_ = h.Close() // likewise
		}
		cancel()
		if err != nil {
			return err
		}
		bare = append(bare, shake)
	}
	b.rep.times("attach/ssh/handshake", bare)
	b.rep.times("attach/ssh/beyond", beyond)
	return nil
}

// streams moves the same through "hanzoctl attach --listen" and "ssh -L", in turns.
func (b *bench) streams(ctx context.Context, d *daemon, home string) error {
	program, err := exec.LookPath("ssh")
	if err != nil {
		return &skipped{"the program ssh is not installed"}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var addrs [2]string
	for i := range addrs {
		port, err := freePort(ctx)
		if err != nil {
			return err
		}
		addrs[i] = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	for _, args := range [][]string{
		{b.prog.hanzoctl, "attach", "ssh://box", "--listen", addrs[0]},
		{program, "-F", filepath.Join(home, ".ssh", "config"), "-N", "-o", "ExitOnForwardFailure=yes", "-L", addrs[1] + ":" + d.addr, "box"},
	} {
		c := exec.CommandContext(ctx, args[0], args[1:]...)
		c.Env = append(cleanEnv(), "HOME="+home, "SSH_AUTH_SOCK=", "XDG_RUNTIME_DIR=")
		if err := c.Start(); err != nil {
			return err
		}
		defer func() {
			cancel()
			_ = c.Wait() // it was killed
		}()
	}
	var rates [2][]float64
	for i := range streamRounds + 1 {
		for j, addr := range addrs {
			took, err := download(ctx, addr)
			if err != nil {
				return err
			}
			if i > 0 { // the first opens the tunnels
				rates[j] = append(rates[j], streamSize/1e6/took.Seconds())
			}
		}
	}
	b.rep.set("attach/stream/rate", rates[0]...)
	b.rep.set("attach/stream/openssh", rates[1]...)
	for i := range rates[0] {
		b.rep.set("attach/stream/ratio", rates[0][i]/rates[1][i])
	}
	return nil
}

// download reads the file through a tunnel, which may have to be built first.
func download(ctx context.Context, addr string) (time.Duration, error) {
	deadline := time.Now().Add(attachTime)
	hc := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/__openclaw__/canvas/big.bin", nil)
		if err != nil {
			return 0, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		began := time.Now()
		res, err := hc.Do(req)
		if err != nil {
			if ctx.Err() != nil || time.Now().After(deadline) {
				return 0, err
			}
			t := time.NewTimer(50 * time.Millisecond)
			select {
			case <-ctx.Done():
			case <-t.C:
			}
			continue
		}
		n, err := io.Copy(io.Discard, res.Body)
		_ = res.Body.Close() // all of it was read
		if err != nil || n != streamSize {
			return 0, fmt.Errorf("%s: %d bytes, %s: %w", addr, n, res.Status, err)
		}
		return time.Since(began), nil
	}
}

// skipped says that something is missing on this machine.
type skipped struct{ text string }

func (e *skipped) Error() string { return e.text }

// stand is what sshtest wants of a test, outside of one.
type stand struct {
	testing.TB
	cleanup []func()
}

// failed carries the end of a step through the code that ended it.
type failed struct{ err error }

func (*stand) Helper()                      {}
func (*stand) Failed() bool                 { return false }
func (t *stand) Cleanup(f func())           { t.cleanup = append(t.cleanup, f) }
func (*stand) Logf(string, ...any)          {}
func (*stand) Errorf(f string, args ...any) { panic(failed{fmt.Errorf(f, args...)}) }
func (*stand) Fatalf(f string, args ...any) { panic(failed{fmt.Errorf(f, args...)}) }
func (*stand) Error(args ...any)            { panic(failed{errors.New(words(args))}) }
func (*stand) Fatal(args ...any)            { panic(failed{errors.New(words(args))}) }
func (*stand) Skip(args ...any)             { panic(failed{&skipped{words(args)}}) }
func (*stand) Skipf(f string, args ...any)  { panic(failed{&skipped{fmt.Sprintf(f, args...)}}) }

func words(args []any) string { return strings.TrimSpace(fmt.Sprintln(args...)) }

// during runs f, cleans up after it, and returns what ended it.
func (t *stand) during(f func() error) (err error) {
	defer func() {
		for len(t.cleanup) > 0 {
			last := t.cleanup[len(t.cleanup)-1]
			t.cleanup = t.cleanup[:len(t.cleanup)-1]
			last()
		}
	}()
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failed:
			err = r.err
		default:
			panic(r)
		}
	}()
	return f()
}
