package approvals_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/store"
)

// durable is the service on a store that syncs.
func durable(b *testing.B) *approvals.Service {
	dir := b.TempDir()
	st, err := store.Open(b.Context(), dir, store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = st.Close() })
	svc, err := approvals.New(approvals.Config{
		Store: st, Bus: events.New(time.Now), Now: time.Now, Log: slog.New(slog.DiscardHandler),
		File: policy.Open(filepath.Join(dir, "f.json"), policy.Options{HomeDir: dir}),
	})
	if err != nil {
		b.Fatal(err)
	}
	return svc
}

// BenchmarkRequest is a question and its answer, both on disk, by 64 callers at once.
func BenchmarkRequest(b *testing.B) {
	svc := durable(b)
	b.SetParallelism(32)
	b.ReportAllocs()
	var n atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			id := fmt.Sprint(n.Add(1))
			if _, err := svc.Request(context.Background(), ann, question(id, nil)); err != nil {
				b.Error(err)
				return
			}
			if _, err := svc.Resolve(context.Background(), boss, approvals.ResolveIn{ID: id, Decision: approvals.Deny}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkUnclaimed is a run that a grant lets go out, on disk before it does.
func BenchmarkUnclaimed(b *testing.B) {
	svc := durable(b)
	if _, err := svc.CreateGrant(b.Context(), boss, approvals.CreateGrantIn{
		NodeID: "n1", Argv: echo, Cwd: ptr("/srv"), Always: true, AnyRequester: true,
	}); err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, _, err := svc.GuardRun(context.Background(), ann, "n1", []byte(plainRun)); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
