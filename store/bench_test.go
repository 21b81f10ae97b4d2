package store

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/approvals"
)

// The benchmarks sync, as the daemon does. BenchmarkFloor is what they are judged by: it measures
// bbolt itself in the same run.

func openSynced(b *testing.B) *Store {
	b.Helper()
	s, err := Open(context.Background(), b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

// callers runs b.N times fn in so many goroutines and reports the rate.
func callers(b *testing.B, n int, fn func(i int) error) {
	b.ReportAllocs()
	b.ResetTimer()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					return
				}
				if err := fn(int(i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

func BenchmarkFloor(b *testing.B) {
	db, err := bolt.Open(filepath.Join(b.TempDir(), "floor.db"), 0o600, boltOptions(false))
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	name, value := []byte("b"), make([]byte, 300)
	if err := db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket(name); return err }); err != nil {
		b.Fatal(err)
	}
	callers(b, 1, func(i int) error {
		return db.Update(func(tx *bolt.Tx) error {
			return tx.Bucket(name).Put(seqKey(uint64(i)), value)
		})
	})
}

func benchPut(b *testing.B, n int) {
	s, value := openSynced(b), make([]byte, 300)
	callers(b, n, func(i int) error {
		return s.w.do(context.Background(), func(t *txn) error {
			return t.put(bucketNodeNames, seqKey(uint64(i)), value)
		})
	})
}

func BenchmarkPut1(b *testing.B)   { benchPut(b, 1) }
func BenchmarkPut64(b *testing.B)  { benchPut(b, 64) }
func BenchmarkPut512(b *testing.B) { benchPut(b, 512) }

// benchCreate makes approvals: record, two indexes and audit row.
func benchCreate(b *testing.B, n int) {
	s := openSynced(b)
	callers(b, n, func(i int) error {
		a := schema1Approval()
		a.ID = fmt.Sprintf("%08x-%d", uint32(i)*2654435761, i)
		return s.CreateApproval(context.Background(), a, row("request", a.ID))
	})
}

func BenchmarkCreate1(b *testing.B)  { benchCreate(b, 1) }
func BenchmarkCreate64(b *testing.B) { benchCreate(b, 64) }

// benchDecide makes approvals and answers each: two commits for a lone caller.
func benchDecide(b *testing.B, n int) {
	s := openSynced(b)
	change := decide(approvals.Allowed, approvals.AllowOnce, start)
	callers(b, n, func(i int) error {
		a := schema1Approval()
		a.ID = fmt.Sprintf("%08x-%d", uint32(i)*2654435761, i)
		if err := s.CreateApproval(context.Background(), a, row("request", a.ID)); err != nil {
			return err
		}
		_, err := s.UpdateApproval(context.Background(), a.ID, change)
		return err
	})
}

func BenchmarkCreateAndDecide1(b *testing.B)  { benchDecide(b, 1) }
func BenchmarkCreateAndDecide64(b *testing.B) { benchDecide(b, 64) }

func BenchmarkRead(b *testing.B) {
	s := open(b, b.TempDir())
	create(b, s, schema1Approval())
	callers(b, 1, func(int) error {
		_, err := s.Approval("first")
		return err
	})
}

// BenchmarkOpen opens a store of 10,000 approvals and 10,000 devices.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	s := open(b, dir)
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < 10_000; i += 64 {
				a := schema1Approval()
				a.ID = fmt.Sprintf("%08x-%d", uint32(i)*2654435761, i)
				if err := s.CreateApproval(context.Background(), a, row("request", a.ID)); err != nil {
					b.Error(err)
				}
				if err := s.w.do(context.Background(), func(t *txn) error {
					v, err := encodeDevice(schema1Device())
					if err != nil {
						return err
					}
					return t.put(bucketDevices, fmt.Appendf(nil, "%064x", i), v)
				}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s.Close()
	for b.Loop() {
		s, err := Open(context.Background(), dir, Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		s.Close()
		b.StartTimer()
	}
}
