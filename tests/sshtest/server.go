package sshtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// privsep is the directory without which an sshd of root does not start; Debian makes it at boot.
	privsep = "/run/sshd"
	// endWait bounds how long processes may take to end when the test does.
	endWait = 5 * time.Second
	// stepTime bounds one of the small commands.
	stepTime = 20 * time.Second
)

// Options say what kind of server it is.
type Options struct {
	// Lines are lines of sshd_config. They come first, and the first value of a keyword is the one
	// that holds: "AllowStreamLocalForwarding no", "MaxSessions 1". SetEnv is taken: use Env.
	Lines []string
	// Env is set in every session. HOME is the Home of the server when it is not named here.
	Env map[string]string
	// HostKeys are the kinds of its host keys, as ssh-keygen -t takes them; ed25519 when there are none.
	HostKeys []string
}

// Server is a running server.
type Server struct {
	// Host and Port are where it listens, User is who can log in.
	Host string
	Port int
	User string
	// Dir is a directory of its own, Home the home directory of its sessions, empty at first.
	Dir, Home string
	// Key is the file of the private key that is let in; its public half is beside it, in Key + ".pub".
	Key string
	// KnownHosts is a file that holds the keys of the server.
	KnownHosts string

	t      testing.TB
	sshd   string
	config string
	logs   string

	mu       sync.Mutex
	listener net.Listener
	sessions map[*session]bool
	served   sync.WaitGroup
	accepted int
	ended    bool
}

// session is the process that serves a connection.
type session struct{ cmd *exec.Cmd }

// Start starts a server that ends with the test. It skips the test where no sshd runs.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	sshd := find(t)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "sd") // short: the path of a socket below it has to fit
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &Server{
		Host: "127.0.0.1", User: me.Username, Dir: dir, Home: filepath.Join(dir, "home"),
		Key: filepath.Join(dir, "id"), KnownHosts: filepath.Join(dir, "known_hosts"),
		t: t, sshd: sshd, config: filepath.Join(dir, "sshd_config"), logs: filepath.Join(dir, "log"),
		sessions: map[*session]bool{},
	}
	if err := os.Mkdir(s.Home, 0o700); err != nil {
		t.Fatal(err)
	}
	KeyPair(t, s.Key, "ed25519", "")
	pub := read(t, s.Key+".pub")
	write(t, filepath.Join(dir, "authorized_keys"), pub)
	s.configure(o)
	s.listen("127.0.0.1:0")
	s.know()
	t.Cleanup(s.end)
	return s
}

// find returns the path of sshd, which wants to be called by its full path.
func find(t testing.TB) string {
	t.Helper()
	if goruntime.GOOS == "windows" {
		t.Skip("sshd on Windows serves no connection that somebody else accepted")
	}
	path, err := exec.LookPath("sshd")
	if err != nil {
		path = "/usr/sbin/sshd" // not in the search path of ordinary users
		if _, err := os.Stat(path); err != nil {
			t.Skip("there is no sshd here (Debian: openssh-server)")
		}
	}
	if path, err = filepath.Abs(path); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("there is no ssh-keygen here (Debian: openssh-client)")
	}
	if os.Geteuid() == 0 {
		// Without an init nobody has made it. It is empty and belongs to root, so it does no harm.
		if err := os.MkdirAll(privsep, 0o755); err != nil {
			t.Skipf("sshd of root needs %s: %v", privsep, err)
		}
		if _, err := user.Lookup("sshd"); err != nil {
			t.Skip("sshd of root needs the user sshd, which its package makes")
		}
	}
	return path
}

