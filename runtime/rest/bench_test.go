package rest_test

import (
	"io"
	"slices"
	"testing"
	"time"
)

// BenchmarkHealth measures performance.md P7 over a real port, client and server in one process:
// p50 ≤ 150 µs.
func BenchmarkHealth(b *testing.B) {
	h := start(b, nil)
	r := h.request(b, "GET", "/v1/health", "", as(reader))
	took := make([]time.Duration, 0, 1<<20)
	b.ReportAllocs()
	for b.Loop() {
		begin := time.Now()
		resp, err := h.client.Do(r)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
			b.Fatal(resp.StatusCode, err)
		}
		if err := resp.Body.Close(); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
}

// BenchmarkProbe is the floor: the same port without gateway and gRPC door.
func BenchmarkProbe(b *testing.B) {
	h := start(b, nil)
	r := h.request(b, "GET", "/health", "")
	b.ReportAllocs()
	for b.Loop() {
		resp, err := h.client.Do(r)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			b.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
