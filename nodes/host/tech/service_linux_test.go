package tech_test

import (
	"bufio"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/nodes/host/tech"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// privateBus starts a bus of this test's own and returns its address.
func privateBus(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("dbus-daemon is not here (Debian: dbus-daemon)")
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "bus.conf")
	text := `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:dir=` + dir + `</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="false"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>`
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config-file="+conf, "--nofork", "--print-address=1", "--nopidfile")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it serves this test alone
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal("the bus does not say its address: ", err)
	}
	return strings.TrimSpace(line)
}

// manager answers as org.freedesktop.systemd1(5) says, on a real bus.
type manager struct {
	conn *dbus.Conn

	mu    sync.Mutex
	units map[string]*unit
	jobs  int
	calls []string
}

type unit struct{ name, active, file, text string }

type listedUnit struct {
	Name, Description, Load, Active, Sub, Followed string
	Path                                           dbus.ObjectPath
	JobID                                          uint32
	JobType                                        string
	Job                                            dbus.ObjectPath
}

type listedFile struct{ Path, State string }

func standIn(t *testing.T, address string, units ...unit) *manager {
	t.Helper()
	conn, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	m := &manager{conn: conn, units: map[string]*unit{}}
	for _, u := range units {
		m.units[u.name] = &u
	}
	const path, name = "/org/freedesktop/systemd1", "org.freedesktop.systemd1"
	if err := conn.Export(m, path, name+".Manager"); err != nil {
		t.Fatal(err)
	}
	if err := conn.ExportSubtree(properties{m}, path+"/unit", "org.freedesktop.DBus.Properties"); err != nil {
		t.Fatal(err)
	}
	if reply, err := conn.RequestName(name, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatal(reply, err)
	}
	return m
}

func pathOf(name string) dbus.ObjectPath {
	var b strings.Builder
	for _, c := range []byte(name) {
		fmt.Fprintf(&b, "_%02x", c)
	}
	return dbus.ObjectPath("/org/freedesktop/systemd1/unit/" + b.String())
}

func (m *manager) sorted() []*unit {
	var out []*unit
	for _, u := range m.units {
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b *unit) int { return cmp.Compare(b.name, a.name) })
	return out
}

func (m *manager) Subscribe() *dbus.Error   { return nil }
func (m *manager) Unsubscribe() *dbus.Error { return nil }

func (m *manager) ListUnits() (out []listedUnit, _ *dbus.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, u := range m.sorted() {
		if u.active != "" {
			out = append(out, listedUnit{Name: u.name, Description: u.text, Load: "loaded", Active: u.active, Sub: "x", Path: pathOf(u.name), Job: "/"})
		}
	}
	return out, nil
}

func (m *manager) ListUnitFiles() (out []listedFile, _ *dbus.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, u := range m.sorted() {
		out = append(out, listedFile{"/lib/systemd/system/" + u.name, u.file})
	}
	return out, nil
}

func (m *manager) LoadUnit(name string) (dbus.ObjectPath, *dbus.Error) { return pathOf(name), nil }

func (m *manager) StartUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	return m.job("start", name, mode, "active")
}

func (m *manager) StopUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	return m.job("stop", name, mode, "inactive")
}

func (m *manager) RestartUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	return m.job("restart", name, mode, "active")
}

func (m *manager) job(op, name, mode, state string) (dbus.ObjectPath, *dbus.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, op+" "+name+" "+mode)
	u := m.units[name]
	switch {
	case u == nil:
		return "", dbus.NewError("org.freedesktop.systemd1.NoSuchUnit", []any{"Unit " + name + " not found."})
	case name == "guarded.service":
		return "", dbus.NewError("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", []any{"Interactive authentication required."})
	}
	m.jobs++
	job := dbus.ObjectPath(fmt.Sprint("/org/freedesktop/systemd1/job/", m.jobs))
	result := "done"
	if name == "broken.service" {
		result, state = "failed", "failed"
	}
	u.active = state
	// The end of another job comes first, and the end of this one may come before the answer.
	for _, end := range []struct {
		job    dbus.ObjectPath
		unit   string
		result string
	}{{job + "1", "other.service", "failed"}, {job, name, result}} {
		if err := m.conn.Emit("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager.JobRemoved", uint32(m.jobs), end.job, end.unit, end.result); err != nil {
			return "", dbus.MakeFailedError(err)
		}
	}
	return job, nil
}

type properties struct{ m *manager }

func (p properties) GetAll(msg dbus.Message, _ string) (map[string]dbus.Variant, *dbus.Error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	for _, u := range p.m.units {
		if pathOf(u.name) == msg.Headers[dbus.FieldPath].Value() {
			return map[string]dbus.Variant{
				"LoadState": dbus.MakeVariant("loaded"), "ActiveState": dbus.MakeVariant(u.active), "UnitFileState": dbus.MakeVariant(u.file), "Description": dbus.MakeVariant(u.text),
			}, nil
		}
	}
	return map[string]dbus.Variant{"LoadState": dbus.MakeVariant("not-found"), "ActiveState": dbus.MakeVariant("inactive")}, nil
}

func (c *channel) call(p message.ServiceCall) (out message.ServiceResult) {
	c.Helper()
	c.say(message.TypeService, p)
	c.into(c.hear(message.TypeServiceResult), &out)
	return out
}

