package store

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/sessions"
)

// BenchmarkTranscriptAppend is 64 producers that append messages to transcripts of their own, each message on
// disk before the next (P12).
func BenchmarkTranscriptAppend(b *testing.B) {
	s, err := Open(b.Context(), b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	line := fmt.Appendf(nil, `{"type":"message","id":"0123abcd","parentId":"89abcdef","timestamp":"2026-01-02T03:04:05.678Z","message":{"role":"user","content":"%s","timestamp":1767323045678}}`, "some words that somebody wrote to an agent, not many")
	const producers = 64
	b.ResetTimer()
	began := time.Now()
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			f := sessions.File{AgentID: "main", Name: fmt.Sprintf("session-%d.jsonl", p)}
			for range b.N/producers + 1 {
				if err := s.Transcripts().Append(b.Context(), f, line); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "appends/s")
}
