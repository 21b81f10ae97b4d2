//go:build unix

package ssh_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/ssh"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/tests/sshtest"
)

func TestByKey(t *testing.T) {
	t.Parallel()
	w := machine(t, sshtest.Options{})
	h := w.connect()
	c := health(t, h)
	route(t, h, ssh.RouteForward)
	if h.Target() != "ssh://box" || c.Target() != h.Target() {
		t.Fatalf("it calls itself %q", h.Target())
	}
	if n := w.server.Accepted(); n != 1 {
		t.Fatalf("it made %d connections", n)
	}
	// The account of the daemon needs no token to do what an operator does.
	if _, err := c.System.GetStatus(soon(t), &systemv1.GetStatusRequest{}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []ssh.Step{ssh.StepConfig, ssh.StepConnect, ssh.StepHostKey, ssh.StepAuth, ssh.StepFind, ssh.StepOpen} {
		if !strings.Contains(w.progress(), string(step)+": ") {
			t.Errorf("nothing is said of the step %s:\n%s", step, w.progress())
		}
	}
}

func TestAddressSaysAll(t *testing.T) {
	t.Parallel()
	w := machine(t, sshtest.Options{})
	s := w.server
	w.configure(fmt.Sprintf("Host *\n  IdentityFile %s\n  UserKnownHostsFile %s\n  User nobody\n", s.Key, s.KnownHosts))
	h := w.connectTo(w.options(s.Address()))
	health(t, h)
	if h.Target() != s.Address() {
		t.Fatalf("it calls itself %q", h.Target())
	}
	w.refused(w.options("ssh://alice:secret-word@box"), ssh.CodeBadAddress, "password")
}

func TestByAgent(t *testing.T) {
	t.Parallel()
	w := machine(t, sshtest.Options{})
	w.env["SSH_AUTH_SOCK"] = sshtest.Agent(t, w.server.Key)
	bare := strings.ReplaceAll(w.server.HostBlock("box"), "IdentityFile", "# ")
	w.configure(bare)
	health(t, w.connect())

	// A key of the agent whose public half alone is named, among more keys than the server looks at.
	var keys []string
	for i := range 8 {
		keys = append(keys, filepath.Join(w.server.Dir, fmt.Sprintf("other%d", i)))
		sshtest.KeyPair(t, keys[i], "ed25519", "")
	}
	w.env["SSH_AUTH_SOCK"] = sshtest.Agent(t, append(keys, w.server.Key)...)
	w.refused(w.options("ssh://box"), ssh.CodeAuth, "IdentitiesOnly")
	w.configure(bare + "  IdentitiesOnly yes\n  IdentityFile " + w.server.Key + ".pub\n")
	health(t, w.connect())
	w.configure(bare + "  IdentityAgent none\n")
	w.refused(w.options("ssh://box"), ssh.CodeAuth, "no key")
	w.env["SSH_AUTH_SOCK"] = filepath.Join(w.home, "nothing")
	w.configure(bare)
	w.refused(w.options("ssh://box"), ssh.CodeAuth)
}

func TestKeyWithPassphrase(t *testing.T) {
	t.Parallel()
	w := machine(t, sshtest.Options{})
	key := filepath.Join(w.server.Dir, "locked")
	sshtest.KeyPair(t, key, "ed25519", "open sesame")
	w.server.Authorize(key + ".pub")
	w.configure("Host box\n  IdentityFile " + key + "\n" + w.server.HostBlock("box", "IdentitiesOnly yes"))
	config := strings.Replace(readFile(t, filepath.Join(w.home, ".ssh", "config")), "  IdentityFile "+w.server.Key+"\n", "", 1)
	w.configure(config)

	w.refused(w.options("ssh://box"), ssh.CodePrompt, "ssh-add "+key)
	p := &person{answers: map[string][]string{"passphrase": {"wrong", "open sesame"}}}
	w.prompt = p
	h := w.connect()
	health(t, h)
	if n := len(p.questions()); n != 2 || p.shown[0] {
		t.Fatalf("it asked %d times, shown %v", n, p.shown)
	}
	// It is unlocked now: connecting again asks nobody.
	w.server.Cut()
	again(t, h)
	if n := len(p.questions()); n != 2 {
		t.Fatalf("it asked again: %q", p.questions())
	}
	w.prompt = &person{answers: map[string][]string{"passphrase": {"no", "no", "no", "no"}}}
	e := w.refused(w.options("ssh://box"), ssh.CodeAuth, "3 times")
	if strings.Contains(e.Message, "open sesame") {
		t.Fatal(e.Message)
	}
}

// again opens connections until one works.
func again(t *testing.T, h *ssh.Host) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; {
		conn, err := h.Dial(soon(t))
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

func TestThroughAJumpHost(t *testing.T) {
	t.Parallel()
	w := machine(t, sshtest.Options{})
	jump := sshtest.Start(t, sshtest.Options{})
	outer := sshtest.Start(t, sshtest.Options{})
	w.configure(w.server.HostBlock("box", "ProxyJump jump") + jump.HostBlock("jump", "ProxyJump outer") + outer.HostBlock("outer"))
	h := w.connect()
	health(t, h)
	route(t, h, ssh.RouteForward)
	if jump.Accepted() != 1 || outer.Accepted() != 1 {
		t.Fatalf("the jump hosts saw %d and %d connections", jump.Accepted(), outer.Accepted())
	}
	outer.Cut()
	again(t, h)
	w.configure(w.server.HostBlock("box", "ProxyJump outer,jump") + jump.HostBlock("jump") + outer.HostBlock("outer"))
	health(t, w.connect())
	jump.Configure(sshtest.Options{Lines: []string{"AllowTcpForwarding no"}})
	w.refused(w.options("ssh://box"), ssh.CodeRefused, "jump host", "AllowTcpForwarding")
	w.configure(w.server.HostBlock("box", "ProxyJump jump") + jump.HostBlock("jump", "ProxyJump box"))
	w.refused(w.options("ssh://box"), ssh.CodeConfig, "jump hosts")
	w.configure(w.server.HostBlock("box", "ProxyJump gone") + "Host gone\n  HostName 127.0.0.1\n  Port 1\n")
	w.refused(w.options("ssh://box"), ssh.CodeUnreachable, "127.0.0.1:1", "sshd")
}

func TestUnknownHost(t *testing.T) {
	t.Parallel()
	w := machine(t, sshtest.Options{})
	known := filepath.Join(w.server.Dir, "new", "known")
	block := func(lines ...string) {
		text := w.server.HostBlock("box", lines...)
		w.configure(strings.ReplaceAll(text, w.server.KnownHosts, known))
	}
	block()
	w.refused(w.options("ssh://box"), ssh.CodeUnknownHost, "not known", "SHA256:", "ssh -p")
	w.prompt = &person{answers: map[string][]string{"not known": {"no"}}}
	w.refused(w.options("ssh://box"), ssh.CodeUnknownHost, "not accepted")
	if _, err := os.Stat(known); err == nil {
		t.Fatal("it was kept all the same")
	}
	block("StrictHostKeyChecking yes")
	w.prompt = &person{answers: map[string][]string{"not known": {"yes"}}}
	w.refused(w.options("ssh://box"), ssh.CodeUnknownHost, "StrictHostKeyChecking")
	block("HashKnownHosts yes")
	h := w.connect()
	health(t, h)
	if text := readFile(t, known); !strings.HasPrefix(text, "|1|") || strings.Count(text, "\n") != 1 {
		t.Fatalf("what is kept is %q", text)
	}
	w.prompt = nil
	health(t, w.connect()) // now it is known
	if err := os.Remove(known); err != nil {
		t.Fatal(err)
	}
	block("StrictHostKeyChecking accept-new", "HashKnownHosts no")
	health(t, w.connect())
	if text := readFile(t, known); !strings.HasPrefix(text, "[127.0.0.1]:") {
		t.Fatalf("what is kept is %q", text)
	}
}

func TestChangedHost(t *testing.T) {
	t.Parallel()
	w := machine(t, sshtest.Options{})
	h := w.connect()
	health(t, h)
	w.server.NewHostKeys()
	w.prompt = &person{answers: map[string][]string{"": {"yes", "yes"}}}
	for _, strict := range []string{"ask", "accept-new", "no"} {
		w.configure(w.server.HostBlock("box", "StrictHostKeyChecking "+strict))
		w.refused(w.options("ssh://box"), ssh.CodeChangedHost, "HAS CHANGED", "ssh-keygen -f "+w.server.KnownHosts+" -R '[127.0.0.1]")
	}
	// The one that was connected does not take it either.
	w.server.Cut()
	for deadline := time.Now().Add(limit); ; {
		_, err := h.Dial(soon(t))
		if err != nil && strings.Contains(err.Error(), "HAS CHANGED") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-time.After(50 * time.Millisecond)
	}
	revoked := strings.Fields(w.server.HostKeys()[0])
	writeFile(t, w.server.KnownHosts, "@revoked * "+revoked[1]+" "+revoked[2]+"\n"+w.server.HostKeys()[0]+"\n")
	w.refused(w.options("ssh://box"), ssh.CodeRevokedHost, "REVOKED")
}

// A machine with several keys of which one is known is known.
func TestOneOfSeveralHostKeys(t *testing.T) {
	t.Parallel()
	w := machine(t, sshtest.Options{HostKeys: []string{"ed25519", "ecdsa", "rsa"}})
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		for _, line := range w.server.HostKeys() {
			if strings.Contains(line, kind) {
				writeFile(t, w.server.KnownHosts, "# a comment\nnot a line\n"+line)
			}
		}
		health(t, w.connect())
	}
}

func TestSocketsAreNotForwarded(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"", "echo Welcome to this machine; echo >&2 and so on\n"} {
		w := machine(t, sshtest.Options{Lines: []string{"AllowStreamLocalForwarding no"}})
		writeFile(t, filepath.Join(w.server.Home, ".bashrc"), shell)
		if shell == "" {
			w.refused(w.options("ssh://box"), ssh.CodeNoHanzod, "AllowStreamLocalForwarding", "install hanzod", w.daemon.Socket())
		}
		w.install()
		h := w.connect()
		health(t, h)
		route(t, h, ssh.RouteStdio)
		if n := w.server.Accepted(); n > 2 {
			t.Fatalf("it made %d connections", n)
		}
	}
}

