package runtime

import (
	"context"
	"time"

	compattech "github.com/hanzoai/hanzod/compat/tech"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/gate"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/runtime/metrics"
	"github.com/hanzoai/hanzod/tunnel/tech"
)

// makeTechEndpoints makes what is asked of technician sessions at the paths of the original.
func (d *Daemon) makeTechEndpoints(catalogue *ops.Catalogue, g *gate.Gate) *compattech.Endpoints {
	d.metrics.WatchTech(func() metrics.Tech {
		s := d.tech.Stats()
		return metrics.Tech{Sessions: s.Sessions, Channels: s.Channels, Watchers: s.Watchers, Commands: s.Commands, Refused: s.Refused}
	})
	return compattech.New(compattech.Config{Sessions: d.tech, Catalogue: catalogue, Gate: g})
}

// makeTech makes the technician sessions. What a daemon before this one has left active is closed before anybody connects.
func (d *Daemon) makeTech() error {
	d.tech = tech.New(tech.Config{
		Settings: func() tech.Settings {
			t := d.current().Tunnel.Tech
			return tech.Settings{Enabled: t.Enabled, Idle: time.Duration(t.IdleMinutes) * time.Minute, Rate: t.CommandsPerMinute, Directories: t.Directories}
		},
		Nodes: d.techNodes(), Store: d.store, Standing: d.identity.Standing, Now: d.now, Log: d.subsystem("tech"),
	})
	d.bus.Sink(func(e events.Event) {
		p, ok := e.Payload.(identity.Ended)
		if !ok {
			return
		}
		d.tech.Revoke(p.Covers)
		if p.DeviceID != "" && p.Role == "" && p.TokenID == "" { // it was removed
			d.tech.NodeRemoved(p.DeviceID)
		}
	})
	return d.tech.Start(context.Background())
}
