package metrics_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/runtime/metrics"
)

const (
	health = "/hanzo.system.v1.SystemService/GetHealth"
	watch  = "/hanzo.nodes.v1.NodeService/WatchNodes"
)

func newMetrics(tb testing.TB) *metrics.Metrics {
	tb.Helper()
	catalogue, err := ops.Load()
	if err != nil {
		tb.Fatal(err)
	}
	return metrics.New("1.2.3", catalogue, metrics.Gauges{NodesConnected: func() int { return 7 }})
}

func page(t *testing.T, m *metrics.Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	b, err := io.ReadAll(w.Body)
	if err != nil || w.Code != http.StatusOK {
		t.Fatalf("status %d, %v", w.Code, err)
	}
	return string(b)
}

// The names are what dashboards hold on to: this list is the contract.
func TestNames(t *testing.T) {
	m := newMetrics(t)
	m.Observe("grpc", health, "ok", time.Millisecond)
	var names []string
	for _, l := range regexp.MustCompile(`(?m)^# TYPE (hanzod_\S+ \S+)$`).FindAllStringSubmatch(page(t, m), -1) {
		names = append(names, l[1])
	}
	want := []string{
		"hanzod_approvals_pending gauge",
		"hanzod_build_info gauge",
		"hanzod_events_dropped_total counter",
		"hanzod_legacy_connections gauge",
		"hanzod_log_lines_total counter",
		"hanzod_nodes_connected gauge",
		"hanzod_nodes_known gauge",
		"hanzod_outbound_held_bytes gauge",
		"hanzod_requests_duration_seconds histogram",
		"hanzod_requests_total counter",
	}
	if !slices.Equal(names, want) {
		t.Errorf("names\n%s\nwant\n%s", strings.Join(names, "\n"), strings.Join(want, "\n"))
	}
	for _, name := range []string{"go_goroutines", "process_start_time_seconds"} {
		if !strings.Contains(page(t, m), "\n"+name+" ") {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestValues(t *testing.T) {
	m := newMetrics(t)
	m.Observe("grpc", health, "ok", time.Millisecond)
	m.Observe("legacy", "health", "ok", time.Millisecond) // the same operation by its other name
	m.Observe("rest", watch, "canceled", time.Hour)
	m.Observe("legacy", "made up by a client", "denied", 0)
	m.Observe("legacy", "made up too", "denied", 0)
	m.EventsDropped("grpc", 3)
	for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError, slog.LevelError + 4} {
		m.LogLine(l)
	}
	got := page(t, m)
	for _, line := range []string{
		`hanzod_requests_total{class="ok",door="grpc",operation="health"} 1`,
		`hanzod_requests_total{class="ok",door="legacy",operation="health"} 1`,
		`hanzod_requests_total{class="canceled",door="rest",operation="` + watch + `"} 1`,
		`hanzod_requests_total{class="denied",door="legacy",operation="other"} 2`,
		`hanzod_requests_duration_seconds_count{door="grpc",operation="health"} 1`,
		`hanzod_events_dropped_total{door="grpc"} 3`,
		`hanzod_events_dropped_total{door="rest"} 0`,
		`hanzod_log_lines_total{level="error"} 2`,
		`hanzod_log_lines_total{level="debug"} 1`,
		`hanzod_nodes_connected 7`,
		`hanzod_approvals_pending 0`,
	} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	if strings.Contains(got, "made up") {
		t.Error("a client made a time series of its own")
	}
	if strings.Contains(got, `hanzod_requests_duration_seconds_count{door="rest"`) {
		t.Error("a stream has a duration")
	}
}

func TestObserveAllocatesNothing(t *testing.T) {
	m := newMetrics(t)
	observe := func() { m.Observe("grpc", health, "ok", time.Millisecond) }
	observe()
	if n := testing.AllocsPerRun(100, observe); n != 0 {
		t.Errorf("%v allocations a call", n)
	}
}

func BenchmarkObserve(b *testing.B) {
	m := newMetrics(b)
	for b.Loop() {
		m.Observe("grpc", health, "ok", time.Millisecond)
	}
}
