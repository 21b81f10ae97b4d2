package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/hanzodtest"
)

// The benchmarks run the daemon inside the test, so that -cpuprofile and -memprofile see it. Their
// times include the load; cmd figures come from the program beside them.

func serve(b *testing.B) *hanzodtest.Daemon {
	b.Helper()
	return hanzodtest.Start(b, hanzodtest.Options{})
}

func mustConnect(b *testing.B, d *hanzodtest.Daemon, w who) *socket {
	b.Helper()
	s, err := connect(b.Context(), d.Addr(), d.Token, w)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.close)
	return s
}

// flight keeps 32 requests on the way.
func flight(b *testing.B, s *socket, req *numbered) {
	b.Helper()
	b.ReportAllocs()
	b.ResetTimer()
	sent, got := 0, 0
	for got < b.N {
		for sent < b.N && sent-got < inFlight {
			sent++
			if err := s.write(req.with(uint32(sent))); err != nil {
				b.Fatal(err)
			}
		}
		m, err := s.answer()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := idOf(m); err != nil {
			b.Fatal(err)
		}
		got++
	}
}

func BenchmarkLegacyList(b *testing.B) {
	d := serve(b)
	mustConnect(b, d, benchNode(nearID))
	flight(b, mustConnect(b, d, operator), newNumbered(listFrame))
}

func BenchmarkLegacyHealth(b *testing.B) {
	d := serve(b)
	flight(b, mustConnect(b, d, operator), newNumbered(healthFrame))
}

func BenchmarkLegacyInvoke(b *testing.B) {
	d := serve(b)
	go func() {
		_ = answerInvokes(b.Context(), d.Addr(), d.Token, nearID, func() {})
	}()
	// The node counts as connected when an invoke succeeds.
	s := mustConnect(b, d, operator)
	probe := newNumbered(invokeFrame(nearID, "probe"))
	for n := uint32(1); s.call(probe.with(n)) != nil; n++ {
		if n > 10_000 {
			b.Fatal("the node did not connect")
		}
	}
	flight(b, s, newNumbered(invokeFrame(nearID, "p")))
}

func BenchmarkConnectPlain(b *testing.B) {
	d := serve(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := connectOnce(b.Context(), d.Addr(), d.Token, operator); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkConnectDevice(b *testing.B) {
	d := serve(b)
	keys := make([]ed25519.PrivateKey, b.N)
	for i := range keys {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		keys[i] = k
	}
	b.ReportAllocs()
	b.SetParallelism(connectors / 2)
	b.ResetTimer()
	next := make(chan ed25519.PrivateKey, len(keys))
	for _, k := range keys {
		next <- k
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			w := paired
			w.Key = <-next
			if err := connectOnce(b.Context(), d.Addr(), d.Token, w); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkHeldClients holds 2,000 idle clients while the memory profile is taken: run it with
// -memprofile -memprofilerate 512 and look at inuse_space. The load's own share is in this
// process too; it stands under this package.
func BenchmarkHeldClients(b *testing.B) {
	d := serve(b)
	for b.Loop() {
		for range 2000 {
			s := mustConnect(b, d, operator)
			s.in, s.out = nil, nil
			go func() {
				for {
					if _, err := s.read(); err != nil {
						return
					}
					s.in = nil
				}
			}()
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapInuse)/2000, "heap-B/client")
		b.ReportMetric(float64(m.StackInuse)/2000, "stack-B/client")
	}
	if f, err := os.Create(os.Getenv("HELD_PROFILE")); err == nil {
		defer f.Close()
		if err := pprof.Lookup("heap").WriteTo(f, 0); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkApprovals is the burst of questions to a new daemon: 64 callers, each waiting for the disk. A
// caller has the scope for approvals, so that each of them hears of each question.
func BenchmarkApprovals(b *testing.B) {
	w := operator
	w.Scopes = []string{"operator.read", "operator.write", "operator.approvals"}
	var took time.Duration
	for range b.N {
		b.StopTimer()
		d := serve(b)
		callers := make([]*socket, manyClients)
		for i := range callers {
			callers[i] = mustConnect(b, d, w)
		}
		var wg sync.WaitGroup
		began := time.Now()
		b.StartTimer()
		for i, s := range callers {
			wg.Go(func() {
				req := askFrame(fmt.Sprintf("b%d", i))
				for n := range burst / manyClients {
					if err := s.call(req.with(uint32(n + 1))); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		b.StopTimer()
		took += time.Since(began)
		for _, s := range callers {
			s.close()
		}
		if err := d.Stop(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(burst*float64(b.N)/took.Seconds(), "questions/s")
}
