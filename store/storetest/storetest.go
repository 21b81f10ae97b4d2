// Package storetest opens stores for the tests of other packages. It may import store and is
// imported by tests only; it owns no goroutine.
package storetest

import (
	"context"
	"errors"
	"testing"

	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/store/internal/testhook"
)

// Open returns a store in a directory of its own; see OpenDir.
func Open(tb testing.TB) *store.Store {
	tb.Helper()
	return OpenDir(tb, tb.TempDir())
}

// OpenDir opens the store in a directory, so that a test can close it and open it again. It does
// not sync: it is fast, survives the end of the process, and keeps nothing through a power cut. If
// the store is still open when the test ends, it is checked and closed.
func OpenDir(tb testing.TB, dir string) *store.Store {
	tb.Helper()
	s, err := store.Open(testhook.WithoutSync(context.Background()), dir, store.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Check(context.Background()); err != nil && !errors.Is(err, store.ErrClosed) {
			tb.Errorf("the store at the end of the test: %v", err)
		}
		if err := s.Close(); err != nil {
			tb.Errorf("closing the store: %v", err)
		}
	})
	return s
}