func TestPorts(t *testing.T) {
	t.Parallel()
	w := machine(t, sshtest.Options{})
	w.install()
	ask := func(h *ssh.Host, port int) {
		t.Helper()
		conn, err := h.DialPort(soon(t), port)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		exchange(t, conn, "GET /health HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK")
	}
	port := 0
	if _, err := fmt.Sscanf(w.daemon.Addr(), "127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	h := w.connect()
	ask(h, 0)
	ask(h, port)
	route(t, h, ssh.RouteForward)
	if _, err := h.DialPort(soon(t), 1); err == nil || !strings.Contains(err.Error(), "port 1 ") {
		t.Fatal(err)
	}
	w.server.Configure(sshtest.Options{Lines: []string{"AllowTcpForwarding no"}, Env: map[string]string{"HANZOD_STATE_DIR": w.daemon.StateDir}})
	h = w.connect()
	ask(h, 0)
	ask(h, port)
	if _, err := h.DialPort(soon(t), 1); err == nil || !strings.Contains(err.Error(), "port 1 ") {
		t.Fatal(err)
	}
	route(t, h, ssh.RouteStdio) // OpenSSH takes it for sockets too
}

func TestByTheUsersProgram(t *testing.T) {
	t.Parallel()
	w := machine(t, sshtest.Options{})
	w.install()
	proxy := fmt.Sprintf("ProxyCommand ssh -F none -i %s -o UserKnownHostsFile=%s -W %%h:%%p -p %d %s@127.0.0.1", w.server.Key, w.server.KnownHosts, w.server.Port, w.server.User)
	for _, line := range []string{proxy, "Match exec \"true\"\n", "Ciphers aes256-gcm@openssh.com"} {
		block := w.server.HostBlock("box", line)
		if strings.HasPrefix(line, "Match") {
			block = line + w.server.HostBlock("box")
		}
		w.configure(block)
		h := w.connect()
		health(t, h)
		route(t, h, ssh.RouteProgram)
		conn, err := h.DialPort(soon(t), 0)
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, conn, "GET /health HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK")
		conn.Close()
		closes(t, h)
	}
	o := w.options("ssh://box")
	o.Program = "no-such-ssh"
	w.refused(o, ssh.CodeProgram, "install OpenSSH")
	w.configure(w.server.HostBlock("box", "ProxyCommand false"))
	w.refused(w.options("ssh://box"), ssh.CodeProgram, "by hand: ssh box")
	w.configure(w.server.HostBlock("box", proxy))
	if err := os.RemoveAll(filepath.Join(w.server.Home, ".local")); err != nil {
		t.Fatal(err)
	}
	w.refused(w.options("ssh://box"), ssh.CodeNoHanzod, "hanzod is not found")
}

