package approvals_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals"
)

// A clock that is set back by more than the time of an approval ends it: it must not stand for hours
// that nobody granted.
func TestClockSetBack(t *testing.T) {
	w := newWorld(t)
	w.stop()
	var back atomic.Int64
	w.now = func() time.Time { return time.Now().Add(-time.Duration(back.Load())).Round(0) }
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	w.ask(run("allowed", "/bin/true"))
	w.ask(run("open", "/bin/true"))
	w.decide("allowed", approvals.AllowOnce)
	back.Store(int64(time.Minute))
	if n := w.svc.PendingCount(); n != 1 {
		t.Errorf("a minute back: %d are open", n)
	}
	back.Store(int64(3 * time.Hour))
	if n := w.svc.PendingCount(); n != 0 {
		t.Errorf("three hours back: %d are open", n)
	}
	_, err := w.svc.Resolve(context.Background(), ann, approvals.ResolveIn{ID: "open", Decision: approvals.AllowOnce})
	if !errors.Is(err, approvals.ErrUnknown) {
		t.Errorf("decided three hours before it was asked: %v", err)
	}
	params := []byte(`{"command":["/bin/true"],"runId":"allowed","approved":true,"approvalDecision":"allow-once"}`)
	if _, _, err := w.svc.GuardRun(context.Background(), ann, "n1", params); !errors.Is(err, approvals.ErrRunExpired) {
		t.Errorf("used three hours before it was asked: %v", err)
	}
}
