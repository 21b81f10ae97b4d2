package runtime

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/compat/hanzotunnel"
	"github.com/hanzoai/hanzod/compat/hoody"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/nodes/host/agent"
	"github.com/hanzoai/hanzod/tunnel/uplinks"
)

// uplinksDir keeps what the uplinks keep, in the state directory.
const uplinksDir = "uplinks"

// openUplinks makes the uplinks of this daemon. None runs before Run.
func (d *Daemon) openUplinks() {
	d.uplinks = uplinks.New(uplinks.Config{List: d.listUplinks, Run: d.runUplink, Now: d.now})
}

// listUplinks reads them from the configuration in force.
func (d *Daemon) listUplinks() map[string]uplinks.Entry {
	out := map[string]uplinks.Entry{}
	for _, u := range d.current().Uplinks {
		e := uplinks.Entry{Uplink: uplinks.Uplink{
			Name: u.Name, URL: bareURL(u.URL), InstanceID: uplinkID(u), AppKind: u.AppKind, DisplayName: uplinkDisplay(u), Enabled: u.Enabled, Reconnect: u.Reconnect,
		}}
		// The token counts by what it is: a pointer to a text is compared by its text.
		e.Mark = u
		out[u.Name] = e
	}
	return out
}

// bareURL is an address without what may be a secret in it.
func bareURL(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

func uplinkID(u config.Uplink) string {
	if u.InstanceID != "" {
		return u.InstanceID
	}
	return machineName() + "-" + u.Name
}

func uplinkDisplay(u config.Uplink) string {
	if u.DisplayName != "" {
		return u.DisplayName
	}
	return machineName()
}

// runUplink keeps one linked until ctx ends. What runs for it is decided by the exec approvals file of this machine.
func (d *Daemon) runUplink(ctx context.Context, name string, tell func(uplinks.Report)) error {
	all := d.current().Uplinks
	i := slices.IndexFunc(all, func(u config.Uplink) bool { return u.Name == name })
	if i < 0 {
		return errs.New(errs.NotFound, "the uplink is gone from the configuration")
	}
	u, log := all[i], d.subsystem("uplink").With("uplink", name)
	at, err := url.Parse(u.URL)
	if err != nil || at.User != nil || at.RawQuery != "" {
		return errs.New(errs.Invalid, "the address of the uplink is to be ws(s)://host[:port]/path, without a token: say token beside it")
	}
	dir := filepath.Join(d.cfg.StateDir, uplinksDir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	o := NodeOptions{
		StateDir: dir, Workspace: workspaceOf(NodeOptions{StateDir: dir, Current: d.current}), Security: d.nodeSecurity, Ask: d.nodeAsk, Current: d.current,
		Companion: d.companion, DisplayName: uplinkDisplay(u), NoDevice: true, Tunnel: &TunnelOptions{NoReconnect: !u.Reconnect},
		OnState: func(s host.State) {
			tell(uplinks.Report{Phase: uplinks.Phase(s.Phase), Err: s.Err, RetryIn: s.RetryIn})
		},
	}
	tls, err := instanceTLS(u.CAFile)
	if err != nil {
		return err
	}
	n := &nodeHost{o: o, cfg: &dial.NodeConfig{NodeID: uplinkID(u), DisplayName: o.DisplayName}, log: log, now: d.now}
	technician := n.frames
	if u.Commands != nil && !slices.Contains(u.Commands, techOpen) {
		technician = nil // the server gets what is listed, and no other way around that
	}
	dialler, err := hanzotunnel.NewDialler(hanzotunnel.DialOptions{
		URL: u.URL, Token: u.Token.Reveal(), AllowInsecure: u.AllowInsecure, Fingerprint: u.Fingerprint, TLS: tls, Commands: u.Commands, Log: log,
		Carry: func(ctx context.Context, version string) (host.Carrier, error) {
			return carryTo(ctx, u.URL, u.Token.Reveal(), version, hoody.DialOptions{AllowInsecure: u.AllowInsecure, Fingerprint: u.Fingerprint, TLS: tls})
		},
		Technician: technician,
		Instance: hanzotunnel.Instance{
			ID: uplinkID(u), AppKind: u.AppKind, DisplayName: o.DisplayName, Version: Version, Platform: agent.BridgePlatform(), Cwd: o.Workspace,
			Capabilities: capsOf(o.Security),
		},
		OnRegistered: func(_, view string) { tell(uplinks.Report{SessionURL: view}) },
	})
	if err != nil {
		return err
	}
	n.skills = newSkillBins(n.now)
	if n.file, err = nodePolicy(filepath.Join(d.cfg.StateDir, policyFileName), o, n.skills, log); err != nil {
		return err
	}
	if err := n.open(); err != nil {
		return err
	}
	defer n.close()
	err = n.serveInstance(ctx, dialler)
	if err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		log.Warn("the uplink has ended", "err", err)
	}
	return err
}
