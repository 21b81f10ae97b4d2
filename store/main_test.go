package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/store/internal/testhook"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(child(dir, os.Getenv(childJob)))
	}
	goleak.VerifyTestMain(m)
}

// start is when stored things begin in these tests.
var start = time.Date(2026, 11, 2, 8, 30, 0, 123456789, time.UTC)

// open opens the store in a directory, without syncs, and closes it at the end.
func open(tb testing.TB, dir string) *Store {
	tb.Helper()
	s, err := Open(testhook.WithoutSync(context.Background()), dir, Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// check demands that the store is in order.
func check(tb testing.TB, s *Store) {
	tb.Helper()
	if err := s.Check(context.Background()); err != nil {
		tb.Errorf("check: %v", err)
	}
}

func wantClass(tb testing.TB, err error, want errs.Class) {
	tb.Helper()
	if err == nil || errs.ClassOf(err) != want {
		tb.Fatalf("error %v of class %v, want class %v", err, errs.ClassOf(err), want)
	}
}

func wantIs(tb testing.TB, err, want error) {
	tb.Helper()
	if !errors.Is(err, want) {
		tb.Fatalf("error %v, want %v", err, want)
	}
}

// edit changes the database of a closed store behind its back.
func edit(tb testing.TB, dir string, fn func(*bolt.Tx) error) {
	tb.Helper()
	db, err := bolt.Open(filepath.Join(dir, fileName), 0o600, boltOptions(true))
	if err != nil {
		tb.Fatal(err)
	}
	if err := errors.Join(db.Update(fn), db.Close()); err != nil {
		tb.Fatal(err)
	}
}

func ptr[T any](v T) *T { return &v }