// configure writes sshd_config and the host keys, and lets sshd check them.
func (s *Server) configure(o Options) {
	s.t.Helper()
	kinds := o.HostKeys
	if len(kinds) == 0 {
		kinds = []string{"ed25519"}
	}
	env := map[string]string{"HOME": s.Home}
	maps.Copy(env, o.Env)
	var b strings.Builder
	for _, line := range o.Lines {
		fmt.Fprintln(&b, line)
	}
	for _, kind := range kinds {
		path := filepath.Join(s.Dir, "host_"+kind)
		if _, err := os.Stat(path); err != nil {
			KeyPair(s.t, path, kind, "")
		}
		fmt.Fprintln(&b, "HostKey", path)
	}
	b.WriteString("SetEnv")
	for _, name := range slices.Sorted(maps.Keys(env)) {
		fmt.Fprintf(&b, " \"%s=%s\"", name, env[name])
	}
	fmt.Fprintf(&b, `
AuthorizedKeysFile %s
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
UseDNS no
PrintMotd no
PidFile none
LogLevel VERBOSE
`, filepath.Join(s.Dir, "authorized_keys"))
	write(s.t, s.config, b.String())
	if out, err := command(s.sshd, "-t", "-f", s.config); err != nil {
		if strings.Contains(out, "Bad configuration option") || strings.Contains(out, "line ") {
			s.t.Fatalf("sshd refuses its configuration: %v\n%s", err, out)
		}
		s.t.Skipf("sshd does not run here: %v\n%s", err, out)
	}
}

// Configure changes the configuration for connections from now on. Host keys of kinds that were there stay.
func (s *Server) Configure(o Options) {
	s.t.Helper()
	s.configure(o)
	s.know()
}

// NewHostKeys gives the server other host keys, as a machine set up anew has, and leaves KnownHosts alone.
func (s *Server) NewHostKeys() {
	s.t.Helper()
	old, err := filepath.Glob(filepath.Join(s.Dir, "host_*"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, path := range old {
		if !strings.HasSuffix(path, ".pub") {
			os.Remove(path)
			os.Remove(path + ".pub")
			KeyPair(s.t, path, strings.TrimPrefix(filepath.Base(path), "host_"), "")
		}
	}
}

// HostKeys are the public host keys, one line of known_hosts each.
func (s *Server) HostKeys() []string {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.Dir, "host_*.pub"))
	if err != nil {
		s.t.Fatal(err)
	}
	var lines []string
	for _, f := range files {
		words := strings.Fields(read(s.t, f))
		lines = append(lines, fmt.Sprintf("[%s]:%d %s %s", s.Host, s.Port, words[0], words[1]))
	}
	return lines
}

func (s *Server) know() {
	write(s.t, s.KnownHosts, strings.Join(s.HostKeys(), "\n")+"\n")
}

// Authorize lets in the public key in a file too.
func (s *Server) Authorize(pub string) {
	s.t.Helper()
	path := filepath.Join(s.Dir, "authorized_keys")
	write(s.t, path, read(s.t, path)+read(s.t, pub))
}

// Addr is host:port.
func (s *Server) Addr() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

// Address is ssh://user@host:port.
func (s *Server) Address() string { return "ssh://" + s.User + "@" + s.Addr() }

// HostBlock is a block of ssh_config by which the server can be reached as alias. Lines come first.
func (s *Server) HostBlock(alias string, lines ...string) string {
	all := append(slices.Clone(lines), "HostName "+s.Host, "Port "+strconv.Itoa(s.Port), "User "+s.User,
		"IdentityFile "+s.Key, "UserKnownHostsFile "+s.KnownHosts, "GlobalKnownHostsFile /dev/null")
	return "Host " + alias + "\n  " + strings.Join(all, "\n  ") + "\n"
}

// ClientHome makes a home directory for whoever connects, with a ~/.ssh that holds this as its config, and
// returns its path. It is removed with the test.
func (s *Server) ClientHome(config string) string {
	s.t.Helper()
	home, err := os.MkdirTemp(s.Dir, "client")
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		s.t.Fatal(err)
	}
	write(s.t, filepath.Join(home, ".ssh", "config"), config)
	return home
}

func (s *Server) listen(addr string) {
	s.t.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	s.Port = l.Addr().(*net.TCPAddr).Port
	s.served.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.serve(conn)
		}
	})
}

