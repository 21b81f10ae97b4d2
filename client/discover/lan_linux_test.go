package discover

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// within bounds everything that a test waits for.
const within = 10 * time.Second

// lan is a switch with machines: a network namespace each. Machine i has the address 198.18.0.i on it.
type lan struct {
	t      *testing.T
	prefix string
}

// machine is one of them.
type machine struct {
	lan *lan
	ns  string
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func newLAN(t *testing.T) *lan {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs the program ip, of Debian's iproute2")
	}
	l := &lan{t: t, prefix: fmt.Sprintf("hzd%d-%d-", os.Getpid(), rand.IntN(1<<20))}
	if err := l.namespace("switch"); err != nil {
		t.Skipf("no network namespace here: %v", err)
	}
	if err := ip("-n", l.prefix+"switch", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"); err != nil {
		t.Skipf("no bridge here: %v", err)
	}
	l.do("-n", l.prefix+"switch", "link", "set", "br0", "up")
	return l
}

func (l *lan) do(args ...string) {
	l.t.Helper()
	if err := ip(args...); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lan) namespace(name string) error {
	if err := ip("netns", "add", l.prefix+name); err != nil {
		return err
	}
	l.t.Cleanup(func() {
		if err := ip("netns", "del", l.prefix+name); err != nil {
			l.t.Error(err)
		}
	})
	return ip("-n", l.prefix+name, "link", "set", "lo", "up")
}

// machine adds one with a wire to the switch.
func (l *lan) machine(i int) *machine {
	l.t.Helper()
	name := "m" + strconv.Itoa(i)
	if err := l.namespace(name); err != nil {
		l.t.Fatal(err)
	}
	m := &machine{l, l.prefix + name}
	m.wire("eth0", fmt.Sprintf("198.18.0.%d/24", i))
	return m
}

// wire adds an interface on the switch.
func (m *machine) wire(name, addr string) {
	m.lan.t.Helper()
	far := "w" + strconv.Itoa(rand.IntN(1<<30))
	sw := m.lan.prefix + "switch"
	m.lan.do("link", "add", name, "netns", m.ns, "type", "veth", "peer", "name", far, "netns", sw)
	m.lan.do("-n", sw, "link", "set", far, "master", "br0", "up")
	m.lan.do("-n", m.ns, "addr", "add", addr, "dev", name)
	m.lan.do("-n", m.ns, "link", "set", name, "up")
}

// output is what a program wrote; its methods may be called at once.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// program is one that runs on a machine.
type program struct {
	t        *testing.T
	cmd      *exec.Cmd
	out, err output
	ended    chan struct{}
}

func (m *machine) start(role string, args ...string) *program {
	t := m.lan.t
	t.Helper()
	p := &program{t: t, ended: make(chan struct{})}
	p.cmd = exec.Command("ip", append([]string{"netns", "exec", m.ns, os.Args[0], "as", role}, args...)...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	p.cmd.WaitDelay = time.Second
	// The race detector would let each program linger for a second.
	p.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended shows in what it wrote
		close(p.ended)
	}()
	t.Cleanup(p.stop)
	return p
}

// stop asks the program to end and waits for it.
func (p *program) stop() {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(within):
		_ = p.cmd.Process.Kill()
		p.t.Errorf("%v does not end", p.cmd.Args)
	}
}

// run starts a program that ends by itself.
func (m *machine) run(role string, args ...string) string {
	m.lan.t.Helper()
	p := m.start(role, args...)
	select {
	case <-p.ended:
	case <-time.After(within):
		m.lan.t.Fatalf("%s does not end", role)
	}
	if e := p.err.String(); e != "" {
		m.lan.t.Fatalf("%s: %s", role, e)
	}
	return strings.TrimSpace(p.out.String())
}

func (m *machine) advertise(a Announcement) *program {
	return m.advertiseOnly(a, "")
}

