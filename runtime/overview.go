package runtime

import (
	"context"
	"net"
	"os"
	"runtime/debug"
	samples "runtime/metrics"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/client/discover"
	"github.com/hanzoai/hanzod/compat/hoody"
	"github.com/hanzoai/hanzod/gate"
	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/runtime/metrics"
	"github.com/hanzoai/hanzod/tunnel"
	"github.com/hanzoai/hanzod/tunnel/tunnels"
)

// makeOverview makes what doors tell of tunnels. Tunnels and bindings are there.
func (d *Daemon) makeOverview() {
	log := d.subsystem("discovery")
	d.overview = &tunnel.Overview{Tunnels: d.tunnels, Bindings: d.bindings, Process: d.process, Container: machineName()}
	d.neighbors = tunnel.NewNeighborhood(func(ctx context.Context) (tunnel.PeersOut, error) {
		found, err := discover.Browse(ctx, nil)
		if err != nil {
			log.Warn("the network could not be asked for other daemons", "error", err)
			return tunnel.PeersOut{}, tunnel.ErrPeersAsk
		}
		return peersOf(found), nil
	})
	d.metrics.WatchTunnels(func() metrics.Tunnels { return figures(d.tunnels.Stats()) })
	d.metrics.WatchEachTunnel(func() []metrics.Tunnel { return eachTunnel(d.tunnels.All()) })
}

// makeEndpoints makes what is asked of tunnels over HTTP.
func (d *Daemon) makeEndpoints(catalogue *ops.Catalogue, g *gate.Gate) *hoody.Endpoints {
	return hoody.NewEndpoints(hoody.EndpointsConfig{
		Tunnels: d.tunnels, Catalogue: catalogue, Gate: g, Process: d.process, Container: d.overview.Container,
		Metrics: d.metrics.TunnelHandler(), DetailedMetrics: d.metrics.DetailedTunnelHandler(), MetricsPublic: func() bool { return d.current().Tunnel.MetricsPublic },
	})
}

// figures are what the page of metrics shows of tunnels.
func figures(s tunnels.Stats) metrics.Tunnels {
	out := metrics.Tunnels{
		Sessions: s.Sessions, Parked: s.Parked, Bindings: map[[2]string]int{}, PermitsUsed: s.Permits.Used, PermitsAvailable: max(0, s.Permits.Limit-s.Permits.Used),
		States: metrics.StreamStates(s.States), Streams: s.Streams, StreamsTotal: map[[2]string]uint64{}, BytesIn: s.BytesIn, BytesOut: s.BytesOut, Stall: s.Stall, Resumes: s.Resumes,
		Takeovers: s.Takeovers, Kills: s.Kills, Rejected: s.Rejected,
	}
	for k, n := range s.Bindings {
		out.Bindings[[2]string{k.Kind, k.Mode}] = n
	}
	for k, n := range s.StreamsTotal {
		out.StreamsTotal[[2]string{k.Kind, k.Result}] = n
	}
	return out
}

// eachTunnel is what the page of metrics shows of single tunnels.
func eachTunnel(all []tunnels.Tunnel) []metrics.Tunnel {
	out := make([]metrics.Tunnel, 0, len(all))
	for _, t := range all {
		m := metrics.Tunnel{ID: t.ID, Node: t.NodeID, Protocol: t.Version, State: "open", Streams: t.Streams, States: metrics.StreamStates(t.States), BytesIn: t.BytesIn, BytesOut: t.BytesOut}
		switch {
		case t.Closing:
			m.State = "closing"
		case t.Parked:
			m.State = "parked"
		}
		for _, b := range t.Bindings {
			m.Bindings = append(m.Bindings, metrics.Binding{ID: b.ID, Kind: b.Kind, Mode: b.Mode, Streams: b.Streams, BytesIn: b.BytesIn, BytesOut: b.BytesOut})
		}
		out = append(out, m)
	}
	return out
}

func peersOf(found discover.Result) tunnel.PeersOut {
	out := tunnel.PeersOut{Dropped: found.Dropped, Networks: found.Networks}
	for _, f := range found.Daemons {
		p := tunnel.Peer{
			Name: f.Name, Host: f.Host, Legacy: f.Legacy, GatewayPort: f.GatewayPort, GRPCPort: f.GRPCPort, SSHPort: f.SSHPort,
			TLS: f.TLS, Fingerprint: f.Fingerprint, Version: f.Version,
		}
		for _, a := range f.Addresses {
			p.Addresses = append(p.Addresses, tunnel.PeerAddress{Address: a.String(), Interface: a.Interface})
		}
		out.Peers = append(out.Peers, p)
	}
	return out
}

// measureEvery is how old the figures of a process may be that are told: anybody may ask for them, and they take
// work to find.
const measureEvery = 250 * time.Millisecond

// measured are the figures of this process, which cost something to find.
type measured struct {
	mu          sync.Mutex
	at          time.Time
	rss         uint64
	total, used uint64
	descriptors int
}

// heapSamples are what the heap has from the system, and what is in use of it.
var heapSamples = []string{"/memory/classes/heap/objects:bytes", "/memory/classes/heap/unused:bytes", "/memory/classes/heap/free:bytes"}

func (m *measured) look() (rss, total, used uint64, descriptors int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); m.at.IsZero() || now.Sub(m.at) >= measureEvery {
		m.at = now
		heap := make([]samples.Sample, len(heapSamples))
		for i, name := range heapSamples {
			heap[i].Name = name
		}
		samples.Read(heap)
		m.total = 0
		for _, s := range heap {
			if s.Value.Kind() == samples.KindUint64 {
				m.total += s.Value.Uint64()
			}
		}
		m.used = 0
		if heap[0].Value.Kind() == samples.KindUint64 {
			m.used = heap[0].Value.Uint64()
		}
		m.rss, m.descriptors = residentSize(), openDescriptors()
	}
	return m.rss, m.total, m.used, m.descriptors
}

// process is what is told of this process.
func (d *Daemon) process() tunnel.Process {
	p := tunnel.Process{
		Ready: d.State() == "ready", Version: Version, Built: built(), Started: d.started, PID: os.Getpid(), Address: d.boundAddress(),
	}
	p.RSS, p.HeapTotal, p.HeapUsed, p.Descriptors = d.measured.look()
	return p
}

// boundAddress is the address at which the daemon listens, without its port.
func (d *Daemon) boundAddress() string {
	host, _, err := net.SplitHostPort(d.tcp[0].Addr().String())
	if err != nil {
		return ""
	}
	return host
}

// built is when the program was built: the time of its last change where the build says so, else that of the
// file; zero when nobody knows.
var built = sync.OnceValue(func() time.Time {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if t, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil {
				return t.UTC()
			}
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return time.Time{}
	}
	file, err := os.Stat(exe)
	if err != nil {
		return time.Time{}
	}
	return file.ModTime().UTC()
})