func TestNoDaemonThere(t *testing.T) {
	t.Parallel()
	w := machine(t, sshtest.Options{Env: map[string]string{"HANZOD_STATE_DIR": ""}})
	e := w.refused(w.options("ssh://box"), ssh.CodeNoDaemon, "service install", filepath.Join(w.server.Home, ".hanzo/hanzod"))
	if e.Class != client.Unavailable {
		t.Fatalf("its class is %s", e.Class)
	}
	// It can be named.
	o := w.options("ssh://box")
	o.StateDir = w.daemon.StateDir
	health(t, w.connectTo(o))
	o = w.options("ssh://box")
	o.Socket = w.daemon.Socket()
	health(t, w.connectTo(o))
	o.Socket = filepath.Join(w.server.Home, ".bashrc")
	writeFile(t, o.Socket, "")
	w.refused(o, ssh.CodeForeign, "no socket")
	// By hanzod there it is the same.
	w.install()
	w.server.Configure(sshtest.Options{Lines: []string{"AllowStreamLocalForwarding no"}})
	o = w.options("ssh://box")
	o.StateDir = w.daemon.StateDir
	h := w.connectTo(o)
	health(t, h)
	route(t, h, ssh.RouteStdio)
	if err := w.daemon.Stop(); err != nil {
		t.Fatal(err)
	}
	_, err := h.Dial(soon(t))
	if err == nil || !strings.Contains(err.Error(), "no daemon answers") {
		t.Fatal(err)
	}
}