// serve gives a connection to an sshd of its own.
func (s *Server) serve(conn net.Conn) {
	f, err := conn.(*net.TCPConn).File()
	if err != nil {
		conn.Close()
		return
	}
	cmd := exec.Command(s.sshd, "-i", "-f", s.config, "-E", s.logs)
	cmd.Stdin, cmd.Stdout = f, f
	cmd.SysProcAttr = apart()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		conn.Close()
		f.Close()
		return
	}
	s.accepted++
	err = cmd.Start()
	f.Close()
	if err != nil {
		conn.Close()
		return
	}
	// The connection is closed here at once: the process alone has it now.
	conn.Close()
	p := &session{cmd: cmd}
	s.sessions[p] = true
	s.served.Go(func() {
		_ = cmd.Wait() // a client that goes away makes it fail
		s.mu.Lock()
		delete(s.sessions, p)
		s.mu.Unlock()
	})
}

// Connections is how many connections are open, Accepted how many there have been.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// Accepted is how many connections there have been.
func (s *Server) Accepted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

// Cut ends every connection at once, as a server that falls over does. New ones are served.
func (s *Server) Cut() { s.signal(kill) }

// Freeze stops the processes of every open connection without ending them, as a link does that drops every
// packet: nothing is answered and nothing is closed. New connections are served. Thaw wakes them up again.
func (s *Server) Freeze() { s.signal(stop) }

// Thaw lets frozen connections go on.
func (s *Server) Thaw() { s.signal(cont) }

func (s *Server) signal(f func(pid int)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.sessions {
		f(p.cmd.Process.Pid)
	}
}

// Down ends every connection and stops listening; Up listens again at the same port.
func (s *Server) Down() {
	s.mu.Lock()
	l := s.listener
	s.mu.Unlock()
	l.Close()
	s.Cut()
}

// Up listens again after Down.
func (s *Server) Up() {
	s.t.Helper()
	s.listen(s.Addr())
}

// Log is what the server has logged.
func (s *Server) Log() string {
	text, err := os.ReadFile(s.logs)
	if err != nil {
		return ""
	}
	return string(text)
}

func (s *Server) end() {
	s.mu.Lock()
	s.ended = true
	l := s.listener
	s.mu.Unlock()
	l.Close()
	s.signal(kill)
	done := make(chan struct{})
	go func() {
		s.served.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(endWait):
		s.t.Errorf("the processes of sshd did not end within %s", endWait)
	}
	if s.t.Failed() {
		s.t.Logf("what sshd logged:\n%s", s.Log())
	}
}

// KeyPair makes a key of a kind ("ed25519", "rsa", "ecdsa"), encrypted when there is a passphrase.
func KeyPair(t testing.TB, path, kind, passphrase string) {
	t.Helper()
	if out, err := command("ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-a", "1", "-C", "test", "-f", path); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
}

// Agent starts an ssh-agent that holds the keys in some files, and returns the path of its socket. It ends
// with the test, which is skipped where there is no ssh-agent.
func Agent(t testing.TB, keys ...string) string {
	t.Helper()
	program, err := exec.LookPath("ssh-agent")
	if err != nil {
		t.Skip("there is no ssh-agent here (Debian: openssh-client)")
	}
	dir, err := os.MkdirTemp("", "sa")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "agent")
	// The agent lives as long as cat does, which ends when its input does: with this process at the latest.
	cmd := exec.Command(program, "-a", socket, "cat")
	cmd.SysProcAttr = apart()
	var out bytes.Buffer
	cmd.Stderr, cmd.WaitDelay = &out, time.Second
	hold, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		hold.Close()
		kill(cmd.Process.Pid) // the group, with the agent itself
		_ = cmd.Wait()        // it was killed
		os.RemoveAll(dir)
	})
	for deadline := time.Now().Add(stepTime); ; {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("ssh-agent does not answer: %s", out.String())
		}
		<-time.After(5 * time.Millisecond)
	}
	for _, key := range keys {
		ctx, cancel := context.WithTimeout(context.Background(), stepTime)
		add := exec.CommandContext(ctx, "ssh-add", "-q", key)
		add.Env, add.WaitDelay = append(os.Environ(), "SSH_AUTH_SOCK="+socket), time.Second
		text, err := add.CombinedOutput()
		cancel()
		if err != nil {
			t.Fatalf("ssh-add: %v\n%s", err, text)
		}
	}
	return socket
}

func command(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), stepTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func read(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