func (m *machine) advertiseOnly(a Announcement, only string) *program {
	m.lan.t.Helper()
	text, err := json.Marshal(advertised{a, only})
	if err != nil {
		m.lan.t.Fatal(err)
	}
	return m.start("advertise", string(text))
}

// last is the newest state that a browser printed.
func (p *program) last() Result {
	lines := strings.Split(strings.TrimSpace(p.out.String()), "\n")
	var r Result
	for _, l := range lines {
		if n := (Result{}); json.Unmarshal([]byte(l), &n) == nil {
			r = n
		}
	}
	return r
}

// names are the names that a browser shows, with their addresses of version 4.
func (p *program) names() string {
	var out []string
	for _, d := range p.last().Daemons {
		text := d.Name
		for _, a := range d.Addresses {
			if a.Is4() {
				text += " " + a.String()
			}
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func until(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(began)
}

// shows waits for a browser to show these names and addresses and nothing else.
func (p *program) shows(limit time.Duration, want string) time.Duration {
	p.t.Helper()
	began := time.Now()
	for p.names() != want {
		if time.Since(began) > limit {
			p.t.Fatalf("after %v it shows %q and not %q; %s", limit, p.names(), want, p.err.String())
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(began)
}

func box(name string) Announcement {
	return Announcement{Name: name, Port: 18789, GRPCPort: 18790, Fingerprint: strings.Repeat("ab", 32), TLS: true, CanvasPort: 18789}
}

// TestNeighbours: two machines find each other, both ways, with all that they say.
func TestNeighbours(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, b := l.machine(1), l.machine(2)
	a.advertise(box("first"))
	second := box("second")
	second.Version, second.SSHPort = "1.2.3", 22
	b.advertise(second)
	for _, m := range []*machine{a, b} {
		p := m.start("browse")
		t.Log("found after", p.shows(within, "first 198.18.0.1, second 198.18.0.2"))
		d := p.last().Daemons[1]
		if d.Legacy || d.Host != "second-hanzod.local" || d.GatewayPort != 18789 || d.GRPCPort != 18790 || !d.TLS || d.SSHPort != 22 ||
			d.Version != "1.2.3" || d.Fingerprint != strings.Repeat("ab", 32) {
			t.Errorf("%+v", d)
		}
		if d := p.last().Daemons[0]; d.SSHPort != 0 || d.Version != "" {
			t.Errorf("%+v", d)
		}
	}
}

// TestChanges: who follows sees an address change, a network that comes late, and the end.
func TestChanges(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, b := l.machine(1), l.machine(2)
	l.do("-n", a.ns, "link", "set", "eth0", "down")
	d := a.advertise(box("box"))
	p := b.start("browse")
	until(t, within, "it says that it waits", func() bool { return strings.Contains(d.err.String(), "waiting for one") })
	l.do("-n", a.ns, "link", "set", "eth0", "up")
	p.shows(within, "box 198.18.0.1")
	l.do("-n", a.ns, "addr", "del", "198.18.0.1/24", "dev", "eth0")
	l.do("-n", a.ns, "addr", "add", "198.18.0.9/24", "dev", "eth0")
	until(t, within, "the new address", func() bool { return strings.Contains(p.names(), "198.18.0.9") })
	p.shows(within, "box 198.18.0.9")
	// The network goes and comes back.
	l.do("-n", a.ns, "link", "set", "eth0", "down")
	until(t, within, "it says so again", func() bool { return strings.Count(d.err.String(), "waiting for one") == 2 })
	l.do("-n", a.ns, "link", "set", "eth0", "up")
	until(t, within, "it is announced again", func() bool { return strings.Count(d.err.String(), "is announced on") == 2 })
	late := b.start("browse")
	late.shows(within, "box 198.18.0.9")
	began := time.Now()
	d.stop()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the end took %v", took)
	}
	for _, p := range []*program{p, late} {
		p.shows(3*time.Second, "")
	}
	if n := strings.Count(d.err.String(), "\n"); n > 5 {
		t.Errorf("%d lines of log:\n%s", n, d.err.String())
	}
}

// TestOneNameTwice: of two machines of one name the later one, or one of two that start at once, takes
// another name; none loses what it has.
func TestOneNameTwice(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"at once", "later"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			a, b, c := l.machine(1), l.machine(2), l.machine(3)
			first := a.advertise(box("box"))
			if how == "later" {
				until(t, within, "the first is announced", func() bool { return strings.Contains(first.err.String(), "is announced on") })
			}
			b.advertise(box("box"))
			p := c.start("browse")
			until(t, within, "both are there", func() bool { return len(p.last().Daemons) == 2 })
			time.Sleep(2 * time.Second)
			if got := p.names(); got != "box (2) 198.18.0.2, box 198.18.0.1" && (how == "later" || got != "box (2) 198.18.0.1, box 198.18.0.2") {
				t.Errorf("%s: %q", how, got)
			}
			ds := p.last().Daemons
			if len(ds) != 2 || ds[0].Host == ds[1].Host {
				t.Errorf("%+v", ds)
			}
		})
	}
}

// TestTwoOnOneMachine: two daemons of one machine have two names and one host.
func TestTwoOnOneMachine(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, b := l.machine(1), l.machine(2)
	one, two := box("box"), box("box")
	two.Port = 28789
	a.advertise(one)
	a.advertise(two)
	p := b.start("browse")
	until(t, within, "both are there", func() bool { return len(p.last().Daemons) == 2 })
	time.Sleep(2 * time.Second)
	if got := p.names(); got != "box (2) 198.18.0.1, box 198.18.0.1" {
		t.Error(got)
	}
}

// TestTwoWiresToOneNetwork: a machine that hears itself on its other interface does not take itself for
// another one, also while its addresses change.
func TestTwoWiresToOneNetwork(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, b := l.machine(1), l.machine(2)
	a.wire("eth1", "198.18.0.11/24")
	d := a.advertise(box("box"))
	p := b.start("browse")
	until(t, within, "both addresses", func() bool {
		return strings.Contains(p.names(), "198.18.0.11") && strings.Contains(p.names(), "198.18.0.1 ")
	})
	l.do("-n", a.ns, "addr", "del", "198.18.0.11/24", "dev", "eth1")
	l.do("-n", a.ns, "addr", "add", "198.18.0.12/24", "dev", "eth1")
	until(t, within, "the new address", func() bool { return strings.Contains(p.names(), "198.18.0.12") })
	time.Sleep(2 * time.Second)
	if log := d.err.String(); strings.Count(log, "is announced on") != 1 || strings.Contains(log, "(2)") {
		t.Error(log)
	}
	if len(p.last().Daemons) != 1 || p.last().Daemons[0].Name != "box" {
		t.Errorf("%+v", p.last())
	}
}

// TestNeighboursOnly: who is not on the network gets no answer, and a network where the daemon is not
// reached hears nothing of it.
func TestNeighboursOnly(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, b := l.machine(1), l.machine(2)
	// A network behind b, and another wire between a and b.
	if err := l.namespace("far"); err != nil {
		t.Fatal(err)
	}
	far := &machine{l, l.prefix + "far"}
	l.do("link", "add", "eth0", "netns", far.ns, "type", "veth", "peer", "name", "eth9", "netns", b.ns)
	l.do("link", "add", "eth1", "netns", a.ns, "type", "veth", "peer", "name", "eth1", "netns", b.ns)
	for _, w := range [][3]string{{far.ns, "eth0", "198.18.9.1/24"}, {b.ns, "eth9", "198.18.9.2/24"}, {a.ns, "eth1", "198.18.7.1/24"}, {b.ns, "eth1", "198.18.7.2/24"}} {
		l.do("-n", w[0], "addr", "add", w[2], "dev", w[1])
		l.do("-n", w[0], "link", "set", w[1], "up")
	}
	l.do("-n", far.ns, "route", "add", "default", "via", "198.18.9.2")
	l.do("-n", a.ns, "route", "add", "198.18.9.0/24", "via", "198.18.0.2")
	if out, err := exec.Command("ip", "netns", "exec", b.ns, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward").CombinedOutput(); err != nil {
		t.Skipf("no forwarding here: %s", out)
	}
	if err := exec.Command("ip", "netns", "exec", far.ns, "ping", "-c1", "-W2", "198.18.0.1").Run(); err != nil {
		t.Logf("the way from far is not proved: %v", err)
	}
	p := b.start("listen")
	d := a.advertiseOnly(box("box"), "198.18.0.1")
	until(t, within, "it is announced", func() bool { return strings.Contains(d.err.String(), "is announced on") })
	if n := b.run("ask", "198.18.0.1"); n == "0" {
		t.Error("a neighbour is not answered")
	}
	if n := far.run("ask", "198.18.0.1"); n != "0" {
		t.Errorf("a stranger from afar is answered with %s bytes", n)
	}
	if n := b.run("ask", "198.18.7.1"); n != "0" {
		t.Errorf("where the daemon is not reached, %s bytes are answered", n)
	}
	until(t, within, "the announcements", func() bool { return strings.Count(p.out.String(), "198.18.0.1 true") >= announcements })
	if out := p.out.String(); strings.Contains(out, "198.18.7.1") {
		t.Errorf("heard on the other network:\n%s", out)
	}
}

// TestTheirs: another implementation finds ours, and ours finds a gateway that another one announces.
func TestTheirs(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, b := l.machine(1), l.machine(2)
	d := a.advertise(box("Box (of three), no. 7"))
	until(t, within, "it is announced", func() bool { return strings.Contains(d.err.String(), "is announced on") })
	for kind, want := range map[string]string{
		Service: `"kind":"hanzod"`, Legacy: `"gatewayTlsSha256":"` + strings.Repeat("ab", 32) + `"`,
	} {
		p := b.start("their-browse", kind)
		until(t, within, "they find "+kind, func() bool {
			out := p.out.String()
			return strings.Contains(out, want) && strings.Contains(out, "198.18.0.1") && strings.Contains(out, `"Port":18789`)
		})
	}
	b.start("their-advertise", "an older one")
	p := a.start("browse")
	p.shows(within, "an older one 198.18.0.2, Box (of three), no  7 198.18.0.1")
	if d := p.last().Daemons[0]; !d.Legacy || d.GatewayPort != 18789 || !d.TLS || d.SSHPort != 22 || d.GRPCPort != 0 {
		t.Errorf("%+v", d)
	}
}

// TestHostile: a flood of answers costs a bounded amount and hides nobody, and one who claims every name
// makes no noise in the log.
func TestHostile(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, b, c := l.machine(1), l.machine(2), l.machine(3)
	b.start("flood")
	p := c.start("browse")
	until(t, within, "the flood is seen", func() bool { return p.last().Dropped })
	d := a.advertise(box("box"))
	until(t, within, "the true one is seen", func() bool { return strings.HasSuffix(p.names(), "box 198.18.0.1") })
	if n := len(p.last().Daemons); n > maxPerSender+1 {
		t.Errorf("%d daemons", n)
	}
	for _, d := range p.last().Daemons {
		if d.Fingerprint == "zz" || len(d.Addresses) > maxAddresses {
			t.Errorf("%+v", d)
		}
	}
	thief := b.start("thief", "box")
	time.Sleep(3 * time.Second)
	if n := strings.Count(d.err.String(), "\n"); n > 4 {
		t.Errorf("%d lines of log:\n%s", n, d.err.String())
	}
	thief.stop()
	late := c.start("browse")
	until(t, within, "it is back", func() bool { return strings.Contains(late.names(), "198.18.0.1") })
}

// TestNothingStays: starting and stopping leaves no goroutine.
func TestNothingStays(t *testing.T) {
	t.Parallel()
	l := newLAN(t)
	a, b := l.machine(1), l.machine(2)
	b.start("flood")
	if got := a.run("churn"); got != "0 more" {
		t.Errorf("%s goroutines", got)
	}
}