func TestMaxSessions(t *testing.T) {
	t.Parallel()
	w := machine(t, sshtest.Options{Lines: []string{"MaxSessions 1", "AllowStreamLocalForwarding no"}})
	w.install()
	h := w.connect()
	for range 4 {
		conn, err := h.Dial(soon(t))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		exchange(t, conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", "\x00\x00")
	}
	if n := w.server.Accepted(); n != 4 {
		t.Fatalf("four programs run on %d connections", n)
	}
	ctx := soon(t)
	var last error
	for range 8 {
		conn, err := h.Dial(ctx)
		if last = err; err != nil {
			break
		}
		defer conn.Close()
	}
	if last == nil || !strings.Contains(last.Error(), "MaxSessions") {
		t.Fatal(last)
	}
}

func TestCutConnection(t *testing.T) {
	t.Parallel()
	w := machine(t, sshtest.Options{})
	h := w.connect()
	c := health(t, h)
	for range 3 {
		w.server.Cut()
		answers(t, c)
	}
	w.server.Down()
	_, err := c.System.GetHealth(soon(t), &systemv1.GetHealthRequest{})
	if err == nil {
		t.Fatal("it answers")
	}
	w.server.Up()
	answers(t, c)
	closes(t, h)
	if _, err := h.Dial(soon(t)); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Fatal(err)
	}
}

// answers waits until the daemon answers again, without anybody's help.
func answers(t *testing.T, c *client.Client) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		if _, err = c.System.GetHealth(soon(t), &systemv1.GetHealthRequest{}); err == nil {
			return
		}
		<-time.After(50 * time.Millisecond)
	}
	t.Fatal(err)
}

// A link that swallows everything is noticed within two heartbeats.
func TestSilentLink(t *testing.T) {
	t.Parallel()
	w := machine(t, sshtest.Options{})
	w.configure(w.server.HostBlock("box", "ServerAliveInterval 1"))
	h := w.connect()
	conn, err := h.Dial(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// Idle for longer than that it lives on.
	ended := make(chan time.Time, 1)
	go func() {
		_, _ = conn.Read(make([]byte, 1<<10)) // the daemon's first frame
		for {
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				ended <- time.Now()
				return
			}
		}
	}()
	select {
	case <-ended:
		t.Fatal("a quiet link is taken for a dead one")
	case <-time.After(3 * time.Second):
	}
	at := time.Now()
	w.server.Freeze()
	select {
	case end := <-ended:
		if took := end.Sub(at); took > 2*time.Second+500*time.Millisecond {
			t.Fatalf("it took %s", took)
		}
	case <-time.After(limit):
		t.Fatal("nobody notices")
	}
	again(t, h)
}

