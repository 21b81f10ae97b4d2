package metrics

import (
	"cmp"

	"github.com/prometheus/client_golang/prometheus"
)

// Tech are the figures of technician sessions at one moment; Commands and Refused count since the start. The keys of
// Refused are few and fixed.
type Tech struct {
	Sessions, Channels, Watchers int
	Commands                     int64
	Refused                      map[string]int64
}

// techCollector reads the figures once for each page.
type techCollector struct {
	read func() Tech

	sessions, channels, watchers, commands, refused *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (t *techCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{t.sessions, t.channels, t.watchers, t.commands, t.refused} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (t *techCollector) Collect(ch chan<- prometheus.Metric) {
	f := t.read()
	ch <- prometheus.MustNewConstMetric(t.sessions, prometheus.GaugeValue, float64(f.Sessions))
	ch <- prometheus.MustNewConstMetric(t.channels, prometheus.GaugeValue, float64(f.Channels))
	ch <- prometheus.MustNewConstMetric(t.watchers, prometheus.GaugeValue, float64(f.Watchers))
	ch <- prometheus.MustNewConstMetric(t.commands, prometheus.CounterValue, float64(f.Commands))
	refused := withZero(f.Refused, "held", "rate", "directory", "not_allowed")
	for _, k := range keysOf(refused, cmp.Compare[string]) {
		ch <- prometheus.MustNewConstMetric(t.refused, prometheus.CounterValue, float64(refused[k]), k)
	}
}

// WatchTech adds the figures of technician sessions to the page. It is called once.
func (m *Metrics) WatchTech(read func() Tech) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("hanzod_tech_"+name, help, labels, nil)
	}
	m.registry.MustRegister(&techCollector{
		read:     read,
		sessions: desc("sessions_active", "Technician sessions that hold a node."),
		channels: desc("channels_active", "Open channels of technician sessions."),
		watchers: desc("watchers", "Callers that watch technician sessions."),
		commands: desc("commands_total", "Commands and terminals that technicians began."),
		refused:  desc("refused_total", "What technicians were refused, by reason.", "reason"),
	})
}
