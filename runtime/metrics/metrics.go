// Package metrics counts what the daemon does and shows it in the Prometheus text format.
//
// It alone imports the Prometheus library; no type of that library leaves it, so other packages
// declare the small interface they need. It imports ops and owns no goroutine. All methods may be
// called concurrently and, after the first call for a set of labels, allocate nothing.
package metrics

import (
	"log/slog"
	"maps"
	"net/http"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/hanzoai/hanzod/ops"
)

// Limits of the page.
const (
	// maxScrapes is how many readers are served at once: one scraper, one person, one to spare.
	// Further ones are answered 503.
	maxScrapes = 3
	// scrapeTimeout ends a scrape whose collectors hang.
	scrapeTimeout = 10 * time.Second
	// other is the label of an operation that the catalogue does not know, so that callers cannot
	// make new time series by inventing names.
	other = "other"
)

// buckets are the bounds of request durations in seconds: from a local read to a slow node.
var buckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .1, .25, 1, 5, 30}

// Gauges are read at each scrape. Every function is safe for concurrent use; a nil one reads 0.
type Gauges struct {
	LegacyConnections func() int
	// OutboundHeld is the bytes that wait to be sent to slow readers.
	OutboundHeld     func() int
	NodesConnected   func() int
	NodesKnown       func() int
	ApprovalsPending func() int
}

// Metrics is the set of the daemon's metrics.
type Metrics struct {
	registry *prometheus.Registry
	tunnels  *prometheus.Registry // of tunnels alone
	details  *prometheus.Registry // of single tunnels
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	dropped  *prometheus.CounterVec
	lines    [4]prometheus.Counter

	// operations maps each full RPC name and legacy name to its label; streams have no duration
	// that says anything.
	operations map[string]operation

	mu   sync.Mutex // held to add to seen
	seen atomic.Pointer[map[key]handles]
}

type operation struct {
	label  string
	stream bool
}

type key struct{ door, op, class string }

type handles struct {
	total    prometheus.Counter
	duration prometheus.Observer // nil for streams
}

// New returns the metrics of a daemon of the given version.
func New(version string, catalogue *ops.Catalogue, g Gauges) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		tunnels:  prometheus.NewRegistry(),
		details:  prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hanzod_requests_total",
			Help: "Requests answered, by door, operation and class of the outcome.",
		}, []string{"door", "operation", "class"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "hanzod_requests_duration_seconds",
			Help:    "Time from request to answer, by door and operation. Streams are left out.",
			Buckets: buckets,
		}, []string{"door", "operation"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hanzod_events_dropped_total",
			Help: "Events left out because their reader was too slow, by door.",
		}, []string{"door"}),
		operations: map[string]operation{},
	}
	lines := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hanzod_log_lines_total",
		Help: "Lines logged, by level.",
	}, []string{"level"})
	for i, level := range []string{"debug", "info", "warn", "error"} {
		m.lines[i] = lines.WithLabelValues(level)
	}
	for _, door := range []string{"grpc", "rest", "legacy"} {
		m.dropped.WithLabelValues(door)
	}
	for _, op := range catalogue.All() {
		o := operation{label: op.Name(), stream: op.Delivery == ops.Stream}
		if op.Method != "" {
			m.operations[op.Method] = o
		}
		if op.Legacy != "" {
			m.operations[op.Legacy] = o
		}
	}
	m.seen.Store(&map[key]handles{})
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "hanzod_build_info",
		Help: "Always 1; the labels say what runs.",
	}, []string{"version", "go"})
	build.WithLabelValues(version, goruntime.Version()).Set(1)

	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build, m.requests, m.duration, m.dropped, lines,
		gauge("hanzod_outbound_held_bytes", "Bytes that wait to be sent to clients and streams.", g.OutboundHeld),
		gauge("hanzod_legacy_connections", "Open connections of the legacy WebSocket door.", g.LegacyConnections),
		gauge("hanzod_nodes_connected", "Nodes that are connected.", g.NodesConnected),
		gauge("hanzod_nodes_known", "Nodes that are connected or paired.", g.NodesKnown),
		gauge("hanzod_approvals_pending", "Approvals that wait for a decision.", g.ApprovalsPending),
	)
	return m
}

func gauge(name, help string, read func() int) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
		if read == nil {
			return 0
		}
		return float64(read())
	})
}

// Observe counts one answered request. op is a full RPC name or a legacy name; one that is not in
// the catalogue counts as "other". class is the class of the outcome, "ok" for success.
func (m *Metrics) Observe(door, op, class string, d time.Duration) {
	o, known := m.operations[op]
	if !known {
		o = operation{label: other}
	}
	k := key{door, o.label, class}
	h, ok := (*m.seen.Load())[k]
	if !ok {
		h = m.add(k, o.stream)
	}
	h.total.Inc()
	if h.duration != nil {
		h.duration.Observe(d.Seconds())
	}
}

// add resolves the handles of a set of labels on first use. The map is replaced, never changed, so
// that readers need no lock; it grows to the number of operations times doors and classes in use.
func (m *Metrics) add(k key, stream bool) handles {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := maps.Clone(*m.seen.Load())
	h, ok := next[k]
	if !ok {
		h.total = m.requests.WithLabelValues(k.door, k.op, k.class)
		if !stream {
			h.duration = m.duration.WithLabelValues(k.door, k.op)
		}
		next[k] = h
		m.seen.Store(&next)
	}
	return h
}

// EventsDropped counts events that a door left out for a slow reader.
func (m *Metrics) EventsDropped(door string, n uint64) {
	m.dropped.WithLabelValues(door).Add(float64(n))
}

// LogLine counts a line of the log.
func (m *Metrics) LogLine(level slog.Level) {
	switch {
	case level < slog.LevelInfo:
		m.lines[0].Inc()
	case level < slog.LevelWarn:
		m.lines[1].Inc()
	case level < slog.LevelError:
		m.lines[2].Inc()
	default:
		m.lines[3].Inc()
	}
}

// Handler serves the page. It asks nobody who they are: the door in front of it does.
func (m *Metrics) Handler() http.Handler { return page(m.registry) }
