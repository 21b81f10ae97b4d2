package runtime

import (
	"github.com/hanzoai/hanzod/compat/hanzotunnel"
	"github.com/hanzoai/hanzod/tunnel/links"
)

// makeLinks makes the door for instances that link to this daemon.
func (d *Daemon) makeLinks() error {
	log := d.subsystem("links")
	memory, err := links.Open(d.store, d.now, log)
	if err != nil {
		return err
	}
	d.links = hanzotunnel.New(hanzotunnel.Config{
		Identity: d.identity, Nodes: d.nodes, Memory: memory, Bus: d.bus, Peers: d.peers, Log: log,
		Settings: func() hanzotunnel.Settings {
			t := d.current().Tunnel
			return hanzotunnel.Settings{SessionURL: t.SessionURL, PerTenant: t.MaxPerTenant}
		},
	})
	return nil
}
