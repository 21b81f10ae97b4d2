package rpc_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/runtime/metrics"
	"github.com/hanzoai/hanzod/system"
)

// The benchmarks measure performance.md P6 over a real local socket, client and server in one
// process: p50 ≤ 80 µs, and ≥ 18,000 a second with 64 calls in flight.

func benchClient(b *testing.B) systemv1.SystemServiceClient {
	b.Helper()
	catalogue, err := ops.Load()
	if err != nil {
		b.Fatal(err)
	}
	d := newDomain()
	d.health = system.Health{At: time.Unix(1, 0), DefaultAgentID: "main", Agents: []system.Agent{{ID: "main", SessionsPath: "/home/user/.hanzo/sessions.json"}}}
	client := systemv1.NewSystemServiceClient(dial(b, newServer(b, d, metrics.New("bench", catalogue, metrics.Gauges{}))))
	if _, err := client.GetHealth(b.Context(), &systemv1.GetHealthRequest{}); err != nil {
		b.Fatal(err)
	}
	return client
}

func BenchmarkHealth(b *testing.B) {
	client := benchClient(b)
	took := make([]time.Duration, 0, 1<<20)
	b.ReportAllocs()
	for b.Loop() {
		begin := time.Now()
		if _, err := client.GetHealth(b.Context(), &systemv1.GetHealthRequest{}); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
}

func BenchmarkHealth64(b *testing.B) {
	client := benchClient(b)
	calls := make(chan struct{}, 64)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range calls {
				if _, err := client.GetHealth(b.Context(), &systemv1.GetHealthRequest{}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for b.Loop() {
		calls <- struct{}{}
	}
	close(calls)
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}