func TestServices(t *testing.T) {
	address := privateBus(t)
	m := standIn(t, address,
		unit{"ssh.service", "active", "enabled", "OpenBSD Secure Shell server"}, unit{"idle.service", "", "disabled", ""},
		unit{"broken.service", "inactive", "static", "Breaks"}, unit{"guarded.service", "active", "enabled-runtime", "Asks who you are"},
		unit{"getty@.service", "", "enabled", ""}, unit{"sockets.target", "active", "static", "Sockets"})
	w := newWorld(t, policy.SecurityFull, func(c *tech.Config) { c.Bus = address })
	w.open(nil)
	c := w.channel(message.Service)
	want := []message.ServiceState{
		{Name: "broken.service", State: "inactive", Description: "Breaks"},
		{Name: "guarded.service", State: "active", Enabled: true, Description: "Asks who you are"},
		{Name: "idle.service", State: "inactive"},
		{Name: "ssh.service", State: "active", Enabled: true, Description: "OpenBSD Secure Shell server"},
	}
	if got := c.call(message.ServiceCall{Op: "list"}); !slices.Equal(got.Services, want) || got.More {
		t.Errorf("list: %+v", got)
	}
	if got := c.call(message.ServiceCall{Op: "list", After: "guarded.service"}); !slices.Equal(got.Services, want[2:]) {
		t.Errorf("the rest of a list: %+v", got)
	}
	for _, tc := range []struct{ op, name, state string }{
		{"status", "ssh", "active"}, {"stop", "ssh", "inactive"}, {"status", "ssh.service", "inactive"}, {"start", "ssh.service", "active"}, {"restart", "ssh", "active"},
	} {
		got := c.call(message.ServiceCall{Op: tc.op, Name: tc.name})
		if len(got.Services) != 1 || got.Services[0].Name != "ssh.service" || got.Services[0].State != tc.state || !got.Services[0].Enabled {
			t.Errorf("%v: %+v", tc, got)
		}
	}
	for _, tc := range []struct{ op, name, code string }{
		{"start", "broken", "unavailable"}, {"stop", "guarded", "denied"}, {"start", "no-such", "not_found"}, {"status", "no-such", "not_found"},
		{"start", "", "invalid"}, {"start", "../x", "invalid"}, {"start", "a b", "invalid"}, {"start", "a\nb", "invalid"}, {"start", "ssh.service;id", "invalid"},
		{"stop", "sockets.target", "invalid"}, {"start", "ѕsh", "invalid"}, {"enable", "ssh", "invalid"}, {"", "", "invalid"},
	} {
		c.say(message.TypeService, message.ServiceCall{Op: tc.op, Name: tc.name})
		if f := c.refused(); f.Code != tc.code {
			t.Errorf("%v: %+v", tc, f)
		}
	}
	m.mu.Lock()
	calls := strings.Join(m.calls, "; ")
	m.mu.Unlock()
	if want := "stop ssh.service replace; start ssh.service replace; restart ssh.service replace; start broken.service replace; stop guarded.service replace; start no-such.service replace"; calls != want {
		t.Errorf("systemd was asked for %s", calls)
	}
}

func TestServicesForReading(t *testing.T) {
	address := privateBus(t)
	m := standIn(t, address, unit{"ssh.service", "active", "enabled", ""})
	w := newWorld(t, policy.SecurityAllowlist, func(c *tech.Config) { c.Bus = address })
	w.open(map[string]any{"read_only": true})
	c := w.channel(message.Service)
	if got := c.call(message.ServiceCall{Op: "status", Name: "ssh"}); got.Services[0].State != "active" {
		t.Errorf("%+v", got)
	}
	c.say(message.TypeService, message.ServiceCall{Op: "stop", Name: "ssh"})
	if f := c.refused(); f.Code != "denied" {
		t.Error(f)
	}
	if m.mu.Lock(); len(m.calls) > 0 {
		t.Error("systemd was asked for ", m.calls)
	}
	m.mu.Unlock()
}

// A machine with very many services lists them in several messages.
func TestManyServices(t *testing.T) {
	address := privateBus(t)
	var units []unit
	for i := range 1500 {
		units = append(units, unit{fmt.Sprintf("a-service-with-a-name-%04d.service", i), "active", "enabled", strings.Repeat("d", 100)})
	}
	standIn(t, address, units...)
	w := newWorld(t, policy.SecurityFull, func(c *tech.Config) { c.Bus = address })
	w.open(nil)
	c := w.channel(message.Service)
	n, after, rounds := 0, "", 0
	for more := true; more; rounds++ {
		got := c.call(message.ServiceCall{Op: "list", After: after})
		n, more = n+len(got.Services), got.More
		after = got.Services[len(got.Services)-1].Name
	}
	if n != len(units) || rounds < 2 {
		t.Errorf("%d services in %d messages", n, rounds)
	}
}

func TestNoSystemd(t *testing.T) {
	address := privateBus(t)
	for _, address := range []string{address, "unix:path=" + filepath.Join(t.TempDir(), "none")} {
		w := newWorld(t, policy.SecurityFull, func(c *tech.Config) { c.Bus = address })
		w.open(nil)
		c := w.channel(message.Service)
		c.say(message.TypeService, message.ServiceCall{Op: "list"})
		if f := c.refused(); f.Code != "unsupported" || f.Error == "" {
			t.Error(f)
		}
	}
}

// Where a real systemd runs, it is asked.
func TestRealSystemd(t *testing.T) {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		t.Skip("no systemd runs on this machine")
	}
	w := newWorld(t, policy.SecurityFull)
	w.open(nil)
	c := w.channel(message.Service)
	if got := c.call(message.ServiceCall{Op: "list"}); len(got.Services) == 0 {
		t.Error("no services")
	}
	c.say(message.TypeService, message.ServiceCall{Op: "start", Name: "no-such-service-at-all"})
	if f := c.refused(); f.Code != "not_found" && f.Code != "denied" {
		t.Error(f)
	}
}
