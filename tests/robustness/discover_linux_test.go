package robustness

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// sent is how many datagrams left a station since it exists.
func (s *station) sent() int {
	s.w.t.Helper()
	out, err := exec.Command("ip", "netns", "exec", s.ns, "cat", "/proc/net/snmp", "/proc/net/snmp6").Output()
	if err != nil {
		s.w.t.Fatal(err)
	}
	n, column := 0, -1
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		switch {
		case len(f) > 1 && f[0] == "Udp:" && column < 0:
			for i, name := range f {
				if name == "OutDatagrams" {
					column = i
				}
			}
		case len(f) > column && f[0] == "Udp:", len(f) == 2 && f[0] == "Udp6OutDatagrams":
			text := f[1]
			if f[0] == "Udp:" {
				text = f[column]
			}
			more, err := strconv.Atoi(text)
			if err != nil {
				s.w.t.Fatalf("%q", line)
			}
			n += more
		}
	}
	return n
}

type discovered struct {
	Daemons []struct {
		Name, Kind, Host               string
		ThisMachine, TLS               bool
		Addresses                      []struct{ Address, Interface string }
		GatewayPort, GRPCPort, SSHPort int
		URL, Version                   string
		Unproved                       string `json:"unprovedTlsFingerprint"`
	}
	Interfaces []string
}

// TestDiscover: a daemon is silent unless told otherwise, is then found from another machine with what
// it takes to reach it and nothing else, and is gone when it stops.
func TestDiscover(t *testing.T) {
	t.Parallel()
	w := newWires(t)
	a, b := w.station(), w.station()
	hanzod, ctl := proc.Build(t, "hanzod", proc.Tested), proc.Build(t, "hanzoctl", proc.Tested)
	find := func() (out discovered, raw string) {
		t.Helper()
		c := b.run(nil, ctl, "discover", "--wait", "1500ms", "-o", "json").Wait(t, proc.Patience)
		if c.Code != 0 {
			t.Fatalf("%d: %s", c.Code, c.Stderr)
		}
		if err := json.Unmarshal([]byte(c.Stdout.String()), &out); err != nil {
			t.Fatal(err)
		}
		return out, c.Stdout.String()
	}
	config := func(bind, mdns string) string {
		return fmt.Sprintf(`{gateway: {bind: %q, auth: {mode: "token", token: %q}}%s}`, bind, proc.Token, mdns)
	}
	const quiet = 1200 * time.Millisecond // longer than the first announcement takes
	for _, silent := range []struct {
		config string
		env    []string
	}{
		{config("lan", ""), nil},
		{config("lan", `, discovery: {mdns: {mode: "off"}}`), nil},
		{config("loopback", `, discovery: {mdns: {mode: "minimal"}}`), nil},
		{config("lan", `, discovery: {mdns: {mode: "full"}}`), []string{"OPENCLAW_DISABLE_BONJOUR=1"}},
	} {
		before := a.sent()
		d := a.daemon(silent.config, silent.env...)
		time.Sleep(quiet)
		if n := a.sent() - before; n != 0 {
			t.Errorf("%s %v: %d datagrams were sent", silent.config, silent.env, n)
		}
		d.End(syscall.SIGTERM)
	}
	if c := b.run(nil, ctl, "discover", "--wait", "300ms").Wait(t, proc.Patience); c.Code != 0 || !strings.Contains(c.Stderr.String(), "no daemon answered on eth0") {
		t.Errorf("%d %s", c.Code, c.Stderr)
	}

	d := a.daemon(config("lan", `, discovery: {mdns: {mode: "minimal"}}`))
	proc.Until(t, "it is announced", func() bool { return strings.Contains(d.Stderr.String(), "is announced on the local network") })
	if n := a.sent(); n == 0 {
		t.Error("the counter of datagrams counts nothing")
	}
	got, raw := find()
	pin := strings.TrimSpace(a.run(nil, hanzod, "tls", "fingerprint", "--state-dir", a.home).Wait(t, proc.Patience).Stdout.String())
	if len(got.Daemons) != 1 {
		t.Fatalf("%s", raw)
	}
	f := got.Daemons[0]
	if f.Kind != "hanzod" || f.GatewayPort != 18789 || f.GRPCPort != 18790 || f.SSHPort != 0 || f.Version != "" || f.Unproved != pin || f.ThisMachine ||
		f.URL != "hanzod://"+a.addr+":18790" || len(f.Addresses) != 1 || f.Addresses[0].Interface != "eth0" {
		t.Errorf("%s", raw)
	}
	for _, secret := range []string{proc.Token, a.home} {
		if strings.Contains(raw, secret) {
			t.Errorf("%q in %s", secret, raw)
		}
	}
	// The address that it prints is one to ask at, with a fingerprint that somebody checked.
	url := strings.TrimSpace(b.run(nil, ctl, "discover", "-q").Wait(t, proc.Patience).Stdout.String())
	if c := b.run(nil, ctl, "--host", url, "--token-file", b.file("token", proc.Token), "--tls-fingerprint", pin, "health").Wait(t, proc.Patience); c.Code != 0 {
		t.Errorf("%s: %s", url, c.Stderr)
	}
	// On its own machine it says so.
	if out := a.run(nil, ctl, "discover", "--wait", "1500ms").Wait(t, proc.Patience).Stdout.String(); !strings.Contains(out, "(this machine)") {
		t.Error(out)
	}
	follow := b.run(nil, ctl, "discover", "-f", "-o", "jsonl")
	proc.Until(t, "it is followed", func() bool { return strings.Contains(follow.Stdout.String(), `"change":"found"`) })
	if took := d.End(syscall.SIGTERM); d.Code != 0 || took > 2*time.Second {
		t.Errorf("code %d after %v", d.Code, took)
	}
	proc.Until(t, "it is gone", func() bool { return strings.Contains(follow.Stdout.String(), `"change":"gone"`) })

	// For SSH it is announced although only its own machine reaches it, and says no more than that.
	d = a.daemon(config("loopback", `, discovery: {mdns: {mode: "full"}}`), "HANZOD_SSH_PORT=2222")
	proc.Until(t, "it is announced", func() bool { return strings.Contains(d.Stderr.String(), "is announced on the local network") })
	got, raw = find()
	if len(got.Daemons) != 1 || got.Daemons[0].URL != "ssh://"+a.addr+":2222" || got.Daemons[0].GRPCPort != 0 || got.Daemons[0].Version == "" || got.Daemons[0].Unproved != "" {
		t.Error(raw)
	}
	follow.End(syscall.SIGINT)
	if follow.Code != 130 {
		t.Errorf("interrupted, it ends with %d", follow.Code)
	}
}
