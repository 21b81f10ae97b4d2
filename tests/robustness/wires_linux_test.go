package robustness

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// wires is a network of its own: a switch, and machines that are wired to it. Nothing of it reaches the
// network of this machine.
type wires struct {
	t      *testing.T
	prefix string
	n      int
}

// station is a machine on it.
type station struct {
	w        *wires
	ns, port string // port is its end of the wire at the switch
	addr     string
	home     string // of who works there
}

func ipRun(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// newWires makes one, or skips the test where that is not allowed.
func newWires(t *testing.T) *wires {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs the program ip, of Debian's iproute2")
	}
	w := &wires{t: t, prefix: fmt.Sprintf("hzw%d-%d-", os.Getpid(), rand.IntN(1<<20))}
	if err := w.namespace("switch"); err != nil {
		t.Skipf("no network namespace here: %v", err)
	}
	if err := ipRun("-n", w.prefix+"switch", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"); err != nil {
		t.Skipf("no bridge between networks here: %v", err)
	}
	w.do("-n", w.prefix+"switch", "link", "set", "br0", "up")
	return w
}

func (w *wires) do(args ...string) {
	w.t.Helper()
	if err := ipRun(args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *wires) namespace(name string) error {
	if err := ipRun("netns", "add", w.prefix+name); err != nil {
		return err
	}
	w.t.Cleanup(func() {
		if err := ipRun("netns", "del", w.prefix+name); err != nil { // the wires go with it
			w.t.Error(err)
		}
	})
	return ipRun("-n", w.prefix+name, "link", "set", "lo", "up")
}

// station adds a machine.
func (w *wires) station() *station {
	w.t.Helper()
	w.n++
	s := &station{
		w: w, ns: w.prefix + strconv.Itoa(w.n), port: "w" + strconv.Itoa(w.n), home: proc.Dir(w.t),
		// Of the network that is kept for benchmarks (RFC 2544), so of nobody's.
		addr: fmt.Sprintf("198.18.0.%d", w.n),
	}
	if err := w.namespace(strconv.Itoa(w.n)); err != nil {
		w.t.Fatal(err)
	}
	sw := w.prefix + "switch"
	w.do("link", "add", "eth0", "netns", s.ns, "type", "veth", "peer", "name", s.port, "netns", sw)
	w.do("-n", sw, "link", "set", s.port, "master", "br0", "up")
	w.do("-n", s.ns, "addr", "add", s.addr+"/24", "dev", "eth0")
	w.do("-n", s.ns, "link", "set", "eth0", "up")
	return s
}

// cut takes the station's wire off the switch: whatever it sends vanishes there. It sees a network that is
// up, and hears nothing.
func (s *station) cut() {
	s.w.t.Helper()
	s.w.do("-n", s.w.prefix+"switch", "link", "set", s.port, "nomaster")
}

// join undoes cut.
func (s *station) join() {
	s.w.t.Helper()
	s.w.do("-n", s.w.prefix+"switch", "link", "set", s.port, "master", "br0")
}

// move gives the station another address.
func (s *station) move(addr string) {
	s.w.t.Helper()
	s.w.do("-n", s.ns, "addr", "del", s.addr+"/24", "dev", "eth0")
	s.w.do("-n", s.ns, "addr", "add", addr+"/24", "dev", "eth0")
	s.addr = addr
}

// run starts a program there.
func (s *station) run(env []string, bin string, args ...string) *proc.Command {
	s.w.t.Helper()
	return proc.RunGroup(s.w.t, s.home, "ip", env, nil, append([]string{"netns", "exec", s.ns, bin}, args...)...)
}

// file writes a file of who works there.
func (s *station) file(name, text string) string {
	s.w.t.Helper()
	path := filepath.Join(s.home, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		s.w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.w.t.Fatal(err)
	}
	return path
}

// daemon starts a daemon there and waits until it is ready.
func (s *station) daemon(config string, env ...string) *proc.Command {
	s.w.t.Helper()
	c := s.run(env, proc.Build(s.w.t, "hanzod", proc.Tested), "run", "--state-dir", s.home, "--config", s.file("config.json", config))
	proc.Until(s.w.t, "the daemon is ready", func() bool { return c.Ended() || strings.Contains(c.Stderr.String(), "hanzod is ready") })
	if c.Ended() {
		s.w.t.Fatalf("the daemon ended with %d: %s", c.Code, c.Stderr)
	}
	return c
}
