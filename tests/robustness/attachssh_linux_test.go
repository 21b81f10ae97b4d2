package robustness

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// sshd starts an SSH server at a station whose sessions find the daemon of the station, and lets another
// station in as "box". It skips the test where there is none.
func (s *station) sshd(guest *station) {
	t := s.w.t
	t.Helper()
	bin, err := exec.LookPath("sshd")
	if err != nil {
		bin = "/usr/sbin/sshd"
		if _, err := os.Stat(bin); err != nil {
			t.Skip("needs sshd, of Debian's openssh-server")
		}
	}
	// Debian makes it at boot, and a server of root does not start without.
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Skip(err)
	}
	for _, key := range []string{s.home + "/hostkey", guest.home + "/id"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
			t.Skipf("needs ssh-keygen, of Debian's openssh-client: %v %s", err, out)
		}
	}
	public := func(path string) string {
		text, err := os.ReadFile(path + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	keys := s.file("authorized_keys", public(guest.home+"/id"))
	config := s.file("sshd_config", strings.Join([]string{
		"ListenAddress " + s.addr, "Port 22", "HostKey " + s.home + "/hostkey", "AuthorizedKeysFile " + keys, "StrictModes no", "UsePAM no",
		"PidFile none", "PermitRootLogin yes", "PasswordAuthentication no", "SetEnv HANZOD_STATE_DIR=" + s.home, "ClientAliveInterval 5", "",
	}, "\n"))
	server := s.run(nil, bin, "-D", "-e", "-f", config)
	proc.Until(t, "sshd listens", func() bool { return server.Ended() || strings.Contains(server.Stderr.String(), "Server listening") })
	if server.Ended() {
		t.Skipf("sshd does not start here: %s", server.Stderr)
	}
	known := guest.file("known_hosts", s.addr+" "+public(s.home+"/hostkey"))
	guest.file(".ssh/config", fmt.Sprintf("Host box\n HostName %s\n User root\n IdentityFile %s/id\n UserKnownHostsFile %s\n", s.addr, guest.home, known))
}

// TestSilentSSH: an attachment by SSH and a watch over it notice within two heartbeats that the network went
// silent, and are back by themselves within seconds of its return. A heartbeat of SSH is 5 s (client/ssh).
func TestSilentSSH(t *testing.T) {
	longOnly(t)
	for name, away := range map[string]time.Duration{"brief": 0, "long": time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWires(t)
			d, o := w.station(), w.station()
			d.daemon(fmt.Sprintf(`{gateway: {auth: {mode: "token", token: %q}}}`, proc.Token))
			d.sshd(o)
			ctl := proc.Build(t, "hanzoctl", proc.Tested)
			env := []string{"SSH_AUTH_SOCK="}
			attach := o.run(env, ctl, "attach", "ssh://box", "-o", "jsonl")
			watch := o.run(env, ctl, "--host", "ssh://box", "events")
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("attach: %s%s\nwatch: %s%s", attach.Stdout, attach.Stderr, watch.Stdout, watch.Stderr)
				}
			})
			proc.Until(t, "both are there", func() bool {
				return strings.Contains(attach.Stdout.String(), `"attached"`) && strings.Contains(watch.Stderr.String(), "ssh://box")
			})
			time.Sleep(2 * time.Second) // the watch follows
			began := time.Now()
			o.cut()
			noticed := map[string]time.Duration{}
			notice := func(who string, ok func() bool) {
				t.Helper()
				proc.UntilFor(t, twoHeartbeats+pollSlack-time.Since(began), who+" notices", ok)
				noticed[who] = time.Since(began).Round(100 * time.Millisecond)
			}
			notice("attach", func() bool { return strings.Contains(attach.Stdout.String(), `"lost"`) })
			notice("watch", func() bool { return strings.Contains(watch.Stderr.String(), "is away") })
			t.Logf("noticed after %v", noticed)
			time.Sleep(away)
			o.join()
			began = time.Now()
			proc.UntilFor(t, backTime, "attach is back", func() bool { return strings.Contains(attach.Stdout.String(), `"resumed"`) })
			proc.UntilFor(t, backTime-time.Since(began), "the watch is back", func() bool { return strings.Contains(watch.Stderr.String(), "is back") })
			t.Logf("back after %v", time.Since(began))
			if c := o.run(env, ctl, "--host", "ssh://box", "health").Wait(t, proc.Patience); c.Code != 0 {
				t.Errorf("%d: %s", c.Code, c.Stderr)
			}
		})
	}
}
