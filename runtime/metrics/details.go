package metrics

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// The bounds of what a page says of single tunnels and their bindings; more are left out.
const (
	maxTunnels  = 256
	maxBindings = 32
)

// Tunnel are the figures of one tunnel that is there.
type Tunnel struct {
	// ID names it, Node is the node whose it is or empty, Protocol the version it speaks.
	ID, Node, Protocol string
	// State is open, parked or closing.
	State string
	// Streams are open now.
	Streams int
	States  StreamStates
	// BytesIn came from its client, BytesOut went to it.
	BytesIn, BytesOut uint64
	Bindings          []Binding
}

// Binding are the figures of one binding of a tunnel.
type Binding struct {
	ID         int
	Kind, Mode string
	Streams    int
	BytesIn    uint64
	BytesOut   uint64
}

// detailCollector reads the tunnels once for each page. They are those of the lists; nothing is counted for it.
type detailCollector struct {
	read func() []Tunnel

	state, streams, states, bytes, bindStreams, bindBytes *prometheus.Desc
}

func newDetailCollector(read func() []Tunnel) *detailCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("hanzod_tunnel_"+name, help, labels, nil)
	}
	return &detailCollector{
		read:        read,
		state:       desc("state", "Always 1; the labels say whether the tunnel is open, parked or closing.", "tunnel", "node", "protocol", "state"),
		streams:     desc("open_streams", "Open streams of a tunnel.", "tunnel", "node", "protocol"),
		states:      desc("streams_by_state", "Streams of a tunnel by state, as far as there are any: "+statesHelp, "tunnel", "node", "protocol", "state"),
		bytes:       desc("transferred_bytes_total", "Payload of a tunnel in bytes, in from its client and out to it.", "tunnel", "node", "protocol", "direction"),
		bindStreams: desc("binding_open_streams", "Open streams of a binding.", "tunnel", "binding", "kind", "mode"),
		bindBytes:   desc("binding_transferred_bytes_total", "Payload of a binding in bytes, in from its client and out to it.", "tunnel", "binding", "kind", "mode", "direction"),
	}
}

// Describe implements prometheus.Collector.
func (c *detailCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.state, c.streams, c.states, c.bytes, c.bindStreams, c.bindBytes} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *detailCollector) Collect(ch chan<- prometheus.Metric) {
	put := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		for i := range labels {
			labels[i] = strings.ToValidUTF8(labels[i], "?") // others would end the page
		}
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	all := c.read()
	for _, t := range all[:min(len(all), maxTunnels)] {
		put(c.state, prometheus.GaugeValue, 1, t.ID, t.Node, t.Protocol, t.State)
		put(c.streams, prometheus.GaugeValue, float64(t.Streams), t.ID, t.Node, t.Protocol)
		t.States.each(func(state string, n int) {
			if n > 0 {
				put(c.states, prometheus.GaugeValue, float64(n), t.ID, t.Node, t.Protocol, state)
			}
		})
		put(c.bytes, prometheus.CounterValue, float64(t.BytesIn), t.ID, t.Node, t.Protocol, "in")
		put(c.bytes, prometheus.CounterValue, float64(t.BytesOut), t.ID, t.Node, t.Protocol, "out")
		for _, b := range t.Bindings[:min(len(t.Bindings), maxBindings)] {
			id := strconv.Itoa(b.ID)
			put(c.bindStreams, prometheus.GaugeValue, float64(b.Streams), t.ID, id, b.Kind, b.Mode)
			put(c.bindBytes, prometheus.CounterValue, float64(b.BytesIn), t.ID, id, b.Kind, b.Mode, "in")
			put(c.bindBytes, prometheus.CounterValue, float64(b.BytesOut), t.ID, id, b.Kind, b.Mode, "out")
		}
	}
}

// WatchEachTunnel adds what is said of single tunnels to the detailed pages. It is called once.
func (m *Metrics) WatchEachTunnel(read func() []Tunnel) {
	m.details.MustRegister(newDetailCollector(read))
}

// DetailedHandler serves the page of Handler with single tunnels, of all tenants.
func (m *Metrics) DetailedHandler() http.Handler {
	return page(prometheus.Gatherers{m.registry, m.details})
}

// DetailedTunnelHandler serves the page of TunnelHandler with single tunnels, of all tenants.
func (m *Metrics) DetailedTunnelHandler() http.Handler {
	return page(prometheus.Gatherers{m.tunnels, m.details})
}
