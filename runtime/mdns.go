package runtime

import (
	"net/netip"
	"os/user"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/hanzoai/hanzod/client/discover"
)

// anonymous is the name of a machine whose own would name its user.
const anonymous = "hanzod"

// announcement is what the local network hears of this daemon, if anything: the setting
// discovery.mdns.mode says so. Mode minimal leaves out the version and SSH. A daemon that only this
// machine reaches is announced in mode full alone, as a machine to attach to over SSH: without that, the
// network would learn of a port that it cannot use (protocol.md §1.5).
func (d *Daemon) announcement() (discover.Announcement, discover.Options, bool) {
	log := d.subsystem("discovery")
	o := discover.Options{Log: log}
	mode := d.cfg.Discovery.MDNS
	if mode != "minimal" && mode != "full" {
		return discover.Announcement{}, o, false
	}
	full := mode == "full"
	if d.loopback && !full {
		log.Info("the daemon is not announced: only this machine reaches it; set gateway.bind for others, or discovery.mdns.mode to full to be found for SSH")
		return discover.Announcement{}, o, false
	}
	a := discover.Announcement{Name: publicName(machineName(), accountName()), Port: d.Port(), TLS: d.cfg.Gateway.TLS.Enabled}
	if d.canvasOn() {
		a.CanvasPort = a.Port
	}
	if full {
		a.Version, a.SSHPort = Version, d.cfg.Discovery.SSHPort
	}
	if d.loopback {
		return a, o, true // the SSH server is reached at every address
	}
	if d.far != nil {
		if ap, err := netip.ParseAddrPort(d.far.Addr().String()); err == nil && !ap.Addr().IsLoopback() {
			a.GRPCPort = int(ap.Port())
		}
	}
	a.Fingerprint = d.TLSFingerprint()
	var hosts []netip.Addr
	for _, l := range d.tcp {
		if ap, err := netip.ParseAddrPort(l.Addr().String()); err == nil {
			hosts = append(hosts, ap.Addr().Unmap())
		}
	}
	o.Reach = func(at netip.Addr) bool { return reaches(hosts, at) }
	return a, o, true
}

// reaches says whether one of the listeners answers at an address of this machine.
func reaches(hosts []netip.Addr, at netip.Addr) bool {
	for _, h := range hosts {
		if h == at || h.IsUnspecified() && h.Is4() == at.Is4() {
			return true
		}
	}
	return false
}

// publicName is what everybody may know as the name of this machine: its host name, unless that tells
// the name of the account, as those that systems make up do ("annas-laptop").
func publicName(machine, account string) string {
	letters := func(s string) string {
		return strings.Map(func(r rune) rune {
			if unicode.IsLetter(r) || unicode.IsDigit(r) {
				return unicode.ToLower(r)
			}
			return -1
		}, s)
	}
	// Accounts of services are no people.
	who := letters(account)
	switch {
	case who == "" || who == "root" || who == "hanzo" || who == "hanzod":
		return machine
	case strings.Contains(letters(machine), who):
		return anonymous
	}
	return machine
}

// accountName is the name of the account that runs the daemon, "" where it has none.
func accountName() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	// On Windows a domain stands before it.
	return filepath.Base(strings.ReplaceAll(u.Username, `\`, "/"))
}
