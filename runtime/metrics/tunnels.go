package metrics

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Tunnels are the figures of tunnels at one moment; totals count since the start. The map keys are few and fixed:
// kinds, modes, results and codes, nothing that callers invent.
type Tunnels struct {
	// Sessions are the tunnels with a carrier, Parked those without.
	Sessions, Parked int
	// Bindings are by kind (http, tcp) and mode (expose, pull, dial).
	Bindings map[[2]string]int
	// PermitsUsed and PermitsAvailable are descriptors.
	PermitsUsed, PermitsAvailable int
	// States are the streams on carriers.
	States StreamStates
	// Streams are open now, by kind; StreamsTotal have ended, by kind and result.
	Streams      map[string]int
	StreamsTotal map[[2]string]uint64
	// BytesIn came from clients, BytesOut went to them.
	BytesIn, BytesOut uint64
	// Stall is how long senders waited for credit.
	Stall            time.Duration
	Resumes          map[string]uint64
	Takeovers, Kills uint64
	Rejected         map[string]uint64
}

// StreamStates are the streams that are in each state.
type StreamStates struct{ Opening, Open, HalfClosedLocal, HalfClosedRemote, Closing int }

// each are the states as the pages name them.
func (s StreamStates) each(put func(state string, n int)) {
	put("opening", s.Opening)
	put("open", s.Open)
	put("half_closed_local", s.HalfClosedLocal)
	put("half_closed_remote", s.HalfClosedRemote)
	put("closing", s.Closing)
}

// statesHelp is for both pages.
const statesHelp = "opening (the other end does not know of it yet), open, half_closed_local (this end has said all), half_closed_remote (the other end has), closing (ended, and not over on the wire)."

// tunnelCollector reads the figures once for each page, so that all of them are of one moment (tunnel.md §4.11).
type tunnelCollector struct {
	read func() Tunnels

	sessions, bindings, permitsUsed, permitsFree, orphans, streams, states *prometheus.Desc
	streamsTotal, bytes, stall, resumes, takeovers, kills, rejected        *prometheus.Desc
}

func newTunnelCollector(read func() Tunnels) *tunnelCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("hoody_tunnel_"+name, help, labels, nil)
	}
	return &tunnelCollector{
		read:         read,
		sessions:     desc("sessions_active", "Tunnels with a carrier."),
		bindings:     desc("bindings_active", "Bindings of tunnels, by kind and mode.", "kind", "mode"),
		permitsUsed:  desc("fd_permits_permit_count", "Descriptors that tunnels use."),
		permitsFree:  desc("fd_permits_available", "Descriptors that tunnels may still use."),
		orphans:      desc("orphans", "Tunnels that have lost their carrier and wait for it."),
		streams:      desc("streams_active", "Open streams, by kind.", "kind"),
		states:       desc("streams_by_state", "Streams on carriers by state: "+statesHelp, "state"),
		streamsTotal: desc("streams_total", "Streams that ended, by kind and result.", "kind", "result"),
		bytes:        desc("bytes_total", "Payload of streams in bytes, in from clients and out to them.", "direction"),
		stall:        desc("window_stall_seconds_total", "Time that senders waited for credit, summed over streams."),
		resumes:      desc("resumes_total", "Attempts to resume a tunnel, by result.", "result"),
		takeovers:    desc("takeovers_total", "Bindings that went to another tunnel."),
		kills:        desc("kills_total", "Tunnels that operators ended."),
		rejected:     desc("binds_rejected_total", "Bindings that were refused, by code.", "code"),
	}
}

// Describe implements prometheus.Collector.
func (t *tunnelCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		t.sessions, t.bindings, t.permitsUsed, t.permitsFree, t.orphans, t.streams, t.states, t.streamsTotal, t.bytes, t.stall, t.resumes, t.takeovers, t.kills, t.rejected,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (t *tunnelCollector) Collect(ch chan<- prometheus.Metric) {
	f := t.read()
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	gauge(t.sessions, f.Sessions)
	gauge(t.orphans, f.Parked)
	// The two series of the original are always there (tunnel.md §4.11).
	bindings := withZero(f.Bindings, [2]string{"http", "expose"}, [2]string{"tcp", "pull"})
	for _, k := range keysOf(bindings, comparePairs) {
		gauge(t.bindings, bindings[k], k[0], k[1])
	}
	gauge(t.permitsUsed, f.PermitsUsed)
	gauge(t.permitsFree, f.PermitsAvailable)
	streams := withZero(f.Streams, "http", "tcp")
	for _, k := range keysOf(streams, cmp.Compare[string]) {
		gauge(t.streams, streams[k], k)
	}
	f.States.each(func(state string, n int) { gauge(t.states, n, state) })
	total := withZero(f.StreamsTotal, [2]string{"http", "ok"}, [2]string{"tcp", "ok"})
	for _, k := range keysOf(total, comparePairs) {
		counter(t.streamsTotal, float64(total[k]), k[0], k[1])
	}
	counter(t.bytes, float64(f.BytesIn), "in")
	counter(t.bytes, float64(f.BytesOut), "out")
	counter(t.stall, f.Stall.Seconds())
	resumes := withZero(f.Resumes, "resumed")
	for _, k := range keysOf(resumes, cmp.Compare[string]) {
		counter(t.resumes, float64(resumes[k]), k)
	}
	counter(t.takeovers, float64(f.Takeovers))
	counter(t.kills, float64(f.Kills))
	for _, k := range keysOf(f.Rejected, cmp.Compare[string]) {
		counter(t.rejected, float64(f.Rejected[k]), k)
	}
}

// withZero is m with zeros where it lacks some keys.
func withZero[K comparable, V any](m map[K]V, keys ...K) map[K]V {
	out := make(map[K]V, len(m)+len(keys))
	for _, k := range keys {
		var zero V
		out[k] = zero
	}
	maps.Copy(out, m)
	return out
}

func keysOf[K comparable, V any](m map[K]V, order func(a, b K) int) []K {
	out := make([]K, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.SortFunc(out, order)
	return out
}

func comparePairs(a, b [2]string) int {
	return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]))
}

// WatchTunnels adds the figures of tunnels to the page. It is called once.
func (m *Metrics) WatchTunnels(read func() Tunnels) {
	c := newTunnelCollector(read)
	m.registry.MustRegister(c)
	m.tunnels.MustRegister(c)
}

// TunnelHandler serves the figures of tunnels alone (tunnel.md §4.2). It asks nobody who they are.
func (m *Metrics) TunnelHandler() http.Handler { return page(m.tunnels) }

func page(r prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxScrapes,
		Timeout:             scrapeTimeout,
		// A local page of some kilobytes: a compressor's buffers cost more than it saves.
		DisableCompression: true,
	})
}