// Who vouches for machines and for users may be an authority.
func TestCertificates(t *testing.T) {
	t.Parallel()
	w := machine(t, sshtest.Options{})
	dir := w.server.Dir
	sign := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(soon(t), "ssh-keygen", append([]string{"-q", "-s", filepath.Join(dir, "ca"), "-I", "test"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	sshtest.KeyPair(t, filepath.Join(dir, "ca"), "ed25519", "")
	user := filepath.Join(dir, "user")
	sshtest.KeyPair(t, user, "ecdsa", "")
	sign("-h", "-n", "127.0.0.1", filepath.Join(dir, "host_ed25519.pub"))
	sign("-n", w.server.User, user+".pub")
	w.server.Configure(sshtest.Options{
		Lines: []string{"HostCertificate " + filepath.Join(dir, "host_ed25519-cert.pub"), "TrustedUserCAKeys " + filepath.Join(dir, "ca.pub")},
		Env:   map[string]string{"HANZOD_STATE_DIR": w.daemon.StateDir},
	})
	w.configure(strings.ReplaceAll(w.server.HostBlock("box"), w.server.Key, user))
	ca := readFile(t, filepath.Join(dir, "ca.pub"))
	writeFile(t, w.server.KnownHosts, "@cert-authority [127.0.0.1]:* "+ca)
	health(t, w.connect())
	if !strings.Contains(w.progress(), "-CERT-") {
		t.Fatalf("the machine showed no certificate:\n%s", w.progress())
	}
	writeFile(t, w.server.KnownHosts, "@cert-authority [127.0.0.1]:* "+ca+"@revoked * "+ca)
	w.refused(w.options("ssh://box"), ssh.CodeChangedHost, "revoked")
	// The certificate of another machine is none.
	sign("-h", "-n", "elsewhere", filepath.Join(dir, "host_ed25519.pub"))
	writeFile(t, w.server.KnownHosts, "@cert-authority [127.0.0.1]:* "+ca)
	w.refused(w.options("ssh://box"), ssh.CodeChangedHost, "certificate", "does not hold")
	// Without the authority the machine is known by its plain key.
	writeFile(t, w.server.KnownHosts, w.server.HostKeys()[0]+"\n")
	for _, line := range w.server.HostKeys() {
		if strings.Contains(line, " ssh-ed25519 ") {
			writeFile(t, w.server.KnownHosts, line+"\n")
		}
	}
	health(t, w.connect())
	// And without its certificate the user is not let in.
	if err := os.Remove(user + "-cert.pub"); err != nil {
		t.Fatal(err)
	}
	w.refused(w.options("ssh://box"), ssh.CodeAuth, user, "ssh-copy-id")
}

// A path that is too long for a socket is reached by the short name that the daemon took.
func TestLongPath(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "hz")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	long := filepath.Join(dir, strings.Repeat("long", 20), strings.Repeat("er", 20))
	if err := os.MkdirAll(long, 0o700); err != nil {
		t.Fatal(err)
	}
	d := hanzodtest.Start(t, hanzodtest.Options{StateDir: long})
	if strings.HasPrefix(d.Socket(), dir) {
		t.Fatalf("%s is not short", d.Socket())
	}
	w := machine(t, sshtest.Options{Env: map[string]string{"HANZOD_STATE_DIR": long}})
	h := w.connect()
	health(t, h)
	route(t, h, ssh.RouteForward)
	// Nobody else's socket is taken for it.
	if os.Geteuid() != 0 {
		return
	}
	fake := filepath.Join(dir, "fake")
	if err := os.Mkdir(fake, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(fake, "hanzod.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := w.options("ssh://box")
	o.StateDir = fake
	for _, path := range []string{filepath.Join(fake, "hanzod.sock"), fake} {
		if err := os.Chown(path, 12345, -1); err != nil {
			t.Fatal(err)
		}
		w.refused(o, ssh.CodeForeign, "belongs to user 12345", "nothing was sent")
		if err := os.Chown(path, 0, -1); err != nil {
			t.Fatal(err)
		}
	}
}

// An account that runs no programs is still reached when the socket is named.
func TestAccountWithoutAShell(t *testing.T) {
	t.Parallel()
	w := machine(t, sshtest.Options{Lines: []string{`ForceCommand echo "no logins here"; exit 1`}})
	w.refused(w.options("ssh://box"), ssh.CodeRefused, "did not connect")
	o := w.options("ssh://box")
	o.Socket = w.daemon.Socket()
	h := w.connectTo(o)
	health(t, h)
	route(t, h, ssh.RouteForward)
	w.server.Configure(sshtest.Options{Lines: []string{"MaxSessions 0"}})
	health(t, w.connectTo(o))
	w.refused(w.options("ssh://box"), ssh.CodeRefused, "MaxSessions")
}
