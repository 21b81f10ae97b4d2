package runtime

import (
	"context"
	"net"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/client/discover"
	"github.com/hanzoai/hanzod/tunnel"
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
		samples := make([]metrics.Sample, len(heapSamples))
		for i, name := range heapSamples {
			samples[i].Name = name
		}
		metrics.Read(samples)
		m.total = 0
		for _, s := range samples {
			if s.Value.Kind() == metrics.KindUint64 {
				m.total += s.Value.Uint64()
			}
		}
		m.used = 0
		if samples[0].Value.Kind() == metrics.KindUint64 {
			m.used = samples[0].Value.Uint64()
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
