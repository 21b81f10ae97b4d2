//go:build unix

package acceptance

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>custom</type><listen>unix:path=BUS</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/><allow user="*"/></policy></busconfig>
`

// avahi runs an avahi-daemon on a bus of its own and returns what browses with it.
func avahi(t *testing.T) func() string {
	t.Helper()
	for _, name := range []string{"dbus-daemon", "avahi-daemon", "avahi-browse"} {
		if _, err := exec.LookPath(name); err != nil {
			notHere(t, "H23", name+" is not installed")
		}
	}
	if os.Getuid() != 0 {
		notHere(t, "H23", "avahi-daemon is started by root only")
	}
	dir := proc.Dir(t)
	bus := filepath.Join(dir, "bus")
	for name, text := range map[string]string{
		"bus.conf":   strings.Replace(busConfig, "BUS", bus, 1),
		"avahi.conf": "[server]\nuse-ipv4=yes\nuse-ipv6=no\n[publish]\ndisable-publishing=yes\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll("/run/avahi-daemon", 0o755); err != nil {
		notHere(t, "H23", err.Error())
	}
	env := []string{"DBUS_SYSTEM_BUS_ADDRESS=unix:path=" + bus}
	proc.Run(t, dir, "dbus-daemon", env, "--nofork", "--config-file="+filepath.Join(dir, "bus.conf"))
	proc.Until(t, "the bus is there", func() bool { _, err := os.Stat(bus); return err == nil })
	a := proc.Run(t, dir, "avahi-daemon", env, "--no-drop-root", "--no-chroot", "--no-rlimits", "-f", filepath.Join(dir, "avahi.conf"))
	proc.Until(t, "avahi is there", func() bool { return a.Ended() || strings.Contains(a.Stderr.String(), "Server startup complete") })
	if a.Ended() {
		notHere(t, "H23", "avahi-daemon does not run: "+strings.TrimSpace(a.Stderr.String()))
	}
	return func() string {
		return proc.Run(t, dir, "avahi-browse", env, "-rtp", "_hanzo._tcp").Wait(t, 20*time.Second).Stdout.String()
	}
}

func TestH23MDNS(t *testing.T) {
	accept(t, "H23")
	browse := avahi(t)
	gateway := object{"bind": "lan", "auth": object{"mode": "token", "token": proc.Token}}
	quiet := proc.Start(t, proc.Options{Config: object{"gateway": gateway}})
	if out := browse(); strings.Contains(out, ";"+strconv.Itoa(quiet.Port)+";") {
		t.Errorf("without being told to, it announces itself: %s", out)
	}
	quiet.Stop()
	d := proc.Start(t, proc.Options{Config: object{"gateway": gateway, "discovery": object{"mdns": object{"mode": "minimal"}}}})
	out := ""
	proc.UntilFor(t, 30*time.Second, "it is found", func() bool {
		out = browse()
		return strings.Contains(out, `"gatewayPort=`+strconv.Itoa(d.Port)+`"`)
	})
	for _, want := range []string{`"kind=hanzod"`, `"v=1"`, `"tls=0"`, `"path=/v1/tunnel"`} {
		if !strings.Contains(out, want) {
			t.Errorf("%s is missing in %s", want, out)
		}
	}
	resolved := false
	for line := range strings.Lines(out) {
		f := strings.Split(line, ";")
		resolved = resolved || len(f) > 8 && f[0] == "=" && strings.Count(f[7], ".") == 3 && f[8] != "0"
	}
	if !resolved {
		t.Errorf("no address and port in %s", out)
	}
}
